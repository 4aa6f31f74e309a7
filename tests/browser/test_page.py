"""The page in a browser, with runs that are hard to show: each test is a fault that a reader once saw."""

import base64
import math
import os
import re
import shutil
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from gradwatch.analysis.replays.result import Help, Origin, Replay, RowFinding, write_replay
from gradwatch.record import (
    MAGNITUDE_BINS,
    Event,
    LayerStats,
    MagnitudeStats,
    ParameterInfo,
    SentinelStats,
    StepRecord,
    UpdateStats,
    WeightStats,
)
from gradwatch.store import StoreWriter
from gradwatch.views.html import render
from gradwatch.views.web.view import RunView

from .conftest import CHROMIUM
from .looking import ABSENT, AXE, BAD, LEFT, TOP

if CHROMIUM is None:
    pytest.skip("there is no Chromium", allow_module_level=True)
from playwright.sync_api import expect

CRITICAL, WARNING, INFO = (179, 38, 30), (154, 91, 0), (87, 96, 106)  # colours.js, on light
RUN_BLUE = (0, 114, 178)
LAYERS = 1000
READOUT = ".layers .heat-head .readout"


def parameters(count):
    return tuple(ParameterInfo(name=f"block.{i}.weight", shape=(4, 4)) for i in range(count))


def record(step, norms, optimizer="0", loss=1.0, lr=1.25e-4, weights=None, max_norm=None):
    norms = np.asarray(norms, np.float32)
    bad = np.isnan(norms).astype(np.float32)
    total = float(np.sqrt(np.sum(norms.astype(float) ** 2)))
    return StepRecord(
        step=step,
        optimizer=optimizer,
        wall_time=1.7e9 + step,
        total_norm=total,
        max_norm=max_norm,
        clip_coef=1.0 if max_norm is None else min(1.0, max_norm / (total + 1e-6)),
        nonfinite=int(bad.sum()),
        loss=loss,
        learning_rates=(lr,),
        layers=LayerStats(parameters=parameters(len(norms)), norm=norms, nonfinite=bad),
        weights=weights,
    )


def write(folder, records, events=(), optimizers=("0",)):
    writer = StoreWriter(folder)
    writer.begin_attempt({"model": "Net"}, {name: ("Adam", {"lr": 1.25e-4}) for name in optimizers})
    for name in optimizers:
        own = next(record for record in records if record.optimizer == name)
        writer.add_parameters(name, own.layers.parameters)
    writer.append(records, list(events))
    return writer


