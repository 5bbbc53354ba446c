r"""Generated text -> the option letter that it answers, or the reason why there is none.

Two readings of the same text, reported side by side:

- `paper`: the cascade of the KorMedMCQA paper (arXiv 2403.01469, appendix B) as lm-evaluation-harness 0.4.13 runs it.
  Kept with its faults, so that numbers compare with published ones.
- `strict`: what a person would read as the answer, and none where a person would read none.

How `strict` reads:

1. The text is folded: NFKC, thinking blocks and markup removed, brackets made round, ③ made "(3)". What follows an
   end-of-turn mark, or the next question that a base model invents, is not read.
2. Each option text in it becomes one private character, so that "정답: 비타민 A" holds an option and no letter A.
   Letters that name something else (hepatitis B, A형, C-반응단백, E. coli) are no options either.
3. `_RULES` find statements, each with its target: a letter, a number, an option text, or several of them. A target
   that is denied ("A가 아니라", "not A"), asked ("A일까?") or supposed ("A라면") states nothing.
4. Explicit statements ("정답: B", "the answer is B", "따라서 B이다") come first, and of these the last line that has
   one; then a first or last line that is nothing but an answer; then opinions ("B가 가장 적절하다") that agree.

Decisions: a letter beside the text of another option ("정답: B. <text of C>") is `ambiguous`, as are several letters
without a line that settles it. A number is the option's position, unless it is itself the text of an option and
stands without 번, circle or brackets. Parentheses at the end of an option, "항핵항체(ANA)", may be missing or stand
alone. ㉠ and ㄱ are no options: exams number statements of the stem with them. A text that was cut off answers only by
an explicit statement, or by a first line that is complete. A closed thinking block is never read.

Own code: lm-evaluation-harness' extractors are regular expressions that know neither denied, asked and supposed answers
nor, beyond the paper's cascade, Korean ones.

Out of scope: paraphrases and translations of an option's text; ordinals ("두 번째 보기"); whether the question asks for
the wrong statement ("A가 옳지 않다" is no answer, though it may be what a question about the false statement wants).
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from sae_lens_med.errors import DataError
from sae_lens_med.records import OPTION_LETTERS, NoAnswerReason


@dataclass(frozen=True, slots=True)
class Extraction:
    """A letter, or the reason why there is none: exactly one of the two."""

    letter: str | None
    """`A` ..., within the item's options."""
    reason: NoAnswerReason | None

    def __post_init__(self) -> None:
        if (self.letter is None) == (self.reason is None):
            raise DataError(f"an extraction needs a letter or a reason, got {self.letter!r} and {self.reason!r}.")


# --- the paper's cascade --------------------------------------------------------------------------------------------

_PAPER = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (r"정답[:\s]*([ABCDE])", r"정답은\s*([ABCDE])\s*입니다", r"\b([ABCDE])\.", r"\b([ABCDE])\b")
)


def paper(text: str) -> str | None:
    r"""The letter by the paper's cascade: the last match of the first pattern that matches, upper-cased; else None.

    Equal to `lm_eval.tasks.kormedmcqa.utils.extract_choice` of lm-evaluation-harness 0.4.13, whose "" is None here.
    Known faults, kept: "정답：B" (full-width colon) misses the first two patterns, so that a later "A." wins; Hangul
    counts as a word character, so that "답은 B이다" and "B번" give nothing; the English article "a" is read as A;
    "정답: E. coli" gives E, "정답: because" gives B; letters past E are never read.
    """
    for pattern in _PAPER:
        found = pattern.findall(text)
        if found:
            return found[-1].upper()
    return None


# --- folding: one way to write each thing ---------------------------------------------------------------------------

_THINKING = re.compile(
    r"(?P<open><(?:think|thinking|thought|reasoning)>|◁think▷)"
    r"|(?P<close></(?:think|thinking|thought|reasoning)>|◁/think▷|assistantfinal|<\|channel\|>final<\|message\|>)",
    re.IGNORECASE,
)
_END_OF_TURN = re.compile(r"<\|(?:im_end|endoftext|eot_id|end|return|end_of_text)\|>|</s>|<eos>|<end_of_turn>")


