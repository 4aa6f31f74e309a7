"""Clipping by the global norm: Pascanu, Mikolov, Bengio 2013, section 3.2."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch.clip.policy import Clipping
from gradwatch.errors import BadArgument
from gradwatch.measure import Measurement, total


@dataclass(frozen=True, slots=True)
class NormClip:
    """Multiply all gradients by ``min(1, max_norm / (total_norm + 1e-6))``.

    The formula is that of `torch.nn.utils.clip_grad_norm_`, with two differences: the norm does
    not overflow where the entries are finite, and gradients with a NaN or infinite entry are left
    as they are instead of being spread over every parameter.

    >>> from gradwatch.measure import measure
    >>> gradient = torch.tensor([3.0, 4.0])
    >>> NormClip(1.0).clip([gradient], measure([gradient])).coefficient
    0.19999996...
    >>> gradient
    tensor([0.6000, 0.8000])
    """

    max_norm: float

    def __post_init__(self) -> None:
        if not self.max_norm > 0:
            raise BadArgument(f"max_norm is {self.max_norm!r}; expected a number above 0.")

    def clip(self, gradients: Sequence[Tensor], measured: Measurement) -> Clipping:
        if not measured.is_here:
            return self._on_device(gradients, measured)
        norm = total(measured.collect()["norm"][measured.present])
        coefficient = min(1.0, self.max_norm / (norm + 1e-6)) if math.isfinite(norm) else 1.0
        if coefficient < 1.0:
            torch._foreach_mul_(list(gradients), coefficient)
        return Clipping(max_norm=self.max_norm, coefficient=coefficient)

    def _on_device(self, gradients: Sequence[Tensor], measured: Measurement) -> Clipping:
        """The same without waiting for the device, which computes the coefficient."""
        norm = measured.total_on_device()
        coefficient = torch.clamp(self.max_norm / (norm + 1e-6), max=1.0)
        coefficient = torch.where(torch.isfinite(norm), coefficient, torch.ones_like(coefficient))
        by_device: dict[torch.device, list[Tensor]] = defaultdict(list)
        for gradient in gradients:
            by_device[gradient.device].append(gradient)
        for device, group in by_device.items():
            torch._foreach_mul_(group, coefficient.to(device, non_blocking=True))
        return Clipping(max_norm=self.max_norm, coefficient=coefficient)
