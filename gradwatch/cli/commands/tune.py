"""`gradwatch tune`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gradwatch.cli.output import print_json, print_view, screen
from gradwatch.cli.printing import print_lines
from gradwatch.script.launch import prepare
from gradwatch.script.tune import Tuning, cost_in_steps
from gradwatch.script.tune import tune as search
from gradwatch.text import count, number
from gradwatch.views import json as json_view
from gradwatch.views.console.tune import tuning


def tune(
    arguments: list[str],
    steps: int,
    budget: float,
    folder: Path | None,
    judge_by: str | None,
    module: bool,
    json: bool,
) -> None:
    """Run a script with several thresholds and print the one that did best."""
    program, _ = prepare(arguments, None, module)
    folder = folder or Path("runs") / f"tune-{arguments[0] if module else program.path.stem}"
    try:
        found = _search(arguments, module, folder, steps, budget, judge_by)
    except KeyboardInterrupt:
        print_lines(f"stopped; the same command continues with the runs in {folder}", err=True)
        raise
    if json:
        print_json(json_view.tuning(found))
    else:
        print_view(tuning(found, screen()))


def _search(
    arguments: list[str], module: bool, folder: Path, steps: int, budget: float, judge_by: str | None
) -> Tuning:
    """Search behind a progress bar on stderr."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    total = cost_in_steps(budget, steps)
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=total)
        previous = 0

        def begin(max_norm: float, length: int) -> None:
            nonlocal previous
            description = f"max_norm {number(max_norm)}, {count(length, 'step')}"
            progress.update(bar, advance=previous, description=description)
            previous = length

        found = search(arguments, module, folder, steps, budget, begin, judge_by)
        progress.update(bar, completed=total, description="done")
    return found
