"""Which values a row may hold: each is compared with what gradwatch writes, one column at a time."""

import json
import math

import numpy as np
import pytest

from gradwatch.record import Event, ParameterInfo
from gradwatch.store.limits import LARGEST, LATEST
from gradwatch.store.schema import ATTEMPT_COLUMNS, BLOBS, EVENT_COLUMNS, STEP_COLUMNS
from gradwatch.store.values import (
    NAN_IN_STEP,
    STEP_TYPES,
    attempt_of,
    damaged_parameter,
    event_of,
    parameter_of,
    record_of,
    settings_of,
    valid_meta,
    valid_step,
    valid_steps,
    valid_table,
)

STEP = dict.fromkeys(("id", *STEP_COLUMNS)) | {
    "id": 1,
    "step": 0,
    "optimizer": "0",
    "attempt": 0,
    "wall_time": 1.7e9,
    "total_norm": 1.0,
    "clip_coef": 1.0,
    "nonfinite": 0,
    "skipped": 0,
}
EVENT = dict.fromkeys(EVENT_COLUMNS) | {
    "step": 3,
    "optimizer": "0",
    "attempt": 0,
    "kind": "spike",
    "severity": "warning",
    "message": "m",
}
ATTEMPT = dict.fromkeys(ATTEMPT_COLUMNS) | {
    "attempt": 0,
    "first_step": 0,
    "started": 1.7e9,
    "pid": 12,
    "host": "h",
    "dropped": 0,
}


def of(row, **values):
    """The values of a row in order, with some of them replaced."""
    return list((row | values).values())


# ----------------------------------------------------------------------------------------- steps


def both(row):
    """Whether a step is valid; alone and among others are the same."""
    alone = valid_step(row)
    columns = {name: [STEP[name], row[name], STEP[name]] for name in row}
    assert valid_steps(columns).tolist() == [True, alone, True]
    return alone


def test_a_plain_step_is_valid():
    assert both(STEP)


@pytest.mark.parametrize("name", STEP_TYPES)
@pytest.mark.parametrize("value", [b"blob", True])
def test_no_column_holds_another_type(name, value):
    assert not both(STEP | {name: value})


@pytest.mark.parametrize("name", [name for name, types in STEP_TYPES.items() if int in types])
def test_whole_numbers_have_limits(name):
    most = {"skipped": 1, "parts": 127}.get(name, LARGEST)
    assert both(STEP | {name: 0})
    assert both(STEP | {name: most})
    for value in (-1, most + 1, 2**63 - 1, 1.0):
        assert not both(STEP | {name: value})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"wall_time": LATEST}, True, id="the latest time"),
        pytest.param({"wall_time": -LATEST}, True, id="a clock before the epoch"),
        pytest.param({"wall_time": 2 * LATEST}, False, id="after the calendar's end"),
        pytest.param({"wall_time": math.inf}, False, id="a time without end"),
        pytest.param({"total_norm": math.inf}, True, id="an infinite norm"),
        pytest.param({"total_norm": None, "nan": "total_norm"}, True, id="a norm that is NaN"),
        pytest.param({"total_norm": None}, False, id="no norm and no reason why"),
        pytest.param({"clip_coef": None}, False, id="no coefficient and no reason why"),
        pytest.param({"nan": "total_norm"}, False, id="a norm that is there and NaN"),
        pytest.param({"nan": "step"}, False, id="a step that is NaN"),
        pytest.param({"nan": "nothing"}, False, id="an unknown column that is NaN"),
        pytest.param({"nan": ""}, True, id="nothing is NaN"),
        pytest.param(dict.fromkeys(NAN_IN_STEP) | {"nan": ",".join(NAN_IN_STEP)}, True, id="all is NaN"),
        pytest.param({"learning_rates": "[0.1, 1]"}, True, id="learning rates"),
        pytest.param({"learning_rates": "[]"}, True, id="no learning rate"),
        pytest.param({"learning_rates": "0.1"}, False, id="no list"),
        pytest.param({"learning_rates": '["0.1"]'}, False, id="texts in the list"),
        pytest.param({"learning_rates": "[true]"}, False, id="a truth in the list"),
        pytest.param({"learning_rates": f"[{LARGEST + 1}]"}, False, id="too large for float64"),
        pytest.param({"learning_rates": "[" * 5000}, False, id="too deep"),
        pytest.param({"learning_rates": "[0.1"}, False, id="no JSON"),
    ],
)
def test_what_a_step_may_hold(values, expected):
    assert both(STEP | values) is expected


def test_no_steps_are_valid():
    assert valid_steps({name: [] for name in STEP}).tolist() == []


# --------------------------------------------------------------------------- events and attempts


def test_an_event_comes_back():
    assert event_of(of(EVENT)) == Event(step=3, kind="spike", severity="warning", message="m")
    found = event_of(of(EVENT, observed=None, limit=2.0, nan="observed", until=9, rank=1))
    assert math.isnan(found.observed)
    assert (found.limit, found.until, found.rank) == (2.0, 9, 1)


@pytest.mark.parametrize(
    "values",
    [
        {"severity": "grave"},
        {"nan": "step"},
        {"step": -1},
        {"step": LARGEST + 1},
        {"observed": 1},
        {"message": None},
        {"message": b"m"},
        {"until": 1.5},
        {"kind": 7},
    ],
    ids=str,
)
def test_what_is_no_event(values):
    assert event_of(of(EVENT, **values)) is None


