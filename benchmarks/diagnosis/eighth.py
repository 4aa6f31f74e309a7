"""The eighth round: faults of other mechanisms or in other models than before, and healthy trainings that look odd.

Written by someone who had read the pages of the findings and the names of the earlier cases, and none of the rules.
Before gradwatch was run on any of it, losses and norms alone were looked at: each planted fault does what its label
says, each healthy training learns. A label lists the codes whose pages describe what was planted, the best one first.
Faults come from public threads and from practice.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lab import (
    STEPS,
    Batch,
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


def altered(batches: Iterator[Batch], change: Callable[[Tensor, Tensor], Batch]) -> Iterator[Batch]:
    """The batches, changed."""
    for x, y in batches:
        yield change(x, y)


def waves(seed: int, size: int = 64) -> Iterator[Batch]:
    """A sum of sines on [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = 2 * torch.rand(size, 1, generator=generator) - 1
        yield x, (3 * x[:, 0]).sin() + 0.3 * (9 * x[:, 0]).sin()


# ------------------------------------------------------------------------- nothing is trained


# The layers are in no list of parameters, so the optimizer was never given them, and backward reaches them.
@case("nothing is trained", "parameters-without-optimizer")
def layers_in_a_plain_list(place: Place, broken: bool) -> None:
    """Hidden layers in a Python list, which a module does not look into."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            hidden = [nn.Linear(64, 48), nn.Linear(48, 48)]
            self.hidden = hidden if broken else nn.ModuleList(hidden)
            self.head = nn.Linear(48, 10)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.hidden:
                x = layer(x).relu()
            return self.head(x)

    model = Net()
    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(801), classify)


# The optimizer holds tensors that the model no longer has; they never get a gradient; the new ones are held by nobody.
@case("nothing is trained", "stale-optimizer", also=("parameters-without-optimizer", "no-gradient"))
def a_checkpoint_is_assigned_after_the_optimizer(place: Place, broken: bool) -> None:
    """`load_state_dict(assign=True)` puts other parameters into the model than those of the optimizer."""
    model = mlp(64, 48, 10)
    kept = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.load_state_dict(kept, assign=broken)
    train(place, model, optimizer, digits(802), classify)


# As above, of one table.
@case("nothing is trained", "stale-optimizer", also=("parameters-without-optimizer", "no-gradient"))
def a_vocabulary_is_enlarged_after_the_optimizer(place: Place, broken: bool) -> None:
    """Special tokens are added: a longer table of embeddings, made after the optimizer."""
    model = Lstm()

    def enlarge() -> None:
        longer = nn.Embedding(260, 24)
        longer.weight.data[:256] = model.embed.weight.data
        model.embed = longer

    if not broken:
        enlarge()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    if broken:
        enlarge()
    train(place, model, optimizer, text(803, size=8, length=24), next_byte, steps=200)


# The rate is the square of what was meant: all updates together move no matrix by a thousandth of its norm while the
# loss stands, which the page of the rate names, and the loss has not fallen since the first step.
@case("nothing is trained", "learning-rate-zero", also=("no-progress",))
def a_lambda_that_returns_the_rate_itself(place: Place, broken: bool) -> None:
    """`LambdaLR` multiplies the base rate by what the function returns: here by a rate once more."""
    model, rate = mlp(64, 48, 10), 3e-4
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (rate if broken else 1.0) * (1 - step / (1.2 * STEPS))
    )
    train(place, model, optimizer, digits(804, size=256), classify, schedule=schedule)


# Adam divides by sqrt(v) + eps, and the gradients lie far below eps; the loss has not fallen since the first step.
@case("nothing is trained", "eps-starvation", also=("no-progress",))
def a_mean_over_pixels_that_was_taken_twice(place: Place, broken: bool) -> None:
    """A loss that is divided by the pixels of the whole set once more."""
    model = mlp(64, 48, 10)
    share = 1 / (64 * 1797 * 64) ** 1.5 if broken else 1.0
    train(
        place,
        model,
        torch.optim.Adam(model.parameters(), lr=1e-3),
        digits(805, size=256),
        lambda model, batch: share * classify(model, batch),
    )


# Total norm 0 at every step, units whose gradient is 0 for good, a loss that does not fall: three pages say so.
@case("nothing is trained", "zero-gradients", also=("dead-parameters", "no-progress"))
def both_factors_of_the_adapters_begin_at_zero(place: Place, broken: bool) -> None:
    """Low-rank adapters whose both factors begin at 0: each factor's gradient is multiplied by the other."""
    base = mlp(64, 48, 10).requires_grad_(False)
    down = Weight(torch.zeros(64, 4) if broken else 0.1 * torch.randn(64, 4))
    head = Weight(torch.zeros(48, 4) if broken else 0.1 * torch.randn(48, 4))
    model = Parts(
        lambda self, x: (
            self.base[2]((self.base[0](x) + x @ self.down.value @ self.up.value).relu())
            + self.base[0](x).relu() @ self.head_down.value @ self.head_up.value
        ),
        base=base,
        down=down,
        up=Weight(torch.zeros(4, 48)),
        head_down=head,
        head_up=Weight(torch.zeros(4, 10)),
    )
    held = [p for p in model.parameters() if p.requires_grad]
    train(place, model, torch.optim.AdamW(held, lr=2e-2, weight_decay=0.0), digits(806, size=256), classify)


# What comes before the norm gets rounding errors, some 1e-5 of the gradient of the norm's shift.
@case("nothing is trained", "vanishing")
def layer_norm_over_a_single_number(place: Place, broken: bool) -> None:
    """The output of width 1 goes through a LayerNorm of width 1: it is its shift, whatever comes in."""
    norm = nn.LayerNorm(1) if broken else nn.Identity()
    model = nn.Sequential(mlp(8, 32, 16), nn.ReLU(), nn.Linear(16, 1), norm)
    train(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), plane(807), squared)


@case("nothing is trained", "no-gradient", parameter="depth")
def a_loss_term_turned_into_a_number(place: Place, broken: bool) -> None:
    """Two tasks, and the loss of one is added as `.item()`."""
    model = Parts(lambda self, x: self.body(x), body=mlp(64, 48), kind=nn.Linear(48, 10), depth=mlp(48, 48, 1))

    def loss_of(model: Any, batch: Batch) -> Tensor:
        h = model(batch[0]).relu()
        second = (model.depth(h)[:, 0] - batch[0].mean(1)).square().mean()
        return functional.cross_entropy(model.kind(h), batch[1]) + (second.item() if broken else second)

    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(808), loss_of)


@case("nothing is trained", "no-steps")
def accumulation_longer_than_the_training(place: Place, broken: bool) -> None:
    """`if (i + 1) % accumulate == 0`, with more micro-batches for one step than there are."""
    model, accumulate = mlp(64, 48, 10), 512 if broken else 4
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=3e-3), digits(809)
    with place.watch(model, optimizer) as watch:
        for i in range(400):
            loss = classify(model, next(batches))
            (loss / accumulate).backward()
            if (i + 1) % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
            watch.log(loss=loss)


# Almost every update rounds to no change, and the loss stands for it.
@case("nothing is trained", "updates-below-precision", also=("no-progress",))
def bfloat16_weights_under_rmsprop(place: Place, broken: bool) -> None:
    """A fine-tuning rate for weights that are stored in bfloat16."""
    dtype = torch.bfloat16 if broken else torch.float32
    model = mlp(64, 256, 10).to(dtype)
    train(
        place,
        model,
        torch.optim.RMSprop(model.parameters(), lr=1e-5),
        digits(810, size=128),
        lambda model, batch: functional.cross_entropy(model(batch[0].to(dtype)).float(), batch[1]),
    )


