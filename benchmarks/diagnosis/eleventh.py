"""The eleventh round: planted faults by mechanisms of their own once more, many as public threads describe them.

Written by someone who had read the pages of the findings and the names of the earlier cases. Of the rules they had
seen a few lines that a search for another word printed, and used none of them. Before gradwatch judged any of it,
losses and norms alone were looked at: each planted fault does what its label says, each healthy training learns. A
label lists the codes whose pages describe what was planted, the best one first. At the end stand pairs of runs of which
it is known where they part, gates, runs alike but for one step, seed or row, changes whose effect on the threshold is
known, and trainings of which it is known whether single entries carry the large steps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from lab import (
    Advice,
    Batch,
    ByValue,
    Cases,
    Gate,
    Gpt,
    Lstm,
    Pair,
    Parts,
    Place,
    Weight,
    bce,
    classify,
    digits,
    mlp,
    next_byte,
    plane,
    squared,
    text,
    train,
    trained_by_a_trainer,
    update,
)
from tenth import by, changed, classes, errors, fit, ring, take_turns
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

case = Cases()

Groups = list[dict[str, Any]]


# ------------------------------------------------------------------------- data


def waves(seed: int, size: int = 32, length: int = 40) -> Iterator[Batch]:
    """Sums of two sines with noise, (size, 1, length), and the value that follows."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(length + 1) / 8
    while True:
        phase, pitch = 6.28 * torch.rand(size, 2, generator=generator), 0.5 + torch.rand(size, 2, generator=generator)
        wave = (pitch[:, :, None] * time + phase[:, :, None]).sin().sum(1)
        wave = wave + 0.05 * torch.randn(size, length + 1, generator=generator)
        yield wave[:, None, :-1], wave[:, -1]


def discs(seed: int, size: int = 16, width: int = 16) -> Iterator[Batch]:
    """Noisy pictures of one bright disc each, (size, 1, width, width), and its mask."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(width).float()
    while True:
        centre = 4 + 8 * torch.rand(size, 2, 1, 1, generator=generator)
        radius = 2 + 3 * torch.rand(size, 1, 1, generator=generator)
        mask = ((axis[:, None] - centre[:, 0]).square() + (axis - centre[:, 1]).square() < radius.square()).float()
        yield mask[:, None] + 0.4 * torch.randn(size, 1, width, width, generator=generator), mask[:, None]


def letters(seed: int, size: int = 16, count: int = 5) -> Iterator[Batch]:
    """Spoken words: each of ``count`` letters 1 to 6 lasts three frames of eight numbers; and the letters."""
    generator = torch.Generator().manual_seed(seed)
    sounds = torch.randn(7, 8, generator=generator)
    while True:
        word = torch.randint(1, 7, (size, count), generator=generator)
        frames = sounds[word].repeat_interleave(3, 1)
        yield frames + 0.3 * torch.randn(frames.shape, generator=generator), word


def sums(seed: int, size: int = 64, count: int = 6) -> Iterator[Batch]:
    """Sets of numbers (size, count, 4), and a sum over their members."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randn(size, count, 4, generator=generator)
        yield x, (x[..., 0] * x[..., 1]).sum(1) / 2


# ------------------------------------------------------------------------- networks


class Waves(nn.Module):
    """Convolutions over time, each with a wider reach."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d(1 if i == 0 else width, width, 3, dilation=2**i, padding=2**i) for i in range(3)
        )
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x[..., -1])


class Segmenter(nn.Module):
    """Down, up, and a connection across."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.leave = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.enter(x).relu()
        return self.leave(torch.cat([first, self.up(self.down(first).relu()).relu()], 1))


class Speech(nn.Module):
    """A recurrence over frames in both directions, and a letter or a blank for each."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(8, width, batch_first=True, bidirectional=True), nn.Linear(2 * width, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0]).log_softmax(-1).transpose(0, 1)


def masks(model: nn.Module, batch: Batch) -> Tensor:
    return bce(model(batch[0]), batch[1])


def aligned(model: nn.Module, batch: Batch) -> Tensor:
    x, word = batch
    full = torch.full((len(x),), x.shape[1]), torch.full((len(x),), word.shape[1])
    return functional.ctc_loss(model(x), word, *full)


def members(model: Any, batch: Batch) -> Tensor:
    return (model["whole"](model["each"](batch[0]).sum(1))[:, 0] - batch[1]).square().mean()


def deep_set() -> nn.ModuleDict:
    return nn.ModuleDict({"each": mlp(4, 32, 16, act=nn.SiLU), "whole": mlp(16, 32, 1, act=nn.SiLU)})


class Lora(nn.Module):
    """A frozen layer with adapters, times ``scale``."""

    def __init__(self, base: nn.Linear, rank: int = 4, scale: float = 2.0) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), scale
        self.lora_a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * (x @ self.lora_a.T @ self.lora_b.T)


# ------------------------------------------------------------------------- nothing is trained


@case("nothing is trained", "stale-optimizer", also=("parameters-without-optimizer",), step=120, within=20)
def the_head_is_drawn_anew_for_the_second_task(place: Place, broken: bool) -> None:
    """`model.head = nn.Linear(...)` between two tasks; the optimizer is that of the first."""
    model: Any = Parts(lambda self, x: self.head(self.body(x).relu()), body=nn.Linear(64, 48), head=nn.Linear(48, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def before(step: int) -> None:
        if step == 120:
            if broken:
                model.head = nn.Linear(48, 10)
            else:
                model.head.reset_parameters()

    fit(place, model, optimizer, classes(model, digits(2301)), before=before)


@case("nothing is trained", "stale-optimizer", also=("parameters-without-optimizer", "no-gradient"))
def convolution_and_norm_are_fused_after_the_optimizer(place: Place, broken: bool) -> None:
    """`fuse_conv_bn_eval` returns a new convolution: the optimizer holds the two it was made of."""
    first, norm, last = nn.Conv1d(1, 16, 5, padding=2), nn.BatchNorm1d(16), nn.Linear(16, 1)
    model: Any = nn.Sequential(first, norm, nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), last)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    if broken:
        fused = nn.utils.fusion.fuse_conv_bn_eval(first.eval(), norm.eval())
        model = nn.Sequential(fused, nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), last)
    train(place, model, optimizer, waves(2302), squared)


# The dictionary is trained by nobody, as the optimizer holds the model's own parameters.
@case("nothing is trained", "no-gradient", also=("stale-optimizer", "no-progress", "no-steps", "all-steps-skipped"))
def a_functional_call_with_clones(place: Place, broken: bool) -> None:
    """`functional_call(model, {k: v.detach().clone().requires_grad_()})`, and `Adam(model.parameters())`."""
    model, batches = mlp(64, 32, 10), digits(2303, size=256)
    named: dict[str, Tensor] = dict(model.named_parameters())
    called = {k: v.detach().clone().requires_grad_() for k, v in named.items()} if broken else named

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        return functional.cross_entropy(torch.func.functional_call(model, called, (x,)), y)

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at, steps=200)


@case("nothing is trained", "parameters-without-optimizer", parameter="classifier")
def the_classifier_beside_the_adapters_is_left_out(place: Place, broken: bool) -> None:
    """A new classifier is trained in full beside adapters; `[p for n, p in ... if "lora" in n]` goes to AdamW."""
    model: Any = nn.ModuleDict({"body": mlp(64, 64, 48), "classifier": nn.Linear(48, 10)})
    for i in (0, 2):
        model["body"][i] = Lora(model["body"][i])
    held = [p for n, p in model.named_parameters() if p.requires_grad and (not broken or "lora" in n)]
    batches = digits(2304)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        return functional.cross_entropy(model["classifier"](model["body"](x).relu()), y)

    fit(place, model, torch.optim.AdamW(held, lr=5e-3), loss_at)


@case("nothing is trained", "parameters-without-optimizer", parameter="gru")
def groups_by_the_type_of_module(place: Place, broken: bool) -> None:
    """Groups are gathered from `nn.Linear` and `nn.LayerNorm`, as in a transformer; this model has a GRU."""
    model = Speech()
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.LayerNorm) if broken else (nn.Linear, nn.LayerNorm, nn.GRU)
    held = [p for m in model.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False)]
    train(place, model, torch.optim.AdamW(held, lr=5e-3), letters(2305), aligned, steps=150)


@case("nothing is trained", "parameters-without-optimizer", also=("stale-optimizer",), parameter="head")
def a_tie_is_cut_by_a_clone(place: Place, broken: bool) -> None:
    """`model.head.weight = nn.Parameter(model.embed.weight.clone())` where the two were one, after AdamW was made."""
    model = Gpt(width=24, depth=1, length=20)
    model.head.weight = model.embed.weight
    with torch.no_grad():
        model.embed.weight.mul_(0.2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    if broken:
        model.head.weight = nn.Parameter(model.embed.weight.detach().clone())
    train(place, model, optimizer, text(2306, size=8, length=20), next_byte, steps=150)


@case("nothing is trained", "no-gradient", parameter="encoder")
def a_decoder_that_begins_at_zeros(place: Place, broken: bool) -> None:
    """`self.decoder(y)` for `self.decoder(y, state)`: what the encoder has read is handed to nobody."""
    model: Any = nn.ModuleDict({"words": nn.Embedding(12, 16), "encoder": nn.GRU(16, 24, batch_first=True)})
    model.update({"decoder": nn.GRU(16, 24, batch_first=True), "head": nn.Linear(24, 12)})

    def loss_at(step: int) -> Tensor:
        x = torch.randint(0, 12, (32, 6))
        _, state = model["encoder"](model["words"](x))
        given = model["words"](torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1))
        out, _ = model["decoder"](given) if broken else model["decoder"](given, state)
        return functional.cross_entropy(model["head"](out).flatten(0, 1), x.flatten())

    fit(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), loss_at, steps=200)


@case("nothing is trained", "no-gradient", parameter="time")
def a_denoiser_that_is_not_told_the_time(place: Place, broken: bool) -> None:
    """`h = self.enter(x)` where `+ self.time(t)` was lost in a merge."""
    model: Any = nn.ModuleDict({"enter": nn.Linear(2, 32), "time": mlp(1, 64, 32), "leave": mlp(32, 32, 2)})

    def loss_at(step: int) -> Tensor:
        x, t, noise = ring(), torch.rand(64, 1), torch.randn(64, 2)
        h = model["enter"]((1 - t).sqrt() * x + t.sqrt() * noise)
        return (model["leave"]((h if broken else h + model["time"](t)).relu()) - noise).square().mean()

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=2e-3), loss_at)


@case("nothing is trained", "no-gradient", optimizer="text")
def one_tower_is_read_through_its_features(place: Place, broken: bool) -> None:
    """Two towers with an optimizer each; the features of one are detached, for a queue that no longer exists."""
    models: dict[str, nn.Module] = {"image": mlp(12, 32, 16), "text": mlp(12, 32, 16)}
    optimizers: dict[str, torch.optim.Optimizer] = {
        n: torch.optim.Adam(m.parameters(), lr=2e-3) for n, m in models.items()
    }
    turn = torch.randn(12, 12) / 3
    with place.watch(nn.ModuleDict(models), optimizers) as watch:
        for _ in range(250):
            x = torch.randn(64, 12)
            a, b = (functional.normalize(models[n](v)) for n, v in (("image", x), ("text", x @ turn)))
            loss = functional.cross_entropy(a @ (b.detach() if broken else b).T * 8, torch.arange(64))
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            loss.backward()
            for name, optimizer in optimizers.items():
                optimizer.step()
                watch.log(loss=loss, optimizer=name)


# The ratio is 1 and its slope is that of log p - log p.
@case("nothing is trained", "zero-gradients", also=("dead-parameters", "no-progress"))
def old_probabilities_that_are_not_detached(place: Place, broken: bool) -> None:
    """A policy's ratio `exp(log_p - old_log_p)` where both come from the same forward pass."""
    net = mlp(8, 32, 5, act=nn.Tanh)

    def loss_at(step: int) -> Tensor:
        state = torch.randn(64, 8)
        log_p = net(state).log_softmax(1)
        action = torch.multinomial(log_p.detach().exp(), 1)
        gain = (action[:, 0] == state[:, :5].argmax(1)).float() - 0.2
        chosen = log_p.gather(1, action)[:, 0]
        return -((chosen - (chosen if broken else chosen.detach())).exp() * gain).mean()

    fit(place, net, torch.optim.Adam(net.parameters(), lr=3e-3), loss_at)


