"""The advice for several runs of one training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gradwatch.analysis.recommend.advice import CONFIDENCES, Agreement, Confidence, Recommendation
from gradwatch.analysis.recommend.what_if import two_digits
from gradwatch.text import number


def aggregate(each: Sequence[Recommendation]) -> Agreement:
    """One threshold for several runs of one training, for example with other seeds: the geometric mean of theirs.

    Its range is what all of them support; where their ranges have nothing in common, it reaches from the smallest
    threshold to the largest.
    """
    given = [advice for advice in each if advice.max_norm is not None]
    if not given:
        refused = f"none of the {len(each)} runs supports one: {each[0].refused}"
        return Agreement(together=replace(each[0], run=_names(each), refused=refused), each=tuple(each), spread=None)
    numbers = [advice.max_norm for advice in given if advice.max_norm is not None]
    spread = max(numbers) / min(numbers)
    return Agreement(together=_together(each, given, numbers), each=tuple(each), spread=spread)


def _together(
    each: Sequence[Recommendation], given: Sequence[Recommendation], numbers: Sequence[float]
) -> Recommendation:
    """The one recommendation; ``given`` are those of ``each`` that have a threshold, ``numbers`` the thresholds."""
    middle = two_digits(float(np.exp(np.mean(np.log(numbers)))))
    low, high, agree = _common_range(given, numbers, middle)
    kinds = {advice.clip for advice in given}
    return Recommendation(
        run=_names(each),
        max_norm=middle,
        low=low,
        high=high,
        clip=kinds.pop() if len(kinds) == 1 else None,
        clipped_fraction=_mean([advice.clipped_fraction for advice in given]),
        mean_clip_coef=_mean([advice.mean_clip_coef for advice in given]),
        confidence=_confidence(given) if agree and len(given) == len(each) else "low",
        refused=None,
        reasons=_reasons(each, given, numbers, agree=agree),
        fix_first=tuple(dict.fromkeys(sentence for advice in each for sentence in advice.fix_first)),
        usable_steps=sum(advice.usable_steps for advice in given),
        worst_norm=max(advice.worst_norm or 0.0 for advice in given),
    )


def _common_range(
    given: Sequence[Recommendation], numbers: Sequence[float], middle: float
) -> tuple[float, float, bool]:
    """The range and whether all runs support it."""
    low = max(advice.low for advice in given if advice.low is not None)
    high = min(advice.high for advice in given if advice.high is not None)
    if low <= middle <= high:
        return low, high, True
    return min(numbers), max(numbers), False


def _reasons(
    each: Sequence[Recommendation], given: Sequence[Recommendation], numbers: Sequence[float], *, agree: bool
) -> tuple[str, ...]:
    listed = ", ".join(number(each, 6) for each in numbers)
    return (
        f"{len(given)} of {len(each)} runs support a threshold: {listed}; the largest is"
        f" {number(max(numbers) / min(numbers), 2)} times the smallest",
        "their ranges have this threshold in common"
        if agree
        else "their ranges have no threshold in common, so one for all is a compromise",
        *(f"{advice.run}: {advice.reasons[0]}" for advice in given),
        *(f"{advice.run}: refused, {advice.refused}" for advice in each if advice.refused is not None),
    )


def _names(each: Sequence[Recommendation]) -> str:
    return ", ".join(advice.run for advice in each)


def _confidence(given: Sequence[Recommendation]) -> Confidence:
    return min((advice.confidence for advice in given), key=CONFIDENCES.index)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
