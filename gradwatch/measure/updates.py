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
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby
from math import gcd, prod
from types import ModuleType
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from gradwatch.measure.devices import is_on_host, move, to_device
from gradwatch.measure.entries import PLAIN, is_wrapper
from gradwatch.measure.fused import is_dense, measure_updates_fused, reads_updates
from gradwatch.measure.measurement import Measurement, Part
from gradwatch.measure.routes import leave_triton, runs_triton, to_host
from gradwatch.measure.sharded import local
from gradwatch.record import UPDATE_STATS

UpdateRoute: TypeAlias = Literal["adam", "sgd"]

RUN = 64
"""Neighbouring entries that are read together, of parameters that are sampled."""

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


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which entries of a parameter are read: ``runs`` times ``length`` neighbours that begin ``stride`` apart."""

    runs: int
    length: int
    stride: int


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
    group: Mapping[str, Any]

    def moments(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return self.moment, self.square, self.largest

    def tensors(self) -> list[Tensor]:
        """Those of the parameter's size."""
        found = (self.weight, self.gradient, self.moment, self.square, self.largest)
        return [tensor for tensor in found if tensor is not None]


@torch.no_grad()
def measure_updates(
    optimizer: Optimizer, parameters: Sequence[Tensor | None], most: int | None = None
) -> Measurement | None:
    """Measure the update that an optimizer has just made of every parameter. Call it right after the step.

    Args:
        optimizer: that has stepped.
        parameters: by position; those that it does not have, those without a gradient, and wrapper subclasses of
            `Tensor` are left out.
        most: entries that are read of all of them together; None: as many as suit a whole model.

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
    positions = {id(parameter): at for at, parameter in enumerate(parameters) if parameter is not None}
    found = list(_moved(optimizer, route, positions))
    parts, left = _in_one_read(found, most) if reads_updates() else ([], found)
    for device in dict.fromkeys(one.weight.device for one in left):
        launched, rest = _in_one_launch([one for one in left if one.weight.device == device], device, most)
        parts += launched
        if rest:
            parts += _by_operators(rest, most or READ_OPERATORS)
    return Measurement(UPDATE_STATS, len(parameters), tuple(parts))


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


def _moved(optimizer: Optimizer, route: UpdateRoute, positions: Mapping[int, int]) -> Iterable[Moved]:
    """What the optimizer has moved; a parameter whose state does not fit is left out."""
    states = optimizer.state
    for group in optimizer.param_groups:
        names = _moments_of(route, group)
        needs_moment, needs_square, needs_largest = map(bool, names)
        for parameter in group["params"]:
            at = positions.get(id(parameter))
            gradient = None if at is None else parameter.grad
            if at is None or gradient is None or gradient.layout is not torch.strided or gradient.is_complex():
                continue
            state = states.get(parameter, {})
            moment, square, largest = map(state.get, names)
            if (needs_moment and moment is None) or (needs_square and square is None):
                continue
            if needs_largest and largest is None:
                continue
            weight = parameter
            if type(parameter) not in PLAIN:
                weight, gradient = local(parameter), local(gradient)
                moment, square, largest = map(_local_part, (moment, square, largest))
            if weight.numel() and not (is_wrapper(weight) or is_wrapper(gradient)):
                yield Moved(at, weight, gradient, moment, square, largest, state.get("step"), group)


def _local_part(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else local(tensor)


def _moments_of(route: UpdateRoute, group: Mapping[str, Any]) -> tuple[str, str, str]:
    """The names in the state of moment, second moment and the largest second moment; empty where there is none."""
    if route == "sgd":
        return ("momentum_buffer" if group["momentum"] != 0 else "", "", "")
    return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq" if group["amsgrad"] else "")


# ------------------------------------------------------------------------------------- what is read


@lru_cache(maxsize=4096)
def sampling_of(shape: tuple[int, ...], most: int) -> Sampling:
    """Choose the entries of a parameter that are read, about ``most`` of a longer one.

    The distance of two runs has no factor in common with a dimension, so that the runs begin in all columns alike.

    >>> sampling_of((3, 5), 100)
    Sampling(runs=1, length=15, stride=15)
    >>> sampling_of((1024, 1024), 1024)
    Sampling(runs=16, length=64, stride=65535)
    """
    size = int(np.prod(shape, dtype=np.int64))
    if size <= max(most, 2 * RUN):
        length = min(size, 1024)
        return Sampling(runs=-(-size // max(1, length)), length=max(1, length), stride=max(1, length))
    stride = max(RUN, size // max(1, most // RUN) - 1)
    while stride > RUN and any(gcd(stride, side) != 1 for side in shape):
        stride -= 1
    return Sampling(runs=(size - RUN) // stride + 1, length=RUN, stride=stride)


@lru_cache(maxsize=64)
def even_share(sizes: tuple[int, ...], limit: int) -> int:
    """The largest number to which all sizes can be cut so that they add up to ``limit`` at most.

    >>> even_share((10, 20, 1000), 100), even_share((1, 2), 100)
    (70, 100)
    """
    left, remaining = limit, len(sizes)
    for size in sorted(sizes):
        if size * remaining > left:
            return max(1, left // remaining)
        left, remaining = left - size, remaining - 1
    return limit


def even_stride(shape: Sequence[int], most: int) -> int:
    """The least distance between entries at which no more than ``most`` are met.

    It has no factor in common with a dimension, so that a sample of a matrix meets all its columns alike.

    >>> even_stride((2048, 1024), 2**18)
    9
    """
    stride = -(-prod(shape) // most)
    while any(gcd(stride, side) != 1 for side in shape):
        stride += 1
    return stride


def _samplings(found: Sequence[Moved], limit: int) -> Sequence[Sampling]:
    return _samplings_of(tuple(one.weight.shape for one in found), limit)


@lru_cache(maxsize=64)
def _samplings_of(shapes: tuple[torch.Size, ...], limit: int) -> tuple[Sampling, ...]:
    share = even_share(tuple(map(prod, shapes)), limit)
    return tuple(sampling_of(tuple(shape), share) for shape in shapes)


# ------------------------------------------------------------------------------------ compiled pass


_POINTERS = ("weight", "gradient", "moment", "square", "largest")
_FIELDS = [
    *((name, np.uint64) for name in _POINTERS),
    *((name, np.int64) for name in ("type", "runs", "length", "stride", "size")),
    *((name, np.float64) for name in COEFFICIENTS),
]
_TABLE = np.dtype(_FIELDS)
"""``Update`` of fused.c."""
_FIRST_NUMBER = _TABLE.names.index(COEFFICIENTS[0]) if _TABLE.names else 0


def _in_one_read(found: Sequence[Moved], most: int | None) -> tuple[list[Part], list[Moved]]:
    """Measure by the compiled pass; return the result and what it can't read."""
    readable = [one.weight.is_cpu and fits for one, fits in zip(found, _have_settings(found), strict=True)]
    fused, left = _with_pointers(found, readable, _FUSED_TYPES)
    parts = [_by_fused([one for one, _ in fused], [addresses for _, addresses in fused], most)] if fused else []
    return parts, left


