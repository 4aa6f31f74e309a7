"""Answers the page's requests with bytes: the files of the page, and data about the runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from gradwatch.views.json import dumps
from gradwatch.views.web.files import files
from gradwatch.views.web.gallery import Gallery

Query: TypeAlias = Mapping[str, str]

BINARY, JSON = "application/octet-stream", "application/json"
TEXT_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
STATIC = "/plugin/gradwatch/static/"
"""Before the name of a file of the page, in TensorBoard's routes."""


class Server:
    """Responds for one page.

    Args:
        folders: to scan for runs, by the prefix of their runs' names.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.gallery = Gallery(folders)

    def respond(self, route: str, query: Query) -> tuple[bytes, str]:
        """The body and the content type of a response.

        Args:
            route: as "/overview".
            query: its parameters; for "/static/*" also PATH_INFO, the path of the request.

        Raises:
            LookupError: there is no such route, run or file.
            BadArgument: a parameter is missing or wrong.
            GradwatchError: the run can't be read.
        """
        if route == "/static/*":
            return page_file(query["PATH_INFO"].partition(STATIC)[2])
        packed: dict[str, Callable[[Query], bytes]] = {
            "/series": self.gallery.series,
            "/distribution": self.gallery.distribution,
            "/scatter": self.gallery.scatter,
            "/tile": self.gallery.tile,
            "/rows": self.gallery.rows,
            "/magnitudes": self.gallery.magnitudes,
        }
        if route in packed:
            return packed[route](query), BINARY
        described: dict[str, Callable[[Query], dict[str, Any]]] = {
            "/runs": lambda _: self.gallery.listing(),
            "/overview": self.gallery.overview,
            "/layers": self.gallery.layers,
            "/advice": self.gallery.advice,
            "/parting": self.gallery.parting,
        }
        if route not in described:
            raise LookupError(f"there is no route {route!r}")
        return dumps(described[route](query)).encode(), JSON


def page_file(name: str) -> tuple[bytes, str]:
    """A file of the page and its content type. The set of files is fixed: a request reaches no file system.

    Raises:
        LookupError: the page has no such file.
    """
    found = files().get(name)
    if found is None:
        raise LookupError(f"there is no file {name!r} in this page")
    return found, TEXT_TYPES[Path(name).suffix]
