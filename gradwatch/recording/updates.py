"""What happens between two updates of an optimizer that the loop steps, with or without a closure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from gradwatch.recording.losses import Number
from gradwatch.recording.pending import PendingStep
from gradwatch.recording.tracker import StepTracker


class Update(Protocol):
    """How the gradients of one update come to be.

    Attributes:
        makes_gradients: whether the step makes them, after it has begun.
    """

    makes_gradients: bool

    def gradients_dropped(self, losses: list[Number], loss_scale: Tensor | None) -> None:
        """The gradients were let go of; these losses had made them."""
        ...

    def gradients_made(self) -> None:
        """New gradients are there, or are about to be measured."""
        ...

    def end(self, gradients: Callable[[], Sequence[Tensor | None]]) -> PendingStep:
        """The update has happened; return its step, measured of the gradients as they are now if it was not before."""
        ...

    def interrupted(self, loss_scale: Tensor | None) -> None:
        """The update has not ended, and another begins or the loop has ended."""
        ...


class PlainUpdate:
    """The loop makes the gradients and then calls `optimizer.step`."""

    makes_gradients = False

    def __init__(self, tracker: StepTracker) -> None:
        self._tracker = tracker

    def gradients_dropped(self, losses: list[Number], loss_scale: Tensor | None) -> None:
        self._tracker.forget_partial()
        if self._tracker.pending is not None:
            self._tracker.pending.drop(self._tracker.losses.take_logged(), losses, loss_scale)

    def gradients_made(self) -> None:
        self._tracker.resolve_dropped()

    def end(self, gradients: Callable[[], Sequence[Tensor | None]]) -> PendingStep:
        return self._tracker.pending or self._tracker.settle(gradients(), is_updated=True)

    def interrupted(self, loss_scale: Tensor | None) -> None:
        """What is pending may still be updated."""


class ClosureUpdate:
    """`optimizer.step` calls a closure, which makes the gradients, perhaps several times.

    The gradients of the last evaluation are those that the update takes. What was measured before the
    step began holds only if the closure calls no backward.
    """

    makes_gradients = True

    def __init__(self, tracker: StepTracker) -> None:
        self._tracker = tracker
        self._before, self._backwards = tracker.pending, tracker.gradients.backwards
        tracker.set_pending(None)
        tracker.losses.begin_closure()

    def gradients_dropped(self, losses: list[Number], loss_scale: Tensor | None) -> None:
        self._tracker.set_pending(None)

    def gradients_made(self) -> None:
        if self._before is not None and self._tracker.gradients.backwards == self._backwards:
            self._tracker.set_pending(self._before)
            self._before = None

    def end(self, gradients: Callable[[], Sequence[Tensor | None]]) -> PendingStep:
        self.gradients_made()
        if self._tracker.pending is not None:
            return self._tracker.pending
        pending = self._tracker.settle(gradients(), is_updated=True)
        if self._before is not None and self._before.clippings:
            pending.note_fault("before-backward")
        return pending

    def interrupted(self, loss_scale: Tensor | None) -> None:
        """The closure raised: what it clipped was an attempt."""
        self._tracker.losses.end_closure()
        self._tracker.skip(loss_scale)
