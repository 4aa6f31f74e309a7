"""`gradwatch events`, and the events of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group
from rich.text import Text

from gradwatch.analysis.history import ResumePoint, made_again_by
from gradwatch.record import SEVERITIES, Event
from gradwatch.text import count, step_range
from gradwatch.views.console.screen import SEVERITY_STYLES, Screen

_USUAL_KIND = 12
"""The width that holds most kinds of events."""


def event_list(
    events: Sequence[Event], screen: Screen, name_optimizers: bool = False, resumed: Sequence[ResumePoint] = ()
) -> Group:
    """Every event, in order, with the name of its optimizer if there are several."""
    if not events:
        return Group(Text("No events.", "green"))
    lines = []
    widest = _widest_kind(events)
    for event in events:
        lead = f"step {event.step:<8}{event.severity:<9}{event.kind:<{widest}} "
        where = f"optimizer {event.optimizer}: " if name_optimizers else ""
        lasted = "" if event.until in (None, event.step) else f" (until step {event.until})"
        again = f"({again}) " if (again := made_again(event, resumed)) else ""
        lines += screen.wrap(lead, f"{where}{again}{event.message}{lasted}", SEVERITY_STYLES[event.severity])
    return Group(*lines)


def _widest_kind(events: Iterable[Event]) -> int:
    """The width of a column for the kinds of events."""
    return max([_USUAL_KIND, *(len(event.kind) for event in events)])


def made_again(event: Event, resumed: Sequence[ResumePoint]) -> str:
    """What to say of an event whose step a later attempt made again; empty of any other."""
    later = made_again_by(event, resumed)
    return "" if later is None else f"of attempt {event.attempt}, made again by attempt {later}"


def event_groups(
    events: Sequence[Event],
    screen: Screen,
    most: int = 8,
    name_optimizers: bool = False,
    resumed: Sequence[ResumePoint] = (),
) -> list[Text]:
    """The first event of each group (`grouped`), the most severe first, with how often it occurred."""
    groups = grouped(events, resumed)
    if not groups:
        return [Text.assemble(("events", "bold"), ("  none", "dim"))]
    lines = [Text("events", "bold")]
    widest = _widest_kind(group[0] for group in groups[:most])
    for group in groups[:most]:
        first = group[0]
        times = f"{len(group)} times, " if len(group) > 1 else ""
        where = f"optimizer {first.optimizer}, " if name_optimizers else ""
        steps = step_range(first.step, first.until if len(group) == 1 else group[-1].step)
        lead = f"  {first.severity:<9}{first.kind:<{widest}} "
        again = f" {again}" if (again := made_again(first, resumed)) else ""
        lines += screen.wrap(lead, f"{where}{times}{steps}{again}: {first.message}", SEVERITY_STYLES[first.severity])
    hidden = len(groups) - most
    if hidden > 0:
        lines.append(Text(f"  {count(hidden, 'more kind')}; `gradwatch events` lists every event", "dim"))
    return lines


def newest_event(events: Sequence[Event], screen: Screen, name_optimizers: bool = False, most: int = 2) -> list[Text]:
    """The newest event in at most ``most`` lines, the last of which shows that it was cut; nothing if there is none."""
    if not events:
        return []
    newest = events[-1]
    where = f" of optimizer {newest.optimizer}" if name_optimizers else ""
    lead = f"newest event  {newest.severity} {newest.kind} at step {newest.step}{where}: "
    lines = screen.wrap(lead, newest.message, SEVERITY_STYLES[newest.severity])
    if len(lines) > most:
        mark = screen.ink.ellipsis
        lines[most - 1].truncate(screen.width - len(mark), overflow="crop")
        lines[most - 1].append(mark, SEVERITY_STYLES[newest.severity])
    return lines[:most]


def grouped(events: Sequence[Event], resumed: Sequence[ResumePoint] = ()) -> list[list[Event]]:
    """Events of one kind, severity and optimizer together: the most severe first, then by step.

    Those whose steps a later attempt made again are groups of their own: what they tell is not in the charts.

    >>> spike = Event(step=3, kind="spike", severity="warning", message="")
    >>> nan = Event(step=5, kind="nonfinite", severity="critical", message="")
    >>> [[event.step for event in group] for group in grouped([spike, nan, spike])]
    [[5], [3, 3]]
    """
    groups: dict[tuple[int, str, str, str], list[Event]] = {}
    for event in events:
        key = (-SEVERITIES.index(event.severity), event.kind, event.optimizer, made_again(event, resumed))
        groups.setdefault(key, []).append(event)
    return [group for _, group in sorted(groups.items(), key=lambda item: (item[0][0], item[1][0].step))]
