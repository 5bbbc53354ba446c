"""Addresses of the pages: of a running server, and of a folder of files.

A page's state is in its address, so that it can be passed on: the filters of the list that it was reached from, what
ranks and paints the features, and the reader's view. Links keep the state that still means something where they lead.

    /1/cases?text=심전도&answer=wrong      the list of study 1
    /1/cases/12?feature=7&scale=text       a case, with a feature painted
    /1/features/7?back=12                  a feature, reached from a case

Out of scope: reading an address (`pages`).
"""

from collections.abc import Mapping, Sequence
from typing import Protocol
from urllib.parse import urlencode

FILTERS = ("text", "subject", "answer", "reason", "sort", "active")
"""Parameters of a list of cases, which a case keeps for its neighbours."""
LASTING = ("view",)
"""Parameters that every link keeps. A language that was chosen stands in a cookie."""
_OF_A_CASE = (*FILTERS, *LASTING, "order", "scale")
_HERE = (*_OF_A_CASE, "feature", "at", "find", "whole", "page", "back", "q", "set", "features", "tokens", "unit")


class Written(Protocol):
    """An edit of a feature."""

    @property
    def text(self) -> str:
        """As it stands in an address."""
        ...


class Links:
    """Addresses on a server, seen from one page."""

    static_site = False

    def __init__(self, slot: int, here: str, query: Mapping[str, str]) -> None:
        """`slot`: which study, from 1; `here`: the path of this page; `query`: its parameters, of which unknown ones
        are dropped, and the language."""
        self.slot, self.path = slot, here
        self.query = {name: query[name] for name in _HERE if query.get(name)}

    def cases(self, **changes: object) -> str:
        """The list, with the filters of this page and `changes` to them; a filter that is None is taken away."""
        return self._to(f"/{self.slot}/cases", self._kept((*FILTERS, *LASTING)), changes)

    def all_cases(self, **filters: object) -> str:
        """The list with these filters alone."""
        return self._to(f"/{self.slot}/cases", self._kept(LASTING), filters)

    def case(self, number: int, **changes: object) -> str:
        """A case."""
        return self._to(f"/{self.slot}/cases/{number}", self._kept(_OF_A_CASE), changes)

    def steer(self, number: int, edits: "Sequence[Written]", **changes: object) -> str:
        """What a case would be with edited features."""
        return self._to(
            f"/{self.slot}/cases/{number}/steer",
            self._kept((*_OF_A_CASE, "tokens")),
            {"features": ",".join(edit.text for edit in edits), **changes},
        )

    def steer_off(self, number: int, feature: int) -> str:
        """What a case would be without a feature."""
        return self._to(f"/{self.slot}/cases/{number}/steer", self._kept(_OF_A_CASE), {"features": feature})

    def edit(self, number: int) -> str:
        """A case whose question can be edited."""
        return self._to(f"/{self.slot}/cases/{number}/edit", self._kept(_OF_A_CASE), {})

    def features(self, **changes: object) -> str:
        """The list of features."""
        return self._to(f"/{self.slot}/features", self._kept(LASTING), changes)

    def feature(self, index: int, **changes: object) -> str:
        """A feature; `back`: the case that it was reached from."""
        return self._to(f"/{self.slot}/features/{index}", self._kept(_OF_A_CASE), changes)

    def proposals(self) -> str:
        """The labels that wait for a decision."""
        return self._to(f"/{self.slot}/proposed", self._kept(LASTING), {})

    def map(self) -> str:
        """The knowledge map."""
        return self._to(f"/{self.slot}/map", self._kept(LASTING), {})

    def map_cell(self, row: int, depth: int) -> str:
        """One read-out of the knowledge map at one depth."""
        return self._to(f"/{self.slot}/map/{row}/{depth}", self._kept(LASTING), {})

    def search(self, **changes: object) -> str:
        """The search page."""
        return self._to(f"/{self.slot}/search", self._kept(LASTING), changes)

    def study(self, **changes: object) -> str:
        """What the whole study says."""
        return self._to(f"/{self.slot}/study", self._kept(LASTING), changes)

    def study_of(self, slot: int) -> str:
        """What another study says."""
        return self._to(f"/{slot}/study", self._kept(LASTING), {})

    def compare(self) -> str:
        """Both studies beside each other."""
        return self._to("/compare", self._kept(LASTING), {})

    def rate(self, rater: str | None = None, **changes: object) -> str:
        """Where rationales are rated: who rates, or what a rater has before him or her."""
        return self._to(f"/{self.slot}/rate" + (f"/{rater}" if rater else ""), {}, changes)

    def agreement(self) -> str:
        """What the ratings say."""
        return self._to(f"/{self.slot}/agreement", self._kept(LASTING), {})

    def figure(self, name: str) -> str:
        """A figure or a table of this study as a file: `metrics.svg`."""
        return f"/{self.slot}/files/{name}"

    def compared(self, name: str) -> str:
        """A figure or a table of both studies as a file."""
        return f"/compare/{name}"

    def static(self, name: str) -> str:
        """A file of the interface."""
        return f"/static/{name}"

    def here(self, **changes: object) -> str:
        """This page, with `changes`."""
        return self._to(self.path, dict(self.query), changes)

    def kept(self, *names: str) -> dict[str, str]:
        """What a form on this page has to send along, beside its own fields."""
        return self._kept((*names, *LASTING))

    def _kept(self, names: tuple[str, ...]) -> dict[str, str]:
        return {name: self.query[name] for name in names if name in self.query}

    def _to(self, path: str, kept: dict[str, str], changes: Mapping[str, object]) -> str:
        query = {name: value for name, value in {**kept, **changes}.items() if value is not None and value != ""}
        return path + (f"?{urlencode(query)}" if query else "")
