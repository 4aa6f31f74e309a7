"""What ends a recording from outside: signals at any moment, forks, the interpreter's exit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run
from gradwatch.clip import NormClip
from gradwatch.errors import RunInUse
from gradwatch.recording import lifecycle

from ...prepared import forked

PREPARED = """
    import os, signal, sys, threading, time
    import torch
    import gradwatch
    from gradwatch.recording import lifecycle, sink
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(4, 3)).square().mean().backward()
            optimizer.step()
    def attach(**options):
        return gradwatch.attach(model, optimizer, sys.argv[1], **options)
    def terminate_in(owner, name, at):
        "Send SIGTERM from within a method of ours, at a given call in the main thread."
        original, calls = getattr(owner, name), 0
        def method(*args, **kwargs):
            nonlocal calls
            if threading.current_thread() is threading.main_thread():
                calls += 1
                if calls == at:
                    os.kill(os.getpid(), signal.SIGTERM)
            return original(*args, **kwargs)
        setattr(owner, name, method)
"""


def run_script(tmp_path: Path, code: str, *, bare: bool = True) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(PREPARED) + textwrap.dedent(code))
    command = [str(script), str(tmp_path / "run")]
    if not bare:
        return forked().run(command, tmp_path)
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, check=False)


# --------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize(
    ("code", "least"),
    [
        pytest.param("terminate_in(sink.Bell, 'ring', 6); watch = attach(stop_on=['explosion']); train(50)", 5,
            id="as it wakes the thread that writes"),
        pytest.param("other = torch.optim.SGD(model.parameters(), 0.1); watch = attach(); watch.add('b', model, other);"
            " watch.close(); watch = attach(); train(5);"
            " terminate_in(gradwatch.store.StoreReader, 'parameters_alone', 1); watch.add('b', model, other);"
            " time.sleep(9)", 5, id="while it reads the store"),
        pytest.param("watch = attach(); train(5); lifecycle.enter();  # and an interrupt came before it could leave\n"
            "os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", 5, id="after an interrupt within gradwatch"),
        pytest.param("watch = attach(); train(5); terminate_in(gradwatch.store.StoreWriter, '_put_parameters', 1);"
            " watch.add('b', model, torch.optim.SGD(model.parameters(), 0.1)); time.sleep(9)", 5,
            id="while it holds the lock of the store"),
        pytest.param("watch = attach(); train(5); terminate_in(sink.QueueThread, 'flush', 1); watch.flush();"
            " time.sleep(9)", 5, id="while it waits for the disk"),
        pytest.param("watch = attach(); train(5); terminate_in(lifecycle, 'closed', 1); watch.close(); time.sleep(9)",
            5, id="while it closes"),
        pytest.param("watch = attach(); train(5); os.kill(os.getpid(), 15); time.sleep(9)", 5, id="outside of it"),
        pytest.param("watch = attach(); train(5); threading.Timer(0.2, os.kill, (os.getpid(), 15)).start();"
            " time.sleep(9)", 5, id="in a sleep"),
    ],
)  # fmt: skip
def test_sigterm_at_any_moment_ends_the_process_with_its_steps_written(tmp_path, code, least):
    done = run_script(tmp_path, code, bare=False)
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert "(recording-unfinished)" not in done.stderr, "it waited for its own thread in vain"
    assert len(Run(tmp_path / "run").steps()) >= least
    assert Run(tmp_path / "run").attempts()[-1].ended is not None


def test_a_second_interrupt_while_it_closes_loses_no_step(tmp_path):
    """Ctrl-C twice: the first ends the training, the second comes while the thread writes what is left."""
    code = """
        from gradwatch.store import StoreWriter
        append = StoreWriter.append
        def slow(*args, **kwargs):
            time.sleep(1.0)
            return append(*args, **kwargs)
        StoreWriter.append = slow
        sink.HALT_WITHIN = 60.0  # a machine may have much else to do
        watch = attach()
        train(5)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        watch.close("exception KeyboardInterrupt")
    """
    done = run_script(tmp_path, code)
    assert done.returncode == -signal.SIGINT, done.stderr
    assert "KeyboardInterrupt" in done.stderr
    assert len(Run(tmp_path / "run").steps()) == 5
    assert Run(tmp_path / "run").attempts()[-1].reason == "exception KeyboardInterrupt"


@pytest.mark.slow
def test_sigterm_at_random_moments(tmp_path):
    """Kills of a tight loop: each ends by the signal, and lacks at most the step being made."""
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        code = f"""
            watch = attach(stop_on=["explosion"], tensorboard={number % 2 == 0})
            print("begun", flush=True)
            threading.Timer({0.02 + 0.015 * number}, os.kill, (os.getpid(), 15)).start()
            for step in range(100_000):
                train(1)
                print(step, flush=True)
        """
        done = run_script(folder, code)
        assert done.returncode == -signal.SIGTERM, done.stderr
        made = len(done.stdout.splitlines()) - 1
        assert abs(len(Run(folder / "run").steps()) - made) <= 1
        assert Run(folder / "run").attempts()[-1].reason == "signal SIGTERM"


def test_a_handler_of_the_script_stays(tmp_path):
    code = """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        watch = attach()
        train(5)
        os.kill(os.getpid(), 15)
        time.sleep(9)
    """
    assert run_script(tmp_path, code).returncode == 7
    assert len(Run(tmp_path / "run").steps()) == 5
    assert Run(tmp_path / "run").attempts()[0].reason == "exit"


# ----------------------------------------------------------------------------------------- forks


def given_norm(model: nn.Linear, optimizer: torch.optim.Optimizer) -> float:
    """The norm of the gradient that the optimizer is given in a step of an exploding training."""
    optimizer.zero_grad()
    (model(torch.full((8, 4), 50.0)) * 100).sum().backward()
    optimizer.step()
    return torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item()


def in_child(call):
    """What a call returns in a forked child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, repr(call()).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return pipe.read()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_child_is_clipped_and_writes_nothing(tmp_path):
    torch.set_num_threads(1)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gradwatch.attach(model, optimizer, tmp_path / "run", clip=NormClip(1.0)):
        assert given_norm(model, optimizer) == pytest.approx(1.0, rel=1e-4)
        assert float(in_child(lambda: given_norm(model, optimizer))) == pytest.approx(1.0, rel=1e-4)
        given_norm(model, optimizer)
    assert len(Run(tmp_path / "run").steps()) == 2


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_child_skips_what_is_not_finite(tmp_path):
    torch.set_num_threads(1)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = model.weight.detach().clone()

    def step():
        model.weight.grad = torch.full_like(model.weight, torch.nan)
        optimizer.step()
        return torch.equal(model.weight, before)

    with gradwatch.attach(model, optimizer, tmp_path / "run", skip_nonfinite=True):
        assert in_child(step) == "True"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_child_can_record_a_run_of_its_own(tmp_path):
    torch.set_num_threads(1)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def record():
        other = nn.Linear(4, 1)
        own = torch.optim.SGD(other.parameters(), lr=1e-3)
        with gradwatch.attach(other, own, tmp_path / "child"):
            given_norm(other, own)
        return lifecycle.open_runs()

    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        assert in_child(record) == "[]"
        assert lifecycle.open_runs() == [(tmp_path / "run").resolve()]
    assert len(Run(tmp_path / "child").steps()) == 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_sigterm_ends_a_forked_child_by_default(tmp_path):
    torch.set_num_threads(1)
    model = nn.Linear(4, 1)
    with gradwatch.attach(model, torch.optim.SGD(model.parameters(), lr=1e-3), tmp_path / "run"):
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert Run(tmp_path / "run").attempts()[0].reason == "closed"


