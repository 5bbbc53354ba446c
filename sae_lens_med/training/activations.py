"""Activations on disk: the text as sequences, and batches in an order that only (seed, step) decides.

    texts -> sequences (one text each, BOS first where the model has one, cut at context_size) -> shards of
    residuals (`harvest.py`) -> windows of shards -> shuffled batches

A sequence never holds two texts, so a token's context is what it is when a question is run by itself. Sequences are in
random order, so a window of consecutive shards is a random sample of the text. Pass 0 takes the windows in the order
in which they are harvested; later passes assign the shards to windows again. Rows are shuffled within a window; rows
of a window that fill no last batch are left out of that pass. As the order depends on (seed, step) and the batch size
alone, a run sees the same batches while the harvest runs as after it, and a resumed run what an uninterrupted one would
have seen.

Activation sinks are left out: rows whose norm exceeds `sink_multiple` x the median norm of the first window.

In memory are the batches that wait in the queue and the order of one window's rows; rows are gathered from the mapped
files. Out of scope: activations that do not fit on a disk.
"""

import math
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.models.bridge import adds_bos
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.runs.parsing import read_json
from sae_lens_med.training.outputs import require_texts
from sae_lens_med.training.recipe import Recipe
from sae_lens_med.training.text import training_text

QUEUED_BATCHES = 4

Arrives = Callable[[int, threading.Event], None]
"""Waits until this shard is on disk. Raises `Stopped` when the event is set, or what ended the harvest."""


class Stopped(Exception):
    """The one that waits is no longer wanted."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """The recipe's text as token sequences."""

    train: tuple[tuple[int, ...], ...]
    heldout: tuple[tuple[int, ...], ...]
    left_out_ids: tuple[str, ...]
    sha256: str
    """Of the sequences in their order: another seed, which holds out others, is another text."""
    counts: dict[str, int]


