"""A run keeps what its training is made of."""

import json

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run

from .nets import make


def meta_of(model, folder):
    with gradwatch.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), folder):
        pass
    return Run(folder).meta()


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        pytest.param([nn.Linear(2, 2)], None, id="no dropout"),
        pytest.param([nn.Linear(2, 2), nn.Dropout(0.0)], None, id="dropout that drops nothing"),
        pytest.param([nn.Dropout(0.1), nn.Linear(2, 2), nn.Dropout2d(0.25)], "0.25", id="the largest share"),
    ],
)
def test_the_largest_dropout_is_kept(tmp_path, layers, expected):
    assert meta_of(nn.Sequential(*layers), tmp_path / "run").get("dropout") == expected


def test_the_model_is_named_by_its_class_whatever_wraps_it(tmp_path):
    parts = nn.ModuleDict({name: nn.Linear(2, 2) for name in "ab"} | {"c": nn.LSTM(2, 2)})
    assert meta_of(parts, tmp_path / "parts")["model"] == "Linear + LSTM"


def test_the_names_of_embeddings_are_kept(tmp_path):
    """By the names that the run has for them, whatever wraps the model."""
    model = nn.ModuleDict({"a": nn.Embedding(5, 3), "b": nn.EmbeddingBag(5, 3), "c": nn.Linear(3, 3)})
    wrapped = nn.DataParallel(model)
    with gradwatch.attach(wrapped, torch.optim.SGD(wrapped.parameters(), lr=0.1), tmp_path / "run"):
        pass
    assert json.loads(Run(tmp_path / "run").meta()["embeddings"]) == ["a.weight", "b.weight"]
    linear = nn.Linear(3, 3)
    with gradwatch.attach(linear, torch.optim.SGD(linear.parameters(), lr=0.1), tmp_path / "none"):
        pass
    assert "embeddings" not in Run(tmp_path / "none").meta()


def test_how_long_the_training_is_can_be_said_anew(tmp_path):
    for total in (10, 20):
        model, optimizer = make()
        with gradwatch.attach(model, optimizer, tmp_path / "run", total_steps=total):
            pass
        assert Run(tmp_path / "run").meta()["total_steps"] == str(total)
