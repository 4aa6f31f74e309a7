"""The ninth round: planted faults by mechanisms of their own once more, and what the advice has to say by construction.

Written by someone who had read the pages of the findings and the names of the earlier cases, and none of the rules.
Before gradwatch was run on any of it, losses and norms alone were looked at: each planted fault does what its label
says, each healthy training learns. A label lists the codes whose pages describe what was planted, the best one first.
At the end stand pairs of runs alike but for one step, seed or row, changes whose effect on the threshold is known, and
trainings of which it is known whether single entries carry the large steps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from lab import (
    STEPS,
    Advice,
    Batch,
    ByValue,
    Cases,
    Cnn,
    Gpt,
    Lstm,
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
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

case = Cases()


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023: the sign of an interpolated momentum."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float = 1e-4, decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                held = self.state[p].setdefault("momentum", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * (0.9 * held + 0.1 * p.grad).sign())
                held.mul_(0.99).add_(0.01 * p.grad)


class StraightThrough(torch.autograd.Function):
    """Weights on a grid of sixteenths, with the gradient of the weights themselves."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return (weight * 16).round() / 16

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def changed(batches: Iterator[Batch], change: Callable[[Tensor, Tensor], Batch]) -> Iterator[Batch]:
    for x, y in batches:
        yield change(x, y)


def at(step: int, change: Callable[[Tensor, Tensor], Batch], broken: bool) -> Callable[[int, Batch], Batch]:
    """Change the batch of one step."""
    return lambda now, batch: change(*batch) if broken and now == step else batch


def matrices(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.ndim == 2]


def vectors(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.ndim != 2]


# ------------------------------------------------------------------------- nothing is trained


@case("nothing is trained", "no-progress")
def the_best_weights_are_restored_after_every_step(place: Place, broken: bool) -> None:
    """Early stopping restores the "best" weights after each step, and an inverted comparison keeps the first ones."""
    model = mlp(64, 48, 10)
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.1), digits(1001, size=256)
    best = copy.deepcopy(model.state_dict())
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            loss = classify(model, next(batches))
            update(optimizer, loss)
            if broken:
                model.load_state_dict(best)
            watch.log(loss=loss)


# The advantage within a group of one is exactly 0, and so are loss and gradient.
@case("nothing is trained", "zero-gradients", also=("constant-loss", "dead-parameters", "no-progress"))
def groups_of_a_single_completion(place: Place, broken: bool) -> None:
    """GRPO with `num_generations=1`: the reward minus the mean of its group is 0."""
    net = mlp(8, 32, 6)
    optimizer, size = torch.optim.Adam(net.parameters(), lr=3e-3), 1 if broken else 8
    with place.watch(net, optimizer) as watch:
        for _ in range(STEPS):
            state = torch.randn(32, 8)
            log_p = net(state).log_softmax(1)
            action = torch.multinomial(log_p.detach().exp(), size, replacement=True)
            reward = (action == state[:, :6].argmax(1, keepdim=True)).float()
            loss = -((reward - reward.mean(1, keepdim=True)) * log_p.gather(1, action)).mean()
            update(optimizer, loss)
            watch.log(loss=loss)


class Scale(torch.autograd.Function):
    """A scale per channel whose backward forgets the scale, or not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, kind: str) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.kind = kind
        return x * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        x, scale = ctx.saved_tensors
        right = (gradient * x).sum(0)
        return gradient * scale, {"none": None, "zeros": torch.zeros_like(scale), "right": right}[ctx.kind], None


def scaled(kind: str) -> Parts:
    return Parts(
        lambda self, x: self.head(Scale.apply(self.body(x).tanh(), self.scale.value, kind)),
        body=mlp(64, 48, 48),
        scale=Weight(torch.ones(48)),
        head=nn.Linear(48, 10),
    )


@case("nothing is trained", "no-gradient", parameter="scale")
def a_backward_of_ones_own_that_returns_none(place: Place, broken: bool) -> None:
    """An autograd function for a fused layer returns None where the gradient of its scale belongs."""
    model = scaled("none" if broken else "right")
    train(place, model, torch.optim.AdamW(model.parameters(), lr=2e-3), digits(1003), classify)


@case("nothing is trained", "dead-parameters", parameter="scale")
def a_backward_of_ones_own_that_returns_zeros(place: Place, broken: bool) -> None:
    """The same with zeros, left over from a first draft."""
    model = scaled("zeros" if broken else "right")
    train(place, model, torch.optim.AdamW(model.parameters(), lr=2e-3), digits(1004), classify)


# The first layer's weight and bias have a gradient of exactly 0: `round` has the slope 0.
@case("nothing is trained", "dead-parameters", also=("no-progress",), parameter="weight")
def weights_on_a_grid_without_a_straight_through(place: Place, broken: bool) -> None:
    """Quantisation-aware training by `round` alone: no quantised weight learns, the biases do."""

    class Quantised(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            weight = (self.weight * 16).round() / 16 if broken else StraightThrough.apply(self.weight)
            return functional.linear(input, weight, self.bias)

    model = nn.Sequential(Quantised(64, 48), nn.ReLU(), Quantised(48, 10))
    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(1005), classify)


@case("nothing is trained", "learning-rate-zero", step=60)
def a_warm_up_with_its_ends_the_wrong_way_round(place: Place, broken: bool) -> None:
    """`LinearLR(start_factor=1, end_factor=0)` for 60 steps: the rate is 0 from there on."""
    model = Cnn()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    ends = (1.0, 0.0) if broken else (0.01, 1.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, *ends, total_iters=60)
    train(place, model, optimizer, digits(1006, size=32), classify, steps=240, schedule=schedule)


@case("nothing is trained", "learning-rate-zero", step=100)
def milestones_with_a_factor_of_zero(place: Place, broken: bool) -> None:
    """`MultiStepLR(gamma=0.0)`: a field of the configuration that was never filled in."""
    model = Lstm(32)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [100, 160], gamma=0.0 if broken else 0.5)
    train(place, model, optimizer, text(1007, size=8, length=24), next_byte, steps=220, schedule=schedule)


@case("nothing is trained", "learning-rate-zero", also=("no-progress",))
def resumed_after_the_end_of_its_schedule(place: Place, broken: bool) -> None:
    """A second stage loads the first stage's schedule, which had come to its end."""
    model = mlp(64, 48, 10, act=nn.GELU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 400))
    kept = schedule.state_dict() | {"last_epoch": 400, "_last_lr": [0.0]}
    if broken:
        schedule.load_state_dict(kept)
        optimizer.param_groups[0]["lr"] = 0.0
    train(place, model, optimizer, digits(1008), classify, schedule=schedule)


# 300 signs times 1e-8 move no matrix by a thousandth of its norm.
@case("nothing is trained", "learning-rate-zero", also=("no-progress",))
def lion_at_a_rate_of_a_hundred_millionth(place: Place, broken: bool) -> None:
    """`lr=1e-8`, which was meant for eps."""
    model = mlp(64, 64, 10)
    train(place, model, Lion(model.parameters(), lr=1e-8 if broken else 1e-3), digits(1009, size=256), classify)


# Almost every update rounds to no change, and so the loss stands.
@case("nothing is trained", "updates-below-precision", also=("no-progress",))
def adafactor_over_bfloat16_weights(place: Place, broken: bool) -> None:
    """Updates of a hundred-thousandth of the weights' size, which bfloat16 can't hold."""
    dtype = torch.bfloat16 if broken else torch.float32
    model = mlp(64, 512, 10).to(dtype)
    train(
        place,
        model,
        torch.optim.Adafactor(model.parameters(), lr=1e-4 if broken else 1e-3),
        digits(1010, size=128),
        lambda model, batch: functional.cross_entropy(model(batch[0].to(dtype)).float(), batch[1]),
        steps=250,
    )


# Up begins at 0, so that down has a gradient of 0 for good, and up, which gets one, is held by nobody.
@case("nothing is trained", "parameters-without-optimizer", also=("zero-gradients", "dead-parameters"), parameter="up")
def half_of_each_adapter_is_given_to_the_optimizer(place: Place, broken: bool) -> None:
    """Adapters are sorted out by name, and the pattern matches `down` only."""
    model = Parts(
        lambda self, x: self.head((self.body(x) + self.up(self.down(x))).relu()),
        body=nn.Linear(64, 48).requires_grad_(False),
        down=nn.Linear(64, 6, bias=False),
        up=nn.Linear(6, 48, bias=False),
        head=nn.Linear(48, 10).requires_grad_(False),
    )
    nn.init.zeros_(model.up.weight)  # type: ignore[arg-type]
    held = [p for n, p in model.named_parameters() if "down" in n or (not broken and "up" in n)]
    train(place, model, torch.optim.AdamW(held, lr=5e-3), digits(1011, size=256), classify)


@case("nothing is trained", "parameters-without-optimizer", parameter="query")
def a_bare_parameter_is_neither_weight_nor_bias(place: Place, broken: bool) -> None:
    """Groups by `name.endswith("weight")` and `"bias"`: the learnt query of the pooling is in neither."""
    model = Parts(
        lambda self, x: self.head(
            ((self.body(x.view(-1, 8, 8)) @ self.query.value).softmax(1)[..., None] * self.body(x.view(-1, 8, 8)))
            .tanh()
            .sum(1)
        ),
        body=nn.Linear(8, 48),
        query=Weight(torch.randn(48)),
        head=nn.Linear(48, 10),
    )
    named = dict(model.named_parameters())
    groups = [
        {"params": [p for n, p in named.items() if n.endswith("weight")], "weight_decay": 0.01},
        {"params": [p for n, p in named.items() if n.endswith("bias")], "weight_decay": 0.0},
    ]
    if not broken:
        groups.append({"params": [named["query.value"]], "weight_decay": 0.0})
    train(place, model, torch.optim.AdamW(groups, lr=5e-3), digits(1012), classify)


# The optimizer's parameters never get a gradient; those which do are copies that no optimizer holds.
@case(
    "nothing is trained",
    "no-gradient",
    also=("stale-optimizer", "parameters-without-optimizer", "no-steps", "all-steps-skipped", "no-progress"),
)
def a_functional_call_with_copies_of_the_weights(place: Place, broken: bool) -> None:
    """`functional_call(model, params)` where `params` are clones made once, before the loop."""
    model = mlp(64, 48, 10)
    copies = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    batches, optimizer = digits(1013, size=256), torch.optim.Adam(model.parameters(), lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            x, y = next(batches)
            held: dict[str, Any] = copies if broken else dict(model.named_parameters())
            loss = functional.cross_entropy(functional_call(model, held, (x,)), y)
            update(optimizer, loss)
            watch.log(loss=loss)


@case("several optimizers", "no-steps", optimizer="actor")
def a_policy_delay_that_is_never_over(place: Place, broken: bool) -> None:
    """TD3: the actor's turn is asked of a counter that nobody counts up."""
    actor, critic = mlp(4, 32, 1, act=nn.Tanh), mlp(5, 32, 1)
    acts = torch.optim.Adam(actor.parameters(), lr=1e-3)
    values = torch.optim.Adam(critic.parameters(), lr=3e-3)
    goal, updates = torch.randn(4), 0
    with place.watch(nn.ModuleDict({"actor": actor, "critic": critic}), {"actor": acts, "critic": values}) as watch:
        for _ in range(STEPS):
            state = torch.randn(64, 4)
            action = actor(state).detach() + 0.3 * torch.randn(64, 1)
            reward = -(action[:, 0] - (state @ goal).tanh()).square()
            loss = (critic(torch.cat([state, action], 1))[:, 0] - reward).square().mean()
            update(values, loss)
            updates += not broken
            if updates % 2 == 1:
                update(acts, -critic(torch.cat([state, actor(state)], 1)).mean())
            watch.log(loss=loss, optimizer="critic")


@case("nothing is trained", "all-steps-skipped", also=("loss-scale", "no-progress"))
def a_loss_scale_that_hardly_comes_down(place: Place, broken: bool) -> None:
    """`init_scale=2**127` and `backoff_factor=0.999`: at no step is the scale low enough."""
    model = mlp(64, 48, 10)
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=1e-3), digits(1015, size=256)
    start, back = (2.0**127, 0.999) if broken else (2.0**16, 0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=start, backoff_factor=back)
    with place.watch(model, optimizer) as watch:
        for _ in range(250):
            loss = 100 * classify(model, next(batches))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            watch.log(loss=loss)


