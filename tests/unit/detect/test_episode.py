"""One fault is one event: opened, made graver, ended, lowered."""

import pytest

from gradwatch.detect.episode import QUIET_STEPS, Episode
from gradwatch.record import SEVERITIES, Event


def alarm(step, severity="warning", parameter="a"):
    return Event(step=step, kind="spike", severity=severity, message="m", parameter=parameter)


def test_without_an_alarm_there_is_no_event():
    episode = Episode(quiet_steps=1)
    assert episode.event is None
    assert episode.calm() == []
    assert episode.calm("the norms came back") == []


def test_the_first_alarm_opens_an_event_and_the_same_again_is_silent():
    episode = Episode()
    assert episode.alarm(alarm(3)) == [alarm(3)]
    assert episode.alarm(alarm(4)) == []
    assert episode.event == alarm(3)


@pytest.mark.parametrize("before", SEVERITIES)
@pytest.mark.parametrize("after", SEVERITIES)
def test_only_a_graver_alarm_gives_the_event_again(before, after):
    """It keeps the step and the parameter at which it began."""
    episode = Episode()
    episode.alarm(alarm(3, before))
    found = episode.alarm(alarm(9, after, parameter="b"))
    if SEVERITIES.index(after) > SEVERITIES.index(before):
        ((event),) = found
        assert (event.step, event.parameter, event.severity) == (3, "a", after)
        assert event.message == "by step 9 m"
    else:
        assert found == []
        assert episode.event.severity == before


def test_a_fault_ends_with_the_last_alarm_after_enough_quiet_steps():
    episode = Episode()
    episode.alarm(alarm(10))
    episode.alarm(alarm(12))
    ended = [episode.calm() for _ in range(QUIET_STEPS + 1)]
    assert [bool(found) for found in ended] == [False] * (QUIET_STEPS - 1) + [True, False]
    assert ended[QUIET_STEPS - 1] == [
        Event(step=10, kind="spike", severity="warning", message="m", parameter="a", until=12)
    ]
    assert episode.event is None


def test_every_alarm_starts_the_quiet_steps_again():
    episode = Episode(quiet_steps=3)
    episode.alarm(alarm(0))
    for step in range(1, 30, 3):
        assert episode.calm() == episode.calm() == []
        assert (episode.alarm(alarm(step)) if step % 2 else episode.again(step)) == []
    assert episode.calm() == episode.calm() == []
    assert [event.until for event in episode.calm()] == [28]


def test_after_the_end_the_next_alarm_is_another_event():
    episode = Episode(quiet_steps=1)
    episode.alarm(alarm(1, "critical"))
    episode.calm()
    assert episode.alarm(alarm(5, "info")) == [alarm(5, "info")]


@pytest.mark.parametrize(
    ("severity", "came_back", "expected", "message"),
    [
        ("critical", "the norms came back", "warning", "m; the norms came back"),
        ("critical", None, "critical", "m"),
        ("warning", "the norms came back", "warning", "m"),
        ("info", "the norms came back", "info", "m"),
    ],
)
def test_a_critical_fault_without_a_consequence_is_lowered(severity, came_back, expected, message):
    episode = Episode(quiet_steps=1)
    episode.alarm(alarm(1, severity))
    (event,) = episode.calm(came_back)
    assert (event.severity, event.message, event.until) == (expected, message, 1)
