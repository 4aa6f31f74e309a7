"""Curves and heat maps made of characters, for a terminal with or without colour, or in plain ASCII."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from gradwatch.analysis.statistics.quantiles import Array, any_in, spike_safe
from gradwatch.text import number
from gradwatch.views.axes import end_of_axis
from gradwatch.views.console.screen import Ink

_SHADES = " ·░▒▓█"
_ASCII_SHADES = " .-+#@"
# Blue below the layer's own median, yellow to red above it: distinct with any colour vision.
_HEAT = ("#2c5aa0", "#7fa8d9", "#d9d9d9", "#f9dc8a", "#ee7f2d", "#b5172b")
_HEAT_EDGES = (0.1, 0.5, 3.0, 10.0, 100.0)  # multiples of the median at which the next shade begins
_HEAT_LABELS = ("<1/10", "<1/2", "level", ">3x", ">10x", ">100x")
_NAN_STYLE = "bold white on #c218d8"
_MOST_SAMPLED = 50_000  # values, about which an axis is laid out
_MIN_MEDIANS = 1e-6  # an axis begins at this multiple of the median at the lowest


@dataclass(frozen=True, slots=True)
class Axis:
    """The ends of an axis and its scale."""

    low: float
    high: float
    logarithmic: bool = True

    def places(self, values: Array) -> Array:
        """Where values lie on the axis: 0 at its low end, 1 at its high end; NaN stays NaN.

        >>> Axis(1.0, 100.0).places(np.array([1.0, 10.0, 0.0])).tolist()
        [0.0, 0.5, -inf]
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            if not self.logarithmic:
                # By halves: the difference of the largest values would overflow.
                length = max(self.high / 2 - self.low / 2, math.ulp(0.0))
                return np.asarray((values / 2 - self.low / 2) / length)
            span = max(math.log(self.high) - math.log(self.low), 1e-9)
            return np.asarray((np.log(values) - math.log(self.low)) / span)


def chart(
    values: Array,
    bad: NDArray[np.bool_],
    width: int,
    height: int,
    ink: Ink,
    axis: Axis | None = None,
    style: str = "cyan",
) -> list[Text]:
    """Bars of values. A column shows its largest value, so no single-step spike disappears.

    Args:
        values: one for each step, NaN if it is not known.
        bad: steps that are marked as not finite.
        width: columns; a run with fewer steps takes fewer.
        height: lines.
        ink: what the terminal can show.
        axis: by default that of `axis_of`. A value above its end is marked.
        style: of the bars.

    Returns:
        ``height`` lines.
    """
    tops, marks = spike_safe(values, width), any_in(bad, width)
    axis = axis or axis_of(values)
    levels = _eighths(axis.places(tops), height)
    above = tops > axis.high + 0.001 * abs(axis.high)
    return [
        Text.assemble(
            *(
                _cell(level - 8 * (height - 1 - row), ink, height, style, over and row == 0, mark and row == 0)
                for level, over, mark in zip(levels, above, marks, strict=True)
            )
        )
        for row in range(height)
    ]


def _eighths(places: Array, height: int) -> NDArray[np.int64]:
    """The height of each bar in eighths of a line: 0 for NaN, at least 1 for a value."""
    fill = np.clip(np.nan_to_num(places, neginf=0.0), 0, 1)
    return np.where(np.isnan(places), 0, np.maximum(1, np.round(fill * height * 8))).astype(np.int64)


def _cell(level: int, ink: Ink, height: int, style: str, over: bool, bad: bool) -> tuple[str, str]:
    """The character of a bar in one line and its style; ``level`` counts eighths above the line's bottom."""
    if bad:
        return ink.nan, "bold red"
    if over:
        return ink.over, "bold red"
    if ink.ascii and height > 1:
        return ("#" if level > 4 else "." if level > 0 else " "), ""
    return ink.levels[max(0, min(8, level))], style


