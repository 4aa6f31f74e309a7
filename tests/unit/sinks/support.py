"""The series that a tracker is to hold, from the frames of the run alone."""

import math

import pytest

STEPS = 300


def windows(run):
    """The windows as the store has them: a hundredth of the run so far, the first and the last step of each."""
    found, begin = [], 0
    for step in range(STEPS):
        if step - begin + 1 >= max(1, step // 100):
            found.append((begin, step))
            begin = step + 1
    return found if begin == STEPS else [*found, (begin, STEPS - 1)]


def expected(run):
    """The series by name and by the last step of each window, from the frame alone."""
    frame = run.steps()
    parts = {last: frame.loc[first:last] for first, last in windows(run)}
    return {
        "total_norm": {last: part["total_norm"].iloc[-1] for last, part in parts.items()},
        "total_norm_max": {last: part["total_norm"].max(skipna=False) for last, part in parts.items()},
        "loss": {last: part["loss"].mean() for last, part in parts.items()},
        "clip_coef": {last: part["clip_coef"].min(skipna=False) for last, part in parts.items()},
        "clipped_fraction": {last: part["clipped"].mean() for last, part in parts.items()},
        "learning_rate": {last: part["learning_rate"].iloc[-1] for last, part in parts.items()},
        "max_norm": dict.fromkeys(parts, 1.5),
        "nonfinite": {last: part["nonfinite"].max() for last, part in parts.items()},
    }


def assert_equal(found, wanted, inf=math.inf):
    assert found.keys() == wanted.keys()
    for step, value in wanted.items():
        assert found[step] == pytest.approx(inf if value == math.inf else value, nan_ok=True), step
