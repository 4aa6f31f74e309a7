"""What other tools say of the same trainings: runmedic, pulsegrad, traintools and losslint beside gradwatch.

    pip install runmedic pulsegrad traintools losslint
    python benchmarks/diagnosis/peers.py tuning RUNS        # RUNS: a folder that keeps the trainings

pulsegrad and traintools watch the training, as gradwatch does; runmedic and losslint read its log: step, loss, norm
before clipping and learning rate, as JSON lines. All have their default settings. Cases that run as a script of their
own or are histories are read by runmedic and losslint alone.

A tool tells a fault if it says anything of warning or worse, and its kind if one of the things it says is of the
fault's family (`FAMILY`, `SAYS`). Anything of warning or worse over a healthy training is false.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import io
import json
import math
import os
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lab import Case, Place

import gradwatch
from gradwatch import Run

FAMILY = {
    "nan": ("nonfinite-loss", "nonfinite-gradient", "loss-hides-nan", "nonfinite-weights", "loss-scale"),
    "large": ("diverged", "spike", "gradients-accumulate", "ineffective-clipping"),
    "nothing": (
        "no-steps", "all-steps-skipped", "learning-rate-zero", "clipped-to-nothing", "updates-below-precision",
        "parameters-without-optimizer", "stale-optimizer", "no-gradient", "zero-gradients", "constant-loss",
        "clip-starves", "threshold-too-low", "dead-parameters", "vanishing",
    ),
    "process": ("clipped-by-script", "died", "killed", "too-short"),
}  # fmt: skip
SAYS = {
    "nan": ("non_finite", "nan_inf", "non-finite"),
    "large": (
        "divergence", "grad_spikes", "loss_spikes", "loss_spike", "grad_explosion", "very large", "ratio is high",
    ),
    "nothing": (
        "no_learning", "stagnation", "grad_vanishing", "dead_module", "dead_adapter", "dying_relu",
        "loss_plateau_early", "vanished", "ratio is tiny", "no gradients found", "update_ratio_band",
    ),
    "process": ("crash", "killed"),
}  # fmt: skip


@dataclass(frozen=True)
class WatchedPlace(Place):
    """Where a case records, with pulsegrad and traintools beside gradwatch."""

    said: Path = Path()

    def watch(self, model: torch.nn.Module, optimizer: object, **options: object) -> gradwatch.Watch:
        optimizers: list[Any] = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
        if isinstance(optimizer, dict):
            optimizers = list(optimizer.values())
        if isinstance(model, torch.nn.Module):
            _watch_by_traintools(model, optimizers, self.said.with_suffix(".traintools"))
            _watch_by_pulsegrad(model, optimizers, self.said.with_suffix(".pulsegrad"))
        return super().watch(model, optimizer, **options)


def _watch_by_traintools(model: torch.nn.Module, optimizers: list[torch.optim.Optimizer], file: Path) -> None:
    monitor: Any = importlib.import_module("traintools").GradientHealthMonitor()
    told = collections.Counter[str]()

    def inspect(optimizer: torch.optim.Optimizer, *_: object) -> None:
        report = monitor.inspect(model, lr=float(optimizer.param_groups[0]["lr"]))
        told.update(
            {kind for kinds in SAYS.values() for kind in kinds if any(kind in line for line in report.warnings)}
        )
        file.write_text(json.dumps(told))

    file.write_text("{}")
    for optimizer in optimizers:
        optimizer.register_step_pre_hook(inspect)


def _watch_by_pulsegrad(model: torch.nn.Module, optimizers: list[torch.optim.Optimizer], folder: Path) -> None:
    pulsegrad: Any = importlib.import_module("pulsegrad")
    SESSIONS.extend(pulsegrad.watch(model, optimizer, run_dir=folder) for optimizer in optimizers)


SESSIONS: list[Any] = []  # of pulsegrad, open


def train(case: Case, broken: bool, folder: Path) -> Path:
    """Train one form of a case in a process of its own, unless it is there; return the path of its run."""
    name = f"{case.name}-{'broken' if broken else 'healthy'}"
    place = WatchedPlace(folder / name, seed=zlib.crc32(case.name.encode()), said=folder / name)
    if place.run.exists():
        return place.run
    folder.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid == 0:
        try:
            torch.manual_seed(place.seed)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                case.train(place, broken)
                for session in SESSIONS:
                    session.close()
            os._exit(0)
        except BaseException as error:
            sys.__stderr__.write(f"{name}: {type(error).__name__}: {error}\n")  # type: ignore[union-attr]
        finally:
            os._exit(1)
    os.waitpid(pid, 0)
    return place.run


def rows(run: Run) -> Iterator[dict[str, float | int]]:
    """The log that a script would have written; of several optimizers the first one's."""
    steps = run.steps(next(iter(run.optimizers)))
    columns = {"loss": "loss", "grad_norm": "total_norm", "learning_rate": "learning_rate"}
    for step, row in zip(steps.index, steps.to_dict("records"), strict=True):
        known = {name: float(row[column]) for name, column in columns.items() if name != "loss" or row["loss_logged"]}
        if math.isnan(known["learning_rate"]):
            del known["learning_rate"]
        yield {"step": int(step), **known}


