"""The compiled pass over gradients on the CPU: four statistics in one read (fused.c).

It is built with the wheel where a compiler is at hand. Where it is missing, or ``GRADWATCH_FUSED=0``
is set, PyTorch's operators measure the same numbers more slowly.
"""

from __future__ import annotations

import ctypes
import functools
import os
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

COLUMNS = ("norm", "abs_max", "nonfinite", "zeros")

_LIBRARY = Path(__file__).parent / "_fused.so"
_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}


@functools.cache
def is_available() -> bool:
    """Whether the compiled pass can be used in this process."""
    return _function() is not None


def types_of(gradients: Sequence[Tensor | None]) -> list[int | None]:
    """How the compiled pass reads each gradient.

    None where it can't: absent, not on the CPU, sparse, complex, with gaps between the entries.
    """
    strided = torch.strided
    return [
        _TYPES.get(g.dtype)
        if g is not None and g.is_cpu and g.layout is strided and (g.is_contiguous() or is_dense(g))
        else None
        for g in gradients
    ]


def measure_fused(gradients: Sequence[Tensor], types: Sequence[int]) -> NDArray[np.float64]:
    """The statistics as a (gradients, 4) table in the order of `COLUMNS`.

    Args:
        gradients: those of which `types_of` is not None.
        types: what `types_of` said of each.
    """
    function = _function()
    assert function is not None
    table = np.empty((len(gradients), len(COLUMNS)))
    entries = array("Q", [gradient.data_ptr() for gradient in gradients])
    sizes = array("q", [gradient.numel() for gradient in gradients])
    codes = array("b", types)
    failed = function(
        entries.buffer_info()[0],
        sizes.buffer_info()[0],
        codes.buffer_info()[0],
        len(gradients),
        _parallel(),
        torch.get_num_threads(),
        table.ctypes.data,
    )
    if failed:
        raise MemoryError("there is no memory to measure the gradients")
    return table


def is_dense(gradient: Tensor) -> bool:
    """Whether the entries lie side by side in some order of the dimensions, channels last say."""
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


@functools.cache
def _parallel() -> int | None:
    """The address at which torch's own OpenMP library starts threads; None: one thread."""
    try:
        loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libgomp" in line}
        return ctypes.cast(ctypes.CDLL(min(loaded)).GOMP_parallel, ctypes.c_void_p).value
    except (OSError, ValueError, AttributeError):
        return None
