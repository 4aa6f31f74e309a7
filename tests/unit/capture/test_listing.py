"""Captures are found, described and deleted without torch."""

import math
import subprocess
import sys

import pytest
import torch

from gradwatch.capture import (
    Capture,
    capture_folders,
    delete,
    describe,
    list_captures,
    survey,
    unreadable_captures,
    write,
)
from gradwatch.capture.listing import size_of_captures
from gradwatch.errors import CaptureNotFound


def put(run, name, **changes):
    known = {"run": str(run), "step": 3, "optimizer": "0", "why": "nonfinite", "groups": (), "total_norm": math.nan}
    return write(Capture(**(known | changes)), run / "captures" / name)


def test_captures_are_listed_by_step(tmp_path):
    put(tmp_path, "step-000200", step=200, why="spike", total_norm=9.5, limit=3.0)
    put(tmp_path, "step-000003", weights={"w": torch.ones(1000)}, not_kept=("why not",), replayable=False)
    put(tmp_path, "step-000003-generator", optimizer="generator")
    (tmp_path / "captures" / "notes.txt").write_text("not a capture")
    (tmp_path / "captures" / ".step-000004.77.part").mkdir()
    first, other, last = list_captures(tmp_path)
    assert (first.step, first.why, first.replayable, first.not_kept) == (3, "nonfinite", False, ("why not",))
    assert first.has_weights
    assert not other.has_weights
    assert math.isnan(first.total_norm)
    assert first.bytes == sum(one.stat().st_size for one in first.folder.iterdir()) > 4000
    assert other.optimizer == "generator"
    assert (last.step, last.total_norm, last.limit) == (200, 9.5, 3.0)
    assert describe(last.folder) == last


def test_a_run_without_captures_has_none(tmp_path):
    assert list_captures(tmp_path) == []
    assert list_captures(tmp_path / "missing") == []


def test_a_damaged_capture_has_a_folder_and_no_description(tmp_path):
    folder = put(tmp_path, "step-000003")
    (folder / "capture.json").write_text("{")
    assert list_captures(tmp_path) == []
    assert capture_folders(tmp_path) == [folder]


def test_a_capture_is_deleted_with_what_lies_in_it(tmp_path):
    folder = put(tmp_path, "step-000003")
    (folder / "replay.json").write_text("{}")
    delete(folder)
    assert not folder.exists()


def test_only_a_capture_is_deleted(tmp_path):
    elsewhere = tmp_path / "step-000003"
    elsewhere.mkdir()
    (tmp_path / "captures").mkdir()
    other = tmp_path / "captures" / "weights"
    other.mkdir()
    link = tmp_path / "captures" / "step-000009"
    link.symlink_to(elsewhere)
    for folder in (elsewhere, other, link, tmp_path / "captures" / "step-000001"):
        with pytest.raises(CaptureNotFound):
            delete(folder)
    assert elsewhere.exists()
    assert other.exists()
    assert list_captures(tmp_path) == []


def test_listing_imports_no_torch(tmp_path):
    put(tmp_path, "step-000003")
    program = (
        "import sys; from gradwatch.capture import list_captures;"
        f"print(len(list_captures({str(tmp_path)!r})), 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False", "False"]


def test_what_can_not_be_read_is_named_and_can_be_deleted(tmp_path):
    put(tmp_path, "step-000003")
    damaged = put(tmp_path, "step-000004", step=4)
    (damaged / "capture.json").write_text("{")
    cut = put(tmp_path, "step-000005", step=5).rename(tmp_path / "captures" / ".step-000005.77.part")
    found = unreadable_captures(tmp_path)
    assert [(one.step, one.folder) for one in found] == [(4, damaged), (5, cut)]
    assert "not valid JSON" in found[0].why
    assert "not complete" in found[1].why
    assert found[1].bytes == sum(one.stat().st_size for one in cut.iterdir()) > 0
    for one in found:
        delete(one.folder)
    assert unreadable_captures(tmp_path) == []
    assert [info.step for info in list_captures(tmp_path)] == [3]


def test_a_run_without_captures_has_none_that_can_not_be_read(tmp_path):
    assert unreadable_captures(tmp_path / "nowhere") == []
    assert size_of_captures(tmp_path / "nowhere") == 0


def test_a_list_has_an_end_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("gradwatch.capture.listing.MOST_LISTED", 3)
    for step in range(5):
        put(tmp_path, f"step-{step:06d}", step=step)
    found = survey(tmp_path)
    assert [info.step for info in found.captures] == [0, 1, 2]
    assert found.left_out == 2
    monkeypatch.setattr("gradwatch.capture.listing.MOST_LISTED_BYTES", 10)
    found = survey(tmp_path)
    assert (len(found.captures), len(found.unreadable), found.left_out) == (0, 3, 2)
    assert "was not read" in found.unreadable[0].why


def test_a_description_that_none_would_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("gradwatch.capture.files.MAX_DESCRIPTION_BYTES", 50)
    with pytest.raises(OSError, match="its description has"):
        put(tmp_path, "step-000003")
    assert list((tmp_path / "captures").iterdir()) == []
