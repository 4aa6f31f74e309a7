"""A place that can't be written when a recording begins: one error with a slug, and no training is touched."""

import json
import os
import sys

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.errors import GradwatchError, StoreNotWritable

from ...prepared import forked

SWEEP = """
import json, resource, shutil, sys
import torch, gradwatch
from gradwatch.errors import GradwatchError

def attach_and_train(model, optimizer):
    with gradwatch.attach(model, optimizer, "run", clip=gradwatch.clip.NormClip(0.1)):
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()

def outcome(pages, is_resumed):
    shutil.rmtree("run", ignore_errors=True)
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if is_resumed:
        attach_and_train(model, optimizer)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096 * pages, resource.RLIM_INFINITY))
    try:
        attach_and_train(model, optimizer)
        return "began"
    except GradwatchError as error:
        return error.slug
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

found = {str(resumed): [outcome(pages, resumed) for pages in range(0, 90, 3)] for resumed in (False, True)}
open("found.json", "w").write(json.dumps(found))
"""


@pytest.fixture
def training():
    model = nn.Linear(3, 3)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on the size of files")
def test_however_little_room_there_is_the_error_says_that_the_store_is_not_writable(tmp_path):
    """The disk may take the file and not its log, or the log and not the first attempt."""
    (tmp_path / "sweep.py").write_text(SWEEP)
    done = forked().run(["sweep.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    for outcomes in json.loads((tmp_path / "found.json").read_text()).values():
        began = outcomes.index("began")
        assert set(outcomes[:began]) == {"store-not-writable"}
        assert set(outcomes[began:]) == {"began"}
        assert began > 3


def in_place_of_the_folder(tmp_path):
    (tmp_path / "run").touch()
    return tmp_path / "run"


def below_a_file(tmp_path):
    return in_place_of_the_folder(tmp_path) / "run"


def link_to_itself(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "run")
    return tmp_path / "run"


def too_long_a_name(tmp_path):
    return tmp_path / ("x" * 300)


def log_that_is_a_folder(tmp_path):
    (tmp_path / "run" / "gradwatch.db-wal").mkdir(parents=True)
    return tmp_path / "run"


def device(tmp_path):
    return os.devnull


PLACES = [in_place_of_the_folder, below_a_file, link_to_itself, too_long_a_name, log_that_is_a_folder, device]


@pytest.mark.skipif(sys.platform == "win32", reason="has other places that can't be written")
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("recorder", ["thread", "process"])
def test_a_place_that_takes_no_store_is_one_error_with_a_slug(tmp_path, training, place, recorder):
    model, optimizer = training
    with pytest.raises(StoreNotWritable):
        gradwatch.attach(model, optimizer, place(tmp_path), recorder=recorder)


def test_what_failed_to_begin_leaves_no_part_of_a_store_and_can_begin_later(tmp_path, training):
    model, optimizer = training
    blocked = log_that_is_a_folder(tmp_path)
    with pytest.raises(GradwatchError):
        gradwatch.attach(model, optimizer, blocked)
    (blocked / "gradwatch.db-wal").rmdir()
    with gradwatch.attach(model, optimizer, blocked) as watch:
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    assert watch.steps == 1
    assert [file.name for file in blocked.iterdir()] == ["gradwatch.db"]
    assert len(gradwatch.Run(blocked).steps()) == 1
