"""`gradwatch compare`."""

from __future__ import annotations

from pathlib import Path

from gradwatch.cli.output import open_run, print_json, print_view, screen
from gradwatch.views import json as json_view
from gradwatch.views.console.compare import comparison


def compare(paths: list[Path], json: bool) -> None:
    """Print runs side by side."""
    summaries = [open_run(path).summary() for path in paths]
    if json:
        print_json([json_view.report(summary) for summary in summaries])
    else:
        print_view(comparison(summaries, screen()))