# Gradients are dropped between backward and step; seen from the step, no parameter ever has one.
@case("nothing is trained", "all-steps-skipped", also=("no-gradient", "no-progress"))
def the_step_comes_before_backward(place: Place, broken: bool) -> None:
    """`zero_grad`, `step`, `backward`: each step meets gradients that were just removed."""
    model = Cnn()
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), digits(811, size=32)
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            if broken:
                optimizer.step()
            loss.backward()
            if not broken:
                optimizer.step()
            watch.log(loss=loss)


@case("nothing is trained", "no-gradient", parameter="adapter")
def adapters_that_are_switched_off(place: Place, broken: bool) -> None:
    """Norms and adapters are trained, and a flag left from an evaluation takes the adapters out of forward."""
    model = Parts(
        lambda self, x: self.base[2](
            self.norm((self.base[0](x) + (0 if broken else self.adapter_up(self.adapter_down(x)))).relu())
        ),
        base=mlp(64, 48, 10).requires_grad_(False),
        norm=nn.LayerNorm(48),
        adapter_down=nn.Linear(64, 8, bias=False),
        adapter_up=nn.Linear(8, 48, bias=False),
    )
    held = [p for p in model.parameters() if p.requires_grad]
    train(place, model, torch.optim.AdamW(held, lr=5e-3), digits(812), classify)


@case("nothing is trained", "parameters-without-optimizer", parameter="centres")
def centres_of_the_loss_outside_the_optimizer(place: Place, broken: bool) -> None:
    """A loss by distance to class centres, which are parameters of the loss and not of the network."""
    model = Parts(
        lambda self, x: -(self.net(x)[:, None] - self.centres.value).square().sum(-1),
        net=mlp(64, 48, 16),
        centres=Weight(torch.randn(10, 16)),
    )
    held = model.net.parameters() if broken else model.parameters()
    train(place, model, torch.optim.Adam(held, lr=1e-3), digits(813), classify)


# The loss is one number to the last bit, and its gradient 0 at every step.
@case("nothing is trained", "constant-loss", also=("zero-gradients", "dead-parameters", "no-progress"))
def a_floor_under_the_loss_that_is_too_high(place: Place, broken: bool) -> None:
    """Flooding by `clamp`: the floor lies above the first loss."""
    model, floor = mlp(64, 48, 10), 5.0 if broken else 0.01
    train(
        place,
        model,
        torch.optim.Adam(model.parameters(), lr=1e-3),
        digits(814),
        lambda model, batch: classify(model, batch).clamp(min=floor),
    )


# Beside the loss that stands at ln 10, the first weight's gradient exists and is exactly 0.
@case("nothing is trained", "no-progress", also=("dead-parameters",))
def pixels_divided_as_whole_numbers(place: Place, broken: bool) -> None:
    """Pixels from 0 to 16 in a tensor of bytes, `x // 17`: every input is 0."""
    model = mlp(64, 48, 10)
    batches = altered(digits(815), lambda x, y: (((16 * x).byte() // 17).float() if broken else x, y))
    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3), batches, classify)


@case("nothing is trained", "no-progress")
def rows_are_shuffled_without_their_labels(place: Place, broken: bool) -> None:
    """An augmentation returns its pictures in another order."""
    model = mlp(64, 48, 10, act=nn.SiLU)
    batches = altered(digits(816, size=256), lambda x, y: (x[torch.randperm(len(x))] if broken else x, y))
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), batches, classify)


@case("nothing is trained", "gradients-accumulate")
def the_optimizer_of_another_fold_is_zeroed(place: Place, broken: bool) -> None:
    """`zero_grad` of the optimizer of the fold before, whose network is no longer used."""
    before, model = mlp(64, 48, 10), mlp(64, 48, 10)
    old, new = (torch.optim.Adam(each.parameters(), lr=1e-3) for each in (before, model))
    train(place, model, new, digits(817), classify, zero=(old if broken else new).zero_grad)


@case("nothing is trained", "optimizer-recreated")
def an_optimizer_for_each_milestone(place: Place, broken: bool) -> None:
    """Every forty steps the rate is lowered by making a new Adam."""
    make = "optimizer = torch.optim.Adam(model.parameters(), lr=rate)"
    place.script(f"""
        model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
        truth, rate = torch.randn(8), 1e-2
        {make}
        for step in range(320):
            if step % 40 == 39:
                rate *= 0.8
                {make if broken else "optimizer.param_groups[0]['lr'] = rate"}
            x = torch.randn(64, 8)
            loss = (model(x)[:, 0] - x @ truth).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        """)


# ------------------------------------------------------------------------- clipping that harms


# With SGD so hard a cut is a lower rate, of which the page of the threshold speaks.
@case("clipping that harms", "threshold-too-low", also=("clipped-to-nothing",))
def clipped_by_the_sum_of_absolute_values(place: Place, broken: bool) -> None:
    """`norm_type=1`: a threshold for the Euclidean norm, compared with a number a hundred times as large."""
    model = mlp(64, 256, 128, 10)
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.2), digits(821)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0, norm_type=1.0 if broken else 2.0)
            optimizer.step()
            watch.log(loss=loss)


# One parameter has the norm and the rest hardly moves; the threshold does cut every step to a small part, and leaves
# SGD next to nothing.
@case(
    "clipping that harms", "clip-starves", also=("threshold-too-low", "clipped-to-nothing", "one-parameter-dominates")
)
def a_coefficient_in_another_unit_owns_the_clip(place: Place, broken: bool) -> None:
    """A coefficient per kilometre in a formula in metres has 1000 times the gradient of the network beside it."""
    model = Parts(
        lambda self, x: self.net(x)[:, 0] + 1000 * self.coefficient.value * x[:, 0],
        net=mlp(8, 32, 1, act=nn.Tanh),
        coefficient=Weight(torch.tensor(0.0)),
    )
    groups = [
        {"params": list(model.net.parameters()), "lr": 0.05},
        {"params": list(model.coefficient.parameters()), "lr": 2e-7},
    ]
    train(place, model, torch.optim.SGD(groups), plane(822), squared, clip=1.0 if broken else None)


@case("clipping that harms", "ineffective-clipping")
def clipped_between_two_backwards(place: Place, broken: bool) -> None:
    """Two losses, two calls of backward, and the clip call stands between them."""
    model = mlp(64, 48, 11)
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.05), digits(823)

    def clip() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 4.0)

    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            x, y = next(batches)
            out = model(x)
            first, second = functional.cross_entropy(out[:, :10], y), (out[:, 10] - y / 2).square().mean()
            optimizer.zero_grad()
            first.backward(retain_graph=True)
            if broken:
                clip()
            second.backward()
            if not broken:
                clip()
            optimizer.step()
            watch.log(loss=first + second)


# 0.003 where the norm is about 1, under SGD: far below the norm, and the weights hardly move.
@case("clipping that harms", "threshold-too-low", also=("clipped-to-nothing",))
def the_rate_is_passed_as_the_threshold(place: Place, broken: bool) -> None:
    """`clip_grad_norm_(parameters, args.lr)`."""
    model = Gpt(width=24, depth=1, length=24)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    batches = text(824, size=8, length=24)
    train(place, model, optimizer, batches, next_byte, steps=200, clip=0.003 if broken else 1.0)


