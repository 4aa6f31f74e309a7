"""`NormClip` against `torch.nn.utils.clip_grad_norm_`."""

import pytest
import torch

from gradwatch.clip import (
    NormClip,
)

from .support import as_parameters, clip, gradients


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_norm_clip_is_torchs(scale):
    ours, theirs = as_parameters(gradients(scale=scale)), as_parameters(gradients(scale=scale))
    clipping = clip(NormClip(1.5), ours)
    norm = torch.nn.utils.clip_grad_norm_(theirs, 1.5)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=0)
    assert clipping.coefficient == pytest.approx(min(1.0, 1.5 / (norm.item() + 1e-6)))


def test_below_the_threshold_nothing_is_touched():
    ours = as_parameters(gradients())
    versions = [p.grad._version for p in ours]
    assert clip(NormClip(1e6), ours).coefficient == 1.0
    assert [p.grad._version for p in ours] == versions


def test_finite_gradients_of_1e30_are_clipped_not_zeroed():
    ours = as_parameters([torch.full((4,), 1e30)])
    assert float(NormClip(1.0)(ours)) == pytest.approx(2e30)
    assert torch.linalg.vector_norm(ours[0].grad).item() == pytest.approx(1.0, rel=1e-5)
