"""Numbers, durations and names as text: right to what they show, never longer than their column."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.text import (
    ascii_only,
    count,
    duration,
    factor_text,
    number,
    optimizer_label,
    printable,
    share,
    shorten,
    step_range,
)

FINITE = st.floats(-1e308, 1e308)

AS_ON_THE_PAGE = json.loads((Path(__file__).parents[1] / "golden" / "text.json").read_text())
"""Values with their text, which `tests/dashboards/text.test.js` asks of the page too."""


# ------------------------------------------------------------------------------------------ numbers


def test_numbers_and_shares_read_as_on_the_page():
    assert [number(value) for value, _ in AS_ON_THE_PAGE["numbers"]] == [text for _, text in AS_ON_THE_PAGE["numbers"]]
    assert [share(value) for value, _ in AS_ON_THE_PAGE["shares"]] == [
        f"{text}%" for _, text in AS_ON_THE_PAGE["shares"]
    ]


@given(FINITE)
def test_a_number_is_right_to_three_digits_and_has_at_most_ten_characters(value):
    text = number(value)
    assert len(text) <= 10
    assert float(text) == pytest.approx(value, rel=0.0051, abs=0.0)


@given(FINITE, st.integers(1, 8))
def test_a_number_of_more_or_fewer_digits_is_as_right_as_python_writes_it(value, digits):
    text = number(value, digits)
    assert "+" not in text
    assert "e0" not in text
    assert "e-0" not in text
    assert abs(float(text) - value) <= abs(float(f"{value:.{digits}g}") - value) * (1 + 1e-9)


@given(st.floats(0, 2.0**127, width=32))
def test_a_float32_norm_fits_into_its_column(value):
    assert len(number(value)) <= 8


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (math.nan, "NaN"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (0.0, "0"),
        (-0.0, "0"),
        (1, "1"),
        (1.0, "1"),
        (1.5, "1.5"),
        (99.95, "100"),
        (110.0, "110"),
        (999.5, "1000"),
        (12345.7, "12346"),
        (99_999.4, "99999"),
        (99_999.5, "1e5"),
        (1e5, "1e5"),
        (1.17e28, "1.17e28"),
        (0.001, "0.001"),
        (0.000999, "9.99e-4"),
        (1.25e-4, "1.25e-4"),
        (5e-324, "4.94e-324"),
        (1.7976931348623157e308, "1.8e308"),
        (-2.5, "-2.5"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


@given(st.floats(min_value=0, max_value=1))
def test_only_nothing_is_0_percent_and_only_everything_100_percent(value):
    text = share(value)
    assert (text == "0%") == (value == 0)
    assert (text == "100%") == (value == 1)
    assert len(text) <= 6
    if text[0] not in "<>":
        assert float(text.removesuffix("%")) == pytest.approx(100 * value, abs=0.0501)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (math.nan, "NaN"),
        (math.inf, "inf"),
        (0.0, "0%"),
        (1e-300, "<0.01%"),
        (0.0004, "0.04%"),
        (0.00096, "0.1%"),
        (0.01, "1%"),
        (0.5, "50%"),
        (0.9994, "99.9%"),
        (0.9996, ">99.9%"),
        (1.0, "100%"),
        (2.5, "250%"),
    ],
)
def test_shares(value, text):
    assert share(value) == text


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (10**9, "1000000000 steps")]
)
def test_counts(amount, text):
    assert count(amount, "step") == text


def test_an_irregular_plural():
    assert [count(n, "entry", "entries") for n in (1, 2)] == ["1 entry", "2 entries"]


def test_a_range_of_one_step_is_a_step():
    assert [step_range(5), step_range(5, 5), step_range(5, 6)] == ["step 5", "step 5", "steps 5 to 6"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (math.nan, "NaN"),
        (math.inf, "inf"),
        (0.0, "0.0 s"),
        (0.0004, "0.4 ms"),
        (0.0994, "99 ms"),
        (0.0996, "0.1 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (60, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (3600, "1 h 0 min"),
        (86_399, "1 d 0 h"),
        (86_400, "1 d 0 h"),
        (-3.0, "-3.0 s"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


# -------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("class_name", "rate", "text"),
    [
        ("AdamW", 3e-4, "AdamW lr 3e-4"),
        ("AdamW", None, "AdamW"),
        ("AdamW", math.nan, "AdamW lr NaN"),
        ("", 0.1, "optimizer lr 0.1"),
        ("", None, "optimizer not known"),
        ("NoOptimizer", None, "no optimizer"),
        ("ByHand", 0.1, "no optimizer"),
    ],
)
def test_optimizers(class_name, rate, text):
    assert optimizer_label(class_name, rate) == text


@given(st.text())
def test_a_printable_text_has_no_control_character(text):
    shown = printable(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text


def test_control_characters_are_spelled_as_python_spells_them():
    assert printable("\x1b[31m\n\u202e\U000e0001\ud800") == r"\x1b[31m\n\u202e\U000e0001\ud800"


@given(st.text())
def test_ascii_is_all_that_is_left(text):
    assert ascii_only(text).isascii()


def test_our_own_signs_have_ascii_words():
    assert ascii_only("3 × 4 … é") == "3 x 4 ... \\xe9"


@given(st.text(), st.integers(0, 60), st.sampled_from(["…", ".."]))
def test_a_shortened_name_has_at_most_its_width(name, width, mark):
    short = shorten(name, width, mark)
    assert len(short) <= width
    if len(name) <= width:
        assert short == name
    elif width > len(mark) + 1:
        assert mark in short
        assert short[0] == name[0] or width - len(mark) < 2
        assert short[-1] == name[-1]


@pytest.mark.parametrize("factor", [0.0, 0.04, 1.0, 9.94, 9.96, 10.4, 99.6, 1234.0, 5e4, 1e300])
def test_a_factor_has_two_digits_or_all_before_the_point(factor):
    assert factor_text(factor).endswith("x")
    assert float(factor_text(factor)[:-1]) == pytest.approx(factor, rel=0.05, abs=0.05)


@pytest.mark.parametrize(("factor", "told"), [(math.inf, "infx"), (math.nan, "NaNx")])
def test_a_factor_that_is_not_finite_is_told(factor, told):
    assert factor_text(factor) == told
