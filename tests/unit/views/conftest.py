"""A run to draw, and what a drawing looks like as text."""

import io
import math

import pytest
from rich.console import Console

from gradwatch import Run
from gradwatch.record import ParameterInfo
from gradwatch.testing import replaced, steady, stream, write_run


def write(folder):
    many = tuple(ParameterInfo(name=f"encoder.layers.{i}.self_attention.weight", shape=(4, 4)) for i in range(30))
    norms = replaced(steady(900), {400: 60.0, 700: math.nan})
    losses = [1.0 / (1 + i) for i in range(900)]
    write_run(folder, stream(norms, shares=[0.2] * 30, parameters=many, losses=losses, max_norm=1.1))


@pytest.fixture
def run(tmp_path, made_once):
    """900 steps of 30 layers, clipped, with a spike at step 400 and a NaN at step 700."""
    return Run(made_once(write, tmp_path / "first"))


@pytest.fixture
def drawn():
    """The lines that a view prints; they are wider than the console where the view is too wide."""

    def draw(view, width=400):
        console = Console(width=width, record=True, file=io.StringIO(), highlight=False)
        console.print(view)
        return console.export_text().rstrip("\n").split("\n")

    return draw
