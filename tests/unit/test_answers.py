"""Answer extraction: the paper's cascade as lm-eval runs it, and what a person would read as the answer."""

import dataclasses
import json
import re
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_med.answers import Extraction, paper, strict
from sae_lens_med.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "kormedmcqa_train_shared.jsonl"
LUNG = ("폐렴", "천식", "폐결핵", "폐색전증", "기흉")
LUNG_EN = ("Pneumonia", "Asthma", "Tuberculosis", "Pulmonary embolism", "Pneumothorax")
FOUR = LUNG[:4]
VITAMINS = ("비타민 E", "비타민 D", "비타민 C", "비타민 B12", "비타민 A")
HEPATITIS = ("E형 간염", "D형 간염", "C형 간염", "B형 간염", "A형 간염")
TESTS = ("항핵항체(ANA)", "류마티스인자(RF)", "비타민B12(cobalamin)", "갑상샘자극호르몬(TSH)", "C-반응단백(CRP)")
NUMBERS = ("5", "4", "3", "2", "1")
PNEUMONIAS = ("폐렴", "세균성 폐렴", "바이러스 폐렴", "흡인성 폐렴", "곰팡이 폐렴")
GERMS = ("S. aureus", "K. pneumoniae", "E. coli", "P. aeruginosa", "C. difficile")
CARE = (
    "절대안정을 취하도록 한다.",
    "수분 섭취를 권장한다.",
    "처방된 항생제를 투여한다.",
    "의사에게 즉시 보고한다.",
    "활력징후를 측정한다.",
)

