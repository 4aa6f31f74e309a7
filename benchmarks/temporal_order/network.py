"""Many small RNNs, trained side by side on the temporal-order task, with backpropagation written out.

The first axis of every tensor is the network, so a step of ninety networks is a few matrix products. Symbols are
those of Pascanu, Mikolov, Bengio 2013: ``a_t = h_(t-1) W + U[u_t] + b``, ``h_t = tanh(a_t)``, ``h_0 = 0``, a softmax
on the last state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SYMBOLS, CLASSES, HIDDEN, BATCH = 6, 4, 50, 20
NAMES = ("W", "U", "b", "V", "c")


def sequences(generator: np.random.Generator, length: int, count: int) -> tuple[Tensor, Tensor]:
    """Draw symbols (count, length) and labels (count,): A or B at two places among c to f, and their order.

    The places are those of the authors' code: [0.1 L, 0.2 L) and [0.5 L, 0.6 L).
    """
    tenth = max(1, int(0.1 * length))
    symbols = generator.integers(2, SYMBOLS, (count, length))
    first = generator.integers(0, tenth, count) + int(0.1 * length)
    second = generator.integers(0, tenth, count) + int(0.5 * length)
    marks = generator.integers(0, 2, (count, 2))
    rows = np.arange(count)
    symbols[rows, first], symbols[rows, second] = marks[:, 0], marks[:, 1]
    return torch.from_numpy(symbols), torch.from_numpy(marks[:, 0] + 2 * marks[:, 1])


def initial(seed: int, kind: str) -> dict[str, Tensor]:
    """Draw the weights of one network, by ``basic_tanh`` or ``smart_tanh`` of the authors' code."""
    generator = np.random.default_rng(seed)
    spread = 0.1 if kind == "basic_tanh" else 0.01
    weights = {
        "W": generator.normal(0, spread, (HIDDEN, HIDDEN)),
        "U": generator.normal(0, spread, (SYMBOLS, HIDDEN)),
        "b": np.zeros(HIDDEN),
        "V": generator.normal(0, spread, (HIDDEN, CLASSES)),
        "c": np.zeros(CLASSES),
    }
    if kind == "smart_tanh":
        sparse = np.zeros((HIDDEN, HIDDEN))
        for row in sparse:
            row[generator.choice(HIDDEN, 15, replace=False)] = generator.normal(0, 1, 15)
        weights["W"] = sparse * 0.95 / np.abs(np.linalg.eigvals(sparse)).max()
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in weights.items()}


@dataclass(slots=True)
class Step:
    """The result of one batch, a row per network: gradients of the mean loss, the loss and the error rate."""

    gradients: dict[str, Tensor]
    loss: Tensor
    cut: Tensor  # share of the hidden errors that were truncated


def states(weights: dict[str, Tensor], symbols: Tensor) -> list[Tensor]:
    """h_1 ... h_T, each (networks, batch, hidden)."""
    one_hot = torch.nn.functional.one_hot(symbols.transpose(1, 2), SYMBOLS).float()
    networks, length, batch, _ = one_hot.shape
    inputs = torch.bmm(one_hot.view(networks, length * batch, SYMBOLS), weights["U"])
    inputs = (inputs + weights["b"].unsqueeze(1)).view(networks, length, batch, HIDDEN).transpose(0, 1).contiguous()
    found = [inputs[0].tanh()]
    for t in range(1, length):
        found.append(torch.baddbmm(inputs[t], found[-1], weights["W"]).tanh_())
    return found


def error_rate(weights: dict[str, Tensor], symbols: Tensor, labels: Tensor) -> Tensor:
    """Return the share of sequences that each network gets wrong; symbols (networks, count, length)."""
    last = states(weights, symbols)[-1]
    scores = torch.baddbmm(weights["c"].unsqueeze(1), last, weights["V"])
    return (scores.argmax(-1) != labels).float().mean(1)


