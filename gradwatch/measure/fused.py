"""The compiled passes on the CPU (fused.c): over gradients, updates, and what sampled steps did to the weights.

It is built with the wheel where a compiler is installed. If it is missing, or ``GRADWATCH_FUSED=0``
is set, PyTorch's operators measure the same numbers more slowly.
"""

from __future__ import annotations

import bisect
import ctypes
import functools
import os
from array import array
from collections.abc import Callable, Sequence
from itertools import repeat
from operator import attrgetter, is_
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradwatch.measure.entries import PLAIN
from gradwatch.record import MAGNITUDE_BINS, MAGNITUDE_EXPONENTS, SAMPLED_STATS

COLUMNS = ("norm", "abs_max", "nonfinite", "zeros")
"""The statistics of the compiled passes, in the order of their tables."""

_LIBRARY = Path(__file__).parent / "_fused.so"
_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
DTYPES = tuple(_TYPES)
"""By the numbers that the compiled passes know them by."""
_DTYPE = attrgetter("dtype")
_DEVICE = attrgetter("device")


@functools.cache
def is_available() -> bool:
    """Whether the compiled pass can be used in this process."""
    return _function() is not None


class Described(NamedTuple):
    """Tensors of one device without gaps between their entries: addresses, sizes and types, an array of each.

    The types are places in `DTYPES`.
    """

    addresses: NDArray[np.int64]
    sizes: NDArray[np.int64]
    types: NDArray[np.int64]
    is_on_host: bool


def described(tensors: list[Any]) -> Described | None:
    """Describe plain tensors, or return None where there are none or something about one of them is unusual.

    It runs at every step. PyTorch describes a thousand tensors in one call, by DLPack's C interface (since 2.10), in a
    quarter of the time that asking each of them for everything takes. Keep the tensors alive while the result is used.
    """
    if not tensors or not PLAIN.issuperset(map(type, tensors)):
        return None
    call = _describe_call()
    try:
        return _described_by_columns(tensors) if call is None else _described_by_pytorch(tensors, call)
    except Exception:  # of a layout without an address, such as a sparse one
        return None


def address_of(table: NDArray[Any]) -> int:
    """Where the entries of an array without gaps lie, which `table.ctypes.data` takes six times as long to say.

    >>> table = np.zeros(3)
    >>> address_of(table) == table.ctypes.data
    True
    """
    return ctypes.addressof(ctypes.c_char.from_buffer(table.data)) if table.size else 0


def _described_by_pytorch(tensors: list[Tensor], call: Callable[[list[Tensor], int, int], int]) -> Described | None:
    table = np.empty((3, len(tensors)), np.int64)
    device = call(tensors, len(tensors), address_of(table))
    return Described(table[0], table[1], table[2], device == _DLPACK_HOST) if device else None


def _described_by_columns(tensors: list[Tensor]) -> Described | None:
    """The same without the call. Asking all of them one thing after another is quicker than asking each for all."""
    types = [_TYPES.get(dtype, -1) for dtype in map(_DTYPE, tensors)]
    if min(types) < 0 or len(set(map(_DEVICE, tensors))) != 1 or not all(map(Tensor.is_contiguous, tensors)):
        return None
    addresses = np.fromiter(map(Tensor.data_ptr, tensors), np.int64, len(tensors))
    sizes = np.fromiter(map(Tensor.numel, tensors), np.int64, len(tensors))
    if sizes[addresses == 0].any():
        return None
    return Described(addresses, sizes, np.array(types), tensors[0].is_cpu)


class Readable(NamedTuple):
    """The gradients that the compiled pass can read, as it takes them: one entry each."""

    positions: list[int]
    addresses: array[int]
    sizes: array[int]
    types: array[int]


