"""Report, check, doctor, recommend and diagnosis say the same of one run: over made faults and every older store."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.diagnosis import PAGES, worst_severity
from gradwatch.cli.signatures import app
from gradwatch.errors import EmptyRun
from gradwatch.script.doctor import told_by_clip_faults, told_by_findings
from gradwatch.testing import replaced, steady, stream

from .made import calm, changed, falling, parameters, run_of, with_layers, with_weights
from .test_recreated import adam, trained

STORES = sorted((Path(__file__).parents[3] / "golden" / "stores").glob("schema-*"))
STEPS = 400
GROWING = [1.02**i for i in range(STEPS)]

RUNS = {
    "healthy": lambda: calm(STEPS),
    "short": lambda: calm(12),
    "three steps": lambda: calm(3),
    "spike": lambda: stream(replaced(steady(STEPS), {200: 60.0}), losses=falling(STEPS)),
    "many spikes": lambda: stream(
        replaced(steady(STEPS), dict.fromkeys(range(100, 400, 30), 60.0)), losses=falling(STEPS)
    ),
    "spikes that undo progress": lambda: stream(
        replaced(steady(STEPS), dict.fromkeys((100, 150, 250, 330), 40.0)),
        losses=[
            x + max(0.0, 1 - (i - max((s for s in (100, 150, 250, 330) if s <= i), default=-99)) / 20)
            for i, x in enumerate(falling(STEPS))
        ],
    ),
    "progress undone": lambda: stream(steady(STEPS), losses=falling(200) + falling(200, 0.5, 1.6)),
    "huge loss": lambda: stream(steady(STEPS, level=1e6), losses=falling(STEPS, 4e8, 4e8)),
    "rate ends early": lambda: changed(calm(STEPS), learning_rates=lambda i: (0.1 * (i < 300),)),
    "few rows fell and rose": lambda: stream(
        [40.0, 14, 24, 7, 7, 16, 15, 70], losses=[15.5, 13.0, 3.8, 2.39, 1.43, 5.8, 7.0, 10.0]
    ),
    "diverged": lambda: stream(GROWING, losses=GROWING),
    "ends in NaN": lambda: stream([*steady(STEPS - 5), math.nan, math.nan, math.nan, math.nan, math.nan]),
    "NaN loss": lambda: stream([*steady(STEPS), *[math.nan] * 5], losses=[*falling(STEPS), *[math.nan] * 5]),
    "all NaN": lambda: stream([math.nan] * STEPS),
    "zeros": lambda: stream([0.0] * STEPS, losses=falling(STEPS)),
    "half zeros": lambda: stream([n * (i % 2) for i, n in enumerate(steady(STEPS))], losses=falling(STEPS)),
    "constant loss": lambda: stream(steady(STEPS), losses=[0.5] * STEPS),
    "no rate": lambda: changed(calm(STEPS), learning_rates=(0.0,)),
    "skipped": lambda: changed(calm(STEPS), skipped=True),
    "clipped to nothing": lambda: changed(calm(STEPS), max_norm=0.0, clip_coef=0.0),
    "clipped far too low": lambda: changed(calm(STEPS), max_norm=1e-3, clip_coef=1e-3),
    "clipped idly": lambda: changed(calm(STEPS), max_norm=100.0),
    "no gradient": lambda: with_layers(
        calm(STEPS), [1.0, 1.0, 1.0], parameters("a.weight", "b.weight", "c.weight"), [True, False, False]
    ),
    "clipped while accumulating": lambda: changed(calm(STEPS), clip_fault="micro-batch"),
    "clipped after the step": lambda: changed(calm(STEPS), clip_fault="after-step"),
    "large updates": lambda: with_weights(stream(steady(STEPS), losses=GROWING), [1.0, 1.0], [0.5, 0.5]),
}


def asked(command, run, capsys):
    """The JSON of a command and its exit code; None where it refuses the run with an error."""
    with pytest.raises((SystemExit, EmptyRun)) as end:
        app([command, str(run.path), "--json"], obj=[])
    printed = capsys.readouterr().out
    return json.loads(printed) if printed.strip() else None, getattr(end.value, "code", 1)


def agree(run, capsys):
    """Everything that is said of one run; fails where two of it can't both be true."""
    findings = run.diagnosis()
    verdict = {"info": "healthy"}.get(worst_severity(findings), worst_severity(findings))
    report, _ = asked("report", run, capsys)
    check, code = asked("check", run, capsys)
    advice, _ = asked("recommend", run, capsys)
    codes = [finding.code for finding in findings]
    assert report["verdict"] == check["verdict"] == verdict
    assert [f["code"] for f in report["findings"]] == [f["code"] for f in check["findings"]] == codes
    assert (code == 0) == check["healthy"] == (verdict == "healthy")
    alarming = [finding for finding in findings if finding.severity != "info"]
    if alarming:
        assert alarming[0].what in report["reason"]
        assert alarming[0].remedy in report["next"]
    else:
        assert "nothing is wrong" in report["next"]
    calm_said = any("stayed calm" in reason for reason in advice["reasons"])
    assert not (calm_said and {"diverged", "nonfinite-loss", "nonfinite-gradient"} & {f.code for f in alarming})
    if findings and findings[0].severity == "critical" and PAGES[codes[0]].cure in ("operation", "signal", "script"):
        assert advice["max_norm"] is None
        assert findings[0].remedy in advice["first"][0]
    of_any_few_steps = {"too-short", "died", "killed"} | ({"no-steps"} if len(run.steps()) else set())
    problems = [o for o in (*told_by_findings(run), *told_by_clip_faults(run)) if o.mark == "problem"]
    assert bool(problems) == bool({finding.code for finding in alarming} - of_any_few_steps)
    told = {finding.what for finding in findings}
    assert all(any(first.startswith(what) for what in told) for first in advice["first"])


