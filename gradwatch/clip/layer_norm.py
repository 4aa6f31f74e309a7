"""Clipping each parameter's gradient by its own norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch.clip.calls import Clipping
from gradwatch.clip.policy import InLoop, above_zero
from gradwatch.clip.scale import coefficient_of, shrunk
from gradwatch.measure import Measurement, is_on_host


@dataclass(frozen=True)
class LayerNormClip(InLoop):
    """Multiply each parameter's gradient by ``min(1, max_norm / (its norm + 1e-6))``.

    The direction of the update changes, unlike with `NormClip`: a threshold of 1 turns norms of 3 and 4
    into 1 and 1, where the global norm gives 0.6 and 0.8. The 1e-6 is PyTorch's. A gradient with a NaN or
    infinite entry is left as it is and does not affect the others.

    >>> weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    >>> weights[0].grad, weights[1].grad = torch.tensor([3.0]), torch.tensor([0.5])
    >>> norm = LayerNormClip(1.0)(weights)
    >>> weights[0].grad, weights[1].grad
    (tensor([1.0000]), tensor([0.5000]))
    """

    max_norm: float

    def __post_init__(self) -> None:
        above_zero(max_norm=self.max_norm)

    def clip(self, parameters: Sequence[Tensor | None], measured: Measurement) -> Clipping:
        before, after = [], []
        for positions, norms in measured.norms():
            coefficients = torch.as_tensor(coefficient_of(norms, float(self.max_norm)))
            scale_each(parameters, positions, coefficients)
            before.append(norms)
            after.append(norms * coefficients)
        return Clipping(coefficient=shrunk(before, after))


def scale_each(parameters: Sequence[Tensor | None], positions: Sequence[int], coefficients: Tensor) -> None:
    """Multiply the gradient at each position by its own coefficient, in place.

    Coefficients on the host that are 1 are skipped, so that such gradients are not written to.
    """
    on_host = is_on_host(coefficients)
    numbers: Sequence[float | Tensor] = coefficients.tolist() if on_host else coefficients.unbind()
    gradients, factors = [], []
    for position, factor in zip(positions, numbers, strict=True):
        parameter = parameters[position]
        if parameter is None or parameter.grad is None or (on_host and factor == 1.0):
            continue
        gradients.append(parameter.grad)
        factors.append(factor)
    if not gradients:
        return
    if on_host:
        torch._foreach_mul_(gradients, factors)  # type: ignore[arg-type]
    else:
        for gradient, factor in zip(gradients, factors, strict=True):
            gradient.mul_(factor)
