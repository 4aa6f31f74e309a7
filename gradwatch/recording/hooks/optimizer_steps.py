"""Calls of `optimizer.step`, by PyTorch's own hooks."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.optim import Optimizer


class StepListener(Protocol):
    def before_step(self, optimizer: Optimizer, has_closure: bool) -> None: ...
    def after_step(self, optimizer: Optimizer) -> None: ...


Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Hook = Callable[[Optimizer, tuple[Any, ...], dict[str, Any]], None]


def out_of_graphs(hook: Hook) -> Hook:
    """Keep a hook out of the graph where the script compiles a function that steps.

    PyTorch's own wrapper around `step` breaks the graph in any case. Without this the compiler would go through
    the whole recording, and warn of what it does not know. `torch.compiler.disable` imports the compiler,
    which takes a second, so that it waits until the script has done so.
    """
    disabled: list[Hook] = []

    def hooked(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not disabled:
            if "torch._dynamo" not in sys.modules:
                hook(optimizer, args, kwargs)
                return
            disabled.append(torch.compiler.disable(hook))  # type: ignore[no-untyped-call]
        disabled[0](optimizer, args, kwargs)

    hooked._torchdynamo_disable = True  # type: ignore[attr-defined]
    return hooked


def listen_to_steps(optimizer: Optimizer, listener: StepListener, kept: object = None) -> Callable[[], None]:
    """Tell the listener before and after each step of the optimizer; return what ends it.

    The object ``kept`` stays alive until then, or until the optimizer goes.
    """

    def before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any], kept: object = kept) -> None:
        # torch passes the optimizer itself as the first positional argument
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        listener.before_step(optimizer, closure is not None)

    def after(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        listener.after_step(optimizer)

    handles = [
        optimizer.register_step_pre_hook(out_of_graphs(before)),
        optimizer.register_step_post_hook(out_of_graphs(after)),
    ]

    def stop() -> None:
        for handle in handles:
            handle.remove()

    return stop


def listen_to_closures(optimizer: Optimizer, heard: Callable[[Optimizer], None]) -> Callable[[], None]:
    """Call ``heard`` each time that a step's closure has made the gradients, before the update takes them.

    Return what ends it. The step gets the script's closure in a function that returns what it returns.
    """

    def before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        # torch passes the optimizer itself as the first positional argument
        if kwargs.get("closure") is not None:
            return args, kwargs | {"closure": told(kwargs["closure"])}
        if len(args) > 1 and args[1] is not None:
            return (args[0], told(args[1]), *args[2:]), kwargs
        return None

    def told(closure: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(closure, updated=())
        def evaluated() -> Any:
            loss = closure()
            heard(optimizer)
            return loss

        return evaluated

    before._torchdynamo_disable = True  # type: ignore[attr-defined]
    return optimizer.register_step_pre_hook(before).remove