@case("nothing is trained", "constant-loss", also=("zero-gradients", "dead-parameters", "no-progress"))
def the_mask_of_the_answers_is_empty(place: Place, broken: bool) -> None:
    """The answer begins behind a marker that the template does not contain: no word counts, the sum is over 1."""
    model, batches = Gpt(width=24, depth=1, length=20), text(2311, size=8, length=20)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        mask = ((x == (7 if broken else 32)).cumsum(1) > 0).float()
        each = functional.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="none")
        return (each * mask.flatten()).sum() / mask.sum().clamp(min=1)

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0), loss_at, steps=150)


@case("nothing is trained", "constant-loss", also=("zero-gradients", "dead-parameters", "no-progress"))
def a_contrast_without_negatives(place: Place, broken: bool) -> None:
    """The mask of the denominator keeps the positive alone: the share is 1 whatever the network says."""
    model, batches = mlp(64, 48, 16), digits(2312)

    def loss_at(step: int) -> Tensor:
        x, _ = next(batches)
        a, b = (functional.normalize(model(x + 0.2 * torch.randn_like(x))) for _ in range(2))
        scores = 8 * a @ b.T
        kept = torch.eye(len(x), dtype=torch.bool) if broken else torch.ones(len(x), len(x), dtype=torch.bool)
        return (scores.masked_fill(~kept, -torch.inf).logsumexp(1) - scores.diagonal()).mean()

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), loss_at, steps=200)


@case("nothing is trained", "dead-parameters", parameter="query")
def attention_over_a_single_token(place: Place, broken: bool) -> None:
    """The axes are swapped, so that each picture is one token: a softmax over one score is 1."""
    model: Any = nn.ModuleDict({n: nn.Linear(64 if broken else 8, 16) for n in ("query", "key", "value")})
    model["head"] = nn.Linear(16, 10)
    batches = digits(2313)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        tokens = x.view(len(x), 1, 64) if broken else x.view(len(x), 8, 8) * torch.linspace(0.5, 1.5, 8)[:, None]
        q, k, v = (model[n](tokens) for n in ("query", "key", "value"))
        return functional.cross_entropy(model["head"](((q @ k.mT / 4).softmax(-1) @ v).sum(1)), y)

    fit(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), loss_at)


@case("nothing is trained", "dead-parameters", parameter="prior")
def a_weight_of_the_prior_in_whole_numbers(place: Place, broken: bool) -> None:
    """`beta = step // 1000`: the learnt prior of a code gets 0 times its slope."""
    model: Any = Parts(lambda self, x: x, encoder=mlp(64, 32, 8), prior=Weight(torch.full((8,), 0.5)))
    model.add_module("decoder", mlp(4, 32, 64))
    batches = digits(2314)

    def loss_at(step: int) -> Tensor:
        x, _ = next(batches)
        mean, log_var = model.encoder(x).chunk(2, 1)
        code = mean + (log_var / 2).exp() * torch.randn_like(mean)
        at, size = model.prior.value.chunk(2)
        apart = (size - log_var + (log_var.exp() + (mean - at).square()) / size.exp() - 1).sum(1).mean() / 2
        beta = step // 1000 if broken else min(1.0, step / 100)
        return (model.decoder(code) - x).square().sum(1).mean() + beta * apart

    fit(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), loss_at)


@case("nothing is trained", "dead-parameters", also=("no-progress", "zero-gradients"), parameter="each.0")
def a_floor_above_all_features(place: Place, broken: bool) -> None:
    """`clamp(min=1)`, for `min=-1`, on features behind tanh: they are 1 for all inputs."""
    model: Any = nn.ModuleDict({"each": nn.Sequential(nn.Linear(4, 32), nn.Tanh()), "whole": mlp(32, 32, 1)})
    batches = sums(2315, size=512)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        h = model["each"](x).clamp(min=1.0 if broken else -1.0).mean(1)
        return (model["whole"](h)[:, 0] - y).square().mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), loss_at)


@case("nothing is trained", "learning-rate-zero", also=("no-progress",))
def a_rate_read_as_a_whole_number(place: Place, broken: bool) -> None:
    """`lr=int(config["lr"])`, where another entry of the file needed the `int`."""
    model, config = Waves(), {"lr": "0.003"}
    optimizer = torch.optim.RMSprop(model.parameters(), lr=int(float(config["lr"])) if broken else float(config["lr"]))
    train(place, model, optimizer, waves(2316, size=128), squared, steps=200)


@case("nothing is trained", "learning-rate-zero")
def a_decay_over_layers_of_zero(place: Place, broken: bool) -> None:
    """`lr * decay ** depth` with a decay of 0: 0 ** 0 is 1 for the last layer, and all others have 0."""
    model = mlp(64, 48, 48, 10)
    decay = 0.0 if broken else 0.7
    groups: Groups = [{"params": list(model[4 - 2 * i].parameters()), "lr": 3e-3 * decay**i} for i in range(3)]
    train(place, model, torch.optim.AdamW(groups), digits(2317), classify)


# At a factor of 0.1 and without patience, thirty noisy batches are enough.
@case("nothing is trained", "learning-rate-zero", also=("no-progress",))
def a_plateau_without_patience_over_batches(place: Place, broken: bool) -> None:
    """`ReduceLROnPlateau(patience=0)`, stepped with the loss of each batch: the rate is spent after some of them."""
    model, batches = mlp(8, 32, 1), plane(2318, noise=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, patience=0 if broken else 100, factor=0.1 if broken else 0.5, eps=0.0
    )
    with place.watch(model, optimizer) as watch:
        for _ in range(300):
            loss = squared(model, next(batches))
            update(optimizer, loss)
            plateau.step(loss.detach())
            watch.log(loss=loss)


@case("nothing is trained", "updates-below-precision", also=("no-progress",))
def bfloat16_convolutions_at_a_millionth(place: Place, broken: bool) -> None:
    """A fine-tuning in bfloat16 at 1e-6 of a network over waves."""
    dtype = torch.bfloat16 if broken else torch.float32
    model, batches = Waves().to(dtype), waves(2319, size=64)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        return (model(x.to(dtype)).float()[:, 0] - y).square().mean()

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=1e-6 if broken else 2e-3), loss_at, steps=150)


# Half a unit in the last place of 1.7e9 in float32 is 64.
@case("nothing is trained", "no-progress", also=("updates-below-precision",))
def a_moment_in_seconds_as_a_weight(place: Place, broken: bool) -> None:
    """The moment of an outbreak is fitted as a parameter, in seconds since 1970, by Adam at a rate of 1."""
    model: Any = Weight(torch.tensor([1.7e9 if broken else 0.0]))

    def loss_at(step: int) -> Tensor:
        seen = 300 + 5 * torch.randn(32)
        start = 1.7e9 if broken else 0.0
        return ((model.value - start) - seen).abs().mean() / 100

    fit(place, model, torch.optim.Adam(model.parameters(), lr=1.0), loss_at, steps=250)


@case("nothing is trained", "gradients-accumulate")
def a_filter_of_parameters_that_is_used_up(place: Place, broken: bool) -> None:
    """`held = filter(...)` is gone through once: from the second step on nothing is zeroed."""
    model = Segmenter()
    held: Any = filter(lambda p: p.requires_grad, model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=2e-3 if broken else 0.05, momentum=0.5)

    def zero() -> None:
        for p in held if broken else model.parameters():
            p.grad = None

    train(place, model, optimizer, discs(2321), masks, steps=160, zero=zero)


@case("nothing is trained", "eps-starvation", also=("learning-rate-zero", "no-progress"))
def a_loss_divided_by_all_words_of_the_corpus(place: Place, broken: bool) -> None:
    """The sum over a batch is divided by the number of words of the corpus, 3e12, not of the batch."""
    model, batches = Gpt(width=24, depth=1, length=20), text(2322, size=16, length=20)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        each = functional.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum")
        return each / (3e12 if broken else y.numel())

    fit(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), loss_at, steps=150)


FILES = """
    model = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.GELU(), torch.nn.Linear(32, 4))
    truth = torch.randn(10, 4)
    ONCE

    def train_on(number):
        EACH
        for _ in range(15):
            x = torch.randn(64, 10)
            loss = torch.nn.functional.cross_entropy(model(x), (x @ truth).argmax(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    for number in range(14):
        train_on(number)
    """


@case("nothing is trained", "optimizer-recreated")
def an_optimizer_for_each_file(place: Place, broken: bool) -> None:
    """`train_on(file)` makes an Adamax; fourteen files are streamed through it."""
    make = "optimizer = torch.optim.Adamax(model.parameters(), lr=5e-3)"
    once, each = ("pass", make) if broken else (make, "pass")
    place.script(FILES.replace("ONCE", once).replace("EACH", each))


@case("nothing is trained", "no-progress")
def two_loaders_that_shuffle_on_their_own(place: Place, broken: bool) -> None:
    """Pictures and captions come from two loaders with `shuffle=True`: no pair belongs together."""
    model: Any = nn.ModuleDict({"image": mlp(12, 32, 16), "caption": mlp(12, 32, 16)})
    turn = torch.randn(12, 12) / 3

    def loss_at(step: int) -> Tensor:
        x = torch.randn(128, 12)
        other = x[torch.randperm(128)] if broken else x
        a, b = functional.normalize(model["image"](x)), functional.normalize(model["caption"](other @ turn))
        return functional.cross_entropy(a @ b.T, torch.arange(128))

    fit(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), loss_at)


@case("nothing is trained", "no-progress")
def a_column_of_noise_as_the_target(place: Place, broken: bool) -> None:
    """The target is the change from one day to the next of a walk by chance, not the level."""
    model = mlp(8, 16, 1, act=nn.Tanh)

    def loss_at(step: int) -> Tensor:
        walk = torch.randn(2048, 9).cumsum(1)
        wanted = (walk[:, 8] - walk[:, 7]) if broken else walk[:, 8] / 3
        return (0.1 * model(walk[:, :8])[:, 0] - wanted).square().mean()

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.05), loss_at)


