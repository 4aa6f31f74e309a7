"""The parameters of one optimizer, in the order in which the run has them."""

from __future__ import annotations

import operator
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gradwatch.detect.optimizers import UPDATE_ROUTE, traits_of
from gradwatch.distributed.world import ParameterPart, rank_and_world_size
from gradwatch.measure import (
    closed_form_of,
    is_sharded,
    make_sums,
    part_of,
    parts_by_attributes,
    parts_in_fsdp1,
    reads_once,
)
from gradwatch.record import ParameterInfo
from gradwatch.store.limits import LARGEST

# What wrappers put into the names of parameters: DDP and DataParallel, compile, checkpointing, FSDP1, Fabric.
Trained: TypeAlias = Mapping[str, tuple[nn.Module, Optimizer]]
"""Each optimizer by its name, with the module that names its parameters."""

MARKED = 64
"""Entries of a parameter by which copies in several processes are told from other parameters of the same name."""

MOST_UNREGISTERED = 1000
"""Entries of a list that are looked at for parameters."""

_GRADIENT = operator.attrgetter("grad")
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


def unregistered_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters in plain lists and dicts of the model's modules, which PyTorch does not look into.

    Only the first entries of each are looked at: a model may hold a data set.

    >>> model = nn.Identity()
    >>> model.layers = [nn.Linear(1, 1)]
    >>> [name for name, _ in unregistered_parameters(model)], list(model.parameters())
    (['layers.0.weight', 'layers.0.bias'], [])
    """
    registered = {id(parameter) for parameter in model.parameters()}
    found: list[tuple[str, nn.Parameter]] = []
    for path, module in model.named_modules():
        for name, item in _in_containers(module, path):
            if isinstance(item, nn.Module):
                found += [(printable(f"{name}.{inner}"), p) for inner, p in item.named_parameters()]
            elif isinstance(item, nn.Parameter):
                found.append((printable(name), item))
    return [(name, parameter) for name, parameter in found if id(parameter) not in registered]


def _in_containers(module: nn.Module, path: str) -> Iterator[tuple[str, object]]:
    """The first entries of each plain list, tuple and dict of a module, by their names."""
    for attribute, value in vars(module).items():
        if attribute.startswith("_") or not isinstance(value, list | tuple | dict):
            continue
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in islice(items, MOST_UNREGISTERED):
            yield ".".join(filter(None, [path, attribute, str(key)])), item


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
    given = getattr(optimizer, "defaults", {})
    defaults = {name: value for name, value in given.items() if isinstance(name, str) and _is_plain(value)}
    route = "difference" if closed_form_of(optimizer) is None else "closed-form"
    return defaults | _probed(optimizer) | {UPDATE_ROUTE: route}


def _probed(optimizer: Optimizer) -> dict[str, str]:
    """What a trial of its class has shown; nothing of the classes of `torch.optim`, which a reader knows by name."""
    if type(optimizer).__module__.startswith("gradwatch."):  # one that stands for others, or for none
        members = getattr(optimizer, "members", ())
        return _probed(members[0]) if members else {}
    if is_of_torch(optimizer):
        return {}
    from gradwatch.recording.optimizer_probe import probed_settings

    return probed_settings(optimizer)


def is_of_torch(optimizer: Optimizer) -> bool:
    """Whether an optimizer's class is one of `torch.optim` itself, not a subclass of one."""
    kind = type(optimizer)
    return kind.__module__.startswith("torch.optim") and traits_of(kind.__name__).update_rule is not None


def _is_plain(value: object) -> bool:
    """Whether a store can hold the value as JSON."""
    if isinstance(value, int):
        return abs(value) <= LARGEST
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, float | str)


def sharding_of(trained: Iterable[tuple[nn.Module, Optimizer]]) -> tuple[bool, bool]:
    """Whether this process holds a part of any parameter, and whether some parts are plain tensors."""
    sharded = flat = False
    for model, optimizer in trained:
        parts = _plain_parts(model)
        for parameter in with_shapes(optimizer):
            in_flat = bool(parts.get(id(parameter), ((), ""))[1]) and not is_sharded(parameter)
            sharded |= in_flat or is_sharded(parameter)
            flat |= in_flat
    return sharded, flat


def _plain_parts(model: nn.Module) -> dict[int, tuple[tuple[int, ...], str]]:
    """The whole shape and the part's name of each plain tensor that is a part of a parameter, by its `id`."""
    return parts_by_attributes(model) | parts_in_fsdp1(model)


