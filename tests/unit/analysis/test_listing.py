"""The list of many runs: each row equals the run's own summary, with an index, without one and with a broken one."""

import json
import math
import os
import shutil

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis import listing
from gradwatch.analysis.listing import INDEX_NAME, RunRow, list_runs, row_of, sorted_rows
from gradwatch.analysis.notes import Notes, write_notes
from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run


def write(folder):
    write_run(folder / "a", stream(steady(300), losses=[1.0] * 299 + [0.5], max_norm=1.1), "AdamW", {"lr": 0.1})
    write_run(folder / "deep" / "b", stream(replaced(steady(300), {298: math.inf, 299: math.nan})))


@pytest.fixture
def folder(tmp_path, made_once):
    return made_once(write, tmp_path)


def rows(folder, **options):
    return {row.name: row for row in list_runs(folder, **options)}


def test_a_row_has_the_numbers_of_the_summary(folder):
    found = rows(folder)
    assert list(found) == ["a", "deep/b"]
    for name, row in found.items():
        summary = Run(folder / name).summary()
        fault = next((one for one in summary.findings if one.severity != "info"), None)
        assert (row.verdict, row.steps, row.optimizer) == (summary.verdict, summary.steps, summary.optimizer_class)
        assert row.last_loss == (summary.loss and summary.loss.end)
        assert (row.learning_rate, row.threshold) == (summary.learning_rate, summary.clipping.threshold)
        assert row.clipped_fraction == summary.clipping.clipped_fraction
        assert row.fault == (fault and fault.code)
        assert row.state == "ended"
        assert row.size == (folder / name / "gradwatch.db").stat().st_size
        assert row.written == pytest.approx((folder / name / "gradwatch.db").stat().st_mtime)


def test_the_index_is_used_while_nothing_changed_and_only_then(folder, monkeypatch):
    first = list_runs(folder)
    asked = []
    monkeypatch.setattr(listing, "row_of", lambda name, path: asked.append(name) or row_of(name, path))
    assert list_runs(folder) == first
    assert asked == []
    write_run(folder / "a", stream(steady(5), attempt=1, first_step=300))
    assert rows(folder)["a"].steps == 305
    assert asked == ["a"]
    (folder / INDEX_NAME).unlink()
    assert [row.name for row in list_runs(folder)] == ["a", "deep/b"]
    assert asked == ["a", "a", "deep/b"]


def test_runs_that_come_and_go_do_so_in_the_list(folder):
    list_runs(folder)
    shutil.rmtree(folder / "deep")
    write_run(folder / "c", stream(steady(20)))
    assert list(rows(folder)) == ["a", "c"]
    assert json.loads((folder / INDEX_NAME).read_text())["runs"].keys() == {"a", "c"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": [1, "0.1.0"], "runs": 3}',
        '{"version": [0], "runs": {}}',
        "[" * 100_000,
        '{"version": VERSION, "runs": {"a": {"stamp": STAMP, "row": {"steps": "many"}}}}',
        '{"version": VERSION, "runs": {"a": {"stamp": STAMP, "row": {"unknown": 1}}}}',
        '{"version": VERSION, "runs": {"a": {"stamp": STAMP, "row": {"state": "asleep"}}}}',
        '{"version": VERSION, "runs": {"a": {"stamp": "x", "row": []}, "b": null}}',
    ],
)
def test_an_index_that_is_damaged_is_computed_again(folder, content):
    expected = list_runs(folder)
    stored = json.loads((folder / INDEX_NAME).read_text())
    content = content.replace("VERSION", json.dumps(stored["version"]))
    (folder / INDEX_NAME).write_text(content.replace("STAMP", json.dumps(stored["runs"]["a"]["stamp"])))
    assert list_runs(folder) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_not_be_written_is_listed_all_the_same(folder):
    folder.chmod(0o500)
    try:
        assert len(list_runs(folder)) == 2
    finally:
        folder.chmod(0o700)


