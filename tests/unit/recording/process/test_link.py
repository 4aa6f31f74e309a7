"""How the recorder's process is started, and how its end is told."""

import os
import signal
import sys
import time

import pytest

from gradwatch.errors import NotARun, RecorderProcessFailed, StoreNotWritable
from gradwatch.recording.process import link as module
from gradwatch.recording.process.link import RecorderLink, error_of
from gradwatch.store import FILE_NAME, StoreReader

from .support import FACTS, admitted, step

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the recorder's process needs POSIX")


def start(run, **facts):
    return RecorderLink(run, 4096, FACTS | {"run": str(run)} | facts)


def program(folder, text):
    """A program in the place of Python."""
    file = folder / "program"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


def wait_for(link, kind):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for line in link.channel.receive(0.1):
            if line[0] == kind:
                return line
    raise AssertionError(f"no {kind} came")


def test_messages_reach_the_store_of_the_process(tmp_path):
    link = start(tmp_path / "run")
    assert link.attempt == 0
    for message in [*admitted(), step("put", 0), step("put", 1)]:
        assert link.write([message])
    link.channel.send("end", "closed", False)
    assert wait_for(link, "ended") == ["ended", 0]
    link.close(60.0)
    with StoreReader(tmp_path / "run") as reader:
        assert reader.next_step("0") == 2
        assert reader.attempts()[0].reason == "closed"


def test_the_ring_says_when_it_is_filling(tmp_path):
    link = start(tmp_path / "run")
    os.kill(link._process.pid, signal.SIGSTOP)  # so that nothing takes the message out
    assert not link.is_filling
    assert link.write([bytes(1000)])
    assert link.is_filling
    assert not link.write([bytes(5000)])
    os.kill(link._process.pid, signal.SIGKILL)
    os.kill(link._process.pid, signal.SIGCONT)
    link.close(60.0)


def test_a_process_that_was_killed_is_told_with_its_signal(tmp_path):
    link = start(tmp_path / "run")
    os.kill(link._process.pid, signal.SIGKILL)
    assert "SIGKILL" in str(link.end_of_process())
    link.close()


def test_a_fault_of_the_store_has_its_own_class(tmp_path):
    (tmp_path / FILE_NAME).write_text("something else")
    with pytest.raises(NotARun):
        start(tmp_path)


@pytest.mark.parametrize("executable", ["", "/there/is/no/python"])
def test_a_python_that_can_not_be_started_is_told(tmp_path, monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(RecorderProcessFailed, match="can't be started"):
        start(tmp_path / "run")


@pytest.mark.parametrize(("text", "says"), [("exit 3", "did not begin"), ("exec sleep 600", "did not begin within")])
def test_a_process_that_does_not_begin_is_told_and_ended(tmp_path, monkeypatch, text, says):
    monkeypatch.setattr(sys, "executable", program(tmp_path, text))
    monkeypatch.setattr(module, "START_WITHIN", 0.5 if "sleep" in text else 60.0)
    started = []
    popen = module.subprocess.Popen
    monkeypatch.setattr(module.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    with pytest.raises(RecorderProcessFailed, match=says):
        start(tmp_path / "run")
    assert started[0].poll() is not None


def test_a_forked_child_leaves_the_process_to_its_parent(tmp_path):
    link = start(tmp_path / "run")
    pid = os.fork()
    if pid == 0:
        os._exit(0 if link.channel.is_ended else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not link.channel.is_ended
    link.channel.send("end", "closed", False)
    wait_for(link, "ended")
    link.close(60.0)


def test_an_error_of_ours_keeps_its_class_and_another_is_a_failed_process():
    assert isinstance(error_of("StoreNotWritable", "full"), StoreNotWritable)
    for name in ("ZeroDivisionError", "annotations", "GradwatchErro", ""):
        found = error_of(name, "text")
        assert isinstance(found, RecorderProcessFailed)
        assert "text" in str(found)
