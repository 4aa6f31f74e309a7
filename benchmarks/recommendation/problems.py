"""The tasks: those that the rule was made on (TUNE, FIRST, SECOND, ...), and those of the latest report.

All are small: a training takes a second or two on one core. The learning rates of a task are a ladder, from a safe
one to one that barely works without clipping. They were chosen by looking at trainings without clipping only.
"""

from __future__ import annotations

import functools
import itertools
import math
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lab import Batch, Task, Weights
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Arrays = dict[str, NDArray[np.float64]]
HELD_OUT, VALIDATION = 10**6, 2 * 10**6  # seeds that no training has


@dataclass(frozen=True)
class Made:
    """A task from its four functions."""

    name: str
    optimizer: str
    rates: tuple[float, ...]
    steps: int
    initial: Callable[[np.random.Generator], Arrays]
    batch: Callable[[np.random.Generator], Batch]
    held_out: Callable[[], Batch]
    loss: Callable[[Weights, Batch], Tensor]
    apart: Callable[[], Batch] | None = None  # the validation, where fresh batches would be of what is learnt from

    def validation(self) -> Batch:
        return _fixed(self.batch, 16, VALIDATION)() if self.apart is None else self.apart()


def _normal(generator: np.random.Generator, *shape: int, gain: float = 1.0) -> NDArray[np.float64]:
    """Weights of variance gain^2 / fan-in; the first axis but one is what goes in."""
    return generator.normal(0, gain / math.sqrt(math.prod(shape[:-1])), shape)


def _tensors(*arrays: NDArray[np.generic]) -> Batch:
    return tuple(torch.from_numpy(np.ascontiguousarray(a)).to(_dtype_of(a)) for a in arrays)


def _dtype_of(array: NDArray[np.generic]) -> torch.dtype:
    return torch.int64 if array.dtype.kind in "iub" else torch.float32


def _fixed(batch: Callable[[np.random.Generator], Batch], count: int, seed: int = HELD_OUT) -> Callable[[], Batch]:
    """``count`` batches of a generator of their own as one."""

    @functools.cache
    def held_out() -> Batch:
        generator = np.random.default_rng(seed)
        return tuple(torch.cat(parts) for parts in zip(*(batch(generator) for _ in range(count)), strict=True))

    return held_out


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """scores (trainings, n, classes), labels (trainings, n)."""
    return -scores.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1).flatten(1).mean(1)


def _dense(w: Weights, layer: int, x: Tensor) -> Tensor:
    return torch.baddbmm(w[f"b{layer}"].unsqueeze(1), x, w[f"w{layer}"])


# ------------------------------------------------------------------------------------------- data


