"""The statistics of gradients by PyTorch's own operators.

On the CPU a cheap pass comes first. If its result can't be trusted (the sum of squares overflowed or
underflowed, or entries are not finite), the gradient is read again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

_SMALLEST = 1e-15
"""A magnitude whose square comes near the smallest float32: sums of such squares lose digits."""

_ROW_ENTRIES = 1024
"""Squares that are added in float32; the rows' sums are added in float64."""

_SHORT_ENTRIES = 32 * _ROW_ENTRIES
"""Up to this length a tensor is read together with others."""

_SPACE_ENTRIES = 128 * _ROW_ENTRIES
"""Entries that are read together: about what a processor's cache holds."""


def on_cpu(tensors: list[Tensor], stats: Sequence[str]) -> Tensor:
    """Return the statistics of real strided CPU tensors as a (statistics, tensors) float64 tensor."""
    with_largest = "abs_max" in stats
    norm, largest = _norms_and_largest(tensors, with_largest)
    doubtful = ~torch.isfinite(norm)
    if with_largest:
        doubtful |= (largest > 0) & (largest < _SMALLEST)
    nonfinite = torch.zeros_like(norm)
    for index in doubtful.nonzero().flatten().tolist():
        nonfinite[index] = torch.isfinite(tensors[index]).logical_not().sum()
        if nonfinite[index] == 0:
            norm[index] = _careful_norm(tensors[index].double())
    columns: dict[str, Callable[[], Tensor]] = {
        "norm": lambda: norm,
        "abs_max": lambda: largest,
        "nonfinite": lambda: nonfinite,
        "zeros": lambda: torch.tensor(
            [float(t.numel() - int(torch.count_nonzero(t))) for t in tensors], dtype=torch.float64, device="cpu"
        ),
    }
    return torch.stack([columns[name]() for name in stats])


def on_device(tensors: list[Tensor], stats: Sequence[str]) -> Tensor:
    """Return the statistics as a (statistics, tensors) float32 tensor on their device, without waiting for it."""
    columns: dict[str, Callable[[], list[Tensor]]] = {
        "norm": lambda: _foreach_norms(tensors),
        "abs_max": lambda: [t.abs().amax() if t.numel() else t.new_zeros(()) for t in tensors],
        "nonfinite": lambda: [torch.isfinite(t).logical_not().sum() for t in tensors],
        "zeros": lambda: [t.numel() - torch.count_nonzero(t) for t in tensors],
    }
    return torch.stack([torch.stack([v.float() for v in columns[name]()]) for name in stats])


def _norms_and_largest(tensors: list[Tensor], with_largest: bool) -> Tensor:
    """Return norms and largest magnitudes as a (2, tensors) tensor; the latter are 0 where not wanted."""
    found = torch.zeros(2, len(tensors), dtype=torch.float64, device="cpu")
    short: dict[torch.dtype, list[int]] = defaultdict(list)
    for index, tensor in enumerate(tensors):
        if tensor.numel() <= _SHORT_ENTRIES:
            short[_wide(tensor.dtype)].append(index)
        else:
            found[:, index] = _of_long(tensor, with_largest)
    for dtype, indices in short.items():
        found[:, indices] = _of_short([tensors[index] for index in indices], dtype, with_largest)
    return found


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which squares are added."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _of_long(tensor: Tensor, with_largest: bool) -> Tensor:
    """Return norm and largest magnitude of a long tensor; the norm is right to 1e-6 at any length.

    PyTorch adds the squares of a whole tensor in a few float32 lanes: for four million equal entries
    the norm is 2e-3 off. Adding row by row costs no more.
    """
    extremes = torch.stack(torch.aminmax(tensor)).double().abs() if with_largest else tensor.new_zeros(1).double()
    if tensor.is_contiguous():
        flat = tensor.view(-1)
        in_rows = flat.numel() // _ROW_ENTRIES * _ROW_ENTRIES
        rows = torch.linalg.vector_norm(flat[:in_rows].view(-1, _ROW_ENTRIES), dim=1, dtype=_wide(tensor.dtype))
        rest = torch.linalg.vector_norm(flat[in_rows:], dtype=torch.float64)
        norm = (torch.linalg.vector_norm(rows, dtype=torch.float64).square() + rest.square()).sqrt()
    else:
        norm = torch.linalg.vector_norm(tensor, dtype=torch.float64)
    return torch.stack((norm, extremes.amax()))


