"""The statements that claim an answer, and the patterns that find them in a folded, marked text.

Each rule holds a target (`targets`) that it claims. A target that is denied ("A가 아니라", "not A"), asked ("A일까?")
or supposed ("A라면", "A라고 생각하기 쉽지만") claims nothing.
"""

import re
from functools import lru_cache
from typing import Literal, NamedTuple

from sae_lens_med.prompts.answers.targets import MARK, NOT_SPECIES, Options, target
from sae_lens_med.records import OPTION_LETTERS

Strength = Literal["explicit", "opinion"]

_SLOT, _PROSE = "<slot>", "<prose>"  # in the rules: a target in an answer slot, a target in running prose

# After a target: denied, asked or supposed.
_NOT_CLAIMED = (
    r"(?!번?\)?(?:이|가|은|는|도)? ?(?:바로 )?(?:정답|답)?(?:이|은|일|인)? ?"
    r"(?:아니|아닙|아님|아닌|아닐|않|없|라면|까(?![가-힣])|것 같지만|것처럼|처럼|수(?:는|가|도)? ?[없있]"
    r"|(?:이다|[가지])?\?|되지|될 (?:수|리)|되기 (?:어|힘)|되려면|된다면|되었다면"
    r"|리(?:가|는|도)? ?(?:없|만무)|에서 ?(?:제외|빠)"
    r"|맞(?:나요?|는지|을까|습니까|는가)"
    r"|가능성(?:은|이|도)? ?(?:매우|아주|거의|극히|더)? ?(?:낮|없|희박|적)))"
    # A도 B도 아니다
    rf"(?!번?\)?도,? ?(?:\(?(?:{MARK}|[A-Z]|[1-9]\d?)번?\)?도,? ?){{1,8}}(?:아니|아닙|아님|아닌))"
    r"(?!번?\)?(?:인지|인가요?|일지)(?![가-힣]))"
    r"(?!번?\)?(?:[을를]? ?(?:제외|빼고)| (?:이외|외)(?:에|의)?(?![가-힣])| ?(?:\((?i:x)\)|[❌✗✘×~])))"
    r"(?!번?\)?이?라는 ?(?:주장|생각|의견|견해|답변?)(?:은|는|이|가)? ?(?:틀|잘못|옳지|맞지|오답))"
    r"(?!번?\)?(?:으?로|을|를|이?라고) ?(?:고르|선택하|답하|택하)면(?! ?[된됩되]))"
    r"(?!번?\)?[은는이가] ?(?:잘못(?:되|된|됐|이)|오답))"
    r"(?!번?\)?(?:이?라고|으?로|인|일) ?(?:잘못 ?)?"
    r"(?:(?:생각|오해|판단|착각|혼동|오인|여기|보|볼|보일|답|추정|선택)(?:할|하기|될|되기|일|이기|기)? ?"
    r"(?:수(?:도|는)? ?있(?:으나|지만|는데|겠지만|겠으나)|쉬우|쉽|했(?:으나|지만|었)|됐(?:으나|지만)|았(?:으나|지만))"
    r"|착각|오인|혼동|오해|줄 알|보이(?:지만|나(?![가-힣]))|것 같(?:으나|았)))"
    r"(?! (?:(?:is|are|was|would be) (?:not|in|un)|(?:is|are)nt\b))"
)
# After an opinion: the sentence takes it back.
_NOT_TAKEN_BACK = (
    r"(?![^.\n]{0,12}?(?:않|아니|아닌|지만|없|으나|는지|다면|라면|으면|까|수 있|\bif\b"
    r"|지 마|지 말|안 ?[된됩되]|[르하]면(?! ?[된됩되])))"
)
_KO_END = (
    r"(?=\)?(?: ?\([^()\n]{1,60}\))? ?(?:입니다|이다|다(?![가-힣])|임(?![가-힣])|이?에요|예요|이?죠"
    r"|(?:이?라고|로|으로) ?(?:판단|생각|결정|추정|진단|보|볼|선택|결론|할)"
    r"|[.!](?:\s|$)|\n|$|[이가을를] (?:정답|답|맞|선택)))"
)
# As `_KO_END`, but a letter with a full stop and more of the line after it may be the label of an option.
_KO_LAST = (
    r"(?=\)? ?(?:입니다|이다|다(?![가-힣])|임(?![가-힣])|이?에요|예요|이?죠|이?라고 ?(?:판단|생각|봅|결론)"
    r"|[.!]?(?:\n|$)|[이가] (?:정답|답|맞)))"
)
_EN_END = r"(?=\)? ?(?:[.!](?:\s|$)|\n|$|\(|,? (?:because|since|as|due)\b))"

