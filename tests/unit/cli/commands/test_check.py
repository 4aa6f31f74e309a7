"""`gradwatch check`: exit code 3 and a line for each fault."""

import json
from dataclasses import replace
from xml.etree import ElementTree

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
        ("died", [], 3, "an exception (ValueError) ended the training after step 99"),
        ("died", ["--allow-unfinished"], 0, "healthy"),
        ("short", [], 3, "too few to judge"),
        ("short", ["--min-steps", "3"], 0, "healthy"),
        ("bad", ["--fail-on", "nonfinite"], 3, "nonfinite at step 703"),
        ("bad", ["--fail-on", "dead", "--fail-on", "nonfinite"], 3, "nonfinite at step 703"),
        ("good", ["--max-clipped-fraction", "0.01"], 3, "17.3% of the steps were clipped, more than 1%"),
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


# ---------------------------------------------------------------------------------------- many runs


def test_many_runs_are_checked_and_each_fault_names_its_run(runs, command):
    done = command("check", runs)
    assert (done.code, done.err) == (3, "")
    assert done.out.splitlines()[0].startswith(f"{runs / 'bad'}: critical diverged at step 70")
    assert done.out.splitlines()[-1] == "1 of 2 runs are not healthy"
    found = json.loads(command("check", runs, "--json").out)
    assert found["healthy"] is False
    assert [(one["run"], one["healthy"], one["path"]) for one in found["runs"]] == [
        ("bad", False, str(runs / "bad")),
        ("good", True, str(runs / "good")),
    ]
    assert json.loads(command("check", runs / "bad", "--json").out)["runs"] == found["runs"][:1]


def test_the_json_has_healthy_and_runs_however_many_there_are_and_the_keys_of_an_only_run(command, tmp_path):
    run = write_run(tmp_path / "all" / "a", stream(steady(300)))
    one = json.loads(command("check", run, "--json").out)
    only = one["runs"][0]
    assert (only["run"], only["healthy"], only["path"]) == ("a", True, str(run))
    assert one == only | {"runs": [only]}
    assert json.loads(command("check", tmp_path / "all", "--json").out) == one
    assert json.loads(command("check", run, run, "--json").out) == {"healthy": True, "runs": [only, only]}


def test_many_healthy_runs_are_healthy(runs, command):
    done = command("check", runs / "good", runs / "good")
    assert (done.code, done.out) == (0, "healthy: 2 runs\n")
    assert json.loads(command("check", runs / "good", runs / "good", "--json").out)["healthy"] is True


def test_a_run_that_can_not_be_read_is_a_fault_of_its_own(runs, command, tmp_path):
    data = (runs / "good" / "gradwatch.db").read_bytes()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "gradwatch.db").write_bytes(data[: len(data) // 2])
    done = command("check", runs / "good", tmp_path, tmp_path / "gone", "--json")
    assert done.code == 3
    found = json.loads(done.out)["runs"]
    assert [one["healthy"] for one in found] == [True, False, False]
    assert "store-damaged" in found[1]["faults"][0]
    assert "run-not-found" in found[2]["faults"][0]


def test_junit_has_a_case_for_each_run(runs, command, tmp_path):
    file = tmp_path / "result.xml"
    assert command("check", runs, "--junit", file).code == 3
    suite = ElementTree.parse(file).getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    cases = {case.get("name"): case.find("failure") for case in suite}
    assert cases[str(runs / "good")] is None
    faults = json.loads(command("check", runs / "bad", "--json").out)["faults"]
    assert cases[str(runs / "bad")].text.splitlines() == faults


def test_github_gets_an_annotation_for_each_fault(runs, command):
    done = command("check", runs / "bad", "--github")
    faults = json.loads(command("check", runs / "bad", "--json").out)["faults"]
    assert done.code == 3
    assert [line.partition("::")[2].partition("::")[0] for line in done.out.splitlines()] == [
        f"error title=gradwatch {runs / 'bad'}"
    ] * len(faults)


def test_a_file_that_can_not_be_written_and_options_that_exclude_each_other(runs, command, tmp_path):
    assert "(cannot-export)" in command("check", runs / "good", "--junit", tmp_path / "no" / "x.xml").err
    assert "(bad-argument)" in command("check", runs / "good", "--json", "--github").err


@pytest.mark.parametrize(("steps", "code"), [("800", 0), ("801", 3)])
def test_the_rows_of_a_history_count_as_the_steps_that_they_reach(tmp_path, command, steps, code):
    rows = [f"{10 * (i + 1)},{norm},{loss}" for i, (norm, loss) in enumerate(zip(steady(80), steady(80), strict=True))]
    (tmp_path / "log.csv").write_text("\n".join(["step,grad_norm,loss", *rows]))
    assert command("import", tmp_path / "log.csv", tmp_path / "run").code == 0
    done = command("check", tmp_path / "run", "--min-steps", steps)
    assert done.code == code
    assert ("800 steps are recorded, fewer than 801" in done.out) == (code == 3)
