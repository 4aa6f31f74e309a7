"""The vocabulary: the record of one optimizer step, and the event that a detector finds in it.

Everything upstream of this module makes these values. Everything downstream reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Severity: TypeAlias = Literal["info", "warning", "critical"]
Kind: TypeAlias = Literal[
    "nonfinite",
    "spike",
    "explosion",
    "drift",
    "vanishing",
    "dead",
    "eps-starvation",
    "overclipping",
    "idle-clipping",
    "ineffective-clipping",
    "loss-scale",
    "desync",
    "update-spike",
    "held-spike",
    "stale-second-moment",
    "nothing-moves",
    "resumed",
]
ClipFault: TypeAlias = Literal[
    "before-backward",  # clipped, and then a backward pass added to the gradients
    "after-step",  # clipped after the optimizer had consumed the gradients
    "before-unscale",  # clipped while the gradients were multiplied by the loss scale
    "other-parameters",  # the optimizer's gradients are not those that were clipped
    "no-gradients",  # what was clipped had no gradient, before or at the step
    "no-parameters",  # clipped an empty list
    "micro-batch",  # clipped more than once while the gradients accumulated
    "part",  # clipped a part of the parameters only, which left the total norm above the threshold
]
Origin: TypeAlias = Literal["loss", "backward", "weights"]

STATS = ("norm", "abs_max", "nonfinite", "zeros")
"""The per-parameter statistics of a gradient, in the order in which they are stored."""

WEIGHT_STATS = ("weight_norm", "update_norm")
"""The sampled per-parameter statistics of the weights."""

SAMPLED_STATS = ("moved", "momentum_cosine", "weight_cosine")
"""Further statistics that are sampled with the weights. None of them has to be known."""

UPDATE_STATS = ("update_norm", "weight_norm", "rms_ratio", "second_moment_norm")
SENTINEL_STATS = ("position", *UPDATE_STATS)
"""The per-parameter statistics of the update as the optimizer computes it, in the order in which they are stored."""

FROZEN_KEY = "frozen_parameters"
"""Where the table meta has the names of parameters that an optimizer holds and the script froze, as a JSON list."""

EMBEDDINGS_KEY = "embeddings"
"""Where the table meta has the names of the weights of embeddings, as a JSON list; a name alone need not tell them."""

VALIDATION_KEY = "validation_loss."
"""How the keys in the table meta begin that hold losses of validations, as JSON pairs of step and loss.

The second at which the first was logged follows, so that each attempt has an entry of its own."""

NOT_LOGGED = "not logged"
"""When norms were taken, in the table meta under ``moment``, of an imported history that has none."""

ACCUMULATION_STATS = ("micro_batches", "norm")
"""The statistics of a gradient while it is accumulated, in the order in which they are stored."""

MAGNITUDE_EXPONENTS = (-126, *range(-42, 17, 2))
"""The powers of two between the bins of entries' magnitudes. float16 has its smallest subnormal at 2^-24, its smallest
normal number at 2^-14 and its largest below 2^16; bfloat16 and float32 have their smallest normal number at 2^-126."""

MAGNITUDE_BINS = ("below", *(f"2^{exponent}" for exponent in MAGNITUDE_EXPONENTS), "zero", "inf", "nan")
"""32 bins of magnitudes, each named by its lower end, and what has no place among them."""

MAGNITUDE_STATS = ("filled", "cells")
"""The counts of entries by magnitude as they are stored."""

MOST_COUNTED = 2**16 - 1
"""Entries of a parameter that are counted by magnitude, at most."""

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From the least to the gravest."""

KINDS: tuple[Kind, ...] = get_args(Kind)

CLIP_FAULTS: tuple[ClipFault, ...] = get_args(ClipFault)
"""Why a clip call did not act as it was meant to on the gradient that the optimizer consumed."""

ORIGINS: tuple[Origin, ...] = get_args(Origin)
"""Where a fault came from: the loss (input, target or forward pass), the backward pass, or the weights."""