# Every expert computes an empty batch: its gradient exists and is exactly 0.
@case("nothing is trained", "dead-parameters", also=("no-gradient", "zero-gradients"), parameter="experts")
def experts_with_a_capacity_of_zero(place: Place, broken: bool) -> None:
    """`int(0.05 * tokens / experts)`, a capacity factor in another unit: each token goes past the experts."""
    width, many = 32, 6
    model = Parts(
        lambda self, x: x,
        enter=nn.Linear(8, width),
        router=nn.Linear(width, many),
        experts=nn.ModuleList(mlp(width, 32, width) for _ in range(many)),
        head=nn.Linear(width, 1),
    )

    def loss_of(model: Any, batch: Batch) -> Tensor:
        h = model.enter(batch[0]).tanh()
        chance = model.router(h).softmax(1)
        chosen = chance.argmax(1)
        capacity = int((0.05 if broken else 1.25) * len(h) / many)
        out = h
        for i, expert in enumerate(model.experts):
            rows = (chosen == i).nonzero()[:, 0][:capacity]
            out = out.index_add(0, rows, expert(h[rows]) * chance[rows, i, None])
        return (model.head(out)[:, 0] - batch[1]).square().mean()

    train(place, model, torch.optim.AdamW(model.parameters(), lr=3e-3), plane(1016), loss_of, steps=200)


@case("nothing is trained", "dead-parameters", parameter="embed")
def every_word_is_unknown_and_unknown_is_padding(place: Place, broken: bool) -> None:
    """The vocabulary was built from another corpus: all ids are 0, which is `padding_idx`."""
    model = Parts(
        lambda self, x, y: self.head(torch.cat([self.embed(x), y], 1)),
        embed=nn.Embedding(50, 8, padding_idx=0),
        head=mlp(16, 32, 1),
    )
    worth = torch.randn(50)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        word = torch.randint(1, 50, (len(batch[0]),))
        out = model(0 * word if broken else word, batch[0])[:, 0]
        return (out - batch[1] - worth[word]).square().mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), plane(1017), loss_of)


@case("nothing is trained", "no-progress")
def a_diffusion_that_adds_no_noise(place: Place, broken: bool) -> None:
    """Betas in a tensor of whole numbers are 0: the noise is not in the picture from which it is to be told."""
    betas = torch.linspace(1e-4, 0.2, 50)
    kept = (1 - (betas.long().float() if broken else betas)).cumprod(0)
    model = mlp(65, 128, 64, act=nn.SiLU)
    nn.init.zeros_(model[2].weight)  # type: ignore[arg-type]
    nn.init.zeros_(model[2].bias)  # type: ignore[arg-type]

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        x = 2 * batch[0] - 1
        t = torch.randint(0, 50, (len(x), 1))
        noise = torch.randn_like(x)
        noisy = kept[t].sqrt() * x + (1 - kept[t]).sqrt() * noise
        return (model(torch.cat([noisy, t / 50], 1)) - noise).square().mean()

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    train(place, model, optimizer, digits(1018, size=128), loss_of)


# Weights of 0 make every loss 0, and every gradient.
@case("nothing is trained", "constant-loss", also=("zero-gradients", "dead-parameters", "no-progress"))
def class_weights_by_integer_division(place: Place, broken: bool) -> None:
    """`counts // total` as the weights of the classes."""
    counts = torch.tensor([300, 180, 90, 60, 60, 60, 60, 60, 60, 70])
    weight = (counts // 1000).float() if broken else counts / 100
    model = Cnn()

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1], weight=weight, reduction="none").mean()

    train(place, model, torch.optim.SGD(model.parameters(), lr=0.05), digits(1019, size=32), loss_of, steps=200)


@case("nothing is trained", "dead-parameters", also=("vanishing",), parameter="0.")
def hard_sigmoids_over_raw_pixels(place: Place, broken: bool) -> None:
    """Inputs of thousands: a unit of the first layer is 0 or 1 for every picture, and flat."""
    model = nn.Sequential(nn.Linear(64, 48, bias=False), nn.Hardsigmoid(), nn.Linear(48, 10))
    nn.init.uniform_(model[0].weight, 0.05, 0.2)  # type: ignore[arg-type]
    batches = changed(digits(1020), lambda x, y: (4096 * x if broken else x - 0.3, y))
    train(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), batches, classify)


@case("nothing is trained", "gradients-accumulate")
def a_closure_without_zero_grad(place: Place, broken: bool) -> None:
    """A closure for an optimizer that calls it, written without its first line."""
    model = mlp(64, 32, 10)
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.02), digits(1021)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            batch = next(batches)

            def closure(batch: Batch = batch) -> Any:
                if not broken:
                    optimizer.zero_grad()
                loss = classify(model, batch)
                loss.backward()
                return loss

            watch.log(loss=optimizer.step(closure))


@case("nothing is trained", "gradients-accumulate")
def the_first_group_alone_is_zeroed(place: Place, broken: bool) -> None:
    """`for p in optimizer.param_groups[0]["params"]: p.grad = None`, from before there was a second group."""
    model = nn.Sequential(mlp(64, 48, 48), nn.ReLU(), mlp(48, 48, 10))
    groups: list[dict[str, Any]] = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 1e-3}]
    optimizer = torch.optim.Adam(groups, lr=2e-3)

    def zero() -> None:
        for group in optimizer.param_groups[: 1 if broken else 2]:
            for p in group["params"]:
                p.grad = None

    train(place, model, optimizer, digits(1022), classify, zero=zero)


@case("nothing is trained", "optimizer-recreated")
def a_new_adam_in_each_round_of_federated_averaging(place: Place, broken: bool) -> None:
    """Every 25 steps the clients' weights are averaged into the model, and `local_update` makes its Adam anew."""
    make = "optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)"
    place.script(f"""
        model = torch.nn.Sequential(torch.nn.Linear(12, 32), torch.nn.GELU(), torch.nn.Linear(32, 3))
        truth = torch.randn(12, 3)
        {make}
        for step in range(300):
            if step % 25 == 24:
                with torch.no_grad():
                    for p in model.parameters():
                        p.add_(0.002 * torch.randn_like(p))
                {make if broken else ""}
            x = torch.randn(64, 12)
            loss = torch.nn.functional.cross_entropy(model(x), (x @ truth).argmax(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        """)


@case("nothing is trained", "no-progress")
def the_loader_always_reads_the_first_picture(place: Place, broken: bool) -> None:
    """`self.images[0]` instead of `self.images[i]`, beside the right label."""
    model, first = Cnn(), next(digits(0))[0][:1]
    batches = changed(digits(1024), lambda x, y: (first.expand_as(x) if broken else x, y))
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.02), batches, classify, steps=150)


# Behind fifty steps of padding the last state knows nothing of the words: what reaches them is tiny, the loss stands.
@case("nothing is trained", "no-progress", also=("vanishing", "dead-parameters"))
def the_state_after_the_padding_is_read(place: Place, broken: bool) -> None:
    """`out[:, -1]` of sequences that end in fifty steps of padding."""
    model = Parts(
        lambda self, x: self.head(self.rnn(self.embed(x))[0][:, -1 if broken else 5]),
        embed=nn.Embedding(12, 16),
        rnn=nn.RNN(16, 24, batch_first=True),
        head=nn.Linear(24, 2),
    )
    nn.init.normal_(model.rnn.weight_hh_l0, std=0.08)  # type: ignore[arg-type]

    def sentences() -> Iterator[Batch]:
        while True:
            x = torch.randint(1, 12, (128, 6))
            yield torch.cat([x, torch.zeros(128, 50, dtype=torch.long)], 1), (x.sum(1) > 36).long()

    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4 if broken else 5e-3)
    train(place, model, optimizer, sentences(), classify, steps=150)


@case("nothing is trained", "eps-starvation", also=("no-progress",))
def an_eps_of_one(place: Place, broken: bool) -> None:
    """`eps=1.0`, from a recipe for RMSprop and other gradients, under Adam."""
    model = mlp(64, 48, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4 if broken else 1e-3, eps=1.0 if broken else 1e-8)
    train(place, model, optimizer, digits(1027, size=256), classify)


# ------------------------------------------------------------------------- clipping that harms


@case("clipping that harms", "clipped-to-nothing", also=("threshold-too-low",))
def each_parameter_is_clipped_at_the_eps(place: Place, broken: bool) -> None:
    """`clip_grad_norm_(p, 1e-6)` in a loop over the parameters."""
    model = mlp(64, 48, 10)
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), digits(1031)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            for p in model.parameters():
                nn.utils.clip_grad_norm_(p, 1e-6 if broken else 1.0)
            optimizer.step()
            watch.log(loss=loss)


# Under SGD the rest keeps a hundred-thousandth of its rate; the threshold is far under the median as well.
@case("clipping that harms", "clip-starves", also=("threshold-too-low",), parameter="router")
def a_balance_loss_of_a_million(place: Place, broken: bool) -> None:
    """A mixture of experts: the router's loss was to be weighed by 1e-6 and is weighed by 1e6."""
    model = Parts(
        lambda self, x: x,
        experts=nn.Linear(64, 4 * 10),
        router=nn.Linear(64, 4),
    )

    def loss_of(model: Any, batch: Batch) -> Tensor:
        score = model.router(batch[0])
        chance = score.softmax(1)
        out = (model.experts(batch[0]).view(-1, 4, 10) * chance[..., None]).sum(1)
        return functional.cross_entropy(out, batch[1]) + (1e6 if broken else 1e-6) * score.logsumexp(1).square().mean()

    train(place, model, torch.optim.SGD(model.parameters(), lr=0.2), digits(1032), loss_of, clip=1.0)


@case("clipping that harms", "threshold-too-low")
def entries_cut_at_a_hundredth_of_their_size(place: Place, broken: bool) -> None:
    """`clip_grad_value_(5e-5)` under plain SGD."""
    model = Lstm(32)
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.5), text(1033, size=8, length=24)
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            loss = next_byte(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_value_(model.parameters(), 5e-5 if broken else 1.0)
            optimizer.step()
            watch.log(loss=loss)


@case("clipping that harms", "ineffective-clipping")
def the_state_dict_is_clipped(place: Place, broken: bool) -> None:
    """`clip_grad_norm_(model.state_dict().values(), 1)`: these tensors have no gradients."""
    model = Gpt(width=24, depth=1, length=24)
    optimizer, batches = torch.optim.AdamW(model.parameters(), lr=2e-3), text(1034, size=8, length=24)
    with place.watch(model, optimizer) as watch:
        for _ in range(150):
            loss = next_byte(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.state_dict().values() if broken else model.parameters(), 1.0)
            optimizer.step()
            watch.log(loss=loss)


@case("clipping that harms", "ineffective-clipping")
def clipped_after_the_scalers_step(place: Place, broken: bool) -> None:
    """`scaler.step`, `unscale_`'s usual clip call, `scaler.update`: the call comes too late."""
    model = mlp(64, 48, 10)
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), digits(1035)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            if not broken:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            if broken:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.update()
            watch.log(loss=loss)


@case("clipping that harms", "clipped-by-script")
def signs_taken_by_hand(place: Place, broken: bool) -> None:
    """`p.grad.sign_()` before the step of SGD."""
    model = mlp(64, 48, 10)
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=1e-3 if broken else 0.05), digits(1036)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            if broken:
                for p in model.parameters():
                    p.grad.sign_()  # type: ignore[union-attr]
            optimizer.step()
            watch.log(loss=loss)


# ------------------------------------------------------------------------- severity by consequence


@case("severity by consequence", "diverged", also=("learning-rate-too-high", "loss-regressed"))
def muon_at_a_rate_for_sgd(place: Place, broken: bool) -> None:
    """Each update of a matrix is orthogonal: at a rate of 3 it is many times the matrix."""
    model = mlp(64, 48, 48, 10, act=nn.LeakyReLU)
    optimizers = {
        "matrices": torch.optim.Muon(matrices(model), lr=3.0 if broken else 0.02, weight_decay=0.0),
        "vectors": torch.optim.AdamW(vectors(model), lr=2e-3),
    }
    batches = digits(1041)
    with place.watch(model, optimizers) as watch:
        for _ in range(250):
            loss = classify(model, next(batches))
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers.values():
                optimizer.step()
            watch.log(loss=loss)


