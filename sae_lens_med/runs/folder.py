"""The folder of a run: whose it is, what is done in it, and whether a run may go on there.

A manifest in the folder says of what kind the run is and what it depends on (its identity, `provenance`); beside them
stands what the run notes as it goes: parts that are done, notes, shards. Opening a folder writes nothing. A folder is
refused, in one sentence that says what to do, when it is a file, holds something that is not ours, is of another kind
or format, has a damaged manifest, or holds finished work of a run with other settings.

Manifests are replaced atomically, and a part is named there after its files are written, so that at every moment the
folder holds whole parts only: what an interruption cost is done again, what is done is not.

One process writes to a folder at a time (`lock`): whoever begins to write holds it, and another is refused.

In several processes (`distributed`), rank 0 looks at the folder and tells the others, and it alone writes the manifest
and holds the folder; a folder is opened by all of them together.

Out of scope: results that come one by one (`partial`), and the other files of a run.
"""

import json
import os
import shutil
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from sae_lens_med import distributed
from sae_lens_med.errors import DataError, StudyError
from sae_lens_med.runs import lock
from sae_lens_med.runs.files import LEAST_ROOM, write_json, write_text
from sae_lens_med.runs.parsing import ParseError, parse_json, parse_yaml
from sae_lens_med.runs.provenance import changes, require_same

_MARKS = ("format", "kind")
_NAME_BYTES, _PATH_BYTES = 255, 4095
"""The longest name and path that a disk takes."""
_INSIDE = 120
"""Bytes that the names inside of a folder need."""


def _unmarked(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in _MARKS}


def _none(_names: Collection[str]) -> bool:
    return False


def _always(_folder: Path, _values: Mapping[str, Any]) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Kind:
    """What the folders of one command have in common."""

    name: str
    """A noun without an article, for sentences and for the manifest's `kind`: `study`, `sweep`."""
    format: int | None
    """Of the manifest. None for one that is a YAML file of its own form, with neither `format` nor `kind`."""
    manifest: str = "manifest.json"
    identity: Callable[[Mapping[str, Any]], Mapping[str, Any]] = _unmarked
    """What the run depends on, from the values of a manifest; by default all of them. Raises `KeyError`, `TypeError`,
    `ValueError`, `AttributeError` or `DataError` for a manifest that is not whole."""
    parts: str = "parts"
    """The key of the manifest under which the finished parts stand."""
    leftovers: Callable[[Collection[str]], bool] = _none
    """Whether these names, in a folder without a manifest, are what an interrupted run of this kind leaves."""
    bound: Callable[[Path, Mapping[str, Any]], bool] = _always
    """Whether the folder, with the values of its manifest, holds finished work of the run. One that does not is bound
    to no settings: another run may begin there."""
    together: bool = True
    """Whether all processes of a job open it together. False for what rank 0 does while the others wait."""


class RunFolder:
    """The folder of a run that begins or goes on.

    Args:
        path: need not exist.
        kind: what the run is.
        values: of the manifest of a run that begins, without `format` and `kind`.
        resume: for runs that go on only when they are asked to: whether this one is. None: it goes on by itself.

    Raises `StudyError` for a folder that cannot be this run's (see the module), for one that was begun where `resume`
    is False, and for one that was not where it is True.
    """

    def __init__(self, path: Path, kind: Kind, values: Mapping[str, Any], *, resume: bool | None = None) -> None:
        self.path, self.kind = Path(path), kind
        own: dict[str, Any] = json.loads(json.dumps(_marked(kind, values)))
        self._own = json.loads(json.dumps(own))
        self._release: weakref.finalize[..., RunFolder] | None = None
        found, other = self._found(own, resume) if distributed.ranks().first else (None, None)
        found = distributed.broadcast_object(found) if kind.together else found
        self._opened = None if found is None else json.dumps(found)
        self.begun = found is not None
        """Whether the folder had a manifest of this run when it was opened."""
        self.replaces: dict[str, Any] | None = other
        """The manifest of a run with other settings that finished nothing, whose place this one takes; known to rank 0
        alone, which clears up."""
        self.values: dict[str, Any] = own if found is None else found
        """Of the manifest; `write` writes them."""

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """The finished parts by name, each with `done` (ISO 8601), `seconds`, and what `finish` was told of it."""
        return self.values[self.kind.parts]

    def hold(self) -> None:
        """Be the one that writes here, until this object or the process ends; what writes the manifest does it, too.

        `begun` and `values` are then those that another process left since this folder was opened, if one did. Raises
        `StudyError` where another process writes here, or left something else.
        """
        if self._release is not None or not distributed.ranks().first:
            return
        self._release = weakref.finalize(self, lock.hold(self.path))
        if not (self.path / self.kind.manifest).is_file():
            return
        found = read_manifest(self.path, self.kind)
        if json.dumps(found) == self._opened or found == self.replaces:
            return  # as it was when the folder was opened
        if distributed.ranks().world_size > 1:  # the others know what was there before
            raise StudyError(f"another process has just written to {self.path}; run the same command again.")
        require_same(self.path, self.kind.identity(found), self.kind.identity(self._own))
        self.begun, self.values = True, found

    def begin(self) -> None:
        """Hold the folder, and write the manifest where it has none yet."""
        self.hold()
        if not self.begun:
            self.write()

    def write(self) -> None:
        """Write the manifest."""
        if distributed.ranks().first:
            self.hold()
            path, values = self.path / self.kind.manifest, _marked(self.kind, self.values)
            if self.kind.format is None:
                write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
            else:
                write_json(path, values)

    def finish(self, name: str, seconds: float, **about: Any) -> None:
        """Note, on disk too, that a part is done."""
        self.hold()
        done = datetime.now(UTC).isoformat(timespec="seconds")
        self.parts[name] = {**about, "done": done, "seconds": round(seconds, 2)}
        self.write()

    def note(self, notes: Sequence[str]) -> None:
        """Add to `notes` of the manifest, each once; the next `write` writes them."""
        self.values["notes"] = list(dict.fromkeys([*self.values["notes"], *notes]))

    def _found(
        self, own: Mapping[str, Any], resume: bool | None
    ) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """The manifest of a run that may go on as `own`, None where there is none and one may begin; and that of one
        that is given up for it."""
        require_names(self.path)
        begun = (self.path / self.kind.manifest).is_file()
        if not begun or resume:
            require_writable(self.path)
        if begun:
            found = read_manifest(self.path, self.kind)
            bound = self.kind.bound(self.path, found)
            if resume is False and not bound:
                return None, found
            if resume is False:
                raise StudyError(
                    f"{self.path} contains an unfinished {self.kind.name}; add --resume to continue it, or choose "
                    "another folder."
                )
            if resume is None and not bound and changes(self.kind.identity(found), self.kind.identity(own)):
                return None, found
            require_same(self.path, self.kind.identity(found), self.kind.identity(own))
            return found, None
        _require_own_leftovers(self.path, self.kind)
        if resume:
            raise StudyError(f"{self.path} contains no {self.kind.name} to resume; leave out --resume to start one.")
        return None, None


