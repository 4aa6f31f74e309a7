"""What a run has of its updates, compared with float64 copies of the weights around every step."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

import gradwatch


def make_model(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)


class Oracle:
    """The norm of the change of every parameter over each call of ``step``."""

    def __init__(self, model):
        self.parameters, self.rows = list(model.parameters()), []

    def __call__(self, step):
        before = [p.detach().double().clone() for p in self.parameters]
        step()
        self.rows.append(
            [float((p.detach().double() - b).norm()) for p, b in zip(self.parameters, before, strict=True)]
        )


def train(model, optimizer, run, *, steps=4, micro_batches=1, step=None, **options):
    oracle = Oracle(model)
    with gradwatch.attach(model, optimizer, run, **options):
        for number in range(steps):
            optimizer.zero_grad()
            for part in range(micro_batches):
                torch.manual_seed(10 * number + part)
                model(torch.randn(5, 4, dtype=next(model.parameters()).dtype)).square().mean().backward()
            oracle(step or optimizer.step)
    return gradwatch.Run(run), np.array(oracle.rows)


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_each_step_has_its_update_with_and_without_accumulation(tmp_path, micro_batches):
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    run, expected = train(model, optimizer, tmp_path, micro_batches=micro_batches)
    np.testing.assert_allclose(run.updates("update_norm"), expected, rtol=1e-4)
    steps = run.steps()
    np.testing.assert_allclose(steps["update_norm"], np.linalg.norm(expected, axis=1), rtol=1e-4)
    np.testing.assert_allclose(steps["update_ratio"], steps["update_norm"] / steps["weight_norm"])
    np.testing.assert_allclose(run.updates("rms_ratio").iloc[0], 1.0, atol=1e-3)  # v of the first step is g squared
    assert run.settings()["update_route"] == "closed-form"


def test_clipping_changes_the_update_that_is_recorded(tmp_path):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    run, expected = train(model, optimizer, tmp_path, clip=gradwatch.clip.NormClip(1e-3))
    np.testing.assert_allclose(run.updates("update_norm"), expected, rtol=1e-3)
    assert run.steps()["update_norm"].to_numpy() == pytest.approx(np.full(4, 1e-3), rel=1e-3)


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2, 3]), (2, [0, 2]), (0, []), (None, [0, 1, 2, 3])])
def test_updates_are_recorded_as_often_as_asked(tmp_path, every, expected):
    model = make_model()
    run, _ = train(model, torch.optim.Adam(model.parameters()), tmp_path, updates_every=every)
    assert run.updates("rms_ratio").index.tolist() == expected
    assert run.steps()["update_norm"].dropna().index.tolist() == expected


def test_a_step_with_a_closure_has_its_update(tmp_path):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(2, 4)).square().mean()
        loss.backward()
        return loss

    run, expected = train(model, optimizer, tmp_path, step=lambda: optimizer.step(closure))
    np.testing.assert_allclose(run.updates("update_norm"), expected, rtol=1e-4)


def test_a_step_that_a_scaler_skips_has_no_update(tmp_path):
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    oracle = Oracle(model)
    with gradwatch.attach(model, optimizer, tmp_path):
        for number in range(4):
            optimizer.zero_grad()
            loss = model(torch.ones(2, 4)).square().mean() * (float("inf") if number == 2 else 1.0)
            scaler.scale(loss).backward()
            oracle(lambda: scaler.step(optimizer))
            scaler.update()
    run = gradwatch.Run(tmp_path)
    assert run.steps()["skipped"].tolist() == [False, False, True, False]
    np.testing.assert_allclose(run.updates("update_norm"), np.array(oracle.rows)[[0, 1, 3]], rtol=1e-4)


def test_a_fused_optimizer_that_skips_by_itself_has_no_update(tmp_path):
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05, fused=True)
    with gradwatch.attach(model, optimizer, tmp_path):
        for found in (0.0, 1.0, 0.0):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).square().mean().backward()
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(found)
            optimizer.step()
    run = gradwatch.Run(tmp_path)
    assert run.updates("update_norm").index.tolist() == [0, 2]


def test_skip_nonfinite_leaves_no_update(tmp_path):
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters())
    with gradwatch.attach(model, optimizer, tmp_path, skip_nonfinite=True):
        for number in range(3):
            optimizer.zero_grad()
            (model(torch.ones(2, 4)).mean() * (float("nan") if number == 1 else 1.0)).backward()
            optimizer.step()
    assert gradwatch.Run(tmp_path).updates("update_norm").index.tolist() == [0, 2]


class Lion(torch.optim.Optimizer):
    """Steps by the sign of a momentum: Chen et al. 2023, arXiv:2302.06675, algorithm 2."""

    def __init__(self, parameters, lr=1e-3, betas=(0.9, 0.99)):
        super().__init__(parameters, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            first, second = group["betas"]
            for weight in group["params"]:
                moment = self.state[weight].setdefault("exp_avg", torch.zeros_like(weight))
                weight.add_((first * moment + (1 - first) * weight.grad).sign(), alpha=-group["lr"])
                moment.lerp_(weight.grad, 1 - second)


class Adam8bit(torch.optim.AdamW):
    """Its moments are 8-bit numbers with one scale for each tensor, under the names that Adam gives its own."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            first, second = group["betas"]
            for weight in group["params"]:
                state = self.state[weight]
                state["step"] = state.get("step", 0) + 1
                moment = self._kept(state, "exp_avg", weight, torch.int8).lerp_(weight.grad, 1 - first)
                square = self._kept(state, "exp_avg_sq", weight, torch.uint8)
                square.mul_(second).addcmul_(weight.grad, weight.grad, value=1 - second)
                root = (square / (1 - second ** state["step"])).sqrt_()
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.addcdiv_(moment, root + 1e-3, value=-group["lr"] / (1 - first ** state["step"]))
                for name, value, most in (("exp_avg", moment, 127), ("exp_avg_sq", square, 255)):
                    state[f"{name}_scale"] = value.abs().max() / most
                    state[name] = (value / state[f"{name}_scale"]).round().to(state[name].dtype)

    @staticmethod
    def _kept(state, name, weight, dtype):
        codes = state.setdefault(name, torch.zeros_like(weight, dtype=dtype))
        return codes.float() * state.get(f"{name}_scale", 0.0)


