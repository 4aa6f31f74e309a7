"""The recorder's process: what was measured is in the store whatever ends the training, and nothing is left behind."""

import contextlib
import gc
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run
from gradwatch.clip import NormClip
from gradwatch.errors import BadArgument, NotARun, RecorderProcessFailed, RunInUse
from gradwatch.recording.process import link as links
from gradwatch.sinks.openmetrics import OpenMetricsFile

from ..prepared import forked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the recorder's process needs POSIX")

PATIENCE = 60.0  # seconds, on a machine that has much else to do


def make(width=3):
    torch.manual_seed(0)
    model = nn.Linear(width, 1)
    return model, torch.optim.SGD(model.parameters(), lr=0.01)


def train(model, optimizer, steps, watch=None):
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, model.in_features)).square().mean().backward()
        optimizer.step()
        if watch is not None:
            watch.log(loss=float(step))


def writer_of(run):
    """The process that the last attempt of a store names."""
    with contextlib.closing(sqlite3.connect(run / "gradwatch.db")) as db:
        return db.execute("select pid from attempt order by attempt desc").fetchone()[0]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"still waiting: {what}"
        time.sleep(0.02)


def wait_for_end_of(run):
    wait_until(lambda: not is_running(writer_of(run)), "the recorder's process ends with the training")


# ---------------------------------------------------------------------- the training ends by force

SCRIPT = """
import multiprocessing, os, pathlib, signal, subprocess, sys, time
import torch
import gradwatch

def sleep():
    time.sleep(600)

if __name__ == "__main__":
    folder, how, beside = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    os.chdir(folder)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch = gradwatch.attach(model, optimizer, "run", recorder="process")
    if beside == "fork":
        pid = os.fork()
        if pid == 0:
            for _ in range(3):  # a child that trains records nothing
                model(torch.ones(2, 3)).sum().backward()
                optimizer.step()
            time.sleep(600)
        (folder / "beside").write_text(str(pid))
    elif beside == "spawn":
        process = multiprocessing.get_context("spawn").Process(target=sleep)
        process.start()
        (folder / "beside").write_text(str(process.pid))
    elif beside == "subprocess":
        (folder / "beside").write_text(str(subprocess.Popen(["sleep", "600"], close_fds=False).pid))
    for step in range(120):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().mean().backward()
        optimizer.step()
        if how == "logged":
            watch.log(loss=float(step))
    if how in ("SIGKILL", "logged", "SIGABRT"):
        os.kill(os.getpid(), signal.SIGABRT if how == "SIGABRT" else signal.SIGKILL)
    elif how == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    elif how == "SIGINT to the group":
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.killpg(os.getpgid(0), signal.SIGINT)
        time.sleep(60)
    elif how == "os._exit":
        os._exit(0)
    elif how == "an exception":
        raise ValueError("on purpose")
"""


def run_script(folder, how, beside="nothing"):
    script = folder / "training.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command, start = [script, folder, how, beside], forked().start
    if (how, beside) == ("SIGKILL", "nothing"):  # one that has imported nothing before
        command, start = [sys.executable, *command], subprocess.Popen
    with (
        (folder / "stderr").open("w") as errors,
        start(command, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True) as training,
    ):
        training.wait(300)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("SIGKILL", "killed"),
        ("logged", "killed"),
        ("SIGABRT", "killed"),
        ("os._exit", "killed"),
        ("SIGTERM", "signal SIGTERM"),
        ("SIGINT to the group", "killed"),
        ("an exception", "exception ValueError"),
        ("the end", "exit"),
    ],
)
def test_every_step_that_was_made_is_in_the_store_however_the_training_ends(tmp_path, how, reason):
    run_script(tmp_path, how)
    wait_for_end_of(tmp_path / "run")
    run = Run(tmp_path / "run")
    steps = run.steps()
    assert steps.index.tolist() == list(range(120)), (tmp_path / "stderr").read_text()
    assert run.summary().ended == reason
    assert not (tmp_path / "run" / "gradwatch.db-wal").exists(), "the store stands alone"
    if how == "logged":
        assert steps["loss"].tolist() == [float(step) for step in range(120)], "the last one, too"


@pytest.mark.parametrize("beside", ["fork", "spawn", "subprocess"])
def test_what_the_training_started_keeps_no_recorder_alive(tmp_path, beside):
    run_script(tmp_path, "SIGKILL", beside)
    pid = int((tmp_path / "beside").read_text())
    try:
        assert is_running(pid), "what the training started outlives it"
        wait_for_end_of(tmp_path / "run")
        assert is_running(pid)
        assert Run(tmp_path / "run").steps().index.tolist() == list(range(120))
    finally:
        os.kill(pid, signal.SIGKILL)


