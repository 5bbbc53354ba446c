"""`ItemResult`s on disk: one JSON object a line; and an append file that lets an interrupted run go on."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_lens_med.config import write_text
from sae_lens_med.errors import DataError, StudyError
from sae_lens_med.evaluation.provenance import changes
from sae_lens_med.records import ItemResult


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
    """Results of a run that is not finished, appended as they come. The first line is the identity of the run.

    A line torn by an interruption is dropped when the file is opened again: its item is run again.
    """

    def __init__(self, path: Path, run_identity: Mapping[str, Any]) -> None:
        """Open or create the file at `path`. Raises `StudyError` when it is of a run with another identity."""
        self.path = path
        self.done: dict[str, ItemResult] = {}
        """Results that the file holds, by item id."""
        lines = self._whole_lines() if path.exists() else []
        if lines:
            if different := changes(lines[0], run_identity):
                raise StudyError(
                    f"{path.parent} holds an unfinished evaluation with other settings ({'; '.join(different)}); "
                    "give another output folder or the settings it began with."
                )
            self.done = {values["id"]: ItemResult.from_dict(values) for values in lines[1:]}
        # Written again: appending after a torn line would spoil the next one.
        write_text(path, "".join(_line(v) for v in [dict(run_identity), *(r.to_dict() for r in self.done.values())]))

    def append(self, results: Sequence[ItemResult]) -> None:
        """Write results to the end of the file."""
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write("".join(_line(result.to_dict()) for result in results))
        self.done |= {result.id: result for result in results}

    def remove(self) -> None:
        """Delete the file, when the results have been written elsewhere."""
        self.path.unlink(missing_ok=True)

    def _whole_lines(self) -> list[dict[str, Any]]:
        lines = []
        for raw in self.path.read_bytes().split(b"\n"):
            try:
                lines.append(json.loads(raw))
            except ValueError:
                break
        return lines


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
