"""Which norms are bad, and that only the first of several is kept."""

import math

import numpy as np
import pytest

from gradwatch.recording.capture.rule import CaptureRule


def judged(norms):
    rule = CaptureRule()
    return [rule.judge(norm) for norm in norms]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("before", [0, 5, 100])
def test_what_is_not_finite_is_bad_from_the_first_step_on(bad, before):
    assert judged([1.0] * before + [bad])[-1] == "nonfinite"


def test_a_norm_is_compared_from_the_33rd_on():
    assert judged([1.0] * 31 + [1000.0]) == [None] * 32
    assert judged([1.0] * 32 + [5.0])[-1] == "spike"
    assert judged([1.0] * 32 + [3.9])[-1] is None
    assert judged([1.0] * 32 + [101.0])[-1] == "explosion"


def test_only_the_first_of_several_alike_is_kept():
    assert judged([1.0] * 40 + [9.0] * 5)[40:] == ["spike", None, None, None, None]
    assert judged([1.0] * 3 + [math.nan] * 3)[3:] == ["nonfinite", None, None]
    assert judged([1.0] * 40 + [9.0, 1.0, 9.0])[40:] == ["spike", None, "spike"]
    assert judged([1.0] * 40 + [9.0, 900.0, 9.0, math.nan])[40:] == ["spike", "explosion", None, "nonfinite"]


def test_a_bad_norm_does_not_move_the_limit():
    rule = CaptureRule()
    for norm in [1.0] * 40:
        rule.judge(norm)
    limit = rule.limit
    for norm in (50.0, math.nan, 5000.0):
        rule.judge(norm)
    assert rule.limit == limit


def test_a_training_whose_norms_scatter_is_not_held_to_the_factor_of_a_calm_one():
    norms = np.exp(np.random.default_rng(0).normal(0, 1.5, 400))
    assert sum(why is not None for why in judged(norms.tolist())) <= 2


def test_a_level_that_stays_is_believed_after_a_hundred_steps():
    whys = judged([1.0] * 40 + [50.0] * 140 + [51.0, 400.0])
    assert whys[40] == "spike"
    assert whys[-2:] == [None, "spike"]


def test_norms_of_zero_are_neither_bad_nor_learned():
    assert judged([0.0] * 50 + [1.0]) == [None] * 51
