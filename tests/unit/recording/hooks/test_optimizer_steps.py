"""Steps of an optimizer are heard, within compiled functions too."""

import torch
from torch import nn

from gradwatch.recording.hooks import listen_to_steps

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
