"""Containers in place of classes that a capture names. Reading a capture imports nothing that it names."""

from __future__ import annotations

import keyword
from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any


class Structure:
    """Stands in for a dataclass: its fields are attributes.

    >>> Structure("data.Batch", {"x": 1}).x
    1
    """

    __slots__ = ("class_name", "fields")

    def __init__(self, class_name: str, fields: Mapping[str, Any]) -> None:
        self.class_name = class_name
        self.fields = dict(fields)

    def __getattr__(self, name: str) -> Any:
        if name in Structure.__slots__:
            raise AttributeError(name)  # not made yet, for example while it is copied
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(f"the captured {self.class_name} has no field {name!r}") from None

    def __repr__(self) -> str:
        return f"Structure({self.class_name!r}, {self.fields!r})"


class MappingStandIn(dict[Any, Any]):
    """Stands in for a mapping, for example a BatchEncoding: its keys are attributes too.

    >>> batch = MappingStandIn("transformers.BatchEncoding", {"input_ids": 1})
    >>> batch.input_ids, dict(batch)
    (1, {'input_ids': 1})
    """

    def __init__(self, class_name: str, items: Mapping[Any, Any]) -> None:
        super().__init__(items)
        self.class_name = class_name

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def namedtuple_stand_in(class_name: str, fields: Sequence[str]) -> Any:
    """A named tuple class with these fields.

    Raises:
        ValueError: a field has no valid name.
    """
    name = class_name.rpartition(".")[2]
    return namedtuple(name if name.isidentifier() and not keyword.iskeyword(name) else "NamedTuple", fields)