def test_an_attempt_comes_back():
    found = attempt_of(of(ATTEMPT, ended=1.8e9, reason="closed", dropped=4))
    assert (found.attempt, found.ended, found.reason, found.dropped) == (0, 1.8e9, "closed", 4)


@pytest.mark.parametrize(
    "values",
    [{"started": None}, {"started": math.inf}, {"ended": 2 * LATEST}, {"pid": "12"}, {"dropped": -1}, {"host": None}],
    ids=str,
)
def test_what_is_no_attempt(values):
    assert attempt_of(of(ATTEMPT, **values)) is None


# ------------------------------------------------------------------------------------ small tables


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("[]", ()),
        ("[0, 5]", (0, 5)),
        ("[2, 3]", (2, 3)),
        ("[-2]", None),
        ("[1.0]", None),
        ("[true]", None),
        ("{}", None),
        ("2", None),
        ("", None),
        (None, None),
        (f"[{2**27}, {2**27}]", None),
    ],
)
def test_the_shape_of_a_parameter(shape, expected):
    found = parameter_of("w", shape, "float32")
    assert found == (None if expected is None else ParameterInfo(name="w", shape=expected, dtype="float32"))


@pytest.mark.parametrize(("name", "dtype"), [(None, "float32"), (b"w", "float32"), ("w", None), ("w", 1)])
def test_what_is_no_parameter(name, dtype):
    assert parameter_of(name, "[2]", dtype) is None


def test_a_damaged_parameter_has_its_place_in_its_name():
    assert damaged_parameter(7) == ParameterInfo(name="(damaged 7)", shape=(0,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"lr": 0.1}', {"lr": 0.1}),
        ("{}", {}),
        ("[]", None),
        ("", None),
        (None, None),
        ("{" * 5000, None),
        (b"{}", None),
    ],
)
def test_settings_of_an_optimizer(text, expected):
    assert settings_of(text) == expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model", "Net", True),
        ("model", "", True),
        ("model", None, False),
        (b"model", "Net", False),
        ("total_steps", "100", True),
        ("total_steps", "-1", False),
        ("total_steps", "1e3", False),
        ("total_steps", "9" * 17, False),
    ],
)
def test_what_meta_may_hold(key, value, expected):
    assert valid_meta(key, value) is expected


# ------------------------------------------------------------------------------------------ blobs


@pytest.mark.parametrize("stat", ["norm", "abs_max", "weight_norm", "nonfinite", "zeros", "differing"])
def test_counts_are_finite_and_not_negative(stat):
    table = np.array([[0, 1], [np.nan, 3], [-1, 0], [np.inf, 0]], np.float32)
    is_counted = stat in ("nonfinite", "zeros", "differing")
    assert valid_table(stat, table).tolist() == [True, True, not is_counted, not is_counted]


def test_no_rows_and_no_columns_are_valid():
    assert valid_table("zeros", np.empty((0, 3), np.float32)).tolist() == []
    assert valid_table("zeros", np.empty((2, 0), np.float32)).tolist() == [True, True]


INFOS = tuple(ParameterInfo(name=name, shape=(2,)) for name in "ab")


def row_of(blobs=(), **values):
    row = dict(STEP) | {f"{table}.{name}": None for table, names in BLOBS.items() for name in names}
    given = {name: np.array(blob, "<f4").tobytes() for name, blob in dict(blobs).items()}
    return row | given | values


def test_a_step_without_blobs_is_a_record():
    record = record_of(row_of(loss=None, nan="loss", skipped=1, learning_rate=0.1), INFOS)
    assert (record.layers, record.weights, record.ranks) == (None, None, None)
    assert math.isnan(record.loss)
    assert record.skipped is True
    assert record.learning_rates == (0.1,)


@pytest.mark.parametrize(
    ("one", "all_of_them", "expected"),
    [(None, None, ()), (0.1, None, (0.1,)), (0.1, "[0.1, 0.2]", (0.1, 0.2)), (None, "[]", ())],
)
def test_the_learning_rates_of_the_groups(one, all_of_them, expected):
    assert record_of(row_of(learning_rate=one, learning_rates=all_of_them), ()).learning_rates == expected


def test_more_blobs_than_parameters_are_named_damaged():
    record = record_of(row_of({"layer.norm": [1, 2, 3], "layer.nonfinite": [0, 0, 0]}), INFOS)
    assert [info.name for info in record.layers.parameters] == ["a", "b", "(damaged 2)"]
    assert record.layers.norm.tolist() == [1, 2, 3]


def test_fewer_blobs_than_parameters_are_those_of_the_first():
    record = record_of(row_of({"layer.norm": [1], "layer.nonfinite": [0]}), INFOS)
    assert [info.name for info in record.layers.parameters] == ["a"]


@pytest.mark.parametrize(
    "blobs",
    [
        pytest.param({"layer.norm": [1, 2], "layer.nonfinite": [0]}, id="another length"),
        pytest.param({"layer.norm": [1, 2], "layer.nonfinite": [0, -1]}, id="a negative count"),
        pytest.param(
            {
                "layer.norm": [1],
                "layer.nonfinite": [0],
                "weight.weight_norm": [1, 2],
                "weight.update_norm": [1, 2],
            },
            id="weights of more parameters",
        ),
    ],
)
def test_blobs_that_do_not_belong_together_are_no_record(blobs):
    assert record_of(row_of(blobs), INFOS) is None


def test_json_of_the_constants_is_what_python_reads():
    """`json.loads` takes NaN and Infinity; they are floats, and a rate may be one."""
    assert both(STEP | {"learning_rates": json.dumps([math.nan, math.inf])})
