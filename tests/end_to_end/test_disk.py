"""What a disk can do to a recording: the training goes on unchanged, and what was lost is counted and said."""

import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run
from gradwatch.errors import StoreRemoved
from gradwatch.recording import batch_writer
from gradwatch.store import StoreWriter
from gradwatch.store.connection import WritingConnection
from gradwatch.testing import steady, stream

from ..prepared import forked


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with 2 MB; the function given fills it up."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system can't be mounted here: " + mounted.stderr.decode().strip())

    def fill():
        with (folder / "filler").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass

    yield folder, fill
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(batch_writer, "PAUSE", 0.05)
    monkeypatch.setattr(batch_writer, "LONGEST_PAUSE", 0.1)


class Training:
    """A small model whose weights tell whether it was touched."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self.data = torch.Generator().manual_seed(1)

    def run(self, steps):
        for _ in range(steps):
            x = torch.randn(16, 4, generator=self.data)
            loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()

    def weights(self):
        return torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])


def expected(steps):
    alone = Training()
    alone.run(steps)
    return alone.weights()


def said(caplog, slug):
    return [record.getMessage() for record in caplog.records if f"({slug})" in record.getMessage()]


def wait_for(condition, seconds=100):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def test_a_full_disk_is_waited_for_and_nothing_is_lost(small_disk, caplog):
    folder, fill = small_disk
    training = Training()
    with gradwatch.attach(training.model, training.optimizer, folder / "run") as watch:
        training.run(100)
        assert watch.flush()
        fill()
        training.run(300)
        wait_for(lambda: said(caplog, "recording-waits"))
        assert not watch.flush(timeout=0.3)
        (folder / "filler").unlink()
        training.run(50)
        wait_for(lambda: said(caplog, "recording-resumed"))
    assert len(said(caplog, "recording-waits")) == 1, "said once, however often it is tried"
    assert "full" in said(caplog, "recording-waits")[0]
    steps = Run(folder / "run").steps()
    assert steps.index.tolist() == list(range(450))
    assert Run(folder / "run").summary().dropped_steps == 0
    assert torch.equal(training.weights(), expected(450))


def test_what_there_is_no_room_for_is_counted_and_shown(small_disk, caplog):
    folder, fill = small_disk
    training = Training()
    with gradwatch.attach(training.model, training.optimizer, folder / "run") as watch:
        watch._recording._sink._disk.capacity = 60
        training.run(50)
        assert watch.flush()
        fill()
        for _ in range(20):
            training.run(10)
            watch.flush(timeout=0.2)
        (folder / "filler").unlink()
        wait_for(watch.flush)
    run = Run(folder / "run")
    kept = run.steps().index.tolist()
    dropped = run.summary().dropped_steps
    assert len(kept) + dropped == 250
    assert dropped >= 100
    assert kept[:50] == list(range(50))
    assert kept[-30:] == list(range(220, 250)), "the latest steps are kept"
    report = forked().run(["-m", "gradwatch", "report", folder / "run"], folder)
    assert report.returncode == 0, report.stderr
    assert f"{dropped} steps dropped" in report.stdout
    assert torch.equal(training.weights(), expected(250))


def test_a_disk_that_stays_full_ends_with_what_was_written_and_no_traceback(small_disk, caplog):
    folder, fill = small_disk
    training = Training()
    began = time.monotonic()
    with gradwatch.attach(training.model, training.optimizer, folder / "run") as watch:
        training.run(100)
        assert watch.flush()
        fill()
        training.run(200)
        wait_for(lambda: said(caplog, "recording-waits"))
    assert time.monotonic() - began < 60, "closing does not wait for the disk"
    assert len(said(caplog, "recording-stopped")) == 1
    assert "200 steps" in said(caplog, "steps-dropped")[0]
    assert Run(folder / "run").steps().index.tolist() == list(range(100))
    assert torch.equal(training.weights(), expected(300))


def refused(tmp_path, refuse, allow, *, bare=False):
    """A training in a process of its own, whose disk takes nothing from ``refuse`` to ``allow``, lines of Python."""
    program = f"""
import logging, os, resource, subprocess, sys
import torch, gradwatch
from gradwatch.recording import batch_writer
logging.basicConfig(level="WARNING")
batch_writer.PAUSE = 0.05
model = torch.nn.Linear(200, 50)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
def run(steps):
    for _ in range(steps):
        model(torch.ones(1, 200)).square().mean().backward()
        optimizer.step(); optimizer.zero_grad()
