"""The series that trackers get have one name, and an event is sent once."""

import dataclasses

import pytest

from gradwatch.record import Event
from gradwatch.sinks.series import WindowTracker, known, title
from gradwatch.sinks.tracker import RunFacts
from gradwatch.sinks.windows import point_of
from gradwatch.testing import stream


def test_an_event_is_sent_once_and_an_information_never():
    sent = []

    class Sends(WindowTracker):
        def send(self, point):
            sent.append(point.last.step)

        def alert(self, event):
            sent.append(event.kind)

    tracker = Sends()
    tracker.open(RunFacts(path=None))
    spike = Event(step=3, kind="spike", severity="warning", message="")
    for event in (spike, dataclasses.replace(spike, until=5), Event(step=4, kind="dead", severity="info", message="")):
        tracker.tell(event)
    for record in stream([1.0, 2.0], max_norm=1.0):
        tracker.show(record)
    tracker.close({})
    assert sent == ["spike", 0, 1]


def test_windows_that_are_not_full_are_sent_before_the_end():
    sent = []

    class Sends(WindowTracker):
        def send(self, point):
            sent.append(point.last.step)

        def finish(self, closing):
            sent.append(closing["verdict"])

    tracker = Sends()
    tracker.open(RunFacts(path=None))
    for record in stream([1.0] * 250):
        tracker.show(record)
    before = len(sent)
    tracker.close({"verdict": "healthy"})
    assert sent[before:] == [249, "healthy"] or sent[before:] == ["healthy"]
    assert sent[-2:] == [249, "healthy"]


@pytest.mark.parametrize(("several", "prefix"), [(False, "gradwatch"), (True, "gradwatch/0")])
def test_names_have_the_optimizer_if_there_are_several(several, prefix):
    tracker = WindowTracker()
    tracker.open(RunFacts(path=None, several=several))
    point = point_of(list(stream([1.0])))
    assert tracker.names(point) == {f"{prefix}/{name}": value for name, value in point.values.items()}


def test_an_event_of_a_run_has_no_parameter_in_its_title():
    assert title(Event(step=0, kind="explosion", severity="critical", message="x")) == "explosion at step 0"


def test_what_is_not_known_is_left_out_and_zero_is_not():
    closing = {"verdict": "healthy", "fault": None, "steps": 0, "share_clipped": 0.0}
    assert known(closing) == {"gradwatch/verdict": "healthy", "gradwatch/steps": 0, "gradwatch/share_clipped": 0.0}
    assert known({}) == {}


def test_a_tracker_without_a_way_to_send_says_so():
    tracker = WindowTracker()
    tracker.open(RunFacts(path=None))
    with pytest.raises(NotImplementedError):
        tracker.show(next(iter(stream([1.0]))))