def _circled() -> dict[int, str]:
    """① ❶ ➀ ➊ ⓵ -> "(1)", Ⓐ ⓐ 🅐 🅰 -> "(A)": NFKC would lose the circle, or keep the character."""
    first_digits, first_letters = (0x2460, 0x2776, 0x2780, 0x278A, 0x24F5), (0x24B6, 0x24D0, 0x1F150, 0x1F170)
    digits = {first + i: f"({i + 1})" for first in first_digits for i in range(10)}
    return digits | {first + i: f"({letter})" for first in first_letters for i, letter in enumerate(OPTION_LETTERS)}


_OPTION_MARK = 0xE000
_OTHER_MARK = "\ue0ff"
_REMOVED = "\"'“”‘’„«»`*_$\u00ad\u200b\u200c\u200d\u2060\ufeff\ufe0f" + "".join(map(chr, range(0xE000, 0xE100)))
_BEFORE_NFKC = _circled() | dict.fromkeys(map(ord, _REMOVED))
_BRACKETS = str.maketrans("[]{}【】「」『』《》〈〉〔〕", "()" * 8)
_MARKUP = (
    (re.compile(r"([0-9])\u20e3"), r"(\1)"),  # keycaps
    (re.compile(r"\r\n?|<br ?/?>"), "\n"),
    (re.compile(r"\\[\[\]()]"), " "),  # LaTeX display and inline mathematics
    (re.compile(r"<final_?answer>|<answer>", re.IGNORECASE), "\nAnswer: "),
    (re.compile(r"</?(?:b|strong|i|em|u|p|span|div|mark|center|sub|sup|h[1-6]|answer|finalanswer) ?>"), ""),
)
_LATEX_FONT = re.compile(r"\\(?:text|mathrm|mathbf|mathsf|bf|rm)[a-z]{0,8} ?\(([^()\n]{0,300})\)")
_LINE_START = re.compile(r"^[ #>•▶►●◆■□▪‣·✅✔☑➡→⇒\-]+", re.MULTILINE)
_SPACE = ((re.compile(r"[^\S\n]+"), " "), (re.compile(r" ?\n ?"), "\n"), (re.compile(r"\n{3,}"), "\n\n"))
_EDGE = " .,;:!?。"


def _without_thinking(text: str) -> tuple[str, bool]:
    """The text outside thinking blocks, and whether the last block is still open.

    A close without an open ends a block that the prompt opened: all before it was thinking.
    """
    kept: list[str] = []
    thinking, position = False, 0
    for mark in _THINKING.finditer(text):
        if not thinking:
            kept.append(text[position : mark.start()])
        if mark["close"] and not thinking:
            kept.clear()
        thinking, position = mark["open"] is not None, mark.end()
    if not thinking:
        kept.append(text[position:])
    return "\n".join(kept).strip(), thinking


def _fold(text: str) -> str:
    """One form for width, quotes, brackets, markup and white space; at most one blank line in a row."""
    text = unicodedata.normalize("NFKC", text.translate(_BEFORE_NFKC)).translate(_BEFORE_NFKC)
    for pattern, plain in _MARKUP:
        text = pattern.sub(plain, text)
    text = text.translate(_BRACKETS)
    for _ in range(2):  # fonts within fonts
        text = _LATEX_FONT.sub(r"\1", text)
    for pattern, plain in (*_SPACE, (_LINE_START, ""), *_SPACE[1:]):
        text = pattern.sub(plain, text)
    return text.strip()


# --- targets: what a statement can claim ----------------------------------------------------------------------------

