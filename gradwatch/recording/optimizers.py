"""Which optimizers step: wrappers, those inside others, and what stands for several or for none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor
from torch.optim import Optimizer

from gradwatch.recording.parameters import listed


class NoOptimizer(Optimizer):
    """Stands where an optimizer is expected, in a loop without one. It is never stepped."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        # Not that of Optimizer, by which `gradwatch run` notes the optimizers of a script.
        self.defaults, self.param_groups = {}, [{"params": list(parameters)}]


class OptimizersInBackward(Optimizer):
    """Stands for optimizers of one parameter each that step within the backward pass. It is never stepped."""

    def __init__(self, members: Sequence[Optimizer]) -> None:
        # Not that of Optimizer, by which `gradwatch run` notes the optimizers of a script.
        self.members = list(members)
        self.defaults = members[0].defaults
        self.param_groups = [group for one in members for group in one.param_groups]

    @property
    def stands_for(self) -> Optimizer:
        """One of those, which are all of one class."""
        return self.members[0]


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimizer that steps: Accelerate and Fabric hand out wrappers around it."""
    inner = getattr(optimizer, "optimizer", None)
    return unwrapped(inner) if isinstance(inner, Optimizer) else optimizer


def with_inner(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizer and those that it holds for the same parameters, as SAM and Lookahead do.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = torch.optim.SGD([weight], lr=0.1)
    >>> optimizer.base_optimizer, optimizer.other = torch.optim.Adam([weight]), torch.optim.Adam([torch.zeros(1)])
    >>> [type(one).__name__ for one in with_inner(optimizer)]
    ['SGD', 'Adam']
    """
    ids = {id(parameter) for parameter in listed(optimizer)}
    held = [one for one in vars(optimizer).values() if isinstance(one, Optimizer)]
    return [optimizer, *(one for one in held if any(id(parameter) in ids for parameter in listed(one)))]


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
    parameters = listed(optimizer)
    return len(parameters) == 1 and bool(getattr(parameters[0], "_post_accumulate_grad_hooks", None))
