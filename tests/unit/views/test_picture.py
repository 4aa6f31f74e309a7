"""A view of the terminal as SVG and as PNG."""

import struct
import sys
from xml.etree import ElementTree

import pytest
from rich.text import Text

from gradwatch.errors import CannotExport, UnsupportedVersion
from gradwatch.views.picture import SCREEN, WIDTH, png, svg


def shown(picture):
    """The text of an SVG, with the spaces that rich writes as no-break ones."""
    return "".join(ElementTree.fromstring(picture).itertext()).replace("\xa0", " ")


@pytest.mark.parametrize("text", ["healthy", "", "a < b & c > \"d\" 'e'", "nan ∞ ▁▂▇ 层"])
def test_text_stays_text_in_an_svg_that_parses(text):
    assert text in shown(svg(Text(text)))


def test_an_svg_loads_nothing():
    picture = svg(Text("a", style="bold red"))
    assert "http" not in picture.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "@font-face" not in picture
    assert "<script" not in picture


def test_a_style_becomes_a_colour():
    plain, red = svg(Text("a")), svg(Text("a", style="#ff0102"))
    assert "#ff0102" in red
    assert "#ff0102" not in plain


def test_markup_of_a_user_s_name_is_no_element():
    assert "<b>" not in svg(Text("<b>layer</b>"))


def test_a_view_is_as_wide_as_its_screen():
    assert SCREEN.width == WIDTH
    lines = [line for line in shown(svg(Text("x" * (2 * WIDTH)))).split("\n") if "xx" in line]
    assert max(line.count("x") for line in lines) <= 2 * WIDTH
    assert "x" * (WIDTH + 1) not in shown(svg(Text("x" * (2 * WIDTH))))


def test_a_longer_view_is_a_higher_picture():
    def height(lines):
        return float(ElementTree.fromstring(svg(Text("\n".join("a" * lines)))).get("viewBox").split()[3])

    assert height(1) < height(10) < height(100)


def test_a_png_is_as_large_as_its_svg():
    pytest.importorskip("resvg_py")
    picture = svg(Text("healthy"))
    try:
        drawn = png(picture)
    except CannotExport:
        pytest.skip("there is no font here")
    assert drawn.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", drawn[16:24])
    _, _, wide, high = map(float, ElementTree.fromstring(picture).get("viewBox").split())
    assert width == pytest.approx(wide, abs=1)
    assert height == pytest.approx(high, abs=1)


def test_a_picture_that_is_none_is_one_clear_error():
    pytest.importorskip("resvg_py")
    with pytest.raises(CannotExport):
        png("<svg")


def test_without_its_package_png_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(UnsupportedVersion, match=r"gradwatch\[png\]"):
        png(svg(Text("a")))
