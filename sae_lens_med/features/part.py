"""Parts of a collection: one item, or one shard, without reading or hashing the rest.

`load_features` reads and hashes everything, which for 5,000 items is gigabytes. Here the manifest and the headers of
the shards are read when the collection is opened; an item's rows are read by `pread` (`runs.arrays`), its texts by the
place of their line. A shard whose files contradict the manifest or its own header is refused, alone: the items of the
others can be read. Whether the bytes are those that were written, `verify` says, which hashes them.

An unfinished collection can be read as far as it goes. Reading is safe from several threads.

Out of scope: the mean residuals, and deciding what a token counts as (`collect`).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from sae_lens_med.errors import NotFoundError, StudyError
from sae_lens_med.features.store import (
    ARRAYS,
    CSR_ARRAYS,
    ITEM_ARRAYS,
    TEXTS,
    TOKEN_ARRAYS,
    is_complete,
    read_manifest,
    shard_not_as_written,
    shard_paths,
)
from sae_lens_med.records import PARTS, BoolArray, FeatureActs, IntArray
from sae_lens_med.runs.arrays import ArrayFile, OpenArrays
from sae_lens_med.runs.parsing import ParseError, parse_json

_AGAIN = "run the study again, which collects what is not as it was written"


@dataclass(frozen=True, slots=True, eq=False)
class CollectedPart:
    """Some items of a collection, as `features.store.CollectedFeatures` has all of them."""

    acts: FeatureActs
    """Of these items alone: `token_item` counts from the first of them."""
    token_text: npt.NDArray[np.uint8]
    """`[n_tokens]`, index into `TEXTS`."""
    texts: dict[str, dict[str, str]]
    """Item id -> `question`, and `explanation` where there is one: what was run (the explanation masked)."""
    has_explanation: BoolArray
    """`[n_items]`, at least one explanation token is not excluded."""
    first: int
    """Number of the first item in the collection."""


@dataclass(frozen=True, slots=True)
class _Shard:
    first: int
    n_items: int
    arrays: ArrayFile
    texts: Path


class FeaturePart:
    """A collection of features, opened for reading parts of it."""

    def __init__(self, folder: Path) -> None:
        """Raises `StudyError` where there is no collection, or its manifest is damaged."""
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.d_sae = _d_sae(self.folder, self.manifest)
        self.complete = is_complete(self.manifest)
        """Whether every item is in a shard."""
        self.broken: dict[int, str] = {}
        """Shards that cannot be read, by number: one sentence each."""
        self._shards: list[_Shard | None] = []
        self._places: dict[int, tuple[IntArray, IntArray]] = {}
        self._guard = threading.Lock()
        first = 0
        for index, entry in enumerate(self.manifest["shards"]):
            try:
                self._shards.append(_opened(self.folder, index, entry, first))
            except ParseError as error:
                self.broken[index] = f"{shard_paths(self.folder, index)[0]} is damaged: {error}; {_AGAIN}."
                self._shards.append(None)
            first += int(entry["n_items"])
        self.n_items = first
        """How many items the shards hold."""
        self._firsts = np.cumsum([0, *(int(entry["n_items"]) for entry in self.manifest["shards"])])

    @property
    def n_shards(self) -> int:
        """Those that are broken counted."""
        return len(self._shards)

    def items_of(self, index: int) -> range:
        """The numbers of the items of a shard."""
        return range(int(self._firsts[index]), int(self._firsts[index + 1]))

    def verify(self) -> None:
        """Hash every file. Raises `StudyError` that names the first one that is missing or was changed."""
        for index, entry in enumerate(self.manifest["shards"]):
            for name in shard_not_as_written(self.folder, index, entry):
                raise StudyError(f"{self.folder / name} is missing or was changed since it was written; {_AGAIN}.")

    def item(self, number: int, start: int = 0, stop: int | None = None) -> CollectedPart:
        """One item, by its number in the collection; of its tokens all, or those from `start` to `stop`, as far as
        there are any.

        Raises `NotFoundError` for a number past the collected items, `StudyError` for a broken shard.
        """
        index, shard, row = self._place(number)
        with self._naming(index), shard.arrays.reading() as file:
            bounds, lines = self._bounds(index, shard, file)
            texts = _texts(shard.texts, lines[row : row + 2])
            begin, end = int(bounds[row]), int(bounds[row + 1])
            tokens = slice(min(begin + start, end), end if stop is None else max(begin, min(begin + stop, end)))
            return self._part(shard, file, tokens, slice(row, row + 1), texts)

    def texts(self, number: int) -> tuple[str, dict[str, str]]:
        """Id and texts of one item. Raises as `item`."""
        index, shard, row = self._place(number)
        with self._naming(index):
            with shard.arrays.reading() as file:
                _, lines = self._bounds(index, shard, file)
            ((name, own),) = _texts(shard.texts, lines[row : row + 2]).items()
        return name, own

    def shard(self, index: int) -> CollectedPart:
        """All items of one shard. Raises `StudyError` where it is broken."""
        shard = self._shards[index]
        if shard is None:
            raise StudyError(self.broken[index])
        with self._naming(index), shard.arrays.reading() as file:
            _, lines = self._bounds(index, shard, file)
            n_tokens = shard.arrays.shape("token_item")[0]
            texts = _texts(shard.texts, lines)
            return self._part(shard, file, slice(0, n_tokens), slice(0, shard.n_items), texts)

    def shard_texts(self, index: int) -> dict[str, dict[str, str]]:
        """Item id -> texts, of one shard, in order. Raises `StudyError` where it is broken."""
        shard = self._shards[index]
        if shard is None:
            raise StudyError(self.broken[index])
        with self._naming(index), shard.arrays.reading() as file:
            return _texts(shard.texts, self._bounds(index, shard, file)[1])

    def _place(self, number: int) -> tuple[int, _Shard, int]:
        if not 0 <= number < self.n_items:
            raise NotFoundError(
                f"{self.folder} holds the features of {self.n_items} items, and not of item {number}; {_AGAIN}."
            )
        index = int(np.searchsorted(self._firsts, number, side="right")) - 1
        shard = self._shards[index]
        if shard is None:
            raise StudyError(self.broken[index])
        return index, shard, number - shard.first

    @contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        try:
            yield
        except ParseError as error:
            raise StudyError(f"{shard_paths(self.folder, index)[0]} is damaged: {error}; {_AGAIN}.") from error

    def _bounds(self, index: int, shard: _Shard, file: OpenArrays) -> tuple[IntArray, IntArray]:
        """`[n_items + 1]` each: where the tokens of the shard's items begin, and the lines of their texts."""
        if index not in self._places:
            own = file.read("token_item").astype(np.int64) - shard.first
            if len(own) and (own[0] < 0 or own[-1] >= shard.n_items or (np.diff(own) < 0).any()):
                raise ParseError("its tokens are not those of its items, in order")
            bounds = np.searchsorted(own, np.arange(shard.n_items + 1))
            found = bounds.astype(np.int64), _lines(shard)
            with self._guard:
                self._places[index] = found
        return self._places[index]

    def _part(
        self, shard: _Shard, file: OpenArrays, tokens: slice, items: slice, texts: dict[str, dict[str, str]]
    ) -> CollectedPart:
        """These tokens of the shard, which are those of these items."""
        indptr = file.read("indptr", tokens.start, tokens.stop + 1)
        n_active = shard.arrays.shape("data")[0]
        if indptr[0] < 0 or indptr[-1] > n_active or (np.diff(indptr) < 0).any() or (tokens.start == 0 and indptr[0]):
            raise ParseError("indptr does not ascend from 0 to the number of activations")
        own = slice(int(indptr[0]), int(indptr[-1]))
        indices, data = (file.read(name, own.start, own.stop) for name in ("indices", "data"))
        if len(indices) and (indices.min() < 0 or indices.max() >= self.d_sae):
            raise ParseError(f"it names features outside of the {self.d_sae} that there are")
        about = {name: file.read(name, tokens.start, tokens.stop) for name in TOKEN_ARRAYS}
        if len(about["token_part"]) and (
            about["token_part"].max() >= len(PARTS) or about["token_text"].max() >= len(TEXTS)
        ):
            raise ParseError("a token belongs to a part or a text that there is not")
        about["token_item"] = about["token_item"] - np.int32(shard.first + items.start)
        token_text = about.pop("token_text")
        acts = FeatureActs(
            item_ids=tuple(texts),
            acts=sparse.csr_array((data, indices, indptr - indptr[0]), (len(indptr) - 1, self.d_sae)),
            **about,
        )
        explained = file.read("has_explanation", items.start, items.stop)
        return CollectedPart(acts, token_text, texts, explained, shard.first + items.start)


