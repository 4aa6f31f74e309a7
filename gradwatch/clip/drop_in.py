"""A drop-in for PyTorch's `clip_grad_norm_`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import GeneratorType
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from gradwatch.clip import calls
from gradwatch.clip.scale import coefficient_of, scale, total_norm
from gradwatch.errors import BadArgument
from gradwatch.measure import (
    Measurement,
    is_on_host,
    is_sharded,
    local,
    make_sums,
    measure,
    over_ranks,
    total,
    whole,
    widest_float,
)

NonFinite: TypeAlias = Literal["keep", "zero", "skip", "raise"]
ClipListed: TypeAlias = Callable[[list[Tensor], float, float, NonFinite, Measurement | None], Tensor]
_CHOICES = ("keep", "zero", "skip", "raise")


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    nonfinite: NonFinite = "keep",
) -> Tensor:
    """Clip the norm over all gradients in place, as `torch.nn.utils.clip_grad_norm_` does, and return it.

    Gradients are multiplied by ``min(1, max_norm / (norm + 1e-6))`` (Pascanu, Mikolov, Bengio 2013,
    section 3.2; the 1e-6 is PyTorch's). Three things differ from PyTorch. The norm is right where its squares
    overflow or underflow, in half precision, and for long gradients: PyTorch sets finite gradients of 1e20 to
    zero, and is 2e-3 off for four million equal entries. Gradients that need no clipping are not written to.
    A NaN in one gradient does not spread to the others. A watch that records these parameters uses the norms
    of the same read.

    Args:
        parameters: a tensor or an iterable of tensors whose ``grad`` is clipped.
        max_norm: the threshold.
        norm_type: order of the norm, ``inf`` for the largest magnitude.
        error_if_nonfinite: the same as ``nonfinite="raise"``.
        foreach: accepted for compatibility; PyTorch chooses.
        nonfinite: what to do where an entry is NaN or infinite. ``keep`` leaves all gradients as they
            are; ``zero`` sets these entries to 0 and clips the rest; ``skip`` sets every ``grad`` to
            None, so that the optimizer does nothing; ``raise`` raises. ``skip`` and ``raise`` wait for an
            accelerator.

    Returns:
        The norm before clipping: a zero-dimensional tensor on the device of the first gradient, in float32,
        or in float64 for float64 gradients; with ``zero``, that of the finite entries. Where all gradients
        are sharded over one device mesh it is a DTensor, replicated over that mesh.

    Raises:
        RuntimeError: the norm is not finite, with ``raise``.
        BadArgument: ``nonfinite`` is none of the four.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3e20, 4e20])
    >>> clip_grad_norm_(weight, 1.0), weight.grad
    (tensor(5.0000e+20), tensor([0.6000, 0.8000]))
    """
    if nonfinite not in _CHOICES:
        raise BadArgument(f"nonfinite is {nonfinite!r}; expected one of {', '.join(_CHOICES)}.")
    listed = _listed(parameters)
    make_sums(listed)
    choice: NonFinite = "raise" if error_if_nonfinite else nonfinite
    return calls.by_norm(clip_listed, listed, float(max_norm), float(norm_type), choice)


def clip_listed(
    parameters: list[Tensor], max_norm: float, norm_type: float, nonfinite: NonFinite, measured: Measurement | None
) -> Tensor:
    """Clip the gradients of a list of parameters.

    Args:
        parameters: as in `clip_grad_norm_`; sums over processes are made.
        max_norm: the threshold.
        norm_type: order of the norm.
        nonfinite: as in `clip_grad_norm_`.
        measured: the statistics of exactly these gradients in any order, where they are known already.
    """
    with torch.no_grad():
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return torch.tensor(0.0)
        norm = _norm(parameters, norm_type, measured)
        if nonfinite in ("raise", "skip") and not math.isfinite(norm):
            if nonfinite == "raise":
                raise RuntimeError(_message(parameters, norm_type))
            for parameter in parameters:
                parameter.grad = None
            return _like(gradients, norm)
        if nonfinite == "zero":
            norm = _without_nonfinite(parameters, norm, norm_type)
        scale((local(gradient) for gradient in gradients), coefficient_of(norm, max_norm))
        return _like(gradients, norm)


def _listed(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        return [parameters]
    listed = list(parameters)
    if not listed and isinstance(parameters, GeneratorType):
        # PyTorch's own words, at the line that called `clip_grad_norm_`.
        warnings.warn("`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=3)
    return listed


def _norm(parameters: Sequence[Tensor], norm_type: float, measured: Measurement | None) -> float | Tensor:
    """Return the norm: a number where the gradients are on the host, else a tensor that is not waited for."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if any(is_sharded(gradient) for gradient in gradients):
        return _norm_over_ranks(parameters, norm_type)
    on_host = all(map(is_on_host, gradients))
    if norm_type not in (2.0, math.inf) or not on_host:
        return _norm_by_torch(gradients, norm_type)
    stat = "norm" if norm_type == 2.0 else "abs_max"
    if measured is None or stat not in measured.stats:
        measured = measure(gradients)
    column = measured.collect()[stat][measured.present]
    return total(column) if norm_type == 2.0 else float(np.max(column))


