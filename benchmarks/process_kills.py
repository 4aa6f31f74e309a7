"""Kill trainings of one, two and three processes with ``recorder="process"``: `python benchmarks/process_kills.py
KILLS FILE`.

SIGKILL ends, at a random moment, the only process, all ranks at once, one rank (the others get SIGTERM a little later,
as by torchrun), or a recorder's process, after which the training goes on for 50 steps and closes. Every third training
leaves a child that it has forked, as the worker of a data loader. What the training had done is known from memory that
it shares with this script: each rank writes its number of steps when `optimizer.step` has returned, and before that
the norms by PyTorch of the whole gradient and, for DDP, of its own.

A step is lost if all ranks had made it and the store does not have it. A recorder that is killed takes with it what it
had not written or sent, so these kills are counted apart. Each kill is a line of JSON that is added to FILE, and the
table is of all its lines.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # by DDP: here once, and not in every rank
import torch.distributed as dist
from process_recorder import Process
from reliability import KINDS, RTOL, Kind, expected_norms, look
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

import gradwatch
from gradwatch.errors import GradwatchError

MOST, LONGEST = 6_000, 0.6  # steps of a training, seconds until the kill
GOES_ON = 50  # steps after the kill of a recorder
PATIENCE = 60.0  # seconds for what has to happen
TOKEN = "GRADWATCH_BENCHMARK_KILL"  # names a training in the environment of all its processes
COUNT, LIMIT, NORMS = 0, 1, 2  # words of a rank's memory: steps made, steps to make, and from there on norms

# A tree from two ranks on, also in the recorders' processes, so that letters lie in a folder in /dev/shm.
TREE = "from gradwatch.distributed import tree\ntree.FLAT = 1\n"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training: its name, its number of ranks and what it is like."""

    name: str
    ranks: int
    kind: Kind = KINDS["plain"]
    is_sharded: bool = False
    is_tree: bool = False


CASES = (
    Case(name="1: plain", ranks=1),
    Case(name="2: DDP", ranks=2),
    Case(name="3: DDP", ranks=3),
    Case(name="1: clipped", ranks=1, kind=KINDS["clipped"]),
    Case(name="2: sharded", ranks=2, is_sharded=True),
    Case(name="3: sharded", ranks=3, is_sharded=True),
    Case(name="1: three optimizers", ranks=1, kind=KINDS["three optimizers"]),
    Case(name="3: DDP by a tree", ranks=3, is_tree=True),
)
OF_ONE = ("training", "training", "training", "recorder 0")
OF_SEVERAL = ("all at once", "all at once", "rank 0", "another rank", "recorder 0", "another recorder")


@dataclass(frozen=True, kw_only=True)
class Killed:
    """What one kill has left.

    Attributes:
        made: steps that all ranks had made when the training ended, or the recorder was killed.
        lost: steps of them that the store lacks.
        is_right: no gap, and every norm as PyTorch has it.
        is_closed: where the training goes on, whether it ended as usual.
        orphans: recorders' processes that were still there after `PATIENCE`.
        files: what is left in ``/dev/shm``, or unexpected in the run.
        seconds: from the end of the training to that of the last recorder's process.
    """

    case: str
    victim: str
    made: int
    lost: int
    is_right: bool
    is_closed: bool
    orphans: int
    files: int
    seconds: float


class Memory:
    """What one rank tells this script."""

    def __init__(self) -> None:
        self.words = np.frombuffer(mmap.mmap(-1, 8 * (NORMS + 2 * MOST)), np.int64)
        self.norms = self.words[NORMS:].view(np.float64).reshape(MOST, 2)  # of the whole gradient, and of the rank's
        self.norms[:] = np.nan
        self.words[LIMIT] = MOST

    @property
    def made(self) -> int:
        return int(self.words[COUNT])


# ------------------------------------------------------------------------------------- the trainings


