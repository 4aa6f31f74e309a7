"""Nested values as JSON, with their tensors beside it. Nothing is pickled.

A node of the JSON is a plain null, bool, int, float or string, or an object whose first key says what it is. Floats
that JSON does not have are strings. Tensors lie in a safetensors file under the names that nodes give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gradwatch.capture.nested import MAX_DEPTH, class_name, is_namedtuple, parts_of
from gradwatch.capture.record import RandomState, Unkept
from gradwatch.capture.stand_ins import MappingStandIn, Structure

Node: TypeAlias = Any
"""A value that `json` can write."""

PLAIN_TYPES: tuple[torch.dtype, ...] = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)
"""What every version of safetensors writes as it is; other types are written as their bytes."""

LARGEST_INT_BITS = 1024
TEXT_LENGTH = 200


class Encoder:
    """Describes values, and gathers their tensors.

    Attributes:
        tensors: by the name that nodes give them, contiguous and on the CPU.
        unkept: what could not be written.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.unkept: list[Unkept] = []
        self._names: dict[int, tuple[object, Node]] = {}  # with the tensor, so that its id stays its own
        self._storages: set[int] = set()

    def nested(self, value: Any, depth: int = MAX_DEPTH) -> Node:
        """Describe a nested value."""
        if value is None or type(value) in {bool, str}:
            return value
        if isinstance(value, Unkept):
            return self._note(value)
        if depth == 0:
            return self._unkept(value, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, Tensor):
            return self.tensor(value)
        node = _scalar(value)
        if node is None:
            node = self._container(value, depth)
        return self._unkept(value, _text(value)) if node is None else node

    def tensor(self, tensor: Tensor) -> Node:
        """Describe a tensor; one that comes twice is written once."""
        known = self._names.get(id(tensor))
        if known is None:
            try:
                node = self._tensor(tensor)
            except (RuntimeError, TypeError, NotImplementedError) as error:
                node = self._unkept(tensor, f"{tensor.layout}, {tensor.dtype}: {str(error)[:TEXT_LENGTH]}")
            known = self._names[id(tensor)] = (tensor, node)
        return known[1]

    def random_state(self, state: RandomState) -> Node:
        version, internal, gauss = state.python
        node: Node = {
            "python": [version, self.tensor(torch.tensor(internal, dtype=torch.int64)), gauss],
            "cpu": self.tensor(state.cpu),
            "devices": {name: self.tensor(one) for name, one in state.devices.items()},
            "numpy": None,
        }
        if state.numpy is not None:
            kind, keys, position, has_gauss, cached = state.numpy
            words = torch.tensor([int(key) for key in keys], dtype=torch.int64)
            node["numpy"] = [str(kind), self.tensor(words), int(position), int(has_gauss), float(cached)]
        return node

    # --------------------------------------------------------------------------------- containers

    def _container(self, value: Any, depth: int) -> Node:
        parts = parts_of(value)
        if isinstance(value, PackedSequence) or parts is None:
            return self._special(value, depth)
        if isinstance(value, (list, tuple)) and not is_namedtuple(value):
            return {"list" if isinstance(value, list) else "tuple": self._each(value, depth)}
        name = value.class_name if isinstance(value, (Structure, MappingStandIn)) else class_name(type(value))
        if isinstance(value, Mapping):
            pairs = [self._each(pair, depth) for pair in parts.items()]
            return {"dict": pairs} if type(value) is dict else {"mapping": name, "items": pairs}
        fields = {key: self.nested(part, depth - 1) for key, part in parts.items()}
        return {"namedtuple" if is_namedtuple(value) else "dataclass": name, "fields": fields}

    def _special(self, value: Any, depth: int) -> Node:
        if isinstance(value, PackedSequence):
            return {"packed_sequence": self._each(value, depth)}
        if isinstance(value, slice):
            return {"slice": self._each((value.start, value.stop, value.step), depth)}
        if type(value) in {set, frozenset}:
            return {type(value).__name__: self._each(value, depth)}
        return self._of_numpy(value) if type(value).__module__ == "numpy" else None

    def _each(self, values: Iterable[Any], depth: int) -> list[Node]:
        return [self.nested(value, depth - 1) for value in values]

    def _of_numpy(self, value: Any) -> Node:
        import numpy as np

        try:
            return {"numpy": self.tensor(torch.from_numpy(np.array(value))), "scalar": isinstance(value, np.generic)}
        except TypeError:  # text or objects
            return None

    def _unkept(self, value: object, text: str) -> Node:
        return self._note(Unkept(type=class_name(type(value)), text=text))

    def _note(self, unkept: Unkept) -> Node:
        self.unkept.append(unkept)
        return {"unkept": unkept.type, "text": unkept.text}

    # ------------------------------------------------------------------------------------ tensors

    def _tensor(self, tensor: Tensor) -> Node:
        given, tensor = tensor, _local(tensor).detach()
        wants = {"requires_grad": True} if given.requires_grad else {}
        if tensor.device.type == "meta" or tensor.is_quantized or tensor.is_nested:
            raise TypeError("a meta, quantized or nested tensor")
        if tensor.layout != torch.strided:
            return self._sparse(tensor) | wants
        return self._strided(tensor) | wants

    def _sparse(self, tensor: Tensor) -> Node:
        if tensor.layout == torch.sparse_coo:
            parts = {"indices": tensor._indices(), "values": tensor._values()}
            node: Node = {"sparse": "coo", "coalesced": tensor.is_coalesced()}
        elif tensor.layout in {torch.sparse_csr, torch.sparse_bsr}:
            parts = {"crow": tensor.crow_indices(), "col": tensor.col_indices(), "values": tensor.values()}
            node = {"sparse": "csr" if tensor.layout == torch.sparse_csr else "bsr"}
        elif tensor.layout in {torch.sparse_csc, torch.sparse_bsc}:
            parts = {"ccol": tensor.ccol_indices(), "row": tensor.row_indices(), "values": tensor.values()}
            node = {"sparse": "csc" if tensor.layout == torch.sparse_csc else "bsc"}
        else:
            raise TypeError("a layout that is not known")
        return node | {"size": list(tensor.shape)} | {name: self._strided(part) for name, part in parts.items()}

    def _strided(self, tensor: Tensor) -> Node:
        name = f"t{len(self.tensors)}"
        tensor = tensor.resolve_conj().resolve_neg()
        node: Node = {"tensor": name, "shape": list(tensor.shape), "dtype": _type_name(tensor.dtype)}
        order = _order(tensor)
        if order != sorted(order):  # the layout in memory bears on the kernel that is taken, and so on the last bits
            node["order"] = order
            tensor = tensor.permute(order)
        plain = tensor.to("cpu").contiguous()
        if plain.dtype not in PLAIN_TYPES:
            plain = plain.reshape(-1).view(torch.uint8)
        storage = plain.untyped_storage().data_ptr()
        if storage in self._storages and plain.numel():  # safetensors writes no two tensors of one storage
            plain = plain.clone()
        self._storages.add(plain.untyped_storage().data_ptr())
        self.tensors[name] = plain
        return node


