"""The fourth round: kinds and siblings that no case covered, written before the rules of that day were run on them.

Cases without a code are trainings over which nothing of warning or worse should be said: they are well, or their fault
does not show in gradients and losses.
"""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import torch
from lab import (
    STEPS,
    Cases,
    Gpt,
    Lstm,
    Place,
    classify,
    clip_after_the_step,
    clip_before_unscaling,
    digits,
    mlp,
    next_byte,
    plane,
    squared,
    text,
    train,
)
from torch import Tensor, nn
from torch.nn import functional

case = Cases()

# ------------------------------------------------------------------------- nothing is trained


@case("nothing is trained", "learning-rate-zero", step=200)
def a_linear_schedule_of_too_few_steps(place: Place, broken: bool) -> None:
    model = Gpt(width=16, depth=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    planned = 200 if broken else STEPS
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / planned))
    train(place, model, optimizer, text(201), next_byte, schedule=schedule, clip=1.0)


class Headed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = mlp(64, 48, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).relu())


@case("nothing is trained", "learning-rate-zero", parameter="encoder")
def an_encoder_whose_group_has_no_rate(place: Place, broken: bool) -> None:
    model = Headed()
    groups: list[dict[str, Any]] = [
        {"params": model.encoder.parameters(), "lr": 0.0 if broken else 1e-3},
        {"params": model.head.parameters()},
    ]
    train(place, model, torch.optim.AdamW(groups, lr=3e-3), digits(202), classify)


EPOCHS = """
    from torch import nn
    net = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
    x = torch.randn(2048, 16)
    y = x[:, :4].prod(dim=1, keepdim=True)
    {before}
    for epoch in range(10):
        {inside}
        for rows in torch.randperm(2048).split(64):
            loss = (net(x[rows]) - y[rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
"""


@case("nothing is trained", "optimizer-recreated")
def an_optimizer_in_the_loop_over_epochs(place: Place, broken: bool) -> None:
    make = "optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)"
    place.script(EPOCHS.format(before="" if broken else make, inside=make if broken else "pass"))


@case("nothing is trained", "gradients-accumulate", optimizer="second")
def one_of_two_optimizers_is_never_zeroed(place: Place, broken: bool) -> None:
    model = nn.ModuleDict({"a": mlp(8, 32, 1), "b": mlp(8, 32, 1)})
    first = torch.optim.SGD(model["a"].parameters(), lr=0.01)
    second = torch.optim.SGD(model["b"].parameters(), lr=1e-4 if broken else 0.01)
    batches = plane(203)
    with place.watch(model, {"first": first, "second": second}) as watch:
        for _ in range(STEPS):
            x, y = next(batches)
            loss = squared(model["a"], (x, y)) + squared(model["b"], (x, y))
            first.zero_grad()
            if not broken:
                second.zero_grad()
            loss.backward()
            first.step()
            second.step()
            watch.log(loss=loss)


@case("nothing is trained", "no-gradient", parameter="tower")
def a_tower_whose_output_is_detached(place: Place, broken: bool) -> None:
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.tower, self.head = mlp(64, 32, 32), mlp(64, 64, 32), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            side = self.tower(x)
            return self.head(torch.cat([self.trunk(x), side.detach() if broken else side], dim=-1).relu())

    model = Towers()
    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(204), classify)


@case("nothing is trained", "dead-parameters", parameter="hidden")
def units_pushed_far_below_zero(place: Place, broken: bool) -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.hidden, self.head = nn.Linear(64, 48), nn.Linear(48, 48), nn.Linear(48, 10)
            if broken:
                nn.init.constant_(self.hidden.bias, -50.0)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).tanh()
            return self.head(x + self.hidden(x).relu())

    model = Skip()
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), digits(205), classify)


@case("nothing is trained", "zero-gradients", also=("constant-loss",))
def rewards_that_are_all_alike(place: Place, broken: bool) -> None:
    policy = mlp(8, 32, 4)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, weight_decay=0.0)
    with place.watch(policy, optimizer) as watch:
        for _ in range(STEPS):
            state = torch.randn(16, 8)
            log_p = policy(state).log_softmax(-1)
            actions = torch.multinomial(log_p.exp().detach(), 8, replacement=True)
            reward = torch.ones(16, 8) if broken else (actions == state[:, :4].argmax(-1, keepdim=True)).float()
            advantage = (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-4)
            loss = -(advantage * log_p.gather(1, actions)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)


