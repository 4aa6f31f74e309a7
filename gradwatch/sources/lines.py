"""Reads text line by line, so that neither a large file nor a line without an end fills the memory."""

from __future__ import annotations

import codecs
import html
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradwatch.errors import CannotImport

CHUNK = 2**20  # bytes read at once
LONGEST = 2**24  # bytes of a line
LONGEST_PRINTED = 10_000  # bytes of a line of printed text
LONGEST_HEAD = 4096  # bytes that tell what a file is
LARGEST_WHOLE = 2**28  # bytes of a file that can only be read as a whole
NOTEBOOK = ".ipynb"
_ROW = re.compile(r"<tr\b[^>]{0,400}>(.*?)(?=<tr\b|</tr|</table|\Z)", re.DOTALL | re.IGNORECASE)
_CELL = re.compile(r"<t[hd]\b[^>]{0,400}>(.*?)(?=<t[hd]\b|</t|\Z)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<[^<>]{0,400}>")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_MARK = b"\xef\xbb\xbf"  # some programs on Windows begin a UTF-8 file with it
_UTF_16 = re.compile(rb"\xff\xfe[^\0]\0|\xfe\xff\0[^\0]")  # the mark and a character; PowerShell 5 redirects output so
_WIDE = re.compile(rb"(?:\xff\xfe\0\0|\0\0\xfe\xff)?(?:[^\0]\0{1,3}|\0{1,3}[^\0]){4}")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")  # gzip, bzip2, xz, zstd, zip
_ENDS = re.compile(rb"[\r\n]+")


def encoding_of(file: Path) -> str:
    """UTF-16 if the file begins with its mark; else UTF-8, with a mark or without.

    Raises:
        CannotImport: the file can't be read.
    """
    try:
        with file.open("rb") as stream:
            return "utf-16" if _UTF_16.match(stream.read(4)) else "utf-8-sig"
    except OSError as error:
        raise CannotImport(f"{str(file)!r} can't be read: {error}.") from error


