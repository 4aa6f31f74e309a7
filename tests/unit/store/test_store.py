"""What goes in comes out, whatever happened to the file in between is said."""

import dataclasses
import math
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch import Run
from gradwatch.distributed import ParameterPart
from gradwatch.errors import BadArgument, EmptyRun, GradwatchError, NotARun, RunNotFound, StoreDamaged, StoreTooNew
from gradwatch.record import (
    ORIGINS,
    SAMPLED_STATS,
    STATS,
    UPDATE_STATS,
    WEIGHT_STATS,
    Event,
    LayerStats,
    ParameterInfo,
    StepRecord,
    UpdateStats,
    WeightStats,
    merged,
)
from gradwatch.recording.recorder import Recorder
from gradwatch.store import FILE_NAME, SCHEMA, SCHEMA_VERSION, StoreReader, StoreWriter
from gradwatch.store.creation import on_network_file_system
from gradwatch.testing import steady, stream, write_run

GOLDEN = Path(__file__).parents[2] / "golden" / "stores"

# SQLite does not keep the sign of zero
anything = st.floats(allow_nan=True, allow_infinity=True).map(lambda value: value + 0.0)
maybe = st.none() | anything
float32s = st.lists(st.floats(width=32, allow_nan=True), min_size=2, max_size=2).map(lambda v: np.array(v, np.float32))
counts = st.lists(st.integers(0, 2**24) | st.just(math.nan), min_size=2, max_size=2).map(
    lambda v: np.array(v, np.float32)
)
infos = tuple(ParameterInfo(name=name, shape=(2, 3)) for name in ("a.weight", "b'; drop table step; --"))
layers = st.builds(
    lambda norm, abs_max, nonfinite, zeros: LayerStats(
        parameters=infos, norm=norm, abs_max=abs_max, nonfinite=nonfinite, zeros=zeros
    ),
    float32s,
    st.none() | float32s,
    counts,
    counts,
)
records = st.builds(
    StepRecord,
    step=st.integers(0, 2**40),
    wall_time=st.floats(0, 2e9),
    total_norm=anything,
    max_norm=maybe,
    norm_type=maybe,
    clip_value=maybe,
    clip_coef=anything,
    cut_entries=st.none() | st.integers(0, 2**40),
    nonfinite=st.integers(0, 2**40),
    loss=maybe,
    learning_rates=st.lists(st.floats(0, 10), max_size=3).map(tuple),
    loss_scale=maybe,
    skipped=st.booleans(),
    layers=st.none() | layers,
    update_norm=maybe,
    weight_norm=maybe,
    weights=st.none()
    | st.builds(
        WeightStats,
        weight_norm=float32s,
        update_norm=float32s,
        moved=st.none() | float32s,
        momentum_cosine=st.none() | float32s,
        weight_cosine=st.none() | float32s,
    ),
    updates=st.none()
    | st.builds(
        UpdateStats,
        update_norm=float32s,
        weight_norm=float32s,
        rms_ratio=st.none() | float32s,
        second_moment_norm=st.none() | float32s,
    ),
)
events = st.builds(
    Event,
    step=st.integers(0, 2**40),
    kind=st.text(),
    severity=st.sampled_from(["info", "warning", "critical"]),
    message=st.text(),
    parameter=st.none() | st.text(),
    observed=maybe,
    limit=maybe,
    until=st.none() | st.integers(0, 2**40),
    origin=st.none() | st.sampled_from(ORIGINS),
)


def write(folder, batch=(), found=()):
    writer = StoreWriter(folder)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.add_parameters("0", infos)
    writer.append(batch, found)
    writer.end_attempt("closed")
    return folder


def as_text(record):
    """Every value, arrays too, so that NaN equals NaN and nothing is rounded."""
    names = {"layers": STATS, "weights": (*WEIGHT_STATS, *SAMPLED_STATS), "updates": UPDATE_STATS}
    parts = [(getattr(record, field), stats) for field, stats in names.items()]
    values = [getattr(part, stat) for part, stats in parts if part is not None for stat in stats]
    return repr(record), [None if value is None else value.tobytes() for value in values]


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


