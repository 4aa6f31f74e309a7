"""The half of the cases that is looked at only after a rule is committed: the same kinds, other mechanisms."""

from __future__ import annotations

import copy
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
    digits,
    mlp,
    next_byte,
    plane,
    squared,
    text,
    train,
    trainer_rows,
)
from torch import Tensor, nn
from torch.nn import functional

case = Cases()

# ------------------------------------------------------------------------- nothing is trained


@case("nothing is trained", "learning-rate-zero")
def rate_multiplied_by_a_flag(place: Place, broken: bool) -> None:
    model = Lstm(32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5 * (not broken), momentum=0.9)
    train(place, model, optimizer, text(101), next_byte, steps=150, clip=1.0)


@case("nothing is trained", "stale-optimizer", also=("no-gradient",))
def a_copy_is_trained(place: Place, broken: bool) -> None:
    model = Cnn()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    trained = copy.deepcopy(model) if broken else model

    def zero() -> None:
        optimizer.zero_grad()
        trained.zero_grad()

    train(place, trained, optimizer, digits(102), classify, zero=zero, steps=150)


class Backbone(nn.Module):
    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.backbone, self.neck, self.head, self.broken = mlp(64, 48, 48), nn.Linear(48, 32), nn.Linear(32, 10), broken

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.broken and torch.is_grad_enabled()):
            hidden = self.neck(self.backbone(x).relu()).relu()
        return self.head(hidden)


@case("nothing is trained", "no-gradient", parameter="backbone")
def backbone_under_no_grad(place: Place, broken: bool) -> None:
    model = Backbone(broken)
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.1), digits(103), classify)


@case("nothing is trained", "zero-gradients", also=("constant-loss",))
def hinge_that_is_met_from_the_start(place: Place, broken: bool) -> None:
    model = mlp(8, 32, 1)
    margin = -100.0 if broken else 1.0

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        side = (batch[1] > 0).float() * 2 - 1
        return functional.relu(margin - side * model(batch[0]).squeeze(-1)).mean()

    train(place, model, torch.optim.SGD(model.parameters(), lr=0.05), plane(104), loss_of)


@case("nothing is trained", "clipped-to-nothing")
def threshold_typed_as_a_millionth_of_a_millionth(place: Place, broken: bool) -> None:
    model = Lstm(32)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    train(place, model, optimizer, text(105), next_byte, clip=1e-12 if broken else 1.0, steps=150)


@case("nothing is trained", "updates-below-precision")
def bfloat16_transformer(place: Place, broken: bool) -> None:
    model = Gpt(width=16, depth=1).to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5 if broken else 0.3)

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(model(batch[0]).flatten(0, 1).float(), batch[1].flatten())

    train(place, model, optimizer, text(106), loss_of, steps=200, weights_every=10)


@case("nothing is trained", "parameters-without-optimizer", parameter="extra")
def a_module_added_later(place: Place, broken: bool) -> None:
    class Grown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = mlp(64, 32, 32), nn.Linear(32, 10)
            self.extra: nn.Module = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.extra(self.body(x).relu()))

    model = Grown()
    if not broken:
        model.extra = nn.Linear(32, 32)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    if broken:
        model.extra = nn.Linear(32, 32)

    def zero() -> None:
        model.zero_grad()

    train(place, model, optimizer, digits(107), classify, zero=zero)


