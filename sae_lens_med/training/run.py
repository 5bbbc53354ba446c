"""Recipe -> trained SAE, through SAELens' own trainer.

    text -> activations on disk -> SAELens' `SAETrainer`, step by step -> SAE folder, metrics, curve

The loop is ours, the step, the optimiser, the schedules and the checkpoints are SAELens': its `fit` logs to wandb
or nowhere and cannot be told to stop. Because batches depend on (seed, step) alone, a run that was interrupted and
resumed ends with the weights of one that was not.

In several processes (`distributed`), `train_batch_size_tokens` is the batch of all together: each takes its part of
every batch, and the run is that of one process up to the rounding of sums (`parallel`). Rank 0 alone prints, writes and
measures. A checkpoint says nothing about ranks, so any number of processes goes on with it. Several machines need a
disk that all see, for the output and the activations.

While it runs, the output folder holds `recipe.yaml` and, in `checkpoints/`, the last complete checkpoint and
`made_of.json`, the model and the text that it is trained on: a run goes on with those only. At the end it holds what
`export` writes.
"""

import math
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.progress import TextColumn
from sae_lens import LanguageModelSAERunnerConfig, LoggingConfig, SAETrainer
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import TrainingSAE, TrainingSAEConfig, TrainStepOutput

from sae_lens_med import distributed
from sae_lens_med.errors import ConfigError
from sae_lens_med.models.bridge import MedBridge, shape_at
from sae_lens_med.runs.files import naming_what_fails, write_json
from sae_lens_med.runs.folder import RunFolder
from sae_lens_med.runs.parsing import read_json
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.runs.provenance import require_same
from sae_lens_med.training.activations import Activations, corpus
from sae_lens_med.training.export import export
from sae_lens_med.training.harvest import Harvest, default_folder
from sae_lens_med.training.outputs import open_run
from sae_lens_med.training.parallel import ParallelTrainer
from sae_lens_med.training.quality import SaeQuality, reservations
from sae_lens_med.training.recipe import Recipe, Resampling
from sae_lens_med.training.resample import is_due, resample_dead, rows_for

MADE_OF = Path("checkpoints") / "made_of.json"
CURVE_EVERY = 10
CHECKPOINT_SECONDS = 600
"""A checkpoint is written so long after the last one, whatever the recipe's `n_checkpoints`: what a crash can cost."""


@dataclass(frozen=True, slots=True)
class TrainedSae:
    """What a training run leaves."""

    folder: Path
    quality: SaeQuality
    steps: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be said of this SAE beside its metrics."""
        return reservations(self.quality)


def train(
    recipe: Recipe, model: MedBridge, output: Path, *, activations: Path | None = None, resume: bool = False
) -> TrainedSae:
    """Train the recipe's SAE on `model` and write it to `output`.

    Args:
        activations: where harvested activations are kept; by default a folder of the user's cache, named after the
            model, the text and the hook, so that runs that differ in the SAE alone share it.
        resume: go on from the last checkpoint in `output`.

    Raises `StudyError` when `output` holds another run and `resume` is not given, or was made from another recipe;
    `DistributedError` when another process of the job ended. Ctrl-C (or SIGTERM) ends the step that runs, in all
    processes the same, writes a checkpoint and raises KeyboardInterrupt.
    """
    with distributed.initialised():
        run = open_run(recipe, output, resume)
        run.hold()
        return _train(recipe, model, run, activations)


def _train(recipe: Recipe, model: MedBridge, run: RunFolder, activations: Path | None) -> TrainedSae:
    me, output = distributed.ranks(), run.path
    text = corpus(recipe, model.text_tokenizer, recipe.text_seed)
    hook_name = recipe.runner["hook_name"]
    folder = activations or default_folder(model, text, hook_name)
    if recipe.runner["context_size"] > model.cfg.n_ctx:
        raise ConfigError(
            f"context_size is {recipe.runner['context_size']}, but {model.provenance['name']} reads at most "
            f"{model.cfg.n_ctx} tokens; lower it."
        )
    runner_cfg = _runner_config(recipe, model)
    with Harvest(model, text, recipe, {hook_name: folder}) as harvest:
        made_of = {"model": model.provenance, "text": {"sha256": text.sha256}}
        if me.first and _last_checkpoint(output) is not None and (output / MADE_OF).is_file():
            require_same(output, read_json(output / MADE_OF), made_of)
        run.begin()  # not before all has been looked at: what is refused leaves nothing behind
        if me.first:
            write_json(output / MADE_OF, made_of)
        acts = harvest.activations[hook_name]
        harvest.until(acts.first_window)
        trainer, curve = _trainer(runner_cfg, recipe, acts, output if run.begun else None)
        _fit(trainer, runner_cfg, recipe.resample_dead, harvest, acts, curve, output)
    if me.first:
        _save_checkpoint(trainer, curve, output)
        quality = export(trainer, runner_cfg, recipe, model, text, acts, curve, output)
        shutil.rmtree(output / "checkpoints")
        distributed.broadcast_object(quality.to_dict())
    else:
        quality = SaeQuality(**distributed.broadcast_object())
    return TrainedSae(output, quality, trainer.n_training_steps)


def _runner_config(recipe: Recipe, model: MedBridge) -> LanguageModelSAERunnerConfig[Any]:
    """SAELens' runner config: it validates the fields, and is what `runner_cfg.json` records."""
    fields = dict(recipe.sae)
    config_class = get_sae_training_class(fields.pop("architecture"))[1]
    runner = dict(recipe.runner)
    device = runner["device"] = distributed.local_device(runner.get("device", "cpu"))
    n_checkpoints = runner.pop("n_checkpoints", 4)
    try:
        return LanguageModelSAERunnerConfig(
            sae=config_class(d_in=_width(model, runner["hook_name"]), device=device, **fields),
            model_name=_hub_name(model),
            model_class_name="TransformerBridge",
            dataset_path=", ".join(s.path for s in recipe.sources),
            is_dataset_tokenized=False,
            disable_concat_sequences=True,
            sequence_separator_token=None,
            exclude_special_tokens=True,
            logger=LoggingConfig(log_to_wandb=False),
            n_checkpoints=n_checkpoints,
            checkpoint_path=None,
            output_path=None,
            verbose=False,
            **runner,
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"SAELens rejects the recipe: {error}.") from error


