"""Keeps a bad step before its update: what made its gradients is held by reference until the step is judged."""
