"""The tab of TensorBoard, with the installed wheel, in a browser."""

import re
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pytest

from gradwatch.record import RankStats
from gradwatch.testing import steady, stream, write_run

from .conftest import CHROMIUM, EVENTS, NAMES, NAN, SPIKE, STEPS, begin, rows
from .looking import ABSENT, AXE, BAD, TOP

if CHROMIUM is None:
    pytest.skip("there is no Chromium", allow_module_level=True)
from playwright.sync_api import expect


@pytest.fixture
def tab(look, board):
    seen = look().open_tab(board)
    seen.shown_run()
    return seen


def test_the_tab_is_there_and_shows_the_verdict_and_the_events(tab):
    expect(tab.page.get_by_role("tab", name=re.compile("gradwatch", re.IGNORECASE))).to_be_visible()
    expect(tab.frame.locator("header.verdict")).to_contain_text("NaN or infinite from step 16000 on")
    assert tab.frame.locator("button.event").count() == 2
    expect(tab.frame.locator("button.run")).to_have_count(3)
    expect(tab.frame.locator("button.run").filter(has_text="broken")).to_contain_text("can't be read")
    assert tab.faults == []


def test_the_heat_map_is_painted_with_the_known_values(tab):
    luminance = [sum(max(tab.colours(tab.x_of(5000), row, 5))) for row in range(4)]
    assert luminance == sorted(luminance), "larger norms are lighter"
    assert len(set(luminance)) == 4
    assert tab.colours(tab.x_of(5000), 4, 5) == {ABSENT}
    assert BAD in tab.colours(tab.x_of(16_100), 1, 5)
    assert BAD not in tab.colours(tab.x_of(15_000), 1, 5)
    assert TOP not in tab.colours(tab.x_of(SPIKE - 400), 0, 5)


def test_a_single_step_and_a_block_of_nan_are_seen_at_every_zoom(tab):
    widths = []
    while True:
        first, last = tab.range()
        widths.append(last - first + 1)
        x = tab.x_of(SPIKE)
        assert TOP in tab.colours(x, 0, 5), f"the spike is not among steps {first} to {last}"
        assert tab.line_pixels("total norm", x, 0.35) > 0, f"its line is not among steps {first} to {last}"
        if last - first < 30:
            break
        quarter = (last - first) // 4
        begin_at = min(max(first, SPIKE - quarter), last - 2 * quarter)
        tab.drag(begin_at, begin_at + 2 * quarter)
    assert widths[0] == STEPS
    assert len(widths) > 7
    tab.frame.get_by_role("button", name="the whole run").click()
    tab.settle()
    for first, last in ((0, STEPS), (10_000, 19_000), (15_000, 17_000), (15_900, 16_300), (15_990, 16_010)):
        if first:
            tab.drag(first, last)
        assert BAD in tab.colours(tab.x_of(max(16_005, tab.range()[0])), 1, 5)


def test_a_click_on_an_event_leads_to_its_steps_and_its_layer(tab):
    tab.frame.locator("button.event").nth(0).click()
    tab.settle()
    first, last = tab.range()
    assert first < SPIKE < last
    assert last - first < 200
    assert tab.frame.get_by_label("layer", exact=True).input_value() == NAMES[0]
    expect(tab.frame.locator("section.track h3").filter(has_text=NAMES[0])).to_be_visible()
    expect(tab.frame.locator("button.event").nth(0)).to_have_attribute("aria-current", "true")


def test_a_mark_on_a_chart_leads_to_its_event(tab):
    over = tab.frame.locator("section[aria-label='loss'] .u-over")
    box = over.bounding_box()
    over.click(position={"x": (NAN[0] + 0.5) / STEPS * box["width"], "y": 30})
    tab.settle()
    expect(tab.frame.locator("button.event").nth(1)).to_have_attribute("aria-current", "true")


def test_a_mark_below_the_layers_leads_to_its_event(tab):
    tab.frame.locator("canvas.heat").scroll_into_view_if_needed()
    box = tab.frame.locator("canvas.heat").bounding_box()
    tab.page.mouse.click(box["x"] + tab.x_of(SPIKE), box["y"] + box["height"] - 5)
    tab.settle()
    expect(tab.frame.locator("button.event").nth(0)).to_have_attribute("aria-current", "true")