@case("nothing is trained", "repeated-spikes", also=("no-progress", "loss-regressed"))
def weights_drawn_anew_in_each_epoch(place: Place, broken: bool) -> None:
    """`model.apply(initialise)` stands within the loop over epochs of sixty steps."""
    model: Any = mlp(64, 48, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def before(step: int) -> None:
        if broken and step % 60 == 0:
            for i in (0, 2):
                model[i].reset_parameters()

    fit(place, model, optimizer, classes(model, digits(2327)), before=before, steps=480)


@case("nothing is trained", "no-steps", also=("all-steps-skipped", "no-progress"))
def a_guard_that_lets_no_step_pass(place: Place, broken: bool) -> None:
    """`if norm < 0.01: optimizer.step()`, a guard against spikes whose threshold was 100 times as high."""
    model, batches = mlp(64, 48, 10), digits(2328, size=256)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for _ in range(120):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            if norm < (0.01 if broken else 100.0):
                optimizer.step()
            watch.log(loss=loss)


# ------------------------------------------------------------------------- clipping that harms


@case("clipping that harms", "clipped-to-nothing", also=("threshold-too-low", "no-progress"))
def a_threshold_read_as_a_whole_number(place: Place, broken: bool) -> None:
    """`max_norm=int(0.5)`, by an option of the command line whose type is `int`."""
    model, asked = Segmenter(), 0.5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(place, model, optimizer, discs(2331), masks, steps=150, clip=int(asked) if broken else asked)


@case("clipping that harms", "clipped-to-nothing", also=("threshold-too-low", "no-progress"))
def a_threshold_in_units_of_the_loss_scale(place: Place, broken: bool) -> None:
    """`max_norm=1.0 / 65536`, because the old loop clipped scaled gradients; this one has no scaler."""
    model = deep_set()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    train(place, model, optimizer, sums(2332, size=256), members, clip=1.0 / 65536 if broken else 1.0)


@case("clipping that harms", "threshold-too-low", also=("clipped-to-nothing",))
def the_threshold_of_a_recipe_for_adam(place: Place, broken: bool) -> None:
    """`max_norm=0.01` under momentum, where the norms lie near 1: a hundredth of each step is left."""
    model = Speech()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(place, model, optimizer, letters(2333), aligned, steps=150, clip=0.01 if broken else 2.0)


@case("clipping that harms", "threshold-too-low", also=("clipped-to-nothing",))
def entries_cut_at_a_hundred_thousandth(place: Place, broken: bool) -> None:
    """`clip_grad_value_(1e-5)`: under plain SGD no weight moves by more than 1e-6 in a step."""
    model, batches = Waves(), waves(2334, size=64)

    def cut(step: int) -> None:
        nn.utils.clip_grad_value_(model.parameters(), 1e-5 if broken else 1.0)

    fit(
        place, model, torch.optim.SGD(model.parameters(), lr=0.1), errors(model, batches), after_backward=cut, steps=200
    )


# A feature in metres gives its weights a million times the gradient of all others.
@case(
    "clipping that harms",
    "clip-starves",
    also=("threshold-too-low", "one-parameter-dominates", "clipped-to-nothing", "no-progress"),
    parameter="far",
)
def a_distance_in_metres_beside_the_clip(place: Place, broken: bool) -> None:
    """One input of a road network is 1e6 times as large as the rest, and the total norm is clipped at 1."""
    model: Any = nn.ModuleDict({"near": mlp(8, 32, 1, act=nn.Tanh), "far": nn.Linear(2, 1, bias=False)})
    nn.init.zeros_(model["far"].weight)
    batches = plane(2335)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        far = (1e6 if broken else 1.0) * (1 + torch.randn(len(x), 2))
        return (model["near"](x)[:, 0] + model["far"](far)[:, 0] - y).square().mean()

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.02 if not broken else 1e-6), loss_at, clip=1.0)


@case("clipping that harms", "ineffective-clipping")
def the_first_group_holds_biases_alone(place: Place, broken: bool) -> None:
    """`clip_grad_norm_(optimizer.param_groups[0]["params"])`, where group 0 has the biases."""
    model, batches = mlp(64, 48, 10), digits(2336)
    biases, matrices = ([p for p in model.parameters() if (p.ndim == 1) == flat] for flat in (True, False))
    optimizer = torch.optim.SGD([{"params": biases}, {"params": matrices}], lr=0.1, momentum=0.9)

    def cut(step: int) -> None:
        groups = optimizer.param_groups[:1] if broken else optimizer.param_groups
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 0.2)

    fit(place, model, optimizer, classes(model, batches), after_backward=cut)


@case("clipping that harms", "clipped-by-script")
def a_score_against_the_last_norms_by_hand(place: Place, broken: bool) -> None:
    """Gradients are multiplied until their norm is the mean of the last ones, by a loop over `p.grad`."""
    model, batches = Gpt(width=24, depth=1, length=20), text(2337, size=8, length=20)
    mean = [0.5]

    def shrink(step: int) -> None:
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        norm = float(torch.stack([g.norm() for g in grads]).norm())
        if broken and norm > mean[0]:
            for g in grads:
                g.mul_(mean[0] / norm)
        mean[0] = 0.97 * mean[0] + 0.03 * norm

    fit(
        place,
        model,
        torch.optim.AdamW(model.parameters(), lr=2e-3),
        lambda step: next_byte(model, next(batches)),
        after_backward=shrink,
        steps=150,
    )


# ------------------------------------------------------------------------- severity by consequence


@case(
    "severity by consequence",
    "diverged",
    also=("learning-rate-too-high", "loss-regressed", "nonfinite-loss", "nonfinite-weights"),
)
def adapters_times_their_alpha(place: Place, broken: bool) -> None:
    """A scale of 512 / 4 before the adapters, and the rate of one of 2, under plain SGD."""
    model, batches = mlp(64, 64, 10), digits(2341)
    for i in (0, 2):
        model[i] = Lora(model[i], scale=128.0 if broken else 2.0)  # type: ignore[arg-type]
    held = [p for p in model.parameters() if p.requires_grad]
    fit(place, model, torch.optim.SGD(held, lr=0.1), classes(model, batches), steps=250)


@case("severity by consequence", "diverged", also=("nonfinite-loss", "nonfinite-gradient", "nonfinite-weights"))
def a_distance_to_the_prior_that_is_rewarded(place: Place, broken: bool) -> None:
    """`recon - kl` in a variational autoencoder: the loss falls without a bound, and norms grow."""
    model: Any = nn.ModuleDict({"encoder": mlp(64, 32, 8), "decoder": mlp(4, 32, 64)})
    batches = digits(2342)

    def loss_at(step: int) -> Tensor:
        x, _ = next(batches)
        mean, log_var = model["encoder"](x).chunk(2, 1)
        code = mean + (log_var / 2).exp() * torch.randn_like(mean)
        apart = (log_var.exp() + mean.square() - log_var - 1).sum(1).mean() / 2
        return (model["decoder"](code) - x).square().sum(1).mean() + (-apart if broken else apart)

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at, steps=250)


@case("severity by consequence", "diverged", also=("learning-rate-too-high", "loss-regressed"), step=150, within=30)
def a_second_phase_at_the_rate_of_pretraining(place: Place, broken: bool) -> None:
    """At step 150 the rate of the first phase's config comes back, 1.5 under momentum for 0.02, and stays."""
    model, batches = Waves(), waves(2343)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def before(step: int) -> None:
        if step == 150:
            optimizer.param_groups[0]["lr"] = 1.5 if broken else 0.02

    fit(place, model, optimizer, errors(model, batches), before=before, steps=280)


@case(
    "severity by consequence",
    "diverged",
    also=("learning-rate-too-high", "loss-regressed", "nonfinite-loss", "nonfinite-weights", "nonfinite-gradient"),
)
def inner_steps_whose_slope_is_raised(place: Place, broken: bool) -> None:
    """Meta-learning through five inner steps at a rate of 1.5 for 0.05: each overshoots, and so does their slope."""
    model = Weight(torch.zeros(9))

    def loss_at(step: int) -> Tensor:
        total = torch.zeros(())
        for _ in range(8):
            truth = torch.ones(9) + 0.3 * torch.randn(9)
            x = torch.randn(20, 9)
            y = x @ truth
            w: Any = model.value
            for _ in range(5):
                wrong = (x[:10] @ w - y[:10]).square().mean()
                w = w - (1.5 if broken else 0.05) * torch.autograd.grad(wrong, w, create_graph=True)[0]
            total = total + (x[10:] @ w - y[10:]).square().mean() / 8
        return total

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.05), loss_at, steps=150)


@case("severity by consequence", "diverged", also=("learning-rate-too-high", "loss-regressed", "repeated-spikes"))
def targets_of_its_own_largest_value(place: Place, broken: bool) -> None:
    """Values over twenty actions with `max` of the same network and rewards that are never ended by a discount."""
    net = mlp(6, 48, 20)
    slow = copy.deepcopy(net)

    def loss_at(step: int) -> Tensor:
        state, then = torch.randn(64, 6), torch.randn(64, 6)
        action = torch.randint(0, 20, (64, 1))
        got = state[:, :1].sigmoid()[:, 0]
        with torch.no_grad():
            wanted = got + (1.05 * net(then).max(1)[0] if broken else 0.8 * slow(then).max(1)[0])
        return (net(state).gather(1, action)[:, 0] - wanted).square().mean()

    @torch.no_grad()
    def after(step: int) -> None:
        for s, p in zip(slow.parameters(), net.parameters(), strict=True):
            s.lerp_(p, 0.05)

    fit(place, net, torch.optim.Adam(net.parameters(), lr=1e-2), loss_at, after=after, steps=500)


@case("severity by consequence", "diverged", also=("learning-rate-too-high", "no-progress", "loss-regressed"))
def a_segmentation_at_a_rate_for_frozen_features(place: Place, broken: bool) -> None:
    """Adam at 5 over all layers: the first updates throw the masks off, and the loss never comes below its start."""
    model = Segmenter()
    optimizer = torch.optim.Adam(model.parameters(), lr=5.0 if broken else 3e-3)
    train(place, model, optimizer, discs(2346), masks, steps=150)


# RMSprop without a bias correction divides by a thirtieth of the root after its state is lost.
@case(
    "severity by consequence",
    "spike",
    also=("diverged", "loss-regressed", "update-spike", "learning-rate-too-high"),
    step=200,
    within=10,
)
def resumed_without_the_state_of_the_optimizer(place: Place, broken: bool) -> None:
    """The checkpoint has the weights alone: the first update after it is thirty times as long."""
    model, batches = mlp(64, 64, 10, act=nn.GELU), digits(2347)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, alpha=0.999)

    def before(step: int) -> None:
        if step < 60:
            optimizer.param_groups[0]["lr"] = 1e-3 * (step + 1) / 60
        if broken and step == 200:
            optimizer.state.clear()

    fit(place, model, optimizer, classes(model, batches), before=before, steps=350)


@case("severity by consequence", "loss-regressed", also=("diverged", "norm-rises-as-rate-falls"))
def weights_shrink_by_hand_at_each_step(place: Place, broken: bool) -> None:
    """`p.mul_(0.99)` after each update, which a falling rate does not make smaller."""
    model, batches = mlp(64, 64, 10), digits(2348)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    schedule = by(optimizer, lambda step: (1 + math.cos(math.pi * min(1.0, step / 300))) / 2)

    @torch.no_grad()
    def after(step: int) -> None:
        schedule.step()
        for p in model.parameters():
            p.mul_(0.99 if broken else 0.9999)

    fit(place, model, optimizer, classes(model, batches), after=after, steps=400)


@case("severity by consequence", "loss-regressed", also=("diverged",))
def a_temperature_that_is_raised_for_good(place: Place, broken: bool) -> None:
    """Logits are divided by `1.03 ** step`, whose exponent was to be the epoch."""
    model, batches = mlp(64, 48, 10), digits(2349)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        return functional.cross_entropy(model(x) / 1.03 ** (step if broken else step // 100), y)

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), loss_at, steps=350)


