"""Clipping policies: what `gradwatch.attach(clip=...)` takes.

A policy is handed the gradients and the statistics that were measured of them, changes the
gradients in place and says what it did.
"""

from gradwatch.clip.norm import NormClip
from gradwatch.clip.policy import Clipping, Policy
from gradwatch.clip.value import ValueClip

__all__ = ["Clipping", "NormClip", "Policy", "ValueClip"]