@case("nothing is trained", None)
def adapters_alone_on_purpose(place: Place, broken: bool) -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(64, 10).requires_grad_(False)
            self.down, self.up = nn.Linear(64, 4, bias=False), nn.Linear(4, 10, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.up(self.down(x))

    model = Adapted()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    train(place, model, optimizer, digits(108), classify)


@case("nothing is trained", "constant-loss", also=("zero-gradients",))
def probabilities_normalised_over_the_batch_of_one(place: Place, broken: bool) -> None:
    model = mlp(8, 16, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        out = model(batch[0])
        if broken:
            return (out.softmax(-1).squeeze(-1) - 0.5).square().mean()
        return (out.squeeze(-1) - batch[1]).square().mean()

    train(place, model, optimizer, plane(109), loss_of)


@case("nothing is trained", "all-steps-skipped", also=("no-steps", "nonfinite-loss"))
def every_batch_is_left_out(place: Place, broken: bool) -> None:
    model = mlp(8, 16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = plane(110)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS // 2):
            x, y = next(batches)
            loss = squared(model, (x, y * math.nan if broken else y))
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 100.0)
            if not torch.isfinite(norm):
                continue
            optimizer.step()
            watch.log(loss=loss)


@case("nothing is trained", "gradients-accumulate")
def zero_grad_after_an_epoch_alone(place: Place, broken: bool) -> None:
    model = Cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4 if broken else 0.01)
    count = iter(range(10_000))

    def zero() -> None:
        if not broken or next(count) % 150 == 0:
            optimizer.zero_grad()

    train(place, model, optimizer, digits(111), classify, zero=zero)


@case("nothing is trained", None)
def accumulation_with_set_to_none_off(place: Place, broken: bool) -> None:
    model = mlp(8, 32, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    batches = plane(112)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            loss = squared(model, next(batches)) / 2
            loss.backward()
            if step % 2 == 1:
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
                watch.log(loss=2 * loss.detach())


# ------------------------------------------------------------------------ clipping that harms


@case("clipping that harms", "clip-starves", parameter="temperature")
def a_temperature_owns_the_norm(place: Place, broken: bool) -> None:
    class Contrast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.temperature = mlp(64, 32, 10), nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    model = Contrast()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-6, weight_decay=0.0)
    force = 1e7 if broken else 0.1

    def loss_of(_: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return classify(model, batch) + force * torch.sin(1e3 * batch[0].sum()) * model.temperature.sum()

    train(place, model, optimizer, digits(113), loss_of, clip=0.5)


@case("clipping that harms", "threshold-too-low")
def entries_cut_at_almost_nothing(place: Place, broken: bool) -> None:
    model = Cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    batches = digits(114)
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 2e-4 if broken else 10.0)
            optimizer.step()
            watch.log(loss=loss)


@case("clipping that harms", "clipped-by-script")
def adaptive_clipping_by_unit_of_the_scripts_own(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = digits(115)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            if broken:
                with torch.no_grad():
                    for p in model.parameters():
                        assert p.grad is not None
                        most = 0.01 * p.norm().clamp_min(1e-3)
                        norm = p.grad.norm()
                        p.grad.copy_(torch.where(norm > most, p.grad * (most / norm), p.grad))
            optimizer.step()
            watch.log(loss=loss)


@case("clipping that harms", "ineffective-clipping")
def another_models_parameters_are_clipped(place: Place, broken: bool) -> None:
    model = mlp(8, 32, 1)
    other = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    batches = plane(116)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            loss = squared(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_((other if broken else model).parameters(), 5.0)
            optimizer.step()
            watch.log(loss=loss)


@case("clipping that harms", "ineffective-clipping")
def clipped_before_backward(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = digits(117)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            if broken:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            loss.backward()
            if not broken:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            watch.log(loss=loss)


# -------------------------------------------------------------------------- growth and spikes


@case("severity by consequence", "diverged", step=150, within=60)
def a_language_model_that_loses_its_loss(place: Place, broken: bool) -> None:
    model = Gpt()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    batches = text(118)
    with place.watch(model, optimizer) as watch:
        for step in range(260):
            if broken and step == 150:
                optimizer.param_groups[0]["lr"] = 30.0
            loss = next_byte(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1e3)
            optimizer.step()
            watch.log(loss=loss)


@case("severity by consequence", "diverged", step=0, within=100)
def a_recurrence_that_feeds_itself(place: Place, broken: bool) -> None:
    values = nn.Linear(6, 1)
    optimizer = torch.optim.Adam(values.parameters(), lr=0.05 if broken else 0.01)
    with place.watch(values, optimizer) as watch:
        for _ in range(2 * STEPS):
            state = torch.randn(32, 6) + 1
            after = state * (1.6 if broken else 0.8)
            target = 1.0 + 0.99 * values(after).detach() if broken else 1.0 + 0.5 * values(after).detach()
            loss = (values(state) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)


@case("severity by consequence", "spike", step=180)
def one_batch_with_labels_of_another_scale(place: Place, broken: bool) -> None:
    model = mlp(8, 48, 1, act=nn.Tanh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def change(step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return (batch[0], batch[1] * 200) if broken and step == 180 else batch

    train(place, model, optimizer, plane(119), squared, change=change, steps=450)


@case("severity by consequence", None)
def gates_that_begin_at_zero(place: Place, broken: bool) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.gate, self.head = mlp(64, 64, 64), nn.Parameter(torch.full((1,), 1e-7)), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x + self.gate * self.body(x))

    model = Gated()
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9), digits(120), classify)


@case("severity by consequence", None)
def lbfgs_on_fresh_batches(place: Place, broken: bool) -> None:
    model = nn.Linear(64, 10)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.2, max_iter=5)
    batches = digits(121, size=512)
    with place.watch(model, optimizer):
        for _ in range(80):
            batch = next(batches)

            def closure(batch: tuple[Tensor, Tensor] = batch) -> Tensor:
                optimizer.zero_grad()
                loss = classify(model, batch)
                loss.backward()
                return loss

            optimizer.step(closure)


@case("severity by consequence", "vanishing", parameter="lstm")
def a_long_recurrence_of_small_weights(place: Place, broken: bool) -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm_layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(14))
            self.first, self.head = nn.Linear(64, 32), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).tanh()
            for layer in self.lstm_layers:
                x = layer(x).tanh() if broken else x + 0.3 * layer(x).tanh()
            return self.head(x)

    model = Deep()
    if broken:
        for layer in model.lstm_layers:
            nn.init.normal_(layer.get_parameter("weight"), std=0.05)
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.05), digits(122), classify)


