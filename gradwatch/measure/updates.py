"""The update of an optimizer in closed form, read from its state right after the step.

Adam, AdamW and SGD keep everything that determines the update: the moments, the number of steps and the settings of
the group. The norms of the update and of the weights before it therefore follow from gradient, moments and weights,
without a copy of the weights. On the CPU the compiled pass (``fused.c``) reads them once, on CUDA a Triton kernel;
PyTorch's operators do so elsewhere and for other dtypes.

In a large model, evenly spaced runs of neighbouring entries are read of each long parameter, always the same ones.
The squared norms estimated from them are unbiased if the runs are representative.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import chain, groupby, repeat
from math import prod
from operator import attrgetter, is_not, itemgetter
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from gradwatch.measure.devices import is_on_host, move, to_device
from gradwatch.measure.entries import PLAIN, is_wrapper
from gradwatch.measure.fused import (
    DTYPES,
    Described,
    address_of,
    described,
    is_dense,
    measure_updates_fused,
    reads_updates,
)
from gradwatch.measure.measurement import Measurement, Part
from gradwatch.measure.routes import leave_triton, runs_triton, to_host
from gradwatch.measure.sampling import RUN, Sampling, even_share, read_sample, sampling_of
from gradwatch.measure.sharded import local
from gradwatch.record import UPDATE_STATS

TensorOrNone = TypeVar("TensorOrNone", Tensor, Tensor | None)
UpdateRoute: TypeAlias = Literal["adam", "sgd"]

READ_FUSED, READ_FUSED_EACH, READ_FUSED_LEAST = 2**20, 2**13, 2**16
"""Entries that the compiled pass reads of all parameters together at most, of each on average, and of all at least.

The fewer parameters a model has, the more often they are read. They are not in the caches after a step, so that a run
costs what its pages cost to reach: 2**18 entries took 2.0 ms of a step of an LSTM, 2**16 to 2**17 take 1.1 ms."""

READ_OPERATORS = 2**18
"""Entries that PyTorch's operators read, which need memory for it. A model that has no more is read whole by either."""

BATCH = 2**16
"""Entries that PyTorch's operators read at a time."""

SMALLEST = 1.2e-38
"""The least that a squared gradient is divided by: the smallest normal float32."""

_FUSED_TYPES = {torch.float32: 0, torch.bfloat16: 1}


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


COEFFICIENTS = (
    "rate",
    "decay",
    "coupled",
    "sign",
    "of_gradient",
    "of_moment",
    "root_scale",
    "square_scale",
    "eps",
)
"""The numbers of the formula in fused.c, in its order."""


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


def measure_updates(
    optimizer: Optimizer,
    parameters: Sequence[Tensor | None],
    most: int | None = None,
    only: Sequence[int] | None = None,
) -> Measurement | None:
    """Measure the update that an optimizer has just made of every parameter. Call it right after the step.

    Args:
        optimizer: that has stepped.
        parameters: by position; those that it does not have, those without a gradient, and wrapper subclasses of
            `Tensor` are left out.
        most: entries that are read of all of them together; None: as many as suit a whole model.
        only: the positions that are measured, ascending; None: all of them.

    Returns:
        `gradwatch.record.UPDATE_STATS` of each; None where the optimizer has no closed form.

    >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> weight.grad = torch.tensor([0.6, 0.8])
    >>> optimizer = torch.optim.SGD([weight], lr=0.5)
    >>> optimizer.step()
    >>> found = measure_updates(optimizer, [weight]).collect()
    >>> round(float(found["update_norm"][0]), 6), round(float(found["weight_norm"][0]), 6)
    (0.5, 5.0)
    """
    route = closed_form_of(optimizer)
    if route is None:
        return None
    places = _places_of(optimizer, parameters, only)
    part = _read_again(optimizer, route, parameters, places, most)
    parts = _read_anew(optimizer, route, parameters, places, most) if part is None else [part]
    return Measurement(UPDATE_STATS, len(parameters), tuple(parts))


@torch.no_grad()
def _read_anew(
    optimizer: Optimizer,
    route: UpdateRoute,
    parameters: Sequence[Tensor | None],
    places: _Places,
    most: int | None,
) -> list[Part]:
    """Find out what can be read of each parameter, read it, and keep that for the next step."""
    found = _moved(optimizer, route, parameters, places.found)
    parts, left, places.kept = _in_one_read(found, most) if reads_updates() else ([], found, None)
    of_device: defaultdict[torch.device, list[Moved]] = defaultdict(list)
    for one in left:
        of_device[one.weight.device].append(one)
    for device, own in of_device.items():
        launched, rest, places.kept = _in_one_launch(own, device, most)
        parts += launched
        if rest:
            parts += _by_operators(rest, most or READ_OPERATORS)
    if len(parts) != 1 or len(parts[0].positions) != len(places.found):
        places.kept = None
    return parts


