"""What an optimizer has moved at a step: each parameter with its gradient and its moments, as they lie in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradwatch.measure.entries import PLAIN, is_wrapper
from gradwatch.measure.fused import is_dense
from gradwatch.measure.sharded import local

TensorOrNone = TypeVar("TensorOrNone", Tensor, Tensor | None)
UpdateRoute: TypeAlias = Literal["adam", "sgd"]


def closed_form_of(optimizer: Optimizer) -> UpdateRoute | None:
    """Return by which formula the update of an optimizer can be computed from its state; None if by none.

    Only the classes of PyTorch itself are known. A subclass may step otherwise.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> closed_form_of(torch.optim.AdamW([weight])), closed_form_of(torch.optim.Adagrad([weight]))
    ('adam', None)
    """
    kind = type(optimizer)
    if kind in (torch.optim.Adam, torch.optim.AdamW):
        return "adam"
    return "sgd" if kind is torch.optim.SGD else None


@dataclass(slots=True)
class Moved:
    """One parameter after its step, and what moved it. Settings may be tensors on its device."""

    position: int
    weight: Tensor
    gradient: Tensor
    moment: Tensor | None
    square: Tensor | None
    largest: Tensor | None
    step: Any
    is_step_remote: bool
    group: Mapping[str, Any]

    def moments(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return self.moment, self.square, self.largest

    def tensors(self) -> list[Tensor]:
        """Those of the parameter's size."""
        found = (self.weight, self.gradient, self.moment, self.square, self.largest)
        return [tensor for tensor in found if tensor is not None]


def moved_by(
    optimizer: Optimizer,
    route: UpdateRoute,
    parameters: Sequence[Tensor | None],
    places: Sequence[tuple[int, int, int]],
) -> list[Moved]:
    """What the optimizer has moved; a parameter whose gradient or state does not fit is left out."""
    of_groups = [(group, moments_of(route, group)) for group in optimizer.param_groups]
    found = (_moved(at, parameters[at], optimizer.state, *of_groups[of_group]) for at, of_group, _ in places)
    return [one for one in found if one is not None]


def _moved(
    at: int, parameter: Tensor | None, states: Mapping[Any, Any], group: Mapping[str, Any], names: tuple[str, str, str]
) -> Moved | None:
    gradient = _gradient_of(parameter)
    if parameter is None or gradient is None:
        return None
    state = states.get(parameter, {})
    moment, square, largest = state.get(names[0]), state.get(names[1]), state.get(names[2])
    if (names[0] and moment is None) or (names[1] and square is None) or (names[2] and largest is None):
        return None
    step = state.get("step")
    found = Moved(at, parameter, gradient, moment, square, largest, step, is_remote(step), group)
    if type(parameter) in PLAIN and type(gradient) in PLAIN:
        return found if parameter.numel() else None
    return _local_part(found)


def _gradient_of(parameter: Tensor | None) -> Tensor | None:
    """The gradient of a parameter, of real numbers in strides; None without one."""
    gradient = None if parameter is None else parameter.grad
    return None if gradient is None or gradient.layout is not torch.strided or gradient.is_complex() else gradient


def _local_part(one: Moved) -> Moved | None:
    """What this process holds of it; None where that is no entry, or can't be read."""
    weight, gradient = local(one.weight), local(one.gradient)
    if is_wrapper(weight) or is_wrapper(gradient) or not weight.numel():
        return None
    moment, square, largest = (None if each is None else local(each) for each in one.moments())
    return replace(one, weight=weight, gradient=gradient, moment=moment, square=square, largest=largest)


def moments_of(route: UpdateRoute, group: Mapping[str, Any]) -> tuple[str, str, str]:
    """The names in the state of moment, second moment and the largest second moment; empty where there is none."""
    if route == "sgd":
        return ("momentum_buffer" if group["momentum"] != 0 else "", "", "")
    return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq" if group["amsgrad"] else "")


def as_stepped(one: Moved) -> Moved | None:
    """A parameter with its tensors in the order in which its step has paired their entries.

    The fused kernels of PyTorch ignore strides: the first entry in the memory of the weight moves by the first in that
    of each moment. So moments that were made or loaded before the weights became channels last belong to other entries
    than their indices say. None where entries that lie next to each other in a tensor's memory are not all its own.
    """
    tensors = one.tensors()
    if not one.group.get("fused") or all(map(Tensor.is_contiguous, tensors)):
        return one
    if not all(map(is_dense, tensors)):
        return None
    moment, square, largest = map(_in_memory_order, one.moments())
    return replace(
        one,
        weight=_in_memory_order(one.weight),
        gradient=_in_memory_order(one.gradient),
        moment=moment,
        square=square,
        largest=largest,
    )


def _in_memory_order(tensor: TensorOrNone) -> TensorOrNone:
    """All entries of a dense tensor in one dimension, as they lie in memory."""
    if tensor is None:
        return None
    return tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())


def settings_of(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """Those of a group that may lie on a device."""
    return (group["lr"], *group.get("betas", ()), group.get("eps", 0.0), group["weight_decay"])


def is_remote(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_cpu