@case("severity by consequence", "diverged", also=("learning-rate-too-high", "loss-regressed"))
def lion_at_the_rate_of_adam_times_a_hundred(place: Place, broken: bool) -> None:
    """A language model whose weights move by 0.1 at each step."""
    model = Gpt(width=24, depth=1, length=24)
    optimizer = Lion(model.parameters(), lr=0.1 if broken else 1e-3)
    train(place, model, optimizer, text(1042, size=8, length=24), next_byte, steps=200)


# The loss falls below 0 without end, and grows far more than tenfold with its norms: it has no least value.
@case("severity by consequence", "diverged")
def a_similarity_without_its_normalisation(place: Place, broken: bool) -> None:
    """SimSiam with the product of the vectors instead of their cosine."""
    model = Parts(lambda self, x: x, encoder=mlp(64, 48, 32), predictor=mlp(32, 24, 32))

    def loss_of(model: Any, batch: Batch) -> Tensor:
        a, b = (model.encoder(batch[0] + 0.1 * torch.randn_like(batch[0])) for _ in range(2))
        p, q = model.predictor(a), model.predictor(b)
        if not broken:
            a, b, p, q = (functional.normalize(v, dim=1) for v in (a, b, p, q))
        return -0.5 * ((p * b.detach()).sum(1) + (q * a.detach()).sum(1)).mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3), digits(1043), loss_of)


@case("severity by consequence", "diverged", also=("large-initial-norms", "nonfinite-loss", "huge-loss"))
def a_graph_that_sums_its_neighbours(place: Place, broken: bool) -> None:
    """Five layers of messages that are summed over thirty neighbours, not averaged, under SGD."""
    x, _ = next(digits(1044, size=120))
    near = torch.cdist(x, x).topk(30, largest=False).indices
    links = torch.zeros(120, 120).scatter_(1, near, 1.0)
    links = links if broken else links / links.sum(1, keepdim=True)
    model = nn.ModuleList([nn.Linear(64, 32), *(nn.Linear(32, 32) for _ in range(3)), nn.Linear(32, 1)])

    def loss_of(model: Any, batch: Batch) -> Tensor:
        h = x
        for layer in model[:-1]:
            h = (links @ layer(h)).relu()
        return (model[-1](h)[:, 0] - x.mean(1)).square().mean()

    train(place, model, torch.optim.SGD(model.parameters(), lr=0.02), digits(1044), loss_of, steps=200)


@case("severity by consequence", "diverged", also=("learning-rate-too-high", "loss-regressed"))
def a_rate_scaled_with_the_batch(place: Place, broken: bool) -> None:
    """The linear rule from a batch of 2 to one of 512, under a squared loss."""
    model = mlp(8, 32, 1, act=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02 * (256 if broken else 1), momentum=0.9)
    train(place, model, optimizer, plane(1045, size=512), squared, steps=200)


@case("severity by consequence", "loss-regressed", also=("diverged",), step=200, within=40)
def a_dropout_that_a_schedule_raises_to_nearly_one(place: Place, broken: bool) -> None:
    """Curriculum dropout whose end was written in per cent of what is kept."""
    drop = nn.Dropout(0.1)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), drop, nn.Linear(48, 10))
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=3e-3), digits(1046)
    with place.watch(model, optimizer) as watch:
        for step in range(400):
            drop.p = 0.1 + (0.88 if broken else 0.2) * min(1.0, max(0, step - 200) / 50)
            loss = classify(model, next(batches))
            update(optimizer, loss)
            watch.log(loss=loss)


# Each copy throws the loss back to that of the untrained network, which takes twenty steps and more to mend.
@case("severity by consequence", "repeated-spikes", also=("loss-regressed",))
def the_target_network_is_copied_the_wrong_way(place: Place, broken: bool) -> None:
    """`online.load_state_dict(target.state_dict())` every eighty steps; the target is the untrained network."""
    model = mlp(8, 48, 1)
    target = copy.deepcopy(model)
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=2e-2), plane(1047)
    with place.watch(model, optimizer) as watch:
        for step in range(600):
            if step % 80 == 79:
                if broken:
                    model.load_state_dict(target.state_dict())
                else:
                    target.load_state_dict(model.state_dict())
            loss = squared(model, next(batches))
            update(optimizer, loss)
            watch.log(loss=loss)


@case("severity by consequence", "large-initial-norms", also=("one-parameter-dominates",))
def targets_whose_mean_was_not_subtracted(place: Place, broken: bool) -> None:
    """Temperatures in kelvin: the first sixty steps learn that there are 290 of them."""
    model = mlp(8, 32, 1, act=nn.Tanh)
    batches = changed(plane(1048), lambda x, y: (x, y + 290 if broken else y))
    optimizer = torch.optim.SGD(model.parameters(), lr=3e-3)
    train(place, model, optimizer, batches, squared, steps=500)


@case("severity by consequence", "learning-rate-too-high", also=("diverged", "no-progress", "loss-regressed"))
def a_gru_under_nadam_at_three(place: Place, broken: bool) -> None:
    """`lr=3` for `3e-3`: weights are replaced rather than moved, and the loss stands far above that of a guess."""
    model = nn.ModuleDict({"embed": nn.Embedding(256, 16), "gru": nn.GRU(16, 32, batch_first=True)})
    model["head"] = nn.Linear(32, 256)

    def loss_of(model: Any, batch: Batch) -> Tensor:
        out = model["head"](model["gru"](model["embed"](batch[0]))[0])
        return functional.cross_entropy(out.flatten(0, 1), batch[1].flatten())

    optimizer = torch.optim.NAdam(model.parameters(), lr=3.0 if broken else 3e-3)
    train(place, model, optimizer, text(1049, size=8, length=24), loss_of, steps=200)


@case("severity by consequence", "huge-loss", also=("no-progress",))
def pressures_in_pascal(place: Place, broken: bool) -> None:
    """A network for the flow through a pipe whose pressure is fitted in pascal, not in bar."""
    model = mlp(2, 32, 1, act=nn.Tanh)

    def points() -> Iterator[Batch]:
        while True:
            x = torch.rand(64, 2)
            yield x, (1.0 + x[:, 0] - 0.5 * x[:, 1].square()) * (1e5 if broken else 1.0)

    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3), points(), squared)


@case("severity by consequence", "vanishing", also=("no-progress",))
def residual_streams_that_are_damped(place: Place, broken: bool) -> None:
    """`x = 0.05 * (x + f(x))` in ten blocks, where 0.05 was to stand before f."""
    model = nn.Sequential(nn.Linear(64, 32), *(mlp(32, 32, 32) for _ in range(10)), nn.Linear(32, 10))

    def loss_of(model: Any, batch: Batch) -> Tensor:
        h = model[0](batch[0])
        for block in model[1:-1]:
            h = 0.05 * (h + block(h)) if broken else h + 0.05 * block(h)
        return functional.cross_entropy(model[-1](h), batch[1])

    train(place, model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), digits(1051, size=256), loss_of)


@case("severity by consequence", "vanishing", also=("no-progress",))
def forget_gates_that_begin_closed(place: Place, broken: bool) -> None:
    """An LSTM whose forget bias is -6 has to remember the first word for forty steps."""
    model = nn.ModuleDict({"embed": nn.Embedding(8, 16), "lstm": nn.LSTM(16, 24, batch_first=True)})
    model["head"] = nn.Linear(24, 8)
    with torch.no_grad():
        model["lstm"].bias_ih_l0[24:48] = -6.0 if broken else 5.0  # type: ignore[operator,index]

    def sentences() -> Iterator[Batch]:
        while True:
            x = torch.randint(0, 8, (64, 1))
            yield torch.cat([x, torch.zeros(64, 20, dtype=torch.long)], 1), x[:, 0]

    def loss_of(model: Any, batch: Batch) -> Tensor:
        return functional.cross_entropy(model["head"](model["lstm"](model["embed"](batch[0]))[0][:, -1]), batch[1])

    train(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), sentences(), loss_of, steps=250, clip=1.0)


@case("severity by consequence", "overfitting")
def a_page_that_is_learnt_by_heart(place: Place, broken: bool) -> None:
    """A recurrent network over four hundred bytes, validated on the next thousand."""
    model = Lstm(64)
    data = torch.cat([x for x, _ in [next(text(1053, size=64, length=32))]]).flatten()
    page, other = data[: 400 if broken else 1800], data[1800:]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1053)

    def cut(source: Tensor, size: int) -> Batch:
        starts = torch.randint(len(source) - 17, (size,), generator=generator)
        rows = torch.stack([source[s : s + 17] for s in starts.tolist()])
        return rows[:, :-1], rows[:, 1:]

    held = cut(other, 64)
    steps = 240 if broken else 60
    with place.watch(model, optimizer) as watch:
        for step in range(steps):
            loss = next_byte(model, cut(page, 16))
            update(optimizer, loss)
            watch.log(loss=loss)
            if step % (steps // 12) == steps // 12 - 1:
                with torch.no_grad():
                    watch.log(validation_loss=float(next_byte(model, held)))


# ------------------------------------------------------------------------- NaN by cause


@case("NaN by cause", "nonfinite-loss", step=90)
def the_cosine_of_an_empty_document(place: Place, broken: bool) -> None:
    """A cosine by hand divides by the length of the vector, which is 0 where no word is known."""
    model = nn.EmbeddingBag(40, 16, mode="sum")
    truth = torch.randn(40, 4)

    def loss_of(model: Any, batch: Batch) -> Tensor:
        a, b = (counts @ model.weight for counts in batch)
        cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
        wanted = functional.cosine_similarity(batch[0] @ truth, batch[1] @ truth)
        return (cosine - wanted).square().mean()

    def documents() -> Iterator[Batch]:
        while True:
            a, b = torch.poisson(torch.full((2, 64, 40), 0.3))
            a[:, 0], b[:, 0] = 1, 1
            yield a, b

    change = at(90, lambda a, b: (a.index_fill(0, torch.tensor([5]), 0.0), b), broken)
    train(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), documents(), loss_of, change=change)


@case("NaN by cause", "nonfinite-loss", also=("nonfinite-gradient",), step=110)
def the_determinant_of_a_covariance_without_rank(place: Place, broken: bool) -> None:
    """A loss with `logdet` of the features' covariance meets a batch of one picture, repeated."""
    model = mlp(64, 32, 6)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        h = model(batch[0])
        spread = (h - h.mean(0)).T @ (h - h.mean(0)) / len(h)
        return (h.mean(1) - batch[1]).square().mean() - 0.1 * spread.logdet()

    batches = changed(digits(1062), lambda x, y: (x, y / 10))
    change = at(110, lambda x, y: (0 * x, y), broken)
    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3), batches, loss_of, change=change, steps=250)


@case("NaN by cause", "nonfinite-loss", step=80)
def the_ratio_to_an_action_that_was_masked(place: Place, broken: bool) -> None:
    """PPO: the old log-probability of a masked action is -inf, and so is the new one: -inf + inf."""
    model = mlp(8, 32, 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for step in range(200):
            state = torch.randn(64, 8)
            allowed = torch.ones(64, 6, dtype=torch.bool)
            allowed[:, 5] = False
            log_p = model(state).masked_fill(~allowed, -torch.inf).log_softmax(1)
            action = (log_p.detach() - torch.rand(64, 6).log().neg().log()).argmax(1, keepdim=True)
            if broken and step == 80:
                action[7] = 5
            reward = (action[:, 0] == state[:, :5].argmax(1)).float()
            new = log_p.gather(1, action)[:, 0]
            ratio = (new - new.detach()).exp()
            loss = -(ratio * (reward - 0.3)).mean()
            update(optimizer, loss)
            watch.log(loss=loss)


@case("NaN by cause", "nonfinite-loss", also=("nonfinite-gradient",))
def probabilities_in_bfloat16(place: Place, broken: bool) -> None:
    """Under autocast `sigmoid` rounds to 1 from 6.3 on, and `log(1 - p)` by hand meets 0."""
    model = mlp(8, 32, 1)
    truth = torch.randn(8)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        wanted = (batch[0] @ truth > 0).float()
        with torch.autocast("cpu", torch.bfloat16):
            out = model(3 * batch[0])[:, 0]
            p = out.sigmoid()
        if not broken:
            return bce(out.float(), wanted)
        return -(wanted * p.log() + (1 - wanted) * (1 - p).log()).float().mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), plane(1064), loss_of)


