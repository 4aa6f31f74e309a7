"""The real command in a process of its own: output, JSON contracts, exit codes, bad input."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gradwatch import Run
from gradwatch.record import ParameterInfo
from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run

COMMANDS = ["run", "report", "events", "recommend", "compare", "check", "export", "demo"]


def gradwatch(*arguments, cwd=None, **environment):
    command = [sys.executable, "-m", "gradwatch", *map(str, arguments)]
    env = os.environ | {"COLUMNS": "100"} | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, env=env)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work") / "runs"
    write_run(folder / "good", stream(steady(800), losses=[1.0 / (1 + i) for i in range(800)], max_norm=1.1))
    norms = [*steady(700, spread=0.3), 10.0, 300.0, 1e6, math.inf, math.nan]
    write_run(folder / "bad", stream(norms))
    return folder


def test_report_tells_the_story(runs):
    done = gradwatch("report", runs / "bad")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "CRITICAL  exploded at step 701" in done.stdout
    assert "layer x step" in done.stdout


def test_report_json_is_the_contract(runs):
    found = json.loads(gradwatch("report", runs / "bad", "--json").stdout)
    keys = ["run", "steps", "verdict", "total_norm", "clipping", "nonfinite_steps", "skipped_steps", "events", "layers"]
    assert list(found)[: len(keys)] == keys
    assert (found["run"], found["steps"], found["verdict"]) == ("bad", 705, "critical")
    assert list(found["total_norm"]) == ["median", "p99", "max", "max_step", "last"]
    assert found["total_norm"]["last"] == "NaN"
    assert {"kind", "threshold", "clipped_fraction"} <= set(found["clipping"])
    layer = ["name", "median", "p99", "max", "max_step", "last", "zero_fraction", "nonfinite_steps"]
    assert all(set(layer) <= set(row) for row in found["layers"])
    event = ["step", "kind", "severity", "parameter", "observed", "limit", "message"]
    assert all(list(row)[:7] == event for row in found["events"])


def test_events_are_selected(runs):
    everything = json.loads(gradwatch("events", runs / "bad", "--json").stdout)
    kinds = {event["kind"] for event in everything}
    assert {"explosion", "nonfinite"} <= kinds
    only = json.loads(gradwatch("events", runs / "bad", "--json", "--kind", "nonfinite").stdout)
    assert {event["kind"] for event in only} == {"nonfinite"}
    severe = json.loads(gradwatch("events", runs / "bad", "--json", "--severity", "critical").stdout)
    assert {event["severity"] for event in severe} == {"critical"}
    assert gradwatch("events", runs / "good").stdout == "No events.\n"
    assert "step 701" in gradwatch("events", runs / "bad").stdout


def test_recommend_json_is_the_contract(runs):
    found = json.loads(gradwatch("recommend", runs / "bad", "--json").stdout)
    keys = ["max_norm", "low", "high", "policy", "clipped_fraction", "confidence", "refused", "reasons", "apply"]
    assert list(found)[: len(keys)] == keys
    assert found["policy"] == "norm"
    assert found["low"] <= found["max_norm"] <= found["high"]
    assert set(found["apply"]) == {"torch", "lightning", "transformers"}
    text = gradwatch("recommend", runs / "bad").stdout
    assert f"max_norm={found['max_norm']:g}" in text


def test_a_policy_that_does_better_than_a_threshold_comes_first(tmp_path):
    losses = [1.0 / (1 + i) for i in range(800)]
    write_run(tmp_path / "adam", stream(steady(800), losses=losses), "AdamW")
    found = json.loads(gradwatch("recommend", tmp_path / "adam", "--json").stdout)
    assert (found["clip"], found["policy"]) == ("ZClip()", "adaptive")
    assert list(found["apply"]) == ["gradwatch", "torch", "lightning", "transformers"]
    text = gradwatch("recommend", tmp_path / "adam").stdout
    assert f"ZClip() or max_norm {found['max_norm']:g}" in text
    assert "clip=gradwatch.clip.ZClip()" in text


def test_compare_shows_runs_side_by_side(runs):
    done = gradwatch("compare", runs / "good", runs / "bad")
    assert "total norm: good" in done.stdout
    assert "total norm: bad" in done.stdout
    found = json.loads(gradwatch("compare", runs / "good", runs / "bad", "--json").stdout)
    assert [row["run"] for row in found] == ["good", "bad"]


@pytest.mark.parametrize(
    ("run", "options", "code", "says"),
    [
        ("good", [], 0, "healthy"),
        ("bad", [], 3, "critical explosion at step 701"),
        ("bad", ["--fail-on", "dead"], 0, "healthy"),
        ("bad", ["--fail-on", "warning"], 3, "critical explosion at step 701"),
        ("bad", ["--fail-on", "nonfinite"], 3, "nonfinite at step 703"),
        ("good", ["--max-clipped-fraction", "0.01"], 3, "of the steps were clipped, more than 1%"),
        ("good", ["--max-clipped-fraction", "0.9"], 0, "healthy"),
    ],
)
def test_check_has_an_exit_code_for_ci(runs, run, options, code, says):
    done = gradwatch("check", runs / run, *options)
    assert (done.returncode, done.stderr) == (code, "")
    assert says in done.stdout


def test_export(runs, tmp_path):
    run = Run(runs / "bad")
    assert gradwatch("export", runs / "bad", tmp_path / "steps.csv").stdout.startswith("wrote 705 rows")
    frame = pd.read_csv(tmp_path / "steps.csv", index_col="step")
    pd.testing.assert_series_equal(frame["total_norm"], run.steps()["total_norm"])
    gradwatch("export", runs / "bad", tmp_path / "norm.parquet", "--what", "norm")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "norm.parquet"), run.layers("norm"))
    gradwatch("export", runs / "bad", tmp_path / "events.csv", "--what", "events")
    with (tmp_path / "events.csv").open() as file:
        assert [row["kind"] for row in csv.DictReader(file)] == [event.kind for event in run.events()]


def test_the_newest_run_is_meant_where_none_is_named(runs):
    os.utime(runs / "good" / "gradwatch.db", (1, 1))
    assert json.loads(gradwatch("report", "--json", cwd=runs.parent).stdout)["run"] == "bad"


def bad_input(folder):
    write_run(folder / "runs" / "good", stream(steady(10)))
    (folder / "file.csv").write_text("step,norm\n")
    (folder / "empty").mkdir()
    write_run(folder / "no-steps", [])
    whole = write_run(folder / "cut", stream(steady(2000)))
    data = (whole / "gradwatch.db").read_bytes()
    (whole / "gradwatch.db").write_bytes(data[: len(data) // 2])
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "slug"),
    [
        (["report", "nowhere"], 1, "run-not-found"),
        (["report", "empty"], 1, "run-not-found"),
        (["report", "file.csv"], 1, "not-a-run"),
        (["report", "cut"], 1, "store-damaged"),
        (["report", "no-steps"], 1, "empty-run"),
        (["check", "no-steps"], 1, "empty-run"),
        (["events", "nowhere"], 1, "run-not-found"),
        (["compare", "runs/good", "nowhere"], 1, "run-not-found"),
        (["events", "runs/good", "--kind", "explosions"], 1, "bad-argument"),
        (["events", "runs/good", "--severity", "high"], 1, "bad-argument"),
        (["check", "runs/good", "--fail-on", "all"], 1, "bad-argument"),
        (["report", "runs/good", "--optimizer", "9"], 1, "bad-argument"),
        (["recommend", "runs/good", "--optimizer", "9"], 1, "bad-argument"),
        (["export", "runs/good", "x.xlsx"], 1, "cannot-export"),
        (["export", "runs/good", "nowhere/x.csv"], 1, "cannot-export"),
        (["export", "runs/good", "x.csv", "--what", "mean"], 1, "bad-argument"),
        (["report", "runs/good", "--layers", "many"], 2, "Invalid value"),
        (["explode"], 2, "No such command"),
        ([], None, "Usage"),  # 2; with click before 8.2 it is 0
    ],
)
def test_bad_input_is_one_clear_error(tmp_path, arguments, code, slug):
    bad_input(tmp_path)
    done = gradwatch(*arguments, cwd=tmp_path)
    assert done.returncode == code or (code is None and done.returncode in (0, 2))
    assert "Traceback" not in done.stderr
    assert slug in done.stderr + done.stdout
    if code == 1:
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""


def test_no_run_anywhere(tmp_path):
    done = gradwatch("report", cwd=tmp_path)
    assert done.returncode == 1
    assert "There is no run under 'runs'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_colour_means_plain_ascii(runs):
    done = gradwatch("report", runs / "bad", NO_COLOR="1")
    assert done.stdout.isascii()


def test_a_terminal_without_utf8_gets_ascii(runs):
    done = gradwatch("report", runs / "bad", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


def test_a_hostile_name_can_not_write_to_the_terminal(tmp_path):
    infos = [ParameterInfo(name="\x1b]0;owned\x07\x1b[31mé", shape=(2, 2)), ParameterInfo(name="b", shape=(2,))]
    write_run(tmp_path, stream(replaced(steady(400), {300: math.nan}), parameters=infos, shares=(1.0, 0.0)))
    for command in ("report", "events", "check", "recommend"):
        done = gradwatch(command, tmp_path)
        assert "\x1b" not in done.stdout
        assert done.returncode in (0, 3)
    done = gradwatch("report", tmp_path, "--json", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert json.loads(done.stdout)["layers"][0]["name"] == infos[0].name


def test_a_closed_pipe_is_no_error(runs):
    command = f"{sys.executable} -m gradwatch report {runs / 'bad'} --json | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "{\n"
    assert "Traceback" not in done.stderr


def test_every_command_has_help_and_is_in_the_readme():
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    top = gradwatch("--help").stdout
    for command in COMMANDS:
        assert command in top
        assert gradwatch(command, "--help").returncode == 0
        assert f"gradwatch {command}" in readme


def test_the_installed_command_is_the_same():
    script = shutil.which("gradwatch", path=str(Path(sys.executable).parent))
    assert script is not None
    assert subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout.count("report") >= 1


def test_reading_a_run_imports_no_torch(runs):
    code = (
        "import sys; from gradwatch.cli import app; app(['report', sys.argv[1]], standalone_mode=False);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(runs / "good")], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_check_may_let_warnings_pass(tmp_path):
    write_run(tmp_path, stream(replaced(steady(700), {400: 60.0})))
    assert gradwatch("check", tmp_path).returncode == 3
    assert gradwatch("check", tmp_path, "--fail-on", "spike").returncode == 3
    assert gradwatch("check", tmp_path, "--fail-on", "critical").returncode == 0


def test_a_run_without_events_exports_an_empty_table(runs, tmp_path):
    gradwatch("export", runs / "good", tmp_path / "events.csv", "--what", "events")
    frame = pd.read_csv(tmp_path / "events.csv")
    assert len(frame) == 0
    assert list(frame)[:3] == ["step", "kind", "severity"]


def test_report_html_writes_one_file(runs, tmp_path):
    file = tmp_path / "report.html"
    done = gradwatch("report", runs / "bad", "--html", file)
    assert done.returncode == 0
    assert done.stdout.startswith(f"wrote {file}, ")
    page = file.read_text()
    assert page.startswith("<!doctype html>")
    assert "default-src 'none'" in page
    assert "exploded at step 701" in page
    assert not [word for word in ('src="', "href=", "@import", "url(") if word in page]


@pytest.mark.parametrize("where", ["no/such/folder/report.html", "."])
def test_report_html_that_can_not_be_written(runs, tmp_path, where):
    done = gradwatch("report", runs / "bad", "--html", where, cwd=tmp_path)
    assert done.returncode == 1
    assert "can't be written" in done.stderr
    assert "cannot-export" in done.stderr
    assert "Traceback" not in done.stderr


def test_report_html_and_json_can_not_both_be(runs, tmp_path):
    done = gradwatch("report", runs / "bad", "--json", "--html", tmp_path / "x.html")
    assert done.returncode == 1
    assert "bad-argument" in done.stderr


@pytest.mark.slow
def test_report_html_of_150_layers_and_10000_steps_has_less_than_2_megabytes(tmp_path):
    names = tuple(ParameterInfo(name=f"blocks.{i}.weight", shape=(64, 64)) for i in range(150))
    rng = np.random.default_rng(0)
    records = stream(steady(10_000), parameters=names, shares=[1.0] * 150)
    noisy = [
        replace(r, layers=replace(r.layers, norm=r.layers.norm * rng.lognormal(0, 0.3, 150).astype(np.float32)))
        for r in records
    ]
    writer = StoreWriter(tmp_path / "run")
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.add_parameters("0", names)
    writer.append(noisy, [])
    writer.end_attempt("closed")
    assert gradwatch("report", tmp_path / "run", "--html", tmp_path / "x.html").returncode == 0
    assert (tmp_path / "x.html").stat().st_size < 2e6
