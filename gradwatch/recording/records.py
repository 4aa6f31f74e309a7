"""From a pending step to its record, outside the training thread.

`collect` waits for the devices and returns plain numbers. Everything after it needs no torch, so a process without
torch can make the record (`gradwatch.recording.process`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from gradwatch.record import (
    MAGNITUDE_STATS,
    SENTINEL_STATS,
    UPDATE_STATS,
    AccumulationStats,
    ClipFault,
    Floats,
    LayerStats,
    MagnitudeStats,
    ParameterInfo,
    RankStats,
    SentinelStats,
    StepRecord,
    UpdateStats,
    WeightStats,
    total,
)

if TYPE_CHECKING:
    from gradwatch.clip import Clipping
    from gradwatch.distributed import GatheredStep, LocalStep, RankGatherer
    from gradwatch.recording.pending import PendingStep  # it needs torch

Columns: TypeAlias = dict[str, NDArray[np.float64]]
"""Statistics by name, each with one entry for each parameter."""

ENTRIES = "entries"
"""A column of the sentinels of several processes: how many entries of each this process holds."""

PART = 1.1
"""Times the threshold: a total norm that a clip call leaves above it was clipped in part. Rounding explains less."""


class ClippingNumbers(NamedTuple):
    """How the gradients of one step were clipped: `gradwatch.clip.Clipping` in plain numbers.

    Attributes:
        coefficient: None if it follows from ``max_norm`` and the total norm.
        cut_entries: by value clipping.
    """

    max_norm: float | None = None
    norm_type: float | None = None
    clip_value: float | None = None
    coefficient: float | None = 1.0
    cut_entries: int = 0


class LateNumbers(NamedTuple):
    """The numbers of a step that may still change after its update, until the next step begins.

    Attributes:
        loss: the mean of the logged losses, or else the sum of what `backward` was called on, unscaled.
        clip_fault: one of `gradwatch.record.CLIP_FAULTS`.
        clippings: by what the gradients were clipped, in order.
    """

    loss: float | None
    clip_fault: ClipFault | None
    clippings: tuple[ClippingNumbers, ...]


class OwnTotals(NamedTuple):
    """What this process has of a step that several processes make: `LocalStep.norm` and the fields after it."""

    norm: float
    nonfinite: float
    before_reduction: bool


class StepNumbers(NamedTuple):
    """The numbers of one step, on the host and without torch.

    Attributes:
        wall_time: seconds since the epoch.
        stats: norm, abs_max, nonfinite, zeros of each gradient, unscaled; NaN where there was none.
        table: the same in one piece, (statistics, parameters); None where they lie apart.
        with_gradient: the positions that had a gradient; None if all had, in order.
        weights: of the parameters that are present, in their order; None if this step was not sampled.
        updates: of each parameter; None if they were not read.
        with_update: the positions whose update was read.
        magnitudes: `MAGNITUDE_STATS` of the gradients; None if they were not counted.
        sentinels: `SENTINEL_STATS` of the few parameters whose update was read; None if none was, or all were. Of
            several processes also `ENTRIES`.
        micro_batches: how many made the gradient; None if that was not read.
        first_norm: total norm of the gradient, unscaled, after the first of them.
        own: None unless the step is made by several processes.
    """

    step: int
    wall_time: float
    stats: Columns
    with_gradient: list[int] | None
    learning_rates: tuple[float, ...]
    loss_scale: float | None
    skipped: bool
    late: LateNumbers
    weights: Columns | None = None
    updates: Columns | None = None
    with_update: list[int] | None = None
    magnitudes: Columns | None = None
    sentinels: Columns | None = None
    micro_batches: int | None = None
    first_norm: float = math.nan
    table: NDArray[np.float64] | None = None
    own: OwnTotals | None = None


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
        return record_of(collect(pending), optimizer, attempt, infos, present)
    shared = share(pending, optimizer, present, number)
    return record_of_all(shared, team.gather(shared.mine), attempt)


class SharedStep(NamedTuple):
    """A step of rank 0 that is yet to be combined with what the other ranks have.

    Attributes:
        numbers: of rank 0.
        mine: its part.
    """

    numbers: StepNumbers
    mine: LocalStep


def share(pending: PendingStep, optimizer: str, present: list[bool], number: int) -> SharedStep:
    """Collect the numbers of a step from their devices, for all ranks to combine."""
    numbers = collect(pending, of_several=True)
    return SharedStep(numbers=numbers, mine=local_of(numbers, pending.part_sizes, optimizer, present, number))


def gathered_record(
    numbers: StepNumbers,
    part_sizes: Sequence[int],
    optimizer: str,
    attempt: int,
    present: list[bool],
    team: RankGatherer,
    number: int,
) -> StepRecord | None:
    """The record of what all ranks have of a step whose numbers were collected."""
    shared = SharedStep(numbers=numbers, mine=local_of(numbers, part_sizes, optimizer, present, number))
    return record_of_all(shared, team.gather(shared.mine), attempt)


def record_of_all(shared: SharedStep, whole: GatheredStep | None, attempt: int) -> StepRecord | None:
    """The record of a step of all ranks; None where it can't be known as a whole."""
    if whole is None:
        return None
    numbers, loss = shared.numbers, shared.mine.loss
    # Of rank 0 where it has one and all others are finite: what a loop logs there may be the mean already.
    if whole.loss is not None and (loss is None or not math.isfinite(whole.loss)):
        loss = whole.loss
    there = np.flatnonzero(whole.present).tolist()
    late = numbers.late._replace(loss=loss)
    updated = None if whole.updates is None else np.flatnonzero(~np.isnan(whole.updates["update_norm"])).tolist()
    read = whole.updates if updated else None
    of_all = numbers._replace(
        stats=whole.stats,
        table=None,
        with_gradient=there,
        updates=read,
        with_update=updated,
        late=late,
        magnitudes=None if whole.magnitudes is None else _stored_counts(whole.magnitudes),
        sentinels=whole.sentinels if read is None else None,
        micro_batches=None,
    )
    return _record(of_all, shared.mine.optimizer, attempt, whole.infos, whole.weights, whole.ranks)


