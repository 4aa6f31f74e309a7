"""Which clip calls count for an update, and by how much they clipped."""

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

import gradwatch
from gradwatch import Run

from .nets import backward, make


def test_clipping_at_every_micro_batch_records_what_the_optimizer_consumes(tmp_path):
    """Trap 5: the gradient accumulates after the first clip; the last measurement counts."""
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        optimizer.zero_grad()
        for _ in range(3):
            model(torch.randn(8, 4, 3)).square().mean().backward()
            last = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()
            clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    steps = Run(tmp_path / "run").steps()
    assert len(steps) == 1
    assert steps["total_norm"].item() == pytest.approx(last, rel=1e-6)


def test_a_gradient_changed_after_clipping_is_measured_again(tmp_path):
    model, optimizer = make()
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        backward(model, optimizer)
        clip_grad_norm_(model.parameters(), 0.1)
        model.out.bias.grad.fill_(100.0)
        optimizer.step()
    steps = Run(tmp_path / "run").steps()
    assert steps["total_norm"].item() == pytest.approx(100.0, rel=1e-4)
    assert steps["max_norm"].isna().all(), "the clipping did not reach what the optimizer consumed"


@pytest.mark.parametrize(("of", "fault"), [("gradients", "other-parameters"), ("parameters", None)])
def test_a_clip_call_that_is_given_the_gradients_clips_nothing(tmp_path, of, fault):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            given = list(model.parameters()) if of == "parameters" else [p.grad for p in model.parameters()]
            clip_grad_norm_(given, 0.1)
            optimizer.step()
    faults = gradwatch.Run(tmp_path / "run").steps()["clip_fault"]
    assert {None if not isinstance(one, str) else one for one in faults} == {fault}


GROUPS = {
    "the first group": [[0]],
    "all groups": [[0, 1]],
    "one after the other": [[0], [1]],
    "the last group, which has most of the norm": [[1]],
}


@pytest.mark.parametrize(("calls", "found"), [(g, g == [[0]]) for g in GROUPS.values()], ids=list(GROUPS))
def test_a_clip_call_for_a_part_of_the_parameters_is_told(tmp_path, calls, found):
    torch.manual_seed(0)
    model = nn.Linear(40, 40)
    optimizer = torch.optim.SGD([{"params": [model.bias]}, {"params": [model.weight]}], lr=0.01)
    with gradwatch.attach(model, optimizer, tmp_path / "run"):
        for _ in range(30):
            optimizer.zero_grad()
            (model(10 * torch.randn(4, 40)) - 100).square().mean().backward()
            for groups in calls:
                clip_grad_norm_([p for g in groups for p in optimizer.param_groups[g]["params"]], 1.0)
            optimizer.step()
    run = Run(tmp_path / "run")
    assert set(run.steps()["clip_fault"].dropna()) == ({"part"} if found else set())
    told = [f for f in run.diagnosis() if f.code == "ineffective-clipping"]
    assert [(f.severity, f.evidence["fault"].value) for f in told] == ([("info", "part")] if found else [])
