"""The sixth round: several optimizers, endings, two runs side by side, and logs of the Trainer.

Written before gradwatch was run on any of it, by someone who had read the pages of the findings and the rules about
endings. That a planted fault does what its label says was looked at in the losses and norms alone.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable

import torch
from lab import (
    STEPS,
    Cases,
    Gate,
    Gpt,
    Pair,
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
)
from torch import Tensor, nn

case = Cases()
# -------------------------------------------------------------------------------- adversaries


def ring(size: int = 64) -> Tensor:
    """Points around four places of a circle."""
    angle = torch.randint(0, 4, (size,)) * math.pi / 2
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(size, 2)


def gan(
    place: Place,
    *,
    generator_steps: bool = True,
    detached: bool = True,
    judge_frozen: bool = False,
    maker_sees_detached: bool = False,
    judge_zeroed_late: bool = False,
    clips: str = "",
) -> None:
    """The loop of the DCGAN tutorial in two dimensions; each argument but the first spoils one line of it."""
    maker, judge = mlp(4, 32, 2), mlp(2, 32, 1)
    models = {"maker": maker, "judge": judge}
    both = {name: torch.optim.Adam(m.parameters(), lr=1e-3, betas=(0.5, 0.999)) for name, m in models.items()}
    judge.requires_grad_(not judge_frozen)
    ones, zeros = torch.ones(64, 1), torch.zeros(64, 1)
    with place.watch(nn.ModuleDict(models), both) as watch:
        for _ in range(STEPS):
            fake = maker(torch.randn(64, 4))
            if not judge_zeroed_late:
                both["judge"].zero_grad()
            loss = bce(judge(ring()), ones) + bce(judge(fake.detach() if detached else fake), zeros)
            loss.backward(retain_graph=not detached)
            both["judge"].step()
            if judge_zeroed_late:
                both["judge"].zero_grad()
            watch.log(loss=loss, optimizer="judge")
            fake = maker(torch.randn(64, 4))
            loss = bce(judge(fake.detach() if maker_sees_detached else fake), ones)
            both["maker"].zero_grad()
            loss.backward()
            if clips:
                nn.utils.clip_grad_norm_(models[clips].parameters(), 0.05)
            if generator_steps:
                both["maker"].step()
                watch.log(loss=loss, optimizer="maker")


@case("several optimizers", "no-steps", optimizer="maker")
def a_generator_that_is_never_stepped(place: Place, broken: bool) -> None:
    gan(place, generator_steps=not broken)


@case("several optimizers", "no-gradient", optimizer="maker")
def a_generator_whose_samples_are_detached(place: Place, broken: bool) -> None:
    """`judge(fake.detach())` in the generator's own loss, too."""
    gan(place, maker_sees_detached=broken)


@case("several optimizers", "no-gradient", optimizer="judge", also=("zero-gradients", "no-steps"))
def a_discriminator_frozen_and_never_thawed(place: Place, broken: bool) -> None:
    """`set_requires_grad(judge, False)` before the generator's update, and no line that sets it back."""
    gan(place, judge_frozen=broken, detached=not broken)


@case("several optimizers", "gradients-accumulate", optimizer="judge")
def a_discriminator_zeroed_before_the_generators_turn(place: Place, broken: bool) -> None:
    """What the generator's backward leaves in the discriminator is added to the discriminator's next gradient."""
    gan(place, judge_zeroed_late=broken)


@case("several optimizers", "ineffective-clipping")
def the_discriminator_is_clipped_before_the_generators_step(place: Place, broken: bool) -> None:
    gan(place, clips="judge" if broken else "maker")


