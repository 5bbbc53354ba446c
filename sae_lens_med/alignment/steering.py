"""Does a concept's feature move the option that names the concept, and little else? Steering specificity (#10).

For a pair of an item and a concept that exactly one of its options names (the target), the concept's feature f is
clamped at the counted stem tokens to strength x its maximum over the study, for strengths -5, 0, 5, 10, the error term
kept. Per run: the shift of the target's margin over the other options' mean (a common shift of all logits changes no
probability, so it must not count), negated for strengths <= 0, and the Kullback-Leibler divergence of the distribution
over all tokens but the target (`off_target_divergence`). Per concept, over its pairs and all strengths,

    mean shift / max(mean divergence, floor)        not bounded; positive: the target moves the way it is steered

because at a single strength a feature that does next to nothing has next to nothing below the line; the value is their
mean over concepts. (One ratio over all concepts would be that of whichever of them moves anything.) Beside it, in the
same items and at the same strengths:

- random directions: at each token a step of equal length along one random unit vector; compared in the value;
- random live features: another feature that fires in the study, at the same strength of its own maximum; compared in
  the mean shift, because one that does next to nothing moves the target by a little and everything else by nothing.

One draw has one direction (or one feature) per concept, for all its items, the own feature being one of the choices. p
is one-sided and the larger of both. Passes of the layers above the hook per pair: `strengths x (1 + 2 draws)`.

Out of scope: which features stand for a concept (`concept_features`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from sae_lens_med.alignment.causal_items import CausalItems
from sae_lens_med.alignment.concept_features import concept_features
from sae_lens_med.alignment.span_gate import Span, SpanGate
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.interventions.edit_runs import AnswerText, margin
from sae_lens_med.metrics.depends import on_concepts, on_model_runs
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.metrics.metric import Claim, Measured, Metric, Sentence, few, with_z
from sae_lens_med.records import FloatArray, IntArray, MetricValue
from sae_lens_med.runs.partial import PartialResults
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.statistics import permutation_p, quantile_interval

if TYPE_CHECKING:
    from sae_lens_med.interventions.edits import AboveHook


STRENGTHS = (-5.0, 0.0, 5.0, 10.0)


def measure_steering(inputs: Inputs) -> Measured:
    """Over all groups together: pairs are few."""
    span = inputs.view(SpanGate).by_group["all"]
    if not span.open:
        return Measured(notes=(span.closed("all"),))
    standing = concept_features(inputs)
    if inputs.concepts is None or not standing:
        return Measured(notes=("No concept has features that stand for it; steering is not measured.",))
    items = inputs.view(CausalItems)
    pairs = _pairs(inputs, standing)
    if not pairs:
        return Measured(notes=("No option names a concept that has a feature; steering is not measured.",))
    most = inputs.settings.steering_pairs
    order = np.random.default_rng([inputs.seed, 10]).permutation(len(pairs))[:most]
    settings = SteeringSettings(draws=inputs.settings.steering_draws, seed=inputs.seed)
    found = steer_pairs(
        items.above,
        items.texts,
        [pairs[k] for k in sorted(order.tolist())],
        np.asarray(inputs.pooled.stem_maxima.max(axis=0).todense(), dtype=np.float64).ravel(),
        settings,
        store=items.store("steering", settings.to_dict()),
        progress=inputs.model.progress,
    )
    metrics = steering_values(found, settings.strengths, span, draws=inputs.permutations, seed=inputs.seed)
    drawn = f"Steering: {most} of {len(pairs)} pairs of item and concept, drawn by the seed."
    return Measured(tuple(metrics), () if len(pairs) <= most else (drawn,))


def _pairs(inputs: Inputs, standing: Mapping[str, tuple[int, ...]]) -> "list[SteeringPair]":
    """Each measured item with each concept that exactly one of its options names, of those with a feature."""
    assert inputs.concepts is not None  # there would be no feature that stands for one
    items, matcher = inputs.view(CausalItems), inputs.concepts.matcher(set(standing))
    pairs: list[SteeringPair] = []
    for text in items.texts:
        named: dict[str, list[int]] = {}
        for k, option in enumerate(inputs.items[items.position[text.id]].options):
            for concept in {mention.concept_id for mention in matcher.find(option)}:
                named.setdefault(concept, []).append(k)
        pairs += [SteeringPair(text.id, c, standing[c][0], ks[0]) for c, ks in sorted(named.items()) if len(ks) == 1]
    return pairs


@dataclass(frozen=True, slots=True)
class SteeringSettings:
    """How features are steered."""

    strengths: tuple[float, ...] = STRENGTHS
    """Multiples of the feature's maximum."""
    draws: int = 20
    """Random directions, and random live features, per concept."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.strengths or self.draws < 1:
            raise ConfigError(f"steering needs a strength and a draw, got {self.strengths} and {self.draws} draws.")

    def to_dict(self) -> dict[str, Any]:
        """For the identity of a run."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SteeringPair:
    """One feature to steer in one item."""

    item_id: str
    concept: str
    feature: int
    target: int
    """Index of the option that names the concept."""


