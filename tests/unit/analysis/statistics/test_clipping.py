"""How a run was clipped, from frames whose clipping is known."""

import math

import numpy as np
import pandas as pd
import pytest

from gradwatch.analysis.statistics.clipping import clipping_summary

NAN, INF = math.nan, math.inf


def frame(coefs, *, max_norm=NAN, clip_value=NAN, cut=NAN):
    """The clipping columns of `RunReader.steps`."""
    coefs = np.array(coefs, float)
    columns = {"max_norm": max_norm, "clip_value": clip_value, "clip_coef": coefs, "cut_fraction": cut}
    return pd.DataFrame({**columns, "clipped": coefs < 1}, index=range(len(coefs))).astype(
        {"max_norm": float, "clip_value": float, "cut_fraction": float}
    )


def test_clipping_by_norm():
    found = clipping_summary(frame([1.0, 0.5, 0.25, 1.0], max_norm=[2.0, 4.0, 1.0, 3.0]), None)
    assert (found.kind, found.threshold, found.threshold_min, found.threshold_max) == ("norm", 3.0, 1.0, 4.0)
    assert found.clipped_fraction == 0.5
    assert found.mean_clip_coef == pytest.approx((1.0 + 0.5 + 0.25 + 1.0) / 4)
    assert found.cut_fraction is None


def test_clipping_by_value():
    found = clipping_summary(frame([1.0, 1.0], clip_value=0.5, cut=[0.25, 0.75]), None)
    assert (found.kind, found.threshold, found.cut_fraction) == ("value", 0.5, 0.5)


def test_both_kinds_are_named_and_the_threshold_is_that_of_the_norm():
    found = clipping_summary(frame([0.5], max_norm=2.0, clip_value=0.1), None)
    assert (found.kind, found.threshold) == ("norm+value", 2.0)


def test_a_policy_that_warms_up_has_no_threshold_yet():
    found = clipping_summary(frame([1.0, 1.0], max_norm=[INF, INF]), "AutoClip(10)")
    assert (found.kind, found.threshold, found.threshold_max) == ("norm", None, None)


@pytest.mark.parametrize(
    ("coefs", "policy"),
    [([1.0, 1.0], "AGC()"), ([1.0, 0.9], None), ([1.0, NAN], None)],
    ids=["by its name", "by a coefficient below 1", "by a coefficient that is NaN"],
)
def test_a_policy_without_a_threshold_is_noticed(coefs, policy):
    found = clipping_summary(frame(coefs), policy)
    assert found.kind == "policy"
    assert found.threshold is None
    assert found.clipped_fraction is not None


def test_a_coefficient_that_is_not_finite_is_left_out_of_the_mean():
    assert clipping_summary(frame([0.5, NAN, 1.0], max_norm=1.0), None).mean_clip_coef == 0.75
    assert clipping_summary(frame([NAN], max_norm=1.0), None).mean_clip_coef is None


@pytest.mark.parametrize("is_known", [True, False])
def test_a_run_without_clipping_says_whether_that_is_known(is_known):
    found = clipping_summary(frame([1.0, 1.0]), None, is_known=is_known)
    assert (found.kind, found.clipped_fraction, found.is_known) == (None, None, is_known)


def test_clipping_that_was_recorded_is_known_whatever_the_history_is():
    assert clipping_summary(frame([0.5], max_norm=1.0), None, is_known=False).is_known


def test_a_run_without_steps():
    found = clipping_summary(frame([]), None)
    assert (found.kind, found.threshold, found.mean_clip_coef) == (None, None, None)