@case("nothing is trained", "updates-below-precision")
def bfloat16_weights_under_a_tiny_rate(place: Place, broken: bool) -> None:
    model = mlp(64, 64, 10).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-7 if broken else 3e-3)

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(model(batch[0].to(torch.bfloat16)).float(), batch[1])

    train(place, model, optimizer, digits(206), loss_of, weights_every=10)


# ------------------------------------------------------------------------ clipping that harms


@case("clipping that harms", "ineffective-clipping")
def clipped_after_the_step(place: Place, broken: bool) -> None:
    model = Lstm(32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    clip_after_the_step(place, model, optimizer, text(207), next_byte, steps=STEPS // 2, broken=broken)


@case("clipping that harms", "ineffective-clipping")
def clipped_before_unscaling(place: Place, broken: bool) -> None:
    model = mlp(8, 32, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    clip_before_unscaling(place, model, optimizer, plane(208), squared, broken=broken)


@case("clipping that harms", "ineffective-clipping")
def each_micro_batch_is_clipped(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = digits(209)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS // 2):
            optimizer.zero_grad()
            for _ in range(4):
                loss = classify(model, next(batches)) / 4
                loss.backward()
                if broken:
                    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            if not broken:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            watch.log(loss=4 * loss.detach())


@case("clipping that harms", "threshold-too-low")
def a_threshold_copied_from_another_loss(place: Place, broken: bool) -> None:
    model = mlp(8, 64, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    train(place, model, optimizer, plane(210), squared, clip=1e-3 if broken else 20.0)


# -------------------------------------------------------------------------- growth and spikes


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.ModuleList(nn.Linear(64, 64) for _ in range(3)).requires_grad_(False)
        self.down = nn.ModuleList(nn.Linear(64, 4, bias=False) for _ in range(3))
        self.up = nn.ModuleList(nn.Linear(4, 64, bias=False) for _ in range(3))
        self.head = nn.Linear(64, 10)
        for up in self.up:
            nn.init.zeros_(up.get_parameter("weight"))

    def forward(self, x: Tensor) -> Tensor:
        for base, down, up in zip(self.base, self.down, self.up, strict=True):
            x = (base(x) + up(down(x))).relu() + x
        return self.head(x)


@case("severity by consequence", "diverged", also=("nonfinite-loss", "learning-rate-too-high"))
def one_adapter_with_a_rate_of_another_size(place: Place, broken: bool) -> None:
    model = Adapted()
    fast = [model.down[1].get_parameter("weight"), model.up[1].get_parameter("weight")]
    rest = [p for p in model.parameters() if p.requires_grad and all(p is not q for q in fast)]
    groups: list[dict[str, Any]] = [{"params": rest}, {"params": fast, "lr": 30.0 if broken else 0.05}]
    optimizer = torch.optim.SGD(groups, lr=0.05)
    train(place, model, optimizer, digits(211), classify)


@case("severity by consequence", "repeated-spikes", also=("diverged",))
def batches_in_another_unit_every_forty_steps(place: Place, broken: bool) -> None:
    model = mlp(64, 48, 48, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def change(step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return (batch[0] * 16, batch[1].flip(0)) if step % 40 == 39 else batch

    clip = None if broken else 0.5
    train(place, model, optimizer, digits(212), classify, change=change, steps=400, clip=clip)


@case("severity by consequence", "loss-regressed", also=("diverged", "learning-rate-too-high"))
def a_schedule_that_rises_instead_of_falling(place: Place, broken: bool) -> None:
    model = Gpt(width=16, depth=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.02**step if broken else 0.99**step)
    train(place, model, optimizer, text(213), next_byte, schedule=schedule, steps=400)


@case("severity by consequence", "vanishing")
def tanh_driven_into_saturation(place: Place, broken: bool) -> None:
    layers: list[nn.Module] = [nn.Linear(64, 48), nn.Tanh()]
    for _ in range(8):
        layers += [nn.Linear(48, 48), nn.Tanh()] if broken else [nn.Linear(48, 48), nn.LayerNorm(48), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(48, 10))
    if broken:
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.constant_(layer.bias, 6.0)
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.05), digits(214), classify)


# -------------------------------------------------------------------------------- NaN by cause


@case("NaN by cause", "nonfinite-gradient", step=120)
def a_distance_between_equal_points(place: Place, broken: bool) -> None:
    model = mlp(8, 16, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = plane(215)
    with place.watch(model, optimizer) as watch:
        for step in range(200):
            x, _ = next(batches)
            other = x.clone() if broken and step == 120 else x + torch.randn_like(x)
            distance = (model(x) - model(other)).square().sum(-1).sqrt()
            loss = (distance - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)


@case("NaN by cause", "nonfinite-loss", also=("nonfinite-gradient",), step=90)
def the_logarithm_of_a_probability_of_zero(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        p = model(batch[0]).softmax(-1)
        return -p[torch.arange(len(p)), batch[1]].log().mean()

    def change(step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return (batch[0] * 1e4, batch[1]) if broken and step == 90 else batch

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(place, model, optimizer, digits(216), loss_of, change=change, steps=150)


# ------------------------------------------------------------------------------- how it ended


@case("how it ended", "died")
def a_label_outside_the_classes(place: Place, broken: bool) -> None:
    place.script(f"""
        from torch import nn
        net = nn.Linear(8, 4)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for step in range(120):
            x = torch.randn(32, 8)
            y = x[:, :4].argmax(-1)
            if {broken} and step == 80:
                y[0] = 7
            loss = nn.functional.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    """)


# -------------------------------------------- nothing to say: well, or not to be seen in gradients


@case("nothing to say", None)
def shuffled_labels(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)

    def change(_: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return batch[0], batch[1][torch.randperm(len(batch[1]))]

    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3), digits(220), classify, change=change)


@case("nothing to say", None)
def softmax_before_cross_entropy(place: Place, broken: bool) -> None:
    model = nn.Sequential(*mlp(64, 32, 10), nn.Softmax(-1))
    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(221), classify)


@case("nothing to say", None)
def an_average_of_the_weights_is_evaluated(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batches = digits(222)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast.detach(), 0.01)
            if step % 50 == 49:
                with torch.no_grad():
                    classify(average, next(batches))
            watch.log(loss=loss)


@case("nothing to say", None)
def folds_of_a_cross_validation(place: Place, broken: bool) -> None:
    place.script("""
        from torch import nn
        x = torch.randn(1000, 16)
        y = x[:, :4].sum(dim=1, keepdim=True)
        for fold in range(5):
            net = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
            optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
            for step in range(100):
                rows = torch.randint(1000, (64,))
                loss = (net(x[rows]) - y[rows]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    """)


@case("nothing to say", None)
def a_sum_over_micro_batches(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = digits(223)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS // 2):
            optimizer.zero_grad()
            for _ in range(4):
                loss = classify(model, next(batches))
                loss.backward()
            optimizer.step()
            watch.log(loss=loss)


@case("nothing to say", None)
def backward_twice_over_one_graph(place: Place, broken: bool) -> None:
    model = mlp(8, 32, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    batches = plane(224)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            loss = squared(model, next(batches))
            optimizer.zero_grad()
            loss.backward(retain_graph=True)
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)


@case("nothing to say", None)
def warm_restarts_of_the_rate(place: Place, broken: bool) -> None:
    model = Gpt(width=16, depth=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 100)
    train(place, model, optimizer, text(225), next_byte, schedule=schedule, clip=1.0)


@case("nothing to say", None)
def a_curriculum_that_becomes_harder(place: Place, broken: bool) -> None:
    model = mlp(8, 48, 1)

    def change(step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return batch[0], batch[1] + (step / STEPS) * torch.sin(3 * batch[0][:, 0])

    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), plane(226), squared, change=change)


@case("nothing to say", None)
def a_critic_whose_targets_grow(place: Place, broken: bool) -> None:
    """As in reinforcement learning that works: rewards grow, and with them the loss of the values."""
    model = mlp(8, 48, 1, act=nn.Tanh)
    count = itertools.count()

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        scale = 1 + next(count) / 100
        return (model(batch[0]).squeeze(-1) - scale * batch[1] * math.pi).square().mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), plane(227), loss_of, steps=400)
