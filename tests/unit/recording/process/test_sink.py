"""The training's end of the recorder's process: what goes into the ring, and what comes back."""

import math
import sys
from types import SimpleNamespace

import pytest

from gradwatch.distributed import ParameterPart
from gradwatch.errors import RecorderProcessFailed, StoreNotWritable
from gradwatch.record import Event, StepRecord
from gradwatch.recording.process import sink as module
from gradwatch.recording.process.messages import decode, encode, plain_event, plain_record
from gradwatch.recording.process.sink import Answers, Outgoing, ProcessSink
from gradwatch.recording.sink import Beginning
from gradwatch.store import StoreWriter
from gradwatch.testing import PARAMETERS, steady, stream

from .support import INFOS, RingAndChannel, numbers, step

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the recorder's process needs POSIX")

EVENT = Event(step=3, kind="spike", severity="warning", message="high", parameter="w")


@pytest.fixture
def link(tmp_path):
    opened = RingAndChannel(tmp_path)
    yield opened
    opened.close()


def kinds(link):
    return [decode(message)[0] for message in link.messages()]


def tracker(name="0", count=2):
    return SimpleNamespace(
        name=name, optimizer_class="SGD", settings={"lr": 0.1}, step=0, first_step=0, infos=INFOS[:count],
        parts=[ParameterPart(info=info) for info in INFOS[:count]], present=[True] * count,
    )  # fmt: skip


# ---------------------------------------------------------------------------------- into the ring


def test_messages_come_in_order(link):
    outgoing = Outgoing(link)
    for number in range(5):
        outgoing.tell(encode("flush", number))
    assert outgoing.push()
    assert [decode(message)[1] for message in link.messages()] == [[number] for number in range(5)]


def test_a_step_is_refused_where_there_is_no_room_and_what_must_come_waits(tmp_path):
    link = RingAndChannel(tmp_path, room=len(step("put", 0)) + 100)
    outgoing = Outgoing(link)
    assert outgoing.put_step("put", "0", numbers(0))
    outgoing.tell(encode("flush", 1))
    outgoing.tell([b"y" * 120])
    assert not outgoing.put_step("put", "0", numbers(1)), "it may not overtake what waits"
    assert not outgoing.push()
    found = []
    while len(found) < 3:
        found += link.messages()
        outgoing.push()
    assert [decode(found[0])[0], *found[1:]] == ["put", b'["flush",1]\n', b"y" * 120]
    link.close()


def test_what_was_settled_is_said_with_the_next_step_or_before_any_other_message(link, monkeypatch):
    """A step that finds no room says nothing, so the next one does."""
    outgoing = Outgoing(link)
    outgoing.settle("a")
    outgoing.settle("b")
    assert link.messages() == []
    with monkeypatch.context() as full:
        full.setattr(link, "write", lambda message: False)
        assert not outgoing.put_step("held", "a", numbers(1))
    assert outgoing.put_step("held", "a", numbers(1))
    assert outgoing.put_step("held", "b", numbers(1))
    assert [(kind, values[0]) for kind, values, _ in map(decode, link.messages())] == [
        ("held", ("a", "b")),
        ("held", ()),
    ]
    outgoing.settle("a")
    outgoing.tell(encode("flush", 1))
    outgoing.push()
    assert [(kind, values) for kind, values, _ in map(decode, link.messages())] == [
        ("settle", ["a", None]),
        ("flush", [1]),
    ]


def test_an_optimizer_is_told_of_before_its_first_step(link):
    sink = ProcessSink(link, link)
    one = tracker()
    sink.begin("0", "SGD", {"lr": 0.1}, None)
    sink.admit(one, Beginning(step=0))
    sink.join(one, 0)
    sink.opened(7, None, {"0": 7})
    sink.note({"config": "{}"})
    sink.dismiss("0")
    assert kinds(link) == ["infos", "admit", "join", "opened", "note", "dismiss"]


def test_a_lock_that_an_interrupt_left_taken_is_taken_over(link, monkeypatch):
    monkeypatch.setattr(module, "LOCK_WITHIN", 0.01)
    sink = ProcessSink(link, link)
    sink._lock.acquire()
    sink.note({"config": "{}"})
    assert kinds(link) == ["note"]
    assert not sink._lock.locked()