def record_of(
    numbers: StepNumbers, optimizer: str, attempt: int, infos: tuple[ParameterInfo, ...], present: list[bool]
) -> StepRecord:
    """The record of a step of one process."""
    return _record(numbers, optimizer, attempt, infos, _weights(numbers, present), None)


def collect(pending: PendingStep, *, of_several: bool = False) -> StepNumbers:
    """The numbers of a step, which is one ``of_several`` processes. Waits for the devices where they lie."""
    for ready in pending.ready:
        ready.synchronize()
    updates, with_update = _read_updates(pending, of_several=of_several)
    micro_batches, first_norm = _read_accumulation(pending)
    table = _unscaled(pending)
    stats = dict(zip(pending.measured.stats, table, strict=True))
    return StepNumbers(
        step=pending.step,
        wall_time=pending.wall_time,
        stats=stats,
        table=table,
        with_gradient=None if pending.measured.is_whole else pending.measured.present,
        learning_rates=tuple(float(rate) for rate in pending.learning_rates),
        loss_scale=None if pending.loss_scale is None else float(pending.loss_scale),
        skipped=pending.skipped or (pending.found_inf is not None and float(pending.found_inf) > 0),
        late=collect_late(pending),
        weights=_sampled(pending),
        updates=updates,
        with_update=with_update,
        magnitudes=_counted(pending),
        sentinels=_read_sentinels(pending, of_several=of_several),
        micro_batches=micro_batches,
        first_norm=first_norm,
        own=_own_totals(pending, stats) if of_several else None,
    )


def collect_late(pending: PendingStep) -> LateNumbers:
    """The numbers that may change once more; what lies on a device must have been waited for."""
    return LateNumbers(
        loss=_loss(pending),
        clip_fault=_clip_fault(pending),
        clippings=tuple(_clipping_numbers(clipping) for clipping in pending.clippings),
    )


