"""Replays of captured steps, read without torch: the result, and the sentences that tell it."""
