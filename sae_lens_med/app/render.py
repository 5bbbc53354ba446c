"""Records -> the HTML of one page, for a server and for a folder of files alike.

Every text that comes from a data set, a model or a person is untrusted: Jinja2 escapes it, and a template that names
what is not there fails (`StrictUndefined`). Links know where the page stands (`links`).

Out of scope: reading addresses and answering requests (`pages`), files (`export`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import log1p
from typing import Any, Literal

from jinja2 import Environment

from sae_lens_med.app.heat import pieces
from sae_lens_med.app.links import Links
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.sentences import Calibration, case_sentences
from sae_lens_med.app.settings import Settings
from sae_lens_med.app.strings import text
from sae_lens_med.app.texts import named, painting_data, shown
from sae_lens_med.app.views import (
    CaseFeature,
    CasePage,
    CaseView,
    FeatureName,
    FeaturePage,
    FeatureView,
    Filters,
    Hit,
    Missing,
    PaintedSegment,
    Proposal,
    TokenFeatures,
)
from sae_lens_med.languages import ENGLISH, KOREAN, Language
from sae_lens_med.pages import html_environment
from sae_lens_med.runs.files import DISCLAIMER, DISCLAIMER_KO

View = Literal["reader", "researcher"]
Scale = Literal["study", "text"]
ORDERS = ("activation", "attribution", "effect")
FEATURE_ORDERS = ("maximum", "density", "auroc", "effect", "index")
URGENT = ("missing.study", "missing.items", "missing.metrics", "missing.features", "missing.index", "missing.spans")
"""What every list says; the rest stands on the page that lacks it, and on that of the study."""
_BINS_OF_A_TENTH = 4


@dataclass(frozen=True, slots=True)
class Reader:
    """How somebody reads: in which language, how much of it, and what they sent along."""

    language: Language = KOREAN
    view: View = "reader"


@dataclass(frozen=True, slots=True)
class Painted:
    """The feature that a page paints from the start, and the scale."""

    name: FeatureName | None = None
    paint: tuple[PaintedSegment, ...] = ()
    scale: Scale = "study"

    @property
    def maximum(self) -> float:
        """What the strongest step stands for."""
        own = max((p.value for p in self.paint), default=0.0)
        known = self.name.maximum if self.name is not None and self.scale == "study" else None
        return own if known is None else known


class Renderer:
    """The pages of one or two studies."""

    def __init__(
        self,
        studies: Sequence[OpenStudy],
        settings: Settings,
        *,
        static_site: bool = False,
        mapped: Collection[int] = (),
    ) -> None:
        """`static_site`: pages that no server stands behind; `mapped`: studies with a knowledge map, from 1."""
        self.mapped = frozenset(mapped)
        self.studies, self.settings, self.static_site = tuple(studies), settings, static_site
        self.environments = {language.code: self._environment(language) for language in (KOREAN, ENGLISH)}
        self.calibrations = [Calibration.of(study.results) for study in studies]

    def cases(self, page: CasePage, links: Links, reader: Reader, active: FeatureName | None) -> str:
        """The list of cases; `active`: the feature that they are chosen by."""
        filters = page.filters
        unnamed = None if active is None else text("feature.unnamed", reader.language.code, feature=active.index)
        return self._page(
            "cases",
            "cases",
            links,
            reader,
            text("cases.title", reader.language.code),
            page=page,
            filters=filters,
            filtered=filters != Filters(),
            active=None if active is None or unnamed is None else named(active, unnamed),
        )

    def case(
        self,
        case: CaseView,
        links: Links,
        reader: Reader,
        *,
        neighbours: tuple[int | None, int | None] = (None, None),
        painted: Painted | None = None,
        token: TokenFeatures | None = None,
        find: str = "",
        whole: bool = False,
        orders: Sequence[str] = ORDERS,
    ) -> str:
        """A case. `painted`: what is painted from the start; `token`: what fires where `find` stands; `whole`: texts in
        full however long they are."""
        code = reader.language.code
        painted = painted or Painted()
        most = 10**9 if whole else self.settings.shown_characters
        texts = [shown(part, most, painted.paint, painted.maximum) for part in case.parts]
        tone = {True: "is-right", False: "is-wrong", None: ""}[case.row.correct]
        return self._page(
            "case",
            "cases",
            links,
            reader,
            text("case.title", code, number=case.row.number + 1, of=self.n_cases(links)),
            case=case,
            n_cases=self.n_cases(links),
            before=neighbours[0],
            after=neighbours[1],
            texts=texts,
            explanation=next((each for each in texts if each.key == "explanation"), None),
            sentences=[
                sentence.ko if code == "ko" else sentence.en
                for sentence in case_sentences(case, self.calibrations[links.slot - 1])
            ],
            tone="is-wrong" if case.row.prediction is None and case.row.gold is not None else tone,
            by=".expert" if case.explanation_source == "expert" else ".text",
            orders=orders,
            scale=painted.scale,
            painted_feature=painted.name,
            token=token,
            find=find,
            excluded=any(each.before or any(segment.excluded for segment in each.segments) for each in texts),
            lacking_here=_by_urgency(case.missing),
            data=self._data(case, texts, painted, links, reader),
        )

    def features(self, page: FeaturePage, links: Links, reader: Reader) -> str:
        """The list of features."""
        title = text("features.title", reader.language.code)
        waiting = 0 if self.static_site else len(self.studies[links.slot - 1].waiting())
        return self._page(
            "features", "features", links, reader, title, page=page, orders=FEATURE_ORDERS, waiting=waiting
        )

    def feature(self, feature: FeatureView, links: Links, reader: Reader, back: int | None) -> str:
        """A feature; `back`: the case that it was reached from."""
        code = reader.language.code
        tallest = max((*feature.histogram, 1))
        return self._page(
            "feature",
            "features",
            links,
            reader,
            named(feature.name, text("feature.unnamed", code, feature=feature.name.index)),
            feature=feature,
            back=back,
            lacking_here=_by_urgency(feature.missing),
            context_pieces=[pieces(c.text, c.pieces, feature.name.maximum or c.value) for c in feature.contexts],
            languages=self._languages(feature, links),
            part_names={c.part: self._part_name(c.part, code) for c in feature.contexts},
            heights=[0.0 if n == 0 else _height(n, tallest) for n in feature.histogram],
            strongest_tenth=sum(feature.histogram[-_BINS_OF_A_TENTH:]),
            against_band=_against_band(feature),
            revision=feature.labels[0].revision if feature.labels else 0,
        )

    def proposals(self, rows: Sequence[tuple[Proposal, FeatureName]], links: Links, reader: Reader) -> str:
        """The proposed labels that wait for a decision, with what their features are called."""
        title = text("proposed.title", reader.language.code)
        return self._page("proposals", "features", links, reader, title, rows=rows)

    def search(
        self, query: str, hits: Sequence[Hit], links: Links, reader: Reader, limit: int, *, shards: int = 0
    ) -> str:
        """What was found; `shards`: in how many files a folder without a server has its texts."""
        title = text("search.title", reader.language.code)
        found = {"query": query, "hits": hits, "limit": limit, "shards": shards}
        return self._page("search", "search", links, reader, title, **found)

    def study(self, overview: Mapping[str, Any], links: Links, reader: Reader) -> str:
        """What the whole study says; `overview` as `overview.overview` makes it."""
        return self._page("study", "study", links, reader, text("study.title", reader.language.code), **overview)

    def compare(self, comparison: Mapping[str, Any], links: Links, reader: Reader) -> str:
        """Two studies beside each other; as `overview.comparison` makes it."""
        title = text("compare.title", reader.language.code)
        return self._page("compare", "compare", links, reader, title, **comparison)

    def error(self, sentence: str, reader: Reader, *, links: Links | None, detail: str = "", own: bool = True) -> str:
        """Why something is not shown. Without `links` nothing of a study stands on it, not even its name. `own`:
        `detail` is in the reader's language, and not in English."""
        code = reader.language.code
        values = {"sentence": sentence, "detail": detail, "own": own, "links": links or Links(1, "/", {})}
        return self._rendered("error", reader, text("error.title", code), "", links is None, **values)

    def page(self, name: str, section: str, links: Links, reader: Reader, title: str, **values: Any) -> str:
        """A page of another room: its template, the entry of the menu that it belongs to, and what it shows."""
        return self._page(name, section, links, reader, title, **values)

    def n_cases(self, links: Links) -> int:
        """Cases of the study that `links` belong to."""
        return len(self.studies[links.slot - 1].items)

    def _page(self, name: str, section: str, links: Links, reader: Reader, title: str, **values: Any) -> str:
        return self._rendered(name, reader, title, section, False, links=links, **values)

    def _rendered(self, name: str, reader: Reader, title: str, section: str, anonymous: bool, **values: Any) -> str:
        links: Links = values["links"]
        study = None if anonymous else self.studies[links.slot - 1]
        two = len(self.studies) > 1
        other = 3 - links.slot
        navigation = [("cases", links.cases()), ("features", links.features()), ("search", links.search())]
        navigation += [("study", links.study()), *([("compare", links.compare())] if two else [])]
        navigation += [("map", links.map())] if links.slot in self.mapped else []
        navigation += [] if self.static_site else [("rate", links.rate())]
        shown_to = {
            "study": study,
            "view": reader.view,
            "title": title,
            "section": section,
            "navigation": () if self.settings.rating_only else navigation,
            "other": (other, self.studies[other - 1].name) if two and not self.settings.rating_only else None,
            "write_token": "" if anonymous or self.static_site else self.settings.write_token,
            "urgent": () if study is None else _by_urgency(study.missing)[0],
            "notice_en": DISCLAIMER,
            "notice_ko": DISCLAIMER_KO,
        }
        template = self.environments[reader.language.code].get_template(f"app/{name}.html.j2")
        return template.render(shown_to | values)

    def _data(self, case: CaseView, texts: list[Any], painted: Painted, links: Links, reader: Reader) -> Any:
        code = reader.language.code
        features: dict[int, tuple[str, float | None, Sequence[PaintedSegment]]] = {}
        for feature in (feature for group in case.groups for feature in group.features):
            features[feature.name.index] = (self._named(feature.name, code), feature.name.maximum, feature.paint)
        if painted.name is not None:
            features[painted.name.index] = (self._named(painted.name, code), painted.name.maximum, painted.paint)
        chosen = links.here(feature=None)
        words = {
            "activation": text("paint.activation", code),
            "step": text("paint.step", code, step="{step}"),
            "second": text("paint.second", code),
            "failed": text("paint.failed", code),
            "token": text("token.title", code),
            "total": text("token.total", code, n="{n}"),
            "unnamed": text("feature.unnamed", code, feature="{feature}"),
            "scale_study": text("scale.to.text", code),
            "scale_text": text("scale.to.study", code),
        }
        rest = {
            "scale": painted.scale,
            "api": None if self.static_site else f"/{links.slot}/api/cases/{case.row.number}",
            "feature": f"{chosen}{'&' if '?' in chosen else '?'}feature=",
            "words": words,
        }
        return painting_data(texts, features, rest)

    def _languages(self, feature: FeatureView, links: Links) -> dict[int, str]:
        items = list(self.studies[links.slot - 1].items.values())
        return {context.case: items[context.case].language for context in feature.contexts}

    def _part_name(self, part: str, code: Literal["ko", "en"]) -> str:
        kind, _, letter = part.partition(":")
        if kind == "option":
            return text("case.option", code, letter=letter).strip()
        return text("case.question" if kind == "stem" else "case.explanation", code)

    def _named(self, name: FeatureName, code: Literal["ko", "en"]) -> str:
        return named(name, text("feature.unnamed", code, feature=name.index))

    def _environment(self, language: Language) -> Environment:
        environment = html_environment(language)
        environment.globals |= {"s": lambda key, **values: text(key, language.code, **values)}
        environment.filters |= {
            "short": short,
            "signed": lambda value: f"{value:+.3g}",
            "percent": lambda value: _percent(value, language),
            "share": _share,
        }
        return environment