def test_the_pointer_tells_layer_step_and_value_and_a_click_draws_the_layer(tab):
    tab.frame.locator("button.event").nth(0).click()
    tab.settle()
    tab.frame.locator("canvas.heat").scroll_into_view_if_needed()
    box = tab.frame.locator("canvas.heat").bounding_box()
    tall = (box["height"] - 12) / 5
    tab.page.mouse.move(box["x"] + tab.x_of(SPIKE), box["y"] + tall / 2)
    expect(tab.frame.locator(".layers .heat-head .readout")).to_have_text(f"{NAMES[0]} · step 12,345 · 1000")
    tab.page.mouse.click(box["x"] + tab.x_of(SPIKE), box["y"] + 2.5 * tall)
    expect(tab.frame.get_by_label("layer", exact=True)).to_have_value(NAMES[2])


def test_the_keyboard_moves_and_zooms(tab):
    tab.frame.get_by_role("button", name="fewer steps").focus()
    tab.page.keyboard.press("+")
    tab.page.keyboard.press("+")
    tab.settle()
    first, last = tab.range()
    assert last - first + 1 == pytest.approx(STEPS / 4, abs=3)
    tab.page.keyboard.press("ArrowRight")
    tab.settle()
    assert tab.range()[0] > first
    tab.page.keyboard.press("0")
    tab.settle()
    assert tab.range() == (0, STEPS - 1)
    tab.frame.get_by_label("layer", exact=True).select_option(NAMES[2])
    expect(tab.frame.locator("section.track h3").filter(has_text=NAMES[2])).to_be_visible()


def test_layers_are_filtered_grouped_and_sorted(tab):
    options = tab.frame.get_by_label("layer", exact=True).locator("option")
    tab.frame.get_by_label("filter").fill(r"^encoder\.\d\.weight$")
    assert options.all_inner_texts() == ["none chosen", NAMES[0], NAMES[2]]
    tab.frame.get_by_label("filter").fill("(")
    assert options.all_inner_texts() == ["none chosen", NAMES[0], NAMES[2]], "half an expression changes nothing"
    tab.frame.get_by_label("filter").fill("")
    tab.frame.get_by_label("group").select_option("1")
    assert options.all_inner_texts()[1] == "encoder (3)"
    tab.frame.get_by_label("group").select_option("0")
    tab.frame.get_by_label("order").select_option("trouble")
    assert options.all_inner_texts()[1] == NAMES[1]
    tab.frame.get_by_label("statistic").select_option("relative")
    tab.settle()
    assert BAD in tab.colours(tab.x_of(16_100), 0, 5)


def test_ranks_are_drawn_over_the_steps(look, tensorboard, tmp_path):
    """Of four the third is nine times as loud from step 100 to 149, and the fourth is not finite at step 20."""
    norms = np.full((200, 4), 1.0, np.float32)
    norms[100:150, 2], norms[20, 3] = 9.0, np.nan
    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    records = [
        replace(
            record,
            ranks=RankStats(
                norm=row,
                nonfinite=np.isnan(row).astype(np.float32),
                differing=zeros,
                differs_in=zeros,
                before_reduction=ones,
            ),
        )
        for record, row in zip(stream(steady(200)), norms, strict=True)
    ]
    write_run(tmp_path / "logs" / "run", records)
    tab = look().open_tab(tensorboard("--logdir", tmp_path / "logs"))
    tab.shown_run()
    tab.frame.get_by_label("statistic").select_option("rank_norm")
    tab.settle()
    assert tab.frame.get_by_label("layer", exact=True).locator("option").all_inner_texts()[1:] == [
        "rank 0",
        "rank 1",
        "rank 2",
        "rank 3",
    ]
    quiet, loud = tab.colours(tab.x_of(50), 2, 4), tab.colours(tab.x_of(125), 2, 4)
    assert quiet == tab.colours(tab.x_of(50), 0, 4) == tab.colours(tab.x_of(125), 1, 4)
    assert loud.isdisjoint(quiet)
    assert BAD in tab.colours(tab.x_of(20), 3, 4)
    assert BAD not in tab.colours(tab.x_of(20), 2, 4)
    assert tab.faults == []


def test_a_slider_tells_what_a_threshold_would_have_done(tab):
    slider = tab.frame.get_by_label("A threshold of")
    slider.evaluate("(slider) => { slider.value = 0; slider.dispatchEvent(new Event('input')); }")
    expect(tab.frame.locator("output")).to_contain_text("would have clipped 100%")
    slider.evaluate("(slider) => { slider.value = slider.max; slider.dispatchEvent(new Event('input')); }")
    expect(tab.frame.locator("output")).to_contain_text("would have clipped 0%")


