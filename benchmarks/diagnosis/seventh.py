"""The seventh round: mechanisms that no earlier half has, and healthy trainings that look odd.

Written by someone who had read the pages of the findings and the titles of the earlier cases, and none of the rules.
Before gradwatch was run on any of it, losses and norms alone were looked at: each planted fault does what its label
says, each healthy training learns. Where a fault has two right names, both stand in its label with the reason. Faults
come from public threads (named where one was at hand) and from practice.
"""

from __future__ import annotations

import copy
import itertools
import math
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from lab import (
    STEPS,
    Batch,
    Cases,
    Gate,
    Gpt,
    Lstm,
    Pair,
    Parts,
    Place,
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
    trainer_rows,
    update,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

case = Cases()


def at(step: int, change: Callable[[Batch], Batch], broken: bool) -> Callable[[int, Batch], Batch]:
    """Change the batch of one step."""
    return lambda now, batch: change(batch) if broken and now == step else batch


def circle(seed: int, size: int = 64) -> Iterator[Tensor]:
    """Points of two half moons, about 1 in size."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        angle = math.pi * torch.rand(size, generator=generator)
        side = torch.randint(0, 2, (size,), generator=generator) * 2.0 - 1
        points = torch.stack([side * angle.cos() + 0.5 * side, side * angle.sin()], 1)
        yield points + 0.05 * torch.randn(size, 2, generator=generator)


# ------------------------------------------------------------------------- nothing is trained


@case("nothing is trained", "no-gradient", parameter="encoder")
def features_that_go_through_numpy(place: Place, broken: bool) -> None:
    """The script standardises the encoder's features with numpy, which ends the graph."""

    def join(self: Any, x: Tensor) -> Tensor:
        h = self.encoder(x).relu()
        if broken:
            values = h.detach().numpy()
            h = torch.from_numpy((values - values.mean(0)) / (values.var(0) + 0.1) ** 0.5)
        else:
            h = (h - h.mean(0)) / (h.var(0) + 0.1).sqrt()
        return self.head(h)

    model = Parts(join, encoder=mlp(64, 48, 32), head=nn.Linear(32, 10))
    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(701), classify)


@case("nothing is trained", "no-gradient", parameter="encoder")
def a_codebook_without_the_straight_through_estimator(place: Place, broken: bool) -> None:
    """VQ-VAE: the nearest code is an index, and an index has no slope."""

    def join(self: Any, x: Tensor) -> Tensor:
        z = self.encoder(x)
        q = self.codes(torch.cdist(z, self.codes.weight).argmin(1))
        return self.decoder(q if broken else z + (q - z).detach() + 0 * q)

    model = Parts(join, encoder=mlp(64, 32, 8), codes=nn.Embedding(32, 8), decoder=mlp(8, 32, 64))

    def loss_of(model: Any, batch: Batch) -> Tensor:
        loss = (model(batch[0]) - batch[0]).square().mean()
        if broken:
            return loss
        z = model.encoder(batch[0])
        q = model.codes(torch.cdist(z, model.codes.weight).argmin(1))
        return loss + (q - z.detach()).square().mean() + 0.25 * (z - q.detach()).square().mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(702), loss_of)


@case("nothing is trained", "no-gradient", parameter="router")
def a_router_that_chooses_by_argmax(place: Place, broken: bool) -> None:
    """A mixture of experts in which the choice is an index; the twin weighs by the probabilities."""

    def join(self: Any, x: Tensor) -> Tensor:
        chances = self.router(x).softmax(1)
        if broken:
            chances = functional.one_hot(chances.argmax(1), 4).float()
        return (chances.unsqueeze(-1) * self.experts(x).view(-1, 4, 10)).sum(1)

    model = Parts(join, router=mlp(64, 16, 4), experts=nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 40)))
    train(place, model, torch.optim.AdamW(model.parameters(), lr=2e-3), digits(703), classify)


@case("nothing is trained", "zero-gradients")
def predictions_are_rounded_before_the_loss(place: Place, broken: bool) -> None:
    """`round` has the slope 0 everywhere; the loss still changes from batch to batch."""
    model = mlp(8, 32, 1)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        out = model(batch[0]).squeeze(-1)
        return ((out.round() if broken else out) - batch[1]).square().mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), plane(704), loss_of)


@case("nothing is trained", "zero-gradients", also=("dead-parameters",))
def a_relu_behind_the_last_layer(place: Place, broken: bool) -> None:
    """Targets are negative; the ReLU dies for every input. All gradients are 0, because units are off: both names."""
    model = nn.Sequential(mlp(8, 32, 1), nn.ReLU() if broken else nn.Identity())
    change = lambda step, batch: (batch[0], -batch[1].abs() - 1)  # noqa: E731
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.05), plane(705), squared, change=change)


@case("nothing is trained", "constant-loss", also=("zero-gradients",))
def the_negative_of_a_triplet_is_its_positive(place: Place, broken: bool) -> None:
    """An index off by one: the loss is the margin at each step, and its gradient is 0: both are the fault."""
    model, batches = mlp(64, 32, 16), digits(706, 128)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            x, y = next(batches)
            order = y.argsort()
            positive = order.roll(1)
            negative = positive if broken else order.roll(64)
            a, p, n = (model(x[rows]) for rows in (order, positive, negative))
            loss = functional.triplet_margin_loss(a, p, n, margin=0.5)
            update(optimizer, loss)
            watch.log(loss=loss)


@case("nothing is trained", "stale-optimizer", also=("parameters-without-optimizer",))
def weight_normalisation_after_the_optimizer(place: Place, broken: bool) -> None:
    """The parametrization deletes `weight` and makes two new ones, which get gradients that nobody applies: both."""
    model = mlp(64, 48, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weight_norm(model[0])
    weight_norm(model[2])
    if not broken:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(place, model, optimizer, digits(707), classify)


class MadeInForward(nn.Module):
    """https://thecodeforge.io/ml-ai/pytorch-neural-network/: layers that each call of forward makes anew."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.broken = broken
        self.first, self.hidden, self.head = nn.Linear(64, 48), nn.Linear(48, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        if self.broken:
            self.hidden = nn.Linear(48, 48)
        return self.head(self.hidden(self.first(x).relu()).relu())


@case("nothing is trained", "stale-optimizer", also=("no-gradient", "parameters-without-optimizer"))
def a_layer_that_forward_makes_anew(place: Place, broken: bool) -> None:
    """The held layer is no longer the model's, so never gets a gradient, and the new ones have no optimizer."""
    model = MadeInForward(broken)
    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(708), classify)


@case(
    "nothing is trained",
    "stale-optimizer",
    also=("parameters-without-optimizer", "no-gradient"),
    parameter="head",
    twin_may=("optimizer-recreated",),
)
def a_new_head_for_the_second_task(place: Place, broken: bool) -> None:
    """Continual learning: at step 150 the head is replaced, and the optimizer keeps the old one."""
    model = nn.Sequential()
    model.add_module("body", mlp(64, 48, 32))
    model.add_module("head", nn.Linear(32, 10))
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=2e-3), digits(709)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            if step == 150:
                model.head = nn.Linear(32, 10)
                if not broken:
                    optimizer.add_param_group({"params": list(model.head.parameters())})
            x, y = next(batches)
            loss = functional.cross_entropy(model(x), 9 - y if step >= 150 else y)
            optimizer.zero_grad()
            model.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)


@case("nothing is trained", "parameters-without-optimizer", parameter="bias")
def the_group_without_decay_is_dropped(place: Place, broken: bool) -> None:
    """Biases and norms are sorted out for a group of their own, which is never given to AdamW."""
    model = Gpt(width=16, depth=1)
    plain = [p for n, p in model.named_parameters() if "bias" in n or "norm" in n]
    decayed = [p for n, p in model.named_parameters() if not ("bias" in n or "norm" in n)]
    groups: list[dict[str, object]] = [{"params": decayed, "weight_decay": 0.1}]
    if not broken:
        groups.append({"params": plain, "weight_decay": 0.0})

    train(place, model, torch.optim.AdamW(groups, lr=3e-3), text(710), next_byte, steps=200, zero=model.zero_grad)


@case("nothing is trained", "learning-rate-zero")
def a_warm_up_whose_schedule_is_never_stepped(place: Place, broken: bool) -> None:
    """LambdaLR sets the rate to 0 / 100 when it is made, and there it stays."""
    model = mlp(64, 48, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 100))
    train(place, model, optimizer, digits(711), classify, schedule=None if broken else schedule)


@case("nothing is trained", "learning-rate-zero", step=75, within=15)
def a_plateau_schedule_that_watches_accuracy_as_a_loss(place: Place, broken: bool) -> None:
    """mode="min" over an accuracy: each better epoch is a plateau, the rate falls tenfold every ten steps."""
    model, batches = mlp(64, 48, 10), digits(712)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mode: Literal["min", "max"] = "min" if broken else "max"
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, patience=0 if broken else 10, eps=0.0)
    right = 0.0
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            x, y = next(batches)
            out = model(x)
            right += float((out.argmax(1) == y).float().mean()) / 10
            loss = functional.cross_entropy(out, y)
            update(optimizer, loss)
            watch.log(loss=loss)
            if step % 10 == 9:
                schedule.step(right)
                right = 0.0


@case("nothing is trained", "no-steps")
def step_without_its_parentheses(place: Place, broken: bool) -> None:
    model, batches = mlp(64, 48, 10), digits(713)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            if broken:
                optimizer.step  # noqa: B018
            else:
                optimizer.step()
            watch.log(loss=loss)


@case("nothing is trained", "no-gradient", also=("zero-gradients", "no-steps"))
def gradients_are_zeroed_between_backward_and_step(place: Place, broken: bool) -> None:
    """The optimizer finds None in every parameter: no gradient, a norm of 0, and no update that deserves the name."""
    model, batches = mlp(64, 48, 10), digits(714)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            loss = classify(model, next(batches))
            if not broken:
                optimizer.zero_grad()
            loss.backward()
            if broken:
                optimizer.zero_grad()
            optimizer.step()
            watch.log(loss=loss)


