"""Where two runs part, in sentences, for the terminal and the page."""

from __future__ import annotations

import math

from gradwatch.analysis.diagnosis.finding import listed
from gradwatch.analysis.diagnosis.parting import WHERE_TO_LOOK
from gradwatch.analysis.differences import Difference
from gradwatch.text import number

_STATISTICS = {
    "norm": "the gradient norm",
    "abs_max": "the largest gradient entry",
    "nonfinite": "the number of NaN and infinite gradient entries",
    "zeros": "the number of gradient entries that are 0",
    "weight_norm": "the weights before the step",
    "update_norm": "the update",
}
_COLUMNS = {  # "max norm" alone would be read as the largest norm, which a comparison also shows
    "max_norm": "the clipping threshold",
    "norm_type": "the order of the norm that clips",
    "clip_value": "the threshold of clipping by value",
    "cut_fraction": "the share of entries that clipping by value cut",
    "nonfinite": "the number of NaN and infinite gradient entries",
    "skipped": "whether the update was skipped",
}


def sentences(found: Difference, first: str, second: str, *, several: bool = False) -> list[str]:
    """Where the records of one optimizer in two runs part, in words."""
    of = f" of optimizer {found.optimizer}" if several else ""
    said = [
        f"only {run} has {listed(names)}{of}"
        for run, names in ((first, found.only_first), (second, found.only_second))
        if names
    ]
    if not found.common_steps:
        return [*said, f"the runs have no step{of} in common"]
    if found.step is None:
        return [
            *said,
            f"the runs agree bit for bit in every number that both recorded{of}, at {_all(found.common_steps)}",
        ]
    apart = "" if found.relative is None else f", a relative difference of {number(found.relative, 2)}"
    values = f"{_value(found, found.first)} against {_value(found, found.second)}{apart}"
    where = f"the runs first differ{of} at step {found.step}, in "
    if found.parameters:
        others = "" if len(found.parameters) == 1 else f"; {len(found.parameters) - 1} other parameters differ as well"
        where += f"{_STATISTICS[str(found.name)]} of {found.parameters[0]} ({values}){others}"
    else:
        name = str(found.name)
        where += f"{_COLUMNS.get(name) or 'the ' + name.replace('_', ' ')} ({values})"
    said.append(where)
    if found.alike:
        said.append(f"up to and including this step the runs have equal {listed(list(found.alike), 4)}")
    said.append(WHERE_TO_LOOK[str(found.source)])
    return said


def _value(found: Difference, value: float | None) -> str:
    """A recorded number. A setting that is NaN was not there, such as the threshold of a run that is not clipped."""
    if value is None or (found.source == "settings" and math.isnan(value)):
        return "none"
    return number(value, 9)


def _all(steps: int) -> str:
    return f"all {steps} common steps" if steps > 1 else "their only common step"