def train_alone(case: Case, run: Path, memory: Memory) -> None:
    training = Process(case.kind)
    with training.attach(run):
        while memory.words[COUNT] < memory.words[LIMIT]:
            training.step()
            memory.words[COUNT] += 1


def train_together(case: Case, run: Path, memory: Memory, rank: int) -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    if case.is_sharded:
        fully_shard(inner)
    model = inner if case.is_sharded else DistributedDataParallel(inner)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(rank)
    with gradwatch.attach(model, optimizer, run, ranks=True, weights_every=0, recorder="process"):
        while (step := int(memory.words[COUNT])) < memory.words[LIMIT]:
            x = torch.randn(8, 4, generator=generator)
            if not case.is_sharded:
                own = torch.autograd.grad(loss_of(inner, x), list(inner.parameters()))  # DDP does not hear of it
                memory.norms[step, 1] = norm_of(own)
            optimizer.zero_grad()
            loss_of(model, x).backward()
            memory.norms[step, 0] = norm_of(p.grad for p in model.parameters())
            optimizer.step()
            memory.words[COUNT] += 1
    dist.barrier()


def loss_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


def norm_of(gradients: Iterable[torch.Tensor | None]) -> float:
    norm = get_total_norm([gradient for gradient in gradients if gradient is not None])
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def start(case: Case, folder: Path, rank: int, shared: dict[str, str], memory: Memory, *, leaves_child: bool) -> int:
    """Fork a training process of this rank."""
    process = os.fork()
    if process:
        return process
    try:
        os.setpgid(0, 0)
        log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        if leaves_child and os.fork() == 0:
            time.sleep(2 * PATIENCE)
            os._exit(0)
        if case.ranks == 1:
            train_alone(case, folder / "run", memory)
        else:
            method = f"file://{folder}/store" if shared["MASTER_PORT"] == "0" else "env://"
            dist.init_process_group("gloo", init_method=method, rank=rank, world_size=case.ranks)
            train_together(case, folder / "run", memory, rank)
        os._exit(0)
    except BaseException as error:
        print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(1)


# ------------------------------------------------------------------------------------- the kills


def kill(case: Case, victim: str, generator: random.Random, folder: Path, expected: np.ndarray) -> Killed:
    """Train, kill, and look at what is left."""
    with kept_port() as kept:
        return killed_at(kept, case, victim, generator, folder, expected)


def killed_at(
    kept: int, case: Case, victim: str, generator: random.Random, folder: Path, expected: np.ndarray
) -> Killed:
    """Do so in a training whose ranks meet at this port, or by a file."""
    token = f"{generator.getrandbits(64):x}"
    port = "0" if generator.random() < 0.5 else str(kept)
    shared = {TOKEN: token, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(case.ranks)}
    shared |= {"LOCAL_WORLD_SIZE": str(case.ranks)} | ({"PYTHONPATH": str(tree_folder(folder))} if case.is_tree else {})
    leaves_child = generator.random() < 1 / 3
    memories = [Memory() for _ in range(case.ranks)]
    trainings = [
        start(case, folder, rank, shared, memory, leaves_child=leaves_child) for rank, memory in enumerate(memories)
    ]
    try:
        begins = generator.random() > 0.1 or victim.endswith(("recorder", "recorder 0"))  # else it dies in `attach`
        wait_until(lambda: not begins or all(memory.made for memory in memories))
        time.sleep(generator.uniform(0, LONGEST))
        made, codes = end_of(case, victim, generator, trainings, memories, token)
        ended = time.monotonic()
        wait_until(lambda: not recorders_of(token))
        seconds = time.monotonic() - ended
        orphans = recorders_of(token)
    finally:
        for process in trainings:  # their groups, with the children that they have left
            with contextlib.suppress(OSError):
                os.killpg(process, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, 0)
        for process in recorders_of(token):
            os.kill(process, signal.SIGKILL)
    recorded, is_right = look_at(case, folder / "run", memories, expected, is_whole="recorder" not in victim)
    is_closed = "recorder" not in victim or codes == [0] * case.ranks
    return Killed(
        case=case.name,
        victim=victim,
        made=made,
        lost=max(0, made - recorded),
        is_right=is_right,
        is_closed=is_closed,
        orphans=len(orphans),
        files=len(left_behind(folder / "run")),
        seconds=seconds,
    )