@dataclass(frozen=True, slots=True, eq=False)
class Steered:
    """The runs of n pairs at Z strengths: own feature first, then D directions, then D live features."""

    pairs: tuple[SteeringPair, ...]
    shift: FloatArray
    """`[1 + 2 D, Z, n]`, of the target's margin, negated for strengths <= 0."""
    divergence: FloatArray
    """`[1 + 2 D, Z, n]`, nats, >= 0."""


def steer_pairs(
    above: "AboveHook",
    texts: Sequence[AnswerText],
    pairs: Sequence[SteeringPair],
    maximum: FloatArray,
    settings: SteeringSettings,
    *,
    store: PartialResults | None = None,
    progress: bool = True,
) -> Steered:
    """Run all pairs whose item is among `texts` and whose feature is live.

    `maximum` `[d_sae]`: of each feature over the study; 0 for one that never fires.
    """
    by_id = {text.id: text for text in texts}
    chosen = [pair for pair in pairs if pair.item_id in by_id and maximum[pair.feature] > 0]
    done: Mapping[str, Any] = {} if store is None else store.done
    own: dict[str, Any] = {}
    with progress_bar(progress) as bar:
        task = bar.add_task("steering", total=len(chosen))
        for pair in chosen:
            key = f"{pair.item_id}\t{pair.concept}\t{pair.feature}"
            if key in done:
                own[key] = done[key]
            else:
                own[key] = {"id": key, **_pair(above, by_id[pair.item_id], pair, maximum, settings)}
                if store is not None:
                    store.append([own[key]])
            bar.advance(task)
    runs = 1 + 2 * settings.draws
    shape = (len(chosen), runs, len(settings.strengths))
    rows = list(own.values())
    shift = np.array([row["shift"] for row in rows], dtype=np.float64).reshape(shape)
    divergence = np.array([row["divergence"] for row in rows], dtype=np.float64).reshape(shape)
    return Steered(tuple(chosen), shift.transpose(1, 2, 0), divergence.transpose(1, 2, 0))


