"""Proposed labels on the server: the list of those that wait, as a page and as JSON, and deciding on one.

Out of scope: the page of a feature, which shows its proposals (`pages`), and who may write (`guard`).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fastapi import APIRouter, Path, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from sae_lens_med.app.api import ENTRY_ID, answers
from sae_lens_med.app.pages import Index, Site, Slot, html, links_of, reader_of
from sae_lens_med.app.views import Decision, Proposal
from sae_lens_med.records import Record

ProposalId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="Id of the proposal.")]


class Decided(BaseModel):
    """A decision as a page sends it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    decision: Decision
    author: str = Field(min_length=1, max_length=100, pattern=r"\S")
    revision: int = Field(ge=0, le=2**31 - 1, description="The revision of the feature's label that was seen.")
    entry_id: str = Field(pattern=ENTRY_ID, description="Made by the writer: the same one again is the same decision.")


@dataclass(frozen=True, slots=True)
class Waiting(Record):
    """The proposals that nobody has decided on."""

    _nested: ClassVar[dict[str, type[Record]]] = {"proposals": Proposal}

    proposals: tuple[Proposal, ...]


def proposal_routes(site: Site) -> APIRouter:
    """Page and JSON."""
    router = APIRouter()

    @router.get("/{slot:int}/proposed", include_in_schema=False, response_class=HTMLResponse)
    def page(request: Request, slot: Slot) -> Response:
        study = site.study(slot)
        rows = [(each, study.names.name(each.feature)) for each in study.waiting()]
        return html(request, site.renderer.proposals(rows, links_of(request, slot), reader_of(request)))

    @router.get("/{slot}/api/proposals", responses=answers(Waiting, 404), summary="Proposed labels that wait")
    def waiting(slot: Slot) -> JSONResponse:
        return JSONResponse(Waiting(site.study(slot).waiting()).to_dict())

    @router.post(
        "/{slot}/api/features/{index}/proposals/{proposal}",
        responses=answers(Proposal, 400, 403, 404, 409),
        summary="Accept or reject a proposed label",
        description="An accepted one becomes the feature's label, by its author. Needs the header `X-LLMXAI-Token` of "
        "a page of this process.",
    )
    def decide(slot: Slot, index: Index, proposal: ProposalId, body: Decided) -> JSONResponse:
        study = site.study(slot)
        done = study.decide(index, proposal, body.decision, body.author.strip(), body.revision, body.entry_id)
        return JSONResponse(done.to_dict())

    return router
