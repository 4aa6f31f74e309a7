"""`gradwatch view`."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path

import typer

from gradwatch.analysis.history import newest
from gradwatch.analysis.places import find_stores
from gradwatch.analysis.run import Run
from gradwatch.errors import RunNotFound
from gradwatch.store import FILE_NAME
from gradwatch.views.web.local import make_local_server


def view(path: Path | None, port: int, open_browser: bool) -> None:
    """Serve the page until Ctrl-C."""
    server, address = make_local_server(folders(path), port)
    typer.echo(f"{address}\nCtrl-C ends it.")
    if open_browser and has_browser():
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        typer.echo("")
    finally:
        server.server_close()


def folders(path: Path | None) -> dict[str, Path]:
    """What to show: one run, the runs below a folder, or those below ``runs/``, by the prefix of their names.

    Raises:
        RunNotFound, NotARun, StoreTooNew, StoreDamaged: there is no readable run.
    """
    if path is None:
        newest()  # raises if there is none
        return {"": Path("runs")}
    if path.is_file() or (path / FILE_NAME).exists():
        run = Run(path)
        folder = path if path.is_dir() else path.parent
        return {run.name: folder}
    if not any(find_stores({"": path})):
        raise RunNotFound(f"There is no run at {str(path)!r} and none below it.")
    return {"": path}


def has_browser() -> bool:
    """Whether a browser with a window can be opened. One in the terminal would take its place."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
