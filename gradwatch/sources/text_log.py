"""Reads the text that training scripts print, by the patterns of well-known ones or by a pattern of the user's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gradwatch.errors import BadArgument, CannotImport

MAX_BYTES = 2**30
LONGEST_LINE = 10_000  # characters
GROUPS = {"step": "step", "norm": "grad_norm", "loss": "loss", "lr": "lr"}
_N = r"[-+]?(?:\d[\d.]*(?:[eE][-+]?\d+)?|nan|inf)"

PATTERNS = {
    "llm.c": rf"step\s+(?P<step>\d+)/\d+ \| (?:train )?loss (?P<loss>{_N}).*?\| norm (?P<norm>{_N})"
    rf".*?\| lr (?P<lr>{_N})",
    "build-nanogpt": rf"step\s+(?P<step>\d+) \| loss: (?P<loss>{_N}) \| lr:? (?P<lr>{_N}) \| norm:? (?P<norm>{_N})",
    "Megatron-LM": rf"iteration\s+(?P<step>\d+)/\s*\d+ \|.*?(?:learning rate:\s*(?P<lr>{_N}) \|.*?)?"
    rf"(?:lm loss:\s*(?P<loss>{_N}) \|.*?)?grad norm:\s*(?P<norm>{_N})",
    "torchtitan": rf"step:\s*(?P<step>\d+)\s+loss:\s*(?P<loss>{_N})\s+grad_norm:\s*(?P<norm>{_N})",
    "fairseq": rf'"loss": "(?P<loss>{_N})".*"num_updates": "(?P<step>\d+)".*"lr": "(?P<lr>{_N})"'
    rf'.*"gnorm": "(?P<norm>{_N})"',
}
"""By the tool that prints such lines. A step is counted as the tool counts it."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def rows(file: Path, pattern: str | None = None) -> tuple[list[dict[str, Any]], str]:
    """The rows of the lines that match, and what pattern it was.

    Args:
        file: text.
        pattern: a regular expression with the groups step and norm, and loss and lr if there are some.

    Raises:
        BadArgument: the pattern can't be read, or lacks a group.
        CannotImport: the file can't be read, or no line of it matches.
    """
    lines = _lines(file)
    if pattern is not None:
        found = _matches(lines, compiled(pattern))
        if not found:
            raise CannotImport(f"{str(file)!r} has no line that matches --pattern.")
        return found, "--pattern"
    each = {name: _matches(lines, re.compile(text, re.IGNORECASE)) for name, text in PATTERNS.items()}
    best = max(each, key=lambda name: len(each[name]))
    if not each[best]:
        raise CannotImport(
            f"{str(file)!r} has no line like those of {', '.join(PATTERNS)}. Give --pattern, for example"
            r" 'step (?P<step>\d+).*norm (?P<norm>\S+)'."
        )
    return each[best], f"the pattern of {best}"


def compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern of the user's.

    Raises:
        BadArgument: it can't be read, or lacks the group norm.
    """
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise BadArgument(f"--pattern is {pattern!r}, which is not a regular expression: {error}.") from error
    if "norm" not in found.groupindex or set(found.groupindex) - set(GROUPS):
        raise BadArgument(f"--pattern is {pattern!r}; expected the group (?P<norm>...), and of step, loss and lr.")
    return found


def _lines(file: Path) -> list[str]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise CannotImport(f"{str(file)!r} has more than {MAX_BYTES} bytes.")
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CannotImport(f"{str(file)!r} can't be read: {error}.") from error
    return [_COLOURS.sub("", line[:LONGEST_LINE]) for line in re.split(r"[\r\n]+", text)]


def _matches(lines: list[str], pattern: re.Pattern[str]) -> list[dict[str, Any]]:
    found = (pattern.search(line) for line in lines)
    return [
        {GROUPS[name]: value.rstrip(".,;") for name, value in match.groupdict().items() if value is not None}
        for match in found
        if match is not None
    ]