def readable(gradients: Sequence[Tensor | None]) -> Readable:
    """Pick the gradients that the compiled pass can read.

    Those are strided tensors of PyTorch's own class on the CPU, real, in a dtype of `_TYPES`, without gaps
    between their entries, and with an address. Keep the gradients alive while the result is used.
    """
    there, positions = list(gradients), list(range(len(gradients)))
    if any(map(is_, there, repeat(None))):
        positions = [position for position in positions if gradients[position] is not None]
        there = [gradients[position] for position in positions]
    found = described(there)
    if found is not None and found.is_on_host:  # as usual
        addresses, sizes = array("Q", found.addresses.tobytes()), array("q", found.sizes.tobytes())
        return Readable(positions, addresses, sizes, array("b", found.types.astype(np.int8).tobytes()))
    return _readable_among(gradients)


def _readable_among(gradients: Sequence[Tensor | None]) -> Readable:
    """The same where something about one of them is unusual, so that each has to be asked."""
    kinds = codes(gradients)
    positions = [position for position, code in enumerate(kinds) if code is not None]
    chosen: list[Tensor] = [gradients[position] for position in positions]  # type: ignore[misc]
    addresses = [gradient.data_ptr() for gradient in chosen]
    sizes = [gradient.numel() for gradient in chosen]
    if 0 in addresses and (gone := _without_memory(positions, addresses, sizes)):
        return _readable_among([None if position in gone else gradient for position, gradient in enumerate(gradients)])
    types = array("b", [code for code in kinds if code is not None])
    return Readable(positions, array("Q", addresses), array("q", sizes), types)


def _without_memory(positions: Sequence[int], addresses: Sequence[int], sizes: Sequence[int]) -> set[int]:
    """Return the positions of gradients with entries but no address: zero tensors and freed storages."""
    return {at for at, address, size in zip(positions, addresses, sizes, strict=True) if size and not address}


def codes(gradients: Sequence[Tensor | None]) -> list[int | None]:
    """Return how the compiled pass reads the entries of each gradient; None where it can't."""
    strided, plain = torch.strided, PLAIN
    return [
        _TYPES.get(g.dtype)
        if g is not None
        and type(g) in plain
        and g.is_cpu
        and g.layout is strided
        and (g.is_contiguous() or is_dense(g))
        else None
        for g in gradients
    ]


def measure_fused(found: Readable) -> NDArray[np.float64]:
    """Return the statistics as a (gradients, 4) table in the order of `COLUMNS`."""
    function = _function()
    assert function is not None
    table = np.empty((len(found.positions), len(COLUMNS)))
    failed = function(
        found.addresses.buffer_info()[0],
        found.sizes.buffer_info()[0],
        found.types.buffer_info()[0],
        len(found.positions),
        _parallel(),
        torch.get_num_threads(),
        address_of(table),
    )
    if failed:
        raise MemoryError("not enough memory to measure the gradients")
    return table


class FusedReading:
    """A pass over gradients in the helper thread of fused.c, while the calling thread does something else.

    There is one helper in a process, and it reads for one thread at a time. Keep the gradients alive and as they are
    while it reads. An interrupt (Ctrl-C) may come between any two calls: until one of `table` and `drop` has
    returned, call `drop`.
    """

    def __init__(self, found: Readable) -> None:
        self._found = found
        self._begun = ctypes.c_void_p()  # which the compiled part writes itself, so that no interrupt loses it

    @property
    def is_reading(self) -> bool:
        """Whether it has begun, and has not ended."""
        return self._begun.value is not None

    def begin(self) -> None:
        """Begin to read, where a helper is free."""
        begin, found = _begin_function(), self._found
        if begin is not None and _finish_function() is not None:
            addresses, types = found.addresses.buffer_info()[0], found.types.buffer_info()[0]
            begin(addresses, found.sizes.buffer_info()[0], types, len(found.positions), ctypes.byref(self._begun))

    def table(self) -> NDArray[np.float64]:
        """Return what `measure_fused` does, after reading what the helper has not come to; once."""
        table = np.empty((len(self._found.positions), len(COLUMNS)))
        if self._finish(address_of(table)):
            raise MemoryError("not enough memory to measure the gradients")
        return table

    def drop(self) -> None:
        """Let go of the gradients without a result, if it is reading."""
        if self.is_reading:
            self._finish(None)

    def _finish(self, out: int | None) -> int:
        finish, sizes = _finish_function(), self._found.sizes
        assert finish is not None
        failed: int = finish(ctypes.byref(self._begun), sizes.buffer_info()[0], len(sizes), out)
        return failed


