"""Curves and heat maps of characters: no spike lost, what is not finite marked, every extreme drawn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.text import Text

from gradwatch.views.console.draw import (
    Axis,
    axis_of,
    bar,
    beside,
    chart,
    cut_legend,
    heat,
    heat_legend,
    loss_axis_of,
    with_axis,
)
from gradwatch.views.console.screen import Ink

NONE = np.zeros(0, bool)
VALUES = st.lists(st.floats(width=64), min_size=1, max_size=300)


def plain(lines):
    return [line.plain for line in lines]


def test_a_single_step_spike_is_in_the_line_at_every_width():
    values = np.ones(20_000)
    values[12_345] = 50.0
    for width in (10, 37, 70, 130):
        (line,) = chart(values, np.zeros(20_000, bool), width, 1, Ink())
        assert line.plain.count("█") == 1
        assert line.plain[12_345 * width // 20_000] == "█"


@pytest.mark.parametrize(("ascii_only", "mark"), [(False, "×"), (True, "N")])
def test_a_value_that_is_not_finite_has_its_own_mark(ascii_only, mark):
    values, bad = np.ones(1000), np.zeros(1000, bool)
    values[500], bad[500] = np.nan, True
    lines = plain(chart(values, bad, 50, 3, Ink(ascii=ascii_only)))
    assert lines[0].count(mark) == 1
    assert mark not in "".join(lines[1:])


@pytest.mark.parametrize(("ascii_only", "mark"), [(False, "▲"), (True, "^")])
def test_a_value_above_the_axis_is_marked(ascii_only, mark):
    values = np.array([1.0] * 99 + [1e20])
    assert chart(values, np.zeros(100, bool), 100, 2, Ink(ascii=ascii_only))[0].plain.endswith(mark)


def test_a_legend_says_where_a_chart_that_is_cut_ends():
    cut, none = np.array([1.0] * 99 + [1e20]), np.zeros(100, bool)
    axis = axis_of(cut)
    assert plain(cut_legend(chart(cut, none, 50, 2, Ink()), axis, Ink())) == ["  ▲ above 100, where the chart ends"]
    assert cut_legend(chart(cut[:99], none[:99], 50, 2, Ink()), axis, Ink()) == []
    covered = none.copy()
    covered[99] = True
    assert cut_legend(chart(cut, covered, 50, 2, Ink()), axis, Ink()) == [], "another mark covers the only one"


def test_a_larger_value_has_a_higher_bar():
    values = np.geomspace(1, 1000, 8)
    (line,) = chart(values, np.zeros(8, bool), 8, 1, Ink(), Axis(1.0, 1000.0))
    heights = [Ink().levels.index(character) for character in line.plain]
    assert heights == sorted(heights)
    assert (heights[0], heights[-1]) == (1, 8)


def test_bars_of_several_lines_are_filled_from_below():
    lines = plain(chart(np.array([1.0, 31.6, 1000.0]), np.zeros(3, bool), 3, 4, Ink(), Axis(1.0, 1000.0)))
    assert [line[2] for line in lines] == ["█"] * 4
    assert [line[1] for line in lines] == [" ", " ", "█", "█"]
    assert [line[0] for line in lines] == [" ", " ", " ", "▁"]


@settings(max_examples=60, deadline=None)
@given(VALUES, st.integers(1, 120), st.integers(1, 5), st.booleans())
def test_every_series_can_be_drawn(values, width, height, ascii_only):
    array = np.array(values)
    lines = plain(chart(array, ~np.isfinite(array), width, height, Ink(ascii=ascii_only)))
    assert len(lines) == height
    assert {len(line) for line in lines} == {min(width, len(array))}
    assert not ascii_only or all(line.isascii() for line in lines)


def test_an_empty_series_has_empty_lines():
    assert plain(chart(np.empty(0), NONE, 20, 2, Ink())) == ["", ""]


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_the_ends_of_the_axis_are_positive_and_at_least_almost_a_decade_apart(values):
    axis = axis_of(np.array(values))
    low, high = axis.low, axis.high
    if not axis.logarithmic:
        assert not any(value > 0 for value in values if math.isfinite(value))
        return
    assert 0 < low < high < math.inf
    assert high >= 9.99 * low or low == math.ulp(0.0)


def test_the_axis_ends_at_a_hundred_medians():
    assert axis_of(np.array([1.0, 2.0, 50.0])) == Axis(1.0, 50.0)
    assert axis_of(np.array([1.0] * 99 + [1e20])) == Axis(1.0, 100.0)
    assert axis_of(np.array([1.0] * 90 + [1e20] * 10)) == Axis(1.0, 1e20), "unless one value in twenty lies above"
    assert axis_of(np.array([1.0] * 99 + [1e-20])) == Axis(1e-6, 1.0)


@pytest.mark.parametrize("values", [[], [math.nan, math.inf]])
def test_without_a_finite_value_there_is_an_axis(values):
    assert axis_of(np.array(values)) == Axis(1.0, 10.0)


def test_norms_that_are_all_zero_lie_at_zero():
    axis = axis_of(np.zeros(5))
    assert axis == Axis(0.0, 0.0, logarithmic=False)
    lines = plain(with_axis(chart(np.zeros(5), np.zeros(5, bool), 5, 3, Ink(), axis), axis, Ink()))
    assert [line.split("┤")[0].strip() for line in lines] == ["", "", "0"]
    assert lines[-1].endswith("┤▁▁▁▁▁")


def test_several_series_share_an_axis():
    assert axis_of(np.array([1.0]), np.array([1000.0]), np.array([math.nan])) == Axis(1.0, 1000.0)


@pytest.mark.parametrize(
    ("ratio", "shade"), [(0.01, " "), (0.2, "·"), (1.0, "░"), (5.0, "▒"), (50.0, "▓"), (500.0, "█")]
)
def test_shades_tell_how_far_a_norm_is_from_the_median(ratio, shade):
    assert heat(np.array([3.0 * ratio]), np.zeros(1, bool), 3.0, 1, Ink(colour=False)).plain == shade


def test_shades_differ_in_colour_and_in_ascii():
    ratios = np.array([0.01, 0.2, 1.0, 5.0, 50.0, 500.0])
    coloured = heat(ratios, np.zeros(6, bool), 1.0, 6, Ink())
    assert len({str(span.style) for span in coloured.spans}) == 6
    assert len(set(heat(ratios, np.zeros(6, bool), 1.0, 6, Ink(ascii=True, colour=False)).plain)) == 6


@pytest.mark.parametrize("median", [None, 0.0])
def test_without_a_median_nothing_is_shaded_but_what_is_not_finite(median):
    assert heat(np.array([1.0, np.nan]), np.array([False, True]), median, 2, Ink()).plain == " ×"


def test_the_legend_names_every_shade():
    for ink in (Ink(), Ink(colour=False), Ink(ascii=True, colour=False)):
        legend = heat_legend(ink).plain
        assert all(label in legend for label in ("<1/10", "<1/2", "level", ">3x", ">10x", ">100x", "not finite"))


@pytest.mark.parametrize(("fraction", "filled"), [(0.0, 0), (0.04, 0), (0.06, 1), (0.5, 5), (1.0, 10)])
def test_a_bar_is_padded(fraction, filled):
    assert bar(fraction, 10, Ink()) == "█" * filled + " " * (10 - filled)


def test_blocks_stand_beside_each_other_whatever_their_heights():
    lines = beside([[Text("ab"), Text("c")], [Text("x")], []])
    assert plain(lines) == ["ab  x", "c"]
    assert beside([]) == []


@pytest.mark.parametrize("height", [1, 2, 5])
def test_an_axis_has_its_ends_at_the_first_and_the_last_line(height):
    lines = plain(with_axis([Text("#")] * height, Axis(1.25e-300, 0.5), Ink(ascii=True)))
    assert {line.index("|") for line in lines} == {9}
    if height > 1:
        assert (lines[0].split("|")[0].strip(), lines[-1].split("|")[0].strip()) == ("0.5", "1.25e-300")


@pytest.mark.parametrize(
    ("losses", "axis"),
    [
        ([2.0, 50.0], Axis(2.0, 50.0)),
        ([0.0, 20.0, 2.0], Axis(2.0, 20.0)),
        ([-1.0, 3.0, math.nan, -math.inf], Axis(-1.0, 3.0, logarithmic=False)),
        ([0.0, 0.0], Axis(0.0, 0.0, logarithmic=False)),
        ([math.nan], Axis(1.0, 10.0)),
        ([], Axis(1.0, 10.0)),
    ],
)
def test_a_loss_below_0_gets_a_linear_axis(losses, axis):
    assert loss_axis_of(np.array(losses)) == axis


def test_negative_losses_have_bars_by_their_height():
    losses = np.array([-8.0, -6.0, -4.0, -2.0, 0.0])
    (line,) = chart(losses, np.zeros(5, bool), 5, 1, Ink(), loss_axis_of(losses))
    assert line.plain == "▁▂▄▆█"


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_every_loss_can_be_drawn(values):
    losses = np.array(values)
    lines = plain(chart(losses, ~np.isfinite(losses), 40, 2, Ink(), loss_axis_of(losses)))
    assert {len(line) for line in lines} == {min(40, len(losses))}
