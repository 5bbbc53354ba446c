"""Steering specificity (#10): does a concept's feature move the option that names the concept, and little else?

For a pair of an item and a concept that exactly one of its options names (the target), the concept's feature f is
clamped at the counted stem tokens to strength x its maximum over the study, for strengths -5, 0, 5, 10, the error term
kept. Per run: the shift of the target's margin over the other options' mean (a common shift of all logits changes no
probability, so it must not count), negated for strengths <= 0, and the Kullback-Leibler divergence of the distribution
over all tokens but the target (`causal.off_target_divergence`). Beside them, in the same items and at the same
strengths:

- random directions: at each token a step of equal length along one random unit vector;
- random live features: another feature that fires in the study, at the same strength of its own maximum.

One draw has one direction (or one feature) per concept, for all its items. Passes of the layers above the hook per
pair: `strengths x (1 + 2 draws)`.

Out of scope: the ratio and its p (`causal.steering_specificity`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_lens_med.alignment.causal import off_target_divergence
from sae_lens_med.errors import ConfigError
from sae_lens_med.interventions.edit_runs import AnswerText, margin
from sae_lens_med.records import FloatArray
from sae_lens_med.runs.partial import PartialResults
from sae_lens_med.runs.progress import progress_bar

if TYPE_CHECKING:
    from sae_lens_med.interventions.edits import AboveHook


STRENGTHS = (-5.0, 0.0, 5.0, 10.0)


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
