"""Clipping each parameter by its own moving average: Wang et al. 2025, "AdaGC"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch.clip.calls import Clipping
from gradwatch.clip.layer_norm import scale_each
from gradwatch.clip.policy import Stateful, above_zero, between
from gradwatch.clip.scale import coefficient_of, shrunk, total_norm
from gradwatch.errors import BadArgument
from gradwatch.measure import Measurement, move, to_device


@dataclass
class AdaGC(Stateful):
    """Multiply each parameter's gradient by ``min(1, relative * average / its norm)``.

    Wang et al. 2025 (arXiv:2502.11034), algorithm 1. The average is a moving one of the norms after
    clipping, ``average <- beta average + (1 - beta) norm``. In the first ``start`` steps the total norm is
    clipped at ``max_norm`` instead, and the average is the smallest norm after that clipping. Clipped norms
    feed the average, so a norm that rises for good is followed by about 0.1% a step only.

    Differences from the authors' code: a step with a non-finite norm does not enter the averages, nor does
    a norm of 0, which would keep the parameter's gradient at 0 for ever; and nothing is added to the norm
    before dividing (their code adds 1e-6), so that the result does not depend on the scale of the loss.

    Args:
        relative: the threshold of each parameter, as a multiple of its average.
        beta: the decay of the averages.
        start: steps clipped by the total norm before the averages take over.
        max_norm: the total norm's threshold in these steps; ``math.inf`` clips nothing there.

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
        of_all = total_norm(measured)
        state = self._on(of_all)
        state.setdefault("step", torch.zeros((), dtype=torch.int64, device=of_all.device))
        averages = state.get("average", of_all.new_empty(0))
        missing = len(parameters) - len(averages)
        if missing > 0:
            averages = torch.cat([averages, of_all.new_full((missing,), math.inf)])
        starting = state["step"] < self.start
        common = torch.as_tensor(coefficient_of(of_all, self.max_norm, eps=0.0), dtype=of_all.dtype)
        before, after = [], []
        for positions, found in measured.norms():
            at = to_device(torch.tensor(positions), of_all.device)
            norms = move(found.to(of_all.dtype), of_all.device)
            average = averages[at]
            own = torch.as_tensor(coefficient_of(norms, self.relative * average, eps=0.0))
            factors = torch.where(starting, common, own)
            left = norms * factors
            moved = torch.where(
                starting | torch.isinf(average),
                torch.minimum(average, left),
                self.beta * average + (1 - self.beta) * left,
            )
            averages[at] = torch.where(torch.isfinite(of_all) & (norms > 0), moved, average)
            scale_each(parameters, positions, move(factors, found.device))
            before.append(norms)
            after.append(left)
        state["average"] = averages
        state["step"] = state["step"] + torch.isfinite(of_all)
        return Clipping(coefficient=shrunk(before, after))
