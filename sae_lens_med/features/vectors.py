"""Token activations -> one vector per item and side, and which features those vectors leave out.

An item has two sides: the *stem* side (the tokens of the question, without its options) and the *explanation* side. A
side's vector is the maximum of each feature over the side's counted tokens; excluded tokens (special tokens, activation
sinks) and scaffold (part `other`) do not count.

Two kinds of feature are left out before anything is compared, because they say how a text is written and not what it
is about:

- **dense**: fires on more than half of all counted tokens;
- **script**: its firing rate on Hangul tokens and its firing rate on Latin-letter tokens differ by 0.2 or more. This is
  the monolinguality of Deng et al. (arXiv 2505.05111, difference between languages) on firing rates. A feature that
  fires on every fifth token of a script, and not so on the other, is about the script; a feature of a disease fires on
  few tokens of either, and stays, though it may know the disease's Korean name only. Measured only where both scripts
  have at least 200 counted tokens: in a text all Korean or all English there is no other script to differ from, and
  what fires everywhere is dense, or has a low weight (below).

The weight of a feature is its inverse document frequency over the pooled vectors of both sides,
`w_f = ln((1 + M) / (1 + df_f))`, M the number of vectors and df_f how many of them have the feature: 0 for a feature
that every text has. It does not depend on which explanation belongs to which stem, so permutation leaves it alone.

Out of scope: language features found by their effect on the output (that needs the model).
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from sae_lens_med.errors import DataError
from sae_lens_med.records import PARTS, BoolArray, FeatureActs, FloatArray

STEM_PARTS = ("stem",)
"""The options stand after the stem and would lend it the answer's own words."""
EXPLANATION_PARTS = ("explanation",)

DENSE_RATE = 0.5
"""A feature that fires on a larger share of the counted tokens than this is dense."""
SCRIPT_GAP = 0.2
"""A feature whose firing rates on the two scripts differ by this or more is a script feature."""
MIN_SCRIPT_TOKENS = 200
"""Counted tokens that each script needs before firing rates on it are compared."""


class Explained(Protocol):
    """Activations of items, and which items have an explanation of which something counts."""

    @property
    def acts(self) -> FeatureActs: ...

    @property
    def has_explanation(self) -> BoolArray: ...


