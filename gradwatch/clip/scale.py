"""Multiplying gradients, without waiting for a device."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from gradwatch.measure import Measurement, total


def gradients_of(parameters: Sequence[Tensor | None], measured: Measurement) -> Iterator[Tensor]:
    """The gradients that were measured, in the order of ``measured.present``; looked up as they are taken."""
    for position in measured.present:
        parameter = parameters[position]
        if parameter is not None and (gradient := parameter.grad) is not None:
            yield gradient


def total_norm(measured: Measurement) -> Tensor:
    """The L2 norm of all, a float64 tensor of no dimension, on its device where that computes it."""
    if not measured.is_here:
        return measured.total_on_device()
    return torch.tensor(host_total(measured), dtype=torch.float64)


def host_total(measured: Measurement) -> float:
    """The same of what is on the host."""
    return total(measured.collect()["norm"][measured.present])


def coefficient_of(norm: float | Tensor, max_norm: float | Tensor) -> float | Tensor:
    """``min(1, max_norm / (norm + 1e-6))``; 1 where either is not a number or the norm is not finite."""
    if isinstance(norm, float) and isinstance(max_norm, float):
        number = max_norm / (norm + 1e-6)
        return min(1.0, number) if math.isfinite(norm) and not math.isnan(number) else 1.0
    quotient = torch.as_tensor(max_norm / (norm + 1e-6))
    usable = torch.isfinite(torch.as_tensor(norm)) & ~torch.isnan(quotient)
    return torch.where(usable, quotient.clamp(max=1.0), torch.ones_like(quotient))


def scale(gradients: Iterable[Tensor], coefficient: float | Tensor) -> None:
    """Multiply all by one number; none is taken or written where a number on the host says that it is 1."""
    if not isinstance(coefficient, Tensor):
        if coefficient < 1.0:
            torch._foreach_mul_(list(gradients), coefficient)
        return
    by_device: dict[torch.device, list[Tensor]] = defaultdict(list)
    for gradient in gradients:
        by_device[gradient.device].append(gradient)
    for device, group in by_device.items():
        torch._foreach_mul_(group, coefficient.to(device, non_blocking=True))


def shrunk(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """The total norm after over that before from norms of the parts; those that are not finite are left out."""
    device = before[0].device
    old = torch.cat([norms.flatten().double().to(device, non_blocking=True) for norms in before])
    new = torch.cat([norms.flatten().double().to(device, non_blocking=True) for norms in after])
    finite = torch.isfinite(old)
    zero = torch.zeros_like(old)
    old, new = torch.where(finite, old, zero), torch.where(finite, new, zero)
    largest = old.max().clamp(min=1e-300)  # scaled, so that squares do not overflow
    quotient = torch.linalg.vector_norm(new / largest) / torch.linalg.vector_norm(old / largest)
    return torch.where(torch.isnan(quotient), torch.ones_like(quotient), quotient)
