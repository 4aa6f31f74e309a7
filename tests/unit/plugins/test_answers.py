"""The answers to an agent: short, of runs below the folder alone, and without a trace in it."""

import json
import math

import pytest

from gradwatch.errors import BadArgument, RunNotFound
from gradwatch.plugins.answers import CHARACTERS_PER_TOKEN, MOST_TOKENS, Answers, fitted, tokens
from gradwatch.store import FILE_NAME
from gradwatch.testing import replaced, steady, stream, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("answers")
    write_run(base / "runs/good", stream(steady(300), max_norm=1.1))
    write_run(base / "runs/deep/bad", stream(replaced(steady(300), {150: 90.0, 299: math.nan})))
    write_run(base / "secret", stream(steady(300)))
    return base / "runs"


def tree(folder):
    return sorted((path, path.lstat().st_mtime_ns) for path in folder.rglob("*"))


def every_answer(answers, run):
    yield answers.list_runs()
    yield answers.check_run(run)
    yield answers.read_events(run, severity="info")
    yield answers.read_report(run)
    yield answers.recommend_threshold(run)
    yield answers.compare_runs(run, "good")


def test_every_answer_is_short_json_and_leaves_no_trace(folder):
    before = tree(folder)
    for answer in every_answer(Answers(folder), "deep/bad"):
        assert isinstance(json.loads(answer), dict)
        assert len(answer) <= MOST_TOKENS * CHARACTERS_PER_TOKEN
    assert tree(folder) == before


def test_a_fault_is_told_with_its_cause(folder):
    listed = json.loads(Answers(folder).list_runs(filter="verdict != 'healthy'"))
    assert [run["name"] for run in listed["runs"]] == ["deep/bad"]
    told = json.loads(Answers(folder).check_run("deep/bad"))
    assert {"code", "cause", "remedy", "confirm", "certainty"} <= set(told["findings"][0])
    assert told["faults"]
    assert json.loads(Answers(folder).check_run("good"))["healthy"] is True


@pytest.mark.parametrize(
    "name", ["../secret", "..", "", ".", "deep", "no-such-run", "good/../../secret", "a\0b", "good/gradwatch.db", "~"]
)
def test_what_is_no_run_below_the_folder_is_refused(folder, name):
    for answer in (Answers(folder).check_run, Answers(folder).read_report, Answers(folder).recommend_threshold):
        with pytest.raises(RunNotFound):
            answer(name)
    with pytest.raises(RunNotFound):
        Answers(folder).compare_runs("good", name)


def test_an_absolute_path_out_of_the_folder_is_refused(folder):
    with pytest.raises(RunNotFound):
        Answers(folder).check_run(str(folder.parent / "secret"))


@pytest.mark.parametrize("linked", ["folder", "store", "notes", "captures", "replay", "circle"])
def test_links_that_lead_out_are_refused(tmp_path, folder, linked):
    secret = folder.parent / "secret"
    runs, run = tmp_path / "runs", tmp_path / "runs/linked"
    runs.mkdir()
    if linked == "folder":
        run.symlink_to(secret)
    elif linked == "circle":
        run.symlink_to(run)
    elif linked == "store":
        run.mkdir()
        (run / FILE_NAME).symlink_to(secret / FILE_NAME)
    else:
        write_run(run, stream(steady(300)))
        (tmp_path / "notes.json").write_text('{"note": "secret"}')
        if linked == "notes":
            (run / "notes.json").symlink_to(tmp_path / "notes.json")
        elif linked == "captures":
            (run / "captures").symlink_to(tmp_path)
        else:
            (run / "captures/step-000001").mkdir(parents=True)
            (run / "captures/step-000001/replay.json").symlink_to(tmp_path / "notes.json")
    with pytest.raises(RunNotFound):
        Answers(runs).check_run("linked")
    assert json.loads(Answers(runs).list_runs()) == {"count": 0, "runs": []}


def test_a_link_within_the_folder_is_followed(tmp_path):
    write_run(tmp_path / "real", stream(steady(300)))
    (tmp_path / "link").symlink_to("real")
    assert json.loads(Answers(tmp_path).check_run("link"))["healthy"]


@pytest.mark.parametrize("options", [{"sort": "beauty"}, {"sort": "config"}, {"filter": "import os"}, {"filter": "("}])
def test_bad_options_of_the_list_are_refused(folder, options):
    with pytest.raises(BadArgument):
        Answers(folder).list_runs(**options)


def test_bad_options_of_a_run_are_refused(folder):
    with pytest.raises(BadArgument):
        Answers(folder).read_events("good", severity="loud")
    with pytest.raises(BadArgument):
        Answers(folder).read_report("good", optimizer="none")


def test_a_long_answer_is_cut_and_says_so():
    text = fitted({"run": "a", "events": [{"step": step} for step in range(5000)], "few": [1, 2]})
    found = json.loads(text)
    assert tokens(text) <= MOST_TOKENS
    assert len(found["events"]) + found["left_out"]["events"] == 5000
    assert found["events"][0] == {"step": 0}
    assert found["few"] == [1, 2]


def test_a_huge_value_that_is_no_list_goes_as_a_whole():
    found = json.loads(fitted({"run": "a", "config": {str(number): number for number in range(9999)}}))
    assert found == {"run": "a", "left_out": {"config": 1}}