def _pair(
    above: "AboveHook", text: AnswerText, pair: SteeringPair, maximum: FloatArray, settings: SteeringSettings
) -> dict[str, Any]:
    from sae_lens_med.interventions.edits import Clamp, Push  # needs torch, which this module does not

    hooked = above.read(text.token_ids, text.chosen)
    rng = np.random.default_rng([settings.seed, pair.feature, *pair.concept.encode()])
    directions = rng.normal(size=(settings.draws, above.width)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    live = np.setdiff1d(np.flatnonzero(maximum > 0), [pair.feature])
    others = rng.choice(live, size=settings.draws, replace=len(live) < settings.draws)
    edits: list[Any] = []
    for strength in settings.strengths:
        edits.append(Clamp(pair.feature, strength * float(maximum[pair.feature])))
    for direction in directions:
        edits += [Push(direction, edits[z]) for z in range(len(settings.strengths))]
    for other in others.tolist():
        edits += [Clamp(other, strength * float(maximum[other])) for strength in settings.strengths]
    shift, divergence = np.zeros(len(edits)), np.zeros(len(edits))
    before: Any = None
    letters = np.array(text.letters)
    for numbers, logits in above.all_logits(hooked, edits):
        if before is None:  # the unedited text comes first
            before = logits[0].astype(np.float64)
            continue
        for number, after in zip(numbers, logits, strict=True):
            moved = margin(after[letters].astype(np.float64), pair.target) - margin(before[letters], pair.target)
            shift[number] = moved
            divergence[number] = off_target_divergence(before, after, letters[pair.target])
    sign = np.where(np.array(settings.strengths) > 0, 1.0, -1.0)
    shape = (-1, len(settings.strengths))
    return {
        "shift": (shift.reshape(shape) * sign).round(6).tolist(),
        "divergence": divergence.reshape(shape).round(9).tolist(),
    }


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


def steering_specificity(shift: FloatArray, divergence: FloatArray, floor: float = 1e-2) -> FloatArray:
    """`[...]`: `mean_i shift / max(mean_i divergence, floor)` over the items in the last axis.

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


def steering_values(
    found: Steered, strengths: Sequence[float], span: Span, *, draws: int, seed: int
) -> list[MetricValue]:
    """Specificity over all pairs and strengths together, against random directions and random live features."""
    n = len(found.pairs)
    if n == 0:
        return []
    half = (len(found.shift) - 1) // 2
    number = {key: c for c, key in enumerate(dict.fromkeys((p.concept, p.feature) for p in found.pairs))}
    concept = np.array([number[p.concept, p.feature] for p in found.pairs])
    own = steering_specificity(found.shift[0], found.divergence[0])
    of, runs = [concept == c for c in range(len(number))], len(found.shift)
    shift = np.stack([found.shift[:, :, rows].mean(axis=(1, 2)) for rows in of], axis=1)  # [1 + 2 D, concepts]
    specific = np.stack(
        [
            steering_specificity(
                found.shift[:, :, rows].reshape(runs, -1), found.divergence[:, :, rows].reshape(runs, -1)
            )
            for rows in of
        ],
        axis=1,
    )
    rng = np.random.default_rng([seed, 10])
    directions = _drawn(specific, range(1, 1 + half), draws, rng)
    live = _drawn(shift, range(1 + half, 1 + 2 * half), draws, rng)
    value = float(specific[0].mean())
    p = {"direction": permutation_p(value, directions), "live": permutation_p(float(shift[0].mean()), live)}
    extra = {f"at_{strength:g}": float(each) for strength, each in zip(strengths, own, strict=True)}
    extra |= {f"shift_at_{s:g}": float(each) for s, each in zip(strengths, found.shift[0].mean(axis=1), strict=True)}
    extra |= {f"kl_at_{s:g}": float(each) for s, each in zip(strengths, found.divergence[0].mean(axis=1), strict=True)}
    extra |= {"shift": float(shift[0].mean()), "live_shift": float(live.mean())}
    extra |= {f"p_{kind}": each for kind, each in p.items()}
    return [
        MetricValue(
            name="alignment/steering_specificity",
            value=value,
            range=(None, None),
            n=n,
            unit="pairs",
            null_mean=float(directions.mean()),
            null_interval=quantile_interval(directions),
            p=max(p.values()),
            extra=with_z(
                value, directions, extra | span.extra | {"concepts": float(len(number)), "permutations": float(draws)}
            ),
            notes="Logits of the target's margin per nat of change of all other tokens, averaged over concepts; null: "
            "random directions of equal length; p is the larger of that and the p of the shift against random live "
            "features; pairs of one concept share its feature" + few(len(number)),
        )
    ]


def _drawn(per_concept: FloatArray, runs: range, draws: int, rng: np.random.Generator) -> FloatArray:
    """`[draws]`: the mean over concepts where each has one of `runs`, or its own (run 0), of `[1 + 2 D, concepts]`."""
    choices = np.array([0, *runs])
    concepts = per_concept.shape[1]
    return per_concept[choices[rng.integers(len(choices), size=(draws, concepts))], np.arange(concepts)].mean(axis=1)


STEERING = Metric(
    name="steering",
    number=10,
    family="causal",
    title="Steering specificity",
    meaning="How far a concept's feature moves the option that names it, over what it does to all other tokens.",
    range=(None, None),
    null="Random directions of equal norm, and random live features.",
    needs=("concepts", "model"),
    source="SAEBench; Templeton et al. 2024",
    values=("alignment/steering",),
    confirmatory=("alignment/steering_specificity",),
    claims={
        "alignment/steering_specificity": Claim(
            may=Sentence(
                "steering a concept's feature moves the option that names it more specifically than random directions",
                "개념의 특징을 조종하면 무작위 방향보다 그 개념의 보기가 더 특이적으로 움직인다",
            ),
            may_not=Sentence("unsteered answers go through this feature", "조종하지 않은 답도 이 특징을 거친다"),
            floor=0.1,
            least=0.0,
        )
    },
    depends_on=(on_concepts, on_model_runs),
    measure=measure_steering,
)
