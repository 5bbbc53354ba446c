"""`tied_l1` through stock SAELens: both runners train it, what they write loads without this package, it resumes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sae_lens import (
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
    SAETrainer,
    StandardTrainingSAEConfig,
)
from sae_lens.multi_sae_training_runner import MultiSAETrainingRunner, MultiSAETrainingRunnerConfig
from sae_lens.saes.sae import TrainingSAE
from safetensors.torch import load_file, save_file

from sae_lens_med.models.bridge import MedBridge, residuals
from sae_lens_med.saes.tied_l1 import TiedL1TrainingSAE, TiedL1TrainingSAEConfig
from tests.tiny import HIDDEN, tiny_model

HOOK = "blocks.1.hook_resid_post"
STEPS, BATCH = 12, 64
REPO = "someone/tiny-tied"
COMMIT = "0123456789" * 4

pytestmark = [
    pytest.mark.filterwarnings("ignore:Dataset is not tokenized"),
    pytest.mark.filterwarnings("ignore:The training dataset contains fewer samples"),
    pytest.mark.filterwarnings("ignore:All samples in the training dataset have been exhausted"),
]


@pytest.fixture(scope="module")
def model() -> MedBridge:
    return tiny_model("qwen3")


@pytest.fixture(autouse=True)
def signal_handlers_come_back() -> Iterator[None]:
    """SAELens' runners install their own."""
    kept = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def texts() -> Dataset:
    return Dataset.from_dict(
        {"text": [f"환자 {i}번은 발열과 기침으로 병원에 왔다. The patient has fever {i}." * 3 for i in range(24)]}
    )


def tied(**settings: Any) -> TiedL1TrainingSAEConfig:
    return TiedL1TrainingSAEConfig(
        d_in=HIDDEN,
        d_sae=48,
        l1_coefficient=0.5,
        l1_warm_up_steps=4,
        center="mean",
        center_batches=3,
        normalize_activations="expected_average_only_in",
        **settings,
    )


SHARED: dict[str, Any] = {
    "model_name": "tiny-qwen3-0",
    "model_class_name": "TransformerBridge",
    "context_size": 16,
    "prepend_bos": False,  # Qwen has none, and SAELens would put the end of text there
    "sequence_separator_token": None,
    "store_batch_size_prompts": 4,
    "n_batches_in_buffer": 16,  # 16 contexts = 256 tokens: at least two training batches
    "train_batch_size_tokens": BATCH,
    "training_tokens": STEPS * BATCH,
    "n_batches_for_norm_estimate": 2,
    "lr": 1e-2,
    "seed": 0,
}


def runner_config(folder: Path, **settings: Any) -> LanguageModelSAERunnerConfig[Any]:
    fields: dict[str, Any] = SHARED | {
        "sae": tied(),
        "hook_name": HOOK,
        "is_dataset_tokenized": False,
        "logger": LoggingConfig(log_to_wandb=False),
        "output_path": str(folder / "out"),
        "checkpoint_path": str(folder / "checkpoints"),
        "n_checkpoints": 1,
        "verbose": False,
    }
    return LanguageModelSAERunnerConfig(**fields | settings)


def checkpoint_in(folder: Path) -> Path:
    [trainer_state] = (folder / "checkpoints").glob("*/*/trainer_state.pt")
    return trainer_state.parent


@pytest.fixture(scope="module")
def stock(model: MedBridge, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingSAE[Any]]:
    """A folder with a run of the stock runner, and the SAE in memory."""
    folder = tmp_path_factory.mktemp("stock")
    kept = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    runner = LanguageModelSAETrainingRunner(
        runner_config(folder),
        override_dataset=texts(),
        override_model=model,  # type: ignore[arg-type]
    )
    sae = runner.run()
    for number, handler in kept.items():
        signal.signal(number, handler)
    return folder, sae


@pytest.fixture(scope="module")
def several(model: MedBridge, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, TrainingSAE[Any]]]:
    """A folder with a run of the multi-SAE runner: two `tied_l1` at two layers, beside SAELens' `standard`."""
    folder = tmp_path_factory.mktemp("several")
    kept = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    config = MultiSAETrainingRunnerConfig(
        saes={"early": tied(), "late": tied(), "standard": StandardTrainingSAEConfig(d_in=HIDDEN, d_sae=48)},
        hook_names={"early": "blocks.0.hook_resid_post", "late": HOOK, "standard": HOOK},
        logger=LoggingConfig(log_to_wandb=False),
        output_path=str(folder / "out"),
        checkpoint_path=None,
        **SHARED,
    )
    saes = MultiSAETrainingRunner(config, override_dataset=texts(), override_model=model).run()  # type: ignore[arg-type]
    for number, handler in kept.items():
        signal.signal(number, handler)
    return folder, saes


def test_the_stock_runner_trains_it(stock: tuple[Path, TrainingSAE[Any]], model: MedBridge) -> None:
    folder, sae = stock
    assert isinstance(sae, TiedL1TrainingSAE)
    names = {p.name for p in (folder / "out").iterdir()}
    assert names == {"cfg.json", "sae_weights.safetensors", "sparsity.safetensors", "runner_cfg.json"}
    assert sae.cfg.normalize_activations == "none"
    assert sae.act_scale != 1
    assert sae.centered_batches == 3
    ids = [t for text in texts()["text"] for t in model.text_tokenizer(text).input_ids]
    x = torch.cat(residuals(model, [ids[i : i + 16] for i in range(0, 800, 16)], HOOK))
    # the centre is near the activations' mean, and the reconstruction is better than that mean alone
    assert (x.mean(0) - sae.b_dec).norm() < 0.5 * x.std(0).norm()
    assert (x - sae(x)).pow(2).sum() < (x - x.mean(0)).pow(2).sum()


