"""A summary as HTML without script, for a notebook: untrusted notebooks and code hosts strip scripts."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from html import escape

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.statistics.quantiles import any_in, spike_safe
from gradwatch.analysis.summary import LayerSummary, RunSummary
from gradwatch.views.draw import Array, count, number, printable, share

WIDTH, HEIGHT, COLUMNS = 640, 72, 480
MOST_ROWS, MOST_EVENTS, MOST_LAYERS = 64, 6, 6

_VERDICTS = {"healthy": "#1a7f37", "warning": "#9a5b00", "critical": "#b3261e"}
_BAD = (214, 0, 108)
_AROUND = ((8, 48, 107), (107, 174, 214), (236, 236, 236), (253, 141, 60), (127, 39, 4))  # 1/100, level, x 100
_SHADES = 33


def render(summary: RunSummary) -> str:
    """The verdict, the norm and the loss over steps, layers x steps, events and the most telling layers."""
    parts = [_head(summary), _chart("total norm", summary.series.total_norm, summary.series.nonfinite, summary)]
    if summary.loss is not None:
        parts.append(_chart("loss", summary.series.loss, summary.series.loss_nonfinite, summary))
    if summary.layers:
        parts.append(_heat(summary))
    if summary.events:
        parts.append(_events(summary))
    if summary.layers:
        parts.append(_layers(summary))
    return (
        f'<div style="font-family:system-ui,sans-serif;font-size:13px;max-width:{WIDTH + 20}px">{"".join(parts)}</div>'
    )


def _text(value: object) -> str:
    return escape(printable(str(value)))


def _head(summary: RunSummary) -> str:
    clipping = summary.clipping
    clipped = "not clipped" if clipping.kind is None else f"clipped_fraction {share(clipping.clipped_fraction)}"
    facts = [
        summary.run,
        summary.model,
        f"{summary.optimizer_class} lr {number(summary.learning_rate)}",
        f"steps {summary.first_step} to {summary.last_step}",
        f"total norm: median {number(summary.total_norm.median)}, max {number(summary.total_norm.max)}",
        clipped,
    ]
    return (
        f'<p style="margin:4px 0"><b style="color:{_VERDICTS[summary.verdict]}">{summary.verdict.upper()}</b>'
        f" {_text(summary.reason)}<br/><small>{_text(' · '.join(fact for fact in facts if fact))}</small><br/>"
        f"<small><b>next:</b> {_text(summary.next)}</small></p>"
    )


def _chart(title: str, values: Array, bad: NDArray[np.bool_], summary: RunSummary) -> str:
    """The largest value of each column on a logarithmic axis, and marks where one is not finite."""
    tops = spike_safe(values, COLUMNS)
    marks = any_in(bad, COLUMNS)
    positive = tops[tops > 0]
    if not len(positive):
        return ""
    low, high = float(positive.min()), float(positive.max())
    span = max(math.log(high) - math.log(low), 1e-9)
    wide = WIDTH / len(tops)
    points: list[str] = []
    lines: list[list[str]] = []
    for i, top in enumerate(tops.tolist()):
        if not top > 0:
            lines.append(points)
            points = []
            continue
        y = 4 + (HEIGHT - 8) * (1 - (math.log(top) - math.log(low)) / span)
        points.append(f"{(i + 0.5) * wide:.1f},{y:.1f}")
    drawn = "".join(
        f'<polyline points="{" ".join(line)}" fill="none" stroke="#0072b2" stroke-width="1.2"/>'
        for line in [*lines, points]
        if line
    )
    crosses = "".join(
        f'<rect x="{i * wide:.1f}" y="0" width="{max(wide, 2):.1f}" height="{HEIGHT}" fill="rgb{_BAD}" opacity=".6"/>'
        for i in np.flatnonzero(marks)
    )
    ends = f"{number(low)} to {number(high)}"
    label = f"{title}, logarithmic, {ends}, steps {summary.first_step} to {summary.last_step}"
    return (
        f'<div><small>{title} <span style="opacity:.7">{ends}</span></small><br/>'
        f'<svg role="img" aria-label="{label}" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"{crosses}{drawn}</svg></div>"
    )


def _heat(summary: RunSummary) -> str:
    """Each layer's largest norm in a column beside its own median, from a hundredth to a hundredfold."""
    rows = min(MOST_ROWS, len(summary.layers))
    codes = np.zeros((rows, min(COLUMNS, summary.steps)), np.uint8)
    for index, layer in enumerate(summary.layers):
        row = codes[index * rows // len(summary.layers)]
        np.maximum(row, _codes(summary, index, layer.median), out=row)
    data = base64.b64encode(png(codes, _palette())).decode()
    return (
        f"<div><small>layers by steps: the largest norm beside the layer's own median, from 1/100 (blue) to 100 times"
        f' (dark orange); pink: not finite</small><br/><img alt="layers by steps of {_text(summary.run)}"'
        f' src="data:image/png;base64,{data}" style="width:{WIDTH}px;height:{max(48, min(6 * rows, 240))}px;'
        'image-rendering:pixelated"/></div>'
    )


def _codes(summary: RunSummary, index: int, level: float | None) -> NDArray[np.uint8]:
    """0: nothing known; then the shades; the last: not finite."""
    norms = summary.series.layer_norm[:, index].astype(float)
    tops = spike_safe(norms, COLUMNS)
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.log(tops / level) / math.log(100.0) if level else np.full(len(tops), np.nan)
    shade = 1 + np.rint((np.clip(np.nan_to_num(place, neginf=-1.0), -1, 1) + 1) / 2 * (_SHADES - 1))
    codes = np.where(np.isnan(tops), 0, shade).astype(np.uint8)
    codes[any_in(summary.series.layer_nonfinite[:, index], COLUMNS)] = _SHADES + 1
    return codes


def _palette() -> list[tuple[int, int, int]]:
    shades = []
    for i in range(_SHADES):
        at = i / (_SHADES - 1) * (len(_AROUND) - 1)
        low = min(int(at), len(_AROUND) - 2)
        pairs = zip(_AROUND[low], _AROUND[low + 1], strict=True)
        shades.append(tuple(round(a + (b - a) * (at - low)) for a, b in pairs))
    return [(255, 255, 255), *((r, g, b) for r, g, b in shades), _BAD]


def png(codes: NDArray[np.uint8], palette: list[tuple[int, int, int]]) -> bytes:
    r"""A picture of ``codes``, (height, width), in the colours that they number; the first colour is transparent.

    The format is that of ISO/IEC 15948, with a palette and no filters.

    >>> png(np.zeros((1, 1), np.uint8), [(0, 0, 0)])[:8]
    b'\x89PNG\r\n\x1a\n'
    """
    height, width = codes.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), codes], axis=1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", bytes(value for colour in palette for value in colour)),
        (b"tRNS", b"\0"),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _events(summary: RunSummary) -> str:
    items = "".join(
        f'<li><b style="color:{_VERDICTS.get(event.severity, "inherit")}">{event.severity} {_text(event.kind)}</b>'
        f" step {event.step}: {_text(event.message)}</li>"
        for event in summary.events[:MOST_EVENTS]
    )
    more = len(summary.events) - MOST_EVENTS
    left = f"<small>{count(more, 'more event')}: <code>.events()</code></small>" if more > 0 else ""
    return f'<ul style="margin:4px 0;padding-left:18px">{items}</ul>{left}'


def _layers(summary: RunSummary) -> str:
    shown = [summary.layers[i] for i in summary.telling[:MOST_LAYERS]]
    head = "".join(f"<th>{title}</th>" for title in ("layer", "median", "p99", "max", "at step", "last", "not finite"))
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in _cells(layer))}</tr>" for layer in shown)
    more = len(summary.layers) - len(shown)
    left = f"<small>{count(more, 'more layer')}: <code>.layers()</code></small>" if more > 0 else ""
    return f"<table style='font-size:12px'><tr>{head}</tr>{rows}</table>{left}"


def _cells(layer: LayerSummary) -> list[str]:
    at = "-" if layer.max_step is None else str(layer.max_step)
    norms = [number(layer.median), number(layer.p99), number(layer.max), at, number(layer.last)]
    return [_text(layer.name), *norms, str(layer.nonfinite_steps)]