def by_runmedic(log: Path, run: Path) -> set[str]:
    answer = _json("runmedic", "diagnose", "--json", str(log))
    return {f["check"] for one in answer for f in one["findings"] if f["severity"] != "info"}


def by_losslint(log: Path, run: Path) -> set[str]:
    findings = _json("losslint", "check", "--format", "json", str(log))["findings"]
    return {finding["check"] for finding in findings if finding["severity"] != "info"}


def by_pulsegrad(log: Path, run: Path) -> set[str] | None:
    told = None
    for file in run.with_suffix(".pulsegrad").rglob("*.sqlite"):
        with contextlib.closing(sqlite3.connect(file)) as store:
            found = store.execute("select detector from findings where severity != 'info'").fetchall()
        told = (told or set()) | {detector for (detector,) in found}
    return told


def by_traintools(log: Path, run: Path) -> set[str] | None:
    file = run.with_suffix(".traintools")
    return set(json.loads(file.read_text())) if file.exists() else None


def by_gradwatch(log: Path, run: Path) -> set[str]:
    return {finding.code for finding in Run(run).diagnosis() if finding.severity != "info"}


def _json(tool: str, *arguments: str) -> Any:
    command = [str(Path(sys.executable).parent / tool), *arguments]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


ASK: dict[str, Callable[[Path, Path], set[str] | None]] = {
    "gradwatch": by_gradwatch,
    "runmedic": by_runmedic,
    "losslint": by_losslint,
    "pulsegrad": by_pulsegrad,
    "traintools": by_traintools,
}


def family(codes: set[str]) -> set[str]:
    """The kinds of fault that these codes or words are of."""
    kinds = {kind for kind, members in FAMILY.items() if codes & set(members)}
    return kinds | {kind for kind, words in SAYS.items() if codes & set(words)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("half", choices=["tuning", "held_out"])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--train-only", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    said: dict[str, list[tuple[Case, bool, set[str]]]] = {tool: [] for tool in ASK}
    for case in importlib.import_module(options.half).case.all:
        for broken in (True, False):
            if (broken and case.code is None) or (not broken and not case.twin and case.code is not None):
                continue
            run = train(case, broken, options.runs)
            if options.train_only or not run.exists():
                continue
            log = run.with_suffix(".jsonl")
            log.write_text("".join(json.dumps(row) + "\n" for row in rows(Run(run))))
            for tool, ask in ASK.items():
                answer = ask(log, run)
                if answer is not None:
                    said[tool].append((case, broken, answer))
    if not options.train_only:
        report(said)


def report(said: dict[str, list[tuple[Case, bool, set[str]]]]) -> None:
    print("| tool | faults told | of the right kind | healthy trainings with a warning |\n|---|---|---|---|")
    for tool, answers in said.items():
        faults = [(case, told) for case, broken, told in answers if broken and case.code not in ("spike", "too-short")]
        healthy = [case for case, broken, told in answers if not broken and told - set(case.twin_may)]
        all_healthy = sum(not broken for _, broken, _ in answers)
        right = sum(bool(family(told) & family({case.code or "", *case.also})) for case, told in faults)
        anything = sum(bool(told) for _, told in faults)
        print(f"| {tool} | {anything} of {len(faults)} | {right} of {len(faults)} | {len(healthy)} of {all_healthy} |")
    print("\nSaid over healthy trainings:\n")
    for tool, answers in said.items():
        counts = collections.Counter(word for case, broken, told in answers if not broken for word in told)
        print(f"- {tool}: {', '.join(f'{word} {n}' for word, n in counts.most_common()) or 'nothing'}")


if __name__ == "__main__":
    main()
