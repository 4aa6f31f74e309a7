"""The life of one optimizer's gradients between two steps: computed, added to, dropped, used."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence
from operator import attrgetter, ne
from typing import NamedTuple

from torch import Tensor

from gradwatch.measure import is_sharded
from gradwatch.measure.entries import PLAIN
from gradwatch.recording.parameters import ParameterTable

_VERSION = attrgetter("_version")


def version_of(tensor: Tensor) -> int:
    """PyTorch's count of in-place changes; of a sharded tensor that of the part, which is what is changed.

    Tensors that were made in `torch.inference_mode` have none: 0.
    """
    if type(tensor) not in PLAIN and is_sharded(tensor):
        tensor = tensor._local_tensor  # type: ignore[attr-defined]
    return 0 if tensor.is_inference() else tensor._version


def versions_of(gradients: Sequence[Tensor | None]) -> list[int]:
    """The counts of all gradients; -1 where there is none."""
    if set(map(type, gradients)) == {Tensor}:  # as usual, and asked at every clip call
        with contextlib.suppress(RuntimeError):  # one was made in `torch.inference_mode`
            return list(map(_VERSION, gradients))
    return [-1 if g is None else version_of(g) for g in gradients]


class Made(NamedTuple):
    """A gradient without which the others are gone too, and the weight that it belongs to."""

    parameter: weakref.ref[Tensor]
    gradient: weakref.ref[Tensor]
    gradient_version: int
    weight_version: int
    backwards: int  # backward passes until then

    @property
    def has_moved(self) -> bool:
        """Whether the weight has changed since."""
        parameter = self.parameter()
        return parameter is not None and version_of(parameter) != self.weight_version

    @property
    def is_gone(self) -> bool:
        """Whether its weight has no gradient any more."""
        parameter = self.parameter()
        return parameter is None or parameter.grad is None


class GradientHistory:
    """Counts the backward passes that reach the gradients, and knows whether these are still there.

    Attributes:
        backwards: backward passes so far that added to a gradient.
    """

    def __init__(self, table: ParameterTable) -> None:
        self.backwards = 0
        self._table = table
        self._ids: list[int] = []  # before the backward: what changes where a gradient is made or added to
        self._versions: list[int] = []
        self._consumed: Made | None = None
        self._last: Made | None = None  # as the last backward left them
        self._zeroed = False

    def before_backward(self) -> None:
        if not self._table.has_gradients():  # as usual, after `zero_grad`
            self._ids, self._versions = [], []
            return
        gradients = self._table.gradients()
        self._ids, self._versions = list(map(id, gradients)), versions_of(gradients)

    def after_backward(self) -> bool:
        """Count the backward that has just ended, if it added to a gradient; return whether it did."""
        reached = self._is_reached()
        if reached:
            self.count_backward()
        return reached

    def _is_reached(self) -> bool:
        """Whether a gradient is another, or has changed, since the backward began."""
        if not self._ids:
            return self._table.has_gradients()
        gradients = (None if parameter is None else parameter.grad for parameter in self._table.parameters)
        before = zip(self._ids, self._versions, strict=False)
        now = ((id(gradient), *versions_of([gradient])) for gradient in gradients)
        return any(map(ne, now, before))

    def count_backward(self) -> None:
        """Take the gradients for made, or added to, by a backward."""
        self.backwards += 1
        self._last, self._zeroed = self.first(), False

    def measured(self) -> None:
        """The gradients are those of the next update, also where no backward made them."""
        if self._last is None:
            self._last, self._zeroed = self.first(), False

    def first(self) -> Made | None:
        """The first gradient that is there, as it is now."""
        for parameter in self._table.parameters:
            if parameter is not None and (gradient := parameter.grad) is not None:
                versions = version_of(gradient), version_of(parameter)
                return Made(weakref.ref(parameter), weakref.ref(gradient), *versions, self.backwards)
        return None

    @property
    def are_none_or_zero(self) -> bool:
        """Whether the backward that began adds to nothing: no gradient is there, or all were set to zero in place."""
        return self._zeroed or not self._ids

    def zeroed(self, ids: set[int]) -> None:
        """These parameters' gradients were set to zero in place."""
        self._zeroed |= self._table.ids <= ids

    def take_dropped(self) -> bool:
        """Whether gradients that a backward made, or that were measured, were let go of since the last call."""
        if self._last is None or not (self._zeroed or self._last.is_gone):
            return False
        self._last = None if self._zeroed else self.first()
        self._zeroed = False
        return self._last is None

    def consume(self) -> None:
        """An update has taken the gradients, which may stay where they are."""
        self._consumed, self._last, self._zeroed = self.first(), None, False

    def are_consumed(self) -> bool:
        """Whether the gradients are still those of the last update: nothing was added since."""
        consumed = self._consumed
        if consumed is None or consumed.backwards != self.backwards:
            return False
        now = self.first()
        return (
            now is not None
            and now.gradient() is consumed.gradient()
            and now.gradient_version == consumed.gradient_version
        )