def end_of(
    case: Case, victim: str, generator: random.Random, trainings: list[int], memories: list[Memory], token: str
) -> tuple[int, list[int]]:
    """Kill the victim, and wait for the end of the training; returns what all had made until then, and exit codes."""
    rank = generator.randrange(1, case.ranks) if victim.startswith("another") else 0
    if "recorder" in victim:
        (recorder,) = [one for one in recorders_of(token) if parent_of(one) == trainings[rank]]
        made = min(memory.made for memory in memories)
        os.kill(recorder, signal.SIGKILL)
        limit = min(MOST, max(memory.made for memory in memories) + GOES_ON)
        for memory in memories:
            memory.words[LIMIT] = limit
    elif victim in ("training", "all at once"):
        for process in generator.sample(trainings, len(trainings)):
            os.kill(process, signal.SIGKILL)
    else:
        os.kill(trainings[rank], signal.SIGKILL)
        time.sleep(generator.uniform(0, 0.3))
        for process in trainings:
            if process != trainings[rank]:
                os.kill(process, signal.SIGTERM)
    codes = [exit_code(process) for process in trainings]
    return made if "recorder" in victim else min(memory.made for memory in memories), codes


def exit_code(process: int) -> int:
    found: list[int] = []

    def has_ended() -> bool:
        pid, status = os.waitpid(process, os.WNOHANG)
        if pid:
            found.append(os.waitstatus_to_exitcode(status))
        return bool(pid)

    wait_until(has_ended)
    return found[0] if found else -1


def look_at(case: Case, run: Path, memories: list[Memory], expected: np.ndarray, *, is_whole: bool) -> tuple[int, bool]:
    """The number of steps in the store, and whether all is right; ``is_whole``: every rank has to be in every step."""
    made = [memory.made for memory in memories]
    if not (run / "gradwatch.db").exists():
        return 0, min(made) == 0
    try:
        if case.ranks == 1:
            recorded, has_no_gap, is_right = look(run, expected, case.kind)
            return recorded, has_no_gap and is_right
        found = gradwatch.Run(run)
        steps = found.steps()
    except GradwatchError as error:
        print(error, file=sys.stderr)
        return 0, False
    count = len(steps)
    is_right = found.damaged_rows == 0 and steps.index.tolist() == list(range(count)) and count <= max(made) + 1
    norms = memories[0].norms[:count, 0]
    is_right &= bool(np.allclose(steps["total_norm"], norms, rtol=RTOL if not case.is_sharded else 1e-5, atol=0))
    if not case.is_sharded and count:
        of_ranks = found.ranks("norm").iloc[: min(made)]
        own = np.stack([memory.norms[: len(of_ranks), 1] for memory in memories], axis=1)
        here = of_ranks.reindex(columns=range(case.ranks)).to_numpy()
        is_right &= not is_whole or not np.isnan(here).any()
        is_right &= bool(np.allclose(np.where(np.isnan(here), own, here), own, rtol=1e-5, atol=0))
    return count, is_right


# ------------------------------------------------------------------------------------- what is left


def recorders_of(token: str) -> list[int]:
    """The recorders' processes of a training that are there, and no zombies."""
    found = []
    mark, script = f"{TOKEN}={token}".encode(), b"recording/process/start.py"
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if script in (folder / "cmdline").read_bytes() and mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def left_behind(run: Path) -> list[str]:
    """Files in the machine's memory, which this script has for itself, and in the run, which nobody writes any more."""
    known = ("gradwatch.db", "gradwatch.db-wal", "gradwatch.db-shm", "gradwatch.db-journal")
    files = [one.name for one in run.glob("*") if one.name not in known]
    return [*files, *(one.name for one in Path("/dev/shm").iterdir())]


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)


