"""Answers of the page's server: what went well, what is missing, and every fault as an answer."""

import io
import json
import logging
from wsgiref.validate import validator

import pytest

from gradwatch.errors import BadArgument, StoreDamaged
from gradwatch.views.web.answers import NOTHING_ALLOWED, application


def ask(respond, query="", method="GET", path="/series"):
    said = {}

    def start_response(status, headers, exc_info=None):
        said.update(status=status, headers=dict(headers))
        return lambda data: None

    environ = {"REQUEST_METHOD": method, "QUERY_STRING": query, "PATH_INFO": path}
    body = b"".join(application(respond)(environ, start_response))
    return said["status"], said["headers"], body


def test_a_response_is_sent_with_its_type_and_length():
    status, headers, body = ask(lambda query: ("é".encode(), "text/plain"))
    assert (status, body) == ("200 OK", "é".encode())
    assert (headers["Content-Type"], headers["Content-Length"]) == ("text/plain", "2")
    assert headers["Content-Security-Policy"] == NOTHING_ALLOWED
    assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {}),
        ("run=a", {"run": "a"}),
        ("run=a&run=b", {"run": "b"}),
        ("run=a%26b%3Dc", {"run": "a&b=c"}),
        ("run=", {}),
        ("&&=&", {}),
    ],
)
def test_the_query_has_the_last_of_each_name_and_the_path(query, expected):
    seen = []
    ask(lambda query: seen.append(dict(query)) or (b"", "text/plain"), query)
    assert seen == [expected | {"PATH_INFO": "/series"}]


def test_the_path_is_that_of_the_request_whatever_the_query_says():
    seen = []
    ask(lambda query: seen.append(query["PATH_INFO"]) or (b"", "text/plain"), "PATH_INFO=/etc/passwd")
    assert seen == ["/series"]


@pytest.mark.parametrize(
    ("fault", "status", "slug", "message"),
    [
        (KeyError("no run of this name"), "404 Not Found", "not-found", "no run of this name"),
        (BadArgument("limit is x"), "400 Bad Request", "bad-argument", "limit is x"),
        (ValueError("x is no number"), "400 Bad Request", "bad-request", "x is no number"),
        (StoreDamaged("cut off"), "422 Unprocessable Content", "store-damaged", "cut off"),
        (RuntimeError(), "500 Internal Server Error", "tab-fault", "RuntimeError"),
    ],
)
def test_every_exception_is_an_answer(fault, status, slug, message, caplog):
    def respond(query):
        raise fault

    with caplog.at_level(logging.ERROR, "gradwatch"):
        found = ask(respond)
    assert found[0] == status
    assert json.loads(found[2])["error"] == slug
    assert message in json.loads(found[2])["message"]
    assert ("tab-fault" in caplog.text) == (slug == "tab-fault"), "only what nobody expects is logged"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_the_page_is_read_only(method):
    called = []
    status, _, body = ask(called.append, method=method)
    assert (status, called) == ("405 Method Not Allowed", [])
    assert json.loads(body)["error"] == "method-not-allowed"


def test_it_keeps_to_wsgi():
    """Python's own validator looks on."""
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/x",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    environ["wsgi.input"], environ["wsgi.errors"] = io.BytesIO(), io.StringIO()
    answer = validator(application(lambda query: (b"body", "text/plain")))(environ, lambda *_: lambda data: None)
    assert list(answer) == [b"body"]
    answer.close()
