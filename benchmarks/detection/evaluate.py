"""What the detectors find in the corpus, beside what others would.

    python benchmarks/detection/evaluate.py tune     # the tasks that the thresholds were chosen on
    python benchmarks/detection/evaluate.py report   # tasks that nobody looked at before: RESULTS.md

Reads the cache that corpus.py fills, replays every series through every detector and prints the tables.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from baselines import BASELINES, Baseline, times_ema
from corpus import Job, jobs
from scipy import stats

from gradwatch import Run
from gradwatch.detect import detectors_for
from gradwatch.record import StepRecord, merged

REFRACTORY = 50
OURS = "gradwatch"
FACTORS = (2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
ONE_BATCH = ("loss-weight", "bad-input", "bad-labels", "layer-once", "nan-parameter", "nan-backward", "inf-backward")
NON_FINITE = ("nan-parameter", "nan-backward", "inf-backward", "nan-input", "nan-weight", "fp16")
LOST = ("rate-step", "rate-ramp", "rate-high")


@dataclass(frozen=True)
class Alarm:
    step: int
    kind: str = ""
    parameter: str | None = None
    optimizer: str = "0"
    severity: str = "warning"


@dataclass
class Judged:
    """A run, what is known of it, and what each detector said."""

    job: Job
    outcome: dict[str, Any]
    steps: int
    alarms: dict[str, list[Alarm]]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def start(self) -> int:
        if self.job.fault in ("rate-high", "natural"):
            return 0
        return 50 if self.job.fault == "overclip" else int(self.outcome["steps"][0])

    @property
    def lost_at(self) -> int | None:
        """Where the loss left what it was; a run that was faulty from the start: ended worse than it began."""
        if self.job.fault not in ("rate-high", "natural"):
            return self.outcome["lost_at"]  # type: ignore[no-any-return]
        losses = self.outcome["losses"]
        bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is not None:
            return bad
        if statistics.fmean(losses[-50:]) <= losses[0] + 0.3 * abs(losses[0]):
            return None
        return next(i for i, loss in enumerate(losses) if loss > losses[0] + 0.3 * abs(losses[0]))


def ours(records: Sequence[StepRecord], optimizer_class: str) -> list[Alarm]:
    detectors = detectors_for(optimizer_class)
    events = merged(event for record in records for d in detectors for event in d.update(record))
    return [Alarm(e.step, e.kind, e.parameter, e.optimizer, e.severity) for e in events]


def theirs(make: Callable[[], Baseline], records: Iterable[StepRecord]) -> list[Alarm]:
    alarm, alarms, last = make(), [], -REFRACTORY
    for record in records:
        if alarm(record):
            if record.step - last >= REFRACTORY:
                alarms.append(Alarm(record.step, optimizer=record.optimizer))
            last = record.step
    return alarms


def judge(job: Job) -> Judged | None:
    """Replay one run through everything; None where the cache lacks it."""
    if not (job.folder / "outcome.json").exists():
        return None
    outcome = json.loads((job.folder / "outcome.json").read_text())
    run = Run(job.folder)
    alarms: dict[str, list[Alarm]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    steps = 0
    rules = {**BASELINES, **{f"{factor:g} x EMA": lambda factor=factor: times_ema(factor) for factor in FACTORS}}
    for name, optimizer_class in run.optimizers.items():
        records = list(run.records(name))
        steps = max(steps, len(records))
        began = time.perf_counter()
        alarms[OURS] += ours(records, optimizer_class)
        seconds[OURS] += time.perf_counter() - began
        for rule, make in rules.items():
            alarms[rule] += theirs(make, records)
    return Judged(job, outcome, steps, dict(alarms), dict(seconds))


def serious(alarms: Iterable[Alarm]) -> list[Alarm]:
    return [alarm for alarm in alarms if alarm.severity != "info"]


# ----------------------------------------------------------------------------------------- tables


def share(hits: int, of: int) -> str:
    return f"{hits / of:.2f} ({hits}/{of})" if of else "-"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)]) + "\n"


def rate_with_interval(count: int, steps: int) -> str:
    low = stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    high = stats.chi2.ppf(0.975, 2 * count + 2) / 2
    return f"{1e4 * count / steps:.2f} ({1e4 * low:.2f}-{1e4 * high:.2f})" if steps == 1 else (
        f"{1e4 * count / steps:.2f} ({1e4 * low / steps:.2f}-{1e4 * high / steps:.2f})"
    )  # fmt: skip


def false_alarms(judged: Sequence[Judged], rule: str) -> tuple[int, int, int, int]:
    """Alarms, steps, runs with any, runs: of the healthy ones."""
    healthy = [run for run in judged if run.outcome["healthy"]]
    found = [len(serious(run.alarms[rule])) for run in healthy]
    return sum(found), sum(run.steps for run in healthy), sum(map(bool, found)), len(healthy)


def spike_hits(judged: Sequence[Judged], kind: str, dose: float | None, rule: str) -> tuple[int, int]:
    """Alarms at the very step of a planted batch, of those that the run was still there for."""
    hits = of = 0
    for run in judged:
        if run.job.fault != kind:
            continue
        lost = run.lost_at
        steps = {alarm.step for alarm in serious(run.alarms[rule])}
        for step, planted in zip(run.outcome["steps"], run.outcome["doses"], strict=True):
            if (dose is None or planted == dose) and (lost is None or step <= lost):
                of += 1
                hits += step in steps
    return hits, of


def first_alarm(run: Judged, rule: str, kinds: Sequence[str] = ()) -> Alarm | None:
    found = [a for a in serious(run.alarms[rule]) if a.step >= run.start and (not kinds or a.kind in kinds)]
    return min(found, key=lambda alarm: alarm.step, default=None)


def faulty(judged: Sequence[Judged], kind: str, dose: float | None = None) -> list[Judged]:
    return [run for run in judged if run.job.fault == kind and dose in (None, run.job.dose)]


def lasting(judged: Sequence[Judged], kind: str, dose: float | None, rule: str) -> tuple[int, int, str]:
    """Runs alarmed from the fault on, runs, and the median delay."""
    runs = faulty(judged, kind, dose)
    if kind in LOST:
        runs = [run for run in runs if run.lost_at is not None]
    if kind == "natural":
        runs = [run for run in runs if statistics.fmean(run.outcome["losses"][-50:]) > 0.9 * run.outcome["losses"][0]]
    delays = [alarm.step - run.start for run in runs if (alarm := first_alarm(run, rule))]
    return len(delays), len(runs), f"{statistics.median(delays):g}" if delays else "-"


def leads(judged: Sequence[Judged], rule: str) -> list[tuple[Judged, float | None]]:
    """For each run that a learning rate lost: by how many steps the first alarm came before the loss was lost."""
    runs = [run for kind in LOST for run in faulty(judged, kind) if run.lost_at is not None]
    return [(run, None if (alarm := first_alarm(run, rule)) is None else run.lost_at - alarm.step) for run in runs]


def chance(judged: Sequence[Judged], rule: str, length: int) -> tuple[int, int]:
    """Healthy runs with an alarm within a window of the same place and ``length``."""
    healthy = [run for run in judged if run.outcome["healthy"]]
    found = [any(400 <= a.step < 400 + length for a in serious(run.alarms[rule])) for run in healthy]
    return sum(found), len(healthy)


def same_module(found: str | None, planted: str) -> bool:
    """Whether two parameters belong to one module; of several networks the fault is in the first, 0."""
    return found is not None and found.rpartition(".")[0] in (
        planted.rpartition(".")[0],
        f"0.{planted}".rpartition(".")[0],
    )


def located(judged: Sequence[Judged], kind: str) -> tuple[int, int]:
    """Of the runs alarmed after the fault: those whose first alarm names the right module."""
    hits = of = 0
    for run in faulty(judged, kind):
        alarm = first_alarm(run, OURS)
        if alarm is not None:
            of += 1
            planted = run.outcome["parameter"]
            name = alarm.parameter
            hits += same_module(name, planted)
    return hits, of


def doses(judged: Sequence[Judged], kind: str) -> list[float | None]:
    found = sorted({run.job.dose for run in judged if run.job.fault == kind and not math.isnan(run.job.dose)})
    return list(found) if len(found) > 1 else [None]


def write(judged: Sequence[Judged]) -> Iterable[str]:
    names = [OURS, *BASELINES]
    yield "## False alarms on healthy runs\n"
    rows = []
    for name in [*names, *(f"{factor:g} x EMA" for factor in FACTORS)]:
        if name in names[:-1] or name.endswith("EMA") or name == names[-1]:
            count, steps, runs, of = false_alarms(judged, name)
            rows.append([name, count, rate_with_interval(count, steps), f"{runs}/{of}", f"{runs / of:.0%}"])
    count, steps, _, of = false_alarms(judged, OURS)
    yield f"{of} healthy runs, {steps:,} steps. Events of severity warning and critical; 95 % Poisson interval.\n"
    yield table(["", "alarms", "per 10,000 steps", "runs with any", ""], rows)
    yield "## Faults of one batch: an alarm at the very step\n"
    ladders = {"loss-weight": (3.0, 5.0, 10.0, 30.0, 100.0, 300.0), "bad-input": (3.0, 10.0, 30.0, 100.0)}
    rows = []
    shown = [OURS, "3 x EMA", "5 x EMA", "robust z > 6", "OLMo-core 6 sigma", "Megatron 10 x max", "Lightning, loss"]
    for kind, dose in [*((k, d) for k, ds in ladders.items() for d in ds), ("bad-labels", None)]:
        label = kind if dose is None else f"{kind} x {dose:g}"
        rows.append([label, *(share(*spike_hits(judged, kind, dose, name)) for name in shown)])
    yield table(["", *shown], rows)
    yield "## Faults that stay: any alarm from then on, and the median delay in steps\n"
    rows = []
    kinds = sorted({run.job.fault for run in judged if run.job.fault} - {"loss-weight", "bad-input", "bad-labels"})
    for kind in kinds:
        for dose in doses(judged, kind):
            cells = []
            for name in [*shown, "AutoTrainer", "DeepDiagnosis"]:
                hits, of, delay = lasting(judged, kind, dose, name)
                cells.append(f"{share(hits, of)}, {delay}")
            rows.append([kind if dose is None else f"{kind} {dose:g}", *cells])
    yield table(["", *shown, "AutoTrainer", "DeepDiagnosis"], rows)
    yield "## Before the loss is lost\n"
    rows = []
    for name in [*shown, "non-finite only"]:
        found = leads(judged, name)
        early = [lead for _, lead in found if lead is not None and lead > 0]
        missed = sum(lead is None for _, lead in found)
        bad = [(run, lead) for run, lead in found if any(not math.isfinite(x) for x in run.outcome["losses"])]
        ahead = 0
        for run, _ in bad:
            alarm = first_alarm(run, name)
            lost = next(i for i, loss in enumerate(run.outcome["losses"]) if not math.isfinite(loss))
            ahead += alarm is not None and alarm.step < lost
        rows.append([
            name, share(len(early), len(found)), f"{statistics.median(early):g}" if early else "-", missed,
            share(ahead, len(bad)), share(*chance(judged, name, 50)),
        ])  # fmt: skip
    yield table(
        ["", "alarm before the loss left its level", "median lead", "never", "alarm before a loss that is not finite",
         "healthy runs alarmed in a window of 50 steps"], rows,
    )  # fmt: skip
    yield "## Where it began: the first event names the module\n"
    where = ("layer-once", "layer-stay", "backward-stay", "nan-parameter", "nan-backward", "inf-backward",
             "nan-weight", "layer-zero", "layer-fade")  # fmt: skip
    yield table(["fault", "right module"], [[kind, share(*located(judged, kind))] for kind in where])
    yield "## What it costs\n"
    spent = [1e6 * run.seconds[OURS] / run.steps for run in judged]
    yield f"Median {statistics.median(spent):.0f} microseconds a record, all detectors, in the recorder's thread.\n"


def load(split: str) -> list[Judged]:
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        return [run for run in pool.imap(judge, list(jobs(split)), chunksize=4) if run is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("split", choices=["tune", "report"])
    print("\n".join(write(load(parser.parse_args().split))))


if __name__ == "__main__":
    main()
