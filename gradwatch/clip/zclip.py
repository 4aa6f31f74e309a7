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


@dataclass
class ZClip(ThresholdClip):
    """Where the norm lies more than ``z`` deviations above its moving average, clip to ``mean + z^2 std / its z``.

    Kumar et al. 2025 (arXiv:2504.02507), section 3: mean and variance begin as those of ``warm_up``
    norms, which are not clipped; then, with ``x`` the norm after clipping, ``mean <- alpha mean +
    (1 - alpha) x`` and ``var <- alpha var + (1 - alpha) (x - mean)^2`` with the new mean, as in the
    authors' code. Three things differ from it: a norm that is not finite does not enter the averages
    (there one NaN switches the adaptive part off for good), there is no fixed cap unless ``cap`` gives
    one, and ``space="log"`` does the same to the logarithm of the norm.

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
        """Return the threshold for a norm, then take it in; infinite in the warm-up.

        For a norm that does not stand out it is the norm that would begin to.
        """
        state = self._on(norm)
        if not state:
            state.update(count=torch.zeros_like(norm), mean=torch.zeros_like(norm), var=torch.zeros_like(norm))
        count, mean, var = state["count"], state["mean"], state["var"]
        is_log = self.space == "log"
        usable = torch.isfinite(norm) & ((norm > 0) if is_log else torch.ones_like(norm, dtype=torch.bool))
        x = norm.log() if is_log else norm
        warm = count >= self.warm_up
        deviation = var.sqrt()
        score = (x - mean) / (deviation + 1e-6)
        limit = mean + self.z * deviation * torch.where(score > self.z, self.z / score, torch.ones_like(score))
        taken = torch.where((score > self.z) & warm, limit, x)
        # In the warm-up Welford's mean and variance, then the moving ones.
        share = torch.where(warm, torch.full_like(mean, 1 - self.alpha), 1 / (count + 1))
        new_mean = mean + share * (taken - mean)
        spread = (taken - new_mean) * torch.where(warm, taken - new_mean, taken - mean)
        state["mean"] = torch.where(usable, new_mean, mean)
        state["var"] = torch.where(usable, var + share * (spread - var), var)
        state["count"] = count + usable
        threshold = torch.where(warm, limit.exp() if is_log else limit, torch.full_like(limit, math.inf))
        return threshold if self.cap is None else threshold.clamp(max=self.cap)
