"""`gradwatch recommend`."""

from __future__ import annotations

from pathlib import Path

from gradwatch.analysis.recommend import parse_changes, recommend_after, recommend_for_all
from gradwatch.cli.output import open_run, print_json, print_view, screen
from gradwatch.errors import BadArgument
from gradwatch.views import json as json_view
from gradwatch.views.console import recommend as console_view


def recommend(paths: list[Path], json: bool, optimizer: str | None, given: list[str]) -> None:
    """Print the recommendation for one run, or one for several runs of a training."""
    changes = parse_changes(given)
    if changes:
        if len(paths) > 1:
            raise BadArgument(f"--if was given with {len(paths)} runs; expected one run.")
        advice, after = recommend_after(open_run(paths[0] if paths else None), changes, optimizer)
        if json:
            print_json(json_view.recommendation(advice, after))
        else:
            print_view(console_view.recommendation(advice, screen(), after))
        return
    if len(paths) > 1:
        found = recommend_for_all([open_run(path) for path in paths], optimizer)
        if json:
            print_json(json_view.agreement(found))
        else:
            print_view(console_view.agreement(found, screen()))
        return
    run = open_run(paths[0] if paths else None)
    advice = run.recommend(optimizer)
    if json:
        print_json(json_view.recommendation(advice))
    else:
        print_view(console_view.recommendation(advice, screen()))