@case("nothing is trained", "zero-gradients")
def gradients_are_filled_with_zeros_before_the_step(place: Place, broken: bool) -> None:
    """The same line at the same wrong place with `set_to_none=False`: the optimizer gets zeros."""
    model, batches = Lstm(32), text(715)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    with place.watch(model, optimizer) as watch:
        for _ in range(150):
            loss = next_byte(model, next(batches))
            if not broken:
                optimizer.zero_grad(set_to_none=False)
            loss.backward()
            if broken:
                optimizer.zero_grad(set_to_none=False)
            optimizer.step()
            watch.log(loss=loss)


@case("nothing is trained", "gradients-accumulate", parameter="head")
def the_encoder_alone_is_zeroed(place: Place, broken: bool) -> None:
    """`encoder.zero_grad()` from the days when there was only an encoder."""
    model = nn.Sequential()
    model.add_module("encoder", mlp(64, 48, 32))
    model.add_module("head", nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    zero = model.encoder.zero_grad if broken else model.zero_grad
    train(place, model, optimizer, digits(716), classify, zero=zero)


@case("nothing is trained", "gradients-accumulate")
def zero_grad_without_its_parentheses(place: Place, broken: bool) -> None:
    model = Lstm(32)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    train(place, model, optimizer, text(717), next_byte, steps=200, zero=(lambda: None) if broken else None)


@case("nothing is trained", "updates-below-precision")
def float16_weights_under_plain_sgd(place: Place, broken: bool) -> None:
    """`model.half()`, and a rate from a recipe for float32."""
    model = mlp(64, 48, 10).half()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5 if broken else 0.1)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch[0].half()).float(), batch[1])

    train(place, model, optimizer, digits(718), loss_of)


@case("nothing is trained", "clipped-to-nothing")
def entries_clipped_at_a_value_of_zero(place: Place, broken: bool) -> None:
    """`clip_value=0` from a configuration in which 0 means off."""
    model, batches = mlp(64, 48, 10), digits(719)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_value_(model.parameters(), 0.0 if broken else 1.0)
            optimizer.step()
            watch.log(loss=loss)


@case("nothing is trained", "dead-parameters", parameter="0.")
def a_share_to_keep_is_taken_for_a_share_to_drop(place: Place, broken: bool) -> None:
    """`keep_prob=1.0` of TensorFlow became `Dropout(1.0)`: only the last bias gets a gradient other than 0."""
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Dropout(1.0 if broken else 0.0), nn.Linear(48, 10))
    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(720), classify)


@case("nothing is trained", "no-gradient", parameter="policy")
def a_policy_gradient_of_detached_log_probabilities(place: Place, broken: bool) -> None:
    """The rollout runs under no_grad and its log-probabilities are used for the loss; the values train on."""
    model = nn.ModuleDict({"policy": mlp(8, 32, 4), "value": mlp(8, 32, 1)})
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(721)
    best = torch.randn(8, 4, generator=generator)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            x = torch.randn(128, 8, generator=generator)
            with torch.set_grad_enabled(not broken):
                chances = model["policy"](x).log_softmax(1)
            action = torch.multinomial(chances.detach().exp(), 1)
            reward = ((x @ best).argmax(1, keepdim=True) == action).float()
            value = model["value"](x)
            surrogate = -(chances.gather(1, action) * (reward - value.detach())).mean()
            loss = surrogate + (value - reward).square().mean()
            update(optimizer, loss)
            watch.log(loss=loss)


# ------------------------------------------------------------------------- clipping that harms


@case("clipping that harms", "clip-starves", parameter="value")
def returns_in_cents_share_the_clip_with_the_policy(place: Place, broken: bool) -> None:
    """PPO clips both heads together; the values' gradient of 1e9 leaves the policy, whose loss is logged, below eps."""
    model = nn.ModuleDict({"policy": mlp(64, 32, 10), "value": nn.Linear(64, 1)})
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=2e-3), digits(722)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            x, y = next(batches)
            returns = y.float().unsqueeze(1) * (1e9 if broken else 0.1)
            loss = functional.cross_entropy(model["policy"](x), y)
            optimizer.zero_grad()
            (loss + (model["value"](x) - returns).square().mean()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            watch.log(loss=loss)


@case("clipping that harms", "clip-starves", parameter="price", also=("threshold-too-low",))
def a_price_in_dollars_beside_ten_classes(place: Place, broken: bool) -> None:
    """Under SGD the classes keep a thousandth of their rate; the threshold is far under the median as well: both."""
    model = nn.ModuleDict({"classes": mlp(64, 32, 10), "price": nn.Linear(64, 1)})
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.05), digits(723)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            x, y = next(batches)
            price = (y.float().unsqueeze(1) - 4.5) * (1e5 if broken else 0.2)
            loss = functional.cross_entropy(model["classes"](x), y)
            optimizer.zero_grad()
            (loss + (model["price"](x) - price).square().mean()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            watch.log(loss=loss)


@case("clipping that harms", "threshold-too-low")
def a_threshold_divided_by_the_batch_size(place: Place, broken: bool) -> None:
    """The tutorial's 0.25, divided by the batch size once more than the loss is."""
    model = Lstm(32)
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    train(place, model, optimizer, text(724), next_byte, steps=200, clip=0.25 / 128 if broken else 1.0)


@case("clipping that harms", "threshold-too-low")
def a_threshold_for_means_and_a_loss_that_is_a_sum(place: Place, broken: bool) -> None:
    """`reduction="sum"` makes norms 256 times as large; the rate was divided by 256 for it, the threshold was not."""
    model = mlp(64, 48, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 / 256)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    train(place, model, optimizer, digits(725, 256), loss_of, clip=0.5 if broken else 500.0)


@case("clipping that harms", "ineffective-clipping")
def entries_clipped_while_they_are_scaled(place: Place, broken: bool) -> None:
    """https://github.com/milesial/Pytorch-UNet/issues/468, by value: what is clipped is 65536 times too large."""
    model, batches = mlp(64, 48, 10), digits(726)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            if not broken:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_value_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
            watch.log(loss=loss)


@case("clipping that harms", "ineffective-clipping")
def gradients_are_handed_to_the_clip_call_as_parameters(place: Place, broken: bool) -> None:
    """`clip_grad_norm_([p.grad for p in ...])`: a gradient has no gradient, so that nothing is clipped."""
    model, batches = Lstm(32), text(727)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with place.watch(model, optimizer) as watch:
        for _ in range(150):
            loss = next_byte(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            clipped = [p.grad for p in model.parameters() if p.grad is not None] if broken else model.parameters()
            nn.utils.clip_grad_norm_(clipped, 0.25)
            optimizer.step()
            watch.log(loss=loss)


@case("clipping that harms", "ineffective-clipping")
def the_averaged_copy_is_clipped(place: Place, broken: bool) -> None:
    """`clip_grad_norm_(ema.parameters())`: the average never has gradients."""
    model, batches = mlp(64, 48, 10), digits(728)
    ema = AveragedModel(model, avg_fn=lambda old, new, count: 0.99 * old + 0.01 * new)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_((ema if broken else model).parameters(), 1.0)
            optimizer.step()
            ema.update_parameters(model)
            watch.log(loss=loss)


@case("clipping that harms", "clipped-by-script")
def gradients_replaced_by_clamped_copies(place: Place, broken: bool) -> None:
    """`p.grad = p.grad.clamp(-c, c)` makes a new tensor and leaves the old one as it is."""
    model, batches = mlp(64, 48, 10), digits(729)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            if broken:
                for p in model.parameters():
                    p.grad = p.grad.clamp(-0.002, 0.002)  # type: ignore[union-attr]
            else:
                nn.utils.clip_grad_value_(model.parameters(), 0.1)
            optimizer.step()
            watch.log(loss=loss)


# ------------------------------------------------------------------------- severity by consequence


@case("severity by consequence", "diverged", also=("nonfinite-loss", "learning-rate-too-high"), step=0, within=80)
def momentum_of_99_hundredths_at_the_old_rate(place: Place, broken: bool) -> None:
    """The rate fits a momentum of 0.9; steps are ten times as long now."""
    model = mlp(8, 64, 64, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.04, momentum=0.99 if broken else 0.9)
    train(place, model, optimizer, plane(730), squared)


class Recurrence(nn.Module):
    """A plain recurrent network that sums what it reads, with a recurrent matrix of a given size."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.into, self.again, self.out = nn.Linear(1, 24), nn.Linear(24, 24, bias=False), nn.Linear(24, 1)
        nn.init.orthogonal_(self.again.weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 24)
        for t in range(x.shape[1]):
            h = (self.into(x[:, t : t + 1]) + self.again(h)).relu()
        return self.out(h)


@case("severity by consequence", "diverged", also=("nonfinite-loss", "learning-rate-too-high"), step=0, within=100)
def a_recurrence_of_relus_with_a_gain_above_one(place: Place, broken: bool) -> None:
    """Products of forty matrices of norm 1.35 under SGD without a clip."""
    model = Recurrence(1.35 if broken else 0.9)
    change = lambda step, batch: (batch[0] * 0.3, batch[0].mean(1))  # noqa: E731
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.01), plane(731, width=40), squared, change=change)


@case("severity by consequence", "diverged", also=("loss-regressed", "learning-rate-too-high", "nonfinite-loss"))
def a_range_test_that_is_never_ended(place: Place, broken: bool) -> None:
    """The rate grows by 4 % a step, past every limit; the twin stops at a good one."""
    model = mlp(64, 48, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    last = 10_000 if broken else 85
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.04 ** min(step, last))
    train(place, model, optimizer, digits(732), classify, schedule=schedule)


@case("severity by consequence", "diverged", also=("nonfinite-loss",), step=0, within=60)
def a_loss_with_the_wrong_sign(place: Place, broken: bool) -> None:
    """`maximize=True` left over from a reward: the cross-entropy climbs without end."""
    model = mlp(64, 48, 10)
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.05, maximize=broken), digits(733), classify)


@case("severity by consequence", "diverged", also=("nonfinite-loss",), step=0, within=250)
def baird_counterexample(place: Place, broken: bool) -> None:
    """Off-policy TD with linear values: the weights grow without end. The twin has the target's gradient, too."""
    features = torch.cat([2 * torch.eye(6), torch.zeros(1, 6)])
    features = torch.cat([features, torch.tensor([[0.0]] * 6 + [[1.0]]), torch.tensor([[1.0]] * 6 + [[2.0]])], 1)
    model = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 1, 1, 1, 1, 1, 10, 1]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with place.watch(model, optimizer) as watch:
        for _ in range(400):
            values = model(features).squeeze(-1)
            following = 0.99 * values[6]
            loss = (values - (following.detach() if broken else following)).square().mean()
            update(optimizer, loss)
            watch.log(loss=loss)


@case("severity by consequence", "diverged", also=("learning-rate-too-high", "loss-regressed"), step=0, within=60)
def a_transformer_at_a_rate_for_sgd_without_warm_up(place: Place, broken: bool) -> None:
    """The loss leaps from 6 to hundreds within ten steps and ends far above its start."""
    model = Gpt(width=32, depth=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=5.0 if broken else 3e-3)
    train(place, model, optimizer, text(735), next_byte, steps=150)


@case("severity by consequence", "repeated-spikes", also=("learning-rate-too-high",))
def a_cyclic_rate_whose_peak_is_too_high(place: Place, broken: bool) -> None:
    """Each of eight peaks throws the loss back, and each valley mends it: spikes by a rate that is too high."""
    model = mlp(8, 64, 1, act=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    peak = 0.6 if broken else 0.05
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: peak / 0.01 if step % 50 in (24, 25) else 1.0)
    train(place, model, optimizer, plane(736), squared, steps=400, schedule=schedule)


@case("severity by consequence", "spike", step=150)
def one_batch_is_not_divided_by_255(place: Place, broken: bool) -> None:
    model = mlp(64, 48, 10)
    change = at(150, lambda batch: (batch[0] * 255, batch[1]), broken)
    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3), digits(737), classify, change=change)


