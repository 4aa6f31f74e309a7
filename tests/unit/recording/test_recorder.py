"""The thread that makes records, judges them and writes them: order, capacity, faults, the end."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradwatch.distributed import ParameterPart
from gradwatch.errors import StoreNotWritable
from gradwatch.record import Event, LayerStats, ParameterInfo, Severity, StepRecord
from gradwatch.recording import batch_writer, judge, sink
from gradwatch.recording import recorder as recorder_module
from gradwatch.recording.recorder import Recorder
from gradwatch.store import StoreReader, StoreWriter

WEIGHT = ParameterInfo(name="weight", shape=(1,))


def record(step: int, norm: float = 1.0, optimizer: str = "0") -> StepRecord:
    layers = LayerStats(parameters=(WEIGHT,), norm=np.array([norm], np.float32))
    return StepRecord(step=step, optimizer=optimizer, total_norm=norm, layers=layers)


@dataclass
class Source:
    """An optimizer as a sink reads it."""

    infos: tuple[ParameterInfo | None, ...] = (WEIGHT,)
    name: str = "0"
    optimizer_class: str = "SGD"
    settings: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    first_step: int = 0

    @property
    def parts(self) -> list[ParameterPart | None]:
        return [None if info is None else ParameterPart(info=info) for info in self.infos]

    @property
    def present(self) -> list[bool]:
        return [info is not None for info in self.infos]


@dataclass
class Alarm:
    """A detector that finds something wherever the norm is over a limit."""

    limit: float = 10.0
    severity: Severity = "critical"
    lasts: bool = False  # one event from the first step on
    seen: list[int] = field(default_factory=list)

    def update(self, record: StepRecord) -> Sequence[Event]:
        self.seen.append(record.step)
        if not record.total_norm > self.limit:
            return []
        step = 0 if self.lasts else record.step
        severity: Severity = "critical" if record.total_norm > 10 * self.limit else self.severity
        return [Event(step=step, kind="spike", severity=severity, message="high", optimizer=record.optimizer)]


class Writer(StoreWriter):
    """Writes to a real store, fails when it is told to and keeps what it was asked to write."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fault: Exception | None = None
        self.batches: list[list[int]] = []
        self.begin_attempt({}, {"0": ("SGD", {}), "1": ("SGD", {})})

    def append(self, records: Iterable[StepRecord], *rest: Any, **named: Any) -> int:
        listed = list(records)
        if self.fault is not None:
            raise self.fault
        last = super().append(listed, *rest, **named)
        self.batches.append([one.step for one in listed])
        return last


class Gate:
    """Keeps the recorder's thread busy until it is opened."""

    def __init__(self, recorder: Recorder) -> None:
        self._open, entered = threading.Event(), threading.Event()

        def make() -> StepRecord:
            entered.set()
            self._open.wait(10)
            return record(0)

        recorder.put_record(make)
        assert entered.wait(10)

    def open(self) -> None:
        self._open.set()


def putting(step: int, norm: float = 1.0, optimizer: str = "0") -> Callable[[], StepRecord]:
    return lambda: record(step, norm, optimizer)


def broken() -> StepRecord:
    raise ZeroDivisionError("a planted fault")


def steps_in(folder: Path, optimizer: str = "0") -> list[int]:
    with StoreReader(folder) as reader:
        return [one.step for one in reader.records(optimizer)]


@pytest.fixture
def writer(tmp_path):
    return Writer(tmp_path)


# ----------------------------------------------------------------------------------- order, threads


def test_records_are_written_in_the_order_in_which_they_were_put(tmp_path, writer):
    recorder = Recorder(writer, {"0": []})
    for step in range(1500):
        recorder.put_record(putting(step))
    recorder.close("closed")
    assert steps_in(tmp_path) == list(range(1500))
    assert recorder.dropped == 0
    assert recorder.fault is None


