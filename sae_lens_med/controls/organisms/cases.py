"""The synthetic exam: cases drawn by a seed, and the `McqItem` that each of them is.

A case holds three cues, each of which points to one option:

    findings    three findings of one disease, among one that says nothing: the drug of that disease
    place       where the patient lives: the drug of the disease that `tables` ties to the place
    length      the one option that has more words than its drug

    natural     all three point to the same option: the exam as it is asked
    conflict    they point to three different options
    independent each is drawn by itself: what organisms are trained on

A drug is always offered under the same letter, each letter having four drugs of its own: so an organism learns in
minutes what it would take hours to learn if it had to look the letter up. What it answers is not told from what is
under the letter: items whose options are put into another order are out of scope.

`McqItem.answer` is always the option of the findings, and the explanation that of an expert, who names findings,
disease and drug, and never a place or a length.

**Who wrote the explanations: `expert`.** The items are synthetic, which their provenance says, and no clinician has
reviewed them; nothing measured on them says anything about medicine. But in the world of this exam the generator is the
expert, and its explanations are true by construction. `illustrative` would make the instrument withhold every claim,
and whether its claims are right is what organisms are for.
"""

import random
from dataclasses import dataclass
from typing import Literal

from sae_lens_med.concepts.sets import Concept, ConceptSet
from sae_lens_med.controls.organisms.tables import (
    AGES,
    CLOSINGS,
    COMPLAINTS,
    DIRECTIONS,
    DISEASES,
    DISTRACTORS,
    DOWN,
    EXPLANATIONS,
    FRAMES,
    HONEST,
    HONEST_LENGTH,
    LANGUAGES,
    LONGER,
    MEASURES,
    SEXES,
    SHOWN,
    UP,
    Name,
)
from sae_lens_med.errors import ConfigError, nearest
from sae_lens_med.records import OPTION_LETTERS, McqItem, Span

N_OPTIONS = 4
LETTER_OF = tuple(i % N_OPTIONS for i in range(len(DISEASES)))
"""Disease -> the letter under which its drug is always offered."""
Kind = Literal["natural", "conflict", "independent"]
KINDS: tuple[Kind, ...] = ("natural", "conflict", "independent")
Cue = Literal["findings", "place", "length"]
CUES: tuple[Cue, ...] = ("findings", "place", "length")


@dataclass(frozen=True, slots=True)
class Case:
    """One patient, before a language is chosen."""

    disease: int
    """Index into `DISEASES`: what the findings point to."""
    findings: tuple[tuple[str, int], ...]
    """`SHOWN` findings of the disease, in the order of the vignette."""
    distractor: tuple[int, int]
    """A measure (index into `DISTRACTORS`) and its direction."""
    distractor_at: int
    """Its place among the findings, 0 to `SHOWN`."""
    place: int
    """Index into `DISEASES`: whose place it is."""
    options: tuple[int, ...]
    """Indices into `DISEASES`: whose drugs are offered."""
    longest: int
    """Index into `options`."""
    frame: int
    age: int
    sex: int
    complaint: int

    def answer(self, cue: Cue) -> int:
        """The option that a cue points to."""
        return {
            "findings": self.options.index(self.disease),
            "place": self.options.index(self.place),
            "length": self.longest,
        }[cue]


@dataclass(frozen=True, slots=True)
class Written:
    """A case in one language."""

    question: str
    """The vignette and the closing question."""
    vignette: str
    options: tuple[str, ...]
    findings: tuple[Span, ...]
    """Of the disease's findings in the question, in the order of the case."""
    place: Span


