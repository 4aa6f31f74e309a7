"""Captures of real loops: training stays equal bit for bit, and a replay gives the step's gradients bit for bit."""

import contextlib
import copy
import dataclasses
import gc
import os
import shutil
import weakref
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import gradwatch
from gradwatch.capture import CaptureOptions, differentiable, list_captures, read, set_random_state

pytestmark = pytest.mark.filterwarnings("ignore")
BAD, STEPS = 40, 44


def replay(capture, model):
    """Make the gradients of a capture again: forward with what it kept, then backward from its output gradients."""
    model = copy.deepcopy(model)
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(capture.weights[name])
            parameter.grad = None
    for group in capture.groups:
        outputs, gradients = [], []
        for forward in group.forwards:
            output = run(forward, model)
            for one, gradient in zip(differentiable(output), forward.output_gradients, strict=True):
                if gradient is not None:
                    outputs.append(one)
                    gradients.append(gradient)
        torch.autograd.backward(outputs, gradients)
    scale = capture.loss_scale or 1.0
    return {name: named[name].grad / scale for name in capture.gradients}


def run(forward, model):
    for name, buffer in forward.buffers.items():  # new tensors: a graph may hold those of the forward before
        owner, _, key = name.rpartition(".")
        setattr(model.get_submodule(owner), key, buffer.clone())
    module = model.get_submodule(forward.module)
    prefix = f"{forward.module}." if forward.module else ""
    for name, one in module.named_modules():
        one.training = forward.training.get(prefix + name, forward.training[""]) if name else forward.training[""]
    set_random_state(forward.random_state)
    with contextlib.ExitStack() as stack:
        for kind, cast in forward.autocast.items():
            dtype = getattr(torch, cast.dtype)
            stack.enter_context(torch.autocast(kind, dtype, cache_enabled=cast.cache_enabled))
        return module(*forward.args, **forward.kwargs)


def equal(one, other):
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())


def assert_makes_again(capture, model):
    """A replay of the capture makes each gradient that it holds, and it holds one of each parameter."""
    assert capture.gradients.keys() == dict(model.named_parameters()).keys()
    again = replay(capture, model)
    assert [name for name, gradient in capture.gradients.items() if not equal(again[name], gradient)] == []


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(6, 12), nn.BatchNorm1d(12)
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(12, 3)

    def forward(self, x, scale=1.0):
        return self.last(self.drop(torch.tanh(self.norm(self.first(x))))) * scale


def batches(steps=STEPS, rows=8):
    generator = torch.Generator().manual_seed(7)
    for step in range(steps):
        yield torch.randn(rows, 6, generator=generator) * (100 if step == BAD else 1)


def weight(step):
    return 1000.0 if step == BAD else 1.0


class Trained:
    """One training: `attach` is called by the loop as it begins."""

    def __init__(self, capture, folder):
        self.capture, self.folder, self.watch, self.model = capture, folder, None, None

    def attach(self, model, optimizer, **options):
        """Record, unless this is the training without capture and nothing else is asked of gradwatch."""
        self.model = model
        if self.capture is not None or options:
            self.watch = gradwatch.attach(model, optimizer, self.folder, capture=self.capture or False, **options)


