"""The fifth round: what people ask for help with in public threads, written before any rule was run on it.

Each fault is one that threads and forums answer again and again, by another mechanism than the cases of the earlier
rounds; each has its healthy twin.
"""

from __future__ import annotations

import torch
from lab import STEPS, Cases, Cnn, Place, classify, digits, mlp, plane, squared, train
from torch import Tensor, nn
from torch.nn import functional

case = Cases()


@case("nothing is trained", "no-gradient", also=("zero-gradients", "no-steps"))
def the_loss_is_wrapped_in_a_new_tensor(place: Place, broken: bool) -> None:
    """`torch.tensor(loss.item(), requires_grad=True).backward()`."""
    model = mlp(64, 32, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    batches = digits(501)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            if broken:
                torch.tensor(loss.item(), requires_grad=True).backward()
            else:
                loss.backward()
            optimizer.step()
            watch.log(loss=loss.detach())


@case("nothing is trained", "parameters-without-optimizer", parameter="extra")
def layers_added_after_the_optimizer_was_made(place: Place, broken: bool) -> None:
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = mlp(64, 32, 32), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.body(x).relu()
            extra = getattr(self, "extra", None)
            return self.head(hidden if extra is None else extra(hidden).relu())

    model = Growing()
    if not broken:
        model.extra = mlp(32, 64, 32)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    if broken:
        model.extra = mlp(32, 64, 32)
    train(place, model, optimizer, digits(502), classify)


@case("nothing is trained", "dead-parameters", also=("zero-gradients", "vanishing", "no-gradient"))
def every_weight_begins_at_zero(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 32, 10)
    if broken:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.1), digits(503), classify)


@case("nothing is trained", "learning-rate-zero", also=("updates-below-precision",))
def a_schedule_for_epochs_is_stepped_every_batch(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5 if broken else 0.5 ** (1 / 100))
    train(place, model, optimizer, digits(504), classify, schedule=schedule)


@case("clipping that harms", "ineffective-clipping")
def the_generator_of_parameters_is_used_up(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    found = model.parameters()
    optimizer = torch.optim.SGD(found, lr=0.1)
    batches = digits(505)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(found if broken else model.parameters(), 0.5)
            optimizer.step()
            watch.log(loss=loss)


@case("severity by consequence", "diverged", also=("nonfinite-loss",))
def targets_that_are_not_normalised(place: Place, broken: bool) -> None:
    """House prices in dollars, under a rate that is right for targets about 1."""
    model = mlp(8, 32, 1)
    scale = 2e5 if broken else 1.0

    def change(_: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return batch[0], scale * (1 + 0.3 * batch[1])

    train(place, model, torch.optim.SGD(model.parameters(), lr=0.02), plane(506), squared, change=change)


@case("NaN by cause", "nonfinite-loss", step=150)
def every_target_of_a_batch_is_ignored(place: Place, broken: bool) -> None:
    """The mean over no element is NaN: https://github.com/pytorch/pytorch/issues/75181."""
    model = mlp(64, 32, 10)

    def change(step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, y = batch
        return x, torch.full_like(y, -100) if broken and step == 150 else y

    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(507), classify, change=change)


@case("NaN by cause", "nonfinite-gradient", step=200)
def the_angle_between_equal_vectors(place: Place, broken: bool) -> None:
    """`acos` has an infinite slope at 1, the cosine of equal vectors: https://github.com/pytorch/pytorch/issues/8069."""
    model = mlp(8, 32, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = plane(508)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            a, b = next(batches)[0], next(batches)[0]
            if step == 200:
                b = torch.cat([a[:1], b[1:]])
            u, v = functional.normalize(model(a), dim=-1), functional.normalize(model(b), dim=-1)
            cosine = (u * v).sum(-1)
            if step == 200 and broken:
                cosine = torch.cat([torch.ones_like(cosine[:1]) * cosine[:1] / cosine[:1].detach(), cosine[1:]])
            loss = (torch.acos(cosine if broken else cosine.clamp(-0.999, 0.999)) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)


@case("NaN by cause", "nonfinite-loss", step=180)
def the_deviation_of_a_single_sample(place: Place, broken: bool) -> None:
    """The last batch of an epoch holds one sample: its unbiased standard deviation is NaN."""
    model = mlp(8, 32, 1)

    def change(step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return (batch[0][:1], batch[1][:1]) if step == 180 else batch

    def loss_of(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        scale = x.std(0) if broken else x.std(0, correction=0)
        return squared(net, ((x - x.mean(0)) / (scale + 1e-5), y))

    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), plane(509), loss_of, change=change)


@case("vanishing", "vanishing", also=("dead-parameters",))
def many_layers_of_sigmoids(place: Place, broken: bool) -> None:
    act = nn.Sigmoid if broken else nn.ReLU
    model = mlp(64, *[24] * 12, 10, act=act)
    if not broken:
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.02), digits(510), classify)


@case("healthy", None)
def a_network_in_evaluation_mode_half_of_the_time(place: Place, broken: bool) -> None:
    """A held-out batch is looked at every tenth step."""
    model = Cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    batches, others = digits(511), digits(512)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            model.train()
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)
            if step % 10 == 0:
                model.eval()
                with torch.no_grad():
                    classify(model, next(others))


@case("healthy", None)
def a_few_classes_that_are_rare(place: Place, broken: bool) -> None:
    model = mlp(64, 64, 10)

    def change(step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        kept = (batch[1] < 7) | (torch.arange(len(batch[1])) % 8 == step % 8)
        return batch[0][kept], batch[1][kept]

    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(513), classify, change=change)
