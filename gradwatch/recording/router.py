"""Hears the hooks, hands each call to the loops that it concerns, and keeps faults away from the training.

Whatever the training thread runs into here is guarded. A fault of gradwatch is reported once and ends the
recording. What ``clip=`` and ``skip_nonfinite`` promise holds on without it.
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Concatenate, Literal, ParamSpec, Protocol, TypeAlias, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch.errors import BadArgument, TrainingStopped
from gradwatch.recording import lifecycle
from gradwatch.recording.clip_audit import clips_nothing
from gradwatch.recording.delivery import EventDelivery
from gradwatch.recording.hooks import (
    ClipCall,
    Reductions,
    TapError,
    listen_to_backward,
    listen_to_clip_calls,
    listen_to_grad_scaler,
    listen_to_steps,
    listen_to_zeroing,
)
from gradwatch.recording.loop_check import LoopCheck
from gradwatch.recording.loops import Loop
from gradwatch.recording.losses import Number, loss_value, losses_among
from gradwatch.recording.notices import Notices
from gradwatch.recording.sink import NullSink, StepSink

logger = logging.getLogger("gradwatch")

P = ParamSpec("P")
Method: TypeAlias = Callable[Concatenate["HookRouter", P], None]
State: TypeAlias = Literal["recording", "protecting", "closed"]


class OpenLoop(Protocol):
    """Begins to record an optimizer into a sink."""

    def __call__(self, *, sink: StepSink, notices: Notices) -> Loop: ...


def _guarded(method: Method[P]) -> Method[P]:
    """Keep what goes wrong in here away from the training, and SIGTERM out of the middle of it."""

    @functools.wraps(method)
    def guarded(self: HookRouter, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.state == "closed":
            return
        lifecycle.enter()
        began = time.perf_counter()
        try:
            method(self, *args, **kwargs)
        except TrainingStopped:
            raise
        except Exception as fault:
            self._end_by(fault)
        finally:
            self.overhead_seconds += time.perf_counter() - began
            lifecycle.leave()

    return cast("Method[P]", guarded)


class HookRouter:
    """One recording: its loops, its sink, and the hooks that are in place for it.

    Attributes:
        loops: one for each optimizer that the script has.
        names: of all optimizers, those included that the script has let go of.
        state: "protecting" is what is left of a recording that has ended and still clips or skips.
        overhead_seconds: spent here by the training thread.
    """

    def __init__(
        self,
        run: Path,
        loops: Sequence[Loop],
        sink: StepSink,
        delivery: EventDelivery,
        reductions: Reductions,
        notices: Notices,
    ) -> None:
        self.loops = list(loops)
        self.state: State = "recording"
        self.overhead_seconds = 0.0
        self._run = run
        self._sink = sink
        self._delivery = delivery
        self._reductions = reductions
        self._notices = notices
        self.names: list[str] = []
        self._loop_check = LoopCheck(self._models)
        self._by_optimizer: dict[int, Loop] = {}
        self._lives: dict[str, weakref.ref[Optimizer]] = {}
        self._steps_gone = 0  # of the optimizer that made most, of those that are gone
        self._stops: list[Callable[[], None]] = []
        self._stops_of: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)  # by optimizer
        self._losses: list[Number] = []  # on which backward is being called
        self._thread = threading.get_ident()  # that trains; gradients are looked at in no other

    @property
    def furthest_step(self) -> int:
        """The number of the next step, of the optimizer that made most."""
        return max([self._steps_gone, *(loop.tracker.step for loop in self.loops)])

    def _models(self) -> Iterator[nn.Module]:
        models = (loop.tracker.parameters.model for loop in self.loops)
        return (model for model in models if model is not None)

    # ---------------------------------------------------------------------- beginning and end

    def open(self) -> None:
        """Put the hooks in place."""
        self._stops += self._loop_check.listen()
        for loop in self.loops:
            self._listen_to_steps(loop)
        self._stops += [listen_to_grad_scaler(self), listen_to_backward(self), listen_to_zeroing(self)]
        try:
            self._stops.append(listen_to_clip_calls(self))
        except TapError as error:
            logger.warning("%s; calls of clip_grad_norm_ are not seen, all else is (clip-calls-unseen)", error)
        lifecycle.opened(self._run, self)

    @_guarded
    def add(self, open_loop: OpenLoop) -> None:
        """Record one more optimizer from here on."""
        self._sink.flush()
        loop = open_loop(sink=self._sink, notices=self._notices)
        self.loops.append(loop)
        self._listen_to_steps(loop)

    def loop_of(self, optimizer: Optimizer) -> Loop | None:
        """The loop of an optimizer that is recorded; None for any other."""
        return self._by_optimizer.get(id(optimizer))

    def flush(self, timeout: float) -> bool:
        self._release()
        return self._sink.flush(timeout)

    def close(self, reason: str) -> None:
        """End the recording and take the hooks out."""
        with lifecycle.inside():
            self._delivery.stop_no_more()
            self._end_loops()
            if self.state != "closed":
                self._detach()
                self._end_sink(reason)
                self._delivery.deliver(self._sink.events)

    def ask_to_end(self, reason: str) -> None:
        """Begin to end, from a signal handler."""
        for loop in self.loops:
            loop.tracker.release()
        self._sink.ask_to_end(reason, hurry=True)

    def wait_for_end(self, timeout: float) -> None:
        self._sink.wait_for_end(timeout)

    def go_on_in_child(self) -> None:
        """A forked child writes nothing, and is protected like its parent."""
        self._sink = NullSink()
        self.state = "protecting" if self._record_nothing() else "closed"

    @_guarded
    def _end_loops(self) -> None:
        if self.state == "recording":
            self._sink.note(self._loop_check.facts())
        for loop in self.loops:
            loop.abandon()
            loop.tracker.release()

    @_guarded
    def _release(self) -> None:
        for loop in self.loops:
            loop.tracker.release()

    def _listen_to_steps(self, loop: Loop) -> None:
        name = loop.tracker.name
        self.names.append(name)
        for one in loop.optimizers:
            self._by_optimizer[id(one)] = loop
            if not loop.steps_within_backward:
                self._stops_of[name].append(self._loop_check.listen_to(name, one))  # before a policy clips
            self._stops_of[name].append(listen_to_steps(one, self, self._live_with(loop, one)))

    def _live_with(self, loop: Loop, optimizer: Optimizer) -> object:
        """End the loop when the optimizer goes; return what the hooks of the optimizer are to keep until then.

        A search or a cross-validation makes many models one after the other, and no more than one at a time
        may stay in memory. A reference from us to the optimizer would keep them all.
        """
        name = loop.tracker.name
        if loop.steps_within_backward or name in self._lives:
            return None
        self._lives[name] = weakref.ref(optimizer, lambda _: self._let_go(loop))
        return loop.tracker.parameters.hand_over()

    @_guarded
    def _let_go(self, loop: Loop) -> None:
        """The script has let go of the optimizer: its last step is recorded, and nothing else is kept."""
        name = loop.tracker.name
        self.loops = [one for one in self.loops if one is not loop]  # others may be going through the list
        self._by_optimizer = {key: one for key, one in self._by_optimizer.items() if one is not loop}
        self._stops_of.pop(name, None)
        self._lives.pop(name, None)
        self._loop_check.let_go(name)
        loop.abandon()
        loop.tracker.release()
        self._steps_gone = max(self._steps_gone, loop.tracker.step)
        self._sink.dismiss(name)

    def _detach(self) -> None:
        self.state = "closed"
        for stop in (*self._stops, *itertools.chain.from_iterable(self._stops_of.values())):
            stop()
        self._reductions.close()
        lifecycle.closed(self._run)

    def _end_sink(self, reason: str) -> None:
        """End the sink and say what did not reach the disk."""
        run = str(self._run)
        if not self._sink.close(reason):
            logger.error(
                "gradwatch is still writing %r; what is not on the disk when the process ends is lost"
                " (recording-unfinished)",
                run,
            )
        if self._sink.fault is not None:
            logger.error("gradwatch could not write all of %r: %s (recording-stopped)", run, self._sink.fault)
        if self._sink.dropped:
            logger.warning(
                "gradwatch dropped %d steps of %r: the disk did not take them in time, a rank was not heard, or"
                " their records could not be made (steps-dropped)",
                self._sink.dropped,
                run,
            )

    # --------------------------------------------------------------------------------- faults

    def _end_by(self, fault: Exception) -> None:
        """Report a fault once and let the training go on alone, but for what protects it."""
        logger.debug("a fault while %s", self.state, exc_info=fault)
        protects = self._record_nothing()
        if self.state != "recording":
            return  # what protects the training begins anew with the next update
        step = self.furthest_step
        sink, self._sink = self._sink, NullSink()
        try:
            if protects:
                self.state = "protecting"
                lifecycle.closed(self._run)
            else:
                self._detach()
            sink.close("fault", timeout=5.0)
        except Exception as second:
            logger.debug("while ending", exc_info=second)
        logger.error(
            "gradwatch stopped recording %r at step %d; the training goes on%s. %s: %s (recording-stopped)",
            str(self._run),
            step,
            ", and is clipped and skipped as before" if protects else "",
            type(fault).__name__,
            fault,
        )

    def _record_nothing(self) -> bool:
        """Go on without a sink; return whether updates are still acted on."""
        still = [loop.record_nothing() for loop in self.loops]
        return any(still)

    def _look_at_sink(self) -> None:
        """Take note of its end, and of events."""
        if isinstance(self._sink.fault, Exception):
            self._end_by(self._sink.fault)
        event = self._delivery.deliver(self._sink.events)
        if event is not None:
            self.close(f"stopped on {event.kind}")
            raise TrainingStopped(
                f"{event.kind} at step {event.step}: {event.message}. `gradwatch report {self._run}` shows what"
                " happened."
            )

    # ------------------------------------------------------------------------- what hooks call

    @_guarded
    def before_step(self, optimizer: Optimizer, has_closure: bool) -> None:
        self._look_at_sink()
        loop = self._by_optimizer[id(optimizer)]
        if self.state == "closed":
            return
        if not loop.steps_within_backward:
            self._thread = threading.get_ident()
        try:
            loop.before_step(optimizer, has_closure, self._reductions.take())
        except Exception as fault:
            self._protect(loop, fault, has_gradients=not has_closure)

    def _protect(self, loop: Loop, fault: Exception, *, has_gradients: bool) -> None:
        """A fault came between the gradients and the update: this update is protected all the same."""
        try:
            if has_gradients:
                loop.protect()
        except Exception as second:  # the protection itself has failed, and goes on failing
            self._end_by(fault)
            self._notices.not_clipped(f"{type(second).__name__}: {second}")
            self._detach()
        else:
            self._end_by(fault)

    @_guarded
    def after_step(self, optimizer: Optimizer) -> None:
        self._by_optimizer[id(optimizer)].after_step(optimizer)

    @_guarded
    def gradients_ready(self, optimizer: Optimizer) -> None:
        loop = self._by_optimizer.get(id(optimizer))
        if loop is not None:
            try:
                loop.gradients_ready()
            except Exception as fault:
                self._protect(loop, fault, has_gradients=True)

    @_guarded
    def before_backward(self, tensors: Sequence[Tensor]) -> None:
        """Note what it is called on, which is a loss of the next step if it reaches gradients of ours.

        A backward of another thread is another training's, and to look at our gradients there would
        meet our own backward writing them.
        """
        if threading.get_ident() != self._thread:
            return
        for loop in self.loops:
            loop.before_backward()
        self._losses = losses_among(tensors)

    @_guarded
    def after_backward(self) -> None:
        is_ours = threading.get_ident() == self._thread
        for loop in self.loops:
            loop.after_backward(self._losses, is_ours=is_ours)

    @_guarded
    def count_earlier_backward(self, tensors: Sequence[Tensor]) -> None:
        """Account for a backward pass that ran before attaching."""
        for loop in self.loops:
            if loop.tracker.gradients.first() is not None:
                loop.tracker.gradients.count_backward()
                loop.tracker.losses.add(losses_among(tensors))

    @_guarded
    def after_zeroing(self, ids: set[int]) -> None:
        for loop in self.loops:
            loop.zeroed(ids)

    @_guarded
    def before_clip(self, call: ClipCall) -> None:
        loops = self._loops_of(call)
        if loops:
            self._thread = threading.get_ident()
        for loop in loops:
            loop.before_clip(call)
        if not loops and clips_nothing(call):
            for loop in self.loops:
                loop.tracker.audit.note("other-parameters" if call.parameters else "no-parameters")

    @_guarded
    def after_clip(self, call: ClipCall, total_norm: Tensor | None) -> None:
        for loop in self._loops_of(call):
            loop.after_clip(call, total_norm)

    @_guarded
    def clip_failed(self, call: ClipCall) -> None:
        """Clipping raised, for example by `error_if_nonfinite`: the step that is not made is kept."""
        for loop in self._loops_of(call):
            loop.clip_failed()

    @_guarded
    def before_unscale(self, optimizer: Optimizer) -> None:
        if (loop := self.loop_of(optimizer)) is not None:
            loop.before_unscale()

    @_guarded
    def after_unscale(self, optimizer: Optimizer, scale: Tensor) -> None:
        if (loop := self.loop_of(optimizer)) is not None:
            loop.after_unscale(scale)

    @_guarded
    def before_scaled_step(self, optimizer: Optimizer, scale: Tensor) -> None:
        if (loop := self.loop_of(optimizer)) is not None:
            loop.before_scaled_step(scale)

    @_guarded
    def after_scaled_step(self, optimizer: Optimizer) -> None:
        if (loop := self.loop_of(optimizer)) is not None:
            loop.after_scaled_step()

    @_guarded
    def log(self, loss: object, optimizer: str | None) -> None:
        """A loss of the user, for one optimizer or for all."""
        if loss is None:
            return
        loops = [loop for loop in self.loops if optimizer in (None, loop.tracker.name)]
        for loop in loops:
            loop.before_log()
            loop.tracker.use_logged_losses()
        try:
            value = loss_value(loss)
        except BadArgument as error:
            self._notices.warn_once(str(error))
            return
        for loop in loops:
            loop.tracker.log(value)

    def _loops_of(self, call: ClipCall) -> list[Loop]:
        return [
            loop
            for loop in self.loops
            if any(id(parameter) in loop.tracker.parameters.ids for parameter in call.parameters)
        ]