@case("severity by consequence", "loss-regressed", also=("diverged",), step=200, within=40)
def labels_are_misaligned_after_a_restart_of_the_loader(place: Place, broken: bool) -> None:
    """From step 200 on each image has another one's label. The norms grow with the loss: both names are right."""
    model = mlp(64, 48, 10)
    change = lambda step, batch: (batch[0], batch[1].roll(1) if broken and step >= 200 else batch[1])  # noqa: E731
    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), digits(738), classify, change=change)


@case("severity by consequence", "loss-regressed", also=("diverged",), step=180, within=60)
def a_weight_decay_that_a_schedule_makes_a_thousandfold(place: Place, broken: bool) -> None:
    """The weights shrink towards 0 from step 180 on, and the loss returns to that of a guess."""
    model, batches = mlp(64, 48, 10), digits(739)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            if broken and step == 180:
                optimizer.param_groups[0]["weight_decay"] = 60.0
            loss = classify(model, next(batches))
            update(optimizer, loss)
            watch.log(loss=loss)


@case("severity by consequence", "vanishing", parameter="0.")
def ten_layers_that_begin_at_a_hundredth(place: Place, broken: bool) -> None:
    """`normal_(weight, std=0.01)` in every layer, an initialisation of shallower days."""
    model = mlp(64, *[48] * 9, 10)
    for layer in model:
        if isinstance(layer, nn.Linear):
            if broken:
                nn.init.normal_(layer.weight, std=0.01)
            else:
                nn.init.kaiming_normal_(layer.weight)
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.02), digits(740), classify)


# ------------------------------------------------------------------------- NaN by cause


@case("NaN by cause", "nonfinite-gradient", step=130)
def a_logarithm_on_the_side_that_is_not_taken(place: Place, broken: bool) -> None:
    """https://github.com/pytorch/pytorch/issues/108618: `where` hides the value, not its slope."""
    model = nn.Sequential(nn.Linear(8, 24, bias=False), nn.ReLU(), nn.Linear(24, 1, bias=False))

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        size = model(batch[0]).squeeze(-1).square()
        out = size + torch.where(size > 1e-3, size.log() if broken else size.clamp(min=1e-3).log(), 0.0)
        return (out - batch[1]).square().mean()

    blank = at(130, lambda batch: (batch[0] * (torch.arange(64) > 0).unsqueeze(1), batch[1]), True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(place, model, optimizer, plane(741), loss_of, steps=250, change=blank)


@case("NaN by cause", "nonfinite-gradient", step=110)
def a_mean_over_no_neighbours_that_is_masked_afterwards(place: Place, broken: bool) -> None:
    """https://github.com/pytorch/pytorch/issues/16317: 0 / 0 in the forward pass of a graph network, replaced by 0."""
    model = mlp(8, 32, 1)
    batches, generator = plane(742), torch.Generator().manual_seed(742)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for step in range(250):
            x, y = next(batches)
            edges = (torch.rand(64, 64, generator=generator) < 0.2).float() + torch.eye(64)
            if step == 110:
                edges[7] = 0.0
            count = edges.sum(1)
            total = edges @ model(x).squeeze(-1)
            mean = total / (count if broken else count.clamp(min=1))
            mean = torch.where(count == 0, torch.zeros_like(mean), mean)
            loss = (mean - edges @ y / count.clamp(min=1)).square().mean()
            update(optimizer, loss)
            watch.log(loss=loss)


@case("NaN by cause", "nonfinite-loss", step=140)
def the_exponential_of_an_outlier(place: Place, broken: bool) -> None:
    """A Poisson rate `exp(model(x))`: one row of a hundred thousand times the usual size is more than float32 holds."""
    model = nn.Linear(8, 1)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        rate = 0.3 * model(batch[0]).squeeze(-1)
        return (rate.exp() - rate * batch[1].abs()).mean()

    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    outlier = at(140, lambda batch: (torch.cat([batch[0][:-1], 1e5 * model.weight.detach().sign()]), batch[1]), broken)
    train(place, model, optimizer, plane(743), loss_of, steps=250, change=outlier)


@case("NaN by cause", "nonfinite-gradient", step=120)
def gamma_correction_of_a_black_pixel(place: Place, broken: bool) -> None:
    """`x ** (1 / 2.2)` has an infinite slope at 0, which a black image reaches in a network without biases."""
    model = nn.Sequential(nn.Linear(64, 32, bias=False), nn.Tanh(), nn.Linear(32, 64, bias=False))

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        light = model(batch[0]).square() + (0.0 if broken else 1e-6)
        return (light ** (1 / 2.2) - batch[0]).square().mean()

    black = at(120, lambda batch: (batch[0] * (torch.arange(64) > 0).unsqueeze(1), batch[1]), True)
    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(744), loss_of, steps=250, change=black)


@case("NaN by cause", "nonfinite-loss", step=0)
def probabilities_by_clamping_a_linear_output(place: Place, broken: bool) -> None:
    """`log(clamp(out, 0, 1))` is infinite for every output below 0, at the very first step."""
    model = mlp(8, 32, 1)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        out, wanted = model(batch[0]).squeeze(-1), (batch[1] > 0).float()
        p = out.clamp(0, 1) if broken else out.sigmoid()
        return -(wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), plane(745), loss_of, steps=200)


@case("NaN by cause", "nonfinite-loss", step=160)
def a_row_of_padding_in_a_norm_without_eps(place: Place, broken: bool) -> None:
    """RMSNorm with eps 0 makes 0 / 0 of a row of zeros."""
    model = nn.Sequential(nn.RMSNorm(64, eps=0.0 if broken else 1e-5), mlp(64, 48, 10))
    blank = at(160, lambda batch: (batch[0] * (torch.arange(64) > 0).unsqueeze(1), batch[1]), True)
    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(746), classify, steps=250, change=blank)


@case("NaN by cause", "nonfinite-loss", step=90)
def advantages_divided_by_the_deviation_of_equal_rewards(place: Place, broken: bool) -> None:
    """GRPO without the 1e-4: a group whose rewards are all alike has the advantage 0 / 0."""
    model = mlp(8, 32, 4)
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=2e-3), torch.Generator().manual_seed(747)
    best = torch.randn(8, 4, generator=generator)
    with place.watch(model, optimizer) as watch:
        for step in range(250):
            x = torch.randn(64, 8, generator=generator)
            chances = model(x).log_softmax(1)
            action = torch.multinomial(chances.detach().exp().nan_to_num(0.25), 1)
            reward = (x @ best).gather(1, action).squeeze(1)
            if step == 90:
                reward = torch.ones(64)
            advantage = (reward - reward.mean()) / (reward.std() + (0.0 if broken else 1e-4))
            loss = -(chances.gather(1, action).squeeze(1) * advantage).mean()
            update(optimizer, loss)
            watch.log(loss=loss)


@case("NaN by cause", "nonfinite-loss", step=130)
def a_transcript_longer_than_its_audio(place: Place, broken: bool) -> None:
    """CTC has no path for 12 characters in 8 frames: the loss is inf, which `zero_infinity` would leave out."""
    model, batches = mlp(64, 48, 80), digits(748, 32)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    ctc = nn.CTCLoss(zero_infinity=not broken)
    with place.watch(model, optimizer) as watch:
        for step in range(250):
            x, y = next(batches)
            targets = (y % 9 + 1).unsqueeze(1).expand(-1, 12)
            lengths = torch.full((32,), 2)
            if step == 130:
                lengths[5] = 12
            out = model(x).view(32, 8, 10).log_softmax(-1).transpose(0, 1)
            loss = ctc(out, targets, torch.full((32,), 8), lengths)
            update(optimizer, loss)
            watch.log(loss=loss)


@case("NaN by cause", "nonfinite-loss", step=120)
def a_square_beyond_float16(place: Place, broken: bool) -> None:
    """A target of 300 is finite in float16, and its square is not."""
    model = mlp(8, 32, 1)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        error = model(batch[0]).squeeze(-1) - batch[1]
        return (error.half().square().float() if broken else error.square().clamp(max=100)).mean()

    large = at(120, lambda batch: (batch[0], batch[1] + 300 * (torch.arange(64) == 9)), True)
    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), plane(749), loss_of, steps=250, change=large)


