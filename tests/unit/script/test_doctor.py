"""What is observed in a few steps of a script; each examination is a process, for its hooks stay."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from gradwatch.script.doctor import Examination, Observation, told_by_clock

from ...prepared import forked

EXAMINE = """
import json, sys
from pathlib import Path
from gradwatch.script.doctor import examine
from gradwatch.script.launch import Program
path = Path(sys.argv[1])
found = examine(Program(path, (str(path),)), steps=int(sys.argv[2]))
print(json.dumps([found.failed, found.has_problem, [(o.mark, o.about, o.text) for o in found.observations]]))
"""


def examined(tmp_path: Path, script: str, steps: int = 3):
    """Whether the script failed, whether there is a problem, and the observations; then what it printed."""
    path = tmp_path / "train.py"
    path.write_text(textwrap.dedent(script))
    command = ["-c", EXAMINE, str(path), str(steps)]
    if "torch" in script.replace("no torch", ""):
        done = forked().run(command, tmp_path)
    else:  # nothing imports PyTorch
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.splitlines()
    failed, has_problem, observations = json.loads(last)
    return failed, has_problem, [tuple(one) for one in observations], printed


@pytest.mark.parametrize(
    ("marks", "expected"), [([], False), (["fine", "note"], False), (["fine", "problem"], True), (["problem"], True)]
)
def test_an_examination_has_a_problem_if_one_observation_is_one(marks, expected):
    found = Examination("train.py", tuple(Observation(mark, "steps", "text") for mark in marks), False)
    assert found.has_problem is expected


def test_a_script_is_stopped_after_the_steps_and_its_clip_calls_are_told(tmp_path):
    failed, _, observations, printed = examined(
        tmp_path,
        """
        import torch
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
        for step in range(100):
            print("step", step)
            optimizer.zero_grad()
            for _ in range(2):
                model(torch.randn(8, 4)).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
        """,
    )
    assert printed == ["step 0", "step 1", "step 2"]
    assert not failed
    told = {about: text for _, about, text in reversed(observations)}
    assert told["steps"] == "3 recorded, 6 calls of backward"
    assert told["optimizer 0"].startswith("SGD, 2 parameters with 5 entries, lr 0.25; 3 steps")
    assert told["clipping"] == "clip_grad_norm_ at train.py:10, threshold 0.5, 3 calls"
    assert "ms a step in the training thread" in told["cost"]


def test_a_script_that_makes_an_optimizer_for_each_batch_is_stopped_and_told(tmp_path):
    _, has_problem, observations, printed = examined(
        tmp_path,
        """
        import torch
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        x = torch.randn(64, 4)
        for step in range(1000):
            print("step", step)
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        """,
        steps=5,
    )
    assert 10 <= len(printed) < 100
    assert has_problem
    (told,) = [text for mark, about, text in observations if (mark, about) == ("problem", "diagnosis")]
    assert "optimizers (Adam) train the same weights one after another, for 1 step each" in told


@pytest.mark.parametrize("scale", [0.5, None])
def test_gradients_that_the_script_changes_by_itself_are_told(tmp_path, scale):
    _, has_problem, observations, _ = examined(
        tmp_path,
        f"""
        import torch
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
        for step in range(100):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            if {scale} is not None:
                for p in model.parameters():
                    p.grad.mul_({scale})
            optimizer.step()
        """,
        steps=5,
    )
    assert not has_problem
    ((mark, text),) = [(mark, text) for mark, about, text in observations if about == "clipping"]
    assert mark == "note"
    if scale is None:
        assert text == "no clipping function was called"
    else:
        assert "the recorded norms are those after that change" in text


@pytest.mark.parametrize(
    ("script", "has_failed", "says"),
    [
        ("print('no torch')", False, "did not import torch"),
        ("import sys; sys.exit(3)", False, "did not import torch"),
        ("raise ValueError('mine')", True, "did not import torch"),
    ],
)
def test_a_script_that_makes_no_step_is_a_problem(tmp_path, script, has_failed, says):
    failed, has_problem, observations, _ = examined(tmp_path, script)
    assert (failed, has_problem) == (has_failed, True)
    ((mark, about, text),) = observations
    assert (mark, about) == ("problem", "steps")
    assert says in text


def test_a_clip_call_in_the_wrong_place_is_told_with_its_remedy(tmp_path):
    script = """
        import torch
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(9):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            optimizer.step()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    """
    _, has_problem, observations, _ = examined(tmp_path, script)
    assert has_problem
    (text,) = [text for mark, about, text in observations if (mark, about) == ("problem", "clipping")]
    assert "called after the optimizer's step" in text
    assert "call it between backward and the optimizer's step" in text


def test_a_scaled_loss_that_overflows_is_no_loss_that_is_not_finite(tmp_path):
    _, has_problem, observations, _ = examined(
        tmp_path,
        """
        import torch
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
        for step in range(8):
            optimizer.zero_grad()
            scaler.scale((model(torch.randn(8, 4)) - 3).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
        """,
        steps=5,
    )
    assert not has_problem
    (text,) = [text for _, about, text in observations if about == "scaling"]
    assert "0 steps skipped" not in text


@pytest.mark.parametrize(
    ("step", "ours", "mark", "says"),
    [
        pytest.param(0.1, 0.002, "fine", "2 ms of 100 ms a step in the training thread (2%), the median", id="cheap"),
        pytest.param(0.1, 0.01, "note", "(10%), the median of 4 steps; the goal is 3%. The first steps", id="dear"),
        pytest.param(0.002, 0.001, "note", "; the goal is 3%, which steps this short can't meet: a part", id="a toy"),
        pytest.param(0.002, 0.00002, "fine", "0.02 ms of 2 ms a step in the training thread (1%)", id="a cheap toy"),
    ],
)
def test_the_cost_has_a_tick_where_it_is_within_the_goal(step, ours, mark, says):
    clock = [(7.0 + i * step, i * ours) for i in range(5)]
    told = told_by_clock(clock, "a loop")
    assert (told.mark, says in told.text) == (mark, True)
    assert ("gradwatch doctor --steps 100" in told.text) == (mark == "note" and step == 0.1)


def test_a_slow_first_step_does_not_count_as_the_cost():
    clock = [(0.0, 0.0), (1.0, 0.9), (1.1, 0.901), (1.2, 0.902), (1.3, 0.903)]
    told = told_by_clock(clock, "a loop")
    assert (told.mark, "1 ms of 100 ms a step" in told.text) == ("fine", True)


def test_the_cost_of_many_steps_is_told_without_a_hint_to_measure_more():
    told = told_by_clock([(i * 0.1, i * 0.01) for i in range(30)], "a loop")
    assert told.text.startswith("10 ms of 100 ms a step in the training thread (10%), the median of 29 steps")
    assert "--steps" not in told.text


def test_the_cost_of_one_step_is_not_known():
    assert told_by_clock([(0.0, 0.0)], "a loop").text.startswith("not known after one step")


BACKWARDS = """
    import torch
    model = torch.nn.Linear(4, 1)
    optimizer = {optimizer}
    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(8, 4)).square().mean()
        loss.backward()
        return loss
    for step in range(8):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 4)).square().mean()
        {calls}
