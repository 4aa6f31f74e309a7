"""The loss of a step: the logged loss, or else the tensors that backward was called on for its gradients."""

from __future__ import annotations

import contextlib
import math
from collections.abc import MutableMapping, Sequence
from typing import NamedTuple, TypeAlias

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from gradwatch.errors import BadArgument
from gradwatch.measure import has_values, is_on_host

Number: TypeAlias = float | Tensor

MOST_SHOWN = 200  # characters of a value in a message


def without_waiting(value: Tensor) -> Number:
    """A number from the host; what lies on a device is copied there, and not waited for."""
    return float(value.detach()) if is_on_host(value) else value.detach().clone()


def number_or_nan(value: object) -> Number:
    """A number as the script gives it; NaN if it is none. What lies on a device is not waited for.

    >>> number_or_nan(1), number_or_nan(None), number_or_nan("1"), number_or_nan(10**400)
    (1.0, nan, nan, nan)
    """
    if type(value) is float:  # as nearly every rate, at every step
        return value
    try:
        return loss_value(value)
    except BadArgument:
        return math.nan


def loss_value(loss: object) -> Number:
    """A loss as the user gives it.

    Raises:
        BadArgument: it is no number.
    """
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise BadArgument(
                f"loss has shape {tuple(loss.shape)}; expected one value, for example loss.mean(). Not recorded."
            )
        if loss.is_complex():
            raise BadArgument("loss is complex; expected a real number. Not recorded.")
        if not has_values(loss):
            raise BadArgument("loss is on the meta device, where no tensor has a value. Not recorded.")
    elif isinstance(loss, str | bytes) or not hasattr(loss, "__float__"):
        raise BadArgument(f"loss is {_shown(loss)}; expected a number or a tensor. Not recorded.")
    try:
        return without_waiting(loss) if isinstance(loss, Tensor) else float(loss)
    except Exception as error:  # whatever the type of the script does
        raise BadArgument(f"loss is {_shown(loss)}, which is not a float: {error}. Not recorded.") from error


def _shown(value: object) -> str:
    kind = type(value).__name__
    try:
        text = repr(value)
    except Exception:  # a type of the script, or a number of very many digits
        return f"a {kind}"
    return f"{text if len(text) <= MOST_SHOWN else f'{text[:MOST_SHOWN]}...'}, a {kind}"


class ScaledLosses:
    """The losses that scalers multiplied: what they were before, for as long as the scaled ones live."""

    def __init__(self) -> None:
        self._before: MutableMapping[Tensor, Tensor] = WeakTensorKeyDictionary()

    def after_scaling(self, loss: Tensor, scaled: Tensor) -> None:
        self._before[scaled] = loss.detach()

    def before_scaling(self, loss: Tensor) -> Tensor | None:
        """What a scaler multiplied to get this loss, which may have overflowed; None if no scaler made it."""
        return self._before.get(loss)


class BackwardLoss(NamedTuple):
    """A loss that backward was called on.

    Attributes:
        is_as_called: it may be multiplied by a loss scale, if there is one; False: it is known from before.
    """

    value: Number
    is_as_called: bool = True


def losses_among(roots: Sequence[Tensor], scaled: ScaledLosses | None = None) -> list[BackwardLoss]:
    """What backward is called on may be no loss.

    Args:
        roots: what backward is called on.
        scaled: those that a scaler made.
    """
    losses = []
    for root in roots:
        before = None if scaled is None else scaled.before_scaling(root)
        with contextlib.suppress(BadArgument):
            losses.append(BackwardLoss(loss_value(root if before is None else before), before is None))
    return losses


class StepLosses:
    """Collects the losses of one optimizer's next step.

    The losses of backward passes belong to the gradients that these made: whatever drops the gradients
    drops them. A closure may be evaluated several times; as in PyTorch, the loss of its step is that of
    the first time.
    """

    def __init__(self) -> None:
        self._of_backward: list[BackwardLoss] = []
        self._logged: list[Number] = []
        self._logs_before_step: bool | None = None
        self._is_step_made = self._is_last_made = False
        self._is_logged = False  # from the first logged loss on, only those count
        self._first_evaluation: list[BackwardLoss] | None = None
        self._closure_begins_at: int | None = None

    @property
    def logs_before_step(self) -> bool:
        """Whether the loop logs a loss before the step that it belongs to."""
        return bool(self._logs_before_step)

    def add(self, roots: Sequence[BackwardLoss]) -> None:
        """A backward that reached the gradients was called on these."""
        self._of_backward += roots

    def begin_closure(self) -> None:
        self._closure_begins_at, self._first_evaluation = len(self._of_backward), None

    def end_closure(self) -> None:
        """The closure raised; a loss of gradients that it left there stays."""
        self._first_evaluation = self._closure_begins_at = None

    def drop(self) -> list[BackwardLoss]:
        """The gradients are gone; return the losses that made them."""
        dropped, self._of_backward = self._of_backward, []
        if self._closure_begins_at is not None:
            evaluated = dropped[self._closure_begins_at :]
            self._closure_begins_at = 0
            if evaluated and self._first_evaluation is None:
                self._first_evaluation = evaluated
        return [] if self._is_logged else dropped

    def take(self) -> tuple[list[Number], list[BackwardLoss]]:
        """The losses logged and those of backward, for the step that ends now."""
        logged, of_backward = self._logged, self._first_evaluation or self._of_backward
        self._logged, self._of_backward = [], []
        self._first_evaluation = self._closure_begins_at = None
        return logged, [] if self._is_logged else of_backward

    def take_logged(self) -> list[Number]:
        """The losses logged, for an attempt whose gradients are gone."""
        logged, self._logged = self._logged, []
        return logged

    def put_back(self, logged: list[Number]) -> None:
        """That was no attempt: its losses belong to the next step."""
        self._logged = logged + self._logged

    def use_logged(self) -> None:
        """The user logs losses: from this step on only those count, even for a step that has none."""
        self._is_logged = True

    def note_step(self, *, is_made: bool) -> None:
        """A step is over; one whose gradients were dropped before the loop came to it is not made."""
        self._is_step_made |= is_made
        self._is_last_made = is_made

    def note_order(self, *, has_held: bool) -> None:
        """The first logged loss shows whether the loop logs before its steps or after them.

        Args:
            has_held: the last step can still be given a loss.
        """
        if self._logs_before_step is None:
            can_follow = has_held and self._is_last_made
            self._logs_before_step = not self._is_step_made or (not can_follow and bool(self._of_backward))

    def log(self, loss: Number) -> None:
        """Keep a loss for the next step."""
        self._logged.append(loss)
