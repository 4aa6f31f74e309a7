"""Clipping policies: what `gradwatch.attach(clip=...)` takes; and `clip_grad_norm_` in the place of PyTorch's.

A policy is handed the parameters and the statistics that were measured of their gradients, changes
the gradients in place and says what it did. Each can also be called in one's own loop, on the
parameters, where `torch.nn.utils.clip_grad_norm_` would be. `HiddenStateClip` is none of them: it
works within the backward pass of an RNN.
"""

from gradwatch.clip.adagc import AdaGC
from gradwatch.clip.agc import AGC
from gradwatch.clip.auto_clip import AutoClip, QuantileClip
from gradwatch.clip.drop_in import clip_grad_norm_
from gradwatch.clip.hidden_state import HiddenStateClip
from gradwatch.clip.layer_norm import LayerNormClip
from gradwatch.clip.norm import NormClip
from gradwatch.clip.policy import Clipping, Policy
from gradwatch.clip.skip import SkipOutliers
from gradwatch.clip.value import ValueClip
from gradwatch.clip.zclip import ZClip

__all__ = [
    "AGC",
    "AdaGC",
    "AutoClip",
    "Clipping",
    "HiddenStateClip",
    "LayerNormClip",
    "NormClip",
    "Policy",
    "QuantileClip",
    "SkipOutliers",
    "ValueClip",
    "ZClip",
    "clip_grad_norm_",
]