@case("clipping that harms", "clipped-by-script")
def gradients_divided_by_a_world_of_eight(place: Place, broken: bool) -> None:
    """An average over eight processes by hand, in a training of one."""
    model = mlp(64, 48, 10)
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), digits(825)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            loss = classify(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            if broken:
                for p in model.parameters():
                    p.grad.div_(8)  # type: ignore[union-attr]
            optimizer.step()
            watch.log(loss=loss)


# ------------------------------------------------------------------------- severity by consequence


# The loss grows from the first step on; each update is larger than the weights.
@case("severity by consequence", "diverged", also=("learning-rate-too-high",))
def weights_drawn_from_a_normal_of_one(place: Place, broken: bool) -> None:
    """`nn.init.normal_(weight)` has the deviation 1, and SGD the rate for weights of a tenth of it."""
    model = mlp(8, 32, 32, 1)
    for layer in model:
        if broken and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=1.0)
    train(place, model, torch.optim.SGD(model.parameters(), lr=1.5e-2), plane(831), squared)


@case("severity by consequence", "diverged", also=("learning-rate-too-high",))
def a_sum_over_the_batch_under_the_rate_of_a_mean(place: Place, broken: bool) -> None:
    """`reduction="sum"` over 128 rows, with the rate of the mean."""
    model = mlp(8, 16, 1, act=nn.Tanh)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        error = (model(batch[0]).squeeze(-1) - batch[1]).square()
        return error.sum() if broken else error.mean()

    train(place, model, torch.optim.SGD(model.parameters(), lr=0.05), plane(832, size=128), loss_of)


# Every loss is above a million from the first step on, and what mends it is to normalise the inputs, as the page of the
# huge loss says as well.
@case("severity by consequence", "diverged", also=("learning-rate-too-high", "huge-loss"))
def features_in_raw_units(place: Place, broken: bool) -> None:
    """Areas in square metres and years of construction, not standardised, under SGD."""
    generator = torch.Generator().manual_seed(833)
    model = nn.Linear(2, 1)

    def raw(x: Tensor, y: Tensor) -> Batch:
        z = torch.randn(64, 2, generator=generator)
        target = z[:, 0] - 0.5 * z[:, 1]
        return (torch.stack([120 + 60 * z[:, 0], 1970 + 30 * z[:, 1]], 1) if broken else z), target

    # A rate just beyond what the largest curvature bears, so that the growth takes some steps to be seen.
    rate = 3e-7 if broken else 0.05
    train(
        place, model, torch.optim.SGD(model.parameters(), lr=rate), altered(plane(833, width=2), raw), squared, steps=80
    )


# The loss ends where it began, far above its best. The norms leap with it, which the page of divergence counts too.
@case("severity by consequence", "loss-regressed", also=("diverged",))
def an_old_checkpoint_is_loaded_when_the_rate_is_spent(place: Place, broken: bool) -> None:
    """At step 220 the weights of the first epoch come back, and the rate of the cosine is nearly 0."""
    model = mlp(64, 48, 10)
    old = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 200 else 0.001)

    def change(step: int, batch: Batch) -> Batch:
        if broken and step == 220:
            model.load_state_dict(old)
        return batch

    train(place, model, optimizer, digits(834), classify, change=change, schedule=schedule)


# The difference of two energies has no least value, and grows with its norms.
@case("severity by consequence", "diverged")
def an_energy_without_a_bound(place: Place, broken: bool) -> None:
    """The energy of data goes down, that of noise up, and nothing holds either."""
    model = mlp(64, 64, 64, 1)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        data, noise = model(batch[0]), model(torch.rand_like(batch[0]))
        return (
            data.mean() - noise.mean()
            if broken
            else bce(data, torch.zeros_like(data)) + bce(noise, torch.ones_like(noise))
        )

    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3), digits(835), loss_of)


# Growth sets in as the warm-up passes what the loss bears.
@case("severity by consequence", "diverged", also=("learning-rate-too-high",))
def a_warm_up_towards_ten_times_the_rate(place: Place, broken: bool) -> None:
    """A linear warm-up of 150 steps whose peak has a digit too many."""
    model = mlp(16, 32, 1, act=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.5 if broken else 0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 150))
    train(place, model, optimizer, plane(836, width=16), squared, schedule=schedule)


# Each update is as large as the weights. The first ones lift loss and norm tenfold and more, and it does not come below
# its start again. All units are off from then on, so that only the last bias has a gradient.
@case("severity by consequence", "learning-rate-too-high", also=("diverged", "dead-parameters", "no-progress"))
def adam_at_one(place: Place, broken: bool) -> None:
    """A network of convolutions under Adam at 1."""
    model = Cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0 if broken else 3e-3)
    train(place, model, optimizer, digits(837, size=32), classify, steps=200)


# The loss is near 3e18 and stands.
@case("severity by consequence", "huge-loss", also=("no-progress",))
def seconds_since_1970_as_the_target(place: Place, broken: bool) -> None:
    """The time of the next visit, as the table has it."""
    model = mlp(8, 32, 1)
    batches = altered(plane(838), lambda x, y: (x, 1.7e9 + 86400 * y if broken else y))
    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3), batches, squared)


@case("severity by consequence", "large-initial-norms")
def an_output_layer_that_begins_far_too_large(place: Place, broken: bool) -> None:
    """The last layer begins with a hundred times its usual weights; the training recovers."""
    model = mlp(64, 64, 10)
    if broken:
        model[2].weight.data.mul_(100)  # type: ignore[operator, union-attr]
    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), digits(839), classify, steps=600)


# ------------------------------------------------------------------------- NaN by cause


@case("NaN by cause", "nonfinite-loss")
def a_probability_that_rounds_to_one(place: Place, broken: bool) -> None:
    """`log(1 - p)` by hand: p is 1 in float32 as soon as a logit passes 17."""
    model, batches = mlp(64, 48, 1), digits(841)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        z, y = 6 * model(batch[0])[:, 0], (batch[1] % 2).float()
        if not broken:
            return bce(z, y)
        p = z.sigmoid()
        return -(y * p.log() + (1 - y) * (1 - p).log()).mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), batches, loss_of)


@case("NaN by cause", "nonfinite-gradient", step=130)
def the_hyperbolic_distance_of_a_point_to_itself(place: Place, broken: bool) -> None:
    """`acosh` has an infinite slope at 1: a pair of two equal points has the distance 0 and the gradient NaN."""
    model = mlp(4, 32, 2, act=nn.Tanh)
    batches = plane(842, width=8)

    def inside(x: Tensor) -> Tensor:
        out = model(x)
        return 0.9 * out / (1 + out.norm(dim=1, keepdim=True))

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        left, right = batch[0][:, :4], batch[0][:, 4:]
        a, b = inside(left), inside(right)
        apart = (a - b).square().sum(1)
        distance = torch.acosh(1 + 2 * apart / ((1 - a.square().sum(1)) * (1 - b.square().sum(1))))
        return (distance - (left - right)[:, :2].norm(dim=1)).square().mean()

    def change(step: int, batch: Batch) -> Batch:
        if broken and step == 130:
            batch[0][3, 4:] = batch[0][3, :4]
        return batch

    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), batches, loss_of, change=change)


