"""The knowledge map on the server: the map as a table whose cells are links, one page for each cell, and JSON of both.

Out of scope: what is read from the folder (`opened`), running anything.
"""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from sae_lens_med.app.api import answers
from sae_lens_med.app.maps.opened import MapCell, MapView, OpenMap
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.pages import Site, Slot, html, links_of, reader_of
from sae_lens_med.app.strings import text
from sae_lens_med.knowledge_map.carried import Carrier
from sae_lens_med.knowledge_map.report import domain_title, language_title, limits, ranges, read_out_title
from sae_lens_med.languages import Language

Row = Annotated[int, Path(ge=0, le=9999, description="Place of the row in the map, from 0.")]
Depth = Annotated[int, Path(ge=0, le=9999, description="0: the embedding; k: what block k - 1 leaves.")]


def maps_routes(site: Site) -> APIRouter:
    """Pages and JSON."""
    router = APIRouter()

    @router.get("/{slot:int}/map", include_in_schema=False, response_class=HTMLResponse)
    def page(request: Request, slot: Slot) -> Response:
        opened, reader = site.map(slot), reader_of(request)
        title = text("map.title", reader.language.code)
        shown = _shown(opened, reader.language)
        return html(request, site.renderer.page("map", "map", links_of(request, slot), reader, title, **shown))

    @router.get("/{slot:int}/map/{row:int}/{depth:int}", include_in_schema=False, response_class=HTMLResponse)
    def cell_page(request: Request, slot: Slot, row: Row, depth: Depth) -> Response:
        opened, reader = site.map(slot), reader_of(request)
        cell = opened.cell(row, depth)
        name = _name(opened, row, reader.language)
        title = text("map.cell.title", reader.language.code, name=name, depth=depth)
        linked = {each.feature for each in cell.carriers if _is_of(each, site.study(slot))}
        shown: dict[str, Any] = {
            "cell": cell,
            "heading": name,
            "linked": linked,
            "depths": len(opened.view.rows[row].values),
            "language_title": lambda code: language_title(code, reader.language),
        }
        return html(request, site.renderer.page("map_cell", "map", links_of(request, slot), reader, title, **shown))

    @router.get("/{slot}/api/map", responses=answers(MapView, 404), summary="The knowledge map")
    def whole(slot: Slot) -> JSONResponse:
        return JSONResponse(site.map(slot).view.to_dict())

    @router.get("/{slot}/api/map/{row}/{depth}", responses=answers(MapCell, 404), summary="One cell of the map")
    def cell(slot: Slot, row: Row, depth: Depth) -> JSONResponse:
        return JSONResponse(site.map(slot).cell(row, depth).to_dict())

    return router


def _shown(opened: OpenMap, language: Language) -> dict[str, Any]:
    view = opened.view
    domains: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(view.rows):
        shown = {
            "name": read_out_title(row, language),
            "language": language_title(row.language, language),
            "code": row.language,
            "n": row.n,
            "at": ranges(depth for depth, out in enumerate(row.stands_out) if out),
            "cells": [opened.cell(number, depth) for depth in range(len(row.values))],
        }
        domains.setdefault(domain_title(row, language), []).append(shown)
    return {
        "model": view.model,
        "domains": domains,
        "depths": max((len(row.values) for row in view.rows), default=0),
        "answers": view.answers,
        "limits": limits(view.source, language),
        "language_title": lambda code: language_title(code, language),
    }


def _name(opened: OpenMap, number: int, language: Language) -> str:
    row = opened.view.rows[number]
    parts = (domain_title(row, language), read_out_title(row, language), language_title(row.language, language))
    return " · ".join(parts)


def _is_of(carrier: Carrier, study: OpenStudy) -> bool:
    """Whether a feature is one of the study's SAE, as far as names and the depth that it reads tell."""
    sae = study.provenance.sae or {}
    hook = re.fullmatch(r"blocks\.(\d+)\.hook_resid_(pre|post)", str(sae.get("hook_name", "")))
    depth = None if hook is None else int(hook[1]) + (hook[2] == "post")
    return (
        study.has_feature(carrier.feature)
        and carrier.sae in ("", str(sae.get("source", "")))
        and depth in (None, carrier.depth)
    )
