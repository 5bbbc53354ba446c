"""The stage `index`: one streamed pass over the collected features, for what pages ask of all of them.

Of every feature, over the *shown* tokens (those of stem, options and explanation that are not excluded):

    count, mean, maximum     over the tokens on which it fires; n_items, in how many cases it does
    top                      the `TOP` cases in which it is strongest: value, item, token
    quantiles                a case from each tenth of the cases in which it fires, by strength
    histogram                `BINS` bins of equal width from 0 to the maximum
    words                    the words, from white space to white space, in which it is strongest
    cases                    in which cases it fires, a bit each

and what `align` compares by: the features that it leaves out (`features.vectors.feature_mask`), the weights of the
others, the explained items, and the rare option words of each explanation (`features.option_words`). These are counted
as they stream by, and are equal to what those functions give for the whole.

The tenths are those of a sample of `SAMPLE` cases that a seeded number per feature and case draws; where a feature
fires in no more cases than that, they are exact.

After some shards the sums are written to one file, so that an interruption costs at most `CHECKPOINT` seconds; the
second pass (histogram and words), which is short, starts again. What comes out does not depend on interruptions.

Out of scope: what needs the model (`attribution`, `directions`).
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from sae_lens_med.app.index_files import FEATURES, FOLDER, KIND, PARTIAL, PARTS, WORDS_FILE, inputs_of, parts_made
from sae_lens_med.errors import StudyError
from sae_lens_med.features.option_words import leave_out_words, rare_option_words
from sae_lens_med.features.part import CollectedPart, FeaturePart
from sae_lens_med.features.store import TEXTS
from sae_lens_med.features.vectors import (
    EXPLANATION_PARTS,
    counted_tokens,
    explained_items,
    idf,
    mask_of_counts,
    token_scripts,
    tokens_of,
)
from sae_lens_med.records import BoolArray, FeatureActs, FloatArray, IntArray, McqItem
from sae_lens_med.runs.arrays import ArrayFile
from sae_lens_med.runs.files import atomic_path, json_sha256, write_json
from sae_lens_med.runs.folder import RunFolder
from sae_lens_med.runs.parsing import ParseError
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.runs.provenance import versions
from sae_lens_med.runs.written import hashes
from sae_lens_med.study.folder import read_questions

TOP, SAMPLE, TENTHS, BINS = 200, 64, 10, 40
NAMED_BY, WORDS, LONGEST = 40, 10, 40
"""The strongest cases that a feature's words are taken from, how many words, and their characters at most."""
CHECKPOINT = 20.0
"""Seconds between two writes of the sums."""
SHOWN_PARTS = ("stem", "option", "explanation")
_SEED = 0
_BLANK = re.compile(r"\s")

Advance = Callable[[], None]


