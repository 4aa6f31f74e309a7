"""`gradwatch ls`: which runs, in which order, and what of them is shown."""

import json

import pytest

from gradwatch.analysis.listing import RunRow, row_of
from gradwatch.analysis.notes import Notes, write_notes
from gradwatch.views.console.listing import run_list
from gradwatch.views.console.screen import Ink, Screen


@pytest.fixture
def names(command, runs):
    """The names that `ls` lists as JSON."""
    return lambda *options: [row["name"] for row in json.loads(command("ls", runs, "--json", *options).out)]


def test_every_run_has_a_line_and_an_entry(command, runs):
    done = command("ls", runs)
    assert (done.code, done.err.strip()) == (0, "")  # older versions of rich end a progress bar with an empty line
    lines = done.out.splitlines()
    assert {line.split()[0]: line.split()[1] for line in lines[1:3]} == {"bad": "critical", "good": "healthy"}
    assert "diverged at 70" in done.out
    found = {row["name"]: row for row in json.loads(command("ls", runs, "--json").out)}
    for name in ("good", "bad"):
        row = row_of(name, runs / name / "gradwatch.db").as_dict()
        assert {key: found[name][key] for key in row if key not in ("written", "size", "last_loss")} == {
            key: row[key] for key in row if key not in ("written", "size", "last_loss")
        }
        assert found[name]["age"] >= 0


def test_order_filter_and_number(names, runs):
    assert names("--sort", "name") == ["bad", "good"]
    assert names("--sort", "-name") == ["good", "bad"]
    assert names("--sort", "-steps") == ["good", "bad"]
    assert names("--filter", "verdict == 'healthy'") == ["good"]
    assert names("--filter", "steps < 800 and age < 1e9") == ["bad"]
    assert names("--filter", "lr > 1") == []
    assert names("--sort", "name", "--most", "1") == ["bad"]


def test_notes_and_tags_are_shown(command, runs, names):
    write_notes(runs / "good", Notes(note="the\nbest", tags=("keep",)))
    try:
        assert names("--filter", "'keep' in tags") == ["good"]
        assert "keep" in command("ls", runs).out
    finally:
        write_notes(runs / "good", Notes())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--sort", "loudness"], "--sort is 'loudness'"),
        (["--filter", "verdict ="], "the filter"),
        (["--filter", "loudness > 1"], "'loudness'"),
    ],
)
def test_a_wrong_option_is_one_clear_error(command, runs, options, says):
    done = command("ls", runs, *options)
    assert (done.code, done.out) == (1, "")
    assert says in done.err
    assert done.err.endswith("(bad-argument)\n")


def test_a_folder_that_is_not_there_and_one_without_runs(command, tmp_path):
    assert "(run-not-found)" in command("ls", tmp_path / "gone").err
    done = command("ls", tmp_path)
    assert (done.code, done.out) == (0, "No runs.\n")
    assert json.loads(command("ls", tmp_path, "--json").out) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_columns_without_room_are_named(width):
    rows = [
        RunRow(
            name=f"sweep/lr-0.1-seed-{seed}",
            verdict="warning",
            steps=2000,
            last_loss=0.1,
            optimizer="AdamW",
            learning_rate=1e-3,
            batch_size=64.0,
            fault="explosion",
            fault_step=12,
            tags=("a", "b"),
            note="a note\nof two lines",
            size=300_000,
        )
        for seed in range(3)
    ]
    lines = [line.plain for line in run_list(rows, Screen(width=width, ink=Ink(ascii=True)), 10.0).renderables]
    assert max(map(len, lines)) <= width
    hidden = " ".join(lines[4:])
    shown = lines[0]
    for title in ("verdict", "steps", "loss", "first fault", "age", "optimizer", "lr", "batch", "size", "tags", "note"):
        assert (f" {title}" in shown) != (f" {title}" in hidden.replace(",", " ").replace(";", " ")), title
    assert [f"seed-{seed}" in line for seed, line in enumerate(lines[1:4])] == [True] * 3


def test_rows_that_are_not_computed_or_can_not_be_read_say_so():
    rows = [RunRow(name="a", state="not computed"), RunRow(name="b", state="unreadable", error="cut \x1b[31m")]
    text = "\n".join(line.plain for line in run_list(rows, Screen(width=120), 0.0).renderables)
    assert "1 run not computed yet" in text
    assert "unreadable" in text
    assert "\x1b" not in text
