"""Addresses -> pages: what the address of each page may hold, and what becomes of errors.

A parameter that means nothing is refused (422) where its value cannot be used, and ignored where its name is unknown: a
permalink of a later version then still opens. Ids are numbers that are looked up; nothing of a request becomes a path.

Out of scope: JSON (`api`), HTML (`render`), who may ask (`guard`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from sae_lens_med.app.links import Links
from sae_lens_med.app.maps.opened import OpenMap
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.overview import COMPARED, FIGURES, Numbers, compared_file, comparison, figure, overview
from sae_lens_med.app.refusals import refusal
from sae_lens_med.app.render import Painted, Reader, Renderer
from sae_lens_med.app.settings import Settings
from sae_lens_med.app.views import CaseOrder, CaseView, Filters, TokenFeatures
from sae_lens_med.errors import NotFoundError
from sae_lens_med.languages import ENGLISH, KOREAN, Language

LANGUAGE_COOKIE = "llmxai-lang"
LONGEST_TEXT = 200
SEARCH_LIMIT = 30
_TYPES = {"svg": "image/svg+xml", "png": "image/png", "csv": "text/csv; charset=utf-8"}
Slot = Annotated[int, Path(ge=1, le=2, description="Which study, from 1.")]
Number = Annotated[int, Path(ge=0, le=2**31 - 1, description="Place of the case in the study, from 0.")]
Index = Annotated[int, Path(ge=0, le=2**31 - 1, description="Index of the feature in the SAE.")]
PageNumber = Annotated[int, Query(ge=1, le=10**6, description="From 1.")]
Order = Literal["activation", "attribution", "effect"]


def filters_of(
    text: Annotated[str, Query(max_length=LONGEST_TEXT, description="Found in stem, options or explanation.")] = "",
    subject: Annotated[str, Query(max_length=LONGEST_TEXT)] = "",
    answer: Annotated[Literal["", "right", "wrong", "none"], Query()] = "",
    reason: Annotated[str, Query(max_length=LONGEST_TEXT, description="Why there is no answer.")] = "",
    sort: Annotated[CaseOrder, Query()] = "",
    active: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="A feature that has to fire.")] = None,
) -> Filters:
    """The filters that an address holds."""
    return Filters(subject=subject, answer=answer, reason=reason, text=text, order=sort, feature=active)


FiltersOf = Annotated[Filters, Depends(filters_of)]


class Site:
    """The studies that are served, and what is known of them once."""

    def __init__(
        self, studies: tuple[OpenStudy, ...], settings: Settings, maps: Mapping[int, OpenMap] | None = None
    ) -> None:
        """One study, or two; `maps`: by the number of their study, from 1."""
        self.studies, self.settings, self.maps = studies, settings, dict(maps or {})
        self.renderer = Renderer(studies, settings, mapped=self.maps)
        self._numbers: dict[int, Numbers] = {}
        self._overviews: dict[tuple[int, str], dict[str, Any]] = {}

    def study(self, slot: int) -> OpenStudy:
        """Raises `NotFoundError` where there is none."""
        if slot > len(self.studies):
            raise refusal(NotFoundError, "refused.study", n=slot, of=len(self.studies))
        return self.studies[slot - 1]

    def map(self, slot: int) -> OpenMap:
        """The knowledge map of a study. Raises `NotFoundError` where there is none."""
        self.study(slot)
        if slot not in self.maps:
            raise refusal(NotFoundError, "refused.map")
        return self.maps[slot]

    def numbers(self, slot: int) -> Numbers:
        """Read once: a study that is measured meanwhile is seen when the server is started again."""
        if slot not in self._numbers:
            self._numbers[slot] = Numbers.of(self.study(slot))
        return self._numbers[slot]

    def overview(self, slot: int, links: Links, reader: Reader) -> str:
        """The page of a study; what it says is put together once for each language."""
        key = (slot, reader.language.code)
        if key not in self._overviews:
            self._overviews[key] = overview(self.numbers(slot), reader.language)
        return self.renderer.study(self._overviews[key], links, reader)


def language_of(request: Request) -> Language:
    """`?lang=`, the cookie, what the browser prefers, Korean: the first that says Korean or English."""
    for code in (request.query_params.get("lang"), request.cookies.get(LANGUAGE_COOKIE)):
        if code in ("ko", "en"):
            return KOREAN if code == "ko" else ENGLISH
    wanted = []
    for entry in request.headers.get("accept-language", "").split(","):
        name, _, weight = entry.partition(";q=")
        try:
            wanted.append((-float(weight or 1), name.strip()[:2].lower()))
        except ValueError:
            continue
    first = next((code for _, code in sorted(wanted, key=lambda pair: pair[0]) if code in ("ko", "en")), "ko")
    return KOREAN if first == "ko" else ENGLISH


def reader_of(request: Request) -> Reader:
    """How somebody reads, by the address and what the browser says."""
    view = "researcher" if request.query_params.get("view") == "researcher" else "reader"
    return Reader(language_of(request), view)


def links_of(request: Request, slot: int) -> Links:
    """Links as they stand on the page that was asked for."""
    return Links(slot, request.url.path, dict(request.query_params))


def html(request: Request, page: str, status: int = 200) -> HTMLResponse:
    """An answer; a language that was chosen is kept in a cookie."""
    answer = HTMLResponse(page, status, headers={"vary": "accept-language, cookie", "cache-control": "no-cache"})
    if (code := request.query_params.get("lang")) in ("ko", "en"):
        answer.set_cookie(LANGUAGE_COOKIE, code, max_age=365 * 86_400, httponly=True, samesite="strict")
    return answer


def page_routes(site: Site) -> APIRouter:
    """The pages. Handlers are plain functions, which the server runs in threads."""
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
    renderer, settings = site.renderer, site.settings

    @router.get("/")
    def start(request: Request) -> Response:
        query = {name: value for name, value in request.query_params.items() if name in ("lang", "view")}
        return RedirectResponse("/1/cases" + (f"?{urlencode(query)}" if query else ""), 303)

    @router.get("/{slot:int}/cases")
    def cases(request: Request, slot: Slot, filters: FiltersOf, page: PageNumber = 1) -> Response:
        study = site.study(slot)
        active = None if filters.feature is None else study.feature(filters.feature).name
        listed = study.cases(filters, page, settings.page_size)
        return html(request, renderer.cases(listed, links_of(request, slot), reader_of(request), active))

    @router.get("/{slot:int}/cases/{number}")
    def case(
        request: Request,
        slot: Slot,
        number: Number,
        filters: FiltersOf,
        order: Order = "activation",
        feature: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
        scale: Literal["study", "text"] = "study",
        at: Annotated[str, Query(max_length=40, pattern=r"^([\w:]+:\d{1,9})?$")] = "",
        find: Annotated[str, Query(max_length=100)] = "",
        whole: bool = False,
    ) -> Response:
        study = site.study(slot)
        view = study.case(number, order, settings.groups_of)
        if not study.is_collected(number):
            feature, at, find = None, "", ""  # the page says why nothing is painted
        part, _, segment = at.rpartition(":")
        place = (part, int(segment)) if at else _found(view, find)
        token = None if place is None else study.token(number, *place)
        page = renderer.case(
            view,
            links_of(request, slot),
            reader_of(request),
            neighbours=study.neighbours_of(number, filters),
            painted=_painted(study, view, feature, scale),
            token=token if token is not None else _nothing(find),
            find=find,
            whole=whole,
        )
        return html(request, page)

    @router.get("/{slot:int}/features")
    def features(
        request: Request,
        slot: Slot,
        order: Literal["maximum", "density", "auroc", "effect", "index"] = "maximum",
        page: PageNumber = 1,
    ) -> Response:
        listed = site.study(slot).features(order, page, settings.page_size)
        return html(request, renderer.features(listed, links_of(request, slot), reader_of(request)))

    @router.get("/{slot:int}/features/{index}")
    def feature(
        request: Request,
        slot: Slot,
        index: Index,
        back: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
    ) -> Response:
        study = site.study(slot)
        known = back if back is not None and back < len(study.items) else None
        return html(request, renderer.feature(study.feature(index), links_of(request, slot), reader_of(request), known))

    @router.get("/{slot:int}/search")
    def search(request: Request, slot: Slot, q: Annotated[str, Query(max_length=LONGEST_TEXT)] = "") -> Response:
        hits = site.study(slot).search(q, SEARCH_LIMIT) if q.strip() else ()
        return html(request, renderer.search(q, hits, links_of(request, slot), reader_of(request), SEARCH_LIMIT))

    @router.get("/{slot:int}/study")
    def study_page(request: Request, slot: Slot) -> Response:
        return html(request, site.overview(slot, links_of(request, slot), reader_of(request)))

    @router.get("/{slot:int}/files/{name}")
    def study_file(request: Request, slot: Slot, name: str) -> Response:
        if name not in FIGURES:
            raise refusal(NotFoundError, "refused.file.of", name=name, names=", ".join(FIGURES))
        return _file(figure(site.numbers(slot), name, language_of(request)), name)

    @router.get("/compare")
    def compare(request: Request) -> Response:
        first, second = _both(site)
        reader = reader_of(request)
        shown = comparison(first, second, reader.language)
        return html(request, renderer.compare(shown, links_of(request, 1), reader))

    @router.get("/compare/{name}")
    def compare_file(request: Request, name: str) -> Response:
        if name not in COMPARED:
            raise refusal(NotFoundError, "refused.file.of", name=name, names=", ".join(COMPARED))
        return _file(compared_file(*_both(site), name, language_of(request)), name)

    return router


def _both(site: Site) -> tuple[Numbers, Numbers]:
    if len(site.studies) < 2:
        raise refusal(NotFoundError, "refused.one_study")
    return site.numbers(1), site.numbers(2)


def _file(content: bytes, name: str) -> Response:
    return Response(
        content,
        media_type=_TYPES[name.rpartition(".")[2]],
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


def _painted(study: OpenStudy, view: CaseView, feature: int | None, scale: Literal["study", "text"]) -> Painted:
    """The feature that the address paints; one that stands in no group of the case is looked up."""
    if feature is None:
        return Painted(scale=scale)
    for each in (each for group in view.groups for each in group.features):
        if each.name.index == feature:
            return Painted(each.name, each.paint, scale)
    return Painted(study.feature(feature).name, study.paint(view.row.number, feature), scale)


def _found(view: CaseView, find: str) -> tuple[str, int] | None:
    """The first segment that the text `find` begins in."""
    if not find:
        return None
    for part in view.parts:
        at = part.text.casefold().find(find.casefold())
        if at < 0 or len(part.text.casefold()) != len(part.text):
            at = part.text.find(find)
        if at < 0:
            continue
        unit = len(part.text[:at].encode("utf-16-le", "surrogatepass")) // 2
        for i, segment in enumerate(part.segments):
            if segment.end > unit:
                return part.key, i
    return None


def _nothing(find: str) -> TokenFeatures | None:
    return TokenFeatures("", 0, find, (), 0) if find else None
