"""`gradwatch replay`: options, script, what is printed and kept, bundles."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gradwatch.analysis.replays.result import Replay, write_replay
from gradwatch.cli.commands.replay import Options, split
from gradwatch.errors import BadArgument
from gradwatch.store import StoreWriter
from gradwatch.text import file_size

from ....prepared import forked

SCRIPT = """
import sys
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        hidden = self.first(x).relu()
        size = torch.sqrt(hidden.sum(1) * 0 + x.pow(2).sum(1))
        scaled = hidden / size[:, None]
        return self.last(scaled)

torch.manual_seed(0)
torch.set_num_threads(1)
model = Net()
print("training")
for step in range(int(sys.argv[1])):
    model(torch.randn(6, 4)).mean().backward()
"""

MAKE = """
import sys
sys.path.append({blackbox!r})
sys.argv = ["x", "0"]
import dataclasses, torch
exec(open("train.py").read())
from planted_steps import capture_step
from gradwatch.capture import write
x = torch.randn(6, 4)
x[4] = 0
capture = capture_step(model, [lambda: model(x).mean()])
for step in (3, 20):
    write(dataclasses.replace(capture, step=step, run="runs/a", max_norm=0.4), f"runs/a/captures/step-{{step:06}}")
shapes = {{name: tuple(one.shape) for name, one in capture.weights.items()}}
bare = dataclasses.replace(capture, weights={{}}, gradients={{}})
write(dataclasses.replace(bare, parameters=shapes), "runs/bare/captures/step-000007")
write(bare, "runs/nameless/captures/step-000007")
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replay")
    (folder / "train.py").write_text(SCRIPT)
    blackbox = str(Path(__file__).parents[4] / "benchmarks" / "blackbox")
    forked().run(["-c", MAKE.format(blackbox=blackbox)], folder).check_returncode()
    return folder


def gradwatch(folder, *arguments, bare=False):
    """Run the command; ``bare`` in a process that has imported nothing."""
    command = ["-m", "gradwatch", "replay", *map(str, arguments)]
    if not bare:
        return forked().run(command, folder)
    return subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)


def test_the_line_the_row_and_what_is_odd(work):
    done = gradwatch(work, "runs/a", "train.py", "5", bare=True)
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())
    assert text.startswith("training ")
    assert "STEP 3" in text
    assert "yes, bit for bit" in text
    assert "train.py:14" in text
    assert "> scaled = hidden / size[:, None]" in text
    assert "row 4 of 6" in text
    assert "x: all 4 entries are 0" in text
    assert max(map(len, done.stdout.splitlines())) <= 80
    again = gradwatch(work, "runs/a")
    assert again.stdout == done.stdout.removeprefix("training\n")


