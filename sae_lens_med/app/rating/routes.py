"""Addresses of the rating: pages and JSON for raters, and for whoever runs the study.

    /1/rate            who rates, how far each is        /1/api/rate
    /1/rate/r1         the next text of a rater          /1/api/rate/r1     (POST: one answer)
    /1/agreement       what the ratings say, by arm      /1/api/agreement
    /1/files/ratings.jsonl, ratings.csv                  the file that `align --ratings` reads

Nothing that the first two answer says which arm a text is of; they are all there is where `Settings.rating_only`.

Out of scope: who may ask and write (`guard`).
"""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from sae_lens_med.app.api import answers
from sae_lens_med.app.pages import Site, Slot, html, language_of, links_of, reader_of
from sae_lens_med.app.rating.agreement import Agreement, measure_agreement
from sae_lens_med.app.rating.axes import ROLES, Role
from sae_lens_med.app.rating.desk import Desk, RaterDesk, RaterList, RaterProgress, RatingSaved
from sae_lens_med.app.rating.export import ENDINGS, ratings_text
from sae_lens_med.app.rating.store import ENTRY_ID, LONGEST, RATER, RatingConflictError
from sae_lens_med.app.refusals import sentence_of
from sae_lens_med.app.strings import text
from sae_lens_med.records import Record
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.statistics import SMALL_N

Rater = Annotated[str, Path(pattern=f"^{RATER}$", description="A pseudonym: `r1`.")]
_UNIT = r"^[0-9a-f]{16}$"
UnitId = Annotated[str | None, Query(pattern=_UNIT, description="The one to show, instead of the next open one.")]
_TYPES = {".jsonl": "application/jsonl; charset=utf-8", ".csv": "text/csv; charset=utf-8"}
_LONG = 1_500
"""Characters beyond which a text scrolls in a box of its own."""


class Joining(BaseModel):
    """Who begins to rate."""

    model_config = ConfigDict(strict=True, extra="forbid")

    rater: str = Field(pattern=f"^{RATER}$", description="A pseudonym; no name of a person.")
    role: Role = Field(description="Clinicians are asked 12 axes, others 2.")