# name, what the model wrote, what a person reads: a letter, or why there is none.
LABELS = [
    ("label", "정답: B", "B"),
    ("label-no-space", "정답:B", "B"),
    ("label-full-width-colon", "정답：B", "B"),
    ("label-full-width-letter", "정답： Ｂ", "B"),
    ("label-small-letter", "정답: b", "B"),
    ("label-small-a", "정답: a", "A"),
    ("label-full-stop", "정답: B.", "B"),
    ("label-with-text", "정답: B. 천식", "B"),
    ("label-with-text-parenthesis", "정답: B) 천식", "B"),
    ("label-brackets", "정답: (B)", "B"),
    ("label-brackets-text", "정답: (B) 천식", "B"),
    ("label-square-brackets", "정답: [B]", "B"),
    ("label-corner-brackets", "【정답】 B", "B"),
    ("label-in-brackets", "[정답] B", "B"),
    ("label-all-in-brackets", "(정답: B)", "B"),
    ("label-quotes", '정답: "B"', "B"),
    ("label-curly-quotes", "정답: ‘B’", "B"),
    ("label-dash", "정답 - B", "B"),
    ("label-arrow", "정답 → B", "B"),
    ("label-equals", "정답 = B", "B"),
    ("label-no-mark", "정답 B", "B"),
    ("label-answer-number", "정답 번호: 2", "B"),
    ("label-number", "정답: 3", "C"),
    ("label-number-beon", "정답: 3번", "C"),
    ("label-number-beon-text", "정답: 3번 폐결핵", "C"),
    ("label-circled", "정답: ③", "C"),
    ("label-circled-text", "정답: ③ 폐결핵", "C"),
    ("label-circled-beon", "정답은 ⑤번입니다.", "E"),
    ("label-negative-circled", "정답: ❹", "D"),
    ("label-circled-letter", "정답: Ⓓ", "D"),
    ("label-parenthesised-digit", "정답: ⑵", "B"),
    ("label-next-line", "정답:\nB", "B"),
    ("label-two-lines-down", "정답:\n\nB. 천식", "B"),
    ("label-letter-beon", "정답: B번", "B"),
    ("label-copula", "정답: B입니다.", "B"),
    ("label-text-then-letter", "정답: 천식 (B)", "B"),
    ("label-text-then-letter-closed", "정답: 천식(B)", "B"),
    ("label-reason-after", "정답: B (쌕쌕거림이 있으므로)", "B"),
    ("label-explanation-after", "정답: D\n\n해설: A와 B는 증상이 다르고 C는 만성 경과를 보인다.", "D"),
    ("label-final", "최종 정답: E", "E"),
    ("label-final-answer", "최종 답변: E", "E"),
    ("label-final-short", "최종답: E", "E"),
    ("label-dap", "답: C", "C"),
    ("label-dapan", "답안: C", "C"),
    ("label-choice", "선택: C", "C"),
    ("label-conclusion", "결론: C", "C"),
    ("label-emoji", "✅ 정답: C", "C"),
    ("label-bullet", "- 정답: C", "C"),
    ("label-quote-line", "> 정답: C", "C"),
    ("label-wrong-answers-after", "정답: B\n오답: A, C, D, E", "B"),
    ("label-zero-width-space", "정답:\u200b B", "B"),
    ("label-no-break-space", "정답:\u00a0B", "B"),
    ("label-decomposed-hangul", unicodedata.normalize("NFD", "정답: B"), "B"),
    ("label-mathematical-bold", "정답: 𝐁", "B"),
    ("label-crlf", "풀이\r\n정답: B\r\n", "B"),
    ("label-end-of-turn", "정답: B<|im_end|>\n<|im_start|>user\n정답: C", "B"),
    ("label-end-of-sequence", "정답: B</s>", "B"),
    ("label-gemma-end-of-turn", "정답: B<end_of_turn>", "B"),
    ("label-json", '{"answer": "B"}', "B"),
    ("label-json-fence", '```json\n{\n  "정답": "B"\n}\n```', "B"),
    ("label-tag", "<answer>B</answer>", "B"),
    ("label-tag-with-text", "풀이\n<answer>B. 천식</answer>", "B"),
]
MARKDOWN = [
    ("md-bold-all", "**정답: B**", "B"),
    ("md-bold-label", "**정답:** B", "B"),
    ("md-bold-label-colon-out", "**정답**: B", "B"),
    ("md-bold-letter", "정답: **B**", "B"),
    ("md-bold-letter-text", "정답: **B. 천식**", "B"),
    ("md-bold-brackets", "정답: **(B)**", "B"),
    ("md-bold-alone", "**B**", "B"),
    ("md-bold-alone-text", "**B. 천식**", "B"),
    ("md-underscore", "정답: __B__", "B"),
    ("md-code", "정답: `B`", "B"),
    ("md-heading", "### 정답: B", "B"),
    ("md-heading-next-line", "### 정답\nB", "B"),
    ("md-heading-next-paragraph", "### 정답\n\n**B. 천식**\n\n### 해설\n기도의 만성 염증입니다.", "B"),
    ("md-heading-emoji", "### ✅ 정답: **B. 천식**", "B"),
    ("md-heading-last", "### 풀이\n쌕쌕거림이 있다.\n\n---\n\n### 최종 정답:\n**B. 천식**", "B"),
    ("md-html", "<b>정답: B</b><br>", "B"),
    ("boxed", "\\boxed{C}", "C"),
    ("boxed-dollars", "따라서 $\\boxed{C}$", "C"),
    ("boxed-text", "$$\\boxed{\\text{C}}$$", "C"),
    ("boxed-letter-and-text", "\\boxed{C. 폐결핵}", "C"),
    ("boxed-option-text", "\\boxed{폐결핵}", "C"),
    ("boxed-number", "\\boxed{3}", "C"),
    ("boxed-label", "\\boxed{\\text{정답: C}}", "C"),
    ("boxed-after-reasoning", "A는 급성, B는 쌕쌕거림이 특징이다.\n\n정답은 다음과 같습니다.\n\n\\boxed{C}", "C"),
    ("boxed-brackets", "\\[ \\boxed{(C)} \\]", "C"),
]
SENTENCES = [
    ("is-b", "정답은 B입니다.", "B"),
    ("is-b-no-space", "정답은B입니다", "B"),
    ("is-b-spaced", "정답은 B 입니다.", "B"),
    ("is-b-plain", "정답은 B이다.", "B"),
    ("is-b-da", "정답은 B다.", "B"),
    ("is-b-stop", "따라서 정답은 B.", "B"),
    ("is-b-im", "답은 B임", "B"),
    ("is-dap", "답은 B입니다", "B"),
    ("is-dap-joined", "답은B", "B"),
    ("is-brackets", "그러므로 답은 (D)이다.", "D"),
    ("is-beon", "정답은 B번입니다.", "B"),
    ("is-number-beon", "정답은 4번입니다.", "D"),
    ("is-number-beon-text", "정답은 4번 폐색전증입니다.", "D"),
    ("is-circled", "정답은 ④입니다.", "D"),
    ("is-quoted", "정답은 'B. 천식'입니다.", "B"),
    ("is-bold", "따라서 정답은 **B. 천식**입니다.", "B"),
    ("is-exactly", "정답은 바로 B입니다.", "B"),
    ("is-option", "정답은 보기 B입니다.", "B"),
    ("is-seonji", "정답은 선지 B이다.", "B"),
    ("is-follows", "정답은 다음과 같습니다: B", "B"),
    ("is-follows-line", "정답은 다음과 같습니다.\n\n**B. 천식**", "B"),
    ("is-text-in-brackets", "정답은 천식(B)입니다.", "B"),
    ("is-brackets-after", "정답은 B(천식)이다.", "B"),
    ("is-ro", "정답은 B로 판단됩니다.", "B"),
    ("is-rago", "정답은 B라고 생각합니다.", "B"),
    ("is-yo", "정답은 B예요!", "B"),
    ("is-colon", "정답은: B", "B"),
    ("is-not-a-but-b", "정답은 A가 아니라 B입니다.", "B"),
    ("is-b-not-a", "정답은 B이지 A가 아니다.", "B"),
    ("as-answer-choose", "정답으로 B를 선택합니다.", "B"),
    ("answer-as-b", "정답을 B로 선택하겠습니다.", "B"),
    ("b-is-the-answer", "따라서 B가 정답입니다.", "B"),
    ("b-beon-is-the-answer", "B번이 정답이다.", "B"),
    ("number-is-the-answer", "3번이 정답입니다.", "C"),
    ("circled-is-the-answer", "③이 정답이다", "C"),
    ("option-b-is-the-answer", "보기 B가 답입니다.", "B"),
    ("b-choice-is-the-answer", "B 선택지가 정답입니다.", "B"),
    ("b-is-right", "B가 맞습니다.", "B"),
    ("b-is-most-fit", "이 환자에게는 B가 가장 적절합니다.", "B"),
    ("b-text-is-most-fit", "B. 천식이 가장 적절하다.", "B"),
    ("most-fit-is-b", "가장 적절한 것은 B", "B"),
    ("most-fit-is-b-copula", "가장 적절한 치료는 B입니다.", "B"),
    ("most-likely-is-b-text", "가장 가능성이 높은 진단은 B. 천식입니다.", "B"),
    ("not-right-is-c", "따라서 옳지 않은 것은 C입니다.", "C"),
    ("think-b", "저는 B라고 생각합니다.", "B"),
    ("perhaps-b", "아마 B일 것 같습니다.", "B"),
    ("will-be-b", "정답은 B일 것입니다.", "B"),
    ("only-b", "A, C, D, E는 틀렸고 B만 정답이다.", "B"),
    ("not-sure-but-b", "정답을 확정하기 어렵지만 B로 판단됩니다.", "B"),
    ("because-b", "정답이 B인 이유는 다음과 같다.", "B"),
    ("choose-b", "저는 B를 선택하겠습니다.", "B"),
    ("choose-beon", "그러므로 B번을 고르겠습니다.", "B"),
    ("so-b", "쌕쌕거림과 기도과민성이 있다. 따라서 B.", "B"),
    ("so-b-comma", "따라서, B입니다.", "B"),
    ("therefore-sign", "∴ B", "B"),
    ("decided-b", "따라서 B로 결정한다.", "B"),
    ("english-word-in-korean", "따라서 answer는 B입니다.", "B"),
]
BARE = [
    ("bare", "B", "B"),
    ("bare-space", " B", "B"),
    ("bare-newline", "B\n", "B"),
    ("bare-small", "b", "B"),
    ("bare-small-a", "a", "A"),
    ("bare-stop", "B.", "B"),
    ("bare-text", "B. 천식", "B"),
    ("bare-text-parenthesis", "B) 천식", "B"),
    ("bare-text-colon", "B: 천식", "B"),
    ("bare-text-dash", "B - 천식", "B"),
    ("bare-text-space", "B 천식", "B"),
    ("bare-brackets", "(B)", "B"),
    ("bare-brackets-text", "(B) 천식", "B"),
    ("bare-full-width", "Ｂ", "B"),
    ("bare-beon", "B번", "B"),
    ("bare-copula", "B입니다.", "B"),
    ("bare-beon-copula", "B번입니다.", "B"),
    ("bare-ida", "B이다", "B"),
    ("bare-number", "3", "C"),
    ("bare-number-beon", "3번", "C"),
    ("bare-number-bracket", "3)", "C"),
    ("bare-number-text", "3. 폐결핵", "C"),
    ("bare-circled", "③", "C"),
    ("bare-circled-text", "③ 폐결핵", "C"),
    ("bare-then-reason", "B\n\n쌕쌕거림은 A보다 B에서 흔하다.", "B"),
    ("bare-text-then-reason", "B. 천식\n\n해설: A. 폐렴은 발열이 있고 C. 폐결핵은 만성이다.", "B"),
    ("bare-then-options", "B\n\nA. 폐렴: 발열이 없다\nB. 천식: 쌕쌕거림\nC. 폐결핵: 만성", "B"),
    ("bare-prose", "B. 이 환자는 쌕쌕거림과 가역적인 기도 폐쇄를 보인다", "B"),
    ("bare-last-line", "쌕쌕거림과 야간 기침이 특징이다.\n\nB", "B"),
    ("bare-last-line-text", "쌕쌕거림과 야간 기침이 특징이다.\n\n**B. 천식**", "B"),
    ("bare-next-question", "B\n\n질문: 45세 여자가 가슴 통증으로 왔다. 진단은?\nA. 협심증\nB. 위염\n정답： A", "B"),
    ("bare-next-prompt", "B\n\n45세 여자가 왔다.\nA. 협심증\nB. 위염\nC. 담석\nD. 췌장염\nE. 늑막염\n정답： A", "B"),
    (
        "cot-next-prompt",
        "쌕쌕거린다.\n정답: B\n\n45세 여자의 진단은?\nA. 위염\nB. 담석\nC. 암\nD. 장염\nE. 통풍\n간다.\n정답: A",
        "B",
    ),
]
REASONING = [
    ("cot-final-line", "A는 발열이 있다. C는 만성이다. D는 갑작스럽다.\n\n정답: B", "B"),
    ("cot-options-listed", "A. 폐렴 - 발열\nB. 천식 - 쌕쌕거림\nC. 폐결핵 - 체중감소\n\n따라서 정답은 B입니다.", "B"),
    ("cot-wrong-ones-named", "A는 정답이 아니다. C도 정답이 아니다. 따라서 정답은 B이다.", "B"),
    ("cot-corrects-itself", "정답은 A입니다. 아니, 다시 보면 정답은 B입니다.", "B"),
    ("cot-corrects-on-a-later-line", "정답: A\n\n다시 검토하면 쌕쌕거림이 있다.\n\n정답: B", "B"),
    ("cot-first-seemed", "처음에는 A가 정답일 것 같지만 발열이 없다. 따라서 B가 정답이다.", "B"),
    ("cot-if", "만약 정답이 A라면 발열이 있어야 한다. 정답은 B이다.", "B"),
    ("cot-question", "정답은 A일까? 발열이 없다. 정답은 B이다.", "B"),
    ("cot-question-answered", "정답은 A이다? 아니다. 발열이 없으므로 B이다. 정답: B", "B"),
    ("cot-format-echo", "마지막 줄에 '정답: X' 형식으로 답하겠습니다.\n쌕쌕거림이 있다.\n정답: B", "B"),
    ("cot-range-echo", "선택지는 A~E이다.\n정답: B", "B"),
    ("cot-so-b-after-candidates", "A가 적절할 수 있으나 발열이 없다.\nB가 가장 적절하다.\n정답: B", "B"),
    ("cot-text-conclusion", "쌕쌕거림이 있다. 따라서 정답은 천식입니다.", "B"),
    ("cot-conclusion-overrules-bare", "A\n\n다시 생각해 보면 정답은 B입니다.", "B"),
    ("cot-steps", "1. 증상: 쌕쌕거림\n2. 검사: 가역적 폐쇄\n3. 진단: 천식\n\n정답: B", "B"),
    ("cot-step-numbers-only", "1. 증상을 본다\n2. 검사를 본다\n3. 진단을 정한다", "no_answer"),
    ("cot-single-line", "쌕쌕거림은 천식에서 나타나므로 답은 B.", "B"),
    ("think-then-answer", "<think>\nA일까? 정답은 A\n</think>\n\n정답: B", "B"),
    ("think-then-bare", "<think>\n\n</think>\n\nB", "B"),
    ("think-opened-by-the-prompt", "정답은 A일 것이다.\n</think>\n\nB. 천식", "B"),
    ("think-empty-after", "<think>정답은 A</think>", "no_answer"),
    ("think-unclosed", "<think>\n이 환자는 쌕쌕거림이 있으므로 정답은 B", "truncated"),
    ("think-answer-before-unclosed", "정답: B\n<think>\n확인해 보자. 정답은 A", "B"),
    ("think-twice", "<think>A</think>정답: A<think>다시</think>정답: B", "B"),
    ("think-harmony", "analysisThe answer is A maybe.assistantfinal정답: B", "B"),
    ("think-thought-tag", "<thought>정답은 A</thought>\n정답: B", "B"),
]
OPTION_TEXT = [
    ("text-alone", "천식", "B"),
    ("text-alone-stop", "천식.", "B"),
    ("text-alone-copula", "천식입니다.", "B"),
    ("text-label", "정답: 천식", "B"),
    ("text-label-full-width", "정답：천식", "B"),
    ("text-is", "정답은 천식입니다.", "B"),
    ("text-is-plain", "답은 폐색전증이다.", "D"),
    ("text-glossed", "정답: 폐색전증(Pulmonary embolism)", "D"),
    ("text-glossed-copula", "따라서 진단은 폐색전증(PE)입니다.", "D"),
    ("text-is-quoted", "정답은 '폐색전증'입니다.", "D"),
    ("text-other-spacing", "정답: 폐 색전증", "D"),
    ("text-is-the-answer", "폐색전증이 정답입니다.", "D"),
    ("text-most-likely", "가장 가능성이 높은 진단은 폐색전증이다.", "D"),
    ("text-therefore", "따라서 이 환자의 진단은 기흉입니다.", "E"),
    ("text-of-a-longer-word", "정답: 결핵성 늑막염", "no_answer"),
    ("text-not-among-the-options", "정답: 심근경색", "no_answer"),
    ("text-two", "정답: 폐렴, 천식", "ambiguous"),
    ("text-disagrees", "정답: B. 폐색전증", "ambiguous"),
    ("text-disagrees-number", "정답: 2번 폐색전증", "ambiguous"),
    ("text-disagrees-brackets", "정답은 폐색전증(B)입니다.", "ambiguous"),
    ("text-disagrees-bare", "B. 폐색전증", "ambiguous"),
    ("text-only-mentioned", "폐렴과 천식은 모두 기침을 일으킨다.", "no_answer"),
]
NONE = [
    ("none-empty", "", "no_answer"),
    ("none-space", " \n\n ", "no_answer"),
    ("none-prose", "이 환자는 쌕쌕거림을 보이는 35세 남자이다.", "no_answer"),
    ("none-question-again", "다음 중 가장 적절한 진단은?", "no_answer"),
    ("none-options-again", "A. 폐렴\nB. 천식\nC. 폐결핵\nD. 폐색전증\nE. 기흉", "no_answer"),
    ("none-label-only", "정답:", "no_answer"),
    ("none-label-placeholder", "정답: X", "no_answer"),
    ("none-all", "모두 정답이다.", "no_answer"),
    ("none-group-a", "정답: A군 연쇄구균", "no_answer"),
    ("none-beyond", "정답: F", "no_answer"),
    ("none-beyond-bare", "H", "no_answer"),
    ("none-beyond-number", "정답: 7번", "no_answer"),
    ("none-beyond-circled", "정답: ⑦", "no_answer"),
    ("none-zero", "정답: 0", "no_answer"),
    ("none-of-them", "정답이 없습니다.", "no_answer"),
    ("none-number-with-unit", "정답: 3개월", "no_answer"),
    ("none-number-decimal", "정답: 3.5", "no_answer"),
    ("none-number-range", "정답은 2-3일입니다.", "no_answer"),
    ("none-long-number", "정답: 35", "no_answer"),
    ("none-not-a", "A는 정답이 아니다.", "no_answer"),
    ("none-not-a-2", "정답은 A가 아닙니다.", "no_answer"),
    ("none-a-wrong", "A는 틀린 설명이다.", "no_answer"),
    ("none-a-not-fit", "A가 적절하지 않다.", "no_answer"),
    ("none-jamo", "ㄱ, ㄴ", "no_answer"),
    ("none-circled-jamo", "정답: ㉠", "no_answer"),
    ("none-wrong-answer-label", "오답: A", "no_answer"),
    ("none-rate", "정답률: 3", "no_answer"),
    ("none-repeated", "ABABABABABABAB", "no_answer"),
    ("several-label", "정답: A, C", "ambiguous"),
    ("several-and", "정답은 A와 C입니다.", "ambiguous"),
    ("several-or", "정답은 A 또는 C입니다.", "ambiguous"),
    ("several-slash", "정답: A/C", "ambiguous"),
    ("several-circled", "정답: ①, ③", "ambiguous"),
    ("several-circled-joined", "정답: ①③", "ambiguous"),
    ("several-all-right", "A, B, C, D, E 모두 정답이다.", "ambiguous"),
    ("several-bare", "A, C", "ambiguous"),
    ("several-all", "A B C D E", "ambiguous"),
    ("several-lines", "A\nC", "ambiguous"),
    ("several-claims", "A가 적절하다. C가 적절하다.", "ambiguous"),
    ("several-answers-in-a-line", "정답은 A입니다. 정답은 C입니다.", "ambiguous"),
    ("several-label-lines", "정답: A\n정답: B\n정답: C\n정답: D\n정답: E", "ambiguous"),
    ("refused-sorry", "죄송합니다. 저는 의료 전문가가 아니므로 답변을 드릴 수 없습니다.", "refused"),
    ("refused-advice", "저는 AI 언어 모델로서 의학적 조언을 제공할 수 없습니다.", "refused"),
    ("refused-see-a-doctor", "정확한 진단을 위해 의사와 상담하시기 바랍니다.", "refused"),
    ("refused-unknown", "정답을 알 수 없습니다.", "refused"),
    ("refused-no-idea", "잘 모르겠습니다.", "refused"),
    ("refused-too-little", "주어진 정보만으로는 정답을 선택할 수 없습니다.", "refused"),
    ("refused-cannot-answer", "이 질문에는 답할 수 없습니다.", "refused"),
    (
        "refusal-then-answer",
        "저는 의사가 아니므로 의학적 조언을 드릴 수 없습니다. 다만 시험 문제로 본다면 정답은 B입니다.",
        "B",
    ),
    ("unknown-cause-is-no-refusal", "원인을 알 수 없는 열이 지속된다.", "no_answer"),
]
ENGLISH = [
    ("en-is", "The answer is D", "D"),
    ("en-is-stop", "The answer is D.", "D"),
    ("en-is-brackets", "The answer is (D).", "D"),
    ("en-label", "Answer: (D)", "D"),
    ("en-label-small", "answer: d", "D"),
    ("en-label-text", "Answer: D. Pulmonary embolism", "D"),
    ("en-label-bold", "**Answer: D**", "D"),
    ("en-final", "Final answer: D", "D"),
    ("en-final-bold", "**Final Answer:** **D**", "D"),
    ("en-heading", "## Answer\n\nD) Pulmonary embolism", "D"),
    ("en-correct-answer", "The correct answer is **D) Pulmonary embolism**.", "D"),
    ("en-correct-option", "Therefore, the correct option is (D).", "D"),
    ("en-best-choice", "Thus, the best choice is option D.", "D"),
    ("en-would-be", "So the answer would be D, because of the sudden onset.", "D"),
    ("en-option-is-correct", "Option D is correct.", "D"),
    ("en-is-the-correct-answer", "D is the correct answer.", "D"),
    ("en-i-choose", "I would choose D.", "D"),
    ("en-therefore", "The onset is sudden. Therefore, D.", "D"),
    ("en-so-answer", "None fit.\n\nThus answer is E.", "E"),
    ("en-believe", "Therefore, I believe B is the correct answer.", "B"),
    ("en-correct-is", "So correct is E.", "E"),
    ("en-most-likely-letter", "So most likely is D. Pulmonary embolism.", "D"),
    ("en-answer-without-is", "Therefore, answer B.", "B"),
    ("en-text", "The most likely diagnosis is pulmonary embolism.", "D"),
    ("en-text-answer", "The answer is pulmonary embolism.", "D"),
    ("en-text-article", "The answer is a pneumothorax.", "E"),
    ("en-text-alone", "Pulmonary embolism", "D"),
    ("en-a", "The answer is A.", "A"),
    ("en-a-small-stop", "the answer is a.", "A"),
    ("en-article", "This is a patient with a cough.", "no_answer"),
    ("en-article-capital", "A 35-year-old man has a cough.", "no_answer"),
    ("en-article-answer", "The answer is a matter of clinical judgement.", "no_answer"),
    ("en-article-answer-2", "The answer is a combination of rest and fluids.", "no_answer"),
    ("en-pronoun", "I think it is serious.", "no_answer"),
    ("en-not-a", "The answer is not A.", "no_answer"),
    ("en-not-a-but-d", "The answer is D, not A.", "D"),
    ("en-not-correct", "A is not correct.", "no_answer"),
    ("en-incorrect", "Option A is incorrect.", "no_answer"),
    ("en-wrong-then-right", "A is incorrect. B is incorrect. D is correct.", "D"),
    ("en-if", "If the answer is A there would be fever.", "no_answer"),
    ("en-wait", "The answer is A. Wait, the onset is sudden, so the answer is D.", "D"),
    ("en-two", "The answer is A or D.", "ambiguous"),
    ("en-both", "Both A and D are correct.", "ambiguous"),
    ("en-hepatitis", "The patient was vaccinated against hepatitis B.", "no_answer"),
    ("en-vitamin", "Most likely a deficiency of vitamin D.", "no_answer"),
    ("en-therefore-vitamin", "Therefore, vitamin D.", "no_answer"),
    ("en-iga", "Serum IgA is elevated; give 5 mg of drug C-12.", "no_answer"),
    ("en-refused", "I'm sorry, but I can't help with that.", "refused"),
    ("en-refused-advice", "As an AI, I cannot provide medical advice.", "refused"),
    ("en-refused-doctor", "I am not a doctor. Please consult a healthcare professional.", "refused"),
    ("en-refused-know", "I don't know.", "refused"),
    ("en-sorry-but", "I am not a doctor, but the answer is D.", "D"),
    ("en-options-again", "A. Pneumonia\nB. Asthma\nC. Tuberculosis", "no_answer"),
    ("en-step-by-step", "Let's think step by step. Option A: fever. Option D: sudden.\n\nThe answer is D.", "D"),
]
MEDICAL = [
    ("vitamin-text", "정답: 비타민 A", VITAMINS, "E"),
    ("vitamin-is", "정답은 비타민 D입니다.", VITAMINS, "B"),
    ("vitamin-letter-and-text", "정답: E. 비타민 A", VITAMINS, "E"),
    ("vitamin-b12", "정답은 비타민B12이다.", VITAMINS, "D"),
    ("vitamin-is-the-answer", "비타민 C가 정답이다.", VITAMINS, "C"),
    ("vitamin-mention", "비타민 A 결핍은 야맹증을 일으킨다.", VITAMINS, "no_answer"),
    ("vitamin-therefore", "따라서 비타민 A", VITAMINS, "E"),
    ("vitamin-bold", "**비타민 A**", VITAMINS, "E"),
    ("vitamin-not-an-option", "정답: 비타민 A", LUNG, "no_answer"),
    ("vitamin-not-an-option-2", "비타민 A가 정답이다.", LUNG, "no_answer"),
    ("hepatitis-text", "정답: B형 간염", HEPATITIS, "D"),
    ("hepatitis-text-virus", "B형 간염 바이러스", HEPATITIS, "no_answer"),
    ("hepatitis-mention", "B형 간염 바이러스 보유자이다.", LUNG, "no_answer"),
    ("hepatitis-is-the-answer", "B형 간염이 정답이다.", LUNG, "no_answer"),
    ("hepatitis-letter", "정답: D. B형 간염", HEPATITIS, "D"),
    ("hepatitis-disagrees", "정답: B. B형 간염", HEPATITIS, "ambiguous"),
    ("blood-group", "A형 혈액", LUNG, "no_answer"),
    ("crp", "C-반응단백이 증가한다.", LUNG, "no_answer"),
    ("crp-label", "정답: C-반응단백", LUNG, "no_answer"),
    ("crp-text", "정답: C-반응단백", TESTS, "E"),
    ("b-cell", "정답: B세포 림프종", LUNG, "no_answer"),
    ("d-dimer", "D-dimer 상승", LUNG, "no_answer"),
    ("iga", "IgA 신병증", LUNG, "no_answer"),
    ("child-pugh", "Child-Pugh C에 해당한다.", LUNG, "no_answer"),
    ("type-a", "인플루엔자 A가 정답", LUNG, "no_answer"),
    ("genus-not-an-option", "정답: E. coli 감염", LUNG, "no_answer"),
    ("genus-text", "정답: E. coli", GERMS, "C"),
    ("genus-letter-and-text", "정답: C. E. coli", GERMS, "C"),
    ("genus-alone", "C. difficile", GERMS, "E"),
    ("half-outside", "정답은 항핵항체입니다.", TESTS, "A"),
    ("half-inside", "정답: TSH", TESTS, "D"),
    ("half-whole", "정답: 갑상샘자극호르몬 (TSH)", TESTS, "D"),
    ("half-other-case", "정답: 비타민 B12 (Cobalamin)", TESTS, "C"),
    ("number-is-an-option", "정답: 5", NUMBERS, "A"),
    ("number-beon-is-an-index", "정답: 5번", NUMBERS, "E"),
    ("number-letter-and-text", "정답: B. 4", NUMBERS, "B"),
    ("number-copula", "정답은 2입니다.", NUMBERS, "D"),
    ("longest-option", "정답: 세균성 폐렴", PNEUMONIAS, "B"),
    ("shortest-option", "정답: 폐렴", PNEUMONIAS, "A"),
    ("other-modifier", "정답: 간질성 폐렴", PNEUMONIAS, "no_answer"),
    ("sentence-option", "정답: 처방된 항생제를 투여한다.", CARE, "C"),
    ("sentence-option-no-stop", "정답은 '처방된 항생제를 투여한다'입니다.", CARE, "C"),
    ("sentence-option-letter", "정답: C. 처방된 항생제를 투여한다.", CARE, "C"),
    ("sentence-option-alone", "의사에게 즉시 보고한다.", CARE, "D"),
    ("four-options-d", "정답: D", FOUR, "D"),
    ("four-options-e", "정답: E", FOUR, "no_answer"),
    ("four-options-five", "정답: 5번", FOUR, "no_answer"),
    ("four-options-circled", "정답: ④", FOUR, "D"),
]
CUT = [
    ("cut-reasoning", "이 환자는 35세 남자로 쌕쌕거림이 있으며 가장 가능성이 높은", "truncated"),
    ("cut-empty", "", "truncated"),
    ("cut-options", "A. 폐렴: 발열이 있다.\nB. 천식: 쌕쌕거림이", "truncated"),
    ("cut-first-option", "A. 폐렴은 발열과 기침을", "truncated"),
    ("cut-label", "따라서 정답은", "truncated"),
    ("cut-after-statement", "정답: B\n\n해설: 천식은 기도의 만성 염증으로", "B"),
    ("cut-after-sentence", "정답은 B입니다. 그 이유는 다음과 같", "B"),
    ("cut-bare", "B", "B"),
    ("cut-bare-then-reason", "B\n\n해설: 천식은 기도의", "B"),
    ("cut-bare-text-then-reason", "B. 천식\n\n해설: 기도의", "B"),
    ("cut-weak", "A가 적절하다고 보인다. 그러나", "truncated"),
    ("cut-refusal", "죄송하지만 의학적 조언을 제공할 수 없습니다. 자세한", "refused"),
    ("cut-several", "정답은 A 또는 C입니다. 그런데", "ambiguous"),
    ("cut-think", "<think>\n정답은 B", "truncated"),
    ("cut-last-line", "발열이 없다.\n\nB. 천", "truncated"),
]

