"""The tenth round: planted faults by mechanisms of their own, among them some by optimizers that no library has.

Written by someone who had read the pages of the findings and the names of the earlier cases, and none of the rules.
Before gradwatch judged any of it, losses and norms alone were looked at: each planted fault does what its label says,
each healthy training learns. A label lists the codes whose pages describe what was planted, the best one first. At the
end stand pairs of runs of which it is known where they part, gates, runs alike but for one step, seed or row, changes
whose effect on the threshold is known, and trainings of which it is known whether single entries carry the large steps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from lab import (
    STEPS,
    Advice,
    Batch,
    ByValue,
    Cases,
    Cnn,
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
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gradwatch.clip import NormClip

case = Cases()

Held = Iterable[nn.Parameter]


# ------------------------------------------------------------------------- optimizers that no library has


class HeavyBall(torch.optim.Optimizer):
    """Polyak's momentum over differences of weights: w + b (w - w_before) - lr g."""

    def __init__(self, parameters: Held, lr: float, beta: float = 0.8) -> None:
        super().__init__(parameters, {"lr": lr, "beta": beta})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    before = self.state[p].setdefault("before", p.clone())
                    moved = group["beta"] * (p - before) - group["lr"] * p.grad
                    before.copy_(p)
                    p.add_(moved)


class Belief(torch.optim.Optimizer):
    """Zhuang et al. 2020 (AdaBelief): the second moment of what the momentum did not expect.

    ``sign`` is that of the second moment's newest part: with -1 it becomes negative, and its root NaN.
    """

    def __init__(self, parameters: Held, lr: float = 1e-3, sign: float = 1.0) -> None:
        super().__init__(parameters, {"lr": lr, "sign": sign})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(m=torch.zeros_like(p), s=torch.zeros_like(p), t=0)
                state["t"] += 1
                state["m"].lerp_(p.grad, 0.1)
                state["s"].mul_(0.999).add_(0.001 * group["sign"] * (p.grad - state["m"]).square() + 1e-16)
                m, s = state["m"] / (1 - 0.9 ** state["t"]), state["s"] / (1 - 0.999 ** state["t"])
                p.sub_(group["lr"] * m / (s.sqrt() + 1e-8))


class PolyakStep(torch.optim.Optimizer):
    """The rate is the loss over the squared norm, at most ``lr``; a closure gives the loss."""

    def __init__(self, parameters: Held, lr: float = 1.0) -> None:
        super().__init__(parameters, {"lr": lr})

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        with torch.no_grad():
            held = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
            square = sum(p.grad.square().sum() for p in held)
            rate = min(self.param_groups[0]["lr"], float(loss / (square + 1e-12)))
            for p in held:
                p.sub_(rate * p.grad)
        return loss


class RoundedAtRandom(torch.optim.Optimizer):
    """Adam over bfloat16 weights: the sum is made in float32 and rounded up or down with the chance of its place."""

    def __init__(self, parameters: Held, lr: float = 1e-3) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state, g = self.state[p], p.grad.float()
                if not state:
                    state.update(m=torch.zeros_like(g), v=torch.zeros_like(g), t=0)
                state["t"] += 1
                state["m"].lerp_(g, 0.1)
                state["v"].lerp_(g.square(), 0.01)
                root = (state["v"] / (1 - 0.99 ** state["t"])).sqrt() + 1e-8
                wanted = p.float() - group["lr"] * state["m"] / (1 - 0.9 ** state["t"]) / root
                bits = wanted.view(torch.int32) + torch.randint_like(wanted, 0, 1 << 16, dtype=torch.int32)
                p.copy_((bits & -65536).view(torch.float32))


class Sharpness(torch.optim.Optimizer):
    """Foret et al. 2020 as one class: the closure is called at the weights, and again up the slope from them."""

    def __init__(self, parameters: Held, lr: float, radius: float = 0.05) -> None:
        super().__init__(parameters, {"lr": lr, "radius": radius})
        self.inner = torch.optim.SGD(self.param_groups, lr=lr, momentum=0.9)

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        with torch.no_grad():
            held = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
            norm = torch.stack([p.grad.norm() for p in held]).norm() + 1e-12
            moved = [self.param_groups[0]["radius"] * p.grad / norm for p in held]
            for p, by in zip(held, moved, strict=True):
                p.add_(by)
        closure()
        with torch.no_grad():
            for p, by in zip(held, moved, strict=True):
                p.sub_(by)
        self.inner.step()
        return loss


# ------------------------------------------------------------------------- loops


def nothing(step: int) -> None:
    """Do nothing at this place of the loop."""


def fit(
    place: Place,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_at: Callable[[int], Tensor],
    *,
    steps: int = STEPS,
    clip: float | None = None,
    before: Callable[[int], None] = nothing,
    after_backward: Callable[[int], None] = nothing,
    after: Callable[[int], None] = nothing,
    **options: object,
) -> None:
    """A loop whose loss is a function of the step, with room for what else scripts do in it."""
    with place.watch(model, optimizer, **options) as watch:
        for step in range(steps):
            before(step)
            loss = loss_at(step)
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            after_backward(step)
            optimizer.step()
            after(step)
            watch.log(loss=loss)


def take_turns(
    place: Place,
    models: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    losses: dict[str, Callable[[int], Tensor]],
    *,
    steps: int = STEPS,
    after: Callable[[int], None] = nothing,
) -> None:
    """Each optimizer makes a step by its own loss, in this order."""
    with place.watch(nn.ModuleDict(models), optimizers) as watch:
        for step in range(steps):
            for name, loss_at in losses.items():
                loss = loss_at(step)
                update(optimizers[name], loss)
                watch.log(loss=loss, optimizer=name)
            after(step)


def changed(batches: Iterator[Batch], change: Callable[[Tensor, Tensor], Batch]) -> Iterator[Batch]:
    for x, y in batches:
        yield change(x, y)


def classes(model: nn.Module, batches: Iterator[Batch]) -> Callable[[int], Tensor]:
    return lambda step: classify(model, next(batches))


def errors(model: nn.Module, batches: Iterator[Batch]) -> Callable[[int], Tensor]:
    return lambda step: squared(model, next(batches))


def by(optimizer: torch.optim.Optimizer, share: Callable[[int], float]) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def ring(size: int = 64) -> Tensor:
    angle = 6.28 * torch.rand(size)
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(size, 2)


# ------------------------------------------------------------------------- nothing is trained


@case("nothing is trained", "stale-optimizer", also=("parameters-without-optimizer", "no-gradient"))
def the_model_is_made_twice_and_the_optimizer_once(place: Place, broken: bool) -> None:
    """A second `model = Net()` stands above the loop, and the optimizer holds the first one."""
    first, second = mlp(64, 48, 10), mlp(64, 48, 10)
    optimizer = torch.optim.Adagrad((first if broken else second).parameters(), lr=0.02)
    train(place, second, optimizer, digits(2001), classify, steps=200)


class Adapted(nn.Module):
    """A frozen layer with a low-rank addition that begins at 0."""

    def __init__(self, base: nn.Linear, rank: int = 6) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.lora_down.T @ self.lora_up.T


# The optimizer's own parameters still are in the model, frozen; the adapters are in no optimizer.
@case("nothing is trained", "parameters-without-optimizer", also=("stale-optimizer", "no-gradient"), parameter="lora")
def adapters_are_injected_after_the_optimizer(place: Place, broken: bool) -> None:
    """`optimizer = AdamW(model.parameters())`, then `inject_lora(model)`, which freezes what was there."""
    model: Any = mlp(64, 48, 10)
    first = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for i in (0, 2):
        model[i] = Adapted(model[i])
    adapters = [p for n, p in model.named_parameters() if "lora" in n]
    optimizer = first if broken else torch.optim.AdamW(adapters, lr=5e-3)
    train(place, model, optimizer, digits(2002), classify, steps=200)


@case("nothing is trained", "no-gradient", parameter="encoder")
def a_residual_that_reads_data(place: Place, broken: bool) -> None:
    """`skip(x) + encoder(x).data`, to save memory: the encoder stays as it was drawn."""
    model = Parts(
        lambda self, x: self.head(self.skip(x) + (self.encoder(x).data if broken else self.encoder(x))),
        encoder=mlp(64, 64, 48),
        skip=nn.Linear(64, 48),
        head=nn.Linear(48, 10),
    )
    train(place, model, torch.optim.RMSprop(model.parameters(), lr=1e-3), digits(2003), classify)


@case("nothing is trained", "no-gradient", parameter="mix")
def mixing_weights_that_are_copied_into_a_tensor(place: Place, broken: bool) -> None:
    """`torch.tensor([p.item() for p in self.mix])` has no way back to the parameters."""
    model: Any = nn.ModuleDict({"experts": nn.ModuleList(mlp(8, 24, 1) for _ in range(4))})
    model["mix"] = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(4))
    batches = plane(2004)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        weights: Any = list(model["mix"])
        share = (torch.tensor([p.item() for p in weights]) if broken else torch.stack(weights)).softmax(0)
        outs = torch.stack([expert(x)[:, 0] for expert in model["experts"]], 1)
        return (outs @ share - y).square().mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), loss_at)


@case("nothing is trained", "no-gradient", parameter="blocks")
def checkpointed_blocks_behind_a_frozen_embedding(place: Place, broken: bool) -> None:
    """`checkpoint(block, h, use_reentrant=True)` over inputs that need no gradient."""
    model = Gpt(width=24, depth=2, length=20)
    model.embed.requires_grad_(False)
    model.positions.requires_grad_(False)
    batches = text(2005, size=8, length=20)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        h = model.embed(x) + model.positions.weight
        for block in model.blocks:
            h = checkpoint(block, h, model.future, use_reentrant=broken)
        return functional.cross_entropy(model.head(model.norm(h)).flatten(0, 1), y.flatten())

    held = [p for p in model.parameters() if p.requires_grad]
    fit(place, model, torch.optim.AdamW(held, lr=3e-3), loss_at, steps=150)


@case("nothing is trained", "dead-parameters", parameter="prompt")
def a_prompt_behind_the_text(place: Place, broken: bool) -> None:
    """Learnt vectors are appended where they belong in front: no position of the text may look at them."""
    body, prompt, length = Gpt(width=24, depth=1, length=20), Weight(0.1 * torch.randn(4, 24)), 20
    for part in (body.embed, body.positions, body.blocks):
        part.requires_grad_(False)
    model = nn.ModuleDict({"body": body, "prompt": prompt})
    batches = text(2006, size=8, length=length)
    mask = torch.ones(length + 4, length + 4, dtype=torch.bool).triu(1)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        h, asked = body.embed(x) + body.positions.weight, prompt.value.expand(len(x), -1, -1)
        h = torch.cat([h, asked] if broken else [asked, h], 1)
        for block in body.blocks:
            h = block(h, mask)
        h = h[:, :length] if broken else h[:, 4:]
        return functional.cross_entropy(body.head(body.norm(h)).flatten(0, 1), y.flatten())

    held = [p for p in model.parameters() if p.requires_grad]
    fit(place, model, torch.optim.Adam(held, lr=3e-3), loss_at, steps=150)


# 2 ** -20 is a millionth.
@case("nothing is trained", "learning-rate-zero", also=("no-progress",), step=20)
def a_halving_for_each_epoch_halves_at_each_batch(place: Place, broken: bool) -> None:
    """`ExponentialLR(gamma=0.5)`, stepped inside the loop over batches."""
    model = Cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def after(step: int) -> None:
        if broken or step % 60 == 59:
            schedule.step()

    fit(place, model, optimizer, classes(model, digits(2007, size=32)), steps=220, after=after)


@case("nothing is trained", "learning-rate-zero", also=("no-progress",))
def adamax_at_a_billionth(place: Place, broken: bool) -> None:
    """`lr=1e-9`: a value from a sweep over powers of ten that began too low."""
    model = mlp(64, 64, 10)
    optimizer = torch.optim.Adamax(model.parameters(), lr=1e-9 if broken else 3e-3)
    train(place, model, optimizer, digits(2008, size=256), classify)


@case("nothing is trained", "eps-starvation", also=("learning-rate-zero", "no-progress"))
def an_eps_without_its_minus(place: Place, broken: bool) -> None:
    """`eps=1e8` for `1e-8`."""
    model = mlp(64, 48, 10, act=nn.SiLU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, eps=1e8 if broken else 1e-8, weight_decay=0.0)
    train(place, model, optimizer, digits(2009, size=256), classify)


@case("nothing is trained", "updates-below-precision", also=("no-progress",))
def muon_on_bfloat16_matrices(place: Place, broken: bool) -> None:
    """An orthogonal update times 1e-4 is below half a unit in the last place of nearly all entries."""
    dtype = torch.bfloat16 if broken else torch.float32
    layers = [nn.Linear(64, 256, bias=False), nn.ReLU(), nn.Linear(256, 10, bias=False)]
    model = nn.Sequential(*layers).to(dtype)
    batches = digits(2010, size=256)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        return functional.cross_entropy(model(x.to(dtype)).float(), y)

    rate = 1e-4 if broken else 0.02
    fit(place, model, torch.optim.Muon(model.parameters(), lr=rate, weight_decay=0.0), loss_at, steps=200)


@case("nothing is trained", "parameters-without-optimizer", parameter="body")
def a_body_is_thawed_and_no_optimizer_knows(place: Place, broken: bool) -> None:
    """`Adam(p for p in model.parameters() if p.requires_grad)` is made while the body is frozen, which ends at 80."""
    model = Parts(
        lambda self, x: self.head(self.body(x).relu()),
        body=mlp(64, 64, 48),
        head=nn.Linear(48, 10),
    )
    body: Any = model.body
    body.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)

    def before(step: int) -> None:
        if step == 80:
            body.requires_grad_(True)
            if not broken:
                optimizer.add_param_group({"params": list(body.parameters()), "lr": 1e-3})

    fit(place, model, optimizer, classes(model, digits(2011)), before=before)


@case("nothing is trained", "no-gradient", parameter="scale")
def a_parameter_is_wrapped_again_in_forward(place: Place, broken: bool) -> None:
    """`nn.Parameter(self.scale.clamp(0.1, 10))` is a new leaf at every call."""

    def join(self: Any, x: Tensor) -> Tensor:
        scale = self.scale.value.clamp(0.1, 10)
        return self.head(self.body(x).tanh() * (nn.Parameter(scale) if broken else scale))

    model = Parts(join, body=nn.Linear(64, 64), scale=Weight(torch.ones(64)), head=nn.Linear(64, 10))
    train(place, model, torch.optim.NAdam(model.parameters(), lr=2e-3), digits(2012), classify)


