"""Lone spikes against a plain loop over the steps."""

import numpy as np
import pytest

from gradwatch.analysis.statistics.lone_spikes import NOTED_RATIO, TOLD_RATIO, WINDOW, lone_spikes


def plain(steps, norms, told):
    half, found = WINDOW // 2, []
    padded = [*norms[half:0:-1], *norms, *norms[-2 : -half - 2 : -1]]
    for i, (step, norm) in enumerate(zip(steps, norms, strict=True)):
        ratio = norm / float(np.median(padded[i : i + WINDOW]))
        if i >= half and ratio >= (TOLD_RATIO if step in told else NOTED_RATIO):
            found.append((step, ratio))
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [0.1, 1.5])
def test_as_a_plain_loop_finds_them(seed, spread):
    rng = np.random.default_rng(seed)
    norms = np.exp(spread * rng.standard_normal(300))
    norms[rng.choice(300, 6, replace=False)] *= 30
    steps, told = 10 * np.arange(300), {10, 500, 990, 2990}
    expected = plain(steps.tolist(), norms.tolist(), told)
    found = lone_spikes(steps, norms, told)
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert [ratio for _, ratio in found] == pytest.approx([ratio for _, ratio in expected])


def test_the_first_steps_and_short_records_have_none():
    norms = np.ones(60)
    norms[3] = 100.0
    assert lone_spikes(np.arange(60), norms) == []
    assert lone_spikes(np.arange(WINDOW - 1), np.linspace(1, 100, WINDOW - 1)) == []
    assert lone_spikes(np.arange(0), np.empty(0)) == []