def _have_settings(found: Sequence[Moved], device: torch.device | None = None) -> list[bool]:
    """Whether one pass finds the settings of each parameter: on the host, or as single float32 numbers on the device.

    The settings of a group are looked at once.
    """
    of_group: dict[int, bool] = {}
    fitting = []
    for one in found:
        key = id(one.group)
        if key not in of_group:
            rate, *others = _settings(one.group)
            of_group[key] = not any(map(_is_remote, others)) and _is_number_at(rate, device)
        fitting.append(of_group[key] and _is_number_at(one.step, device))
    return fitting


def _is_number_at(value: Any, device: torch.device | None) -> bool:
    if not _is_remote(value):
        return True
    return bool(value.device == device and value.dtype == torch.float32 and value.numel() == 1)


def _with_pointers(
    found: Sequence[Moved], readable: Sequence[bool], dtypes: Mapping[torch.dtype, Any]
) -> tuple[list[tuple[Moved, tuple[int, ...]]], list[Moved]]:
    """The parameters that one pass can read, with `_pointers`, and those that it can't."""
    usual = _usual_pointers(found, dtypes) if all(readable) else None
    if usual is not None:
        return list(zip(found, usual, strict=True)), []
    pairs = [(one, _pointers(one, dtypes) if fits else None) for one, fits in zip(found, readable, strict=True)]
    return [(one, at) for one, at in pairs if at is not None], [one for one, at in pairs if at is None]


def _usual_pointers(found: Sequence[Moved], dtypes: Mapping[torch.dtype, Any]) -> list[tuple[int, ...]] | None:
    """`_pointers` of all parameters, each thing asked of all at once, which takes a third of the time.

    None where one of them is unusual: it has gaps, or differs from others in what it has.
    """
    weights = [one.weight for one in found]
    kinds, sizes = [weight.dtype for weight in weights], list(map(Tensor.numel, weights))
    where = set(map(Tensor.get_device, weights))
    if not dtypes.keys() >= set(kinds) or len(where) != 1:
        return None
    columns = []
    for name in _POINTERS:
        column = [getattr(one, name) for one in found]
        kinds_of = set(map(type, column))
        if kinds_of == {type(None)}:
            columns.append([0] * len(column))
            continue
        if not PLAIN.issuperset(kinds_of) or [tensor.dtype for tensor in column] != kinds:
            return None
        if list(map(Tensor.numel, column)) != sizes or set(map(Tensor.get_device, column)) != where:
            return None
        # Of the host and of the meta device the number is the same, but what is on that has no address.
        columns.append(list(map(Tensor.data_ptr, column)))
        if not all(columns[-1]) or not all(map(Tensor.is_contiguous, column)):
            return None
    return list(zip(*columns, strict=True))


