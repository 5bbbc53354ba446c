"""Several gloo processes give what one gives; a process that dies ends the job with a sentence, and nothing is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from sae_lens_med.features.collect import collect
from sae_lens_med.features.store import load_features
from sae_lens_med.models.bridge import MedBridge, load_model
from sae_lens_med.saes.releases import load_folder
from sae_lens_med.study.report import REPORTS
from sae_lens_med.training import run
from sae_lens_med.training.recipe import load_recipe
from sae_lens_med.training.resample import resample_dead
from tests import distributed_job as job
from tests.tiny import save_tiny_model, tiny_model

REPOSITORY = Path(__file__).parents[2]
STEPS = 100
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform != "linux", reason="torchrun's processes are read from /proc"
)


def torchrun(n: int, *arguments: str) -> "subprocess.Popen[str]":
    return started("torch.distributed.run", "--standalone", "--nproc-per-node", str(n), *arguments)


def started(*module: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", *module],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def model() -> Iterator[MedBridge]:
    """Run in this process with one thread, as torchrun's processes are: where bytes are compared, sums must be too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tiny_model("gemma3")
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one(model: MedBridge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all jobs, with the results of one process."""
    folder = tmp_path_factory.mktemp("jobs")
    job.prepare(folder)
    job.train(folder, "run-1", model)
    job.read(folder, "1", model)
    return folder


@pytest.fixture(scope="module")
def several(one: Path) -> Path:
    """The same folder, with the results of two processes and of three."""
    process = torchrun(3, "-m", "tests.distributed_job", str(one))
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    return one


def curve(folder: Path) -> list[dict[str, float]]:
    points: list[dict[str, float]] = json.loads((folder / "curve.json").read_text(encoding="utf-8"))
    return points


def assert_same_run(got: Path, want: Path) -> None:
    """The same curve at every point, weights, and statistics, up to the rounding of sums."""
    assert [p["step"] for p in curve(got)] == [p["step"] for p in curve(want)]
    for mine, its in zip(curve(got), curve(want), strict=True):
        for key in its:
            assert mine[key] == pytest.approx(its[key], rel=1e-4, abs=1e-6), (key, its["step"])
    for name in ("sae_weights.safetensors", "sparsity.safetensors"):
        mine, its = load_file(got / name), load_file(want / name)
        assert mine.keys() == its.keys()
        for key in its:
            np.testing.assert_allclose(mine[key], its[key], rtol=1e-3, atol=1e-4, err_msg=key)
    mine, its = (json.loads((f / "metrics.json").read_text(encoding="utf-8")) for f in (got, want))
    assert (mine["steps"], mine["tokens"]) == (its["steps"], its["tokens"]) == (STEPS, STEPS * 100)
    assert mine["heldout"] == pytest.approx(its["heldout"], rel=1e-3)
    mine, its = (json.loads((f / "cfg.json").read_text(encoding="utf-8"))["metadata"] for f in (got, want))
    assert mine["l0"] == pytest.approx(its["l0"], rel=1e-4)
    assert mine["num_dead_features"] == its["num_dead_features"]


def told(folder: Path, name: str, rank: int) -> tuple[str, str]:
    kind, message = json.loads((folder / f"{name}.rank{rank}.json").read_text(encoding="utf-8"))
    return kind, message


def test_processes_begin_with_the_weights_of_rank_0(several: Path) -> None:
    first, second = json.loads((several / "parts.json").read_text(encoding="utf-8"))
    assert first["before"] != second["before"]
    assert first["after"] == second["after"] == first["before"]


def test_the_first_goes_before_the_others(several: Path) -> None:
    first, second = (part["times"] for part in json.loads((several / "parts.json").read_text(encoding="utf-8")))
    assert first[1] - first[0] >= 0.3 and second[0] >= first[1]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (
            "small",
            "ConfigError",
            "train_batch_size_tokens is 1, the batch of all processes together; it must be",
        ),
        ("drift", "DistributedError", "1 of the SAE's parameters got no gradient, .* train this architecture in one"),
        ("own-gpu", "ConfigError", "2 processes cannot share cuda:0; use the device cuda, so that each takes its own"),
        ("no-gpu", "ConfigError", r"rank \d cannot find GPU \d: .*start as many processes per machine as it has GPUs"),
    ],
)
def test_what_processes_cannot_do_together_is_told_by_each(several: Path, name: str, kind: str, message: str) -> None:
    if name == "no-gpu" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    for rank in range(2):
        got_kind, got_message = told(several, name, rank)
        assert got_kind == kind and re.search(message, got_message), got_message


def test_two_processes_train_as_one(several: Path) -> None:
    assert_same_run(several / "run-2", several / "run-1")


def test_three_processes_with_unequal_parts_and_different_paths_train_as_one(several: Path) -> None:
    assert_same_run(several / "run-3", several / "run-1")


def test_dead_features_are_resampled_by_two_as_by_one(
    several: Path, model: MedBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_resampled = []

    def counted(*arguments: Any, **options: Any) -> int:
        n_resampled.append(resample_dead(*arguments, **options))
        return n_resampled[-1]

    monkeypatch.setattr(run, "resample_dead", counted)
    want = curve(job.train(several, "resampled-1", model, job.RESAMPLING))
    assert sum(n_resampled) > 50
    for mine, its in zip(curve(several / "resampled-2"), want, strict=True):
        assert mine == pytest.approx(its, rel=1e-4, abs=1e-6)


def test_a_signal_to_one_process_stops_all_at_one_step(several: Path) -> None:
    assert [json.loads((several / f"stopped.rank{rank}.json").read_text())[0] for rank in (0, 1)] == [
        "KeyboardInterrupt",
        "KeyboardInterrupt",
    ]
    [checkpoint] = (several / "run-stopped" / "checkpoints").glob("step-*")
    assert checkpoint.name == f"step-{job.STOP_AT + 1:09d}"


def test_a_checkpoint_of_two_goes_on_with_three(several: Path) -> None:
    assert_same_run(several / "run-resumed-3", several / "run-1")


def test_a_checkpoint_of_two_goes_on_with_one(several: Path, model: MedBridge) -> None:
    assert_same_run(job.train(several, "run-resumed-1", model, resume=True), several / "run-1")


def test_evaluation_by_two_is_that_of_one(several: Path) -> None:
    got, want = (several / f"evaluation-{n}" for n in "21")
    assert sorted(p.name for p in got.iterdir()) == sorted(p.name for p in want.iterdir())
    assert (got / "items.jsonl").read_bytes() == (want / "items.jsonl").read_bytes()
    mine, its = (json.loads((f / "summary.json").read_text(encoding="utf-8")) for f in (got, want))
    assert mine["metrics"] == its["metrics"]


def test_a_study_by_two_is_that_of_one(several: Path) -> None:
    got, want = (several / f"study-{n}" for n in "21")
    names = sorted(str(p.relative_to(want)) for p in want.rglob("*") if p.is_file())
    assert sorted(str(p.relative_to(got)) for p in got.rglob("*") if p.is_file()) == names
    timed = ("manifest.json", "alignment/manifest.json", *REPORTS)
    for name in names:
        if name not in timed:
            assert (got / name).read_bytes() == (want / name).read_bytes(), name
    assert len([name for name in names if name.startswith("features/shard-")]) == 8
    mine, its = (json.loads((f / "manifest.json").read_text(encoding="utf-8")) for f in (got, want))
    assert list(mine["stages"]) == list(its["stages"])
    assert mine["notes"] == its["notes"]
    mine, its = (json.loads((f / "alignment/manifest.json").read_text(encoding="utf-8")) for f in (got, want))
    assert mine["metrics"] and list(mine["metrics"]) == list(its["metrics"])
    for name, metric in mine["metrics"].items():
        when = {key: its["metrics"][name][key] for key in ("done", "seconds")}
        assert metric | when == its["metrics"][name]


def test_an_error_in_one_process_is_told_by_the_others_and_loses_nothing(several: Path, model: MedBridge) -> None:
    kinds, messages = zip(
        *(json.loads((several / f"broken.rank{rank}.json").read_text(encoding="utf-8")) for rank in range(3)),
        strict=True,
    )
    assert kinds == ("DistributedError", "DistributedError", "ConfigError")
    for message in messages[:2]:
        assert message.startswith("rank 2 of 3 ended (there is no space left in the folder.)")
    output = several / "features-broken"
    with job.small_shards():
        collect(
            model,
            load_folder(several / "sae"),
            job.items().items,
            output=output,
            batch_tokens=job.BATCH_TOKENS,
            progress=False,
        )
    load_features(output)
    want = several / "study-1" / "features"
    assert {p.name: p.read_bytes() for p in output.iterdir()} == {p.name: p.read_bytes() for p in want.iterdir()}


def process_of_rank(launcher: int, rank: int) -> int:
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text(encoding="utf-8").split():
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text(encoding="utf-8").split("\0"):
            return int(child)
    raise AssertionError(f"no process of rank {rank}")


def wait_for(condition: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def test_a_killed_process_ends_the_job_and_the_last_checkpoint_goes_on(one: Path, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "gemma3")
    settings = [f"data.folder={one}", f"model.name={folder}", "training_tokens=75000", "n_checkpoints=14"]
    output, acts = tmp_path / "out", tmp_path / "acts"
    options = [part for value in settings for part in ("--set", value)]
    paths = ["--output", str(output), "--activations", str(acts)]
    process = torchrun(3, "-m", "sae_lens_med", "train", "tiny", *options, *paths)
    try:
        wait_for(lambda: list((output / "checkpoints").glob("step-*")) or process.poll() is not None, 240)
        os.kill(process_of_rank(process.pid, 2), signal.SIGKILL)
        begun = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - begun < 40
    finally:
        process.kill()
    assert process.returncode != 0
    said = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(said) == 1, errors
    assert "rank 2 of 3 ended without a word (killed" in said[0]
    assert "with --resume" in said[0]
    [checkpoint] = (output / "checkpoints").glob("step-*")
    before = json.loads((checkpoint / "curve.json").read_text(encoding="utf-8"))
    resumed = run.train(load_recipe("tiny", settings), load_model(folder), output, activations=acts, resume=True)
    assert resumed.steps == 75000 // 64
    assert curve(output)[: len(before)] == before
    assert [point["step"] for point in curve(output)][:-1] == list(range(10, resumed.steps, 10))


def test_a_process_that_the_launcher_stops_says_which_one_died(tmp_path: Path) -> None:
    process = torchrun(2, "-m", "tests.distributed_ranks", str(tmp_path), "left-alone")
    try:
        process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode != 0
    kind, message = told(tmp_path, "left-alone", 0)
    assert kind == "DistributedError" and message.startswith("rank 1 of 2 ended without a word (killed"), message


def test_accelerate_launch_starts_processes_as_torchrun_does(tmp_path: Path) -> None:
    how = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    job_of_two = ["-m", "tests.distributed_ranks", str(tmp_path), "ranks"]
    process = started("accelerate.commands.launch", *how, "--main_process_port=0", *job_of_two)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    found = json.loads((tmp_path / "ranks.json").read_text(encoding="utf-8"))
    assert found == [[[0, 2, 0], [1, 2, 1]], [["환자", "x" * 100]] * 2]


def test_the_module_is_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sae_lens_med", "--version"], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout.count(".") == 2
