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
from functools import cached_property
from pathlib import Path
from typing import Literal

from sae_lens_med.alignment.reasoning_texts import without_answer
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.texts import named
from sae_lens_med.data.leakage import mask_leakage
from sae_lens_med.errors import StudyError
from sae_lens_med.records import McqItem
from sae_lens_med.runs.files import json_line
from sae_lens_med.runs.parsing import parse_json
from sae_lens_med.runs.partial import read_partial

TrueArm = Literal["expert", "cot", "feature_label"]
TRUE_ARMS: tuple[TrueArm, ...] = ("expert", "cot", "feature_label")
Absent = Literal["none", "not_expert", "masked"]
"""Why a case has no text for an arm: there is none, no expert wrote it, or nothing of it is left when it is masked."""
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
        found = _of_runs(self.study)
        for item_id, result in self.study.results.items():
            if result.text is not None:
                found[item_id] = result.text
        return {item_id: text for item_id, written in found.items() if (text := without_answer(written))}

    def may_have(self, number: int) -> int:
        """For how many arms a case may have a text, at a glance."""
        item = self.items[number]
        return (
            (item.explanation_source == "expert") + (item.id in self.reasoning) + bool(self.study.is_collected(number))
        )

    def of(self, number: int, arm: TrueArm) -> str | Absent:
        """The text of a case for an arm as raters see it, or why there is none; no text is one of `Absent`."""
        item = self.items[number]
        if arm == "expert":
            text = item.explanation
            if text is not None and item.explanation_source != "expert":
                return "not_expert"
        elif arm == "cot":
            text = self.reasoning.get(item.id)
        else:
            text = self._of_features(number)
        return "none" if text is None else masked(text, item) or "masked"

    def _of_features(self, number: int) -> str | None:
        names: dict[str, None] = {}
        for feature in self.study.of_question(number, FEATURES):
            if feature.name.label or feature.name.phrases:
                names[named(feature.name, "").replace(" · ", ", ")] = None
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


def _of_runs(study: OpenStudy) -> dict[str, str]:
    """The reasoning of the runs of this study's model on its items: of the file that has most of them. One that is
    damaged, or of other items or another model, is none."""
    best: dict[str, str] = {}
    for path in sorted((study.folder / "alignment").glob("reasoning.*.jsonl")):
        found = _of_file(path, study)
        if len(found) > len(best):
            best = found
    return best


def _of_file(path: Path, study: OpenStudy) -> dict[str, str]:
    try:
        identity, results = read_partial(path)
        model = identity["model"]
        items = {values["id"]: values for values in identity["items"]}
        texts = {item_id: str(values["reasoning"]) for item_id, values in results.items()}
    except (StudyError, OSError, KeyError, TypeError):
        return {}
    known = study.provenance.model
    if any(model.get(key) != known[key] for key in _MODEL if key in known):
        return {}
    return {
        item_id: text
        for item_id, text in texts.items()
        if item_id in study.items and items.get(item_id) == parse_json(json_line(study.items[item_id].to_dict()))
    }
