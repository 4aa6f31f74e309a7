"""The planted faults: each a training step with one known cause, and what a replay has to say of it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from planted_models import (
    MARK,
    MLP,
    Autoencoder,
    ConvNet,
    Encoder,
    LSTMModel,
    Recommender,
    TimeFirst,
    Transformer,
)
from planted_steps import capture_step
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from gradwatch.capture import Capture
from gradwatch.replaying.passes import total_norm

ROWS = 8

Batch = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Arch:
    """A model with its batches and its loss."""

    name: str
    make: Callable[[str], nn.Module]
    batch: Callable[[torch.Generator], Batch]
    loss: Callable[[nn.Module, Batch], Tensor]
    floats: str | None = "x"  # the input whose rows can be damaged
    dimension: int = 0  # of its rows
    weighted: bool = True  # whether a row's loss can be weighted, and its label changed
    marked: str | None = "x"  # the input that has the mark
    step: str | None = "step"  # the module that has the operation


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a right replay says."""

    recurs: tuple[str, ...] = ("bitwise",)
    direction: tuple[str, ...] | None = None  # None: no origin is right
    module: str | None = None
    code: str | None = None  # a part of the line
    rows: tuple[int, ...] | None = None  # None: no row stands out
    micro_batch: int = 0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A planted fault."""

    name: str
    arch: str
    capture: Capture
    model: nn.Module
    control: Any
    expected: Expected
    train: Callable[[], Tensor] = field(repr=False)  # forward and loss again, for anomaly mode
    healthy_norm: float  # of the same step without the fault


# ------------------------------------------------------------------------------------- architectures


def _weights(batch: Batch) -> Tensor:
    return batch.get("weight", torch.ones(ROWS))


def _regression(model: nn.Module, batch: Batch) -> Tensor:
    return ((model(batch["x"]) - batch["y"]).pow(2).mean(1) * _weights(batch)).mean()


def _classes(model: nn.Module, batch: Batch) -> Tensor:
    return (functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none") * _weights(batch)).mean()


def _lengths(model: nn.Module, batch: Batch) -> Tensor:
    return ((model(batch["x"], batch["lengths"]) - batch["y"]).pow(2).mean(1) * _weights(batch)).mean()


def _packed(model: nn.Module, batch: Batch) -> Tensor:
    packed = pack_padded_sequence(batch["x"], batch["lengths"], batch_first=True, enforce_sorted=False)
    return ((model(packed) - batch["y"]).pow(2).mean(1) * _weights(batch)).mean()


def _over_time(model: nn.Module, batch: Batch) -> Tensor:
    return ((model(batch["x"]) - batch["y"]).pow(2).mean((0, 2)) * _weights(batch)).mean()


def _tokens(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(batch["ids"], key_padding_mask=batch["padding"])
    each = functional.cross_entropy(logits.transpose(1, 2), batch["y"], reduction="none").mean(1)
    return (each * _weights(batch)).mean()


def _gpt(model: nn.Module, batch: Batch) -> Tensor:
    return model(input_ids=batch["ids"], labels=batch["ids"], attention_mask=batch["mask"]).loss


def _score(model: nn.Module, batch: Batch) -> Tensor:
    out = model({name: batch[name] for name in ("user", "item", "numbers")})
    each = (out["score"] - batch["y"]).pow(2) + 0.01 * out["users"].pow(2).sum(1)
    return (each * _weights(batch)).mean()


def _own_loss(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch["x"])["loss"]


def _pairs(model: nn.Module, batch: Batch) -> Tensor:
    distance = (model(batch["x"]) - model(batch["other"])).pow(2).sum(1)
    each = torch.where(batch["same"], distance, functional.relu(2.0 - distance))
    return (each * _weights(batch)).mean()


def _randn(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g)


def _gpt_model(kind: str) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=60, n_positions=16)
    return GPT2LMHeadModel(config)


def _lightning(kind: str) -> nn.Module:
    from lightning.pytorch import LightningModule

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = MLP(kind)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    return Module()


ARCHITECTURES = {
    arch.name: arch
    for arch in (
        Arch(
            name="mlp",
            make=MLP,
            batch=lambda g: {"x": _randn(g, ROWS, 12), "y": _randn(g, ROWS, 4)},
            loss=_regression,
        ),
        Arch(
            name="cnn-batchnorm",
            make=ConvNet,
            batch=lambda g: {"x": _randn(g, ROWS, 3, 6, 6), "y": torch.randint(4, (ROWS,), generator=g)},
            loss=_classes,
        ),
        Arch(
            name="cnn-groupnorm",
            make=lambda kind: ConvNet(kind, norm=False),
            batch=lambda g: {"x": _randn(g, ROWS, 3, 6, 6), "y": torch.randint(4, (ROWS,), generator=g)},
            loss=_classes,
        ),
        Arch(
            name="lstm",
            make=LSTMModel,
            batch=lambda g: {
                "x": _randn(g, ROWS, 7, 6),
                "lengths": torch.randint(2, 8, (ROWS,), generator=g),
                "y": _randn(g, ROWS, 3),
            },
            loss=_lengths,
        ),
        Arch(
            name="lstm-packed",
            make=LSTMModel,
            batch=lambda g: {
                "x": _randn(g, ROWS, 7, 6),
                "lengths": torch.randint(2, 8, (ROWS,), generator=g),
                "y": _randn(g, ROWS, 3),
            },
            loss=_packed,
        ),
        Arch(
            name="gru-time-first",
            make=TimeFirst,
            batch=lambda g: {"x": _randn(g, 6, ROWS, 5), "y": _randn(g, 6, ROWS, 3)},
            loss=_over_time,
            dimension=1,
        ),
        Arch(
            name="transformer",
            make=lambda kind: Transformer(),
            batch=lambda g: {
                "ids": torch.randint(1, 40, (ROWS, 10), generator=g),
                "padding": torch.arange(10)[None] >= torch.randint(5, 11, (ROWS, 1), generator=g),
                "y": torch.randint(40, (ROWS, 10), generator=g),
            },
            loss=_tokens,
            floats=None,
            marked=None,
        ),
        Arch(
            name="gpt2",
            make=_gpt_model,
            batch=lambda g: {
                "ids": torch.randint(1, 50, (ROWS, 12), generator=g),
                "mask": torch.ones(ROWS, 12, dtype=torch.int64),
            },
            loss=_gpt,
            floats=None,
            marked=None,
            weighted=False,
        ),
        Arch(
            name="lightning",
            make=_lightning,
            batch=lambda g: {"x": _randn(g, ROWS, 12), "y": _randn(g, ROWS, 4)},
            loss=_regression,
            step="net.step",
        ),
        Arch(
            name="siamese",
            make=Encoder,
            batch=lambda g: {
                "x": _randn(g, ROWS, 12),
                "other": _randn(g, ROWS, 12),
                "same": torch.rand(ROWS, generator=g) > 0.5,
            },
            loss=_pairs,
            weighted=False,
        ),
        Arch(
            name="recommender",
            make=Recommender,
            batch=lambda g: {
                "user": torch.randint(30, (ROWS,), generator=g),
                "item": torch.randint(50, (ROWS, 4), generator=g),
                "numbers": _randn(g, ROWS, 6),
                "y": _randn(g, ROWS),
            },
            loss=_score,
            floats="numbers",
            marked="numbers",
        ),
        Arch(
            name="autoencoder",
            make=Autoencoder,
            batch=lambda g: {"x": _randn(g, ROWS, 12)},
            loss=_own_loss,
            weighted=False,
        ),
    )
}


# ------------------------------------------------------------------------------------------- faults

OPERATIONS = {  # kind of step: directions, a part of the line
    "sqrt": (("backward",), ".sqrt()"),
    "hidden_sqrt": (("backward",), "torch.sqrt(size)"),
    "log": (("forward",), "torch.log("),
    "divide": (("forward",), "x / size"),
    "hidden_divide": (("forward", "backward"), "1.0 / x.abs()"),
    "power": (("backward",), "torch.pow("),
    "arccos": (("backward",), "torch.acos("),
    "exp": (("forward",), "torch.exp("),
    "large": (("forward",), "factor"),
    "wrong": (("backward",), "ctx.factor"),
    "std": (("backward",), ".sqrt()"),
}


def row_of(batch: Batch, arch: Arch, row: int) -> Tensor:
    assert arch.floats is not None
    return batch[arch.floats].select(arch.dimension, row)


def _control_of(arch: Arch, batch: Batch) -> Any:
    """What the model is called with, as a control."""
    called: list[Any] = []

    class Called(Exception):
        pass

    def model(*args: Any, **kwargs: Any) -> Any:
        called.append((args, kwargs))
        raise Called

    with contextlib.suppress(Called):
        arch.loss(model, batch)  # type: ignore[arg-type]
    return called[0]


def _made(
    arch: Arch,
    name: str,
    seed: int,
    expected: Expected,
    kind: str = "none",
    damage: Callable[[Batch, nn.Module, Arch], None] | None = None,
    autocast: torch.dtype | None = None,
    tamper: Callable[[nn.Module], None] | None = None,
    loss_scale: float | None = None,
    micro_batches: int = 1,
) -> Fault:
    batches, model, healthy = _begin(arch, seed, kind, micro_batches)
    twins, twin, _ = _begin(arch, seed, kind, micro_batches)
    if damage is not None:
        damage(batches[expected.micro_batch], model, arch)
        if expected.direction != ("weights",):
            twin.load_state_dict(model.state_dict())

    def losses(model: nn.Module, batches: list[Batch]) -> list[Callable[[], Tensor]]:
        def loss(batch: Batch) -> Tensor:
            with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
                return arch.loss(model, batch)

        return [functools.partial(loss, batch) for batch in batches]

    capture = capture_step(model, losses(model, batches), loss_scale=loss_scale, tamper=tamper)
    usual = capture_step(twin, losses(twin, twins), loss_scale=loss_scale)
    return Fault(
        name=f"{arch.name}: {name}",
        arch=arch.name,
        capture=capture,
        model=model,
        control=_control_of(arch, healthy),
        expected=expected,
        train=lambda: sum(one() for one in losses(model, batches)),  # type: ignore[arg-type, return-value]
        healthy_norm=total_norm(usual.gradients.values()),
    )


def _begin(arch: Arch, seed: int, kind: str, micro_batches: int) -> tuple[list[Batch], nn.Module, Batch]:
    """The batches of a step, its model, and a batch of another step."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = arch.make(kind)
    model.train()
    return [arch.batch(generator) for _ in range(micro_batches)], model, arch.batch(generator)


