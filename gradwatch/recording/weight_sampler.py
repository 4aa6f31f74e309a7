"""Samples the weights: their norms before a step, the norms of the change, and the composition of the update.

With every second sample, the entries of the gradients are counted by magnitude.

Norms of weights are exact. The norm of the change needs the weights from before the step, and a copy of all of them
would double their memory. So at most :data:`COPIED` entries are copied, or one in :data:`COPIED_ONE_IN` of a
very large model: short parameters whole, and of each long one an evenly spaced sample, from which the squared norm of
the change is estimated without bias.

The update that the optimizer computed needs no copy: `gradwatch.measure.updates` reads it from the state of known
optimizers. With these, a large model is copied to half as many entries.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradwatch.measure import (
    Measurement,
    closed_form_of,
    local,
    measure_magnitudes,
    measure_updates,
    norms,
    reads_updates_at_once,
)
from gradwatch.measure.entries import PLAIN
from gradwatch.measure.fused import is_dense
from gradwatch.measure.measurement import Part
from gradwatch.measure.sampling import even_share, even_stride
from gradwatch.recording.alignment import Entries, alignments, can_count_off, compared
from gradwatch.recording.sentinels import ENTRIES, Sentinels

logger = logging.getLogger("gradwatch")

COPIED = 2**18
"""Entries that may be copied of any model: 1 MiB in float32. A model that has no more is copied whole."""

COPIED_ONE_IN = 1024
"""A larger model copies one entry in 1,024, if that is more. With what is computed from the copies, a sampled step took
0.4% of the memory of 340 million weights (benchmarks/weights_memory.py)."""

COPIED_BESIDE_STATE = 2
"""By which both are divided where the update is read from the optimizer's state as well, in a model that is not copied
whole."""

ALIGNED = 64
"""Bytes at whose multiples copies begin, as the entries of tensors do."""

_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
"""Windows has no such flags, and shares no memory without a name."""

PARAMETERS_A_STEP, PARAMETERS_A_STEP_OPERATORS = 16, 4
"""Parameters whose updates are read at a step, on average over the steps of a run: by the compiled pass or Triton's
kernel, and by PyTorch's operators, to which a read costs many times as much.

With 50, a step of 40 tensors of 4,096 entries took 1.6 times the bare one (tests/contracts/test_overhead.py)."""

SENTINELS_BY_OPERATORS = 64
"""Parameters of a model on an accelerator from which on PyTorch's operators read sentinels.

They take 48 operators and one copy a step, whatever the model, while measuring the gradients takes nine for each
parameter: with 64, sentinels add 8% (tests/contracts/test_waits.py counts them)."""

SENTINELS_ON_HOST = 2**23
"""Entries of a model on the CPU from which on PyTorch's operators read sentinels.

