"""Glances at runs: at once where they are known, in the background where they are not."""

import subprocess
import sys
import threading
from typing import Any

import pytest

from gradwatch import Run
from gradwatch.store import FILE_NAME, StoreWriter
from gradwatch.testing import steady, stream, write_run
from gradwatch.views.web import glances
from gradwatch.views.web.glances import Glances, glance_at


@pytest.fixture
def stores(tmp_path):
    for name in "abc":
        write_run(tmp_path / name, stream(steady(30)))
    return [tmp_path / name / FILE_NAME for name in "abc"]


def known(verdict="healthy", running=False):
    return {"verdict": verdict, "running": running, "optimizers": ["0"], "error": None}


NOTHING: dict[str, Any] = {
    "verdict": None,
    "running": False,
    "optimizers": [],
    "error": None,
    "numbers": None,
    "settings": {},
}


def test_a_glance_has_the_verdict_of_the_run(tmp_path):
    path = write_run(tmp_path / "run", stream(steady(100)))
    glance = glance_at(path / FILE_NAME)
    assert {name: glance[name] for name in known()} == known()
    summary = Run(path).summary()
    numbers = glance["numbers"]
    assert numbers["steps"] == 100
    assert (numbers["fault"], numbers["fault_step"]) == (None, None)
    assert numbers["median_norm"] == summary.total_norm.median
    assert numbers["max_norm"] == summary.total_norm.max
    assert numbers["threshold"] == summary.clipping.threshold
    assert glance["settings"] == Run(path).settings()
    (got,) = Glances().of([path / FILE_NAME], 60).values()
    assert got["verdict"] == "healthy"
    assert got["pending"] is False
    assert got["written"] == pytest.approx((path / FILE_NAME).stat().st_mtime)


def test_a_slow_run_is_pending_at_first_and_hides_no_other(stores):
    go_on = threading.Event()

    def slow(path):
        if path == stores[0]:
            go_on.wait(30)
        return known()

    several = Glances(slow)
    first = several.of(stores, 0.05)
    assert first[stores[0]] | {"written": 0} == NOTHING | {"written": 0, "pending": True}
    go_on.set()
    later = several.of(stores, 30)
    assert [(glance["verdict"], glance["pending"]) for glance in later.values()] == [("healthy", False)] * 3


def test_an_unchanged_store_is_looked_at_once_and_a_changed_one_again(stores):
    looked = []

    def look(path):
        looked.append(path)
        return known()

    several = Glances(look)
    several.of(stores, 30)
    several.of(stores, 30)
    assert sorted(looked) == stores
    with stores[1].open("ab") as file:
        file.write(b"\0")
    several.of(stores, 30)
    assert sorted(looked) == sorted([*stores, stores[1]])


def test_what_was_known_of_a_changed_store_is_told_until_the_new_verdict_is_there(stores):
    go_on = threading.Event()
    answers = iter([known("healthy"), known("critical")])

    def look(path):
        answer = next(answers)
        if answer["verdict"] == "critical":
            go_on.wait(30)
        return answer

    several = Glances(look)
    several.of(stores[:1], 30)
    with stores[0].open("ab") as file:
        file.write(b"\0")
    told = several.of(stores[:1], 0.05)[stores[0]]
    assert (told["verdict"], told["pending"]) == ("healthy", True)
    go_on.set()
    told = several.of(stores[:1], 30)[stores[0]]
    assert (told["verdict"], told["pending"]) == ("critical", False)


def test_a_run_that_was_being_written_is_looked_at_again_though_its_store_is_the_same(stores, monkeypatch):
    answers = iter([known(running=True), known("warning")])
    several = Glances(lambda _: next(answers))
    monkeypatch.setattr(glances, "RECHECK_SECONDS", 1e9)
    assert several.of(stores[:1], 30)[stores[0]]["running"]
    assert several.of(stores[:1], 30)[stores[0]]["running"]
    monkeypatch.setattr(glances, "RECHECK_SECONDS", 0.0)
    assert not several.of(stores[:1], 30)[stores[0]]["running"]


def test_a_run_whose_process_was_killed_is_not_recording(tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from gradwatch.store import StoreWriter;"
        "from gradwatch.testing import stream, steady;"
        "w = StoreWriter(Path(sys.argv[1])); w.begin_attempt({}, {'0': ('SGD', {})});"
        "w.append(stream(steady(60))); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    glance = glance_at(tmp_path / FILE_NAME)
    assert (glance["running"], glance["verdict"]) == (False, "warning")
    assert (glance["numbers"]["fault"], glance["numbers"]["fault_step"]) == ("killed", 59)


def test_a_run_without_a_step_has_neither_verdict_nor_numbers(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    assert glance_at(tmp_path / FILE_NAME) == NOTHING | {"running": True, "optimizers": ["0"]}
    writer.end_attempt("closed")


def test_a_store_that_is_gone_or_broken_says_why(stores):
    (stores[0].parent / "other").mkdir()
    broken = stores[0].parent / "other" / FILE_NAME
    broken.write_text("no store")
    missing = stores[0].with_name("missing")
    several = Glances()
    told = several.of([stores[1], broken, missing], 60)
    assert told[stores[1]]["error"] is None
    assert "no store" in told[broken]["error"] or str(broken.parent) in told[broken]["error"]
    assert told[missing]["error"]
    assert told[missing]["written"] == 0.0
    assert not any(glance["pending"] for glance in told.values())


def test_a_look_that_fails_leaves_the_others(stores):
    def look(path):
        if path == stores[1]:
            raise RuntimeError("unforeseen")
        return known()

    told = Glances(look).of(stores, 30)
    assert told[stores[1]]["error"] == "RuntimeError: unforeseen"
    assert [told[path]["verdict"] for path in (stores[0], stores[2])] == ["healthy", "healthy"]


def test_a_run_that_was_deleted_meanwhile_is_told_as_such_beside_the_others(stores):
    glances = Glances()
    glances.of(stores)
    stores[0].unlink()
    found = glances.of(stores)
    assert found[stores[0]] == NOTHING | {"error": "the run was deleted", "written": 0.0, "pending": False}
    assert found[stores[1]]["verdict"] == "healthy"
