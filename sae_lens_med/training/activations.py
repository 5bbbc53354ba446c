"""Activations on disk: run the model over the text once, train on them as often as wanted.

    texts -> sequences (one text each, BOS first where the model has one, cut at context_size) -> shards of
    residuals -> batches in an order that only the seed decides

A sequence never holds two texts, so a token's context is what it is when a question is run by itself. Special tokens
are not kept. Shards are written as they are made, atomically; an interrupted harvest goes on where it stopped; a
folder that was made from another model, text or setting is refused. Batches depend on (seed, step) alone, so a resumed
run sees what an uninterrupted one would have seen.

Out of scope: activations that do not fit on a disk.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file

from sae_lens_med.config import atomic_path, json_sha256, write_json
from sae_lens_med.data import training_text
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.models import MedBridge, adds_bos, residuals
from sae_lens_med.training.recipe import Recipe

SEQUENCES_PER_SHARD = 1024


@dataclass(frozen=True, slots=True)
class Corpus:
    """The recipe's text as token sequences."""

    train: tuple[tuple[int, ...], ...]
    heldout: tuple[tuple[int, ...], ...]
    left_out_ids: tuple[str, ...]
    sha256: str
    counts: dict[str, int]


def corpus(recipe: Recipe, tokenizer: Any, seed: int) -> Corpus:
    """Read the recipe's sources and cut them into sequences of at most `context_size` tokens, in random order."""
    paths = [Path(recipe.folder) / source.path for source in recipe.sources]
    for path in paths:
        if not path.is_file():
            raise DataError(f"the recipe's text {path} does not exist; say where it lies with --set data.folder=PATH.")
    text = training_text(paths, recipe.leave_out)
    rng = np.random.default_rng(seed)
    source_of = np.array(text.dataset["source"])
    chosen: list[int] = []
    for source, path in zip(recipe.sources, paths, strict=True):
        rows = np.flatnonzero(source_of == path.name)
        if source.max_rows is not None and source.max_rows < len(rows):
            rows = np.sort(rng.choice(rows, source.max_rows, replace=False))
        chosen.extend(rows.tolist())
    texts = text.dataset.select(chosen)["text"]
    context_size = recipe.runner["context_size"]
    bos = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []
    room = context_size - len(bos)
    sequences: list[tuple[int, ...]] = []
    for ids in tokenizer(list(texts), add_special_tokens=False).input_ids:
        sequences.extend(tuple(bos + ids[at : at + room]) for at in range(0, len(ids), room))
    order = rng.permutation(len(sequences))
    n_heldout = max(1, round(recipe.heldout * len(sequences)))
    counts = {**text.counts, "texts": len(texts), "sequences": len(sequences), "tokens": sum(map(len, sequences))}
    return Corpus(
        train=tuple(sequences[i] for i in order[n_heldout:]),
        heldout=tuple(sequences[i] for i in order[:n_heldout]),
        left_out_ids=text.left_out_ids,
        sha256=json_sha256(sequences),
        counts=counts,
    )


def harvest(model: MedBridge, text: Corpus, recipe: Recipe, folder: Path) -> "Activations":
    """Run the model over `text.train` and keep the activations at the recipe's hook, as `folder`'s shards."""
    hook_name = recipe.runner["hook_name"]
    model.require_hook(hook_name)
    identity = {
        "model": model.provenance,
        "hook_name": hook_name,
        "text_sha256": text.sha256,
        "sequences": len(text.train),
        "sequences_per_shard": SEQUENCES_PER_SHARD,
    }
    _require_same(folder, identity)
    starts = range(0, len(text.train), SEQUENCES_PER_SHARD)
    todo = [at for at in starts if not _shard(folder, at).is_file()]
    if todo:
        _require_space(folder, text, model)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("harvesting (sequences)", total=len(text.train))
        progress.advance(task, len(text.train) - sum(len(text.train[at : at + SEQUENCES_PER_SHARD]) for at in todo))
        for at in todo:
            kept: list[torch.Tensor] = []
            for batch in _batches(text.train[at : at + SEQUENCES_PER_SHARD], recipe.harvest_batch_tokens):
                for ids, activation in zip(batch, residuals(model, batch, hook_name), strict=True):
                    kept.append(activation[~special_tokens(model, ids)].to("cpu", torch.bfloat16))
                progress.advance(task, len(batch))
            rows = torch.cat(kept)
            with atomic_path(_shard(folder, at)) as temporary:
                save_file({"activations": rows, "norm": rows.float().norm(dim=-1)}, temporary)
    return Activations.open(folder, recipe.sink_multiple)


