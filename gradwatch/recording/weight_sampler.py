"""Samples the weights: their norms before a step, and the norms of what the step changed.

Norms of weights are exact. The norm of what a step changed takes the weights as they were before it, and a copy of all
of them would double their memory. So at most :data:`COPIED` entries are copied, or one in :data:`COPIED_ONE_IN` of a
very large model: short parameters whole, and of each long one an evenly spaced sample, from which the squared norm of
the change is estimated without bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, sqrt

import torch
from torch import Tensor

from gradwatch.measure import Measurement, local, norms

COPIED = 2**18
"""Entries that may be copied of any model: 1 MiB in float32. A model that has no more is copied whole."""

COPIED_ONE_IN = 256
"""A larger model copies one entry in 256, if that is more: 0.4 % of the memory of its weights."""


@dataclass(frozen=True, slots=True)
class Entries:
    """Which entries of a parameter are copied: every ``stride``-th, beginning with ``offset``."""

    stride: int
    offset: int

    def of(self, parameter: Tensor) -> Tensor:
        """Return a view of them: the parameter itself where the stride is 1, else of shape (k,)."""
        if self.stride == 1:
            return parameter
        count = -(-(parameter.numel() - self.offset) // self.stride)
        return parameter.as_strided((count,), (self.stride,), parameter.storage_offset() + self.offset)


@dataclass(frozen=True, slots=True)
class WeightSample:
    """The weights before a step, of the parameters that are there."""

    norms: Measurement
    entries: list[Entries]
    copies: list[Tensor]


class WeightSampler:
    """Samples every ``every`` steps, and at the first step of a row that is not finite.

    Whether the weights were finite before such a step tells whether it began with them.
    """

    def __init__(self, every: int) -> None:
        """``every`` is 0 for never."""
        self._every = every
        self._was_nonfinite = False

    @torch.no_grad()
    def before(
        self, step: int, measured: Measurement | None, parameters: Sequence[Tensor | None]
    ) -> WeightSample | None:
        """Take a sample if it is time; ``measured`` are the gradients, where they are known before the step."""
        if not self._every or not (step % self._every == 0 or self._is_first_nonfinite(measured)):
            return None
        present = [local(p.detach()) for p in parameters if p is not None]
        entries = entries_to_copy(present, step // self._every)
        copies = [e.of(p).clone() for e, p in zip(entries, present, strict=True)]
        return WeightSample(norms(present), entries, copies)

    @torch.no_grad()
    def after(
        self, sample: WeightSample | None, parameters: Sequence[Tensor | None]
    ) -> tuple[Measurement, Measurement] | None:
        """The norms of the weights before the step and of what it changed; the copies are used up."""
        if sample is None:
            return None
        present = [local(p.detach()) for p in parameters if p is not None]
        changes = []
        for entries, old, new in zip(sample.entries, sample.copies, present, strict=True):
            old.sub_(entries.of(new))
            changes.append(old if entries.stride == 1 else _scaled(old, new.numel() / max(1, old.numel())))
        return sample.norms, norms(changes)

    def _is_first_nonfinite(self, measured: Measurement | None) -> bool:
        """As far as is known without waiting for a device."""
        bad = measured is not None and measured.is_here and measured.has_nonfinite()
        first, self._was_nonfinite = bad and not self._was_nonfinite, bad
        return first


def entries_to_copy(parameters: Sequence[Tensor], turn: int) -> list[Entries]:
    """Choose the entries of each parameter that are copied, no more than the module's limit in all.

    The limit is shared like water between vessels: each parameter gets the same number of entries, and what a short one
    does not need goes to the long ones. The stride has no factor in common with a dimension of the parameter, so that
    a sample of a matrix meets all its columns alike. ``turn`` moves the beginning, so that each entry gets its turn.

    >>> entries_to_copy([torch.zeros(3, 5)], turn=0)
    [Entries(stride=1, offset=0)]
    >>> entries_to_copy([torch.zeros(2048, 1024), torch.zeros(1024)], turn=0)
    [Entries(stride=9, offset=0), Entries(stride=1, offset=0)]
    """
    sizes = [p.numel() for p in parameters]
    share = _even_share(sizes, max(COPIED, sum(sizes) // COPIED_ONE_IN))
    return [_entries_of(p, share, turn) for p in parameters]


def _even_share(sizes: Sequence[int], limit: int) -> int:
    """The largest number to which all sizes can be cut so that they add up to ``limit`` at most."""
    left, remaining = limit, len(sizes)
    for size in sorted(sizes):
        if size * remaining > left:
            return max(1, left // remaining)
        left, remaining = left - size, remaining - 1
    return limit


def _entries_of(parameter: Tensor, share: int, turn: int) -> Entries:
    size = parameter.numel()
    if size <= share or not _is_dense(parameter):
        return Entries(stride=1, offset=0)
    stride = -(-size // share)
    while any(gcd(stride, length) != 1 for length in parameter.shape):
        stride += 1
    # A multiple of the golden ratio spreads the beginnings of successive samples evenly.
    return Entries(stride=stride, offset=int(turn * 0.6180339887498949 % 1 * min(stride, size)))


def _is_dense(parameter: Tensor) -> bool:
    """Whether the parameter fills a stretch of memory once, in any order, so that its entries can be counted off."""
    if type(parameter) not in (Tensor, torch.nn.Parameter) or parameter.layout != torch.strided:
        return False
    if parameter.is_conj() or parameter.is_neg():
        return False
    filled = 1
    for stride, length in sorted(zip(parameter.stride(), parameter.shape, strict=True)):
        if length != 1 and stride != filled:
            return False
        filled *= length
    return True


def _scaled(change: Tensor, share: float) -> Tensor:
    """Scale a sample of a change so that its squared norm is that of the whole, on average."""
    # Half precision has not the range for it.
    wide = change.float() if change.dtype in (torch.float16, torch.bfloat16) else change
    return wide.mul_(sqrt(share))
