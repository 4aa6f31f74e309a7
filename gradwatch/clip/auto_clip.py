"""Thresholds that are a quantile of the norms seen so far."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch.clip.norm import ThresholdClip
from gradwatch.clip.policy import above_zero, between
from gradwatch.clip.window import empty_window, put_into_window
from gradwatch.errors import BadArgument

TIE = 1e-6
"""A norm above the threshold by less than this fraction counts as equal to it."""


@dataclass
class AutoClip(ThresholdClip):
    """Clip the total norm at a percentile of the latest norms, this step's included.

    ``c = percentile(H + [n], p)`` (Seetharaman, Wichern, Pardo, Le Roux 2020, "AutoClip", equation 3),
    interpolated as `numpy.percentile` does. ``percentile=10``, the paper's, clips nine steps of ten and
    so normalises the gradient; 90 to 99 acts on spikes only.

    Differences from the authors' code: the history holds the last ``window`` norms instead of all; a norm
    that is not finite does not enter it (there, one NaN turns every later gradient into NaN); a norm of 0
    does not either (there, enough of them make the threshold 0 and every later gradient 0); and nothing is
    added to the norm before dividing (there 1e-6), so that the result does not depend on the scale of
    the loss.

    Args:
        percentile: from 0 to 100.
        window: how many norms the history holds.

    >>> policy = AutoClip(percentile=50)
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> for norm in (1.0, 3.0):
    ...     weight.grad = torch.tensor([norm])
    ...     before = policy([weight])
    >>> weight.grad
    tensor([2.])
    """

    percentile: float = 10.0
    window: int = 1000

    def __post_init__(self) -> None:
        between(0, 100, percentile=self.percentile)
        if self.window < 1:
            raise BadArgument(f"window is {self.window!r}; expected at least 1.")

    def threshold(self, norm: Tensor) -> Tensor:
        """Take in a norm and return the threshold for it; infinite before the first usable norm.

        ``norm`` may hold one norm for each of several trainings; each has a history of its own.
        """
        state = self._on(norm)
        if not state:
            state.update(empty_window(self.window, norm))
        put_into_window(state, norm, torch.isfinite(norm) & (norm > 0))
        limit = torch.nanquantile(state["norms"], self.percentile / 100, dim=0)
        return limit.nan_to_num(nan=math.inf, posinf=math.inf)


@dataclass
class QuantileClip(ThresholdClip):
    """Clip the total norm at a threshold that moves until the wanted fraction of steps is left unclipped.

    ``ln c <- ln c + rate * (unclipped - 1[n <= c])``: the geometric update of Andrew, Thakkar, McMahan,
    Ramaswamy 2021, "Differentially private learning with adaptive clipping", section 2.1, with one
    observation a step. The threshold begins at the first usable norm. Only earlier steps decide it. It keeps
    one number where `AutoClip` keeps a window. Norms that are 0 or not finite do not move it.

    Args:
        unclipped: the fraction of steps to leave unclipped.
        rate: how far the logarithm of the threshold moves in a step.

    >>> policy = QuantileClip(unclipped=0.5, rate=0.1)
    >>> [round(float(policy.threshold(torch.tensor(norm))), 3) for norm in (1.0, 1.0, 5.0)]
    [1.0, 0.951, 1.0]
    """

    unclipped: float = 0.9
    rate: float = 0.05

    def __post_init__(self) -> None:
        between(0, 1, unclipped=self.unclipped)
        above_zero(rate=self.rate)

    def threshold(self, norm: Tensor) -> Tensor:
        """Return the threshold for a norm, then take the norm in."""
        state = self._on(norm)
        if not state:
            state["log"] = torch.full_like(norm, math.nan)
        usable = torch.isfinite(norm) & (norm > 0)
        log = torch.where(torch.isnan(state["log"]) & usable, norm.log(), state["log"])
        # Compared as logarithms, and within rounding: a norm that equals the threshold counts as unclipped.
        moved = log + self.rate * (self.unclipped - (norm.log() <= log + TIE).to(norm.dtype))
        limit = log.exp()
        state["log"] = torch.where(usable, moved, log)
        return limit.nan_to_num(nan=math.inf, posinf=math.inf)
