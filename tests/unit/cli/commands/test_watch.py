"""`gradwatch watch`, off a terminal, and its messages. In a terminal: tests/end_to_end/test_live.py."""

import os
import signal

import pytest

from gradwatch import Run
from gradwatch.cli.commands.watch import Alerts
from gradwatch.errors import BadArgument
from gradwatch.record import Event
from gradwatch.store import StoreWriter
from gradwatch.testing import steady, stream, write_run


def test_off_a_terminal_the_report_is_printed_once(runs, command):
    done = command("watch", runs / "good")
    assert done.code == 0
    assert done.out.count("HEALTHY") == 1


def test_updates_can_not_be_too_close(runs, command):
    assert command("watch", runs / "good", "--every", "0").code == 2


def titles_of(bodies):
    return [body["title"] for body in bodies]


class Training:
    """A run that this process writes, step by step."""

    def __init__(self, folder):
        self.folder = folder
        self.writer = StoreWriter(folder)
        self.writer.begin_attempt({}, {"0": ("SGD", {})})
        self.records = iter(stream(steady(400)))

    def step(self, count, *events):
        self.writer.append([next(self.records) for _ in range(count)], list(events))
        return Run(self.folder).summary()


@pytest.fixture
def training(tmp_path):
    training = Training(tmp_path / "run")
    yield training
    training.writer.abandon()


def event(step, kind="spike", severity="warning"):
    return Event(step=step, kind=kind, severity=severity, message="what was seen")


def test_new_faults_are_told_once_and_old_ones_not(server, training):
    bodies, address = server
    alerts = Alerts([address], 600.0)
    alerts.see(training.step(100, event(50)))
    alerts.see(training.step(10))
    assert titles_of(bodies) == []
    alerts.see(training.step(100, event(150, "explosion", "critical")))
    alerts.see(training.step(10))
    assert len(bodies) == 1
    assert titles_of(bodies)[0].startswith("run: ")
    assert "explosion" in titles_of(bodies)[0]


def test_a_message_ends_in_the_link_that_was_given(server, training):
    bodies, address = server
    alerts = Alerts([address], 600.0, "https://example.org/board")
    alerts.see(training.step(100))
    alerts.see(training.step(100, event(150, "explosion", "critical")))
    assert [body["message"].splitlines()[-1] for body in bodies] == ["https://example.org/board"]


def test_a_training_that_stands_still_is_told_once_and_that_it_goes_on(server, training, monkeypatch):
    bodies, address = server
    now = [0.0]
    monkeypatch.setattr("gradwatch.sinks.notify.time.monotonic", lambda: now[0])
    alerts = Alerts([address], 600.0)
    alerts._fresh = lambda: type(alerts._notifications)([address], stalled_after=600.0, clock=lambda: now[0])
    alerts.see(training.step(100))
    still = Run(training.folder).summary()
    for seconds in (300, 599, 601, 5000):
        now[0] = seconds
        alerts.see(still)
    assert titles_of(bodies) == ["run: stands still"]
    alerts.see(training.step(1))
    assert titles_of(bodies) == ["run: stands still", "run: goes on"]


def test_a_run_that_ended_well_does_not_stand_still(server, training):
    bodies, address = server
    alerts = Alerts([address], 1e-9)
    alerts._stalled_after = 1e-9
    training.step(100)
    training.writer.end_attempt("closed")
    summary = Run(training.folder).summary()
    alerts.see(summary)
    alerts.see(summary)
    assert titles_of(bodies) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_training_that_is_killed_is_told(server, tmp_path):
    bodies, address = server
    ready, started = os.pipe()
    child = os.fork()
    if not child:
        Training(tmp_path / "run").step(100)
        os.write(started, b"x")
        signal.pause()
    os.read(ready, 1)
    alerts = Alerts([address], 600.0)
    alerts.see(Run(tmp_path / "run").summary())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    alerts.see(Run(tmp_path / "run").summary())
    alerts.see(Run(tmp_path / "run").summary())
    assert titles_of(bodies) == ["run: killed"]


def test_without_a_terminal_it_follows_to_the_end(server, runs, command):
    _, address = server
    done = command("watch", runs / "good", "--notify", address, "--every", "0.1")
    assert done.code == 0
    assert "good: finished, healthy" in done.out
    assert "hunter2" not in done.out + done.err


def test_an_address_that_makes_no_sense_is_refused_without_being_shown(runs, command):
    pytest.importorskip("apprise")
    done = command("watch", runs / "good", "--notify", "nothing-like-it:hunter2")
    assert (done.code, done.out) == (1, "")
    assert "(bad-argument)" in done.err
    assert "hunter2" not in done.err
    with pytest.raises(BadArgument):
        Alerts(["nothing-like-it"], 600.0)


@pytest.mark.parametrize("addresses", [(), ("--notify", "json://127.0.0.1")])
def test_a_link_that_is_no_url_is_refused(runs, command, addresses):
    pytest.importorskip("apprise")
    done = command("watch", runs / "good", *addresses, "--notify-link", "example.org")
    assert (done.code, done.out) == (1, "")
    assert done.err.endswith("(bad-argument)\n")


def test_of_another_run_the_faults_of_that_run_are_told(server, training, tmp_path):
    bodies, address = server
    alerts = Alerts([address], 600.0)
    alerts.see(training.step(100))
    alerts.see(Run(write_run(tmp_path / "other", stream([*steady(200), float("nan")]))).summary())
    assert titles_of(bodies) == []
