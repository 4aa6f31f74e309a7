"""The statistics of many gradients on a CUDA device: one read, one launch for each dtype.

A launch walks a table of addresses. Each program reads one chunk of one gradient. It adds the squares in
float32, at most 33 of them in a row, and the sums of these in float64. A chunk whose squares float32 can't
hold is read again in float64; it is still in the cache. A second, small launch adds the chunks of each
gradient in their order, so that the result is the same each time. Nothing waits for the device, and no
gradient is copied.

Each dtype has a launch of its own: most models have one or two, and one kernel for all three would need the
registers of the largest at every chunk. The second launch is not replaced by "the last program adds the
chunks": the order of two launches is guaranteed, while that needs atomic counters and fences, and saves one
launch of a few microseconds.

A policy of `attach` multiplies gradients by a coefficient that the host does not know. A third kernel looks at it on
the device, so that gradients are read and written once more only where something is clipped.

`benchmarks/gpu_code.py` prints the machine code's widths, registers and limits.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from gradwatch.measure.devices import stream_of, to_device
from gradwatch.measure.fused import COLUMNS, described, is_dense
from gradwatch.measure.fused import DTYPES as ALL_DTYPES

CHUNK = 16_384
"""Entries that a program reads."""
FEW_PARTS, MANY_PARTS = 128, 1024
"""Chunks that the second launch adds at a time: many of them where a gradient has more than four times the few."""
WARPS = 4
READ_TILES = {
    4: {"BLOCK": 512, "LANES": 512, "NARROW": 512},
    2: {"BLOCK": 2048, "LANES": 256, "NARROW": 256},
}
"""By bytes of an entry: entries of an iteration, sums that the threads keep of each statistic, and entries of an
iteration in float64.

