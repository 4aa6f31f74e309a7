"""The search for a threshold by experiment: what is tried, what is said, what is kept."""

import functools
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch import Run
from gradwatch.errors import BadArgument, CannotTune
from gradwatch.script import tune as tune_module
from gradwatch.script.tune import Trial, candidates, cost, count_within, printed, rounds, search, tune

from ...prepared import forked

SCRIPT = """
import sys, torch
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr={rate})
print("begins", sys.argv)
for step in range(400):
    x = torch.randn(8, 4)
    if step % 10 == 9:
        x = x * {corrupt}
    loss = (model(x) - x.sum(1, keepdim=True)).abs().mean()
    optimizer.zero_grad()
    loss.backward()
    {clip}
    optimizer.step()
"""
CLIP = "torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)"


def script(tmp_path, rate=0.01, corrupt=1, clip=""):
    file = tmp_path / "train.py"
    file.write_text(SCRIPT.format(rate=rate, corrupt=corrupt, clip=clip))
    return file


def synthetic(loss_of, noise=0.0):
    made = []

    def train(max_norm, steps):
        made.append((max_norm, steps))
        loss = loss_of(max_norm, steps)
        return Trial(max_norm=max_norm, steps=steps, made=steps, loss=loss, error=noise, clipped_fraction=0.0)

    return train, made


# ------------------------------------------------------------------------------------ the search


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 12), st.integers(8, 100_000))
def test_it_costs_what_it_says(count, steps):
    train, made = synthetic(lambda c, s: 1.0 + abs(math.log(min(c, 100.0))) / s)
    search(candidates(1.0, count - 1), steps, train)
    assert sum(length for _, length in made) <= cost(count) * steps + count
    assert rounds(count, steps)[-1][1] == steps


def test_it_finds_the_best_threshold_and_says_what_clipping_is_worth():
    train, made = synthetic(lambda c, _: 1.0 + 0.2 * abs(math.log(min(c, 1e3) / 0.25)))
    found = search(candidates(1.0, 7), 1000, train)
    assert found.best == 0.25
    assert found.matters
    assert "without clipping" in found.verdict
    assert (math.inf, 1000) in made


def test_it_says_that_it_does_not_matter():
    train, _ = synthetic(lambda c, _: 2.0 + 0.001 * math.log(min(c, 100.0)))
    found = search(candidates(1.0, 5), 1000, train)
    assert not found.matters
    assert "does not matter" in found.verdict
    assert found.high == math.inf


def test_a_difference_within_the_noise_does_not_matter():
    train, _ = synthetic(lambda c, _: 2.0 if c == 0.25 else 2.2, noise=0.2)
    assert not search(candidates(1.0, 5), 1000, train).matters


def test_what_is_lost_is_worst_and_all_lost_is_said():
    train, _ = synthetic(lambda c, _: None if c > 1 else 1.0 + c)
    found = search(candidates(1.0, 6), 1000, train)
    assert found.best == 0.0156
    assert found.matters
    assert "without clipping the training diverges" in found.verdict
    train, made = synthetic(lambda c, _: None)
    lost = search(candidates(1.0, 6), 1000, train)
    assert lost.best is None
    assert "every training diverged" in lost.verdict
    assert {length for _, length in made} == {250}, "longer ones would be lost as well"


def test_a_budget_that_is_too_small_is_said(tmp_path):
    assert count_within(1000) == 12
    with pytest.raises(BadArgument, match="--budget is 1"):
        count_within(1)
    with pytest.raises(BadArgument, match="--steps is 3"):
        tune(["x.py"], False, tmp_path, 3, 7)


# ---------------------------------------------------------------------------------- with a script


def gradwatch(*arguments, cwd):
    """The command line in a process that has PyTorch already."""
    return forked().run(["-m", "gradwatch", *map(str, arguments)], cwd)


