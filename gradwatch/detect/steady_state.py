"""The gradient norm that weight decay leads to."""

from __future__ import annotations

import math
from collections.abc import Iterable

MOST_LOGARITHM = 100.0  # whose exponential is finite; the new balance is the closer limit by far


def steady_gradient_ratio(learning_rate: float, weight_decay: float) -> float:
    """Return the ratio of gradient norm to weight norm at which growth and decay of the weights balance.

    A step orthogonal to the weights, as the gradient of a normalised layer is, lengthens them by
    ``(lr |g|)^2 / 2 |w|``; decay shortens them by ``lr * decay * |w|``. The two are equal at
    ``|g| / |w| = sqrt(2 * decay / lr)`` (Defazio 2025, "Why gradients rapidly increase near the end of training",
    arXiv:2506.02285). So the gradient norm rises as a schedule lowers the rate, and nothing is wrong.

    Args:
        learning_rate: above 0.
        weight_decay: 0 or more, as in SGD and AdamW, where it is multiplied by the rate.

    Returns:
        The ratio; NaN where the learning rate is not above 0.

    >>> round(steady_gradient_ratio(0.1, 0.05), 3), round(steady_gradient_ratio(0.001, 0.05), 3)
    (1.0, 10.0)
    """
    if not learning_rate > 0 or not weight_decay >= 0:
        return math.nan
    return math.sqrt(2.0 * weight_decay / learning_rate)


def expected_rise(rate_before: float, rate_now: float) -> float:
    """Return the factor by which a falling rate alone lets the ratio of gradient to weight norm grow.

    >>> expected_rise(0.1, 0.025)
    2.0
    """
    before, now = steady_gradient_ratio(rate_before, 1.0), steady_gradient_ratio(rate_now, 1.0)
    return now / before if before > 0 else math.nan


def explained_rise(rates: Iterable[float], weight_decay: float) -> float:
    """Return the factor by which weight decay lets gradient norms rise over steps whose learning rate falls.

    The gradient of a normalised layer grows as its weights shrink, so the norms rise by the root of `expected_rise`
    until the new balance is reached, and no faster than decay shrinks the weights, by ``rate * weight_decay`` a step.

    Args:
        rates: learning rates of the steps, in order.
        weight_decay: as in `steady_gradient_ratio`.

    Returns:
        1 where the rate does not fall, or nothing decays.

    >>> fallen = [0.1] * 10 + [0.01] * 1000
    >>> round(explained_rise(fallen, 0.1), 2), round(explained_rise(fallen[:510], 0.1), 2)
    (1.78, 1.65)
    """
    known = [rate for rate in rates if math.isfinite(rate) and rate > 0]
    if not known or not weight_decay > 0:
        return 1.0
    highest = max(known)
    since = known[len(known) - 1 - known[::-1].index(highest) + 1 :]
    shrunken = math.exp(min(weight_decay * math.fsum(since), MOST_LOGARITHM))
    return max(1.0, min(math.sqrt(expected_rise(highest, known[-1])), shrunken))
