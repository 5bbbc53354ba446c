"""The cascade of the KorMedMCQA paper, with its faults, so that numbers compare with published ones."""

import re

_PATTERNS = tuple(
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
    for pattern in _PATTERNS:
        found = pattern.findall(text)
        if found:
            return found[-1].upper()
    return None
