"""Steps of an optimizer are heard, within compiled functions too."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.recording.hooks import listen_to_closures, listen_to_steps

from .gradients import parameter


def test_steps_within_a_compiled_function_are_heard_and_nothing_is_warned_of(recwarn):
    heard = []

    class Steps:
        def before_step(self, optimizer, has_closure):
            heard.append(("before", has_closure, torch.compiler.is_compiling()))

        def after_step(self, optimizer):
            heard.append(("after", torch.compiler.is_compiling()))

    optimizer = torch.optim.SGD([parameter(3.0, 4.0)], lr=0.1)
    listen_to_steps(optimizer, Steps())
    update = torch.compile(optimizer.step, backend="eager")
    for _ in range(3):
        update()
    assert heard == 3 * [("before", False, False), ("after", False)]
    assert not [warning for warning in recwarn if "gradwatch" in str(warning.message)]


@pytest.mark.parametrize("compiled", ["the whole step", "the update"])
def test_a_compiled_function_that_clips_and_steps_is_recorded_as_any_other(tmp_path, compiled):
    def trained(compiled):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

        def update():
            nn.utils.clip_grad_norm_(model.parameters(), 1e9)
            optimizer.step()

        if compiled == "the update":
            update = torch.compile(update, backend="eager")

        def step(x):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            update()

        if compiled == "the whole step":
            step = torch.compile(step, backend="eager")
        run = tmp_path / str(compiled)
        with gradwatch.attach(model, optimizer, run, weights_every=1, updates_every=1):
            for x in torch.randn(6, 3, 4):
                step(x)
        recorded = gradwatch.Run(run)
        codes = {finding.code for finding in recorded.diagnosis()}
        return recorded.steps()[["total_norm", "update_norm"]], "clipped-by-script" in codes

    expected, is_unheard = trained(None)
    assert expected.shape == (6, 2)
    assert not is_unheard
    with ThreadPoolExecutor(1) as pool:  # a thread that has clipped nothing yet, as a script has not
        found, is_unheard = pool.submit(trained, compiled).result()
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert is_unheard  # the clip call is in the graph


def test_steps_are_heard_before_and_after():
    heard = []

    class Steps:
        def before_step(self, optimizer, has_closure):
            heard.append(("before", has_closure, w.item()))

        def after_step(self, optimizer):
            heard.append(("after", w.item()))

    w = nn.Parameter(torch.tensor(1.0))
    w.grad = torch.tensor(1.0)
    optimizer = torch.optim.SGD([w], lr=0.5)
    stop = listen_to_steps(optimizer, Steps())
    optimizer.step()
    optimizer.step(lambda: torch.tensor(0.0))
    stop()
    optimizer.step()
    assert heard == [("before", False, 1.0), ("after", 0.5), ("before", True, 0.5), ("after", 0.0)]


def test_each_evaluation_of_a_closure_is_heard_before_the_update():
    heard = []
    w = nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.LBFGS([w], lr=0.5, max_iter=3)
    values = []

    def closure(scale=1.0):
        optimizer.zero_grad()
        loss = (w * scale).square()
        loss.backward()
        values.append((w.item(), w.grad.item()))
        return loss

    stop = listen_to_closures(optimizer, lambda stepped: heard.append((w.item(), w.grad.item())))
    assert optimizer.step(closure).item() == 1.0
    optimizer.step(closure=closure)
    stop()
    count = len(heard)
    optimizer.step(closure)
    assert heard == values[:count]
    assert 4 <= count < len(values)


def test_what_a_closure_returns_or_raises_reaches_the_step():
    optimizer = torch.optim.SGD([parameter(1.0)], lr=0.1)
    heard = []
    listen_to_closures(optimizer, heard.append)
    assert optimizer.step(lambda: "a loss") == "a loss"
    assert optimizer.step(closure=lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert optimizer.step() is None
    assert heard == [optimizer, optimizer]


@pytest.mark.parametrize("closure", [None, lambda: torch.zeros(())], ids=["plain", "closure"])
@pytest.mark.parametrize("moment", ["before_step", "after_step"])
def test_listening_may_end_within_a_step_that_has_more_hooks(moment, closure):
    heard = []

    class Ends:
        def before_step(self, optimizer, has_closure):
            self.hear("before_step")

        def after_step(self, optimizer):
            self.hear("after_step")

        def hear(self, now):
            heard.append(now)
            if now == moment:
                stop()
                stop_closures()

    weight = parameter(3.0)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    stop = listen_to_steps(optimizer, Ends())
    stop_closures = listen_to_closures(optimizer, lambda _: heard.append("closure"))
    later = []  # the user's own hooks, which come after ours
    optimizer.register_step_pre_hook(lambda *_: later.append("before"))
    optimizer.register_step_post_hook(lambda *_: later.append("after"))
    for _ in range(3):
        weight.grad = torch.ones(1)
        optimizer.step(closure)
    assert later == 3 * ["before", "after"]
    assert heard.count("before_step") == 1
    assert heard.count("after_step") == (moment == "after_step")
    stop()
    stop_closures()
    assert len(optimizer._optimizer_step_pre_hooks) == len(optimizer._optimizer_step_post_hooks) == 1
