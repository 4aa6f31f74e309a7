"""A replay as JSON: written, read, and passed over where it is damaged."""

import json
import math

import pytest

from gradwatch.analysis.replays.result import (
    Help,
    Origin,
    Replay,
    RowFinding,
    of_event,
    read_replay,
    read_replays,
    replay_from,
    write_replay,
)


def example(step=7, **changes):
    given = {
        "run": "runs/a",
        "why": "nonfinite",
        "optimizer": "0",
        "captured_norm": math.nan,
        "replayed_norm": math.inf,
        "recurs": "close",
        "max_ulp": 2.0,
        "origin": Origin(direction="forward", module="a", class_name="A", line=3, observed=-math.inf),
        "rows": (RowFinding(row=3, norm=math.nan, odd=("all masked",), stands_out=True),),
        "helps": (Help(change="float64", total_norm=0.5),),
        "kept": {"weights": True},
        "environment": {"torch": "2.13"},
        "unknown": ("why",),
    }
    return Replay(step=step, **(given | changes))


def test_written_and_read_again(tmp_path):
    written = example()
    write_replay(written, tmp_path)
    json.loads((tmp_path / "replay.json").read_text(), parse_constant=pytest.fail)  # valid JSON
    assert repr(read_replay(tmp_path)) == repr(written)
    assert [path.name for path in tmp_path.iterdir()] == ["replay.json"]


def test_what_json_can_not_hold_becomes_text(tmp_path):
    write_replay(example(kept={"device": object}), tmp_path)
    assert read_replay(tmp_path).kept == {"device": "<class 'object'>"}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "null", '{"run": 1}', '{"run": "a", "step": "x", "optimizer": "0", "why": ""}', "[" * 5000],
)
def test_a_damaged_file_is_no_result(tmp_path, text):
    (tmp_path / "replay.json").write_text(text)
    assert read_replay(tmp_path) is None


def test_unknown_values_are_passed_over():
    data = {"run": "a", "step": 1, "optimizer": "0", "why": "spike", "recurs": "perhaps", "later": [1]}
    assert replay_from(data).recurs is None
    with pytest.raises(ValueError, match="no direction"):
        replay_from(data | {"origin": {"direction": "sideways"}})


def test_all_of_a_run_by_step(tmp_path):
    assert read_replays(tmp_path) == ()
    for step in (30, 4, 200):
        folder = tmp_path / "captures" / f"step-{step}"
        folder.mkdir(parents=True)
        write_replay(example(step), folder)
    (tmp_path / "captures" / "step-9").mkdir()
    (tmp_path / "gradwatch.db").touch()
    assert [one.step for one in read_replays(tmp_path)] == [4, 30, 200]
    assert [one.step for one in read_replays(tmp_path / "gradwatch.db")] == [4, 30, 200]


def test_the_event_that_it_belongs_to():
    found = (example(4), example(6, optimizer="1"), example(9))
    assert of_event(found, 4, "0").step == 4
    assert of_event(found, 5, "0") is None
    assert of_event(found, 5, "0", until=9).step == 9


def test_a_result_of_a_stranger_is_cut_and_says_so(tmp_path, monkeypatch):
    row = {"row": 1, "norm": 2.0, "stands_out": True}
    data = {"run": "a", "step": 1, "optimizer": "0", "why": "spike", "rows": [row] * 1001}
    found = replay_from(data)
    assert len(found.rows) == 1000
    assert found.notes == ("of 1001 entries of rows, the first 1000 were read",)
    for step in range(3):
        folder = tmp_path / "captures" / f"step-{step}"
        folder.mkdir(parents=True)
        write_replay(example(step), folder)
    size = (tmp_path / "captures" / "step-0" / "replay.json").stat().st_size
    monkeypatch.setattr("gradwatch.analysis.replays.result.LARGEST_FILES", 2 * size)
    first, second = read_replays(tmp_path)
    assert (first.notes, second.notes) == ((), ("1 more results of replays were not read: they are too large",))
