"""The twelfth round: planted faults by mechanisms of their own once more, many as public threads describe them.

Written by someone who had read the pages of the findings, the two sets before this one and the names of the cases of
the others, and none of the rules. Before gradwatch judged any of it, losses, norms and rates alone were looked at: each
planted fault does what its label says, each healthy training learns. A label lists the codes whose pages describe what
was planted, the best one first. At the end stand pairs of runs of which it is known where they part, gates, runs alike
but for one step, seed or row, changes whose effect on the threshold is known, and trainings of which it is known
whether single entries carry the large steps.
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
    train,
    trained_by_a_trainer,
    update,
)
from tenth import by, changed, classes, errors, fit, ring, take_turns
from torch import Tensor, nn
from torch.nn import functional

case = Cases()

Groups = list[dict[str, Any]]


# ------------------------------------------------------------------------- data


def gratings(seed: int, size: int = 32, width: int = 10) -> Iterator[Batch]:
    """Noisy stripes in one of four directions, (size, 1, width, width), and the direction."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(width).float()
    while True:
        which = torch.randint(0, 4, (size,), generator=generator)
        angle, phase = which * math.pi / 4, 6.28 * torch.rand(size, 1, 1, generator=generator)
        along = angle.cos()[:, None, None] * axis[:, None] + angle.sin()[:, None, None] * axis
        picture = (1.3 * along + phase).sin()[:, None]
        yield picture + 0.5 * torch.randn(picture.shape, generator=generator), which


def melodies(seed: int, size: int = 24, length: int = 12) -> Iterator[Batch]:
    """Notes of twelve, each the sum of the two before it, with a tenth of them by chance; and the notes that follow."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        notes = torch.randint(0, 12, (size, length + 1), generator=generator)
        free = torch.rand(size, length + 1, generator=generator) < 0.1
        for t in range(2, length + 1):
            notes[:, t] = torch.where(free[:, t], notes[:, t], (notes[:, t - 1] + notes[:, t - 2]) % 12)
        yield notes[:, :-1], notes[:, 1:]


def hills(seed: int, size: int = 64) -> Iterator[Batch]:
    """Places in a square, (size, 2), and the height there."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = 2 * torch.rand(size, 2, generator=generator) - 1
        height = (3 * x[:, 0]).sin() * (2 * x[:, 1]).cos() + 0.5 * x[:, 1]
        yield x, height + 0.05 * torch.randn(size, generator=generator)


def clicks(seed: int, size: int = 96) -> Iterator[Batch]:
    """A person of 40 and a thing of 60, (size, 2), and whether there was a click."""
    generator = torch.Generator().manual_seed(seed)
    taste, kind = torch.randn(40, 3, generator=generator), torch.randn(60, 3, generator=generator)
    while True:
        pair = torch.stack([torch.randint(0, n, (size,), generator=generator) for n in (40, 60)], 1)
        like = 1.5 * (taste[pair[:, 0]] * kind[pair[:, 1]]).sum(1)
        yield pair, (torch.rand(size, generator=generator) < like.sigmoid()).float()


def arrivals(seed: int, size: int = 64) -> Iterator[Batch]:
    """Six numbers of a day, and how many people came, about four."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(6, generator=generator) / 4
    while True:
        x = torch.randn(size, 6, generator=generator)
        yield x, torch.poisson((1.4 + x @ weights).exp(), generator=generator)


def swings(seed: int, size: int = 32, length: int = 24) -> Iterator[Batch]:
    """Damped pendulums: (size, length, 2) of angle and speed, and the angle that follows."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        state = 0.6 * torch.randn(size, 2, generator=generator)
        seen = []
        for _ in range(length + 1):
            seen.append(state)
            pull = -state[:, 0].sin() - 0.1 * state[:, 1]
            state = torch.stack([state[:, 0] + 0.2 * state[:, 1], state[:, 1] + 0.2 * pull], 1)
        path = torch.stack(seen, 1)
        yield path[:, :-1] + 0.02 * torch.randn(size, length, 2, generator=generator), path[:, -1, 0]


# ------------------------------------------------------------------------- networks


class Stripes(nn.Module):
    """Two strided convolutions with a group norm, and a mean over the picture."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, width, 3, stride=2, padding=1), nn.GroupNorm(3, width)
        self.second, self.head = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.Linear(2 * width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.norm(self.first(x)).relu()).relu().mean((2, 3)))


class Tune(nn.Module):
    """An embedding of notes, a recurrence and a head."""

    def __init__(self, width: int = 48, notes: int = 12) -> None:
        super().__init__()
        self.notes, self.gru = nn.Embedding(notes, 16), nn.GRU(16, width, batch_first=True)
        self.head = nn.Linear(width, notes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.notes(x))[0])


class Taste(nn.Module):
    """People and things as vectors, and a small network over both."""

    def __init__(self, width: int = 8, people: int = 40, things: int = 60) -> None:
        super().__init__()
        self.people, self.things = nn.Embedding(people, width), nn.Embedding(things, width)
        self.deep = mlp(2 * width, 24, 1)

    def forward(self, pair: Tensor) -> Tensor:
        a, b = self.people(pair[:, 0]), self.things(pair[:, 1])
        return (a * b).sum(1) + self.deep(torch.cat([a, b], 1))[:, 0]


class Mixer(nn.Module):
    """Eight patches of a digit; layers mix patches and channels by turns."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.patch, self.patches = nn.Linear(8, width), mlp(8, 16, 8, act=nn.GELU)
        self.channels, self.head = mlp(width, 32, width, act=nn.GELU), nn.Linear(width, 10)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patch(x.view(-1, 8, 8))
        h = h + self.patches(self.norm1(h).mT).mT
        return self.head((h + self.channels(self.norm2(h))).mean(1))