BY_DIFFERENCE: list[tuple[type, dict]] = [
    (Adam8bit, {"lr": 0.01}),
    (Lion, {}),
    (torch.optim.Adafactor, {}),
    (torch.optim.Adagrad, {}),
    (torch.optim.RMSprop, {}),
    (torch.optim.NAdam, {}),
    (torch.optim.RAdam, {}),
    (torch.optim.Adamax, {}),
    (torch.optim.Adadelta, {}),
    (torch.optim.Rprop, {}),
    (torch.optim.ASGD, {}),
]


@pytest.mark.parametrize(("kind", "options"), BY_DIFFERENCE)
def test_other_optimizers_are_sampled_by_difference(tmp_path, kind, options):
    model = make_model()
    run, expected = train(model, kind(model.parameters(), **options), tmp_path, weights_every=1)
    np.testing.assert_allclose(run.layers("update_norm"), expected, rtol=1e-3, atol=1e-6)
    assert run.updates("update_norm").empty
    assert run.steps()["update_norm"].isna().all()
    assert run.settings()["update_route"] == "difference"


def test_codes_of_8_bits_are_not_taken_for_moments(tmp_path):
    model = make_model()
    run, _ = train(model, Adam8bit(model.parameters(), lr=0.01), tmp_path, weights_every=1)
    assert run.updates().empty
    assert run.layers("momentum_cosine").isna().all(axis=None)
    assert run.layers("moved").notna().all(axis=None)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")
def test_muon_is_sampled_by_difference(tmp_path):
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Linear(6, 2, bias=False))
    run, expected = train(model, torch.optim.Muon(model.parameters(), lr=0.02), tmp_path, weights_every=1)
    np.testing.assert_allclose(run.layers("update_norm"), expected, rtol=1e-3, atol=1e-6)
    assert run.updates("update_norm").empty
    assert run.settings()["update_route"] == "difference"


def test_a_sparse_gradient_is_sampled_by_difference(tmp_path):
    model = nn.Embedding(20, 3, sparse=True)
    optimizer = torch.optim.SparseAdam(list(model.parameters()), lr=0.1)
    oracle = Oracle(model)
    with gradwatch.attach(model, optimizer, tmp_path, weights_every=1):
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.tensor([1, 5])).square().sum().backward()
            oracle(optimizer.step)
    run = gradwatch.Run(tmp_path)
    np.testing.assert_allclose(run.layers("update_norm"), oracle.rows, rtol=1e-4)
    assert run.layers("moved").iloc[0, 0] == pytest.approx(6 / 60)
    assert run.updates().empty


def test_in_bfloat16_the_update_that_is_meant_and_the_one_that_arrives_differ(tmp_path):
    model = make_model(dtype=torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0)
    run, arrived = train(model, optimizer, tmp_path, weights_every=1)
    meant = run.updates("update_norm")
    assert (meant.to_numpy() > 0).all()
    assert np.array(arrived).max() < 0.5 * meant.to_numpy().max()
    assert (run.layers("moved").to_numpy() < 0.2).all()


def test_the_training_is_the_same_with_and_without(tmp_path):
    finals = []
    for every in (0, 1):
        model = make_model()
        train(model, torch.optim.AdamW(model.parameters()), tmp_path / str(every), updates_every=every)
        finals.append([p.detach().clone() for p in model.parameters()])
    assert all(map(torch.equal, *finals))


def test_a_negative_period_is_refused(tmp_path):
    model = make_model()
    with pytest.raises(gradwatch.errors.BadArgument, match="updates_every -1"):
        gradwatch.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path, updates_every=-1)