class Rated(BaseModel):
    """One answer, as a page sends it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    unit: str = Field(pattern=_UNIT)
    axis: str = Field(max_length=64)
    rating: str = Field(max_length=64, description="A level of the axis.")
    revision: int = Field(ge=0, le=2**31 - 1, description="The revision that was seen; 0 where there was none.")
    seconds: float = Field(ge=0, le=LONGEST, description="For how long the unit has been looked at.")
    entry_id: str = Field(
        pattern=f"^{ENTRY_ID}$", description="Made by the page: the same one again is the same answer."
    )


class RatingConflict(BaseModel):
    """Why an answer was not written, and what stands there."""

    model_config = ConfigDict(strict=True, extra="forbid")

    error: str
    entry: dict[str, str | int | float] | None = Field(None, description="A `RatingEntry`; null for other conflicts.")


def rating_routes(site: Site) -> APIRouter:
    """Pages, files and JSON of the rating of the studies of `site`."""
    desks = {slot: Desk(study) for slot, study in enumerate(site.studies, 1)}

    def desk_of(slot: int) -> Desk:
        site.study(slot)
        return desks[slot]

    router = _rater_routes(site, desk_of)
    if not site.settings.rating_only:
        router.include_router(_owner_routes(site, desk_of))
    return router


def _owner_routes(site: Site, desk_of: Callable[[int], Desk]) -> APIRouter:
    """What names the arms."""
    router = APIRouter()
    measured: dict[int, tuple[str, Agreement]] = {}

    def agreement_of(slot: int) -> Agreement:
        desk = desk_of(slot)
        rows, raters, units = desk.rows(), desk.listed().raters, desk.units
        key = json_sha256([rows, [rater.to_dict() for rater in raters], units is not None])
        if slot not in measured or measured[slot][0] != key:
            measured[slot] = (key, measure_agreement(rows, units, raters))
        return measured[slot][1]

    @router.get("/{slot:int}/agreement", include_in_schema=False, response_class=HTMLResponse)
    def agreement_page(request: Request, slot: Slot) -> Response:
        found, reader = agreement_of(slot), reader_of(request)
        title = text("rate.agreement", reader.language.code)
        links = links_of(request, slot)
        return html(
            request, site.renderer.page("rate_agreement", "study", links, reader, title, found=found, small=SMALL_N)
        )

    @router.get("/{slot:int}/files/ratings{ending}", include_in_schema=False)
    def ratings_file(slot: Slot, ending: Annotated[str, Path(pattern=r"^\.(jsonl|csv)$")]) -> Response:
        assert ending in ENDINGS  # by the pattern
        return Response(
            ratings_text(desk_of(slot).rows(), ending),
            media_type=_TYPES[ending],
            headers={"content-disposition": f'attachment; filename="ratings{ending}"', "cache-control": "no-cache"},
        )

    @router.get(
        "/{slot}/api/agreement", responses=answers(Agreement, 404), summary="What the ratings say; names the arms"
    )
    def agreement(slot: Slot) -> JSONResponse:
        return _json(agreement_of(slot))

    return router


def _rater_routes(site: Site, desk_of: Callable[[int], Desk]) -> APIRouter:
    """What a rater may see."""
    router = APIRouter()

    if site.settings.rating_only:

        @router.get("/", include_in_schema=False)
        def start() -> Response:
            return RedirectResponse("/1/rate", 303)

    @router.get("/{slot:int}/rate", include_in_schema=False, response_class=HTMLResponse)
    def raters_page(request: Request, slot: Slot) -> Response:
        listed, reader = desk_of(slot).listed(), reader_of(request)
        title = text("rate.title", reader.language.code)
        page = site.renderer.page(
            "rate", "rate", links_of(request, slot), reader, title, listed=listed, roles=ROLES, pattern=RATER
        )
        return html(request, page)

    @router.get("/{slot:int}/rate/{rater}", include_in_schema=False, response_class=HTMLResponse)
    def unit_page(request: Request, slot: Slot, rater: Rater, unit: UnitId = None, whole: bool = False) -> Response:
        desk = desk_of(slot)
        shown, reader = desk.desk(rater, unit), reader_of(request)
        units = desk.units
        code = reader.language.code
        if shown.unit is None:
            title = text("rate.as", code, rater=rater)
        else:
            title = text("rate.unit.title", code, number=shown.unit.number, of=shown.progress.of)
        page = site.renderer.page(
            "rate_unit",
            "rate",
            links_of(request, slot),
            reader,
            title,
            navigation=(),
            other=None,
            progress=shown.progress,
            unit=shown.unit,
            given={} if shown.unit is None else {entry.axis: entry for entry in shown.unit.ratings},
            units_id="" if units is None else units.id,
            most=10**9 if whole else site.settings.shown_characters,
            long=_LONG,
        )
        return html(request, page)

    @router.get("/{slot}/api/rate", responses=answers(RaterList, 404), summary="Who rates, and how far each is")
    def raters(slot: Slot) -> JSONResponse:
        return _json(desk_of(slot).listed())

    @router.post(
        "/{slot}/api/rate",
        responses=answers(RaterProgress, 400, 403, 404, 409),
        summary="Begin to rate, or go on",
        description="The first one to begin has the units drawn. Needs the header `X-LLMXAI-Token` of a page.",
    )
    def join(slot: Slot, body: Joining) -> JSONResponse:
        return _json(desk_of(slot).join(body.rater, body.role))

    @router.get(
        "/{slot}/api/rate/{rater}", responses=answers(RaterDesk, 404, 409), summary="What a rater has to rate next"
    )
    def next_unit(slot: Slot, rater: Rater, unit: UnitId = None) -> JSONResponse:
        return _json(desk_of(slot).desk(rater, unit))

    @router.post(
        "/{slot}/api/rate/{rater}",
        responses=answers(RatingSaved, 400, 403, 404)
        | {409: {"model": RatingConflict, "description": "Another page has rated this otherwise meanwhile."}},
        summary="Rate a unit on one axis",
        description="Append-only. Needs the header `X-LLMXAI-Token` of a page of this process.",
    )
    def rate(request: Request, slot: Slot, rater: Rater, body: Rated) -> JSONResponse:
        try:
            return _json(desk_of(slot).rate(rater, **body.model_dump()))
        except RatingConflictError as error:
            said = sentence_of(error, language_of(request).code)
            return JSONResponse({"error": said, "entry": error.entry.to_dict()}, 409)

    return router


def _json(record: Record) -> JSONResponse:
    return JSONResponse(record.to_dict())
