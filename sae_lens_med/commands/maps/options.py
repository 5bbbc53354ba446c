"""Options that the commands of `map` share, and the lists that they name. Heavy imports are inside the functions."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sae_lens_med.commands.options import MAX_SEED

if TYPE_CHECKING:
    from sae_lens_med.knowledge_map.lists import LanguageCode, Lists

Domain = Annotated[
    list[str] | None, typer.Option("--domain", help="Only this domain of the lists. Repeatable; by default all.")
]
Language = Annotated[list[str] | None, typer.Option("--language", help="ko or en. Repeatable; by default both.")]
Concepts = Annotated[Path | None, typer.Option("--concepts", help="A table of your own concepts, with --templates.")]
Templates = Annotated[Path | None, typer.Option("--templates", help="A table of texts with a slot, with --concepts.")]
RandomModels = Annotated[
    int, typer.Option("--random-models", help="Models with permuted weights that it stands beside.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=MAX_SEED, help="Of everything that is drawn at random.")]


def languages_of(given: Sequence[str] | None) -> "tuple[LanguageCode, ...]":
    """Those that are asked for, Korean before English; all without any. Raises `ConfigError` for another one."""
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.knowledge_map.lists import LANGUAGES

    for name in given or ():
        if name not in LANGUAGES:
            raise ConfigError(f"--language must be ko or en, got {name!r}.")
    return tuple(each for each in LANGUAGES if not given or each in given)


def lists_of(concepts: Path | None, templates: Path | None, domains: Sequence[str] | None = None) -> "Lists":
    """The user's tables, or the packaged ones, of these domains. Raises `ConfigError` for one table alone, `DataError`
    for what is wrong in them, and for a domain that is not there."""
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.knowledge_map.lists import packaged_lists, read_lists

    if (concepts is None) != (templates is None):
        raise ConfigError("--concepts and --templates go together; pass both or neither.")
    found = packaged_lists() if concepts is None or templates is None else read_lists(concepts, templates)
    return found.only(domains) if domains else found