@functools.cache
def _text() -> NDArray[np.int64]:
    """Source files of the standard library in 48 symbols."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    names = ("argparse", "ast", "calendar", "difflib", "doctest", "inspect", "pathlib", "pickle", "tarfile", "typing")
    text = "\n".join((folder / f"{name}.py").read_text().lower() for name in names if (folder / f"{name}.py").exists())
    kept = " \netasoirnlcdupfmhgy_.,()'\"=:[]#vbkwxq-j0z1*%+/<>"[:47]
    table = {symbol: i for i, symbol in enumerate(kept)}
    return np.array([table.get(symbol, 47) for symbol in text], dtype=np.int64)


def _passages(length: int, count: int) -> tuple[Callable[[np.random.Generator], Batch], Callable[[], Batch]]:
    """Passages from the first nine tenths of the text; the last tenth is held out."""

    def batch(generator: np.random.Generator) -> Batch:
        return _cut(generator, 0, len(_text()) * 9 // 10, length, count)

    return batch, _from_the_end(length, HELD_OUT)


def _from_the_end(length: int, seed: int) -> Callable[[], Batch]:
    """Passages from the last tenth of the text."""
    return functools.cache(lambda: _cut(np.random.default_rng(seed), len(_text()) * 9 // 10, len(_text()), length, 64))


def _cut(generator: np.random.Generator, low: int, high: int, length: int, size: int) -> Batch:
    text = _text()
    starts = generator.integers(low, high - length - 1, size)
    rows = np.stack([text[s : s + length + 1] for s in starts])
    return _tensors(rows[:, :-1], rows[:, 1:])


@functools.cache
def _digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return data.data[order] / 8.0 - 1.0, data.target[order].astype(np.int64)


def _digit_batches(
    count: int, corrupt: float = 0.0, times: float = 30.0, wrong: float = 0.0
) -> tuple[Callable[[np.random.Generator], Batch], Callable[[], Batch]]:
    """1,300 digits to learn, 497 held out. A share ``corrupt`` of batches has its inputs multiplied, or,
    where ``wrong`` is given, that share of its labels drawn anew."""

    def batch(generator: np.random.Generator) -> Batch:
        x, y = _digits()
        chosen = generator.integers(0, 1300, count)
        inputs, labels = x[chosen], y[chosen]
        hit = generator.random() < corrupt
        other = generator.integers(0, 10, count)
        mixed = generator.random(count) < wrong
        if hit and wrong:
            labels = np.where(mixed, other, labels)
        if hit:
            inputs = inputs * times
        return _tensors(inputs, labels)

    @functools.cache
    def held_out() -> Batch:
        x, y = _digits()
        return _tensors(x[1300:], y[1300:])

    return batch, held_out


# ----------------------------------------------------------------------------------------- networks


def _mlp(
    sizes: tuple[int, ...], gain: float, activation: Callable[[Tensor], Tensor]
) -> tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]]:
    def initial(generator: np.random.Generator) -> Arrays:
        found: Arrays = {}
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            found[f"w{i}"] = _normal(generator, fan_in, fan_out, gain=gain)
            found[f"b{i}"] = np.zeros(fan_out)
        return found

    def loss(w: Weights, batch: Batch) -> Tensor:
        x, labels = batch
        for i in range(len(sizes) - 2):
            x = activation(_dense(w, i, x))
        return _cross_entropy(_dense(w, len(sizes) - 2, x), labels)

    return initial, loss


def _rnn_weights(inputs: int, hidden: int, outputs: int, radius: float) -> Callable[[np.random.Generator], Arrays]:
    def initial(generator: np.random.Generator) -> Arrays:
        recurrent = generator.normal(0, 1, (hidden, hidden))
        return {
            "recurrent": recurrent * radius / np.abs(np.linalg.eigvals(recurrent)).max(),
            "inputs": _normal(generator, inputs, hidden),
            "b": np.zeros(hidden),
            "w0": _normal(generator, hidden, outputs),
            "b0": np.zeros(outputs),
        }

    return initial


def _rnn_states(w: Weights, x: Tensor) -> list[Tensor]:
    """x (trainings, batch, length, features)."""
    trainings, batch, length, features = x.shape
    into = torch.bmm(x.transpose(1, 2).reshape(trainings, length * batch, features), w["inputs"])
    into = (into + w["b"].unsqueeze(1)).view(trainings, length, batch, -1)
    h = into[:, 0].tanh()
    states = [h]
    for t in range(1, length):
        h = torch.baddbmm(into[:, t], h, w["recurrent"]).tanh()
        states.append(h)
    return states


def _rnn_text_loss(w: Weights, batch: Batch) -> Tensor:
    x, y = batch
    states = torch.stack(_rnn_states(w, functional.one_hot(x, 48).float()), 2)
    return _cross_entropy(_dense(w, 0, states.flatten(1, 2)), y.flatten(1))


def _rnn_last_squared(w: Weights, batch: Batch) -> Tensor:
    x, y = batch
    return (_dense(w, 0, _rnn_states(w, x)[-1]).squeeze(-1) - y).square().mean(1)


def _rnn_last_class(w: Weights, batch: Batch) -> Tensor:
    x, y = batch
    return _cross_entropy(_dense(w, 0, _rnn_states(w, functional.one_hot(x, 6).float())[-1]), y)


def _two_marked(length: int, count: int, product: bool) -> Callable[[np.random.Generator], Batch]:
    """The adding problem (Hochreiter, Schmidhuber 1997), or the product of the two marked numbers."""

    def batch(generator: np.random.Generator) -> Batch:
        numbers, marks = generator.random((count, length)), np.zeros((count, length))
        rows = np.arange(count)
        first, second = generator.integers(0, length // 2, count), generator.integers(length // 2, length, count)
        marks[rows, first] = marks[rows, second] = 1
        pair = numbers[rows, first], numbers[rows, second]
        return _tensors(np.stack([numbers, marks], -1), pair[0] * pair[1] if product else pair[0] + pair[1])

    return batch


def _temporal_order(length: int, count: int) -> Callable[[np.random.Generator], Batch]:
    def batch(generator: np.random.Generator) -> Batch:
        symbols = generator.integers(2, 6, (count, length))
        tenth, rows = max(1, length // 10), np.arange(count)
        first = generator.integers(0, tenth, count) + tenth
        second = generator.integers(0, tenth, count) + length // 2
        marks = generator.integers(0, 2, (count, 2))
        symbols[rows, first], symbols[rows, second] = marks[:, 0], marks[:, 1]
        return _tensors(symbols, marks[:, 0] + 2 * marks[:, 1])

    return batch


def _gated(
    hidden: int, gates: int, advance: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
) -> tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]]:
    """The next symbol from the states of a network whose ``advance`` takes what comes in, both states and weights."""

    def initial(generator: np.random.Generator) -> Arrays:
        return {
            "inputs": _normal(generator, 48, gates * hidden),
            "recurrent": _normal(generator, hidden, gates * hidden),
            "b": np.zeros(gates * hidden),
            "w0": _normal(generator, hidden, 48),
            "b0": np.zeros(48),
        }

    def loss(w: Weights, batch: Batch) -> Tensor:
        x, y = batch
        one_hot = functional.one_hot(x, 48).float()
        trainings, count, length, _ = one_hot.shape
        into = torch.bmm(one_hot.transpose(1, 2).reshape(trainings, -1, 48), w["inputs"]) + w["b"].unsqueeze(1)
        into = into.view(trainings, length, count, gates * hidden)
        h = cell = torch.zeros(trainings, count, hidden)
        states = []
        for t in range(length):
            h, cell = advance(into[:, t], h, cell, w["recurrent"])
            states.append(h)
        return _cross_entropy(_dense(w, 0, torch.stack(states, 2).flatten(1, 2)), y.flatten(1))

    return initial, loss


def _gru_step(into: Tensor, h: Tensor, cell: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor]:
    reset, gate, new = into.chunk(3, -1)
    reset_h, gate_h, new_h = torch.bmm(h, recurrent).chunk(3, -1)
    gate = torch.sigmoid(gate + gate_h)
    return gate * h + (1 - gate) * torch.tanh(new + torch.sigmoid(reset + reset_h) * new_h), cell


def _lstm_step(into: Tensor, h: Tensor, cell: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor]:
    take, keep, give, new = torch.baddbmm(into, h, recurrent).chunk(4, -1)
    cell = torch.sigmoid(keep) * cell + torch.sigmoid(take) * torch.tanh(new)
    return torch.sigmoid(give) * torch.tanh(cell), cell


def _gru(hidden: int) -> tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]]:
    return _gated(hidden, 3, _gru_step)


def _transformer(
    width: int, length: int, layers: int, gain: float
) -> tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]]:
    """Causal, two heads, without normalisation layers."""

    def initial(generator: np.random.Generator) -> Arrays:
        found: Arrays = {
            "embedding": generator.normal(0, 1, (48, width)),
            "position": generator.normal(0, 0.3, (length, width)),
        }
        for i in range(layers):
            found[f"qkv{i}"] = _normal(generator, width, 3 * width, gain=gain)
            found[f"out{i}"] = _normal(generator, width, width, gain=gain)
            found[f"up{i}"] = _normal(generator, width, 2 * width, gain=gain)
            found[f"down{i}"] = _normal(generator, 2 * width, width, gain=gain)
        found["w0"], found["b0"] = _normal(generator, width, 48), np.zeros(48)
        return found

    mask = torch.full((length, length), -math.inf).triu(1)

    def loss(w: Weights, batch: Batch) -> Tensor:
        x, y = batch
        trainings, count, _ = x.shape
        one_hot = functional.one_hot(x.flatten(1), 48).float()
        h = torch.bmm(one_hot, w["embedding"]).view(trainings, count, length, width)
        h = (h + w["position"].unsqueeze(1)).flatten(1, 2)
        for i in range(layers):
            parts = torch.bmm(h, w[f"qkv{i}"]).view(trainings, count, length, 3, 2, width // 2)
            q, k, v = (parts[:, :, :, j].transpose(2, 3) for j in range(3))
            scores = q @ k.transpose(-1, -2) / math.sqrt(width // 2) + mask
            mixed = (scores.softmax(-1) @ v).transpose(2, 3).reshape(trainings, count * length, width)
            h = h + torch.bmm(mixed, w[f"out{i}"])
            h = h + torch.bmm(torch.relu(torch.bmm(h, w[f"up{i}"])), w[f"down{i}"])
        return _cross_entropy(_dense(w, 0, h), y.flatten(1))

    return initial, loss


def _cnn(channels: int) -> tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]]:
    def initial(generator: np.random.Generator) -> Arrays:
        return {
            "c0": generator.normal(0, math.sqrt(2 / 9), (channels, 1, 3, 3)),
            "c1": generator.normal(0, math.sqrt(2 / (9 * channels)), (channels, channels, 3, 3)),
            "w0": _normal(generator, channels * 4, 10),
            "b0": np.zeros(10),
        }

    def loss(w: Weights, batch: Batch) -> Tensor:
        x, labels = batch
        trainings, count, _ = x.shape
        image = x.transpose(0, 1).reshape(count, trainings, 8, 8)
        first = functional.conv2d(image, w["c0"].flatten(0, 1), padding=1, groups=trainings).relu()
        first = functional.max_pool2d(first, 2)
        second = functional.conv2d(first, w["c1"].flatten(0, 1), padding=1, groups=trainings).relu()
        flat = functional.max_pool2d(second, 2).view(count, trainings, -1).transpose(0, 1)
        return _cross_entropy(_dense(w, 0, flat), labels)

    return initial, loss


def _linear_noise(
    features: int, count: int, freedom: float, noise: float
) -> tuple[Callable[[np.random.Generator], Arrays], Callable[[np.random.Generator], Batch], Callable[[], Batch]]:
    """Linear regression whose noise has Student's t distribution; held out without noise."""
    truth = np.random.default_rng(5).normal(0, 1, features)

    def initial(generator: np.random.Generator) -> Arrays:
        return {"w0": np.zeros((features, 1)), "b0": np.zeros(1)}

    def batch(generator: np.random.Generator) -> Batch:
        x = generator.normal(0, 1, (count, features))
        return _tensors(x, x @ truth + noise * generator.standard_t(freedom, count))

    @functools.cache
    def held_out() -> Batch:
        x = np.random.default_rng(HELD_OUT).normal(0, 1, (256, features))
        return _tensors(x, x @ truth + 0.3 * np.random.default_rng(1).normal(0, 1, 256))

    return initial, batch, held_out