def reads_updates_at_once(device: torch.device) -> bool:
    """Whether one pass reads the updates of parameters on a device, so that they can be read often.

    >>> reads_updates_at_once(torch.device("meta"))
    False
    """
    return reads_updates() if device.type == "cpu" else _kernel(device) is not None


def updates_route_of(parameters: Sequence[Tensor | None]) -> str:
    """Return in words how the updates of these parameters are read, for each kind of device where they lie.

    >>> updates_route_of([torch.ones(2, device="meta")])
    "PyTorch's operators on meta"
    """
    devices = {parameter.device.type: parameter.device for parameter in parameters if parameter is not None}
    return "; ".join(_route_on(device) for _, device in sorted(devices.items())) or _route_on(torch.device("cpu"))


def _route_on(device: torch.device) -> str:
    if not reads_updates_at_once(device):
        return f"PyTorch's operators on {device.type}"
    return "the compiled pass" if device.type == "cpu" else f"the Triton kernel on {device.type}"


@dataclass(slots=True)
class _Kept:
    """What one pass or launch has read of several parameters, to be read again at the next step with other numbers.

    Attributes:
        most: how many entries were to be read.
        lasting: where the weights lie, the moments, and the numbers of steps if they do on the device; sizes and types.
        kernel: of Triton; None: the compiled pass read it.
        dtypes: those that the kernel is compiled for.
        table: with addresses and settings.
    """

    most: int | None
    lasting: tuple[bytes, ...]
    kernel: ModuleType | None
    dtypes: Dtypes
    table: NDArray[np.uint64]


@dataclass(slots=True)
class _Places:
    """Where the groups of an optimizer have parameters.

    Attributes:
        lengths: of the groups.
        asked: the positions that were asked for and had a parameter; of all parameters, how many there were.
        found: of each that the optimizer has: its position among all, its group, and its place in the group.
        kept: what one pass or launch has read of all that were found; None where that took more, or something else.
    """

    lengths: list[int]
    asked: int | list[int]
    found: list[tuple[int, int, int]]
    kept: _Kept | None = None


_places: WeakKeyDictionary[Optimizer, dict[bool, _Places]] = WeakKeyDictionary()
"""What `_places_of` found last of all parameters and of some, of numbers alone: a parameter may refer to its optimizer
and would keep it here."""


def _places_of(optimizer: Optimizer, parameters: Sequence[Tensor | None], only: Sequence[int] | None) -> _Places:
    """Return what was found at the last call, as long as each parameter is still where it was.

    A few parameters of ten thousand are looked up at each step.
    """
    groups = [group["params"] for group in optimizer.param_groups]
    lengths = list(map(len, groups))
    asked: int | list[int]
    if only is None:
        asked = sum(map(is_not, parameters, repeat(None)))
    else:
        asked = [at for at in only if parameters[at] is not None]
    of_optimizer = _places.setdefault(optimizer, {})
    known = of_optimizer.get(only is None)
    if (
        known is None
        or (known.lengths, known.asked) != (lengths, asked)
        or any(at >= len(parameters) or groups[group][place] is not parameters[at] for at, group, place in known.found)
    ):
        among = range(len(parameters)) if isinstance(asked, int) else asked
        positions = {id(parameters[at]): at for at in among if parameters[at] is not None}
        # By position, as a `Measurement` of all of them has to be.
        found = sorted(
            (positions[id(parameter)], group, place)
            for group, listed in enumerate(groups)
            for place, parameter in enumerate(listed)
            if id(parameter) in positions
        )
        known = of_optimizer[only is None] = _Places(lengths, asked, found)
    return known


def _moved(
    optimizer: Optimizer,
    route: UpdateRoute,
    parameters: Sequence[Tensor | None],
    places: Sequence[tuple[int, int, int]],
) -> list[Moved]:
    """What the optimizer has moved; a parameter whose state does not fit is left out."""
    states, found = optimizer.state, []
    of_groups = [(group, _moments_of(route, group)) for group in optimizer.param_groups]
    for at, of_group, _ in places:
        parameter = parameters[at]
        gradient = None if parameter is None else parameter.grad
        if parameter is None or gradient is None or gradient.layout is not torch.strided or gradient.is_complex():
            continue
        group, (moment_name, square_name, largest_name) = of_groups[of_group]
        state = states.get(parameter, {})
        moment, square, largest = state.get(moment_name), state.get(square_name), state.get(largest_name)
        if (moment_name and moment is None) or (square_name and square is None) or (largest_name and largest is None):
            continue
        weight = parameter
        if type(parameter) not in PLAIN or type(gradient) not in PLAIN:
            weight, gradient = local(parameter), local(gradient)
            moment, square, largest = map(_local_part, (moment, square, largest))
            if is_wrapper(weight) or is_wrapper(gradient):
                continue
        if weight.numel():
            step = state.get("step")
            found.append(Moved(at, weight, gradient, moment, square, largest, step, _is_remote(step), group))
    return found