def is_dense(gradient: Tensor) -> bool:
    """Whether the entries lie side by side in some order of the dimensions, for example channels last."""
    if gradient.is_nested:
        return False
    if gradient.is_contiguous():  # as usual, and asked of each of a thousand
        return True
    expected = 1
    for stride, size in sorted(zip(gradient.stride(), gradient.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def reads_updates() -> bool:
    """Whether the compiled pass over updates can be used in this process."""
    return _update_function() is not None


def measure_updates_fused(address: int, length: int, stats: int) -> NDArray[np.float64]:
    """Return the statistics of updates as a (length, stats) table; ``address`` is that of the array of ``Update``."""
    function = _update_function()
    assert function is not None
    table = np.empty((length, stats))
    if function(address, length, _parallel(), torch.get_num_threads(), address_of(table)):
        raise MemoryError("not enough memory to measure the updates")
    return table


def compares_steps() -> bool:
    """Whether the compiled comparison of weights before and after a step can be used in this process."""
    return _compare_function() is not None


STEP_WORDS = (
    *("old", "weight", "gradient", "momentum"),
    *("type", "gradient_type", "momentum_type", "count", "stride", "size"),
)
"""``Step`` of fused.c, all of whose members have eight bytes."""

COMPARED = (*SAMPLED_STATS, "norm")
"""What the comparison finds: the statistics of the entries, and the norm of what changed."""


def compare_fused(steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return `COMPARED` as (rows, 4) table; each row is a ``Step`` as `STEP_WORDS` has it."""
    function = _compare_function()
    assert function is not None
    table = np.empty((len(steps), len(COMPARED)))
    function(steps.ctypes.data, len(steps), _parallel(), torch.get_num_threads(), table.ctypes.data)
    return table


def counts_magnitudes() -> bool:
    """Whether the compiled count of entries by magnitude can be used in this process."""
    return _count_function() is not None


def count_fused(found: Readable, counts: Sequence[int], strides: Sequence[int], scale: float) -> NDArray[np.float32]:
    """Count so many entries of each gradient by magnitude, of every stride-th: a (gradients, bins) table.

    Args:
        found: the gradients.
        counts: of the entries.
        strides: from one entry to the next.
        scale: that all gradients were multiplied by.
    """
    function = _count_function()
    assert function is not None
    samples = np.empty((len(found.positions), 6), np.uint64)
    for column, words in enumerate((found.addresses, found.types, counts, strides)):
        samples[:, column] = words
    samples.view(np.float64)[:, 4] = scale
    bins = _bins()
    samples[:, 5] = bins.ctypes.data
    table = np.empty((len(samples), len(MAGNITUDE_BINS)), np.float32)
    function(samples.ctypes.data, len(samples), _parallel(), torch.get_num_threads(), table.ctypes.data)
    return table


def bins_by_exponent(bias: int, largest: int) -> NDArray[np.int64]:
    """The bin of each exponent as it stands in the bits. Exponent 0 has no leading 1: it is below the first limit."""
    bins = [bisect.bisect(MAGNITUDE_EXPONENTS, exponent - bias) for exponent in range(largest)]
    return np.array([*bins, MAGNITUDE_BINS.index("inf")])


@functools.cache
def _bins() -> NDArray[np.uint8]:
    """``Sample.bins`` of fused.c."""
    others = (MAGNITUDE_BINS.index("zero"), MAGNITUDE_BINS.index("nan"), len(MAGNITUDE_BINS))
    return np.concatenate((bins_by_exponent(1023, 2047), others)).astype(np.uint8)


_POINTER, _COUNT, _UNSIGNED = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint


@functools.cache
def _function() -> ctypes._NamedFuncPointer | None:
    return _entry("gradwatch_measure", _POINTER, _POINTER, _POINTER, _COUNT, _POINTER, _UNSIGNED, _POINTER)


@functools.cache
def _begin_function() -> ctypes._NamedFuncPointer | None:
    return _entry("gradwatch_begin_reading", _POINTER, _POINTER, _POINTER, _COUNT, _POINTER, result=None)


@functools.cache
def _finish_function() -> ctypes._NamedFuncPointer | None:
    return _entry("gradwatch_finish_reading", _POINTER, _POINTER, _COUNT, _POINTER)


_DLPACK_HOST = 1  # the number of the host among DLPack's devices


class _Exchange(ctypes.Structure):
    """``DLPackExchangeAPI`` of DLPack 1.3: what PyTorch offers to other libraries."""

    _fields_ = (
        *(("major", ctypes.c_uint32), ("minor", ctypes.c_uint32)),
        *((name, _POINTER) for name in ("previous", "allocate", "from_object", "to_object", "describe", "stream")),
    )


@functools.cache
def _describe_call() -> Callable[[list[Tensor], int, int], int] | None:
    """``gradwatch_describe`` with the functions of PyTorch and Python that it calls; None where one is missing."""
    function = _entry("gradwatch_describe", *(_POINTER, _POINTER, ctypes.py_object, _COUNT, _POINTER), is_locked=True)
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if function is None or type(capsule).__name__ != "PyCapsule":
        return None
    pointer_of = ctypes.PYFUNCTYPE(_POINTER, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    exchange = _Exchange.from_address(pointer_of(capsule, b"dlpack_exchange_api"))
    if exchange.major != 1 or not exchange.describe:
        return None
    item = ctypes.cast(ctypes.pythonapi.PyList_GetItem, _POINTER).value
    return functools.partial(function, exchange.describe, item)


@functools.cache
def _update_function() -> ctypes._NamedFuncPointer | None:
    return _entry("gradwatch_measure_updates", _POINTER, _COUNT, _POINTER, _UNSIGNED, _POINTER)


@functools.cache
def _compare_function() -> ctypes._NamedFuncPointer | None:
    return _entry("gradwatch_compare", _POINTER, _COUNT, _POINTER, _UNSIGNED, _POINTER, result=None)


@functools.cache
def _count_function() -> ctypes._NamedFuncPointer | None:
    return _entry("gradwatch_count", _POINTER, _COUNT, _POINTER, _UNSIGNED, _POINTER, result=None)


def _entry(
    name: str, *arguments: Any, result: Any = ctypes.c_int, is_locked: bool = False
) -> ctypes._NamedFuncPointer | None:
    """Return an entry of the library; None where it was not built, or from an older source.

    With ``is_locked`` it is called with Python's lock, and an exception that it leaves is raised.
    """
    if os.environ.get("GRADWATCH_FUSED") == "0" or not _LIBRARY.exists():
        return None
    try:
        function: ctypes._NamedFuncPointer = getattr((ctypes.PyDLL if is_locked else ctypes.CDLL)(str(_LIBRARY)), name)
    except (OSError, AttributeError):
        return None
    function.argtypes = arguments
    function.restype = result
    return function


@functools.cache
def _parallel() -> int | None:
    """Return the address at which torch's own OpenMP library starts threads; None means one thread."""
    try:
        with Path("/proc/self/maps").open() as lines:
            loaded = {line.split()[-1] for line in lines if "libgomp" in line}
        return ctypes.cast(ctypes.CDLL(min(loaded)).GOMP_parallel, ctypes.c_void_p).value
    except (OSError, ValueError, AttributeError):
        return None
