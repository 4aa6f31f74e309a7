"""Nested values of Python with tensors in them: to walk through, to change, to name the classes of.

Nested are lists, tuples, named tuples, dictionaries and other mappings, dataclasses and packed sequences. Tensors
come in the order in which their containers hold them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gradwatch.capture.stand_ins import MappingStandIn, Structure

Parts: TypeAlias = dict[Any, Any]
Rebuild: TypeAlias = Callable[[Any, Parts, Parts], Any]
"""Makes a container again from itself, its parts, and those of them that changed."""

MAX_DEPTH = 100
"""Containers within containers; deeper ones are refused."""


def tensors_in(value: object) -> list[Tensor]:
    """Each tensor in a nested value.

    >>> import torch
    >>> [tensor.item() for tensor in tensors_in({"a": torch.tensor(1), "b": [torch.tensor(2), "text"]})]
    [1, 2]
    """
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(note, value)
    return found


def differentiable(output: object) -> list[Tensor]:
    """Each tensor of a module's output that a backward can begin at, once; `Forward.output_gradients` are of these.

    >>> import torch
    >>> x = torch.ones(2, requires_grad=True)
    >>> y = x * 2
    >>> [tensor is y for tensor in differentiable({"y": y, "again": y, "x": x, "no": torch.ones(1)})]
    [True]
    """
    found = [tensor for tensor in tensors_in(output) if is_differentiable(tensor)]
    return list({id(tensor): tensor for tensor in found}.values())


def is_differentiable(tensor: Tensor) -> bool:
    """Whether a module made it, and a gradient can reach it."""
    return tensor.requires_grad and not tensor.is_leaf and tensor.layout == torch.strided


def map_tensors(function: Callable[[Tensor], Tensor], value: Any, rebuild: Rebuild | None = None) -> Any:
    """The same nested value with ``function`` of each tensor; a container without a change stays the same object.

    Raises:
        RecursionError: the value is nested deeper than `MAX_DEPTH`, or holds itself.

    >>> import torch
    >>> map_tensors(lambda tensor: tensor + 1, (torch.tensor(1), [None, torch.tensor(2)]))
    (tensor(2), [None, tensor(3)])
    """
    return _map(function, value, rebuild or _rebuilt, MAX_DEPTH)


def _map(function: Callable[[Tensor], Tensor], value: Any, rebuild: Rebuild, depth: int) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    parts = parts_of(value)
    if parts is None:
        return value
    if depth == 0:
        raise RecursionError(f"nested deeper than {MAX_DEPTH} levels")
    changed = {}
    for key, part in parts.items():
        new = _map(function, part, rebuild, depth - 1)
        if new is not part:
            changed[key] = new
    return rebuild(value, parts, changed) if changed else value


def is_namedtuple(value: object) -> bool:
    """Whether it is a named tuple; a packed sequence is one, too."""
    return isinstance(value, tuple) and isinstance(getattr(value, "_fields", None), tuple)


def parts_of(value: Any) -> dict[Any, Any] | None:
    """What a container holds, by key, field or position; None for anything else."""
    if is_namedtuple(value):
        return dict(zip(value._fields, value, strict=True))
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    if isinstance(value, Structure):
        return value.fields
    if isinstance(value, Mapping):  # before dataclasses: a ModelOutput is both
        return dict(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names if hasattr(value, name)}
    return None


def _rebuilt(value: Any, parts: Parts, changed: Parts) -> Any:
    """A container of the same class with these parts alone."""
    kind, parts = cast("Any", type(value)), parts | changed
    if is_namedtuple(value):
        return tuple.__new__(kind, parts.values())
    if isinstance(value, (list, tuple)):
        return kind(parts.values())
    if isinstance(value, (Structure, MappingStandIn)):
        return kind(value.class_name, parts)
    if isinstance(value, Mapping):
        return mapping_of(kind, parts)
    return dataclass_of(kind, parts)


def mapping_of(kind: Any, items: dict[Any, Any]) -> Any:
    """A mapping of this class."""
    takes_fields = hasattr(kind, "__dataclass_fields__")  # a ModelOutput
    return kind(**items) if takes_fields else kind(items)


def dataclass_of(kind: Any, fields: dict[str, Any]) -> Any:
    """A dataclass of this class with these fields; its `__init__` is not called."""
    made = object.__new__(kind)
    for name, part in fields.items():
        object.__setattr__(made, name, part)
    return made


def class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def classes_in(value: object) -> dict[str, type]:
    """The classes of all named tuples, dataclasses and mappings in a nested value, by "module.Name".

    `gradwatch.capture.read` makes containers of these classes if it is given them. Without them it makes
    stand-ins, because it imports nothing that a capture names.

    >>> from collections import OrderedDict
    >>> classes_in([OrderedDict(a=1), {"b": 2}])
    {'collections.OrderedDict': <class 'collections.OrderedDict'>}
    """
    found: dict[str, type] = {}
    _collect(value, found, MAX_DEPTH)
    return found


def _collect(value: object, found: dict[str, type], depth: int) -> None:
    parts = None if isinstance(value, (Tensor, PackedSequence)) else parts_of(value)
    if parts is None or depth == 0:
        return
    if type(value) not in {list, tuple, dict, Structure, MappingStandIn}:
        found[class_name(type(value))] = type(value)
    for part in parts.values():
        _collect(part, found, depth - 1)
