"""Prompt templates: plain Jinja2 files that a researcher can copy, change and pass with `--template`.

The shipped ones are `templates/prompts/NAME.LANGUAGE.j2`; `sae-lens-med templates NAME` prints one. What a template may
use, all of it plain text, exactly as the data has it (the stem stripped):

    question                  the stem
    options                   in order, each with `letter` (A ...) and `text`
    letters                   the letters alone, in order
    language                  `ko`, `en`, `es`, `fr` or `it`, of the question
    subject                   profession or specialty
    shots                     solved examples, each with `question`, `options`, `letters`, `answer` (its letter),
                              `answer_text`, and `explanation` where the data has one

Instructions and answer cues are Korean or English, the languages in which answers are read (`prompts.answers`):
questions in Spanish, French and Italian are put under the English ones (`LAID_OUT_AS`). A template of one's own may
branch on `language`.

The template `letter` is how a question is written wherever its features are collected and in the text that SAEs are
trained on, so that an SAE has seen the format that it is measured on.

Nothing says which option of the measured question is right, and its explanation is not there. A template may also say
where the model's answer to it ends, by `{% set stop = ["...", ...] %}` on a line of its own at the top.

The line break at the end of the file, the one after a tag `{% ... %}` and the spaces before one that begins its line
are not part of the prompt, so an editor's habits do not change what the model reads. Values are never read as template
code. A template runs in a sandbox with limits (`sandbox`), alone (no `include`), and an unknown variable is an error.

A template is tried when it is loaded, on a Korean and on an English question, so that a branch that fails or leaves the
question out shows before a model is opened; a branch that only an item takes is checked with that item.

Out of scope: chat markup, which is the tokenizer's own (`prompts.text_prompt`).
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2

from sae_lens_med.errors import ConfigError, DataError, nearest
from sae_lens_med.prompts import sandbox
from sae_lens_med.prompts.shots import require_other_items
from sae_lens_med.records import OPTION_LETTERS, McqItem, Span

LANGUAGES = ("ko", "en")
LAID_OUT_AS = {"es": "en", "fr": "en", "it": "en"}
"""Languages of questions that have no templates of their own, and those whose templates they get."""
SHIPPED = {
    "letter": "question, lettered options and the answer cue: lm-evaluation-harness' kormedmcqa, version 3",
    "generate": "the same text, with that task's stop strings",
    "option-text": "the question and the answer cue, without options (cloze)",
    "option-text-listed": "as letter; shots are answered by the option's text",
    "cot": "an instruction to reason and to end with the letter; shots show their explanations",
}
"""The shipped families, each in all of `LANGUAGES`, and what they are."""

MAX_BYTES = 200_000
"""Of a template file."""

_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What the code of a template can end with; `RuntimeError` is also of Python's limit of recursion, `SyntaxError` of its
limit of nested blocks."""

_PRIVATE_USE = range(0x100000, 0x10FFFE)
"""Characters that stand around each part while it is looked for in the text that a template makes."""
_N_MARKS = 3 + len(OPTION_LETTERS)
"""One that opens a part, one that closes it, and the number of the part: the stem, then the options."""

_EXAMPLES = tuple(
    McqItem("example", "doctor", language, question, options, 1, explanation, "illustrative")
    for language, question, options, explanation in (
        ("ko", "이 문장이 문제이다?", ("첫째", "둘째", "셋째", "넷째", "다섯째"), "둘째."),
        ("en", "Is this sentence the question?", ("first", "second", "third", "fourth", "fifth"), "The second."),
    )
)
_ADDRESS = re.compile(r"<[^<>]{1,200} at 0x[0-9a-fA-F]+>")
"""How Python writes an object that has no text of its own: with its place in the memory."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text of one prompt."""

    text: str
    spans: tuple[Span, ...]
    """Where the measured question's `stem` and `option:A` ... stand in it; as often as the template prints them, and
    none where it changes them by a filter."""