with gradwatch.attach(model, optimizer, "run") as watch:
    run(50); watch.flush()
    {refuse}
    run(200); print(watch.flush(timeout=1.0))
    {allow}
    run(50); print(watch.flush(timeout=20.0))
print(len(gradwatch.Run("run").steps()))
"""
    (tmp_path / "script.py").write_text(program)
    if bare:  # in a process that has imported nothing
        command = [sys.executable, "script.py"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    else:
        done = forked().run(["script.py"], tmp_path)
    if done.returncode == 3:
        pytest.skip("a process can't be traced here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "True", "300"]
    assert done.stderr.count("recording-waits") == 1
    assert "Traceback" not in done.stderr


def test_a_file_size_limit_is_like_a_full_disk(tmp_path):
    refused(
        tmp_path,
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))",
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))",
    )


@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace")
@pytest.mark.parametrize("error", ["EDQUOT", "EIO", "EROFS"])
def test_a_quota_or_a_disk_that_fails_is_waited_for(tmp_path, error):
    """The kernel refuses what is written, by strace, for as long as that is attached."""
    command = ["strace", "-f", "-o", "/dev/null", "-e", "trace=pwrite64", "-e", f"inject=pwrite64:error={error}", "-p"]
    refused(
        tmp_path,
        f"quota = subprocess.Popen([*{command}, str(os.getpid())], stderr=subprocess.PIPE, text=True);"
        " 'attached' in quota.stderr.readline() or sys.exit(3)",
        "quota.terminate(); quota.wait()",
        bare=error == "EIO",
    )


def test_a_store_that_another_process_holds_is_waited_for(tmp_path, caplog):
    training = Training()
    with gradwatch.attach(training.model, training.optimizer, tmp_path / "run") as watch:
        watch._recording._sink._writer._file.db.execute("pragma busy_timeout = 50")
        training.run(20)
        assert watch.flush()
        other = sqlite3.connect(tmp_path / "run" / "gradwatch.db", isolation_level=None)
        other.execute("begin immediate")
        training.run(100)
        wait_for(lambda: said(caplog, "recording-waits"))
        assert "locked" in said(caplog, "recording-waits")[0]
        other.execute("rollback")
        other.close()
        wait_for(watch.flush)
    assert Run(tmp_path / "run").steps().index.tolist() == list(range(120))
    assert torch.equal(training.weights(), expected(120))


@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_that_is_removed_ends_the_recording_and_not_the_training(tmp_path, caplog, replaced):
    training = Training()
    with gradwatch.attach(training.model, training.optimizer, tmp_path / "run") as watch:
        training.run(50)
        assert watch.flush()
        shutil.rmtree(tmp_path / "run")
        if replaced:
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "gradwatch.db").write_text("another")
        training.run(50)
        watch.flush(timeout=1.0)
        training.run(50)
    assert len(said(caplog, "recording-stopped")) == 1
    assert "was removed or replaced" in said(caplog, "recording-stopped")[0]
    assert "Traceback" not in caplog.text
    if replaced:
        assert (tmp_path / "run" / "gradwatch.db").read_text() == "another"
    assert torch.equal(training.weights(), expected(150))


def test_a_slow_disk_does_not_slow_the_training_down(tmp_path, monkeypatch):
    """A commit that takes seconds is waited for by the recorder alone."""
    stalled, go_on = threading.Event(), threading.Event()
    append = StoreWriter.append

    def stall(self, records, *rest):
        if records and not go_on.is_set():
            stalled.set()
            go_on.wait(60)
        return append(self, records, *rest)

    monkeypatch.setattr(StoreWriter, "append", stall)
    training = Training()
    with gradwatch.attach(training.model, training.optimizer, tmp_path / "run") as watch:
        training.run(10)
        assert stalled.wait(20)
        training.run(500)  # while the commit hangs
        assert watch.steps == 510
        go_on.set()
    assert Run(tmp_path / "run").steps().index.tolist() == list(range(510))


@pytest.fixture
def ext4(tmp_path):
    """A function that mounts a file system of 32 MB on a file."""
    mounted = []

    def make():
        image, folder = tmp_path / "image", tmp_path / "disk"
        folder.mkdir()
        with image.open("wb") as file:
            file.truncate(32 * 2**20)
        for command in (["mkfs.ext4", "-q", image], ["mount", "-o", "loop", image, folder]):
            try:
                done = subprocess.run(command, capture_output=True, check=False)
            except FileNotFoundError as error:
                pytest.skip(f"a file system can't be made here: {error}")
            if done.returncode:
                pytest.skip("a file system can't be mounted here: " + done.stderr.decode().strip())
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_file_system_that_stalls_is_waited_for(ext4):
    """A real one, frozen for some seconds: whoever writes to it hangs in the kernel."""
    folder = ext4()
    if shutil.which("fsfreeze") is None:
        pytest.skip("there is no fsfreeze")
    training = Training()
    with gradwatch.attach(training.model, training.optimizer, folder / "run") as watch:
        training.run(50)
        assert watch.flush()
        subprocess.run(["fsfreeze", "--freeze", folder], check=True)
        try:
            began = time.monotonic()
            training.run(100)
            time.sleep(1.0)
            training.run(100)
            assert not watch.flush(timeout=1.0), "the recorder hangs in the kernel"
            assert time.monotonic() - began < 10, "and the training does not"
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", folder], check=True)
        assert watch.flush()
    run = Run(folder / "run")
    assert run.steps().index.tolist() == list(range(250))
    assert run.summary().dropped_steps == 0
    assert torch.equal(training.weights(), expected(250))


def test_a_permission_that_is_lost_is_waited_for(ext4, caplog):
    """The files become immutable under the writer, for root too."""
    folder = ext4()
    training = Training()
    with gradwatch.attach(training.model, training.optimizer, folder / "run") as watch:
        training.run(50)
        assert watch.flush()
        # Not the index of the log: to write to its memory map would end any process by a SIGBUS (docs/reliability.md).
        files = [file for file in (folder / "run").iterdir() if not file.name.endswith("-shm")]
        changed = subprocess.run(["chattr", "+i", *files], capture_output=True, check=False)
        if changed.returncode:
            pytest.skip("files can't be made immutable here: " + changed.stderr.decode().strip())
        try:
            training.run(100)
            wait_for(lambda: said(caplog, "recording-waits"))
            training.run(100)
        finally:
            subprocess.run(["chattr", "-i", *files], check=True)
        wait_for(lambda: said(caplog, "recording-resumed"))
    run = Run(folder / "run")
    assert run.steps().index.tolist() == list(range(250))
    assert run.summary().dropped_steps == 0
    assert torch.equal(training.weights(), expected(250))


def test_an_append_that_failed_can_be_given_again(tmp_path, monkeypatch):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    records = stream(steady(20))
    writer.add_parameters("0", records[0].layers.parameters)
    insert, failures = WritingConnection.insert, iter(range(2))

    def fail(self, table, columns, rows, verb="insert"):
        insert(self, table, columns, rows, verb)
        if table == "layer" and next(failures, None) is not None:
            raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(WritingConnection, "insert", fail)
    for _ in range(2):
        with pytest.raises(gradwatch.errors.StoreNotWritable, match="disk I/O error"):
            writer.append(records)
        assert Run(tmp_path).steps().empty
    writer.append(records)
    writer.end_attempt("closed")
    assert Run(tmp_path).steps().index.tolist() == list(range(20))
    assert Run(tmp_path).layers().shape == (20, 2)


def test_a_store_in_another_place_is_not_written(tmp_path):
    writer = StoreWriter(tmp_path / "a")
    writer.begin_attempt({}, {"0": ("SGD", {})})
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(StoreRemoved):
        writer.append(stream([1.0]))
    writer.abandon()


def test_events_are_told_while_the_disk_is_full(small_disk, caplog):
    folder, fill = small_disk
    training = Training()
    told = []
    with gradwatch.attach(training.model, training.optimizer, folder / "run", on_event=told.append) as watch:
        training.run(100)
        assert watch.flush()
        fill()
        training.run(5)
        wait_for(lambda: said(caplog, "recording-waits"))
        x = torch.full((1, 4), float("nan"))
        training.model(x).sum().backward()
        training.optimizer.step()
        watch.flush(timeout=0.3)
        training.run(2)
        assert [event.kind for event in told if event.severity == "critical"] == ["nonfinite"]
        (folder / "filler").unlink()
        wait_for(watch.flush)
    assert [event.kind for event in Run(folder / "run").events() if event.severity == "critical"] == ["nonfinite"]
