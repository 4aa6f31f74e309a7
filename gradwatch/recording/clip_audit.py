"""Finds which clip calls act on the gradients that the optimizer uses, and how much they clip."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradwatch.clip.calls import Clipping
from gradwatch.measure import count_above, is_on_host, is_sharded, local
from gradwatch.recording.gradients import GradientHistory
from gradwatch.recording.hooks import ClipCall
from gradwatch.recording.parameters import ParameterTable
from gradwatch.recording.pending import PendingStep
from gradwatch.recording.records import torchs_coefficient


class ClipAudit:
    """Remembers a clip call that did nothing until the step shows whether it was the only one."""

    def __init__(self) -> None:
        self._fault: str | None = None
        self._in_vain: list[Tensor] = []  # parameters that had no gradient when they were clipped
        self._comes_late = self._is_in_vain = False  # the call that is being made

    def note(self, fault: str) -> None:
        """A clip call of the loop had nothing to do with these gradients."""
        self._fault = fault

    def begin(self, call: ClipCall, gradients: GradientHistory, held: PendingStep | None) -> bool:
        """A call of these parameters begins; return whether it does nothing for the next update."""
        self._comes_late = gradients.are_consumed()
        self._is_in_vain = self._comes_late or all(parameter.grad is None for parameter in call.parameters)
        if self._comes_late:
            if held is None:
                self._fault = "after-step"
            elif not held.clippings:
                held.note_fault("after-step")
        elif self._is_in_vain:
            self._fault, self._in_vain = "no-gradients", call.parameters
        return self._is_in_vain

    def end(self, gradients: GradientHistory) -> bool:
        """The call has ended; return whether it did nothing for the next update."""
        if self._comes_late:
            gradients.consume()  # it changed them
        in_vain, self._comes_late, self._is_in_vain = self._is_in_vain, False, False
        return in_vain

    def judge(self, pending: PendingStep) -> None:
        """Write down a call that could do nothing, if it was the only one, and why it could not."""
        fault, parameters = self._fault, self._in_vain
        self._fault, self._in_vain = None, []
        if fault is None or pending.clippings or pending.was_clipped or pending.clip_fault:
            return
        came_later = fault == "no-gradients" and any(p.grad is not None for p in parameters)
        pending.note_fault("before-backward" if came_later else fault)


def fault_of_change(before: PendingStep, gradients: GradientHistory, *, at_clip: bool) -> str | None:
    """Return the fault that a change of the gradients after clipping shows; the script's own changes are none."""
    if not before.clippings or before.backwards == gradients.backwards:
        return before.clip_fault
    return "micro-batch" if at_clip else "before-backward"


def clips_nothing(call: ClipCall) -> bool:
    """Whether nothing in the call has a gradient: a gradient that it was given instead of its parameter has none."""
    known = (nn.Parameter, Tensor)
    return all(type(given) in known and given.is_leaf and given.grad is None for given in call.parameters)


def drops_update(call: ClipCall) -> bool:
    """Whether a policy called in the loop left the update out; the step then shows it by absent gradients."""
    return any(bool(clipping.skip) for clipping in call.made)


def see_call(call: ClipCall, pending: PendingStep, table: ParameterTable, gradients: Sequence[Tensor | None]) -> None:
    """Before a call clips: lend it what was measured, and count what it will cut."""
    if not call.spreads_nonfinite and not pending.clippings and _covers(call, table.ids, gradients):
        call.offered.append(pending.measured)
    if call.clip_value is not None:
        pending.add_clipping(value_clipping(table.parameters, pending, call))


def _covers(call: ClipCall, ids: set[int], gradients: Sequence[Tensor | None]) -> bool:
    """Whether a call clips just these gradients, which the parameters of these ids have."""
    theirs = {id(parameter) for parameter in call.parameters if parameter.grad is not None}
    return theirs <= ids and len(theirs) == sum(gradient is not None for gradient in gradients)


def add_clipping(pending: PendingStep | None, call: ClipCall, total_norm: Tensor | None) -> None:
    """Add the clipping that a call by norm, or a policy of gradwatch, did."""
    if pending is not None and call.made:
        pending.add_clipping(*call.made)
    elif pending is not None and total_norm is not None and call.max_norm is not None:
        pending.add_clipping(norm_clipping(call, total_norm))


def norm_clipping(call: ClipCall, total_norm: Tensor) -> Clipping:
    """Torch's own coefficient, from the norm that it returned."""
    assert call.max_norm is not None
    if is_sharded(total_norm):
        placements = total_norm.placements  # type: ignore[attr-defined]
        if not all(placement.is_replicate() for placement in placements):
            return Clipping(max_norm=call.max_norm, coefficient=None)
        total_norm = local(total_norm)
    norm: float | Tensor = float(total_norm.detach()) if is_on_host(total_norm) else total_norm.detach()
    order = None if call.norm_type == 2 else call.norm_type
    if not call.spreads_nonfinite:
        norm = _zero_unless_finite(norm)
    if isinstance(norm, float) and not isinstance(call.max_norm, Tensor):
        coefficient: float | Tensor = torchs_coefficient(call.max_norm, norm)
    else:
        coefficient = torch.clamp(torch.as_tensor(call.max_norm / (norm + 1e-6)), max=1.0)
    return Clipping(max_norm=call.max_norm, norm_type=order, coefficient=coefficient)


def _zero_unless_finite(norm: float | Tensor) -> float | Tensor:
    if isinstance(norm, Tensor):
        return torch.where(torch.isfinite(norm), norm, torch.zeros_like(norm))
    return norm if math.isfinite(norm) else 0.0


def value_clipping(parameters: Sequence[Tensor | None], pending: PendingStep, call: ClipCall) -> Clipping:
    """Count what will be cut; on the CPU only in gradients whose largest entry says that some will."""
    assert call.clip_value is not None
    ids = {id(parameter) for parameter in call.parameters}
    largest = pending.measured.collect().get("abs_max") if pending.measured.is_here else None
    over = []
    for index, parameter in enumerate(parameters):
        if parameter is None or id(parameter) not in ids or parameter.grad is None:
            continue
        if largest is None or not largest[index] <= call.clip_value:
            over.append(parameter.grad)
    return Clipping(clip_value=call.clip_value, cut_entries=tuple(count_above(over, call.clip_value)))
