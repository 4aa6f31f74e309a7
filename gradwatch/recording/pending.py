"""A step in the making: from the moment its gradients are measured to the record of it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from gradwatch.clip import Clipping
from gradwatch.distributed import LocalStep, RankGatherer
from gradwatch.distributed.messages import ABSENT
from gradwatch.errors import BadArgument
from gradwatch.measure import Measurement, count_above, is_sharded, local, pinned_copy, total
from gradwatch.record import ClipFault, Floats, LayerStats, ParameterInfo, StepRecord, WeightStats
from gradwatch.recording.hooks import ClipCall


@dataclass(slots=True)
class PendingStep:
    """A step in the making: measured, perhaps clipped, not yet known to have happened."""

    step: int
    measured: Measurement
    wall_time: float = 0.0
    clippings: list[Clipping] = field(default_factory=list)
    versions: list[int] | None = None  # of the gradients, when the loop went on
    witness: weakref.ref[Tensor] | None = None  # the first gradient, to see whether it is still there
    backwards: int = 0  # how many there had been when it was measured
    clip_fault: str | None = None
    clipped_scaled: bool = False  # by calls that came before the gradients were unscaled
    clipped_by_policy: bool = False
    losses: list[float | Tensor] = field(default_factory=list)  # logged
    backward_losses: list[float | Tensor] = field(default_factory=list)  # on which backward was called
    learning_rates: tuple[float | Tensor, ...] = ()
    weights: tuple[Measurement, Measurement] | None = None
    old_weights: list[Tensor] | None = None
    weight_norms: Measurement | None = None
    skipped: bool = False
    scale: Tensor | None = None  # the gradients were measured times this
    loss_scale: Tensor | None = None  # the GradScaler's at the step
    found_inf: Tensor | None = None  # of a fused optimizer, which skips by itself
    ready: torch.cuda.Event | None = None  # when the numbers of `to_host` are there
    before_reduction: tuple[Measurement, ...] = ()  # over ranks: of what this process had
    whole: Measurement | None = None  # of sharded gradients, where their norms were needed at the step

    def take_weights_of(self, other: PendingStep | None) -> None:
        """Go on with the weights that another draft of the same step has sampled."""
        if other is not None:
            self.old_weights, self.weight_norms = other.old_weights, other.weight_norms

    def unscale(self, scale: Tensor) -> None:
        """What was measured and clipped so far were gradients times ``scale``."""
        self.scale = scale.detach().clone()
        self.clipped_scaled = bool(self.clippings)
        self.clippings = [
            replace(
                clipping,
                max_norm=None if clipping.max_norm is None else clipping.max_norm / self.scale,
                clip_value=None if clipping.clip_value is None else clipping.clip_value / self.scale,
            )
            for clipping in self.clippings
        ]

    def to_host(self) -> None:
        """Begin to copy single numbers from a CUDA device, so that nobody has to wait for them there."""
        numbers = [self.loss_scale, self.scale, self.found_inf, *self.losses, *self.backward_losses]
        numbers += [*self.learning_rates, *(c.coefficient for c in self.clippings)]
        numbers += [n for c in self.clippings for n in (c.max_norm, c.clip_value, *c.cut_entries)]
        self.clippings = [replace(clipping, skip=False) for clipping in self.clippings]
        devices = {number.device for number in numbers if isinstance(number, Tensor) and number.is_cuda}
        if not devices:
            return
        self.loss_scale, self.scale, self.found_inf = map(_pinned, (self.loss_scale, self.scale, self.found_inf))
        self.losses = [_pinned(loss) for loss in self.losses]
        self.backward_losses = [_pinned(loss) for loss in self.backward_losses]
        self.learning_rates = tuple(_pinned(rate) for rate in self.learning_rates)
        self.clippings = [
            replace(
                clipping,
                max_norm=_pinned(clipping.max_norm),
                clip_value=_pinned(clipping.clip_value),
                coefficient=_pinned(clipping.coefficient),
                cut_entries=tuple(_pinned(count) for count in clipping.cut_entries),
            )
            for clipping in self.clippings
        ]
        self.ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.ready.record(torch.cuda.current_stream(devices.pop()))


def _pinned(number: Any) -> Any:
    """A copy in pinned memory that is begun now; what lies on the host as it is."""
    if not isinstance(number, Tensor) or not number.is_cuda:
        return number
    return pinned_copy(number)


def make_record(
    draft: PendingStep,
    optimizer: str,
    attempt: int,
    infos: tuple[ParameterInfo, ...],
    present: list[bool],
    team: RankGatherer | None = None,
    number: int = 0,
) -> StepRecord | None:
    """Collect what a draft left on its devices; runs in the recorder's thread.

    With a team, the record is of what all ranks have of the step; None where that can't be known.
    """
    if draft.ready is not None:
        draft.ready.synchronize()
    if team is None:
        found, there = _collected(draft), draft.measured.present
        weights, ranks, loss = _weights(draft, present), None, _loss(draft)
    else:
        mine = make_local(draft, optimizer, present, number)
        whole, loss = team.gather(mine), mine.loss
        if whole is None:
            return None
        infos, found, weights, ranks = whole.infos, whole.stats, whole.weights, whole.ranks
        there = np.flatnonzero(whole.present).tolist()
        # Of rank 0 where it has one and all others are finite: what a loop logs there may be the mean already.
        if whole.losses and (loss is None or not all(map(math.isfinite, whole.losses))):
            loss = sum(whole.losses) / len(whole.losses)
    columns: dict[str, Floats] = {name: _float32(column) for name, column in found.items()}
    # A NaN norm of a gradient that is there has its non-finite entries counted, an absent one has none.
    norm = found["norm"][there]
    nonfinite = np.nansum(found["nonfinite"]) if "nonfinite" in found else np.count_nonzero(~np.isfinite(norm))
    total_norm = total(norm)
    return StepRecord(
        step=draft.step,
        optimizer=optimizer,
        attempt=attempt,
        wall_time=draft.wall_time,
        total_norm=total_norm,
        nonfinite=int(nonfinite),
        loss=loss,
        learning_rates=tuple(float(rate) for rate in draft.learning_rates),
        loss_scale=None if draft.loss_scale is None else float(draft.loss_scale),
        skipped=draft.skipped or (draft.found_inf is not None and float(draft.found_inf) > 0),
        clip_fault=_clip_fault(draft),
        layers=LayerStats(parameters=infos[: len(found["norm"])], **columns),
        weights=weights,
        ranks=ranks,
        **_clipping_columns(draft.clippings, total_norm),
    )


def make_local(draft: PendingStep, optimizer: str, present: list[bool], number: int) -> LocalStep:
    """What this process has of a step, to be brought together with what others have."""
    if draft.ready is not None:
        draft.ready.synchronize()
    found, weights, loss = _collected(draft), _weights(draft, present), _loss(draft)
    table = np.stack([_float32(column) for column in found.values()])
    there = draft.measured.present
    held = found["norm"][there]
    norm, nonfinite = total(held), np.nansum(found["nonfinite"]) if "nonfinite" in found else math.nan
    if draft.before_reduction:
        parts = [measured.collect() for measured in draft.before_reduction]
        scale = 1.0 if draft.scale is None else float(draft.scale)
        norm = total(np.concatenate([part["norm"] for part in parts])) / scale if scale else math.nan
        nonfinite = sum(float(part["nonfinite"].sum()) for part in parts)
    absent = np.ones(table.shape[1], bool)
    absent[there] = False
    table[0, absent] = ABSENT
    return LocalStep(
        optimizer=optimizer,
        number=number,
        stats=tuple(found),
        table=table,
        weights=None if weights is None else np.stack([weights.weight_norm, weights.update_norm]),
        norm=norm,
        nonfinite=float(nonfinite),
        before_reduction=bool(draft.before_reduction),
        loss=loss,
    )


def _collected(draft: PendingStep) -> dict[str, Any]:
    found = draft.measured.collect()
    if draft.scale is not None:
        for name in {"norm", "abs_max"} & found.keys():
            with np.errstate(divide="ignore", invalid="ignore"):  # a scaler that backs off for long reaches 0
                found[name] = found[name] / float(draft.scale)
    return found


def _weights(draft: PendingStep, present: list[bool]) -> WeightStats | None:
    if draft.weights is None:
        return None
    weight_norm, update_norm = (_spread(m.collect()["norm"], present) for m in draft.weights)
    return WeightStats(weight_norm=weight_norm, update_norm=update_norm)


def _loss(draft: PendingStep) -> float | None:
    """What was logged; else that of which the gradient is: the sum of what backward was called on, unscaled."""
    if draft.losses:
        return sum(float(value) for value in draft.losses) / len(draft.losses)
    if not draft.backward_losses:
        return None
    scale = 1.0 if draft.loss_scale is None else float(draft.loss_scale)
    return None if scale == 0 else sum(float(value) for value in draft.backward_losses) / scale


def _clip_fault(draft: PendingStep) -> ClipFault | None:
    """Of two faults the one that changes the threshold; a scale of 1 changes nothing."""
    was_scaled = draft.clipped_scaled and draft.scale is not None and float(draft.scale) != 1
    return "before-unscale" if was_scaled else cast("ClipFault | None", draft.clip_fault)


def _float32(column: np.ndarray[Any, np.dtype[np.float64]]) -> Floats:
    with np.errstate(over="ignore"):
        return column.astype(np.float32)


def _spread(values: np.ndarray[Any, np.dtype[np.float64]], present: list[bool]) -> Floats:
    column = np.full(len(present), np.nan, np.float32)
    where = np.flatnonzero(present)[: len(values)]
    column[where] = _float32(values)
    return column


def _clipping_columns(clippings: Sequence[Clipping], total_norm: float) -> dict[str, Any]:
    """What several clip calls of one step come to: the strongest coefficient with its threshold."""
    by_norm = [(_coefficient(c, total_norm), c) for c in clippings if c.max_norm is not None]
    by_value = [c for c in clippings if c.clip_value is not None]
    otherwise = [_coefficient(c, total_norm) for c in clippings if c.max_norm is None and c.clip_value is None]
    columns: dict[str, Any] = {}
    if by_norm:
        coef, strongest = min(by_norm, key=lambda pair: -math.inf if math.isnan(pair[0]) else pair[0])
        assert strongest.max_norm is not None
        columns = {"clip_coef": coef, "max_norm": float(strongest.max_norm), "norm_type": strongest.norm_type}
    elif otherwise:
        columns = {"clip_coef": min(otherwise)}
    if by_value:
        columns["clip_value"] = min(float(c.clip_value) for c in by_value if c.clip_value is not None)
        columns["cut_entries"] = sum(int(count) for c in by_value for count in c.cut_entries)
    return columns


def _coefficient(clipping: Clipping, total_norm: float) -> float:
    """Torch's own, where the norm was not to be had when it clipped."""
    if clipping.coefficient is not None:
        return float(clipping.coefficient)
    assert clipping.max_norm is not None
    return _torchs_coefficient(float(clipping.max_norm), total_norm)