def _squared(w: Weights, batch: Batch) -> Tensor:
    x, y = batch
    return (_dense(w, 0, x).squeeze(-1) - y).square().mean(1)


def _pareto_features(
    features: int, hidden: int, count: int
) -> tuple[
    Callable[[np.random.Generator], Arrays],
    Callable[[np.random.Generator], Batch],
    Callable[[], Batch],
    Callable[[Weights, Batch], Tensor],
]:
    """A network on features, a few of them far larger than the rest; targets with normal noise."""
    truth = np.random.default_rng(6).normal(0, 1, (features, 3))

    def initial(generator: np.random.Generator) -> Arrays:
        return {
            "w1": _normal(generator, features, hidden),
            "b1": np.zeros(hidden),
            "w0": _normal(generator, hidden, 1),
            "b0": np.zeros(1),
        }

    def draw(generator: np.random.Generator, size: int) -> Batch:
        direction = generator.normal(0, 1, (size, features))
        x = direction * generator.pareto(2.5, (size, 1))
        y = np.tanh(direction @ truth).sum(1) + 0.3 * generator.normal(0, 1, size)
        return _tensors(x, y)

    def loss(w: Weights, batch: Batch) -> Tensor:
        x, y = batch
        h = torch.baddbmm(w["b1"].unsqueeze(1), x, w["w1"]).relu()
        return (_dense(w, 0, h).squeeze(-1) - y).square().mean(1)

    return initial, lambda generator: draw(generator, count), _fixed(lambda g: draw(g, 256), 1), loss


def _majority(length: int, count: int) -> Callable[[np.random.Generator], Batch]:
    """Which of two symbols came more often; the odd length leaves no tie."""

    def batch(generator: np.random.Generator) -> Batch:
        symbols = generator.integers(0, 2, (count, length))
        return _tensors(symbols, (symbols.sum(1) > length / 2).astype(np.int64))

    return batch


def _lstm(hidden: int) -> tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]]:
    """The last state of an LSTM gives one number."""

    def initial(generator: np.random.Generator) -> Arrays:
        bias = np.zeros(4 * hidden)
        bias[hidden : 2 * hidden] = 1.0  # of the forget gate
        return {
            "inputs": _normal(generator, 2, 4 * hidden),
            "recurrent": _normal(generator, hidden, 4 * hidden),
            "b": bias,
            "w0": _normal(generator, hidden, 1),
            "b0": np.zeros(1),
        }

    def loss(w: Weights, batch: Batch) -> Tensor:
        x, y = batch
        trainings, count, length, _ = x.shape
        h = cell = torch.zeros(trainings, count, hidden)
        for t in range(length):
            into = torch.baddbmm(w["b"].unsqueeze(1), x[:, :, t], w["inputs"])
            h, cell = _lstm_step(into, h, cell, w["recurrent"])
        return (_dense(w, 0, h).squeeze(-1) - y).square().mean(1)

    return initial, loss


def _waves(count: int) -> tuple[Callable[[np.random.Generator], Batch], Callable[[], Batch]]:
    """sin x + sin 4x on [-3, 3], with normal noise; held out without."""

    def batch(generator: np.random.Generator) -> Batch:
        x = generator.uniform(-3, 3, (count, 1))
        return _tensors(x, np.sin(x[:, 0]) + np.sin(4 * x[:, 0]) + 0.1 * generator.normal(0, 1, count))

    @functools.cache
    def held_out() -> Batch:
        x = np.linspace(-3, 3, 256)[:, None]
        return _tensors(x, np.sin(x[:, 0]) + np.sin(4 * x[:, 0]) + 0.1 * np.random.default_rng(1).normal(0, 1, 256))

    return batch, held_out


def _fitting(
    sizes: tuple[int, ...],
) -> tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]]:
    """A tanh network to one number."""
    initial, _ = _mlp(sizes, 1.5, torch.tanh)

    def loss(w: Weights, batch: Batch) -> Tensor:
        x, y = batch
        for i in range(len(sizes) - 2):
            x = _dense(w, i, x).tanh()
        return (_dense(w, len(sizes) - 2, x).squeeze(-1) - y).square().mean(1)

    return initial, loss


def _autoencoder(
    hidden: int, count: int, corrupt: float
) -> tuple[
    tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]],
    tuple[Callable[[np.random.Generator], Batch], Callable[[], Batch]],
]:
    """Digits through a narrow layer and back; some batches are 20 times too bright."""
    initial, _ = _mlp((64, 48, hidden, 48, 64), 1.0, torch.tanh)

    def batch(generator: np.random.Generator) -> Batch:
        x = _digits()[0][generator.integers(0, 1300, count)]
        return _tensors(x * 20 if generator.random() < corrupt else x)

    @functools.cache
    def held_out() -> Batch:
        return _tensors(_digits()[0][1300:])

    def loss(w: Weights, batch: Batch) -> Tensor:
        (x,) = batch
        h = x
        for i in range(3):
            h = _dense(w, i, h).tanh()
        return (_dense(w, 3, h) - x).square().mean((1, 2))

    return (initial, loss), (batch, held_out)


def _count(name: str, rates: tuple[float, ...], length: int, radius: float) -> Task:
    batch = _majority(length, 16)
    return Made(name, "SGD", rates, 2500, _rnn_weights(6, 24, 2, radius), batch, _fixed(batch, 16), _rnn_last_class)


def _brightness(name: str, optimizer: str, rates: tuple[float, ...]) -> Task:
    network, data = _autoencoder(8, 16, 0.02)
    return _task(name, optimizer, rates, 2500, network, data)


def _recalled(name: str, optimizer: str, rates: tuple[float, ...]) -> Task:
    batch = _two_marked(25, 16, False)
    return _task(name, optimizer, rates, 2000, _lstm(16), (batch, _fixed(batch, 16)))


def _normed(x: Tensor) -> Tensor:
    """Layer normalisation without weights of its own."""
    return functional.layer_norm(x, x.shape[-1:])


def _residual(
    width: int, blocks: int
) -> tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]]:
    """Digits by residual blocks, each with layer normalisation before it."""

    def initial(generator: np.random.Generator) -> Arrays:
        found: Arrays = {"w0": _normal(generator, 64, width), "b0": np.zeros(width)}
        for i in range(1, 2 * blocks + 1):
            found[f"w{i}"] = _normal(generator, width, width, gain=1.4 if i % 2 else 1.0)
            found[f"b{i}"] = np.zeros(width)
        found[f"w{2 * blocks + 1}"] = _normal(generator, width, 10)
        found[f"b{2 * blocks + 1}"] = np.zeros(10)
        return found

    def loss(w: Weights, batch: Batch) -> Tensor:
        x, labels = batch
        h = _dense(w, 0, x)
        for i in range(1, 2 * blocks + 1, 2):
            h = h + _dense(w, i + 1, _dense(w, i, _normed(h)).relu())
        return _cross_entropy(_dense(w, 2 * blocks + 1, _normed(h)), labels)

    return initial, loss


