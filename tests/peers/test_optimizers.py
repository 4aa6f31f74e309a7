"""PyTorch's own table of optimizers (`torch.testing._internal.common_optimizers.optim_db`), recorded and not.

Weights and optimizer state have to be equal bit for bit. `make peers` goes through the table in full: every
optimizer, its inputs for a CPU, foreach, fused and differentiable, and four dtypes. The sample takes two of each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradwatch

pytest.importorskip("expecttest", reason="PyTorch's testing modules import it")
STEPS = 4
OPTIMIZERS = [
    *("Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "LBFGS", "Muon", "NAdam", "RAdam"),
    *("RMSprop", "Rprop", "SGD", "SparseAdam"),
]


def table() -> Any:
    """PyTorch's module; its import takes a second, and so waits until a test needs it."""
    return pytest.importorskip("torch.testing._internal.common_optimizers")


def entry(name: str) -> Any:
    found = [info for info in table().optim_db if info.optim_cls.__name__ == name]
    if not found:
        pytest.skip(f"torch {torch.__version__} has no {name} in its table")
    return found[0]


def cases(
    name: str, dtypes: tuple[torch.dtype, ...], *, are_sparse: bool
) -> list[tuple[str, dict[str, Any], torch.dtype]]:
    info = entry(name)
    inputs = table()._get_optim_inputs_including_global_cliquey_kwargs("cpu", torch.float32, info)
    if are_sparse and not info.only_supports_sparse_grads:
        sparse_inputs, _ = info.metadata_for_sparse
        return [(f"sparse {kwargs}", kwargs, torch.float32) for kwargs in ([sparse_inputs] if sparse_inputs else [])]
    options = [(each.desc, each.kwargs) for each in inputs]
    if "foreach" in info.supported_impls:  # the table lists it for accelerators alone, and it runs on a CPU as well
        options += [
            (f"{each.desc} & foreach", each.kwargs | {"foreach": True}) for each in info.optim_inputs_func("cpu")
        ]
    return [
        (description, kwargs, dtype)
        for description, kwargs in options
        for dtype in dtypes
        if not dtype.is_complex or info.supports_complex
    ]


def gradient_of(parameter: Tensor, generator: torch.Generator, *, is_sparse: bool) -> Tensor:
    real = parameter.dtype if not parameter.is_complex() else torch.complex64
    dense = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(real)
    if not is_sparse:
        return dense
    rows = torch.tensor([[0, 2]])
    return torch.sparse_coo_tensor(rows, dense[[0, 2]], parameter.shape)


def train(name: str, options: dict[str, Any], dtype: torch.dtype, run: Path | None, *, is_sparse: bool) -> list[Any]:
    """A few steps from fixed gradients; return weights and state as bytes, or the exception that ended it."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    shapes = [(5, 4)] if name in ("Muon", "SparseAdam") or is_sparse else [(5, 4), (7,), ()]
    module = nn.ParameterList(
        [
            nn.Parameter(
                torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype),
                # An optimizer that is differentiable writes to its weights under autograd, which leaves may not need.
                requires_grad=not options.get("differentiable"),
            )
            for shape in shapes
        ]
    )
    parameters = list(module.parameters())
    closure_needed = entry(name).step_requires_closure
    watch = None
    try:
        optimizer = getattr(torch.optim, name)(parameters, **options)
        if run is not None:
            watch = gradwatch.attach(module, optimizer, run, weights_every=2)

        def closure() -> Tensor:
            for parameter in parameters:
                parameter.grad = gradient_of(parameter, generator, is_sparse=is_sparse)
            return sum((p.detach().abs().square().sum().real for p in parameters), torch.zeros(()))

        for _ in range(STEPS):
            if closure_needed:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
    except gradwatch.GradwatchError:
        raise
    except Exception as error:
        return [type(error).__name__, str(error)]
    finally:
        if watch is not None:
            watch.close()
    state = [(key, value) for each in optimizer.state.values() for key, value in each.items()]
    return [as_bytes(p) for p in parameters] + [(key, as_bytes(value)) for key, value in state]


def as_bytes(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [as_bytes(each) for each in value]
    if not isinstance(value, Tensor):
        return repr(value)
    flat = torch.view_as_real(value.detach()) if value.is_complex() else value.detach()
    return str(value.dtype), flat.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def compare(name: str, chosen: list[tuple[str, dict[str, Any], torch.dtype]], folder: Path, *, is_sparse: bool) -> int:
    """Check that the cases are equal; return how many were."""
    different, count = [], 0
    for number, (description, options, dtype) in enumerate(chosen):
        alone = train(name, options, dtype, None, is_sparse=is_sparse)
        recorded = train(name, options, dtype, folder / str(number), is_sparse=is_sparse)
        if alone == recorded:
            count += 1
        elif alone == train(name, options, dtype, None, is_sparse=is_sparse):  # PyTorch itself repeats the case
            different.append(f"{description} {dtype}")
    assert not different
    return count


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_sample_of_each_optimizer_is_equal_bit_for_bit(tmp_path, name):
    is_sparse = name == "SparseAdam"
    chosen = cases(name, (torch.float32,), are_sparse=False)
    assert compare(name, [chosen[0], chosen[-1]], tmp_path, is_sparse=is_sparse) == 2


@pytest.mark.peers
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_case_of_each_optimizer_is_equal_bit_for_bit(tmp_path, name, record_property):
    info = entry(name)
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.complex64)
    count = compare(name, cases(name, dtypes, are_sparse=False), tmp_path, is_sparse=info.only_supports_sparse_grads)
    if info.supports_sparse:
        count += compare(name, cases(name, dtypes, are_sparse=True), tmp_path / "sparse", is_sparse=True)
    record_property("cases", count)
    print(f"{name}: {count} cases are equal")


def test_the_table_has_no_optimizer_that_is_missing_here():
    assert {info.optim_cls.__name__ for info in table().optim_db} <= set(OPTIMIZERS)
