"""The state of detectors as bytes, so that a resumed run need not show them every earlier step again.

The state is plain data: a line of JSON, then the arrays that it names. It holds numbers, texts, arrays, containers of
these, and objects of this package by their attributes, so that a detector needs no code for it. `fingerprint` shows
whether a state belongs to these detectors; the state of others is useless. `gradwatch.detect.restoring` gives it back.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gradwatch.record import Event, LayerStats, ParameterInfo

if TYPE_CHECKING:
    from gradwatch.detect import Detector

PACKAGE = "gradwatch.detect"
RECORDS = {kind.__name__: kind for kind in (Event, LayerStats)}
"""What of other stages a detector may hold."""


@functools.cache
def fingerprint() -> str:
    """A text that changes whenever the code of the detectors does.

    >>> fingerprint() == fingerprint()
    True
    """
    crc = 0
    for file in sorted(Path(__file__).parent.glob("*.py")):
        crc = zlib.crc32(file.read_bytes(), crc)
    return f"{crc:08x}"


def dump(detectors: Sequence[Detector]) -> bytes:
    """The state of detectors as bytes.

    Raises:
        TypeError: one of them holds something that is not plain data.
    """
    return b"".join(pieces(detectors))


def pieces(detectors: Sequence[Detector]) -> list[bytes | memoryview]:
    """The same bytes in pieces, of which no copy is made: the arrays of a thousand parameters have 3.5 MB.

    They lie where the detectors have them. Use them before a detector sees another record.

    Raises:
        TypeError: as `dump`.
    """
    encoder = _Encoder()
    states = [[type(detector).__name__, encoder.attributes(detector)] for detector in detectors]
    head = {"detectors": states, "parameters": encoder.parameters}
    return [json.dumps(head, separators=(",", ":")).encode(), b"\n", *encoder.arrays]


class _Encoder:
    """Turns values into JSON, and collects the arrays in them.

    What can change is numbered in the order in which it is met, and the second time named by its number: two attributes
    that are one object stay one.

    Attributes:
        arrays: each array as it lies in memory.
        parameters: the lists of parameters; there are few lists and many references to them.
    """

    def __init__(self) -> None:
        self.arrays: list[memoryview] = []
        self.parameters: list[list[Any]] = []
        self._known: dict[tuple[ParameterInfo, ...], int] = {}
        self._same: dict[int, int] = {}  # the same by `id`: a thousand parameters take long to hash
        self._met: dict[int, int] = {}
        self._at = 0

    def attributes(self, value: object) -> dict[str, Any]:
        return {name: self.encode(part) for name, part in attributes_of(value).items()}

    def encode(self, value: Any) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, np.generic):
            return {"scalar": self._array(np.asarray(value))}
        if type(value) is tuple:
            if id(value) in self._same:
                return {"parameters": self._same[id(value)]}
            if value and all(isinstance(part, ParameterInfo) for part in value):
                return {"parameters": self._parameters(value)}
            return {"tuple": [self.encode(part) for part in value]}
        if id(value) in self._met:
            return {"same": self._met[id(value)]}
        self._met[id(value)] = len(self._met)
        return self._changeable(value)

    def _changeable(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return {"array": self._array(value)}
        if isinstance(value, deque):
            return {"deque": self._items(value), "maxlen": value.maxlen}
        if type(value) is list:
            return {"list": self._items(value)}
        if type(value) is set:
            return {"set": [self.encode(part) for part in value]}
        if type(value) is dict:
            return {"dict": [[self.encode(key), self.encode(part)] for key, part in value.items()]}
        kind = type(value)
        if kind.__name__ in RECORDS or kind.__module__.startswith(PACKAGE):
            where = "" if kind.__name__ in RECORDS else kind.__module__.removeprefix(f"{PACKAGE}.")
            return {"object": [where, kind.__name__], "attributes": self.attributes(value)}
        raise TypeError(f"a detector holds {kind.__name__}, which is not plain data")

    def _items(self, values: Sequence[Any]) -> Any:
        """The items of a list; floats alone as an array, which is smaller."""
        if len(values) > 4 and all(type(value) is float for value in values):
            return {"floats": self._array(np.array(values, "<f8"))}
        return [self.encode(value) for value in values]

    def _array(self, array: NDArray[Any]) -> list[Any]:
        if array.dtype.kind not in "biuf":
            raise TypeError(f"a detector holds an array of {array.dtype}, which is not plain data")
        self.arrays.append(np.ascontiguousarray(array).data)
        begin, self._at = self._at, self._at + array.nbytes
        return [array.dtype.str, list(array.shape), begin]

    def _parameters(self, infos: tuple[ParameterInfo, ...]) -> int:
        if infos not in self._known:
            self._known[infos] = len(self.parameters)
            self.parameters.append([[info.name, info.shape, info.dtype] for info in infos])
        self._same[id(infos)] = self._known[infos]
        return self._known[infos]


def attributes_of(value: object) -> dict[str, Any]:
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return vars(value)