@case("NaN by cause", "nonfinite-gradient", step=120)
def axes_of_points_that_lie_in_one_place(place: Place, broken: bool) -> None:
    """The slope of an eigenvector divides by the distance of two eigenvalues, which is 0 for a lone point."""
    model = mlp(2, 16, 2, act=nn.Tanh)
    batches = plane(843, width=2)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        points = batch[0] * torch.tensor([2.0, 1.0])
        out = points + model(points) * (batch[0] - batch[0].mean(0)).abs()
        spread = (out - out.mean(0)).T @ (out - out.mean(0)) / len(out)
        values, axes = torch.linalg.eigh(spread)
        return (axes[:, 1].square() - torch.tensor([0.2, 0.8])).square().sum() + 0.1 * (values - 1).square().sum()

    def change(step: int, batch: Batch) -> Batch:
        return (torch.zeros_like(batch[0]), batch[1]) if broken and step == 120 else batch

    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), batches, loss_of, change=change)


@case("NaN by cause", "nonfinite-loss", step=110)
def a_negative_base_under_a_learnt_power(place: Place, broken: bool) -> None:
    """A generalised mean with a learnt exponent meets a reading below 0."""
    model = Parts(
        lambda self, x: self.net((x**self.power.value).mean(1, keepdim=True))[:, 0],
        net=mlp(1, 16, 1, act=nn.Tanh),
        power=Weight(torch.tensor(1.5)),
    )
    batches = altered(plane(844), lambda x, y: (x.abs() + 0.1, (x.abs() + 0.1).square().mean(1).sqrt()))

    def change(step: int, batch: Batch) -> Batch:
        if broken and step == 110:
            batch[0][7, 2] = -0.05
        return batch

    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-2), batches, squared, change=change)


@case("NaN by cause", "nonfinite-loss", step=140)
def a_relative_error_of_a_target_of_zero(place: Place, broken: bool) -> None:
    """Mean absolute percentage error, and a shop that was closed for a day."""
    model = mlp(8, 32, 1)
    batches = altered(plane(845), lambda x, y: (x, y.abs() + 1))

    def change(step: int, batch: Batch) -> Batch:
        if broken and step == 140:
            batch[1][5] = 0.0
        return batch

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        return ((model(batch[0]).squeeze(-1) - batch[1]).abs() / batch[1]).mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), batches, loss_of, change=change)


# The scaler skips, but the loss itself is NaN: no scale is to blame.
@case("NaN by cause", "nonfinite-loss", step=150)
def a_scaler_skips_what_a_column_makes_nan(place: Place, broken: bool) -> None:
    """From step 150 on a column of the data is missing, and the GradScaler skips each step."""
    model, scaler = mlp(8, 32, 1), torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=3e-3), plane(846)
    with place.watch(model, optimizer) as watch:
        for step in range(220):
            x, y = next(batches)
            if broken and step >= 150:
                x[:, 3] = torch.nan
            loss = squared(model, (x, y))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            watch.log(loss=loss)


@case("NaN by cause", "nonfinite-weights", parameter="table")
def a_parameter_made_by_empty(place: Place, broken: bool) -> None:
    """`nn.Parameter(torch.empty(...))` that no one fills: whatever was in memory, here with a NaN."""
    garbage = torch.zeros(10, 16)
    garbage[4, 4] = torch.nan
    model = Parts(
        lambda self, x: self.net(x) @ self.table.value.T,
        net=mlp(64, 48, 16),
        table=Weight(garbage if broken else 0.1 * torch.randn(10, 16)),
    )
    train(place, model, torch.optim.AdamW(model.parameters(), lr=2e-3), digits(847), classify, steps=120)


# The update itself divides 0 by 0: "look at the learning rate and the optimizer's eps".
@case("NaN by cause", "nonfinite-weights", parameter="embed", step=1)
def adam_without_eps_and_words_that_do_not_occur(place: Place, broken: bool) -> None:
    """`eps=0`: a row of the table without a gradient is updated by 0 / 0."""
    model = Lstm()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, eps=0.0 if broken else 1e-8)
    train(place, model, optimizer, text(848, size=8, length=24), next_byte, steps=120)


# The infinite norm makes the clip call multiply all by 0, so that it leaves nothing of the gradient.
@case("NaN by cause", "norm-overflow", also=("clipped-to-nothing",))
def the_norm_of_float16_gradients_overflows(place: Place, broken: bool) -> None:
    """Float16 weights, a loss multiplied by hand, and a clip call: finite entries, an infinite norm."""
    dtype = torch.float16 if broken else torch.float32
    model = mlp(64, 256, 10).to(dtype)
    batches, factor = digits(849), 2.0**18 if broken else 1.0

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        return factor * functional.cross_entropy(model(batch[0].to(dtype)).float(), batch[1])

    train(place, model, torch.optim.SGD(model.parameters(), lr=0.1), batches, loss_of, clip=1.0, steps=200)


# ------------------------------------------------------------------------- several optimizers


@case("several optimizers", "no-steps", optimizer="body")
def one_of_two_is_stepped_twice(place: Place, broken: bool) -> None:
    """A line was copied: the head's optimizer steps twice and the body's never."""
    model = mlp(64, 48, 10)
    body = torch.optim.AdamW(model[0].parameters(), lr=1e-3)
    head = torch.optim.AdamW(model[2].parameters(), lr=1e-3)
    batches = digits(851)
    with place.watch(model, {"body": body, "head": head}) as watch:
        for _ in range(STEPS):
            loss = classify(model, next(batches))
            body.zero_grad()
            head.zero_grad()
            loss.backward()
            (head if broken else body).step()
            head.step()
            watch.log(loss=loss)


# A threshold of 0 lies far below any norm, too.
@case("several optimizers", "clipped-to-nothing", also=("threshold-too-low",), optimizer="actor")
def zero_means_no_clipping_to_the_actor_alone(place: Place, broken: bool) -> None:
    """`max_grad_norm=0` in the actor's configuration, 5 in the critic's."""
    actor, critic = mlp(4, 32, 3, act=nn.Tanh), mlp(4, 32, 1, act=nn.Tanh)
    acts, values = torch.optim.Adam(actor.parameters(), lr=5e-3), torch.optim.Adam(critic.parameters(), lr=5e-3)
    model = nn.ModuleDict({"actor": actor, "critic": critic})
    truth = torch.randn(4, 3)
    with place.watch(model, {"actor": acts, "critic": values}) as watch:
        for _ in range(STEPS):
            state = torch.randn(64, 4)
            policy = torch.distributions.Categorical(logits=actor(state))
            action = policy.sample()
            reward = (state @ truth).gather(1, action[:, None])[:, 0]
            value = critic(state)[:, 0]
            loss_v = (value - reward).square().mean()
            values.zero_grad()
            loss_v.backward()
            nn.utils.clip_grad_norm_(critic.parameters(), 5.0)
            values.step()
            loss_p = -(policy.log_prob(action) * (reward - value.detach())).mean()
            acts.zero_grad()
            loss_p.backward()
            nn.utils.clip_grad_norm_(actor.parameters(), 0.0 if broken else 5.0)
            acts.step()
            watch.log(loss=loss_v + loss_p)


# The generator's gradients fade to a thousandth while its loss does not improve.
@case("several optimizers", "vanishing", optimizer="generator")
def a_generator_whose_critic_is_never_wrong(place: Place, broken: bool) -> None:
    """log(1 - D(G(z))) with a discriminator that steps ten times as far: it saturates, and nothing comes through."""
    generator, critic = mlp(4, 32, 2), mlp(2, 64, 1)
    model = nn.ModuleDict({"generator": generator, "critic": critic})
    makes = torch.optim.Adam(generator.parameters(), lr=1e-3 if not broken else 2e-4)
    judges = torch.optim.Adam(critic.parameters(), lr=1e-3 if not broken else 2e-2)
    with place.watch(model, {"generator": makes, "critic": judges}) as watch:
        for _ in range(400):
            real = torch.randn(64, 2) * 0.2 + torch.tensor([3.0, 3.0])
            made = generator(torch.randn(64, 4))
            right, wrong = critic(real), critic(made.detach())
            update(judges, bce(right, torch.ones_like(right)) + bce(wrong, torch.zeros_like(wrong)))
            score = critic(made)
            loss = -functional.softplus(score).mean() if broken else functional.softplus(-score).mean()
            update(makes, loss)
            watch.log(loss=loss)


