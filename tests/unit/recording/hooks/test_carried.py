"""Hooks of ours on objects of the script, in PyTorch's own places for hooks."""

import copy
import pickle

import pytest
import torch
from torch import nn

from gradwatch.recording.hooks.carried import CarriedHook


@pytest.mark.parametrize("made", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_the_copy_of_a_module_calls_none_of_ours(made):
    module, called = nn.Linear(2, 1), []
    module.register_forward_pre_hook(CarriedHook(lambda *call: called.append("before")), with_kwargs=True)
    module.register_forward_hook(CarriedHook(lambda *call: called.append("after")), with_kwargs=True, always_call=True)
    other = made(module)
    assert torch.equal(other(torch.ones(1, 2)), module(torch.ones(1, 2)))
    assert called == ["before", "after"]


def test_what_the_hook_returns_is_returned():
    module = nn.Linear(2, 1)
    handle = module.register_forward_hook(CarriedHook(lambda module, args, output: output + 1))
    changed = module(torch.ones(1, 2))
    handle.remove()
    assert torch.equal(changed, module(torch.ones(1, 2)) + 1)
