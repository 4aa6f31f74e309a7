"""Feeds: whatever a tracker does, neither the recorder nor the store notice."""

import dataclasses
import logging
import math
import threading
import time

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run
from gradwatch.sinks.feed import Feed, Feeds
from gradwatch.sinks.tracker import RunFacts
from gradwatch.testing import steady, stream


class Listener:
    """Keeps what it is given; fails or sleeps where it is told to."""

    label = "listener"
    wants_layers = False

    def __init__(self, fails_in=None, waits_for=None):
        self.calls, self.records, self.events, self.closing = [], [], [], None
        self._fails_in, self._waits_for = fails_in, waits_for

    def _called(self, name):
        self.calls.append(name)
        if self._waits_for is not None and name == "show":
            self._waits_for.wait(20)
        if name == self._fails_in:
            raise RuntimeError("https://user:secret@example.org")

    def open(self, facts):
        self.facts = facts
        self._called("open")

    def show(self, record):
        self.records.append(record)
        self._called("show")

    def tell(self, event):
        self.events.append(event)
        self._called("tell")

    def rest(self):
        self._called("rest")

    def close(self, closing):
        self.closing = closing
        self._called("close")


def train(folder, steps=20, **options):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, folder, **options) as watch:
        for step in range(steps):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            if step == 15:
                model.weight.grad[0, 0] = math.nan
            optimizer.step()
    return watch


def test_a_tracker_gets_every_record_the_events_and_the_verdict(tmp_path):
    listener = Listener()
    train(tmp_path / "run", to=listener, config={"lr": 0.1})
    run = Run(tmp_path / "run")
    assert listener.facts == RunFacts(path=tmp_path / "run", config={"lr": 0.1}, several=False)
    steps = run.steps()
    assert [record.step for record in listener.records] == steps.index.tolist()
    for record in listener.records:
        stored = steps.loc[record.step, "total_norm"]
        assert record.total_norm == stored or (math.isnan(record.total_norm) and math.isnan(stored))
        assert record.layers is None
    assert {event.key for event in listener.events} == {event.key for event in run.events()}
    summary = run.summary()
    assert (listener.closing["verdict"], listener.closing["steps"]) == (summary.verdict, 20)
    assert listener.calls[0] == "open"
    assert listener.calls[-1] == "close"


@pytest.mark.parametrize("fails_in", ["open", "show", "tell", "rest", "close"])
def test_a_tracker_that_fails_is_dropped_with_one_line_and_no_secret(tmp_path, caplog, fails_in):
    caplog.set_level(logging.DEBUG, "gradwatch")
    listener, other = Listener(fails_in=fails_in), Listener()
    train(tmp_path, to=[listener, other])
    lines = [record.getMessage() for record in caplog.records if "sink-stopped" in record.getMessage()]
    assert lines == [
        "gradwatch stopped sending to listener: it failed with RuntimeError. The run itself is complete. (sink-stopped)"
    ]
    assert "secret" not in "".join(lines)
    assert len(Run(tmp_path).steps()) == len(other.records) == 20
    assert Run(tmp_path).attempts()[-1].reason == "closed"


def test_a_tracker_that_is_too_slow_is_dropped_and_nothing_waits(caplog):
    release = threading.Event()
    listener = Listener(waits_for=release)
    feed = Feed(listener, RunFacts(path=None), capacity=5)
    began = time.monotonic()
    for record in stream(steady(50)):
        feed.put([record], [])
    assert time.monotonic() - began < 10
    assert not feed.is_fed
    feed.close(dict, patience=0.1)
    release.set()
    assert caplog.text.count("sink-stopped") == 1
    assert "too slow" in caplog.text


def test_one_that_does_not_end_is_left_behind(caplog):
    release = threading.Event()
    feeds = Feeds([Listener(waits_for=release)], RunFacts(path=None))
    feeds.put(stream([1.0]), [])
    feeds.close(dict, hurry=True)
    release.set()
    assert "did not end within" in caplog.text


def test_the_verdict_is_asked_for_once_and_only_if_there_is_a_tracker():
    asked = []
    Feeds().close(lambda: asked.append(1) or {})
    assert asked == []
    pair = [Listener(), Listener()]
    Feeds(pair, RunFacts(path=None)).close(lambda: asked.append(1) or {"verdict": "healthy"})
    assert asked == [1]
    assert [one.closing for one in pair] == [{"verdict": "healthy"}] * 2


def test_last_is_a_small_record_and_nothing_before_the_first(tmp_path):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, tmp_path) as watch:
        assert watch.last is None
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        watch.log(loss=0.5)
        watch.flush()
        last = watch.last
        assert (last.step, last.loss, last.layers, last.weights) == (0, 0.5, None, None)
        assert last.total_norm == pytest.approx(float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm()))
        with pytest.raises(dataclasses.FrozenInstanceError):
            last.loss = 1.0
