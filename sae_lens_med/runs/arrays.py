"""Parts of the arrays of a safetensors file: the header is read when it is opened, rows when they are asked for.

A safetensors file is 8 bytes (the header's length, little-endian), the header (JSON: per array its type, shape and
place in what follows) and the numbers. Rows are read by `pread`, not through a map of the memory, so that what was read
does not stay resident. Every read opens the file and closes it: threads share nothing, and a file that was replaced
since the header was read is refused, not read as if it were the old one.

Out of scope: writing (`safetensors.numpy.save_file`), and hashes.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sae_lens_med.runs.parsing import ParseError, parse_json

_MAX_HEADER = 1 << 24
"""Bytes; what this package writes has some hundred."""
_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


@dataclass(frozen=True, slots=True)
class _Place:
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    """In the file."""

    @property
    def row(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * prod(self.shape[1:])


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """The arrays that a file holds, and where."""

    path: Path
    places: Mapping[str, _Place]
    metadata: Mapping[str, str]
    _state: tuple[int, int, int]
    """Of the file when its header was read: number, size, time of its last change."""

    @classmethod
    def open(cls, path: Path) -> "ArrayFile":
        """Read the header. Raises `ParseError` with the reason where it is none, or the file is shorter or longer than
        it says."""
        try:
            with path.open("rb") as file:
                state = _state(file.fileno())
                length = int.from_bytes(file.read(8), "little")
                if not 2 <= length <= min(_MAX_HEADER, state[1] - 8):
                    raise ParseError("it does not begin with the header of a safetensors file")
                header = parse_json(file.read(length).rstrip(b" "))
        except OSError as error:
            raise ParseError(error.strerror or type(error).__name__) from error
        try:
            metadata = header.pop("__metadata__", {})
            places = {name: _place(value, 8 + length) for name, value in header.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ParseError(f"its header is damaged ({error})") from error
        end = 8 + length
        for place in sorted(places.values(), key=lambda each: each.offset):
            if place.offset != end:
                raise ParseError("its header leaves gaps between the arrays")
            end += prod(place.shape) * place.dtype.itemsize
        if end != state[1]:
            raise ParseError(f"it has {state[1]} bytes, and its header says {end}")
        return cls(path, places, metadata, state)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an array."""
        return self.places[name].shape

    @contextmanager
    def reading(self) -> Iterator["OpenArrays"]:
        """The file, open for several reads. Raises `ParseError` where it is gone or was replaced."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ParseError(error.strerror or type(error).__name__) from error
        try:
            if _state(descriptor) != self._state:
                raise ParseError("it was changed while it was in use")
            yield OpenArrays(self, descriptor)
        finally:
            os.close(descriptor)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """One array, or its rows `start` to `stop`."""
        with self.reading() as file:
            return file.read(name, start, stop)


@dataclass(frozen=True, slots=True)
class OpenArrays:
    """See `ArrayFile.reading`."""

    _file: ArrayFile
    _descriptor: int

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Rows `start` to `stop` of an array (all, without them). Raises `ParseError` for rows that it has not got."""
        place = self._file.places[name]
        rows = place.shape[0] if place.shape else 1
        stop = rows if stop is None else stop
        if not 0 <= start <= stop <= rows:
            raise ParseError(f"rows {start} to {stop} of {name} are asked for, and there are {rows}")
        wanted = np.empty((stop - start, *place.shape[1:]), dtype=place.dtype)
        left, offset = wanted.reshape(-1).view(np.uint8).data, place.offset + start * place.row
        while left:
            got = os.preadv(self._descriptor, [left], offset)
            if not got:
                raise ParseError(f"{name} ends before its row {stop}")
            left, offset = left[got:], offset + got
        return wanted


def _state(descriptor: int) -> tuple[int, int, int]:
    found = os.fstat(descriptor)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _place(value: Any, after: int) -> _Place:
    dtype, shape = np.dtype(_TYPES[value["dtype"]]), tuple(value["shape"])
    start, end = value["data_offsets"]
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, start, end)):
        raise ValueError("a size is no whole number of 0 or more")
    if end - start != prod(shape) * dtype.itemsize:
        raise ValueError("an array's place is not as large as its shape")
    return _Place(dtype, shape, after + start)
