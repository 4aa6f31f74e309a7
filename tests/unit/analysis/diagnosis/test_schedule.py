"""What the schedule of the learning rate explains."""

import math

import pytest

from gradwatch.analysis.diagnosis.facts import read_facts
from gradwatch.analysis.diagnosis.schedule import end_of_warm_up

from .made import calm, changed, run_of


@pytest.mark.parametrize(
    ("rates", "end"),
    [
        pytest.param([0.1] * 100, None, id="constant"),
        pytest.param([0.1 * min(1.0, (i + 1) / 40) for i in range(100)], 39, id="linear"),
        pytest.param([0.1 * (1 - i / 100) for i in range(100)], None, id="decay alone"),
        pytest.param([0.1 * min((i + 1) / 20, 1 - (i - 20) / 100) for i in range(100)], 19, id="warm-up and decay"),
        pytest.param([0.0] * 100, None, id="zero"),
        pytest.param([-0.1] * 100, None, id="negative, as a script may set it"),
        pytest.param([math.nan] * 100, None, id="not known"),
        pytest.param([math.nan] * 50 + [0.1 * (i + 1) / 50 for i in range(50)], 99, id="known late"),
    ],
)
def test_the_end_of_a_warm_up(tmp_path, rates, end):
    records = changed(calm(100), learning_rates=lambda i: () if math.isnan(rates[i]) else (rates[i],))
    (optimizer,) = read_facts(run_of(tmp_path, records)).optimizers
    assert end_of_warm_up(optimizer) == end
