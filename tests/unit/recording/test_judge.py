"""Detectors over the records of several optimizers, live and caught up with."""

import logging

import pytest

from gradwatch.record import Event
from gradwatch.recording.judge import Judge
from gradwatch.testing import stream


class Alarm:
    """Raises an event at some steps, and remembers what it saw."""

    def __init__(self, *steps, severity="warning"):
        self.steps, self.severity, self.seen = steps, severity, []

    def update(self, record):
        self.seen.append(record.step)
        if record.step not in self.steps:
            return []
        return [Event(step=record.step, kind="spike", severity=self.severity, message="m", attempt=record.attempt)]


class Broken:
    def update(self, record):
        raise RuntimeError("planted")


def records(*steps, attempt=0):
    return [record for step in steps for record in stream([1.0], first_step=step, attempt=attempt)]


def test_every_detector_of_the_optimizer_sees_the_record():
    first, second, other = Alarm(1), Alarm(1), Alarm(1)
    judge = Judge({"0": (first, second), "1": (other,)}, {})
    found = [judge.see(record) for record in records(0, 1)]
    assert list(map(len, found)) == [0, 2]
    assert first.seen == second.seen == [0, 1]
    assert other.seen == []


def test_an_optimizer_without_detectors_raises_nothing():
    assert Judge({}, {}).see(records(0)[0]) == []


def test_a_detector_that_fails_ends_the_judging_and_is_said_once(caplog):
    judge = Judge({"0": (Broken(),), "1": (Alarm(0),)}, {})
    with caplog.at_level(logging.ERROR, "gradwatch"):
        for _ in range(2):
            assert judge.see(records(0)[0]) == []
    assert judge.detectors == {}
    (said,) = caplog.records
    assert "RuntimeError: planted (detectors-stopped)" in said.getMessage()


def test_new_records_wait_while_earlier_ones_are_judged():
    alarm = Alarm(0, 2, 5)
    judge = Judge({"0": (alarm,)}, {"0": lambda: records(0, 1) + records(2, attempt=1)}, since=1, attempt=1)
    assert judge.is_behind
    assert judge.see(records(5, attempt=1)[0]) == []
    found = judge.catch_up(10.0, rest=0.0)
    assert [event.step for event in found] == [2], "the store has those of earlier attempts"
    assert judge.is_among_own
    assert not judge.is_behind
    assert alarm.seen == [0, 1, 2]
    assert [event.step for event in judge.see(records(5, attempt=1)[0])] == [5]


def test_no_time_is_no_catching_up():
    judge = Judge({"0": (Alarm(),)}, {"0": lambda: records(0)})
    assert judge.catch_up(0.0) == []
    assert judge.is_behind


def test_a_past_that_can_not_be_read_ends_the_judging(caplog):
    def broken():
        yield from records(0)
        raise OSError("gone")

    alarm = Alarm(0)
    judge = Judge({"0": (alarm,)}, {"0": broken})
    judge.catch_up(10.0, rest=0.0)
    assert (judge.is_behind, judge.detectors, alarm.seen) == (False, {}, [0])
    assert "OSError: gone (detectors-stopped)" in caplog.text


def test_the_past_is_opened_when_it_is_needed_and_closed_at_the_end():
    state = []

    def past():
        state.append("opened")
        try:
            yield from records(0, 1, 2)
        finally:
            state.append("closed")

    judge = Judge({"0": (Alarm(),)}, {"0": past})
    assert state == []
    judge.close()
    assert state == [], "nothing was read"
    judge.admit("1", (Alarm(),), past)
    next(judge._behind["1"])
    judge.close()
    assert state == ["opened", "closed"]
    assert not judge.is_behind


def test_an_optimizer_that_leaves_takes_its_detectors_unless_its_past_waits():
    judge = Judge({"0": (Alarm(),)}, {})
    judge.admit("1", (Alarm(),), lambda: records(0))
    judge.dismiss("0")
    judge.dismiss("1")
    judge.dismiss("2")
    assert list(judge.detectors) == ["1"]


@pytest.mark.parametrize(
    ("severities", "told"),
    [
        (["warning", "warning"], ["warning"]),
        (["info", "critical", "warning", "critical"], ["info", "critical"]),
        (["critical", "info"], ["critical"]),
    ],
)
def test_an_event_that_lasts_is_news_only_when_it_gets_graver(severities, told):
    judge = Judge({}, {})
    for severity in severities:
        judge.tell_news([Event(step=3, kind="dead", severity=severity, message="m")])
    assert [event.severity for event in judge.events] == told


def test_what_is_noted_is_no_news():
    judge = Judge({}, {})
    event = Event(step=3, kind="dead", severity="warning", message="m")
    judge.note([event])
    judge.tell_news([event])
    assert not judge.events