def _pointers(one: Moved, dtypes: Mapping[torch.dtype, Any]) -> tuple[int, ...] | None:
    """The addresses of a parameter's tensors, 0 where there is none, in the order of `_TABLE`.

    None where a single pass can't read them: they have to be alike, in one memory, and of one of these dtypes.
    """
    weight = one.weight
    dtype, size, is_contiguous = weight.dtype, weight.numel(), weight.is_contiguous()
    if dtype not in dtypes:
        return None
    where, found = weight.get_device(), []
    for tensor in (weight, one.gradient, one.moment, one.square, one.largest):
        if tensor is None:
            found.append(0)
            continue
        if type(tensor) not in PLAIN or tensor.dtype is not dtype or tensor.numel() != size:
            return None
        if tensor.get_device() != where or tensor.is_cpu != weight.is_cpu:
            return None
        if not (tensor.is_contiguous() if is_contiguous else _are_laid_out_alike(tensor, weight)):
            return None
        found.append(tensor.data_ptr())
        if not found[-1]:
            return None
    return tuple(found)


def _are_laid_out_alike(tensor: Tensor, weight: Tensor) -> bool:
    return tensor.stride() == weight.stride() and is_dense(weight)


def _usual_read(found: Sequence[Moved]) -> int:
    """How many entries of a whole model the compiled pass reads."""
    if sum(one.weight.numel() for one in found) <= READ_OPERATORS:
        return READ_OPERATORS
    return min(READ_FUSED, max(READ_FUSED_LEAST, READ_FUSED_EACH * len(found)))


def _by_fused(found: Sequence[Moved], pointers: Sequence[tuple[int, ...]], most: int | None) -> Part:
    table = _table_of(found, pointers, _TABLE)
    samplings = _samplings(found, most or _usual_read(found))
    for name in ("runs", "length", "stride"):
        table[name] = [getattr(sampling, name) for sampling in samplings]
    table["type"] = [_FUSED_TYPES[one.weight.dtype] for one in found]
    values = measure_updates_fused(table.ctypes.data, len(found), len(UPDATE_STATS))
    return Part([one.position for one in found], torch.from_numpy(np.ascontiguousarray(values.T)), None)


def _table_of(found: Sequence[Moved], pointers: Sequence[tuple[int, ...]], fields: np.dtype[Any]) -> NDArray[Any]:
    """A row for each parameter, with the addresses, sizes and settings; which entries are read is left open."""
    table = np.zeros(len(found), fields)
    words = table.view(np.uint64).reshape(len(found), -1)
    words[:, : len(_POINTERS)] = np.fromiter(chain.from_iterable(pointers), np.uint64).reshape(len(found), -1)
    table["size"] = [one.weight.numel() for one in found]
    numbers = words.view(np.float64)[:, _FIRST_NUMBER : _FIRST_NUMBER + len(COEFFICIENTS)]
    numbers[:] = _numbers_of(found)
    return table


def _numbers_of(found: Sequence[Moved]) -> NDArray[np.float64]:
    """The numbers of the formula in fused.c for each parameter, (parameters, 9); computed once for each group and step.

    A rate that lies on a device counts as 1, and a number of steps that does as endless: the Triton kernel multiplies
    by the one and corrects by the other.
    """
    known: dict[tuple[int, float | None], int] = {}
    rows: list[tuple[Any, ...]] = []
    of_row = []
    for one in found:
        step = None if one.step is None else math.inf if _is_remote(one.step) else float(one.step)
        at = known.setdefault((id(one.group), step), len(rows))
        if at == len(rows):
            rows.append(coefficients(one.group, step, is_adam=one.square is not None, number=_float_here))
        of_row.append(at)
    return np.array(rows, np.float64)[of_row]


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


_ROW = np.dtype(
    [
        *_FIELDS,
        *((name, np.uint64) for name in ("step_at", "rate_at")),
        *((name, np.float64) for name in ("log_beta1", "log_beta2")),
    ]
)
"""A row of the table in updates_triton.py. A number at an address lies on the device; 0: the row has it itself."""
ROW_WORDS = _ROW.itemsize // 8


def _kernel(device: torch.device) -> ModuleType | None:
    """Return what reads the updates on a device by Triton; None if nothing does."""
    if not runs_triton(device, "read updates"):
        return None
    from gradwatch.measure import updates_triton

    return updates_triton