@contextlib.contextmanager
def kept_port() -> Iterator[int]:
    """A port for the store of torch.distributed. Until the end no other process is given it as a free one.

    The socket is bound and does not listen, so that the store, which reuses addresses too, can listen there.
    """
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("", 0))
        yield int(one.getsockname()[1])


def tree_folder(folder: Path) -> Path:
    """What makes every process of this Python have a tree."""
    (folder / "tree").mkdir()
    (folder / "tree" / "sitecustomize.py").write_text(TREE)
    return folder / "tree"


def lines(found: list[Killed]) -> Iterator[str]:
    yield (
        f"{'ranks, training':<22}{'killed':<18}{'kills':>6}{'steps made':>12}{'lost':>6}"
        f"{'right':>7}{'went on':>9}{'orphans':>9}{'files':>7}   recorder's end after, at most"
    )
    keys = dict.fromkeys((one.case, one.victim) for one in found)
    for case, victim in sorted(keys):
        yield line(f"{case:<22}{victim:<18}", [one for one in found if (one.case, one.victim) == (case, victim)])
    yield line(f"{'of the training':<40}", [one for one in found if "recorder" not in one.victim])
    yield line(f"{'of a recorder':<40}", [one for one in found if "recorder" in one.victim])


def line(what: str, found: list[Killed]) -> str:
    if not found:
        return what
    seconds = [one.seconds for one in found]
    went_on = [one.is_closed for one in found if "recorder" in one.victim]
    return (
        f"{what}{len(found):>6}{sum(one.made for one in found):>12,}{sum(one.lost for one in found):>6}"
        f"{sum(one.is_right for one in found):>7}{f'{sum(went_on)}' if went_on else '':>9}"
        f"{sum(one.orphans for one in found):>9}{sum(one.files for one in found):>7}"
        f"   {statistics.median(seconds):.2f} s, {max(seconds):.2f} s"
    )


def take_own_memory() -> bool:
    """Run again with a /dev/shm that no other program uses; False, after saying so, if the system does not allow it."""
    if os.environ.get("GRADWATCH_BENCHMARK_MEMORY"):
        return True
    alone = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]
    if shutil.which("unshare") and not subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        os.environ["GRADWATCH_BENCHMARK_MEMORY"] = "own"
        os.execvp(alone[0], [*alone, sys.executable, *sys.argv])
    print("/dev/shm is shared with other programs, whose files count here, too")
    return False


def main() -> None:
    is_alone = take_own_memory()
    torch.set_num_threads(1)
    count, file = int(sys.argv[1]), Path(sys.argv[2])
    known = file.read_text().splitlines() if file.exists() else []
    norms = {case.name: expected_norms(case.kind) for case in CASES if case.ranks == 1}
    for at in range(len(known), len(known) + count):
        generator = random.Random(at)
        case = CASES[at % len(CASES)]
        victim = generator.choice(OF_ONE if case.ranks == 1 else OF_SEVERAL)
        with tempfile.TemporaryDirectory() as folder:
            one = kill(case, victim, generator, Path(folder), norms.get(case.name, np.empty(0)))
            if not one.is_right or not one.is_closed or one.lost or one.orphans or one.files:
                print(at, one, left_behind(Path(folder) / "run"))
                print("".join(log.read_text()[-3000:] for log in Path(folder).glob("log")), flush=True)
        for left in Path("/dev/shm").iterdir() if is_alone else ():  # it counts once
            shutil.rmtree(left, ignore_errors=True)
        with file.open("a") as out:
            out.write(json.dumps(asdict(one)) + "\n")
    print("\n".join(lines([Killed(**json.loads(text)) for text in file.read_text().splitlines()])))


if __name__ == "__main__":
    main()
