"""Places to send records to, as the user writes them."""

from pathlib import Path

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.errors import BadArgument, UnsupportedVersion
from gradwatch.sinks import targets
from gradwatch.sinks.callback import RecordCallback
from gradwatch.sinks.notify import Notifications
from gradwatch.sinks.openmetrics import OpenMetricsFile
from gradwatch.sinks.targets import KINDS, own_trackers, parse_target, trackers


@pytest.mark.parametrize("text", ["", "tensorflow", "wand", "openmetrics", "openmetrics:", ":x"])
def test_a_target_that_makes_no_sense_is_refused(text, tmp_path):
    with pytest.raises(BadArgument, match="to is"):
        parse_target(text)
    with pytest.raises(BadArgument, match="to is"):
        model = nn.Linear(1, 1)
        gradwatch.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path / "run", to=text)
    assert not (tmp_path / "run").exists()


def test_an_object_that_is_no_tracker_is_refused():
    with pytest.raises(BadArgument, match="a function"):
        trackers([lambda record: None])


@pytest.mark.parametrize("kind", ["wandb", "mlflow", "trackio"])
def test_a_package_that_is_missing_is_said_before_the_training(kind, monkeypatch):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedVersion, match=rf"pip install gradwatch\[{kind}\]"):
        parse_target(kind)


def test_one_target_may_stand_alone():
    tracker = OpenMetricsFile(Path("x.prom"))
    assert trackers(tracker) == trackers([tracker]) == [tracker]
    assert [one.label for one in trackers("tensorboard:logs")] == ["tensorboard"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_makes_a_tracker_of_its_name(kind):
    if kind in ("wandb", "mlflow", "trackio"):
        pytest.importorskip(kind)
    assert parse_target(f"{kind}:a:b").label == kind


def test_trackers_of_ones_own_are_a_function_and_addresses():
    assert own_trackers(None, ()) == own_trackers(None, []) == []
    (callback,) = own_trackers(print, ())
    assert isinstance(callback, RecordCallback)
    pytest.importorskip("apprise")
    callback, notifications = own_trackers(print, "json://localhost")
    assert callback.label == "on_record"
    assert isinstance(notifications, Notifications)