def test_parameters_are_told_once_and_again_when_they_have_changed(link):
    sink = ProcessSink(link, link)
    one = tracker(count=1)
    sink.admit(one, sink.begin("0", "SGD", {}, None))
    one.infos, one.parts, one.present = INFOS, [*one.parts, ParameterPart(info=INFOS[1])], [True, False]
    sink.join(one, 1)
    sink.join(one, 1)
    messages = [decode(message) for message in link.messages()]
    assert [values[1:] for kind, values, _ in messages if kind == "infos"] == [
        [[["w", [3], INFOS[0].dtype]], "1"],
        [[["b", [], INFOS[1].dtype]], "10"],
    ]


@pytest.mark.parametrize(("first_step", "expected"), [(None, 0), (0, 0), (12, 12)])
def test_a_new_run_begins_where_it_is_asked_to(link, tmp_path, first_step, expected):
    sink = ProcessSink(link, tmp_path / "there is no store yet")
    assert sink.begin("0", "SGD", {}, first_step) == Beginning(step=expected)


@pytest.mark.parametrize(("first_step", "expected"), [(None, 20), (5, 5)])
def test_a_run_that_is_continued_begins_after_its_last_step(tmp_path, first_step, expected):
    writer = StoreWriter(tmp_path / "run")
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.add_parameters("0", PARAMETERS)
    writer.append(stream(steady(20)))
    writer.end_attempt("closed")
    link = RingAndChannel(tmp_path, attempt=1)
    beginning = ProcessSink(link, tmp_path / "run").begin("0", "SGD", {}, first_step)
    assert beginning == Beginning(step=expected, stored=PARAMETERS)
    link.close()


# -------------------------------------------------------------------------------- what comes back


def test_events_and_the_last_record_come_back_as_they_were(link):
    record = StepRecord(step=9, total_norm=math.nan, loss=0.25, learning_rates=(0.1, 0.2))
    link.there.send("event", plain_event(EVENT))
    link.there.send("last", plain_record(record))
    sink = ProcessSink(link, link)
    assert list(sink.events) == [EVENT]
    assert repr(sink.last) == repr(record)


def test_what_is_logged_there_is_logged_here(link, caplog):
    link.there.send("log", 30, "100% full %s")
    Answers(link).look()
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(30, "100% full %s")]


def test_a_fault_has_the_class_that_it_had_there(link):
    link.there.send("fault", "StoreNotWritable", "the disk is full")
    link.there.send("ended", 3)
    sink = ProcessSink(link, link)
    sink._answers.look()
    assert isinstance(sink.fault, StoreNotWritable)
    assert sink.dropped == 3


def test_a_process_that_ends_without_a_word_is_a_fault(link):
    answers = Answers(link)
    link.there.close()
    answers.look()
    assert answers.has_ended
    assert isinstance(answers.fault, RecorderProcessFailed)


def test_an_end_that_was_told_is_none(link):
    link.there.send("ended", 0)
    link.there.close()
    answers = Answers(link)
    answers.look()
    assert answers.has_ended
    assert answers.fault is None


def test_a_line_of_a_later_version_is_passed_over(link):
    link.there.send("unheard of", 1)
    link.there.send("event", plain_event(EVENT))
    answers = Answers(link)
    answers.look()
    assert list(answers.events) == [EVENT]


def test_looks_are_as_rare_as_asked(link):
    answers = Answers(link)
    answers.look()
    link.there.send("event", plain_event(EVENT))
    answers.look(every=3600.0)
    assert not answers.events
    answers.look()
    assert list(answers.events) == [EVENT]


def test_a_step_that_can_not_be_handed_over_is_told_once(link, caplog):
    answers = Answers(link)
    for _ in range(3):
        answers.say_failed(ValueError("broken"))
    assert caplog.text.count("record-not-made") == 1


# ------------------------------------------------------------------------------------ waiting, ends


@pytest.mark.parametrize("answer", [True, False])
def test_a_flush_returns_what_the_process_answers(link, answer):
    link.there.send("flushed", 1, answer)
    sink = ProcessSink(link, link)
    assert sink.flush(5.0) is answer
    assert kinds(link) == ["flush"]


def test_a_flush_that_is_not_answered_gives_up(link):
    assert ProcessSink(link, link).flush(0.05) is False


def test_an_end_is_asked_for_once_and_waited_for(link):
    sink = ProcessSink(link, link)
    assert not sink.close("closed", timeout=0.05)
    assert ["end", "closed", False] in link.there.receive(1.0)
    link.there.send("ended", 0)
    assert sink.wait_for_end(5.0)


def test_nothing_is_sent_to_a_process_that_has_ended(link):
    link.there.send("ended", 0)
    sink = ProcessSink(link, link)
    assert sink.wait_for_end(5.0)
    sink.ask_to_end("closed")
    assert link.there.receive() == []
    assert sink.flush(5.0)