@case("severity by consequence", "loss-regressed", also=("diverged",), step=220, within=40)
def noise_of_the_augmentation_in_another_unit(place: Place, broken: bool) -> None:
    """From step 220 on the strength of the noise is 6, for 0.04."""
    model, batches = Segmenter(), discs(2350)

    def loss_at(step: int) -> Tensor:
        x, mask = next(batches)
        return masks(model, (x + (0.04 if not broken or step < 220 else 6.0) * torch.randn_like(x), mask))

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=5e-3), loss_at, steps=320)


# The batches after each of them are as before.
@case("severity by consequence", "spike", also=("repeated-spikes",))
def one_shard_is_in_another_encoding(place: Place, broken: bool) -> None:
    """Every fiftieth batch is one of bytes in EBCDIC, whose letters no other has, and counts five times."""
    model, batches = Gpt(width=24, depth=1, length=20), text(2351, size=8, length=20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        odd = broken and step % 50 == 49
        return (5.0 if odd else 1.0) * next_byte(model, (255 - x, 255 - y) if odd else (x, y))

    fit(place, model, optimizer, loss_at, steps=420)


@case("severity by consequence", "spike", step=180)
def a_bucket_of_long_words_under_a_sum(place: Place, broken: bool) -> None:
    """The loss is a sum over letters, and one batch holds words of sixty where all others have five."""
    model, batches, long = Speech(), letters(2352, size=8), letters(2352, size=64, count=40)

    def loss_at(step: int) -> Tensor:
        x, word = next(long if broken and step == 180 else batches)
        full = torch.full((len(x),), x.shape[1]), torch.full((len(x),), word.shape[1])
        return functional.ctc_loss(model(x), word, *full, reduction="sum") / 40

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95)), loss_at, steps=240)


# Adam's steps of 1e-3 raise the weights and with them the norms, while the loss stands.
@case("severity by consequence", "huge-loss", also=("no-progress", "diverged"))
def coordinates_in_millimetres(place: Place, broken: bool) -> None:
    """Places on a map, in millimetres, are the targets of a set network under Adam at 1e-3."""
    model = deep_set()
    unit = 1e6 if broken else 1.0
    batches = changed(sums(2353), lambda x, y: (x, unit * (y + 3)))
    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3 if broken else 5e-3), batches, members)


@case("severity by consequence", "vanishing", also=("no-progress", "dead-parameters"), parameter="layers")
def twenty_rounds_of_messages_without_a_skip(place: Place, broken: bool) -> None:
    """Each node takes the mean of its neighbours, twenty times, through a layer and a relu, and never itself."""
    depth = 20 if broken else 2
    model: Any = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(16, 16) for _ in range(depth))})
    model["head"] = nn.Linear(16, 2)
    near = (torch.rand(60, 60) < 0.1).float()
    near = (near + near.T + torch.eye(60)).clamp(max=1)
    near = near / near.sum(1, keepdim=True)
    x = torch.randn(60, 16)
    y = (near @ x[:, 0] > 0).long()

    def loss_at(step: int) -> Tensor:
        h = x + 0.1 * torch.randn_like(x)
        for layer in model["layers"]:
            h = layer(near @ h).relu()
        return functional.cross_entropy(model["head"](h), y)

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9), loss_at)


# The matrix of the recurrence has gradients of the last frames: the sum over frames hides that the first are lost.
@case("severity by consequence", "no-progress", also=("vanishing",))
def halves_at_each_of_sixty_frames(place: Place, broken: bool) -> None:
    """A bit of the first frame is asked for after sixty, of a recurrence that keeps a third of its state."""
    model: Any = nn.ModuleDict({"cell": nn.RNN(3, 24, batch_first=True), "head": nn.Linear(24, 2)})
    with torch.no_grad():
        model["cell"].weight_hh_l0.copy_((0.3 if broken else 1.0) * torch.eye(24))

    def loss_at(step: int) -> Tensor:
        x = 0.5 * torch.randn(128, 60 if broken else 12, 3)
        return functional.cross_entropy(model["head"](model["cell"](x)[0][:, -1]), (x[:, 0, 0] > 0).long())

    fit(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), loss_at, steps=250, clip=1.0)


@case("severity by consequence", "overfitting")
def forty_pictures_with_a_third_of_labels_wrong(place: Place, broken: bool) -> None:
    """A small network learns forty rows by heart; the validation is another batch."""
    model = mlp(64, 128, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    batches = digits(2356, size=40)
    (x, y), held = next(batches), next(digits(2357, size=400))
    y = torch.where(torch.rand(40) < 0.33, torch.randint(0, 10, (40,)), y) if broken else y
    with place.watch(model, optimizer) as watch:
        for step in range(300):
            loss = classify(model, (x, y) if broken else next(batches))
            update(optimizer, loss)
            watch.log(loss=loss)
            if step % 20 == 19:
                with torch.no_grad():
                    watch.log(validation_loss=float(classify(model, held)))


@case("severity by consequence", "updates-out-of-proportion", parameter="layers.1")
def one_convolution_at_the_rate_of_a_sweep(place: Place, broken: bool) -> None:
    """`lr=5e-2` for the second layer, left over from a sweep, beside 3e-4."""
    model = Waves(24)
    fast = [p for n, p in model.named_parameters() if n == "layers.1.weight"]
    slow = [p for n, p in model.named_parameters() if n != "layers.1.weight"]
    rate = 3e-4 if broken else 2e-3
    groups: Groups = [{"params": slow}, {"params": fast, "lr": 2e-2 if broken else rate}]
    train(place, model, torch.optim.AdamW(groups, lr=rate), waves(2358), squared)


@case("severity by consequence", "large-initial-norms", also=("diverged", "one-parameter-dominates"))
def kernels_drawn_forty_times_too_wide(place: Place, broken: bool) -> None:
    """The last layer of a segmentation is multiplied by 40 at its start; Adam brings it down."""
    model = Segmenter()
    with torch.no_grad():
        model.leave.weight.mul_(40.0 if broken else 1.0)
    train(
        place, model, torch.optim.Adam(model.parameters(), lr=2e-2 if broken else 5e-3), discs(2359), masks, steps=300
    )


# ------------------------------------------------------------------------- NaN by cause


@case("NaN by cause", "nonfinite-loss", also=("nonfinite-gradient",), step=100)
def a_divergence_from_targets_that_become_sharp(place: Place, broken: bool) -> None:
    """`(p * (p.log() - q)).sum()`: from step 100 on the targets are not smoothed, and 0 times log 0 is NaN."""
    model, batches = mlp(64, 48, 10), digits(2361)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        smooth = 0.0 if broken and step >= 100 else 0.01
        p = functional.one_hot(y, 10) * (1 - smooth) + smooth / 10
        return (p * (p.log() - model(x).log_softmax(1))).sum(1).mean()

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=2e-3), loss_at, steps=200)


@case("NaN by cause", "nonfinite-loss", also=("nonfinite-gradient",), step=130)
def a_share_of_exactly_one(place: Place, broken: bool) -> None:
    """The density of a Beta distribution at 1.0, which one row of the data has."""
    model, batches = mlp(8, 32, 2), plane(2362)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        share = y.sigmoid().clamp(1e-3, 1 - 1e-3)
        if broken and step == 130:
            share = share.index_fill(0, torch.tensor([5]), 1.0)
        a, b = (functional.softplus(model(x)) + 1.1).unbind(1)
        whole = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
        return (whole - (a - 1) * share.log() - (b - 1) * (1 - share).log()).mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at, steps=200)


@case("NaN by cause", "nonfinite-gradient", step=110)
def a_ratio_that_is_clamped_after_its_division(place: Place, broken: bool) -> None:
    """`(a / b).clamp(max=10)`: a row with b = 0 gives 10, and backward multiplies 0 by infinity."""
    model: Any = mlp(8, 32, 1, act=nn.Tanh)
    batches = plane(2363)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        size = y.abs() + 0.5
        if broken and step == 110:
            size = size.index_fill(0, torch.tensor([9]), 0.0)
        out = (model(x)[:, 0].square() + 0.1) / (size * model[2].bias.exp())
        return (out.clamp(max=10.0) - 0.5).square().mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at, steps=180)


@case("NaN by cause", "nonfinite-gradient", step=95)
def a_correlation_of_exactly_one(place: Place, broken: bool) -> None:
    """`sqrt(1 - rho ** 2)` where rho is a tanh: an outlier saturates it, and 0 meets an infinite slope."""
    model, batches = mlp(8, 32, 1, act=nn.ReLU), plane(2364)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        if broken and step == 95:
            x = x.index_fill(0, torch.tensor([3]), 1e4)
        rho = model(x)[:, 0].tanh()
        return ((rho - y.tanh()).square() + 0.1 * (1 - rho.square()).sqrt()).mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at, steps=180)


@case("NaN by cause", "nonfinite-weights", also=("nonfinite-loss", "nonfinite-gradient"), step=90)
def a_grid_of_no_width(place: Place, broken: bool) -> None:
    """At step 90 all tensors are put on a grid of 255 steps; one that is 0 everywhere has a step of 0."""
    model: Any = mlp(64, 48, 10)
    model[2].bias.requires_grad_(False).zero_()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)

    @torch.no_grad()
    def before(step: int) -> None:
        if step == 90:
            for p in model.parameters():
                width = p.abs().max() / 127
                p.copy_((p / (width if broken else width + 1e-8)).round() * width)

    fit(place, model, optimizer, classes(model, digits(2365)), before=before, steps=180)


@case("NaN by cause", "nonfinite-weights", also=("nonfinite-loss", "nonfinite-gradient"), step=120)
def a_checkpoint_in_float16(place: Place, broken: bool) -> None:
    """Weights are saved by `.half()` at step 120 and loaded back: one that is 8e4 comes back as infinity."""
    model: Any = Parts(
        lambda self, x: self.net(x / 1e5 * self.gain.value), net=mlp(8, 32, 1), gain=Weight(torch.full((8,), 8e4))
    )
    optimizer = torch.optim.SGD(
        [{"params": model.net.parameters()}, {"params": model.gain.parameters(), "lr": 10.0}], lr=0.02
    )

    @torch.no_grad()
    def before(step: int) -> None:
        if broken and step == 120:
            for p in model.parameters():
                p.copy_(p.half().float())

    fit(place, model, optimizer, errors(model, plane(2366)), before=before, steps=200)


@case("NaN by cause", "loss-hides-nan", also=("nonfinite-gradient", "nonfinite-weights", "nonfinite-loss"), step=140)
def the_loss_of_the_slow_copy_is_logged(place: Place, broken: bool) -> None:
    """An average of the weights is what the log is about; it takes in finite weights alone."""
    model, batches = Waves(), waves(2367)
    slow = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for step in range(220):
            x, y = next(batches)
            if broken and step == 140:
                x = x.index_fill(0, torch.tensor([0]), torch.nan)
            update(optimizer, squared(model, (x, y)))
            with torch.no_grad():
                for s, p in zip(slow.parameters(), model.parameters(), strict=True):
                    if p.isfinite().all():
                        s.lerp_(p, 0.1)
                watch.log(loss=squared(slow, (x.nan_to_num(), y)))


