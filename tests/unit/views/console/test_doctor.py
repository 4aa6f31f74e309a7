"""What doctor found, a line each."""

import pytest

from gradwatch.script.doctor import Examination, Observation
from gradwatch.views.console.doctor import diagnosis
from gradwatch.views.console.screen import Ink, Screen

FOUND = (
    Observation("fine", "steps", "5 recorded"),
    Observation("note", "cost", "x" * 200),
    Observation("problem", "clipping", "é"),
)


@pytest.mark.parametrize(("ink", "marks"), [(Ink(), "✓·✗"), (Ink(ascii=True, colour=False), "+-x")])
def test_each_finding_has_its_mark(drawn, ink, marks):
    lines = drawn(diagnosis(Examination("train.py", FOUND, False), Screen(ink=ink)), 80)
    assert lines[:2] == ["", "train.py"]
    assert [line[2] for line in lines[2:] if line[4:5].strip()] == list(marks)
    assert max(map(len, lines)) <= 80
    assert not ink.ascii or "\n".join(lines).isascii()


def test_a_script_that_failed_is_said(drawn):
    lines = drawn(diagnosis(Examination("a\x1b.py", (), True), Screen()))
    assert lines == ["", "a\\x1b.py, ended by an exception of its own"]
