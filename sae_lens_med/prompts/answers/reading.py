"""The reading of a person: the option that a generated text answers, or the reason why it answers none."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sae_lens_med.errors import DataError
from sae_lens_med.prompts.answers.corrections import corrected
from sae_lens_med.prompts.answers.folding import fold, own_turn, without_thinking
from sae_lens_med.prompts.answers.next_question import next_questions
from sae_lens_med.prompts.answers.statements import Claim, claims, grammar_of
from sae_lens_med.prompts.answers.targets import Options, options_of
from sae_lens_med.records import OPTION_LETTERS, NoAnswerReason

_NO_OPTION: frozenset[int] = frozenset()

# Between two statements of one line: the second takes the first back, or concludes.
_TURN = re.compile(
    r"아니(?:다|요)?[,.\s]|다시|정정|수정|재검토|잠깐|따라서|그러므로|결론|결국|최종|으나|지만|그러나|실제|사실은|오히려"
    r"|→|->|⇒"
    r"|(?i:\b(?:wait|actually|correction|corrected|no,|rather|second thought|therefore|thus|hence|so|finally?"
    r"|but(?! (?:there|also|maybe|perhaps|possibly|could|might))"
    r"|however|instead|in fact|chang\w{1,3} (?:my|the)|revis\w{1,4}|edit)\b)"
)
# After the second one: it joins the first.
_ALSO = re.compile(r"번?\)?(?:도(?![가-힣])| (?:(?:is|are|would be) )?also\b|,? (?:too|as well)\b)")
_REFUSAL = re.compile(
    r"(?:정답|답|문제|질문|요청)[^.\n]{0,25}?(?:수(?:는|가)? 없|모르|불가능|어렵습니다)"
    r"|(?:답변|대답|답|도움|도와|말씀)[^.\n]{0,10}?(?:드릴|할|줄) ?수(?:는|가)? ?없"
    r"|모르겠|응할 수 없"
    r"|(?:의학적|의료)[^.\n]{0,15}?(?:조언|진단|상담|자문)[^.\n]{0,15}?(?:수(?:는|가)? ?없|않습니다)"
    r"|(?:의사|전문의|전문가|의료진|병원)[와과에의][^.\n]{0,15}?(?:상담|진료|문의)[^.\n]{0,8}?(?:하세요|하시기|하십|바랍니다|권장|받으)"
    r"|(?i:\bi(?: am|m)? (?:sorry|unable|cannot|cant|can not|not able|do not know|dont know)\b"
    r"|\b(?:as an ai|not a (?:doctor|physician|medical professional)|cannot (?:provide|answer|determine|assist|help))\b"
    r"|\bconsult (?:a|your|with) (?:a )?(?:doctor|physician|healthcare|medical|qualified))"
)
_LABEL = re.compile(
    r"\(?(?:(?:보기|선택지|선지|옵션|(?i:option|choice)) ?)?"
    r"(?:([A-Z])(?=번?[.):, ])|([a-z])(?=[.):]| [–-] )|([1-9]\d?)(?=번?[.):, ]))"
)


@dataclass(frozen=True, slots=True)
class Extraction:
    """A letter, or the reason why there is none: exactly one of the two."""

    letter: str | None
    """`A` ..., within the item's options."""
    reason: NoAnswerReason | None

    def __post_init__(self) -> None:
        if (self.letter is None) == (self.reason is None):
            raise DataError(f"an extraction needs a letter or a reason, got {self.letter!r} and {self.reason!r}.")


def strict(text: str, options: Sequence[str], *, truncated: bool = False) -> Extraction:
    """The option that `text` answers as a person would read it, or the reason why it answers none.

    Args:
        text: what the model generated, without the prompt.
        options: the texts of the item's 2 to 26 options, in order.
        truncated: the text was cut off by the token limit.

    Returns a letter within the options, or `ambiguous` (several options claimed, none finally), `refused`, `truncated`
    (cut off before an explicit statement, or inside a thinking block) or `no_answer`. Raises `DataError` for fewer
    than 2 or more than 26 options.
    """
    known = options_of(tuple(options))
    answer, thinking = without_thinking(text)
    if thinking and not answer:
        return Extraction(None, "truncated")
    if (own := own_turn(answer)) is not None:
        answer, truncated = own, False
    read = corrected(known.marked(fold(answer)), known.last)
    begin = 0
    for following in next_questions(read):
        part = read[begin : following.start()]
        found = _read(part, known, truncated=False)
        if found or following["prompt"]:
            return _extraction(found, part, truncated=False)
        begin = following.start()
    return _extraction(_read(read, known, truncated=truncated), read, truncated=truncated)


