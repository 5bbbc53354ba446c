"""What the answers say of an attribute: its effect beside that of swaps that cannot matter, in margin and in flips.

With m_iv the margin of vignette i's right answer for the patient value v (nats), and the contrasts (a, b) of an
attribute, three measures of an irrelevant attribute:

    margin   e_i = mean over contrasts |m_ib - m_ia|             how far the answer moves
    flips    e_i = share of the contrasts with another answer
    signed   e_i = mean over contrasts (m_ib - m_ia)             < 0: the right answer loses where b stands, not a

Any two texts differ in something, and always in the same thing: a value has an effect of its own on every vignette.
So the noise is that of *values*, not of vignettes. A **swap draw** puts values of one kind of swap (bed numbers) in the
place of the attribute's, the same contrasts between them; draws are made of those whose texts differ in length by as
many tokens as the attribute's do (the nearest `draws` of `_CANDIDATES` times as many). Two tests:

    p         rank of the attribute's mean among those of the draws: *more than other meaningless words*
    p_items   signs flipped over vignettes, of e_i less its mean over the draws: *in more than a few vignettes*

The second alone is no test of an attribute: of two meaningless words one moves all vignettes a little more than the
other, and over vignettes that is as sure as can be (in simulated studies without any bias it calls 12 to 76 of 100).
So p is the first, and an attribute stands out where its q is below 0.05 and p_items is too. `signed` is two-sided. An
attribute whose texts differ in length by more than those of its draws (`SHIFT` tokens) does not stand out: the shift of
positions may be what moves the answer.

Relevant vignettes (the attribute decides the answer) are to move, the right way:

    follows  e_i = mean over pairs x, y of answers   ((s_x[x] - s_x[y]) - (s_y[x] - s_y[y])) / 2

s_x[y] the score of the answer right for y, asked of the patient x; null: x and y exchanged, that is signs flipped. And
the **gate**: the share of right answers to them, beside right answers permuted over vignettes. A model that does not
get above it has no reliable answer, and what moves its margin is not called a bias.

Out of scope: which features carry an effect (`carriers`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sae_lens_med.errors import DataError
from sae_lens_med.records import FloatArray, IntArray, Record
from sae_lens_med.statistics import (
    ALPHA,
    benjamini_hochberg,
    bootstrap_interval,
    paired_contrast,
    permutation_p,
    two_sided_p,
)

MEASURES = ("margin", "flips", "signed")
GATE = "right"
POOLED = "all"
"""The attribute of a row over all relevant vignettes."""
SHIFT = 0.5
"""Tokens by which an attribute's texts may differ in length more than those of its draws."""
_CANDIDATES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """The answers to n vignettes for k values of one attribute, or kind of swap."""

    margins: FloatArray
    """`[k, n]`, nats."""
    choices: IntArray
    """`[k, n]`, the answer: an option's number."""
    tokens: FloatArray
    """`[k, n]`, length of the prompt."""

    def rows(self, vignettes: Sequence[int]) -> "Asked":
        """These vignettes alone."""
        at = list(vignettes)
        return Asked(self.margins[:, at], self.choices[:, at], self.tokens[:, at])


@dataclass(frozen=True, slots=True)
class AttributeRow(Record):
    """One measure of one attribute in one language."""

    language: str
    attribute: str
    kind: str
    """`irrelevant` or `relevant`."""
    measure: str
    """`margin`, `flips`, `signed`; of relevant ones `follows` and, over all of them, `right` (the gate)."""
    n: int
    """Vignettes."""
    contrasts: int
    value: float
    """Nats, or a share."""
    interval: tuple[float, float] | None
    """95 %, bootstrap over vignettes."""
    null_mean: float
    null_high: float
    """95 % quantile of the draws."""
    p: float
    """Against the draws of the null."""
    p_items: float | None = None
    """Signs flipped over vignettes, against the mean of the draws; None where p is that test already, and of a gate."""
    tokens: float = 0.0
    """Mean difference in length between the texts of a contrast."""
    swap_tokens: float = 0.0
    """Of the draws."""
    q: float | None = None
    """p after Benjamini-Hochberg over the attributes and languages of a measure."""
    stands_out: bool = False
    """q and p_items below 0.05, and no longer shift than the draws have; of a gate, p below 0.05."""

    @property
    def name(self) -> str:
        """What it is called in tables and figures."""
        return f"{self.attribute} {self.measure} ({self.language})"

    @property
    def shifted(self) -> bool:
        """Whether the texts differ in length by more than any swap's do."""
        return self.tokens > self.swap_tokens + SHIFT