_KO_ANSWER = (
    r"(?<![가-힣])(?:(?:최종|올바른|옳은|맞는|가장 적절한|예상) ?)?(?:정답|해답|답안|답변|답|(?<![A-Za-z] )answer)"
)
_KO_FILLER = (
    r"(?:(?:바로|아마도?|결국|역시|당연히|틀림없이|확실히|분명히?|명백히|단연코?|실제로는?|사실은?"
    r"|(?:두말|말|의심|이론|이견|논란|의문)[가-힣]{0,2} ?(?:것도?|나위도?|여지도?|필요도?)? ?없이"
    r"|보기(?: 중에?서?)?|선택지|선지|옵션|문항|번호"
    r"|다음과 같(?:습니다|다|이)[.:]?"
    rf"|option|(?:{MARK}|[A-Z]|\d)번?[이가] 아니[라고],?)[ \n]{{0,2}}){{0,3}}"
)
_KO_OPTION = "(?: ?(?:보기|선택지|선지|옵션))?"
_EN_SAID = ("nt think", "nt believe", "not think", "not believe", "wrong to say", "one would say", "students think")
"""What others say, or nobody does; apostrophes are folded away."""
_EN_NOT_SAID = "".join(f"(?<!{said} {the})" for said in _EN_SAID for the in ("", "the ", "that the "))
_EN_ANSWER = (
    rf"(?<!\bif )(?<!\bif the )(?<!\bwrong )(?<!\bincorrect ){_EN_NOT_SAID}"
    r"\b(?:(?:correct|best|right|final|most appropriate|appropriate) "
    r"(?:answer|choice|option|response|one|letter)|answer|correct(?= is|:))(?: (?:choice|option|letter|number))?"
)
_EN_FILLER = (
    r"(?:(?:therefore|thus|clearly|definitely|most likely|likely|probably|indeed|actually|really|in fact|certainly"
    rf"|obviously|simply|option|choice|letter|answer|number|the)\b[,:]? ?|an? (?={MARK})){{0,3}}"
)
_IS = r" (?:is|would be|should be|must be|will be|has to be|seems to be|was)\b:? ?"
_MINDS = r"(?:정정|수정|변경|교정|바꾸|바꿉|바꿔|고치|고칩|번복)"

