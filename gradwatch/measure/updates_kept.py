"""What one read of the updates leaves for the next step: where the parameters lie, and a table to fill again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from operator import attrgetter, is_not, itemgetter
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from gradwatch.measure.fused import Described, described
from gradwatch.measure.moved import Moved, UpdateRoute, is_remote, moments_of
from gradwatch.measure.updates_numbers import numbers_of, numbers_on_device
from gradwatch.measure.updates_pointers import TENSORS, Dtypes, has_settings
from gradwatch.measure.updates_tables import fill_again, fill_rows_again

_GRADIENT = attrgetter("grad")


@dataclass(slots=True)
class Kept:
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
class Places:
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
    kept: Kept | None = None


_places: WeakKeyDictionary[Optimizer, dict[bool, Places]] = WeakKeyDictionary()
"""What `places_of` found last of all parameters and of some, of numbers alone: a parameter may refer to its optimizer
and would keep it here."""


def places_of(optimizer: Optimizer, parameters: Sequence[Tensor | None], only: Sequence[int] | None) -> Places:
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
    if known is None or (known.lengths, known.asked) != (lengths, asked) or _has_moved(known, groups, parameters):
        among = range(len(parameters)) if isinstance(asked, int) else asked
        known = of_optimizer[only is None] = Places(lengths, asked, _found_in(groups, parameters, among))
    return known


def _has_moved(known: Places, groups: Sequence[Sequence[Tensor]], parameters: Sequence[Tensor | None]) -> bool:
    """Whether a parameter is elsewhere than it was."""
    return any(at >= len(parameters) or groups[group][place] is not parameters[at] for at, group, place in known.found)


def _found_in(
    groups: Sequence[Sequence[Tensor]], parameters: Sequence[Tensor | None], among: Iterable[int]
) -> list[tuple[int, int, int]]:
    """`Places.found`: by position, as a `Measurement` of all of them has to be."""
    positions = {id(parameters[at]): at for at in among if parameters[at] is not None}
    return sorted(
        (positions[id(parameter)], group, place)
        for group, listed in enumerate(groups)
        for place, parameter in enumerate(listed)
        if id(parameter) in positions
    )


def kept_of(
    found: Sequence[Moved], most: int | None, kernel: ModuleType | None, dtypes: Dtypes, table: NDArray[np.uint64]
) -> Kept | None:
    """What it takes to read all of these once more; None where something about them is unusual."""
    columns = [list(map(of_tensor, found)) for of_tensor in TENSORS]
    columns = [column for column in columns if any(map(is_not, column, repeat(None)))]
    if found[0].is_step_remote:
        columns.append([one.step for one in found])
    usual = described(list(chain.from_iterable(columns)))
    return None if usual is None else Kept(most, _lasting(usual, len(found)), kernel, dtypes, table)


def refill(
    kept: Kept,
    optimizer: Optimizer,
    route: UpdateRoute,
    parameters: Sequence[Tensor | None],
    found: Sequence[tuple[int, int, int]],
) -> bool:
    """Fill the kept table with the numbers of another step, if weights and moments are where they were.

    This costs the host half as much as finding out anew what can be read of them.

    Args:
        kept: of the last reading.
        optimizer: that has stepped.
        route: by which formula.
        parameters: by position.
        found: `Places.found`.
    """
    weights: list[Any] = [parameters[at] for at, _, _ in found]
    groups = [optimizer.param_groups[group] for _, group, _ in found]
    names = _names_in(groups, route, weights[0].device)
    now = None if names is None else _tensors_of(weights, optimizer, names, has_steps=route == "adam")
    if now is None:
        return False
    columns, steps = now
    on_device, count = any(map(is_remote, steps)), len(found)
    tensors = described(list(chain.from_iterable([*columns, steps] if on_device else columns)))
    if tensors is None or _lasting(tensors, count) != kept.lasting:
        return False
    gradients = tensors.addresses[count : 2 * count]
    known: list[float | None] = [math.inf if on_device else float(step) for step in steps] or [None] * count
    if kept.kernel is None:
        fill_again(kept.table, gradients, numbers_of(groups, known, is_adam=route == "adam"))
    else:
        numbers = numbers_of(groups, known, is_adam=route == "adam", more=numbers_on_device)
        fill_rows_again(kept.table, gradients, numbers, has_moments=len(columns) > 2)
    return True


def _names_in(groups: Sequence[Mapping[str, Any]], route: UpdateRoute, device: torch.device) -> tuple[str, ...] | None:
    """The names of the moments, if those of all groups are the same and one pass finds the settings of each."""
    distinct = dict(zip(map(id, groups), groups, strict=True)).values()
    names, *others = {moments_of(route, group) for group in distinct}
    return names if not others and all(has_settings(group, device) for group in distinct) else None


def _tensors_of(
    weights: list[Any], optimizer: Optimizer, names: Sequence[str], *, has_steps: bool
) -> tuple[list[list[Any]], list[Any]] | None:
    """Weights, gradients and moments in columns, and the numbers of steps; None where a parameter has no state."""
    states: list[Any] = list(map(optimizer.state.get, weights))
    try:
        moments = [list(map(itemgetter(name), states)) for name in names if name]
        steps = list(map(itemgetter("step"), states)) if has_steps else []
    except (KeyError, TypeError):
        return None
    return [weights, list(map(_GRADIENT, weights)), *moments], steps


def _lasting(tensors: Described, count: int) -> tuple[bytes, ...]:
    """What stays from step to step: all but the addresses of the gradients, which follow those of ``count`` weights."""
    kept = (tensors.addresses[:count], tensors.addresses[2 * count :], tensors.sizes, tensors.types)
    return tuple(each.tobytes() for each in kept)
