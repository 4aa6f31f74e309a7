"""The tab GradWatch of TensorBoard: its entry, which imports TensorBoard and the standard library only.

An ImportError here would end `tensorboard` for everybody, so all else is imported when a request needs it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from tensorboard.plugins import base_plugin

_log = logging.getLogger("gradwatch")

StartResponse: TypeAlias = Callable[[str, list[tuple[str, str]]], Any]
Environ: TypeAlias = Mapping[str, Any]

_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
_JSON, _BINARY = "application/json", "application/octet-stream"
_STATUS = {
    200: "200 OK",
    400: "400 Bad Request",
    404: "404 Not Found",
    405: "405 Method Not Allowed",
    422: "422 Unprocessable Content",
    500: "500 Internal Server Error",
}


class GradWatchLoader(base_plugin.TBLoader):  # type: ignore[misc]
    """What the entry point `tensorboard_plugins` names."""

    def load(self, context: Any) -> GradWatchPlugin:
        """The plugin for the folders that TensorBoard was started with."""
        return GradWatchPlugin(context)


class GradWatchPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """Shows the runs recorded under TensorBoard's folders; reads only, and answers only GET."""

    plugin_name = "gradwatch"

    def __init__(self, context: Any) -> None:
        flags = getattr(context, "flags", None)
        self._folders = folders(context.logdir, getattr(flags, "logdir_spec", "") or "")
        self._gallery: Any = None

    def is_active(self) -> bool:
        """Whether a run was found so far; looks for more beside this call."""
        try:
            return bool(self._runs().any_found())
        except ImportError:
            return True  # a library that it needs is missing or broken: the tab says which

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        return base_plugin.FrontendMetadata(es_module_path="/static/tab.js", tab_name="GradWatch")

    def get_plugin_apps(self) -> dict[str, Callable[[Environ, StartResponse], list[bytes]]]:
        """A WSGI application for each route below /data/plugin/gradwatch."""
        answers = {
            "/static/*": self._static,
            "/runs": self._listing,
            "/overview": lambda query: self._runs().overview(query),
            "/series": lambda query: self._runs().series(query),
            "/layers": lambda query: self._runs().layers(query),
            "/tile": lambda query: self._runs().tile(query),
            "/advice": lambda query: self._runs().advice(query),
        }
        return {route: _application(answer) for route, answer in answers.items()}

    def _runs(self) -> Any:
        if self._gallery is None:
            from gradwatch.views.web.gallery import Gallery

            self._gallery = Gallery(self._folders)
        return self._gallery

    def _listing(self, query: Mapping[str, str]) -> object:
        del query
        return self._runs().listing()

    def _static(self, query: Mapping[str, str]) -> object:
        from gradwatch.views.web.files import files

        name = query["PATH_INFO"].partition("/plugin/gradwatch/static/")[2]
        found = files().get(name)  # of a fixed set: a path of a request reaches no file system
        if found is None:
            raise LookupError(f"there is no file {name!r} in this page")
        return found, _TYPES[Path(name).suffix]


def folders(logdir: str, logdir_spec: str) -> dict[str, Path]:
    """The folders to look for runs in, each by the prefix that its runs' names have.

    >>> {name: str(path) for name, path in folders("runs", "").items()}
    {'': 'runs'}
    >>> {name: str(path) for name, path in folders("", "a:runs/1,runs/2").items()}
    {'a': 'runs/1', 'runs/2': 'runs/2'}

    What is no path of this machine is left out.
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


def _application(answer: Callable[[Mapping[str, str]], object]) -> Callable[[Environ, StartResponse], list[bytes]]:
    """What ``answer`` makes of a query, as a response: bytes are binary, a pair has its own type, all else is JSON."""

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        status, body, content_type = 200, b"", _JSON
        if environ["REQUEST_METHOD"] != "GET":
            status, body = 405, _message("method-not-allowed", "this page is read only; expected GET")
        else:
            status, body, content_type = _answered(answer, environ)
        headers = [
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        start_response(_STATUS[status], headers)
        return [body]

    return application


def _answered(answer: Callable[[Mapping[str, str]], object], environ: Environ) -> tuple[int, bytes, str]:
    query = {name: values[-1] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
    query["PATH_INFO"] = environ.get("PATH_INFO", "")
    try:
        found = answer(query)
    except LookupError as error:
        return 404, _message("not-found", str(error.args[0])), _JSON
    except ValueError as error:  # BadArgument is one
        return 400, _message(getattr(error, "slug", "bad-request"), str(error)), _JSON
    except Exception as error:
        # TensorBoard goes on whatever is wrong with a store; the page shows what it is
        slug = getattr(error, "slug", None)
        if slug is None:
            _log.exception("the GradWatch tab could not answer (tab-fault)")
        return 422 if slug else 500, _message(slug or "tab-fault", str(error) or type(error).__name__), _JSON
    if isinstance(found, bytes):
        return 200, found, _BINARY
    if isinstance(found, tuple):
        return 200, *found
    from gradwatch.views.json import dumps

    return 200, dumps(found).encode(), _JSON


def _message(slug: str, text: str) -> bytes:
    return json.dumps({"error": slug, "message": text}).encode()
