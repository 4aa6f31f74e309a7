"""JSON objects with a list of values for each series."""

import json

import pytest

from gradwatch.errors import CannotImport
from gradwatch.sources import read, series

from .support import EXPECTED, ROWS, values, write_text

STEPS = [row["step"] for row in ROWS]
COLUMNS = {name: [row[name] for row in ROWS] for name in ("loss", "grad_norm", "lr")}


def numpys(value):
    """A number of NumPy's as jsonpickle writes it."""
    return {"dtype": "float64", "py/object": "numpy.float64", "value": value}


LAYOUTS = {
    "PyMARL's": {name: list(map(numpys, column)) for name, column in COLUMNS.items()}
    | {f"{name}_T": STEPS for name in COLUMNS},
    "Sacred's metrics": {name: {"steps": STEPS, "values": column} for name, column in COLUMNS.items()},
    "columns": COLUMNS | {"step": STEPS, "config": {"seed": 1}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lists_of_values_are_rows(tmp_path, layout):
    history = read([write_text(tmp_path, "info.json", json.dumps(LAYOUTS[layout]))])
    assert values(history) == EXPECTED


def test_columns_without_steps_are_counted(tmp_path):
    history = read([write_text(tmp_path, "history.json", json.dumps(COLUMNS))])
    assert [point.step for point in history.points] == [0, 1, 2, 3, 4]


def test_series_have_steps_of_their_own(tmp_path):
    """A return is logged when an episode ends, a norm when the learner logs: it counts for the next norm."""
    info = {
        "grad_norm": [1.0, 2.0, 3.0],
        "grad_norm_T": [100, 200, 300],
        "test_return_mean": [5.0, 6.0, 7.0],
        "test_return_mean_T": [110, 150, 290],
    }
    history = read([write_text(tmp_path, "info.json", json.dumps(info))])
    assert [(point.norm, point.reward) for point in history.points] == [(1.0, None), (2.0, 6.0), (3.0, 7.0)]


def test_a_list_that_does_not_fit_its_steps_is_left_out(tmp_path):
    info = {"grad_norm": [1.0, 2.0], "grad_norm_T": [1, 2], "loss": [1.0], "loss_T": [1, 2], "names": ["a", "b"]}
    assert series.rows(write_text(tmp_path, "info.json", json.dumps(info))) == [
        {"step": 1, "grad_norm": 1.0},
        {"step": 2, "grad_norm": 2.0},
    ]


@pytest.mark.parametrize("text", ['{"log_history": []}', '{"a": 1}', "[1, 2]", "{", '{"a": ["b"], "a_T": [1]}'])
def test_what_holds_no_series_has_no_rows(tmp_path, text):
    file = write_text(tmp_path, "a.json", text)
    assert series.rows(file) == []
    with pytest.raises(CannotImport):
        read([file])
