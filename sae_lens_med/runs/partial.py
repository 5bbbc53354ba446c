"""`ItemResult`s on disk: one JSON object a line; and an append file that lets an interrupted run go on."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_lens_med import distributed
from sae_lens_med.errors import DataError, StudyError
from sae_lens_med.records import ItemResult
from sae_lens_med.runs.files import write_text
from sae_lens_med.runs.provenance import changes


def write_results(path: Path, results: Sequence[ItemResult]) -> None:
    """One result a line, atomically."""
    write_text(path, "".join(_line(result.to_dict()) for result in results))


def read_results(path: Path) -> list[ItemResult]:
    """The inverse of `write_results`. Raises `DataError` naming the line that is no result."""
    results = []
    # Not splitlines(): a text may hold U+2028.
    for number, line in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), 1):
        try:
            results.append(ItemResult.from_dict(json.loads(line)))
        except (ValueError, TypeError, AttributeError, DataError) as error:
            raise DataError(f"{path}: line {number} is no result ({error}); delete the file and run again.") from error
    return results


class PartialResults:
    """Results of a run that is not finished, appended as they come. The first line is the identity of the run, every
    other one the results that came together.

    A line torn by an interruption is dropped when the file is opened again: its items are run again, together, so that
    they come out as they would have.

    Of several processes (`distributed`), rank 0 appends to the file itself and each other rank to one of its own beside
    it (`items.partial.rank1.jsonl`). When they are opened again, by any number of processes, all go into the first.
    """

    def __init__(self, path: Path, run_identity: Mapping[str, Any]) -> None:
        """Open or create the file at `path`, in all processes of the job together. Raises `StudyError` when it is of a
        run with another identity."""
        me = distributed.ranks()
        self.first_path = path
        self.path = path if me.first else path.with_suffix(f".rank{me.rank}{path.suffix}")
        self.done: dict[str, ItemResult] = {}
        """Results that the files hold, by item id; the same in all processes."""
        found: list[dict[str, Any]] = []
        if me.first:
            for each in (path, *self._others()):
                found.extend(self._results(each, run_identity))
            # Written again: appending after a torn line would spoil the next one.
            write_text(path, "".join(_line(values) for values in [dict(run_identity), *([found] if found else [])]))
            for each in self._others():
                each.unlink()
        self.done = {values["id"]: ItemResult.from_dict(values) for values in distributed.broadcast_object(found)}
        if not me.first:
            write_text(self.path, _line(dict(run_identity)))

    def append(self, results: Sequence[ItemResult]) -> None:
        """Write results to the end of the file."""
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(_line([result.to_dict() for result in results]))
        self.done |= {result.id: result for result in results}

    def remove(self) -> None:
        """Delete the files of all processes, when the results have been written elsewhere."""
        for each in (self.first_path, *self._others()):
            each.unlink(missing_ok=True)

    def _others(self) -> list[Path]:
        """The files of the other ranks that are there."""
        return sorted(self.first_path.parent.glob(f"{self.first_path.stem}.rank*{self.first_path.suffix}"))

    def _results(self, path: Path, run_identity: Mapping[str, Any]) -> list[dict[str, Any]]:
        lines: list[Any] = self._whole_lines(path) if path.exists() else []
        if lines and (different := changes(lines[0], run_identity)):
            raise StudyError(
                f"{path.parent} holds an unfinished evaluation with other settings ({'; '.join(different)}); "
                "give another output folder or the settings it began with."
            )
        return [values for line in lines[1:] for values in line]

    @staticmethod
    def _whole_lines(path: Path) -> list[Any]:
        lines = []
        for raw in path.read_bytes().split(b"\n"):
            try:
                lines.append(json.loads(raw))
            except ValueError:
                break
        return lines


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
