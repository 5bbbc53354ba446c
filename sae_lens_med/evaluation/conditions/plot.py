"""Accuracy and margin against steering strength: what `plots.steering_panels` draws of a comparison."""

from collections.abc import Sequence
from typing import Literal

from sae_lens_med.evaluation.conditions.compare import Comparison, ConditionResult
from sae_lens_med.plots import SteeringEntry, SteeringPoint, describe_steering, steering_panels, svg
from sae_lens_med.statistics import quantile_interval

TITLE = "Accuracy and margin against steering strength"


def steering_svg(comparison: Comparison) -> str | None:
    """The figure as SVG; None when no condition has a strength."""
    entries = steering_entries(comparison)
    if not entries:
        return None
    plain, provenance = comparison.results[0], comparison.provenance
    model, data = provenance.model.get("name", "model"), str(provenance.data.get("source", ""))
    axes = steering_panels(
        entries,
        plain_accuracy=plain.accuracy,
        n_sets=max(len(r.random.sets) if r.random else 0 for r in comparison.results),
        heading=f"{model} on {_short(data, 50)}, {plain.n} items",
    )
    return svg(axes, title=TITLE, description=describe_steering(entries))


def steering_entries(comparison: Comparison) -> tuple[SteeringEntry, ...]:
    """An entry for each family of conditions with strengths, with plain at 0 where it belongs to the line."""
    families: dict[str, list[ConditionResult]] = {}
    for result in comparison.results:
        if result.condition.strength is not None:
            families.setdefault(result.condition.family, []).append(result)
    plain = comparison.results[0]
    return tuple(
        SteeringEntry(_title(name, own), _points(own, plain, "accuracy"), _points(own, plain, "margin"))
        for name, own in families.items()
    )


def _points(
    own: Sequence[ConditionResult], plain: ConditionResult, what: Literal["accuracy", "margin"]
) -> tuple[SteeringPoint, ...]:
    base = plain.accuracy if what == "accuracy" else 0.0
    found = []
    for result in own:
        assert result.condition.strength is not None  # chosen for it
        band = mean = p = None
        if result.random is not None:
            sets = result.random.accuracy_change if what == "accuracy" else result.random.margin_change
            band, mean, p = quantile_interval([base + v for v in sets.values]), base + sets.mean, sets.p
        found.append(
            SteeringPoint(
                name=result.condition.name,
                strength=result.condition.strength,
                value=result.accuracy if what == "accuracy" else result.margin_change,
                interval=result.accuracy_interval if what == "accuracy" else result.margin_change_interval,
                band=band,
                band_mean=mean,
                p=p,
            )
        )
    if own[0].condition.plain_at_zero:
        interval = plain.accuracy_interval if what == "accuracy" else None
        # Steering random features with strength 0 is the plain model, too.
        band, mean = ((base, base), base) if any(p.band is not None for p in found) else (None, None)
        found.append(SteeringPoint("plain", 0.0, base, interval, band, mean, plain=True))
    return tuple(sorted(found, key=lambda p: p.strength))


def _title(name: str, own: Sequence[ConditionResult]) -> str:
    condition = own[0].condition
    indices = [str(index) for _, index in condition.features]
    listed = ", ".join(indices[:6]) + (", ..." if len(indices) > 6 else "")
    units = dict.fromkeys(each["unit"] for each in condition.interventions if "unit" in each)
    about = f"{condition.kind}, feature{'s' if len(indices) > 1 else ''} {listed}"
    return f"{_short(name, 40)}: {about}" + (f", unit {', '.join(units)}" if units else "")


def _short(text: str, n: int) -> str:
    return text if len(text) <= n else text[: n - 1] + "…"
