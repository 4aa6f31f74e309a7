"""Clipping entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch.clip.calls import Clipping
from gradwatch.clip.policy import InLoop, above_zero
from gradwatch.clip.scale import gradients_of, stored
from gradwatch.measure import Measurement, count_above


@dataclass(frozen=True)
class ValueClip(InLoop):
    """Limit every entry of a gradient to [-clip_value, clip_value].

    The formula is that of `torch.nn.utils.clip_grad_value_`, here also for sparse gradients. An infinite entry
    becomes the limit (a watch has counted it before that); a NaN stays NaN. Mikolov's thesis (2012) did something
    else: it limits the error that flows back through the hidden state. See `HiddenStateClip`.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([0.5, -7.0])
    >>> norm = ValueClip(1.0)([weight])
    >>> weight.grad
    tensor([ 0.5000, -1.0000])
    """

    clip_value: float

    def __post_init__(self) -> None:
        above_zero(clip_value=self.clip_value)

    def clip(self, parameters: Sequence[Tensor | None], measured: Measurement) -> Clipping:
        entries = [stored(gradient) for gradient in gradients_of(parameters, measured)]
        cut = count_above(entries, self.clip_value)
        torch._foreach_clamp_min_(entries, -self.clip_value)
        torch._foreach_clamp_max_(entries, self.clip_value)
        return Clipping(clip_value=self.clip_value, cut_entries=tuple(cut))
