"""`gradwatch events`."""

from __future__ import annotations

from pathlib import Path

from gradwatch.cli.arguments import check_kinds
from gradwatch.cli.output import open_run, print_json, print_view, screen
from gradwatch.errors import BadArgument
from gradwatch.record import SEVERITIES, Event
from gradwatch.views import json as json_view
from gradwatch.views.console.events import event_list


def events(path: Path | None, json: bool, kinds: list[str], severity: str) -> None:
    """Print the events of the kinds wanted (all if none is given) and of at least a severity."""
    check_kinds(kinds)
    if severity not in SEVERITIES:
        raise BadArgument(f"--severity is {severity!r}; expected one of {', '.join(SEVERITIES)}.")
    run = open_run(path)
    found = [event for event in run.events() if _is_wanted(event, kinds, severity)]
    if json:
        print_json(json_view.events(found))
    else:
        print_view(event_list(found, screen(), len(run.optimizers) > 1, run.resume_points()))


def _is_wanted(event: Event, kinds: list[str], severity: str) -> bool:
    names: tuple[str, ...] = SEVERITIES
    return names.index(event.severity) >= names.index(severity) and (not kinds or event.kind in kinds)
