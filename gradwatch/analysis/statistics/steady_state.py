"""The gradient norm that weight decay leads to."""

from __future__ import annotations

import math


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
