"""A summary as HTML for a notebook. It has no script: untrusted notebooks and code hosts remove scripts.

Texts with a colour of their own have a background of their own too, so that they can be read in a
light and in a dark notebook; all others take the notebook's colour.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.diagnosis import Finding
from gradwatch.analysis.statistics.quantiles import Array, any_in, spike_safe
from gradwatch.analysis.statistics.scatter import QUANTITIES, scatter
from gradwatch.analysis.summary import LayerSummary, RunSummary
from gradwatch.record import MAGNITUDE_EXPONENTS, SEVERITIES
from gradwatch.text import count, number, optimizer_label, printable, share, step_range, which_optimizer
from gradwatch.views import png
from gradwatch.views.axes import end_of_axis
from gradwatch.views.short_names import shorten_all

WIDTH, HEIGHT = 640, 72  # pixels of a chart
MAX_COLUMNS = 480  # of a chart or the heat map; a column shows the largest value of its steps
MAX_ROWS = 64  # of the heat map; a row shows the largest value of its layers
TALL = 160  # pixels of the scatter plot
POINTS, MIN_POINTS = 600, 3  # steps drawn there, at most and at least
MAX_FINDINGS, MAX_EVENTS, MAX_LAYERS = 6, 6, 6
NAME_WIDTH = 60  # characters of a layer's name

_BADGES = {"healthy": "#1a7f37", "info": "#57606a", "warning": "#8a5000", "critical": "#b3261e"}
_LINE = "#0072b2"
_MARGIN = 4  # pixels above and below a curve
_BAD = (214, 0, 108)
_SCALE = ((8, 48, 107), (107, 174, 214), (236, 236, 236), (253, 141, 60), (127, 39, 4))
_SCALE_ENDS = 100.0  # the last colour is for 100 times a layer's median, the first for a hundredth
_SHADES = 33
_UNKNOWN, _NOT_FINITE, _LIMIT = 0, _SHADES + 1, _SHADES + 2  # codes of a picture; 1 to _SHADES are the shades
_STEPS = ("#0072b2", "#7a5cd0", "#b94aa8", "#d9475f", "#d0701e")  # from the first steps to the last
_SHARES = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))  # viridis
_DECADES = 4  # of shares of the entries that have different colours
_DOT = 4  # pixels between the points and the edge


def render(summary: RunSummary) -> str:
    """The verdict, curves, a heat map of layers by steps, a scatter plot, entries by magnitude, events and layers."""
    series = summary.series
    parts = [_head(summary)]
    if summary.has_norms:
        parts.append(_chart("total norm", series.total_norm, series.nonfinite, summary))
    if summary.loss is not None:
        parts.append(_chart("loss", series.loss, series.loss_nonfinite, summary))
    if summary.layers:
        parts.append(_heat_map(summary))
    parts += [_scatter(summary), _magnitudes(summary)]
    if summary.events:
        parts.append(_events(summary))
    if summary.layers:
        parts.append(_layers(summary))
    style = f"font-family:system-ui,sans-serif;font-size:13px;max-width:{WIDTH + 20}px"
    return f'<div style="{style}">{"".join(parts)}</div>'


def _text(value: object) -> str:
    return escape(printable(str(value)))


def _prose(text: str) -> str:
    """A text whose commands and names between backticks become code.

    >>> _prose("see `gradwatch explain spike`")
    'see <code>gradwatch explain spike</code>'
    """
    parts = _text(text).split("`")
    if len(parts) % 2 == 0:  # one that has no other end
        return "`".join(parts)
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _badge(severity: str, text: str) -> str:
    """White text on the colour of a severity."""
    style = f"background:{_BADGES[severity]};color:#fff;padding:0 5px;border-radius:3px"
    return f'<b style="{style}">{_text(text)}</b>'


def _head(summary: RunSummary) -> str:
    facts = [
        summary.run,
        summary.model,
        which_optimizer(summary.optimizer, summary.optimizers),
        optimizer_label(summary.optimizer_class, summary.learning_rate, summary.highest_learning_rate),
        step_range(summary.first_step, summary.last_step),
        f"total norm: median {number(summary.total_norm.median)}, max {number(summary.total_norm.max)}"
        if summary.has_norms
        else "total norm: not known",
        _clipped(summary),
    ]
    told = next((finding for finding in summary.findings if finding.severity != "info"), None)
    lines = [
        _text(" · ".join(fact for fact in facts if fact)),
        *([] if told is None else [f"<b>cause</b> ({told.certainty}): {_prose(told.cause)}"]),
        f"<b>next:</b> {_prose(summary.next)}",
        *([] if told is None else [f"<b>confirm:</b> {_prose(told.confirm)}"]),
    ]
    return (
        f'<p style="margin:4px 0">{_badge(summary.verdict, summary.verdict.upper())} {_text(summary.reason)}<br/>'
        f"{'<br/>'.join(f'<small>{line}</small>' for line in lines)}</p>"
        f"{_findings([finding for finding in summary.findings if finding is not told])}"
    )


def _clipped(summary: RunSummary) -> str:
    clipping = summary.clipping
    if clipping.kind is not None:
        return f"clipped_fraction {share(clipping.clipped_fraction)}"
    return "not clipped" if clipping.is_known else "not known whether it was clipped"


def _findings(others: Sequence[Finding]) -> str:
    """The findings that the headline does not tell."""
    items = "".join(
        f"<li>{_badge(finding.severity, finding.code)} {_text(finding.what)}</li>" for finding in others[:MAX_FINDINGS]
    )
    more = _more(len(others) - MAX_FINDINGS, "more finding", ".diagnosis()")
    return f'<ul style="margin:4px 0;padding-left:18px">{items}</ul>{more}' if items else ""


# -------------------------------------------------------------------------------------- the charts


def _chart(title: str, values: Array, bad: NDArray[np.bool_], summary: RunSummary) -> str:
    """The largest value of each column, with a bar at those that are not finite.

    The axis is logarithmic unless a value is negative, or none is above 0. A logarithmic one ends at 100 times the
    median, so that an explosion does not flatten what led to it; triangles mark the columns above.
    """
    tops = spike_safe(values, MAX_COLUMNS)
    finite = tops[np.isfinite(tops)]
    logarithmic = bool((finite > 0).any()) and not bool((values[np.isfinite(values)] < 0).any())
    known = finite[finite > 0] if logarithmic else finite
    low, high = (float(known.min()), float(known.max())) if len(known) else (math.nan, math.nan)
    top = end_of_axis(known) if logarithmic else high
    is_cut = high > top
    width = WIDTH / max(1, len(tops))
    lines = "".join(
        f'<polyline points="{points}" fill="none" stroke="{_LINE}" stroke-width="1.2"/>'
        for points in _polylines(_heights(np.minimum(tops, top), low, min(high, top), logarithmic), width)
    )
    bars = "".join(
        f'<rect x="{begin * width:.1f}" y="0" width="{max((end - begin) * width, 2):.1f}" height="{HEIGHT}"'
        f' fill="rgb{_BAD}"/>'
        for begin, end in _runs(any_in(bad, MAX_COLUMNS))
    )
    ends = number(low) if number(low) == number(high) else f"{number(low)} to {number(high)}"
    scale = "logarithmic" if logarithmic else "linear"
    if is_cut:
        ends += f", \N{BLACK UP-POINTING TRIANGLE} above {number(top)}"
        lines += "".join(
            f'<path d="M{(begin + end) / 2 * width:.1f} 0l4 7h-8z" fill="{_LINE}"/>'
            for begin, end in _runs(np.isfinite(tops) & (tops > top))
        )
    label = f"{title}, {scale}, {ends}, {step_range(summary.first_step, summary.last_step)}"
    return (
        f'<div><small>{title} <span style="opacity:.8">{ends}, {scale}</span></small><br/>'
        f'<svg role="img" aria-label="{label}" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"{bars}{lines}</svg></div>"
    )


def _heights(tops: Array, low: float, high: float, logarithmic: bool) -> Array:
    """The y of each value in pixels from above; NaN for a value that the axis lacks."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled, bottom, top = (np.log(tops), np.log(low), np.log(high)) if logarithmic else (tops, low, high)
        place = (scaled - bottom) / max(top - bottom, 1e-300)
        heights: Array = np.where(np.isfinite(place), _MARGIN + (HEIGHT - 2 * _MARGIN) * (1 - place), np.nan)
    return heights