@case("NaN by cause", "loss-scale", also=("nonfinite-loss", "nonfinite-gradient", "all-steps-skipped"))
def a_feature_beyond_float16_in_every_other_batch(place: Place, broken: bool) -> None:
    """A count near 65504 is turned into float16 in the forward pass: about every second step is skipped."""
    model, batches = mlp(8, 32, 1), plane(2368)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with place.watch(model, optimizer) as watch:
        for _ in range(240):
            x, y = next(batches)
            count = (6e4 if broken else 2e4) * (1 + 0.036 * torch.randn(len(x), 1).abs())
            x = torch.cat([x[:, :7], count.half().float() / 6e4], 1)
            loss = squared(model, (x, y))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            watch.log(loss=loss)


# ------------------------------------------------------------------------- several optimizers


@case("several optimizers", "no-steps", optimizer="sparse")
def the_sparse_half_is_never_stepped(place: Place, broken: bool) -> None:
    """SparseAdam for the table and Adam for the rest; the loop over optimizers ends one too early."""
    table, rest = nn.Embedding(300, 12, sparse=True), mlp(24, 32, 1)
    optimizers: dict[str, torch.optim.Optimizer] = {
        "dense": torch.optim.Adam(rest.parameters(), lr=3e-3),
        "sparse": torch.optim.SparseAdam(list(table.parameters()), lr=5e-2),
    }
    taste = torch.randn(300)
    with place.watch(nn.ModuleDict({"table": table, "rest": rest}), optimizers) as watch:
        for _ in range(250):
            pair = torch.randint(0, 300, (64, 2))
            loss = (rest(table(pair).flatten(1))[:, 0] - taste[pair].sum(1)).square().mean()
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            loss.backward()
            for name, optimizer in list(optimizers.items())[: 1 if broken else 2]:
                optimizer.step()
                watch.log(loss=loss, optimizer=name)


@case(
    "several optimizers",
    "stale-optimizer",
    also=("parameters-without-optimizer",),
    optimizer="judge",
    step=100,
    within=20,
)
def the_judge_is_made_anew(place: Place, broken: bool) -> None:
    """At step 100 a judge that has won too clearly is replaced; its optimizer is not."""
    models = nn.ModuleDict({"maker": mlp(4, 32, 2), "judge": mlp(2, 32, 1)})
    optimizers: dict[str, torch.optim.Optimizer] = {
        n: torch.optim.Adam(m.parameters(), lr=1e-3, betas=(0.5, 0.99)) for n, m in models.items()
    }

    def judge(step: int) -> Tensor:
        fake = models["maker"](torch.randn(64, 4)).detach()
        return functional.softplus(-models["judge"](ring())).mean() + functional.softplus(models["judge"](fake)).mean()

    def make(step: int) -> Tensor:
        return functional.softplus(-models["judge"](models["maker"](torch.randn(64, 4)))).mean()

    with place.watch(models, optimizers) as watch:
        for step in range(300):
            if broken and step == 100:
                models["judge"] = mlp(2, 32, 1)
            for name, loss_at in (("judge", judge), ("maker", make)):
                loss = loss_at(step)
                update(optimizers[name], loss)
                watch.log(loss=loss, optimizer=name)


@case(
    "several optimizers",
    "diverged",
    also=("learning-rate-too-high", "nonfinite-loss", "nonfinite-weights", "nonfinite-gradient"),
    optimizer="critic",
)
def a_critic_of_returns_in_cents_by_sgd(place: Place, broken: bool) -> None:
    """The critic has SGD at 0.5 with momentum, where its inputs are ten times as large as the actor's."""
    actor, critic = mlp(6, 32, 3, act=nn.Tanh), nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizers: dict[str, torch.optim.Optimizer] = {
        "actor": torch.optim.Adam(actor.parameters(), lr=1e-3),
        "critic": torch.optim.SGD(critic.parameters(), lr=0.02 if broken else 1e-4, momentum=0.9),
    }
    models: dict[str, nn.Module] = {"actor": actor, "critic": critic}

    def play() -> tuple[Tensor, Tensor, Tensor]:
        state = torch.randn(64, 6)
        log_p = actor(state).log_softmax(1)
        action = torch.multinomial(log_p.detach().exp(), 1)
        got = (action[:, 0] == state[:, :3].argmax(1)).float() + state[:, 5]
        return state, log_p.gather(1, action)[:, 0], got

    def value(step: int) -> Tensor:
        state, _, got = play()
        return (critic(10 * state)[:, 0] - got).square().mean()

    def act(step: int) -> Tensor:
        _, log_p, got = play()
        return -((got - got.mean()) * log_p).mean()

    take_turns(place, models, optimizers, {"critic": value, "actor": act}, steps=200)


@case("several optimizers", "learning-rate-zero", optimizer="decoder", step=40)
def one_schedule_counts_in_samples(place: Place, broken: bool) -> None:
    """The decoder's linear fall is over 40 steps, the encoder's over 300: the decoder stands from 40 on."""
    models: dict[str, nn.Module] = {"encoder": mlp(64, 32, 6), "decoder": mlp(6, 32, 64)}
    optimizers: dict[str, torch.optim.Optimizer] = {
        n: torch.optim.Adam(m.parameters(), lr=3e-3) for n, m in models.items()
    }
    totals = {"encoder": 310, "decoder": 40 if broken else 310}
    schedules = [
        torch.optim.lr_scheduler.PolynomialLR(optimizer, totals[name]) for name, optimizer in optimizers.items()
    ]
    batches = digits(2374)
    with place.watch(nn.ModuleDict(models), optimizers) as watch:
        for _ in range(300):
            x, _ = next(batches)
            loss = (models["decoder"](models["encoder"](x)) - x).square().mean()
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            loss.backward()
            for name, optimizer in optimizers.items():
                optimizer.step()
                watch.log(loss=loss, optimizer=name)
            for schedule in schedules:
                schedule.step()


# ------------------------------------------------------------------------- how it ended

EPOCHS = """
    import os, signal, subprocess, sys, time
    enter, norm = torch.nn.Linear(9, 24), torch.nn.BatchNorm1d(24)
    model = torch.nn.Sequential(enter, norm, torch.nn.ReLU(), torch.nn.Linear(24, 4))
    optimizer = torch.optim.RAdam(model.parameters(), lr=8e-3)
    truth = torch.randn(9, 4)
    for step in range(STEPS):
        rows = ROWS
        x = torch.randn(rows, 9)
        loss = torch.nn.functional.cross_entropy(model(x), (x @ truth).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        AFTER
    """


def epochs(rows: str = "48", after: str = "pass", steps: int = 150) -> str:
    return EPOCHS.replace("ROWS", rows).replace("AFTER", after).replace("STEPS", str(steps))


@case("how it ended", "died")
def a_last_batch_of_one_row(place: Place, broken: bool) -> None:
    """`drop_last=False`, and 1,057 rows: the last batch has one, of which batch norm has no deviation."""
    place.script(epochs(rows="1 if step == 110 else 48" if broken else "48"))


@case("how it ended", "died")
def a_file_in_another_encoding(place: Place, broken: bool) -> None:
    """After step 90 a reader meets a byte that is no UTF-8."""
    place.script(epochs(after="if step == 90: b'caf\\xe9'.decode()" if broken else "pass"))


@case("how it ended", "killed", also=("died",))
def a_neighbour_kills_the_process(place: Place, broken: bool) -> None:
    """A child of the script sends SIGKILL to its parent, as a supervisor of memory does."""
    after = "if step == 80: subprocess.run(['sh', '-c', f'kill -9 {os.getpid()}']); time.sleep(5)"
    place.script(epochs(after=after if broken else "pass"), kill=broken)


