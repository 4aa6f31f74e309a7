"""Lone spikes against a plain loop over the steps."""

import numpy as np
import pytest

from gradwatch.analysis.statistics import lone_spikes as module
from gradwatch.analysis.statistics.lone_spikes import LEAST_BEFORE, NOTED_RATIO, TOLD_RATIO, WINDOW, lone_spikes


def plain(steps, norms, told):
    half, found = WINDOW // 2, []
    padded = [*norms[half:0:-1], *norms, *norms[-2 : -half - 2 : -1]]
    for i, (step, norm) in enumerate(zip(steps, norms, strict=True)):
        ratio = norm / float(np.median(padded[i : i + WINDOW]))
        if i < half or len(norms) < WINDOW:
            sides = [norms[max(0, i - half) : i], norms[i + 1 : i + 1 + half]]
            after = [float(np.median(sides[1]))] if len(sides[1]) >= 3 else []
            if len(sides[0]) >= LEAST_BEFORE:
                ratio = norm / max([float(np.median(sides[0])), *after])
            else:
                ratio = norm / max([*sides[0], *after]) if len(sides[0]) and after else 0.0
        if ratio >= (TOLD_RATIO if step in told else NOTED_RATIO):
            found.append((step, ratio))
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [0.1, 1.5])
@pytest.mark.parametrize("count", [300, WINDOW, WINDOW - 1, 12])
def test_as_a_plain_loop_finds_them(seed, spread, count):
    rng = np.random.default_rng(seed)
    norms = np.exp(spread * rng.standard_normal(count))
    norms[rng.choice(count, 6, replace=False)] *= 30
    steps, told = 10 * np.arange(count), {10, 100, 500, 990, 2990}
    expected = plain(steps.tolist(), norms.tolist(), told)
    found = lone_spikes(steps, norms, told)
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert [ratio for _, ratio in found] == pytest.approx([ratio for _, ratio in expected])


def test_one_of_the_first_norms_stands_out_of_each_before_it_and_of_those_after_it():
    assert lone_spikes(np.arange(9), np.r_[0.9, 0.7, 8.0, np.ones(6)])[0][0] == 2
    assert lone_spikes(np.arange(9), np.r_[2.0, 0.7, 8.0, np.ones(6)]) == []
    assert lone_spikes(np.arange(9), np.r_[0.9, 0.7, 8.0, np.full(6, 4.0)]) == []
    assert lone_spikes(np.arange(9), np.r_[8.0, np.ones(8)]) == []


def test_many_steps_are_looked_at_a_part_at_a_time(monkeypatch):
    rng = np.random.default_rng(0)
    norms = np.exp(0.2 * rng.standard_normal(300))
    norms[[49, 50, 99, 100, 149, 299]] *= 30  # at the ends of parts
    whole = lone_spikes(np.arange(300), norms, {10, 200})
    monkeypatch.setattr(module, "AT_ONCE", 50)
    assert lone_spikes(np.arange(300), norms, {10, 200}) == whole
    assert [step for step, _ in whole] == [49, 50, 99, 100, 149, 299]


def test_a_norm_that_settles_is_no_spike_and_one_that_stands_out_of_both_sides_is():
    settling = np.r_[[30.0, 28.0, 32.0, 25.0, 20.0, 9.0, 4.0], np.ones(60)]
    assert lone_spikes(np.arange(67), settling) == []
    assert lone_spikes(np.arange(10), settling[:10]) == []
    settling[12] = 60.0
    assert [step for step, _ in lone_spikes(np.arange(67), settling)] == [12]


def test_the_last_of_a_few_norms_has_only_those_before_it():
    assert lone_spikes(np.arange(9), np.r_[np.ones(8), 50.0]) == [(8, 50.0)]
    assert lone_spikes(np.arange(9), np.r_[np.ones(6), 50.0, 50.0, 50.0])[:1] == [(6, 50.0)]
    assert lone_spikes(np.arange(5), np.r_[np.ones(4), 50.0]) == []
    assert lone_spikes(np.arange(0), np.empty(0)) == []
