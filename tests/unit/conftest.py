"""The command line in this process, folders that are made once, and a server that takes messages."""

import http.server
import importlib.util
import json
import shutil
import sys
import threading
from dataclasses import dataclass

import pytest

from gradwatch.cli import main


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `gradwatch` with some arguments, 100 columns wide."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("gc.freeze", lambda: None)  # what `open_run` freezes would stay until the last test

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gradwatch", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Copy what a function writes into a folder; it writes once, and each test has a copy of its own."""
    made = {}

    def copy(write, to):
        if write not in made:
            folder = tmp_path_factory.mktemp("made_once")
            write(folder)
            made[write] = folder
        return shutil.copytree(made[write], to, dirs_exist_ok=True)

    return copy


@pytest.fixture
def server():
    """A server that keeps the bodies of what is posted, and its address for apprise."""
    pytest.importorskip("apprise")
    bodies = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if "refuse" in self.path else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield bodies, f"json://user:hunter2@127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def trackio_folder(tmp_path, monkeypatch):
    """Where trackio keeps its projects. It reads that once, so it is imported anew."""
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("trackio is not installed")
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    return tmp_path / "trackio"
