"""How a training loop steps: what all kinds share, and the loop that calls an optimizer.

Each kind of loop is a small class that receives the calls of the hooks, and tells its tracker when a step is
measured, made or skipped. Whether a step has a closure is decided at each step
(`gradwatch.recording.updates`).
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradwatch.measure import Measurement, begin_reading, is_worth_reading_ahead, local_sizes
from gradwatch.recording.clip_audit import add_clipping, drops_update, see_call
from gradwatch.recording.hooks import ClipCall
from gradwatch.recording.losses import BackwardLoss
from gradwatch.recording.micro_batches import MicroBatches, is_one_of_many
from gradwatch.recording.pending import PendingStep, learning_rates_of
from gradwatch.recording.stepping import Nesting, Scaling, scaling_of
from gradwatch.recording.tracker import StepTracker
from gradwatch.recording.update_gate import UpdateGate
from gradwatch.recording.updates import ClosureUpdate, PlainUpdate, Update
from gradwatch.recording.weight_sampler import WeightSample, WeightSampler

_HOST = {torch.device("cpu")}


class Loop:
    """The protocol of all kinds: what the hooks tell of one optimizer. What a kind does not override, it ignores.

    Attributes:
        tracker: the steps of the optimizer.
        optimizers: those whose `step` is listened to.
        steps_within_backward: whether optimizers step while gradients are still being made.
        thread: that trains it; a backward of this thread alone may be writing its gradients.
    """

    tracker: StepTracker
    steps_within_backward: bool = False
    thread: int | None = None

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        return ()

    def before_backward(self, roots: Sequence[Tensor]) -> None:
        """A backward on these tensors begins, in the thread that trains."""

    def after_backward(self, losses: Sequence[BackwardLoss], *, is_ours: bool) -> None:
        """A backward that was called on these losses has ended, in the thread that trains or in another."""

    def zeroed(self, ids: set[int]) -> None:
        """The gradients of these parameters were set to zero in place."""

    def before_log(self) -> None:
        """The user is about to log a loss."""

    def before_any_clip(self) -> None:
        """The loop is about to clip gradients, perhaps of this optimizer."""

    def before_norm(self) -> None:
        """PyTorch is about to read some of these gradients, for the norm by which it clips them."""

    def before_clip(self, call: ClipCall) -> None:
        """The loop is about to clip some of these gradients."""

    def after_clip(self, call: ClipCall, total_norm: Tensor | None) -> None:
        """The call returned this norm, if it clips by one."""

    def clip_failed(self) -> None:
        """The call raised."""

    def before_unscale(self) -> None:
        """A GradScaler is about to unscale the gradients."""

    def after_unscale(self, scale: Tensor) -> None:
        """The gradients were divided by this scale."""

    def before_scaled_step(self, scale: Tensor) -> None:
        """A GradScaler of this scale is about to step, or not to."""

    def after_scaled_step(self) -> None:
        """The GradScaler has stepped, or not."""

    def before_step(self, optimizer: Optimizer, has_closure: bool, before_reduction: tuple[Measurement, ...]) -> None:
        """An optimizer is about to step; ``before_reduction`` is what this process had before DDP reduced it."""

    def after_step(self, optimizer: Optimizer) -> None:
        """The optimizer has stepped."""

    def gradients_ready(self) -> None:
        """The gradients are as the update will take them; within a closure only the loop knows."""

    def abandon(self) -> None:
        """The loop has ended, or raised: a step that was measured and not made was an attempt."""

    def protect(self) -> None:
        """Clip and skip as `attach` was asked to, without anything else of a recording."""

    def record_nothing(self) -> bool:
        """The recording has ended; return whether updates are still acted on."""
        self.tracker.record_nothing(is_measured=False)
        return False


class Stepped(Loop):
    """The loop calls `optimizer.step`."""

    def __init__(
        self, tracker: StepTracker, optimizers: Sequence[Optimizer], gate: UpdateGate, sampler: WeightSampler
    ) -> None:
        self.tracker = tracker
        self._references = [weakref.ref(one) for one in optimizers]
        self._gate, self._sampler = gate, sampler
        self._scaling, self._nesting = Scaling(), Nesting(optimizers)
        self._micro_batches = MicroBatches()
        self._update: Update = PlainUpdate()
        self._sample: WeightSample | None = None
        self._before_reduction: tuple[Measurement, ...] = ()

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        return [one for one in (reference() for reference in self._references) if one is not None]

    def before_backward(self, roots: Sequence[Tensor]) -> None:
        self._notice_drop()
        self.tracker.gradients.before_backward()
        self._micro_batches.before_backward(roots, is_first=self.tracker.gradients.are_none_or_zero)

    def after_backward(self, losses: Sequence[BackwardLoss], *, is_ours: bool) -> None:
        if is_ours and self.tracker.gradients.after_backward():
            self._update.gradients_made(self.tracker)
            self.tracker.losses.add(losses)
            self._micro_batches.after_backward(self.tracker.parameters.gradients, is_read=self.tracker.is_due)

    def zeroed(self, ids: set[int]) -> None:
        self.tracker.gradients.zeroed(ids)

    def before_log(self) -> None:
        """A loss that is logged after the gradients were let go of is not theirs."""
        self._notice_drop()

    def before_any_clip(self) -> None:
        """Take in parameters that joined since the last step, for after the call their gradients are clipped."""
        if self.tracker.parameters.are_more_or_fewer():
            self.tracker.release()
            self.tracker.follow_parameters()

    def before_norm(self) -> None:
        """Read the gradients at the same time, if `before_clip` is going to measure them."""
        tracker, parameters = self.tracker, self.tracker.parameters
        on_host = parameters.devices == _HOST and not parameters.is_sharded
        is_worth = on_host and is_worth_reading_ahead(parameters.entries)  # else gradients are looked at once less
        if is_worth and tracker.is_due and tracker.pending is None and parameters.are_read_once:
            begin_reading(parameters.gradients())

    def before_clip(self, call: ClipCall) -> None:
        tracker = self.tracker
        if tracker.is_due and not tracker.audit.begin(call, tracker.gradients, tracker.held):
            pending, gradients = self._settle(at_clip=True)
            see_call(call, pending, tracker.parameters, gradients)

    def after_clip(self, call: ClipCall, total_norm: Tensor | None) -> None:
        tracker = self.tracker
        if not tracker.audit.end(tracker.gradients):
            add_clipping(tracker.pending, call, total_norm)
            if not drops_update(call):
                tracker.note_versions()

    def clip_failed(self) -> None:
        self.tracker.audit.end(self.tracker.gradients)
        self._skip_step()

    def before_unscale(self) -> None:
        self._notice_drop()
        self._scaling.begin(self.tracker.pending, self.tracker.parameters.gradients())

    def after_unscale(self, scale: Tensor) -> None:
        """What was measured and clipped before was of scaled gradients; it need not be measured again."""
        pending = self._scaling.end(scale)
        if pending is not None:
            gradients = self.tracker.parameters.gradients()
            pending.unscale(scale)
            pending.note_versions(gradients)
            self._count(pending, gradients, None)

    def before_scaled_step(self, scale: Tensor) -> None:
        self._notice_drop()  # what was dropped has the scale of before
        self._scaling.begin_step(scale, self.tracker.step)

    def after_scaled_step(self) -> None:
        """A scaler that backs off does not call `optimizer.step`, so no hook of the optimizer tells of it."""
        if self._scaling.has_backed_off(self.tracker.step):
            if self.tracker.is_due:
                pending, _ = self._settle()
                self.tracker.audit.judge(pending)
            self._skip_step()
        self._scaling.forget()

    def before_step(self, optimizer: Optimizer, has_closure: bool, before_reduction: tuple[Measurement, ...]) -> None:
        tracker = self.tracker
        if not self._nesting.enter():
            if self._update.makes_gradients and not has_closure and tracker.is_due:
                self._take_gradients()  # a wrapper's closure has made them
            return
        tracker.release()
        tracker.follow_parameters()
        self._notice_drop()
        self._update.interrupted(self.tracker, self._scaling.scale)
        self._update, self._before_reduction = PlainUpdate(), before_reduction
        if not tracker.is_due:
            tracker.set_pending(None)
            return
        measured = None
        if has_closure:
            tracker.resolve_dropped()
            self._update = ClosureUpdate(tracker.take_pending(), tracker.gradients.backwards)
            tracker.losses.begin_closure()
        else:
            measured = self._take_gradients().measured
        parameters = tracker.parameters.parameters
        self._sample = self._sampler.before(tracker.step, measured, parameters, tracker.optimizer)

    def after_step(self, optimizer: Optimizer) -> None:
        if not self._nesting.leave():
            return
        tracker = self.tracker
        if tracker.is_due:
            pending = self._update.end(tracker, self._gate.gradients)
            if self._update.makes_gradients:
                self._count(pending, self._gate.gradients(), pending.scale)
            tracker.audit.judge(pending)
            if not pending.is_clipped_by_policy and self._update.makes_gradients:
                self._gate.say_not_clipped("a step with a closure makes its gradients within")
            self._gate.release(pending)
            optimizer, parameters = tracker.optimizer, tracker.parameters.parameters
            weights = self._sampler.after(self._sample, parameters, optimizer)
            pending.updates = self._sampler.updates(tracker.step, optimizer, parameters)
            pending.sentinels, pending.sentinel_sizes = self._sampler.sentinels(tracker.step, optimizer, parameters)
            if pending.updates is not None and is_one_of_many():
                pending.part_sizes = local_sizes(parameters)
            pending.accumulation = self._micro_batches.take()
            rates = pending.learning_rates or learning_rates_of(optimizer)
            pending.updated(rates, weights, self._scaling.scale, self._before_reduction)
            tracker.finish(pending)
        else:
            self._micro_batches.take()
            tracker.finish_unrecorded()
        self._update, self._sample, self._before_reduction = PlainUpdate(), None, ()
        self._scaling.forget()

    def gradients_ready(self) -> None:
        if self.tracker.is_due:
            pending, gradients = self._settle()
            self._act_on(pending, gradients)
            self.tracker.note_versions()

    def abandon(self) -> None:
        self._notice_drop()
        self._update.interrupted(self.tracker, self._scaling.scale)
        self.tracker.forget_partial()
        self.tracker.skip(self._scaling.scale)

    def protect(self) -> None:
        pending = self.tracker.pending
        if pending is not None and pending.is_clipped_by_policy:
            self._gate.skip_nonfinite(pending)
        elif self._gate.acts:
            self._gate.protect(self.tracker.step)

    def record_nothing(self) -> bool:
        self.tracker.record_nothing(is_measured=self._gate.acts)
        self._update, self._sample = PlainUpdate(), None
        return self._gate.acts

    def _settle(self, *, at_clip: bool = False) -> tuple[PendingStep, list[Tensor | None]]:
        """The pending step of the gradients as they are now, and these."""
        self._notice_drop()
        gradients = self._gate.gradients()
        self._update.gradients_made(self.tracker)
        pending = self.tracker.settle(gradients, at_clip=at_clip)
        self._count(pending, gradients, pending.scale)
        return pending, gradients

    def _take_gradients(self) -> PendingStep:
        """The update takes the gradients as they are now, after a policy has acted on them."""
        tracker, pending = self.tracker, self.tracker.pending
        gradients = self._gate.gradients()
        if pending is not None and pending.has_lost(gradients, tracker.gradients.backwards):
            pending.take_as_skipped(learning_rates_of(tracker.optimizer))
        else:
            self._update.gradients_made(self.tracker)
            pending = tracker.settle(gradients)
        pending.take_scaling(*scaling_of(tracker.optimizer))
        self._count(pending, gradients, pending.scale)
        self._act_on(pending, gradients)
        return pending

    def _count(self, pending: PendingStep, gradients: Sequence[Tensor | None], scale: Tensor | None) -> None:
        """Count the entries by magnitude, once, unless the gradients were changed before that.

        ``scale`` is what they are multiplied by now.
        """
        if pending.magnitudes is None and pending.is_as_made:
            step = self.tracker.step
            wholes = self.tracker.parameters.wholes
            pending.magnitudes = self._sampler.magnitudes(step, pending.measured, gradients, scale, wholes)

    def _act_on(self, pending: PendingStep, gradients: Sequence[Tensor | None]) -> None:
        self._gate.clip(pending, gradients)
        self.tracker.audit.judge(pending)
        self._gate.skip_nonfinite(pending)

    def _notice_drop(self) -> None:
        """Gradients that were let go of take their losses along, and what was measured of them."""
        if self.tracker.gradients.take_dropped():
            self._update.gradients_dropped(self.tracker, self.tracker.losses.drop(), self._scaling.scale)

    def _skip_step(self) -> None:
        """The update of this step does not happen."""
        if self.tracker.pending is not None:
            self.tracker.skip(self._scaling.scale)
        elif not self.tracker.is_due:
            self.tracker.finish_unrecorded()