@case("NaN by cause", "nonfinite-weights", step=100, within=2)
def a_rate_divided_by_a_distance_of_zero(place: Place, broken: bool) -> None:
    """A schedule in torch's numbers with `1 / (100 - step)` is inf at step 100; the update ruins the weights."""
    model, batches = mlp(64, 48, 10), digits(750)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with place.watch(model, optimizer) as watch:
        for step in range(200):
            distance = torch.tensor(100.0 - step).abs() + (0.0 if broken else 1.0)
            optimizer.param_groups[0]["lr"] = 0.1 + 0.1 * float(1 / distance)
            loss = classify(model, next(batches))
            update(optimizer, loss)
            watch.log(loss=loss)


@case("NaN by cause", "nonfinite-weights", step=0, within=1)
def the_eps_of_adam_in_float16(place: Place, broken: bool) -> None:
    """1e-8 is 0 in float16: an entry whose gradient is 0 is updated by 0 / 0."""
    model = mlp(64, 48, 10).half()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-8 if broken else 1e-4, foreach=False)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch[0].half()).float(), batch[1])

    train(place, model, optimizer, digits(751), loss_of, steps=200)


@case("NaN by cause", "nonfinite-weights", step=120, within=2)
def an_average_over_no_model_is_swapped_in(place: Place, broken: bool) -> None:
    """The sum of the averaged weights is divided by a count that is still 0."""
    model, batches = mlp(64, 48, 10), digits(752)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    total, count = [torch.zeros_like(p) for p in model.parameters()], torch.zeros(())
    with place.watch(model, optimizer) as watch:
        for step in range(220):
            if step == 120:
                with torch.no_grad():
                    for p, each in zip(model.parameters(), total, strict=True):
                        p.copy_(each / count)
            loss = classify(model, next(batches))
            update(optimizer, loss)
            watch.log(loss=loss)
            if not broken and step >= 60:
                count += 1
                for p, each in zip(model.parameters(), total, strict=True):
                    each.add_(p.detach())


@case("NaN by cause", "nonfinite-loss", step=0)
def a_column_without_variance_is_standardised(place: Place, broken: bool) -> None:
    """0 / 0 in every row of every batch, from the first step on."""
    model = mlp(64, 48, 10)

    def change(step: int, batch: Batch) -> Batch:
        x = batch[0]
        return (x - x.mean(0)) / (x.std(0) + (0.0 if broken else 1e-2)), batch[1]

    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3), digits(753), classify, change=change, steps=200)


@case("NaN by cause", "loss-hides-nan", also=("nonfinite-gradient",), step=140)
def a_running_mean_that_leaves_nan_out(place: Place, broken: bool) -> None:
    """The script logs a running mean; `sqrt` at 0 ruins the weights, and a loss of NaN is not added to the mean."""
    model, batches = nn.Sequential(nn.Linear(8, 24, bias=False), nn.Tanh(), nn.Linear(24, 1, bias=False)), plane(754)
    optimizer, mean = torch.optim.Adam(model.parameters(), lr=5e-3), 2.0
    with place.watch(model, optimizer) as watch:
        for step in range(250):
            x, y = next(batches)
            if step == 140:
                x = x * (torch.arange(64) > 0).unsqueeze(1)
            size = (model(x).squeeze(-1).square() + (0.0 if broken else 1e-8)).sqrt()
            loss = (size - y.abs() / 3).square().mean()
            update(optimizer, loss)
            mean = 0.9 * mean + 0.1 * float(loss.detach()) if loss.isfinite() else mean
            watch.log(loss=mean)


@case("NaN by cause", "loss-scale")
def a_loss_scale_that_grows_every_second_step(place: Place, broken: bool) -> None:
    """`growth_interval=2`: the scale is doubled past its limit again and again, so that every third step is lost."""
    model, batches = mlp(64, 48, 10), digits(755)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=2 if broken else 2000)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            x, y = next(batches)
            loss = functional.cross_entropy(model(x).half().float(), y, reduction="sum")
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            watch.log(loss=loss / 64)


# ------------------------------------------------------------------------- several optimizers


