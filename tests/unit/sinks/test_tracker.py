"""What a tracker is told of a run before its first step."""

import dataclasses
import os
from pathlib import Path

import pytest

from gradwatch.sinks.tracker import RunFacts


@pytest.mark.parametrize("path", ["runs/first", "runs/first/", "first", "other/../first", "./first/."])
def test_the_name_is_the_last_part_of_the_path(path):
    assert RunFacts(path=Path(path)).name == "first"


def test_the_folder_itself_has_the_name_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RunFacts(path=Path()).name == os.path.basename(os.path.realpath(tmp_path))  # noqa: PTH119


def test_facts_do_not_change():
    facts = RunFacts(path=Path("a"))
    assert (facts.config, facts.several) == ({}, False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        facts.several = True
