"""Templates -> pages: Markdown and HTML, each in every language, written atomically into a folder.

Every value that a template shows is untrusted text. HTML is escaped by Jinja2 (`autoescape`), Markdown by
`escaping.markdown`, and both show control characters as their codes. Texts of the package itself are
written `t("...")` in a template and come from `languages`.

Out of scope: what a page says (`study.report`, `study.alignment_report`, `evaluation.report`).
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sae_lens_med.escaping import harmless, markdown
from sae_lens_med.languages import LANGUAGES, Language, number
from sae_lens_med.records import ItemResult
from sae_lens_med.runs.files import write_text

FORMS = ("md", "html")


def page_names(name: str, forms: tuple[str, ...] = FORMS) -> tuple[str, ...]:
    """What `write_pages` writes, English first: `report.md`, `report.html`, `report.ko.md`, `report.ko.html`."""
    return tuple(f"{name}{language.suffix}.{form}" for language in LANGUAGES for form in forms)


def write_pages(
    folder: Path,
    name: str,
    template: str,
    view: Callable[[Language], Mapping[str, Any]],
    forms: tuple[str, ...] = FORMS,
) -> tuple[Path, ...]:
    """Write `NAME.md` and `NAME.html` in every language into `folder`, and return their paths (`page_names`).

    Args:
        folder: where to.
        name: of the files, without ending.
        template: name of the templates, without ending.
        view: what they show, in the language given.
        forms: endings.
    """
    texts: dict[Path, str] = {}
    for language in LANGUAGES:
        values = view(language)
        for form in forms:
            environment = (html_environment if form == "html" else markdown_environment)(language)
            path = folder / f"{name}{language.suffix}.{form}"
            texts[path] = environment.get_template(f"{template}.{form}.j2").render(values)
    for path, text in texts.items():
        write_text(path, text)
    return tuple(texts)


def outcome(result: ItemResult, language: Language) -> tuple[str, str]:
    """What became of an item: its key in the style sheet, and words."""
    if result.correct is None:
        return "unscored", language.text("not scored: the gold answer is not known")
    if result.prediction is None:
        why = str(result.reason).replace("_", " ")
        return "wrong", language.text("no answer ({reason}): counted as wrong").format(reason=language.name(why))
    return ("right", language.text("correct")) if result.correct else ("wrong", language.text("wrong"))


def html_environment(language: Language) -> Environment:
    """For HTML in `language`: every value is escaped."""
    environment = Environment(
        loader=PackageLoader("sae_lens_med"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: harmless(value) if type(value) is str else value,
    )
    environment.globals |= {"language": language, "t": language.text}
    environment.filters.update(_filters(language))
    return environment


class _Plain(str):
    """Text that is already Markdown."""


def markdown_environment(language: Language) -> Environment:
    """For Markdown in `language`: every value is escaped on output, but for the texts of the package."""
    environment = Environment(
        loader=PackageLoader("sae_lens_med"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, _Plain) else markdown(value),
    )
    # What is filled into a text makes a plain string of it again, which is escaped.
    environment.globals |= {"language": language, "t": lambda english: _Plain(language.text(english))}
    environment.filters.update(_filters(language))
    environment.filters["quoted"] = _markdown_quote
    return environment


def _markdown_quote(text: str) -> _Plain:
    """`text` as a block quote that keeps its lines and starts no list, rule or code block."""
    lines = (markdown(line) for line in text.strip().split("\n"))
    safe = (re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", line) for line in lines)
    return _Plain("\n".join(f"> {line}  " if line else ">" for line in safe))


def _visible(token: str) -> str:
    """A token of white space alone as a sign that can be seen."""
    return token if token.strip() else "".join("⏎" if c == "\n" else "␣" for c in token) or "∅"


def _shown_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _filters(language: Language) -> dict[str, Callable[..., Any]]:
    def pair(values: tuple[float, float] | None) -> str:
        return "–" if values is None else language.pair(number(values[0]), number(values[1]))

    def named_counts(counts: Mapping[str, int]) -> str:
        named = (f"{language.name(name.replace('_', ' '))} {n:,}" for name, n in counts.items() if n)
        return ", ".join(named) or "–"

    def named_numbers(numbers: Mapping[str, float]) -> str:
        shown = (
            f"{language.name(name)} {f'{value:.0f}' if float(value).is_integer() else number(value)}"
            for name, value in numbers.items()
        )
        return ", ".join(shown) or "–"

    def group(name: str) -> str:
        if name in ("all", "left_out", "trained_on"):
            return language.name(name) if language.texts else name
        keys = r"\b(subject|gold|axis|raters|arm)="
        return re.sub(keys, lambda found: f"{language.name(found[1])} ", name) if language.texts else name

    return {
        "group": group,
        "number": lambda value: "–" if value is None else number(value),
        "pair": pair,
        "named": language.name,
        "metric": language.metric,
        "named_counts": named_counts,
        "named_numbers": named_numbers,
        "shown_value": _shown_value,
        "visible": _visible,
    }
