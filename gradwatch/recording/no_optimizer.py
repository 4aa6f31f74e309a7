"""A loop without any optimizer, `p.data.add_(p.grad, alpha=-lr)` say: a step is made at its clip call."""

from __future__ import annotations

import time
from collections.abc import Iterable

from torch import Tensor
from torch.optim import Optimizer

from gradwatch.recording.hooks import ClipCall
from gradwatch.recording.pending import PendingStep
from gradwatch.recording.tracker import StepTracker


class NoOptimizer(Optimizer):
    """Stands where an optimizer is expected; nobody steps it."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        # Not that of Optimizer: it would be noted as an optimizer of the script.
        self.defaults, self.param_groups = {}, [{"params": list(parameters)}]


class NoOptimizerTracker(StepTracker):
    """Records the gradients that a clip call sees; further calls before the next backward belong to it."""

    _goes_on = False

    def before_clip(self, call: ClipCall) -> None:
        self._goes_on = self._is_consumed()
        if self._goes_on:
            return
        self._say_not_clipped("there is no optimizer, the loop clips and updates by itself")
        self._say_not_skipped("there is no optimizer, the loop updates by itself")
        self.release()
        super().before_clip(call)

    def after_clip(self, call: ClipCall, total_norm: Tensor | None) -> None:
        if self._goes_on:
            self._add_clipping(self._finished, call, total_norm)
        elif self._draft is not None:
            draft: PendingStep = self._draft
            super().after_clip(call, total_norm)
            draft.wall_time = time.time()
            self._losses_of_backward = self._habits.losses_of_backward(self)
            self._finish(draft)
            self.step += 1
        elif not self._is_due():
            self.step += 1
        self._remember_consumed()
