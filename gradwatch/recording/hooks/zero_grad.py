"""Calls of `zero_grad` that set gradients to zero in place.

Gradients that become None are easy to see. Without reading it, a gradient that becomes zero looks like one that
was changed in another way, so the two methods are wrapped in their classes while there is a listener.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from gradwatch.recording.hooks.registry import HookRegistry


class ZeroListener(Protocol):
    def after_zeroing(self, ids: set[int]) -> None:
        """The gradients of the parameters of these ids were set to zero in place."""
        ...


def listen_to_zeroing(listener: ZeroListener) -> Callable[[], None]:
    """Tell the listener which gradients are set to zero in place; return what ends it."""
    return _listeners.add(listener)


def _put_in() -> Iterator[Callable[[], None]]:
    yield from _wrap(Optimizer, _of_optimizer)
    yield from _wrap(nn.Module, _of_module)


def _of_optimizer(optimizer: Any) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def _of_module(module: Any) -> set[int]:
    return {id(parameter) for parameter in module.parameters()}


def _wrap(owner: Any, ids_of: Callable[[Any], set[int]]) -> Iterator[Callable[[], None]]:
    original = owner.zero_grad

    @functools.wraps(original)
    def zero_grad(self: Any, set_to_none: bool = True) -> None:
        original(self, set_to_none)
        if not set_to_none and not torch.compiler.is_compiling():
            ids = ids_of(self)
            for listener in _listeners:
                listener.after_zeroing(ids)

    def restore() -> None:
        owner.zero_grad = original

    yield restore
    owner.zero_grad = zero_grad


_listeners: HookRegistry[ZeroListener] = HookRegistry(_put_in)
