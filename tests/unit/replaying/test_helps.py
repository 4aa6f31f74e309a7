"""The total norm with other types, without rows, clipped."""

import math

import pytest
import torch
from planted_models import MLP
from planted_steps import capture_step

from gradwatch.replaying.helps import find_helps
from gradwatch.replaying.passes import prepared
from gradwatch.replaying.rows import find_rows


def helps(model, loss, threshold=None):
    capture = capture_step(model, [loss])
    with prepared(model, capture) as player:
        played = player.play()
        found, unknown = find_helps(player, find_rows(player, played), played.total_norm, threshold)
    return {one.change: one.total_norm for one in found}, unknown


def test_a_step_that_overflows_in_float16():
    torch.manual_seed(0)
    model, x = MLP(), torch.randn(4, 12)
    with torch.no_grad():
        model.first.weight.mul_(1e5)

    def loss():
        with torch.autocast("cpu", dtype=torch.float16):
            return model(x).float().mean()

    found, unknown = helps(model, loss)
    assert math.isfinite(found["float32 instead of autocast"])
    assert math.isfinite(found["float64"])
    assert unknown == []


def test_clipping_and_a_row():
    torch.manual_seed(0)
    model, x = MLP(), torch.randn(8, 12)
    x[5] *= 1e4
    found, _ = helps(model, lambda: model(x).pow(2).mean(), threshold=0.5)
    assert found["clip 0.5"] == 0.5
    assert found["without row 5"] < 1e-3 * found["float64"]


def test_a_row_that_stands_out_in_two_calls_of_the_model_is_named_once():
    torch.manual_seed(0)
    model, x = MLP(), torch.randn(8, 12)
    x[5] = math.nan
    found, _ = helps(model, lambda: (model(x) + model(x)).pow(2).mean())
    assert [name for name in found if "row" in name] == ["without row 5"]


def test_clipping_does_not_help_nan():
    model, x = MLP(), torch.full((2, 12), math.nan)
    found, _ = helps(model, lambda: model(x).mean(), threshold=0.5)
    assert [name for name in found if name.startswith("clip")] == []
    assert math.isnan(found["float64"])


def test_a_model_that_can_not_be_in_float64():
    class Fixed(MLP):
        def forward(self, x):
            return super().forward(x) @ torch.ones(4, 4)

    model, x = Fixed(), torch.randn(4, 12)
    found, unknown = helps(model, lambda: model(x).mean())
    assert "float64" not in found
    assert unknown[0].startswith("float64: ")


@pytest.mark.parametrize("threshold", [None, 1e9])
def test_no_threshold_below_the_norm(threshold):
    torch.manual_seed(0)
    model, x = MLP(), torch.randn(4, 12)
    found, _ = helps(model, lambda: model(x).mean(), threshold)
    assert list(found) == ["float64"]
