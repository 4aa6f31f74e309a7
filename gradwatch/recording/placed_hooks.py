"""The hooks of one recording, put in and taken out in one place."""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

from torch.optim import Optimizer

from gradwatch.recording.hooks import (
    TapError,
    listen_to_backward,
    listen_to_clip_calls,
    listen_to_grad_scaler,
    listen_to_scaling,
    listen_to_steps,
    listen_to_zeroing,
)
from gradwatch.recording.hooks.backward import BackwardListener
from gradwatch.recording.hooks.clip_calls import ClipListener
from gradwatch.recording.hooks.grad_scaler import ScalerListener, ScalingListener
from gradwatch.recording.hooks.optimizer_steps import StepListener
from gradwatch.recording.hooks.registry import leave_everywhere
from gradwatch.recording.hooks.zero_grad import ZeroListener

logger = logging.getLogger("gradwatch")


class HookListener(
    BackwardListener, ClipListener, ScalerListener, ScalingListener, StepListener, ZeroListener, Protocol
):
    """Hears everything that the hooks report."""

    def clip_calls_unseen(self) -> None:
        """Clip calls of this PyTorch can't be seen."""
        ...


class PlacedHooks:
    """Everything by which a recording hears the training."""

    def __init__(self) -> None:
        self._stops: list[Callable[[], None]] = []
        self._stops_of: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)  # by optimizer

    def put_in(self, listener: HookListener) -> None:
        """Listen to everything that belongs to no single optimizer."""
        try:
            self._listen(listener)
        except BaseException:
            leave_everywhere(listener)
            raise

    def _listen(self, listener: HookListener) -> None:
        for listen in (listen_to_grad_scaler, listen_to_scaling, listen_to_backward, listen_to_zeroing):
            self._stops.append(listen(listener))
        try:
            self._stops.append(listen_to_clip_calls(listener))
        except TapError as error:
            listener.clip_calls_unseen()
            logger.warning(
                "%s; it does not see calls of clip_grad_norm_ but records everything else (clip-calls-unseen)", error
            )

    def listen_to(self, optimizer: Optimizer, listener: StepListener, *, name: str, kept: object) -> None:
        """Listen to the steps of an optimizer; its hooks keep the object ``kept`` alive."""
        self._stops_of[name].append(listen_to_steps(optimizer, listener, kept))

    def let_go(self, name: str) -> None:
        """Forget the hooks of an optimizer that is gone; they went with it."""
        self._stops_of.pop(name, None)

    def take_out(self) -> None:
        """Remove all hooks."""
        for stop in (*self._stops, *itertools.chain.from_iterable(self._stops_of.values())):
            stop()