_KOREAN = LABELS + MARKDOWN + SENTENCES + BARE + REASONING + OPTION_TEXT + NONE
FORMS = (
    [(name, text, LUNG, False, read) for name, text, read in _KOREAN]
    + [(name, text, LUNG_EN, False, read) for name, text, read in ENGLISH]
    + [(name, text, options, False, read) for name, text, options, read in MEDICAL]
    + [(name, text, LUNG, True, read) for name, text, read in CUT]
)


@pytest.mark.parametrize(
    ("text", "options", "truncated", "read"), [form[1:] for form in FORMS], ids=[form[0] for form in FORMS]
)
def test_reads_what_a_person_reads(text: str, options: tuple[str, ...], truncated: bool, read: str) -> None:
    found = strict(text, options, truncated=truncated)
    assert (found.letter or found.reason) == read
    assert (found.letter is None) == (found.reason is not None)


def test_the_table_is_large_and_its_names_are_unique() -> None:
    names = [form[0] for form in FORMS]
    assert len(names) == len(set(names))
    assert len({form[1:4] for form in FORMS}) >= 250


# --- properties of the strict reading -------------------------------------------------------------------------------

LETTERS = "ABCDE"
PIECES = [
    "정답", "답은", ": ", "：", "은 ", "입니다", "이다.", "가 ", "따라서 ", "가장 적절한 것은 ", "번", "아니라 ",
    "\n", "\n\n", " ", ". ", ", ", "The answer is ", "Answer: ", "not ", "a ", "I ", "Option ", " is correct",
    "therefore ", "\\boxed{", "}", "(", ")", "**", "<think>", "</think>", "<|im_end|>", "A", "B", "C", "Ｄ", "e", "F",
    "1", "3", "②", "⑨", "폐렴", "천식", "비타민 ", "E. coli", "질문: ", "죄송합니다",
]  # fmt: skip
written = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=25).map("".join))


