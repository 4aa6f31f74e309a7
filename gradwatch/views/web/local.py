"""The page without TensorBoard: a server on the loopback interface, for those who know its address."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from gradwatch.errors import CannotServe
from gradwatch.views.web.answers import NOTHING_ALLOWED, Environ, StartResponse, application, error, send
from gradwatch.views.web.server import STATIC, Server

HOST = "127.0.0.1"
TOKEN_BYTES = 24
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page loads its own files and asks its own server; nothing else, from nowhere else."""

PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>GradWatch</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="static/vendor/uplot/uPlot.min.css">
<link rel="stylesheet" href="static/page.css">
</head>
<body>
<noscript>This page needs JavaScript. `gradwatch report` prints the same in a terminal.</noscript>
<div id="page"></div>
<script type="module" src="static/view.js"></script>
</body>
</html>
"""


class LocalPage:
    """The WSGI application: the page below ``/TOKEN/``, and a refusal everywhere else.

    The token keeps out other users of the machine and pages of other sites, which can reach the loopback
    interface but can't guess the address.
    """

    def __init__(self, folders: Mapping[str, Path], token: str) -> None:
        self._token = token
        self._server = Server(folders)

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        """Answer a request."""
        token, slash, path = environ.get("PATH_INFO", "").removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            text = "the address lacks the token; `gradwatch view` prints the whole address"
            return send(start_response, *error(403, "forbidden", text))
        if slash and not path and environ["REQUEST_METHOD"] == "GET":
            return send(start_response, 200, PAGE, "text/html; charset=utf-8", PAGE_POLICY)
        route = "/static/*" if path.startswith("static/") else f"/{path}"
        inner = dict(environ) | {"PATH_INFO": STATIC + path.removeprefix("static/")}
        return application(partial(self._server.respond, route))(inner, start_response)


class _Handler(WSGIRequestHandler):
    """Prints no line for each request, and gives refusals of malformed requests the headers of all answers."""

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that is no HTTP."""
        status = HTTPStatus(code)
        self.request_version = "HTTP/1.0"  # not known yet; the default, 0.9, has no headers
        self.send_response(status, status.phrase)
        self.send_header("Content-Length", "0")
        self.send_header("Content-Security-Policy", NOTHING_ALLOWED)
        self.send_header("Connection", "close")
        self.end_headers()


class _HttpServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without looking up the host's name, which may ask a name server."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = HOST, self.server_address[1]
        self.setup_environ()


def make_local_server(folders: Mapping[str, Path], port: int = 0) -> tuple[WSGIServer, str]:
    """A server that listens on the loopback interface, and the address of its page with a new token.

    Args:
        folders: to scan for runs, by the prefix of their runs' names.
        port: 0 takes a free one.

    Raises:
        CannotServe: the port is in use or not allowed.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    try:
        server = _HttpServer((HOST, port), _Handler)
    except (OSError, OverflowError) as fault:
        raise CannotServe(f"can't listen on {HOST}, port {port}: {fault}. Give another --port, or none.") from fault
    server.set_app(LocalPage(folders, token))
    return server, f"http://{HOST}:{server.server_port}/{token}/"
