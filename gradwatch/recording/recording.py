"""The life of a recording: how it begins, how it reacts to a fault, and how it ends.

Everything that gradwatch does in the training thread runs through `Recording.guarded`. A fault of gradwatch is
reported once and ends the recording. ``clip=`` and ``skip_nonfinite`` go on without it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, ParamSpec, Protocol, TypeAlias

from gradwatch.errors import TrainingStopped
from gradwatch.record import StepRecord
from gradwatch.recording import lifecycle
from gradwatch.recording.delivery import EventDelivery
from gradwatch.recording.hooks import Reductions
from gradwatch.recording.loop_check import LoopCheck
from gradwatch.recording.loop_table import LoopTable
from gradwatch.recording.loops import Loop
from gradwatch.recording.notices import Notices
from gradwatch.recording.placed_hooks import HookListener, PlacedHooks
from gradwatch.recording.sink import NullSink, StepSink
from gradwatch.text import fault_text

if TYPE_CHECKING:
    from gradwatch.recording.capture.recorder import StepCapture

logger = logging.getLogger("gradwatch")

P = ParamSpec("P")
State: TypeAlias = Literal["recording", "protecting", "closed"]


class OpenLoop(Protocol):
    """Begins to record an optimizer into a sink."""

    def __call__(self, *, sink: StepSink, notices: Notices) -> Loop: ...


class Recording:
    """One recording: its loops, the sink that takes their steps, and its hooks.

    Attributes:
        run: the folder of the run.
        loops: one for each optimizer of the script.
        check: the checks of the training loop.
        reductions: what DistributedDataParallel is about to reduce.
        notices: the warnings that are given once.
        state: "protecting" is what is left of a recording that has ended and still clips or skips.
        overhead_seconds: the time that the training thread spent here.
    """

    def __init__(
        self,
        run: Path,
        sink: StepSink,
        delivery: EventDelivery,
        reductions: Reductions,
        notices: Notices,
        capture: StepCapture | None = None,
    ) -> None:
        self.run = run
        self.loops = LoopTable()
        self.check = LoopCheck(self.loops.models, self.note)
        self.reductions = reductions
        self.notices = notices
        self.state: State = "recording"
        self.overhead_seconds = 0.0
        self._sink = sink
        self._delivery = delivery
        self._capture = capture
        self._hooks = PlacedHooks()

    def guarded(self, method: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call the method with its faults kept away from the training, and with SIGTERM held back meanwhile."""
        if self.state == "closed":
            return
        began = time.perf_counter()
        try:
            lifecycle.enter()
            method(*args, **kwargs)
        except TrainingStopped:
            raise
        except Exception as fault:
            self.end_by(fault)
        finally:
            self.overhead_seconds += time.perf_counter() - began
            lifecycle.leave()

    @property
    def last(self) -> StepRecord | None:
        """The latest record that was made; None before the first, and after a fault."""
        return self._sink.last

    def note(self, facts: Mapping[str, str]) -> None:
        """Keep facts about the training, by their key in the table meta."""
        self._sink.note(facts)

    # ---------------------------------------------------------------------- beginning and end

    def open(self, loops: Iterable[Loop], listener: HookListener) -> None:
        """Take in the loops and put in the hooks, which call the listener."""
        for loop in loops:
            self._take_in(loop, listener)
        self._hooks.put_in(listener)
        if self._capture is not None:
            self._capture.open(self.loops)
        lifecycle.opened(self.run, self)

    def add(self, open_loop: OpenLoop, listener: HookListener) -> None:
        """Record one more optimizer from here on."""
        self._sink.flush()
        loop = open_loop(sink=self._sink, notices=self.notices)
        self._take_in(loop, listener)
        if self._capture is not None:
            self._capture.add(loop)

    def flush(self, timeout: float) -> bool:
        self.guarded(self.loops.release)
        return self._sink.flush(timeout)

    def close(self, reason: str) -> None:
        """End the recording and take the hooks out."""
        with lifecycle.inside():
            self._delivery.stop_no_more()
            self.guarded(self._end_loops)
            if self.state != "closed":
                self.detach()
                _end(self._sink, reason, str(self.run))
                self._delivery.deliver(self._sink.events)

    def ask_to_end(self, reason: str) -> None:
        """Begin to end, from a signal handler."""
        self.loops.release()
        self._sink.ask_to_end(reason, hurry=True)

    def wait_for_end(self, timeout: float) -> bool:
        return self._sink.wait_for_end(timeout)

    def go_on_in_child(self) -> None:
        """A forked child writes nothing, and is protected like its parent."""
        self._capture_no_more()
        self._sink = NullSink()
        self.state = "protecting" if self.loops.record_nothing() else "closed"

    def look_at_sink(self) -> None:
        """Take note of the end of the sink, and of events.

        Raises:
            TrainingStopped: an event is of a kind that is to stop the training.
        """
        if isinstance(self._sink.fault, Exception):
            self.end_by(self._sink.fault)
        event = self._delivery.deliver(self._sink.events)
        if event is not None:
            self.close(f"stopped on {event.kind}")
            raise TrainingStopped(
                f"{event.kind} at step {event.step}: {event.message}. `gradwatch report {self.run}` shows what"
                " happened."
            )

    def _take_in(self, loop: Loop, listener: HookListener) -> None:
        name = loop.tracker.name
        self.loops.add(loop)
        for optimizer in loop.optimizers:
            if not loop.steps_within_backward:
                self.check.follow(name, optimizer)
            kept = self.loops.live_with(loop, optimizer, lambda gone: self.guarded(self._let_go, gone))
            self._hooks.listen_to(optimizer, listener, name=name, kept=kept)

    def _let_go(self, loop: Loop) -> None:
        """The script has let go of the optimizer: its last step is recorded, and nothing else is kept."""
        name = loop.tracker.name
        self._hooks.let_go(name)
        self.check.let_go(name)
        if self._capture is not None:
            self._capture.let_go(loop)
        self.loops.let_go(loop)
        self._sink.dismiss(name)

    def _end_loops(self) -> None:
        if self.state == "recording":
            self._sink.note(self.check.facts())
        self.loops.abandon()

    def _capture_no_more(self) -> None:
        if self._capture is not None:
            self._capture.close()

    def detach(self) -> None:
        """Take the hooks out; the sink stays as it is."""
        self.state = "closed"
        self._capture_no_more()
        self._hooks.take_out()
        self.reductions.close()
        lifecycle.closed(self.run)

    # --------------------------------------------------------------------------------- faults

    def end_by(self, fault: Exception, *, can_protect: bool = True) -> None:
        """Report a fault once and let the training go on alone, but for what protects it."""
        logger.debug("a fault while %s", self.state, exc_info=fault)
        self._capture_no_more()
        protects = self.loops.record_nothing() and can_protect
        if self.state != "recording":
            return  # what protects the training begins anew with the next update
        step = self.loops.furthest_step
        sink, self._sink = self._sink, NullSink()
        try:
            if protects:
                self.state = "protecting"
                lifecycle.closed(self.run)
            else:
                self.detach()
            if not sink.close("fault", timeout=5.0):
                _say_unfinished(str(self.run))
        except Exception as second:
            logger.debug("while ending", exc_info=second)
        logger.error(
            "gradwatch stopped recording %r at step %d; the training goes on%s. %s (recording-stopped)",
            str(self.run),
            step,
            ", and is clipped and skipped as before" if protects else "",
            fault_text(fault),
        )

    def say_not_seen_in_graph(self) -> None:
        """The script records a CUDA graph, which later runs without calling any hook."""
        self.notices.warn_once(
            "gradwatch does not see the steps inside a CUDA graph, so it does not record, clip or skip them"
            " (cuda-graph-not-seen)"
        )

    def protect(self, loop: Loop, fault: Exception, *, has_gradients: bool) -> None:
        """A fault came between the gradients and the update: this update is protected all the same."""
        try:
            if has_gradients:
                loop.protect()
        except Exception as second:  # the protection itself has failed, and goes on failing
            self.end_by(fault, can_protect=False)
            self.notices.not_clipped(fault_text(second))
            self.detach()
        else:
            self.end_by(fault)


def _end(sink: StepSink, reason: str, run: str) -> None:
    """End the sink and report the steps that did not reach the disk."""
    if not sink.close(reason):
        _say_unfinished(run)
    if sink.fault is not None:
        logger.error("gradwatch could not write all of %r: %s (recording-stopped)", run, fault_text(sink.fault))
    if sink.dropped:
        logger.warning(
            "gradwatch dropped %d steps of %r: the disk was too slow, a rank was silent, or their records could not"
            " be made (steps-dropped)",
            sink.dropped,
            run,
        )


def _say_unfinished(run: str) -> None:
    logger.error(
        "gradwatch is still writing %r; steps that are not on disk when the process ends are lost"
        " (recording-unfinished)",
        run,
    )