def _torchs_coefficient(max_norm: float, norm: float) -> float:
    quotient = max_norm / (norm + 1e-6)
    return quotient if math.isnan(quotient) else min(quotient, 1.0)


def norm_clipping(call: ClipCall, total_norm: Tensor) -> Clipping:
    """Torch's own coefficient, from the norm that it returned."""
    assert call.max_norm is not None
    if is_sharded(total_norm):
        placements = total_norm.placements  # type: ignore[attr-defined]
        if not all(placement.is_replicate() for placement in placements):
            return Clipping(max_norm=call.max_norm, coefficient=None)
        total_norm = local(total_norm)
    norm = _not_waiting(total_norm)
    order = None if call.norm_type == 2 else call.norm_type
    if not call.spreads_nonfinite:
        finite = torch.isfinite(total_norm)
        norm = (
            torch.where(finite, total_norm, torch.zeros_like(total_norm))
            if isinstance(norm, Tensor)
            else (norm if math.isfinite(norm) else 0.0)
        )
    if isinstance(norm, float) and not isinstance(call.max_norm, Tensor):
        coefficient: float | Tensor = _torchs_coefficient(call.max_norm, norm)
    else:
        coefficient = torch.clamp(torch.as_tensor(call.max_norm / (norm + 1e-6)), max=1.0)
    return Clipping(max_norm=call.max_norm, norm_type=order, coefficient=coefficient)


