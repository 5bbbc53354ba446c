"""Does the answer depend on the features that the expert names? Numbers from the outcomes of ablation (#7, #8, #10).

These are functions of what a model gave: probabilities, margins, logits with and without features. A number of this
kind means nothing without its floor: ablating *any* features moves an answer. So each stands beside the same number for
matched-random features (drawn to fire as often and as strongly), as z and p; p is one-sided, large is more effect.

- **comprehensiveness** (AOPC, ERASER): `(1/|K|) sum_k [p_M(y) - p_{M without T_k}(y)]` in [-1, 1], T_k the k features
  that the expert's words point at. Positive: without them the model is less sure of its answer.
- **normalised faithfulness** (Marks et al. 2403.19647): `(F(C) - F(0)) / (F(M) - F(0))`, F the mean margin of the
  answer, C these features alone, 0 none, M all. 0: as good as none; 1: as good as all; it can leave [0, 1].
- **steering specificity**: shift of the target's logit over the Kullback-Leibler divergence that steering does to all
  other tokens, per strength. Not bounded.

**Verdict** per feature: is it mentioned (p of alignment) and is it causal (p of ablation), each after the
Benjamini-Hochberg correction over the features tested:

    mentioned and causal: shared reasoning        mentioned, not causal: knowledge present, not used
    causal, not mentioned: hidden driver          neither: no evidence

Out of scope: running the model, and choosing the features.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import logsumexp

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.records import FloatArray, IntArray
from sae_lens_med.statistics import benjamini_hochberg, null_z, permutation_p

Verdict = Literal["shared_reasoning", "present_unused", "hidden_driver", "neither", "untested"]


@dataclass(frozen=True, slots=True, eq=False)
class AgainstDraws:
    """A mean over items beside the same mean for each of D draws of matched-random features."""

    value: float
    """Mean over items; 0 without items."""
    null: FloatArray
    """`[D]`."""

    @property
    def z(self) -> float | None:
        """`(value - mean) / sd` of the draws; None for fewer than two draws or where they do not differ."""
        return null_z(self.value, self.null)

    @property
    def p(self) -> float:
        """`(1 + #{draws >= value}) / (D + 1)`."""
        return permutation_p(self.value, self.null)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureVerdicts:
    """The 2 x 2 of every feature."""

    mentioned_q: FloatArray
    """`[F]`, p of alignment after correction; NaN where not tested."""
    causal_q: FloatArray
    """`[F]`, p of ablation after correction; NaN where not tested."""
    both_q: FloatArray
    """`[F]`, the larger p of the two after correction over the features tested for both; NaN elsewhere."""
    verdict: tuple[Verdict, ...]
    """`[F]`; `untested` where either p is missing."""

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many features have each verdict, all five named."""
        names: tuple[Verdict, ...] = ("shared_reasoning", "present_unused", "hidden_driver", "neither", "untested")
        return {name: self.verdict.count(name) for name in names}


def aopc(whole: FloatArray, ablated: FloatArray) -> FloatArray:
    """Metric #7 per item, `[n]` in [-1, 1]: mean over the last axis of `whole[:, None] - ablated`.

    Args:
        whole: `[n]`, probability of the model's own answer.
        ablated: `[..., n, K]`, the same without the first k features, for each of K sizes; leading axes (draws) stay:
            `aopc(whole, draws)` of `[D, n, K]` is `[D, n]`.

    Raises `DataError` when a value is no probability, the items differ, or K is 0.
    """
    full, without = np.asarray(whole, np.float64), np.asarray(ablated, np.float64)
    if full.ndim != 1 or without.ndim < 2 or without.shape[-2] != len(full) or without.shape[-1] == 0:
        raise DataError(f"AOPC needs [n] and [..., n, K] probabilities, got {full.shape} and {without.shape}.")
    for values in (full, without):
        if not ((values >= 0) & (values <= 1)).all():
            raise DataError("AOPC needs probabilities between 0 and 1.")
    return full - without.mean(axis=-1)


def against_draws(per_item: FloatArray, draws: FloatArray) -> AgainstDraws:
    """Mean of `per_item` `[n]` beside the means of `draws` `[D, n]`, the same measure for matched-random features.

    p is exact where the features in question could as well have been any of the draws; one draw has one set of features
    for every item, or sets drawn item by item, as the features in question do.
    """
    own, random = np.asarray(per_item, np.float64), np.asarray(draws, np.float64)
    if own.ndim != 1 or random.ndim != 2 or random.shape[1] != len(own):
        raise DataError(f"the draws have shape {random.shape}, expected (D, {len(own)}): every item in every draw.")
    if not (np.isfinite(own).all() and np.isfinite(random).all()):
        raise DataError("some effects are not finite; leave these items out of the value and of all draws.")
    if len(own) == 0:
        return AgainstDraws(0.0, np.zeros(len(random)))
    return AgainstDraws(float(own.mean()), random.mean(axis=1))