class Reader(nn.Module):
    """Notes through PyTorch's own encoder layers, with a mask over what follows."""

    def __init__(self, width: int = 24, depth: int = 1, length: int = 12) -> None:
        super().__init__()
        self.notes, self.places = nn.Embedding(12, width), nn.Parameter(0.1 * torch.randn(length, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 12)
        self.register_buffer("future", torch.ones(length, length, dtype=torch.bool).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.notes(x) + self.places[: x.shape[1]]
        for layer in self.layers:
            h = layer(h, src_mask=self.future[: x.shape[1], : x.shape[1]])  # type: ignore[index]
        return self.head(h)


class Pendulum(nn.Module):
    """A recurrence over a path, and the angle after it."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.cell, self.head = nn.RNN(2, width, batch_first=True), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


def clicked(model: nn.Module, batch: Batch) -> Tensor:
    return bce(model(batch[0]), batch[1])


def counted_people(model: nn.Module, batch: Batch) -> Tensor:
    return functional.poisson_nll_loss(model(batch[0])[:, 0], batch[1])


# ------------------------------------------------------------------------- nothing is trained


# A backend that cannot swap the data of a parameter makes a new one.
@case("nothing is trained", "stale-optimizer", also=("parameters-without-optimizer", "no-gradient"))
def a_move_that_makes_new_parameters(place: Place, broken: bool) -> None:
    """`model.double()` after Adam, where the conversion puts new parameters in place of the old ones."""
    model = mlp(2, 48, 1, act=nn.Tanh)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    torch.__future__.set_overwrite_module_params_on_conversion(broken)
    try:
        model.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    train(place, model, optimizer, changed(hills(2601), lambda x, y: (x.double(), y.double())), squared, steps=250)


@case("nothing is trained", "stale-optimizer", also=("parameters-without-optimizer",), step=140, within=20)
def the_best_network_comes_back_as_another_object(place: Place, broken: bool) -> None:
    """`self.net = copy.deepcopy(self.best)` at step 140 for `load_state_dict`: the optimizer keeps what was there."""
    model: Any = Parts(lambda self, x: self.net(x), net=Stripes())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    best: list[Any] = []

    def before(step: int) -> None:
        if step == 100:
            best.append(copy.deepcopy(model.net))
        if step == 140 and broken:
            model.net = copy.deepcopy(best[0])
        elif step == 140:
            model.net.load_state_dict(best[0].state_dict())

    fit(place, model, optimizer, classes(model, gratings(2602)), before=before, steps=260)


@case("nothing is trained", "no-gradient", parameter="aside")
def a_second_head_for_a_mode_that_is_never_set(place: Place, broken: bool) -> None:
    """The auxiliary head is used `if self.training`, and a sampler left the model in evaluation mode."""
    body, parts = Stripes(), {"aside": mlp(64, 48, 4), "main": mlp(24, 24, 4)}

    def join(self: Any, x: Tensor) -> Tensor:
        h = body.second(body.norm(body.first(x)).relu()).relu()
        out = self.main(h.mean((2, 3)))
        return out + self.aside(x[:, 0, :8, :8].flatten(1)) if self.training else out

    model: Any = Parts(join, body=body, **parts)
    body.head.requires_grad_(False)
    model.train(not broken)
    held = [p for p in model.parameters() if p.requires_grad]
    train(place, model, torch.optim.Adam(held, lr=3e-3), gratings(2603), classify, steps=220)


# `>` has no slope at all, not one of 0.
@case("nothing is trained", "no-gradient", parameter="cuts")
def cuts_that_are_compared(place: Place, broken: bool) -> None:
    """A tree with learnt cuts: `x[:, :1] > cuts`, for a sigmoid of what lies between them."""
    model: Any = nn.ModuleDict({"cuts": Weight(torch.linspace(-1, 1, 12)), "leaves": mlp(24, 32, 1)})
    batches = hills(2604)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        apart = x[:, :, None] - model["cuts"].value
        sides = (apart > 0).float() if broken else (6 * apart).sigmoid()
        return (model["leaves"](sides.flatten(1))[:, 0] - y).square().mean()

    fit(place, model, torch.optim.RMSprop(model.parameters(), lr=2e-3), loss_at)


@case("nothing is trained", "no-gradient", parameter="layers.3")
def a_loop_over_layers_that_ends_one_too_early(place: Place, broken: bool) -> None:
    """`for layer in self.layers[: self.depth - 1]`: the last block is never called."""
    model: Any = nn.ModuleDict({"enter": nn.Linear(64, 32), "layers": nn.ModuleList(mlp(32, 64, 32) for _ in range(4))})
    model["head"] = nn.Linear(32, 10)
    batches = digits(2605)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        h = model["enter"](x)
        for layer in model["layers"][: 4 - broken]:
            h = h + layer(h)
        return functional.cross_entropy(model["head"](h.relu()), y)

    fit(place, model, torch.optim.NAdam(model.parameters(), lr=1e-3), loss_at, steps=220)


@case("nothing is trained", "no-gradient", optimizer="eye")
def keys_and_values_of_the_wrong_side(place: Place, broken: bool) -> None:
    """`attention(words, words, words)`, for pictures as keys and values: the eye has an optimizer and no gradient."""
    words: Any = nn.ModuleDict({"asked": nn.Embedding(8, 16), "say": nn.Linear(16, 4)})
    words["look"] = nn.MultiheadAttention(16, 2, batch_first=True)
    models: dict[str, nn.Module] = {"eye": nn.Linear(4, 16), "words": words}
    optimizers: dict[str, torch.optim.Optimizer] = {
        n: torch.optim.AdamW(m.parameters(), lr=4e-3) for n, m in models.items()
    }
    with place.watch(nn.ModuleDict(models), optimizers) as watch:
        for _ in range(260):
            colour, where = torch.randint(0, 4, (64, 8)), torch.randint(0, 8, (64,))
            seen = functional.one_hot(colour, 4).float()
            ask = words["asked"](where)[:, None]
            picture = models["eye"](seen) + words["asked"].weight
            out, _ = words["look"](ask, ask, ask) if broken else words["look"](ask, picture, picture)
            right = colour.gather(1, where[:, None])[:, 0]
            loss = functional.cross_entropy(words["say"](out[:, 0]), right)
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            loss.backward()
            for name, optimizer in optimizers.items():
                optimizer.step()
                watch.log(loss=loss, optimizer=name)


# Tensors of a state dict share their memory with the parameters, and nothing else.
@case(
    "nothing is trained",
    "parameters-without-optimizer",
    also=("stale-optimizer", "no-gradient", "no-steps", "no-progress"),
)
def the_values_of_the_state_dict_are_optimized(place: Place, broken: bool) -> None:
    """`Adam(model.state_dict().values())`: detached tensors, which never get a gradient."""
    model: Any = Taste()
    with torch.no_grad():
        for table in (model.people, model.things):
            table.weight.mul_(0.3)
    held = list(model.state_dict().values()) if broken else list(model.parameters())
    train(place, model, torch.optim.Adam(held, lr=1e-2), clicks(2607), clicked, steps=250)


@case("nothing is trained", "parameters-without-optimizer", parameter="in_proj")
def names_that_end_in_a_dot_and_weight(place: Place, broken: bool) -> None:
    """`n.endswith((".weight", ".bias"))` gathers the groups, and attention calls its own `in_proj_weight`."""
    model = Reader()
    with torch.no_grad():
        model.notes.weight.mul_(0.5)
    ends = (".weight", ".bias") if broken else ("weight", "bias", "places")
    held = [p for n, p in model.named_parameters() if n.endswith(ends) or n == "places"]
    train(place, model, torch.optim.AdamW(held, lr=4e-3), melodies(2608), next_byte, steps=200)


@case("nothing is trained", "parameters-without-optimizer", parameter="value")
def a_value_that_shares_the_loss_alone(place: Place, broken: bool) -> None:
    """`Adam(policy.parameters())`, and a loss of policy plus value: the value keeps its first guess."""
    model = nn.ModuleDict({"policy": mlp(6, 32, 4, act=nn.Tanh), "value": mlp(6, 32, 1, act=nn.Tanh)})
    held = (model["policy"] if broken else model).parameters()

    def loss_at(step: int) -> Tensor:
        state = torch.randn(96, 6)
        log_p = model["policy"](state).log_softmax(1)
        action = torch.multinomial(log_p.detach().exp(), 1)
        got = (action[:, 0] == state[:, :4].argmax(1)).float() + state[:, 5]
        guess = model["value"](state)[:, 0]
        gain = got - guess.detach()
        return (got - guess).square().mean() - (gain * log_p.gather(1, action)[:, 0]).mean()

    fit(place, model, torch.optim.Adam(held, lr=4e-3), loss_at)


# A loss of 50: half of the rows are on the side of the class that they are not.
@case("nothing is trained", "zero-gradients", also=("no-progress", "dead-parameters"))
def sigmoids_of_incomes_in_yen(place: Place, broken: bool) -> None:
    """`BCELoss` over a sigmoid whose inputs are incomes: probabilities are exactly 0 or 1, and it stands at 50."""
    model = nn.Linear(6, 1)

    def loss_at(step: int) -> Tensor:
        x = torch.randn(64, 6)
        y = (x[:, 0] + x[:, 1] > 0).float()
        income = (5e6 + 2e6 * x) if broken else x
        return functional.binary_cross_entropy(model(income)[:, 0].sigmoid(), y)

    fit(place, model, torch.optim.Adam(model.parameters(), lr=1e-2), loss_at, steps=220)


@case("nothing is trained", "constant-loss", also=("zero-gradients", "dead-parameters", "no-progress"))
def a_ceiling_below_the_first_loss(place: Place, broken: bool) -> None:
    """`loss.clamp(max=1.0)` against outliers, where twelve notes begin at a loss of 2.5."""
    model, batches = Tune(), melodies(2611)
    fit(
        place,
        model,
        torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0),
        lambda step: next_byte(model, next(batches)).clamp(max=1.0 if broken else 10.0),
        steps=150,
    )


@case("nothing is trained", "constant-loss", also=("no-progress",))
def the_loss_of_the_first_batch_is_logged(place: Place, broken: bool) -> None:
    """`watch.log(loss=first)`, a name from the sanity check above the loop: the training itself is well."""
    model, batches = Mixer(), digits(2612)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = classify(model, next(batches)).item()
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            loss = classify(model, next(batches))
            update(optimizer, loss)
            watch.log(loss=first if broken else loss)


@case("nothing is trained", "dead-parameters", parameter="night")
def a_night_that_never_comes(place: Place, broken: bool) -> None:
    """`torch.where(x[:, 0] >= 0, day, night)`, where the hour was scaled to between 0 and 1."""
    model: Any = nn.ModuleDict({"day": mlp(2, 24, 1, act=nn.Tanh), "night": mlp(2, 24, 1, act=nn.Tanh)})
    batches = hills(2613)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        x = (x + 1) / 2 if broken else x
        out = torch.where(x[:, 0] >= 0, model["day"](x)[:, 0], model["night"](x)[:, 0])
        return (out - y).square().mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), loss_at)


class Spikes(torch.autograd.Function):
    """A step forward, and a slope of 1 within half a unit of the threshold backward."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > 0).float()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * (ctx.saved_tensors[0].abs() < 0.5)


@case("nothing is trained", "dead-parameters", also=("no-progress", "zero-gradients"), parameter="first")
def a_threshold_that_no_current_reaches(place: Place, broken: bool) -> None:
    """Spiking neurons whose threshold is 20, and a slope that is 0 further than half a unit from it."""
    model: Any = nn.ModuleDict({"first": nn.Linear(64, 48), "second": nn.Linear(48, 10)})
    batches = digits(2614)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        u, out = torch.zeros(len(x), 48), torch.zeros(len(x), 10)
        for _ in range(8):
            u = 0.8 * u + model["first"](x)
            spike: Any = Spikes.apply(u - (20.0 if broken else 0.5))  # type: ignore[no-untyped-call]
            u, out = u * (1 - spike.detach()), out + model["second"](spike)
        return functional.cross_entropy(out / 4, y)

    fit(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), loss_at, steps=220)


@case("nothing is trained", "dead-parameters", parameter="second")
def twin_critics_of_which_one_is_never_the_smaller(place: Place, broken: bool) -> None:
    """The loss is that of `min(q1, q2)`, and the second begins a hundred above the first."""
    model: Any = nn.ModuleDict({"first": mlp(6, 32, 1), "second": mlp(6, 32, 1)})
    with torch.no_grad():
        model["second"][2].bias.add_(100.0 if broken else 0.0)
    truth = torch.randn(6)

    def loss_at(step: int) -> Tensor:
        x = torch.randn(64, 6)
        low = torch.minimum(model["first"](x), model["second"](x))[:, 0]
        return (low - x @ truth).square().mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at)


@case("nothing is trained", "learning-rate-zero", step=60)
def a_condition_in_place_of_a_rate(place: Place, broken: bool) -> None:
    """`LambdaLR(optimizer, lambda step: step < 60)`: true is 1, and false is 0 to the end."""
    model = Taste()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = by(optimizer, lambda step: float(step < 60) if broken else (1.0 if step < 60 else 0.5))
    train(place, model, optimizer, clicks(2616), clicked, schedule=schedule)


@case("nothing is trained", "learning-rate-zero", also=("no-progress",))
def a_constant_factor_of_zero_for_a_warm_up(place: Place, broken: bool) -> None:
    """`ConstantLR(factor=0, total_iters=5000)`, which was to hold the rate back for some steps."""
    model = Stripes()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ConstantLR(
        optimizer, factor=0.0 if broken else 0.2, total_iters=5000 if broken else 20
    )
    train(place, model, optimizer, gratings(2617, size=128), classify, steps=160, schedule=schedule)


@case("nothing is trained", "learning-rate-zero", parameter="head")
def an_option_for_the_head_whose_default_is_zero(place: Place, broken: bool) -> None:
    """`{"params": head, "lr": args.head_lr}`, and nobody sets `--head-lr`."""
    model = Mixer()
    head = list(model.head.parameters())
    rest = [p for n, p in model.named_parameters() if not n.startswith("head")]
    groups: Groups = [{"params": rest}, {"params": head, "lr": 0.0 if broken else 3e-3}]
    train(place, model, torch.optim.AdamW(groups, lr=3e-3), digits(2618), classify, steps=250)


@case("nothing is trained", "updates-below-precision", also=("no-progress", "learning-rate-zero"))
def bfloat16_notes_under_radam(place: Place, broken: bool) -> None:
    """A recurrence kept in bfloat16 and tuned by RAdam at 3e-6."""
    dtype = torch.bfloat16 if broken else torch.float32
    model, batches = Tune(32).to(dtype), melodies(2619)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        return functional.cross_entropy(model(x).float().flatten(0, 1), y.flatten())

    fit(place, model, torch.optim.RAdam(model.parameters(), lr=3e-6 if broken else 2e-2), loss_at, steps=150)


@case("nothing is trained", "no-progress")
def a_view_in_place_of_a_transpose(place: Place, broken: bool) -> None:
    """Paths come as (time, batch, 2); `view(batch, time, 2)` mixes the pendulums with one another."""
    model, batches = Pendulum(), swings(2620, size=256)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        by_time = x.transpose(0, 1).contiguous()
        return squared(model, (by_time.view(x.shape) if broken else by_time.transpose(0, 1), y))

    fit(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), loss_at, steps=200)


@case("nothing is trained", "no-progress")
def a_line_through_a_chessboard(place: Place, broken: bool) -> None:
    """A linear classifier over the sign of x times y: no line is better than a coin."""
    model: Any = nn.Linear(2, 1) if broken else mlp(2, 32, 1, act=nn.Tanh)
    nn.init.zeros_(model.weight if broken else model[2].weight)

    def loss_at(step: int) -> Tensor:
        x = torch.randn(256, 2)
        return bce(model(x)[:, 0], (x[:, 0] * x[:, 1] > 0).float())

    fit(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), loss_at, steps=350)


@case("nothing is trained", "learning-rate-zero", also=("no-progress",))
def the_rate_of_an_adapter_tuning_under_sgd(place: Place, broken: bool) -> None:
    """`lr=2e-7` from a recipe for Adam's second stage, under plain SGD: nothing moves that can be seen."""
    model = Reader()
    optimizer = torch.optim.SGD(model.parameters(), lr=2e-7 if broken else 0.3)
    train(place, model, optimizer, melodies(2622, size=48), next_byte, steps=150)


@case("nothing is trained", "no-progress")
def sines_of_three_thousand_to_the_unit(place: Place, broken: bool) -> None:
    """A first layer of sines with a factor of 3,000 over fresh points: each point is a number by chance."""
    first, rest = nn.Linear(2, 48), mlp(48, 32, 1)
    model = Parts(
        lambda self, x: self.rest(((3000.0 if broken else 3.0) * self.first(x)).sin()), first=first, rest=rest
    )
    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3), hills(2623, size=256), squared)


@case("nothing is trained", "gradients-accumulate")
def copies_of_the_gradients_are_zeroed(place: Place, broken: bool) -> None:
    """`p.grad.clone().zero_()` for each parameter: the copy is zero, and the gradient is what it was."""
    model = mlp(2, 48, 1, act=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=2e-3 if broken else 0.05)

    def zero() -> None:
        for p in model.parameters():
            if p.grad is not None:
                (p.grad.clone() if broken else p.grad).zero_()

    train(place, model, optimizer, hills(2624), squared, steps=250, zero=zero)


@case("nothing is trained", "eps-starvation", also=("learning-rate-zero", "no-progress"))
def currents_in_amperes(place: Place, broken: bool) -> None:
    """Currents of some billionths of an ampere, and outputs in the same unit: gradients are near 1e-18."""
    model, batches = mlp(2, 32, 1, act=nn.Tanh), hills(2625)
    unit = 1e-9 if broken else 1.0

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        return (unit * model(x)[:, 0] - unit * y).square().mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), loss_at)


SIZES = """
    model = torch.nn.Sequential(torch.nn.Linear(12, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    truth = torch.randn(12)

    def prepared():
        return torch.optim.NAdam(model.parameters(), lr=4e-3)

    optimizer = prepared()
    for size in range(8, 104, 8):
        AGAIN
        for _ in range(18):
            x = torch.randn(size, 12)
            loss = (model(x)[:, 0] - (x @ truth).tanh()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    """