def _width(model: MedBridge, hook_name: str) -> int:
    shape = shape_at(model, hook_name)
    if len(shape) != 1:
        raise ConfigError(
            f"an SAE is trained on one vector per token, but {hook_name} of {model.provenance['name']} gives heads "
            f"({' x '.join(map(str, shape))}); name another hook_name, such as blocks.N.hook_attn_out."
        )
    return shape[0]


def _hub_name(model: MedBridge) -> str:
    from sae_lens_med.models import catalogue

    entry = catalogue.find(model.provenance["name"])
    return entry.hub_id if entry else model.provenance["name"]


def _trainer(
    cfg: LanguageModelSAERunnerConfig[Any], recipe: Recipe, acts: Activations, resume_from: Path | None
) -> tuple[SAETrainer[Any, Any], list[dict[str, float]]]:
    torch.manual_seed(cfg.seed)
    sae_cfg: TrainingSAEConfig = TrainingSAEConfig.from_dict(cfg.get_training_sae_cfg_dict())
    sae = TrainingSAE.from_dict(sae_cfg.to_dict())
    sae.to(cfg.device)
    trainer_class = SAETrainer if distributed.ranks().world_size == 1 else ParallelTrainer
    trainer = trainer_class(cfg.to_sae_trainer_config(), sae, data_provider=iter(()))
    checkpoint = _last_checkpoint(resume_from) if resume_from else None
    if checkpoint is not None:
        trainer.load_trainer_state(checkpoint)
        sae.load_weights_from_checkpoint(checkpoint)
        _fuse(trainer.optimizer)
        return trainer, read_json(checkpoint / "curve.json")
    if sae.cfg.normalize_activations == "expected_average_only_in":
        sample = acts.batches(cfg.train_batch_size_tokens, cfg.seed)
        trainer.activation_scaler.estimate_scaling_factor(cfg.sae.d_in, sample, cfg.n_batches_for_norm_estimate)
    if recipe.start_at_mean:
        sample = acts.batches(cfg.train_batch_size_tokens, cfg.seed)
        mean = torch.stack([batch.mean(0) for batch in islice(sample, cfg.n_batches_for_norm_estimate)]).mean(0)
        sae.b_dec.data.copy_(mean * (trainer.activation_scaler.scaling_factor or 1.0))
    _fuse(trainer.optimizer)
    return trainer, []


def _fuse(optimizer: torch.optim.Optimizer) -> None:
    """Torch's one-pass Adam; SAELens' trainer takes the default, which goes over every weight many times on a CPU."""
    for group in optimizer.param_groups:
        group["fused"] = True


def _last_checkpoint(output: Path) -> Path | None:
    found = sorted((output / "checkpoints").glob("step-*"))
    return found[-1] if found else None


