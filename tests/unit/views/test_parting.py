"""Where two runs part is said with the value of each, the place to look, and what only one run has."""

import math

import pytest

from gradwatch.analysis.differences import Difference
from gradwatch.views.parting import sentences


def said(several=False, **known):
    return sentences(Difference(**({"optimizer": "0", "common_steps": 10} | known)), "a", "b", several=several)


def test_equal_runs_are_equal_to_the_bit():
    (text,) = said()
    assert "agree bit for bit" in text
    assert "all 10 common steps" in text
    (text,) = said(common_steps=1)
    assert text.endswith("at their only common step")


def test_runs_without_a_common_step_are_not_compared():
    assert said(common_steps=0) == ["the runs have no step in common"]


def test_parameters_of_one_run_alone_are_named_with_the_run():
    texts = said(only_first=("head.weight",), only_second=("tail.weight",))
    assert texts[:2] == ["only a has head.weight", "only b has tail.weight"]


@pytest.mark.parametrize(("parameters", "others"), [(("w",), ""), (("w", "v", "u"), "; 2 other parameters differ")])
def test_a_gradient_is_said_with_its_parameter_and_both_values(parameters, others):
    where, place = said(
        step=3, source="gradient", name="norm", parameters=parameters, first=1.0, second=1.5, relative=1 / 3
    )
    assert "at step 3" in where
    assert "the gradient norm of w (1 against 1.5, a relative difference of 0.33)" in where
    assert where.endswith(")") if not others else others in where
    assert "backward" in place


@pytest.mark.parametrize(
    ("value", "text"), [(math.nan, "(none against 0.5)"), (None, "(none against 0.5)"), (0.0, "(0 against 0.5)")]
)
def test_a_threshold_that_a_run_does_not_have_is_none_and_no_number(value, text):
    where, _ = said(step=0, source="settings", name="max_norm", first=value, second=0.5)
    assert f"in the clipping threshold {text}" in where


def test_a_loss_that_is_nan_is_a_value():
    where, _ = said(step=0, source="loss", name="loss", first=math.nan, second=math.inf)
    assert "loss (NaN against inf)" in where


def test_what_is_alike_until_then_is_said_and_the_optimizer_where_there_are_several():
    texts = said(several=True, step=2, source="loss", name="loss", first=1.0, second=2.0, alike=("weights",))
    assert "of optimizer 0 at step 2" in texts[0]
    assert texts[1] == "up to and including this step the runs have equal weights"
