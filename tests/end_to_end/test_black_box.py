"""From a bad step to its line and its row, by the commands: a script is trained, and replayed as it is.

The bad step comes from one planted row: a NaN that a module of the model makes of it, or a spike. The row is found
again in the captured batch by its mark, and not taken from the replay.
"""

import json
import textwrap
from dataclasses import dataclass

import pytest

from gradwatch.capture import list_captures, read

from ..prepared import prepared

pytestmark = pytest.mark.slow
BATCH, NAN_STEP, SPIKE_STEP, STEPS = 4, 20, 40, 44

COMMON = f"""
import sys
import torch
from torch import nn
from torch.nn import functional as F

KIND = sys.argv[1]
BATCH, STEPS = {BATCH}, {STEPS}
torch.set_num_threads(1)
torch.manual_seed(0)


def samples():
    generator = torch.Generator().manual_seed(1)
    data = torch.randn(BATCH * STEPS, 6, generator=generator)
    if KIND == "nan":
        data[{BATCH * NAN_STEP + 2}] = 0.0
    elif KIND == "spike":
        data[{BATCH * SPIKE_STEP + 1}] *= 300
    return data


class Normalise(nn.Module):
    def forward(self, x):
        size = x.square().sum(dim=1, keepdim=True).sqrt()
        return x / (size + 1e-6)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.first, self.last = Normalise(), nn.Linear(6, 12, bias=False), nn.Linear(12, 3)

    def forward(self, x):
        hidden = self.first(x)
        if KIND == "nan":
            hidden = self.norm(hidden)
        return self.last(hidden)
"""

PLAIN = """
model = Net()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for x in samples().split(BATCH):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
"""

TRAINER = """
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainingArguments
from gradwatch.integrations.transformers import GradWatchCallback


class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, x, labels=None):
        logits = self.net(x)
        return {"loss": F.mse_loss(logits, labels), "logits": logits}


class Samples(IterableDataset):
    def __iter__(self):
        for x in samples():
            yield {"x": x, "labels": x[:3]}


arguments = TrainingArguments(
    output_dir="out", max_steps=STEPS, per_device_train_batch_size=BATCH, learning_rate=1e-3, report_to="none",
    use_cpu=True, disable_tqdm=True, save_strategy="no", logging_strategy="no",
)
callback = GradWatchCallback("run", capture=True)
Trainer(WithLoss(), arguments, train_dataset=Samples(), callbacks=[callback]).train()
"""

GPT2 = """
from torch.utils.data import IterableDataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from gradwatch.integrations.transformers import GradWatchCallback


class Normalise(nn.Module):
    def forward(self, x):
        size = x.square().sum(dim=-1, keepdim=True).sqrt()
        return x / size


class Samples(IterableDataset):
    def __iter__(self):
        for at, x in enumerate(samples()):
            tokens = (x.abs() * 7).long() % 31
            if not x.any():
                tokens[3] = 31
            yield {"input_ids": tokens, "labels": tokens}


config = GPT2Config(
    vocab_size=32, n_positions=6, n_embd=16, n_layer=1, n_head=2, tie_word_embeddings=False, bos_token_id=0,
    eos_token_id=0,
)
model = GPT2LMHeadModel(config)
with torch.no_grad():
    model.transformer.wte.weight[31] = 0
    model.transformer.wpe.weight.zero_().requires_grad_(False)
model.transformer.wpe.weight.requires_grad_(False)
model.transformer.drop = Normalise()
arguments = TrainingArguments(
    output_dir="out", max_steps=STEPS, per_device_train_batch_size=BATCH, learning_rate=1e-3, report_to="none",
    use_cpu=True, disable_tqdm=True, save_strategy="no", logging_strategy="no",
)
callback = GradWatchCallback("run", capture=True)
Trainer(model, arguments, train_dataset=Samples(), callbacks=[callback]).train()
"""

LIGHTNING = """
import lightning.pytorch as pl
from gradwatch.integrations.lightning import GradWatchCallback


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Net()

    def training_step(self, x, at):
        return self.net(x).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


trainer = pl.Trainer(
    max_epochs=1, callbacks=[GradWatchCallback("run", capture=True)], logger=False, enable_checkpointing=False,
    gradient_clip_val=1.0, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
)
trainer.fit(Module(), torch.utils.data.DataLoader(samples(), batch_size=BATCH))
"""

COMPILED = """
model = Net()
fast = torch.compile(model, backend="aot_eager")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for x in samples().split(BATCH):
    optimizer.zero_grad()
    fast(x).square().mean().backward()
    optimizer.step()
"""

SCALED = """
model = Net()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_interval=10**6)
for x in samples().split(BATCH):
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x).float().square().mean()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
"""

GAN = """
generator, judge = nn.Linear(6, 6), Net()
of_generator = torch.optim.Adam(generator.parameters(), lr=1e-3)
of_judge = torch.optim.Adam(judge.parameters(), lr=1e-3)
for x in samples().split(BATCH):
    of_judge.zero_grad()
    (F.softplus(-judge(x)).mean() + F.softplus(judge(generator(x.clamp(-3, 3)).detach())).mean()).backward()
    of_judge.step()
    of_generator.zero_grad()
    F.softplus(-judge(generator(x.clamp(-3, 3)))).mean().backward()
    of_generator.step()
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A script, how it is begun, and the line of its NaN."""

    script: str
    records_itself: bool = False
    line: str = "size = x.square().sum(dim=1, keepdim=True).sqrt()"
    operation: str = "aten.sqrt"
    kinds: tuple[str, ...] = ("nan", "spike")


