"""The entries of a gradient as readable numbers, for any kind of tensor.

The compiled passes read memory by address. Only tensors of PyTorch's own class have the address of their
entries: a wrapper subclass (`MaskedTensor`, a quantised tensor, `TwoTensor`) reports
address 0, and so do zero tensors and storages that were freed. Those are converted first, or read by
PyTorch's operators.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

logger = logging.getLogger("gradwatch")

PLAIN = frozenset({Tensor, torch.nn.Parameter, torch.nn.Buffer})
"""Classes whose memory holds their entries. A subclass may hold anything there."""

_COMPRESSED = frozenset({torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc})
_HAVE_ADDRESSES = frozenset({"cpu", "cuda"})
_USUAL_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16, torch.float64})
_reported: set[str] = set()


def is_wrapper(tensor: Tensor) -> bool:
    """Whether the entries lie in other tensors, so that what operators make of it is no plain tensor either."""
    kind = type(tensor)
    return kind not in PLAIN and kind.__torch_dispatch__ is not Tensor.__torch_dispatch__


def entries_of(gradient: Tensor) -> Tensor | None:
    """Return the stored entries of a gradient as a real strided tensor, a view wherever possible.

    Sparse and nested gradients give the values they store, sparse COO ones after coalescing; complex
    entries count as pairs of reals; masked gradients give the entries that are not masked.

    Returns:
        A tensor of PyTorch's own class, of any shape; None where the entries can't be had as one.

    >>> entries_of(torch.tensor([3 + 4j]))
    tensor([[3., 4.]])
    >>> entries_of(torch.eye(2).to_sparse_csr()).tolist()
    [1.0, 1.0]
    """
    if _is_usual(gradient):
        return gradient
    plain = _as_plain(gradient)
    if plain is None:
        return None
    for applies, convert in _CONVERSIONS:
        if applies(plain):
            plain = convert(plain)
    return plain if _has_memory(plain) else None


def ask_operators(gradient: Tensor, stats: Sequence[str]) -> Tensor | None:
    """Return the statistics of a gradient as its own class computes them; None where it does not.

    For wrapper subclasses of which nothing else is known. Waits for an accelerator.

    Returns:
        A float64 tensor on the host with one entry for each of ``stats``.
    """
    try:
        answers = [float(_QUESTIONS[stat](gradient)) for stat in stats]
    except Exception as error:
        _report(gradient, error)
        return None
    return torch.tensor(answers, dtype=torch.float64, device="cpu")


def _report(gradient: Tensor, error: Exception) -> None:
    """Warn once for each class of tensor."""
    name = type(gradient).__name__
    if name in _reported:
        return
    _reported.add(name)
    logger.warning(
        "gradwatch can't read the entries of a gradient that is a %s on %s and leaves it out of every number"
        " (%s: %s) (gradient-not-read)",
        name,
        gradient.device,
        type(error).__name__,
        str(error).partition("\n")[0][:200],
    )


def _is_usual(gradient: Tensor) -> bool:
    """Whether a gradient is as most are, which a thousand at a step are asked: real, strided, and with an address."""
    return (
        type(gradient) in PLAIN
        and gradient.layout is torch.strided
        and gradient.dtype in _USUAL_DTYPES
        and not gradient.is_nested
        and gradient.device.type in _HAVE_ADDRESSES
        and gradient.data_ptr() != 0
    )


def _as_plain(gradient: Tensor) -> Tensor | None:
    kind = type(gradient)
    if kind in PLAIN:
        return gradient
    if kind.__torch_dispatch__ is Tensor.__torch_dispatch__:
        # A subclass that only overrides functions holds its entries as any tensor does.
        with torch._C.DisableTorchFunctionSubclass():
            return gradient.as_subclass(Tensor)
    try:
        return _inner(gradient)
    except Exception:
        return None


def _inner(gradient: Tensor) -> Tensor | None:
    """Return the plain tensor that a wrapper subclass stands for, where it has a way to say so."""
    inner: Tensor | None = None
    if gradient.is_nested:
        inner = gradient.values()
    elif hasattr(gradient, "get_mask") and hasattr(gradient, "get_data"):
        inner = gradient.get_data()[gradient.get_mask()]
    elif type(gradient).dequantize is not Tensor.dequantize:
        inner = gradient.dequantize()
    return inner if type(inner) in PLAIN else None


def _has_memory(tensor: Tensor) -> bool:
    return tensor.device.type not in _HAVE_ADDRESSES or tensor.numel() == 0 or tensor.data_ptr() != 0


_QUESTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "norm": torch.linalg.vector_norm,
    "abs_max": lambda t: t.abs().amax(),
    "nonfinite": lambda t: torch.isfinite(t).logical_not().sum(),
    "zeros": lambda t: (t == 0).sum(),
}

_CONVERSIONS: tuple[tuple[Callable[[Tensor], bool], Callable[[Tensor], Tensor]], ...] = (
    (lambda t: t.is_sparse, lambda t: t.coalesce().values()),
    (lambda t: t.layout in _COMPRESSED or t.is_nested, lambda t: t.values()),
    (torch.Tensor._is_zerotensor, lambda t: torch.zeros((), dtype=t.dtype, device=t.device).expand(t.shape)),
    (lambda t: t.is_quantized, lambda t: t.dequantize()),
    (lambda t: t.is_floating_point() and t.element_size() == 1, lambda t: t.float()),
    (lambda t: t.is_complex(), lambda t: torch.view_as_real(t.resolve_conj())),
)
"""Applied in this order: what to convert, and how."""