def _record(
    numbers: StepNumbers,
    optimizer: str,
    attempt: int,
    infos: tuple[ParameterInfo, ...],
    weights: WeightStats | None,
    ranks: RankStats | None,
) -> StepRecord:
    found = numbers.stats
    columns = _all_float32(found)
    # A NaN norm of a gradient that is there has its non-finite entries counted, an absent one has none.
    norm = found["norm"] if numbers.with_gradient is None else found["norm"][numbers.with_gradient]
    nonfinite = np.nansum(found["nonfinite"]) if "nonfinite" in found else np.count_nonzero(~np.isfinite(norm))
    total_norm, late = total(norm), numbers.late
    fault = late.clip_fault
    if fault is None and ranks is None and _clips_a_part(late.clippings, total_norm):
        fault = "part"
    return StepRecord(
        step=numbers.step,
        optimizer=optimizer,
        attempt=attempt,
        wall_time=numbers.wall_time,
        total_norm=total_norm,
        nonfinite=int(nonfinite),
        loss=late.loss,
        learning_rates=numbers.learning_rates,
        loss_scale=numbers.loss_scale,
        skipped=numbers.skipped,
        clip_fault=fault,
        layers=LayerStats(parameters=infos[: len(found["norm"])], **columns),
        weights=weights,
        ranks=ranks,
        accumulation=_accumulation(numbers, total_norm),
        magnitudes=_magnitudes(numbers),
        sentinels=_sentinels(numbers, len(found["norm"])),
        **_updates(numbers, len(found["norm"])),
        **_clipping_columns(late.clippings, total_norm),
    )


def make_local(pending: PendingStep, optimizer: str, present: list[bool], number: int) -> LocalStep:
    """What this process has of a step, for rank 0 to combine with what others have."""
    return local_of(collect(pending, of_several=True), pending.part_sizes, optimizer, present, number)


def local_of(
    numbers: StepNumbers, part_sizes: Sequence[int], optimizer: str, present: list[bool], number: int
) -> LocalStep:
    """The same from numbers that were collected for several processes."""
    from gradwatch.distributed.messages import ABSENT, LocalStep  # one process sends nothing

    assert numbers.own is not None
    found, weights = numbers.stats, _weights(numbers, present)
    table = np.stack([_float32(column) for column in found.values()])
    if numbers.with_gradient is not None:
        absent = np.ones(table.shape[1], bool)
        absent[numbers.with_gradient] = False
        table[0, absent] = ABSENT
    return LocalStep(
        optimizer=optimizer,
        number=number,
        stats=tuple(found),
        table=table,
        weights=None if weights is None else np.stack([weights.weight_norm, weights.update_norm]),
        updates=_updates_of_parts(numbers, part_sizes, table.shape[1]),
        magnitudes=_counts_of_parts(numbers, table.shape[1]),
        sentinels=_sentinels_of_parts(numbers, table.shape[1]),
        norm=numbers.own.norm,
        nonfinite=numbers.own.nonfinite,
        before_reduction=numbers.own.before_reduction,
        loss=numbers.late.loss,
    )


def _updates_of_parts(numbers: StepNumbers, sizes: Sequence[int], parameters: int) -> Floats | None:
    """The updates of this process's parts as norms whose squares add up, see `LocalStep.updates`."""
    if numbers.updates is None or numbers.skipped or len(sizes) < parameters:
        return None
    entries = np.array(sizes[:parameters], np.float64)
    found = {name: column[:parameters].copy() for name, column in numbers.updates.items()}
    found["rms_ratio"] *= np.sqrt(entries)
    table = np.stack([found[name] for name in UPDATE_STATS])
    # A part without entries has no update to read, and takes nothing from the whole.
    table[:, entries == 0] = 0.0
    return _float32(table)


