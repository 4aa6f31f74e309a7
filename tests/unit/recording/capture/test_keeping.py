"""A capture has what made the gradients, and is written only where there is room."""

import math
import shutil

import pytest
import torch
from torch import nn

from gradwatch.capture import CaptureOptions, list_captures, read, write
from gradwatch.recording.capture.judging import Judged
from gradwatch.recording.capture.keeping import NoRoom, make_capture, place_for, size_of

from .support import Heard

OPTIONS = CaptureOptions(min_free_bytes=0)


def capture_of(heard, tmp_path, options=OPTIONS, **changed):
    gradients = [parameter.grad for parameter in heard.model.parameters()]
    known = {"why": "spike", "total_norm": 3.0, "limit": 2.0, "loss_scale": None, "is_unscaled": True} | changed
    return make_capture(heard.ledger, gradients, options, run=tmp_path, judged=Judged(**known))


def keep(capture, run, options):
    return write(capture, place_for(capture, run, options))


def heard_once(value=1.0, model=None):
    heard = Heard(model)
    heard.backward((heard.model(torch.full((3, 2), value)) * 2).sum())
    return heard


@pytest.mark.parametrize("value", [1.0, 0.0, 1e38, math.nan, math.inf])
def test_inputs_weights_and_gradients_come_back_from_the_disk(tmp_path, value):
    heard = heard_once(value)
    found = read(keep(capture_of(heard, tmp_path), tmp_path, OPTIONS))
    (forward,) = found.groups[0].forwards
    torch.testing.assert_close(forward.args[0], torch.full((3, 2), value), equal_nan=True)
    assert forward.output_gradients[0].tolist() == [[2.0]] * 3
    for name, parameter in heard.model.named_parameters():
        assert torch.equal(found.weights[name], parameter)
        torch.testing.assert_close(found.gradients[name], parameter.grad, rtol=0, atol=0, equal_nan=True)
    assert (found.step, found.optimizer, found.why, found.replayable) == (0, "0", "spike", True)
    assert (found.model, found.root, found.frozen, found.devices) == ("Linear", "", (), ("cpu",))


def test_what_is_not_wanted_is_not_kept(tmp_path):
    found = capture_of(heard_once(), tmp_path, CaptureOptions(weights=False))
    assert (found.weights, found.gradients) == ({}, {})
    assert found.kept == {"forwards": 1, "weights": False, "gradients": False, "optimizer_state": False}


def test_frozen_parameters_and_the_module_that_was_called_are_named(tmp_path):
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    model["head"].bias.requires_grad_(False)
    heard = Heard(model)
    heard.backward(model["body"](torch.ones(1, 2)).sum())
    found = capture_of(heard, tmp_path)
    assert (found.root, found.frozen) == ("body", ("head.bias",))
    assert set(found.gradients) == {"body.weight", "body.bias"}


def test_two_modules_that_were_called_have_no_root(tmp_path):
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    heard = Heard(model)
    heard.backward(model["head"](model["body"](torch.ones(1, 2))).sum())
    assert capture_of(heard, tmp_path).root == ""


def test_a_limit_is_that_of_a_high_norm_only(tmp_path):
    heard = heard_once()
    assert capture_of(heard, tmp_path).limit == 2.0
    assert capture_of(heard, tmp_path, why="nonfinite", total_norm=math.nan).limit is None


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda heard, x: x.add_(1), "an input was changed in place"),
        (lambda heard, x: heard.ledger.clear(), "no forward of the model was seen"),
        (lambda heard, x: heard.ledger.faults.append("planted"), "planted"),
    ],
)
def test_why_it_can_not_be_replayed_is_said(tmp_path, spoil, says):
    heard, x = Heard(), torch.ones(3, 2)
    heard.backward(heard.model(x).sum())
    assert capture_of(heard, tmp_path).replayable
    spoil(heard, x)
    found = capture_of(heard, tmp_path)
    assert not found.replayable
    assert any(says in one for one in found.not_kept)


def test_gradients_that_were_not_unscaled_can_not_be_compared(tmp_path):
    found = capture_of(heard_once(), tmp_path, loss_scale=8.0, is_unscaled=False)
    assert (found.replayable, found.loss_scale) == (False, 8.0)


def test_the_size_counts_each_tensor_once(tmp_path):
    found = capture_of(heard_once(), tmp_path)
    state = found.groups[0].forwards[0].random_state
    words = len(state.python[1]) + (len(state.numpy[1]) if state.numpy else 0)
    of_state = 8 * words + len(state.cpu)
    assert size_of(found) == 4 * (3 * 2 + 3 + 2 * (2 + 1)) + of_state  # inputs, output gradients, weights, gradients
    folder = keep(found, tmp_path, OPTIONS)
    tensors = sum(file.stat().st_size for file in folder.iterdir() if file.suffix != ".json")
    assert tensors >= size_of(found)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (CaptureOptions(most=1, min_free_bytes=0), "1 captures already"),
        (CaptureOptions(max_bytes=1, min_free_bytes=0), "max_bytes=1"),
        (CaptureOptions(min_free_bytes=2**62), "are free"),
    ],
)
def test_a_budget_that_is_used_up_leaves_no_folder(tmp_path, options, says):
    capture = capture_of(heard_once(), tmp_path)
    keep(capture, tmp_path, OPTIONS)
    with pytest.raises(NoRoom, match=says):
        keep(capture, tmp_path, options)
    assert len(list_captures(tmp_path)) == 1


def test_folders_of_one_step_have_numbers(tmp_path):
    capture = capture_of(heard_once(), tmp_path)
    names = [keep(capture, tmp_path, OPTIONS).name for _ in range(2)]
    assert names == ["step-000000", "step-000000-2"]
    shutil.rmtree(tmp_path / "captures" / "step-000000")
    assert keep(capture, tmp_path, OPTIONS).name == "step-000000"
