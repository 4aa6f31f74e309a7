"""The training thread reads nothing from a device, shown on tensors that have no values to read."""

from pathlib import Path

import pytest
import torch

from gradwatch import clip

from ..scripts import BENCHMARKS, load

launches = load("launches")
ROWS = {label: rest for label, *rest in launches.rows()}
TABLE = (BENCHMARKS / "launches.txt").read_text()
PRINTED = {line.split(" | ")[0][2:]: line for line in TABLE.splitlines() if "|" in line}
DOCS = Path(__file__).parents[2] / "docs" / "devices.md"


@pytest.mark.parametrize("label", ROWS)
def test_no_option_waits_for_a_device(label):
    train, options, make = ROWS[label]
    row = launches.count(train, options, make)
    assert row.waits == ()
    updates = 2 if "two optimizers" in label else 1
    assert row.recorded == launches.STEPS * updates
    line = launches.line(label, row)
    of_this_pytorch = torch.__version__ in TABLE
    kept = (0, 1, 2, 3, 4) if of_this_pytorch else (0, 1, 2, 4)  # operators are PyTorch's affair
    columns, expected = line.split("|"), PRINTED[label].split("|")
    assert [columns[at] for at in kept] == [expected[at] for at in kept], f"print launches.txt again, with {line}"


def test_the_documentation_has_the_table_as_it_was_printed():
    assert list(PRINTED)[2:] == list(ROWS)
    table = "\n".join(PRINTED.values())
    assert table in DOCS.read_text(), f"put this into docs/devices.md:\n{table}"


class Waits(clip.NormClip):
    """A policy that looks at the device."""

    def clip(self, parameters, measured):
        torch.zeros(1, device="meta").item()
        return super().clip(parameters, measured)


def test_a_policy_that_waits_would_be_found():
    train = launches.plain
    with launches.counting() as counts, counts, pytest.raises(RuntimeError, match="meta"):
        torch.zeros(1, device="meta").item()
    assert counts.waits == ["_local_scalar_dense"]
    row = launches.count(train, {"weights_every": 0, "clip": Waits(1.0)}, launches.OPTIMIZERS["SGD"])
    assert "_local_scalar_dense" in row.waits


def test_a_copy_to_the_host_would_be_found():
    with launches.counting() as counts, counts:
        torch.zeros(1, device="meta").cpu()
    assert counts.waits == ["copy to the host"]


def test_sentinels_of_a_deep_model_take_the_same_whatever_its_depth(monkeypatch):
    """As the documentation of devices has it, beside what measuring the gradients takes for each parameter."""
    linears = [torch.nn.Linear(8, 8, device="meta") for _ in range(48)]
    monkeypatch.setattr(launches, "WARM_UP", 1)  # at step 0 those of all are read

    def loop(net, optimizer, watch, step):
        optimizer.zero_grad()
        net(torch.zeros(4, 8, device="meta")).square().mean().backward()
        optimizer.step()

    def counted(depth, **options):
        monkeypatch.setattr(launches, "model", lambda: torch.nn.Sequential(*linears[:depth]))
        launches._bare.cache_clear()
        row = launches.count(loop, {"weights_every": 0, **options}, launches.OPTIMIZERS["AdamW"])
        assert row.waits == ()
        return row

    for depth in (32, 48):
        mine, without = counted(depth), counted(depth, updates_every=0)
        assert mine.copies - without.copies == 1.0
        added = mine.operators - without.operators
        if torch.__version__ in TABLE:  # operators are PyTorch's affair
            assert round(added) == 48
        assert added / without.operators < 0.09
    assert "48 operators and one copy a step" in " ".join(DOCS.read_text().split())


def test_copies_do_not_grow_with_the_number_of_tensors(monkeypatch):
    train, options = launches.OPTIONS["clip_grad_value_ of PyTorch"]
    options = options | {"updates_every": 1}  # else the updates of more tensors are read at fewer steps
    few = launches.count(train, options, launches.OPTIMIZERS["SGD"])
    small = launches.model
    monkeypatch.setattr(
        launches,
        "model",
        lambda: torch.nn.Sequential(small(), *(torch.nn.Linear(64, 64, device="meta") for _ in range(9))),
    )
    many = launches.count(train, options, launches.OPTIMIZERS["SGD"])
    assert many.operators > 2 * few.operators
    assert many.copies == few.copies
