"""Hyperparameters of a script that passes none, as argparse, Hydra, Lightning and Transformers hold them."""

import argparse
import sys

import pytest
import torch

from gradwatch import Run
from gradwatch.script.discover import Discovery
from gradwatch.script.found_config import ConfigListener
from gradwatch.script.plan import RecordingPlan

from ...prepared import forked


@pytest.fixture
def listener():
    found = ConfigListener()
    yield found
    found.stop()


def parse(monkeypatch, words, parser=None, **options):
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    if parser is None:
        parser = argparse.ArgumentParser()
        parser.add_argument("--lr", type=float, default=0.1)
        parser.add_argument("--api-key", default="12345")
    return parser.parse_args(**options)


def train(model, folder, listener):
    discovery = Discovery(RecordingPlan(run=folder), configs=listener)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    discovery.close("exit")
    return Run(folder)


def test_what_the_script_parses_stands_in_its_run(tmp_path, monkeypatch, listener):
    args = parse(monkeypatch, ["--lr", "0.5"])
    assert args == argparse.Namespace(lr=0.5, api_key="12345"), "the script gets what it asked for"
    run = train(torch.nn.Linear(2, 1), tmp_path / "run", listener)
    assert run.config() == {"lr": 0.5, "api_key": "(hidden)"}


def test_the_hparams_of_a_lightning_module_count(tmp_path, listener):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self, width):
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(2, width)

        def forward(self, x):
            return self.layer(x)

    assert train(Module(3), tmp_path / "run", listener).config() == {"width": 3}


def test_training_arguments_count(tmp_path, listener):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    transformers.TrainingArguments(output_dir=str(tmp_path), learning_rate=0.25, report_to=[], hub_token="12345")
    found = listener.settings([])
    assert found["learning_rate"] == 0.25
    assert found["hub_token"] != "12345"
    listener.stop()
    transformers.TrainingArguments(output_dir=str(tmp_path), learning_rate=0.75, report_to=[])
    assert listener.settings([])["learning_rate"] == 0.25, "it does not listen any more"


HYDRA = """
import hydra, torch

@hydra.main(config_path=".", config_name="config", version_base=None)
def main(cfg):
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg.lr)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()

main()
"""


def test_hydra_s_config_counts(tmp_path):
    pytest.importorskip("hydra")
    (tmp_path / "config.yaml").write_text("lr: 0.1\nmodel:\n  depth: 4\n")
    (tmp_path / "train.py").write_text(HYDRA)
    done = forked().run(["-m", "gradwatch", "run", "--run", "run", "train.py", "lr=0.5"], tmp_path)
    assert done.returncode == 0, done.stderr
    config = Run(tmp_path / "run").config()
    assert (config["lr"], config["model.depth"]) == (0.5, 4)


def test_other_words_and_inner_parsers_do_not_count(monkeypatch, listener):
    own = argparse.ArgumentParser()
    own.add_argument("--width", type=int, default=1)
    parse(monkeypatch, ["--lr", "0.5"], own, args=["--width", "2"])
    assert listener.settings([]) == {}
    parser = argparse.ArgumentParser()
    parser.add_subparsers(dest="what").add_parser("fit").add_argument("--lr", type=float)
    parse(monkeypatch, ["fit", "--lr", "0.5"], parser)
    assert listener.settings([]) == {"what": "fit", "lr": 0.5}


def test_a_parser_that_refuses_ends_the_script_as_ever(monkeypatch, listener):
    with pytest.raises(SystemExit):
        parse(monkeypatch, ["--nothing"])
    parse(monkeypatch, [])
    assert listener.settings([])["lr"] == 0.1


def test_after_the_script_argparse_is_as_it_was(monkeypatch):
    before = argparse.ArgumentParser.parse_known_args
    listener = ConfigListener()
    assert argparse.ArgumentParser.parse_known_args is not before
    listener.stop()
    assert argparse.ArgumentParser.parse_known_args is before


def test_a_config_that_cannot_be_kept_harms_nothing(tmp_path, listener):
    model = torch.nn.Linear(2, 1)
    model.hparams = {str(number): number for number in range(1001)}
    run = train(model, tmp_path / "run", listener)
    assert run.config() == {}
    assert len(run.steps()) == 2