def every_fault() -> Iterator[Callable[[], Fault]]:
    """Makers of all faults, in an order that does not change."""
    seed = 0
    for arch in ARCHITECTURES.values():
        for make in _of(arch):
            seed += 1
            yield functools.partial(make, seed)


def _of(arch: Arch) -> Iterator[Callable[[int], Fault]]:
    yield from _inputs(arch)
    yield from _losses(arch)
    yield from _operations(arch)
    yield from _special(arch)
    yield lambda seed: _made(arch, "healthy", seed, Expected())
    yield lambda seed: _made(arch, "changed from outside", seed, Expected(recurs=("no",)), tamper=_flip)
    yield lambda seed: _made(
        arch, "NaN weight", seed, Expected(direction=("weights",)), damage=lambda b, m, a: _poison(m)
    )


def _flip(model: nn.Module) -> None:
    last = [one for one in model.parameters() if one.grad is not None][-1]
    last.grad.reshape(-1)[0] = 1e6


def _poison(model: nn.Module) -> None:
    with torch.no_grad():
        list(model.parameters())[1].reshape(-1)[0] = torch.nan


def _inputs(arch: Arch) -> Iterator[Callable[[int], Fault]]:
    if arch.floats is None:
        return

    def nan(row: int) -> Callable[[Batch, nn.Module, Arch], None]:
        def damage(batch: Batch, model: nn.Module, arch: Arch) -> None:
            one = row_of(batch, arch, row)
            one[(0,) * (one.dim() - 1) + (one.shape[-1] - 1,)] = torch.nan

        return damage

    def large(row: int) -> Callable[[Batch, nn.Module, Arch], None]:
        def damage(batch: Batch, model: nn.Module, arch: Arch) -> None:
            row_of(batch, arch, row).mul_(1000.0)

        return damage

    if arch.name not in ("autoencoder", "siamese"):  # they clamp what is large
        yield lambda seed: _made(
            arch, "input times 1000", seed, Expected(direction=("input",), rows=(2,)), damage=large(2)
        )
    yield lambda seed: _made(arch, "NaN in the input", seed, Expected(direction=("input",), rows=(5,)), damage=nan(5))


