"""What all integrations share: versions that are needed, and the folder of a run."""

import importlib.metadata

import pytest

from gradwatch.errors import UnsupportedVersion
from gradwatch.integrations import folder_for, require


@pytest.mark.parametrize(
    ("installed", "needed", "is_enough"),
    [
        ("2.2.0", (2, 2), True),
        ("2.10.1", (2, 9), True),
        ("10.0", (9, 9), True),
        ("2.2.0rc1", (2, 2), True),
        ("3", (2, 2), True),
        ("2.1.9", (2, 2), False),
        ("1.9.5", (2, 2), False),
    ],
)
def test_the_installed_version_is_compared_as_numbers(monkeypatch, installed, needed, is_enough):
    monkeypatch.setattr(importlib.metadata, "version", lambda package: installed)
    if is_enough:
        require({"lightning": needed})
        return
    with pytest.raises(UnsupportedVersion, match=rf"lightning {installed} is installed; gradwatch needs 2.2 or newer"):
        require({"lightning": needed})


def test_the_first_package_that_is_installed_counts():
    require({"nothing-like-it": (1, 0), "pytest": (7, 0)})
    with pytest.raises(UnsupportedVersion, match=r"pytest .* needs 999\.0"):
        require({"nothing-like-it": (1, 0), "pytest": (999, 0), "numpy": (1, 0)})


def test_none_installed_says_how_to_install_the_first():
    with pytest.raises(UnsupportedVersion, match="nothing-like-it is not installed: `pip install nothing-like-it`"):
        require({"nothing-like-it": (1, 0), "nor-this": (1, 0)})


def test_the_folder_asked_for_is_taken(tmp_path):
    (tmp_path / "mine").mkdir()
    assert folder_for(tmp_path / "mine", tmp_path, 0) == tmp_path / "mine"


@pytest.mark.parametrize(
    ("there", "first_step", "expected"),
    [
        pytest.param([], 0, "gradwatch", id="the first"),
        pytest.param([], 7, "gradwatch", id="from a checkpoint without a run"),
        pytest.param(["gradwatch"], 0, "gradwatch-2", id="the second"),
        pytest.param(["gradwatch"], 7, "gradwatch", id="continued"),
        pytest.param(["gradwatch", "gradwatch-2", "gradwatch-3"], 0, "gradwatch-4", id="the fourth"),
        pytest.param(["gradwatch", "gradwatch-2", "gradwatch-3"], 1, "gradwatch-3", id="the latest continued"),
    ],
)
def test_a_training_from_the_start_gets_a_new_folder(tmp_path, there, first_step, expected):
    for name in there:
        (tmp_path / name).mkdir()
    assert folder_for(None, tmp_path, first_step) == tmp_path / expected
