"""What `test_distributed.py` runs in several processes: `torchrun --nproc-per-node 3 -m tests.distributed_job FOLDER`.

The jobs are functions of a folder, so that the test runs the same ones in one process.
"""

import importlib
import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sae_lens_med import distributed
from sae_lens_med.data import LoadedItems, load_items
from sae_lens_med.errors import ConfigError
from sae_lens_med.evaluation.run import evaluate
from sae_lens_med.features.collect import collect
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.saes import sparse_step
from sae_lens_med.saes.releases import LoadedSae, load_folder
from sae_lens_med.saes.tied_l1 import TiedL1TrainingSAE, TiedL1TrainingSAEConfig
from sae_lens_med.study.run import run_study
from sae_lens_med.training import run
from sae_lens_med.training.parallel import ParallelTrainer
from sae_lens_med.training.recipe import Recipe, load_recipe
from tests.distributed_ranks import noted
from tests.tiny import save_tiny_sae, tiny_model, tiny_sae, tiny_trainer

# `features` has a function of the module's name.
collect_module: Any = importlib.import_module("sae_lens_med.features.collect")
BATCH_TOKENS = 700
STOP_AT = 37
"""The step in which rank 1 of 2 gets a signal."""
RESAMPLING = (
    *("sae.dtype=float64", "sae.d_sae=512", "lr=0.01", "sae.l1_coefficient=6", "sae.l1_warm_up_steps=3"),
    *(
        "training_tokens=15000",
        "resample_dead.every=25",
        "resample_dead.dead_steps=10",
        "resample_dead.rows=500",
        "resample_dead.until=1.0",
    ),
)
"""So harsh that hundreds of features die; in float64, because a rounding decides whether a feature fires."""


def prepare(folder: Path) -> None:
    """What the jobs read: text and an SAE."""
    rows = [
        {"id": f"t{i}", "text": f"환자 {i}번은 발열로 병원에 왔다. The patient has fever {i} and chest pain. " * 2}
        for i in range(60)
    ]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "text.jsonl").write_text(text, encoding="utf-8")
    sae = tiny_sae(tiny_model("gemma3"), d_sae=512)
    with torch.no_grad():
        sae.b_enc.sub_(3.0)  # few features per token
    save_tiny_sae(folder / "sae", sae)


def recipe(folder: Path, overrides: Sequence[str] = ()) -> Recipe:
    """100 rows a step: three processes take 34, 33 and 33."""
    given = [f"data.folder={folder}", "model.name=tiny", "train_batch_size_tokens=100", "training_tokens=10000"]
    return load_recipe("tiny", [*given, *overrides])


def train(folder: Path, name: str, model: MedBridge, overrides: Sequence[str] = (), **options: Any) -> Path:
    done = run.train(recipe(folder, overrides), model, folder / name, activations=folder / "acts", **options)
    return done.folder


def read(folder: Path, name: str, model: MedBridge) -> None:
    """Evaluation and study, in shards of 4 items."""
    data, sae = items(), load_folder(folder / "sae")
    with small_shards():
        evaluate(model, data, output=folder / f"evaluation-{name}", batch_tokens=BATCH_TOKENS, permutations=20)
        run_study(model, sae, data, folder / f"study-{name}", batch_tokens=BATCH_TOKENS, permutations=20)


def items() -> LoadedItems:
    """14 of 4 subjects, so that explanations can be exchanged; four shards, the last one of two items."""
    sample = load_items("sample", limit=14)
    chosen = [replace(item, subject=f"subject {i % 4}") for i, item in enumerate(sample.items)]
    return replace(sample, items=chosen, sha256=json_sha256([item.to_dict() for item in chosen]))


@contextmanager
def small_shards() -> Iterator[None]:
    before = collect_module.SHARD_ITEMS, collect_module.CALIBRATION_ITEMS
    collect_module.SHARD_ITEMS, collect_module.CALIBRATION_ITEMS = 4, 3
    try:
        yield
    finally:
        collect_module.SHARD_ITEMS, collect_module.CALIBRATION_ITEMS = before


def collect_with_a_failure(folder: Path, model: MedBridge, sae: LoadedSae) -> None:
    """Rank 2 has no room for its shard."""
    write = collect_module.write_apart

    def full(output: Path, index: int, *rest: Any) -> None:
        if index == 2:
            raise ConfigError("there is no space left in the folder.")
        write(output, index, *rest)

    collect_module.write_apart = full
    try:
        with small_shards():
            collect(model, sae, items().items, output=folder / "features-broken", batch_tokens=BATCH_TOKENS)
    finally:
        collect_module.write_apart = write


def parts(folder: Path, model: MedBridge) -> None:
    """What keeps processes together, each by itself."""
    with noted(folder, "small"):
        train(folder, "run-small", model, ["train_batch_size_tokens=1", "training_tokens=1"])
    with distributed.initialised() as me:
        torch.manual_seed(me.rank)
        sae = TiedL1TrainingSAE(TiedL1TrainingSAEConfig(d_in=8, d_sae=16, device="cpu"))
        before = sae.E.sum().item()
        tiny_trainer(sae, 8, trainer_class=ParallelTrainer)
        after = sae.E.sum().item()
        with distributed.first_before_the_others():
            times = [time.monotonic()]
            time.sleep(0.3 if me.first else 0.0)
            times.append(time.monotonic())
        found = distributed.gather_objects({"before": before, "after": after, "times": times})
        if me.first:
            (folder / "parts.json").write_text(json.dumps(found), encoding="utf-8")
        with noted(folder, "drift"):
            sae.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))
            tiny_trainer(sae, 8, trainer_class=ParallelTrainer).step(torch.randn(4, 8))
        with noted(folder, "own-gpu"):
            distributed.local_device("cuda:0")
        with noted(folder, "no-gpu"):
            distributed.local_device("cuda")


def two(folder: Path, model: MedBridge) -> None:
    parts(folder, model)
    train(folder, "run-2", model)
    train(folder, "resampled-2", model, RESAMPLING)
    step = run.ParallelTrainer.step

    def stopped(self: Any, batch: torch.Tensor) -> Any:
        if self.n_training_steps == STOP_AT and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    run.ParallelTrainer.step = stopped  # type: ignore[method-assign]
    with noted(folder, "stopped"):
        train(folder, "run-stopped", model)
    run.ParallelTrainer.step = step  # type: ignore[method-assign]
    read(folder, "2", model)


def three(folder: Path, model: MedBridge) -> None:
    if os.environ["RANK"] == "1":  # the others stay dense: the paths may differ between processes
        sparse_step.SPARSE_BELOW = sparse_step.DENSE_ABOVE = 2.0
    train(folder, "run-3", model)
    train(folder, "run-resumed-3", model, resume=True)
    with noted(folder, "broken"):
        collect_with_a_failure(folder, model, load_folder(folder / "sae"))


if __name__ == "__main__":
    assert not distributed.ranks().rank
    where, model = Path(sys.argv[1]), tiny_model("gemma3")
    # The processes take longer to start than to do their jobs: two of the three do the first one, as if there were no
    # third; it waits for them to begin the second.
    if os.environ["RANK"] != "2":
        os.environ["WORLD_SIZE"] = "2"
        two(where, model)
        os.environ["WORLD_SIZE"] = "3"
    if os.environ["RANK"] == "0":
        for n in (1, 3):
            shutil.copytree(where / "run-stopped", where / f"run-resumed-{n}")
    distributed.__dict__["_number"] = itertools.count(100)  # the third has not counted the first job's blocks
    three(where, model)