# ------------------------------------------------------------------------------------- one a run


class Recording:
    """As much of a recording as this module needs."""

    is_ended = True

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def close(self, reason: str) -> None:
        self.reasons.append(reason)

    def ask_to_end(self, reason: str) -> None:
        self.close(reason)

    def wait_for_end(self, timeout: float) -> bool:
        """Whether it has ended."""
        return self.is_ended

    def go_on_in_child(self) -> None:
        """Nothing is left to do."""


def test_a_run_is_open_once_by_whatever_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lifecycle.opened(tmp_path / "run", Recording())
    try:
        with pytest.raises(RunInUse, match="another watch of this process"):
            lifecycle.check_not_open(Path("./x/../run"))
        lifecycle.check_not_open(Path("other"))
    finally:
        lifecycle.closed(Path("run"))
    lifecycle.check_not_open(tmp_path / "run")


@pytest.mark.parametrize("is_ended", [True, False])
def test_a_recording_that_a_signal_cuts_off_is_said(tmp_path, monkeypatch, capfd, is_ended):
    monkeypatch.setattr(lifecycle.os, "kill", lambda *_: None)
    recording = Recording()
    recording.is_ended = is_ended
    before = signal.getsignal(signal.SIGTERM)
    lifecycle.opened(tmp_path / "run", recording)
    try:
        lifecycle._end_process(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
        lifecycle.closed(tmp_path / "run")
    said = capfd.readouterr().err
    assert ("(recording-unfinished)" in said, f"{tmp_path / 'run'}" in said) == (not is_ended, not is_ended)


def test_the_signal_is_acted_on_as_the_outermost_call_leaves(monkeypatch):
    ended = []
    monkeypatch.setattr(lifecycle, "_end_process", ended.append)
    monkeypatch.setattr(lifecycle._Depth, "signal", None)
    with lifecycle.inside():
        with lifecycle.inside():
            lifecycle._on_signal(signal.SIGTERM, None)
        assert ended == []
    assert ended == [signal.SIGTERM]
    lifecycle._Depth.signal = None
    lifecycle._on_signal(signal.SIGTERM, None)
    assert ended == [signal.SIGTERM] * 2


@pytest.mark.parametrize(("prompt", "expected"), [(None, "exception ValueError"), ("In : ", "exit")])
def test_an_error_of_an_earlier_cell_did_not_end_the_recording(monkeypatch, tmp_path, prompt, expected):
    """At a prompt and in a notebook Python keeps the error of any earlier line."""
    monkeypatch.setattr(sys, "last_type", ValueError, raising=False)
    if prompt is not None:
        monkeypatch.setattr(sys, "ps1", prompt, raising=False)
    model = nn.Linear(2, 1)
    gradwatch.attach(model, torch.optim.SGD(model.parameters(), 0.1), tmp_path / "run")
    lifecycle._close_at_exit()
    assert [attempt.reason for attempt in Run(tmp_path / "run").attempts()] == [expected]
