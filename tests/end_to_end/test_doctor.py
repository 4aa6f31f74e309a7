"""`gradwatch doctor`: what it sees of scripts, right and wrong ones."""

import os
import subprocess
import sys
import textwrap

import pytest

from gradwatch.measure import fused

from .. import prepared

PREAMBLE = """
    import torch
    from torch import nn
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
"""
LOOP = """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(1000):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 3)).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.001)
        optimizer.step()
        print("step", step)
"""


def started(command, folder, **environment):
    """A process that has imported nothing before."""
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
        env=os.environ | environment,
        check=False,
    )


@pytest.fixture
def forked():
    """Runs a command in a process that has PyTorch already."""
    return prepared.forked().run


def doctor(run, tmp_path, script, *options):
    """Exit code, what it found as one line, what the script printed, and stderr."""
    (tmp_path / "train.py").write_text(textwrap.dedent(PREAMBLE) + textwrap.dedent(script))
    done = run(["-m", "gradwatch", "doctor", *options, "train.py"], tmp_path, COLUMNS="200")
    printed, _, found = done.stdout.partition("\ntrain.py")
    return done.returncode, " ".join(found.split()), printed, done.stderr


def test_a_sound_script_is_stopped_after_a_few_steps_and_leaves_nothing_behind(tmp_path):
    code, found, printed, _ = doctor(started, tmp_path, LOOP)
    assert code == 0
    assert printed.count("step") == 4, "stopped within the fifth step"
    assert "5 recorded, 5 calls of backward" in found
    assert "AdamW, 4 parameters with 26 entries, lr 0.001; 5 steps" in found
    line = (
        (tmp_path / "train.py")
        .read_text()
        .splitlines()
        .index("    nn.utils.clip_grad_norm_(model.parameters(), 0.001)")
    )
    assert f"clip_grad_norm_ at train.py:{line + 1}, threshold 0.001, 5 calls" in found
    assert "reached the gradient at 5 of 5 steps and changed it at 5" in found
    assert "a step in the training thread" in found
    route = "the compiled pass" if fused.is_available() else "PyTorch's operators"
    assert f"gradients are read by {route}" in found
    assert f"; updates by {route}" in found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.py"]