def event(step, severity="warning", kind="spike", **more):
    return Event(step=step, kind=kind, severity=severity, message=f"{kind} at {step}", **more)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One folder with a run for each fault."""
    folder = tmp_path_factory.mktemp("runs")

    # level 1; a critical event two steps after a warning, an information event, NaN losses, one explosion
    losses = [math.nan if 600 <= step < 620 else 2.0 for step in range(800)]
    norms = [[1e9 if 400 <= step < 404 else 1.0, 0.5, 0.5] for step in range(800)]
    events = [
        event(100, "info", "resumed"),
        event(398, "warning", parameter="block.0.weight"),
        event(400, "critical", "explosion", parameter="block.0.weight", until=403),
        event(401, "warning", "drift"),
    ]
    write(
        folder / "long", [record(s, n, loss=lo) for s, (n, lo) in enumerate(zip(norms, losses, strict=True))], events
    ).end_attempt("closed")
    write(folder / "short", [record(s, [3.0, 3.0, 3.0], loss=5.0) for s in range(100)]).end_attempt("closed")
    write(folder / "one", [record(0, [1.0, 2.0], lr=1.25e-4)]).end_attempt("closed")

    both = [record(s, [1.0, 2.0], optimizer=name) for s in range(300) for name in ("generator", "critic")]
    two = [
        event(50, "warning", optimizer="generator", parameter="block.1.weight"),
        event(200, "critical", "explosion", optimizer="critic", parameter="block.0.weight"),
    ]
    write(folder / "gan", both, two, ("generator", "critic")).end_attempt("closed")

    # layer i has norm i + 1, so that what the pointer tells can be checked
    write(folder / "wide", [record(s, np.arange(1, LAYERS + 1)) for s in range(50)]).end_attempt("closed")

    sampled = [
        record(
            s,
            [1.0, 1.0],
            weights=WeightStats(weight_norm=np.float32([2.0, 0.0]), update_norm=np.float32([0.02, 0.02]))
            if s in (0, 50)
            else None,
        )
        for s in range(100)
    ]
    write(folder / "sampled", sampled).end_attempt("closed")
    for i in range(7):
        write(folder / "sweep" / str(i), [record(s, [1.0, 1.0], max_norm=5.0) for s in range(400)]).end_attempt(
            "closed"
        )
    return folder


@pytest.fixture(scope="module")
def url(served, runs):
    return served(runs)


@pytest.fixture
def page(look, url):
    def open_run(name, state="", **context):
        seen = look(**context).open_page(url, f"run={name}{state}")
        seen.shown_run()
        return seen

    return open_run


def rows_of(seen):
    return seen.frame.get_by_label("layer", exact=True)


# ------------------------------------------------------------------------------------------- what is told


def test_commands_in_sentences_are_code_and_no_backticks(page):
    seen = page("long")
    for folded in seen.frame.locator(".findings details").all():
        folded.evaluate("(one) => { one.open = true; }")
    expect(seen.frame.locator(".findings dd code").first).to_be_visible()
    assert "`" not in seen.frame.locator(".gradwatch").inner_text()


def test_past_the_end_of_a_shorter_run_the_pointer_tells_where_it_ended(page):
    seen = page("long", "&run=short")
    assert "short: total_norm 5.2" in seen.point("total norm", 50)
    told = seen.point("total norm", 350)
    assert "short: total_norm ended at step 99" in told
    assert "long: total_norm 1.22" in told
    seen.frame.locator("button.run").filter(has_text="short").click()
    seen.settle()
    box = seen.frame.locator("canvas.heat").bounding_box()
    seen.page.mouse.move(box["x"] + seen.x_of(500), box["y"] + 10)
    expect(seen.frame.locator(READOUT)).to_have_text("no step was recorded here")


def test_where_layers_share_a_pixel_the_pointer_tells_the_one_that_colours_it_and_all_can_be_chosen(page):
    seen = page("wide")
    canvas = seen.frame.locator("canvas.heat")
    box = canvas.bounding_box()
    tall = box["height"] - 12
    assert tall < LAYERS, "several layers share a line"
    x = box["x"] + seen.x_of(20)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    each = math.ceil(LAYERS / tall)
    lines = math.ceil(LAYERS / each)
    for part in (0.0, 0.1234, 0.5, 0.777, 0.999):
        at = int(part * tall) + 0.5
        seen.page.mouse.move(x, box["y"] + at)
        last = min(LAYERS, (int(at / tall * lines) + 1) * each) - 1
        expect(seen.frame.locator(READOUT)).to_contain_text(f"block.{last}.weight · step 20 · {last + 1}")
    seen.page.mouse.click(x, box["y"] + 5.5)
    first = rows_of(seen).input_value()
    seen.page.mouse.click(x, box["y"] + 5.5)
    second = rows_of(seen).input_value()
    assert first != second
    numbers = {int(re.findall(r"\d+", name)[0]) for name in (first, second)}
    for by in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp"):
        seen.page.keyboard.press(by)
        numbers.add(int(re.findall(r"\d+", rows_of(seen).input_value())[0]))
    assert numbers == set(range(min(numbers), max(numbers) + 1)), "no layer is skipped"


def test_numbers_have_three_digits_however_small(page):
    seen = page("one")
    expect(seen.frame.locator("header.verdict")).to_contain_text("lr 1.25e-4")
    assert "learning_rate 1.25e-4" in seen.point("learning rate", 0)


def test_a_sampled_statistic_holds_to_the_end_of_the_run_and_says_what_no_value_means(page):
    seen = page("sampled", "&stat=update_ratio")
    middle, end = seen.colours(seen.x_of(70), 0, 2), seen.colours(seen.x_of(97), 0, 2)
    assert middle == end
    box = seen.frame.locator("canvas.heat").bounding_box()
    seen.page.mouse.move(box["x"] + seen.x_of(97), box["y"] + 5)
    expect(seen.frame.locator(READOUT)).to_have_text("block.0.weight · step 50 · 0.01")
    expect(seen.frame.locator(".layers .legend")).to_contain_text("weights are zero")
    expect(seen.frame.locator(".layers .legend")).not_to_contain_text("no gradient")


def test_a_run_trained_again_under_its_name_shows_nothing_of_the_old_one(look, served, tmp_path):
    """Beside it, a run without a step is not called healthy, and no data is asked for twice."""
    folder = tmp_path / "run"
    write(folder, [record(s, [1.0, 2.0]) for s in range(100)]).end_attempt("closed")
    empty = StoreWriter(tmp_path / "empty")
    empty.begin_attempt({"model": "Net"}, {"0": ("Adam", {"lr": 1.25e-4})})
    seen = look().open_page(served(tmp_path), "run=run")
    seen.shown_run()
    expect(seen.frame.locator("button.run").filter(has_text="empty")).to_contain_text("no step yet")
    asked = [url for url in seen.requests if "/series?" in url or "/tile?" in url]
    assert len(asked) == len(set(asked)) == 2

    def told():
        box = seen.frame.locator("canvas.heat").bounding_box()
        seen.page.mouse.move(box["x"] + seen.x_of(50), box["y"] + 5)
        return seen.frame.locator(READOUT)

    expect(told()).to_have_text("block.0.weight · step 50 · 1")
    shutil.rmtree(folder)
    write(folder, [record(s, [7.0, 3.0]) for s in range(100)]).end_attempt("closed")
    seen.page.reload()
    seen.shown_run()
    expect(told()).to_have_text("block.0.weight · step 50 · 7")
    empty.end_attempt("closed")


# ------------------------------------------------------------------------------------------- what is drawn


def test_losses_that_are_not_finite_are_columns_of_the_loss_and_told(page):
    seen = page("long")
    assert (*BAD, 255) in seen.chart_colours("loss", 610, 0.0, 0.2)
    assert (*BAD, 255) not in seen.chart_colours("loss", 500, 0.0, 0.2)
    assert (*BAD, 255) not in seen.chart_colours("total norm", 610, 0.0, 0.2)
    assert "loss not finite" in seen.point("loss", 610)


def test_a_graver_event_has_its_mark_over_a_milder_one(page):
    seen = page("long")
    colours = seen.chart_colours("total norm", 400, 0.75, 0.9)
    assert (*CRITICAL, 255) in colours
    assert (*WARNING, 255) not in colours


def test_every_event_has_its_mark_in_the_lane_and_a_click_leads_to_it(page):
    seen = page("long")
    lane = seen.frame.locator("canvas.lane")
    expect(lane).to_have_attribute("aria-label", "4 events over steps: 1 critical, 2 warning, 1 info")
    box = lane.bounding_box()
    width = box["width"] - 56 - 14
    x = box["x"] + 56 + (100.5 / 800) * width
    pixels = lane.evaluate(
        "(canvas, x) => [...canvas.getContext('2d').getImageData(x, 2.5 * 14, 1, 1).data]", x - box["x"]
    )
    assert tuple(pixels[:3]) == INFO
    seen.page.mouse.move(x, box["y"] + 2.5 * 14)
    expect(seen.frame.locator("section[aria-label='events'] .readout")).to_have_text("info resumed at step 100")
    seen.page.mouse.click(x, box["y"] + 2.5 * 14)
    seen.settle()
    expect(seen.frame.locator("button.event").nth(0)).to_have_attribute("aria-current", "true")
    expect(seen.frame.locator("button.event").filter(has_text="critical explosion steps 400 to 403")).to_be_visible()
    assert seen.range()[0] < 100 < seen.range()[1]


def test_a_run_of_one_step_is_drawn(page):
    seen = page("one")
    for chart in ("total norm", "loss", "learning rate"):
        assert (*RUN_BLUE, 255) in seen.chart_colours(chart, 0, 0.0, 0.9), chart


def test_why_a_run_is_not_shown_can_be_read(look, served, tmp_path):
    StoreWriter(tmp_path / "empty").begin_attempt({"model": "Net"}, {})
    seen = look().open_page(served(tmp_path), "run=empty")
    alert = seen.frame.get_by_role("alert")
    expect(alert).to_contain_text("holds no step yet")
    assert alert.evaluate("alert => alert.closest('.waiting')") is None, "it would be pale"
    seen.faults[:] = [fault for fault in seen.faults if "run=empty" not in fault]  # which is refused


def test_one_explosion_does_not_flatten_the_rest_and_its_height_is_told(page):
    seen = page("long")
    plot = seen.frame.locator("section[aria-label='total norm'] .plot canvas")
    cut = plot.screenshot()
    assert (*RUN_BLUE, 255) in seen.chart_colours("total norm", 402, 0.0, 0.1), "a triangle at the top"
    assert "total_norm 1e9" in seen.point("total norm", 402)
    assert (*RUN_BLUE, 255) not in seen.chart_colours("total norm", 200, 0.0, 0.5)
    legend = seen.frame.locator("section[aria-label='total norm'] .limit")
    assert 100 < float(re.fullmatch(r"▲ above (\S+)", legend.inner_text())[1]) < 150, "100 times the level of 1"
    seen.frame.get_by_label("whole y axis").check()
    seen.settle()
    assert plot.screenshot() != cut
    expect(legend).to_have_text("")
    seen.frame.get_by_label("whole y axis").uncheck()


def test_a_drag_with_shift_shows_a_part_of_the_values(page):
    seen = page("long")
    over = seen.frame.locator("section[aria-label='total norm'] .u-over")
    box = over.bounding_box()
    steps = seen.range()

    def is_line_above_the_lowest_quarter():
        colours = seen.chart_colours("total norm", 200, 0.0, 0.75)
        return any(red < 10 and blue > 160 and alpha == 255 for red, _, blue, alpha in colours)

    assert not is_line_above_the_lowest_quarter()
    seen.page.keyboard.down("Shift")
    seen.page.mouse.move(box["x"] + 100, box["y"] + box["height"] - 25)
    seen.page.mouse.down()
    seen.page.mouse.move(box["x"] + 110, box["y"] + box["height"] - 10)
    seen.page.mouse.move(box["x"] + 120, box["y"] + box["height"] - 1)
    seen.page.mouse.up()
    seen.page.keyboard.up("Shift")
    seen.settle()
    assert seen.range() == steps
    assert "y=total+norm_" in seen.page.url
    low, high = (float(end) for end in re.search(r"y=total\+norm_([^_]+)_([^&]+)", seen.page.url).groups())
    assert low < 1.22 < high < 100
    assert is_line_above_the_lowest_quarter()
    assert (*RUN_BLUE, 255) in seen.chart_colours("total norm", 402, 0.0, 0.1), "what rises above is marked"
    seen.page.reload()
    seen.shown_run()
    assert "y=total+norm_" in seen.page.url
    seen.page.keyboard.press("0")
    seen.settle()
    assert "y=" not in seen.page.url


def test_what_is_in_view_is_saved(page):
    seen = page("long")
    seen.frame.locator("button.event").filter(has_text="explosion").click()
    seen.settle()

    def saved(kind):
        with seen.page.expect_download() as download:
            seen.frame.get_by_label("save what is in view").select_option(kind)
        return download.value

    first, last = seen.range()
    lines = pd.read_csv(saved("series").path())
    assert lines["run"].unique().tolist() == ["long"]
    assert (lines["first_step"].min(), lines["last_step"].max()) == (first, last)
    by_step = lines.set_index("first_step")
    assert by_step.loc[402, "total_norm_high"] == pytest.approx(1e9)
    assert by_step.loc[395, "loss_high"] == 2.0
    layers = pd.read_csv(saved("layers").path()).set_index("first_step")
    assert layers.columns.tolist() == ["last_step", "block.0.weight", "block.1.weight", "block.2.weight"]
    assert layers.loc[402].tolist() == [402.0, 1e9, 0.5, 0.5]
    picture = saved("picture")
    assert picture.suggested_filename == "gradwatch-long-picture.png"
    size = picture.path().read_bytes()
    assert size[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(size) > 20_000, "something is drawn"


COMPARE = """async ([png, svg]) => {
    const pixels = async (url) => {
        const image = new Image();
        image.src = url;
        await image.decode();
        const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
        canvas.getContext("2d").drawImage(image, 0, 0);
        return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    };
    const [one, other] = [await pixels(png), await pixels(svg)];
    const apart = (i, j) => Math.max(...[0, 1, 2].map((k) => Math.abs(one.data[i + k] - other.data[j + k])));
    const around = [-1, 0, 1].flatMap((y) => [-1, 0, 1].map((x) => 4 * (y * one.width + x)));
    // A thin line may fall between two pixels of one picture and on one of the other.
    const alike = (i) => around.some((offset) => apart(i, i + offset) <= 100);
    let far = 0, coloured = 0, missing = 0;
    for (let i = 0; i < one.data.length; i += 4) {
        const by = apart(i, i);
        far += by > 60;
        const saturated = Math.max(...one.data.slice(i, i + 3)) - Math.min(...one.data.slice(i, i + 3)) > 100;
        coloured += saturated;
        missing += saturated && !alike(i);
    }
    const size = one.data.length / 4;
    return { sizes: [[one.width, one.height], [other.width, other.height]], far: far / size, coloured, missing };
}"""


def test_the_vector_picture_shows_what_the_canvases_show(look, served, tmp_path):
    names = ("<script>&\"'.weight", "]]>&amp;.bias", "\x1b[31mred\x00.weight")
    infos = tuple(ParameterInfo(name=name, shape=(4, 4)) for name in names)
    records = []
    for step in range(300):
        norms = [np.nan if step in (20, 21) else 1.0 + step / 100, 1e6 if step == 200 else 0.5, 0.1]
        one = record(step, norms, loss=math.inf if step == 90 else 2.0 + math.sin(step / 9), max_norm=2.0)
        records.append(replace(one, layers=replace(one.layers, parameters=infos)))
    events = [event(200, "critical", "explosion", parameter=names[1]), event(100, "info", "resumed")]
    write(tmp_path / "run", records, events).end_attempt("closed")
    seen = look().open_page(served(tmp_path), "run=run&plot=loss+total_norm&brush=0_9_0_1.7")
    seen.shown_run()

    def saved(kind):
        with seen.page.expect_download() as download:
            seen.frame.get_by_label("save what is in view").select_option(kind)
        return download.value

    file = saved("vector")
    assert file.suggested_filename == "gradwatch-run-vector.svg"
    text = file.path().read_text()
    tree = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    texts = {one.text for one in tree.iter(f"{space}text")}
    assert {names[0], names[1], "total norm", "Scatter", "loss →", "critical"} <= texts
    assert any("red" in (one or "") and "\x1b" not in one for one in texts)
    images = list(tree.iter(f"{space}image"))
    assert 1 <= len(images) <= 2, "the colours of the layers and their hatching; all else is lines"
    assert len(list(tree.iter(f"{space}path"))) > 200
    picture = base64.b64encode(saved("picture").path().read_bytes()).decode()
    vector = base64.b64encode(text.encode()).decode()
    found = seen.page.evaluate(COMPARE, [f"data:image/png;base64,{picture}", f"data:image/svg+xml;base64,{vector}"])
    assert found["sizes"][0] == found["sizes"][1]
    assert found["far"] < 0.01, found
    assert found["coloured"] > 5000, "something is drawn"
    assert found["missing"] < 0.01 * found["coloured"], found
    points = pd.read_csv(saved("points").path())
    assert points["step"].tolist() == list(range(300))
    assert points.loc[200, "total_norm"] == pytest.approx(1e6)
    assert points["loss"].isna().sum() == 0, "an infinite loss is inf"


def test_what_is_folded_away_is_not_in_a_picture(page):
    """It has a place on the page, and was written over the charts."""
    seen = page("long")
    folded = seen.frame.locator(".findings details:not([open]) dd")
    assert folded.count() > 0, "a milder finding is folded"
    with seen.page.expect_download() as download:
        seen.frame.get_by_label("save what is in view").select_option("vector")
    texts = {one.text for one in ElementTree.parse(download.value.path()).iter("{http://www.w3.org/2000/svg}text")}
    assert texts.isdisjoint({text for text in folded.all_text_contents() if text})


def test_what_is_not_finite_is_hatched(look, served, tmp_path):
    """Without colour vision a plain pink looks like a middling value."""
    write(tmp_path / "run", [record(s, [1.0, math.nan if s >= 50 else 1.0]) for s in range(100)]).end_attempt("closed")
    seen = look().open_page(served(tmp_path))
    seen.shown_run()
    wide = set().union(*(seen.colours(seen.x_of(75) + 5 * i, 1, 2) for i in range(4)))
    assert BAD in wide
    assert (255, 255, 255) in wide
    assert (255, 255, 255) not in set().union(*(seen.colours(seen.x_of(25) + 5 * i, 1, 2) for i in range(4)))


# ------------------------------------------------------------------------------------- several optimizers


def test_a_run_opens_with_the_optimizer_that_went_wrong_and_an_event_leads_to_its_own(page):
    seen = page("gan")
    choice = seen.frame.get_by_label("optimizer")
    expect(choice).to_have_value("critic")
    assert (*CRITICAL, 255) in seen.chart_colours("total norm", 200, 0.5, 0.9)
    assert (*WARNING, 255) not in seen.chart_colours("total norm", 50, 0.5, 0.9), "it is of the other optimizer"
    seen.frame.locator("button.event").filter(has_text="generator").click()
    seen.settle()
    expect(choice).to_have_value("generator")
    expect(rows_of(seen)).to_have_value("block.1.weight")
    assert (*WARNING, 255) not in seen.chart_colours("total norm", 40, 0.5, 0.9)


def test_a_report_holds_all_optimizers(look, runs, tmp_path):
    file = tmp_path / "gan.html"
    file.write_text(render(*(RunView(runs / "gan", name) for name in ("generator", "critic"))))
    seen = look(offline=True).open_file(file)
    seen.shown_run()
    expect(seen.frame.get_by_label("optimizer")).to_have_value("critic")
    seen.frame.locator("button.event").filter(has_text="generator").click()
    seen.settle()
    expect(seen.frame.get_by_label("optimizer")).to_have_value("generator")
    file.write_text(render(RunView(runs / "gan", "generator")))
    seen.page.reload()
    seen.shown_run()
    expect(seen.frame.locator("header.verdict")).to_contain_text("optimizer generator (not critic)")
    expect(seen.frame.get_by_label("optimizer")).to_have_count(0)


# -------------------------------------------------------------------------------- depth and the story


def test_the_depth_profile_shows_the_layers_at_the_pointer_and_says_how_they_change_with_depth(page):
    seen = page("wide")  # layer i has norm i + 1
    side = seen.frame.locator(".side")
    expect(side.locator(".readout")).to_contain_text("step 49: falls towards the input")
    seen.point("total norm", 20)
    expect(side.locator(".readout")).to_contain_text("step 20: falls towards the input")
    seen.page.keyboard.press("Enter")
    seen.page.mouse.move(5, 5)
    expect(side.locator(".readout")).to_contain_text("step 20, pinned")
    seen.settle()
    assert "pin=20" in seen.page.url
    box = side.locator("canvas").bounding_box()
    seen.page.mouse.move(box["x"] + 30, box["y"] + 100)
    expect(side.locator(".readout")).to_contain_text("usually")
    layer, value, usual = re.fullmatch(
        r"block\.(\d+)\.weight: (\d+), usually (\d+)", side.locator(".readout").inner_text()
    ).groups()
    assert int(value) == int(usual) == int(layer) + 1
    seen.page.mouse.click(box["x"] + 30, box["y"] + 100)
    expect(rows_of(seen)).to_have_value(f"block.{layer}.weight")


def test_the_profile_plays_and_stops(page):
    seen = page("long")
    play = seen.frame.get_by_role("button", name="play")
    play.click()
    caption = seen.frame.locator(".side .readout")
    first = caption.inner_text()
    expect(caption).not_to_have_text(first)
    expect(seen.frame.locator(".layers .heat-cursor")).to_be_visible()
    seen.frame.get_by_role("button", name="stop").click()
    expect(seen.frame.locator(".layers .heat-cursor")).to_be_hidden()
    expect(play).to_be_visible()


def test_layers_are_inspected_with_all_statistics_and_all_digits(look, served, tmp_path):
    norms = np.random.default_rng(0).lognormal(0, 1, (200, 3)).astype(np.float32)
    weights = WeightStats(weight_norm=np.float32([2, 3, 4]), update_norm=np.float32([0.02, 0.03, 0.08]))
    records = [record(s, norms[s], weights=weights if s in (0, 150) else None) for s in range(200)]
    folder = tmp_path / "runs" / "run"
    write(folder, records, [event(120)]).end_attempt("closed")
    seen = look(permissions=["clipboard-read", "clipboard-write"])
    seen.open_page(served(tmp_path / "runs"), "run=run").shown_run()
    inspector = seen.frame.get_by_role("region", name="Layers in detail")
    expect(inspector).to_be_hidden()
    inspect = seen.frame.get_by_role("button", name="inspect", exact=True)
    expect(inspect).to_be_disabled()
    for layer in ("block.2.weight", "block.0.weight"):
        rows_of(seen).select_option(layer)
        inspect.click()
    expect(inspector.locator("ul.inspected li")).to_have_text([re.compile("block.2.weight"), re.compile("block.0")])
    table = inspector.get_by_role("region", name="values at a step")

    def cells(one, row):
        line = one.frame.locator(".inspector-table tbody tr").filter(has=one.frame.get_by_text(row, exact=True))
        return line.locator("td").all_inner_texts()

    def is_of(step, when, values):
        assert when == f"step {step}"
        assert [np.float32(value) for value in values] == [norms[step, 2], norms[step, 0]]

    expect(table).to_contain_text("values at step 199")
    norm_row = table.locator("tbody tr").filter(has=seen.frame.get_by_text("norm", exact=True))
    expect(norm_row.locator("td")).to_have_count(3)  # the step, and the values of both layers once they are there
    is_of(199, *(lambda when, *values: (when, values))(*cells(seen, "norm")))
    assert cells(seen, "weight_norm") == ["step 150", "4", "2"]
    assert cells(seen, "update_ratio")[0] == "step 150"
    shares = [float(value) for value in cells(seen, "norm_share")[1:]]
    squares = norms[199].astype(float) ** 2
    assert shares == pytest.approx([squares[2] / squares.sum(), squares[0] / squares.sum()], rel=1e-6)
    assert "block.2.weight" in seen.point("norm_share by layer", 40)
    expect(table).to_contain_text("values at step 40")
    left = [
        seen.frame.locator(f"section[aria-label='{chart}'] .u-over").bounding_box()["x"]
        for chart in ("total norm", "norm by layer")
    ]
    assert left[0] == left[1], "all charts share their steps"
    assert inspector.locator("section[aria-label='nonfinite by layer']").is_hidden()

    seen.page.mouse.move(5, 5)
    seen.frame.locator("button.event").click()
    expect(table).to_contain_text("values at step 120")
    table.focus()
    seen.page.keyboard.press("ArrowRight")
    seen.page.keyboard.press("ArrowRight")
    expect(table).to_contain_text("values at step 122")
    expect(table).to_be_focused()
    inspector.get_by_role("button", name="copy values").click()
    copied = seen.page.evaluate("() => navigator.clipboard.readText()").split("\n")
    assert copied[0] == "statistic\tsteps\tblock.2.weight\tblock.0.weight"
    is_of(122, copied[1].split("\t")[1], copied[1].split("\t")[2:])
    assert seen.serious_findings(AXE) == []
    seen.settle()
    seen.page.reload()
    seen.shown_run()
    expect(table).to_contain_text("values at step 122")
    inspector.get_by_role("button", name="take block.2.weight away").click()
    expect(inspector.locator("ul.inspected li")).to_have_count(1)
    expect(inspector.locator(".inspector-table tbody tr").first.locator("td")).to_have_count(2)
    inspector.get_by_role("button", name="close").click()
    expect(inspector).to_be_hidden()

    file = tmp_path / "run.html"
    file.write_text(render(RunView(folder)))
    report = look(offline=True, color_scheme="dark").open_file(file)
    report.shown_run()
    rows_of(report).select_option("block.1.weight")
    report.frame.get_by_role("button", name="inspect", exact=True).click()
    when, value = cells(report, "norm")
    assert (when, float(value)) == ("step 199", pytest.approx(float(norms[199, 1]), rel=0.005))
    assert float(cells(report, "norm_share")[1]) == pytest.approx(squares[1] / squares.sum(), rel=0.01)
    assert report.serious_findings(AXE) == []


def with_sentinels(step):
    """All updates at every tenth step; at the others those of the first and the third layer. A spike between."""
    base = record(step, [1.0, 1.0, 1.0])
    ratio = np.float32([1.25 if step != 45 else 30.0, 1.5, 1.75])
    update, weight = np.float32([0.01, 0.02, 0.03]), np.float32([1, 1, 1])
    if step % 10 == 0:
        total = {"update_norm": float(np.linalg.norm(update)), "weight_norm": float(np.linalg.norm(weight))}
        return replace(base, updates=UpdateStats(update_norm=update, weight_norm=weight, rms_ratio=ratio), **total)
    at = [0, 2]
    few = SentinelStats(position=np.float32(at), update_norm=update[at], weight_norm=weight[at], rms_ratio=ratio[at])
    return replace(base, sentinels=few)


@pytest.mark.parametrize("where", ["tab", "file"])
def test_updates_of_the_sentinels_are_drawn_between_the_readings_of_all(look, served, tmp_path, where):
    write(tmp_path / "runs" / "run", [with_sentinels(step) for step in range(100)]).end_attempt("closed")
    if where == "tab":
        seen = look().open_page(served(tmp_path / "runs"), "run=run&stat=rms_ratio")
    else:
        file = tmp_path / "run.html"
        file.write_text(render(RunView(tmp_path / "runs" / "run")))
        seen = look(offline=True).open_file(file)
    seen.shown_run()
    seen.frame.locator(".layers").get_by_label("statistic").select_option("rms_ratio")

    # over all parameters: a line through the readings, not a point for each, and the sentinels at each step
    drawn = seen.chart_colours("update_norm", 44, 0, 1)
    blue = [pixel for pixel in drawn if pixel[3] > 200 and max(map(abs, np.subtract(pixel[:3], RUN_BLUE))) < 6]
    assert blue, "the line goes on between two readings"
    told = seen.point("rms_ratio", 45)
    assert "rms_ratio of all, every 10 steps" in told
    assert "of the sentinels, each step 30" in told
    assert "of the sentinels, each step 0.0316" in seen.point("update_norm", 43)

    def of_layer(layer, step):
        rows_of(seen).select_option(layer)
        seen.settle()
        return seen.point("chosen layer", step)

    assert "rms_ratio, each step 30" in of_layer("block.0.weight", 45)
    assert "rms_ratio, every 10 steps 1.5" in of_layer("block.1.weight", 45)

    inspect = seen.frame.get_by_role("button", name="inspect", exact=True)
    for layer in ("block.0.weight", "block.1.weight"):
        rows_of(seen).select_option(layer)
        inspect.click()
    seen.settle()
    assert "block.0.weight, each step 30" in seen.point("rms_ratio by layer", 45)
    table = seen.frame.get_by_role("region", name="values at a step")
    row = table.locator("tr").filter(has=seen.frame.get_by_text("rms_ratio, computed, each step", exact=True))
    expect(row.locator("td")).to_have_text(["step 45", "30", "no sentinel"])
    assert seen.serious_findings(AXE) == []


def test_two_runs_are_divided_layer_by_layer_and_where_they_part_is_told(look, served, tmp_path):
    norms = np.random.default_rng(1).lognormal(0, 0.3, (400, 3))
    grown = norms.copy()
    grown[200:, 1] *= 4
    for name, table in (("calm", norms), ("grown", grown), ("other", norms[::-1])):
        write(tmp_path / name, [record(s, own) for s, own in enumerate(table)]).end_attempt("closed")
    seen = look().open_page(served(tmp_path), "run=grown")
    seen.shown_run()
    statistic = seen.frame.get_by_label("statistic")
    expect(statistic.locator("option").filter(has_text="another run")).to_have_count(0)
    for name in ("calm", "other"):
        seen.frame.get_by_label(f"draw {name}").check()
    statistic.select_option("against")
    note = seen.frame.get_by_role("group", name="Difference of two runs")
    expect(note).to_contain_text("the runs first differ at step 200, in the gradient norm of block.1.weight")
    expect(note).to_contain_text("a relative difference of 0.75")
    expect(seen.frame.locator(".layers .legend")).to_contain_text("-4")
    seen.settle()
    canvas = seen.frame.locator("canvas.heat")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    tall = (box["height"] - 12) / 3
    for step, row, told in ((300, 1, "+2 (× 4)"), (100, 1, "0 (× 1)"), (300, 0, "0 (× 1)")):
        seen.page.mouse.move(box["x"] + seen.x_of(step), box["y"] + (row + 0.5) * tall)
        expect(seen.frame.locator(READOUT)).to_have_text(f"block.{row}.weight · step {step} · {told}")
    alike, larger = seen.colours(seen.x_of(100), 1, 3), seen.colours(seen.x_of(300), 1, 3)
    assert len(alike) == len(larger) == 1
    assert alike != larger
    assert seen.colours(seen.x_of(300), 2, 3) == alike
    note.get_by_role("button", name="to step 200").click()
    seen.settle()
    first, last = seen.range()
    assert 100 < first < 200 < last < 300
    expect(rows_of(seen)).to_have_value("block.1.weight")
    assert seen.colours(seen.x_of(199), 1, 3) == alike
    note.get_by_label("run to compare with").select_option("other")
    expect(note).to_contain_text("the runs first differ at step 0")
    seen.settle()
    seen.page.reload()
    seen.shown_run()
    expect(note.get_by_label("run to compare with")).to_have_value("other")
    assert seen.serious_findings(AXE) == []
    for name in ("calm", "other"):
        seen.frame.get_by_label(f"draw {name}").uncheck()
    expect(note).to_be_hidden()
    expect(statistic).to_have_value("norm")


def test_an_event_tells_its_story_step_by_step(page):
    seen = page("long")
    story = seen.frame.get_by_role("region", name="What happened")
    expect(story).to_be_hidden()
    seen.frame.locator("button.event").filter(has_text="explosion").click()
    expect(story.get_by_role("heading")).to_have_text("critical explosion, steps 400 to 403")
    expect(story).to_contain_text("explosion at 400 · in block.0.weight")
    rows = story.locator("tbody").first.locator("tr")
    expect(rows.locator("th button")).to_have_text(["block.2.weight", "block.1.weight", "block.0.weight"])
    exploding = rows.nth(2)
    assert exploding.locator("td").all_inner_texts()[9:15] == ["1", "1e9", "1e9", "1e9", "1e9", "1"]
    expect(exploding.locator(".order")).to_have_text("1")
    expect(story.locator(".order")).to_have_count(1)
    expect(story.locator("th.here")).to_have_text("400")
    assert "1.25e-4" in story.locator("tr").filter(has_text="learning_rate").inner_text()
    seen.page.keyboard.press("]")
    expect(story.get_by_role("heading")).to_contain_text("warning drift, step 401")
    seen.page.keyboard.press("[")
    seen.page.keyboard.press("[")
    expect(story.get_by_role("heading")).to_contain_text("warning spike, step 398")
    story.get_by_role("button", name="block.1.weight").click()
    expect(rows_of(seen)).to_have_value("block.1.weight")
    seen.page.keyboard.press("Escape")
    expect(story).to_be_hidden()
    expect(seen.frame.locator("button.event[aria-current]")).to_have_count(0)


def test_the_heat_map_is_in_view_below_findings_and_beside_an_open_story(look, url):
    seen = look(height=900)
    seen.open_page(url, "run=long").shown_run()
    heat = seen.frame.locator("canvas.heat")
    expect(seen.frame.locator(".findings")).to_be_visible()
    assert heat.bounding_box()["y"] < 800
    seen.frame.locator("button.event").filter(has_text="explosion").click()
    expect(seen.frame.locator(".story-table")).to_be_visible()
    seen.settle()
    assert 0 <= heat.bounding_box()["y"] < 800
    story, foot = seen.frame.locator(".story"), seen.frame.locator(".foot")
    assert story.bounding_box()["y"] < foot.bounding_box()["y"] - 100


def test_the_story_in_a_file_of_joined_steps_tells_each_value_below_its_own_steps(look, tmp_path):
    records = [record(step, [1.0, 1.0], loss=float(step)) for step in range(4000)]
    write(tmp_path / "joined", records, [event(2000)]).end_attempt("closed")
    file = tmp_path / "joined.html"
    file.write_text(render(RunView(tmp_path / "joined")))
    seen = look(offline=True)
    seen.open_file(file).shown_run()
    seen.frame.locator("button.event").click()
    row = seen.frame.locator(".story-table tr").filter(has_text="loss").locator("td")
    expect(row.first).to_be_visible()
    assert sum(int(cell.get_attribute("colspan") or 1) for cell in row.all()) == 21
    assert row.nth(5).inner_text() == "2001"  # of steps 2000 and 2001


@pytest.fixture
def replayed(tmp_path):
    """A folder with one run, of whose exploding step a replay was written."""
    folder = tmp_path / "replayed"
    records = [record(step, [1e9 if step == 40 else 1.0, 1.0]) for step in range(80)]
    events = [event(20), event(39, "critical", "explosion", parameter="block.0.weight", until=41)]
    write(folder, records, events).end_attempt("closed")
    capture = folder / "captures" / "step-000040"
    capture.mkdir(parents=True)
    odd = ("mask: all 12 keys are masked", "<img src=x onerror=window.broken=1> \x1b[31m")
    found = Replay(
        run=str(folder),
        step=40,
        optimizer="0",
        why="explosion",
        recurs="bitwise",
        captured_norm=1e9,
        replayed_norm=1e9,
        origin=Origin(
            direction="forward", module="att", operation="aten._softmax", file="/a/model.py", line=41, code="x"
        ),
        batch_dimension=0,
        batch_size=8,
        rows=(RowFinding(row=3, norm=1e9, share=0.97, norm_without=0.41, stands_out=True, odd=odd),),
        helps=(Help(change="without row 3", total_norm=0.41),),
        unknown=("float64: the model refuses it",),
    )
    write_replay(found, capture)
    return tmp_path


@pytest.mark.parametrize("where", ["tab", "file"])
def test_the_story_tells_what_the_replay_of_its_step_found(look, served, replayed, where):
    seen = look(color_scheme="dark" if where == "file" else "light")
    if where == "tab":
        seen.open_page(served(replayed), "run=replayed").shown_run()
    else:
        file = replayed / "replayed.html"
        file.write_text(render(RunView(replayed / "replayed")))
        seen.open_file(file).shown_run()
    story = seen.frame.get_by_role("region", name="What happened")
    seen.frame.locator("button.event").filter(has_text="explosion").click()
    block = story.locator(".story-replay")
    expect(block.get_by_role("heading")).to_have_text("Step 40, replayed")
    expect(block.locator("dt").first).to_have_text("happens again")
    expect(block.locator("dd").first).to_contain_text("yes, bit for bit")
    expect(block.locator("code")).to_have_text("x")
    for part in (
        "att (aten._softmax, model.py:41)",
        "row 3 of 8 carries 97",
        "without it 0.41",
        "all 12 keys are masked; <img src=x onerror=window.broken=1> \\x1b[31m",
        "without row 3: 0.41",
        "float64: the model refuses it",
    ):
        expect(block).to_contain_text(part)
    assert seen.page.evaluate("() => window.broken") is None
    assert seen.serious_findings(AXE) == []
    seen.frame.locator("button.event").filter(has_text="spike").click()
    expect(story.get_by_role("heading").first).to_contain_text("warning spike, step 20")
    expect(block).to_be_empty()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_story_can_be_read_by_everybody(look, runs, tmp_path, theme):
    file = tmp_path / "long.html"
    file.write_text(render(RunView(runs / "long")))
    seen = look(offline=True, color_scheme=theme)
    seen.open_file(file).shown_run()
    seen.page.keyboard.press("]")
    seen.page.keyboard.press("]")
    expect(seen.frame.locator(".story-table")).to_be_visible()
    assert seen.serious_findings(AXE) == []


# --------------------------------------------------------------------------------------- runs and reloads


def test_a_second_run_changes_neither_zoom_nor_event_nor_layer(page):
    seen = page("long")
    seen.frame.locator("button.event").filter(has_text="explosion").click()
    seen.settle()
    before = seen.range()
    seen.frame.get_by_label("draw short").check()
    seen.settle()
    assert seen.range() == before
    expect(rows_of(seen)).to_have_value("block.0.weight")
    expect(seen.frame.locator("button.event[aria-current]")).to_contain_text("explosion")


def test_a_run_keeps_its_colour_and_a_seventh_is_not_drawn(page):
    seen = page("sweep%2F0")

    def colour(i):
        key = seen.frame.locator("li").filter(has=seen.frame.get_by_label(f"draw sweep/{i}")).locator(".key")
        return key.evaluate("(key) => getComputedStyle(key).backgroundColor")

    for i in range(1, 6):
        seen.frame.get_by_label(f"draw sweep/{i}").check()
    seen.settle()
    before = [colour(i) for i in range(6)]
    assert len(set(before)) == 6
    seventh = seen.frame.get_by_label("draw sweep/6")
    expect(seventh).to_be_disabled()
    expect(seventh).to_have_attribute("title", re.compile("6 runs are drawn"))
    seen.frame.get_by_label("draw sweep/2").uncheck()
    seen.settle()
    assert [colour(i) for i in (0, 1, 3, 4, 5)] == [before[i] for i in (0, 1, 3, 4, 5)]
    expect(seventh).to_be_enabled()
    seventh.check()
    assert colour(6) == before[2]


def test_sixty_runs_are_searched_and_the_search_survives_a_reload(look, served, tmp_path):
    write(tmp_path / "run 0", [record(s, [1.0, 1.0]) for s in range(50)]).end_attempt("closed")
    for i in range(1, 60):
        shutil.copytree(tmp_path / "run 0", tmp_path / f"run {i}")
    seen = look(height=800).open_page(served(tmp_path))
    seen.shown_run()
    runs = seen.frame.locator("button.run")
    expect(runs).to_have_count(60)
    events = seen.frame.get_by_role("region", name="List of events").bounding_box()
    assert events["y"] < 800, "the events stay in view"
    shown = seen.frame.locator("button.run[aria-current]").inner_text().partition("\n")[0]
    seen.frame.get_by_label("find runs").fill("run 5.$")
    other = re.compile(r"^run 5\d")
    expect(runs.filter(has_not_text=shown).first).to_have_text(other)
    expect(seen.frame.locator(".finder")).to_contain_text("10 of 60 runs")
    assert runs.count() in (10, 11), "the run that is drawn stays"
    seen.frame.get_by_label("kind of runs").select_option("critical")
    expect(runs).to_have_count(1)
    seen.settle()
    seen.page.reload()
    seen.shown_run()
    expect(seen.frame.get_by_label("find runs")).to_have_value("run 5.$")
    expect(runs).to_have_count(1)
    assert seen.serious_findings(AXE) == []


def test_a_thousand_runs_are_searched(look, served, tmp_path):
    write(tmp_path / "run 0", [record(s, [1.0, 1.0]) for s in range(50)]).end_attempt("closed")
    for i in range(1, 1000):
        (tmp_path / f"run {i}").mkdir()
        os.link(tmp_path / "run 0" / "gradwatch.db", tmp_path / f"run {i}" / "gradwatch.db")
    seen = look(height=800).open_page(served(tmp_path))
    seen.shown_run()
    runs = seen.frame.locator("button.run")
    expect(runs).to_have_count(100)  # of them at first
    seen.frame.get_by_label("find runs").fill("run 77.$")
    expect(seen.frame.locator(".finder")).to_contain_text(re.compile(r"10 of 1,?000 runs"))
    runs.filter(has_text=re.compile(r"^run 777")).click()
    expect(seen.frame.locator("button.run[aria-current]")).to_have_text(re.compile(r"^run 777"))
    seen.shown_run()


def test_the_table_of_runs_is_sorted_and_leads_to_a_run(page):
    seen = page("long")
    expect(seen.frame.get_by_role("region", name="Table of runs")).to_be_hidden()
    seen.frame.get_by_label("as a table").check()
    table = seen.frame.get_by_role("region", name="Table of runs")
    rows = table.locator("tbody tr")
    expect(rows).to_have_count(13)
    expect(table).not_to_contain_text("being diagnosed")

    def names():
        return rows.locator("th").all_inner_texts()

    table.get_by_role("button", name="max norm").click()
    expect(table.locator("th[aria-sort=descending]")).to_contain_text("max norm")
    assert names()[0] == "long"
    assert names()[1] == "wide", "its thousand norms sum up to 18,271"
    table.get_by_role("button", name="max norm").press("Enter")
    expect(table.locator("th[aria-sort=ascending]")).to_contain_text("max norm")
    assert names()[-1] == "long"
    table.get_by_role("button", name="short", exact=True).click()
    seen.settle()
    expect(seen.frame.locator("button.run[aria-current]")).to_contain_text("short")
    expect(table.locator("tr.focus th")).to_have_text("short")
    assert "max_norm" in seen.page.url
    expect(seen.frame.locator(".waiting")).to_have_count(0)
    assert seen.serious_findings(AXE) == []
    seen.page.reload()
    seen.shown_run()
    expect(table.locator("th[aria-sort=ascending]")).to_contain_text("max norm")


def test_the_slider_and_the_line_that_it_draws_agree_after_a_reload(page):
    seen = page("sweep%2F0")
    slider = seen.frame.get_by_label("A threshold of")
    slider.evaluate("(slider) => { slider.value = 3; slider.dispatchEvent(new Event('input')); }")
    seen.settle()
    told = seen.frame.locator("output").inner_text()
    tried = re.search(r"^\S+", told)[0]
    assert f"threshold tried {tried}" in seen.point("total norm", 100)
    seen.page.reload()
    seen.shown_run()
    assert slider.input_value() == "3"
    assert seen.frame.locator("output").inner_text() == told
    assert f"threshold tried {tried}" in seen.point("total norm", 100)


def test_a_threshold_is_dragged_beside_the_distribution_of_norms_or_moved_by_keys(look, served, tmp_path):
    norms = np.exp(np.random.default_rng(0).normal(0, 0.5, 600))
    norms[:100] *= 20
    folder = tmp_path / "runs" / "run"
    write(folder, [record(s, [n], max_norm=3.0) for s, n in enumerate(norms)]).end_attempt("closed")
    seen = look().open_page(served(tmp_path / "runs"), "run=run")
    seen.shown_run()
    grip = seen.frame.get_by_role("slider", name="threshold to try")
    picture = seen.frame.locator("canvas.distribution")
    expect(grip).to_have_attribute("aria-valuetext", re.compile(r"^3 \(in force\) clips .* of 600 steps"))

    def tried():
        """The threshold and the share that it clips, as told."""
        text = grip.get_attribute("aria-valuetext")
        share, unit = re.search(r"clips ([\d.]+)(%)", text).groups()
        assert unit == "%"
        return float(grip.get_attribute("aria-valuenow")), float(share) / 100, text

    def is_right(own):
        threshold, share, _ = tried()
        low, high = ((own > threshold * by).mean() for by in (1.01, 0.99))
        return low - 0.001 <= share <= high + 0.001

    assert is_right(norms)
    grip.focus()
    seen.page.keyboard.press("ArrowUp")
    seen.page.keyboard.press("PageUp")
    assert tried()[0] == pytest.approx(3 * 1.02**11, rel=1e-3)
    assert seen.range() == (0, 599), "the arrows of the slider do not move the steps"
    assert is_right(norms)
    expect(grip).to_be_focused()
    assert f"threshold tried {tried()[0]:.3g}" in seen.point("total norm", 300)
    expect(seen.frame.locator(".threshold-handle .tag")).to_be_visible()
    seen.settle()
    assert f"trial={tried()[0]:.3g}"[:8] in seen.page.url

    box = grip.bounding_box()
    x, y = box["x"] + 12, box["y"] + 12
    seen.page.mouse.move(x, y)
    seen.page.mouse.down()
    seen.page.mouse.move(x, y + 30)
    live = tried()
    assert live[0] < 3, "it is told while it moves"
    assert is_right(norms)
    before = picture.screenshot()
    seen.page.mouse.move(x, y + 50)
    assert picture.screenshot() != before
    seen.page.mouse.up()
    seen.settle()
    assert tried()[0] < live[0]
    assert is_right(norms)
    box = picture.bounding_box()
    seen.page.mouse.click(box["x"] + 60, box["y"] + 40)
    assert tried()[0] > 10
    assert is_right(norms)

    seen.drag(200, 400)
    first, last = seen.range()
    expect(grip).to_have_attribute("aria-valuetext", re.compile(f"steps {first} to {last}"))
    assert is_right(norms[first : last + 1])
    assert seen.serious_findings(AXE) == []
    grip.focus()
    seen.page.keyboard.press("Escape")
    expect(grip).to_have_attribute("aria-valuetext", re.compile(r"^3 \(in force\)"))

    file = tmp_path / "run.html"
    file.write_text(render(RunView(folder)))
    report = look(offline=True, color_scheme="dark").open_file(file)
    report.shown_run()
    grip = report.frame.get_by_role("slider", name="threshold to try")
    assert is_right(norms)
    table = report.frame.locator(".unseen table tr")
    assert table.locator("th").all_inner_texts() == ["least", "p5", "p25", "p50", "p75", "p95", "p99", "largest"]
    largest = float(table.locator("td").last.inner_text())
    assert largest == pytest.approx(norms.max(), rel=0.02)
    report.page.keyboard.press("Tab")
    assert report.serious_findings(AXE) == []


# -------------------------------------------------------------------------------------------- the scatter plot


def scatter_of(seen):
    return seen.frame.get_by_role("region", name="Scatter")


def test_points_are_selected_and_marked_in_the_charts_and_the_layers(page):
    seen = page("long")
    button = seen.frame.get_by_role("button", name="scatter")
    button.click()
    plot = scatter_of(seen)
    expect(plot).to_contain_text("780 points of 800 steps (steps 0 to 799). 20 steps can't be drawn: loss NaN at 20.")
    assert button.evaluate("(button) => document.activeElement === button")
    canvas = plot.locator("canvas")
    box = canvas.bounding_box()
    chosen = (31, 35, 40, 255)
    assert chosen not in seen.chart_colours("total norm", 401, 0.5, 0.9)

    seen.page.mouse.move(box["x"] + 60, box["y"] + 12)  # the explosion is above, all else far below
    seen.page.mouse.down()
    seen.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
    seen.page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 100)
    seen.page.mouse.up()
    expect(plot).to_contain_text("4 points of 780 selected, between steps 400 to 403")
    seen.settle()
    for chart in ("total norm", "loss"):
        assert chosen in seen.chart_colours(chart, 401, 0.5, 0.9), chart
        assert chosen not in seen.chart_colours(chart, 300, 0.5, 0.9), chart
    marked = seen.frame.locator("canvas.heat").evaluate(
        "(canvas, xs) => xs.map((x) => [...canvas.getContext('2d').getImageData(x, canvas.height - 11, 1, 1).data])",
        [seen.x_of(401), seen.x_of(300)],
    )
    assert [tuple(one) == chosen for one in marked] == [True, False]
    cells = plot.locator("table td").all_inner_texts()
    assert cells[:4] == ["long", "400", "2", "1000000000"]

    seen.page.reload()
    seen.shown_run()
    expect(scatter_of(seen)).to_contain_text("4 points of 780 selected, between steps 400 to 403")
    scatter_of(seen).get_by_role("button", name="zoom to its steps").click()
    seen.settle()
    assert seen.range() == (400, 403)
    scatter_of(seen).get_by_role("button", name="clear the selection").click()
    seen.settle()
    assert "brush" not in seen.page.url
    scatter_of(seen).get_by_role("button", name="close").click()
    expect(scatter_of(seen)).to_be_hidden()


def test_the_keys_move_from_point_to_point_and_select(page):
    seen = page("long", "&plot=loss+total_norm")
    plot = scatter_of(seen)
    plot.locator("canvas").focus()
    told = plot.get_by_role("status")
    seen.page.keyboard.press("End")
    expect(told).to_have_text("step 403, loss 2, total norm 1e9")
    seen.page.keyboard.press("ArrowDown")
    expect(told).to_have_text("step 402, loss 2, total norm 1e9")
    assert seen.range() == (0, 799), "the page's own keys wait"
    assert "1e9" in seen.frame.locator("section[aria-label='total norm'] .readout").inner_text()
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_url(re.compile("pin=402"))
    for _ in range(3):
        seen.page.keyboard.press("Shift+ArrowDown")
    expect(told).to_contain_text("total norm 1.22")
    expect(plot).to_contain_text("780 points of 780 selected")
    seen.page.keyboard.press("Escape")
    expect(plot.get_by_role("button", name="clear the selection")).to_be_hidden()
    seen.page.keyboard.press("Home")
    expect(told).to_have_text("step 0, loss 2, total norm 1.225")


def test_the_axes_of_the_scatter_are_chosen_and_several_runs_have_their_colours(page):
    seen = page("long", "&run=short&plot=loss+total_norm&tint=run")
    plot = scatter_of(seen)
    expect(plot).to_contain_text("short: 100 points of 100 steps")
    expect(plot.locator(".shades")).to_contain_text("short")
    options = plot.get_by_label("x", exact=True).locator("option")
    assert options.all_inner_texts() == ["loss", "learning rate", "clip_coef"], "what was recorded, but for the y axis"
    plot.get_by_label("x", exact=True).select_option("learning_rate")
    expect(plot).to_contain_text("long: 800 points of 800 steps (steps 0 to 799).")
    seen.settle()
    assert "plot=learning_rate+total_norm" in seen.page.url
    colours = plot.locator("canvas").evaluate(
        """(canvas) => {
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            const found = new Set();
            for (let i = 0; i < data.length; i += 4) found.add([...data.slice(i, i + 3)].join());
            return [...found];
        }"""
    )
    assert {"0,114,178", "179,89,0"} <= set(colours)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_scatter_is_in_a_file_too_and_can_be_read_by_everybody(look, runs, tmp_path, theme):
    file = tmp_path / "long.html"
    file.write_text(render(RunView(runs / "long")))
    seen = look(offline=True, color_scheme=theme)
    seen.open_file(file).shown_run()
    seen.frame.get_by_role("button", name="scatter").click()
    expect(scatter_of(seen)).to_contain_text("780 points of 800 steps (steps 0 to 799). 20 steps can't be drawn")
    assert seen.serious_findings(AXE) == []
    seen.page.reload()
    seen.shown_run()
    expect(scatter_of(seen)).to_be_visible()


def test_a_run_of_one_step_has_one_point_and_one_without_two_quantities_says_so(page, look, served, tmp_path):
    expect(scatter_of(page("one", "&plot=loss+total_norm"))).to_contain_text("1 point of 1 step (step 0).")
    bare = [record(s, [1.0, np.nan], loss=None) for s in range(3)]
    bare = [replace(one, learning_rates=(), clip_coef=math.nan) for one in bare]
    write(tmp_path / "bare", bare).end_attempt("closed")
    seen = look().open_page(served(tmp_path), "run=bare&plot=loss+total_norm")
    seen.shown_run()
    expect(scatter_of(seen)).to_contain_text("Fewer than two quantities")


def test_a_link_and_a_reload_lead_back_to_what_was_shown(page, look):
    seen = page("long")
    seen.frame.get_by_label("draw short").check()
    seen.frame.get_by_label("statistic").select_option("relative")
    seen.frame.get_by_label("filter").fill("block.[01]")
    seen.frame.locator("button.event").filter(has_text="explosion").click()
    seen.frame.get_by_label("whole y axis").check()
    seen.settle()

    def shown(one):
        labels = ("statistic", "filter", "layer")
        values = [one.frame.get_by_label(label, exact=True).input_value() for label in labels]
        ticked = [one.frame.get_by_label(f"draw {name}", exact=True).is_checked() for name in ("long", "short", "one")]
        current = one.frame.locator("button.event[aria-current]").inner_text()
        return one.range(), values, ticked, current, one.frame.get_by_label("whole y axis").is_checked()

    before = shown(seen)
    assert before[1:3] == (["relative", "block.[01]", "block.0.weight"], [True, True, False])
    seen.page.reload()
    seen.shown_run()
    assert shown(seen) == before
    other = look()
    other.page.goto(seen.page.url)
    other.frame = other.page
    other.shown_run()
    assert shown(other) == before


def test_an_address_that_makes_no_sense_opens_the_page_as_usual(look, url):
    seen = look().open_page(url, "run=gone&steps=9e9_a&stat=nothing&depth=-3&filter=(&event=1&trial=x")
    seen.shown_run()
    assert seen.frame.locator("button.run[aria-current]").count() == 1


# --------------------------------------------------------------------------------------- keys and places


def test_the_keyboard_reaches_a_run_past_a_long_list_with_one_key(page):
    seen = page("long")
    seen.page.keyboard.press("Tab")
    skip = seen.frame.get_by_role("button", name="skip to the run")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    seen.page.keyboard.press("Enter")
    expect(seen.frame.locator("main")).to_be_focused()
    expect(skip).not_to_be_in_viewport()
    seen.page.keyboard.press("+")
    seen.settle()
    first, last = seen.range()
    assert last - first < 500, "the keys of the page work there"


def test_an_event_of_a_step_that_was_made_again_says_so(look, served, tmp_path):
    writer = write(tmp_path / "run", [record(s, [1.0, 2.0]) for s in range(60)], [event(40, "critical", "explosion")])
    writer.end_attempt("closed")
    again = StoreWriter(tmp_path / "run")
    again.begin_attempt({"model": "Net"}, {"0": ("Adam", {"lr": 1.25e-4})})
    again.append([replace(record(s, [1.0, 2.0]), attempt=1) for s in range(30, 90)], [event(50, attempt=1)])
    again.end_attempt("closed")
    seen = look().open_page(served(tmp_path), "run=run")
    seen.shown_run()
    buttons = seen.frame.locator("button.event")
    expect(buttons.filter(has_text="explosion")).to_contain_text("step 40, of attempt 0, made again by attempt 1")
    expect(buttons.filter(has_text="spike")).not_to_contain_text("attempt")
    buttons.filter(has_text="explosion").click()
    story = seen.frame.locator(".story")
    expect(story).to_contain_text("of attempt 0, made again by attempt 1, whose values are shown")


def test_the_keys_work_after_a_click_on_an_event(page):
    seen = page("long")
    seen.frame.locator("button.event").filter(has_text="explosion").click()
    seen.settle()
    before = seen.range()
    seen.page.keyboard.press("ArrowRight")
    seen.settle()
    assert seen.range()[0] > before[0]
    seen.page.keyboard.press("0")
    seen.settle()
    assert seen.range() == (0, 799)


def test_the_line_of_a_layer_is_in_view_once_it_is_chosen(page):
    seen = page("long", height=700)
    seen.frame.locator("button.event").filter(has_text="explosion").click()
    seen.settle()
    chart = seen.frame.locator("section.foot")
    assert chart.bounding_box()["y"] + chart.bounding_box()["height"] <= 701
    canvas = seen.frame.locator("canvas.heat")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    seen.page.mouse.click(box["x"] + seen.x_of(400), box["y"] + 30)
    expect(rows_of(seen)).to_have_value("block.1.weight")
    assert chart.bounding_box()["y"] + chart.bounding_box()["height"] <= 701
    expect(chart.locator("h3")).to_have_text("block.1.weight")


SLOW = """() => {
    const fetched = window.fetch;
    window.fetch = async (...given) => {
        await new Promise((done) => setTimeout(done, 150));
        return fetched(...given);
    };
    window.shifts = 0;
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
    }).observe({ type: "layout-shift", buffered: true });
}"""


def test_a_narrow_window_scrolls_down_only_and_cuts_no_chart(look, url):
    """On a telephone the table for screen readers made the page twice as wide, and charts lost their last steps."""
    seen = look(width=390, height=900)
    state = "long&run=short&plot=loss+total_norm&inspect=block.0.weight&event=400+explosion+0+block.0.weight"
    seen.open_page(url, f"run={state}")
    seen.shown_run()
    expect(seen.frame.locator(".story-table td").first).to_be_visible()
    assert seen.frame.locator("main").evaluate("(main) => main.scrollWidth - main.clientWidth") == 0
    for over in seen.frame.locator(".u-over").all():
        box = over.bounding_box()
        if box:
            assert box["x"] + box["width"] <= 390 - 14
    assert seen.page.evaluate("() => document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("name", ["long", "gan", "wide", "long&plot=loss+total_norm&inspect=block.0.weight"])
def test_nothing_jumps_while_the_page_fills(look, url, name):
    seen = look()
    seen.page.add_init_script(f"({SLOW})()")
    seen.open_page(url, f"run={name}")
    seen.shown_run()
    expect(seen.frame.get_by_role("region", name="Recommendation")).to_be_visible()
    assert seen.page.evaluate("() => window.shifts") < 0.1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_report_printed_from_a_wide_window_fits_on_paper(look, runs, tmp_path, theme):
    file = tmp_path / "long.html"
    file.write_text(render(RunView(runs / "long")))
    seen = look(width=1800, offline=True, color_scheme=theme)
    seen.open_file(file).shown_run()
    seen.frame.get_by_role("button", name="scatter").click()
    expect(scatter_of(seen)).to_be_visible()
    seen.page.evaluate(
        """() => window.addEventListener("beforeprint", () => setTimeout(() => {
            const box = (name) => document.querySelector(name).getBoundingClientRect();
            const canvas = document.querySelector("canvas.heat");
            const left = canvas.getContext("2d").getImageData(0, 0, 1, 1);
            window.printed = {
                over: ["section[aria-label='total norm'] .u-over", "section[aria-label='loss'] .u-over"]
                    .map((name) => [box(name).left, box(name).right]),
                heat: [box("canvas.heat").left, box("canvas.heat").right],
                scatter: box("canvas.scatter").right,
                threshold: document.querySelector(".try").hidden ? [] : [box(".try label").top, box("output").top],
                theme: document.querySelector(".gradwatch").dataset.theme,
            };
        }))"""
    )
    seen.page.emulate_media(media="print", color_scheme=theme)
    seen.page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    seen.page.wait_for_function("() => window.printed")
    printed = seen.page.evaluate("() => window.printed")
    paper = 718  # A4 less margins of a centimetre, at 96 dots an inch
    assert printed["theme"] == "light"
    assert printed["heat"][1] <= paper
    assert printed["scatter"] <= paper
    label, output = printed["threshold"]
    assert label == pytest.approx(output, abs=2), "the sentence about a threshold begins in one line"
    for left, right in printed["over"]:
        assert right <= paper
        assert left == pytest.approx(printed["heat"][0] + LEFT, abs=1), "layers and lines share their steps"
        assert right == pytest.approx(printed["heat"][1] - 14, abs=1)
    seen.page.evaluate("() => window.dispatchEvent(new Event('afterprint'))")
    seen.page.emulate_media(media="screen", color_scheme=theme)
    seen.settle()
    expect(seen.frame.locator(".gradwatch")).to_have_attribute("data-theme", theme)
    assert seen.frame.locator("canvas.heat").bounding_box()["width"] > 1000


def test_an_open_story_is_printed_whole(look, runs, tmp_path):
    file = tmp_path / "long.html"
    file.write_text(render(RunView(runs / "long")))
    seen = look(width=1800, offline=True)
    seen.open_file(file).shown_run()
    seen.frame.locator("button.event").filter(has_text="explosion").click()
    expect(seen.frame.locator(".story-table")).to_be_visible()
    seen.frame.get_by_role("button", name="inspect").click()
    expect(seen.frame.locator(".inspector-table table")).to_be_visible()
    seen.page.emulate_media(media="print")
    seen.page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    for table in (".story-table", ".inspector-table table"):
        box = seen.frame.locator(table).bounding_box()
        assert box["x"] + box["width"] <= 718, table
        scroll = seen.frame.locator(table).evaluate("(table) => getComputedStyle(table.parentElement).overflowX")
        assert scroll == "visible", table


def test_the_browser_draws_for_paper_when_it_prints(look, runs, tmp_path):
    file = tmp_path / "long.html"
    file.write_text(render(RunView(runs / "long")))
    seen = look(width=1800, offline=True)
    seen.open_file(file).shown_run()
    seen.page.evaluate(
        """() => window.matchMedia("print").addEventListener("change", ({ matches }) => {
            if (matches) window.wide = document.querySelector(".gradwatch").getBoundingClientRect().width;
        })"""
    )
    pages = re.findall(rb"/Type\s*/Page\b", seen.page.pdf(format="A4"))
    assert 1 <= len(pages) <= 4
    assert seen.page.evaluate("() => window.wide") == 700


# --------------------------------------------------------------------------------- entries by magnitude


def counted(step):
    """Of block.0: 90 entries below float16's smallest number, 6 subnormal, 3 ordinary, 1 zero; NaN at step 60."""
    counts = np.zeros((2, len(MAGNITUDE_BINS)))
    for name, number in (("2^-28", 90), ("2^-20", 6), ("2^-4", 3), ("zero", 1)):
        counts[0, MAGNITUDE_BINS.index(name)] = number
    counts[1, MAGNITUDE_BINS.index("2^-4")] = 16
    if step == 60:
        counts[0, MAGNITUDE_BINS.index("nan")] = 5
    return replace(record(step, [1.0, 2.0]), magnitudes=MagnitudeStats.of(counts) if step % 20 == 0 else None)