def refuse_what_is_no_text(file: Path) -> None:
    """Refuse a file that is no text, and say what it is. A reader would only complain about its first bytes.

    Raises:
        CannotImport: it can't be read, is empty or compressed, or is in UTF-32, or in UTF-16 without a byte order mark.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(LONGEST_HEAD)
    except OSError as error:
        raise CannotImport(f"{str(file)!r} can't be read: {error}.") from error
    if not head.strip():
        raise CannotImport(f"{str(file)!r} is empty; expected a log with at least one step.")
    if head.startswith(_COMPRESSED):
        raise CannotImport(f"{str(file)!r} is compressed, whatever its name says; unpack it first.")
    # Latin letters have a NUL beside them there. NULs alone pad a file whose machine went down.
    if not _UTF_16.match(head) and _WIDE.match(head):
        raise CannotImport(f"{str(file)!r} is in UTF-32, or in UTF-16 without a byte order mark; save it as UTF-8.")


def beginning(file: Path) -> bytes:
    """The first `CHUNK` bytes of a file.

    Raises:
        CannotImport: the file can't be read.
    """
    return next(_chunks(file))


def first_two_lines(file: Path) -> tuple[bytes, bytes]:
    """The first two lines of a file, or of its first `CHUNK` bytes; empty where there are fewer.

    Raises:
        CannotImport: the file can't be read.
    """
    first, second = (*beginning(file).split(b"\n", 2)[:2], b"")[:2]
    return first, second


def lines(file: Path) -> Iterator[bytes]:
    """The lines of a file without their ends.

    Raises:
        CannotImport: the file can't be read, or a line has more than `LONGEST` bytes.
    """
    pending = bytearray()
    for chunk in _chunks(file):
        first, *others = chunk.split(b"\n")
        pending += first
        for line in others:
            _check(len(pending), file)
            yield bytes(pending)
            pending = bytearray(line)
        _check(len(pending), file)
    if pending:
        yield bytes(pending)


def beginnings(file: Path, most: int) -> Iterator[bytes]:
    """The first ``most`` bytes of each line. A progress bar that returns to the start of its line begins a new one.

    Raises:
        CannotImport: the file can't be read.
    """
    pending = bytearray()
    for chunk in _chunks(file):
        first, *others = _ENDS.split(chunk)
        pending += first[: most - len(pending)]
        for line in others:
            yield bytes(pending)
            pending = bytearray(line[:most])
    if pending:
        yield bytes(pending)


def printed_lines(file: Path) -> Iterator[str]:
    """The lines of printed text, without colours and without what a line has beyond `LONGEST_PRINTED` bytes.

    Those of a notebook are what its cells printed.

    Raises:
        CannotImport: the file can't be read.
    """
    if file.suffix == NOTEBOOK:
        for text in re.split(r"[\r\n]+", printed_in_notebook(file)):
            yield _COLOURS.sub("", text[:LONGEST_PRINTED])
        return
    for line in beginnings(file, LONGEST_PRINTED):
        yield _COLOURS.sub("", line.decode(errors="replace"))


def printed_in_notebook(file: Path) -> str:
    """What the cells of a Jupyter notebook printed, and the tables that they show.

    Raises:
        CannotImport: the file can't be read, or is no notebook.
    """
    try:
        whole = json.loads(whole_text(file))
    except (ValueError, RecursionError) as error:
        raise CannotImport(f"{str(file)!r} can't be read as a notebook: {error}.") from error
    cells = whole.get("cells") if isinstance(whole, dict) else None
    if not isinstance(cells, list):
        raise CannotImport(f"{str(file)!r} can't be read as a notebook: it holds no list of cells.")
    outputs = [
        output
        for cell in cells
        if isinstance(cell, dict) and isinstance(cell.get("outputs"), list)
        for output in cell["outputs"]
        if isinstance(output, dict)
    ]
    return "\n".join(map(_printed, outputs))


def _printed(output: dict[str, Any]) -> str:
    r"""The text of a cell's output. The rows of a table in HTML become lines with two spaces between the cells.

    >>> _printed({"text": ["a\n", "b"]}), _printed({"data": {"text/plain": "c"}})
    ('a\nb', 'c')
    >>> _printed({"data": {"text/html": "<table><tr><th>epoch</th> <th>loss</th></tr><tr><td>0</td><td>2</td></tr>"}})
    'epoch  loss\n0  2'
    """
    data = output.get("data")
    shown = data if isinstance(data, dict) else {}
    pages = _joined(shown.get("text/html"))
    rows = [_CELL.findall(row) for row in _ROW.findall(pages)]
    if rows:
        return "\n".join("  ".join(html.unescape(_TAG.sub("", cell)).strip() for cell in row) for row in rows)
    return _joined(output.get("text")) or _joined(shown.get("text/plain"))


def _joined(text: Any) -> str:
    """The text of a notebook, which may be a list of lines."""
    if isinstance(text, list):
        return "".join(line for line in text if isinstance(line, str))
    return text if isinstance(text, str) else ""


def refuse_long_lines(file: Path) -> None:
    """Check the lines of a file that another reader will hold in memory.

    Raises:
        CannotImport: the file can't be read, or a line has more than `LONGEST` bytes.
    """
    length = 0
    for chunk in _chunks(file):
        ends = [at for end in (b"\n", b"\r") for at in (chunk.find(end), chunk.rfind(end)) if at >= 0]
        _check(length + min(ends, default=len(chunk)), file)
        length = len(chunk) - max(ends) - 1 if ends else length + len(chunk)


def whole_text(file: Path) -> str:
    """The text of a file that can only be read as a whole, such as a JSON object.

    Raises:
        CannotImport: the file can't be read, is not UTF-8, or has more than `LARGEST_WHOLE` bytes.
    """
    try:
        if file.stat().st_size > LARGEST_WHOLE:
            limit = LARGEST_WHOLE // 2**20
            raise CannotImport(f"{str(file)!r} has more than {limit} MiB, too much to read as one JSON value.")
        return file.read_text(encoding=encoding_of(file))
    except (OSError, ValueError) as error:
        raise CannotImport(f"{str(file)!r} can't be read: {error}.") from error


def _chunks(file: Path) -> Iterator[bytes]:
    """The file in parts, as UTF-8; there is at least one."""
    try:
        with file.open("rb") as stream:
            first = stream.read(CHUNK)
            parts = itertools.chain([first.removeprefix(_MARK)], iter(lambda: stream.read(CHUNK), b""))
            if not _UTF_16.match(first):
                yield from parts
                return
            decoder = codecs.getincrementaldecoder("utf-16")(errors="replace")
            for part in parts:
                yield decoder.decode(part).encode("utf-8", "replace")
    except OSError as error:
        raise CannotImport(f"{str(file)!r} can't be read: {error}.") from error


def _check(length: int, file: Path) -> None:
    if length > LONGEST:
        raise CannotImport(f"{str(file)!r} has a line of more than {LONGEST // 2**20} MiB.")
