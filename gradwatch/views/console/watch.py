"""`gradwatch watch`: the report of a run, drawn again while the run is written."""

from __future__ import annotations

import contextlib
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from gradwatch.analysis.history import newest
from gradwatch.analysis.run import Run
from gradwatch.analysis.summary import RunSummary
from gradwatch.errors import EmptyRun, GradwatchError, RunNotFound
from gradwatch.text import duration, run_state
from gradwatch.views.console.events import newest_event
from gradwatch.views.console.report import EVENT_GROUPS, STRIP_ROWS, brief_sections, parted, report, report_lines
from gradwatch.views.console.screen import USUAL, Screen

_LEAST_STRIP = 4  # lines: a title, two rows and a legend
_LEAST_TABLE = 3  # lines: a title, one layer, and how many are not shown
_CURVES = (4, 3, 2)  # lines of the curve of the norm in the brief report
_LEAST_LAYERS = 2


def follow(
    path: Path | None, console: Console, every: float = 1.0, seen: Callable[[RunSummary], object] | None = None
) -> None:
    """Draw the report again and again until q is pressed; draw it once if the output is no terminal.

    A run that does not exist yet is waited for. Without a path, the run is the newest under ``runs/``,
    looked up each time. Drawing takes at most a third of a processor: a long run is read less often.

    Args:
        path: folder of the run.
        console: to draw on.
        every: seconds between two looks.
        seen: called with each summary.
    """
    if not console.is_terminal:
        summary = Run(newest() if path is None else path).summary()
        if seen is not None:
            seen(summary)
        console.print(report(summary, Screen.of(console)))
        return
    with (
        _key_presses() as pressed,
        Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        while True:
            began = time.monotonic()
            live.update(view(path, console, seen), refresh=True)
            if pressed(max(every, 2 * (time.monotonic() - began))) in ("q", "Q"):
                return


def view(path: Path | None, console: Console, seen: Callable[[RunSummary], object] | None = None) -> Group:
    """The run as it is now: its progress, its newest event and as much of its report as fits."""
    quits = Text("q quits", "dim")
    screen = Screen.of(console)
    try:
        summary = Run(newest() if path is None else path).summary()
    except (RunNotFound, EmptyRun):
        waiting = f"waiting for the first step of {'a run under runs/' if path is None else path}"
        return Group(Text(screen.ink.safe(waiting), "bold"), quits)
    except GradwatchError as error:  # the run was deleted or replaced at this very moment
        return Group(Text(screen.ink.safe(str(error)), "bold red"), quits)
    if seen is not None:
        seen(summary)
    head = [
        _status(summary),
        *_bar(summary, screen),
        *(
            []
            if _tells_the_newest_event(summary)
            else newest_event(summary.events, screen, len(summary.optimizers) > 1)
        ),
    ]
    return Group(*head, *fitted(summary, screen, console.height - len(head)))


def _tells_the_newest_event(summary: RunSummary) -> bool:
    """Whether the verdict is about the newest event, which then needs no lines of its own."""
    worst = next((finding for finding in summary.findings if finding.severity == summary.verdict), None)
    newest = summary.events[-1] if summary.events else None
    return bool(
        worst and newest and worst.steps and worst.steps[0] == newest.step and newest.severity == worst.severity
    )


def fitted(summary: RunSummary, screen: Screen, height: int) -> list[Text]:
    """A report in at most ``height`` lines.

    Layers and the heat map share the lines that the rest leaves. If nothing is left, fewer groups of
    events are shown, then the brief report, and at last whole sections are left out, but never the next step.
    """
    for groups in (EVENT_GROUPS, 3, 1):
        free = height - len(report_lines(summary, screen, layers=0, strip_rows=0, groups=groups))
        if free >= 0:
            break
    else:
        return _brief(summary, screen, height)
    # The strip adds an empty line, a title and a legend; the table's title replaces its placeholder.
    rows = min(STRIP_ROWS, len(summary.layers), (free - 3) // 2)
    strip = rows + 3 if rows > 0 and free >= _LEAST_STRIP + 1 + _LEAST_TABLE else 0
    layers = free - strip - 1
    return report_lines(summary, screen, max(0, layers), rows if strip else 0, groups)


def _brief(summary: RunSummary, screen: Screen, height: int) -> list[Text]:
    """The brief report, with as many layers as fit; its curves are lower where that gives room to some."""
    for curve in _CURVES:
        least = brief_sections(summary, screen, layers=0, height=curve)
        free = height - len(parted(least))
        if free > min(_LEAST_LAYERS, len(summary.layers)):
            break
    if free < 0:
        return _least(least, height)
    layers = max(0, free - 1)  # a title replaces the placeholder
    return parted(brief_sections(summary, screen, layers=layers, height=curve))


def _least(sections: Sequence[Sequence[Text]], height: int) -> list[Text]:
    """The first sections that fit and the last; of the very first the lines that fit."""
    first, *others, last = sections
    kept = [first[: max(1, height - len(last) - 1)]]
    for section in others:
        if len(parted([*kept, section, last])) > height:
            break
        kept.append(section)
    return parted([*kept, last])[:height] if height > len(last) + 1 else list(last[:height])


def _status(summary: RunSummary) -> Text:
    state = "recording" if summary.running else run_state(summary.ended, running=False)
    return Text(f"{state}, step {summary.last_step}{_progress(summary)}; q quits", "dim")


def _progress(summary: RunSummary) -> str:
    """How far the training is, if its number of steps is known."""
    if summary.total_steps is None:
        return ""
    left = ""
    if summary.running and summary.seconds_left is not None:
        left = f", about {duration(summary.seconds_left)} left"
    return f" of {summary.total_steps}{left}"


def _bar(summary: RunSummary, screen: Screen) -> list[Text]:
    if not summary.total_steps:
        return []
    width = min(USUAL, screen.width)
    done = min(width, width * (summary.last_step + 1) // summary.total_steps)
    full, rest = screen.ink.pick("━", "="), screen.ink.pick("─", "-")
    return [Text.assemble((full * done, "green"), (rest * (width - done), "dim"))]


@contextlib.contextmanager
def _key_presses() -> Iterator[Callable[[float], str]]:
    """Give a function that waits for a key for some seconds; restore the terminal at the end."""
    try:
        import termios
        import tty

        before = termios.tcgetattr(sys.stdin)
    except (ImportError, OSError, ValueError):
        yield _sleep
        return
    try:
        tty.setcbreak(sys.stdin)
        yield _wait_for_key
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _sleep(seconds: float) -> str:
    """Wait without a POSIX terminal to read keys from; Ctrl-C ends it."""
    time.sleep(seconds)
    return ""


def _wait_for_key(seconds: float) -> str:
    """The key; q if the terminal is gone, which reads as an end of file for ever."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return (sys.stdin.read(1) or "q") if ready else ""
