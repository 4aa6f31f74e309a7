"""Hyperparameters from what people have: dicts, dataclasses, namespaces, frameworks' own configs."""

import argparse
import dataclasses
import json
import math
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run
from gradwatch.errors import BadArgument
from gradwatch.recording.hyperparameters import HIDDEN, as_settings, found_settings, settings_if_any


@dataclasses.dataclass
class Inner:
    depth: int = 4


@dataclasses.dataclass
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    lr: float = 0.1


class Breaks:
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, {}),
        ({}, {}),
        ({"a": {"b": {"c": 1}}}, {"a.b.c": 1}),
        (Outer(), {"inner.depth": 4, "lr": 0.1}),
        (argparse.Namespace(lr=1e-3, name="x", flag=True), {"lr": 1e-3, "name": "x", "flag": True}),
        ({"betas": (0.9, 0.95)}, {"betas": [0.9, 0.95]}),
        ({"n": np.float32(0.5), "t": torch.tensor(3)}, {"n": 0.5, "t": 3}),
        ({"x": math.inf, "y": math.nan}, {"x": "inf", "y": "nan"}),
        ({"p": None, "odd": Breaks()}, {"p": None, "odd": "<Breaks>"}),
        ({"_private": 1, 7: "seven"}, {"7": "seven"}),
    ],
)
def test_a_config_becomes_flat_settings(config, expected):
    assert as_settings(config) == expected
    json.dumps(as_settings(config), allow_nan=False)


@pytest.mark.parametrize(
    "name", ["token", "hub_token", "wandb.api_key", "password", "aws-secret", "APIKEY", "db.passwd", "access_key"]
)
def test_secrets_are_hidden(name):
    assert as_settings({name: "hunter2"}) == {name: HIDDEN}
    assert HIDDEN not in as_settings({"max_tokens": 5, "tokenizer": "bpe", "secretary": "x"}).values()


def test_what_is_no_config_is_refused():
    loop = {}
    loop["self"] = loop
    for config in (3, "lr=1", loop, {str(i): i for i in range(1001)}):
        with pytest.raises(BadArgument, match="config"):
            as_settings(config)
        assert settings_if_any(config) == {}


def test_the_config_stands_in_the_run_and_the_summary(tmp_path):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for lr in (0.1, 0.2):  # a run that is continued has the config of its latest attempt
        with gradwatch.attach(model, optimizer, tmp_path, config={"lr": lr, "data": {"path": "x"}}):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    run = Run(tmp_path)
    assert run.config() == {"lr": 0.2, "data.path": "x"}
    assert run.summary().config == run.config()


def test_a_run_without_a_config_has_none(tmp_path):
    model = nn.Linear(2, 1)
    gradwatch.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path).close()
    assert "config" not in Run(tmp_path).meta()
    assert Run(tmp_path).config() == {}


# ------------------------------------------------------------------------------------ found by attach alone


@pytest.fixture
def script(monkeypatch):
    """The module ``__main__`` of a script; set its global variables."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


def attached(folder, model=None, **options):
    model = model or nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, folder, **options):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    return Run(folder).config()


def test_attach_alone_takes_the_namespace_of_the_script(tmp_path, script):
    script.args = script.also = argparse.Namespace(lr=0.5, hub_token="12345")
    assert attached(tmp_path / "run") == {"lr": 0.5, "hub_token": HIDDEN}


def test_what_is_given_counts_alone(tmp_path, script):
    script.args = argparse.Namespace(lr=0.5)
    assert attached(tmp_path / "given", config={"width": 3}) == {"width": 3}
    assert attached(tmp_path / "none", config={}) == {}


def test_of_several_namespaces_none_is_guessed(tmp_path, script):
    script.a, script.b = argparse.Namespace(lr=0.5), argparse.Namespace(lr=0.5)
    assert attached(tmp_path / "run") == {}


def test_attach_alone_takes_hparams_and_they_count_more_than_the_namespace(tmp_path, script):
    script.args = argparse.Namespace(lr=0.5, seed=1)
    model = nn.Linear(2, 1)
    model.hparams = {"lr": 0.25}
    assert attached(tmp_path / "run", model) == {"lr": 0.25, "seed": 1}


def test_what_cannot_be_read_ends_no_training(tmp_path, script):
    class Model(nn.Linear):
        @property
        def hparams(self):
            raise RuntimeError

    class Lazy:
        @property  # type: ignore[misc]
        def __class__(self):  # type: ignore[misc]
            raise RuntimeError

    script.lazy = Lazy()
    script.args = argparse.Namespace(**{str(number): number for number in range(1001)})
    assert attached(tmp_path / "run", Model(2, 1)) == {}
    assert found_settings(None) == {}


def test_passwords_in_addresses_and_secrets_in_lists_are_hidden():
    config = {"db": "postgres://ada:pass:word@host/runs", "plain": "http://host:80/a@b", "sinks": [{"token": "x"}, 3]}
    assert as_settings(config) == {
        "db": f"postgres://{HIDDEN}@host/runs",
        "plain": "http://host:80/a@b",
        "sinks.0.token": HIDDEN,
        "sinks.1": 3,
    }