@pytest.fixture(scope="module")
def with_entries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("entries")
    write(folder / "run", [counted(step) for step in range(100)]).end_attempt("closed")
    return folder


@pytest.fixture(params=["tab", "file"])
def entries(request, look, served, with_entries, tmp_path):
    """Opens the page with a layer chosen, from a server or as a file."""

    def open_page(**context):
        if request.param == "tab":
            return look(**context).open_page(served(with_entries), "run=run&layer=block.0.weight")
        file = tmp_path / "report.html"
        file.write_text(render(RunView(with_entries / "run")))
        seen = look(offline=True, **context)
        seen.page.goto(f"file://{file}#layer=block.0.weight")
        seen.frame = seen.page
        return seen

    return open_page


def entries_colours(seen, x, top, tall):
    """The colours of the entries' canvas in a strip, as a set of triples."""
    return {
        tuple(pixel)
        for pixel in seen.frame.locator("canvas.magnitudes").evaluate(
            """(canvas, [x, top, tall]) => {
                const data = canvas.getContext("2d").getImageData(x, top, 1, tall).data;
                return Array.from({ length: tall }, (_, i) => [...data.slice(4 * i, 4 * i + 3)]);
            }""",
            [x, top, tall],
        )
    }


def test_entries_are_drawn_by_magnitude_with_the_limits_of_float16(entries):
    seen = entries()
    section = seen.frame.get_by_label("Entries by magnitude", exact=True)
    readout = section.locator(".readout")
    expect(readout).to_contain_text("step 80: 90% below fp16's smallest number, 6% subnormal in fp16, 1% zero")
    expect(section).to_contain_text("all 16 entries")
    canvas = section.locator("canvas")
    box = canvas.bounding_box()
    width = box["width"] - LEFT - 14
    at = {step: round(LEFT + (step + 0.5) / 100 * width) for step in (30, 70)}
    assert BAD in entries_colours(seen, at[70], 2, 8)  # the row of NaN, from step 60 to 79
    assert BAD not in entries_colours(seen, at[30], 2, 8)
    assert TOP not in entries_colours(seen, at[30], 40, 100)
    # 2^-28: 30 lines of two powers below 2^16, which begins at 40
    row = entries_colours(seen, at[30], 42 + 6 * 21 + 2, 3)
    assert row != {ABSENT}
    assert entries_colours(seen, at[30], 42 + 6 * 24 + 2, 3) == {ABSENT}
    seen.page.mouse.move(box["x"] + at[70], box["y"] + 5)
    expect(readout).to_contain_text("step 60 · nan: 5 of 105 counted entries (4.8%)")


