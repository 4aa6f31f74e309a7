"""Clipping policies for `gradwatch.attach(clip=...)`, and a drop-in for `torch.nn.utils.clip_grad_norm_`.

A policy takes the parameters and the statistics already measured of their gradients, changes the
gradients in place and reports what it did. It can also be called in a training loop, on the
parameters, in the place of `torch.nn.utils.clip_grad_norm_`.

Two kinds of threshold:

- absolute: `NormClip`, `LayerNormClip`, `ValueClip` and `clip_grad_norm_` compare gradients with a
  number, `AGC` with the weights. Multiply the loss by a constant and they clip differently.
- relative: `AutoClip`, `QuantileClip`, `ZClip` and `SkipOutliers` compare the norm with earlier norms.
  Multiply the loss by a constant and they do the same to every step. `AdaGC` is relative after its
  first ``start`` steps, and from the first step on with ``max_norm=math.inf``.

`HiddenStateClip` is not a policy: it acts within the backward pass of an RNN.
"""

from typing import TYPE_CHECKING

from gradwatch.late import late_names

if TYPE_CHECKING:
    from gradwatch.clip.adagc import AdaGC
    from gradwatch.clip.agc import AGC
    from gradwatch.clip.auto_clip import AutoClip, QuantileClip
    from gradwatch.clip.calls import Clipping
    from gradwatch.clip.drop_in import clip_grad_norm_
    from gradwatch.clip.hidden_state import HiddenStateClip
    from gradwatch.clip.layer_norm import LayerNormClip
    from gradwatch.clip.norm import NormClip
    from gradwatch.clip.policy import Policy
    from gradwatch.clip.skip import SkipOutliers
    from gradwatch.clip.value import ValueClip
    from gradwatch.clip.zclip import ZClip
else:
    __getattr__, __dir__ = late_names(
        __name__,
        {
            "AGC": "agc",
            "AdaGC": "adagc",
            "AutoClip": "auto_clip",
            "Clipping": "calls",
            "HiddenStateClip": "hidden_state",
            "LayerNormClip": "layer_norm",
            "NormClip": "norm",
            "Policy": "policy",
            "QuantileClip": "auto_clip",
            "SkipOutliers": "skip",
            "ValueClip": "value",
            "ZClip": "zclip",
            "clip_grad_norm_": "drop_in",
        },
    )

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
