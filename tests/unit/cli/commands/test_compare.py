"""`gradwatch compare`."""

import json


def test_runs_stand_side_by_side(runs, command):
    text = command("compare", runs / "good", runs / "bad").out
    assert "total norm: good" in text
    assert "total norm: bad" in text


def test_the_json_has_a_report_for_each_run(runs, command):
    found = json.loads(command("compare", runs / "good", runs / "bad", "--json").out)
    assert [row["run"] for row in found] == ["good", "bad"]


def test_a_run_that_is_missing_prints_nothing_of_the_others(runs, command):
    done = command("compare", runs / "good", "nowhere")
    assert (done.code, done.out) == (1, "")
    assert "(run-not-found)" in done.err


def test_it_needs_a_run(command):
    assert command("compare").code == 2