def test_a_zoom_between_two_samples_shows_the_one_that_holds(look, served, with_entries):
    seen = look().open_page(served(with_entries), "run=run&layer=block.0.weight&steps=64.5_78.5")
    section = seen.frame.get_by_label("Entries by magnitude", exact=True)
    expect(section.locator(".readout")).to_contain_text("step 60:")
    left = round(LEFT + 20)
    assert BAD in entries_colours(seen, left, 2, 8), "NaN at step 60 holds until step 79"


def test_little_room_is_empty_between_the_layers_and_what_comes_next(entries):
    seen = entries(width=1400)
    section = seen.frame.get_by_label("Entries by magnitude", exact=True)
    expect(section.locator(".readout")).to_contain_text("step 80:")
    play = seen.frame.locator(".layers .side button").bounding_box()
    heading = section.locator("h2").bounding_box()
    assert play["y"] + play["height"] < heading["y"] < play["y"] + play["height"] + 45
    told = seen.frame.locator(".layers .side .readout").bounding_box()
    legend = section.locator(".heat-head").bounding_box()
    assert legend["x"] + legend["width"] <= told["x"]  # nothing lies over what the profile tells
    seen.frame.locator(".layers .side button").click()
    expect(seen.frame.locator(".layers .side button")).to_contain_text("stop")


