"""Where a text goes on with a question of its own, as base models do after they have answered.

Three signs: a heading ("[문제]", "### 문제 2", "Q2.", "다음 문제", "User:"), a question whose options are not those of
the item, and the layouts of the packaged prompt templates: such options, or a question alone, before the answer cue.
"""

import re
from collections.abc import Iterator
from itertools import islice

from sae_lens_med.prompts.answers.targets import MARK

_MOST = 50
"""As many as are looked at: after so many, whatever is still to come is no answer to the first."""

_NEXT = (
    r"(?:(?:다음|새로운|새|추가|다른|또 다른|관련|유사|비슷한|연습|예상|기출|모의|실전|심화|응용|확인|예시|예제"
    r"|후속|두 번째|세 번째|네 번째|둘째|셋째) ?)"
)
_EN_NEXT = (
    r"(?:next|new|another|additional|follow-? ?up|second|third|fourth"
    r"|practice|sample|similar|related|further|extra)"
)
_NUMBER = r"(?:#|no\.? ?|nr\.? ?|제)? ?\d{1,4} ?번?(?: ?(?:/|of) ?\d{1,4})?"
_HEADING = (
    # 문제 / 질문 2 / 다음 문제 3 / 예제 2 / 2번 문제 / 제2문 / 문 2
    rf"(?:(?:{_NEXT}?(?:문제|질문|문항)(?: ?번호)?(?: ?{_NUMBER})?"
    rf"|(?:예제|예시|사례|증례|연습문제|기출문제|문) ?{_NUMBER}"
    r"|(?:제 ?)?\d{1,4} ?번? ?(?:문제|문항|질문)|제 ?\d{1,4} ?문|연습문제|기출문제)"
    # Question / Q2 / Next question / Problem 2 / Example 2
    rf"|(?i:(?:{_EN_NEXT} )?(?:question|mcq)(?: (?:{_NUMBER}|one|two|three))?|Q[.#]? ?\d{{1,4}}|Q"
    rf"|problem(?: {_NUMBER})?"
    rf"|(?:{_EN_NEXT} )?(?:problem|exercise|example|case|item|task)(?: {_NUMBER})"
    rf"|{_EN_NEXT} (?:problem|example|case)))"
)
# What a label of an option may look like: A. / A) / (A) / 1) / (1) / 1번. `own` texts stand as private characters.
_FIRST, _SECOND = (rf"\(?(?:{names})(?:번?[.):]{{1,2}}|번)(?![.): ]*{MARK})" for names in ("A|a|1|가", "B|b|2|나"))
_LISTED = rf"(?:\(?(?i:선택지|보기|options?|choices?)\)? ?:?\n{{1,2}})?{_FIRST}[^\n]{{0,300}}\n{{1,2}}{_SECOND}"

_NEXT_QUESTION = re.compile(
    # a heading: alone on its line, before a mark, in brackets, or numbered and followed by a question
    rf"\n(?:[(<](?:{_HEADING}|예제|예시|예시 문제|(?i:example))[)>]"
    rf"|\(?{_HEADING}\)?(?= ?(?:[:.)>|]|\n|$)|(?= [–-] )|(?<=\d) [^\n]{{0,400}}\?))"
    rf"|\n{_NEXT}(?:문제|질문)(?:입니다|이다|는|를|로)(?![가-힣])"
    rf"|\n(?i:here is (?:the |a |an )?{_EN_NEXT} (?:question|example|problem))"
    r"|\n\(?(?i:user|human|student|instruction|사용자|지시(?: ?사항)?)\)? ?(?::|\n)"
    # a question with options of its own
    rf"|(?:\n[^\n]{{0,1000}})?(?:\?|고르시오\.?|고르세요\.?|고르면\?|것은:?)\n{{1,2}}{_LISTED}"
    # the layout of a prompt without options: a question, and the answer cue
    rf"|\n\n(?=[^\n]{{8,1000}}\?\n(?:정답|(?i:answer)) ?:)"
    rf"(?![^\n]*(?:{MARK}|\b[A-Z]\b|다시|정말|과연|확인|그렇|그럼|그러면|무엇일까|(?i:again|really|sure|\bso\b)))"
    # the prompt's layout: options of its own, and the answer cue
    rf"|(?P<prompt>(?:^|\n)A\. (?!{MARK})[^\n]{{0,300}}\nB\. (?!{MARK})[^\n]{{0,300}}\n"
    r"(?:[C-Z]\. [^\n]{0,300}\n){0,24}정답 ?:)"
    rf"|\n\(?A[.)] ?(?! ?{MARK})[^\n]{{0,300}}\n\(?B[.)] ?(?! ?{MARK})[^\n]{{0,300}}\n"
    r"(?:\(?[C-Z][.)] ?[^\n]{0,300}\n){0,24}(?:정답|(?i:answer)) ?:"
)


def next_questions(read: str) -> Iterator[re.Match[str]]:
    """The places of a folded, marked text where a further question begins, in order. The group `prompt` is set where
    the text before it has nothing to do with the options of the item."""
    return islice(_NEXT_QUESTION.finditer(read), _MOST)
