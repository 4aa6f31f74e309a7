"""`gradwatch mcp`: what is refused before anything is served, and that it ends with its input."""

import subprocess
import sys

import pytest

from gradwatch.cli.commands.mcp import mcp
from gradwatch.errors import RunNotFound, UnsupportedVersion


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    pytest.importorskip("mcp")
    with pytest.raises(RunNotFound, match="There is no folder"):
        mcp(tmp_path / "none")


def test_without_its_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    with pytest.raises(UnsupportedVersion, match=r"gradwatch\[mcp\]"):
        mcp(tmp_path)


def test_it_ends_with_its_input_and_prints_nothing_of_its_own(tmp_path):
    pytest.importorskip("mcp")
    done = subprocess.run(
        [sys.executable, "-m", "gradwatch", "mcp", str(tmp_path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_an_error_is_one_line(tmp_path):
    pytest.importorskip("mcp")
    done = subprocess.run(
        [sys.executable, "-m", "gradwatch", "mcp", str(tmp_path / "none")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "(run-not-found)" in done.stderr
    assert "Traceback" not in done.stderr
