"""Notifications: one for each fault, within a limit, and one if the training stalls."""

from __future__ import annotations

import logging
import re
import shlex
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from gradwatch.errors import BadArgument, UnsupportedVersion
from gradwatch.record import Event, StepRecord
from gradwatch.sinks.series import title
from gradwatch.sinks.tracker import Closing, RunFacts

logger = logging.getLogger("gradwatch")

STALLED_AFTER = 600.0  # seconds without a step
STALLED_STEPS = 20.0  # and as many times the usual time between two steps
_URL = re.compile(r"https?://[^\s/]\S*")  # a chat or a mail makes a link of it
MOST_MESSAGES, WITHIN = 5, 3600.0  # most messages within this many seconds; the next one says how many were left out


class Notifications:
    """Sends a message for each kind of fault, once for each optimizer and again only when it becomes critical.

    Args:
        addresses: URLs of apprise, for example ``slack://...``, ``mailto://...`` or ``json://host``. They may hold
            passwords and never stand in a message, the log or the store.
        link: the URL where to look; stands at the end of each message.
        stalled_after: seconds without a step that count as standing still; 0 turns that off.
        clock: for tests.

    Raises:
        BadArgument: apprise does not know an address, or the link is no URL.
        UnsupportedVersion: apprise is not installed.
    """

    label = "notifications"
    wants_layers = False

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        link: str | None = None,
        stalled_after: float = STALLED_AFTER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = _service(addresses)
        check_link(link)
        self._link = link
        self._stalled_after = stalled_after
        self._clock = clock
        self._run = self._path = ""
        self._told: dict[tuple[str, str], str] = {}  # the severity, by kind and optimizer
        self._sent: deque[float] = deque()  # when
        self._left_out = 0
        self._last: tuple[float, int] | None = None  # when the last record came, and its step
        self._pace = 0.0  # seconds between two steps, smoothed
        self._is_stalled = self._has_failed = False

    def open(self, facts: RunFacts) -> None:
        """Keep the name of the run, and its path for the command to look at it."""
        self._run, self._path = facts.name, str(facts.path)

    def show(self, record: StepRecord) -> None:
        """Note that the training goes on; say so if it stood still."""
        now = self._clock()
        if self._last is not None:
            self._pace = 0.9 * self._pace + 0.1 * (now - self._last[0])
        self._last = (now, record.step)
        if self._is_stalled:
            self._is_stalled = False
            self._send("goes on", f"The training made step {record.step}.", "info")

    def tell(self, event: Event) -> None:
        """Send a message if this fault is new, or has become critical."""
        key = (event.kind, event.optimizer)
        if event.severity == "info" or self._told.get(key) in (event.severity, "critical"):
            return
        self._told[key] = event.severity
        if not self._take_turn():
            return
        more = f"\n{self._left_out} messages before this one were left out." if self._left_out else ""
        self._left_out = 0
        self._send(title(event), f"{event.message}{more}", event.severity)

    def rest(self) -> None:
        """Look whether the training stands still."""
        if self._last is None or self._is_stalled or not self._stalled_after:
            return
        silent = self._clock() - self._last[0]
        if silent > max(self._stalled_after, STALLED_STEPS * self._pace):
            self._is_stalled = True
            self._send("stands still", f"No step for {silent:.0f} s, the last was step {self._last[1]}.", "warning")

    def lost(self, what: str, text: str) -> None:
        """Say that the training ended as it should not have: only another process can tell."""
        self._send(what, text, "critical")

    def close(self, closing: Closing) -> None:
        """Say so if the training was killed, which only a recorder's process lives to tell; other ends are no fault."""
        if closing.get("ended") == "killed":
            last = "" if self._last is None else f" The last recorded step is {self._last[1]}."
            self.lost("killed", f"The training is gone without a word, for example by a kill or a crash.{last}")

    def _take_turn(self) -> bool:
        """Count a message; return whether it may be sent, or too many were sent lately."""
        now = self._clock()
        while self._sent and now - self._sent[0] > WITHIN:
            self._sent.popleft()
        if len(self._sent) >= MOST_MESSAGES:
            self._left_out += 1
            return False
        self._sent.append(now)
        return True

    def _send(self, what: str, text: str, severity: str) -> None:
        lines = [text, f"Next: gradwatch report {shlex.quote(self._path)}", *([self._link] if self._link else [])]
        kind = {"critical": "failure", "warning": "warning"}.get(severity, "info")
        taken = self._service.notify(title=f"{self._run}: {what}", body="\n".join(lines), notify_type=kind)
        if not taken and not self._has_failed:
            self._has_failed = True
            logger.warning("not every address accepted a message about %r (not-notified)", self._run)


def check_link(link: str | None) -> None:
    """Check the link that messages end in.

    Raises:
        BadArgument: it is no URL. It is not repeated: the user may have confused it with an address and its password.
    """
    if link is not None and not _URL.fullmatch(link):
        raise BadArgument("the link for notify is no URL; expected for example https://example.org/board.")


def _service(addresses: Sequence[str]) -> Any:
    """Apprise with these addresses.

    Raises:
        BadArgument: apprise does not know one of them. The message gives its position: it may hold a password.
        UnsupportedVersion: apprise is not installed.
    """
    try:
        import apprise
    except ImportError as error:
        raise UnsupportedVersion("apprise is not installed: `pip install gradwatch[notify]`.") from error
    # Its own log repeats addresses.
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    service = apprise.Apprise()
    for number, address in enumerate(addresses, 1):
        if not service.add(address):
            raise BadArgument(
                f"address {number} of notify is none that apprise knows; expected for example slack://..., mailto://..."
                " or json://host."
            )
    return service