def wgan(
    place: Place, penalty: Callable[[Tensor], Tensor] | None, *, weight_clip: float | None, head_at_zero: bool = False
) -> None:
    """Five steps of the critic for one of the generator."""
    maker, critic = mlp(4, 32, 2), mlp(2, 64, 64, 1, act=nn.LeakyReLU)
    if head_at_zero:
        nn.init.zeros_(critic[-1].weight)  # type: ignore[arg-type]
    models = {"maker": maker, "critic": critic}
    both = {
        "maker": torch.optim.RMSprop(maker.parameters(), lr=5e-4),
        "critic": torch.optim.RMSprop(critic.parameters(), lr=2e-3),
    }
    with place.watch(nn.ModuleDict(models), both) as watch:
        for _ in range(100):
            for _ in range(5):
                real, fake = ring() * 3, maker(torch.randn(64, 4)).detach()
                loss = critic(fake).mean() - critic(real).mean()
                if penalty is not None:
                    mixed = torch.lerp(fake, real, torch.rand(64, 1)).requires_grad_()
                    (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
                    loss = loss + 10 * (penalty(slope) - 1).square().mean()
                both["critic"].zero_grad()
                loss.backward()
                both["critic"].step()
                if weight_clip is not None:
                    with torch.no_grad():
                        for parameter in critic.parameters():
                            parameter.clamp_(-weight_clip, weight_clip)
                watch.log(loss=loss, optimizer="critic")
            loss = -critic(maker(torch.randn(64, 4))).mean()
            both["maker"].zero_grad()
            loss.backward()
            both["maker"].step()
            watch.log(loss=loss, optimizer="maker")


@case("several optimizers", "diverged", optimizer="critic", step=0, within=250)
def a_wasserstein_critic_without_a_bound(place: Place, broken: bool) -> None:
    """Neither weights are clipped nor slopes punished: the critic's values grow for as long as it trains."""
    wgan(place, None, weight_clip=None if broken else 0.1)


@case("several optimizers", "nonfinite-gradient", optimizer="critic", step=0)
def a_gradient_penalty_on_a_head_that_begins_at_zero(place: Place, broken: bool) -> None:
    """Every slope is 0 at the first step, where the square root has none."""
    eps = 0.0 if broken else 1e-12
    wgan(place, lambda slope: (slope.square().sum(1) + eps).sqrt(), weight_clip=None, head_at_zero=True)


# --------------------------------------------------------------------------- actors and critics


@case("several optimizers", "diverged", optimizer="critic", also=("nonfinite-loss",), step=0, within=200)
def a_discount_above_one(place: Place, broken: bool) -> None:
    """The critic is stepped each time, the actor at every fourth."""
    discount = 1 / 0.96 if broken else 0.9
    actor, critic = mlp(4, 32, 2, act=nn.Tanh), mlp(4, 32, 1, act=nn.Tanh)
    models = {"actor": actor, "critic": critic}
    both = {
        "actor": torch.optim.Adam(actor.parameters(), lr=1e-3),
        "critic": torch.optim.SGD(critic.parameters(), lr=0.05),
    }
    with place.watch(nn.ModuleDict(models), both) as watch:
        for step in range(400):
            state = torch.randn(64, 4)
            spread = torch.distributions.Categorical(logits=actor(state))
            action = spread.sample()
            after = 0.9 * state + 0.1 * torch.randn(64, 4)
            with torch.no_grad():
                target = (action == (state[:, 0] > 0)).float() + discount * critic(after).squeeze(-1)
            value = critic(state).squeeze(-1)
            loss = (value - target).square().mean()
            both["critic"].zero_grad()
            loss.backward()
            both["critic"].step()
            watch.log(loss=loss, optimizer="critic")
            if step % 4 == 3:
                advantage = (target - value).detach()
                loss = -(spread.log_prob(action) * (advantage / (advantage.std() + 1e-6))).mean()
                both["actor"].zero_grad()
                loss.backward()
                both["actor"].step()
                watch.log(loss=loss, optimizer="actor")


class Squashed(nn.Module):
    """A policy of soft actor-critic: a Gaussian through tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(4, 32, 2)

    def forward(self, state: Tensor, gain: float, eps: float) -> tuple[Tensor, Tensor]:
        mean, spread = self.body(state).chunk(2, -1)
        noise = torch.randn_like(mean)
        action = (gain * (mean + 0.5 * spread.tanh().exp() * noise)).tanh()
        log_p = -0.5 * noise.square() - 0.5 * spread.tanh() - (1 - action.square() + eps).log()
        return action, log_p


@case("several optimizers", "nonfinite-loss", optimizer="actor", step=60)
def the_logarithm_of_a_saturated_action(place: Place, broken: bool) -> None:
    """At the actor's step 60, the critic's step 120, actions reach 1, and the entropy's `log(1 - a * a)` has no eps."""
    actor, critic = Squashed(), mlp(5, 32, 1)
    models = {"actor": actor, "critic": critic}
    both = {name: torch.optim.Adam(m.parameters(), lr=1e-3) for name, m in models.items()}
    eps = 0.0 if broken else 1e-6
    with place.watch(nn.ModuleDict(models), both) as watch:
        for step in range(240):
            state = torch.randn(64, 4)
            with torch.no_grad():
                tried = torch.rand(64, 1) * 2 - 1
            reward = -(tried - state[:, :1].tanh()).square()
            loss = (critic(torch.cat([state, tried], 1)) - reward).square().mean()
            both["critic"].zero_grad()
            loss.backward()
            both["critic"].step()
            watch.log(loss=loss, optimizer="critic")
            if step % 2 == 0:
                action, log_p = actor(state, 40.0 if step == 120 else 1.0, eps)
                loss = (0.05 * log_p - critic(torch.cat([state, action], 1))).mean()
                both["actor"].zero_grad()
                loss.backward()
                both["actor"].step()
                watch.log(loss=loss, optimizer="actor")


def shared(place: Place, *, encoder_held: bool, actor_planned: int) -> None:
    """A critic of every step and an actor of every second over one encoder, each with its optimizer."""
    models = nn.ModuleDict({"encoder": mlp(8, 32, 32), "actor": nn.Linear(32, 3), "critic": nn.Linear(32, 1)})
    held = [*models["critic"].parameters(), *(models["encoder"].parameters() if encoder_held else ())]
    both = {
        "actor": torch.optim.Adam(models["actor"].parameters(), lr=3e-3),
        "critic": torch.optim.Adam(held, lr=3e-3),
    }
    schedule = torch.optim.lr_scheduler.LambdaLR(both["actor"], lambda step: max(0.0, 1 - step / actor_planned))
    with place.watch(models, both) as watch:
        for step in range(STEPS):
            state = torch.randn(64, 8)
            best = state[:, :3].argmax(-1)
            hidden = models["encoder"](state).relu()
            spread = torch.distributions.Categorical(logits=models["actor"](hidden.detach()))
            action = spread.sample()
            reward = (action == best).float()
            value = models["critic"](hidden).squeeze(-1)
            loss = (value - reward).square().mean()
            both["critic"].zero_grad()
            loss.backward()
            both["critic"].step()
            schedule.step()
            watch.log(loss=loss, optimizer="critic")
            if step % 2 == 1:
                loss = -(spread.log_prob(action) * (reward - value.detach())).mean()
                both["actor"].zero_grad()
                loss.backward()
                both["actor"].step()
                watch.log(loss=loss, optimizer="actor")


@case("several optimizers", "parameters-without-optimizer", parameter="encoder")
def a_shared_encoder_that_neither_optimizer_holds(place: Place, broken: bool) -> None:
    shared(place, encoder_held=not broken, actor_planned=2 * STEPS)


@case("several optimizers", "learning-rate-zero", optimizer="actor", step=75)
def the_actors_schedule_is_stepped_with_the_critic(place: Place, broken: bool) -> None:
    """It was planned for the 150 steps of the actor and is at 0 after half of them."""
    shared(place, encoder_held=True, actor_planned=150 if broken else 2 * STEPS)


# ----------------------------------------------------------------------------------- wrappers

SAM = """
    from torch import nn
    class SAM(torch.optim.Optimizer):
        def __init__(self, params, base, rho=0.05, **kw):
            super().__init__(params, dict(rho=rho, **kw))
            self.base_optimizer = base(self.param_groups, **kw)
            self.param_groups = self.base_optimizer.param_groups
        @torch.no_grad()
        def first_step(self):
            norm = torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()
            for g in self.param_groups:
                for p in g["params"]:
                    self.state[p]["old"] = p.clone()
                    p.add_(p.grad, alpha=g["rho"] / (float(norm) + 1e-12))
            self.zero_grad()
        @torch.no_grad()
        def second_step(self):
            for g in self.param_groups:
                for p in g["params"]:
                    p.copy_(self.state[p]["old"])
            self.base_optimizer.step()
            self.zero_grad()
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = SAM(net.parameters(), torch.optim.SGD, lr=0.05)
    def loss_of(x):
        return (net(x) - x[:, :3].sum(1, keepdim=True)).square().mean()
    for step in range(300):
        x = torch.randn(64, 8)
        loss_of(x).backward()
        optimizer.first_step()
        {second}
"""


@case("several optimizers", "no-steps")
def sharpness_aware_without_its_second_step(place: Place, broken: bool) -> None:
    second = "pass" if broken else "loss_of(x).backward(); optimizer.second_step()"
    place.script(SAM.format(second=second))


LOOKAHEAD = """
    from torch import nn
    class Lookahead(torch.optim.Optimizer):
        def __init__(self, inner, k=5, alpha=0.5):
            super().__init__([p for g in inner.param_groups for p in g["params"]], {{}})
            self.inner, self.k, self.alpha, self.count = inner, k, alpha, 0
            self.slow = [p.detach().clone() for g in inner.param_groups for p in g["params"]]
        @torch.no_grad()
        def step(self, closure=None):
            self.inner.step()
            self.count += 1
            if self.count % self.k == 0:
                for slow, p in zip(self.slow, [p for g in self.inner.param_groups for p in g["params"]]):
                    slow.lerp_(p, self.alpha)
                    p.copy_(slow)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = Lookahead(torch.optim.SGD(net.parameters(), lr={rate}, momentum=0.9))
    for step in range(300):
        x = torch.randn(64, 8)
        loss = (net(x) - x[:, :3].sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


@case("several optimizers", "diverged", also=("nonfinite-loss",), step=0, within=40)
def lookahead_around_a_rate_that_is_too_high(place: Place, broken: bool) -> None:
    place.script(LOOKAHEAD.format(rate=0.6 if broken else 0.005))


# ------------------------------------------------------------------------------ how it ended

LOOP = """
    import os, signal, sys, time
    from torch import nn
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    def train(step):
        x = torch.randn(32, 6)
        optimizer.zero_grad()
        loss = (net(x).squeeze(1) - x.sum(1)).square().mean()
        loss.backward()
        optimizer.step()
        return float(loss)
    {before}
    for step in range(250):
        {inside}
        train(step)
    {after}
"""


def loop(place: Place, *, before: str = "", inside: str = "", after: str = "", kill: bool = False) -> None:
    place.script(LOOP.format(before=before or "pass", inside=inside or "pass", after=after or "pass"), kill=kill)


@case("how it ended", "died", step=169)
def out_of_memory_at_a_long_batch(place: Place, broken: bool) -> None:
    loop(place, inside="if step == 170: raise torch.OutOfMemoryError('CUDA out of memory.')" if broken else "")


@case("how it ended", "died", step=139)
def terminated_by_the_scheduler(place: Place, broken: bool) -> None:
    """SIGTERM with the default handler, as at the end of a job's time."""
    inside = "if step == 140: time.sleep(0.5); os.kill(os.getpid(), signal.SIGTERM)"
    loop(place, inside=inside if broken else "", kill=broken)


@case("how it ended", "died", step=119)
def a_script_that_gives_up_with_an_exit_code(place: Place, broken: bool) -> None:
    """`sys.exit("...")` ends with code 1: the script says that it failed."""
    loop(place, inside="if step == 120: sys.exit('validation accuracy is at chance, giving up')" if broken else "")


@case("how it ended", "died", step=249)
def the_evaluation_at_the_end_raises(place: Place, broken: bool) -> None:
    loop(place, after="net(torch.randn(4, 7))" if broken else "net(torch.randn(4, 6))")


@case("how it ended", "died", step=4)
def the_fifth_batch_has_another_shape(place: Place, broken: bool) -> None:
    """Too few steps to judge, which matters less than that it died."""
    loop(place, inside="if step == 5: net(torch.randn(4, 7))" if broken else "")


@case("how it ended", "killed", also=("died",), step=249)
def a_watchdog_ends_the_process(place: Place, broken: bool) -> None:
    """`os._exit` runs no handler, as after a deadlock that a watchdog found."""
    loop(place, after="time.sleep(1.5); os._exit(1)" if broken else "", kill=broken)


@case("how it ended", "diverged", also=("nonfinite-loss",), step=150, within=30)
def resumed_with_the_rate_of_another_config(place: Place, broken: bool) -> None:
    """A checkpoint of step 150, continued into the same folder."""
    model = mlp(8, 32, 32, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    train(place, model, optimizer, plane(601), squared, steps=150)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    model = mlp(8, 32, 32, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    if broken:
        optimizer.param_groups[0]["lr"] = 2.0
    batches = itertools.islice(plane(601), 150, None)
    train(place, model, optimizer, batches, squared, steps=150)


@case("how it ended", None)
def stopped_by_hand(place: Place, broken: bool) -> None:
    """Ctrl-C: who presses it knows that the training ended."""
    loop(place, inside="if step == 180: raise KeyboardInterrupt", kill=True)


@case("how it ended", None)
def early_stopping_by_an_exit(place: Place, broken: bool) -> None:
    loop(place, inside="if step == 200: sys.exit(0)")


@case("how it ended", None)
def an_error_that_the_script_catches(place: Place, broken: bool) -> None:
    """A batch that does not fit into memory is left out, as many scripts do."""
    inside = """try:
            if step == 90: raise torch.OutOfMemoryError("CUDA out of memory.")
        except torch.OutOfMemoryError:
            continue"""
    loop(place, inside=inside)


@case("how it ended", None)
def a_signal_that_the_script_handles(place: Place, broken: bool) -> None:
    """It finishes its step and ends by itself."""
    before = "asked = []; signal.signal(signal.SIGTERM, lambda *_: asked.append(1))"
    inside = """if step == 160: os.kill(os.getpid(), signal.SIGTERM)
        if asked: break"""
    loop(place, before=before, inside=inside)


@case("how it ended", None)
def died_and_resumed_to_its_end(place: Place, broken: bool) -> None:
    """The second process makes steps 100 to 119 again and goes on to the end."""
    torch.manual_seed(602)
    model = mlp(64, 32, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    saved = {}
    try:
        with place.watch(model, optimizer) as watch:
            for step, batch in enumerate(itertools.islice(digits(602), 120)):
                if step == 100:
                    saved = copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
                loss = classify(model, batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                watch.log(loss=loss)
            raise RuntimeError("the data loader's worker is gone")
    except RuntimeError:
        pass
    model = mlp(64, 32, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    batches = itertools.islice(digits(602), 100, None)
    train(place, model, optimizer, batches, classify, steps=200, first_step=100)


@case("several optimizers", None)
def gradients_of_a_critic_ten_times_the_actors(place: Place, broken: bool) -> None:
    """Two optimizers at other frequencies, rates and sizes of gradient, both well."""
    shared(place, encoder_held=True, actor_planned=4 * STEPS)


# ------------------------------------------------------------------ histories as people have them

lm = functools.partial(Gpt, width=16, depth=1)


@case("histories", "diverged", also=("loss-regressed", "learning-rate-too-high"), step=200, within=60)
def a_rate_restarted_thirty_times_too_high(place: Place, broken: bool) -> None:
    """After a restart at step 200 of 400 the rate is 30 times what it was; the Trainer logs every tenth step."""
    model = lm()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 30.0 if broken and step >= 200 else 1.0)
    place.imported(trained_by_a_trainer(model, optimizer, text(610), next_byte, steps=400, every=10, schedule=schedule))


@case("histories", "loss-hides-nan", also=("nonfinite-gradient", "nonfinite-loss"), step=160, within=10)
def one_nan_in_the_data_behind_the_trainers_filter(place: Place, broken: bool) -> None:
    """The Trainer leaves NaN out of its mean of the loss: 0.0 is logged, beside a norm that is NaN."""
    model = mlp(64, 32, 10)

    def change(step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return (batch[0] / (0.0 if broken and step == 150 else 1.0), batch[1])

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    place.imported(trained_by_a_trainer(model, optimizer, digits(611), classify, steps=400, every=10, change=change))


@case("histories", "spike", step=250)
def a_batch_of_another_unit_in_a_log_of_every_tenth_step(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)

    def change(step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return (batch[0] * 60, batch[1].flip(0)) if broken and step == 249 else batch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    place.imported(
        trained_by_a_trainer(model, optimizer, digits(612), classify, steps=500, every=10, change=change, clip=1.0)
    )


@case("histories", "learning-rate-zero")
def a_warm_up_in_whole_numbers(place: Place, broken: bool) -> None:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (step + 1) // 1000 if broken else min(1.0, (step + 1) / 50)
    )
    place.imported(
        trained_by_a_trainer(model, optimizer, digits(613), classify, steps=400, every=10, schedule=schedule)
    )


@case("histories", "diverged", step=50, within=50)
def twelve_rows_of_a_loss_that_runs_away(place: Place, broken: bool) -> None:
    """SGD a little above its limit: the loss grows and stays finite."""
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.93 if broken else 0.02)
    place.imported(trained_by_a_trainer(model, optimizer, plane(614), squared, steps=120, every=10))


def policy(rate_at: Callable[[int], float], *, rewards: bool, noise: float = 0.0) -> list[dict[str, object]]:
    """A policy trained by the advantage within groups of eight; each row is the mean of five updates."""
    net = mlp(8, 32, 4)
    optimizer = torch.optim.Adam(net.parameters(), lr=1.0)
    rows: list[dict[str, object]] = []
    losses, seen = [], []
    for step in range(400):
        optimizer.param_groups[0]["lr"] = rate_at(step)
        state = torch.randn(16, 8)
        log_p = net(state).log_softmax(-1)
        actions = torch.multinomial(log_p.exp().detach(), 8, replacement=True)
        reward = (actions == state[:, :4].argmax(-1, keepdim=True)).float()
        reward = torch.where(torch.rand(16, 8) < noise, 1 - reward, reward)
        advantage = (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-4)
        ratio = (log_p - log_p.detach()).exp().gather(1, actions)
        loss = -(advantage * ratio).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        seen.append(reward.mean().item())
        if step % 5 == 4:
            row = {"step": step + 1, "loss": round(sum(losses) / 5, 4), "grad_norm": float(norm)}
            rows.append(row | {"learning_rate": rate_at(step)} | ({"reward": sum(seen) / 5} if rewards else {}))
            losses, seen = [], []
    return rows


@case("histories", "reward-lost", step=200, within=60)
def a_policy_thrown_away_by_one_high_rate(place: Place, broken: bool) -> None:
    place.imported(policy(lambda step: 3.0 if broken and step >= 200 else 5e-3, rewards=True))


@case("histories", None)
def a_policy_under_a_rate_that_falls_to_zero(place: Place, broken: bool) -> None:
    """Surrogate losses about 0, norms that fall, no reward in the log."""
    place.imported(policy(lambda step: 5e-3 * (1 - step / 400), rewards=False, noise=0.2))


@case("histories", None)
def a_policy_that_solves_its_task(place: Place, broken: bool) -> None:
    """Late groups are all right, so that many rows have almost no gradient; the reward stands at its best."""
    place.imported(policy(lambda step: 1e-2, rewards=True))


@case("histories", None)
def a_language_model_under_cosine_and_weight_decay(place: Place, broken: bool) -> None:
    model = lm()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 40) * 0.5 * (1 + math.cos(math.pi * step / 400))
    )
    place.imported(
        trained_by_a_trainer(model, optimizer, text(615), next_byte, steps=400, every=10, schedule=schedule, clip=1.0)
    )


@case("histories", None)
def thirty_rows_of_a_short_fine_tuning(place: Place, broken: bool) -> None:
    model = lm()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 150)
    place.imported(
        trained_by_a_trainer(model, optimizer, text(616), next_byte, steps=150, every=5, schedule=schedule, clip=1.0)
    )


# ------------------------------------------------------------------------------ where two runs part


def classifier(
    place: Place,
    *,
    change: Callable[[int, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]] = lambda step, batch: batch,
    before: Callable[[int, nn.Module, torch.optim.Optimizer], None] = lambda step, model, optimizer: None,
    after_backward: Callable[[int, nn.Sequential], None] = lambda step, model: None,
    low: bool = False,
    clip: Callable[[int], float] = lambda step: 1.0,
) -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    batches = digits(620)
    with place.watch(model, optimizer) as watch:
        for step in range(200):
            before(step, model, optimizer)
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                loss = classify(model, change(step, next(batches)))
            optimizer.zero_grad()
            loss.backward()
            after_backward(step, model)
            nn.utils.clip_grad_norm_(model.parameters(), clip(step))
            optimizer.step()
            watch.log(loss=loss)


def another_seed(place: Place, other: bool) -> None:
    torch.manual_seed(place.seed + other)
    classifier(place)


def one_batch_is_another(place: Place, other: bool) -> None:
    """One image of a batch of 64 has another label."""

    def change(step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if other and step == 83:
            return batch[0], torch.cat([(batch[1][:1] + 1) % 10, batch[1][1:]])
        return batch

    classifier(place, change=change)


def more_dropout_from_a_step_on(place: Place, other: bool) -> None:
    def before(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if other and step == 61:
            model.get_submodule("2").p = 0.2  # type: ignore[assignment]

    classifier(place, before=before)


def another_dtype(place: Place, other: bool) -> None:
    classifier(place, low=other)


def one_entry_of_one_gradient(place: Place, other: bool) -> None:
    """One entry of one bias's gradient is a little larger, at one step, as a nondeterministic kernel makes it."""

    def after(step: int, model: nn.Sequential) -> None:
        gradient = model[3].bias.grad
        if other and step == 97 and isinstance(gradient, Tensor):
            gradient[4] *= 1 + 1e-5

    classifier(place, after_backward=after)


def another_threshold(place: Place, other: bool) -> None:
    classifier(place, clip=lambda step: 0.9 if other and step >= 110 else 1.0)


def weight_decay_set_later(place: Place, other: bool) -> None:
    def before(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if other and step == 140:
            optimizer.param_groups[0]["weight_decay"] = 0.5

    classifier(place, before=before)


def the_makers_rate_alone(place: Place, other: bool) -> None:
    """A GAN whose generator has another rate from its step 40 on; the discriminator follows a step later."""
    maker, judge = mlp(4, 32, 2), mlp(2, 32, 1)
    models = {"maker": maker, "judge": judge}
    both = {name: torch.optim.Adam(m.parameters(), lr=1e-3) for name, m in models.items()}
    with place.watch(nn.ModuleDict(models), both) as watch:
        for step in range(120):
            fake = maker(torch.randn(64, 4))
            loss = bce(judge(ring()), torch.ones(64, 1)) + bce(judge(fake.detach()), torch.zeros(64, 1))
            both["judge"].zero_grad()
            loss.backward()
            both["judge"].step()
            watch.log(loss=loss, optimizer="judge")
            if step % 2 == 0:
                if other and step == 80:
                    both["maker"].param_groups[0]["lr"] = 2e-3
                loss = bce(judge(maker(torch.randn(64, 4))), torch.ones(64, 1))
                both["maker"].zero_grad()
                loss.backward()
                both["maker"].step()
                watch.log(loss=loss, optimizer="maker")


def resumed_without_the_optimizers_state(place: Place, other: bool) -> None:
    """Both are resumed at step 100 from the same weights; only the second forgets Adam's averages."""
    model = mlp(64, 32, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    train(place, model, optimizer, digits(621), classify, steps=100)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    model = mlp(64, 32, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.load_state_dict(saved[0])
    if not other:
        optimizer.load_state_dict(saved[1])
    train(place, model, optimizer, itertools.islice(digits(621), 100, None), classify, steps=100)


pairs = [
    Pair(another_seed, step=0, sources=("weights", "loss")),
    Pair(one_batch_is_another, step=83, sources=("loss",)),
    Pair(more_dropout_from_a_step_on, step=61, sources=("loss",)),
    Pair(another_dtype, step=0, sources=("loss",)),
    Pair(one_entry_of_one_gradient, step=97, sources=("gradient",), parameter="3.bias"),
    Pair(another_threshold, step=110, sources=("settings",)),
    Pair(weight_decay_set_later, step=140, sources=("settings", "update")),
    Pair(the_makers_rate_alone, step=40, sources=("settings",), optimizer="maker"),
    Pair(resumed_without_the_optimizers_state, step=100, sources=("update",)),
]


# ---------------------------------------------------------------------- what `gradwatch check` lets pass


def ends_before_the_steps_that_were_asked_for(place: Place, broken: bool) -> None:
    """The data ran out: the loop ended by itself, after 60 of 200 steps."""
    steps = 60 if broken else 220
    model = mlp(64, 32, 10)
    train(place, model, torch.optim.Adam(model.parameters(), lr=2e-3), digits(630), classify, steps=steps)


def dies_unless_that_is_allowed(place: Place, broken: bool) -> None:
    loop(place, inside="if step == 140: raise RuntimeError('worker exited unexpectedly')" if broken else "")


def terminated_and_that_is_allowed(place: Place, broken: bool) -> None:
    """Where it is allowed, a training that was terminated passes, and one with another fault does not."""
    before = "optimizer.param_groups[0]['lr'] = 0.0" if broken else ""
    inside = "if step == 140: time.sleep(0.5); os.kill(os.getpid(), signal.SIGTERM)"
    loop(place, before=before, inside=inside, kill=True)


def two_optimizers_at_other_frequencies(place: Place, broken: bool) -> None:
    """200 steps are asked for: what counts is the optimizer that made most."""
    first, second = mlp(8, 24, 1), mlp(8, 24, 1)
    both = {name: torch.optim.Adam(m.parameters(), lr=1e-3) for name, m in (("a", first), ("b", second))}
    batches = plane(631)
    with place.watch(nn.ModuleList([first, second]), both) as watch:
        for step in range(150 if broken else 240):
            for name, model in (("a", first), ("b", second)):
                if name == "a" or step % 3 == 0:
                    loss = squared(model, next(batches))
                    both[name].zero_grad()
                    loss.backward()
                    both[name].step()
                    watch.log(loss=loss, optimizer=name)


gates = [
    Gate(ends_before_the_steps_that_were_asked_for, ("--min-steps", "200")),
    Gate(dies_unless_that_is_allowed, ()),
    Gate(terminated_and_that_is_allowed, ("--allow-unfinished",)),
    Gate(two_optimizers_at_other_frequencies, ("--min-steps", "200")),
]
