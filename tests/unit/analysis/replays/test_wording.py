"""Every answer has a sentence, and what is not known is said."""

import math

import pytest

from gradwatch.analysis.replays.result import Help, Origin, Replay, RowFinding
from gradwatch.analysis.replays.wording import answers, headline

BASE = {"run": "a", "step": 1, "optimizer": "0", "why": "spike", "captured_norm": 100.0, "replayed_norm": 100.0}


def said(**changes):
    return {answer.label: answer.text for answer in reversed(answers(Replay(**BASE | changes)))}


@pytest.mark.parametrize(
    ("recurs", "text"),
    [
        ("bitwise", "yes, bit for bit: total norm 100"),
        ("close", "yes, within 3 ULP of each parameter's largest entry: total norm 100"),
        ("norm", "in its norm only: total norm 100; 16% of the gradient came from elsewhere"),
        ("no", "no: total norm 100; 16% of the gradient came from elsewhere"),
        (None, "not known"),
    ],
)
def test_whether_it_happens_again(recurs, text):
    unexplained = 0.16 if recurs in ("norm", "no") else 0.0
    assert said(recurs=recurs, max_ulp=3.0, unexplained=unexplained)["happens again"] == text


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        (Origin(direction="backward", module="a.b", operation="aten.sqrt", file="/x/model.py", line=3),
         "a.b (backward of aten.sqrt, model.py:3)"),
        (Origin(direction="forward", module="", operation="aten.exp", file="C:\\x\\model.py"),
         "the model itself (aten.exp, model.py)"),
        (Origin(direction="input", module="argument 0"), "the input argument 0"),
        (Origin(direction="input", module="pictures"), "the input pictures"),
        (Origin(direction="input", module="input"), "the input"),
        (Origin(direction="weights", module="a.weight"), "the weights: a.weight is not finite before the step"),
        (Origin(direction="loss", observed=9.0, control=0.1, control_is="the batch without row 3"),
         "the loss, or between it and the model: the gradient is bad as it reaches the model's output: largest"
         " magnitude 9, 0.1 in the batch without row 3"),
    ],
)  # fmt: skip
def test_where_it_begins(origin, text):
    assert said(origin=origin)["began in"] == text


def test_rows():
    rows = (
        RowFinding(row=3, norm=99.0, share=0.97, norm_without=3.0, stands_out=True, odd=("x: all 4 entries are 0",)),
        RowFinding(row=1, norm=1.0, share=0.02),
    )
    found = [(answer.label, answer.text) for answer in answers(Replay(**BASE, rows=rows, batch_size=8))]
    assert ("rows", "row 3 of 8 carries 97% of the squared norm") in found
    assert ("", "row 3: norm 99, share 97%, without it 3") in found
    assert ("row 3", "x: all 4 entries are 0") in found
    assert "none of 8 stands out" in said(rows=rows[1:], rows_spread=True, batch_size=8)["rows"]


def test_what_would_help_and_what_is_not_known():
    found = said(helps=(Help(change="float64", total_norm=math.nan),), unknown=("rows: because",))
    assert found["norm with"] == "float64: not finite"
    assert found["not known"] == "rows: because"
    assert found["began in"] == "not known"


def test_the_headline():
    assert headline(Replay(**BASE, recurs="no")) == "does not happen again"
    assert headline(Replay(**BASE, rows_spread=True)) == "no row stands out; not known whether it happens again"


def test_a_name_can_not_write_to_the_terminal():
    origin = Origin(direction="forward", module="a\x1b[31m", code="x = '\x07'")
    assert "\x1b" not in "".join(answer.text for answer in answers(Replay(**BASE, origin=origin)))
    assert "\x1b" not in headline(Replay(**BASE, origin=origin))


def test_a_result_of_a_stranger_is_told_in_few_lines():
    rows = tuple(RowFinding(row=at, norm=1.0, stands_out=True, odd=("x",) * 50) for at in range(500))
    huge = Replay(**BASE, ranks=2**20, parts=(0,), rows=rows, unknown=("a" * 10**6,) * 500, notes=("n",) * 500)
    told = answers(huge)
    assert len(told) < 100
    assert max(len(one.text) for one in told) < 5000
    assert any("and 480 more reasons" in one.text for one in told)
    assert any("1, 2, 3" in one.text and "more there is none" in one.text for one in told)