_M = f"[{chr(_OPTION_MARK)}-{chr(_OPTION_MARK + 25)}]"
# What may follow a letter, number or option text within its word: particles that end the word, and forms of 이다.
_COPULA = (
    "(?:입니|이다|이며|이고|이므로|이라|라고|라는|라면|이에요|예요|에요|이죠|죠|이지|지만|이었|였|인데|인가|인지|일까|이란|란"
    "|로서|으로서)"
)
_AFTER = (
    "(?=번?(?:(?:은|는|이|가|을|를|로|으로|와|과|도|만|의|나|이나|다|임|인|일)?(?![가-힣])|"
    rf"{_COPULA}))"
)
_AFTER_NUMBER = rf"(?=번|(?:은|는|이|가|을|를|로|으로|임)?(?![가-힣])|{_COPULA})"
_NOT_UNIT = (
    r"(?!\d|[.,~–-]\d| ?[%~°℃]| (?:개|일|주|시간|년|회|세|분|명|가지|단계|배|도)(?![가-힣])|번(?:째|씩)"
    r"| ?(?:m?c?g|kg|ug|m?l|dl|[cm]?m|iu|hours?|days?|weeks?|months?|years?|times|units?)\b)"
)
# E. coli is a germ, not option E.
_NOT_SPECIES = (
    r"(?!\. ?(?:coli|difficile|albicans|aureus|cereus|fragilis|baumannii|anthracis|pertussis|burgdorferi|henselae"
    r"|botulinum|tetani|perfringens|trachomatis|diphtheriae|jejuni|pneumoniae|neoformans|faecalis|faecium|histolytica"
    r"|lumbricoides|fumigatus|dermatitidis|immitis|burnetii|psittaci|cloacae|granulosus)\b)"
)
# "A patient" is no answer, "A because" is.
_NOT_ARTICLE = r"(?! (?!because|since|as|and|or|is|are|due|for|in|but|not|which|given|would|must|seems|should)[a-z0-9])"
# Words whose letter names something: vitamin A, hepatitis B, protein C.
_NAMED_LETTER = re.compile(
    r"((?:비타민|간염|인플루엔자|타입|단백질?|프로테인|면역글로불린|트로포닌|사이클로스포린|시클로스포린|아밀로이드|독소"
    r"|코엔자임|페니실린|암포테리신|혈우병|인자|환자|그룹|집단"
    r"|\b(?i:vitamin|hepatitis|influenza|type|group|grade|stage|class|factor|protein|immunoglobulin|troponin"
    r"|cyclosporine?|amyloid|toxin|coenzyme|penicillin|amphotericin|ha?emophilia|child-pugh|patient|drug))[ -]?)"
    r"[A-Z](?![A-Za-z0-9])"
)
# An option text beside a letter belongs to it only where the statement ends with it.
_TEXT_ENDS = (
    r"(?=\)| ?[.,;:!(\n–-]| ?$|입니|이다|다(?![가-힣])|임|이?며|이?므로|이?라|(?:이|가|을|를|로|으로)(?![가-힣])"
    r"| (?:is|as|because|since)\b)"
)
_BETWEEN = r"(?: ?(?:,(?: ?(?:and|or)\b)?|/|·|&|및|와|과|또는|혹은|이나|나(?= )|and\b|or\b) ?|(?=\())"


def _target(last: str, *, slot: bool) -> str:
    """The pattern of one option, or of several in a list: letters up to `last`, numbers, option texts.

    In an answer slot ("정답: ") small letters and plain numbers count; in running prose a number needs 번 or brackets.
    """
    left = r"(?<![A-Za-z0-9])(?<![A-Za-z0-9][-–+])"
    right = rf"(?![A-Za-z0-9])(?![-–+][A-Za-z0-9가-힣])(?!/(?![A-{last}](?![A-Za-z]))\w){_NOT_SPECIES}{_AFTER}"
    letter = rf"{left}(?:[B-{last}]|A{_NOT_ARTICLE}){right}"
    number = rf"(?<![\w.,])[1-9]\d?{_NOT_UNIT}{_AFTER_NUMBER}"
    if slot:
        letter += rf"|{left}[a-{last.lower()}](?=[ )]?(?:[.)]|$|\n|번|입니다|이다)){right}"
    else:
        number = rf"(?<=\(){number}(?=번?\))|{number}(?=번)"
    one = rf"(?:{letter}|{number})번?"
    text_after = rf"[ .):=(–-]{{0,4}}{_M}{_TEXT_ENDS}\)?"
    single = rf"(?:(?:\( ?)?{one}(?: ?\)번?)?(?:{text_after})?|\(?{_M}\)?(?: ?\(? ?{one} ?\))?)"
    return rf"{single}(?:{_BETWEEN}{single}(?!은|는| is\b)){{0,25}}"


# --- statements -----------------------------------------------------------------------------------------------------

_SLOT, _PROSE = "<slot>", "<prose>"  # in the rules: a target in an answer slot, a target in running prose

