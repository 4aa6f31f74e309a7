"""One optimizer of a training loop: which step it is at, and what is known of that step so far."""

from gradwatch.tracked.by_hand import ByHand, TrackedByHand
from gradwatch.tracked.in_backward import InBackward, TrackedInBackward, gathered
from gradwatch.tracked.stepping import Habits, Tracked

__all__ = ["ByHand", "Habits", "InBackward", "Tracked", "TrackedByHand", "TrackedInBackward", "gathered"]
