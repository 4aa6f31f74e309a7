"""The report in one file, opened from a disk with no network."""

import pytest

from gradwatch import Run
from gradwatch.analysis.listing import RunRow
from gradwatch.views.html import render, render_runs
from gradwatch.views.web.view import RunView

from .conftest import CHROMIUM, NAMES, SPIKE, STEPS
from .looking import AXE, BAD, TOP, Look

if CHROMIUM is None:
    pytest.skip("there is no Chromium", allow_module_level=True)
from playwright.sync_api import expect


@pytest.fixture(scope="module")
def file(logs, tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(render(RunView(logs / "known")))
    return file


@pytest.fixture(params=["light", "dark"])
def report(browser, file, request):
    look = Look(browser, offline=True, color_scheme=request.param)
    look.open_file(file).shown_run()
    look.theme = request.param
    yield look
    look.close()


def test_it_shows_what_the_tab_shows_and_loads_nothing(report, file):
    expect(report.frame.locator("header.verdict")).to_contain_text("NaN or infinite from step 16000 on")
    expect(report.frame.locator("header.verdict")).to_contain_text("In this file: 20000 steps as")
    assert report.range() == (0, STEPS - 1)
    assert report.requests == [f"file://{file}"]
    assert report.faults == []
    expect(report.frame.locator(".gradwatch")).to_have_attribute("data-theme", report.theme)


def test_a_single_step_and_nan_are_seen_whole_and_zoomed(report):
    bad = BAD if report.theme == "light" else (255, 79, 163)
    assert TOP in report.colours(report.x_of(SPIKE), 0, 5)
    assert bad in report.colours(report.x_of(16_100), 1, 5)
    report.frame.locator("button.event").nth(0).click()
    report.settle()
    assert TOP in report.colours(report.x_of(SPIKE), 0, 5)
    assert report.frame.get_by_label("layer", exact=True).input_value() == NAMES[0]


def test_the_finding_behind_the_verdict_is_told_and_leads_to_its_place(report):
    findings = report.frame.get_by_role("region", name="Findings")
    for part in ("cause", "remedy", "confirm", "evidence", "explain loss-hides-nan", "logging_nan_inf_filter"):
        expect(findings).to_contain_text(part)
    findings.get_by_role("button", name="steps 16,000").click()
    report.settle()
    first, last = report.range()
    assert STEPS / 2 < first < 16_000 < last < STEPS - 1
    assert report.faults == []


def test_it_can_be_read_by_everybody(report):
    assert report.serious_findings(AXE) == []


def test_nothing_but_its_own_script_may_run(report):
    with pytest.raises(Exception, match="Content Security Policy"):
        report.page.add_script_tag(content="window.strange = 1")
    assert report.page.evaluate("() => window.strange") is None


def test_a_notebook_shows_the_page_in_a_frame(browser, logs, tmp_path):
    cell = Run(logs / "known").page(height=800)._repr_html_()
    (tmp_path / "notebook.html").write_text(f'<meta charset="utf-8"><p>a cell</p>{cell}', encoding="utf-8")
    page, faults = browser.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.goto(f"file://{tmp_path / 'notebook.html'}")
    frame = page.frame_locator("iframe")
    expect(frame.locator("header.verdict")).to_contain_text("NaN or infinite from step 16000 on")
    frame.locator("button.event").nth(0).click()
    expect(frame.get_by_label("layer", exact=True)).to_have_value(NAMES[0])
    expect(frame.get_by_role("button", name="copy link")).to_have_count(0)
    assert faults == []
    page.close()


def test_a_page_of_many_runs_has_a_table_and_shows_the_worst(browser, logs, tmp_path):
    rows = [RunRow(name=f"night/{number}", verdict="healthy", steps=number) for number in range(300)]
    rows.append(
        RunRow(name="known", verdict="critical", fault="loss-hides-nan", fault_step=16_000, fault_layer=NAMES[0])
    )
    (tmp_path / "nightly.html").write_text(
        render_runs("night", rows, {row.name: logs / row.name / "gradwatch.db" for row in rows})
    )
    look = Look(browser, offline=True)
    look.open_file(tmp_path / "nightly.html").shown_run()
    table = look.frame.get_by_role("region", name="Table of runs")
    expect(table.locator("tbody tr").first).to_contain_text("knowncriticalloss-hides-nan, step 16,000encoder.0.weight")
    expect(look.frame.locator("header.verdict")).to_contain_text("NaN or infinite from step 16000 on")
    table.get_by_role("button", name="steps").click()
    expect(table.locator("tbody tr").first).to_contain_text("night/299")
    table.get_by_role("button", name="night/299").click()
    expect(look.frame.locator(".problem")).to_contain_text("Of night/299 this file has only the row")
    table.get_by_role("button", name="verdict").click()  # without steps it stood below the 200 rows that are listed
    table.get_by_role("button", name="known").click()
    expect(look.frame.locator("header.verdict")).to_contain_text("NaN or infinite from step 16000 on")
    assert look.faults == []
    assert look.serious_findings(AXE) == []
    look.close()
