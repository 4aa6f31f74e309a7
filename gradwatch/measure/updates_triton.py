"""The updates of Adam, AdamW and SGD on a CUDA device, read by a Triton kernel as ``fused.c`` reads them on the CPU.

The same entries are read, and the same numbers estimated from them. A launch walks a table with a row for each
parameter: the addresses of its tensors, which of their entries are read, and the settings of its group. The number of
steps and the learning rate may lie on the device; the kernel reads them there. Each program reads some runs of one
parameter and adds in float32, at most `CHUNK` / `BLOCK` terms in a row, then in float64. Runs whose terms float32 can't
hold are read again in float64. A second, small launch adds the programs' sums in their order. Nothing waits for the
device.

A thread loads one entry at a time, since runs begin at addresses that are no multiple of 16. Wider loads would not be
worth a second loop: of a large model at most 2**20 entries are read, 20 MiB in five float32 tensors, at every eighth
step or more rarely. That is 6 microseconds of an H100's bandwidth, about what one launch takes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from gradwatch.measure.devices import stream_of, to_device
from gradwatch.measure.fused_triton import DTYPES
from gradwatch.measure.sampling import RUN

CHUNK, BLOCK = 2048, 512
"""Entries that a program reads; entries of one iteration."""
PARTS = 128
"""Programs whose sums the second launch adds at a time."""
WARPS = 4
STATS = 4
RUNS_AT = 6
"""The word of a row that says how many runs are read."""

KINDS = ("WEIGHT", "GRADIENT", "MOMENT", "SQUARE")
"""The tensors of a parameter, each of which has a dtype of its own; both second moments have the same."""


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _scales(row, numbers, ADAM: tl.constexpr):  # type: ignore[no-untyped-def]
    """The numbers of the formula that depend on the step and the learning rate, from where these are."""
    rate = tl.load(numbers + 10)
    decay = tl.load(numbers + 11)
    root_scale = tl.load(numbers + 16)
    square_scale = tl.load(numbers + 17)
    rate_at = tl.load(row + 20)
    rate *= tl.load(rate_at.to(tl.pointer_type(tl.float32)), mask=rate_at != 0, other=1.0).to(tl.float64)
    if ADAM:
        step_at = tl.load(row + 19)
        # After endless steps nothing is left to correct: that is what the row says where it knows the step itself.
        step = tl.load(step_at.to(tl.pointer_type(tl.float32)), mask=step_at != 0, other=float("inf")).to(tl.float64)
        first = 1.0 - tl.exp2(step * tl.load(numbers + 21))
        second = 1.0 - tl.exp2(step * tl.load(numbers + 22))
        rate /= first
        decay *= first
        root_scale /= tl.sqrt(second)
        square_scale /= second
    return rate, decay, root_scale, square_scale


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _sums_of(  # type: ignore[no-untyped-def]
    row,
    numbers,
    first,
    WEIGHT: tl.constexpr,
    GRADIENT: tl.constexpr,
    MOMENT: tl.constexpr,
    SQUARE: tl.constexpr,
    REAL: tl.constexpr,
    ADAM: tl.constexpr,
    RUN: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The sums over a program's runs in the precision of REAL: the formula of fused.c."""
    rate64, decay64, root_scale64, square_scale64 = _scales(row, numbers, ADAM)
    inverse = (1.0 / (1.0 - rate64 * decay64)).to(REAL)
    rate = rate64.to(REAL)
    decay = decay64.to(REAL)
    sign64 = tl.load(numbers + 13)
    weights = tl.load(row).to(tl.pointer_type(WEIGHT))
    gradients = tl.load(row + 1).to(tl.pointer_type(GRADIENT))
    moments = tl.load(row + 2).to(tl.pointer_type(MOMENT))
    runs = tl.load(row + 6)
    stride = tl.load(row + 8)
    size = tl.load(row + 9)
    updates = tl.zeros([BLOCK], REAL)
    befores = tl.zeros([BLOCK], REAL)
    ratios = tl.zeros([BLOCK], REAL)
    squares = tl.zeros([BLOCK], REAL)
    if ADAM:
        seconds = tl.load(row + 3).to(tl.pointer_type(SQUARE))
        largests = tl.load(row + 4).to(tl.pointer_type(SQUARE))
        sign = sign64.to(REAL)
        coupled = tl.load(numbers + 12).to(REAL)
        eps64 = tl.load(numbers + 18)
        eps = eps64.to(REAL)
        floor = tl.maximum(eps64 * eps64, 1.2e-38).to(REAL)
        root_scale = root_scale64.to(REAL)
        square_scale = square_scale64.to(REAL)
    else:
        of_gradient = (tl.load(numbers + 14) * sign64).to(REAL)
        of_moment = tl.load(numbers + 15).to(REAL)
    for at in range(0, CHUNK, BLOCK):
        entry = at + tl.arange(0, BLOCK)
        run = first + entry // RUN
        place = run * stride + entry % RUN
        inside = (run < runs) & (place < size)
        w = tl.load(weights + place, mask=inside, other=0.0).to(REAL)
        g = tl.load(gradients + place, mask=inside, other=0.0).to(REAL)
        m = tl.load(moments + place, mask=inside, other=0.0).to(REAL)
        if ADAM:
            v = tl.load(seconds + place, mask=inside, other=1.0).to(REAL)
            largest = tl.load(largests + place, mask=inside, other=1.0).to(REAL)
            d = m / (tl.sqrt(largest) * root_scale + eps)
        else:
            d = of_gradient * g + of_moment * m
        before = (w + rate * d) * inverse
        step = d + decay * before
        updates += step * step
        befores += before * before
        if ADAM:
            x = sign * g + coupled * before
            s = v * square_scale
            ratios += x * x / tl.where(s <= floor, floor, s)
            squares += tl.where(inside, s, 0.0)
    return (
        tl.sum(updates.to(tl.float64), axis=0),
        tl.sum(befores.to(tl.float64), axis=0),
        tl.sum(ratios.to(tl.float64), axis=0),
        tl.sum(squares.to(tl.float64), axis=0),
    )


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _is_doubtful(total):  # type: ignore[no-untyped-def]
    """Whether float32 may have lost digits of a sum, or of a quotient by more than 2**126. NaN is doubtful."""
    return ((total <= 1e37) & ((total >= 1e-25) | (total == 0.0))) == 0


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _read(  # type: ignore[no-untyped-def]
    rows,
    numbers,
    tensor_of,
    first_of,
    sums,
    WEIGHT: tl.constexpr,
    GRADIENT: tl.constexpr,
    MOMENT: tl.constexpr,
    SQUARE: tl.constexpr,
    ADAM: tl.constexpr,
    WORDS: tl.constexpr,
    RUN: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    chunk = tl.program_id(0)
    tensor = tl.load(tensor_of + chunk)
    first = tl.load(first_of + chunk)
    row = rows + tensor * WORDS
    settings = numbers + tensor * WORDS
    update, before, ratio, square = _sums_of(
        row, settings, first, WEIGHT, GRADIENT, MOMENT, SQUARE, tl.float32, ADAM, RUN, CHUNK, BLOCK
    )
    if _is_doubtful(update) | _is_doubtful(before) | _is_doubtful(ratio) | _is_doubtful(square):
        update, before, ratio, square = _sums_of(
            row, settings, first, WEIGHT, GRADIENT, MOMENT, SQUARE, tl.float64, ADAM, RUN, CHUNK, BLOCK // 4
        )
    out = sums + chunk * 4
    tl.store(out, update)
    tl.store(out + 1, before)
    tl.store(out + 2, ratio)
    tl.store(out + 3, square)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _add(  # type: ignore[no-untyped-def]
    rows,
    numbers,
    sums,
    first_chunk,
    table,
    ADAM: tl.constexpr,
    WORDS: tl.constexpr,
    RUN: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Add the sums of one parameter, and estimate those of the whole."""
    tensor = tl.program_id(0)
    row = rows + tensor * WORDS
    first = tl.load(first_chunk + tensor)
    last = tl.load(first_chunk + tensor + 1)
    updates = tl.zeros([PARTS], tl.float64)
    befores = tl.zeros([PARTS], tl.float64)
    ratios = tl.zeros([PARTS], tl.float64)
    squares = tl.zeros([PARTS], tl.float64)
    for chunk in range(first, last, PARTS):
        where = chunk + tl.arange(0, PARTS)
        inside = where < last
        part = sums + where * 4
        updates += tl.load(part, mask=inside, other=0.0)
        befores += tl.load(part + 1, mask=inside, other=0.0)
        ratios += tl.load(part + 2, mask=inside, other=0.0)
        squares += tl.load(part + 3, mask=inside, other=0.0)
    runs = tl.load(row + 6)
    size = tl.load(row + 9)
    last_run = tl.minimum(size - (runs - 1) * tl.load(row + 8), RUN)
    read = ((runs - 1) * RUN + last_run).to(tl.float64)
    whole = size.to(tl.float64) / read
    rate, _decay, _root, _square = _scales(row, numbers + tensor * WORDS, ADAM)
    length = tl.num_programs(0)
    out = table + tensor
    tl.store(out, tl.abs(rate) * tl.sqrt(tl.sum(updates, axis=0) * whole))
    tl.store(out + length, tl.sqrt(tl.sum(befores, axis=0) * whole))
    if ADAM:
        tl.store(out + 2 * length, tl.sqrt(tl.sum(ratios, axis=0) / read))
        tl.store(out + 3 * length, tl.sqrt(tl.sum(squares, axis=0) * whole))
    else:
        tl.store(out + 2 * length, float("nan"))
        tl.store(out + 3 * length, float("nan"))


def read_updates(table: NDArray[np.uint64], like: Tensor, dtypes: Sequence[torch.dtype], *, is_adam: bool) -> Tensor:
    """Return the statistics as a (4, parameters) float64 tensor on the device.

    Args:
        table: a row for each parameter, as `gradwatch.measure.updates_tables` makes them.
        like: a tensor on the device where all of it lies.
        dtypes: of what the rows point to, in the order of `KINDS`.
        is_adam: whether there are second moments.
    """
    device = like.device
    # Triton launches on the current device, whose kernels can't read the memory of another.
    with torch.cuda.device_of(like):  # type: ignore[no-untyped-call]
        plan = _plan(tuple(table[:, RUNS_AT].tolist()), device, stream_of(device))
        rows = plan.rows(table)
        numbers = rows.view(torch.float64)
        words = table.shape[1]
        found = torch.empty(STATS, len(table), dtype=torch.float64, device=device)
        _read[(plan.chunks,)](
            rows,
            numbers,
            plan.tensor_of,
            plan.first_of,
            plan.sums,
            **{name: DTYPES[dtype] for name, dtype in zip(KINDS, dtypes, strict=True)},
            ADAM=is_adam,
            WORDS=words,
            RUN=RUN,
            CHUNK=CHUNK,
            BLOCK=BLOCK,
            num_warps=WARPS,
        )
        _add[(len(table),)](
            rows, numbers, plan.sums, plan.first_chunk, found, ADAM=is_adam, WORDS=words, RUN=RUN, PARTS=PARTS
        )
    return found


class _Plan:
    """Which program reads which runs, and where it puts its sums: the same at every step, so it stays on the device."""

    def __init__(self, runs: tuple[int, ...], device: torch.device) -> None:
        each = CHUNK // RUN
        counts = np.array([-(-own // each) for own in runs], np.int64)
        first = np.concatenate([[0], np.cumsum(counts)])
        tensor_of = np.repeat(np.arange(len(runs)), counts)
        self.chunks = int(first[-1])
        self._device = device
        self._sent = b""
        self._rows: Tensor | None = None
        self.sums = torch.empty(self.chunks, STATS, dtype=torch.float64, device=device)
        self.first_chunk = _to_device(first, device)
        self.tensor_of = _to_device(tensor_of, device)
        self.first_of = _to_device((np.arange(self.chunks) - first[tensor_of]) * each, device)

    def rows(self, table: NDArray[np.uint64]) -> Tensor:
        """Return the table on the device; it is copied there when it has changed."""
        now = table.tobytes()
        if self._rows is None or now != self._sent:
            self._sent, self._rows = now, _to_device(table.view(np.int64), self._device)
        return self._rows


@functools.lru_cache(maxsize=32)
def _plan(runs: tuple[int, ...], device: torch.device, stream: int) -> _Plan:
    """A plan belongs to a stream: what was copied in its order may not have arrived for another."""
    return _Plan(runs, device)


def _to_device(values: Any, device: torch.device) -> Tensor:
    return to_device(torch.as_tensor(np.ascontiguousarray(values, np.int64)), device)
