"""`SkipOutliers` against its rule, written again in numpy."""

import math

import numpy as np
import pytest
import torch

from gradwatch.clip import (
    SkipOutliers,
)

from .support import stream


def skips_by_the_formula(norms, sigma=6.0, window=128, in_a_row=1):
    history, row, found = [], 0, []
    for norm in norms:
        if not math.isfinite(norm):
            found.append(True)
            continue
        kept = np.array(history[-window:])
        stands_out = len(history) + 1 >= max(20, window // 2) and norm - kept.mean() > sigma * kept.std(ddof=1)
        if stands_out and row < in_a_row:
            row += 1
            found.append(True)
            continue
        row = 0
        history.append(kept.mean() + 4 * kept.std(ddof=1) if stands_out else norm)
        found.append(False)
    return found


@pytest.mark.parametrize("in_a_row", [1, 3])
def test_skip_outliers_is_its_formula(in_a_row):
    norms = stream(7, 600)
    norms[[150, 160, 170, 171, 172, 400]] *= 20
    norms[300] = math.nan
    policy = SkipOutliers(window=64, in_a_row=in_a_row)
    found = [bool(policy.skips(torch.tensor(norm))) for norm in norms]
    assert found == skips_by_the_formula(norms, window=64, in_a_row=in_a_row)
    assert found[300]
    assert sum(found) > 3


def test_one_spike_does_not_hide_the_next_and_one_nan_skips_one_step():
    """Both are faults of the rule as it is published."""
    norms = 1 + 0.1 * np.random.default_rng(0).standard_normal(400)
    norms[[150, 160]], norms[170], norms[200] = 20, 8, math.nan
    policy = SkipOutliers()
    skipped = [t for t, norm in enumerate(norms) if bool(policy.skips(torch.tensor(norm)))]
    assert skipped == [150, 160, 170, 200]


@pytest.mark.parametrize(("window", "first"), [(128, 63), (64, 31), (40, 19), (4, 19)])
def test_the_first_norm_that_can_be_skipped_is_olmo_cores(window, first):
    """Norm number max(20, window // 2), counted from 1; a spike before that passes."""
    for at, expected in ((first - 1, False), (first, True)):
        norms = [1.0 + 0.1 * (step % 3) for step in range(first + 1)]
        norms[at] = 100.0
        policy = SkipOutliers(window=window)
        skipped = [bool(policy.skips(torch.tensor(norm))) for norm in norms]
        assert skipped[at] is expected
        assert sum(skipped) == expected
