"""A capture with its replay in one file that can be attached to an issue.

The file is a ZIP archive with the folder ``capture/``, those of other ranks (``capture-rank1/``), ``replay.json`` and
``versions.json``. Unpacking takes files of these names only, writes them below the folder it is given, and refuses more
than this machine's memory or its disk has room for.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

from gradwatch.analysis.replays.result import FILE_NAME, Replay
from gradwatch.capture import part_folders
from gradwatch.capture.files import memory
from gradwatch.capture.listing import MAX_DESCRIPTION_BYTES
from gradwatch.errors import CannotReplay

MOST_BYTES = 64 * 2**30
MOST_FILES = 4096
_CHUNK = 2**20
_NAME = re.compile(
    r"capture(?:-rank[1-9][0-9]{0,5})?/([A-Za-z0-9][A-Za-z0-9_-]{0,63}\.(?:json|safetensors))"
    r"|(replay\.json|versions\.json)"
)


def write_bundle(replay: Replay, capture: Path, file: Path) -> int:
    """Pack the folder of a capture with its replay, and return the size in bytes.

    Raises:
        CannotReplay: the file can't be written.
    """
    new = file.with_name(f".{file.name}.new")
    try:
        with zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for path in [one for part in part_folders(capture).values() for one in sorted(part.iterdir())]:
                name = f"{_place(path.parent, capture)}/{path.name}"
                if _NAME.fullmatch(name) and path.name != FILE_NAME and path.is_file() and not path.is_symlink():
                    archive.write(path, name)
            if (capture / FILE_NAME).is_file():
                archive.write(capture / FILE_NAME, FILE_NAME)
            archive.writestr("versions.json", json.dumps(dict(replay.environment), indent=2) + "\n")
        new.replace(file)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise CannotReplay(f"{str(file)!r} can't be written: {error}.") from error
    return file.stat().st_size


def _place(part: Path, capture: Path) -> str:
    """The folder of one rank's part in the file; the part that was named is the first of them."""
    return "capture" if part == capture else f"capture-rank{part.name.rpartition('-rank')[2]}"


def unpack(file: Path, folder: Path, most_bytes: int = MOST_BYTES) -> Path:
    """Unpack the capture of a bundle into a folder, and return its own folder there.

    Raises:
        CannotReplay: it is no bundle, it holds a file of another name, or it is larger than ``most_bytes``.
    """
    try:
        there = next(one for one in (folder, *folder.absolute().parents) if one.is_dir())
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check(entries, int(min(most_bytes, shutil.disk_usage(there).free, memory())))
            for entry in entries:
                target = folder / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(archive, entry, target)
    except CannotReplay:
        raise
    except Exception as error:  # each way to compress has errors of its own
        raise CannotReplay(f"{str(file)!r} is no bundle that can be read: {error}.") from error
    capture = folder / "capture"
    if not (capture / "capture.json").is_file():
        raise CannotReplay(f"{str(file)!r} holds no capture.")
    return capture


_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Python unpacks others by whole chunks, and one chunk of bzip2 or LZMA may become gigabytes."""


def _check(entries: list[zipfile.ZipInfo], most_bytes: int) -> None:
    if len(entries) > MOST_FILES:
        raise CannotReplay(f"The bundle holds {len(entries)} files; at most {MOST_FILES} are read.")
    for entry in entries:
        if not _NAME.fullmatch(entry.filename):
            raise CannotReplay(f"The bundle holds {entry.filename[:100]!r}, which no bundle of gradwatch does.")
        if entry.compress_type not in _COMPRESSIONS:
            raise CannotReplay(
                f"The bundle holds {entry.filename!r} compressed in a way that no bundle of gradwatch is."
            )
        if entry.filename.endswith(".json") and entry.file_size > MAX_DESCRIPTION_BYTES:
            raise CannotReplay(f"The bundle's {entry.filename!r} has {entry.file_size} bytes unpacked, which none has.")
    if len({entry.filename for entry in entries}) < len(entries):
        raise CannotReplay("The bundle holds a file twice.")
    size = sum(entry.file_size for entry in entries)
    if size > most_bytes:
        raise CannotReplay(f"The bundle has {size} bytes unpacked; at most {most_bytes} are read.")


def _copy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    """Copy no more than the archive says that there is: what it says was checked."""
    left = entry.file_size
    with archive.open(entry) as source, target.open("wb") as copy:
        while chunk := source.read(min(_CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise CannotReplay(f"The bundle's {entry.filename!r} is longer than it says.")
            copy.write(chunk)
