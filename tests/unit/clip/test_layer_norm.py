"""`LayerNormClip` against `torch.nn.utils.clip_grad_norm_` on one parameter at a time."""

import pytest
import torch

from gradwatch.clip import (
    LayerNormClip,
)

from .support import as_parameters, clip, gradients


def test_layer_norm_clip_is_torchs_parameter_by_parameter():
    ours, theirs = as_parameters(gradients()), as_parameters(gradients())
    clipping = clip(LayerNormClip(0.7), ours)
    for one, other in zip(ours, theirs, strict=True):
        torch.nn.utils.clip_grad_norm_([other], 0.7)
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=0)
    before = torch.cat([g.flatten() for g in gradients()]).norm()
    after = torch.cat([p.grad.flatten() for p in ours]).norm()
    assert float(clipping.coefficient) == pytest.approx(float(after / before), rel=1e-5)
