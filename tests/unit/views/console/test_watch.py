"""`gradwatch watch`: its report fits into the terminal, and it survives what happens to a run."""

import io
import math
import sqlite3

import pytest
from rich.console import Console

from gradwatch import Run
from gradwatch.store import StoreWriter
from gradwatch.testing import steady, stream, write_run
from gradwatch.views.console.screen import Screen
from gradwatch.views.console.watch import fitted, follow, view


def plain(lines):
    return [line.plain for line in lines]


def terminal(width=80, height=24):
    return Console(width=width, height=height, file=io.StringIO(), force_terminal=True)


@pytest.mark.parametrize("width", [80, 120, 140])
@pytest.mark.parametrize("height", [3, 10, 24, 30, 40, 50, 60, 100])
def test_a_report_never_has_more_lines_than_it_is_given(run, width, height):
    lines = plain(fitted(run.summary(), Screen(width=width), height))
    assert len(lines) <= height
    assert any(line.startswith("next: ") for line in lines), "the next step is always there"


@pytest.mark.parametrize("height", [50, 60, 100])
def test_the_heat_map_is_whole_with_its_legend(run, height):
    lines = plain(fitted(run.summary(), Screen(width=120), height))
    assert any(line.startswith("layer x step") for line in lines)
    assert any("not finite" in line and ">100x" in line for line in lines)


def test_a_small_terminal_has_the_verdict_and_the_next_step(run):
    lines = plain(fitted(run.summary(), Screen(), 10))
    assert run.summary().verdict.upper() in lines[0]
    assert 4 < len(lines) <= 10


def test_layers_get_the_lines_that_are_left(run):
    listed = [
        sum(".self_" in line for line in plain(fitted(run.summary(), Screen(), height))) for height in (50, 60, 70)
    ]
    assert listed == sorted(listed)
    assert listed[-1] > listed[0]


def test_a_run_without_layers_fits(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    from dataclasses import replace

    writer.append([replace(record, layers=None, weights=None) for record in stream([1.0] * 5)])
    lines = plain(fitted(Run(tmp_path).summary(), Screen(), 24))
    assert "layers  not recorded" in lines
    writer.end_attempt("closed")


def test_a_long_cause_leaves_room_for_the_curves_on_a_usual_terminal(tmp_path):
    bad = [math.nan] * 50
    write_run(tmp_path, stream([*steady(250), *bad], losses=[*steady(250), *bad]))
    lines = plain(fitted(Run(tmp_path).summary(), Screen(), 21))
    for beginning in ("● CRITICAL", "total norm ", "loss ", "layer ", "next: "):
        assert any(line.startswith(beginning) for line in lines), beginning
    assert len(lines) <= 21


def text_of(group):
    return "\n".join(line.plain for line in group.renderables)


def test_a_run_that_is_not_there_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "waiting for the first step of a run under runs/" in text_of(view(None, terminal()))
    assert f"waiting for the first step of {tmp_path / 'x'}" in text_of(view(tmp_path / "x", terminal()))
    writer = StoreWriter(tmp_path / "runs" / "new")
    writer.begin_attempt({}, {"0": ("SGD", {})})
    assert "waiting" in text_of(view(None, terminal())), "there is a run without a step"
    writer.end_attempt("closed")


def test_a_damaged_store_is_said(tmp_path):
    (tmp_path / "gradwatch.db").write_bytes(b"SQLite format 3\0" + bytes(1000))
    assert "(store-damaged)" in text_of(view(tmp_path, terminal()))


def test_the_status_tells_how_far_the_training_is(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.set_meta("total_steps", "400")
    writer.append(stream(steady(300)))
    lines = text_of(view(tmp_path, terminal(height=60))).splitlines()
    assert lines[0] == "recording, step 299 of 400, about 10.0 s left; q quits"
    assert lines[1] == "━" * 60 + "─" * 20
    writer.end_attempt("closed")
    assert text_of(view(tmp_path, terminal())).startswith("finished, step 299 of 400; q quits")


def test_off_a_terminal_it_prints_the_report_once(tmp_path):
    write_run(tmp_path, stream(steady(50)))
    console = Console(file=io.StringIO(), width=80)
    follow(tmp_path, console)
    assert console.file.getvalue().count("HEALTHY") == 1


@pytest.mark.parametrize(
    ("reason", "told"), [("exception KeyboardInterrupt", "interrupted (Ctrl-C)"), (None, "its process is gone")]
)
def test_a_training_that_was_interrupted_or_killed_has_an_end_in_words(tmp_path, reason, told):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.append(stream(steady(50)))
    if reason is None:
        with sqlite3.connect(tmp_path / "gradwatch.db") as db:
            db.execute("update attempt set pid = 0")
    else:
        writer.end_attempt(reason)
    assert text_of(view(tmp_path, terminal())).startswith(f"{told}, step 49; q quits")