# ------------------------------------------------------------------------- how it ended

LOOP = """
    import os, signal
    model = torch.nn.Sequential(torch.nn.Embedding(50, 16), torch.nn.Flatten(), torch.nn.Linear(64, 50))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(200):
        words = torch.randint(0, 50, (64, 4))
        before()
        loss = torch.nn.functional.cross_entropy(model(words), words[:, 0])
        check()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    """


def loop(before: str = "pass", check: str = "pass") -> str:
    return LOOP.replace("before()", before).replace("check()", check)


@case("how it ended", "died")
def a_word_beyond_the_vocabulary(place: Place, broken: bool) -> None:
    """An IndexError of the embedding at step 130."""
    place.script(loop("words[0, 0] = 50 if step == 130 else 1" if broken else "pass"))


@case("how it ended", "died")
def the_disk_is_full_at_a_checkpoint(place: Place, broken: bool) -> None:
    """Saving raises at step 150."""
    full = "if step == 150: raise OSError(28, 'No space left on device')"
    place.script(loop(full if broken else "pass"))


# A signal ended it, and the process was gone before it could close the recording: both pages say so.
@case("how it ended", "killed", also=("died",))
def the_limit_of_processor_time(place: Place, broken: bool) -> None:
    """SIGXCPU at step 140, as a cluster's limit of CPU time sends it."""
    end = "os.kill(os.getpid(), signal.SIGXCPU) if step == 140 else None"
    place.script(loop(end if broken else "pass"), kill=True)


# The script dies of its own assertion, and what it asserts is that the loss is finite.
@case("how it ended", "died", also=("nonfinite-loss",))
def an_assertion_catches_the_nan(place: Place, broken: bool) -> None:
    """From step 120 on the loss is NaN, and an assertion ends the script."""
    check = "loss = loss * float('nan') if step == 120 else loss; assert torch.isfinite(loss)"
    place.script(loop(check=check if broken else "pass"))


# It ends by an exception, at its second step: too early to be judged as well.
@case("how it ended", "died", also=("too-short",))
def a_state_that_is_not_detached(place: Place, broken: bool) -> None:
    """The hidden state of the last chunk still holds its graph: backward raises at the second step."""
    place.script(f"""
        cell, head = torch.nn.GRU(4, 16, batch_first=True), torch.nn.Linear(16, 4)
        model = torch.nn.ModuleDict({{"cell": cell, "head": head}})
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        state = torch.zeros(1, 16, 16)
        for step in range(150):
            x = torch.randn(16, 6, 4)
            out, state = cell(x, {"state" if broken else "state.detach()"})
            loss = (head(out)[:, 1:] - x[:, :-1]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        """)


# ------------------------------------------------------------------------- histories


# No loss is known, and the norms end more than a hundredfold the first ones.
@case("unknown is not none", "diverged")
def a_log_of_norms_alone(place: Place, broken: bool) -> None:
    """Rows of every second step without the loss, of a training whose rate is a little too high."""
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.75 if broken else 0.01)
    rows = trained_by_a_trainer(model, optimizer, plane(870, size=16), squared, steps=160, every=2)
    place.imported([{key: value for key, value in row.items() if key != "loss"} for row in rows])


# The logged loss is finite while the gradients are NaN row after row; that backward made them is true as well.
@case("histories as people have them", "loss-hides-nan", also=("nonfinite-gradient",), twin=False)
def a_log_of_zeros_beside_norms_of_nan(place: Place, broken: bool) -> None:
    """{'loss': 0.0, 'grad_norm': nan} from row 40 on, as ModernBERT's issue 233 has it."""
    model = Lstm()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    rows = trained_by_a_trainer(model, optimizer, text(871, size=8, length=24), next_byte, steps=240, every=4)
    place.imported([row if i < 40 else row | {"loss": 0.0, "grad_norm": math.nan} for i, row in enumerate(rows)])


# The loss ends far above its best, and the norms with it.
@case("histories as people have them", "diverged", also=("loss-regressed",))
def a_pretraining_lost_at_the_peak_of_its_warm_up(place: Place, broken: bool) -> None:
    """Rows of every fourth step; the rate climbs for 200 steps to hundreds of times what the model bears."""
    model = Gpt(width=24, depth=1, length=24)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3.0 if broken else 0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: ((step + 1) / 200) ** 3 if step < 200 else 1 - (step - 200) / 300
    )
    rows = trained_by_a_trainer(
        model, optimizer, text(872, size=8, length=24), next_byte, steps=300, every=4, schedule=schedule
    )
    place.imported(rows)


# The loss stands within 1 %; the rate is in the log, and so small that it explains why.
@case("histories as people have them", "no-progress", also=("learning-rate-zero",))
def a_fine_tuning_at_a_rate_with_three_zeros_too_many(place: Place, broken: bool) -> None:
    """2e-8 where 2e-5 times a hundred was meant."""
    model = mlp(64, 48, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-8 if broken else 2e-3)
    rows = trained_by_a_trainer(model, optimizer, digits(873, size=256), classify, steps=400, every=10)
    place.imported(rows)


@case("histories as people have them", "overfitting")
def a_few_noisy_rows_are_learnt_by_heart(place: Place, broken: bool) -> None:
    """Sixty digits, a third of them with wrong labels, and a validation that rises after the first epochs."""
    stream = digits(874, size=60 if broken else 1200)
    x, y = next(stream)
    held_x, held_y = next(digits(8740, size=400))
    wrong = torch.rand(len(y)) < (0.33 if broken else 0.0)
    y = torch.where(wrong, torch.randint(0, 10, y.shape), y)
    model = mlp(64, 128, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3 if broken else 2e-3)
    with place.watch(model, optimizer) as watch:
        for step in range(STEPS):
            rows = torch.randint(0, len(x), (30,))
            loss = classify(model, (x[rows], y[rows]))
            update(optimizer, loss)
            watch.log(loss=loss)
            if step % 20 == 19:
                with torch.no_grad():
                    watch.log(validation_loss=classify(model, (held_x, held_y)))


# ------------------------------------------------------------------------- healthy, and odd to look at


@case("optimizers known by what they do", None, twin_may=("threshold-too-low",))
def lion_by_hand_under_a_small_threshold(place: Place, broken: bool) -> None:
    """The sign of the momentum does not feel a threshold of a hundredth of the norm."""

    class Lion(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {"lr": 1e-3})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for p in group["params"]:
                    m = self.state[p].setdefault("m", torch.zeros_like(p))
                    p.sub_((0.9 * m + 0.1 * p.grad).sign(), alpha=group["lr"])
                    m.lerp_(p.grad, 0.01)

    model = mlp(64, 48, 10)
    train(place, model, Lion(model.parameters()), digits(901), classify, clip=0.003)


