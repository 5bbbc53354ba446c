"""Every p value under its null: 500 studies or more without any alignment, made to be hard; and power, growing with n.

The studies of the read-out metrics are those of `tests.readout_study`, the band and the tiers those of
`tests.calibration`; harder read-outs are in `test_alignment_hard_studies`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from sae_lens_med.alignment.agreement import (
    cohen_kappa,
    cohen_kappa_null,
    krippendorff_alpha,
    krippendorff_alpha_null,
)
from sae_lens_med.alignment.causal_agreement import concept_agreement
from sae_lens_med.alignment.feature_verdicts import feature_verdicts
from sae_lens_med.alignment.labels.scores import score_labels
from sae_lens_med.alignment.labels.tasks import Example, LabelTask
from sae_lens_med.alignment.reasoning_scores import against_answer_only, early_answering, hint_acknowledgement
from sae_lens_med.alignment.span_gate import Span
from sae_lens_med.alignment.span_scores import span_scores
from sae_lens_med.alignment.steering import Steered, SteeringPair, steering_values
from sae_lens_med.statistics import Strata, paired_contrast, stratified_permutations
from tests import readout_study
from tests.calibration import FAST, TIERS, B, Found, Values, band, p_values, rejected, rejects
from tests.readout_study import CONFOUNDED, N, study

Array = np.ndarray

# --- one study -> p values by name: plain, and with ties broken at random -------------------------------------------


def similarity(seed: int, n: int = N, planted: float = 0.0) -> Values:
    """#1, #2, #3, #12."""
    return readout_study.similarity(study(seed, n, planted), np.random.default_rng([seed, 1]))


def concepts(seed: int, n: int = N, planted: float = 0.0) -> Values:
    """#4, #5."""
    return readout_study.concepts(study(seed, n, n_features=30), np.random.default_rng([seed, 2]), planted)


def monosemantic(seed: int, n: int = N, planted: float = 0.0) -> Values:
    """#14."""
    return readout_study.monosemantic(study(seed, n, n_features=40), np.random.default_rng([seed, 3]), planted)


def mentioned(seed: int, n: int = N, planted: float = 0.0) -> Values:
    """The mentioned half of #16."""
    return readout_study.mentioned(study(seed, n, planted), np.random.default_rng([seed, 10]))


def looking(seed: int, n: int = 15, planted: float = 0.0) -> Values:
    """#6: saliency and spans that both come in runs, in texts of unequal length."""
    rng = np.random.default_rng([seed, 4])
    saliency, spans = [], []
    for tokens in rng.integers(20, 60, size=n):
        # A circular moving average: as alike at its ends as anywhere, which is what the shift null takes for granted.
        noise = rng.normal(size=tokens)
        smooth = np.sum([np.roll(noise, k) for k in range(4)], axis=0) * rng.gamma(2.0)
        edges = np.sort(rng.choice(np.arange(tokens + 1), 4, replace=False)).reshape(2, 2)
        for start, end in edges:
            smooth[start:end] += planted
        saliency.append(smooth)
        spans.append(edges)
    result = span_scores(saliency, spans, B, rng)
    shifted = {f"plausibility_{s}, shifted": (result.value(s), result.null_shift[s]) for s in ("auprc", "token_f1")}
    both = {f"plausibility_{s}, the harder null": (result.p(s), result.p(s)) for s in ("auprc", "token_f1")}
    return p_values(shifted, rng) | both


def steering(seed: int, n: int = 12, planted: float = 0.0) -> Values:
    """#10: concepts of one to three pairs; features of unequal strength, the concept's own drawn as the others are."""
    rng = np.random.default_rng([seed, 5])
    draws, strengths = 10, (-5.0, 5.0)
    of = np.repeat(np.arange(n), rng.integers(1, 4, size=n))
    strength = rng.gamma(0.5, size=(1 + 2 * draws, 1, n))[:, :, of] * rng.gamma(2.0, size=len(of))
    shift = strength * (rng.standard_t(3, size=(1 + 2 * draws, 2, len(of))) + 1)
    shift[0] += planted * strength[0]
    steered = Steered(
        tuple(SteeringPair(str(k), str(c), int(c), 0) for k, c in enumerate(of)),
        shift,
        0.1 * strength * rng.gamma(2.0, size=shift.shape),
    )
    [value] = steering_values(steered, strengths, Span(1.0, (0.5, 1.5), 0.9, (0.8, 1.0), n), draws=B, seed=seed)
    p = {kind: value.extra[f"p_{kind}"] for kind in ("direction", "live")}
    return {f"steering, {kind}": (each, each) for kind, each in p.items()}


