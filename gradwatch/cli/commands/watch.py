"""`gradwatch watch`, and the messages that it sends from outside the training."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Sequence
from pathlib import Path

from gradwatch.analysis.history import newest
from gradwatch.analysis.run import Run
from gradwatch.analysis.summary import RunSummary
from gradwatch.analysis.summary.verdict import ENDINGS
from gradwatch.cli.output import console
from gradwatch.cli.printing import print_lines
from gradwatch.errors import EmptyRun, RunNotFound
from gradwatch.record import StepRecord
from gradwatch.sinks.notify import Notifications, check_link
from gradwatch.sinks.tracker import RunFacts
from gradwatch.text import run_state
from gradwatch.views.console.watch import follow


class Alerts:
    """Messages about one run after another, from the summaries that `see` gets.

    A fault that was there at the first look is not told: whoever starts to watch sees it.

    Args:
        addresses: of apprise.
        stalled_after: seconds without a step that count as standing still; 0 turns that off.
        link: stands at the end of each message.
    """

    def __init__(self, addresses: Sequence[str], stalled_after: float, link: str | None = None) -> None:
        self._addresses, self._stalled_after, self._link = addresses, stalled_after, link
        self._notifications = self._fresh()  # raises now if an address makes no sense
        self._run: str | None = None
        self._known: set[tuple[object, ...]] = set()
        self._step: int | None = None
        self._was_running = False

    def see(self, summary: RunSummary) -> None:
        """Send what is new since the last summary."""
        if summary.run != self._run:
            self._begin(summary)
        for event in summary.events:
            if (*event.key, event.severity) not in self._known:
                self._known.add((*event.key, event.severity))
                self._notifications.tell(event)
        if summary.last_step != self._step:
            self._step = summary.last_step
            self._notifications.show(StepRecord(step=summary.last_step, optimizer=summary.optimizer))
        if summary.running:
            self._notifications.rest()
        elif self._was_running:
            ending = next((finding for finding in summary.findings if finding.code in ENDINGS), None)
            if ending is not None:
                self._notifications.lost(ending.code, ending.what)
        self._was_running = summary.running

    def _begin(self, summary: RunSummary) -> None:
        self._notifications = self._fresh()
        self._notifications.open(RunFacts(path=Path(summary.run)))
        self._run, self._step = summary.run, None
        self._known = {(*event.key, event.severity) for event in summary.events}
        self._was_running = summary.running

    def _fresh(self) -> Notifications:
        return Notifications(self._addresses, link=self._link, stalled_after=self._stalled_after)


def watch(
    path: Path | None,
    every: float,
    notify: Sequence[str] = (),
    stalled_after: float = 600.0,
    notify_link: str | None = None,
) -> None:
    """Draw the report of a run again and again.

    Raises:
        BadArgument: an address of ``notify`` makes no sense, or ``notify_link`` is no URL.
        UnsupportedVersion: apprise is not installed.
    """
    check_link(notify_link)
    if not notify:
        follow(path, console(), every)
        return
    alerts = Alerts(notify, stalled_after, notify_link)
    if not console().is_terminal:
        _wait_for_the_end(path, every, alerts)
        return
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # a slow server must not hold up the drawing
        follow(path, console(), every, lambda summary: pool.submit(alerts.see, summary))


def _wait_for_the_end(path: Path | None, every: float, alerts: Alerts) -> None:
    """Follow a run without drawing it, until its training ends; a run that is not there yet is waited for."""
    while True:
        try:
            run = newest() if path is None else path
            summary = Run(run).summary()
        except (RunNotFound, EmptyRun):
            time.sleep(every)
            continue
        alerts.see(summary)
        if not summary.running:
            print_lines(f"{run}: {run_state(summary.ended, running=False)}, {summary.verdict}")
            return
        time.sleep(every)
