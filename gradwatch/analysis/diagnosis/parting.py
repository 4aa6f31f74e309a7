"""Where to look for why two runs of one training part."""

from __future__ import annotations

WHERE_TO_LOOK = {
    "settings": "look at the settings: the schedule, the clipping or the optimizer is not set up the same",
    "weights": "look at what writes weights before this step: initialisation, loading, or the update before",
    "loss": "look at the data, the random state and the forward pass of this step, and at the update before it",
    "gradient": "look at backward and what follows it: nondeterministic kernels, precision, hooks, clipping",
    "update": "look at the optimizer: its settings, its state, or another writer of weights",
}
"""By what differs first, `gradwatch.analysis.differences.Source`."""
