"""`attach`: listen to a training loop and record what its gradients do.

Everything that the training thread runs into here is guarded: a fault of ours is reported once,
ends the recording and leaves the training as it was.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Concatenate, Literal, ParamSpec, Self, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch.clip import Policy
from gradwatch.clip.policy import Stateful
from gradwatch.distributed import Mailbox, RankGatherer, rank_and_world_size
from gradwatch.errors import BadArgument, NoParameters, RunInUse, ShardedParameters, TrainingStopped
from gradwatch.measure import ZEROS_EVERY, Measurement, reads_once
from gradwatch.record import KINDS, STATS, Event
from gradwatch.recording.hooks import (
    ClipCall,
    Reductions,
    TapError,
    listen_to_backward,
    listen_to_clip_calls,
    listen_to_grad_scaler,
    listen_to_steps,
)
from gradwatch.recording.in_backward import InBackwardTracker, OptimizersInBackward, group_in_backward_optimizers
from gradwatch.recording.mirror import Mirror
from gradwatch.recording.no_optimizer import NoOptimizer, NoOptimizerTracker
from gradwatch.recording.pending import PendingStep, loss_value
from gradwatch.recording.rank_sender import RANK_0_WITHIN, RankSender
from gradwatch.recording.recorder import Recorder
from gradwatch.recording.sink import Beginning, NullSink, StepSink
from gradwatch.recording.tracker import RecordingOptions, StepTracker, settings_of, sharding_of
from gradwatch.store import StoreWriter

logger = logging.getLogger("gradwatch")

Optimizers: TypeAlias = Optimizer | Sequence[Optimizer] | Mapping[str, Optimizer] | None
Ranks: TypeAlias = bool | Literal["own"]
Clip: TypeAlias = Policy | Mapping[str, Policy] | None
P = ParamSpec("P")

_QUEUE_BYTES = 64 * 2**20
_open_watches: dict[Path, Watch] = {}


def attach(
    model: nn.Module,
    optimizer: Optimizers,
    run: str | os.PathLike[str],
    *,
    clip: Clip = None,
    first_step: int | None = None,
    stats: Sequence[str] = STATS,
    every: int = 1,
    weights_every: int = 50,
    on_event: Callable[[Event], None] | None = None,
    stop_on: Sequence[str] = (),
    skip_nonfinite: bool = False,
    tensorboard: bool = False,
    total_steps: int | None = None,
    ranks: Ranks = False,
) -> Watch:
    """Record every step of one or several optimizers into the folder ``run``.

    The gradients, the weights and the random state stay as they are; calls of
    `torch.nn.utils.clip_grad_norm_` and `clip_grad_value_` are seen before they clip.

    In a training by several processes (`torch.distributed`) attach in each of them, with the same
    arguments: rank 0 writes the run. Where parameters are sharded (FSDP, tensor parallel) what the
    ranks have is brought together, and the numbers are those of the whole.

    Args:
        model: gives the parameters their names.
        optimizer: one, a list (named 0, 1, ...) or a mapping from name to optimizer. Each counts
            its own steps; those that step within the backward pass make one record together. None
            where the loop updates the weights by itself: there each clip call is a step.
        run: a folder. One that holds a run already is continued after its last step.
        clip: a policy from `gradwatch.clip` that clips before each step, or one for each optimizer by
            its name; None only observes. Of one with a history every further optimizer gets a fresh
            copy, in `Watch.policies`.
        first_step: number of the first step, where a checkpoint goes back before the last one.
        stats: which of norm, abs_max, nonfinite, zeros to record of each gradient; norm is always.
        every: record each step whose number this divides.
        weights_every: sample weight_norm and update_norm at each step whose number this divides
            (such a step holds a copy of the weights while it is made); 0 for never.
        on_event: called in the training thread with each event, some steps after it was found.
        stop_on: kinds of event for which training is ended, where they are more than information:
            `TrainingStopped` is raised at the step that comes after the event was found, when all is
            on the disk.
        skip_nonfinite: leave out an update whose gradients hold a NaN or an infinity, and only that
            one: their ``grad`` becomes None, so that the optimizer does nothing and its state stays
            as it was. The step is recorded as skipped. On an accelerator it needs an optimizer with
            ``fused=True``, which is told without waiting.
        tensorboard: write a few scalars as event files into ``run`` as well, for TensorBoard's Scalars page.
        total_steps: how many steps the whole training makes, where that is known; `gradwatch watch` then
            shows how far it is.
        ranks: hear every rank: keep the norm and the non-finite entries of each one's own gradient before
            DistributedDataParallel reduces it (``model`` has to be or to hold that module), and compare
            what ranks hold in common. Needed too where ranks have parameters of their own, the
            stages of a pipeline say, to record them all. "own": this process records by itself,
            whatever its rank, where processes train models of their own.

    Raises:
        BadArgument, NoParameters: an argument is not what it should be.
        ShardedParameters: parts of parameters can't be brought together here.
        TrainingStopped: by the optimizer's ``step``, for an event of ``stop_on``.
        StoreNotWritable, RunInUse, NotARun, StoreTooNew, StoreDamaged: ``run`` can't be written.

    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with attach(model, optimizer, tmp_path / "run") as watch:
    ...     for _ in range(3):
    ...         loss = model(torch.ones(1, 2)).square().sum()
    ...         optimizer.zero_grad()
    ...         loss.backward()
    ...         optimizer.step()
    ...         watch.log(loss=loss)
    >>> watch.steps
    3
    """
    named = _named_optimizers(model, optimizer)
    _check(model, named, first_step, stats, every, weights_every)
    if skip_nonfinite and every != 1:
        raise BadArgument(f"every is {every!r}; skip_nonfinite looks at every step.")
    if clip is not None and every != 1:
        raise BadArgument(f"every is {every!r}; with clip= each step is measured to be clipped, and so recorded.")
    policies = _policies_for(list(named), clip)
    unknown = [kind for kind in stop_on if kind not in KINDS]
    if isinstance(stop_on, str) or unknown:
        raise BadArgument(f"stop_on is {stop_on!r}; expected some of {', '.join(KINDS)}.")
    if ranks not in (True, False, "own"):
        raise BadArgument(f"ranks is {ranks!r}; expected True, False or 'own'.")
    if total_steps is not None and total_steps < 1:
        raise BadArgument(f"total_steps is {total_steps!r}; expected 1 or more, or None where it is not known.")
    return Watch(
        {name: (model, one) for name, one in group_in_backward_optimizers(named).items()},
        Path(run).absolute(),  # the training may change its directory
        policies=policies,
        first_step=first_step,
        stats=("norm", *(name for name in STATS[1:] if name in stats)),
        every=every,
        weights_every=weights_every,
        on_event=on_event,
        stop_on=tuple(stop_on),
        skip_nonfinite=skip_nonfinite,
        tensorboard=tensorboard,
        total_steps=total_steps,
        ranks=ranks,
    )


def _named_optimizers(model: nn.Module, optimizer: Optimizers) -> dict[str, Optimizer]:
    if optimizer is None:
        return {"0": NoOptimizer(model.parameters() if isinstance(model, nn.Module) else ())}
    if isinstance(optimizer, Mapping):
        return {str(name): _unwrapped(one) for name, one in optimizer.items()}
    listed = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
    return {str(index): _unwrapped(one) for index, one in enumerate(listed)}


def _policies_for(names: Sequence[str], clip: Clip) -> dict[str, Policy]:
    """A policy for each optimizer; none shares a history with another."""
    if clip is None:
        return {}
    if not isinstance(clip, Mapping):
        first: Policy = clip
        clip = {
            name: first if at == 0 or not isinstance(first, Stateful) else first.fresh()
            for at, name in enumerate(names)
        }
    for name, policy in clip.items():
        if name not in names:
            raise BadArgument(f"clip has a policy for {name!r}; expected some of the optimizers {', '.join(names)}.")
        if isinstance(policy, type) or not callable(getattr(policy, "clip", None)):
            raise BadArgument(f"clip is {policy!r}; expected a policy of gradwatch.clip, NormClip(1.0) say.")
    return dict(clip)


def _unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimizer that steps: Accelerate and Fabric hand out wrappers around it."""
    inner = getattr(optimizer, "optimizer", None)
    return _unwrapped(inner) if isinstance(inner, Optimizer) else optimizer