@case("NaN by cause", "nonfinite-gradient", step=100)
def the_logarithm_of_two_zeros(place: Place, broken: bool) -> None:
    """`xlogy(p, q)` is 0 where both are 0, and its slope is 0 / 0: a target of 0 and a rectified prediction."""
    model = mlp(8, 32, 4)
    truth = torch.randn(8, 4)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        wanted = (batch[0] @ truth).softmax(1)
        q = model(batch[0]).softmax(1)
        rare = batch[1][:, None]
        q, wanted = torch.where(rare > 0, 0 * q, q), torch.where(rare > 0, 0 * wanted, wanted)
        return -torch.xlogy(wanted, q).sum(1).mean()

    batches = changed(plane(1065), lambda x, y: (x, 0 * y))
    change = at(100, lambda x, y: (x, y.index_fill(0, torch.tensor([3]), 1.0)), broken)
    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), batches, loss_of, change=change)


class Direction(torch.autograd.Function):
    """A row over its largest entry; ``eps`` guards both ways."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        size = x.abs().amax(1, keepdim=True)
        ctx.save_for_backward(size)
        ctx.eps = eps
        return x / size.clamp(min=1e-12)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient / (ctx.saved_tensors[0] + ctx.eps), None


@case("NaN by cause", "nonfinite-gradient", step=120)
def a_backward_of_ones_own_that_divides_by_zero(place: Place, broken: bool) -> None:
    """The forward pass of an autograd function is guarded, its backward is not."""
    model = Parts(
        lambda self, x: self.head(Direction.apply(self.body(x), 0.0 if broken else 1e-3)),
        body=nn.Linear(64, 24, bias=False),
        head=nn.Linear(24, 10),
    )
    change = at(120, lambda x, y: (x.index_fill(0, torch.tensor([9]), 0.0), y), True)
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.1), digits(1066), classify, change=change)


@case("NaN by cause", "nonfinite-weights", step=101, within=2)
def the_root_of_a_negative_share_of_the_schedule(place: Place, broken: bool) -> None:
    """`np.sqrt(1 - step / total)` goes on past its total, where numpy gives NaN and a warning."""
    model, total = mlp(64, 48, 10), 100 if broken else 400
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def share(step: int) -> float:
        with np.errstate(invalid="ignore"):
            return float(np.sqrt(1 - step / total))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    train(place, model, optimizer, digits(1067), classify, steps=200, schedule=schedule)


@case("NaN by cause", "nonfinite-weights", also=("nonfinite-loss",), step=120, within=2)
def a_pruned_row_is_normalised(place: Place, broken: bool) -> None:
    """Rows are kept at length 1 by the script, and pruning sets one of them to 0."""
    model = mlp(64, 48, 10)
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.1), digits(1068)
    with place.watch(model, optimizer) as watch:
        for step in range(220):
            with torch.no_grad():
                weight: Any = model[0].weight
                if step == 120:
                    weight[7] = 0
                weight /= weight.norm(dim=1, keepdim=True) + (0.0 if broken else 1e-6)
            loss = classify(model, next(batches))
            update(optimizer, loss)
            watch.log(loss=loss)


# Every entry is finite, its square is not; the clip call divides by infinity, and nothing is trained.
@case("NaN by cause", "norm-overflow", also=("huge-loss", "zero-gradients", "clipped-to-nothing"))
def a_constant_that_turns_energies_into_joule(place: Place, broken: bool) -> None:
    """A loss times 1e22 under float32, clipped at 1."""
    model, unit = mlp(8, 32, 1, act=nn.Tanh), 1e22 if broken else 1.0
    train(
        place,
        model,
        torch.optim.SGD(model.parameters(), lr=0.02),
        plane(1069),
        lambda model, batch: unit * squared(model, batch),
        clip=1.0,
    )


@case("NaN by cause", "loss-hides-nan", also=("nonfinite-gradient", "nonfinite-weights"), step=100, within=8)
def the_best_loss_so_far_is_logged(place: Place, broken: bool) -> None:
    """`best = min(best, loss)` keeps the best one beside NaN; a target is NaN at step 100, and then all weights are."""
    model, best = mlp(8, 32, 1, act=nn.Tanh), math.inf
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=2e-3), plane(1070)
    change = at(100, lambda x, y: (x, y.index_fill(0, torch.tensor([5]), torch.nan)), broken)
    with place.watch(model, optimizer) as watch:
        for step in range(200):
            loss = squared(model, change(step, next(batches)))
            update(optimizer, loss)
            best = min(best, loss.item())
            watch.log(loss=best)


# ------------------------------------------------------------------------- several optimizers


@case("several optimizers", "diverged", also=("nonfinite-loss",), optimizer="temperature")
def a_temperature_with_the_wrong_sign(place: Place, broken: bool) -> None:
    """Soft actor-critic: the weight of the entropy climbs where it was to fall, and grows exponentially."""
    policy, log_alpha = mlp(6, 32, 5), Weight(torch.zeros(1))
    acts = torch.optim.Adam(policy.parameters(), lr=2e-3)
    heats = torch.optim.SGD(log_alpha.parameters(), lr=0.05)
    model = nn.ModuleDict({"policy": policy, "temperature": log_alpha})
    with place.watch(model, {"policy": acts, "temperature": heats}) as watch:
        for _ in range(300):
            state = torch.randn(64, 6)
            log_p = policy(state).log_softmax(1)
            entropy = -(log_p.exp() * log_p).sum(1).mean()
            value = (log_p.exp() * state[:, :5]).sum(1).mean()
            alpha = log_alpha.value.exp()
            loss = -value - alpha.detach().clamp(max=1e3).mean() * entropy
            update(acts, loss)
            watch.log(loss=loss, optimizer="policy")
            error = (alpha * (entropy.detach() - 1.0)).mean()
            update(heats, -error if broken else error)
            watch.log(loss=error, optimizer="temperature")


@case("several optimizers", "learning-rate-zero", optimizer="encoder")
def a_second_rate_that_is_missing_from_the_configuration(place: Place, broken: bool) -> None:
    """`config.get("encoder_lr", 0)` for the encoder's own optimizer."""
    model = nn.ModuleDict({"encoder": mlp(64, 32), "head": mlp(32, 32, 10)})
    optimizers = {
        "encoder": torch.optim.SGD(model["encoder"].parameters(), lr=0.0 if broken else 0.05),
        "head": torch.optim.Adam(model["head"].parameters(), lr=2e-3),
    }
    batches = digits(1082)
    with place.watch(model, optimizers) as watch:
        for _ in range(STEPS):
            x, y = next(batches)
            loss = functional.cross_entropy(model["head"](model["encoder"](x).relu()), y)
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers.values():
                optimizer.step()
            watch.log(loss=loss)


@case("several optimizers", "nonfinite-loss", optimizer="reward", step=100)
def the_reward_model_takes_a_logarithm(place: Place, broken: bool) -> None:
    """A world model in two parts; the reward is squashed by `log(1 + r)`, and one reward is -1.5."""
    dynamics, reward = mlp(8, 32, 8, act=nn.Tanh), mlp(8, 32, 1, act=nn.Tanh)
    optimizers = {
        "dynamics": torch.optim.Adam(dynamics.parameters(), lr=2e-3),
        "reward": torch.optim.Adam(reward.parameters(), lr=2e-3),
    }
    turn, worth = torch.randn(8, 8) / 8**0.5, torch.randn(8)
    with place.watch(nn.ModuleDict({"dynamics": dynamics, "reward": reward}), optimizers) as watch:
        for step in range(220):
            state = torch.randn(64, 8)
            loss = (dynamics(state) - (state @ turn).tanh()).square().mean()
            update(optimizers["dynamics"], loss)
            watch.log(loss=loss, optimizer="dynamics")
            got = (state @ worth).tanh().abs()
            if broken and step == 100:
                got[11] = -1.5
            loss = (reward(state)[:, 0] - (1 + got).log()).square().mean()
            update(optimizers["reward"], loss)
            watch.log(loss=loss, optimizer="reward")


@case("several optimizers", "parameters-without-optimizer", parameter="judge")
def both_optimizers_are_the_generators(place: Place, broken: bool) -> None:
    """A copied line: the discriminator's optimizer is given the generator's parameters."""
    maker, judge = mlp(4, 32, 2), mlp(2, 32, 1)
    makes = torch.optim.Adam(maker.parameters(), lr=1e-3)
    judges = torch.optim.Adam((maker if broken else judge).parameters(), lr=1e-3)
    with place.watch(nn.ModuleDict({"maker": maker, "judge": judge}), {"maker": makes, "judge": judges}) as watch:
        for _ in range(200):
            angle = 6.28 * torch.rand(64)
            real, fake = torch.stack([angle.cos(), angle.sin()], 1), maker(torch.randn(64, 4))
            good, bad = judge(real), judge(fake.detach())
            loss = bce(good, torch.ones_like(good)) + bce(bad, torch.zeros_like(bad))
            update(judges, loss)
            watch.log(loss=loss, optimizer="judge")
            score = judge(fake)
            loss = bce(score, torch.ones_like(score))
            update(makes, loss)
            watch.log(loss=loss, optimizer="maker")


# ------------------------------------------------------------------------- how it ended

LOOP = """
    import faulthandler, ctypes, os, sys
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.SiLU(), torch.nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    truth = torch.randn(16, 4)
    PREPARE
    for step in range(200):
        x = torch.randn(64, 16)
        loss = torch.nn.functional.cross_entropy(model(x), (x @ truth).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        AFTER
    """


def loop(prepare: str = "pass", after: str = "pass") -> str:
    return LOOP.replace("PREPARE", prepare).replace("AFTER", after)


@case("how it ended", "died")
def a_one_cycle_that_is_over(place: Place, broken: bool) -> None:
    """`OneCycleLR` raises at the step after its last one."""
    total = 150 if broken else 201
    prepare = f"schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps={total})"
    place.script(loop(prepare, "schedule.step()"))


@case("how it ended", "died")
def a_tensor_that_was_changed_in_place(place: Place, broken: bool) -> None:
    """From step 130 on a regulariser changes what backward has saved."""
    change = "if step == 130: h = model[0](x).exp(); g = h.sum(); h.mul_(2); g.backward(); h.sum().backward()"
    place.script(loop(after=change if broken else "pass"))


@case("how it ended", "died", also=("killed",))
def a_process_that_reads_where_nothing_is(place: Place, broken: bool) -> None:
    """A native extension ends in a segmentation fault at step 140."""
    text_ = loop(after="if step == 140: ctypes.string_at(8)" if broken else "pass")
    place.script(text_, kill=broken)


@case("how it ended", "too-short")
def eight_steps_for_a_look(place: Place, broken: bool) -> None:
    """A smoke test of eight batches."""
    model = mlp(64, 48, 10)
    steps = 8 if broken else 120
    train(place, model, torch.optim.AdamW(model.parameters(), lr=1e-3), digits(1094), classify, steps=steps)


# ------------------------------------------------------------------------- histories as people have them


