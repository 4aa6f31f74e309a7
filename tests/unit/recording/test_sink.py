"""The queue and its thread, and the sink that keeps nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from gradwatch.recording import sink
from gradwatch.recording.sink import Beginning, Bell, NullSink, QueueThread


class Worker:
    """Keeps what it took from its queue, by rounds."""

    def __init__(self, capacity: int = 10) -> None:
        self.rounds: list[list[int]] = []
        self.closing: list[bool] = []
        self.fault: Exception | None = None
        self.waits_for = threading.Event()
        self.waits_for.set()
        self.thread: QueueThread[int] = QueueThread(self.work, capacity)
        self.thread.start()

    def work(self, closing: bool) -> None:
        self.waits_for.wait(10)
        if self.fault is not None:
            raise self.fault
        self.rounds.append(list(self.thread.take()))
        self.closing.append(closing)

    @property
    def taken(self) -> list[int]:
        return [item for items in self.rounds for item in items]


def test_items_are_taken_in_order_and_all_of_them():
    worker = Worker(capacity=1000)
    for number in range(1000):
        assert worker.thread.put(number)
    assert worker.thread.end(10)
    assert worker.taken == list(range(1000))
    assert worker.closing[-1] is True
    assert worker.closing.count(True) == 1


def test_an_item_without_room_is_refused_and_one_that_must_come_is_not():
    worker = Worker(capacity=2)
    worker.waits_for.clear()
    worker.thread.wake()
    accepted = [worker.thread.put(number) for number in range(4)]
    worker.thread.put_always(99)
    worker.waits_for.set()
    worker.thread.end(10)
    assert accepted == [True, True, False, False]
    assert worker.taken == [0, 1, 99]


def test_what_comes_after_the_end_is_refused():
    worker = Worker()
    worker.thread.end(10)
    assert not worker.thread.put(1)


def test_waking_does_not_wait_for_the_interval(monkeypatch):
    monkeypatch.setattr(sink, "INTERVAL", 60.0)
    worker = Worker()
    worker.thread.put(1)
    worker.thread.wake()
    deadline = time.monotonic() + 10
    while not worker.taken and time.monotonic() < deadline:
        time.sleep(0.001)
    assert worker.taken == [1]
    worker.thread.end(10)


def test_flushing_waits_until_the_items_are_taken_and_nothing_is_left_elsewhere():
    worker = Worker()
    worker.thread.put(1)
    assert worker.thread.flush(10, lambda: True)
    assert worker.taken == [1]
    assert not worker.thread.flush(0.05, lambda: False)
    worker.thread.end(10)


def test_flushing_gives_up_where_the_thread_is_busy():
    worker = Worker()
    worker.waits_for.clear()
    worker.thread.put(1)
    assert not worker.thread.flush(0.05, lambda: True)
    worker.waits_for.set()
    worker.thread.end(10)


def test_a_fault_ends_the_thread_and_is_kept():
    worker = Worker()
    worker.fault = ValueError("a planted fault")
    worker.thread.put(1)
    worker.thread.wake()
    assert worker.thread.wait_for_end(10)
    assert worker.thread.fault is worker.fault
    assert worker.thread.end(10)
    assert worker.taken == []


@pytest.mark.parametrize("end", [lambda t: t.end(0.05), lambda t: (t.ask_to_end(), t.wait_for_end(0.05))[1]])
def test_an_end_that_takes_long_is_told(end):
    worker = Worker()
    worker.waits_for.clear()
    worker.thread.wake()
    assert end(worker.thread) is False
    worker.waits_for.set()
    assert worker.thread.wait_for_end(10)


def test_a_bell_wakes_one_that_waits():
    bell, woken = Bell(), []
    thread = threading.Thread(target=lambda: woken.append(bell.wait(10)))
    thread.start()
    bell.ring()
    thread.join(10)
    assert woken == [True]
    assert not bell.wait(0.0), "one ring wakes once"


def test_rings_of_several_threads_are_not_lost():
    bell = Bell()
    threads = [threading.Thread(target=lambda: [bell.ring() for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bell.wait(1.0)


def test_the_null_sink_takes_everything_and_keeps_nothing():
    null = NullSink()
    assert null.begin("0", "SGD", {}) == Beginning(step=0, is_recorded=False)
    assert null.begin("0", "SGD", {}, first_step=7).step == 7
    assert null.flush()
    assert null.close("closed")
    assert null.wait_for_end(0.0)
    assert (list(null.events), null.fault, null.dropped, null.takes_late_losses) == ([], None, 0, False)


NEVER_DONE = """
import torch
from gradwatch.recording.sink import QueueThread

def work(closing):
    while True:
        torch.ones(100_000).sum()

thread = QueueThread(work, 1)
thread.start()
assert not thread.end(0.2)
print("the training is done")
"""


def test_a_thread_that_is_still_at_work_does_not_end_the_process_by_a_signal():
    """Python unwinds a daemon thread as it comes back from torch, and C++ answers with SIGABRT."""
    done = subprocess.run([sys.executable, "-c", NEVER_DONE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "the training is done\n"), done.stderr


def test_a_thread_in_a_call_is_told_to_stop_and_not_waited_for():
    worker = Worker()
    worker.waits_for.clear()
    assert not worker.thread.end(0.2)
    assert not worker.thread.halt(0.05)
    worker.waits_for.set()
    assert worker.thread.wait_for_end(10)
    assert isinstance(worker.thread.fault, SystemExit)
    assert worker.thread.halt(0.05)


@contextlib.contextmanager
def interrupted(after, every=0.0):
    """Within it the main thread is interrupted as by Ctrl-C, after so many seconds."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, after, every)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer that interrupts")
def test_a_thread_is_waited_for_again_after_an_interrupt():
    """Python before 3.13 takes a thread for dead whose join was interrupted (Thread._wait_for_tstate_lock)."""
    worker = Worker()
    worker.thread.put(1)
    worker.waits_for.clear()
    with interrupted(0.1), pytest.raises(KeyboardInterrupt):
        worker.thread.end(10)
    assert not worker.thread.end(0.05), "it is still at work"
    worker.waits_for.set()
    assert worker.thread.end(10)
    assert worker.taken == [1]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer that interrupts")
def test_the_exit_waits_for_a_thread_while_it_is_interrupted_again_and_again(monkeypatch):
    monkeypatch.setattr(sink, "HALT_WITHIN", 60.0)
    worker = Worker()
    monkeypatch.setattr(sink, "_started", [worker.thread])
    worker.thread.put(1)
    worker.waits_for.clear()
    threading.Timer(1.0, worker.waits_for.set).start()
    with interrupted(0.2, every=0.5):
        sink._halt_all()
    assert (worker.thread.ended, worker.thread.fault, worker.taken) == (True, None, [1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_does_not_wait_for_the_threads_of_its_parent():
    worker = Worker()
    child = os.fork()
    if not child:
        os._exit(len(sink._started))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert worker.thread.end(10)
