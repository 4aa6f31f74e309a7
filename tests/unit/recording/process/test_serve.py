"""The recorder's process without a process: messages in, a store out."""

import math
import os
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from gradwatch import Run
from gradwatch.errors import NotARun
from gradwatch.record import Event
from gradwatch.recording.process.messages import plain_event, plain_late
from gradwatch.recording.process.serve import Server, WritingSession
from gradwatch.recording.records import LateNumbers
from gradwatch.store import FILE_NAME, StoreReader

from .support import FACTS, RingAndChannel, admitted, step, told

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the recorder's process needs POSIX")


@pytest.fixture
def session(tmp_path):
    opened = WritingSession(FACTS | {"run": str(tmp_path / "run")})
    yield opened
    if opened.recorder.fault is None:
        opened.recorder.close("closed")


@pytest.fixture
def server(tmp_path, session):
    """A server whose training process is this one's parent, so that it is alive."""
    link = RingAndChannel(tmp_path)
    yield Server(session, link.ring, link.there, training=os.getppid(), at_once=False), link
    link.close()


def losses(run):
    return [None if math.isnan(loss) else loss for loss in run.steps()["loss"]]


def test_steps_become_the_run_that_the_messages_tell_of(tmp_path, session):
    for message in [*admitted(), *(step("put", at, norm=at + 1.0, loss=at / 2) for at in range(5))]:
        session.take(message)
    session.recorder.close("closed")
    run = Run(tmp_path / "run")
    assert run.steps().index.tolist() == list(range(5))
    assert losses(run) == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert run.steps()["total_norm"].tolist() == pytest.approx([math.hypot(at + 1.0, 0.5) for at in range(5)])
    assert list(run.layers().columns) == ["w", "b"]
    with StoreReader(tmp_path / "run") as reader:
        assert reader.optimizers() == {"0": "SGD"}
        assert reader.meta().items() >= {"model": "Linear", "total_steps": "9"}.items()


def test_a_step_that_is_held_takes_the_last_loss_it_is_given(tmp_path, session):
    def late(loss):
        return plain_late(LateNumbers(loss=loss, clip_fault=None, clippings=()))

    messages = [
        step("held", 0), told("late", "0", late(1.0)), told("late", "0", late(2.0)), told("settle", "0", None),
        step("held", 1), told("settle", "0", late(3.0)),
        step("held", 2, loss=4.0), step("held", 3, loss=5.0, settled=["0"]), told("settle", "0", None),
    ]  # fmt: skip
    for message in [*admitted(), *messages]:
        session.take(message)
    session.recorder.close("closed")
    assert losses(Run(tmp_path / "run")) == [2.0, 3.0, 4.0, 5.0]


def test_steps_that_an_interrupt_left_unsettled_or_told_twice_are_recorded_once(tmp_path, session):
    messages = [
        step("held", 0, loss=0.0), step("held", 1, loss=1.0), step("put", 1, loss=2.0),
        step("held", 2, loss=3.0), told("settle", "0", None), told("settle", "0", None),
    ]  # fmt: skip
    for message in [*admitted(), *messages]:
        session.take(message)
    session.recorder.close("closed")
    assert losses(Run(tmp_path / "run")) == [0.0, 2.0, 3.0]


def test_what_was_held_when_the_training_died_is_written(tmp_path, session):
    for message in [*admitted(), step("put", 0), step("held", 1, loss=7.0)]:
        session.take(message)
    session.take_held()
    session.recorder.close("killed")
    assert Run(tmp_path / "run").steps()["loss"].tolist()[1:] == [7.0]


def test_notes_the_first_step_and_the_resumption_are_written(tmp_path, session):
    resumed = Event(step=40, kind="resumed", severity="info", message="resumed", attempt=0)
    for message in [
        told("opened", 40, plain_event(resumed), {"0": 40}),
        *admitted(first_step=40),
        told("note", {"config": "{}"}),
        step("put", 40),
    ]:
        session.take(message)
    session.recorder.close("closed")
    with StoreReader(tmp_path / "run") as reader:
        assert reader.meta()["config"] == "{}"
        assert reader.attempts()[0].first_step == 40
        assert resumed in reader.events()


def test_a_store_that_can_not_be_written_is_refused(tmp_path):
    (tmp_path / FILE_NAME).write_text("something else")
    with pytest.raises(NotARun):
        WritingSession(FACTS | {"run": str(tmp_path)})


def test_the_training_ends_it_and_is_told_that_it_has_ended(tmp_path, server):
    served, link = server
    for message in [*admitted(), step("put", 0), told("flush", 5)]:
        link.write([message])
    link.channel.send("end", "closed", False)
    assert served.run() == ("closed", False)
    assert served.end("closed", False)
    lines = link.channel.receive(5.0)
    assert ["flushed", 5, True] in lines
    assert lines[-1] == ["ended", 0]
    assert len(Run(tmp_path / "run").steps()) == 1


def test_a_flush_on_a_disk_that_takes_nothing_holds_up_neither_the_steps_nor_the_end(tmp_path, server, session):
    served, link = server
    other = sqlite3.connect(tmp_path / "run" / FILE_NAME, isolation_level=None)
    other.execute("begin immediate")  # no writer gets past it
    for message in [*admitted(), step("put", 0), told("flush", 5)]:
        link.write([message])
    serving = threading.Thread(target=served.run)
    serving.start()
    while not session.flushes:
        time.sleep(0.01)
    link.write([step("put", 1)])
    link.channel.send("end", "closed", False)
    serving.join(30)
    has_ended = not serving.is_alive()
    other.close()
    assert has_ended
    assert served.end("closed", False)
    assert len(Run(tmp_path / "run").steps()) == 2


def test_the_end_of_the_pipe_is_the_end_of_the_training(tmp_path, server):
    served, link = server
    for message in [*admitted(), step("put", 0), step("held", 1)]:
        link.write([message])
    link.channel.close()
    assert served.run() == ("killed", False)
    served.end("killed", False)
    assert len(Run(tmp_path / "run").steps()) == 2


def test_another_parent_is_the_end_of_the_training(session, tmp_path):
    link = RingAndChannel(tmp_path)
    served = Server(session, link.ring, link.there, training=os.getppid() + 1, at_once=False)
    assert served.run() == ("killed", False)
    link.close()


@pytest.mark.parametrize("broken", [b"", b"no json\n", b'["unheard of"]\n', b'["put", "nobody"]\n', b'["late", "0"]\n'])
def test_a_message_that_can_not_be_read_takes_no_other_with_it(tmp_path, server, caplog, broken):
    served, link = server
    for message in [*admitted(), step("put", 0), broken, step("put", 1)]:
        link.write([message])
    link.channel.send("end", "closed", False)
    served.run()
    served.end("closed", False)
    assert Run(tmp_path / "run").steps().index.tolist() == [0, 1]
    assert "record-not-made" in caplog.text


def test_without_a_first_line_nothing_is_recorded(tmp_path):
    code = "import sys; from gradwatch.recording.process.serve import serve; serve(int(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "0"], stdin=subprocess.DEVNULL, capture_output=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not list(tmp_path.iterdir())
