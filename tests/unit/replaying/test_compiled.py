"""A compiled model is replayed eagerly and compiled, and it is told whether they differ."""

import math
import shutil

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.analysis.replays.result import CompiledReplay, Replay, replay_from
from gradwatch.analysis.replays.wording import answers
from gradwatch.capture import list_captures

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="torch.compile needs a C++ compiler")


def kept(tmp_path, model, compiled, bad=1e4):
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    with gradwatch.attach(model, optimizer, tmp_path / "run", capture=True):
        for step in range(40):
            optimizer.zero_grad()
            weight = torch.ones(8, 1)
            if step == 39:
                weight[5] = bad
            (compiled(torch.randn(8, 3)).square() * weight).mean().backward()
            optimizer.step()
    (info,) = list_captures(tmp_path / "run")
    return info.folder


class WithoutLength(nn.Module):
    """A compiled model asks it for its length when its truth is asked for."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("bad", [1e4, math.nan])
def test_a_compiled_model_is_replayed_both_ways(tmp_path, bad):
    model = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2))
    found = gradwatch.replay(kept(tmp_path, model, torch.compile(model), bad), model)
    assert found.recurs in ("bitwise", "close")
    assert found.compiled.recurs == "bitwise"
    assert found.compiled.differs == (found.recurs != "bitwise")
    if math.isfinite(bad):
        assert [row.row for row in found.suspects] == [5]
    assert replay_from(found.as_dict()).compiled.recurs == "bitwise"


@pytest.mark.slow
@needs_compiler
def test_random_numbers_of_compiled_code_are_told_apart(tmp_path):
    model = nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5), nn.Linear(64, 2))
    found = gradwatch.replay(kept(tmp_path, model, torch.compile(model)), model)
    assert found.compiled.recurs == "bitwise"
    assert found.compiled.differs
    assert found.recurs in ("norm", "no")


@pytest.mark.parametrize("make", [WithoutLength, nn.Sequential], ids=lambda one: one.__name__)
def test_what_the_script_has_compiled_is_replayed_whatever_its_truth(tmp_path, make):
    model = make(*([] if make is WithoutLength else [nn.Linear(3, 2)]))
    compiled = torch.compile(model, backend="eager")
    found = gradwatch.replay(kept(tmp_path, model, compiled), model)
    assert (found.recurs, found.compiled.recurs, found.compiled.differs) == ("bitwise", "bitwise", False)
    assert not any("compiled" in one for one in found.unknown)


def test_a_model_that_can_not_be_compiled_is_told(tmp_path, monkeypatch):
    model = nn.Linear(3, 2)
    compiled = torch.compile(model, backend="eager")
    folder = kept(tmp_path, model, compiled)

    def refuse(*args, **kwargs):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("gradwatch.replaying.replay.replay_compiled", refuse)
    found = gradwatch.replay(folder, model)
    assert found.recurs == "bitwise"
    assert found.compiled is None
    assert any("no compiler here" in one for one in found.unknown)


@pytest.mark.parametrize(
    ("compiled", "says"),
    [
        (CompiledReplay(recurs="bitwise"), "equal to the eager replay bit for bit; it gives the training's gradient"),
        (CompiledReplay(recurs="close", max_ulp=2.0, differs=True, max_ulp_from_eager=3.0), "by 3 ULP"),
        (CompiledReplay(recurs="no", differs=True, total_norm=math.nan), "total norm not finite; it does not give"),
        (CompiledReplay(), "equal to the eager replay bit for bit"),
    ],
)
def test_the_sentence(compiled, says):
    told = answers(Replay(run="r", step=1, optimizer="0", why="spike", recurs="no", compiled=compiled))
    assert [one.label for one in told][:2] == ["happens again", "compiled"]
    assert says in told[1].text
