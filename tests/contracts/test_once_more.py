"""Continuous integration runs a few failed tests once more, and stays red for everything else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "once_more.py"
if not SCRIPT.exists():
    pytest.skip("this checkout has no .ci", allow_module_level=True)

FIRST = """
import os, pytest
def is_first(mark="mark"):
    return not os.path.exists(mark) and not open(mark, "x").close()
"""
ONCE = FIRST + "def test_one():\n    assert not is_first()\n"
TWICE = "def test_two():\n    assert False\n"
SKIPS = FIRST + "def test_one():\n    if not is_first(): pytest.skip('now')\n    assert False\n"
ENDS = FIRST + "def test_one():\n    if not is_first(): os._exit(0)\n    assert False\n"
SIX = FIRST + "@pytest.mark.parametrize('mark', 'abcdef')\ndef test_six(mark):\n    assert not is_first(mark)\n"
IN_A_TEST = FIRST + "def test_one():\n    if is_first(): os._exit(1)\n"
BETWEEN = "import os\ndef pytest_sessionfinish(session):\n    if hasattr(session.config, 'workerinput'): os._exit(1)\n"
BROKEN = FIRST + "if is_first('broken'): import no_such_module\n"
GREEN = "failed once and passed alone: "


def run(folder, files, *, has_worker=False):
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, SCRIPT, *(["-p", "xdist", "-n", "1"] if has_worker else [])]
    env = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they take half of the time
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_what_fails_once_and_passes_alone_is_named(tmp_path):
    done = run(tmp_path, {"test_a.py": ONCE, "test_b.py": "def test_good(): pass\n"})
    assert done.returncode == 0
    assert "= 1 failed, 1 passed in" in done.stdout
    assert "= 1 passed in" in done.stdout
    assert done.stdout.endswith(GREEN + "test_a.py::test_one; mend them\n")


def test_a_worker_that_crashes_in_a_test_is_a_failed_test(tmp_path):
    done = run(tmp_path, {"test_a.py": IN_A_TEST}, has_worker=True)
    assert done.returncode == 0
    assert done.stdout.endswith(GREEN + "test_a.py::test_one; mend them\n")


@pytest.mark.parametrize(
    ("has_worker", "files"),
    [
        pytest.param(False, {"test_a.py": ONCE + TWICE}, id="fails twice"),
        pytest.param(False, {"test_a.py": SKIPS}, id="skipped the second time"),
        pytest.param(False, {"test_a.py": ENDS}, id="ends pytest the second time"),
        pytest.param(False, {"test_a.py": SIX}, id="too many"),
        pytest.param(False, {}, id="no tests"),
        pytest.param(False, {"test_a.py": ONCE, "test_b.py": BROKEN}, id="not collected"),
        pytest.param(True, {"test_a.py": ONCE, "test_b.py": BROKEN}, id="not collected by a worker"),
        pytest.param(True, {"test_a.py": ONCE, "conftest.py": BETWEEN}, id="worker crashes after the tests"),
    ],
)
def test_everything_else_stays_red(tmp_path, has_worker, files):
    done = run(tmp_path, files, has_worker=has_worker)
    assert done.returncode != 0
    assert GREEN not in done.stdout
