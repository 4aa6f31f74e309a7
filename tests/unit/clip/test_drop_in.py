"""`gradwatch.clip.clip_grad_norm_` against PyTorch's: equal where PyTorch is right, and right where it is not."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run
from gradwatch.clip import clip_grad_norm_
from gradwatch.errors import BadArgument

SHAPES = [(3, 5), (7,), (), (2, 3, 4), (1000,), (0,)]


def parameters(dtype=torch.float32, scale=1.0, absent=()):
    torch.manual_seed(0)
    made = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in SHAPES]
    for index, parameter in enumerate(made):
        if index not in absent:
            parameter.grad = (torch.randn(parameter.shape) * scale).to(dtype)
    return made


def gradients(of):
    return [None if p.grad is None else p.grad.clone() for p in of]


def true_norm(of, order=2.0):
    entries = torch.cat([p.grad.double().ravel() for p in of if p.grad is not None])
    return torch.linalg.vector_norm(entries, order).item()


@pytest.mark.parametrize("norm_type", [0.5, 1.5, 2, 4.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.1, 1.0, 1e6, math.inf])
@pytest.mark.parametrize("absent", [(), (0, 3)])
def test_norm_and_gradients_are_those_of_torch(norm_type, max_norm, absent):
    if norm_type == math.inf:
        absent = (*absent, SHAPES.index((0,)))  # PyTorch has no largest of no entries
    ours, theirs = parameters(absent=absent), parameters(absent=absent)
    norm = clip_grad_norm_(ours, max_norm, norm_type)
    expected = nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    torch.testing.assert_close(norm, expected, rtol=1e-6, atol=0)
    for one, other in zip(gradients(ours), gradients(theirs), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=2e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_added_in_full(dtype):
    made = parameters(dtype)
    expected = true_norm(made)
    norm = clip_grad_norm_(made, 0.5)
    assert norm.item() == pytest.approx(expected, rel=1e-6)
    assert norm.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert true_norm(made) == pytest.approx(0.5, rel=1e-2)


@pytest.mark.parametrize("scale", [1e19, 1e30, 1e-25])
def test_it_is_right_where_squares_overflow_or_underflow(scale):
    """PyTorch sets such finite gradients to zero, or finds a norm of zero."""
    made = parameters(scale=scale)
    expected = true_norm(made)
    assert clip_grad_norm_(made, scale / 10).item() == pytest.approx(expected, rel=1e-6)
    assert true_norm(made) == pytest.approx(min(scale / 10, expected * (scale / 10) / (expected + 1e-6)), rel=1e-5)


def test_it_is_right_for_long_gradients_of_equal_entries():
    """PyTorch's norm of these is 2e-3 off."""
    made = [nn.Parameter(torch.zeros(4_000_000))]
    made[0].grad = torch.full((4_000_000,), 0.1)
    assert clip_grad_norm_(made, 1e9).item() == pytest.approx(true_norm(made), rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_keep_leaves_every_gradient_as_it_is(bad):
    made = parameters()
    made[1].grad[2] = bad
    before = gradients(made)
    norm = clip_grad_norm_(made, 0.1)
    assert not math.isfinite(norm)
    for one, other in zip(gradients(made), before, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_zero_clips_what_is_finite(bad):
    made, expected = parameters(), parameters()
    made[1].grad[2], expected[1].grad[2] = bad, 0.0
    norm = clip_grad_norm_(made, 0.1, nonfinite="zero")
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(expected, 0.1), rtol=1e-6, atol=0)
    for one, other in zip(gradients(made), gradients(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=0)


def test_skip_makes_the_optimizer_do_nothing():
    made = parameters()
    optimizer = torch.optim.SGD(made, lr=1.0, momentum=0.9)
    made[1].grad[2] = math.nan
    assert math.isnan(clip_grad_norm_(made, 0.1, nonfinite="skip"))
    optimizer.step()
    assert all((p == 0).all() for p in made)
    assert gradients(made) == [None] * len(made)


@pytest.mark.parametrize("options", [{"nonfinite": "raise"}, {"error_if_nonfinite": True}])
def test_raise_names_the_parameter_and_changes_nothing(options):
    made = parameters()
    made[1].grad[2:4] = math.nan
    before = gradients(made)
    with pytest.raises(
        RuntimeError, match=r"total norm of order 2.0 .* parameter 1 of shape \(7,\) holds 2 NaN or inf"
    ):
        clip_grad_norm_(made, 0.1, **options)
    for one, other in zip(gradients(made), before, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("nonfinite", ["keep", "zero", "skip", "raise"])
def test_every_choice_is_the_same_where_all_is_finite(nonfinite):
    made, expected = parameters(), parameters()
    clip_grad_norm_(made, 0.1, nonfinite=nonfinite)
    nn.utils.clip_grad_norm_(expected, 0.1)
    for one, other in zip(gradients(made), gradients(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=0)


def test_an_unknown_choice_is_refused():
    with pytest.raises(BadArgument, match="nonfinite is 'ignore'; expected one of keep, zero, skip, raise"):
        clip_grad_norm_(parameters(), 1.0, nonfinite="ignore")


def test_an_empty_generator_is_warned_of_as_torch_does_at_the_line_of_the_call():
    found = []
    for clip in (nn.utils.clip_grad_norm_, clip_grad_norm_):
        with pytest.warns(UserWarning, match="generator") as caught:
            clip((p for p in []), 1.0)
        found.append([(str(w.message), w.filename, w.lineno, w.category) for w in caught])
    assert found[0] == found[1]
    assert found[0][0][1] == __file__


def test_what_may_be_given():
    one = nn.Parameter(torch.zeros(2))
    one.grad = torch.tensor([3.0, 4.0])
    assert clip_grad_norm_(one, 1.0).item() == 5.0
    assert clip_grad_norm_((p for p in [one]), 10.0).item() == pytest.approx(1.0)
    assert clip_grad_norm_([], 1.0).item() == 0.0
    assert clip_grad_norm_([nn.Parameter(torch.zeros(2))], 1.0).item() == 0.0


def test_nothing_is_written_where_nothing_is_clipped():
    made = parameters()
    versions = [p.grad._version for p in made]
    clip_grad_norm_(made, 1e6)
    assert [p.grad._version for p in made] == versions


# ------------------------------------------------------------------------------------ with a watch


def loop(tmp_path, monkeypatch, nonfinite, bad_step=None, stats=gradwatch.record.STATS, norm_type=2.0):
    reads = []
    from gradwatch.clip import drop_in
    from gradwatch.recording import tracker as stepping

    for module in (drop_in, stepping):
        original = module.measure
        monkeypatch.setattr(module, "measure", lambda *a, original=original: reads.append(1) or original(*a))
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    with gradwatch.attach(model, optimizer, tmp_path / "run", stats=stats, weights_every=0):
        for step in range(6):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().sum().backward()
            if step == bad_step:
                model.bias.grad[0] = math.nan
            norms.append(true_norm(list(model.parameters())))
            clip_grad_norm_(model.parameters(), 0.5, norm_type, nonfinite=nonfinite)
            optimizer.step()
    return Run(tmp_path / "run"), norms, len(reads)


def test_a_watch_and_the_clipping_share_one_read(tmp_path, monkeypatch):
    run, norms, reads = loop(tmp_path, monkeypatch, "keep")
    assert reads == 6
    np.testing.assert_allclose(run.steps()["total_norm"], norms, rtol=1e-6)
    np.testing.assert_allclose(run.steps()["clip_coef"], np.minimum(1, 0.5 / np.array(norms)), rtol=1e-5)
    assert run.steps()["clip_fault"].isna().all()


def test_a_watch_without_the_statistic_leaves_the_reading_to_the_clipping(tmp_path, monkeypatch):
    run, _, reads = loop(tmp_path, monkeypatch, "keep", stats=("norm",), norm_type=math.inf)
    assert reads == 12
    assert (run.steps()["norm_type"] == math.inf).all()


@pytest.mark.parametrize(("nonfinite", "skipped"), [("keep", False), ("zero", False), ("skip", True)])
def test_a_watch_records_what_became_of_a_step_that_is_not_finite(tmp_path, monkeypatch, nonfinite, skipped):
    run, _, _ = loop(tmp_path, monkeypatch, nonfinite, bad_step=3)
    steps = run.steps()
    assert steps.index.tolist() == list(range(6))
    assert steps["skipped"].tolist() == [skipped and step == 3 for step in range(6)]
    assert steps["nonfinite"][:4].tolist() == [0, 0, 0, 1]
    assert steps["clip_coef"].notna().all()
    finite_afterwards = steps["total_norm"].drop(3).notna().all()
    assert finite_afterwards == (nonfinite != "keep")


def test_detaching_takes_the_tap_out(tmp_path):
    from gradwatch.clip import calls

    before = calls.by_norm, calls.by_policy
    model = nn.Linear(1, 1)
    with gradwatch.attach(model, torch.optim.SGD(model.parameters(), 0.1), tmp_path / "run"):
        assert calls.by_norm is not before[0]
        assert calls.by_policy is not before[1]
    assert (calls.by_norm, calls.by_policy) == before


SHARDED = """
import math, torch, torch.distributed as dist
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh
from gradwatch.clip import clip_grad_norm_

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
for order in (2.0, 1.0, math.inf):
    for placement in (Shard(0), Replicate()):
        found = []
        for clip in (torch.nn.utils.clip_grad_norm_, clip_grad_norm_):
            torch.manual_seed(0)
            parameter = torch.nn.Parameter(distribute_tensor(torch.zeros(5), mesh, [placement]))
            parameter.grad = distribute_tensor(torch.randn(5), mesh, [placement])
            norm = clip([parameter], 0.5, order)
            found.append((type(norm), norm.device_mesh, norm.full_tensor(), parameter.grad.full_tensor()))
        assert found[0][:2] == found[1][:2], found
        torch.testing.assert_close(found[0][2:], found[1][2:])
print("equal", flush=True)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_sharded_gradients_give_the_dtensor_that_torch_gives(tmp_path):
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal") == 2
