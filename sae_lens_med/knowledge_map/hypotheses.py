"""Registered hypotheses, answered by a map: supported, not supported, or not testable here.

    map folder -> activations by place (`Material`) and rows -> one `Part` per language or method -> an `Answer`

What is claimed, its statistic, null and pass rule stand in `data/hypotheses.json`, in English and Korean; an answer
carries the hash of that file, so that a rule that was changed later is seen. A part passes where its p is below 0.05
**and** every requirement of the rule holds; a hypothesis is supported where every part passes, and not testable where
one of them cannot be tested. q is p of the hypotheses (the largest of their parts) after Benjamini-Hochberg.

Out of scope: the statistics (`shape`), who reads the folder (`answering`), what the page looks like (`report`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import ClassVar, Literal

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.measure import MapRow, Read
from sae_lens_med.records import Record
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.runs.parsing import parse_json
from sae_lens_med.statistics import ALPHA, benjamini_hochberg

Verdict = Literal["supported", "not supported", "not testable here"]
Text = dict[str, str]
"""`en`, `ko`."""


@dataclass(frozen=True, slots=True)
class Hypothesis(Record):
    """One registered claim."""

    id: str
    claim: Text
    statistic: Text
    null: Text
    rule: Text
    not_concluded: Text
    """What may not be concluded, whatever the answer."""


@dataclass(frozen=True, slots=True)
class Part(Record):
    """One language or method."""

    name: str
    """`ko`, `en`, `ko-en`, `geometry`, ..."""
    value: float | None
    """None where it cannot be tested."""
    null_mean: float | None = None
    null_high: float | None = None
    """95 % quantile; for H6, where small values count, 5 %."""
    p: float | None = None
    interval: tuple[float, float] | None = None
    """95 %; None where the value is no mean."""
    n: int = 0
    unit: str = "concepts"
    depth: int | None = None
    """Of the value, where a best one was chosen."""
    beside: dict[str, float] = field(default_factory=dict)
    """What the rule compares it with, and what stands beside it."""
    fails: tuple[Text, ...] = ()
    """What of the rule does not hold, p apart; or why it cannot be tested."""

    @property
    def passes(self) -> bool:
        """Whether the rule holds."""
        return self.p is not None and self.p < ALPHA and not self.fails


@dataclass(frozen=True, slots=True)
class Answer(Record):
    """A hypothesis and what the map says to it."""

    _nested: ClassVar[dict[str, type[Record]]] = {"hypothesis": Hypothesis, "parts": Part}

    hypothesis: Hypothesis
    verdict: Verdict
    parts: tuple[Part, ...]
    p: float | None
    """The largest of the parts."""
    q: float | None
    """p after Benjamini-Hochberg over the hypotheses that can be tested."""
    registered: str
    """SHA-256 of the registered file."""
    sentence: Text

    @property
    def stands(self) -> bool:
        """Whether it is supported, and is so after correction; one that is supported otherwise is a lead."""
        return self.verdict == "supported" and self.q is not None and self.q < ALPHA


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What a map folder holds."""

    reads: Mapping[tuple[str, str], Read]
    """(Domain, language) -> activations."""
    rows: tuple[MapRow, ...]
    draws: int
    seed: int

    @property
    def languages(self) -> tuple[str, ...]:
        """Those of any domain, Korean first."""
        return tuple(sorted({language for _, language in self.reads}, reverse=True))


class NotTestable(Exception):
    """Why a part cannot be tested; never leaves this room."""

    def __init__(self, en: str, ko: str) -> None:
        super().__init__(en)
        self.why: Text = {"en": en, "ko": ko}


Test = Callable[[Material], list[Part]]


def registered() -> tuple[Hypothesis, ...]:
    """The registered hypotheses, in order."""
    return tuple(Hypothesis.from_dict(values) for values in _registered_values())