def plain(t, make=Net):
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    t.attach(model, optimizer)
    for step, x in enumerate(batches()):
        optimizer.zero_grad()
        (model(x, scale=1.0).square().mean() * weight(step)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def policy(t):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    t.attach(model, optimizer, clip=gradwatch.clip.NormClip(0.5))
    for step, x in enumerate(batches()):
        (model(x).square().mean() * weight(step)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)


def accumulation(t):
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    t.attach(model, optimizer)
    for step, x in enumerate(batches(rows=12)):
        for part in x.split(4):
            (F.mse_loss(model(part), part[:, :3]) * weight(step) / 3).backward()
        optimizer.step()
        optimizer.zero_grad()


def autocast(t):
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    t.attach(model, optimizer)
    for step, x in enumerate(batches()):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(x).float().square().mean() * weight(step)
        loss.backward()
        optimizer.step()


def autocast_of_float16(t):
    """With a GradScaler; the hidden layers are in float16."""
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    t.attach(model, optimizer)
    for step, x in enumerate(batches()):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = model(x).float().square().mean() * weight(step)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()


def scaled(t, unscales=True):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    t.attach(model, optimizer)
    for step, x in enumerate(batches()):
        optimizer.zero_grad()
        loss = model(x).square().mean() * weight(step)
        scaler.scale(loss).backward()
        if unscales:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()


def scaled_without_unscaling(t):
    scaled(t, unscales=False)


class Checkpointed(Net):
    reentrant = False

    def forward(self, x, scale=1.0):
        hidden = checkpoint(lambda h: self.drop(torch.tanh(self.first(h))), x, use_reentrant=self.reentrant)
        return self.last(hidden) * scale


class Reentrant(Checkpointed):
    reentrant = True

    def forward(self, x, scale=1.0):
        return super().forward(x.requires_grad_(), scale)


def siamese(t):
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    t.attach(model, optimizer)
    for step, x in enumerate(batches()):
        optimizer.zero_grad()
        one, other = model(x), model(x + 0.1)
        (F.cosine_similarity(one, other).square().mean() * weight(step)).backward()
        optimizer.step()


def gan(t):
    model = nn.ModuleDict({"g": nn.Linear(4, 6), "d": Net()})
    of_g = torch.optim.Adam(model["g"].parameters(), lr=1e-3)
    of_d = torch.optim.Adam(model["d"].parameters(), lr=1e-3)
    t.attach(model, {"g": of_g, "d": of_d})
    for step, x in enumerate(batches()):
        noise = x[:, :4].clamp(-3, 3)
        of_d.zero_grad()
        loss = F.softplus(-model["d"](x)).mean() + F.softplus(model["d"](model["g"](noise).detach())).mean()
        loss.backward()
        of_d.step()
        of_g.zero_grad()
        (F.softplus(-model["d"](model["g"](noise))).mean() * weight(step)).backward()
        of_g.step()


def episode(t):
    """A model is called many times, and one backward reaches all of its outputs."""
    model = Net()
    model.norm = nn.Identity()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    t.attach(model, optimizer)
    for step, x in enumerate(batches()):
        optimizer.zero_grad()
        outs = torch.stack([model(x[at : at + 1]) for at in range(7)])
        (outs.square().mean() * weight(step) + outs.log_softmax(-1).mean()).backward()
        optimizer.step()


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, packed):
        hidden, _ = self.lstm(packed)
        return self.head(pad_packed_sequence(hidden, batch_first=True)[0])


def lstm(t):
    model = Packed()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    t.attach(model, optimizer)
    for step, x in enumerate(batches(rows=15)):
        optimizer.zero_grad()
        packed = pack_padded_sequence(x.view(3, 5, 6), [5, 2, 3], batch_first=True, enforce_sorted=False)
        (model(packed).square().mean() * weight(step)).backward()
        optimizer.step()


@dataclasses.dataclass
class Answer:
    loss: torch.Tensor
    logits: torch.Tensor


class Inside(Net):
    """The loss is made within, from logits that are used outside as well."""

    def forward(self, batch, labels=None):
        logits = super().forward(batch["x"])
        return Answer(F.mse_loss(logits, labels), logits)


@dataclasses.dataclass
class Batch:
    x: torch.Tensor
    rows: int


class Unpacking(Net):
    """Takes its input out of whatever holds it."""

    def forward(self, batch):
        return super().forward(batch.x if hasattr(batch, "x") else batch["x"] if isinstance(batch, dict) else batch[0])


class OfSparse(Net):
    def forward(self, x):
        hidden = torch.sparse.mm(x, self.first.weight.t()) + self.first.bias
        return self.last(self.drop(torch.tanh(hidden)))


