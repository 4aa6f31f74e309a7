"""The parameters of one optimizer, in the order in which the run has them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch.distributed import ParameterPart
from gradwatch.measure import is_sharded, make_sums, part_of, parts_in_fsdp1, reads_once
from gradwatch.record import ParameterInfo
from gradwatch.recording.optimizer_probe import probed_settings

# What wrappers put into the names of parameters: DDP and DataParallel, compile, checkpointing, FSDP1, Fabric.
_WRAPPERS = ("DistributedDataParallel", "DataParallel")
_INSERTED = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "_forward_module.")


def named_parameters(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The model's parameters by its own names, without what wrappers around it or its parts add.

    >>> model = nn.Sequential(nn.Linear(1, 1))
    >>> [name for name, _ in named_parameters(nn.DataParallel(model))]
    ['0.weight', '0.bias']
    >>> import torch
    >>> [name for name, _ in named_parameters(torch.compile(model))]
    ['0.weight', '0.bias']
    """
    wrappers = [path for path, module in model.named_modules() if type(module).__name__ in _WRAPPERS]
    # The innermost first, so that the paths of the outer ones still hold.
    inner_first = sorted(wrappers, key=len, reverse=True)
    found: list[tuple[str, Tensor]] = []
    for full_name, parameter in model.named_parameters():
        name = full_name
        for path in inner_first:
            prefix = f"{path}." if path else ""
            if name.startswith(f"{prefix}module."):
                name = prefix + name[len(prefix) + len("module.") :]
        for inserted in _INSERTED:
            name = name.replace(inserted, "")
        found.append((printable(name), parameter))
    return found


def printable(name: str) -> str:
    r"""A name that can be written as UTF-8: lone surrogates, which file names bring along, are escaped.

    >>> printable("layer"), printable("la\udce4er")
    ('layer', 'la\\udce4er')
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def class_of(optimizer: Optimizer) -> str:
    """The name of the class, or of the class of those that this one stands for."""
    return type(getattr(optimizer, "stands_for", optimizer)).__name__


def settings_of(optimizer: Optimizer) -> dict[str, Any]:
    """The defaults of an optimizer that can be written down, and what a trial of its class has shown."""
    plain = (bool, int, float, str, tuple, list, type(None))
    defaults = {name: value for name, value in optimizer.defaults.items() if isinstance(value, plain)}
    return defaults | probed_settings(optimizer)


def sharding_of(trained: Iterable[tuple[nn.Module, Optimizer]]) -> tuple[bool, bool]:
    """Whether this process holds a part of any parameter, and whether FSDP1 made the parts."""
    sharded = flat = False
    for model, optimizer in trained:
        parts = parts_in_fsdp1(model)
        for parameter in listed(optimizer):
            in_flat = bool(parts.get(id(parameter), ((), ""))[1]) and not is_sharded(parameter)
            sharded |= in_flat or is_sharded(parameter)
            flat |= in_flat
    return sharded, flat


def listed(optimizer: Optimizer) -> list[Tensor]:
    """The parameters of all groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


class ParameterTable:
    """Which parameter stands at which position of the run's tables.

    A position is never given away again: a parameter that the optimizer let go of leaves it empty, and
    one of the same name takes it.

    Attributes:
        model: gives the parameters their names.
        infos: of every position.
        parameters: None where this process has none now.
        parts: what this process has of each.
        present: which positions have a parameter.
        ids: of the parameters.
        is_sharded: whether other processes hold parts of them.
        are_read_once: whether all statistics come from one read.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, stored: Sequence[ParameterInfo] = ()) -> None:
        """``stored`` are the parameters that the run knows already."""
        self.infos: tuple[ParameterInfo, ...] = tuple(stored)
        self.parameters: list[Tensor | None] = [None] * len(stored)
        self.parts: list[ParameterPart | None] = [None] * len(stored)
        self.present: list[bool] = []
        self.ids: set[int] = set()
        self.is_sharded = False
        self.are_read_once = False
        self.model = model
        self._optimizer = optimizer
        self._listed: list[Tensor] = []
        self.refresh()

    def refresh(self) -> int | None:
        """Follow the optimizer's groups; return the first position that has another parameter than before."""
        now = listed(self._optimizer)
        if len(now) == len(self._listed) and all(map(operator.is_, now, self._listed)):
            return None
        self._listed = now
        self.ids = {id(parameter) for parameter in now}
        self.parameters = [p if p is not None and id(p) in self.ids else None for p in self.parameters]
        positions = {info.name: position for position, info in enumerate(self.infos)}
        held = {id(parameter) for parameter in self.parameters if parameter is not None}
        flat = parts_in_fsdp1(self.model)
        first = len(self.infos)
        for name, parameter in self._named():
            if id(parameter) not in held:
                part = self._part_of(name, parameter, flat)
                first = min(first, self._place(positions.get(name), parameter, part))
        self.present = [parameter is not None for parameter in self.parameters]
        self.are_read_once = reads_once(self.parameters)
        return first if first < len(self.infos) else None

    def gradients(self) -> list[Tensor | None]:
        """Each parameter's ``grad``; None where there is none."""
        return [None if parameter is None else parameter.grad for parameter in self.parameters]

    def gradients_to_act_on(self) -> list[Tensor | None]:
        """The same, with sums that the processes had not made yet; every process of a mesh calls this alike."""
        if self.is_sharded:
            make_sums(self.parameters)
        return self.gradients()

    def _place(self, position: int | None, parameter: Tensor, part: ParameterPart) -> int:
        if position is None:
            self.infos += (part.info,)
            self.parameters.append(parameter)
            self.parts.append(part)
            return len(self.infos) - 1
        self.parameters[position], self.parts[position] = parameter, part
        return position

    def _part_of(self, name: str, parameter: Tensor, flat: Mapping[int, tuple[tuple[int, ...], str]]) -> ParameterPart:
        shape, part = flat.get(id(parameter), (tuple(parameter.shape), part_of(parameter)))
        self.is_sharded |= bool(part) or is_sharded(parameter)
        dtype = str(parameter.dtype).removeprefix("torch.")
        return ParameterPart(info=ParameterInfo(name=name, shape=shape, dtype=dtype), part=part)

    def _named(self) -> list[tuple[str, Tensor]]:
        """The optimizer's parameters in the model's order, then those that the model does not have."""
        own: dict[int, tuple[str, Tensor]] = {}
        for g, group in enumerate(self._optimizer.param_groups):
            for i, parameter in enumerate(group["params"]):
                own[id(parameter)] = (f"group{g}.{i}", parameter)
        in_model = [
            (name, parameter)
            for name, parameter in named_parameters(self.model)
            if own.pop(id(parameter), None) is not None
        ]
        return in_model + list(own.values())