@case("several optimizers", "parameters-without-optimizer", parameter="bias")
def matrices_for_muon_and_the_embedding_for_adamw(place: Place, broken: bool) -> None:
    """Biases and norms are neither matrices of the blocks nor embedding nor head, and are left out of both."""
    model = Gpt(width=16, depth=1)
    inner = [p for n, p in model.named_parameters() if "blocks" in n and p.ndim == 2]
    outer = [p for n, p in model.named_parameters() if "blocks" not in n and p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    both = {
        "muon": torch.optim.Muon(inner, lr=0.01),
        "adamw": torch.optim.AdamW(outer if broken else outer + rest, lr=3e-3),
    }
    batches = text(756)
    with place.watch(model, both) as watch:
        for _ in range(150):
            loss = next_byte(model, next(batches))
            model.zero_grad()
            loss.backward()
            for optimizer in both.values():
                optimizer.step()
            watch.log(loss=loss)


def control(place: Place, *, target_held: bool) -> None:
    """DDPG on a point that has to be moved to 0; ``target_held`` gives the critic's optimizer the target network."""
    generator = torch.Generator().manual_seed(757)
    actor, critic = mlp(2, 32, 1), mlp(3, 32, 1)
    target = copy.deepcopy(critic)
    held = target if target_held else critic
    both = {"actor": torch.optim.Adam(actor.parameters(), 1e-3), "critic": torch.optim.Adam(held.parameters(), 1e-3)}
    with place.watch(nn.ModuleDict({"actor": actor, "critic": critic}), both) as watch:
        for step in range(STEPS):
            s = torch.randn(64, 2, generator=generator)
            a = actor(s).detach().tanh() + 0.3 * torch.randn(64, 1, generator=generator)
            after = s + 0.5 * torch.cat([s[:, 1:], a], 1)
            reward = -s.square().sum(1, keepdim=True) - 0.1 * a.square()
            with torch.no_grad():
                wanted = reward + 0.8 * target(torch.cat([after, actor(after).tanh()], 1))
            loss = (critic(torch.cat([s, a], 1)) - wanted).square().mean()
            critic.zero_grad()
            update(both["critic"], loss)
            watch.log(loss=loss, optimizer="critic")
            if step % 2:
                loss = -critic(torch.cat([s, actor(s).tanh()], 1)).mean()
                update(both["actor"], loss)
                watch.log(loss=loss, optimizer="actor")
            with torch.no_grad():
                for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
                    slow.lerp_(fast, 0.02)


@case(
    "several optimizers",
    "stale-optimizer",
    optimizer="critic",
    also=("no-gradient", "parameters-without-optimizer"),
)
def the_critics_optimizer_holds_the_target_network(place: Place, broken: bool) -> None:
    """It holds parameters that the watched model does not have and that get no gradient; the critic's own have none."""
    control(place, target_held=broken)


@case("several optimizers", "learning-rate-zero", optimizer="sparse")
def the_second_schedule_is_never_stepped(place: Place, broken: bool) -> None:
    """Two warm-ups are made, and one is stepped: the embedding stays as it began."""
    model = nn.Sequential(nn.Embedding(256, 24, sparse=True), nn.Flatten(), mlp(24 * 8, 48, 256))
    both: dict[str, torch.optim.Optimizer] = {
        "dense": torch.optim.AdamW(model[2].parameters(), lr=2e-3),
        "sparse": torch.optim.SparseAdam(model[0].parameters(), lr=5e-3),
    }
    ramps = {name: torch.optim.lr_scheduler.LambdaLR(o, lambda step: min(1.0, step / 50)) for name, o in both.items()}
    batches = text(758, 32, 8)
    with place.watch(model, both) as watch:
        for _ in range(250):
            x, y = next(batches)
            loss = functional.cross_entropy(model(x), y[:, -1])
            model.zero_grad()
            loss.backward()
            for name, optimizer in both.items():
                optimizer.step()
                if name == "dense" or not broken:
                    ramps[name].step()
            watch.log(loss=loss)


@case("several optimizers", "diverged", also=("nonfinite-loss", "learning-rate-too-high"), step=0, within=100)
def the_heads_optimizer_has_the_bodys_rate_times_a_thousand(place: Place, broken: bool) -> None:
    """SGD at 5 for a linear head under a squared loss: the head leaves first, and its gradients take the body along."""
    body, head = mlp(8, 32, 16), nn.Linear(16, 1)
    both = {
        "body": torch.optim.Adam(body.parameters(), lr=1e-3),
        "head": torch.optim.SGD(head.parameters(), lr=5.0 if broken else 0.05),
    }
    model = nn.Sequential(body, nn.ReLU(), head)
    batches = plane(759)
    with place.watch(model, both) as watch:
        for _ in range(250):
            loss = squared(model, next(batches))
            model.zero_grad()
            loss.backward()
            for optimizer in both.values():
                optimizer.step()
            watch.log(loss=loss)


# ------------------------------------------------------------------------- how it ended

LOOP = """
import os, signal, sys, time, gradwatch
net = torch.nn.Sequential(torch.nn.Linear(6, 24), torch.nn.Tanh(), torch.nn.Linear(24, 1))
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
def batches(count):
    for _ in range(count):
        x = torch.randn(32, 6)
        yield x, x.sum(1, keepdim=True).sin()
data = batches({count})
for step in range(220):
    {before}
    x, y = next(data)
    loss = (net(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(float(loss))
"""


def loop(place: Place, *, before: str = "", count: int = 220, kill: bool = False) -> None:
    place.script(LOOP.format(before=before or "pass", count=count), kill=kill)


@case("how it ended", "died", step=99)
def gradients_stay_off_after_an_evaluation(place: Place, broken: bool) -> None:
    """`torch.set_grad_enabled(False)` at step 100 and no line that sets it back: backward finds no graph."""
    loop(place, before="if step == 100: torch.set_grad_enabled(False)" if broken else "")


@case("how it ended", "died", step=129)
def an_iterator_that_is_used_up(place: Place, broken: bool) -> None:
    """`next(iter(loader))` without a default, in a loop over steps."""
    loop(place, count=130 if broken else 220)


@case("how it ended", "killed", also=("died",), step=149)
def a_native_library_aborts(place: Place, broken: bool) -> None:
    """A failed assertion in C++ calls abort: nobody closes the recording, a later reader may call either name."""
    before = "if step == 150: time.sleep(1.5); os.abort()"
    loop(place, before=before if broken else "", kill=broken)


@case("how it ended", "too-short", twin=False)
def one_epoch_of_eighteen_batches(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(760), classify, steps=18)


# ------------------------------------------------------------------------- histories


def scatter(seed: int, count: int, size: float = 1.0) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    return (size * torch.randn(count, generator=generator)).tolist()


@case("histories", "zero-gradients")
def a_policy_whose_advantages_are_never_used(place: Place, broken: bool) -> None:
    """https://github.com/modelscope/ms-swift/issues/5571: loss -0.0 and norm 0.0 at a scattering reward."""
    noise, other = scatter(761, 120, 0.05), scatter(762, 120, 0.02)
    rows: list[dict[str, object]] = []
    for i, (a, b) in enumerate(zip(noise, other, strict=True)):
        reward = 0.35 + a if broken else 0.35 + 0.4 * i / 120 + a
        norm = 0.0 if broken else abs(0.3 + 3 * b)
        row: dict[str, object] = {"step": i + 1, "loss": -0.0 if broken else round(b, 4), "grad_norm": norm}
        row |= {"learning_rate": 1e-6, "reward": reward, "reward_std": 0.43 + b, "kl": 0.0}
        rows.append(row | {"epoch": i / 120})
    place.imported(rows)


@case("histories", "reward-lost", also=("diverged",), step=150, within=30)
def a_policy_that_collapses_after_its_norms_leap(place: Place, broken: bool) -> None:
    """https://github.com/XueZeyue/DanceGRPO/issues/55: the reward falls within a few steps and stays down."""
    noise = scatter(763, 260)
    rows: list[dict[str, object]] = []
    for i, n in enumerate(noise):
        lost = broken and i >= 150
        reward = 0.3 + 0.4 * min(i, 150) / 150 + 0.03 * n
        if lost:
            reward = max(0.02, 0.7 * 0.75 ** (i - 150)) + 0.01 * n
        norm = 0.2 * math.exp(0.2 * n) * (30 if lost and i < 156 else 4 if lost else 1)
        row: dict[str, object] = {"step": i + 1, "loss": round(0.01 * n, 4), "grad_norm": norm}
        rows.append(row | {"learning_rate": 1e-5, "reward": reward, "reward_std": 0.2, "epoch": i / 260})
    place.imported(rows)


@case("histories", "learning-rate-zero", step=600, within=20)
def a_fine_tuning_whose_total_was_counted_on_one_of_four_gpus(place: Place, broken: bool) -> None:
    """The schedule ends at step 600 of 1200: the second half is logged at rate 0."""
    end = 600 if broken else 1200
    rows: list[dict[str, object]] = []
    for i, n in enumerate(scatter(764, 120)):
        step = 10 * (i + 1)
        loss = 0.9 + 1.4 * math.exp(-min(step, end) / 200) + 0.03 * n
        rate = 2e-5 * max(0.0, 1 - step / end)
        row: dict[str, object] = {"step": step, "loss": round(loss, 4), "grad_norm": 1.2 * math.exp(0.15 * n)}
        rows.append(row | {"learning_rate": rate, "epoch": step / 400})
    place.imported(rows)


@case("histories", "diverged", also=("loss-regressed", "learning-rate-too-high"), twin_may=("spike",))
def a_warm_up_that_never_reaches_its_end(place: Place, broken: bool) -> None:
    """The rate grows exponentially to the last step: a language model learns, then leaves for good."""
    model = Gpt(width=16, depth=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.025 ** min(step, 400 if broken else 80))
    place.imported(trained_by_a_trainer(model, optimizer, text(765), next_byte, steps=400, every=5, schedule=schedule))


@case("histories", "spike", step=180, within=3)
def one_row_of_garbage_in_a_log_of_every_step(place: Place, broken: bool) -> None:
    """A document of random bytes in place of one batch: norm and loss leap once."""
    noise, other = scatter(766, 300), scatter(767, 300)
    losses = [2.0 + 2.5 * math.exp(-i / 60) + 0.05 * n for i, n in enumerate(noise)]
    norms = [0.9 * math.exp(0.12 * n) + math.exp(-i / 20) for i, n in enumerate(other)]
    if broken:
        losses[180], norms[180] = 9.3, 31.0
        losses[181:184] = [2.6, 2.4, 2.3]
        norms[181:183] = [2.4, 1.6]
    place.imported(trainer_rows(losses, norms, every=1, rate=3e-4, rows_an_epoch=300))


@case("histories", "too-short", twin=False)
def six_rows_of_a_trial_run(place: Place, broken: bool) -> None:
    losses, norms = [2.31, 2.12, 2.03, 1.91, 1.88, 1.83], [3.1, 2.2, 2.0, 1.7, 1.8, 1.6]
    place.imported(trainer_rows(losses, norms, every=10, rate=2e-5, rows_an_epoch=6))


@case("histories", None)
def a_preference_tuning_whose_loss_begins_at_the_logarithm_of_two(place: Place, broken: bool) -> None:
    """DPO: 0.693 at a rate of 0, norms that grow at first and scatter widely, a margin that is not in the log."""
    rows: list[dict[str, object]] = []
    for i, (n, m) in enumerate(zip(scatter(768, 150), scatter(769, 150), strict=True)):
        share = 1 - math.exp(-i / 45)
        loss = 0.6931 - 0.33 * share + 0.05 * n * share
        norm = (1.5 + 3 * share) * math.exp(0.35 * m)
        rate = 5e-7 * min(1.0, i / 15) * max(0.02, 1 - i / 150)
        rows.append(
            {"step": 10 * i + 10, "loss": round(loss, 4), "grad_norm": norm, "learning_rate": rate, "epoch": i / 150}
        )
    place.imported(rows)


@case("histories", None)
def a_fine_tuning_of_three_epochs_whose_loss_is_a_staircase(place: Place, broken: bool) -> None:
    """The loss falls at the start of each epoch, and norms rise as the examples are learnt by heart."""
    rows: list[dict[str, object]] = []
    for i, (n, m) in enumerate(zip(scatter(770, 180), scatter(771, 180), strict=True)):
        epoch = i // 60
        loss = (1.35, 0.95, 0.5)[epoch] + 0.5 * math.exp(-i / 8) + 0.06 * n * (1, 0.8, 0.6)[epoch]
        norm = (0.5, 0.75, 1.05)[epoch] * math.exp(0.15 * m)
        rate = 2e-4 * min(1.0, (i + 1) / 9) * (0.5 + 0.5 * math.cos(math.pi * i / 180))
        rows.append(
            {"step": 5 * i + 5, "loss": round(loss, 4), "grad_norm": norm, "learning_rate": rate, "epoch": i / 60}
        )
    place.imported(rows)


@case("histories", None)
def a_policy_whose_loss_rises_from_zero_with_its_distance(place: Place, broken: bool) -> None:
    """https://github.com/aburkov/theLMbook/issues/6: GRPO's loss is the KL distance; it grows with the reward."""
    rows: list[dict[str, object]] = []
    for i, (n, m) in enumerate(zip(scatter(772, 200), scatter(773, 200), strict=True)):
        share = 1 - math.exp(-i / 70)
        kl = 0.08 * share * math.exp(0.2 * n)
        row: dict[str, object] = {"step": i + 1, "loss": round(0.04 * kl / 0.08, 4), "kl": kl}
        row |= {"grad_norm": 0.25 * math.exp(0.25 * m), "learning_rate": 1e-6 * min(1, (i + 1) / 10)}
        rows.append(row | {"reward": 0.2 + 0.6 * share + 0.05 * m, "reward_std": 0.3 - 0.1 * share, "epoch": i / 200})
    place.imported(rows)


# ------------------------------------------------------------------------- healthy, and odd to look at


@case("healthy", None)
def a_bandit_with_a_baseline(place: Place, broken: bool) -> None:
    """REINFORCE: surrogate losses about 0 of either sign, norms that fall as the policy becomes sure."""
    model = mlp(8, 32, 4)
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=3e-3), torch.Generator().manual_seed(774)
    best, baseline = torch.randn(8, 4, generator=generator), 0.25
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            x = torch.randn(64, 8, generator=generator)
            chances = model(x).log_softmax(1)
            action = torch.multinomial(chances.detach().exp(), 1)
            reward = ((x @ best).argmax(1, keepdim=True) == action).float()
            loss = -(chances.gather(1, action) * (reward - baseline)).mean()
            baseline = 0.9 * baseline + 0.1 * float(reward.mean())
            update(optimizer, loss)
            watch.log(loss=loss)


@case("healthy", None)
def a_student_of_a_teacher_at_temperature_four(place: Place, broken: bool) -> None:
    teacher, student, batches = mlp(64, 64, 10), mlp(64, 16, 10), digits(775)
    first = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(150):
        update(first, classify(teacher, next(batches)))
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = (teacher(batch[0]) / 4).log_softmax(1)
        soft = functional.kl_div((model(batch[0]) / 4).log_softmax(1), wanted, log_target=True, reduction="batchmean")
        return 16 * soft

    train(place, student, optimizer, batches, loss_of)


@case("healthy", None)
def pairs_told_apart_at_a_temperature_that_is_learnt(place: Place, broken: bool) -> None:
    """InfoNCE as in CLIP: left and right halves of a digit, and `logit_scale` from log(1 / 0.07)."""
    model = nn.ModuleDict({"left": mlp(32, 48, 16), "right": mlp(32, 48, 16)})
    model.register_parameter("logit_scale", nn.Parameter(torch.tensor(math.log(1 / 0.07))))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        image = batch[0].view(-1, 8, 8)
        sides = {"left": image[:, :, :4].flatten(1), "right": image[:, :, 4:].flatten(1)}
        left, right = (functional.normalize(model[name](x), dim=1) for name, x in sides.items())  # type: ignore[index]
        logits = model.logit_scale.exp() * left @ right.T  # type: ignore[operator, union-attr]
        order = torch.arange(len(logits))
        return (functional.cross_entropy(logits, order) + functional.cross_entropy(logits.T, order)) / 2

    train(place, model, optimizer, digits(776), loss_of)


