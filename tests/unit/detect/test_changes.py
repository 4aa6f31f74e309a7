"""Changes that a loop makes on purpose: other parameters, another learning rate."""

import dataclasses

import numpy as np
import pytest

from gradwatch.detect.changes import APART_STEPS, PresenceChanges, RateChanges
from gradwatch.testing import steady, stream


def with_gradients(present):
    """Records of two parameters of which the last may have no gradient."""
    records = stream(steady(len(present)))
    for at, count in enumerate(present):
        norm = records[at].layers.norm.copy()
        norm[count:] = np.nan
        layers = dataclasses.replace(records[at].layers, norm=norm, nonfinite=np.where(np.isnan(norm), np.nan, 0))
        records[at] = dataclasses.replace(records[at], layers=layers)
    return records


def changed_at(records):
    changes = PresenceChanges()
    return [record.step for record in records if changes.update(record)]


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        pytest.param([], [], id="no step"),
        pytest.param([2] * 300, [], id="no change"),
        pytest.param([1] * 200 + [2] * 200, [200], id="a parameter is thawed"),
        pytest.param([2] * 200 + [1] * 200, [200], id="a parameter is frozen"),
        pytest.param([2] * 200 + [0] * 200, [200], id="no gradient at all"),
        pytest.param([1] * 50 + [2] * 50, [], id="too early to be told"),
        pytest.param([1, 2] * 150, [100, 201], id="other parameters at every step"),
    ],
)
def test_another_number_of_gradients_is_told(present, expected):
    assert changed_at(with_gradients(present)) == expected


def test_records_without_layers_are_passed_over():
    records = with_gradients([1] * 200 + [2] * 200)
    records[150:250] = [dataclasses.replace(record, layers=None) for record in records[150:250]]
    assert changed_at(records) == [250]


def rates(*learning_rates):
    changes = RateChanges()
    for at, record in enumerate(stream([1.0] * len(learning_rates))):
        rate = learning_rates[at]
        changes.update(dataclasses.replace(record, learning_rates=() if rate is None else (rate, 99.0)))
    return changes.changed, changes.raised


@pytest.mark.parametrize(
    ("learning_rates", "expected"),
    [
        pytest.param([], (False, False), id="no step"),
        pytest.param([0.1], (False, False), id="one"),
        pytest.param([0.1, 0.19], (False, False), id="less than twice"),
        pytest.param([0.1, 0.2], (True, True), id="twice"),
        pytest.param([0.2, 0.1], (True, False), id="a decay"),
        pytest.param([0.0, 1e-9], (True, True), id="from zero"),
        pytest.param([0.0, 0.0], (False, False), id="zero"),
        pytest.param([None, None], (False, False), id="no rate is known"),
        pytest.param([0.1, None, 0.1], (False, False), id="unknown is not zero"),
        pytest.param([0.1, None, 0.3, None], (True, True), id="a rise between unknown rates"),
        pytest.param([0.1, 0.3, 0.12], (True, False), id="raised and taken back"),
        pytest.param([0.1, 0.3] + [0.3] * (APART_STEPS - 1), (False, False), id="long ago"),
        pytest.param([0.1, 0.3] + [0.3] * (APART_STEPS - 2), (True, True), id="just within reach"),
    ],
)
def test_the_rate_of_the_first_group_is_compared(learning_rates, expected):
    assert rates(*learning_rates) == expected