def _extraction(found: frozenset[int], read: str, *, truncated: bool) -> Extraction:
    if len(found) == 1:
        return Extraction(OPTION_LETTERS[next(iter(found))], None)
    if found:
        return Extraction(None, "ambiguous")
    if _REFUSAL.search(read):
        return Extraction(None, "refused")
    return Extraction(None, "truncated" if truncated else "no_answer")


def _read(read: str, known: Options, *, truncated: bool) -> frozenset[int]:
    """The options that a folded, marked text answers: one, several (ambiguous) or none."""
    explicit = claims(read, known, "explicit")
    if explicit:
        return _decided(read, explicit)
    by_line = _answer_line(read, known, truncated=truncated)
    if by_line or truncated:
        return by_line
    opinions = claims(read, known, "opinion")
    return _NO_OPTION.union(*(claim.options for claim in opinions))


def _decided(read: str, found: list[Claim]) -> frozenset[int]:
    """What the last line with a statement says, after its last turn; a list of statements decides nothing."""
    last = [found[-1]]
    for claim in reversed(found[:-1]):
        between = read[claim.end : last[-1].start]
        if "\n" in between or (_TURN.search(between) and not _ALSO.match(read, last[-1].end)):
            break
        last.append(claim)
    decided = _NO_OPTION.union(*(claim.options for claim in last))
    return decided | _listed(read, found)


def _listed(read: str, found: list[Claim]) -> frozenset[int]:
    """The options of three or more statements at the end that stand on lines of their own, one below the other."""
    run = [found[-1]]
    for claim in reversed(found[:-1]):
        between = read[claim.end : run[-1].start]
        if between.strip(" .").count("\n") != 1 or _TURN.search(between):
            break
        run.append(claim)
    named = _NO_OPTION.union(*(claim.options for claim in run))
    return named if len(named) > 2 else _NO_OPTION


def _answer_line(read: str, known: Options, *, truncated: bool) -> frozenset[int]:
    """What the first or the last line answers, where that line is nothing but an answer and lists no options."""
    grammar = grammar_of(known.n)
    lines = [line for line in read.split("\n") if line]
    if not lines:
        return _NO_OPTION
    answers = {
        number: known.named(match["target"])
        for number, line in enumerate(lines)
        if (match := grammar.line.fullmatch(line)) and not _in_a_list(lines, number)
    }
    first, last = answers.get(0, _NO_OPTION), answers.get(len(lines) - 1, _NO_OPTION)
    if truncated:
        # The line that was cut off may have gone on: "B" is an answer, "A. 폐렴" may begin a list.
        complete = len(lines) > 1 or len(lines[0].strip("(). ")) == 1
        return first if complete else _NO_OPTION
    if first or last:
        return _NO_OPTION.union(*answers.values())
    opening = grammar.opening.match(lines[0])
    if opening and not _in_a_list(lines, 0) and not grammar.opening.search(lines[0], opening.end()):
        return known.named(opening[0])
    return _NO_OPTION


def _in_a_list(lines: list[str], number: int) -> bool:
    """Whether a labelled line stands before the next label or after the one before it: A. ... B. ..."""

    def label(at: int) -> int | None:
        match = _LABEL.match(lines[at]) if 0 <= at < len(lines) else None
        if match is None:
            return None
        return int(match[3]) - 1 if match[3] else OPTION_LETTERS.index((match[1] or match[2]).upper())

    own = label(number)
    return own is not None and (label(number + 1) == own + 1 or (own > 0 and label(number - 1) == own - 1))
