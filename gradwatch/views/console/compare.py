"""`gradwatch compare`: several runs side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.text import Text

from gradwatch.analysis.differences import Difference, differing_settings
from gradwatch.analysis.summary import RunSummary
from gradwatch.text import number, share, threshold_text
from gradwatch.views.console.draw import Axis, axis_of, beside, chart, cut_legend, loss_axis_of, with_axis
from gradwatch.views.console.screen import SEVERITY_STYLES, Screen
from gradwatch.views.parting import sentences

_PANEL = 38  # columns that a panel needs at least
_MARGIN = 12  # columns of a panel that are not curve: the axis with its labels and the gap
_HEIGHT = 6
_MOST_CHARTS = 6  # runs whose curves are drawn
_WIDEST_NAME, _NARROWEST_NAME = 30, 12

_NUMBERS: tuple[tuple[str, Callable[[RunSummary], str]], ...] = (
    ("verdict", lambda run: run.verdict),
    ("steps", lambda run: str(run.steps)),
    ("median norm", lambda run: number(run.total_norm.median)),
    ("p99 norm", lambda run: number(run.total_norm.p99)),
    ("max norm", lambda run: number(run.total_norm.max)),
    ("at step", lambda run: "-" if run.total_norm.max_step is None else str(run.total_norm.max_step)),
    ("threshold", lambda run: threshold_text(run.clipping.threshold, run.clipping.how)),
    ("clipped", lambda run: share(run.clipping.clipped_fraction)),
    ("not finite", lambda run: str(run.nonfinite_steps)),
    ("loss first", lambda run: number(None if run.loss is None else run.loss.first)),
    ("loss at end", lambda run: number(None if run.loss is None else run.loss.end)),
)

_MOST_TELLING = (
    "verdict",
    "loss at end",
    "median norm",
    "max norm",
    "threshold",
    "clipped",
    "steps",
    "at step",
    "p99 norm",
    "not finite",
    "loss first",
)
"""The columns in the order in which they get room."""


@dataclass(frozen=True, slots=True)
class _Curve:
    """A series to compare: its title, its name in `Series`, its axis for several runs, and its style."""

    title: str
    name: str
    axis_of: Callable[..., Axis]
    style: str


_CURVES = (_Curve("total norm", "total_norm", axis_of, "cyan"), _Curve("loss", "loss", loss_axis_of, "magenta"))


def comparison(summaries: Sequence[RunSummary], screen: Screen, partings: Sequence[Sequence[Difference]] = ()) -> Group:
    """Norm and loss of each run on shared axes, if they are few, then the numbers of all.

    The runs stand in one order everywhere, the lowest loss at the end first. Where ``partings`` holds the differences
    of each further run from the first, where they part comes last.
    """
    ordered = sorted(summaries, key=_rank)
    across = max(1, min(len(summaries), screen.width // _PANEL))
    lines: list[Text] = []
    drawn = ordered if len(ordered) <= _MOST_CHARTS else ()
    for begin in range(0, len(drawn), across):
        row = ordered[begin : begin + across]
        for curve in _CURVES if any(run.has_norms for run in ordered) else _CURVES[1:]:
            lines += _panels(curve, ordered, row, screen)
        lines.append(Text())
    lines += _table(ordered, screen)
    lines += _settings(ordered, screen)
    for other, found in zip(summaries[1:], partings, strict=bool(partings)):
        lines += [Text(), *_parting(summaries[0].run, other.run, found, screen)]
    return Group(*lines)


def _settings(summaries: Sequence[RunSummary], screen: Screen) -> list[Text]:
    """The settings of the configs in which the runs differ, a line for each."""
    differing = differing_settings([summary.config for summary in summaries])
    if not differing:
        return []
    lines = [Text(), Text("settings that differ", "bold")]
    for name in differing:
        # "-": the run's config lacks it; None may be the value itself.
        each = ", ".join(f"{run.run} {run.config.get(name, '-')}" for run in summaries)
        lines += screen.wrap(f"  {name}  ", each, "dim")
    return lines


def _parting(first: str, second: str, found: Sequence[Difference], screen: Screen) -> list[Text]:
    """The step and the parameter in which two runs first differ, and how the difference grew."""
    lines = [Text(f"{first} and {second}", "bold")]
    if not found:
        return [*lines, *screen.wrap("  ", "no optimizer of these runs has the same name: nothing to compare", "dim")]
    for one in found:
        for sentence in sentences(one, first, second, several=len(found) > 1):
            lines += screen.wrap("  ", sentence, "")
        lines += _growth(one)
    return lines


def _growth(found: Difference) -> list[Text]:
    if not found.growth:
        return []
    lines = [Text(f"  {'step':>10}  {'norms apart by':>14}  {'losses apart by':>15}", "bold")]
    rows = (f"  {one.step:>10}  {_relative(one.total_norm):>14}  {_relative(one.loss):>15}" for one in found.growth)
    return [*lines, *map(Text, rows)]


def _relative(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else number(value, 2)


def _panels(curve: _Curve, everyone: Sequence[RunSummary], row: Sequence[RunSummary], screen: Screen) -> list[Text]:
    """One curve of the runs in a row, on the axes of everyone."""
    axis = curve.axis_of(*(getattr(run.series, curve.name) for run in everyone))
    longest = max(run.steps for run in everyone)
    width = max(1, screen.width // len(row) - _MARGIN)
    names = screen.fit([run.run for run in row], width + 10 - len(f"{curve.title}: "))
    panels = []
    drawn: list[Text] = []
    for run, name in zip(row, names, strict=True):
        values = getattr(run.series, curve.name)
        bad = run.series.nonfinite if curve.name == "total_norm" else run.series.loss_nonfinite
        columns = max(1, round(width * run.steps / longest))
        lines = chart(values, bad, columns, _HEIGHT, screen.ink, axis, curve.style)
        drawn += lines
        title = Text(f"{curve.title}: {name}".ljust(width + 10), "bold")
        panels.append([title, *with_axis(lines, axis, screen.ink)])
    return [*beside(panels), *cut_legend(drawn, axis, screen.ink)]


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the table: its title, a text for each run, and its width with the gap before it."""

    title: str
    texts: tuple[str, ...]

    @property
    def width(self) -> int:
        return 2 + max(len(text) for text in (self.title, *self.texts))


