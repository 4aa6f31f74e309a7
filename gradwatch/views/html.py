"""A run as one file for the browser: the page of the TensorBoard tab with its data inside. It loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradwatch import __version__
from gradwatch.text import count
from gradwatch.views.json import dumps
from gradwatch.views.web.files import files, joined
from gradwatch.views.web.pack import byte_planes, embed, pack, to_bfloat16
from gradwatch.views.web.view import RunView

STEP_COLUMNS = 1500  # a long run has this many columns, at most twice as many
LAYER_VALUES = 300_000  # of each statistic, at most twice as many
MIN_LAYER_COLUMNS = 100
NORM_SPANS = 64  # of steps, each with the distribution of its norms
MAGNITUDE_LAYERS = 32  # whose histograms of entries a file holds: the most relevant ones
MAGNITUDE_SAMPLES = 100  # of each
POINTS = 2000  # steps sampled for the scatter plot, at most

STYLES = ("vendor/uplot/uPlot.min.css", "page.css")


def render(*views: RunView) -> str:
    """The whole file, from the views of one run: one for each optimizer that the file holds.

    A long run is reduced to columns that keep the smallest and the largest of their steps.
    """
    view = views[0]
    script = joined()
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{allowed}'; style-src 'unsafe-inline'"
    styles = "\n".join(files()[name].decode() for name in STYLES)
    data = dumps(_data(views), indent=None).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(view.summary.run)}: {view.summary.verdict}</title>
<style>
{styles}
</style>
</head>
<body>
<noscript>This report needs JavaScript. `gradwatch report` prints the same in a terminal.</noscript>
<div id="page"></div>
<script type="application/json" id="data">{data}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def _data(views: Sequence[RunView]) -> dict[str, Any]:
    """The answers that the page would ask a server for."""
    summary = views[0].summary
    run = {"name": summary.run, "verdict": summary.verdict, "running": summary.running, "error": None}
    parts = {view.summary.optimizer: _optimizer(view) for view in views}
    missing = [name for name in summary.optimizers if name not in parts]
    note = _note(views[0], parts[summary.optimizer], missing)
    return {"list": {"runs": [run], "folders": [], "note": note}, "optimizers": parts}


def _optimizer(view: RunView) -> dict[str, Any]:
    """What the page shows of one optimizer; ``columns`` and ``joined`` tell how much the steps were reduced."""
    summary = view.summary
    layers = view.layers()
    first, last = summary.first_step, summary.last_step
    series = view.series(first, last, STEP_COLUMNS)
    columns = max(MIN_LAYER_COLUMNS, LAYER_VALUES // max(1, len(layers["layers"])))
    tiles, joined_steps = {}, 1
    for stat in layers["stats"]:
        about, arrays = view.tile(stat, first, last, columns)
        values = byte_planes(to_bfloat16(np.ascontiguousarray(np.asarray(arrays["values"], np.float32).T)))
        tiles[stat] = embed(pack(about, dict(arrays) | {"values": values}))
        joined_steps = max(joined_steps, about["joined"])
    return {
        "overview": view.overview(),
        "layers": layers,
        "advice": view.advice(),
        "series": embed(pack({}, series)),
        "distribution": embed(pack(*view.distribution(first, last, NORM_SPANS))),
        "scatter": embed(pack(*view.scatter(first, last, POINTS, NORM_SPANS))),
        "magnitudes": _magnitudes(view, layers, first, last),
        "tiles": tiles,
        "columns": len(series["first"]),
        "joined": joined_steps,
    }


def _magnitudes(view: RunView, layers: Mapping[str, Any], first: float, last: float) -> str | None:
    """The histograms of the most relevant layers; None where no entries were counted."""
    if not layers["magnitudes"]:
        return None
    return embed(pack(*view.magnitudes(layers["telling"][:MAGNITUDE_LAYERS], first, last, MAGNITUDE_SAMPLES)))


def _note(view: RunView, part: Mapping[str, Any], missing: Sequence[str]) -> str:
    """How much of the run the file holds.

    The page shows this sentence below the verdict.
    """
    summary = view.summary
    columns, joined_steps = part["columns"], part["joined"]
    of_steps, of_layers = "every step", "every step"
    if columns != summary.steps:
        of_steps = f"{count(summary.steps, 'step')} as {columns} columns with the smallest and largest value of each"
    if joined_steps != 1:
        of_layers = f"one column for {joined_steps} steps with the largest value of each"
    which = f"optimizer {summary.optimizer} (not {', '.join(missing)}); " if missing else ""
    made = f"Made by gradwatch {__version__}."
    return f"In this file: {which}{of_steps}; of the layers, {of_layers}, to 0.4 %. {made}"