@dataclass(frozen=True, slots=True)
class Template:
    """One template file, compiled and tried."""

    name: str
    """Shipped name or path."""
    source: str
    sha256: str
    """Of the file's bytes."""
    stop: tuple[str, ...]
    """What the template says ends an answer to a question in this language; empty where it says nothing."""
    _compiled: jinja2.Template = field(repr=False, compare=False)

    def render(self, item: McqItem, shots: Sequence[McqItem] = ()) -> Rendered:
        """The prompt of `item` after `shots`.

        Raises `DataError` for a shot without a gold answer or without an explanation that the template prints, or the
        item itself among the shots; `ConfigError` when the template fails on this item.
        """
        require_other_items(item, shots)
        text = self._text(item, shots)
        marks = _unused_marks(text)
        spans, plain = _unmarked(self._text(item, shots, marks), marks)
        spans = spans if plain == text else ()
        if not any(span.label == "stem" for span in spans) and text == self._text(_other_question(item), shots):
            raise ConfigError(
                f"the template {self.name} does not print the question of item {item.id!r}; put {{{{ question }}}} "
                "where it belongs, in every branch."
            )
        return Rendered(text, spans)

    def _text(self, item: McqItem, shots: Sequence[McqItem], marks: str = "") -> str:
        values = _values(item, marks) | {"shots": [_values(shot) | _solution(shot) for shot in shots]}
        try:
            return sandbox.run(self._compiled, values, _length(item, *shots))[0]
        except jinja2.UndefinedError as error:
            lacking = [shot.id for shot in shots if shot.explanation is None]
            if lacking and "'explanation'" in str(error):
                raise DataError(
                    f"the template {self.name} prints the explanation of each shot, and the shot {lacking[0]!r} has "
                    "none; use data whose few-shot examples are explained, another template, or 0 shots."
                ) from error
            raise _broken(self.name, error, f" for item {item.id!r}") from error
        except _ERRORS as error:
            raise _broken(self.name, error, f" for item {item.id!r}") from error


@dataclass(frozen=True, slots=True)
class Templates:
    """What one evaluation uses: a template per language of its questions."""

    name: str
    """As it was asked for: a family, a shipped name or a path."""
    by_language: Mapping[str, Template]

    def of(self, item: McqItem) -> Template:
        """The template of `item`. Raises `DataError` for a language that has none."""
        language = _layout(item.language)
        if language not in self.by_language:
            raise DataError(
                f"item {item.id!r} is in the language {item.language!r}, for which {self.name} has no template; use "
                f"one of {', '.join(self.by_language)}, or pass a template file of your own."
            )
        return self.by_language[language]

    def sha256(self, languages: Iterable[str]) -> dict[str, str]:
        """Of the template of each of these languages of questions."""
        used = {name: _layout(name) for name in sorted(set(languages))}
        return {name: self.by_language[used[name]].sha256 for name in used if used[name] in self.by_language}


def find_templates(wanted: str, language: str | None = None) -> Templates:
    """The templates that `wanted` names.

    - a shipped family (`cot`): in the language of each question, or all in `language`;
    - a shipped name (`cot.en`) or the path of a file: for questions of every language.

    Raises `ConfigError` for a name that is neither shipped nor a file, a file that is no template, and a `language`
    beside a name that has its own.
    """
    if language is not None and language not in LANGUAGES:
        raise ConfigError(f"there are no instructions in the language {language!r}; use one of {', '.join(LANGUAGES)}.")
    if wanted in SHIPPED:
        return Templates(wanted, {of: _shipped_template(f"{wanted}.{language or of}")[of] for of in LANGUAGES})
    if language is not None:
        raise ConfigError(
            f"the template {wanted} has its own language; leave out the language of the instructions, or name one of "
            f"the families {', '.join(SHIPPED)}."
        )
    name = wanted.removesuffix(".j2")
    found = _shipped_template(name) if name in shipped_names() else _compiled(wanted, _read(wanted))
    return Templates(wanted, found)


def shipped_names() -> tuple[str, ...]:
    """`letter.ko`, `letter.en`, ...: every packaged template."""
    return tuple(f"{family}.{language}" for family in SHIPPED for language in LANGUAGES)


def shipped(name: str) -> bytes:
    """The file of a shipped template. Raises `ConfigError` for a name that is not in `shipped_names`."""
    name, known = name.removesuffix(".j2"), shipped_names()
    if name not in known:
        raise ConfigError(
            "there is no packaged template "
            f"{name!r}{nearest(name, known) or '; the names are ' + ', '.join(known) + '.'}"
        )
    return (files("sae_lens_med") / "templates" / "prompts" / f"{name}.j2").read_bytes()


def _layout(language: str) -> str:
    return LAID_OUT_AS.get(language, language)


@lru_cache
def _shipped_template(name: str) -> dict[str, Template]:
    return _compiled(name, shipped(name))


def _read(wanted: str) -> bytes:
    """The file of a template. Raises `ConfigError` where there is none, it cannot be read, or it is too large."""
    path = Path(wanted).expanduser()
    try:
        if path.is_file():
            if path.stat().st_size > MAX_BYTES:
                raise ConfigError(
                    f"the template {wanted} has {path.stat().st_size:,} bytes, and {MAX_BYTES:,} are allowed; is it a "
                    "template? Questions belong into a data file."
                )
            return path.read_bytes()
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        raise ConfigError(
            f"the template {wanted!r} cannot be read ({getattr(error, 'strerror', None) or error})."
        ) from error
    name = wanted.removesuffix(".j2")
    known = (*SHIPPED, *shipped_names())
    raise ConfigError(
        f"there is no template {wanted!r}, neither as a file nor among the packaged ones"
        f"{nearest(name, known) or '; `sae-lens-med templates` lists the packaged ones.'}"
    )