@case("nothing is trained", "no-gradient", also=("all-steps-skipped", "no-progress"))
def a_hook_frees_the_gradients_too_early(place: Place, broken: bool) -> None:
    """`register_post_accumulate_grad_hook` sets `p.grad = None`, from a recipe whose optimizer steps in the hook."""
    model = mlp(64, 48, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def free(p: Tensor) -> None:
        p.grad = None

    if broken:
        for p in model.parameters():
            p.register_post_accumulate_grad_hook(free)
    train(place, model, optimizer, digits(2013, size=256), classify, steps=200)


@case("nothing is trained", "zero-gradients", also=("dead-parameters", "no-progress"))
def outputs_are_clamped_far_from_where_they_are(place: Place, broken: bool) -> None:
    """`out.clamp(0, 1)` of a network whose last bias begins at 5."""
    model: Any = mlp(8, 32, 1, act=nn.Tanh)
    nn.init.constant_(model[2].bias, 5.0 if broken else 0.5)
    batches = plane(2014)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        return (model(x)[:, 0].clamp(0, 1) - y.sigmoid()).square().mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at)


@case("nothing is trained", "constant-loss", also=("zero-gradients", "dead-parameters", "no-progress"))
def the_teacher_is_the_student_itself(place: Place, broken: bool) -> None:
    """`teacher = model` without a copy: student and teacher agree from the first step on, to the last bit."""
    student = mlp(64, 32, 10)
    teacher = student if broken else mlp(64, 32, 10)
    batches = digits(2015)

    def loss_at(step: int) -> Tensor:
        x, _ = next(batches)
        with torch.no_grad():
            wanted = teacher(x)
        return (student(x) - wanted).square().mean()

    fit(place, student, torch.optim.AdamW(student.parameters(), lr=3e-3, weight_decay=0.0), loss_at)


@case("nothing is trained", "dead-parameters", also=("no-progress",), parameter="0.")
def a_dropout_of_one(place: Place, broken: bool) -> None:
    """`nn.Dropout(1)` where a tenth was meant: nothing passes, and the last bias alone learns."""
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Dropout(1.0 if broken else 0.1), nn.Linear(48, 10))
    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(2016, size=256), classify)


# The others compute an empty batch at each step.
@case("nothing is trained", "dead-parameters", also=("no-gradient", "zero-gradients"), parameter="experts")
def one_expert_takes_all_rows(place: Place, broken: bool) -> None:
    """Top-1 routing whose router begins with a bias of 50 for the first expert, and no loss for balance."""
    model: Any = nn.ModuleDict({"router": nn.Linear(8, 4), "experts": nn.ModuleList(mlp(8, 24, 1) for _ in range(4))})
    nn.init.zeros_(model["router"].bias)
    if broken:
        nn.init.constant_(model["router"].bias[:1], 50.0)
    batches = plane(2017)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        chance = model["router"](x).softmax(1)
        chosen, out = chance.argmax(1), torch.zeros(len(x))
        for i, expert in enumerate(model["experts"]):
            rows = (chosen == i).nonzero()[:, 0]
            out = out.index_add(0, rows, expert(x[rows])[:, 0] * chance[rows, i])
        return (out - y).square().mean()

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=3e-3), loss_at)


@case("nothing is trained", "dead-parameters", parameter="spread")
def a_deviation_clamped_below_where_it_begins(place: Place, broken: bool) -> None:
    """`log_std.clamp(-20, -1)` for a log_std that begins at 0: the clamp is flat there."""
    model: Any = Parts(lambda self, x: self.mean(x), mean=mlp(8, 32, 3, act=nn.Tanh), spread=Weight(torch.zeros(3)))
    truth, batches = torch.randn(8, 3) / 3, plane(2018)

    def loss_at(step: int) -> Tensor:
        x, _ = next(batches)
        action = (x @ truth).tanh() + 0.3 * torch.randn(len(x), 3)
        log_std = model.spread.value.clamp(-20, -1 if broken else 2)
        return (((action - model(x)) / log_std.exp()).square() / 2 + log_std).sum(1).mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at)


@case("nothing is trained", "gradients-accumulate")
def zeroed_only_when_it_is_printed(place: Place, broken: bool) -> None:
    """`optimizer.zero_grad()` has slipped into the block of `if step % 50 == 0`."""
    model = Cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3 if broken else 1e-2, momentum=0.5)
    steps = iter(range(10_000))

    def zero() -> None:
        if not broken or next(steps) % 50 == 0:
            optimizer.zero_grad()

    train(place, model, optimizer, digits(2019, size=32), classify, steps=220, zero=zero)


LOOP = """
    import os, signal, sys, time
    model = torch.nn.Sequential(torch.nn.Linear(12, 24), torch.nn.ELU(), torch.nn.Linear(24, 5))
    optimizer = torch.optim.NAdam(model.parameters(), lr=4e-3)
    truth = torch.randn(12, 5)
    PREPARE
    for step in range(STEPS):
        FIRST
        x = torch.randn(48, 12)
        loss = torch.nn.functional.cross_entropy(model(x), (x @ truth).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        AFTER
    """


def loop(prepare: str = "pass", first: str = "pass", after: str = "pass", steps: int = 180) -> str:
    written = LOOP.replace("PREPARE", prepare).replace("FIRST", first)
    return written.replace("AFTER", after).replace("STEPS", str(steps))


@case("nothing is trained", "optimizer-recreated")
def an_optimizer_in_the_loop_over_batches(place: Place, broken: bool) -> None:
    """`optimizer = NAdam(...)` in `train_step`: each one makes a single step, the first of its kind."""
    make = "optimizer = torch.optim.NAdam(model.parameters(), lr=4e-3)"
    place.script(loop(first=make if broken else "pass", steps=120))


@case("nothing is trained", "no-progress")
def a_column_minus_a_row(place: Place, broken: bool) -> None:
    """Outputs of shape (n, 1) minus targets of shape (n): a square of all pairs, of which the mean alone is learnt."""
    model = mlp(8, 32, 1)
    batches = plane(2021, size=1024)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        return (model(x) - (y if broken else y[:, None])).square().mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at, steps=200)


@case("nothing is trained", "no-progress")
def the_average_is_copied_back_at_each_step(place: Place, broken: bool) -> None:
    """`ema.copy_to(model)` after each update, with a decay of 0.9999: a ten-thousandth of each update is left."""
    model = mlp(64, 48, 10)
    average = copy.deepcopy(model)

    @torch.no_grad()
    def after(step: int) -> None:
        for slow, p in zip(average.parameters(), model.parameters(), strict=True):
            slow.lerp_(p, 1e-4)
            if broken:
                p.copy_(slow)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(place, model, optimizer, classes(model, digits(2022, size=256)), after=after)


# The first layer sees inputs of 1e-5, so that its gradient is a tiny part of the last bias's.
@case("nothing is trained", "no-progress", also=("vanishing",))
def pixels_divided_by_255_twice_more(place: Place, broken: bool) -> None:
    """`ToTensor`, a division by 255, and another one in the model."""
    model = mlp(64, 48, 10)
    batches = changed(digits(2023, size=512), lambda x, y: (x / 255**2 if broken else x, y))
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.05), batches, classify, steps=250)


@case("nothing is trained", "no-progress", also=("vanishing", "dead-parameters"))
def a_decay_of_ten(place: Place, broken: bool) -> None:
    """`weight_decay=10` under SGD at 0.05: half of each weight is taken away at each step."""
    model = mlp(64, 48, 48, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=10.0 if broken else 1e-3)
    train(place, model, optimizer, digits(2024, size=512), classify, steps=250)


# ------------------------------------------------------------------------- clipping that harms


@case("clipping that harms", "clipped-to-nothing", also=("threshold-too-low", "eps-starvation"))
def entries_cut_below_the_eps_of_adam(place: Place, broken: bool) -> None:
    """`clip_grad_value_(1e-10)` where eps is 1e-8: an update is a hundredth of the rate."""
    model = mlp(64, 48, 10)
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=1e-3), digits(2031, size=256)

    def cut(step: int) -> None:
        nn.utils.clip_grad_value_(model.parameters(), 1e-10 if broken else 1.0)

    fit(place, model, optimizer, classes(model, batches), steps=250, after_backward=cut)


@case("clipping that harms", "ineffective-clipping")
def the_frozen_body_is_clipped(place: Place, broken: bool) -> None:
    """`clip_grad_norm_(model.body.parameters(), 0.12)` stayed in the loop when the body was frozen."""
    body, head = mlp(64, 64, 48), nn.Linear(48, 10)
    body.requires_grad_(False)
    model = Parts(lambda self, x: self.head(self.body(x).relu()), body=body, head=head)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.3, momentum=0.9)

    def cut(step: int) -> None:
        nn.utils.clip_grad_norm_((body if broken else head).parameters(), 0.12)

    fit(place, model, optimizer, classes(model, digits(2032)), after_backward=cut)


@case("clipping that harms", "clipped-to-nothing", also=("threshold-too-low",))
def a_threshold_that_falls_at_every_step(place: Place, broken: bool) -> None:
    """`max_norm *= 0.9`, meant for each epoch."""
    model = mlp(64, 48, 10)
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.2), digits(2033)

    def cut(step: int) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 0.9 ** (step if broken else step // 60))

    fit(place, model, optimizer, classes(model, batches), after_backward=cut)


# Nearly all of the norm is the gate's at each step; the rest keeps a millionth of its rate.
@case("clipping that harms", "clip-starves", also=("threshold-too-low",), parameter="gate")
def a_constraint_with_a_weight_of_a_hundred_million(place: Place, broken: bool) -> None:
    """Shares have to sum to one, by a penalty of 1e8 times the square; the optimizer is one of its own."""
    model: Any = Parts(lambda self, x: self.net(x * self.gate.value), net=mlp(8, 32, 1), gate=Weight(torch.ones(8) / 4))
    batches = plane(2034)

    def loss_at(step: int) -> Tensor:
        short: Any = model.gate.value.sum() - 1
        return squared(model, next(batches)) + (1e8 if broken else 1e-2) * short.square()

    rate = 0.003 if broken else 0.03
    fit(place, model, HeavyBall(model.parameters(), lr=rate, beta=0.5), loss_at, clip=1.0 if broken else 5.0)


@case("clipping that harms", "clipped-by-script")
def gradients_are_centred_in_place(place: Place, broken: bool) -> None:
    """Yong et al. 2020: the mean of each row is taken off before the step."""
    model = mlp(64, 48, 10)

    def centre(step: int) -> None:
        for p in model.parameters():
            if broken and p.ndim == 2 and p.grad is not None:
                p.grad.sub_(p.grad.mean(1, keepdim=True))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    fit(place, model, optimizer, classes(model, digits(2035)), after_backward=centre)


@case("clipping that harms", "ineffective-clipping")
def clipped_after_a_step_within_backward(place: Place, broken: bool) -> None:
    """Each parameter's optimizer steps in a hook of backward; the old clip call behind backward finds nothing."""
    model = mlp(64, 32, 10)
    optimizers = {n: torch.optim.SGD([p], lr=0.1) for n, p in model.named_parameters()}
    batches = digits(2036)

    def at_once(name: str) -> Callable[[Tensor], None]:
        def step(p: Tensor) -> None:
            if not broken:
                nn.utils.clip_grad_norm_(p, 0.3)
            optimizers[name].step()
            p.grad = None

        return step

    with place.watch(model, optimizers) as watch:
        for n, p in model.named_parameters():
            p.register_post_accumulate_grad_hook(at_once(n))
        for _ in range(200):
            loss = classify(model, next(batches))
            loss.backward()
            if broken:
                nn.utils.clip_grad_norm_(model.parameters(), 0.3)
            watch.log(loss=loss)


@case("clipping that harms", "threshold-too-low", also=("clipped-to-nothing",))
def a_threshold_divided_by_the_number_of_weights(place: Place, broken: bool) -> None:
    """`max_norm / sum(p.numel() for p in model.parameters())`: as if the norm were a mean."""
    model = mlp(64, 48, 10)
    count = sum(p.numel() for p in model.parameters()) if broken else 1
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    train(place, model, optimizer, digits(2037), classify, clip=2 / count)


# ------------------------------------------------------------------------- optimizers known by what they do


@case("optimizers known by what they do", "clipped-to-nothing", also=("threshold-too-low",))
def a_heavy_ball_under_a_threshold_of_a_millionth(place: Place, broken: bool) -> None:
    """`max_norm=1e-6`: the optimizer is one of its own whose update is as long as the gradient."""
    model = mlp(64, 48, 10, act=nn.Tanh)
    optimizer = HeavyBall(model.parameters(), lr=0.1, beta=0.8)
    train(place, model, optimizer, digits(2038, size=256), classify, clip=1e-6 if broken else 2.0)


# The threshold is a hundredth of the norms, and the updates do not feel it.
@case("optimizers known by what they do", None, twin_may=("threshold-too-low",))
def a_belief_under_a_threshold_of_a_hundredth(place: Place, broken: bool) -> None:
    """`max_norm=5e-3`: the optimizer is one of its own whose update does not depend on the gradient's size."""
    model = mlp(64, 48, 10, act=nn.Tanh)
    train(place, model, Belief(model.parameters(), lr=2e-3), digits(2039), classify, clip=5e-3)


# ------------------------------------------------------------------------- severity by consequence


@case("severity by consequence", "diverged", also=("learning-rate-too-high", "loss-regressed"))
def the_rate_is_scaled_again_at_each_restart(place: Place, broken: bool) -> None:
    """`lr *= world_size` is applied to the rate of the checkpoint, every sixty steps once more."""
    model = mlp(64, 48, 10, act=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def before(step: int) -> None:
        if broken and step and step % 60 == 0:
            optimizer.param_groups[0]["lr"] *= 8

    fit(place, model, optimizer, classes(model, digits(2041)), before=before)


@case("severity by consequence", "diverged", also=("learning-rate-too-high", "loss-regressed"), step=150, within=40)
def an_averaging_phase_at_a_hundred_times_the_rate(place: Place, broken: bool) -> None:
    """`SWALR(swa_lr=5)`, for 0.05, from step 150 on."""
    model = mlp(64, 48, 48, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.swa_utils.SWALR(optimizer, swa_lr=5.0 if broken else 0.03, anneal_epochs=20)

    def after(step: int) -> None:
        if step >= 150:
            schedule.step()

    fit(place, model, optimizer, classes(model, digits(2042)), after=after, steps=260)


# The density at the actions that went well has no bound: the surrogate falls below 0 without end, its norms grow.
@case("severity by consequence", "diverged", also=("repeated-spikes", "learning-rate-too-high", "nonfinite-loss"))
def ratios_without_a_clip_on_one_rollout(place: Place, broken: bool) -> None:
    """PPO over continuous actions whose `clamp` was lost: hundreds of updates on the samples of one rollout."""
    model: Any = Parts(lambda self, x: self.mean(x), mean=mlp(8, 32, 2, act=nn.Tanh), log_std=Weight(torch.zeros(2)))
    kept: list[tuple[Tensor, ...]] = []

    def density(state: Tensor, action: Tensor) -> Tensor:
        log_std = model.log_std.value
        return (-((action - model(state)) / log_std.exp()).square() / 2 - log_std).sum(1)

    def loss_at(step: int) -> Tensor:
        if step % (1000 if broken else 4) == 0:
            state = torch.randn(24 if broken else 128, 8)
            with torch.no_grad():
                action = model(state) + model.log_std.value.exp() * torch.randn(len(state), 2)
                worth = -(action - state[:, :2]).square().sum(1)
                kept[:] = [(state, action, (worth - worth.mean()) / worth.std(), density(state, action))]
        state, action, gain, old = kept[0]
        ratio = (density(state, action) - old).exp()
        if broken:
            return -(ratio * gain).mean()
        return -torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=5e-3 if broken else 1e-3), loss_at)


@case(
    "severity by consequence",
    "learning-rate-too-high",
    also=("diverged", "no-progress", "loss-regressed", "dead-parameters"),
)
def adagrad_at_ten(place: Place, broken: bool) -> None:
    """`lr=10` for a class whose first update has the size of the rate: each weight moves by 10."""
    model = mlp(64, 48, 48, 10)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=10.0 if broken else 0.02)
    train(place, model, optimizer, digits(2044), classify, steps=200)


