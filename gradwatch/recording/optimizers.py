"""Finds the optimizers that step, among wrappers, nested optimizers, and stand-ins for several or for none."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch.recording.parameters import listed, listed_or_none

logger = logging.getLogger("gradwatch")


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
    """The optimizer that steps: Accelerate, Fabric and Opacus hand out wrappers around it.

    Opacus's wrapper never called `Optimizer.__init__`, so it has no hooks; the optimizer that it holds has them.
    """
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, Optimizer):
        return unwrapped(inner)
    if isinstance(optimizer, Optimizer) and not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        return next((unwrapped(one) for one in _held_by(optimizer)), optimizer)
    return optimizer


def why_unheard(optimizer: Optimizer) -> str | None:
    """Why the steps of an optimizer can't be observed; None where they can be."""
    if listed_or_none(optimizer) is None:
        return "its param_groups can't be read"
    if not isinstance(optimizer, NoOptimizer) and not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        return "it never called Optimizer.__init__, without which PyTorch calls no hooks in its step"
    return None


def with_stand_ins(named: Mapping[str, Optimizer], model: nn.Module) -> dict[str, Optimizer]:
    """Put a stand-in, whose steps are the clip calls, for each optimizer whose steps can't be observed.

    It gets the optimizer's parameters, or those of the model that no other optimizer holds.
    """
    unheard = {name: why for name, one in named.items() if (why := why_unheard(one)) is not None}
    held = {id(parameter) for one in named.values() for parameter in listed_or_none(one) or ()}
    free = [parameter for parameter in model.parameters() if id(parameter) not in held]
    for name, why in unheard.items():
        logger.warning(
            "Of optimizer %r, a %s, no step can be observed: %s. gradwatch records a step at each clip call instead"
            " (optimizer-not-heard)",
            name,
            type(named[name]).__name__,
            why,
        )
    return {name: NoOptimizer(listed_or_none(one) or free) if name in unheard else one for name, one in named.items()}


def steps_flat_part(model: nn.Module, optimizer: Optimizer) -> bool:
    """Whether DeepSpeed's ZeRO-1 or ZeRO-2 has given the optimizer a flat part of the weights in place of each group.

    Such a part is no parameter of the model.
    """
    if "deepspeed.runtime.zero.stage_1_and_2" not in sys.modules:
        return False
    own = {id(parameter) for parameter in model.parameters()}
    groups = [group["params"] for group in optimizer.param_groups if group["params"]]
    return bool(groups) and all(len(one) == 1 and one[0].dim() == 1 and id(one[0]) not in own for one in groups)


def with_inner(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizer and those that it holds for the same parameters, as SAM and Lookahead do.

    It holds them as attributes or in lists or mappings, and they may hold others.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = torch.optim.SGD([weight], lr=0.1)
    >>> optimizer.base_optimizer, optimizer.other = torch.optim.Adam([weight]), torch.optim.Adam([torch.zeros(1)])
    >>> optimizer.base_optimizer.parts = [torch.optim.Adagrad([weight])]
    >>> [type(one).__name__ for one in with_inner(optimizer)]
    ['SGD', 'Adam', 'Adagrad']
    """
    ids, found = {id(parameter) for parameter in listed(optimizer)}, [optimizer]
    for one in found:  # grows meanwhile
        for inner in _held_by(one):
            is_new = all(inner is not other for other in found)
            if is_new and any(id(parameter) in ids for parameter in listed(inner)):
                found.append(inner)
    return found


def _held_by(optimizer: Optimizer) -> list[Optimizer]:
    held: list[Optimizer] = []
    for value in vars(optimizer).values():
        many = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        held += [one for one in many if isinstance(one, Optimizer)]
    return held


def without_wrapped(named: Mapping[str, Optimizer], known: Sequence[Optimizer] = ()) -> dict[str, Optimizer]:
    """The optimizers that get a loop of their own: of one and those that it holds, the one that steps.

    A wrapper counts instead of those inside, whose steps are part of its own. One that has no `step` of its own
    leaves its place to the one inside. One that is put around an optimizer that is recorded already does not count.

    Args:
        named: optimizers to record, by name.
        known: those that are recorded already.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> outer, inner = torch.optim.SGD([weight], lr=0.1), torch.optim.Adam([weight])
    >>> outer.base_optimizer = inner
    >>> list(without_wrapped({"outer": outer, "inner": inner})), list(without_wrapped({"outer": outer}, [inner]))
    (['outer'], [])
    """
    taken = {id(one) for one in known}
    stepping: dict[str, Optimizer] = {}
    wrapped: set[int] = set()
    for name, one in named.items():
        inner = with_inner(one)[1:]
        if any(id(each) in taken for each in inner):
            continue
        if inner and not _has_step(one):
            if not any(inner[0] is other for other in named.values()):
                stepping[name] = inner[0]
        else:
            stepping[name] = one
            wrapped.update(id(each) for each in inner)
    return {name: one for name, one in stepping.items() if id(one) not in wrapped}


def _has_step(optimizer: Optimizer) -> bool:
    """Whether its class has a `step` of its own; PyTorch wraps the one that is inherited, too."""
    return inspect.unwrap(type(optimizer).step) is not inspect.unwrap(Optimizer.step)


def group_in_backward_optimizers(named: Mapping[str, Optimizer]) -> dict[str, Optimizer]:
    """The optimizers, those that step within the backward as one, under the name of the first."""
    inside = {name: one for name, one in named.items() if steps_in_backward(one)}
    if len(inside) < 2:
        return dict(named)
    first, *_ = inside
    together = OptimizersInBackward(list(inside.values()))
    return {
        name: together if name == first else one for name, one in named.items() if name not in inside or name == first
    }


def steps_in_backward(optimizer: Optimizer) -> bool:
    """Whether it is of one parameter, and a hook calls it as soon as that has its gradient."""
    parameters = listed(optimizer)
    return len(parameters) == 1 and bool(getattr(parameters[0], "_post_accumulate_grad_hooks", None))