def _variance(
    hidden: int, count: int
) -> tuple[
    tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]],
    tuple[Callable[[np.random.Generator], Batch], Callable[[], Batch]],
]:
    """Mean and variance of a normal distribution by its likelihood, less that of the truth.

    Held out it is the divergence from the truth, for which ``extra`` is the true variance.
    """
    initial, _ = _mlp((1, hidden, hidden, 2), 1.5, torch.tanh)

    def truth(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.sin(2 * x), 0.02 + 0.4 * np.abs(x) / 3

    def batch(generator: np.random.Generator) -> Batch:
        x = generator.uniform(-3, 3, count)
        mean, deviation = truth(x)
        return _tensors(x[:, None], mean + deviation * generator.normal(0, 1, count), deviation, 0 * x)

    @functools.cache
    def held_out() -> Batch:
        x = np.linspace(-3, 3, 256)
        mean, deviation = truth(x)
        return _tensors(x[:, None], mean, deviation, deviation**2)

    def loss(w: Weights, batch: Batch) -> Tensor:
        x, y, deviation, extra = batch
        h = x
        for i in range(2):
            h = _dense(w, i, h).tanh()
        mean, log = _dense(w, 2, h).unbind(-1)
        return (log - deviation.log() + ((y - mean).square() + extra) / (2 * (2 * log).exp()) - 0.5).mean(1)

    return (initial, loss), (batch, held_out)


def _counts(
    features: int, hidden: int, count: int
) -> tuple[
    tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]],
    tuple[Callable[[np.random.Generator], Batch], Callable[[], Batch]],
]:
    """Poisson deviance of counts whose logarithm a network gives."""
    truth = np.random.default_rng(7).normal(0, 1.2 / math.sqrt(features), features)
    initial, _ = _mlp((features, hidden, 1), 1.0, torch.tanh)

    def draw(generator: np.random.Generator, size: int) -> Batch:
        x = generator.normal(0, 1, (size, features))
        return _tensors(x, generator.poisson(np.exp(1.0 + x @ truth)).astype(float))

    def loss(w: Weights, batch: Batch) -> Tensor:
        x, y = batch
        log = _dense(w, 1, _dense(w, 0, x).relu()).squeeze(-1)
        return 2 * (log.exp() - y - y * log + torch.xlogy(y, y)).mean(1)

    return (initial, loss), (lambda g: draw(g, count), _fixed(lambda g: draw(g, 512), 1))


def _completion(
    size: int, rank: int, count: int
) -> tuple[
    tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]],
    tuple[Callable[[np.random.Generator], Batch], Callable[[], Batch]],
]:
    """A matrix of low rank from single entries, one in fifty of them wrong by far."""
    truth = np.random.default_rng(8)
    matrix = truth.normal(0, 1, (size, rank)) @ truth.normal(0, 1, (rank, size)) / math.sqrt(rank)

    def initial(generator: np.random.Generator) -> Arrays:
        return {"rows": generator.normal(0, 0.3, (size, rank)), "columns": generator.normal(0, 0.3, (size, rank))}

    def batch(generator: np.random.Generator) -> Batch:
        at = generator.integers(0, size, (2, count))
        wrong = (generator.random(count) < 0.02) * generator.normal(0, 20, count)
        return _tensors(at[0], at[1], matrix[at[0], at[1]] + 0.1 * generator.normal(0, 1, count) + wrong)

    @functools.cache
    def held_out() -> Batch:
        at = np.stack(np.meshgrid(np.arange(size), np.arange(size))).reshape(2, -1)
        return _tensors(at[0], at[1], matrix[at[0], at[1]] + 0.1 * np.random.default_rng(1).normal(0, 1, size * size))

    def loss(w: Weights, batch: Batch) -> Tensor:
        row, column, y = batch
        one, other = (
            part.gather(1, at.unsqueeze(-1).expand(-1, -1, rank))
            for part, at in ((w["rows"], row), (w["columns"], column))
        )
        return ((one * other).sum(-1) - y).square().mean(1)

    return (initial, loss), (batch, held_out)


def _normed_transformer(
    width: int, length: int, layers: int
) -> tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]]:
    """Causal, two heads, with layer normalisation before each part."""
    initial, _ = _transformer(width, length, layers, 1.0)
    mask = torch.full((length, length), -math.inf).triu(1)

    def loss(w: Weights, batch: Batch) -> Tensor:
        x, y = batch
        trainings, count, _ = x.shape
        h = torch.bmm(functional.one_hot(x.flatten(1), 48).float(), w["embedding"])
        h = (h.view(trainings, count, length, width) + w["position"].unsqueeze(1)).flatten(1, 2)
        for i in range(layers):
            parts = torch.bmm(_normed(h), w[f"qkv{i}"]).view(trainings, count, length, 3, 2, width // 2)
            q, k, v = (parts[:, :, :, j].transpose(2, 3) for j in range(3))
            scores = q @ k.transpose(-1, -2) / math.sqrt(width // 2) + mask
            mixed = (scores.softmax(-1) @ v).transpose(2, 3).reshape(trainings, count * length, width)
            h = h + torch.bmm(mixed, w[f"out{i}"])
            h = h + torch.bmm(torch.relu(torch.bmm(_normed(h), w[f"up{i}"])), w[f"down{i}"])
        return _cross_entropy(_dense(w, 0, _normed(h)), y.flatten(1))

    return initial, loss


def _copied(symbols: int, wait: int, count: int) -> Callable[[np.random.Generator], Batch]:
    """The copying problem (Hochreiter, Schmidhuber 1997): some symbols, a wait, then they are to be said again."""

    def batch(generator: np.random.Generator) -> Batch:
        said = generator.integers(1, 9, (count, symbols))
        x = np.zeros((count, 2 * symbols + wait), np.int64)
        y = np.zeros_like(x)
        x[:, :symbols], x[:, symbols + wait - 1], y[:, -symbols:] = said, 9, said
        return _tensors(x, y)

    return batch


def _forecast(length: int, count: int) -> Callable[[np.random.Generator], Batch]:
    """The next value of a logistic map at 3.8 that is seen with noise."""

    def batch(generator: np.random.Generator) -> Batch:
        x = generator.uniform(0.1, 0.9, count)
        series = []
        for _ in range(length + 21):
            x = 3.8 * x * (1 - x)
            series.append(x)
        values = np.stack(series[20:], 1)
        seen = values[:, :-1] + 0.02 * generator.normal(0, 1, (count, length))
        return _tensors(4 * seen[:, :, None] - 2, 4 * values[:, 1:] - 2)

    return batch


def _rnn_each_squared(w: Weights, batch: Batch) -> Tensor:
    x, y = batch
    states = torch.stack(_rnn_states(w, x), 2)
    return (_dense(w, 0, states.flatten(1, 2)).squeeze(-1) - y.flatten(1)).square().mean(1)


def _sources(
    words: int, width: int, count: int
) -> tuple[
    tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]],
    tuple[Callable[[np.random.Generator], Batch], Callable[[], Batch]],
]:
    """Which of eight stretches of text a passage of any length is from, by the sum of vectors of its words."""

    @functools.cache
    def hashed() -> NDArray[np.int64]:
        text = _text()
        return (text[:-2] * 2311 + text[1:-1] * 47 + text[2:]) % words

    def draw(generator: np.random.Generator, size: int) -> Batch:
        stretch = len(hashed()) // 8
        labels = generator.integers(0, 8, size)
        lengths = np.minimum(10 + (20 * generator.pareto(1.5, size)).astype(int), stretch // 5 - 1)
        bags = np.zeros((size, words))
        for i, (label, length) in enumerate(zip(labels, lengths, strict=True)):
            start = label * stretch + generator.integers(0, stretch - length)
            np.add.at(bags[i], hashed()[start : start + length], 1.0)
        return _tensors(bags, labels)

    def initial(generator: np.random.Generator) -> Arrays:
        return {
            "words": generator.normal(0, 0.1, (words, width)),
            "b": np.zeros(width),
            "w0": _normal(generator, width, 8),
            "b0": np.zeros(8),
        }

    def loss(w: Weights, batch: Batch) -> Tensor:
        bags, labels = batch
        return _cross_entropy(_dense(w, 0, torch.baddbmm(w["b"].unsqueeze(1), bags, w["words"]).tanh()), labels)

    return (initial, loss), (lambda g: draw(g, count), _fixed(lambda g: draw(g, 384), 1))


def _correlated(features: int, count: int) -> tuple[Callable[[np.random.Generator], Batch], Callable[[], Batch]]:
    """Linear regression on features whose scales are a factor of 30 apart."""
    truth = np.random.default_rng(9)
    scales, weights = np.geomspace(0.1, 3, features), truth.normal(0, 1, features)
    turn = np.linalg.qr(truth.normal(0, 1, (features, features)))[0]

    def draw(generator: np.random.Generator, size: int, noise: float) -> Batch:
        x = generator.normal(0, 1, (size, features)) * scales @ turn
        return _tensors(x, x @ weights + noise * generator.normal(0, 1, size))

    return lambda g: draw(g, count, 0.5), _fixed(lambda g: draw(g, 512, 0.1), 1)


def _absolute(w: Weights, batch: Batch) -> Tensor:
    x, y = batch
    return (_dense(w, 0, x).squeeze(-1) - y).abs().mean(1)


def _recall(
    width: int, pairs: int
) -> tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]]:
    """One layer of attention finds the value of a key among some pairs."""

    def initial(generator: np.random.Generator) -> Arrays:
        return {
            "keys": generator.normal(0, 1, (16, width)),
            "values": generator.normal(0, 1, (16, width)),
            "q": _normal(generator, width, width),
            "k": _normal(generator, width, width),
            "v": _normal(generator, width, width),
            "w0": _normal(generator, width, 16),
            "b0": np.zeros(16),
        }

    def loss(w: Weights, batch: Batch) -> Tensor:
        keys, values, asked, answer = batch
        trainings, count, _ = keys.shape

        def embedded(name: str, symbols: Tensor) -> Tensor:
            return torch.bmm(functional.one_hot(symbols.flatten(1), 16).float(), w[name])

        seen = embedded("keys", keys) + embedded("values", values)
        k, v = (torch.bmm(seen, w[name]).view(trainings, count, pairs, width) for name in "kv")
        q = torch.bmm(embedded("keys", asked), w["q"]).view(trainings, count, 1, width)
        mixed = ((q @ k.transpose(-1, -2) / math.sqrt(width)).softmax(-1) @ v).squeeze(2)
        return _cross_entropy(_dense(w, 0, mixed), answer)

    return initial, loss