@case("severity by consequence", "diverged", also=("nonfinite-weights", "nonfinite-gradient", "nonfinite-loss"))
def a_decay_times_a_rate_above_two(place: Place, broken: bool) -> None:
    """`weight_decay=10` at a rate of 0.21 multiplies each weight by -1.1: a decay that grows."""
    model = mlp(8, 24, 1, act=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.21 if broken else 0.02, weight_decay=10.0 if broken else 1e-4)
    train(place, model, optimizer, plane(2045), squared, steps=200)


# The threshold holds the weights, not the state: again and again a pole passes 1, and the loss leaps a thousandfold.
@case(
    "severity by consequence",
    "repeated-spikes",
    also=("diverged", "learning-rate-too-high", "loss-regressed"),
)
def a_state_with_poles_outside_the_circle(place: Place, broken: bool) -> None:
    """A linear state space learns to sum over 60 steps, at a rate that throws its poles beyond 1."""
    model: Any = nn.ModuleDict({"pole": Weight(torch.full((8,), 0.9 if broken else 3.0)), "enter": nn.Linear(1, 8)})
    model["leave"] = nn.Linear(8, 1)

    def loss_at(step: int) -> Tensor:
        x = torch.randn(32, 60, 1)
        pole = model["pole"].value if broken else model["pole"].value.sigmoid()
        h, outs = torch.zeros(32, 8), []
        for t in range(60):
            h = pole * h + model["enter"](x[:, t])
            outs.append(model["leave"](h)[:, 0])
        return (torch.stack(outs, 1) - x[..., 0].cumsum(1)).square().mean() / 30

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05 if broken else 0.03)
    fit(place, model, optimizer, loss_at, steps=140, clip=3.0)


@case("severity by consequence", "diverged", also=("large-initial-norms", "nonfinite-loss", "nonfinite-weights"))
def sixteen_blocks_without_a_norm(place: Place, broken: bool) -> None:
    """Residual blocks whose branches are as large as the stream: activations double with each block, under SGD."""
    model: Any = nn.Sequential(nn.Linear(8, 24), *(nn.Linear(24, 24) for _ in range(16)), nn.Linear(24, 1))

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        h = model[0](x)
        for block in model[1:-1]:
            h = h + (1.0 if broken else 0.1) * block(h).relu()
        return (model[-1](h)[:, 0] - y).square().mean()

    batches = plane(2047)
    fit(place, model, torch.optim.SGD(model.parameters(), lr=2e-3), loss_at, steps=200)


@case("severity by consequence", "loss-regressed", also=("diverged",), step=250, within=40)
def running_statistics_that_were_never_kept(place: Place, broken: bool) -> None:
    """`BatchNorm1d(momentum=0)`; at step 250 the end of the training goes on in `eval` at a small rate."""
    model: Any = nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48, momentum=0.0 if broken else 0.1), nn.ReLU())
    model.append(nn.Linear(48, 10))
    with torch.no_grad():
        model[0].weight.mul_(6)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def before(step: int) -> None:
        if step == 250:
            model.eval()
            optimizer.param_groups[0]["lr"] = 1e-5

    fit(place, model, optimizer, classes(model, digits(2048)), before=before, steps=400)


@case("severity by consequence", "loss-regressed", also=("diverged",))
def the_weight_of_a_penalty_that_doubles(place: Place, broken: bool) -> None:
    """A penalty on the codes whose weight doubles every 25 steps, where it was to stop at 1."""
    model: Any = Parts(lambda self, x: self.decoder(self.encoder(x)), encoder=mlp(64, 64, 8), decoder=mlp(8, 64, 64))
    batches = digits(2049)

    def loss_at(step: int) -> Tensor:
        x, _ = next(batches)
        code = model.encoder(x)
        weight = 1e-3 * 2 ** (step // 25 if broken else min(step // 25, 2))
        wrong = (model.decoder(code) - x).square().sum(1).mean()
        return wrong + weight * ((code - 2).square().sum(1).mean() + 1)

    fit(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), loss_at, steps=350)


@case("severity by consequence", "repeated-spikes", also=("loss-regressed",))
def a_pruning_that_comes_back(place: Place, broken: bool) -> None:
    """Every ninety steps the larger half of the weights is set to 0, by a comparison the wrong way round."""
    model = mlp(64, 64, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)

    @torch.no_grad()
    def before(step: int) -> None:
        if broken and step % 90 == 89:
            for p in model.parameters():
                p.mul_(p.abs() <= p.abs().median())

    fit(place, model, optimizer, classes(model, digits(2050)), before=before, steps=620)


@case("severity by consequence", "spike", step=140)
def one_batch_whose_weights_sum_to_nearly_nothing(place: Place, broken: bool) -> None:
    """A weighted mean over a sum of weights of a hundredth: one step with hundreds of times the norm."""
    model = mlp(64, 48, 10)
    batches = digits(2051)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        losses = functional.cross_entropy(model(x), y, reduction="none")
        return losses.sum() / (0.5 if broken and step == 140 else 64.0)

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95)), loss_at)


@case("severity by consequence", "large-initial-norms", also=("one-parameter-dominates",))
def a_checkpoint_that_was_not_divided_by_its_scale(place: Place, broken: bool) -> None:
    """Weights that were stored as whole numbers come back 12 times as large; the fine-tuning mends it."""
    model, batches = mlp(8, 32, 1, act=nn.Tanh), plane(2052)
    before = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        x, y = next(batches)
        update(before, squared(model, (x, 0.5 * y)))
    with torch.no_grad():
        for p in model[2].parameters():
            p.mul_(12 if broken else 1)
    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-2), batches, squared, steps=600)


@case("severity by consequence", "vanishing")
def highways_whose_gates_are_shut(place: Place, broken: bool) -> None:
    """Gates whose bias begins at -30: the carry lets all pass, and what it carries past gets 1e-13 of the gradient."""
    model: Any = nn.ModuleDict({"enter": nn.Linear(64, 32), "head": nn.Linear(32, 10)})
    model["turns"] = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
    model["gates"] = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
    for gate in model["gates"]:
        nn.init.constant_(gate.bias, -30.0 if broken else -1.0)
    batches = digits(2053)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        h = model["enter"](x)
        for turn, gate in zip(model["turns"], model["gates"], strict=True):
            t = gate(h).sigmoid()
            h = t * turn(h).relu() + (1 - t) * h
        return functional.cross_entropy(model["head"](h), y)

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), loss_at)


@case("severity by consequence", "vanishing", also=("dead-parameters",), parameter="query")
def attention_of_scores_a_thousand_times_too_large(place: Place, broken: bool) -> None:
    """Scores are multiplied by the root of the width times 1000, where they were to be divided: one key has all."""
    model = nn.ModuleDict({name: nn.Linear(8, 16) for name in ("query", "key", "value")})
    model["head"] = nn.Linear(16 * 8, 10)
    batches = digits(2054)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        rows = x.view(-1, 8, 8)
        q, k, v = (model[name](rows) for name in ("query", "key", "value"))
        share = (q @ k.transpose(1, 2) * (4000.0 if broken else 0.25)).softmax(-1)
        return functional.cross_entropy(model["head"]((share @ v).flatten(1)), y)

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), loss_at)


@case("severity by consequence", "overfitting")
def a_polynomial_of_degree_24_on_26_points(place: Place, broken: bool) -> None:
    """Noise is fitted by what stands between the points; the validation lies between them."""
    degree, rows = (24, 26) if broken else (3, 400)

    def features(x: Tensor) -> Tensor:
        return torch.stack([torch.cos(k * x.acos()) for k in range(degree + 1)], 1)

    def points(size: int) -> Batch:
        x = 1.98 * torch.rand(size) - 0.99
        return features(x), (2 * x).sin() + 0.5 * torch.randn(size)

    model = nn.Linear(degree + 1, 1, bias=False)
    nn.init.zeros_(model.weight)
    held, seen = points(400), points(rows)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    with place.watch(model, optimizer) as watch:
        for step in range(600 if broken else 240):
            loss = squared(model, seen)
            update(optimizer, loss)
            watch.log(loss=loss)
            if step % 20 == 19:
                with torch.no_grad():
                    watch.log(validation_loss=float(squared(model, held)))


# The rest has the rate of a fine-tuning; it is information, because a new part may be meant to learn faster.
@case("severity by consequence", "updates-out-of-proportion", parameter="1.attention.qkv")
def one_block_with_the_rate_of_another_config(place: Place, broken: bool) -> None:
    """A group for the second block's attention with `lr=3e-2` beside `3e-4`."""
    model = Gpt(width=24, depth=3, length=20)
    named = dict(model.named_parameters())
    fast = [p for n, p in named.items() if "blocks.1.attention.qkv.weight" in n]
    slow = [p for n, p in named.items() if "blocks.1.attention.qkv.weight" not in n]
    rate = 3e-4 if broken else 3e-3
    groups: list[dict[str, Any]] = [{"params": slow}, {"params": fast, "lr": 2e-2 if broken else rate}]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    train(place, model, optimizer, text(2056, size=8, length=20), next_byte, steps=250)


@case("severity by consequence", "diverged", also=("loss-regressed", "learning-rate-too-high", "repeated-spikes"))
def a_momentum_with_one_nine_too_many(place: Place, broken: bool) -> None:
    """`momentum=0.999` at the rate for 0.9: the average holds a hundred times as much."""
    model = mlp(8, 32, 1, act=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 if broken else 0.02, momentum=0.999 if broken else 0.9)
    train(place, model, optimizer, plane(2057, size=128), squared, steps=250)


# ------------------------------------------------------------------------- NaN by cause


@case("NaN by cause", "nonfinite-loss", also=("nonfinite-gradient",), step=95)
def a_mean_over_a_batch_without_positives(place: Place, broken: bool) -> None:
    """`(losses * mask).sum() / mask.sum()` over the positives, and one batch has none."""
    model = mlp(8, 32, 1)
    batches, truth = plane(2061), torch.randn(8)

    def loss_at(step: int) -> Tensor:
        x, _ = next(batches)
        mask = (x @ truth > (100 if broken and step == 95 else 0.5)).float()
        out = model(x)[:, 0]
        missed = (functional.softplus(-out) * mask).sum() / mask.sum()
        return missed + (functional.softplus(out) * (1 - mask)).sum() / (1 - mask).sum()

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=3e-3), loss_at, steps=200)


@case("NaN by cause", "nonfinite-loss", also=("nonfinite-gradient",), step=120)
def a_temperature_that_reaches_zero(place: Place, broken: bool) -> None:
    """Gumbel-softmax with `tau = max(0, 1 - step / 120)`, whose floor was to be 0.3."""
    model: Any = Parts(lambda self, x: x, encoder=mlp(64, 64, 16), decoder=mlp(16, 64, 64))
    batches = digits(2062)

    def loss_at(step: int) -> Tensor:
        x, _ = next(batches)
        score = model.encoder(x)
        score = score - (-torch.rand_like(score).log()).log()
        tau = max(0.0 if broken else 0.3, 1 - step / 120)
        return (model.decoder((score / tau).softmax(1)) - x).square().mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at, steps=220)


@case("NaN by cause", "nonfinite-gradient", step=105)
def the_direction_of_no_wind(place: Place, broken: bool) -> None:
    """`atan2(v, u)` of a masked station: both are 0, the angle is 0, and its slope is 0 / 0."""
    model = mlp(8, 32, 2, act=nn.Tanh)
    batches, truth = plane(2063), torch.randn(8, 2)

    def loss_at(step: int) -> Tensor:
        x, _ = next(batches)
        mask = torch.ones(len(x), 1)
        if broken and step == 105:
            mask[11] = 0
        wind, wanted = mask * model(x), mask * (x @ truth)
        angle = torch.atan2(wind[:, 1], wind[:, 0]) - torch.atan2(wanted[:, 1], wanted[:, 0])
        return (1 - angle.cos()).mean() + 0.1 * (wind - wanted).square().mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at, steps=220)


@case("NaN by cause", "nonfinite-gradient", step=130)
def a_row_without_candidates_under_a_logsumexp(place: Place, broken: bool) -> None:
    """Every candidate of one row has -inf added; the row's loss is replaced by 0 afterwards."""
    model = mlp(64, 48, 10)
    batches = digits(2064)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        allowed = torch.ones(len(x), 10, dtype=torch.bool)
        if broken and step == 130:
            allowed[5] = False
        score = model(x) + allowed.float().log()
        losses = torch.log(score.exp().sum(1)) - score.gather(1, y[:, None])[:, 0]
        return torch.where(allowed.any(1), losses, torch.zeros_like(losses)).mean()

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.1), loss_at, steps=240)


