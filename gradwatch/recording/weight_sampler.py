"""Samples the weights: their norms before a step, and the norms of what the step changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch.measure import Measurement, local, norms


@dataclass(frozen=True, slots=True)
class WeightSample:
    """The weights before a step, of the parameters that are there."""

    norms: Measurement
    copies: list[Tensor]


class WeightSampler:
    """Samples every ``every`` steps, and at the first step of a row that is not finite.

    Whether the weights were finite before such a step tells whether it began with them.
    """

    def __init__(self, every: int) -> None:
        """``every`` is 0 for never."""
        self._every = every
        self._was_nonfinite = False

    @torch.no_grad()
    def before(
        self, step: int, measured: Measurement | None, parameters: Sequence[Tensor | None]
    ) -> WeightSample | None:
        """Take a sample if it is time; ``measured`` are the gradients, where they are known before the step."""
        if not self._every or not (step % self._every == 0 or self._is_first_nonfinite(measured)):
            return None
        present = [local(p.detach()) for p in parameters if p is not None]
        return WeightSample(norms(present), [p.clone() for p in present])

    @torch.no_grad()
    def after(
        self, sample: WeightSample | None, parameters: Sequence[Tensor | None]
    ) -> tuple[Measurement, Measurement] | None:
        """The norms of the weights before the step and of what it changed; the copies are used up."""
        if sample is None:
            return None
        present = [local(p.detach()) for p in parameters if p is not None]
        for old, new in zip(sample.copies, present, strict=True):
            old.sub_(new)
        return sample.norms, norms(sample.copies)

    def _is_first_nonfinite(self, measured: Measurement | None) -> bool:
        """As far as is known without waiting for a device."""
        bad = measured is not None and measured.is_here and measured.has_nonfinite()
        first, self._was_nonfinite = bad and not self._was_nonfinite, bad
        return first