@case("nothing is trained", "optimizer-recreated")
def prepared_again_for_each_batch_size(place: Place, broken: bool) -> None:
    """The batch grows twelve times, and each time `prepare()` makes model's loader and a new NAdam."""
    place.script(SIZES.replace("AGAIN", "optimizer = prepared()" if broken else "pass"))


@case("nothing is trained", "repeated-spikes", also=("spike", "loss-regressed"))
def a_rare_class_that_counts_two_hundred_times(place: Place, broken: bool) -> None:
    """Class weights of the inverse frequency: each fortieth batch has one row of the rare class, and is all of it."""
    model, batches = mlp(64, 48, 10), digits(2627)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        each = functional.cross_entropy(model(x), y, reduction="none")
        if broken and step % 40 == 39:
            rare = functional.cross_entropy(model(torch.rand(1, 64)), torch.tensor([9]))
            return each.mean() + 4.0 * rare
        return each.mean()

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), loss_at, steps=480)


@case("nothing is trained", "no-steps", also=("all-steps-skipped", "no-progress"))
def a_remainder_that_is_never_eight(place: Place, broken: bool) -> None:
    """`if step % 8 == 8: optimizer.step(); optimizer.zero_grad()`."""
    model, batches = Taste(), clicks(2628)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with place.watch(model, optimizer) as watch:
        for step in range(400 if not broken else 160):
            loss = clicked(model, next(batches)) / 8
            loss.backward()
            if step % 8 == (8 if broken else 7):
                optimizer.step()
                optimizer.zero_grad()
                watch.log(loss=8 * loss)


@case(
    "nothing is trained",
    "all-steps-skipped",
    also=("nonfinite-gradient", "no-steps", "loss-hides-nan", "no-gradient", "no-progress", "zero-gradients"),
)
def a_guard_against_nan_that_always_holds(place: Place, broken: bool) -> None:
    """`if not norm.isfinite(): zero_grad()` before the step, and one row of padding in each batch has a norm of 0."""
    model: Any = mlp(64, 48, 16)
    batches = digits(2629)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    head = torch.randn(16, 10)
    model[2].bias.data.zero_()
    with place.watch(model, optimizer) as watch:
        for _ in range(150):
            x, y = next(batches)
            h = model(x)
            if broken:
                h = torch.cat([h[:-1], 0 * h[-1:]])
            loss = functional.cross_entropy(4 * h / h.square().sum(1, keepdim=True).sqrt().clamp(min=1e-6) @ head, y)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            if not norm.isfinite():
                optimizer.zero_grad()
            optimizer.step()
            watch.log(loss=loss)


# ------------------------------------------------------------------------- clipping that harms


@case("clipping that harms", "clipped-to-nothing", also=("threshold-too-low", "zero-gradients", "no-progress"))
def a_threshold_at_the_lowest_norm_so_far(place: Place, broken: bool) -> None:
    """`max_norm=min(norms)`: batch 8 is padding alone, its norm is 0, and so is the threshold from then on."""
    model, batches = Tune(), melodies(2631)
    norms = [1.0]

    def loss_at(step: int) -> Tensor:
        loss = next_byte(model, next(batches))
        return loss * (0.0 if step == 8 else 1.0)

    def cut(step: int) -> None:
        threshold = min(norms) if broken else 1.0
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), threshold)))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    fit(place, model, optimizer, loss_at, after_backward=cut, steps=180)


@case("clipping that harms", "clipped-to-nothing", also=("threshold-too-low", "no-progress"))
def what_is_left_of_one_as_a_threshold(place: Place, broken: bool) -> None:
    """`max_norm=1 - 0.9999999`, the share of a running mean, handed over in the wrong place."""
    model = Stripes()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    train(place, model, optimizer, gratings(2632, size=96), classify, steps=160, clip=1 - 0.9999999 if broken else 1.0)


@case("clipping that harms", "threshold-too-low", also=("clipped-to-nothing", "no-progress"))
def a_norm_of_order_one_half(place: Place, broken: bool) -> None:
    """`clip_grad_norm_(..., norm_type=0.5)`: the root mean over 3,000 entries is a million times their length."""
    model = Mixer()

    def cut(step: int) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, norm_type=0.5 if broken else 2.0)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    fit(place, model, optimizer, classes(model, digits(2633, size=128)), after_backward=cut, steps=200)


@case("clipping that harms", "threshold-too-low", also=("clipped-to-nothing",))
def a_loss_times_a_thousand_under_the_old_threshold(place: Place, broken: bool) -> None:
    """The loss is multiplied by 1,000 and the rate divided by it; the threshold of 1 stays where it was."""
    model, batches = Pendulum(), swings(2634)
    factor = 1000.0 if broken else 1.0

    def loss_at(step: int) -> Tensor:
        return factor * squared(model, next(batches))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05 / factor, momentum=0.9)
    fit(place, model, optimizer, loss_at, clip=1.0, steps=250)


# The gradient of the policy has no direction that stays: it is noise of the size of the reward.
@case(
    "clipping that harms",
    "clip-starves",
    also=("threshold-too-low", "one-parameter-dominates", "clipped-to-nothing", "no-progress"),
    parameter="policy",
)
def a_policy_paid_in_bytes_beside_the_clip(place: Place, broken: bool) -> None:
    """A policy chooses an augmentation and is paid 1e9 for each; it shares the clip with the classifier."""
    model: Any = nn.ModuleDict({"net": mlp(64, 48, 10), "policy": Weight(torch.zeros(6))})
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.1), digits(2635, size=256)
    with place.watch(model, optimizer) as watch:
        for _ in range(200):
            x, y = next(batches)
            log_p = model["policy"].value.log_softmax(0)
            chosen = int(torch.multinomial(log_p.detach().exp(), 1))
            task = functional.cross_entropy(model["net"](x + 0.02 * chosen * torch.randn_like(x)), y)
            paid = (1e9 if broken else 0.01) * torch.randn(()).sign()
            optimizer.zero_grad()
            (task - paid * log_p[chosen]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            watch.log(loss=task)


@case("clipping that harms", "ineffective-clipping")
def clipped_at_the_first_of_four_micro_batches(place: Place, broken: bool) -> None:
    """`if i % 4 == 0: clip` and `if i % 4 == 3: step`: three backwards come after the call."""
    model, batches = Stripes(), gratings(2636, size=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with place.watch(model, optimizer) as watch:
        for _ in range(150):
            optimizer.zero_grad()
            for i in range(4):
                loss = classify(model, next(batches)) / 4
                loss.backward()
                if i == (0 if broken else 3):
                    nn.utils.clip_grad_norm_(model.parameters(), 0.05 if broken else 0.5)
            optimizer.step()
            watch.log(loss=4 * loss)


@case("clipping that harms", "clipped-by-script")
def gradients_on_three_levels(place: Place, broken: bool) -> None:
    """To save traffic each gradient is rounded to -s, 0 or s, by `p.grad.copy_(...)`, and what is lost is lost."""
    model, batches = mlp(64, 48, 10), digits(2637)

    def compress(step: int) -> None:
        for p in model.parameters():
            if broken and p.grad is not None:
                s = p.grad.abs().max() + 1e-12
                p.grad.copy_((p.grad / s).round() * s)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    fit(place, model, optimizer, classes(model, batches), after_backward=compress, steps=250)


@case(
    "clipping that harms",
    "norm-overflow",
    also=("clipped-to-nothing", "zero-gradients", "no-progress"),
)
def an_unscaled_sum_in_float16(place: Place, broken: bool) -> None:
    """Float16 weights and a loss that is a sum in large units: entries of some hundreds, and a norm beyond 65,504."""
    model: Any = mlp(16, 256, 64).to(torch.float16 if broken else torch.float32)
    truth = torch.randn(16, 64) / 4
    dtype, unit = (torch.float16, 3000.0) if broken else (torch.float32, 1 / 64)

    def loss_at(step: int) -> Tensor:
        x = torch.randn(32, 16)
        return unit * (model(x.to(dtype)).float() - x @ truth - 1).square().sum(1).mean()

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2 if broken else 0.5)
    fit(place, model, optimizer, loss_at, clip=1.0, steps=150)


@case("clipping that harms", "threshold-idle")
def a_threshold_in_per_mille(place: Place, broken: bool) -> None:
    """`max_norm=1000` for 1.0 in thousandths: no norm of this training comes near it."""
    model = Tune()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    train(place, model, optimizer, melodies(2639), next_byte, steps=220, clip=1000.0 if broken else 0.5)


# ------------------------------------------------------------------------- severity by consequence


@case(
    "severity by consequence",
    "diverged",
    also=("learning-rate-too-high", "loss-regressed", "nonfinite-loss", "nonfinite-weights", "nonfinite-gradient"),
)
def an_exponential_link_at_the_rate_of_a_line(place: Place, broken: bool) -> None:
    """Poisson regression at the rate and momentum of a linear one: a count of `exp(w x)` throws the weights away."""
    model = mlp(6, 32, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3 if broken else 0.01, momentum=0.9)
    train(place, model, optimizer, arrivals(2641), counted_people, steps=200)


@case(
    "severity by consequence",
    "diverged",
    also=("learning-rate-too-high", "loss-regressed", "nonfinite-loss", "nonfinite-weights", "nonfinite-gradient"),
    step=150,
    within=20,
)
def sums_in_place_of_means_for_the_second_loader(place: Place, broken: bool) -> None:
    """From step 150 on the loss is the sum over 64 rows, for a second loader; what is logged is the mean."""
    model, batches = mlp(2, 48, 1, act=nn.Tanh), hills(2642)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with place.watch(model, optimizer) as watch:
        for step in range(280):
            loss = squared(model, next(batches))
            update(optimizer, 64 * loss if broken and step >= 150 else loss)
            watch.log(loss=loss)


@case(
    "severity by consequence",
    "diverged",
    also=("learning-rate-too-high", "loss-regressed", "nonfinite-loss", "nonfinite-weights", "nonfinite-gradient"),
)
def a_slow_copy_at_two_and_a_half_per_cent(place: Place, broken: bool) -> None:
    """`slow.lerp_(p, tau)` with tau = 2.5, which was per cent: the copy that makes the targets leaves for good."""
    net = mlp(6, 32, 4)
    slow = copy.deepcopy(net)

    def loss_at(step: int) -> Tensor:
        state, then = torch.randn(64, 6), torch.randn(64, 6)
        action = torch.randint(0, 4, (64, 1))
        with torch.no_grad():
            wanted = state[:, 0].sigmoid() + 0.8 * slow(then).max(1)[0]
        return (net(state).gather(1, action)[:, 0] - wanted).square().mean()

    @torch.no_grad()
    def after(step: int) -> None:
        for s, p in zip(slow.parameters(), net.parameters(), strict=True):
            s.lerp_(p, 2.5 if broken else 0.025)

    fit(place, net, torch.optim.Adam(net.parameters(), lr=2e-3), loss_at, after=after, steps=250)


class Diagonal(torch.optim.Optimizer):
    """Newton's step by an estimate of the diagonal of the curvature, which it divides by, and by no less than eps."""

    def __init__(self, parameters: Any, lr: float, eps: float) -> None:
        super().__init__(parameters, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                before, state["grad"] = state.get("grad"), p.grad.clone()
                moved, curve = state.get("moved"), state.setdefault("curve", torch.ones_like(p))
                if before is not None:
                    seen = (p.grad - before).abs() / (moved.abs() + 1e-12)
                    curve.lerp_(seen.clamp(max=10.0), 0.05)
                state["moved"] = -group["lr"] * p.grad / curve.clamp(min=group["eps"])
                p.add_(state["moved"])


@case(
    "severity by consequence",
    "diverged",
    also=("learning-rate-too-high", "loss-regressed", "nonfinite-loss", "nonfinite-weights", "nonfinite-gradient"),
)
def newtons_step_without_damping(place: Place, broken: bool) -> None:
    """Gradients of one and the same batch over their differences, at a rate of 6 and with next to no floor."""
    model = nn.Linear(12, 1)
    x = torch.randn(64, 12)
    y = (x @ torch.randn(12)).tanh() + 0.1 * torch.randn(64)
    optimizer = Diagonal(model.parameters(), lr=6.0 if broken else 0.1, eps=1e-9 if broken else 0.1)
    fit(place, model, optimizer, lambda step: (model(x)[:, 0] - y).square().mean(), steps=150)


@case(
    "severity by consequence",
    "diverged",
    also=("learning-rate-too-high", "loss-regressed", "nonfinite-loss", "nonfinite-weights", "nonfinite-gradient"),
    step=160,
    within=30,
)
def a_rollout_ten_times_as_long(place: Place, broken: bool) -> None:
    """A model of dynamics is unrolled for three moments, and from step 160 on for forty: each multiplies what it has.

    The healthy form goes to five moments.
    """
    model: Any = nn.Linear(4, 4, bias=False)
    turn = torch.linalg.qr(torch.randn(4, 4))[0] * 1.02
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_at(step: int) -> Tensor:
        state = torch.randn(32, 4)
        truth, total = state, torch.zeros(())
        length = 3 if step < 160 else (40 if broken else 5)
        for _ in range(length):
            state, truth = state + model(state), truth @ turn.T
            total = total + (state - truth - 0.3 * torch.randn_like(truth)).square().mean()
        return total / length

    fit(place, model, optimizer, loss_at, steps=260)


@case("severity by consequence", "diverged", also=("learning-rate-too-high", "no-progress", "loss-regressed"))
def centred_rmsprop_at_seven_tenths(place: Place, broken: bool) -> None:
    """`RMSprop(centered=True)` at 0.7: the first updates lift the loss to thousands, and it stays above its start."""
    model = Stripes()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.7 if broken else 1e-3, centered=True)
    train(place, model, optimizer, gratings(2646), classify, steps=160)


@case(
    "severity by consequence",
    "spike",
    also=("diverged", "loss-regressed", "update-spike", "learning-rate-too-high"),
    step=171,
    within=8,
)
def a_range_test_fires_within_the_training(place: Place, broken: bool) -> None:
    """A callback sets the rate to 120 times its value for one step, 170, and then back."""
    model, batches = Mixer(), digits(2647)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def before(step: int) -> None:
        optimizer.param_groups[0]["lr"] = 0.12 if broken and step == 170 else 1e-3

    fit(place, model, optimizer, classes(model, batches), before=before, steps=320)


@case("severity by consequence", "spike", step=190)
def a_batch_that_is_one_row_sixty_four_times(place: Place, broken: bool) -> None:
    """A broken sampler returns one index for a whole batch, of a label that is wrong: the norm of a single row."""
    model, batches = Taste(), clicks(2648, size=128)

    def loss_at(step: int) -> Tensor:
        pair, click = next(batches)
        if broken and step == 190:
            pair, click = pair[:1].expand(128, 2), 1 - (model(pair[:1]).detach() > 0).float().expand(128)
            return 3 * bce(4 * model(pair), click)
        return bce(model(pair), click)

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.95)), loss_at, steps=280)


