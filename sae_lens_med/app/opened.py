"""A study folder, opened for reading: the one thing that the pages of LLMXAI ask.

Indispensable are `manifest.json` and `questions.jsonl`. Whatever else is missing, half written, stale or damaged leaves
its place empty, and `missing` says what it is and which command makes it. No model is loaded, and no torch.

Everything is read when it is asked for but the questions, the answers and some numbers per feature. Reading is safe
from several threads; only `label` and `decide` write.

Out of scope: making what is missing (`index` and the commands that `missing` names), words of the interface, HTML.
"""

from pathlib import Path

from sae_lens_med.app import index_files
from sae_lens_med.app.aligned import read_aligned
from sae_lens_med.app.case_list import CaseList
from sae_lens_med.app.cases import Cases
from sae_lens_med.app.feature_view import Cues, Features, shown_proposal
from sae_lens_med.app.indexed import Index
from sae_lens_med.app.labels import FILE, Labels
from sae_lens_med.app.names import Names
from sae_lens_med.app.proposed import FILE as PROPOSED
from sae_lens_med.app.proposed import Proposals
from sae_lens_med.app.refusals import refusal
from sae_lens_med.app.search import Search, Texts, Words
from sae_lens_med.app.views import (
    CaseFeature,
    CaseOrder,
    CasePage,
    CaseView,
    Decision,
    FeaturePage,
    FeatureView,
    Filters,
    Hit,
    LabelEntry,
    Missing,
    PaintedSegment,
    Proposal,
    TokenFeatures,
)
from sae_lens_med.errors import ConflictError, StudyError
from sae_lens_med.features.part import FeaturePart
from sae_lens_med.records import ItemResult, McqItem, Provenance
from sae_lens_med.study.folder import StudyFolder, read_about, read_answers, read_questions, read_study, require_study


