"""`torch.amp.GradScaler`: when gradients are unscaled, and steps that it did not let happen.

A scaler that finds an infinity does not call ``optimizer.step``, so the hooks of the optimizer never
hear of that step. Its two methods are wrapped in the class, while anybody listens.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer


class ScalerListener(Protocol):
    def before_unscale(self, optimizer: Optimizer) -> None: ...
    def after_unscale(self, optimizer: Optimizer, scale: Tensor) -> None: ...
    def before_scaled_step(self, optimizer: Optimizer, scale: Tensor) -> None: ...
    def after_scaled_step(self, optimizer: Optimizer) -> None: ...


_listeners: list[ScalerListener] = []
_originals: dict[str, Callable[..., Any]] = {}
_lock = threading.Lock()


def listen_to_grad_scaler(listener: ScalerListener) -> Callable[[], None]:
    """Tell the listener what every enabled scaler of this process does; return what ends it."""
    with _lock:
        if not _listeners:
            for name, wrap in (("unscale_", _unscale), ("step", _step)):
                _originals[name] = getattr(GradScaler, name)
                setattr(GradScaler, name, wrap(_originals[name]))
        _listeners.append(listener)

    def stop() -> None:
        with _lock:
            if listener in _listeners:
                _listeners.remove(listener)
            while not _listeners and _originals:
                setattr(GradScaler, *_originals.popitem())

    return stop


def _scale_of(scaler: GradScaler) -> Tensor | None:
    return scaler._scale if scaler.is_enabled() else None


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