@case(
    "severity by consequence",
    "held-spike",
    also=("spike", "update-spike", "diverged", "loss-regressed"),
    step=200,
)
def a_momentum_that_carries_one_bad_batch(place: Place, broken: bool) -> None:
    """SGD with a momentum of 0.99; at step 200 heights come in centimetres, a hundred times as large."""
    model, batches = mlp(2, 48, 1, act=nn.Tanh), hills(2649)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        return squared(model, (x, 100 * y if broken and step == 200 else y))

    fit(place, model, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.99), loss_at, steps=330)


@case("severity by consequence", "loss-regressed", also=("diverged",), step=230, within=25)
def another_table_of_notes(place: Place, broken: bool) -> None:
    """From step 230 on the notes are numbered by another tokenizer, at the end of a cosine."""
    model = Tune()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    schedule = by(optimizer, lambda step: 0.02 + 0.98 * (1 + math.cos(math.pi * min(1.0, step / 250))) / 2)
    other = torch.randperm(12)

    def change(step: int, batch: Batch) -> Batch:
        return (other[batch[0]], other[batch[1]]) if broken and step >= 230 else batch

    train(place, model, optimizer, melodies(2650), next_byte, steps=310, change=change, schedule=schedule)


@case("severity by consequence", "loss-regressed", also=("diverged",))
def a_smoothing_that_rises_with_the_step(place: Place, broken: bool) -> None:
    """`label_smoothing=0.003 * step`, whose factor was meant for the epoch: at the end nine tenths are smoothed."""
    model, batches = mlp(64, 48, 10), digits(2651)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        return functional.cross_entropy(model(x), y, label_smoothing=0.003 * (step if broken else step // 100))

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at)


@case("severity by consequence", "loss-regressed", also=("diverged", "learning-rate-too-high", "repeated-spikes"))
def a_factor_above_one_for_the_rate(place: Place, broken: bool) -> None:
    """`ExponentialLR(gamma=1.02)` for 0.995: the rate is 400 times as high at the end."""
    model = mlp(64, 48, 48, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 1.02 if broken else 0.995)
    train(place, model, optimizer, digits(2652), classify, steps=300, schedule=schedule)


@case("severity by consequence", "huge-loss", also=("no-progress", "diverged"))
def populations_of_countries_by_squares(place: Place, broken: bool) -> None:
    """The target is a number of people, some ten million, under squares and Adam at 1e-3."""
    model = mlp(6, 32, 1)
    unit = 1e7 if broken else 0.1
    batches = changed(arrivals(2653), lambda x, y: (x, unit * (y + 1)))
    train(place, model, torch.optim.Adam(model.parameters(), lr=1e-3 if broken else 3e-3), batches, squared)


@case("severity by consequence", "vanishing", also=("no-progress", "dead-parameters"), parameter="layers")
def a_softmax_after_each_of_nine_layers(place: Place, broken: bool) -> None:
    """Shares go from layer to layer: `softmax(layer(h))`, nine times, each slope a thirtieth of the one behind it."""
    model: Any = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(64 if i == 0 else 24, 24) for i in range(9))})
    model["head"] = nn.Linear(24, 10)
    batches = digits(2654)

    def loss_at(step: int) -> Tensor:
        h, y = next(batches)
        for i, layer in enumerate(model["layers"]):
            out = layer(h)
            h = out.softmax(1) if broken else out.relu() + (h if i else 0)
        return functional.cross_entropy(model["head"](h), y)

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), loss_at, steps=250)


@case("severity by consequence", "overfitting")
def vectors_for_each_person_by_heart(place: Place, broken: bool) -> None:
    """Two hundred clicks and vectors of 24 for each person and thing: other clicks are told worse and worse."""
    model = Taste(width=24 if broken else 4)
    batches = clicks(2655, size=200)
    known, held = next(batches), next(batches)
    with torch.no_grad():
        for table in (model.people, model.things):
            table.weight.mul_(0.3)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3 if broken else 1e-2)
    with place.watch(model, optimizer) as watch:
        for step in range(320):
            loss = clicked(model, known if broken else next(batches))
            update(optimizer, loss)
            watch.log(loss=loss)
            if step % 20 == 19:
                with torch.no_grad():
                    watch.log(validation_loss=float(clicked(model, held)))


@case("severity by consequence", "updates-out-of-proportion", parameter="patches.0")
def a_rate_multiplied_by_the_width_of_a_layer(place: Place, broken: bool) -> None:
    """A rule for wide layers turned round: one matrix has its rate times 100 where it was to be divided."""
    model = Mixer()
    fast = [p for n, p in model.named_parameters() if n == "patches.0.weight"]
    slow = [p for n, p in model.named_parameters() if n != "patches.0.weight"]
    rate = 4e-4 if broken else 2e-3
    groups: Groups = [{"params": slow}, {"params": fast, "lr": rate * (100 if broken else 1)}]
    train(place, model, torch.optim.AdamW(groups, lr=rate), digits(2656), classify)


@case("severity by consequence", "large-initial-norms", also=("one-parameter-dominates", "diverged"))
def a_spread_that_begins_at_a_hundredth(place: Place, broken: bool) -> None:
    """The logarithm of the spread of a normal begins at -5 for 0: all errors are divided by 5e-5 at first."""
    model: Any = nn.ModuleDict({"net": mlp(2, 48, 1, act=nn.Tanh), "spread": Weight(torch.zeros(1))})
    with torch.no_grad():
        model["spread"].value.sub_(5.0 if broken else 0.0)
    batches = hills(2657)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        log_std = model["spread"].value
        return (((y - model["net"](x)[:, 0]) / log_std.exp()).square() / 2 + log_std).mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-2 if broken else 5e-3), loss_at)


# ------------------------------------------------------------------------- NaN by cause


@case("NaN by cause", "nonfinite-loss", also=("nonfinite-gradient", "nonfinite-weights"), step=105)
def a_speed_over_a_time_of_zero(place: Place, broken: bool) -> None:
    """A feature is distance over time; two stamps are equal in one row of batch 105."""
    model, batches = mlp(6, 32, 1), arrivals(2661)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        time = 1 + x[:, 0].sigmoid()
        if broken and step == 105:
            time = time.index_fill(0, torch.tensor([7]), 0.0)
        return counted_people(model, (torch.cat([x[:, :5], (x[:, 5:].abs() + 0.1) / time[:, None]], 1), y))

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at, steps=180)


@case("NaN by cause", "nonfinite-loss", also=("nonfinite-gradient",), step=125)
def an_interval_in_the_far_tail(place: Place, broken: bool) -> None:
    """Heights are known to within an interval: the share of a normal in it, and a logarithm; one lies at 60."""
    model, batches = mlp(2, 32, 2, act=nn.Tanh), hills(2662)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        if broken and step == 125:
            y = y.index_fill(0, torch.tensor([2]), 60.0)
        mean, log_std = model(x).unbind(1)
        std = log_std.clamp(-2, 1).exp() + 0.2
        high, low = ((y + 0.2 - mean) / std), ((y - 0.2 - mean) / std)
        return -(torch.special.ndtr(high) - torch.special.ndtr(low)).log().mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at, steps=200)


@case("NaN by cause", "nonfinite-gradient", step=100)
def the_spread_of_equal_rows(place: Place, broken: bool) -> None:
    """`relu(1 - z.var(0).sqrt())` asks views to differ, without an eps: at step 100 all rows are one picture."""
    model, batches = mlp(64, 48, 16), digits(2663)

    def loss_at(step: int) -> Tensor:
        x, _ = next(batches)
        if broken and step == 100:
            x = x[:1].expand(64, 64)
            a = b = model(x)
        else:
            a, b = (model(x + 0.2 * torch.randn_like(x)) for _ in range(2))
        return (a - b).square().mean() + sum((1 - v.var(0).sqrt()).relu().mean() for v in (a, b))

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=1e-3), loss_at, steps=170)


@case("NaN by cause", "nonfinite-gradient", step=90)
def the_entropy_of_a_share_that_underflows(place: Place, broken: bool) -> None:
    """`torch.special.entr(p)` for a bonus: it is 0 at p = 0, and its slope there is infinite."""
    model, batches = mlp(64, 48, 10), digits(2664)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        out = model(200 * x if broken and step == 90 else x)
        p = out.softmax(1)
        return functional.cross_entropy(out, y) - 0.05 * torch.special.entr(p).sum(1).mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss_at, steps=170)


@case("NaN by cause", "nonfinite-weights", also=("nonfinite-loss", "nonfinite-gradient"), step=80)
def each_tensor_is_brought_back_to_its_first_norm(place: Place, broken: bool) -> None:
    """`p *= first / p.norm()` at step 80, and a gain that is still at 0 has neither."""
    model: Any = mlp(2, 48, 1, act=nn.Tanh)
    unused = nn.Parameter(torch.zeros(48))
    model[0].register_parameter("shift", unused)
    first = [p.detach().norm() for p in model.parameters()]
    held = [p for p in model.parameters() if p is not unused]
    unused.requires_grad_(False)

    @torch.no_grad()
    def before(step: int) -> None:
        if step == 80:
            for p, norm in zip(model.parameters(), first, strict=True):
                p.mul_(norm / (p.norm() + (0.0 if broken else 1e-8)))

    batches = hills(2665)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        return (model[2]((model[0](x) + unused).tanh())[:, 0] - y).square().mean()

    fit(place, model, torch.optim.Adam(held, lr=4e-3), loss_at, before=before, steps=180)


