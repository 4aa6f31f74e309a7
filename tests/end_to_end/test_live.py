"""`gradwatch watch` in a terminal of its own, beside a run that is being written."""

import contextlib
import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from gradwatch.store import StoreWriter
from gradwatch.testing import replaced, steady, stream, write_run

SCREEN_ON, SCREEN_OFF, CURSOR_ON = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


class Terminal:
    """A command with a terminal of 100 x 40."""

    def __init__(self, *command, cwd):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        env = os.environ | {"TERM": "xterm-256color"}
        env.pop("COLUMNS", None)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gradwatch", *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
        self.shown = ""

    def wait_for(self, text, seconds=100):
        end = time.monotonic() + seconds
        while text not in self.shown and time.monotonic() < end:
            self._read(0.1)
        assert text in self.shown, self.shown[-2000:]

    def _read(self, seconds):
        with contextlib.suppress(OSError):
            if select.select([self.master], [], [], seconds)[0]:
                self.shown += os.read(self.master, 65536).decode(errors="replace")

    def end(self):
        deadline = time.monotonic() + 100
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read(0.1)
        for _ in range(3):
            self._read(0.1)
        clean = termios.tcgetattr(self.slave) == self.before
        os.close(self.slave)
        os.close(self.master)
        return self.process.returncode, clean


@pytest.mark.parametrize(("key", "code"), [("q", 0), ("Ctrl-C", 130)])
def test_it_follows_a_run_and_leaves_the_terminal_clean(tmp_path, key, code):
    terminal = Terminal("watch", "run", "--every", "0.2", cwd=tmp_path)
    terminal.wait_for("waiting for the first step of run")
    records = stream(replaced(steady(400), {350: 80.0}))
    writer = StoreWriter(tmp_path / "run")
    writer.begin_attempt({"model": "Net"}, {"0": ("SGD", {})})
    writer.add_parameters("0", records[0].layers.parameters)
    writer.set_meta("total_steps", "400")
    writer.append(records[:300])
    terminal.wait_for("recording, step 299 of 400, about 10.0 s left")
    terminal.wait_for("━━━")
    terminal.wait_for("HEALTHY")
    from gradwatch.detect import replay

    writer.append(records[300:], replay(records))
    terminal.wait_for("newest event  warning spike at step 350")
    writer.end_attempt("closed")
    terminal.wait_for("finished, step 399 of 400;")
    if key == "q":
        os.write(terminal.master, b"q")
    else:
        os.kill(terminal.process.pid, signal.SIGINT)
    assert terminal.end() == (code, True)
    assert SCREEN_ON in terminal.shown
    assert terminal.shown.rindex(SCREEN_OFF) > terminal.shown.rindex(SCREEN_ON)
    assert CURSOR_ON in terminal.shown
    assert "Traceback" not in terminal.shown


def test_it_goes_on_when_its_run_is_deleted_and_made_again(tmp_path):
    write_run(tmp_path / "run", stream(steady(100)))
    terminal = Terminal("watch", "run", "--every", "0.2", cwd=tmp_path)
    terminal.wait_for("finished, step 99;")
    shutil.rmtree(tmp_path / "run")
    terminal.wait_for("waiting for the first step of run")
    write_run(tmp_path / "run", stream(steady(150)))
    terminal.wait_for("finished, step 149;")
    (tmp_path / "run" / "gradwatch.db").write_bytes(b"SQLite format 3\0" + bytes(1000))
    terminal.wait_for("(store-damaged)")
    os.write(terminal.master, b"q")
    assert terminal.end() == (0, True)
    assert "Traceback" not in terminal.shown


def test_it_ends_when_its_terminal_is_gone(tmp_path):
    """It went on for ever at full speed: the end of a file is always ready to be read."""
    terminal = Terminal("watch", "run", "--every", "0.2", cwd=tmp_path)
    terminal.wait_for("waiting for the first step of run")
    os.close(terminal.slave)
    os.close(terminal.master)
    terminal.process.wait(30)


def test_into_a_pipe_it_prints_the_report_once(tmp_path):
    write_run(tmp_path / "runs" / "x", stream(steady(100)))
    done = subprocess.run(
        [sys.executable, "-m", "gradwatch", "watch"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.count("HEALTHY") == 1
    assert "\x1b" not in done.stdout


def test_what_is_no_run_is_said(tmp_path):
    (tmp_path / "gradwatch.db").write_text("nonsense")
    done = subprocess.run(
        [sys.executable, "-m", "gradwatch", "watch", "."], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 1
    assert "not-a-run" in done.stderr