def test_a_parameter_that_is_a_wrapper_takes_no_step_with_it(tmp_path):
    """What operators make of it is no plain tensor, and its sampled weights and updates are left out."""
    model = nn.ParameterDict(
        {"wrapped": nn.Parameter(TwoTensor(torch.ones(50), torch.ones(50))), "plain": torch.ones(4)}
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run", weights_every=1, updates_every=1):
        for _ in range(3):
            optimizer.zero_grad()
            (3 * model["wrapped"]).sum().backward()
            (2 * model["plain"]).sum().backward()
            optimizer.step()
    run = gradwatch.Run(tmp_path / "run")
    assert run.layers()["wrapped"].tolist() == pytest.approx([3 * math.sqrt(50)] * 3)
    assert run.layers()["plain"].tolist() == [4.0] * 3
    assert run.updates("update_norm")["plain"].tolist() == pytest.approx([0.4] * 3)
    assert run.summary().dropped_steps == 0


def switch_implementation(number, optimizer, rest):
    implementations = {2: {"foreach": True}, 4: {"foreach": False, "fused": True}, 6: {"fused": False, "foreach": None}}
    optimizer.param_groups[0].update(implementations.get(number, {}))


def clear_state(number, optimizer, rest):
    if number in (3, 5):
        optimizer.state.clear()


def load_state(number, optimizer, rest):
    """As it was, and with other settings."""
    if number in (3, 5):
        state = copy.deepcopy(optimizer.state_dict())
        state["param_groups"][0].update({"lr": 0.3, "weight_decay": 0.5, "betas": (0.5, 0.9)} if number == 5 else {})
        optimizer.load_state_dict(state)


def change_settings_of_a_group(number, optimizer, rest):
    if number == 4:
        optimizer.param_groups[0]["lr"] = torch.tensor(0.2)
        optimizer.param_groups[0]["weight_decay"] = 0.0


def add_a_group(number, optimizer, rest):
    if number == 3:
        optimizer.add_param_group({"params": rest, "lr": 0.5, "weight_decay": 0.2, "amsgrad": True})


@pytest.mark.parametrize(
    "meanwhile", [switch_implementation, clear_state, load_state, change_settings_of_a_group, add_a_group]
)
def test_what_a_loop_does_to_its_optimizer_between_steps_shows_in_the_update(tmp_path, meanwhile):
    model = make_model()
    own, rest = list(model.parameters()), []
    if meanwhile is add_a_group:
        own, rest = own[:2], own[2:]
    optimizer = torch.optim.AdamW(own, lr=0.05, weight_decay=0.1)
    oracle = Oracle(model)
    with gradwatch.attach(model, optimizer, tmp_path, updates_every=1):
        for number in range(8):
            model.zero_grad()
            torch.manual_seed(number)
            model(torch.randn(5, 4)).square().mean().backward()
            meanwhile(number, optimizer, rest)
            oracle(optimizer.step)
    found = gradwatch.Run(tmp_path).updates("update_norm")
    np.testing.assert_allclose(found.fillna(0.0), oracle.rows, rtol=2e-4)


def test_a_resumed_training_and_two_optimizers_have_their_own_updates(tmp_path):
    model = make_model()
    parameters = list(model.parameters())
    first = torch.optim.AdamW(parameters[:2], lr=0.05)
    second = torch.optim.SGD(parameters[2:], lr=0.1, momentum=0.9)
    oracle = Oracle(model)

    def step():
        first.step()
        second.step()

    for attempt in range(2):
        with gradwatch.attach(model, {"adam": first, "sgd": second}, tmp_path):
            for number in range(3 * attempt, 3 * attempt + 3):
                model.zero_grad()
                torch.manual_seed(number)
                model(torch.randn(5, 4)).square().mean().backward()
                oracle(step)
    run, expected = gradwatch.Run(tmp_path), np.array(oracle.rows)
    np.testing.assert_allclose(run.updates("update_norm", optimizer="adam"), expected[:, :2], rtol=2e-4)
    np.testing.assert_allclose(run.updates("update_norm", optimizer="sgd"), expected[:, 2:], rtol=2e-4)


def test_of_float32_copies_of_bfloat16_weights_the_update_is_that_of_the_copies(tmp_path):
    """The optimizer knows nothing of the bfloat16 weights, of which a step may move few."""
    model = make_model(dtype=torch.bfloat16)
    copies = [nn.Parameter(p.detach().float()) for p in model.parameters()]
    optimizer = torch.optim.AdamW(copies, lr=1e-4)
    oracle = Oracle(model)
    oracle.parameters = copies
    with gradwatch.attach(model, optimizer, tmp_path):
        for number in range(3):
            model.zero_grad()
            torch.manual_seed(number)
            model(torch.randn(5, 4, dtype=torch.bfloat16)).square().mean().backward()
            for copied, weight in zip(copies, model.parameters(), strict=True):
                copied.grad = weight.grad.float()
            oracle(optimizer.step)
            torch._foreach_copy_([p.data for p in model.parameters()], [c.data for c in copies])
    np.testing.assert_allclose(gradwatch.Run(tmp_path).updates("update_norm"), oracle.rows, rtol=2e-3)
