"""The surroundings of a call of `optimizer.step`: a GradScaler, and optimizers that step others."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer

from gradwatch.recording.hooks import steps_on_stack
from gradwatch.recording.pending import PendingStep


def scaling_of(optimizer: Optimizer) -> tuple[Tensor | None, Tensor | None]:
    """``found_inf`` and ``grad_scale``, by which a GradScaler tells a fused optimizer to skip and to unscale."""
    found_inf, scale = getattr(optimizer, "found_inf", None), getattr(optimizer, "grad_scale", None)
    return found_inf if isinstance(found_inf, Tensor) else None, scale if isinstance(scale, Tensor) else None


class Scaling:
    """What a GradScaler does with one optimizer between two steps.

    Attributes:
        scale: by which it multiplied the loss, where that is known.
    """

    def __init__(self) -> None:
        self.scale: Tensor | None = None
        self._measured: PendingStep | None = None
        self._step: int | None = None

    def begin(self, pending: PendingStep | None, gradients: Sequence[Tensor | None]) -> None:
        """The gradients are about to be unscaled."""
        self._measured = pending if pending is not None and pending.is_of(gradients) else None

    def end(self, scale: Tensor) -> PendingStep | None:
        """The gradients are unscaled; return the step that was measured of the scaled ones."""
        self.scale = scale.detach().clone()
        measured, self._measured = self._measured, None
        return measured

    def begin_step(self, scale: Tensor, step: int) -> None:
        """The scaler decides whether the optimizer makes this step."""
        self.scale, self._step = scale.detach().clone(), step

    def has_backed_off(self, step: int) -> bool:
        """Whether the optimizer, which is at this step now, did not make it."""
        return self._step == step

    def forget(self) -> None:
        """The step is over."""
        self.scale = self._step = None


class Nesting:
    """How deep the optimizers of one loop are within their `step`.

    One may step another that it holds, or call the `step` of the class that it extends; PyTorch calls
    the hooks for each. An exception leaves a step without an end, so what is on the stack decides.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = [weakref.ref(one) for one in optimizers]
        self._depth = 0

    def enter(self) -> bool:
        """A step begins; return whether it is no part of another."""
        if self._depth:
            self._depth = min(self._depth, max(1, steps_on_stack(one() for one in self._optimizers)) - 1)
        self._depth += 1
        return self._depth == 1

    def leave(self) -> bool:
        """A step ends; return whether it was no part of another."""
        self._depth = max(0, self._depth - 1)
        return self._depth == 0