def _sentinels_of_parts(numbers: StepNumbers, parameters: int) -> Floats | None:
    """The updates of this process's parts of the sentinels, see `LocalStep.sentinels`."""
    if numbers.sentinels is None or numbers.skipped:
        return None
    known = numbers.sentinels["position"] < parameters
    found = {name: column[known] for name, column in numbers.sentinels.items()}
    table = np.stack([found[name] for name in ("position", *UPDATE_STATS)])
    table[1 + UPDATE_STATS.index("rms_ratio")] *= np.sqrt(found[ENTRIES])
    table[1:, found[ENTRIES] == 0] = 0.0  # as in `_updates_of_parts`
    return _float32(table)


def _counts_of_parts(numbers: StepNumbers, parameters: int) -> Floats | None:
    """The entries of this process's parts by magnitude, see `LocalStep.magnitudes`."""
    stats = _magnitudes(numbers)
    counts = None if stats is None else stats.counts()
    return counts.T if counts is not None and len(counts) == parameters else None


def _own_totals(pending: PendingStep, found: Columns) -> OwnTotals:
    """Total norm and non-finite entries of this process, before the reduction where that was measured."""
    if pending.before_reduction:
        parts = [measured.collect() for measured in pending.before_reduction]
        norm = _over(total(np.concatenate([part["norm"] for part in parts])), pending.scale)
        return OwnTotals(
            norm=norm, nonfinite=sum(float(part["nonfinite"].sum()) for part in parts), before_reduction=True
        )
    nonfinite = float(np.nansum(found["nonfinite"])) if "nonfinite" in found else math.nan
    norm = total(found["norm"][pending.measured.present])
    return OwnTotals(norm=norm, nonfinite=nonfinite, before_reduction=False)


def _unscaled(pending: PendingStep) -> NDArray[np.float64]:
    """The statistics of the gradients, (statistics, parameters), without the scale of the loss."""
    table = pending.measured.table()
    if pending.scale is None:
        return table
    table, scale = table.copy(), np.float64(float(pending.scale))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for at, name in enumerate(pending.measured.stats):
            if name in ("norm", "abs_max"):
                table[at] /= scale
    return table


def _over(number: float, scale: Any) -> float:
    """A number without its scale; NaN where the scale is 0, which leaves nothing to tell it from.

    >>> _over(6.0, None), _over(6.0, 2.0), _over(0.0, 0.0)
    (6.0, 3.0, nan)
    """
    if scale is None:
        return number
    return number / float(scale) if float(scale) != 0 else math.nan


def _sampled(pending: PendingStep) -> Columns | None:
    if pending.weights is None:
        return None
    change = pending.weights
    found = {"weight_norm": change.weights.collect()["norm"], "update_norm": change.changes.collect()["norm"]}
    return found | ({} if change.alignment is None else change.alignment.collect())


def _weights(numbers: StepNumbers, present: list[bool]) -> WeightStats | None:
    """The sampled weights. The record has no parameter that joined after the gradients were measured."""
    if numbers.weights is None:
        return None
    known = len(numbers.stats["norm"])
    return WeightStats(**{name: _spread(values, present)[:known] for name, values in numbers.weights.items()})


def _updates(numbers: StepNumbers, parameters: int) -> dict[str, Any]:
    """The fields of a record about the update that the optimizer computed.

    Parameters that joined between the measurement of the gradients and the step are left out: the record has none of
    them.
    """
    if numbers.updates is None or numbers.skipped:
        return {}
    found = {name: column[:parameters] for name, column in numbers.updates.items()}
    there = [position for position in numbers.with_update or () if position < parameters]
    columns = _update_columns(found)
    update_norm, weight_norm = (total(found[name][there]) for name in ("update_norm", "weight_norm"))
    return {"updates": UpdateStats(**columns), "update_norm": update_norm, "weight_norm": weight_norm}


def _update_columns(found: Columns) -> dict[str, Any]:
    """Statistics of updates as a record has them: without those of a second moment where there is none."""
    columns: dict[str, Any] = _all_float32(found)
    is_read = not np.isnan(found["update_norm"]).all()
    for name in ("rms_ratio", "second_moment_norm"):
        if is_read and np.isnan(found[name]).all():
            columns[name] = None
    return columns