_RULES: tuple[tuple[Strength, str], ...] = (
    # 정답: B / 정답 B / (정답) B / 정답\n\nB / 정답 및 해설\nB
    (
        "explicit",
        rf"{_KO_ANSWER}(?: ?번호)?(?: ?(?:및|과) ?(?:해설|풀이|이유|근거))?\)?[은는이]? ?[:=→➡⇒>–-]{{0,3}}\s{{0,3}}"
        rf"{_KO_FILLER}{_SLOT}",
    ),
    # 선택: B / 결론: B / 정정: B, where the colon is needed
    (
        "explicit",
        rf"(?<![가-힣])(?:최종 ?)?(?:선택|결론|결정|정정|수정|변경)(?: ?후)?"
        rf"(?:\)? ?[:=→]|\))\s{{0,3}}{_KO_FILLER}{_SLOT}",
    ),
    # 정답은 B입니다 / 정답을 B로 / 정답으로 B를
    ("explicit", rf"{_KO_ANSWER}(?: ?(?:선택지|보기|번호))?(?:은|는|이|을|를|으로는|으로) ?{_KO_FILLER}{_SLOT}"),
    # B가 정답입니다 / B 선택지가 답이다
    (
        "explicit",
        rf"{_SLOT}(?:{_KO_OPTION}[이가은는만도]| (?:모두|둘 다)) ?(?:바로 )?(?:최종 )?"
        r"(?:정답|답(?=[이입임.]|$|\n))",
    ),
    # B 정답입니다
    ("explicit", rf"{_SLOT} (?:정답|답)(?:입니다|이다|임|이에요)(?![가-힣])"),
    # B로 정정합니다
    ("explicit", rf"{_PROSE}(?:로|으로) ?(?:답을 ?|정답을 ?)?{_MINDS}{_NOT_TAKEN_BACK}"),
    # 아니, B입니다 / 아닙니다. B입니다 / 다시 보니 B이다
    (
        "explicit",
        r"(?<![가-힣])(?:아니(?:다|요|야|에요)?|아닙니다|아니고|아니라|죄송(?:합니다|해요)|잠깐(?:만요?)?|정정(?:합니다|하면|하자면|하겠습니다)?"
        r"|수정(?:합니다|하면|하자면|하겠습니다)?|다시 (?:보니|보면|검토하면|검토하니"
        r"|생각하니|생각하면|생각해 ?보니|생각해 ?보면))"
        rf"[ ,.:!…]{{1,3}}{_KO_FILLER}{_PROSE}{_KO_LAST}",
    ),
    # \boxed{B}
    ("explicit", rf"\\boxed ?\( ?{_SLOT}"),
    # Answer: B / the correct option is (B) / answer B
    ("explicit", rf"(?i:{_EN_ANSWER}(?:\)? ?[:=→>–-]{{1,3}}\s{{0,3}}|{_IS}|\n{{1,2}}| ){_EN_FILLER}){_SLOT}"),
    # Correction: B / Choice: B / Ans. B, where the mark is needed
    (
        "explicit",
        r"(?i:\b(?:correction|corrected|revision|revised|edit|edited|update|updated|final|selection|conclusion|verdict"
        r"|(?<![a-z] )(?:choice|option)|(?:my|selected|chosen) (?:choice|option)|ans(?=[.:])\.?)"
        rf"\)? ?[:=→]?(?<=[:=→.]) ?{_EN_FILLER}){_SLOT}",
    ),
    # I change my answer to B
    (
        "explicit",
        r"(?i:\b(?:chang|correct|revis|switch|updat|amend)\w{0,4} (?:(?:my|the|this) )?(?:final )?(?:answer|choice)"
        rf"(?: from [^.\n]{{1,20}}?)? to {_EN_FILLER}){_SLOT}",
    ),
    # no wait, B / actually, it's B
    (
        "explicit",
        r"(?i:\b(?:no wait|wait|no|nope|actually|sorry|scratch that|i mean|i meant|on second thoughts?|make that"
        r"|oops)(?: ?[,.:;!…–-]{1,3} ?|(?<=mean) |(?<=meant) |(?<=that) |(?<=actually) (?=it|that))"
        rf"(?:(?:it|that)(?: i)?s |it should be )?{_EN_FILLER}){_PROSE}{_EN_END}",
    ),
    # B is the correct answer
    (
        "explicit",
        rf"{_PROSE} (?:is|are|would be|must be|should be) (?:(?:therefore|thus|clearly|probably|likely) )?(?:the|my) "
        r"(?:(?:correct|best|right|most appropriate|final) )?(?:answer|choice|option)",
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
        r"(?:가장|제일|남은|옳은|옳지 않은|틀린|잘못된|적절한|적절하지 않은|맞는|해당하는|해당하지 않는)[^.\n:]{0,40}?"
        rf"(?:은|는|:) ?{_KO_FILLER}{_PROSE}{_KO_END}",
    ),
    # the most likely diagnosis is B
    (
        "opinion",
        r"(?i:\bmost (?:likely|appropriate|suitable|probable|consistent|common)\b[^.\n:]{0,60}?(?:\bis\b|\bbe\b|:) ?"
        rf"{_EN_FILLER}){_PROSE}{_EN_END}",
    ),
    # B가 가장 적절합니다 / B번 보기가 맞습니다
    (
        "opinion",
        rf"{_PROSE}{_KO_OPTION}[이가만] ?(?:가장|제일|더)? ?"
        rf"(?:적절|적합|맞|옳|올바|알맞|타당|정확|합당|합리){_NOT_TAKEN_BACK}",
    ),
    # B is correct / E seems best
    (
        "opinion",
        rf"{_PROSE} (?:is|are|would be|must be|seems?|looks?) "
        r"(?:(?:therefore|thus|clearly|probably|likely|the|most|also) ){0,3}(?:correct|right|best|appropriate)\b"
        rf"{_NOT_TAKEN_BACK}",
    ),
    # B best fits / B fits best
    (
        "opinion",
        rf"{_PROSE} (?:best (?:fits|matches|explains|describes)|(?:fits|matches) (?:best|most closely))\b"
        rf"{_NOT_TAKEN_BACK}",
    ),
    # this leaves B
    ("opinion", rf"(?i:\bleav(?:es|ing) (?:us with |only |just )?{_EN_FILLER}){_PROSE}{_EN_END}"),
    # B를 선택합니다 / B로 하겠습니다 / B라고 생각한다
    (
        "opinion",
        rf"{_PROSE}{_KO_OPTION}"
        r"(?:(?:을|를|로|으로) ?(?:(?:정답|답)(?:으로)? ?)?(?:선택|고르|고릅|골라|골랐|고른|택하|택합|택했"
        r"|결정|판단|결론|하겠|하죠|할게|정하|정합|정했|답하|답합|답변|찍|가겠|갈게|갈래|할래|합니다|제출|제시합|확정합|확정하|갑니다|봅니다|보겠|보입니다|생각(?:합|한|됩|된|하겠))"
        r"|이?라고 ?(?:생각|판단|봅니다|본다|보겠|답하|답변|확신|추정)"
        r"|(?:일|인) ?것(?:으로|이라고)? ?(?:같|생각|판단|보입|보인|입니다|이다)"
        r"|(?:인|일) ?듯(?:합|하다|함)| 같(?:습니다|아요|다))"
        rf"{_NOT_TAKEN_BACK}",
    ),
    # B 선택합니다
    ("opinion", rf"{_PROSE} 선택(?:합니다|한다|하겠|함(?![가-힣])|(?=\.?$|\.?\n)){_NOT_TAKEN_BACK}"),
    # I would choose B
    (
        "opinion",
        r"(?i:(?<!not )(?<!nt )\b(?:choose|chose|pick|picked|select|selected|(?:go|going|went|stick|sticking) with"
        rf"|opt for|settle on|vote for)\b {_EN_FILLER}){_SLOT}",
    ),
    # It is B / I would say B / probably B
    (
        "opinion",
        r"(?i:\b(?:(?:it|that)(?: is|s| must be| should be| has to be)"
        r"|i(?: would|d| will|ll)? (?:say|guess|think|believe)"
        rf"(?: its| it is)?|lean(?:ing)? (?:towards?|to)) {_EN_FILLER}){_PROSE}{_EN_END}",
    ),
)


