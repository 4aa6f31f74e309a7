"""Opening runs, for every command."""

import os

import pytest

from gradwatch.cli.output import open_run
from gradwatch.errors import RunNotFound
from gradwatch.testing import steady, stream, write_run


def test_a_path_is_that_run_and_no_path_the_newest(tmp_path, monkeypatch):
    for name in ("a", "b"):
        write_run(tmp_path / "runs" / name, stream(steady(3)))
    os.utime(tmp_path / "runs" / "a" / "gradwatch.db", (1, 1))
    monkeypatch.chdir(tmp_path)
    assert open_run(None).name == "b"
    assert open_run(tmp_path / "runs" / "a").name == "a"


def test_a_run_that_is_not_there_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (None, tmp_path / "x"):
        with pytest.raises(RunNotFound):
            open_run(path)
