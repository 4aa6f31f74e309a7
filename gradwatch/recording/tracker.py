"""One optimizer: its current step, and the facts known about that step.

A step goes through these states. `StepTracker.pending` has it up to the update, `StepTracker.held`
from there until the next step begins, so that its loss can still be logged.

    none ──settle──▶ measured ──after_clip──▶ clipped
                       ▲ │                      │
                       │ ├──────── settle ◀─────┤      the gradients changed: they are measured again
                       └─┘                      │
                         ├──────── finish ──────┼──▶ updated ─┐
                         ├──────── skip ────────┼──▶ skipped ─┴──▶ held ──release──▶ put
                         │                      │       ▲
                         └─ gradients dropped ──┴──▶ dropped
                                                        └──▶ none, if it was the first of two passes of one update

`settle` measures the gradients unless they are those measured before. `finish` holds a step back and
`skip` makes an attempt of it whose update did not happen; `resolve_dropped` decides what dropped gradients were,
once new ones come. `gradwatch.recording.loops` decides when each of
these calls happens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch.measure import ZEROS_EVERY, Measurement, measure
from gradwatch.record import ParameterInfo
from gradwatch.recording.clip_audit import ClipAudit, fault_of_change
from gradwatch.recording.gradients import GradientHistory
from gradwatch.recording.losses import BackwardLoss, Number, StepLosses
from gradwatch.recording.options import RecordingOptions
from gradwatch.recording.parameters import ParameterTable, class_of, settings_of
from gradwatch.recording.pending import PendingStep, learning_rates_of
from gradwatch.recording.sink import Beginning, NullSink, StepSink

if TYPE_CHECKING:
    from gradwatch.distributed import ParameterPart


class OnMeasured(Protocol):
    """Is told of the gradients of the next update."""

    def __call__(self, tracker: StepTracker, measured: Measurement, gradients: Sequence[Tensor | None]) -> None: ...


class StepTracker:
    """Counts the steps of one optimizer, and has the pending one and the one that is held back.

    Attributes:
        name: of the optimizer in the run.
        step: the number of the next step.
        first_step: the number of the first step of this recording.
        pending: the step that is measured and whose update has not happened.
        held: the step made last, until the next one begins.
        on_measured: told of gradients that were measured, if their update has not happened.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        optimizer: Optimizer,
        options: RecordingOptions,
        sink: StepSink,
        beginning: Beginning,
    ) -> None:
        self.name = name
        self.step = self.first_step = beginning.step
        self.pending: PendingStep | None = None
        self.held: PendingStep | None = None
        self.parameters = ParameterTable(model, optimizer, beginning.stored)
        self.gradients = GradientHistory(self.parameters)
        self.losses = StepLosses()
        self.audit = ClipAudit()
        self.on_measured: OnMeasured | None = None
        self._sink = sink
        self._options = options

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer whose steps these are.

        Raises:
            ReferenceError: the script has let go of it.
        """
        optimizer = self.parameters.optimizer
        if optimizer is None:
            raise ReferenceError(f"the optimizer {self.name} is gone")
        return optimizer

    # ------------------------------------------------------------------------ what a sink reads

    @property
    def optimizer_class(self) -> str:
        return class_of(self.optimizer)

    @property
    def settings(self) -> dict[str, Any]:
        return settings_of(self.optimizer)

    @property
    def infos(self) -> tuple[ParameterInfo, ...]:
        return self.parameters.infos

    @property
    def parts(self) -> Sequence[ParameterPart | None]:
        return self.parameters.parts

    @property
    def present(self) -> list[bool]:
        return self.parameters.present

    # ------------------------------------------------------------------------------- the step

    @property
    def is_due(self) -> bool:
        """Whether the next step is measured."""
        return self._options.is_measured and self.step % self._options.every == 0

    def stats(self) -> tuple[str, ...]:
        """The statistics of this step: zeros only now and then, where they need a read of their own."""
        wanted = self._options.stats
        if self.parameters.are_read_once or self.step // self._options.every % ZEROS_EVERY == 0:
            return wanted
        return tuple(name for name in wanted if name != "zeros")

    def follow_parameters(self) -> None:
        """Take in parameters that joined the optimizer, and leave out those that left it."""
        first = self.parameters.refresh()
        if first is not None:
            self._sink.join(self, first)

    def settle(
        self, gradients: Sequence[Tensor | None], *, at_clip: bool = False, is_updated: bool = False
    ) -> PendingStep:
        """The pending step of these gradients, which are measured again where they changed since they were.

        With ``is_updated`` their update has happened.
        """
        if self.pending is None or not self.pending.is_of(gradients):
            before = self.pending
            self.pending = PendingStep(
                step=self.step,
                measured=measure(gradients, self.stats()),
                made=self.gradients.first(),
                backwards=self.gradients.backwards,
            )
            self.gradients.measured()
            if self.on_measured is not None and not is_updated:
                self.on_measured(self, self.pending.measured, gradients)
            if before is not None:
                self.pending.was_clipped = before.was_clipped or bool(before.clippings)
                self.pending.clip_fault = fault_of_change(before, self.gradients, at_clip=at_clip)
        self.pending.learning_rates = learning_rates_of(self.optimizer)
        return self.pending

    def note_versions(self) -> None:
        """The loop goes on: a pending step whose gradients it changes from here on holds no more."""
        if self.pending is not None:
            self.pending.note_versions(self.parameters.gradients())

    def forget_partial(self) -> None:
        """A backward has added to the gradients since they were measured, and no step takes them.

        What is pending is not the gradient of the attempt, and nothing else was measured.
        """
        pending = self.pending
        if pending is not None and not pending.is_dropped and pending.backwards != self.gradients.backwards:
            self.pending = None

    def take_pending(self) -> PendingStep | None:
        """Return the pending step, and go on without one."""
        pending, self.pending = self.pending, None
        return pending

    def set_pending(self, pending: PendingStep | None) -> None:
        """Go on with another pending step."""
        self.pending = pending

    def finish(self, pending: PendingStep) -> None:
        """The update has happened: hold the step back until the next one, or its end."""
        logged, of_backward = self.losses.take()
        if pending.is_dropped:
            logged, of_backward = pending.losses + logged, pending.backward_losses
        self.losses.note_step(is_made=True)
        self._hold(pending, logged, of_backward)

    def finish_unrecorded(self) -> None:
        """The update of a step that is not due has happened."""
        self.losses.take()
        self.losses.note_step(is_made=True)
        self.pending = None
        self.step += 1
        self.gradients.consume()

    def skip(self, loss_scale: Tensor | None = None) -> None:
        """The pending step, if there is one, was an attempt whose update did not happen."""
        pending = self.pending
        if pending is None:
            return
        pending.skipped = True
        self.losses.note_step(is_made=not pending.is_dropped)
        if pending.is_dropped:
            self._hold(pending, pending.losses, pending.backward_losses)
        else:
            pending.loss_scale = loss_scale
            self._hold(pending, *self.losses.take())

    def resolve_dropped(self) -> None:
        """New gradients come: those dropped before were a skipped attempt, or the first of two passes.

        Two backward passes an update, as in sharpness-aware minimisation, move the weights between them.
        A batch that is left out moves none.
        """
        pending = self.pending
        if pending is None or not pending.is_dropped:
            return
        if pending.made is not None and pending.made.has_moved:
            self.losses.put_back(pending.losses)
            self.pending = None
        else:
            self.skip()

    def _hold(self, pending: PendingStep, logged: list[Number], of_backward: list[BackwardLoss]) -> None:
        self.release()
        pending.losses, pending.backward_losses = logged, of_backward
        pending.wall_time = time.time()
        self.held, self.pending = pending, None
        self.step += 1
        if not pending.is_dropped:
            self.gradients.consume()
        if self.losses.logs_before_step or not self._sink.takes_late_losses:
            self.release()
        else:
            self._sink.hold(pending, self)

    # ------------------------------------------------------------------------- what is held back

    def log(self, loss: Number) -> None:
        """Add a loss to the step made last, or to the next where the first came before its step."""
        held = self.held
        self.losses.note_order(has_held=held is not None)
        next_begun = self.pending is not None and (held is None or bool(held.losses))
        if self.losses.logs_before_step or next_begun:
            self.losses.log(loss)
        elif held is not None:
            held.losses.append(loss)
            self._sink.hold(held, self)

    def use_logged_losses(self) -> None:
        """The user logs a loss: only those count from the last step on, which is held back or was dropped."""
        self.losses.use_logged()
        last = self.pending if self.pending is not None and self.pending.is_dropped else self.held
        if last is not None:
            last.backward_losses = []

    def release(self) -> None:
        """Hand on the step that is held back."""
        held, self.held = self.held, None
        if held is not None:
            held.made = None
            held.to_host()
            self._sink.put(held, self)

    def record_nothing(self, *, is_measured: bool) -> None:
        """The recording has ended. What is still measured, to clip by it, goes nowhere."""
        self.pending = self.held = None
        self._sink = NullSink()
        self._options = self._options.unrecorded(is_measured=is_measured)
