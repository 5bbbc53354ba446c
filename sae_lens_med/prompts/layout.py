"""The text of a question as a model reads it: the layout of lm-evaluation-harness' `kormedmcqa` task, version 3.

    {question}\\nA. {A}\\nB. {B}\\n...\\n정답：        the colon is U+FF1A, full width

`prompts` tokenises exactly this text and `training_text` trains on it, so that an SAE has seen the format that it is
measured on. English questions use the same layout with `Answer:`.
"""

from collections.abc import Sequence

from sae_lens_med.errors import DataError
from sae_lens_med.records import OPTION_LETTERS

ANSWER_CUES = {"ko": "정답：", "en": "Answer:"}
"""What stands before the answer letter, by the language of the question."""


def answer_cue(language: str) -> str:
    """The text before the answer slot. Raises `DataError` for a language without one."""
    if language not in ANSWER_CUES:
        raise DataError(
            f"there is no prompt layout for the language {language!r}; use one of {', '.join(ANSWER_CUES)}."
        )
    return ANSWER_CUES[language]


def render_question(question: str, options: Sequence[str], language: str) -> str:
    """Stem (stripped), lettered options and the answer cue, without a letter after it. `options`: 2 to 26 texts."""
    lines = [
        question.strip(),
        *(f"{letter}. {option}" for letter, option in zip(OPTION_LETTERS, options, strict=False)),
    ]
    return "\n".join([*lines, answer_cue(language)])