@settings(max_examples=400, deadline=None)
@given(
    text=written, options=st.sampled_from([LUNG, FOUR, VITAMINS, NUMBERS, GERMS, ("예", "아니오")]), cut=st.booleans()
)
def test_any_text_is_read_and_a_letter_lies_within_the_options(text: str, options: tuple[str, ...], cut: bool) -> None:
    found = strict(text, options, truncated=cut)
    if found.letter is None:
        assert found.reason in ("no_answer", "truncated", "ambiguous", "refused")
        assert cut or found.reason != "truncated" or "<think>" in text
    else:
        assert found.reason is None and found.letter in LETTERS[: len(options)]


@settings(max_examples=50, deadline=None)
@given(text=st.text(), options=st.lists(st.text(), min_size=4, max_size=5))
def test_any_options_can_be_looked_for(text: str, options: list[str]) -> None:
    strict(f"{text}\n정답: {options[-1]}", options)


REASONS = st.lists(
    st.sampled_from(
        [
            "이 환자는 35세 남자로 쌕쌕거림을 보인다.",
            "폐렴은 발열이 있고 폐결핵은 만성이다.",
            "비타민 A 결핍은 관련이 없다.",
            "A는 정답이 아니다.",
            "B형 간염 바이러스 검사는 음성이다.",
            "A. 폐렴: 맞지 않다.\nC. 폐결핵: 맞지 않다.",
            "The patient has a cough and a fever.",
        ]
    ),
    max_size=4,
)
CLAIMS = [
    "정답은 {}입니다.",
    "따라서 {}가 정답이다.",
    "{}가 가장 적절하다.",
    "The answer is {}.",
    "정답: {}",
    "**{}**",
    "{}",
    "",
]
FINAL = [
    "정답: {}",
    "**정답: {}**",
    "정답：{}",
    "최종 정답은 {}입니다.",
    "Final answer: {}",
    "\\boxed{{{}}}",
    "따라서 {}이다.",
]


