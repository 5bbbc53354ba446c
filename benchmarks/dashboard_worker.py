"""SAEDashboard on tokens of a collection, in an environment of its own (it needs transformers 4).

    pip install "sae-dashboard==0.8.0" "pyarrow<22" "pandas<3"                        in that environment
    python benchmarks/dashboard_worker.py MODEL_FOLDER SAE_FOLDER COLLECTION --shards 1 --features 512 -o dashboard.html

Makes the page of the first `--features` features of an SAE over the tokens of a collection of `sae-lens-med collect`,
cut into rows of 256, and prints CPU seconds (loading left out) and megabytes as JSON. What `sae-lens-med` takes for the
same is `time sae-lens-med collect ...` and `time sae-lens-med index STUDY --neighbours --logits`, for all features.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

ROW = 256


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("model", type=Path, help="folder of a Gemma 3 270M in transformers' form")
    made.add_argument("sae", type=Path, help="folder of an SAE of SAELens")
    made.add_argument("collection", type=Path)
    made.add_argument("--name", default="google/gemma-3-270m", help="TransformerLens' name of the model")
    made.add_argument("--shards", type=int, default=1, help="of the collection (1)")
    made.add_argument("--features", type=int, default=512)
    made.add_argument("--output", "-o", type=Path, required=True)
    options = made.parse_args()

    from sae_dashboard.data_writing_fns import save_feature_centric_vis  # type: ignore[import-not-found]  # as below
    from sae_dashboard.sae_vis_data import SaeVisConfig  # type: ignore[import-not-found]  # as below
    from sae_dashboard.sae_vis_runner import SaeVisRunner  # type: ignore[import-not-found]  # as below
    from sae_lens import SAE, HookedSAETransformer  # type: ignore[attr-defined]  # only in the other environment
    from transformers import AutoModelForCausalLM, AutoTokenizer

    files = sorted(options.collection.glob("shard-*.safetensors"))[: options.shards]
    ids = np.concatenate([load_file(file)["token_id"] for file in files])
    rows = len(ids) // ROW
    tokens = torch.tensor(ids[: rows * ROW].reshape(rows, ROW), dtype=torch.long)
    hf: Any = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    model: Any = HookedSAETransformer.from_pretrained_no_processing(
        options.name, hf_model=hf, tokenizer=AutoTokenizer.from_pretrained(options.model), device="cpu"
    )
    sae: Any = SAE.load_from_disk(options.sae)
    config = SaeVisConfig(
        hook_point=sae.cfg.metadata.hook_name,
        features=list(range(options.features)),
        minibatch_size_features=256,
        minibatch_size_tokens=16,
        device="cpu",
    )
    begin, used = time.perf_counter(), cpu_seconds()
    data = SaeVisRunner(config).run(encoder=sae, model=model, tokens=tokens)
    data.model = model
    save_feature_centric_vis(data, options.output)
    found = {
        "features": options.features,
        "tokens": int(tokens.numel()),
        "s": time.perf_counter() - begin,
        "cpu_s": cpu_seconds() - used,
        "mb": options.output.stat().st_size / 1e6,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