def _compiled(name: str, content: bytes) -> dict[str, Template]:
    """Compile, and try on an example of each language, so that a mistake shows before a model is opened."""
    try:
        source = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the template {name} is not UTF-8 text; save it as UTF-8.") from error
    try:
        compiled = sandbox.compiled(source)
        tried = {example.language: _tried(name, compiled, example) for example in _EXAMPLES}
    except _ERRORS as error:
        raise _broken(name, error, "") from error
    sha256 = hashlib.sha256(content).hexdigest()
    return {of: Template(name, source, sha256, _stop(name, at_top), compiled) for of, at_top in tried.items()}


def _stop(name: str, at_top: dict[str, Any]) -> tuple[str, ...]:
    stop: Any = at_top.get("stop", [])
    if not isinstance(stop, list | tuple) or not all(isinstance(text, str) and text for text in stop):
        raise ConfigError(
            f"the template {name} sets stop to {repr(stop)[:80]}; it must be a list of non-empty strings."
        )
    return tuple(stop)


def _tried(name: str, compiled: jinja2.Template, example: McqItem) -> dict[str, Any]:
    """What a template sets at its top for an example. Raises `ConfigError` when its text is not one of the question."""

    def text(item: McqItem) -> tuple[str, dict[str, Any]]:
        values = _values(item) | {"shots": [_values(example) | _solution(example)]}
        return sandbox.run(compiled, values, _length(item, example))

    written, at_top = text(example)
    if written == text(_other_question(example))[0]:
        raise ConfigError(
            f"the template {name} does not print the question when it is in the language {example.language!r}; put "
            "{{ question }} where it belongs, in every branch."
        )
    again, address = text(example)[0], _ADDRESS.search(written)
    if written != again or address is not None:
        raise ConfigError(
            f"the template {name} makes another text each time{f' ({address[0]})' if address else ''}, so that no run "
            "could be repeated; print texts and numbers of the question alone."
        )
    return at_top


def _length(*items: McqItem) -> int:
    return sum(len(text) for item in items for text in (item.question, *item.options, item.explanation or ""))


def _other_question(item: McqItem) -> McqItem:
    """The item with another stem that is as long, each of whose characters, but for white space, is another one."""
    changed = re.sub(r"\S", lambda found: "나" if found[0] == "가" else "가", item.question.strip())
    return replace(item, question=changed, question_spans=())


def _broken(name: str, error: BaseException, where: str) -> ConfigError:
    if isinstance(error, sandbox.LimitError):
        return ConfigError(f"the template {name} {str(error)}{where}.")
    line = getattr(error, "lineno", None)
    at = f" in line {line}" if line and not isinstance(error, SyntaxError) else ""
    said = f"{type(error).__name__}: {error.msg}" if isinstance(error, SyntaxError) else str(error).rstrip(".")
    return ConfigError(
        f"the template {name} fails{at}{where} ({said or type(error).__name__}); the variables are "
        "question, options, letters, language, subject and shots."
    )


def _values(item: McqItem, marks: str = "") -> dict[str, Any]:
    """What a template may use of an item; with `marks`, these around each of its parts."""

    def part(number: int, text: str) -> str:
        return f"{marks[0]}{marks[2 + number]}{text}{marks[1]}" if marks else text

    letters = list(OPTION_LETTERS[: len(item.options)])
    return {
        "question": part(0, item.question.strip()),
        "options": [
            {"letter": letter, "text": part(i, text)}
            for i, (letter, text) in enumerate(zip(letters, item.options, strict=True), 1)
        ],
        "letters": letters,
        "language": item.language,
        "subject": item.subject,
    }


def _solution(shot: McqItem) -> dict[str, str]:
    assert shot.answer is not None  # `require_other_items`
    known = {} if shot.explanation is None else {"explanation": shot.explanation}
    return {"answer": OPTION_LETTERS[shot.answer], "answer_text": shot.options[shot.answer], **known}


def _unused_marks(text: str) -> str:
    """Private-use characters that the text does not hold."""
    used = {ord(character) for character in text if ord(character) >= _PRIVATE_USE.start}
    free = (code for code in _PRIVATE_USE if code not in used)
    return "".join(map(chr, islice(free, _N_MARKS)))


def _unmarked(text: str, marks: str) -> tuple[tuple[Span, ...], str]:
    """Where the parts between the marks stand in the text without these, and that text."""
    spans: list[Span] = []
    plain: list[str] = []
    length = end = 0
    for match in re.finditer(f"{marks[0]}(.)(.*?){marks[1]}", text, re.DOTALL):
        before, number = text[end : match.start()], marks.index(match[1]) - 2
        length += len(before)
        spans.append(Span(length, length + len(match[2]), f"option:{OPTION_LETTERS[number - 1]}" if number else "stem"))
        length += len(match[2])
        plain += [before, match[2]]
        end = match.end()
    return tuple(spans), "".join([*plain, text[end:]])
