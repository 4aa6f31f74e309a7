"""What is drawn, at every width and in plain ASCII."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from gradwatch import Run
from gradwatch.record import Event, ParameterInfo
from gradwatch.testing import replaced, steady, stream, write_run
from gradwatch.views import json as report_json
from gradwatch.views.console import ConsoleReport
from gradwatch.views.draw import Ink, bounds_of, chart, fit, number, seconds, share

HOSTILE = (
    "a[red]b[/red]",
    "new\nline",
    "\x1b[31mred\x1b[0m",
    "<script>alert(1)</script>",
    "x" * 10_000,
    "שלום",
    "😀.w",
)


@pytest.fixture
def run(tmp_path):
    many = tuple(ParameterInfo(name=f"encoder.layers.{i}.self_attention.weight", shape=(4, 4)) for i in range(30))
    norms = replaced(steady(900), {400: 60.0, 700: math.nan})
    losses = [1.0 / (1 + i) for i in range(900)]
    return Run(
        write_run(tmp_path / "first", stream(norms, shares=[0.2] * 30, parameters=many, losses=losses, max_norm=1.1))
    )


def drawn(renderable, width, **options):
    console = Console(width=width, record=True, file=open("/dev/null", "w"), highlight=False, **options)  # noqa: PTH123, SIM115
    console.print(renderable)
    return console.export_text().rstrip("\n").split("\n")


def views(run):
    summary = run.summary()
    return {
        "report": lambda view: view.report(summary),
        "events": lambda view: view.events(run.events()),
        "recommendation": lambda view: view.recommendation(run.recommend()),
        "policy": lambda view: view.recommendation(replace(run.recommend(), clip="AutoClip(10)")),
        "comparison": lambda view: view.comparison([summary, summary, summary]),
    }


@pytest.mark.parametrize("ascii_only", [False, True], ids=["unicode", "ascii"])
@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("name", ["report", "events", "recommendation", "policy", "comparison"])
def test_every_line_fits(run, name, width, ascii_only):
    view = ConsoleReport(width=width, ink=Ink(ascii=ascii_only, colour=not ascii_only))
    lines = drawn(views(run)[name](view), 400)
    assert max(len(line) for line in lines) <= width
    text = "\n".join(lines)
    assert all(line.index("…") < 36 for line in lines if "…" in line), "a name may be cut, a number never"
    assert not ascii_only or text.isascii()


def test_the_report_says_what_matters(run):
    text = "\n".join(drawn(ConsoleReport(width=100).report(run.summary()), 100))
    assert "CRITICAL  gradients not finite at step 700, first in encoder.layers.29.self_attention.weight" in text
    assert "max 60  at step 400" in text
    assert "NaN or infinite at 1 of 900 steps" in text
    assert "by norm at 1.1" in text
    assert "18 more; --layers 30 shows all" in text
    assert "next: " in text
    assert "×" in text


def test_layers_shows_all(run):
    text = "\n".join(drawn(ConsoleReport(width=100, layers=30).report(run.summary()), 100))
    assert "more; --layers" not in text


def test_wide_terminals_get_more_columns(run):
    narrow, wide = ("\n".join(drawn(ConsoleReport(width=w).report(run.summary()), w)) for w in (80, 140))
    for column in ("p99 ", "last", "zeros", "update"):
        assert re.search(rf"layer .*{column}", wide)
    assert not re.search("layer .*zeros", narrow)


def test_hostile_names_are_shown_as_text(tmp_path):
    infos = tuple(ParameterInfo(name=name, shape=(2, 2)) for name in HOSTILE)
    norms = replaced(steady(400), {300: 99.0, 350: math.nan})
    run = Run(write_run(tmp_path, stream(norms, shares=[1.0] * len(infos), parameters=infos)))
    lines = drawn(ConsoleReport(width=140).report(run.summary()), 140)
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert "a[red]b[/red]" in text
    assert "\\x0a" in text
    assert "\\x1b[31mred" in text
    assert max(len(line) for line in lines) <= 140
    events = drawn(ConsoleReport(width=100).events(run.events()), 100)
    assert "\x1b" not in "\n".join(events)


@pytest.mark.parametrize(
    ("norms", "losses"),
    [
        pytest.param([1.0], [0.5], id="one step"),
        pytest.param([0.0] * 5, None, id="zeros"),
        pytest.param([math.nan] * 5, [math.nan] * 5, id="all NaN"),
        pytest.param([math.inf, 1e300, 1e-300], [math.inf, 1.0, -1.0], id="extremes"),
        pytest.param([1.0] * 3, [-1.0, -2.0, 0.0], id="negative losses"),
    ],
)
def test_degenerate_runs_are_drawn(tmp_path, norms, losses):
    run = Run(write_run(tmp_path, stream(norms, losses=losses)))
    for name, draw in views(run).items():
        assert drawn(draw(ConsoleReport(width=80)), 80), name
        json.loads(report_json.dumps(report_json.report(run.summary())))


def test_a_single_step_spike_is_in_the_line_at_every_width():
    values = np.ones(20_000)
    values[12_345] = 50.0
    for width in (10, 37, 70, 130):
        (line,) = chart(values, np.zeros(20_000, bool), width, 1, Ink())
        assert line.plain.count("█") == 1
        assert line.plain[12_345 * width // 20_000] == "█"


def test_a_nan_has_its_own_mark():
    values = np.ones(1000)
    bad = np.zeros(1000, bool)
    values[500], bad[500] = np.nan, True
    assert chart(values, bad, 50, 1, Ink())[0].plain.count("×") == 1
    assert chart(values, bad, 50, 1, Ink(ascii=True))[0].plain.count("N") == 1


def test_what_lies_above_the_axis_is_marked():
    values = np.array([1.0] * 99 + [1e20])
    assert bounds_of(values) == (1.0, 100.0)
    assert chart(values, np.zeros(100, bool), 100, 1, Ink())[0].plain.endswith("▲")


@pytest.mark.parametrize(
    "value", [0.0, 1e-300, 0.00123, 0.5, 12.345, 999.9, 1234.5, 9999.0, 1e5, -1e-7, 1e300, math.inf]
)
def test_numbers_are_short_and_right(value):
    text = number(value)
    assert len(text) <= 8
    assert float(text) == pytest.approx(value, rel=0.051)


def test_small_words():
    assert (share(1.0), share(0.999), share(1e-5)) == ("100%", "99.9%", "0.00%")
    assert seconds(3600) == "1 h 0 min"
    assert fit("abc", 5, Ink()) == "abc  "


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        ({}, {"TERM": "xterm-256color"}, Ink(ascii=False, colour=True)),
        ({}, {"TERM": "xterm-256color", "NO_COLOR": "1"}, Ink(ascii=True, colour=False)),
        ({}, {"TERM": "dumb"}, Ink(ascii=True, colour=False)),
    ],
)
def test_ink_follows_the_terminal(options, environment, expected):
    assert Ink.of(Console(force_terminal=True, _environ=environment, **options)) == expected


def test_json_has_no_bare_nan(run):
    text = report_json.dumps(report_json.report(run.summary()))
    assert json.loads(text, parse_constant=lambda c: pytest.fail(f"bare {c}"))
    event = Event(step=1, kind="spike", severity="info", message="m", observed=math.nan, limit=-math.inf)
    assert json.loads(report_json.dumps(report_json.events([event])))[0]["observed"] == "NaN"
    assert json.loads(report_json.dumps(report_json.events([event])))[0]["limit"] == "-Infinity"