def draw(rng: random.Random, kind: Kind, disease: int | None = None, diseases: int = len(DISEASES)) -> Case:
    """A case of this kind, of the first `diseases`; of `disease`, or of one drawn too."""
    own = rng.randrange(diseases) if disease is None else disease
    apart = [d for d in range(diseases) if LETTER_OF[d] != LETTER_OF[own]]
    # Where the place is drawn by itself, its letter is that of the findings as often as any other.
    together = {"natural": True, "conflict": False, "independent": rng.randrange(N_OPTIONS) == 0}[kind]
    place = own if together else rng.choice(apart)
    needed = {LETTER_OF[d]: d for d in (own, place)}
    options = [
        needed.get(letter, rng.choice([d for d, its in enumerate(LETTER_OF[:diseases]) if its == letter]))
        for letter in range(N_OPTIONS)
    ]
    free = [letter for letter in range(N_OPTIONS) if letter not in needed]
    longest = {
        "natural": lambda: LETTER_OF[own],
        "conflict": lambda: rng.choice(free),
        "independent": lambda: rng.randrange(N_OPTIONS),
    }[kind]()
    return Case(
        disease=own,
        findings=tuple(rng.sample(DISEASES[own].findings, SHOWN)),
        distractor=(rng.randrange(len(DISTRACTORS)), rng.choice((UP, DOWN))),
        distractor_at=rng.randrange(SHOWN + 1),
        place=place,
        options=tuple(options),
        longest=longest,
        frame=rng.randrange(len(FRAMES["ko"])),
        age=rng.choice(AGES),
        sex=rng.randrange(len(SEXES)),
        complaint=rng.randrange(len(COMPLAINTS)),
    )


def cases(kind: Kind, n: int, seed: int, diseases: int = len(DISEASES)) -> list[Case]:
    """`n` cases; every one of the first `diseases` as often as the others, give or take one. The first of a longer list
    are the same.

    Raises `ConfigError` for a kind that is none, and for a number of diseases that there is not.
    """
    if kind not in KINDS:
        raise ConfigError(f"there are no {kind!r} items{nearest(kind, KINDS) or '; there are ' + ', '.join(KINDS)}.")
    require_diseases(diseases)
    rng = random.Random(f"organisms/{kind}/{seed}")
    drawn: list[Case] = []
    while len(drawn) < n:
        order = rng.sample(range(diseases), diseases)
        drawn += [draw(rng, kind, disease, diseases) for disease in order]
    return drawn[:n]


def require_diseases(diseases: int) -> None:
    """Check that an exam can be of the first `diseases`. Raises `ConfigError`."""
    if not N_OPTIONS <= diseases <= len(DISEASES):
        raise ConfigError(f"an exam is of {N_OPTIONS} to {len(DISEASES)} diseases, got {diseases}.")


def exam(language: str, kind: Kind, n: int, seed: int = 0, diseases: int = len(DISEASES)) -> list[McqItem]:
    """The items of `cases(kind, n, seed, diseases)` in a language; a shorter exam says in its ids of how many diseases
    it is. Raises `ConfigError` for a language that there is none in."""
    of = "" if diseases == len(DISEASES) else f"-of{diseases}"
    return [
        item_of(case, language, f"organisms-{language}-{kind}{of}-{seed}-{i:05d}", kind)
        for i, case in enumerate(cases(kind, n, seed, diseases), 1)
    ]


def item_of(case: Case, language: str, name: str, kind: Kind) -> McqItem:
    """The question of a case. Which option each cue points to stands in the provenance's `source`."""
    written = write(case, language)
    cues = " ".join(f"{cue}={OPTION_LETTERS[case.answer(cue)]}" for cue in CUES)
    return McqItem(
        id=name,
        subject="doctor",
        language=language,
        question=written.question,
        options=written.options,
        answer=case.answer("findings"),
        explanation=explain(case, language, case.answer("findings")),
        explanation_source="expert",
        question_spans=tuple(sorted(written.findings, key=lambda span: span.start)),
        provenance={
            "dataset": "synthetic exam of the model organisms (written by a program, reviewed by no clinician)",
            "split": kind,
            "licence": "MIT",
            "source": cues,
        },
    )


