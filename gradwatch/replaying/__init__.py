"""Replays of captured steps. Needs torch, the model and a capture; the loss function is not needed."""
