"""Leaving out updates whose gradient stands out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch.clip.calls import Clipping
from gradwatch.clip.policy import Stateful, above_zero
from gradwatch.clip.scale import total_norm
from gradwatch.clip.window import empty_window, put_into_window
from gradwatch.errors import BadArgument
from gradwatch.measure import Measurement, widest_float

LEAST_NORMS = 20
"""Norms that a decision needs at least, this step's included: OLMo-core's number."""


@dataclass
class SkipOutliers(Stateful):
    """Skip an update whose norm lies more than ``sigma`` deviations above the mean of the latest norms.

    The rule of OLMo-core's `SkipStepOptimizer`, applied to the norm: mean and sample deviation of the last
    ``window`` norms, this one excluded, from norm number ``max(20, window // 2)`` on.

    Differences: a norm that is not finite is always skipped and never enters the window (there, one NaN
    skips the next 129 steps); nor does a norm of 0. A skipped norm does not enter it either, so that a
    spike does not hide the next one. At most ``in_a_row`` updates are skipped one after the other because
    they stand out. The next one is then let through and enters the window as four deviations above the
    mean, so that a level that has risen for good is followed.

    The gradients are not changed. With `attach` on an accelerator, create the optimizer with
    ``fused=True``: it can be told to skip without waiting for the device.

    Args:
        sigma: deviations above the mean from which an update is skipped.
        window: how many norms are remembered, at least 4.
        in_a_row: most updates skipped one after the other.

    >>> policy = SkipOutliers(window=32)
    >>> calm = [1.0 + 0.1 * (step % 3) for step in range(20)]
    >>> norms = [*calm, 9.0, 1.0, float("nan"), 1.1]
    >>> [step for step, norm in enumerate(norms) if policy.skips(torch.tensor(norm))]
    [20, 22]
    """

    sigma: float = 6.0
    window: int = 128
    in_a_row: int = 1

    def __post_init__(self) -> None:
        above_zero(sigma=self.sigma)
        if self.window < 4 or self.in_a_row < 1:
            raise BadArgument(
                f"window is {self.window!r} and in_a_row {self.in_a_row!r}; expected at least 4 and at least 1."
            )

    def clip(self, parameters: Sequence[Tensor | None], measured: Measurement) -> Clipping:
        return Clipping(skip=self.skips(total_norm(measured)))

    def skips(self, norm: Tensor) -> Tensor:
        """Return whether the update of this norm is to be skipped, then take the norm in."""
        norm = norm.to(widest_float(norm.device))
        state = self._on(norm)
        if not state:
            state.update(empty_window(self.window, norm))
            state["skipped"] = torch.zeros(norm.shape, dtype=torch.int64, device=norm.device)
        count, in_a_row = state["count"], state["skipped"]
        present = count.clamp(max=self.window)
        mean = torch.nansum(state["norms"], dim=0) / present.clamp(min=1)
        squares = torch.nansum((state["norms"] - mean).square(), dim=0)
        deviation = (squares / (present - 1).clamp(min=1)).sqrt()
        finite = torch.isfinite(norm)
        is_known = count + 1 >= max(LEAST_NORMS, self.window // 2)
        stands_out = finite & is_known & (norm - mean > self.sigma * deviation)
        outlier = stands_out & (in_a_row < self.in_a_row)
        taken = torch.where(stands_out, mean + 4 * deviation, norm)
        enters = finite & (norm > 0) & ~outlier
        put_into_window(state, taken, enters)
        state["skipped"] = torch.where(outlier, in_a_row + 1, torch.where(enters, 0, in_a_row))
        return outlier | ~finite
