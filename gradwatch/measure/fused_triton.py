"""The statistics of many gradients on a CUDA device: one read, one launch for each dtype.

A launch walks a table of addresses. Each program reads one chunk of one gradient, adds its squares in
float64 and counts the rest. A second, small launch adds the chunks of each gradient in their order, so
that the result is the same each time. Nothing waits for the device, and no gradient is copied.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from gradwatch.measure.fused import COLUMNS, is_dense

CHUNK, BLOCK, PARTS = 16_384, 1024, 128
"""Entries that a program reads; entries of one iteration; chunks that the second launch adds at a time."""

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
_SUMS = 5  # squares, largest finite or infinite magnitude, non-finite, zeros, NaN


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _read(  # type: ignore[no-untyped-def]
    entries, sizes, tensor_of, offset_of, sums, DTYPE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr
):
    chunk = tl.program_id(0)
    tensor = tl.load(tensor_of + chunk)
    start = tl.load(offset_of + chunk)
    size = tl.load(sizes + tensor)
    first = tl.load(entries + tensor).to(tl.pointer_type(DTYPE))
    squares = tl.zeros([BLOCK], tl.float64)
    largest = tl.zeros([BLOCK], tl.float32)
    nonfinite = tl.zeros([BLOCK], tl.int32)
    zeros = tl.zeros([BLOCK], tl.int32)
    nans = tl.zeros([BLOCK], tl.int32)
    end = tl.minimum(start + CHUNK, size)
    for at in range(start, end, BLOCK):
        where = at + tl.arange(0, BLOCK)
        inside = where < end
        x = tl.load(first + where, mask=inside, other=1.0).to(tl.float32)
        magnitude = tl.where(inside, tl.abs(x), 0.0)
        wide = magnitude.to(tl.float64)
        squares += wide * wide
        largest = tl.where(magnitude > largest, magnitude, largest)
        nonfinite += tl.where(magnitude <= 3.4028234663852886e38, 0, 1)
        zeros += tl.where(x == 0.0, 1, 0)
        nans += tl.where(magnitude != magnitude, 1, 0)  # noqa: PLR0124
    out = sums + chunk * 5
    tl.store(out, tl.sum(squares, axis=0))
    tl.store(out + 1, tl.max(largest, axis=0).to(tl.float64))
    tl.store(out + 2, tl.sum(nonfinite, axis=0).to(tl.float64))
    tl.store(out + 3, tl.sum(zeros, axis=0).to(tl.float64))
    tl.store(out + 4, tl.sum(nans, axis=0).to(tl.float64))


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _add(sums, first_chunk, positions, table, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    tensor = tl.program_id(0)
    first = tl.load(first_chunk + tensor)
    last = tl.load(first_chunk + tensor + 1)
    squares = tl.zeros([PARTS], tl.float64)
    largest = tl.zeros([PARTS], tl.float64)
    nonfinite = tl.zeros([PARTS], tl.float64)
    zeros = tl.zeros([PARTS], tl.float64)
    nans = tl.zeros([PARTS], tl.float64)
    for chunk in range(first, last, PARTS):
        where = chunk + tl.arange(0, PARTS)
        inside = where < last
        part = sums + where * 5
        squares += tl.load(part, mask=inside, other=0.0)
        magnitude = tl.load(part + 1, mask=inside, other=0.0)
        largest = tl.where(magnitude > largest, magnitude, largest)
        nonfinite += tl.load(part + 2, mask=inside, other=0.0)
        zeros += tl.load(part + 3, mask=inside, other=0.0)
        nans += tl.load(part + 4, mask=inside, other=0.0)
    row = table + tl.load(positions + tensor) * 4
    tl.store(row, tl.sqrt(tl.sum(squares, axis=0)))
    found = tl.sum(nans, axis=0)
    tl.store(row + 1, tl.where(found > 0, float("nan"), tl.max(largest, axis=0)))
    tl.store(row + 2, tl.sum(nonfinite, axis=0))
    tl.store(row + 3, tl.sum(zeros, axis=0))


def can_read(gradient: Tensor) -> bool:
    """Whether the kernel can read a plain tensor: a dtype of `DTYPES`, no gaps between the entries."""
    return gradient.dtype in DTYPES and (gradient.is_contiguous() or is_dense(gradient))


def measure_triton(gradients: Sequence[Tensor]) -> Tensor:
    """Return the statistics as a (gradients, 4) float64 tensor on the device, in the order of `COLUMNS`.

    Args:
        gradients: plain tensors of one device that `can_read` accepts.
    """
    device = gradients[0].device
    table = torch.empty(len(gradients), len(COLUMNS), dtype=torch.float64, device=device)
    for dtype, kind in DTYPES.items():
        positions = tuple(i for i, gradient in enumerate(gradients) if gradient.dtype == dtype)
        if positions:
            sizes = tuple(gradients[i].numel() for i in positions)
            plan = _plan(positions, sizes, device)
            addresses = _to_device([gradients[i].data_ptr() for i in positions], device)
            sums = torch.empty(max(plan.chunks, 1), _SUMS, dtype=torch.float64, device=device)
            if plan.chunks:
                _read[(plan.chunks,)](
                    addresses, plan.sizes, plan.tensor_of, plan.offset_of, sums, DTYPE=kind, CHUNK=CHUNK, BLOCK=BLOCK
                )
            _add[(len(positions),)](sums, plan.first_chunk, plan.positions, table, PARTS=PARTS)
    return table


class _Plan:
    """Which program reads which chunk. It is the same at every step, so it stays on the device."""

    def __init__(self, positions: tuple[int, ...], sizes: tuple[int, ...], device: torch.device) -> None:
        counts = np.array([-(-size // CHUNK) for size in sizes], np.int64)
        first = np.concatenate([[0], np.cumsum(counts)])
        tensor_of = np.repeat(np.arange(len(sizes)), counts)
        offsets = (np.arange(int(first[-1])) - first[tensor_of]) * CHUNK
        self.chunks = int(first[-1])
        self.sizes = _to_device(sizes, device)
        self.positions = _to_device(positions, device)
        self.first_chunk = _to_device(first, device)
        self.tensor_of = _to_device(tensor_of, device)
        self.offset_of = _to_device(offsets, device)


@functools.lru_cache(maxsize=32)
def _plan(positions: tuple[int, ...], sizes: tuple[int, ...], device: torch.device) -> _Plan:
    return _Plan(positions, sizes, device)


def _to_device(values: Any, device: torch.device) -> Tensor:
    """Copy from pinned memory, so that nothing waits."""
    host = torch.as_tensor(np.asarray(values, np.int64))
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)