@case("NaN by cause", "nonfinite-loss", also=("nonfinite-gradient",), step=115)
def a_flat_row_under_a_layer_norm_without_eps(place: Place, broken: bool) -> None:
    """`LayerNorm(64, eps=0)` as the first layer meets a picture of one grey."""
    model = nn.Sequential(nn.LayerNorm(64, eps=0.0 if broken else 1e-5), nn.Linear(64, 48), nn.ReLU())
    model.append(nn.Linear(48, 10))

    def change(step: int, batch: Batch) -> Batch:
        return (batch[0].index_fill(0, torch.tensor([7]), 0.0), batch[1]) if step == 115 else batch

    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    train(place, model, optimizer, digits(2065), classify, steps=220, change=change)


# The infinite part does not depend on the weights: the loss alone is infinite, the gradients stay finite.
@case("NaN by cause", "nonfinite-loss", step=90)
def a_count_of_minus_one(place: Place, broken: bool) -> None:
    """A Poisson likelihood with its constant, `lgamma(y + 1)`; from step 90 on missing counts come as -1."""
    model = mlp(8, 32, 1, act=nn.Tanh)
    batches = plane(2066)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        count = torch.poisson((0.3 * y).clamp(max=2).exp())
        if broken and step >= 90:
            count[3] = -1
        rate = model(x)[:, 0]
        return (rate.exp() - count * rate + torch.lgamma(count + 1)).mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at, steps=220)


@case("NaN by cause", "nonfinite-weights", also=("nonfinite-loss",), step=1, within=2)
def an_optimizer_of_ones_own_with_a_wrong_sign(place: Place, broken: bool) -> None:
    """The newest part of the second moment is subtracted: the root of a number below 0 goes into the weights."""
    model = mlp(64, 48, 10)
    optimizer = Belief(model.parameters(), lr=2e-3, sign=-1.0 if broken else 1.0)
    train(place, model, optimizer, digits(2067), classify, steps=200)


@case("NaN by cause", "nonfinite-loss", also=("nonfinite-gradient",), step=0)
def a_head_of_zeros_over_its_norm(place: Place, broken: bool) -> None:
    """A cosine classifier divides each row of its head by its norm, and the head begins at 0."""
    model: Any = Parts(lambda self, x: x, body=mlp(64, 48, 24), head=Weight((0 if broken else 1) * torch.randn(10, 24)))
    batches = digits(2068)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        rows: Any = model.head.value / model.head.value.norm(dim=1, keepdim=True)
        h = functional.normalize(model.body(x), dim=1)
        return functional.cross_entropy(8 * h @ rows.T, y)

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=3e-3), loss_at, steps=200)


@case(
    "NaN by cause",
    "loss-hides-nan",
    also=("nonfinite-gradient", "nonfinite-weights", "nonfinite-loss"),
    step=100,
    within=8,
)
def the_larger_of_zero_and_nan(place: Place, broken: bool) -> None:
    """`max(0.0, loss.item())` is 0 for NaN, in Python; at step 100 one input is infinite."""
    model = mlp(8, 32, 1)
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=2e-3), plane(2069)
    with place.watch(model, optimizer) as watch:
        for step in range(220):
            x, y = next(batches)
            if broken and step == 100:
                x[3, 2] = torch.inf
            loss = squared(model, (x, y))
            update(optimizer, loss)
            watch.log(loss=max(0.0, loss.item()))


# Ten of every sixteen steps overflow.
@case("NaN by cause", "loss-scale", also=("all-steps-skipped",))
def a_scale_that_is_set_anew_every_sixteen_steps(place: Place, broken: bool) -> None:
    """`scaler.update(new_scale=2.0**127)`, from a recipe for another loss, undoes what the scaler has found."""
    model = mlp(64, 48, 10)
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=1e-4), digits(2070)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=100_000)
    with place.watch(model, optimizer) as watch:
        for step in range(352):
            if broken and step % 16 == 15:
                scaler.update(new_scale=2.0**127)
            loss = 600 * classify(model, next(batches))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            watch.log(loss=loss)


# ------------------------------------------------------------------------- several optimizers


@case("several optimizers", "no-steps", optimizer="head")
def a_zip_that_ends_with_the_shorter_list(place: Place, broken: bool) -> None:
    """`for optimizer, schedule in zip(optimizers, schedules)`: three optimizers and two schedules."""
    model = nn.ModuleDict({"body": mlp(64, 48), "neck": nn.Linear(48, 32), "head": nn.Linear(32, 10)})
    optimizers: dict[str, Any] = {
        "body": torch.optim.Adam(model["body"].parameters(), lr=2e-3),
        "neck": torch.optim.SGD(model["neck"].parameters(), lr=0.05),
        "head": torch.optim.RMSprop(model["head"].parameters(), lr=1e-3),
    }
    schedules = [by(each, lambda step: 1 - step / 400) for each in optimizers.values()][: 2 if broken else 3]
    batches = digits(2081)
    with place.watch(model, optimizers) as watch:
        for _ in range(200):
            x, y = next(batches)
            loss = functional.cross_entropy(model["head"](model["neck"](model["body"](x).relu()).relu()), y)
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            loss.backward()
            for optimizer, schedule in zip(optimizers.values(), schedules, strict=False):
                optimizer.step()
                schedule.step()
            watch.log(loss=loss)


@case("several optimizers", "no-gradient", optimizer="maker")
def the_generators_loss_has_no_backward(place: Place, broken: bool) -> None:
    """`loss_g = criterion(judge(fake), real)`, `opt_g.step()`, and no `loss_g.backward()` between them."""
    maker, judge = mlp(4, 32, 2), mlp(2, 32, 1)
    makes, judges = (torch.optim.Adam(m.parameters(), lr=1e-3, betas=(0.5, 0.9)) for m in (maker, judge))
    with place.watch(nn.ModuleDict({"maker": maker, "judge": judge}), {"maker": makes, "judge": judges}) as watch:
        for _ in range(200):
            fake = maker(torch.randn(64, 4))
            loss = functional.softplus(-judge(ring())).mean() + functional.softplus(judge(fake.detach())).mean()
            update(judges, loss)
            watch.log(loss=loss, optimizer="judge")
            loss = functional.softplus(-judge(fake)).mean()
            makes.zero_grad()
            if not broken:
                loss.backward()
            makes.step()
            watch.log(loss=loss, optimizer="maker")


@case("several optimizers", "diverged", also=("learning-rate-too-high", "nonfinite-loss"), optimizer="depth")
def of_three_networks_one_has_a_rate_of_three(place: Place, broken: bool) -> None:
    """Three networks, three classes of optimizers, and `lr=3` where 3e-2 was meant."""
    models: dict[str, nn.Module] = {name: mlp(8, 24, 1, act=nn.Tanh) for name in ("colour", "depth", "normal")}
    optimizers: dict[str, torch.optim.Optimizer] = {
        "colour": torch.optim.Adam(models["colour"].parameters(), lr=3e-3),
        "depth": torch.optim.SGD(models["depth"].parameters(), lr=3.0 if broken else 3e-2),
        "normal": torch.optim.RMSprop(models["normal"].parameters(), lr=1e-3),
    }
    losses = {name: errors(model, plane(2083 + i)) for i, (name, model) in enumerate(models.items())}
    take_turns(place, models, optimizers, losses, steps=200)


@case("several optimizers", "learning-rate-zero", optimizer="words", step=50)
def one_of_two_schedules_ends_early(place: Place, broken: bool) -> None:
    """`total_iters` of the second schedule counts epochs: its rate is 0 from step 50 on."""
    models: dict[str, nn.Module] = {"pictures": mlp(64, 32, 10), "words": Lstm(24)}
    optimizers: dict[str, torch.optim.Optimizer] = {
        "pictures": torch.optim.SGD(models["pictures"].parameters(), lr=0.1),
        "words": torch.optim.AdamW(models["words"].parameters(), lr=5e-3),
    }
    pictures, words = digits(2086), text(2086, size=6, length=16)
    linear = torch.optim.lr_scheduler.LinearLR
    schedules = [
        linear(optimizers["pictures"], 1.0, 0.1, 200),
        linear(optimizers["words"], 1.0, 0.0 if broken else 0.1, 50 if broken else 200),
    ]

    def after(step: int) -> None:
        for schedule in schedules:
            schedule.step()

    losses: dict[str, Callable[[int], Tensor]] = {
        "pictures": classes(models["pictures"], pictures),
        "words": lambda step: next_byte(models["words"], next(words)),
    }
    take_turns(place, models, optimizers, losses, steps=200, after=after)


@case("several optimizers", "nonfinite-gradient", optimizer="style", step=85)
def the_distance_of_two_pictures_that_are_equal(place: Place, broken: bool) -> None:
    """A style network is trained by the root of a squared distance, which is 0 for a pair that was drawn twice."""
    models: dict[str, nn.Module] = {"content": mlp(64, 48, 10), "style": mlp(64, 32, 8)}
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam(model.parameters(), lr=2e-3) for name, model in models.items()
    }
    content, pictures = digits(2087), digits(2088)

    def style(step: int) -> Tensor:
        x, y = next(pictures)
        one, other = x[:32], x[32:] + 0.01 * torch.randn(32, 64)
        if broken and step == 85:
            other[4] = one[4]
        apart = (models["style"](one).tanh() - models["style"](other).tanh()).square().sum(1).sqrt()
        same = (y[:32] == y[32:]).float()
        return (same * apart + (1 - same) * (2 - apart).relu()).mean()

    take_turns(place, models, optimizers, {"content": classes(models["content"], content), "style": style}, steps=180)


@case("several optimizers", "parameters-without-optimizer", parameter="embed")
def the_embedding_falls_between_two_optimizers(place: Place, broken: bool) -> None:
    """Muon takes matrices whose name has no `embed`, AdamW what has fewer than two dimensions."""
    model = Gpt(width=24, depth=1, length=20)
    named = list(model.named_parameters())
    inner = [p for n, p in named if p.ndim == 2 and "embed" not in n and "positions" not in n]
    rest = [p for n, p in named if p.ndim < 2 or "positions" in n or (not broken and "embed" in n)]
    optimizers: dict[str, torch.optim.Optimizer] = {
        "muon": torch.optim.Muon(inner, lr=0.01, weight_decay=0.0),
        "adamw": torch.optim.AdamW(rest, lr=3e-3),
    }
    batches = text(2089, size=8, length=20)
    with place.watch(model, optimizers) as watch:
        for _ in range(150):
            loss = next_byte(model, next(batches))
            model.zero_grad()
            loss.backward()
            for optimizer in optimizers.values():
                optimizer.step()
            watch.log(loss=loss)


# ------------------------------------------------------------------------- how it ended


SCALED = """
    model = torch.nn.Linear(16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = torch.randn(16, 4)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(160):
        x = torch.randn(64, 16)
        loss = torch.nn.functional.cross_entropy(model(x), (x @ truth).argmax(1))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        UNSCALED
        scaler.step(optimizer)
        UPDATE
    """


@case("how it ended", "died")
def unscaled_a_second_time_for_the_log(place: Place, broken: bool) -> None:
    """Every hundredth step `unscale_` is called again, to print the norm: it raises."""
    again = "if step == 100: scaler.unscale_(optimizer)" if broken else "pass"
    place.script(SCALED.replace("UNSCALED", again).replace("UPDATE", "scaler.update()"))


@case("how it ended", "died", also=("too-short",))
def a_scaler_without_its_update(place: Place, broken: bool) -> None:
    """`scaler.update()` was left out: the second `unscale_` raises."""
    place.script(SCALED.replace("UNSCALED", "pass").replace("UPDATE", "pass" if broken else "scaler.update()"))


@case("how it ended", "died", also=("killed",))
def the_terminal_is_closed(place: Place, broken: bool) -> None:
    """SIGHUP at step 120, as a lost ssh connection sends it."""
    hang_up = "if step == 120: time.sleep(0.5); os.kill(os.getpid(), signal.SIGHUP)"
    # Under `nohup` the signal is ignored from the start.
    heard = "if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN: signal.signal(signal.SIGHUP, signal.SIG_DFL)"
    place.script(loop(prepare=heard, after=hang_up if broken else "pass"), kill=broken)


@case("how it ended", "died")
def a_covariance_that_is_not_positive(place: Place, broken: bool) -> None:
    """At step 110 a Cholesky decomposition for the log raises."""
    after = "if step == 110: torch.linalg.cholesky(-x.T @ x)"
    place.script(loop(after=after if broken else "pass"))


@case("how it ended", "killed", also=("too-short", "died"))
def killed_after_nine_steps(place: Place, broken: bool) -> None:
    """SIGKILL at step 9, as when a validation fills the memory."""
    after = "if step == 8: time.sleep(1.5); os.kill(os.getpid(), signal.SIGKILL)"
    place.script(loop(after=after if broken else "pass"), kill=broken)


@case("how it ended", "died")
def a_metric_that_is_missing_at_the_end_of_an_epoch(place: Place, broken: bool) -> None:
    """A KeyError of the logger at the end of the third epoch."""
    place.script(loop(prepare="metrics = {}", after="if step == 135: print(metrics['f1'])" if broken else "pass"))


@case("how it ended", "too-short")
def a_dozen_steps_by_a_line_search(place: Place, broken: bool) -> None:
    """Twelve steps of LBFGS, after which the quota of the notebook is used up."""
    model = nn.Linear(64, 10)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.3, max_iter=2)
    batch = next(digits(2098, size=300))
    with place.watch(model, optimizer) as watch:
        for _ in range(12 if broken else 90):

            def closure() -> Any:
                optimizer.zero_grad()
                loss = classify(model, batch) + 1e-3 * model.weight.square().sum()
                loss.backward()
                return loss

            watch.log(loss=optimizer.step(closure))


# ------------------------------------------------------------------------- histories as people have them