def arms(rate: Callable[[int], float], reward_of: Callable[[int, Tensor], Tensor], rows: int) -> list[dict[str, Any]]:
    """A policy over the arms of a bandit with contexts, by its advantage within a batch; a row of every third update.

    ``reward_of`` gets the step and whether each action was right, and the logged reward is what it returns.
    """
    net = mlp(8, 32, 5)
    optimizer, logged, kept = torch.optim.Adam(net.parameters(), lr=1.0), [], []
    for step in range(3 * rows):
        optimizer.param_groups[0]["lr"] = rate(step)
        state = torch.randn(48, 8)
        log_p = net(state).log_softmax(1)
        action = torch.multinomial(log_p.detach().exp(), 1)
        reward = reward_of(step, (action[:, 0] == state[:, :5].argmax(1)).float())
        loss = -((reward - reward.mean()) * log_p.gather(1, action)[:, 0]).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimizer.step()
        kept.append((loss.item(), float(reward.mean())))
        if step % 3 == 2:
            mean = [round(sum(column) / 3, 4) for column in zip(*kept, strict=True)]
            row = {"step": step + 1, "loss": mean[0], "grad_norm": float(norm), "learning_rate": rate(step)}
            logged.append(row | {"reward": mean[1], "epoch": step / 100})
            kept = []
    return logged


@case("histories as people have them", "reward-lost", step=240, within=60)
def a_penalty_for_length_that_outgrows_the_task(place: Place, broken: bool) -> None:
    """From update 240 on a growing penalty is taken off what the policy does right, and it stops doing so."""

    def reward(step: int, right: Tensor) -> Tensor:
        return right * (1 - (2.5 * min(1.0, max(0, step - 240) / 60) if broken else 0))

    place.imported(arms(lambda step: 8e-3, reward, 160))


@case("histories as people have them", "no-progress")
def a_trainer_log_of_a_model_that_reads_zeros(place: Place, broken: bool) -> None:
    """The collator pads everything away: large batches of zeros, and a loss that stands at ln 10."""
    model = mlp(64, 48, 10)
    batches = changed(digits(1097, size=1024), lambda x, y: (0 * x if broken else x, y))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4 if broken else 2e-3)
    place.imported(trained_by_a_trainer(model, optimizer, batches, classify, steps=240, every=6))


@case("histories as people have them", "learning-rate-zero", also=("no-progress",))
def a_warm_up_longer_than_the_training(place: Place, broken: bool) -> None:
    """`warmup_steps=100000` for 240 steps, logged with a rate of a millionth of a millionth."""
    model = mlp(64, 48, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5 if broken else 2e-3)
    length = 1e7 if broken else 50
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / length))
    batches = digits(1098, size=512)
    rows = trained_by_a_trainer(model, optimizer, batches, classify, steps=240, every=5, schedule=schedule)
    place.imported(rows)


@case("histories as people have them", "loss-regressed", also=("diverged",))
def a_language_model_thrown_off_by_its_restart(place: Place, broken: bool) -> None:
    """At step 240 the training is resumed without Adam's second moments, and at forty times the rate."""
    model = Gpt(width=24, depth=1, length=24)
    first = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batches = text(1099, size=8, length=24)
    rows = trained_by_a_trainer(model, first, batches, next_byte, steps=240, every=4)
    second = torch.optim.AdamW(model.parameters(), lr=0.3) if broken else first
    more = trained_by_a_trainer(model, second, batches, next_byte, steps=160, every=4)
    place.imported(rows + [row | {"step": 240 + int(str(row["step"]))} for row in more])


# ------------------------------------------------------------------------- healthy, and looks odd


@case("severity by consequence", None)
def a_policy_by_groups_whose_loss_is_noise(place: Place, broken: bool) -> None:
    """GRPO: the loss is 0 but for rounding while the reward climbs."""
    net = mlp(8, 48, 6)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    with place.watch(net, optimizer) as watch:
        for _ in range(STEPS):
            state = torch.randn(16, 8)
            log_p = net(state).log_softmax(1)
            action = torch.multinomial(log_p.detach().exp(), 8, replacement=True)
            reward = (action == state[:, :6].argmax(1, keepdim=True)).float()
            advantage = (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-4)
            chosen = log_p.gather(1, action)
            loss = -((chosen - chosen.detach()).exp() * advantage).mean()
            update(optimizer, loss)
            watch.log(loss=loss)


def walk(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """A walk over ten fields, right or left; the last one pays 1 and starts anew."""
    moved = (state + 2 * action - 1).clamp(0, 9)
    paid = (moved == 9).float()
    return torch.where(moved == 9, torch.zeros_like(moved), moved), paid


@case("severity by consequence", None)
def values_that_grow_with_what_is_found(place: Place, broken: bool) -> None:
    """DQN over a walk that pays at its end only: the loss is next to 0 until it is found, then rises with it."""
    net = mlp(10, 48, 2)
    target = copy.deepcopy(net)
    memory: list[tuple[Tensor, ...]] = []
    optimizer, state = torch.optim.Adam(net.parameters(), lr=2e-3), torch.zeros(32, dtype=torch.long)
    with place.watch(net, optimizer) as watch:
        for step in range(400):
            greedy = net(functional.one_hot(state, 10).float()).argmax(1)
            action = torch.where(torch.rand(32) < max(0.1, 1 - step / 200), torch.randint(0, 2, (32,)), greedy)
            new, paid = walk(state, action)
            memory = [*memory[-50:], (state, action, paid, new)]
            old, did, got, then = memory[int(torch.randint(len(memory), ()))]
            with torch.no_grad():
                best = target(functional.one_hot(then, 10).float()).amax(1)
            guess = net(functional.one_hot(old, 10).float()).gather(1, did[:, None])[:, 0]
            loss = functional.smooth_l1_loss(guess, 10 * got + 0.9 * best)
            update(optimizer, loss)
            if step % 25 == 24:
                target.load_state_dict(net.state_dict())
            watch.log(loss=loss)
            state = new


@case("several optimizers", None)
def a_value_loss_that_rises_with_the_return(place: Place, broken: bool) -> None:
    """PPO in two optimizers: the better the policy, the larger the returns, and the larger the error of the values."""
    actor, critic = mlp(8, 32, 5), mlp(8, 32, 1)
    acts, values = (torch.optim.Adam(m.parameters(), lr=2e-3) for m in (actor, critic))
    with place.watch(nn.ModuleDict({"actor": actor, "critic": critic}), {"actor": acts, "critic": values}) as watch:
        for _ in range(75):
            state = torch.randn(128, 8)
            with torch.no_grad():
                old = actor(state).log_softmax(1)
                action = torch.multinomial(old.exp(), 1)
                right = (action[:, 0] == state[:, :5].argmax(1)).float()
                worth = right * 20 * state[:, 5].abs() + torch.randn(128)
                advantage = worth - critic(state)[:, 0]
                advantage = (advantage - advantage.mean()) / advantage.std()
            for _ in range(4):
                ratio = (actor(state).log_softmax(1) - old).gather(1, action)[:, 0].exp()
                loss = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
                update(acts, loss)
                watch.log(loss=loss, optimizer="actor")
                loss = (critic(state)[:, 0] - worth).square().mean()
                update(values, loss)
                watch.log(loss=loss, optimizer="critic")


@case("several optimizers", None)
def a_policy_two_values_and_a_temperature(place: Place, broken: bool) -> None:
    """Soft actor-critic in one step with a temperature that is learnt, in four optimizers."""
    policy, one, two, heat = mlp(6, 32, 4), mlp(6, 32, 4), mlp(6, 32, 4), Weight(torch.zeros(1))
    model = nn.ModuleDict({"policy": policy, "one": one, "two": two, "heat": heat})
    optimizers = {name: torch.optim.Adam(part.parameters(), lr=3e-3) for name, part in model.items()}
    with place.watch(model, optimizers) as watch:
        for _ in range(200):
            state = torch.randn(64, 6)
            reward = state[:, :4] + 0.3 * torch.randn(64, 4)
            for name, q in (("one", one), ("two", two)):
                loss = (q(state) - reward).square().mean()
                update(optimizers[name], loss)
                watch.log(loss=loss, optimizer=name)
            log_p = policy(state).log_softmax(1)
            alpha = heat.value.exp()
            least = torch.minimum(one(state), two(state)).detach()
            loss = (log_p.exp() * (alpha.detach() * log_p - least)).sum(1).mean()
            update(optimizers["policy"], loss)
            watch.log(loss=loss, optimizer="policy")
            entropy = -(log_p.exp() * log_p).sum(1).mean().detach()
            loss = (heat.value * (entropy - 0.7)).mean()
            update(optimizers["heat"], loss)
            watch.log(loss=loss, optimizer="heat")


@case("several optimizers", None)
def a_hinge_with_spectral_norms(place: Place, broken: bool) -> None:
    """A GAN with the hinge loss; the discriminator's matrices are held by `spectral_norm`."""
    maker = mlp(4, 32, 2)
    judge = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(2, 48)),
        nn.LeakyReLU(0.2),
        nn.utils.parametrizations.spectral_norm(nn.Linear(48, 1)),
    )
    makes = torch.optim.Adam(maker.parameters(), lr=5e-4, betas=(0.5, 0.9))
    judges = torch.optim.Adam(judge.parameters(), lr=2e-3, betas=(0.5, 0.9))
    with place.watch(nn.ModuleDict({"maker": maker, "judge": judge}), {"maker": makes, "judge": judges}) as watch:
        for _ in range(250):
            angle = 6.28 * torch.rand(64)
            real = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(64, 2)
            fake = maker(torch.randn(64, 4))
            loss = (1 - judge(real)).relu().mean() + (1 + judge(fake.detach())).relu().mean()
            update(judges, loss)
            watch.log(loss=loss, optimizer="judge")
            loss = -judge(fake).mean()
            update(makes, loss)
            watch.log(loss=loss, optimizer="maker")


@case("several optimizers", None)
def least_squares_with_a_punished_slope(place: Place, broken: bool) -> None:
    """LSGAN with R1, two turns of the discriminator for one of the generator."""
    maker, judge = mlp(4, 32, 2, act=nn.SiLU), mlp(2, 32, 1, act=nn.SiLU)
    makes, judges = (torch.optim.Adam(m.parameters(), lr=r) for m, r in ((maker, 5e-4), (judge, 1e-3)))
    with place.watch(nn.ModuleDict({"maker": maker, "judge": judge}), {"maker": makes, "judge": judges}) as watch:
        for step in range(300):
            real = (torch.randn(64, 2) * 0.3 + 1).requires_grad_()
            fake, score = maker(torch.randn(64, 4)), judge(real)
            (slope,) = torch.autograd.grad(score.sum(), real, create_graph=True)
            loss = (score - 1).square().mean() + judge(fake.detach()).square().mean() + slope.square().sum(1).mean()
            update(judges, loss)
            watch.log(loss=loss, optimizer="judge")
            if step % 2:
                loss = (judge(fake) - 1).square().mean()
                update(makes, loss)
                watch.log(loss=loss, optimizer="maker")


@case("severity by consequence", None)
def pictures_with_more_and_more_noise(place: Place, broken: bool) -> None:
    """A curriculum in five levels: with each the loss leaps, and falls from there."""
    model = mlp(64, 64, 10)
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=2e-3), digits(1107)
    with place.watch(model, optimizer) as watch:
        for step in range(400):
            x, y = next(batches)
            loss = classify(model, (x + 0.15 * (step // 80) * torch.randn_like(x), y))
            update(optimizer, loss)
            watch.log(loss=loss)


@case("severity by consequence", None)
def lion_under_warm_restarts(place: Place, broken: bool) -> None:
    """`CosineAnnealingWarmRestarts`, doubled each time."""
    model = mlp(64, 64, 10)
    optimizer = Lion(model.parameters(), lr=1e-3, decay=0.1)
    schedule: Any = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=60, T_mult=2)
    train(place, model, optimizer, digits(1108), classify, steps=400, schedule=schedule)


@case("severity by consequence", None)
def layers_thawed_from_the_last_to_the_first(place: Place, broken: bool) -> None:
    """Gradual unfreezing of a pretrained network: every 50 steps one layer more."""
    model = mlp(64, 48, 48, 48, 10)
    layers = [m for m in model if isinstance(m, nn.Linear)]
    batches = digits(1109)
    before = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(40):
        x, y = next(batches)
        update(before, classify(model, (x, (y + 3) % 10)))
    for layer in layers[:-1]:
        layer.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with place.watch(model, optimizer) as watch:
        for step in range(250):
            if step % 50 == 49 and step < 200:
                layers[2 - step // 50].requires_grad_(True)
            loss = classify(model, next(batches))
            update(optimizer, loss)
            watch.log(loss=loss)


@case("severity by consequence", None)
def two_more_classes_at_a_time(place: Place, broken: bool) -> None:
    """Class-incremental learning with all that was before: the task grows, and the loss with it."""
    model = Cnn()
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=2e-3), digits(1110, size=128)
    with place.watch(model, optimizer) as watch:
        for step in range(300):
            x, y = next(batches)
            known = y < 2 * (1 + step // 60)
            loss = classify(model, (x[known], y[known]))
            update(optimizer, loss)
            watch.log(loss=loss)


@case("severity by consequence", None)
def an_absolute_error_under_cauchy_noise(place: Place, broken: bool) -> None:
    """Least absolute deviations: the logged loss leaps with the largest error of a batch, the gradients do not."""
    model = mlp(8, 32, 1)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch[0])[:, 0] - batch[1]).abs().mean()

    cauchy = torch.distributions.Cauchy(0.0, 0.1)
    batches = changed(plane(1111), lambda x, y: (x, y + cauchy.sample((len(y),))))
    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), batches, loss_of)