def _d_sae(folder: Path, manifest: dict[str, Any]) -> int:
    found = manifest["settings"].get("sae", {}).get("d_sae")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise StudyError(f"{folder}: the manifest does not say how many features the SAE has; collect them again.")
    return found


def _opened(folder: Path, index: int, entry: dict[str, Any], first: int) -> _Shard:
    """Raises `ParseError` where the shard's files are missing, or not what the manifest says of them."""
    arrays_path, texts_path = shard_paths(folder, index)
    arrays = ArrayFile.open(arrays_path)
    if set(arrays.places) != set(ARRAYS):
        raise ParseError(f"it has the arrays {', '.join(sorted(arrays.places))}")
    for name, kind in ARRAYS.items():
        if arrays.places[name].dtype != np.dtype(kind):
            raise ParseError(f"{name} is {arrays.places[name].dtype}, expected {np.dtype(kind)}")
        if len(arrays.shape(name)) != (2 if name.startswith("raw_mean") else 1):
            raise ParseError(f"{name} has the shape {arrays.shape(name)}")
    n_items = int(entry["n_items"])
    n_tokens = int(entry.get("n_tokens", arrays.shape("token_item")[0]))
    n_active = int(entry.get("n_active", arrays.shape("data")[0]))
    wanted = (
        dict.fromkeys(TOKEN_ARRAYS, n_tokens)
        | dict.fromkeys(ITEM_ARRAYS, n_items)
        | dict.fromkeys(CSR_ARRAYS, n_active)
        | {"indptr": n_tokens + 1}
    )
    for name, rows in wanted.items():
        if arrays.shape(name)[0] != rows:
            raise ParseError(f"{name} has {arrays.shape(name)[0]} rows, and the manifest says {rows}")
    if not texts_path.is_file():
        raise ParseError(f"{texts_path.name} is missing")
    return _Shard(first, n_items, arrays, texts_path)