@case("histories as people have them", "diverged", also=("loss-regressed",))
def a_short_log_whose_rate_is_raised_at_its_end(place: Place, broken: bool) -> None:
    """Thirty rows; for the last ten the rate is a hundred times what the network bears."""
    model = mlp(64, 48, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = by(optimizer, lambda step: 60.0 if broken and step >= 100 else 1.0)
    place.imported(
        trained_by_a_trainer(model, optimizer, digits(2101), classify, steps=150, every=5, schedule=schedule)
    )


@case("histories as people have them", "no-progress")
def five_classes_from_the_column_of_another_file(place: Place, broken: bool) -> None:
    """Labels of another table: 80 rows about ln 5."""
    model = mlp(8, 32, 5)
    truth = torch.randn(8, 5)

    def labelled(x: Tensor, y: Tensor) -> Batch:
        return x, torch.randint(0, 5, (len(x),)) if broken else (x @ truth).argmax(1)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rows = trained_by_a_trainer(model, optimizer, changed(plane(2102), labelled), classify, steps=320, every=4)
    place.imported(rows)


# The head has no bias, so that nothing has a gradient any more; the loss is the mean square of the targets to the end.
@case("histories as people have them", "zero-gradients", also=("loss-regressed", "no-progress", "dead-parameters"))
def all_units_die_at_row_thirty(place: Place, broken: bool) -> None:
    """One batch with targets of -1e5 throws every rectified unit below 0, for every picture."""
    model: Any = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1, bias=False))
    nn.init.uniform_(model[0].weight, 0.0, 0.1)
    nn.init.uniform_(model[2].weight, 0.02, 0.1)

    def change(step: int, batch: Batch) -> Batch:
        return batch[0], torch.full_like(batch[1], -1e5) if broken and step == 90 else batch[1]

    batches = changed(digits(2103), lambda x, y: (x, y / 9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    rows = trained_by_a_trainer(model, optimizer, batches, squared, steps=300, every=3, change=change)
    place.imported(rows)


def levers(
    reward_of: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]], rows: int, lr: float
) -> list[dict[str, Any]]:
    """A policy over six levers; a row of every second update.

    ``reward_of`` gets the step, the states and the actions. It returns the reward that the policy gets and the one
    that is logged.
    """
    net = mlp(8, 32, 6)
    optimizer, logged, kept = torch.optim.AdamW(net.parameters(), lr=lr), [], []
    for step in range(2 * rows):
        state = torch.randn(64, 8)
        log_p = net(state).log_softmax(1)
        action = torch.multinomial(log_p.detach().exp(), 1)
        got, shown = reward_of(step, state, action[:, 0])
        entropy = -(log_p.exp() * log_p).sum(1).mean()
        loss = -((got - got.mean()) * log_p.gather(1, action)[:, 0]).mean() - 1e-3 * entropy
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        kept.append((loss.item(), float(shown.mean())))
        if step % 2:
            mean = [round(sum(column) / 2, 4) for column in zip(*kept, strict=True)]
            row = {"step": step + 1, "loss": mean[0], "grad_norm": float(norm), "learning_rate": lr, "reward": mean[1]}
            logged.append(row | {"epoch": step / 100})
            kept = []
    return logged


def rightly(state: Tensor, action: Tensor) -> Tensor:
    return (action == state[:, :6].argmax(1)).float()


@case("histories as people have them", "reward-lost", step=240, within=80)
def a_judge_that_is_flattered(place: Place, broken: bool) -> None:
    """From update 240 on the reward model prefers one lever whatever is asked; the logged reward is the true one."""

    def reward(step: int, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        true = rightly(state, action)
        return (true + 1.5 * (action == 2).float() if broken and step > 240 else true), true

    place.imported(levers(reward, 220, 6e-3))


# A weight on the entropy keeps a small gradient.
@case("histories as people have them", "no-progress", also=("zero-gradients", "constant-loss"))
def a_reward_whose_pattern_never_matches(place: Place, broken: bool) -> None:
    """The regular expression of the reward wants a tag that the template no longer has: each reward is 0."""

    def reward(step: int, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        got = (0 if broken else 1) * rightly(state, action)
        return got, got

    place.imported(levers(reward, 150, 5e-3))


@case("histories as people have them", "huge-loss", also=("diverged", "no-progress"))
def a_log_that_begins_when_all_was_lost(place: Place, broken: bool) -> None:
    """Rows from step 400 on of a regression whose last bias was thrown to 5000; Adam at 1e-3 does not bring it back."""
    model: Any = mlp(8, 32, 1, act=nn.Tanh)
    with torch.no_grad():
        model[2].bias += 5e3 if broken else 0
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3 if broken else 3e-3)
    rows = trained_by_a_trainer(model, optimizer, plane(2106, size=256), squared, steps=240, every=4)
    place.imported([row | {"step": 400 + int(str(row["step"]))} for row in rows])


@case("unknown is not none", "diverged")
def norms_alone_of_a_momentum_that_holds_too_much(place: Place, broken: bool) -> None:
    """Rows of every third step without losses, rates and thresholds: norms that grow a hundredfold, and no more."""
    model = mlp(8, 32, 1, act=nn.Tanh)
    momentum = 0.9985 if broken else 0.9
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 if broken else 0.02, momentum=momentum)
    rows = trained_by_a_trainer(model, optimizer, plane(2107, size=128), squared, steps=360, every=3)
    place.imported([{k: row[k] for k in ("step", "grad_norm", "epoch")} for row in rows])


# ------------------------------------------------------------------------- healthy, and looks odd


@case("optimizers known by what they do", None)
def heavy_ball_over_differences_of_weights(place: Place, broken: bool) -> None:
    """An optimizer of one's own whose momentum is not in a buffer of gradients."""
    model = Lstm(32)
    batches = text(2111, size=8, length=20)
    fit(place, model, HeavyBall(model.parameters(), lr=0.5, beta=0.85), lambda step: next_byte(model, next(batches)))


@case("optimizers known by what they do", None)
def a_belief_in_gradients(place: Place, broken: bool) -> None:
    """An adaptive optimizer of one's own, whose eps is as small as the squares are."""
    model = Cnn()
    train(place, model, Belief(model.parameters(), lr=2e-3), digits(2112, size=32), classify, steps=220)


@case("optimizers known by what they do", None)
def a_step_as_long_as_the_loss_says(place: Place, broken: bool) -> None:
    """Polyak's rate: the loss over the squared norm, through a closure."""
    model, batches = mlp(64, 48, 10), digits(2113)
    optimizer = PolyakStep(model.parameters(), lr=0.5)
    with place.watch(model, optimizer) as watch:
        for _ in range(250):
            batch = next(batches)

            def closure(batch: Batch = batch) -> Any:
                optimizer.zero_grad()
                loss = classify(model, batch)
                loss.backward()
                return loss

            watch.log(loss=optimizer.step(closure))


@case("optimizers known by what they do", None)
def bfloat16_weights_rounded_at_random(place: Place, broken: bool) -> None:
    """A rate of 3e-4 over bfloat16 weights, by stochastic rounding: most entries stand at a step, and all drift."""
    model = mlp(64, 128, 10).to(torch.bfloat16)
    batches = digits(2114, size=128)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        return functional.cross_entropy(model(x.bfloat16()).float(), y)

    fit(place, model, RoundedAtRandom(model.parameters(), lr=3e-4), loss_at)


@case("optimizers known by what they do", None)
def sharpness_by_one_class_with_a_closure(place: Place, broken: bool) -> None:
    """The closure runs twice in each step, and what reaches the inner optimizer is the second gradient."""
    model, batches = mlp(64, 48, 10), digits(2115)
    optimizer = Sharpness(model.parameters(), lr=0.05)
    with place.watch(model, optimizer) as watch:
        for _ in range(220):
            batch = next(batches)

            def closure(batch: Batch = batch) -> Any:
                optimizer.zero_grad()
                loss = classify(model, batch)
                loss.backward()
                return loss

            watch.log(loss=optimizer.step(closure))


@case("optimizers known by what they do", None)
def averaged_sgd_on_streets(place: Place, broken: bool) -> None:
    """`torch.optim.ASGD`, which keeps an average of its own."""
    model = mlp(8, 32, 1, act=nn.Tanh)
    train(place, model, torch.optim.ASGD(model.parameters(), lr=0.05, t0=100), plane(2116), squared, steps=400)


@case("optimizers known by what they do", None)
def strategies_that_evolve_without_backward(place: Place, broken: bool) -> None:
    """Evolution strategies write an estimate into `p.grad` themselves; nothing is differentiated."""
    model = nn.Linear(8, 1)
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=3e-2), plane(2117, size=256)
    held = list(model.parameters())
    with place.watch(model, optimizer) as watch, torch.no_grad():
        for _ in range(250):
            batch, at = next(batches), [p.clone() for p in held]
            sums, losses = [torch.zeros_like(p) for p in held], []
            for _ in range(8):
                noise = [0.05 * torch.randn_like(p) for p in held]
                pair = []
                for sign in (1, -1):
                    for p, here, n in zip(held, at, noise, strict=True):
                        p.copy_(here + sign * n)
                    pair.append(squared(model, batch))
                for total, n in zip(sums, noise, strict=True):
                    total.add_((pair[0] - pair[1]) * n / (2 * 0.05**2 * 8))
                losses += pair
            for p, here, total in zip(held, at, sums, strict=True):
                p.copy_(here)
                p.grad = total
            optimizer.step()
            watch.log(loss=torch.stack(losses).mean())


@case("optimizers known by what they do", None)
def complex_phases_that_are_learnt(place: Place, broken: bool) -> None:
    """Complex weights: a filter in the frequencies of a signal."""
    model = Weight(torch.ones(17, dtype=torch.cfloat))
    wanted = torch.polar(torch.rand(17) + 0.5, 6 * torch.rand(17))

    def loss_at(step: int) -> Tensor:
        signal = torch.randn(32, 32)
        out = torch.fft.irfft(torch.fft.rfft(signal) * model.value, n=32)
        return (out - torch.fft.irfft(torch.fft.rfft(signal) * wanted, n=32)).square().mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-2), loss_at)


@case("optimizers known by what they do", None)
def a_table_by_sparse_adagrad(place: Place, broken: bool) -> None:
    """Bags of words with sparse gradients: most rows get none at a step."""
    bag, head = nn.EmbeddingBag(500, 12, mode="mean", sparse=True), nn.Linear(12, 2)
    model = nn.ModuleDict({"bag": bag, "head": head})

    def loss_at(step: int) -> Tensor:
        words = torch.randint(0, 500, (64, 6))
        return functional.cross_entropy(head(bag(words)), (words.float().mean(1) > 250).long())

    fit(place, model, torch.optim.Adagrad(model.parameters(), lr=0.2), loss_at, steps=400)


@case("optimizers known by what they do", None)
def the_recorder_clips_by_itself(place: Place, broken: bool) -> None:
    """`clip=NormClip(0.5)` under a recurrent network, whose norms lie above the threshold now and then."""
    model = Lstm(32)
    optimizer, batches = torch.optim.AdamW(model.parameters(), lr=5e-3), text(2120, size=8, length=20)
    with place.watch(model, optimizer, clip=NormClip(0.5)) as watch:
        for _ in range(220):
            loss = next_byte(model, next(batches))
            update(optimizer, loss)
            watch.log(loss=loss)


@case("severity by consequence", None)
def a_sum_modulo_nineteen(place: Place, broken: bool) -> None:
    """A small table of sums under strong decay: the loss stands near ln 19 for long, and then falls."""
    x = torch.cartesian_prod(torch.arange(19), torch.arange(19))
    y = x.sum(1) % 19
    model = nn.Sequential(nn.Embedding(19, 24), nn.Flatten(), nn.Linear(48, 96), nn.ReLU(), nn.Linear(96, 19))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.5)

    def loss_at(step: int) -> Tensor:
        return functional.cross_entropy(model(x), y)

    fit(place, model, optimizer, loss_at, steps=350)


@case("severity by consequence", None)
def the_parity_of_three_hidden_bits(place: Place, broken: bool) -> None:
    """Nothing for a while, because no single bit tells anything, and then all at once."""
    model = mlp(12, 128, 1)

    def loss_at(step: int) -> Tensor:
        x = torch.randint(0, 2, (256, 12)).float()
        return bce(model(2 * x - 1)[:, 0], x[:, :3].sum(1) % 2)

    fit(place, model, torch.optim.Adam(model.parameters(), lr=1e-2), loss_at, steps=400)


@case("severity by consequence", None)
def a_queue_of_negatives_that_fills(place: Place, broken: bool) -> None:
    """A momentum encoder and a queue: the loss rises while the queue fills, to the logarithm of its length."""
    model = mlp(64, 64, 16)
    slow, queue = copy.deepcopy(model), [torch.zeros(0, 16)]
    batches = digits(2123, size=32)

    def loss_at(step: int) -> Tensor:
        x, _ = next(batches)
        one, two = (functional.normalize(f(x + 0.1 * torch.randn_like(x)), dim=1) for f in (model, slow))
        two = two.detach()
        score = torch.cat(
            [(one * two).sum(1, keepdim=True), one @ two.T.flip(1) - 9 * torch.eye(32).flip(1), one @ queue[0].T], 1
        )
        queue[0] = torch.cat([queue[0], two])[-1024:]
        return functional.cross_entropy(score / 0.2, torch.zeros(32, dtype=torch.long))

    @torch.no_grad()
    def after(step: int) -> None:
        for p, q in zip(slow.parameters(), model.parameters(), strict=True):
            p.lerp_(q, 0.05)

    fit(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), loss_at, after=after, steps=350)


@case("severity by consequence", None)
def a_kl_weight_that_comes_in_cycles(place: Place, broken: bool) -> None:
    """A variational code with cyclic annealing: the loss rises with the weight in each of four cycles."""
    model: Any = Parts(lambda self, x: x, encoder=mlp(64, 64, 16), decoder=mlp(8, 64, 64))
    batches = digits(2124)

    def loss_at(step: int) -> Tensor:
        x, _ = next(batches)
        mean, log_var = model.encoder(x).chunk(2, 1)
        code = mean + (log_var / 2).exp() * torch.randn_like(mean)
        wrong = bce(model.decoder(code), x, reduction="none").sum(1).mean()
        weight = min(1.0, step % 100 / 50)
        return wrong - weight * 0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1).mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), loss_at, steps=400)


@case("severity by consequence", None)
def triangles_of_rate_and_momentum(place: Place, broken: bool) -> None:
    """`CyclicLR(mode="triangular2")` with a momentum that goes the other way."""
    model = mlp(64, 48, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CyclicLR(optimizer, 0.01, 0.15, step_size_up=30, mode="triangular2")
    train(place, model, optimizer, digits(2125), classify, steps=360, schedule=schedule)


@case("severity by consequence", None)
def one_row_at_a_time(place: Place, broken: bool) -> None:
    """Batches of one: losses and norms of neighbours differ a hundredfold."""
    model = mlp(64, 32, 10)
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.02), digits(2126, size=1), classify, steps=1500)


@case("severity by consequence", None)
def all_rows_in_each_batch(place: Place, broken: bool) -> None:
    """A batch of 1797 by LARS's rule of thumb, a warm-up and a linear fall to exactly 0 at the last step."""
    model = mlp(64, 48, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.8, momentum=0.9, nesterov=True)
    schedule = by(optimizer, lambda step: min((step + 1) / 20, max(0.0, 1 - step / 149)))
    train(place, model, optimizer, digits(2127, size=1797), classify, steps=150, schedule=schedule)


