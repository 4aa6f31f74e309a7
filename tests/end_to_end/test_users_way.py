"""What a newcomer runs: the examples, the demonstration, the README."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import gradwatch
from gradwatch import Run
from gradwatch.testing import steady, stream, write_run

from ..prepared import forked

ROOT = Path(__file__).parent.parent.parent


VARIABLES = {"COLUMNS": "80", "WANDB_MODE": "offline"}  # no account, no network


def run_command(*command, cwd):
    """In a process that has imported nothing."""
    env = os.environ | VARIABLES
    return subprocess.run(command, capture_output=True, text=True, timeout=580, cwd=cwd, env=env)


def run_forked(*command, cwd):
    """Python with a command, in a process that has PyTorch already."""
    return forked().run(command, cwd, **VARIABLES)


@pytest.mark.slow
def test_the_character_lstm_is_recorded_from_the_first_step_to_the_last(tmp_path):
    done = run_command(sys.executable, ROOT / "examples" / "char_rnn.py", "--steps", "320", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "runs" / "char-rnn")
    steps = run.steps()
    assert steps.index.tolist() == list(range(320))
    assert (steps["max_norm"] == 1.0).all()
    assert steps["loss"].iloc[-20:].mean() < 0.6 * steps["loss"].iloc[0]
    summary = run.summary()
    assert summary.verdict == "healthy"
    assert len(summary.layers) == 11
    assert run.layers("update_ratio").index.tolist() == list(range(0, 320, 50))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "threshold"),
    [("lightning_digits", 145, 0.5), ("transformers_stdlib", 100, 1.0), ("accelerate_digits", 75, 0.5)],
)
def test_each_framework_has_an_example(tmp_path, name, steps, threshold):
    done = run_command(sys.executable, ROOT / "examples" / f"{name}.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "runs" / name.replace("_", "-"))
    found = run.steps()
    assert found.index.tolist() == list(range(steps))
    assert (found["max_norm"] == threshold).all()
    assert found["loss"].iloc[-10:].mean() < 0.8 * found["loss"].iloc[:10].mean()
    assert [event for event in run.events() if event.severity != "info"] == []


def test_the_temporal_order_is_recorded_without_clipping_and_with_it(tmp_path):
    script = ROOT / "examples" / "temporal_order.py"
    done = run_forked(script, "--length", "10", "--steps", "300", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("of fresh sequences wrong after 300 updates") == 2
    plain, clipped = (Run(tmp_path / "runs" / f"temporal-order-{name}").steps() for name in ("none", "1"))
    assert plain["max_norm"].isna().all()
    assert (clipped["max_norm"] == 1.0).all()
    assert len(plain) == len(clipped) == 300


@pytest.mark.slow
def test_the_demonstration_explodes_is_advised_and_survives(tmp_path):
    done = run_command(sys.executable, "-m", "gradwatch", "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    # a seed may survive, on this processor; the demonstration then takes the next
    newest = max((tmp_path / "runs").glob("demo*"), key=lambda path: path.stat().st_mtime_ns)
    clipped = Run(newest)
    plain = Run(newest.with_name(newest.name.replace("-clipped", "")))
    # the explosion comes from the training, and the verdict from the recording
    assert plain.summary().verdict == "critical"
    assert plain.summary().reason.startswith("the training diverged from step")
    assert len(plain.steps()) < 8000
    advice = plain.recommend()
    assert (clipped.steps()["max_norm"] == advice.max_norm).all()
    assert clipped.summary().verdict == "healthy"
    assert len(clipped.steps()) > len(plain.steps())
    assert clipped.summary().loss.last < 0.5 * clipped.summary().loss.first
    for text in ("CRITICAL", f"max_norm {advice.max_norm:g}", f"loss: {clipped.name}", f"total norm: {plain.name}"):
        assert text in done.stdout


def test_a_short_demonstration_refuses_to_advise(tmp_path):
    done = run_command(sys.executable, "-m", "gradwatch", "demo", "--steps", "60", cwd=tmp_path)
    assert done.returncode == 0
    assert "no recommendation" in done.stdout
    again = run_forked("-m", "gradwatch", "demo", "--steps", "60", cwd=tmp_path)
    assert "runs/demo-4" in again.stdout, "an earlier run is not overwritten"
    assert again.returncode == 0


def test_ctrl_c_ends_the_demonstration_quietly(tmp_path):
    demo = subprocess.Popen(
        [sys.executable, "-m", "gradwatch", "demo"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 100
    while demo.poll() is None and time.monotonic() < end and steps_of(tmp_path / "runs" / "demo") <= 10:
        time.sleep(0.2)
    demo.send_signal(signal.SIGINT)
    errors = demo.communicate(timeout=60)[1]
    assert demo.returncode == 130
    assert "Traceback" not in errors
    assert steps_of(tmp_path / "runs" / "demo") > 10


def steps_of(run):
    """How many steps are there yet; none before there is a run."""
    try:
        return len(Run(run).steps())
    except gradwatch.GradwatchError:
        return 0


def commands_of_the_readme():
    """Those of the README, and those of the page that lists every command that reads a run."""
    page = (ROOT / "docs" / "command-line.md").read_text()
    listed = page[page.index("## Read a run") : page.index("## Defaults of your own")]
    text = (ROOT / "README.md").read_text() + listed
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.startswith("gradwatch ")]


VIEW = "gradwatch view runs/first"


def marked(line):
    """`gradwatch tune` trains many times."""
    return pytest.param(line, marks=pytest.mark.slow) if line.startswith("gradwatch tune") else line


@pytest.mark.parametrize(
    "line",
    [marked(line) for line in sorted(set(commands_of_the_readme()) - {"gradwatch demo", "gradwatch watch", VIEW})],
)
def test_every_command_of_the_readme_runs(tmp_path, line):
    """The demonstration and the example have tests of their own; the rest are set-up and this suite."""
    (tmp_path / "train.py").write_text(
        "import sys, torch\n"
        "model = torch.nn.Linear(4, 1)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=float(sys.argv[2]) if len(sys.argv) > 2 else 0.1)\n"
        "for _ in range(5):\n"
        "    model(torch.randn(8, 4)).square().mean().backward()\n"
        "    optimizer.step()\n"
        "    optimizer.zero_grad()\n"
        "print('trained')\n"
    )
    norms = "\n".join(f"{step},{norm}" for step, norm in enumerate(steady(400)))
    (tmp_path / "history.csv").write_text(f"step,grad_norm\n{norms}\n")
    for name in ("first", "second", "char-rnn"):
        write_run(tmp_path / "runs" / name, stream(steady(400)))
    command = ["-m", *shlex.split(line)]
    if line.startswith(("gradwatch run --", "gradwatch doctor")):
        done = run_forked(*command, cwd=tmp_path)
    else:
        done = run_command(sys.executable, *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_readme_s_page_is_served_until_it_is_interrupted(tmp_path):
    assert VIEW in commands_of_the_readme()
    write_run(tmp_path / "runs" / "first", stream(steady(400)))
    command = [sys.executable, "-m", *VIEW.split(), "--no-open"]
    serving = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert serving.stdout is not None
        assert "http://127.0.0.1:" in serving.stdout.readline()
    finally:
        serving.send_signal(signal.SIGINT)
        _, errors = serving.communicate(timeout=60)
    assert "Traceback" not in errors


def python_blocks_of_the_readme():
    loop, imports, options = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return loop, imports, options


@pytest.mark.parametrize("line", python_blocks_of_the_readme()[1].splitlines())
def test_each_integration_of_the_readme_can_be_imported(line):
    if "keras" in line:
        pytest.importorskip("keras")
    exec(line, {})


def test_the_loop_of_the_readme_is_recorded(tmp_path):
    """The Python block of the README, with a model and data around it."""
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "model = torch.nn.Linear(4, 1); criterion = torch.nn.MSELoss()\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "loader = [(torch.randn(8, 4), torch.randn(8, 1)) for _ in range(400)]\n" + python_blocks_of_the_readme()[0]
    )
    done = run_command(sys.executable, script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = run_command(sys.executable, "-m", "gradwatch", "report", "--json", cwd=tmp_path)
    found = json.loads(report.stdout)
    assert found["steps"] == 400
    assert found["clipping"]["threshold"] == 1.0
    assert found["loss"]["last"] > 0


@pytest.mark.parametrize("line", python_blocks_of_the_readme()[2].splitlines())
def test_each_option_of_attach_in_the_readme_records_a_training(tmp_path, line):
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    names = {"gradwatch": gradwatch, "model": model, "optimizer": optimizer, "run": tmp_path / "run"}
    with eval(line.partition("#")[0], names):
        for _ in range(5):
            model(torch.ones(8, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert len(Run(tmp_path / "run").steps()) == 5