def _sentinels(numbers: StepNumbers, parameters: int) -> SentinelStats | None:
    """The updates of a few parameters, of those that the record has."""
    if numbers.sentinels is None or numbers.skipped:
        return None
    known, found = numbers.sentinels["position"] < parameters, numbers.sentinels
    if not known.all():
        found = {name: column[known] for name, column in found.items()}
    return SentinelStats(**_update_columns(found)) if known.any() else None


def _loss(pending: PendingStep) -> float | None:
    """The mean of the logged losses, or else the sum of what `backward` was called on, unscaled."""
    if pending.losses:
        return sum(float(value) for value in pending.losses) / len(pending.losses)
    if not pending.backward_losses:
        return None
    scaled = [float(loss.value) for loss in pending.backward_losses if loss.is_as_called]
    if scaled and pending.loss_scale is not None and float(pending.loss_scale) == 0:
        return None  # a scale of 0 leaves nothing of it
    known = sum(float(loss.value) for loss in pending.backward_losses if not loss.is_as_called)
    return known + (_over(sum(scaled), pending.loss_scale) if scaled else 0.0)


def _clip_fault(pending: PendingStep) -> ClipFault | None:
    """Of two faults the one that changes the threshold; a scale of 1 changes nothing."""
    was_scaled = pending.is_clipped_scaled and pending.scale is not None and float(pending.scale) != 1
    return "before-unscale" if was_scaled else cast("ClipFault | None", pending.clip_fault)


def _read_updates(pending: PendingStep, *, of_several: bool) -> tuple[Columns | None, list[int] | None]:
    """The update of each parameter, and the positions whose update was read; None if none was.

    One of several processes may hold no rows of any parameter. It tells that, for the others have read all.
    """
    if pending.updates is None or not (of_several or pending.updates.parts):
        return None, None
    return pending.updates.collect(), pending.updates.present


def _read_sentinels(pending: PendingStep, *, of_several: bool) -> Columns | None:
    """`SENTINEL_STATS` of those whose update was read; of several processes of all, with the entries held here."""
    if pending.sentinels is None or not (of_several or pending.sentinels.parts):
        return None
    if not of_several:
        at, table = pending.sentinels.read()
        found = dict(zip(pending.sentinels.stats, table, strict=True)) | {"position": np.array(at, np.float64)}
        return {name: found[name] for name in SENTINEL_STATS}
    sizes = pending.sentinel_sizes
    at = sorted(sizes)
    found = pending.sentinels.collect() | {"position": np.arange(pending.sentinels.length, dtype=np.float64)}
    columns = {name: found[name][at] for name in SENTINEL_STATS}
    return columns | {ENTRIES: np.array([sizes[one] for one in at], np.float64)}


def _read_accumulation(pending: PendingStep) -> tuple[int | None, float]:
    """How many micro-batches made the gradient, and its total norm after the first of them, which was scaled then."""
    accumulation = pending.accumulation
    # A gradient that was clipped between its micro-batches is not their sum.
    if accumulation is None or pending.clip_fault is not None:
        return None, math.nan
    first = accumulation.first
    return accumulation.micro_batches, _over(total(first.collect()["norm"][first.present]), pending.loss_scale)


def _counted(pending: PendingStep) -> Columns | None:
    """The counts of entries by magnitude as they are stored."""
    if pending.magnitudes is None:
        return None
    return _stored_counts(pending.magnitudes.table())


def _stored_counts(table: NDArray[Any]) -> Columns:
    """Counts as they are stored; ``table`` is (bins, parameters)."""
    stats = MagnitudeStats.of(table.T)
    return {name: getattr(stats, name).astype(np.float64) for name in MAGNITUDE_STATS}


def _magnitudes(numbers: StepNumbers) -> MagnitudeStats | None:
    if numbers.magnitudes is None:
        return None
    return MagnitudeStats(**{name: _float32(column) for name, column in numbers.magnitudes.items()})


