"""Which entries of a long tensor are read: evenly spaced ones, the same at every step."""

from __future__ import annotations

from functools import lru_cache
from math import gcd, prod
from typing import NamedTuple

from torch import Tensor

RUN = 64
"""Neighbouring entries that are read together, of parameters that are sampled."""


class Sampling(NamedTuple):
    """Which entries of a parameter are read: ``runs`` times ``length`` neighbours that begin ``stride`` apart."""

    runs: int
    length: int
    stride: int

    @property
    def is_whole(self) -> bool:
        """Whether every entry is read."""
        return self.stride == self.length


@lru_cache(maxsize=4096)
def sampling_of(shape: tuple[int, ...], most: int) -> Sampling:
    """Choose the entries of a parameter that are read, about ``most`` of a longer one.

    The distance of two runs has no factor in common with a dimension, so that the runs begin in all columns alike.

    >>> sampling_of((3, 5), 100)
    Sampling(runs=1, length=15, stride=15)
    >>> sampling_of((1024, 1024), 1024)
    Sampling(runs=16, length=64, stride=65535)
    """
    size = prod(shape)
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


@lru_cache(maxsize=4096)
def even_stride(shape: tuple[int, ...], most: int) -> int:
    """The least distance between entries at which no more than ``most`` are met.

    It has no factor in common with a dimension, so that a sample of a matrix meets all its columns alike.

    >>> even_stride((2048, 1024), 2**18)
    9
    """
    stride = -(-prod(shape) // most)
    while any(gcd(stride, side) != 1 for side in shape):
        stride += 1
    return stride


def read_sample(tensor: Tensor, sampling: Sampling) -> Tensor:
    """The entries of a tensor that are read, the same of all tensors of one parameter.

    All of them in one dimension, or the runs of a sample: (runs, length), a view that is not copied for itself.
    """
    if sampling.is_whole:
        return tensor.reshape(-1)
    flat = tensor.reshape(-1) if tensor.is_contiguous() else tensor.contiguous().reshape(-1)
    return flat.as_strided((sampling.runs, sampling.length), (sampling.stride, 1), flat.storage_offset())