def agreement(seed: int, n: int = 12, planted: float = 0.0) -> Values:
    """#9 (and the third of #11): items and concepts of unequal level; counts of mentions, most of them small."""
    rng = np.random.default_rng([seed, 6])
    item, concept = np.nonzero(rng.random((n, 10)) < 0.6)
    often, verbose = rng.geometric(0.5, size=10), rng.integers(0, 3, size=n)
    weights = (rng.poisson(often[concept]) + verbose[item]).astype(np.float64)
    level, own = 2 * rng.normal(size=n), 2 * rng.normal(size=10)
    effects = level[item] + own[concept] + rng.standard_t(3, size=len(item)) + planted * weights
    result = concept_agreement(effects, weights, item, concept, B, rng)
    return p_values({"causal_agreement": (result.pooled, result.null)}, rng)


def reasoning(seed: int, n: int = 30, planted: float = 0.0) -> Values:
    """#11: answers that wander as much with filler as with reasoning; a rule that finds as much without a hint."""
    rng = np.random.default_rng([seed, 7])
    fractions = (0.0, 0.2, 0.4, 0.6, 0.8)
    wanders = rng.beta(1, 2, size=(n, 1)) * np.linspace(1, 0.3, len(fractions))
    letters = np.array(list("ABCDE"))

    def read(extra: float) -> tuple[list[str], list[list[str]]]:
        final = rng.choice(letters, n)
        moved = rng.random(wanders.shape) < wanders + extra
        return final.tolist(), np.where(moved, rng.choice(letters, wanders.shape), final[:, None]).tolist()

    own, filler = (early_answering(*read(extra), fractions) for extra in (planted, 0.0))
    contrast = against_answer_only(own, filler, B, rng)
    often = rng.beta(1, 3, size=n)
    said, before = (rng.random(n) < often + extra for extra in (planted, 0.0))
    hint = hint_acknowledgement(["A"] * n, ["B"] * n, ["B"] * n, [5] * n, said.tolist(), before.tolist(), B, rng)
    found: Found = {
        "reasoning_aoc": (contrast.value, contrast.null),
        "reasoning_hint": (hint.contrast.value, hint.contrast.null),
    }
    return p_values(found, rng)


@dataclass(frozen=True)
class _Coin:
    """A judge whose leaning depends on label and piece; and on whether they belong together, where `knows` > 0."""

    leaning: dict[str, float]
    knows: float
    rng: np.random.Generator
    name: str = "coin"

    def judge(self, kind: object, asked: Sequence[tuple[str, tuple[str, ...]]]) -> list[tuple[float | None, ...]]:
        return [tuple(self._one(label, text) for text in texts) for label, texts in asked]

    def _one(self, label: str, text: str) -> float:
        own = self.knows * (label.split()[1] == text.split()[0]) * (1 if text.endswith("yes") else -1)
        return float(self.rng.random() < (self.leaning[label] + self.leaning[text]) / 2 + own)


def labelled(seed: int, n: int = 10, planted: float = 0.0) -> Values:
    """#13: vague and narrow labels, easy and hard features; no label is truer of its own feature than of others."""
    rng = np.random.default_rng([seed, 8])
    tasks: list[LabelTask] = []
    leaning: dict[str, float] = {}
    for f in range(n):
        examples = tuple(Example(f"{f} {k} {'yes' if k % 2 else 'no'}", bool(k % 2)) for k in range(8))
        easy = rng.random() * 0.4
        leaning[f"label {f}"] = rng.random()
        leaning |= {e.text: 0.5 + easy * (1 if e.truth else -1) for e in examples}
        tasks.append(LabelTask(f, "detection", examples))
    judge = _Coin(leaning, planted, rng)
    scores = score_labels(tasks, {f: f"label {f}" for f in range(n)}, judge, B, rng, foreign=None)
    return p_values({"labels_detection": (scores.value, scores.null)}, rng)


FEWER = 39
"""Draws of alpha, the dearest null; p <= 0.05 is 2 of 40."""


def rated(seed: int, n: int = 25, planted: float = 0.0) -> Values:
    """#15: four raters of unequal severity who skip some items; 5 grades, 3 grades and a number."""
    rng = np.random.default_rng([seed, 9])
    severity = rng.normal(0, 0.8, size=(4, 1))
    truth = rng.normal(size=n)
    opinion = severity + rng.normal(size=(4, n)) + planted * truth
    grades = np.clip(np.round(opinion * 1.2 + 3), 1, 5)
    skipped = rng.random(grades.shape) < 0.15
    drawn = stratified_permutations(Strata(np.zeros(n, np.int64), np.zeros(n, np.int64)), B, rng)
    few = np.where(skipped, np.nan, np.clip(grades, 2, 4))
    contrast = paired_contrast(rng.normal(size=n) * rng.gamma(1.0, size=n) + planted, B, rng)
    values = np.where(skipped, np.nan, opinion.round(1))  # alpha's cost grows with the square of how many differ
    first, second = grades[:2]
    found: Found = {
        "kappa": (cohen_kappa(first, second, "quadratic") or 0, cohen_kappa_null(first, second, drawn, "quadratic")),
        "kappa, unweighted": (cohen_kappa(first, second) or 0, cohen_kappa_null(first, second, drawn)),
        "alpha, ordinal": (
            krippendorff_alpha(few, "ordinal") or 0,
            krippendorff_alpha_null(few, FEWER, rng, "ordinal"),
        ),
        "alpha, interval": (
            krippendorff_alpha(values, "interval") or 0,
            krippendorff_alpha_null(values, FEWER, rng, "interval"),
        ),
        "ratings_contrast": (contrast.value, contrast.null),
    }
    return p_values(found, rng)