def size_of(folder, steps, count):
    many = tuple(ParameterInfo(name=f"layer.{i}.weight", shape=(64, 64)) for i in range(1000))
    rng = np.random.default_rng(0)
    writer = StoreWriter(folder)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.add_parameters("0", many)
    for step in range(steps):
        columns = {name: rng.random(1000).astype(np.float32) for name in STATS[:count]}
        rest = {"total_norm": rng.random(), "max_norm": 1.1, "clip_coef": rng.random(), "loss": rng.random()}
        stats = LayerStats(parameters=many, **columns)
        rest |= {"wall_time": 1.7e9 + rng.random(), "learning_rates": (1.1e-3,)}
        writer.append([StepRecord(step=step, layers=stats, **rest)])
    writer.end_attempt("closed")
    return writer.path.stat().st_size


@pytest.mark.parametrize(("count", "limit"), [(1, 4200), (4, 17000)])
def test_the_file_grows_as_little_as_promised(tmp_path, count, limit):
    """1,000 parameters: at most 4.2 KB a step with one statistic and 17 KB with four."""
    growth = size_of(tmp_path / "b", 1300, count) - size_of(tmp_path / "a", 300, count)
    assert 4000 * count < growth / 1000 <= limit


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


# ------------------------------------------------------------------------------------- reading


def listing(folder):
    return sorted((p.name, p.stat().st_size) for p in folder.iterdir())


def test_a_closed_run_is_one_file(tmp_path):
    write_run(tmp_path, stream(steady(10)))
    assert [p.name for p in tmp_path.iterdir()] == [FILE_NAME]


def test_reading_creates_and_changes_nothing(tmp_path):
    write_run(tmp_path, stream(steady(400)))
    before = listing(tmp_path)
    run = Run(tmp_path)
    run.summary(), run.recommend(), run.events(), run.layers("zeros")
    assert listing(tmp_path) == before


def test_a_store_whose_log_is_gone_is_read_without_making_one(tmp_path):
    """As a writer leaves it that could not switch the log off."""
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.append(stream([1.0] * 20))
    writer.abandon()
    before = listing(tmp_path)
    assert [name for name, _ in before] == [FILE_NAME]
    run = Run(tmp_path)
    assert len(run.steps()) == 20
    assert listing(tmp_path) == before