"""
SGD = "torch.optim.SGD(model.parameters(), lr=0.01)"
LBFGS = "torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=3, tolerance_change=0, tolerance_grad=0)"


@pytest.mark.parametrize(
    ("optimizer", "calls", "mark", "says"),
    [
        pytest.param(SGD, "loss.backward(); optimizer.step()", None, "", id="once"),
        pytest.param(
            SGD,
            "loss.backward(retain_graph=True); loss.backward(); optimizer.step()",
            "problem",
            "backward is called again on the same loss before 5 of 5 steps: its gradient counts once for each call",
            id="the same loss twice",
        ),
        pytest.param(
            SGD,
            "loss.backward(); model(torch.randn(8, 4)).square().mean().backward(); optimizer.step()",
            "note",
            "about 2 calls of backward for each step: their gradients add up, as they should for micro-batches",
            id="two losses",
        ),
        pytest.param(LBFGS, "optimizer.step(closure)", "fine", "calls of the closure for each step", id="a closure"),
    ],
)
def test_several_calls_of_backward_before_a_step_are_told(tmp_path, optimizer, calls, mark, says):
    _, has_problem, observations, _ = examined(tmp_path, BACKWARDS.format(optimizer=optimizer, calls=calls), steps=5)
    assert has_problem == (mark == "problem")
    first, *more = [(mark, text) for mark, about, text in observations if about == "steps"]
    assert first[0] == "fine"
    assert [(found, says in text) for found, text in more] == ([(mark, True)] if mark else [])


LOOP = """
    import copy
    import torch
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    trained = copy.deepcopy(model) if {copied} else model
    for step in range(8):
        trained.zero_grad()
        trained(torch.randn(8, 4)).square().mean().backward()
        {step}
