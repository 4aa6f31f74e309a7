"""Clipping by the global norm: Pascanu, Mikolov, Bengio 2013, section 3.2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from gradwatch.clip.policy import Clipping, InLoop, above_zero
from gradwatch.clip.scale import coefficient_of, gradients_of, scale
from gradwatch.measure import Measurement, total


@dataclass(frozen=True)
class NormClip(InLoop):
    """Multiply all gradients by ``min(1, max_norm / (total_norm + 1e-6))``.

    The formula is that of `torch.nn.utils.clip_grad_norm_`, with two differences: the norm does
    not overflow where the entries are finite, and gradients with a NaN or infinite entry are left
    as they are instead of being spread over every parameter.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> NormClip(1.0)([weight]), weight.grad
    (tensor(5., dtype=torch.float64), tensor([0.6000, 0.8000]))
    """

    max_norm: float

    def __post_init__(self) -> None:
        above_zero(max_norm=self.max_norm)

    def clip(self, parameters: Sequence[Tensor | None], measured: Measurement) -> Clipping:
        return clip_total(parameters, measured, float(self.max_norm))


def clip_total(
    parameters: Sequence[Tensor | None], measured: Measurement, max_norm: float | Tensor, skip: bool | Tensor = False
) -> Clipping:
    """Scale all gradients so that their norm is at most ``max_norm``."""
    if measured.is_here:
        max_norm = float(max_norm)
        norm: float | Tensor = total(measured.collect()["norm"][measured.present])
    else:
        norm = measured.total_on_device()
    coefficient = coefficient_of(norm, max_norm)
    scale(gradients_of(parameters, measured), coefficient)
    return Clipping(max_norm=max_norm, coefficient=coefficient, skip=skip)