def _table(summaries: Sequence[RunSummary], screen: Screen) -> list[Text]:
    """One table with a line for each run; below it the columns that find no room."""
    names = screen.fit([run.run for run in summaries], _WIDEST_NAME, "run".ljust(_NARROWEST_NAME))
    columns = [_Column(title, tuple(text(run) for run in summaries)) for title, text in _NUMBERS]
    shown = _fitting(columns, screen.width - len(names[0]))
    lines = _lines(shown, summaries, names)
    left_out = [column.title for column in columns if column not in shown]
    if left_out:
        told = f"no room for {', '.join(left_out)}; a wider terminal or --json shows them"
        lines += screen.wrap("", told, "dim")
    return lines


def _rank(summary: RunSummary) -> float:
    """The loss at the end; infinity where it is not known or not finite."""
    loss = None if summary.loss is None else summary.loss.end
    return math.inf if loss is None or not math.isfinite(loss) else loss


def _fitting(columns: Sequence[_Column], room: int) -> list[_Column]:
    """The columns that fit into the room, the most relevant first, in the order of the table."""
    chosen: list[_Column] = []
    for title in _MOST_TELLING:
        column = next(one for one in columns if one.title == title)
        if sum(one.width for one in chosen) + column.width <= room:
            chosen.append(column)
    return [column for column in columns if column in chosen]


def _lines(columns: Sequence[_Column], summaries: Sequence[RunSummary], names: Sequence[str]) -> list[Text]:
    head = "run".ljust(len(names[0])) + "".join(f"{column.title:>{column.width}}" for column in columns)
    lines = [Text(head, "bold")]
    for at, (run, name) in enumerate(zip(summaries, names, strict=True)):
        line = Text(name)
        for column in columns:
            style = SEVERITY_STYLES[run.verdict] if column.title == "verdict" else ""
            line.append(f"{column.texts[at]:>{column.width}}", style)
        lines.append(line)
    return lines