# After a target: denied, asked or supposed.
_NOT_CLAIMED = (
    r"(?!번?\)?(?:이|가|은|는|도)? ?(?:바로 )?(?:정답|답)?(?:이|은|일|인)? ?"
    r"(?:아니|아닙|아님|아닌|아닐|않|없|라면|까(?![가-힣])|것 같지만|것처럼|수(?:는|가|도)? ?[없있]"
    r"|(?:이다|[가지])?\?))(?! (?:(?:is|are|was|would be) (?:not|in|un)|(?:is|are)nt\b))"
)
# After an opinion: the sentence takes it back.
_NOT_TAKEN_BACK = r"(?![^.\n]{0,12}?(?:않|아니|아닌|지만|없|으나|는지|다면|라면|으면|까|수 있|\bif\b))"
_KO_END = (
    r"(?=\)?(?: ?\([^()\n]{1,60}\))? ?(?:입니다|이다|다(?![가-힣])|임(?![가-힣])|이?에요|예요|이?죠"
    r"|(?:이?라고|로|으로) ?(?:판단|생각|결정|추정|진단|보|볼|선택|결론|할)"
    r"|[.!](?:\s|$)|\n|$|[이가을를] (?:정답|답|맞|선택)))"
)
_EN_END = r"(?=\)? ?(?:[.!](?:\s|$)|\n|$|\(|,? (?:because|since|as|due)\b))"

_KO_ANSWER = r"(?<![가-힣])(?:(?:최종|올바른|옳은|맞는|가장 적절한|예상) ?)?(?:정답|해답|답안|답변|답|answer)"
_KO_FILLER = (
    r"(?:(?:바로|아마도?|결국|역시|당연히|보기|선택지|선지|옵션|문항|번호|다음과 같(?:습니다|다|이)[.:]?|option"
    rf"|(?:{_M}|[A-Z]|\d)번?[이가] 아니[라고],?)[ \n]{{0,2}}){{0,3}}"
)
_EN_ANSWER = (
    r"(?<!\bif )(?<!\bif the )\b(?:(?:correct|best|right|final|most appropriate|appropriate) "
    r"(?:answer|choice|option|response|one|letter)|answer|correct(?= is|:))(?: (?:choice|option|letter|number))?"
)
_EN_FILLER = (
    r"(?:(?:therefore|thus|clearly|definitely|most likely|likely|probably|indeed|option|choice|letter|answer|number"
    rf"|the)\b[,:]? ?|an? (?={_M})){{0,3}}"
)
_IS = r" (?:is|would be|should be|must be|will be|has to be|seems to be|was)\b:? ?"