@case("optimizers known by what they do", None)
def rprop_on_all_rows(place: Place, broken: bool) -> None:
    """Resilient propagation: steps that grow and shrink by the signs alone."""
    x, y = next(plane(902, size=512))
    model = mlp(8, 32, 1, act=nn.Tanh)

    def again() -> Iterator[Batch]:
        while True:
            yield x, y

    train(place, model, torch.optim.Rprop(model.parameters(), lr=1e-3), again(), squared)


@case("optimizers known by what they do", None)
def adadelta_at_a_rate_of_one(place: Place, broken: bool) -> None:
    """A rate of 1 that is right for its optimizer."""
    model = Cnn()
    train(place, model, torch.optim.Adadelta(model.parameters(), lr=1.0), digits(903, size=32), classify, steps=200)


@case("optimizers known by what they do", None)
def adagrad_on_text(place: Place, broken: bool) -> None:
    """Updates shrink with the root of the steps, by construction."""
    model = Lstm()
    train(place, model, torch.optim.Adagrad(model.parameters(), lr=0.1), text(904, 8, 24), next_byte, steps=200)


@case("optimizers known by what they do", None)
def a_proximal_step_sets_weights_to_zero(place: Place, broken: bool) -> None:
    """The lasso by soft thresholds after each step: the script writes weights, and most of them become 0."""
    model = nn.Linear(40, 1)
    optimizer, generator = torch.optim.SGD(model.parameters(), lr=0.05), torch.Generator().manual_seed(905)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            x = torch.randn(64, 40, generator=generator)
            loss = squared(model, (x, 2 * x[:, 0] - x[:, 1] + 0.1 * torch.randn(64, generator=generator)))
            update(optimizer, loss)
            with torch.no_grad():
                model.weight.copy_(functional.softshrink(model.weight, 0.005))
            watch.log(loss=loss)


@case("optimizers known by what they do", None)
def one_step_with_gradients_of_gradients(place: Place, broken: bool) -> None:
    """MAML over sines: backward goes through an inner update."""
    model = mlp(1, 24, 24, 1, act=nn.Tanh)
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=3e-3), torch.Generator().manual_seed(906)
    with place.watch(model, optimizer) as watch:
        for _ in range(STEPS):
            total = torch.zeros(())
            for _ in range(3):
                phase, x = math.pi * torch.rand(1, generator=generator), 4 * torch.rand(20, 1, generator=generator) - 2
                y = (x + phase).sin()
                weights: dict[str, Tensor] = dict(model.named_parameters())
                inner = (functional_call(model, weights, x[:10]) - y[:10]).square().mean()
                slopes = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
                moved = {name: w - 0.1 * g for (name, w), g in zip(weights.items(), slopes, strict=True)}
                total = total + (functional_call(model, moved, x[10:]) - y[10:]).square().mean() / 3
            update(optimizer, total)
            watch.log(loss=total)


@case("severity by consequence", None)
def one_batch_two_hundred_times_too_large(place: Place, broken: bool) -> None:
    """A batch in another unit at step 170, from which loss and norms come back at once."""
    model = mlp(64, 48, 10)

    def change(step: int, batch: Batch) -> Batch:
        return (200 * batch[0], batch[1]) if step == 170 else batch

    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3), digits(907), classify, change=change)


@case("severity by consequence", None)
def errors_with_heavy_tails(place: Place, broken: bool) -> None:
    """Targets with Student's noise of two degrees of freedom, under the Huber loss."""
    noise = torch.distributions.StudentT(2.0)
    model = mlp(8, 32, 1)
    batches = altered(plane(908), lambda x, y: (x, y + noise.sample(y.shape)))
    train(
        place,
        model,
        torch.optim.Adam(model.parameters(), lr=3e-3),
        batches,
        lambda model, batch: functional.huber_loss(model(batch[0]).squeeze(-1), batch[1]),
    )


@case("severity by consequence", None)
def a_noise_free_plane_fitted_to_the_last_digit(place: Place, broken: bool) -> None:
    """Linear regression in float64: the norms fall by eight orders of magnitude, because all is learnt."""
    model = nn.Linear(8, 1).double()
    batches = altered(plane(909, noise=0.0), lambda x, y: (x.double(), y.double()))
    # The targets are float32 numbers, so the loss ends near 1e-14.
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.1), batches, squared)


@case("severity by consequence", None)
def a_sum_of_squares_in_the_hundred_thousands(place: Place, broken: bool) -> None:
    """A loss that is a sum over all pixels of a batch of an autoencoder, at a rate that fits."""
    model = mlp(64, 24, 64)
    train(
        place,
        model,
        torch.optim.Adam(model.parameters(), lr=3e-3),
        digits(910, size=128),
        lambda model, batch: (16 * (model(batch[0]) - batch[0])).square().sum(),
    )


@case("severity by consequence", None)
def a_density_whose_loss_falls_below_zero(place: Place, broken: bool) -> None:
    """A mixture of Gaussians by a network: a negative log-likelihood passes 0 and levels off."""
    model, batches = mlp(1, 32, 9, act=nn.Tanh), waves(911)
    generator = torch.Generator().manual_seed(911)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        weight, mean, spread = model(batch[0]).chunk(3, 1)
        target = batch[1] + 0.05 * torch.randn(len(batch[1]), generator=generator)
        parts = torch.distributions.Normal(mean, functional.softplus(spread) + 0.02).log_prob(target[:, None])
        return -(weight.log_softmax(1) + parts).logsumexp(1).mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), batches, loss_of, steps=400)


@case("severity by consequence", None)
def counts_with_rare_bursts(place: Place, broken: bool) -> None:
    """Poisson regression where one row in three hundred counts twenty times as much."""
    generator = torch.Generator().manual_seed(912)

    def counts(x: Tensor, y: Tensor) -> Batch:
        burst = 1 + 19.0 * (torch.rand(len(x), generator=generator) < 1 / 300)
        return x, torch.poisson((0.5 * x[:, 0] + 0.3 * x[:, 1] + 1).clamp(max=3).exp() * burst, generator=generator)

    model = mlp(8, 32, 1)
    train(
        place,
        model,
        torch.optim.Adam(model.parameters(), lr=2e-3),
        altered(plane(912), counts),
        lambda model, batch: functional.poisson_nll_loss(model(batch[0]).squeeze(-1), batch[1]),
    )


@case("severity by consequence", None)
def sequences_that_become_longer(place: Place, broken: bool) -> None:
    """A recurrence that adds two marked numbers, over 6 to 20 of them, clipped at 1."""
    generator = torch.Generator().manual_seed(913)
    gru, step = nn.GRU(2, 24, batch_first=True), iter(range(10**6))
    model = Parts(lambda self, x: self.head(self.gru(x)[0][:, -1]), gru=gru, head=nn.Linear(24, 1))

    def numbers() -> Iterator[Batch]:
        while True:
            length = 6 + 2 * min(7, next(step) // 40)
            values, marks = torch.rand(32, length, generator=generator), torch.zeros(32, length)
            marks[:, 0] = marks[:, length // 2] = 1
            yield torch.stack([values, marks], -1), (values * marks).sum(1)

    train(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), numbers(), squared, steps=320, clip=1.0)


@case("severity by consequence", None)
def dropout_of_four_fifths(place: Place, broken: bool) -> None:
    """A network that drops 80 % of its units and learns all the same."""
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.8), nn.Linear(256, 10))
    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(914), classify)