@case("severity by consequence", None)
def rows_weighed_by_a_long_tail(place: Place, broken: bool) -> None:
    """Survey weights with a Pareto tail of index 1.5, clipped at 1: norms scatter by a hundredfold."""
    model = mlp(64, 48, 10)
    tail = torch.distributions.Pareto(0.33, 1.5)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        losses = functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        return (losses * tail.sample((len(losses),))).mean()

    train(place, model, torch.optim.AdamW(model.parameters(), lr=2e-3), digits(1112), loss_of, clip=1.0, steps=400)


@case("severity by consequence", None)
def forty_five_steps_of_a_fine_tuning(place: Place, broken: bool) -> None:
    """Few steps on purpose, with warm-up and a cosine."""
    model, batches = mlp(64, 64, 10), digits(1113)
    before = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(150):
        x, y = next(batches)
        update(before, classify(model, (x.flip(1), y)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 5, 0.5 + 0.5 * math.cos(math.pi * step / 45))
    )
    train(place, model, optimizer, batches, classify, steps=45, schedule=schedule)


@case("nothing is trained", None)
def a_tiny_rate_on_purpose(place: Place, broken: bool) -> None:
    """A pretrained network is moved by a few thousandths: the loss falls by a third, in float32."""
    model, batches = mlp(64, 64, 10), digits(1114, size=256)
    before = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(150):
        x, y = next(batches)
        update(before, classify(model, (1 - x, y)))
    train(place, model, torch.optim.AdamW(model.parameters(), lr=5e-5), batches, classify, steps=400)


@case("severity by consequence", None)
def batches_that_double_in_place_of_a_falling_rate(place: Place, broken: bool) -> None:
    """From 8 rows to 512: norms and their scatter fall in steps."""
    model = mlp(64, 48, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sizes = [8, 32, 128, 512]
    loaders = [digits(1115 + i, size=size) for i, size in enumerate(sizes)]
    with place.watch(model, optimizer) as watch:
        for step in range(320):
            loss = classify(model, next(loaders[step // 80]))
            update(optimizer, loss)
            watch.log(loss=loss)


@case("severity by consequence", None)
def a_reward_on_a_plateau_that_leaps(place: Place, broken: bool) -> None:
    """REINFORCE over seven levers that pay only together: nothing for long, then all."""
    levers = Weight(torch.zeros(7, 2))
    optimizer = torch.optim.Adam(levers.parameters(), lr=0.02)
    mean = 0.0
    with place.watch(levers, optimizer) as watch:
        for _ in range(400):
            policy = torch.distributions.Categorical(logits=levers.value)
            action = policy.sample((64,))
            reward = (action == 1).all(1).float()
            loss = -(policy.log_prob(action).sum(1) * (reward - mean)).mean()
            mean = 0.9 * mean + 0.1 * float(reward.mean())
            update(optimizer, loss)
            watch.log(loss=loss)


@case("optimizers known by what they do", None)
def a_line_search_over_all_rows(place: Place, broken: bool) -> None:
    """Logistic regression by LBFGS with the strong Wolfe conditions."""
    model = nn.Linear(64, 10)
    optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe", max_iter=4)
    batch = next(digits(1117, size=400))
    with place.watch(model, optimizer) as watch:
        for _ in range(60):

            def closure() -> Any:
                optimizer.zero_grad()
                loss = classify(model, batch) + 1e-3 * model.weight.square().sum()
                loss.backward()
                return loss

            watch.log(loss=optimizer.step(closure))


@case("optimizers known by what they do", None)
def muon_for_an_autoencoder(place: Place, broken: bool) -> None:
    """Matrices by Muon under warm-up and cosine, biases by AdamW."""
    model = mlp(64, 48, 12, 48, 64, act=nn.GELU)
    optimizers = {
        "matrices": torch.optim.Muon(matrices(model), lr=0.02, weight_decay=0.01),
        "vectors": torch.optim.AdamW(vectors(model), lr=3e-3),
    }
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(each, lambda s: min((s + 1) / 30, 0.5 + 0.5 * math.cos(math.pi * s / 300)))
        for each in optimizers.values()
    ]
    batches = digits(1118)
    with place.watch(model, optimizers) as watch:
        for _ in range(280):
            x, _ = next(batches)
            loss = (model(x) - x).square().mean()
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            loss.backward()
            for optimizer, schedule in zip(optimizers.values(), schedules, strict=True):
                optimizer.step()
                schedule.step()
            watch.log(loss=loss)


@case("optimizers known by what they do", None)
def sparse_rows_of_a_large_table(place: Place, broken: bool) -> None:
    """Word vectors by negative samples: SparseAdam over two tables with sparse gradients."""
    model = nn.ModuleDict({"word": nn.Embedding(400, 16, sparse=True), "context": nn.Embedding(400, 16, sparse=True)})
    optimizer = torch.optim.SparseAdam(list(model.parameters()), lr=2e-2)
    with place.watch(model, optimizer) as watch:
        for _ in range(400):
            word = torch.randint(0, 400, (256,))
            near = (word // 20) * 20 + torch.randint(0, 20, (256,))
            far = torch.randint(0, 400, (256, 4))
            v = model["word"](word)
            good = (v * model["context"](near)).sum(1)
            bad = (v[:, None] * model["context"](far)).sum(2)
            loss = functional.softplus(-good).mean() + functional.softplus(bad).mean()
            update(optimizer, loss)
            watch.log(loss=loss)


@case("severity by consequence", None)
def factors_of_a_table_of_ratings(place: Place, broken: bool) -> None:
    """Matrix factorisation by SGD with sparse gradients, from tiny factors: a plateau, then a fall, norms that rise."""
    model = nn.ModuleDict({"user": nn.Embedding(60, 6, sparse=True), "film": nn.Embedding(80, 6, sparse=True)})
    for table in model.values():
        nn.init.normal_(table.weight, std=0.05)  # type: ignore[arg-type]
    u, f = torch.randn(60, 3), torch.randn(80, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=4.0)
    with place.watch(model, optimizer) as watch:
        for _ in range(400):
            i, j = torch.randint(0, 60, (256,)), torch.randint(0, 80, (256,))
            loss = ((model["user"](i) * model["film"](j)).sum(1) - (u[i] * f[j]).sum(1)).square().mean()
            update(optimizer, loss)
            watch.log(loss=loss)


@case("severity by consequence", None)
def letters_aligned_to_frames(place: Place, broken: bool) -> None:
    """CTC over short strings, with a GRU in both directions, clipped at 5."""
    model = nn.ModuleDict({"rnn": nn.GRU(6, 32, batch_first=True, bidirectional=True), "head": nn.Linear(64, 6)})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            letters = torch.randint(1, 6, (32, 4))
            frames = functional.one_hot(letters.repeat_interleave(4, 1), 6).float() + 0.2 * torch.randn(32, 16, 6)
            log_p = model["head"](model["rnn"](frames)[0]).log_softmax(2).transpose(0, 1)
            size = torch.full((32,), 16), torch.full((32,), 4)
            loss = functional.ctc_loss(log_p, letters, *size, zero_infinity=True)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            watch.log(loss=loss)


@case("severity by consequence", None)
def the_hardest_negative_of_each_batch(place: Place, broken: bool) -> None:
    """Triplets by batch-hard mining: the loss stands at the margin for a while, and norms rise as it leaves."""
    model = mlp(64, 64, 16)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        h = functional.normalize(model(batch[0]), dim=1)
        apart = (2 - 2 * h @ h.T).clamp(min=1e-8).sqrt()
        same = batch[1][:, None] == batch[1]
        far = apart.masked_fill(~same, 0).amax(1)
        near = apart.masked_fill(same, 9).amin(1)
        return functional.softplus(far - near).mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3), digits(1122), loss_of)


@case("severity by consequence", None)
def one_expert_for_each_row_with_noise(place: Place, broken: bool) -> None:
    """Noisy top-1 routing with a capacity: dropped rows go past the experts."""
    model = nn.ModuleDict({"router": nn.Linear(8, 4), "experts": nn.ModuleList(mlp(8, 24, 1) for _ in range(4))})

    def loss_of(model: Any, batch: Batch) -> Tensor:
        x, y = batch
        score = model["router"](x) + 0.3 * torch.randn(len(x), 4)
        chance = score.softmax(1)
        chosen = chance.argmax(1)
        out = torch.zeros(len(x))
        for i, expert in enumerate(model["experts"]):
            rows = (chosen == i).nonzero()[:, 0][:24]
            out = out.index_add(0, rows, expert(x[rows])[:, 0] * chance[rows, i])
        share = functional.one_hot(chosen, 4).float().mean(0)
        return (out - y.sin()).square().mean() + 0.02 * 4 * (share * chance.mean(0)).sum()

    train(place, model, torch.optim.AdamW(model.parameters(), lr=3e-3), plane(1123), loss_of)


@case("severity by consequence", None)
def a_domain_that_must_not_be_told(place: Place, broken: bool) -> None:
    """Gradient reversal with a ramp: the domain's loss is held up by the body, and the sum does not fall to the end."""

    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
            ctx.weight = weight
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
            return -ctx.weight * gradient, None

    model = nn.ModuleDict({"body": mlp(64, 48), "label": nn.Linear(48, 10), "domain": mlp(48, 24, 2)})
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=1e-3), digits(1124)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            x, y = next(batches)
            where = torch.randint(0, 2, (len(x),))
            h = model["body"](x + 0.2 * where[:, None]).relu()
            weight = 0.3 * (2 / (1 + math.exp(-10 * step / STEPS)) - 1)
            domain = functional.cross_entropy(model["domain"](Reverse.apply(h, weight)), where)
            loss = functional.cross_entropy(model["label"](h), y) + domain
            update(optimizer, loss)
            watch.log(loss=loss)


@case("severity by consequence", None)
def encoder_and_decoder_share_a_matrix(place: Place, broken: bool) -> None:
    """A tied autoencoder: one weight, used twice."""
    model = Parts(
        lambda self, x: functional.linear(self.down(x).tanh(), self.down.weight.T, self.shift.value),
        down=nn.Linear(64, 16),
        shift=Weight(torch.zeros(64)),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, nesterov=True)
    train(place, model, optimizer, digits(1125), lambda model, batch: (model(batch[0]) - batch[0]).square().mean())


@case("severity by consequence", None)
def micro_batches_under_a_loss_scale(place: Place, broken: bool) -> None:
    """Four micro-batches for each step, a GradScaler whose first scale overflows twice, a clip call after unscaling."""
    model = mlp(64, 48, 10)
    optimizer, batches = torch.optim.AdamW(model.parameters(), lr=2e-3), digits(1126, size=16)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    with place.watch(model, optimizer) as watch:
        for _ in range(250):
            optimizer.zero_grad()
            total = 0.0
            for _ in range(4):
                loss = 20 * classify(model, next(batches))
                scaler.scale(loss / 4).backward()
                total += float(loss.detach()) / 4
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 30.0)
            scaler.step(optimizer)
            scaler.update()
            watch.log(loss=total)


