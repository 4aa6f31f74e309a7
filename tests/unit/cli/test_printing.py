"""Views on standard output: as wide as the terminal, folded between words."""

import pytest
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gradwatch.cli.printing import print_lines, print_view, screen


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")


def test_a_long_line_is_folded_between_words(capsys):
    text = " ".join(f"word{i}" for i in range(30))
    print_view(Group(Text("short"), Text(text)))
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "short"
    assert all(len(line) <= 40 for line in rest)
    assert " ".join(" ".join(rest).split()) == text, "no word is lost or cut"


def test_an_empty_view_prints_nothing_and_other_views_print_as_rich_does(capsys):
    print_view(Group())
    assert capsys.readouterr().out.strip() == ""
    table = Table("a")
    table.add_row("1")
    print_view(Group(table))
    assert "1" in capsys.readouterr().out


def test_brackets_are_no_markup(capsys):
    print_view(Group(Text("[bold]x[/bold]")))
    assert capsys.readouterr().out == "[bold]x[/bold]\n"


def test_the_screen_is_that_of_the_terminal():
    assert screen().width == 40


def test_lines_stay_whole_for_programs_and_are_folded_on_a_terminal(capsys, monkeypatch):
    text = " ".join(f"word{i}" for i in range(30))
    print_lines(f"{text}\n\nshort")
    assert capsys.readouterr().out == f"{text}\n\nshort\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR")
    print_lines(f"{text}\n\n[bold]")
    *folded, empty, last = capsys.readouterr().out.splitlines()
    assert (empty, last) == ("", "[bold]")
    assert all(len(line) <= 40 for line in folded)
    assert " ".join(" ".join(folded).split()) == text, "no word is lost or cut"


def test_lines_for_standard_error_are_folded_too(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR")
    text = " ".join(f"word{i}" for i in range(30))
    print_lines(text, err=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert all(len(line) <= 40 for line in printed.err.splitlines())
    assert printed.err.split() == text.split()
    print_lines("")
    assert capsys.readouterr().out == "\n"