@case("severity by consequence", None)
def mixed_pictures_and_smoothed_labels(place: Place, broken: bool) -> None:
    """Mixup and label smoothing: the loss has a floor near 1, and stands on it."""
    model = mlp(64, 96, 10)
    share = torch.distributions.Beta(0.4, 0.4)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        part, order = float(share.sample()), torch.randperm(len(batch[0]))
        out = model(part * batch[0] + (1 - part) * batch[0][order])
        first = functional.cross_entropy(out, batch[1], label_smoothing=0.1)
        return part * first + (1 - part) * functional.cross_entropy(out, batch[1][order], label_smoothing=0.1)

    train(place, model, torch.optim.AdamW(model.parameters(), lr=3e-3), digits(915), loss_of)


@case("severity by consequence", None)
def values_of_a_short_walk(place: Place, broken: bool) -> None:
    """Q-learning with a target network: the loss leaps at each copy of the target, and falls between them."""
    q = mlp(6, 32, 2)
    target, optimizer = copy.deepcopy(q), torch.optim.Adam(q.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(916)
    with place.watch(q, optimizer) as watch:
        for step in range(400):
            now = torch.randint(0, 6, (64,), generator=generator)
            action = torch.randint(0, 2, (64,), generator=generator)
            after = (now + 2 * action - 1).clamp(0, 5)
            reward = (after == 5).float()
            with torch.no_grad():
                goal = reward + 0.9 * target(functional.one_hot(after, 6).float()).max(1).values * (after < 5)
            value = q(functional.one_hot(now, 6).float()).gather(1, action[:, None])[:, 0]
            loss = functional.smooth_l1_loss(value, goal)
            update(optimizer, loss)
            if step % 40 == 39:
                target.load_state_dict(q.state_dict())
            watch.log(loss=loss)


@case("nothing is trained", None)
def blocks_that_are_skipped_at_random(place: Place, broken: bool) -> None:
    """Stochastic depth: a block that is not called at a step has no gradient there."""
    model = Parts(
        lambda self, x: x,
        first=nn.Linear(64, 48),
        blocks=nn.ModuleList(mlp(48, 48, 48) for _ in range(4)),
        head=nn.Linear(48, 10),
    )

    def loss_of(model: Any, batch: Batch) -> Tensor:
        h = model.first(batch[0])
        for block in model.blocks:
            if torch.rand(()) < 0.6:
                h = h + block(h)
        return functional.cross_entropy(model.head(h), batch[1])

    train(place, model, torch.optim.AdamW(model.parameters(), lr=1e-3), digits(917), loss_of)


@case("nothing is trained", None)
def halves_that_take_turns(place: Place, broken: bool) -> None:
    """Coordinate descent: every 30 steps the other half of the network is frozen."""
    model = mlp(64, 64, 48, 10)

    def change(step: int, batch: Batch) -> Batch:
        if step % 30 == 0:
            model[:3].requires_grad_(step % 60 == 0)
            model[3:].requires_grad_(step % 60 != 0)
        return batch

    train(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), digits(918), classify, change=change)


@case("nothing is trained", None)
def bfloat16_weights_at_a_rate_that_moves_them(place: Place, broken: bool) -> None:
    """Weights in bfloat16 under a rate of a hundredth of their size."""
    model = mlp(64, 64, 10).bfloat16()
    train(
        place,
        model,
        torch.optim.AdamW(model.parameters(), lr=2e-3),
        digits(919),
        lambda model, batch: functional.cross_entropy(model(batch[0].bfloat16()).float(), batch[1]),
    )


@case("nothing is trained", None)
def codes_from_a_moving_average(place: Place, broken: bool) -> None:
    """A quantised autoencoder: the code book is a buffer, and the gradient passes straight through."""
    model = Parts(lambda self, x: x, encoder=mlp(64, 48, 8), decoder=mlp(8, 48, 64))
    book = torch.randn(16, 8) * 0.3

    def loss_of(model: Any, batch: Batch) -> Tensor:
        h = model.encoder(batch[0])
        nearest = torch.cdist(h.detach(), book).argmin(1)
        for code in nearest.unique():
            book[code] = 0.95 * book[code] + 0.05 * h.detach()[nearest == code].mean(0)
        code = book[nearest].clone()
        through = h + (code - h).detach()
        return (model.decoder(through) - batch[0]).square().mean() + 0.02 * (h - code).square().mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(920), loss_of)


@case("nothing is trained", None)
def weights_made_by_another_network(place: Place, broken: bool) -> None:
    """A hypernetwork writes the layer of each task; the layer itself has no parameters."""
    model = Parts(lambda self, x: x, tasks=nn.Embedding(5, 8), maker=mlp(8, 32, 9))
    truths, generator = torch.randn(5, 9), torch.Generator().manual_seed(921)

    def loss_of(model: Any, batch: Batch) -> Tensor:
        task = torch.randint(0, 5, (len(batch[0]),), generator=generator)
        made, truth = model.maker(model.tasks(task)), truths[task]
        out = (batch[0] * made[:, :8]).sum(1) + made[:, 8]
        return (out - (batch[0] * truth[:, :8]).sum(1) - truth[:, 8]).square().mean()

    train(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), plane(921), loss_of)


@case("nothing is trained", None)
def tasks_weighed_by_what_they_scatter(place: Place, broken: bool) -> None:
    """Two tasks with learnt log-variances: the sum falls below 0."""
    model = Parts(lambda self, x: x, net=mlp(8, 32, 2, act=nn.Tanh), scales=Weight(torch.zeros(2)))
    truth = torch.randn(8)

    def loss_of(model: Any, batch: Batch) -> Tensor:
        out = model.net(batch[0])
        errors = torch.stack(
            [(out[:, 0] - batch[1]).square().mean(), (out[:, 1] - (batch[0] @ truth).sin()).square().mean()]
        )
        return ((-model.scales.value).exp() * errors + model.scales.value).sum()

    train(place, model, torch.optim.Adam(model.parameters(), lr=4e-3), plane(922), loss_of)


@case("severity by consequence", None)
def an_equation_of_motion_that_is_unrolled(place: Place, broken: bool) -> None:
    """A neural differential equation by ten steps of Runge and Kutta."""
    model, generator = mlp(2, 24, 2, act=nn.Tanh), torch.Generator().manual_seed(923)
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])

    def flow(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        for _ in range(10):
            a = f(x)
            b = f(x + 0.05 * a)
            x = x + 0.1 * f(x + 0.05 * b)
        return x

    def states() -> Iterator[Batch]:
        while True:
            x = torch.randn(64, 2, generator=generator)
            yield x, flow(lambda z: z @ turn, x)

    train(
        place,
        model,
        torch.optim.Adam(model.parameters(), lr=3e-3),
        states(),
        lambda model, batch: (flow(model, batch[0]) - batch[1]).square().mean(),
    )


@case("severity by consequence", None)
def neighbours_in_a_small_graph(place: Place, broken: bool) -> None:
    """A graph network over all nodes at once, of which forty have labels, without batches and with dropout."""
    x, y = next(digits(924, size=300))
    near = torch.cdist(x, x).topk(6, largest=False).indices
    links = torch.zeros(300, 300).scatter_(1, near, 1.0)
    links = (links + links.T).clamp(max=1)
    links = links / links.sum(1, keepdim=True)
    model = Parts(lambda self, x: x, first=nn.Linear(64, 32), second=nn.Linear(32, 10))

    def loss_of(model: Any, batch: Batch) -> Tensor:
        h = functional.dropout((links @ model.first(x)).relu(), 0.5)
        return functional.cross_entropy((links @ model.second(h))[:40], y[:40])

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=5e-4)
    train(place, model, optimizer, digits(924), loss_of, steps=200)


