"""Ends the recording before a script leaves by `os._exit` or another program takes its place (`os.exec*`).

Python then calls nothing that was to run at the end, so the steps that wait to be written would be lost, and a
training that came to its end would look killed.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any

from gradwatch.text import exit_reason

REPLACED = "the script let another program take its place (os.exec), which is not recorded"


def listen_to_leaving(leaves: Callable[[str, str | None], None]) -> Callable[[], None]:
    """Call ``leaves`` before the main thread leaves so, with the reason and what to tell the user; return what ends it.

    A forked child leaves by `os._exit` as a rule, and other threads do so if the main one hangs: both go untouched.
    """
    process = os.getpid()
    leave_at_once, execv, execve = os._exit, os.execv, os.execve

    def is_ours() -> bool:
        return os.getpid() == process and threading.current_thread() is threading.main_thread()

    @functools.wraps(os._exit)
    def leave(status: int) -> None:
        try:
            if is_ours():
                leaves(exit_reason(status), None)
        finally:
            leave_at_once(status)

    def replacing(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def replace(path: Any, *rest: Any) -> None:
            # `os.execvp` tries folder after folder, and a script may go on after a program that does not exist.
            if is_ours() and os.access(path, os.X_OK):
                leaves(exit_reason(0), REPLACED)
            original(path, *rest)

        return replace

    # The other functions of the family, such as `os.execlp`, call one of these two.
    os._exit, os.execv, os.execve = leave, replacing(execv), replacing(execve)  # type: ignore[assignment]

    def stop() -> None:
        os._exit, os.execv, os.execve = leave_at_once, execv, execve

    return stop