def _pairs(pairs: int, count: int) -> Callable[[np.random.Generator], Batch]:
    def batch(generator: np.random.Generator) -> Batch:
        keys = np.argsort(generator.random((count, 16)))[:, :pairs]
        values, asked = generator.integers(0, 16, (count, pairs)), generator.integers(0, pairs, count)
        rows = np.arange(count)
        return _tensors(keys, values, keys[rows, asked], values[rows, asked])

    return batch


def _doubted(
    batch: Callable[[np.random.Generator], Batch], share: float, classes: int
) -> Callable[[np.random.Generator], Batch]:
    """Draw a share of the labels anew, also of the held-out ones, so that no loss gets near 0."""

    def doubted(generator: np.random.Generator) -> Batch:
        *inputs, labels = batch(generator)
        wrong = torch.from_numpy(generator.random(len(labels)) < share)
        return (*inputs, torch.where(wrong, torch.from_numpy(generator.integers(0, classes, len(labels))), labels))

    return doubted


def _skipping(channels: int) -> tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]]:
    """Four convolutions with connections past them, without normalisation."""

    def initial(generator: np.random.Generator) -> Arrays:
        found: Arrays = {"c0": generator.normal(0, math.sqrt(2 / 9), (channels, 1, 3, 3))}
        for i in range(1, 5):
            found[f"c{i}"] = generator.normal(0, math.sqrt(2 / (9 * channels)), (channels, channels, 3, 3))
        return found | {"w0": _normal(generator, channels * 4, 10), "b0": np.zeros(10)}

    def loss(w: Weights, batch: Batch) -> Tensor:
        x, labels = batch
        trainings, count, _ = x.shape
        h = x.transpose(0, 1).reshape(count, trainings, 8, 8)
        h = functional.max_pool2d(functional.conv2d(h, w["c0"].flatten(0, 1), padding=1, groups=trainings), 2)
        for i in range(1, 5):
            h = h + functional.conv2d(h.relu(), w[f"c{i}"].flatten(0, 1), padding=1, groups=trainings)
        flat = functional.max_pool2d(h, 2).reshape(count, trainings, -1).transpose(0, 1)
        return _cross_entropy(_dense(w, 0, flat), labels)

    return initial, loss


def _views(count: int) -> tuple[Callable[[np.random.Generator], Batch], Callable[[], Batch]]:
    """Two noisy views of each digit."""

    def draw(generator: np.random.Generator, low: int, high: int, size: int) -> Batch:
        x = _digits()[0][low + generator.permutation(high - low)[:size]]
        return _tensors(*(x + 0.5 * generator.normal(0, 1, x.shape) for _ in range(2)))

    return lambda g: draw(g, 0, 1300, count), functools.cache(
        lambda: draw(np.random.default_rng(HELD_OUT), 1300, 1797, 64)
    )


def _contrast(
    width: int, temperature: float
) -> tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]]:
    """Which two views are of one digit, by the cosine of what a network makes of them (InfoNCE)."""
    initial, _ = _mlp((64, 32, width), 1.0, torch.relu)

    def loss(w: Weights, batch: Batch) -> Tensor:
        one, other = (functional.normalize(_dense(w, 1, _dense(w, 0, x).relu()), dim=-1) for x in batch)
        scores = one @ other.transpose(1, 2) / temperature
        return _cross_entropy(scores, torch.arange(scores.shape[1]).expand(scores.shape[:2]))

    return initial, loss


def _deep_linear(
    width: int, layers: int
) -> tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]]:
    """A product of matrices to one vector."""

    def initial(generator: np.random.Generator) -> Arrays:
        return {f"w{i}": _normal(generator, width, width) for i in range(layers)}

    def loss(w: Weights, batch: Batch) -> Tensor:
        x, y = batch
        for i in range(layers):
            x = torch.bmm(x, w[f"w{i}"])
        return (x - y).square().mean((1, 2))

    return initial, loss


def _turned(width: int, count: int) -> Callable[[np.random.Generator], Batch]:
    """Vectors and what one matrix makes of them, with normal noise."""
    truth = np.random.default_rng(10).normal(0, 1, (width, width)) / math.sqrt(width)

    def batch(generator: np.random.Generator) -> Batch:
        x = generator.normal(0, 1, (count, width))
        return _tensors(x, x @ truth + 0.1 * generator.normal(0, 1, (count, width)))

    return batch


def _neighbours(count: int) -> tuple[Callable[[np.random.Generator], Batch], Callable[[], Batch]]:
    """Symbols of text, one that stands within three of each, and five drawn from anywhere."""

    def draw(generator: np.random.Generator, size: int) -> Batch:
        text = _text()
        at = generator.integers(3, len(text) - 3, size)
        near = at + generator.choice([-3, -2, -1, 1, 2, 3], size)
        return _tensors(text[at], text[near], text[generator.integers(0, len(text), (size, 5))])

    return lambda g: draw(g, count), _fixed(lambda g: draw(g, 512), 1)


