"""A map folder -> answers to the registered hypotheses, and the file that keeps them.

    map.json, read/*.safetensors, the lists that were read -> `Material` -> `hypotheses.answered` -> answers.json

The folder names its lists by a hash: the packaged ones, or some of their domains, are found by themselves; a user's own
tables must be given again. Nothing is measured anew on a model.

Out of scope: the tests themselves (`hypothesis_tests`), pages (`report`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from safetensors.numpy import load_file

from sae_lens_med.errors import DataError, StudyError
from sae_lens_med.knowledge_map.hypotheses import Answer, Material, answered
from sae_lens_med.knowledge_map.hypothesis_tests import TESTS
from sae_lens_med.knowledge_map.lists import LanguageCode, Lists, packaged_lists
from sae_lens_med.knowledge_map.measure import MapRow, Read
from sae_lens_med.knowledge_map.reading import POSITIONS, Float32Array
from sae_lens_med.knowledge_map.run import KIND
from sae_lens_med.runs.files import write_json
from sae_lens_med.runs.folder import read_manifest
from sae_lens_med.runs.parsing import read_json

ANSWERS = "answers.json"


def answer_hypotheses(folder: Path, lists: Lists | None = None) -> list[Answer]:
    """What a map says to each registered hypothesis, in order.

    Args:
        folder: of `map layers`.
        lists: what the map was made of; by default the packaged lists, or those of their domains that the folder has.

    The draws and the seed are those of the map. Raises `StudyError` for a folder that is no map, not finished, or
    damaged; `ConfigError` for other lists than the map's.
    """
    return answered(material_of(folder, lists), TESTS)


def write_answers(folder: Path, answers: Sequence[Answer]) -> None:
    """`answers.json`."""
    write_json(folder / ANSWERS, [answer.to_dict() for answer in answers])


def read_answers(folder: Path) -> list[Answer]:
    """Of `answers.json`; empty where there is none. Raises `StudyError` for a damaged one."""
    path = folder / ANSWERS
    if not path.is_file():
        return []
    try:
        return [Answer.from_dict(values) for values in read_json(path)]
    except (ValueError, TypeError, AttributeError, DataError) as error:
        raise StudyError(
            f"{path} is damaged ({error}); delete it, and run sae-lens-med map answer {folder} again."
        ) from error


def read_rows(folder: Path) -> list[MapRow]:
    """Of `map.json`. Raises `StudyError` where it is missing or damaged."""
    path = folder / "map.json"
    if not path.is_file():
        raise StudyError(f"{folder} has no finished map: {path.name} is missing; finish it with map layers.")
    try:
        return [MapRow.from_dict(values) for values in read_json(path)]
    except (OSError, ValueError, TypeError, AttributeError, DataError) as error:
        raise StudyError(f"{path} is damaged ({error}); delete it, and run map layers again.") from error


def material_of(folder: Path, lists: Lists | None = None) -> Material:
    """The activations and rows of a map folder. Raises as `answer_hypotheses`."""
    manifest = read_manifest(folder, KIND)
    identity = manifest["identity"]
    settings = identity["settings"]
    rows = read_rows(folder)
    acted = {path.stem for path in (folder / "causal").glob("*.safetensors")}
    parts = [part for part in manifest["parts"] if part.rsplit("-", 1)[-1] == "model" and part not in acted]
    places = [tuple(part.removesuffix("-model").rsplit("-", 1)) for part in parts]
    lists = _lists_of(folder, identity["lists"], [domain for domain, _ in places], lists)
    reads = {}
    for domain, language in places:
        if language not in get_args(LanguageCode):
            raise StudyError(
                f"{folder}/manifest.json names the language {language!r}; delete {folder}, and start again."
            )
        reads[domain, language] = _read(folder, lists, domain, language, settings["random_models"])  # type: ignore[arg-type]  # checked
    return Material(reads, tuple(rows), settings["permutations"], settings["seed"])


def _lists_of(folder: Path, named: dict[str, str], domains: Sequence[str], given: Lists | None) -> Lists:
    whole = given or packaged_lists()
    own = list(dict.fromkeys(domain for domain in domains if domain in whole.domains))
    tried = [whole] + ([whole.only(own)] if own else [])
    for lists in tried:
        if lists.sha256 == named["sha256"]:
            return lists
    what = "the packaged lists" if given is None else given.source
    raise DataError(
        f"{folder} was made of other lists ({named['source']}) than {what}; pass the same --concepts and --templates."
    )


def _read(folder: Path, lists: Lists, domain: str, language: LanguageCode, random_models: int) -> Read:
    concepts = lists.of(domain, language)

    def means(which: str) -> Float32Array:
        path = folder / "read" / f"{domain}-{language}-{which}.safetensors"
        try:
            found = load_file(path)["means"]
        except (OSError, KeyError, ValueError) as error:
            raise StudyError(f"{path} cannot be read ({error}); run map layers again into {folder}.") from error
        if found.ndim != 4 or found.shape[1:3] != (len(POSITIONS), len(concepts)):
            raise StudyError(
                f"{path} has the shape {found.shape}, but {domain} has {len(concepts)} concepts; delete {folder}, and "
                "run map layers again."
            )
        return found

    random = tuple(means(f"random-{k}") for k in range(1, random_models + 1))
    plain = means("plain") if lists.templates_of(domain, language, "plain") else None
    return Read(concepts, (language,), means("model"), random, plain)
