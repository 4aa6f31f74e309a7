"""Events write numbers as every view does, and load what that takes with the first event."""

import math
import subprocess
import sys

import pytest

from gradwatch import text
from gradwatch.detect.wording import factor_text, number, percentage

VALUES = (0.0, 1e-300, 0.0123, 1.25e20, -3.0, math.inf, math.nan)
LOADED = "'decimal' in sys.modules"


def test_numbers_and_percentages_are_those_of_the_views():
    assert [number(value) for value in VALUES] == [text.number(value) for value in VALUES]
    assert [number(value, 6) for value in VALUES] == [text.number(value, 6) for value in VALUES]
    assert [percentage(value) for value in VALUES] == [text.share(value) for value in VALUES]


@pytest.mark.parametrize("factor", [0.0, 0.04, 1.0, 9.94, 9.96, 10.4, 99.6, 1234.0, 5e4, 1e300])
def test_a_factor_has_two_digits_or_all_before_the_point(factor):
    assert factor_text(factor).endswith("x")
    assert float(factor_text(factor)[:-1]) == pytest.approx(factor, rel=0.05, abs=0.05)


@pytest.mark.parametrize(("factor", "told"), [(math.inf, "infx"), (math.nan, "NaNx")])
def test_a_factor_that_is_not_finite_is_told(factor, told):
    assert factor_text(factor) == told


def test_nothing_is_loaded_before_the_first_number():
    program = f"import sys; from gradwatch.detect import wording; a = {LOADED}; wording.number(1.0); print(a, {LOADED})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