@pytest.fixture
def tuned(monkeypatch, tmp_path, command):
    """`gradwatch tune` in this process, and its trials in processes that have PyTorch already."""

    def start(command, **options):
        assert command[0] == sys.executable
        return forked().start(command[1:], **options)

    monkeypatch.setattr(tune_module, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": start}))
    monkeypatch.chdir(tmp_path)
    return functools.partial(command, "tune")


@pytest.mark.parametrize(
    ("clip", "max_norm"),
    [
        ("", "0.05"),
        (CLIP, "inf"),
        pytest.param("", "inf", marks=pytest.mark.slow),
        pytest.param(CLIP, "0.05", marks=pytest.mark.slow),
    ],
)
def test_run_overrides_the_threshold_whether_or_not_the_script_clips(tmp_path, clip, max_norm):
    file = script(tmp_path, clip=clip)
    done = gradwatch("run", "--run", "a", "--max-norm", max_norm, "--steps", "20", file, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = Run(tmp_path / "a").steps()
    assert len(steps) == 20
    assert set(steps["max_norm"].dropna()) <= {float(max_norm)}
    expected = [min(1.0, float(max_norm) / (norm + 1e-6)) for norm in steps["total_norm"]]
    assert steps["clip_coef"].tolist() == pytest.approx(expected, rel=1e-6)


def test_with_another_threshold_the_training_is_the_one_with_that_threshold_in_the_script(tmp_path):
    own = script(tmp_path, clip=CLIP.replace("3.0", "0.1"))
    command = ["run", "--steps", "100", "--run"]
    gradwatch(*command, "own", own, cwd=tmp_path)
    gradwatch(*command, "other", "--max-norm", "0.1", script(tmp_path, clip=CLIP), cwd=tmp_path)
    gradwatch(*command, "added", "--max-norm", "0.1", script(tmp_path), cwd=tmp_path)
    losses = [Run(tmp_path / name).steps()["loss"].tolist() for name in ("own", "other", "added")]
    assert len(losses[0]) == 100
    assert losses[0] == losses[1]
    assert losses[0] == pytest.approx(losses[2], rel=1e-4)


def test_a_threshold_that_can_not_be_meant_is_refused(tmp_path):
    done = gradwatch("run", "--max-norm", "-1", script(tmp_path), cwd=tmp_path)
    assert done.returncode == 1
    assert "--max-norm is -1.0" in done.stderr


@pytest.mark.slow
def test_tune_finds_that_clipping_helps_against_corrupted_batches(tuned, tmp_path):
    file = script(tmp_path, rate=0.1, corrupt=1000)
    done = tuned("--steps", "200", "--budget", "5", file, "its", "--own", "arguments")
    assert done.code == 0, done.err
    assert "clip at" in done.out
    assert "clip_grad_norm_" in done.out
    folder = tmp_path / "runs" / "tune-train"
    outputs = [file.read_text() for file in folder.rglob("output.txt")]
    assert all("['" in text and "'its', '--own', 'arguments']" in text for text in outputs)
    again = tuned("--steps", "200", "--budget", "5", "--json", file, "its", "--own", "arguments")
    found = json.loads(again.out)
    assert found["matters"]
    assert found["best"] < 1000
    assert {trial["max_norm"] for trial in found["trials"]} >= {"Infinity"}


def test_after_ctrl_c_the_same_command_goes_on(tuned, tmp_path):
    arguments = ["--steps", "40", "--budget", "4", str(script(tmp_path))]
    command = [sys.executable, "-m", "gradwatch", "tune", *arguments]
    first = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    folder = tmp_path / "runs" / "tune-train"
    deadline = time.monotonic() + 200
    while len(list(folder.rglob("finished"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGINT)
    _, errors = first.communicate(timeout=100)
    assert first.returncode == 130
    assert "the same command continues" in errors
    kept = {mark: mark.stat().st_mtime_ns for mark in folder.rglob("finished")}
    done = tuned(*arguments)
    assert done.code == 0, done.err
    assert kept
    assert {mark: mark.stat().st_mtime_ns for mark in kept} == kept


@pytest.mark.slow
def test_tune_judges_by_what_the_script_prints_and_judges_the_same_runs_again(tuned, tmp_path):
    file = script(tmp_path, rate=0.1, clip=f"print('step', step, 'weights', model.weight.norm().item()); {CLIP}")
    command = ["--steps", "40", "--budget", "4", "--json"]
    found = {}
    for pattern in ("weights (.*)", "step ([0-9]+)"):
        done = tuned(*command, "--judge-by", pattern, file)
        assert done.code == 0, done.err
        found[pattern] = json.loads(done.out)
        outputs = [(Path(trial["run"]), trial) for trial in found[pattern]["trials"]]
        for run, trial in outputs:
            numbers = [float(n) for n in re.findall(pattern, (tmp_path / run / "output.txt").read_text())]
            assert trial["loss"] == statistics.median(numbers[-len(numbers) // 5 :])
    marks = {mark: mark.stat().st_mtime_ns for mark in (tmp_path / "runs").rglob("finished")}
    assert not found["step ([0-9]+)"]["matters"], "every run printed the same numbers of steps"
    plain = tuned(*command, file)
    assert {mark: mark.stat().st_mtime_ns for mark in marks} == marks
    assert json.loads(plain.out)["trials"][0]["loss"] not in {trial["loss"] for _, trial in outputs}


def test_what_a_pattern_finds_in_the_output(tmp_path):
    output = tmp_path / "output.txt"
    output.write_bytes(b"epoch 1 held out 0.5\r\nepoch 2 held out nan\n\xff held out 1e-3")
    assert printed(output, re.compile(r"held out (\S+)")).tolist() == pytest.approx([0.5, math.nan, 1e-3], nan_ok=True)
    assert printed(output, re.compile(r"(?<=epoch )\d")).tolist() == [1.0, 2.0]
    assert printed(output, re.compile("accuracy (.*)")).tolist() == []
    with pytest.raises(BadArgument, match=r"'held out', which is not a number\. Put the number into parentheses"):
        printed(output, re.compile("held out"))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("held out (", "is not a regular expression"),
        ("accuracy (.*)", "matches nothing in the output of a run of 10 steps"),
    ],
)
def test_a_pattern_that_judges_nothing_is_said(tuned, tmp_path, pattern, message):
    done = tuned("--steps", "40", "--judge-by", pattern, script(tmp_path))
    assert done.code == 1
    assert message in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise SystemExit(5)", "exit code 5"),
        ("import torch", "exit code 0"),
        ("def broken(:", "exit code 1"),
    ],
)
def test_a_script_that_does_not_train_is_said(tuned, tmp_path, text, message):
    (tmp_path / "train.py").write_text(text)
    done = tuned("--steps", "40", "train.py")
    assert done.code == 1
    assert message in done.err
    assert "output.txt" in done.err
    assert "Traceback" not in done.err


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("x")
    with pytest.raises(CannotTune, match="does not hold a tuning"):
        tune(["a.py"], False, tmp_path / "mine", 40, 7)
    other = tmp_path / "other"
    other.mkdir()
    (other / "tune.json").write_text(json.dumps({"arguments": ["b.py"], "module": False}))
    with pytest.raises(CannotTune, match="another command"):
        tune(["a.py"], False, other, 40, 7)
    assert [path.name for path in Path(tmp_path / "mine").iterdir()] == ["notes"]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", None], ids=["cut off", "no text", "a folder"])
def test_a_folder_that_can_not_be_used_is_one_clear_error(tmp_path, content):
    folder = tmp_path / "trials"
    if content is None:
        (folder / "tune.json").mkdir(parents=True)
    else:
        folder.mkdir()
        (folder / "tune.json").write_bytes(content)
    with pytest.raises(CannotTune, match="can't be used"):
        tune([str(script(tmp_path))], False, folder, 100, 4)
    (tmp_path / "file").touch()
    with pytest.raises(CannotTune, match="can't be used"):
        tune([str(script(tmp_path))], False, tmp_path / "file" / "trials", 100, 4)
