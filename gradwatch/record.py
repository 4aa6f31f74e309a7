"""The vocabulary: what one optimizer step left behind, and what a detector found in it.

Everything upstream of this module makes these values, everything downstream reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Severity: TypeAlias = Literal["info", "warning", "critical"]

STATS = ("norm", "abs_max", "nonfinite", "zeros")
"""The per-parameter statistics of a gradient, in the order in which they are stored."""

WEIGHT_STATS = ("weight_norm", "update_norm")
"""The sampled per-parameter statistics of the weights."""

SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")

KINDS = (
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
    "resumed",
)


CLIP_FAULTS = (
    "before-backward",  # clipped, and then a backward added to the gradients
    "after-step",  # clipped when the optimizer had consumed the gradients
    "before-unscale",  # clipped while the gradients were multiplied by the loss scale
    "other-parameters",  # the optimizer's gradients are not those that were clipped
    "no-gradients",  # what was clipped had no gradient, before or at the step
    "no-parameters",  # clipped an empty list
    "micro-batch",  # clipped more than once while the gradients accumulated
)
"""Why a clip call did not do to the consumed gradient what it was meant to do."""

ORIGINS = ("loss", "backward", "weights")
"""Where a fault came from: with the loss (input, target or forward pass), within backward, or from the weights."""

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
    """What does not change about a parameter while it is trained."""

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

    Each array is float32 with one entry a parameter, in the order of ``parameters``. A parameter
    that had no gradient (``p.grad is None``) is NaN in all of them; one whose gradient holds NaN
    has a NaN norm and a ``nonfinite`` of at least 1, so the two can be told apart by `present`.
    A statistic that was not recorded is None.
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
    """Sampled: each parameter's L2 norm before the step and the L2 norm of what the step changed."""

    weight_norm: Floats
    update_norm: Floats

    @property
    def update_ratio(self) -> Floats:
        """update_norm / weight_norm; NaN where the weights are all zero.

        >>> WeightStats(
        ...     weight_norm=np.array([2, 0], np.float32), update_norm=np.array([1, 1], np.float32)
        ... ).update_ratio.tolist()
        [0.5, nan]
        """
        ratio = np.full_like(self.weight_norm, np.nan)
        np.divide(self.update_norm, self.weight_norm, out=ratio, where=self.weight_norm != 0)
        return ratio


RANK_STATS = ("norm", "nonfinite", "differing", "differs_in", "before_reduction")
"""What is known of each process at a step, in the order in which it is stored."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RankStats:
    """What each process had at a step, of a training by several: float32, one entry a rank.

    NaN where a rank was not heard.

    Attributes:
        norm: total norm of its own gradient before the reduction over ranks, else of what it holds
            of the gradient at the step: all of it where ranks hold copies, a part where they share.
        nonfinite: likewise, entries that are NaN or infinite.
        differing: parameters whose gradient is not the one that the other ranks have, though it should be.
        differs_in: position of the first of these parameters; NaN where there is none.
        before_reduction: 1 where the norm is of before the reduction, else 0.
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

    loudest = dominant_rank  # its name before 0.2

    def not_finite(self) -> list[int]:
        """The ranks whose own gradient had a NaN or an infinity before it reached all others."""
        return np.flatnonzero((self.nonfinite > 0) & (self.before_reduction == 1)).tolist()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One attempt of one optimizer to update its weights.

    Norms are of the gradient that the optimizer would consume, before clipping. None means "not
    known" and is never zero; NaN means NaN.
    """

    step: int
    optimizer: str = "0"
    attempt: int = 0
    wall_time: float = 0.0  # seconds since the epoch
    total_norm: float = math.nan
    max_norm: float | None = None  # the threshold of norm clipping in force
    norm_type: float | None = None  # of the clipping, where it is not 2
    clip_value: float | None = None  # the threshold of value clipping in force
    clip_coef: float = 1.0  # the factor that the gradients were multiplied by
    cut_entries: int | None = None  # entries that value clipping cut
    nonfinite: int = 0  # entries that are NaN or infinite, over all parameters
    loss: float | None = None
    learning_rates: tuple[float, ...] = ()
    loss_scale: float | None = None
    skipped: bool = False  # the update did not happen
    clip_fault: str | None = None  # one of CLIP_FAULTS
    layers: LayerStats | None = field(default=None, repr=False)
    weights: WeightStats | None = field(default=None, repr=False)
    ranks: RankStats | None = field(default=None, repr=False)  # of a training by several processes

    @property
    def clipped(self) -> bool:
        """Whether clipping changed the gradient; a NaN coefficient changed it too.

        >>> StepRecord(step=0, clip_coef=0.5).clipped, StepRecord(step=0).clipped
        (True, False)
        """
        return not self.clip_coef >= 1.0 or bool(self.cut_entries)

    @property
    def norm_overflowed(self) -> bool:
        """Every entry is finite and yet the norm that clipped was not: all gradients became 0.

        `torch.nn.utils.clip_grad_norm_` adds the squares in the gradient's own precision. Where
        the sum overflows, it multiplies finite gradients by ``max_norm / inf``, which is 0.
        """
        if self.nonfinite:
            return False
        return math.isinf(self.total_norm) or (self.clip_coef == 0.0 and bool(self.max_norm))


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a detector found: where, how bad, and the number that crossed which line.

    One fault is one event. While it lasts a detector may give the event again, worse or with its
    end; events with equal `key` are one, and the last given stands (`merged`).
    """

    step: int
    kind: str
    severity: Severity
    message: str
    parameter: str | None = None
    observed: float | None = None
    limit: float | None = None
    optimizer: str = "0"
    attempt: int = 0
    until: int | None = None  # the last step at which it was seen; None: not over, or no matter of time
    origin: str | None = None  # one of ORIGINS; None: not known
    rank: int | None = None  # of the process where it began; None: one process, or not known

    @property
    def key(self) -> tuple[int, str, str, int, str | None]:
        """What makes two events one."""
        return (self.attempt, self.optimizer, self.kind, self.step, self.parameter)

    def as_dict(self) -> dict[str, Any]:
        """The event in the order of the JSON contract."""
        return {key: getattr(self, key) for key in EVENT_KEYS}


def merged(events: Iterable[Event]) -> list[Event]:
    """Each event once, as it was given last, in the order in which they began to be given.

    >>> begun = Event(step=3, kind="spike", severity="warning", message="")
    >>> over = Event(step=3, kind="spike", severity="warning", message="", until=5)
    >>> [event.until for event in merged([begun, over])]
    [5]
    """
    latest: dict[tuple[object, ...], Event] = {}
    for event in events:
        latest[event.key] = event
    return list(latest.values())
