"""`torch.amp.GradScaler`: the loss before scaling, unscaling, and steps that it skips.

A scaler that finds an infinity does not call ``optimizer.step``, so the optimizer's hooks never see
that step. Its methods are wrapped in the class while there is a listener.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from gradwatch.recording.hooks.registry import HookRegistry


class ScalerListener(Protocol):
    def before_unscale(self, optimizer: Optimizer) -> None: ...
    def after_unscale(self, optimizer: Optimizer, scale: Tensor) -> None: ...
    def before_scaled_step(self, optimizer: Optimizer, scale: Tensor) -> None: ...
    def after_scaled_step(self, optimizer: Optimizer) -> None: ...


class ScalingListener(Protocol):
    def after_scaling(self, loss: Tensor, scaled: Tensor) -> None: ...


def listen_to_grad_scaler(listener: ScalerListener) -> Callable[[], None]:
    """Tell the listener what every enabled scaler of this process does; return what ends it."""
    return _listeners.add(listener)


def listen_to_scaling(listener: ScalingListener) -> Callable[[], None]:
    """Tell the listener of each loss that a scaler of this process multiplies; return what ends it."""
    return _scaling_listeners.add(listener)


def _put_in() -> Iterator[Callable[[], None]]:
    yield from _wrap("unscale_", _unscale)
    yield from _wrap("step", _step)


def _wrap(name: str, wrapper: Callable[..., Callable[..., Any]]) -> Iterator[Callable[[], None]]:
    original = getattr(GradScaler, name)
    yield lambda: setattr(GradScaler, name, original)
    setattr(GradScaler, name, wrapper(original))


_listeners: HookRegistry[ScalerListener] = HookRegistry(_put_in)
_scaling_listeners: HookRegistry[ScalingListener] = HookRegistry(lambda: _wrap("scale", _scale))


def _scale_of(scaler: GradScaler) -> Tensor | None:
    return scaler._scale if scaler.is_enabled() else None


def _scale(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def scale(self: GradScaler, outputs: Any) -> Any:
        scaled = original(self, outputs)
        if isinstance(outputs, Tensor) and scaled is not outputs and not torch.compiler.is_compiling():
            for listener in _scaling_listeners:
                listener.after_scaling(outputs, scaled)
        return scaled

    return scale


def _unscale(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def unscale_(self: GradScaler, optimizer: Optimizer) -> None:
        present = list(_listeners) if self.is_enabled() else []
        for listener in present:
            listener.before_unscale(optimizer)
        original(self, optimizer)
        scale = _scale_of(self)
        if scale is not None:
            for listener in present:
                listener.after_unscale(optimizer, scale)

    return unscale_


def _step(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def step(self: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        scale = _scale_of(self)
        if scale is None:
            return original(self, optimizer, *args, **kwargs)
        present = list(_listeners)
        for listener in present:
            listener.before_scaled_step(optimizer, scale)
        result = original(self, optimizer, *args, **kwargs)
        for listener in present:
            listener.after_scaled_step(optimizer)
        return result

    return step
