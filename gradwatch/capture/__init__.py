"""Captures: bad steps saved to disk before their update, for a later replay.

`write` and `read` are the format, `list_captures`, `describe` and `delete` work on folders and need no torch.
"""

from typing import TYPE_CHECKING

from gradwatch.late import late_names

if TYPE_CHECKING:
    from gradwatch.capture.files import read, write
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
    from gradwatch.capture.nested import classes_in, differentiable, map_tensors, tensors_in
    from gradwatch.capture.options import CaptureOptions
    from gradwatch.capture.random_state import set_random_state, take_random_state
    from gradwatch.capture.ranks import read_all
    from gradwatch.capture.record import Autocast, Capture, Forward, Group, RandomState, Shard, Unkept, Why
    from gradwatch.capture.stand_ins import MappingStandIn, Structure
else:
    __getattr__, __dir__ = late_names(
        __name__,
        {
            "Autocast": "record",
            "Capture": "record",
            "CaptureInfo": "listing",
            "CaptureOptions": "options",
            "CaptureSurvey": "listing",
            "Forward": "record",
            "Group": "record",
            "MappingStandIn": "stand_ins",
            "RandomState": "record",
            "Shard": "record",
            "Structure": "stand_ins",
            "Unkept": "record",
            "UnreadableCapture": "listing",
            "Why": "record",
            "capture_folders": "listing",
            "classes_in": "nested",
            "delete": "listing",
            "describe": "listing",
            "differentiable": "nested",
            "list_captures": "listing",
            "map_tensors": "nested",
            "part_folders": "listing",
            "read": "files",
            "read_all": "ranks",
            "set_random_state": "random_state",
            "survey": "listing",
            "take_random_state": "random_state",
            "tensors_in": "nested",
            "unreadable_captures": "listing",
            "write": "files",
        },
    )

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
