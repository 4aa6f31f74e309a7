"""Hooks that listen to a training loop without changing its behaviour."""

from gradwatch.recording.hooks.backward import listen_to_backward
from gradwatch.recording.hooks.clip_calls import (
    ClipCall,
    TapError,
    listen_to_clip_calls,
    override_max_norm,
    take_compiled_clip,
    tap_libraries,
)
from gradwatch.recording.hooks.grad_scaler import listen_to_grad_scaler, listen_to_scaling
from gradwatch.recording.hooks.optimizer_steps import (
    listen_to_closures,
    listen_to_steps,
    out_of_graphs,
    steps_on_stack,
)
from gradwatch.recording.hooks.reduction import Reductions
from gradwatch.recording.hooks.zero_grad import listen_to_zeroing

__all__ = [
    "ClipCall",
    "Reductions",
    "TapError",
    "listen_to_backward",
    "listen_to_clip_calls",
    "listen_to_closures",
    "listen_to_grad_scaler",
    "listen_to_scaling",
    "listen_to_steps",
    "listen_to_zeroing",
    "out_of_graphs",
    "override_max_norm",
    "steps_on_stack",
    "take_compiled_clip",
    "tap_libraries",
]