def _lines(shard: _Shard) -> IntArray:
    """`[n_items + 1]`: where each line of the texts begins, and the end."""
    try:
        content = np.fromfile(shard.texts, dtype=np.uint8)
    except OSError as error:
        raise ParseError(f"{shard.texts.name}: {error.strerror}") from error
    ends = np.flatnonzero(content == ord("\n")) + 1
    if len(ends) != shard.n_items or int(ends[-1]) != len(content):
        raise ParseError(f"{shard.texts.name} has {len(ends)} whole lines, and the manifest says {shard.n_items}")
    return np.concatenate([[0], ends]).astype(np.int64)


def _texts(path: Path, lines: IntArray) -> dict[str, dict[str, str]]:
    """The texts of consecutive lines. Raises `ParseError`."""
    with path.open("rb") as file:
        file.seek(int(lines[0]))
        content = file.read(int(lines[-1] - lines[0]))
    found: dict[str, dict[str, str]] = {}
    # Not splitlines(): a text may hold U+2028.
    for line in content.removesuffix(b"\n").split(b"\n"):
        row = parse_json(line)
        try:
            found[row["id"]] = {name: row[name] for name in TEXTS if row[name] is not None}
        except (KeyError, TypeError) as error:
            raise ParseError(f"{path.name}: a line is not the texts of an item ({error})") from error
    if len(found) != len(lines) - 1:
        raise ParseError(f"{path.name} has {len(found)} items where there are {len(lines) - 1}")
    return found
