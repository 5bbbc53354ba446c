"""JSON of every page, described by `/openapi.json`: the records of `views`, and the one thing that can be written, a
label.

Errors are `{"error": sentence}`. Values are strict: a number is a number, an unknown field is refused.

Out of scope: who may ask and write (`guard`).
"""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from sae_lens_med.app.pages import SEARCH_LIMIT, FiltersOf, Index, Number, Order, PageNumber, Site, Slot
from sae_lens_med.app.views import (
    CasePage,
    CaseView,
    FeaturePage,
    FeatureView,
    Hit,
    LabelEntry,
    PaintedSegment,
    TokenFeatures,
)
from sae_lens_med.records import Record

ENTRY_ID = r"^[A-Za-z0-9_-]{8,64}$"


class LabelWritten(BaseModel):
    """A label as a page sends it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    label: str = Field(max_length=300, description="Empty: take the label back.")
    author: str = Field(min_length=1, max_length=100, pattern=r"\S")
    revision: int = Field(ge=0, le=2**31 - 1, description="The revision that was seen; 0 where there was none.")
    entry_id: str = Field(pattern=ENTRY_ID, description="Made by the writer: the same one again is the same entry.")


class Problem(BaseModel):
    """Why a request was not answered."""

    model_config = ConfigDict(strict=True, extra="forbid")

    error: str


@dataclass(frozen=True, slots=True)
class Painting(Record):
    """Where a feature fires in a case."""

    feature: int
    paint: tuple[PaintedSegment, ...]


@dataclass(frozen=True, slots=True)
class Hits(Record):
    """What was found."""

    query: str
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class StudyNamed(Record):
    """A study that is served."""

    slot: int
    name: str
    cases: int
    d_sae: int | None


def answers(model: Any, *statuses: int, success: int = 200) -> dict[int | str, dict[str, Any]]:
    """What a door answers: the record where it could, and why not where it could not (422, and `statuses`)."""
    told = {
        400: "The body is no JSON.",
        403: "Not from a page of this server, or the study's folder cannot be written.",
        404: "There is no such thing.",
    }
    told |= {429: "Too many wait already."}
    told |= {409: "Somebody else has written meanwhile.", 415: "Not JSON.", 422: "A value cannot be used."}
    problems = {status: {"model": Problem, "description": told[status]} for status in (422, *statuses)}
    return {success: {"model": model}, **problems}


def api_routes(site: Site) -> APIRouter:
    """The JSON half of the server."""
    router = APIRouter()

    @router.get("/api/studies", responses={200: {"model": list[StudyNamed]}}, summary="The studies that are served")
    def studies() -> JSONResponse:
        named = [
            StudyNamed(slot, study.name, len(study.items), study.d_sae) for slot, study in enumerate(site.studies, 1)
        ]
        return JSONResponse([each.to_dict() for each in named])

    @router.get("/{slot}/api/cases", responses=answers(CasePage, 404), summary="The cases that filters keep")
    def cases(slot: Slot, filters: FiltersOf, page: PageNumber = 1) -> JSONResponse:
        return _json(site.study(slot).cases(filters, page, site.settings.page_size))

    @router.get("/{slot}/api/cases/{number}", responses=answers(CaseView, 404), summary="One case, whole")
    def case(
        slot: Slot,
        number: Number,
        order: Order = "activation",
        limit: Annotated[int, Query(ge=1, le=100, description="Features of each group.")] = 5,
    ) -> JSONResponse:
        return _json(site.study(slot).case(number, order, limit))

    @router.get(
        "/{slot}/api/cases/{number}/paint", responses=answers(Painting, 404), summary="Where a feature fires in a case"
    )
    def paint(
        slot: Slot, number: Number, feature: Annotated[int, Query(ge=0, le=2**31 - 1, description="Its index.")]
    ) -> JSONResponse:
        return _json(Painting(feature, site.study(slot).paint(number, feature)))

    @router.get(
        "/{slot}/api/cases/{number}/token",
        responses=answers(TokenFeatures, 404),
        summary="Which features fire at a place of a text",
    )
    def token(
        slot: Slot,
        number: Number,
        part: Annotated[str, Query(pattern=r"^(stem|explanation|option:[A-Z])$")],
        segment: Annotated[int, Query(ge=0, le=2**31 - 1)],
        limit: Annotated[int, Query(ge=1, le=200)] = 20,
    ) -> JSONResponse:
        return _json(site.study(slot).token(number, part, segment, limit))

    @router.get("/{slot}/api/features/{index}", responses=answers(FeatureView, 404), summary="One feature, whole")
    def feature(slot: Slot, index: Index) -> JSONResponse:
        return _json(site.study(slot).feature(index))

    @router.get("/{slot}/api/features", responses=answers(FeaturePage, 404), summary="The features")
    def features(
        slot: Slot,
        order: Annotated[str, Query(pattern="^(maximum|density|auroc|effect|index)$")] = "maximum",
        page: PageNumber = 1,
    ) -> JSONResponse:
        return _json(site.study(slot).features(order, page, site.settings.page_size))

    @router.get(
        "/{slot}/api/search",
        responses=answers(Hits, 404),
        summary="Labels, concepts, tokens and texts that hold a string",
    )
    def search(
        slot: Slot,
        q: Annotated[str, Query(min_length=1, max_length=200)],
        limit: Annotated[int, Query(ge=1, le=200)] = SEARCH_LIMIT,
    ) -> JSONResponse:
        return _json(Hits(q, site.study(slot).search(q, limit)))

    @router.post(
        "/{slot}/api/features/{index}/label",
        responses=answers(LabelEntry, 400, 403, 404, 409),
        summary="Write a feature's label",
        description="Append-only. Needs the header `X-LLMXAI-Token` of a page of this process.",
    )
    def label(slot: Slot, index: Index, body: LabelWritten) -> JSONResponse:
        return _json(
            site.study(slot).label(index, body.label.strip(), body.author.strip(), body.revision, body.entry_id)
        )

    return router


def _json(record: Record) -> JSONResponse:
    return JSONResponse(record.to_dict())
