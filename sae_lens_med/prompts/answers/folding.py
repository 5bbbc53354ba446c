r"""One way to write each thing: width, quotes, brackets, markup, thinking and white space of a generated text."""

import re
import unicodedata

from sae_lens_med.records import OPTION_LETTERS

OPTION_MARK = 0xE000
"""The first of the private characters that stand for option texts (`targets`)."""
OTHER_MARK = "\ue0ff"
"""Stands for a letter that names no option."""
EDGE = " .,;:!?。"
"""Punctuation around a text that is no part of it."""

_THINKING = re.compile(
    r"(?P<open><(?:think|thinking|thought|reasoning)>|◁think▷)"
    r"|(?P<close></(?:think|thinking|thought|reasoning)>|◁/think▷|assistantfinal|<\|channel\|>final<\|message\|>)",
    re.IGNORECASE,
)
_END_OF_TURN = re.compile(
    r"<\|(?:im_end|im_start|endoftext|eot_id|eom_id|end|return|end_of_text|start_header_id|user)\|>"
    r"|</s>|<eos>|<(?:end|start)_of_turn>|\[/?INST\]"
)


def _circled() -> dict[int, str]:
    """① ❶ ➀ ➊ ⓵ -> "(1)", Ⓐ ⓐ 🅐 🅰 -> "(A)": NFKC would lose the circle, or keep the character."""
    first_digits, first_letters = (0x2460, 0x2776, 0x2780, 0x278A, 0x24F5), (0x24B6, 0x24D0, 0x1F150, 0x1F170)
    digits = {first + i: f"({i + 1})" for first in first_digits for i in range(10)}
    return digits | {first + i: f"({letter})" for first in first_letters for i, letter in enumerate(OPTION_LETTERS)}


_REMOVED = "\"'“”‘’„«»`*_$\u00ad\u200b\u200c\u200d\u2060\ufeff\ufe0f" + "".join(map(chr, range(0xE000, 0xE100)))
_BEFORE_NFKC = _circled() | dict.fromkeys(map(ord, _REMOVED))
_BRACKETS = str.maketrans("[]{}【】「」『』《》〈〉〔〕", "()" * 8) | dict.fromkeys(map(ord, "➔➙➛➜➝➞⟶⟹↦"), "→")
_DOUBLE = re.compile(r"\(\(([^()\n]{1,300})\)\)")
_MARKUP = (
    (re.compile(r"~~[^~\n]{1,300}~~|<(del|s|strike)>[^<\n]{0,300}</\1>", re.IGNORECASE), ""),  # struck out
    (re.compile(r"([0-9])\u20e3"), r"(\1)"),  # keycaps
    (re.compile(r"\r\n?|<br ?/?>"), "\n"),
    (re.compile(r"이\(가\)|\(이\)가"), "가"),  # both forms of a particle, as programs write them
    (re.compile(r"은\(는\)|\(은\)는"), "는"),
    (re.compile(r"을\(를\)|\(을\)를"), "를"),
    (re.compile(r"\\[\[\]()]"), " "),  # LaTeX display and inline mathematics
    (re.compile(r"<final_?answer>|<answer>", re.IGNORECASE), "\nAnswer: "),
    (re.compile(r"</?(?:b|strong|i|em|u|p|span|div|mark|center|sub|sup|h[1-6]|answer|finalanswer) ?>"), ""),
)
_LATEX_FONT = re.compile(r"\\(?:text|mathrm|mathbf|mathsf|bf|rm)[a-z]{0,8} ?\(([^()\n]{0,300})\)")
_LINE_START = re.compile(r"^[ #>•▶►●◆■□▪‣·✅✔☑➡→⇒\-]+", re.MULTILINE)
_SPACE = ((re.compile(r"[^\S\n]+"), " "), (re.compile(r" ?\n ?"), "\n"), (re.compile(r"\n{3,}"), "\n\n"))


def without_thinking(text: str) -> tuple[str, bool]:
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


def own_turn(text: str) -> str | None:
    """The text up to the mark that ends the model's turn, or None where there is no such mark after any text."""
    for mark in _END_OF_TURN.finditer(text):
        if text[: mark.start()].strip():
            return text[: mark.start()]
    return None


def fold(text: str) -> str:
    """One form for width, quotes, brackets, markup and white space; at most one blank line in a row."""
    text = unicodedata.normalize("NFKC", text.translate(_BEFORE_NFKC)).translate(_BEFORE_NFKC)
    for pattern, plain in _MARKUP:
        text = pattern.sub(plain, text)
    text = _DOUBLE.sub(r"(\1)", text.translate(_BRACKETS))
    for _ in range(2):  # fonts within fonts
        text = _LATEX_FONT.sub(r"\1", text)
    for pattern, plain in (*_SPACE, (_LINE_START, ""), *_SPACE[1:]):
        text = pattern.sub(plain, text)
    return text.strip()