@case("nothing is trained", "dead-parameters", parameter="branch", also=("no-gradient", "zero-gradients"))
def a_branch_times_zero(place: Place, broken: bool) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.branch, self.head = nn.Linear(64, 32), mlp(64, 32, 32), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.trunk(x) + (0.0 if broken else 1.0) * self.branch(x)).relu())

    model = Two()
    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3), digits(123), classify)


@case("severity by consequence", None)
def steps_in_the_rate(place: Place, broken: bool) -> None:
    model = Cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [150, 220], 0.1)
    train(place, model, optimizer, digits(124), classify, schedule=schedule)


# --------------------------------------------------------------------------------- NaN by cause


@case("NaN by cause", "nonfinite-gradient", step=160)
def norm_of_a_zero_vector_with_a_power(place: Place, broken: bool) -> None:
    model = mlp(8, 24, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = plane(125)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            x, y = next(batches)
            out = model(x)
            loss = (out.mean(-1) - y).square().mean()
            if broken and step >= 160:
                loss = loss + 0.1 * ((out - out).square().sum(-1) ** 0.5).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)


@case("NaN by cause", "nonfinite-gradient", also=("nonfinite-loss",), step=140)
def a_row_with_every_key_masked(place: Place, broken: bool) -> None:
    from lab import Block

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.block, self.head = nn.Linear(8, 16), Block(16), nn.Linear(16, 10)
            self.mask: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            h = self.block(self.embed(x.view(-1, 8, 8)), self.mask)
            if self.mask is not None:
                h = torch.where(self.mask.all(-1).transpose(1, 2).expand_as(h[:, :, :1]).bool(), 0.0, h)
            return self.head(h.mean(1))

    model = Reader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def change(step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        mask = torch.zeros(len(batch[0]), 1, 8, 8, dtype=torch.bool)
        if broken and step >= 140:
            mask[3] = True
        model.mask = mask
        return batch

    train(place, model, optimizer, digits(126), classify, change=change, steps=220)


@case("NaN by cause", "nonfinite-loss", step=170)
def an_infinite_label(place: Place, broken: bool) -> None:
    model = mlp(8, 32, 1)

    def change(step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        y = batch[1].clone()
        if broken and step == 170:
            y[7] = math.inf
        return batch[0], y

    train(place, model, torch.optim.SGD(model.parameters(), lr=0.02), plane(127), squared, change=change)


@case("NaN by cause", "diverged", also=("nonfinite-loss",), step=0, within=120)
def adam_without_warm_up_at_a_huge_rate(place: Place, broken: bool) -> None:
    model = mlp(8, 64, 64, 1, act=nn.Identity)
    optimizer = torch.optim.Adam(model.parameters(), lr=30.0 if broken else 1e-3)
    train(place, model, optimizer, plane(128), squared, steps=250)


@case("NaN by cause", "loss-hides-nan", also=("nonfinite-gradient",), step=150)
def a_logged_loss_through_nan_to_num(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = digits(129)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            x, y = next(batches)
            if broken and step >= 150:
                x = x.clone()
                x[0] = math.nan
            loss = classify(model, (x, y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=float(torch.nan_to_num(loss.detach())))


@case("NaN by cause", None)
def a_first_step_that_overflows(place: Place, broken: bool) -> None:
    model = mlp(8, 32, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=10_000)
    batches = plane(130)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            loss = squared(model, next(batches))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            scaler.step(optimizer)
            scaler.update()
            watch.log(loss=loss)


# ------------------------------------------------------------------------- several optimizers


@case("several optimizers", "nonfinite-gradient", optimizer="1", step=120)
def the_second_of_two_meets_a_nan(place: Place, broken: bool) -> None:
    first, second = mlp(8, 24, 1), mlp(8, 24, 1)
    both = [torch.optim.Adam(first.parameters(), lr=1e-3), torch.optim.Adam(second.parameters(), lr=1e-3)]
    batches = plane(131)
    with place.watch(nn.ModuleList([first, second]), both) as watch:
        for step in range(220):
            batch = next(batches)
            for at, model in enumerate((first, second)):
                pred = model(batch[0]).squeeze(-1)
                loss = (pred - batch[1]).square().mean()
                if broken and at == 1 and step >= 120:
                    loss = loss + (pred - pred).abs().sum().sqrt()
                both[at].zero_grad()
                loss.backward()
                both[at].step()
                watch.log(loss=loss, optimizer=str(at))


# -------------------------------------------------------------------------------- how it ended


@case("how it ended", "died")
def out_of_memory_it_says(place: Place, broken: bool) -> None:
    place.script(
        f"""
        from torch import nn
        net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
        opt = torch.optim.AdamW(net.parameters(), lr=3e-3)
        for i in range(300):
            if {broken} and i == 200: raise MemoryError("cannot allocate 12 GiB")
            x = torch.randn(16, 6)
            opt.zero_grad()
            (net(x).squeeze(1) - x.sum(1)).square().mean().backward()
            opt.step()
        """
    )


@case("how it ended", "killed", also=("died",), twin=False)
def killed_by_the_system(place: Place, broken: bool) -> None:
    place.script(
        """
        import os, signal, time
        from torch import nn
        net = nn.Linear(6, 1)
        opt = torch.optim.SGD(net.parameters(), lr=0.02)
        for i in range(200):
            x = torch.randn(16, 6)
            opt.zero_grad()
            (net(x).squeeze(1) - x.sum(1)).square().mean().backward()
            opt.step()
        time.sleep(1.5)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        kill=True,
    )


@case("how it ended", "too-short", twin=False)
def one_step(place: Place, broken: bool) -> None:
    model = Lstm(16)
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.1), text(134), next_byte, steps=1)


# -------------------------------------------------------------------- histories as people have them


_trainer = functools.partial(trainer_rows, every=5, rate=1e-4, rows_an_epoch=20)


def _noise(seed: int, count: int) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    return [float(z) for z in torch.randn(count, generator=generator)]


@case("histories", "diverged", step=1000, within=250)
def a_pretraining_that_leaves_its_curve(place: Place, broken: bool) -> None:
    a, b = _noise(135, 300), _noise(136, 300)
    losses = [3.2 + 6.5 * math.exp(-i / 30) + 0.05 * z for i, z in enumerate(a)]
    norms = [0.35 * math.exp(0.2 * z) for z in b]
    if broken:
        for i in range(200, 300):
            losses[i] += 3.5 * min(1.0, (i - 200) / 25)
            norms[i] *= 12 if i < 230 else 4
    place.imported(_trainer(losses, norms))


@case("histories", "spike", step=700, within=10)
def a_lone_spike_in_a_fine_tuning(place: Place, broken: bool) -> None:
    a, b = _noise(137, 250), _noise(138, 250)
    losses, norms = [1.6 + 0.06 * z for z in a], [1.1 * math.exp(0.15 * z) for z in b]
    if broken:
        norms[139] *= 25
        losses[139] += 0.7
    place.imported(_trainer(losses, norms))


@case("histories", "too-short", twin=False)
def twelve_rows(place: Place, broken: bool) -> None:
    a = _noise(139, 6)
    place.imported(_trainer([2.0 + 0.1 * z for z in a], [0.7 * math.exp(0.1 * z) for z in a[::-1]]))


@case("histories", None)
def a_fine_tuning_that_is_well(place: Place, broken: bool) -> None:
    a, b = _noise(140, 400), _noise(141, 400)
    losses = [0.9 + 1.1 * math.exp(-i / 80) + 0.07 * z for i, z in enumerate(a)]
    norms = [(4.0 * math.exp(-i / 20) + 0.8) * math.exp(0.25 * z) for i, z in enumerate(b)]
    place.imported(_trainer(losses, norms))


# --------------------------------------------------------- optimizers known by what they do


class Steady(torch.optim.Optimizer):
    """Divides each gradient by its own norm, under a name that no list has."""

    def __init__(self, parameters, lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "eps": 1e-12})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * p.grad / (p.grad.norm() + group["eps"]))


@case("optimizers by what they do", None, twin_may=("spike",))
def gradients_divided_by_their_norm(place: Place, broken: bool) -> None:
    model = mlp(8, 32, 1)
    train(place, model, Steady(model.parameters(), lr=5e-3), plane(142), squared)


@case("optimizers by what they do", None)
def muon_at_tiny_gradients(place: Place, broken: bool) -> None:
    model = nn.Sequential(
        *[m for _ in range(3) for m in (nn.Linear(64, 64, bias=False), nn.ReLU())], nn.Linear(64, 10, bias=False)
    )
    optimizer = torch.optim.Muon(model.parameters(), lr=0.02)

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return 1e-4 * classify(model, batch)

    train(place, model, optimizer, digits(143), loss_of, steps=200)


@case("severity by consequence", None)
def adafactor_on_text(place: Place, broken: bool) -> None:
    model = Gpt(depth=1)
    train(place, model, torch.optim.Adafactor(model.parameters(), lr=1e-2), text(144), next_byte, steps=200)


@case("several optimizers", None)
def actor_and_critic_that_are_well(place: Place, broken: bool) -> None:
    actor, critic = mlp(4, 32, 2, act=nn.Tanh), mlp(4, 32, 1, act=nn.Tanh)
    models = {"actor": actor, "critic": critic}
    both = {name: torch.optim.Adam(m.parameters(), lr=1e-3) for name, m in models.items()}
    with place.watch(nn.ModuleDict(models), both) as watch:
        for _ in range(STEPS):
            state = torch.randn(64, 4)
            spread = torch.distributions.Categorical(logits=actor(state))
            action = spread.sample()
            reward = (action == (state[:, 0] > 0).long()).float()
            value = critic(state).squeeze(-1)
            loss = (value - reward).square().mean()
            both["critic"].zero_grad()
            loss.backward()
            both["critic"].step()
            watch.log(loss=loss, optimizer="critic")
            loss = -(spread.log_prob(action) * (reward - value.detach())).mean()
            both["actor"].zero_grad()
            loss.backward()
            both["actor"].step()
            watch.log(loss=loss, optimizer="actor")
