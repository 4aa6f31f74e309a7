"""Clipping by the global norm: Pascanu, Mikolov, Bengio 2013, section 3.2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from gradwatch.clip.policy import Clipping, InLoop, Stateful, above_zero
from gradwatch.clip.scale import coefficient_of, gradients_of, host_total, scale, total_norm
from gradwatch.measure import Measurement


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
        norm = measured.total_on_device() if not measured.is_here else host_total(measured)
        return clip_total(parameters, measured, norm, float(self.max_norm))


@dataclass
class ThresholdClip(Stateful):
    """A policy whose history comes to a threshold for the total norm."""

    def threshold(self, norm: Tensor) -> Tensor:
        """Take in a norm and return the threshold for it."""
        raise NotImplementedError

    def clip(self, parameters: Sequence[Tensor | None], measured: Measurement) -> Clipping:
        norm = total_norm(measured)
        return clip_total(parameters, measured, norm, self.threshold(norm))


def clip_total(
    parameters: Sequence[Tensor | None], measured: Measurement, norm: float | Tensor, max_norm: float | Tensor
) -> Clipping:
    """Scale all gradients, whose total norm this is, so that it is at most ``max_norm``."""
    if measured.is_here:
        norm, max_norm = float(norm), float(max_norm)
    coefficient = coefficient_of(norm, max_norm)
    scale(gradients_of(parameters, measured), coefficient)
    return Clipping(max_norm=max_norm, coefficient=coefficient)
