"""Each Triton kernel that can't be compiled is left on its own. The launches of the others are only noted."""

import logging
from unittest import mock

import pytest
import torch

import gradwatch
from gradwatch.measure import devices, measure, routes, updates

pytest.importorskip("triton", reason="Triton is not installed")

PARTS = ("read gradients", "scale gradients", "read updates")


class Launches:
    """In the place of a kernel, of which a launch is noted and may fail as a compilation does."""

    def __init__(self, part, launched, broken):
        self.part, self.launched, self.broken = part, launched, broken

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *arguments, **options):
        self.launched.append(self.part)
        if self.part in self.broken:
            raise RuntimeError(f"planted: {self.part}")


@pytest.fixture
def stepped(monkeypatch):
    """Weights and gradients on the CPU, which is taken for a CUDA device, and an optimizer that has stepped."""
    from gradwatch.measure import fused_triton

    monkeypatch.setattr(routes, "_TRITON_DEVICES", {"cpu"})
    monkeypatch.setattr(routes, "_triton", fused_triton)
    monkeypatch.setattr(routes, "_failed", set())
    monkeypatch.setattr(routes, "is_available", lambda: False)
    monkeypatch.setattr(updates, "reads_updates", lambda: False)
    weights = [torch.nn.Parameter(torch.tensor([3.0, 4.0])), torch.nn.Parameter(torch.tensor([1.0]))]
    for weight in weights:
        weight.grad = weight.detach().clone()
    optimizer = torch.optim.SGD(weights, lr=0.5)
    optimizer.step()
    return optimizer, weights


def plant(monkeypatch, *broken):
    from gradwatch.measure import fused_triton, updates_triton

    launched = []
    for module, names in ((fused_triton, ("_read", "_add", "_scale")), (updates_triton, ("_read", "_add"))):
        for name in names:
            part = "read updates" if module is updates_triton else PARTS[name == "_scale"]
            monkeypatch.setattr(module, name, Launches(part, launched, broken))
    return launched


@pytest.mark.parametrize("broken", PARTS)
def test_a_kernel_that_does_not_compile_is_left_and_the_others_go_on(monkeypatch, caplog, stepped, broken):
    optimizer, weights = stepped
    gradients = [weight.grad for weight in weights]
    launched = plant(monkeypatch, broken)
    with caplog.at_level(logging.WARNING, "gradwatch"):
        for _ in range(2):
            norms = routes.measure(gradients).collect()["norm"]
            left = routes.scale_in_one_launch(gradients, torch.tensor(0.5))
            moved = updates.measure_updates(optimizer, weights).collect()["update_norm"]
    assert [launched.count(part) for part in PARTS] == [
        1 if part == broken else 2 if part == "scale gradients" else 4 for part in PARTS
    ]
    # What the broken kernel should have done is done by PyTorch, or left to it.
    assert broken != "read gradients" or norms.tolist() == pytest.approx([5.0, 1.0])
    assert list(left) == (gradients if broken == "scale gradients" else [])
    assert broken != "read updates" or moved.tolist() == pytest.approx([2.5, 0.5])
    assert [record.getMessage() for record in caplog.records] == [
        f"Triton can't {broken} here, so gradwatch uses PyTorch's operators: planted: {broken} (triton-not-used)"
    ]


def test_the_routes_in_words_know_what_is_left(monkeypatch, stepped):
    optimizer, weights = stepped
    monkeypatch.setattr(routes, "_TRITON_DEVICES", {"meta"})
    on_device = [torch.ones(2, device="meta")]
    assert "Triton" in routes.route_of(on_device)
    assert "Triton" in updates.updates_route_of(on_device)
    monkeypatch.setattr(routes, "_TRITON_DEVICES", {"cpu"})
    plant(monkeypatch, "read updates")
    updates.measure_updates(optimizer, weights)
    monkeypatch.setattr(routes, "_TRITON_DEVICES", {"meta"})
    assert "Triton" in routes.route_of(on_device)
    assert "Triton" not in updates.updates_route_of(on_device)


class Filled:
    """In the place of the launch that fills the table."""

    def __getitem__(self, grid):
        return lambda sums, first, positions, table, **options: table.fill_(1.0)


