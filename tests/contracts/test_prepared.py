"""Scripts in forks end, print and see what they do in a process of their own; only what is imported differs."""

import os
import signal
import subprocess
import sys

import pytest

from ..prepared import CAN_FORK, forked

pytestmark = pytest.mark.skipif(not CAN_FORK, reason="every script is a process from the start")

ENDS = {
    "the end": "print('done')",
    "sys.exit with a code": "import sys; print('written'); sys.exit(7)",
    "sys.exit with a large code": "import sys; sys.exit(300)",
    "sys.exit with a message": "import sys; sys.exit('a message')",
    "SystemExit": "raise SystemExit",
    "an exception": "def f():\n    raise ValueError('mine')\nf()",
    "a chain": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('chained') from e",
    "a syntax error": "x = (1,",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "SIGTERM": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "os._exit": "import os; print('lost'); os._exit(3)",
    "atexit and a thread": "import atexit, threading, time\natexit.register(print, 'at exit')\n"
    "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\nprint('main')",
    "what is kept of an exception": "import atexit, sys\n"
    "atexit.register(lambda: print(sys.last_type, sys.last_value, sys.last_traceback.tb_lineno))\n1 / 0",
    "a hook": "import sys\nsys.excepthook = lambda kind, error, traceback: print(kind, traceback.tb_lineno)\n1 / 0",
}
SEES = (
    "import os, sys\n"
    "print(sys.argv, __name__, __file__, sys.path[0], __spec__ and __spec__.name, __package__, os.getcwd())\n"
    "print(sys.stdin.name, sys.stdout.name, sys.stderr.name, sys.stdin.read(), sys.stdout.errors, sys.stderr.errors)\n"
    "print(sys.stdout.encoding, sys.stdout.line_buffering, sys.stderr.line_buffering, sys.executable)\n"
    "print(os.environ['FOR_A_TEST'], 'HOME' in os.environ, sys.modules['__main__'].__dict__ is globals())\n"
    "sys.stdout.reconfigure(errors='replace')\n"
)


def both(command, folder, given="", **options):
    found = []
    environment = {name: value for name, value in os.environ.items() if name != "HOME"} | {"FOR_A_TEST": "1"}
    for start in (forked().start, lambda command, **options: subprocess.Popen([sys.executable, *command], **options)):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = start(command, cwd=folder, env=environment, text=True, **pipes, **options)
        out, err = process.communicate(given, timeout=60)
        found.append((process.returncode, out, err))
    return found


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("way", ["a file", "-m", "-c"])
def test_it_ends_as_in_a_process_of_its_own(tmp_path, name, way):
    (tmp_path / "script.py").write_text(ENDS[name])
    command = {"a file": ["script.py", "--option"], "-m": ["-m", "script"], "-c": ["-c", ENDS[name]]}[way]
    one, other = both(command, tmp_path)
    if way == "-m" and name == "a syntax error":
        one, other = one[:2], other[:2]  # the traceback goes through runpy
    assert one == other


@pytest.mark.parametrize("way", ["a file", "a file in a folder", "-m", "-m a package"])
def test_it_sees_what_a_process_of_its_own_sees(tmp_path, way):
    (tmp_path / "folder").mkdir()
    for name in ("script.py", "folder/script.py", "folder/__main__.py", "folder/__init__.py"):
        (tmp_path / name).write_text("" if "init" in name else SEES)
    command = {
        "a file": ["script.py", "-x", "3"],
        "a file in a folder": ["folder/script.py"],
        "-m": ["-m", "script", "--", "-m"],
        "-m a package": ["-m", "folder"],
    }[way]
    one, other = both(command, tmp_path, "some input")
    assert one == other
    assert one[0] == 0, one


def test_it_takes_signals_and_ends_in_a_session_of_its_own_if_asked_to():
    code = "import os, time; print(os.getpid() == os.getsid(0), flush=True); time.sleep(60)"
    for session in (True, False):
        with forked().start(
            ["-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=session
        ) as process:
            assert process.stdout.readline() == f"{session}\n"
            assert process.poll() is None
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.1)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == -signal.SIGINT
            assert "KeyboardInterrupt" in process.stderr.read()


def test_one_fork_leaves_nothing_to_the_next(tmp_path):
    write = "import sys, os; sys.left = os.environ['LEFT'] = '1'; os.chdir('/')"
    assert forked().run(["-c", write], tmp_path).returncode == 0
    read = "import sys, os; print(hasattr(sys, 'left'), 'LEFT' in os.environ, os.getcwd())"
    assert forked().run(["-c", read], tmp_path).stdout == f"False False {tmp_path}\n"


def test_where_a_variable_is_read_at_import_nothing_is_imported_before(tmp_path):
    code = "import sys; print('torch' in sys.modules)"
    assert forked().run(["-c", code], tmp_path).stdout == "True\n"
    assert forked().run(["-c", code], tmp_path, OMP_NUM_THREADS="3").stdout == "False\n"
    assert forked().run(["-c", code], tmp_path, PYTHONUTF8="1").stdout == "False\n"


def test_what_scikit_learn_sets_as_it_is_imported_is_no_such_variable(tmp_path):
    """Or every script after the first test that imports it would be a process from the start."""
    code = "import sys; print('torch' in sys.modules)"
    assert forked().run(["-c", code], tmp_path, KMP_INIT_AT_FORK="FALSE").stdout == "True\n"


def test_streams_may_be_files_and_stay_open(tmp_path):
    code = "import sys; print('out'); print('err', file=sys.stderr)"
    with (tmp_path / "written").open("w+") as file:
        process = forked().start(["-c", code], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
        assert process.wait(60) == 0
        file.seek(0)
        assert sorted(file.read().split()) == ["err", "out"]
