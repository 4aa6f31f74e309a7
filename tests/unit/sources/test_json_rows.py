"""JSON lines and JSON lists, whole or cut off, nested or not."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch.errors import CannotImport
from gradwatch.sources import json_rows, lines, read

from .support import EXPECTED, ROWS, values, write_text


def rows(file):
    return json_rows.rows(file)[0]


@pytest.mark.parametrize("name", ["log.jsonl", "log.ndjson", "log.json"])
def test_lines_and_lists_of_objects_are_read(tmp_path, name):
    text = json.dumps(ROWS) if name == "log.json" else "\n".join(map(json.dumps, ROWS)) + "\n\n"
    history = read([write_text(tmp_path, name, text)])
    assert values(history) == EXPECTED
    assert history.notes[0].startswith("taken: 'grad_norm' as the gradient norm, 'step' as the step, 'loss'")
    assert "left out, because a run has no place for them: 'epoch'" in history.notes


def test_nested_objects_have_names_with_slashes_and_columns_can_be_named(tmp_path):
    text = "\n".join(json.dumps({"train": {"g": 1.0 + n, "loss": 0.5}, "s": n}) for n in range(3))
    history = read([write_text(tmp_path, "a.jsonl", text)], norm="train/g", step="s")
    assert values(history) == [(n, 1.0 + n, 0.5, None) for n in range(3)]
    assert "not found: the learning rate" in history.notes


def test_a_last_line_that_is_cut_off_is_left_out(tmp_path):
    text = "\n".join(map(json.dumps, ROWS)) + '\n{"step": 60, "gra'
    assert values(read([write_text(tmp_path, "a.jsonl", text)])) == EXPECTED


def test_a_line_that_a_killed_training_left_is_left_out_and_counted(tmp_path):
    whole = [json.dumps({"step": step, "grad_norm": 1.0}) for step in range(40)]
    cut = [*whole[:20], whole[20][:15] + whole[20], *whole[21:30], "\0" * 300, *whole[30:]]
    history = read([write_text(tmp_path, "a.jsonl", "\n".join(cut))])
    assert [point.step for point in history.points] == [step for step in range(40) if step != 20]
    assert history.notes[0] == "1 line left out that can't be read as JSON, the first is line 21"


@pytest.mark.parametrize(
    "whole",
    [
        pytest.param({"args": {"lr": 0.1}, "epochs": [], "history": ROWS}, id="rows under a name"),
        pytest.param({str(row["step"]): {k: v for k, v in row.items() if k != "step"} for row in ROWS}, id="by step"),
        pytest.param({k: {str(i): row[k] for i, row in enumerate(ROWS)} for k in ROWS[0]}, id="pandas's to_json"),
    ],
)
def test_rows_within_an_object_are_read(tmp_path, whole):
    assert values(read([write_text(tmp_path, "a.json", json.dumps(whole))])) == EXPECTED


def test_of_two_lists_of_objects_none_is_taken(tmp_path):
    with pytest.raises(CannotImport, match="neither a list log_history"):
        read([write_text(tmp_path, "a.json", json.dumps({"train": ROWS, "eval": ROWS}))])


def test_a_number_in_a_list_and_the_rates_of_groups_are_read(tmp_path):
    text = "\n".join(json.dumps({"step": n, "grad_norm": [1.0 + n], "lr": [0.5, 0.1]}) for n in range(3))
    assert values(read([write_text(tmp_path, "a.jsonl", text)])) == [(n, 1.0 + n, None, 0.5) for n in range(3)]
    with pytest.raises(CannotImport, match=r"holds '\[1, 2\]'"):
        read([write_text(tmp_path, "b.jsonl", '{"step": 1, "grad_norm": [1, 2]}')])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=4), min_size=1, max_size=5))
def test_what_json_writes_is_read_back_from_a_list_and_from_lines(tmp_path_factory, objects):
    folder = tmp_path_factory.mktemp("json")
    assert rows(write_text(folder, "a.json", json.dumps(objects))) == objects
    assert rows(write_text(folder, "a.jsonl", "\n".join(map(json.dumps, objects)))) == objects


def test_a_mark_at_the_beginning_and_separators_within_a_text_are_no_end_of_a_line(tmp_path):
    text = json.dumps({"note": "a\u2028b\x85", "grad_norm": 1.0}, ensure_ascii=False)
    for name, whole in (("a.jsonl", f"{text}\r\n\n{text}\n"), ("a.json", f"[{text},\n{text}]")):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + whole.encode())
        assert [row["grad_norm"] for row in rows(tmp_path / name)] == [1.0, 1.0]


def test_a_broken_line_is_named_by_its_number(tmp_path):
    with pytest.raises(CannotImport, match="line 3: "):
        rows(write_text(tmp_path, "a.jsonl", '{"a": 1}\n\n{"a"\n{"a": 2}\n'))


def test_numbers_that_are_not_finite_are_read_in_the_way_of_python(tmp_path):
    (found,) = rows(write_text(tmp_path, "a.jsonl", '{"a": NaN, "b": Infinity, "c": -Infinity, "d": 1e999}'))
    assert math.isnan(found["a"])
    assert (found["b"], found["c"], found["d"]) == (math.inf, -math.inf, math.inf)


def test_objects_are_flattened_six_deep(tmp_path):
    (found,) = rows(write_text(tmp_path, "a.json", '[{"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}]'))
    assert found == {"a/b/c/d/e/f": {"g": 1}}
    assert rows(write_text(tmp_path, "b.json", '[{"a": {}, "b": 1}, 3, null]')) == [{"b": 1}]


def test_only_the_last_line_may_be_cut_off(tmp_path):
    with pytest.raises(CannotImport, match="line 2"):
        rows(write_text(tmp_path, "a.jsonl", '{"a": 1}\n{"a": \n{"a": 3}\n'))


def test_a_file_that_is_no_text_or_missing_or_too_large_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_bytes(b"[\xff\xfe]")
    with pytest.raises(CannotImport, match="can't be read"):
        rows(tmp_path / "a.json")
    with pytest.raises(CannotImport, match="can't be read"):
        rows(tmp_path / "missing.json")
    monkeypatch.setattr(lines, "LARGEST_WHOLE", 3)
    with pytest.raises(CannotImport, match="more than 0 MiB"):
        rows(tmp_path / "a.json")
