"""How large the entries of each gradient are: a histogram of log2 of their magnitudes, from a sample of the entries.

The bin of an entry is read off the exponent in its bits, so that no logarithm is computed and nothing is rounded. All
entries of a device are counted together, and nothing waits for the device. On the CPU the compiled pass (``fused.c``)
counts them where they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import inf, prod

import numpy as np
import torch
from torch import Tensor

from gradwatch.measure.devices import is_capturing_graph, is_on_host, to_device
from gradwatch.measure.entries import entries_of
from gradwatch.measure.fused import bins_by_exponent, count_fused, counts_magnitudes, is_dense, readable
from gradwatch.measure.measurement import Measurement, Part
from gradwatch.measure.routes import to_host
from gradwatch.measure.sampling import even_share, even_stride
from gradwatch.measure.sharded import local
from gradwatch.record import MAGNITUDE_BINS, MOST_COUNTED

READ = 2**16
"""Entries that are read of all gradients together. A model that has no more is read whole."""

JOINED_ON_HOST = 2**13
"""Entries on the host that are counted together, about: what is computed from them takes 50 bytes each."""

LEAST = 256
"""Entries that are read of each gradient that has as many, however many gradients there are."""

_ZERO, _NAN = (MAGNITUDE_BINS.index(name) for name in ("zero", "nan"))


@torch.no_grad()
def measure_magnitudes(
    gradients: Sequence[Tensor | None],
    scale: Tensor | None = None,
    wholes: Mapping[int, tuple[int, ...]] | None = None,
) -> Measurement | None:
    """Count the entries of each gradient by magnitude.

    Args:
        gradients: None for a parameter without one; a gradient whose entries can't be read counts as none.
        scale: that the gradients were multiplied by.
        wholes: the shape of the whole gradient where this process holds a part of it. Of each part as large a share
            is read as of the whole, so that the counts of all parts add up.

    Returns:
        `MAGNITUDE_BINS` of each; None while a CUDA graph is recorded.

    >>> found = measure_magnitudes([torch.tensor([0.0, 0.3, -0.3, torch.nan])]).collect()
    >>> {name: int(counts[0]) for name, counts in found.items() if counts[0]}
    {'2^-2': 2, 'zero': 1, 'nan': 1}
    """
    if is_capturing_graph():
        return None
    there = {at: entries for at, gradient in enumerate(gradients) if (entries := _entries_of(gradient)) is not None}
    wholes = wholes or {}
    sizes = tuple(prod(wholes[at]) if at in wholes else entries.numel() for at, entries in there.items())
    share = min(MOST_COUNTED, max(LEAST, even_share(sizes, READ)))
    parts = _in_one_read(there, share, wholes, scale)
    done = {at for part in parts for at in part.positions}
    left = {at: entries for at, entries in there.items() if at not in done}
    parts += _by_operators(left, share, wholes, scale)
    return Measurement(MAGNITUDE_BINS, len(gradients), tuple(parts))


def _entries_of(gradient: Tensor | None) -> Tensor | None:
    """What can be counted of a gradient."""
    if gradient is None:
        return None
    entries = entries_of(local(gradient))
    return entries if entries is not None and entries.is_floating_point() else None


def _in_one_read(
    there: Mapping[int, Tensor], share: int, wholes: Mapping[int, tuple[int, ...]], scale: Tensor | None
) -> list[Part]:
    """Count what the compiled pass can read."""
    if not counts_magnitudes() or not (scale is None or is_on_host(scale)):
        return []
    places = list(there)
    found = readable(list(there.values()))
    if not found.positions:
        return []
    at = [places[position] for position in found.positions]
    strides = [_distance(wholes.get(position, there[position].shape), share) for position in at]
    counts = [-(-size // stride) for size, stride in zip(found.sizes, strides, strict=True)]
    table = count_fused(found, counts, strides, 1.0 if scale is None else float(scale))
    return [Part(at, torch.from_numpy(table.T), None)]


def _by_operators(
    there: Mapping[int, Tensor], share: int, wholes: Mapping[int, tuple[int, ...]], scale: Tensor | None
) -> Iterator[Part]:
    """Count by PyTorch's operators: samples of one device and width together."""
    alike: defaultdict[tuple[torch.device, torch.dtype], list[tuple[int, Tensor]]] = defaultdict(list)
    for at, entries in there.items():
        wide = torch.float64 if entries.dtype == torch.float64 else torch.float32
        alike[entries.device, wide].append((at, _sample(entries, share, wholes.get(at))))
    for (device, dtype), samples in alike.items():
        for joined in _joined(samples, JOINED_ON_HOST if device.type == "cpu" else inf):
            counts = _counts([sample for _, sample in joined], dtype, scale)
            yield to_host([at for at, _ in joined], counts)


