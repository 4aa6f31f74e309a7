"""The options of a recording and of acting on updates: plain values, checked by `attach`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

from gradwatch.record import STATS

if TYPE_CHECKING:
    from gradwatch.capture import CaptureOptions
    from gradwatch.sinks.targets import Destinations

Ranks: TypeAlias = bool | Literal["own", "collective"]
RecorderKind: TypeAlias = Literal["thread", "process"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingOptions:
    """The options of one recording, as `gradwatch.attach` documents them.

    Attributes:
        clip_only_unclipped: a policy leaves a step alone that the loop has clipped by norm.
        before_reduction: with ``ranks``, measure what each rank has before DistributedDataParallel reduces it.
        config: the hyperparameters as JSON, for the store.
        capture: which bad steps to keep; None for none.
        recorder: "process" makes the records and writes the run in a process of its own.
        destinations: what is fed beside the run; None for nothing.
        is_measured: False where the numbers of this process go nowhere and nothing acts on them.
    """

    stats: tuple[str, ...] = STATS
    every: int = 1
    weights_every: int = 50
    updates_every: int | None = None
    first_step: int | None = None
    total_steps: int | None = None
    stop_on: tuple[str, ...] = ()
    skip_nonfinite: bool = False
    clip_only_unclipped: bool = False
    tensorboard: bool = False
    ranks: Ranks = False
    before_reduction: bool = True
    is_measured: bool = True
    config: str | None = None
    capture: CaptureOptions | None = None
    recorder: RecorderKind = "thread"
    destinations: Destinations | None = None

    def for_later_optimizer(self) -> Self:
        """The options of an optimizer that joins the recording, which begins where the run has it."""
        return replace(self, first_step=None)

    def unrecorded(self, *, is_measured: bool) -> Self:
        """The options where the numbers go nowhere; they may be measured all the same, to clip by them."""
        return replace(self, is_measured=is_measured, every=1, weights_every=0, updates_every=0)