# --- what must hold -----------------------------------------------------------------------------------------------

MEASURES: dict[str, Callable[..., Values]] = {
    f.__name__: f
    for f in (similarity, concepts, monosemantic, mentioned, looking, steering, agreement, reasoning, labelled, rated)
}
CONSERVATIVE = {
    "plausibility_auprc, the harder null",
    "plausibility_token_f1, the harder null",
    "mentioned, a rare feature",
}
"""The larger p of two nulls; a sum over few texts, most of whose permutations are the same."""


_rejected = cache(lambda measure, studies: rejected(MEASURES[measure], studies))


@pytest.mark.parametrize("studies", TIERS)
@pytest.mark.parametrize("measure", MEASURES)
def test_studies_without_alignment_are_called_aligned_one_time_in_twenty(measure: str, studies: int) -> None:
    low, high = band(studies)
    for name, (plain, tie_free) in _rejected(measure, studies).items():
        if name in CONFOUNDED:
            continue
        assert plain <= high, (name, plain)
        if name not in CONSERVATIVE:
            assert low <= tie_free <= high, (name, tie_free)


def test_the_confound_is_there_and_the_adjustment_is_what_takes_it_away() -> None:
    found = _rejected("similarity", FAST)
    assert found["overlap_jaccard, unadjusted"][0] > 0.3
    assert found["rsa, not partialled"][0] > 0.15


POWER: dict[str, tuple[str, float, tuple[int, int, int]]] = {
    "difference": ("similarity", 0.25, (20, 40, 80)),
    "retrieval_mrr": ("similarity", 0.25, (20, 40, 80)),
    "overlap_jaccard": ("similarity", 0.25, (20, 40, 80)),
    "rsa_partial": ("similarity", 0.6, (20, 40, 80)),
    "concept_auroc_z": ("concepts", 0.2, (20, 40, 120)),
    "coverage": ("concepts", 0.2, (20, 40, 120)),
    "monosemanticity": ("monosemantic", 0.8, (20, 40, 120)),
    "plausibility_auprc, the harder null": ("looking", 1.0, (4, 10, 40)),
    "steering, direction": ("steering", 2.0, (3, 10, 40)),
    "steering, live": ("steering", 2.0, (3, 10, 40)),
    "causal_agreement": ("agreement", 0.7, (5, 20, 120)),
    "reasoning_aoc": ("reasoning", 0.2, (10, 30, 120)),
    "reasoning_hint": ("reasoning", 0.2, (10, 30, 120)),
    "labels_detection": ("labelled", 0.08, (5, 10, 30)),
    "kappa": ("rated", 0.6, (10, 30, 120)),
    "alpha, interval": ("rated", 0.6, (10, 30, 120)),
    "ratings_contrast": ("rated", 0.6, (10, 30, 120)),
}
"""Value -> what measures it, the planted effect, and three sizes."""


@cache
def _power(measure: str, n: int, planted: float) -> list[Values]:
    return [MEASURES[measure](seed, n, planted) for seed in range(40)]


@pytest.mark.parametrize("value", POWER)
def test_planted_alignment_is_found_the_more_often_the_more_items(value: str) -> None:
    measure, planted, sizes = POWER[value]
    small, middle, large = (
        float(rejects([found[value][0] for found in _power(measure, n, planted)]).mean()) for n in sizes
    )
    assert small <= middle <= large, (small, middle, large)
    assert large >= 0.7
    assert large > small


@pytest.mark.parametrize("studies", TIERS)
def test_without_effects_a_feature_is_called_aligned_and_causal_in_one_study_of_twenty_at_most(studies: int) -> None:
    rng = np.random.default_rng(0)
    p = rng.random((2, studies, 60))
    called = [feature_verdicts(a, b).counts["shared_reasoning"] > 0 for a, b in zip(*p, strict=True)]
    assert np.mean(called) <= band(studies)[1]
    # Mentioned and not causal: what is found must be called that, and nothing may be called shared.
    mentioned = np.where(np.arange(60) < 20, p[0] * 1e-4, p[0])
    called = [feature_verdicts(a, b).counts["shared_reasoning"] > 0 for a, b in zip(mentioned, p[1], strict=True)]
    assert np.mean(called) <= band(studies)[1]