def _negatives(width: int) -> tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]]:
    """Vectors of symbols by negative sampling (Mikolov et al. 2013)."""

    def initial(generator: np.random.Generator) -> Arrays:
        return {"here": generator.normal(0, 0.3, (48, width)), "there": generator.normal(0, 0.3, (48, width))}

    def loss(w: Weights, batch: Batch) -> Tensor:
        at, near, other = batch

        def of(name: str, symbols: Tensor) -> Tensor:
            vectors = torch.bmm(functional.one_hot(symbols.flatten(1), 48).float(), w[name])
            return vectors.view(*symbols.shape, -1)

        here = of("here", at)
        close = functional.logsigmoid((here * of("there", near)).sum(-1))
        apart = functional.logsigmoid(-(here.unsqueeze(2) * of("there", other)).sum(-1)).sum(-1)
        return -(close + apart).mean(1)

    return initial, loss


def _spirals(count: int) -> tuple[Callable[[np.random.Generator], Batch], Callable[[], Batch]]:
    """Three spirals that are wound into one another, with normal noise."""

    def draw(generator: np.random.Generator, size: int) -> Batch:
        labels, radius = generator.integers(0, 3, size), generator.random(size)
        angle = 7 * radius + 2 * math.pi / 3 * labels
        points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
        return _tensors(3 * (points + 0.03 * generator.normal(0, 1, (size, 2))), labels)

    return lambda g: draw(g, count), _fixed(lambda g: draw(g, 512), 1)


def _delayed(length: int, count: int) -> Callable[[np.random.Generator], Batch]:
    """A series of numbers, and the same three steps later."""

    def batch(generator: np.random.Generator) -> Batch:
        x = generator.uniform(-1, 1, (count, length))
        return _tensors(x[:, :, None], np.concatenate([np.zeros((count, 3)), x[:, :-3]], 1))

    return batch


def _taught(
    features: int, hidden: int, count: int, freedom: float
) -> tuple[
    tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]],
    tuple[Callable[[np.random.Generator], Batch], Callable[[], Batch]],
]:
    """What another network says, with noise of Student's t distribution; held out with little normal noise."""
    teacher = np.random.default_rng(11)
    first, last = teacher.normal(0, 1, (features, 6)) / math.sqrt(features), teacher.normal(0, 1, 6)
    initial, _ = _mlp((features, hidden, hidden, 1), 1.4, torch.relu)

    def draw(generator: np.random.Generator, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        x = generator.normal(0, 1, (size, features))
        return x, np.tanh(2 * x @ first) @ last

    def batch(generator: np.random.Generator) -> Batch:
        x, y = draw(generator, count)
        return _tensors(x, y + 0.5 * generator.standard_t(freedom, count))

    @functools.cache
    def held_out() -> Batch:
        x, y = draw(np.random.default_rng(HELD_OUT), 512)
        return _tensors(x, y + 0.1 * np.random.default_rng(1).normal(0, 1, 512))

    def loss(w: Weights, batch: Batch) -> Tensor:
        x, y = batch
        h = _dense(w, 1, _dense(w, 0, x).relu()).relu()
        return (_dense(w, 2, h).squeeze(-1) - y).square().mean(1)

    return (initial, loss), (batch, held_out)


def _rows(width: int) -> tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]]:
    """Digits as eight rows that attend to one another, twice."""

    def initial(generator: np.random.Generator) -> Arrays:
        found: Arrays = {"rows": _normal(generator, 8, width), "position": generator.normal(0, 0.3, (8, width))}
        for i in range(2):
            found[f"qkv{i}"] = _normal(generator, width, 3 * width)
            found[f"up{i}"] = _normal(generator, width, 2 * width, gain=1.4)
            found[f"down{i}"] = _normal(generator, 2 * width, width)
        return found | {"w0": _normal(generator, width, 10), "b0": np.zeros(10)}

    def loss(w: Weights, batch: Batch) -> Tensor:
        x, labels = batch
        trainings, count, _ = x.shape
        h = torch.bmm(x.reshape(trainings, count * 8, 8), w["rows"]).view(trainings, count, 8, width)
        h = h + w["position"].unsqueeze(1)
        for i in range(2):
            q, k, v = torch.bmm(h.flatten(1, 2), w[f"qkv{i}"]).view(trainings, count, 8, 3 * width).chunk(3, -1)
            h = h + (q @ k.transpose(-1, -2) / math.sqrt(width)).softmax(-1) @ v
            inner = torch.bmm(h.flatten(1, 2), w[f"up{i}"]).relu()
            h = h + torch.bmm(inner, w[f"down{i}"]).view_as(h)
        return _cross_entropy(_dense(w, 0, h.mean(2)), labels)

    return initial, loss


def _random_features(features: int, count: int) -> tuple[Callable[[np.random.Generator], Batch], Callable[[], Batch]]:
    """Digits of 5 and above against the others, by the cosines of random projections."""
    turn = np.random.default_rng(12)
    directions, phase = turn.normal(0, 0.15, (64, features)), turn.uniform(0, 2 * math.pi, features)

    def made(x: NDArray[np.float64], labels: NDArray[np.int64]) -> Batch:
        return _tensors(np.cos(x @ directions + phase), (labels >= 5).astype(np.int64))

    def batch(generator: np.random.Generator) -> Batch:
        chosen = generator.integers(0, 1300, count)
        return made(_digits()[0][chosen], _digits()[1][chosen])

    return batch, functools.cache(lambda: made(_digits()[0][1300:], _digits()[1][1300:]))


def _window(
    context: int, width: int, hidden: int
) -> tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]]:
    """The next symbol from the last few (Bengio et al. 2003)."""

    def initial(generator: np.random.Generator) -> Arrays:
        return {
            "embedding": generator.normal(0, 1, (48, width)),
            "w0": _normal(generator, context * width, hidden),
            "b0": np.zeros(hidden),
            "w1": _normal(generator, hidden, 48),
            "b1": np.zeros(48),
        }

    def loss(w: Weights, batch: Batch) -> Tensor:
        x, y = batch
        windows = x.unfold(2, context, 1).flatten(1, 2)
        vectors = torch.bmm(functional.one_hot(windows.flatten(1), 48).float(), w["embedding"])
        h = _dense(w, 0, vectors.view(*windows.shape[:2], context * width)).tanh()
        return _cross_entropy(_dense(w, 1, h), y[:, :, context - 1 :].flatten(1))

    return initial, loss


def _quantiles(
    hidden: int, count: int
) -> tuple[
    tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]],
    tuple[Callable[[np.random.Generator], Batch], Callable[[], Batch]],
]:
    """The 10th, 50th and 90th percentile of a wave whose noise grows, by the pinball loss (Koenker, Bassett 1978)."""
    initial, _ = _mlp((1, hidden, hidden, 3), 1.5, torch.tanh)
    shares = torch.tensor([0.1, 0.5, 0.9])

    def draw(generator: np.random.Generator, size: int) -> Batch:
        x = generator.uniform(-3, 3, size)
        return _tensors(x[:, None], np.sin(2 * x) * x + (0.1 + 0.3 * np.abs(x)) * generator.normal(0, 1, size))

    def loss(w: Weights, batch: Batch) -> Tensor:
        x, y = batch
        h = _dense(w, 1, _dense(w, 0, x).tanh()).tanh()
        error = y.unsqueeze(-1) - _dense(w, 2, h)
        return torch.maximum(shares * error, (shares - 1) * error).mean((1, 2))

    return (initial, loss), (lambda g: draw(g, count), _fixed(lambda g: draw(g, 1024), 1))


