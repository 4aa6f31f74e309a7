"""What happens between two updates of an optimizer that the loop steps, with or without a closure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from gradwatch.recording.losses import BackwardLoss
from gradwatch.recording.pending import PendingStep
from gradwatch.recording.tracker import StepTracker


class Update(Protocol):
    """How the gradients of one update come to be. It is passed the tracker, which alone keeps the pending step.

    Attributes:
        makes_gradients: whether the step makes them, after it has begun.
    """

    makes_gradients: bool

    def gradients_dropped(self, tracker: StepTracker, losses: list[BackwardLoss], loss_scale: Tensor | None) -> None:
        """The gradients were let go of; these losses had made them."""
        ...

    def gradients_made(self, tracker: StepTracker) -> None:
        """New gradients are there, or are about to be measured."""
        ...

    def end(self, tracker: StepTracker, gradients: Callable[[], Sequence[Tensor | None]]) -> PendingStep:
        """The update has happened; return its step, measured of the gradients as they are now if it was not before."""
        ...

    def interrupted(self, tracker: StepTracker, loss_scale: Tensor | None) -> None:
        """The update has not ended, and another begins or the loop has ended."""
        ...


class PlainUpdate:
    """The loop makes the gradients and then calls `optimizer.step`."""

    makes_gradients = False

    def gradients_dropped(self, tracker: StepTracker, losses: list[BackwardLoss], loss_scale: Tensor | None) -> None:
        tracker.forget_partial()
        if tracker.pending is not None:
            tracker.pending.drop(tracker.losses.take_logged(), losses, loss_scale)

    def gradients_made(self, tracker: StepTracker) -> None:
        tracker.resolve_dropped()

    def end(self, tracker: StepTracker, gradients: Callable[[], Sequence[Tensor | None]]) -> PendingStep:
        return tracker.pending or tracker.settle(gradients(), is_updated=True)

    def interrupted(self, tracker: StepTracker, loss_scale: Tensor | None) -> None:
        """What is pending may still be updated."""


class ClosureUpdate:
    """`optimizer.step` calls a closure, which makes the gradients, perhaps several times.

    The gradients of the last evaluation are those that the update takes. What was measured before the
    step began holds only if the closure calls no backward.
    """

    makes_gradients = True

    def __init__(self, before: PendingStep | None, backwards: int) -> None:
        """Begin.

        Args:
            before: what was measured before the step began.
            backwards: the backward passes so far.
        """
        self._before, self._backwards = before, backwards

    def gradients_dropped(self, tracker: StepTracker, losses: list[BackwardLoss], loss_scale: Tensor | None) -> None:
        tracker.set_pending(None)

    def gradients_made(self, tracker: StepTracker) -> None:
        if self._before is not None and tracker.gradients.backwards == self._backwards:
            tracker.set_pending(self._before)
            self._before = None

    def end(self, tracker: StepTracker, gradients: Callable[[], Sequence[Tensor | None]]) -> PendingStep:
        self.gradients_made(tracker)
        if tracker.pending is not None:
            return tracker.pending
        pending = tracker.settle(gradients(), is_updated=True)
        if self._before is not None and self._before.clippings:
            pending.note_fault("before-backward")
        return pending

    def interrupted(self, tracker: StepTracker, loss_scale: Tensor | None) -> None:
        """The closure raised: what it clipped was an attempt."""
        tracker.losses.end_closure()
        tracker.skip(loss_scale)
