"""`gradwatch view` in a browser: the page without TensorBoard, which follows a run."""

import os
import subprocess
import sys

import pytest

from gradwatch.record import Event

from .conftest import CHROMIUM, NAMES, SPIKE, begin, rows
from .looking import AXE, TOP

if CHROMIUM is None:
    pytest.skip("there is no Chromium", allow_module_level=True)
from playwright.sync_api import expect


@pytest.fixture
def view():
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "gradwatch", "view", "--no-open", *map(str, arguments)]
        env = os.environ | {"PYTHONUNBUFFERED": "1"}
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env))
        return started[-1].stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_that_of_the_tab(look, view, logs, theme):
    seen = look(color_scheme=theme).open_page(view(logs), "run=known")
    seen.shown_run()
    expect(seen.frame.locator("button.run")).to_have_count(3)
    expect(seen.frame.locator("header.verdict")).to_contain_text("NaN or infinite from step 16000 on")
    assert TOP in seen.colours(seen.x_of(SPIKE), 0, 5)
    seen.frame.locator("button.event").nth(0).click()
    seen.settle()
    assert seen.frame.get_by_label("layer", exact=True).input_value() == NAMES[0]
    expect(seen.frame.locator(".gradwatch")).to_have_attribute("data-theme", theme)
    assert seen.serious_findings(AXE) == []
    before = seen.range()
    seen.page.reload()
    seen.shown_run()
    assert seen.range() == before, "the address holds what is shown"


def test_nothing_but_its_own_files_may_run(look, view, logs):
    seen = look()
    seen.open_page(view(logs / "known")).shown_run()
    host = seen.page.url.split("/")[2]
    assert {url.split("/")[2] for url in seen.requests if url.startswith("http")} == {host}
    with pytest.raises(Exception, match="Content Security Policy"):
        seen.page.add_script_tag(content="window.strange = 1")
    assert seen.page.evaluate("() => window.strange") is None
    seen.faults.clear()  # the refusal is one


def test_a_run_that_is_being_recorded_is_followed(look, view, tmp_path):
    writer = begin(tmp_path / "run", 3000)
    seen = look().open_page(view(tmp_path / "run"))
    seen.shown_run()
    assert seen.range() == (0, 2999)
    expect(seen.frame.locator("button.run")).to_contain_text("recording")
    found = Event(step=3500, kind="spike", severity="warning", message="found", parameter=NAMES[0])
    writer.append(list(rows(4000, 3000)), [found])
    expect(seen.frame.locator(".span")).to_contain_text("3,999")
    expect(seen.frame.locator("button.event")).to_have_count(1)
    writer.end_attempt("closed")
    expect(seen.frame.locator("button.run")).not_to_contain_text("recording")


def test_a_server_that_was_ended_is_told(look, logs):
    command = [sys.executable, "-m", "gradwatch", "view", "--no-open", str(logs / "known")]
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        seen = look().open_page(process.stdout.readline().strip())
        seen.shown_run()
        process.kill()
    expect(seen.frame.get_by_role("alert")).to_contain_text("The server does not answer")