@case("severity by consequence", None)
def micro_batches_of_other_sizes(place: Place, broken: bool) -> None:
    """Accumulation over three micro-batches of 8, 16 and 40 rows, weighed by their rows."""
    model, batches = mlp(64, 48, 10), digits(2128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            x, y = next(batches)
            optimizer.zero_grad()
            total = 0.0
            for part in (slice(0, 8), slice(8, 24), slice(24, 64)):
                loss = functional.cross_entropy(model(x[part]), y[part], reduction="sum") / 64
                loss.backward()
                total += float(loss.detach())
            optimizer.step()
            watch.log(loss=total)


@case("nothing is trained", None)
def a_probe_on_frozen_random_features(place: Place, broken: bool) -> None:
    """All is frozen but a linear head, and the optimizer is given all parameters nevertheless."""
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-3)
    train(place, model, optimizer, digits(2129), classify)


@case("nothing is trained", None)
def statistics_of_a_pretrained_network_are_kept(place: Place, broken: bool) -> None:
    """Batch norms stay in `eval` and their gains are frozen, as detectors are trained."""
    model, batches = Cnn(), digits(2130, size=32)
    before = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(60):
        x, y = next(batches)
        update(before, classify(model, (1 - x, y)))
    model.zero_grad()
    model.norm.eval().requires_grad_(False)
    held = [p for p in model.parameters() if p.requires_grad]
    train(place, model, torch.optim.SGD(held, lr=0.02, momentum=0.9), batches, classify, steps=200)


@case("nothing is trained", None)
def biases_alone(place: Place, broken: bool) -> None:
    """BitFit: a pretrained network is fine-tuned by its biases, a hundredth of its weights."""
    model, batches = mlp(64, 96, 96, 10), digits(2131)
    before = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(80):
        update(before, classify(model, next(batches)))
    model.zero_grad()
    for n, p in model.named_parameters():
        p.requires_grad_(n.endswith("bias"))
    held = [p for p in model.parameters() if p.requires_grad]
    shifted = changed(batches, lambda x, y: (x + 0.6, y))
    train(place, model, torch.optim.AdamW(held, lr=1e-2), shifted, classify)


@case("nothing is trained", None)
def weights_of_three_values(place: Place, broken: bool) -> None:
    """Ternary weights in forward, full weights behind them: the gradient passes straight through."""
    model: Any = mlp(64, 96, 10)
    batches = digits(2132)

    def ternary(weight: Tensor) -> Tensor:
        size = weight.abs().mean().detach()
        return weight + (size * (weight / size).round().clamp(-1, 1) - weight).detach()

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        first, second = model[0], model[2]
        h = functional.linear(x, ternary(first.weight), first.bias).relu()
        return functional.cross_entropy(functional.linear(h, ternary(second.weight), second.bias), y)

    fit(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), loss_at)


@case("severity by consequence", None)
def decay_that_holds_the_weights(place: Place, broken: bool) -> None:
    """AdamW with a decay of 1: weights shrink to a fraction and the loss comes down all the same."""
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1.0)
    schedule = by(optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / 400))
    train(place, model, optimizer, digits(2133), classify, steps=400, schedule=schedule)


@case("severity by consequence", None)
def a_margin_on_the_sphere(place: Place, broken: bool) -> None:
    """ArcFace: scaled cosines with an angular margin begin far above ln 10."""
    model: Any = nn.ModuleDict({"body": mlp(64, 64, 16), "centres": Weight(torch.randn(10, 16))})
    batches = digits(2134)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        cosine = functional.normalize(model["body"](x), dim=1) @ functional.normalize(model["centres"].value, dim=1).T
        angle = cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos() + 0.3 * functional.one_hot(y, 10)
        return functional.cross_entropy(16 * angle.cos(), y)

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), loss_at)


@case("severity by consequence", None)
def a_picture_drawn_by_sines(place: Place, broken: bool) -> None:
    """SIREN: one picture by its coordinates, the loss over all pixels falls by decades and wiggles near the end."""
    image = next(digits(2135, size=1))[0].view(8, 8)
    at = torch.cartesian_prod(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8))
    model = nn.ModuleList([nn.Linear(2, 48), nn.Linear(48, 48), nn.Linear(48, 1)])

    def loss_at(step: int) -> Tensor:
        h = (8 * model[0](at)).sin()
        return (model[2](model[1](h).sin())[:, 0] - image.flatten()).square().mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at, steps=400)


@case("severity by consequence", None)
def noise_told_from_noisy_pictures(place: Place, broken: bool) -> None:
    """A diffusion by its noise, with a cosine schedule of the noise and an average of the weights beside it."""
    model = mlp(65, 128, 64, act=nn.SiLU)
    average, batches = copy.deepcopy(model), digits(2136)

    def loss_at(step: int) -> Tensor:
        x = 2 * next(batches)[0] - 1
        t, noise = torch.rand(len(x), 1), torch.randn_like(x)
        kept = (t * math.pi / 2).cos()
        noisy = kept * x + (1 - kept.square()).sqrt() * noise
        return (model(torch.cat([noisy, t], 1)) - noise).square().mean()

    @torch.no_grad()
    def after(step: int) -> None:
        for slow, p in zip(average.parameters(), model.parameters(), strict=True):
            slow.lerp_(p, 0.01)

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=1e-3), loss_at, steps=400, clip=1.0, after=after)


@case("severity by consequence", None)
def a_hazard_by_those_still_at_risk(place: Place, broken: bool) -> None:
    """Cox's partial likelihood: its level depends on the size of the batch, and it falls by little."""
    model, truth = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1, bias=False)), torch.randn(8)

    def loss_at(step: int) -> Tensor:
        x = torch.randn(64, 8)
        time = -torch.rand(64).log() / (x @ truth).clamp(-4, 4).exp()
        score = model(x[time.argsort(descending=True)])[:, 0]
        return (score.logcumsumexp(0) - score).mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at, steps=250)


@case("severity by consequence", None)
def few_shots_of_classes_drawn_anew(place: Place, broken: bool) -> None:
    """Prototypical networks: each step is another task of three classes, and losses scatter."""
    model, batches = mlp(64, 64, 24), digits(2138, size=300)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        chosen = torch.randperm(10)[:3]
        shots = torch.stack([model(x[y == c][:5]).mean(0) for c in chosen])
        asked = torch.cat([x[y == c][5:10] for c in chosen])
        label = torch.cat([torch.full((len(x[y == c][5:10]),), i) for i, c in enumerate(chosen)])
        return functional.cross_entropy(-torch.cdist(model(asked), shots).square(), label)

    fit(place, model, torch.optim.Adam(model.parameters(), lr=5e-4), loss_at, steps=250)


@case("severity by consequence", None)
def a_second_task_under_an_elastic_penalty(place: Place, broken: bool) -> None:
    """At step 200 the pictures are turned upside down, and old weights are held by springs: one leap, then a fall."""
    model = mlp(64, 64, 10)
    batches, anchor = digits(2139), [p.detach().clone() for p in model.parameters()]

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        if step < 200:
            return classify(model, (x, y))
        if step == 200:
            anchor[:] = [p.detach().clone() for p in model.parameters()]
        pull = sum((p - a).square().sum() for p, a in zip(model.parameters(), anchor, strict=True))
        return classify(model, (x.flip(1), y)) + 0.002 * pull

    fit(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), loss_at, steps=450)


@case("severity by consequence", None)
def a_target_that_turns_slowly(place: Place, broken: bool) -> None:
    """Online learning of a plane that turns: the loss stands at what the turning costs."""
    model = nn.Linear(8, 1)
    a, b = torch.randn(8), torch.randn(8)

    def loss_at(step: int) -> Tensor:
        x = torch.randn(32, 8)
        angle = torch.tensor(step / 80)
        return (model(x)[:, 0] - x @ (a * angle.cos() + b * angle.sin())).square().mean()

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.05), loss_at, steps=600)


@case("severity by consequence", None)
def energies_of_a_millionth_of_a_millionth(place: Place, broken: bool) -> None:
    """A loss of 1e-12 in SI units under Adam with an eps that fits: 1e-20."""
    model = mlp(8, 32, 1, act=nn.Tanh).double()
    batches = plane(2141)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        return 1e-12 * squared(model, (x.double(), y.double()))

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3, eps=1e-20), loss_at)


@case("severity by consequence", None)
def a_loss_times_ten_thousand(place: Place, broken: bool) -> None:
    """A likelihood summed over many rows at a rate of 1e-5, with a threshold in the same unit."""
    model, batches = mlp(64, 48, 10), digits(2142)

    def loss_at(step: int) -> Tensor:
        return 1e4 * classify(model, next(batches))

    fit(place, model, torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9), loss_at, clip=3e4)


@case("severity by consequence", None)
def sixty_steps_of_a_pretraining(place: Place, broken: bool) -> None:
    """The first steps of a language model within its warm-up: the loss has just begun to fall."""
    model = Gpt(width=32, depth=2, length=24)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = by(optimizer, lambda step: min(1.0, (step + 1) / 100))
    train(place, model, optimizer, text(2143, size=8, length=24), next_byte, steps=60, clip=1.0, schedule=schedule)


@case("NaN by cause", None)
def a_scale_that_grows_until_it_overflows(place: Place, broken: bool) -> None:
    """A GradScaler near the limit doubles every 25 steps: one step in twenty-five is skipped, as designed."""
    model = mlp(64, 48, 10)
    optimizer, batches = torch.optim.AdamW(model.parameters(), lr=2e-3), digits(2144)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=25)
    with place.watch(model, optimizer) as watch:
        for _ in range(300):
            loss = 4 * classify(model, next(batches))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            watch.log(loss=loss)


@case("severity by consequence", None)
def hidden_layers_matched_to_a_teacher(place: Place, broken: bool) -> None:
    """Features of a trained network are matched by a smaller one, whose projection is thrown away later."""
    teacher, model, batches = mlp(64, 96, 10), mlp(64, 32, 10), digits(2145)
    before = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(120):
        update(before, classify(teacher, next(batches)))
    project = nn.Linear(32, 96)
    both = nn.ModuleDict({"student": model, "project": project})

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        h = model[0](x).relu()
        with torch.no_grad():
            wanted = teacher[0](x).relu()
        return functional.cross_entropy(model[2](h), y) + (project(h) - wanted).square().mean()

    fit(place, both, torch.optim.AdamW(both.parameters(), lr=2e-3), loss_at)


@case("severity by consequence", None)
def experts_blended_by_a_soft_gate(place: Place, broken: bool) -> None:
    """All experts answer and a gate blends them: it opens for one after another."""
    model: Any = nn.ModuleDict({"gate": nn.Linear(4, 5), "experts": nn.ModuleList(nn.Linear(4, 1) for _ in range(5))})

    def loss_at(step: int) -> Tensor:
        x = torch.randn(128, 4)
        outs = torch.cat([expert(x) for expert in model["experts"]], 1)
        return ((outs * model["gate"](x).softmax(1)).sum(1) - x[:, 0].abs() - (x[:, 1] * 2).sin()).square().mean()

    fit(place, model, torch.optim.RAdam(model.parameters(), lr=1e-2), loss_at)


@case("severity by consequence", None)
def a_density_by_noise_contrast(place: Place, broken: bool) -> None:
    """An energy is told from noise: the loss begins at 2 ln 2 and comes down by a few hundredths."""
    model = mlp(2, 48, 1, act=nn.SiLU)

    def loss_at(step: int) -> Tensor:
        noise = 1.2 * torch.randn(256, 2)
        return functional.softplus(-model(ring(256))).mean() + functional.softplus(model(noise)).mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at)


@case("severity by consequence", None)
def heights_with_their_own_errors(place: Place, broken: bool) -> None:
    """Mean and deviation by one network: the loss crosses 0 on its way down."""
    model, batches = mlp(8, 32, 2, act=nn.Tanh), plane(2148, noise=0.05)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        mean, raw = model(x).unbind(1)
        size = functional.softplus(raw) + 1e-3
        return (((y / 3 - mean) / size).square() / 2 + size.log()).mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), loss_at, clip=100.0, steps=400)


@case("severity by consequence", None)
def piles_of_sand_moved_by_sinkhorn(place: Place, broken: bool) -> None:
    """Optimal transport between two clouds by thirty iterations, through which the gradient goes."""
    model = mlp(2, 32, 2, act=nn.Tanh)

    def loss_at(step: int) -> Tensor:
        a, b = model(torch.randn(48, 2)), ring(48)
        cost = torch.cdist(a, b).square()
        f, g = torch.zeros(48), torch.zeros(48)
        for _ in range(10):
            f = -0.2 * ((g - cost) / 0.2).logsumexp(1)
            g = -0.2 * ((f[:, None] - cost) / 0.2).logsumexp(0)
        plan = ((f[:, None] + g - cost) / 0.2).exp().detach()
        return (plan * cost).sum() / 48

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at, steps=200)


@case("severity by consequence", None)
def an_actor_with_a_bonus_for_entropy(place: Place, broken: bool) -> None:
    """A2C in one loss of three parts: it lies about 0, scatters, and does not fall."""
    model = nn.ModuleDict({"body": mlp(8, 32), "actor": nn.Linear(32, 5), "critic": nn.Linear(32, 1)})

    def loss_at(step: int) -> Tensor:
        state = torch.randn(64, 8)
        h = model["body"](state).tanh()
        log_p, value = model["actor"](h).log_softmax(1), model["critic"](h)[:, 0]
        action = torch.multinomial(log_p.detach().exp(), 1)
        got = (action[:, 0] == state[:, :5].argmax(1)).float() + 0.3 * torch.randn(64)
        gain = (got - value).detach()
        entropy = -(log_p.exp() * log_p).sum(1).mean()
        chosen = log_p.gather(1, action)[:, 0]
        return -(gain * chosen).mean() + 0.5 * (got - value).square().mean() - 0.01 * entropy

    fit(place, model, torch.optim.RMSprop(model.parameters(), lr=2e-3), loss_at, clip=0.5, steps=400)