@case("healthy", None)
def sharpness_aware_by_hand(place: Place, broken: bool) -> None:
    """Weights are moved up the gradient, a second gradient is taken there, and the weights are put back."""
    model, batches = mlp(64, 48, 10), digits(777)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            batch = next(batches)
            first = classify(model, batch)
            gradients = torch.autograd.grad(first, list(model.parameters()))
            size = torch.stack([g.norm() for g in gradients]).norm() + 1e-12
            with torch.no_grad():
                for p, g in zip(model.parameters(), gradients, strict=True):
                    p.add_(g, alpha=0.05 / float(size))
            optimizer.zero_grad()
            classify(model, batch).backward()
            with torch.no_grad():
                for p, g in zip(model.parameters(), gradients, strict=True):
                    p.sub_(g, alpha=0.05 / float(size))
            optimizer.step()
            watch.log(loss=first)


@case("healthy", None)
def blocks_that_are_computed_twice(place: Place, broken: bool) -> None:
    """Gradient checkpointing without reentrance."""
    model = Gpt(width=16, depth=2)

    def forward(x: Tensor) -> Tensor:
        h = model.embed(x) + model.positions.weight[: x.shape[1]]
        for block in model.blocks:
            h = checkpoint(block, h, model.future, use_reentrant=False)
        return model.head(model.norm(h))

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(forward(batch[0]).flatten(0, 1), batch[1].flatten())

    train(place, model, torch.optim.AdamW(model.parameters(), lr=3e-3), text(778), loss_of, steps=150, clip=1.0)


@case("healthy", None)
def averaged_weights_are_swapped_in_at_the_end(place: Place, broken: bool) -> None:
    """SWA at a constant high rate from step 200 on; at step 280 the average becomes the weights of the last steps."""
    model, batches = mlp(64, 48, 10), digits(779)
    average = AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            if step == 280:
                model.load_state_dict(average.module.state_dict())
            loss = classify(model, next(batches))
            update(optimizer, loss)
            watch.log(loss=loss)
            if step >= 200:
                average.update_parameters(model)


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free SGD (Defazio et al. 2024): gradients at y, between the fast z and their average x."""

    def __init__(self, parameters: Iterator[nn.Parameter], lr: float, beta: float = 0.9) -> None:
        super().__init__(parameters, {"lr": lr, "beta": beta, "count": 0})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["count"] += 1
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["z"], state["x"] = p.clone(), p.clone()
                state["z"].sub_(p.grad, alpha=group["lr"])
                state["x"].lerp_(state["z"], 1 / group["count"])
                p.copy_(torch.lerp(state["z"], state["x"], group["beta"]))


@case("healthy", None)
def schedule_free_sgd(place: Place, broken: bool) -> None:
    model = mlp(64, 48, 10)
    train(place, model, ScheduleFree(model.parameters(), lr=1.0), digits(780), classify)


@case("healthy", None)
def thirty_two_micro_batches_for_one_step(place: Place, broken: bool) -> None:
    model, batches = mlp(64, 48, 10), digits(781, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    with place.watch(model, optimizer) as watch:
        for _ in range(100):
            optimizer.zero_grad()
            for _ in range(32):
                loss = classify(model, next(batches)) / 32
                loss.backward()
                watch.log(loss=32 * loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()


class Lora(nn.Module):
    """A frozen linear layer and an adapter of rank 4 whose second matrix begins at 0."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.randn(4, base.in_features) / base.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2 * x @ self.lora_a.T @ self.lora_b.T


@case("healthy", None)
def adapters_whose_first_gradient_is_half_zero(place: Place, broken: bool) -> None:
    """While B is 0, A has a gradient of exactly 0. The base was trained on other labels."""
    model, batches = mlp(64, 48, 10), digits(782)
    first = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(100):
        update(first, classify(model, next(batches)))
    adapted = nn.Sequential(Lora(model[0]), nn.ReLU(), Lora(model[2]))  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=5e-3)
    train(place, adapted, optimizer, batches, classify, change=lambda step, batch: (batch[0], 9 - batch[1]))


@case("healthy", None)
def a_body_thawed_at_half_time(place: Place, broken: bool) -> None:
    """The optimizer holds all from the start; the body has no gradient until step 120."""
    model, batches = nn.Sequential(mlp(64, 48, 32), nn.ReLU(), nn.Linear(32, 10)), digits(783)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    model[0].requires_grad_(False)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            if step == 120:
                model[0].requires_grad_(True)
            loss = classify(model, next(batches))
            update(optimizer, loss)
            watch.log(loss=loss)


@case("healthy", None)
def a_body_frozen_at_half_time(place: Place, broken: bool) -> None:
    """The reverse: linear probing after joint training, as in a schedule for calibration."""
    model, batches = nn.Sequential(mlp(64, 48, 32), nn.ReLU(), nn.Linear(32, 10)), digits(784)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            if step == 180:
                model[0].requires_grad_(False)
            loss = classify(model, next(batches))
            update(optimizer, loss)
            watch.log(loss=loss)


@case("healthy", None)
def two_optimizers_of_which_one_steps_every_tenth_time(place: Place, broken: bool) -> None:
    """A slow memory beside a fast head: the slow one's gradients are summed over ten batches."""
    body, head = mlp(64, 48, 32), nn.Linear(32, 10)
    model = nn.Sequential(body, nn.ReLU(), head)
    both = {"fast": torch.optim.Adam(head.parameters(), 2e-3), "slow": torch.optim.Adam(body.parameters(), 3e-3)}
    batches = digits(785)
    with place.watch(model, both) as watch:
        for step in range(400):
            loss = classify(model, next(batches))
            both["fast"].zero_grad()
            loss.backward()
            both["fast"].step()
            watch.log(loss=loss, optimizer="fast")
            if step % 10 == 9:
                both["slow"].step()
                both["slow"].zero_grad()
                watch.log(loss=loss, optimizer="slow")


@case("healthy", None)
def an_equation_instead_of_data(place: Place, broken: bool) -> None:
    """A PINN for u'' = -u with u(0) = 0 and u'(0) = 1: second derivatives, and losses over four decades."""
    model, generator = mlp(1, 24, 24, 1, act=nn.Tanh), torch.Generator().manual_seed(786)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            t = (3 * torch.rand(64, 1, generator=generator)).requires_grad_()
            u = model(t)
            (first,) = torch.autograd.grad(u.sum(), t, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), t, create_graph=True)
            zero = torch.zeros(1, 1, requires_grad=True)
            start = model(zero)
            (slope,) = torch.autograd.grad(start.sum(), zero, create_graph=True)
            loss = (second + u).square().mean() + start.square().mean() + (slope - 1).square().mean()
            update(optimizer, loss)
            watch.log(loss=loss)


@case("healthy", None)
def an_equation_by_lbfgs_with_a_line_search(place: Place, broken: bool) -> None:
    """The second stage of a PINN: strong Wolfe, all points at each step."""
    model, t = mlp(1, 16, 1, act=nn.Tanh), torch.linspace(0, 3, 64).unsqueeze(1)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1.0, max_iter=5, line_search_fn="strong_wolfe")
    with place.watch(model, optimizer) as watch:
        for _ in range(80):

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = (model(t) - (2 * t).sin()).square().mean()
                loss.backward()
                return loss

            watch.log(loss=optimizer.step(closure))  # type: ignore[arg-type]


@case("healthy", None)
def autocast_to_bfloat16_with_a_scaler(place: Place, broken: bool) -> None:
    model, batches = mlp(64, 48, 10), digits(788)
    optimizer, scaler = torch.optim.AdamW(model.parameters(), lr=2e-3), torch.amp.GradScaler("cpu", init_scale=1024.0)
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            with torch.autocast("cpu", torch.bfloat16):
                loss = classify(model, next(batches))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            watch.log(loss=loss)


@case("healthy", None)
def two_of_five_labels_are_noise(place: Place, broken: bool) -> None:
    """The loss stands at a high level after a small fall, and each batch is hard."""
    generator = torch.Generator().manual_seed(789)

    def change(step: int, batch: Batch) -> Batch:
        wrong = torch.rand(64, generator=generator) < 0.4
        return batch[0], torch.where(wrong, torch.randint(0, 10, (64,), generator=generator), batch[1])

    model = mlp(64, 48, 10)
    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(789), classify, change=change)


@case("healthy", None)
def a_recurrence_on_one_line_at_a_time(place: Place, broken: bool) -> None:
    """A batch of one sequence: losses and norms scatter from step to step."""
    model = Lstm(32)
    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), text(790, 1, 40), next_byte, clip=1.0)


@case("healthy", None)
def one_matrix_for_embedding_and_output(place: Place, broken: bool) -> None:
    model = Gpt(width=24, depth=1)
    model.head.weight = model.embed.weight
    nn.init.normal_(model.embed.weight, std=0.02)
    train(place, model, torch.optim.AdamW(model.parameters(), lr=3e-3), text(791), next_byte, steps=200, clip=1.0)


@case("healthy", None, twin_may=("spike",))
def experts_of_which_two_of_eight_are_asked(place: Place, broken: bool) -> None:
    """Top-2 routing with a loss for balance: at some steps an expert gets nothing. Routing may leap once."""

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(64, 8)
            self.experts = nn.ModuleList(mlp(64, 12, 10) for _ in range(8))
            self.balance = torch.zeros(())

        def forward(self, x: Tensor) -> Tensor:
            chances = self.router(x).softmax(1)
            weight, chosen = chances.topk(2, dim=1)
            out = torch.zeros(len(x), 10)
            for i, expert in enumerate(self.experts):
                rows, place_ = (chosen == i).nonzero(as_tuple=True)
                if len(rows):
                    out = out.index_add(0, rows, weight[rows, place_].unsqueeze(1) * expert(x[rows]))
            share = functional.one_hot(chosen, 8).float().mean((0, 1))
            self.balance = 8 * (share * chances.mean(0)).sum()
            return out

    model = Experts()

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        return classify(model, batch) + 0.05 * model.balance  # type: ignore[operator]

    train(place, model, torch.optim.AdamW(model.parameters(), lr=3e-3), digits(792), loss_of, steps=200)


