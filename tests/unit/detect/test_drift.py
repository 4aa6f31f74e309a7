"""A level that moves slowly."""

from gradwatch.detect import Drift
from gradwatch.testing import steady, stream

from .streams import events_of, found, growing


def test_a_drift_is_information():
    events = events_of(Drift(), stream(steady(700) + growing(1.0, 1.01, 200)))
    assert {event.severity for event in events} == {"info"}
    assert 700 < events[0].step < 800
    assert "drifted up since step" in events[0].message
    assert found(Drift(), stream(steady(3000))) == []
