"""Calling something once a module has been imported."""

from __future__ import annotations

import importlib
import sys

import pytest

from gradwatch.script.imports import after_import


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module that nothing has imported yet."""
    (tmp_path / "not_yet_imported.py").write_text("VALUE = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    yield "not_yet_imported"
    sys.modules.pop("not_yet_imported", None)
    sys.meta_path[:] = finders


def test_it_is_called_when_the_module_is_whole(module):
    seen = []
    after_import(module, lambda: seen.append(sys.modules[module].VALUE))
    assert seen == []
    importlib.import_module(module)
    assert seen == [3]


def test_it_is_called_once(module):
    calls = []
    after_import(module, lambda: calls.append(1))
    importlib.import_module(module)
    importlib.import_module(module)
    importlib.reload(sys.modules[module])
    assert calls == [1]


def test_it_is_called_at_once_where_the_module_is_there(module):
    importlib.import_module(module)
    calls = []
    after_import(module, lambda: calls.append(1))
    assert calls == [1]


def test_other_imports_are_left_alone(module):
    calls = []
    after_import(module, lambda: calls.append(1))
    sys.modules.pop("colorsys", None)
    importlib.import_module("colorsys")
    assert calls == []


def test_a_module_that_is_not_there_fails_as_always(module, monkeypatch):
    after_import("no_such_module_at_all", lambda: None)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        importlib.import_module("no_such_module_at_all")


def test_two_can_wait_for_one_module(module):
    calls = []
    after_import(module, lambda: calls.append("first"))
    after_import(module, lambda: calls.append("second"))
    importlib.import_module(module)
    assert sorted(calls) == ["first", "second"]
