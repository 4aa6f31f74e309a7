"""Finds the folders of captures, describes each from its JSON alone, and deletes them. Needs no torch."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradwatch.capture.record import WHYS
from gradwatch.errors import CaptureDamaged, CaptureNotFound, CaptureTooNew, StoreNotWritable

FOLDER = "captures"
"""Within the folder of a run."""

DESCRIPTION = "capture.json"
VERSION = 1
MAX_DESCRIPTION_BYTES = 16 * 2**20
MOST_RANKS = 2**20
MOST_LISTED = 1000
MOST_LISTED_BYTES = 2 * MAX_DESCRIPTION_BYTES
"""A list describes at most so many captures of a run, whose descriptions have at most so many bytes."""

MOST_TEXTS, LONGEST_TEXT = 20, 1000
"""What is said in a list of texts of a capture."""

_NAME = re.compile(r"step-(\d{1,18})([-\w.]*)")
_PART = re.compile(r"(.+)-rank(\d{1,6})")
_UNFINISHED = re.compile(r"\.(step-(\d{1,18})[-\w.]*)\.(\d{1,10})\.part")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureInfo:
    """What a capture says of itself, without its tensors.

    Attributes:
        folder: its folder.
        step: the number of the step.
        optimizer: the name of the optimizer.
        why: the reason for which it was kept: "nonfinite", "spike" or "explosion".
        bytes: on the disk.
        total_norm: L2 norm over all gradients before clipping; NaN or infinite where they are.
        limit: the norm above which a step was kept; None for a non-finite one.
        replayable: whether forward and backward can be made again from it.
        not_kept: why anything was not kept or is not exact, in words.
        model: the class of the root module.
        rank: the process that wrote it.
        wall_time: seconds since the epoch.
        has_weights: whether the weights were kept.
        ranks: how many processes trained.
        parts: the processes whose captures are there; the folders of others lie beside it.
    """

    folder: Path
    step: int
    optimizer: str
    why: str
    bytes: int
    total_norm: float | None
    limit: float | None
    replayable: bool
    not_kept: tuple[str, ...]
    model: str
    rank: int
    wall_time: float | None
    has_weights: bool
    ranks: int = 1
    parts: tuple[int, ...] = (0,)

    def as_dict(self) -> dict[str, Any]:
        """What `gradwatch captures --json` prints."""
        return {**asdict(self), "folder": str(self.folder)}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableCapture:
    """A folder of a capture that can't be read.

    Attributes:
        folder: its folder.
        step: the number of the step, from the folder's name.
        bytes: on the disk.
        why: what is wrong with it, in words.
    """

    folder: Path
    step: int
    bytes: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureSurvey:
    """The captures of a run.

    Attributes:
        captures: by step, those of one step by time: what one optimizer has spoilt, others meet later.
        unreadable: those that can't be read, by step.
        left_out: how many more there are than a list has.
    """

    captures: tuple[CaptureInfo, ...]
    unreadable: tuple[UnreadableCapture, ...]
    left_out: int = 0


def survey(run: str | os.PathLike[str]) -> CaptureSurvey:
    """Describe the captures of a run: the first `MOST_LISTED`, and no more than `MOST_LISTED_BYTES` of descriptions."""
    parts = _parts_by_first(run)
    unfinished = unfinished_folders(run)
    captures, unreadable, left = [], [], MOST_LISTED_BYTES
    for folder, beside in list(parts.items())[:MOST_LISTED]:
        try:
            left -= check_file(folder / DESCRIPTION, MAX_DESCRIPTION_BYTES)
            if left < 0:
                raise CaptureDamaged(f"It was not read: the descriptions have more than {MOST_LISTED_BYTES} bytes.")
            captures.append(_described(folder, beside))
        except (CaptureDamaged, CaptureNotFound, CaptureTooNew) as error:
            unreadable.append(_unreadable(folder, error.args[0]))
    for folder in unfinished[: MOST_LISTED - len(captures) - len(unreadable)]:
        why = "It is not complete: it is being written, or the process that wrote it was ended meanwhile."
        unreadable.append(_unreadable(folder, why))
    return CaptureSurvey(
        captures=tuple(sorted(captures, key=_moment)),
        unreadable=tuple(sorted(unreadable, key=lambda one: (one.step, one.folder.name))),
        left_out=len(parts) + len(unfinished) - len(captures) - len(unreadable),
    )


def list_captures(run: str | os.PathLike[str]) -> list[CaptureInfo]:
    """The captures of a run, by step, those of one step by time; see `survey`.

    Those that can't be read are left out, see `unreadable_captures`.
    """
    return list(survey(run).captures)


def _moment(info: CaptureInfo) -> tuple[int, float, str]:
    when = math.inf if info.wall_time is None or math.isnan(info.wall_time) else info.wall_time
    return info.step, when, info.folder.name


def unreadable_captures(run: str | os.PathLike[str]) -> list[UnreadableCapture]:
    """The captures of a run that are damaged, or whose process has not finished writing them, by step."""
    return list(survey(run).unreadable)


def _unreadable(folder: Path, why: str) -> UnreadableCapture:
    return UnreadableCapture(folder=folder, step=step_of(folder), bytes=size_on_disk(folder), why=why)


def step_of(folder: Path) -> int:
    """The step that the folder of a capture is named by, also one that is not complete.

    >>> step_of(Path("captures/step-000137")), step_of(Path("captures/.step-000137.99.part"))
    (137, 137)
    """
    return int(re.split(r"[-.]", folder.name.removeprefix("."))[1])


def unfinished_folders(run: str | os.PathLike[str]) -> list[Path]:
    """The folders of captures that are not complete."""
    try:
        entries = sorted((Path(run) / FOLDER).iterdir())
    except OSError:
        return []
    return [one for one in entries if _UNFINISHED.fullmatch(one.name) and one.is_dir() and not one.is_symlink()]


def unfinished_name(name: str) -> str:
    """What the folder of a capture is called as long as this process writes it.

    >>> unfinished_name("step-000137").startswith(".step-000137.")
    True
    """
    return f".{name}.{os.getpid()}.part"


def size_of_captures(run: str | os.PathLike[str]) -> int:
    """The size of all captures of a run in bytes, those that are not complete included."""
    try:
        return sum(size_on_disk(one) for one in (Path(run) / FOLDER).iterdir())
    except OSError:
        return 0


def size_on_disk(folder: Path) -> int:
    """The size of the files in a folder, in bytes; 0 if it is gone."""
    try:
        return sum(one.lstat().st_size for one in folder.iterdir())
    except OSError:
        return 0


def capture_folders(run: str | os.PathLike[str]) -> list[Path]:
    """The folders of all captures of a run, damaged ones included, by step.

    Of a capture that several processes wrote, the folder of the first of them.
    """
    return list(_parts_by_first(run))


def _parts_by_first(run: str | os.PathLike[str]) -> dict[Path, dict[int, Path]]:
    """The parts of each capture of a run by rank, by the folder of the first part that is there; by step."""
    try:
        entries = list((Path(run) / FOLDER).iterdir())
    except OSError:
        return {}
    numbered = [(int(match[1]), one.name, one) for one in entries if (match := _NAME.fullmatch(one.name))]
    by_base: dict[str, dict[int, Path]] = {}
    for _, _, one in sorted(numbered):
        if one.is_dir() and not one.is_symlink():
            by_base.setdefault(_base(one.name), {})[_rank_in(one.name)] = one
    each = [dict(sorted(parts.items())) for parts in by_base.values()]
    return {next(iter(parts.values())): parts for parts in each}


def _base(name: str) -> str:
    match = _PART.fullmatch(name)
    return name if match is None else match[1]


def _rank_in(name: str) -> int:
    match = _PART.fullmatch(name)
    return 0 if match is None else int(match[2])


def part_folder(folder: Path, rank: int) -> Path:
    """The folder of one process's part of a capture.

    >>> part_folder(Path("captures/step-000137"), 1).as_posix()
    'captures/step-000137-rank1'
    """
    return folder if rank == 0 else folder.with_name(f"{folder.name}-rank{rank}")


def part_folders(folder: str | os.PathLike[str]) -> dict[int, Path]:
    """The folders of all processes' parts of a capture, by rank; ``folder`` is that of any of them."""
    folder = Path(folder)
    base = _base(folder.name)
    try:
        entries = [one for one in folder.absolute().parent.iterdir() if _base(one.name) == base]
    except OSError:
        return {_rank_in(folder.name): folder}
    found = {_rank_in(one.name): folder.with_name(one.name) for one in entries if one.is_dir() and not one.is_symlink()}
    return dict(sorted(found.items())) or {_rank_in(folder.name): folder}