def _lognormal(features: int, count: int) -> tuple[Callable[[np.random.Generator], Batch], Callable[[], Batch]]:
    """Two classes by features whose scales have a lognormal spread; a tenth of the labels is drawn anew."""
    turn = np.random.default_rng(13)
    scales, truth = np.exp(1.5 * turn.normal(0, 1, features)), turn.normal(0, 1, features)

    def draw(generator: np.random.Generator, size: int) -> Batch:
        x = generator.normal(0, 1, (size, features))
        labels, wrong = (x @ truth > 0).astype(np.int64), generator.random(size) < 0.1
        return _tensors(x * scales, np.where(wrong, generator.integers(0, 2, size), labels))

    return lambda g: draw(g, count), _fixed(lambda g: draw(g, 1024), 1)


def _mlp_of_zeros(features: int, classes: int) -> Callable[[np.random.Generator], Arrays]:
    return lambda generator: {"w0": np.zeros((features, classes)), "b0": np.zeros(classes)}


def _running(length: int, count: int) -> Callable[[np.random.Generator], Batch]:
    """A series of numbers, and the largest until then."""

    def batch(generator: np.random.Generator) -> Batch:
        x = generator.uniform(-1, 1, (count, length))
        return _tensors(x[:, :, None], np.maximum.accumulate(x, 1))

    return batch


# -------------------------------------------------------------------------------------------- tasks


def _task(
    name: str,
    optimizer: str,
    rates: tuple[float, ...],
    steps: int,
    network: tuple[Callable[[np.random.Generator], Arrays], Callable[[Weights, Batch], Tensor]],
    data: tuple[Callable[[np.random.Generator], Batch], Callable[[], Batch]],
) -> Made:
    return Made(name, optimizer, rates, steps, network[0], data[0], data[1], network[1])


def _by_halves(task: Made) -> Made:
    """Of data that are few: every other row of those held out is the validation."""
    whole = task.held_out
    return replace(
        task,
        held_out=functools.cache(lambda: tuple(part[1::2] for part in whole())),
        apart=functools.cache(lambda: tuple(part[::2] for part in whole())),
    )


def _followed(
    name: str, optimizer: str, rates: tuple[float, ...], steps: int, batch: Callable[[np.random.Generator], Batch]
) -> Task:
    """An RNN that says a number at each step."""
    network = _rnn_weights(1, 24, 1, 1.1), _rnn_each_squared
    return _task(name, optimizer, rates, steps, network, (batch, _fixed(batch, 16)))


def _noisy(name: str, rates: tuple[float, ...], freedom: float, noise: float) -> Task:
    initial, batch, held_out = _linear_noise(20, 16, freedom, noise)
    return Made(name, "SGD", rates, 2500, initial, batch, held_out, _squared)


def _heavy(name: str, optimizer: str, rates: tuple[float, ...]) -> Task:
    initial, batch, held_out, loss = _pareto_features(12, 32, 16)
    return Made(name, optimizer, rates, 2500, initial, batch, held_out, loss)


def _sequence(name: str, rates: tuple[float, ...], kind: str, length: int, radius: float, hidden: int = 24) -> Task:
    if kind == "order":
        batch = _temporal_order(length, 16)
        weights, loss = _rnn_weights(6, hidden, 4, radius), _rnn_last_class
    else:
        batch = _two_marked(length, 16, kind == "product")
        weights, loss = _rnn_weights(2, hidden, 1, radius), _rnn_last_squared
    return Made(name, "SGD", rates, 2500, weights, batch, _fixed(batch, 16), loss)