class OpenStudy:
    """One study; see the module."""

    folder: Path
    name: str
    """The folder's."""
    provenance: Provenance
    d_sae: int | None
    """Features of the SAE; None where nothing says how many."""
    items: dict[str, McqItem]
    """By id, in order."""
    results: dict[str, ItemResult]
    """By id; empty where there are no answers, or damaged ones."""
    missing: tuple[Missing, ...]
    """Of the whole study."""
    records: StudyFolder | None
    """All that a report is made of; None where that is not whole."""
    part: FeaturePart | None
    """The collected features; None where there are none."""
    index: Index | None
    """None where there is none, or a stale one."""
    names: Names
    proposals: Proposals
    """Labels that models have proposed."""

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> "OpenStudy":
        """Open a study folder.

        Args:
            folder: of the study.
            verify: hash the collected features; what is not as it was written is then not read.

        Raises `StudyError` only where there is no study at all: without `manifest.json` or `questions.jsonl`, or where
        one of them is damaged.
        """
        return cls(Path(folder), verify)

    def __init__(self, folder: Path, verify: bool) -> None:
        require_study(folder)
        self.folder, self.name = folder, folder.absolute().name
        missing: list[Missing] = []
        self._read_records(missing)
        part = self._collected(verify, missing)
        index = None if part is None else self._indexed(part, missing)
        sae = self.provenance.sae or {}
        said = sae.get("settings", {}).get("d_sae")
        self.d_sae = part.d_sae if part is not None else said if isinstance(said, int) else None
        aligned = read_aligned(folder, list(self.items), self.d_sae)
        missing += aligned.missing
        self.part, self.index = part, index
        self._labels = Labels(folder / index_files.FOLDER / FILE, aligned.labels)
        if self._labels.problem:
            missing.append(Missing("missing.labels", "", self._labels.problem))
        self.proposals = Proposals(folder / index_files.FOLDER / PROPOSED)
        if self.proposals.problem:
            missing.append(Missing("missing.labels", "", self.proposals.problem))
        items = list(self.items.values())
        names, texts = Names(self._labels, index, aligned), Texts(items)
        self.part, self.index, self.names = part, index, names
        self._list = CaseList.of(items, self.results, aligned, texts, index)
        rows = self._list.rows
        self._cases = Cases(folder, items, self.results, rows, part, index, names)
        cues = Cues.of_study(str(self.provenance.model["name"]), items[0].language)
        self._features = Features(
            folder, str(sae.get("source", "")), self.d_sae, rows, part, index, names, self.proposals, cues
        )
        self._search = Search(texts, None if index is None else Words(index), names, aligned, rows)
        self.missing = tuple(missing)

    def cases(self, filters: Filters, page: int = 1, size: int = 50) -> CasePage:
        """One page of the cases that `filters` keep. See `CaseList.page`."""
        return self._list.page(filters, page, size)

    @property
    def case_orders(self) -> tuple[CaseOrder, ...]:
        """In which orders `cases` has something to order. See `CaseList.orders`."""
        return self._list.orders

    def case(self, number: int, order: str = "activation", limit: int = 5) -> CaseView:
        """One case. See `Cases.view`."""
        return self._cases.view(number, order, limit)

    def of_question(self, number: int, limit: int) -> tuple[CaseFeature, ...]:
        """The features that count most in a case's question. See `Cases.of_question`."""
        return self._cases.of_question(number, limit)

    def shown(self, number: int, limit: int = 5) -> list[int]:
        """The features that a case shows. See `Cases.shown`."""
        return self._cases.shown(number, limit)

    def neighbours_of(self, number: int, filters: Filters) -> tuple[int | None, int | None]:
        """The case before and the one after, under the filters. See `CaseList.beside`."""
        return self._list.beside(number, filters)

    def is_collected(self, number: int) -> bool:
        """Whether the features of a case can be read. Raises `NotFoundError` for a number that no case has."""
        return self._cases.is_collected(number)

    def paint(self, number: int, feature: int) -> tuple[PaintedSegment, ...]:
        """Where a feature fires in a case. See `Cases.paint`."""
        return self._cases.paint(number, feature)

    def token(self, number: int, part: str, segment: int, limit: int = 20) -> TokenFeatures:
        """What fires at a segment of a case. See `Cases.token`."""
        return self._cases.token(number, part, segment, limit)

    def feature(self, index: int) -> FeatureView:
        """One feature. See `Features.view`."""
        return self._features.view(index)

    def require_feature(self, index: int) -> None:
        """Raise `NotFoundError` unless the SAE has the feature."""
        self._features.require(index)

    def has_feature(self, index: int) -> bool:
        """Whether the SAE has the feature."""
        return self.d_sae is not None and 0 <= index < self.d_sae

    def features(self, order: str = "maximum", page: int = 1, size: int = 50) -> FeaturePage:
        """One page of the features. See `Features.page`."""
        return self._features.page(order, page, size)

    def search(self, query: str, limit: int = 30) -> tuple[Hit, ...]:
        """What matches a query. See `Search.find`."""
        return self._search.find(query, limit)

    def label(self, feature: int, text: str, author: str, revision: int, entry_id: str) -> LabelEntry:
        """Write a label. Raises `NotFoundError` for a feature that the SAE has not got; see `Labels.add`."""
        self._features.require(feature)
        return self._labels.add(feature, text, author, revision, entry_id)

    def decide(
        self, feature: int, proposal: str, decision: Decision, author: str, revision: int, entry_id: str
    ) -> Proposal:
        """Accept a proposed label, which makes it the feature's as `label` does (`revision`, `entry_id` as there), or
        reject it. Raises `NotFoundError` for a feature or a proposal that is not there, `ConflictError` where somebody
        has decided or has written a newer label."""
        self._features.require(feature)
        found = self.proposals.get(feature, proposal)
        self.proposals.require_open(found, entry_id)
        made = None
        if decision == "accepted":
            entry = self._labels.add(feature, found.label, author, revision, entry_id)
            if (entry.feature, entry.label) != (feature, found.label):
                raise refusal(ConflictError, "refused.decision.label")
            made = entry.revision
        return self.proposals.decide(found, decision, author, made, entry_id)

    def waiting(self) -> tuple[Proposal, ...]:
        """Proposed labels that nobody has decided on, those first that tell most against their null; visible."""
        known = [each for each in self.proposals.all() if each.decision is None and self.has_feature(each.feature)]

        def gain(each: Proposal) -> float:
            return -1.0 if each.score is None else each.score - (0.5 if each.null is None else each.null)

        return tuple(map(shown_proposal, sorted(known, key=gain, reverse=True)))

    def _read_records(self, missing: list[Missing]) -> None:
        reason = ""
        try:
            self.records = read_study(self.folder)
        except StudyError as error:
            self.records, reason = None, str(error)
        if self.records is not None:
            self.provenance, self.items, self.results = (
                self.records.provenance, self.records.items, self.records.results,
            )  # fmt: skip
            return
        self.provenance, _, _ = read_about(self.folder)
        self.items = read_questions(self.folder)
        try:
            self.results = read_answers(self.folder, self.items)
            missing.append(Missing("missing.metrics", self._again, reason))
        except StudyError as error:
            self.results = {}
            there = (self.folder / "items.jsonl").is_file()
            missing.append(Missing("missing.items", self._again, str(error) if there else ""))
            if not (self.folder / "metrics.json").is_file():
                missing.append(Missing("missing.metrics", self._again))

    def _collected(self, verify: bool, missing: list[Missing]) -> FeaturePart | None:
        try:
            part = FeaturePart(self.folder / "features")
            if verify:
                part.verify()
        except StudyError as error:
            there = (self.folder / "features" / "manifest.json").is_file()
            missing.append(Missing("missing.features", self._again, str(error) if there else ""))
            return None
        if not part.complete:
            done = f"The features of {part.n_items} of {part.manifest['n_items']} cases are collected."
            missing.append(Missing("missing.features", self._again, done, "missing.why.partial"))
        missing += [Missing("missing.features", self._again, reason) for reason in part.broken.values()]
        return part

    def _indexed(self, part: FeaturePart, missing: list[Missing]) -> Index | None:
        made, reason = index_files.parts_made(self.folder, part)
        command = index_files.command(self.folder)
        if "features" in made:
            try:
                return Index(self.folder / index_files.FOLDER, made, part.d_sae, len(self.items))
            except StudyError as error:
                reason, command = str(error), index_files.command(self.folder, "--rebuild")
        why = "missing.why.stale" if reason == index_files.STALE else "missing.why.damaged"
        missing.append(Missing("missing.index", command, reason, why))
        return None

    @property
    def _again(self) -> str:
        return index_files.study_command(self.folder)