def zeros_recorded(folder, optimizer):
    model = torch.nn.ParameterList(optimizer.param_groups[0]["params"])
    with gradwatch.attach(model, optimizer, folder, weights_every=0, updates_every=0):
        for _ in range(18):
            optimizer.step()
    return gradwatch.Run(folder).layers("zeros").index.tolist()


def test_zeros_are_recorded_at_every_step_while_the_kernel_reads_them_with_the_rest(monkeypatch, stepped, tmp_path):
    from gradwatch.measure import fused_triton

    optimizer, _ = stepped
    plant(monkeypatch)
    monkeypatch.setattr(fused_triton, "_add", Filled())
    assert zeros_recorded(tmp_path / "reads", optimizer) == list(range(18))
    plant(monkeypatch, "read gradients")
    # The kernel fails at step 0, when zeros were asked for already.
    assert zeros_recorded(tmp_path / "fails", optimizer) == [0, 16]


def test_all_may_fail_each_with_its_message(monkeypatch, caplog, stepped):
    optimizer, weights = stepped
    plant(monkeypatch, *PARTS)
    with caplog.at_level(logging.WARNING, "gradwatch"):
        routes.measure([weight.grad for weight in weights])
        routes.scale_in_one_launch([weight.grad for weight in weights], torch.tensor(0.5))
        updates.measure_updates(optimizer, weights)
    assert [record.getMessage().rpartition("planted: ")[2] for record in caplog.records] == [
        f"{part} (triton-not-used)" for part in PARTS
    ]


@pytest.mark.parametrize("broken", [(), ("read gradients",)])
def test_autograd_does_not_follow_the_measurement_of_gradients_that_it_follows(monkeypatch, stepped, broken):
    plant(monkeypatch, *broken)
    monkeypatch.setattr(devices, "copies_behind", lambda device: True)
    monkeypatch.setattr(devices, "_copy_behind", torch.clone)
    monkeypatch.setattr(devices, "_pinned", torch.clone)  # PyTorch has no pinned memory here
    monkeypatch.setattr(devices, "_mark", lambda device: mock.Mock())
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    (gradient,) = torch.autograd.grad(weight.square().sum(), weight, create_graph=True)
    assert torch.is_grad_enabled()
    found = measure([gradient])
    assert gradient.requires_grad
    assert routes._failed == set(broken)
    assert not any(norms.requires_grad for _, norms in found.norms())  # where they were computed
    if broken:
        assert found.collect()["norm"][0] == 10.0  # of 2 * (3, 4)


def test_layouts_share_no_list_with_what_was_measured_of_other_gradients(monkeypatch, stepped):
    """The positions stay from step to step; those of fewer gradients, and of some among others, are their own."""
    plant(monkeypatch)
    all_of_them, fewer = [torch.ones(2), torch.ones(3), torch.ones(2)], [torch.ones(2), None, torch.ones(2)]
    assert measure(all_of_them).parts[0].positions == [0, 1, 2]
    assert measure(fewer).parts[0].positions == [0, 2]
    assert measure(all_of_them).parts[0].positions == measure(all_of_them).parts[0].positions == [0, 1, 2]


class Ones(Launches):
    """In the place of the kernel that fills the table."""

    def launch(self, *arguments, **options):
        super().launch(*arguments, **options)
        arguments[-1].fill_(1.0)


@pytest.mark.parametrize(("broken", "counted"), [((), range(20)), (("read gradients",), (0, 16))])
def test_zeros_are_recorded_at_each_step_as_long_as_the_kernel_reads_them(
    monkeypatch, tmp_path, stepped, broken, counted
):
    from gradwatch.measure import fused_triton

    launched = plant(monkeypatch, *broken)
    monkeypatch.setattr(fused_triton, "_add", Ones("read gradients", launched, broken))
    optimizer, weights = stepped
    with gradwatch.attach(
        torch.nn.ParameterList(weights), optimizer, tmp_path / "run", weights_every=0, updates_every=0
    ):
        for _ in range(20):
            optimizer.step()
    zeros = gradwatch.Run(tmp_path / "run").layers("zeros")
    assert list(zeros.index[zeros.notna().all(axis=1)]) == list(counted)