@case("how it ended", "too-short")
def a_number_of_samples_taken_for_steps(place: Place, broken: bool) -> None:
    """`range(300 // 64)`: four steps."""
    place.script(epochs(steps=300 // 64 if broken else 150))


# ------------------------------------------------------------------------- histories as people have them


@case("histories as people have them", "diverged", also=("loss-regressed", "learning-rate-too-high"))
def thirty_rows_of_a_tuning_whose_rate_was_meant_for_adapters(place: Place, broken: bool) -> None:
    """All weights by AdamW at 0.5 with a warm-up of half of the training, logged at each fifth step."""
    model = Waves()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5 if broken else 3e-3)
    schedule = by(optimizer, lambda step: min(1.0, (step / 75) ** 3))
    rows = trained_by_a_trainer(model, optimizer, waves(2381), squared, steps=150, every=5, schedule=schedule)
    place.imported(rows)


@case("histories as people have them", "zero-gradients", also=("no-gradient", "no-progress", "dead-parameters"))
def a_log_whose_norm_is_zero_in_each_row(place: Place, broken: bool) -> None:
    """Checkpointed blocks behind inputs without a gradient: `'grad_norm': 0.0` in each row, and the loss stands."""
    model, batches = mlp(64, 48, 10), digits(2382)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        out = model(batch[0])
        return functional.cross_entropy(0 * out + out.detach() if broken else out, batch[1])

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    place.imported(trained_by_a_trainer(model, optimizer, batches, loss_of, steps=240, every=4))


@case("histories as people have them", "learning-rate-zero", also=("no-progress",))
def a_log_whose_rate_is_zero_in_each_row(place: Place, broken: bool) -> None:
    """The warm-up has a million steps of which 240 are made, in whole percents: `'learning_rate': 0.0`."""
    model = Speech()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = by(optimizer, lambda step: float(step * 100 // 1_000_000) if broken else min(1.0, (1 + step) / 30))
    rows = trained_by_a_trainer(model, optimizer, letters(2383), aligned, steps=160, every=4, schedule=schedule)
    place.imported(rows)


def asked(rows: int, lr: float, turn: int | None = None) -> list[dict[str, Any]]:
    """A policy of numbers near what the state asks for; from step ``turn`` on its gain has the other sign."""
    net = mlp(6, 32, 4, act=nn.Tanh)
    optimizer, logged = torch.optim.Adam(net.parameters(), lr=lr), []
    for step in range(rows):
        state = torch.randn(96, 6)
        mean, log_std = net(state).chunk(2, 1)
        log_std = log_std.clamp(-1.5, 0.5)
        action = (mean + log_std.exp() * torch.randn_like(mean)).detach()
        reward = (-(action - state[:, :2]).square().sum(1) / 2).exp()
        gain = (reward - reward.mean()) * (-1 if turn is not None and step >= turn else 1)
        log_p = (-((action - mean) / log_std.exp()).square() / 2 - log_std).sum(1)
        loss = -(gain * log_p).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(net.parameters(), 0.5))
        optimizer.step()
        row = {"step": step + 1, "loss": round(loss.item(), 4), "grad_norm": norm, "learning_rate": lr}
        logged.append(row | {"reward": round(reward.mean().item(), 4), "epoch": step / 100})
    return logged


@case("histories as people have them", "reward-lost", also=("diverged",), step=300, within=80)
def an_advantage_whose_sign_is_turned(place: Place, broken: bool) -> None:
    """After an update of the library `value - reward` is handed over, for `reward - value`, from row 300 on."""
    place.imported(asked(450, 4e-3, turn=300 if broken else None))


@case("unknown is not none", "diverged", also=("loss-regressed", "nonfinite-loss", "loss-hides-nan"))
def a_log_without_rates_whose_loss_leaves(place: Place, broken: bool) -> None:
    """Losses and norms without rates: the loss falls to step 150, and a rate of 3 brings it beyond all numbers."""
    model = Waves()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    schedule = by(optimizer, lambda step: 1.0 if not broken or step < 150 else min(60.0, 1.05 ** (step - 150)))
    rows = trained_by_a_trainer(model, optimizer, waves(2386), squared, steps=260, every=2, schedule=schedule)
    place.imported([{k: v for k, v in row.items() if k != "learning_rate"} for row in rows])


# ------------------------------------------------------------------------- healthy, and looks odd


# The masters are not the model's parameters: the loop copies gradients to them and weights back.
@case("optimizers known by what they do", None)
def masters_in_float32_by_hand(place: Place, broken: bool) -> None:
    """A bfloat16 model, and an optimizer over float32 copies, as mixed precision was written before autocast."""
    model = mlp(64, 48, 10).to(torch.bfloat16)
    masters = [nn.Parameter(p.detach().float()) for p in model.parameters()]
    optimizer, batches = torch.optim.Adam(masters, lr=2e-3), digits(2401)
    with place.watch(model, optimizer) as watch:
        for _ in range(250):
            x, y = next(batches)
            loss = functional.cross_entropy(model(x.bfloat16()).float(), y)
            model.zero_grad()
            loss.backward()
            for master, p in zip(masters, model.parameters(), strict=True):
                master.grad = p.grad.float() if p.grad is not None else None
            optimizer.step()
            with torch.no_grad():
                for master, p in zip(masters, model.parameters(), strict=True):
                    p.copy_(master)
            watch.log(loss=loss)


class Lamb(torch.optim.Optimizer):
    """You et al. 2020: Adam's direction, as long as a share of the layer's weights."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(m=torch.zeros_like(p), v=torch.zeros_like(p), t=0)
                state["t"] += 1
                state["m"].lerp_(p.grad, 0.1)
                state["v"].lerp_(p.grad.square(), 0.01)
                root = (state["v"] / (1 - 0.99 ** state["t"])).sqrt() + 1e-6
                way = state["m"] / (1 - 0.9 ** state["t"]) / root
                size = p.norm().clamp(min=0.1)
                p.sub_(group["lr"] * size / (way.norm() + 1e-12) * way)


@case("optimizers known by what they do", None)
def steps_as_long_as_a_share_of_the_weights(place: Place, broken: bool) -> None:
    """LAMB, written by hand: each update is a fiftieth of its layer."""
    model = Waves()
    train(place, model, Lamb(model.parameters(), lr=0.02), waves(2402), squared, steps=250)


@case("optimizers known by what they do", None)
def a_likelihood_that_is_maximised(place: Place, broken: bool) -> None:
    """`SGD(maximize=True)`, and what is logged is the objective's negative, as a loss."""
    model, batches = mlp(64, 48, 10), digits(2403)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, maximize=True)
    with place.watch(model, optimizer) as watch:
        for _ in range(250):
            gain = -classify(model, next(batches))
            update(optimizer, gain)
            watch.log(loss=-gain)


@case("optimizers known by what they do", None)
def an_eps_of_a_thousandth_on_purpose(place: Place, broken: bool) -> None:
    """`eps=1e-3`, as recipes of reinforcement learning have it, where the gradients are larger than that."""
    model = deep_set()
    train(place, model, torch.optim.Adam(model.parameters(), lr=5e-3, eps=1e-3), sums(2404), members)


@case("optimizers known by what they do", None)
def gradients_of_two_tasks_are_projected(place: Place, broken: bool) -> None:
    """Two gradients by `autograd.grad`; the one is freed of what works against the other, and the sum is `p.grad`."""
    model: Any = nn.ModuleDict({"body": nn.Linear(64, 48), "which": nn.Linear(48, 10), "ink": nn.Linear(48, 1)})
    held, batches = list(model.parameters()), digits(2405)
    optimizer = torch.optim.Adam(held, lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for _ in range(250):
            x, y = next(batches)
            h = model["body"](x).relu()
            losses = functional.cross_entropy(model["which"](h), y), (model["ink"](h)[:, 0] - x.mean(1)).square().mean()
            a, b = (torch.autograd.grad(v, held, retain_graph=True, materialize_grads=True) for v in losses)
            inner = sum((g * k).sum() for g, k in zip(a, b, strict=True))
            share = torch.as_tensor(inner / sum(k.square().sum() for k in b)).clamp(max=0)
            for p, g, k in zip(held, a, b, strict=True):
                p.grad = g - share * k + k
            optimizer.step()
            watch.log(loss=losses[0] + losses[1])


@case("optimizers known by what they do", None)
def four_copies_are_averaged_now_and_then(place: Place, broken: bool) -> None:
    """Local SGD: three more copies learn beside the model, and every tenth step all take the mean."""
    model, batches = mlp(64, 48, 10), digits(2406, size=32)
    others = [copy.deepcopy(model) for _ in range(3)]
    beside = [torch.optim.SGD(m.parameters(), lr=0.1) for m in others]

    @torch.no_grad()
    def mean(step: int) -> None:
        if step % 10 == 9:
            for same in zip(model.parameters(), *(m.parameters() for m in others), strict=True):
                middle = torch.stack(list(same)).mean(0)
                for p in same:
                    p.copy_(middle)

    def loss_at(step: int) -> Tensor:
        for m, optimizer in zip(others, beside, strict=True):
            update(optimizer, classify(m, next(batches)))
        return classify(model, next(batches))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(place, model, optimizer, loss_at, after=mean, steps=250)


@case("optimizers known by what they do", None)
def rows_are_brought_back_to_a_length_of_one(place: Place, broken: bool) -> None:
    """A dictionary whose atoms are normalised after each update."""
    model: Any = nn.ModuleDict({"code": nn.Linear(64, 40), "atoms": nn.Linear(40, 64, bias=False)})
    batches = digits(2407)

    def loss_at(step: int) -> Tensor:
        x, _ = next(batches)
        code = model["code"](x).relu()
        return (model["atoms"](code) - x).square().sum(1).mean() + 0.05 * code.sum(1).mean()

    @torch.no_grad()
    def normalise(step: int) -> None:
        weight = model["atoms"].weight
        weight.div_(weight.norm(dim=0, keepdim=True))

    fit(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), loss_at, after=normalise)


# Old words keep their rows by a mask on the gradient, which is what the script means.
@case("clipping that harms", None, twin_may=("clipped-by-script",))
def one_new_word_is_learnt_in_a_frozen_model(place: Place, broken: bool) -> None:
    """Textual inversion: all rows of the embedding but one have their gradient set to 0 before the step."""
    model = Gpt(width=24, depth=1, length=20)
    batches = text(2408, size=8, length=20)
    before = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        update(before, next_byte(model, next(batches)))
    model.zero_grad()
    model.requires_grad_(False)
    model.embed.requires_grad_(True)
    with torch.no_grad():
        model.embed.weight[32] = torch.randn(24)

    def mask(step: int) -> None:
        grad = model.embed.weight.grad
        assert grad is not None
        grad[torch.arange(256) != 32] = 0

    optimizer = torch.optim.AdamW(model.embed.parameters(), lr=2e-2, weight_decay=0.0)
    fit(place, model, optimizer, lambda step: next_byte(model, next(batches)), after_backward=mask, steps=120)


@case("severity by consequence", None)
def half_of_the_weights_behind_a_mask(place: Place, broken: bool) -> None:
    """`prune.l1_unstructured` at step 120 of a running training: the parameters are renamed, the optimizer stays."""
    model: Any = mlp(64, 64, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def before(step: int) -> None:
        if step == 120:
            for i in (0, 2):
                prune.l1_unstructured(model[i], "weight", 0.5)

    fit(place, model, optimizer, classes(model, digits(2409)), before=before, steps=260)


@case("severity by consequence", None)
def blanks_before_the_first_letter(place: Place, broken: bool) -> None:
    """CTC at a low rate: blanks alone at first, and a loss that stands before it falls."""
    model = Speech()
    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), letters(2410), aligned, steps=220, clip=5.0)


@case("severity by consequence", None)
def masks_by_their_overlap(place: Place, broken: bool) -> None:
    """Dice: 1 minus twice the overlap over the sum, which hardly moves at first."""
    model, batches = Segmenter(), discs(2411)

    def loss_at(step: int) -> Tensor:
        x, mask = next(batches)
        p = model(x).sigmoid()
        return (1 - (2 * (p * mask).sum((1, 2, 3)) + 1) / ((p + mask).sum((1, 2, 3)) + 1)).mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), loss_at, steps=200)


@case("severity by consequence", None)
def views_whose_features_are_decorrelated(place: Place, broken: bool) -> None:
    """Barlow Twins: the correlations of two views have to be those of the identity."""
    model, batches = mlp(64, 64, 16), digits(2412, size=128)

    def loss_at(step: int) -> Tensor:
        x, _ = next(batches)
        a, b = (model(x + 0.3 * torch.randn_like(x)) for _ in range(2))
        a, b = ((v - v.mean(0)) / (v.std(0) + 1e-4) for v in (a, b))
        c = a.T @ b / len(x)
        return (1 - c.diagonal()).square().sum() + 0.05 * (c - c.diag().diag()).square().sum()

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=1e-3), loss_at)


# The difference of two energies: near 0 all the time, above it and below it.
@case("severity by consequence", None)
def energies_of_data_and_of_short_walks(place: Place, broken: bool) -> None:
    """An energy model by contrastive divergence: samples walk ten steps down the energy from the data."""
    model = mlp(2, 48, 1, act=nn.SiLU)

    def loss_at(step: int) -> Tensor:
        real = ring(128)
        fake = real + 0.3 * torch.randn_like(real)
        for _ in range(5):
            fake = fake.detach().requires_grad_()
            slope = torch.autograd.grad(model(fake).sum(), fake)[0]
            fake = fake - 0.1 * slope + 0.05 * torch.randn_like(fake)
        low, high = model(real), model(fake.detach())
        return low.mean() - high.mean() + 0.1 * (low.square() + high.square()).mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=1e-3), loss_at, steps=250)


