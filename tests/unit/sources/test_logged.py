"""Values that were logged one by one: which run, which row, which optimizer."""

import math

import pytest

from gradwatch.errors import CannotImport
from gradwatch.sources.logged import MOST_NAMED, LoggedRun, Value, chosen, of_values, optimizer_class

ONE, OTHER = LoggedRun(key="1f", name="first"), LoggedRun(key="2e", name="second")


def value(name, step, number):
    return Value(name=name, step=step, value=number)


@pytest.mark.parametrize("of", ["2e", "second"])
def test_a_run_is_found_by_its_id_and_by_its_name(of):
    assert chosen([ONE, OTHER], of, "mlruns") is OTHER


def test_the_only_run_needs_no_name():
    assert chosen([ONE], None, "mlruns") is ONE


@pytest.mark.parametrize(
    ("runs", "of", "says"),
    [
        ([], None, "holds no run with metrics"),
        ([], "first", "holds no run with metrics"),
        ([ONE, OTHER], None, r"holds 2 runs; name one with --of: first \(1f\), second \(2e\)"),
        ([ONE, OTHER], "third", r"holds no run 'third'; name one with --of: first \(1f\), second \(2e\)"),
        ([ONE, LoggedRun(key="3d", name="first"), OTHER], "first", r"holds 2 runs 'first'.*first \(1f\), first \(3d\)"),
        ([LoggedRun(key="a"), LoggedRun(key="b", name="b")], None, "with --of: a, b"),
    ],
)
def test_what_is_not_clear_is_asked_for(runs, of, says):
    with pytest.raises(CannotImport, match=says):
        chosen(runs, of, "mlruns")


@pytest.mark.parametrize(("count", "more"), [(MOST_NAMED, None), (MOST_NAMED + 5, "and 5 more")])
def test_a_message_names_only_some_of_many_runs(count, more):
    with pytest.raises(CannotImport) as caught:
        chosen([LoggedRun(key=f"run-{at}") for at in range(count)], None, "mlruns")
    text = str(caught.value)
    assert text.count("run-") == MOST_NAMED
    assert ("more" in text) == (more is not None)
    assert (more or "") in text


def test_values_of_a_step_become_one_row_and_the_last_counts():
    rows = of_values([value("loss", 1, 2.0), value("norm", 0, 0.5), value("loss", 1, 3.0), value("norm", 1, math.inf)])
    assert rows == [{"step": 1, "loss": 3.0, "norm": math.inf}, {"step": 0, "norm": 0.5}]


def test_no_values_are_no_rows():
    assert of_values([]) == []


def test_steps_are_kept_as_they_are_for_the_reader_to_check():
    assert [row["step"] for row in of_values([value("a", None, 1.0), value("a", "x", 1.0), value("a", 2.5, 1.0)])] == [
        None,
        "x",
        2.5,
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("AdamW", "AdamW"),
        ("adamw", "AdamW"),
        ("torch.optim.SGD", "SGD"),
        ("adamw_torch", "AdamW"),
        ("adamw_torch_fused", "AdamW"),
        ("Lion", "Lion"),
        ("adamw_bnb_8bit", "adamw_bnb_8bit"),
        (None, ""),
        (True, ""),
        (7, ""),
        ("", ""),
        ("torch.optim.AdamW(lr=1)", ""),
        ("A" * 500, ""),
        ("Adam W", ""),
    ],
)
def test_the_optimizer_is_read_only_where_its_class_can_be_meant(value, expected):
    assert optimizer_class(value) == expected
