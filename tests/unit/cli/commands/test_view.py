"""`gradwatch view`: the real command, asked over HTTP and ended by Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request

import pytest

from gradwatch.cli.commands.view import folders, has_browser
from gradwatch.errors import NotARun, RunNotFound
from gradwatch.store import FILE_NAME


@pytest.fixture
def view():
    """Start the command; return its process and the address that it printed."""
    started = []

    def start(*arguments, cwd=None, env=None):
        command = [sys.executable, "-m", "gradwatch", "view", *map(str, arguments)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | (env or {}),
        )  # fmt: skip
        started.append(process)
        watchdog = threading.Timer(120, process.kill)
        watchdog.daemon = True
        watchdog.start()
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def names(address):
    with urllib.request.urlopen(f"{address}runs", timeout=60) as answer:
        return [run["name"] for run in json.loads(answer.read())["runs"]]


def test_one_run_is_shown_until_ctrl_c(runs, view):
    process, address = view(runs / "bad", "--no-open")
    assert address.startswith("http://127.0.0.1:")
    assert names(address) == ["bad"]
    assert process.stdout.readline() == "Ctrl-C ends it.\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip(), err) == (0, "", "")


def test_without_a_run_all_below_runs_are_shown(runs, view):
    _, address = view("--no-open", cwd=runs.parent)
    assert sorted(names(address)) == ["bad", "good"]


def test_the_page_is_opened_in_the_browser(runs, view, tmp_path):
    """The browser is a program that notes the address it was given."""
    noted = tmp_path / "noted"
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" > {noted}.new; mv {noted}.new {noted}\n')
    program.chmod(0o755)
    process, address = view(runs / "good", env={"BROWSER": f"{program} %s"})
    assert names(address) == ["good"]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert noted.read_text().strip() == address


def test_what_is_shown(runs, tmp_path, monkeypatch):
    assert folders(runs) == {"": runs}
    assert folders(runs / "bad") == {"bad": runs / "bad"}
    assert folders(runs / "bad" / FILE_NAME) == {"bad": runs / "bad"}
    monkeypatch.chdir(runs.parent)
    assert {name: path.resolve() for name, path in folders(None).items()} == {"": runs}
    with pytest.raises(RunNotFound):
        folders(tmp_path)
    (tmp_path / FILE_NAME).write_text("no store")
    with pytest.raises(NotARun):
        folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunNotFound):
        folders(None)


def test_a_port_in_use_and_a_missing_run_are_errors_in_a_line(runs, view, command):
    _, address = view(runs / "good", "--no-open")
    port = address.split(":")[2].split("/")[0]
    for arguments, slug in (((runs / "bad", "--port", port), "cannot-serve"), ((runs / "none",), "run-not-found")):
        done = command("view", *arguments, "--no-open")
        assert done.code == 1
        assert done.err.startswith("error: ")
        assert done.err.rstrip().endswith(f"({slug})")
    assert command("view", runs, "--port", "99999").code == 2


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="there a browser always has a window")
def test_no_browser_is_opened_where_there_is_no_screen(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert not has_browser()
    monkeypatch.setenv("DISPLAY", ":0")
    assert has_browser()
