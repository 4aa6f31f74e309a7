"""`gradwatch compare`."""

from __future__ import annotations

from pathlib import Path

from gradwatch.cli.output import chosen_optimizer, open_run, print_json, print_view, screen
from gradwatch.views import json as json_view
from gradwatch.views.console.compare import comparison


def compare(paths: list[Path], json: bool) -> None:
    """Print runs side by side."""
    runs = [open_run(path) for path in paths]
    summaries = [run.summary(chosen_optimizer(run, None)) for run in runs]
    if json:
        print_json([json_view.report(summary) for summary in summaries])
    else:
        print_view(comparison(summaries, screen()))
