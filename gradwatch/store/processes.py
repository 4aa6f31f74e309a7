"""Whether the process that wrote a run is still alive."""

from __future__ import annotations

import os
import time
from pathlib import Path


def process_start(pid: int) -> str | None:
    """When a process started, in the system's own units, so that a reused pid is not mistaken for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def started_at() -> float | None:
    """When this process started, in seconds since the epoch by the clock of this machine; None outside Linux."""
    ticks = process_start(os.getpid())
    if ticks is None:
        return None
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + int(ticks) / os.sysconf("SC_CLK_TCK")


def is_alive(pid: object, started: str | None) -> bool:
    """Whether the process of this number runs and is the one that started then; False on Windows."""
    if os.name == "nt":
        return False  # there os.kill(pid, 0) would end the process, and nothing else tells
    if not isinstance(pid, int) or not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return started is None or process_start(pid) in (started, None)