# ------------------------------------------------------------------------- however the training begins

PLAIN = """
import torch, gradwatch
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
def train(run, steps=9):
    with gradwatch.attach(model, optimizer, run, recorder="process"):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            optimizer.step()
"""
SPAWNED = """
import multiprocessing, sys, training
if __name__ == "__main__":
    process = multiprocessing.get_context(sys.argv[1]).Process(target=training.train, args=("run",))
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["spawn", "forkserver", "stdin", "no guard"])
def test_a_training_that_was_spawned_piped_or_has_no_guard_is_recorded(tmp_path, how):
    (tmp_path / "training.py").write_text(PLAIN)
    (tmp_path / "spawn.py").write_text(SPAWNED)
    (tmp_path / "script.py").write_text(f'{PLAIN}\ntrain("run")\n')
    command = {"stdin": ["-"], "no guard": ["script.py"]}.get(how, ["spawn.py", how])
    text = (tmp_path / "script.py").read_text() if how == "stdin" else None
    done = subprocess.run([sys.executable, *command], input=text, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    run = Run(tmp_path / "run")
    assert (run.steps().index.tolist(), run.summary().ended) == (list(range(9)), "closed")
    assert not is_running(writer_of(tmp_path / "run"))


def test_a_forked_child_of_a_forked_child_may_record_a_run_of_its_own(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run", recorder="process") as watch:
        train(model, optimizer, 3)
        pid = os.fork()
        if pid == 0:
            inner = os.fork()
            if inner == 0:
                train(model, optimizer, 2)
                with gradwatch.attach(model, optimizer, tmp_path / "inner", recorder="process"):
                    train(model, optimizer, 4)
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        train(model, optimizer, 3, watch)
    assert Run(tmp_path / "run").steps().index.tolist() == list(range(6)), "those of the children are not in it"
    assert Run(tmp_path / "inner").steps().index.tolist() == list(range(4))
    assert not is_running(writer_of(tmp_path / "inner"))


def test_a_training_whose_standard_files_are_closed_is_recorded(tmp_path):
    """As of a daemon. New files get their numbers, and the recorder's process has others there."""
    pid = os.fork()
    if pid == 0:
        os.closerange(0, 3)
        with contextlib.suppress(BaseException):
            model, optimizer = make()
            with gradwatch.attach(model, optimizer, tmp_path / "run", recorder="process"):
                train(model, optimizer, 5)
        os._exit(0)
    os.waitpid(pid, 0)
    run = Run(tmp_path / "run")
    assert (run.steps().index.tolist(), run.summary().ended) == (list(range(5)), "closed")


# ------------------------------------------------------------------- the recorder's process ends first


def test_the_training_goes_on_and_is_clipped_when_the_recorder_is_killed(tmp_path, caplog):
    def trained(run=None):
        model, optimizer = make()
        options = {} if run is None else {"recorder": "process"}
        with gradwatch.attach(model, optimizer, run or tmp_path / "thread", clip=NormClip(0.01), **options) as watch:
            train(model, optimizer, 20)
            if run is not None:
                assert watch.flush()
                os.kill(writer_of(run), signal.SIGKILL)
                time.sleep(0.5)
            train(model, optimizer, 20)
        return model.weight.detach().clone()

    expected = trained()
    with caplog.at_level(logging.ERROR, "gradwatch"):
        found = trained(tmp_path / "run")
    assert torch.equal(found, expected), "clipped at every step"
    (message,) = [record.getMessage() for record in caplog.records]
    assert "was ended by SIGKILL" in message
    assert message.endswith("(recorder-process) (recording-stopped)")
    assert Run(tmp_path / "run").steps().index.tolist()[:19] == list(range(19))
    assert Run(tmp_path / "run").summary().ended is None


