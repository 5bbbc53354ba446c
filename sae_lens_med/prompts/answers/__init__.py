r"""Generated text -> the option letter that it answers, or the reason why there is none.

Two readings of the same text, reported side by side:

- `paper`: the cascade of the KorMedMCQA paper (arXiv 2403.01469, appendix B) as lm-evaluation-harness 0.4.13 runs it.
  Kept with its faults, so that numbers compare with published ones.
- `strict`: what a person would read as the answer, and none where a person would read none.

How `strict` reads, each step a file:

1. `folding`: NFKC, thinking blocks, markup and what is struck out removed, brackets made round, ③ made "(3)". What
   follows an end-of-turn mark is not read.
2. `targets`: each option text becomes one private character, so that "정답: 비타민 A" holds an option and no letter A.
   Letters that name something else (hepatitis B, A형, C-반응단백, E. coli) are no options either.
3. `corrections`: an option that the same sentence puts away for another is taken out ("B 대신 C", "not B but C").
4. `next_question`: the question that a base model invents after its answer, and what follows it, is not read.
5. `statements`: rules find claims, each with its target: a letter, a number, an option text, or several of them. A
   target that is denied ("A가 아니라", "not A"), asked ("A일까?") or supposed ("A라면") states nothing.
6. `reading`: explicit statements ("정답: B", "the answer is B", "따라서 B이다") come first, of these the last line
   that has one; then a first or last line that is nothing but an answer; then opinions that agree ("B가 가장 좋다").

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

from sae_lens_med.prompts.answers.cascade import paper
from sae_lens_med.prompts.answers.reading import Extraction, strict

__all__ = ["Extraction", "paper", "strict"]
