"""Saves a bad step before its update. Until a step is judged, references to the inputs of its gradients are held."""