TUNE: tuple[Task, ...] = (
    _task(
        "rnn-text-sgd", "SGD", (0.1, 0.5, 2.0), 2500, (_rnn_weights(48, 32, 48, 1.2), _rnn_text_loss), _passages(24, 8)
    ),
    _sequence("adding-sgd", (0.01, 0.03, 0.1), "sum", 30, 1.2),
    _task("transformer-adam", "Adam", (1e-3, 3e-3, 1e-2), 2000, _transformer(24, 16, 3, 1.4), _passages(16, 6)),
    _task(
        "mlp-digits-momentum",
        "Momentum",
        (0.01, 0.05, 0.2),
        2500,
        _mlp((64, 32, 32, 10), 1.0, torch.tanh),
        _digit_batches(16),
    ),
    _task("cnn-digits-sgd", "SGD", (0.02, 0.1, 0.4), 2000, _cnn(6), _digit_batches(16)),
    _task(
        "mlp-corrupted-sgd",
        "SGD",
        (0.02, 0.1, 0.3),
        2500,
        _mlp((64, 32, 10), 1.4, torch.relu),
        _digit_batches(16, 0.02),
    ),
    _noisy("regression-t15-sgd", (0.003, 0.01, 0.05), 1.5, 1.0),
    _task("gru-text-adam", "Adam", (1e-3, 5e-3, 2e-2), 2000, _gru(24), _passages(16, 6)),
)
FIRST: tuple[Task, ...] = (
    _sequence("order-sgd", (0.03, 0.1, 0.3), "order", 20, 1.1),
    _sequence("product-sgd", (0.02, 0.06, 0.2), "product", 40, 1.3),
    _task("gru-text-sgd", "SGD", (0.3, 1.0, 4.0), 2000, _gru(24), _passages(24, 6)),
    _task(
        "transformer-momentum", "Momentum", (0.0003, 0.001, 0.003), 2000, _transformer(24, 16, 2, 1.4), _passages(16, 6)
    ),
    _task(
        "deep-mlp-sgd",
        "SGD",
        (0.02, 0.1, 0.3),
        2500,
        _mlp((64, 24, 24, 24, 24, 24, 10), 1.5, torch.relu),
        _digit_batches(16),
    ),
    _task("cnn-digits-adam", "Adam", (1e-3, 3e-3, 1e-2), 2000, _cnn(6), _digit_batches(16)),
    _task(
        "mlp-mislabelled-adam",
        "Adam",
        (1e-3, 5e-3, 2e-2),
        2500,
        _mlp((64, 32, 10), 1.4, torch.relu),
        _digit_batches(16, 0.05, 10.0, 0.9),
    ),
    _task("cnn-corrupted-momentum", "Momentum", (0.01, 0.03, 0.1), 2000, _cnn(6), _digit_batches(16, 0.02, 10.0)),
    _noisy("regression-t12-sgd", (0.003, 0.01, 0.05), 1.2, 0.5),
    _heavy("pareto-features-sgd", "SGD", (0.0001, 0.0005, 0.002)),
)
SECOND: tuple[Task, ...] = (
    _count("majority-sgd", (0.03, 0.1, 0.4), 25, 1.2),
    _recalled("lstm-adding-momentum", "Momentum", (0.01, 0.03, 0.1)),
    _task("waves-sgd", "SGD", (0.01, 0.05, 0.2), 2500, _fitting((1, 32, 32, 1)), _waves(16)),
    _task("waves-adam", "Adam", (1e-3, 5e-3, 2e-2), 2500, _fitting((1, 32, 32, 1)), _waves(16)),
    _task("transformer-sgd", "SGD", (0.003, 0.01, 0.03), 2000, _transformer(24, 16, 2, 1.4), _passages(16, 6)),
    _brightness("autoencoder-corrupted-momentum", "Momentum", (0.01, 0.05, 0.2)),
    _brightness("autoencoder-corrupted-adam", "Adam", (1e-3, 3e-3, 1e-2)),
    _task(
        "softmax-mislabelled-sgd",
        "SGD",
        (0.01, 0.05, 0.3),
        2500,
        _mlp((64, 10), 1.0, torch.tanh),
        _digit_batches(16, 0.1, 5.0, 0.9),
    ),
)
_copies = _copied(5, 15, 16)
_series = _forecast(20, 16)
THIRD: tuple[Task, ...] = (
    _task("residual-digits-momentum", "Momentum", (0.01, 0.1, 0.5), 2000, _residual(32, 3), _digit_batches(16)),
    _task("lstm-text-sgd", "SGD", (1.0, 8.0, 30.0), 2000, _gated(24, 4, _lstm_step), _passages(24, 6)),
    _task("variance-sgd", "SGD", (0.001, 0.003, 0.01), 2500, *_variance(24, 16)),
    _task("variance-adam", "Adam", (1e-3, 5e-3, 2e-2), 2500, *_variance(24, 16)),
    _task("counts-sgd", "SGD", (0.001, 0.01, 0.05), 2500, *_counts(12, 24, 16)),
    _task("completion-momentum", "Momentum", (0.01, 0.03, 0.1), 2500, *_completion(24, 3, 32)),
    _task(
        "normed-transformer-adam", "Adam", (1e-3, 3e-3, 1e-2), 2000, _normed_transformer(24, 16, 2), _passages(16, 6)
    ),
    _task("copying-gru-adam", "Adam", (1e-3, 5e-3, 2e-2), 2000, _gru(24), (_copies, _fixed(_copies, 4))),
    _followed("forecast-rnn-momentum", "Momentum", (0.003, 0.05, 0.2), 2000, _series),
    _task("sources-sgd", "SGD", (0.03, 0.2, 1.0), 2000, *_sources(512, 16, 16)),
)
_order = _doubted(_temporal_order(15, 16), 0.05, 4)
_asked = _doubted(_pairs(6, 32), 0.05, 16)
_matrix = _turned(12, 16)
FOURTH: tuple[Task, ...] = (
    Made(
        "correlated-sgd",
        "SGD",
        (0.01, 0.06, 0.1),
        2000,
        _mlp((24, 1), 1.0, torch.tanh)[0],
        *_correlated(24, 16),
        _squared,
    ),
    Made(
        "cauchy-absolute-sgd",
        "SGD",
        (0.003, 0.03, 0.3),
        2000,
        _linear_noise(20, 16, 1.0, 1.0)[0],
        *_linear_noise(20, 16, 1.0, 1.0)[1:],
        _absolute,
    ),
    _task("recall-adam", "Adam", (1e-3, 1e-2, 3e-2), 2000, _recall(24, 6), (_asked, _fixed(_asked, 16))),
    _task(
        "skipping-mislabelled-momentum",
        "Momentum",
        (0.003, 0.01, 0.05),
        1500,
        _skipping(6),
        _digit_batches(16, 1.0, 1.0, 0.1),
    ),
    _task("contrast-momentum", "Momentum", (0.01, 0.1, 1.0), 2000, _contrast(16, 0.05), _views(32)),
    _task(
        "order-adam",
        "Adam",
        (1e-3, 1e-2, 3e-2),
        2000,
        (_rnn_weights(6, 24, 4, 1.0), _rnn_last_class),
        (_order, _fixed(_order, 16)),
    ),
    _task("deep-linear-sgd", "SGD", (0.01, 0.1, 0.7), 2000, _deep_linear(12, 6), (_matrix, _fixed(_matrix, 16))),
    _task("neighbours-sgd", "SGD", (0.3, 2.0, 4.0), 2000, _negatives(16), _neighbours(32)),
    _task("autoencoder-adam", "Adam", (1e-3, 5e-3, 2e-2), 2500, *_autoencoder(8, 16, 0.0)),
)
_echo = _delayed(15, 16)
FIFTH: tuple[Task, ...] = (
    _task("taught-t2-adam", "Adam", (1e-3, 5e-3, 2e-2), 2500, *_taught(10, 24, 16, 2.0)),
    _task("rows-adam", "Adam", (1e-3, 5e-3, 2e-2), 2000, _rows(16), _digit_batches(16)),
    _task("bright-cnn-adam", "Adam", (1e-3, 5e-3, 2e-2), 1600, _cnn(6), _digit_batches(16, 0.03, -8.0)),
    _task("spirals-momentum", "Momentum", (0.01, 0.1, 0.3), 2500, _mlp((2, 32, 32, 3), 1.5, torch.tanh), _spirals(16)),
    _followed("echo-rnn-sgd", "SGD", (0.03, 0.3, 0.7), 1600, _echo),
    _task("taught-t2-sgd", "SGD", (0.003, 0.02, 0.1), 2500, *_taught(10, 24, 16, 2.0)),
    _by_halves(
        _task(
            "random-features-sgd",
            "SGD",
            (0.01, 0.1, 1.0),
            2000,
            _mlp((300, 2), 1.0, torch.tanh),
            _random_features(300, 16),
        )
    ),
    _task("window-text-momentum", "Momentum", (0.01, 0.1, 0.4), 2000, _window(4, 8, 32), _passages(16, 4)),
)
# The tasks with Adam are of a sixth report, since when the rule for them has not changed; those with SGD of a seventh.
REPORT: tuple[Task, ...] = (
    _task("quantiles-momentum", "Momentum", (0.01, 0.1, 0.6), 2500, *_quantiles(24, 16)),
    _task(
        "lognormal-sgd",
        "SGD",
        (0.001, 0.01, 0.05),
        2000,
        (_mlp_of_zeros(20, 2), _mlp((20, 2), 1.0, torch.tanh)[1]),
        _lognormal(20, 16),
    ),
    _task("recall-sgd", "SGD", (0.1, 0.7, 1.0), 2000, _recall(24, 6), (_asked, _fixed(_asked, 16))),
    _by_halves(_task("rows-momentum", "Momentum", (0.003, 0.01, 0.03), 2000, _rows(16), _digit_batches(16))),
    _by_halves(
        _task("bright-cnn-momentum", "Momentum", (0.003, 0.01, 0.03), 1600, _cnn(6), _digit_batches(16, 0.03, -8.0))
    ),
    replace(
        _task("normed-transformer-sgd", "SGD", (0.3, 1.0, 3.0), 1600, _normed_transformer(24, 16, 2), _passages(16, 6)),
        apart=_from_the_end(16, VALIDATION),
    ),
    _followed("running-rnn-momentum", "Momentum", (0.01, 0.1, 0.3), 1600, _running(12, 16)),
    _task("counts-adam", "Adam", (1e-3, 5e-3, 2e-2), 2500, *_counts(12, 24, 16)),
    _task("spirals-adam", "Adam", (1e-3, 5e-3, 2e-2), 2500, _mlp((2, 32, 32, 3), 1.5, torch.tanh), _spirals(16)),
    replace(
        _task("window-text-adam", "Adam", (1e-3, 5e-3, 2e-2), 2000, _window(4, 8, 32), _passages(16, 4)),
        apart=_from_the_end(16, VALIDATION),
    ),
    _task("completion-adam", "Adam", (3e-3, 1e-2, 5e-2), 2500, *_completion(24, 3, 32)),
    _by_halves(_task("residual-digits-adam", "Adam", (1e-3, 5e-3, 2e-2), 1600, _residual(32, 3), _digit_batches(16))),
    _followed("echo-rnn-adam", "Adam", (1e-3, 5e-3, 2e-2), 1600, _echo),
)
EVERY: tuple[Task, ...] = (*TUNE, *FIRST, *SECOND, *THIRD, *FOURTH, *FIFTH, *REPORT)
