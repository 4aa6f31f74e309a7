"""`gradwatch report`."""

from __future__ import annotations

from pathlib import Path

from gradwatch.analysis.places import find_stores, runs_below
from gradwatch.analysis.run import Run
from gradwatch.analysis.summary import RunSummary
from gradwatch.cli.output import open_run, print_json, print_view, screen
from gradwatch.cli.printing import print_lines
from gradwatch.errors import BadArgument, CannotExport
from gradwatch.text import file_size
from gradwatch.views import json as json_view
from gradwatch.views import picture
from gradwatch.views.console import report as console_view


def report(
    path: Path | None,
    json: bool,
    html: Path | None,
    layers: int,
    optimizer: str | None,
    svg: Path | None = None,
    png: Path | None = None,
) -> None:
    """Print the summary of a run, or write it as a page or a picture."""
    wanted = {"--json": json, "--html": html, "--svg": svg, "--png": png}
    given = [name for name, value in wanted.items() if value]
    if len(given) > 1:
        raise BadArgument(f"{' and '.join(given)} were both given; expected one of them.")
    if html is not None and path is not None and len(runs_below(path)) > 1:
        if optimizer is not None:
            raise BadArgument("--optimizer was given for a page of several runs; expected one run.")
        _write_page_of_runs(path, html)
        return
    run = open_run(path)
    if html is not None:
        size = write_html(run, html, optimizer)
        print_lines(f"wrote {html}, {size / 1e6:.1f} MB")
        return
    summary = run.summary(optimizer)
    if svg is not None or png is not None:
        write_picture(summary, layers, svg, png)
    elif json:
        print_json(json_view.report(summary))
    else:
        print_view(console_view.report(summary, screen(), layers))


def write_picture(summary: RunSummary, layers: int, svg: Path | None, png: Path | None) -> None:
    """Write what a terminal would show as a picture.

    Raises:
        CannotExport: the file can't be written, or no font is installed.
        UnsupportedVersion: the package that makes PNG is not installed.
    """
    drawn = picture.svg(console_view.report(summary, picture.SCREEN, layers))
    if svg is not None:
        _write(svg, drawn.encode("utf-8", "backslashreplace"))
    if png is not None:
        _write(png, picture.png(drawn))


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise CannotExport(f"{str(file)!r} can't be written: {error}.") from error
    print_lines(f"wrote {file}, {file_size(len(content))}")


def write_html(run: Run, file: Path, optimizer: str | None) -> int:
    """Write the page of a run, with one optimizer or with all, and return its size in bytes.

    Raises:
        CannotExport: the file can't be written.
    """
    from gradwatch.views import html as html_view  # which nothing else needs

    return _write_page(html_view.render_run(run, optimizer), file)


def _write_page_of_runs(folder: Path, file: Path) -> None:
    """Write the page of all runs below a folder."""
    from gradwatch.cli.commands.ls import rows_below  # which a report of one run does not need
    from gradwatch.views import html as html_view

    rows = rows_below(folder)
    stores = dict(find_stores({"": folder}))
    size = _write_page(html_view.render_runs(folder.resolve().name, rows, stores), file)
    print_lines(f"wrote {file}, {size / 1e6:.1f} MB: {html_view.told(rows)}")


def _write_page(page: str, file: Path) -> int:
    encoded = page.encode("utf-8", "backslashreplace")  # the name of a folder need not be UTF-8
    try:
        file.write_bytes(encoded)
    except OSError as error:
        raise CannotExport(f"{str(file)!r} can't be written: {error}.") from error
    return len(encoded)
