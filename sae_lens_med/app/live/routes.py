"""Pages and JSON of the live model: steering a case, editing its question, and following what runs.

    GET    /1/cases/12/steer?features=7:off,9:amplify:2     the page; a form without a script lands here, too
    GET    /1/cases/12/edit                                 the question to be edited
    GET    /1/runs/ID                                       what a run has found so far, as a piece of a page
    POST   /1/api/cases/12/steer, /1/api/cases/12/edit      start a run: 202, or 429 where too many wait
    GET    /1/api/steer/ID                                  what it has found so far
    GET    /1/api/steer/ID/events                           what happens in it, as server-sent events
    DELETE /1/api/steer/ID                                  cancel it
    POST   /1/api/cases/12/keep                             keep an edited question

Events are numbered: a browser that was cut off asks for those behind `Last-Event-ID`. A stream of another origin is
refused, though it is only read: it would keep the model busy. Comments keep it open where nothing happens.

Out of scope: what a run does (`steering`, `edited`), whose turn it is (`runs`).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from sae_lens_med.app.api import answers
from sae_lens_med.app.guard import is_foreign
from sae_lens_med.app.index_files import FOLDER
from sae_lens_med.app.live.drawing import USUAL_TOKENS, LivePages
from sae_lens_med.app.live.edited import EditedView, edited_job
from sae_lens_med.app.live.kept import FILE, keep
from sae_lens_med.app.live.process import python_module
from sae_lens_med.app.live.runs import Event, Job, Live, Run
from sae_lens_med.app.live.settings import MAX_CHARACTERS, MAX_FEATURES, MAX_STRENGTH, MAX_TOKENS, LiveSettings
from sae_lens_med.app.live.steering import FeatureEdit, How, SteerView, checked, read_edits, steer_job
from sae_lens_med.app.pages import Number, Site, Slot, html, language_of, links_of, reader_of
from sae_lens_med.app.refusals import refusal
from sae_lens_med.app.strings import text
from sae_lens_med.errors import NotFoundError
from sae_lens_med.records import Record

_PING = 10.0
"""Seconds without an event after which a comment is sent."""
MODEL_PROCESS = "sae_lens_med.commands.model_process"
"""What the process of the model runs."""
_ID = r"^[A-Za-z0-9_-]{8,64}$"


@dataclass(frozen=True, slots=True)
class Acting:
    """What runs the model; where `live` is None, no model is served."""

    live: Live | None = None
    models: tuple[tuple[str | None, str | None], ...] = ()
    """Per study, where its model and its SAE are now; None where the study says it."""

    @classmethod
    def serving(cls, models: Sequence[tuple[str | None, str | None]], *, idle_seconds: float) -> "Acting":
        """Models in a process that is started when the first of them is asked for."""
        settings = LiveSettings(idle_seconds=idle_seconds)
        return cls(Live(python_module(MODEL_PROCESS), settings), tuple(models))

    def preload(self, folder: Path, slot: int) -> None:
        """Open the model of a study now."""
        if self.live is not None:
            self.live.submit(slot, OpenJob(self._place(folder, slot)), lasting=True)

    def close(self) -> None:
        """End the process, if there is one."""
        if self.live is not None:
            self.live.close()

    def of(self, site: Site, slot: int) -> tuple[Live, dict[str, Any]]:
        """The queue, and which study the process is to open. Raises `NotFoundError` without a model."""
        if self.live is None:
            raise refusal(NotFoundError, "refused.no_model")
        return self.live, self._place(site.study(slot).folder, slot)

    def _place(self, folder: Path, slot: int) -> dict[str, Any]:
        model, sae = self.models[slot - 1] if slot <= len(self.models) else (None, None)
        return {"folder": str(folder.absolute()), "model": model, "sae": sae}


@dataclass(slots=True, eq=False)
class OpenJob:
    """Opens the model of a study, and runs nothing."""

    folder: dict[str, Any]
    case: int = 0

    def request(self) -> dict[str, Any]:
        """As the form of `runs.Job`."""
        return {"do": "open", **self.folder}

    def take(self, event: str, data: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - the form of a job
        """As the form of `runs.Job`."""
        return {}

    def view(self) -> Record:
        """As the form of `runs.Job`."""
        return SteerView(self.case, ())


class EditWanted(BaseModel):
    """An edit of a feature."""

    model_config = ConfigDict(strict=True, extra="forbid")

    feature: int = Field(ge=0, le=2**31 - 1)
    how: How = "off"
    strength: float = Field(1.0, ge=0, le=MAX_STRENGTH, description="Multiples of the feature's maximum.")


class SteerWanted(BaseModel):
    """A steering as a page asks for it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    edits: list[EditWanted] = Field(min_length=1, max_length=MAX_FEATURES)
    new_tokens: int = Field(0, ge=0, le=MAX_TOKENS, description="Written after the question, before and after each.")


