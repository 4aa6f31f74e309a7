"""The list of captures: each with why, its norm, its size and its folder."""

import math
from pathlib import Path

import pytest

from gradwatch.capture import CaptureInfo, CaptureSurvey
from gradwatch.text import file_size, number
from gradwatch.views.console.captures import capture_list
from gradwatch.views.console.screen import Screen


def info(**changed):
    known = {
        "folder": Path("runs/a/captures/step-000012"),
        "step": 12,
        "optimizer": "0",
        "why": "spike",
        "bytes": 123_456,
        "total_norm": 31.5,
        "limit": 4.5,
        "replayable": True,
        "not_kept": (),
        "model": "Net",
        "rank": 0,
        "wall_time": None,
        "has_weights": True,
    }
    return CaptureInfo(**known | changed)


def text(drawn, *captures, left_out=0):
    found = CaptureSurvey(captures=captures, unreadable=(), left_out=left_out)
    return " ".join(" ".join(drawn(capture_list(found, Screen()), 200)).split())


def test_a_run_without_captures_says_how_to_keep_some(drawn):
    assert "`gradwatch run --capture`" in text(drawn)


def test_a_capture_is_told_with_its_numbers(drawn):
    norms = f"total norm {number(31.5)}, limit {number(4.5)}"
    assert text(drawn, info()) == f"step 12 spike {norms}, {file_size(123_456)}, runs/a/captures/step-000012"


def test_captures_of_several_optimizers_name_theirs(drawn):
    found = text(drawn, info(), info(optimizer="1"))
    assert [f"optimizer {one}, total norm" in found for one in "01"] == [True, True]
    assert "optimizer" not in text(drawn, info(), info())


@pytest.mark.parametrize("norm", [0.0, 1e300, math.inf, math.nan])
def test_odd_norms_are_written_as_everywhere(drawn, norm):
    assert f"total norm {number(norm)}, " in text(drawn, info(total_norm=norm))


def test_what_is_not_known_is_left_out(drawn):
    found = text(drawn, info(why="nonfinite", total_norm=None, limit=None, has_weights=False))
    assert "norm" not in found.replace("nonfinite", "")
    assert "limit" not in found
    assert "no weights" in found


def test_why_a_capture_can_not_be_replayed_is_said(drawn):
    found = text(drawn, info(replayable=False, not_kept=("one reason", "another")), info(step=99))
    assert "can't be replayed: one reason; another" in found
    assert found.count("can't be replayed") == 1
    assert found.index("step 12") < found.index("step 99")


def test_what_is_not_listed_is_counted(drawn):
    assert "and 19 more" in text(drawn, info(), left_out=19)
    assert "more" not in text(drawn, info())
