"""The parts of a recommendation."""

import ast

import pytest

from gradwatch.analysis.recommend.advice import CONFIDENCES, Recommendation

NOTHING = {"run": "r", "low": None, "high": None, "clipped_fraction": None, "mean_clip_coef": None, "reasons": ()}


def advise(max_norm, clip=None, **more):
    return Recommendation(**NOTHING | {"confidence": "low", "refused": None} | more, max_norm=max_norm, clip=clip)


@pytest.mark.parametrize(
    ("max_norm", "clip", "policy"), [(None, None, "none"), (1.0, None, "norm"), (1.0, "ZClip()", "adaptive")]
)
def test_the_kind_of_clipping(max_norm, clip, policy):
    assert advise(max_norm, clip).policy == policy


def test_without_a_threshold_there_is_nothing_to_paste():
    assert advise(None).apply == {}
    assert advise(None, clip="ZClip()").apply == {}


@pytest.mark.parametrize("max_norm", [0.012, 1.0, 2.5e-7, 123456.0])
def test_every_line_is_python_with_the_threshold(max_norm):
    lines = advise(max_norm).apply
    assert list(lines) == ["torch", "lightning", "transformers"]
    for line in lines.values():
        call = ast.parse(line, mode="eval").body
        values = [keyword.value.value for keyword in call.keywords if isinstance(keyword.value.value, int | float)]
        assert values == [pytest.approx(max_norm, rel=1e-5)]


def test_a_policy_comes_first():
    lines = advise(1.0, clip="AutoClip(10)").apply
    assert next(iter(lines)) == "gradwatch"
    assert "clip=gradwatch.clip.AutoClip(10)" in lines["gradwatch"]


def test_the_older_name_of_fix_first():
    assert advise(1.0, fix_first=("lower the rate",)).first == ("lower the rate",)


def test_confidences_are_in_order():
    assert max(("high", "low", "medium"), key=CONFIDENCES.index) == "high"
