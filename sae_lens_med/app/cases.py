"""One case, whole: its texts, what the model answered, and the features of its question and explanation.

The groups are those of `align`, by the same functions and with the same numbers left out (`features.vectors`,
`features.option_words`; the index keeps what needs the whole study): a feature is *shared* when it is above 0 on a
counted stem token and on a counted token of the masked explanation, of the *model* when on the stem alone, of the
*expert* when on the explanation alone. Dense features, script features and those that every text has (weight 0) are in
none. Ranked by activation they stand as `align` ranks them: by the maximum times the weight, of shared ones the smaller
of the two sides.

Painting is of all shown tokens, options among them; an excluded token (BOS, a sink) is not painted, whatever fires
there.

Out of scope: what a feature does elsewhere (`feature_view`).
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from sae_lens_med.app import index_files
from sae_lens_med.app.case_list import probabilities
from sae_lens_med.app.indexed import Index
from sae_lens_med.app.names import Names
from sae_lens_med.app.refusals import refusal
from sae_lens_med.app.spans import Layout, lay_out
from sae_lens_med.app.views import (
    CaseFeature,
    CaseRow,
    CaseView,
    Group,
    Missing,
    Option,
    PaintedSegment,
    TokenFeatures,
)
from sae_lens_med.errors import ConfigError, NotFoundError, StudyError
from sae_lens_med.features.option_words import leave_out_words
from sae_lens_med.features.part import CollectedPart, FeaturePart
from sae_lens_med.features.vectors import EXPLANATION_PARTS, STEM_PARTS, max_pool
from sae_lens_med.records import OPTION_LETTERS, FloatArray, IntArray, ItemResult, McqItem

Order = Literal["activation", "attribution", "effect"]
Kind = Literal["shared", "model", "expert"]
ORDERS: tuple[Order, ...] = get_args(Order)
_KEPT = 6
"""Cases that stay in memory: the one that is looked at and those beside it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Sides:
    """The features of a case that count."""

    features: IntArray
    """`[m]`, ascending."""
    stem: FloatArray
    """`[m]`, maximum over the counted stem tokens; so `explanation`."""
    explanation: FloatArray
    weights: FloatArray
    """`[m]`, > 0."""

    def of(self, feature: int) -> tuple[float, float]:
        """Its maxima over stem and explanation; 0 for one that does not count."""
        at = int(np.searchsorted(self.features, feature))
        if at == len(self.features) or self.features[at] != feature:
            return 0.0, 0.0
        return float(self.stem[at]), float(self.explanation[at])

    @property
    def kinds(self) -> dict[Kind, IntArray]:
        """Places among `features`, group by group."""
        both = (self.stem > 0) & (self.explanation > 0)
        return {
            "shared": np.flatnonzero(both),
            "model": np.flatnonzero((self.stem > 0) & ~both),
            "expert": np.flatnonzero((self.explanation > 0) & ~both),
        }

    def rank(self, places: IntArray) -> FloatArray:
        """By what `align` ranks them."""
        stem, explanation = self.stem[places], self.explanation[places]
        either = np.where((stem > 0) & (explanation > 0), np.minimum(stem, explanation), np.maximum(stem, explanation))
        return either * self.weights[places]


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """What is read of a case."""

    layout: Layout
    part: CollectedPart | None
    problem: str
    """Why there are no features, in one sentence; empty where there are, or where nothing was collected."""
    sides: _Sides | None
    """None without features."""