def _losses(arch: Arch) -> Iterator[Callable[[int], Fault]]:
    if not arch.weighted:
        return

    def weight(row: int) -> Callable[[Batch, nn.Module, Arch], None]:
        def damage(batch: Batch, model: nn.Module, arch: Arch) -> None:
            batch["weight"] = torch.ones(ROWS)
            batch["weight"][row] = 1000.0

        return damage

    def label(batch: Batch, model: nn.Module, arch: Arch) -> None:
        batch["y"].select(arch.dimension, 4).fill_(torch.inf)

    yield lambda seed: _made(
        arch, "row weighted 1000 times", seed, Expected(direction=("loss",), rows=(6,)), damage=weight(6)
    )
    if arch.name in ("mlp", "lstm", "recommender", "gru-time-first", "lightning"):
        yield lambda seed: _made(arch, "infinite label", seed, Expected(direction=("loss",), rows=(4,)), damage=label)
    if arch.name in ("mlp", "lstm", "transformer", "cnn-groupnorm"):
        yield lambda seed: _made(
            arch,
            "row weighted 1000 times in the second micro-batch",
            seed,
            Expected(direction=("loss",), rows=(6,), micro_batch=1),
            damage=weight(6),
            micro_batches=3,
        )


def _operations(arch: Arch) -> Iterator[Callable[[int], Fault]]:
    if arch.marked is None:
        return
    chosen = {
        "mlp": list(OPERATIONS),
        "cnn-batchnorm": ["sqrt", "divide", "wrong"],
        "cnn-groupnorm": ["hidden_sqrt", "log", "large"],
        "lstm": ["hidden_sqrt", "divide", "large"],
        "lstm-packed": ["sqrt", "arccos", "wrong"],
        "gru-time-first": ["std", "exp", "large"],
        "lightning": ["hidden_divide", "power", "wrong"],
        "siamese": ["sqrt", "exp", "wrong"],
        "recommender": ["log", "hidden_sqrt", "large"],
        "autoencoder": ["std", "divide", "hidden_divide", "large"],
    }[arch.name]
    for kind in chosen:
        yield functools.partial(_operation, arch, kind)