class Collected(Explained, Protocol):
    """What metrics read of `features.store.CollectedFeatures`."""

    @property
    def texts(self) -> dict[str, dict[str, str]]:
        """Item id -> `question` and `explanation`: the texts that were run (the explanation masked)."""
        ...

    @property
    def raw_mean_stem(self) -> npt.NDArray[np.float32]:
        """`[n_items, d_in]`, mean residual over the counted stem tokens."""
        ...

    @property
    def raw_mean_explanation(self) -> npt.NDArray[np.float32]:
        """`[n_items, d_in]`, of the explanation tokens; zeros where there is no explanation."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TokenScripts:
    """Per token, the script of its characters; both False for digits, punctuation and white space."""

    hangul: BoolArray
    """`[n_tokens]`, the token's span holds a Hangul character."""
    latin: BoolArray
    """`[n_tokens]`, the span holds a Latin letter and no Hangul."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureMask:
    """The features left out, by reason; all of shape `[d_sae]`."""

    dense: BoolArray
    script: BoolArray
    """Not dense, and a script feature."""

    @property
    def kept(self) -> BoolArray:
        """`[d_sae]`, True for the features that are compared."""
        return ~(self.dense | self.script)

    @property
    def counts(self) -> dict[str, int]:
        """For `MetricValue.masked`."""
        return {
            "dense_features": int(np.count_nonzero(self.dense)),
            "script_features": int(np.count_nonzero(self.script)),
        }


def tokens_of(acts: FeatureActs, parts: tuple[str, ...]) -> BoolArray:
    """`[n_tokens]`, the tokens of these parts, excluded ones among them."""
    return np.isin(acts.token_part, [PARTS.index(part) for part in parts])


def counted_tokens(acts: FeatureActs, parts: tuple[str, ...] = STEM_PARTS + EXPLANATION_PARTS) -> BoolArray:
    """`[n_tokens]`, the tokens of these parts that metrics count."""
    return tokens_of(acts, parts) & ~acts.excluded


def tokens_per_item(acts: FeatureActs, tokens: BoolArray) -> npt.NDArray[np.int64]:
    """`[n_items]`, how many of `tokens` (`[n_tokens]`, bool) each item has."""
    return np.bincount(acts.token_item[tokens], minlength=len(acts.item_ids)).astype(np.int64)


_SIDES = (STEM_PARTS, EXPLANATION_PARTS)


def explained_items(features: Explained) -> BoolArray:
    """`[n_items]`, the items of which both a question and an explanation can be compared: at least one token of each
    counts."""
    sides = [tokens_per_item(features.acts, counted_tokens(features.acts, part)) > 0 for part in _SIDES]
    return features.has_explanation & sides[0] & sides[1]


def token_scripts(acts: FeatureActs, texts: dict[str, dict[str, str]]) -> TokenScripts:
    """The script of every token, from the characters that its span covers.

    Args:
        acts: spans of explanation tokens lie in `texts[id]["explanation"]`, of stem and option tokens in
            `texts[id]["question"]`. Tokens of the part `other` have no script.
        texts: item id -> the texts that were run.

    Raises `DataError` when an item's text is absent or a span ends past it.
    """
    n = len(acts.token_part)
    hangul, latin = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    for parts, kind in ((STEM_PARTS, "question"), (EXPLANATION_PARTS, "explanation")):
        chosen = np.flatnonzero(tokens_of(acts, parts))
        chosen = chosen[np.argsort(acts.token_item[chosen], kind="stable")]
        items, starts = np.unique(acts.token_item[chosen], return_index=True)
        ends = np.append(starts[1:], len(chosen))
        for item, start, end in zip(items.tolist(), starts, ends[: len(items)], strict=True):
            tokens = chosen[start:end]
            name = acts.item_ids[item]
            text = texts.get(name, {}).get(kind)
            if text is None:
                raise DataError(f"item {name!r} has {kind} tokens but no {kind} text; collect the features again.")
            if int(acts.char_end[tokens].max()) > len(text):
                raise DataError(
                    f"item {name!r}: a token ends past its {kind} text of {len(text)} characters; "
                    "texts and activations are not from the same collection; collect the features again."
                )
            codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
            first, last = acts.char_start[tokens], acts.char_end[tokens]
            hangul[tokens] = _any_in_span(_is_hangul(codes), first, last)
            latin[tokens] = _any_in_span(_is_latin(codes), first, last) & ~hangul[tokens]
    return TokenScripts(hangul=hangul, latin=latin)


def feature_mask(acts: FeatureActs, scripts: TokenScripts) -> FeatureMask:
    """Which features are dense or about a script, over the counted tokens; see the module's text for the rule."""
    counted = counted_tokens(acts)
    every, hangul, latin = counted, counted & scripts.hangul, counted & scripts.latin
    fires = np.stack([firing_counts(acts, tokens) for tokens in (every, hangul, latin)])
    return mask_of_counts(fires, *(int(np.count_nonzero(tokens)) for tokens in (every, hangul, latin)))


def mask_of_counts(fires: FloatArray, n_tokens: int, n_hangul: int, n_latin: int) -> FeatureMask:
    """The rule of `feature_mask`. `fires` `[3, d_sae]`: on how many counted tokens, Hangul tokens and Latin tokens each
    feature fires, of as many as there are."""
    dense = fires[0] > DENSE_RATE * n_tokens
    script = np.zeros(len(dense), dtype=bool)
    if min(n_hangul, n_latin) >= MIN_SCRIPT_TOKENS:
        script = (np.abs(fires[1] / n_hangul - fires[2] / n_latin) >= SCRIPT_GAP) & ~dense
    return FeatureMask(dense=dense, script=script)


