"""Leaving out updates whose gradient stands out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch.clip.policy import Clipping, Stateful, above_zero
from gradwatch.clip.scale import total_norm
from gradwatch.clip.window import empty_window, put_into_window
from gradwatch.errors import BadArgument
from gradwatch.measure import Measurement


@dataclass
class SkipOutliers(Stateful):
    """Skip an update whose norm lies more than ``sigma`` deviations above the mean of the last norms.

    The rule of OLMo-core's SkipStepOptimizer on the norm: mean and sample deviation of the last
    ``window`` norms, this one excluded, once there are ``window // 2``. What differs: a norm that is
    not finite is always skipped and enters no average (there one NaN skips the next 129 steps); a
    skipped norm does not enter it either, so that a spike does not hide the next; at most
    ``in_a_row`` updates are skipped one after the other by statistics, and the one that is then let
    through enters as four deviations, so that a level that has risen for good is followed.

    The gradients are not changed. In an `attach` on an accelerator the optimizer has to be made with
    ``fused=True``, which is told without waiting.

    >>> policy = SkipOutliers(window=4)
    >>> [bool(policy.skips(torch.tensor(norm))) for norm in (1.0, 1.1, 1.0, 9.0, 1.0, float("nan"))]
    [False, False, False, True, False, True]
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
        """Whether the update of this norm is to be skipped; then take the norm in."""
        norm = norm.double()
        state = self._on(norm)
        if not state:
            state.update(empty_window(self.window, norm))
            state["skipped"] = torch.zeros(norm.shape, dtype=torch.int64, device=norm.device)
        count, row = state["count"], state["skipped"]
        present = count.clamp(max=self.window)
        mean = torch.nansum(state["norms"], dim=0) / present.clamp(min=1)
        squares = torch.nansum((state["norms"] - mean).square(), dim=0)
        deviation = (squares / (present - 1).clamp(min=1)).sqrt()
        finite = torch.isfinite(norm)
        stands_out = finite & (count >= max(2, self.window // 2)) & (norm - mean > self.sigma * deviation)
        outlier = stands_out & (row < self.in_a_row)
        taken = torch.where(stands_out, mean + 4 * deviation, norm)
        enters = finite & ~outlier
        put_into_window(state, taken, enters)
        state["skipped"] = torch.where(outlier, row + 1, torch.where(enters, torch.zeros_like(row), row))
        return outlier | ~finite
