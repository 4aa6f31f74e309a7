"""Optimizers of one parameter each that step within the backward pass, so that no gradient outlives it.

`p.register_post_accumulate_grad_hook` calls them. No moment has all gradients, so nothing can clip
them together; each is measured at its own step, and one backward is one step of the record.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from torch import nn
from torch.optim import Optimizer

from gradwatch.measure import Measurement, measure
from gradwatch.recording.hooks import ClipCall
from gradwatch.recording.pending import PendingStep, learning_rates_of
from gradwatch.recording.sink import Beginning
from gradwatch.recording.tracker import RecordingOptions, StepTracker


class OptimizersInBackward(Optimizer):
    """Stands for all of them; nobody steps it."""

    def __init__(self, members: Sequence[Optimizer]) -> None:
        # Not that of Optimizer: it would be noted as an optimizer of the script.
        self.members = list(members)
        self.defaults = members[0].defaults
        self.param_groups = [group for one in members for group in one.param_groups]


def group_in_backward_optimizers(named: Mapping[str, Optimizer]) -> dict[str, Optimizer]:
    """The optimizers, those that step within the backward as one, under the name of the first."""
    inside = {name: one for name, one in named.items() if _steps_in_backward(one)}
    if len(inside) < 2:
        return dict(named)
    first, *_ = inside
    together = OptimizersInBackward(list(inside.values()))
    return {
        name: together if name == first else one for name, one in named.items() if name not in inside or name == first
    }


def _steps_in_backward(optimizer: Optimizer) -> bool:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return len(parameters) == 1 and bool(getattr(parameters[0], "_post_accumulate_grad_hooks", None))


class InBackwardTracker(StepTracker):
    """Gathers what the members show during one backward."""

    def __init__(
        self,
        name: str,
        optimizer: OptimizersInBackward,
        model: nn.Module,
        habits: RecordingOptions,
        beginning: Beginning,
    ) -> None:
        super().__init__(name, optimizer, model, habits, beginning)
        self._found: dict[int, Measurement] = {}
        self._positions: dict[int, int] = {}
        self._stepped = False

    @property
    def optimizer_class(self) -> str:
        assert isinstance(self.optimizer, OptimizersInBackward)
        return type(self.optimizer.members[0]).__name__

    def take(self, member: Optimizer) -> None:
        """Measure the gradient that a member is about to consume."""
        self._stepped = True
        self._say_not_clipped("optimizers step within the backward, before all gradients are there")
        self._say_not_skipped("optimizers step within the backward, before all gradients are there")
        if not self._is_due():
            return
        if not self._positions:
            self._positions = {id(p): at for at, p in enumerate(self.parameters) if p is not None}
        (parameter,) = member.param_groups[0]["params"]
        self._found[self._positions[id(parameter)]] = measure([parameter.grad], self.stats())

    def before_backward(self) -> None:
        """The members tell."""

    def is_reached(self) -> bool:
        self.backwards += self._stepped
        return self._stepped

    def after_backward(self) -> None:
        """All that were to step have stepped."""
        self._stepped = False
        if self._found:
            draft = PendingStep(self.step, Measurement.of_positions(self._found, len(self.infos), self.stats()))
            draft.wall_time = time.time()
            rates = learning_rates_of(self.optimizer)
            draft.learning_rates = rates[:1] if all(rate == rates[0] for rate in rates) else rates
            self._found = {}
            self._losses_of_backward = self._habits.losses_of_backward(self)
            self._finish(draft)
        self.step += 1

    def before_clip(self, call: ClipCall) -> None:
        """Too late: the optimizers have stepped and let go of their gradients, or are about to make them."""
        if self._finished is not None:
            self._finished.clip_fault = "no-gradients"
