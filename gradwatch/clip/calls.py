"""What a call of a clipping function reports, and how gradwatch's own functions are called in a training loop.

A recording hears of the calls: while it listens, it replaces `by_norm` and `by_policy`. They stand alone, so that a
training that does not use these functions does not hold their code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from gradwatch.clip.drop_in import ClipListed, NonFinite
    from gradwatch.clip.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Clipping:
    """How the gradients of one step were clipped. Tensors may still be on their device."""

    max_norm: float | Tensor | None = None
    norm_type: float | None = None  # None means 2
    clip_value: float | Tensor | None = None
    coefficient: float | Tensor | None = 1.0  # None: to be computed from max_norm and the whole gradient's norm
    cut_entries: tuple[Tensor, ...] = ()  # by value clipping, a count for each device
    skip: bool | Tensor = False  # leave this update out


def by_norm(
    clip: ClipListed, parameters: list[Tensor], max_norm: float, norm_type: float, nonfinite: NonFinite
) -> Tensor:
    """Clip as `gradwatch.clip.clip_grad_norm_` does."""
    return clip(parameters, max_norm, norm_type, nonfinite, None)


def by_policy(
    clip: Callable[[Policy, list[Tensor]], tuple[Tensor, Clipping]], policy: Policy, parameters: list[Tensor]
) -> tuple[Tensor, Clipping]:
    """Clip by a policy that is called in the loop."""
    return clip(policy, parameters)
