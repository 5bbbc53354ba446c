"""Which part of an exam question each token of a pair belongs to, so that nodes add up over questions.

    stem, changed           tokens of the question that both texts share, and those in which they differ
    option:ROLE, end:ROLE   the text of an option, and its last token, where an option's content is gathered
    letter:ROLE             the letter before it
    scaffold, slot          the rest of the layout, special tokens among it, and the last token, before the answer

ROLE is `answer` (right in the clean text), `other` (right in the other text) or `wrong`: which letter an option has
differs from question to question.
"""

from collections.abc import Sequence

from sae_lens_med.circuits.pairs import SLOT
from sae_lens_med.records import OPTION_LETTERS, PARTS, Prompt


def question_parts(prompt: Prompt, other: Sequence[int], answer: int, other_answer: int) -> tuple[str, ...]:
    """The part of each token of `prompt`, the clean text; `other` are the other text's tokens, `answer` and
    `other_answer` the options that are right in each."""
    found = []
    for token, theirs, part in zip(prompt.token_ids, other, prompt.token_parts, strict=True):
        name = "stem" if PARTS[part] == "stem" else "scaffold"
        found.append("changed" if name == "stem" and token != theirs else name)
    for span in prompt.part_spans:
        letter = span.label.removeprefix("option:")
        if letter == span.label:
            continue
        place = OPTION_LETTERS.index(letter)
        role = "answer" if place == answer else "other" if place == other_answer else "wrong"
        own = _touching(prompt, span.start, span.end)
        at = prompt.text.rfind(letter, 0, span.start)
        for t in _touching(prompt, at, at + 1):
            found[t] = f"letter:{role}"
        for t in own:
            found[t] = f"option:{role}"
        if own:
            found[own[-1]] = f"end:{role}"
    found[-1] = SLOT
    return tuple(found)


def _touching(prompt: Prompt, start: int, end: int) -> list[int]:
    return [t for t, (a, b) in enumerate(prompt.char_spans) if a < end and b > start]
