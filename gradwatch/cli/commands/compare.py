"""`gradwatch compare`."""

from __future__ import annotations

from pathlib import Path

from gradwatch.analysis.differences import differences
from gradwatch.cli.output import open_run, print_json, print_view, screen
from gradwatch.views import json as json_view
from gradwatch.views.console.compare import comparison


def compare(paths: list[Path], json: bool) -> None:
    """Print runs side by side, and where each of them parts from the first."""
    runs = [open_run(path) for path in paths]
    summaries = [run.summary() for run in runs]
    partings = [differences(runs[0], other) for other in runs[1:]]
    if json:
        print_json(json_view.comparison(summaries, partings))
    else:
        print_view(comparison(summaries, screen(), partings))