EVENT_KEYS = [
    "step",
    "kind",
    "severity",
    "parameter",
    "observed",
    "limit",
    "message",
    "optimizer",
    "attempt",
    "until",
    "origin",
    "rank",
]
"""The keys of an event in the JSON contract, in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterInfo:
    """The name, shape and dtype of a parameter, which training does not change."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedParameters:
    """Parameters that joined an optimizer of the run, at positions ``first``, ``first`` + 1, ... of its blobs."""

    optimizer: str
    first: int
    infos: tuple[ParameterInfo, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerStats:
    """The gradient of every parameter of one optimizer at one step, before clipping.

    Each array is float32 with one entry for each parameter, in the order of ``parameters``. A parameter
    without a gradient (``p.grad is None``) is NaN in all of them. If a gradient contains NaN, its norm is NaN
    and its ``nonfinite`` at least 1; `present` distinguishes the two. A statistic that was not recorded is
    None.
    """

    parameters: tuple[ParameterInfo, ...]
    norm: Floats
    abs_max: Floats | None = None
    nonfinite: Floats | None = None
    zeros: Floats | None = None

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which parameters had a gradient.

        >>> stats = LayerStats(
        ...     parameters=tuple(ParameterInfo(name=n, shape=(1,)) for n in "ab"),
        ...     norm=np.array([np.nan, np.nan], np.float32),
        ...     nonfinite=np.array([1, np.nan], np.float32),
        ... )
        >>> stats.present.tolist()
        [True, False]
        """
        if self.nonfinite is None:
            return ~np.isnan(self.norm)
        return ~np.isnan(self.nonfinite)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightStats:
    """Sampled: the L2 norm of each parameter before the step, and of the change that the step made to it.

    The other statistics are None if they were not sampled, and NaN for a parameter for which they are unknown.

    Attributes:
        moved: share of the entries that the step changed, from 0 to 1.
        momentum_cosine: cosine of the angle between the gradient and the optimizer's momentum after the step.
        weight_cosine: cosine of the angle between the gradient and the weights before the step.
    """

    weight_norm: Floats
    update_norm: Floats
    moved: Floats | None = None
    momentum_cosine: Floats | None = None
    weight_cosine: Floats | None = None

    @property
    def update_ratio(self) -> Floats:
        """update_norm / weight_norm; NaN where the weights are all zero.

        >>> WeightStats(
        ...     weight_norm=np.array([2, 0], np.float32), update_norm=np.array([1, 1], np.float32)
        ... ).update_ratio.tolist()
        [0.5, nan]
        """
        return _ratio(self.update_norm, self.weight_norm)


def _ratio(update_norm: Floats, weight_norm: Floats) -> Floats:
    ratio = np.full_like(weight_norm, np.nan)
    with np.errstate(invalid="ignore", over="ignore"):  # of infinite weights it is NaN
        np.divide(update_norm, weight_norm, out=ratio, where=weight_norm != 0)
    return ratio


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UpdateStats:
    """The update of every parameter as the optimizer computes it, read from its state right after the step.

    Each array is float32 with one entry for each parameter; NaN if a parameter had no gradient or its update
    can't be computed. In low-precision weights the actual change can be smaller: see
    `WeightStats.update_norm`.

    Attributes:
        update_norm: L2 norm of the update, weight decay included.
        weight_norm: L2 norm of the weights before the step.
        rms_ratio: RMS_t = sqrt(mean(g^2 / max(v, eps^2))) with the optimizer's own bias-corrected second
            moment v (Wortsman et al. 2023, arXiv:2304.13013, section 3); None if it has none.
        second_moment_norm: L2 norm of sqrt(v); None if the optimizer has none.
    """

    update_norm: Floats
    weight_norm: Floats
    rms_ratio: Floats | None = None
    second_moment_norm: Floats | None = None

    @property
    def update_ratio(self) -> Floats:
        """update_norm / weight_norm; NaN where the weights are all zero.

        >>> ones = np.ones(1, np.float32)
        >>> UpdateStats(update_norm=ones, weight_norm=4 * ones).update_ratio.tolist()
        [0.25]
        """
        return _ratio(self.update_norm, self.weight_norm)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SentinelStats:
    """The updates of a few parameters at a step at which those of the others were not read: float32, one entry each.

    Attributes:
        position: which parameters, by their position in `LayerStats.parameters`, ascending.
        update_norm, weight_norm, rms_ratio, second_moment_norm: as in `UpdateStats`.
    """

    position: Floats
    update_norm: Floats
    weight_norm: Floats
    rms_ratio: Floats | None = None
    second_moment_norm: Floats | None = None

    def spread(self, stat: str, length: int) -> Floats:
        """One of `UPDATE_STATS` of all ``length`` parameters, NaN where it was not read.

        >>> two = np.array([1, 3], np.float32)
        >>> SentinelStats(position=two, update_norm=2 * two, weight_norm=two).spread("update_norm", 4).tolist()
        [nan, 2.0, nan, 6.0]
        """
        values, table = getattr(self, stat), np.full(length, np.nan, np.float32)
        if values is not None:
            table[self.position.astype(int)] = values
        return table


RANK_STATS = ("norm", "nonfinite", "differing", "differs_in", "before_reduction")
"""The statistics of each rank at a step, in the order in which they are stored."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RankStats:
    """The gradients of each rank of a distributed training at a step: float32, one entry for each rank.

    NaN if nothing was received from a rank.

    Attributes:
        norm: total norm of the rank's own gradient before the reduction over ranks. If that is unknown, of
            the gradient it holds at the step: a copy of the whole, or its part of sharded parameters.
        nonfinite: entries of the same gradient that are NaN or infinite.
        differing: number of parameters whose gradient should equal that of the other ranks and does not.
        differs_in: position of the first of these parameters; NaN if there is none.
        before_reduction: 1 if the norm was taken before the reduction, else 0.
    """

    norm: Floats
    nonfinite: Floats
    differing: Floats
    differs_in: Floats
    before_reduction: Floats

    def dominant_rank(self, times: float) -> int | None:
        """The rank whose own gradient norm is more than ``times`` that of every other rank; None if there is none.

        >>> nothing = np.zeros(3, np.float32)
        >>> others = dict(nonfinite=nothing, differing=nothing, differs_in=nothing, before_reduction=nothing + 1)
        >>> RankStats(norm=np.array([1, 9, 2], np.float32), **others).dominant_rank(3)
        1
        """
        ordered = np.sort(self.norm[np.isfinite(self.norm)])
        if len(ordered) < 2 or not (self.before_reduction == 1).all() or not ordered[-1] > times * ordered[-2]:
            return None
        return int(np.flatnonzero(self.norm == ordered[-1])[0])

    def not_finite(self) -> list[int]:
        """The ranks whose own gradient had a NaN or infinite entry before the reduction spread it."""
        return np.flatnonzero((self.nonfinite > 0) & (self.before_reduction == 1)).tolist()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AccumulationStats:
    """The gradient of a step while it was accumulated over micro-batches: float32, one entry for each time it was read.

    Attributes:
        micro_batches: how many micro-batches the gradient held then.
        norm: its total norm then, of the unscaled gradient before clipping.
    """

    micro_batches: Floats
    norm: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MagnitudeStats:
    """Sampled: how many entries of each gradient have which magnitude. Only bins that hold an entry are kept.

    Attributes:
        filled: how many bins of each parameter hold an entry; NaN if it had no gradient.
        cells: each of these bins as its position in `MAGNITUDE_BINS` times 65536, plus the number of entries in it:
            those of the first parameter, ascending, then those of the next.
    """

    filled: Floats
    cells: Floats

    @staticmethod
    def of(counts: NDArray[Any]) -> MagnitudeStats:
        """The counts of `MAGNITUDE_BINS` of each parameter, (parameters, bins); NaN where there is no gradient.

        >>> counts = np.zeros((1, len(MAGNITUDE_BINS)))
        >>> counts[0, 2] = 7
        >>> MagnitudeStats.of(counts).cells.tolist() == [2 * 65536 + 7]
        True
        """
        is_absent = np.isnan(counts.sum(axis=1, dtype=np.float64))
        places = np.flatnonzero(counts > 0)  # far quicker than `np.nonzero` of a table
        owners, bins = np.divmod(places, counts.shape[1])
        filled = np.bincount(owners, minlength=len(counts)).astype(np.float32)
        filled[is_absent] = np.nan
        return MagnitudeStats(filled=filled, cells=(bins * _CELL + counts[owners, bins]).astype(np.float32))

    def counts(self) -> Floats | None:
        """The way back from `of`; None if they hold something that it does not make."""
        present = np.nan_to_num(self.filled)
        if not _are_whole(present, len(MAGNITUDE_BINS)) or present.sum() != len(self.cells):
            return None
        if not _are_whole(self.cells, _CELL * len(MAGNITUDE_BINS) - 1):
            return None
        cells = self.cells.astype(np.int64)
        owners = np.repeat(np.arange(len(present)), present.astype(np.int64))
        places = owners * len(MAGNITUDE_BINS) + cells // _CELL
        if (np.diff(places) <= 0).any() or (cells % _CELL == 0).any():
            return None
        table = np.zeros((len(present), len(MAGNITUDE_BINS)), np.float32)
        table.reshape(-1)[places] = cells % _CELL
        table[np.isnan(self.filled)] = np.nan
        return table


_CELL = MOST_COUNTED + 1


def _are_whole(values: NDArray[np.float32], most: int) -> bool:
    with np.errstate(invalid="ignore"):
        return bool(((values >= 0) & (values <= most) & (values == np.floor(values))).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One attempt of one optimizer to update its weights.

    Norms are those of the gradient that the optimizer would consume, before clipping. None means "not
    known" and is never zero; NaN means NaN, but for a total norm without a non-finite entry: it is not known then.

    >>> record = StepRecord(step=3, total_norm=5.0, max_norm=1.0, clip_coef=0.2)
    >>> record.clipped, record.loss
    (True, None)
    """

    step: int
    optimizer: str = "0"
    attempt: int = 0
    wall_time: float = 0.0  # seconds since the epoch
    total_norm: float = math.nan  # NaN where nonfinite is 0: not known
    max_norm: float | None = None  # the threshold of norm clipping in force
    norm_type: float | None = None  # order of the norm that clips; None: 2
    clip_value: float | None = None  # the threshold of value clipping in force
    clip_coef: float = 1.0  # the factor that the gradients were multiplied by
    cut_entries: int | None = None  # entries that value clipping cut
    nonfinite: int = 0  # entries that are NaN or infinite, over all parameters
    loss: float | None = None
    learning_rates: tuple[float, ...] = ()
    loss_scale: float | None = None
    skipped: bool = False  # the update did not happen
    update_norm: float | None = None  # L2 norm of the update that the optimizer computed, over all parameters
    weight_norm: float | None = None  # of the weights before the step, over the same parameters
    clip_fault: ClipFault | None = None
    layers: LayerStats | None = field(default=None, repr=False)
    weights: WeightStats | None = field(default=None, repr=False)
    updates: UpdateStats | None = field(default=None, repr=False)
    ranks: RankStats | None = field(default=None, repr=False)  # of a distributed training
    accumulation: AccumulationStats | None = field(default=None, repr=False)  # of several micro-batches
    magnitudes: MagnitudeStats | None = field(default=None, repr=False)
    sentinels: SentinelStats | None = field(default=None, repr=False)

    @property
    def clipped(self) -> bool:
        """Whether clipping changed the gradient; a NaN coefficient changed it too.

        >>> StepRecord(step=0, clip_coef=0.5).clipped, StepRecord(step=0).clipped
        (True, False)
        """
        return not self.clip_coef >= 1.0 or bool(self.cut_entries)

    @property
    def norm_is_known(self) -> bool:
        """Whether the total norm was measured; an imported history may have losses alone.

        >>> StepRecord(step=0, loss=2.0).norm_is_known, StepRecord(step=0, nonfinite=1).norm_is_known
        (False, True)
        """
        return bool(self.nonfinite) or not math.isnan(self.total_norm)

    @property
    def norm_overflowed(self) -> bool:
        """Whether clipping set all gradients to 0, because every entry was finite but their norm was not.

        `torch.nn.utils.clip_grad_norm_` adds the squares in the gradient's own precision. If the sum
        overflows, it multiplies finite gradients by ``max_norm / inf``, which is 0.
        """
        if self.nonfinite:
            return False
        return math.isinf(self.total_norm) or (self.clip_coef == 0.0 and bool(self.max_norm))


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A fault that a detector found: where, how severe, and which number crossed which limit.

    One fault is one event. A detector may return an event again: with a higher severity while the fault
    lasts, with its end, or with a lower severity once the training has recovered. Events with equal `key`
    are the same, and the last one counts (`merged`).

    Attributes:
        step: the step at which it began.
        kind: what was found; the glossary explains each.
        severity: info, warning or critical.
        message: the event as a sentence.
        parameter: the name of the parameter where it began; None: all alike, or not known.
        observed: the number that crossed ``limit``, in its units; None: the kind has no such number.
        limit: None, too, if there is none.
        optimizer: the name of the optimizer.
        attempt: the number of the process that recorded the step, from 0.
        until: the last step at which it was seen; None: not over, or without duration.
        origin: what a non-finite value came from; None: not known.
        rank: the rank where it began; None: a single process, or not known.

    >>> event = Event(step=137, kind="spike", severity="warning", message="10 times its recent level", observed=10.0)
    >>> event.as_dict()["step"], event.parameter
    (137, None)
    """

    step: int
    kind: Kind
    severity: Severity
    message: str
    parameter: str | None = None
    observed: float | None = None
    limit: float | None = None
    optimizer: str = "0"
    attempt: int = 0
    until: int | None = None
    origin: Origin | None = None
    rank: int | None = None

    @property
    def key(self) -> tuple[int, str, str, int, str | None]:
        """Events with the same key are the same event."""
        return (self.attempt, self.optimizer, self.kind, self.step, self.parameter)

    def as_dict(self) -> dict[str, Any]:
        """Return the event as a dict, in the order of the JSON contract."""
        return {key: getattr(self, key) for key in EVENT_KEYS}


def small(record: StepRecord) -> StepRecord:
    """The record without the statistics of its parameters and ranks."""
    return replace(record, layers=None, weights=None, ranks=None)


def event_at(
    record: StepRecord,
    *,
    kind: Kind,
    severity: Severity,
    message: str,
    parameter: str | None = None,
    observed: float | None = None,
    limit: float | None = None,
    origin: Origin | None = None,
    rank: int | None = None,
) -> Event:
    """Return an event at the step, the optimizer and the attempt of a record.

    >>> event_at(StepRecord(step=7, attempt=1), kind="spike", severity="info", message="").key
    (1, '0', 'spike', 7, None)
    """
    return Event(
        step=record.step,
        kind=kind,
        severity=severity,
        message=message,
        parameter=parameter,
        observed=observed,
        limit=limit,
        optimizer=record.optimizer,
        attempt=record.attempt,
        origin=origin,
        rank=rank,
    )


def merged(events: Iterable[Event]) -> list[Event]:
    """Return each event once, in its last version, in the order of first versions.

    >>> begun = Event(step=3, kind="spike", severity="warning", message="")
    >>> over = Event(step=3, kind="spike", severity="warning", message="", until=5)
    >>> [event.until for event in merged([begun, over])]
    [5]
    """
    latest: dict[tuple[object, ...], Event] = {}
    for event in events:
        latest[event.key] = event
    return list(latest.values())


def total(norms: NDArray[np.float64]) -> float:
    """Return the L2 norm of all gradients from the norm of each; NaN if one of them is NaN.

    The norms are first divided by the largest, so the sum overflows only if the result itself does.

    >>> f"{total(np.array([3e200, 4e200])):.6g}"
    '5e+200'
    """
    largest = float(norms.max(initial=0.0))
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    return float(largest * np.sqrt(np.square(norms / largest).sum()))
