"""The compiled pass over gradients on the CPU: four statistics in one read (fused.c).

It is built with the wheel where a compiler is installed. If it is missing, or ``GRADWATCH_FUSED=0``
is set, PyTorch's operators measure the same numbers more slowly.
"""

from __future__ import annotations

import ctypes
import functools
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradwatch.measure.entries import PLAIN

COLUMNS = ("norm", "abs_max", "nonfinite", "zeros")
"""The statistics of the compiled passes, in the order of their tables."""

_LIBRARY = Path(__file__).parent / "_fused.so"
_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}


@functools.cache
def is_available() -> bool:
    """Whether the compiled pass can be used in this process."""
    return _function() is not None


@dataclass(frozen=True, slots=True)
class Readable:
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
    codes = _codes(gradients)
    positions = [position for position, code in enumerate(codes) if code is not None]
    chosen: list[Tensor] = [gradients[position] for position in positions]  # type: ignore[misc]
    addresses = [gradient.data_ptr() for gradient in chosen]
    sizes = [gradient.numel() for gradient in chosen]
    if 0 in addresses and (gone := _without_memory(positions, addresses, sizes)):
        return readable([None if position in gone else gradient for position, gradient in enumerate(gradients)])
    types = array("b", [code for code in codes if code is not None])
    return Readable(positions, array("Q", addresses), array("q", sizes), types)


def _without_memory(positions: Sequence[int], addresses: Sequence[int], sizes: Sequence[int]) -> set[int]:
    """Return the positions of gradients with entries but no address: zero tensors and freed storages."""
    return {at for at, address, size in zip(positions, addresses, sizes, strict=True) if size and not address}


def _codes(gradients: Sequence[Tensor | None]) -> list[int | None]:
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
        table.ctypes.data,
    )
    if failed:
        raise MemoryError("not enough memory to measure the gradients")
    return table


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


@functools.cache
def _function() -> ctypes._NamedFuncPointer | None:
    if os.environ.get("GRADWATCH_FUSED") == "0" or not _LIBRARY.exists():
        return None
    try:
        function = ctypes.CDLL(str(_LIBRARY)).gradwatch_measure
    except (OSError, AttributeError):
        return None
    pointer = ctypes.c_void_p
    function.argtypes = [pointer, pointer, pointer, ctypes.c_int64, pointer, ctypes.c_uint, pointer]
    function.restype = ctypes.c_int
    return function


def reads_updates() -> bool:
    """Whether the compiled pass over updates can be used in this process."""
    return _update_function() is not None


def measure_updates_fused(address: int, length: int, stats: int) -> NDArray[np.float64]:
    """Return the statistics of updates as a (length, stats) table; ``address`` is that of the array of ``Update``."""
    function = _update_function()
    assert function is not None
    table = np.empty((length, stats))
    if function(address, length, _parallel(), torch.get_num_threads(), table.ctypes.data):
        raise MemoryError("not enough memory to measure the updates")
    return table


@functools.cache
def _update_function() -> ctypes._NamedFuncPointer | None:
    if os.environ.get("GRADWATCH_FUSED") == "0" or not _LIBRARY.exists():
        return None
    try:
        function = ctypes.CDLL(str(_LIBRARY)).gradwatch_measure_updates
    except (OSError, AttributeError):
        return None
    pointer = ctypes.c_void_p
    function.argtypes = [pointer, ctypes.c_int64, pointer, ctypes.c_uint, pointer]
    function.restype = ctypes.c_int
    return function


@functools.cache
def _parallel() -> int | None:
    """Return the address at which torch's own OpenMP library starts threads; None means one thread."""
    try:
        loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libgomp" in line}
        return ctypes.cast(ctypes.CDLL(min(loaded)).GOMP_parallel, ctypes.c_void_p).value
    except (OSError, ValueError, AttributeError):
        return None