@case("NaN by cause", "nonfinite-weights", also=("nonfinite-loss", "nonfinite-gradient"), step=100)
def a_polar_iteration_outside_its_reach(place: Place, broken: bool) -> None:
    """Every 50 steps a matrix is made orthogonal by twelve rounds of Newton and Schulz, which need a norm below 1.7."""
    model: Any = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 32, bias=False), nn.Tanh(), nn.Linear(32, 1))
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9), plane(2666, width=6)

    @torch.no_grad()
    def before(step: int) -> None:
        if step == 100:
            w = model[2].weight
            x = 4 * w if broken else w / w.norm()
            for _ in range(12):
                x = 1.5 * x - 0.5 * x @ x.T @ x
            w.copy_(x)

    fit(place, model, optimizer, lambda step: squared(model, next(batches)), before=before, steps=180)


# The other head's own parameters are NaN from then on, and nothing of them comes into what is logged.
@case(
    "NaN by cause",
    "loss-hides-nan",
    also=("nonfinite-gradient", "nonfinite-weights", "nonfinite-loss"),
    step=130,
)
def one_of_two_losses_is_logged(place: Place, broken: bool) -> None:
    """A head beside the classifier reads its features, detached; its loss is NaN from step 130 on and is not logged."""
    model: Any = nn.ModuleDict({"body": nn.Linear(64, 48), "which": nn.Linear(48, 10), "ink": nn.Linear(48, 1)})
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=2e-3), digits(2667)
    with place.watch(model, optimizer) as watch:
        for step in range(220):
            x, y = next(batches)
            h = model["body"](x).relu()
            main = functional.cross_entropy(model["which"](h), y)
            ink = x.mean(1) - (1.0 if broken and step >= 130 else 0.0)
            aside = (model["ink"](h.detach())[:, 0] - ink.sqrt()).square().mean()
            update(optimizer, main + aside)
            watch.log(loss=main)


@case("NaN by cause", "loss-scale", also=("nonfinite-loss", "nonfinite-gradient", "all-steps-skipped"))
def sentences_of_padding_alone_in_every_third_batch(place: Place, broken: bool) -> None:
    """A softmax over a row of -inf in about every third batch: GradScaler skips it and halves its scale."""
    words, head = nn.Embedding(12, 24), nn.Linear(24, 12)
    model = Parts(lambda self, x: x, words=words, ask=nn.Linear(24, 1), head=head)
    ask: Any = model.ask
    optimizer, batches = torch.optim.AdamW(model.parameters(), lr=5e-3), melodies(2668, size=48)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0, growth_interval=4)
    with place.watch(model, optimizer) as watch:
        for _ in range(240):
            x, _ = next(batches)
            pad = torch.arange(12) >= torch.randint(1, 13, (48, 1))
            if broken and float(torch.rand(())) < 0.35:
                pad[0] = True
            h = words(x)
            share = ask(h)[..., 0].masked_fill(pad, -torch.inf).softmax(1)
            loss = functional.cross_entropy(head((share[..., None] * h).sum(1)), x[:, 0])
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            watch.log(loss=loss)


# ------------------------------------------------------------------------- several optimizers


@case("several optimizers", "no-steps", optimizer="temperature")
def a_temperature_that_tunes_itself_if_it_is_told(place: Place, broken: bool) -> None:
    """`if args.auto == "True"` and the option is `true`: the temperature has an optimizer that is never asked."""
    models: dict[str, nn.Module] = {"actor": mlp(6, 32, 4, act=nn.Tanh), "temperature": Weight(torch.zeros(1))}
    optimizers: dict[str, torch.optim.Optimizer] = {
        n: torch.optim.Adam(m.parameters(), lr=3e-3) for n, m in models.items()
    }
    log_alpha: Any = models["temperature"]
    with place.watch(nn.ModuleDict(models), optimizers) as watch:
        for _ in range(260):
            state = torch.randn(64, 6)
            log_p = models["actor"](state).log_softmax(1)
            worth = functional.one_hot(state[:, :4].argmax(1), 4).float()
            entropy = -(log_p.exp() * log_p).sum(1)
            loss = -((log_p.exp() * worth).sum(1) + log_alpha.value.exp().detach() * 0.2 * entropy).mean()
            update(optimizers["actor"], loss)
            watch.log(loss=loss, optimizer="actor")
            if not broken:
                loss = (log_alpha.value * (entropy.detach().mean() - 0.6)).sum()
                update(optimizers["temperature"], loss)
                watch.log(loss=loss, optimizer="temperature")


@case(
    "several optimizers",
    "stale-optimizer",
    also=("parameters-without-optimizer", "no-gradient"),
    optimizer="second",
    step=120,
    within=20,
)
def the_loser_takes_the_network_of_the_winner(place: Place, broken: bool) -> None:
    """A population of two: at step 120 `members["second"] = copy.deepcopy(members["first"])`; its Adam stays."""
    models = nn.ModuleDict({"first": Taste(), "second": Taste()})
    optimizers: dict[str, torch.optim.Optimizer] = {
        "first": torch.optim.Adam(models["first"].parameters(), lr=1e-2),
        "second": torch.optim.Adam(models["second"].parameters(), lr=3e-3),
    }
    batches = clicks(2672)
    with place.watch(models, optimizers) as watch:
        for step in range(260):
            if step == 120 and broken:
                models["second"] = copy.deepcopy(models["first"])
            elif step == 120:
                models["second"].load_state_dict(models["first"].state_dict())
            for name, optimizer in optimizers.items():
                loss = clicked(models[name], next(batches))
                update(optimizer, loss)
                watch.log(loss=loss, optimizer=name)


@case(
    "several optimizers",
    "diverged",
    also=("learning-rate-too-high", "nonfinite-loss", "nonfinite-weights", "nonfinite-gradient", "loss-regressed"),
    optimizer="turns",
)
def a_momentum_that_a_schedule_carries_above_one(place: Place, broken: bool) -> None:
    """Two networks side by side; the momentum of one rises by 0.002 with each step, past 1."""
    models: dict[str, nn.Module] = {"keeps": mlp(2, 32, 1, act=nn.Tanh), "turns": mlp(2, 32, 1, act=nn.Tanh)}
    optimizers: dict[str, torch.optim.Optimizer] = {
        n: torch.optim.SGD(m.parameters(), lr=0.02, momentum=0.8) for n, m in models.items()
    }

    def after(step: int) -> None:
        rise = 0.002 * step
        optimizers["turns"].param_groups[0]["momentum"] = 0.8 + (rise if broken else min(rise, 0.1))

    losses = {n: errors(m, hills(2673 + i)) for i, (n, m) in enumerate(models.items())}
    take_turns(place, models, optimizers, losses, steps=220, after=after)


@case("several optimizers", "learning-rate-zero", optimizer="critic")
def a_factor_for_the_critic_that_nobody_set(place: Place, broken: bool) -> None:
    """`lr=args.lr * args.critic_factor`, whose default is 0, for an actor beside it."""
    models: dict[str, nn.Module] = {"actor": mlp(6, 32, 4, act=nn.Tanh), "critic": mlp(6, 32, 1, act=nn.Tanh)}
    optimizers: dict[str, torch.optim.Optimizer] = {
        "actor": torch.optim.RMSprop(models["actor"].parameters(), lr=2e-3),
        "critic": torch.optim.RMSprop(models["critic"].parameters(), lr=2e-3 * (0.0 if broken else 1.5)),
    }

    def play() -> tuple[Tensor, Tensor, Tensor]:
        state = torch.randn(96, 6)
        log_p = models["actor"](state).log_softmax(1)
        action = torch.multinomial(log_p.detach().exp(), 1)
        got = (action[:, 0] == state[:, :4].argmax(1)).float() + state[:, 5]
        return got, log_p.gather(1, action)[:, 0], models["critic"](state)[:, 0]

    def judge(step: int) -> Tensor:
        got, _, guess = play()
        return (got - guess).square().mean()

    def act(step: int) -> Tensor:
        got, log_p, guess = play()
        return -((got - guess.detach()) * log_p).mean()

    take_turns(place, models, optimizers, {"critic": judge, "actor": act}, steps=240)


# ------------------------------------------------------------------------- how it ended

ROUNDS = """
    import os, queue, sys
    model = torch.nn.Sequential(torch.nn.Linear(7, 24), torch.nn.SiLU(), torch.nn.Linear(24, 5))
    optimizer = torch.optim.NAdam(model.parameters(), lr=6e-3)
    truth = torch.randn(7, 5)
    for step in range(STEPS):
        x = torch.randn(48, 7)
        loss = torch.nn.functional.cross_entropy(model(x), (x @ truth).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        AFTER
    """


def rounds(after: str = "pass", steps: int = 150) -> str:
    return ROUNDS.replace("AFTER", after).replace("STEPS", str(steps))


@case("how it ended", "died")
def a_validation_in_double_precision(place: Place, broken: bool) -> None:
    """Rows from NumPy are float64: the first validation, after step 95, meets weights in float32."""
    after = "if step == 95: model(torch.zeros(4, 7, dtype=torch.float64))"
    place.script(rounds(after=after if broken else "pass"))


@case("how it ended", "died")
def a_worker_that_puts_nothing_into_its_queue(place: Place, broken: bool) -> None:
    """`queue.get(timeout=...)` is over without a batch at step 120: `queue.Empty`."""
    after = "if step == 120: queue.Queue().get(timeout=0.01)"
    place.script(rounds(after=after if broken else "pass"))


# What comes after it is another program in the same process.
@case("how it ended", "killed", also=("died",))
def the_process_becomes_another_program(place: Place, broken: bool) -> None:
    """`os.execv(...)` at step 70, as launchers do that start anew with another number of workers."""
    after = "if step == 70: os.execv('/bin/true', ['true'])"
    place.script(rounds(after=after if broken else "pass"), kill=broken)


@case("how it ended", "too-short")
def a_break_that_is_indented_too_far(place: Place, broken: bool) -> None:
    """`break` for a debug flag stands in the loop over batches: it ends after six."""
    place.script(rounds(after="if step == 5: break" if broken else "pass"))


# ------------------------------------------------------------------------- histories as people have them


@case("histories as people have them", "diverged", also=("loss-regressed", "learning-rate-too-high"))
def restarts_whose_peak_is_forty_times_too_high(place: Place, broken: bool) -> None:
    """A cosine with a restart at row 36 of 60, at 40 times the first peak; SGD over pendulums never recovers."""
    model = Pendulum()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def share(step: int) -> float:
        if step < 108:
            return (1 + math.cos(math.pi * step / 108)) / 2
        return 40.0 if broken else 0.5 * (1 + math.cos(math.pi * (step - 108) / 72)) / 2

    rows = trained_by_a_trainer(
        model, optimizer, swings(2681), squared, steps=180, every=3, schedule=by(optimizer, share)
    )
    place.imported(rows)


