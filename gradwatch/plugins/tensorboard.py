"""The GradWatch tab of TensorBoard.

This module imports only TensorBoard and the standard library, for an ImportError here would end
`tensorboard` for every user. Everything else is imported when a request needs it; if that fails,
the tab says what is missing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs

from tensorboard.plugins import base_plugin

if TYPE_CHECKING:
    from gradwatch.views.web.server import Server

_log = logging.getLogger("gradwatch")

StartResponse: TypeAlias = Callable[[str, list[tuple[str, str]]], Any]
Environ: TypeAlias = Mapping[str, Any]
Application: TypeAlias = Callable[[Environ, StartResponse], list[bytes]]
Query: TypeAlias = Mapping[str, str]
Respond: TypeAlias = Callable[[Query], tuple[bytes, str]]
"""Makes the body and the content type of a response to a query."""

ROUTES = ("/static/*", "/runs", "/overview", "/series", "/layers", "/tile", "/advice")
"""Below /data/plugin/gradwatch."""

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    422: "Unprocessable Content",
    500: "Internal Server Error",
}


class GradWatchLoader(base_plugin.TBLoader):  # type: ignore[misc]
    """Makes the plugin. The entry point `tensorboard_plugins` names this class."""

    def load(self, context: Any) -> GradWatchPlugin:
        """The plugin for the folders that TensorBoard was started with."""
        return GradWatchPlugin(context)


class GradWatchPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """Shows the runs below TensorBoard's folders. It only reads, and answers only GET."""

    plugin_name = "gradwatch"

    def __init__(self, context: Any) -> None:
        flags = getattr(context, "flags", None)
        self._folders = folders(context.logdir, getattr(flags, "logdir_spec", "") or "")
        self._started: Server | None = None

    def is_active(self) -> bool:
        """Whether the last scan of the folders found a run. Starts another scan if it is due."""
        try:
            return self._server().gallery.any_found()
        except ImportError:
            return True  # a library is missing or broken: the tab says which

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Where TensorBoard finds the script of the tab."""
        return base_plugin.FrontendMetadata(es_module_path="/static/tab.js", tab_name="GradWatch")

    def get_plugin_apps(self) -> dict[str, Application]:
        """A WSGI application for each route."""
        return {route: _application(partial(self._respond, route)) for route in ROUTES}

    def _respond(self, route: str, query: Query) -> tuple[bytes, str]:
        return self._server().respond(route, query)

    def _server(self) -> Server:
        if self._started is None:
            from gradwatch.views.web.server import Server

            self._started = Server(self._folders)
        return self._started


def folders(logdir: str, logdir_spec: str) -> dict[str, Path]:
    """The folders to scan for runs, by the prefix of their runs' names. Paths on other machines are left out.

    >>> {name: str(path) for name, path in folders("runs", "").items()}
    {'': 'runs'}
    >>> {name: str(path) for name, path in folders("", "a:runs/1,runs/2,gs://bucket/3").items()}
    {'a': 'runs/1', 'runs/2': 'runs/2'}
    """
    if logdir:
        return {} if "://" in logdir else {"": Path(logdir).expanduser()}
    found = {}
    for part in filter(None, logdir_spec.split(",")):
        name, colon, path = part.partition(":")
        if "://" in part:
            continue
        if not colon or name.startswith("/"):
            name = path = part
        found[name] = Path(path).expanduser()
    return found


def _application(respond: Respond) -> Application:
    """A WSGI application that answers GET requests."""

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        if environ["REQUEST_METHOD"] == "GET":
            status, body, content_type = _answer(respond, environ)
        else:
            status, body, content_type = _error(405, "method-not-allowed", "this page is read only; expected GET")
        headers = [
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Security-Policy", "default-src 'none'"),
        ]
        start_response(f"{status} {_REASONS[status]}", headers)
        return [body]

    return application


def _answer(respond: Respond, environ: Environ) -> tuple[int, bytes, str]:
    """Status, body and content type. Every exception becomes an answer, so that TensorBoard goes on."""
    query = {name: values[-1] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
    query["PATH_INFO"] = environ.get("PATH_INFO", "")
    try:
        return 200, *respond(query)
    except LookupError as error:
        return _error(404, "not-found", str(error.args[0]))
    except Exception as error:
        slug = getattr(error, "slug", None)
        text = str(error) or type(error).__name__
        if isinstance(error, ValueError):  # a BadArgument too
            return _error(400, slug or "bad-request", text)
        if slug is not None:
            return _error(422, slug, text)
        _log.exception("the GradWatch tab could not answer (tab-fault)")
        return _error(500, "tab-fault", text)


def _error(status: int, slug: str, text: str) -> tuple[int, bytes, str]:
    return status, json.dumps({"error": slug, "message": text}).encode(), "application/json"