def test_entries_can_be_read_by_key_and_as_a_table(entries):
    seen = entries()
    section = seen.frame.get_by_label("Entries by magnitude", exact=True)
    canvas = section.locator("canvas")
    expect(section.locator(".readout")).to_contain_text("step 80:")
    canvas.focus()
    seen.page.keyboard.press("ArrowLeft")
    expect(section.locator(".readout")).to_contain_text("step 60:")
    expect(canvas).to_be_focused()
    assert "5 NaN" in canvas.get_attribute("aria-label")
    section.locator("summary").focus()
    seen.page.keyboard.press("Enter")
    expect(section.locator("caption")).to_contain_text("step 60:")
    rows = section.locator("tbody tr").all_inner_texts()
    assert rows[0].split("\t") == ["nan", "5", "4.8%"]
    assert rows[1].split("\t")[0] == "2^-4 to 2^-2"
    assert len(rows) == 5


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_entries_pass_axe_and_fit_a_narrow_window(entries, theme):
    seen = entries(color_scheme=theme, width=390, height=900)
    section = seen.frame.get_by_label("Entries by magnitude", exact=True)
    expect(section.locator(".readout")).to_contain_text("step 80:")
    section.locator("summary").click()
    assert seen.page.evaluate("() => document.documentElement.scrollWidth") == 390
    assert seen.serious_findings(AXE) == []