def test_json_and_a_bundle(work):
    done = gradwatch(work, "--json", "runs/a", "--step", "20", "--bundle", "case.zip", "train.py", "5")
    found = json.loads(done.stdout)
    assert (found["step"], found["recurs"], found["origin"]["operation"]) == (20, "bitwise", "aten.div")
    assert found["rows"][0]["norm"] == "NaN"
    assert "training" in done.stderr
    assert f"wrote case.zip, {file_size((work / 'case.zip').stat().st_size)}; " in done.stderr
    other = gradwatch(work, "case.zip", "--json", "train.py", "5")
    assert json.loads(other.stdout)["rows"][0]["row"] == 4
    assert json.loads(gradwatch(work, "case.zip", "--json").stdout) == found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runs/none"], "There is no run, capture or bundle at 'runs/none'"),
        (["runs"], "holds no captures"),
        (["runs/a", "--step", "4", "train.py"], "holds no capture of step 4; it has step 3, step 20."),
        (
            ["runs/a", "--optimizer", "7", "train.py"],
            "no capture of optimizer 7; it has step 3 of optimizer 0, step 20",
        ),
        (["runs/a", "nothing.py"], "There is no script at 'nothing.py'"),
        (["runs/a", "train.py", "0"], "never called a model"),
        (["train.py"], "There is no run under 'runs'"),
        ([], "There is no run under 'runs'"),
        (["runs/nameless", "train.py", "5"], "does not say which parameters"),
        (["runs/a", "--step"], "--step needs a value"),
        (["runs/a", "--what"], "has no option '--what'"),
    ],
)
def test_errors_are_one_line(work, arguments, said):
    done = gradwatch(work, *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_a_run_it_names_the_run_that_it_chose(work, tmp_path):
    shutil.copytree(work, tmp_path, dirs_exist_ok=True)
    writer = StoreWriter(tmp_path / "runs" / "a")
    writer.begin_attempt({}, {})
    writer.end_attempt("closed")
    assert gradwatch(tmp_path, "train.py", "0").stderr.splitlines()[0].endswith("runs/a, the newest run with captures")
    shutil.rmtree(tmp_path / "runs" / "a" / "captures")
    assert "newest" not in gradwatch(tmp_path, "train.py", "0").stderr


def test_a_step_without_weights_is_replayed_with_those_of_the_script(work):
    done = gradwatch(work, "--json", "runs/bare", "train.py", "5")
    found = json.loads(done.stdout)
    assert (found["recurs"], found["origin"]["operation"]) == (None, "aten.div")
    assert [one["row"] for one in found["rows"] if one["stands_out"]] == [4]
    assert "the weights were not kept: the model's own were used" in found["unknown"]


def test_without_a_run_the_newest_is_replayed(work):
    later = work / "runs" / "without captures"
    later.mkdir()
    for folder in (work / "runs" / "a", later):
        (folder / "gradwatch.db").touch()
    try:
        done = gradwatch(work, "--step", "20", "train.py", "5")
        assert "STEP 20" in done.stdout, done.stderr
        assert gradwatch(work, "--step", "20").stdout == done.stdout.removeprefix("training\n")
    finally:
        (work / "runs" / "a" / "gradwatch.db").unlink()
        shutil.rmtree(later)


def test_a_script_that_changes_its_folder_and_a_damaged_capture_beside(work):
    moving = SCRIPT.replace("import sys", "import os, sys\nos.chdir('/')", 1)
    (work / "moves.py").write_text(moving)
    damaged = work / "runs" / "a" / "captures" / "step-000001"
    damaged.mkdir()
    try:
        done = gradwatch(work, "runs/a", "--bundle", "moved.zip", "moves.py", "5")
        assert done.returncode == 0, done.stderr
        assert "STEP 3" in done.stdout
        assert (work / "moved.zip").is_file()
        inside = gradwatch(work / "runs" / "a" / "captures", "step-000003")
        assert "yes, bit for bit" in " ".join(inside.stdout.split())
    finally:
        damaged.rmdir()


def test_options_stand_before_the_script():
    rest, options = split(["--step=5", "-m", "--json", "package.train", "-m", "x"], Options(optimizer="a"))
    assert rest == ["package.train", "-m", "x"]
    assert options == Options(step=5, optimizer="a", module=True, json=True)
    with pytest.raises(BadArgument, match="expected a step"):
        split(["--step", "five"], Options())


def test_a_report_names_what_was_replayed(runs, command, tmp_path):
    import shutil

    shutil.copytree(runs / "bad", tmp_path / "bad")
    folder = tmp_path / "bad" / "captures" / "step-000704"
    folder.mkdir(parents=True)
    write_replay(Replay(run="bad", step=704, optimizer="0", why="nonfinite", recurs="bitwise"), folder)
    done = command("report", tmp_path / "bad")
    assert "replayed" in done.out
    assert "happens again bit for bit" in done.out
    (found,) = json.loads(command("report", tmp_path / "bad", "--json").out)["replays"]
    assert (found["step"], found["headline"]) == (704, "happens again bit for bit")
