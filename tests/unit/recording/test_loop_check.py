"""What the checks of the loop see, for loops whose habits are known."""

import copy
import json

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.recording.loop_check import LoopCheck


class Loop:
    """Five steps of a small training; each method of the loop may be left out or changed."""

    def __init__(self, zero="before", accumulate=1, change=None, clip=None, set_to_none=True, momentum=0.0):
        torch.manual_seed(0)
        self.model = nn.Linear(3, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=momentum)
        self.zero, self.accumulate, self.change, self.clip = zero, accumulate, change, clip
        self.set_to_none = set_to_none

    def train(self, folder, steps=5):
        with gradwatch.attach(self.model, self.optimizer, folder):
            for _ in range(steps):
                if self.zero == "before":
                    self.optimizer.zero_grad(set_to_none=self.set_to_none)
                for _ in range(self.accumulate):
                    self.model(torch.randn(4, 3)).square().mean().backward()
                if self.change is not None:
                    self.change(self.model)
                if self.clip is not None:
                    self.clip(self.model.parameters(), 0.1)
                self.optimizer.step()
                if self.zero == "after":
                    self.optimizer.zero_grad(set_to_none=self.set_to_none)
        meta = gradwatch.Run(folder).meta()
        return int(meta["carried_steps.0"]), int(meta["changed_steps.0"])


def scale(model):
    for p in model.parameters():
        p.grad.mul_(0.5)


def scale_data(model):
    """As clipping by hand often does; PyTorch does not count it as a change."""
    for p in model.parameters():
        p.grad.data.mul_(0.5)


def poison(model):
    for p in model.parameters():
        p.grad.data.fill_(float("nan"))


def replace(model):
    for p in model.parameters():
        p.grad = p.grad * 0.5


def read(model):
    for p in model.parameters():
        float(p.grad.norm())


@pytest.mark.parametrize(
    ("habits", "carried", "changed"),
    [
        pytest.param({}, 0, 0, id="the usual loop"),
        pytest.param({"zero": "after"}, 0, 0, id="zeroed after the step"),
        pytest.param({"set_to_none": False}, 0, 0, id="zeroed in place"),
        pytest.param({"zero": "after", "set_to_none": False}, 0, 0, id="zeroed in place after the step"),
        pytest.param({"zero": None}, 4, 0, id="never zeroed"),
        pytest.param({"accumulate": 3}, 0, 0, id="accumulation that is meant"),
        pytest.param({"accumulate": 3, "zero": None}, 4, 0, id="accumulation that is not"),
        pytest.param({"change": scale}, 0, 5, id="scaled in place"),
        pytest.param({"change": scale_data}, 0, 5, id="scaled through .data"),
        pytest.param({"change": scale_data, "accumulate": 2}, 0, 5, id="accumulated and scaled through .data"),
        pytest.param({"change": poison}, 0, 1, id="made NaN through .data, and NaN from then on"),
        pytest.param(
            {"change": scale_data, "clip": nn.utils.clip_grad_norm_}, 0, 5, id="scaled through .data and clipped"
        ),
        pytest.param({"change": replace}, 0, 5, id="replaced"),
        pytest.param({"change": read}, 0, 0, id="only read"),
        pytest.param({"clip": nn.utils.clip_grad_norm_}, 0, 0, id="clipped by norm"),
        pytest.param({"clip": nn.utils.clip_grad_value_}, 0, 0, id="clipped by value"),
        pytest.param({"clip": gradwatch.clip.clip_grad_norm_}, 0, 0, id="clipped by the drop-in"),
        pytest.param({"clip": nn.utils.clip_grad_norm_, "change": scale}, 0, 5, id="scaled and clipped"),
        pytest.param({"clip": nn.utils.clip_grad_norm_, "zero": None}, 4, 0, id="clipped and never zeroed"),
    ],
)
def test_habits_of_a_loop(tmp_path, habits, carried, changed):
    assert Loop(**habits).train(tmp_path) == (carried, changed)


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel], ids=["plain", "wrapped"])
def test_parameters_that_are_frozen_to_the_end_are_noted(tmp_path, wrap):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    for parameter in model[:2].parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradwatch.attach(wrap(model), optimizer, tmp_path):
        for step in range(6):
            model[1].bias.requires_grad_(step >= 4)
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
    run = gradwatch.Run(tmp_path)
    assert json.loads(run.meta()["frozen_parameters"]) == ["0.weight", "0.bias", "1.weight"]
    assert "no-gradient" not in [finding.code for finding in run.diagnosis()]