def test_without_computing_only_the_index_is_read(folder):
    assert {row.state for row in list_runs(folder, compute=False)} == {"not computed"}
    assert not (folder / INDEX_NAME).exists()
    list_runs(folder)
    assert {row.state for row in list_runs(folder, compute=False)} == {"ended"}


def test_a_run_that_can_not_be_read_says_why_and_hides_no_other(folder):
    data = (folder / "a" / "gradwatch.db").read_bytes()
    (folder / "broken").mkdir()
    (folder / "broken" / "gradwatch.db").write_bytes(data[: len(data) // 2])
    found = rows(folder)
    assert found["broken"].state == "unreadable"
    assert "store-damaged" in found["broken"].error
    assert found["a"].verdict is not None


def test_a_run_without_a_step_has_no_verdict(tmp_path):
    write_run(tmp_path / "empty", [])
    assert (rows(tmp_path)["empty"].verdict, rows(tmp_path)["empty"].steps) == (None, None)


def test_a_live_run_whose_process_died_is_live_no_more(tmp_path, monkeypatch):
    writer = StoreWriter(tmp_path / "a")
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.append(stream(steady(30)))
    assert rows(tmp_path)["a"].state == "live"
    monkeypatch.setattr("gradwatch.store.reader.is_alive", lambda *_: False)
    assert rows(tmp_path)["a"].state == "ended"
    writer.end_attempt("closed")


def test_notes_count_at_once_and_the_config_tells_the_batch(tmp_path):
    writer = StoreWriter(tmp_path / "a")
    writer.begin_attempt({"config": '{"data.batch_size": 32, "depth": 4}'}, {"0": ("SGD", {})})
    writer.append(stream(steady(30)))
    writer.end_attempt("closed")
    row = rows(tmp_path)["a"]
    assert (row.batch_size, row.config, row.tags) == (32.0, {"data.batch_size": 32, "depth": 4}, ())
    write_notes(tmp_path / "a", Notes(note="n", tags=("t",)))
    row = rows(tmp_path)["a"]
    assert (row.note, row.tags, row.batch_size) == ("n", ("t",), 32.0)


def test_many_runs_are_computed_by_processes_and_the_rows_are_the_same(tmp_path, monkeypatch):
    for number in range(18):
        write_run(tmp_path / f"r{number:02}", stream(steady(12, seed=number)))
    told = []
    together = list_runs(tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (18, 18)
    (tmp_path / INDEX_NAME).unlink()
    monkeypatch.setattr(listing, "LEAST_FOR_PROCESSES", 99)
    assert list_runs(tmp_path) == together


def test_rows_are_sorted_with_those_that_lack_the_value_last():
    made = [
        RunRow(name=name, last_loss=loss) for name, loss in [("a", 2.0), ("b", None), ("c", math.nan), ("d", math.inf)]
    ]
    assert [row.name for row in sorted_rows(made, "last_loss")] == ["a", "d", "b", "c"]
    assert [row.name for row in sorted_rows(made, "last_loss", descending=True)] == ["d", "a", "b", "c"]
    assert [row.name for row in sorted_rows(made, "name", descending=True)] == ["d", "c", "b", "a"]


def test_without_an_index_the_folder_stays_as_it_is(tmp_path):
    write_run(tmp_path / "a", stream(steady(300)))
    before = sorted(tmp_path.rglob("*"))
    assert [row.verdict for row in list_runs(tmp_path, keep_index=False)] == ["healthy"]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("end", [math.nan, math.inf])
def test_a_run_whose_loss_ended_not_finite_shows_that(tmp_path, end):
    write_run(tmp_path / "lost", stream(steady(100), losses=[1.0] * 90 + [end] * 10))
    np.testing.assert_equal(rows(tmp_path)["lost"].last_loss, end)
    np.testing.assert_equal(rows(tmp_path)["lost"].last_loss, end)  # from the index
