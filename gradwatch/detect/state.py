"""The state of detectors as bytes, so that a resumed run need not show them every earlier step again.

The state is plain data: a line of JSON, then the arrays that it names. It holds numbers, texts, arrays, containers of
these, and objects of this package by their attributes, so that a detector needs no code for it. `fingerprint` shows
whether a state belongs to these detectors; the state of others is useless.
"""

from __future__ import annotations

import functools
import importlib
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

_PACKAGE = "gradwatch.detect"
_RECORDS = {kind.__name__: kind for kind in (Event, LayerStats)}


class StateMismatch(ValueError):
    """A state is not one of these detectors."""


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


def load(detectors: Sequence[Detector], state: bytes) -> None:
    """Give fresh detectors a state that `dump` made of such detectors.

    Raises:
        StateMismatch: it is of other detectors, or no state at all. The detectors stay as they are.
    """
    line, _, data = state.partition(b"\n")
    try:
        head = json.loads(line)
        decoder = _Decoder(data, head["parameters"])
        states = [(name, decoder.attributes(attributes)) for name, attributes in head["detectors"]]
        for detector, (name, attributes) in zip(detectors, states, strict=True):
            if type(detector).__name__ != name or _attributes(detector).keys() != attributes.keys():
                raise StateMismatch(f"it is one of {name} with {', '.join(attributes)}")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, RecursionError) as error:
        raise StateMismatch(f"not a state of these detectors: {error}") from error
    for detector, (_, attributes) in zip(detectors, states, strict=True):
        _set_attributes(detector, attributes)


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
        return {name: self.encode(part) for name, part in _attributes(value).items()}

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
        if kind.__name__ in _RECORDS or kind.__module__.startswith(_PACKAGE):
            where = "" if kind.__name__ in _RECORDS else kind.__module__.removeprefix(f"{_PACKAGE}.")
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


class _Decoder:
    """Turns JSON back into values, with the arrays in ``data``."""

    def __init__(self, data: bytes, parameters: list[list[Any]]) -> None:
        self._data = data
        self._parameters = [
            tuple(ParameterInfo(name=name, shape=tuple(shape), dtype=dtype) for name, shape, dtype in infos)
            for infos in parameters
        ]
        self._met: list[Any] = []

    def attributes(self, attributes: dict[str, Any]) -> dict[str, Any]:
        return {name: self.decode(part) for name, part in attributes.items()}

    def decode(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        kind = next(iter(value))
        content = value[kind]
        if kind == "scalar":
            return self._array(*content)[()]
        if kind == "tuple":
            return tuple(map(self.decode, content))
        if kind == "parameters":
            return self._parameters[content]
        if kind == "same":
            return self._met[content]
        number = len(self._met)
        self._met.append(None)  # for what is met within it is numbered after it
        self._met[number] = self._changeable(kind, content, value)
        return self._met[number]

    def _changeable(self, kind: str, content: Any, value: dict[str, Any]) -> Any:
        if kind == "array":
            return self._array(*content)
        if kind == "deque":
            return deque(self._items(content), value["maxlen"])
        if kind == "list":
            return self._items(content)
        if kind == "set":
            return set(map(self.decode, content))
        if kind == "dict":
            return {self.decode(key): self.decode(part) for key, part in content}
        return self._object(content[0], content[1], value["attributes"])

    def _items(self, content: Any) -> list[Any]:
        if isinstance(content, dict):
            items: list[Any] = self._array(*content["floats"]).tolist()
            return items
        return [self.decode(part) for part in content]

    def _array(self, dtype: str, shape: list[int], begin: int) -> NDArray[Any]:
        length = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return np.frombuffer(self._data[begin : begin + length], dtype).reshape(shape).copy()

    def _object(self, where: str, name: str, attributes: dict[str, Any]) -> Any:
        decoded = self.attributes(attributes)
        if name in _RECORDS:
            return _RECORDS[name](**decoded)
        kind = getattr(importlib.import_module(f"{_PACKAGE}.{where}"), name)
        if not isinstance(kind, type) or not kind.__module__.startswith(_PACKAGE):
            raise StateMismatch(f"{name} is no class of {_PACKAGE}")
        made: object = object.__new__(kind)
        _set_attributes(made, decoded)
        return made


def _attributes(value: object) -> dict[str, Any]:
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return vars(value)


def _set_attributes(value: object, attributes: dict[str, Any]) -> None:
    for name, part in attributes.items():
        object.__setattr__(value, name, part)  # also of what is frozen
