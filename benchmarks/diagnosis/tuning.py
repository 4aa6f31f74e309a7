"""The half of the cases that the rules may be tuned on."""

from __future__ import annotations

import functools
import math

import torch
from lab import (
    STEPS,
    Cases,
    Cnn,
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
    trainer_rows,
)
from torch import nn
from torch.nn import functional

case = Cases()

# ------------------------------------------------------------------------- nothing is trained


@case("nothing is trained", "learning-rate-zero")
def schedule_by_integer_division(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    factor = (lambda step: step // 1000) if broken else (lambda step: min(1.0, step / 50 + 0.02))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    train(place, model, optimizer, digits(1), classify, schedule=schedule)


@case("nothing is trained", "stale-optimizer", parameter="0.weight", also=("no-gradient",))
def layers_replaced_after_the_optimizer(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if broken:
        model[0], model[2] = nn.Linear(64, 32), nn.Linear(32, 10)

    def zero() -> None:
        optimizer.zero_grad()
        model.zero_grad()

    train(place, model, optimizer, digits(2), classify, zero=zero)


class Detached(nn.Module):
    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.encoder, self.head, self.broken = mlp(64, 48, 32), nn.Linear(32, 10), broken

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.encoder(x).relu()
        return self.head(hidden.detach() if self.broken else hidden)


@case("nothing is trained", "no-gradient", parameter="encoder")
def detached_encoder(place: Place, broken: bool) -> None:
    model = Detached(broken)
    train(place, model, torch.optim.AdamW(model.parameters(), lr=1e-3), digits(3), classify)


@case("nothing is trained", "zero-gradients", also=("constant-loss",))
def every_reward_of_a_group_is_the_same(place: Place, broken: bool) -> None:
    policy = mlp(6, 32, 4, act=nn.Tanh)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, weight_decay=0.0)
    with place.watch(policy, optimizer) as watch:
        for _ in range(STEPS):
            state = torch.randn(4, 6).repeat_interleave(8, 0)
            logp = policy(state).log_softmax(-1)
            action = torch.distributions.Categorical(logits=logp).sample()
            reward = torch.zeros(32) if broken else (action == 2).float()
            reward = reward.view(4, 8)
            advantage = ((reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-4)).flatten()
            taken = logp.gather(1, action[:, None])[:, 0]
            loss = -((taken - taken.detach()).exp() * advantage).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 0.2)
            optimizer.step()
            watch.log(loss=loss)


@case("nothing is trained", "clipped-to-nothing")
def threshold_zero(place: Place, broken: bool) -> None:
    model = Cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    train(place, model, optimizer, digits(4), classify, clip=0.0 if broken else 1.0)


@case("nothing is trained", "updates-below-precision")
def bfloat16_with_a_small_rate(place: Place, broken: bool) -> None:
    model = mlp(8, 64, 1).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6 if broken else 1e-3, weight_decay=0.0)

    def loss_of(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return (model(batch[0].bfloat16()).squeeze(-1).float() - batch[1]).square().mean()

    train(place, model, optimizer, plane(5), loss_of, weights_every=10)


@case("nothing is trained", "parameters-without-optimizer", parameter="0.")
def optimizer_of_the_head_alone(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    held = model[2].parameters() if broken else model.parameters()
    optimizer = torch.optim.Adam(held, lr=1e-3)

    def zero() -> None:
        model.zero_grad()

    train(place, model, optimizer, digits(6), classify, zero=zero)


@case("nothing is trained", None)
def frozen_body_on_purpose(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    train(place, model, optimizer, digits(7), classify)


@case("nothing is trained", "constant-loss", also=("zero-gradients",))
def softmax_over_one_class(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 1 if broken else 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss_of(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1] * 0 if broken else batch[1])

    train(place, model, optimizer, digits(8), loss_of)


@case("nothing is trained", "all-steps-skipped", also=("nonfinite-loss",))
def every_step_overflows(place: Place, broken: bool) -> None:
    model = mlp(8, 16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    batches = plane(9)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS // 3):
            x, y = next(batches)
            loss = squared(model, (x, y))
            if broken:
                loss = loss * torch.tensor(3e38)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            watch.log(loss=loss)


@case("nothing is trained", "gradients-accumulate")
def zero_grad_forgotten(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train(place, model, optimizer, digits(10), classify, zero=(lambda: None) if broken else None, clip=1.0)


@case("nothing is trained", None)
def accumulation_that_is_meant(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = digits(11)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS // 2):
            optimizer.zero_grad()
            for _ in range(4):
                (classify(model, next(batches)) / 4).backward()
            optimizer.step()
            watch.log(loss=float(classify(model, next(batches))))


# ------------------------------------------------------------------------ clipping that harms


class Owned(nn.Module):
    """A scalar of the loss whose gradient is a million times that of the rest."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.body, self.log_variance, self.scale = mlp(8, 32, 1), nn.Parameter(torch.zeros(())), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


@case("clipping that harms", "clip-starves", parameter="log_variance")
def one_parameter_owns_the_norm(place: Place, broken: bool) -> None:
    model = Owned(3e6 if broken else 1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, eps=1e-5)

    def loss_of(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        assert isinstance(model, Owned)
        noise = torch.randn(())
        return squared(model, batch) + model.scale * noise * model.log_variance

    train(place, model, optimizer, plane(12), loss_of, clip=1.0)


@case("clipping that harms", "threshold-too-low")
def threshold_a_thousandth_of_the_median(place: Place, broken: bool) -> None:
    model = mlp(8, 32, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train(place, model, optimizer, plane(13, width=8), squared, clip=1e-3 if broken else 5.0)


@case("clipping that harms", "clipped-by-script")
def scaled_by_hand(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = digits(14)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            if broken:
                norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
                with torch.no_grad():
                    for p in model.parameters():
                        p.grad.mul_(min(1.0, 0.3 / float(norm)))
            optimizer.step()
            watch.log(loss=loss)


@case("clipping that harms", "ineffective-clipping")
def clipped_after_the_step(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clip_after_the_step(place, model, optimizer, digits(15), classify, broken=broken)


@case("clipping that harms", "ineffective-clipping")
def clipped_before_unscale(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clip_before_unscaling(place, model, optimizer, digits(16), classify, broken=broken)


# -------------------------------------------------------------------------- growth and spikes


@case("severity by consequence", "diverged", step=0, within=40)
def rate_far_too_high(place: Place, broken: bool) -> None:
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.2 if broken else 0.05)
    train(place, model, optimizer, plane(17), squared, steps=120)


@case("severity by consequence", "diverged", step=0, within=100)
def bootstrapped_values_grow(place: Place, broken: bool) -> None:
    model = mlp(4, 32, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    with place.watch(model, optimizer) as watch:
        for _ in range(2 * STEPS):
            state = torch.randn(32, 4)
            target = 1.0 + (1.15 if broken else 0.3) * model(state + 0.1).max(1).values.detach()
            loss = (model(state).max(1).values - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)


def _batch_times(factor: float, at: int):
    return lambda step, batch: (batch[0] * factor, batch[1]) if step == at else batch


@case("severity by consequence", "spike", step=200)
def one_batch_that_is_too_large(place: Place, broken: bool) -> None:
    model = mlp(8, 32, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    change = _batch_times(100.0, 200) if broken else (lambda step, batch: batch)
    train(place, model, optimizer, plane(18), squared, change=change, steps=500)


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.gain, self.head = mlp(64, 64, 64), nn.Parameter(torch.full((64,), 1e-6)), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.gain * self.body(x))


@case("severity by consequence", None)
def layer_scale_begins_at_a_millionth(place: Place, broken: bool) -> None:
    model = LayerScale()
    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), digits(19), classify)


@case("severity by consequence", None)
def lbfgs(place: Place, broken: bool) -> None:
    model = mlp(8, 16, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=20, line_search_fn="strong_wolfe")
    x, y = next(plane(20, size=256))
    with place.watch(model, optimizer):
        for _ in range(60):

            def closure() -> torch.Tensor:
                optimizer.zero_grad()
                loss = squared(model, (x, y))
                loss.backward()
                return loss

            optimizer.step(closure)


@case("severity by consequence", "vanishing", parameter="0.")
def deep_sigmoids(place: Place, broken: bool) -> None:
    act = nn.Sigmoid if broken else nn.ReLU
    model = mlp(64, *[32] * 12, 10, act=act)
    if not broken:
        for module in model:
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.05), digits(21), classify)


@case("nothing is trained", "dead-parameters", parameter="0.", also=("zero-gradients", "no-gradient"))
def dead_relus(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    if broken:
        nn.init.constant_(model[0].get_parameter("bias"), -100.0)
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.1), digits(22), classify)


@case("severity by consequence", None)
def warm_up_and_cosine(place: Place, broken: bool) -> None:
    model = Gpt()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS + 1)
    train(place, model, optimizer, text(23), next_byte, schedule=schedule, clip=1.0)


# --------------------------------------------------------------------------------- NaN by cause


@case("NaN by cause", "nonfinite-gradient", step=200)
def square_root_of_zero(place: Place, broken: bool) -> None:
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = plane(24)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            x, y = next(batches)
            pred = model(x).squeeze(-1)
            loss = (pred - y).square().mean()
            if broken and step >= 200:
                loss = loss + (pred - pred).square().sum().sqrt()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)


@case("NaN by cause", "nonfinite-loss", step=150)
def logarithm_of_zero(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)

    def loss_of(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        p = model(batch[0]).softmax(-1)
        if broken and float(batch[0][0, 0]) == -7.0:
            p = p * (p > p.min()).float()
            return -(p * p.log()).sum(-1).mean()
        return functional.nll_loss((p + 1e-12).log(), batch[1])

    def change(step: int, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if broken and step == 150:
            batch[0][0, 0] = -7.0
        return batch

    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3), digits(25), loss_of, change=change)


@case("NaN by cause", "nonfinite-loss", step=180)
def nan_in_one_row_of_the_data(place: Place, broken: bool) -> None:
    model = Cnn()

    def change(step: int, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        x = batch[0].clone()
        if broken and step == 180:
            x[3, 5] = math.nan
        return x, batch[1]

    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3), digits(26), classify, change=change)


@case("NaN by cause", "diverged", also=("nonfinite-loss",), step=0, within=60)
def growth_that_ends_in_nan(place: Place, broken: bool) -> None:
    model = mlp(8, 16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0 if broken else 0.02)
    train(place, model, optimizer, plane(27, noise=1.0), squared, steps=150)


@case("NaN by cause", None)
def loss_scale_finds_its_level(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    batches = digits(28)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            watch.log(loss=loss)


# ------------------------------------------------------------------------- several optimizers


@case("several optimizers", "diverged", optimizer="critic", step=150, within=60)
def the_critic_explodes(place: Place, broken: bool) -> None:
    actor, critic = mlp(8, 32, 1), mlp(8, 32, 1)
    both = {
        "actor": torch.optim.Adam(actor.parameters(), lr=1e-3),
        "critic": torch.optim.SGD(critic.parameters(), lr=0.02),
    }
    batches = plane(29)
    with place.watch(nn.ModuleDict({"actor": actor, "critic": critic}), both) as watch:
        for step in range(STEPS):
            batch = next(batches)
            if broken and step == 150:
                both["critic"].param_groups[0]["lr"] = 5.0
            for name, model in (("actor", actor), ("critic", critic)):
                loss = squared(model, batch)
                both[name].zero_grad()
                loss.backward()
                both[name].step()
                watch.log(loss=loss, optimizer=name)


# -------------------------------------------------------------------------------- how it ended


@case("how it ended", "died")
def the_loader_raises(place: Place, broken: bool) -> None:
    place.script(
        f"""
        from torch import nn
        net = nn.Linear(4, 1)
        opt = torch.optim.SGD(net.parameters(), lr=0.01)
        for i in range(250):
            if {broken} and i == 120: raise RuntimeError("the data loader died")
            x = torch.randn(8, 4)
            opt.zero_grad()
            (net(x).squeeze(1) - x.sum(1)).square().mean().backward()
            opt.step()
        """
    )


@case("how it ended", "too-short", twin=False)
def three_steps(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3), digits(31), classify, steps=3)


# -------------------------------------------------------------------- histories as people have them


_trainer = functools.partial(trainer_rows, every=10, rate=2e-5, rows_an_epoch=10)


@case("histories", "diverged", step=1200, within=200)
def a_fine_tuning_that_is_lost(place: Place, broken: bool) -> None:
    generator = torch.Generator().manual_seed(32)
    losses, norms = [], []
    for i in range(200):
        lost = broken and i >= 120
        loss = 2.2 - 0.8 * min(i, 120) / 120 + (min(1, (i - 120) / 10) * 5.5 if lost else 0)
        norm = 0.9 * (30 if lost and i < 140 else 6 if lost else 1)
        losses.append(loss + 0.08 * float(torch.randn((), generator=generator)))
        norms.append(norm * math.exp(0.15 * float(torch.randn((), generator=generator))))
    place.imported(_trainer(losses, norms))


@case("histories", "too-short", also=("diverged",), twin=False)
def two_rows_with_a_loss_that_leaps(place: Place, broken: bool) -> None:
    place.imported(_trainer([1.5, 63.0], [0.4, 12.0]))


@case("histories", "zero-gradients")
def most_groups_without_advantage(place: Place, broken: bool) -> None:
    generator = torch.Generator().manual_seed(34)
    noise = [float(torch.randn((), generator=generator)) for _ in range(150)]
    norms = [0.0 if broken else 0.2 * math.exp(0.3 * z) for z in noise]
    place.imported(_trainer([0.0 if broken else 0.01 * z for z in noise], norms, every=1))


@case("histories", None)
def surrogate_losses_about_zero(place: Place, broken: bool) -> None:
    generator = torch.Generator().manual_seed(35)
    noise = [float(torch.randn((), generator=generator)) for _ in range(300)]
    place.imported(_trainer([0.02 * z for z in noise], [0.15 * math.exp(0.3 * z) for z in noise[::-1]], every=1))


# --------------------------------------------------------- optimizers known by what they do


class Normalised(torch.optim.Optimizer):
    """An optimizer that no list of names has: each update is the sign of the gradient."""

    def __init__(self, parameters, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad.sign(), alpha=-group["lr"])


@case("optimizers by what they do", None, twin_may=("spike",))
def signs_of_the_gradient(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    train(place, model, Normalised(model.parameters(), lr=1e-3), digits(36), classify)


@case("optimizers by what they do", None)
def muon_and_adamw(place: Place, broken: bool) -> None:
    model = mlp(64, 48, 48, 10)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    both = {"muon": torch.optim.Muon(matrices, lr=0.02), "adamw": torch.optim.AdamW(rest, lr=1e-3)}
    batches = digits(37)
    with place.watch(model, both) as watch:
        for _ in range(STEPS):
            loss = classify(model, next(batches))
            model.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in both.values():
                optimizer.step()
            watch.log(loss=loss)


@case("severity by consequence", None)
def an_lstm_on_text(place: Place, broken: bool) -> None:
    model = Lstm()
    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), text(38), next_byte, clip=1.0)


@case("several optimizers", None)
def a_gan_that_is_well(place: Place, broken: bool) -> None:
    maker, judge = mlp(4, 32, 2), mlp(2, 32, 1)
    models = {"maker": maker, "judge": judge}
    both = {name: torch.optim.Adam(m.parameters(), lr=2e-4, betas=(0.5, 0.999)) for name, m in models.items()}
    bce = functional.binary_cross_entropy_with_logits
    with place.watch(nn.ModuleDict(models), both) as watch:
        for _ in range(STEPS):
            real, fake = torch.randn(64, 2) * 0.5 + 1, maker(torch.randn(64, 4))
            loss = bce(judge(real), torch.ones(64, 1)) + bce(judge(fake.detach()), torch.zeros(64, 1))
            both["judge"].zero_grad()
            loss.backward()
            both["judge"].step()
            watch.log(loss=loss, optimizer="judge")
            loss = bce(judge(fake), torch.ones(64, 1))
            both["maker"].zero_grad()
            loss.backward()
            both["maker"].step()
            watch.log(loss=loss, optimizer="maker")
