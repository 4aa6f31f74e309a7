"""The runs below TensorBoard's folders: found in the background, kept open while they are looked at."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradwatch.analysis.places import find_stores
from gradwatch.errors import BadArgument
from gradwatch.views.web.glances import Glances
from gradwatch.views.web.pack import pack
from gradwatch.views.web.view import RunView

MAX_VIEWS = 8  # kept open
MAX_BYTES = 512 * 2**20  # of the layers of all views
MAX_COLUMNS = 4000  # that a query may ask for
MIN_INTERVAL = 2.0  # seconds between two scans of the folders
SCAN_SHARE = 0.1  # of the time that scanning may take, at most
_PATIENCE = 10.0  # seconds that an answer waits for the first scan


class Gallery:
    """Answers the page's queries. Threads may share it.

    A run's name is its path below a folder. A query names one of the runs found; it never gives a path.

    Args:
        folders: by the prefix of the names of their runs.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = dict(folders)
        self._lock = threading.Lock()
        self._views: OrderedDict[tuple[Path, str | None], RunView] = OrderedDict()
        self._glances = Glances()
        self._found: dict[str, Path] = {}
        self._scanned = threading.Event()
        self._scanning = threading.Lock()
        self._next_scan = 0.0
        self._scan_if_due()

    def any_found(self) -> bool:
        """Whether the last scan found a run. Waits up to a second for the first scan."""
        self._scan_if_due()
        self._scanned.wait(1.0)
        return bool(self._found)

    def _scan_if_due(self) -> None:
        """Scan the folders in a thread of its own, if the last scan is old enough."""
        if time.monotonic() < self._next_scan or not self._scanning.acquire(blocking=False):
            return
        threading.Thread(target=self._scan, daemon=True, name="gradwatch-gallery").start()

    def _scan(self) -> None:
        began = time.monotonic()
        try:
            self._found = {as_utf8(name): path for name, path in sorted(find_stores(self._folders))}
        finally:
            took = time.monotonic() - began
            self._next_scan = time.monotonic() + max(MIN_INTERVAL, took / SCAN_SHARE)
            self._scanned.set()
            self._scanning.release()

    # ------------------------------------------------------------------------------------- answers

    def listing(self) -> dict[str, Any]:
        """Every run, the one written last first, and the folders that were scanned (`Glances.of`)."""
        self._scan_if_due()
        self._scanned.wait(_PATIENCE)
        found = self._found
        glances = self._glances.of(found.values())
        entries = [{"name": name, **glances[path]} for name, path in found.items()]
        entries.sort(key=lambda entry: -entry["written"])
        return {"runs": entries, "folders": [str(folder) for folder in self._folders.values()]}

    def overview(self, query: Mapping[str, str]) -> dict[str, Any]:
        """The run as it is now. All other answers are as of the last overview."""
        return self._view(query, refresh=True).overview()

    def layers(self, query: Mapping[str, str]) -> dict[str, Any]:
        """`RunView.layers`."""
        return self._view(query).layers()

    def advice(self, query: Mapping[str, str]) -> dict[str, Any]:
        """`RunView.advice`."""
        return self._view(query).advice()

    def parting(self, query: Mapping[str, str]) -> dict[str, Any]:
        """`RunView.parting` from the run that ``other`` names."""
        other = {"run": query.get("other", "")}
        return self._view(query).parting(self._view(other), (query["run"], other["run"]))

    def series(self, query: Mapping[str, str]) -> bytes:
        """`RunView.series`, packed. The query has from, to and columns."""
        return pack({}, self._view(query).series(*_zoom(query)))

    def distribution(self, query: Mapping[str, str]) -> bytes:
        """`RunView.distribution`, packed, in at most ``columns`` spans. The query has from, to and columns."""
        return pack(*self._view(query).distribution(*_zoom(query)))

    def scatter(self, query: Mapping[str, str]) -> bytes:
        """`RunView.scatter`, packed, with at most ``columns`` points. The query has from, to and columns."""
        return pack(*self._view(query).scatter(*_zoom(query), 1))

    def tile(self, query: Mapping[str, str]) -> bytes:
        """`RunView.tile`, packed. The query has stat, from, to and columns."""
        return pack(*self._view(query).tile(query.get("stat", "norm"), *_zoom(query)))

    def rows(self, query: Mapping[str, str]) -> bytes:
        """`RunView.rows`, packed. The query has layers (positions of parameters), from, to and columns."""
        return pack(*self._view(query).rows(_positions(query), *_zoom(query)))

    def magnitudes(self, query: Mapping[str, str]) -> bytes:
        """`RunView.magnitudes` of one parameter, packed. The query has layers (its position), from, to and columns."""
        positions = _positions(query)
        if len(positions) != 1:
            raise BadArgument(f"layers is {positions}; expected one position.")
        return pack(*self._view(query).magnitudes(positions, *_zoom(query)))

    # --------------------------------------------------------------------------------------- views

    def _view(self, query: Mapping[str, str], refresh: bool = False) -> RunView:
        self._scanned.wait(_PATIENCE)
        path = self._found.get(query.get("run", ""))
        if path is None:
            raise LookupError(f"there is no run {query.get('run', '')!r} in the folders shown")
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
            while len(self._views) > 1 and self._is_over_limits():
                self._views.popitem(last=False)
        return view

    def _is_over_limits(self) -> bool:
        return len(self._views) > MAX_VIEWS or sum(view.nbytes for view in self._views.values()) > MAX_BYTES


def as_utf8(name: str) -> str:
    r"""A name that a query can hold: the name of a folder need not be UTF-8.

    >>> as_utf8("run"), as_utf8("r\udcffn")
    ('run', 'r\\udcffn')
    """
    return name.encode("utf-8", "backslashreplace").decode()


def _positions(query: Mapping[str, str]) -> list[int]:
    """Positions of parameters."""
    text = query.get("layers", "")
    try:
        return [int(part) for part in text.split(",") if part]
    except ValueError as error:
        raise BadArgument(f"layers is {text!r}; expected whole numbers with commas between.") from error


def _zoom(query: Mapping[str, str]) -> tuple[float, float, int]:
    """The first step, the last step and the number of columns."""
    try:
        first, last, columns = float(query["from"]), float(query["to"]), int(query["columns"])
    except (KeyError, ValueError) as error:
        raise BadArgument(
            f"from, to and columns are {dict(query)!r}; expected two steps and a whole number."
        ) from error
    if not 1 <= columns <= MAX_COLUMNS:
        raise BadArgument(f"columns is {columns}; expected 1 to {MAX_COLUMNS}.")
    return first, last, columns