"""


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("optimizer.step", "call the optimizer's step after backward"),
        ("model.weight.detach().add_(model.weight.grad)", "call the step that makes the update"),
    ],
)
def test_steps_that_are_never_made_are_told_with_their_remedy(tmp_path, step, says):
    _, has_problem, observations, _ = examined(tmp_path, LOOP.format(copied=False, step=step))
    assert has_problem
    (none, (mark, about, text)) = observations
    assert none == ("problem", "steps", "none: no optimizer made a step")
    assert (mark, about) == ("problem", "diagnosis")
    assert says in text


@pytest.mark.parametrize("copied", [True, False])
def test_a_copy_that_is_trained_in_place_of_the_model_is_told(tmp_path, copied):
    _, has_problem, observations, _ = examined(tmp_path, LOOP.format(copied=copied, step="optimizer.step()"), steps=5)
    assert has_problem == copied
    assert any("another Linear of the same shapes" in text for _, _, text in observations) == copied


def test_doctor_notes_an_optimizer_that_has_made_no_step_yet(tmp_path):
    """A generator is updated once for eight updates of its critic."""
    _, has_problem, observations, _ = examined(
        tmp_path,
        """
        import torch
        maker, critic = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
        of_maker = torch.optim.SGD(maker.parameters(), lr=0.1)
        of_critic = torch.optim.SGD(critic.parameters(), lr=0.1)
        for step in range(20):
            of_maker.zero_grad()
            of_critic.zero_grad()
            critic(maker(torch.randn(8, 2))).square().mean().backward()
            (of_maker if step % 9 == 8 else of_critic).step()
        """,
        steps=5,
    )
    assert not has_problem
    assert ("note", "optimizer 0", "SGD has made no step yet") in observations


def test_doctor_fails_over_parts_without_an_optimizer_that_only_a_function_of_the_script_knows(tmp_path):
    _, has_problem, observations, _ = examined(
        tmp_path,
        """
        import torch

        def main():
            model = torch.nn.Sequential(torch.nn.Linear(4, 4))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            model.append(torch.nn.Linear(4, 1))
            for _ in range(8):
                model.zero_grad()
                model(torch.randn(8, 4)).square().mean().backward()
                optimizer.step()

        main()
        """,
    )
    problems = [text for mark, about, text in observations if mark == "problem"]
    assert any("1.weight and 1.bias" in text for text in problems)
    assert has_problem


@pytest.mark.parametrize("amount", [0, 1, 2])
def test_a_training_in_processes_of_the_script_is_said_not_to_be_looked_at(tmp_path, amount):
    script = f"""
        import multiprocessing
        import torch
        for _ in range({amount}):
            process = multiprocessing.get_context("fork").Process(target=print, args=("trained",))
            process.start()
            process.join()
    """
    _, _, observations, _ = examined(tmp_path, script)
    assert observations[0][2] == "none: the script imported torch and never called backward"
    said = f"the script started {amount} process{'es' if amount > 1 else ''}; doctor does not look at trainings there"
    assert [text.startswith(said) for _, about, text in observations if about == "unseen"] == [True] * (amount > 0)
