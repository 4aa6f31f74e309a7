"""`gradwatch captures`."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text

from gradwatch.capture import CaptureSurvey
from gradwatch.text import file_size, number
from gradwatch.views.console.screen import Screen


def capture_list(found: CaptureSurvey, screen: Screen) -> Group:
    """Each capture with why it was kept, its size and its folder, and why it can't be replayed or read if so.

    The optimizer is named where the captures are of several.
    """
    if not found.captures and not found.unreadable:
        return Group(Text("No captures. `gradwatch run --capture` keeps the first bad steps.", "dim"))
    lines = []
    has_several = len({info.optimizer for info in found.captures}) > 1
    for info in found.captures:
        norm = "" if info.total_norm is None else f"total norm {number(info.total_norm)}, "
        limit = "" if info.limit is None else f"limit {number(info.limit)}, "
        weights = "" if info.has_weights else "no weights, "
        optimizer = f"optimizer {info.optimizer}, " if has_several else ""
        about = f"{optimizer}{norm}{limit}{weights}{file_size(info.bytes)}, {info.folder}"
        lines += screen.wrap(f"step {info.step:<8}{info.why:<11}", about)
        if not info.replayable:
            lines += screen.wrap(" " * 13, f"can't be replayed: {'; '.join(info.not_kept)}", "yellow")
    for one in found.unreadable:
        lines += screen.wrap(f"step {one.step:<8}{'unreadable':<11}", f"{file_size(one.bytes)}, {one.folder}", "yellow")
        lines += screen.wrap(" " * 13, one.why, style="yellow")
    if found.left_out:
        lines.append(Text(f"and {found.left_out} more, which are not listed", "yellow"))
    return Group(*lines)
