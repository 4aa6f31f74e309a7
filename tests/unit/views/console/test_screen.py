"""How wide a view is, what it may print, and how texts and names fit into it."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from gradwatch.views.console.screen import Ink, Screen


def console(width=100, encoding="utf-8", **options):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Console(width=width, file=file, force_terminal=True, **options)


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        ({}, {"TERM": "xterm-256color"}, Ink(ascii=False, colour=True)),
        ({}, {"TERM": "xterm-256color", "NO_COLOR": "1"}, Ink(ascii=True, colour=False)),
        ({}, {"TERM": "dumb"}, Ink(ascii=True, colour=False)),
        ({"encoding": "latin-1"}, {"TERM": "xterm-256color"}, Ink(ascii=True, colour=False)),
    ],
)
def test_ink_follows_the_terminal(options, environment, expected):
    assert Ink.of(console(_environ=environment, **options)) == expected


def test_every_sign_in_ascii_is_ascii():
    ink = Ink(ascii=True)
    assert (ink.levels + ink.nan + ink.over + ink.ellipsis + ink.bullet + ink.pick("é", "e")).isascii()
    assert len(ink.levels) == len(Ink().levels) == 9


@given(st.text())
def test_a_text_from_outside_can_not_drive_the_terminal(text):
    assert Ink().safe(text).isprintable()
    assert Ink(ascii=True).safe(text).isascii()


@pytest.mark.parametrize(
    ("width", "used"), [(20, 40), (40, 40), (60, 60), (80, 80), (100, 100), (140, 140), (400, 140)]
)
def test_the_width_is_the_terminals_within_limits(width, used):
    assert Screen.of(console(width)).width == used


@given(st.text(max_size=400), st.sampled_from([80, 100, 140]))
def test_wrapped_lines_fit_and_are_indented(text, width):
    lines = Screen(width=width).wrap("  lead: ", text)
    assert lines[0].plain.startswith("  lead: ")
    for line in lines[1:]:
        assert line.plain.startswith(" " * 8)
    if text.isascii():
        assert max(line.cell_len for line in lines) <= width


def test_a_text_keeps_its_words_when_it_is_wrapped():
    text = " ".join(f"word{i}" for i in range(60))
    lines = Screen().wrap("", text)
    assert " ".join(line.plain for line in lines) == text
    assert len(lines) > 1


def test_an_empty_text_leaves_its_lead():
    assert [line.plain for line in Screen().wrap("next: ", "")] == ["next: "]


@pytest.mark.parametrize("length", [36, 37, 60, 79, 80, 100])
def test_below_a_long_lead_a_text_is_indented_a_little(length):
    lines = Screen().wrap("x" * length, "word " * 40)
    assert lines[0].plain.startswith("x" * length)
    indent = length if length <= 36 else 4
    for line in lines[1:]:
        assert line.plain.startswith(" " * indent + "word")
        assert len(line) <= 80


def test_items_have_bullets():
    assert [line.plain for line in Screen().items(["a", "b"])] == ["  • a", "  • b"]
    assert [line.plain for line in Screen(ink=Ink(ascii=True)).items(["a"])] == ["  - a"]


@given(st.lists(st.text(), max_size=8), st.integers(6, 40))
def test_names_get_one_width(names, widest):
    shown = Screen().fit(names, widest, "layer")
    assert len(shown) == len(names)
    widths = {cell_len(name) for name in shown}
    assert len(widths) <= 1
    assert all(width <= widest for width in widths)


def test_short_names_are_as_wide_as_their_title():
    assert Screen().fit(["a", "bb"], 20, "layer") == ["a    ", "bb   "]


def test_wide_characters_take_two_columns():
    (name,) = Screen().fit(["重み" * 20], 10)
    assert cell_len(name) == 10


@given(st.text(alphabet="gh_.éß漢字😀", min_size=1, max_size=40), st.integers(6, 40))
def test_in_ascii_no_escape_is_cut_apart(name, widest):
    """Besides whole escapes nothing is left but the letters of the name: of a part of one there would be others."""
    screen = Screen(ink=Ink(ascii=True))
    for (short,) in (screen.fit([name], widest), screen.fit_layers([name], widest)[1]):
        rest = re.sub(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})", "", short)
        assert set(rest) <= set("gh_. "), short


def test_names_that_whole_escapes_would_make_alike_stay_different():
    short = Screen(ink=Ink(ascii=True)).fit(["gewicht.größe", "gewicht.große"], 13)
    assert len(set(short)) == 2
