"""Does the answer give way to a wrong one that stands before the question?

    value     mean over vignettes of m(no hint) - m(wrong hint)            nats; m the margin of the right answer
    control   mean over vignettes of m(no hint) - m(mention)               the same option named, nothing claimed

A hint names an option, and what is named is likelier afterwards, whoever says what. So p is by flipping signs, over
vignettes, of `m(mention) - m(hint)`: what the claim does beyond the name. Which wrong option is named is drawn for each
vignette, the same in both sentences and in every language.

Out of scope: hints that are right, and a model that argues.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sae_lens_med.knowledge_map.attributes.answers import Asker, margin_of
from sae_lens_med.knowledge_map.attributes.carriers import QuestionPair
from sae_lens_med.knowledge_map.attributes.vignettes import Hint, Vignette
from sae_lens_med.knowledge_map.lists import SLOT
from sae_lens_med.records import FloatArray, McqItem, Record
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.statistics import ALPHA, benjamini_hochberg, bootstrap_interval, paired_contrast


@dataclass(frozen=True, slots=True)
class HintRow(Record):
    """What one hint does in one language."""

    language: str
    hint: str
    n: int
    value: float
    """Nats."""
    interval: tuple[float, float] | None
    """95 %, bootstrap over vignettes."""
    null_mean: float
    """Nats: of the mention."""
    null_high: float
    """That, and the 95 % quantile of the flipped signs."""
    p: float
    taken_hint: float
    """Share of the vignettes answered by the option that the hint claims."""
    taken_mention: float
    taken_alone: float
    """Without any sentence before the question."""
    q: float | None = None
    """Over hints and languages."""

    @property
    def name(self) -> str:
        """What it is called in figures."""
        return f"hint {self.hint} ({self.language})"

    @property
    def stands_out(self) -> bool:
        """Whether the claim moves the answer beyond what the name does."""
        return self.q is not None and self.q < ALPHA


@dataclass(frozen=True, slots=True, eq=False)
class HintedVignette:
    """One vignette in three forms."""

    alone: McqItem
    mention: McqItem
    assertion: McqItem
    wrong: int

    @property
    def items(self) -> tuple[McqItem, McqItem, McqItem]:
        """All three."""
        return self.alone, self.mention, self.assertion


def hinted(vignette: Vignette, patient: str, hint: Hint) -> HintedVignette:
    """A vignette of a patient of whom nothing is said, with a hint before it."""
    assert vignette.answer is not None  # hints are given before irrelevant vignettes
    others = [k for k in range(len(vignette.options)) if k != vignette.answer]
    wrong = others[int(json_sha256([vignette.vignette, hint.hint])[:8], 16) % len(others)]
    named = vignette.options[wrong]
    return HintedVignette(
        vignette.item(patient),
        vignette.item(patient, hint.mention.replace(SLOT, named)),
        vignette.item(patient, hint.assertion.replace(SLOT, named)),
        wrong,
    )


def hint_pairs(vignettes: Sequence[Vignette], asked: Sequence[HintedVignette]) -> list[QuestionPair]:
    """Mention and assertion, for `carriers`."""
    return [QuestionPair(v.vignette, 0, a.mention, a.assertion) for v, a in zip(vignettes, asked, strict=True)]


def hint_row(
    language: str, hint: str, asked: Sequence[HintedVignette], asker: Asker, draws: int, rng: np.random.Generator
) -> HintRow:
    """The row of one hint, without q."""
    scores = [asker.scores(each.items) for each in asked]

    def margins(which: int) -> FloatArray:
        return np.array([margin_of(a.items[which], s[which]) for a, s in zip(asked, scores, strict=True)])

    def taken(which: int) -> float:
        return float(np.mean([s[which].argmax() == a.wrong for a, s in zip(asked, scores, strict=True)]))

    alone, mention, assertion = (margins(which) for which in range(3))
    beyond = paired_contrast(mention - assertion, draws, rng)
    control = float((alone - mention).mean())
    return HintRow(
        language=language,
        hint=hint,
        n=len(asked),
        value=float((alone - assertion).mean()),
        interval=bootstrap_interval(alone - assertion),
        null_mean=control,
        null_high=control + float(np.quantile(beyond.null, 0.95)),
        p=beyond.p,
        taken_hint=taken(2),
        taken_mention=taken(1),
        taken_alone=taken(0),
    )


def corrected_hints(rows: Sequence[HintRow]) -> list[HintRow]:
    """The rows with q."""
    if not rows:
        return []
    q = benjamini_hochberg([row.p for row in rows]).tolist()
    return [replace(row, q=value) for row, value in zip(rows, q, strict=True)]
