"""The training thread reads nothing from a device, shown on tensors that have no values to read."""

import pytest
import torch

from gradwatch import clip

from ..scripts import load

launches = load("launches")


@pytest.mark.parametrize("option", launches.OPTIONS)
def test_no_option_waits_for_a_device(option):
    train, options = launches.OPTIONS[option]
    row = launches.count(train, options, launches.OPTIMIZERS["AdamW"])
    assert row.waits == ()
    assert row.recorded == launches.STEPS
    assert row.copies <= 6  # whatever the number of tensors


@pytest.mark.parametrize("name", launches.OPTIMIZERS)
def test_no_optimizer_makes_it_wait(name):
    train, options = launches.OPTIONS["observing"]
    row = launches.count(train, options, launches.OPTIMIZERS[name])
    assert row.waits == ()
    assert row.recorded == launches.STEPS


class Waits(clip.NormClip):
    """A policy that looks at the device."""

    def clip(self, parameters, measured):
        torch.zeros(1, device="meta").item()
        return super().clip(parameters, measured)


def test_a_policy_that_waits_would_be_found():
    train = launches.plain
    with launches.counting() as counts, counts, pytest.raises(RuntimeError, match="meta"):
        torch.zeros(1, device="meta").item()
    assert counts.waits == ["_local_scalar_dense"]
    row = launches.count(train, {"weights_every": 0, "clip": Waits(1.0)}, launches.OPTIMIZERS["SGD"])
    assert "_local_scalar_dense" in row.waits


def test_copies_do_not_grow_with_the_number_of_tensors(monkeypatch):
    train, options = launches.OPTIONS["clip_grad_value_ of PyTorch"]
    options = options | {"updates_every": 1}  # else the updates of more tensors are read at fewer steps
    few = launches.count(train, options, launches.OPTIMIZERS["SGD"])
    small = launches.model
    monkeypatch.setattr(
        launches,
        "model",
        lambda: torch.nn.Sequential(small(), *(torch.nn.Linear(64, 64, device="meta") for _ in range(9))),
    )
    many = launches.count(train, options, launches.OPTIMIZERS["SGD"])
    assert many.operators > 2 * few.operators
    assert many.copies == few.copies