def _accumulation(numbers: StepNumbers, total_norm: float) -> AccumulationStats | None:
    """The gradient after the first micro-batch and after the last."""
    if numbers.micro_batches is None or numbers.skipped:
        return None
    counts, norms = np.array([1, numbers.micro_batches], np.float64), np.array([numbers.first_norm, total_norm])
    return AccumulationStats(micro_batches=_float32(counts), norm=_float32(norms))


def _float32(column: NDArray[np.float64]) -> Floats:
    with np.errstate(over="ignore"):
        return column.astype(np.float32)


def _all_float32(columns: Columns) -> dict[str, Floats]:
    """Columns of one length, converted at once."""
    return dict(zip(columns, _float32(np.array(list(columns.values()))), strict=True))


def _spread(values: NDArray[np.float64], present: list[bool]) -> Floats:
    """The values of the parameters that are there, at their positions among all."""
    column = np.full(len(present), np.nan, np.float32)
    where = np.flatnonzero(present)[: len(values)]
    column[where] = _float32(values)
    return column


def _clipping_numbers(clipping: Clipping) -> ClippingNumbers:
    return ClippingNumbers(
        max_norm=None if clipping.max_norm is None else float(clipping.max_norm),
        norm_type=None if clipping.norm_type is None else float(clipping.norm_type),
        clip_value=None if clipping.clip_value is None else float(clipping.clip_value),
        coefficient=None if clipping.coefficient is None else float(clipping.coefficient),
        cut_entries=sum(int(count) for count in clipping.cut_entries),
    )


def _clipping_columns(clippings: Sequence[ClippingNumbers], total_norm: float) -> dict[str, Any]:
    """The columns for the clip calls of one step: the strongest coefficient with its threshold."""
    by_norm = [(_coefficient(c, total_norm), c) for c in clippings if c.max_norm is not None]
    otherwise = [_coefficient(c, total_norm) for c in clippings if c.max_norm is None and c.clip_value is None]
    columns = _value_columns([c for c in clippings if c.clip_value is not None])
    if by_norm:
        coef, strongest = min(by_norm, key=lambda pair: -math.inf if math.isnan(pair[0]) else pair[0])
        columns |= {"clip_coef": coef, "max_norm": strongest.max_norm, "norm_type": strongest.norm_type}
    elif otherwise:
        columns |= {"clip_coef": min(otherwise)}
    return columns


def _clips_a_part(clippings: Sequence[ClippingNumbers], total_norm: float) -> bool:
    """Whether the only clip call of a step read a far smaller norm than that of all gradients, above the threshold.

    >>> _clips_a_part([ClippingNumbers(max_norm=1.0, coefficient=0.5)], 8.0)
    True
    >>> _clips_a_part([ClippingNumbers(max_norm=1.0, coefficient=0.125)], 8.0)
    False
    """
    if len(clippings) != 1 or clippings[0].norm_type is not None:
        return False  # several calls may clip all of them, part by part
    (clipping,) = clippings
    if clipping.max_norm is None or clipping.coefficient is None:
        return False
    return total_norm > PART * clipping.max_norm and clipping.coefficient * total_norm > PART * clipping.max_norm


def _value_columns(by_value: Sequence[ClippingNumbers]) -> dict[str, Any]:
    if not by_value:
        return {}
    return {
        "clip_value": min(c.clip_value for c in by_value if c.clip_value is not None),
        "cut_entries": sum(c.cut_entries for c in by_value),
    }


def _coefficient(clipping: ClippingNumbers, total_norm: float) -> float:
    """The coefficient that clipped; torch's own where the norm was not known when it clipped."""
    if clipping.coefficient is not None:
        return clipping.coefficient
    assert clipping.max_norm is not None
    return torchs_coefficient(clipping.max_norm, total_norm)


def torchs_coefficient(max_norm: float, norm: float) -> float:
    """The factor of `torch.nn.utils.clip_grad_norm_`.

    >>> torchs_coefficient(1.0, 4.0 - 1e-6), torchs_coefficient(5.0, 4.0)
    (0.25, 1.0)
    """
    quotient = max_norm / (norm + 1e-6)
    return quotient if math.isnan(quotient) else min(quotient, 1.0)