@dataclass(slots=True, eq=False)
class Sums:
    """What the first pass adds to, per feature unless said otherwise; N items, k = min(TOP, N), s = min(SAMPLE, N)."""

    count: IntArray
    """`[F]`, shown tokens on which it fires."""
    total: FloatArray
    """`[F]`, sum of its activations over them."""
    maximum: npt.NDArray[np.float32]
    n_items: npt.NDArray[np.int32]
    fires: IntArray
    """`[3, F]`: counted tokens, Hangul tokens and Latin tokens on which it fires, for the mask."""
    vectors: IntArray
    """`[F]`, stems and explanations of explained items that have it, for the weights."""
    top_value: npt.NDArray[np.float32]
    """`[F, k]`; so `top_item` and `top_token` (the token's row within its item)."""
    top_item: npt.NDArray[np.int32]
    top_token: npt.NDArray[np.int32]
    sample_key: npt.NDArray[np.uint32]
    """`[F, s]`; so the other three."""
    sample_value: npt.NDArray[np.float32]
    sample_item: npt.NDArray[np.int32]
    sample_token: npt.NDArray[np.int32]
    cases: npt.NDArray[np.uint8]
    """`[ceil(N / 8), F]`, a bit for each item, the lowest first."""
    least: npt.NDArray[np.float32]
    """`[F]`, what the weakest of `top` has once there are as many as may be; below every activation before."""
    limit: IntArray
    """`[F]`, the largest key of the sample once it is full; above every key before."""
    tokens: IntArray
    """`[4]`: how many tokens are shown, counted, Hangul, Latin."""
    explained: BoolArray
    """`[N]`, the items that `align` compares."""

    _n_marks: ClassVar[int] = 2

    @classmethod
    def empty(cls, d_sae: int, n_items: int) -> "Sums":
        """Of nothing."""
        k, s = min(TOP, n_items), min(SAMPLE, n_items)
        top, sample = (d_sae, k), (d_sae, s)
        return cls(
            count=np.zeros(d_sae, np.int64),
            total=np.zeros(d_sae, np.float64),
            maximum=np.zeros(d_sae, np.float32),
            n_items=np.zeros(d_sae, np.int32),
            fires=np.zeros((3, d_sae), np.int64),
            vectors=np.zeros(d_sae, np.int64),
            top_value=np.zeros(top, np.float32),
            top_item=np.zeros(top, np.int32),
            top_token=np.zeros(top, np.int32),
            sample_key=np.zeros(sample, np.uint32),
            sample_value=np.zeros(sample, np.float32),
            sample_item=np.zeros(sample, np.int32),
            sample_token=np.zeros(sample, np.int32),
            cases=np.zeros((-(-n_items // 8), d_sae), np.uint8),
            least=np.zeros(d_sae, np.float32),
            limit=np.full(d_sae, 1 << 32, np.int64),
            tokens=np.zeros(4, np.int64),
            explained=np.zeros(n_items, np.bool_),
        )

    def add(self, part: CollectedPart, spans: list[list[tuple[int, int]]]) -> None:
        """Count a shard, of whose explanations `spans` are rare option words."""
        from sae_lens_med.app.kernels import add_tokens  # numba

        acts = part.acts
        compared, texts = leave_out_words(acts, part.texts, spans)
        counted = counted_tokens(compared)
        scripts = token_scripts(compared, texts)
        shown = shown_tokens(acts)
        hangul, latin = counted & scripts.hangul, counted & scripts.latin
        explained = explained_items(CollectedPart(compared, part.token_text, texts, part.has_explanation, part.first))
        self.explained[part.first : part.first + len(explained)] = explained
        self.tokens += [int(np.count_nonzero(chosen)) for chosen in (shown, counted, hangul, latin)]
        add_tokens(
            acts.acts.indptr.astype(np.int64),
            acts.acts.indices.astype(np.int32, copy=False),
            np.asarray(acts.acts.data, dtype=np.float32),
            np.searchsorted(acts.token_item, np.arange(len(acts.item_ids) + 1)).astype(np.int64),
            part.first,
            _SEED,
            shown,
            counted,
            hangul,
            latin,
            tokens_of(acts, EXPLANATION_PARTS),
            explained,
            *(getattr(self, each.name) for each in fields(self)[: -self._n_marks]),
        )

    def take(self, name: str) -> npt.NDArray[Any]:
        """The array of this name, of which nothing is kept: together they are most of the memory."""
        found = getattr(self, name)
        setattr(self, name, np.zeros((0,) * found.ndim, found.dtype))
        return found

    def write(self, path: Path, about: dict[str, str]) -> None:
        """For `read`."""
        with atomic_path(path) as temporary:
            save_file({each.name: getattr(self, each.name) for each in fields(self)}, temporary, metadata=about)

    @classmethod
    def read(cls, path: Path, about: dict[str, str]) -> "tuple[Sums, int] | None":
        """What was written of the same inputs, and the next shard; None where there is nothing of the kind."""
        try:
            file = ArrayFile.open(path)
            if {name: file.metadata.get(name) for name in about} != about:
                return None
            with file.reading() as arrays:
                return cls(**{each.name: arrays.read(each.name) for each in fields(cls)}), int(file.metadata["next"])
        except (ParseError, KeyError):
            return None


def shown_tokens(acts: FeatureActs) -> BoolArray:
    """`[n_tokens]`, the tokens that what is said of a feature is over: stem, options, explanation, none excluded."""
    return tokens_of(acts, SHOWN_PARTS) & ~acts.excluded


def build_index(study: Path, *, rebuild: bool = False, progress: bool = True) -> bool:
    """Make the part `features` of the study's index where it is missing or stale; return whether it was made.

    Args:
        study: folder of a study whose features are collected.
        rebuild: make it anew, whatever there is.
        progress: show a bar on stderr.

    Raises `StudyError` where the features are missing, unfinished or damaged, or are not of the study's questions, and
    where another process is indexing.
    """
    part, items, run = begin(study, rebuild=rebuild)
    if "features" in run.parts:
        return False
    start, folder = perf_counter(), run.path
    spans = rare_option_words(items, _explanations(part, items))
    del items  # some ten kilobytes each
    partial = folder / PARTIAL["features"]
    about = {"inputs": json_sha256([run.kind.identity(run.values), TOP, SAMPLE])}
    with progress_bar(progress) as bar:
        task = bar.add_task("index", total=2 * part.n_shards)
        sums, first = Sums.read(partial, about) or (Sums.empty(part.d_sae, part.n_items), 0)
        bar.advance(task, first)
        written = perf_counter()
        for index in range(first, part.n_shards):
            numbers = part.items_of(index)
            sums.add(part.shard(index), spans[numbers.start : numbers.stop])
            bar.advance(task)
            if perf_counter() - written > CHECKPOINT:
                sums.write(partial, about | {"next": str(index + 1)})
                written = perf_counter()
        _finish(folder, part, sums, spans, lambda: bar.advance(task))
    run.finish("features", perf_counter() - start, files=hashes(folder, PARTS["features"]))
    partial.unlink(missing_ok=True)
    return True


def begin(study: Path, *, rebuild: bool = False) -> tuple[FeaturePart, list[McqItem], RunFolder]:
    """The study's features and items, checked to belong together, and the folder of its index, held by this process;
    what is stale in it is gone. Raises as `build_index`."""
    part = FeaturePart(study / "features")
    if part.broken:
        raise StudyError(next(iter(part.broken.values())))
    if not part.complete:
        raise StudyError(
            f"{part.folder} holds the features of {part.n_items} of {part.manifest['n_items']} items; run the study "
            "again, which goes on, and then index it."
        )
    items = list(read_questions(study).values())
    if len(items) != part.n_items:
        raise StudyError(
            f"{study} has {len(items)} questions and the features of {part.n_items} items; run the study again."
        )
    inputs = inputs_of(study, part)
    run_folder = study / FOLDER
    made, _ = parts_made(study, part)
    if rebuild or not made:
        _clear(run_folder)
    run = RunFolder(run_folder, KIND, {**inputs, "versions": versions(), "parts": {}})
    run.begin()
    for name in [name for name in run.parts if name not in made]:
        del run.parts[name]
    return part, items, run


def _clear(folder: Path) -> None:
    """Take away an index that is stale, damaged or not wanted; what people wrote stays, and so does what is not
    finished, which knows itself what it is of."""
    (folder / KIND.manifest).unlink(missing_ok=True)
    for name in (name for files in PARTS.values() for name in files):
        (folder / name).unlink(missing_ok=True)


def _explanations(part: FeaturePart, items: list[McqItem]) -> list[str | None]:
    """The masked explanations as they were run. Raises `StudyError` where the features are of other items."""
    found: list[str | None] = []
    for index in range(part.n_shards):
        texts = part.shard_texts(index)
        numbers = part.items_of(index)
        if list(texts) != [item.id for item in items[numbers.start : numbers.stop]]:
            raise StudyError(f"{part.folder} holds the features of other items than the study's; run the study again.")
        found += [own.get("explanation") for own in texts.values()]
    return found


def _finish(folder: Path, part: FeaturePart, sums: Sums, spans: list[list[tuple[int, int]]], advance: Advance) -> None:
    """The second pass, and the files."""
    from sae_lens_med.app.kernels import sort_heaps  # numba

    sort_heaps(sums.top_value, sums.top_item, sums.top_token, sums.n_items)
    sort_heaps(sums.sample_value, sums.sample_item, sums.sample_token, sums.n_items)
    words = _Words(sums)
    arrays: dict[str, npt.NDArray[Any]] = _tenths(sums)
    for name in ("sample_key", "sample_value", "sample_item", "sample_token"):
        sums.take(name)
    there = np.arange(sums.top_value.shape[1])[None] < sums.n_items[:, None]
    mask = mask_of_counts(sums.fires.astype(np.float64), *(int(n) for n in sums.tokens[1:]))
    arrays |= {
        "count": sums.count,
        "mean": sums.total / np.maximum(sums.count, 1),
        "maximum": sums.maximum,
        "n_items": sums.n_items,
        "dense": mask.dense,
        "script": mask.script,
        "weights": idf(
            2 * int(np.count_nonzero(sums.explained)), np.where(mask.kept, sums.vectors, 0).astype(np.float64)
        ),
        "cases": np.ascontiguousarray(sums.take("cases").T),
        "top_indptr": np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int64),
        "top_value": sums.take("top_value")[there],
        "top_item": _narrow(sums.take("top_item")[there]),
        "top_token": _narrow(sums.take("top_token")[there]),
        "tokens": sums.tokens,
        "explained": sums.explained,
        "option_word_indptr": np.concatenate([[0], np.cumsum([len(own) for own in spans])]).astype(np.int64),
        "option_words": np.array([span for own in spans for span in own], dtype=np.int32).reshape(-1, 2),
        "histogram": np.zeros((part.d_sae, BINS), np.uint32),
    }
    for index in range(part.n_shards):
        _count_again(part.shard(index), sums.maximum, arrays["histogram"], words)
        advance()
    names, arrays["word_indptr"], arrays["word_ids"] = words.result()
    with atomic_path(folder / FEATURES) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)
    write_json(folder / WORDS_FILE, names)


def _count_again(shard: CollectedPart, maximum: npt.NDArray[Any], histogram: npt.NDArray[Any], words: "_Words") -> None:
    """Count a shard in the second pass."""
    from sae_lens_med.app.kernels import add_histogram  # numba

    csr = shard.acts.acts
    indptr, indices = csr.indptr.astype(np.int64), csr.indices.astype(np.int32, copy=False)
    data = np.asarray(csr.data, dtype=np.float32)
    add_histogram(indptr, indices, data, shown_tokens(shard.acts), maximum, histogram)
    words.add(shard)


def _narrow(values: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
    """In 16 bits where they fit."""
    return values.astype(np.uint16 if not len(values) or values.max() < 1 << 16 else np.uint32)


def _tenths(sums: Sums) -> dict[str, npt.NDArray[Any]]:
    """`[F, TENTHS]` each: value, item and token of a case from each tenth of those in which the feature fires, the
    strongest tenth first; value 0 where it fires in too few cases for one."""
    size = np.minimum(sums.n_items, sums.sample_value.shape[1])
    place = ((np.arange(TENTHS) + 0.5) * size[:, None] / TENTHS).astype(np.int64)
    fresh = np.ones(place.shape, dtype=bool)
    fresh[:, 1:] = place[:, 1:] != place[:, :-1]
    fresh &= size[:, None] > 0
    place = np.minimum(place, max(sums.sample_value.shape[1] - 1, 0))
    found = {
        name: np.where(fresh, np.take_along_axis(array, place, axis=1), 0)
        for name, array in (
            ("tenth_value", sums.sample_value),
            ("tenth_item", sums.sample_item),
            ("tenth_token", sums.sample_token),
        )
    }
    return found | {"tenth_item": _narrow(found["tenth_item"]), "tenth_token": _narrow(found["tenth_token"])}


class _Words:
    """The words of the tokens in which each feature is strongest: of a token that is a syllable or half of one, what a
    person can read."""

    def __init__(self, sums: Sums) -> None:
        k = min(NAMED_BY, sums.top_value.shape[1])
        there = np.arange(k)[None] < sums.n_items[:, None]
        item, token = sums.top_item[:, :k][there], sums.top_token[:, :k][there]
        self._order = np.argsort(item, kind="stable").astype(np.int32)
        self._item, self._token = item[self._order], token[self._order]
        self._indptr = np.concatenate([[0], np.cumsum(np.minimum(sums.n_items, k))])
        self._ids = np.full(len(item), -1, dtype=np.int32)
        self._number: dict[str, int] = {}

    def add(self, shard: CollectedPart) -> None:
        """Look up those that lie in this shard."""
        acts = shard.acts
        texts = [[own.get(name, "") for name in TEXTS] for own in shard.texts.values()]
        blanks = [[[found.start() for found in _BLANK.finditer(text)] for text in own] for own in texts]
        begins = np.searchsorted(acts.token_item, np.arange(len(texts) + 1))
        low, high = np.searchsorted(self._item, [shard.first, shard.first + len(texts)])
        item = self._item[low:high] - shard.first
        row = begins[item] + self._token[low:high]
        places = zip(
            item.tolist(),
            shard.token_text[row].tolist(),
            acts.char_start[row].tolist(),
            acts.char_end[row].tolist(),
            strict=True,
        )
        found = np.empty(high - low, dtype=np.int32)
        for n, (i, text, start, end) in enumerate(places):
            word = _word(texts[i][text], blanks[i][text], start, end)
            found[n] = self._number.setdefault(word, len(self._number)) if word else -1
        self._ids[self._order[low:high]] = found

    def result(self) -> tuple[list[str], IntArray, npt.NDArray[np.int32]]:
        """The words that are used, the commonest first; and per feature which, strongest first, as CSR."""
        chosen: list[list[int]] = []
        for start, end in zip(self._indptr[:-1].tolist(), self._indptr[1:].tolist(), strict=True):
            own = dict.fromkeys(n for n in self._ids[start:end].tolist() if n >= 0)
            chosen.append(list(own)[:WORDS])
        used = Counter(n for own in chosen for n in own)
        names = list(self._number)
        order = sorted(used, key=lambda n: (-used[n], names[n]))
        moved = {n: place for place, n in enumerate(order)}
        ids = np.array([moved[n] for own in chosen for n in own], dtype=np.int32)
        indptr = np.concatenate([[0], np.cumsum([len(own) for own in chosen])]).astype(np.int64)
        return [names[n] for n in order], indptr, ids


def _word(text: str, blanks: list[int], start: int, end: int) -> str:
    """The word at a token, between two of the `blanks` of `text` (ascending); of a long one the characters from the
    token on. Empty for a token of white space."""
    while start < end and text[start].isspace():
        start += 1
    if start == end:
        return ""
    after = bisect_right(blanks, start)
    first = blanks[after - 1] + 1 if after else 0
    last = blanks[after] if after < len(blanks) else len(text)
    return text[first if last - first <= LONGEST else start : last][:LONGEST]