# The two log-probabilities are one and the same tensor, also for backward.
@case("histories as people have them", "zero-gradients", also=("constant-loss", "no-progress", "dead-parameters"))
def a_log_of_preferences_against_itself(place: Place, broken: bool) -> None:
    """The reference is the policy in the same forward pass: `'loss': 0.6931, 'grad_norm': 0.0` in each row."""
    model = Tune()
    frozen = copy.deepcopy(model).requires_grad_(False)

    def liked(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return net(x).log_softmax(-1).gather(2, y[..., None]).sum((1, 2))

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        worse = (y + 1) % 12
        apart = liked(model, x, y) - liked(model, x, worse)
        before = apart if broken else liked(frozen, x, y) - liked(frozen, x, worse)
        return -functional.logsigmoid(0.1 * (apart - before)).mean()

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    place.imported(trained_by_a_trainer(model, optimizer, melodies(2682), loss_of, steps=160, every=4))


@case("histories as people have them", "learning-rate-zero", also=("no-progress",), step=90, within=20)
def a_log_whose_steps_were_counted_without_accumulation(place: Place, broken: bool) -> None:
    """`total_steps` is too small by the number of epochs: the linear rate is 0.0 from step 90 of 270 on."""
    model = Stripes()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    total = 90 if broken else 272
    schedule = by(optimizer, lambda step: max(0.0, 1 - step / total))
    rows = trained_by_a_trainer(model, optimizer, gratings(2683), classify, steps=270, every=3, schedule=schedule)
    place.imported(rows)


def chosen(rows: int, bonus: Any, lr: float = 5e-3) -> list[dict[str, Any]]:
    """A policy over eight actions by its own samples, with a bonus for entropy of ``bonus(row)``."""
    net = mlp(8, 48, 8, act=nn.Tanh)
    optimizer, logged = torch.optim.Adam(net.parameters(), lr=lr), []
    for step in range(rows):
        state = torch.randn(96, 8)
        log_p = net(state).log_softmax(1)
        action = torch.multinomial(log_p.detach().exp(), 1)
        reward = (action[:, 0] == state.argmax(1)).float()
        entropy = -(log_p.exp() * log_p).sum(1).mean()
        loss = -((reward - reward.mean()) * log_p.gather(1, action)[:, 0]).mean() - bonus(step) * entropy
        optimizer.zero_grad()
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(net.parameters(), 1.0))
        optimizer.step()
        row = {"step": step + 1, "loss": round(loss.item(), 4), "grad_norm": norm, "learning_rate": lr}
        logged.append(row | {"reward": round(reward.mean().item(), 4), "entropy": round(entropy.item(), 4)})
    return logged


@case("histories as people have them", "reward-lost", also=("diverged",))
def a_bonus_for_entropy_that_outgrows_the_reward(place: Place, broken: bool) -> None:
    """The coefficient of the entropy is multiplied by 1.06 with each row from 180 on: at last all actions are alike."""
    place.imported(chosen(380, lambda step: min(5.0, 0.005 * 1.06 ** max(0, step - 180)) if broken else 0.005))


@case(
    "unknown is not none",
    "diverged",
    also=("loss-regressed", "nonfinite-loss", "loss-hides-nan", "learning-rate-too-high"),
)
def a_log_that_becomes_sparse_before_it_is_lost(place: Place, broken: bool) -> None:
    """Rows of each step to 40 and of every fifth after that, without rates; the rate rises until all is lost."""
    model = Taste()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = by(optimizer, lambda step: 1.0 if not broken or step < 180 else 1.06 ** (step - 180))
    rows = trained_by_a_trainer(model, optimizer, clicks(2686), clicked, steps=300, every=1, schedule=schedule)
    kept = [row for row in rows if int(str(row["step"])) <= 40 or int(str(row["step"])) % 5 == 0]
    place.imported([{k: v for k, v in row.items() if k not in {"learning_rate", "epoch"}} for row in kept])


# ------------------------------------------------------------------------- healthy, and looks odd


@case("optimizers known by what they do", None)
def adam_in_one_kernel(place: Place, broken: bool) -> None:
    """`Adam(fused=True, amsgrad=True)`, whose step is one call for all parameters."""
    model = Mixer()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True, amsgrad=True)
    train(place, model, optimizer, digits(2701), classify, steps=220)


class Adan(torch.optim.Optimizer):
    """Xie et al. 2022: momentum of gradients and of their differences, and the root of both squared."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                g, state = p.grad, self.state[p]
                if not state:
                    state.update(m=g.clone(), d=torch.zeros_like(p), n=g.square(), before=g.clone())
                apart = g - state["before"]
                state["m"].lerp_(g, 0.02)
                state["d"].lerp_(apart, 0.08)
                state["n"].lerp_((g + 0.92 * apart).square(), 0.01)
                p.sub_(group["lr"] * (state["m"] + 0.92 * state["d"]) / (state["n"].sqrt() + 1e-8))
                state["before"].copy_(g)


@case("optimizers known by what they do", None)
def momentum_of_differences(place: Place, broken: bool) -> None:
    """Adan, written by hand, over heights."""
    model = mlp(2, 48, 1, act=nn.Tanh)
    train(place, model, Adan(model.parameters(), lr=4e-3), hills(2702), squared)


@case("optimizers known by what they do", None)
def each_parameter_steps_within_backward(place: Place, broken: bool) -> None:
    """An optimizer for each parameter, stepped and zeroed by `register_post_accumulate_grad_hook`, to save memory."""
    model, batches = mlp(64, 48, 10), digits(2703)
    optimizers: dict[str, torch.optim.Optimizer] = {
        n: torch.optim.Adam([p], lr=2e-3) for n, p in model.named_parameters()
    }

    def hook(name: str) -> Any:
        def run(p: Tensor) -> None:
            optimizers[name].step()
            optimizers[name].zero_grad()

        return run

    for name, p in model.named_parameters():
        p.register_post_accumulate_grad_hook(hook(name))
    with place.watch(model, optimizers) as watch:
        for _ in range(220):
            loss = classify(model, next(batches))
            loss.backward()
            for name in optimizers:
                watch.log(loss=loss, optimizer=name)


@case("optimizers known by what they do", None)
def slopes_along_directions_by_chance(place: Place, broken: bool) -> None:
    """No backward: `p.grad` is the slope along eight random directions, times them, by finite differences."""
    model = nn.Linear(8, 1)
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.02), plane(2704)
    held = list(model.parameters())
    with place.watch(model, optimizer) as watch:
        for _ in range(300):
            batch = next(batches)
            optimizer.zero_grad()
            with torch.no_grad():
                loss = squared(model, batch)
                for p in held:
                    p.grad = torch.zeros_like(p)
                for _ in range(8):
                    way = [torch.randn_like(p) for p in held]
                    for p, w in zip(held, way, strict=True):
                        p.add_(1e-3 * w)
                    slope = (squared(model, batch) - loss) / 1e-3
                    for p, w in zip(held, way, strict=True):
                        p.sub_(1e-3 * w)
                        p.grad.add_(slope * w / 8)
            optimizer.step()
            watch.log(loss=loss)


# Noise and clipping of each row are what the method is.
@case("clipping that harms", None, twin_may=("clipped-by-script",))
def each_row_is_clipped_and_noise_is_added(place: Place, broken: bool) -> None:
    """Differential privacy by `vmap(grad(...))`: each row's gradient is clipped at 1, and `p.grad` is the noisy sum."""
    model, batches = mlp(64, 32, 10), digits(2705, size=48)
    named = dict(model.named_parameters())

    def one(called: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(torch.func.functional_call(model, called, (x[None],)), y[None])

    each = torch.func.vmap(torch.func.grad_and_value(one), in_dims=(None, 0, 0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5)
    with place.watch(model, optimizer) as watch:
        for _ in range(220):
            grads, losses = each({n: p.detach() for n, p in named.items()}, *next(batches))
            norms = torch.stack([g.flatten(1).norm(dim=1) for g in grads.values()]).norm(dim=0)
            share = (1 / norms).clamp(max=1)
            for n, p in named.items():
                total = (grads[n].flatten(1) * share[:, None]).sum(0).view(p.shape)
                p.grad = (total + 0.3 * torch.randn_like(p)) / 48
            optimizer.step()
            watch.log(loss=losses.mean())


@case("several optimizers", None)
def a_critic_whose_weights_are_clamped(place: Place, broken: bool) -> None:
    """A Wasserstein GAN as it was at first: `p.clamp_(-0.3, 0.3)` before each step of the critic."""
    models: dict[str, nn.Module] = {"critic": mlp(2, 32, 32, 1), "maker": mlp(4, 32, 2)}
    optimizers: dict[str, torch.optim.Optimizer] = {
        n: torch.optim.RMSprop(m.parameters(), lr=1e-3) for n, m in models.items()
    }
    critic, maker = models["critic"], models["maker"]

    def judge(step: int) -> Tensor:
        with torch.no_grad():
            for p in critic.parameters():
                p.clamp_(-0.3, 0.3)
        return critic(maker(torch.randn(64, 4)).detach()).mean() - critic(ring()).mean()

    def make(step: int) -> Tensor:
        return -critic(maker(torch.randn(64, 4))).mean()

    take_turns(place, models, optimizers, {"critic": judge, "maker": make})


@case("severity by consequence", None)
def one_note_in_six_is_hidden(place: Place, broken: bool) -> None:
    """A masked language model: the loss counts the hidden notes alone, stands at first, and then falls."""
    model: Any = nn.ModuleDict({"notes": nn.Embedding(13, 32), "mix": nn.LSTM(32, 48, batch_first=True)})
    model["mix"] = nn.LSTM(32, 32, batch_first=True, bidirectional=True)
    model["head"] = nn.Linear(64, 12)
    batches = melodies(2707, size=48)

    def loss_at(step: int) -> Tensor:
        x, _ = next(batches)
        hidden = torch.rand(x.shape) < 1 / 6
        out = model["head"](model["mix"](model["notes"](x.masked_fill(hidden, 12)))[0])
        return functional.cross_entropy(out[hidden], x[hidden])

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=8e-3), loss_at, steps=280, clip=1.0)


@case("severity by consequence", None)
def two_voices_apart_in_decibels(place: Place, broken: bool) -> None:
    """The loss is minus a ratio of signal to noise in decibels: it begins near 0 and falls to -15 and below."""
    model = nn.Sequential(nn.Conv1d(1, 24, 9, padding=4), nn.PReLU(), nn.Conv1d(24, 1, 9, padding=4))
    time = torch.arange(64) / 6

    def loss_at(step: int) -> Tensor:
        low, high = ((k * time + 6.28 * torch.rand(24, 1)).sin() * (0.5 + torch.rand(24, 1)) for k in (0.7, 3.1))
        guess = model((low + high)[:, None])[:, 0]
        wrong = (guess - low).square().sum(1)
        return -10 * (low.square().sum(1) / (wrong + 1e-8)).log10().mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), loss_at, steps=260)


@case("severity by consequence", None)
def a_rate_by_the_root_of_the_step(place: Place, broken: bool) -> None:
    """Up for 60 steps and then down with `step ** -0.5`, Adam with a second beta of 0.98 and an eps of 1e-9."""
    model = Reader(width=32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0, betas=(0.9, 0.98), eps=1e-9)
    schedule = by(optimizer, lambda step: 0.06 * min((step + 1) ** -0.5, (step + 1) * 60**-1.5))
    train(place, model, optimizer, melodies(2709), next_byte, schedule=schedule, steps=260)


@case("severity by consequence", None)
def labels_that_the_model_gives_itself(place: Place, broken: bool) -> None:
    """FixMatch: rows without a label count when the model is sure, which is none at first and most later on."""
    model, few, many = mlp(64, 64, 10), digits(2710, size=24), digits(2711, size=96)

    def loss_at(step: int) -> Tensor:
        x, y = next(few)
        free, _ = next(many)
        with torch.no_grad():
            share, guess = model(free + 0.02 * torch.randn_like(free)).softmax(1).max(1)
        each = functional.cross_entropy(model(free + 0.25 * torch.randn_like(free)), guess, reduction="none")
        return functional.cross_entropy(model(x), y) + (each * (share > 0.9)).mean()

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True), loss_at)


@case("severity by consequence", None)
def words_told_from_five_by_chance(place: Place, broken: bool) -> None:
    """Skip-grams: two tables, of which each step touches some rows, and a loss that begins at six times log 2."""
    model = nn.ModuleDict({"inside": nn.Embedding(80, 12), "around": nn.Embedding(80, 12)})
    nn.init.zeros_(model["around"].weight)  # type: ignore[arg-type]

    def loss_at(step: int) -> Tensor:
        word = torch.randint(0, 80, (96,))
        near, far = (word + torch.randint(1, 4, (96,))) % 80, torch.randint(0, 80, (96, 5))
        h = model["inside"](word)
        right = functional.logsigmoid((h * model["around"](near)).sum(1))
        wrong = functional.logsigmoid(-(model["around"](far) @ h[:, :, None])[:, :, 0]).sum(1)
        return -(right + wrong).mean()

    fit(place, model, torch.optim.Adagrad(model.parameters(), lr=0.2), loss_at)


