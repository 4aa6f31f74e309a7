"""From a pending step to its record, in the thread of the sink; this is where devices are waited for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gradwatch.clip import Clipping
from gradwatch.distributed import LocalStep, RankGatherer
from gradwatch.distributed.messages import ABSENT
from gradwatch.measure import total
from gradwatch.record import (
    ClipFault,
    Floats,
    LayerStats,
    ParameterInfo,
    RankStats,
    StepRecord,
    UpdateStats,
    WeightStats,
)
from gradwatch.recording.clip_audit import torchs_coefficient
from gradwatch.recording.pending import PendingStep


def make_record(
    pending: PendingStep,
    optimizer: str,
    attempt: int,
    infos: tuple[ParameterInfo, ...],
    present: list[bool],
    team: RankGatherer | None = None,
    number: int = 0,
) -> StepRecord | None:
    """Collect the numbers of a step from their devices.

    With a team, the record is of what all ranks have of the step; None where that can't be known.
    """
    if team is None:
        _wait(pending)
        found, there = _collected(pending), pending.measured.present
        return _record(
            pending, optimizer, attempt, infos, found, there, _weights(pending, present), None, _loss(pending)
        )
    mine = make_local(pending, optimizer, present, number)
    whole = team.gather(mine)
    if whole is None:
        return None
    loss = mine.loss
    # Of rank 0 where it has one and all others are finite: what a loop logs there may be the mean already.
    if whole.loss is not None and (loss is None or not math.isfinite(whole.loss)):
        loss = whole.loss
    there = np.flatnonzero(whole.present).tolist()
    return _record(pending, optimizer, attempt, whole.infos, whole.stats, there, whole.weights, whole.ranks, loss)


def _record(
    pending: PendingStep,
    optimizer: str,
    attempt: int,
    infos: tuple[ParameterInfo, ...],
    found: dict[str, NDArray[np.float64]],
    there: list[int],
    weights: WeightStats | None,
    ranks: RankStats | None,
    loss: float | None,
) -> StepRecord:
    columns: dict[str, Floats] = {name: _float32(column) for name, column in found.items()}
    # A NaN norm of a gradient that is there has its non-finite entries counted, an absent one has none.
    norm = found["norm"][there]
    nonfinite = np.nansum(found["nonfinite"]) if "nonfinite" in found else np.count_nonzero(~np.isfinite(norm))
    total_norm = total(norm)
    skipped = pending.skipped or (pending.found_inf is not None and float(pending.found_inf) > 0)
    return StepRecord(
        step=pending.step,
        optimizer=optimizer,
        attempt=attempt,
        wall_time=pending.wall_time,
        total_norm=total_norm,
        nonfinite=int(nonfinite),
        loss=loss,
        learning_rates=tuple(float(rate) for rate in pending.learning_rates),
        loss_scale=None if pending.loss_scale is None else float(pending.loss_scale),
        skipped=skipped,
        clip_fault=_clip_fault(pending),
        layers=LayerStats(parameters=infos[: len(found["norm"])], **columns),
        weights=weights,
        ranks=ranks,
        **(_updates(pending, len(found["norm"]), skipped=skipped) if ranks is None else {}),
        **_clipping_columns(pending.clippings, total_norm),
    )


def make_local(pending: PendingStep, optimizer: str, present: list[bool], number: int) -> LocalStep:
    """What this process has of a step, for rank 0 to combine with what others have."""
    _wait(pending)
    found, weights = _collected(pending), _weights(pending, present)
    table = np.stack([_float32(column) for column in found.values()])
    there = pending.measured.present
    norm, nonfinite = _own_totals(pending, found, there)
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
        nonfinite=nonfinite,
        before_reduction=bool(pending.before_reduction),
        loss=_loss(pending),
    )


def _own_totals(pending: PendingStep, found: dict[str, NDArray[np.float64]], there: list[int]) -> tuple[float, float]:
    """Total norm and non-finite entries of this process, before the reduction where that was measured."""
    if pending.before_reduction:
        parts = [measured.collect() for measured in pending.before_reduction]
        norm = total(np.concatenate([part["norm"] for part in parts]))
        return _over(norm, pending.scale), sum(float(part["nonfinite"].sum()) for part in parts)
    return total(found["norm"][there]), float(np.nansum(found["nonfinite"])) if "nonfinite" in found else math.nan


def _wait(pending: PendingStep) -> None:
    for ready in pending.ready:
        ready.synchronize()


def _collected(pending: PendingStep) -> dict[str, NDArray[np.float64]]:
    found = pending.measured.collect()
    if pending.scale is not None:
        for name in {"norm", "abs_max"} & found.keys():
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                found[name] = found[name] / np.float64(float(pending.scale))
    return found


def _over(number: float, scale: Any) -> float:
    """A number without its scale; NaN where the scale is 0, which leaves nothing to tell it from.

    >>> _over(6.0, None), _over(6.0, 2.0), _over(0.0, 0.0)
    (6.0, 3.0, nan)
    """
    if scale is None:
        return number
    return number / float(scale) if float(scale) != 0 else math.nan


def _weights(pending: PendingStep, present: list[bool]) -> WeightStats | None:
    if pending.weights is None:
        return None
    change = pending.weights
    weight_norm, update_norm = (_spread(m.collect()["norm"], present) for m in (change.weights, change.changes))
    further = {} if change.alignment is None else change.alignment.collect()
    columns = {name: _spread(values, present) for name, values in further.items()}
    return WeightStats(weight_norm=weight_norm, update_norm=update_norm, **columns)


def _updates(pending: PendingStep, parameters: int, *, skipped: bool) -> dict[str, Any]:
    """The fields of a record about the update that the optimizer computed.

    Parameters that joined between the measurement of the gradients and the step are left out: the record has none of
    them.
    """
    if pending.updates is None or not pending.updates.parts or skipped:
        return {}
    found = {name: column[:parameters] for name, column in pending.updates.collect().items()}
    there = [position for position in pending.updates.present if position < parameters]
    columns: dict[str, Any] = {name: _float32(column) for name, column in found.items()}
    for name in ("rms_ratio", "second_moment_norm"):
        if np.isnan(columns[name]).all() and not np.isnan(columns["update_norm"]).all():
            columns[name] = None
    update_norm, weight_norm = (total(found[name][there]) for name in ("update_norm", "weight_norm"))
    return {"updates": UpdateStats(**columns), "update_norm": update_norm, "weight_norm": weight_norm}


def _loss(pending: PendingStep) -> float | None:
    """The mean of the logged losses, or else the sum of what `backward` was called on, unscaled."""
    if pending.losses:
        return sum(float(value) for value in pending.losses) / len(pending.losses)
    if not pending.backward_losses:
        return None
    loss = sum(float(value) for value in pending.backward_losses)
    if pending.loss_scale is not None and float(pending.loss_scale) == 0:
        return None  # a scale of 0 leaves nothing of it
    return _over(loss, pending.loss_scale)


def _clip_fault(pending: PendingStep) -> ClipFault | None:
    """Of two faults the one that changes the threshold; a scale of 1 changes nothing."""
    was_scaled = pending.is_clipped_scaled and pending.scale is not None and float(pending.scale) != 1
    return "before-unscale" if was_scaled else cast("ClipFault | None", pending.clip_fault)


def _float32(column: NDArray[np.float64]) -> Floats:
    with np.errstate(over="ignore"):
        return column.astype(np.float32)


def _spread(values: NDArray[np.float64], present: list[bool]) -> Floats:
    """The values of the parameters that are there, at their positions among all."""
    column = np.full(len(present), np.nan, np.float32)
    where = np.flatnonzero(present)[: len(values)]
    column[where] = _float32(values)
    return column


def _clipping_columns(clippings: Sequence[Clipping], total_norm: float) -> dict[str, Any]:
    """The columns for the clip calls of one step: the strongest coefficient with its threshold."""
    by_norm = [(_coefficient(c, total_norm), c) for c in clippings if c.max_norm is not None]
    otherwise = [_coefficient(c, total_norm) for c in clippings if c.max_norm is None and c.clip_value is None]
    columns = _value_columns([c for c in clippings if c.clip_value is not None])
    if by_norm:
        coef, strongest = min(by_norm, key=lambda pair: -math.inf if math.isnan(pair[0]) else pair[0])
        assert strongest.max_norm is not None
        columns |= {"clip_coef": coef, "max_norm": float(strongest.max_norm), "norm_type": strongest.norm_type}
    elif otherwise:
        columns |= {"clip_coef": min(otherwise)}
    return columns


def _value_columns(by_value: Sequence[Clipping]) -> dict[str, Any]:
    if not by_value:
        return {}
    return {
        "clip_value": min(float(c.clip_value) for c in by_value if c.clip_value is not None),
        "cut_entries": sum(int(count) for c in by_value for count in c.cut_entries),
    }


def _coefficient(clipping: Clipping, total_norm: float) -> float:
    """The coefficient that clipped; torch's own where the norm was not known when it clipped."""
    if clipping.coefficient is not None:
        return float(clipping.coefficient)
    assert clipping.max_norm is not None
    return torchs_coefficient(float(clipping.max_norm), total_norm)