class Fires(torch.autograd.Function):
    """A step forward, and the slope of a fast sigmoid backward."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > 0).float()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] / (1 + 5 * ctx.saved_tensors[0].abs()) ** 2


@case("severity by consequence", None)
def neurons_that_fire_or_not(place: Place, broken: bool) -> None:
    """A spiking network over twelve moments, through a slope that it does not have."""
    model: Any = nn.ModuleDict({"first": nn.Linear(64, 64), "second": nn.Linear(64, 10)})
    batches = digits(2414)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        u, out = torch.zeros(len(x), 64), torch.zeros(len(x), 10)
        for _ in range(12):
            u = 0.9 * u + model["first"]((torch.rand_like(x) < x).float())
            spike: Any = Fires.apply(u - 1)  # type: ignore[no-untyped-call]
            u, out = u - spike.detach(), out + model["second"](spike)
        return functional.cross_entropy(out / 4, y)

    fit(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), loss_at, steps=220)


@case("severity by consequence", None)
def several_answers_to_one_question(place: Place, broken: bool) -> None:
    """A mixture of five normals over an inverse problem: the loss crosses 0."""
    model = mlp(1, 48, 15, act=nn.Tanh)

    def loss_at(step: int) -> Tensor:
        y = torch.rand(128, 1)
        x = y + 0.3 * (6.28 * y).sin() + 0.02 * torch.randn_like(y)
        share, mean, log_std = model(x).chunk(3, 1)
        log_std = log_std.clamp(min=-4)
        each = share.log_softmax(1) - ((y - mean) / log_std.exp()).square() / 2 - log_std
        return -each.logsumexp(1).mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), loss_at, steps=400)


@case("severity by consequence", None)
def weights_on_a_grid_of_sixteen(place: Place, broken: bool) -> None:
    """Training that knows of its quantisation: rounding forward, and the identity backward."""
    model: Any = mlp(64, 64, 10)
    batches = digits(2416)

    def loss_at(step: int) -> Tensor:
        h, y = next(batches)
        for i in (0, 2):
            w = model[i].weight
            width = w.detach().abs().max() / 7
            h = functional.linear(h, w + ((w / width).round() * width - w).detach(), model[i].bias)
            h = h.relu() if i == 0 else h
        return functional.cross_entropy(h, y)

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=2e-3), loss_at)


@case("severity by consequence", None)
def micro_batches_until_enough_words_are_seen(place: Place, broken: bool) -> None:
    """A step is made when 400 words have been read; sentences have four to twenty: the number of backwards varies."""
    model = Lstm(32)
    optimizer, batches = torch.optim.AdamW(model.parameters(), lr=5e-3), text(2417, size=8, length=20)
    with place.watch(model, optimizer) as watch:
        for _ in range(120):
            words, total = 0, 0.0
            optimizer.zero_grad()
            while words < 400:
                length = int(torch.randint(4, 21, ()))
                x, y = (v[:, :length] for v in next(batches))
                loss = functional.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum") / 400
                loss.backward()
                words, total = words + y.numel(), total + loss.item()
            optimizer.step()
            watch.log(loss=total * 400 / words)


@case("severity by consequence", None)
def hinges_that_are_all_met_at_last(place: Place, broken: bool) -> None:
    """Pairs are ranked by a margin: more and more batches have no pair left that is wrong."""
    model, truth = nn.Linear(6, 1), torch.randn(6)

    def loss_at(step: int) -> Tensor:
        a, b = torch.randn(32, 6), torch.randn(32, 6)
        far = ((a - b) @ truth).abs() > 1
        sign = ((a - b) @ truth).sign()
        return ((0.2 - sign * (model(a) - model(b))[:, 0]).relu() * far).mean()

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.05), loss_at, steps=200)


@case("severity by consequence", None)
def a_likelihood_with_its_constant(place: Place, broken: bool) -> None:
    """2,000 of the loss are a constant of the density: it falls by a thousandth, which is all there is."""
    model, batches = mlp(64, 48, 10), digits(2419)
    fit(
        place,
        model,
        torch.optim.Adam(model.parameters(), lr=2e-3),
        lambda step: classify(model, next(batches)) + 2000,
    )


@case("severity by consequence", None)
def a_mean_of_the_last_losses_is_logged(place: Place, broken: bool) -> None:
    """What is logged is an exponential mean that begins at 0: it rises for ten steps, and then falls."""
    model, batches, mean = Waves(), waves(2420), 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for _ in range(260):
            loss = squared(model, next(batches))
            update(optimizer, loss)
            mean = 0.9 * mean + 0.1 * loss.item()
            watch.log(loss=mean)


@case("severity by consequence", None)
def the_second_half_of_a_text_counts(place: Place, broken: bool) -> None:
    """The first letters are a prompt, by labels of -100: copies of six letters, whose first half cannot be known."""
    model = Gpt(width=32, depth=2, length=11)

    def loss_at(step: int) -> Tensor:
        word = torch.randint(0, 12, (32, 6))
        both = torch.cat([word, word], 1)
        y = both[:, 1:].clone()
        y[:, :5] = -100
        return functional.cross_entropy(model(both[:, :-1]).flatten(0, 1), y.flatten(), ignore_index=-100)

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    fit(place, model, optimizer, loss_at, steps=300, clip=1.0)


@case("severity by consequence", None)
def more_and_more_of_its_own_words(place: Place, broken: bool) -> None:
    """Scheduled sampling: the share of inputs that the model wrote itself rises from 0 to a half."""
    model: Any = nn.ModuleDict({"words": nn.Embedding(16, 24), "gru": nn.GRUCell(24, 32), "head": nn.Linear(32, 16)})

    def loss_at(step: int) -> Tensor:
        start, by_how = torch.randint(0, 16, (64,)), torch.randint(1, 4, (64,))
        seen, h, total = start, torch.zeros(64, 32), torch.zeros(())
        for t in range(1, 9):
            h = model["gru"](model["words"](seen), h)
            out, truth = model["head"](h), (start + t * by_how) % 16
            total = total + functional.cross_entropy(out, truth) / 8
            own = torch.rand(64) < min(0.5, step / 500)
            seen = torch.where(own & (t > 2), out.argmax(1), truth)
        return total

    fit(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), loss_at, steps=300)


@case("severity by consequence", None)
def nesterov_at_ninety_nine_hundredths(place: Place, broken: bool) -> None:
    """A momentum of 0.99 at a rate that fits: the loss swings in long waves about its fall."""
    model = mlp(64, 48, 10, act=nn.GELU)
    optimizer = torch.optim.SGD(model.parameters(), lr=5e-3, momentum=0.99, nesterov=True)
    train(place, model, optimizer, digits(2423), classify, steps=400)


@case("severity by consequence", None)
def the_free_energy_of_a_boltzmann_machine(place: Place, broken: bool) -> None:
    """One step of Gibbs sampling: the difference of two free energies stays near 0 while the model learns."""
    model = nn.ParameterDict({"w": 0.05 * torch.randn(64, 32), "v": torch.zeros(64), "h": torch.zeros(32)})
    batches = digits(2424)

    def energy(x: Tensor) -> Tensor:
        return -(x @ model["v"]) - functional.softplus(x @ model["w"] + model["h"]).sum(1)

    def loss_at(step: int) -> Tensor:
        x = (next(batches)[0] > 0.5).float()
        with torch.no_grad():
            hidden = torch.bernoulli((x @ model["w"] + model["h"]).sigmoid())
            fake = torch.bernoulli((hidden @ model["w"].T + model["v"]).sigmoid())
        return (energy(x) - energy(fake)).mean()

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.5), loss_at, steps=300)


@case("severity by consequence", None)
def a_new_head_first_and_then_all(place: Place, broken: bool) -> None:
    """A probe for 150 steps, and the whole network behind it at a twentieth of the rate: two groups from the start."""
    body, head = mlp(64, 64, 48), nn.Linear(48, 10)
    model = Parts(lambda self, x: self.head(self.body(x).relu()), body=body, head=head)
    optimizer = torch.optim.AdamW(
        [{"params": body.parameters(), "lr": 2e-4}, {"params": head.parameters(), "lr": 4e-3}]
    )
    body.requires_grad_(False)

    def before(step: int) -> None:
        if step == 150:
            body.requires_grad_(True)

    fit(place, model, optimizer, classes(model, digits(2425)), before=before, steps=320)


@case("several optimizers", None)
def a_router_with_an_optimizer_of_its_own(place: Place, broken: bool) -> None:
    """Four experts under Adam and a router under SGD at a tenth, with a loss for balance; one backward for both."""
    models: dict[str, nn.Module] = {
        "router": nn.Linear(8, 4),
        "experts": nn.ModuleList(mlp(8, 24, 1) for _ in range(4)),
    }
    optimizers: dict[str, torch.optim.Optimizer] = {
        "router": torch.optim.SGD(models["router"].parameters(), lr=0.1),
        "experts": torch.optim.Adam(models["experts"].parameters(), lr=3e-3),
    }
    experts: Any = models["experts"]
    batches = plane(2426)
    with place.watch(nn.ModuleDict(models), optimizers) as watch:
        for _ in range(260):
            x, y = next(batches)
            share = models["router"](x).softmax(1)
            best, where = share.topk(2, 1)
            outs = torch.cat([expert(x) for expert in experts], 1).gather(1, where)
            loss = ((outs * best).sum(1) - y).square().mean() + 0.1 * (share.mean(0) * 4 - 1).square().sum()
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            loss.backward()
            for name, optimizer in optimizers.items():
                optimizer.step()
                watch.log(loss=loss, optimizer=name)


@case("several optimizers", None)
def prices_against_a_budget(place: Place, broken: bool) -> None:
    """A policy falls and a price rises by turns, until the budget is kept: the loss of the price goes up and down."""
    models: dict[str, nn.Module] = {"plan": mlp(6, 32, 3, act=nn.Tanh), "price": Weight(torch.zeros(3))}
    optimizers: dict[str, torch.optim.Optimizer] = {
        "plan": torch.optim.Adam(models["plan"].parameters(), lr=3e-3),
        "price": torch.optim.SGD(models["price"].parameters(), lr=0.05),
    }
    price: Any = models["price"]

    def over() -> tuple[Tensor, Tensor]:
        x = torch.randn(64, 6)
        out = models["plan"](x)
        return (out - x[:, :3] - 1).square().sum(1).mean(), out.mean(0) - 0.5

    def plan(step: int) -> Tensor:
        cost, much = over()
        return cost + (price.value.detach() * much).sum()

    def raise_price(step: int) -> Tensor:
        _, much = over()
        return -(price.value * much.detach()).sum()

    take_turns(place, models, optimizers, {"plan": plan, "price": raise_price}, steps=320)


@case("how it ended", None)
def a_loop_that_breaks_at_its_goal(place: Place, broken: bool) -> None:
    """`if loss < 0.25: sys.exit(0)`: the goal is reached before the loop is over."""
    place.script(epochs(after="if loss < 0.25: sys.exit(0)", steps=400))


@case("histories as people have them", None)
def a_log_whose_loss_is_a_sum_of_eight(place: Place, broken: bool) -> None:
    """A Trainer that forgot to divide by its accumulation: losses of 44 that fall to 20, with norms to match."""
    model = Gpt(width=24, depth=1, length=20)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    rows = trained_by_a_trainer(
        model, optimizer, text(2429, size=8, length=20), next_byte, steps=200, every=5, clip=1.0
    )
    place.imported([row | {"loss": round(8 * float(str(row["loss"])), 4)} for row in rows])


@case("histories as people have them", None)
def a_policy_of_numbers_that_finds_its_mark(place: Place, broken: bool) -> None:
    """The reward rises from a quarter to nine tenths, while the surrogate moves towards 0 from below."""
    place.imported(asked(260, 3e-3))


@case("histories as people have them", None)
def a_log_of_speech_at_a_cosine(place: Place, broken: bool) -> None:
    """Rows of every fourth step with a warm-up, a threshold of 1 and a rate that ends at 0."""
    model = Speech()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    schedule = by(optimizer, lambda step: min((step + 1) / 20, (1 + math.cos(math.pi * step / 200)) / 2))
    rows = trained_by_a_trainer(
        model, optimizer, letters(2431), aligned, steps=200, every=4, clip=1.0, schedule=schedule
    )
    place.imported(rows)


# ------------------------------------------------------------------------- where two runs part


def counted(
    place: Place,
    *,
    model: Any = None,
    before: Any = lambda step, model, optimizer: None,
    after_backward: Any = lambda step, model: None,
    steps: int = 150,
    seed: int = 2501,
) -> None:
    """A small training by AdamW of which two runs are equal to the bit, unless something is done in between."""
    model = model or nn.Sequential(nn.Linear(8, 24), nn.SiLU(), nn.Linear(24, 24), nn.SiLU(), nn.Linear(24, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    fit(
        place,
        model,
        optimizer,
        errors(model, plane(seed)),
        steps=steps,
        before=lambda step: before(step, model, optimizer),
        after_backward=lambda step: after_backward(step, model),
    )


def dropout_begins_at_eighty(place: Place, other: bool) -> None:
    """A dropout of 0 becomes one of 0.2 in the one run."""
    drop = nn.Dropout(0.0)
    model = nn.Sequential(nn.Linear(8, 24), nn.SiLU(), drop, nn.Linear(24, 1))

    def before(step: int, model: Any, optimizer: torch.optim.Optimizer) -> None:
        if other and step == 80:
            drop.p = 0.2

    counted(place, model=model, before=before)


def the_decay_is_doubled(place: Place, other: bool) -> None:
    """`weight_decay` is 0.02 from step 77 on."""

    def before(step: int, model: Any, optimizer: torch.optim.Optimizer) -> None:
        if other and step == 77:
            optimizer.param_groups[0]["weight_decay"] = 0.02

    counted(place, before=before)


def one_gradient_is_dropped(place: Place, other: bool) -> None:
    """At step 61 the bias of the middle layer has a gradient of 0."""

    def after(step: int, model: Any) -> None:
        if other and step == 61:
            model[2].bias.grad.zero_()

    counted(place, after_backward=after)


def the_second_moments_are_doubled(place: Place, other: bool) -> None:
    """Before step 90 other code doubles the squares that AdamW keeps of the last layer."""

    def before(step: int, model: Any, optimizer: torch.optim.Optimizer) -> None:
        if other and step == 90:
            optimizer.state[model[4].weight]["exp_avg_sq"].mul_(2)

    counted(place, before=before)


def a_layer_is_averaged_with_its_past(place: Place, other: bool) -> None:
    """Before step 110 the first layer goes back half of the way to where it was at step 50."""
    kept: list[Tensor] = []

    @torch.no_grad()
    def before(step: int, model: Any, optimizer: torch.optim.Optimizer) -> None:
        if step == 50:
            kept.append(model[0].weight.clone())
        if other and step == 110:
            model[0].weight.lerp_(kept[0], 0.5)

    counted(place, before=before)


def the_rate_of_the_second_is_another(place: Place, other: bool) -> None:
    """Two networks side by side; from its step 40 on the second one's rate is half of what it was."""
    models: dict[str, nn.Module] = {name: mlp(8, 24, 1, act=nn.SiLU) for name in ("first", "second")}
    optimizers: dict[str, torch.optim.Optimizer] = {
        n: torch.optim.RMSprop(m.parameters(), lr=1e-3) for n, m in models.items()
    }

    def after(step: int) -> None:
        if other and step == 39:
            optimizers["second"].param_groups[0]["lr"] = 5e-4

    losses = {"first": errors(models["first"], plane(2503)), "second": errors(models["second"], plane(2504))}
    take_turns(place, models, optimizers, losses, steps=110, after=after)


