"""The concepts that an expert's marked spans name: CasiMedicos' premises and claims, or any spans of `McqItem`.

A span names a concept when the concept is found in the item's text and lies wholly within the span. The text is
searched as a whole, so that a span that cuts a word does not make a new one.

Out of scope: relations between spans (which premise supports which claim).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sae_lens_med.concepts.matching import ConceptMatcher, Mention
from sae_lens_med.concepts.sets import ConceptSet
from sae_lens_med.errors import ConfigError, DataError, nearest
from sae_lens_med.records import McqItem, Span


@dataclass(frozen=True, slots=True)
class SpanConcepts:
    """The concepts in the spans of some items."""

    concepts: ConceptSet
    """Those that at least one item's spans name, in the order of the set that was searched for."""
    by_item: dict[str, tuple[str, ...]]
    """Item id -> ids of its concepts, sorted; empty for an item whose spans name none."""


def concepts_in_spans(
    items: Sequence[McqItem], matcher: ConceptMatcher, labels: Collection[str] | None = None
) -> SpanConcepts:
    """The concepts within the spans of `items`, of question and explanation, that bear one of `labels` (None: any).

    Raises `ConfigError` for a label that no span of the items has, `DataError` when the spans name no concept at all.
    """
    known = sorted({span.label for item in items for span in (*item.question_spans, *item.explanation_spans)})
    for label in sorted(set(labels or ()) - set(known)):
        hint = nearest(label, known) or f"; the labels are {', '.join(known) or 'none'}."
        raise ConfigError(f"no span of the {len(items)} items has the label {label!r}{hint}")
    by_item: dict[str, tuple[str, ...]] = {}
    for item in items:
        ids: set[str] = set()
        for text, spans in ((item.question, item.question_spans), (item.explanation or "", item.explanation_spans)):
            kept = [span for span in spans if labels is None or span.label in labels]
            ids.update(mention.concept_id for mention in mentions_in_spans(matcher.find(text), kept))
        by_item[item.id] = tuple(sorted(ids))
    named = {concept for ids in by_item.values() for concept in ids}
    if not named:
        raise DataError(
            f"the spans of the {len(items)} items name none of the {len(matcher.concepts)} concepts of "
            f"{matcher.concepts.source}; use items with annotated spans, or another concept set."
        )
    return SpanConcepts(matcher.concepts.subset(ids=named), by_item)


def mentions_in_spans(mentions: Sequence[Mention], spans: Sequence[Span]) -> tuple[Mention, ...]:
    """Those of `mentions` that lie wholly within one of `spans` of the same text, in order."""
    return tuple(
        mention for mention in mentions if any(s.start <= mention.start and mention.end <= s.end for s in spans)
    )
