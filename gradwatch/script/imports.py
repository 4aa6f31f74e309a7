"""Calls something, or replaces something, once a module has been imported, without importing it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

logger = logging.getLogger("gradwatch")


def after_import(name: str, call: Callable[[], object]) -> None:
    """Call once the module has been imported, no matter who imports it; at once if it already is.

    A call that fails is reported, and never breaks the import.
    """
    if name in sys.modules:
        _call_safely(name, call)
    else:
        sys.meta_path.insert(0, _AfterImport(name, call))


def replace_after_import(module: str, path: str, make: Callable[[Any], Any]) -> Callable[[], None]:
    """Replace something in a module once that has been imported; return what puts the original back.

    After that, or if the module does not have it, nothing is replaced.

    Args:
        module: its name.
        path: the name of what is replaced, within the module: "function" or "Class.method".
        make: makes the replacement of the original.

    >>> stop = replace_after_import("json", "dumps", lambda original: lambda value: f"<{original(value)}>")
    >>> import json
    >>> json.dumps(1)
    '<1>'
    >>> stop()
    >>> json.dumps(1)
    '1'
    """
    *owners, name = path.split(".")
    restore: list[Callable[[], None]] = []
    is_over = False

    def replace() -> None:
        owner: Any = sys.modules.get(module)
        for one in owners:
            owner = getattr(owner, one, None)
        original = getattr(owner, name, None)
        if original is not None and not is_over:
            setattr(owner, name, make(original))
            restore.append(lambda: setattr(owner, name, original))

    def stop() -> None:
        nonlocal is_over
        is_over = True
        while restore:
            restore.pop()()

    after_import(module, replace)
    return stop


def _call_safely(name: str, call: Callable[[], object]) -> None:
    try:
        call()
    except Exception as fault:
        logger.error(
            "gradwatch failed after the import of %s and observes nothing of it; the script goes on. %s: %s"
            " (after-import-failed)",
            name,
            type(fault).__name__,
            fault,
        )
        logger.debug("the fault after an import", exc_info=fault)


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds nothing itself; makes the loader of one module call back when it is done."""

    def __init__(self, name: str, call: Callable[[], object]) -> None:
        self._name, self._call = name, call

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            self._call_when_loaded(spec.loader)
        return spec

    def _call_when_loaded(self, loader: importlib.abc.Loader) -> None:
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            _call_safely(self._name, self._call)

        loader.exec_module = exec_module  # type: ignore[method-assign]