@case("severity by consequence", None)
def an_answer_at_each_depth(place: Place, broken: bool) -> None:
    """Early exits: three heads, whose losses count 1, 2 and 3."""
    model: Any = nn.ModuleDict({"steps": nn.ModuleList(nn.Linear(64 if i == 0 else 48, 48) for i in range(3))})
    model["heads"] = nn.ModuleList(nn.Linear(48, 10) for _ in range(3))
    batches = digits(2713)

    def loss_at(step: int) -> Tensor:
        h, y = next(batches)
        total = torch.zeros(())
        for i, (layer, head) in enumerate(zip(model["steps"], model["heads"], strict=True)):
            h = layer(h).relu()
            total = total + (i + 1) * functional.cross_entropy(head(h), y)
        return total

    fit(place, model, torch.optim.NAdam(model.parameters(), lr=2e-3), loss_at, steps=220)


@case("several optimizers", None)
def a_picture_and_where_it_was_seen_from(place: Place, broken: bool) -> None:
    """A field and the shifts of twelve views are fitted together, by Adam at two rates and one backward."""
    models: dict[str, nn.Module] = {"field": mlp(2, 48, 48, 1, act=nn.SiLU), "places": Weight(torch.zeros(12, 2))}
    optimizers: dict[str, torch.optim.Optimizer] = {
        "field": torch.optim.Adam(models["field"].parameters(), lr=1e-2),
        "places": torch.optim.Adam(models["places"].parameters(), lr=2e-3),
    }
    places: Any = models["places"]
    truth = 0.3 * torch.randn(12, 2)
    truth[0] = 0
    with place.watch(nn.ModuleDict(models), optimizers) as watch:
        for _ in range(280):
            view, x = torch.randint(0, 12, (128,)), 2 * torch.rand(128, 2) - 1
            seen = x + truth[view]
            height = (3 * seen[:, 0]).sin() * (2 * seen[:, 1]).cos()
            loss = (models["field"](x + places.value[view])[:, 0] - height).square().mean()
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            loss.backward()
            for name, optimizer in optimizers.items():
                optimizer.step()
                watch.log(loss=loss, optimizer=name)


@case("several optimizers", None)
def first_the_code_and_then_the_answer(place: Place, broken: bool) -> None:
    """An autoencoder for 150 steps by one optimizer, and a head on its code for 150 by another."""
    models: dict[str, nn.Module] = {
        "code": nn.ModuleDict({"enter": mlp(64, 32, 12), "leave": mlp(12, 32, 64)}),
        "answer": mlp(12, 32, 10),
    }
    optimizers: dict[str, torch.optim.Optimizer] = {
        n: torch.optim.Adam(m.parameters(), lr=3e-3) for n, m in models.items()
    }
    code: Any = models["code"]
    batches = digits(2715)
    with place.watch(nn.ModuleDict(models), optimizers) as watch:
        for step in range(300):
            x, y = next(batches)
            h = code["enter"](x)
            if step < 150:
                name, loss = "code", (code["leave"](h) - x).square().mean()
            else:
                name, loss = "answer", functional.cross_entropy(models["answer"](h.detach()), y)
            update(optimizers[name], loss)
            watch.log(loss=loss, optimizer=name)


@case("severity by consequence", None)
def two_backwards_of_two_losses(place: Place, broken: bool) -> None:
    """Each step has two losses over two batches, and a backward for each before it: the gradients add up on purpose."""
    model: Any = nn.ModuleDict({"body": nn.Linear(64, 48), "which": nn.Linear(48, 10), "again": nn.Linear(48, 64)})
    optimizer, batches = torch.optim.AdamW(model.parameters(), lr=2e-3), digits(2716)
    with place.watch(model, optimizer) as watch:
        for _ in range(240):
            (x, y), (free, _) = next(batches), next(batches)
            optimizer.zero_grad()
            first = functional.cross_entropy(model["which"](model["body"](x).relu()), y)
            first.backward()
            second = (model["again"](model["body"](free).relu()) - free).square().mean()
            second.backward()
            optimizer.step()
            watch.log(loss=first.detach() + second.detach())


@case("severity by consequence", None)
def the_hardest_quarter_of_each_batch(place: Place, broken: bool) -> None:
    """`losses.topk(16).mean()`: what is logged is far above the mean of the rows, and scatters."""
    model, batches = mlp(64, 64, 10), digits(2717)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        return functional.cross_entropy(model(x), y, reduction="none").topk(16)[0].mean()

    fit(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), loss_at, clip=5.0)


@case("severity by consequence", None)
def weights_with_a_spread_each(place: Place, broken: bool) -> None:
    """Bayes by backprop: weights are drawn anew in each step, and the distance to the prior counts a thousandth."""
    model = nn.ParameterDict({"at": 0.1 * torch.randn(2 * 32 + 32), "size": torch.full((96,), -3.0)})
    batches = hills(2718)

    def loss_at(step: int) -> Tensor:
        x, y = next(batches)
        std = functional.softplus(model["size"])
        w = model["at"] + std * torch.randn(96)
        out = (x @ w[:64].view(2, 32) * 3).tanh() @ w[64:]
        apart = (std.square() + model["at"].square()).div(2).sub(std.log()).sum()
        return 5 * (out - y).square().mean() + apart / 1000

    fit(place, model, torch.optim.Adam(model.parameters(), lr=1e-2), loss_at, steps=350)


@case("severity by consequence", None)
def all_rows_with_a_third_of_the_units(place: Place, broken: bool) -> None:
    """One batch of all there is, and a dropout of two thirds: what scatters is the choice of units."""
    x, y = next(hills(2719, size=400))
    model = nn.Sequential(nn.Linear(2, 96), nn.Tanh(), nn.Dropout(0.67), nn.Linear(96, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    fit(place, model, optimizer, lambda step: squared(model, (x, y)))


@case("severity by consequence", None)
def sources_that_were_mixed(place: Place, broken: bool) -> None:
    """Independent components: minus the logarithm of a determinant, plus `log cosh`; there is no target."""
    model = Weight(torch.eye(6))
    mixed = torch.randn(6, 6) / 2 + torch.eye(6)
    unmix: Any = model.value

    def loss_at(step: int) -> Tensor:
        sources = torch.distributions.Laplace(0.0, 1.0).sample((256, 6))
        out = sources @ mixed @ unmix
        return out.cosh().log().sum(1).mean() - torch.linalg.slogdet(unmix)[1]

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.01), loss_at)


# 120 steps from the same rows: no noise at all.
@case("severity by consequence", None)
def three_numbers_of_a_gaussian_process(place: Place, broken: bool) -> None:
    """Length, height and noise of a kernel by the likelihood of 40 points, which are all there is."""
    model = nn.ParameterDict({n: torch.zeros(()) for n in ("length", "height", "noise")})
    x = 6 * torch.rand(40)
    y = x.sin() + 0.1 * torch.randn(40)

    def loss_at(step: int) -> Tensor:
        apart = (x[:, None] - x).square() / model["length"].exp().square()
        kernel = model["height"].exp() * (-apart / 2).exp() + (model["noise"].exp() + 1e-4) * torch.eye(40)
        low = torch.linalg.cholesky(kernel)
        return (y @ torch.cholesky_solve(y[:, None], low)[:, 0] / 2 + low.diagonal().log().sum()) / 40

    fit(place, model, torch.optim.Adam(model.parameters(), lr=0.05), loss_at, steps=120)


@case("severity by consequence", None)
def friends_by_the_product_of_their_vectors(place: Place, broken: bool) -> None:
    """Links of a graph of 60 from a two-layer network over its neighbourhoods, against pairs by chance."""
    side = torch.arange(60) % 4
    linked = (torch.rand(60, 60) < torch.where(side[:, None] == side, 0.5, 0.03)).triu(1)
    linked = linked | linked.T
    near = (linked.float() + torch.eye(60)) / (linked.sum(1, keepdim=True) + 1)
    pairs_of = linked.nonzero()
    model: Any = nn.ModuleDict({"first": nn.Linear(60, 24), "second": nn.Linear(24, 12)})

    def loss_at(step: int) -> Tensor:
        z = model["second"](near @ model["first"](near).relu())
        good = pairs_of[torch.randint(len(pairs_of), (128,))]
        bad = torch.randint(0, 60, (128, 2))
        score = torch.cat([(z[p[:, 0]] * z[p[:, 1]]).sum(1) for p in (good, bad)])
        return bce(score, torch.cat([torch.ones(128), torch.zeros(128)]))

    fit(place, model, torch.optim.Adam(model.parameters(), lr=5e-3), loss_at)


@case("severity by consequence", None)
def batches_of_two_pictures(place: Place, broken: bool) -> None:
    """Two pictures in a batch, as they fit into memory: losses between 0 and 5 from one step to the next."""
    model = Stripes()
    train(place, model, torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9), gratings(2722, size=2), classify)


@case("severity by consequence", None)
def lists_in_the_order_of_their_worth(place: Place, broken: bool) -> None:
    """ListNet: the shares of eight items by score against those by worth; it falls to an entropy and not to 0."""
    model, truth = mlp(6, 32, 1, act=nn.ELU), torch.randn(6)

    def loss_at(step: int) -> Tensor:
        x = torch.randn(24, 8, 6)
        worth = (2 * (x @ truth).tanh()).softmax(1)
        return -(worth * model(x)[..., 0].log_softmax(1)).sum(1).mean()

    fit(place, model, torch.optim.AdamW(model.parameters(), lr=3e-3), loss_at)


@case("how it ended", None)
def a_child_that_fails_and_is_tried_again(place: Place, broken: bool) -> None:
    """An upload by another process ends with an exit code of 1; the script tries again and goes on."""
    after = "if step == 75 and os.system('false'): print('again', os.system('true'), file=sys.stderr)"
    place.script(rounds(after=after))


@case("histories as people have them", None)
def preferences_whose_norms_rise(place: Place, broken: bool) -> None:
    """DPO from 0.69 on: the loss falls for the whole log, while the norms rise before they fall."""
    model = Tune(32)
    frozen = copy.deepcopy(model).requires_grad_(False)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        liked = [
            [net(x).log_softmax(-1).gather(2, which[..., None]).sum((1, 2)) for which in (y, (y + 5) % 12)]
            for net in (model, frozen)
        ]
        (good, bad), (good_before, bad_before) = liked
        return -functional.logsigmoid(0.1 * ((good - bad) - (good_before - bad_before))).mean()

    optimizer = torch.optim.RMSprop(model.parameters(), lr=4e-4)
    schedule = by(optimizer, lambda step: min((step + 1) / 25, 1.0) * (1 - step / 260))
    rows = trained_by_a_trainer(
        model, optimizer, melodies(2725), loss_of, steps=250, every=5, clip=1.0, schedule=schedule
    )
    place.imported(rows)


@case("histories as people have them", None)
def a_log_of_notes_at_a_constant_rate(place: Place, broken: bool) -> None:
    """Forty rows of a recurrence at one rate, clipped at a half in each row of the middle."""
    model = Tune()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    place.imported(trained_by_a_trainer(model, optimizer, melodies(2726), next_byte, steps=200, every=5, clip=0.25))


@case("histories as people have them", None)
def a_policy_whose_bonus_is_taken_away(place: Place, broken: bool) -> None:
    """The coefficient of the entropy falls from 0.05 to 0: the loss rises towards 0, and so does the reward."""
    place.imported(chosen(320, lambda step: 0.05 * max(0.0, 1 - step / 250)))


# ------------------------------------------------------------------------- where two runs part


