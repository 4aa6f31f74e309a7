"""`gradwatch doctor`: what gradwatch could observe of a training script."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text

from gradwatch.script.doctor import Examination
from gradwatch.views.console.screen import Screen

_MARKS = {"fine": ("✓", "+", "green"), "note": ("·", "-", "dim"), "problem": ("✗", "x", "bold red")}


def diagnosis(found: Examination, screen: Screen) -> Group:
    """One line for each observation, below whatever the script printed."""
    ended = ", ended by an exception of its own" if found.failed else ""
    lines = [Text(), Text(f"{screen.ink.safe(found.script)}{ended}", "bold")]
    for observation in found.observations:
        pretty, plain, style = _MARKS[observation.mark]
        lines += screen.wrap(f"  {screen.ink.pick(pretty, plain)} {observation.about:<12} ", observation.text, style)
    return Group(*lines)
