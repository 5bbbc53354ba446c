"""Which features of an SAE carry an effect: chosen on one half of the vignettes, ablated on the other.

An effect is of pairs of questions (a, b) that differ in one thing: `|m_b - m_a|` of the margins, or `m_a - m_b` where
the direction is part of the claim (a wrong hint). With c the activations summed over the stem's tokens:

    candidates    features with the largest mean |c_b - c_a| times the length of their decoder row, first half
    chosen        the `features` candidates whose ablation, each alone, takes most of the effect away, first half
    drop          mean over held-out vignettes of (effect - effect with the chosen ablated in both questions), nats

Beside the chosen stand sets of as many other features that fire as often and as strongly on these texts
(`features.matched`): p is the rank of the drop among theirs. The **cost** is what the same ablation takes from the
margin on vignettes of which the attribute decides the answer, beside the same sets.

**Told apart**: on the held-out half, the candidates differ between a and b as they do on the first half,

    r_i = mean over contrasts of sum_f sign(mean over the first half of c_bf - c_af) (c_bf - c_af) |d_f|,

p by flipping signs over held-out vignettes, q over the effects of a run. Any two words are told apart somewhere: beside
*used* it says which attributes the model represents and leaves alone.

Out of scope: directions that are no feature; the error term, which stays as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.attributes.answers import Asker, Features
from sae_lens_med.records import FloatArray, IntArray, McqItem, Record
from sae_lens_med.statistics import ALPHA, benjamini_hochberg, bootstrap_interval, paired_contrast, permutation_p

if TYPE_CHECKING:
    from sae_lens_med.features.statistics import FeatureStatistics

CANDIDATES = 16


@dataclass(frozen=True, slots=True, eq=False)
class QuestionPair:
    """Two questions that differ in one thing."""

    vignette: str
    contrast: int
    """Which values differ."""
    a: McqItem
    b: McqItem


@dataclass(frozen=True, slots=True)
class CarrierRow(Record):
    """The features that carry one effect, and what their ablation does."""

    language: str
    about: str
    """The attribute, or the hint."""
    told_apart: float
    """Mean r_i; in units of the residual's length."""
    told_apart_p: float
    n: int
    """Held-out vignettes."""
    told_apart_q: float | None = None
    """Over the effects of a run."""
    features: tuple[int, ...] = ()
    """Chosen; empty where none were looked for, or no candidate takes anything away."""
    effect: float | None = None
    """Nats, on held-out vignettes, nothing ablated."""
    drop: float | None = None
    """Nats; None where there is nothing to ablate, or nothing like it to compare with (`why`)."""
    interval: tuple[float, float] | None = None
    """95 %, bootstrap over held-out vignettes."""
    null_mean: float | None = None
    null_high: float | None = None
    """95 % quantile of the matched-random sets."""
    p: float | None = None
    q: float | None = None
    """Over the effects of a run."""
    cost: float | None = None
    """Nats of margin that relevant vignettes lose."""
    cost_null_mean: float | None = None
    cost_null_high: float | None = None
    cost_p: float | None = None
    why: str = ""
    """Why nothing was ablated."""

    @property
    def share(self) -> float | None:
        """Drop over effect; None where there is none."""
        return None if self.drop is None or not self.effect else self.drop / self.effect

    @property
    def is_told_apart(self) -> bool:
        """Whether features tell the two apart on held-out vignettes."""
        return self.told_apart_q is not None and self.told_apart_q < ALPHA

    @property
    def carried(self) -> bool:
        """Whether the chosen features take more away than matched-random ones do."""
        return self.q is not None and self.q < ALPHA


@dataclass(frozen=True, slots=True)
class CarrierSettings:
    """How features are looked for."""

    features: int = 5
    """How many are chosen, at most."""
    random_sets: int = 39
    seed: int = 0


