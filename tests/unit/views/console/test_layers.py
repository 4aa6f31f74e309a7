"""The layers of a report: columns by width, names that can be told apart, every layer in the heat map."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.record import ParameterInfo
from gradwatch.testing import replaced, steady, stream, write_run
from gradwatch.views.console.layers import layer_strip, layer_table
from gradwatch.views.console.screen import Ink, Screen


def plain(lines):
    return [line.plain for line in lines]


def run_of(folder, names, norms=None, shares=None):
    infos = tuple(ParameterInfo(name=name, shape=(4, 4)) for name in names)
    return Run(write_run(folder, stream(norms or steady(200), parameters=infos, shares=shares or [0.2] * len(names))))


def test_the_most_relevant_layers_are_listed_and_the_rest_is_counted(run):
    lines = plain(layer_table(run.summary(), Screen(width=100), 12))
    assert len(lines) == 14
    assert re.match(r"\d+\.", lines[1]), "the number of the block stays"
    assert lines[0].endswith("history")
    assert lines[-1] == "all in encoder.layers; 18 more; `gradwatch report --layers 30` shows all"
    assert len(plain(layer_table(run.summary(), Screen(width=100), 30))) == 31


@pytest.mark.parametrize("width", [80, 90, 110, 140])
def test_wider_terminals_get_more_columns(run, width):
    head = plain(layer_table(run.summary(), Screen(width=width), 3))[0]
    expected = ["layer", "median", *(["p99"] if width >= 90 else []), "max", "at step"]
    expected += ["last"] if width >= 90 else []
    expected += ["zeros", "update"] if width >= 110 else []
    assert re.findall(r"at step|\S+", head[: head.index("history") + 7]) == [*expected, "NaN", "history"]


def test_columns_keep_their_place_whatever_the_numbers(tmp_path):
    names = ["tiny", "huge", "none", "bad"]
    run = run_of(tmp_path, names, [1.0, 1.0, 1.0], [1e-40, 3.3e38, 0.0, math.inf])
    lines = plain(layer_table(run.summary(), Screen(), 9))
    ends = [[match.end() for match in re.finditer(r"\S+", line[: lines[0].index("history")])] for line in lines[1:]]
    assert len({tuple(row[1:]) for row in ends}) == 1, "numbers end in the same columns"


def test_layers_that_differ_in_the_middle_of_their_names_are_told_apart(tmp_path):
    names = [f"encoder.layer.{i}.attention_self.query.{kind}" for i in range(4) for kind in ("weight", "bias")]
    summary = run_of(tmp_path, names).summary()
    for lines in (plain(layer_table(summary, Screen(), 12))[1:], plain(layer_strip(summary, Screen(), 16))[1:-1]):
        labels = [line[:22] for line in lines]
        assert len(set(labels)) == 8


def test_the_strip_has_every_layer_in_order_and_joins_neighbours(run):
    lines = plain(layer_strip(run.summary(), Screen(), 16))
    assert len(lines) == 18
    assert "largest norm relative to the layer's own median" in lines[0]
    assert sum("+1" in line for line in lines) == 14, "30 layers in 16 rows"
    assert len(plain(layer_strip(run.summary(), Screen(), 4))) == 6
    assert layer_strip(run.summary(), Screen(), 0) == []


def test_a_spike_of_one_layer_is_in_its_row_and_column(tmp_path):
    records = stream(steady(100), parameters=[ParameterInfo(name=n, shape=(2,)) for n in "ab"], shares=(1.0, 1.0))
    records[60].layers.norm[1] = 1000.0
    strip = plain(layer_strip(Run(write_run(tmp_path, records)).summary(), Screen(ink=Ink(colour=False)), 16))
    quiet, loud = strip[1][2:], strip[2][2:]
    assert "█" not in quiet
    assert loud.index("█") == max(column for column in range(len(loud)) if column * 100 // len(loud) <= 60)


def test_the_header_says_what_the_mark_of_a_cut_history_means(tmp_path):
    calm = run_of(tmp_path / "calm", ["a", "b"]).summary()
    wild = run_of(tmp_path / "wild", ["a", "b"], [1.0] * 99 + [1e9]).summary()
    for ink in (Ink(), Ink(ascii=True)):
        assert ink.over not in "".join(plain(layer_table(calm, Screen(ink=ink), 9)))
        lines = plain(layer_table(wild, Screen(ink=ink), 9))
        assert lines[0].endswith(f"{ink.over} off scale")
        assert lines[1].endswith(ink.over)


def test_the_strip_says_why_a_layer_is_blank(tmp_path):
    alive = run_of(tmp_path / "alive", ["a", "b"]).summary()
    dead = run_of(tmp_path / "dead", ["a", "b"], shares=[1.0, 0.0]).summary()
    assert "blank" not in "".join(plain(layer_strip(alive, Screen(), 9)))
    title, _, blank, _ = plain(layer_strip(dead, Screen(), 9))
    assert "blank if that is 0" in title
    assert blank.strip() == "b"


def test_a_joined_row_shows_the_worst_of_its_layers(tmp_path):
    names = [f"l{i}" for i in range(8)]
    records = stream(steady(50), parameters=[ParameterInfo(name=n, shape=(2,)) for n in names], shares=[1.0] * 8)
    records[10].layers.norm[5] = np.nan
    records[10].layers.nonfinite[5] = 3
    records[10] = replace(records[10], nonfinite=3)
    rows = plain(layer_strip(Run(write_run(tmp_path, records)).summary(), Screen(ink=Ink(colour=False)), 2))[1:-1]
    assert ["×" in row for row in rows] == [False, True]


@pytest.mark.parametrize("norms", [[0.0] * 5, [math.nan] * 5, [1.0]])
def test_strange_layers_are_drawn(tmp_path, norms):
    summary = run_of(tmp_path, ["a", "b"], norms).summary()
    assert len(plain(layer_table(summary, Screen(), 5))) == 3
    assert len(plain(layer_strip(summary, Screen(), 5))) == 4


def test_every_number_of_a_spike_is_in_the_table(tmp_path):
    run = run_of(tmp_path, ["a"], replaced([1.0] * 100, {40: 50.0}), [1.0])
    line = plain(layer_table(run.summary(), Screen(), 5))[1]
    assert line.split()[:4] == ["a", "1", "50", "40"]