def _check(
    model: nn.Module,
    named: Mapping[str, Optimizer],
    first_step: int | None,
    stats: Sequence[str],
    every: int,
    weights_every: int,
) -> None:
    if not isinstance(model, nn.Module):
        raise BadArgument(f"model is a {type(model).__name__}; expected a torch.nn.Module.")
    for name, one in named.items():
        if not isinstance(one, Optimizer):
            raise BadArgument(f"optimizer {name!r} is a {type(one).__name__}; expected a torch.optim.Optimizer.")
    unknown = set(stats) - set(STATS)
    if isinstance(stats, str) or unknown:
        raise BadArgument(f"stats is {stats!r}; expected some of {', '.join(STATS)}.")
    if every < 1 or weights_every < 0:
        raise BadArgument(
            f"every is {every!r} and weights_every {weights_every!r}; expected at least 1 and at least 0."
        )
    if first_step is not None and first_step < 0:
        raise BadArgument(f"first_step is {first_step!r}; expected 0 or more.")
    if not any(group["params"] for one in named.values() for group in one.param_groups):
        raise NoParameters("There is nothing to watch: no optimizer with a parameter was given.")


def _guarded(
    method: Callable[Concatenate[Watch, P], None],
) -> Callable[Concatenate[Watch, P], None]:
    """Keep what goes wrong in here away from the training; do nothing in a forked child."""

    @functools.wraps(method)
    def guarded(self: Watch, *args: P.args, **kwargs: P.kwargs) -> None:
        if self._closed or os.getpid() != self._pid:
            return
        began = time.perf_counter()
        try:
            method(self, *args, **kwargs)
        except TrainingStopped:
            raise
        except Exception as fault:
            self._give_up(fault)
        finally:
            self.overhead_seconds += time.perf_counter() - began

    return cast("Callable[Concatenate[Watch, P], None]", guarded)


