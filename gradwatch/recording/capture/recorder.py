"""The black box of one recording: holds the inputs of the gradients, judges each step, saves a bad one.

Any failure in here is logged in one line and ends the capturing, but neither the recording nor the training.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch.capture import CaptureOptions
from gradwatch.measure import Measurement, is_sharded, measure, parts_in_fsdp1
from gradwatch.recording.capture.forwards import ForwardTap
from gradwatch.recording.capture.judging import StepJudge
from gradwatch.recording.capture.keeper import Keeper
from gradwatch.recording.capture.ledger import Ledgers
from gradwatch.recording.capture.passes import HeldBackward, HeldForward
from gradwatch.recording.capture.team import CaptureTeam, Parallel, parallel_kind
from gradwatch.recording.hooks import (
    listen_to_backward,
    listen_to_closures,
    listen_to_grad_scaler,
    listen_to_steps,
    listen_to_zeroing,
)
from gradwatch.recording.loops import Loop
from gradwatch.recording.tracker import StepTracker
from gradwatch.text import fault_text

logger = logging.getLogger("gradwatch")

P = ParamSpec("P")
Method = Callable[Concatenate["StepCapture", P], None]


def _harmless(method: Method[P]) -> Method[P]:
    """End the capturing by a fault; the training and the recording go on."""

    @functools.wraps(method)
    def harmless(self: StepCapture, *args: P.args, **kwargs: P.kwargs) -> None:
        if not self.is_closed:
            try:
                method(self, *args, **kwargs)
            except Exception as error:
                self.fail(error)

    return cast("Method[P]", harmless)


class StepCapture:
    """Listens beside the router of a recording, which has heard of every backward before.

    Attributes:
        is_closed: nothing is held or kept any more.
    """

    def __init__(self, run: Path, options: CaptureOptions, team: CaptureTeam | None = None) -> None:
        self.is_closed = False
        self._run, self._team = run, team
        self._judge = StepJudge(options.on, team)
        self._keeper = Keeper(run, options, team)
        self._ledgers = Ledgers(lambda model: ForwardTap(model, self.arrived, self.fail), options.max_held_bytes)
        self._process = os.getpid()
        self._thread = threading.get_ident()  # that trains
        self._current: HeldBackward | None = None
        self._stops: list[Callable[[], None]] = []

    # ---------------------------------------------------------------------------- beginning and end

    @_harmless
    def open(self, loops: Iterable[Loop]) -> None:
        """Listen. The router must listen already."""
        self._stops += [listen_to_backward(self), listen_to_zeroing(self), listen_to_grad_scaler(self)]
        for loop in loops:
            self.add(loop)

    @_harmless
    def add(self, loop: Loop) -> None:
        """Capture the steps of one more optimizer."""
        model = loop.tracker.parameters.model
        parallel = None if self._team is None or model is None else parallel_kind(model)
        if loop.steps_within_backward:
            self._say("optimizers that step within the backward leave no gradient to keep")
        elif model is None or parts_in_fsdp1(model) or (parallel is None and _holds_parts(loop.tracker)):
            self._say("the parameters are sharded by something else than fully_shard alone over all ranks")
        elif self._rank == 0 or parallel is not None:
            self._add(loop, model, parallel)

    @property
    def _rank(self) -> int:
        return 0 if self._team is None else self._team.rank

    def _add(self, loop: Loop, model: nn.Module, parallel: Parallel | None) -> None:
        self._ledgers.add(loop.tracker, loop.optimizers, model, parallel)
        loop.tracker.on_measured = self.measured
        for optimizer in loop.optimizers:
            self._stops.append(listen_to_steps(optimizer, self))
            self._stops.append(listen_to_closures(optimizer, self.closure_evaluated))

    @_harmless
    def let_go(self, loop: Loop) -> None:
        """The optimizer is gone: hold nothing of it, nor of its model if no other optimizer has it."""
        ledger = self._ledgers.of_tracker(loop.tracker)
        if ledger is not None:
            loop.tracker.on_measured = None
            self._judge.forget_scale(ledger)
            self._ledgers.remove(ledger)

    def close(self) -> None:
        """Take the hooks out and hold nothing more."""
        if self.is_closed:
            return
        self.is_closed = True
        for stop in self._stops:
            stop()
        for ledger in self._ledgers:
            ledger.tracker.on_measured = None
        self._ledgers.clear()
        self._current = None

    def fail(self, error: Exception) -> None:
        """Something went wrong in here."""
        logger.debug("while capturing", exc_info=error)
        if not self.is_closed:
            self._warn(fault_text(error))
            self.close()

    def _say(self, why: str) -> None:
        if self._rank == 0:  # one line, not one for each rank
            self._warn(why)

    def _warn(self, why: str) -> None:
        logger.warning("gradwatch captures no step of %r: %s (not-captured)", str(self._run), why)

    # ------------------------------------------------------------------------------ what hooks call

    def arrived(self, forward: HeldForward, index: int, gradient: Tensor) -> None:
        """A gradient has reached an output of a forward, perhaps in a thread of the autograd engine."""
        if self.is_closed:
            return
        if gradient.requires_grad:  # also by autograd.grad, which adds to no gradient by itself
            forward.fault = "gradients of gradients were made (create_graph)"
        if self._current is not None:
            self._current.note(forward, index, gradient.detach())

    @_harmless
    def before_backward(self, tensors: Sequence[Tensor]) -> None:
        if threading.get_ident() == self._thread:
            self._current = HeldBackward()
            self._judge.note_roots(tensors)
            for ledger in self._ledgers:
                ledger.before_backward()

    @_harmless
    def after_backward(self) -> None:
        made, self._current = self._current, None
        if made is not None and threading.get_ident() == self._thread:
            for ledger in self._ledgers:
                ledger.after_backward(made)

    @_harmless
    def after_zeroing(self, ids: set[int]) -> None:
        for ledger in self._ledgers:
            ledger.zeroed(ids)

    @_harmless
    def before_step(self, optimizer: Optimizer, has_closure: bool) -> None:
        self._thread = threading.get_ident()
        ledger = self._ledgers.of(optimizer)
        if ledger is not None:
            ledger.before_step()

    @_harmless
    def closure_evaluated(self, optimizer: Optimizer) -> None:
        """A closure has made the gradients of an update; measured they would only be after it."""
        ledger = self._ledgers.of(optimizer)
        if ledger is None:
            return
        tracker = ledger.tracker
        gradients = tracker.parameters.gradients()
        if tracker.pending is None or not tracker.pending.is_of(gradients):  # else it was clipped, and judged then
            self.measured(tracker, measure(gradients, ("norm",)), gradients)

    @_harmless
    def after_step(self, optimizer: Optimizer) -> None:
        ledger = self._ledgers.of(optimizer)
        if ledger is not None:
            self._judge.forget_scale(ledger)
            ledger.after_step()
            ledger.tap.reset(self._thread)

    @_harmless
    def before_unscale(self, optimizer: Optimizer) -> None:
        """Nothing is known before."""

    @_harmless
    def after_unscale(self, optimizer: Optimizer, scale: Tensor) -> None:
        ledger = self._ledgers.of(optimizer)
        if ledger is not None:
            self._judge.note_unscaled(ledger, scale)

    @_harmless
    def before_scaled_step(self, optimizer: Optimizer, scale: Tensor) -> None:
        ledger = self._ledgers.of(optimizer)
        if ledger is not None:
            self._judge.note_scaled_step(ledger, optimizer, scale)

    @_harmless
    def after_scaled_step(self, optimizer: Optimizer) -> None:
        ledger = self._ledgers.of(optimizer)
        if ledger is not None:
            self._judge.forget_scale(ledger)

    # --------------------------------------------------------------------------------- the decision

    @_harmless
    def measured(self, tracker: StepTracker, measured: Measurement, gradients: Sequence[Tensor | None]) -> None:
        """The gradients of the next update were measured; they and the weights are as they were."""
        ledger = self._ledgers.of_tracker(tracker)
        if ledger is None or not measured.parts or os.getpid() != self._process:
            return
        judged = self._judge.judge(ledger, measured)
        if judged is not None:
            self._keeper.keep(ledger, gradients, judged)


def capture_team(rank: int, ranks: int) -> CaptureTeam | None:
    """The processes that train together; None if there is one, or if they can't hear each other."""
    if ranks < 2:
        return None
    try:
        return CaptureTeam(rank, ranks)
    except Exception as error:
        logger.debug("no store for captures of several ranks", exc_info=error)
        return None


def _holds_parts(tracker: StepTracker) -> bool:
    return any(one is not None and is_sharded(one) for one in tracker.parameters.parameters)
