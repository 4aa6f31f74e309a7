"""Gives fresh detectors a state that `gradwatch.detect.state` has written. Only a run that is resumed needs it."""

from __future__ import annotations

import importlib
import json
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gradwatch.detect.state import PACKAGE, RECORDS, attributes_of
from gradwatch.record import ParameterInfo

if TYPE_CHECKING:
    from gradwatch.detect import Detector


class StateMismatch(ValueError):
    """A state is not one of these detectors."""


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
            if type(detector).__name__ != name or attributes_of(detector).keys() != attributes.keys():
                raise StateMismatch(f"it is one of {name} with {', '.join(attributes)}")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, RecursionError) as error:
        raise StateMismatch(f"not a state of these detectors: {error}") from error
    for detector, (_, attributes) in zip(detectors, states, strict=True):
        _set_attributes(detector, attributes)


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
        if name in RECORDS:
            return RECORDS[name](**decoded)
        kind = getattr(importlib.import_module(f"{PACKAGE}.{where}"), name)
        if not isinstance(kind, type) or not kind.__module__.startswith(PACKAGE):
            raise StateMismatch(f"{name} is no class of {PACKAGE}")
        made: object = object.__new__(kind)
        _set_attributes(made, decoded)
        return made


def _set_attributes(value: object, attributes: dict[str, Any]) -> None:
    for name, part in attributes.items():
        object.__setattr__(value, name, part)  # also of what is frozen
