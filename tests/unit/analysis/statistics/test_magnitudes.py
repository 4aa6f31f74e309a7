"""The histograms of entries, compared with `math.frexp` of each entry of the gradients."""

import dataclasses
import math

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.history import RunReader
from gradwatch.analysis.statistics.magnitudes import magnitudes
from gradwatch.analysis.statistics.series import step_series
from gradwatch.record import MAGNITUDE_BINS, MAGNITUDE_EXPONENTS, MagnitudeStats
from gradwatch.testing import PARAMETERS, stream, write_run

INF, NAN = math.inf, math.nan
ENTRIES = {  # of the first parameter at the steps that are counted
    0: [0.0] * 9,
    10: [1.0, 1.5, 3.9, 4.0, -4.0, 0.25, 0.2499, 2.0**-24, -1e-30],
    20: [NAN, INF, -INF, 1e38, -1e38, 65535.0, 65536.0, 1e-40, 0.0],
    30: None,  # there was no gradient
    40: [1e-3] * 9,
}
OF_THE_OTHER = [2.0, -2.0, 0.0]


def bin_of(entry):
    """The name of an entry's bin: that of the highest power of two among `MAGNITUDE_EXPONENTS` that it reaches."""
    if math.isnan(entry):
        return "nan"
    if math.isinf(entry):
        return "inf"
    if entry == 0:
        return "zero"
    power = math.frexp(abs(entry))[1] - 1
    reached = [exponent for exponent in MAGNITUDE_EXPONENTS if exponent <= power]
    return f"2^{max(reached)}" if reached else "below"


def counted(entries):
    if entries is None:
        return [NAN] * len(MAGNITUDE_BINS)
    names = [bin_of(entry) for entry in entries]
    return [float(names.count(name)) for name in MAGNITUDE_BINS]


@pytest.fixture
def ask(tmp_path):
    """Ask a run of 50 steps for its magnitudes."""
    records = [
        dataclasses.replace(
            record,
            loss_scale=2.0**16 if record.step >= 20 else None,
            magnitudes=MagnitudeStats.of(np.array([counted(ENTRIES[record.step]), counted(OF_THE_OTHER)]))
            if record.step in ENTRIES
            else None,
        )
        for record in stream([1.0] * 50)
    ]
    reader = RunReader(write_run(tmp_path / "run", records))
    series = step_series(reader, "0", reader.steps(), layers=False)
    return lambda *arguments, **options: magnitudes(reader, series, "0", *arguments, **options)


def test_each_entry_is_counted_in_the_bin_of_its_magnitude(ask):
    found = ask([0, 1])
    assert found.step.tolist() == list(ENTRIES)
    assert found.names == tuple(info.name for info in PARAMETERS)
    assert found.sizes == (9, 3)
    assert found.counted == 5
    expected = [[counted(entries), counted(OF_THE_OTHER)] for entries in ENTRIES.values()]
    np.testing.assert_array_equal(found.counts, expected)


def test_positions_may_stand_in_any_order_and_be_none(ask):
    found = ask([1])
    assert (found.names, found.sizes) == (("out.weight",), (3,))
    np.testing.assert_array_equal(found.counts, [[counted(OF_THE_OTHER)]] * 5)
    np.testing.assert_array_equal(ask([1, 0]).counts, ask([0, 1]).counts[:, ::-1])
    assert ask([]).counts.shape == (5, 0, len(MAGNITUDE_BINS))


def test_the_loss_scale_is_that_of_the_step_and_nan_where_there_was_none(ask):
    np.testing.assert_array_equal(ask([0]).loss_scale, [NAN, NAN, 65536.0, 65536.0, 65536.0])


@pytest.mark.parametrize(
    ("first", "last", "steps"),
    [
        (-INF, INF, [0, 10, 20, 30, 40]),
        (10, 30, [10, 20, 30]),
        (11, 29.5, [10, 20]),  # a sample holds until the next one
        (41, 49, [40]),
        (-9, 0, [0]),
        (-9, -1, []),
        (30, 10, []),
        (1e300, INF, [40]),
    ],
)
def test_a_range_has_its_samples_and_the_one_that_holds_at_its_begin(ask, first, last, steps):
    found = ask([0], first, last)
    assert found.step.tolist() == steps
    assert found.counted == len(steps)
    assert len(found.counts) == len(found.loss_scale) == len(steps)


@pytest.mark.parametrize(("most", "steps"), [(1, [0]), (2, [0, 40]), (3, [0, 20, 40]), (5, list(ENTRIES))])
def test_of_many_samples_some_are_taken_that_are_spaced_evenly(ask, most, steps):
    found = ask([0], most=most)
    assert found.step.tolist() == steps
    assert found.counted == 5


def test_a_run_without_counts_has_none(tmp_path):
    reader = RunReader(write_run(tmp_path / "run", stream([1.0] * 5)))
    found = magnitudes(reader, step_series(reader, "0", reader.steps(), layers=False), "0", [0, 1])
    assert found.counted == len(found.step) == len(found.loss_scale) == 0
    assert found.counts.shape == (0, 2, len(MAGNITUDE_BINS))
    assert len(Run(tmp_path / "run").magnitudes(PARAMETERS[0].name)) == 0
