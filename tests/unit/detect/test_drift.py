"""A level that moves slowly."""

import math
from dataclasses import replace

import pytest

from gradwatch.detect import Drift
from gradwatch.testing import steady, stream

from .streams import events_of, found, growing


def test_a_drift_is_information():
    events = events_of(Drift(), stream(steady(700) + growing(1.0, 1.01, 200)))
    assert {event.severity for event in events} == {"info"}
    assert 700 < events[0].step < 800
    assert "drifted up since step" in events[0].message
    assert found(Drift(), stream(steady(3000))) == []


@pytest.mark.parametrize(
    ("decay", "rates", "is_told"), [(5.0, (0.1, 0.01), True), (0.01, (0.1, 0.01), False), (5.0, (0.1, 0.1), False)]
)
def test_a_drift_says_what_weight_decay_explains_of_it(decay, rates, is_told):
    records = stream(steady(700) + growing(1.0, 1.005, 200))
    records = [replace(r, learning_rates=(rates[r.step >= 700],)) for r in records]
    plain, event = events_of(Drift(), records)[0], events_of(Drift(decay), records)[0]
    assert event.step == plain.step, "what is told stays the same"
    rise = min(math.exp(decay * 0.01 * (event.step - 699)), 10**0.25)
    assert event.message == plain.message + f"; weight decay lets them rise {rise:.2g}x as the rate falls" * is_told
