"""Run the model over the text and keep its residuals, at several hooks in one pass, while an SAE trains on them.

    sequences -> shards of SEQUENCES_PER_SHARD -> batches of like length -> `ResidualReader` -> one folder per hook

Each folder stands by itself: shards in bfloat16 and a manifest that says of which model, text and hook they are. A
folder that was made from another one is refused, an interrupted harvest goes on where it stopped, and a hook whose
shards are all there costs nothing. Special tokens are not kept.

`Harvest` is the one way: a thread makes the shards, in order, and who needs one waits for it. On a GPU the thread runs
ahead as fast as it can, beside the training. On a CPU model and training would fight for the same cores, so there the
thread makes what is waited for and rests otherwise: the two take turns, and text that is never trained on is not
harvested. Of several processes each makes its share of the shards; the folder must be on a disk that all of them see.
"""

import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from sae_lens_med import distributed
from sae_lens_med.errors import ConfigError, DataError, ModelError
from sae_lens_med.models.bridge import MedBridge, default_batch_tokens
from sae_lens_med.models.residuals import ResidualReader
from sae_lens_med.runs.files import atomic_path, cache_dir, json_sha256
from sae_lens_med.runs.folder import Kind, RunFolder
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.training.activations import Activations, Corpus, Stopped, shard_path
from sae_lens_med.training.recipe import Recipe

KIND = Kind("harvested activations", format=2, bound=lambda folder, _: any(folder.glob("shard-*.safetensors")))
SEQUENCES_PER_SHARD = 256
SHARDS_TOGETHER = 8
"""Shards whose sequences share batches on a GPU, where batches are large: less padding."""


