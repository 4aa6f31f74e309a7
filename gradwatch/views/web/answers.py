"""The page's requests over WSGI: one application for TensorBoard's tab and for `gradwatch view`.

It imports only the standard library, because TensorBoard's plugin imports it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias
from urllib.parse import parse_qs

_log = logging.getLogger("gradwatch")

StartResponse: TypeAlias = Callable[[str, list[tuple[str, str]]], Any]
Environ: TypeAlias = Mapping[str, Any]
Application: TypeAlias = Callable[[Environ, StartResponse], list[bytes]]
Query: TypeAlias = Mapping[str, str]
Respond: TypeAlias = Callable[[Query], tuple[bytes, str]]
"""Makes the body and the content type of a response to a query."""

NOTHING_ALLOWED = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"
"""The content security policy of an answer that is no page: opened as one, it may load and run nothing."""

_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    422: "Unprocessable Content",
    500: "Internal Server Error",
}


def application(respond: Respond) -> Application:
    """A WSGI application that answers GET requests. The query has PATH_INFO, the path of the request, too."""

    def answer(environ: Environ, start_response: StartResponse) -> list[bytes]:
        if environ["REQUEST_METHOD"] == "GET":
            status, body, content_type = _answer(respond, environ)
        else:
            status, body, content_type = error(405, "method-not-allowed", "this page is read only; expected GET")
        return send(start_response, status, body, content_type)

    return answer


def send(
    start_response: StartResponse, status: int, body: bytes, content_type: str, policy: str = NOTHING_ALLOWED
) -> list[bytes]:
    """Send an answer with the headers that every answer has."""
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", policy),
        ("Referrer-Policy", "no-referrer"),
    ]
    start_response(f"{status} {_REASONS[status]}", headers)
    return [body]


def error(status: int, slug: str, text: str) -> tuple[int, bytes, str]:
    """Status, body and content type of an answer that says what went wrong."""
    return status, json.dumps({"error": slug, "message": text}).encode(), "application/json"


def _answer(respond: Respond, environ: Environ) -> tuple[int, bytes, str]:
    """Status, body and content type. Every exception becomes an answer, so that the server goes on."""
    query = {name: values[-1] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
    query["PATH_INFO"] = environ.get("PATH_INFO", "")
    try:
        return 200, *respond(query)
    except LookupError as missing:
        return error(404, "not-found", str(missing.args[0]))
    except Exception as fault:
        slug = getattr(fault, "slug", None)
        text = str(fault) or type(fault).__name__
        if isinstance(fault, ValueError):  # a BadArgument too
            return error(400, slug or "bad-request", text)
        if slug is not None:
            return error(422, slug, text)
        _log.exception("a request of the GradWatch page failed (tab-fault)")
        return error(500, "tab-fault", text)
