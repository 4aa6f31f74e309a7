"""Numbers and curves as characters: for a terminal with or without colour, or plain ASCII."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from gradwatch.analysis.statistics.quantiles import any_in, spike_safe

Array = NDArray[np.float64]

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_ASCII_LEVELS = " .:-=+*#@"
_SHADES = " ·░▒▓█"
_ASCII_SHADES = " .-+#@"
# Below the own median blue, above it yellow to red: told apart with any colour vision.
_HEAT = ("#2c5aa0", "#7fa8d9", "#d9d9d9", "#f9dc8a", "#ee7f2d", "#b5172b")
_NAN_COLOUR = "#c218d8"


@dataclass(frozen=True, slots=True)
class Ink:
    """What the terminal can show."""

    ascii: bool = False
    colour: bool = True

    @classmethod
    def of(cls, console: Console) -> Ink:
        """ASCII where ``NO_COLOR``, ``TERM=dumb`` or the encoding asks for it."""
        plain = console.no_color or console.is_dumb_terminal or not console.encoding.lower().startswith("utf")
        return cls(ascii=plain, colour=console.color_system is not None and not plain)

    @property
    def levels(self) -> str:
        return _ASCII_LEVELS if self.ascii else _EIGHTHS

    @property
    def nan(self) -> str:
        return "N" if self.ascii else "×"  # noqa: RUF001 - a mark, not a letter

    @property
    def over(self) -> str:
        """Marks a value above the end of the axis."""
        return "^" if self.ascii else "▲"

    def pick(self, pretty: str, plain: str) -> str:
        return plain if self.ascii else pretty


def number(value: float | None) -> str:
    """At most three digits in at most seven characters, never cut.

    >>> [number(v) for v in (0.0123, 123.456, 1.17e28, 3.4e-5, 0.0, -2.5, float("nan"), None)]
    ['0.0123', '123', '1.2e28', '3.4e-5', '0', '-2.5', 'NaN', '-']
    """
    if value is None:
        return "-"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0 or 1e-3 <= abs(value) < 9999.5:
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def share(value: float | None) -> str:
    """>>> share(0.3333), share(0.0004), share(0.0), share(None)
    ('33.3%', '0.04%', '0%', '-')
    """
    if value is None:
        return "-"
    percent = 100 * value
    return f"{percent:.2f}%" if 0 < percent < 0.1 else f"{percent:.1f}%".replace(".0%", "%")


def count(number: int, thing: str) -> str:
    """>>> count(1, "step"), count(3, "step")
    ('1 step', '3 steps')
    """
    return f"{number} {thing}" + ("" if number == 1 else "s")


def seconds(value: float) -> str:
    """>>> seconds(4.26), seconds(75), seconds(7325)
    ('4.3 s', '1 min 15 s', '2 h 2 min')
    """
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def printable(text: str) -> str:
    r"""Spell control characters out, so that a name can't write to the terminal.

    >>> print(printable("a\x1b[31m"))
    a\x1b[31m
    """
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def fit(name: str, width: int, ink: Ink) -> str:
    """A name in ``width`` characters, cut in the middle where it is longer; control characters shown.

    >>> fit("encoder.layers.11.self_attn.weight", 20, Ink(ascii=True))
    'encoder.l..tn.weight'
    """
    name = printable(name)
    if ink.ascii:
        name = name.encode("ascii", "replace").decode()
    if len(name) <= width:
        return name.ljust(width)
    mark = ink.pick("…", "..")
    left = (width - len(mark)) // 2
    return name[:left] + mark + name[len(name) - (width - len(mark) - left) :]


def chart(
    values: Array,
    bad: NDArray[np.bool_],
    width: int,
    height: int,
    ink: Ink,
    bounds: tuple[float, float] | None = None,
    style: str = "cyan",
) -> list[Text]:
    """Bars on a logarithmic axis, the largest value of each column.

    Steps that are not finite have a mark of their own, and so have values above the axis.

    Returns ``height`` lines of ``width`` characters, fewer where there are fewer values.
    """
    tops, marks = spike_safe(values, width), any_in(bad, width)
    low, high = bounds or bounds_of(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        span = max(math.log(high) - math.log(low), 1e-9)
        fill = np.clip((np.log(tops) - math.log(low)) / span, 0, 1)
    eighths = np.where(np.isnan(tops), 0, np.maximum(1, np.round(np.nan_to_num(fill) * height * 8))).astype(int)
    lines = []
    for row in range(height):
        base = 8 * (height - 1 - row)
        line = Text()
        for column, level in enumerate(eighths):
            if marks[column] and row == 0:
                line.append(ink.nan, "bold red")
            elif row == 0 and tops[column] > high * 1.001:
                line.append(ink.over, "bold red")
            elif ink.ascii and height > 1:
                line.append("#" if level - base > 4 else ("." if level > base else " "))
            else:
                line.append(ink.levels[max(0, min(8, level - base))], style)
        lines.append(line)
    return lines


def bounds_of(*series: Array) -> tuple[float, float]:
    """The ends of the axis: the positive values of all series, a decade at least.

    The axis ends at 100 times the median of each series, or at its 95th percentile where that is
    higher, so that a run which exploded to 1e20 still shows what it did before; `chart` marks
    what lies above.

    >>> bounds_of(np.array([1.0, 2.0, 50.0])), bounds_of(np.array([1.0] * 99 + [1e20]))
    ((1.0, 50.0), (1.0, 100.0))
    """
    lows, highs = [], []
    for values in series:
        positive = values[np.isfinite(values) & (values > 0)]
        if len(positive):
            middle, most = np.quantile(positive, [0.5, 0.95])
            lows.append(max(float(positive.min()), float(middle) * 1e-6))
            highs.append(min(float(positive.max()), max(100 * float(middle), float(most))))
    if not highs:
        return 1.0, 10.0
    low, high = min(lows), max(highs)
    return (low, high) if high > 10 * low else (high / 10, high)


def heat(norms: Array, bad: NDArray[np.bool_], level: float | None, width: int, ink: Ink) -> Text:
    """One row of a layer x step strip: each column's largest norm beside the layer's own median."""
    tops, marks = spike_safe(norms, width), any_in(bad, width)
    line = Text()
    for top, mark in zip(tops, marks, strict=True):
        if mark:
            line.append(ink.nan, f"bold white on {_NAN_COLOUR}" if ink.colour else "")
        elif math.isnan(top) or not level:
            line.append(" ")
        else:
            step = _heat_step(top / level)
            line.append(" ", f"on {_HEAT[step]}") if ink.colour else line.append(
                (_ASCII_SHADES if ink.ascii else _SHADES)[step]
            )
    return line


def _heat_step(ratio: float) -> int:
    """Up to 1/10, 1/2, 3, 10, 100 times the median, and beyond."""
    return sum(ratio > edge for edge in (0.1, 0.5, 3.0, 10.0, 100.0))


def heat_legend(ink: Ink) -> Text:
    """What the colours of `heat` mean."""
    line = Text()
    for step, label in enumerate(("<1/10", "<1/2", "level", ">3x", ">10x", ">100x")):
        mark = "  " if ink.colour else (_ASCII_SHADES if ink.ascii else _SHADES)[step]
        line.append(mark, f"on {_HEAT[step]}" if ink.colour else "")
        line.append(f" {label}  ", "dim")
    line.append(ink.nan, f"bold white on {_NAN_COLOUR}" if ink.colour else "")
    line.append(" not finite", "dim")
    return line


def beside(panels: Sequence[Sequence[Text]], gap: int = 2) -> list[Text]:
    """Blocks of lines next to each other."""
    widths = [max((len(line) for line in panel), default=0) for panel in panels]
    lines = []
    for row in range(max(len(panel) for panel in panels)):
        line = Text()
        for panel, width in zip(panels, widths, strict=True):
            part = panel[row].copy() if row < len(panel) else Text()
            part.pad_right(width - len(part) + gap)
            line.append_text(part)
        line.rstrip()
        lines.append(line)
    return lines