class Grammar(NamedTuple):
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


class Claim(NamedTuple):
    """A statement that an option, or several, is the answer."""

    start: int
    end: int
    options: frozenset[int]
    """What the target names: several where a letter and a text disagree, or where it is a list."""


def claims(read: str, known: Options, strength: Strength) -> list[Claim]:
    """The statements of one strength, in order; where rules find the same target, the one that reads most of it."""
    grammar = grammar_of(known.n)
    matches = [m for weight, rule in grammar.around_target if weight == strength for m in rule.finditer(read)]
    for kind, pattern in grammar.targets.items():
        rules = [rule for weight, of, rule in grammar.after_target if weight == strength and of == kind]
        matches += [m for m in pattern.finditer(read) if any(rule.match(read, m.end()) for rule in rules)]
    found: dict[int, Claim] = {}
    for match in matches:
        start, end = match.span("target")
        named = known.named(match["target"])
        if named and (start not in found or end > found[start].end):
            found[start] = Claim(start, end, named)
    return [found[start] for start in sorted(found)]


@lru_cache(maxsize=25)
def grammar_of(n_options: int) -> Grammar:
    """The patterns for this many options, made once."""
    last = OPTION_LETTERS[n_options - 1]
    listed = {_SLOT: target(last, slot=True), _PROSE: target(last, slot=False)}
    # Atomic, by a lookahead and its group again: a list that was read is not given back letter by letter, which would
    # take exponential time on long lists.
    claimed = {kind: rf"(?=(?P<target>{listed[kind]}))(?P=target){_NOT_CLAIMED}" for kind in listed}
    row = rf"[A-{last}](?: [A-{last}]){{1,25}}(?=\.?$)"
    after = [(weight, kind, rule[len(kind) :]) for weight, rule in _RULES for kind in listed if rule.startswith(kind)]
    around = [(weight, rule) for weight, rule in _RULES if not rule.startswith((_SLOT, _PROSE))]
    return Grammar(
        {kind: re.compile(claimed[kind]) for kind in listed},
        tuple((weight, kind, re.compile(rule)) for weight, kind, rule in after),
        tuple(
            (weight, re.compile(rule.replace(_SLOT, claimed[_SLOT]).replace(_PROSE, claimed[_PROSE])))
            for weight, rule in around
        ),
        re.compile(
            rf"(?:{_KO_FILLER}|(?:저는|나는|제 답은|제 생각에는?) "
            r"|(?i:(?:option|choice|letter|number|no\.|probably|definitely|likely|maybe),? ?[:#]? ?))"
            rf"(?=(?P<target>{row}|{listed[_SLOT]}))(?P=target)[):]? ?(?:보기|선택지|선지|옵션)?"
            r" ?(?:입니다|이다|임|이에요|예요|이죠|이?요| 선택)? ?[.,!]?"
        ),
        re.compile(
            rf"\(?(?:[A-{last}]|(?!e\. ?g\b)[a-{last.lower()}](?=[.):] | [–-] |, (?:because|since|as)))번?{NOT_SPECIES}"
            rf"(?:[.):]| [–-](?= )|,(?= (?:왜냐|이유는|(?:because|since|as)\b))) ?{MARK}?"
            rf"|\(?[1-9]\d?(?:번\)?|\)번)(?:[.:)]|,(?= (?:왜냐|이유는))) ?{MARK}?"
        ),
    )
