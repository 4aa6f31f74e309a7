"""Finds the models and optimizers of a script that attached nothing, when its first gradients come.

Optimizers are noted as they are made. At every backward those that are new are
attached, each with the modules that own its parameters; before a step of an optimizer that no
backward was seen for, the same. Where gradients are clipped and there is no optimizer, the loop
updates its weights by itself and each clip call is a step.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import math
import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradwatch.clip import NormClip, Policy
from gradwatch.distributed import rank_and_world_size
from gradwatch.measure import is_sharded
from gradwatch.recording.hooks import ClipCall, TapError, listen_to_backward, listen_to_clip_calls, override_max_norm
from gradwatch.recording.in_backward import group_in_backward_optimizers
from gradwatch.recording.no_optimizer import NoOptimizer
from gradwatch.recording.optimizer_probe import is_probing
from gradwatch.recording.watch import Watch

logger = logging.getLogger("gradwatch")


class Discovery:
    """Listens from the moment torch is imported; records into one run."""

    def __init__(
        self, run: Path, max_norm: float | None = None, steps: int | None = None, tensorboard: bool = False
    ) -> None:
        """``max_norm`` takes the place of the script's threshold, or clips where it does not; infinity: nobody clips.

        After ``steps`` steps the script ends as by `sys.exit()`.
        """
        self.watch: Watch | None = None
        self.optimizers_seen = 0
        self.backwards = 0
        self._run = run
        self._pid = os.getpid()
        self._roots: list[Tensor] = []
        self._new: list[weakref.ref[Optimizer]] = []
        self.failed = False
        self._init = Optimizer.__init__
        self._tap_optimizers()
        handle = register_optimizer_step_pre_hook(lambda *_: self._attach_new())
        self._stops = [handle.remove, listen_to_backward(self)]
        self._max_norm, self._steps, self._tensorboard = max_norm, steps, tensorboard
        if max_norm is not None:
            self._stops.append(override_max_norm(max_norm))
        if steps is not None:
            self._stops.append(register_optimizer_step_post_hook(lambda *_: self._end_after_steps()).remove)
        with contextlib.suppress(TapError):  # the watch says it
            self._stops.append(listen_to_clip_calls(self))

    def close(self, reason: str) -> int:
        """Take the taps out and end the run; return how many steps it has."""
        Optimizer.__init__ = self._init  # type: ignore[method-assign]
        for stop in self._stops:
            stop()
        if self.watch is None:
            return 0
        self.watch.close(reason)
        return self.watch.steps

    def _tap_optimizers(self) -> None:
        original, discovery = self._init, self

        @functools.wraps(original)
        def init(self: Optimizer, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if is_probing():
                return
            discovery.optimizers_seen += 1
            discovery._new.append(weakref.ref(self))

        Optimizer.__init__ = init  # type: ignore[method-assign]

    # ------------------------------------------------------------------------------ what taps call

    def before_backward(self, tensors: Sequence[Tensor]) -> None:
        self.backwards += 1
        self._end_after_steps(within_backward=False)
        self._attach_new(within_training=True)
        if self.watch is None:
            self._roots = [root.detach() for root in tensors]

    def _end_after_steps(self, within_backward: bool = True) -> None:
        """Not while optimizers step within the backward: all of them are to have stepped."""
        watch = self.watch
        if watch is None or self._steps is None or watch.steps < self._steps:
            return
        if not (within_backward and watch.steps_within_backward):
            raise SystemExit

    def after_backward(self) -> None:
        """Nothing is left to do."""

    def before_clip(self, call: ClipCall) -> None:
        self._attach_new()
        clips_something = any(parameter.grad is not None for parameter in call.parameters)
        if not self.optimizers_seen and self.watch is None and clips_something:
            self._guard(lambda: self._attach_by_hand(call.parameters))

    def after_clip(self, call: ClipCall, total_norm: Tensor | None) -> None:
        """Nothing is left to do."""

    def clip_failed(self, call: ClipCall) -> None:
        """Nothing is left to do."""

    # --------------------------------------------------------------------------------- the attaching

    def _attach_by_hand(self, parameters: list[Tensor]) -> None:
        owned = list(owner_of(NoOptimizer(parameters)).parameters())
        self._attach([NoOptimizer(owned or parameters)])
        if self.watch is not None:
            self.watch.count_earlier_backward(self._roots)

    def _attach_new(self, within_training: bool = False) -> None:
        """Attach the optimizers that are new.

        Before a backward, modules that `fully_shard` has sharded hold their whole parameters, which are
        not those of the optimizer; these wait for the clip call or the step.
        """
        if not self._new:
            return
        new = [found for found in (made() for made in self._new) if found is not None]
        waiting = [one for one in new if within_training and _is_sharded(one)]
        self._new = [weakref.ref(one) for one in waiting]
        is_first = self.watch is None
        self._guard(lambda: self._attach([one for one in new if one not in waiting]))
        if self.watch is not None and is_first and not within_training:
            self.watch.count_earlier_backward(self._roots)

    def _guard(self, attach: Callable[[], None]) -> None:
        if self.failed or os.getpid() != self._pid:
            return
        try:
            attach()
        except Exception as error:
            self.failed = True
            logger.error("gradwatch does not record this run, the script goes on. %s", error)

    def _attach(self, optimizers: list[Optimizer]) -> None:
        known = 0 if self.watch is None else len(self.watch.optimizers)
        named = group_in_backward_optimizers({str(known + i): one for i, one in enumerate(optimizers)})
        owned = {str(known + i): (owner_of(one), one) for i, one in enumerate(named.values())}
        _, world = rank_and_world_size()
        if not owned or (world == 1 and os.environ.get("RANK", "0") != "0"):
            return  # a process that torchrun started and that trains by itself, beside one that records
        policies: dict[str, Policy] = {}
        if self._max_norm is not None and math.isfinite(self._max_norm):
            policies = {name: NormClip(self._max_norm) for name in owned}
        if self.watch is None:
            self.watch = Watch(
                owned,
                self._run,
                policies=policies,
                clip_only_unclipped=True,
                tensorboard=self._tensorboard,
                total_steps=self._steps,
                ranks=world > 1,
                before_reduction=False,
            )
            return
        self.watch.policies |= policies
        for name, (model, optimizer) in owned.items():
            self.watch.add(name, model, optimizer)


def _is_sharded(optimizer: Optimizer) -> bool:
    return any(is_sharded(parameter) for group in optimizer.param_groups for parameter in group["params"])


def owner_of(optimizer: Optimizer) -> nn.Module:
    """The module whose parameters the optimizer has; where there are several, a dict of them.

    >>> import torch
    >>> first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> owner_of(torch.optim.SGD(first.parameters(), 0.1)) is first
    True
    >>> list(owner_of(torch.optim.SGD([*first.parameters(), *second.parameters()], 0.1)).children()) == [first, second]
    True
    """
    wanted = {id(p): i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    # By the type alone: `isinstance` asks proxies for their class, and they may answer with work.
    modules: list[nn.Module] = [m for m in gc.get_objects() if issubclass(type(m), nn.Module)]
    owners = {id(m): m for m in modules if any(id(p) in wanted for p in m.parameters())}
    within = {id(child) for m in owners.values() for child in m.modules() if child is not m}
    roots = [m for key, m in owners.items() if key not in within]
    roots.sort(key=lambda m: min(wanted.get(id(p), len(wanted)) for p in m.parameters()))
    if len(roots) == 1:
        return roots[0]
    return nn.ModuleDict({f"{type(m).__name__}{i}": m for i, m in enumerate(roots)})
