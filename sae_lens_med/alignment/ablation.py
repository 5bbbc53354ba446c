"""The answer without, and from, the features that the expert's words point at (#7, #8), beside matched-random ones.

Per item, with T its aligned features (`shared`) that fire in the question, T_k the first k, and S random sets R_s
matched feature by feature (`matched`; the first k of R_s stand for T_k):

    without T_k, without R_sk        for each size k: comprehensiveness
    only T_K, only R_s               K the largest size: sufficiency
    no feature                       the empty end of normalised faithfulness

The error term stays in all of them. Passes of the layers above the hook per item: at most `2 + K' + S (K' + 1)` with K'
sizes, and fewer where sets repeat (a single feature has only `pool` different stand-ins).

Out of scope: what the numbers become (`causal`, `measure_causal`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.features.matched import POOL, Rates, text_sets
from sae_lens_med.interventions.edit_runs import AnswerText, Plan, Planned, Ran, item_rng, margin, probability
from sae_lens_med.records import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    from sae_lens_med.interventions.edits import HookedText


SIZES = (1, 5, 10, 20)


@dataclass(frozen=True, slots=True)
class AblationSettings:
    """What is removed, and how many random sets stand beside it."""

    sizes: tuple[int, ...] = SIZES
    """Numbers of features, ascending; an item with fewer aligned features gives what it has."""
    sets: int = 20
    """Random sets per item. At 200 or more each is a draw of the pooled null by itself; fewer are recombined."""
    pool: int = POOL
    """Candidates for the place of each feature."""
    keep: bool = True
    """Whether sets are also kept alone (#8)."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sizes or list(self.sizes) != sorted(set(self.sizes)) or self.sizes[0] < 1:
            raise ConfigError(f"sizes of feature sets are whole numbers from 1 on, ascending; got {self.sizes}.")
        if self.sets < 2:
            raise ConfigError(f"a null of random sets needs at least 2 sets per item, got {self.sets}.")

    def to_dict(self) -> dict[str, Any]:
        """For the identity of a run."""
        return asdict(self)


def ablation_plan(aligned: Mapping[str, IntArray], kept: BoolArray, study: Rates, settings: AblationSettings) -> Plan:
    """The edits of an item; see the module's text.

    Args:
        aligned: item id -> its aligned features, best first.
        kept: `[d_sae]`, features that are not masked: what may be drawn.
        study: rates of all features over the counted stem tokens of the study.
    """
    from sae_lens_med.interventions.edits import Only, Without  # needs torch, which this module does not

    def plan(text: AnswerText, hooked: "HookedText") -> Planned | str:
        acts = hooked.active
        fires = hooked.first < len(hooked.at)
        own = [f for f in aligned.get(text.id, np.zeros(0, np.int64)).tolist() if fires[f]][: settings.sizes[-1]]
        if not own:
            return "no aligned feature fires in the question"
        rng = item_rng(settings.seed, text.id, "ablation")
        drawn = text_sets(acts, np.array(own), kept, study, settings.sets, rng, settings.pool)
        if drawn is None:
            return f"fewer than {len(own)} other features fire in the question"
        edits: list[Any] = [Only(())]
        for features in [own, *drawn.sets.tolist()]:
            edits += [Without(_set(features[:k])) for k in settings.sizes]
            if settings.keep:
                edits.append(Only(_set(features)))
        return Planned(tuple(edits), {"own": own, "fold": float(np.median(drawn.fold).round(4))})

    return plan


@dataclass(frozen=True, slots=True, eq=False)
class Ablated:
    """The outcomes of n items, K sizes and S random sets, as arrays."""

    ids: tuple[str, ...]
    sizes: tuple[int, ...]
    whole: FloatArray
    """`[n]`, probability of the model's own answer among the options."""
    without: FloatArray
    """`[n, K]`, the same without T_k."""
    random: FloatArray
    """`[S, n, K]`, without R_sk."""
    margins: FloatArray
    """`[n, 3]`, margin of the gold option (NaN where it is not known): all features, none, only T_K."""
    kept_random: FloatArray
    """`[S, n]`, margin of the gold option from R_s alone."""
    removed: FloatArray
    """`[n, 2]`, length of what is removed with T_K, and the mean of that with the R_s: should be alike."""
    fold: FloatArray
    """`[n]`, median factor by which drawn features differ from their own (`MatchedSets.fold`)."""
    n_features: IntArray
    """`[n]`, how many aligned features were removed at the largest size."""


def ablated(ran: Sequence[Ran], gold: Mapping[str, int | None], settings: AblationSettings) -> Ablated:
    """The results of `ablation_plan` as arrays. Raises `DataError` for results of another plan."""
    k, per = len(settings.sizes), len(settings.sizes) + settings.keep
    n, rows = len(ran), 1 + per * (1 + settings.sets)
    whole, without, random = np.zeros(n), np.zeros((n, k)), np.zeros((settings.sets, n, k))
    margins, kept_random = np.full((n, 3), np.nan), np.full((settings.sets, n), np.nan)
    removed, fold, count = np.zeros((n, 2)), np.zeros(n), np.zeros(n, dtype=np.int64)
    for i, each in enumerate(ran):
        if len(each.logits) != rows:
            raise DataError(f"item {each.id!r} has {len(each.logits)} edits where these settings make {rows}.")
        sets = each.logits[1:].reshape(1 + settings.sets, per, -1)
        p = probability(sets[:, :k], each.predicted)
        whole[i], without[i], random[:, i] = probability(each.whole, each.predicted), p[0], p[1:]
        answer = gold.get(each.id)
        if answer is not None:
            margins[i, :2] = margin(each.whole, answer), margin(each.logits[0], answer)
            if settings.keep:
                alone = margin(sets[:, k], answer)
                margins[i, 2], kept_random[:, i] = alone[0], alone[1:]
        size = each.size[1:].reshape(1 + settings.sets, per)[:, k - 1]
        removed[i] = size[0], size[1:].mean()
        fold[i], count[i] = each.about["fold"], len(each.about["own"])
    return Ablated(
        tuple(each.id for each in ran),
        settings.sizes,
        whole,
        without,
        random,
        margins,
        kept_random,
        removed,
        fold,
        count,
    )


def _set(features: Sequence[int]) -> tuple[int, ...]:
    """In one order, so that equal sets are run once."""
    return tuple(sorted(features))