def _of_short(tensors: list[Tensor], dtype: torch.dtype, with_largest: bool) -> Tensor:
    """Return norms and largest magnitudes of short tensors as a (2, tensors) tensor.

    The tensors are copied side by side into a space of the size of a processor's cache. An operator
    for each tensor would cost several times what it takes to read them.
    """
    rows_of = [-(-tensor.numel() // _ROW_ENTRIES) for tensor in tensors]
    parts = [_of_rows(rows, with_largest) for rows in _filled_spaces(tensors, rows_of, dtype)]
    found = torch.zeros(2, len(tensors), dtype=torch.float64, device="cpu")
    owner = torch.repeat_interleave(torch.tensor(rows_of, device="cpu"))
    of_rows = torch.cat(parts, dim=1).double() if parts else found[:, :0]
    found[0].index_add_(0, owner, of_rows[0].square()).sqrt_()
    if with_largest:
        found[1].scatter_reduce_(0, owner, of_rows[1], "amax")
    return found


def _of_rows(rows: Tensor, with_largest: bool) -> Tensor:
    norms = torch.linalg.vector_norm(rows, dim=1)
    return torch.stack((norms, rows.abs_().amax(dim=1))) if with_largest else norms.unsqueeze(0)


def _filled_spaces(tensors: list[Tensor], rows_of: list[int], dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield the tensors laid side by side, as many at a time as the space holds, each padded to whole rows.

    The space is used again: take what is needed from each before the next.
    """
    space = torch.empty(_SPACE_ENTRIES, dtype=dtype, device="cpu")
    padding = torch.zeros(_ROW_ENTRIES, dtype=dtype, device="cpu")
    laid: list[Tensor] = []
    used_rows = 0
    for tensor, rows in zip(tensors, rows_of, strict=True):
        if (used_rows + rows) * _ROW_ENTRIES > _SPACE_ENTRIES:
            yield torch.cat(laid, out=space[: used_rows * _ROW_ENTRIES]).view(-1, _ROW_ENTRIES)
            laid, used_rows = [], 0
        laid.append(tensor.reshape(-1))
        if gap := rows * _ROW_ENTRIES - tensor.numel():
            laid.append(padding[:gap])
        used_rows += rows
    if used_rows:
        yield torch.cat(laid, out=space[: used_rows * _ROW_ENTRIES]).view(-1, _ROW_ENTRIES)


def _foreach_norms(tensors: list[Tensor]) -> list[Tensor]:
    """Return one norm for each tensor; squares of float16 and bfloat16 are added in float32."""
    by_dtype: dict[torch.dtype, list[int]] = defaultdict(list)
    for index, tensor in enumerate(tensors):
        by_dtype[tensor.dtype].append(index)
    found: list[Tensor] = [tensors[0]] * len(tensors)
    for dtype, indices in by_dtype.items():
        group = torch._foreach_norm([tensors[index] for index in indices], 2, dtype=_wide(dtype))
        for index, norm in zip(indices, group, strict=True):
            found[index] = norm
    return found


def _careful_norm(tensor: Tensor) -> Tensor:
    """Return the norm of finite float64 entries; squares neither overflow nor underflow on the way."""
    if tensor.numel() == 0:
        return tensor.new_zeros(())
    scale = tensor.abs().max()
    return scale if scale == 0 else torch.linalg.vector_norm(tensor / scale) * scale
