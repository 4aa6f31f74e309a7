"""Events reach the callback in order, and one that ends the training stops there."""

from collections import deque

import pytest

from gradwatch.record import Event
from gradwatch.recording.delivery import EventDelivery


def event(step, kind="spike", severity="warning"):
    return Event(step=step, kind=kind, severity=severity, message="m")


def test_where_nobody_listens_events_are_left():
    events = deque([event(1)])
    assert EventDelivery(None, ()).deliver(events) is None
    assert len(events) == 1


def test_the_callback_hears_all_in_order():
    heard = []
    events = deque(map(event, range(5)))
    assert EventDelivery(heard.append, ()).deliver(events) is None
    assert heard == list(map(event, range(5)))
    assert not events


@pytest.mark.parametrize(("severity", "stops"), [("info", False), ("warning", True), ("critical", True)])
def test_an_event_of_the_kind_ends_the_training_unless_it_is_information(severity, stops):
    heard = []
    events = deque([event(1), event(2, "explosion", severity), event(3)])
    found = EventDelivery(heard.append, ("explosion", "dead")).deliver(events)
    assert found == (event(2, "explosion", severity) if stops else None)
    assert [one.step for one in heard] == ([1, 2] if stops else [1, 2, 3]), "it is told before it stops"
    assert [one.step for one in events] == ([3] if stops else []), "those after it are left"


def test_it_stops_without_a_callback_too():
    assert EventDelivery(None, ("spike",)).deliver(deque([event(4)])) == event(4)


def test_after_the_training_nothing_ends_it():
    delivery = EventDelivery(None, ("spike",))
    delivery.stop_no_more()
    assert delivery.deliver(deque([event(4)])) is None


def test_a_callback_that_raises_is_said_once_and_not_called_again(caplog):
    called = []

    def broken(one):
        called.append(one.step)
        raise ValueError("mine")

    delivery = EventDelivery(broken, ("explosion",))
    assert delivery.deliver(deque([event(1), event(2)])) is None
    assert delivery.deliver(deque([event(3, "explosion")])) == event(3, "explosion")
    assert called == [1]
    (said,) = caplog.records
    assert said.getMessage() == "on_event raised ValueError: mine; it is not called again (on-event)"
