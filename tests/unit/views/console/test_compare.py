"""Runs side by side: shared axes, all numbers, names that can be told apart."""

import math
import re
from dataclasses import replace

import pytest

from gradwatch import Run
from gradwatch.analysis.differences import differences
from gradwatch.analysis.history import RunReader
from gradwatch.sources.history import History, Point
from gradwatch.sources.writing import write
from gradwatch.testing import replaced, steady, stream, write_run
from gradwatch.views.console.compare import comparison
from gradwatch.views.console.screen import Ink, Screen
from gradwatch.views.parting import sentences


@pytest.fixture(scope="module")
def summaries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("summaries")
    write_run(folder / "good", stream(steady(800), losses=[1.0 / (1 + i) for i in range(800)], max_norm=1.1))
    write_run(folder / "bad", stream(replaced(steady(400), {300: 1e6, 350: math.nan})))
    return [Run(folder / name).summary() for name in ("good", "bad")]


def test_curves_share_their_axes(summaries, drawn):
    lines = drawn(comparison(summaries, Screen()))
    assert lines[0].split() == ["total", "norm:", "good", "total", "norm:", "bad"]
    for line, end in ((lines[1], "99.5"), (lines[6], "0.677")):
        assert re.findall(r"(\S+)┤", line) == [end, end]
    assert "×" in lines[1], "the NaN of the second run"


def test_a_shorter_run_has_a_shorter_curve(summaries, drawn):
    bottom = drawn(comparison(summaries, Screen()))[6]
    good, bad = re.findall(r"┤([▁-█]+)", bottom)
    assert len(good) == 2 * len(bad)


def test_the_table_has_every_number_of_every_run(summaries, drawn):
    text = "\n".join(drawn(comparison(summaries, Screen(width=140)), 140))
    for title in ("verdict", "steps", "median norm", "p99 norm", "max norm", "at step", "threshold", "clipped"):
        assert title in text
    good, bad = [line.split() for line in text.splitlines() if line.startswith(("good ", "bad "))]
    assert good[1:3] == ["healthy", "800"]
    assert good[7] == "1.1"
    assert bad[1:3] == ["critical", "400"]
    assert bad[5:8] == ["1e6", "300", "none"]


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("amount", [1, 2, 5])
def test_any_number_of_runs_fits(summaries, drawn, width, amount):
    lines = drawn(comparison((summaries * 3)[:amount], Screen(width=width, ink=Ink(ascii=True, colour=False))))
    assert max(map(len, lines)) <= width
    assert sum(line.startswith("run ") for line in lines) == 1, "the table is one piece"


def test_the_table_is_sorted_by_the_last_loss_and_names_what_it_leaves_out(tmp_path, drawn):
    losses = {"a": 0.5, "b": math.nan, "c": 0.1, "d": 0.3}
    runs = [Run(write_run(tmp_path / name, stream(steady(50), losses=[loss] * 50))) for name, loss in losses.items()]
    lines = drawn(comparison([run.summary() for run in runs], Screen(width=60)), 60)
    begin = next(at for at, line in enumerate(lines) if line.startswith("run "))
    assert [line.split()[0] for line in lines[begin + 1 : begin + 5]] == ["c", "d", "a", "b"]
    assert "loss at end" in lines[begin]
    told = " ".join(lines[begin + 5 :])
    assert "no room for" in told
    assert "loss first" in told


def test_curves_are_drawn_for_few_runs_only(summaries, drawn):
    assert any("┤" in line for line in drawn(comparison(summaries * 3, Screen())))
    assert not any("┤" in line for line in drawn(comparison(summaries * 4, Screen())))


def test_a_threshold_that_one_run_lacks_is_none(tmp_path):
    runs = [write_run(tmp_path / "a", stream(steady(50))), write_run(tmp_path / "b", stream(steady(50), max_norm=2.0))]
    (found,) = differences(*map(RunReader, runs))
    assert "(none against 2)" in " ".join(sentences(found, "a", "b"))


def test_no_clipping_and_clipping_that_is_not_known_are_told_apart(tmp_path, drawn):
    write(History([Point(step, norm) for step, norm in enumerate(steady(60))], "a file"), tmp_path / "imported")
    free = Run(write_run(tmp_path / "free", stream(steady(60)))).summary()
    text = "\n".join(drawn(comparison([free, Run(tmp_path / "imported").summary()], Screen(width=140)), 140))
    thresholds = [line.split()[7] for line in text.splitlines() if line.startswith(("free ", "imported "))]
    assert thresholds == ["none", "-"]


def test_names_that_differ_in_the_middle_are_told_apart(summaries, drawn):
    names = [f"{'sweep' * 10}-lr-{rate}-{'seed' * 10}" for rate in ("1e-3", "3e-4")]
    renamed = [replace(summary, run=name) for summary, name in zip(summaries, names, strict=True)]
    text = "\n".join(drawn(comparison(renamed, Screen())))
    assert text.count("1e-3") >= 3
    assert text.count("3e-4") >= 3


def test_runs_of_which_little_is_known(tmp_path, drawn):
    summary = Run(write_run(tmp_path / "unknown", stream([math.nan] * 3))).summary()
    (line,) = [line for line in drawn(comparison([summary], Screen(width=140))) if line.startswith("unknown")]
    assert line.split()[3:6] == ["-", "-", "-"]


def test_the_curves_stand_in_the_order_of_the_table(tmp_path, drawn):
    losses = {"ends-high": [1.0] * 60, "ends-nan": [0.1] * 59 + [math.nan], "ends-low": [0.2] * 60}
    runs = [Run(write_run(tmp_path / name, stream(steady(60), losses=each))) for name, each in losses.items()]
    lines = drawn(comparison([run.summary() for run in runs], Screen(width=140)), 140)
    begin = next(at for at, line in enumerate(lines) if line.startswith("run "))
    table = [line.split()[0] for line in lines[begin + 1 : begin + 4]]
    assert table == ["ends-low", "ends-high", "ends-nan"]
    (titles,) = [line for line in lines if line.startswith("loss: ")]
    assert titles.replace("loss:", "").split() == table
    assert lines[begin + 3].split()[-1] == "NaN"
