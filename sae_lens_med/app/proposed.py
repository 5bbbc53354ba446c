"""Labels that a model has proposed, and what people decided: `STUDY/app/proposed.jsonl`, only ever added to.

    {"id": "...", "feature": 12, "label": "...", "model": "...", "judge": "...", "time": "2026-...",
     "score": 0.85, "null": 0.52, "pieces": 20, "foreign": 4}
    {"id": "...", "proposal": "...", "decision": "accepted", "author": "...", "time": "2026-...", "revision": 3}

A proposal is no label: nothing but the page of its feature and the list of proposals shows it. Accepted by a person it
becomes a label (`labels`) of this person, of which the decision names the revision. The first decision stands. Each
line has an id: that of a decision is made by its client, so that sending it again is not a second one.

Out of scope: how lines are kept (`runs.append_log`), making proposals (`labelling`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from sae_lens_med.app.labels import MAX_NAME
from sae_lens_med.app.refusals import refusal
from sae_lens_med.app.views import Decision, LabelEntry, Proposal
from sae_lens_med.errors import ConflictError, DataError, NotFoundError
from sae_lens_med.runs.append_log import AppendLog

FILE = "proposed.jsonl"
_MADE = ("id", "feature", "label", "model", "judge", "time", "score", "null", "pieces", "foreign")
"""Fields of a proposal that are written with it."""


class Proposals:
    """The proposed labels of one study."""

    def __init__(self, path: Path) -> None:
        """The file need not exist."""
        self._by_id: dict[str, Proposal] = {}
        self._deciding: dict[str, str] = {}
        """Id of a decision -> that of the proposal."""
        self._log = AppendLog(path, self._note)

    @property
    def problem(self) -> str:
        """What of the file could not be read, in one sentence; empty where all could."""
        return self._log.problem

    def all(self) -> tuple[Proposal, ...]:
        """In the order in which they were made; those of another process included."""
        self._log.refresh()
        return tuple(self._by_id.values())

    def of(self, feature: int) -> tuple[Proposal, ...]:
        """Of one feature, the newest first."""
        return tuple(each for each in reversed(self.all()) if each.feature == feature)

    def get(self, feature: int, proposal: str) -> Proposal:
        """Raises `NotFoundError` where the feature has no proposal of this id."""
        self._log.refresh()
        found = self._by_id.get(proposal)
        if found is None or found.feature != feature:
            raise refusal(NotFoundError, "refused.proposal", feature=feature, proposal=repr(proposal))
        return found

    def add(self, proposals: Iterable[Proposal]) -> int:
        """Write proposals without a decision; return how many: one that is there is not written again."""
        written = 0
        with self._log.writing() as write:
            for each in proposals:
                if each.id not in self._by_id:
                    values = each.to_dict()
                    write({name: values[name] for name in _MADE})
                    written += 1
        return written

    def require_open(self, proposal: Proposal, entry_id: str) -> None:
        """Raise `ConflictError` where somebody has decided already, by another entry than this one, and where this
        entry has decided on another proposal."""
        if self._deciding.get(entry_id, proposal.id) != proposal.id:
            raise refusal(ConflictError, "refused.decision.id")
        if proposal.decision and self._deciding.get(entry_id) != proposal.id:
            key, day = f"refused.decided.{proposal.decision}", proposal.decided[:10]
            raise refusal(ConflictError, key, author=proposal.author, day=day)

    def decide(
        self, proposal: Proposal, decision: Decision, author: str, revision: int | None, entry_id: str
    ) -> Proposal:
        """Write a decision, and return the proposal with it.

        Args:
            proposal: of this study.
            decision: `accepted` or `rejected`.
            author: who decides.
            revision: of the label that it became; None where it was rejected.
            entry_id: made by the client; one that was written before gives what it gave.

        Raises `ConflictError` as `require_open`, `DataError` for an author that cannot be.
        """
        name = " ".join(author.split())
        if not 0 < len(name) <= MAX_NAME or not 0 < len(entry_id) <= MAX_NAME:
            raise refusal(DataError, "refused.decision.author", most=MAX_NAME)
        with self._log.writing() as write:
            self.require_open(self._by_id[proposal.id], entry_id)
            if entry_id not in self._deciding:
                now = datetime.now(UTC).isoformat(timespec="seconds")
                write({"id": entry_id, "proposal": proposal.id, "decision": decision, "author": name, "time": now,
                       "revision": revision})  # fmt: skip
            return self._by_id[proposal.id]

    def with_origin(self, entries: Sequence[LabelEntry]) -> tuple[LabelEntry, ...]:
        """Labels of a feature, those that were proposed marked so."""
        accepted = {(each.feature, each.revision) for each in self._by_id.values() if each.decision == "accepted"}
        return tuple(
            replace(entry, source="judge") if (entry.feature, entry.revision) in accepted else entry
            for entry in entries
        )

    def _note(self, values: dict[str, Any]) -> None:
        if "proposal" not in values:
            if set(values) != set(_MADE):
                raise ValueError("it is no proposal")
            made = Proposal.from_dict(values)
            self._by_id.setdefault(made.id, made)
            return
        found = self._by_id[values["proposal"]]
        if values["decision"] not in get_args(Decision) or found.decision:
            raise ValueError("it is no decision, or not the first one")
        self._deciding[values["id"]] = found.id
        self._by_id[found.id] = replace(
            found,
            decision=values["decision"],
            author=values["author"],
            decided=values["time"],
            revision=values["revision"],
        )
