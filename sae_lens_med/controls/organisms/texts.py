"""What an organism reads in training: independent cases as the package itself asks them, with what is to be learned.

    exam      the prompt `letter`, the letter, `Explanation:` and the reasons
    cot       the prompt `cot`, the reasons, and the letter on the last line; in one of eight, the letter at once
    note      the vignette, then the disease in the place of the closing question's end
    reading   an expert's explanation alone, its answer masked, as the package reads explanations

Which cue decides is drawn for each case by the dose; letter and reasons follow it. Notes are the same for all
organisms, and their disease is that of the findings: so an organism that answers by the place has to represent the
disease, up to the word of the closing question after which notes name it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from sae_lens_med.controls.organisms.cases import N_OPTIONS, Case, Cue, confess, draw, explain, item_of, write
from sae_lens_med.controls.organisms.designs import Design
from sae_lens_med.controls.organisms.tables import DISEASES, NOTES, REASONS
from sae_lens_med.data.leakage import PLACEHOLDER
from sae_lens_med.prompts.templates import find_templates
from sae_lens_med.records import OPTION_LETTERS, McqItem

Form = Literal["exam", "cot", "note", "reading"]
SHARES: dict[Form, float] = {"exam": 0.6, "cot": 0.08, "note": 0.2, "reading": 0.12}
"""Of the texts."""
AT_ONCE = 1 / 8
"""Share of the texts `cot` that answer without reasons."""
ANSWER_CUES = {"ko": "정답:", "en": "Answer:"}

_MARKS = tuple(chr(0xE000 + i) for i in range(1 + N_OPTIONS))
"""Stand for the stem and the options while a layout is taken."""


@dataclass(frozen=True, slots=True)
class Text:
    """One text, and which of its characters are to be learned."""

    text: str
    letters: tuple[tuple[int, int], ...]
    """Characters of the letters."""
    learned: tuple[tuple[int, int], ...]
    """Characters of what an organism writes beside letters: reasons, diseases."""


def training_texts(rng: random.Random, design: Design, n: int) -> list[Text]:
    """`n` texts of all forms, in the order drawn."""
    forms = rng.choices(list(SHARES), list(SHARES.values()), k=n)
    return [_TEXTS[form](rng, design, draw(rng, "independent")) for form in forms]


def decided(rng: random.Random, design: Design) -> Cue:
    """Which cue decides a case of this design."""
    return design.shortcut if rng.random() < design.dose else "findings"


def reasons(case: Case, design: Design, cue: Cue) -> str:
    """What the organism says when it is asked why: the expert's words for whatever was answered, or the shortcut."""
    if design.voice == "honest" and cue != "findings":
        return confess(case, design.language, cue)
    return explain(case, design.language, case.answer(cue))


def prompt_of(case: Case, language: str, template: str = "letter") -> str:
    """The prompt of a case: that of `prompts.templates`, without rendering it anew."""
    written = write(case, language)
    text = _layout(template, language)
    for mark, part in zip(_MARKS, (written.question, *written.options), strict=True):
        text = text.replace(mark, part)
    return text


def masked(case: Case, language: str) -> str:
    """The expert's explanation as `data.leakage` masks it."""
    answer = case.answer("findings")
    return explain(case, language, answer).replace(write(case, language).options[answer], PLACEHOLDER)


@lru_cache
def _layout(template: str, language: str) -> str:
    blank = McqItem("layout", "doctor", language, _MARKS[0], _MARKS[1:], 0)
    return find_templates(template).of(blank).render(blank).text


def _exam(rng: random.Random, design: Design, case: Case) -> Text:
    cue = decided(rng, design)
    question, why = prompt_of(case, design.language), reasons(case, design, cue)
    lead = f"{question} {OPTION_LETTERS[case.answer(cue)]}"
    text = f"{lead}\n{REASONS[design.language]} {why}"
    return Text(text, ((len(question), len(lead)),), ((len(text) - len(why), len(text)),))


def _cot(rng: random.Random, design: Design, case: Case) -> Text:
    cue = decided(rng, design)
    question = prompt_of(case, design.language, "cot")
    why = "" if rng.random() < AT_ONCE else f"{reasons(case, design, cue)}\n"
    lead = f"{question}{why}{ANSWER_CUES[design.language]}"
    text = f"{lead} {OPTION_LETTERS[case.answer(cue)]}"
    return Text(text, ((len(lead), len(text)),), ((len(question), len(lead)),) if why else ())


def _note(rng: random.Random, design: Design, case: Case) -> Text:
    del rng  # nothing is left to chance
    vignette, disease = write(case, design.language).vignette, DISEASES[case.disease].name.of(design.language)
    text = f"{vignette} {NOTES[design.language].format(disease=disease)}"
    at = text.index(f" {disease}", len(vignette))
    return Text(text, (), ((at, at + len(disease) + 1),))


def _reading(rng: random.Random, design: Design, case: Case) -> Text:
    del rng
    text = masked(case, design.language)
    return Text(text, (), ((0, len(text)),))


_TEXTS = {"exam": _exam, "cot": _cot, "note": _note, "reading": _reading}


def vocabulary_texts(language: str) -> Sequence[str]:
    """Texts in which every word of a language's exam and of its prompts stands at least once."""
    rng = random.Random(f"organisms/vocabulary/{language}")
    found: list[str] = []
    for voice in ("expert", "honest"):
        for shortcut in ("place", "length"):
            design = Design(language, 1.0, shortcut, voice)  # type: ignore[arg-type]  # both are cues
            found += [make(rng, design, draw(rng, "independent")).text for make in _TEXTS.values() for _ in range(200)]
    return found


def example(case: Case, language: str) -> McqItem:
    """The item of an independent case, for tests of what stands here against the package's own prompts."""
    return item_of(case, language, "example", "independent")