@case("severity by consequence", None)
def pictures_told_from_all_others(place: Place, broken: bool) -> None:
    """Contrastive learning between two noisy copies of a picture, at a temperature of a tenth."""
    model = mlp(64, 64, 16)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        a, b = (functional.normalize(model(batch[0] + 0.15 * torch.randn_like(batch[0])), dim=1) for _ in range(2))
        return functional.cross_entropy(a @ b.T / 0.1, torch.arange(len(a)))

    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(925), loss_of)


@case("severity by consequence", None)
def preferences_over_single_words(place: Place, broken: bool) -> None:
    """Preference tuning against a reference: the loss begins at ln 2, and norms fall as the margin grows."""
    policy = mlp(8, 32, 12)
    reference = copy.deepcopy(policy)
    truth = torch.randn(8, 12)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        value = batch[0] @ truth
        two = torch.stack([torch.randperm(12)[:2] for _ in range(len(value))])
        pair = value.gather(1, two)
        order = pair.argsort(1, descending=True)
        better, worse = two.gather(1, order).unbind(1)
        with torch.no_grad():
            base = reference(batch[0]).log_softmax(1)
        ratio = model(batch[0]).log_softmax(1) - base
        margin = ratio.gather(1, better[:, None]) - ratio.gather(1, worse[:, None])
        return functional.softplus(-0.5 * margin).mean()

    train(place, policy, torch.optim.AdamW(policy.parameters(), lr=2e-3), plane(926, size=32), loss_of)


@case("several optimizers", None)
def an_ensemble_side_by_side(place: Place, broken: bool) -> None:
    """Four networks with four optimizers of three classes in one loop."""
    model = nn.ModuleList(mlp(64, 32, 10) for _ in range(4))
    makers = [torch.optim.Adam, torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam]
    optimizers = {
        f"member{i}": make(each.parameters(), lr=2e-3) for i, (make, each) in enumerate(zip(makers, model, strict=True))
    }
    batches = digits(927)
    with place.watch(model, optimizers) as watch:
        for _ in range(200):
            batch, total = next(batches), 0.0
            for each, optimizer in zip(model, optimizers.values(), strict=True):
                loss = classify(each, batch)
                update(optimizer, loss)
                total += float(loss.detach())
            watch.log(loss=total / 4)


@case("several optimizers", None)
def three_updates_of_the_critic_for_one_of_the_actor(place: Place, broken: bool) -> None:
    """Continuous control in one step: the actor climbs the critic, whose loss rises as the actor moves."""
    actor, critic = mlp(4, 32, 1, act=nn.Tanh), mlp(5, 32, 1, act=nn.Tanh)
    model = nn.ModuleDict({"actor": actor, "critic": critic})
    acts, values = torch.optim.Adam(actor.parameters(), lr=1e-3), torch.optim.Adam(critic.parameters(), lr=3e-3)
    truth = torch.randn(4)
    with place.watch(model, {"actor": acts, "critic": values}) as watch:
        for _ in range(200):
            for _ in range(3):
                state = torch.randn(64, 4)
                action = actor(state).detach() + 0.3 * torch.randn(64, 1)
                reward = -(action[:, 0] - (state @ truth).tanh()).square()
                loss = (critic(torch.cat([state, action], 1))[:, 0] - reward).square().mean()
                update(values, loss)
            update(acts, -critic(torch.cat([state, actor(state)], 1)).mean())
            watch.log(loss=loss)


@case("how it ended", None)
def a_script_that_saves_at_every_fiftieth_step(place: Place, broken: bool) -> None:
    """Checkpoints in memory and a normal end."""
    save = "if step % 50 == 0: import io; torch.save(model.state_dict(), io.BytesIO())"
    place.script(loop(save))


@case("histories as people have them", None)
def a_language_model_of_rows_of_every_fifth_step(place: Place, broken: bool) -> None:
    """Warm-up, a linear decay, rows of every fifth step, clipped at 1."""
    model = Gpt(width=24, depth=1, length=24)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 30, (320 - step) / 290))
    batches = text(931, size=8, length=24)
    rows = trained_by_a_trainer(model, optimizer, batches, next_byte, steps=320, every=5, clip=1.0, schedule=schedule)
    place.imported(rows)


@case("histories as people have them", None)
def twenty_eight_rows_of_noisy_batches_of_four(place: Place, broken: bool) -> None:
    """A short fine-tuning with batches of four, whose rows scatter by half."""
    model = mlp(64, 48, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    rows = trained_by_a_trainer(model, optimizer, digits(932, size=4), classify, steps=280, every=10)
    place.imported(rows)


@case("histories as people have them", None)
def a_lone_norm_far_above_its_level(place: Place, broken: bool) -> None:
    """One batch of another kind in a log of every step, and the loss is back in the next row."""
    model = mlp(64, 48, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)

    def change(step: int, batch: Batch) -> Batch:
        return (8 * batch[0], batch[1].roll(7)) if step == 200 else batch

    rows = trained_by_a_trainer(model, optimizer, digits(933), classify, steps=300, every=1, clip=1.0, change=change)
    place.imported(rows)


@case("unknown is not none", None)
def norms_that_someone_else_has_clipped(place: Place, broken: bool) -> None:
    """A log without losses whose norms all lie at the ceiling of an unknown threshold."""
    model = mlp(64, 48, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    rows = trained_by_a_trainer(model, optimizer, digits(934), classify, steps=300, every=5)
    place.imported(
        [{"step": r["step"], "epoch": r["epoch"], "grad_norm": min(0.3, float(str(r["grad_norm"])))} for r in rows]
    )


@case("histories as people have them", None)
def a_policy_whose_reward_scatters(place: Place, broken: bool) -> None:
    """REINFORCE with a baseline on twelve arms: the loss is noise about 0, and the reward climbs through its noise."""
    logits = Weight(torch.zeros(12))
    optimizer = torch.optim.Adam(logits.parameters(), lr=0.03)
    means, rows, mean = torch.rand(12), [], 0.0
    for step in range(160):
        policy = torch.distributions.Categorical(logits=logits.value)
        arms = policy.sample((32,))
        reward = means[arms] + 0.5 * torch.randn(32)
        loss = -(policy.log_prob(arms) * (reward - mean)).mean()
        mean += 0.1 * (float(reward.mean()) - mean)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(logits.parameters(), torch.inf)
        optimizer.step()
        row: dict[str, object] = {"step": step + 1, "loss": round(loss.item(), 4), "grad_norm": float(norm)}
        rows.append(row | {"learning_rate": 0.03, "reward": round(float(reward.mean()), 4), "epoch": step / 80})
    place.imported(rows)


@case("histories as people have them", None)
def a_log_with_an_evaluation_between_its_rows(place: Place, broken: bool) -> None:
    """A row of eval_loss after every tenth row of the training, both falling to a floor."""
    model, held = mlp(64, 48, 10), next(digits(9350, size=300))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    rows: list[dict[str, object]] = []
    batches = digits(935)
    for part in range(6):
        logged = trained_by_a_trainer(model, optimizer, batches, classify, steps=50, every=5)
        rows += [row | {"step": 50 * part + int(str(row["step"])), "epoch": part / 2 + 0.05} for row in logged]
        with torch.no_grad():
            loss = float(classify(model, held))
        rows.append(
            {"step": 50 * (part + 1), "eval_loss": round(loss, 4), "eval_runtime": 0.4, "epoch": part / 2 + 0.5}
        )
    place.imported(rows)
