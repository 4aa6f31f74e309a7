"""The code blocks of a page: finds them, runs a page from its first block to its last, and writes what commands print.

    python docs/tutorials.py docs/tutorial-*.md      # after a change of what a command prints

A block with ``title="NAME"`` is a file. In a ``console`` block each line after ``$ `` is a command, and the lines up to
the next one are what it prints; a line ``...`` stands for lines that the page leaves out. A block ``diff`` with a title
changes that file.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = "/home/ada/digits"  # stands for the folder that a page is run in
Call = Callable[[Sequence[str], Path], tuple[int, str]]
"""Runs ``python ARGUMENTS`` in a folder: its exit code, and what it prints."""

_FENCE = re.compile(
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A code block: its language, the file that it is, its text, and where its text begins in the page."""

    language: str
    title: str | None
    text: str
    begin: int


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of a console block, what the page says that it prints, and what it prints."""

    line: str
    expected: str
    found: str


def blocks(page: str) -> list[Block]:
    """The code blocks of a page, in order."""
    return [
        Block(language=one["language"], title=one["title"], text=one["text"], begin=one.start("text"))
        for one in _FENCE.finditer(page)
    ]


def commands(block: Block) -> list[tuple[str, str]]:
    """The commands of a console block, each with what it prints by the page."""
    parts = re.split(r"^\$ (.*)$\n?", block.text, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def run(page: str, folder: Path, call: Call) -> Iterator[Command]:
    """Write the files of a page and run its commands, in order."""
    code = 0
    for block in blocks(page):
        if block.title is not None:
            put(block, folder / block.title)
        elif block.language == "console":
            for line, expected in commands(block):
                if line == "echo $?":
                    found = f"{code}\n"
                elif line.startswith("cat "):
                    found = (folder / line.removeprefix("cat ")).read_text(encoding="utf-8")
                else:
                    code, found = call(python_arguments(line), folder)
                yield Command(line=line, expected=expected, found=found.replace(str(folder), FOLDER))


def put(block: Block, file: Path) -> None:
    """Write the file that a block is; one in the language ``diff`` changes lines of it."""
    if block.language == "diff":
        text = file.read_text(encoding="utf-8")
        for removed, added in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", block.text, re.MULTILINE):
            old, new = (re.sub(r"^[-+]", "", lines, flags=re.MULTILINE) for lines in (removed, added))
            if text.count(old) != 1:
                raise ValueError(f"{file.name} has {text.count(old)} times {old!r}; expected once")
            text = text.replace(old, new)
    else:
        text = block.text
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def python_arguments(line: str) -> list[str]:
    """A command of a page as arguments of Python."""
    name, *arguments = shlex.split(line, comments=True)
    if name == "gradwatch":
        return ["-m", "gradwatch", *arguments]
    if name == "python":
        return arguments
    raise ValueError(f"{line!r} is neither gradwatch nor python")


def is_alike(expected: str, found: str) -> bool:
    r"""Whether the words are the same, and numbers agree within 15%; bars, durations and dates are not compared.

    >>> is_alike("norm 1.00\n...\nloss 2  ▁▂", "norm 1.01\nsteps 7\nloss 2  ▁▁▂"), is_alike("NaN at 9", "NaN at 90")
    (True, False)
    """
    parts = [_words(part) for part in re.split(r"^\.\.\.$", expected, flags=re.MULTILINE)]
    words, at = _words(found), 0
    for number, part in enumerate(parts):
        starts = range(at, len(words) - len(part) + 1) if number else [0]
        if number and number == len(parts) - 1:
            starts = [len(words) - len(part)] if len(words) - len(part) >= at else []
        start = next((s for s in starts if _agree(part, words[s : s + len(part)])), None)
        if start is None:
            return False
        at = start + len(part)
    return at == len(words)


def _words(text: str) -> list[str]:
    text = re.sub(
        r"\b[\d.]+ (?:s|ms|min|h)\b|\b\d{8}-\d{6}\b|[▁-█░▒▓┤×·]|^\s*[\d.e+-]+┤",  # noqa: RUF001
        " ",
        text,
        flags=re.MULTILINE,
    )
    return text.split()


def _agree(expected: list[str], found: list[str]) -> bool:
    return len(expected) == len(found) and all(map(_is_same_word, expected, found))


def _is_same_word(expected: str, found: str) -> bool:
    number = r"\d+(?:\.\d+)?(?:e[-+]?\d+)?"
    if expected == found:
        return True
    if re.split(number, expected) != re.split(number, found):
        return False
    pairs = zip(re.findall(number, expected), re.findall(number, found), strict=True)
    return all(abs(float(a) - float(b)) <= 0.15 * max(float(a), float(b)) for a, b in pairs)


def _call(arguments: Sequence[str], folder: Path) -> tuple[int, str]:
    env = os.environ | {"COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def written(page: str) -> str:
    """The page with what its commands print; where the page left lines out, it is shown whole."""
    at = 0
    with tempfile.TemporaryDirectory() as name:
        for command in run(page, Path(name), _call):
            before = f"$ {command.line}\n{command.expected}"
            is_right = is_alike(command.expected, command.found)
            after = before if is_right else "\n".join([f"$ {command.line}", *command.found.rstrip().splitlines(), ""])
            begin = page.index(before, at)
            page = page[:begin] + after + page[begin + len(before) :]
            at = begin + len(after)
    return page


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(written(path.read_text()))
