"""Calls of `optimizer.step`, by PyTorch's own hooks."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any, Protocol

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gradwatch.recording.hooks.carried import CarriedHook


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

    return _Uncompiled(hooked)


class _Uncompiled(CarriedHook):
    """A hook that the compiler does not enter."""

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    __call__._torchdynamo_disable = True  # type: ignore[attr-defined]


def steps_on_stack(optimizers: Iterable[Optimizer | None]) -> int:
    """Count the calls of `step` that are running, of these optimizers and in this thread."""
    wanted = {id(one) for one in optimizers if one is not None}
    count = 0
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is _step_code:
            count += id(frame.f_locals.get("self")) in wanted
        frame = frame.f_back
    return count


_step_code = Optimizer.profile_hook_step(lambda *_: None).__code__
"""What PyTorch wraps around every `step`, and calls the hooks in."""


class _Hearing:
    """What the hooks of an optimizer keep alive.

    Attributes:
        running: the hook that PyTorch has called and that has not returned.
    """

    def __init__(self, listener: StepListener, kept: object) -> None:
        self.listener: StepListener | None = listener
        self.kept = kept
        self.running: RemovableHandle | None = None


def _remover(
    optimizer: Optimizer, handles: Sequence[RemovableHandle], hearing: _Hearing | None = None
) -> Callable[[], None]:
    """Return what removes hooks, unless PyTorch has to go on from them to another at this moment.

    To remove one then would raise in the training, when PyTorch asks for the next hook. Such hooks stay.
    """
    reference, of_hearing = weakref.ref(optimizer), weakref.ref(hearing) if hearing is not None else lambda: None

    def remove() -> None:
        steps = steps_on_stack([reference()])
        running = getattr(of_hearing(), "running", None)
        if steps == 0 or (steps == 1 and running is not None and _is_last(running)):
            for handle in handles:
                handle.remove()

    return remove


def _is_last(hook: RemovableHandle) -> bool:
    """Whether PyTorch calls no other hook after this one."""
    hooks = hook.hooks_dict_ref()
    return hooks is not None and next(reversed(hooks), None) == hook.id


def listen_to_steps(optimizer: Optimizer, listener: StepListener, kept: object = None) -> Callable[[], None]:
    """Tell the listener before and after each step of the optimizer; return what ends it.

    The object ``kept`` stays alive until then, or until the optimizer goes.
    """
    hearing = _Hearing(listener, kept)
    hooks: list[RemovableHandle] = []

    def before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if hearing.listener is not None:
            # torch passes the optimizer itself as the first positional argument
            closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
            hearing.running = hooks[0]
            try:
                hearing.listener.before_step(optimizer, closure is not None)
            finally:
                hearing.running = None

    def after(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if hearing.listener is not None:
            hearing.running = hooks[1]
            try:
                hearing.listener.after_step(optimizer)
            finally:
                hearing.running = None

    remove = _remover(optimizer, hooks, hearing)
    try:
        hooks.append(optimizer.register_step_pre_hook(out_of_graphs(before)))
        hooks.append(optimizer.register_step_post_hook(out_of_graphs(after)))
    except BaseException:
        remove()
        raise
    return _end_of(hearing, remove)


def _end_of(hearing: _Hearing, remove: Callable[[], None]) -> Callable[[], None]:
    """Return what ends it. That holds neither the listener nor what is kept: only the optimizer's hooks do."""
    reference = weakref.ref(hearing)

    def stop() -> None:
        if (still := reference()) is not None:
            still.listener = still.kept = None
        remove()

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

    hears = [True]

    def told(closure: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(closure, updated=())
        def evaluated() -> Any:
            loss = closure()
            if hears:
                heard(optimizer)
            return loss

        return evaluated

    remove = _remover(optimizer, [optimizer.register_step_pre_hook(_Uncompiled(before))])

    def stop() -> None:
        hears.clear()
        remove()

    return stop
