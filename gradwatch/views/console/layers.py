"""The layers of a report: a table with a history of each, and a heat map of layers by steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.summary import LayerSummary, RunSummary
from gradwatch.text import number, share
from gradwatch.views.console.draw import chart, heat, heat_legend
from gradwatch.views.console.screen import USUAL, Screen

Column: TypeAlias = tuple[str, int, Callable[[LayerSummary], str]]
"""Title, width and text of a column."""


def layer_table(summary: RunSummary, screen: Screen, most: int) -> list[Text]:
    """The most relevant layers: numbers of their gradient norms, and each norm over the steps."""
    if not summary.layers:
        return [Text.assemble(("layers", "bold"), ("  not recorded", "dim"))]
    shown = summary.most_relevant[:most]
    more = _more(len(summary.layers), len(shown))
    if not shown:
        return [Text.assemble(("layers", "bold"), ("  ", ""), *more)]
    columns = _columns(screen.width, [summary.layers[i] for i in shown])
    lost, names = screen.fit_layers([summary.layers[i].name for i in shown], _name_width(screen), "layer")
    history = screen.width - len(names[0]) - 2 - sum(width + 1 for _, width, _ in columns)
    head = "layer".ljust(len(names[0]) + 1) + "".join(f"{title:>{width}} " for title, width, _ in columns)
    room = history - len("history  ")
    beginning, more = _place_beginning(lost.rstrip("."), room, more, screen)
    norms, bad = summary.series.layer_norm, summary.series.layer_nonfinite
    curves = [chart(norms[:, i].astype(float), bad[:, i], history, 1, screen.ink)[0] for i in shown]
    title = Text(f"{head} history", "bold").append(_cut(beginning, room, screen), "dim")
    rows = [
        _numbers(name, summary.layers[index], columns).append_text(curve)
        for index, name, curve in zip(shown, names, curves, strict=True)
    ]
    if summary.quantile_error is not None:
        more = [Text(f"medians and p99 of layers within {share(summary.quantile_error)} of exact", "dim"), *more]
    return [_with_legend(title, curves, screen), *rows, *more]


def _with_legend(title: Text, curves: Sequence[Text], screen: Screen) -> Text:
    """The title with the mark of what is above the chart, where a curve has one and there is room."""
    legend = f"  {screen.ink.over} off scale"
    if any(screen.ink.over in curve.plain for curve in curves) and title.cell_len + len(legend) <= screen.width:
        title.append(legend, "dim")
    return title


def _numbers(name: str, layer: LayerSummary, columns: Sequence[Column]) -> Text:
    """A row up to its curve."""
    return Text(f"{name} " + "".join(f"{text(layer):>{width}} " for _, width, text in columns) + " ")


def _place_beginning(lost: str, room: int, more: list[Text], screen: Screen) -> tuple[str, list[Text]]:
    """What all names begin with: for the head of the table, or beside ``more`` below it if there is room only there."""
    beginning = f"all in {lost}" if lost else ""
    if len(beginning) > room and more and len(beginning) + more[0].cell_len + 2 <= screen.width:
        return "", [Text(f"{beginning}; {more[0].plain}", "dim"), *more[1:]]
    return beginning, more


def _cut(beginning: str, room: int, screen: Screen) -> str:
    """The beginning that all names lack, for the room behind the title of the last column; its end says most."""
    mark = screen.ink.ellipsis
    said, name = "  all in ", beginning.removeprefix("all in ")
    room -= len(said) - 2
    if not name or room < len(mark):
        return ""
    return said + (name if len(name) <= room else mark + name[len(name) - room + len(mark) :])


def _name_width(screen: Screen) -> int:
    return 36 if screen.width >= 110 else 22 if screen.width >= USUAL else max(15, screen.width // 4)


def _more(layers: int, shown: int) -> list[Text]:
    return (
        [Text(f"{layers - shown} more; `gradwatch report --layers {layers}` shows all", "dim")]
        if layers > shown
        else []
    )


def _columns(width: int, layers: Sequence[LayerSummary]) -> list[Column]:
    """The columns that fit, the most useful first."""
    columns: list[Column] = [
        ("median", 8, lambda layer: number(layer.median)),
        ("max", 8, lambda layer: number(layer.max)),
        ("at step", 8, lambda layer: "-" if layer.max_step is None else str(layer.max_step)),
    ]
    if width < USUAL:
        del columns[2 if width >= 60 else 1 :]
    if width >= 90:
        columns.insert(1, ("p99", 8, lambda layer: number(layer.p99)))
        columns.append(("last", 8, lambda layer: number(layer.last)))
    if width >= 110:
        columns.append(("zeros", 6, lambda layer: share(layer.zero_fraction)))
        columns.append(("update", 8, lambda layer: number(layer.update_ratio)))
    if any(layer.nonfinite_steps for layer in layers):
        columns.append(("NaN", 5, lambda layer: str(layer.nonfinite_steps)))
    return columns


def layer_strip(summary: RunSummary, screen: Screen, rows: int) -> list[Text]:
    """A heat map of every layer in the model's order; a row joins neighbours if there are more than ``rows``."""
    if not summary.layers or rows < 1:
        return []
    groups = _neighbours(len(summary.layers), rows)
    widest = 30 if screen.width >= 110 else _name_width(screen)
    _, labels = screen.fit_layers([_group_label([summary.layers[i].name for i in group]) for group in groups], widest)
    width = screen.width - len(labels[0]) - 1
    compared = "  largest norm relative to the layer's own median"
    if any(layer.median == 0 for layer in summary.layers):
        compared = "  largest norm relative to the layer's median; blank if that is 0"
    lines = [Text("layer x step", "bold").append(compared, "dim")]
    joined = "; +N: with the next N layers"
    if len(groups) < len(summary.layers) and lines[0].cell_len + len(joined) <= screen.width:
        lines[0].append(joined, "dim")
    for label, group in zip(labels, groups, strict=True):
        relative, bad = _relative(summary, group)
        lines.append(Text(f"{label} ").append_text(heat(relative, bad, 1.0, width, screen.ink)))
    return [*lines, heat_legend(screen.ink)]


def _neighbours(layers: int, rows: int) -> list[list[int]]:
    """The indices of layers in at most ``rows`` groups of about equal size.

    >>> _neighbours(5, 2)
    [[0, 1, 2], [3, 4]]
    """
    return [list(group) for _, group in groupby(range(layers), key=lambda i: i * min(rows, layers) // layers)]


def _group_label(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} +{len(names) - 1}"


def _relative(summary: RunSummary, group: Sequence[int]) -> tuple[Array, NDArray[np.bool_]]:
    """The largest norm of a group relative to each layer's median, and where any gradient is not finite."""
    medians = np.array([summary.layers[i].median or np.nan for i in group])
    table = summary.series.layer_norm[:, group].astype(float) / medians
    largest = np.max(np.where(np.isfinite(table), table, -np.inf), axis=1, initial=-np.inf)
    bad = np.asarray(summary.series.layer_nonfinite[:, group].any(axis=1), bool)
    return np.where(largest == -np.inf, np.nan, largest), bad
