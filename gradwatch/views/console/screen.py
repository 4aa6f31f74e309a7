"""The size of a terminal, and the characters and colours it can show."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from gradwatch.text import ascii_only, printable
from gradwatch.views.short_names import shorten_all, shorten_layers, with_whole_escapes

NARROWEST, USUAL, WIDEST = 40, 80, 140
"""Columns: a narrower terminal wraps, a wider one is not filled."""
_LONGEST_INDENT = 0.45  # of the width
_LEAST_ROOM = 12  # columns for a text behind its lead; with less it starts on the next line

SEVERITY_STYLES = {"healthy": "green", "info": "dim", "warning": "yellow", "critical": "bold red"}
"""The style of a verdict or of an event's severity."""

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_ASCII_LEVELS = " .:-=+*#@"


@dataclass(frozen=True, slots=True)
class Ink:
    """The characters and colours that a terminal can show."""

    ascii: bool = False
    colour: bool = True

    @classmethod
    def of(cls, console: Console) -> Ink:
        """Plain ASCII if ``NO_COLOR``, ``TERM=dumb`` or the encoding asks for it."""
        plain = console.no_color or console.is_dumb_terminal or not console.encoding.lower().startswith("utf")
        return cls(ascii=plain, colour=console.color_system is not None and not plain)

    @property
    def levels(self) -> str:
        """Nine characters, from nothing to a full block."""
        return _ASCII_LEVELS if self.ascii else _EIGHTHS

    @property
    def nan(self) -> str:
        """Marks a value that is not finite."""
        return "N" if self.ascii else "×"  # noqa: RUF001 - a mark, not a letter

    @property
    def over(self) -> str:
        """Marks a value above the end of the axis."""
        return "^" if self.ascii else "▲"

    @property
    def ellipsis(self) -> str:
        """Marks where a name was cut."""
        return ".." if self.ascii else "…"

    @property
    def bullet(self) -> str:
        """Begins an item of a list."""
        return "-" if self.ascii else "•"

    def pick(self, pretty: str, plain: str) -> str:
        """The first, or the second where only ASCII can be shown."""
        return plain if self.ascii else pretty

    def safe(self, text: str) -> str:
        """A text from outside with nothing in it that the terminal would obey or could not show."""
        text = printable(text)
        return ascii_only(text) if self.ascii else text


@dataclass(frozen=True, slots=True)
class Screen:
    """Where a view is drawn: its width in columns and its ink."""

    width: int = USUAL
    ink: Ink = field(default_factory=Ink)

    @classmethod
    def of(cls, console: Console) -> Screen:
        """The width of a console, limited to 40 to 140 columns, and its ink."""
        return cls(width=max(NARROWEST, min(console.width, WIDEST)), ink=Ink.of(console))

    def wrap(self, lead: str, text: str, lead_style: str = "", style: str = "") -> list[Text]:
        """A text after its lead, wrapped to the width and indented below itself, or by 4 if the lead is long."""
        lead, text = self.ink.safe(lead), self.ink.safe(text)
        length = cell_len(lead)
        if length > self.width - _LEAST_ROOM:
            return [Text(lead, lead_style), *self.wrap("    ", text, style=style)]
        indent = " " * (length if length <= self.width * _LONGEST_INDENT else 4)
        before = "x" * length  # as wide as the lead, and not stripped
        lines = textwrap.wrap(text, self.width, initial_indent=before, subsequent_indent=indent) or [before]
        rest = [Text.assemble((indent, lead_style), (line[len(indent) :], style)) for line in lines[1:]]
        return [Text.assemble((lead, lead_style), (lines[0][len(before) :], style)), *rest]

    def fold(self, line: Text) -> list[Text]:
        """A line in as many as it takes to fit, broken at a wide gap, else at a space, and indented below itself.

        >>> [part.plain for part in Screen(width=12).fold(Text("median 1.5  max 20  last 3"))]
        ['median 1.5', '    max 20', '    last 3']
        """
        if line.cell_len <= self.width:
            return [line]
        at = _break_at(line.plain, self.width)
        first, rest = line.divide([at])
        first.rstrip()
        rest = rest[len(rest.plain) - len(rest.plain.lstrip()) :]
        indent = "    " if at > len("    ") else ""
        return [first, *self.fold(Text(indent).append_text(rest))] if rest.plain else [first]

    def items(self, texts: tuple[str, ...] | list[str], style: str = "dim") -> list[Text]:
        """Texts as a list with bullets."""
        return [line for text in texts for line in self.wrap(f"  {self.ink.bullet} ", text, style)]

    def fit_layers(self, names: list[str] | tuple[str, ...], widest: int, title: str = "") -> tuple[str, list[str]]:
        """As `fit`, for names of layers: their common beginning goes first, and is returned; numbers stay."""
        safe = [self.ink.safe(name) for name in names]
        if any("\\" in name for name in safe):  # the digits of an escape are no number of a layer
            return "", self.fit(names, widest, title)
        width = min(max([cell_len(title), *map(cell_len, safe)]), widest)
        lost, short = shorten_layers(safe, width, self.ink.ellipsis)
        width = max([cell_len(title), *map(cell_len, short)])
        return lost, [set_cell_size(name, width) for name in short]

    def fit(self, names: list[str] | tuple[str, ...], widest: int, title: str = "") -> list[str]:
        """Names cut and padded to one width, which is at most ``widest``; different names stay different.

        >>> Screen(ink=Ink(ascii=True)).fit(["out.weight", "encoder.layers.11.self_attn.weight"], 20)
        ['out.weight          ', 'encoder.l..tn.weight']
        """
        safe = [self.ink.safe(name) for name in names]
        width = min(max([cell_len(title), *map(cell_len, safe)]), widest)
        short = with_whole_escapes(shorten_all(safe, width, self.ink.ellipsis), safe, self.ink.ellipsis)
        return [set_cell_size(name, width) for name in short]


def _break_at(text: str, width: int) -> int:
    """Where to break a line: behind the last wide gap that leaves a third of the width, else the last space."""
    indent = len(text) - len(text.lstrip())
    for gap in ("  ", " "):
        at = text.rfind(gap, max(indent, width // 3), width + 1)
        if at > indent:
            return at
    return width
