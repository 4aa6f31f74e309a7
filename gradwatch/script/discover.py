"""Find the models and optimizers of a script that attaches nothing.

Optimizers are noted as they are made. The next backward, clip call or step attaches those that are new, each with
the modules that own its parameters. If a script clips gradients and has no optimizer, it updates its weights
itself, and each clip call is recorded as a step.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import math
import multiprocessing
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence, Set
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradwatch import clip
from gradwatch.clip import NormClip, Policy
from gradwatch.distributed import rank_and_world_size
from gradwatch.errors import GradwatchError
from gradwatch.measure import is_sharded
from gradwatch.recording.attach import open_watch
from gradwatch.recording.hooks import (
    ClipCall,
    TapError,
    listen_to_backward,
    listen_to_clip_calls,
    listen_to_scaling,
    out_of_graphs,
    override_max_norm,
    tap_libraries,
)
from gradwatch.recording.hyperparameters import settings_text
from gradwatch.recording.losses import BackwardLoss, ScaledLosses, losses_among
from gradwatch.recording.optimizer_probe import is_probing
from gradwatch.recording.optimizers import (
    NoOptimizer,
    OptimizersInBackward,
    group_in_backward_optimizers,
    steps_in_backward,
    why_unheard,
    without_wrapped,
)
from gradwatch.recording.options import Ranks, RecorderKind, RecordingOptions
from gradwatch.recording.parameters import listed_or_none
from gradwatch.recording.watch import Watch
from gradwatch.script.found_config import ConfigListener
from gradwatch.script.plan import RecordingPlan, run_of_this_process
from gradwatch.sinks.targets import Destinations
from gradwatch.store import StoreReader

logger = logging.getLogger("gradwatch")


class Discovery:
    """Listens from the moment torch is imported, and records into one run.

    Attributes:
        watch: the recording; None before the first optimizer is attached.
        optimizers_seen: how many optimizers the script made.
        backwards: how many times it called backward.
        failed: nothing more is attached, because that raised.
        opened: when the recording began, in seconds since the epoch; None before.
    """

    def __init__(self, plan: RecordingPlan, is_child: bool = False, configs: ConfigListener | None = None) -> None:
        """Begin to listen. A child process that the script started has a run of its own if it trains alone."""
        self.watch: Watch | None = None
        self.optimizers_seen = 0
        self.backwards = 0
        self.failed = False
        self.opened: float | None = None
        self._plan = plan
        self._configs = configs
        self._own_run = run_of_this_process(plan.run) if is_child else plan.run  # where this process trains alone
        self._process = os.getpid(), multiprocessing.current_process()
        self._attaching = threading.RLock()  # threads that train may all find new optimizers at once
        self._steps_before = 0  # those of earlier attempts
        self._scaled = ScaledLosses()  # the first backward is called on a loss that was scaled before the recording
        self._earlier_losses: dict[int, list[BackwardLoss]] = {}  # of each thread's last backward before a recording
        self._attached: list[weakref.ref[Optimizer]] = []
        self._unheard: list[weakref.ref[Optimizer]] = []  # those of which this was said
        self._new: list[weakref.ref[Optimizer]] = _existing_optimizers() if is_child else []
        self._makers: MutableMapping[Optimizer, int] = weakref.WeakKeyDictionary()  # the threads that made them
        handle = register_optimizer_step_pre_hook(out_of_graphs(lambda one, *_: self._before_step(one)))
        self._stops = [self._listen_to_new_optimizers(), handle.remove, listen_to_backward(self)]
        self._stops.append(listen_to_scaling(self._scaled))
        if plan.replaced_max_norm is not None:
            self._stops.append(override_max_norm(plan.replaced_max_norm))
        if plan.steps is not None:
            self._stops.append(
                register_optimizer_step_post_hook(out_of_graphs(lambda *_: self._end_after_steps())).remove
            )
        with contextlib.suppress(TapError):  # the watch reports it
            self._stops.append(listen_to_clip_calls(self))

    @property
    def steps(self) -> int:
        """Steps made by the optimizer that made most; earlier attempts of a resumed run count too."""
        return 0 if self.watch is None else self.watch.steps

    def close(self, reason: str) -> None:
        """Stop listening and end the run. Calling it again does nothing."""
        stops, self._stops = self._stops, []
        for stop in stops:
            stop()
        if self.watch is not None:
            self.watch.close(reason)

    def _listen_to_new_optimizers(self) -> Callable[[], None]:
        """Note each optimizer as it is made; return what ends it."""
        original, discovery = Optimizer.__init__, self

        @functools.wraps(original)
        def init(self: Optimizer, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if is_probing():
                return
            discovery.optimizers_seen += 1
            discovery._makers[self] = threading.get_ident()
            discovery._new.append(weakref.ref(self))

        def stop() -> None:
            Optimizer.__init__ = original  # type: ignore[method-assign]

        Optimizer.__init__ = init  # type: ignore[method-assign]
        return stop

    def _follow_fork(self) -> None:
        """In a forked child begin a recording of its own; the watch that it inherited belongs to its parent."""
        pid, process = self._process
        if os.getpid() == pid:
            return
        is_bare_fork = multiprocessing.current_process() is process
        self._process = os.getpid(), multiprocessing.current_process()
        self._attaching = threading.RLock()  # a thread that is not here may hold the old one
        self._own_run = run_of_this_process(self._plan.run, is_bare_fork)
        self._new = _existing_optimizers()
        self._makers.clear()  # here is none of the other threads
        self.watch, self.failed, self.opened, self._earlier_losses, self._attached = None, False, None, {}, []
        # A child of multiprocessing ends without calling the handlers of atexit.
        Finalize(None, self.close, args=("exit",), exitpriority=100)

    # ------------------------------------------------------------------------------ what hooks call

    def before_backward(self, tensors: Sequence[Tensor]) -> None:
        self._follow_fork()
        self.backwards += 1
        self._end_after_steps(within_backward=False)
        tap_libraries()
        self._attach_new(within_training=True)
        if self.watch is None or self._new:
            self._earlier_losses[threading.get_ident()] = losses_among(tensors, self._scaled)

    def _end_after_steps(self, within_backward: bool = True) -> None:
        """End the script after its steps. Optimizers that step within the backward must all have stepped."""
        watch = self.watch
        if watch is None or self._plan.steps is None or watch.steps - self._steps_before < self._plan.steps:
            return
        if not (within_backward and watch.steps_within_backward):
            raise SystemExit

    def after_backward(self) -> None:
        """Required of a listener."""

    def before_norm(self, call: ClipCall) -> None:
        """Required of a listener."""

    def before_clip(self, call: ClipCall) -> None:
        self._attach_new(used=call.parameters)
        clips_something = any(parameter.grad is not None for parameter in call.parameters)
        if not self.optimizers_seen and self.watch is None and clips_something:
            with self._attaching:
                self._guard(lambda: self._attach_by_hand(call.parameters))

    def after_clip(self, call: ClipCall, total_norm: Tensor | None) -> None:
        """Required of a listener."""

    def clip_failed(self, call: ClipCall) -> None:
        """Required of a listener."""

    # ------------------------------------------------------------------------------------ attaching

    def _attach_by_hand(self, parameters: list[Tensor]) -> None:
        owned = list(owner_of(NoOptimizer(parameters)).parameters())
        self._attach([NoOptimizer(owned or parameters)])
        if self.watch is not None:
            self.watch.count_earlier_backward(self._earlier_losses.pop(threading.get_ident(), []))

    def _before_step(self, optimizer: Optimizer) -> None:
        self._attach_new(used=(listed_or_none(optimizer) or ()) if self._new else ())

    def _attach_new(self, within_training: bool = False, used: Sequence[Tensor] = ()) -> None:
        """Attach the optimizers that are new.

        Before a backward, a module sharded by `fully_shard` holds whole parameters, which are not those of the
        optimizer. Such an optimizer waits for the clip call or the step. So does one that another thread made, if
        there are several: this thread may not be the one that trains it.

        Args:
            within_training: a backward begins.
            used: parameters that this thread clips or steps.
        """
        self._follow_fork()
        if not self._new:
            return
        with self._attaching:
            self._attach_those(within_training, used)

    def _attach_those(self, within_training: bool, used: Sequence[Tensor]) -> None:
        new = self._take_new(within_training, used)
        if not new:
            return
        self._guard(lambda: self._attach(new))
        losses = self._earlier_losses.pop(threading.get_ident(), [])
        if self.watch is not None and not within_training:
            self.watch.count_earlier_backward(losses)

    def _take_new(self, within_training: bool, used: Sequence[Tensor]) -> list[Optimizer]:
        """The new optimizers that need not wait. Groups that can't be read now may be there at a later step."""
        references = list(self._new)
        several = len(_alive([*references, *self._attached])) > 1
        ids = set(map(id, used))
        taken: list[Optimizer] = []
        for reference in references:
            one = reference()
            if one is not None and (
                self._is_unheard(one)
                or (within_training and _is_sharded(one))
                or (several and self._is_of_another_thread(one, ids))
            ):
                continue
            self._new.remove(reference)  # in place, for another thread may be making an optimizer
            taken += [] if one is None else [one]
        return taken

    def _is_of_another_thread(self, optimizer: Optimizer, used: Set[int]) -> bool:
        here = threading.get_ident()
        if self._makers.get(optimizer, here) == here or steps_in_backward(optimizer):
            return False  # those that step within a backward leave no gradient to look at, and are taken together
        return used.isdisjoint(map(id, listed_or_none(optimizer) or ()))

    def _is_unheard(self, optimizer: Optimizer) -> bool:
        """Whether no step of an optimizer can be observed yet; the first time, say why."""
        why = why_unheard(optimizer)
        if why is not None and not any(one() is optimizer for one in self._unheard):
            self._unheard.append(weakref.ref(optimizer))
            logger.warning(
                "gradwatch does not record a %s of this script: %s (optimizer-not-heard)", type(optimizer).__name__, why
            )
        return why is not None

    def _guard(self, attach: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            attach()
        except Exception as error:
            self.failed = True
            logger.error("gradwatch does not record this run, the script goes on. %s", error)

    def _attach(self, optimizers: list[Optimizer]) -> None:
        alive = _alive(self._attached)
        owned = self._owned(optimizers, alive)
        run = self._run_to_record()
        if not owned or run is None:
            return
        self._attached = [weakref.ref(one) for one in (*alive, *optimizers)]
        policies = self._policies_for(owned)
        if self.watch is None:
            config = settings_text(self._config_of(owned))
            begun = time.time()
            self.watch = open_watch(owned, run, self._options(run, config), policies, scaled=self._scaled)
            self.opened = begun
            self._steps_before = self.watch.steps
            return
        self.watch.policies |= policies
        for name, (model, optimizer) in owned.items():
            self.watch.add(name, model, optimizer)

    def _owned(self, optimizers: list[Optimizer], alive: list[Optimizer]) -> dict[str, tuple[nn.Module, Optimizer]]:
        """The optimizers to record with their models, by the names that they get beside those recorded already."""
        known = 0 if self.watch is None else len(self.watch.optimizers)
        stepping = without_wrapped({str(known + i): one for i, one in enumerate(optimizers)}, alive)
        named = list(group_in_backward_optimizers(stepping).values())
        return {
            str(known + i): (owner, one) for i, (owner, one) in enumerate(zip(owners_of(named), named, strict=True))
        }

    def _config_of(self, owned: Mapping[str, tuple[nn.Module, Optimizer]]) -> Mapping[str, Any]:
        """The hyperparameters that the script gave to its models."""
        return {} if self._configs is None else self._configs.settings(model for model, _ in owned.values())

    def _run_to_record(self) -> Path | None:
        """The folder that this process records into; None if another one records.

        If torchrun started several processes that train alone, the first of them records.
        """
        if rank_and_world_size()[1] > 1:
            return self._plan.run
        is_shared = self._own_run == self._plan.run
        return None if is_shared and os.environ.get("RANK", "0") != "0" else self._own_run

    def _options(self, run: Path, config: str | None) -> RecordingOptions:
        plan = self._plan
        return RecordingOptions(
            config=config,
            every=plan.every,
            stop_on=plan.stop_on,
            skip_nonfinite=plan.skip_nonfinite,
            clip_only_unclipped=plan.clip is None,
            tensorboard=plan.tensorboard,
            # A process that the script started has a run of its own, and would write to the same places.
            destinations=self._destinations() if run == plan.run else Destinations(),
            total_steps=None if plan.steps is None else plan.steps + self._first_step(run),
            first_step=plan.first_step,
            recorder=cast("RecorderKind", plan.recorder),
            ranks=self._ranks(),
            before_reduction=plan.ranks,
            capture=plan.capture,
        )

    def _first_step(self, run: Path) -> int:
        """The number of the first step that the furthest optimizer will make."""
        if self._plan.first_step is not None:
            return self._plan.first_step
        try:
            with StoreReader(run) as reader:
                return max(reader.next_steps().values(), default=0)
        except GradwatchError:
            return 0  # there is no run to go on with; if it is unfit for another reason, opening it says so

    def _ranks(self) -> Ranks:
        if rank_and_world_size()[1] == 1:
            return False
        return "collective" if self._plan.ranks_collective else True

    def _destinations(self) -> Destinations:
        return Destinations(to=self._plan.to, notify=self._plan.notify, notify_link=self._plan.notify_link)

    def _policies_for(self, names: Iterable[str]) -> dict[str, Policy]:
        """The policies that the plan asks for, a fresh one for every optimizer."""
        chosen, max_norm = self._plan.clip, self._plan.max_norm
        if chosen is not None:
            make = getattr(clip, chosen.policy)
            return {name: make() if chosen.number is None else make(chosen.number) for name in names}
        if max_norm is None or not math.isfinite(max_norm):
            return {}
        return {name: NormClip(max_norm) for name in names}


def _alive(references: Iterable[weakref.ref[Optimizer]]) -> list[Optimizer]:
    return [one for one in (reference() for reference in references) if one is not None]


def _is_sharded(optimizer: Optimizer) -> bool:
    return any(is_sharded(parameter) for group in optimizer.param_groups for parameter in group["params"])


def _existing_optimizers() -> list[weakref.ref[Optimizer]]:
    """Those made before this process began to listen."""
    # By the type alone: `isinstance` asks proxies for their class, and they may answer with work.
    found = [one for one in gc.get_objects() if issubclass(type(one), Optimizer)]
    return [weakref.ref(one) for one in found if not isinstance(one, NoOptimizer | OptimizersInBackward)]


def owner_of(optimizer: Optimizer) -> nn.Module:
    """The module that owns the optimizer's parameters; if there are several, a ModuleDict of them.

    >>> import torch
    >>> first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> owner_of(torch.optim.SGD(first.parameters(), 0.1)) is first
    True
    >>> list(owner_of(torch.optim.SGD([*first.parameters(), *second.parameters()], 0.1)).children()) == [first, second]
    True
    """
    return owners_of([optimizer])[0]


def owners_of(optimizers: Sequence[Optimizer]) -> list[nn.Module]:
    """The owner of each one's parameters, found in one pass over all objects of the process."""
    if not optimizers:
        return []
    # By the type alone: `isinstance` asks proxies for their class, and they may answer with work.
    modules = [one for one in gc.get_objects() if issubclass(type(one), nn.Module)]
    return [_owner_among(modules, one) for one in optimizers]


def _owner_among(modules: Sequence[nn.Module], optimizer: Optimizer) -> nn.Module:
    wanted = {id(p): i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    roots = _outermost([m for m in modules if any(id(p) in wanted for p in m.parameters())])
    roots.sort(key=lambda m: min(wanted.get(id(p), len(wanted)) for p in m.parameters()))
    if len(roots) == 1:
        return roots[0]
    return nn.ModuleDict({f"{type(m).__name__}{i}": m for i, m in enumerate(roots)})


def _outermost(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """Those that are no part of another, each once."""
    within = {id(child) for m in modules for child in m.modules() if child is not m}
    return list({id(m): m for m in modules if id(m) not in within}.values())