def _local_part(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else local(tensor)


def _moments_of(route: UpdateRoute, group: Mapping[str, Any]) -> tuple[str, str, str]:
    """The names in the state of moment, second moment and the largest second moment; empty where there is none."""
    if route == "sgd":
        return ("momentum_buffer" if group["momentum"] != 0 else "", "", "")
    return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq" if group["amsgrad"] else "")


# ------------------------------------------------------------------------------------- what is read


_SHAPE, _WEIGHT, _GRADIENT = map(attrgetter, ("shape", "weight", "grad"))


def _samplings(found: Sequence[Moved], most: int | None) -> tuple[Sampling, ...]:
    """Choose about ``most`` entries of all together; None: as many as one pass reads of a whole model.

    They are the same at every step.
    """
    return _sampled(_shapes(found), most)


def _shapes(found: Sequence[Moved]) -> tuple[torch.Size, ...]:
    return tuple(map(_SHAPE, map(_WEIGHT, found)))


@lru_cache(maxsize=64)
def _sampled(shapes: tuple[torch.Size, ...], most: int | None) -> tuple[Sampling, ...]:
    sizes = tuple(map(prod, shapes))
    share = even_share(sizes, most or _usual_read(sizes))
    return tuple(sampling_of(tuple(shape), share) for shape in shapes)


@lru_cache(maxsize=64)
def _compiled_table(shapes: tuple[torch.Size, ...], most: int | None) -> NDArray[np.uint64]:
    """The table of the compiled pass as words, without addresses and settings."""
    as_chosen = ((sampling.runs, sampling.length, sampling.stride) for sampling in _sampled(shapes, most))
    return _table_of(_WORDS, tuple(map(prod, shapes)), as_chosen)


@lru_cache(maxsize=64)
def _triton_table(shapes: tuple[torch.Size, ...], most: int | None) -> NDArray[np.uint64]:
    """The same of the Triton kernel, which reads runs of `RUN` entries also of a parameter that it reads whole."""
    sizes = tuple(map(prod, shapes))
    in_runs = (
        (-(-size // RUN), RUN, RUN) if sampling.is_whole else (sampling.runs, RUN, sampling.stride)
        for sampling, size in zip(_sampled(shapes, most), sizes, strict=True)
    )
    return _table_of(_ROW, sizes, in_runs)


def _table_of(
    words: Sequence[str], sizes: Sequence[int], samplings: Iterable[tuple[int, int, int]]
) -> NDArray[np.uint64]:
    """A row for each parameter, in which addresses and settings are left open."""
    table = np.zeros((len(sizes), len(words)), np.uint64)
    for name, column in zip(("runs", "length", "stride", "size"), (*zip(*samplings, strict=True), sizes), strict=True):
        table[:, words.index(name)] = column
    return table


def _usual_read(sizes: Sequence[int]) -> int:
    """How many entries of a whole model one pass reads."""
    if sum(sizes) <= READ_OPERATORS:
        return READ_OPERATORS
    return min(READ_FUSED, max(READ_FUSED_LEAST, READ_FUSED_EACH * len(sizes)))


# ------------------------------------------------------------------------------------ compiled pass


_POINTERS = ("weight", "gradient", "moment", "square", "largest")
_GRADIENT_AT, _MOMENT, _LARGEST = _POINTERS.index("gradient"), _POINTERS.index("moment"), _POINTERS.index("largest")
_TENSORS = tuple(map(attrgetter, _POINTERS))
_WORDS = (*_POINTERS, "type", "runs", "length", "stride", "size", *COEFFICIENTS)
"""``Update`` of fused.c, all of whose members have eight bytes."""
_FIRST_NUMBER = _WORDS.index(COEFFICIENTS[0])


def _in_one_read(found: Sequence[Moved], most: int | None) -> tuple[list[Part], Sequence[Moved], _Kept | None]:
    """Measure by the compiled pass; return the result, what it can't read, and what the next step needs for it."""
    readable = [one.weight.is_cpu and fits for one, fits in zip(found, _have_settings(found), strict=True)]
    fused, left = _with_pointers(found, readable, _FUSED_TYPES, of_one_dtype=True)
    if fused is None:
        return [], left, None
    own = fused.moved
    table = _compiled_table(_shapes(own), most).copy()
    _fill(table, fused.addresses, _numbers_of_moved(own))
    table[:, _WORDS.index("type")] = [_FUSED_TYPES[one.weight.dtype] for one in own]
    kept = None if left else _kept_of(own, most, None, (), table)
    return [_by_fused([one.position for one in own], table)], left, kept


def _have_settings(found: Sequence[Moved], device: torch.device | None = None) -> list[bool]:
    """Whether one pass finds the settings of each parameter: on the host, or as single float32 numbers on the device.

    The settings of a group are looked at once.
    """
    of_group: dict[int, bool] = {}
    for one in found:
        if id(one.group) not in of_group:
            of_group[id(one.group)] = _has_settings(one.group, device)
    return [of_group[id(one.group)] and (not one.is_step_remote or _is_number_at(one.step, device)) for one in found]


def _has_settings(group: Mapping[str, Any], device: torch.device | None) -> bool:
    rate, *others = _settings(group)
    return not any(map(_is_remote, others)) and _is_number_at(rate, device)


def _is_number_at(value: Any, device: torch.device | None) -> bool:
    if not _is_remote(value):
        return True
    return bool(value.device == device and value.dtype == torch.float32 and value.numel() == 1)


Dtypes: TypeAlias = tuple[torch.dtype, ...]
"""Those of weight, gradient, moment and second moment; in the place of one that is not there the gradient's."""


class _Readable(NamedTuple):
    """Parameters that one pass can read.

    Attributes:
        addresses: of the tensors of each, in the order of `_POINTERS`; 0 where there is none.
        alike: the places among these parameters of those that have the same dtypes; all of them as a slice.
    """

    moved: Sequence[Moved]
    addresses: NDArray[np.uint64]
    alike: Mapping[Dtypes, list[int] | slice]


def _with_pointers(
    found: Sequence[Moved], readable: Sequence[bool], dtypes: Mapping[torch.dtype, Any], *, of_one_dtype: bool
) -> tuple[_Readable | None, Sequence[Moved]]:
    """The parameters that one pass can read, None if there are none, and those that it can't.

    With ``of_one_dtype`` all tensors of one parameter have to have the same.
    """
    usual = _usual_pointers(found, dtypes, of_one_dtype=of_one_dtype) if found and all(readable) else None
    if usual is not None:
        return usual, ()
    fitting: list[Moved] = []
    left: list[Moved] = []
    addresses: list[tuple[int, ...]] = []
    alike: defaultdict[Dtypes, list[int]] = defaultdict(list)
    for one, fits in zip(found, readable, strict=True):
        pointers = _pointers(one, dtypes, of_one_dtype=of_one_dtype) if fits else None
        if pointers is None:
            left.append(one)
            continue
        alike[pointers[1]].append(len(fitting))
        fitting.append(one)
        addresses.append(pointers[0])
    return (_Readable(fitting, np.array(addresses, np.uint64), dict(alike)) if fitting else None), left


def _usual_pointers(
    found: Sequence[Moved], dtypes: Mapping[torch.dtype, Any], *, of_one_dtype: bool
) -> _Readable | None:
    """`_pointers` of all parameters, each thing asked of all at once, which takes a third of the time.

    None where one of them is unusual: it has gaps, or differs from others in what it has.
    """
    columns = [list(map(of_tensor, found)) for of_tensor in _TENSORS]
    there = [place for place, column in enumerate(columns) if column[0] is not None]
    if any(place not in there and any(map(is_not, column, repeat(None))) for place, column in enumerate(columns)):
        return None
    usual = described(list(chain.from_iterable(columns[place] for place in there)))
    if usual is None:
        return None
    sizes, kinds = usual.sizes.reshape(len(there), -1), usual.types.tolist()
    distinct = set(kinds)
    if not dtypes.keys() >= {DTYPES[kind] for kind in distinct} or (sizes != sizes[0]).any():
        return None
    if len(distinct) > 1:
        alike = _alike([DTYPES[kind] for kind in kinds], there, len(found), of_one_dtype=of_one_dtype)
    else:
        alike = _of_all(DTYPES[kinds[0]])
    if alike is None:
        return None
    addresses = np.zeros((len(found), len(_POINTERS)), np.uint64)
    addresses[:, there] = usual.addresses.reshape(len(there), -1).T
    return _Readable(found, addresses, alike)


@lru_cache(maxsize=8)
def _of_all(dtype: torch.dtype) -> Mapping[Dtypes, slice]:
    """`_Readable.alike` where every tensor has this dtype."""
    return {(dtype,) * _LARGEST: slice(None)}


def _alike(
    kinds: Sequence[torch.dtype], there: Sequence[int], count: int, *, of_one_dtype: bool
) -> Mapping[Dtypes, list[int] | slice] | None:
    """`_Readable.alike` of several dtypes, which are those of the tensors that are there; None where one is unusual."""
    columns: list[Sequence[torch.dtype]] = []
    for place in range(len(_POINTERS)):
        found = there.index(place) if place in there else -1
        instead = columns[1 if place < _LARGEST else place - 1] if found < 0 else ()
        columns.append(kinds[found * count : (found + 1) * count] if found >= 0 else instead)
    *columns, of_largest = columns
    if of_largest != columns[-1] or (of_one_dtype and any(column != columns[0] for column in columns)):
        return None
    alike: defaultdict[Dtypes, list[int]] = defaultdict(list)
    for at, of_parameter in enumerate(zip(*columns, strict=True)):
        alike[of_parameter].append(at)
    return dict(alike)


def _pointers(
    one: Moved, dtypes: Mapping[torch.dtype, Any], *, of_one_dtype: bool
) -> tuple[tuple[int, ...], Dtypes] | None:
    """The addresses of a parameter's tensors, 0 where there is none, in the order of `_POINTERS`; and the dtypes.

    None where a single pass can't read them: they have to be laid out alike or stepped by `_as_stepped`, in one memory,
    and of these dtypes, both second moments of the same.
    """
    weight, gradient = one.weight, one.gradient
    size, is_contiguous = weight.numel(), weight.is_contiguous()
    if one.largest is not None and one.square is not None and one.largest.dtype != one.square.dtype:
        return None
    where = weight.get_device()
    addresses: list[int] = []
    kinds: list[torch.dtype] = []
    for tensor in (weight, gradient, *one.moments()):
        if tensor is None:
            addresses.append(0)
            kinds.append(gradient.dtype)
            continue
        if type(tensor) not in PLAIN or tensor.numel() != size:
            return None
        if tensor.dtype not in dtypes or (of_one_dtype and tensor.dtype is not weight.dtype):
            return None
        if tensor.get_device() != where or tensor.is_cpu != weight.is_cpu:
            return None
        is_alike = tensor.is_contiguous() if is_contiguous else _are_laid_out_alike(tensor, weight)
        if not is_alike and not (one.group.get("fused") and is_dense(weight) and is_dense(tensor)):
            return None
        addresses.append(tensor.data_ptr())
        kinds.append(tensor.dtype)
        if not addresses[-1]:
            return None
    return tuple(addresses), tuple(kinds[:_LARGEST])


def _are_laid_out_alike(tensor: Tensor, weight: Tensor) -> bool:
    return tensor.stride() == weight.stride() and is_dense(weight)


def _as_stepped(one: Moved) -> Moved | None:
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


def _by_fused(positions: list[int], table: NDArray[np.uint64]) -> Part:
    values = measure_updates_fused(address_of(table), len(positions), len(UPDATE_STATS))
    return Part(positions, torch.from_numpy(np.ascontiguousarray(values.T)), None)


def _fill(table: NDArray[np.uint64], addresses: NDArray[np.uint64], numbers: NDArray[np.float64]) -> None:
    """Write the addresses and settings into the rows."""
    table[:, : len(_POINTERS)] = addresses
    table.view(np.float64)[:, _FIRST_NUMBER : _FIRST_NUMBER + numbers.shape[1]] = numbers


def _numbers_of(
    groups: Sequence[Mapping[str, Any]],
    steps: Sequence[float | None],
    *,
    is_adam: bool,
    more: Callable[[Mapping[str, Any]], tuple[float, ...]] = lambda group: (),
) -> NDArray[np.float64]:
    """The numbers of the formula in fused.c for each parameter, (parameters, 9 and more); (1, ...) where all have them.

    They are computed once for each group and step. A rate that lies on a device counts as 1, and a number of steps that
    does as endless: the Triton kernel multiplies by the one and corrects by the other.

    Args:
        groups: of each parameter.
        steps: that the state of each has made; None where it does not count them.
        is_adam: whether there are second moments.
        more: numbers of a group that follow.
    """
    keys = list(zip(map(id, groups), steps, strict=True))
    distinct = dict(zip(keys, groups, strict=True))
    rows = [
        (*coefficients(group, step, is_adam=is_adam, number=_float_here), *more(group))
        for (_, step), group in distinct.items()
    ]
    numbers = np.array(rows, np.float64)
    if len(rows) == 1:
        return numbers
    at = {key: row for row, key in enumerate(distinct)}
    return numbers[[at[key] for key in keys]]


def _numbers_of_moved(
    found: Sequence[Moved], more: Callable[[Mapping[str, Any]], tuple[float, ...]] = lambda group: ()
) -> NDArray[np.float64]:
    steps = [math.inf if one.is_step_remote else None if one.step is None else float(one.step) for one in found]
    return _numbers_of([one.group for one in found], steps, is_adam=found[0].square is not None, more=more)


def _float_here(value: Any) -> float:
    return 1.0 if _is_remote(value) else float(value)


def coefficients(
    group: Mapping[str, Any], step: Any, *, is_adam: bool, number: Callable[[Any], Any]
) -> tuple[Any, ...]:
    """The numbers of the formula in fused.c, from ``rate`` to ``eps``.

    Args:
        group: the settings of a parameter's group.
        step: how many steps its state has made.
        is_adam: whether it has a second moment.
        number: what makes a number of a setting: float, or a tensor on a device.
    """
    rate, decay = number(group["lr"]), number(group["weight_decay"])
    sign = -1.0 if group.get("maximize") else 1.0
    if not is_adam:
        momentum = number(group["momentum"])
        takes_gradient = group["momentum"] == 0 or bool(group["nesterov"])
        of_moment = momentum if group["momentum"] != 0 and group["nesterov"] else float(group["momentum"] != 0)
        return rate, decay if takes_gradient else 0.0, 0.0, sign, float(takes_gradient), of_moment, 1.0, 1.0, 0.0
    beta1, beta2 = map(number, group["betas"])
    first, second = 1.0 - beta1**step, 1.0 - beta2**step
    is_decoupled = group.get("decoupled_weight_decay", False)
    return (
        rate / first,
        decay * first if is_decoupled else 0.0,
        0.0 if is_decoupled else decay,
        sign,
        0.0,
        0.0,
        second**-0.5,
        1.0 / second,
        number(group["eps"]),
    )


# ------------------------------------------------------------------------------------- Triton kernel


_ROW = (*_WORDS, "step_at", "rate_at", "log_beta1", "log_beta2")
"""A row of the table in updates_triton.py. A number at an address lies on the device; 0: the row has it itself."""
ROW_WORDS = len(_ROW)
_STEP_AT = _ROW.index("step_at")


def _kernel(device: torch.device) -> ModuleType | None:
    """Return what reads the updates on a device by Triton; None if nothing does."""
    return _updates_triton() if runs_triton(device, "read updates") else None


@cache  # an import within a function takes a microsecond each time
def _updates_triton() -> ModuleType:
    from gradwatch.measure import updates_triton

    return updates_triton


def _in_one_launch(
    found: Sequence[Moved], device: torch.device, most: int | None
) -> tuple[list[Part], Sequence[Moved], _Kept | None]:
    """Measure by the Triton kernel, in one launch for each set of dtypes; return the result and what it can't read.

    And, where one launch has read all of them, what the next step needs for it.
    """
    kernel = _kernel(device)
    if kernel is None:
        return [], found, None
    readable, left = _with_pointers(found, _have_settings(found, device), kernel.DTYPES, of_one_dtype=False)
    if readable is None:
        return [], found, None
    rows = _triton_table(_shapes(readable.moved), most)
    parts = []
    kept = None
    try:
        for dtypes, places in readable.alike.items():
            own = readable.moved if isinstance(places, slice) else [readable.moved[at] for at in places]
            table = _rows(own, readable.addresses[places], rows[places].copy())
            first = own[0]
            values = kernel.read_updates(table, first.weight, dtypes, is_adam=first.square is not None)
            parts.append(to_host([one.position for one in own], values))
            kept = _kept_of(own, most, kernel, dtypes, table)
    except Exception as error:
        leave_triton("read updates", error)
        return [], found, None
    return parts, left, kept


def _kept_of(
    found: Sequence[Moved], most: int | None, kernel: ModuleType | None, dtypes: Dtypes, table: NDArray[np.uint64]
) -> _Kept | None:
    """What it takes to read all of these once more; None where something about them is unusual."""
    columns = [list(map(of_tensor, found)) for of_tensor in _TENSORS]
    columns = [column for column in columns if any(map(is_not, column, repeat(None)))]
    if found[0].is_step_remote:
        columns.append([one.step for one in found])
    usual = described(list(chain.from_iterable(columns)))
    return None if usual is None else _Kept(most, _lasting(usual, len(found)), kernel, dtypes, table)


def _read_again(
    optimizer: Optimizer,
    route: UpdateRoute,
    parameters: Sequence[Tensor | None],
    places: _Places,
    most: int | None,
) -> Part | None:
    """Read what was kept of the last reading, if weights and moments are where they were; None if they are not.

    This costs the host half as much as finding out anew what can be read of them.
    """
    kept, found = places.kept, places.found
    if kept is None or kept.most != most:
        return None
    groups = [optimizer.param_groups[group] for _, group, _ in found]
    distinct = _each_once(groups)
    names, *others = {_moments_of(route, group) for group in distinct}
    if others:
        return None
    weights: list[Any] = [parameters[at] for at, _, _ in found]
    states: list[Any] = list(map(optimizer.state.get, weights))
    try:
        columns = [weights, list(map(_GRADIENT, weights))]
        columns += [list(map(itemgetter(name), states)) for name in names if name]
        steps = list(map(itemgetter("step"), states)) if route == "adam" else []
    except (KeyError, TypeError):  # a parameter without a state
        return None
    is_remote = any(map(_is_remote, steps))
    now = described(list(chain.from_iterable([*columns, steps] if is_remote else columns)))
    count, device = len(found), weights[0].device
    if now is None or not all(_has_settings(group, device) for group in distinct):
        return None
    gradients = now.addresses[count : 2 * count]
    if _lasting(now, count) != kept.lasting:
        return None
    kernel = _kernel(device)
    if kernel is not kept.kernel or (kernel is None and not reads_updates()):
        return None
    known: list[float | None] = [math.inf if is_remote else float(step) for step in steps] or [None] * count
    positions = [at for at, _, _ in found]
    if kernel is None:
        _fill_again(kept.table, gradients, _numbers_of(groups, known, is_adam=route == "adam"))
        return _by_fused(positions, kept.table)
    numbers = _numbers_of(groups, known, is_adam=route == "adam", more=_numbers_on_device)
    _fill_rows_again(kept.table, gradients, numbers, has_moments=len(columns) > 2)
    return _launched_again(kernel, kept, weights[0], positions, is_adam=route == "adam")


def _launched_again(
    kernel: ModuleType, kept: _Kept, first: Tensor, positions: list[int], *, is_adam: bool
) -> Part | None:
    try:
        values = kernel.read_updates(kept.table, first, kept.dtypes, is_adam=is_adam)
    except Exception as error:
        leave_triton("read updates", error)
        return None
    return to_host(positions, values)


def _lasting(tensors: Described, count: int) -> tuple[bytes, ...]:
    """What stays from step to step: all but the addresses of the gradients, which follow those of ``count`` weights."""
    kept = (tensors.addresses[:count], tensors.addresses[2 * count :], tensors.sizes, tensors.types)
    return tuple(each.tobytes() for each in kept)


def _fill_again(table: NDArray[np.uint64], gradients: NDArray[np.int64], numbers: NDArray[np.float64]) -> None:
    """Write what differs from step to step into the table."""
    table[:, _GRADIENT_AT] = gradients
    table.view(np.float64)[:, _FIRST_NUMBER : _FIRST_NUMBER + numbers.shape[1]] = numbers


def _fill_rows_again(
    table: NDArray[np.uint64], gradients: NDArray[np.int64], numbers: NDArray[np.float64], *, has_moments: bool
) -> None:
    """The same of the table of the Triton kernel."""
    steps_at = table[:, _STEP_AT].copy()
    _fill_again(table, gradients, numbers)
    table[:, _STEP_AT] = steps_at
    if not has_moments:
        table[:, _MOMENT] = gradients  # as `_rows` has it


def _each_once(groups: Sequence[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    return dict(zip(map(id, groups), groups, strict=True)).values()


def _rows(found: Sequence[Moved], addresses: NDArray[np.uint64], table: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Fill the table of the Triton kernel."""
    _fill(table, addresses, _numbers_of_moved(found, _numbers_on_device))
    # What is not there is not used, but read.
    for place, instead in ((_MOMENT, _MOMENT - 1), (_LARGEST, _LARGEST - 1)):
        np.copyto(table[:, place], table[:, instead], where=table[:, place] == 0)
    if any(one.is_step_remote for one in found):
        table[:, _STEP_AT] = [one.step.data_ptr() if one.is_step_remote else 0 for one in found]
    return table


def _numbers_on_device(group: Mapping[str, Any]) -> tuple[float, ...]:
    """What follows `COEFFICIENTS` in a row: no step, the address of the rate, and the logarithms of the betas."""
    rate = group["lr"]
    at = float(np.uint64(rate.data_ptr()).view(np.float64)) if _is_remote(rate) else 0.0
    return 0.0, at, *map(_log2, map(float, group.get("betas", (1.0, 1.0))))


def _log2(beta: float) -> float:
    return math.log2(beta) if beta > 0.0 else -math.inf


# -------------------------------------------------------------------------------- PyTorch's operators


def _by_operators(found: Sequence[Moved], most: int) -> list[Part]:
    """Measure parameters of one device in batches of alike ones; nothing waits for it."""
    found = [stepped for one in found if (stepped := _as_stepped(one)) is not None]
    if not found:
        return []
    alike: defaultdict[tuple[Any, ...], list[tuple[Moved, Sampling]]] = defaultdict(list)
    for one, sampling in zip(found, _samplings(found, most), strict=True):
        dtypes = tuple(None if t is None else t.dtype for t in (one.weight, one.gradient, *one.moments()))
        key = (sampling.is_whole, *dtypes)
        alike[key].append((one, sampling))
    return [_measured_batch(batch) for same in alike.values() for batch in _batches(same)]


def _batches(pairs: Sequence[tuple[Moved, Sampling]]) -> Iterable[list[tuple[Moved, Sampling]]]:
    batch: list[tuple[Moved, Sampling]] = []
    entries = 0
    for one, sampling in pairs:
        batch.append((one, sampling))
        entries += sampling.runs * sampling.length
        if entries >= BATCH:
            yield batch
            batch, entries = [], 0
    if batch:
        yield batch


def _measured_batch(batch: Sequence[tuple[Moved, Sampling]]) -> Part:
    """`UPDATE_STATS` of parameters whose tensors are of the same dtypes, read one after the other."""
    first = batch[0][0]
    device = first.weight.device
    dtype = torch.float64 if device.type == "cpu" else torch.float32

    def read(name: str) -> Tensor:
        return torch.cat([read_sample(getattr(one, name), sampling) for one, sampling in batch]).reshape(-1).to(dtype)

    weight, gradient = read("weight"), read("gradient")
    lengths = [min(s.runs * s.length, one.weight.numel()) for one, s in batch]
    columns = _columns([one for one, _ in batch], dtype)
    columns = to_device(columns, device) if is_on_host(columns) else columns
    counts = to_device(torch.tensor(lengths), device)
    spread = columns.repeat_interleave(counts, dim=1, output_size=sum(lengths))
    moment = None if first.moment is None else read("moment")
    square = None if first.square is None else read("square")
    largest = None if first.largest is None else read("largest")
    terms = _terms(spread, weight, gradient, moment, square, largest)
    norms = [torch.stack(list(torch._foreach_norm(list(torch.split(term, lengths))))) for term in terms]
    shares = torch.tensor([[one.weight.numel(), n] for (one, _), n in zip(batch, lengths, strict=True)], dtype=dtype)
    size, read_of = to_device(shares.T.contiguous(), device)
    scale = (size / read_of).sqrt()
    found = [norms[0] * scale, norms[1] * scale]
    if square is None:
        found += [torch.full_like(scale, torch.nan)] * 2
    else:
        found += [norms[2] / read_of.sqrt(), norms[3] * scale]
    return to_host([one.position for one, _ in batch], torch.stack(found))


def _terms(
    coefficients: Tensor,
    weight: Tensor,
    gradient: Tensor,
    moment: Tensor | None,
    square: Tensor | None,
    largest: Tensor | None,
) -> list[Tensor]:
    """The entries whose norms `UPDATE_STATS` are made of: update, weight before, and of Adam ratio and root.

    ``coefficients`` are `COEFFICIENTS` of each entry, (9, entries).
    """
    rate, decay, coupled, sign, of_gradient, of_moment, root_scale, square_scale, eps = coefficients
    if square is not None and moment is not None:
        root = square if largest is None else largest
        direction = moment / (root.sqrt() * root_scale + eps)
    else:
        direction = gradient * (sign * of_gradient)
        if moment is not None:
            direction = direction + moment * of_moment
    before = (weight + rate * direction) / (1.0 - rate * decay)
    terms = [(direction + decay * before) * rate, before]
    if square is not None:
        scaled = square * square_scale
        # Of NaN the larger is NaN, as it has to be.
        floor = scaled.clamp(min=SMALLEST).maximum(eps.square())
        terms += [(sign * gradient + coupled * before) / floor.sqrt(), scaled.sqrt()]
    return terms


def _columns(found: Sequence[Moved], dtype: torch.dtype) -> Tensor:
    """The numbers of the formula for each parameter, (9, parameters); on a device where a setting is."""
    groups = {id(one.group): one.group for one in found}.values()
    if not (
        any(one.is_step_remote for one in found) or any(_is_remote(x) for group in groups for x in _settings(group))
    ):
        return torch.from_numpy(_numbers_of_moved(found)).to(dtype).T.expand(-1, len(found)).contiguous()
    device = found[0].weight.device

    def number(value: Any) -> Tensor:
        if isinstance(value, Tensor):
            return move(value.reshape(()), device).to(dtype)
        return torch.full((), float(value), dtype=dtype, device=device)

    columns = []
    # Neighbours of one group have the same settings: each question is asked of all of them at once.
    for _, neighbours in groupby(found, key=lambda one: id(one.group)):
        alike = list(neighbours)
        steps = None if alike[0].step is None else _steps(alike, dtype, device)
        numbers = coefficients(alike[0].group, steps, is_adam=alike[0].square is not None, number=number)
        columns.append(torch.stack([_one_each(value, alike, dtype, device) for value in numbers]))
    return torch.cat(columns, dim=1)


def _steps(rows: Sequence[Moved], dtype: torch.dtype, device: torch.device) -> Tensor:
    if any(row.is_step_remote for row in rows):
        return torch.stack([move(torch.as_tensor(row.step), device).to(dtype) for row in rows])
    return to_device(torch.tensor([float(row.step) for row in rows], dtype=dtype), device)


def _one_each(value: Any, rows: Sequence[Moved], dtype: torch.dtype, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.expand(len(rows))
    return torch.full((len(rows),), float(value), dtype=dtype, device=device)


def _settings(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """Those of a group that may lie on a device."""
    return (group["lr"], *group.get("betas", ()), group.get("eps", 0.0), group["weight_decay"])


def _is_remote(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_cpu
