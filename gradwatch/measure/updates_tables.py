"""The tables that tell the compiled pass and the Triton kernel what to read: a row of words for each parameter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import prod
from operator import attrgetter

import numpy as np
import torch
from numpy.typing import NDArray

from gradwatch.measure.moved import Moved
from gradwatch.measure.sampling import RUN, Sampling, even_share, sampling_of
from gradwatch.measure.updates_numbers import COEFFICIENTS, numbers_of_moved, numbers_on_device
from gradwatch.measure.updates_pointers import GRADIENT, LARGEST, MOMENT, POINTERS

READ_FUSED, READ_FUSED_EACH, READ_FUSED_LEAST = 2**20, 2**13, 2**16
"""Entries that the compiled pass reads of all parameters together at most, of each on average, and of all at least.

The fewer parameters a model has, the more often they are read. They are not in the caches after a step, so that a run
costs what its pages cost to reach: 2**18 entries took 2.0 ms of a step of an LSTM, 2**16 to 2**17 take 1.1 ms."""

READ_OPERATORS = 2**18
"""Entries that PyTorch's operators read, which need memory for it. A model that has no more is read whole by either."""

FUSED_TYPES = {torch.float32: 0, torch.bfloat16: 1}
"""Those that the compiled pass reads, and how its table names them."""

_WORDS = (*POINTERS, "type", "runs", "length", "stride", "size", *COEFFICIENTS)
"""``Update`` of fused.c, all of whose members have eight bytes."""
_FIRST_NUMBER = _WORDS.index(COEFFICIENTS[0])

_ROW = (*_WORDS, "step_at", "rate_at", "log_beta1", "log_beta2")
"""A row of the table in updates_triton.py. A number at an address lies on the device; 0: the row has it itself."""
ROW_WORDS = len(_ROW)
_STEP_AT = _ROW.index("step_at")

_SHAPE, _WEIGHT = map(attrgetter, ("shape", "weight"))


def samplings_of(found: Sequence[Moved], most: int | None) -> tuple[Sampling, ...]:
    """Choose about ``most`` entries of all together; None: as many as one pass reads of a whole model.

    They are the same at every step.
    """
    return _sampled(shapes_of(found), most)


def shapes_of(found: Sequence[Moved]) -> tuple[torch.Size, ...]:
    return tuple(map(_SHAPE, map(_WEIGHT, found)))


@lru_cache(maxsize=64)
def _sampled(shapes: tuple[torch.Size, ...], most: int | None) -> tuple[Sampling, ...]:
    sizes = tuple(map(prod, shapes))
    share = even_share(sizes, most or _usual_read(sizes))
    return tuple(sampling_of(tuple(shape), share) for shape in shapes)


def compiled_rows(found: Sequence[Moved], addresses: NDArray[np.uint64], most: int | None) -> NDArray[np.uint64]:
    """The table of the compiled pass."""
    table = _compiled_table(shapes_of(found), most).copy()
    _fill(table, addresses, numbers_of_moved(found))
    table[:, _WORDS.index("type")] = [FUSED_TYPES[one.weight.dtype] for one in found]
    return table


@lru_cache(maxsize=64)
def _compiled_table(shapes: tuple[torch.Size, ...], most: int | None) -> NDArray[np.uint64]:
    """The table of the compiled pass as words, without addresses and settings."""
    as_chosen = ((sampling.runs, sampling.length, sampling.stride) for sampling in _sampled(shapes, most))
    return _table_of(_WORDS, tuple(map(prod, shapes)), as_chosen)


@lru_cache(maxsize=64)
def triton_table(shapes: tuple[torch.Size, ...], most: int | None) -> NDArray[np.uint64]:
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


def _fill(table: NDArray[np.uint64], addresses: NDArray[np.uint64], numbers: NDArray[np.float64]) -> None:
    """Write the addresses and settings into the rows."""
    table[:, : len(POINTERS)] = addresses
    table.view(np.float64)[:, _FIRST_NUMBER : _FIRST_NUMBER + numbers.shape[1]] = numbers


def fill_again(table: NDArray[np.uint64], gradients: NDArray[np.int64], numbers: NDArray[np.float64]) -> None:
    """Write what differs from step to step into the table."""
    table[:, GRADIENT] = gradients
    table.view(np.float64)[:, _FIRST_NUMBER : _FIRST_NUMBER + numbers.shape[1]] = numbers


def fill_rows_again(
    table: NDArray[np.uint64], gradients: NDArray[np.int64], numbers: NDArray[np.float64], *, has_moments: bool
) -> None:
    """The same of the table of the Triton kernel."""
    steps_at = table[:, _STEP_AT].copy()
    fill_again(table, gradients, numbers)
    table[:, _STEP_AT] = steps_at
    if not has_moments:
        table[:, MOMENT] = gradients  # as `fill_rows` has it


def fill_rows(found: Sequence[Moved], addresses: NDArray[np.uint64], table: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Fill the table of the Triton kernel."""
    _fill(table, addresses, numbers_of_moved(found, numbers_on_device))
    # What is not there is not used, but read.
    for place, instead in ((MOMENT, MOMENT - 1), (LARGEST, LARGEST - 1)):
        np.copyto(table[:, place], table[:, instead], where=table[:, place] == 0)
    if any(one.is_step_remote for one in found):
        table[:, _STEP_AT] = [one.step.data_ptr() if one.is_step_remote else 0 for one in found]
    return table
