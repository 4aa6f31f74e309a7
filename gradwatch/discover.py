"""Finds the models and optimizers of a script that attached nothing, when its first gradients come.

Optimizers are noted as they are made. At every call of `Tensor.backward` those that are new are
attached, each with the modules that own its parameters; before a step of an optimizer that no
backward was seen for (`torch.autograd.backward`), the same.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import weakref
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradwatch.watch import Watch

logger = logging.getLogger("gradwatch")

_WRAPPERS = ("DistributedDataParallel", "DataParallel")


class Discovery:
    """Listens from the moment torch is imported; records into one run."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._pid = os.getpid()
        self._new: list[weakref.ref[Optimizer]] = []
        self._count = 0
        self._watch: Watch | None = None
        self._failed = False
        self._init, self._backward = Optimizer.__init__, Tensor.backward
        self._tap_optimizers()
        self._tap_backward()
        self._handle = register_optimizer_step_pre_hook(lambda *_: self._attach_new())

    def close(self) -> int:
        """Take the taps out and end the run; return how many steps it has."""
        Optimizer.__init__, Tensor.backward = self._init, self._backward  # type: ignore[method-assign]
        self._handle.remove()
        if self._watch is None:
            return 0
        self._watch.close("exit")
        return self._watch.steps

    def _tap_optimizers(self) -> None:
        original, discovery = self._init, self

        @functools.wraps(original)
        def init(self: Optimizer, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            discovery._new.append(weakref.ref(self))

        Optimizer.__init__ = init  # type: ignore[method-assign]

    def _tap_backward(self) -> None:
        original, discovery = self._backward, self

        @functools.wraps(original)
        def backward(self: Tensor, *args: Any, **kwargs: Any) -> None:
            discovery._attach_new()
            if discovery._watch is not None:
                discovery._watch.log_backward(self)
            original(self, *args, **kwargs)  # type: ignore[no-untyped-call]

        Tensor.backward = backward  # type: ignore[method-assign]

    def _attach_new(self) -> None:
        if not self._new or self._failed or os.getpid() != self._pid:
            return
        new, self._new = self._new, []
        try:
            self._attach([found for found in (made() for made in new) if found is not None])
        except Exception as error:
            self._failed = True
            logger.error("gradwatch does not record this run, the script goes on. %s", error)

    def _attach(self, optimizers: list[Optimizer]) -> None:
        named: dict[str, tuple[nn.Module, Optimizer]] = {}
        for optimizer in optimizers:
            named[str(self._count)] = (owner_of(optimizer), optimizer)
            self._count += 1
        if not named:
            return
        if self._watch is None:
            self._watch = Watch(named, self._run)
            return
        for name, (model, optimizer) in named.items():
            self._watch.add(name, model, optimizer)


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
    modules = [m for m in gc.get_objects() if issubclass(type(m), nn.Module)]
    owners = {id(m): m for m in modules if any(id(p) in wanted for p in m.parameters())}
    within = {id(child) for m in owners.values() for child in m.modules() if child is not m}
    roots = [_unwrapped(m) for key, m in owners.items() if key not in within]
    roots.sort(key=lambda m: min(wanted.get(id(p), len(wanted)) for p in m.parameters()))
    if len(roots) == 1:
        return roots[0]
    return nn.ModuleDict({f"{type(m).__name__}{i}": m for i, m in enumerate(roots)})


def _unwrapped(module: nn.Module) -> nn.Module:
    while type(module).__name__ in _WRAPPERS:
        module = module.get_submodule("module")
    return module
