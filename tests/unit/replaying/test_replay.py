"""`gradwatch.replay` on planted faults, a sample of benchmarks/blackbox, and what it says where it knows nothing."""

import contextlib
import dataclasses
import json

import pytest
import torch
from planted_faults import ARCHITECTURES, _of
from planted_models import MLP
from planted_steps import capture_step
from torch import nn

import gradwatch
from gradwatch.analysis.replays.result import read_replay, replay_from
from gradwatch.capture import Group, write
from gradwatch.errors import CannotReplay, CaptureDamaged
from gradwatch.replaying.example import example_capture

pytestmark = pytest.mark.usefixtures("one_thread")
SAMPLE = [
    "mlp: row weighted 1000 times in the second micro-batch",
    "mlp: hidden_sqrt",
    "mlp: float16 overflow",
    "mlp: changed from outside",
    "mlp: healthy",
    "cnn-batchnorm: NaN in the input",
    "lstm: length 0",
    "lstm-packed: NaN in the input",
    "gru-time-first: input times 1000",
    "transformer: all keys masked",
    "recommender: token never seen, with a huge embedding",
    "siamese: exp",
    "autoencoder: NaN weight",
]


@pytest.mark.parametrize("name", SAMPLE)
def test_planted_faults(name):
    arch = ARCHITECTURES[name.split(":")[0]]
    fault = next(made for make in _of(arch) if (made := make(5)).name == name)
    found = gradwatch.replay(fault.capture, fault.model, fault.control)
    expected = fault.expected
    assert found.recurs in expected.recurs
    if expected.direction is None:
        assert found.origin is None
    else:
        assert found.origin.direction in expected.direction
        assert expected.module in (None, found.origin.module)
        assert (expected.code or "") in (found.origin.code or "")
    if expected.rows is not None:
        assert (found.suspects[0].micro_batch, found.suspects[0].row) == (expected.micro_batch, expected.rows[0])
    else:
        assert found.suspects == ()
    data = json.loads(json.dumps(found.as_dict()))
    assert replay_from(data).as_dict().keys() == data.keys()


def test_the_result_is_kept_beside_the_capture(tmp_path):
    model, x = MLP(), torch.randn(4, 12)
    capture = capture_step(model, [lambda: model(x).mean()])
    folder = write(capture, tmp_path / "captures" / "step-000003")
    found = gradwatch.replay(str(folder), model)
    assert found.recurs == "bitwise"
    assert read_replay(folder).recurs == "bitwise"


def test_the_keys_are_the_contract():
    model, x = MLP(), torch.randn(4, 12)
    x[1, 1] = torch.nan
    data = gradwatch.replay(capture_step(model, [lambda: model(x).mean()]), model).as_dict()
    assert {"run", "step", "optimizer", "why", "kept", "not_kept", "recurs", "max_ulp", "origin"} <= data.keys()
    assert {"batch_dimension", "rows", "rows_spread", "helps", "unknown"} <= data.keys()
    assert {"direction", "module", "class", "operation", "file", "line", "observed", "control"} <= data["origin"].keys()
    assert {"row", "norm", "share", "norm_without", "odd"} <= data["rows"][0].keys()
    assert set(data["helps"][0]) == {"change", "total_norm"}


def test_wrappers_are_taken_off():
    model, x = MLP(), torch.randn(4, 12)
    capture = capture_step(model, [lambda: model(x).mean()])
    wrapper = nn.Module()
    wrapper.module = model
    assert gradwatch.replay(capture, wrapper).recurs == "bitwise"
    assert gradwatch.replay(capture, torch.compile(model)).recurs == "bitwise"


def test_a_part_of_the_model():
    model, x = nn.Sequential(nn.Linear(2, 12), MLP()), torch.randn(4, 12)
    capture = within(capture_step(model[1], [lambda: model[1](x).mean()]), "1")
    assert gradwatch.replay(capture, model).recurs == "bitwise"
    assert gradwatch.replay(capture, model[1]).recurs == "bitwise"


def within(capture, name):
    """The capture as one of a model that has the captured one under this name."""
    rename = lambda named: {f"{name}.{key}": one for key, one in named.items()}  # noqa: E731
    (group,) = capture.groups
    forwards = tuple(dataclasses.replace(one, module=name, buffers=rename(one.buffers)) for one in group.forwards)
    return dataclasses.replace(
        capture,
        root=name,
        groups=(Group(forwards=forwards),),
        weights=rename(capture.weights),
        gradients=rename(capture.gradients),
    )