A thread has one 16-byte load in an iteration, which the compiler repeats four times, or two of half precision. It adds
neighbouring entries at once: a sum of its own for each entry takes 64 registers, and fewer threads then wait for memory
at a time. With one load at a time and those an H200 read bfloat16 at 3.4 TB/s, with four loads of 8 bytes at 4.4."""
SCALE_TILES = {4: {"BLOCK": 512}, 2: {"BLOCK": 1024}}
"""The same for multiplying in place: a 16-byte load in an iteration, which the compiler repeats."""

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
_READ_TYPES = frozenset(map(ALL_DTYPES.index, DTYPES))
_SUMS = 5  # squares, largest finite or infinite magnitude, non-finite, zeros, NaN


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _added(squares, largest, zeros, magnitude, is_zero, LANES: tl.constexpr, EACH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Add the entries of an iteration to the sums, those of one thread at once."""
    by_lane = tl.reshape(magnitude, [LANES, EACH])
    squares += tl.sum(by_lane * by_lane, axis=1)
    largest = tl.maximum(largest, tl.max(by_lane, axis=1))
    zeros += tl.sum(tl.where(tl.reshape(is_zero, [LANES, EACH]), 1.0, 0.0), axis=1)
    return squares, largest, zeros


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _read(  # type: ignore[no-untyped-def]
    entries,
    sizes,
    tensor_of,
    offset_of,
    sums,
    DTYPE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    NARROW: tl.constexpr,
):
    """Read one chunk: squares in float32, and once more in float64 where float32 can't hold them."""
    chunk = tl.program_id(0)
    tensor = tl.load(tensor_of + chunk)
    start = tl.load(offset_of + chunk)
    count = tl.minimum(tl.load(sizes + tensor) - start, CHUNK).to(tl.int32)
    address = tl.load(entries + tensor) + start * (DTYPE.primitive_bitwidth // 8)
    first = address.to(tl.pointer_type(DTYPE))
    whole = count // BLOCK * BLOCK
    squares = tl.zeros([LANES], tl.float32)
    largest = tl.zeros([LANES], tl.float32)
    zeros = tl.zeros([LANES], tl.float32)  # exact; float32 adds with fewer instructions than int32
    # The branches differ in what the compiler knows of the address: a multiple of 16 lets it load 16 bytes at a time.
    # The multiple is computed anew, since a promise about `first` (tl.multiple_of) would hold in the other branch too.
    if address % 16 == 0:
        aligned = tl.multiple_of((address // 16 * 16).to(tl.pointer_type(DTYPE)), 16)
        for at in range(0, whole, BLOCK):
            magnitude = tl.abs(tl.load(aligned + at + tl.arange(0, BLOCK)).to(tl.float32))
            squares, largest, zeros = _added(
                squares, largest, zeros, magnitude, magnitude == 0.0, LANES, BLOCK // LANES
            )
    else:
        for at in range(0, whole, BLOCK):
            magnitude = tl.abs(tl.load(first + at + tl.arange(0, BLOCK)).to(tl.float32))
            squares, largest, zeros = _added(
                squares, largest, zeros, magnitude, magnitude == 0.0, LANES, BLOCK // LANES
            )
    if whole < count:
        where = whole + tl.arange(0, BLOCK)
        inside = where < count
        magnitude = tl.abs(tl.load(first + where, mask=inside, other=0.0).to(tl.float32))
        is_zero = inside & (magnitude == 0.0)
        squares, largest, zeros = _added(squares, largest, zeros, magnitude, is_zero, LANES, BLOCK // LANES)

    total = tl.sum(squares.to(tl.float64), axis=0)
    top = tl.max(largest, axis=0)
    out = sums + chunk * 5
    tl.store(out + 3, tl.sum(zeros, axis=0).to(tl.float64))
    # Squares of a sum below 2**-80 may have been rounded to zero. NaN, infinity, and squares that overflow fail the
    # first test.
    if (total <= 3.4028234663852886e38) & ((total >= 8.271806125530277e-25) | (top == 0.0)):
        tl.store(out, total)
        tl.store(out + 1, top.to(tl.float64))
        tl.store(out + 2, 0.0)
        tl.store(out + 4, 0.0)
    else:
        _read_in_float64(first, count, out, NARROW)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _read_in_float64(first, count, out, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Read a chunk that is not finite, or whose squares float32 can't hold."""
    squares = tl.zeros([BLOCK], tl.float64)
    largest = tl.zeros([BLOCK], tl.float32)
    nonfinite = tl.zeros([BLOCK], tl.int32)
    nans = tl.zeros([BLOCK], tl.int32)
    for at in range(0, count, BLOCK):
        where = at + tl.arange(0, BLOCK)
        magnitude = tl.abs(tl.load(first + where, mask=where < count, other=0.0).to(tl.float32))
        wide = magnitude.to(tl.float64)
        squares += wide * wide
        largest = tl.where(magnitude > largest, magnitude, largest)
        nonfinite += tl.where(magnitude <= 3.4028234663852886e38, 0, 1)
        nans += tl.where(magnitude != magnitude, 1, 0)  # noqa: PLR0124
    tl.store(out, tl.sum(squares, axis=0))
    tl.store(out + 1, tl.max(largest, axis=0).to(tl.float64))
    tl.store(out + 2, tl.sum(nonfinite, axis=0).to(tl.float64))
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


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _scale(  # type: ignore[no-untyped-def]
    entries,
    sizes,
    tensor_of,
    offset_of,
    factor,
    DTYPE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Multiply one chunk in place by a factor on the device; where that is 1, touch nothing."""
    by = tl.load(factor)
    if by != 1.0:
        chunk = tl.program_id(0)
        tensor = tl.load(tensor_of + chunk)
        start = tl.load(offset_of + chunk)
        count = tl.minimum(tl.load(sizes + tensor) - start, CHUNK).to(tl.int32)
        address = tl.load(entries + tensor) + start * (DTYPE.primitive_bitwidth // 8)
        first = address.to(tl.pointer_type(DTYPE))
        whole = count // BLOCK * BLOCK
        if address % 16 == 0:  # as in `_read`
            aligned = tl.multiple_of((address // 16 * 16).to(tl.pointer_type(DTYPE)), 16)
            for at in range(0, whole, BLOCK):
                place = aligned + at + tl.arange(0, BLOCK)
                tl.store(place, (tl.load(place).to(tl.float32) * by).to(DTYPE))
        else:
            for at in range(0, whole, BLOCK):
                place = first + at + tl.arange(0, BLOCK)
                tl.store(place, (tl.load(place).to(tl.float32) * by).to(DTYPE))
        if whole < count:
            where = whole + tl.arange(0, BLOCK)
            inside = where < count
            values = tl.load(first + where, mask=inside, other=0.0).to(tl.float32)
            tl.store(first + where, (values * by).to(DTYPE), mask=inside)


def can_read(gradient: Tensor) -> bool:
    """Whether the kernel can read a plain tensor: a dtype of `DTYPES`, no gaps between the entries, and an address."""
    return (
        gradient.dtype in DTYPES
        and gradient.layout is torch.strided
        and (gradient.is_contiguous() or is_dense(gradient))
        and (gradient.data_ptr() != 0 or gradient.numel() == 0)
    )


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What gradients are like. It stays from step to step, and is the same object as long as nothing of it changes."""

    positions: list[int]  # of all of them
    dtypes: list[torch.dtype]
    sizes: list[int]
    is_read: bool  # whether the kernel reads all of these dtypes


_layouts: dict[bytes, Layout] = {}
"""The latest, by types and sizes."""
MOST_KEPT = 32
"""Layouts and plans that are kept."""


class Readable(NamedTuple):
    """Gradients of one device that the kernel can read, and what it asks of each."""

    positions: list[int]
    gradients: list[Tensor]
    addresses: NDArray[np.int64]
    layout: Layout


def usual(gradients: Sequence[Any]) -> Readable | None:
    """Return all gradients, if all are plain, lie on one device and are read; else None. It runs at every step."""
    chosen = gradients if isinstance(gradients, list) else list(gradients)
    found = described(chosen)
    layout = None if found is None else _layout_of(found.types, found.sizes)
    if found is None or layout is None or not layout.is_read:
        return None
    return Readable(layout.positions, chosen, found.addresses, layout)


def readable(positions: Sequence[int], gradients: Sequence[Any]) -> Readable:
    """Return those of the plain gradients of one device at these positions that `can_read` accepts."""
    found = usual([gradients[at] for at in positions])
    if found is not None:
        return found._replace(positions=list(positions))
    positions = [at for at in positions if can_read(gradients[at])]
    chosen = [gradients[at] for at in positions]
    addresses = np.fromiter(map(Tensor.data_ptr, chosen), np.int64, len(chosen))
    types = np.fromiter((ALL_DTYPES.index(one.dtype) for one in chosen), np.int64, len(chosen))
    sizes = np.fromiter(map(Tensor.numel, chosen), np.int64, len(chosen))
    return Readable(positions, chosen, addresses, _layout_of(types, sizes))


def _layout_of(types: NDArray[np.int64], sizes: NDArray[np.int64]) -> Layout:
    """Return the known layout if it is the same, by which the plans of the launches are found."""
    key = types.tobytes() + sizes.tobytes()
    known = _layouts.get(key)
    if known is None:
        if len(_layouts) >= MOST_KEPT:
            _layouts.clear()
        kinds = types.tolist()
        is_read = _READ_TYPES.issuperset(kinds)
        dtypes = [ALL_DTYPES[one] for one in kinds]
        known = _layouts[key] = Layout(list(range(len(kinds))), dtypes, sizes.tolist(), is_read)
    return known


def measure_triton(gradients: Sequence[Tensor], found: Readable | None = None) -> Tensor:
    """Return the statistics as a (gradients, 4) float64 tensor on the device, in the order of `COLUMNS`.

    Args:
        gradients: plain tensors of one device that `can_read` accepts.
        found: what `readable` found of them, if it was asked.
    """
    if found is None:
        found = readable(range(len(gradients)), gradients)
    # Triton launches on the current device, whose kernels can't read the memory of another.
    with torch.cuda.device_of(gradients[0]):  # type: ignore[no-untyped-call]
        return _launched(found, gradients[0].device)


def _launched(found: Readable, device: torch.device) -> Tensor:
    table = torch.empty(len(found.positions), len(COLUMNS), dtype=torch.float64, device=device)
    for plan in _plans(found.layout, device, stream_of(device)):
        sums = torch.empty(max(plan.chunks, 1), _SUMS, dtype=torch.float64, device=device)
        _launch(_read, plan, found.addresses, sums, READ_TILES)
        _add[(plan.count,)](sums, plan.first_chunk, plan.positions, table, PARTS=plan.parts)
    return table


def scale_triton(found: Readable, coefficient: Tensor) -> None:
    """Multiply gradients of one device in place by a coefficient on it; where that is 1, they are not even read.

    The product is computed in float32 and rounded once.
    """
    # Autograd counts changes in place, also those that it did not make. Before the launch: if it fails, none is made.
    torch.autograd.graph.increment_version(found.gradients)
    device = found.gradients[0].device
    with torch.cuda.device_of(found.gradients[0]):  # type: ignore[no-untyped-call]
        factor = coefficient.to(torch.float32)
        for plan in _plans(found.layout, device, stream_of(device)):
            _launch(_scale, plan, found.addresses, factor, SCALE_TILES)


def _launch(
    kernel: Any,
    plan: _Plan,
    addresses: NDArray[np.int64],
    operand: Tensor,
    tiles: Mapping[int, Mapping[str, int]],
) -> None:
    """Start a program for each chunk of the gradients of one dtype; ``operand``: where sums go, or the factor."""
    if plan.chunks:
        kernel[(plan.chunks,)](
            plan.addresses(addresses),
            plan.sizes,
            plan.tensor_of,
            plan.offset_of,
            operand,
            DTYPE=DTYPES[plan.dtype],
            CHUNK=CHUNK,
            num_warps=WARPS,
            **tiles[plan.dtype.itemsize],
        )


class _Plan:
    """Which program reads which chunk of the gradients of one dtype. It is the same at every step, so it stays on the
    device.
    """

    def __init__(self, dtype: torch.dtype, layout: Layout, device: torch.device) -> None:
        positions = [at for at, one in enumerate(layout.dtypes) if one == dtype]
        sizes = [layout.sizes[at] for at in positions]
        self.dtype, self.count = dtype, len(positions)
        self._places: Any = slice(None) if len(positions) == len(layout.dtypes) else np.array(positions)
        counts = np.array([-(-size // CHUNK) for size in sizes], np.int64)
        first = np.concatenate([[0], np.cumsum(counts)])
        tensor_of = np.repeat(np.arange(len(sizes)), counts)
        offsets = (np.arange(int(first[-1])) - first[tensor_of]) * CHUNK
        self.chunks = int(first[-1])
        self.parts = FEW_PARTS if int(counts.max(initial=0)) <= 4 * FEW_PARTS else MANY_PARTS
        self._device = device
        self._read = b""
        self._on_device: Tensor | None = None
        self.sizes = _to_device(sizes, device)
        self.positions = _to_device(positions, device)
        self.first_chunk = _to_device(first, device)
        self.tensor_of = _to_device(tensor_of, device)
        self.offset_of = _to_device(offsets, device)

    def addresses(self, of_all: NDArray[np.int64]) -> Tensor:
        """Return the addresses on the device; they are copied there when they have changed."""
        own = of_all[self._places]
        now = own.tobytes()
        if self._on_device is None or now != self._read:
            self._read, self._on_device = now, to_device(torch.from_numpy(own), self._device)
        return self._on_device


@functools.lru_cache(maxsize=MOST_KEPT)
def _plans(layout: Layout, device: torch.device, stream: int) -> list[_Plan]:
    """One for each dtype. A plan belongs to a stream: what was copied in its order may not have arrived for another."""
    return [_Plan(dtype, layout, device) for dtype in dict.fromkeys(layout.dtypes)]


def _to_device(values: Any, device: torch.device) -> Tensor:
    return to_device(torch.as_tensor(np.asarray(values, np.int64)), device)
