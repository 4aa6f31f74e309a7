"""`gradwatch check`: exit code 3 and a line for each fault."""

import json
from dataclasses import replace

import pytest

from gradwatch.record import Event
from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run


@pytest.mark.parametrize(
    ("run", "options", "code", "says"),
    [
        ("good", [], 0, "healthy"),
        ("bad", [], 3, "critical diverged at step 70"),
        ("bad", ["--fail-on", "dead"], 0, "healthy"),
        ("bad", ["--fail-on", "warning"], 3, "critical diverged at step 70"),
        ("bad", ["--fail-on", "explosion"], 3, "critical explosion at step 701"),
        ("bad", ["--fail-on", "diverged"], 3, "critical diverged at step 70"),
        ("bad", ["--fail-on", "zero-gradients"], 0, "healthy"),
        ("good", ["--min-steps", "800"], 0, "healthy"),
        ("good", ["--min-steps", "801"], 3, "800 steps are recorded, fewer than 801"),
        ("died", [], 3, "ended by an exception (ValueError) after step 99"),
        ("died", ["--allow-unfinished"], 0, "healthy"),
        ("short", [], 3, "too few to judge"),
        ("short", ["--min-steps", "3"], 0, "healthy"),
        ("bad", ["--fail-on", "nonfinite"], 3, "nonfinite at step 703"),
        ("bad", ["--fail-on", "dead", "--fail-on", "nonfinite"], 3, "nonfinite at step 703"),
        ("good", ["--max-clipped-fraction", "0.01"], 3, "17.2% of the steps were clipped, more than 1%"),
        ("good", ["--max-clipped-fraction", "0.9"], 0, "healthy"),
        ("bad", ["--max-clipped-fraction", "0"], 3, "critical diverged"),
    ],
)
def test_there_is_an_exit_code_for_ci(runs, ended_runs, command, run, options, code, says):
    place = (ended_runs if run in ("short", "died") else runs) / run
    done = command("check", place, *options)
    assert (done.code, done.err) == (code, "")
    assert says in done.out
    found = json.loads(command("check", place, *options, "--json").out)
    assert found["run"] == run
    assert found["healthy"] == (code == 0)
    assert found["faults"] == ([] if code == 0 else done.out.splitlines())
    reported = json.loads(command("report", place, "--json").out)
    assert (found["verdict"], found["findings"]) == (reported["verdict"], reported["findings"])


def test_a_spike_that_passed_fails_only_where_it_is_asked_for(tmp_path, command):
    write_run(tmp_path, stream(replaced(steady(700), {400: 60.0})))
    assert [command("check", tmp_path, *o).code for o in ([], ["--fail-on", "spike"], ["--fail-on", "critical"])] == [
        0,
        3,
        0,
    ]


def test_an_information_is_no_fault(tmp_path, command):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.append(stream(steady(60)), [Event(step=0, kind="spike", severity="info", message="m")])
    writer.end_attempt("closed")
    assert command("check", tmp_path).out == "healthy\n"
    assert command("check", tmp_path, "--fail-on", "spike").code == 0


def test_every_optimizer_is_checked(tmp_path, command):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"a": ("SGD", {}), "b": ("SGD", {}), "idle": ("SGD", {})})
    for name, norm in (("a", 1.0), ("b", 5.0)):
        writer.append([replace(record, optimizer=name) for record in stream([norm] * 60, max_norm=2.0)])
    writer.append([], [Event(step=3, kind="spike", severity="warning", message="m", optimizer="b")])
    writer.end_attempt("closed")
    assert command("check", tmp_path, "--max-clipped-fraction", "0.5", "--fail-on", "spike").out.splitlines() == [
        "warning spike at step 3 of optimizer b: m",
        "100% of the steps of optimizer b were clipped, more than 50%",
    ]


@pytest.mark.parametrize(
    ("fail_on", "says"), [("all", "'all' is not a kind of event"), ("info", "'info' is not a kind")]
)
def test_an_unknown_kind_is_refused(runs, command, fail_on, says):
    done = command("check", runs / "good", "--fail-on", fail_on)
    assert done.code == 1
    assert says in done.err


def test_a_run_without_a_step_is_not_healthy(tmp_path, command):
    write_run(tmp_path, [])
    done = command("check", tmp_path)
    assert done.code == 1
    assert "(empty-run)" in done.err
