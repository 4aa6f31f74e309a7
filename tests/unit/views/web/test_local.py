"""The page without TensorBoard: over a real socket, for the one who has the address."""

import http.client
import json
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request

import pytest

from gradwatch.errors import CannotServe
from gradwatch.testing import replaced, steady, stream, write_run
from gradwatch.views.web.local import PAGE, make_local_server


@pytest.fixture
def address(tmp_path):
    write_run(tmp_path / "runs" / "a", stream(replaced(steady(200), {150: 90.0})))
    write_run(tmp_path / "secret", stream(steady(30)))
    server, address = make_local_server({"": tmp_path / "runs"})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield address
    server.shutdown()
    server.server_close()


def ask(address, path="", method="GET"):
    """Status, headers and body; the path is sent as it is."""
    parts = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    connection.request(method, parts.path + path if not path.startswith("/") else path)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def test_the_page_and_its_files_and_data_are_served(address):
    status, headers, body = ask(address)
    assert (status, body) == (200, PAGE)
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert ask(address, "static/view.js")[1]["Content-Type"].startswith("text/javascript")
    assert ask(address, "static/vendor/uplot/uPlot.min.css")[0] == 200
    assert [run["name"] for run in json.loads(ask(address, "runs")[2])["runs"]] == ["a"]
    assert json.loads(ask(address, "overview?run=a")[2])["steps"] == 200
    assert ask(address, "tile?run=a&stat=norm&from=0&to=99&columns=50")[0] == 200


@pytest.mark.parametrize("path", ["/", "/static/view.js", "/runs", "/x/runs", "//runs", "/%00/", "/\u00e9/"])
def test_without_the_token_nothing_is_told(address, path):
    status, headers, body = ask(address, urllib.parse.quote(path, safe="/%"))
    assert status == 403
    assert json.loads(body)["error"] == "forbidden"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_each_server_has_a_token_of_its_own(address, tmp_path):
    server, other = make_local_server({"": tmp_path})
    server.server_close()
    tokens = [urllib.parse.urlsplit(one).path for one in (address, other)]
    assert tokens[0] != tokens[1]
    assert all(len(token) >= 30 for token in tokens)


@pytest.mark.parametrize(
    "path",
    [
        "", "static/view.js", "static/../server.py", "static/%2e%2e/%2e%2e/etc/passwd", "runs", "overview?run=a",
        "overview?run=../secret", "overview?run=/etc/passwd", "series?run=a", "nothing", "runs/more",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_every_answer_has_a_content_security_policy(address, path, method):
    status, headers, _ = ask(address, path, method)
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer", "the token is in the address"
    assert headers["X-Content-Type-Options"] == "nosniff"
    good = path in ("", "static/view.js", "runs", "overview?run=a")
    if method != "GET":
        assert status == 405
    else:
        assert (status == 200) == good
        assert status in (200, 400, 404)


def test_without_the_slash_at_its_end_the_address_is_no_page(address):
    """The page's relative addresses would lead elsewhere."""
    parts = urllib.parse.urlsplit(address)
    assert ask(address, parts.path.rstrip("/"))[0] == 404


def test_what_is_no_http_is_refused_with_the_same_policy(address):
    parts = urllib.parse.urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), 10) as connection:
        connection.sendall(b"GET / HTTP/9.9\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.0 505")
    assert b"Content-Security-Policy: default-src 'none'" in answer
    assert ask(address)[0] == 200, "the server goes on"


def test_only_this_machine_is_listened_to(address):
    assert urllib.parse.urlsplit(address).hostname == "127.0.0.1"


def test_a_port_in_use_is_an_error_with_a_slug(address, tmp_path):
    port = urllib.parse.urlsplit(address).port
    with pytest.raises(CannotServe, match=rf"port {port}: .*--port.*\(cannot-serve\)"):
        make_local_server({"": tmp_path}, port)


def test_requests_are_answered_beside_one_another(address):
    """A slow reader holds up nobody else."""
    parts = urllib.parse.urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), 10) as silent:
        silent.sendall(b"GET ")
        with urllib.request.urlopen(f"{address}runs", timeout=60) as answer:
            assert answer.status == 200
