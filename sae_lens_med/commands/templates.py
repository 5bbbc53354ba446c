"""`templates`: the packaged prompt templates, listed, printed, or written to a file of one's own."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from sae_lens_med.commands.output import say, say_json


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command()(templates)


def templates(
    name: Annotated[
        str | None, typer.Argument(help="Template to print or to write; without a name, all are listed.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the template to this new file, byte for byte, instead of printing."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the packaged prompt templates, print one, or write one to a file to change it.

    A template is a Jinja2 file. It may use question, options (each with letter and text), letters, language, subject
    and shots (each with question, options, answer, answer_text and, where the data has one, explanation), and may say
    what ends an answer with {% set stop = ["..."] %}.

    Example: sae-lens-med templates cot.ko --output mine.j2
    """
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.prompts.templates import LANGUAGES, SHIPPED, find_templates, shipped, shipped_names

    if name is None:
        if output is not None:
            raise ConfigError(
                f"no template is named that {output} is to hold; name one of {', '.join(shipped_names())}."
            )
        if as_json:
            listed = [{"name": each, "what": SHIPPED[each.rpartition(".")[0]]} for each in shipped_names()]
            say_json(listed)
            return
        width = max(map(len, SHIPPED))
        for family, what in SHIPPED.items():
            say(f"{family:<{width}}  {', '.join(LANGUAGES)}  {what}")
        return
    wanted = f"{name}.{LANGUAGES[0]}" if name in SHIPPED else name.removesuffix(".j2")
    content = shipped(wanted)
    if output is not None:
        _write_new(output, content)
    if as_json:
        found = next(iter(find_templates(wanted).by_language.values()))
        value = {"name": wanted, "sha256": found.sha256, "text": content.decode("utf-8")}
        if output is not None:
            value["output"] = str(output)
        say_json(value)
    elif output is not None:
        say(f"{wanted}: {output}; change it, and pass it as --template {output}.")
    else:
        # UTF-8 whatever the console's encoding: what is printed is copied into a file.
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.flush()


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that was not there. Raises `ConfigError` when it was, or cannot be written."""
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.runs.files import atomic_path

    try:
        if os.path.lexists(path):
            raise ConfigError(
                f"{path} is there already, and is not overwritten; name another file, or remove it first."
            )
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the template cannot be written to {str(path)[:200]} ({getattr(error, 'strerror', None) or error}); name "
            "a file in a folder that can be written."
        ) from error
