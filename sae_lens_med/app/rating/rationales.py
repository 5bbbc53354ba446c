"""What is rated of a case: its rationales, one for each arm that has one.

- `expert`: the explanation, where an expert wrote it;
- `cot`: what the study's own model wrote before it answered: of its answers (`items.jsonl`), or of the runs of
  `reasoning` (`alignment/reasoning.*.jsonl`); without the lines that are nothing but the answer;
- `feature_label`: the labels, or the strongest words, of the features that count most in the question
  (`OpenStudy.of_question`), as one plain text. It depends on the question alone, not on the explanation.

All arms are dressed alike, so that the text is all that differs: white space is made one, and what the study masks in
explanations (`data.leakage`: the answer's letter, option texts, quotes of the stem) is masked in each by the same rule.

Out of scope: which cases are rated, and shuffled rationales (`units`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Literal

from sae_lens_med.alignment.reasoning_texts import without_answer
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.data.leakage import mask_leakage
from sae_lens_med.errors import StudyError
from sae_lens_med.records import McqItem
from sae_lens_med.runs.files import json_line
from sae_lens_med.runs.parsing import parse_json
from sae_lens_med.runs.partial import read_partial

TrueArm = Literal["expert", "cot", "feature_label"]
TRUE_ARMS: tuple[TrueArm, ...] = ("expert", "cot", "feature_label")


class Absent(Enum):
    """Why a case has no text for an arm."""

    NONE = "none"
    """There is no text."""
    NOT_EXPERT = "not_expert"
    """There is an explanation, but no expert wrote it."""
    MASKED = "masked"
    """Nothing is left of it when it is masked."""


FEATURES = 8
"""Features that a rationale names."""
_LEADS = {"ko": "이 문항에서 두드러진 것은 다음과 같다. ", "en": "What stands out in this question: "}
_MODEL = ("name", "sha256", "config_sha256", "tokenizer_sha256", "revision")
"""What tells two models apart in their provenance."""


@dataclass(frozen=True)
class Rationales:
    """Those of one study."""

    study: OpenStudy

    @cached_property
    def items(self) -> tuple[McqItem, ...]:
        """Of the study, in order."""
        return tuple(self.study.items.values())

    @cached_property
    def reasoning(self) -> Mapping[str, str]:
        """What the model wrote, by item."""
        found = dict(self._runs[0])
        for item_id, result in self.study.results.items():
            if result.text is not None:
                found[item_id] = result.text
        return {item_id: text for item_id, written in found.items() if (text := without_answer(written))}

    @property
    def problems(self) -> tuple[str, ...]:
        """Files of reasoning that could not be used, and why, one sentence each."""
        return self._runs[1]

    @cached_property
    def _runs(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """Of the file of runs that has most of the study's items, and what is wrong with others."""
        best: dict[str, str] = {}
        problems: list[str] = []
        for path in sorted((self.study.folder / "alignment").glob("reasoning.*.jsonl")):
            try:
                found = _of_file(path, self.study)
            except (StudyError, OSError, KeyError, TypeError, AttributeError) as error:
                said = f"the key {error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
                problems.append(f"{path} is not read: {said}.")
                continue
            if len(found) > len(best):
                best = found
        return best, tuple(problems)

    def may_have(self, number: int) -> int:
        """For how many of `expert` and `cot` a case may have a text, at a glance."""
        item = self.items[number]
        return (item.explanation_source == "expert") + (item.id in self.reasoning)

    def of(self, number: int, arm: TrueArm) -> str | Absent:
        """The text of a case for an arm as raters see it, or why there is none."""
        item = self.items[number]
        if arm == "expert":
            text = item.explanation
            if text is not None and item.explanation_source != "expert":
                return Absent.NOT_EXPERT
        elif arm == "cot":
            text = self.reasoning.get(item.id)
        else:
            text = self._of_features(number)
        return Absent.NONE if text is None else masked(text, item) or Absent.MASKED

    def _of_features(self, number: int) -> str | None:
        names: dict[str, None] = {}
        for feature in self.study.of_question(number, FEATURES):
            words = dict.fromkeys(word for phrase in feature.name.phrases if (word := phrase.strip(" .,;:")))
            if name := feature.name.label or ", ".join(words):
                names[name] = None
        return f"{_LEADS.get(self.items[number].language, '')}{'; '.join(names)}." if names else None


def masked(text: str, *items: McqItem) -> str:
    """`text` in the dress of all arms, with what gives the answer of any of `items` away masked; empty where nothing is
    left."""
    for item in items:
        if not text.strip():
            return ""
        found = mask_leakage(replace(item, explanation=text, explanation_source=None, explanation_spans=()))
        text = "" if found.nothing_left else found.text
    return re.sub(r"\n\s*\n\s*", "\n\n", re.sub(r"[^\S\n]+", " ", text)).strip()


def _of_file(path: Path, study: OpenStudy) -> dict[str, str]:
    """The reasoning of a file of runs, by item; none of other items or of another model."""
    identity, results = read_partial(path)
    if not results:
        return {}
    known, model = study.provenance.model, identity["model"]
    if any(model.get(key) != known[key] for key in _MODEL if key in known):
        return {}
    run = {values["id"]: values for values in identity["items"]}
    return {
        item_id: str(values["reasoning"])
        for item_id, values in results.items()
        if item_id in study.items and run.get(item_id) == parse_json(json_line(study.items[item_id].to_dict()))
    }
