"""Clipping entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch.clip.policy import Clipping
from gradwatch.errors import BadArgument
from gradwatch.measure import Measurement, count_above


@dataclass(frozen=True, slots=True)
class ValueClip:
    """Limit every entry of a gradient to [-clip_value, clip_value].

    The formula of `torch.nn.utils.clip_grad_value_`. It is not what Mikolov's thesis (2012) did,
    which limits the error that flows back through the hidden state.

    >>> from gradwatch.measure import measure
    >>> gradient = torch.tensor([0.5, -7.0])
    >>> clipping = ValueClip(1.0).clip([gradient], measure([gradient]))
    >>> gradient, int(clipping.cut_entries[0])
    (tensor([ 0.5000, -1.0000]), 1)
    """

    clip_value: float

    def __post_init__(self) -> None:
        if not self.clip_value > 0:
            raise BadArgument(f"clip_value is {self.clip_value!r}; expected a number above 0.")

    def clip(self, gradients: Sequence[Tensor], measured: Measurement) -> Clipping:
        cut = count_above(gradients, self.clip_value)
        torch._foreach_clamp_min_(list(gradients), -self.clip_value)
        torch._foreach_clamp_max_(list(gradients), self.clip_value)
        return Clipping(clip_value=self.clip_value, cut_entries=tuple(cut))