def _fit(
    trainer: SAETrainer[Any, Any],
    cfg: LanguageModelSAERunnerConfig[Any],
    resampling: Resampling | None,
    harvest: Harvest,
    acts: Activations,
    curve: list[dict[str, float]],
    output: Path,
) -> None:
    total = cfg.training_tokens // cfg.train_batch_size_tokens
    every = max(1, total // (cfg.n_checkpoints + 1))
    me = distributed.ranks()
    saved_at = time.monotonic()
    bar = progress_bar(me.first, TextColumn("{task.fields[state]}"))
    console = bar.console
    with _stop_asked() as stop, bar as progress, ExitStack() as stack:
        task = progress.add_task("training", total=total, completed=trainer.n_training_steps, state="")

        def while_waiting() -> None:
            progress.update(task, state=harvest.state())
            if not stop.is_set():
                return
            if me.world_size > 1:  # several stop together, after a step, which does not come when one has ended
                distributed.require_others()
            else:
                _save_checkpoint(trainer, curve, output)
                raise KeyboardInterrupt

        batches = acts.batches(
            cfg.train_batch_size_tokens,
            cfg.seed,
            trainer.n_training_steps,
            rank=me.rank,
            world_size=me.world_size,
            while_waiting=while_waiting,
        )
        stack.enter_context(closing(batches))
        while trainer.n_training_steps < total:
            trainer.maybe_reset_sparsity()
            result = trainer.step(next(batches))
            trainer.n_training_steps += 1
            step = trainer.n_training_steps
            n_resampled = 0
            if resampling is not None and is_due(resampling, step, total):
                rows = rows_for(acts, resampling.rows, cfg.train_batch_size_tokens, seed=cfg.seed, step=step)
                n_resampled = resample_dead(trainer, rows, seed=cfg.seed, step=step, dead_steps=resampling.dead_steps)
                if me.first:
                    console.print(f"step {step} of {total}: {n_resampled} dead features resampled")
            if step % CURVE_EVERY == 0 or step == total or n_resampled:
                # The key in curve.json is that of runs which are finished already.
                point = _finite(_curve_point(trainer, result), output) | (
                    {"revived": n_resampled} if n_resampled else {}
                )
                curve.append(point)
                progress.update(task, state=_in_words(point))
                if me.first and not console.is_terminal and step % (100 * CURVE_EVERY) == 0:  # a log file shows no bar
                    console.print(f"step {step} of {total}: {_in_words(point)}")
            progress.update(task, completed=step)
            # Decided together: a signal reaches the processes at different steps.
            stopping = distributed.any_rank(stop.is_set())
            save_due = (step % every == 0 and step < total) or time.monotonic() - saved_at > CHECKPOINT_SECONDS
            if me.first and (stopping or save_due):
                _save_checkpoint(trainer, curve, output)
                saved_at = time.monotonic()
            if stopping:
                raise KeyboardInterrupt


@contextmanager
def _stop_asked() -> Iterator[threading.Event]:
    """Set by Ctrl-C or SIGTERM while the block runs: a step that is cut in half could not be resumed exactly."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield event
        return
    before = {number: signal.signal(number, lambda *_: event.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@torch.no_grad()
def _curve_point(trainer: SAETrainer[Any, Any], result: TrainStepOutput) -> dict[str, float]:
    """Of the whole batch, whichever rows of it are here."""
    x, acts = result.sae_in, result.feature_acts
    n = len(x)
    n_active = torch.count_nonzero(acts.coalesce().values() if acts.is_sparse else acts)
    spread = (x - distributed.mean_of_rows(x)).pow(2).sum()
    parts = (result.loss * n, n_active, (x - result.sae_out).pow(2).sum(), spread)
    sums = torch.stack([part.float() for part in parts])
    loss, active, error, spread = distributed.all_reduce_sum_(sums).tolist()
    whole = trainer.cfg.train_batch_size_samples
    return {
        "step": trainer.n_training_steps,
        "loss": loss / whole,
        "l0": active / whole,
        "explained_variance": 1 - error / spread,
        "dead_fraction": trainer.dead_neurons.float().mean().item(),
    }


def _finite(point: dict[str, float], output: Path) -> dict[str, float]:
    if all(map(math.isfinite, point.values())):
        return point
    raise ConfigError(
        f"training diverged at step {point['step']}: the loss is {point['loss']}; lower lr or the sparsity "
        f"coefficient, or warm them up longer, and train into another folder (the last checkpoint before is kept in "
        f"{output / 'checkpoints'})."
    )


def _in_words(point: dict[str, float]) -> str:
    return (
        f"loss {point['loss']:.4g}  L0 {point['l0']:.1f}  EV {point['explained_variance']:.3f}  "
        f"dead {point['dead_fraction']:.1%}"
    )


def _save_checkpoint(trainer: SAETrainer[Any, Any], curve: list[dict[str, float]], output: Path) -> None:
    """Write a checkpoint beside the last one, then remove the last one: at every moment one is complete."""
    folder = output / "checkpoints"
    name = f"step-{trainer.n_training_steps:09d}"
    before = [path for path in folder.glob("step-*") if path.name != name]
    if (folder / name).is_dir():
        return
    with naming_what_fails(folder / name):
        trainer.save_checkpoint(f".{name}", folder)
        write_json(folder / f".{name}" / "curve.json", curve)
        (folder / f".{name}").rename(folder / name)
    for path in before:
        shutil.rmtree(path)
