"""Clipping norms that stand out from a moving average: Kumar, Owen, Chowdhury, Güra 2025, "ZClip"."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradwatch.clip.norm import ThresholdClip
from gradwatch.clip.policy import above_zero, between
from gradwatch.errors import BadArgument

SMALLEST_DEVIATION = 1e-6
"""Added to the deviation before dividing by it, as a fraction of the mean, or as such for logarithms."""


@dataclass
class ZClip(ThresholdClip):
    """Clip a norm that lies more than ``z`` deviations above its moving average, to ``mean + z^2 std / its z``.

    Kumar et al. 2025 (arXiv:2504.02507), section 3. Mean and variance begin as those of ``warm_up`` norms,
    which are not clipped. Then, with ``x`` the norm after clipping, ``mean <- alpha mean + (1 - alpha) x``
    and ``var <- alpha var + (1 - alpha) (x - mean)^2`` with the new mean, as in the authors' code.

    Differences from that code: a norm that is 0 or not finite does not enter the averages (there, one NaN
    switches the adaptive part off for good); there is no fixed cap unless ``cap`` gives one; the small
    number added to the deviation is relative to the mean, and nothing is added to the norm (there 1e-6 in
    both places), so that the result does not depend on the scale of the loss.

    Args:
        z: deviations above the mean from which a norm is clipped.
        alpha: the decay of the averages.
        warm_up: norms that the averages begin with.
        cap: largest threshold ever, from the first step on.
        space: "log" does the same to the logarithm of the norm.

    >>> policy = ZClip(warm_up=2)
    >>> [round(float(policy.threshold(torch.tensor(norm, dtype=torch.float64))), 3) for norm in (1.0, 2.0, 1.5, 30.0)]
    [inf, inf, 2.75, 1.553]
    """

    z: float = 2.5
    alpha: float = 0.97
    warm_up: int = 25
    cap: float | None = None
    space: Literal["linear", "log"] = "linear"

    def __post_init__(self) -> None:
        above_zero(z=self.z, cap=1.0 if self.cap is None else self.cap)
        between(0, 1, alpha=self.alpha)
        if self.warm_up < 2:
            raise BadArgument(f"warm_up is {self.warm_up!r}; expected at least 2.")
        if self.space not in ("linear", "log"):
            raise BadArgument(f"space is {self.space!r}; expected 'linear' or 'log'.")

    def threshold(self, norm: Tensor) -> Tensor:
        """Return the threshold for a norm, then take the norm in; infinite during the warm-up.

        For a norm that is not clipped it is the smallest norm that would be.
        """
        state = self._on(norm)
        if not state:
            state.update(count=torch.zeros_like(norm), mean=torch.zeros_like(norm), var=torch.zeros_like(norm))
        is_log = self.space == "log"
        usable = torch.isfinite(norm) & (norm > 0)
        x = norm.log() if is_log else norm
        warm = state["count"] >= self.warm_up
        score, limit = self._score_and_limit(x, state["mean"], state["var"].sqrt())
        self._take_in(torch.where((score > self.z) & warm, limit, x), usable)
        threshold = torch.where(warm, limit.exp() if is_log else limit, torch.full_like(limit, math.inf))
        return threshold if self.cap is None else threshold.clamp(max=self.cap)

    def _score_and_limit(self, x: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
        """Return by how many deviations ``x`` lies above the mean, and the limit for it."""
        smallest = SMALLEST_DEVIATION if self.space == "log" else SMALLEST_DEVIATION * mean
        score = (x - mean) / (deviation + smallest)
        limit = mean + self.z * deviation * torch.where(score > self.z, self.z / score, torch.ones_like(score))
        return score, limit

    def _take_in(self, x: Tensor, usable: Tensor) -> None:
        """Update mean and variance: by Welford's method during the warm-up, then as moving averages."""
        state = self._state
        count, mean, var = state["count"], state["mean"], state["var"]
        warm = count >= self.warm_up
        weight = torch.where(warm, torch.full_like(mean, 1 - self.alpha), 1 / (count + 1))
        new_mean = mean + weight * (x - mean)
        spread = (x - new_mean) * torch.where(warm, x - new_mean, x - mean)
        state["mean"] = torch.where(usable, new_mean, mean)
        state["var"] = torch.where(usable, var + weight * (spread - var), var)
        state["count"] = count + usable
