"""Numbers as logs hold them: as text, rounded, or counted anew in each epoch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation

from gradwatch.store import LARGEST

MOST_ROUNDED_DECIMALS = 6  # of a log that rounds its numbers
BEFORE_TRAINING = -1  # the step of a row that some loops log before the first update
TYPED = re.compile(
    r"\b(?:tensor|array|(?:np|numpy|torch)\.\w{1,20})\(\s{0,8}([-+\w.]{1,40})\s{0,8}(?:,[^()\n]{0,200})?\)"
)
"""A number as NumPy or PyTorch print it with its type."""
NUMBER = r"[-+]?(?:\d[\d.]*+(?:[eE][-+]?\d++)?+|nan|inf)"
"""A pattern of a number in printed text. It takes a full stop behind the number along."""


def as_float(value: object) -> float | None:
    """A number as float64; None if the value is no number, or a whole number too large for float64.

    A number may be printed with its type.

    >>> as_float("1.5"), as_float("large") is None, as_float(10**400) is None
    (1.5, True, True)
    >>> as_float("tensor(0.5, device='cuda:0')"), as_float("np.float64(0.5)")
    (0.5, 0.5)
    """
    if isinstance(value, str) and (typed := TYPED.fullmatch(value.strip())):
        value = typed[1]
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None


def is_rounded_to_zero(value: object) -> bool:
    """Whether a text shows only that a number is below its last decimal: a small learning rate in fixed decimals.

    >>> [is_rounded_to_zero(text) for text in ("0.000000", "0", "0.0", "0.00e+00")]
    [True, False, False, False]
    """
    return isinstance(value, str) and re.fullmatch(r"\s*[-+]?0?\.00+\s*", value) is not None


def rounds_rates(rates: Iterable[object], others: Iterable[object]) -> bool:
    """Whether a log shows so few decimals of all its numbers that a learning rate of 0 may be a small one.

    mmcv's JSON, for example, rounds each number to five decimals, and JSON shows no zeros at the end of a number.

    >>> rounds_rates([0.0, 1e-05], [2.31542, 7.5]), rounds_rates([0.0, 1e-05], [2.315417289733887, 7.5])
    (True, False)
    """
    if not any(as_float(rate) == 0 for rate in rates):
        return False
    shown = [str(value) for value in (*rates, *others) if value is not None and value != ""]
    return all(_decimals(text) <= MOST_ROUNDED_DECIMALS for text in shown)


def _decimals(text: str) -> int:
    """The decimals of a number as it is written; 0 where it is none.

    >>> [_decimals(text) for text in ("1e-05", "2.50", "7", "nan", "1.5e-7")]
    [5, 2, 0, 0, 8]
    """
    try:
        exponent = Decimal(text.strip()).as_tuple().exponent
    except InvalidOperation:
        return 0
    return -exponent if isinstance(exponent, int) and exponent < 0 else 0


def is_step(value: object) -> bool:
    """Whether a value is a whole number that a store can hold as a step.

    >>> is_step(7), is_step(-1), is_step(2**63), is_step(True)
    (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def on_through_epochs(steps: Iterable[int], epochs: Iterable[float | None]) -> Iterator[int]:
    """The steps, counted on where a tool counts those of each epoch anew, from 0 or from 1.

    >>> list(on_through_epochs([1, 2, 1, 2], [0, 0, 1, 1])), list(on_through_epochs([0, 50, 0, 50], [0, 0, 1, 1]))
    ([1, 2, 3, 4], [0, 50, 100, 150])
    >>> list(on_through_epochs([99, 199], [0, 1])), list(on_through_epochs([5, 4], [None, None]))
    ([99, 199], [5, 4])
    """
    before = highest = 0  # steps of the epochs before, and of this one
    last, last_epoch, distance = 0, math.inf, 1
    for step, epoch in zip(steps, epochs, strict=True):
        if epoch is not None:
            if step <= last and epoch > last_epoch:
                before += highest + (distance if step == 0 else 0)
                highest = 0
            elif step > last:
                distance = step - last
            last, last_epoch, highest = step, epoch, max(highest, step)
        yield before + step


def first_line(error: Exception) -> str:
    """The first line of a parser's message, without the period at its end."""
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
