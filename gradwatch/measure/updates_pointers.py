"""Which parameters one pass can read, and where their tensors lie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain, repeat
from operator import attrgetter, is_not
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradwatch.measure.entries import PLAIN
from gradwatch.measure.fused import DTYPES, described, is_dense
from gradwatch.measure.moved import Moved, is_remote, settings_of

POINTERS = ("weight", "gradient", "moment", "square", "largest")
GRADIENT, MOMENT, LARGEST = POINTERS.index("gradient"), POINTERS.index("moment"), POINTERS.index("largest")
TENSORS = tuple(map(attrgetter, POINTERS))


def have_settings(found: Sequence[Moved], device: torch.device | None = None) -> list[bool]:
    """Whether one pass finds the settings of each parameter: on the host, or as single float32 numbers on the device.

    The settings of a group are looked at once.
    """
    of_group: dict[int, bool] = {}
    for one in found:
        if id(one.group) not in of_group:
            of_group[id(one.group)] = has_settings(one.group, device)
    return [of_group[id(one.group)] and (not one.is_step_remote or _is_number_at(one.step, device)) for one in found]


def has_settings(group: Mapping[str, Any], device: torch.device | None) -> bool:
    rate, *others = settings_of(group)
    return not any(map(is_remote, others)) and _is_number_at(rate, device)


def _is_number_at(value: Any, device: torch.device | None) -> bool:
    if not is_remote(value):
        return True
    return bool(value.device == device and value.dtype == torch.float32 and value.numel() == 1)


Dtypes: TypeAlias = tuple[torch.dtype, ...]
"""Those of weight, gradient, moment and second moment; in the place of one that is not there the gradient's."""


class Readable(NamedTuple):
    """Parameters that one pass can read.

    Attributes:
        addresses: of the tensors of each, in the order of `POINTERS`; 0 where there is none.
        alike: the places among these parameters of those that have the same dtypes; all of them as a slice.
    """

    moved: Sequence[Moved]
    addresses: NDArray[np.uint64]
    alike: Mapping[Dtypes, list[int] | slice]


def with_pointers(
    found: Sequence[Moved], readable: Sequence[bool], dtypes: Mapping[torch.dtype, Any], *, of_one_dtype: bool
) -> tuple[Readable | None, Sequence[Moved]]:
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
    return (Readable(fitting, np.array(addresses, np.uint64), dict(alike)) if fitting else None), left


def _usual_pointers(
    found: Sequence[Moved], dtypes: Mapping[torch.dtype, Any], *, of_one_dtype: bool
) -> Readable | None:
    """`_pointers` of all parameters, each thing asked of all at once, which takes a third of the time.

    None where one of them is unusual: it has gaps, or differs from others in what it has.
    """
    columns = {place: list(map(of_tensor, found)) for place, of_tensor in enumerate(TENSORS)}
    there = [place for place, column in columns.items() if column[0] is not None]
    usual = described(list(chain.from_iterable(map(columns.pop, there))))
    if usual is None or any(map(is_not, chain.from_iterable(columns.values()), repeat(None))):
        return None
    sizes, kinds = usual.sizes.reshape(len(there), -1), usual.types.tolist()
    distinct = {DTYPES[kind] for kind in set(kinds)}
    if not dtypes.keys() >= distinct or (sizes != sizes[0]).any():
        return None
    several = len(distinct) > 1
    alike = _alike(kinds, there, len(found), of_one_dtype=of_one_dtype) if several else _of_all(*distinct)
    if alike is None:
        return None
    addresses = np.zeros((len(found), len(POINTERS)), np.uint64)
    addresses[:, there] = usual.addresses.reshape(len(there), -1).T
    return Readable(found, addresses, alike)


@lru_cache(maxsize=8)
def _of_all(dtype: torch.dtype) -> Mapping[Dtypes, slice]:
    """`Readable.alike` where every tensor has this dtype."""
    return {(dtype,) * LARGEST: slice(None)}


def _alike(
    kinds: Sequence[int], there: Sequence[int], count: int, *, of_one_dtype: bool
) -> Mapping[Dtypes, list[int] | slice] | None:
    """`Readable.alike` of the several dtypes of the tensors that are there; None where one is unusual."""
    columns: list[Sequence[int]] = []
    for place in range(len(POINTERS)):
        found = there.index(place) if place in there else -1
        instead = columns[1 if place < LARGEST else place - 1] if found < 0 else ()
        columns.append(kinds[found * count : (found + 1) * count] if found >= 0 else instead)
    *columns, of_largest = columns
    if of_largest != columns[-1] or (of_one_dtype and any(column != columns[0] for column in columns)):
        return None
    alike: defaultdict[Dtypes, list[int]] = defaultdict(list)
    for at, of_parameter in enumerate(zip(*columns, strict=True)):
        alike[tuple(DTYPES[kind] for kind in of_parameter)].append(at)
    return dict(alike)


def _pointers(
    one: Moved, dtypes: Mapping[torch.dtype, Any], *, of_one_dtype: bool
) -> tuple[tuple[int, ...], Dtypes] | None:
    """The addresses of a parameter's tensors, 0 where there is none, in the order of `POINTERS`; and the dtypes.

    None where a single pass can't read them: they have to be laid out alike or stepped by `as_stepped`, in one memory,
    and of these dtypes, both second moments of the same.
    """
    if one.largest is not None and one.square is not None and one.largest.dtype != one.square.dtype:
        return None
    own = dtypes.keys() & {one.weight.dtype} if of_one_dtype else dtypes
    if not all(tensor.dtype in own and _is_readable_with(one, tensor) for tensor in one.tensors()):
        return None
    tensors = (one.weight, one.gradient, *one.moments())
    addresses = tuple(0 if tensor is None else tensor.data_ptr() for tensor in tensors)
    kinds = tuple(one.gradient.dtype if tensor is None else tensor.dtype for tensor in tensors[:LARGEST])
    return addresses, kinds


def _is_readable_with(one: Moved, tensor: Tensor) -> bool:
    """Whether a tensor lies in the memory of the parameter's weight, entry by entry in the same order."""
    weight = one.weight
    if type(tensor) not in PLAIN or tensor.numel() != weight.numel() or not tensor.data_ptr():
        return False
    if tensor.get_device() != weight.get_device() or tensor.is_cpu != weight.is_cpu:
        return False
    is_alike = tensor.is_contiguous() if weight.is_contiguous() else _are_laid_out_alike(tensor, weight)
    return is_alike or bool(one.group.get("fused") and is_dense(weight) and is_dense(tensor))


def _are_laid_out_alike(tensor: Tensor, weight: Tensor) -> bool:
    return tensor.stride() == weight.stride() and is_dense(weight)