def test_the_multi_runner_trains_it(several: tuple[Path, dict[str, TrainingSAE[Any]]]) -> None:
    _, saes = several
    assert isinstance(saes["early"], TiedL1TrainingSAE) and isinstance(saes["late"], TiedL1TrainingSAE)
    assert not torch.allclose(saes["early"].b_dec, saes["late"].b_dec)
    assert saes["late"].cfg.metadata.hook_name == HOOK


WITHOUT_THE_PACKAGE = """
import json, sys
from importlib.abc import MetaPathFinder
from pathlib import Path

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "sae_lens_med":
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
from sae_lens import SAE, TrainingSAE
from safetensors.torch import load_file, save_file

work, checkpoint, repo, *folders = sys.argv[1:]
x = load_file(Path(work) / "x.safetensors")["x"]
saes = {Path(f).name: SAE.load_from_disk(f) for f in folders}
saes["folded"] = SAE.load_from_disk(folders[0], fold_W_dec_norm=True)
saes["hub"] = SAE.from_pretrained(repo, "layer-1")
try:
    TrainingSAE.load_from_disk(checkpoint)
    refused = "nothing"
except KeyError as error:
    refused = str(error)
out = {}
for name, sae in saes.items():
    out[name + ".features"], out[name] = sae.encode(x).detach().contiguous(), sae(x).detach().contiguous()
save_file(out, Path(work) / "y.safetensors")
architectures = {n: [s.cfg.architecture(), s.cfg.metadata.training_architecture] for n, s in saes.items()}
print(json.dumps({"architectures": architectures, "refused": refused, "imported": "sae_lens_med" in sys.modules}))
"""


def as_in_the_hub_cache(home: Path, folder: Path) -> None:
    """Lay `folder` where huggingface_hub keeps the files of a repository that it has downloaded."""
    repo = home / "hub" / f"models--{REPO.replace('/', '--')}"
    snapshot = repo / "snapshots" / COMMIT / "layer-1"
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)


@torch.no_grad()
def test_what_the_runners_write_loads_where_this_package_is_not(
    stock: tuple[Path, TrainingSAE[Any]],
    several: tuple[Path, dict[str, TrainingSAE[Any]]],
    model: MedBridge,
    tmp_path: Path,
) -> None:
    x = torch.cat(residuals(model, [list(range(40, 90))], HOOK))
    save_file({"x": x}, tmp_path / "x.safetensors")
    as_in_the_hub_cache(tmp_path / "hf", stock[0] / "out")
    folders = [stock[0] / "out", several[0] / "out" / "early", several[0] / "out" / "late"]
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, tmp_path, checkpoint_in(stock[0]), REPO, *folders],
        env=os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    said = run.stdout.splitlines()[-1]
    names = ("out", "early", "late", "folded", "hub")
    form = '["standard", "tied_l1"]'
    architectures = ", ".join(f'"{name}": {form}' for name in names)
    assert said == f'{{"architectures": {{{architectures}}}, "refused": "\'tied_l1\'", "imported": false}}'
    got = load_file(tmp_path / "y.safetensors")
    for name, sae in {
        "out": stock[1],
        "hub": stock[1],
        "early": several[1]["early"],
        "late": several[1]["late"],
    }.items():
        torch.testing.assert_close(got[name + ".features"], sae.encode(x))
        torch.testing.assert_close(got[name], sae(x))
        assert got[name + ".features"].any()
    torch.testing.assert_close(got["folded"], stock[1](x))


def test_the_stock_runner_resumes_its_checkpoint(
    stock: tuple[Path, TrainingSAE[Any]], model: MedBridge, tmp_path: Path
) -> None:
    checkpoint = checkpoint_in(stock[0])
    config = runner_config(tmp_path, resume_from_checkpoint=str(checkpoint), n_checkpoints=0)
    runner = LanguageModelSAETrainingRunner(config, override_dataset=texts(), override_model=model)  # type: ignore[arg-type]
    resumed = runner.run()
    # another order of the data than in the first run, but the centre and the scale were fixed before the checkpoint
    torch.testing.assert_close(resumed.act_scale, stock[1].act_scale)
    torch.testing.assert_close(resumed.b_dec, stock[1].b_dec)
    before = TrainingSAE.load_from_disk(checkpoint).state_dict()["E"]
    assert not torch.equal(resumed.state_dict()["E"], before)


@pytest.mark.parametrize("center_batches", [3, 10])
def test_a_resumed_trainer_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path, center_batches: int) -> None:
    """With the same batches, on SAELens' own trainer; also where the checkpoint falls among the first batches."""
    random = torch.Generator().manual_seed(3)
    batches = [3 * torch.randn(BATCH, HIDDEN, generator=random) + 1 for _ in range(2 + STEPS)]
    settings = tied()
    settings.center_batches = center_batches
    config = runner_config(tmp_path, sae=settings).to_sae_trainer_config()
    torch.manual_seed(1)
    whole = SAETrainer(config, TiedL1TrainingSAE(settings), iter(batches)).fit()

    checkpoint = checkpoint_in(tmp_path)
    half = TrainingSAE.load_from_disk(checkpoint)
    assert isinstance(half, TiedL1TrainingSAE)
    resumed = SAETrainer(config, half, iter(()))
    resumed.load_trainer_state(checkpoint)
    assert 0 < resumed.n_training_samples < STEPS * BATCH
    # two batches went into the estimate of the scale
    resumed.data_provider = iter(batches[2 + resumed.n_training_samples // BATCH :])
    end = resumed.fit()
    assert set(end.state_dict()) == set(whole.state_dict())
    for name, value in whole.state_dict().items():
        assert torch.equal(end.state_dict()[name], value), name
    assert whole.centered_batches == min(center_batches, STEPS)