def test_what_is_not_known_is_said():
    model, x = MLP(), torch.randn(4, 12)
    capture = capture_step(model, [lambda: model(x).mean()])
    without = gradwatch.replay(dataclasses.replace(capture, weights={}), model)
    assert without.unknown[0] == "the weights were not kept: the model's own were used"
    nothing = gradwatch.replay(dataclasses.replace(capture, replayable=False, not_kept=("double backward",)), model)
    assert (nothing.recurs, nothing.unknown[1]) == (None, "double backward")
    assert gradwatch.replay(dataclasses.replace(capture, gradients={}), model).recurs is None
    model.second = nn.Linear(28, 16)
    model.forward = lambda x: 1 / 0
    failed = gradwatch.replay(capture, model)
    assert failed.unknown == ("everything: the replay failed: ZeroDivisionError: division by zero",)


def test_a_term_beside_the_model_is_a_number():
    torch.manual_seed(0)
    model, x = MLP(), torch.randn(4, 12)
    capture = capture_step(
        model, [lambda: model(x).pow(2).mean() + 0.01 * sum(one.pow(2).sum() for one in model.parameters())]
    )
    found = gradwatch.replay(capture, model)
    assert found.recurs in ("norm", "no")
    assert 0.001 < found.unexplained < 1


def test_another_model_is_refused(tmp_path):
    model, x = MLP(), torch.randn(4, 12)
    capture = capture_step(model, [lambda: model(x).mean()])
    with pytest.raises(CannotReplay, match="not the captured ones"):
        gradwatch.replay(capture, nn.Linear(2, 2))


def _scale(found):
    found["loss_scale"] = 0


def _ranks(found):
    found["ranks"], found["reduction"] = 10**18, "mean"


def _no_rank(found):
    found["rank"] = 7


def _shards(found):
    found["ranks"], found["reduction"] = 2, "mean"
    found["shards"] = {"weight": {"shape": [0, 2**61, 2**61], "offset": [0, 0, 0]}}


def _gradients(found):
    found["gradients"]["weight"] = {"tensor": "t1", "shape": [1], "dtype": "float32"}


def _module(found):
    found["groups"][0][0]["module"] = "../../nowhere"


def _autocast(found):
    found["groups"][0][0]["autocast"] = {"cpu": {"enabled": True, "dtype": "nn", "cache_enabled": True}}


def _random_state(found):
    found["groups"][0][0]["random_state"]["cpu"] = found["groups"][0][0]["random_state"]["python"][1]


@pytest.mark.parametrize("change", [_scale, _ranks, _no_rank, _shards, _gradients, _module, _autocast, _random_state])
def test_a_capture_of_a_stranger_is_refused_or_told_and_leaves_the_model(tmp_path, change):
    model = nn.Linear(3, 1)
    before = [one.detach().clone() for one in model.parameters()]
    folder = write(example_capture(nn.Linear(3, 1), bad_row=2), tmp_path / "captures" / "step-000007")
    described = json.loads((folder / "capture.json").read_text())
    change(described)
    (folder / "capture.json").write_text(json.dumps(described))
    found = None
    with contextlib.suppress(CannotReplay, CaptureDamaged):
        found = gradwatch.replay(folder, model)
    assert found is None or found.unknown
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))


def test_a_model_of_another_type_is_named(tmp_path):
    folder = write(example_capture(nn.Linear(3, 1), bad_row=2), tmp_path / "captures" / "step-000007")
    found = gradwatch.replay(folder, nn.Linear(3, 1).double())
    assert found.recurs != "bitwise"
    assert "other types: weight was float32 then, and is float64 now" in found.notes


def test_a_folder_that_can_not_be_written_costs_a_line(tmp_path, monkeypatch, caplog):
    from gradwatch.replaying import replay as module

    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(module, "write_replay", refuse)
    folder = write(example_capture(nn.Linear(3, 1), bad_row=2), tmp_path / "captures" / "step-000007")
    assert gradwatch.replay(folder, nn.Linear(3, 1)).recurs == "bitwise"
    assert "not kept beside the capture: read-only" in caplog.text


def test_a_loss_outside_of_the_model_gives_the_row_and_not_its_operation():
    model, x = MLP(), torch.randn(8, 12)
    weight = torch.ones(8)
    weight[3] = 1e6
    capture = capture_step(model, [lambda: (model(x).square().mean(1) * weight).mean()])
    found = gradwatch.replay(capture, model)
    assert (found.recurs, found.origin.direction, found.suspects[0].row) == ("bitwise", "loss", 3)
    assert any(reason.startswith("where in the loss: ") for reason in found.unknown)