_RULES: tuple[tuple[Literal["explicit", "opinion"], str], ...] = (
    # 정답: B / 정답 B / (정답) B / 정답\n\nB / 정답 및 해설\nB
    (
        "explicit",
        rf"{_KO_ANSWER}(?: ?번호)?(?: ?(?:및|과) ?(?:해설|풀이|이유|근거))?\)?[은는이]? ?[:=→➡⇒>–-]{{0,3}}\s{{0,3}}"
        rf"{_KO_FILLER}{_SLOT}",
    ),
    # 선택: B / 결론: B, where the colon is needed
    ("explicit", rf"(?<![가-힣])(?:최종 ?)?(?:선택|결론|결정)\)? ?[:=→]\s{{0,3}}{_KO_FILLER}{_SLOT}"),
    # 정답은 B입니다 / 정답을 B로 / 정답으로 B를
    ("explicit", rf"{_KO_ANSWER}(?: ?(?:선택지|보기|번호))?(?:은|는|이|을|를|으로는|으로) ?{_KO_FILLER}{_SLOT}"),
    # B가 정답입니다 / B 선택지가 답이다
    (
        "explicit",
        rf"{_SLOT}(?:(?: ?(?:보기|선택지|선지|옵션))?[이가은는만]| (?:모두|둘 다)) ?(?:바로 )?(?:최종 )?"
        r"(?:정답|답(?=[이입임.]))",
    ),
    # \boxed{B}
    ("explicit", rf"\\boxed ?\( ?{_SLOT}"),
    # Answer: B / the correct option is (B) / answer B
    ("explicit", rf"(?i:{_EN_ANSWER}(?:\)? ?[:=→>–-]{{1,3}}\s{{0,3}}|{_IS}|\n{{1,2}}| ){_EN_FILLER}){_SLOT}"),
    # B is the correct answer
    (
        "explicit",
        rf"{_PROSE} (?:is|are|would be|must be|should be) (?:(?:therefore|thus|clearly|probably|likely) )?the "
        r"(?:(?:correct|best|right|most appropriate) )?(?:answer|choice|option)",
    ),
    # 따라서 B / 따라서 이 환자의 진단은 폐렴이다
    (
        "explicit",
        r"(?:따라서|그러므로|결론적으로|결국|그래서|종합하면|∴)(?:,? ?|[^.\n]{0,60}?(?:은|는|이|,) )"
        rf"{_KO_FILLER}{_PROSE}{_KO_END}",
    ),
    # Therefore, B / thus the diagnosis is B
    (
        "explicit",
        r"(?i:\b(?:therefore|thus|hence|so|in conclusion|consequently)\b,? ?(?:[^.\n]{0,60}?\b(?:is|be|are) )?"
        rf"{_EN_FILLER}){_PROSE}{_EN_END}",
    ),
    # 가장 적절한 것은 B / 옳지 않은 것은 C입니다
    (
        "opinion",
        r"(?:가장|제일|옳은|옳지 않은|틀린|잘못된|적절한|적절하지 않은|맞는|해당하는|해당하지 않는)[^.\n:]{0,40}?"
        rf"(?:은|는|:) ?{_KO_FILLER}{_PROSE}{_KO_END}",
    ),
    # the most likely diagnosis is B
    (
        "opinion",
        r"(?i:\bmost (?:likely|appropriate|suitable|probable|consistent|common)\b[^.\n:]{0,60}?(?:\bis\b|\bbe\b|:) ?"
        rf"{_EN_FILLER}){_PROSE}{_EN_END}",
    ),
    # B가 가장 적절합니다 / B가 맞습니다
    (
        "opinion",
        rf"{_PROSE}[이가] ?(?:가장|제일|더)? ?(?:적절|적합|맞|옳|올바|알맞|타당|정확|합당|합리){_NOT_TAKEN_BACK}",
    ),
    # B is correct / E seems best
    (
        "opinion",
        rf"{_PROSE} (?:is|are|would be|must be|seems?|looks?) "
        r"(?:(?:therefore|thus|clearly|probably|likely|the|most|also) ){0,3}(?:correct|right|best|appropriate)\b"
        rf"{_NOT_TAKEN_BACK}",
    ),
    # B를 선택합니다 / B로 결정한다 / B라고 생각한다
    (
        "opinion",
        rf"{_PROSE}(?:(?:을|를|로|으로) ?(?:(?:정답|답)으로 ?)?(?:선택|고르|고릅|골라|택하|택합|결정|판단|결론)"
        r"|이?라고 ?(?:생각|판단|봅니다|본다)|일 것(?:으로|이라고)? ?(?:같|생각|판단|보입|보인))"
        rf"{_NOT_TAKEN_BACK}",
    ),
    # I would choose B
    ("opinion", rf"(?i:(?<!not )(?<!nt )\b(?:choose|pick|select|go with|opt for)\b {_EN_FILLER}){_PROSE}"),
)

# Between two statements of one line: the second takes the first back, or concludes.
_TURN = re.compile(
    r"아니(?:다|요)?[,.\s]|다시|정정|수정|재검토|잠깐|따라서|그러므로|결론|결국|최종"
    r"|(?i:\b(?:wait|actually|correction|no,|rather|second thought|therefore|thus|hence|so|finally?)\b)"
)
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
# A base model goes on with a next question: marked as one, or a question and options that are not these, or the
# prompt's layout.
_NEXT_QUESTION = re.compile(
    r"\n(?:Q|질문|문제|Question)(?: ?\d{1,4})? ?[:.]"
    rf"|\?\n{{1,2}}A\. (?!{_M})[^\n]{{0,300}}\n{{1,2}}B\. (?!{_M})"
    rf"|(?P<prompt>(?:^|\n)A\. (?!{_M})[^\n]{{0,300}}\nB\. (?!{_M})[^\n]{{0,300}}\n"
    r"(?:[C-Z]\. [^\n]{0,300}\n){0,24}정답 ?:)"
)
_LABEL = re.compile(r"\(?(?:([A-Z])|([1-9]))\)?[.):, ]")


class _Grammar(NamedTuple):
    """The patterns, all of which depend on how many options there are."""

    targets: dict[str, re.Pattern[str]]
    after_target: tuple[tuple[str, str, re.Pattern[str]], ...]
    """Rules that begin with their target: strength, the kind of target, what follows it."""
    around_target: tuple[tuple[str, re.Pattern[str]], ...]
    """The other rules, whole."""
    line: re.Pattern[str]
    """A line that is nothing but an answer."""
    opening: re.Pattern[str]
    """A letter that opens a line of prose: "B. 이 환자는"."""


