"""What the pages of LLMXAI show: plain records, made by the reading side (`opened`) and drawn by `pages` and `api`.

Offsets are in UTF-16 code units of the text that stands beside them, which is what a browser counts in; the text is the
*visible* one (`text.visible`): control characters are pictures there, so nothing is dropped when a page is parsed.

Activations are those of the collected features, >= 0, in the SAE's own units. Whatever could not be known is None or
empty, and `missing` says what would make it: a record never holds a stand-in.

Out of scope: words of the interface (`strings`, `sentences`), colours (`heat`), HTML.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from sae_lens_med.errors import DataError
from sae_lens_med.records import NoAnswerReason, Record

CaseOrder = Literal[
    "", "margin", "-margin", "difference", "-difference", "comprehensiveness", "-comprehensiveness"
]  # fmt: skip
"""What a list of cases is ordered by: a number of `CaseRow`, from the smallest, or with `-` from the largest."""
Verdict = Literal["shared_reasoning", "hidden_driver", "present_unused", "neither"]


@dataclass(frozen=True, slots=True)
class Missing(Record):
    """Something that the folder does not hold."""

    what: str
    """A key of `strings`: `missing.index`, `missing.alignment`, `missing.attribution`, ..."""
    command: str
    """What makes it, to be typed into a shell: `sae-lens-med index STUDY`."""
    reason: str = ""
    """One sentence where a file is there but damaged or stale, empty where it is not there."""
    why: str = "missing.why.damaged"
    """Key of the text that leads to `reason`, which is in English."""


@dataclass(frozen=True, slots=True)
class Segment(Record):
    """Characters that are painted together: whole syllables, however many tokens share them."""

    start: int
    """UTF-16 unit in the part's text, >= 0."""
    end: int
    """One past the last, > start."""
    tokens: tuple[int, ...]
    """The tokens that cover it: rows within the item, ascending, at least one."""
    excluded: bool = False
    """Every token of it is a special token or an activation sink: no metric counts it."""


@dataclass(frozen=True, slots=True)
class PartText(Record):
    """One text of a case, with the segments that can be painted."""

    _nested: ClassVar[dict[str, type[Record]]] = {"segments": Segment}

    key: str
    """`stem`, `option:A` ..., `explanation`."""
    text: str
    """As it is shown, whole."""
    segments: tuple[Segment, ...]
    """In order, not overlapping; characters between them belong to no token (masked text, white space)."""
    masked: tuple[tuple[int, int], ...] = ()
    """UTF-16 spans of the explanation that the model was not shown: the answer's letter, option texts, quotes."""
    before: int = 0
    """Tokens without characters (BOS) that were run with the text: they stand before it."""


@dataclass(frozen=True, slots=True)
class Option(Record):
    """One answer option."""

    letter: str
    probability: float | None
    """In [0, 1], of the options together 1; None where the model gave no probabilities."""
    predicted: bool
    gold: bool


@dataclass(frozen=True, slots=True)
class Band(Record):
    """What matched stand-ins do where a feature does `effect`."""

    low: float
    high: float
    """The middle 95 % of the features that it was ranked among, in the unit of `effect`: what one of them that fires as
    strongly there would move."""
    n: int


@dataclass(frozen=True, slots=True)
class PaintedSegment(Record):
    """How strongly one feature fires in one segment."""

    part: str
    """Key of the `PartText`."""
    segment: int
    """Index into its `segments`."""
    value: float
    """The maximum over the segment's tokens, > 0."""


@dataclass(frozen=True, slots=True)
class FeatureName(Record):
    """How a feature is called where there is no room for more: never by its number alone."""

    index: int
    label: str | None
    """What a person, or an accepted proposal, calls it."""
    phrases: tuple[str, ...]
    """The words in which it is strongest, at most 3; empty where there is no index."""
    maximum: float | None
    """Its greatest activation in the study, > 0: the scale of painting."""


@dataclass(frozen=True, slots=True)
class CaseFeature(Record):
    """A feature beside a case."""

    _nested: ClassVar[dict[str, type[Record]]] = {"name": FeatureName, "paint": PaintedSegment, "band": Band}

    name: FeatureName
    stem: float
    """Maximum over the counted stem tokens, >= 0."""
    explanation: float
    attribution: float | None = None
    """First-order effect of its activations in this case on the log odds of the predicted answer; signed."""
    effect: float | None = None
    """Mean |change| of the margin of the model's own answer, in logits, over the questions in which it was switched off
    (#16), >= 0; None where it was not tested."""
    band: Band | None = None
    verdict: Verdict | None = None
    density: float | None = None
    """Share of the study's shown tokens on which it fires, in [0, 1]."""
    paint: tuple[PaintedSegment, ...] = ()


@dataclass(frozen=True, slots=True)
class Alignment(Record):
    """How near a case's question is to its own explanation (#2, SAE features)."""

    matched: float
    mismatched: float
    """Mean to the other explanations of the stratum."""
    rank: int
    """1 = the case with the greatest difference of `n`."""
    n: int


