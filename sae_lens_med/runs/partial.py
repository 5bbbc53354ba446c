"""Results on disk, one JSON object an item: of a finished run, and of one that is not, appended as they come."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sae_lens_med import distributed
from sae_lens_med.errors import DataError, StudyError
from sae_lens_med.records import ItemResult, Record
from sae_lens_med.runs.files import json_line, naming_what_fails, write_jsonl
from sae_lens_med.runs.parsing import parse_json
from sae_lens_med.runs.provenance import require_same

_R = TypeVar("_R", bound=Record)


def write_results(path: Path, results: Sequence[ItemResult]) -> None:
    """One result a line, atomically."""
    write_jsonl(path, (result.to_dict() for result in results))


def read_results(path: Path) -> list[ItemResult]:
    """The inverse of `write_results`. Raises `DataError` naming the line that is no result."""
    results = []
    # Not splitlines(): a text may hold U+2028.
    for number, line in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), 1):
        try:
            results.append(ItemResult.from_dict(parse_json(line)))
        except (ValueError, TypeError, AttributeError, DataError) as error:
            raise DataError(
                f"{path}: line {number} is not a result ({error}); delete the file and run again."
            ) from error
    return results


class PartialResults:
    """Results of a run that is not finished: JSON objects with an `id`, in a file that grows as they come.

    The first line is the identity of the run, every other one a list of the results that came together (or one result).
    The last line, when an interruption tore it, is dropped when the file is opened again: its items are run again,
    together, so that they come out as they would have.

    Of several processes (`distributed`), rank 0 appends to the file itself and each other rank to one of its own beside
    it (`items.partial.rank1.jsonl`). When they are opened again, by any number of processes, all go into the first.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Open or create the file at `path`, in all processes of the job together.

        Raises `StudyError` when it is of a run with another identity, or damaged other than by an interruption.
        """
        me = distributed.ranks()
        self.first_path = Path(path)
        self.path = self.first_path if me.first else path.with_suffix(f".rank{me.rank}{path.suffix}")
        own = parse_json(json_line(dict(identity)))
        found: list[list[dict[str, Any]]] = []
        if me.first:
            for each in (self.first_path, *self._others()):
                found += _found(each, own)
            # Written again: appending after a torn line would spoil the next one. Without results there is no file, so
            # that a run that is refused before its first one leaves nothing behind.
            if found:
                write_jsonl(self.first_path, [own, *found])
            else:
                self.first_path.unlink(missing_ok=True)
            for each in self._others():
                each.unlink()
        self.done: dict[str, dict[str, Any]] = {}
        """Results that the files hold, by id, as JSON gives them back; the same in all processes when opened."""
        for together in distributed.broadcast_object(found):
            self._add(together)
        self._own = own

    def append(self, results: Iterable[Record | Mapping[str, Any]]) -> None:
        """Write results that belong together to the end of the file; after it, an interruption does not cost them."""
        if not self.path.exists():
            write_jsonl(self.path, [self._own])
        line = json_line([r.to_dict() if isinstance(r, Record) else dict(r) for r in results])
        with naming_what_fails(self.path), self.path.open("a", encoding="utf-8") as handle:
            handle.write(line)
        # Through JSON, so that a run that goes on has the numbers of one without interruption.
        self._add(parse_json(line))

    def records(self, kind: type[_R]) -> dict[str, _R]:
        """The results as records, by id."""
        return {name: kind.from_dict(values) for name, values in self.done.items()}

    def remove(self) -> None:
        """Delete the files of all processes, when the results have been written elsewhere."""
        for each in (self.first_path, *self._others()):
            each.unlink(missing_ok=True)

    def _add(self, together: Iterable[dict[str, Any]]) -> None:
        self.done |= {values["id"]: values for values in together}

    def _others(self) -> list[Path]:
        """The files of the other ranks that are there."""
        return sorted(self.first_path.parent.glob(f"{self.first_path.stem}.rank*{self.first_path.suffix}"))


def read_partial(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What `PartialResults` has written to a file: the run's identity, and the results by id; the file is left as it
    is. Both are empty where there is nothing. Raises `StudyError` for a file that is damaged other than by an
    interruption."""
    lines = _lines(path)
    if not lines:
        return {}, {}
    return lines[0], {values["id"]: values for together in lines[1:] for values in together}


def _found(path: Path, own: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """The results in a file, line by line. Raises as `PartialResults` does."""
    lines = _lines(path)
    if len(lines) > 1:  # a run that has no results yet is bound to no settings
        require_same(path, lines[0], own)
    return lines[1:]


def _lines(path: Path) -> list[Any]:
    """The identity of the run, then the results that came together, line by line."""
    *whole, rest = path.read_bytes().split(b"\n") if path.exists() else [b""]
    if not whole and not rest:
        return []
    lines: list[Any] = []
    for number, raw in enumerate([*whole, rest] if rest else whole, 1):
        try:
            lines.append(_identity(raw) if number == 1 else _together(raw))
        except (ValueError, KeyError, TypeError) as error:
            if number > len(whole) > 0:  # torn: it has no end
                break
            raise StudyError(f"{path}: line {number} is damaged ({error}); delete the file to start again.") from error
    return lines


def _identity(raw: bytes) -> dict[str, Any]:
    values = parse_json(raw)
    # What has an id is a result: earlier versions wrote reasoning without an identity.
    if not isinstance(values, dict) or "id" in values:
        raise ValueError("it is not the identity of a run")
    return values


def _together(raw: bytes) -> list[dict[str, Any]]:
    values = parse_json(raw)
    values = [values] if isinstance(values, dict) else values
    if not all(isinstance(each["id"], str) for each in values):
        raise ValueError("an id is not a string")
    return values
