"""Replays of captured steps, read without torch: the result, and its wording."""