def crashed(tmp_path):
    """A run whose writer was killed: the log holds what the file does not yet."""
    code = (
        "import os, sys; from pathlib import Path; from gradwatch.store import StoreWriter;"
        "from gradwatch.testing import stream;"
        "w = StoreWriter(Path(sys.argv[1])); w.begin_attempt({}, {'0': ('SGD', {})});"
        "r = stream([1.0] * 20); w.add_parameters('0', r[0].layers.parameters); w.append(r); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / f"{FILE_NAME}-wal").stat().st_size > 0
    return tmp_path


def test_a_crashed_run_is_read_whole_and_left_as_it_was(tmp_path):
    crashed(tmp_path)
    before = [name for name, _ in listing(tmp_path)]
    assert len(Run(tmp_path).steps()) == 20
    assert [name for name, _ in listing(tmp_path)] == before


def test_a_journal_left_by_a_killed_writer_is_rolled_back_in_a_copy(tmp_path):
    """As on a network file system, where there is no write-ahead log."""
    code = (
        "import os, sys; from pathlib import Path; import gradwatch.store.writer as w, gradwatch.store.rows as rows;"
        "from gradwatch.testing import stream; w.on_network_file_system = lambda folder: True;"
        "s = w.StoreWriter(Path(sys.argv[1])); s.begin_attempt({}, {'0': ('SGD', {})});"
        "r = stream([1.0] * 2000); s.add_parameters('0', r[0].layers.parameters); s.append(r[:20]);"
        "s._db.execute('pragma cache_size = 1'); s._transaction().__enter__();"
        "made = rows.step_rows(r[20:], 100)['step'];"
        "s._insert('step', rows.STEP_ROW_COLUMNS['step'], made); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / f"{FILE_NAME}-journal").stat().st_size > 0
    before = listing(tmp_path)
    assert len(Run(tmp_path).steps()) == 20
    assert listing(tmp_path) == before


def test_a_copied_log_without_its_shared_memory_is_read_in_a_copy(tmp_path):
    crashed(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for name in (FILE_NAME, f"{FILE_NAME}-wal"):
        shutil.copy(tmp_path / "a" / name, tmp_path / "b")
    before = listing(tmp_path / "b")
    assert len(Run(tmp_path / "b").steps()) == 20
    assert listing(tmp_path / "b") == before


def test_a_run_is_read_while_it_is_written(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    batch = stream(steady(30))
    writer.add_parameters("0", batch[0].layers.parameters)
    reader = Run(tmp_path)
    for i in range(0, 30, 10):
        writer.append(batch[i : i + 10])
        assert len(reader.steps()) == i + 10
        assert len(reader.layers("norm")) == i + 10
    writer.end_attempt("closed")
    assert len(reader.steps()) == 30
    assert len(Run(tmp_path).steps()) == 30


# ------------------------------------------------------------------------------------ bad files


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


def test_a_newer_schema_is_refused_with_what_to_do(tmp_path):
    write_run(tmp_path, stream(steady(3)))
    db = sqlite3.connect(tmp_path / FILE_NAME)
    db.execute(f"pragma user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(StoreTooNew, match=rf"schema {SCHEMA_VERSION + 1}; this version reads up to {SCHEMA_VERSION}"):
        Run(tmp_path)
    with pytest.raises(StoreTooNew, match="pip install -U gradwatch"):
        StoreWriter(tmp_path)


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
    with pytest.raises(EmptyRun, match="holds no step yet"):
        run.summary()


def test_a_store_before_its_first_attempt_is_empty_not_broken(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.abandon()
    assert Run(tmp_path).steps().empty
    with pytest.raises(EmptyRun):
        Run(tmp_path).summary()


@pytest.mark.parametrize("folder", sorted(GOLDEN.iterdir()), ids=lambda p: p.name)
def test_every_released_schema_is_read_for_ever(folder, tmp_path):
    before = listing(folder)
    run = Run(folder)
    steps = run.steps()
    assert len(steps) == 400
    assert math.isnan(steps.loc[350, "total_norm"])
    assert steps.loc[300, "total_norm"] == 50.0
    assert run.layers("norm").shape == (400, 2)
    assert [(e.step, e.kind) for e in run.events()] == [(300, "spike"), (350, "nonfinite")]
    assert run.summary().verdict == "critical"
    assert listing(folder) == before
    # and it can be continued
    shutil.copytree(folder, tmp_path / "copy")
    write_run(tmp_path / "copy", stream([1.0], first_step=400))
    assert len(Run(tmp_path / "copy").steps()) == 401


def test_a_store_of_schema_5_is_continued_with_updates_and_keeps_its_samples(tmp_path):
    """The checksums of a sample count more blobs since schema 6 than those of an older row."""
    shutil.copytree(GOLDEN / "schema-5", tmp_path / "copy")
    floats = np.array([1.0, math.nan], np.float32)
    more = StepRecord(
        step=400,
        attempt=1,
        update_norm=1.0,
        weight_norm=2.0,
        weights=WeightStats(weight_norm=floats, update_norm=floats, moved=floats),
        updates=UpdateStats(update_norm=floats, weight_norm=floats),
    )
    writer = StoreWriter(tmp_path / "copy")
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.append([more])
    writer.end_attempt("closed")
    run = Run(tmp_path / "copy")
    assert len(run.layers("weight_norm")) == 9
    assert run.layers("moved").index.tolist() == run.updates("update_norm").index.tolist() == [400]
    assert as_text(list(run.records())[-1]) == as_text(more)
    assert run.steps()["update_ratio"].tolist()[-2:] == [pytest.approx(math.nan, nan_ok=True), 0.5]
    assert run.damaged_rows == 0


def test_a_store_without_updates_has_empty_frames_of_them():
    run = Run(GOLDEN / "schema-5")
    assert run.updates("rms_ratio").shape == run.layers("moved").shape == (0, 2)
    assert run.steps()["update_norm"].isna().all()
    assert run.damaged_rows == 0
    with pytest.raises(BadArgument, match="expected one of update_norm, weight_norm, rms_ratio"):
        run.updates("norm")


def test_there_is_a_golden_store_of_this_schema():
    assert (GOLDEN / f"schema-{SCHEMA_VERSION}" / FILE_NAME).exists()


def test_the_schema_in_the_docs_is_the_schema():
    assert SCHEMA in (Path(__file__).parents[3] / "docs" / "store.md").read_text()


def test_network_file_systems_get_another_journal(tmp_path, monkeypatch):
    """WAL needs shared memory between the processes, which a network file system does not give."""
    assert on_network_file_system(Path("/proc")) is False
    monkeypatch.setattr("gradwatch.store.writer.on_network_file_system", lambda folder: True)
    writer = StoreWriter(tmp_path)
    assert writer.journal_mode == "truncate"
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.append(stream([1.0]))
    assert len(Run(tmp_path).steps()) == 1
    writer.end_attempt("closed")


def test_a_read_only_folder_can_be_read(tmp_path):
    folder = crashed(tmp_path / "run")
    folder.chmod(0o555)
    try:
        assert len(Run(folder).steps()) == 20
    finally:
        folder.chmod(0o755)


def test_an_event_that_lasts_is_one_row_brought_up_to_date(tmp_path):
    found = Event(step=5, kind="explosion", severity="warning", message="a rise", parameter="w")
    worse = dataclasses.replace(found, severity="critical", message="lost")
    over = dataclasses.replace(worse, until=9)
    other = Event(step=5, kind="explosion", severity="info", message="elsewhere", parameter=None)
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    for events in ([found, other], [worse], [over]):
        writer.append([], events)
    writer.end_attempt("closed")
    assert Run(tmp_path).events() == [over, other]
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        assert db.execute("select count(*) from event").fetchone() == (2,)


def test_records_are_read_in_pieces_that_miss_nothing(tmp_path):
    records = stream(steady(23))
    write_run(tmp_path, records)
    with StoreReader(tmp_path) as reader:
        for chunk in (1, 7, 23, 500):
            assert [r.step for r in reader.records("0", chunk)] == list(range(23))


def test_records_that_are_written_meanwhile_are_read_too(tmp_path):
    records = stream(steady(100))
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {}), "1": ("SGD", {})})
    writer.append(records[:30])
    with StoreReader(tmp_path) as reader:
        found = reader.records("0")
        seen = [next(found).step for _ in range(30)]
        writer.append([dataclasses.replace(record, optimizer="1") for record in records[:50]])
        writer.append(records[30:])
        assert seen + [record.step for record in found] == list(range(100))
        assert [record.step for record in reader.records("0", after=30)] == list(range(30, 100))
    writer.end_attempt("closed")


def test_steps_beyond_32_bits_and_clocks_that_jump_back(tmp_path):
    first = 2**31 - 5
    records = [
        dataclasses.replace(record, step=first + index, wall_time=1e9 + (index if index < 200 else index - 100_000))
        for index, record in enumerate(stream(steady(400), losses=[1.0] * 400))
    ]
    run = Run(write_run(tmp_path / "run", records))
    assert run.steps().index.tolist() == list(range(first, first + 400))
    assert run.layers("norm").index[-1] == first + 399
    assert run.records().__next__().step == first
    summary = run.summary()
    assert (summary.first_step, summary.last_step, summary.damaged_rows) == (first, first + 399, 0)
    assert run.recommend().refused is None


def test_a_run_that_is_resumed_ten_times_is_whole(tmp_path):
    """Each attempt goes back twenty steps before the last one."""
    records, begin = [], 0
    for attempt in range(11):
        own = stream(steady(100), first_step=begin)
        records += [dataclasses.replace(record, attempt=attempt, total_norm=1.0 + attempt) for record in own]
        begin += 80
    run = Run(write_run(tmp_path / "run", records))
    steps = run.steps()
    assert steps.index.tolist() == list(range(900))
    assert steps["total_norm"].tolist() == [1.0 + min(10, step // 80) for step in range(900)]
    assert len(run.seams()) == 10
    assert run.layers("norm").shape[0] == 900
    assert run.summary().attempts == 11


def test_of_processes_that_come_to_a_run_at_once_one_writes_and_the_others_are_told(tmp_path):
    code = """
        import sys, time
        from pathlib import Path
        from gradwatch.errors import RunInUse
        from gradwatch.store import StoreWriter
        run, ready = Path(sys.argv[1]), float(sys.argv[2])
        time.sleep(max(0.0, ready - time.time()))
        try:
            writer = StoreWriter(run)
            writer.begin_attempt({}, {"0": ("SGD", {})})
        except RunInUse:
            print("refused")
        else:
            time.sleep(1.5)
            writer.end_attempt("closed")
            print("wrote")
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "run"), str(time.time() + 2.5)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=60) for process in processes]
    assert sorted(out.strip() for out, _ in said) == ["refused"] * 3 + ["wrote"], said
    assert len(Run(tmp_path / "run").attempts()) == 1


def test_parameters_that_join_again_are_named_at_their_own_positions(tmp_path):
    """Of a run that was resumed, some are not there yet."""
    infos = [ParameterInfo(name=name, shape=(1,)) for name in "abcd"]
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.add_parameters("0", infos)
    recorder = Recorder(writer, {"0": []})
    parts = [ParameterPart(info=infos[0]), ParameterPart(info=infos[1]), None, ParameterPart(info=infos[3])]
    recorder.join(SimpleNamespace(name="0", parts=parts), 1)
    recorder.close("closed")
    assert Run(tmp_path).parameters() == tuple(infos)


def test_the_parameters_of_one_optimizer_alone_are_those_read_with_all_others(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {})
    for name in ("a", "b", "c"):
        writer.add_optimizer(name, "SGD", {})
        writer.add_parameters(name, [ParameterInfo(name=f"{name}.{i}", shape=(i,)) for i in range(4)])
    writer.end_attempt("closed")
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("update parameter set shape = '[9]' where optimizer = 'b' and position = 2")
        db.execute("update parameter set position = 4000 where optimizer = 'c' and position = 3")
    db.close()
    with StoreReader(tmp_path) as reader, StoreReader(tmp_path) as other:
        for name in ("a", "b", "c", "nothing"):
            assert reader.parameters_alone(name) == other.parameters(name)
        assert reader.damaged_rows == other.damaged_rows > 0
        assert [info.name for info in reader.parameters_alone("b")] == ["b.0", "b.1", "(damaged 2)", "b.3"]


@pytest.mark.parametrize("table", ["optimizer", "parameter", "step"])
def test_an_optimizer_is_known_by_any_row_of_it(tmp_path, table):
    """Whichever rows a damaged disk has left."""
    records = stream(steady(3))
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.add_parameters("0", records[0].layers.parameters)
    writer.append(records)
    assert writer.knows("0")
    assert not writer.knows("1")
    writer.end_attempt("closed")
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        for other in {"optimizer", "parameter", "step"} - {table}:
            db.execute(f"delete from {other}")
    db.close()
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {})
    assert writer.knows("0")
    assert not writer.knows("1")
    writer.end_attempt("closed")
