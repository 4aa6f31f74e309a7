"""`gradwatch run`: what is checked before the script starts."""

import math
from pathlib import Path

import pytest

from gradwatch.cli.commands.run import prepare_launch
from gradwatch.errors import BadArgument, RunInUse, ScriptNotFound


@pytest.fixture
def script(tmp_path):
    (tmp_path / "train.py").write_text("print('trained')\n")
    return tmp_path / "train.py"


def test_a_launch_has_all_that_was_asked_for(script, tmp_path):
    found = prepare_launch([str(script), "--lr", "1"], tmp_path / "run", False, math.inf, 7, True)
    assert found.program.argv == (str(script), "--lr", "1")
    assert (found.run, found.max_norm, found.steps, found.tensorboard) == (tmp_path / "run", math.inf, 7, True)


def test_a_run_is_named_by_the_time_and_the_script(script):
    found = prepare_launch([str(script)], None, False, None, None, False)
    assert found.run.parent == Path("runs")
    assert found.run.name.endswith("-train")


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan, -math.inf])
def test_a_threshold_that_is_not_above_0_is_refused(script, max_norm):
    with pytest.raises(BadArgument, match="expected a number above 0, or inf"):
        prepare_launch([str(script)], None, False, max_norm, None, False)


def test_a_script_or_module_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ScriptNotFound):
        prepare_launch([str(tmp_path / "no.py")], None, False, None, None, False)
    with pytest.raises(ScriptNotFound):
        prepare_launch(["no_such_module"], None, True, None, None, False)


def test_a_file_is_no_folder_for_a_run(script):
    with pytest.raises(RunInUse):
        prepare_launch([str(script)], script, False, None, None, False)


def test_options_after_the_script_are_its_own(script, command, monkeypatch):
    """Not even --help: the command line ends without a launch only where it comes before the script."""
    launched = []
    monkeypatch.setattr("gradwatch.cli.commands.run.launch", launched.append)
    with pytest.raises(pytest.fail.Exception):  # main returns, for `launch` does
        command("run", script, "--help", "--json")
    assert launched[0].program.argv == (str(script), "--help", "--json")
    assert command("run", "--help", script).code == 0
    assert len(launched) == 1
