"""Multiplying gradients by a coefficient, without waiting for a device."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from gradwatch.measure import Measurement, join, move, scale_in_one_launch, total

TORCH_EPS = 1e-6
"""What `torch.nn.utils.clip_grad_norm_` adds to the norm before it divides. It is an absolute number: at a norm of
1e-6 it halves the coefficient. Policies with an absolute threshold use it, so that they do as PyTorch does."""


def gradients_of(parameters: Sequence[Tensor | None], measured: Measurement) -> Iterator[Tensor]:
    """Yield the gradients that were measured, in the order of ``measured.present``.

    Each gradient is looked up when it is taken, not before.
    """
    for position in measured.present:
        parameter = parameters[position]
        if parameter is not None and (gradient := parameter.grad) is not None:
            yield gradient


def stored(gradient: Tensor) -> Tensor:
    """Return the entries of a gradient as a tensor that can be changed in place.

    Of a sparse gradient these are the values it stores; rows stored several times are summed first, in place.

    >>> gradient = torch.sparse_coo_tensor([[2, 0, 2]], [3.0, 1.0, 4.0], (3,), check_invariants=True)
    >>> stored(gradient).mul_(10.0)
    tensor([10., 70.])
    >>> gradient.to_dense()
    tensor([10.,  0., 70.])
    """
    if not gradient.is_sparse:
        return gradient
    if not gradient.is_coalesced():
        gradient.copy_(gradient.coalesce())
    return gradient._values()


def total_norm(measured: Measurement) -> Tensor:
    """Return the L2 norm of all gradients: a zero-dimensional tensor, on the device that computes it.

    In float64, unless the device has none.
    """
    if not measured.is_here:
        return measured.total_on_device()
    return torch.tensor(host_total(measured), dtype=torch.float64)


def host_total(measured: Measurement) -> float:
    """Return the L2 norm of all gradients as a number, where the measurement is on the host."""
    return total(measured.collect()["norm"][measured.present])


def coefficient_of(norm: float | Tensor, max_norm: float | Tensor, eps: float = TORCH_EPS) -> float | Tensor:
    """Return ``min(1, max_norm / (norm + eps))``.

    It is 1 where the norm is not finite, where the threshold is NaN, and where both are 0: such
    gradients are left as they are.

    Args:
        norm: the norm before clipping, a number or a tensor of any shape.
        max_norm: the threshold, of a shape that broadcasts with the norm.
        eps: `TORCH_EPS` for an absolute threshold. Pass 0 for a relative one; otherwise the result
            depends on the scale of the loss.

    >>> coefficient_of(3e-6, 1.5e-6, eps=0.0), round(coefficient_of(3e-6, 1.5e-6), 3)
    (0.5, 0.375)
    """
    if isinstance(norm, float) and isinstance(max_norm, float):
        if not math.isfinite(norm) or math.isnan(max_norm) or norm + eps == 0.0:
            return 1.0
        return min(1.0, max_norm / (norm + eps))
    quotient = torch.as_tensor(max_norm / (norm + eps))
    usable = torch.isfinite(torch.as_tensor(norm)) & ~torch.isnan(quotient)
    return torch.where(usable, quotient.clamp(max=1.0), torch.ones_like(quotient))


def scale(gradients: Iterable[Tensor], coefficient: float | Tensor) -> None:
    """Multiply all gradients by one coefficient, in place.

    A coefficient that is a number, and 1, is known to change nothing: no gradient is looked up.
    """
    if not isinstance(coefficient, Tensor):
        if coefficient < 1.0:
            torch._foreach_mul_(list(gradients), coefficient)
        return
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for gradient in gradients:
        alike[gradient.device, gradient.dtype].append(gradient)
    for (device, dtype), group in alike.items():
        factor = move(coefficient, device)
        left = list(scale_in_one_launch(group, factor))
        # One launch for all of them takes a factor of their dtype. Half precision would round the factor too.
        kept = dtype if dtype in (torch.float32, torch.float64) else coefficient.dtype
        if left:
            torch._foreach_mul_(left, factor.to(kept))


def shrunk(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """Return the total norm after clipping divided by the total norm before, from norms of the parts.

    Parts whose norm was not finite are left out. The result is 1 where nothing is left.

    Args:
        before: norms before clipping, in tensors of any shape.
        after: the norms of the same parts after clipping, in the same shapes.
    """
    old = join([norms.flatten() for norms in before])
    new = join([norms.flatten() for norms in after])
    if not old.numel():  # sparse gradients without a row
        return old.new_ones(())
    finite = torch.isfinite(old)
    zero = torch.zeros_like(old)
    old, new = torch.where(finite, old, zero), torch.where(finite, new, zero)
    largest = old.max().clamp(min=torch.finfo(old.dtype).tiny)  # dividing by it keeps the squares from overflowing
    quotient = torch.linalg.vector_norm(new / largest) / torch.linalg.vector_norm(old / largest)
    return torch.where(torch.isnan(quotient), torch.ones_like(quotient), quotient)