def test_entries_of_a_layer_that_was_not_chosen_take_no_room(look, served, with_entries):
    seen = look().open_page(served(with_entries), "run=run")
    seen.shown_run()
    section = seen.frame.get_by_label("Entries by magnitude", exact=True)
    expect(section).to_be_hidden()
    rows_of(seen).select_option("block.1.weight")
    expect(section).to_contain_text("block.1.weight")
    expect(section.locator(".readout")).to_contain_text("0% below fp16's smallest number")


def test_entries_are_printed(look, with_entries, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(render(RunView(with_entries / "run")))
    seen = look(offline=True, color_scheme="dark")
    seen.page.goto(f"file://{file}#layer=block.0.weight")
    seen.frame = seen.page
    section = seen.frame.get_by_label("Entries by magnitude", exact=True)
    expect(section.locator(".readout")).to_contain_text("step 80:")
    seen.page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    canvas = section.locator("canvas")
    box = canvas.bounding_box()
    assert box["x"] + box["width"] <= 700
    assert ABSENT in entries_colours(seen, LEFT + 20, 60, 40)  # light, whatever the screen is


# --------------------------------------------------------------------------------------------- tables


def test_what_is_drawn_can_be_read_as_tables(page):
    seen = page("long")
    button = seen.frame.get_by_role("button", name="tables", exact=True)
    assert seen.frame.locator(".table-view:visible").count() == 0
    button.focus()
    seen.page.keyboard.press("Enter")
    expect(button).to_be_focused()
    expect(button).to_have_attribute("aria-pressed", "true")
    norms = seen.frame.get_by_label("total norm", exact=True).get_by_role("region")
    expect(norms).to_be_visible()
    beside = seen.frame.locator("canvas.distribution").bounding_box()
    assert beside["y"] < norms.bounding_box()["y"]
    rows = norms.locator("tbody tr").all_inner_texts()
    assert rows[0].split("\t") == ["steps 0 to 3", "1.22"]
    assert [row.split("\t")[1] for row in rows if row.startswith("steps 400")] == ["1e9"]
    assert len(rows) == 200
    losses = seen.frame.get_by_label("loss", exact=True).get_by_role("region").locator("tbody").inner_text()
    assert "not finite" in losses
    layers = seen.frame.get_by_label("Layers by steps").get_by_role("region")
    expect(layers.locator("caption")).to_contain_text("gradient norm, step 799")
    assert layers.locator("tbody tr").first.locator("th, td").all_inner_texts() == ["block.0.weight", "1"]
    layers.focus()
    seen.page.keyboard.press("ArrowLeft")
    expect(layers.locator("caption")).to_contain_text("gradient norm, step 798")
    expect(layers).to_be_focused()
    seen.page.reload()
    seen.shown_run()
    expect(seen.frame.locator(".table-view:visible").first).to_be_visible()


def test_a_reload_right_after_a_click_leads_back_to_what_was_clicked(page):
    seen = page("long")
    button = seen.frame.get_by_role("button", name="tables", exact=True)
    button.evaluate("button => { window.isOld = true; button.click(); location.reload(); }")
    seen.page.wait_for_function("() => !window.isOld")
    seen.shown_run()
    expect(button).to_have_attribute("aria-pressed", "true")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_tables_pass_axe_and_fit_a_narrow_window(page, theme):
    seen = page("long", "&tables=shown", color_scheme=theme, width=390, height=900)
    expect(seen.frame.locator(".table-view:visible").first).to_be_visible()
    assert seen.page.evaluate("() => document.documentElement.scrollWidth") == 390
    assert seen.serious_findings(AXE) == []


def test_tables_are_printed_whole(look, runs, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(render(RunView(runs / "long")))
    seen = look(offline=True)
    seen.page.goto(f"file://{file}#tables=shown")
    seen.frame = seen.page
    norms = seen.frame.get_by_label("total norm", exact=True).get_by_role("region")
    expect(norms).to_be_visible()
    seen.page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    heights = norms.evaluate("view => [view.clientHeight, view.scrollHeight]")
    assert heights[0] == heights[1]
