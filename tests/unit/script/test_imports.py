"""Calling something once a module has been imported."""

from __future__ import annotations

import importlib
import sys

import pytest

from gradwatch.script.imports import after_import, replace_after_import


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


@pytest.mark.parametrize("is_imported", [False, True])
def test_a_call_that_fails_is_reported_and_breaks_no_import(module, is_imported, caplog):
    if is_imported:
        importlib.import_module(module)

    def fail():
        raise RuntimeError("planted")

    after_import(module, fail)
    assert importlib.import_module(module).VALUE == 3
    (said,) = caplog.messages
    assert "RuntimeError: planted (after-import-failed)" in said


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


def doubled(original):
    return lambda *args: 2 * original(*args)


@pytest.mark.parametrize("is_imported", [True, False], ids=["before the import", "after it"])
def test_what_is_replaced_is_the_original_again_afterwards(module, is_imported, tmp_path):
    (tmp_path / "not_yet_imported.py").write_text(
        "def f(x):\n    return x\nclass C:\n    def f(self):\n        return 3\n"
    )
    if is_imported:
        importlib.import_module(module)
    stops = [replace_after_import(module, "f", doubled), replace_after_import(module, "C.f", doubled)]
    found = importlib.import_module(module)
    assert (found.f(5), found.C().f()) == (10, 6)
    for stop in (*stops, *stops):
        stop()
    assert (found.f(5), found.C().f()) == (5, 3)


def test_nothing_is_replaced_in_a_module_that_is_imported_after_the_end(module):
    replace_after_import(module, "VALUE", lambda original: original + 1)()
    assert importlib.import_module(module).VALUE == 3


@pytest.mark.parametrize("path", ["nothing", "Nothing.at.all"])
def test_what_a_module_does_not_have_is_not_made(module, path):
    stop = replace_after_import(module, path, doubled)
    found = importlib.import_module(module)
    stop()
    assert not hasattr(found, path.split(".")[0])


def test_two_replacements_of_one_thing_are_undone_the_last_first(module):
    first, second = (replace_after_import(module, "VALUE", lambda original: original + 1) for _ in range(2))
    found = importlib.import_module(module)
    assert found.VALUE == 5
    second()
    assert found.VALUE == 4
    first()
    assert found.VALUE == 3