class EditedQuestion(BaseModel):
    """An edited question as a page holds it; null: as it is."""

    model_config = ConfigDict(strict=True, extra="forbid")

    question: Annotated[str, Field(max_length=2 * MAX_CHARACTERS)] | None = None
    options: list[Annotated[str, Field(max_length=2 * MAX_CHARACTERS)] | None] = Field(min_length=2, max_length=26)


class KeepWanted(EditedQuestion):
    """An edited question that is to be kept."""

    answer: Annotated[str, Field(pattern="^[A-Z]$")] | None = Field(None, description="Right letter; null: unknown.")
    author: str = Field(min_length=1, max_length=100, pattern=r"\S")
    entry_id: str = Field(pattern=_ID, description="Made by the writer: the same one again is the same row.")


@dataclass(frozen=True, slots=True)
class Kept(Record):
    """An edited question that is on the disk."""

    id: str
    file: str
    """The file in the study's folder, which every command reads as questions."""


@dataclass(frozen=True, slots=True)
class RunState(Record):
    """Where a run is."""

    id: str
    state: Literal["queued", "loading", "running", "done", "failed", "cancelled"]
    place: int
    """How many are before it."""
    error: str | None
    """Why it failed or was cancelled."""
    steering: SteerView | None = None
    edited: EditedView | None = None


