"""The file that the recorder's process runs: it serves with the package that it belongs to, and no other."""

import subprocess
import sys

import pytest

from gradwatch.recording.process.link import STARTER
from gradwatch.recording.process.start import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the recorder's process needs POSIX")


def start(folder, **environment):
    """Run the file with nothing to serve: it ends when its input does."""
    command = [sys.executable, "-P", "-X", "importtime", str(STARTER), "0"]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=folder, env=environment, check=False
    )


def modules(done):
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_its_root_is_the_folder_of_the_package():
    import gradwatch

    assert [str(path.parent.resolve()) for path in map(STARTER.__class__, gradwatch.__path__)] == [ROOT]


def test_it_imports_no_torch_and_no_pandas(tmp_path):
    done = start(tmp_path)
    assert done.returncode == 0, done.stderr
    found = modules(done)
    assert "gradwatch.recording.process.serve" in found
    assert not {"torch", "pandas", "rich"} & found


@pytest.mark.parametrize("how", ["PYTHONPATH", "folder"])
def test_another_package_of_that_name_is_not_imported(tmp_path, how):
    (tmp_path / "gradwatch").mkdir()
    (tmp_path / "gradwatch" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    done = start(tmp_path, **({"PYTHONPATH": str(tmp_path)} if how == "PYTHONPATH" else {}))
    assert done.returncode == 0, done.stderr
    assert "gradwatch.recording.process.serve" in modules(done)
