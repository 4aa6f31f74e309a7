"""A run as one file for a browser: the page of the TensorBoard tab with its data inside, which loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html
from typing import Any

import numpy as np

from gradwatch import __version__
from gradwatch.views.json import dumps
from gradwatch.views.web.files import files, joined
from gradwatch.views.web.pack import embedded, halved, in_planes, pack
from gradwatch.views.web.view import RunView

STEP_COLUMNS = 1500  # at least so many for a long run, at most twice as many
LAYER_VALUES = 300_000  # of a statistic, at most twice as many
FEWEST_COLUMNS = 100

STYLES = ("vendor/uplot/uPlot.min.css", "page.css")


def render(view: RunView) -> str:
    """The whole file. A long run is joined to columns that keep the least and the largest of their steps."""
    script = joined()
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{allowed}'; style-src 'unsafe-inline'"
    styles = "\n".join(files()[name].decode() for name in STYLES)
    data = dumps(_data(view), indent=None).replace("<", "\\u003c")
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
<noscript>This report draws itself with a script. gradwatch report prints the same in a terminal.</noscript>
<div id="page"></div>
<script type="application/json" id="data">{data}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def _data(view: RunView) -> dict[str, Any]:
    summary = view.summary
    layers = view.layers()
    first, last = summary.first_step, summary.last_step
    series = view.series(first, last, STEP_COLUMNS)
    columns = max(FEWEST_COLUMNS, LAYER_VALUES // max(1, len(layers["layers"])))
    tiles, joins = {}, 1
    for stat in layers["stats"]:
        about, arrays = view.tile(stat, first, last, columns)
        values = in_planes(halved(np.ascontiguousarray(np.asarray(arrays["values"], np.float32).T)))
        tiles[stat] = embedded(pack(about, dict(arrays) | {"values": values}))
        joins = max(joins, about["joined"])
    return {
        "list": {
            "runs": [{"name": summary.run, "verdict": summary.verdict, "running": summary.running, "error": None}],
            "folders": [],
            "note": _note(summary.steps, len(series["first"]), joins),
        },
        "overview": view.overview(),
        "layers": layers,
        "advice": view.advice(),
        "series": embedded(pack({}, series)),
        "tiles": tiles,
    }


def _note(steps: int, columns: int, joins: int) -> str:
    """What the file holds of the run."""
    made = f"Made by gradwatch {__version__}."
    of_layers = "every step" if joins == 1 else f"{joins} steps in one, the largest of them kept"
    of_steps = (
        "every step" if columns == steps else f"{steps} steps as {columns}, the least and the largest of each kept"
    )
    return f"In this file: {of_steps}; of the layers, {of_layers}, to 0.4 %. {made}"