@settings(max_examples=300, deadline=None)
@given(
    reasons=REASONS,
    claim=st.sampled_from(CLAIMS),
    claimed=st.sampled_from(LETTERS),
    final=st.sampled_from(FINAL),
    letter=st.sampled_from(LETTERS),
    gap=st.sampled_from(["\n", "\n\n"]),
)
def test_a_final_line_decides_over_one_claim_before_it(
    reasons: list[str], claim: str, claimed: str, final: str, letter: str, gap: str
) -> None:
    text = gap.join([*reasons, claim.format(claimed), final.format(letter)])
    assert strict(text, LUNG) == Extraction(letter, None)
    assert strict(text, LUNG, truncated=True) == Extraction(letter, None)


ENDED = ("think-unclosed", "think-answer-before-unclosed", "label-end-of-turn", "label-end-of-sequence",
         "label-gemma-end-of-turn", "bare-next-question", "bare-next-prompt", "cot-next-prompt", "several-label-lines",
         "cut-think")  # fmt: skip


@pytest.mark.parametrize("letter", "AD")
def test_a_final_line_decides_after_every_form(letter: str) -> None:
    for name, text, options, _, read in FORMS:
        if name not in ENDED:
            found = strict(f"{text}\n\n최종 정답: {letter}", options)
            assert found.letter == letter, (name, read)


