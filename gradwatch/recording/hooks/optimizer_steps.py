"""Calls of `optimizer.step`, by PyTorch's own hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch.optim import Optimizer


class StepListener(Protocol):
    def before_step(self, optimizer: Optimizer, has_closure: bool) -> None: ...
    def after_step(self, optimizer: Optimizer) -> None: ...


def listen_to_steps(optimizer: Optimizer, listener: StepListener) -> Callable[[], None]:
    """Tell the listener before and after each step of the optimizer; return what ends it."""

    def before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # torch passes the optimizer itself as the first positional argument
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        listener.before_step(optimizer, closure is not None)

    def after(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        listener.after_step(optimizer)

    handles = [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]

    def stop() -> None:
        for handle in handles:
            handle.remove()

    return stop