@dataclass(frozen=True, slots=True)
class Group(Record):
    """The features of one kind in one case."""

    _nested: ClassVar[dict[str, type[Record]]] = {"features": CaseFeature}

    kind: Literal["shared", "model", "expert"]
    """Active in stem and explanation; in the stem alone; in the explanation alone."""
    total: int
    """How many features there are of the kind, by the pooling and the mask of `align`."""
    features: tuple[CaseFeature, ...]
    """The strongest by the order that was asked for."""


@dataclass(frozen=True, slots=True)
class CaseRow(Record):
    """A case in a list."""

    number: int
    """Its place in the study, from 0: the address of its page."""
    id: str
    subject: str
    language: str
    text: str
    """The first 120 characters of the stem, visible."""
    prediction: str | None
    gold: str | None
    correct: bool | None
    """None where there is no gold answer."""
    reason: NoAnswerReason | None
    """Why there is no prediction."""
    margin: float | None
    """Probability of the first option minus that of the second, in [0, 1]."""
    difference: float | None
    """Matched minus mismatched similarity; None without an explanation or before `align`."""
    comprehensiveness: float | None = None
    """What the answer's probability loses without the features shared with the explanation, less what it loses without
    others (#7), in [-1, 1]; None where that was not measured."""


@dataclass(frozen=True, slots=True)
class CaseView(Record):
    """One case, whole."""

    _nested: ClassVar[dict[str, type[Record]]] = {
        "row": CaseRow,
        "parts": PartText,
        "options": Option,
        "alignment": Alignment,
        "groups": Group,
        "missing": Missing,
    }

    row: CaseRow
    parts: tuple[PartText, ...]
    """Stem, options in order, and the explanation where there is one."""
    options: tuple[Option, ...]
    explanation_source: str | None
    """`expert`, `model`, `illustrative`, `reference`, or None."""
    alignment: Alignment | None
    groups: tuple[Group, ...]
    """Shared, model, expert; empty where nothing was collected. Without an explanation only `model`."""
    order: Literal["activation", "attribution", "effect"]
    """What ranks the features; the one that was asked for, or `activation` where the study has not got it."""
    missing: tuple[Missing, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenFeatures(Record):
    """What fires at a segment of a case."""

    _nested: ClassVar[dict[str, type[Record]]] = {"features": CaseFeature}

    part: str
    segment: int
    text: str
    features: tuple[CaseFeature, ...]
    """Strongest first, by share of their maximum; each painted at this segment alone."""
    total: int


@dataclass(frozen=True, slots=True)
class Context(Record):
    """A piece of a text in which a feature fires."""

    case: int
    """Number of the case."""
    part: str
    """`stem`, `option` or `explanation`."""
    text: str
    """Visible, of what was run (the explanation masked); about 60 tokens around the strongest."""
    pieces: tuple[tuple[int, int, float], ...]
    """UTF-16 start and end in `text`, and the activation; in order."""
    value: float
    """The greatest, > 0."""
    quantile: int
    """0 = the strongest tenth of the cases in which it fires, 9 the weakest."""


@dataclass(frozen=True, slots=True)
class ConceptScore(Record):
    """How well a feature tells tokens or items of a concept from others (#5 or its like)."""

    concept: str
    auroc: float
    interval: tuple[float, float] | None
    n: int
    """Items that mention it."""


@dataclass(frozen=True, slots=True)
class LabelEntry(Record):
    """One version of a feature's label; the last one counts."""

    feature: int
    label: str
    """Empty: the label was taken back."""
    author: str
    time: str
    """ISO 8601."""
    revision: int
    """1, 2, ... per feature; 0 for a label from the file that `align` was given."""
    source: Literal["person", "judge", "file"] = "person"


Decision = Literal["accepted", "rejected"]


@dataclass(frozen=True, slots=True)
class Proposal(Record):
    """A label that a model proposes; nobody's until a person accepts it."""

    id: str
    feature: int
    label: str
    model: str
    """Which wrote it."""
    judge: str
    """Which scored it."""
    time: str
    """ISO 8601, of the proposal."""
    score: float | None
    """Detection: the judge's balanced accuracy, in [0, 1], on texts that the label was not made from; 0.5 is guessing.
    None where there were too few."""
    null: float | None
    """The mean of the same with labels of other features; None where none were asked."""
    pieces: int
    """Texts that the score is of."""
    foreign: int
    """Labels of other features that the null is of."""
    decision: Decision | None = None
    author: str = ""
    """Who decided."""
    decided: str = ""
    """ISO 8601."""
    revision: int | None = None
    """Of the label that it became."""

    def __post_init__(self) -> None:
        texts = (self.id, self.label, self.model, self.judge, self.time)
        counts = (self.feature, self.pieces, self.foreign)
        shares = [each for each in (self.score, self.null) if each is not None]
        if (
            not all(isinstance(each, str) and each.strip() for each in texts)
            or not all(isinstance(each, int) and each >= 0 for each in counts)
            or not all(isinstance(each, int | float) and 0 <= each <= 1 for each in shares)
        ):
            raise DataError("a proposed label needs an id, a text, models, a time, a feature and scores in [0, 1].")


@dataclass(frozen=True, slots=True)
class TokenEffect(Record):
    """What a feature's direction does to the logit of a token."""

    token: str
    """Whole characters; a token that is not any is shown as `<0xEC>`."""
    value: float


@dataclass(frozen=True, slots=True)
class FeatureView(Record):
    """One feature, whole."""

    _nested: ClassVar[dict[str, type[Record]]] = {
        "name": FeatureName,
        "contexts": Context,
        "concepts": ConceptScore,
        "cases": CaseRow,
        "neighbours": FeatureName,
        "raised": TokenEffect,
        "lowered": TokenEffect,
        "labels": LabelEntry,
        "proposals": Proposal,
        "band": Band,
        "missing": Missing,
    }

    name: FeatureName
    reference: str
    """`SOURCE:INDEX`: one way to name it everywhere."""
    density: float | None
    """Of this and the next three: None without an index. Share of the study's shown tokens (stem, options,
    explanation; none excluded) on which it fires."""
    n_tokens: int | None
    """Shown tokens on which it fires."""
    n_items: int | None
    mean: float | None
    """Over the tokens on which it fires; 0 where it never does."""
    left_out: Literal["dense", "script"] | None
    """Why `align` does not compare it."""
    histogram: tuple[int, ...]
    """40 bins of equal width from 0 to the maximum: on how many shown tokens it fires so strongly; empty without an
    index."""
    contexts: tuple[Context, ...]
    """Strongest first, then one by one through the quantiles."""
    concepts: tuple[ConceptScore, ...]
    cases: tuple[CaseRow, ...]
    """Those in which it fires strongest, at most 20."""
    neighbours: tuple[FeatureName, ...]
    similarities: tuple[float, ...]
    """Cosines of the decoder directions, as many as `neighbours`."""
    raised: tuple[TokenEffect, ...]
    lowered: tuple[TokenEffect, ...]
    labels: tuple[LabelEntry, ...]
    """All versions, newest first."""
    verdict: Verdict | None
    effect: float | None
    band: Band | None
    drives: str | None
    """Of an organism's study: the cue whose words it fires at, `findings` or `place`; None elsewhere."""
    missing: tuple[Missing, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    """Labels that models have proposed, newest first, those that were decided on included."""


@dataclass(frozen=True, slots=True)
class FeatureRow(Record):
    """A feature in a list."""

    _nested: ClassVar[dict[str, type[Record]]] = {"name": FeatureName}

    name: FeatureName
    density: float
    """Share of the study's shown tokens on which it fires, in (0, 1]."""
    n_items: int
    mean: float
    """Over the tokens on which it fires."""
    left_out: Literal["dense", "script"] | None
    verdict: Verdict | None
    effect: float | None
    concept: str | None
    """The concept that it tells best, of those that list it."""
    auroc: float | None
    """For that concept."""


@dataclass(frozen=True, slots=True)
class FeaturePage(Record):
    """One page of the list of features."""

    _nested: ClassVar[dict[str, type[Record]]] = {"rows": FeatureRow}

    rows: tuple[FeatureRow, ...]
    order: str
    total: int
    """Features that fire."""
    page: int
    """From 1."""
    pages: int


@dataclass(frozen=True, slots=True)
class Hit(Record):
    """Something that was searched for."""

    _nested: ClassVar[dict[str, type[Record]]] = {"feature": FeatureName, "case": CaseRow}

    kind: Literal["label", "concept", "token", "text"]
    text: str
    """What matched, visible."""
    feature: FeatureName | None
    case: CaseRow | None
    auroc: float | None = None
    """Of a concept's feature."""


@dataclass(frozen=True, slots=True)
class Filters(Record):
    """Which cases a list shows; all of them together."""

    subject: str = ""
    answer: Literal["", "right", "wrong", "none"] = ""
    reason: str = ""
    """One of the reasons for no answer."""
    text: str = ""
    """Found in stem, options or explanation, NFKC and casefolded, as a substring."""
    order: CaseOrder = ""
    feature: int | None = None
    """Only cases in which it fires."""


@dataclass(frozen=True, slots=True)
class CasePage(Record):
    """One page of the list of cases."""

    _nested: ClassVar[dict[str, type[Record]]] = {"rows": CaseRow, "filters": Filters}

    filters: Filters
    rows: tuple[CaseRow, ...]
    total: int
    """Cases that the filters keep."""
    of: int
    """Cases of the study."""
    page: int
    """From 1."""
    pages: int
    subjects: tuple[tuple[str, int], ...]
    """Every subject with its count, before filtering."""
    reasons: tuple[tuple[str, int], ...]
    orders: tuple[str, ...]
    """Those of `CaseOrder` by which cases of the study differ."""
    answers: tuple[tuple[str, int], ...]
    """`right`, `wrong`, `none` with their counts."""
