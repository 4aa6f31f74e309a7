"""`gradwatch report`."""

from __future__ import annotations

from pathlib import Path

import typer

from gradwatch.analysis.run import Run
from gradwatch.analysis.summary import RunSummary
from gradwatch.analysis.summary.verdict import order_of_optimizers
from gradwatch.cli.output import open_run, print_json, print_view, screen
from gradwatch.errors import BadArgument, CannotExport
from gradwatch.views import html as html_view
from gradwatch.views import json as json_view
from gradwatch.views.console import report as console_view
from gradwatch.views.web.view import RunView

MOST_OPTIMIZERS = 4  # in one page; each adds the size of a page


def report(path: Path | None, json: bool, html: Path | None, layers: int, optimizer: str | None) -> None:
    """Print the summary of a run, or write it as a page."""
    if json and html is not None:
        raise BadArgument("--json and --html were both given; expected one of them.")
    run = open_run(path)
    if html is not None:
        size = write_html(run, html, optimizer)
        typer.echo(f"wrote {html}, {size / 1e6:.1f} MB")
        return
    summary = run.summary(optimizer)
    if json:
        print_json(json_view.report(summary))
    else:
        print_view(console_view.report(summary, screen(), layers))


def write_html(run: Run, file: Path, optimizer: str | None) -> int:
    """Write the page of a run, with one optimizer or with all, and return its size in bytes.

    Raises:
        CannotExport: the file can't be written.
    """
    first = RunView(run.path, optimizer)
    others = _next_worst(run, first.summary)[: MOST_OPTIMIZERS - 1] if optimizer is None else []
    page = html_view.render(first, *(RunView(run.path, name) for name in others))
    encoded = page.encode("utf-8", "backslashreplace")  # the name of a folder need not be UTF-8
    try:
        file.write_bytes(encoded)
    except OSError as error:
        raise CannotExport(f"{str(file)!r} can't be written: {error}.") from error
    return len(encoded)


def _next_worst(run: Run, shown: RunSummary) -> list[str]:
    """The other optimizers that made a step, the one with the gravest finding first."""
    stepped = [name for name in run.optimizers if len(run.standing(name))]
    return [name for name in order_of_optimizers(shown.findings, stepped) if name != shown.optimizer]
