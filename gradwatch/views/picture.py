"""A terminal's view as a picture, SVG or PNG. Neither loads anything, not even a font."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType
from rich.terminal_theme import SVG_EXPORT_THEME

from gradwatch.errors import CannotExport, UnsupportedVersion
from gradwatch.views.console.screen import Screen

WIDTH = 100
"""Columns."""

SCREEN = Screen(width=WIDTH)
"""What the picture can show: every character and colour."""

_FONTS = "'DejaVu Sans Mono', Menlo, Consolas, 'Liberation Mono', monospace"

# As rich's own, without its fonts from the network and without a window around the text.
_FORMAT = f"""\
<svg class="rich-terminal" viewBox="0 0 {{width}} {{height}}" xmlns="http://www.w3.org/2000/svg">
<style>
.{{unique_id}}-matrix {{{{
  font-family: {_FONTS};
  font-size: {{char_height}}px;
  line-height: {{line_height}}px;
}}}}
{{styles}}
</style>
<defs>
<clipPath id="{{unique_id}}-clip-terminal">
<rect x="0" y="0" width="{{terminal_width}}" height="{{terminal_height}}" />
</clipPath>
{{lines}}
</defs>
<rect width="{{width}}" height="{{height}}" rx="8" fill="{SVG_EXPORT_THEME.background_color.hex}" />
<g transform="translate({{terminal_x}}, {{terminal_y}})" clip-path="url(#{{unique_id}}-clip-terminal)">
{{backgrounds}}
<g class="{{unique_id}}-matrix">
{{matrix}}
</g>
</g>
</svg>
"""

_PROBE = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20">{}</svg>'


def svg(view: RenderableType) -> str:
    """A view, which has to be made for `SCREEN`, as SVG with its text as text.

    >>> from rich.text import Text
    >>> picture = svg(Text("healthy"))
    >>> picture.startswith("<svg"), "healthy" in picture, "url(http" in picture
    (True, True, False)
    """
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(view)
    return console.export_svg(title="", code_format=_FORMAT)


def png(picture: str) -> bytes:
    """An SVG as PNG.

    Raises:
        UnsupportedVersion: the package resvg-py is not installed.
        CannotExport: the system has no font, so that no text would be drawn.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise UnsupportedVersion(
            "PNG needs the package resvg-py: `pip install gradwatch[png]`; --svg needs none."
        ) from error

    def drawn(text: str) -> bytes:
        return bytes(resvg_py.svg_to_bytes(svg_string=text, monospace_family="DejaVu Sans Mono"))

    empty = drawn(_PROBE.format(""))
    if drawn(_PROBE.format(f'<text y="15" font-family="{_FONTS}">M</text>')) == empty:
        raise CannotExport(
            "no font is installed to draw text with; install one, for example fonts-dejavu, or use --svg."
        )
    try:
        return drawn(picture)
    except ValueError as error:
        raise CannotExport(f"the picture can't be drawn: {error}.") from error
