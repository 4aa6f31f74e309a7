"""Loops that call no optimizer: it steps within the backward pass, or the loop updates the weights itself."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer

from gradwatch.measure import Measurement, measure
from gradwatch.recording.clip_audit import add_clipping, see_call
from gradwatch.recording.hooks import ClipCall
from gradwatch.recording.loops import Loop
from gradwatch.recording.losses import BackwardLoss
from gradwatch.recording.pending import PendingStep, learning_rates_of
from gradwatch.recording.tracker import StepTracker
from gradwatch.recording.update_gate import UpdateGate


class WithinBackward(Loop):
    """Each optimizer has one parameter and steps within the backward pass, so that no gradient outlives it.

    `Tensor.register_post_accumulate_grad_hook` calls them. At no moment are all gradients there, so nothing
    can clip them together; each is measured at its own step, and one backward is one step of the record.
    """

    steps_within_backward = True

    def __init__(self, tracker: StepTracker, optimizers: Sequence[Optimizer], gate: UpdateGate) -> None:
        self.tracker, self._members = tracker, optimizers
        self._gate = gate
        self._found: dict[int, Measurement] = {}
        self._positions: dict[int, int] = {}
        self._has_stepped = False

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        return self._members

    def before_step(self, optimizer: Optimizer, has_closure: bool, before_reduction: tuple[Measurement, ...]) -> None:
        """Measure the gradient that the optimizer is about to take."""
        self._has_stepped = True
        self._gate.say_not_applied("optimizers step within the backward, before all gradients are there")
        if not self.tracker.is_due:
            return
        if not self._positions:
            self._positions = {id(p): at for at, p in enumerate(self.tracker.parameters.parameters) if p is not None}
        (parameter,) = optimizer.param_groups[0]["params"]
        self._found[self._positions[id(parameter)]] = measure([parameter.grad], self.tracker.stats())

    def after_backward(self, losses: Sequence[BackwardLoss], *, is_ours: bool) -> None:
        """All that were to step have stepped."""
        if not self._has_stepped:
            return
        self._has_stepped = False
        tracker = self.tracker
        tracker.gradients.count_backward()
        tracker.losses.add(losses if is_ours else ())
        if not self._found:
            tracker.finish_unrecorded()
            return
        measured = Measurement.of_positions(self._found, len(tracker.infos), tracker.stats())
        self._found = {}
        rates = learning_rates_of(tracker.optimizer, together=True)
        tracker.finish(PendingStep(step=tracker.step, measured=measured, learning_rates=rates))

    def before_clip(self, call: ClipCall) -> None:
        """Too late: the optimizers have stepped and let go of their gradients, or are about to make them."""
        if self.tracker.held is not None:
            self.tracker.held.note_fault("no-gradients")


class WithoutOptimizer(Loop):
    """The loop updates the weights itself, for example by ``p.data.add_(p.grad, alpha=-lr)``.

    A step is made at its clip call; further calls before the next backward belong to it.
    """

    def __init__(self, tracker: StepTracker, gate: UpdateGate) -> None:
        self.tracker = tracker
        self._gate = gate
        self._is_further_call = False

    def before_backward(self, roots: Sequence[Tensor]) -> None:
        self._notice_drop()
        self.tracker.gradients.before_backward()

    def after_backward(self, losses: Sequence[BackwardLoss], *, is_ours: bool) -> None:
        if is_ours and self.tracker.gradients.after_backward():
            self.tracker.losses.add(losses)

    def zeroed(self, ids: set[int]) -> None:
        self.tracker.gradients.zeroed(ids)

    def before_clip(self, call: ClipCall) -> None:
        self._notice_drop()
        tracker = self.tracker
        self._is_further_call = tracker.gradients.are_consumed()
        if self._is_further_call:
            return
        self._gate.say_not_applied("there is no optimizer: the loop itself clips and updates the weights")
        tracker.release()
        if tracker.is_due and not tracker.audit.begin(call, tracker.gradients, tracker.held):
            gradients = tracker.parameters.gradients()
            see_call(call, tracker.settle(gradients), tracker.parameters, gradients)

    def after_clip(self, call: ClipCall, total_norm: Tensor | None) -> None:
        tracker = self.tracker
        if self._is_further_call:
            add_clipping(tracker.held, call, total_norm)
            tracker.gradients.consume()
        elif tracker.pending is not None:
            add_clipping(tracker.pending, call, total_norm)
            tracker.finish(tracker.pending)
        elif not tracker.is_due:
            tracker.finish_unrecorded()

    def clip_failed(self) -> None:
        self.tracker.skip()

    def abandon(self) -> None:
        self.tracker.skip()

    def _notice_drop(self) -> None:
        """Gradients that were let go of take their losses along."""
        if self.tracker.gradients.take_dropped():
            self.tracker.losses.drop()