def answered(material: Material, tests: Mapping[str, Test]) -> list[Answer]:
    """Every registered hypothesis, in order. Raises `DataError` where one has no test."""
    sha256 = json_sha256(_registered_values())
    found: list[Answer] = []
    for hypothesis in registered():
        if hypothesis.id not in tests:
            raise DataError(f"the registered hypothesis {hypothesis.id} has no test; name one.")
        parts = tuple(tests[hypothesis.id](material))
        verdict = verdict_of(parts)
        known = [part.p for part in parts if part.p is not None]
        p = max(known) if known and verdict != "not testable here" else None
        found.append(Answer(hypothesis, verdict, parts, p, None, sha256, {"en": "", "ko": ""}))
    tested = [answer.p for answer in found if answer.p is not None]
    corrected = iter(benjamini_hochberg(tested)) if tested else iter(())
    with_q = [answer if answer.p is None else replace(answer, q=float(next(corrected))) for answer in found]
    return [replace(answer, sentence=sentence_of(answer)) for answer in with_q]


def verdict_of(parts: Sequence[Part]) -> Verdict:
    """Supported where every part passes; one that cannot be tested takes the hypothesis with it."""
    if not parts or any(part.value is None for part in parts):
        return "not testable here"
    return "supported" if all(part.passes for part in parts) else "not supported"


def sentence_of(answer: Answer) -> Text:
    """The answer in plain words."""
    if answer.verdict == "not testable here":
        why = [each for part in answer.parts if part.value is None for each in part.fails]
        return {
            "en": "Not testable here: " + " ".join(dict.fromkeys(each["en"] for each in why)),
            "ko": "이 지도로는 검정할 수 없다. " + " ".join(dict.fromkeys(each["ko"] for each in why)),
        }
    said = {"en": [], "ko": []}
    for part in answer.parts:
        name = PART_NAMES.get(part.name, {"en": part.name, "ko": part.name})
        at = ("", "") if part.depth is None else (f" at depth {part.depth}", f"({part.depth}층)")
        said["en"].append(
            f"{name['en']}: {_number(part.value)}{at[0]}, null {_number(part.null_mean)}, p {_number(part.p)}"
            + "".join(f"; {each['en']}" for each in part.fails)
            + "."
        )
        said["ko"].append(
            f"{name['ko']}: {_number(part.value)}{at[1]}, 귀무 평균 {_number(part.null_mean)}, p {_number(part.p)}"
            + "".join(f"; {each['ko']}" for each in part.fails)
            + "."
        )
    head = {
        "supported": ("Supported", "지지됨"),
        "not supported": ("Not supported", "지지되지 않음"),
    }[answer.verdict]
    q = answer.q
    weak = ("", "")
    if answer.verdict == "supported" and not answer.stands:
        weak = (
            f" Of all hypotheses asked together it does not stand (q {_number(q)}): a lead, not a finding.",
            f" 여러 가설을 함께 물은 것을 보정하면 성립하지 않는다(q {_number(q)}). 실마리일 뿐 결론이 아니다.",
        )
    return {
        "en": f"{head[0]}. {' '.join(said['en'])}{weak[0]} {answer.hypothesis.not_concluded['en']}",
        "ko": f"{head[1]}. {' '.join(said['ko'])}{weak[1]} {answer.hypothesis.not_concluded['ko']}",
    }


PART_NAMES: dict[str, Text] = {
    "ko": {"en": "Korean", "ko": "한국어"},
    "en": {"en": "English", "ko": "영어"},
    "ko-en": {"en": "Korean and English", "ko": "한국어와 영어"},
    "geometry": {"en": "geometry", "ko": "기하"},
    "saliency": {"en": "saliency", "ko": "기울기"},
    "lesion": {"en": "lesion", "ko": "층 제거"},
    "patching": {"en": "patching", "ko": "활성 이식"},
}
"""Languages and methods."""


def _registered_values() -> list[dict[str, object]]:
    text = (files("sae_lens_med") / "knowledge_map" / "data" / "hypotheses.json").read_text(encoding="utf-8")
    return parse_json(text)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