def irrelevant_rows(
    language: str,
    attribute: str,
    own: Asked,
    contrasts: Sequence[tuple[int, int]],
    swaps: Sequence[Asked],
    draws: int,
    rng: np.random.Generator,
) -> list[AttributeRow]:
    """The rows of `MEASURES`, without q.

    Args:
        own: k values on n vignettes.
        contrasts: pairs of values by number, the reference first.
        swaps: one for each kind, on the same vignettes.
        draws: swap draws, and flips of signs, >= 1.

    Raises `DataError` where no kind of swap has k values.
    """
    n = own.margins.shape[1]
    drawn, shift = _draws(own, contrasts, swaps, draws, rng)
    found = []
    for measure in MEASURES:
        values = _effect(own, contrasts, measure)
        null = drawn[measure]  # [draws, n]
        means = null.mean(axis=1)
        if measure == "signed":
            means = np.concatenate([means, -means])  # a draw has no first and second
            p = two_sided_p(float(values.mean()), means)
            flipped = paired_contrast(values, draws, rng)
            p_items = two_sided_p(flipped.value, flipped.null)
        else:
            p = permutation_p(float(values.mean()), means)
            p_items = paired_contrast(values - null.mean(axis=0), draws, rng).p
        found.append(
            AttributeRow(
                language=language,
                attribute=attribute,
                kind="irrelevant",
                measure=measure,
                n=n,
                contrasts=len(contrasts),
                value=float(values.mean()),
                interval=bootstrap_interval(values),
                null_mean=float(means.mean()),
                null_high=float(np.quantile(means, 0.95)),
                p=p,
                p_items=p_items,
                tokens=_shift(own.tokens, contrasts),
                swap_tokens=shift,
            )
        )
    return found


def follows(scores: Sequence[FloatArray], answers: Sequence[int]) -> float:
    """e_i of one relevant vignette, nats: mean over pairs of patients with different right answers.

    `scores[x]` `[n_options]` of the question asked of patient x, whose right answer is `answers[x]`. Raises `DataError`
    where all have the same.
    """
    pairs = [(x, y) for x in range(len(answers)) for y in range(x) if answers[x] != answers[y]]
    if not pairs:
        raise DataError("a relevant vignette needs two patients with different answers.")

    def moved(x: int, y: int) -> float:
        one, other = answers[x], answers[y]
        return float((scores[x][one] - scores[x][other]) - (scores[y][one] - scores[y][other])) / 2

    return float(np.mean([moved(x, y) for x, y in pairs]))


def relevant_rows(
    language: str, moved: Mapping[str, Sequence[float]], draws: int, rng: np.random.Generator
) -> list[AttributeRow]:
    """`follows`, without q: a row for each attribute, and one for all together (`POOLED`).

    `moved`: attribute -> e_i of its vignettes.
    """
    found = []
    everything = [value for own in moved.values() for value in own]
    for attribute, own in {**moved, **({POOLED: everything} if len(moved) > 1 else {})}.items():
        contrast = paired_contrast(list(own), draws, rng)
        found.append(
            AttributeRow(
                language=language,
                attribute=attribute,
                kind="relevant",
                measure="follows",
                n=len(own),
                contrasts=1,
                value=contrast.value,
                interval=contrast.interval(),
                null_mean=float(contrast.null.mean()),
                null_high=float(np.quantile(contrast.null, 0.95)),
                p=contrast.p,
            )
        )
    return found


