"""A user's note and tags of a run, in a file beside the store. The store itself is never changed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gradwatch.errors import BadArgument, StoreNotWritable

FILE_NAME = "notes.json"
MAX_BYTES = 100_000
MAX_TAG = 60  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """A note and tags; both are empty if nothing was written."""

    note: str = ""
    tags: tuple[str, ...] = ()


def read_notes(run: Path) -> Notes:
    """The notes in a run's folder. A file that is damaged, or of something else, counts as none.

    >>> read_notes(tmp_path)
    Notes(note='', tags=())
    """
    try:
        with (run / FILE_NAME).open("rb") as file:
            found = json.loads(file.read(MAX_BYTES + 1)[:MAX_BYTES])
    except (OSError, ValueError, RecursionError):
        return Notes()
    if not isinstance(found, dict):
        return Notes()
    note, tags = found.get("note"), found.get("tags")
    return Notes(
        note=note if isinstance(note, str) else "",
        tags=tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else (),
    )


def write_notes(run: Path, notes: Notes) -> None:
    """Replace the notes of a run; empty ones remove the file.

    Raises:
        BadArgument: they are too long.
        StoreNotWritable: the folder can't be written.

    >>> write_notes(tmp_path, Notes(note="warm-up doubled", tags=("baseline",)))
    >>> read_notes(tmp_path)
    Notes(note='warm-up doubled', tags=('baseline',))
    """
    file = run / FILE_NAME
    text = json.dumps(asdict(notes), indent=2)
    if len(text) > MAX_BYTES:
        raise BadArgument(f"the note has {len(notes.note)} characters; expected at most {MAX_BYTES // 10}.")
    beside = file.with_name(f"{FILE_NAME}.{os.getpid()}.new")
    try:
        if notes == Notes():
            file.unlink(missing_ok=True)
            return
        beside.write_text(text, encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        raise StoreNotWritable(f"{str(file)!r} can't be written: {error}.") from error


def with_tags(notes: Notes, add: Sequence[str] = (), remove: Sequence[str] = ()) -> Notes:
    """The notes with more and with fewer tags, each once, in the order in which they were added.

    Raises:
        BadArgument: a tag is empty, too long or has a space, a comma or a control character in it.

    >>> with_tags(Notes(tags=("a", "b")), add=["c", "a"], remove=["b"]).tags
    ('a', 'c')
    """
    for tag in add:
        if not tag or len(tag) > MAX_TAG or not tag.isprintable() or {" ", ","} & set(tag):
            raise BadArgument(f"the tag is {tag[:MAX_TAG]!r}; expected 1 to {MAX_TAG} characters, no space, no comma.")
    tags = dict.fromkeys([*notes.tags, *add])
    return Notes(note=notes.note, tags=tuple(tag for tag in tags if tag not in remove))