@lru_cache(maxsize=25)
def _grammar(n_options: int) -> _Grammar:
    last = OPTION_LETTERS[n_options - 1]
    listed = {_SLOT: _target(last, slot=True), _PROSE: _target(last, slot=False)}
    # Atomic, by a lookahead and its group again: a list that was read is not given back letter by letter, which would
    # take exponential time on long lists.
    claimed = {kind: rf"(?=(?P<target>{listed[kind]}))(?P=target){_NOT_CLAIMED}" for kind in listed}
    row = rf"[A-{last}](?: [A-{last}]){{1,25}}(?=\.?$)"
    after = [(weight, kind, rule[len(kind) :]) for weight, rule in _RULES for kind in listed if rule.startswith(kind)]
    around = [(weight, rule) for weight, rule in _RULES if not rule.startswith((_SLOT, _PROSE))]
    return _Grammar(
        {kind: re.compile(claimed[kind]) for kind in listed},
        tuple((weight, kind, re.compile(rule)) for weight, kind, rule in after),
        tuple(
            (weight, re.compile(rule.replace(_SLOT, claimed[_SLOT]).replace(_PROSE, claimed[_PROSE])))
            for weight, rule in around
        ),
        re.compile(
            rf"(?=(?P<target>{row}|{listed[_SLOT]}))(?P=target)[):]? ?(?:입니다|이다|임|이에요|예요|이죠)? ?[.,!]?"
        ),
        re.compile(rf"\(?[A-{last}]{_NOT_SPECIES}[.):] ?{_M}?"),
    )


class _Options:
    """The options of one item: finds their texts, and says which options a target names."""

    def __init__(self, options: Sequence[str]) -> None:
        if not 2 <= len(options) <= 26:
            raise DataError(f"answers are read among 2 to 26 options, got {len(options)}.")
        self.n = len(options)
        forms: dict[str, set[int]] = {}
        for index, option in enumerate(options):
            for form in _forms(_fold(option)):
                forms.setdefault(form, set()).add(index)
        unique = {form: found.pop() for form, found in forms.items() if len(found) == 1}
        self.numbers = {form: index for form, index in unique.items() if form.isdecimal()}
        # A letter or number alone is read as a position first, so it is not marked as a text.
        self.texts = {form: index for form, index in unique.items() if not re.fullmatch(r"[a-z]|\d+번?", form)}
        any_text = "|".join(" ?".join(map(re.escape, form)) for form in sorted(self.texts, key=len, reverse=True))
        self.pattern = re.compile(
            rf"(?<![A-Za-z0-9가-힣])(?<!\d[.,])(?:{any_text or '(?!)'})(?![A-Za-z0-9]|[.,]\d){_AFTER}", re.IGNORECASE
        )

    def marked(self, folded: str) -> str:
        """The text with each option text as one private character, and letters that name something else hidden."""
        return _NAMED_LETTER.sub(rf"\1{_OTHER_MARK}", self.pattern.sub(self._mark, folded))

    def _mark(self, found: re.Match[str]) -> str:
        index = self.texts.get(re.sub(r"\s", "", found[0]).casefold())
        return found[0] if index is None else chr(_OPTION_MARK + index)

    def named(self, target: str) -> frozenset[int]:
        """The options in a target; a number past the options names none."""
        found: set[int] = set()
        for token in re.finditer(rf"{_M}|(?<![A-Za-z])[A-Za-z](?![A-Za-z])|(\d+)(번| ?\))?", target):
            text = token[0]
            if token[1]:
                by_text = None if token[2] else self.numbers.get(token[1])
                found.add(int(token[1]) - 1 if by_text is None else by_text)
            elif text.isascii():
                found.add(OPTION_LETTERS.index(text.upper()))
            else:
                found.add(ord(text) - _OPTION_MARK)
        return frozenset(index for index in found if index < self.n)


def _forms(option: str) -> Iterator[str]:
    """The option without white space; without the parentheses at its end; and what these hold."""
    halves = re.fullmatch(r"([^()]{2,})\(([^()]{2,})\)", option.strip(_EDGE))
    for form in (option, *(halves.groups() if halves else ())):
        bare = re.sub(r"\s", "", form.strip(_EDGE)).casefold()
        # A half such as "12" in parentheses says nothing by itself.
        if bare and (form is option or not bare.isdecimal()):
            yield bare