def listed(optimizer: Optimizer) -> list[Tensor]:
    """The parameters of all groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def with_shapes(optimizer: Optimizer) -> list[Tensor]:
    """The parameters of all groups but those of lazy modules, which have no shape before their first forward.

    >>> layers = nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 1))
    >>> import torch
    >>> [tuple(parameter.shape) for parameter in with_shapes(torch.optim.SGD(layers.parameters()))]
    [(1, 2), (1,)]
    """
    return [parameter for parameter in listed(optimizer) if not is_lazy(parameter)]


def _are_still_listed(optimizer: Optimizer, before: Sequence[Tensor]) -> bool:
    """Whether `with_shapes` would find the same, without a list: to make one takes longer than to compare."""
    lists = [group["params"] for group in optimizer.param_groups]
    return sum(map(len, lists)) == len(before) and all(map(operator.is_, chain.from_iterable(lists), before))


def listed_or_none(optimizer: Optimizer) -> list[Tensor] | None:
    """The parameters of all groups; None where its groups can't be read.

    A subclass that never calls `Optimizer.__init__` may have none, and where they are a property it may raise.
    """
    try:
        return listed(optimizer)
    except Exception:
        return None


def reference_to(optimizer: Optimizer) -> Callable[[], Optimizer | None]:
    """Refer to an optimizer of the script without keeping it alive; one of this package stays."""
    if type(optimizer).__module__.startswith("gradwatch."):
        return lambda: optimizer
    return weakref.ref(optimizer)


def marks_of(parameters: Sequence[Tensor]) -> list[int | None]:
    """A checksum of the first entries of each plain parameter, read from each device at once; None: not known.

    >>> import torch
    >>> one, other = torch.arange(20.0), torch.arange(20.0) + 1
    >>> first, second, third = marks_of([one, one.clone(), other])
    >>> first == second, first == third
    (True, False)
    """
    found: list[int | None] = [None] * len(parameters)
    heads: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for at, parameter in enumerate(parameters):
        is_plain = type(parameter) in (Tensor, nn.Parameter) and parameter.is_contiguous() and not parameter.is_meta
        if is_plain and parameter.is_floating_point():
            heads.setdefault(parameter.device, []).append((at, parameter.detach().view(-1)[:MARKED].float()))
    for each in heads.values():
        values = torch.cat([head for _, head in each]).cpu().numpy()
        ends = np.cumsum([len(head) for _, head in each])
        for (at, _), part in zip(each, np.split(values, ends[:-1]), strict=True):
            found[at] = zlib.crc32(part.tobytes())
    return found


class TrainedParameters:
    """What a `ParameterTable` holds of the training, which is to live as long as the optimizer and no longer."""

    def __init__(self, model: nn.Module, count: int) -> None:
        self.model = model
        self.listed: list[Tensor] = []
        self.parameters: list[Tensor | None] = [None] * count


class ParameterTable:
    """Which parameter stands at which position of the run's tables.

    A position is never given away again: a parameter that the optimizer let go of leaves it empty, and
    one of the same name takes it.

    Attributes:
        infos: of every position.
        parts: what this process has of each.
        present: which positions have a parameter.
        ids: of the parameters.
        is_sharded: whether other processes hold parts of them.
        devices: on which they lie.
        entries: of all of them, as many as they had when the last one came.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, stored: Sequence[ParameterInfo] = ()) -> None:
        """``stored`` are the parameters that the run knows already."""
        self.infos: tuple[ParameterInfo, ...] = tuple(stored)
        self.parts: list[ParameterPart | None] = [None] * len(stored)
        self.present: list[bool] = []
        self.ids: set[int] = set()
        self.is_sharded = False
        self.devices: frozenset[torch.device] = frozenset()
        self.entries = 0
        self._are_all_there = False
        trained = TrainedParameters(model, len(stored))
        self._trained: Callable[[], TrainedParameters | None] = lambda: trained
        self._optimizer = reference_to(optimizer)
        self.refresh()

    @property
    def optimizer(self) -> Optimizer | None:
        """None after the script has let go of it."""
        return self._optimizer()

    @property
    def model(self) -> nn.Module | None:
        """The one that gives the parameters their names; None after the optimizer is gone."""
        trained = self._trained()
        return None if trained is None else trained.model

    @property
    def parameters(self) -> list[Tensor | None]:
        """Of each position; None where this process has none now."""
        trained = self._trained()
        return [] if trained is None else trained.parameters

    @property
    def are_read_once(self) -> bool:
        """Whether all statistics of their gradients come from one read; Triton may have failed since the last step."""
        return reads_once(self.devices)

    def hand_over(self) -> TrainedParameters | None:
        """Return what holds the parameters; from now on whoever has it keeps them alive."""
        trained = self._trained()
        if trained is not None:
            self._trained = weakref.ref(trained)
        return trained

    def are_more_or_fewer(self) -> bool:
        """Whether the optimizer has more or fewer parameters than this knows of: `refresh` may find others."""
        optimizer, trained = self._optimizer(), self._trained()
        if optimizer is None or trained is None:
            return False
        return sum(len(group["params"]) for group in optimizer.param_groups) != len(trained.listed)

    def refresh(self) -> int | None:
        """Follow the optimizer's groups; return the first position that has another parameter than before."""
        optimizer, trained = self._optimizer(), self._trained()
        if optimizer is None or trained is None:
            return None
        if _are_still_listed(optimizer, trained.listed):
            return None
        now = trained.listed = with_shapes(optimizer)
        self.ids = {id(parameter) for parameter in now}
        trained.parameters = [p if p is not None and id(p) in self.ids else None for p in trained.parameters]
        first = self._take_in_new(optimizer, trained)
        self.present = [parameter is not None for parameter in trained.parameters]
        self._are_all_there = all(self.present)
        self.devices = frozenset(parameter.device for parameter in now)
        self.entries = sum(parameter.numel() for parameter in now)
        return first if first < len(self.infos) else None

    def wholes(self) -> dict[int, tuple[int, ...]]:
        """The shapes of those of which other processes hold a part, by position."""
        if not self.is_sharded:
            return {}
        parts = enumerate(self.parts)
        return {at: held.info.shape for at, held in parts if held is not None and held.part.strip(",-")}

    def gradients(self) -> list[Tensor | None]:
        """Each parameter's ``grad``; None for a parameter without one."""
        return list(self._each_gradient())

    def has_gradients(self) -> bool:
        """Whether a parameter has a ``grad``; takes half as long as `gradients` to say that none has."""
        return any(map(operator.is_not, self._each_gradient(), repeat(None)))

    def _each_gradient(self) -> Iterable[Tensor | None]:
        parameters = self.parameters
        if self._are_all_there:  # as usual
            return map(_GRADIENT, parameters)
        return (None if parameter is None else parameter.grad for parameter in parameters)

    def gradients_to_act_on(self) -> list[Tensor | None]:
        """The same, with sums that the processes had not made yet; every process of a mesh calls this alike."""
        if self.is_sharded:
            make_sums(self.parameters)
        return self.gradients()

    def _take_in_new(self, optimizer: Optimizer, trained: TrainedParameters) -> int:
        """Give a position to each parameter that has none; return the first one given."""
        positions = {info.name: position for position, info in enumerate(self.infos)}
        held = {id(parameter) for parameter in trained.parameters if parameter is not None}
        flat = _plain_parts(trained.model)
        first = len(self.infos)
        new = [(name, parameter) for name, parameter in _named(optimizer, trained.model) if id(parameter) not in held]
        # Memory of a parameter that FSDP1 shards may be given back at the moment.
        plain = [p for _, p in new if id(p) not in flat] if rank_and_world_size()[1] > 1 else []
        marks = dict(zip(map(id, plain), marks_of(plain), strict=True))
        for name, parameter in new:
            part = self._part_of(name, parameter, flat, marks.get(id(parameter)))
            first = min(first, self._place(trained, positions.get(name), parameter, part))
        return first

    def _place(self, trained: TrainedParameters, position: int | None, parameter: Tensor, part: ParameterPart) -> int:
        if position is None:
            self.infos += (part.info,)
            trained.parameters.append(parameter)
            self.parts.append(part)
            return len(self.infos) - 1
        trained.parameters[position], self.parts[position] = parameter, part
        return position

    def _part_of(
        self, name: str, parameter: Tensor, flat: Mapping[int, tuple[tuple[int, ...], str]], mark: int | None
    ) -> ParameterPart:
        shape, part = flat.get(id(parameter), (tuple(parameter.shape), part_of(parameter)))
        self.is_sharded |= bool(part) or is_sharded(parameter)
        dtype = str(parameter.dtype).removeprefix("torch.")
        info = ParameterInfo(name=name, shape=shape, dtype=dtype)
        return ParameterPart(info=info, part=part, mark=None if part else mark)


def _named(optimizer: Optimizer, model: nn.Module) -> list[tuple[str, Tensor]]:
    """The optimizer's parameters with a shape in the model's order, then those that the model does not have."""
    own: dict[int, tuple[str, Tensor]] = {}
    for g, group in enumerate(optimizer.param_groups):
        for i, parameter in enumerate(group["params"]):
            if not is_lazy(parameter):
                own[id(parameter)] = (f"group{g}.{i}", parameter)
    in_model = [
        (name, parameter) for name, parameter in named_parameters(model) if own.pop(id(parameter), None) is not None
    ]
    return in_model + list(own.values())
