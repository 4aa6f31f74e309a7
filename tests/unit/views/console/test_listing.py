"""The table of runs: what fits is shown, and the rest is named."""

import math

import pytest

from gradwatch.analysis.listing import RunRow
from gradwatch.text import file_size
from gradwatch.views.console.listing import run_list
from gradwatch.views.console.screen import Ink, Screen

NOW = 1.7e9


def row(name="a", **more):
    values = {
        "verdict": "healthy",
        "steps": 400,
        "last_loss": 0.25,
        "optimizer": "SGD",
        "learning_rate": 0.1,
        "threshold": 1.0,
        "clipped_fraction": 0.5,
        "written": NOW - 90,
        "size": 20_480,
    }
    return RunRow(name=name, **(values | more))


def lines(*rows, width=200):
    group = run_list(rows, Screen(width=width, ink=Ink(ascii=True)), NOW)
    return [line.plain for line in group.renderables]


def test_no_runs_are_said_to_be_none():
    assert lines() == ["No runs."]


def test_each_run_is_a_line_under_the_titles():
    head, first, second = lines(row("a"), row("b", verdict="critical", fault="diverged", fault_step=300))
    assert head.split()[:3] == ["run", "verdict", "steps"]
    assert first.split()[:4] == ["a", "healthy", "400", "0.25"]
    assert "diverged at 300" in second
    assert "20 kB" in first


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_columns_without_room_are_named(width):
    found = lines(row("a" * 30), row("b", steps=401, optimizer="AdamW", learning_rate=0.2, threshold=None), width=width)
    assert all(len(line) <= width for line in found)
    text = " ".join(" ".join(found[3:]).split())
    if width < 120:
        assert text.startswith("no room for ")
        assert "--json shows them" in text
    shown = found[0].split()
    assert "verdict" in shown


def test_settings_that_all_runs_share_stand_below_the_table_where_room_is_scarce():
    runs = [row("a"), row("b", learning_rate=0.2)]
    head, _, _, *below = lines(*runs, width=78)
    assert "lr" in head
    assert "optimizer" not in head
    assert below[0] == "all 2 runs: steps 400, optimizer SGD, threshold 1"
    assert lines(*runs, width=140)[0].split()[-6:] == ["age", "optimizer", "lr", "threshold", "clipped", "size"]
    assert "all" not in " ".join(lines(runs[0], width=40)), "a single run shares nothing"


def test_an_optimizer_that_no_run_knows_is_said_once():
    runs = [row(name, optimizer="", learning_rate=rate) for name, rate in (("a", 0.1), ("b", 0.2))]
    assert "optimizer not known" in lines(*runs, width=78)[3]
    assert "optimizer optimizer" not in lines(*runs, width=78)[3]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"state": "live"}, "healthy (live)"),
        ({"state": "unreadable", "error": "cut off"}, "unreadable"),
        ({"verdict": None, "steps": 0}, "no step"),
        ({"state": "not computed", "verdict": None, "steps": None}, "not computed"),
    ],
)
def test_a_run_that_is_not_ended_says_so(values, says):
    found = lines(row(**values))
    assert says in found[1]
    is_waiting = values.get("state") == "not computed"
    assert any("1 run not computed yet" in line for line in found[2:]) == is_waiting


def test_what_is_unknown_is_a_dash_and_no_zero():
    unknown = dict.fromkeys(("steps", "last_loss", "optimizer", "learning_rate", "threshold", "clipped_fraction"))
    first = lines(row(**unknown))[1]
    assert first.split().count("-") >= 5
    assert " 0 " not in first


def test_notes_and_tags_have_columns_only_if_there_are_any():
    assert not {"tags", "note"} & set(lines(row())[0].split())
    head, first, _ = lines(row(tags=("good", "best"), note="first line\nsecond"), row("b"))
    assert {"tags", "note"} <= set(head.split())
    assert "good best" in first
    assert "first line" in first
    assert "second" not in first, "a note is told by its first line"


def test_a_loss_that_is_not_finite_is_told():
    assert "NaN" in lines(row(last_loss=math.nan))[1] or "nan" in lines(row(last_loss=math.nan))[1]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_499, "999 kB"), (999_500, "1.0 MB"), (999.5e6, "1.0 GB")],
)
def test_sizes_of_files(size, text):
    assert file_size(size) == text
