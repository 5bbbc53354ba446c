"""A small release on disk, made the way real ones are: two SAEs of 16 features, listed in a YAML file beside them."""

from pathlib import Path

import torch
import yaml
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from safetensors.torch import save_file

from sae_lens_med.runs.files import write_json, write_text
from sae_lens_med.saes.listing import Releases
from sae_lens_med.saes.publish import package_release

NAME = "tiny-res"
IDS = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
CARD = "---\nlibrary_name: saelens\n---\n# A tiny release\n"


def trained_folder(folder: Path, hook_name: str = IDS[0], d_in: int = 8, seed: int = 0) -> Path:
    """What training leaves, with numbers that bf16 cannot hold."""
    torch.manual_seed(seed)
    metadata = SAEMetadata(model_name="tiny", hook_name=hook_name, dataset_path="/home/someone/text/train.jsonl")
    sae = StandardSAE(StandardSAEConfig(d_in=d_in, d_sae=16, metadata=metadata))
    sae.b_dec.data = 1000 + torch.randn(d_in)
    sae.b_enc.data = torch.randn(16)
    sae.save_model(folder)
    save_file({"sparsity": torch.linspace(-3, 0, 16)}, folder / "sparsity.safetensors")
    write_json(folder / "runner_cfg.json", {"output_path": "/home/someone/runs/1", "lr": 1e-3})
    write_json(folder / "metrics.json", {"heldout": {"l0": 4.0, "explained_variance": 0.75}})
    return folder


def listing(path: Path, name: str = NAME) -> Path:
    """The YAML list with one release."""
    saes = [{"id": i, "path": i, "l0": 4.0, "variance_explained": 0.75, "neuronpedia": None} for i in IDS]
    entry = {"conversion_func": None, "model": "tiny", "repo_id": "someone/tiny-res", "saes": saes}
    write_text(path, yaml.safe_dump({name: entry}))
    return path


def make_release(root: Path) -> Releases:
    """A packaged release under `root`."""
    releases = Releases(listing=listing(root / "releases.yaml"), weights=root / "weights")
    package_release(
        {sae_id: trained_folder(root / "trained" / sae_id, sae_id, seed=seed) for seed, sae_id in enumerate(IDS)},
        NAME,
        target=releases.weights,
        card=CARD,
        left_out_ids=["b", "a"],
        recipes={sae_id: {"data": {"folder": "../somewhere/data"}} for sae_id in IDS},
    )
    return releases