class Watch:
    """The handle of a recording; `attach` makes it. Use it as a context or call `close`."""

    def __init__(
        self,
        named: Mapping[str, tuple[nn.Module, Optimizer]],
        run: Path,
        *,
        policies: Mapping[str, Policy] | None = None,
        first_step: int | None = None,
        stats: tuple[str, ...] = STATS,
        every: int = 1,
        weights_every: int = 50,
        on_event: Callable[[Event], None] | None = None,
        stop_on: tuple[str, ...] = (),
        skip_nonfinite: bool = False,
        clip_only_unclipped: bool = False,
        tensorboard: bool = False,
        total_steps: int | None = None,
        ranks: Ranks = False,
        before_reduction: bool = True,
    ) -> None:
        self.run = run
        self._rank, self._world = (0, 1) if ranks == "own" else rank_and_world_size()
        self._total_steps = total_steps
        self._stop_on = stop_on
        self.policies = dict(policies or {})
        self._habits = RecordingOptions(
            stats=stats,
            every=every,
            weights_every=weights_every,
            clip=None,
            clip_only_unclipped=clip_only_unclipped,
            skip_nonfinite=skip_nonfinite,
            put=self._put,
            say=self._warn_once,
            losses_of_backward=self._take_losses_of_backward,
            before_reduction=self._take_before_reduction,
            keeps_nothing_back=self._rank > 0,
        )
        self._on_event = on_event
        self._closed = False
        self._pid = os.getpid()
        self._key = run.resolve()
        if self._key in _open_watches:
            raise RunInUse(f"{str(run)!r} is being recorded by another watch of this process. Close that one first.")
        writer = StoreWriter(run) if self._rank == 0 else None
        self._losses_of_backward: list[float | Tensor] = []
        self._takers: set[str] = set()  # of these losses, by the name of the optimizer
        self._roots: list[float | Tensor] = []  # what backward is being called on
        self._thread = threading.get_ident()  # that trains; gradients are looked at in no other
        self.overhead_seconds = 0.0
        self._team: RankGatherer | None = None
        self._reductions = Reductions()
        self._writer = writer
        try:
            if writer is not None:
                self._begin_attempt(writer, named)
            self._recorder: StepSink = self._open_sink(named, ranks, tensorboard)
        except BaseException:
            if writer is not None:
                writer.abandon()
            raise
        self._tracked = [self._admit(name, model, one, first_step) for name, (model, one) in named.items()]
        if self._team is not None:
            self._team.open({tracked.name: tracked.step for tracked in self._tracked})
        if writer is not None and first_step is not None:
            writer.set_first_step(first_step)
        if writer is not None and writer.attempt > 0:
            writer.append([], [_resumed(self._tracked[0].step, writer.attempt)])
        if ranks and before_reduction and self._world > 1:
            self._reductions = Reductions(self.models)
        self._by_optimizer: dict[int, StepTracker] = {}
        _open_watches[self._key] = self
        self._stops: list[Callable[[], None]] = []
        for tracked in self._tracked:
            self._listen_to_steps(tracked)
        self._stops += [listen_to_grad_scaler(self), listen_to_backward(self)]
        self._listen_to_clip_calls()
        _close_on_termination()
        atexit.register(self._close_at_exit)

    def _open_sink(self, named: Mapping[str, tuple[nn.Module, Optimizer]], ranks: Ranks, tensorboard: bool) -> StepSink:
        """In rank 0 the recorder, elsewhere the sender to it, if rank 0 wants to know."""
        is_sharded, is_flat = sharding_of(named.values())
        is_joint = self._world > 1 and (bool(ranks) or is_sharded)
        if is_sharded and ranks == "own" and rank_and_world_size()[1] > 1:
            raise ShardedParameters(
                'ranks is "own", and there are parameters of which this process holds a part. Leave it out.'
            )
        mailbox = self._open_mailbox(is_sharded, is_flat) if is_joint else None
        count = sum(len(group["params"]) for _, one in named.values() for group in one.param_groups)
        capacity = max(64, min(10_000, _QUEUE_BYTES // (max(1, count) * 4 * len(STATS))))
        if self._writer is None:
            return self._open_sink_elsewhere(mailbox, capacity)
        if mailbox is not None:
            self._writer.set_meta("world_size", str(self._world))
            self._team = RankGatherer(mailbox, self._world)
        mirror = _mirror(self.run, len(named)) if tensorboard else None
        at_once = bool(self._stop_on)
        return Recorder(self._writer, capacity=capacity, at_once=at_once, mirror=mirror, team=self._team)

    def _open_mailbox(self, is_sharded: bool, is_flat: bool) -> Mailbox | None:
        by_us = self.policies or self._habits.skip_nonfinite
        if by_us and is_flat:
            raise ShardedParameters(
                "Parameters are sharded by FSDP1, whose parts gradwatch can record and not clip or skip."
                " Leave clip= and skip_nonfinite= out and call the model's own clip_grad_norm_, or use fully_shard."
            )
        try:
            return Mailbox(self._rank)
        except Exception as error:
            if is_sharded:
                raise ShardedParameters(
                    "Parameters are sharded over processes, and what these have can't be brought together:"
                    f" torch.distributed has no store here ({error}). Train without gradwatch, or by DDP."
                ) from error
            logger.warning("gradwatch can't hear the other ranks: %s (ranks-not-heard)", error)
            return None

    def _open_sink_elsewhere(self, mailbox: Mailbox | None, capacity: int) -> StepSink:
        first_steps = None if mailbox is None else mailbox.announced("open", RANK_0_WITHIN)
        if mailbox is None or first_steps is None:
            if mailbox is not None:
                logger.warning("gradwatch is not attached in rank 0: nothing is recorded here (rank-silent)")
            return NullSink()
        return RankSender(mailbox, first_steps, capacity)

    def _begin_attempt(self, writer: StoreWriter, named: Mapping[str, tuple[nn.Module, Optimizer]]) -> None:
        writer.begin_attempt(
            {
                "gradwatch": _version(),
                "torch": str(torch.__version__),
                "python": platform.python_version(),
                "model": ", ".join(dict.fromkeys(_class_of_model(model) for model, _ in named.values())),
                "moment": "before clipping",
                "stats": ",".join(self._habits.stats),
                "every": str(self._habits.every),
                "journal_mode": writer.journal_mode,
            }
            | {f"clip.{name}": repr(policy) for name, policy in self.policies.items()},
            {},
        )
        if self._total_steps is not None:
            writer.set_meta("total_steps", str(self._total_steps))

    def _admit(self, name: str, model: nn.Module, optimizer: Optimizer, first_step: int | None = None) -> StepTracker:
        beginning = self._recorder.begin(name, _class_of(optimizer), settings_of(optimizer), first_step)
        tracked = self._new_tracked(name, optimizer, model, beginning)
        if not beginning.is_recorded:  # no process asks for its numbers
            acts = tracked.name in self.policies or self._habits.skip_nonfinite
            tracked.change(measures=acts, every=1, weights_every=0)
        self._recorder.admit(tracked, beginning)
        return tracked

    def _new_tracked(self, name: str, optimizer: Optimizer, model: nn.Module, beginning: Beginning) -> StepTracker:
        habits = replace(self._habits, clip=self.policies.get(name))
        if isinstance(optimizer, OptimizersInBackward):
            return InBackwardTracker(name, optimizer, model, habits, beginning)
        kind = NoOptimizerTracker if isinstance(optimizer, NoOptimizer) else StepTracker
        return kind(name, optimizer, model, habits, beginning)

    def _listen_to_steps(self, tracked: StepTracker) -> None:
        if isinstance(tracked.optimizer, NoOptimizer):
            return
        optimizer = tracked.optimizer
        for one in optimizer.members if isinstance(optimizer, OptimizersInBackward) else [optimizer]:
            self._by_optimizer[id(one)] = tracked
            self._stops.append(listen_to_steps(one, self))

    # --------------------------------------------------------------------------------- for users

    @property
    def steps(self) -> int:
        """The number of the next step; with several optimizers that of the furthest."""
        return max(t.step for t in self._tracked)

    @property
    def optimizers(self) -> list[str]:
        """The names under which optimizers are recorded."""
        return [t.name for t in self._tracked]

    @property
    def models(self) -> list[nn.Module]:
        """Those that give parameters their names, each once."""
        return list({id(t.model): t.model for t in self._tracked}.values())

    @property
    def parameter_ids(self) -> set[int]:
        """The `id` of every parameter that an optimizer has."""
        return set().union(*(t.ids for t in self._tracked))

    @property
    def route(self) -> str:
        """How gradients are read, in words."""
        if reads_once([p for t in self._tracked for p in t.parameters]):
            return "the compiled pass, all four statistics in one read"
        return f"PyTorch's operators; zeros are counted every {ZEROS_EVERY} steps"

    @property
    def steps_within_backward(self) -> bool:
        """Whether optimizers step while gradients are still being made."""
        return any(isinstance(t, InBackwardTracker) for t in self._tracked)

    def log(self, *, loss: float | Tensor | None = None, optimizer: str | None = None) -> None:
        """Add the loss to the step: the last one made, or the next one where the first call came before it.

        A tensor is not waited for. Called several times for one step (micro-batches), the mean
        counts. With several optimizers it goes to all of them, or to the one named. Where it is
        never called, the loss of a step is the sum of the tensors on which `backward` was called
        for it, divided by a GradScaler's scale.
        """
        self._log(loss, optimizer)

    @_guarded
    def add(self, name: str, model: nn.Module, optimizer: Optimizer) -> None:
        """Record one more optimizer from here on; its steps count from those made so far."""
        self._recorder.flush()
        tracked = self._admit(name, model, optimizer)
        self._tracked.append(tracked)
        self._listen_to_steps(tracked)

    @_guarded
    def gradients_ready(self, optimizer: Optimizer) -> None:
        """Say that an optimizer's gradients are as it will consume them, before any clipping.

        Needed only by a loop whose steps take a closure and that is to be clipped by ``clip``: call it
        in the closure, after backward.
        """
        tracked = self._by_optimizer.get(id(_unwrapped(optimizer)))
        if tracked is not None and not isinstance(tracked, InBackwardTracker):
            tracked.gradients_ready()

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything recorded so far is on the disk, at most ``timeout`` seconds."""
        self._release()
        return self._recorder.flush(timeout)

    def close(self, reason: str = "closed") -> None:
        """End the recording and detach. Calling it again does nothing."""
        if self._closed or os.getpid() != self._pid:
            return
        self._stop_on = ()  # the training has ended
        self._release()
        self._detach()
        if not self._recorder.close(reason):
            logger.error(
                "gradwatch is still writing %r; what is not on the disk when the process ends is lost"
                " (recording-unfinished)",
                str(self.run),
            )
        if self._rank == 0:
            self._say_what_was_lost()
        self._deliver_events()

    def _close_at_exit(self) -> None:
        """The script ended without closing; Python keeps the type of an exception that ended it."""
        uncaught = getattr(sys, "last_type", None)
        self.close("exit" if uncaught is None else f"exception {uncaught.__name__}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            self._drop_unmade_steps()
        self.close("closed" if kind is None else f"exception {kind.__name__}")

    # ------------------------------------------------------------------------------ what taps call

    @_guarded
    def before_step(self, optimizer: Optimizer, has_closure: bool) -> None:
        self._raise_recorder_fault()
        self._deliver_events()
        tracked = self._by_optimizer[id(optimizer)]
        if isinstance(tracked, InBackwardTracker):
            tracked.take(optimizer)
            return
        self._thread = threading.get_ident()
        tracked.release()
        new = tracked.refresh()
        if new is not None:
            self._recorder.join(tracked, new)
        tracked.before_step(has_closure)

    @_guarded
    def after_step(self, optimizer: Optimizer) -> None:
        tracked = self._by_optimizer[id(optimizer)]
        if not isinstance(tracked, InBackwardTracker):
            tracked.after_step()

    @_guarded
    def before_backward(self, tensors: Sequence[Tensor]) -> None:
        """What it is called on is a loss of the next step, if it reaches gradients of ours.

        A backward of another thread is another training's, and to look at our gradients there would
        meet our own backward writing them.
        """
        if threading.get_ident() != self._thread:
            return
        for tracked in self._tracked:
            tracked.before_backward()
        self._roots = _losses_among(tensors)

    @_guarded
    def count_earlier_backward(self, tensors: Sequence[Tensor]) -> None:
        """One that made the gradients that are there was before this watch began to listen."""
        for tracked in self._tracked:
            tracked.backwards += 1
        for loss in _losses_among(tensors):
            self._add_loss_of_backward(loss)

    @_guarded
    def after_backward(self) -> None:
        mine = threading.get_ident() == self._thread
        # All of them, for each takes note.
        reached = [t for t in self._tracked if (mine or isinstance(t, InBackwardTracker)) and t.is_reached()]
        if reached and mine:
            for loss in self._roots:
                self._add_loss_of_backward(loss)
        for tracked in reached:
            if isinstance(tracked, InBackwardTracker):
                tracked.after_backward()

    @_guarded
    def before_clip(self, call: ClipCall) -> None:
        tracked = self._tracked_of(call)
        if tracked:
            self._thread = threading.get_ident()
        for one in tracked:
            one.before_clip(call)
        if not tracked and _clips_nothing(call):
            for one in self._tracked:
                one.clipped_elsewhere("other-parameters" if call.parameters else "no-parameters")

    @_guarded
    def after_clip(self, call: ClipCall, total_norm: Tensor | None) -> None:
        for tracked in self._tracked_of(call):
            tracked.after_clip(call, total_norm)

    @_guarded
    def clip_failed(self, call: ClipCall) -> None:
        """Clipping raised, by `error_if_nonfinite` say: the step that will not be made is kept."""
        for tracked in self._tracked_of(call):
            tracked.drop()

    @_guarded
    def before_unscale(self, optimizer: Optimizer) -> None:
        if id(optimizer) in self._by_optimizer:
            self._by_optimizer[id(optimizer)].before_unscale()

    @_guarded
    def after_unscale(self, optimizer: Optimizer, scale: Tensor) -> None:
        if id(optimizer) in self._by_optimizer:
            self._by_optimizer[id(optimizer)].after_unscale(scale)

    @_guarded
    def before_scaled_step(self, optimizer: Optimizer, scale: Tensor) -> None:
        if id(optimizer) in self._by_optimizer:
            self._by_optimizer[id(optimizer)].before_scaled_step(scale)

    @_guarded
    def after_scaled_step(self, optimizer: Optimizer) -> None:
        if id(optimizer) in self._by_optimizer:
            self._by_optimizer[id(optimizer)].after_scaled_step()

    def _tracked_of(self, call: ClipCall) -> list[StepTracker]:
        return [t for t in self._tracked if any(id(parameter) in t.ids for parameter in call.parameters)]

    # ---------------------------------------------------------------------------------- the steps

    def _put(self, tracked: StepTracker, draft: PendingStep) -> None:
        self._recorder.put(draft, tracked)

    def _take_before_reduction(self) -> tuple[Measurement, ...]:
        return self._reductions.take()

    def _add_loss_of_backward(self, loss: float | Tensor) -> None:
        if self._takers:
            self._takers, self._losses_of_backward = set(), []
        self._losses_of_backward.append(loss)

    def _take_losses_of_backward(self, tracked: StepTracker) -> list[float | Tensor]:
        """The losses since the last step; optimizers that step one after the other share them."""
        if tracked.name in self._takers:
            return []
        self._takers.add(tracked.name)
        return list(self._losses_of_backward)

    @_guarded
    def _drop_unmade_steps(self) -> None:
        """An exception came between clipping and the step: what was measured is kept, as skipped."""
        for tracked in self._tracked:
            tracked.drop()

    @_guarded
    def _release(self) -> None:
        for tracked in self._tracked:
            tracked.release()

    @_guarded
    def _log(self, loss: object, optimizer: str | None) -> None:
        if loss is None:
            return
        meant = [tracked for tracked in self._tracked if optimizer in (None, tracked.name)]
        for tracked in meant:
            tracked.forget_losses_of_backward()
        try:
            value = loss_value(loss)
        except BadArgument as error:
            self._warn_once(str(error))
            return
        for tracked in meant:
            tracked.log(value)

    # ------------------------------------------------------------------------- trouble and the end

    def _listen_to_clip_calls(self) -> None:
        try:
            self._stops.append(listen_to_clip_calls(self))
        except TapError as error:
            logger.warning("%s; calls of clip_grad_norm_ are not seen, all else is (clip-calls-unseen)", error)

    def _detach(self) -> None:
        self._closed = True
        for stop in self._stops:
            stop()
        self._reductions.close()
        _open_watches.pop(self._key, None)
        _leave_termination_alone()
        atexit.unregister(self._close_at_exit)

    def _give_up(self, fault: Exception) -> None:
        """Report a fault of ours once and let the training go on alone."""
        try:
            self._detach()
            self._recorder.close("fault", timeout=5.0)
        except Exception as second:
            logger.debug("while giving up", exc_info=second)
        logger.error(
            "gradwatch stopped recording %r at step %d; the training goes on. %s: %s (recording-stopped)",
            str(self.run),
            self.steps,
            type(fault).__name__,
            fault,
        )
        logger.debug("the fault", exc_info=fault)

    def _raise_recorder_fault(self) -> None:
        if isinstance(self._recorder.fault, Exception):
            raise self._recorder.fault

    def _say_what_was_lost(self) -> None:
        if self._recorder.fault is not None:
            logger.error(
                "gradwatch could not write all of %r: %s (recording-stopped)", str(self.run), self._recorder.fault
            )
        if self._recorder.dropped:
            logger.warning(
                "gradwatch dropped %d steps of %r: the disk did not take them in time, or a rank was not heard"
                " (steps-dropped)",
                self._recorder.dropped,
                str(self.run),
            )

    def _warn_once(self, message: str) -> None:
        if message not in self.__dict__.setdefault("_warned", set()):
            self.__dict__["_warned"].add(message)
            logger.warning("%s", message)

    def _deliver_events(self) -> None:
        while (self._on_event is not None or self._stop_on) and self._recorder.events:
            event = self._recorder.events.popleft()
            self._tell(event)
            if event.kind in self._stop_on and event.severity != "info":
                self._stop_training(event)

    def _tell(self, event: Event) -> None:
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception as error:
                logger.error("on_event raised %s: %s; it is not called again (on-event)", type(error).__name__, error)
                self._on_event = None

    def _stop_training(self, event: Event) -> None:
        """End the recording, then the training."""
        self.close(f"stopped on {event.kind}")
        raise TrainingStopped(
            f"{event.kind} at step {event.step}: {event.message}. `gradwatch report {self.run}` shows what happened."
        )


def _mirror(run: Path, optimizers: int) -> Mirror | None:
    """Event files beside the store; without them the run is recorded all the same."""
    from gradwatch.sinks.event_files import EventFiles

    try:
        return EventFiles(run, optimizers > 1)
    except (ImportError, OSError) as error:
        logger.warning("gradwatch writes no event files: %s (mirror-stopped)", error)
        return None


def _losses_among(roots: Sequence[Tensor]) -> list[float | Tensor]:
    """What backward is called on may be no loss."""
    return [loss_value(root) for root in roots if root.numel() == 1 and not root.is_complex()]


def _clips_nothing(call: ClipCall) -> bool:
    return all(isinstance(parameter, nn.Parameter) and parameter.grad is None for parameter in call.parameters)


def _class_of_model(model: nn.Module) -> str:
    """Without what makes it one of several processes."""
    kind = type(model)
    if kind.__name__ in ("DistributedDataParallel", "FullyShardedDataParallel"):
        return _class_of_model(cast("nn.Module", model.module))
    if kind.__mro__[1].__name__ == "FSDPModule":  # `fully_shard` makes a class of both
        kind = kind.__mro__[2]
    return kind.__name__


def _class_of(optimizer: Optimizer) -> str:
    return type(optimizer.members[0] if isinstance(optimizer, OptimizersInBackward) else optimizer).__name__


def _resumed(step: int, attempt: int) -> Event:
    message = f"training was resumed at step {step} (attempt {attempt})"
    return Event(step=step, kind="resumed", severity="info", message=message, attempt=attempt)


def _version() -> str:
    from gradwatch import __version__

    return __version__


def _close_on_termination() -> None:
    """Close the open runs when SIGTERM would end the process by default; it still ends by it."""
    on_main = threading.current_thread() is threading.main_thread()
    if on_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)


def _leave_termination_alone() -> None:
    on_main = threading.current_thread() is threading.main_thread()
    if on_main and not _open_watches and signal.getsignal(signal.SIGTERM) is _terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminated(number: int, frame: FrameType | None) -> None:
    for watch in list(_open_watches.values()):
        watch.close("signal SIGTERM")
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
