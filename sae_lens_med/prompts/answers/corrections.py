"""An option that the same sentence puts away for another is taken out of the text: "정답은 B 대신 C" -> "정답은 C".

Each pattern holds two options side by side, the one that is put away and the one that stays; without the second one
nothing is taken out. Corrections over several sentences or lines are left to the statements (`statements`), of which
the last one counts.
"""

import re
from functools import lru_cache

from sae_lens_med.prompts.answers.targets import MARK

_KO_WORD = r"(?:(?:보기|선택지|선지|옵션|바로|오히려|실제로는?|사실은?|정확히는|결국|정답은|답은) ?){0,2}"
_EN_WORD = r"(?i:(?:option|choice|the answer is|answer|it is|its) ?)?"
# What says that the option before it was a mistake.
_CORRECTION = (
    r"(?:(?:수정|정정|교정|변경|고침|번복|재수정)(?:됨|함|합니다|하면|하자면|하겠습니다|된 답|된 정답|답)?"
    r"|오타|오기|실수"
    r"|죄송(?:합니다|해요)(?=[,.!])|아니(?:다|요|야|지|에요)?(?=[ ,.!])|아닙니다(?=[ ,.!])|잠깐(?:만요?)?"
    r"|(?i:correction|corrected(?: to)?|edit(?:ed)?(?: to)?|revised(?: to)?|changed to|typo|updated(?: to)?"
    r"|(?:oh |oops |uh |um )?(?:no|wait|sorry|oops|hmm?)(?=[ ]?[,.:;!–-])|no wait|wait no|i mean|i meant|or rather"
    r"|make that|scratch that|actually))"
)
_MINDS = "수정|정정|변경|교정|바꾸|바꿉|고치|고칩"
_SUPPOSED = (
    r"(?:이?라고|으?로|인|일|처럼)[^.\n]{0,6}?(?:생각|보이|보일|볼|여기|여겨|여길|착각|오해|오인|혼동|판단|같|알|했|답|골|선택)"
    r"[^.\n]{0,14}?(?:으나|지만|는데|나)"
    r"(?:,? 다시 (?:검토|생각|확인)(?:한 결과|해 ?보니|하니|하면))?"
)


@lru_cache(maxsize=25)
def _patterns(last: str) -> tuple[tuple[re.Pattern[str], re.Pattern[str], str], ...]:
    """What a correction needs, the correction, and what is kept of it."""
    letters = f"[A-{last}a-{last.lower()}]"
    bare = rf"(?:(?<![A-Za-z0-9가-힣]){letters}(?![A-Za-z0-9])|(?<![\w.,])[1-9]\d?(?!\d|[.,]\d)|{MARK})"
    away = rf"(?:보기 ?|선택지 ?|옵션 ?)?\(?{bare}번?\)?번?(?:[ .)]{{0,2}}\(?{MARK}\)?| ?\({bare}번?\))?"
    several = rf"(?:{away} ?(?:,|/|와|과|나|이나|또는|(?i:nor|or|and)\b) ?){{0,4}}{away}"
    # What stays ends its clause, so that "no, B cells" is no correction.
    stays_end = (
        r"(?= ?(?:[.,;:!)(\n]|$|입니|이다|다(?![가-힣])|임(?![가-힣])|이?에요|예요|이?죠|이?라고|이?었|였"
        r"|(?:이|가|은|는|을|를|로|으로|도)(?![가-힣])"
        rf"|{MARK}|\b(?:is|because|since|as|instead)\b))"
    )
    stays = rf"\(?(?:{bare}|보기 ?[1-9])번?\)?번?{stays_end}"
    ko, en = rf"(?={_KO_WORD}{stays})", rf"(?={_EN_WORD}{stays})"
    option = r"(?:option |choice |the )?"
    return tuple(
        (re.compile(word), re.compile(pattern), kept)
        for word, pattern, kept in (
            # B 대신 C / B가 아니라 C / B, D 말고 C / B보다는 C
            (
                r"대신|말고|아닌|아니|보다",
                rf"{several}(?:이|가|은|는|을|를)? ?"
                rf"(?:대신에?|말고|아닌|아니라|아니고|아니며|아니었고|보다는?),? {ko}",
                "",
            ),
            # B와 C 중에서 C
            (" 중", rf"{away}(?: ?(?:,|/|와|과|나|이나|또는) ?{away}){{1,5}} 중(?:에서?)?,? {ko}", ""),
            # B에서 C로
            ("에서", rf"{several}에서,? (?={_KO_WORD}\(?{bare}번?\)?번?(?:로|으로))", ""),
            # B → C로 수정
            (
                _MINDS,
                rf"{away}(?:[을를]| ?(?:→|➡|⇒|->|=>)) ?"
                rf"(?=\(?{bare}번?\)?번?(?:로|으로) ?(?:{_MINDS}))",
                "",
            ),
            # 정답: B → C, and nothing after it: three are a sequence
            (
                "→|➡|⇒|->|=>",
                rf"((?:정답|답|(?i:\banswer))(?:은|는| is)? ?[:=]? ?){away} ?(?:→|➡|⇒|->|=>) ?(?={stays})",
                r"\1",
            ),
            # B라고 생각할 수 있으나 실제로는 C
            (r"으나|지만|는데|나", rf"{several}{_SUPPOSED},? {ko}", ""),
            # B (수정: C) / B, 아니 C / B, no wait, C
            (
                _CORRECTION,
                rf"{away}(?:입니다|이다|요)?[ ,.;?…–-]{{0,4}}\(? ?(?:{_CORRECTION}[ ,.:;!=…–-]{{1,4}}){{1,2}}"
                rf"(?=(?:{_KO_WORD}|{_EN_WORD}){stays})",
                "",
            ),
            # B (→ C)
            (r"\( ?(?:→|➡|⇒|->|=>|>)", rf"{away} ?\( ?(?:→|➡|⇒|->|=>|>) ?(?={stays})", ""),
            # if it were so, it would be B, but here it is C
            (
                r"(?i:\bif\b)",
                rf"(?i:\bif\b)[^.\n]{{1,100}}? (?i:would (?:have been|be)) {option}{away},? ?"
                rf"(?i:but|however,?|yet) (?:(?i:here|in this (?:case|patient)),? )?{en}",
                "",
            ),
            # not B but C / isn't B; it's C
            (
                r"(?i:not|nt) ",
                rf"(?i:\b(is|are|was)(?: not|nt)) {option}{away}[,;.–-]{{0,2}} ?"
                rf"(?i:but|it is|its|rather|instead)[,:]? (?i:rather |actually |instead )?{en}",
                r"\1 ",
            ),
            (
                r"(?i:but)",
                rf"(?i:\bnot|\bneither) {option}{several}[,;–-]{{0,2}} ?"
                rf"(?i:but(?: rather| actually| instead)?) {en}",
                "",
            ),
            # C instead of B / C rather than B, D / C, not B
            (
                r"(?i:instead|rather|over|not)",
                rf"({bare}번?\)?)[,;]? ?(?i:instead of|rather than|over|(?:and |but )?not) {option}{several}"
                r"(?![A-Za-z가-힣])",
                r"\1",
            ),
        )
    )


def corrected(read: str, last: str) -> str:
    """The folded, marked text without the options that it puts away for others; `last` is the last letter."""
    for word, pattern, kept in _patterns(last):
        if word.search(read):  # most texts correct nothing, and to look for two options takes longer
            read = pattern.sub(kept, read)
    return read