@lru_cache(maxsize=512)
def _options(options: tuple[str, ...]) -> _Options:
    return _Options(options)


# --- the strict reading ---------------------------------------------------------------------------------------------

_NO_OPTION: frozenset[int] = frozenset()


class _Claim(NamedTuple):
    start: int
    end: int
    options: frozenset[int]
    """What the target names: several where a letter and a text disagree, or where it is a list."""


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
    known = _options(tuple(options))
    answer, thinking = _without_thinking(text)
    if thinking and not answer:
        return Extraction(None, "truncated")
    if (end := _END_OF_TURN.search(answer)) and answer[: end.start()].strip():
        answer, truncated = answer[: end.start()], False
    read = known.marked(_fold(answer))
    if following := _NEXT_QUESTION.search(read):
        found = _read(read[: following.start()], known, truncated=False)
        if len(found) == 1 or following["prompt"]:
            return _extraction(found, read[: following.start()], truncated=False)
    return _extraction(_read(read, known, truncated=truncated), read, truncated=truncated)


def _extraction(found: frozenset[int], read: str, *, truncated: bool) -> Extraction:
    if len(found) == 1:
        return Extraction(OPTION_LETTERS[next(iter(found))], None)
    if found:
        return Extraction(None, "ambiguous")
    if _REFUSAL.search(read):
        return Extraction(None, "refused")
    return Extraction(None, "truncated" if truncated else "no_answer")


def _read(read: str, known: _Options, *, truncated: bool) -> frozenset[int]:
    """The options that a folded, marked text answers: one, several (ambiguous) or none."""
    explicit = _claims(read, known, "explicit")
    if explicit:
        return _decided(read, explicit)
    by_line = _answer_line(read, known, truncated=truncated)
    if by_line or truncated:
        return by_line
    opinions = _claims(read, known, "opinion")
    return _NO_OPTION.union(*(claim.options for claim in opinions))


def _claims(read: str, known: _Options, strength: str) -> list[_Claim]:
    """The statements of one strength, in order; where rules find the same target, the one that reads most of it."""
    grammar = _grammar(known.n)
    matches = [m for weight, rule in grammar.around_target if weight == strength for m in rule.finditer(read)]
    for kind, pattern in grammar.targets.items():
        rules = [rule for weight, of, rule in grammar.after_target if weight == strength and of == kind]
        matches += [m for m in pattern.finditer(read) if any(rule.match(read, m.end()) for rule in rules)]
    found: dict[int, _Claim] = {}
    for match in matches:
        start, end = match.span("target")
        named = known.named(match["target"])
        if named and (start not in found or end > found[start].end):
            found[start] = _Claim(start, end, named)
    return [found[start] for start in sorted(found)]


def _decided(read: str, claims: list[_Claim]) -> frozenset[int]:
    """What the last line with a statement says, after its last turn; a list of statements decides nothing."""
    last = [claims[-1]]
    for claim in reversed(claims[:-1]):
        between = read[claim.end : last[-1].start]
        if "\n" in between or _TURN.search(between):
            break
        last.append(claim)
    decided = _NO_OPTION.union(*(claim.options for claim in last))
    return decided | _listed(read, claims)


def _listed(read: str, claims: list[_Claim]) -> frozenset[int]:
    """The options of three or more statements at the end that stand on lines of their own, one below the other."""
    run = [claims[-1]]
    for claim in reversed(claims[:-1]):
        if read[claim.end : run[-1].start].strip(" .").count("\n") != 1 or _TURN.search(
            read[claim.end : run[-1].start]
        ):
            break
        run.append(claim)
    named = _NO_OPTION.union(*(claim.options for claim in run))
    return named if len(named) > 2 else _NO_OPTION


def _answer_line(read: str, known: _Options, *, truncated: bool) -> frozenset[int]:
    """What the first or the last line answers, where that line is nothing but an answer and lists no options."""
    grammar = _grammar(known.n)
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
        return OPTION_LETTERS.index(match[1]) if match[1] else int(match[2]) - 1

    own = label(number)
    return own is not None and (label(number + 1) == own + 1 or (own > 0 and label(number - 1) == own - 1))