def test_width_and_composition_of_what_is_written_change_nothing() -> None:
    wide = {ord(c): ord(c) + 0xFEE0 for c in LETTERS + "0123456789:"}
    for name, text, options, truncated, read in FORMS:
        for form in (text.translate(wide), unicodedata.normalize("NFD", text)):
            if "<" not in text:  # tags are marks of the software that ran the model, not of the model
                found = strict(form, options, truncated=truncated)
                assert (found.letter or found.reason) == read, name


LONG = [
    "A, ", "A와 ", "①", "폐렴(", "정답: ", "정답은 A", "따라서 ", "가장 ", "(", " ", "\n", "<think>", "A\n", "\\text{",
    "the answer ", "most likely ", "A. x\nB. y\n", "B 폐렴 ", "정답은 A가 아니라 ", "의료 진단 ",
]  # fmt: skip


@pytest.mark.parametrize("piece", LONG)
def test_a_hundred_thousand_characters_are_read_in_linear_time(piece: str) -> None:
    strict("정답: A", LUNG)  # compiles the patterns
    start = time.process_time()
    strict((piece * 100_000)[:100_000], LUNG)
    paper((piece * 100_000)[:100_000])
    assert time.process_time() - start < 3


@pytest.mark.parametrize("n", [0, 1, 27])
def test_options_must_be_two_to_twenty_six(n: int) -> None:
    with pytest.raises(DataError, match=f"2 to 26 options, got {n}"):
        strict("B", [f"option {i}" for i in range(n)])