def value_clipping(parameters: Sequence[Tensor | None], draft: PendingStep, call: ClipCall) -> Clipping:
    """Count what will be cut; on the CPU only in gradients whose largest entry says that some will."""
    assert call.clip_value is not None
    ids = {id(parameter) for parameter in call.parameters}
    largest = draft.measured.collect().get("abs_max") if draft.measured.is_here else None
    over = []
    for index, parameter in enumerate(parameters):
        if parameter is None or id(parameter) not in ids or parameter.grad is None:
            continue
        if largest is None or not largest[index] <= call.clip_value:
            over.append(parameter.grad)
    return Clipping(clip_value=call.clip_value, cut_entries=tuple(count_above(over, call.clip_value)))


def first_of(gradients: Sequence[Tensor | None]) -> weakref.ref[Tensor] | None:
    """The first gradient that is there, without keeping it alive."""
    return next((weakref.ref(gradient) for gradient in gradients if gradient is not None), None)


def versions_of(gradients: Sequence[Tensor | None]) -> list[int]:
    """PyTorch's count of in-place changes of each gradient."""
    return [g._version if type(g) is Tensor else -1 if g is None else version_of(g) for g in gradients]


def version_of(gradient: Tensor) -> int:
    """The same of one; of a sharded gradient the part is what is changed."""
    return (gradient._local_tensor if is_sharded(gradient) else gradient)._version  # type: ignore[attr-defined]


def learning_rates_of(optimizer: Optimizer) -> tuple[float | Tensor, ...]:
    """Of each parameter group; one that lies on a device is not waited for."""
    rates = [group["lr"] for group in optimizer.param_groups if "lr" in group]
    return tuple(_not_waiting(rate) if isinstance(rate, Tensor) else float(rate) for rate in rates)


def _not_waiting(value: Tensor) -> float | Tensor:
    return float(value.detach()) if value.device.type == "cpu" else value.detach().clone()


def loss_value(loss: object) -> float | Tensor:
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise BadArgument(f"loss has shape {tuple(loss.shape)}; expected one value, loss.mean() say. Not recorded.")
        if loss.is_complex():
            raise BadArgument("loss is complex; expected a real number. Not recorded.")
        return _not_waiting(loss)
    if isinstance(loss, str | bytes) or not hasattr(loss, "__float__"):
        raise BadArgument(f"loss is {loss!r}, a {type(loss).__name__}; expected a number or a tensor. Not recorded.")
    return float(loss)
