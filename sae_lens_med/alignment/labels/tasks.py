"""Pieces of text that a judge of feature labels is asked about (domain metric #13; what they measure: `scores`).

A piece is a window around a counted token of a stem, an option or an explanation. For **detection** half of a feature's
pieces are its strongest contexts, one per text, and as many are windows of random tokens in which it does not fire. For
**fuzzing** all are its contexts, in order of strength; in every other one the tokens on which it fires are marked, in
the others as many random tokens of the window on which it does not.

A label must not be scored on the texts that it was made from: `exclude_items` leaves items out.

Out of scope: pieces from texts outside the study.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from sae_lens_med.data.leakage import joins_previous
from sae_lens_med.errors import ConfigError
from sae_lens_med.features.vectors import Collected, n_columns, tokens_of
from sae_lens_med.records import BoolArray, IntArray

Kind = Literal["detection", "fuzzing"]
KINDS: tuple[Kind, ...] = get_args(Kind)

OPEN, CLOSE = "«", "»"
"""Around a marked token."""
N_EXAMPLES = 10
"""Pieces of each answer (yes, no) per feature and kind."""
PIECE_PARTS = ("stem", "option", "explanation")
WINDOW = 80
"""Characters on either side of a context's token."""


@dataclass(frozen=True, slots=True)
class Example:
    """One piece of text that a judge is asked about."""

    text: str
    """With the marks, for fuzzing."""
    truth: bool


@dataclass(frozen=True, slots=True)
class LabelTask:
    """What a judge is asked about one feature; `examples` in random order."""

    feature: int
    kind: Kind
    examples: tuple[Example, ...]


def label_tasks(
    features: Collected,
    wanted: Sequence[int],
    rng: np.random.Generator,
    *,
    kinds: Sequence[Kind] = KINDS,
    n_examples: int = N_EXAMPLES,
    window: int = WINDOW,
    parts: Sequence[str] = PIECE_PARTS,
    exclude_items: BoolArray | None = None,
) -> list[LabelTask]:
    """What a judge is to be asked about each feature.

    Args:
        features: collected activations of the study's texts.
        wanted: features; those with fewer than two contexts, or without text to set beside them, get no task.
        rng: of the random pieces and their order.
        kinds: of `KINDS`.
        n_examples: most pieces of each answer, >= 1. As many of "no" as of "yes".
        window: characters on either side.
        parts: of the texts, whose tokens are looked at.
        exclude_items: `[n_items]`, True for items whose texts are not used.

    Only counted tokens are looked at, and one context per text at most. Raises
    `ConfigError` for a feature that does not exist or an unknown kind.
    """
    if n_examples < 1 or window < 0 or not set(kinds) <= set(KINDS):
        raise ConfigError(f"label tasks need n_examples >= 1, window >= 0 and kinds of {', '.join(KINDS)}.")
    pieces = _Pieces(features, window, tuple(parts), exclude_items)
    tasks: list[LabelTask] = []
    for feature in wanted:
        if not 0 <= feature < pieces.n_features:
            raise ConfigError(f"feature {feature} does not exist: the SAE has features 0 to {pieces.n_features - 1}.")
        strongest = pieces.strongest(feature, n_examples)
        for kind in kinds:
            examples = (pieces.detection if kind == "detection" else pieces.fuzzing)(feature, strongest, rng)
            if len(examples) >= 4:
                order = rng.permutation(len(examples))
                tasks.append(LabelTask(int(feature), kind, tuple(examples[i] for i in order)))
    return tasks


def marked_contexts(
    features: Collected,
    wanted: Sequence[int],
    rng: np.random.Generator,
    *,
    n_examples: int = N_EXAMPLES,
    window: int = WINDOW,
    exclude_items: BoolArray | None = None,
) -> dict[int, tuple[tuple[str, ...], tuple[str, ...]]]:
    """What somebody who is to name features reads of each: its strongest contexts with every token marked on which it
    fires, and as many pieces in which it does not.

    The arguments are those of `label_tasks`; features without a context are left out.
    """
    pieces = _Pieces(features, window, PIECE_PARTS, exclude_items)
    found = {}
    for feature in wanted:
        strongest = pieces.strongest(feature, n_examples)
        if len(strongest):
            fires = pieces.fires(feature)
            silent = [each.text for each in pieces.detection(feature, strongest, rng) if not each.truth]
            found[feature] = (tuple(pieces.marked(token, fires) for token in strongest), tuple(silent))
    return found


