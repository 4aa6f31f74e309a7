"""Clipping by the global norm: Pascanu, Mikolov, Bengio 2013, section 3.2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from gradwatch.clip.calls import Clipping
from gradwatch.clip.policy import InLoop, Stateful, above_zero
from gradwatch.clip.scale import TORCH_EPS, coefficient_of, gradients_of, host_total, scale, total_norm
from gradwatch.measure import Measurement


@dataclass(frozen=True)
class NormClip(InLoop):
    """Multiply all gradients by ``min(1, max_norm / (total_norm + 1e-6))``.

    The formula is that of `torch.nn.utils.clip_grad_norm_`, its 1e-6 included: with a ``max_norm`` near
    1e-6 the clipped norm is visibly below the threshold. Two things differ from PyTorch: the norm does not
    overflow where every entry is finite, and a NaN or infinite entry leaves the gradients as they are
    instead of spreading to every parameter.

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
        return clip_total(parameters, measured, norm, float(self.max_norm), TORCH_EPS)


@dataclass
class ThresholdClip(Stateful):
    """Base class of the policies that derive a threshold for the total norm from earlier norms.

    The coefficient is ``min(1, threshold / total_norm)``, without PyTorch's 1e-6, so that the result
    does not depend on the scale of the loss.
    """

    def threshold(self, norm: Tensor) -> Tensor:
        """Take in a norm and return the threshold for it."""
        raise NotImplementedError

    def clip(self, parameters: Sequence[Tensor | None], measured: Measurement) -> Clipping:
        norm = total_norm(measured)
        return clip_total(parameters, measured, norm, self.threshold(norm), eps=0.0)


def clip_total(
    parameters: Sequence[Tensor | None],
    measured: Measurement,
    norm: float | Tensor,
    max_norm: float | Tensor,
    eps: float,
) -> Clipping:
    """Multiply all gradients by ``min(1, max_norm / (norm + eps))``, where ``norm`` is their total norm."""
    if measured.is_here:
        norm, max_norm = float(norm), float(max_norm)
    coefficient = coefficient_of(norm, max_norm, eps)
    scale(gradients_of(parameters, measured), coefficient)
    return Clipping(max_norm=max_norm, coefficient=coefficient)
