"""Reads the norm of a gradient while it is accumulated over micro-batches, for the gradient noise scale.

The norm after the first micro-batch, compared with that of the whole gradient, shows how much micro-batches differ
(`gradwatch.Run.noise_scale`). Reading it costs one more norm a step, keeps no copy, and happens only where the update
before had several micro-batches: a loop that does not accumulate pays nothing.

Not every loop with several backward passes a step accumulates micro-batches. Passes from a different
kind of loss, or that reach different parameters, belong to one batch and are left out. So are trainings by several
processes, because between two passes the gradient may be this process's own or the mean of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gradwatch.measure import Measurement, measure

WAIT_UPDATES = 100
"""Updates without a look after one whose passes were not micro-batches."""


class Accumulation(NamedTuple):
    """A gradient that several micro-batches made.

    Attributes:
        micro_batches: how many.
        first: norm of each gradient after the first of them, times the loss scale.
    """

    micro_batches: int
    first: Measurement


class MicroBatches:
    """Counts the micro-batches of one update after the other."""

    def __init__(self) -> None:
        self._expected = False
        self._wait = 0
        self._count = 0
        self._is_known = False
        self._kind: tuple[object, ...] | None = None
        self._next_kind: tuple[object, ...] = ()
        self._first: Measurement | None = None

    def before_backward(self, losses: Sequence[Tensor], *, is_first: bool) -> None:
        """A backward on these tensors begins; ``is_first``: there is no gradient that it could add to."""
        if is_first:
            self._count, self._first, self._is_known = 0, None, True
        elif self._count == 0:
            self._is_known = False  # it adds to what an earlier update has left
        self._next_kind = tuple(type(loss.grad_fn) for loss in losses)

    def after_backward(self, gradients: Callable[[], Sequence[Tensor | None]], *, is_read: bool) -> None:
        """It has added to these gradients; ``is_read``: of this step something is recorded.

        They are asked for only where the update before had several micro-batches: of ten thousand parameters even the
        list takes a millisecond.
        """
        self._count += 1
        if not self._expected:
            return
        now = gradients()
        kind = (self._next_kind, tuple(gradient is None for gradient in now))
        if self._count > 1:
            self._is_known = self._is_known and kind == self._kind
            return
        self._kind = kind
        if self._is_known and is_read and not is_one_of_many():
            self._first = measure(now, ("norm",))

    def take(self) -> Accumulation | None:
        """What is known of the gradient that an update has just taken."""
        count, first, is_known = self._count, self._first, self._is_known
        if self._expected and count > 1 and not is_known:
            self._wait = WAIT_UPDATES
        self._wait = max(self._wait - 1, 0)
        self._expected = count > 1 and is_known and not self._wait
        self._count, self._first, self._is_known, self._kind = 0, None, False, None
        return Accumulation(count, first) if first is not None and count > 1 and is_known else None


def is_one_of_many() -> bool:
    """Whether this process trains together with others."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