class _Pieces:
    """Windows of the collected texts, and what fires in them."""

    def __init__(
        self, features: Collected, window: int, parts: tuple[str, ...], exclude_items: BoolArray | None
    ) -> None:
        acts = features.acts
        self.texts, self.window = features.texts, window
        self.item_ids = acts.item_ids
        self.n_features = n_columns(acts.acts)
        usable = tokens_of(acts, parts) & ~acts.excluded & (acts.char_end > acts.char_start)
        if exclude_items is not None:
            usable &= ~np.asarray(exclude_items, dtype=bool)[acts.token_item]
        self.rows = np.flatnonzero(usable)
        explained = tokens_of(acts, ("explanation",))[self.rows]
        # A text is a question or an explanation: tokens of one may stand in one window.
        self.text = 2 * acts.token_item[self.rows].astype(np.int64) + explained
        self.start, self.end = (ends[self.rows].astype(np.int64) for ends in (acts.char_start, acts.char_end))
        self.by_feature = acts.acts[self.rows].tocsc()
        self.of_text = {int(text): np.flatnonzero(self.text == text) for text in np.unique(self.text)}

    def strongest(self, feature: int, n: int) -> IntArray:
        """The tokens on which it is strongest, one per text; of equals the earlier."""
        column = slice(self.by_feature.indptr[feature], self.by_feature.indptr[feature + 1])
        tokens, values = self.by_feature.indices[column].astype(np.int64), self.by_feature.data[column]
        tokens, values = tokens[values > 0], values[values > 0]
        order = np.lexsort((tokens, -values))
        _, first = np.unique(self.text[tokens[order]], return_index=True)
        return tokens[order][np.sort(first)][:n]

    def fires(self, feature: int) -> BoolArray:
        column = slice(self.by_feature.indptr[feature], self.by_feature.indptr[feature + 1])
        fires = np.zeros(len(self.rows), dtype=bool)
        fires[self.by_feature.indices[column][self.by_feature.data[column] > 0]] = True
        return fires

    def detection(self, feature: int, strongest: IntArray, rng: np.random.Generator) -> list[Example]:
        fires = self.fires(feature)
        positives = [Example(self._shown(token), True) for token in strongest]
        negatives: list[Example] = []
        for token in rng.permutation(len(self.rows))[: 50 * len(positives)]:
            if len(negatives) == len(positives):
                break
            if not fires[self._within(token)].any():
                negatives.append(Example(self._shown(token), False))
        return [*positives[: len(negatives)], *negatives]

    def fuzzing(self, feature: int, strongest: IntArray, rng: np.random.Generator) -> list[Example]:
        fires = self.fires(feature)
        examples: list[Example] = []
        # Every other context is marked wrongly, so that both kinds are equally strong.
        for k, token in enumerate(strongest[: len(strongest) // 2 * 2]):
            within = self._within(token)
            right, silent = within[fires[within]], within[~fires[within]]
            # Tokens that share characters with a firing one (pieces of a syllable) cannot be told from it.
            silent = silent[~_overlap(self.start[silent], self.end[silent], self.start[right], self.end[right])]
            if k % 2 == 0:
                examples.append(Example(self._shown(token, right), True))
            elif len(silent):
                wrong = rng.choice(silent, size=min(len(right), len(silent)), replace=False)
                examples.append(Example(self._shown(token, np.sort(wrong)), False))
        return examples

    def marked(self, token: int, fires: BoolArray) -> str:
        """A context with the tokens marked on which a feature `fires`."""
        within = self._within(token)
        return self._shown(token, within[fires[within]])

    def _bounds(self, token: int) -> tuple[str, int, int]:
        number = int(self.text[token])
        text = self.texts[self.item_ids[number // 2]]["explanation" if number % 2 else "question"]
        left, right = max(0, int(self.start[token]) - self.window), min(len(text), int(self.end[token]) + self.window)
        while 0 < left < self.start[token] and joins_previous(text[left]):
            left -= 1
        while self.end[token] < right < len(text) and joins_previous(text[right]):
            right += 1
        return text, left, right

    def _within(self, token: int) -> IntArray:
        """The counted tokens that stand in the token's window, in order."""
        _, left, right = self._bounds(token)
        own = self.of_text[int(self.text[token])]
        inside = own[(self.end[own] > left) & (self.start[own] < right)]
        return inside[np.argsort(self.start[inside], kind="stable")]

    def _shown(self, token: int, marked: IntArray | None = None) -> str:
        text, left, right = self._bounds(token)
        plain = text.translate({ord(OPEN): '"', ord(CLOSE): '"'})
        spans: list[list[int]] = []
        for k in [] if marked is None else marked:
            start, end = max(left, int(self.start[k])), min(right, int(self.end[k]))
            if spans and start <= spans[-1][1]:
                spans[-1][1] = max(spans[-1][1], end)
            else:
                spans.append([start, end])
        out, at = [], left
        for start, end in spans:
            out += [plain[at:start], OPEN, plain[start:end], CLOSE]
            at = end
        return " ".join("".join([*out, plain[at:right]]).split())


def _overlap(start: IntArray, end: IntArray, others_start: IntArray, others_end: IntArray) -> BoolArray:
    shares: BoolArray = (start[:, None] < others_end[None]) & (end[:, None] > others_start[None])
    return np.asarray(shares.any(axis=1))
