"""Detectors of a resumed run go on where they were, as if they had seen every earlier step again."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gradwatch.detect import detectors_for
from gradwatch.detect.state import dump
from gradwatch.record import Event, StepRecord
from gradwatch.recording import judge, snapshots
from gradwatch.recording.recorder import Recorder
from gradwatch.recording.snapshots import Snapshots, unseen_records, version_of
from gradwatch.store import StoreReader, StoreWriter
from gradwatch.testing import replaced, steady, stream

NORMS = replaced(steady(700, seed=3), {300: 1e4, 480: float("nan"), 650: 500.0})
RECORDS = list(stream(NORMS, losses=[1.0] * 700))


class Source:
    """An optimizer as a sink reads it."""

    name, optimizer_class, settings, step, first_step = "0", "SGD", {"lr": 0.1}, 0, 0
    infos, parts = RECORDS[0].layers.parameters, ()
    present: ClassVar[list[bool]] = []


def attempt(run: Path, records: list[StepRecord], settings: dict[str, Any] | None = None, kill: bool = False) -> None:
    """Record these as one attempt."""
    writer = StoreWriter(run)
    writer.begin_attempt({}, {})
    source = Source()
    source.settings = settings or source.settings
    recorder = Recorder(writer)
    recorder.admit(source, recorder.begin("0", source.optimizer_class, source.settings))
    for record in records:
        recorder.put_record(partial(replace, record, attempt=writer.attempt))
    assert recorder.flush()
    assert recorder.close("killed" if kill else "closed")


def stored(run: Path) -> list[Event]:
    with StoreReader(run) as reader:
        return reader.events()


def seen_again(run: Path, settings: dict[str, Any]) -> tuple[list[int], bytes]:
    """The steps that fresh detectors are shown, and their state after these."""
    detectors = detectors_for("SGD", settings)
    steps = []
    for record in unseen_records(run, "0", detectors, lambda _: None):
        steps.append(record.step)
        for detector in detectors:
            detector.update(record)
    return steps, dump(detectors)


def state_after_all(records: list[StepRecord]) -> bytes:
    detectors = detectors_for("SGD", Source.settings)
    for record in records:
        for detector in detectors:
            detector.update(record)
    return dump(detectors)


def test_a_resumed_run_is_shown_no_earlier_step_and_has_their_state(tmp_path):
    attempt(tmp_path / "run", RECORDS[:500])
    steps, state = seen_again(tmp_path / "run", Source.settings)
    assert steps == []
    assert state == state_after_all(RECORDS[:500])


@pytest.mark.parametrize("cut", [1, 250, 301, 482, 690])
def test_the_events_are_those_of_a_run_in_one_piece(tmp_path, cut):
    attempt(tmp_path / "whole", RECORDS)
    attempt(tmp_path / "two", RECORDS[:cut])
    attempt(tmp_path / "two", RECORDS[cut:])

    def told(run):
        return [replace(event, attempt=0) for event in stored(run)]

    assert told(tmp_path / "two") == told(tmp_path / "whole")
    assert len(told(tmp_path / "whole")) >= 3


def test_records_after_the_snapshot_are_shown(tmp_path, monkeypatch):
    attempt(tmp_path / "run", RECORDS[:100])
    monkeypatch.setattr(Snapshots, "save", lambda *_, **__: None)
    attempt(tmp_path / "run", RECORDS[100:160])
    assert seen_again(tmp_path / "run", Source.settings)[0] == list(range(100, 160))


def test_detectors_of_other_settings_begin_anew(tmp_path):
    attempt(tmp_path / "run", RECORDS[:50], {"lr": 0.1})
    assert seen_again(tmp_path / "run", {"lr": 0.2})[0] == []  # of no consequence to a detector
    detectors = detectors_for("Adam", {"lr": 0.1, "eps": 1e-8})
    assert version_of(detectors) != version_of(detectors_for("SGD", {"lr": 0.1}))
    assert len(list(unseen_records(tmp_path / "run", "0", detectors, lambda _: None))) == 50


def test_detectors_of_other_code_begin_anew(tmp_path, monkeypatch):
    attempt(tmp_path / "run", RECORDS[:50])
    monkeypatch.setattr(snapshots, "fingerprint", lambda: "other")
    assert len(seen_again(tmp_path / "run", Source.settings)[0]) == 50


@pytest.mark.parametrize("state", [b"", b"{}\n", b"null", b"\x00" * 100, b'{"detectors": [], "parameters": []}\n'])
def test_a_state_that_is_none_is_no_harm(tmp_path, state):
    attempt(tmp_path / "run", RECORDS[:50])
    writer = StoreWriter(tmp_path / "run")
    writer.save_detector_state("0", 50, version_of(detectors_for("SGD", Source.settings)), [state])
    writer.abandon()
    steps, found = seen_again(tmp_path / "run", Source.settings)
    assert steps == list(range(50))
    assert found


def test_snapshots_are_written_while_it_runs_and_take_a_small_share_of_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "EVERY", 0.0)
    monkeypatch.setattr(snapshots, "SHARE", 1.0)
    saved = []
    original = StoreWriter.save_detector_state
    monkeypatch.setattr(
        StoreWriter,
        "save_detector_state",
        lambda self, name, last, *rest: saved.append(last) or original(self, name, last, *rest),
    )
    attempt(tmp_path / "run", RECORDS)
    assert len(saved) > 1
    assert saved == sorted(set(saved))
    assert saved[-1] == 700


def test_a_loop_faster_than_the_share_of_catching_up_is_caught_up_with(tmp_path, monkeypatch):
    """The rests of catching up are for the records of before; those of this attempt have to be judged anyway."""
    attempt(tmp_path / "run", RECORDS[:20])
    monkeypatch.setattr(judge, "SLICE", 0.02)
    monkeypatch.setattr(judge, "REST", 50.0)
    writer = StoreWriter(tmp_path / "run")
    writer.begin_attempt({}, {})
    recorder = Recorder(writer)
    recorder.admit(Source(), recorder.begin("0", "SGD", Source.settings))
    for record in RECORDS[20:700]:
        recorder.put_record(lambda record=record: replace(record, attempt=1))
    deadline = time.monotonic() + 30
    while (recorder._judge.is_behind or "0" not in recorder._judge.detectors) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not recorder._judge.is_behind
    assert recorder.close("closed")
