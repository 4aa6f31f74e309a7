"""`gradwatch ls`: one line for each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.text import Text

from gradwatch.analysis.listing import RunRow
from gradwatch.text import count, duration, file_size, number, optimizer_label, share, threshold_text
from gradwatch.views.console.screen import SEVERITY_STYLES, Screen

_WIDEST_NAME, _NARROWEST_NAME = 40, 14
_GAP = 2


@dataclass(frozen=True, slots=True)
class _Column:
    """A column: its title, its text for a run, and whether it stands at the left of its place."""

    title: str
    text: Callable[[RunRow], str]
    left: bool = False


def _fault(row: RunRow) -> str:
    if row.fault is None:
        return row.error or "" if row.state == "unreadable" else ""
    return row.fault if row.fault_step is None else f"{row.fault} at {row.fault_step}"


def _columns(now: float) -> tuple[_Column, ...]:
    """All columns, in the order in which they are shown; `_IMPORTANCE` has the order in which they get their room."""
    return (
        _Column("verdict", _verdict, left=True),
        _Column("steps", lambda row: "-" if row.steps is None else str(row.steps)),
        _Column("loss", lambda row: number(row.last_loss)),
        _Column("first fault", _fault, left=True),
        _Column("age", lambda row: duration(max(0.0, now - row.written))),
        _Column("optimizer", lambda row: "-" if row.optimizer is None else optimizer_label(row.optimizer), left=True),
        _Column("lr", lambda row: number(row.learning_rate)),
        _Column("batch", lambda row: number(row.batch_size)),
        _Column("threshold", lambda row: threshold_text(row.threshold, row.clipping)),
        _Column("clipped", lambda row: share(row.clipped_fraction)),
        _Column("size", lambda row: file_size(row.size)),
        _Column("tags", lambda row: " ".join(row.tags), left=True),
        _Column("note", lambda row: row.note.splitlines()[0][:30] if row.note else "", left=True),
    )


_IMPORTANCE = (
    "verdict",
    "steps",
    "loss",
    "first fault",
    "age",
    "tags",
    "lr",
    "threshold",
    "clipped",
    "optimizer",
    "batch",
    "size",
    "note",
)
_ONLY_IF_ANY = ("tags", "note", "batch")
_SETTINGS = ("optimizer", "lr", "batch", "threshold", "steps")
"""Columns that many runs often have in common."""


def run_list(rows: Sequence[RunRow], screen: Screen, now: float) -> Group:
    """The rows as a table. Columns that find no room are named below it, and are in the JSON.

    Args:
        rows: in the order in which they are shown.
        screen: where it is drawn.
        now: seconds since the epoch, for the ages.
    """
    if not rows:
        return Group(Text("No runs.", "dim"))
    names = screen.fit([row.name for row in rows], min(_WIDEST_NAME, max(_NARROWEST_NAME, screen.width // 3)), "run")
    every = [
        (column, [screen.ink.safe(column.text(row)) for row in rows])
        for column in _columns(now)
        if column.title not in _ONLY_IF_ANY or any(column.text(row) not in ("", "-") for row in rows)
    ]
    room = screen.width - len(names[0])
    differing, shared = (every, []) if _needed(every) <= room else _without_shared(every)
    shown = _fitting(differing, room)
    titles = {column.title for column, _ in shown}
    hidden = [column.title for column, _ in differing if column.title not in titles]
    return Group(*_table(rows, names, shown), *_notes(rows, hidden, shared, screen))


def _table(rows: Sequence[RunRow], names: Sequence[str], shown: Sequence[tuple[_Column, list[str]]]) -> list[Text]:
    """The head and a line for each row."""
    head = Text("run".ljust(len(names[0])), "bold")
    for column, texts in shown:
        head.append(" " * _GAP + _placed(column, column.title, _width(column, texts)))
    lines = [head]
    for at, (row, name) in enumerate(zip(rows, names, strict=True)):
        line = Text(name)
        for column, texts in shown:
            style = _style(row) if column.title == "verdict" else ""
            line.append(" " * _GAP).append(_placed(column, texts[at], _width(column, texts)), style)
        line.rstrip()
        lines.append(line)
    return lines


def _notes(rows: Sequence[RunRow], hidden: Sequence[str], shared: Sequence[str], screen: Screen) -> list[Text]:
    """What the table does not show: values of all runs, columns without room, and runs that are not computed yet."""
    lines: list[Text] = []
    if shared:
        lines += screen.wrap("", f"all {len(rows)} runs: {', '.join(shared)}", style="dim")
    if hidden:
        lines += screen.wrap("", f"no room for {', '.join(hidden)}; a wider terminal or --json shows them", style="dim")
    waiting = sum(row.state == "not computed" for row in rows)
    if waiting:
        lines += screen.wrap("", f"{count(waiting, 'run')} not computed yet (--quick)", style="dim")
    return lines


def _verdict(row: RunRow) -> str:
    if row.state in ("unreadable", "not computed"):
        return row.state
    verdict = row.verdict or "no step"
    return f"{verdict} (live)" if row.state == "live" else verdict


def _style(row: RunRow) -> str:
    if row.state == "unreadable":
        return "red"
    return SEVERITY_STYLES.get(row.verdict or "", "dim")


def _width(column: _Column, texts: Sequence[str]) -> int:
    return max(len(text) for text in (column.title, *texts))


def _placed(column: _Column, text: str, width: int) -> str:
    return text.ljust(width) if column.left else text.rjust(width)


def _needed(columns: Sequence[tuple[_Column, list[str]]]) -> int:
    return sum(_GAP + _width(column, texts) for column, texts in columns)


def _without_shared(
    columns: Sequence[tuple[_Column, list[str]]],
) -> tuple[list[tuple[_Column, list[str]]], list[str]]:
    """The columns in which runs differ, and the others in words: a value that all runs have needs no column."""
    differing, shared = [], []
    for column, texts in columns:
        if len(texts) > 1 and len(set(texts)) == 1 and column.title in _SETTINGS and texts[0] not in ("", "-"):
            is_named = texts[0].startswith(column.title)  # as in "optimizer not known"
            shared.append(texts[0] if is_named else f"{column.title} {texts[0]}")
        else:
            differing.append((column, texts))
    return differing, shared


def _fitting(columns: Sequence[tuple[_Column, list[str]]], room: int) -> list[tuple[_Column, list[str]]]:
    """The columns that fit, the most important first, in their order."""
    kept = set()
    for title in _IMPORTANCE:
        for column, texts in columns:
            needed = _GAP + _width(column, texts)
            if column.title == title and needed <= room:
                kept.add(title)
                room -= needed
    return [(column, texts) for column, texts in columns if column.title in kept]
