"""`gradwatch demo`: it overwrites nothing, and shows how far it is on a terminal and off it."""

import io

import pytest
from rich.console import Console

from gradwatch import Run
from gradwatch.cli.commands.demo import _progress, _unused


def test_an_earlier_run_is_not_overwritten(tmp_path):
    assert _unused(tmp_path / "demo") == tmp_path / "demo"
    for name in ("demo", "demo-2", "demo-4"):
        (tmp_path / name).mkdir()
    assert _unused(tmp_path / "demo") == tmp_path / "demo-3"


def test_a_short_training_is_recorded_and_gives_no_advice(tmp_path, command):
    done = command("demo", "--runs", tmp_path, "--steps", "6", "--seed", "3")
    assert done.code == 0
    assert [len(Run(tmp_path / name).steps()) for name in ("demo", "demo-2", "demo-3")] == [6, 6, 6]
    assert "no recommendation" in done.out
    assert "Seed 3 did not explode, or too early to advise on." in done.out


@pytest.mark.parametrize(("steps", "lines"), [(1000, 10), (7, 7), (1, 1)])
def test_off_a_terminal_progress_has_lines(steps, lines):
    console = Console(file=io.StringIO(), width=80)
    with _progress(console, steps) as on_step:
        for step in range(steps):
            on_step(step, 0.5)
    printed = console.file.getvalue().splitlines()
    assert len(printed) == lines
    assert printed[-1].split() == ["step", f"{steps}/{steps}", "loss", "0.5"]


def test_off_a_terminal_the_last_step_of_a_lost_training_is_printed():
    console = Console(file=io.StringIO(), width=80)
    with _progress(console, 1000) as on_step:
        on_step(4, 0.5)
        on_step(5, float("inf"))
    assert console.file.getvalue().split() == ["step", "6/1000", "loss", "inf"]


def test_on_a_terminal_there_is_a_bar():
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with _progress(console, 100) as on_step:
        for step in range(100):
            on_step(step, 0.25)
    assert "100/100" in console.file.getvalue()
