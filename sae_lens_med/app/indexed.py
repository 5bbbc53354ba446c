"""The index of a study, opened: what pages look up of a feature or a case, without the index in memory.

Small arrays (some numbers per feature) are read when it is opened; the strongest cases, histograms and the optional
parts by `pread` when they are asked for.

Out of scope: making it (`index`, `attribution`, `directions`), and whether it is stale (`index_files`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sae_lens_med.app.index_files import FEATURES, WORDS_FILE
from sae_lens_med.app.refusals import refusal
from sae_lens_med.errors import StudyError
from sae_lens_med.records import BoolArray, FloatArray, IntArray
from sae_lens_med.runs.arrays import ArrayFile
from sae_lens_med.runs.parsing import ParseError, read_json


@dataclass(frozen=True, slots=True, eq=False)
class Strongest:
    """Cases of a feature, strongest first."""

    value: npt.NDArray[np.float32]
    item: IntArray
    """Numbers of the cases."""
    token: IntArray
    """The strongest token of each: its row within the item."""


class Index:
    """The parts of an index that are there."""

    def __init__(self, folder: Path, made: set[str], d_sae: int, n_items: int) -> None:
        """`made`: of `index_files.PARTS`, `features` among them. Raises `StudyError` for a damaged file, or one of
        another number of features or cases."""
        self.folder, self.n_items = folder, n_items
        self._file = _opened(folder / FEATURES)
        with _naming(self._file.path), self._file.reading() as file:
            self.count = file.read("count")
            """`[F]`, shown tokens on which the feature fires; the next ones are `[F]`, too."""
            self.mean: FloatArray = file.read("mean")
            self.maximum: npt.NDArray[np.float32] = file.read("maximum")
            self.n_cases = file.read("n_items")
            self.weights: FloatArray = file.read("weights")
            self.dense: BoolArray = file.read("dense")
            self.script: BoolArray = file.read("script")
            self.kept: BoolArray = ~(self.dense | self.script)
            """`[F]`, what `align` compares."""
            self.explained: BoolArray = file.read("explained")
            """`[N]`, the cases that `align` compares."""
            self.n_tokens = int(file.read("tokens")[0])
            """Shown tokens of the study."""
            self.word_indptr, self.word_ids = file.read("word_indptr"), file.read("word_ids")
            self._option_words = file.read("option_word_indptr"), file.read("option_words")
            self._top_indptr = file.read("top_indptr")
            if len(self.count) != d_sae or len(self.explained) != n_items:
                raise ParseError("it is of another number of features or cases than the study")
        with _naming(folder / WORDS_FILE):
            words = read_json(folder / WORDS_FILE)
            if not isinstance(words, list) or len(words) <= self.word_ids.max(initial=-1):
                raise ParseError("it has too few words")
            self.words: list[str] = words
        self._more = {name: _opened(folder / f"{name}.safetensors") for name in sorted(made - {"features"})}
        if "logits" in self._more:
            with _naming(folder / "logits.json"):
                self._tokens: list[str] = read_json(folder / "logits.json")

    def has(self, part: Literal["attribution", "neighbours", "logits"]) -> bool:
        """Whether an optional part is there."""
        return part in self._more

    def words_of(self, feature: int) -> list[str]:
        """The words in which it is strongest, in that order."""
        ids = self.word_ids[self.word_indptr[feature] : self.word_indptr[feature + 1]]
        return [self.words[n] for n in ids.tolist()]

    def left_out(self, feature: int) -> Literal["dense", "script"] | None:
        """Why `align` does not compare it."""
        return "dense" if self.dense[feature] else "script" if self.script[feature] else None

    def option_words(self, item: int) -> list[tuple[int, int]]:
        """Characters of the item's masked explanation that `align` leaves out (`features.option_words`)."""
        indptr, spans = self._option_words
        return [(int(start), int(end)) for start, end in spans[indptr[item] : indptr[item + 1]].tolist()]

    def top(self, feature: int) -> Strongest:
        """The cases in which it is strongest, at most `index.TOP`."""
        start, stop = int(self._top_indptr[feature]), int(self._top_indptr[feature + 1])
        with _naming(self._file.path), self._file.reading() as file:
            value, item, token = (file.read(f"top_{name}", start, stop) for name in ("value", "item", "token"))
        return Strongest(value, item.astype(np.int64), token.astype(np.int64))

    def tenths(self, feature: int) -> tuple[Strongest, IntArray]:
        """A case from each tenth of those in which it fires, and which tenth: 0 is the strongest."""
        with _naming(self._file.path), self._file.reading() as file:
            value, item, token = (file.read(f"tenth_{n}", feature, feature + 1)[0] for n in ("value", "item", "token"))
        there = np.flatnonzero(value > 0)
        return Strongest(value[there], item[there].astype(np.int64), token[there].astype(np.int64)), there

    def histogram(self, feature: int) -> list[int]:
        """On how many shown tokens it fires so strongly, bin by bin from 0 to its maximum."""
        return self._row(self._file, "histogram", feature).tolist()

    def cases(self, feature: int) -> BoolArray:
        """`[N]`, the cases in which it fires."""
        bits = np.unpackbits(self._row(self._file, "cases", feature), bitorder="little")
        return bits[: self.n_items].astype(bool)

    def attribution(self, item: int) -> dict[int, float] | None:
        """Feature -> its first-order effect on the answer of this case, for the features with the largest; None
        without that part, or where the case could not be run."""
        if (arrays := self._more.get("attribution")) is None:
            return None
        with _naming(arrays.path), arrays.reading() as file:
            if not file.read("measured", item, item + 1)[0]:
                return None
            start, stop = (int(n) for n in file.read("indptr", item, item + 2))
            features, effects = file.read("features", start, stop), file.read("effects", start, stop)
        return dict(zip(features.tolist(), effects.tolist(), strict=True))

    def neighbours(self, feature: int) -> list[tuple[int, float]]:
        """The nearest decoder directions with their cosines, nearest first; empty without that part."""
        if (arrays := self._more.get("neighbours")) is None:
            return []
        features, cosines = self._row(arrays, "features", feature), self._row(arrays, "cosines", feature)
        return list(zip(features.tolist(), cosines.tolist(), strict=True))

    def logits(self, feature: int) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
        """The tokens whose logits its direction raises most, and lowers most; empty without that part, or for a feature
        that never fires."""
        if (arrays := self._more.get("logits")) is None:
            return [], []
        row = int(self._row(arrays, "row_of", feature))
        if row < 0:
            return [], []
        found = []
        for side in ("raised", "lowered"):
            tokens, values = self._row(arrays, f"{side}_token", row), self._row(arrays, f"{side}_value", row)
            found.append([(self._tokens[t], v) for t, v in zip(tokens.tolist(), values.tolist(), strict=True)])
        return found[0], found[1]

    def _row(self, arrays: ArrayFile, name: str, row: int) -> npt.NDArray[Any]:
        with _naming(arrays.path):
            return arrays.read(name, row, row + 1)[0]


def _opened(path: Path) -> ArrayFile:
    with _naming(path):
        return ArrayFile.open(path)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise refusal(StudyError, "refused.damaged", path=path, reason=f"it has no array {error}") from error
    except ParseError as error:
        raise refusal(StudyError, "refused.damaged", path=path, reason=error) from error
