"""One threshold for several runs."""

import math

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.recommend import recommend_for_all
from gradwatch.analysis.recommend.advice import Recommendation
from gradwatch.analysis.recommend.aggregate import aggregate
from gradwatch.testing import steady, stream, write_run


def falling(steps, start=2.0, end=0.5, seed=0):
    rng = np.random.default_rng(seed)
    return [float(x) for x in np.geomspace(start, end, steps) * np.exp(0.05 * rng.standard_normal(steps))]


def heavy(steps, seed=0):
    return [float(x) for x in np.random.default_rng(seed).pareto(1.2, steps) + 1]


def advice(run, max_norm, **more):
    return Recommendation(
        run=run,
        max_norm=max_norm,
        low=0.1,
        high=10.0,
        clipped_fraction=0.5,
        mean_clip_coef=0.5,
        refused=None,
        reasons=("a reason",),
        **{"confidence": "high"} | more,
    )


def test_the_threshold_is_the_geometric_mean():
    found = aggregate([advice("a", 1.0), advice("b", 4.0), advice("c", 2.0)])
    assert found.together.max_norm == pytest.approx(math.exp((math.log(1) + math.log(4) + math.log(2)) / 3), rel=0.05)
    assert found.spread == 4.0
    assert found.together.confidence == "high"


def test_the_confidence_is_the_least_of_the_runs():
    assert aggregate([advice("a", 1.0), advice("b", 1.0, confidence="medium")]).together.confidence == "medium"


def test_the_same_fault_of_several_runs_is_told_once():
    runs = [advice("a", 1.0, fix_first=("x", "y")), advice("b", 1.0, fix_first=("y", "z"))]
    assert aggregate(runs).together.fix_first == ("x", "y", "z")


def test_several_runs_get_one_threshold_and_how_much_they_agree(tmp_path):
    runs = [Run(write_run(tmp_path / str(seed), stream(steady(1500, seed=seed)))) for seed in range(3)]
    found = recommend_for_all(runs)
    numbers = [run.recommend().max_norm for run in runs]
    assert min(numbers) <= found.together.max_norm <= max(numbers)
    assert found.spread == max(numbers) / min(numbers)
    assert found.together.low == max(run.recommend().low for run in runs)
    assert len(found.each) == 3
    assert any("3 of 3 runs support a threshold" in reason for reason in found.together.reasons)


def test_runs_that_do_not_agree_are_told_so(tmp_path):
    runs = [Run(write_run(tmp_path / str(level), stream(steady(1500, level=level)))) for level in (1.0, 100.0)]
    found = recommend_for_all(runs)
    assert found.spread == pytest.approx(100, rel=0.1)
    assert found.together.confidence == "low"
    assert any("no threshold in common" in reason for reason in found.together.reasons)


def test_of_several_runs_some_or_all_may_be_refused(tmp_path):
    good = Run(write_run(tmp_path / "good", stream(steady(1500))))
    short = Run(write_run(tmp_path / "short", stream(steady(50))))
    some = recommend_for_all([good, short])
    assert some.together.max_norm == good.recommend().max_norm
    assert any("short: refused" in reason for reason in some.together.reasons)
    assert "none of the 2 runs" in recommend_for_all([short, short]).together.refused


def test_runs_that_are_advised_different_policies_get_a_threshold(tmp_path):
    calm = Run(write_run(tmp_path / "a", stream(steady(2000), losses=falling(2000)), "Adam"))
    also = Run(write_run(tmp_path / "b", stream(steady(2000, seed=1), losses=falling(2000)), "Adam"))
    other = Run(write_run(tmp_path / "c", stream(heavy(2000), losses=falling(2000)), "Adam"))
    assert recommend_for_all([calm, also]).together.clip == "ZClip()"
    assert recommend_for_all([calm, other]).together.clip is None
