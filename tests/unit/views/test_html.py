"""The report in one file: it carries its data, allows only its own script, and says what it holds."""

import base64
import hashlib
import json
import math
import re
from dataclasses import replace

import pytest

from gradwatch.analysis.listing import list_runs
from gradwatch.record import ParameterInfo
from gradwatch.store import StoreWriter
from gradwatch.testing import steady, stream, write_run
from gradwatch.views.html import render, render_runs
from gradwatch.views.web.view import RunView

HOSTILE = "</script><script>alert(1)</script><!--"


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def note_of(page):
    return data_of(page)["list"]["note"]


def test_only_its_own_script_may_run(run):
    page = render(RunView(run.path))
    (script,) = re.findall(r'<script type="module">(.*?)</script>', page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1]
    assert policy == f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'"


def test_names_from_strangers_end_no_script(tmp_path):
    names = tuple(ParameterInfo(name=f"{HOSTILE}{i}", shape=(3,)) for i in range(2))
    writer = StoreWriter(tmp_path / "<b>run")
    writer.begin_attempt({"model": HOSTILE}, {"0": (HOSTILE, {})})
    writer.add_parameters("0", names)
    writer.append(stream(steady(20), parameters=names))
    writer.end_attempt("closed")
    page = render(RunView(tmp_path / "<b>run"))
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<title>&lt;b&gt;run: healthy</title>" in page
    (part,) = data_of(page)["runs"]["<b>run"].values()
    assert [layer["name"] for layer in part["layers"]["layers"]] == [info.name for info in names]


def test_a_short_run_is_whole(tmp_path):
    page = render(RunView(write_run(tmp_path, stream(steady(30)))))
    told = "In this file: every step; of the layers, every step, rounded to 0.4%. Made by gradwatch "
    assert note_of(page).startswith(told)


def test_a_long_run_says_how_much_it_was_reduced(tmp_path, monkeypatch):
    monkeypatch.setattr("gradwatch.views.html.STEP_COLUMNS", 20)
    monkeypatch.setattr("gradwatch.views.html.LAYER_VALUES", 10)
    monkeypatch.setattr("gradwatch.views.html.MIN_LAYER_COLUMNS", 5)
    note = note_of(render(RunView(write_run(tmp_path, stream(steady(300))))))
    assert "300 steps as 38 columns with the smallest and largest value of each" in note
    assert "of the layers, one column for 64 steps with the largest value of each" in note


def test_of_several_optimizers_it_holds_those_it_is_given_and_names_the_rest(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"generator": ("Adam", {}), "critic": ("Adam", {})})
    for name in ("generator", "critic"):
        records = [replace(record, optimizer=name) for record in stream(steady(20))]
        writer.add_parameters(name, records[0].layers.parameters)
        writer.append(records)
    writer.end_attempt("closed")
    both = render(RunView(tmp_path, "critic"), RunView(tmp_path, "generator"))
    assert list(data_of(both)["runs"][tmp_path.name]) == ["critic", "generator"]
    alone = render(RunView(tmp_path, "critic"))
    assert list(data_of(alone)["runs"][tmp_path.name]) == ["critic"]
    assert "generator" in note_of(alone)
    assert "generator" not in note_of(both)


@pytest.mark.parametrize("norm", [0.0, float("nan"), float("inf"), 1e-30, 1e300])
def test_a_run_of_one_strange_step_has_a_page(tmp_path, norm):
    assert data_of(render(RunView(write_run(tmp_path, stream([norm])))))["list"]["runs"][0]["name"] == tmp_path.name


@pytest.fixture
def many(tmp_path):
    """Four runs that ended in NaN, one whose norm grew, a healthy one and one that can't be read."""
    for number in range(4):
        write_run(tmp_path / f"lost{number}", stream([*steady(60), *[math.nan] * 20]))
    write_run(tmp_path / "grown", stream([*steady(300), *(1e4 * norm for norm in steady(100))]))
    write_run(tmp_path / f"{HOSTILE.replace('/', '|')}fine", stream(steady(80)))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "gradwatch.db").write_bytes(b"no database")
    return tmp_path


def page_of(folder):
    rows = list_runs(folder, keep_index=False)
    return render_runs("nightly", rows, {row.name: folder / row.name / "gradwatch.db" for row in rows})


def test_a_page_of_many_runs_has_each_in_its_table_and_the_worst_whole(many, monkeypatch):
    monkeypatch.setattr("gradwatch.views.html.MOST_WHOLE", 3)
    page = page_of(many)
    assert page.count("<script") == 2
    data = data_of(page)
    listed = {run["name"]: run for run in data["list"]["runs"]}
    assert len(listed) == 7
    for name in ("lost0", "grown"):
        summary = RunView(many / name).summary
        found = next(finding for finding in summary.findings if finding.severity != "info")
        numbers = listed[name]["numbers"]
        assert (listed[name]["verdict"], numbers["fault"]) == (summary.verdict, found.code)
        assert numbers["fault_step"] == found.steps[0]
        assert numbers["fault_layer"] == next(iter(found.parameters), None)
    assert listed["torn"]["error"]
    assert listed["torn"]["numbers"] is None
    # The critical ones first, one of each fault before the second of any.
    assert list(data["runs"]) == ["grown", "lost0", "lost1"]
    assert "7 runs in the table, and 3 of them with steps and layers" in data["list"]["note"]
    assert "<title>nightly: 6 of 7 runs not healthy</title>" in page


def test_a_page_of_many_runs_holds_no_more_bytes_of_whole_runs_than_it_may(many, monkeypatch):
    monkeypatch.setattr("gradwatch.views.html.MAX_WHOLE_BYTES", 1)
    assert list(data_of(page_of(many))["runs"]) == ["grown"]
