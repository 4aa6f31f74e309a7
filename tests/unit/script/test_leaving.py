"""What is told before a script leaves by `os._exit` or `os.exec*`. Real scripts: end_to_end/test_run.py."""

import os
import threading

import pytest

from gradwatch.script.leaving import REPLACED, listen_to_leaving


@pytest.fixture
def told(monkeypatch):
    """What was told; the functions of `os` are stood in for, since the real ones end this process."""
    heard = []
    for name in ("_exit", "execv", "execve"):
        monkeypatch.setattr(os, name, lambda *given, name=name: heard.append((name, *given)))
    originals = os._exit, os.execv, os.execve
    stop = listen_to_leaving(lambda *given: heard.append(given))
    yield heard
    stop()
    assert (os._exit, os.execv, os.execve) == originals


def test_it_is_told_before_the_process_ends(told):
    os._exit(3)
    assert told == [("exit 3", None), ("_exit", 3)]


@pytest.mark.parametrize("leave", [lambda: os.execv("/bin/sh", ("sh",)), lambda: os.execl("/bin/sh", "sh")])
def test_it_is_told_before_another_program_takes_over(told, leave):
    leave()
    assert told == [("exit", REPLACED), ("execv", "/bin/sh", ("sh",))]


def test_a_program_that_does_not_exist_takes_nothing_over(told):
    os.execve("/no/such/program", [], {})
    assert told == [("execve", "/no/such/program", [], {})]


def test_another_thread_leaves_at_once(told):
    thread = threading.Thread(target=os._exit, args=(3,))
    thread.start()
    thread.join()
    assert told == [("_exit", 3)]
