"""The sink of a recording is opened whole, or nothing of it is left."""

import pytest

import gradwatch
from gradwatch import Run

from .nets import make


def test_an_attempt_that_begins_without_a_recorder_is_ended(tmp_path, monkeypatch):
    """A run whose attempt has no end looks to other processes as if this one wrote it."""
    model, optimizer = make()
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr("gradwatch.recording.opened_sink.Recorder", lambda *_, **__: 1 / 0)
        gradwatch.attach(model, optimizer, tmp_path / "run")
    assert not Run(tmp_path / "run").is_being_written()
