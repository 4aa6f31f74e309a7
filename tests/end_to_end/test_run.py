"""`gradwatch run`: scripts as they are, each beside the same script under plain Python."""

import functools
import json
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.script.leaving import REPLACED

from ..prepared import forked

PREAMBLE = """
    import torch
    from torch import nn
    torch.manual_seed(0)
    torch.set_num_threads(1)
"""

SCRIPTS = {
    "a plain loop": """
        from torch.nn.utils import clip_grad_norm_
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(30):
            loss = model(torch.randn(16, 4)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            norm = clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            print("norm", norm.item(), "loss", loss.item())
    """,
    "a language model": """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(20, 8)
                self.lstm = nn.LSTM(8, 16, batch_first=True)
                self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
                self.out = nn.Linear(16, 20)
            def forward(self, x):
                return self.out(self.block(self.lstm(self.embedding(x))[0]))
        def main():
            model = Model()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
            for step in range(20):
                x = torch.randint(20, (4, 11))
                loss = nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
                optimizer.zero_grad()
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                print("norm", norm.item(), "loss", loss.item())
        if __name__ == "__main__":
            main()
    """,
    "accumulation": """
        model = nn.Linear(4, 1)
        optimizer = torch.optim.Adam(model.parameters())
        for step in range(10):
            losses = []
            for micro in range(4):
                loss = model(torch.randn(16, 4)).square().mean() / 4
                loss.backward()
                losses.append(loss.item())  # the mean of the four, since each was divided
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
            print("norm", norm.item(), "loss", sum(losses))
    """,
    "a GradScaler": """
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        for step in range(10):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(torch.randn(16, 4)).square().mean()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
            print("norm", norm.item(), "loss", loss.item())
    """,
    "a compiled model": """
        model = torch.compile(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), backend="eager")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(10):
            loss = model(torch.randn(16, 4)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            print("norm", norm.item(), "loss", loss.item())
    """,
    "accumulation with a GradScaler": """
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        for step in range(10):
            losses = []
            for micro in range(4):
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = model(torch.randn(16, 4)).square().mean() / 4
                scaler.scale(loss).backward()
                losses.append(loss.item())
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            print("norm", norm.item(), "loss", sum(losses))
    """,
    "no optimizer": """
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        for step in range(10):
            loss = model(torch.randn(16, 4)).square().mean()
            model.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            for p in model.parameters():
                p.data.add_(p.grad, alpha=-0.1)
            print("norm", norm.item(), "loss", loss.item())
    """,
    "a transformer": """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(20, 16)
                layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
                self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
                self.out = nn.Linear(16, 20, bias=False)
                self.out.weight = self.embedding.weight
            def forward(self, x):
                mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
                return self.out(self.blocks(self.embedding(x), mask=mask, is_causal=True))
        model = Model()
        decay = [p for p in model.parameters() if p.dim() > 1]
        rest = [p for p in model.parameters() if p.dim() <= 1]
        optimizer = torch.optim.AdamW([{"params": decay}, {"params": rest, "weight_decay": 0.0}], lr=1e-3)
        for step in range(8):
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (step + 1) / 8
            x = torch.randint(20, (4, 11))
            loss = nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            print("norm", norm.item(), "loss", loss.item())
    """,
    "reinforcement learning": """
        policy = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.RMSprop(policy.parameters(), lr=1e-3)
        for episode in range(10):
            log_probabilities, rewards = [], []
            for _ in range(5):
                choice = torch.distributions.Categorical(logits=policy(torch.randn(3)))
                action = choice.sample()
                log_probabilities.append(choice.log_prob(action))
                rewards.append(float(action))
            loss = -(torch.stack(log_probabilities) * torch.tensor(rewards)).sum()
            policy.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
            optimizer.step()
            print("norm", norm.item(), "loss", loss.item())
    """,
}

GAN = """
    generator, discriminator = nn.Linear(2, 4), nn.Linear(4, 1)
    g = torch.optim.Adam(generator.parameters(), lr=1e-3)
    d = torch.optim.SGD(discriminator.parameters(), lr=1e-2)
    bce = nn.functional.binary_cross_entropy_with_logits
    for step in range(12):
        fake = generator(torch.randn(8, 2))
        d.zero_grad()
        loss = bce(discriminator(torch.randn(8, 4)), torch.ones(8, 1))
        loss = loss + bce(discriminator(fake.detach()), torch.zeros(8, 1))
        loss.backward()
        print("d", loss.item())
        d.step()
        if step % 3 == 0:
            g.zero_grad()
            loss = bce(discriminator(fake), torch.ones(8, 1))
            loss.backward()
            print("g", loss.item())
            g.step()
"""

