"""What a tracker is told of a run at its end."""

import logging

import pytest

import gradwatch  # noqa: F401 - registers the function that sums up
from gradwatch.analysis.run import Run
from gradwatch.sinks import closing as module
from gradwatch.sinks.closing import close_with, closing_of
from gradwatch.testing import steady, stream, write_run


@pytest.fixture
def judges(monkeypatch):
    """No function is registered."""
    monkeypatch.setattr(module, "_judges", [])


def test_a_run_that_can_not_be_summed_up_has_an_empty_closing(tmp_path):
    assert closing_of(tmp_path) == {}
    assert closing_of(write_run(tmp_path, []))["steps"] == 0


def test_the_closing_of_a_run_is_its_summary(tmp_path):
    path = write_run(tmp_path / "run", stream(steady(200), max_norm=1.5))
    found, summary = closing_of(path), Run(path).summary()
    assert (found["verdict"], found["reason"], found["steps"]) == (summary.verdict, summary.reason, 200)
    assert found["norm_max"] == summary.total_norm.max


@pytest.mark.usefixtures("judges")
def test_without_a_function_nothing_is_known(tmp_path):
    assert closing_of(tmp_path) == {}


@pytest.mark.usefixtures("judges")
def test_the_last_function_registered_is_used(tmp_path):
    close_with(lambda run: {"verdict": "first"})
    close_with(lambda run: {"verdict": run.name})
    assert closing_of(tmp_path / "the-run") == {"verdict": "the-run"}


@pytest.mark.usefixtures("judges")
def test_a_function_that_fails_is_logged_and_nothing_is_known(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "gradwatch")

    def fails(run):
        raise RuntimeError("planted")

    close_with(fails)
    assert closing_of(tmp_path) == {}
    assert "planted" in caplog.text