@pytest.mark.parametrize(
    "optimizer", ["SGD", pytest.param("AdamW", marks=pytest.mark.slow), pytest.param("Unheard", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", RUNS)
def test_of_a_made_run_all_say_the_same(tmp_path, capsys, name, optimizer):
    agree(run_of(tmp_path / "run", RUNS[name](), optimizer), capsys)


def test_of_an_optimizer_for_each_epoch_all_say_the_same(tmp_path, capsys):
    run = trained(tmp_path / "run", adam)
    assert "optimizer-recreated" in {finding.code for finding in run.diagnosis()}
    agree(run, capsys)


@pytest.mark.parametrize("records", [calm(STEPS), stream([0.0] * STEPS, losses=falling(STEPS))], ids=["well", "zeros"])
def test_of_an_overfitted_run_all_say_the_same(tmp_path, capsys, records):
    validations = json.dumps([(step, 1.0 + abs(step - 160) / 200) for step in range(20, STEPS, 20)])
    run = run_of(tmp_path / "run", records, "AdamW", meta={"validation_loss.1": validations})
    assert "overfitting" in {finding.code for finding in run.diagnosis()}
    agree(run, capsys)


def test_of_a_run_without_warm_up_all_say_the_same(tmp_path, capsys):
    records = stream(replaced(steady(STEPS), {5: 60.0}), losses=falling(STEPS))
    agree(run_of(tmp_path / "run", records, "AdamW"), capsys)


@pytest.mark.parametrize("reason", ["exception RuntimeError", "signal SIGTERM", "stopped on nonfinite", "fault"])
def test_however_a_run_ended_all_say_the_same(tmp_path, capsys, reason):
    agree(run_of(tmp_path / "run", calm(STEPS), reason=reason), capsys)


@pytest.mark.parametrize("store", STORES, ids=lambda store: store.name)
def test_of_a_store_of_any_age_all_say_the_same(store, capsys):
    run = Run(store)
    if len(run.steps()):
        agree(run, capsys)


@pytest.mark.parametrize("seed", range(6))
def test_of_random_histories_all_say_the_same(tmp_path, capsys, seed):
    """Levels, spikes, NaN, skipped and clipped steps, drawn together."""
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(30, 600))
    norms = np.exp(rng.normal(0, rng.uniform(0.05, 1.2), steps) + rng.normal(0, 0.01) * np.arange(steps))
    norms[rng.random(steps) < 0.01] *= 40
    norms[rng.random(steps) < rng.choice([0, 0.02, 0.6])] = math.nan
    losses = np.exp(rng.normal(0, 0.1, steps) + rng.normal(0, 0.01) * np.arange(steps))
    records = stream([float(n) for n in norms], losses=[float(x) for x in losses])
    skipped = rng.random(steps) < rng.choice([0, 0.3])
    records = [dataclasses.replace(r, skipped=bool(s)) for r, s in zip(records, skipped, strict=True)]
    agree(run_of(tmp_path / "run", records, str(rng.choice(["SGD", "AdamW", "Muon", "Lion"]))), capsys)