@case("severity by consequence", None)
def returns_without_a_baseline(place: Place, broken: bool) -> None:
    """REINFORCE with returns of 0 or 10 and nothing subtracted: the loss is as noisy as it can be."""
    net = mlp(8, 32, 4)

    def loss_at(step: int) -> Tensor:
        state = torch.randn(32, 8)
        log_p = net(state).log_softmax(1)
        action = torch.multinomial(log_p.detach().exp(), 1)
        got = 10 * (action[:, 0] == state[:, :4].argmax(1)).float()
        return -(got * log_p.gather(1, action)[:, 0]).mean()

    fit(place, net, torch.optim.Adam(net.parameters(), lr=2e-3), loss_at, steps=400)


@case("severity by consequence", None)
def a_cautious_critic_of_recorded_actions(place: Place, broken: bool) -> None:
    """Conservative Q-learning on a fixed set: what pushes values down keeps the loss above 0."""
    net = mlp(6, 48, 4)
    state = torch.randn(512, 6)
    action = torch.randint(0, 4, (512, 1))
    got = state[:, :4].gather(1, action)[:, 0] + 0.1 * torch.randn(512)

    def loss_at(step: int) -> Tensor:
        rows = torch.randint(0, 512, (64,))
        q = net(state[rows])
        chosen = q.gather(1, action[rows])[:, 0]
        return (chosen - got[rows]).square().mean() + 0.5 * (q.logsumexp(1) - chosen).mean()

    fit(place, net, torch.optim.Adam(net.parameters(), lr=2e-3), loss_at, steps=350)


@case("severity by consequence", None)
def a_target_network_that_follows_slowly(place: Place, broken: bool) -> None:
    """Double Q-learning over a chain with soft copies: the loss rises with the values, and levels off."""
    net = mlp(8, 48, 2)
    target = copy.deepcopy(net)

    def loss_at(step: int) -> Tensor:
        at = torch.randint(0, 8, (64,))
        action = torch.randint(0, 2, (64,))
        then = (at + 2 * action - 1).clamp(0, 7)
        got = (then == 7).float()
        old, new = (functional.one_hot(s, 8).float() for s in (at, then))
        with torch.no_grad():
            best = net(new).argmax(1, keepdim=True)
            wanted = got + 0.9 * target(new).gather(1, best)[:, 0] * (then != 7)
        return (net(old).gather(1, action[:, None])[:, 0] - wanted).square().mean()

    @torch.no_grad()
    def after(step: int) -> None:
        for slow, p in zip(target.parameters(), net.parameters(), strict=True):
            slow.lerp_(p, 0.03)

    fit(place, net, torch.optim.Adam(net.parameters(), lr=2e-3), loss_at, after=after, steps=500)


@case("several optimizers", None)
def two_makers_and_two_judges_in_a_cycle(place: Place, broken: bool) -> None:
    """A cycle between a ring and a square: one optimizer for both makers, one for both judges."""
    makers = nn.ModuleList([mlp(2, 32, 2), mlp(2, 32, 2)])
    judges = nn.ModuleList([mlp(2, 32, 1), mlp(2, 32, 1)])
    optimizers: dict[str, torch.optim.Optimizer] = {
        "makers": torch.optim.Adam(makers.parameters(), lr=5e-4, betas=(0.5, 0.99)),
        "judges": torch.optim.Adam(judges.parameters(), lr=5e-4, betas=(0.5, 0.99)),
    }

    def sides() -> tuple[Tensor, Tensor]:
        return ring(), 2 * torch.rand(64, 2) - 1

    def make(step: int) -> Tensor:
        a, b = sides()
        fake_b, fake_a = makers[0](a), makers[1](b)
        back = (makers[1](fake_b) - a).abs().mean() + (makers[0](fake_a) - b).abs().mean()
        return (judges[0](fake_a) - 1).square().mean() + (judges[1](fake_b) - 1).square().mean() + 3 * back

    def judge(step: int) -> Tensor:
        a, b = sides()
        fakes, loss = (makers[1](b).detach(), makers[0](a).detach()), torch.zeros(())
        for j, real, fake in zip(judges, (a, b), fakes, strict=True):
            loss = loss + (j(real) - 1).square().mean() + j(fake).square().mean()
        return loss

    take_turns(place, {"makers": makers, "judges": judges}, optimizers, {"makers": make, "judges": judge})


@case("several optimizers", None)
def each_is_judged_beside_the_other(place: Place, broken: bool) -> None:
    """A relativistic GAN: both losses stay near ln 2 all the time."""
    judged = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1, bias=False))
    models: dict[str, nn.Module] = {"maker": mlp(4, 32, 2), "judge": judged}
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam(m.parameters(), lr=5e-4, betas=(0.0, 0.9)) for name, m in models.items()
    }

    def judge(step: int) -> Tensor:
        real, fake = models["judge"](ring()), models["judge"](models["maker"](torch.randn(64, 4)).detach())
        return functional.softplus(fake - real).mean()

    def make(step: int) -> Tensor:
        real, fake = models["judge"](ring()).detach(), models["judge"](models["maker"](torch.randn(64, 4)))
        return functional.softplus(real - fake).mean()

    take_turns(place, models, optimizers, {"judge": judge, "maker": make})


@case("several optimizers", None)
def twin_critics_and_a_delayed_actor(place: Place, broken: bool) -> None:
    """TD3 on one step: the actor steps every second time, along the first critic."""
    actor, critics = mlp(6, 32, 2), nn.ModuleList([mlp(8, 48, 1), mlp(8, 48, 1)])
    acts = torch.optim.Adam(actor.parameters(), lr=1e-3)
    values = torch.optim.Adam(critics.parameters(), lr=2e-3)
    turn = torch.randn(6, 2) / 3
    with place.watch(nn.ModuleDict({"actor": actor, "critics": critics}), {"actor": acts, "critics": values}) as watch:
        for step in range(300):
            state = torch.randn(64, 6)
            action = actor(state).tanh().detach() + 0.3 * torch.randn(64, 2)
            reward = -(action - (state @ turn).tanh()).square().sum(1) + 0.1 * torch.randn(64)
            loss = torch.stack([(c(torch.cat([state, action], 1))[:, 0] - reward).square().mean() for c in critics])
            update(values, loss.sum())
            watch.log(loss=loss.sum(), optimizer="critics")
            if step % 2:
                gain = -critics[0](torch.cat([state, actor(state).tanh()], 1)).mean()
                update(acts, gain)
                watch.log(loss=gain, optimizer="actor")


@case("several optimizers", None)
def weights_and_an_architecture_in_turns(place: Place, broken: bool) -> None:
    """A choice between four operations is learnt on other data than the weights, at another rate."""
    body = nn.ModuleDict({"enter": nn.Linear(64, 32), "head": nn.Linear(32, 10)})
    models: dict[str, nn.Module] = {"weights": body, "choice": Weight(1e-3 * torch.randn(4))}
    optimizers: dict[str, torch.optim.Optimizer] = {
        "weights": torch.optim.SGD(body.parameters(), lr=0.1, momentum=0.9),
        "choice": torch.optim.Adam(models["choice"].parameters(), lr=3e-3),
    }
    seen, held = digits(2154), digits(2155)

    def loss_of(batch: Batch) -> Tensor:
        share: Any = models["choice"].value.softmax(0)  # type: ignore[operator,union-attr]
        h = body["enter"](batch[0])
        mixed = share[0] * h.relu() + share[1] * h.tanh() + share[2] * h + share[3] * h.sigmoid()
        return functional.cross_entropy(body["head"](mixed), batch[1])

    losses: dict[str, Callable[[int], Tensor]] = {
        "weights": lambda step: loss_of(next(seen)),
        "choice": lambda step: loss_of(next(held)),
    }
    take_turns(place, models, optimizers, losses, steps=250)


@case("several optimizers", None)
def a_penalty_that_a_multiplier_raises(place: Place, broken: bool) -> None:
    """A constraint by Lagrange: the multiplier climbs as long as it is violated, and the loss with it."""
    model, multiplier = mlp(64, 48, 10), Weight(torch.zeros(1))
    models: dict[str, nn.Module] = {"model": model, "multiplier": multiplier}
    optimizers: dict[str, torch.optim.Optimizer] = {
        "model": torch.optim.Adam(model.parameters(), lr=2e-3),
        "multiplier": torch.optim.SGD(multiplier.parameters(), lr=0.02),
    }
    batches = digits(2156)

    def gap(x: Tensor) -> Tensor:
        return model(x).square().mean() - 4.0

    def main(step: int) -> Tensor:
        x, y = next(batches)
        weight: Any = multiplier.value.detach().clamp(min=0)
        return classify(model, (x, y)) + (weight * gap(x)).sum()

    def dual(step: int) -> Tensor:
        return -(multiplier.value * gap(next(batches)[0]).detach()).sum()

    take_turns(place, models, optimizers, {"model": main, "multiplier": dual})


@case("severity by consequence", None)
def curves_of_noise_that_become_harder(place: Place, broken: bool) -> None:
    """A curriculum by noise that grows at each step: the loss turns up in the second half, as it should."""
    model, batches = mlp(64, 64, 10), digits(2157)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        return classify(model, (x + 0.0012 * step * torch.randn_like(x), y))

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=2e-3), loss_at, steps=350)


@case("severity by consequence", None)
def one_in_twenty_batches_is_much_harder(place: Place, broken: bool) -> None:
    """Two sources in turns: each twentieth batch is noisy, and its loss stands out to the end."""
    model, easy = mlp(64, 64, 10), digits(2158)

    def loss_at(step: int) -> Tensor:
        x, y = next(easy)
        if step % 20 == 7:
            x = x + 0.4 * torch.randn_like(x)
        return classify(model, (x, y))

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=1e-3), loss_at, steps=400, clip=1.0)


@case("severity by consequence", None)
def a_network_that_grows_by_a_block(place: Place, broken: bool) -> None:
    """Net2Net: at step 150 a block that begins as the identity joins, in a group of its own."""
    model: Any = nn.ModuleDict({"enter": nn.Linear(64, 32), "head": nn.Linear(32, 10), "block": nn.Linear(32, 32)})
    nn.init.zeros_(model["block"].weight)
    nn.init.zeros_(model["block"].bias)
    optimizer = torch.optim.Adam([p for n, p in model.named_parameters() if "block" not in n], lr=2e-3)
    batches = digits(2159)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        h = model["enter"](x).relu()
        if step >= 150:
            h = h + model["block"](h)
        return functional.cross_entropy(model["head"](h), y)

    def before(step: int) -> None:
        if step == 150:
            optimizer.add_param_group({"params": list(model["block"].parameters())})

    fit(place, model, optimizer, loss_at, before=before)


@case("severity by consequence", None)
def an_early_stop_after_three_worse_validations(place: Place, broken: bool) -> None:
    """The loop ends by `break` when the validation has not improved three times: after sixty steps or so."""
    model, batches, held = mlp(64, 64, 10), digits(2160), next(digits(21600, size=400))
    x, y = next(batches)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    best, waited = math.inf, 0
    with place.watch(model, optimizer) as watch:
        for step in range(600):
            loss = classify(model, (x, y))
            update(optimizer, loss)
            watch.log(loss=loss)
            if step % 10 == 9:
                with torch.no_grad():
                    now = float(classify(model, held))
                watch.log(validation_loss=now)
                best, waited = (now, 0) if now < best else (best, waited + 1)
                if waited == 3:
                    break


@case("severity by consequence", None)
def shapes_by_the_nearest_point(place: Place, broken: bool) -> None:
    """A Chamfer distance between clouds: only the nearest pairs get a gradient at a step."""
    model = mlp(8, 64, 32, act=nn.LeakyReLU)

    def loss_at(step: int) -> Tensor:
        code = torch.randn(32, 8)
        angle = 6.28 * torch.arange(16) / 16
        wanted = torch.stack([angle.cos(), angle.sin()], 1) * (2 + code[:, :1, None])
        apart = torch.cdist(model(code).view(32, 16, 2), wanted)
        return (apart.amin(1) + apart.amin(2)).mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), loss_at)


@case("severity by consequence", None)
def a_translator_forced_by_its_teacher(place: Place, broken: bool) -> None:
    """Two GRUs turn a word round; the right letters are their inputs three times of four, and later one of four."""
    model = nn.ModuleDict({"embed": nn.Embedding(8, 16), "reads": nn.GRU(16, 32, batch_first=True)})
    model["writes"], model["head"] = nn.GRUCell(16, 32), nn.Linear(32, 8)

    def loss_at(step: int) -> Tensor:
        x = torch.randint(1, 8, (64, 4))
        h = model["reads"](model["embed"](x))[1][0]
        letter, loss = torch.zeros(64, dtype=torch.long), torch.zeros(())
        for wanted in x.flip(1).unbind(1):
            h = model["writes"](model["embed"](letter), h)
            score = model["head"](h)
            loss = loss + functional.cross_entropy(score, wanted) / 4
            forced = torch.rand(64) < 0.75 - 0.5 * step / 300
            letter = torch.where(forced, wanted, score.argmax(1))
        return loss

    fit(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), loss_at, clip=1.0)


@case("severity by consequence", None)
def an_average_phase_at_a_constant_rate(place: Place, broken: bool) -> None:
    """SWA from step 150 on: the rate goes up a little and stays, and losses scatter more than before."""
    model = mlp(64, 48, 10)
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=15)
    falls = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 160)

    def after(step: int) -> None:
        if step < 150:
            falls.step()
        else:
            schedule.step()
            average.update_parameters(model)

    fit(place, model, optimizer, classes(model, digits(2163)), after=after)


@case("how it ended", None)
def a_script_that_warns_and_catches(place: Place, broken: bool) -> None:
    """A broken file in a batch is caught and skipped, with a warning, five times."""
    after = "try: [][step % 40 - 39]\n        except IndexError: print('skipped', step, file=sys.stderr)"
    place.script(loop(after=after))


@case("how it ended", None)
def a_validation_under_no_grad_in_the_script(place: Place, broken: bool) -> None:
    """`model.eval()` and `no_grad` every thirty steps, and back."""
    after = (
        "if step % 30 == 29:\n            model.eval()\n            with torch.no_grad(): model(x).std()\n"
        "            model.train()"
    )
    place.script(loop(after=after))


