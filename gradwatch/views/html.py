"""A run, or many, as one file for the browser: the TensorBoard tab's page with its data inside. It loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradwatch.analysis.listing import NUMBERS, RunRow
from gradwatch.analysis.run import Run
from gradwatch.analysis.summary import RunSummary
from gradwatch.analysis.summary.verdict import order_of_optimizers
from gradwatch.errors import GradwatchError
from gradwatch.text import count
from gradwatch.version import __version__
from gradwatch.views.json import dumps
from gradwatch.views.web.files import files, joined
from gradwatch.views.web.gallery import as_utf8
from gradwatch.views.web.pack import byte_planes, embed, pack, to_bfloat16
from gradwatch.views.web.view import RunView

MOST_OPTIMIZERS = 4  # in one page; each adds the size of a page
STEP_COLUMNS = 1500  # a long run has this many columns, at most twice as many
LAYER_VALUES = 300_000  # of each statistic, at most twice as many
MIN_LAYER_COLUMNS = 100
NORM_SPANS = 64  # of steps, each with the distribution of its norms
MAGNITUDE_LAYERS = 32  # whose histograms of entries a file holds: the most relevant ones
MAGNITUDE_SAMPLES = 100  # of each
POINTS = 2000  # steps sampled for the scatter plot, at most

MOST_WHOLE = 20  # runs that a page of many holds whole, the worst ones
MAX_WHOLE_BYTES = 16 * 2**20  # of their data together, if there is more than one
GRAVITY = ("critical", "warning", "healthy", None)  # the worst first; None: not known

STYLES = ("vendor/uplot/uPlot.min.css", "page.css")


def render(*views: RunView) -> str:
    """The whole file, from the views of one run: one for each optimizer that the file holds.

    A long run is reduced to columns that keep the smallest and the largest of their steps.
    """
    summary = views[0].summary
    return _page(f"{summary.run}: {summary.verdict}", _data(views))


def render_run(run: Run, optimizer: str | None) -> str:
    """The whole file of one run: with one optimizer, or with the worst ones."""
    first = RunView(run.path, optimizer)
    others = _next_worst(run, first.summary)[: MOST_OPTIMIZERS - 1] if optimizer is None else []
    return render(first, *(RunView(run.path, name) for name in others))


def _next_worst(run: Run, shown: RunSummary) -> list[str]:
    """The other optimizers that made a step, the one with the gravest finding first."""
    stepped = [name for name in run.optimizers if len(run.standing(name))]
    return [name for name in order_of_optimizers(shown.findings, stepped) if name != shown.optimizer]


def render_runs(title: str, rows: Sequence[RunRow], stores: Mapping[str, Path]) -> str:
    """The whole file of many runs: a table of all, and the page of each of the worst.

    Args:
        title: names the runs.
        rows: of all runs.
        stores: of the runs, by the name in their row.
    """
    ordered = worst_first(rows)
    whole: dict[str, Any] = {}
    size = 0
    for row in [row for row in ordered if row.verdict is not None][:MOST_WHOLE]:
        try:
            part = _optimizer(RunView(stores[row.name]))
        except (GradwatchError, OSError):  # it was deleted meanwhile
            continue
        size += len(dumps(part, indent=None))
        if whole and size > MAX_WHOLE_BYTES:
            break
        whole[as_utf8(row.name)] = {part["overview"]["optimizer"]: part}
    note = (
        f"In this file: {count(len(rows), 'run')} in the table, and {len(whole)} of them with steps and layers: the"
        f" worst, one of each fault first. Made by gradwatch {__version__}."
    )
    listed = [_listed(row) for row in ordered]
    return _page(f"{title}: {told(rows)}", {"list": {"runs": listed, "folders": [], "note": note}, "runs": whole})


def told(rows: Sequence[RunRow]) -> str:
    """How many of the runs are not healthy.

    >>> told([RunRow(name="a", verdict="healthy"), RunRow(name="b", error="damaged")])
    '1 of 2 runs not healthy'
    """
    faulty = sum(row.verdict in ("critical", "warning") or row.error is not None for row in rows)
    return f"{faulty} of {count(len(rows), 'run')} not healthy"


def worst_first(rows: Sequence[RunRow]) -> list[RunRow]:
    """Critical runs first, then warnings; among them one run of each fault, then the second of each.

    >>> faults = {"a": "diverged", "b": "diverged", "c": "killed"}
    >>> rows = [RunRow(name=name, verdict="critical", fault=code) for name, code in faults.items()]
    >>> rows = [RunRow(name="d", verdict="healthy"), *rows]
    >>> [row.name for row in worst_first(rows)]
    ['a', 'c', 'b', 'd']
    """
    seen: Counter[str | None] = Counter()
    keyed = []
    for at, row in enumerate(rows):
        keyed.append((GRAVITY.index(row.verdict), seen[row.fault], at, row))
        seen[row.fault] += 1
    return [row for *_, row in sorted(keyed, key=lambda key: key[:3])]


def _listed(row: RunRow) -> dict[str, Any]:
    """A run as the page lists it (`Gallery.listing`)."""
    fields = row.as_dict()
    return {
        "name": as_utf8(row.name),
        "verdict": row.verdict,
        "running": row.state == "live",
        "error": row.error,
        "numbers": None if row.verdict is None else {name: fields[name] for name in NUMBERS},
        "settings": {"optimizer": row.optimizer, **row.config},
    }


def _page(title: str, content: Mapping[str, Any]) -> str:
    script = joined()
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{allowed}'; style-src 'unsafe-inline'"
    styles = "\n".join(files()[name].decode() for name in STYLES)
    data = dumps(content, indent=None).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
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
    return {"list": {"runs": [run], "folders": [], "note": note}, "runs": {summary.run: parts}}


def _optimizer(view: RunView) -> dict[str, Any]:
    """What the page shows of one optimizer; ``columns`` and ``joined`` tell how much the steps were reduced."""
    summary = view.summary
    view.read_all_layers()
    layers = view.layers()
    first, last = summary.first_step, summary.last_step
    series = view.series(first, last, STEP_COLUMNS)
    columns = max(MIN_LAYER_COLUMNS, LAYER_VALUES // max(1, len(layers["layers"])))
    tiles, joined_steps = {}, 1
    for stat in layers["stats"]:
        tiles[stat], joined = _tile(view, stat, first, last, columns)
        joined_steps = max(joined_steps, joined)
    for stat in layers["sentinels"]:
        tiles[stat], _ = _tile(view, stat, first, last, STEP_COLUMNS)
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


def _tile(view: RunView, stat: str, first: float, last: float, columns: int) -> tuple[str, int]:
    """A tile for a file, and how many steps a column joins."""
    about, arrays = view.tile(stat, first, last, columns)
    values = byte_planes(to_bfloat16(np.ascontiguousarray(np.asarray(arrays["values"], np.float32).T)))
    return embed(pack(about, dict(arrays) | {"values": values})), about["joined"]


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
    return f"In this file: {which}{of_steps}; of the layers, {of_layers}, rounded to 0.4%. {made}"
