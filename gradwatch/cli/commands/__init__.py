"""The work of each command, imported when the command is called: `gradwatch report` never imports torch."""

from __future__ import annotations

import gc
import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradwatch.cli.commands import (
        captures,
        check,
        compare,
        config,
        demo,
        doctor,
        events,
        explain,
        export,
        import_history,
        ls,
        manage,
        mcp,
        recommend,
        replay,
        report,
        run,
        tune,
        view,
        watch,
    )

__all__ = [
    "captures",
    "check",
    "compare",
    "config",
    "demo",
    "doctor",
    "events",
    "explain",
    "export",
    "import_history",
    "ls",
    "manage",
    "mcp",
    "recommend",
    "replay",
    "report",
    "run",
    "tune",
    "view",
    "watch",
]


def __getattr__(name: str) -> ModuleType:
    """Import a command's module when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    was_enabled = gc.isenabled()
    gc.disable()  # imports free nothing, and each collection would look at all that they made
    try:
        return importlib.import_module(f"{__name__}.{name}")
    finally:
        if was_enabled:
            gc.enable()
