"""The runs below TensorBoard's folders, found in the background and kept at hand while they are looked at."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gradwatch.analysis.run import Run
from gradwatch.analysis.summary.verdict import judge
from gradwatch.errors import BadArgument, GradwatchError
from gradwatch.store import FILE_NAME
from gradwatch.views.web.pack import pack
from gradwatch.views.web.view import RunView, written

KEPT_VIEWS = 8
KEPT_BYTES = 512 * 2**20  # of the layers of all views
MOST_COLUMNS = 4000
AT_LEAST = 2.0  # seconds from one look for runs to the next; longer where a look takes long


class Gallery:
    """Answers what the page asks. A run is named by its path below the folder; no path comes from a request."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = dict(folders)
        self._lock = threading.Lock()
        self._views: OrderedDict[tuple[Path, str | None], RunView] = OrderedDict()
        self._verdicts: dict[Path, tuple[object, dict[str, Any]]] = {}
        self._found: dict[str, Path] = {}
        self._looked = threading.Event()
        self._looking = threading.Lock()
        self._next_look = 0.0
        self._look()

    def any_found(self) -> bool:
        """At once, from the last look; waits a little for the first."""
        self._look()
        self._looked.wait(1.0)
        return bool(self._found)

    def _look(self) -> None:
        """Look for runs in a thread, if it is time to."""
        if time.monotonic() < self._next_look or not self._looking.acquire(blocking=False):
            return
        threading.Thread(target=self._walk, daemon=True, name="gradwatch-gallery").start()

    def _walk(self) -> None:
        began = time.monotonic()
        try:
            self._found = dict(sorted(stores(self._folders)))
        finally:
            self._next_look = time.monotonic() + max(AT_LEAST, 10 * (time.monotonic() - began))
            self._looked.set()
            self._looking.release()

    # ------------------------------------------------------------------------------------- answers

    def listing(self) -> dict[str, Any]:
        """Every run, the one written last first, and the folders that were looked through."""
        self._look()
        self._looked.wait(10.0)
        entries = [{"name": name, **self._at_a_glance(path)} for name, path in self._found.items()]
        entries.sort(key=lambda entry: -entry["written"])
        return {"runs": entries, "folders": [str(folder) for folder in self._folders.values()]}

    def overview(self, query: Mapping[str, str]) -> dict[str, Any]:
        """As of now; the other answers are as of the last overview."""
        return self._view(query, refresh=True).overview()

    def layers(self, query: Mapping[str, str]) -> dict[str, Any]:
        return self._view(query).layers()

    def advice(self, query: Mapping[str, str]) -> dict[str, Any]:
        return self._view(query).advice()

    def series(self, query: Mapping[str, str]) -> bytes:
        return pack({}, self._view(query).series(*_zoom(query)))

    def tile(self, query: Mapping[str, str]) -> bytes:
        return pack(*self._view(query).tile(query.get("stat", "norm"), *_zoom(query)))

    # --------------------------------------------------------------------------------------- views

    def _view(self, query: Mapping[str, str], refresh: bool = False) -> RunView:
        self._looked.wait(10.0)
        path = self._found.get(query.get("run", ""))
        if path is None:
            raise LookupError(f"there is no run {query.get('run', '')!r} in the folders that TensorBoard shows")
        key = path, query.get("optimizer")
        with self._lock:
            view = self._views.get(key)
        if view is None:
            view = RunView(*key)
        elif refresh:
            view.refresh()
        with self._lock:
            self._views[key] = view
            self._views.move_to_end(key)
            while len(self._views) > 1 and (
                len(self._views) > KEPT_VIEWS or sum(each.nbytes for each in self._views.values()) > KEPT_BYTES
            ):
                self._views.popitem(last=False)
        return view

    def _at_a_glance(self, path: Path) -> dict[str, Any]:
        """Its verdict and when it was written, kept as long as its file stays as it is."""
        try:
            stamp = written(path)
            if self._verdicts.get(path, (None, {}))[0] != stamp:
                glance = _glance(path) | {"written": max(nanoseconds for nanoseconds, _ in stamp) / 1e9}
                self._verdicts[path] = stamp, glance
        except (OSError, ValueError) as error:  # deleted meanwhile
            return {"verdict": None, "error": str(error), "written": 0.0}
        return self._verdicts[path][1]


def _glance(path: Path) -> dict[str, Any]:
    try:
        run = Run(path)
        attempts = run.attempts()
        verdict, _ = judge(run.events(), 0)
        running = bool(attempts) and attempts[-1].ended is None
        return {"verdict": verdict, "running": running, "optimizers": list(run.optimizers), "error": None}
    except GradwatchError as error:
        return {"verdict": None, "running": False, "optimizers": [], "error": str(error)}


def stores(folders: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    """The store of every run below the folders, by its name. A link that leads out of a folder is not followed."""
    for prefix, folder in folders.items():
        root = folder.resolve()
        for parent, _, files in os.walk(root):
            path = Path(parent, FILE_NAME)
            if FILE_NAME in files and path.resolve().is_relative_to(root):
                below = Path(parent).relative_to(root).as_posix()
                yield "/".join(part for part in (prefix, below) if part not in ("", ".")) or ".", path


def _zoom(query: Mapping[str, str]) -> tuple[float, float, int]:
    """From which step to which, in how many columns."""
    try:
        first, last, columns = float(query["from"]), float(query["to"]), int(query["columns"])
    except (KeyError, ValueError) as error:
        raise BadArgument(
            f"from, to and columns are {dict(query)!r}; expected two steps and a whole number."
        ) from error
    if not 1 <= columns <= MOST_COLUMNS:
        raise BadArgument(f"columns is {columns}; expected 1 to {MOST_COLUMNS}.")
    return first, last, columns