class Carriers:
    """Finds what carries effects in one language.

    Args:
        asker: with an SAE.
        relevant: questions of which the cost is measured.
        settings: see there.
    """

    def __init__(self, asker: Asker, relevant: Sequence[McqItem], settings: CarrierSettings) -> None:
        self.asker, self.relevant, self.settings = asker, list(relevant), settings

    def find(
        self, language: str, about: str, pairs: Sequence[QuestionPair], *, moved: bool, signed: bool = False
    ) -> CarrierRow:
        """The row of one effect, without q.

        Args:
            pairs: of two or more vignettes.
            moved: whether there is an effect; where there is none, only `told_apart` is measured.
            signed: the effect is `m_a - m_b`, not its size.
        """
        rng = np.random.default_rng([self.settings.seed, *about.encode(), *language.encode()])
        names = list(dict.fromkeys(pair.vignette for pair in pairs))
        if len(names) < 2:
            raise DataError(f"features of {about!r} are chosen on half of the vignettes; there is only one.")
        first = {names[i] for i in rng.permutation(len(names))[: len(names) // 2]}
        chosen_on = [pair for pair in pairs if pair.vignette in first]
        held_out = [pair for pair in pairs if pair.vignette not in first]
        length = self._decoder_lengths()
        differ, other = self._differences(chosen_on), self._differences(held_out)
        candidates = np.argsort(-(np.abs(differ).mean(axis=0) * length), kind="stable")[:CANDIDATES]
        candidates = candidates[np.abs(differ[:, candidates]).mean(axis=0) > 0]
        apart = self._told_apart(chosen_on, held_out, differ, other, candidates, length)
        told = paired_contrast(apart, 999, rng)
        row = CarrierRow(language, about, told.value, told.p, len(names) - len(first))
        if not moved:
            return replace(row, why="no effect to carry")
        return self._ablated(row, self._choose(chosen_on, candidates, signed), held_out, pairs, signed, rng)

    def _choose(self, pairs: Sequence[QuestionPair], candidates: IntArray, signed: bool) -> Features:
        whole = self._effect(pairs, (), signed).mean()
        drops = [(float(whole - self._effect(pairs, (int(f),), signed).mean()), int(f)) for f in candidates]
        best = sorted(((drop, f) for drop, f in drops if drop > 0), key=lambda each: (-each[0], each[1]))
        return tuple(f for _, f in best[: self.settings.features])

    def _ablated(
        self,
        row: CarrierRow,
        features: Features,
        held_out: Sequence[QuestionPair],
        pairs: Sequence[QuestionPair],
        signed: bool,
        rng: np.random.Generator,
    ) -> CarrierRow:
        from sae_lens_med.features.matched import matched_sets

        if not features:
            return replace(row, why="no feature takes any of it away on the first half")
        whole = self._effect(held_out, (), signed)
        row = replace(row, features=features, effect=float(whole.mean()))
        try:
            drawn = matched_sets(self._statistics(pairs), features, self.settings.random_sets, rng)
        except DataError as error:
            return replace(row, why=str(error))
        sets = [tuple(sorted(each)) for each in drawn.sets.tolist()]
        drops = whole - self._effect(held_out, features, signed)
        null = np.array([(whole - self._effect(held_out, each, signed)).mean() for each in sets])
        row = replace(
            row,
            drop=float(drops.mean()),
            interval=bootstrap_interval(drops),
            null_mean=float(null.mean()),
            null_high=float(np.quantile(null, 0.95)),
            p=permutation_p(float(drops.mean()), null),
        )
        if not self.relevant:
            return row
        intact = self.asker.margins(self.relevant)

        def cost(without: Features) -> float:
            return float((intact - self.asker.margins(self.relevant, without)).mean())

        own, costs = cost(features), np.array([cost(each) for each in sets])
        return replace(
            row,
            cost=own,
            cost_null_mean=float(costs.mean()),
            cost_null_high=float(np.quantile(costs, 0.95)),
            cost_p=permutation_p(own, costs),
        )

    def _effect(self, pairs: Sequence[QuestionPair], without: Features, signed: bool) -> FloatArray:
        """`[vignettes]`, nats, in the order in which they first stand in `pairs`."""
        found = self.asker.margins([item for pair in pairs for item in (pair.a, pair.b)], without)
        moved = found[0::2] - found[1::2]
        return _by_vignette(pairs, moved if signed else np.abs(moved))

    @staticmethod
    def _told_apart(
        chosen_on: Sequence[QuestionPair],
        held_out: Sequence[QuestionPair],
        differ: FloatArray,
        other: FloatArray,
        candidates: IntArray,
        length: FloatArray,
    ) -> FloatArray:
        """`[held-out vignettes]`: r_i."""
        number = np.array([pair.contrast for pair in chosen_on])
        found = np.zeros(len(held_out))
        for contrast in np.unique(number).tolist():
            sign = np.sign(differ[number == contrast][:, candidates].mean(axis=0))
            rows = [i for i, pair in enumerate(held_out) if pair.contrast == contrast]
            found[rows] = other[rows][:, candidates] @ (sign * length[candidates])
        return _by_vignette(held_out, found)

    def _differences(self, pairs: Sequence[QuestionPair]) -> FloatArray:
        """`[pairs, d_sae]`: c_b - c_a."""
        items = {item.id: item for pair in pairs for item in (pair.a, pair.b)}
        sums = dict(zip(items, self._sums(list(items.values())), strict=True))
        return np.array([sums[pair.b.id] - sums[pair.a.id] for pair in pairs])

    def _sums(self, items: Sequence[McqItem]) -> list[FloatArray]:
        """Per item `[d_sae]`: activations summed over the stem's tokens."""
        from sae_lens_med.evaluation.methods import ask
        from sae_lens_med.features.reading import encoded, read_at_hook
        from sae_lens_med.models.bridge import default_batch_tokens
        from sae_lens_med.models.residuals import ResidualReader
        from sae_lens_med.records import PARTS

        asker = self.asker
        sae = asker.sae
        assert sae is not None  # of the class
        prompts = [each.prompt for each in ask(asker.model, items, asker.method)]
        texts = [_Read(i, prompt.token_ids, prompt.token_parts) for i, prompt in enumerate(prompts)]
        reader = ResidualReader(asker.model, [sae.hook_name])
        found: list[FloatArray] = [np.zeros(0)] * len(items)
        batch_tokens = default_batch_tokens(asker.model) if asker.batch_tokens is None else asker.batch_tokens
        stem = PARTS.index("stem")
        for text, x in read_at_hook(reader, sae, texts, batch_tokens):
            own = x[[k for k, part in enumerate(text.parts) if part == stem]]
            blocks = [acts.sum(0).detach().cpu().numpy() for _, acts in encoded(sae, own, text.label)]
            found[text.number] = np.array(blocks, dtype=np.float64).sum(axis=0)
        return found

    def _statistics(self, pairs: Sequence[QuestionPair]) -> "FeatureStatistics":
        from sae_lens_med.evaluation.methods import ask
        from sae_lens_med.features.statistics import feature_statistics

        asker = self.asker
        assert asker.sae is not None  # of the class
        items = {item.id: item for pair in pairs for item in (pair.a, pair.b)}
        prompts = [each.prompt for each in ask(asker.model, list(items.values()), asker.method)]
        return feature_statistics(asker.model, asker.sae, prompts, batch_tokens=asker.batch_tokens, progress=False)

    def _decoder_lengths(self) -> FloatArray:
        """`[d_sae]`."""
        assert self.asker.sae is not None  # of the class
        return self.asker.sae.sae.W_dec.detach().norm(dim=1).cpu().numpy().astype(np.float64)


@dataclass(frozen=True, slots=True)
class _Read:
    """A prompt that is read."""

    number: int
    token_ids: tuple[int, ...]
    parts: tuple[int, ...]
    first: int = 0
    label: str = "a vignette"


def _by_vignette(pairs: Sequence[QuestionPair], values: FloatArray) -> FloatArray:
    """`[vignettes]`: means, in the order in which they first stand in `pairs`."""
    names = list(dict.fromkeys(pair.vignette for pair in pairs))
    of = np.array([names.index(pair.vignette) for pair in pairs])
    return np.bincount(of, values, minlength=len(names)) / np.bincount(of, minlength=len(names))


def corrected_carriers(rows: Sequence[CarrierRow]) -> list[CarrierRow]:
    """The rows with both q: of what is told apart over all, of what is carried over those that have a p."""
    if not rows:
        return []
    told = benjamini_hochberg([row.told_apart_p for row in rows]).tolist()
    found = [replace(row, told_apart_q=q) for row, q in zip(rows, told, strict=True)]
    at = [i for i, row in enumerate(rows) if row.p is not None]
    if at:
        q = benjamini_hochberg([p for i in at if (p := rows[i].p) is not None])
        for i, value in zip(at, q.tolist(), strict=True):
            found[i] = replace(found[i], q=value)
    return found