def _distance(shape: tuple[int, ...], most: int) -> int:
    """From one entry that is counted to the next."""
    return 1 if prod(shape) <= most else even_stride(shape, most)


def _joined(samples: Sequence[tuple[int, Tensor]], most: float) -> Iterator[list[tuple[int, Tensor]]]:
    """Cut samples into rows of about so many entries together."""
    begin = count = 0
    for at, (_, sample) in enumerate(samples):
        count += sample.numel()
        if count >= most or at + 1 == len(samples):
            yield list(samples[begin : at + 1])
            begin, count = at + 1, 0


def _sample(entries: Tensor, most: int, whole: tuple[int, ...] | None) -> Tensor:
    """At most this many entries of the whole gradient, or what a part has of them: flat, evenly spaced, the same ones.

    ``whole`` is its shape, if this is a part.
    """
    for dimension, stride in enumerate(entries.stride()):
        if stride == 0 and entries.shape[dimension] > 1:  # one entry, told many times
            entries = entries.narrow(dimension, 0, 1)
    size, distance = entries.numel(), _distance(entries.shape if whole is None else whole, most)
    if distance == 1:
        return entries.reshape(-1)
    if not is_dense(entries):
        return entries.reshape(-1)[::distance]
    return entries.as_strided((-(-size // distance),), (distance,), entries.storage_offset())


def _counts(samples: Sequence[Tensor], dtype: torch.dtype, scale: Tensor | None) -> Tensor:
    """How many entries of each sample are in each bin, (bins, samples), on their device."""
    device = samples[0].device
    sizes = [sample.numel() for sample in samples]
    joined = torch.cat([sample.to(dtype) for sample in samples])
    if scale is not None:
        joined = joined / scale.to(device=device, dtype=dtype)
    bins = _bins_of(joined)
    owners = torch.from_numpy(np.repeat(np.arange(len(sizes)) * len(MAGNITUDE_BINS), sizes))
    counts = torch.zeros(len(sizes) * len(MAGNITUDE_BINS), dtype=torch.float32, device=device)
    places = bins + to_device(owners, device)
    counts.scatter_add_(0, places, torch.ones((), dtype=torch.float32, device=device).expand(len(places)))
    return counts.view(len(sizes), len(MAGNITUDE_BINS)).T.contiguous()


def _bins_of(entries: Tensor) -> Tensor:
    """The bin of each entry, as int64."""
    is_double = entries.dtype == torch.float64
    whole, mantissa, bias, largest = (torch.int64, 52, 1023, 2047) if is_double else (torch.int32, 23, 127, 255)
    sign = torch.iinfo(whole).max
    bits = entries.view(whole) & sign
    table = to_device(_bins_by_exponent(bias, largest), entries.device)
    bins = table[(bits >> mantissa).long()]
    bins = torch.where(bits == 0, _ZERO, bins)
    return torch.where(bits > largest << mantissa, _NAN, bins)


@lru_cache(maxsize=2)
def _bins_by_exponent(bias: int, largest: int) -> Tensor:
    return torch.from_numpy(bins_by_exponent(bias, largest))
