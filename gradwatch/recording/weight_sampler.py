"""Samples the weights: their norms before a step, the norms of what it changed, and what the update was made of.

Norms of weights are exact. The norm of what a step changed takes the weights as they were before it, and a copy of all
of them would double their memory. So at most :data:`COPIED` entries are copied, or one in :data:`COPIED_ONE_IN` of a
very large model: short parameters whole, and of each long one an evenly spaced sample, from which the squared norm of
the change is estimated without bias.

What the optimizer computed is another matter: `gradwatch.measure.updates` reads it from the state of known
optimizers, without a copy.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, sqrt

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradwatch.measure import Measurement, local, measure_updates, norms, to_host
from gradwatch.measure.updates import even_share
from gradwatch.record import SAMPLED_STATS

logger = logging.getLogger("gradwatch")

MOMENTUM = ("exp_avg", "momentum_buffer")
"""The names under which optimizers of PyTorch, and most others, keep the momentum of a parameter."""

COPIED = 2**18
"""Entries that may be copied of any model: 1 MiB in float32. A model that has no more is copied whole."""

COPIED_ONE_IN = 256
"""A larger model copies one entry in 256, if that is more: 0.4 % of the memory of its weights."""

PARAMETERS_A_STEP = 16
"""Parameters whose updates are read at a step, on average over the steps of a run.

With 50, a step of 40 tensors of 4,096 entries took 1.6 times the bare one (tests/contracts/test_overhead.py)."""


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


@dataclass(frozen=True, slots=True)
class WeightChange:
    """What a sampled step did to the weights, of the parameters that are there.

    Attributes:
        weights: their norms before it.
        changes: the norms of what it changed.
        alignment: `SAMPLED_STATS`; None where they can't be had.
    """

    weights: Measurement
    changes: Measurement
    alignment: Measurement | None


class WeightSampler:
    """Samples every ``every`` steps, and at the first step of a row that is not finite.

    Whether the weights were finite before such a step tells whether it began with them.
    """

    def __init__(self, every: int, updates_every: int | None = 0) -> None:
        """Sample the weights and read the updates at every step that these divide; 0 is never.

        With None the number of parameters decides how often updates are read (`usual_updates_every`).
        """
        self._every = every
        self._updates_every = updates_every
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
        self, sample: WeightSample | None, parameters: Sequence[Tensor | None], optimizer: Optimizer
    ) -> WeightChange | None:
        """What the step did to the weights; the copies are used up."""
        if sample is None:
            return None
        present = [p for p in parameters if p is not None]
        alignment = _alignments(sample, present, optimizer)
        changes = []
        for entries, old, parameter in zip(sample.entries, sample.copies, present, strict=True):
            new = local(parameter.detach())
            old.sub_(entries.of(new))
            changes.append(old if entries.stride == 1 else _scaled(old, new.numel() / max(1, old.numel())))
        return WeightChange(sample.norms, norms(changes), alignment)

    def updates(self, step: int, optimizer: Optimizer, parameters: Sequence[Tensor | None]) -> Measurement | None:
        """The updates that the optimizer has computed, if it is time to read them and they can be read."""
        if self._updates_every == 0:
            return None
        if step % (self._updates_every or usual_updates_every(len(parameters))):
            return None
        try:
            return measure_updates(optimizer, parameters)
        except Exception as error:
            self._updates_every = 0
            logger.warning(
                "gradwatch can't read the updates of %s from its state; they are left out from here on (%s: %s)"
                " (updates-not-read)",
                type(optimizer).__name__,
                type(error).__name__,
                str(error).partition("\n")[0][:200],
            )
            return None

    def _is_first_nonfinite(self, measured: Measurement | None) -> bool:
        """As far as is known without waiting for a device."""
        bad = measured is not None and measured.is_here and measured.has_nonfinite()
        first, self._was_nonfinite = bad and not self._was_nonfinite, bad
        return first


def usual_updates_every(parameters: int) -> int:
    """At which steps the updates are read unless the user says: of sixteen parameters a step on average.

    Reading costs some microseconds for each parameter, and 16 bytes in the store.

    >>> usual_updates_every(16), usual_updates_every(148), usual_updates_every(1000)
    (1, 10, 63)
    """
    return max(1, -(-parameters // PARAMETERS_A_STEP))


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
    share = even_share(tuple(sizes), max(COPIED, sum(sizes) // COPIED_ONE_IN))
    return [_entries_of(p, share, turn) for p in parameters]


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


def _alignments(sample: WeightSample, parameters: Sequence[Tensor], optimizer: Optimizer) -> Measurement | None:
    """`SAMPLED_STATS` of the parameters, before the copies are used up."""
    try:
        together = zip(sample.entries, sample.copies, parameters, strict=True)
        return _together([_alignment(entries, old, parameter, optimizer) for entries, old, parameter in together])
    except Exception as error:  # a class of tensor or a state of an optimizer that is like no other
        logger.debug("no alignment of gradient, momentum and weights", exc_info=error)
        return None


def _alignment(entries: Entries, old: Tensor, parameter: Tensor, optimizer: Optimizer) -> Tensor:
    """`SAMPLED_STATS` of one parameter, of the entries that were copied; NaN where they are not known."""
    new = entries.of(local(parameter.detach()))
    moved = torch.count_nonzero(old != new).double() / max(1, old.numel())
    state = optimizer.state.get(parameter, {})
    momentum = next((state[name] for name in MOMENTUM if isinstance(state.get(name), Tensor)), None)
    of_gradient = _entries_like(entries, parameter.grad, old)
    of_momentum = _entries_like(entries, momentum, old)
    return torch.stack([moved, _cosine(of_gradient, of_momentum, old), _cosine(of_gradient, old, old)])


def _entries_like(entries: Entries, tensor: Tensor | None, old: Tensor) -> Tensor | None:
    """The same entries of another tensor of the parameter; None where it is not laid out alike."""
    if tensor is None or tensor.layout != torch.strided or old.is_complex():
        return None
    whole = local(tensor.detach())
    if entries.stride == 1:
        return whole if whole.shape == old.shape else None
    return entries.of(whole) if _is_dense(whole) and whole.is_contiguous() else None


def _cosine(first: Tensor | None, second: Tensor | None, like: Tensor) -> Tensor:
    """The cosine of the angle between two tensors in float64; NaN where one is zero or not known."""
    if first is None or second is None:
        return torch.full((), torch.nan, dtype=torch.float64, device=like.device)
    # Cast before the product: half precision has not the range for sums of squares.
    one, other = (t.reshape(-1).to(torch.float32 if t.element_size() < 8 else t.dtype) for t in (first, second))
    norms_of = torch.linalg.vector_norm(one).double() * torch.linalg.vector_norm(other).double()
    cosine: Tensor = torch.dot(one, other.to(one.dtype)).double() / norms_of
    return cosine


def _together(columns: Sequence[Tensor]) -> Measurement:
    """The statistics of parameters as one measurement, by device; positions count those that are there."""
    devices = dict.fromkeys(column.device for column in columns)
    parts = []
    for device in devices:
        positions = [at for at, column in enumerate(columns) if column.device == device]
        parts.append(to_host(positions, torch.stack([columns[at] for at in positions]).T.contiguous()))
    return Measurement(SAMPLED_STATS, len(columns), tuple(parts))


def _scaled(change: Tensor, share: float) -> Tensor:
    """Scale a sample of a change so that its squared norm is that of the whole, on average."""
    # Half precision has not the range for it.
    wide = change.float() if change.dtype in (torch.float16, torch.bfloat16) else change
    return wide.mul_(sqrt(share))
