"""Does anything go through the features at all? The gate before every causal number (#6 to #11, #16).

Per item whose right answer is known, F the margin of the right option over the mean of the others (in logits),

    span = F(all features) - F(no feature)        removed at the counted stem tokens, the error term kept

averaged over items; the interval is a percentile bootstrap over items. The right option, and not the model's own
answer: whatever is done to a text takes from the answer that was the likeliest. Where the interval does not lie above
0, what single features do is noise, or the answer has left these tokens before this layer, and no causal number is
given.

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


@dataclass(frozen=True, slots=True)
class Span:
    """Of some items."""

    mean: float
    """Logits; NaN without items."""
    interval: tuple[float, float] | None
    """None with fewer than two items."""
    n: int

    @property
    def open(self) -> bool:
        """Whether causal numbers may be given: the interval lies above 0."""
        return self.interval is not None and self.interval[0] > 0

    @property
    def extra(self) -> dict[str, float]:
        """For `MetricValue.extra`."""
        if self.interval is None:
            return {}
        return {"span": self.mean, "span_low": self.interval[0], "span_high": self.interval[1]}

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
        return (
            f"Group {group!r}: all features together move {measured}, which is not told from 0; no causal number is "
            "given. The answer may have left these tokens before this layer."
        )


class SpanGate:
    """The span of one study's measured items; `inputs.view(SpanGate)`."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    @cached_property
    def per_item(self) -> dict[str, float]:
        """Item id -> span, of the items whose answer is known."""
        items = self.inputs.view(CausalItems)
        texts = [text for text in items.texts if text.gold is not None]
        results, _ = items.run("span", texts, _nothing_left, {}, label="all or no features")
        gold = {text.id: text.gold for text in texts}
        return {
            each.id: float(margin(each.whole, answer) - margin(each.logits[0], answer))
            for each in results
            if (answer := gold[each.id]) is not None
        }

    def of(self, ids: Collection[str]) -> Span:
        """Of the measured items among `ids`."""
        spans = np.array([span for name, span in self.per_item.items() if name in ids], dtype=np.float64)
        return span_of(spans, self.inputs.seed)

    @cached_property
    def by_group(self) -> dict[str, Span]:
        """Of every group."""
        return {group: self.of(ids) for group, ids in self.inputs.view(CausalItems).groups.items()}


def span_of(spans: FloatArray, seed: int) -> Span:
    """Mean and interval of spans `[n]`."""
    mean = float(spans.mean()) if len(spans) else float("nan")
    return Span(mean, bootstrap_interval(spans, seed=seed), len(spans))


def _nothing_left(text: AnswerText, hooked: "HookedText") -> Planned:  # noqa: ARG001 - the form of a plan
    from sae_lens_med.interventions.edits import Only  # needs torch, which this module does not

    return Planned((Only(()),))