def read_manifest(folder: Path, kind: Kind) -> dict[str, Any]:
    """The manifest of a folder. Raises `StudyError` when it is missing, damaged, or of another kind or format."""
    path = folder / kind.manifest
    try:
        values = _parsed(path.read_text(encoding="utf-8"), kind)
        if kind.format is not None:
            if (other := values.get("kind", kind.name)) != kind.name:
                raise StudyError(
                    f"{folder} contains no {kind.name}: {path.name} says {other!r}; choose another folder."
                )
            if values["format"] != kind.format:
                raise StudyError(
                    f"{path} has format {values['format']!r}, but this version reads {kind.format}; delete {folder} "
                    "to start again, or choose another folder."
                )
        kind.identity(values)
    except FileNotFoundError as error:
        raise StudyError(f"{folder} contains no {kind.name}: {path.name} is missing; choose another folder.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise StudyError(
            f"{path} is damaged ({reason}); delete {folder} to start again, or choose another folder."
        ) from error
    return values


def require_output(path: Path, kind: Kind) -> None:
    """Check what can be known of an output folder before anything heavy is loaded: that it is new, empty, or of `kind`,
    and that no other process writes there. Whether it is of the same run is known when it is opened.

    Raises `StudyError`.
    """
    if not distributed.ranks().first:
        return
    require_names(path)
    if (path / kind.manifest).is_file():
        read_manifest(path, kind)
    else:
        require_writable(path)
        _require_own_leftovers(path, kind)
    lock.require_no_other(path)


def require_writable(path: Path) -> None:
    """Check that `path` is, or can become, a folder that this user may write to, on a disk with room.

    Raises `StudyError`.
    """
    require_names(path)
    there = next((each for each in (path, *path.absolute().parents) if each.exists() or each.is_symlink()), path)
    where = "" if there == path else f"{path} cannot be made: "
    if not there.is_dir():
        what = "a file" if there.exists() else "a link to nothing"
        raise StudyError(f"{where}{there} is {what}; choose a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise StudyError(f"{where}you may not write to {there}; choose another folder.")
    if shutil.disk_usage(there).free < LEAST_ROOM:
        raise StudyError(f"{where}the disk of {there} is full; free some space, or choose a folder on another disk.")


def require_writable_file(path: Path) -> None:
    """Check that `path` is, or can become, a file that this user may write to, on a disk with room.

    A device is none: what is written atomically would take its place. Raises `StudyError`.
    """
    require_writable(path.parent)
    require_names(path)
    if path.is_dir():
        raise StudyError(f"{path} is a folder; name a file.")
    if os.path.lexists(path) and not path.is_file():
        raise StudyError(f"{path} is {'no regular file' if path.exists() else 'a link to nothing'}; name another file.")


def require_names(path: Path) -> None:
    """Check that a folder can be called `path` and have files in it. Raises `StudyError`."""
    if long := [part for part in path.parts if len(os.fsencode(part)) > _NAME_BYTES]:
        raise StudyError(
            f"the name {long[0][:40]}... has {len(os.fsencode(long[0]))} bytes, more than the {_NAME_BYTES} that a "
            "disk takes; choose a shorter one."
        )
    if (length := len(os.fsencode(path.absolute()))) > _PATH_BYTES - _INSIDE:
        raise StudyError(
            f"the path {str(path)[:40]}... has {length} bytes, more than the {_PATH_BYTES - _INSIDE} that leave room "
            "for the names of files; choose a shorter one."
        )


def _require_own_leftovers(path: Path, kind: Kind) -> None:
    """Check a folder without a manifest for what is not of this kind."""
    # Hidden files do not count: an interrupted write may leave a temporary one.
    others = {p.name for p in path.iterdir() if p.name[0] != "."} if path.is_dir() else set()
    if others and not kind.leftovers(others):
        raise StudyError(f"{path} is not empty and contains no {kind.name}; choose an empty or new folder.")


def _marked(kind: Kind, values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(values) if kind.format is None else {"format": kind.format, "kind": kind.name, **_unmarked(values)}


def _parsed(text: str, kind: Kind) -> dict[str, Any]:
    try:
        values = parse_json(text) if kind.format is not None else parse_yaml(text)
    except ParseError as error:
        raise ValueError(str(error)) from error
    if not isinstance(values, dict):
        raise TypeError("it is not an object")
    return values