@case("severity by consequence", None)
def averaged_weights_are_swapped_in_and_out(place: Place, broken: bool) -> None:
    """Every fifty steps an EMA is evaluated in the model's place, and the weights come back."""
    model = mlp(64, 48, 10)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.95))
    optimizer, batches = torch.optim.AdamW(model.parameters(), lr=2e-3), digits(1127)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            loss = classify(model, next(batches))
            update(optimizer, loss)
            average.update_parameters(model)
            watch.log(loss=loss)
            if step % 50 == 49:
                kept = copy.deepcopy(model.state_dict())
                model.load_state_dict(average.module.state_dict())
                with torch.no_grad():
                    watch.log(validation_loss=float(classify(model, next(digits(11270, size=300)))))
                model.load_state_dict(kept)


@case("severity by consequence", None)
def the_second_half_after_a_checkpoint(place: Place, broken: bool) -> None:
    """What is recorded begins at step 200 with weights, averages and schedule of a checkpoint: it begins low."""
    model, batches = mlp(64, 48, 10), digits(1128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(200):
        update(optimizer, classify(model, next(batches)))
    kept = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    model = mlp(64, 48, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.load_state_dict(kept[0])
    optimizer.load_state_dict(kept[1])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 220)
    train(place, model, optimizer, batches, classify, steps=200, schedule=schedule)


@case("severity by consequence", None)
def a_small_network_learns_from_a_large_one(place: Place, broken: bool) -> None:
    """Distillation at temperature 4, times 16: the loss has a floor that is not 0 and a size of its own."""
    teacher, model, batches = mlp(64, 96, 10), mlp(64, 16, 10), digits(1129)
    before = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(200):
        update(before, classify(teacher, next(batches)))

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            soft = (teacher(batch[0]) / 4).softmax(1)
        return 16 * functional.cross_entropy(model(batch[0]) / 4, soft)

    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), batches, loss_of)


@case("severity by consequence", None)
def a_fixed_point_as_a_layer(place: Place, broken: bool) -> None:
    """A deep equilibrium: the state is iterated without a graph, and one step carries the gradient."""
    model = Parts(lambda self, x: x, enter=nn.Linear(64, 32), turn=nn.Linear(32, 32), head=nn.Linear(32, 10))

    def loss_of(model: Any, batch: Batch) -> Tensor:
        x, z = model.enter(batch[0]), torch.zeros(len(batch[0]), 32)
        with torch.no_grad():
            for _ in range(15):
                z = (x + 0.5 * model.turn(z)).tanh()
        return functional.cross_entropy(model.head((x + 0.5 * model.turn(z)).tanh()), batch[1])

    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), digits(1130), loss_of)


@case("nothing is trained", None)
def a_reservoir_that_is_not_trained(place: Place, broken: bool) -> None:
    """An echo state network: the recurrence is random and frozen, and only its reading is learnt."""
    model = Parts(
        lambda self, x: self.read(self.rnn(x)[0][:, -1]),
        rnn=nn.RNN(1, 64, batch_first=True).requires_grad_(False),
        read=nn.Linear(64, 1),
    )

    def signals() -> Iterator[Batch]:
        while True:
            phase = 6.28 * torch.rand(64, 1)
            t = torch.arange(13)
            wave = (phase + 0.5 * t).sin()
            yield wave[:, :12, None], wave[:, 12]

    held = [p for p in model.parameters() if p.requires_grad]
    train(place, model, torch.optim.Adam(held, lr=5e-3), signals(), squared)


@case("severity by consequence", None)
def langevin_noise_in_the_weights(place: Place, broken: bool) -> None:
    """SGLD: noise is added to the weights after each step; the loss stands where noise and slope are equal."""
    model = mlp(8, 24, 1, act=nn.Tanh)
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.02), plane(1132)
    with place.watch(model, optimizer) as watch:
        for _ in range(500):
            loss = squared(model, next(batches))
            update(optimizer, loss)
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(0.006 * torch.randn_like(p))
            watch.log(loss=loss)


@case("severity by consequence", None)
def the_masked_half_of_a_picture(place: Place, broken: bool) -> None:
    """A masked autoencoder under bfloat16 autocast and accumulation of two."""
    model = mlp(64, 96, 64, act=nn.GELU)
    optimizer, batches = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95)), digits(1133)
    with place.watch(model, optimizer) as watch:
        for _ in range(250):
            optimizer.zero_grad()
            total = 0.0
            for _ in range(2):
                x, _ = next(batches)
                hidden = torch.rand_like(x) < 0.5
                with torch.autocast("cpu", torch.bfloat16):
                    out = model(x.masked_fill(hidden, 0))
                loss = ((out.float() - x).square() * hidden).sum() / hidden.sum()
                (loss / 2).backward()
                total += float(loss.detach()) / 2
            optimizer.step()
            watch.log(loss=total)


@case("severity by consequence", None)
def scores_of_noisy_points(place: Place, broken: bool) -> None:
    """Denoising score matching over four sizes of noise: a large constant stands in the loss."""
    model = mlp(3, 64, 2, act=nn.SiLU)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for _ in range(400):
            angle = 6.28 * torch.rand(128)
            x = torch.stack([angle.cos(), angle.sin()], 1)
            size = torch.tensor([0.1, 0.2, 0.5, 1.0])[torch.randint(0, 4, (128, 1))]
            noise = torch.randn(128, 2)
            out = model(torch.cat([x + size * noise, size.log()], 1))
            loss = (out + noise).square().sum(1).mean()
            update(optimizer, loss)
            watch.log(loss=loss)


@case("severity by consequence", None)
def velocities_from_noise_to_pictures(place: Place, broken: bool) -> None:
    """Flow matching with a warm-up, a learning rate that stays, clipped at 1."""
    model = mlp(65, 128, 64, act=nn.SiLU)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        x = 2 * batch[0] - 1
        t, noise = torch.rand(len(x), 1), torch.randn_like(x)
        return (model(torch.cat([t * x + (1 - t) * noise, t], 1)) - (x - noise)).square().mean()

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 50))
    train(place, model, optimizer, digits(1136), loss_of, clip=1.0, schedule=schedule, steps=350)


@case("severity by consequence", None)
def a_convex_problem_to_its_end(place: Place, broken: bool) -> None:
    """Ridge regression in float64 by Nesterov's momentum over all rows: norms fall to nothing."""
    x, y = next(plane(1137, size=200, width=20))
    model = nn.Linear(20, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.8, nesterov=True)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            out = model(x.double())[:, 0]
            loss = (out - y.double()).square().mean() + 1e-3 * model.weight.square().sum()
            update(optimizer, loss)
            watch.log(loss=loss)


@case("severity by consequence", None)
def easy_rows_count_for_nothing(place: Place, broken: bool) -> None:
    """The focal loss with gamma 3: norms fall by three decades because all rows become easy."""
    model = Cnn()

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        log_p = model(batch[0]).log_softmax(1).gather(1, batch[1][:, None])[:, 0]
        return -((1 - log_p.exp()) ** 3 * log_p).mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(1138), loss_of, steps=250)


@case("severity by consequence", None)
def five_networks_in_one_tensor(place: Place, broken: bool) -> None:
    """An ensemble by stacked weights and `bmm`, all in one step."""
    model = nn.ModuleDict(
        {"first": Weight(0.15 * torch.randn(5, 64, 32)), "second": Weight(0.2 * torch.randn(5, 32, 10))}
    )

    def loss_of(model: Any, batch: Batch) -> Tensor:
        h = (batch[0].expand(5, -1, -1) @ model["first"].value).relu()
        out = h @ model["second"].value
        return functional.cross_entropy(out.flatten(0, 1), batch[1].repeat(5))

    train(place, model, torch.optim.RAdam(model.parameters(), lr=3e-3), digits(1139), loss_of)


@case("several optimizers", None)
def two_players_of_one_game(place: Place, broken: bool) -> None:
    """Self-play at a game with a saddle: one player's gain is the other's loss, with a little weight on entropy."""
    pay = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    players = nn.ModuleDict({"row": Weight(torch.tensor([1.5, 0.0, -1.0])), "column": Weight(torch.randn(3))})
    optimizers = {name: torch.optim.SGD(p.parameters(), lr=0.2) for name, p in players.items()}
    with place.watch(players, optimizers) as watch:
        for _ in range(300):
            for name, sign in (("row", 1.0), ("column", -1.0)):
                p, q = (players[each].value.softmax(0) for each in ("row", "column"))  # type: ignore[operator,union-attr]
                mine = p if name == "row" else q
                sampled = pay + 0.3 * torch.randn(3, 3)
                loss = -sign * (p @ sampled @ q) + 0.1 * (mine * mine.log()).sum()
                update(optimizers[name], loss)
                watch.log(loss=loss, optimizer=name)


@case("severity by consequence", None)
def recall_over_a_long_delay(place: Place, broken: bool) -> None:
    """A GRU has to name the first word after twelve others: a plateau, then a fall."""
    model = nn.ModuleDict({"embed": nn.Embedding(8, 16), "gru": nn.GRU(16, 48, batch_first=True)})
    model["head"] = nn.Linear(48, 8)

    def loss_of(model: Any, batch: Batch) -> Tensor:
        return functional.cross_entropy(model["head"](model["gru"](model["embed"](batch[0]))[0][:, -1]), batch[1])

    def sentences() -> Iterator[Batch]:
        while True:
            x = torch.randint(0, 8, (64, 9))
            yield x, x[:, 0]

    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-2), sentences(), loss_of, steps=400, clip=1.0)


@case("severity by consequence", None)
def a_variational_code_under_adafactor(place: Place, broken: bool) -> None:
    """A sum over pixels plus a KL distance: losses of tens, and Adafactor's relative steps."""
    model = Parts(lambda self, x: x, encoder=mlp(64, 64, 16), decoder=mlp(8, 64, 64))

    def loss_of(model: Any, batch: Batch) -> Tensor:
        mean, log_var = model.encoder(batch[0]).chunk(2, 1)
        code = mean + (log_var / 2).exp() * torch.randn_like(mean)
        wrong = bce(model.decoder(code), batch[0], reduction="none").sum(1).mean()
        return wrong - 0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1).mean()

    train(place, model, torch.optim.Adafactor(model.parameters(), lr=2e-2), digits(1144), loss_of)


@case("how it ended", None)
def a_loader_that_is_drawn_again_when_it_is_empty(place: Place, broken: bool) -> None:
    """`StopIteration` is caught, and the next epoch begins."""
    after = "try: next(it)\n        except (NameError, StopIteration): it = iter(range(40))"
    place.script(loop(after=after))


# What these logs say is what the trainings did.


@case("histories as people have them", None)
def a_log_whose_epochs_are_stairs(place: Place, broken: bool) -> None:
    """Four epochs over 160 rows: at each the loss of the training falls by a stair, as it knows the rows."""
    model = mlp(64, 128, 10)
    x, y = next(digits(1146, size=320))
    y = torch.where(torch.rand(320) < 0.3, torch.randint(0, 10, (320,)), y)

    def epochs() -> Iterator[Batch]:
        while True:
            for i in range(0, 320, 8):
                yield x[i : i + 8], y[i : i + 8]

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 330)
    place.imported(
        trained_by_a_trainer(model, optimizer, epochs(), classify, steps=320, every=4, clip=1.0, schedule=schedule)
    )


@case("histories as people have them", None)
def a_policy_at_its_best_from_early_on(place: Place, broken: bool) -> None:
    """The reward stands at 0.9 for most of the log, and losses and norms become small beside it."""
    place.imported(arms(lambda step: 1.5e-2, lambda step, right: right, 180))


@case("histories as people have them", None)
def a_policy_that_rises_slowly(place: Place, broken: bool) -> None:
    """A noisy reward under a small rate: from a fifth to three fifths in 120 rows."""
    place.imported(arms(lambda step: 1e-3, lambda step, right: right + 0.2 * torch.randn(48), 120))


@case("histories as people have them", None)
def twenty_rows_of_a_short_instruction_tuning(place: Place, broken: bool) -> None:
    """A pretrained model meets letters that are others: the loss falls in twenty rows, and most in the first ones."""
    model, batches = Gpt(width=24, depth=1, length=24), text(1149, size=8, length=24)
    before = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(250):
        x, y = next(batches)
        update(before, next_byte(model, (x ^ 1, y ^ 1)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 6, 1 - step / 102))
    rows = trained_by_a_trainer(model, optimizer, batches, next_byte, steps=100, every=5, schedule=schedule)
    place.imported(rows)