def special_tokens(model: MedBridge, ids: tuple[int, ...]) -> torch.Tensor:
    """Which of a sequence's tokens are special (BOS and the like), `[n_tokens]` bool."""
    return torch.isin(torch.tensor(ids), torch.tensor(model.text_tokenizer.all_special_ids))


def _shard(folder: Path, at: int) -> Path:
    return folder / f"sequences-{at:08d}.safetensors"


def _batches(sequences: tuple[tuple[int, ...], ...], batch_tokens: int) -> Iterator[list[tuple[int, ...]]]:
    """Sequences by length, as many at a time as fit into `batch_tokens` padded tokens."""
    batch: list[tuple[int, ...]] = []
    for ids in sorted(sequences, key=len, reverse=True):
        if batch and len(batch[0]) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(ids)
    if batch:
        yield batch


def _require_same(folder: Path, identity: dict[str, Any]) -> None:
    path = folder / "manifest.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in identity if found.get(key) != json.loads(json.dumps(identity[key]))]
        if changed:
            raise ConfigError(
                f"the activations in {folder} were harvested with another {' and '.join(changed)}; give another "
                "folder with --activations, or remove that one."
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and holds no harvested activations; give another folder.")
    else:
        write_json(path, identity)


def _require_space(folder: Path, text: Corpus, model: MedBridge) -> None:
    needed = sum(map(len, text.train)) * model.cfg.d_model * 2
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"the activations need {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free; give a "
            "folder on a larger disk with --activations, or fewer texts (data.sources: max_rows)."
        )


@dataclass(frozen=True, slots=True)
class Activations:
    """Harvested activations, read from disk as they are needed."""

    shards: tuple[torch.Tensor, ...]
    """bfloat16 `[n_i, d_in]` each, memory-mapped."""
    offsets: np.ndarray
    """Where each shard's rows begin among all rows; one more for the end."""
    kept: torch.Tensor
    """The rows to train on, int64: all but the activation sinks."""
    median_norm: float
    sinks: int
    """Rows left out because their norm exceeds sink_multiple x median_norm."""

    @classmethod
    def open(cls, folder: Path, sink_multiple: float) -> "Activations":
        """Map the shards in `folder`, in order."""
        loaded = [load_file(path) for path in sorted(folder.glob("sequences-*.safetensors"))]
        if not loaded:
            raise DataError(f"{folder} holds no harvested activations.")
        norms = torch.cat([shard["norm"] for shard in loaded])
        median = norms.median().item()
        kept = torch.nonzero(norms <= sink_multiple * median).squeeze(1)
        lengths = [len(shard["norm"]) for shard in loaded]
        return cls(
            shards=tuple(shard["activations"] for shard in loaded),
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            kept=kept,
            median_norm=median,
            sinks=len(norms) - len(kept),
        )

    def rows(self, indices: torch.Tensor) -> torch.Tensor:
        """float32 `[len(indices), d_in]`, in the order of `indices`."""
        wanted = indices.numpy()
        shard_of = np.searchsorted(self.offsets, wanted, side="right") - 1
        out = torch.empty(len(wanted), self.shards[0].shape[1])
        for shard in np.unique(shard_of):
            at = np.flatnonzero(shard_of == shard)
            out[torch.from_numpy(at)] = self.shards[shard][torch.from_numpy(wanted[at] - self.offsets[shard])].float()
        return out

    def batches(self, batch_size: int, seed: int, first_step: int = 0) -> Iterator[torch.Tensor]:
        """Endless shuffled batches, `[batch_size, d_in]` float32; the same from `first_step` on whenever it begins.

        Each pass over the rows has its own order; a pass's last rows that fill no batch are left out of that pass.
        """
        per_pass = len(self.kept) // batch_size
        if per_pass == 0:
            raise ConfigError(
                f"{len(self.kept)} activations are fewer than one batch of {batch_size}; "
                "train on more text or lower train_batch_size_tokens."
            )
        step = first_step
        while True:
            number, within = divmod(step, per_pass)
            generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
            order = self.kept[torch.randperm(len(self.kept), generator=generator)]
            for at in range(within, per_pass):
                yield self.rows(order[at * batch_size : (at + 1) * batch_size])
            step += per_pass - within