def _polylines(heights: Array, width: float) -> list[str]:
    """The points of each stretch without NaN. A single point becomes a short line, for a point has no length."""
    lines = []
    for begin, end in _runs(~np.isnan(heights)):
        points = [((i + 0.5) * width, heights[i]) for i in range(begin, end)]
        if len(points) == 1:
            ((x, y),) = points
            points = [(x - 1, y), (x + 1, y)]
        lines.append(" ".join(f"{x:.1f},{y:.1f}" for x, y in points))
    return lines


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Begin and end of each stretch of flags that are set.

    >>> _runs(np.array([True, True, False, True]))
    [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


# ------------------------------------------------------------------------------------- the heat map


def _heat_map(summary: RunSummary) -> str:
    """The largest norm of each column relative to the layer's median, as a picture."""
    rows = min(MAX_ROWS, len(summary.layers))
    codes = np.zeros((rows, min(MAX_COLUMNS, len(summary.series.layer_norm))), np.uint8)
    for index, layer in enumerate(summary.layers):
        row = codes[index * rows // len(summary.layers)]
        np.maximum(row, _codes(summary, index, layer.median), out=row)
    data = base64.b64encode(png.encode(codes, _palette())).decode()
    height = max(48, min(6 * rows, 240))
    return (
        "<div><small>layers by steps: the largest norm relative to the layer's own median, from 1/100 (blue)"
        f' to 100 times (dark orange); pink: not finite</small><br/><img alt="layers by steps of {_text(summary.run)}"'
        f' src="data:image/png;base64,{data}" style="width:{WIDTH}px;height:{height}px;image-rendering:pixelated"/>'
        "</div>"
    )


def _codes(summary: RunSummary, index: int, median: float | None) -> NDArray[np.uint8]:
    """The code of each column of a layer."""
    tops = spike_safe(summary.series.layer_norm[:, index].astype(float), MAX_COLUMNS)
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.log(tops / median) / math.log(_SCALE_ENDS) if median else np.full(len(tops), np.nan)
    shade = 1 + np.rint((np.clip(np.nan_to_num(place, neginf=-1.0), -1, 1) + 1) / 2 * (_SHADES - 1))
    codes = np.where(np.isnan(tops), _UNKNOWN, shade).astype(np.uint8)
    codes[any_in(summary.series.layer_nonfinite[:, index], MAX_COLUMNS)] = _NOT_FINITE
    return codes


def _palette(scale: Sequence[tuple[int, int, int]] = _SCALE) -> list[tuple[int, int, int]]:
    """A transparent colour, the shades between those of a scale, the colour of NaN and infinity, and that of limits."""
    places = np.linspace(0, len(scale) - 1, _SHADES)
    channels = [np.interp(places, range(len(scale)), [colour[c] for colour in scale]) for c in range(3)]
    shades = [(round(r), round(g), round(b)) for r, g, b in zip(*channels, strict=True)]
    return [(255, 255, 255), *shades, _BAD, (128, 128, 128)]


# --------------------------------------------------------------------------------- the scatter plot


def _scatter(summary: RunSummary) -> str:
    """Total norm against loss, or against the learning rate of a run without losses; a point is a step."""
    name, values = ("loss", summary.series.loss)
    if summary.loss is None:
        name, values = "learning_rate", summary.series.learning_rate
    found = scatter(summary.series, summary.first_step, summary.last_step, POINTS)
    x, y = (found.values[:, QUANTITIES.index(one)] for one in ("total_norm", name))
    known = np.isfinite(x) & np.isfinite(y)
    if np.count_nonzero(known) < MIN_POINTS or np.ptp(values[np.isfinite(values)]) == 0:
        return ""
    (left, x_told), (up, y_told) = (_places(one[known]) for one in (x, y))
    steps = found.step[known]
    shade = np.minimum((steps - steps[0]) * len(_STEPS) // max(1, steps[-1] - steps[0]), len(_STEPS) - 1)
    look = 'stroke-width="3" stroke-linecap="round"'
    paths = "".join(
        f'<path d="{_dots(left[shade == i], up[shade == i])}" stroke="{colour}" {look}/>'
        for i, colour in enumerate(_STEPS)
    )
    lost = int(found.left_out[:, QUANTITIES.index("total_norm"), QUANTITIES.index(name)].sum())
    drawn = len(steps)
    told = [
        f"total norm to the right, {x_told}; {name} up, {y_told}",
        "from the first steps (blue) to the last (orange)",
        *(
            [f"{count(drawn, 'step')} of {summary.steps}, the extremes among them"]
            if drawn + lost < summary.steps
            else []
        ),
        *([f"{count(lost, 'step')} can't be drawn: not finite or not known"] if lost else []),
    ]
    label = f"total norm against {name}: {'; '.join(told)}"
    return (
        f'<div><small>total norm against {name} <span style="opacity:.8">{"; ".join(told)}</span></small><br/>'
        f'<svg role="img" aria-label="{label}" width="{WIDTH}" height="{TALL}" viewBox="0 0 {WIDTH} {TALL}"'
        f' style="border-left:1px solid #8c959f;border-bottom:1px solid #8c959f">{paths}</svg></div>'
    )


def _places(values: Array) -> tuple[Array, str]:
    """Where values lie on an axis, from 0 to 1, and the axis in words. It is logarithmic if all are positive."""
    low, high = float(values.min()), float(values.max())
    logarithmic = low > 0
    scaled = np.log(values) if logarithmic else values
    place: Array = (scaled - scaled.min()) / max(float(np.ptp(scaled)), 1e-300)
    return place, f"{number(low)} to {number(high)}, {'logarithmic' if logarithmic else 'linear'}"


def _dots(left: Array, up: Array) -> str:
    """Points as lines without a length, whose round ends are drawn."""
    x, y = _DOT + left * (WIDTH - 2 * _DOT), TALL - _DOT - up * (TALL - 2 * _DOT)
    return "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(x.tolist(), y.tolist(), strict=True))


# ------------------------------------------------------------------------------ entries by magnitude


def _magnitudes(summary: RunSummary) -> str:
    """The entries of the most relevant layer's gradient by magnitude, a column for each sample."""
    found = summary.magnitudes
    if found is None:
        return ""
    counts = found.counts[:, 0]
    last = len(MAGNITUDE_EXPONENTS)  # the bin of the largest magnitudes
    scale = found.loss_scale[-1] if found.loss_scale[-1] > 0 else 1.0
    limits = {int(np.searchsorted(MAGNITUDE_EXPONENTS, limit - math.log2(scale))) for limit in (16, -14, -24)}
    rows: list[NDArray[np.uint8]] = []
    for at in (last + 3, last + 2, *range(last, -1, -1), last + 1):
        rows.append(_shares(counts, at, is_bad=at > last + 1))
        if at <= last and (at - 1 in limits or at == 1):  # below this bin
            rows.append(np.full(len(counts), _LIMIT, np.uint8))
    data = base64.b64encode(png.encode(np.stack(rows), _palette(_SHARES))).decode()
    name = _text(found.names[0])
    at_scale = f" at the last loss scale, {number(scale)}" if scale != 1 else ""
    told = [
        "from the top: NaN, infinite, above 2^16, 29 bins of two powers of two down to 2^-42, down to 2^-126, below,"
        " zero",
        f"lines: float16's largest, smallest normal and smallest number{at_scale}, and bfloat16's smallest normal",
        f"{count(len(found.step), 'sample')}, {step_range(int(found.step[0]), int(found.step[-1]))}",
        "pink: not finite; from 0.01% of the entries (dark) to all (bright)",
    ]
    return (
        f'<div><small>entries by magnitude of {name} <span style="opacity:.8">{"; ".join(told)}</span></small><br/>'
        f'<img alt="entries of {name} by magnitude" src="data:image/png;base64,{data}"'
        f' style="width:{WIDTH}px;height:{4 * len(rows)}px;image-rendering:pixelated"/></div>'
    )


def _shares(counts: NDArray[np.float32], at: int, *, is_bad: bool) -> NDArray[np.uint8]:
    """The code of each sample for its share of entries in a bin."""
    with np.errstate(divide="ignore", invalid="ignore"):
        place = 1 + np.log10(counts[:, at] / counts.sum(axis=1)) / _DECADES
    shades = 1 + np.rint(np.clip(np.nan_to_num(place, neginf=0.0), 0, 1) * (_SHADES - 1))
    codes: NDArray[np.uint8] = np.where(counts[:, at] > 0, _NOT_FINITE if is_bad else shades, _UNKNOWN).astype(np.uint8)
    return codes


# ------------------------------------------------------------------------------- events and layers


def _events(summary: RunSummary) -> str:
    """The most severe events, by step."""
    ranked = sorted(range(len(summary.events)), key=lambda i: -SEVERITIES.index(summary.events[i].severity))
    shown = [summary.events[i] for i in sorted(ranked[:MAX_EVENTS])]
    several = len(summary.optimizers) > 1
    items = "".join(
        f"<li>{_badge(event.severity, f'{event.severity} {event.kind}')} step {event.step}"
        f"{_text(f', optimizer {event.optimizer}' if several else '')}: {_text(event.message)}</li>"
        for event in shown
    )
    more = _more(len(summary.events) - len(shown), "more event", ".events()")
    return f'<ul style="margin:4px 0;padding-left:18px">{items}</ul>{more}'


def _layers(summary: RunSummary) -> str:
    shown = [summary.layers[i] for i in summary.most_relevant[:MAX_LAYERS]]
    names = shorten_all([printable(layer.name) for layer in shown], NAME_WIDTH)
    head = "".join(f"<th>{title}</th>" for title in ("layer", "median", "p99", "max", "at step", "last", "not finite"))
    rows = "".join(_row(layer, name) for layer, name in zip(shown, names, strict=True))
    more = _more(len(summary.layers) - len(shown), "more layer", ".layers()")
    error = summary.quantile_error
    note = "" if error is None else f"<small>medians and p99 within {share(error)} of exact</small> "
    return f"<table style='font-size:12px'><tr>{head}</tr>{rows}</table>{note}{more}"


def _row(layer: LayerSummary, name: str) -> str:
    cells: Sequence[str] = (
        number(layer.median),
        number(layer.p99),
        number(layer.max),
        "-" if layer.max_step is None else str(layer.max_step),
        number(layer.last),
        str(layer.nonfinite_steps),
    )
    first = f'<td title="{_text(layer.name)}">{escape(name)}</td>'
    return f"<tr>{first}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _more(amount: int, thing: str, method: str) -> str:
    """How many are not shown, and the method that has them."""
    return f"<small>{count(amount, thing)}: <code>{method}</code></small>" if amount > 0 else ""