def test_frozen_parameters_are_known_while_the_training_goes_on(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradwatch.attach(model, optimizer, tmp_path) as watch:
        for _ in range(20):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
        watch.flush()
        assert "no-gradient" not in [finding.code for finding in gradwatch.Run(tmp_path).diagnosis()]
        model[0].requires_grad_(True)
    assert json.loads(gradwatch.Run(tmp_path).meta()["frozen_parameters"]) == []


def test_a_policy_that_clips_is_no_change_of_the_script(tmp_path):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradwatch.attach(model, optimizer, tmp_path, clip=gradwatch.clip.NormClip(0.01)):
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
    assert gradwatch.Run(tmp_path).meta()["changed_steps.0"] == "0"


def test_a_scaler_that_unscales_is_no_change_of_the_script(tmp_path):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with gradwatch.attach(model, optimizer, tmp_path):
        for explicit in (True, False, True, False):
            optimizer.zero_grad()
            scaler.scale(model(torch.randn(4, 3)).square().mean()).backward()
            if explicit:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    assert gradwatch.Run(tmp_path).meta()["changed_steps.0"] == "0"


def test_a_closure_that_zeroes_is_no_accumulation(tmp_path):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    x = torch.randn(8, 3)

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        return loss

    with gradwatch.attach(model, optimizer, tmp_path):
        for _ in range(5):
            optimizer.step(closure)
    meta = gradwatch.Run(tmp_path).meta()
    assert (meta["carried_steps.0"], meta["changed_steps.0"]) == ("0", "0")


def test_the_backward_of_one_optimizer_is_no_accumulation_of_another(tmp_path):
    """The generator's backward goes through the judge, whose gradients are zeroed before its own."""
    maker, judge = nn.Linear(2, 2), nn.Linear(2, 1)
    both = {"maker": torch.optim.SGD(maker.parameters(), 0.01), "judge": torch.optim.SGD(judge.parameters(), 0.01)}
    with gradwatch.attach(nn.ModuleDict({"maker": maker, "judge": judge}), both, tmp_path):
        for _ in range(5):
            both["judge"].zero_grad()
            judge(maker(torch.randn(4, 2)).detach()).square().mean().backward()
            both["judge"].step()
            both["maker"].zero_grad()
            judge(maker(torch.randn(4, 2))).square().mean().backward()
            both["maker"].step()
    meta = gradwatch.Run(tmp_path).meta()
    assert [meta[f"carried_steps.{name}"] for name in both] == ["0", "0"]
    assert "parameters_without_optimizer" not in meta


def adversaries(folder, zero_judge="before", frozen=False):
    """Five steps of a judge and a maker, and how many of each took along what the other's backward left."""
    maker, judge = nn.Linear(2, 2), nn.Linear(2, 1)
    both = {"maker": torch.optim.SGD(maker.parameters(), 0.01), "judge": torch.optim.SGD(judge.parameters(), 0.01)}
    with gradwatch.attach(nn.ModuleDict({"maker": maker, "judge": judge}), both, folder):
        for _ in range(5):
            judge.requires_grad_(True)
            if zero_judge == "before":
                both["judge"].zero_grad()
            judge(maker(torch.randn(4, 2)).detach()).square().mean().backward()
            both["judge"].step()
            if zero_judge == "after":
                both["judge"].zero_grad()
            judge.requires_grad_(not frozen)
            both["maker"].zero_grad()
            judge(maker(torch.randn(4, 2))).square().mean().backward()
            both["maker"].step()
    meta = gradwatch.Run(folder).meta()
    return [int(meta[f"mixed_steps.{name}"]) for name in both]


@pytest.mark.parametrize(
    ("habits", "mixed"),
    [
        pytest.param({}, [0, 0], id="zeroed before its own backward"),
        pytest.param({"zero_judge": "after"}, [0, 4], id="zeroed before the maker's turn"),
        pytest.param({"zero_judge": "after", "frozen": True}, [0, 0], id="frozen while the maker learns"),
    ],
)
def test_what_the_backward_of_another_leaves_in_the_next_step(tmp_path, habits, mixed):
    assert adversaries(tmp_path, **habits) == mixed


def test_tasks_that_add_to_a_shared_encoder_are_no_left_over(tmp_path):
    """Each task steps its head at once; the encoder's step takes the sum of both, on purpose."""
    parts = nn.ModuleDict({"encoder": nn.Linear(3, 3), "one": nn.Linear(3, 1), "two": nn.Linear(3, 1)})
    each = {name: torch.optim.SGD(part.parameters(), 0.01) for name, part in parts.items()}
    with gradwatch.attach(parts, each, tmp_path):
        for _ in range(5):
            parts.zero_grad()
            for task in ("one", "two"):
                parts[task](parts["encoder"](torch.randn(4, 3))).square().mean().backward()
                each[task].step()
            each["encoder"].step()
    meta = gradwatch.Run(tmp_path).meta()
    assert [meta[f"mixed_steps.{name}"] for name in each] == ["0", "0", "0"]


@pytest.mark.parametrize(("zeroed_at", "dropped"), [("before backward", "0"), ("before the step", "5")])
def test_gradients_that_are_gone_before_the_step(tmp_path, zeroed_at, dropped):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradwatch.attach(model, optimizer, tmp_path):
        for _ in range(5):
            if zeroed_at == "before backward":
                optimizer.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            if zeroed_at == "before the step":
                optimizer.zero_grad()
            optimizer.step()
    assert gradwatch.Run(tmp_path).meta()["dropped_steps.0"] == dropped


def test_parameters_that_no_optimizer_holds_are_named(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1), nn.Linear(1, 1).requires_grad_(False))
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.01)
    with gradwatch.attach(model, optimizer, tmp_path):
        for _ in range(5):
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
            model.zero_grad()
    meta = gradwatch.Run(tmp_path).meta()
    assert json.loads(meta["parameters_without_optimizer"]) == ["0.weight", "0.bias"]


