"""Values from their description in JSON and their tensors: the inverse of `gradwatch.capture.encode`.

A capture may come from an untrusted source. Decoding never imports or calls anything that the capture names, and
never makes a tensor larger than its bytes in the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gradwatch.capture.encode import PLAIN_TYPES
from gradwatch.capture.listing import shortened
from gradwatch.capture.nested import MAX_DEPTH, dataclass_of, mapping_of
from gradwatch.capture.record import RandomState, Unkept
from gradwatch.capture.stand_ins import MappingStandIn, Structure, namedtuple_stand_in
from gradwatch.errors import CaptureDamaged

MAX_SPARSE_SIZE = 2**62
MOST_STAND_INS = 200
MOST_PLAIN_KEYS = 10_000
"""Keys of sets and mappings that are no text: numbers can be chosen such that Python looks long for each."""

MOST_DIMENSIONS = 64
MT19937_WORDS = 624
PYTHON_WORDS = MT19937_WORDS + 1
MOST_STATE_BYTES = 2**16
TYPES = {str(one).removeprefix("torch."): one for one in vars(torch).values() if isinstance(one, torch.dtype)}
SPARSE: dict[str, tuple[str, ...]] = {
    "coo": ("indices", "values"),
    "csr": ("crow", "col", "values"),
    "bsr": ("crow", "col", "values"),
    "csc": ("ccol", "row", "values"),
    "bsc": ("ccol", "row", "values"),
}
Classes = Mapping[str, type]


def damaged(what: str) -> NoReturn:
    raise CaptureDamaged(f"The capture can't be read: {shortened(what)}.")


class Decoder:
    """Makes values from nodes.

    Args:
        tensors: those of the file, by name.
        classes: containers that may be made, by "module.Name"; stand-ins are made for others.
    """

    def __init__(self, tensors: Mapping[str, Tensor], classes: Classes | None = None) -> None:
        self._tensors, self._classes = tensors, dict(classes or {})
        self._made: dict[str, Tensor] = {}
        self._made_sparse: dict[str, Tensor] = {}
        self._plain_keys = 0
        self._stand_ins: dict[tuple[str, tuple[str, ...]], Any] = {}

    def nested(self, node: Any, depth: int = MAX_DEPTH + 2) -> Any:
        """The value that a node describes.

        Raises:
            CaptureDamaged: it describes none.
        """
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        if not isinstance(node, dict) or not node or depth == 0:
            damaged(f"no value is described by {str(node)[:80]}")
        kind = next(iter(node))
        if kind in {"tensor", "sparse"}:
            return self.tensor(node)
        if kind in _SCALARS:
            return _scalar(kind, node)
        if kind not in _CONTAINERS:
            damaged(f"{kind!r} is no kind of value")
        make = getattr(self, f"_{kind}")
        try:
            return make(node, depth - 1)
        except CaptureDamaged:
            raise
        except (ValueError, TypeError, RuntimeError, KeyError, IndexError, AttributeError) as error:
            damaged(f"no {kind} is described there ({error})")

    def tensor(self, node: Any) -> Tensor:
        """The tensor that a node describes; one name gives one tensor."""
        if not isinstance(node, dict):
            damaged(f"no tensor is described by {str(node)[:80]}")
        try:
            tensor = self._strided(node) if "tensor" in node else self._sparse_once(node)
            wanted = node.get("requires_grad") is True
            return tensor.requires_grad_() if wanted and not tensor.requires_grad else tensor
        except (RuntimeError, ValueError, TypeError, KeyError, OverflowError, IndexError) as error:
            damaged(f"a tensor is not as it is described ({str(error)[:200]})")

    def tensors(self, node: Any) -> dict[str, Tensor]:
        """Tensors by name."""
        return {str(name): self.tensor(one) for name, one in object_of(node).items()}

    def random_state(self, node: Any) -> RandomState:
        try:
            version, internal, gauss = node["python"]
            words = tuple(self._vector(internal, PYTHON_WORDS).tolist())
            python = (int(version), words, None if gauss is None else float(gauss))
            devices = {str(name): self._vector(one) for name, one in node["devices"].items()}
            numpy = None if node["numpy"] is None else self._numpy_state(*node["numpy"])
            return RandomState(python=python, numpy=numpy, cpu=self._vector(node["cpu"]), devices=devices)
        except CaptureDamaged:
            raise
        except (ValueError, TypeError, KeyError, AttributeError):
            damaged("the state of the random numbers is not as it is described")

    def _vector(self, node: Any, most: int = MOST_STATE_BYTES) -> Tensor:
        tensor = self.tensor(node)
        if tensor.numel() > most:
            raise ValueError("the state of a generator is smaller")
        if tensor.dim() != 1 or tensor.layout != torch.strided or tensor.dtype not in {torch.uint8, torch.int64}:
            raise ValueError("bytes or whole numbers are expected")
        return tensor

    def _numpy_state(self, kind: Any, keys: Any, position: Any, has_gauss: Any, cached: Any) -> tuple[Any, ...]:
        import numpy as np

        words = self._vector(keys, MT19937_WORDS).numpy().astype(np.uint32)
        if not 0 <= int(position) <= len(words) == MT19937_WORDS:  # numpy reads its memory there without a check
            raise ValueError("no state of MT19937")
        return str(kind), words, int(position), int(has_gauss), float(cached)

    # --------------------------------------------------------------------------------- containers

    def _list(self, node: Any, depth: int) -> list[Any]:
        return [self.nested(one, depth) for one in list_of(node["list"])]

    def _tuple(self, node: Any, depth: int) -> tuple[Any, ...]:
        return tuple(self.nested(one, depth) for one in list_of(node["tuple"]))

    def _set(self, node: Any, depth: int) -> set[Any]:
        return {self._key(one, depth) for one in list_of(node["set"])}

    def _frozenset(self, node: Any, depth: int) -> frozenset[Any]:
        return frozenset(self._key(one, depth) for one in list_of(node["frozenset"]))

    def _dict(self, node: Any, depth: int) -> dict[Any, Any]:
        return {self._key(key, depth): self.nested(one, depth) for key, one in list_of(node["dict"])}

    def _key(self, node: Any, depth: int) -> Any:
        if not isinstance(node, str):
            self._plain_keys += 1
            if self._plain_keys > MOST_PLAIN_KEYS:
                damaged(f"sets and mappings have more than {MOST_PLAIN_KEYS} keys that are no text")
        return self.nested(node, depth)

    def _slice(self, node: Any, depth: int) -> slice:
        start, stop, step = (self.nested(one, depth) for one in list_of(node["slice"]))
        return slice(start, stop, step)

    def _mapping(self, node: Any, depth: int) -> Any:
        items = {self._key(key, depth): self.nested(one, depth) for key, one in list_of(node["items"])}
        kind = self._classes.get(node["mapping"])
        if kind is None or not issubclass(kind, Mapping):
            return MappingStandIn(str(node["mapping"]), items)
        return mapping_of(kind, items)

    def _namedtuple(self, node: Any, depth: int) -> Any:
        fields = {name: self.nested(one, depth) for name, one in object_of(node["fields"]).items()}
        kind: Any = self._classes.get(node["namedtuple"])
        if kind is None or not issubclass(kind, tuple) or getattr(kind, "_fields", None) != tuple(fields):
            kind = self._stand_in(str(node["namedtuple"]), tuple(fields))
        return tuple.__new__(kind, fields.values())

    def _stand_in(self, name: str, fields: tuple[str, ...]) -> Any:
        """A class for a named tuple. Python compiles code for each, which takes long for many or for large ones."""
        known = self._stand_ins.get((name, fields))
        if known is None:
            if len(self._stand_ins) >= MOST_STAND_INS or len(fields) > MOST_STAND_INS:
                damaged("it has more kinds of named tuples, or larger ones, than any batch has")
            known = self._stand_ins[name, fields] = namedtuple_stand_in(name, fields)
        return known

    def _dataclass(self, node: Any, depth: int) -> Any:
        fields = {name: self.nested(one, depth) for name, one in object_of(node["fields"]).items()}
        kind: Any = self._classes.get(node["dataclass"])
        if kind is None or not hasattr(kind, "__dataclass_fields__"):
            return Structure(str(node["dataclass"]), fields)
        return dataclass_of(kind, fields)

    def _packed_sequence(self, node: Any, depth: int) -> PackedSequence:
        data, *others = (self.nested(one, depth) for one in list_of(node["packed_sequence"]))
        if not isinstance(data, Tensor) or not all(one is None or isinstance(one, Tensor) for one in others):
            raise TypeError("a packed sequence is made of tensors")
        batch_sizes, sorted_indices, unsorted_indices = others
        return tuple.__new__(PackedSequence, (data, batch_sizes, sorted_indices, unsorted_indices))

    def _numpy(self, node: Any, depth: int) -> Any:
        array = self.tensor(node["numpy"]).numpy()
        return array[()] if node.get("scalar") is True else array

    # ------------------------------------------------------------------------------------ tensors

    def _strided(self, node: Mapping[str, Any]) -> Tensor:
        name = node["tensor"]
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = self._from_file(node, self._tensors[name])
        return made

    def _from_file(self, node: Mapping[str, Any], tensor: Tensor) -> Tensor:
        dtype, shape = TYPES[node["dtype"]], sizes(node["shape"])
        order = sizes(node.get("order", list(range(len(shape)))))
        if sorted(order) != list(range(len(shape))):
            raise ValueError("its dimensions are out of order")
        if dtype not in PLAIN_TYPES:
            if tensor.dtype != torch.uint8 or tensor.dim() != 1:
                raise TypeError("its bytes are not there")
            tensor = _as_type(tensor, dtype)
        if tensor.dtype != dtype or tensor.numel() != math.prod(shape):
            raise ValueError("its type or shape is another in the file")
        back = [order.index(at) for at in range(len(order))]
        return tensor.reshape([shape[at] for at in order]).permute(back)

    def _sparse_once(self, node: Mapping[str, Any]) -> Tensor:
        """To check the indices of one takes as long as it is large."""
        described = str(node)
        made = self._made_sparse.get(described)
        if made is None:
            made = self._made_sparse[described] = self._sparse(node)
        return made

    def _sparse(self, node: Mapping[str, Any]) -> Tensor:
        layout, size = node["sparse"], sizes(node["size"])
        if math.prod(size) > MAX_SPARSE_SIZE:
            raise ValueError("its size is out of bounds")
        parts = [self._strided(object_of(node[name])) for name in SPARSE[layout]]
        if layout == "coo":
            indices, values = parts
            made = torch.sparse_coo_tensor(indices, values, size, check_invariants=True)
            return made._coalesced_(node["coalesced"] is True)
        compressed, plain, values = parts
        return torch.sparse_compressed_tensor(
            compressed, plain, values, size, layout=getattr(torch, f"sparse_{layout}"), check_invariants=True
        )


def _as_type(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """These bytes as numbers of another type."""
    return torch.empty(0, dtype=dtype) if tensor.numel() == 0 else tensor.clone().view(dtype)


def _scalar(kind: str, node: Mapping[str, Any]) -> Any:
    try:
        return _SCALARS[kind](node[kind], node)
    except (ValueError, TypeError, RuntimeError, OverflowError, KeyError, AttributeError):
        damaged(f"no {kind} is described by {str(node)[:80]}")


_SCALARS: dict[str, Callable[[Any, Any], Any]] = {
    "float": lambda text, _: {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}[text],
    "complex": lambda parts, _: complex(*(number_of(part) for part in parts)),
    "bytes": lambda text, _: bytes.fromhex(text),
    "ellipsis": lambda _, __: Ellipsis,
    "range": lambda parts, _: range(*(int(part) for part in parts)),
    "dtype": lambda name, _: TYPES[name],
    "device": lambda name, _: torch.device(name),
    "torch_size": lambda shape, _: torch.Size(sizes(shape)),
    "unkept": lambda kind, node: Unkept(type=str(kind), text=str(node["text"])),
}
_CONTAINERS = {
    "list",
    "tuple",
    "set",
    "frozenset",
    "dict",
    "slice",
    "mapping",
    "namedtuple",
    "dataclass",
    "packed_sequence",
    "numpy",
}


def number_of(node: Any) -> float:
    """A float, which may be written as a string.

    >>> number_of("NaN"), number_of(1)
    (nan, 1.0)
    """
    if isinstance(node, dict):
        node = node.get("float")
    if isinstance(node, bool) or not isinstance(node, (int, float, str)):
        damaged(f"{str(node)[:80]} is no number")
    try:
        return float(node)
    except (ValueError, OverflowError):
        damaged(f"{str(node)[:80]} is no number")


def sizes(node: Any) -> list[int]:
    """A list of whole numbers of 0 or more, as many as a tensor may have dimensions."""
    if (
        not isinstance(node, list)
        or len(node) > MOST_DIMENSIONS
        or not all(type(one) is int and 0 <= one < 2**62 for one in node)
    ):
        damaged(f"{str(node)[:80]} is no shape")
    return node


def object_of(node: Any) -> dict[str, Any]:
    if not isinstance(node, dict):
        damaged(f"an object is expected instead of {str(node)[:80]}")
    return node


def list_of(node: Any) -> Sequence[Any]:
    if not isinstance(node, list):
        damaged(f"a list is expected instead of {str(node)[:80]}")
    return node