CASES = {
    "a loop": Case(script=PLAIN),
    "Trainer": Case(script=TRAINER, records_itself=True),
    "Trainer with GPT-2": Case(
        script=GPT2, records_itself=True, line="return x / size", operation="aten.div", kinds=("nan",)
    ),
    "Lightning": Case(script=LIGHTNING, records_itself=True),
    "compiled": Case(script=COMPILED),
    "GradScaler and autocast": Case(script=SCALED),
    "GAN": Case(script=GAN),
}


@pytest.fixture(scope="module")
def python():
    with prepared("transformers", "lightning.pytorch") as found:
        yield found


def first_input(capture):
    forward = capture.groups[0].forwards[0]
    return [*forward.args, *forward.kwargs.values()][0]


def marked_row(inputs, kind):
    """The planted row of a captured batch, by its mark."""
    if not inputs.is_floating_point():
        return (inputs == 31).any(dim=1).nonzero().item()
    return int((inputs == 0).all(dim=1).nonzero().item() if kind == "nan" else inputs.norm(dim=1).argmax())


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name, case in CASES.items() for kind in case.kinds],
    ids=lambda one: one.replace(" ", "-"),
)
def test_the_row_and_the_line_of_a_bad_step_are_named(name, kind, python, tmp_path):
    case = CASES[name]
    script = COMMON + case.script
    (tmp_path / "train.py").write_text(script)
    begin = [] if case.records_itself else ["-m", "gradwatch", "run", "--run", "run", "--capture"]
    trained = python.run([*begin, "train.py", kind], tmp_path)
    assert trained.returncode == 0, trained.stderr
    step = NAN_STEP if kind == "nan" else SPIKE_STEP
    info = next(info for info in list_captures(tmp_path / "run") if info.step == step)
    assert (info.why == "nonfinite") == (kind == "nan")

    done = python.run(
        [
            "-m",
            "gradwatch",
            "replay",
            "run",
            "--step",
            str(step),
            "--optimizer",
            info.optimizer,
            "--json",
            "train.py",
            kind,
        ],
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["recurs"] == "bitwise", found
    row = marked_row(first_input(read(info.folder)), kind)
    assert row == (2 if kind == "nan" else 1)
    assert [one["row"] for one in found["rows"] if one["stands_out"]] == [row]
    if kind == "nan":
        origin = found["origin"]
        assert (origin["operation"], origin["code"]) == (case.operation, case.line)
        numbers = [number for number, text in enumerate(script.splitlines(), 1) if text.strip() == case.line]
        assert origin["line"] in numbers
        assert origin["module"].endswith(("norm", "drop"))
    shown = " ".join(python.run(["-m", "gradwatch", "replay", "run", "--step", str(step)], tmp_path).stdout.split())
    assert f"row {row} of {BATCH}" in shown
    assert "yes, bit for bit" in shown
    if name == "compiled":
        assert "compiled" in shown
        assert found["compiled"]["recurs"] is not None


def test_a_stranger_replays_a_bundle_with_the_script_in_another_folder(python, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "train.py").write_text(COMMON + PLAIN)
    run = ["-m", "gradwatch", "run", "--run", "run", "--capture", "train.py", "nan"]
    assert python.run(run, here).returncode == 0
    packed = python.run(["-m", "gradwatch", "replay", "run", "--bundle", "case.zip", "--json", "train.py", "nan"], here)
    assert packed.returncode == 0, packed.stderr
    (here / "case.zip").rename(there / "case.zip")
    for one in here.rglob("*"):
        if one.is_file():
            one.unlink()
    stored = python.run(["-m", "gradwatch", "replay", "case.zip", "--json"], there)
    assert json.loads(stored.stdout) == json.loads(packed.stdout)
    done = python.run(["-m", "gradwatch", "replay", "case.zip", "--json", "train.py", "nan"], there)
    assert done.returncode == 0, done.stderr
    found, before = json.loads(done.stdout), json.loads(packed.stdout)
    assert (found["recurs"], found["rows"]) == ("bitwise", before["rows"])
    assert sorted(one.name for one in there.iterdir()) == ["case.zip", "train.py"]


@pytest.mark.parametrize(
    ("options", "steps"),
    [("", [NAN_STEP, STEPS + NAN_STEP]), (", first_step=0", [NAN_STEP, NAN_STEP])],
    ids=["goes on", "begins again"],
)
def test_a_resumed_run_keeps_the_captures_of_both_attempts(options, steps, python, tmp_path):
    """Both attempts meet the same bad batch; it may have the same number in both."""
    begin = f"import gradwatch\nwatch = gradwatch.attach(model, optimizer, 'run', capture=True{options})\n"
    script = textwrap.dedent(PLAIN).replace("for x in samples", f"{begin}for x in samples")
    (tmp_path / "train.py").write_text(COMMON + script + "watch.close()\n")
    for _ in range(2):
        done = python.run(["train.py", "nan"], tmp_path)
        assert done.returncode == 0, done.stderr
    infos = list_captures(tmp_path / "run")
    assert [info.step for info in infos] == steps
    for info in infos:
        done = python.run(["-m", "gradwatch", "replay", str(info.folder), "--json", "train.py", "nan"], tmp_path)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["recurs"], found["origin"]["operation"]) == ("bitwise", "aten.sqrt")
    listed = json.loads(python.run(["-m", "gradwatch", "captures", "run", "--json"], tmp_path).stdout)
    assert [one["step"] for one in listed] == steps
    for step in dict.fromkeys(steps):
        deleted = python.run(["-m", "gradwatch", "captures", "run", "--delete", str(step)], tmp_path)
        assert deleted.returncode == 0, deleted.stderr
    assert list_captures(tmp_path / "run") == []
