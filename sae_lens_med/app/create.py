"""Studies and settings -> the web application: pages, JSON and files, behind the guard.

No page of FastAPI's own is served (`/docs` and `/redoc` load from elsewhere); `/openapi.json` is.

Out of scope: opening studies (`opened`), listening (`commands.serve`).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Literal

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Scope

from sae_lens_med import __version__
from sae_lens_med.app import heat
from sae_lens_med.app.api import api_routes
from sae_lens_med.app.guard import Guard
from sae_lens_med.app.invalid import sentences_of
from sae_lens_med.app.live.routes import Acting, live_routes
from sae_lens_med.app.maps.opened import OpenMap
from sae_lens_med.app.maps.routes import maps_routes
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.pages import Site, html, language_of, links_of, page_routes, reader_of
from sae_lens_med.app.proposed_routes import proposal_routes
from sae_lens_med.app.rating.routes import rating_routes
from sae_lens_med.app.refusals import refusal, sentence_of
from sae_lens_med.app.settings import Settings
from sae_lens_med.app.strings import text
from sae_lens_med.errors import (
    BusyError,
    ConfigError,
    ConflictError,
    DataError,
    NotFoundError,
    ReadOnlyError,
    SaeLensMedError,
)

STATIC = {
    "app.css": "text/css; charset=utf-8",
    "prefs.js": "text/javascript; charset=utf-8",
    "paint.js": "text/javascript; charset=utf-8",
    "keys.js": "text/javascript; charset=utf-8",
    "label.js": "text/javascript; charset=utf-8",
    "search.js": "text/javascript; charset=utf-8",
    "rate.js": "text/javascript; charset=utf-8",
    "proposed.js": "text/javascript; charset=utf-8",
    "steer.js": "text/javascript; charset=utf-8",
}
"""Name -> type of what lies in `static/`."""
THREADS = 8
"""That answer at once. Each keeps memory of its own, and reading is done by the processor, not by waiting."""
_REFUSED = (SaeLensMedError, HTTPException, RequestValidationError)


def static_texts() -> dict[str, str]:
    """The files of the interface, the rules of the palette among them."""
    folder = files("sae_lens_med").joinpath("app/static")
    return {name: folder.joinpath(name).read_text(encoding="utf-8") for name in STATIC} | {"heat.css": heat.css()}


def create_app(
    studies: Sequence[OpenStudy],
    settings: Settings | None = None,
    acting: Acting | None = None,
    maps: Mapping[int, OpenMap] | None = None,
) -> Guard:
    """The application for one study or two. `acting`: what runs their models; None: nothing does. `maps`: knowledge
    maps by the number of their study, from 1.

    Raises `ConfigError` for another number of studies.
    """
    if not 1 <= len(studies) <= 2:
        raise ConfigError(f"one study is served, or two side by side; got {len(studies)}.")
    settings = settings or Settings()
    site = Site(tuple(studies), settings, maps)
    app = FastAPI(
        title="LLMXAI",
        version=__version__,
        description="What a medical language model answers, what an expert explains, and which features both share. "
        "Research use only, not for clinical use.",
        docs_url=None,
        redoc_url=None,
        lifespan=_few_threads,
    )
    app.include_router(rating_routes(site))  # before the pages, which have files of other names
    if not settings.rating_only:
        app.include_router(page_routes(site))
        app.include_router(api_routes(site))
        app.include_router(proposal_routes(site))
        app.include_router(live_routes(site, acting or Acting()))
        app.include_router(maps_routes(site))
    statics = {name: content.encode() for name, content in static_texts().items()}

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        if name not in statics:
            raise refusal(NotFoundError, "refused.file", name=name)
        kind = STATIC.get(name, "text/css; charset=utf-8")
        return Response(statics[name], media_type=kind, headers={"cache-control": "no-cache"})

    def answer(request: Request, error: Exception) -> Response:
        code = language_of(request).code
        status = _status(error)
        detail, own = _detail(error, code)
        known = f"error.{status}" if status in (404, 405, 409, 422) else "error.500"
        known = "invalid.json" if status == 400 else known  # a body that nobody can read
        if "/api/" in request.url.path or request.url.path == "/openapi.json":
            said = detail if detail and own else " ".join(filter(None, (text(known, code), detail)))
            return JSONResponse({"error": said}, status)
        links = links_of(request, _slot(request, len(studies)))
        page = site.renderer.error(text(known, code), reader_of(request), links=links, detail=detail, own=own)
        return html(request, page, status)

    for kind in (*_REFUSED, Exception):
        app.add_exception_handler(kind, answer)

    def refuse(scope: Scope, status: int, key: str) -> Response:
        request = Request(scope)
        sentence = text(key, language_of(request).code)
        if "/api/" in request.url.path:
            return JSONResponse({"error": sentence}, status)
        return HTMLResponse(site.renderer.error(sentence, reader_of(request), links=None), status)

    return Guard(app, settings, refuse)


@asynccontextmanager
async def _few_threads(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001 - the form of a lifespan
    current_default_thread_limiter().total_tokens = THREADS
    yield


def _status(error: Exception) -> int:
    if isinstance(error, HTTPException):
        return error.status_code
    if isinstance(error, NotFoundError):
        return 404
    if isinstance(error, ReadOnlyError):
        return 403
    if isinstance(error, ConflictError):
        return 409
    if isinstance(error, BusyError):
        return 429
    return 422 if isinstance(error, DataError | ConfigError | RequestValidationError) else 500


def _detail(error: Exception, code: Literal["ko", "en"]) -> tuple[str, bool]:
    """The sentence of the error, and whether it is in the reader's language; nothing of one that nobody has written for
    a reader."""
    if isinstance(error, SaeLensMedError):
        said = sentence_of(error, code)
        return (str(error), False) if said is None else (said, True)
    if isinstance(error, RequestValidationError):
        return sentences_of(error.errors(), code), True
    return "", True


def _slot(request: Request, n: int) -> int:
    first = request.url.path.split("/")[1]
    return int(first) if first in ("1", "2")[:n] else 1