@dataclass(frozen=True, slots=True, eq=False)
class Cases:
    """The cases of one study."""

    study: Path
    items: Sequence[McqItem]
    results: dict[str, ItemResult]
    rows: tuple[CaseRow, ...]
    part: FeaturePart | None
    """None where there are no features."""
    index: Index | None
    names: Names
    _kept: "OrderedDict[int, _Opened]" = field(default_factory=OrderedDict, repr=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def view(self, number: int, order: str, limit: int) -> CaseView:
        """One case with the `limit` strongest features of each group.

        Raises `NotFoundError` for a number that no case has, `ConfigError` for an unknown order or a limit below 1.
        """
        if order not in ORDERS or limit < 1:
            raise ConfigError(
                f"features are ordered by {', '.join(ORDERS)}, at least one of each group; got {order!r} and {limit}."
            )
        opened = self._opened(number)
        item, layout = self.items[number], opened.layout
        missing: list[Missing] = []
        if opened.problem:
            missing.append(Missing("missing.features", self._study_again, opened.problem))
        if layout.problem:
            missing.append(Missing("missing.spans", self._study_again, layout.problem))
        if item.explanation is None:
            missing.append(Missing("missing.explanation", ""))
        alignment = self.names.aligned.cases.get(number)
        groups: tuple[Group, ...] = ()
        used: Order = "activation"
        if self.part is not None and self.index is None:
            missing.append(Missing("missing.index", index_files.command(self.study)))
        if opened.part is not None and self.index is not None:
            attribution = self.index.attribution(number)
            if attribution is None:
                reason = "This case could not be run." if self.index.has("attribution") else ""
                missing.append(Missing("missing.attribution", index_files.command(self.study, "--attribution"), reason))
            used, groups = self._groups(number, opened, self.index, attribution, order, limit)
        return CaseView(
            row=self.rows[number],
            parts=layout.parts,
            options=self._options(item),
            explanation_source=item.explanation_source,
            alignment=alignment,
            groups=groups,
            order=used,
            missing=tuple(missing),
        )

    def shown(self, number: int, limit: int) -> list[int]:
        """The features that `view` shows, ranked by activation; its texts are not looked at. Raises as `view`."""
        self._require(number)
        part, _ = self._read(number)
        if part is None or self.index is None:
            return []
        sides = self._sides(number, part)
        chosen = self._chosen(number, sides, self.index, {}, limit)
        return [int(sides.features[place]) for places in chosen.values() for place in places]

    def is_collected(self, number: int) -> bool:
        """Whether the features of a case can be read. Raises `NotFoundError` for a number that no case has."""
        return self._opened(number).part is not None

    def paint(self, number: int, feature: int) -> tuple[PaintedSegment, ...]:
        """Where one feature fires in one case. Raises `NotFoundError`, and `StudyError` where nothing was collected."""
        opened = self._opened(number)
        part = self._collected(opened)
        if not 0 <= feature < part.acts.acts.shape[1]:  # type: ignore[index]  # SciPy leaves the shape of an array open
            raise refusal(NotFoundError, "refused.feature", of=part.acts.acts.shape[1], feature=feature)  # type: ignore[index]  # as above
        return _painted(opened.layout, part, [feature])[feature]

    def token(self, number: int, key: str, segment: int, limit: int) -> TokenFeatures:
        """What fires at a segment, strongest first by the share of each feature's maximum over the study (by the
        activation without an index). Raises as `paint`, and `ConfigError` for a limit below 1."""
        if limit < 1:
            raise ConfigError(f"at least one feature is shown, got {limit}.")
        opened = self._opened(number)
        part, layout = self._collected(opened), opened.layout
        place = layout.part(key)
        if place is None or not 0 <= segment < len(layout.parts[place].segments):
            raise refusal(NotFoundError, "refused.segment", number=number, segment=segment, part=repr(key))
        found = layout.parts[place].segments[segment]
        rows = part.acts.acts[list(found.tokens)]
        features, first = np.unique(rows.indices, return_inverse=True)
        values = np.zeros(len(features))
        np.maximum.at(values, first, rows.data)
        share = values
        if self.index is not None:
            # Of a feature that fires on excluded tokens only there is no maximum.
            top = self.index.maximum[features].astype(np.float64)
            share = np.divide(values, top, out=np.zeros(len(values)), where=top > 0)
        chosen = np.lexsort((features, -values, -share))[:limit]
        sides = opened.sides
        assert sides is not None  # there are features
        shown: list[CaseFeature] = []
        for k in chosen.tolist():
            feature = int(features[k])
            stem, explanation = sides.of(feature)
            paint = (PaintedSegment(key, segment, float(values[k])),)
            shown.append(self.names.beside_case(feature, stem, explanation, None, paint))
        text = layout.parts[place].text.encode("utf-16-le")[2 * found.start : 2 * found.end].decode("utf-16-le")
        return TokenFeatures(key, segment, text, tuple(shown), len(features))

    def of_question(self, number: int, limit: int) -> tuple[CaseFeature, ...]:
        """The `limit` features of the question that its answer depends on most, to first order, or that are strongest
        (maximum times weight) where that is not known; whatever the explanation has. Empty without features.

        Raises `NotFoundError` for a number that no case has.
        """
        opened = self._opened(number)
        if (sides := opened.sides) is None:
            return ()
        places = np.flatnonzero(sides.stem > 0)
        known = (None if self.index is None else self.index.attribution(number)) or {}
        values = [abs(known.get(feature, 0.0)) for feature in sides.features[places].tolist()]
        best = np.lexsort((sides.features[places], -sides.stem[places] * sides.weights[places], -np.array(values)))
        return tuple(
            self.names.beside_case(
                feature := int(sides.features[place]), float(sides.stem[place]), float(sides.explanation[place]),
                known.get(feature), (),
            )
            for place in places[best][:limit].tolist()
        )  # fmt: skip

    def _groups(
        self,
        number: int,
        opened: _Opened,
        index: Index,
        attribution: dict[int, float] | None,
        order: str,
        limit: int,
    ) -> tuple[Order, tuple[Group, ...]]:
        sides = opened.sides
        assert opened.part is not None and sides is not None  # the caller looked
        used, known = self._known(order, attribution)
        kinds = self._kinds(number, sides, index)
        chosen = self._chosen(number, sides, index, known, limit)
        features = [int(sides.features[place]) for places in chosen.values() for place in places]
        paint = _painted(opened.layout, opened.part, features)
        groups = []
        for kind, places in chosen.items():
            shown = []
            for place in places:
                feature = int(sides.features[place])
                effect = None if attribution is None else attribution.get(feature)
                shown.append(
                    self.names.beside_case(
                        feature, float(sides.stem[place]), float(sides.explanation[place]), effect, paint[feature]
                    )
                )
            groups.append(Group(kind, len(kinds[kind]), tuple(shown)))
        return used, tuple(groups)

    def _kinds(self, number: int, sides: _Sides, index: Index) -> dict[Kind, IntArray]:
        """Without an explanation that counts there is nothing to share."""
        return sides.kinds if index.explained[number] else {"model": np.flatnonzero(sides.stem > 0)}

    def _chosen(
        self, number: int, sides: _Sides, index: Index, known: dict[int, float], limit: int
    ) -> dict[Kind, list[int]]:
        """Places among `sides.features`, group by group, the first `limit` of each."""
        chosen: dict[Kind, list[int]] = {}
        for kind, places in self._kinds(number, sides, index).items():
            values = np.full(len(places), -np.inf)
            if known:
                values[:] = [known.get(feature, -np.inf) for feature in sides.features[places].tolist()]
            best = np.lexsort((sides.features[places], -sides.rank(places), -values))[:limit]
            chosen[kind] = places[best].tolist()
        return chosen

    def _known(self, order: str, attribution: dict[int, float] | None) -> tuple[Order, dict[int, float]]:
        """The order that can be given, and the numbers by which features stand before those that have none."""
        tested = self.names.aligned.tested
        if order == "attribution" and attribution is not None:
            return "attribution", {feature: abs(value) for feature, value in attribution.items()}
        if order == "effect" and tested:
            return "effect", {f: each.effect for f, each in tested.items() if each.effect is not None}
        return "activation", {}

    def _sides(self, number: int, part: CollectedPart) -> _Sides:
        """The maxima over the counted tokens of both sides, by the functions that `align` pools by; without an index
        of all features, each of weight 1."""
        acts, kept = part.acts, None
        if self.index is not None:
            acts, _ = leave_out_words(acts, part.texts, [self.index.option_words(number)])
            kept = self.index.kept
        stem, explanation = (max_pool(acts, parts, kept) for parts in (STEM_PARTS, EXPLANATION_PARTS))
        values = np.zeros((2, acts.acts.shape[1]))  # type: ignore[index]  # SciPy leaves the shape of an array open
        for own, side in zip(values, (stem, explanation), strict=True):
            own[side.indices] = side.data
        features = np.flatnonzero(values.any(axis=0))
        weights = np.ones(len(features)) if self.index is None else self.index.weights[features]
        features, weights = features[weights > 0], weights[weights > 0]
        return _Sides(features, values[0, features], values[1, features], weights)

    def _options(self, item: McqItem) -> tuple[Option, ...]:
        result = self.results.get(item.id)
        shares = probabilities(result)
        return tuple(
            Option(
                letter=letter,
                probability=None if shares is None else shares[k],
                predicted=result is not None and result.prediction == letter,
                gold=item.answer == k,
            )
            for k, letter in enumerate(OPTION_LETTERS[: len(item.options)])
        )

    def _opened(self, number: int) -> _Opened:
        """Raises `NotFoundError` for a number that no case has."""
        self._require(number)
        with self._guard:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        part, problem = self._read(number)
        sides = None if part is None else self._sides(number, part)
        found = _Opened(lay_out(self.items[number], part), part, problem, sides)
        with self._guard:
            self._kept[number] = found
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found

    def _require(self, number: int) -> None:
        if not 0 <= number < len(self.items):
            raise refusal(NotFoundError, "refused.case", of=len(self.items), number=number)

    def _read(self, number: int) -> tuple[CollectedPart | None, str]:
        """What was collected of a case; or None, and why, which is empty where nothing was collected at all."""
        if self.part is None:
            return None, ""
        try:
            part = self.part.item(number)
        except StudyError as error:
            return None, str(error)
        if part.acts.item_ids != (self.items[number].id,):
            return None, f"{self.part.folder} holds other items than the study's; run the study again."
        return part, ""

    def _collected(self, opened: _Opened) -> CollectedPart:
        if opened.part is None:
            if opened.problem:
                raise refusal(NotFoundError, "refused.unread", reason=opened.problem)
            raise refusal(NotFoundError, "refused.uncollected")
        return opened.part

    @property
    def _study_again(self) -> str:
        return index_files.study_command(self.study)


def _painted(layout: Layout, part: CollectedPart, features: Sequence[int]) -> dict[int, tuple[PaintedSegment, ...]]:
    """Feature -> the segments that it fires in, in the order of the texts, each with the maximum over its tokens."""
    acts = part.acts
    row = np.repeat(np.arange(len(acts.excluded)), np.diff(acts.acts.indptr))
    chosen = np.flatnonzero(np.isin(acts.acts.indices, list(features)))
    chosen = chosen[~acts.excluded[row[chosen]]]
    found: dict[int, dict[tuple[int, int], float]] = {feature: {} for feature in features}
    values = acts.acts.data[chosen]
    for feature, token, value in zip(
        acts.acts.indices[chosen].tolist(), row[chosen].tolist(), values.tolist(), strict=True
    ):
        own = found[feature]
        for place in layout.at.get(token, ()):
            own[place] = max(own.get(place, 0.0), value)
    return {
        feature: tuple(
            PaintedSegment(layout.parts[part_number].key, segment, value)
            for (part_number, segment), value in sorted(own.items())
        )
        for feature, own in found.items()
    }