LBFGS = """
    model = nn.Linear(3, 1)
    x = torch.randn(20, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1)
    def closure():
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        losses.append(loss.item())
        return loss
    for _ in range(4):
        losses = []
        optimizer.step(closure)
        print("first", losses[0])
"""


def write(tmp_path, text, name="train.py"):
    path = tmp_path / name
    path.write_text(textwrap.dedent(PREAMBLE) + textwrap.dedent(text))
    return path


def run(*command, cwd):
    """In a process that has PyTorch already."""
    return forked().run(command, cwd)


def run_bare(*command, cwd):
    """In a process that has imported nothing."""
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120, cwd=cwd)


RECORDED = ("-m", "gradwatch", "run", "--run", "runs/x")


def recorded(*arguments, cwd):
    return run(*RECORDED, *arguments, cwd=cwd)


def own_lines(errors):
    return [line for line in errors.splitlines() if line.startswith("gradwatch:")]


def others_lines(errors):
    return [line for line in errors.splitlines() if not line.startswith("gradwatch:")]


def printed(output, name):
    return [float(line.split(name)[1].split()[0]) for line in output.splitlines() if name in line]


EACH = """
import contextlib, io, json, runpy, sys
printed = {}
for path in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        runpy.run_path(path, run_name="__main__")
    printed[path] = out.getvalue()
print(json.dumps(printed))
"""


