"""The effect of a sampled step on the entries of each parameter: how many moved, and in which directions.

On the CPU the compiled pass compares plain tensors. What it can't read is left to PyTorch's operators: a model has
hundreds of parameters, and a launch costs as much for ten entries as for a million, so the entries of many parameters
are joined first, and each statistic is computed for all of them at once.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from gradwatch.measure import Measurement, local, to_device, to_host, widest_float
from gradwatch.measure.entries import PLAIN, is_wrapper
from gradwatch.measure.fused import COMPARED, STEP_WORDS, codes, compare_fused, compares_steps, is_dense
from gradwatch.record import SAMPLED_STATS

logger = logging.getLogger("gradwatch")

MOMENTUM = ("exp_avg", "momentum_buffer")
"""The names under which optimizers of PyTorch, and most others, keep the momentum of a parameter."""

BATCH, BATCH_ON_HOST = 2**17, 2**14
"""Entries that are joined: 1 MiB in float64 on an accelerator, where each launch costs; 128 KiB on the host.

What is computed from them takes some times as much, at a step whose gradients are there as well.
"""


class Entries(NamedTuple):
    """Which entries of a parameter are copied: every ``stride``-th, beginning with ``offset``."""

    stride: int
    offset: int

    def of(self, parameter: Tensor) -> Tensor:
        """Return a view of them: the parameter itself where the stride is 1, else of shape (k,)."""
        if self.stride == 1:
            return parameter
        count = -(-(parameter.numel() - self.offset) // self.stride)
        return parameter.as_strided((count,), (self.stride,), parameter.storage_offset() + self.offset)


class _Row(NamedTuple):
    """The entries of one parameter, flat. The gradient and the momentum are None where they are not laid out alike."""

    position: int
    old: Tensor
    new: Tensor
    gradient: Tensor | None
    momentum: Tensor | None

    @property
    def kind(self) -> tuple[Any, ...]:
        """What the rows that are joined have in common."""
        return self.old.device, *(None if t is None else t.dtype for t in (self.old, self.gradient, self.momentum))


def compared(
    entries: Sequence[Entries],
    old: Sequence[Tensor],
    weights: Sequence[Tensor],
    parameters: Sequence[Tensor],
    optimizer: Optimizer,
) -> tuple[list[int], NDArray[np.float64]]:
    """Compare what the compiled pass can read; return the positions, and `COMPARED` as a (statistics, positions) table.

    Args:
        entries: which were copied, of each parameter.
        old: their values before the step.
        weights: the parameters after it, or the parts of them that this process holds.
        parameters: with their gradients.
        optimizer: that has stepped.
    """
    nothing: list[int] = []
    if not compares_steps():
        return nothing, np.empty((len(COMPARED), 0))
    try:
        gradients = _parts_of(parameter.grad for parameter in parameters)
        momenta = _parts_of(_momentum_of(parameter, optimizer) for parameter in parameters)
        columns = (old, weights, gradients, momenta)
        rows = zip(entries, zip(*columns, strict=True), zip(*map(codes, columns), strict=True), strict=True)
        steps = {at: step for at, row in enumerate(rows) if (step := _step_of(*row)) is not None}
    except Exception as error:
        logger.debug("no compiled comparison of gradient, momentum and weights", exc_info=error)
        return nothing, np.empty((len(COMPARED), 0))
    words = np.array(list(steps.values()), np.int64).reshape(len(steps), len(STEP_WORDS))
    return list(steps), np.ascontiguousarray(compare_fused(words).T)


def _part_of(tensor: Tensor) -> Tensor:
    return tensor if type(tensor) in PLAIN else local(tensor.detach())


def _parts_of(tensors: Iterable[Tensor | None]) -> list[Tensor | None]:
    return [None if tensor is None else _part_of(tensor) for tensor in tensors]


def _step_of(
    entries: Entries, tensors: tuple[Tensor, Tensor, Tensor | None, Tensor | None], types: tuple[int | None, ...]
) -> tuple[int, ...] | None:
    """The words of `STEP_WORDS`; None where the compiled pass can't read one of the tensors as it is."""
    old, weight, *_ = tensors
    of_old, kind, of_gradient, of_momentum = types
    if kind is None or of_old != kind:
        return None
    size, count = weight.numel(), -(-(weight.numel() - entries.offset) // entries.stride)
    if old.numel() != count or (entries.stride == 1 and not _are_laid_out_alike(old, weight)):
        return None
    addresses = _addresses(tensors, types, entries.offset)
    if addresses is None:
        return None
    return *addresses, kind, of_gradient or 0, of_momentum or 0, count, entries.stride, size


def _addresses(
    tensors: tuple[Tensor, Tensor, Tensor | None, Tensor | None], types: tuple[int | None, ...], offset: int
) -> list[int] | None:
    """Where the entries of each tensor begin, 0 for one that is not there; None if one can't be read as it is."""
    old, weight, *_ = tensors
    found = []
    for tensor, code in zip(tensors, types, strict=True):
        if tensor is None:
            found.append(0)
            continue
        if code is None or tensor.is_neg() or not (tensor is old or _are_laid_out_alike(tensor, weight)):
            return None
        address = tensor.data_ptr()
        if weight.numel() and not address:
            return None
        found.append(address if tensor is old else address + offset * tensor.element_size())
    return found


def _are_laid_out_alike(tensor: Tensor, weight: Tensor) -> bool:
    return tensor is weight or (tensor.shape == weight.shape and tensor.stride() == weight.stride())


def alignments(
    entries: Sequence[Entries],
    old: Sequence[Tensor],
    new: Sequence[Tensor],
    parameters: Sequence[Tensor],
    optimizer: Optimizer,
) -> Measurement | None:
    """Return `SAMPLED_STATS` of each parameter by PyTorch's operators; NaN where they are not known.

    Args:
        entries: which they are, of each parameter.
        old: their values before the step.
        new: their values after it, in the same shapes.
        parameters: with their gradients.
        optimizer: that has stepped.

    Returns:
        None where a class of tensor or a state of an optimizer is like no other.
    """
    try:
        fused = any(group.get("fused") for group in optimizer.param_groups)
        rows: defaultdict[tuple[Any, ...], list[_Row]] = defaultdict(list)
        for position, (one, before, after, parameter) in enumerate(zip(entries, old, new, parameters, strict=True)):
            row = _row(position, one, before, after, parameter, _momentum_of(parameter, optimizer), fused=fused)
            if row.old.numel() and not is_wrapper(row.old):
                rows[row.kind].append(row)
        parts = [
            to_host([row.position for row in batch], _aligned(batch))
            for alike in rows.values()
            for batch in _batches(alike)
        ]
    except Exception as error:
        logger.debug("no alignment of gradient, momentum and weights", exc_info=error)
        return None
    return Measurement(SAMPLED_STATS, len(entries), tuple(parts))


def _row(
    position: int,
    entries: Entries,
    old: Tensor,
    new: Tensor,
    parameter: Tensor,
    momentum: Tensor | None,
    *,
    fused: bool,
) -> _Row:
    weight, gradient = _part_of(parameter), parameter.grad
    if fused and momentum is not None and gradient is not None and momentum.stride() != gradient.stride():
        momentum = None  # fused steps pair entries as they lie in memory, whatever their indices
    gradient, momentum = (_entries_like(entries, tensor, old, weight) for tensor in (gradient, momentum))
    return _Row(position, old.reshape(-1), new.reshape(-1), gradient, momentum)


def _momentum_of(parameter: Tensor, optimizer: Optimizer) -> Tensor | None:
    state = optimizer.state.get(parameter, {})
    return next((state[name] for name in MOMENTUM if _has_values(state.get(name))), None)


def _has_values(moment: object) -> bool:
    """Whether a state holds numbers. Eight bits are codes, which a scale for each block of entries makes numbers of."""
    return isinstance(moment, Tensor) and moment.is_floating_point() and moment.element_size() > 1


def _entries_like(entries: Entries, tensor: Tensor | None, old: Tensor, weight: Tensor) -> Tensor | None:
    """The same entries of another tensor of the parameter, flat; None where it is not laid out alike."""
    if tensor is None or tensor.layout != torch.strided or old.is_complex():
        return None
    whole = _part_of(tensor)
    if whole.get_device() != old.get_device() or whole.is_cpu != old.is_cpu or is_wrapper(whole):
        return None
    if entries.stride == 1:
        return whole.reshape(-1) if whole.shape == old.shape else None
    return entries.of(whole) if can_count_off(whole) and _are_laid_out_alike(whole, weight) else None


def _batches(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    most = BATCH_ON_HOST if rows[0].old.device.type == "cpu" else BATCH
    batch: list[_Row] = []
    count = 0
    for row in rows:
        if batch and count + row.old.numel() > most:
            yield batch
            batch, count = [], 0
        batch.append(row)
        count += row.old.numel()
    if batch:
        yield batch


def _aligned(rows: Sequence[_Row]) -> Tensor:
    """`SAMPLED_STATS` of rows of one kind: (statistics, rows) in the widest type of their device."""
    lengths = [row.old.numel() for row in rows]
    device = rows[0].old.device
    dtype = widest_float(device)

    def joined(name: str) -> Tensor | None:
        tensors = [getattr(row, name) for row in rows]
        return None if tensors[0] is None else torch.cat(tensors).to(dtype)

    stretches = _Stretches(lengths, dtype, device)
    changed = torch.cat([row.old for row in rows]) != torch.cat([row.new for row in rows])
    moved = stretches.norms(changed, order=1) / to_device(torch.tensor(lengths, dtype=dtype), device)
    del changed
    gradient = joined("gradient")
    if gradient is None:
        return torch.stack([moved, *[torch.full_like(moved, torch.nan)] * 2])
    of_gradients = stretches.norms(gradient, order=2)

    def cosines(name: str) -> Tensor:
        """Of the angles to the gradients; NaN where one of the two is zero or not known."""
        other = joined(name)
        if other is None:
            return torch.full_like(moved, torch.nan)
        magnitudes = of_gradients * stretches.norms(other, order=2)
        products = other.mul_(gradient)  # in its place, to hold less at once
        # The sums of the stretches: PyTorch takes the norms of many tensors at once, but not their sums.
        dots = stretches.norms(products.clamp(min=0), order=1) - stretches.norms(products.clamp(max=0), order=1)
        return dots / magnitudes

    return torch.stack([moved, cosines("momentum"), cosines("old")])


class _Stretches:
    """Takes the norms of the stretches of a tensor, which are cut once: to cut a thousand costs the host as much as a
    third of their norms.
    """

    def __init__(self, lengths: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        self._entries = torch.empty(sum(lengths), dtype=dtype, device=device)
        self._each = list(torch.split(self._entries, list(lengths)))

    def norms(self, values: Tensor, *, order: int) -> Tensor:
        self._entries.copy_(values)
        return torch.stack(list(torch._foreach_norm(self._each, order)))


def can_count_off(parameter: Tensor) -> bool:
    """Whether the parameter fills a stretch of memory once, in any order, so that its entries can be counted off."""
    if type(parameter) not in (Tensor, torch.nn.Parameter) or parameter.layout != torch.strided:
        return False
    return not parameter.is_conj() and not parameter.is_neg() and is_dense(parameter)
