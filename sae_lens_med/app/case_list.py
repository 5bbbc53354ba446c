"""The list of cases: rows, filters, orders, counts, and which case comes before and after.

Out of scope: one case, whole (`cases`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import get_args

import numpy as np

from sae_lens_med.app.aligned import Aligned
from sae_lens_med.app.indexed import Index
from sae_lens_med.app.refusals import refusal
from sae_lens_med.app.search import Texts, fold
from sae_lens_med.app.text import cut
from sae_lens_med.app.views import CaseOrder, CasePage, CaseRow, Filters
from sae_lens_med.errors import ConfigError, NotFoundError
from sae_lens_med.records import ItemResult, McqItem

EXCERPT = 120
"""Characters of the stem in a row."""
_NUMBERS = {order.lstrip("-") for order in get_args(CaseOrder) if order}
ANSWERS = ("right", "wrong", "none")


@dataclass(frozen=True, eq=False)
class CaseList:
    """All cases of a study."""

    rows: tuple[CaseRow, ...]
    """By number."""
    texts: Texts
    index: Index | None
    _answers: tuple[str, ...] = field(repr=False)
    """Per case one of `ANSWERS`, or empty where that is not known."""

    @classmethod
    def of(
        cls,
        items: Sequence[McqItem],
        results: Mapping[str, ItemResult],
        aligned: Aligned,
        texts: Texts,
        index: Index | None,
    ) -> "CaseList":
        """`results` may lack items."""
        rows = tuple(_row(number, item, results.get(item.id), aligned) for number, item in enumerate(items))
        return cls(rows, texts, index, tuple(_answer(row) for row in rows))

    def page(self, filters: Filters, page: int, size: int) -> CasePage:
        """Rows `(page - 1) size` to `page size` of those that the filters keep; the last page where there are fewer.

        Raises `ConfigError` for numbers below 1, `NotFoundError` for a feature filter without an index.
        """
        if page < 1 or size < 1:
            raise ConfigError(f"a page and its size are 1 or more, got {page} and {size}.")
        kept = self.kept(filters)
        pages = max(1, -(-len(kept) // size))
        page = min(page, pages)
        return CasePage(
            filters=filters,
            rows=tuple(self.rows[number] for number in kept[(page - 1) * size : page * size]),
            total=len(kept),
            of=len(self.rows),
            page=page,
            pages=pages,
            subjects=_counts(row.subject for row in self.rows),
            reasons=_counts(row.reason for row in self.rows if row.reason is not None),
            orders=self.orders,
            answers=tuple((name, self._answers.count(name)) for name in ANSWERS),
        )

    @cached_property
    def orders(self) -> tuple[CaseOrder, ...]:
        """The orders in which there is something to order, that of the study first."""
        known = {name for name in _NUMBERS if any(getattr(row, name) is not None for row in self.rows)}
        return tuple(order for order in get_args(CaseOrder) if not order or order.lstrip("-") in known)

    def kept(self, filters: Filters) -> list[int]:
        """Numbers of the cases that the filters keep, in their order."""
        kept = [
            number
            for number, (row, answer) in enumerate(zip(self.rows, self._answers, strict=True))
            if filters.subject in ("", row.subject)
            and filters.answer in ("", answer)
            and filters.reason in ("", row.reason)
        ]
        if wanted := fold(filters.text):
            kept = [number for number in kept if self.texts.holds(number, wanted)]
        if filters.feature is not None:
            if self.index is None:
                raise refusal(NotFoundError, "refused.features.index")
            if not 0 <= filters.feature < len(self.index.count):
                raise refusal(NotFoundError, "refused.feature", of=len(self.index.count), feature=filters.feature)
            fires = self.index.cases(filters.feature)
            kept = [number for number in kept if fires[number]]
        if filters.order:
            name, sign = filters.order.lstrip("-"), -1 if filters.order.startswith("-") else 1
            values = {number: getattr(self.rows[number], name) for number in kept}
            # What has no value comes last in either direction.
            kept.sort(key=lambda n: (values[n] is None, 0.0 if values[n] is None else sign * values[n]))
        return kept

    def beside(self, number: int, filters: Filters) -> tuple[int | None, int | None]:
        """The case before and the case after under the filters; of a case that they do not keep, None and the first."""
        kept = self.kept(filters)
        if number not in kept:
            return None, kept[0] if kept else None
        at = kept.index(number)
        return kept[at - 1] if at else None, kept[at + 1] if at + 1 < len(kept) else None


def probabilities(result: ItemResult | None) -> list[float] | None:
    """Of the options, together 1: the softmax of what the method scored them by. None for a method that does not."""
    if result is None or result.option_logprobs is None:
        return None
    scores = np.array(result.option_logprobs, dtype=np.float64)
    shares = np.exp(scores - scores.max())
    return (shares / shares.sum()).tolist()


def _row(number: int, item: McqItem, result: ItemResult | None, aligned: Aligned) -> CaseRow:
    shares = probabilities(result)
    alignment = aligned.cases.get(number)
    ordered = sorted(shares or (), reverse=True)
    return CaseRow(
        number=number,
        id=item.id,
        subject=item.subject,
        language=item.language,
        text=cut(item.question, EXCERPT),
        prediction=None if result is None else result.prediction,
        gold=item.gold_letter,
        correct=None if result is None else result.correct,
        reason=None if result is None else result.reason,
        margin=ordered[0] - ordered[1] if len(ordered) > 1 else None,
        difference=None if alignment is None else alignment.matched - alignment.mismatched,
        comprehensiveness=aligned.comprehensiveness.get(number),
    )


def _answer(row: CaseRow) -> str:
    if row.reason is not None:
        return "none"
    return {True: "right", False: "wrong", None: ""}[row.correct]


def _counts(values: Iterable[str]) -> tuple[tuple[str, int], ...]:
    counted = Counter(values)
    return tuple(sorted(counted.items(), key=lambda pair: (-pair[1], pair[0])))
