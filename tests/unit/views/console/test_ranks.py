"""The processes of a training in a report: agreement in a line, and a line for each that deviates."""

from dataclasses import replace

import pytest

from gradwatch import Run
from gradwatch.analysis.summary import RankSummary
from gradwatch.testing import steady, stream, write_run
from gradwatch.views.console.ranks import rank_lines
from gradwatch.views.console.screen import Screen


def rank(number, **more):
    usual = {"steps": 20, "median": 1.0, "max": 2.0, "max_step": 5, "nonfinite_steps": 0, "differing_steps": 0}
    return RankSummary(rank=number, **usual | more)


@pytest.fixture
def lines(tmp_path):
    summary = Run(write_run(tmp_path, stream(steady(20)))).summary()

    def draw(ranks, **more):
        shown = rank_lines(replace(summary, ranks=tuple(ranks), **more), Screen(width=140))
        return [line.plain for line in shown]

    return draw


def test_a_training_by_one_process_has_no_line(lines):
    assert lines([]) == []


def test_ranks_that_agree_take_one_line(lines):
    found = lines([rank(0), rank(1, median=1.5)])
    assert found == ["ranks  2 ranks reported, median norm of each from 1 to 1.5"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"differing_steps": 1}, "gradients differ from the other ranks' at 1 step"),
        ({"nonfinite_steps": 3}, "not finite at 3 steps"),
        ({"steps": 19}, "did not report at 1 step"),
        ({"median": 9.0}, "median 9, max 2 at step 5"),
        ({"median": 0.1}, "median 0.1, max 2 at step 5"),
    ],
)
def test_a_rank_that_deviates_has_a_line(lines, more, says):
    found = lines([rank(0), rank(1), rank(2, **more)])
    assert len(found) == 2
    assert found[1].startswith("  rank 2  ")
    assert says in found[1]


def test_the_worst_come_first_and_the_rest_is_counted(lines):
    found = lines([rank(i, differing_steps=i) for i in range(12)])
    assert [line.split()[1] for line in found[1:9]] == ["11", "10", "9", "8", "7", "6", "5", "4"]
    assert found[9] == "  3 more ranks deviate; --json lists every rank"


def test_ranks_of_which_nothing_is_known(lines):
    assert lines([rank(0, median=None, max=None, max_step=None), rank(1, median=None)]) == ["ranks  2 ranks reported"]
