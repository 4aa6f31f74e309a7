"""Reads the offline files of Weights & Biases (``run-ID.wandb``), where the package wandb is installed.

The file is a log in blocks of 32 KiB, as LevelDB has: 7 bytes at its head, then chunks with checksum, length and kind
(whole, first, middle, last). Joined chunks are messages ``Record`` of ``wandb_internal.proto``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from gradwatch.errors import CannotImport

BLOCK, HEADER = 32_768, 7
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
MAX_BYTES = 2**31


def read(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The history, a dict for each logged step, and the config. A file that is cut off ends where it is cut.

    Raises:
        CannotImport: it is no such file, or the package wandb is missing.
    """
    try:
        from wandb.proto import wandb_internal_pb2
    except ImportError as error:
        raise CannotImport(f"{file.name!r} needs the package wandb: `pip install wandb`.") from error
    protocol: Any = wandb_internal_pb2
    history: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    for message in _messages(file):
        record = protocol.Record()
        try:
            record.ParseFromString(message)
        except Exception as error:  # protobuf's own type has moved between its versions
            raise CannotImport(f"{str(file)!r} can't be read as a file of W&B: a record is damaged.") from error
        kind = record.WhichOneof("record_type")
        if kind == "history":
            row = dict(_items(record.history.item, "/"))
            if record.history.HasField("step"):
                row["_step"] = record.history.step.num
            history.append(row)
        elif kind in ("config", "run"):
            told = record.config if kind == "config" else record.run.config
            config.update(_items(told.update, "."))
    return history, config


def _items(items: Any, between: str) -> Iterator[tuple[str, Any]]:
    """The names and values of logged items; one that can't be read as JSON is left out."""
    for item in items:
        try:
            yield between.join(item.nested_key) or item.key, json.loads(item.value_json)
        except ValueError:
            continue


def _messages(file: Path) -> Iterator[bytes]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise CannotImport(f"{str(file)!r} has more than {MAX_BYTES} bytes.")
        with file.open("rb") as stream:
            if stream.read(HEADER)[:4] != b":W&B":
                raise CannotImport(f"{str(file)!r} can't be read as a file of W&B: it begins with something else.")
            yield from _joined(_chunks(stream))
    except OSError as error:
        raise CannotImport(f"{str(file)!r} can't be read: {error}.") from error


def _chunks(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The kind and the bytes of each chunk, up to one that is cut off or of no known kind."""
    at = HEADER
    while True:
        left = BLOCK - at % BLOCK
        if left < HEADER:  # too little for a chunk, so that it begins with the next block
            stream.read(left)
            at += left
        head = stream.read(HEADER)
        if len(head) < HEADER:
            return
        _, length, kind = struct.unpack("<IHB", head)
        chunk = stream.read(length)
        at += HEADER + length
        if kind not in (_WHOLE, _FIRST, _MIDDLE, _LAST) or len(chunk) < length:
            return  # cut off, or the rest of the file is empty
        yield kind, chunk


def _joined(chunks: Iterator[tuple[int, bytes]]) -> Iterator[bytes]:
    parts: list[bytes] = []
    for kind, chunk in chunks:
        if kind in (_WHOLE, _FIRST):
            parts = []
        parts.append(chunk)
        if kind in (_WHOLE, _LAST):
            yield b"".join(parts)