@pytest.fixture(scope="module")
def plain_output(tmp_path_factory):
    """What each script prints under plain Python; one process runs them all, for torch takes longer than they do."""
    folder = tmp_path_factory.mktemp("plain")
    paths = {name: write(folder, text, f"{name.replace(' ', '_')}.py") for name, text in SCRIPTS.items()}
    done = run("-c", EACH, *map(str, paths.values()), cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {name: found[str(path)] for name, path in paths.items()}


# The unit tests of `recording` have every kind of loop; here are those whose whole way is longest.
SAMPLED = ("a plain loop", "accumulation with a GradScaler", "a compiled model", "no optimizer", "a transformer")


@pytest.mark.parametrize(
    "name", [name if name in SAMPLED else pytest.param(name, marks=pytest.mark.slow) for name in SCRIPTS]
)
def test_a_script_is_recorded_as_it_is(tmp_path, name, plain_output):
    """Its output is that of plain Python to the last digit, and the record has what it printed."""
    write(tmp_path, SCRIPTS[name])
    plain = plain_output[name]
    done = (run_bare if name == "a plain loop" else run)(*RECORDED, "train.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, plain)
    steps = Run(tmp_path / "runs" / "x").steps()
    assert own_lines(done.stderr) == [f"gradwatch: recorded {len(steps)} steps; gradwatch report runs/x"]
    np.testing.assert_allclose(steps["total_norm"], printed(plain, "norm"), rtol=1e-5)
    np.testing.assert_allclose(steps["loss"], printed(plain, "loss"), rtol=1e-5)
    assert steps["max_norm"].notna().all()
    assert not any(column.startswith("_orig_mod") for column in Run(tmp_path / "runs" / "x").layers().columns)


def test_the_optimizers_of_a_gan_are_told_apart(tmp_path):
    write(tmp_path, GAN)
    done = recorded("train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = Run(tmp_path / "runs" / "x")
    assert found.optimizers == {"0": "Adam", "1": "SGD"}
    assert len(found.steps("0")) == 4
    assert len(found.steps("1")) == 12
    assert found.layers("norm", "0").shape == (4, 2)
    np.testing.assert_allclose(found.steps("1")["loss"], printed(done.stdout, "d "), rtol=1e-6)
    np.testing.assert_allclose(found.steps("0")["loss"], printed(done.stdout, "g "), rtol=1e-6)


LATE = GAN.replace("    g = torch.optim.Adam(generator.parameters(), lr=1e-3)\n", "").replace(
    "        if step % 3 == 0:\n",
    "        if step == 0:\n            g = torch.optim.Adam(generator.parameters(), lr=1e-3)\n"
    "        if step % 3 == 0:\n",
)


@pytest.mark.parametrize(
    ("script", "generator", "discriminator"),
    [
        pytest.param(GAN, "0", "1", id="both made before the first step", marks=pytest.mark.slow),
        pytest.param(LATE, "1", "0", id="one made when the other has stepped"),
    ],
)
def test_each_optimizer_of_a_resumed_run_goes_on_where_it_was(tmp_path, script, generator, discriminator):
    write(tmp_path, script)
    for _ in range(2):
        done = recorded("train.py", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    found = Run(tmp_path / "runs" / "x")
    assert found.steps(generator).index.tolist() == list(range(8))
    assert found.steps(discriminator).index.tolist() == list(range(24))
    assert [str(seam) for name in (generator, discriminator) for seam in found.seams(name)] == [
        "resumed at step 4",
        "resumed at step 12",
    ]


def test_lbfgs_with_a_closure(tmp_path):
    write(tmp_path, LBFGS)
    done = recorded("train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = Run(tmp_path / "runs" / "x").steps()
    np.testing.assert_allclose(steps["loss"], printed(done.stdout, "first"), rtol=1e-5)


def test_optimizers_that_step_within_backward_make_one_record(tmp_path):
    write(
        tmp_path,
        """
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
        squares = []
        def hook(p):
            squares.append(p.grad.square().sum().item())
            optimizers[p].step()
            optimizers[p].zero_grad()
        for p in model.parameters():
            p.register_post_accumulate_grad_hook(hook)
        for step in range(6):
            squares.clear()
            loss = model(torch.randn(16, 4)).square().mean()
            loss.backward()
            print("norm", sum(squares) ** 0.5, "loss", loss.item())
        """,
    )
    done = recorded("train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = Run(tmp_path / "runs" / "x")
    assert found.optimizers == {"0": "SGD"}
    np.testing.assert_allclose(found.steps()["total_norm"], printed(done.stdout, "norm"), rtol=1e-5)
    np.testing.assert_allclose(found.steps()["loss"], printed(done.stdout, "loss"), rtol=1e-5)


def test_an_optimizer_made_later_is_recorded_from_its_first_step(tmp_path):
    write(
        tmp_path,
        """
        first, second = nn.Linear(2, 1), nn.Linear(2, 1)
        a = torch.optim.SGD(first.parameters(), 0.1)
        for step in range(6):
            if step == 3:
                b = torch.optim.SGD([*first.parameters(), *second.parameters()], 0.1)
            (first(torch.ones(1, 2)) + second(torch.ones(1, 2))).sum().backward()
            (a if step < 3 else b).step()
        """,
    )
    assert recorded("train.py", cwd=tmp_path).returncode == 0
    found = Run(tmp_path / "runs" / "x")
    assert len(found.steps("0")) == len(found.steps("1")) == 3
    assert found.layers("norm", "1").columns.tolist() == [f"Linear{i}.{p}" for i in (0, 1) for p in ("weight", "bias")]


def test_what_the_script_sees_is_what_python_shows_it(tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "helper.py").write_text("value = 42\n")
    (tmp_path / "scripts" / "train.py").write_text(
        "import os, sys\n"
        "print(sys.stdout.errors, sys.stderr.errors, 'torch' in sys.modules)\n"
        "print(sys.argv, __name__, __file__, sys.path[0], __spec__, __package__)\n"
        "import __main__; print(__main__.__dict__ is globals())\n"
        "import helper; print(helper.value, sys.stdin.read(), os.getcwd())\n"
    )
    arguments = ["scripts/train.py", "--lr", "3", "--", "-m", "--help"]
    plain, done = run_bare(*arguments, cwd=tmp_path), run_bare(*RECORDED, *arguments, cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    assert done.stdout == plain.stdout
    assert own_lines(done.stderr) == ["gradwatch: nothing was recorded: the script did not import torch"]


def test_a_module_is_run_as_by_python(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    code = (
        "import sys; from package import other; print(sys.argv[1:], __name__, __package__, __file__, __spec__.name)\n"
    )
    (package / "other.py").write_text("")
    (package / "train.py").write_text(code)
    (package / "__main__.py").write_text(code)
    for name in ("package.train", "package"):
        plain = run_bare("-m", name, "--lr", "3", cwd=tmp_path)
        assert plain.returncode == 0, plain.stderr
        assert run_bare(*RECORDED, "-m", name, "--lr", "3", cwd=tmp_path).stdout == plain.stdout


TRAINS = (
    "w = nn.Linear(2, 1)\no = torch.optim.SGD(w.parameters(), 0.1)\nw(torch.ones(1, 2)).sum().backward()\no.step()\n"
)


def slowly(*values, id):
    return pytest.param(*values, id=id, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("end", "steps", "reason"),
    [
        pytest.param(
            TRAINS + "def f():\n    raise ValueError('mine')\nf()", 1, "exception ValueError", id="an exception"
        ),
        pytest.param(TRAINS + "import sys; sys.exit(7)", 1, "exit 7", id="sys.exit with a code"),
        slowly(TRAINS + "import sys; sys.exit('a message')", 1, "exit 1", id="sys.exit with a message"),
        slowly(TRAINS + "raise SystemExit", 1, "exit", id="SystemExit"),
        slowly(
            TRAINS + "a = w(torch.ones(1, 2)).sum()\na.backward()\na.backward()",
            1,
            "exception RuntimeError",
            id="raised in backward",
        ),
        pytest.param(
            TRAINS
            + "w.weight.grad.fill_(float('inf'))\n"
            + "nn.utils.clip_grad_norm_(w.parameters(), 1.0, error_if_nonfinite=True)",
            2,
            "exception RuntimeError",
            id="raised in clipping",
        ),
        slowly("raise RuntimeError('before the first step')", 0, None, id="an exception before the first step"),
        slowly("x = (1,", 0, None, id="a syntax error"),
        pytest.param(
            TRAINS + "import os, signal; os.kill(os.getpid(), signal.SIGTERM)", 1, "signal SIGTERM", id="SIGTERM"
        ),
        pytest.param(TRAINS + "raise KeyboardInterrupt", 1, "exception KeyboardInterrupt", id="KeyboardInterrupt"),
        pytest.param(
            "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('chained') from e",
            0,
            None,
            id="chained",
        ),
    ],
)
def test_it_ends_as_it_would_have_ended(request, tmp_path, end, steps, reason):
    """The same exit code, the same text on stderr but for our one line; and the run says how."""
    (tmp_path / "train.py").write_text(textwrap.dedent(PREAMBLE) + end)
    way = run_bare if "an exception]" in request.node.name else run
    plain, done = way("train.py", cwd=tmp_path), way(*RECORDED, "train.py", cwd=tmp_path)
    assert done.returncode == plain.returncode
    assert others_lines(done.stderr) == others_lines(plain.stderr)
    assert done.stdout == plain.stdout
    assert (tmp_path / "runs" / "x").exists() == bool(steps)
    if steps:
        found = Run(tmp_path / "runs" / "x")
        assert len(found.steps()) == steps
        assert found.attempts()[0].reason == reason


IN_THREADS = """
    import threading
    losses = {}

    def train(seed, width):
        random = torch.Generator().manual_seed(seed)
        model = nn.Linear(width, 1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random))
        optimizer = torch.optim.Adam(model.parameters())
        losses[width] = []
        for _ in range(15):
            loss = model(torch.randn(8, width, generator=random)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            losses[width].append(loss.item())

    threads = [threading.Thread(target=train, args=(seed, seed + 3)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    import json
    print(json.dumps(losses, sort_keys=True))
"""


def test_threads_that_train_models_of_their_own_are_recorded_side_by_side(tmp_path):
    """To look at the gradients of one in another would meet a backward writing them, and end the process."""
    (tmp_path / "train.py").write_text(textwrap.dedent(PREAMBLE + IN_THREADS))
    plain, done = run("train.py", cwd=tmp_path), recorded("train.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, plain.stdout), done.stderr
    found = Run(tmp_path / "runs" / "x")
    by_width = {found.parameters(name)[0].shape[1]: found.steps(name)["loss"] for name in found.optimizers}
    losses = {int(width): losses for width, losses in json.loads(plain.stdout).items()}
    assert by_width.keys() == losses.keys()
    for width, expected in losses.items():
        np.testing.assert_allclose(by_width[width], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "end", ["os.close(2)", "os.close(2)\nos.open(os.devnull, os.O_RDONLY)", "sys.stderr.close()", "sys.stderr = None"]
)
def test_a_script_that_closes_stderr_keeps_its_exit_code(tmp_path, end):
    """Our last line has no place there. SQLite opens a closed 2 for reading, so that no file of its own gets it."""
    (tmp_path / "train.py").write_text(f"import os, sys\n{end}\nprint('done')\n")
    plain, done = run_bare("train.py", cwd=tmp_path), run_bare(*RECORDED, "train.py", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (plain.returncode, plain.stdout, plain.stderr)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_script_that_can_open_no_more_files_keeps_its_exit_code(tmp_path):
    script = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\nprint('done')\n"
    (tmp_path / "train.py").write_text(script)
    done = run_bare(*RECORDED, "train.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert others_lines(done.stderr) == []


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)"])
def test_threads_that_outlive_the_script_are_recorded_to_their_end(tmp_path, end):
    """Python waits for them before the process ends."""
    trains = (
        "def train():\n    for _ in range(20):\n        time.sleep(0.01)\n"
        "        w(torch.ones(1, 2)).sum().backward()\n        o.step()\nthreading.Thread(target=train).start()\n"
    )
    (tmp_path / "train.py").write_text(textwrap.dedent(PREAMBLE) + "import threading, time\n" + TRAINS + trains + end)
    done = run_bare(*RECORDED, "train.py", cwd=tmp_path)
    assert done.returncode == (3 if end else 0), done.stderr
    assert own_lines(done.stderr) == ["gradwatch: recorded 21 steps; gradwatch report runs/x"]
    assert len(Run(tmp_path / "runs" / "x").steps()) == 21


def test_a_run_being_written_by_another_process_is_left_to_it(tmp_path):
    write(tmp_path, TRAINS + "print('ready', flush=True); input(); print('trained')")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    start = functools.partial(forked().start, [*RECORDED, "train.py"], text=True, cwd=tmp_path, **pipes)
    first = start()
    assert first.stdout.readline() == "ready\n"
    second = start()
    out, err = second.communicate("\n", timeout=60)
    assert (second.returncode, out) == (0, "ready\ntrained\n")
    assert f"runs/x' is being written by process {first.pid}" in err
    assert own_lines(err) == ["gradwatch: nothing was recorded: the run could not be written"]
    first.communicate("\n", timeout=60)
    assert len(Run(tmp_path / "runs" / "x").steps()) == 1


def test_ctrl_c_keeps_what_was_recorded(tmp_path):
    write(
        tmp_path,
        TRAINS
        + """
step = 0
while True:
    w(torch.ones(1, 2)).sum().backward(); o.step(); step += 1
    if step == 20:
        print("ready", flush=True)
""",
    )
    command = [sys.executable, *RECORDED, "train.py"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors
    assert "launch.py" not in errors
    assert len(Run(tmp_path / "runs" / "x").steps()) > 19


def test_workers_and_processes_of_the_script_work(tmp_path):
    write(
        tmp_path,
        """
        import multiprocessing
        def double(x):
            return 2 * x
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.map(double, [1, 2]))
            model = nn.Linear(2, 1)
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            for batch in torch.utils.data.DataLoader(torch.ones(8, 2), batch_size=2, num_workers=2):
                model(batch).sum().backward()
                optimizer.step()
        """,
    )
    done = recorded("train.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "[2, 4]\n")
    assert len(Run(tmp_path / "runs" / "x").steps()) == 4


# ------------------------------------------------------------------------------- lives of a script

LOOP = """
    import os, sys
    import torch.multiprocessing as mp
    def train(steps):
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(steps):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            yield step
"""


@pytest.mark.parametrize(
    "when", ["before the first step", "after the first step", pytest.param("at the end", marks=pytest.mark.slow)]
)
def test_a_script_that_changes_its_directory_is_recorded_where_it_was_started(tmp_path, when):
    (tmp_path / "elsewhere").mkdir()
    at = {"before the first step": 0, "after the first step": 3, "at the end": 7}[when]
    write(
        tmp_path,
        textwrap.dedent(LOOP) + f"os.chdir('elsewhere') if {at} == 0 else None\n"
        f"for step in train(8):\n    os.chdir('elsewhere') if step == {at} > 0 else None\n",
    )
    done = recorded("train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert own_lines(done.stderr) == ["gradwatch: recorded 8 steps; gradwatch report runs/x"]
    assert len(Run(tmp_path / "runs" / "x").steps()) == 8
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_of_a_resumed_run_the_steps_of_this_process_are_told(tmp_path):
    write(tmp_path, textwrap.dedent(LOOP) + "list(train(int(sys.argv[1])))\n")
    recorded("train.py", "6", cwd=tmp_path)
    done = recorded("train.py", "4", cwd=tmp_path)
    assert own_lines(done.stderr) == ["gradwatch: recorded 4 steps; gradwatch report runs/x"]
    assert Run(tmp_path / "runs" / "x").steps().index.tolist() == list(range(10))


NO_PROGRAM = """
    try:
        os.execvp("no-such-program", ["no-such-program"])
    except FileNotFoundError:
        list(train(1))
"""


@pytest.mark.parametrize(
    ("leave", "code", "steps", "notice"),
    [
        pytest.param("os._exit(4)", 4, 5, [], id="os._exit"),
        pytest.param("os.execv(sys.executable, [sys.executable, '-c', 'exit(6)'])", 6, 5, [REPLACED], id="os.execv"),
        pytest.param("os.execlp('sh', 'sh', '-c', 'exit 7')", 7, 5, [REPLACED], id="os.execlp"),
        pytest.param(textwrap.dedent(NO_PROGRAM), 0, 6, [], id="a program that does not exist"),
        pytest.param("os.fork() or os._exit(0); list(train(1))", 0, 6, [], id="a forked child"),
    ],
)
def test_a_script_that_leaves_without_an_end_has_all_its_steps(tmp_path, leave, code, steps, notice):
    write(tmp_path, textwrap.dedent(LOOP) + f"list(train(5))\n{leave}\n")
    done = recorded("train.py", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    run = Run(tmp_path / "runs" / "x")
    assert sum(len(run.steps(name)) for name in run.optimizers) == steps
    assert run.attempts()[0].reason == ("exit 4" if code == 4 else "exit")
    first, *rest = own_lines(done.stderr)
    assert first.startswith(f"gradwatch: recorded {steps} steps")
    assert rest == [f"gradwatch: {one}" for one in notice]


def test_a_run_that_was_removed_is_not_said_to_be_recorded(tmp_path):
    write(
        tmp_path,
        textwrap.dedent(LOOP) + "import shutil\nfor step in train(5):\n    step == 2 and shutil.rmtree('runs')\n",
    )
    done = recorded("train.py", cwd=tmp_path)
    assert done.returncode == 0
    assert own_lines(done.stderr) == ["gradwatch: nothing was recorded: the run was removed, or could not be written"]


@pytest.mark.parametrize(
    ("method", "is_class"),
    [
        pytest.param("fork", False, id="a function, fork"),
        pytest.param("spawn", True, id="a class, spawn"),
        pytest.param("fork", True, id="a class, fork", marks=pytest.mark.slow),
        pytest.param("spawn", False, id="a function, spawn", marks=pytest.mark.slow),
    ],
)
def test_processes_that_train_have_runs_of_their_own(tmp_path, method, is_class):
    write(
        tmp_path,
        textwrap.dedent(LOOP)
        + textwrap.dedent(
            f"""
            def work(rank):
                list(train(3 + rank))
            class Trainer(mp.get_context({method!r}).Process):
                def __init__(self, rank):
                    super().__init__()
                    self.rank = rank
                def run(self):
                    work(self.rank)
            if __name__ == "__main__":
                if {is_class}:
                    trainers = [Trainer(rank) for rank in range(2)]
                    [trainer.start() for trainer in trainers]
                    [trainer.join() for trainer in trainers]
                else:
                    mp.start_processes(work, nprocs=2, start_method={method!r})
            """
        ),
    )
    done = recorded("train.py", cwd=tmp_path)
    assert (done.returncode, done.stdout, others_lines(done.stderr)) == (0, "", [])
    assert own_lines(done.stderr) == [
        f"gradwatch: recorded {2 + number} steps in process {number}; gradwatch report runs/x-process-{number}"
        for number in (1, 2)
    ]
    assert [len(Run(tmp_path / "runs" / f"x-process-{number}").steps()) for number in (1, 2)] == [3, 4]
    assert not (tmp_path / "runs" / "x").exists()


def test_a_forked_child_goes_on_in_a_run_of_its_own(tmp_path):
    write(
        tmp_path,
        textwrap.dedent(LOOP)
        + textwrap.dedent(
            """
            training = train(9)
            for _ in range(3):
                next(training)
            if os.fork() == 0:
                next(training)
                next(training)
                sys.exit(0)
            os.wait()
            list(training)
            """
        ),
    )
    done = recorded("train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (child,) = (tmp_path / "runs").glob("x-process-*")
    assert own_lines(done.stderr) == [
        "gradwatch: recorded 9 steps; gradwatch report runs/x",
        f"gradwatch: recorded 2 steps in process {child.name[10:]}; gradwatch report runs/{child.name}",
    ]
    assert len(Run(tmp_path / "runs" / "x").steps()) == 9
    assert len(Run(child).steps()) == 2


def test_processes_that_train_together_record_into_the_run_of_the_script(tmp_path):
    write(
        tmp_path,
        textwrap.dedent(LOOP)
        + textwrap.dedent(
            """
            import torch.distributed as dist
            def work(rank):
                dist.init_process_group("gloo", init_method=f"file://{os.getcwd()}/rendezvous", rank=rank, world_size=2)
                model = nn.parallel.DistributedDataParallel(nn.Linear(4, 1))
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
                for step in range(4):
                    optimizer.zero_grad()
                    model(torch.randn(8, 4)).square().mean().backward()
                    optimizer.step()
                dist.destroy_process_group()
            if __name__ == "__main__":
                mp.spawn(work, nprocs=2)
            """
        ),
    )
    done = recorded("train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert own_lines(done.stderr) == ["gradwatch: recorded 4 steps; gradwatch report runs/x"]
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["x"]


def test_the_run_is_named_for_the_time_and_the_script(tmp_path):
    write(tmp_path, TRAINS)
    assert run("-m", "gradwatch", "run", "train.py", cwd=tmp_path).returncode == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-train")
    assert len(Run(folder).steps()) == 1
    assert Run(folder).attempts()[0].reason == "exit"


@pytest.mark.parametrize(
    ("arguments", "slug"),
    [
        (["nowhere.py"], "script-not-found"),
        (["-m", "no.such.module"], "script-not-found"),
        (["-m", "not a name"], "script-not-found"),
        (["--run", "train.py", "train.py"], "run-in-use"),
    ],
)
def test_bad_input(tmp_path, arguments, slug):
    write(tmp_path, TRAINS)
    done = run_bare("-m", "gradwatch", "run", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert slug in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("print('hello')", "the script imported torch and never called backward"),
        ("nn.Linear(2, 1)(torch.ones(1, 2)).sum().backward()", "the script has no optimizer and clips no gradient"),
        (TRAINS.replace("o.step()", ""), "no optimizer made a step"),
    ],
)
def test_a_script_that_trains_nothing_says_so(tmp_path, script, why):
    write(tmp_path, script)
    done = recorded("train.py", cwd=tmp_path)
    assert done.returncode == 0
    assert own_lines(done.stderr) == [f"gradwatch: nothing was recorded: {why}"]


def test_a_run_that_can_not_be_written_does_not_stop_the_script(tmp_path):
    write(tmp_path, TRAINS + "print('trained')")
    done = run("-m", "gradwatch", "run", "--run", "/proc/nowhere", "train.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "trained\n")
    assert "store-not-writable" in done.stderr


def test_an_event_of_stop_on_ends_the_script_with_exit_code_3(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(PREAMBLE)
        + textwrap.dedent("""
        import time
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(500):
            optimizer.zero_grad()
            (model(torch.randn(16, 4)).square().mean() * (float("nan") if step == 20 else 1)).backward()
            optimizer.step()
            if step > 20:
                time.sleep(0.05)
        print("not reached")
    """)
    )
    done = run("-m", "gradwatch", "run", "--run", "run", "--stop-on", "nonfinite", "train.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "(training-stopped)" in done.stderr
    assert "Traceback" not in done.stderr
    assert Run(tmp_path / "run").attempts()[-1].reason == "stopped on nonfinite"
    assert Run(tmp_path / "run").steps().loc[20, "nonfinite"] > 0
