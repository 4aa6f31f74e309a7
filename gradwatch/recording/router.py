"""Hears the hooks and hands each call to the loops that it concerns, and to the checks of the loop."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, TypeAlias, cast

from torch import Tensor
from torch.optim import Optimizer

from gradwatch.errors import BadArgument
from gradwatch.measure import is_capturing_graph
from gradwatch.recording.clip_audit import clips_nothing
from gradwatch.recording.hooks import ClipCall
from gradwatch.recording.loop_table import is_of_this_thread, this_thread
from gradwatch.recording.loops import Loop
from gradwatch.recording.losses import BackwardLoss, ScaledLosses, loss_value, losses_among
from gradwatch.recording.recording import OpenLoop, Recording
from gradwatch.recording.validation import ValidationLosses

P = ParamSpec("P")
Method: TypeAlias = Callable[Concatenate["HookRouter", P], None]


def _guarded(method: Method[P]) -> Method[P]:
    """Let the recording call the method, which keeps its faults away from the training."""

    @functools.wraps(method)
    def guarded(self: HookRouter, *args: P.args, **kwargs: P.kwargs) -> None:
        self._recording.guarded(outside_graphs, self, *args, **kwargs)

    def outside_graphs(self: HookRouter, *args: P.args, **kwargs: P.kwargs) -> None:
        if is_capturing_graph():
            self._recording.say_not_seen_in_graph()
        else:
            method(self, *args, **kwargs)

    return cast("Method[P]", guarded)


class HookRouter:
    """Everything that the training thread reports to one recording.

    Several threads may train. To look at the gradients of one in another would meet a backward writing them. So a
    call that names no parameter or optimizer of ours counts only for the loops that its own thread trains.
    """

    def __init__(self, recording: Recording, scaled: ScaledLosses | None = None) -> None:
        """``scaled`` are losses that were scaled before the recording began."""
        self._recording = recording
        self._loops = recording.loops
        self._check = recording.check
        self._validation = ValidationLosses()
        self._scaled = scaled or ScaledLosses()
        self._losses: dict[int, list[BackwardLoss]] = {}  # on which backward is being called, by its thread

    # ------------------------------------------------------------------------- what the user calls

    @_guarded
    def add(self, open_loop: OpenLoop) -> None:
        """Record one more optimizer from here on."""
        self._recording.add(open_loop, self)

    @_guarded
    def log(self, loss: object, optimizer: str | None) -> None:
        """Take a loss of the user, for one optimizer or for all."""
        if loss is None:
            return
        loops = self._loops.named(optimizer)
        for loop in loops:
            if is_of_this_thread(loop.thread):  # a thread may only log, while another one's backward runs
                loop.before_log()
            loop.tracker.use_logged_losses()
        try:
            value = loss_value(loss)
        except BadArgument as error:
            self._recording.notices.warn_once(str(error))
            return
        for loop in loops:
            loop.tracker.log(value)

    @_guarded
    def log_validation(self, loss: object) -> None:
        """Take the loss of a validation after the last step."""
        if loss is None:
            return
        try:
            value = float(loss_value(loss))
        except BadArgument as error:
            self._recording.notices.warn_once(str(error))
            return
        self._recording.note(self._validation.add(max(0, self._loops.furthest_step - 1), value))

    @_guarded
    def gradients_ready(self, optimizer: Optimizer) -> None:
        loop = self._loops.of(optimizer)
        if loop is not None:
            try:
                loop.gradients_ready()
            except Exception as fault:
                self._recording.protect(loop, fault, has_gradients=True)

    @_guarded
    def count_earlier_backward(self, losses: Sequence[BackwardLoss]) -> None:
        """Account for a backward pass that ran before attaching."""
        for loop in self._loops.of_this_thread():
            if not loop.tracker.gradients.backwards and loop.tracker.gradients.first() is not None:
                loop.tracker.gradients.count_backward()
                loop.tracker.losses.add(losses)

    # ----------------------------------------------------------------------------------- the steps

    @_guarded
    def before_step(self, optimizer: Optimizer, has_closure: bool) -> None:
        loop = self._loop_of(optimizer)
        if not loop.steps_within_backward:
            loop.thread = this_thread()
            self._check.before_step(optimizer, has_closure)  # before a policy clips
        self._recording.look_at_sink()
        if self._recording.state == "closed":
            return
        try:
            loop.before_step(optimizer, has_closure, self._recording.reductions.take())
        except Exception as fault:
            self._recording.protect(loop, fault, has_gradients=not has_closure)

    @_guarded
    def after_step(self, optimizer: Optimizer) -> None:
        loop = self._loop_of(optimizer)
        if not loop.steps_within_backward:
            self._check.after_step(optimizer)
        loop.after_step(optimizer)

    def _loop_of(self, optimizer: Optimizer) -> Loop:
        loop = self._loops.of(optimizer)
        assert loop is not None, "hooks of an optimizer are put in when its loop is"
        return loop

    # ---------------------------------------------------------------------------------- the backward

    @_guarded
    def before_backward(self, tensors: Sequence[Tensor]) -> None:
        """Note the tensors it is called on: a loss of the next step if it reaches recorded gradients."""
        here = self._loops.of_this_thread()
        if not here:
            return
        self._check.before_backward()
        for loop in here:
            loop.before_backward(tensors)
        self._losses[threading.get_ident()] = losses_among(tensors, self._scaled)

    @_guarded
    def after_backward(self) -> None:
        self._check.after_backward()
        losses = self._losses.pop(threading.get_ident(), [])
        here = self._loops.of_this_thread()
        for loop in self._loops:
            loop.after_backward(losses, is_ours=loop in here)

    @_guarded
    def after_zeroing(self, ids: set[int]) -> None:
        for loop in self._loops:
            loop.zeroed(ids)

    # ---------------------------------------------------------------------------------- the clip calls

    def _before_any_clip(self) -> None:
        for loop in self._loops.of_this_thread():
            loop.before_any_clip()

    def clip_calls_unseen(self) -> None:
        self._check.give_up()

    @_guarded
    def before_norm(self, call: ClipCall) -> None:
        self._before_any_clip()
        loops = self._loops.clipped_by(call)
        if len(loops) == 1:
            loops[0].before_norm()

    @_guarded
    def before_clip(self, call: ClipCall) -> None:
        self._before_any_clip()
        loops = self._loops.clipped_by(call)
        for loop in loops:
            loop.thread = this_thread()
            self._check.train_here(loop.tracker.name)
        self._check.before_change()
        for loop in loops:
            loop.before_clip(call)
        if not loops and clips_nothing(call):
            for loop in self._loops.of_this_thread():
                loop.tracker.audit.note("other-parameters" if call.parameters else "no-parameters")

    @_guarded
    def after_clip(self, call: ClipCall, total_norm: Tensor | None) -> None:
        self._check.after_change()
        for loop in self._loops.clipped_by(call):
            loop.after_clip(call, total_norm)

    @_guarded
    def clip_failed(self, call: ClipCall) -> None:
        """Clipping raised, for example by `error_if_nonfinite`: the step that is not made is kept."""
        self._check.after_change()
        for loop in self._loops.clipped_by(call):
            loop.clip_failed()

    # ---------------------------------------------------------------------------------- the GradScaler

    @_guarded
    def after_scaling(self, loss: Tensor, scaled: Tensor) -> None:
        self._scaled.after_scaling(loss, scaled)

    @_guarded
    def before_unscale(self, optimizer: Optimizer) -> None:
        self._check.before_change()
        if (loop := self._loops.of(optimizer)) is not None:
            loop.before_unscale()

    @_guarded
    def after_unscale(self, optimizer: Optimizer, scale: Tensor) -> None:
        self._check.after_change()
        if (loop := self._loops.of(optimizer)) is not None:
            loop.after_unscale(scale)

    @_guarded
    def before_scaled_step(self, optimizer: Optimizer, scale: Tensor) -> None:
        if (loop := self._loops.of(optimizer)) is not None:
            loop.before_scaled_step(scale)

    @_guarded
    def after_scaled_step(self, optimizer: Optimizer) -> None:
        if (loop := self._loops.of(optimizer)) is not None:
            loop.after_scaled_step()