They take 1 to 2 ms a step, whatever the model, and measuring takes one for each million entries: with 2**23 entries
sentinels add a tenth to it. To 64 matrices of 64 x 64 they would add 167%."""


class WeightSample(NamedTuple):
    """The weights before a step, of the parameters that are there."""

    norms: Measurement
    entries: list[Entries]
    copies: list[Tensor]


class WeightChange(NamedTuple):
    """What a sampled step did to the weights, of the parameters that are there.

    Attributes:
        weights: their norms before it.
        changes: the norms of what it changed.
        alignment: `SAMPLED_STATS`; None where they can't be had.
    """

    weights: Measurement
    changes: Measurement
    alignment: Measurement | None


SAMPLES_A_COUNT = 2
"""Samples of the weights from one count of the entries to the next, so that counts and digests add 5% to a store."""


class WeightSampler:
    """Samples every ``every`` steps, and at the first step of a row that is not finite.

    Whether the weights were finite before such a step tells whether it began with them.
    """

    def __init__(self, every: int, updates_every: int | None = 0) -> None:
        """Sample the weights and read the updates at every step that these divide; 0 is never.

        With None the number of parameters decides how often updates are read (`usual_updates_every`), and those of
        a few are read at every step (`gradwatch.recording.sentinels`).
        """
        self._every = every
        self._updates_every = updates_every
        self._sentinels = Sentinels() if updates_every is None else None
        self._was_nonfinite = False
        self._cannot_count = False
        self._asked: Measurement | None = None
        self._answer = False

    def before(
        self, step: int, measured: Measurement | None, parameters: Sequence[Tensor | None], optimizer: Optimizer
    ) -> WeightSample | None:
        """Take a sample if it is time; ``measured`` are the gradients, where they are known before the step."""
        if not self._every or not (step % self._every == 0 or self._note_nonfinite(measured)):
            return None
        reads_state = self._updates_every != 0 and closed_form_of(optimizer) is not None
        return self._sample(step // self._every, [p for p in parameters if p is not None], reads_state=reads_state)

    @torch.no_grad()
    def _sample(self, turn: int, parameters: Sequence[Tensor], *, reads_state: bool) -> WeightSample:
        present = [local(p.detach()) for p in parameters]
        entries = entries_to_copy(present, turn, reads_state=reads_state)
        copies = _copied([e.of(p) for e, p in zip(entries, present, strict=True)])
        return WeightSample(norms(present), entries, copies)

    def after(
        self, sample: WeightSample | None, parameters: Sequence[Tensor | None], optimizer: Optimizer
    ) -> WeightChange | None:
        """What the step did to the weights; the copies are used up."""
        if sample is None:
            return None
        return self._change(sample, [p for p in parameters if p is not None], optimizer)

    @torch.no_grad()
    def _change(self, sample: WeightSample, present: Sequence[Tensor], optimizer: Optimizer) -> WeightChange:
        weights = [local(p.detach()) for p in present]
        positions, table = compared(sample.entries, sample.copies, weights, present, optimizer)
        aligned, changes = (Part(positions, torch.from_numpy(rows), None) for rows in (table[:-1], table[-1:]))
        left = sorted(set(range(len(present))).difference(positions))
        entries = [sample.entries[at] for at in left]
        old, own, parameters = ([column[at] for at in left] for column in (sample.copies, weights, present))
        new = [e.of(w) for e, w in zip(entries, own, strict=True)]
        others = alignments(entries, old, new, parameters, optimizer)
        if left:
            torch._foreach_sub_(old, new)
        rest = norms(_estimates(entries, old, own))
        alignment = None if others is None else _joined(aligned, others, left)
        return WeightChange(sample.norms, _joined(changes, rest, left), alignment)

    def updates(self, step: int, optimizer: Optimizer, parameters: Sequence[Tensor | None]) -> Measurement | None:
        """The updates that the optimizer has computed, if it is time to read them and they can be read."""
        if self._updates_every == 0 or not self._reads_all(step, parameters, at_once=_are_read_at_once(parameters)):
            return None
        measured = self._measured_updates(optimizer, parameters)
        if measured is not None and self._sentinels is not None:
            self._sentinels.follow(measured)
        return measured

    def sentinels(
        self, step: int, optimizer: Optimizer, parameters: Sequence[Tensor | None]
    ) -> tuple[Measurement | None, dict[int, int]]:
        """The updates of a few parameters, at a step at which those of all are not read.

        And how many entries of each of them this process holds, by position.
        """
        if self._updates_every == 0 or self._sentinels is None:
            return None, {}
        at_once = _are_read_at_once(parameters)
        if self._reads_all(step, parameters, at_once=at_once) or not _has_sentinels(parameters, at_once=at_once):
            return None, {}
        few = self._sentinels.among(parameters)
        measured = self._measured_updates(optimizer, parameters, ENTRIES, few)
        if measured is None:
            return None, {}
        return measured, {at: local(one).numel() for at in few if (one := parameters[at]) is not None}

    def _reads_all(self, step: int, parameters: Sequence[Tensor | None], *, at_once: bool) -> bool:
        return step % (self._updates_every or usual_updates_every(len(parameters), at_once=at_once)) == 0

    def _measured_updates(
        self,
        optimizer: Optimizer,
        parameters: Sequence[Tensor | None],
        most: int | None = None,
        only: Sequence[int] | None = None,
    ) -> Measurement | None:
        try:
            return measure_updates(optimizer, parameters, most, only)
        except Exception as error:
            self._updates_every = 0
            logger.warning(
                "gradwatch can't read the updates of %s from its state and leaves them out from now on (%s: %s)"
                " (updates-not-read)",
                type(optimizer).__name__,
                type(error).__name__,
                str(error).partition("\n")[0][:200],
            )
            return None

    def magnitudes(
        self,
        step: int,
        measured: Measurement,
        gradients: Sequence[Tensor | None],
        scale: Tensor | None,
        wholes: Callable[[], Mapping[int, tuple[int, ...]]] = dict,
    ) -> Measurement | None:
        """How many entries of the gradients have which magnitude, if it is time to count them.

        Args:
            step: the number of the step.
            measured: the statistics of the gradients.
            gradients: as the backward pass made them.
            scale: that they were multiplied by.
            wholes: gives the shapes of those of which this process holds a part.
        """
        if not self._every or self._cannot_count:
            return None
        if step % (self._every * SAMPLES_A_COUNT) and (self._was_nonfinite or not self._look_for_nonfinite(measured)):
            return None
        try:
            return measure_magnitudes(gradients, scale, wholes())
        except Exception as error:
            self._cannot_count = True
            logger.warning(
                "gradwatch can't count the entries of the gradients by magnitude and leaves that out from now on"
                " (%s: %s) (magnitudes-not-counted)",
                type(error).__name__,
                str(error).partition("\n")[0][:200],
            )
            return None

    def _note_nonfinite(self, measured: Measurement | None) -> bool:
        """Return whether gradients begin to be not finite, as far as is known without waiting for a device."""
        bad = measured is not None and self._look_for_nonfinite(measured)
        first, self._was_nonfinite = bad and not self._was_nonfinite, bad
        return first

    def _look_for_nonfinite(self, measured: Measurement) -> bool:
        """Whether gradients are not finite, as far as is known; each step asks twice."""
        if measured is not self._asked:
            self._asked, self._answer = measured, measured.is_here and measured.has_nonfinite()
        return self._answer


def _are_read_at_once(parameters: Sequence[Tensor | None]) -> bool:
    """Whether one pass reads the updates of a model."""
    return reads_updates_at_once(_device_of(parameters))


def _has_sentinels(parameters: Sequence[Tensor | None], *, at_once: bool) -> bool:
    """Whether those of a few are worth a read at every step, beside what measuring the gradients takes.

    ``at_once``: one pass reads the updates.
    """
    if at_once:
        return True
    if _device_of(parameters).type != "cpu":
        return len(parameters) >= SENTINELS_BY_OPERATORS
    return sum(one.numel() for one in parameters if one is not None) >= SENTINELS_ON_HOST


def _device_of(parameters: Sequence[Tensor | None]) -> torch.device:
    """Where a model is, as far as its first parameter tells."""
    first = next((parameter for parameter in parameters if parameter is not None), None)
    return torch.device("cpu") if first is None else first.device


def usual_updates_every(parameters: int, *, at_once: bool) -> int:
    """At which steps the updates are read unless the user says: of sixteen parameters a step on average.

    Reading costs some microseconds for each parameter, and 16 bytes in the store. PyTorch's operators cost more than
    one pass, so that four parameters a step are read by them.

    >>> [usual_updates_every(parameters, at_once=True) for parameters in (16, 148, 1000)]
    [1, 10, 63]
    >>> usual_updates_every(16, at_once=False)
    4
    """
    return max(1, -(-parameters // (PARAMETERS_A_STEP if at_once else PARAMETERS_A_STEP_OPERATORS)))


def entries_to_copy(parameters: Sequence[Tensor], turn: int, *, reads_state: bool = False) -> list[Entries]:
    """Choose the entries of each parameter that are copied, no more than the module's limit in all.

    The limit is shared like water between vessels: each parameter gets the same number of entries, and what a short one
    does not need goes to the long ones. The stride has no factor in common with a dimension of the parameter, so that
    a sample of a matrix meets all its columns alike. ``turn`` moves the beginning, so that each entry gets its turn.
    With ``reads_state`` the update is read from the optimizer's state as well.

    >>> entries_to_copy([torch.zeros(3, 5)], turn=0)
    [Entries(stride=1, offset=0)]
    >>> entries_to_copy([torch.zeros(2048, 1024), torch.zeros(1024)], turn=0)
    [Entries(stride=9, offset=0), Entries(stride=1, offset=0)]
    """
    sizes = [p.numel() for p in parameters]
    limit = max(COPIED, sum(sizes) // COPIED_ONE_IN)
    if reads_state and sum(sizes) > COPIED:
        limit //= COPIED_BESIDE_STATE
    share = even_share(tuple(sizes), limit)
    return [_entries_of(p, share, turn) for p in parameters]


def _entries_of(parameter: Tensor, share: int, turn: int) -> Entries:
    size = parameter.numel()
    if size <= share or not can_count_off(parameter):
        return Entries(stride=1, offset=0)
    stride = even_stride(parameter.shape, share)
    # A multiple of the golden ratio spreads the beginnings of successive samples evenly.
    return Entries(stride=stride, offset=int(turn * 0.6180339887498949 % 1 * min(stride, size)))


def _copied(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors; those on the host into memory that the system takes back as soon as the copies are used up.

    Hundreds of small copies would lie in the heap. What the optimizer makes at its first step, such as moments, comes
    to lie above them, and the heap keeps what they took.
    """
    in_memory = [_can_lie_in_memory(one) for one in tensors]
    if not any(in_memory):
        return [one.clone() for one in tensors]
    sizes = [-(-one.nbytes // ALIGNED) * ALIGNED if can else 0 for one, can in zip(tensors, in_memory, strict=True)]
    memory = mmap.mmap(-1, sum(sizes), **_PRIVATE)
    copies = []
    for one, can, end, size in zip(tensors, in_memory, accumulate(sizes), sizes, strict=True):
        if can:
            copy = torch.frombuffer(memory, dtype=one.dtype, count=one.numel(), offset=end - size)
            copy = copy.as_strided(one.shape, one.stride()) if is_dense(one) else copy.view(one.shape)
            copies.append(copy.copy_(one))
        else:
            copies.append(one.clone())
    return copies


def _can_lie_in_memory(tensor: Tensor) -> bool:
    if not tensor.is_cpu or type(tensor) not in PLAIN or tensor.layout != torch.strided:
        return False
    return tensor.numel() > 0 and not tensor.is_nested and not tensor.is_quantized


def _joined(part: Part, others: Measurement, left: Sequence[int]) -> Measurement:
    """Join what was measured in one part with a measurement of the positions that it has left."""
    parts = [part] if part.positions else []
    parts += [other._replace(positions=[left[at] for at in other.positions]) for other in others.parts]
    return Measurement(others.stats, len(part.positions) + len(left), tuple(parts))


def _estimates(entries: Sequence[Entries], changes: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """Scale the changes of samples so that their squared norms are those of whole parameters, on average."""
    estimates, shares = [], []
    for one, change, weight in zip(entries, changes, weights, strict=True):
        is_sample = one.stride != 1
        # Half precision has not the range for it.
        narrow = is_sample and change.dtype in (torch.float16, torch.bfloat16)
        estimates.append(change.float() if narrow else change)
        shares.append(sqrt(weight.numel() / max(1, change.numel())) if is_sample else 1.0)
    if any(share != 1.0 for share in shares):
        torch._foreach_mul_(estimates, shares)
    return estimates