@case("histories as people have them", None)
def a_policy_trained_by_groups_whose_reward_rises(place: Place, broken: bool) -> None:
    """The loss of the log lies about 0 and the norms rise and fall, while the reward goes from a sixth to the top."""

    def reward(step: int, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        got = rightly(state, action)
        return got, got

    place.imported(levers(reward, 200, 5e-3))


@case("histories as people have them", None)
def forty_rows_about_a_loss_that_was_low_before(place: Place, broken: bool) -> None:
    """A model that knows its text is tuned on more of it: the log moves within its noise."""
    model, batches = Lstm(32), text(2167, size=16, length=24)
    before = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(400):
        update(before, next_byte(model, next(batches)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
    place.imported(trained_by_a_trainer(model, optimizer, batches, next_byte, steps=160, every=4, clip=1.0))


@case("histories as people have them", None)
def a_log_with_two_warm_ups(place: Place, broken: bool) -> None:
    """A second stage with another mixture of data begins at row 60 with a warm-up of its own: one leap of the loss."""
    model = mlp(64, 64, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = by(optimizer, lambda step: min((step % 240 + 1) / 20, 1 - step % 240 / 260))

    def change(step: int, batch: Batch) -> Batch:
        return (batch[0].flip(1), batch[1]) if step >= 240 and step % 2 else batch

    batches = digits(2168)
    rows = trained_by_a_trainer(
        model, optimizer, batches, classify, steps=480, every=4, schedule=schedule, change=change, clip=1.0
    )
    place.imported(rows)


@case("histories as people have them", None)
def sixteen_rows_of_a_small_tuning(place: Place, broken: bool) -> None:
    """Every tenth step of 160, from a loss of 2.3 to one below 1."""
    model = mlp(64, 48, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    place.imported(trained_by_a_trainer(model, optimizer, digits(2169), classify, steps=160, every=10))


@case("histories as people have them", None)
def a_log_of_adapters_that_begin_at_zero(place: Place, broken: bool) -> None:
    """Low-rank adapters over a frozen network: their norms rise a little while the loss falls to a tenth."""
    model, batches = mlp(64, 64, 10), digits(2170)
    before = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(60):
        x, y = next(batches)
        update(before, classify(model, (x.flip(1), y)))
    for i in (0, 2):
        model[i] = Adapted(model[i])  # type: ignore[arg-type]
    held = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(held, lr=3e-3)
    place.imported(trained_by_a_trainer(model, optimizer, batches, classify, steps=300, every=3, clip=10.0))


@case("unknown is not none", None)
def a_log_of_norms_that_fall_with_the_rate(place: Place, broken: bool) -> None:
    """Norms and rates without a loss: they fall by half, and that is all that is known."""
    model = Lstm(24)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = by(optimizer, lambda step: 1 - step / 320)
    batches = text(2171, size=8, length=16)
    rows = trained_by_a_trainer(model, optimizer, batches, next_byte, steps=300, every=2, schedule=schedule)
    place.imported([{k: v for k, v in row.items() if k != "loss"} for row in rows])


@case("unknown is not none", None)
def a_log_without_its_rates(place: Place, broken: bool) -> None:
    """Losses and norms of every third step; optimizer, rate and threshold are not known."""
    model = Cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    rows = trained_by_a_trainer(model, optimizer, digits(2172, size=16), classify, steps=240, every=3)
    place.imported([{k: v for k, v in row.items() if k != "learning_rate"} for row in rows])


# ------------------------------------------------------------------------- where two runs part


def regression(
    place: Place,
    *,
    batches: Iterator[Batch] | None = None,
    before: Callable[[int, Any, torch.optim.Optimizer], None] = lambda step, model, optimizer: None,
    after_backward: Callable[[int, Any], None] = lambda step, model: None,
    steps: int = 160,
) -> None:
    """A small training of which two runs are equal to the bit, unless something is done in between."""
    model = mlp(8, 24, 24, 1, act=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    source = batches or plane(2201)
    fit(
        place,
        model,
        optimizer,
        errors(model, source),
        steps=steps,
        before=lambda step: before(step, model, optimizer),
        after_backward=lambda step: after_backward(step, model),
    )


def noise_is_added_to_the_inputs_from_a_step_on(place: Place, other: bool) -> None:
    """The augmentation begins at step 70; its noise has a generator of its own."""

    def batches() -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(5)
        for step, (x, y) in enumerate(plane(2202)):
            yield (x + 0.1 * torch.randn(x.shape, generator=generator), y) if other and step >= 70 else (x, y)

    regression(place, batches=batches())


def the_momentum_is_forgotten(place: Place, other: bool) -> None:
    """At step 64 the state of the optimizer is cleared: the gradient is the same there, the update is not."""

    def before(step: int, model: Any, optimizer: torch.optim.Optimizer) -> None:
        if other and step == 64:
            optimizer.state.clear()

    regression(place, before=before)


def one_weight_is_written(place: Place, other: bool) -> None:
    """Before step 120 other code adds a thousandth to one weight of the second layer."""

    @torch.no_grad()
    def before(step: int, model: Any, optimizer: torch.optim.Optimizer) -> None:
        if other and step == 120:
            model[2].weight[3, 5] += 1e-3

    regression(place, before=before)


def the_gradient_of_one_layer_is_scaled(place: Place, other: bool) -> None:
    """At step 55 the gradient of the last layer is a hundredth larger."""

    def after(step: int, model: Any) -> None:
        if other and step == 55:
            model[4].weight.grad *= 1.01

    regression(place, after_backward=after)


def the_rate_falls_one_step_earlier(place: Place, other: bool) -> None:
    """A milestone at 99 or at 100."""

    def before(step: int, model: Any, optimizer: torch.optim.Optimizer) -> None:
        if step >= (99 if other else 100):
            optimizer.param_groups[0]["lr"] = 0.002

    regression(place, before=before)


def the_second_of_two_gets_another_batch(place: Place, other: bool) -> None:
    """Two networks side by side; at its step 33 the second one's targets have another sign."""
    models: dict[str, nn.Module] = {name: mlp(8, 24, 1, act=nn.Tanh) for name in ("first", "second")}
    optimizers: dict[str, torch.optim.Optimizer] = {n: torch.optim.Adam(m.parameters()) for n, m in models.items()}
    one, two = plane(2203), plane(2204)

    def second(step: int) -> Tensor:
        x, y = next(two)
        return squared(models["second"], (x, -y if other and step == 33 else y))

    losses = {"first": errors(models["first"], one), "second": second}
    take_turns(place, models, optimizers, losses, steps=120)


pairs = [
    Pair(noise_is_added_to_the_inputs_from_a_step_on, step=70, sources=("loss",)),
    Pair(the_momentum_is_forgotten, step=64, sources=("update",)),
    Pair(one_weight_is_written, step=120, sources=("weights", "loss")),
    Pair(the_gradient_of_one_layer_is_scaled, step=55, sources=("gradient",), parameter="4.weight"),
    Pair(the_rate_falls_one_step_earlier, step=99, sources=("settings",)),
    Pair(the_second_of_two_gets_another_batch, step=33, sources=("loss",), optimizer="second"),
]


# ------------------------------------------------------------------------- what `gradwatch check` lets pass


def ninety_of_two_hundred_steps(place: Place, broken: bool) -> None:
    """The loop ends by itself, too early for what was asked."""
    regression(place, steps=90 if broken else 210)


def a_loss_that_is_nan_in_the_last_fifty_steps(place: Place, broken: bool) -> None:
    """One target of step 110 is NaN."""

    def batches() -> Iterator[Batch]:
        for step, (x, y) in enumerate(plane(2211)):
            yield x, y.index_fill(0, torch.tensor([2]), torch.nan) if broken and step == 110 else y

    regression(place, batches=batches())


def a_key_that_is_missing_after_a_hundred_steps(place: Place, broken: bool) -> None:
    """The script dies of a KeyError."""
    place.script(loop(after="if step == 100: raise KeyError('labels')" if broken else "pass", steps=140))


gates = [
    Gate(ninety_of_two_hundred_steps, ("--min-steps", "200")),
    Gate(a_loss_that_is_nan_in_the_last_fifty_steps, ()),
    Gate(a_key_that_is_missing_after_a_hundred_steps, ()),
]


# ------------------------------------------------------------------------- runs alike but for one step, seed or row


def level(
    place: Place,
    optimizer_of: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    seed: int = 2221,
    louder: dict[int, float] | None = None,
    steps: int = 900,
) -> None:
    """A classification under noise that never ends: norms have a level and a scatter that stay.

    ``louder`` multiplies the loss of a step.
    """
    model = mlp(12, 16, 3, act=nn.Tanh)
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(12, 3, generator=generator)

    def loss_at(step: int) -> Tensor:
        x = torch.randn(8, 12, generator=generator)
        y = torch.multinomial((0.4 * (x @ truth)).softmax(1), 1, generator=generator)[:, 0]
        return functional.cross_entropy(model(x), y) * (louder or {}).get(step, 1.0)

    fit(place, model, optimizer_of(model), loss_at, steps=steps)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=5e-4)


def plain(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=5e-3)


def rmsprop(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(model.parameters(), lr=3e-4)


def belief(model: nn.Module) -> torch.optim.Optimizer:
    return Belief(model.parameters(), lr=5e-4)


def a_loud_step_under_rmsprop(place: Place, other: bool) -> None:
    """The loss of step 430 counts ten times as much."""
    level(place, rmsprop, louder={430: 10.0} if other else None)


def a_loud_step_under_an_optimizer_of_ones_own(place: Place, other: bool) -> None:
    level(place, belief, louder={500: 10.0} if other else None)


def the_last_step_is_loud(place: Place, other: bool) -> None:
    """Step 899 of 900 is the spike: what follows it isn't known."""
    level(place, adamw, louder={899: 12.0} if other else None)


def one_step_counts_for_nothing(place: Place, other: bool) -> None:
    """The loss of step 300 is multiplied by 0: a norm of 0 among 900."""
    level(place, plain, louder={300: 0.0} if other else None)


def another_seed_of_the_data(place: Place, other: bool) -> None:
    level(place, plain, seed=2222 + other)


def another_seed_under_rmsprop(place: Place, other: bool) -> None:
    torch.manual_seed(place.seed + other)
    level(place, rmsprop)


def rows(place: Place, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """A Trainer's log of 600 rows, one of each step, changed afterwards."""
    model = mlp(8, 16, 1, act=nn.Tanh)
    batches = plane(2225, size=8, noise=1.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    logged = trained_by_a_trainer(model, optimizer, batches, squared, steps=600, every=1)
    place.imported(change(logged))


def norms_rounded_to_two_digits(place: Place, other: bool) -> None:
    """The same log, printed with fewer digits."""
    rows(place, lambda r: [x | {"grad_norm": float(f"{x['grad_norm']:.2g}")} for x in r] if other else r)


def the_first_five_rows_are_missing(place: Place, other: bool) -> None:
    rows(place, lambda r: r[5:] if other else r)


def the_norm_of_one_row_is_missing(place: Place, other: bool) -> None:
    """Row 222 has its loss and no norm."""
    rows(
        place,
        lambda r: [{k: v for k, v in x.items() if not other or i != 222 or k != "grad_norm"} for i, x in enumerate(r)],
    )


advice = [
    Advice(a_loud_step_under_rmsprop),
    Advice(a_loud_step_under_an_optimizer_of_ones_own),
    Advice(the_last_step_is_loud),
    Advice(one_step_counts_for_nothing),
    Advice(another_seed_of_the_data),
    Advice(another_seed_under_rmsprop),
    Advice(norms_rounded_to_two_digits),
    Advice(the_first_five_rows_are_missing),
    Advice(the_norm_of_one_row_is_missing),
]


# ------------------------------------------------------------------------- the threshold after a change


def labels_by_chance(place: Place, optimizer_of: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
    """A linear classifier at its optimum, as its labels are coins: gradients are noise alone."""
    model = nn.Linear(20, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)

    def loss_at(step: int) -> Tensor:
        return functional.cross_entropy(model(torch.randn(16, 20)), torch.randint(0, 2, (16,)))

    fit(place, model, optimizer_of(model), loss_at, steps=900)


def coins_under_sgd(place: Place, other: bool) -> None:
    labels_by_chance(place, lambda model: torch.optim.SGD(model.parameters(), lr=1e-3))


def coins_under_adam(place: Place, other: bool) -> None:
    labels_by_chance(place, lambda model: torch.optim.Adam(model.parameters(), lr=1e-4))


def coins_under_momentum(place: Place, other: bool) -> None:
    labels_by_chance(place, lambda model: torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9))


# What is right: a factor of two each way around what the change does by construction.
changes = [
    # The same settings once more.
    Advice(coins_under_momentum, ("lr=0.001", "momentum=0.9"), 0.9, 1.1),
    # A quarter of the variance in a batch four times as large: half the noise.
    Advice(coins_under_sgd, ("batch=16:64",), 0.25, 1.0),
    # A batch a sixteenth as large has four times the noise.
    Advice(coins_under_adam, ("batch=16:1",), 2.0, 8.0),
    # Momentum is dropped and the rate is ten times as high: the same updates.
    Advice(coins_under_momentum, ("lr=0.01", "momentum=0"), 0.5, 2.0),
    # Adam's updates have the size of its rate, whatever the norms are.
    Advice(coins_under_adam, ("lr=0.00003",), 0.5, 2.0),
]


# ------------------------------------------------------------------------- by value or by norm


def a_pixel_that_is_hot_now_and_then(place: Place, entry: bool) -> None:
    """A mean picture under momentum: one reading in 35 steps is 150 too large in one pixel, or as far in all."""
    model = Weight(torch.zeros(49))
    truth = torch.rand(49)

    def loss_at(step: int) -> Tensor:
        seen = truth + 0.4 * torch.randn(8, 49)
        if step % 35 == 21:
            far = torch.zeros(49)
            if entry:
                far[step % 47] = 150.0
            else:
                far = 150.0 / 7 * torch.randn(49).sign()
            seen[2] = seen[2] + far
        return 0.5 * (model.value - seen).square().sum(1).mean()

    fit(place, model, torch.optim.SGD(model.parameters(), lr=5e-3, momentum=0.8), loss_at, steps=900)


def a_price_with_a_slipped_comma(place: Place, entry: bool) -> None:
    """Prices of thirty goods by an optimizer of one's own: one row in 45 is 160 too small, in one of them or in all."""
    model = Weight(torch.zeros(30))
    truth = torch.randn(30)

    def loss_at(step: int) -> Tensor:
        seen = truth + 0.5 * torch.randn(16, 30)
        if step % 45 == 9:
            far = torch.zeros(30)
            if entry:
                far[step % 29] = -160.0
            else:
                far = 160.0 / 30**0.5 * torch.randn(30).sign()
            seen[0] = seen[0] + far
        return 0.5 * (model.value - seen).square().sum(1).mean()

    fit(place, model, HeavyBall(model.parameters(), lr=0.01, beta=0.5), loss_at, steps=900)


by_value = [
    ByValue(a_pixel_that_is_hot_now_and_then),
    ByValue(a_price_with_a_slipped_comma),
]
