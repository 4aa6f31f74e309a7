"""The training that those by several processes are compared with."""

import pytest

import gradwatch

from . import training


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """The same trainings in one process: without clipping, and clipped by torch."""
    folder = tmp_path_factory.mktemp("alone")
    training.alone(folder / "plain")
    training.alone(folder / "clipped", training.CLIP)
    return {name: gradwatch.Run(folder / name) for name in ("plain", "clipped")}
