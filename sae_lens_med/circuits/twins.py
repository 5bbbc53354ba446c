"""Pairs for model organisms, whose mechanism is known: one cue of a synthetic case points to another option.

    findings   three findings of another disease: what an organism that answers by findings follows
    place      another patient's place: what one that answers by the shortcut follows

Everything else of the case stays, letters too (an organism's drug has one letter), so that `relabel` and `swap` are not
for them. The gate admits a twin on its own cue and refuses it on the other: the positive and the negative control of
this room. Which tokens are of the cue is known, too (`OrganismPairs.at`).

Out of scope: the length of options.
"""

import random
from dataclasses import dataclass, replace
from itertools import permutations
from typing import TYPE_CHECKING, Literal

from sae_lens_med.circuits.pairs import Pair
from sae_lens_med.circuits.parts import question_parts
from sae_lens_med.controls.organisms.cases import SHOWN, Case, cases, item_of, write
from sae_lens_med.controls.organisms.tables import DISEASES
from sae_lens_med.errors import DataError
from sae_lens_med.prompts.tokens import question_prompt
from sae_lens_med.records import McqItem, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TwinCue = Literal["findings", "place"]
CUES: tuple[TwinCue, ...] = ("findings", "place")
SEED = 7_000
"""Of cases that no organism was trained or checked on."""


@dataclass(frozen=True, slots=True)
class OrganismPairs:
    """Pairs, and where their cue stands."""

    pairs: tuple[Pair, ...]
    at: tuple[tuple[int, ...], ...]
    """The tokens of the cue in each."""
    items: tuple[McqItem, ...]
    """The clean questions, with their explanations, under the ids of the pairs."""


def organism_pairs(
    tokenizer: "PreTrainedTokenizerBase", language: str, cue: TwinCue, n: int, seed: int = 0
) -> OrganismPairs:
    """`n` pairs whose two texts are equally long. Raises `DataError` where too few are."""
    rng = random.Random(f"circuits/{cue}/{seed}")
    found: list[Pair] = []
    at: list[tuple[int, ...]] = []
    items: list[McqItem] = []
    for number, case in enumerate(cases("conflict", 40 * n, SEED + seed)):
        if len(found) == n:
            return OrganismPairs(tuple(found), tuple(at), tuple(items))
        free = [d for d in case.options if d not in (case.disease, case.place)]
        clean = _prompt(case, language, tokenizer)
        for other in _changed(case, rng.choice(free), cue, rng):
            edited = _prompt(other, language, tokenizer)
            if len(edited.token_ids) == len(clean.token_ids):
                letters, places = clean.letter_token_ids, (case.answer(cue), other.answer(cue))
                found.append(
                    Pair(
                        f"{cue}-{number}", "fact", clean.token_ids, edited.token_ids, letters[places[0]],
                        letters[places[1]], letters, parts=question_parts(clean, edited.token_ids, *places),
                    )
                )  # fmt: skip
                at.append(_tokens(clean, case, language, cue))
                items.append(item_of(case, language, f"{cue}-{number}", "conflict"))
                break
    if len(found) == n:
        return OrganismPairs(tuple(found), tuple(at), tuple(items))
    raise DataError(f"only {len(found)} of {n} pairs have texts of one length with this tokenizer; ask for fewer.")


def _changed(case: Case, disease: int, cue: TwinCue, rng: random.Random) -> list[Case]:
    if cue == "place":
        return [replace(case, place=disease)]
    ways = list(permutations(DISEASES[disease].findings, SHOWN))
    rng.shuffle(ways)
    return [replace(case, disease=disease, findings=findings) for findings in ways]


def _prompt(case: Case, language: str, tokenizer: "PreTrainedTokenizerBase") -> Prompt:
    return question_prompt(item_of(case, language, "organism", "conflict"), tokenizer)


def _tokens(prompt: Prompt, case: Case, language: str, cue: TwinCue) -> tuple[int, ...]:
    written = write(case, language)
    spans = written.findings if cue == "findings" else (written.place,)
    start = next(span.start for span in prompt.part_spans if span.label == "stem")
    return tuple(
        i
        for i, (a, b) in enumerate(prompt.char_spans)
        if any(a < span.end + start and b > span.start + start for span in spans)
    )