class OfIds(Net):
    def __init__(self):
        super().__init__()
        self.ids = nn.Embedding(50, 6)

    def forward(self, ids):
        return super().forward(self.ids(ids).mean(dim=1))


def given(t, make, put):
    """A loop whose model takes its batch as ``put`` makes it."""
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    t.attach(model, optimizer)
    for step, x in enumerate(batches()):
        optimizer.zero_grad()
        (model(put(x)).square().mean() * weight(step)).backward()
        optimizer.step()


def tuple_input(t):
    given(t, Unpacking, lambda x: (x, len(x)))


def dictionary_input(t):
    given(t, Unpacking, lambda x: {"x": x, "lengths": torch.full((len(x),), 6)})


def dataclass_input(t):
    given(t, Unpacking, lambda x: Batch(x, len(x)))


def batch_encoding(t):
    from transformers import BatchEncoding

    given(t, Unpacking, lambda x: BatchEncoding({"x": x, "attention_mask": torch.ones(len(x), 6, dtype=torch.int64)}))


def sparse_input(t):
    given(t, OfSparse, lambda x: x.relu().to_sparse())


def sparse_rows(t):
    given(t, OfSparse, lambda x: x.relu().to_sparse_csr())


def integer_input(t):
    given(t, OfIds, lambda x: (x.abs() * 7).long() % 50)


def loss_inside(t):
    model = Inside()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    t.attach(model, optimizer)
    for step, x in enumerate(batches()):
        optimizer.zero_grad()
        out = model({"x": x}, labels=x[:, 3:])
        ((out.loss + 0.1 * out.logits.abs().mean()) * weight(step)).backward()
        optimizer.step()


def loss_changed_in_place(t):
    """As the Trainer of Transformers multiplies the loss of a model by the number of processes."""
    model = Inside()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    t.attach(model, optimizer)
    for step, x in enumerate(batches()):
        optimizer.zero_grad()
        loss = model({"x": x}, labels=x[:, 3:]).loss
        loss *= weight(step)
        loss += 1
        (loss / 2).backward()
        optimizer.step()


def outputs_changed_in_place(t):
    """Wholly and in part, in two micro-batches."""
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    t.attach(model, optimizer)
    for step, x in enumerate(batches()):
        optimizer.zero_grad()
        for part in x.split(4):
            out = model(part)
            out.mul_(3.0)
            out[:, 1] = 5.0
            (out.square().mean() * weight(step)).backward()
        optimizer.step()


def retained(t):
    """One graph, two backward calls."""
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    t.attach(model, optimizer)
    for step, x in enumerate(batches()):
        optimizer.zero_grad()
        out = model(x)
        (out[:, 0].mean() * weight(step)).backward(retain_graph=True)
        out[:, 1].square().mean().backward()
        optimizer.step()


def gpt2(t):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    t.attach(model, optimizer)
    model.train()
    for step, x in enumerate(batches()):
        optimizer.zero_grad()
        ids = (x[:4].abs() * 7).long() % 40
        loss = model(input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids)).loss
        (loss * weight(step)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def frozen_part(t):
    model = Net()
    model.first.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2, momentum=0.9)
    t.attach(model, optimizer)
    for step, x in enumerate(batches()):
        optimizer.zero_grad()
        (model(x).square().mean() * weight(step)).backward()
        optimizer.step()


def without_optimizer(t):
    model = Net()
    t.attach(model, None)
    for step, x in enumerate(batches()):
        for parameter in model.parameters():
            parameter.grad = None
        (model(x).square().mean() * weight(step)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad, alpha=1e-3)


def closure(t, clips=False):
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    t.attach(model, optimizer)
    for step, x in enumerate(batches()):

        def evaluate(x=x, step=step):
            optimizer.zero_grad()
            loss = model(x).square().mean() * weight(step)
            loss.backward()
            if clips:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            return loss

        optimizer.step(evaluate)


def closure_that_clips(t):
    closure(t, clips=True)