def test_letters_past_e_are_read_where_there_are_so_many_options() -> None:
    options = [f"option text {i}" for i in range(26)]
    assert strict("정답: Z", options).letter == "Z"
    assert strict("정답: H", options[:8]).letter == "H"
    assert strict("정답: 12번", options).letter == "L"
    assert strict("The answer is option text 25.", options).letter == "Z"


def test_options_with_the_same_text_name_no_letter() -> None:
    assert strict("정답: 폐렴", ("폐렴", "폐렴 ", "천식")).reason == "no_answer"
    assert strict("정답: B. 폐렴", ("폐렴", "폐렴 ", "천식")).letter == "B"


def test_an_extraction_is_a_letter_or_a_reason_and_stays_so() -> None:
    for letter, reason in ((None, None), ("A", "no_answer")):
        with pytest.raises(DataError, match="a letter or a reason"):
            Extraction(letter, reason)  # type: ignore[arg-type]  # the wrong values are the point
    with pytest.raises(dataclasses.FrozenInstanceError):
        Extraction("A", None).letter = "B"  # type: ignore[misc]  # assigning is the point


def test_real_reasoning_with_and_without_its_last_line() -> None:
    """Korean and English rationales by DeepSeek-R1, all of which end with `정답: X`; X is the gold answer."""
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is not here")
    rows = [json.loads(line) for line in SHARED.read_text(encoding="utf-8").splitlines()][::4]
    right, wrong = 0, []
    for row in rows:
        options, gold, text = [row[k] for k in LETTERS], LETTERS[row["answer"] - 1], row["rationale_r1"].strip()
        assert strict(text, options).letter == gold, row["id"]
        found = strict(text.rpartition("\n")[0], options)
        right += found.letter == gold
        wrong += [row["id"]] if found.letter not in (gold, None) else []
    assert right / len(rows) >= 0.95
    assert wrong == []


