"""`ValueClip` against `torch.nn.utils.clip_grad_value_`."""

import torch

from gradwatch.clip import (
    ValueClip,
)

from .support import as_parameters, clip, gradients


def test_value_clip_is_torchs_and_counts_what_it_cut():
    ours, theirs = as_parameters(gradients()), as_parameters(gradients())
    clipping = clip(ValueClip(0.5), ours)
    torch.nn.utils.clip_grad_value_(theirs, 0.5)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))
    assert sum(int(c) for c in clipping.cut_entries) == sum(int((g.abs() > 0.5).sum()) for g in gradients())
