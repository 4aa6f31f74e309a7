"""What every policy is, and what clipping leaves behind, ours or the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from gradwatch.measure import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Clipping:
    """How the gradients of one step were clipped. Tensors may still be on their device."""

    max_norm: float | Tensor | None = None
    norm_type: float | None = None  # None means 2
    clip_value: float | Tensor | None = None
    coefficient: float | Tensor = 1.0
    cut_entries: tuple[Tensor, ...] = ()


class Policy(Protocol):
    """Clips gradients from statistics already measured."""

    def clip(self, gradients: Sequence[Tensor], measured: Measurement) -> Clipping:
        """Clip in place. ``gradients`` are those that are present, as they were measured."""
        ...
