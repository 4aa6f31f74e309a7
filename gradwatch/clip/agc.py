"""Adaptive gradient clipping, unit by unit: Brock, De, Smith, Simonyan 2021."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch.clip.calls import Clipping
from gradwatch.clip.policy import InLoop, above_zero
from gradwatch.clip.scale import shrunk, stored
from gradwatch.errors import BadArgument
from gradwatch.measure import Measurement


@dataclass(frozen=True)
class AGC(InLoop):
    """Limit the gradient norm of each output unit to a fraction of the unit's weight norm.

    ``G_i <- clipping * max(|W_i|, eps) / |G_i| * G_i`` where ``|G_i| / max(|W_i|, eps) > clipping``
    (Brock et al. 2021, "High-performance large-scale image recognition without normalization",
    equation 3; the defaults are those of the authors' code). A unit is a row of a PyTorch weight of shape
    (out, in, ...): its norm runs over all axes but the first. A bias or a gain is one unit. A transposed
    convolution stores its weight as (in, out, ...); there a unit is the filter of one input. A unit with a
    NaN or infinite gradient is left as it is. Of a sparse gradient the units are the rows that it holds.

    AGC was made for networks without normalisation layers. Elsewhere it may do harm: a vision transformer
    drops from 79.3 to 38.5% with it (Yang et al. 2025, arXiv:2502.17055, table 1).

    Args:
        clipping: the fraction. The authors use 0.01 for batches of 1,024 to 4,096; smaller batches need more.
        eps: smallest weight norm that counts, so that units that begin at 0 can move.
        exclude: parameters that are not clipped; the authors leave out the last linear layer.

    >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    >>> weight.grad = torch.tensor([[0.03, 0.04], [0.03, 0.04]])
    >>> norm = AGC(0.01)([weight])
    >>> weight.grad
    tensor([[0.0300, 0.0400],
            [0.0030, 0.0040]])
    """

    clipping: float = 0.01
    eps: float = 1e-3
    exclude: Iterable[Tensor] = ()
    by_unit = True  # a class attribute, not a field: each process needs whole units

    def __post_init__(self) -> None:
        above_zero(clipping=self.clipping, eps=self.eps)
        object.__setattr__(self, "exclude", tuple(self.exclude))

    def clip(self, parameters: Sequence[Tensor | None], measured: Measurement) -> Clipping:
        excluded = {id(parameter) for parameter in self.exclude}
        before, after = [], []
        for position in measured.present:
            parameter = parameters[position]
            if parameter is None or parameter.grad is None:
                continue
            gradient, weight = self._units(parameter.grad, parameter.detach())
            norms = _unit_norms(gradient)
            factors = torch.ones_like(norms)
            if id(getattr(parameter, "stands_for", parameter)) not in excluded:
                largest_allowed = self.clipping * _unit_norms(weight).clamp(min=self.eps)
                over = torch.isfinite(norms) & (norms > largest_allowed)
                factors = torch.where(over, largest_allowed / norms, factors)
                gradient.mul_(factors.to(gradient.dtype))
            before.append(norms)
            after.append(norms * factors)
        return Clipping(coefficient=shrunk(before, after))

    def _units(self, gradient: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The units of a gradient that are there, and those of the weight; a sparse gradient has some rows only."""
        if not gradient.is_sparse:
            return gradient, weight
        if gradient.sparse_dim() > 1:
            raise BadArgument(
                f"{self!r} needs whole rows, but a gradient of shape {tuple(weight.shape)} has parts of rows."
            )
        return stored(gradient), weight[gradient._indices()[0]] if weight.dim() > 1 else weight

    def __repr__(self) -> str:
        left_out = f", exclude={len(tuple(self.exclude))} parameters" if self.exclude else ""
        return f"AGC(clipping={self.clipping:g}, eps={self.eps:g}{left_out})"


def _unit_norms(tensor: Tensor) -> Tensor:
    """Return the L2 norm of each unit, in float32 or wider, in a shape that broadcasts over the tensor."""
    wide = tensor.dtype if tensor.element_size() >= 4 else torch.float32
    axes = tuple(range(1, tensor.dim())) or None
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=axes, keepdim=axes is not None, dtype=wide)
    return norms
