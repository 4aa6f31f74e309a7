"""Which series are norms of layers, and the total norm that follows from them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.errors import CannotImport
from gradwatch.sources.layers import LINEAR_TOTAL, LayerSeries, find, pick_total, total

PREFIXES = ["grad_2.0_norm/", "grad_2_norm/", "grad_norm/", "grad/norm/", "gradient_norms/", "train/grad_norm/"]
SERIES = LayerSeries(columns=("grad_norm/a", "grad_norm/b"), layers=("a", "b"))


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_usual_prefixes_are_known(prefix):
    columns = (f"{prefix}fc.weight", f"{prefix}fc.bias")
    assert find(["loss", *columns, "step"]) == LayerSeries(columns=columns, layers=("fc.weight", "fc.bias"))


@pytest.mark.parametrize(
    "columns",
    [
        [],
        ["grad_norm/a"],  # one alone is more likely a total
        ["grad_norm/a", "grad_norm/total"],
        ["grad_norm/Total", "grad_norm/GLOBAL", "grad_norm/all"],
        ["grad_norm/", "grad_norm//", "loss/a", "loss/b"],
        ["grad_norms", "grad_norm", "gradient"],
    ],
)
def test_names_that_are_those_of_no_layers(columns):
    assert find(columns) == LayerSeries()


def test_a_layer_that_is_logged_under_two_names_counts_once():
    found = find(["train/grad_norm/a", "eval/grad_norm/a", "grad_norm/b"])
    assert found.layers == ("a", "b")
    assert found.columns == ("train/grad_norm/a", "grad_norm/b")


def test_a_layer_whose_name_holds_slashes_keeps_them():
    assert find(["grad_norm/block/0/w", "grad_norm/block/1/w"]).layers == ("block/0/w", "block/1/w")


@given(st.lists(st.floats(min_value=0, max_value=1e150), min_size=1, max_size=20))
def test_the_total_is_that_of_numpy(norms):
    assert total(norms) == pytest.approx(float(np.linalg.norm(norms)), rel=1e-12)


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ([0.0, 0.0], 0.0),
        ([1e200, 1e200], math.sqrt(2) * 1e200),  # whose squares are beyond float64
        ([1.0, math.inf], math.inf),
        ([math.inf, math.nan], math.nan),  # `math.hypot` says inf
        ([math.nan, 1.0], math.nan),
    ],
)
def test_totals_at_the_edges(norms, expected):
    assert total(norms) == pytest.approx(expected, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("norms", [[], [None], [None, None], [1.0, None], [math.nan, None]])
def test_without_one_of_the_norms_the_total_is_not_known(norms):
    assert total(norms) is None


def test_a_total_that_is_there_is_taken():
    assert pick_total(["grad_norm", "loss"], None, SERIES, "a") == ("grad_norm", ())
    assert pick_total(["mine", "grad_norm"], "mine", SERIES, "a") == ("mine", ())


def test_a_total_that_is_not_there_is_computed_and_it_is_said():
    name, notes = pick_total(["loss"], None, SERIES, "a")
    assert name is None
    assert "computed from the norms of 2 layers" in notes[0]


def test_a_sum_of_norms_is_no_norm():
    name, notes = pick_total([LINEAR_TOTAL], None, SERIES, "a")
    assert name is None
    assert "which is no norm" in notes[0]
    name, notes = pick_total([LINEAR_TOTAL], None, LayerSeries(), "a")
    assert name is None
    assert "which is no norm" in notes[0]


def test_a_name_that_was_given_and_is_not_there_is_no_reason_to_compute():
    with pytest.raises(CannotImport, match="has no 'mine'"):
        pick_total(["loss"], "mine", SERIES, "a")


def test_a_given_beginning_stands_above_the_usual_ones():
    columns = ["loss", "grad_norm/a", "grad_norm/b", "gradients/a", "gradients.b", "gradients/total", "gradients//a"]
    assert find(columns, "gradients") == LayerSeries(columns=("gradients/a", "gradients.b"), layers=("a", "b"))
    assert find(columns, "grad_norm/").layers == ("a", "b")


@pytest.mark.parametrize("prefix", ["other/", "loss"])
def test_a_beginning_that_no_series_has_is_an_error(prefix):
    with pytest.raises(CannotImport, match="expected the beginning of one of 'loss'"):
        find(["loss", "gradients/a"], prefix)
