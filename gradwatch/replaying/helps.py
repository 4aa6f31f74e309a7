"""Changes to a captured step, and the total norm that each leads to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from gradwatch.analysis.replays.result import Help
from gradwatch.capture.record import Capture, Forward, Group
from gradwatch.replaying.passes import Player, in_dtype
from gradwatch.replaying.rows import Rows
from gradwatch.text import number


def find_helps(player: Player, rows: Rows, norm: float, threshold: float | None) -> tuple[list[Help], list[str]]:
    """Replay the step with each change; also why a change could not be tried.

    Args:
        player: with the model.
        rows: what is known of the rows.
        norm: the total norm of the replay as it was.
        threshold: to clip at; None if none is known.
    """
    capture = player.capture
    helps: list[Help] = []
    unknown: list[str] = []

    def attempt(change: str, total_norm: Callable[[], float]) -> None:
        try:
            helps.append(Help(change=change, total_norm=total_norm()))
        except Exception as error:  # the model may refuse another type in any way
            lines = str(error).strip().splitlines() or [type(error).__name__]
            unknown.append(f"{change}: {lines[0][:120]}")

    if uses_autocast(capture):
        attempt("float32 instead of autocast", lambda: player.play(autocast=False).total_norm)
    attempt("float64", lambda: _in_float64(player))
    if rows.norm_without is not None and rows.suspects:
        helps.append(Help(change=f"without {rows.suspect_names}", total_norm=rows.norm_without))
    if threshold is not None and math.isfinite(norm) and norm > threshold:
        helps.append(Help(change=f"clip {number(threshold)}", total_norm=threshold))
    return helps, unknown


def uses_autocast(capture: Capture) -> bool:
    """Whether some forward ran under autocast."""
    return any(state.enabled for forward in _forwards(capture.groups) for state in forward.autocast.values())


def _forwards(groups: Sequence[Group]) -> list[Forward]:
    return [forward for group in groups for forward in group.forwards]


def _in_float64(player: Player) -> float:
    with in_dtype(player, torch.float64):
        return player.play(autocast=False).total_norm
