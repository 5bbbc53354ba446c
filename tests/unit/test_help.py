"""What `--help` of every command teaches."""

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from sae_lens_med.cli import app


def _commands(group: Any, *words: str) -> Iterator[tuple[str, ...]]:
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, *words, word)
        else:
            yield (*words, word)


# `lm-eval` hands every argument on, --help too.
COMMANDS = [words for words in _commands(get_command(app)) if words != ("lm-eval",)]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_shows_examples_of_the_command_a_line_each(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*words, "--help"], terminal_width=200).stdout
    examples = [line.strip() for line in shown.splitlines() if "Example:" in line]
    assert examples
    for line in examples:
        assert f"sae-lens-med {' '.join(words)}" in line
        assert line.count("Example:") == 1, "two examples run together: an empty line belongs between them"
