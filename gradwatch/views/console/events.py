"""`gradwatch events`, and the events of a report."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from gradwatch.record import SEVERITIES, Event
from gradwatch.text import count, step_range
from gradwatch.views.console.screen import SEVERITY_STYLES, Screen


def event_list(events: Sequence[Event], screen: Screen) -> Group:
    """Every event, in order."""
    if not events:
        return Group(Text("No events.", "green"))
    lines = []
    for event in events:
        lead = f"step {event.step:<8}{event.severity:<9}{event.kind:<12} "
        lasted = "" if event.until in (None, event.step) else f" (until step {event.until})"
        lines += screen.wrap(lead, event.message + lasted, SEVERITY_STYLES[event.severity])
    return Group(*lines)


def event_groups(events: Sequence[Event], screen: Screen, most: int = 8) -> list[Text]:
    """The first event of each kind and severity, the most severe first, with how often it occurred."""
    groups = grouped(events)
    if not groups:
        return [Text.assemble(("events", "bold"), ("  none", "dim"))]
    lines = [Text("events", "bold")]
    for group in groups[:most]:
        first, steps = group[0], step_range(group[0].step, group[0].until)
        if len(group) > 1:
            steps = f"{len(group)} times, {step_range(first.step, group[-1].step)}"
        lead = f"  {first.severity:<9}{first.kind:<12} "
        lines += screen.wrap(lead, f"{steps}: {first.message}", SEVERITY_STYLES[first.severity])
    hidden = len(groups) - most
    if hidden > 0:
        lines.append(Text(f"  {count(hidden, 'more kind')}; `gradwatch events` lists every event", "dim"))
    return lines


def newest_event(events: Sequence[Event], screen: Screen, most: int = 2) -> list[Text]:
    """The newest event in at most two lines; nothing if there is none."""
    if not events:
        return []
    newest = events[-1]
    lead = f"newest event  {newest.severity} {newest.kind} at step {newest.step}: "
    return screen.wrap(lead, newest.message, SEVERITY_STYLES[newest.severity])[:most]


def grouped(events: Sequence[Event]) -> list[list[Event]]:
    """Events of one kind and severity together: the most severe first, then by step.

    >>> spike = Event(step=3, kind="spike", severity="warning", message="")
    >>> nan = Event(step=5, kind="nonfinite", severity="critical", message="")
    >>> [[event.step for event in group] for group in grouped([spike, nan, spike])]
    [[5], [3, 3]]
    """
    groups: dict[tuple[int, str], list[Event]] = {}
    for event in events:
        groups.setdefault((-SEVERITIES.index(event.severity), event.kind), []).append(event)
    return [group for _, group in sorted(groups.items(), key=lambda item: (item[0][0], item[1][0].step))]
