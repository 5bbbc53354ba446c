"""One feature, whole: where it fires, how strongly, what it tells, what it does, and what people call it.

Contexts are pieces of the texts that were run: the cases in which the feature is strongest, then one from each tenth of
those in which it fires, so that a label is not made of the top alone. They are read around the strongest token; what
else fires there of the feature is marked, too.

Out of scope: the feature in one case (`cases`).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sae_lens_med.app import index_files
from sae_lens_med.app.indexed import Index
from sae_lens_med.app.names import Names, density
from sae_lens_med.app.proposed import Proposals
from sae_lens_med.app.refusals import refusal
from sae_lens_med.app.spans import segments
from sae_lens_med.app.text import as_shown, visible
from sae_lens_med.app.views import (
    CaseRow,
    Context,
    FeaturePage,
    FeatureRow,
    FeatureView,
    LabelEntry,
    Missing,
    Proposal,
    TokenEffect,
)
from sae_lens_med.controls.organisms.cases import concepts
from sae_lens_med.controls.organisms.tables import LANGUAGES
from sae_lens_med.errors import ConfigError, NotFoundError, StudyError
from sae_lens_med.features.part import FeaturePart
from sae_lens_med.features.store import TEXTS
from sae_lens_med.models.organisms import PREFIX
from sae_lens_med.records import PARTS

CONTEXTS, CASES, AROUND = 20, 20, 30
"""Contexts from the top, cases of the list, and tokens on either side of a context's strongest."""
ORDERS = ("maximum", "density", "auroc", "effect", "index")


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The features of one study."""

    study: Path
    source: str
    """Of the SAE, for `SOURCE:INDEX`."""
    d_sae: int | None
    """None where nothing says how many features there are."""
    rows: tuple[CaseRow, ...]
    part: FeaturePart | None
    index: Index | None
    names: Names
    proposals: Proposals
    cues: "Cues | None" = None
    """Of an organism's exam; None for any other study."""

    def view(self, feature: int) -> FeatureView:
        """One feature. Raises `NotFoundError` for an index that the SAE has not got."""
        self.require(feature)
        index, aligned = self.index, self.names.aligned
        tested = aligned.tested.get(feature)
        missing: list[Missing] = []
        for part in ("neighbours", "logits"):
            if index is None or not index.has(part):
                missing.append(Missing(f"missing.{part}", index_files.command(self.study, f"--{part}")))
        contexts: list[Context] = []
        if index is None:
            missing.insert(0, Missing("missing.index", index_files.command(self.study)))
        else:
            try:
                contexts = self._contexts(feature, index)
            except StudyError as error:
                missing.append(Missing("missing.features", index_files.study_command(self.study), str(error)))
        found = [] if index is None else index.neighbours(feature)
        proposals = self.proposals.of(feature)
        raised, lowered = ([], []) if index is None else index.logits(feature)
        return FeatureView(
            name=self.names.name(feature),
            reference=f"{self.source}:{feature}",
            density=None if index is None else density(index, feature),
            n_tokens=None if index is None else int(index.count[feature]),
            n_items=None if index is None else int(index.n_cases[feature]),
            mean=None if index is None else float(index.mean[feature]),
            left_out=None if index is None else index.left_out(feature),
            histogram=() if index is None else tuple(index.histogram(feature)),
            contexts=tuple(contexts),
            concepts=aligned.concepts_of(feature),
            cases=() if index is None else tuple(self.rows[n] for n in index.top(feature).item[:CASES].tolist()),
            neighbours=tuple(self.names.name(other) for other, _ in found),
            similarities=tuple(cosine for _, cosine in found),
            raised=tuple(TokenEffect(as_shown(token), value) for token, value in raised),
            lowered=tuple(TokenEffect(as_shown(token), value) for token, value in lowered),
            labels=tuple(map(_shown, self.proposals.with_origin(self.names.labels.of(feature)))),
            verdict=None if tested is None else tested.verdict,
            effect=None if tested is None else tested.effect,
            band=None if tested is None else tested.band,
            drives=None if self.cues is None or index is None else self.cues.of(index.words_of(feature)),
            missing=tuple(missing),
            proposals=tuple(map(shown_proposal, proposals)),
        )

    def page(self, order: str, page: int, size: int) -> FeaturePage:
        """The features that fire, `size` a page; the last page where there are fewer. Without an index there are none.

        Orders: `maximum`, `density`, `auroc`, `effect` from the largest (what has none comes last), and `index`. Raises
        `ConfigError` for another one, and for numbers below 1.
        """
        if order not in ORDERS or page < 1 or size < 1:
            raise ConfigError(
                f"features are ordered by {', '.join(ORDERS)}, on pages from 1; got {order!r}, {page} and {size}."
            )
        if self.index is None:
            return FeaturePage((), order, 0, 1, 1)
        fires = np.flatnonzero(self.index.count)
        if order != "index":
            values = self._values(order, self.index)[fires]
            fires = fires[np.lexsort((fires, -values))]
        pages = max(1, -(-len(fires) // size))
        page = min(page, pages)
        rows = tuple(self._row(int(f), self.index) for f in fires[(page - 1) * size : page * size])
        return FeaturePage(rows, order, len(fires), page, pages)

    def require(self, feature: int) -> None:
        """Raise `NotFoundError` unless the SAE has the feature."""
        if self.d_sae is None:
            raise refusal(NotFoundError, "refused.features.unknown")
        if not 0 <= feature < self.d_sae:
            raise refusal(NotFoundError, "refused.feature", of=self.d_sae, feature=feature)

    def _values(self, order: str, index: Index) -> "np.typing.NDArray[np.float64]":
        if order in ("maximum", "density"):
            return (index.maximum if order == "maximum" else index.count).astype(np.float64)
        values = np.full(len(index.count), -np.inf)
        if order == "effect":
            for feature, tested in self.names.aligned.tested.items():
                values[feature] = -np.inf if tested.effect is None else tested.effect
        else:
            for concept in self.names.aligned.concepts:
                for feature, score in concept.features:
                    values[feature] = max(values[feature], score.auroc)
        return values

    def _row(self, feature: int, index: Index) -> FeatureRow:
        aligned = self.names.aligned
        tested, concepts = aligned.tested.get(feature), aligned.concepts_of(feature)
        return FeatureRow(
            name=self.names.name(feature),
            density=density(index, feature),
            n_items=int(index.n_cases[feature]),
            mean=float(index.mean[feature]),
            left_out=index.left_out(feature),
            verdict=None if tested is None else tested.verdict,
            effect=None if tested is None else tested.effect,
            concept=concepts[0].concept if concepts else None,
            auroc=concepts[0].auroc if concepts else None,
        )

    def _contexts(self, feature: int, index: Index) -> list[Context]:
        if self.part is None:
            return []
        return [self._context(self.part, feature, *each) for each in chosen_contexts(index, feature)]

    def _context(self, part: FeaturePart, feature: int, number: int, token: int, tenth: int) -> Context:
        first = max(0, token - AROUND)
        found = part.item(number, first, token + AROUND + 1)
        acts = found.acts
        kind = found.token_text[token - first]
        own = np.flatnonzero((found.token_text == kind) & (acts.char_end > acts.char_start))
        text = found.texts[acts.item_ids[0]][TEXTS[kind]]
        begin, end = int(acts.char_start[own].min()), int(acts.char_end[own].max())
        rows = acts.acts
        fires = np.flatnonzero(rows.indices == feature)
        token_of = np.searchsorted(rows.indptr, fires, side="right") - 1
        value = dict(zip(token_of.tolist(), rows.data[fires].tolist(), strict=True))
        ranges = [(int(acts.char_start[t]) - begin, int(acts.char_end[t]) - begin, t) for t in own.tolist()]
        piece = text[begin:end]
        shown = visible(piece)
        pieces = [
            (*shown.span(start, stop), max(strong))
            for start, stop, tokens in segments(piece, ranges)
            if (strong := [value[t] for t in tokens if t in value and not acts.excluded[t]])
        ]
        return Context(
            case=number,
            part=PARTS[acts.token_part[token - first]],
            text=shown.text,
            pieces=tuple(pieces),
            value=value[token - first],
            quantile=tenth,
        )


def chosen_contexts(index: Index, feature: int) -> list[tuple[int, int, int]]:
    """Item, token (the row within the item) and tenth (0 = the strongest) of the contexts that are shown of a feature:
    the strongest, then one from each tenth that is not among them."""
    top = index.top(feature)
    chosen = zip(top.item[:CONTEXTS].tolist(), top.token[:CONTEXTS].tolist(), strict=True)
    fires = max(int(index.n_cases[feature]), 1)
    placed = [(item, token, 10 * place // fires) for place, (item, token) in enumerate(chosen)]
    there = {item for item, _, _ in placed}
    tenths, which = index.tenths(feature)
    for item, token, tenth in zip(tenths.item.tolist(), tenths.token.tolist(), which.tolist(), strict=True):
        if item not in there:
            placed.append((item, token, tenth))
    return placed


def _shown(entry: LabelEntry) -> LabelEntry:
    return LabelEntry(
        entry.feature,
        as_shown(entry.label),
        as_shown(entry.author),
        entry.time,
        entry.revision,
        entry.source,
    )


def shown_proposal(proposal: Proposal) -> Proposal:
    """As pages show it."""
    shown = {name: visible(getattr(proposal, name)).text for name in ("label", "model", "judge", "author")}
    return replace(proposal, **shown)


@dataclass(frozen=True, slots=True)
class Cues:
    """The words that the two cues of an organism's exam are written in: one of them decides its answers."""

    findings: frozenset[str]
    place: frozenset[str]

    @classmethod
    def of_study(cls, model: str, language: str) -> "Cues | None":
        """Of a study of the model organism called so; None for any other model."""
        if not model.startswith(PREFIX) or language not in LANGUAGES:
            return None
        words: dict[str, set[str]] = {"sign": set(), "place": set()}
        for concept in concepts(language).concepts:
            if concept.category in words:
                words[concept.category] |= {word for form in concept.forms for word in form.split()}
        return cls(frozenset(words["sign"]), frozenset(words["place"]))

    def of(self, words: list[str]) -> str | None:
        """The cue that more than half of a feature's words are of; None where that is neither."""
        for cue, own in (("findings", self.findings), ("place", self.place)):
            if 2 * sum(any(part in word for part in own) for word in words) > len(words):
                return cue
        return None