def test_records_are_made_in_one_other_thread(writer):
    recorder, made_in = Recorder(writer, {"0": []}), []

    def make(step: int) -> StepRecord:
        made_in.append(threading.get_ident())
        return record(step)

    for step in range(5):
        recorder.put_record(lambda step=step: make(step))
    recorder.close("closed")
    assert len(set(made_in)) == 1
    assert made_in[0] != threading.get_ident()


def test_putting_does_not_wait_for_a_record_that_takes_long(tmp_path, writer):
    recorder = Recorder(writer, {"0": []})
    gate = Gate(recorder)
    recorder.put_record(putting(1))
    assert not recorder.flush(timeout=0.05), "the record is not on the disk yet, and that is said"
    gate.open()
    assert recorder.flush()
    assert steps_in(tmp_path) == [0, 1]
    recorder.close("closed")


def test_records_put_by_several_threads_all_arrive(tmp_path, writer):
    recorder = Recorder(writer, {"0": []})

    def put(first: int) -> None:
        for step in range(first, first + 100):
            recorder.put_record(putting(step))

    threads = [threading.Thread(target=put, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.close("closed")
    assert sorted(steps_in(tmp_path)) == list(range(400))


def test_parameters_are_named_before_the_records_that_have_them(tmp_path, writer):
    recorder = Recorder(writer, {"0": []})
    recorder.join(Source(), 0)
    recorder.put_record(putting(0))
    recorder.join(Source((WEIGHT, replace(WEIGHT, name="bias"), None)), 1)
    recorder.close("closed")
    with StoreReader(tmp_path) as reader:
        assert [info.name for info in reader.parameters("0")] == ["weight", "bias"]


# ------------------------------------------------------------------------------------ flush, close


def test_after_flush_everything_put_before_is_on_the_disk(tmp_path, writer):
    recorder = Recorder(writer, {"0": []})
    for step in range(20):
        recorder.put_record(putting(step))
        assert recorder.flush()
        assert steps_in(tmp_path) == list(range(step + 1))
    recorder.close("closed")


def test_flushing_an_empty_queue_succeeds(writer):
    recorder = Recorder(writer, {"0": []})
    assert recorder.flush(timeout=5)
    recorder.close("closed")
    assert recorder.flush(timeout=5), "nothing is left to write"


def test_closing_writes_the_queue_and_the_reason(tmp_path, writer):
    recorder = Recorder(writer, {"0": []})
    recorder.put_record(putting(0))
    recorder.close("exception ValueError")
    assert steps_in(tmp_path) == [0]
    with StoreReader(tmp_path) as reader:
        assert reader.attempts()[0].reason == "exception ValueError"


def test_closing_does_not_wait_longer_than_it_was_told(tmp_path, writer):
    recorder = Recorder(writer, {"0": []})
    gate = Gate(recorder)
    assert not recorder.close("closed", timeout=0.05)
    with StoreReader(tmp_path) as reader:
        assert reader.attempts()[0].reason is None, "it was not closed, and the store does not say so"
    gate.open()


# ----------------------------------------------------------------------------- capacity and drops


def test_records_over_the_capacity_are_dropped_and_counted(tmp_path, writer):
    recorder = Recorder(writer, {"0": []}, capacity=3)
    gate = Gate(recorder)
    for step in range(1, 11):
        recorder.put_record(putting(step))
    assert recorder.dropped == 7
    gate.open()
    recorder.close("closed")
    assert steps_in(tmp_path) == [0, 1, 2, 3]
    with StoreReader(tmp_path) as reader:
        assert reader.attempts()[0].dropped == 7


def test_a_step_that_can_not_be_known_as_a_whole_is_dropped_and_counted(tmp_path, writer):
    recorder = Recorder(writer, {"0": []})
    recorder.put_record(putting(0))
    recorder.put_record(lambda: None)
    recorder.put_record(putting(2))
    recorder.close("closed")
    assert steps_in(tmp_path) == [0, 2]
    with StoreReader(tmp_path) as reader:
        assert reader.attempts()[0].dropped == 1


def test_a_record_that_can_not_be_made_takes_no_other_with_it(tmp_path, writer):
    recorder = Recorder(writer, {"0": []})
    for make in (putting(0), broken, putting(2)):
        recorder.put_record(make)
    recorder.close("closed")
    assert steps_in(tmp_path) == [0, 2]
    assert recorder.dropped == 1
    with StoreReader(tmp_path) as reader:
        assert reader.attempts()[0].dropped == 1


def test_records_that_can_not_be_made_are_said_once(writer, caplog):
    recorder = Recorder(writer, {"0": []})
    for _ in range(3):
        recorder.put_record(broken)
    recorder.close("closed")
    assert ["a planted fault (record-not-made)" in message for message in messages(caplog)] == [True]


def test_a_detector_that_fails_takes_no_record_with_it(tmp_path, writer, caplog):
    class Broken:
        def update(self, record: StepRecord) -> Sequence[Event]:
            raise ZeroDivisionError("a planted fault")

    recorder = Recorder(writer, {"0": [Broken()]})
    for step in range(3):
        recorder.put_record(putting(step))
    recorder.close("closed")
    assert steps_in(tmp_path) == [0, 1, 2]
    assert ["a planted fault (detectors-stopped)" in message for message in messages(caplog)] == [True]


def test_a_fault_ends_the_recording_and_is_kept_to_be_reported(tmp_path, writer):
    recorder = Recorder(writer, {"0": []})
    recorder.put_record(putting(0))
    assert recorder.flush()
    writer.fault = ValueError("a planted fault")
    recorder.put_record(putting(1))
    recorder.flush(timeout=5)
    recorder.put_record(putting(2))  # does no harm
    recorder.close("closed")
    assert recorder.fault is writer.fault
    assert steps_in(tmp_path) == [0]
    with StoreReader(tmp_path) as reader:
        assert reader.attempts()[0].reason == "fault"


# --------------------------------------------------------------------------- a disk that fails


def full() -> StoreNotWritable:
    return StoreNotWritable("The disk is full.")


def messages(caplog) -> list[str]:
    return [entry.getMessage() for entry in caplog.records]


def wait_for(condition: Callable[[], object], recorder: Recorder) -> None:
    """Let the recorder's thread go round until this is so, however late it gets its turn."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        recorder.flush(timeout=0.01)
    assert condition()


def test_what_the_disk_did_not_take_is_written_when_it_does(tmp_path, writer, caplog, monkeypatch):
    monkeypatch.setattr(batch_writer, "PAUSE", 0.01)
    recorder = Recorder(writer, {"0": []})
    writer.fault = full()
    for step in range(5):
        recorder.put_record(putting(step))
    wait_for(lambda: messages(caplog), recorder)
    assert not recorder.flush(timeout=0.01)
    writer.fault = None
    assert recorder.flush()
    recorder.close("closed")
    assert steps_in(tmp_path) == [0, 1, 2, 3, 4]
    assert ["(recording-waits)" in message for message in messages(caplog)] == [True, False]
    assert "0 steps were lost (recording-resumed)" in messages(caplog)[1]


def test_of_more_than_it_can_keep_the_oldest_give_way(tmp_path, writer, monkeypatch):
    monkeypatch.setattr(batch_writer, "PAUSE", 0.01)
    recorder = Recorder(writer, {"0": []}, capacity=4)
    writer.fault = full()
    for step in range(10):
        recorder.put_record(putting(step))
        wait_for(lambda taken=step + 1: recorder._counts.taken == taken, recorder)
    wait_for(lambda: recorder.dropped == 6, recorder)
    writer.fault = None
    recorder.close("closed")
    assert steps_in(tmp_path) == [6, 7, 8, 9]
    with StoreReader(tmp_path) as reader:
        assert reader.attempts()[0].dropped == 6


def test_a_disk_that_stays_full_to_the_end_loses_what_was_left_and_says_so(tmp_path, writer):
    recorder = Recorder(writer, {"0": []})
    recorder.put_record(putting(0))
    assert recorder.flush()
    writer.fault = full()
    recorder.put_record(putting(1))
    recorder.put_record(putting(2))
    recorder.close("closed")
    assert recorder.fault is writer.fault
    assert recorder.dropped == 2
    assert steps_in(tmp_path) == [0]


def test_events_are_told_while_the_disk_takes_nothing(writer):
    recorder = Recorder(writer, {"0": [Alarm()]})
    writer.fault = full()
    recorder.put_record(putting(0, norm=50.0))
    wait_for(lambda: recorder.events, recorder)
    assert [event.step for event in recorder.events] == [0]
    writer.fault = None
    recorder.close("closed")
    assert [event.step for event in recorder.events] == [0], "and not told again when they are written"


# ------------------------------------------------------------------------------------- events


def test_events_are_stored_and_told(tmp_path, writer):
    recorder = Recorder(writer, {"0": [Alarm(severity="warning")]})
    for step, norm in enumerate([1.0, 50.0, 1.0, 60.0]):
        recorder.put_record(putting(step, norm))
    recorder.close("closed")
    with StoreReader(tmp_path) as reader:
        assert [event.step for event in reader.events()] == [1, 3]
    assert [event.step for event in recorder.events] == [1, 3]


def test_a_critical_event_is_written_at_once(writer):
    recorder = Recorder(writer, {"0": [Alarm()]})
    gate = Gate(recorder)  # so that the records come together
    for step, norm in enumerate([1.0, 50.0, 1.0, 1.0], 1):
        recorder.put_record(putting(step, norm))
    gate.open()
    recorder.close("closed")
    assert [batch for batch in writer.batches if batch] == [[0, 1, 2], [3, 4]]


def test_a_warning_waits_for_the_next_commit(writer):
    recorder = Recorder(writer, {"0": [Alarm(severity="warning")]})
    gate = Gate(recorder)
    for step, norm in enumerate([1.0, 50.0, 1.0, 1.0], 1):
        recorder.put_record(putting(step, norm))
    gate.open()
    recorder.close("closed")
    assert [batch for batch in writer.batches if batch] == [[0, 1, 2, 3, 4]]


def test_an_event_that_lasts_is_told_again_only_when_it_gets_worse(writer):
    recorder = Recorder(writer, {"0": [Alarm(severity="warning", lasts=True)]})
    for step, norm in enumerate([50.0, 60.0, 500.0, 600.0, 50.0]):
        recorder.put_record(putting(step, norm))
    recorder.close("closed")
    assert [event.severity for event in recorder.events] == ["warning", "critical"]


def test_at_once_writes_each_record_as_it_comes(tmp_path, writer, monkeypatch):
    monkeypatch.setattr(sink, "INTERVAL", 60.0)
    recorder = Recorder(writer, {"0": []}, at_once=True)
    written = threading.Event()
    append = writer.append
    monkeypatch.setattr(writer, "append", lambda *args, **named: (append(*args, **named), written.set()))
    recorder.put_record(putting(0))
    assert written.wait(10)
    assert steps_in(tmp_path) == [0]
    recorder.close("closed")


def test_each_optimizer_has_detectors_of_its_own(tmp_path, writer):
    recorder = Recorder(writer, {"0": [Alarm(limit=10.0)], "1": [Alarm(limit=2.0)]})
    for step, norm in enumerate([1.0, 5.0]):
        for optimizer in ("0", "1"):
            recorder.put_record(putting(step, norm, optimizer))
    recorder.close("closed")
    with StoreReader(tmp_path) as reader:
        assert [(event.optimizer, event.step) for event in reader.events()] == [("1", 1)]
    assert (steps_in(tmp_path, "0"), steps_in(tmp_path, "1")) == ([0, 1], [0, 1])


# ------------------------------------------------------------------- optimizers that are added


def test_a_new_optimizer_begins_without_reading_the_store(writer, monkeypatch):
    """Or each of a thousand models would read what all before it have left."""
    recorder = Recorder(writer, {})
    monkeypatch.setattr("gradwatch.store.StoreReader", None)
    for at in range(2, 5):
        assert recorder.begin(f"{at}", "SGD", {}) == sink.Beginning(step=0)
        assert recorder.begin(f"from {at}", "SGD", {}, first_step=7) == sink.Beginning(step=7)
    recorder.close("closed")


def test_an_optimizer_that_comes_again_goes_on_after_its_last_step(writer):
    recorder = Recorder(writer, {})
    beginning = recorder.begin("2", "SGD", {})
    recorder.admit(Source(name="2"), beginning)
    for step in range(3):
        recorder.put_record(putting(step, optimizer="2"))
    recorder.flush()
    assert recorder.begin("2", "SGD", {}) == sink.Beginning(step=3, stored=(WEIGHT,))
    assert recorder.begin("2", "SGD", {}, first_step=1) == sink.Beginning(step=1, stored=(WEIGHT,))
    recorder.close("closed")


# ------------------------------------------------------------------- a run that is continued


def continued(folder: Path, earlier: Sequence[StepRecord] = (), reason: str = "closed") -> Writer:
    """A store with records of an attempt that has ended, opened for the next one."""
    first = Writer(folder)
    first.append(earlier)
    first.end_attempt(reason)
    return Writer(folder)


def past_of(folder: Path) -> dict[str, Callable[[], Iterable[StepRecord]]]:
    def read() -> Iterable[StepRecord]:
        with StoreReader(folder) as reader:
            yield from reader.records("0")

    return {"0": read}


def events_in(folder: Path) -> list[tuple[int, str]]:
    with StoreReader(folder) as reader:
        return [(event.step, event.severity) for event in reader.events()]


def unjudged_since(folder: Path) -> str | None:
    with StoreReader(folder) as reader:
        return reader.meta().get("unjudged_since")


def test_detectors_see_what_was_recorded_before_and_tell_none_of_it_again(tmp_path):
    alarm = Alarm(severity="warning", lasts=True)
    writer = continued(tmp_path, [record(0, 1.0), record(1, 50.0)])
    recorder = Recorder(writer, {"0": [alarm]}, past=past_of(tmp_path))
    recorder.put_record(putting(2, 50.0))
    recorder.close("closed")
    assert alarm.seen == [0, 1, 2]
    assert list(recorder.events) == []
    assert steps_in(tmp_path) == [0, 1, 2]


def test_records_are_written_while_earlier_ones_are_judged(tmp_path, monkeypatch):
    """A kill meanwhile loses none of them; they are judged in their turn."""
    alarm = Alarm(limit=10.0)
    writer = continued(tmp_path, [record(step) for step in range(3)])
    with monkeypatch.context() as patched:
        patched.setattr(recorder_module, "SLICE", 0.0)
        recorder = Recorder(writer, {"0": [alarm]}, past=past_of(tmp_path))
        recorder.put_record(lambda: replace(record(3, 50.0), attempt=1))
        assert recorder.flush()
        assert recorder._judge.is_behind
        assert steps_in(tmp_path) == [0, 1, 2, 3]
        assert alarm.seen == []
    wait_for(lambda: not recorder._judge.is_behind, recorder)
    for step, norm in [(4, 1.0), (5, 60.0)]:
        recorder.put_record(functools.partial(replace, record(step, norm), attempt=1))
    recorder.close("closed")
    assert steps_in(tmp_path) == [0, 1, 2, 3, 4, 5]
    assert alarm.seen == [0, 1, 2, 3, 4, 5]
    assert [event.step for event in recorder.events] == [3, 5]
    assert [step for step, _ in events_in(tmp_path)] == [3, 5]
    assert unjudged_since(tmp_path) == ""


def test_while_the_detectors_are_behind_every_commit_still_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "SLICE", 0.01)
    monkeypatch.setattr(recorder_module, "JUDGED_AT_END", 0.0)
    monkeypatch.setattr(judge, "REST", 0.0)

    class Endless(Alarm):
        def update(self, record: StepRecord) -> Sequence[Event]:
            time.sleep(0.005)
            return super().update(record)

    endless = Endless()
    writer = continued(tmp_path, [record(step) for step in range(400)])
    recorder = Recorder(writer, {"0": [endless]}, past=past_of(tmp_path))
    for step in range(400, 405):
        recorder.put_record(putting(step, 50.0))
        assert recorder.flush()
        assert steps_in(tmp_path)[-1] == step
    assert recorder._judge.is_behind
    recorder.close("closed")
    assert len(endless.seen) < 400


def test_what_was_not_judged_is_said_and_judged_by_the_next_attempt(tmp_path, monkeypatch, caplog):
    writer = continued(tmp_path, [record(step) for step in range(3)])
    with monkeypatch.context() as patched:
        patched.setattr(recorder_module, "JUDGED_AT_END", 0.0)
        patched.setattr(recorder_module, "SLICE", 0.0)
        recorder = Recorder(writer, {"0": [Alarm(limit=10.0)]}, past=past_of(tmp_path))
        recorder.put_record(lambda: replace(record(3, 50.0), attempt=1))
        recorder.close("closed")
    assert "steps-not-judged" in caplog.text
    assert steps_in(tmp_path) == [0, 1, 2, 3]
    assert (events_in(tmp_path), unjudged_since(tmp_path)) == ([], "1")
    alarm = Alarm(limit=10.0)
    recorder = Recorder(Writer(tmp_path), {"0": [alarm]}, past=past_of(tmp_path))
    recorder.put_record(lambda: replace(record(4), attempt=2))
    recorder.close("closed")
    assert alarm.seen == [0, 1, 2, 3, 4]
    assert events_in(tmp_path) == [(3, "critical")]
    assert unjudged_since(tmp_path) == ""


def test_a_past_that_can_not_be_read_ends_the_detectors_and_no_record(tmp_path, caplog):
    def unreadable() -> Iterable[StepRecord]:
        raise OSError("a planted fault")

    recorder = Recorder(continued(tmp_path, [record(0)]), {"0": [Alarm()]}, past={"0": unreadable})
    recorder.put_record(putting(1, 50.0))
    recorder.close("closed")
    assert steps_in(tmp_path) == [0, 1]
    assert "a planted fault (detectors-stopped)" in caplog.text
    assert recorder.fault is None


# ------------------------------------------------------------------------------------- the mirror


class Shown:
    """Is shown every record, as event files are."""

    def __init__(self, fails_at: int | None = None, fails_to_close: bool = False) -> None:
        self.steps: list[int] = []
        self.is_closed = False
        self._fails_at, self._fails_to_close = fails_at, fails_to_close

    def add(self, record: StepRecord) -> None:
        if record.step == self._fails_at:
            raise OSError("a planted fault")
        self.steps.append(record.step)

    def close(self) -> None:
        if self._fails_to_close:
            raise OSError("a planted fault")
        self.is_closed = True


def test_a_mirror_is_shown_each_record_in_order_and_closed(writer):
    mirror = Shown()
    recorder = Recorder(writer, {"0": []}, mirror=mirror)
    for step in range(300):
        recorder.put_record(putting(step))
    recorder.close("closed")
    assert mirror.steps == list(range(300))
    assert mirror.is_closed


@pytest.mark.parametrize(
    ("mirror", "says"),
    [
        (Shown(fails_at=1), "no longer writes event files: a planted fault (mirror-stopped)"),
        (Shown(fails_to_close=True), "could not write all event files: a planted fault (mirror-stopped)"),
    ],
    ids=["at a record", "at the end"],
)
def test_a_mirror_that_fails_ends_nothing_else(tmp_path, writer, caplog, mirror, says):
    recorder = Recorder(writer, {"0": []}, mirror=mirror)
    with caplog.at_level(logging.WARNING, "gradwatch"):
        for step in range(3):
            recorder.put_record(putting(step))
        recorder.close("closed")
    assert steps_in(tmp_path) == [0, 1, 2]
    assert recorder.fault is None
    assert [says in message for message in messages(caplog)] == [True]
