"""Clipping policies: what `gradwatch.attach(clip=...)` takes; and `clip_grad_norm_` in the place of PyTorch's.

A policy is handed the gradients and the statistics that were measured of them, changes the
gradients in place and says what it did.
"""

from gradwatch.clip.drop_in import clip_grad_norm_
from gradwatch.clip.norm import NormClip
from gradwatch.clip.policy import Clipping, Policy
from gradwatch.clip.value import ValueClip

__all__ = ["Clipping", "NormClip", "Policy", "ValueClip", "clip_grad_norm_"]
