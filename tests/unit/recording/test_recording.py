"""A fault is reported once and never reaches the training; the end takes everything out."""

import logging
import os
import signal

import pytest

from gradwatch.errors import TrainingStopped
from gradwatch.recording import lifecycle
from gradwatch.recording.delivery import EventDelivery
from gradwatch.recording.hooks import Reductions
from gradwatch.recording.notices import Notices
from gradwatch.recording.recording import Recording
from gradwatch.recording.router import HookRouter
from gradwatch.recording.sink import NullSink


@pytest.fixture
def recording(tmp_path):
    made = Recording(tmp_path / "run", NullSink(), EventDelivery(None, ()), Reductions(), Notices())
    made.open([], HookRouter(made))
    yield made
    made.close("closed")


def fail():
    raise ValueError("a planted fault")


def test_a_fault_is_reported_once_and_ends_the_recording(recording, caplog):
    with caplog.at_level(logging.WARNING, "gradwatch"):
        recording.guarded(fail)
        recording.guarded(fail)
        recording.close("closed")
    assert recording.state == "closed"
    assert [record.getMessage().partition(". ")[2] for record in caplog.records] == [
        "ValueError: a planted fault (recording-stopped)"
    ]
    assert lifecycle.open_runs() == []


def test_after_the_end_nothing_is_called(recording):
    called = []
    recording.close("closed")
    recording.guarded(called.append, 1)
    assert called == []


def test_a_stop_that_the_user_asked_for_reaches_the_training(recording):
    def stop():
        raise TrainingStopped("explosion at step 3")

    with pytest.raises(TrainingStopped, match="explosion at step 3"):
        recording.guarded(stop)
    assert recording.state == "recording"


def test_the_time_of_a_call_counts_also_if_it_fails(recording):
    recording.guarded(list, ())
    after_one = recording.overhead_seconds
    recording.guarded(fail)
    assert 0 < after_one < recording.overhead_seconds


def test_sigterm_waits_until_the_call_is_over(recording, monkeypatch):
    ended, order = [], []
    monkeypatch.setattr(lifecycle, "_end_process", lambda number: order.append("end") or ended.append(number))

    def work():
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):  # a handler of Python runs between two instructions
            pass
        order.append("worked")

    recording.guarded(work)
    lifecycle._Depth.signal = None
    assert order == ["worked", "end"]
    assert ended == [signal.SIGTERM]


def test_an_open_recording_is_known_to_the_process_until_it_is_closed(recording):
    assert lifecycle.open_runs() == [recording.run.resolve()]
    recording.close("closed")
    recording.close("closed")
    assert lifecycle.open_runs() == []


def test_a_child_without_protection_is_closed_at_once(recording):
    recording.go_on_in_child()
    assert recording.state == "closed"
    recording.state = "recording"  # for the end of the fixture
