"""Masks in explanations: nothing that gives the answer away by its mere wording is compared or measured.

An explanation repeats option texts and names the answer ("정답: C", "option 3 is correct"). Features of those
characters would match question and explanation for any model. `mask_leakage` replaces each by one "…":

- **Option texts**, of every option, also with other spacing, letter case, width (full or half) or punctuation at the
  end; of an option with parentheses, "비타민B12(cobalamin)", also either half. A text of one or two characters, or of
  up to four Latin ones, is masked only as a word (a Korean particle may follow): "A", "3" or "의사" inside another
  word stay. A number inside a longer number stays: 100 in 1000.
- **Answer marks**: the letter or number of an option where the context makes it one, with the brackets around it:
  after "정답", "답은", "보기", "answer is", "option", "respuesta", "réponse", "risposta"; before "번", "is correct",
  "가 정답", "es correcta"; alone in brackets; as the label of a line or of a masked option text; circled digits.
  "type 2 diabetes", "vitamin C", "하루 3번" stay.

- **Quotes of the stem**: a run of at least 20 characters (white space not counted) that the explanation shares with the
  question. Model-written rationales often begin by repeating the question (more than half of those in the KorMedMCQA
  train set), which would match stem and explanation for any model, too.

Out of scope: paraphrases and synonyms of an option. They are what an explanation is made of; how much they carry is
what the TF-IDF baseline shows.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from sae_lens_med.errors import DataError
from sae_lens_med.records import OPTION_LETTERS, McqItem, Record, Span

PLACEHOLDER = "…"


@dataclass(frozen=True, slots=True)
class MaskedText(Record):
    """An explanation without option texts and answer marks."""

    text: str
    placeholders: tuple[Span, ...]
    """Of the "…" in `text` that stand for masked text, one character each; a "…" of the original is not among them."""
    n_option_chars: int
    """Characters of the explanation that were option text."""
    n_stem_chars: int
    """Characters that were quoted from the question (and are no option text)."""
    n_answer_marks: int
    """Answer letters and numbers that were masked."""
    originals: tuple[Span, ...] = ()
    """Of the explanation, as many as `placeholders` and in their order: the characters that each stands for."""

    @property
    def nothing_left(self) -> bool:
        """Whether all of it was masked, so that there is no text to run: nothing but placeholders, white space and
        punctuation."""
        kept = bytearray(b"\1" * len(self.text))
        for span in self.placeholders:
            kept[span.start : span.end] = bytes(span.end - span.start)
        return not any(keep and character.isalnum() for keep, character in zip(kept, self.text, strict=True))


def mask_leakage(item: McqItem) -> MaskedText:
    """The explanation of `item` with each option text, answer mark and quote of the stem replaced by one
    "…".

    Raises `DataError` when the item has no explanation.
    """
    if item.explanation is None:
        raise DataError(f"item {item.id!r} has no explanation to mask.")
    text = item.explanation
    options = _merged(_option_spans(text, item.options))
    quotes = _merged(_quote_spans(text, item.question))
    n_option_chars = sum(end - start for start, end in options)
    wording = _merged([*options, *quotes])
    n_stem_chars = sum(end - start for start, end in wording) - n_option_chars
    covered = bytearray(len(text))
    for start, end in wording:
        covered[start:end] = b"\1" * (end - start)
    marks = [m for m in _merged(_mark_spans(text, options, len(item.options))) if not any(covered[m[0] : m[1]])]
    pieces, placeholders, position, length = [], [], 0, 0
    masked = sorted(wording + marks)
    for start, end in masked:
        pieces += [text[position:start], PLACEHOLDER]
        length += start - position
        placeholders.append(Span(length, length + 1))
        position, length = end, length + 1
    pieces.append(text[position:])
    originals = tuple(Span(start, end) for start, end in masked)
    return MaskedText("".join(pieces), tuple(placeholders), n_option_chars, n_stem_chars, len(marks), originals)


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted, with overlapping spans made one."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if out and start < out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


# --- option texts -------------------------------------------------------------------------------------------------

_PARENTHESES = re.compile(r"[(\uff08]([^()\uff08\uff09]*)[)\uff09]")
_HANGUL = re.compile("[\uac00-\ud7a3]")
_LATIN_OR_DIGIT = re.compile("[0-9A-Za-z\u00c0-\u024f]")
_PUNCTUATION = " .,;:!?。·\"'“”‘’"
_SHORT_HANGUL, _SHORT_LATIN = 2, 4
# What may follow a noun within its word: forms of 이다 (which go on), or particles that end the word.
PARTICLE = re.compile(
    "(?:이었|였|이라|이므로|이지|이며|이고|이다|입니|인데|이란|이면|이어|여서|라고|라는)"
    "|(?:은|는|이|가|을|를|의|에|에서|에게|와|과|도|로|으로|만|까지|부터|보다|처럼|이나|나|란|며|고|다|인|일|임|등)"
    "(?:는|도|만|의)?(?![\uac00-\ud7a3])"
)


def _normalised(text: str) -> tuple[str, list[int]]:
    """Without white space, NFKC and casefolded, with the index in `text` of the character each one comes from.

    Decomposed syllables (conjoining jamo, combining accents) are composed first, so that either form is found.
    """
    folded = text.casefold()
    if len(folded) == len(text) and unicodedata.is_normalized("NFKC", text) and not any(map(joins_previous, set(text))):
        # Each character stands for itself, as in most texts.
        return "".join(folded.split()), [at for at, character in enumerate(folded) if not character.isspace()]
    characters: list[str] = []
    origin: list[int] = []
    start = 0
    while start < len(text):
        end = start + 1
        while end < len(text) and joins_previous(text[end]):
            end += 1
        for character in unicodedata.normalize("NFKC", text[start:end]).casefold():
            if not character.isspace():
                characters.append(character)
                origin.append(start)
        start = end
    return "".join(characters), origin


def joins_previous(character: str) -> bool:
    """Whether a character is the continuation of the one before it: a combining mark, or a medial or final jamo."""
    return unicodedata.combining(character) != 0 or "\u1160" <= character <= "\u11ff"


def _option_spans(text: str, options: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    haystack, origin = _normalised(text)
    # The option "A" is not the article "a": one character is compared as it is written.
    single = {unicodedata.normalize("NFKC", option).strip(_PUNCTUATION) for option in options}
    for needle in {needle for option in options for needle in _needles(option)}:
        at = haystack.find(needle)
        while at >= 0:
            start, end = origin[at], _written_end(text, origin[at + len(needle) - 1])
            same = len(needle) > 1 or unicodedata.normalize("NFKC", text[start:end]) in single
            if same and _stands_alone(text, start, end, needle):
                yield start, end
            at = haystack.find(needle, at + 1)


_QUOTE = 20


def _quote_spans(text: str, question: str) -> Iterator[tuple[int, int]]:
    stem, _ = _normalised(question)
    haystack, origin = _normalised(text)
    runs = {stem[i : i + _QUOTE] for i in range(len(stem) - _QUOTE + 1)}
    for i in range(len(haystack) - _QUOTE + 1):
        if haystack[i : i + _QUOTE] in runs:
            yield origin[i], _written_end(text, origin[i + _QUOTE - 1])


def _written_end(text: str, last: int) -> int:
    """One past the written character that starts at `last`, with what is combined with it."""
    end = last + 1
    while end < len(text) and joins_previous(text[end]):
        end += 1
    return end


def _needles(option: str) -> Iterator[str]:
    """The normalised forms of an option that are masked: whole, without its parentheses, and what these hold."""
    yield from _needle(option, least=1)
    inside = _PARENTHESES.findall(option)
    if inside:
        for half in (_PARENTHESES.sub("", option), *inside):
            # A half such as "1" or "세" in parentheses says nothing by itself.
            yield from (needle for needle in _needle(half, least=2) if not needle.isdigit())


def _needle(option: str, least: int) -> Iterator[str]:
    normal = _normalised(option)[0]
    bare = normal.strip(_PUNCTUATION) or normal
    if len(bare) >= least:
        yield bare


def _stands_alone(text: str, start: int, end: int, needle: str) -> bool:
    """Whether `text[start:end]` is the option and not part of a longer number, or, if short, of a longer word."""
    before, after = text[max(0, start - 2) : start], text[end : end + 8]
    first, last = text[start], text[end - 1]
    if (first.isdigit() and re.search(r"\d[.,]?$", before)) or (last.isdigit() and re.match(r"[.,]?\d", after)):
        return False
    if len(needle) > (_SHORT_HANGUL if _HANGUL.search(needle) else _SHORT_LATIN):
        return True
    for word in (_HANGUL, _LATIN_OR_DIGIT):
        if word.match(first) and word.match(before[-1:]):
            return False
    if _HANGUL.match(last) and _HANGUL.match(after):
        return PARTICLE.match(after) is not None
    # An English plural is the same word.
    return not (_LATIN_OR_DIGIT.match(last) and _LATIN_OR_DIGIT.match(after.removeprefix("s")))


# --- answer letters and numbers -----------------------------------------------------------------------------------

_FULL_WIDTH = {0xFF01 + i: 0x21 + i for i in range(94)} | {0x3000: 0x20}
_OPTION = "\0"
_QUOTES = "[\\s\"'“”‘’*_`]*"
_JOIN = r"(?:\s*(?:,|/|·|&|~|-|,?\s*\b(?:and|or|nor)\b|및|와|과|또는|이나|나)\s*)"
# Numbers and letters that belong to the word before them, not to an option.
_NOT_AFTER = "".join(
    f"(?<!{word}{gap})"
    for word in (
        "비타민",
        "[Vv]itamin",
        "[Hh]epatitis",
        "[Tt]ype",
        "[Gg]rade",
        "[Ss]tage",
        "[Cc]lass",
        "[Ff]actor",
        "간염",
    )
    for gap in ("", " ")
)
_ENDS = (
    r"(?=\s*(?:[.,;:!?()\[\]\n]|$|\0|[\uac00-\ud7a3]"
    r"|(?:which|because|although|since|as|and|or|but|due|in|for|is|are)\b))"
)


@lru_cache(maxsize=26)
def _mark_patterns(n_options: int) -> tuple[re.Pattern[str], tuple[re.Pattern[str], ...]]:
    """The pattern of one mark, and the contexts: in each, the group `m` (or all of it) holds one or several marks."""
    letter = f"[A-{OPTION_LETTERS[n_options - 1]}]"
    number = f"(?:{'|'.join(str(n) for n in range(n_options, 0, -1))})"
    end = r"(?![A-Za-z0-9]|\.\d|,\d{2}|\s?%)"
    x = rf"(?:{_NOT_AFTER}(?<![A-Za-z0-9])(?<!\d\.)(?:{letter}|{number}){end})"
    mark = rf"(?:[(\[{{]\s*{x}(?:\s?번)?\s*[)\]}}]|{x}(?:\s?번)?)"
    marks = rf"(?P<m>{mark}(?:{_JOIN}{mark})*)"
    circled = "".join(chr(0x2460 + n) for n in range(min(n_options, 20)))
    any_case = rf"(?P<m>(?i:{mark})(?:{_JOIN}(?i:{mark}))*)"
    frequency = "".join(
        f"(?<!{w})" for w in ("제", "하루", "하루 ", "하루에 ", "일 ", "일에 ", "주 ", "주에 ", "년에 ", "총 ")
    )
    romance = (
        r"(?i:(?:in)?correct[aeo]?s?|corrett[aeo]|vraies?|fausses?|falsas?|bonnes?|buena|giusta|esatta|es|ser[ií]a|est|"
        r"serait|è|sarebbe|son|sont|sono|las?|les?|el|il|n[úu]mero|num[ée]ro|n[º°])"
    )
    contexts = (
        rf"[{circled}]",
        # Korean: after and before
        rf"(?:정답|답|보기|선택지|옵션|문항|번호)(?:은|는|이|가|을|를|의|으로|로)?\s*(?:중\s*)?[:=\-]?{_QUOTES}{marks}",
        rf"{marks}{_QUOTES}(?:이|가|은|는|도|만|을|를)?\s*"
        r"(?:보기|선택지|옵션|정답|답|오답|맞|옳|틀린|틀리|틀렸|틀림|적절|부적절|잘못|올바)",
        rf"{frequency}(?P<m>{x}\s?번)(?!째|씩|\s*(?:정도|이상|이하|복용|투여|반복|시행|측정))",
        rf"(?m:^|[.,;:(])\s*(?P<m>{_NOT_AFTER}{letter})(?=(?:은|는|이|가|도|만)[\s,])",
        # English: after and before
        rf"(?i:\b(?:options?|choices?|alternatives?)){_QUOTES}[:=#(]?{_QUOTES}{any_case}",
        rf"(?i:\b(?:answers?|options?|choices?|alternatives?|responses?|statements?|numbers?|no\.|nº))"
        rf"(?:\s+(?i:is|are|was|be|number|numbers|option|letter|the|correct|would|should|must|clearly|probably))*"
        rf"\s*[:=#\-]*{_QUOTES}{marks}",
        rf"(?i:\b(?:answer|option|choice|correct|response)\b)[^.\n]{{0,60}}?\b(?i:is|are|be|to|towards)"
        rf"(?:\s+(?i:the|number|option|letter|answer))*\s*[:=]?{_QUOTES}{marks}{_ENDS}",
        rf"{marks}{_QUOTES}\s(?i:is|are|was|were|seems?|(?:would|could|can|should|must) be)\s+"
        r"(?i:(?:also|not|clearly|the|an?|directly|therefore)\s+)*"
        r"(?i:(?:in)?correct|right|wrong|false|true|answers?|ruled|discarded|excluded|eliminated|best|most likely)\b",
        rf"(?i:\b(?:(?:in)?correct|right|false|wrong|true|excluded?|discard(?:ed|ing)?|rul(?:e|es|ed|ing) out|"
        rf"eliminat(?:e|es|ed|ing)|remov(?:e|es|ed|ing)))(?:\s+(?i:one|is|are|the|number|numbers))*\s*[:\-]?{_QUOTES}"
        rf"{marks}{_ENDS}",
        rf"(?i:\b(?:doubt|hesitat|lean)\w*\b)[^.\n]{{0,40}}?\b(?i:between|towards?|to|with)\s+{marks}{_ENDS}",
        rf"(?i:\b(?:it is|it's|is) not)\s+{marks}(?=\s*\()",
        r"(?i:\b(?P<m>first|second|third|fourth|fifth|last|1st|2nd|3rd|4th|5th)(?=\s+(?:option|answer|choice|alternative)))",
        r"(?P<m>(?:첫|두|세|네|다섯)\s?번째)(?=\s*(?:보기|선택지|옵션|답))",
        # Spanish, French, Italian: after and before
        rf"(?i:\b(?:respuestas?|opci[oó]n(?:es)?|alternativas?|r[eé]ponses?|propositions?|rispost[ae]|opzion[ei]))"
        rf"(?:\s+{romance})*\s*[:=#\-]*{_QUOTES}{marks}",
        rf"(?i:\b(?:la|le|las|les|el|il)\s+(?:correct[ae]|corretta|giusta|bonne|buena))"
        rf"(?:\s+{romance})+\s*[:=\-]?{_QUOTES}{marks}",
        rf"{marks}{_QUOTES}\s(?i:es|son|est|sont|è|sono|sería|serait|sarebbe)\s+"
        r"(?i:(?:la|las|le|les|el|il)\s+)?"
        r"(?i:(?:in)?correct[aeo]?s?|(?:in|s)?corrett[aeoi]|fals[aoei]s?|fau(?:x|sses?)|vraie?s?|verdader[ao]s?|"
        r"ver[ao]|errat[aoei]|err[oó]ne[ao]s?|erron[eé]e?s?|(?:da\s+)?(?:d|e)?scarta\w*|exclue?s?|esclus[aoei]|"
        r"respuesta|r[eé]ponse|risposta)\b",
        # any language: conclusions, brackets, labels of lines and of option texts
        rf"(?i:\b(?:therefore|thus|hence|so)\b|따라서|그러므로|결론적으로)[,\s]+{_QUOTES}{marks}{_ENDS}",
        rf"(?i:boxed)\s*(?P<m>\{{\s*{x}\s*\}})",
        rf"(?P<m>[(\[]\s*{x}(?:\s?번)?\s*[)\]])",
        rf"(?m:^)[\s>*•\-]*{marks}\s*[*_]*(?:[.):\-–,]|(?m:$))",
        rf"{marks}{_QUOTES}[.):=(,\-]{_QUOTES}(?={_OPTION})",
        rf"(?<={_OPTION})\s*(?P<m>[(\[]?\s*{x}\s*[)\]])",
    )
    return re.compile(mark), tuple(re.compile(c) for c in contexts)


def _mark_spans(text: str, options: list[tuple[int, int]], n_options: int) -> Iterator[tuple[int, int]]:
    mark, contexts = _mark_patterns(n_options)
    folded = list(text.translate(_FULL_WIDTH))
    for start, end in options:
        folded[start:end] = _OPTION * (end - start)
    read = "".join(folded)
    for context in contexts:
        for found in context.finditer(read):
            start, end = found.span("m") if "m" in context.groupindex else found.span()
            inner = [m.span() for m in re.compile(mark.pattern, re.IGNORECASE).finditer(read, start, end)]
            yield from inner or [(start, end)]
