"""What a writer puts into a store, alone and after others."""

import _sqlite3
import ctypes
import dataclasses
import sqlite3
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.distributed import ParameterPart
from gradwatch.record import STATS, Event, LayerStats, ParameterInfo, StepRecord
from gradwatch.recording.recorder import Recorder
from gradwatch.store import FILE_NAME, StoreReader, StoreWriter
from gradwatch.testing import steady, stream, write_run


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
        import sys
        from pathlib import Path
        from gradwatch.errors import RunInUse
        from gradwatch.store import StoreWriter
        print("here", flush=True)
        input()
        try:
            writer = StoreWriter(Path(sys.argv[1]))
            writer.begin_attempt({}, {"0": ("SGD", {})})
        except RunInUse:
            print("refused", flush=True)
        else:
            print("writes", flush=True)
            sys.stdin.read()  # until all have tried
            writer.end_attempt("closed")
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "run")]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(4)]
    assert [process.stdout.readline() for process in processes] == ["here\n"] * 4
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.stdout.readline() for process in processes]
    errors = "".join(process.communicate(timeout=60)[1] for process in processes)
    assert sorted(said) == ["refused\n"] * 3 + ["writes\n"], errors
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


def resumed(folder, *optimizers):
    """An attempt with these optimizers, which joins them one after another and is killed."""
    writer = StoreWriter(folder)
    writer.begin_attempt({}, {})
    for name, kind in optimizers:
        writer.add_optimizer(name, kind, {"lr": len(kind)})
    writer.abandon()
    with sqlite3.connect(folder / FILE_NAME) as db:  # the process is gone
        db.execute("update attempt set pid = 0")


@pytest.mark.parametrize(
    "again",
    [
        [],
        [("first", "SGD")],
        [("second", "AdamW")],
        [("first", "SGD"), ("second", "Adam")],
        [("third", "SGD"), ("second", "Adam"), ("first", "SGD")],
        [("fourth", "SGD"), ("first", "AdamW")],
    ],
)
def test_an_attempt_keeps_the_order_of_the_optimizers_wherever_it_is_killed(tmp_path, again):
    """The first optimizer is the one that every view shows."""
    before = [("first", "SGD"), ("second", "Adam"), ("third", "RMSprop")]
    resumed(tmp_path, *before)
    resumed(tmp_path, *again)
    expected = dict(before) | dict(again)
    run = Run(tmp_path)
    assert list(run.optimizers.items()) == list(expected.items())
    assert {name: run.settings(name) for name in expected} == {n: {"lr": len(kind)} for n, kind in expected.items()}
    assert run.damaged_rows == 0


def test_a_state_is_kept_in_no_memory_once_it_is_written(tmp_path):
    """SQLite keeps the values of a statement until the next ones: megabytes, of the state of a thousand parameters."""
    library = ctypes.CDLL(_sqlite3.__file__)
    if not hasattr(library, "sqlite3_memory_used"):
        pytest.skip("SQLite is part of another library")
    library.sqlite3_memory_used.restype = ctypes.c_int64
    pieces = [np.arange(2.0**16).data, b"", bytes(2**18)]
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {})
    before = library.sqlite3_memory_used()
    for last in (1, 2):
        writer.save_detector_state("0", last, "1", pieces)
        assert library.sqlite3_memory_used() - before < 2**16
    writer.end_attempt("closed")
    with StoreReader(tmp_path) as reader:
        assert reader.detector_state("0", "1") == (2, b"".join(pieces))
