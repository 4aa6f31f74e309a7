"""Batches on a disk that takes them, on one that does not for a while, and on one that never does again."""

import pytest

from gradwatch import Run
from gradwatch.errors import StoreNotWritable
from gradwatch.record import Event
from gradwatch.recording import batch_writer as module
from gradwatch.recording.batch_writer import Batch, BatchWriter
from gradwatch.store import StoreWriter
from gradwatch.testing import stream


class Disk(StoreWriter):
    """A store on a disk that is full for as long as it is told."""

    is_full = False
    tries = 0

    def append(self, *args, **kwargs):
        self.tries += 1
        if self.is_full:
            raise StoreNotWritable("no space left.")
        return super().append(*args, **kwargs)


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path)
    disk.begin_attempt({}, {"0": ("SGD", {})})
    disk.add_parameters("0", stream([1.0])[0].layers.parameters)
    yield disk
    disk.end_attempt("closed")


def at(monkeypatch, seconds):
    monkeypatch.setattr(module.time, "monotonic", lambda: seconds)


def steps(folder):
    return Run(folder).steps().index.tolist()


def test_an_empty_batch_is_not_written(disk):
    writer = BatchWriter(disk, 10)
    assert not Batch()
    assert writer.commit() == Batch()
    assert disk.tries == 0


def test_a_batch_is_written_once_with_its_events(disk, tmp_path):
    writer = BatchWriter(disk, 10)
    event = Event(step=1, kind="spike", severity="warning", message="m")
    writer.batch.records.extend(stream([1.0, 2.0]))
    writer.batch.events.append(event)
    written = writer.commit()
    assert (len(written.records), written.events) == (2, [event])
    assert not writer.batch
    writer.commit()
    assert (writer.last_id, disk.tries) == (2, 1)
    assert steps(tmp_path) == [0, 1]
    assert Run(tmp_path).events() == [event]


def test_dropped_steps_are_written_down_as_they_grow(disk, tmp_path):
    writer = BatchWriter(disk, 10)
    writer.commit(refused=3)
    writer.lost = 2
    writer.commit(refused=4)
    writer.commit(refused=4)
    assert disk.tries == 2
    assert Run(tmp_path).attempts()[0].dropped == 6


def test_a_full_disk_is_tried_again_after_a_pause_that_doubles(disk, tmp_path, monkeypatch, caplog):
    writer = BatchWriter(disk, 10)
    writer.batch.records.extend(stream([1.0] * 3))
    disk.is_full = True
    tried_at = []
    for second in range(100):
        at(monkeypatch, float(second))
        before = disk.tries
        assert writer.commit() is None
        if disk.tries > before:
            tried_at.append(second)
    assert tried_at == [0, 1, 3, 7, 15, 31, 61, 91], "at most half a minute apart"
    disk.is_full = False
    at(monkeypatch, 130.0)
    assert len(writer.commit().records) == 3
    assert steps(tmp_path) == [0, 1, 2]
    assert [record.getMessage().rpartition("(")[2] for record in caplog.records] == [
        "recording-waits)",
        "recording-resumed)",
    ]


def test_the_latest_steps_are_kept(disk, tmp_path, monkeypatch):
    writer = BatchWriter(disk, 3)
    disk.is_full = True
    at(monkeypatch, 0.0)
    for first in range(0, 10, 2):
        writer.batch.records.extend(stream([1.0, 1.0], first_step=first))
        assert writer.commit() is None
    assert writer.lost == 7
    disk.is_full = False
    at(monkeypatch, 60.0)
    writer.commit()
    assert steps(tmp_path) == [7, 8, 9]
    assert Run(tmp_path).attempts()[0].dropped == 7


def test_at_the_end_it_is_tried_at_once_and_the_fault_is_raised(disk, monkeypatch):
    writer = BatchWriter(disk, 10)
    writer.batch.records.extend(stream([1.0] * 4))
    disk.is_full = True
    at(monkeypatch, 0.0)
    writer.commit()
    with pytest.raises(StoreNotWritable, match="no space left"):
        writer.commit(closing=True)
    assert disk.tries == 2
    writer.give_up()
    assert (writer.lost, writer.batch) == (4, Batch())