def describe(folder: str | os.PathLike[str]) -> CaptureInfo:
    """What the capture in this folder says of itself.

    Raises:
        CaptureNotFound, CaptureDamaged, CaptureTooNew: it can't be read.
    """
    folder = Path(folder)
    return _described(folder, part_folders(folder))


def _described(folder: Path, parts: Mapping[int, Path]) -> CaptureInfo:
    found = load_description(folder)
    try:
        if found["why"] not in WHYS:
            raise ValueError(found["why"])
        return CaptureInfo(
            folder=folder,
            step=int(found["step"]),
            optimizer=shortened(str(found["optimizer"])),
            why=found["why"],
            bytes=sum(size_on_disk(part) for part in parts.values()),
            total_norm=number(found["total_norm"]),
            limit=number(found["limit"]),
            replayable=found["replayable"] is True,
            not_kept=few_texts(found["not_kept"]),
            model=shortened(str(found["model"])),
            rank=int(found["rank"]),
            wall_time=number(found["wall_time"]),
            has_weights=bool(found["weights"]),
            ranks=int(found["ranks"]),
            parts=tuple(parts) if int(found["ranks"]) > 1 else (int(found["rank"]),),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CaptureDamaged(f"The capture {str(folder)!r} can't be read: its description is not complete.") from error


def shortened(text: str) -> str:
    """A text of a stranger's file may be of any length.

    >>> len(shortened("x" * 5000))
    1001
    """
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def few_texts(node: Any) -> tuple[str, ...]:
    """The first texts of a list, and how many more there are.

    >>> few_texts(["x"] * 22)[-1]
    'and 2 more'
    """
    if not isinstance(node, list):
        raise TypeError("a list is expected")
    more = (f"and {len(node) - MOST_TEXTS} more",) if len(node) > MOST_TEXTS else ()
    return (*(shortened(str(one)) for one in node[:MOST_TEXTS]), *more)


def number(node: Any) -> float | None:
    """A float or None; NaN and infinities are written as strings."""
    return None if node is None else float(node)


def load_description(folder: Path) -> dict[str, Any]:
    """The JSON of a capture.

    Raises:
        CaptureNotFound, CaptureDamaged, CaptureTooNew: it can't be read.
    """
    path = folder / DESCRIPTION
    check_file(path, MAX_DESCRIPTION_BYTES)
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError, OSError) as error:
        raise CaptureDamaged(f"The capture {str(folder)!r} can't be read: {DESCRIPTION} is not valid JSON.") from error
    if not isinstance(found, dict) or type(found.get("version")) is not int:
        raise CaptureDamaged(f"The capture {str(folder)!r} can't be read: {DESCRIPTION} describes no capture.")
    if found["version"] > VERSION:
        raise CaptureTooNew(
            f"The capture {str(folder)!r} was written by a newer gradwatch (version {found['version']} of the format,"
            f" this one reads up to {VERSION})."
        )
    return found


