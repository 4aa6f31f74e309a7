"""`gradwatch run`: what is checked before the script starts."""

import math
from pathlib import Path

import pytest

from gradwatch import clip
from gradwatch.cli.commands.run import RunOptions, check_options, prepare_launch
from gradwatch.errors import BadArgument, RunInUse, ScriptNotFound
from gradwatch.script.plan import POLICIES, ClipPlan, RecordingPlan

from ....prepared import forked


@pytest.fixture
def script(tmp_path):
    (tmp_path / "train.py").write_text("print('trained')\n")
    return tmp_path / "train.py"


def test_a_launch_has_all_that_was_asked_for(script, tmp_path):
    options = RunOptions(max_norm=math.inf, steps=7, tensorboard=True, stop_on=("spike",), every=3, ranks=True)
    found = prepare_launch([str(script), "--lr", "1"], tmp_path / "run", False, options)
    assert found.program.argv == (str(script), "--lr", "1")
    assert found.plan == RecordingPlan(
        run=tmp_path / "run", max_norm=math.inf, steps=7, tensorboard=True, stop_on=("spike",), every=3, ranks=True
    )


def test_a_collective_measures_before_the_reduction_as_ranks_does(script, tmp_path):
    plan = prepare_launch([str(script)], tmp_path / "run", False, RunOptions(ranks_collective=True)).plan
    assert (plan.ranks, plan.ranks_collective) == (True, True)
    with pytest.raises(BadArgument, match="--ranks-collective, which needs the thread"):
        prepare_launch([str(script)], None, False, RunOptions(ranks_collective=True, recorder="process"))


def test_a_folder_stays_where_it_is_and_is_shown_as_it_was_written(script, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = prepare_launch([str(script)], Path("a/run"), False, RunOptions())
    assert (found.plan.run, found.shown) == (tmp_path / "a" / "run", Path("a/run"))


def test_a_run_is_named_by_the_time_and_the_script(script):
    found = prepare_launch([str(script)], None, False, RunOptions())
    assert found.shown.parent == Path("runs")
    assert found.shown.name.endswith("-train")


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan, -math.inf])
def test_a_threshold_that_is_not_above_0_is_refused(script, max_norm):
    with pytest.raises(BadArgument, match="expected a number above 0, or inf"):
        prepare_launch([str(script)], None, False, RunOptions(max_norm=max_norm))


def test_a_script_or_module_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ScriptNotFound):
        prepare_launch([str(tmp_path / "no.py")], None, False, RunOptions())
    with pytest.raises(ScriptNotFound):
        prepare_launch(["no_such_module"], None, True, RunOptions())


def test_a_file_is_no_folder_for_a_run(script):
    with pytest.raises(RunInUse):
        prepare_launch([str(script)], script, False, RunOptions())


def test_options_after_the_script_are_its_own(script, command, monkeypatch):
    """Not even --help: the command line ends without a launch only where it comes before the script."""
    launched = []
    monkeypatch.setattr("gradwatch.cli.commands.run.launch", launched.append)
    with pytest.raises(pytest.fail.Exception):  # main returns, for `launch` does
        command("run", script, "--help", "--json")
    assert launched[0].program.argv == (str(script), "--help", "--json")
    assert command("run", "--help", script).code == 0
    assert len(launched) == 1


@pytest.mark.parametrize("of", ["run", "doctor", "tune"])
def test_a_mistyped_option_before_the_script_is_called_one(of, script, command):
    said = command(of, "--cilp", script)
    assert said.code == 2
    assert "There is no option and no script '--cilp'" in " ".join(said.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (RunOptions(clip="1", max_norm=1.0), "both given"),
        (RunOptions(clip="frobenius"), "expected a threshold, or one of norm, value"),
        (RunOptions(clip="frobenius:3"), "expected a threshold, or one of norm, value"),
        (RunOptions(clip="norm"), "for example norm:1.0"),
        (RunOptions(clip="value:"), "for example value:1.0"),
        (RunOptions(clip="0"), "a number above 0"),
        (RunOptions(clip="-1"), "a number above 0"),
        (RunOptions(clip="nan"), "a number above 0"),
        (RunOptions(clip="quantile:1"), "between 0 and 1"),
        (RunOptions(clip="auto:250"), "between 0 and 100"),
        (RunOptions(clip="zclip:high"), "expected zclip:NUMBER"),
        (RunOptions(stop_on=("nonsense",)), "not a kind of event"),
        (RunOptions(notify_link="example.org"), "the link for notify is no URL"),
        (RunOptions(every=2, clip="1"), "measure every step"),
        (RunOptions(every=2, max_norm=1.0), "measure every step"),
        (RunOptions(every=2, skip_nonfinite=True), "measure every step"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_the_script_runs(options, says):
    with pytest.raises(BadArgument, match=says):
        check_options(options)


def test_options_that_make_sense_are_taken():
    assert check_options(RunOptions(clip="0.5")) == ClipPlan(policy="NormClip", number=0.5)
    assert check_options(RunOptions(clip="zclip")) == ClipPlan(policy="ZClip")
    assert check_options(RunOptions(every=2, max_norm=math.inf)) is None  # nothing is clipped


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_of_the_option_can_be_made(name):
    chosen = ClipPlan.parse(f"{name}:0.5")
    assert repr(getattr(clip, chosen.policy)(chosen.number))


DIVERGES = """
import torch
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(20):
    optimizer.zero_grad()
    model(torch.full((2, 3), float("nan") if step == 15 else 1.0)).square().mean().backward()
    optimizer.step()
"""


def test_a_script_sends_its_fault_with_the_link_from_wherever_they_are_set(server, tmp_path):
    """The address from a variable and the link from pyproject.toml, or both from the command line."""
    bodies, address = server
    (tmp_path / "train.py").write_text(DIVERGES)
    (tmp_path / "pyproject.toml").write_text('[tool.gradwatch.run]\nnotify-link = "https://example.org/project"\n')
    run = ["-m", "gradwatch", "run"]
    done = forked().run([*run, "--run", "a", "train.py"], tmp_path, GRADWATCH_RUN_NOTIFY=address)
    assert done.returncode == 0, done.stderr
    assert "--notify from GRADWATCH_RUN_NOTIFY, --notify-link from pyproject.toml" in done.stderr
    given = ["--run", "b", "--notify", address, "--notify-link", "https://example.org/b"]
    done = forked().run([*run, *given, "train.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    ends = [(body["title"].split(":")[0], body["message"].splitlines()[-1]) for body in bodies]
    assert ("a", "https://example.org/project") in ends
    assert ("b", "https://example.org/b") in ends
    assert {run for run, _ in ends} == {"a", "b"}
    assert {link for _, link in ends} == {"https://example.org/project", "https://example.org/b"}