def _norm_by_torch(gradients: Sequence[Tensor], norm_type: float) -> float | Tensor:
    """Return the norm by PyTorch's function; half precision is widened where its squares could overflow."""
    if norm_type in (2.0, math.inf):
        gradients = [g.float() if g.element_size() < 4 else g for g in gradients]
    norm = torch.nn.utils.get_total_norm(gradients, norm_type)
    return float(norm) if is_on_host(norm) else norm


def _norm_over_ranks(parameters: Sequence[Tensor], norm_type: float) -> Tensor:
    """Return the norm of gradients that are sharded over processes. Every process has to call this."""
    gradients = [None if p.grad is None else local(p.grad) for p in parameters]
    if norm_type == 2.0:
        return total_norm(whole(measure(gradients, ("norm",)), parameters))
    is_largest = norm_type == math.inf
    device = parameters[0].device
    numbers = torch.zeros(1, len(parameters), dtype=widest_float(device), device=device)
    for at, gradient in enumerate(gradients):
        if gradient is not None and gradient.numel():
            norm = torch.linalg.vector_norm(gradient, norm_type).to(numbers.dtype)
            # The largest of NaN and a number may be the number.
            numbers[0, at] = norm.nan_to_num(math.inf, math.inf) if is_largest else norm**norm_type
    found = over_ranks(parameters, numbers, is_largest)
    return found.max() if is_largest else found.sum() ** (1 / norm_type)


def _without_nonfinite(parameters: Sequence[Tensor], norm: float | Tensor, norm_type: float) -> float | Tensor:
    """Set NaN and infinite entries to 0; return the norm of the rest."""
    if isinstance(norm, float) and math.isfinite(norm):
        return norm
    for parameter in parameters:
        if parameter.grad is not None:
            local(parameter.grad).nan_to_num_(0.0, 0.0, 0.0)
    return _norm(parameters, norm_type, None)


def _like(gradients: Sequence[Tensor], norm: float | Tensor) -> Tensor:
    """Return the norm as the tensor that PyTorch would return for these gradients."""
    dtype = torch.float64 if gradients[0].dtype == torch.float64 else torch.float32
    result = torch.as_tensor(norm, dtype=dtype, device=local(gradients[0]).device)
    if not all(is_sharded(gradient) for gradient in gradients):
        return result
    first: Any = gradients[0]
    held: Any = gradients
    if any(gradient.device_mesh != first.device_mesh for gradient in held):
        return result
    from torch.distributed.tensor import DTensor, Replicate

    replicated = [Replicate()] * first.device_mesh.ndim
    return DTensor.from_local(result, first.device_mesh, replicated, run_check=False)


def _message(parameters: Sequence[Tensor], norm_type: float) -> str:
    counts = [0 if p.grad is None else int(torch.isfinite(p.grad).logical_not().sum()) for p in parameters]
    first = next((i for i, count in enumerate(counts) if count), None)
    where = (
        "its entries are finite but too large to be added"
        if first is None
        else f"parameter {first} of shape {tuple(parameters[first].shape)} holds {counts[first]} NaN or infinite"
        f" entries; {sum(count > 0 for count in counts)} parameters hold some"
    )
    return f"The total norm of order {norm_type} for gradients from `parameters` is non-finite: {where}."
