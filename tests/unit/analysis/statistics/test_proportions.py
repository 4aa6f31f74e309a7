"""Updates beside those of other matrices, compared with statistics and with trainings whose fault is known."""

import statistics

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from gradwatch.analysis.statistics.proportions import layer_type, median_of_others, out_of_proportion
from gradwatch.record import ParameterInfo


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 31])
def test_the_median_of_the_others(count):
    values = np.random.default_rng(count).integers(0, 6, (3, count)).astype(float)  # some are equal
    found = median_of_others(values)
    for row, expected in zip(values.tolist(), found.tolist(), strict=True):
        assert expected == [statistics.median(row[:at] + row[at + 1 :]) for at in range(count)]
    assert np.isnan(median_of_others(np.ones((2, 1)))).all()
    assert median_of_others(np.ones((2, 0))).shape == (2, 0)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.embed_tokens.weight", (100, 8), "embedding"),
        ("encoder.layer.0.attention.self.query.weight", (8, 8), "attention"),
        ("self_attn.in_proj_weight", (24, 8), "attention"),
        ("rnn.weight_hh_l0", (32, 8), "recurrent"),
        ("layers.0.attn.q_proj.lora_A.default.weight", (4, 8), "adapter"),
        ("stem.0.weight", (16, 3, 3, 3), "convolution"),
        ("blocks.0.mlp.up.weight", (32, 8), "matrix"),
        ("critic.out.weight", (1, 8), "matrix"),
        ("cls_token", (1, 1, 8), None),
        ("norm.weight", (8,), None),
        ("temperature", (), None),
    ],
)
def test_types_by_name_and_shape(name, shape, expected):
    info = ParameterInfo(name=name, shape=shape)
    assert layer_type(info) == expected
    assert layer_type(info, {name}) == (None if expected is None else "embedding")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 32)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(5))
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(5))
        self.head = nn.Linear(32, 40)

    def forward(self, x):
        x = self.embed(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + torch.relu(layer(norm(x)))
        return self.head(x)


def faults_of(prepare=lambda model: None, rate_of=lambda name: 1.0, steps=60):
    """What is found in a short training by AdamW that predicts the next of forty numbers."""
    torch.manual_seed(0)
    model = Net()
    prepare(model)
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.AdamW([{"params": [w], "lr": 1e-3 * rate_of(name)} for name, w in named.items()])
    weights, updates = [], []
    for _ in range(steps):
        x = torch.randint(40, (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), (3 * x + torch.randint(8, x.shape)) % 40).backward()
        before = [weight.detach().clone() for weight in named.values()]
        optimizer.step()
        weights.append([float(old.norm()) for old in before])
        updates.append([float((w.detach() - old).norm()) for w, old in zip(named.values(), before, strict=True)])
    infos = [ParameterInfo(name=name, shape=tuple(weight.shape)) for name, weight in named.items()]
    later = [pd.DataFrame(rows, columns=list(named)).iloc[steps // 2 :].median() for rows in (weights, updates)]
    return out_of_proportion(infos, pd.Series(weights[0], list(named)), *later, embeddings={"embed.weight"})


def scaled(name, factor):
    def prepare(model):
        with torch.no_grad():
            model.get_parameter(name).mul_(factor)

    return prepare


def frozen(model):
    for name in ("embed", "layers.0", "layers.1", "norms.0"):
        model.get_submodule(name).requires_grad_(False)


@pytest.mark.parametrize(
    ("name", "arguments", "is_large"),
    [
        ("layers.2.weight", {"rate_of": lambda name: 30.0 if name == "layers.2.weight" else 1.0}, True),
        ("head.weight", {"rate_of": lambda name: 30.0 if name == "head.weight" else 1.0}, True),
        ("embed.weight", {"rate_of": lambda name: 100.0 if name == "embed.weight" else 1.0}, True),
        ("layers.1.weight", {"prepare": scaled("layers.1.weight", 0.01)}, True),
        ("layers.1.weight", {"prepare": scaled("layers.1.weight", 100.0)}, False),
    ],
    ids=["rate of a layer", "rate of the head", "rate of the embedding", "begins small", "begins large"],
)
def test_a_planted_fault_is_named_first(name, arguments, is_large):
    found = faults_of(**arguments)
    assert (found[0].name, found[0].is_large) == (name, is_large)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"prepare": frozen},
        {"rate_of": lambda name: 5.0 if "embed" in name or "norm" in name else 1.0},
        {"rate_of": lambda name: 0.7 ** (4 - int(name.split(".")[1])) if name.startswith("layers") else 1.0},
    ],
    ids=["plain", "frozen parts", "rates by type", "rates by depth"],
)
def test_healthy_trainings_have_nothing_out_of_proportion(arguments):
    assert faults_of(**arguments) == ()


def test_scaling_all_weights_and_updates_changes_nothing():
    infos = [ParameterInfo(name=f"{at}.weight", shape=(8, 8)) for at in range(6)]
    names, rng = [info.name for info in infos], np.random.default_rng(0)
    first, weights = (pd.Series(rng.uniform(1, 2, 6), names) for _ in range(2))
    updates = 0.01 * weights
    updates.iloc[3] *= 50
    found = out_of_proportion(infos, first, weights, updates)
    assert [one.name for one in found] == ["3.weight"]
    (scaled_up,) = out_of_proportion(infos, 1e6 * first, 1e6 * weights, 1e6 * updates)
    assert scaled_up.times == pytest.approx(found[0].times)


@pytest.mark.parametrize("values", [(), (1.0,), (0.0, 0.0), (np.nan, 1.0), (np.inf, 1.0), (1.0, 0.0)])
def test_of_nothing_to_compare_with_nothing_is_said(values):
    infos = [ParameterInfo(name=f"{at}", shape=(2, 2)) for at in range(len(values))]
    norms = pd.Series(list(values), [info.name for info in infos], dtype=float)
    assert out_of_proportion(infos, norms, norms, norms * 0.1) == ()