def check_file(path: Path, most_bytes: float = math.inf) -> int:
    """The size of a file of a capture, which has to be a plain file.

    Raises:
        CaptureNotFound: it is not there.
        CaptureDamaged: it is a link, a pipe or the like, or too large.
    """
    try:
        found = path.lstat()
    except (OSError, ValueError):
        raise CaptureNotFound(f"No capture is in {str(path.parent)!r}: {path.name} is missing.") from None
    if not stat.S_ISREG(found.st_mode):
        raise CaptureDamaged(f"The capture {str(path.parent)!r} can't be read: {path.name} is not a plain file.")
    if found.st_size > most_bytes:
        raise CaptureDamaged(
            f"The capture {str(path.parent)!r} can't be read: {path.name} has {found.st_size} bytes, more than"
            f" {int(most_bytes)}."
        )
    return found.st_size


def delete(folder: str | os.PathLike[str]) -> None:
    """Delete a capture with everything in its folder, and with the parts of other processes.

    Raises:
        CaptureNotFound: the folder is not one of a capture, by its name and place.
        StoreNotWritable: it can't be deleted.
    """
    folder = Path(folder)
    is_unfinished = _UNFINISHED.fullmatch(folder.name)
    is_one = (_NAME.fullmatch(folder.name) or is_unfinished) and folder.is_dir() and not folder.is_symlink()
    if not is_one or folder.absolute().parent.name != FOLDER:
        raise CaptureNotFound(f"No capture is in {str(folder)!r}.")
    try:
        for part in [folder] if is_unfinished else part_folders(folder).values():
            shutil.rmtree(part)
    except OSError as error:
        raise StoreNotWritable(f"The capture in {str(folder)!r} can't be deleted: {error}.") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