# --- the paper's cascade --------------------------------------------------------------------------------------------


def extract_choice(output: str) -> str:
    """The filter of lm-evaluation-harness 0.4.13, lm_eval/tasks/kormedmcqa/utils.py, written out."""
    matches = re.findall("정답[:\\s]*([ABCDE])", output, re.IGNORECASE)
    if not matches:
        matches = re.findall("정답은\\s*([ABCDE])\\s*입니다", output, re.IGNORECASE)
    if not matches:
        matches = re.findall("\\b([ABCDE])\\.", output, re.IGNORECASE)
    if not matches:
        matches = re.findall("\\b([ABCDE])\\b", output, re.IGNORECASE)
    return matches[-1].upper() if matches else ""


@settings(max_examples=500, deadline=None)
@given(written)
def test_paper_is_lm_evals_cascade(text: str) -> None:
    assert paper(text) == (extract_choice(text) or None)


def test_paper_is_lm_evals_own_filter_on_every_form() -> None:
    theirs = pytest.importorskip("lm_eval.tasks.kormedmcqa.utils", reason="lm-eval (the extra eval) is not installed")
    for _, text, *_ in FORMS:
        assert paper(text) == (theirs.extract_choice(text) or None) == (extract_choice(text) or None)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("정답: B", "B"),
        ("정답: A ... 정답: c", "C"),
        ("정답은 B입니다", "B"),
        ("A. 폐렴 B. 천식", "B"),
        ("(d)", "D"),
        ("B", "B"),
        ("", None),
        # its known faults, kept
        ("정답：B입니다", None),
        ("정답：B\n\n오답: A. 폐렴", "A"),
        ("답은 B이다", None),
        ("B번", None),
        ("This is a patient", "A"),
        ("정답: E. coli 감염", "E"),
        ("정답: because of fever", "B"),
        ("F", None),
    ],
)
def test_paper_is_kept_with_its_faults(text: str, letter: str | None) -> None:
    assert paper(text) == letter
