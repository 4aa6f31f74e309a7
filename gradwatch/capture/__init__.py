"""Captures: bad steps saved to disk before their update, for a later replay.

`write` and `read` are the format, `list_captures`, `describe` and `delete` work on folders and need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gradwatch.capture.listing import (
    CaptureInfo,
    CaptureSurvey,
    UnreadableCapture,
    capture_folders,
    delete,
    describe,
    list_captures,
    part_folders,
    survey,
    unreadable_captures,
)
from gradwatch.capture.options import CaptureOptions
from gradwatch.capture.record import Autocast, Capture, Forward, Group, RandomState, Shard, Unkept, Why
from gradwatch.capture.stand_ins import MappingStandIn, Structure

if TYPE_CHECKING:
    from gradwatch.capture.files import read, write
    from gradwatch.capture.nested import classes_in, differentiable, map_tensors, tensors_in
    from gradwatch.capture.random_state import set_random_state, take_random_state
    from gradwatch.capture.ranks import read_all

__all__ = [
    "Autocast",
    "Capture",
    "CaptureInfo",
    "CaptureOptions",
    "CaptureSurvey",
    "Forward",
    "Group",
    "MappingStandIn",
    "RandomState",
    "Shard",
    "Structure",
    "Unkept",
    "UnreadableCapture",
    "Why",
    "capture_folders",
    "classes_in",
    "delete",
    "describe",
    "differentiable",
    "list_captures",
    "map_tensors",
    "part_folders",
    "read",
    "read_all",
    "set_random_state",
    "survey",
    "take_random_state",
    "tensors_in",
    "unreadable_captures",
    "write",
]

# These import torch.
_LATE = {
    "read": "gradwatch.capture.files",
    "read_all": "gradwatch.capture.ranks",
    "write": "gradwatch.capture.files",
    "classes_in": "gradwatch.capture.nested",
    "differentiable": "gradwatch.capture.nested",
    "map_tensors": "gradwatch.capture.nested",
    "tensors_in": "gradwatch.capture.nested",
    "set_random_state": "gradwatch.capture.random_state",
    "take_random_state": "gradwatch.capture.random_state",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)