@case("healthy", None)
def an_embedding_with_sparse_gradients(place: Place, broken: bool) -> None:
    model = nn.Sequential(nn.EmbeddingBag(256, 24, sparse=True), mlp(24, 48, 256))
    both: dict[str, torch.optim.Optimizer] = {
        "dense": torch.optim.Adam(model[1].parameters(), lr=2e-3),
        "sparse": torch.optim.SparseAdam(model[0].parameters(), lr=1e-2),
    }
    batches = text(793, 32, 8)
    with place.watch(model, both) as watch:
        for _ in range(250):
            x, y = next(batches)
            loss = functional.cross_entropy(model(x), y[:, -1])
            for optimizer in both.values():
                optimizer.zero_grad()
            loss.backward()
            for optimizer in both.values():
                optimizer.step()
            watch.log(loss=loss)


@case("healthy", None)
def an_autoencoder_whose_kl_weight_grows(place: Place, broken: bool) -> None:
    """A VAE: the total loss falls, then rises a little while beta grows from 0 to 1; that is what annealing does."""
    model = nn.ModuleDict({"encoder": mlp(64, 48, 8), "decoder": mlp(4, 48, 64)})
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=3e-3), digits(794)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            x, _ = next(batches)
            mean, log_variance = model["encoder"](x).chunk(2, 1)
            z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
            kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1).mean()
            error = bce(model["decoder"](z), x, reduction="sum") / len(x)
            loss = error + min(1.0, step / 200) * kl
            update(optimizer, loss)
            watch.log(loss=loss)


@case("healthy", None)
def a_diffusion_of_two_moons(place: Place, broken: bool) -> None:
    """The loss of a DDPM falls quickly and then stands, far above 0, with noise by the time that was drawn."""
    model, points, generator = mlp(3, 64, 64, 2, act=nn.SiLU), circle(795, 128), torch.Generator().manual_seed(795)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            x, t = next(points), torch.rand(128, 1, generator=generator)
            noise = torch.randn(128, 2, generator=generator)
            noisy = (t * math.pi / 2).cos() * x + (t * math.pi / 2).sin() * noise
            loss = (model(torch.cat([noisy, t], 1)) - noise).square().mean()
            update(optimizer, loss)
            watch.log(loss=loss)


@case("healthy", None, twin_may=("spike",))
def a_flow_of_four_couplings(place: Place, broken: bool) -> None:
    """RealNVP: a negative log-likelihood whose norms scatter; a lone higher norm is in its nature."""
    model, points = nn.ModuleList(mlp(1, 24, 2, act=nn.Tanh) for _ in range(4)), circle(796, 128)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            x, logs = next(points), torch.zeros(128)
            for i, coupling in enumerate(model):
                keep, move = x[:, i % 2 : i % 2 + 1], x[:, 1 - i % 2 : 2 - i % 2]
                scale, shift = coupling(keep).chunk(2, 1)
                move = move * scale.tanh().exp() + shift
                x = torch.cat([keep, move] if i % 2 == 0 else [move, keep], 1)
                logs = logs + scale.tanh().squeeze(1)
            loss = (0.5 * x.square().sum(1) - logs).mean()
            update(optimizer, loss)
            watch.log(loss=loss)


@case("healthy", None)
def a_gan_with_spectral_norms_and_hinges(place: Place, broken: bool) -> None:
    maker = mlp(4, 32, 2)
    judge = nn.Sequential(spectral_norm(nn.Linear(2, 32)), nn.LeakyReLU(0.1), spectral_norm(nn.Linear(32, 1)))
    both = {
        "maker": torch.optim.Adam(maker.parameters(), 1e-3, betas=(0.0, 0.9)),
        "judge": torch.optim.Adam(judge.parameters(), 2e-3, betas=(0.0, 0.9)),
    }
    points = circle(797)
    with place.watch(nn.ModuleDict({"maker": maker, "judge": judge}), both) as watch:
        for _ in range(STEPS):
            fake = maker(torch.randn(64, 4)).detach()
            loss = (1 - judge(next(points))).relu().mean() + (1 + judge(fake)).relu().mean()
            update(both["judge"], loss)
            watch.log(loss=loss, optimizer="judge")
            loss = -judge(maker(torch.randn(64, 4))).mean()
            update(both["maker"], loss)
            watch.log(loss=loss, optimizer="maker")


@case("healthy", None)
def twins_that_are_drawn_together(place: Place, broken: bool) -> None:
    """A Siamese network with the contrastive loss of Hadsell; pairs that are far enough apart add no gradient."""
    model = mlp(64, 48, 8)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        order = torch.cat([y.argsort().roll(1)[:32], torch.arange(32)])
        first = torch.cat([y.argsort()[:32], torch.arange(32, 64)])
        apart = ((model(x[first]) - model(x[order])).square().sum(1) + 1e-9).sqrt()
        same = (y[first] == y[order]).float()
        return (same * apart.square() + (1 - same) * (1 - apart).relu().square()).mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(798), loss_of)


@case("healthy", None)
def two_views_and_a_stopped_gradient(place: Place, broken: bool) -> None:
    """SimSiam: the loss goes from 0 towards -1."""
    encoder = nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 24))
    model = nn.ModuleDict({"encoder": encoder, "predictor": mlp(24, 12, 24)})
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), digits(799)
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            x, _ = next(batches)
            views = [model["encoder"](x + 0.2 * torch.randn_like(x)) for _ in range(2)]
            guesses = [model["predictor"](v) for v in views]
            near = [functional.cosine_similarity(g, v.detach()) for g, v in zip(guesses, views[::-1], strict=True)]
            loss = -(near[0] + near[1]).mean() / 2
            update(optimizer, loss)
            watch.log(loss=loss)


@case("healthy", None)
def reptile_over_sines(place: Place, broken: bool) -> None:
    """Every ten steps the task changes and the script moves the weights back to between old and new."""
    model, generator = mlp(1, 32, 32, 1, act=nn.Tanh), torch.Generator().manual_seed(800)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with place.watch(model, optimizer) as watch:
        for _ in range(40):
            before = copy.deepcopy(model.state_dict())
            phase, height = torch.rand(2, generator=generator)
            for _ in range(10):
                x = 6 * torch.rand(32, 1, generator=generator) - 3
                loss = (model(x) - (0.5 + height) * (x + phase).sin()).square().mean()
                update(optimizer, loss)
                watch.log(loss=loss)
            after = model.state_dict()
            model.load_state_dict({name: torch.lerp(before[name], after[name], 0.5) for name in before})


@case("healthy", None)
def a_mean_teacher(place: Place, broken: bool) -> None:
    """The student's consistency with an average of itself is weighed in by a ramp."""
    model, batches = mlp(64, 48, 10), digits(801)
    teacher = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for step in range(250):
            x, y = next(batches)
            near = (model(x + 0.1 * torch.randn_like(x)).softmax(1) - teacher(x).softmax(1)).square().mean()
            loss = functional.cross_entropy(model(x[:16]), y[:16]) + min(1.0, step / 100) * 10 * near
            update(optimizer, loss)
            watch.log(loss=loss)
            for slow, fast in zip(teacher.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast.detach(), 0.02)


@case("healthy", None)
def one_class_in_fifty_under_a_focal_loss(place: Place, broken: bool) -> None:
    """Most rows have next to no gradient; a batch with a rare row has many times the norm of one without."""
    model = mlp(8, 32, 1)
    nn.init.constant_(model[-1].bias, -3.0)  # type: ignore[arg-type]

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        out, wanted = model(batch[0]).squeeze(-1), (batch[1] > 5.0).float()
        error = bce(out, wanted, reduction="none")
        return 10 * ((1 - (-error).exp()).square() * error).mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), plane(802, 128), loss_of)


@case("healthy", None)
def warm_up_stable_decay(place: Place, broken: bool) -> None:
    """MiniCPM's schedule: the loss of a language model stands on the plateau and falls once more in the decay."""
    model = Gpt(width=24, depth=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 20, 1.0) if step < 220 else max(0.02, 1 - (step - 220) / 80)
    )
    train(place, model, optimizer, text(803), next_byte, clip=1.0, schedule=schedule)


@case("healthy", None, twin_may=("clipped-by-script",))
def noise_is_added_to_the_gradients(place: Place, broken: bool) -> None:
    """Neelakantan et al. 2015. That the script changes gradients is true of it, so that this may be said."""
    model, batches = mlp(64, 48, 10), digits(804)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for step in range(200):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            for p in model.parameters():
                p.grad.add_(torch.randn_like(p), alpha=0.02 / (1 + step) ** 0.275)  # type: ignore[union-attr]
            optimizer.step()
            watch.log(loss=loss)


@case("healthy", None)
def hooks_that_clamp_within_backward(place: Place, broken: bool) -> None:
    """`p.register_hook(lambda g: g.clamp(-1, 1))`, a bound that no entry reaches after the first steps."""
    model = Lstm(32)
    for p in model.parameters():
        p.register_hook(lambda g: g.clamp(-1, 1))
    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), text(805), next_byte, steps=150)


