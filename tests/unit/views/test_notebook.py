"""A run shows itself in a notebook: without script, with names as text, and with pictures that are right."""

import base64
import io
import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from gradwatch import Run
from gradwatch.analysis.diagnosis import Finding
from gradwatch.record import MAGNITUDE_BINS, Event, MagnitudeStats, ParameterInfo
from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run

HOSTILE = "<script>alert(1)</script>\x1b[31m"


def shown(run):
    return well_formed(run._repr_html_())


def shown_summary(summary):
    return well_formed(summary._repr_html_())


def well_formed(page):
    ElementTree.fromstring(page.replace("&nbsp;", " "))
    return page


def heat(page):
    data = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", page)[1])
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def test_it_shows_the_verdict_the_spike_and_what_is_not_finite(tmp_path):
    norms = replaced(steady(2000), {1200: 400.0, 1600: float("nan")})
    run = Run(write_run(tmp_path, stream(norms, losses=[1.0] * 2000)))
    page = shown(run)
    assert run.summary().verdict.upper() in page
    assert "to 400" in page
    picture = heat(page)
    assert picture[0, 1600 * picture.shape[1] // 2000].tolist() == [214, 0, 108]
    assert picture[0, 1200 * picture.shape[1] // 2000].tolist() == [127, 39, 4], "a hundredfold and more"
    assert "loss" in page
    assert run.summary()._repr_html_() == page


def test_names_are_text(tmp_path):
    names = tuple(ParameterInfo(name=f"{HOSTILE}{i}", shape=(3, 3)) for i in range(2))
    records = stream(steady(50), parameters=names)
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({"model": HOSTILE}, {"0": (HOSTILE, {})})
    writer.add_parameters("0", names)
    writer.append(records, [Event(step=3, kind="spike", severity="warning", message=HOSTILE, parameter=names[0].name)])
    writer.end_attempt("closed")
    page = shown(Run(tmp_path))
    assert "<script" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("norm", [0.0, float("nan"), float("inf"), 1e-30, 1e30])
def test_a_run_of_one_strange_step(tmp_path, norm):
    assert "step" in shown(Run(write_run(tmp_path, stream([norm]))))


def test_a_run_without_steps_is_text(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.end_attempt("closed")
    assert Run(tmp_path)._repr_html_() is None


def test_many_layers_are_joined_and_counted(tmp_path):
    names = tuple(ParameterInfo(name=f"layer{i}", shape=(2,)) for i in range(200))
    records = stream(steady(60), parameters=names, shares=[0.1] * 199 + [3.0])
    page = shown(Run(write_run(tmp_path, records)))
    assert heat(page).shape[0] == 64
    assert "194 more layers" in page


@pytest.mark.parametrize(
    ("optimizer_class", "label"),
    [("AdamW", "AdamW lr 0.1"), ("NoOptimizer", "no optimizer"), ("ByHand", "no optimizer")],
)
def test_the_optimizer_is_named_and_a_class_of_gradwatch_never(tmp_path, optimizer_class, label):
    page = shown(Run(write_run(tmp_path, stream([1.0]), optimizer_class)))
    assert f" · {label} · " in page
    assert "ByHand" not in page
    assert "NoOptimizer" not in page


def test_of_several_optimizers_the_one_shown_is_said(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"generator": ("Adam", {}), "critic": ("Adam", {})})
    records = stream([1.0] * 3)
    for name in ("generator", "critic"):
        writer.add_parameters(name, records[0].layers.parameters)
        writer.append([replace(record, optimizer=name) for record in records])
    writer.append([], [Event(step=2, kind="spike", severity="warning", message="m", optimizer="critic")])
    writer.end_attempt("closed")
    page = shown_summary(Run(tmp_path).summary("critic"))
    assert " · optimizer critic (of 2: generator, critic) · " in page
    assert "step 2, optimizer critic: m" in page


def test_coloured_text_has_a_background_of_its_own(tmp_path):
    """So that it can be read in a dark notebook; the coloured text alone had a contrast of 2.9 there."""
    page = shown(Run(write_run(tmp_path, stream(replaced(steady(600), {300: 90.0, 400: float("nan")})))))
    coloured = re.findall(r'<b style="([^"]+)"', page)
    assert len(coloured) >= 2
    for style in coloured:
        background, colour = re.search(r"background:(#\w+);color:(#\w+)", style).groups()
        assert contrast(background, colour) >= 4.5
    assert not re.search(r'style="color:', page)


def contrast(one, other):
    """WCAG 2.1: (lighter + 0.05) / (darker + 0.05) of the relative luminances."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_long_names_that_differ_in_the_middle_are_told_apart(tmp_path):
    names = tuple(ParameterInfo(name=f"{'a' * 100}.{i}.{'b' * 100}", shape=(2,)) for i in range(4))
    page = shown(Run(write_run(tmp_path, stream(steady(50), parameters=names, shares=[0.5] * 4))))
    assert all(re.search(rf"<td[^>]*>[^<]*\.{i}\.[^<]*</td>", page) for i in range(4))


def test_an_explosion_does_not_flatten_what_led_to_it(tmp_path):
    norms = [1.0, 2.0] * 100 + [1e19] * 5
    page = shown(Run(write_run(tmp_path, stream(norms))))
    assert "1 to 1e19, ▲ above 200, logarithmic" in page
    heights = [float(point.split(",")[1]) for point in re.findall(r'points="([^"]+)"', page)[0].split()]
    assert heights[0] - heights[1] == pytest.approx(64 * math.log(2) / math.log(200), abs=0.1)
    assert heights[-1] == pytest.approx(4, abs=0.1)
    assert page.count('h-8z"') == 1, "one triangle for the columns above"


def test_a_single_value_is_drawn(tmp_path):
    page = shown(Run(write_run(tmp_path, stream([float("nan"), 1.0, float("nan")]))))
    (points,) = re.findall(r'points="([^"]+)"', page)
    assert len(points.split()) == 2, "a line of one point would not be drawn"


def test_a_loss_below_0_is_drawn_on_a_linear_axis(tmp_path):
    page = shown(Run(write_run(tmp_path, stream([1.0] * 5, losses=[-4.0, -3.0, -2.0, -1.0, 0.0]))))
    assert "loss, linear, -4 to 0, steps 0 to 4" in page
    points = [point.split(",") for point in re.findall(r'points="([^"]+)"', page)[1].split()]
    heights = [float(y) for _, y in points]
    assert heights == pytest.approx([68.0, 52.0, 36.0, 20.0, 4.0])


def test_steps_in_a_row_that_are_not_finite_have_one_bar(tmp_path):
    page = shown(Run(write_run(tmp_path, stream([1.0, *[float("nan")] * 50, 1.0, float("nan")]))))
    assert page.count("<rect") == 2


def test_a_curve_of_which_nothing_is_known_has_its_title(tmp_path):
    page = shown(Run(write_run(tmp_path, stream([float("nan")] * 3))))
    assert "total norm, linear, NaN, steps 0 to 2" in page


def test_the_most_severe_events_are_shown_by_step(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    severities = ["info"] * 8 + ["critical", "info", "warning"]
    found = [Event(step=i, kind="spike", severity=s, message=f"message {i}.") for i, s in enumerate(severities)]
    writer.append(stream([1.0] * 3), found)
    writer.end_attempt("closed")
    page = shown(Run(tmp_path))
    assert [int(step) for step in re.findall(r"message (\d+)\.", page.split("<ul")[1])] == [0, 1, 2, 3, 8, 10]
    assert "5 more events" in page


def test_findings_are_shown_with_the_cause_of_the_headline(tmp_path):
    found = tuple(
        Finding(
            code=code,
            severity=severity,
            certainty="likely",
            what=f"what <{code}>",
            cause="why",
            remedy="",
            confirm="how",
        )
        for code, severity in (("diverged", "critical"), ("clip-starves", "warning"), ("spike", "info"))
    )
    summary = replace(Run(write_run(tmp_path, stream(steady(50)))).summary(), findings=found)
    page = shown_summary(summary)
    assert "<b>cause</b> (likely): why" in page
    assert "<b>confirm:</b> how" in page
    assert re.findall(r">([a-z-]+)</b> what &lt;([a-z-]+)&gt;", page) == [("clip-starves",) * 2, ("spike",) * 2]
    assert "cause" not in shown_summary(replace(summary, findings=()))


def dots(page):
    """Of the scatter plot, the places of its points by colour."""
    return {
        colour: re.findall(r"M([\d.]+) ([\d.]+)h0", path)
        for path, colour in re.findall(r'<path d="([^"]*)" stroke="(#\w+)"', page)
    }


def test_each_step_is_a_point_of_norm_against_loss(tmp_path):
    losses = [2.0 + step for step in range(100)]
    norms = replaced(steady(100), {50: float("nan"), 60: float("inf")})
    page = shown(Run(write_run(tmp_path, stream(norms, losses=losses))))
    found = dots(page)
    assert [len(points) for points in found.values()] == [20, 20, 19, 19, 20]
    assert "2 steps can't be drawn: not finite or not known" in page
    heights = [float(y) for points in found.values() for _, y in points]
    assert heights == sorted(heights, reverse=True)  # the loss rises
    assert (heights[0], heights[-1]) == (156.0, 4.0)


def test_of_many_steps_a_sample_is_drawn_with_the_extremes(tmp_path):
    norms = replaced(steady(3000), {1234: 1e6})
    page = shown(Run(write_run(tmp_path, stream(norms, losses=[2.0 + (s % 7) for s in range(3000)]))))
    points = [point for own in dots(page).values() for point in own]
    assert 300 < len(points) <= 600
    assert max(float(x) for x, _ in points) == 636.0
    assert f"{len(points)} steps of 3000, the extremes among them" in page


@pytest.mark.parametrize("loss", [1.0, float("nan")])
def test_a_loss_that_never_changes_or_is_not_known_is_no_cloud(tmp_path, loss):
    assert dots(shown(Run(write_run(tmp_path, stream(steady(50), losses=[loss] * 50))))) == {}


def test_entries_of_the_most_relevant_layer_are_drawn_by_magnitude(tmp_path):
    counts = np.zeros((2, len(MAGNITUDE_BINS)))
    counts[:, MAGNITUDE_BINS.index("2^-4")] = 100
    bad = counts.copy()
    bad[:, MAGNITUDE_BINS.index("nan")] = 1
    records = [
        replace(one, magnitudes=MagnitudeStats.of(bad if one.step == 80 else counts) if one.step % 20 == 0 else None)
        for one in stream(steady(100))
    ]
    run = Run(write_run(tmp_path, records))
    page = shown(run)
    assert f"entries by magnitude of {run.summary().magnitudes.names[0]}" in page
    assert "5 samples, steps 0 to 80" in page
    data = base64.b64decode(page.split("data:image/png;base64,")[-1].partition('"')[0])
    picture = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    assert picture.shape[:2] == (35 + 4, 5)  # a row for each bin, and a line for each limit
    assert [tuple(one) == (214, 0, 108) for one in picture[0]] == [False] * 4 + [True]
    lines = [at for at, row in enumerate(picture) if (row == 128).all()]
    below = {16: 0, -14: 15, -24: 20}  # bins of two powers of two between 2^16 and the limit
    assert lines[:3] == [3 + bins + at for at, bins in enumerate(below.values())]
    row = 3 + 1 + 9  # 2^-4 to 2^-2, the tenth bin below the line at 2^16
    assert [tuple(one) for one in picture[row]] == [(253, 231, 37)] * 5
    assert "entries by magnitude" not in shown(Run(write_run(tmp_path / "without", stream(steady(50)))))