def _local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that this process has."""
    to_local = getattr(tensor, "to_local", None)
    return to_local() if callable(to_local) else tensor


def _order(tensor: Tensor) -> list[int]:
    """The dimensions from the one with the largest stride to the one with the smallest.

    >>> _order(torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))
    [0, 2, 3, 1]
    """
    if tensor.is_contiguous():
        return list(range(tensor.dim()))
    strides = tensor.stride()
    return sorted(range(tensor.dim()), key=lambda at: (-strides[at], at))


def _scalar(value: Any) -> Node:
    """A node for a value without parts; None for any other."""
    make = _SCALARS.get(type(value))
    return None if make is None else make(value)


def _float(value: float) -> Node:
    return value if math.isfinite(value) else {"float": float_text(value)}


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


_SCALARS: dict[type, Callable[[Any], Node]] = {
    int: lambda value: value if value.bit_length() <= LARGEST_INT_BITS else None,
    float: _float,
    complex: lambda value: {"complex": [_float(value.real), _float(value.imag)]},
    bytes: lambda value: {"bytes": value.hex()},
    type(Ellipsis): lambda _: {"ellipsis": True},
    range: lambda value: {"range": [value.start, value.stop, value.step]},
    torch.dtype: lambda value: {"dtype": _type_name(value)},
    torch.device: lambda value: {"device": str(value)},
    torch.Size: lambda value: {"torch_size": list(value)},
}


def float_text(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _text(value: object) -> str:
    try:
        return repr(value)[:TEXT_LENGTH]
    except Exception as error:  # the repr of a user's class may raise anything
        return f"its repr raised {type(error).__name__}"