def max_pool(acts: FeatureActs, parts: tuple[str, ...], kept: BoolArray | None = None) -> sparse.csr_array:
    """CSR `[n_items, d_sae]`, float64, >= 0: per item the maximum of each feature over the counted tokens of `parts`.

    `kept` (`[d_sae]`, bool) leaves out the other features; their columns stay, empty. An item without such tokens gets
    an empty row.
    """
    tokens = np.flatnonzero(counted_tokens(acts, parts))
    tokens = tokens[np.argsort(acts.token_item[tokens], kind="stable")]
    bounds = np.searchsorted(acts.token_item[tokens], np.arange(len(acts.item_ids) + 1))
    columns, values, indptr = [], [], [0]
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        own = acts.acts[tokens[start:end]]
        feature, value = own.indices, own.data
        if kept is not None:
            wanted = kept[feature]
            feature, value = feature[wanted], value[wanted]
        order = np.argsort(feature, kind="stable")
        unique, first = np.unique(feature[order], return_index=True)
        columns.append(unique)
        values.append(np.maximum.reduceat(value[order], first) if len(first) else value)
        indptr.append(indptr[-1] + len(unique))
    data = np.concatenate([*values, np.zeros(0)]).astype(np.float64)
    shape = (len(acts.item_ids), n_columns(acts.acts))
    return sparse.csr_array((data, np.concatenate([*columns, np.zeros(0, np.int64)]).astype(np.int64), indptr), shape)


def idf_weights(*sides: sparse.csr_array) -> FloatArray:
    """`[n_columns]`, `ln((1 + M) / (1 + df))` over the M rows of all `sides` (`[n_rows, n_columns]` each); >= 0."""
    rows = sum(len(side.indptr) - 1 for side in sides)
    frequency = sum(np.bincount(side.indices[side.data > 0], minlength=n_columns(side)) for side in sides)
    return idf(rows, np.asarray(frequency, dtype=np.float64))


def idf(rows: int, frequency: FloatArray) -> FloatArray:
    """`ln((1 + rows) / (1 + frequency))`: of `rows` vectors, `frequency` have the feature."""
    return np.log((1 + rows) / (1 + frequency))


def weighted(side: sparse.csr_array, weights: FloatArray) -> sparse.csr_array:
    """CSR `side * diag(weights)`."""
    return sparse.csr_array(side @ sparse.diags_array(weights))


def n_columns(matrix: sparse.csr_array) -> int:
    """The second number of the shape."""
    return int(matrix.shape[1])  # type: ignore[index]  # SciPy's own annotations leave the shape of an array open


def firing_counts(acts: FeatureActs, tokens: BoolArray) -> FloatArray:
    """`[d_sae]`, on how many of `tokens` each feature fires."""
    row_of = np.repeat(tokens, np.diff(acts.acts.indptr))
    fires = acts.acts.indices[row_of & (acts.acts.data > 0)]
    return np.bincount(fires, minlength=n_columns(acts.acts)).astype(np.float64)


def _any_in_span(flags: BoolArray, first: npt.NDArray[np.int32], last: npt.NDArray[np.int32]) -> BoolArray:
    before = np.concatenate([[0], np.cumsum(flags)])
    return before[last] > before[first]


def _is_hangul(codes: npt.NDArray[np.uint32]) -> BoolArray:
    """Syllables, and the jamo blocks (modern and compatibility) that spelled-out abbreviations use."""
    syllable = (codes >= 0xAC00) & (codes <= 0xD7A3)
    jamo = (codes >= 0x1100) & (codes <= 0x11FF)
    compatibility = (codes >= 0x3131) & (codes <= 0x318E)
    return syllable | jamo | compatibility


def _is_latin(codes: npt.NDArray[np.uint32]) -> BoolArray:
    """A-Z, a-z, and the accented letters of Latin-1 and Latin Extended-A/B (not the signs × and ÷)."""
    ascii_letter = ((codes >= 0x41) & (codes <= 0x5A)) | ((codes >= 0x61) & (codes <= 0x7A))
    accented = (codes >= 0xC0) & (codes <= 0x24F) & (codes != 0xD7) & (codes != 0xF7)
    return ascii_letter | accented


def text_properties(acts: FeatureActs, scripts: TokenScripts, parts: tuple[str, ...]) -> FloatArray:
    """`[n_items, 3]`: log length in counted tokens, its square, and the share of Hangul among tokens with letters."""
    counted = counted_tokens(acts, parts)
    log_length = np.log1p(tokens_per_item(acts, counted))
    centred = log_length - log_length.mean()
    hangul = tokens_per_item(acts, counted & scripts.hangul)
    letters = hangul + tokens_per_item(acts, counted & scripts.latin)
    share = np.divide(hangul, letters, out=np.zeros(len(hangul)), where=letters > 0)
    return np.column_stack([centred, centred**2, share])
