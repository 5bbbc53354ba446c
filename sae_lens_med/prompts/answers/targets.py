"""What a statement can claim: letters, numbers and texts of the options of one item, and what names none of them."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from sae_lens_med.errors import DataError
from sae_lens_med.prompts.answers.folding import EDGE, OPTION_MARK, OTHER_MARK, fold
from sae_lens_med.records import OPTION_LETTERS

MARK = f"[{chr(OPTION_MARK)}-{chr(OPTION_MARK + 25)}]"
"""The character that stands for the text of an option."""

# What may follow a letter, number or option text within its word: particles that end the word, and forms of 이다.
_COPULA = (
    "(?:입니|이다|이며|이고|이므로|이라|라고|라는|라면|이에요|예요|에요|이죠|죠|이지|지만|이었|였|인데|인가|인지|일까|이란|란"
    "|로서|으로서)"
)
_PARTICLE = "(?:은|는|이|가|을|를|로|으로|와|과|도|만|의|나|이나|다|임|인|일|요|이요)"
AFTER = rf"(?=번?(?:{_PARTICLE}?(?![가-힣])|{_COPULA}))"
# Particles that set an option against another one. What they follow is looked for, but it claims nothing.
_AGAINST = "(?:보다|에서|말고|처럼)"
_AFTER_TEXT = rf"(?=번?(?:{_PARTICLE}?(?![가-힣])|{_COPULA}|{_AGAINST}))"
_AFTER_NUMBER = rf"(?=번|(?:은|는|이|가|을|를|로|으로|임|요|이요)?(?![가-힣])|{_COPULA})"
_NOT_UNIT = (
    r"(?!\d|[.,~–-]\d| ?[%~°℃]| (?:개|일|주|시간|년|회|세|분|명|가지|단계|배|도)(?![가-힣])|번(?:째|씩)"
    r"| ?(?:m?c?g|kg|ug|m?l|dl|[cm]?m|iu|hours?|days?|weeks?|months?|years?|times|units?)\b)"
)
# How often, not which: "하루 3번".
_NOT_OFTEN = "".join(
    f"(?<!{word})" for word in ("하루", "하루 ", "하루에 ", "매일 ", "일 ", "일에 ", "주 ", "주에 ", "달에 ", "총 ")
)
# A number begins a word, but for a word that announces it: "보기3번".
_BEFORE_NUMBER = (
    r"(?:(?<![\w.,])|(?<=보기)|(?<=선택지)|(?<=선지)|(?<=옵션)|(?<=정답)|(?<=정답은)|(?<=정답이)|(?<=답은)"
    r"|(?<= 답)|(?<=[Oo]ption)|(?<=[Cc]hoice))"
)
_ANNOUNCED = (
    r"(?:(?<=보기 )|(?<=선택지 )|(?<=선지 )|(?<=옵션 )|(?<=보기)|(?<=선택지)|(?<=선지)|(?<=[Oo]ption )|(?<=[Cc]hoice ))"
)
# E. coli is a germ, not option E.
NOT_SPECIES = (
    r"(?!\. ?(?:coli|difficile|albicans|aureus|cereus|fragilis|baumannii|anthracis|pertussis|burgdorferi|henselae"
    r"|botulinum|tetani|perfringens|trachomatis|diphtheriae|jejuni|pneumoniae|neoformans|faecalis|faecium|histolytica"
    r"|lumbricoides|fumigatus|dermatitidis|immitis|burnetii|psittaci|cloacae|granulosus|elegans)\b)"
)
# "A patient" is no answer, "A because" is.
_NOT_ARTICLE = (
    r"(?! (?!because|since|as|and|or|is|are|due|for|in|but|not|which|given|would|must|seems|should"
    r"|instead of|rather than|over )[a-z0-9])"
)
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

# A counter or particle that stands apart from what it belongs to: "3 번", "C 가 정답".
_APART = (
    re.compile(rf"((?<![A-Za-z0-9])[A-Z]|(?<![\w.,])[1-9]\d?|\)) (?=번)(?!번(?:째|씩)){AFTER}"),
    re.compile(
        rf"((?<![A-Za-z0-9가-힣])(?:[A-Za-z]|[1-9]\d?)번?\)?|\)번|{MARK}) "
        r"(?=(?:가|은|는|을|를|로|으로|만|도|이(?= ?(?:정답|답|맞|옳|가장|제일|더|적절|적합|올바|타당))) )"
    ),
)


def target(last: str, *, slot: bool) -> str:
    """The pattern of one option, or of several in a list: letters up to `last`, numbers, option texts.

    In an answer slot ("정답: ") small letters and plain numbers count; in running prose a number needs 번, brackets or
    a word such as 보기 before it.
    """
    left = r"(?<![A-Za-z0-9])(?<![A-Za-z0-9][-–+])"
    right = rf"(?![A-Za-z0-9])(?![-–+][A-Za-z0-9가-힣])(?!/(?![A-{last}](?![A-Za-z]))\w){NOT_SPECIES}{AFTER}"
    letter = rf"{left}(?:[B-{last}]|A{_NOT_ARTICLE}){right}"
    number = rf"{_BEFORE_NUMBER}[1-9]\d?{_NOT_UNIT}{_AFTER_NUMBER}"
    if slot:
        small = r"(?=[ )]?(?:[.),;:!]|$|\n|번|입니다|이다)| (?:because|since|due)\b|[가이] ?(?:정답|답))"
        letter += rf"|{left}[a-{last.lower()}]{small}{right}"
    else:
        announced = r"(?:(?<=[Oo]ption )|(?<=[Oo]ption \()|(?<=[Cc]hoice )|(?<=[Cc]hoice \())"
        letter += rf"|{announced}[a-{last.lower()}]{right}"
        letter += rf"|{left}[b-{last.lower()}](?= is (?:the |my )?(?:correct|right|best|answer)){right}"
        number = rf"(?<=\(){number}(?=번?\))|{_ANNOUNCED}{number}|{_NOT_OFTEN}{number}(?=번)"
    one = rf"(?:{letter}|{number})번?"
    text = f"{MARK}(?!{_AGAINST})"
    text_after = rf"[ .):=(–-]{{0,4}}{text}{_TEXT_ENDS}\)?"
    single = rf"(?:(?:\( ?)?{one}(?: ?\)번?)?(?:{text_after})?|\(?{text}\)?(?: ?\(? ?{one} ?\))?)"
    return rf"{single}(?:{_BETWEEN}{single}(?!은|는| is\b)){{0,25}}"


class Options:
    """The options of one item: finds their texts, and says which options a target names."""

    def __init__(self, options: Sequence[str]) -> None:
        if not 2 <= len(options) <= 26:
            raise DataError(f"answers are read among 2 to 26 options, got {len(options)}.")
        self.n = len(options)
        forms: dict[str, set[int]] = {}
        for index, option in enumerate(options):
            for form in _forms(fold(option)):
                forms.setdefault(form, set()).add(index)
        unique = {form: found.pop() for form, found in forms.items() if len(found) == 1}
        self.numbers = {form: index for form, index in unique.items() if form.isdecimal()}
        # A letter or number alone is read as a position first, so it is not marked as a text.
        self.texts = {form: index for form, index in unique.items() if not re.fullmatch(r"[a-z]|\d+번?", form)}
        any_text = "|".join(" ?".join(map(re.escape, form)) for form in sorted(self.texts, key=len, reverse=True))
        self.pattern = re.compile(
            rf"(?<![A-Za-z0-9가-힣])(?<!\d[.,])(?:{any_text or '(?!)'})(?![A-Za-z0-9]|[.,]\d)"
            rf"{_AFTER_TEXT}",
            re.IGNORECASE,
        )

    @property
    def last(self) -> str:
        """The letter of the last option."""
        return OPTION_LETTERS[self.n - 1]

    def marked(self, folded: str) -> str:
        """The text with each option text as one private character, letters that name something else hidden, and
        counters and particles joined to what they belong to."""
        text = _NAMED_LETTER.sub(rf"\1{OTHER_MARK}", self.pattern.sub(self._mark, folded))
        for pattern in _APART:
            text = pattern.sub(r"\1", text)
        return text

    def _mark(self, found: re.Match[str]) -> str:
        index = self.texts.get(re.sub(r"\s", "", found[0]).casefold())
        return found[0] if index is None else chr(OPTION_MARK + index)

    def named(self, target: str) -> frozenset[int]:
        """The options in a target; a number past the options names none."""
        found: set[int] = set()
        for token in re.finditer(rf"{MARK}|(?<![A-Za-z])[A-Za-z](?![A-Za-z])|(\d+)(번| ?\))?", target):
            text = token[0]
            if token[1]:
                by_text = None if token[2] else self.numbers.get(token[1])
                found.add(int(token[1]) - 1 if by_text is None else by_text)
            elif text.isascii():
                found.add(OPTION_LETTERS.index(text.upper()))
            else:
                found.add(ord(text) - OPTION_MARK)
        return frozenset(index for index in found if index < self.n)


def _forms(option: str) -> Iterator[str]:
    """The option without white space; without the parentheses at its end; and what these hold."""
    halves = re.fullmatch(r"([^()]{2,})\(([^()]{2,})\)", option.strip(EDGE))
    for form in (option, *(halves.groups() if halves else ())):
        bare = re.sub(r"\s", "", form.strip(EDGE)).casefold()
        # A half such as "12" in parentheses says nothing by itself.
        if bare and (form is option or not bare.isdecimal()):
            yield bare


@lru_cache(maxsize=512)
def options_of(options: tuple[str, ...]) -> Options:
    """The options of an item, made once. Raises `DataError` for fewer than 2 or more than 26."""
    return Options(options)
