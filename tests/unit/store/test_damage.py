"""A damaged store: a clear error, or what is intact of it, said; never a traceback, a hang or a wrong number."""

import os
import random
import shutil
import sqlite3
import threading
from dataclasses import replace

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.errors import GradwatchError, NotARun, RunNotFound, StoreDamaged
from gradwatch.record import ParameterInfo
from gradwatch.sources import read, write
from gradwatch.store import FILE_NAME, StoreWriter
from gradwatch.store.checksums import LATER_STEP_NUMBERS, STEP_NUMBERS, STEP_TEXTS, step_crc, step_crcs
from gradwatch.testing import replaced, steady, stream, write_run
from gradwatch.views.html import render
from gradwatch.views.web.view import RunView


def written(folder, steps=300):
    names = tuple(ParameterInfo(name=f"layer{i}.weight", shape=(8, 8)) for i in range(12))
    records = stream(
        replaced(steady(steps), {steps * 2 // 3: 50.0, steps * 5 // 6: float("nan")}),
        parameters=names,
        shares=[0.2] * 12,
        max_norm=1.0,
        losses=[1.0 / (1 + i) for i in range(steps)],
    )
    return write_run(folder, records)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run, and all that it holds. It is short, because it is read hundreds of times."""
    folder = written(tmp_path_factory.mktemp("whole"), 120)
    run = Run(folder)
    stats = ("norm", "abs_max", "nonfinite", "zeros", "weight_norm", "update_norm")
    return (
        (folder / FILE_NAME).read_bytes(),
        run.steps(),
        {s: run.layers(s) for s in stats},
        run.events(),
        run.parameters(),
    )


def assert_a_part(found, expected):
    """Every row that is there is the one that was written."""
    assert set(found.index) <= set(expected.index)
    assert found.index.is_unique
    for name in found.columns:
        ours, theirs = (frame[name].loc[found.index].astype(object) for frame in (found, expected))
        same = (ours == theirs) | (ours.isna() & theirs.isna())
        assert same.all(), name


def look(folder, whole, thoroughly):
    """Read everything; what was read is right, and where something is missing it is said."""
    _, steps, layers, events, parameters = whole
    run = Run(folder)
    found = run.steps()
    assert_a_part(found, steps)
    names = run.parameters()
    assert [n for n in names if n not in parameters and not n.name.startswith("(damaged")] == []
    complete = len(found) == len(steps) and names == parameters
    for stat, expected in layers.items():
        table = run.layers(stat)
        assert np.isin(table.index, expected.index).all()
        values = table.to_numpy()[:, : expected.shape[1]]
        assert np.array_equal(values, expected.loc[table.index].to_numpy()[:, : values.shape[1]], equal_nan=True)
        complete &= table.shape == expected.shape
    assert [event for event in run.events() if event not in events] == []
    complete &= len(run.events()) == len(events)
    list(run.records())
    run.summary()
    if thoroughly:
        run.recommend()
        run.replay()
        view = RunView(folder)
        view.overview(), view.layers(), view.advice(), view.series(0, 120, 50), view.tile("norm", 0, 120, 50)
        render(view)
    return complete, run.damaged_rows


def attempt(folder, data, whole, thoroughly=False):
    for file in folder.iterdir():
        file.unlink()
    (folder / FILE_NAME).write_bytes(data)
    try:
        complete, left_out = look(folder, whole, thoroughly)
    except GradwatchError as error:
        return error.slug
    assert complete or left_out, "something is missing and nothing is said"
    return "complete" if complete else "the rest"


@pytest.mark.parametrize(
    ("seed", "flips"), [(0, 60), *(pytest.param(seed, 150, marks=pytest.mark.slow) for seed in (1, 2))]
)
def test_flipped_bits_never_give_a_wrong_number(whole, tmp_path, seed, flips):
    """`benchmarks/store_fuzz.py` flips every bit of the small tables; here more is read of each damaged run."""
    rng = random.Random(seed)
    outcomes = {}
    for number in range(flips):
        data = bytearray(whole[0])
        for _ in range(rng.choice([1, 1, 1, 4, 40])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        outcome = attempt(tmp_path, data, whole, number % 20 == 0)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert outcomes["the rest"] > flips // 20
    assert outcomes["store-damaged"] > flips // 50


@pytest.mark.slow
def test_overwritten_stretches_never_give_a_wrong_number(whole, tmp_path):
    rng = random.Random(1)
    for number in range(200):
        data = bytearray(whole[0])
        begin, length = rng.randrange(len(data)), rng.choice([8, 100, 4096, 40_000])
        data[begin : begin + length] = rng.choice([bytes(length), rng.randbytes(length), b"\xff" * length])
        attempt(tmp_path, data[: len(whole[0])], whole, number % 20 == 0)


@pytest.mark.slow
def test_a_file_cut_at_every_4_kilobytes_never_gives_a_wrong_number(whole, tmp_path):
    outcomes = {attempt(tmp_path, whole[0][:size], whole) for size in range(0, len(whole[0]), 4096)}
    assert outcomes <= {"store-damaged", "not-a-run", "the rest", "empty-run"}


def change(folder, statement, *values):
    with sqlite3.connect(folder / FILE_NAME) as db:
        db.execute(statement, values)
    db.close()


@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        ("update step set loss = loss * 2 where id = 7", 1),
        ("update step set step = 5 where id = 9", 2),  # and its layers, which belong to no step
        ("update step set total_norm = null where id = 7", 1),
        ("update step set optimizer = '1' where id = 7", 1),
        ("update step set wall_time = 'soon' where id = 7", 1),
        ("delete from step where id between 20 and 24", 5),
        ("update layer set norm = abs_max || x'' where id = 3", 1),
        ("update layer set norm = (select norm from layer where id = 200) where id = 4", 1),
        ("update layer set norm = x'00' where id = 3", 1),
        ("update event set observed = 1.0", 2),
        ("update meta set value = 'x' where key = 'model'", 1),
    ],
)
def test_what_was_changed_is_left_out_and_counted(tmp_path, command, statement, rows):
    folder = written(tmp_path / "run")
    before = Run(folder)
    expected = before.steps()
    change(folder, statement)
    run = Run(folder)
    summary = run.summary()
    run.layers("norm")
    assert_a_part(run.steps(), expected)
    assert run.damaged_rows == rows
    assert summary.damaged_rows == rows or "layer" in statement
    said = command("report", folder)
    assert said.code == 0
    assert "damaged and left out" in said.out


def test_a_damaged_name_is_said_in_its_place(tmp_path):
    folder = written(tmp_path)
    change(folder, "update parameter set name = 'other' where position = 3")
    names = Run(folder).layers("norm").columns.tolist()
    assert names[2:5] == ["layer2.weight", "(damaged 3)", "layer4.weight"]


def test_an_intact_run_has_nothing_left_out(tmp_path):
    run = Run(written(tmp_path))
    run.summary()
    assert run.damaged_rows == 0
    assert len(list(run.records())) == 300


def test_a_statistic_that_was_not_recorded_is_not_missing(tmp_path):
    records = stream(steady(100))
    bare = [replace(r, layers=replace(r.layers, abs_max=None, zeros=None), weights=None) for r in records]
    bare[50] = replace(bare[50], layers=None)
    run = Run(write_run(tmp_path, bare))
    run.summary()
    assert run.layers("abs_max").empty
    assert (len(run.layers("norm")), run.damaged_rows) == (99, 0)


def test_what_is_written_meanwhile_is_not_missing(tmp_path):
    records = stream(steady(4000))
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.add_parameters("0", records[0].layers.parameters)
    writer.append(records[:10])

    def write():
        for begin in range(10, 4000, 5):
            writer.append(records[begin : begin + 5])

    thread = threading.Thread(target=write)
    thread.start()
    while thread.is_alive():
        run = Run(tmp_path)
        run.summary()
        list(run.records())
        assert run.damaged_rows == 0
    writer.end_attempt("closed")


def test_a_row_has_the_same_checksum_alone_and_among_many():
    rng = np.random.default_rng(0)
    names = (*STEP_NUMBERS, *STEP_TEXTS, *LATER_STEP_NUMBERS)
    rows = []
    for number in range(50):
        row = dict.fromkeys(names) | {"id": number, "step": 2**40 + number, "optimizer": "0é"}
        for name in (*STEP_NUMBERS[3:], *LATER_STEP_NUMBERS):
            row[name] = [None, float("nan"), float("inf"), 0.0, -0.0, 7, float(rng.normal())][rng.integers(7)]
        rows.append(row)
    sums = step_crcs({name: [row[name] for row in rows] for name in names})
    assert sums.tolist() == [step_crc(row) for row in rows]


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"SQLite format 3\0", b"PK\x03\x04", os.urandom(5000)])
def test_foreign_files(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises((StoreDamaged, NotARun)):
        Run(tmp_path).summary()


def test_a_link_to_nothing_and_a_folder_in_the_place_of_a_store(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / FILE_NAME).symlink_to(tmp_path / "nothing")
    with pytest.raises(RunNotFound):
        Run(tmp_path / "a")
    (tmp_path / "b" / FILE_NAME).mkdir(parents=True)
    with pytest.raises(GradwatchError):
        Run(tmp_path / "b")


def test_a_log_without_its_store(tmp_path):
    folder = written(tmp_path / "run")
    shutil.copy(folder / FILE_NAME, folder / f"{FILE_NAME}-wal")
    (folder / FILE_NAME).unlink()
    with pytest.raises(RunNotFound):
        Run(folder)


HISTORIES = {
    "trainer_state.json": b'{"log_history": [{"step": 1, "grad_norm": 1.5}, {"step": 2, "grad_norm": 1.0}]}',
    "history.csv": b"step,grad_norm,loss\n1,1.5,2.0\n2,1.0,1.9\n3,0.9,1.8\n",
}


@pytest.mark.parametrize("name", [*HISTORIES, "events.out.tfevents.1.host"])
def test_damaged_histories_are_refused_or_read(tmp_path, name):
    if name in HISTORIES:
        data = HISTORIES[name]
    else:
        from gradwatch.sinks import event_files as mirror

        mirror.write(stream(steady(60)), tmp_path / "logs")
        data = next((tmp_path / "logs").iterdir()).read_bytes()
    rng = random.Random(name)
    file = tmp_path / name
    refused = 0
    for number in range(250):
        broken = bytearray(data)
        for _ in range(rng.choice([1, 5, 30])):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        if rng.random() < 0.3:
            broken = broken[: rng.randrange(len(broken))]
        file.write_bytes(broken)
        try:
            made = write(read([file]), tmp_path / str(number), "SGD", None)
        except GradwatchError:
            refused += 1
        else:
            assert len(Run(made.run).steps()) == made.steps > 0
    assert 0 < refused < 250