def test_a_folder_that_is_deleted_is_told_and_ends_the_recording_alone(tmp_path, caplog):
    model, optimizer = make()
    watch = gradwatch.attach(model, optimizer, tmp_path / "run", recorder="process")
    train(model, optimizer, 5)
    watch.flush()
    pid = writer_of(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    train(model, optimizer, 5)
    wait_until(lambda: not is_running(pid), "the process ends")
    time.sleep(0.1)
    train(model, optimizer, 5)
    watch.close()
    assert "store-removed" in caplog.text
    assert "recording-stopped" in caplog.text
    assert not (tmp_path / "run").exists(), "nothing is made again"


def test_steps_that_find_no_room_are_counted_and_never_waited_for(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("gradwatch.recording.opened_sink.RING_BYTES", 2**16)
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run", recorder="process", weights_every=0) as watch:
        train(model, optimizer, 5)
        assert watch.flush()
        pid = writer_of(tmp_path / "run")
        os.kill(pid, signal.SIGSTOP)
        try:
            train(model, optimizer, 600)
        finally:
            os.kill(pid, signal.SIGCONT)
    steps = Run(tmp_path / "run").steps()
    (message,) = [record.getMessage() for record in caplog.records]
    dropped = 605 - len(steps)
    assert dropped > 100
    assert f"dropped {dropped} steps" in message
    assert "steps-dropped" in message
    assert steps.index.tolist()[:50] == list(range(50)), "the first ones had room"


# -------------------------------------------------------------------------------- beginning and end


def test_a_run_of_one_step_in_a_relative_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, "run", recorder="process", config={"lr": 0.01}, total_steps=1) as watch:
        monkeypatch.chdir("/")
        train(model, optimizer, 1, watch)
    run = Run(tmp_path / "run")
    assert run.steps()["loss"].tolist() == [0.0]
    assert dict(run.config()) == {"lr": 0.01}
    assert not is_running(writer_of(tmp_path / "run"))


def test_a_run_without_a_step(tmp_path):
    model, optimizer = make()
    gradwatch.attach(model, optimizer, tmp_path / "run", recorder="process").close()
    assert len(Run(tmp_path / "run").steps()) == 0


def test_the_last_record_comes_back(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run", recorder="process") as watch:
        assert watch.last is None
        train(model, optimizer, 3, watch)
        watch.flush()
        wait_until(lambda: watch.last is not None and watch.last.step == 2, "the record of step 2")
        assert watch.last.loss == 2.0
        assert watch.last.layers is None


def test_event_files_are_written_by_the_process(tmp_path):
    pytest.importorskip("tensorboard")
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run", recorder="process", tensorboard=True):
        train(model, optimizer, 3)
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))


def test_a_run_has_one_writer(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run", recorder="process"):
        train(model, optimizer, 1)
        code = (
            "import torch, gradwatch, sys; m = torch.nn.Linear(1, 1);"
            f"gradwatch.attach(m, torch.optim.SGD(m.parameters(), 0.1), {str(tmp_path / 'run')!r})"
        )
        assert "run-in-use" in forked().run(["-c", code], tmp_path).stderr
        with pytest.raises(RunInUse):
            gradwatch.attach(model, optimizer, tmp_path / "run", recorder="process")
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 1)
    assert Run(tmp_path / "run").steps().index.tolist() == [0, 1], "and the thread may go on with it"


def test_a_store_that_can_not_be_written_is_refused_as_by_the_thread(tmp_path):
    model, optimizer = make()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "gradwatch.db").write_text("no database " * 1000)
    with pytest.raises(NotARun, match="gradwatch"):
        gradwatch.attach(model, optimizer, tmp_path / "run", recorder="process")
    train(model, optimizer, 1)


def test_a_process_that_does_not_start_is_an_error_at_once(tmp_path, monkeypatch):
    model, optimizer = make()
    monkeypatch.setattr(links, "STARTER", tmp_path / "missing.py")
    with pytest.raises(RecorderProcessFailed, match=r"did not begin.*\(recorder-process\)"):
        gradwatch.attach(model, optimizer, tmp_path / "run", recorder="process")
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(RecorderProcessFailed, match="can't be started"):
        gradwatch.attach(model, optimizer, tmp_path / "run", recorder="process")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"on_record": print}, "can't call on_record, which belongs to the training's process"),
        ({"to": OpenMetricsFile(Path("file"))}, "can't call a OpenMetricsFile in to"),
    ],
)
def test_options_that_need_the_thread_are_refused(tmp_path, options, why):
    model, optimizer = make()
    with pytest.raises(BadArgument, match=why):
        gradwatch.attach(model, optimizer, tmp_path / "run", recorder="process", **options)
    assert not (tmp_path / "run").exists()


def test_a_recorder_of_another_name_is_refused(tmp_path):
    model, optimizer = make()
    with pytest.raises(BadArgument, match='recorder is \'fork\'; expected "thread" or "process"'):
        gradwatch.attach(model, optimizer, tmp_path / "run", recorder="fork")


def test_nothing_is_left_open(tmp_path):
    model, optimizer = make()

    def record(at):
        with gradwatch.attach(model, optimizer, tmp_path / f"run{at}", recorder="process") as watch:
            train(model, optimizer, 2)
        assert watch.flush(), "all is written"
        gc.collect()

    record(0)
    before = sorted(os.listdir("/proc/self/fd")) if sys.platform == "linux" else []
    for at in range(1, 4):
        record(at)
    after = sorted(os.listdir("/proc/self/fd")) if sys.platform == "linux" else []
    assert len(after) == len(before)
