"""A store from a stranger: whatever its texts hold is shown as text, in the terminal, in HTML and in a spreadsheet."""

import csv
import re

import pytest

from gradwatch import Run
from gradwatch.record import Event, ParameterInfo
from gradwatch.store import StoreWriter
from gradwatch.testing import steady, stream
from gradwatch.views.html import render
from gradwatch.views.web.view import RunView

NAMES = {
    "a newline": "first\nsecond",
    "terminal escapes": "\x1b[2J\x1b]0;title\x07red",
    "C1 controls": "a\x9b31mb",
    "HTML": "</script><script>alert(1)</script><img src=x onerror=alert(1)>",
    "rich markup": "[bold red]x[/bold red][link=file:///etc/passwd]y[/link]",
    "SQL": "'; drop table step; --",
    "a formula": '=HYPERLINK("http://example.com";"x")',
    "another formula": "@SUM(1)",
    "long": "layer." * 2000,
    "emoji": "weights 🔥🧨",
    "right to left": "משקל",
    "an override": "a\u202egpj.exe",
    "nothing": "",
    "a null": "a\x00b",
}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "[red]run[/red] $(touch x)"
    infos = tuple(ParameterInfo(name=name, shape=(3, 3)) for name in NAMES.values())
    records = stream(steady(400), parameters=infos, shares=[1.0] * len(infos), max_norm=2.0)
    writer = StoreWriter(folder)
    hostile = "\n".join(NAMES.values())
    writer.begin_attempt({"model": hostile, "clip.0": hostile}, {"0": (hostile, {"lr": 0.1})})
    writer.add_parameters("0", infos)
    events = [
        Event(step=10 + i, kind="spike", severity="warning", message=f"=1+1 {name}", parameter=name)
        for i, name in enumerate(NAMES.values())
    ]
    writer.append(records, events)
    writer.end_attempt("closed")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", "--layers", "50"),
        ("events",),
        ("recommend",),
        ("compare",),
        ("check",),
        ("watch",),
        ("report", "--json"),
        ("events", "--json"),
    ],
    ids=" ".join,
)
def test_the_terminal_is_not_written_to_by_a_name(run, command, arguments):
    name, *options = arguments
    done = command(name, run, *([run] if name == "compare" else []), *options)
    assert done.code in (0, 3), done.err
    assert CONTROL.findall(done.out) == []
    assert "Traceback" not in done.err
    if name in ("report", "events") and "--json" not in options:
        assert "[bold red]" in done.out, "markup is shown, not obeyed"


@pytest.mark.parametrize("what", ["steps", "events", "norm"])
def test_a_spreadsheet_finds_no_formula(run, tmp_path, command, what):
    assert command("export", run, tmp_path / "x.csv", "--what", what).code == 0
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    numbers = re.compile(r"-?(\d|inf|nan)", re.IGNORECASE)
    assert [cell for cell in cells if cell[:1] in ("=", "+", "-", "@") and not numbers.match(cell)] == []
    if what == "norm":
        assert "'@SUM(1)" in cells


def test_in_html_names_are_text(run):
    page = render(RunView(run))
    assert page.count("<script") == 2, "the data and our own"
    assert "<img" not in page
    notebook = Run(run)._repr_html_()
    assert "<script" not in notebook
    assert notebook.count("<img") == 1
    assert CONTROL.findall(notebook) == []


def test_every_name_comes_back_as_it_was(run):
    assert list(Run(run).layers().columns) == list(NAMES.values())
