"""Messages: to a real server on loopback, one for each fault, not too many, and no secret in the log or the store."""

import logging
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.errors import BadArgument, UnsupportedVersion
from gradwatch.record import Event, StepRecord
from gradwatch.sinks import notify
from gradwatch.sinks.notify import MOST_MESSAGES, WITHIN, Notifications
from gradwatch.sinks.tracker import RunFacts

pytest.importorskip("apprise")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def event(kind="spike", severity="warning", step=3, optimizer="0"):
    return Event(step=step, kind=kind, severity=severity, message=f"about {kind}", optimizer=optimizer)


def opened(address, **options):
    tracker = Notifications([address], **options)
    tracker.open(RunFacts(path=Path("runs/the-run")))
    return tracker


def test_a_message_says_what_where_and_what_to_do_next(server):
    bodies, address = server
    tracker = opened(address, link="https://example.org/board")
    tracker.tell(Event(step=7, kind="nonfinite", severity="critical", message="1 NaN entry", parameter="out.weight"))
    (body,) = bodies
    assert body["title"] == "the-run: nonfinite at step 7 in out.weight"
    assert body["message"].splitlines() == [
        "1 NaN entry",
        "Next: gradwatch report runs/the-run",
        "https://example.org/board",
    ]
    assert body["type"] == "failure"


def test_a_fault_is_told_once_and_again_only_when_it_is_critical(server):
    bodies, address = server
    tracker = opened(address)
    for severity in ("info", "warning", "warning", "critical", "warning", "critical"):
        tracker.tell(event(severity=severity))
    tracker.tell(event(optimizer="1"))
    assert [body["type"] for body in bodies] == ["warning", "failure", "warning"]


def test_there_are_not_too_many_messages_and_the_next_says_how_many_were_left_out(server):
    bodies, address = server
    clock = Clock()
    tracker = opened(address, clock=clock)
    for number in range(MOST_MESSAGES + 3):
        tracker.tell(event(optimizer=str(number)))
    assert len(bodies) == MOST_MESSAGES
    clock.now = WITHIN + 1
    tracker.tell(event(optimizer="last"))
    assert "3 messages before this one were left out." in bodies[-1]["message"]


def test_a_training_that_stands_still_is_told_once_and_so_is_that_it_goes_on(server):
    bodies, address = server
    clock = Clock()
    tracker = opened(address, clock=clock, stalled_after=60.0)
    tracker.rest()  # before the first step nothing stands still
    for step in range(10):
        clock.now += 1.0
        tracker.show(StepRecord(step=step))
    for _ in range(100):
        clock.now += 1.0
        tracker.rest()
    assert [body["title"] for body in bodies] == ["the-run: stands still"]
    assert "the last was step 9" in bodies[0]["message"]
    tracker.show(StepRecord(step=10))
    assert bodies[1]["title"] == "the-run: goes on"


def test_slow_steps_are_no_standstill(server):
    bodies, address = server
    clock = Clock()
    tracker = opened(address, clock=clock, stalled_after=60.0)
    for step in range(60):
        clock.now += 50.0
        tracker.show(StepRecord(step=step))
        tracker.rest()
    clock.now += 300.0
    tracker.rest()
    assert bodies == []


def test_a_training_sends_its_fault_and_keeps_no_secret(server, tmp_path, caplog):
    bodies, address = server
    caplog.set_level(logging.DEBUG)
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run", notify=[address, f"{address}/refuse"]):
        for step in range(30):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            if step == 20:
                model.weight.grad[0, 0] = math.nan
            optimizer.step()
    assert {body["title"].split(" at ")[0] for body in bodies} == {"run: nonfinite"}
    assert len(bodies) == 2
    assert "not-notified" in caplog.text
    assert "hunter2" not in "".join(record.getMessage() for record in caplog.records if record.name == "gradwatch")
    assert b"hunter2" not in (tmp_path / "run" / "gradwatch.db").read_bytes()


def test_an_address_that_is_none_is_refused_without_repeating_it(tmp_path):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for address in ("hunter2", "nonsense://user:hunter2@host", ""):
        with pytest.raises(BadArgument) as error:
            gradwatch.attach(model, optimizer, tmp_path / "run", notify=address)
        assert "address 1 of notify" in str(error.value)
        assert "hunter2" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_training_ends_each_message_in_the_link_that_was_given(server, tmp_path):
    bodies, address = server
    link = "https://example.org/board?run=1"
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run", notify=address, notify_link=link):
        for step in range(30):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            if step == 20:
                model.weight.grad[0, 0] = math.nan
            optimizer.step()
    assert bodies
    assert {body["message"].splitlines()[-1] for body in bodies} == {link}


@pytest.mark.parametrize(
    "link", ["", "hunter2", "https://", "https:///x", "slack://hunter2", "https://a b", "https://a\n"]
)
def test_a_link_that_is_no_url_is_refused_without_repeating_it(tmp_path, link):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for addresses in ("json://127.0.0.1", ()):
        with pytest.raises(BadArgument, match="no URL") as error:
            gradwatch.attach(model, optimizer, tmp_path / "run", notify=addresses, notify_link=link)
        assert "hunter2" not in str(error.value)
    with pytest.raises(BadArgument, match="no URL"):
        Notifications(["json://127.0.0.1"], link=link)
    assert not (tmp_path / "run").exists()


def test_without_apprise_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(UnsupportedVersion, match=r"gradwatch\[notify\]"):
        notify.Notifications(["json://127.0.0.1"])
