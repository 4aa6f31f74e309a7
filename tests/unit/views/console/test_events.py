"""Events in a terminal: all of them, in groups, and the newest."""

import pytest
from rich.console import Group

from gradwatch.analysis.history import ResumePoint
from gradwatch.record import Event
from gradwatch.views.console.events import event_groups, event_list, grouped, newest_event
from gradwatch.views.console.screen import Screen


def event(step, kind="spike", severity="warning", **more):
    return Event(step=step, kind=kind, severity=severity, message=f"message {step}", **more)


def plain(lines):
    return [line.plain for line in lines]


def test_every_event_has_its_line(drawn):
    lines = drawn(event_list([event(3), event(5, "nonfinite", "critical", until=9), event(7, until=7)], Screen()))
    assert lines == [
        "step 3       warning  spike        message 3",
        "step 5       critical nonfinite    message 5 (until step 9)",
        "step 7       warning  spike        message 7",
    ]


def test_kinds_of_any_length_keep_the_messages_below_one_another():
    lines = plain(event_groups([event(3), event(5, "stale-second-moment")], Screen()))[1:]
    assert len({line.index("step ") for line in lines}) == 1


def test_no_events_are_said(drawn):
    assert drawn(event_list([], Screen())) == ["No events."]
    assert plain(event_groups([], Screen())) == ["events  none"]
    assert newest_event([], Screen()) == []


def test_a_group_tells_how_often_and_from_when_to_when():
    lines = plain(event_groups([event(3), event(9), event(5, "dead", "info", until=8)], Screen()))
    assert lines == [
        "events",
        "  warning  spike        2 times, steps 3 to 9: message 3",
        "  info     dead         steps 5 to 8: message 5",
    ]


def test_the_most_severe_group_comes_first_then_the_earliest():
    groups = grouped(
        [event(1, "a", "info"), event(9, "b", "critical"), event(4, "c", "critical"), event(2, "a", "info")]
    )
    assert [[one.step for one in group] for group in groups] == [[4], [9], [1, 2]]


def test_groups_that_are_not_shown_are_counted():
    found = [event(i, f"kind{i}") for i in range(5)]
    assert plain(event_groups(found, Screen(), most=4))[-1] == "  1 more kind; `gradwatch events` lists every event"
    assert plain(event_groups(found, Screen(), most=2))[-1].startswith("  3 more kinds;")


def test_of_several_optimizers_each_event_names_its_own(drawn):
    found = [event(3, optimizer="critic"), event(4, optimizer="generator")]
    assert drawn(event_list(found, Screen(), name_optimizers=True)) == [
        "step 3       warning  spike        optimizer critic: message 3",
        "step 4       warning  spike        optimizer generator: message 4",
    ]
    assert plain(event_groups(found, Screen(), name_optimizers=True))[1:] == [
        "  warning  spike        optimizer critic, step 3: message 3",
        "  warning  spike        optimizer generator, step 4: message 4",
    ], "steps of different optimizers are not merged"
    (line,) = plain(newest_event(found, Screen(), name_optimizers=True))
    assert line == "newest event  warning spike at step 4 of optimizer generator: message 4"


def test_the_newest_event_takes_at_most_two_lines():
    long = Event(step=1, kind="spike", severity="info", message="word " * 200)
    assert len(newest_event([event(0), long], Screen())) == 2


@pytest.mark.parametrize("width", [40, 60, 79, 80])
@pytest.mark.parametrize("length", [1, 2, 5, 11, 30])
def test_a_newest_event_that_is_cut_keeps_what_there_is_room_for(drawn, width, length):
    """Also where its last line ends just before the edge, so that nothing has to go for the mark."""
    whole = "newest event  info spike at step 1: " + " ".join(["x" * length] * 100)
    long = Event(step=1, kind="spike", severity="info", message=whole.split(": ", 1)[1])
    lines = drawn(Group(*newest_event([long], Screen(width=width))))
    assert len(lines) == 2
    assert all(len(line) <= width for line in lines)
    assert len(lines[1]) > width - length - 3
    assert "".join(whole.split()).startswith("".join("".join(lines).removesuffix("…").split()))


@pytest.mark.parametrize("message", ["\x1b[31mred", "a\nb"])
def test_a_message_can_not_drive_the_terminal(message):
    found = [Event(step=1, kind="spike", severity="info", message=message)]
    assert all("\x1b" not in line and "\n" not in line for line in plain(event_groups(found, Screen())))


def test_events_of_steps_that_were_made_again_are_told_apart(drawn):
    found = [event(130), event(220, attempt=1), event(90)]
    resumed = [ResumePoint(attempt=1, step=100, last=149)]
    again = "of attempt 0, made again by attempt 1"
    assert drawn(event_list(found, Screen(width=100), resumed=resumed), 100) == [
        f"step 130     warning  spike        ({again}) message 130",
        "step 220     warning  spike        message 220",
        "step 90      warning  spike        message 90",
    ]
    assert plain(event_groups(found, Screen(width=100), resumed=resumed))[1:] == [
        f"  warning  spike        step 130 {again}: message 130",
        "  warning  spike        2 times, steps 220 to 90: message 220",
    ]