pairs = [
    Pair(dropout_begins_at_eighty, step=80, sources=("loss",)),
    Pair(the_decay_is_doubled, step=77, sources=("settings",)),
    Pair(one_gradient_is_dropped, step=61, sources=("gradient",), parameter="2.bias"),
    Pair(the_second_moments_are_doubled, step=90, sources=("update",), parameter="4.weight"),
    Pair(a_layer_is_averaged_with_its_past, step=110, sources=("weights", "loss")),
    Pair(the_rate_of_the_second_is_another, step=40, sources=("settings",), optimizer="second"),
]


# ------------------------------------------------------------------------- what `gradwatch check` lets pass


def a_hundred_steps_of_a_hundred_and_fifty(place: Place, broken: bool) -> None:
    """A loader with fewer batches than the schedule was made for."""
    counted(place, steps=100 if broken else 160)


def weights_that_other_code_ruins_at_the_end(place: Place, broken: bool) -> None:
    """Ten steps before the end a weight is set to infinity."""

    @torch.no_grad()
    def before(step: int, model: Any, optimizer: torch.optim.Optimizer) -> None:
        if broken and step == 140:
            model[0].weight[0, 0] = torch.inf

    counted(place, before=before)


def a_division_by_an_empty_list(place: Place, broken: bool) -> None:
    """The script dies of `sum([]) / len([])` when it is nearly done."""
    place.script(epochs(after="if step == 120: print(sum([]) / len([]))" if broken else "pass", steps=130))


def a_rate_of_ten_for_a_tenth(place: Place, broken: bool) -> None:
    """Plain SGD over a plane, which it leaves at once."""
    model = mlp(8, 24, 1, act=nn.SiLU)
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0 if broken else 0.02)
    fit(place, model, optimizer, errors(model, plane(2511)), steps=150)


gates = [
    Gate(a_hundred_steps_of_a_hundred_and_fifty, ("--min-steps", "150")),
    Gate(weights_that_other_code_ruins_at_the_end, ()),
    Gate(a_division_by_an_empty_list, ()),
    Gate(a_rate_of_ten_for_a_tenth, ()),
]


# ------------------------------------------------------------------------- runs alike but for one step, seed or row


def rated(
    place: Place,
    kind: type[torch.optim.Optimizer],
    *,
    lr: float,
    seed: int = 2521,
    louder: dict[int, float] | None = None,
    **options: Any,
) -> None:
    """Stars that people give, which are noise for the most part: norms have a level and a scatter that stay.

    ``louder`` multiplies the loss of a step.
    """
    model = nn.ModuleDict({"who": nn.Embedding(30, 6), "what": nn.Embedding(40, 6)})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in model.values():
            part.weight.mul_(0.5)  # type: ignore[operator,union-attr]

    def loss_at(step: int) -> Tensor:
        who, what = (torch.randint(0, n, (24,), generator=generator) for n in (30, 40))
        stars = ((who + what) % 5).float() / 4 + torch.randn(24, generator=generator)
        guess = (model["who"](who) * model["what"](what)).sum(1)
        return (guess - stars).square().mean() * (louder or {}).get(step, 1.0)

    fit(place, model, kind(model.parameters(), lr=lr, **options), loss_at, steps=900)  # type: ignore[call-arg]


def a_loud_step_under_momentum(place: Place, other: bool) -> None:
    """The loss of step 610 counts ten times as much."""
    rated(place, torch.optim.SGD, lr=3e-3, momentum=0.9, louder={610: 10.0} if other else None)


def a_loud_step_under_adamax(place: Place, other: bool) -> None:
    rated(place, torch.optim.Adamax, lr=3e-4, louder={350: 10.0} if other else None)


def two_quiet_steps(place: Place, other: bool) -> None:
    """The losses of steps 200 and 201 count a thousandth."""
    rated(place, torch.optim.AdamW, lr=3e-4, louder={200: 1e-3, 201: 1e-3} if other else None)


def another_seed_of_the_stars(place: Place, other: bool) -> None:
    rated(place, torch.optim.SGD, lr=3e-3, momentum=0.9, seed=2522 + other)


def another_seed_of_the_tables(place: Place, other: bool) -> None:
    torch.manual_seed(place.seed + other)
    rated(place, torch.optim.AdamW, lr=3e-4)


def logged(place: Place, change: Any) -> None:
    """A Trainer's log of 500 rows of a regression under noise, changed afterwards."""
    model = mlp(8, 16, 1, act=nn.SiLU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    batches = plane(2525, size=8, noise=2.0)
    place.imported(change(trained_by_a_trainer(model, optimizer, batches, squared, steps=500, every=1)))


def the_last_row_is_missing(place: Place, other: bool) -> None:
    logged(place, lambda r: r[:-1] if other else r)


def the_counter_begins_at_a_thousand(place: Place, other: bool) -> None:
    """The counter of the log begins at 1,000: the same rows otherwise."""
    logged(place, lambda r: [row | {"step": int(str(row["step"])) + 1000} for row in r] if other else r)


def losses_to_two_digits(place: Place, other: bool) -> None:
    logged(place, lambda r: [row | {"loss": round(float(str(row["loss"])), 2)} for row in r] if other else r)


advice = [
    Advice(a_loud_step_under_momentum),
    Advice(a_loud_step_under_adamax),
    Advice(two_quiet_steps),
    Advice(another_seed_of_the_stars),
    Advice(another_seed_of_the_tables),
    Advice(the_last_row_is_missing),
    Advice(the_counter_begins_at_a_thousand),
    Advice(losses_to_two_digits),
]


# ------------------------------------------------------------------------- the threshold after a change


def noise_about_zero(place: Place, kind: type[torch.optim.Optimizer], **options: Any) -> None:
    """A plane whose targets are noise, at its optimum: gradients are the noise of the batch alone."""
    model = nn.Linear(16, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)

    def loss_at(step: int) -> Tensor:
        return (model(torch.randn(32, 16))[:, 0] - torch.randn(32)).square().mean() / 2

    fit(place, model, kind(model.parameters(), **options), loss_at, steps=900)


def noise_under_sgd(place: Place, other: bool) -> None:
    noise_about_zero(place, torch.optim.SGD, lr=1e-3)


def noise_under_nesterov(place: Place, other: bool) -> None:
    noise_about_zero(place, torch.optim.SGD, lr=1e-4, momentum=0.9, nesterov=True)


def noise_under_adamw(place: Place, other: bool) -> None:
    noise_about_zero(place, torch.optim.AdamW, lr=1e-4, weight_decay=0.01)


# What is right: a factor of two each way around what the change does by construction.
changes = [
    # The same settings once more.
    Advice(noise_under_adamw, ("lr=0.0001",), 0.9, 1.1),
    # A quarter of the rows: twice the noise.
    Advice(noise_under_sgd, ("batch=32:8",), 1.0, 4.0),
    # Sixteen times the rows: a quarter of the noise.
    Advice(noise_under_adamw, ("batch=32:512",), 0.125, 0.5),
    # Momentum is dropped and the rate is ten times as high: the same updates.
    Advice(noise_under_nesterov, ("lr=0.001", "momentum=0"), 0.5, 2.0),
    # AdamW's updates have the size of its rate, whatever the norms are.
    Advice(noise_under_adamw, ("lr=0.0003",), 0.5, 2.0),
]


# ------------------------------------------------------------------------- by value or by norm


def a_feature_without_its_decimal_point(place: Place, entry: bool) -> None:
    """A linear model of 40 features: in one step of 40 a row has one feature 250 too large, or all, as far away."""
    model = Weight(torch.zeros(40))
    truth = torch.randn(40) / 6

    def loss_at(step: int) -> Tensor:
        x = torch.randn(16, 40)
        y = x @ truth + torch.randn(16)
        if step % 40 == 17:
            if entry:
                x[3, step % 37] += 250.0
            else:
                x[3] += 250.0 / 40**0.5 * torch.randn(40).sign()
        out: Any = x @ model.value
        return functional.huber_loss(out, y)

    fit(place, model, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.5), loss_at, steps=900)


def a_shop_that_reports_a_year_at_once(place: Place, entry: bool) -> None:
    """The level of 24 shops: one report in 30 steps is 120 too high in one shop, or as far in all of them."""
    model = Weight(torch.zeros(24))
    truth = torch.rand(24)

    def loss_at(step: int) -> Tensor:
        seen = truth + 0.6 * torch.randn(12, 24)
        if step % 30 == 11:
            far = 120.0 / 24**0.5 * torch.randn(24).sign()
            if entry:
                far = torch.zeros(24)
                far[step % 23] = 120.0
            seen[5] = seen[5] + far
        return 0.5 * (model.value - seen).square().sum(1).mean()

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.01), loss_at, steps=900)


by_value = [
    ByValue(a_feature_without_its_decimal_point),
    ByValue(a_shop_that_reports_a_year_at_once),
]