def test_parameters_of_an_optimizer_that_is_not_recorded_are_held(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    first, second = (torch.optim.SGD(part.parameters(), lr=0.01) for part in model)
    with gradwatch.attach(model, second, tmp_path):
        for _ in range(5):
            model(torch.randn(4, 3)).square().mean().backward()
            first.step()
            second.step()
            model.zero_grad()
    assert "parameters_without_optimizer" not in gradwatch.Run(tmp_path).meta()


@pytest.mark.parametrize(
    ("which", "found"),
    [("a copy", "Sequential"), ("itself", None), ("one with an optimizer", None), ("one of other shapes", None)],
)
def test_a_model_that_gets_gradients_in_place_of_the_optimizers(tmp_path, which, found):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    copied = copy.deepcopy(model)
    wider = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    of_copy = torch.optim.SGD(copied.parameters(), lr=0.01) if which == "one with an optimizer" else None
    trained = {"itself": model, "one of other shapes": wider}.get(which, copied)
    with gradwatch.attach(model, optimizer, tmp_path):
        for _ in range(5):
            trained.zero_grad()
            trained(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
    assert gradwatch.Run(tmp_path).meta().get("trained_instead.0") == found
    del of_copy


@pytest.mark.parametrize("is_moved", [True, False])
def test_parameters_that_are_written_though_their_optimizer_makes_no_step(tmp_path, is_moved):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradwatch.attach(model, optimizer, tmp_path):
        for _ in range(3):
            model(torch.randn(4, 3)).square().mean().backward()
            if is_moved:
                with torch.no_grad():
                    model.weight.add_(model.weight.grad)
            model.zero_grad()
    assert ("moved_without_steps.0" in gradwatch.Run(tmp_path).meta()) == is_moved


def test_a_fault_of_the_checks_ends_only_them(tmp_path, monkeypatch):
    def broken(self):
        raise RuntimeError("no state")

    monkeypatch.setattr("gradwatch.recording.loop_check._Probes._state", broken)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradwatch.attach(model, optimizer, tmp_path) as watch:
        for _ in range(3):
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
    run = gradwatch.Run(tmp_path)
    assert len(run.steps()) == watch.steps == 3
    assert "carried_steps.0" not in run.meta()


def test_without_steps_there_are_no_facts_of_them():
    check = LoopCheck(list, dict)
    assert check.facts() == {}


@pytest.mark.parametrize(("replaced", "named"), [(True, ["1.weight", "1.bias"]), (False, None)])
def test_a_layer_that_is_replaced_in_mid_training_has_no_optimizer(tmp_path, replaced, named):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradwatch.attach(model, optimizer, tmp_path):
        for step in range(20):
            if step == 10:
                model[1] = nn.Linear(3, 1)
                if not replaced:
                    optimizer.add_param_group({"params": list(model[1].parameters())})
            model.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
    found = gradwatch.Run(tmp_path).meta().get("parameters_without_optimizer")
    assert (None if found is None else json.loads(found)) == named


@pytest.mark.parametrize(
    ("zeroed", "carried", "where"),
    [
        pytest.param((0,), "19", ["1.weight", "1.bias"], id="the first module alone"),
        pytest.param((0, 1), "0", None, id="both"),
        pytest.param((), "19", None, id="none: no part is to be named"),
    ],
)
def test_a_module_that_is_left_out_of_the_zeroing(tmp_path, zeroed, carried, where):
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gradwatch.attach(model, optimizer, tmp_path):
        for _ in range(20):
            for part in zeroed:
                model[part].zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
    meta = gradwatch.Run(tmp_path).meta()
    assert meta["carried_steps.0"] == carried
    assert (json.loads(meta["carried_in.0"]) if "carried_in.0" in meta else None) == where


def test_a_backward_that_is_zeroed_before_that_of_the_step_carries_nothing(tmp_path):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradwatch.attach(model, optimizer, tmp_path):
        for _ in range(10):
            model(torch.randn(4, 3)).square().mean().backward()  # adds to the last step's, and is looked at alone
            model.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
    assert gradwatch.Run(tmp_path).meta()["carried_steps.0"] == "0"


@pytest.mark.parametrize("kind", [list, tuple, nn.ModuleList])
def test_layers_in_a_plain_list_get_gradients_that_no_optimizer_holds(tmp_path, kind):
    model = nn.Module()
    model.first, model.layers = nn.Linear(3, 3), kind([nn.Linear(3, 1)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradwatch.attach(model, optimizer, tmp_path):
        for _ in range(5):
            model.layers[0](model.first(torch.randn(4, 3))).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    found = json.loads(gradwatch.Run(tmp_path).meta().get("parameters_without_optimizer", "[]"))
    assert found == ([] if kind is nn.ModuleList else ["layers.0.weight", "layers.0.bias"])


def test_a_teacher_in_a_list_gets_no_gradient_and_is_not_named(tmp_path):
    model = nn.Linear(3, 1)
    model.teacher, model.again = [nn.Linear(3, 1)], {"self": model.weight}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradwatch.attach(model, optimizer, tmp_path):
        for _ in range(5):
            x = torch.randn(4, 3)
            with torch.no_grad():
                target = model.teacher[0](x)
            (model(x) - target).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert "parameters_without_optimizer" not in gradwatch.Run(tmp_path).meta()
