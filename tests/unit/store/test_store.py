"""What goes in comes out, and a file that is no store is said to be none."""

import math
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch import Run
from gradwatch.errors import EmptyRun, GradwatchError, NotARun, RunNotFound, StoreDamaged
from gradwatch.record import LayerStats, ParameterInfo, StepRecord, merged
from gradwatch.store import FILE_NAME, StoreReader, StoreWriter
from gradwatch.store.creation import on_network_file_system
from gradwatch.testing import steady, stream, write_run

from .batches import as_text, events, infos, records


def write(folder, batch=(), found=()):
    writer = StoreWriter(folder)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.add_parameters("0", infos)
    writer.append(batch, found)
    writer.end_attempt("closed")
    return folder


@settings(max_examples=60, deadline=None)
@given(batch=st.lists(records, max_size=4), found=st.lists(events, max_size=3))
def test_what_goes_in_comes_out(tmp_path_factory, batch, found):
    """NaN and infinity included: they are what this tool exists for."""
    folder = write(tmp_path_factory.mktemp("run"), batch, found)
    with StoreReader(folder) as reader:
        assert [as_text(r) for r in reader.records("0")] == [as_text(r) for r in batch]
        assert [repr(e) for e in reader.events()] == [repr(e) for e in merged(found)]


def test_none_and_nan_are_two_things(tmp_path):
    write(tmp_path, [StepRecord(step=0, loss=None), StepRecord(step=1, loss=math.nan)])
    with StoreReader(tmp_path) as reader:
        first, second = reader.records("0")
    assert first.loss is None
    assert math.isnan(second.loss)
    assert Run(tmp_path).steps()["loss_logged"].tolist() == [False, True]


def test_any_sqlite_tool_reads_the_plain_columns(tmp_path):
    write_run(tmp_path, stream([1.0, 2.0], losses=[0.5, math.nan]))
    db = sqlite3.connect(tmp_path / FILE_NAME)
    assert db.execute("select step, total_norm, loss, nan from step").fetchall() == [
        (0, 1.0, 0.5, None),
        (1, 2.0, None, "loss"),
    ]


def test_a_long_run_comes_back_as_one_frame(tmp_path):
    names = tuple(ParameterInfo(name=f"p{i}", shape=(2,)) for i in range(50))
    rng = np.random.default_rng(0)
    table = rng.random((500, 50)).astype(np.float32)
    batch = [StepRecord(step=i, layers=LayerStats(parameters=names, norm=row)) for i, row in enumerate(table)]
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.add_parameters("0", names)
    writer.append(batch)
    writer.end_attempt("closed")
    frame = Run(tmp_path).layers("norm")
    assert frame.to_numpy().tobytes() == table.tobytes()
    assert frame.index.name == "step"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        pytest.param(lambda p: None, RunNotFound, id="nothing there"),
        pytest.param(lambda p: p.mkdir(), RunNotFound, id="an empty folder"),
        pytest.param(lambda p: p.write_text("step,norm\n1,2\n"), NotARun, id="a foreign file"),
        pytest.param(lambda p: (p.mkdir(), (p / FILE_NAME).write_bytes(b"\x00" * 5000)), NotARun, id="zeros"),
        pytest.param(lambda p: (p.mkdir(), (p / FILE_NAME).touch()), NotARun, id="an empty file"),
        pytest.param(
            lambda p: sqlite3.connect(p).execute("create table t (x)").connection.close(),
            NotARun,
            id="another database",
        ),
        pytest.param(lambda p: (p.mkdir(), (p / FILE_NAME).mkdir()), StoreDamaged, id="a folder in place of the file"),
    ],
)
def test_what_is_no_run_is_said_clearly(tmp_path, make, kind):
    path = tmp_path / "x"
    make(path)
    with pytest.raises(kind) as raised:
        Run(path)
    assert str(path) in str(raised.value)
    assert str(raised.value).endswith(f"({kind.slug})")


def test_a_truncated_file_never_gives_a_wrong_number_or_a_traceback(tmp_path):
    whole = write_run(tmp_path / "whole", stream(steady(3000, seed=1)))
    data = (whole / FILE_NAME).read_bytes()
    expected = Run(whole).steps()["total_norm"]
    outcomes = set()
    for size in range(0, len(data), 16384):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / FILE_NAME).write_bytes(data[:size])
        try:
            found = Run(folder).steps()["total_norm"]
        except GradwatchError as error:
            outcomes.add(error.slug)
        else:
            assert found.equals(expected[: len(found)])
            outcomes.add("read")
    assert "store-damaged" in outcomes


def test_a_run_without_a_step_is_empty_not_broken(tmp_path):
    folder = write(tmp_path)
    run = Run(folder)
    assert run.steps().empty
    assert run.layers("norm").empty
    assert run.events() == []
    assert "never made a step" in run.recommend().refused
    with pytest.raises(EmptyRun, match="holds no step"):
        run.summary()


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_run_without_a_step_that_will_get_none_says_so(tmp_path, is_killed):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    if is_killed:
        writer.abandon()
        with sqlite3.connect(tmp_path / FILE_NAME) as db:
            db.execute("update attempt set pid = 2147483647")
    else:
        writer.end_attempt("exit")
    why = "its process is gone" if is_killed else "no optimizer made one before the training ended"
    with pytest.raises(EmptyRun, match=why):
        Run(tmp_path).summary()


def test_a_store_before_its_first_attempt_is_empty_not_broken(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.abandon()
    assert Run(tmp_path).steps().empty
    with pytest.raises(EmptyRun):
        Run(tmp_path).summary()


def test_network_file_systems_get_another_journal(tmp_path, monkeypatch):
    """WAL needs shared memory between the processes, which a network file system does not give."""
    assert on_network_file_system(Path("/proc")) is False
    monkeypatch.setattr("gradwatch.store.connection.on_network_file_system", lambda folder: True)
    writer = StoreWriter(tmp_path)
    assert writer.journal_mode == "truncate"
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.append(stream([1.0]))
    assert len(Run(tmp_path).steps()) == 1
    writer.end_attempt("closed")


@pytest.mark.parametrize("damage", ["update detector_state set optimizer = '1'", "delete from detector_state"])
def test_a_state_of_detectors_that_is_lost_is_counted(tmp_path, damage):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.save_detector_state("0", 0, "1", [b"state"])
    writer.end_attempt("closed")
    with StoreReader(tmp_path) as reader:
        assert (reader.detector_state("0", "1"), reader.detector_state("new", "1")) == ((0, b"state"), None)
        assert reader.damaged_rows == 0
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute(damage)
    db.close()
    with StoreReader(tmp_path) as reader:
        assert reader.detector_state("0", "1") is None
        assert reader.damaged_rows == 1


def test_the_next_step_is_found_however_long_ago_the_largest_was_made(tmp_path):
    """A run that went back to a checkpoint has its largest step among its first rows."""
    records = [*stream(steady(5), first_step=5000), *stream(steady(1500))]
    write(tmp_path, records)
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("delete from meta where key = 'next_steps'")  # as an older version leaves it
    db.close()
    with StoreReader(tmp_path) as reader:
        assert reader.next_step("0") == 5005
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("update step set loss = 7.0 where step = 5004")
    db.close()
    with StoreReader(tmp_path) as reader:
        assert reader.next_step("0") == 5004