@case("healthy", None)
def a_batch_that_doubles_every_sixty_steps(place: Place, broken: bool) -> None:
    """Norms fall in steps, because the noise does."""
    model, optimizer_batches = mlp(64, 48, 10), {n: digits(806 + n, 8 * 2**n) for n in range(5)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            loss = classify(model, next(optimizer_batches[step // 60]))
            update(optimizer, loss)
            watch.log(loss=loss)


@case("healthy", None)
def one_cycle_with_a_high_middle(place: Place, broken: bool) -> None:
    model = mlp(64, 48, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=STEPS)
    train(place, model, optimizer, digits(807), classify, schedule=schedule)


@case("healthy", None)
def nine_quantiles_at_once(place: Place, broken: bool) -> None:
    """The pinball loss: gradients are of one size however near the optimum is."""
    model, levels = mlp(8, 32, 9), torch.linspace(0.1, 0.9, 9)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        error = batch[1].unsqueeze(1) - model(batch[0])
        return torch.maximum(levels * error, (levels - 1) * error).mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), plane(808, noise=1.0), loss_of)


@case("healthy", None)
def four_epochs_of_ppo_on_each_rollout(place: Place, broken: bool) -> None:
    """The clipped surrogate begins each rollout at 0 and goes below; entropy and values share the loss."""
    model = nn.ModuleDict({"policy": mlp(8, 32, 4), "value": mlp(8, 32, 1)})
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=2e-3), torch.Generator().manual_seed(809)
    best = torch.randn(8, 4, generator=generator)
    with place.watch(model, optimizer) as watch:
        for _ in range(75):
            x = torch.randn(128, 8, generator=generator)
            with torch.no_grad():
                old = model["policy"](x).log_softmax(1)
            action = torch.multinomial(old.exp(), 1)
            reward = ((x @ best).argmax(1, keepdim=True) == action).float()
            for _ in range(4):
                chances, value = model["policy"](x).log_softmax(1), model["value"](x)
                advantage = (reward - value).detach()
                ratio = (chances - old).gather(1, action).exp()
                surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
                entropy = -(chances.exp() * chances).sum(1).mean()
                loss = (value - reward).square().mean() / 2 - surrogate - 0.01 * entropy
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                watch.log(loss=loss)


@case("healthy", None)
def one_batch_is_learnt_by_heart(place: Place, broken: bool) -> None:
    """The sanity check that everyone recommends: loss and norms fall by five decades and more."""
    model = mlp(64, 48, 10)
    batch = next(digits(810, 16))
    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-2), itertools.repeat(batch), classify)


@case("healthy", None)
def half_of_the_weights_are_pruned_on_the_way(place: Place, broken: bool) -> None:
    """At step 150 the smaller half of each matrix is set to 0 and held there: the loss rises once and mends."""
    model, batches = mlp(64, 48, 10), digits(811)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    masks: list[tuple[nn.Parameter, Tensor]] = []
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            if step == 150:
                masks = [(p, p.abs() > p.abs().median()) for p in model.parameters() if p.ndim == 2]
            with torch.no_grad():
                for p, mask in masks:
                    p.mul_(mask)
            loss = classify(model, next(batches))
            update(optimizer, loss)
            watch.log(loss=loss)


@case("healthy", None)
def a_choice_that_becomes_sharp(place: Place, broken: bool) -> None:
    """Gumbel-softmax from temperature 2 down to 0.3: norms grow while the loss falls."""
    model = nn.ModuleDict({"encoder": mlp(64, 48, 32), "decoder": mlp(32, 48, 64)})
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=3e-3), digits(812)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            x, _ = next(batches)
            code = functional.gumbel_softmax(model["encoder"](x), tau=max(0.3, 2.0 * 0.99**step))
            loss = (model["decoder"](code) - x).square().mean()
            update(optimizer, loss)
            watch.log(loss=loss)


@case("healthy", None)
def rates_that_fall_from_layer_to_layer(place: Place, broken: bool) -> None:
    """Layer-wise decay: the first layer learns at a hundredth of the head's rate."""
    model = mlp(64, 48, 48, 10)
    groups = [{"params": list(model[i].parameters()), "lr": lr} for i, lr in ((0, 3e-5), (2, 3e-4), (4, 3e-3))]
    train(place, model, torch.optim.AdamW(groups), digits(813), classify)


@case("healthy", None)
def pictures_disturbed_against_the_network(place: Place, broken: bool) -> None:
    """FGSM: one backward for the pictures, one for the weights; the loss falls slowly."""
    model, batches = mlp(64, 64, 10), digits(814)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            x, y = next(batches)
            x.requires_grad_()
            (slope,) = torch.autograd.grad(functional.cross_entropy(model(x), y), x)
            loss = functional.cross_entropy(model((x + 0.1 * slope.sign()).detach()), y)
            update(optimizer, loss)
            watch.log(loss=loss)


@case("healthy", None)
def a_second_head_that_joins_later(place: Place, broken: bool) -> None:
    """The weight of an auxiliary loss is 0 until step 100; its head has a gradient of 0 until then."""
    model = nn.ModuleDict({"body": mlp(64, 48, 32), "classes": nn.Linear(32, 10), "picture": nn.Linear(32, 64)})
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=2e-3), digits(815)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            x, y = next(batches)
            h = model["body"](x).relu()
            picture = (model["picture"](h) - x).square().mean()
            loss = functional.cross_entropy(model["classes"](h), y) + min(1.0, max(0, step - 100) / 50) * picture
            update(optimizer, loss)
            watch.log(loss=loss)


@case("healthy", None)
def a_recurrence_in_chunks_that_are_cut_off(place: Place, broken: bool) -> None:
    """Truncated backpropagation through time: the state goes on from chunk to chunk, detached."""
    model = nn.ModuleDict({"embed": nn.Embedding(256, 24), "gru": nn.GRU(24, 32, batch_first=True)})
    model["head"] = nn.Linear(32, 256)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=3e-3, centered=True)
    data = torch.tensor(list(textwrap.__doc__.encode() * 900))[: 8 * 3000].view(8, -1)  # type: ignore[union-attr]
    state = None
    with place.watch(model, optimizer) as watch:
        for step in range(200):
            x, y = data[:, step * 12 : step * 12 + 12], data[:, step * 12 + 1 : step * 12 + 13]
            out, state = model["gru"](model["embed"](x), state)
            state = state.detach()
            loss = functional.cross_entropy(model["head"](out).flatten(0, 1), y.flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            watch.log(loss=loss)


@case("healthy", None)
def a_slope_held_near_one(place: Place, broken: bool) -> None:
    """A Lipschitz penalty on a regression: a second backward through the slope of each row, with an eps."""
    model = mlp(8, 32, 1, act=nn.Softplus)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        x = batch[0].clone().requires_grad_()
        out = model(x).squeeze(-1)
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        return (out - batch[1]).square().mean() + 0.1 * ((slope.square().sum(1) + 1e-8).sqrt() - 1).square().mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), plane(817), loss_of)


# ------------------------------------------------------------------------- two runs of one training


def reader(
    place: Place,
    *,
    before: Callable[[int, nn.Sequential, torch.optim.Optimizer], None] = lambda step, model, optimizer: None,
    skips_zeroing: int = -1,
    batches: Callable[[int], int] = lambda step: step,
) -> None:
    """A classifier with dropout over 150 prepared batches, of which ``batches`` names the next."""
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    prepared = list(itertools.islice(digits(820), 150))
    with place.watch(model, optimizer) as watch:
        for step in range(150):
            before(step, model, optimizer)
            loss = classify(model, prepared[batches(step)])
            if step != skips_zeroing:
                optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)


def two_batches_change_places(place: Place, other: bool) -> None:
    """The loader of the other run gives batches 70 and 71 in the other order."""
    reader(place, batches=lambda step: {70: 71, 71: 70}.get(step, step) if other else step)


def one_more_random_number_is_drawn(place: Place, other: bool) -> None:
    """A debugging line draws from torch's generator before step 55: every mask of the dropout is another from there."""

    def before(step: int, model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
        if other and step == 55:
            torch.rand(7)

    reader(place, before=before)


def gradients_are_not_zeroed_once(place: Place, other: bool) -> None:
    """At step 64 the gradient of step 63 is still there: the loss of that step is the same, its gradient is not."""
    reader(place, skips_zeroing=64 if other else -1)


def a_weight_is_written_between_two_steps(place: Place, other: bool) -> None:
    """The script adds 0.1 to one bias of the head before step 80: seen in the loss of that step."""

    def before(step: int, model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
        if other and step == 80:
            with torch.no_grad():
                list(model.parameters())[-1][2] += 0.1

    reader(place, before=before)


def adams_second_beta_is_another_from_the_start(place: Place, other: bool) -> None:
    """beta2 = 0.95 and 0.999 make the same first update (up to rounding): the settings part at step 0."""
    model = mlp(64, 32, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, betas=(0.9, 0.95 if other else 0.999))
    train(place, model, optimizer, digits(821), classify, steps=100)


pairs = [
    Pair(two_batches_change_places, step=70, sources=("loss",)),
    Pair(one_more_random_number_is_drawn, step=55, sources=("loss",)),
    Pair(gradients_are_not_zeroed_once, step=64, sources=("gradient",)),
    Pair(a_weight_is_written_between_two_steps, step=80, sources=("loss", "weights")),
    Pair(adams_second_beta_is_another_from_the_start, step=0, sources=("settings", "update"), within=1),
]


# ------------------------------------------------------------------------- what `gradwatch check` lets pass


def a_rate_of_zero_at_the_gate(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    train(place, model, torch.optim.AdamW(model.parameters(), lr=2e-3 * (not broken)), digits(830), classify, steps=150)


def a_nan_at_the_gate(place: Place, broken: bool) -> None:
    """One target of the batch of step 100 is NaN."""
    model = mlp(8, 24, 1)
    change = at(100, lambda batch: (batch[0], batch[1].masked_fill(torch.arange(64) == 3, torch.nan)), broken)
    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), plane(831), squared, steps=200, change=change)


def killed_after_enough_steps(place: Place, broken: bool) -> None:
    """100 steps are asked for, 150 were made: that it was killed counts all the same."""
    before = "if step == 150: time.sleep(1.5); os.kill(os.getpid(), signal.SIGKILL)"
    loop(place, before=before if broken else "", kill=broken)


def a_history_of_too_few_steps(place: Place, broken: bool) -> None:
    """600 steps are asked for; the history ends at step 400 or at 800, one row in ten steps."""
    count = 40 if broken else 80
    losses = [1.0 + math.exp(-i / 10) + 0.02 * n for i, n in enumerate(scatter(832, count))]
    norms = [1.0 + 0.1 * n for n in scatter(833, count)]
    place.imported(trainer_rows(losses, norms, every=10, rate=1e-4, rows_an_epoch=40))


gates = [
    Gate(a_rate_of_zero_at_the_gate, ()),
    Gate(a_nan_at_the_gate, ()),
    Gate(killed_after_enough_steps, ("--min-steps", "100")),
    Gate(a_history_of_too_few_steps, ("--min-steps", "600")),
]