def live_routes(site: Site, acting: Acting) -> APIRouter:
    """Pages and JSON; see the module."""
    router = APIRouter()
    pages = LivePages(site.renderer, running=acting.live is not None)
    statuses = (400, 403, 404, 429)

    @router.get("/{slot:int}/cases/{number}/steer", include_in_schema=False, response_class=HTMLResponse)
    def steer_page(
        request: Request,
        slot: Slot,
        number: Number,
        features: Annotated[str, Query(max_length=400)] = "",
        tokens: Annotated[int, Query(ge=0, le=MAX_TOKENS)] = USUAL_TOKENS,
        f: Annotated[Sequence[int], Query(max_length=MAX_FEATURES)] = (),
        how: Annotated[Sequence[How], Query(max_length=MAX_FEATURES)] = (),
        strength: Annotated[Sequence[float], Query(max_length=MAX_FEATURES)] = (),
        add: Annotated[Sequence[str], Query(max_length=2)] = (),
    ) -> Response:
        if f or any(add):  # the form of a page without a script: its address becomes the one that is passed on
            edits = [FeatureEdit(*each) for each in zip(f, how, strength, strict=False)]
            edits += [FeatureEdit(each.feature) for text in add for each in read_edits(text)]
            return RedirectResponse(links_of(request, slot).steer(number, checked(edits), tokens=tokens), 303)
        edits = read_edits(features)
        return html(
            request, pages.steer(site.study(slot), number, edits, tokens, links_of(request, slot), reader_of(request))
        )

    @router.get("/{slot:int}/cases/{number}/edit", include_in_schema=False, response_class=HTMLResponse)
    def edit_page(request: Request, slot: Slot, number: Number) -> Response:
        return html(request, pages.edit(site.study(slot), number, links_of(request, slot), reader_of(request)))

    @router.get("/{slot:int}/runs/{run_id}", include_in_schema=False, response_class=HTMLResponse)
    def found_so_far(request: Request, slot: Slot, run_id: str) -> Response:
        run = _run(slot, run_id)
        return html(request, pages.found(site.study(slot), run, links_of(request, slot), reader_of(request)))

    @router.post(
        "/{slot}/api/cases/{number}/steer",
        status_code=202,
        responses=answers(RunState, *statuses, success=202),
        summary="Edit features of a case and see the answer change",
    )
    def steer(request: Request, slot: Slot, number: Number, body: SteerWanted) -> JSONResponse:
        live, folder = acting.of(site, slot)
        edits = [FeatureEdit(each.feature, each.how, each.strength) for each in body.edits]
        return _start(request, live, slot, steer_job(
            site.study(slot), number, edits, folder, n_sets=live.settings.sets, new_tokens=body.new_tokens
        ))  # fmt: skip

    @router.post(
        "/{slot}/api/cases/{number}/edit",
        status_code=202,
        responses=answers(RunState, *statuses, success=202),
        summary="Run an edited question beside the original one",
    )
    def edit(request: Request, slot: Slot, number: Number, body: EditedQuestion) -> JSONResponse:
        live, folder = acting.of(site, slot)
        job = edited_job(site.study(slot), number, body.question, tuple(body.options), folder)
        return _start(request, live, slot, job)

    @router.post(
        "/{slot}/api/cases/{number}/keep",
        responses=answers(Kept, 400, 403, 404),
        summary="Keep an edited question as a row that every command reads",
    )
    def keep_edited(slot: Slot, number: Number, body: KeepWanted) -> JSONResponse:
        study = site.study(slot)
        job = edited_job(study, number, body.question, tuple(body.options), {})
        path = study.folder / FOLDER / FILE
        name = keep(path, job.original, job.question, job.options, body.answer, body.author, body.entry_id)
        return JSONResponse(Kept(name, f"{FOLDER}/{FILE}").to_dict())

    @router.get(
        "/{slot}/api/steer/{run_id}",
        responses=answers(RunState, 404),
        summary="What a run has found so far",
    )
    def state(request: Request, slot: Slot, run_id: str) -> JSONResponse:
        run = _run(slot, run_id)
        run.seen()
        return _told(request, run)

    @router.delete(
        "/{slot}/api/steer/{run_id}",
        responses=answers(RunState, 403, 404),
        summary="Cancel a run",
    )
    def cancel(request: Request, slot: Slot, run_id: str) -> JSONResponse:
        run = _run(slot, run_id)
        acting.of(site, slot)[0].cancel(run)
        return _told(request, run)

    @router.get("/{slot:int}/api/steer/{run_id}/events", include_in_schema=False)
    async def events(request: Request, slot: Slot, run_id: str) -> Response:
        if is_foreign(request.headers):
            return JSONResponse({"error": text("refused.origin", language_of(request).code)}, 403)
        run = _run(slot, run_id)
        last = request.headers.get("last-event-id", "0")
        behind = int(last) if last.isascii() and last.isdigit() and len(last) < 10 else 0
        return StreamingResponse(
            _stream(run, behind), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    def _run(slot: int, run_id: str) -> Run:
        return acting.of(site, slot)[0].get(slot, run_id)

    def _start(request: Request, live: Live, slot: int, job: Job) -> JSONResponse:
        return _told(request, live.submit(slot, job), 202)

    def _told(request: Request, run: Run, status: int = 200) -> JSONResponse:
        return JSONResponse(_state(acting, run, language_of(request).code).to_dict(), status)

    return router


def _state(acting: Acting, run: Run, code: Literal["ko", "en"]) -> RunState:
    view = run.job.view()
    error = f"{text(run.problem, code)} {run.detail}".strip() if run.problem else None
    return RunState(
        run.id,
        run.state,
        0 if acting.live is None else acting.live.place(run),
        error,
        view if isinstance(view, SteerView) else None,
        view if isinstance(view, EditedView) else None,
    )


async def _stream(run: Run, behind: int) -> AsyncIterator[str]:
    """What happens in a run, from behind an event to the end."""
    loop, happened = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(happened.set)

    with run.reading(wake):
        while True:
            happened.clear()
            over = run.over
            for event in run.since(behind):
                behind = event.number
                yield _written(event)
            if over:
                return
            try:
                await asyncio.wait_for(happened.wait(), _PING)
            except TimeoutError:
                yield ": ping\n\n"


def _written(event: Event) -> str:
    data = json.dumps(event.data, ensure_ascii=False, separators=(",", ":"))
    return f"id: {event.number}\nevent: {event.name}\ndata: {data}\n\n"