class Harvest:
    """A harvest that runs while the block does.

    Args:
        folders: where the activations at each hook are kept.
        me: this process among those that share the harvest; by default, those that `distributed` joined.

    Raises `ModelError` for a hook that the model does not have, `StudyError` for a folder that holds something else,
    `ConfigError` for a disk that is too small. What goes wrong in the thread is raised where its shards are waited for.
    """

    def __init__(
        self,
        model: MedBridge,
        text: Corpus,
        recipe: Recipe,
        folders: Mapping[str, Path],
        *,
        me: distributed.Ranks | None = None,
    ) -> None:
        self.model = model
        self.text = text
        self.folders = dict(folders)
        self.me = distributed.ranks() if me is None else me
        self._batch_tokens = recipe.harvest_batch_tokens or default_batch_tokens(model)
        self._special = np.array(model.text_tokenizer.all_special_ids)
        self._parts = [
            text.train[at : at + SEQUENCES_PER_SHARD] for at in range(0, len(text.train), SEQUENCES_PER_SHARD)
        ]
        kept = self._rows()
        self._open(kept)
        if self.me.first:
            self._require_room(kept)
        distributed.barrier()
        self.activations = {
            hook: Activations(folder, recipe.sink_multiple, recipe.buffer_tokens, partial(self._arrives, folder))
            for hook, folder in self.folders.items()
        }
        self._takes_turns = _on_cpu(model)
        self._together = 1 if self._takes_turns else SHARDS_TOGETHER
        self._change = threading.Condition()
        self._wanted = 0
        self._made = 0
        self._error: BaseException | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="harvest", daemon=True)

    def __enter__(self) -> "Harvest":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join()

    @property
    def n_shards(self) -> int:
        return len(self._parts)

    def state(self) -> str:
        """How far the harvest is, in words."""
        return f"harvesting ({self._n_there():,} of {len(self.text.train):,} sequences)"

    def until(self, n_shards: int, *, progress: bool = True) -> None:
        """Wait for the first `n_shards` shards at all hooks, with a bar that shows them coming."""
        total = sum(map(len, self._parts[:n_shards]))
        needed = [(folder, number) for number in range(n_shards) for folder in self.folders.values()]
        with progress_bar(progress and self.me.first) as bar:
            task = bar.add_task("harvesting (sequences)", total=total, completed=min(total, self._n_there()))
            for folder, number in needed:
                while not self._is_there(folder, number, wanted=n_shards, timeout=0.5):
                    bar.update(task, completed=min(total, self._n_there()))
            bar.update(task, completed=total)

    def _n_there(self) -> int:
        """Sequences of the shards that are on disk at all hooks, and of the one being made."""
        there = [
            len(part)
            for number, part in enumerate(self._parts)
            if all(shard_path(folder, number).is_file() for folder in self.folders.values())
        ]
        return sum(there) + self._made

    def _arrives(self, folder: Path, number: int, stop: threading.Event) -> None:
        while not self._is_there(folder, number, wanted=number + 1, timeout=0.2):
            if stop.is_set():
                raise Stopped

    def _is_there(self, folder: Path, number: int, *, wanted: int, timeout: float) -> bool:
        """Whether the shard is on disk; if not, it is asked for, and waited for a moment."""
        if shard_path(folder, number).is_file():
            return True
        with self._change:
            if self._error is not None:
                raise self._error
            over = not self._thread.is_alive() and self._is_mine(number)
            if (self._closing or over) and not shard_path(folder, number).is_file():
                raise DataError(f"{shard_path(folder, number)} was not harvested: the harvest has ended.")
            self._wanted = max(self._wanted, wanted)
            self._change.notify_all()
            self._change.wait(timeout)
        return False

    def _is_mine(self, number: int) -> bool:
        return number // self._together % self.me.world_size == self.me.rank

    def _work(self) -> None:
        try:
            mine = [number for number in range(self.n_shards) if self._is_mine(number)]
            for at in range(0, len(mine), self._together):
                numbers = mine[at : at + self._together]
                todo = {
                    hook: missing
                    for hook, folder in self.folders.items()
                    if (missing := [n for n in numbers if not shard_path(folder, n).is_file()])
                }
                if not todo:
                    continue
                first = min(map(min, todo.values()))
                with self._change:
                    self._change.wait_for(lambda at=first: self._closing or not self._takes_turns or self._wanted > at)
                self._make(todo)
        except Stopped:
            return
        except BaseException as error:  # raised again where shards are waited for
            self._error = error
        finally:
            with self._change:
                self._change.notify_all()

    def _make(self, todo: Mapping[str, Sequence[int]]) -> None:
        """Make these shards, at each hook those that it lacks."""
        reader = ResidualReader(self.model, list(todo))
        sequences = [(n, ids) for n in sorted(set(chain(*todo.values()))) for ids in self._parts[n]]
        rows: dict[tuple[str, int], list[torch.Tensor]] = {(hook, n): [] for hook, ns in todo.items() for n in ns}
        for batch in like_length([ids for _, ids in sequences], self._batch_tokens):
            if self._closing:
                raise Stopped
            ids = [sequences[i][1] for i in batch]
            plain = ~np.isin(np.concatenate(ids), self._special)
            lengths = [int(part.sum()) for part in np.split(plain, np.cumsum([len(i) for i in ids])[:-1])]
            chosen = torch.from_numpy(np.flatnonzero(plain))
            for hook, found in reader.read(ids).items():
                x = torch.cat(found).flatten(1)  # hook_z has heads
                kept = x[chosen.to(x.device)].to("cpu", torch.bfloat16)
                for i, own in zip(batch, kept.split(lengths), strict=True):
                    if (hook, sequences[i][0]) in rows:
                        rows[hook, sequences[i][0]].append(own)
            self._made += len(batch)
        for (hook, number), parts in rows.items():
            self._write(hook, number, torch.cat(parts))
        self._made = 0
        with self._change:
            self._change.notify_all()

    def _write(self, hook: str, number: int, rows: torch.Tensor) -> None:
        norm = torch.cat([part.float().norm(dim=-1) for part in rows.split(8192)])
        if not torch.isfinite(norm).all():
            raise ModelError(
                f"{self.model.provenance['name']} gives activations at {hook} that are not finite; load it in "
                "float32 or bfloat16."
            )
        with atomic_path(shard_path(self.folders[hook], number)) as temporary:
            save_file({"activations": rows, "norm": norm}, temporary)

    def _rows(self) -> list[int]:
        """Of each shard."""
        return [int((~np.isin(np.concatenate(part), self._special)).sum()) for part in self._parts]

    def _open(self, rows: list[int]) -> None:
        for hook in self.folders:
            self.model.require_hook(hook)
        for hook, folder in self.folders.items():
            values = {
                "model": self.model.provenance,
                "hook_name": hook,
                "text_sha256": self.text.sha256,
                "sequences": len(self.text.train),
                "sequences_per_shard": SEQUENCES_PER_SHARD,
                "rows": rows,
            }
            RunFolder(folder, KIND, values).begin()

    def _require_room(self, rows: list[int]) -> None:
        needed: dict[int, int] = {}
        for folder in self.folders.values():
            missing = sum(n for number, n in enumerate(rows) if not shard_path(folder, number).is_file())
            device = folder.stat().st_dev
            needed[device] = needed.get(device, 0) + missing * self.model.cfg.d_model * 2
            free = shutil.disk_usage(folder).free
            if needed[device] > free:
                raise ConfigError(
                    f"the activations need {needed[device] / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are "
                    "free; choose a folder on a larger disk with --activations, or fewer texts (data.sources: "
                    "max_rows)."
                )


def harvest(
    model: MedBridge,
    text: Corpus,
    recipe: Recipe,
    folders: Mapping[str, Path],
    *,
    me: distributed.Ranks | None = None,
) -> dict[str, Activations]:
    """The whole of `text.train` at every hook of `folders`, in one pass; returns when it is there. As `Harvest`."""
    with Harvest(model, text, recipe, folders, me=me) as running:
        running.until(running.n_shards)
    return {hook: Activations(f, recipe.sink_multiple, recipe.buffer_tokens) for hook, f in running.folders.items()}


def default_folder(model: MedBridge, text: Corpus, hook_name: str) -> Path:
    """In the user's cache, named after the model, the text and the hook: runs that differ in the SAE alone share it."""
    identity = json_sha256([KIND.format, model.provenance, text.sha256, len(text.train), hook_name])
    return cache_dir() / "activations" / identity[:16]


def _on_cpu(model: MedBridge) -> bool:
    return torch.device(model.cfg.device or "cpu").type == "cpu"


def like_length(sequences: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of the sequences by falling length, as many at a time as fit into `batch_tokens` padded tokens."""
    batch: list[int] = []
    for i in sorted(range(len(sequences)), key=lambda i: len(sequences[i]), reverse=True):
        if batch and len(sequences[batch[0]]) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