def _operation(arch: Arch, kind: str, seed: int) -> Fault:
    assert arch.marked is not None
    directions, code = OPERATIONS[kind]
    marked, row = arch.marked, seed % ROWS

    def damage(batch: Batch, model: nn.Module, arch: Arch) -> None:
        one = batch[marked].select(arch.dimension, row)
        if arch.dimension == 1:
            one = one[0]  # at the first time step
        flat = one.reshape(-1) if one.is_contiguous() else one
        (flat if flat.dim() == 1 else flat[0])[0] = MARK

    return _made(
        arch,
        kind,
        seed,
        Expected(direction=directions, module=arch.step, code=code, rows=(row,)),
        kind=kind,
        damage=damage,
    )


def _special(arch: Arch) -> Iterator[Callable[[int], Fault]]:
    if arch.name == "transformer":
        yield lambda seed: _made(
            arch,
            "all keys masked",
            seed,
            Expected(direction=("forward",), module="blocks.0.attention", code="softmax", rows=(3,)),
            damage=lambda batch, model, arch: batch["padding"][3].fill_(True),
        )
    if arch.name in ("transformer", "gpt2", "recommender"):
        yield lambda seed: _rare(arch, seed)
    if arch.name in ("lstm",):
        yield lambda seed: _made(
            arch,
            "length 0",
            seed,
            Expected(direction=("forward", "backward"), module="", code="count[:, None]", rows=(1,)),
            damage=lambda batch, model, arch: batch["lengths"][1].fill_(0),
        )
    if arch.name in ("mlp", "lightning"):
        yield lambda seed: _overflow(arch, seed)
    if arch.name in ("mlp", "cnn-groupnorm"):
        yield lambda seed: _made(
            arch,
            "loss scale too large for float16",
            seed,
            Expected(direction=("backward", "loss"), rows=None),
            autocast=torch.float16,
            loss_scale=2.0**24,
        )
    if arch.name in ("mlp", "transformer", "cnn-batchnorm", "gpt2"):
        yield lambda seed: _made(arch, "healthy under bfloat16", seed, Expected(), autocast=torch.bfloat16)


RARE = {
    "transformer": ("ids", "embed", 45),
    "gpt2": ("ids", "transformer.wte", 55),
    "recommender": ("user", "users", 35),
}


def _rare(arch: Arch, seed: int) -> Fault:
    key, module, token = RARE[arch.name]

    def damage(batch: Batch, model: nn.Module, arch: Arch) -> None:
        batch[key][7].reshape(-1)[...] = batch[key][7]
        if batch[key].dim() == 1:
            batch[key][7] = token
        else:
            batch[key][7, 2] = token
        with torch.no_grad():
            model.get_parameter(f"{module}.weight")[token] *= 3000.0

    return _made(
        arch,
        "token never seen, with a huge embedding",
        seed,
        Expected(direction=("forward",), module=module, rows=(7,)),
        damage=damage,
    )


def _overflow(arch: Arch, seed: int) -> Fault:
    def damage(batch: Batch, model: nn.Module, arch: Arch) -> None:
        batch["x"][3] *= 20.0
        weight = model.get_parameter("net.first.weight" if arch.name == "lightning" else "first.weight")
        with torch.no_grad():
            weight[0] = 5e5 / batch["x"][3].abs().sum() * batch["x"][3].sign() * 0.5

    module = "net.first" if arch.name == "lightning" else "first"
    return _made(
        arch,
        "float16 overflow",
        seed,
        Expected(direction=("forward",), module=module, code="self.first(x)", rows=(3,)),
        damage=damage,
        autocast=torch.float16,
    )