def test_without_the_compiled_part_the_route_and_what_it_leaves_out_are_said(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADWATCH_FUSED", "0")
    assert (
        "gradients are read by PyTorch's operators; zeros are counted every 16 steps"
        in doctor(started, tmp_path, LOOP)[1]
    )


def test_the_number_of_steps_can_be_given(forked, tmp_path):
    assert "9 recorded" in doctor(forked, tmp_path, LOOP, "--steps", "9")[1]


def test_a_policy_that_the_script_calls_is_seen(forked, tmp_path):
    loop = LOOP.replace("nn.utils.clip_grad_norm_(model.parameters(), 0.001)", "clip(model.parameters())")
    code, found, _, _ = doctor(
        forked, tmp_path, "\n    import gradwatch\n    clip = gradwatch.clip.AutoClip(10)\n" + loop
    )
    assert code == 0
    assert "AutoClip(percentile=10, window=1000) at train.py:" in found
    assert "reached the gradient at 5 of 5 steps" in found


def test_clipping_without_effect_is_a_problem_with_its_cause(forked, tmp_path):
    script = LOOP.replace("        loss.backward()\n", "").replace(
        "        optimizer.step()\n", "        loss.backward()\n        optimizer.step()\n"
    )
    code, found, _, _ = doctor(forked, tmp_path, script)
    assert code == 3
    assert "✗ clipping the clip call does not act on the gradient that the optimizer gets" in found
    assert "clip after the last backward of the step" in found
    assert "reached the gradient at 0 of 5 steps" in found


def test_scaling_and_accumulation_are_seen(forked, tmp_path):
    code, found, _, _ = doctor(
        forked,
        tmp_path,
        """
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        while True:
            for _ in range(4):
                scaler.scale(model(torch.randn(8, 3)).square().mean()).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        """,
    )
    assert code == 0
    assert (
        "5 recorded, 20 calls of backward · steps about 4 calls of backward for each step: their gradients add up"
        in found
    )
    assert "GradScaler at 1024, the loop calls unscale_; 0 steps skipped" in found
    assert "clipping no clipping function was called" in found


def test_a_scaler_that_unscales_by_itself(forked, tmp_path):
    script = """
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        while True:
            optimizer.zero_grad()
            scaler.scale(model(torch.randn(8, 3)).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
    """
    assert "GradScaler at 1024, scaler.step calls unscale_" in doctor(forked, tmp_path, script)[1]


def test_parameters_without_gradient_and_without_optimizer_are_named(forked, tmp_path):
    code, found, _, _ = doctor(
        forked,
        tmp_path,
        """
        model.unused = nn.Linear(3, 3)
        optimizer = torch.optim.SGD([*model[0].parameters(), *model.unused.parameters()], lr=0.1)
        while True:
            optimizer.zero_grad()
            model[2](model[1](model[0](torch.randn(8, 3)))).square().mean().backward()
            optimizer.step()
        """,
    )
    assert code == 3, "doctor fails where report would warn"
    assert "no gradient at the last step: unused.weight, unused.bias" in found
    assert "2.weight and 2.bias get gradients, but no optimizer holds them" in found


def test_several_optimizers(forked, tmp_path):
    _, found, _, _ = doctor(
        forked,
        tmp_path,
        """
        a = torch.optim.SGD(model[0].parameters(), lr=0.1)
        b = torch.optim.Adam(model[2].parameters(), lr=0.1)
        c = torch.optim.Adam(model.parameters(), lr=0.1)
        while True:
            model(torch.randn(8, 3)).square().mean().backward()
            a.step()
            b.step()
        """,
    )
    assert "9 recorded of 3 optimizers" in found
    assert "optimizer 2 Adam has made no step yet" in found


@pytest.mark.parametrize(
    ("script", "says"),
    [
        pytest.param(
            """
            optimizers = {p: torch.optim.SGD([p], 0.1) for p in model.parameters()}
            def hook(p):
                optimizers[p].step()
                optimizers[p].zero_grad()
            for p in model.parameters():
                p.register_post_accumulate_grad_hook(hook)
            while True:
                model(torch.randn(8, 3)).square().mean().backward()
            """,
            "optimizers step within backward",
            id="in backward",
        ),
        pytest.param(
            """
            while True:
                model.zero_grad()
                model(torch.randn(8, 3)).square().mean().backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                for p in model.parameters():
                    p.data.add_(p.grad, alpha=-0.1)
            """,
            "the loop has no optimizer: a step is recorded at each clip call",
            id="by hand",
        ),
    ],
)
def test_what_can_not_be_seen_is_said(forked, tmp_path, script, says):
    code, found, _, _ = doctor(forked, tmp_path, script)
    assert code == 0
    assert "5 recorded" in found
    assert says in found


@pytest.mark.parametrize(
    ("script", "code", "says"),
    [
        ("print('hello')", 3, "none: the script imported torch and never called backward"),
        ("1 / 0", 1, "ended by an exception of its own"),
        (LOOP.replace("range(1000)", "range(2)"), 0, "2 recorded"),
        (LOOP.replace("print(", "raise ValueError("), 1, "ended by an exception of its own ✓ steps 1 recorded"),
        ("import sys\nsys.exit(7)", 3, "none: "),
        ("def f(:", 1, "ended by an exception of its own"),
    ],
)
def test_scripts_that_end_by_themselves(forked, tmp_path, script, code, says):
    found_code, found, _, errors = doctor(forked, tmp_path, script)
    assert found_code == code
    assert says in found
    assert "gradwatch/" not in errors


def test_a_script_that_is_missing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "gradwatch", "doctor", "nowhere.py"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "script-not-found" in done.stderr