def test_runs_are_drawn_over_one_another(tab):
    tab.frame.get_by_label("draw nested/short").check()
    tab.settle()
    label = tab.frame.locator("section[aria-label='total norm'] .plot").get_attribute("aria-label")
    assert "known: total_norm" in label
    assert "nested/short: total_norm" in label
    assert tab.faults == []


def test_a_broken_store_is_told_and_the_others_stay(tab):
    tab.frame.locator("button.run").filter(has_text="broken").click()
    expect(tab.frame.get_by_role("alert")).to_contain_text("is not an SQLite file")
    tab.frame.locator("button.run").filter(has_text="known").click()
    tab.shown_run()
    expect(tab.frame.get_by_role("alert")).to_be_hidden()
    tab.faults[:] = [fault for fault in tab.faults if not fault.endswith("run=broken")]  # which is refused


def test_names_from_a_store_are_shown_as_text(tab):
    tab.frame.get_by_label("layer", exact=True).select_option(NAMES[3])
    expect(tab.frame.locator("section.track h3").filter(has_text="<img src=x")).to_be_visible()
    expect(tab.frame.locator("button.event").nth(0)).to_contain_text("<b>")
    assert tab.frame.locator("body").evaluate("() => [window.broken, document.images.length]") == [None, 0]
    assert tab.faults == []


def test_what_was_written_meanwhile_is_there_after_a_reload(look, tensorboard, tmp_path):
    writer = begin(tmp_path / "live", 3000)
    tab = look().open_tab(tensorboard("--logdir", tmp_path))
    tab.shown_run()
    assert tab.range() == (0, 2999)
    expect(tab.frame.locator("button.run")).to_contain_text("recording")
    tab.frame.locator("button.run").focus()
    writer.append(list(rows(SPIKE + 100, 3000)), [EVENTS[0]])
    tab.page.locator("button[aria-label*=eload], button.reload-button, app-header-reload button").first.click()
    expect(tab.frame.locator(".span")).to_contain_text("12,444")
    tab.settle()
    expect(tab.frame.locator("button.event")).to_have_count(1)
    assert TOP in tab.colours(tab.x_of(SPIKE), 0, 5)
    tab.frame.locator("button.event").click()
    tab.frame.locator("button.event").focus()
    tab.page.evaluate("() => document.querySelector('button[aria-label*=eload], app-header-reload button').click()")
    tab.settle()
    assert tab.frame.locator("button.event").evaluate("(button) => document.activeElement === button")
    tab.frame.locator("button.event").click()
    expect(tab.frame.locator("button.event")).to_have_attribute("aria-current", "true")
    writer.end_attempt("closed")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_can_be_read_by_everybody(tab, theme):
    if theme == "dark":
        tab.page.locator("app-header-dark-mode-toggle button").click()
        tab.page.get_by_role("menuitem", name="Dark").click()
        expect(tab.frame.locator(".gradwatch")).to_have_attribute("data-theme", "dark")
        assert (255, 79, 163) in tab.colours(tab.x_of(16_100), 1, 5)
    tab.frame.locator("button.event").nth(0).click()
    tab.settle()
    assert tab.serious_findings(AXE) == []
    assert "encoder" in tab.frame.locator("canvas.heat").get_attribute("aria-label")


def test_under_a_path_prefix(look, tensorboard, logs):
    tab = look().open_tab(tensorboard("--logdir", logs, "--path_prefix", "/tb/pre"))
    tab.shown_run()
    assert tab.range() == (0, STEPS - 1)
    assert tab.faults == []


def test_with_logdir_spec_and_the_slow_loader(look, tensorboard, logs):
    tab = look().open_tab(tensorboard("--logdir_spec", f"mine:{logs}", "--load_fast=false"))
    tab.shown_run()
    expect(tab.frame.locator("button.run").filter(has_text="mine/known")).to_be_visible()


def test_an_empty_folder_says_what_to_do(look, tensorboard, tmp_path):
    tab = look().open_tab(tensorboard("--logdir", tmp_path))
    expect(tab.frame.locator(".empty")).to_contain_text("gradwatch run")
    assert tab.serious_findings(AXE) == []


@pytest.mark.parametrize(
    "path", ["static/../plugin.py", "static/..%2f..%2f..%2fetc/passwd", "overview?run=../../etc", "tile?run=/etc"]
)
def test_a_path_is_refused_by_the_server_too(board, path):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{board}data/plugin/gradwatch/{path}")
    assert refused.value.code == 404