def gate_row(
    language: str,
    chosen: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    draws: int,
    rng: np.random.Generator,
) -> AttributeRow:
    """The share of right answers to relevant vignettes, beside right answers permuted over those with as many patients.

    Args:
        chosen: per vignette and patient, the option that the model holds likeliest.
        answers: the right one.

    Which letter a model prefers, whatever is asked, gives it nothing here.
    """
    right = np.array([np.mean(np.array(c) == np.array(a)) for c, a in zip(chosen, answers, strict=True)])
    null = np.zeros(draws)
    sizes = np.array([len(each) for each in chosen])
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size).tolist()
        picked = np.array([chosen[i] for i in rows])
        gold = np.array([answers[i] for i in rows])
        for b in range(draws):
            null[b] += (picked == gold[rng.permutation(len(rows))]).mean(axis=1).sum()
    null /= len(right)
    return AttributeRow(
        language=language,
        attribute=POOLED,
        kind="relevant",
        measure=GATE,
        n=len(right),
        contrasts=1,
        value=float(right.mean()),
        interval=bootstrap_interval(right),
        null_mean=float(null.mean()),
        null_high=float(np.quantile(null, 0.95)),
        p=permutation_p(float(right.mean()), null),
    )


def corrected(rows: Sequence[AttributeRow]) -> list[AttributeRow]:
    """The rows with q over the attributes and languages of each measure, and what stands out; a gate has no q."""
    found = [replace(row, stands_out=row.p < ALPHA) if row.measure == GATE else row for row in rows]
    for measure in dict.fromkeys(row.measure for row in rows if row.measure != GATE):
        at = [i for i, row in enumerate(rows) if row.measure == measure]
        for i, q in zip(at, benjamini_hochberg([rows[i].p for i in at]).tolist(), strict=True):
            row = rows[i]
            in_most = row.p_items is None or row.p_items < ALPHA
            found[i] = replace(row, q=q, stands_out=q < ALPHA and in_most and not row.shifted)
    return found


def _effect(asked: Asked, contrasts: Sequence[tuple[int, int]], measure: str) -> FloatArray:
    """`[n]`: e_i."""
    a, b = [x for x, _ in contrasts], [y for _, y in contrasts]
    if measure == "flips":
        return (asked.choices[b] != asked.choices[a]).mean(axis=0)
    moved = asked.margins[b] - asked.margins[a]
    return (np.abs(moved) if measure == "margin" else moved).mean(axis=0)


def _shift(tokens: FloatArray, contrasts: Sequence[tuple[int, int]]) -> float:
    a, b = [x for x, _ in contrasts], [y for _, y in contrasts]
    return float(np.abs(tokens[b] - tokens[a]).mean())


def _draws(
    own: Asked,
    contrasts: Sequence[tuple[int, int]],
    swaps: Sequence[Asked],
    draws: int,
    rng: np.random.Generator,
) -> tuple[dict[str, FloatArray], float]:
    """Measure -> `[draws, n]`, and the mean shift of the draws."""
    k = len(own.margins)
    usable = [swap for swap in swaps if len(swap.margins) >= k]
    if not usable:
        most = max((len(swap.margins) for swap in swaps), default=0)
        raise DataError(f"an attribute of {k} values needs a swap of as many; the largest has {most}.")
    margins, choices, tokens = (
        np.concatenate([getattr(swap, name) for swap in usable]) for name in ("margins", "choices", "tokens")
    )
    starts = np.cumsum([0, *(len(swap.margins) for swap in usable)])
    sizes = np.diff(starts)
    candidates = _CANDIDATES * draws
    # A value is drawn, and with it its kind; the others are of the same kind.
    kind = rng.choice(len(usable), size=candidates, p=sizes / sizes.sum())
    order = rng.random((candidates, int(sizes.max())))
    order[np.arange(sizes.max())[None] >= sizes[kind][:, None]] = 2.0
    chosen = starts[kind][:, None] + order.argsort(axis=1)[:, :k]  # [candidates, k]
    a, b = np.array([x for x, _ in contrasts]), np.array([y for _, y in contrasts])
    length = tokens.mean(axis=1)
    shift = np.abs(length[chosen[:, b]] - length[chosen[:, a]]).mean(axis=1)
    apart = np.abs(shift - _shift(own.tokens, contrasts)).round(9)
    best = chosen[np.argsort(apart, kind="stable")[:draws]]
    moved = margins[best[:, b]] - margins[best[:, a]]  # [draws, contrasts, n]
    flipped = choices[best[:, b]] != choices[best[:, a]]
    found = {"margin": np.abs(moved).mean(axis=1), "flips": flipped.mean(axis=1), "signed": moved.mean(axis=1)}
    return found, float(np.abs(length[best[:, b]] - length[best[:, a]]).mean())