def short(value: float | None) -> str:
    """Three digits; a dash for what is not there."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _by_urgency(missing: Sequence[Missing]) -> tuple[list[Missing], list[Missing]]:
    """What every reader has to know of, and what only some would want; without what the page says by itself."""
    said = [each for each in missing if each.what != "missing.explanation"]
    urgent = [each for each in said if each.what in URGENT or each.reason]
    return urgent, [each for each in said if each not in urgent]


def _percent(value: float, language: Language) -> str:
    digits = 0 if value >= 0.00995 or value == 0 else 1
    shown = f"{100 * value:.{digits}f}" if value == 0 or value >= 0.0005 else "<0.1"
    return f"{shown}{'%' if language.code == 'ko' else ' %'}"


def _share(feature: CaseFeature) -> float:
    """How much of its maximum in the study a feature reaches in this case, in [0, 1]; 0 where that is not known."""
    most = feature.name.maximum
    return 0.0 if not most else min(1.0, max(feature.stem, feature.explanation) / most)


def _height(n: int, tallest: int) -> float:
    """Of a bar, in per cent of the figure: logarithmic, and seen even for a single token."""
    return max(2.0, 100 * log1p(n) / log1p(tallest))


def _against_band(feature: FeatureView) -> str | None:
    """Where the effect lies: `within`, `above` or `below` its stand-ins; None where there are none."""
    if feature.effect is None or feature.band is None:
        return None
    if feature.effect > feature.band.high:
        return "above"
    return "below" if feature.effect < feature.band.low else "within"