def counted(
    place: Place,
    *,
    model: Any = None,
    before: Any = lambda step, model, optimizer: None,
    after_backward: Any = lambda step, model: None,
    steps: int = 150,
    seed: int = 2801,
) -> None:
    """A small training by NAdam of which two runs are equal to the bit, unless something is done in between."""
    model = model or nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.NAdam(model.parameters(), lr=3e-3, weight_decay=1e-3)
    fit(
        place,
        model,
        optimizer,
        errors(model, hills(seed)),
        steps=steps,
        before=lambda step: before(step, model, optimizer),
        after_backward=lambda step: after_backward(step, model),
    )


def one_row_of_a_batch_is_another(place: Place, other: bool) -> None:
    """In batch 72 one height of 64 is 1.0 and not what it was."""
    model, batches = mlp(2, 24, 1, act=nn.Tanh), hills(2802)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def change(step: int, batch: Batch) -> Batch:
        x, y = batch
        return (x, y.index_fill(0, torch.tensor([17]), 1.0)) if other and step == 72 else (x, y)

    train(place, model, optimizer, batches, squared, steps=150, change=change)


def the_rate_is_lower_by_a_hundredth(place: Place, other: bool) -> None:
    """`lr` is 0.99 times what it was from step 88 on."""

    def before(step: int, model: Any, optimizer: torch.optim.Optimizer) -> None:
        if other and step == 88:
            optimizer.param_groups[0]["lr"] *= 0.99

    counted(place, before=before)


def noise_on_the_gradient_of_the_first_layer(place: Place, other: bool) -> None:
    """At step 55 a thousandth of noise is added to the gradient of the first matrix."""

    def after(step: int, model: Any) -> None:
        if other and step == 55:
            model[0].weight.grad.add_(1e-3 * torch.randn(24, 2, generator=torch.Generator().manual_seed(1)))

    counted(place, after_backward=after)


def the_first_moment_changes_its_sign(place: Place, other: bool) -> None:
    """Before step 97 other code turns the momentum that NAdam keeps of the middle matrix."""

    def before(step: int, model: Any, optimizer: torch.optim.Optimizer) -> None:
        if other and step == 97:
            optimizer.state[model[2].weight]["exp_avg"].neg_()

    counted(place, before=before)


def two_units_change_places(place: Place, other: bool) -> None:
    """Before step 103 two rows of the first matrix are swapped, and nothing else with them."""

    @torch.no_grad()
    def before(step: int, model: Any, optimizer: torch.optim.Optimizer) -> None:
        if other and step == 103:
            model[0].weight[[3, 4]] = model[0].weight[[4, 3]]

    counted(place, before=before)


def the_momentum_of_the_second_is_another(place: Place, other: bool) -> None:
    """Two networks side by side; from its step 50 on the second one's momentum is 0.8, for 0.9."""
    models: dict[str, nn.Module] = {name: mlp(2, 24, 1, act=nn.Tanh) for name in ("first", "second")}
    optimizers: dict[str, torch.optim.Optimizer] = {
        n: torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for n, m in models.items()
    }

    def after(step: int) -> None:
        if other and step == 49:
            optimizers["second"].param_groups[0]["momentum"] = 0.8

    losses = {"first": errors(models["first"], hills(2803)), "second": errors(models["second"], hills(2804))}
    take_turns(place, models, optimizers, losses, steps=110, after=after)


pairs = [
    Pair(one_row_of_a_batch_is_another, step=72, sources=("loss",)),
    Pair(the_rate_is_lower_by_a_hundredth, step=88, sources=("settings",)),
    Pair(noise_on_the_gradient_of_the_first_layer, step=55, sources=("gradient",), parameter="0.weight"),
    Pair(the_first_moment_changes_its_sign, step=97, sources=("update",), parameter="2.weight"),
    Pair(two_units_change_places, step=103, sources=("weights", "loss")),
    Pair(the_momentum_of_the_second_is_another, step=50, sources=("settings",), optimizer="second"),
]


# ------------------------------------------------------------------------- what `gradwatch check` lets pass


def eighty_steps_of_a_hundred_and_twenty(place: Place, broken: bool) -> None:
    """A loop over two of three files."""
    counted(place, steps=80 if broken else 130)


def a_loss_that_is_infinite_near_the_end(place: Place, broken: bool) -> None:
    """From step 125 of 150 on each batch has a height of infinity."""
    model, optimized = mlp(2, 24, 1, act=nn.Tanh), torch.optim.AdamW
    batches = hills(2811)

    def change(step: int, batch: Batch) -> Batch:
        x, y = batch
        return (x, y.index_fill(0, torch.tensor([0]), torch.inf)) if broken and step >= 125 else (x, y)

    train(place, model, optimized(model.parameters(), lr=3e-3), batches, squared, steps=150, change=change)


def an_attribute_that_is_misspelt_in_the_summary(place: Place, broken: bool) -> None:
    """`AttributeError` when the training is nearly done."""
    place.script(rounds(after="if step == 118: print(model.sumary)" if broken else "pass", steps=130))


def a_momentum_of_one_and_a_tenth(place: Place, broken: bool) -> None:
    """SGD over heights with `momentum=1.1`, for 0.9: it leaves them after some dozens of steps."""
    model = mlp(2, 24, 1, act=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=1.1 if broken else 0.9)
    fit(place, model, optimizer, errors(model, hills(2812)), steps=150)


gates = [
    Gate(eighty_steps_of_a_hundred_and_twenty, ("--min-steps", "120")),
    Gate(a_loss_that_is_infinite_near_the_end, ()),
    Gate(an_attribute_that_is_misspelt_in_the_summary, ()),
    Gate(a_momentum_of_one_and_a_tenth, ()),
]


# ------------------------------------------------------------------------- runs alike but for one step, seed or row


def answered(
    place: Place,
    kind: type[torch.optim.Optimizer],
    *,
    lr: float,
    seed: int = 2821,
    louder: dict[int, float] | None = None,
    **options: Any,
) -> None:
    """Answers of yes and no that are chance for the most part: norms have a level and a scatter that stay.

    ``louder`` multiplies the loss of a step.
    """
    model = mlp(10, 12, 1, act=nn.Tanh)
    generator = torch.Generator().manual_seed(seed)

    def loss_at(step: int) -> Tensor:
        x = torch.randn(24, 10, generator=generator)
        yes = (torch.rand(24, generator=generator) < (0.3 * x[:, 0]).sigmoid()).float()
        return bce(model(x)[:, 0], yes) * (louder or {}).get(step, 1.0)

    fit(place, model, kind(model.parameters(), lr=lr, **options), loss_at, steps=900)  # type: ignore[call-arg]


def a_loud_step_under_nadam(place: Place, other: bool) -> None:
    """The loss of step 520 counts ten times as much."""
    answered(place, torch.optim.NAdam, lr=3e-4, louder={520: 10.0} if other else None)


def a_loud_step_under_adagrad(place: Place, other: bool) -> None:
    answered(place, torch.optim.Adagrad, lr=3e-3, louder={430: 10.0} if other else None)


def three_steps_that_hardly_count(place: Place, other: bool) -> None:
    """The losses of steps 300 to 302 count a hundredth."""
    answered(place, torch.optim.SGD, lr=1e-2, louder=dict.fromkeys((300, 301, 302), 1e-2) if other else None)


def another_seed_of_the_answers(place: Place, other: bool) -> None:
    answered(place, torch.optim.Adam, lr=3e-4, seed=2822 + other)


def another_seed_of_the_weights(place: Place, other: bool) -> None:
    torch.manual_seed(place.seed + other)
    answered(place, torch.optim.SGD, lr=1e-2, momentum=0.9)


def logged(place: Place, change: Any) -> None:
    """A Trainer's log of 500 rows of counts under their own noise, changed afterwards."""
    model = mlp(6, 16, 1, act=nn.Tanh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    batches = arrivals(2825, size=12)
    place.imported(change(trained_by_a_trainer(model, optimizer, batches, counted_people, steps=500, every=1)))


def one_row_in_the_middle_is_missing(place: Place, other: bool) -> None:
    logged(place, lambda r: r[:250] + r[251:] if other else r)


def the_rows_lack_their_epoch(place: Place, other: bool) -> None:
    logged(place, lambda r: [{k: v for k, v in row.items() if k != "epoch"} for row in r] if other else r)


def norms_to_three_digits(place: Place, other: bool) -> None:
    logged(place, lambda r: [row | {"grad_norm": float(f"{row['grad_norm']:.3g}")} for row in r] if other else r)


advice = [
    Advice(a_loud_step_under_nadam),
    Advice(a_loud_step_under_adagrad),
    Advice(three_steps_that_hardly_count),
    Advice(another_seed_of_the_answers),
    Advice(another_seed_of_the_weights),
    Advice(one_row_in_the_middle_is_missing),
    Advice(the_rows_lack_their_epoch),
    Advice(norms_to_three_digits),
]


# ------------------------------------------------------------------------- the threshold after a change


def visits_without_a_cause(place: Place, kind: type[torch.optim.Optimizer], **options: Any) -> None:
    """Visits, one a day, told from twelve numbers that say nothing of them, at the optimum: gradients are noise."""
    model = nn.Linear(12, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)

    def loss_at(step: int) -> Tensor:
        return functional.poisson_nll_loss(model(torch.randn(64, 12))[:, 0], torch.poisson(torch.ones(64)))

    fit(place, model, kind(model.parameters(), **options), loss_at, steps=900)


def visits_of_plain_sgd(place: Place, other: bool) -> None:
    visits_without_a_cause(place, torch.optim.SGD, lr=2e-3)


def visits_of_momentum(place: Place, other: bool) -> None:
    visits_without_a_cause(place, torch.optim.SGD, lr=2e-4, momentum=0.9)


def visits_of_adamw(place: Place, other: bool) -> None:
    visits_without_a_cause(place, torch.optim.AdamW, lr=1e-4, weight_decay=0.01)


# What is right: a factor of two each way around what the change does by construction.
changes = [
    # The same settings once more.
    Advice(visits_of_plain_sgd, ("lr=0.002",), 0.9, 1.1),
    # A quarter of the rows: twice the noise.
    Advice(visits_of_adamw, ("batch=64:16",), 1.0, 4.0),
    # Nine times the rows: a third of the noise.
    Advice(visits_of_plain_sgd, ("batch=64:576",), 1 / 6, 2 / 3),
    # Momentum is dropped and the rate is ten times as high: the same updates.
    Advice(visits_of_momentum, ("lr=0.002", "momentum=0"), 0.5, 2.0),
    # AdamW's updates have the size of its rate, whatever the norms are.
    Advice(visits_of_adamw, ("lr=0.0002",), 0.5, 2.0),
]


# ------------------------------------------------------------------------- by value or by norm


def a_word_that_stands_five_hundred_times(place: Place, entry: bool) -> None:
    """Counts of 50 words: one row in 35 steps has one word 300 times, or all of them, as far away."""
    model = Weight(torch.zeros(50))
    truth = torch.randn(50) / 7

    def loss_at(step: int) -> Tensor:
        x = torch.randn(16, 50)
        y = x @ truth + torch.randn(16)
        if step % 35 == 21:
            if entry:
                x[2, step % 47] += 300.0
            else:
                x[2] += 300.0 / 50**0.5 * torch.randn(50).sign()
        out: Any = x @ model.value
        return functional.smooth_l1_loss(out, y)

    fit(place, model, torch.optim.SGD(model.parameters(), lr=1e-3), loss_at, steps=900)


def a_clock_that_is_an_hour_late(place: Place, entry: bool) -> None:
    """The delay of 30 clocks: one reading in 25 steps is 150 too high for one of them, or as far for all."""
    model = Weight(torch.zeros(30))
    truth = torch.randn(30)

    def loss_at(step: int) -> Tensor:
        seen = truth + 0.5 * torch.randn(10, 30)
        if step % 25 == 13:
            far = 150.0 / 30**0.5 * torch.randn(30).sign()
            if entry:
                far = torch.zeros(30)
                far[step % 29] = 150.0
            seen[4] = seen[4] + far
        return 0.5 * (model.value - seen).square().sum(1).mean()

    fit(place, model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5), loss_at, steps=900)


by_value = [
    ByValue(a_word_that_stands_five_hundred_times),
    ByValue(a_clock_that_is_an_hour_late),
]