def step(weights: dict[str, Tensor], symbols: Tensor, labels: Tensor, limits: Tensor, omega: Tensor) -> Step:
    """Compute the gradients of one batch.

    Args:
        weights: by name, networks first.
        symbols, labels: (networks, batch, length) and (networks, batch).
        limits: (networks,) to which entries of dE/dh_t of each example are truncated (Mikolov 2012);
            infinite: not at all.
        omega: (networks,) weight of the vanishing-gradient regulariser (Pascanu et al., equations 9 and
            10): summed over time, its immediate derivative by W alone, mean over the batch.
    """
    h = states(weights, symbols)
    length, batch = len(h), symbols.shape[1]
    scores = torch.baddbmm(weights["c"].unsqueeze(1), h[-1], weights["V"])
    chances = scores.log_softmax(-1)
    loss = -chances.gather(2, labels.unsqueeze(2)).squeeze(2).mean(1)
    wrong = (chances.exp() - torch.nn.functional.one_hot(labels, CLASSES)) / batch
    error = torch.bmm(wrong, weights["V"].transpose(1, 2))
    truncates = bool(torch.isfinite(limits).any())
    most = (limits / batch).view(-1, 1, 1)
    cut = torch.zeros(len(limits))
    recurrent = weights["W"].transpose(1, 2)
    errors: list[Tensor] = [error] * length
    for t in reversed(range(length)):
        if truncates:
            cut += (error.abs() > most).float().mean((1, 2))
            error = torch.minimum(torch.maximum(error, -most), most)
        before = torch.addcmul(error, error * h[t], h[t], value=-1)  # times 1 - h^2: at a_t
        errors[t] = before
        if t:
            error = torch.bmm(before, recurrent)
    flat_errors = torch.stack(errors, 1)  # networks, length, batch, hidden
    networks = len(limits)
    one_hot = torch.nn.functional.one_hot(symbols.transpose(1, 2), SYMBOLS).float()
    all_errors = flat_errors.view(networks, length * batch, HIDDEN)
    earlier = torch.stack(h[:-1], 1)
    gradients = {
        "W": torch.bmm(earlier.view(networks, -1, HIDDEN).transpose(1, 2), all_errors[:, batch:]),
        "U": torch.bmm(one_hot.view(networks, -1, SYMBOLS).transpose(1, 2), all_errors),
        "b": all_errors.sum(1),
        "V": torch.bmm(h[-1].transpose(1, 2), wrong),
        "c": wrong.sum(1),
    }
    chosen = (omega > 0).nonzero().flatten()
    if len(chosen):
        pulled = omega_gradient(recurrent[chosen], earlier[chosen], flat_errors[chosen, 1:])
        gradients["W"][chosen] += omega[chosen].view(-1, 1, 1) * pulled
    return Step(gradients, loss, cut / length)


def omega_gradient(recurrent: Tensor, earlier: Tensor, errors: Tensor) -> Tensor:
    """Compute the derivative by W of ``sum_k (|e_(k+1) W^T diag(1 - h_k^2)| / |e_(k+1)| - 1)^2``, mean over the batch.

    ``errors`` are e_2 ... e_T and ``earlier`` h_1 ... h_(T-1), both (networks, T - 1, batch, hidden) and
    taken as constants, as the paper does.
    """
    networks, _, batch, hidden = errors.shape
    flat = errors.reshape(networks, -1, hidden)
    slope = (1 - earlier.square()).reshape(networks, -1, hidden)
    back = torch.bmm(flat, recurrent) * slope
    size, sent = flat.norm(dim=2, keepdim=True), back.norm(dim=2, keepdim=True)
    usable = (size > 1e-30) & (sent > 1e-30)
    pull = torch.where(usable, 2 * (sent / size - 1) / (size * sent), torch.zeros_like(size))
    pull = pull.nan_to_num(0.0, 0.0, 0.0)
    return torch.bmm((back * slope).transpose(1, 2), flat * pull) / batch