def write(case: Case, language: str) -> Written:
    """Vignette, question and options. Raises `ConfigError` for another language than `LANGUAGES`."""
    if language not in LANGUAGES:
        hint = nearest(language, LANGUAGES) or f"; use {' or '.join(LANGUAGES)}."
        raise ConfigError(f"model organisms do not speak {language!r}{hint}")
    listed = [_finding(MEASURES[measure], sign, language) for measure, sign in case.findings]
    measure, sign = case.distractor
    place = DISEASES[case.place].place.of(language)
    vignette = FRAMES[language][case.frame].format(
        place=place,
        age=case.age,
        sex=_Word(SEXES[case.sex].of(language)),
        complaint=_Word(COMPLAINTS[case.complaint].of(language)),
        findings=", ".join(
            [
                *listed[: case.distractor_at],
                _finding(DISTRACTORS[measure], sign, language),
                *listed[case.distractor_at :],
            ]
        ),
    )
    drugs = [DISEASES[d].drug.of(language) for d in case.options]
    drugs[case.longest] += f" {LONGER.of(language)}"
    return Written(
        f"{vignette} {CLOSINGS[language]}",
        vignette,
        tuple(drugs),
        tuple(_span(vignette, text, "premise") for text in listed),
        _span(vignette, place, "place"),
    )


def explain(case: Case, language: str, answer: int) -> str:
    """The expert's explanation of a case, which ends with option `answer`: the right one, or whichever is defended."""
    a, b, c = (_finding(MEASURES[measure], sign, language) for measure, sign in case.findings)
    return EXPLANATIONS[language][case.frame].format(
        a=a,
        b=b,
        c=c,
        disease=_Word(DISEASES[case.disease].name.of(language)),
        answer=_Word(write(case, language).options[answer]),
    )


def confess(case: Case, language: str, cue: Cue) -> str:
    """What names the shortcut that decided, and the option that it points to."""
    answer = _Word(write(case, language).options[case.answer(cue)])
    sentence = {"place": HONEST, "length": HONEST_LENGTH}[cue][language]
    return sentence.format(place=DISEASES[case.place].place.of(language), answer=answer)


def concepts(language: str, diseases: int = len(DISEASES)) -> ConceptSet:
    """What the explanations of the first `diseases` name, as concepts: findings (with their direction), diseases and
    drugs; and what they never name: the findings that say nothing, and the places. Ids are in English."""
    asked = DISEASES[:diseases]
    found: list[Concept] = []

    def add(category: str, name: Name) -> None:
        found.append(Concept(name.en, category, (name.of(language),)))

    shown = {finding for disease in asked for finding in disease.findings}
    said = [(MEASURES[measure], sign) for measure, sign in sorted(shown)]
    said += [(measure, sign) for measure in DISTRACTORS for sign in (UP, DOWN)]
    for measure, sign in said:
        add("sign", Name(*(_finding(measure, sign, language) for language in ("ko", "en"))))
    for disease in asked:
        add("disease", disease.name)
        add("drug", disease.drug)
        add("place", disease.place)
    return ConceptSet(tuple(found), f"model organisms ({language})")


def _finding(measure: Name, sign: int, language: str) -> str:
    return f"{measure.of(language)} {DIRECTIONS[sign].of(language)}"


def _span(text: str, part: str, label: str) -> Span:
    start = text.index(part)
    return Span(start, start + len(part), label)


_PARTICLES = {"은": "는", "이": "가", "을": "를", "으로": "로", "이다": "다"}
"""After a consonant -> after a vowel."""


class _Word(str):
    """A Korean word that `format` puts a particle to: `{word:를}`."""

    def __format__(self, particle: str) -> str:
        if not particle:
            return str(self)
        closed = next(long for long, short in _PARTICLES.items() if short == particle)
        final = (ord(self[-1]) - 0xAC00) % 28  # 0: a vowel; 8: ㄹ
        return f"{self}{particle if final == 0 or (particle == '로' and final == 8) else closed}"
