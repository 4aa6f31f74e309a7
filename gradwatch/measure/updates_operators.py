"""The update of each parameter by PyTorch's operators, in batches of alike ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from gradwatch.measure.devices import is_on_host, move, to_device
from gradwatch.measure.measurement import Part
from gradwatch.measure.moved import Moved, as_stepped, is_remote, settings_of
from gradwatch.measure.routes import to_host
from gradwatch.measure.sampling import Sampling, read_sample
from gradwatch.measure.updates_numbers import coefficients, numbers_of_moved
from gradwatch.measure.updates_tables import samplings_of

BATCH = 2**16
"""Entries that PyTorch's operators read at a time."""

SMALLEST = 1.2e-38
"""The least that a squared gradient is divided by: the smallest normal float32."""


def by_operators(found: Sequence[Moved], most: int) -> list[Part]:
    """Measure parameters of one device in batches of alike ones; nothing waits for it."""
    found = [stepped for one in found if (stepped := as_stepped(one)) is not None]
    if not found:
        return []
    alike: defaultdict[tuple[Any, ...], list[tuple[Moved, Sampling]]] = defaultdict(list)
    for one, sampling in zip(found, samplings_of(found, most), strict=True):
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
        any(one.is_step_remote for one in found) or any(is_remote(x) for group in groups for x in settings_of(group))
    ):
        return torch.from_numpy(numbers_of_moved(found)).to(dtype).T.expand(-1, len(found)).contiguous()
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