def _in_one_launch(
    found: Sequence[Moved], device: torch.device, most: int | None
) -> tuple[list[Part], Sequence[Moved]]:
    """Measure by the Triton kernel, in one launch for each dtype; return the result and what it can't read."""
    kernel = _kernel(device)
    if kernel is None:
        return [], found
    readable, left = _with_pointers(found, _have_settings(found, device), kernel.DTYPES)
    if not readable:
        return [], found
    samplings = _samplings([one for one, _ in readable], most or _usual_read([one for one, _ in readable]))
    alike: defaultdict[torch.dtype, list[int]] = defaultdict(list)
    for at, (one, _) in enumerate(readable):
        alike[one.weight.dtype].append(at)
    parts = []
    try:
        for group in alike.values():
            own = [readable[at][0] for at in group]
            table = _rows(own, [readable[at][1] for at in group], [samplings[at] for at in group])
            values = kernel.read_updates(table, own[0].weight, is_adam=own[0].square is not None)
            parts.append(to_host([one.position for one in own], values))
    except Exception as error:
        leave_triton("read updates", error)
        return [], found
    return parts, left


def _rows(found: Sequence[Moved], pointers: Sequence[tuple[int, ...]], samplings: Sequence[Sampling]) -> NDArray[Any]:
    table = _table_of(found, pointers, _ROW)
    table["length"] = RUN
    table["runs"], table["stride"] = _runs(tuple(samplings), tuple(table["size"].tolist()))
    # What is not there is not used, but read.
    table["moment"] = np.where(table["moment"] == 0, table["gradient"], table["moment"])
    table["largest"] = np.where(table["largest"] == 0, table["square"], table["largest"])
    if any(_is_remote(one.step) for one in found):
        table["step_at"] = [one.step.data_ptr() if _is_remote(one.step) else 0 for one in found]
    groups = {id(one.group): one.group for one in found}
    place = {key: at for at, key in enumerate(groups)}
    of_row = [place[id(one.group)] for one in found]
    rates = [group["lr"] for group in groups.values()]
    table["rate_at"] = np.array([rate.data_ptr() if _is_remote(rate) else 0 for rate in rates], np.uint64)[of_row]
    if found[0].square is not None:
        betas = np.array([[float(beta) for beta in group["betas"]] for group in groups.values()])
        with np.errstate(divide="ignore"):
            table["log_beta1"], table["log_beta2"] = np.log2(betas)[of_row].T
    return table


@lru_cache(maxsize=64)
def _runs(samplings: tuple[Sampling, ...], sizes: tuple[int, ...]) -> NDArray[np.int64]:
    """How many runs are read of each parameter and how far apart they begin: also of one that is read whole."""
    rows = [
        (-(-size // RUN), RUN) if _is_whole(sampling) else (sampling.runs, sampling.stride)
        for sampling, size in zip(samplings, sizes, strict=True)
    ]
    return np.array(rows, np.int64).T


# -------------------------------------------------------------------------------- PyTorch's operators


def _by_operators(found: Sequence[Moved], most: int) -> list[Part]:
    """Measure parameters of one device in batches of alike ones; nothing waits for it."""
    alike: defaultdict[tuple[Any, ...], list[tuple[Moved, Sampling]]] = defaultdict(list)
    for one, sampling in zip(found, _samplings(found, most), strict=True):
        dtypes = tuple(None if t is None else t.dtype for t in (one.weight, one.gradient, *one.moments()))
        key = (_is_whole(sampling), *dtypes)
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
        return torch.cat([_read(getattr(one, name), sampling) for one, sampling in batch]).reshape(-1).to(dtype)

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
    if not any(_is_remote(value) for one in found for value in (one.step, *_settings(one.group))):
        return torch.from_numpy(_numbers_of(found)).to(dtype).T.contiguous()
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
    if any(_is_remote(row.step) for row in rows):
        return torch.stack([move(torch.as_tensor(row.step), device).to(dtype) for row in rows])
    return to_device(torch.tensor([float(row.step) for row in rows], dtype=dtype), device)


def _one_each(value: Any, rows: Sequence[Moved], dtype: torch.dtype, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.expand(len(rows))
    return torch.full((len(rows),), float(value), dtype=dtype, device=device)


def _settings(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """Those of a group that may lie on a device."""
    return (group["lr"], *group.get("betas", ()), group.get("eps", 0.0))


def _is_remote(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_cpu


def _is_whole(sampling: Sampling) -> bool:
    return sampling.stride == sampling.length


def _read(tensor: Tensor, sampling: Sampling) -> Tensor:
    """The entries of a tensor that are read, the same of all tensors of one parameter.

    All of them in one dimension, or the runs of a sample: (runs, length), a view that is not copied for itself.
    """
    if _is_whole(sampling):
        return tensor.reshape(-1)
    flat = tensor.reshape(-1) if tensor.is_contiguous() else tensor.contiguous().reshape(-1)
    return flat.as_strided((sampling.runs, sampling.length), (sampling.stride, 1), flat.storage_offset())
