"""A run as it is written, in the terminal."""

from __future__ import annotations

import contextlib
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from gradwatch.analysis.history import newest
from gradwatch.analysis.run import Run
from gradwatch.analysis.summary import RunSummary
from gradwatch.errors import EmptyRun, GradwatchError, RunNotFound
from gradwatch.views.console import NARROWEST, ConsoleReport
from gradwatch.views.draw import Ink, printable, seconds

_FIXED_LINES = 24  # of a report without its layers


def follow(path: Path | None, console: Console, every: float = 1.0) -> None:
    """Show the report again and again until q is pressed; once, where the output is no terminal.

    A run that is not there yet is waited for. Left out, the run is the newest under ``runs/``, chosen anew
    each time. It never takes more than a third of a processor: a long run is read less often.
    """
    if not console.is_terminal:
        console.print(ConsoleReport.on(console).report(Run(newest() if path is None else path).summary()))
        return
    with (
        _key_presses() as pressed,
        Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        while True:
            began = time.monotonic()
            live.update(view(path, console), refresh=True)
            if pressed(max(every, 2 * (time.monotonic() - began))) in ("q", "Q"):
                return


def view(path: Path | None, console: Console) -> Group:
    """What there is of the run now, the newest event first."""
    try:
        summary = Run(newest() if path is None else path).summary()
    except (RunNotFound, EmptyRun):
        waiting = f"waiting for the first step of {'a run under runs/' if path is None else path}"
        return Group(Text(waiting, "bold"), Text("q ends this", "dim"))
    except GradwatchError as error:  # deleted or replaced at this very moment, say
        return Group(Text(printable(str(error)), "bold red"), Text("q ends this", "dim"))
    report = ConsoleReport.on(console, layers=max(0, console.height - _FIXED_LINES) // 2)
    ended = "recording" if summary.running else f"ended: {summary.ended}"
    return Group(
        Text(f"{ended}, step {summary.last_step}{_progress(summary)}; q ends this", "dim"),
        *_bar(summary, console),
        *report.newest(summary),
        report.report(summary),
    )


def _progress(summary: RunSummary) -> str:
    """How far it is, where the number of steps is known."""
    if summary.total_steps is None:
        return ""
    left = ""
    if summary.running and summary.seconds_left is not None:
        left = f", about {seconds(summary.seconds_left)} left"
    return f" of {summary.total_steps}{left}"


def _bar(summary: RunSummary, console: Console) -> list[Text]:
    if summary.total_steps is None:
        return []
    width = min(console.width, NARROWEST)
    done = min(width, width * (summary.last_step + 1) // summary.total_steps)
    full, rest = Ink.of(console).pick("━", "="), Ink.of(console).pick("─", "-")
    return [Text.assemble((full * done, "green"), (rest * (width - done), "dim"))]


@contextlib.contextmanager
def _key_presses() -> Iterator[Callable[[float], str]]:
    """Gives a function that waits for a key, at most so many seconds; the terminal is left as it was."""
    try:
        import termios
        import tty

        before = termios.tcgetattr(sys.stdin)
    except (ImportError, OSError, ValueError):
        yield _wait_alone
        return
    try:
        tty.setcbreak(sys.stdin)
        yield _wait_for_key
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _wait_alone(seconds: float) -> str:
    """Where there is no POSIX terminal to read from; Ctrl-C ends it."""
    time.sleep(seconds)
    return ""


def _wait_for_key(seconds: float) -> str:
    """The key; q where the terminal is gone, which reads as the end of a file for ever."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return (sys.stdin.read(1) or "q") if ready else ""
