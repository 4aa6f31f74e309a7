"""The GradWatch tab of TensorBoard.

This module and `answers` import only TensorBoard and the standard library, because an ImportError here would
end `tensorboard` for every user. Everything else is imported when a request needs it; if that fails,
the tab names the missing package.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboard.plugins import base_plugin

from gradwatch.views.web.answers import Application, Query, application

if TYPE_CHECKING:
    from gradwatch.views.web.server import Server

ROUTES = (
    "/static/*",
    "/runs",
    "/overview",
    "/series",
    "/distribution",
    "/scatter",
    "/layers",
    "/tile",
    "/rows",
    "/magnitudes",
    "/advice",
    "/parting",
)
"""Below /data/plugin/gradwatch."""


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
        return {route: application(partial(self._respond, route)) for route in ROUTES}

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
