"""A tap hears each forward that is called from outside, and changes none."""

import copy
import io
import math
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn

from gradwatch.recording.capture.forwards import unwrapped

from .support import Heard


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def deep():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Sequential(nn.Linear(4, 2), nn.ReLU()))


@pytest.mark.parametrize("value", [1.0, 0.0, 1e30, math.nan, math.inf])
def test_the_gradient_from_outside_arrives_as_autograd_has_it(value):
    heard, x = Heard(deep()), torch.full((2, 3), 0.5)
    plain = copy.deepcopy(heard.model)
    heard.tap.close()
    output = plain(x).detach().requires_grad_()
    (expected,) = torch.autograd.grad((output * value).sum(), output)
    heard = Heard(heard.model)
    heard.backward((heard.model(x) * value).sum())
    ((forward, index, gradient),) = heard.arrivals
    torch.testing.assert_close(gradient, expected, rtol=0, atol=0, equal_nan=True)
    assert (forward.module, index, heard.tap.seen, heard.failed) == ("", 0, 1, [])
    assert forward.args[0] is x


def test_training_is_the_same_bit_for_bit():
    model = deep()
    other = copy.deepcopy(model)
    heard = Heard(model)
    for one in (model, other):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            one(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
    assert heard.tap.seen == 3
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def test_modules_that_the_loop_calls_on_their_own_are_heard_by_their_names():
    model = nn.ModuleDict({"encoder": deep(), "head": nn.Linear(2, 1), "act": nn.Tanh()})
    heard = Heard(model)
    heard.backward(model["act"](model["head"](model["encoder"](torch.ones(1, 3)))).sum())
    assert [forward.module for forward, _, _ in heard.arrivals] == ["head", "encoder"]


def test_what_a_called_module_holds_is_not_listened_to_any_more():
    heard = Heard(deep())
    heard.model(torch.ones(1, 3))
    assert [bool(module._forward_hooks) for module in heard.model.modules()] == [True] + [False] * 5


def test_a_forward_without_gradients_is_not_seen():
    heard = Heard()
    with torch.no_grad():
        heard.model(torch.ones(1, 2))
    assert heard.tap.seen == 0
    with torch.inference_mode():
        heard.model(torch.ones(1, 2))
    assert heard.tap.seen == 0


def test_a_forward_that_raises_leaves_the_next_one_seen():
    heard = Heard()
    with pytest.raises(RuntimeError):
        heard.model(torch.ones(1, 3))
    heard.backward(heard.model(torch.ones(1, 2)).sum())
    assert len(heard.arrivals) == 1


def test_forwards_of_other_threads_are_not_heard():
    heard = Heard()
    thread = threading.Thread(target=lambda: heard.model(torch.ones(1, 2)))
    thread.start()
    thread.join()
    assert heard.tap.seen == 0


def test_an_output_of_a_class_of_its_own_is_left_as_it_is_and_said():
    class Own(torch.Tensor):
        pass

    class Model(nn.Linear):
        def forward(self, x):
            return super().forward(x).as_subclass(Own)

    heard = Heard(Model(2, 1))
    assert type(heard.model(torch.ones(1, 2))) is Own
    assert heard.tap.faults == {"its output is a tensor of a class of its own"}


def test_a_closed_tap_leaves_no_hook():
    heard = Heard(deep())
    heard.tap.close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in heard.model.modules())


def test_what_is_listened_to_already_is_not_listened_to_twice():
    """As `gradwatch run` finds a compiled model: in the midst of its first step."""
    model = deep()
    compiled = torch.compile(model, backend="eager")
    heard = Heard(model)
    heard.tap.look_for_compiled()
    hooks = compiled._forward_pre_hooks
    assert len(hooks) == 1
    heard.backward(compiled(torch.ones(2, 3)).sum())
    assert (heard.tap.seen, heard.failed) == (1, [])


def test_a_hook_that_is_taken_out_while_its_module_runs_does_no_harm():
    model = deep()
    heard = Heard(model)
    model.register_forward_pre_hook(lambda *_: heard.tap.close(), prepend=True)
    expected = copy.deepcopy(deep())(torch.ones(2, 3))
    assert torch.equal(model(torch.ones(2, 3)), expected)
    assert heard.failed == []


def test_an_output_changed_in_place_is_heard_and_held_no_longer_than_the_loop_has_it():
    model = nn.Linear(3, 1)
    heard = Heard(model)
    output = model(torch.ones(2, 3))
    output *= 5
    made = heard.backward(output.sum())
    ((_, (gradient,)),) = made.in_order()
    assert gradient.tensor.tolist() == [[5.0], [5.0]]
    inputs = torch.ones(2, 3)
    gone, output = weakref.ref(inputs), model(inputs)
    del inputs
    assert gone() is not None
    del output
    assert gone() is None


def test_wrappers_are_taken_off():
    model = nn.Linear(1, 1)
    assert unwrapped(model) is model
    assert unwrapped(torch.compile(model)) is model
    wrapper = type("DistributedDataParallel", (nn.Module,), {})()
    wrapper.module = torch.compile(model)
    assert unwrapped(wrapper) is model
    other = nn.Module()
    other.module = model  # a model's own module of that name
    assert unwrapped(other) is other


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one)), saved_and_loaded])
def test_a_copy_of_a_model_that_is_heard_is_not_heard(copied):
    heard = Heard(deep())
    twin = copied(heard.model)
    heard.backward(twin(torch.ones(2, 3)).sum())
    assert (heard.arrivals, heard.tap.seen, heard.failed) == ([], 0, [])
    assert all(map(torch.equal, twin.parameters(), heard.model.parameters()))
    heard.backward(heard.model(torch.ones(2, 3)).sum())
    assert len(heard.arrivals) == 1


def test_a_pickle_of_a_model_that_is_heard_holds_nothing_of_ours():
    heard = Heard(deep())
    assert b"gradwatch" not in pickle.dumps(heard.model)
    assert len(heard.model._forward_hooks) == 1
