"""Does the answer go through the features at all? The gate before every causal number (#6 to #11, #16).

F is the margin of the right option over the mean of the others (in logits), over the items whose right answer is known;
edits at the counted stem tokens; means over items, percentile bootstraps over items.

    span  = F(x) - F(no feature)                what removing all features takes, the error term kept
    alone = (F(x̂) - F(no feature)) / span      the share of it that the features give without the error term

(`alone` is the faithfulness of #8, of the whole dictionary.) The right option, and not the model's own answer: whatever
is done to a text takes from the answer that was the likeliest.

The interval of the span must lie above 0: otherwise what single features do is noise, or the answer has left these
tokens before this layer. That of `alone` must lie above `LEAST_ALONE`: otherwise the answer goes through what the SAE
misses, and removing features damages a text as adding noise does; so it is with a dictionary that has learned nothing.
No causal number is given in either case.

Out of scope: which features, and how much of the span each keeps up (`sufficiency`).
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sae_lens_med.alignment.causal_items import CausalItems
from sae_lens_med.interventions.edit_runs import AnswerText, Planned, margin
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.records import FloatArray
from sae_lens_med.statistics import bootstrap_interval

if TYPE_CHECKING:
    from sae_lens_med.interventions.edits import HookedText


LEAST_ALONE = 0.5
"""Half: the features give more of the answer than they leave to the error term."""


@dataclass(frozen=True, slots=True)
class Span:
    """Of some items."""

    mean: float
    """Logits; NaN without items."""
    interval: tuple[float, float] | None
    """None with fewer than two items."""
    alone: float
    """Share of `mean`; NaN where that does not lie above 0."""
    alone_interval: tuple[float, float] | None
    """None where `interval` does not lie above 0."""
    n: int

    @property
    def open(self) -> bool:
        """Whether causal numbers may be given."""
        return self.alone_interval is not None and self.alone_interval[0] > LEAST_ALONE

    @property
    def extra(self) -> dict[str, float]:
        """For `MetricValue.extra`; only an open gate has values."""
        if self.interval is None or self.alone_interval is None:
            return {}
        return {
            "span": self.mean,
            "span_low": self.interval[0],
            "span_high": self.interval[1],
            "alone": self.alone,
            "alone_low": self.alone_interval[0],
        }

    def closed(self, group: str) -> str:
        """The sentence that stands in the place of the numbers."""
        if self.interval is None:
            return (
                f"Group {group!r}: {self.n} measured items have a known answer, too few to see whether the features "
                "move it; no causal number is given."
            )
        low, high = self.interval
        measured = f"the margin of the right answer by {self.mean:.3g} logits (95 % interval {low:.3g} to {high:.3g})"
        if high < 0:
            return (
                f"Group {group!r}: all features together speak against the right answer: they move {measured}; no "
                "causal number is given."
            )
        if self.alone_interval is None:
            return (
                f"Group {group!r}: all features together move {measured}, which is not told from 0; no causal number "
                "is given. The answer may have left these tokens before this layer."
            )
        low, high = self.alone_interval
        return (
            f"Group {group!r}: without what the SAE misses, the features give {self.alone:.3g} of the margin that "
            f"removing them takes (95 % interval {low:.3g} to {high:.3g}), not surely more than {LEAST_ALONE:g}: the "
            "answer goes through what the SAE misses; no causal number is given."
        )


class SpanGate:
    """The span of one study's measured items; `inputs.view(SpanGate)`."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    @cached_property
    def per_item(self) -> dict[str, tuple[float, float]]:
        """Item id -> `F(x) - F(no feature)` and `F(x̂) - F(no feature)`, of the items whose answer is known."""
        items = self.inputs.view(CausalItems)
        texts = [text for text in items.texts if text.gold is not None]
        settings = {"edits": "no feature, no error term"}
        results, _ = items.run("span", texts, _all_or_nothing, settings, label="all or no features")
        gold = {text.id: text.gold for text in texts}
        found: dict[str, tuple[float, float]] = {}
        for each in results:
            answer = gold[each.id]
            if answer is not None:
                whole, (empty, spliced) = margin(each.whole, answer), margin(each.logits, answer)
                found[each.id] = float(whole - empty), float(spliced - empty)
        return found

    def of(self, ids: Collection[str]) -> Span:
        """Of the measured items among `ids`."""
        pairs = [pair for name, pair in self.per_item.items() if name in ids]
        return span_of(np.array(pairs, dtype=np.float64).reshape(-1, 2), self.inputs.seed)

    @cached_property
    def by_group(self) -> dict[str, Span]:
        """Of every group."""
        return {group: self.of(ids) for group, ids in self.inputs.view(CausalItems).groups.items()}


def span_of(pairs: FloatArray, seed: int) -> Span:
    """Of items with `F(x) - F(no feature)` and `F(x̂) - F(no feature)`, `[n, 2]`."""
    if not len(pairs):
        return Span(float("nan"), None, float("nan"), None, 0)
    mean, kept = pairs.mean(axis=0).tolist()
    interval = bootstrap_interval(pairs[:, 0], seed=seed)
    if interval is None or interval[0] <= 0:
        return Span(mean, interval, float("nan"), None, len(pairs))

    def share(positions: FloatArray) -> FloatArray:
        whole, alone = np.moveaxis(pairs[positions.astype(np.int64)], -1, 0)
        return alone.mean(axis=-1) / whole.mean(axis=-1)

    shares = bootstrap_interval(np.arange(len(pairs), dtype=np.float64), statistic=share, seed=seed)
    return Span(mean, interval, kept / mean, shares, len(pairs))


def _all_or_nothing(text: AnswerText, hooked: "HookedText") -> Planned:  # noqa: ARG001 - the form of a plan
    from sae_lens_med.interventions.edits import Only, Splice  # needs torch, which this module does not

    return Planned((Only(()), Splice()))
