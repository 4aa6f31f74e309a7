"""What the server answers to the page, and what it refuses."""

import json

import pytest

from gradwatch.errors import BadArgument
from gradwatch.testing import steady, stream, write_run
from gradwatch.views.web.server import BINARY, JSON, Server, page_file

QUERY = {"run": "a", "other": "a", "from": "0", "to": "59", "columns": "50"}


@pytest.fixture
def server(tmp_path):
    write_run(tmp_path / "a", stream(steady(60)))
    return Server({"": tmp_path})


@pytest.mark.parametrize(
    ("route", "key"),
    [("runs", "runs"), ("overview", "verdict"), ("layers", "layers"), ("advice", "curve"), ("parting", "said")],
)
def test_data_without_arrays_is_json(server, route, key):
    body, content_type = server.respond(f"/{route}", QUERY)
    assert content_type == JSON
    assert key in json.loads(body)


def test_the_layers_asked_for_are_whole_numbers(server):
    with pytest.raises(BadArgument, match="expected whole numbers"):
        server.respond("/rows", QUERY | {"layers": "1,x"})
    with pytest.raises(BadArgument, match="expected one position"):
        server.respond("/magnitudes", QUERY | {"layers": "0,1"})


def test_entries_by_magnitude_are_packed(server):
    body, content_type = server.respond("/magnitudes", QUERY | {"layers": "0"})
    assert content_type == BINARY
    length = int.from_bytes(body[:4], "little")
    header = json.loads(body[4 : 4 + length])
    assert [name for name, *_ in header["arrays"]] == ["step", "counts", "loss_scale"]
    assert header["about"]["layers"] == [0]


@pytest.mark.parametrize("route", ["/series", "/distribution", "/scatter", "/tile"])
def test_arrays_are_packed(server, route):
    body, content_type = server.respond(route, QUERY)
    assert content_type == BINARY
    length = int.from_bytes(body[:4], "little")
    assert {name for name, *_ in json.loads(body[4 : 4 + length])["arrays"]} >= {"first", "last"}


def test_an_unknown_route_is_a_lookup_error(server):
    with pytest.raises(LookupError, match="there is no route '/secrets'"):
        server.respond("/secrets", QUERY)


def test_a_file_of_the_page_has_its_type(server):
    body, content_type = server.respond("/static/*", {"PATH_INFO": "/data/plugin/gradwatch/static/page.css"})
    assert content_type.startswith("text/css")
    assert body == page_file("page.css")[0]


@pytest.mark.parametrize("name", ["", "../cli.py", "/etc/passwd", "vendor", "no.js"])
def test_nothing_but_the_files_of_the_page_is_served(name):
    with pytest.raises(LookupError, match="there is no file"):
        page_file(name)