def corpus(recipe: Recipe, tokenizer: Any, seed: int) -> Corpus:
    """Read the recipe's sources and cut them into sequences of at most `context_size` tokens, in random order."""
    paths = require_texts(recipe)
    text = training_text(
        paths,
        recipe.leave_out,
        encoding=recipe.encoding,
        extra_columns=recipe.extra_columns,
        skip_bad_rows=recipe.skip_bad_items,
    )
    rng = np.random.default_rng(seed)
    source_of = np.array(text.dataset["source"])
    chosen: list[int] = []
    for source, name in zip(recipe.sources, text.sources, strict=True):
        rows = np.flatnonzero(source_of == name)
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
        sha256=json_sha256([sequences[i] for i in order]),
        counts=counts,
    )


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard: `activations` bfloat16 `[n, d_in]` and `norm` float32 `[n]`."""
    return folder / f"shard-{number:06d}.safetensors"


class Activations:
    """Harvested activations in a folder, read from disk as they are needed.

    Args:
        folder: as `harvest` writes it; its manifest says how many rows each shard has or will have.
        sink_multiple: rows with a norm above this multiple of the median are not trained on.
        buffer_tokens: rows that a window holds at most (but one shard at least).
        arrives: waits for shards that are still being harvested; without it, all must be there.

    Raises `DataError` for a folder without harvested activations, or whose shards are not all there.
    """

    def __init__(self, folder: Path, sink_multiple: float, buffer_tokens: int, arrives: Arrives | None = None) -> None:
        manifest = folder / "manifest.json"
        if not manifest.is_file():
            raise DataError(
                f"{folder} does not contain harvested activations; use a folder that a training run has filled."
            )
        self.folder = folder
        self.sink_multiple = sink_multiple
        self.rows_per_shard: tuple[int, ...] = tuple(read_json(manifest)["rows"])
        self.n_windows = min(len(self.rows_per_shard), math.ceil(sum(self.rows_per_shard) / buffer_tokens))
        self._arrives = arrives
        self._median: float | None = None
        self._kept: dict[int, int] = {}
        missing = [i for i in range(len(self.rows_per_shard)) if not shard_path(folder, i).is_file()]
        if missing and arrives is None:
            raise DataError(
                f"{folder} is missing {len(missing)} of {len(self.rows_per_shard)} shards: its harvest was "
                "interrupted; train with this folder and the same recipe again, which resumes it."
            )

    @property
    def first_window(self) -> int:
        """Number of shards that the first batch needs."""
        return len(self._windows(0, 0)[0])

    def shard(self, number: int) -> torch.Tensor:
        """bfloat16 `[n, d_in]`, sinks included, memory-mapped. Waits for a shard that is being harvested."""
        return self._read(number, "activations", threading.Event())

    def summary(self) -> dict[str, float]:
        """Of the shards whose rows were looked at: `kept` and `sinks` (rows), `median_norm` and `sink_threshold`."""
        rows = sum(self.rows_per_shard[number] for number in self._kept)
        kept = sum(self._kept.values())
        threshold = self._threshold(threading.Event())
        return {
            "kept": kept,
            "sinks": rows - kept,
            "median_norm": threshold / self.sink_multiple,
            "sink_threshold": threshold,
        }

    def batches(
        self,
        batch_size: int,
        seed: int,
        first_step: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
        while_waiting: Callable[[], None] | None = None,
    ) -> Generator[torch.Tensor, None, None]:
        """Endless shuffled batches, float32; the same from `first_step` on whenever it begins.

        Args:
            batch_size: rows of a batch, over all ranks.
            first_step: the number of the first batch that is given out.
            rank, world_size: of each batch, the `rank`-th of `world_size` contiguous parts is given
                (`np.array_split`); the parts of all ranks are the batch.
            while_waiting: called about twice a second while the next batch is not there, in the caller's thread; what
                it raises ends the waiting.

        Yields `[batch_size, d_in]`, or this rank's part of it. A thread gathers a few batches ahead; it ends when the
        generator is closed or dropped, and what it raises is raised here. Raises `ConfigError` when no window fills a
        batch.
        """
        ready: queue.Queue[torch.Tensor | BaseException] = queue.Queue(QUEUED_BATCHES)
        stop = threading.Event()

        def put(item: torch.Tensor | BaseException) -> None:
            while not stop.is_set():
                try:
                    return ready.put(item, timeout=0.2)
                except queue.Full:
                    continue
            raise Stopped

        def gather() -> None:
            try:
                for batch in self._in_order(batch_size, seed, first_step, rank, world_size, stop):
                    put(batch)
            except Stopped:
                return
            except BaseException as error:  # the thread's owner is told, whatever it is
                try:
                    put(error)
                except Stopped:
                    return

        thread = threading.Thread(target=gather, name="batches", daemon=True)
        thread.start()
        try:
            while True:
                try:
                    item = ready.get(timeout=0.5)
                except queue.Empty:
                    if while_waiting is not None:
                        while_waiting()
                    continue
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join()

    def _in_order(
        self, batch_size: int, seed: int, first_step: int, rank: int, world_size: int, stop: threading.Event
    ) -> Iterator[torch.Tensor]:
        step = number = 0
        while True:
            before = step
            windows = self._windows(seed, number)
            for at, shards in enumerate(windows):
                n_batches = sum(self._n_kept(shard, stop) for shard in shards) // batch_size
                if step + n_batches > first_step:
                    self._read_ahead(windows[at + 1] if at + 1 < len(windows) else [])
                    window = _Window([self._read(shard, "activations", stop) for shard in shards])
                    kept = self._kept_rows(shards, stop)
                    order = np.random.default_rng([seed % 2**63, number, at]).permutation(kept)
                    for batch in range(max(0, first_step - step), n_batches):
                        rows = order[batch * batch_size : (batch + 1) * batch_size]
                        yield window.rows(np.array_split(rows, world_size)[rank])
                step += n_batches
            if step == before:
                raise ConfigError(
                    f"{sum(self._kept.values())} activations in {len(windows)} windows do not fill a batch of "
                    f"{batch_size}; "
                    "train on more text, lower train_batch_size_tokens or raise data.buffer_tokens."
                )
            number += 1

    def _windows(self, seed: int, number: int) -> list[list[int]]:
        """The shards of each window of pass `number`."""
        shards = np.arange(len(self.rows_per_shard))
        if number > 0:
            shards = np.random.default_rng([seed % 2**63, number]).permutation(shards)
        return [part.tolist() for part in np.array_split(shards, self.n_windows)]

    def _read(self, number: int, name: str, stop: threading.Event) -> torch.Tensor:
        if self._arrives is not None:
            self._arrives(number, stop)
        with safe_open(shard_path(self.folder, number), framework="pt") as file:
            return file.get_tensor(name)

    def _threshold(self, stop: threading.Event) -> float:
        if self._median is None:
            norms = [self._read(shard, "norm", stop) for shard in self._windows(0, 0)[0]]
            self._median = torch.cat(norms).median().item()
        return self.sink_multiple * self._median

    def _n_kept(self, number: int, stop: threading.Event) -> int:
        if number not in self._kept:
            threshold = self._threshold(stop)
            self._kept[number] = int((self._read(number, "norm", stop) <= threshold).sum())
        return self._kept[number]

    def _kept_rows(self, shards: list[int], stop: threading.Event) -> npt.NDArray[np.int64]:
        """The rows of a window that are no sinks."""
        norms = torch.cat([self._read(shard, "norm", stop) for shard in shards])
        return np.flatnonzero((norms <= self._threshold(stop)).numpy())

    def _read_ahead(self, shards: list[int]) -> None:
        """Tell the kernel which files come next: rows in random order are slow to read from a cold disk."""
        if not hasattr(os, "posix_fadvise"):  # not on every system
            return
        for path in (shard_path(self.folder, shard) for shard in shards):
            if path.is_file():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


class _Window:
    """The mapped shards of one window."""

    def __init__(self, shards: list[torch.Tensor]) -> None:
        self.shards = shards
        self.ends = np.cumsum([len(shard) for shard in shards])

    def rows(self, wanted: npt.NDArray[np.int64]) -> torch.Tensor:
        """float32 `[len(wanted), d_in]`, in the order of `wanted`."""
        shard_of = np.searchsorted(self.ends, wanted, side="right")
        out = torch.empty(len(wanted), self.shards[0].shape[1])
        for number in np.unique(shard_of):
            at = np.flatnonzero(shard_of == number)
            shard = self.shards[number]
            out[torch.from_numpy(at)] = shard[torch.from_numpy(wanted[at] - self.ends[number] + len(shard))].float()
        return out
