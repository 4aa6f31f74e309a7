"""The numbers of the formula of an update, from the settings of a group and the number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch.measure.moved import Moved, is_remote

COEFFICIENTS = (
    "rate",
    "decay",
    "coupled",
    "sign",
    "of_gradient",
    "of_moment",
    "root_scale",
    "square_scale",
    "eps",
)
"""The numbers of the formula in fused.c, in its order."""


def numbers_of(
    groups: Sequence[Mapping[str, Any]],
    steps: Sequence[float | None],
    *,
    is_adam: bool,
    more: Callable[[Mapping[str, Any]], tuple[float, ...]] = lambda group: (),
) -> NDArray[np.float64]:
    """The numbers of the formula in fused.c for each parameter, (parameters, 9 and more); (1, ...) where all have them.

    They are computed once for each group and step. A rate that lies on a device counts as 1, and a number of steps that
    does as endless: the Triton kernel multiplies by the one and corrects by the other.

    Args:
        groups: of each parameter.
        steps: that the state of each has made; None where it does not count them.
        is_adam: whether there are second moments.
        more: numbers of a group that follow.
    """
    keys = list(zip(map(id, groups), steps, strict=True))
    distinct = dict(zip(keys, groups, strict=True))
    rows = [
        (*coefficients(group, step, is_adam=is_adam, number=_float_here), *more(group))
        for (_, step), group in distinct.items()
    ]
    numbers = np.array(rows, np.float64)
    if len(rows) == 1:
        return numbers
    at = {key: row for row, key in enumerate(distinct)}
    return numbers[[at[key] for key in keys]]


def numbers_of_moved(
    found: Sequence[Moved], more: Callable[[Mapping[str, Any]], tuple[float, ...]] = lambda group: ()
) -> NDArray[np.float64]:
    steps = [math.inf if one.is_step_remote else None if one.step is None else float(one.step) for one in found]
    return numbers_of([one.group for one in found], steps, is_adam=found[0].square is not None, more=more)


def _float_here(value: Any) -> float:
    return 1.0 if is_remote(value) else float(value)


def coefficients(
    group: Mapping[str, Any], step: Any, *, is_adam: bool, number: Callable[[Any], Any]
) -> tuple[Any, ...]:
    """The numbers of the formula in fused.c, from ``rate`` to ``eps``.

    Args:
        group: the settings of a parameter's group.
        step: how many steps its state has made.
        is_adam: whether it has a second moment.
        number: what makes a number of a setting: float, or a tensor on a device.
    """
    rate, decay = number(group["lr"]), number(group["weight_decay"])
    sign = -1.0 if group.get("maximize") else 1.0
    if not is_adam:
        momentum = number(group["momentum"])
        takes_gradient = group["momentum"] == 0 or bool(group["nesterov"])
        of_moment = momentum if group["momentum"] != 0 and group["nesterov"] else float(group["momentum"] != 0)
        return rate, decay if takes_gradient else 0.0, 0.0, sign, float(takes_gradient), of_moment, 1.0, 1.0, 0.0
    beta1, beta2 = map(number, group["betas"])
    first, second = 1.0 - beta1**step, 1.0 - beta2**step
    is_decoupled = group.get("decoupled_weight_decay", False)
    return (
        rate / first,
        decay * first if is_decoupled else 0.0,
        0.0 if is_decoupled else decay,
        sign,
        0.0,
        0.0,
        second**-0.5,
        1.0 / second,
        number(group["eps"]),
    )


def numbers_on_device(group: Mapping[str, Any]) -> tuple[float, ...]:
    """What follows `COEFFICIENTS` in a row: no step, the address of the rate, and the logarithms of the betas."""
    rate = group["lr"]
    at = float(np.uint64(rate.data_ptr()).view(np.float64)) if is_remote(rate) else 0.0
    return 0.0, at, *map(_log2, map(float, group.get("betas", (1.0, 1.0))))


def _log2(beta: float) -> float:
    return math.log2(beta) if beta > 0.0 else -math.inf
