"""Whether the process that wrote a run is alive, asked of real processes."""

import os
import subprocess
import sys
import time

import pytest

from gradwatch.store.processes import is_alive, process_start, started_at


@pytest.fixture
def child():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    process.stdin.close()


def test_this_process_is_alive():
    assert is_alive(os.getpid(), process_start(os.getpid()))
    assert is_alive(os.getpid(), None)


def test_a_process_that_ended_is_not(child):
    started = process_start(child.pid)
    assert is_alive(child.pid, started)
    child.kill()
    child.wait()
    assert not is_alive(child.pid, started)
    assert process_start(child.pid) is None


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell when a process started")
def test_a_process_that_has_the_number_of_another_is_not_that_one(child):
    assert not is_alive(child.pid, "1")
    assert process_start(child.pid) != process_start(os.getpid())


@pytest.mark.parametrize("pid", [None, "1", 1.0, -1, 0, 2**31, 2**70])
def test_what_is_no_process_is_not_alive(pid):
    """0 and negative numbers would be groups of processes to the system."""
    assert not is_alive(pid, None)


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell when a process started")
def test_a_process_knows_by_the_clock_when_it_started():
    program = "from gradwatch.store.processes import started_at; print(started_at())"
    before = time.time()
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert before - 2 * tick <= float(told.stdout) <= time.time()
    assert started_at() < before
