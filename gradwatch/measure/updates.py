"""The update of an optimizer in closed form, read from its state right after the step.

Adam, AdamW and SGD keep everything that determines the update: the moments, the number of steps and the settings of
the group. The norms of the update and of the weights before it therefore follow from gradient, moments and weights,
without a copy of the weights. On the CPU the compiled pass (``fused.c``) reads them once, on CUDA a Triton kernel;
PyTorch's operators do so elsewhere and for other dtypes.

In a large model, evenly spaced runs of neighbouring entries are read of each long parameter, always the same ones.
The squared norms estimated from them are unbiased if the runs are representative.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from gradwatch.measure.fused import address_of, measure_updates_fused, reads_updates
from gradwatch.measure.measurement import Measurement, Part
from gradwatch.measure.moved import Moved, UpdateRoute, closed_form_of, moved_by
from gradwatch.measure.routes import leave_triton, runs_triton, to_host
from gradwatch.measure.updates_kept import Kept, Places, kept_of, places_of, refill
from gradwatch.measure.updates_operators import by_operators
from gradwatch.measure.updates_pointers import have_settings, with_pointers
from gradwatch.measure.updates_tables import (
    FUSED_TYPES,
    READ_OPERATORS,
    compiled_rows,
    fill_rows,
    shapes_of,
    triton_table,
)
from gradwatch.record import UPDATE_STATS


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
    places = places_of(optimizer, parameters, only)
    part = _read_again(optimizer, route, parameters, places, most)
    parts = _read_anew(optimizer, route, parameters, places, most) if part is None else [part]
    return Measurement(UPDATE_STATS, len(parameters), tuple(parts))


@torch.no_grad()
def _read_anew(
    optimizer: Optimizer,
    route: UpdateRoute,
    parameters: Sequence[Tensor | None],
    places: Places,
    most: int | None,
) -> list[Part]:
    """Find out what can be read of each parameter, read it, and keep that for the next step."""
    found = moved_by(optimizer, route, parameters, places.found)
    parts, left, places.kept = _in_one_read(found, most) if reads_updates() else ([], found, None)
    of_device: defaultdict[torch.device, list[Moved]] = defaultdict(list)
    for one in left:
        of_device[one.weight.device].append(one)
    for device, own in of_device.items():
        launched, rest, places.kept = _in_one_launch(own, device, most)
        parts += launched
        if rest:
            parts += by_operators(rest, most or READ_OPERATORS)
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


def _in_one_read(found: Sequence[Moved], most: int | None) -> tuple[list[Part], Sequence[Moved], Kept | None]:
    """Measure by the compiled pass; return the result, what it can't read, and what the next step needs for it."""
    readable = [one.weight.is_cpu and fits for one, fits in zip(found, have_settings(found), strict=True)]
    fused, left = with_pointers(found, readable, FUSED_TYPES, of_one_dtype=True)
    if fused is None:
        return [], left, None
    own = fused.moved
    table = compiled_rows(own, fused.addresses, most)
    kept = None if left else kept_of(own, most, None, (), table)
    return [_by_fused([one.position for one in own], table)], left, kept


def _by_fused(positions: list[int], table: NDArray[np.uint64]) -> Part:
    values = measure_updates_fused(address_of(table), len(positions), len(UPDATE_STATS))
    return Part(positions, torch.from_numpy(np.ascontiguousarray(values.T)), None)


def _kernel(device: torch.device) -> ModuleType | None:
    """Return what reads the updates on a device by Triton; None if nothing does."""
    return _updates_triton() if runs_triton(device, "read updates") else None


@cache  # an import within a function takes a microsecond each time
def _updates_triton() -> ModuleType:
    from gradwatch.measure import updates_triton

    return updates_triton


def _in_one_launch(
    found: Sequence[Moved], device: torch.device, most: int | None
) -> tuple[list[Part], Sequence[Moved], Kept | None]:
    """Measure by the Triton kernel, in one launch for each set of dtypes; return the result and what it can't read.

    And, where one launch has read all of them, what the next step needs for it.
    """
    kernel = _kernel(device)
    if kernel is None:
        return [], found, None
    readable, left = with_pointers(found, have_settings(found, device), kernel.DTYPES, of_one_dtype=False)
    if readable is None:
        return [], found, None
    rows = triton_table(shapes_of(readable.moved), most)
    parts = []
    kept = None
    try:
        for dtypes, places in readable.alike.items():
            own = readable.moved if isinstance(places, slice) else [readable.moved[at] for at in places]
            table = fill_rows(own, readable.addresses[places], rows[places].copy())
            first = own[0]
            values = kernel.read_updates(table, first.weight, dtypes, is_adam=first.square is not None)
            parts.append(to_host([one.position for one in own], values))
            kept = kept_of(own, most, kernel, dtypes, table)
    except Exception as error:
        leave_triton("read updates", error)
        return [], found, None
    return parts, left, kept


def _read_again(
    optimizer: Optimizer,
    route: UpdateRoute,
    parameters: Sequence[Tensor | None],
    places: Places,
    most: int | None,
) -> Part | None:
    """Read what was kept of the last reading, if weights and moments are where they were; None if they are not."""
    kept, positions = places.kept, [at for at, _, _ in places.found]
    if kept is None or kept.most != most:
        return None
    first = parameters[positions[0]]
    kernel = None if first is None else _kernel(first.device)
    if kernel is not kept.kernel or (kernel is None and not reads_updates()):
        return None
    if not refill(kept, optimizer, route, parameters, places.found):
        return None
    if kernel is None:
        return _by_fused(positions, kept.table)
    try:
        values = kernel.read_updates(kept.table, first, kept.dtypes, is_adam=route == "adam")
    except Exception as error:
        leave_triton("read updates", error)
        return None
    return to_host(positions, values)