def part_of_the_model(t):
    """The loop calls a module of the model and never the model."""
    model = nn.ModuleDict({"net": Net(), "loss": nn.MSELoss()})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    t.attach(model, optimizer)
    for step, x in enumerate(batches()):
        optimizer.zero_grad()
        (model["loss"](model["net"](x), x[:, :3]) * weight(step)).backward()
        optimizer.step()


def lightning(t):
    import lightning.pytorch as pl

    from gradwatch.integrations.lightning import GradWatchCallback

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def training_step(self, x, step):
            return self.net(x).square().mean() * weight(step)

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    t.model = Module()
    callbacks = [] if t.capture is None else [GradWatchCallback(t.folder, capture=t.capture)]
    trainer = pl.Trainer(
        max_epochs=1, callbacks=callbacks, logger=False, enable_checkpointing=False, gradient_clip_val=1.0,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(t.model, torch.utils.data.DataLoader(list(batches()), batch_size=None))


def trained(training, capture, folder):
    torch.manual_seed(3)
    t = Trained(capture, folder)
    training(t)
    if t.watch is not None:
        t.watch.close()
    return t.model


def checkpointed(t):
    plain(t, Checkpointed)


def checkpointed_reentrant(t):
    plain(t, Reentrant)


TRAININGS = [
    plain, policy, accumulation, autocast, autocast_of_float16, scaled, scaled_without_unscaling, checkpointed,
    checkpointed_reentrant, tuple_input, dictionary_input, dataclass_input, batch_encoding, sparse_input, sparse_rows,
    integer_input, siamese, episode, gan, lstm, loss_inside, loss_changed_in_place, outputs_changed_in_place,
    retained, gpt2, frozen_part, without_optimizer,
    part_of_the_model, lightning, closure, closure_that_clips,
]  # fmt: skip


@pytest.mark.parametrize("training", TRAININGS, ids=lambda one: one.__name__)
def test_training_stays_as_it_is_and_the_bad_step_can_be_made_again(training, tmp_path):
    bare = trained(training, None, tmp_path / "bare")
    model = trained(training, CaptureOptions(on=("spike", "explosion")), tmp_path / "run")
    for (name, one), other in zip(bare.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    infos = list_captures(tmp_path / "run")
    assert BAD in [info.step for info in infos]
    info = next(info for info in infos if info.step == BAD)
    capture = read(info.folder)
    assert capture.not_kept == ()
    assert capture.replayable
    again = replay(capture, model)
    assert set(again) == set(capture.gradients)
    assert again.keys() > set()
    for name, gradient in capture.gradients.items():
        assert torch.equal(again[name], gradient), name
    found = gradwatch.replay(info.folder, copy.deepcopy(model), write=False)
    assert found.recurs == "bitwise"
    assert not any("everything" in one or "operations can't" in one for one in found.unknown), found.unknown


def test_a_nan_is_kept_before_it_reaches_the_weights(tmp_path):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run", capture=True):
        for step, x in enumerate(batches(6)):
            if step == 3:
                x[5, 2] = float("nan")
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()
    (info,) = list_captures(tmp_path / "run")  # the steps after it are not finite either, and are not kept
    assert (info.step, info.why) == (3, "nonfinite")
    capture = read(info.folder)
    assert capture.weights.keys() == dict(model.named_parameters()).keys()
    assert all(bool(torch.isfinite(one).all()) for one in capture.weights.values())
    assert capture.groups[0].forwards[0].args[0].isnan().nonzero().tolist() == [[5, 2]]
    assert_makes_again(capture, model)


def test_lbfgs_is_kept_at_the_evaluation_that_is_not_finite_and_once(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    with gradwatch.attach(model, optimizer, tmp_path / "run", capture=True):
        for step, x in enumerate(batches(6)):
            if step == 3:
                x[5, 2] = float("nan")

            def evaluate(x=x):
                optimizer.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                return loss

            optimizer.step(evaluate)
    (info,) = list_captures(tmp_path / "run")
    assert (info.step, info.why) == (3, "nonfinite")
    capture = read(info.folder)
    assert capture.weights.keys() == dict(model.named_parameters()).keys()
    assert all(bool(torch.isfinite(one).all()) for one in capture.weights.values())
    assert_makes_again(capture, model)


def compiled(attached):
    def training(t):
        torch._dynamo.reset()
        model = Net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        if attached == "before it is compiled":
            t.attach(model, optimizer)
            model.eval()(torch.zeros(2, 6))  # called as it is before
            model.train()
        fast = torch.compile(model, backend="aot_eager", fullgraph=True)
        if attached != "before it is compiled":
            t.attach(model if attached == "the model" else fast, optimizer)
        t.model = model
        for step, x in enumerate(batches()):
            optimizer.zero_grad()
            (fast(x).square().mean() * weight(step)).backward()
            optimizer.step()

    return training


@pytest.mark.slow
@pytest.mark.parametrize("attached", ["the model", "the compiled one", "before it is compiled"])
def test_a_compiled_model_trains_as_it_does_and_is_kept(attached, tmp_path):
    bare = trained(compiled(attached), None, tmp_path / "bare")
    model = trained(compiled(attached), True, tmp_path / "run")
    assert all(map(torch.equal, bare.state_dict().values(), model.state_dict().values()))
    info = next(info for info in list_captures(tmp_path / "run") if info.step == BAD)
    capture = read(info.folder)
    assert capture.replayable
    assert len(capture.groups[0].forwards) == 1
    again = replay(capture, model)
    for name, gradient in capture.gradients.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-4)  # compiled, and replayed eagerly


def one_bad_step(tmp_path, loop, model=None, **options):
    """Train a little, with a step whose loss is infinite times larger, and return its capture."""
    model = model or Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gradwatch.attach(model, optimizer, tmp_path / "run", capture=CaptureOptions(**options)):
        for step, x in enumerate(batches(4)):
            optimizer.zero_grad()
            loop(model, optimizer, x, float("inf") if step == 2 else 1.0)
            optimizer.step()
    infos = list_captures(tmp_path / "run")
    return read(infos[0].folder) if infos else None


def test_a_second_derivative_is_told(tmp_path):
    def loop(model, optimizer, x, factor):
        x.requires_grad_()
        out = model(x).square().mean()
        (gradient,) = torch.autograd.grad(out, x, create_graph=True)
        ((out + gradient.square().mean()) * factor).backward()

    capture = one_bad_step(tmp_path, loop)
    assert not capture.replayable
    assert "gradients of gradients" in capture.not_kept[0]


def test_an_input_changed_in_place_is_told(tmp_path):
    class Doubling(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(6, 3)

        def forward(self, x):
            return self.last(x * 2)

    def loop(model, optimizer, x, factor):
        loss = model(x).mean() * factor
        x.zero_()
        loss.backward()

    capture = one_bad_step(tmp_path, loop, Doubling())
    assert not capture.replayable
    assert "an input was changed in place" in capture.not_kept[0]


@pytest.mark.parametrize(("kind", "is_kept"), [(dict, True), (OrderedDict, False)])
@pytest.mark.parametrize("change", ["another tensor", "nothing in it"])
def test_a_batch_that_the_loop_fills_with_others_is_kept_as_it_was_or_told(change, kind, is_kept, tmp_path):
    def loop(model, optimizer, x, factor):
        batch = kind(x=x)
        loss = model(batch).mean() * factor
        if change == "another tensor":
            batch["x"] = torch.zeros_like(x)
        else:
            batch.clear()
        loss.backward()

    model = Unpacking()
    capture = one_bad_step(tmp_path, loop, model)
    assert capture.replayable == is_kept
    if is_kept:
        assert_makes_again(capture, model)
    else:
        assert capture.not_kept == ("an input was changed in place after the forward",)


def test_an_output_that_is_a_view_and_is_changed_in_place_is_told(tmp_path):
    class Sliced(Net):
        def forward(self, x):
            return super().forward(x)[:, :2]

    def loop(model, optimizer, x, factor):
        out = model(x)
        out.mul_(2.0)
        (out.square().mean() * factor).backward()

    assert not one_bad_step(tmp_path, loop, Sliced()).replayable


def test_an_output_that_is_used_before_and_after_a_change_in_place_has_both_gradients(tmp_path):
    def loop(model, optimizer, x, factor):
        out = model(x)
        before = (out * 3).sum()
        out.mul_(2.0)
        ((out.mean() + before) * factor).backward()

    model = nn.Linear(6, 3)
    capture = one_bad_step(tmp_path, loop, model)
    assert capture.replayable
    assert_makes_again(capture, model)


@pytest.mark.parametrize("change", ["mul", "set", "none"])
def test_what_is_done_to_an_output_in_place_changes_no_gradient(change, tmp_path):
    def train(capture):
        torch.manual_seed(0)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        watch = gradwatch.attach(model, optimizer, tmp_path / str(capture), capture=capture)
        for x in batches(8):
            optimizer.zero_grad()
            out = model(x)
            if change == "mul":
                out.mul_(3.0)
            elif change == "set":
                out[:, 1] = 5.0
            out.square().mean().backward()
            optimizer.step()
        watch.close()
        return list(model.parameters())

    assert all(map(torch.equal, train(False), train(True)))


def test_a_penalty_on_the_weights_is_not_in_the_replay_and_the_gradients_tell(tmp_path):
    def loop(model, optimizer, x, factor):
        (model(x).mean() + model.last.weight.square().sum() * factor).backward()

    capture = one_bad_step(tmp_path, loop)
    again = replay(capture, Net())
    assert torch.equal(again["first.weight"], capture.gradients["first.weight"])
    assert not equal(again["last.weight"], capture.gradients["last.weight"])


def test_an_input_that_needs_pickle_is_told(tmp_path):
    class Config:
        pass

    class Odd(Net):
        def forward(self, x, config):
            return super().forward(x)

    capture = one_bad_step(tmp_path, lambda m, o, x, factor: (m(x, Config()).mean() * factor).backward(), Odd())
    assert not capture.replayable
    assert "Config" in capture.not_kept[0]


def test_steps_that_are_not_replayable_are_kept_with_weights_and_gradients(tmp_path):
    def loop(model, optimizer, x, factor):
        (model.last.weight.sum() * factor).backward()

    capture = one_bad_step(tmp_path, loop)
    assert not capture.replayable
    assert capture.groups == ()
    assert set(capture.gradients) == {"last.weight"}
    assert set(capture.weights) == {name for name, _ in Net().named_parameters()}


def test_forwards_that_no_backward_reached_are_left_out(tmp_path):
    def loop(model, optimizer, x, factor):
        with torch.no_grad():
            model(x)
        model(x)
        with torch.inference_mode():
            model(x)
        (model(x).mean() * factor).backward()

    capture = one_bad_step(tmp_path, loop)
    assert [len(group.forwards) for group in capture.groups] == [1]
    assert capture.replayable


def test_without_weights_only_inputs_are_kept(tmp_path):
    capture = one_bad_step(tmp_path, lambda m, o, x, factor: (m(x).mean() * factor).backward(), weights=False)
    assert (capture.weights, capture.gradients) == ({}, {})
    assert capture.parameters == {name: tuple(one.shape) for name, one in Net().named_parameters()}
    assert len(capture.groups) == 1


def test_more_than_may_be_held_is_let_go_and_told(tmp_path):
    def loop(model, optimizer, x, factor):
        for _ in range(3):
            (model(x).mean() * factor).backward()

    capture = one_bad_step(tmp_path, loop, max_held_bytes=500)
    assert not capture.replayable
    assert "max_held_bytes" in capture.not_kept[0]


def test_the_first_bad_steps_are_kept_and_the_last_place_is_for_one_that_is_not_finite(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    bad = {40: 1e3, 45: 1e5, 50: 1e7, 55: float("nan"), 60: float("nan")}
    with gradwatch.attach(model, optimizer, tmp_path / "run", capture=True):
        for step, x in enumerate(batches(65)):
            optimizer.zero_grad()
            ((model(x).mean() + 1) * bad.get(step, 1.0)).backward()
            optimizer.step()
    assert [info.step for info in list_captures(tmp_path / "run")] == [40, 45, 55]


@pytest.mark.parametrize("options", [{"max_bytes": 100}, {"min_free_bytes": 2**60}])
def test_a_capture_without_room_costs_one_line(options, tmp_path, caplog):
    assert one_bad_step(tmp_path, lambda m, o, x, f: (m(x).mean() * f).backward(), **options) is None
    lines = [record.getMessage() for record in caplog.records if "not-captured" in record.getMessage()]
    assert len(lines) == 1
    assert len(gradwatch.Run(tmp_path / "run").steps()) == 4


def test_a_fault_within_ends_the_capturing_alone(tmp_path, caplog):
    class Mean(dict):
        def items(self):
            raise RuntimeError("no items")

    class Odd(Net):
        def forward(self, x, extra):
            return super().forward(x)

    model = Odd()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run", capture=True):
        for x in batches(3):
            model(x, Mean(a=1)).mean().backward()
            optimizer.step()
    lines = [record.getMessage() for record in caplog.records if "not-captured" in record.getMessage()]
    assert len(lines) == 1
    assert "no items" in lines[0]
    assert len(gradwatch.Run(tmp_path / "run").steps()) == 3


def test_overflows_of_a_grad_scaler_are_not_kept(tmp_path):
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=0.25)
    with gradwatch.attach(model, optimizer, tmp_path / "run", capture=True):
        for x in batches(6):
            optimizer.zero_grad()
            scaler.scale(model(x * 1000).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert gradwatch.Run(tmp_path / "run").steps()["skipped"].any()
    assert list_captures(tmp_path / "run") == []


def test_nothing_is_held_after_the_step(tmp_path):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gradwatch.attach(model, optimizer, tmp_path / "run", capture=True):
        for x in batches(3):
            data = x.clone()
            loss = model(data).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            gone = weakref.ref(data)
            del data, loss
            gc.collect()
            assert gone() is None


def test_a_model_that_is_let_go_of_is_not_kept_alive(tmp_path):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    watch = gradwatch.attach(model, optimizer, tmp_path / "run", capture=True)
    for x in batches(3):
        model(x).mean().backward()
        optimizer.step()
    gone = weakref.ref(model)
    del model, optimizer
    gc.collect()
    assert gone() is None
    watch.close()


def test_hooks_are_gone_after_the_recording(tmp_path):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gradwatch.attach(model, optimizer, tmp_path / "run", capture=True):
        model(next(batches(1))).mean().backward()
        optimizer.step()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert type(model(next(batches(1))).grad_fn).__name__ == "MulBackward0"


def test_a_forward_within_functorch_is_left_alone(tmp_path):
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = next(batches(1))
    with gradwatch.attach(model, optimizer, tmp_path / "run", capture=True):
        parameters = dict(model.named_parameters())
        per_sample = torch.func.vmap(
            torch.func.grad(lambda p, one: torch.func.functional_call(model, p, (one,)).sum()), (None, 0)
        )(parameters, x)
        with torch.autograd.forward_ad.dual_level():
            model(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        torch.jit.trace(model, x)
    assert per_sample["weight"].shape == (8, 3, 6)


def test_an_exception_in_a_forward_leaves_the_next_ones_seen(tmp_path):
    class Raising(Net):
        def forward(self, x, fails=False):
            if fails:
                raise KeyError("no")
            return super().forward(x)

    def loop(model, optimizer, x, factor):
        with pytest.raises(KeyError):
            model(x, fails=True)
        (model(x).mean() * factor).backward()

    capture = one_bad_step(tmp_path, loop, Raising())
    assert capture.replayable
    assert len(capture.groups) == 1


def test_forwards_are_kept_in_the_order_of_their_calls(tmp_path):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, tmp_path / "run", capture=True):
        outs = [model(torch.full((1, 2), value)) for value in (1.0, 2.0, float("nan"), 4.0)]
        torch.stack(outs).sum().backward()
        optimizer.step()
    (info,) = list_captures(tmp_path / "run")
    (group,) = read(info.folder).groups
    assert [forward.args[0][0, 0].nan_to_num(3.0).item() for forward in group.forwards] == [1.0, 2.0, 3.0, 4.0]


def trained_with_in_place_loss(model, optimizer, steps, bad=None, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimizer.zero_grad()
        x = torch.randn(4, 6, generator=generator)
        if step == bad:
            x[2, 1] = float("nan")
        loss = model(x).square().mean()
        loss *= 3
        loss += 1
        loss.backward()
        optimizer.step()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_trains_on_and_keeps_nothing(tmp_path):
    """Its loss is changed in place, which capturing follows; the step in the making began in the parent."""

    def begun(folder=None):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        watch = None if folder is None else gradwatch.attach(model, optimizer, folder, capture=True)
        trained_with_in_place_loss(model, optimizer, 3)
        optimizer.zero_grad()
        loss = model(torch.ones(4, 6)).square().mean()
        loss *= 2
        return model, optimizer, loss, watch

    def ended(model, optimizer, loss):
        loss *= 5
        loss.backward()
        optimizer.step()
        trained_with_in_place_loss(model, optimizer, 4)
        found = [one.detach().clone() for one in model.parameters()]
        trained_with_in_place_loss(model, optimizer, 4, bad=2)
        return found

    bare = ended(*begun()[:3])
    model, optimizer, loss, watch = begun(tmp_path / "run")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if all(map(torch.equal, bare, ended(model, optimizer, loss))) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert list_captures(tmp_path / "run") == []
    assert all(map(torch.equal, bare, ended(model, optimizer, loss)))
    watch.close()
    (info,) = list_captures(tmp_path / "run")
    assert gradwatch.replay(info.folder, begun()[0]).recurs == "bitwise"


def test_a_folder_of_captures_that_goes_while_the_training_runs_is_made_again(tmp_path, caplog):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    good = copy.deepcopy(model.state_dict())
    captures = tmp_path / "run" / "captures"
    with gradwatch.attach(model, optimizer, tmp_path / "run", capture=True):
        for happens in ("nothing", "deleted", "a file in its place"):
            if happens != "nothing":
                shutil.rmtree(captures)
            if happens == "a file in its place":
                captures.write_text("")
            model.load_state_dict(good)
            trained_with_in_place_loss(model, optimizer, 4, bad=2)
            kept = [info.step for info in list_captures(tmp_path / "run")]
            assert kept == {"nothing": [2], "deleted": [6], "a file in its place": []}[happens]
    said = [record.getMessage() for record in caplog.records]
    assert [one.count("not-captured") for one in said if "captur" in one] == [0, 0, 1]
    assert len(gradwatch.Run(tmp_path / "run").steps()) == 12


def test_what_is_over_the_budget_of_a_run_costs_one_line_and_the_rest_stays(tmp_path, caplog):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    good = copy.deepcopy(model.state_dict())
    options = CaptureOptions(max_bytes=45_000, min_free_bytes=0)
    with gradwatch.attach(model, optimizer, tmp_path / "run", capture=options):
        for _ in range(3):
            model.load_state_dict(good)
            trained_with_in_place_loss(model, optimizer, 4, bad=2)
    infos = list_captures(tmp_path / "run")
    assert [info.step for info in infos] == [2, 6]
    assert sum(info.bytes for info in infos) <= 45_000
    assert sum("not-captured" in record.getMessage() for record in caplog.records) == 1
