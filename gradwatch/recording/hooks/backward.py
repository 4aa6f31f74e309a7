"""Calls of `backward`, which add to gradients, and the losses of these calls.

`Tensor.backward` calls `torch.autograd.backward`, so a tap there hears both. A backward within
another (reentrant activation checkpointing) is part of it and is not reported.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from gradwatch.recording.hooks.registry import HookRegistry


class BackwardListener(Protocol):
    def before_backward(self, tensors: Sequence[Tensor]) -> None: ...
    def after_backward(self) -> None: ...


def listen_to_backward(listener: BackwardListener) -> Callable[[], None]:
    """Tell the listener before and after each backward of this process; return what ends it."""
    return _listeners.add(listener)


class _Depth(threading.local):
    value = 0


_depth = _Depth()


def _put_in() -> Iterator[Callable[[], None]]:
    original = torch.autograd.backward

    @functools.wraps(original)
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
        if _depth.value or torch.compiler.is_compiling():
            original(tensors, *args, **kwargs)
            return
        roots = _tensors(tensors)
        present = _listeners.tell(lambda listener: listener.before_backward(roots))
        _depth.value += 1
        try:
            original(tensors, *args, **kwargs)
        finally:
            _depth.value -= 1
            for listener in present:
                listener.after_backward()

    def restore() -> None:
        torch.autograd.backward = original

    yield restore
    torch.autograd.backward = backward


_listeners: HookRegistry[BackwardListener] = HookRegistry(_put_in)


def _tensors(roots: Any) -> list[Tensor]:
    if isinstance(roots, Tensor):
        return [roots]
    return [root for root in roots if isinstance(root, Tensor)] if isinstance(roots, Sequence) else []
