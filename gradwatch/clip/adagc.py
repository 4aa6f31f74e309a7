"""Clipping each parameter by its own moving average: Wang et al. 2025, "AdaGC"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch.clip.layer_norm import scale_each
from gradwatch.clip.policy import Clipping, Stateful, above_zero, between
from gradwatch.clip.scale import coefficient_of, shrunk, total_norm
from gradwatch.errors import BadArgument
from gradwatch.measure import Measurement


@dataclass
class AdaGC(Stateful):
    """Multiply each parameter's gradient by ``min(1, relative * average / its norm)``.

    Wang et al. 2025 (arXiv:2502.11034), algorithm 1. The average is that of the norms after clipping,
    ``average <- beta average + (1 - beta) norm``. In the first ``start`` steps the total norm is
    clipped at ``max_norm`` instead, and the average is the least norm after that. Two things differ: a
    step with a norm that is not finite enters no average, and neither does a norm of 0, which would
    keep the parameter's gradient at 0 for good. Since clipped norms feed the average, a rise that is meant is
    let through by about 0.1 % a step only.

    >>> policy = AdaGC(start=1)
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> for norm in (0.5, 5.0):
    ...     weight.grad = torch.tensor([norm])
    ...     before = policy([weight])
    >>> weight.grad
    tensor([0.5250])
    """

    relative: float = 1.05
    beta: float = 0.98
    start: int = 100
    max_norm: float = 1.0

    def __post_init__(self) -> None:
        above_zero(relative=self.relative, max_norm=self.max_norm)
        between(0, 1, beta=self.beta)
        if self.start < 1:
            raise BadArgument(f"start is {self.start!r}; expected at least 1.")

    def clip(self, parameters: Sequence[Tensor | None], measured: Measurement) -> Clipping:
        whole = total_norm(measured)
        state = self._on(whole)
        state.setdefault("step", torch.zeros((), dtype=torch.int64, device=whole.device))
        averages = state.get("average", whole.new_empty(0))
        missing = len(parameters) - len(averages)
        if missing > 0:
            averages = torch.cat([averages, whole.new_full((missing,), math.inf)])
        starting = state["step"] < self.start
        common = torch.as_tensor(coefficient_of(whole, self.max_norm), dtype=whole.dtype)
        before, after = [], []
        for positions, found in measured.norms():
            at = torch.tensor(positions)
            norms = found.double().to(whole.device, non_blocking=True)
            mine = averages[at]
            own = torch.as_tensor(coefficient_of(norms, self.relative * mine))
            factors = torch.where(starting, common, own)
            left = norms * factors
            moved = torch.where(
                starting | torch.isinf(mine), torch.minimum(mine, left), self.beta * mine + (1 - self.beta) * left
            )
            averages[at] = torch.where(torch.isfinite(whole) & (norms > 0), moved, mine)
            scale_each(parameters, positions, factors.to(found.device))
            before.append(norms)
            after.append(left)
        state["average"] = averages
        state["step"] = state["step"] + torch.isfinite(whole)
        return Clipping(coefficient=shrunk(before, after))