def axis_of(*series: Array) -> Axis:
    """A logarithmic axis for the positive values of all series, at least a decade long.

    The axis ends at 100 times the median of each series, or at its 95th percentile if that is higher.
    A run that exploded to 1e20 so still shows what happened before; `chart` marks the values above.

    >>> axis_of(np.array([1.0, 2.0, 50.0])), axis_of(np.array([1.0] * 99 + [1e20]))
    (Axis(low=1.0, high=50.0, logarithmic=True), Axis(low=1.0, high=100.0, logarithmic=True))
    """
    lows, highs = [], []
    for values in series:
        positive = values[np.isfinite(values) & (values > 0)]
        if len(positive):
            sample = positive[:: max(1, len(positive) // _MOST_SAMPLED)]
            lows.append(max(float(positive.min()), float(np.quantile(sample, 0.5)) * _MIN_MEDIANS))
            highs.append(min(float(positive.max()), end_of_axis(sample)))
    if not highs:
        # Norms of 0 lie at 0; without any number nothing is drawn, and one decade is as good as another.
        zeros = any((values[np.isfinite(values)] == 0).any() for values in series)
        return Axis(0.0, 0.0, logarithmic=False) if zeros else Axis(1.0, 10.0)
    low, high = min(lows), max(highs)
    if high > 10 * low:
        return Axis(low, high)
    low = max(high / 10, math.ulp(0.0))
    return Axis(low, high if high > low else 10 * low)


def loss_axis_of(*series: Array) -> Axis:
    """The axis of `axis_of`, unless a loss is negative or none is above 0: then a linear one.

    >>> loss_axis_of(np.array([1.0, -3.0, np.nan]))
    Axis(low=-3.0, high=1.0, logarithmic=False)
    """
    finite = np.concatenate([values[np.isfinite(values)] for values in series])
    if not len(finite) or ((finite >= 0).all() and (finite > 0).any()):
        return axis_of(*series)
    return Axis(float(finite.min()), float(finite.max()), logarithmic=False)


def cut_legend(drawn: Sequence[Text], axis: Axis, ink: Ink) -> list[Text]:
    """What the mark of a column above the axis means, if the lines of a chart have one."""
    is_cut = any(ink.over in line.plain for line in drawn)
    return [Text(f"  {ink.over} above {number(axis.high)}, where the chart ends", "red")] if is_cut else []


def heat(norms: Array, bad: NDArray[np.bool_], level: float | None, width: int, ink: Ink) -> Text:
    """One row of a heat map: each column's largest norm relative to ``level``, the layer's median."""
    line = Text()
    for top, mark in zip(spike_safe(norms, width), any_in(bad, width), strict=True):
        if mark:
            line.append(ink.nan, _NAN_STYLE if ink.colour else "")
        elif math.isnan(top) or not level:
            line.append(" ")
        else:
            line.append(*_shade(sum(top / level > edge for edge in _HEAT_EDGES), ink))
    return line


def _shade(index: int, ink: Ink) -> tuple[str, str]:
    """A character and its style for one of the shades of the heat map."""
    if ink.colour:
        return " ", f"on {_HEAT[index]}"
    return (_ASCII_SHADES if ink.ascii else _SHADES)[index], ""


def heat_legend(ink: Ink) -> Text:
    """The meaning of the colours of `heat`."""
    line = Text()
    for index, label in enumerate(_HEAT_LABELS):
        character, style = _shade(index, ink)
        line.append(character * (2 if ink.colour else 1), style).append(f" {label}  ", "dim")
    return line.append(ink.nan, _NAN_STYLE if ink.colour else "").append(" not finite", "dim")


def bar(fraction: float, width: int, ink: Ink) -> str:
    """A fraction as a bar that is padded to ``width``.

    >>> bar(0.5, 10, Ink(ascii=True))
    '#####     '
    """
    return (ink.pick("█", "#") * round(width * fraction)).ljust(width)


def beside(panels: Sequence[Sequence[Text]], gap: int = 2) -> list[Text]:
    """Blocks of lines next to each other."""
    widths = [max((line.cell_len for line in panel), default=0) for panel in panels]
    lines = []
    for row in range(max((len(panel) for panel in panels), default=0)):
        line = Text()
        for panel, width in zip(panels, widths, strict=True):
            part = panel[row].copy() if row < len(panel) else Text()
            part.pad_right(width - part.cell_len + gap)
            line.append_text(part)
        line.rstrip()
        lines.append(line)
    return lines


def with_axis(lines: Sequence[Text], axis: Axis, ink: Ink) -> list[Text]:
    """A chart with the ends of its axis at the left: ten columns for the numbers and the axis."""
    high = number(axis.high) if axis.high > axis.low else ""  # one value has one place
    labels = [high, *[""] * (len(lines) - 2), number(axis.low)] if len(lines) > 1 else [""]
    bar = ink.pick("┤", "|")
    return [
        Text.assemble((f"{label:>9}", "dim"), (bar, "dim"), line) for label, line in zip(labels, lines, strict=True)
    ]