def normalised_faithfulness(whole: FloatArray, empty: FloatArray, kept: FloatArray) -> FloatArray | float | None:
    """Metric #8: `(mean F(C) - mean F(0)) / (mean F(M) - mean F(0))`, a ratio of means over items.

    Args:
        whole: F(M), `[n]`, margins with all features (the reconstruction error kept, as in the others).
        empty: F(0), `[n]`, without any feature.
        kept: F(C), `[n]`; or `[D, n]` for draws, then the result is `[D]`.

    None without items, or where the features together move the mean margin by less than 1e-9 of its size: there is then
    nothing to share out. Not bounded; draws that end near 0 say that few features do not suffice.
    """
    full, none, some = (np.asarray(v, np.float64) for v in (whole, empty, kept))
    if full.ndim != 1 or full.shape != none.shape or some.ndim not in (1, 2) or some.shape[-1] != len(full):
        raise DataError(
            f"faithfulness needs one margin per item from all, no and some features; got shapes {full.shape}, "
            f"{none.shape} and {some.shape}."
        )
    if len(full) == 0:
        return None
    span = float(full.mean() - none.mean())
    if abs(span) <= 1e-9 * max(1.0, float(np.abs(full).mean() + np.abs(none).mean())):
        return None
    ratio = (some.mean(axis=-1) - none.mean()) / span
    return float(ratio) if some.ndim == 1 else ratio


def off_target_divergence(before: FloatArray, after: FloatArray, target: IntArray) -> FloatArray:
    """`[...]`: KL(before || after) over all tokens but the target, each renormalised without it; nats, >= 0.

    `before` and `after` are logits or log-probabilities `[..., V]`, `target` `[...]` the token left out. It is 0 when
    steering moves the target alone.
    """
    p, q = (np.asarray(v, np.float64) for v in (before, after))
    others = np.arange(p.shape[-1]) != np.asarray(target)[..., None]
    log_p = np.where(others, p, -np.inf)
    log_q = np.where(others, q, -np.inf)
    log_p = log_p - logsumexp(log_p, axis=-1, keepdims=True)
    log_q = log_q - logsumexp(log_q, axis=-1, keepdims=True)
    gap = np.where(np.isneginf(log_p), 0.0, log_p - np.where(np.isneginf(log_p), 0.0, log_q))
    return np.maximum((np.exp(log_p) * gap).sum(axis=-1), 0.0)


def steering_specificity(shift: FloatArray, divergence: FloatArray, floor: float = 1e-3) -> FloatArray:
    """Metric #10, `[...]`: `mean_i shift / max(mean_i divergence, floor)` over the items in the last axis.

    Args:
        shift: `[..., n]`, change of the target's logit, steered less unsteered; leading axes: strengths, draws.
        divergence: `[..., n]`, `off_target_divergence` of the same runs.
        floor: nats; a divergence below it is rounding and would make any shift look specific.

    Range: all numbers; 0 where steering moves the target as little as a strength of 0 does. For a negative strength
    give the negated shift. To be compared (`permutation_p`) with the same ratio for random directions of equal norm and
    for random live features. Raises `ConfigError` unless floor > 0, `DataError` for different shapes or no items.
    """
    if not floor > 0:
        raise ConfigError(f"the floor of the divergence must be positive, got {floor}.")
    moved, changed = np.asarray(shift, np.float64), np.asarray(divergence, np.float64)
    if moved.shape != changed.shape or moved.ndim == 0 or moved.shape[-1] == 0 or (changed < 0).any():
        raise DataError(
            f"specificity needs a shift and a divergence of 0 or more for each item; got {moved.shape} and "
            f"{changed.shape}."
        )
    return moved.mean(axis=-1) / np.maximum(changed.mean(axis=-1), floor)


def feature_verdicts(mentioned_p: FloatArray, causal_p: FloatArray, q: float = 0.05) -> FeatureVerdicts:
    """The 2 x 2 of each feature from two p values `[F]`, NaN where not tested; see the module's text.

    Each column is corrected over the features that it tested. Without any effect in either column, the chance that any
    feature is called shared reasoning is at most q, since both columns must reject. Where many features are mentioned
    only or causal only, the share of false ones *among those called shared reasoning* can exceed q. `both_q <= q` keeps
    that share at q (the larger p tests "both"; Benjamini & Heller 2008); where both columns tested the same features
    it implies that both reject. Raises `DataError` for different lengths, `ConfigError` unless 0 < q < 1.
    """
    mentioned, causal = np.asarray(mentioned_p, np.float64), np.asarray(causal_p, np.float64)
    if mentioned.ndim != 1 or mentioned.shape != causal.shape:
        raise DataError(f"verdicts need two p values per feature, got shapes {mentioned.shape} and {causal.shape}.")
    if not 0 < q < 1:
        raise ConfigError(f"the false discovery rate lies between 0 and 1, got {q}.")
    mentioned_q, causal_q = _corrected(mentioned), _corrected(causal)
    names: dict[tuple[bool, bool], Verdict] = {
        (True, True): "shared_reasoning",
        (True, False): "present_unused",
        (False, True): "hidden_driver",
        (False, False): "neither",
    }
    tested = np.isfinite(mentioned_q) & np.isfinite(causal_q)
    pairs = zip((mentioned_q <= q).tolist(), (causal_q <= q).tolist(), tested.tolist(), strict=True)
    both_q = _corrected(np.where(tested, np.maximum(mentioned, causal), np.nan))
    verdict: list[Verdict] = [names[m, c] if known else "untested" for m, c, known in pairs]
    return FeatureVerdicts(mentioned_q=mentioned_q, causal_q=causal_q, both_q=both_q, verdict=tuple(verdict))


def _corrected(p: FloatArray) -> FloatArray:
    adjusted = np.full(p.shape, np.nan)
    tested = ~np.isnan(p)
    adjusted[tested] = benjamini_hochberg(p[tested])
    return adjusted