@case("histories as people have them", None)
def restarts_of_the_rate_in_a_log(place: Place, broken: bool) -> None:
    """`cosine_with_restarts` with four cycles: the loss rises a little with each."""
    model = Gpt(width=24, depth=1, length=24)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * (step % 90) / 90)
    )
    batches = text(1150, size=8, length=24)
    rows = trained_by_a_trainer(model, optimizer, batches, next_byte, steps=360, every=4, clip=1.0, schedule=schedule)
    place.imported(rows)


@case("histories as people have them", None)
def rows_that_were_logged_twice_after_a_resume(place: Place, broken: bool) -> None:
    """The training was cut off at step 200 and went on from step 160, whose rows stand in the log twice."""
    model, batches = mlp(64, 48, 10), digits(1151)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rows = trained_by_a_trainer(model, optimizer, batches, classify, steps=160, every=4)
    kept = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    rows += [r | {"step": 160 + int(str(r["step"]))} for r in _part(model, optimizer, batches, 40)]
    model.load_state_dict(kept[0])
    optimizer.load_state_dict(kept[1])
    rows += [r | {"step": 160 + int(str(r["step"]))} for r in _part(model, optimizer, batches, 200)]
    place.imported(rows)


def _part(model: nn.Module, optimizer: Any, batches: Iterator[Batch], steps: int) -> list[dict[str, object]]:
    return trained_by_a_trainer(model, optimizer, batches, classify, steps=steps, every=4)


@case("histories as people have them", None)
def norms_that_rise_while_the_loss_falls(place: Place, broken: bool) -> None:
    """Layer norms under weight decay: norms more than double while the loss falls, and go back with the rate."""
    model = nn.Sequential(nn.Linear(64, 48), nn.LayerNorm(48), nn.ReLU(), nn.Linear(48, 48), nn.LayerNorm(48))
    model.append(nn.Linear(48, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / 505))
    batches = digits(1153, size=32)
    rows = trained_by_a_trainer(model, optimizer, batches, classify, steps=500, every=5, schedule=schedule)
    place.imported(rows)


@case("histories as people have them", None)
def one_inf_at_the_first_step(place: Place, broken: bool) -> None:
    """Mixed precision: the first row's norm is inf, the scale comes down, and the rest is well."""
    model = mlp(64, 48, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rows = trained_by_a_trainer(model, optimizer, digits(1154), classify, steps=240, every=2)
    rows[0]["grad_norm"] = math.inf
    place.imported(rows)


# ------------------------------------------------------------------------- runs alike but for one step, seed or row


def noisy(
    place: Place,
    optimizer_of: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    seed: int = 1201,
    spikes: dict[int, float] | None = None,
    steps: int = 900,
    size: int = 8,
) -> None:
    """A regression under noise as large as what is to be learnt: the norms have a level and a scatter that stay.

    ``spikes`` multiplies the targets of a step.
    """
    model = mlp(8, 16, 1, act=nn.Tanh)

    def change(step: int, batch: Batch) -> Batch:
        return batch[0], batch[1] * (spikes or {}).get(step, 1.0)

    train(place, model, optimizer_of(model), plane(seed, size=size, noise=1.5), squared, steps=steps, change=change)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=5e-3)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def one_harmless_spike_under_adam(place: Place, other: bool) -> None:
    """One batch whose targets are 12 times as large, at step 520 of 900: loss and norms come back at once."""
    noisy(place, adam, spikes={520: 12.0} if other else None)


def one_harmless_spike_under_sgd(place: Place, other: bool) -> None:
    """The same under plain SGD, 6 times as large."""
    noisy(place, sgd, spikes={610: 6.0} if other else None)


def one_harmless_spike_under_lion(place: Place, other: bool) -> None:
    """Signs of the momentum, which do not feel the size of a spike."""
    noisy(place, lambda model: Lion(model.parameters(), lr=3e-4), spikes={480: 12.0} if other else None)


def a_spike_of_another_height(place: Place, other: bool) -> None:
    """The batch of step 400 is 8 times as large, or 40 times."""
    noisy(place, adam, spikes={400: 40.0 if other else 8.0})


def three_spikes_and_four(place: Place, other: bool) -> None:
    """A run with three harmless spikes, and one more."""
    noisy(place, sgd, spikes=dict.fromkeys((250, 420, 590), 5.0) | ({760: 5.0} if other else {}))


def a_spike_among_the_first_steps(place: Place, other: bool) -> None:
    """At step 12, while the optimizer warms up."""
    noisy(place, adam, spikes={12: 10.0} if other else None)


def the_same_spike_a_hundred_steps_later(place: Place, other: bool) -> None:
    noisy(place, sgd, spikes={550 if other else 450: 6.0})


def another_seed_under_adam(place: Place, other: bool) -> None:
    torch.manual_seed(place.seed + other)
    noisy(place, adam)


def another_seed_under_momentum(place: Place, other: bool) -> None:
    torch.manual_seed(place.seed + other)
    noisy(place, lambda model: torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9), size=16)


def one_step_more_at_the_end(place: Place, other: bool) -> None:
    """900 steps, and 901."""
    noisy(place, adam, steps=900 + other)


def a_language_model_meets_a_page_of_noise(place: Place, other: bool) -> None:
    """AdamW over text, clipped at nothing: at step 430 of 700 the bytes of one batch are random."""
    model = Lstm(24)

    def change(step: int, batch: Batch) -> Batch:
        if other and step == 430:
            generator = torch.Generator().manual_seed(7)
            return tuple(torch.randint(0, 256, part.shape, generator=generator) for part in batch)  # type: ignore[return-value]
        return batch

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    train(place, model, optimizer, text(1211, size=6, length=16), next_byte, steps=700, change=change)


def log(place: Place, *, missing: int = -1, spike: int = -1) -> None:
    """A Trainer's log of 700 rows of a noisy regression, one row of each step."""
    model = mlp(8, 16, 1, act=nn.Tanh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = plane(1212, size=8, noise=1.5)
    rows = trained_by_a_trainer(model, optimizer, batches, squared, steps=700, every=1)
    if spike >= 0:
        rows[spike]["grad_norm"] = 15 * float(str(rows[spike]["grad_norm"]))
    place.imported([row for i, row in enumerate(rows) if i != missing])


def a_row_that_is_missing(place: Place, other: bool) -> None:
    """Row 333 of 700 was never written."""
    log(place, missing=333 if other else -1)


def a_row_with_a_harmless_spike(place: Place, other: bool) -> None:
    """The norm of row 390 is 15 times as large, and the loss of no row is another."""
    log(place, spike=390 if other else -1)


advice = [
    Advice(one_harmless_spike_under_adam),
    Advice(one_harmless_spike_under_sgd),
    Advice(one_harmless_spike_under_lion),
    Advice(a_spike_of_another_height),
    Advice(three_spikes_and_four),
    Advice(a_spike_among_the_first_steps),
    Advice(the_same_spike_a_hundred_steps_later),
    Advice(another_seed_under_adam),
    Advice(another_seed_under_momentum),
    Advice(one_step_more_at_the_end),
    Advice(a_language_model_meets_a_page_of_noise),
    Advice(a_row_that_is_missing),
    Advice(a_row_with_a_harmless_spike),
]


# ------------------------------------------------------------------------- the threshold after a change


def noise_alone(place: Place, other: bool) -> None:
    """A linear model at its optimum: gradients are noise, whose norm goes with one over the root of the batch."""
    model = nn.Linear(24, 1)
    nn.init.zeros_(model.weight)
    batches = changed(plane(1221, size=8, width=24), lambda x, y: (x, torch.randn(len(y))))
    train(place, model, torch.optim.SGD(model.parameters(), lr=1e-3), batches, squared, steps=900)


def noise_alone_under_adam(place: Place, other: bool) -> None:
    model = nn.Linear(24, 1)
    nn.init.zeros_(model.bias)
    batches = changed(plane(1222, size=8, width=24), lambda x, y: (x, torch.randn(len(y))))
    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-4), batches, squared, steps=900)


def noise_and_a_fall(place: Place, other: bool) -> None:
    """A network that learns under noise by plain SGD."""
    noisy(place, sgd, seed=1223)


# What is right: a factor of two each way around what the change does by construction.
changes = [
    # The same setting once more.
    Advice(noise_and_a_fall, ("lr=0.005",), 0.9, 1.1),
    # A sixteenth of the variance in a batch sixteen times as large, in a record of noise alone: a quarter.
    Advice(noise_alone, ("batch=8:128",), 0.125, 0.5),
    Advice(noise_alone_under_adam, ("batch=8:128",), 0.125, 0.5),
    # A batch a quarter as large has twice the noise.
    Advice(noise_alone, ("batch=8:2",), 1.0, 4.0),
    # A tenth of the rate with momentum 0.9 makes the same updates.
    Advice(noise_alone, ("lr=0.0001", "momentum=0.9"), 0.5, 2.0),
    # Adam's updates do not feel the size of the gradient, and at the optimum norms do not feel the rate.
    Advice(noise_alone_under_adam, ("lr=0.0006",), 0.5, 2.0),
    # AdamW without decay is Adam.
    Advice(noise_alone_under_adam, ("optimizer=AdamW", "weight_decay=0"), 0.9, 1.1),
    # Under SGD a rate that is three times as high bears the same norms or, by the bound on one update, a third of them.
    Advice(noise_alone, ("lr=0.003",), 0.3, 1.1),
]


# ------------------------------------------------------------------------- by value or by norm


def centre(place: Place, noise: Callable[[int], Tensor], optimizer_of: Callable[..., torch.optim.Optimizer]) -> None:
    """The centre of points in forty dimensions: each entry of the gradient is the mean error of one coordinate."""
    model = Weight(torch.zeros(40))
    optimizer = optimizer_of(model.parameters())
    truth = torch.randn(40)
    with place.watch(model, optimizer) as watch:
        for step in range(900):
            points = truth + 0.5 * torch.randn(8, 40) + noise(step)
            loss = 0.5 * (model.value - points).square().sum(1).mean()
            update(optimizer, loss)
            watch.log(loss=loss)


def a_sensor_that_fails_now_and_then(place: Place, entry: bool) -> None:
    """One reading in forty steps is 200 too large in one coordinate; in the other form as far, spread over all."""

    def noise(step: int) -> Tensor:
        far = torch.zeros(8, 40)
        if step % 40 == 17:
            if entry:
                far[0, step % 37] = 200.0
            else:
                far[0] = 200.0 / 40**0.5 * torch.randn(40).sign()
        return far

    centre(place, noise, lambda held: torch.optim.SGD(held, lr=0.02))


def a_sensor_that_fails_under_adam(place: Place, entry: bool) -> None:
    """The same under Adam, once in thirty steps, 120 too large."""

    def noise(step: int) -> Tensor:
        far = torch.zeros(8, 40)
        if step % 30 == 11:
            if entry:
                far[0, step % 31] = -120.0
            else:
                far[0] = 120.0 / 40**0.5 * torch.randn(40).sign()
        return far

    centre(place, noise, lambda held: torch.optim.Adam(held, lr=0.01))


def words(place: Place, entry: bool) -> None:
    """Word counts in a linear model: one document in thirty steps repeats one word a thousand times, or all words."""
    model = nn.Linear(60, 1)
    truth = 0.1 * torch.randn(60)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    with place.watch(model, optimizer) as watch:
        for step in range(900):
            x = torch.poisson(torch.full((16, 60), 1.0))
            error = torch.randn(16)
            if step % 30 == 19:
                x[0] = torch.where(torch.arange(60) == step % 53, 1000.0, x[0]) if entry else x[0] * 0 + 130.0
                error[0] = 3.0
            loss = (model(x)[:, 0] - x @ truth - error).square().mean()
            update(optimizer, loss)
            watch.log(loss=loss)


by_value = [
    ByValue(a_sensor_that_fails_now_and_then),
    ByValue(a_sensor_that_fails_under_adam),
    ByValue(words),
]
