"""`gradwatch rm`, `mv`, `compact`, `note` and `tag`: what they change, and what they refuse."""

import re

import pytest

from gradwatch import Run
from gradwatch.analysis.notes import Notes, read_notes
from gradwatch.store import StoreWriter
from gradwatch.testing import steady, stream, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "runs" / "a", stream([1.0] * 20))


@pytest.fixture
def live(tmp_path):
    writer = StoreWriter(tmp_path / "runs" / "live")
    writer.begin_attempt({}, {"0": ("SGD", {})})
    yield tmp_path / "runs" / "live"
    writer.end_attempt("closed")


def test_a_note_is_written_printed_and_removed(run, command):
    assert command("note", run, "twice the rate").code == 0
    assert command("note", run).out == "twice the rate\n"
    assert "note  twice the rate" in command("report", run).out
    command("note", run, "")
    assert command("note", run).out == "\n"
    assert sorted(file.name for file in run.iterdir()) == ["gradwatch.db"]


def test_tags_are_added_printed_and_removed(run, command):
    assert command("tag", run, "a", "b").out == "a b\n"
    assert command("tag", run, "b", "c").out == "a b c\n"
    assert command("tag", run, "--remove", "a", "x").out == "b c\n"
    assert command("tag", run).out == "b c\n"
    assert "#b #c" in command("report", run).out


def test_a_note_and_tags_leave_the_store_as_it_is(run, command):
    before = (run / "gradwatch.db").read_bytes()
    command("note", run, "x")
    command("tag", run, "y")
    assert (run / "gradwatch.db").read_bytes() == before
    assert read_notes(run) == Notes(note="x", tags=("y",))


def test_a_run_is_renamed_with_its_notes(run, command, tmp_path):
    command("tag", run, "keep")
    done = command("mv", run, tmp_path / "other" / "b")
    assert done.out == f"{run} is now {tmp_path / 'other' / 'b'}\n"
    assert not run.exists()
    assert len(Run(tmp_path / "other" / "b").steps()) == 20
    assert read_notes(tmp_path / "other" / "b").tags == ("keep",)


def test_a_run_is_moved_into_a_folder(run, command, tmp_path):
    (tmp_path / "old").mkdir()
    command("mv", run, tmp_path / "old")
    assert (tmp_path / "old" / "a" / "gradwatch.db").exists()


def test_deleted_runs_are_gone_and_other_files_stay(run, command, tmp_path):
    second = write_run(tmp_path / "runs" / "b", stream([1.0]))
    (second / "model.pt").write_text("weights")
    done = command("rm", run, second, "--yes")
    assert done.out.splitlines() == [f"deleted {run}", f"deleted {second}; 1 other file in it kept"]
    assert not run.exists()
    assert [file.name for file in second.iterdir()] == ["model.pt"]


def test_captures_go_with_their_run_but_not_those_behind_a_link(run, command, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "step-000009"
    for folder in (run / "captures" / "step-000003", elsewhere):
        folder.mkdir(parents=True)
        (folder / "capture.json").write_text("{}")
    other = write_run(tmp_path / "runs" / "b", stream([1.0]))
    (other / "captures").symlink_to(elsewhere.parent)
    done = command("rm", run, other, run, "--yes")
    assert done.out.splitlines() == [f"deleted {run}", f"deleted {other}; 1 other file in it kept"]
    assert not run.exists()
    assert (elsewhere / "capture.json").exists()


def test_a_link_to_a_run_is_not_followed_to_delete_it_and_is_moved_as_a_link(run, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(run)
    done = command("rm", "link", "--yes")
    assert (done.code, done.err) == (
        1,
        f"error: 'link' is a link to {str(run)!r}; expected the run itself. (bad-argument)\n",
    )
    assert command("mv", "link", "other").out == "link is now other\n"
    assert (tmp_path / "other").is_symlink()
    assert len(Run(run).steps()) == 20


def test_the_current_folder_is_moved_whole(run, command, monkeypatch):
    monkeypatch.chdir(run)
    assert command("mv", ".", "../b").code == 0
    assert not run.exists()
    assert len(Run(run.with_name("b")).steps()) == 20


def test_a_run_is_not_moved_into_itself(run, command):
    done = command("mv", run, run / "below")
    assert (done.code, done.out) == (1, "")
    assert "can't be moved into itself; expected a new name. (bad-argument)" in done.err
    assert len(Run(run).steps()) == 20


def test_a_damaged_run_can_be_deleted(run, command):
    data = (run / "gradwatch.db").read_bytes()
    (run / "gradwatch.db").write_bytes(data[:5000])
    assert command("rm", run, "-y").code == 0
    assert not run.exists()


@pytest.mark.parametrize(
    ("arguments", "slug"),
    [
        (["rm", "runs/a"], "bad-argument"),  # no terminal to ask
        (["rm", "runs", "--yes"], "run-not-found"),
        (["rm", "runs/a", "runs/gone", "--yes"], "run-not-found"),
        (["rm", "runs/a", "runs/live", "--yes"], "run-in-use"),
        (["mv", "runs/live", "runs/b"], "run-in-use"),
        (["mv", "runs/gone", "runs/b"], "run-not-found"),
        (["mv", "runs/a", "file"], "bad-argument"),
        (["mv", "runs/a", "runs/live"], "bad-argument"),
        (["note", "runs/gone", "x"], "run-not-found"),
        (["note", "runs", "x"], "run-not-found"),
        (["tag", "runs/gone", "x"], "run-not-found"),
        (["tag", "runs/a", "x,y"], "bad-argument"),
    ],
)
def test_what_makes_no_sense_is_one_clear_error_and_changes_nothing(
    run, live, command, tmp_path, monkeypatch, arguments, slug
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    done = command(*arguments)
    assert (done.code, done.out) == (1, "")
    assert done.err.endswith(f"({slug})\n")
    assert len(Run(run).steps()) == 20
    assert live.exists()


def test_a_live_run_may_be_tagged(live, command):
    assert command("tag", live, "now").out == "now\n"


def test_compact_tells_the_sizes_and_refuses_what_is_no_run(tmp_path, command):
    write_run(tmp_path / "run", stream(steady(900)))
    done = command("compact", tmp_path / "run")
    assert done.code == 0
    assert re.search(r"run: [\d.]+ [kM]B -> [\d.]+ [kM]B, [\d,]+ rows compared", done.out)
    done = command("compact", tmp_path / "none")
    assert (done.code, done.out) == (1, "")
    assert "(run-not-found)" in done.err


def test_compact_refuses_a_live_run_and_leaves_all(tmp_path, command):
    write_run(tmp_path / "run", stream(steady(900)))
    before = (tmp_path / "run/gradwatch.db").read_bytes()
    writer = StoreWriter(tmp_path / "live")
    writer.begin_attempt({}, {})
    done = command("compact", tmp_path / "run", tmp_path / "live")
    writer.end_attempt("closed")
    assert done.code == 1
    assert "(run-in-use)" in done.err
    assert (tmp_path / "run/gradwatch.db").read_bytes() == before
