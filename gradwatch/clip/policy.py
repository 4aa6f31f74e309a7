"""The protocol of clipping policies, and how a policy is called in a training loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from gradwatch.clip import calls
from gradwatch.clip.calls import Clipping
from gradwatch.clip.scale import total_norm
from gradwatch.errors import BadArgument
from gradwatch.measure import Measurement, any_sharded, make_sums, measure, splits_units, stands_in, whole
from gradwatch.text import number


class Policy(Protocol):
    """Clips gradients from statistics already measured."""

    def clip(self, parameters: Sequence[Tensor | None], measured: Measurement) -> Clipping:
        """Clip the ``grad`` of the parameters in place.

        Args:
            parameters: those of one optimizer, always in the same order; None, or a ``grad`` of None,
                for what is not to be clipped.
            measured: the statistics of these gradients, position by position.
        """
        ...


class InLoop:
    """Makes a policy callable in a training loop, in the place of `torch.nn.utils.clip_grad_norm_`."""

    def __call__(self: Policy, parameters: Tensor | Iterable[Tensor]) -> Tensor:
        """Clip the gradients of the parameters in place and return the total norm before clipping, in float64.

        Where the policy skips the update, every ``grad`` becomes None, so that the optimizer does
        nothing. On an accelerator this waits for the device.
        """
        listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        make_sums(listed)
        return calls.by_policy(clip_by_policy, self, listed)[0]


@torch.no_grad()
def clip_by_policy(policy: Policy, parameters: list[Tensor]) -> tuple[Tensor, Clipping]:
    """Measure and clip."""
    measured = whole(measure([parameter.grad for parameter in parameters]), parameters)
    if not measured.present:
        return torch.zeros((), dtype=torch.float64), Clipping()
    norm = total_norm(measured)
    clipping = clip_parts(policy, parameters, measured)
    if bool(clipping.skip):
        for parameter in parameters:
            parameter.grad = None
    return norm, clipping


def clip_parts(policy: Policy, parameters: Sequence[Tensor | None], measured: Measurement) -> Clipping:
    """Clip the gradients; of those sharded over processes, this process's parts.

    Args:
        policy: given the same norms in every process, it does the same in every process.
        parameters: sharded or not.
        measured: the norms of whole gradients.

    Raises:
        BadArgument: the policy clips unit by unit, and units are divided over processes.
    """
    if getattr(policy, "by_unit", False) and any(splits_units(parameter) for parameter in parameters):
        raise BadArgument(
            f"{policy!r} clips unit by unit, but the units of some weights are divided over processes"
            " (sharded along another dimension than the first). Use a policy for the total norm, for example ZClip()."
        )
    if any_sharded(parameters):
        parameters = [stands_in(parameter) for parameter in parameters]
    return policy.clip(parameters, measured)


@dataclass
class Stateful(InLoop):
    """A policy with a history: tensors by name, on the device of the gradients, so that nothing waits for it."""

    _state: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the history, for a checkpoint.

        >>> from gradwatch.clip import ZClip
        >>> ZClip().state_dict()
        {}
        """
        return {name: value.clone() for name, value in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the history of a checkpoint.

        Raises:
            BadArgument: it holds something other than tensors.
        """
        wrong = [name for name, value in state.items() if not isinstance(value, Tensor)]
        if wrong:
            raise BadArgument(f"{wrong} in the state are not tensors; expected the result of state_dict().")
        self._state = {name: value.clone() for name, value in state.items()}

    def _on(self, like: Tensor) -> dict[str, Tensor]:
        """Return the state, moved to the device of ``like``."""
        if any(value.device != like.device for value in self._state.values()):
            self._state = {name: value.to(like.device) for name, value in self._state.items()}
        return self._state

    def fresh(self) -> Self:
        """Return a policy with the same settings and an empty history, for another optimizer."""
        other = copy(self)
        other._state = {}
        return other


def above_zero(**values: float) -> None:
    """Raise `BadArgument` for a setting that is not above 0."""
    for name, value in values.items():
        if not value > 0:
            raise BadArgument(f"{name} is {value!r}; expected a number above 0.")


def between(low: float, high: float, **values: float) -> None:
    """Raise `BadArgument` for a setting outside of [low, high]."""
    for name, value in values.items():
        if not low <= value <= high:
            raise BadArgument(f"{name} is {value!r}; expected a number from {number(low, 6)} to {number(high, 6)}.")
