"""`gradwatch tune`: find the threshold by experiment.

Each trial runs the unchanged script with another threshold. All candidates train for a few steps, and the best ones
train again for longer (successive halving: Jamieson, Talwalkar 2016). A trial is judged by its training loss, or by a
number that the script prints, for example the loss on held-out data.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.recommend import recommend
from gradwatch.analysis.run import Run
from gradwatch.errors import BadArgument, CannotTune, GradwatchError
from gradwatch.text import number
from gradwatch.text import share as percentage

FACTOR = 4.0  # from one candidate to the next
LEAST_GAIN = 0.01  # share of the loss: a smaller difference does not matter
JUDGED_SHARE = 0.2  # share of a trial's losses, the last ones, by which it is judged
PILOT = 0.25  # share of the steps that the first round makes
OUTPUT = "output.txt"  # holds the script's output, beside its run


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run of the script with a threshold."""

    max_norm: float  # infinite: no clipping
    steps: int  # asked for
    made: int  # steps that were made
    loss: float | None  # the median of the last fifth of the recorded or printed losses; None: the training diverged
    error: float | None  # standard error of `loss`, from the medians of ten blocks
    clipped_fraction: float | None
    run: str = ""

    @property
    def rank(self) -> float:
        """The number by which trials are compared, the smallest is best; infinite if the training diverged."""
        return math.inf if self.loss is None else self.loss


class Train(Protocol):
    """Runs the training with a threshold for a number of steps."""

    def __call__(self, max_norm: float, steps: int) -> Trial: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The result of the experiment."""

    trials: tuple[Trial, ...]  # in the order in which they were made
    best: float | None  # the threshold with the smallest loss; None: every training diverged
    low: float | None  # thresholds from `low` to `high` did as well as `best`, within the noise
    high: float | None
    matters: bool  # whether clipping at `best` is better than not clipping
    verdict: str
    clip_fault: str | None = None  # why the script's own clip call has no effect; None: it has one, or there is none

    def final(self) -> list[Trial]:
        """The longest trial of each threshold, in ascending order of thresholds."""
        return _longest_each(self.trials)


# ------------------------------------------------------------------------------------- the search


def rounds(count: int, steps: int) -> list[tuple[int, int]]:
    """The number of candidates and the number of steps of each round.

    >>> rounds(8, 1000)
    [(8, 250), (4, 500), (2, 1000)]
    >>> rounds(3, 1000)
    [(3, 250), (2, 1000)]
    """
    first, half = max(1, int(PILOT * steps)), (count + 1) // 2
    between = [(half, max(1, steps // 2))] if half > 2 else []
    return [(count, first), *between, (min(2, count), steps)]


def cost(count: int) -> float:
    """The cost of the search in runs of full length. The last run without clipping is included.

    >>> cost(8), cost(4)
    (7.0, 4.0)
    """
    return sum(n * steps for n, steps in rounds(count, 1000)) / 1000 + 1


def count_within(budget: float) -> int:
    """The number of candidates that a budget allows.

    Raises:
        BadArgument: the budget allows fewer than three.

    >>> count_within(7)
    8
    """
    count = next((n for n in range(12, 2, -1) if cost(n) <= budget), None)
    if count is None:
        least = number(cost(3), 6)
        raise BadArgument(f"--budget is {number(budget, 6)}; expected at least {least}, for three candidates.")
    return count


def cost_in_steps(budget: float, steps: int) -> int:
    """The number of steps of the whole search.

    >>> cost_in_steps(7, 1000)
    7000
    """
    return int(cost(count_within(budget)) * steps)


def candidates(centre: float, count: int) -> list[float]:
    """``count`` thresholds around a centre, a factor of 4 apart. An even count has one more below than above it.

    >>> candidates(1.0, 4)
    [0.0625, 0.25, 1.0, 4.0]
    """
    return [float(f"{centre * FACTOR**k:.3g}") for k in range(-(count // 2), count - count // 2)]


def search(thresholds: Sequence[float], steps: int, train: Train) -> Tuning:
    """Search the thresholds by successive halving. The training without clipping stays until the last round.

    ``train`` is called again for a threshold with more steps, and then trains from the start.
    """
    trials: list[Trial] = []
    everyone = [*dict.fromkeys(thresholds), math.inf]
    going = everyone
    plan = rounds(len(everyone), steps)
    for index, (_, length) in enumerate(plan):
        made = [train(threshold, length) for threshold in going]
        trials += made
        if all(trial.loss is None for trial in made) and index + 1 < len(plan):
            break
        if index + 1 < len(plan):
            ranked = sorted(made, key=lambda trial: trial.rank)
            going = [trial.max_norm for trial in ranked[: plan[index + 1][0]]]
            if index + 2 == len(plan) and math.inf not in going:
                going.append(math.inf)
    return judged(trials)


def judged(trials: Sequence[Trial]) -> Tuning:
    """Judge the trials. Only trials of the same length are compared."""
    longest = max(trial.steps for trial in trials)
    final = [trial for trial in trials if trial.steps == longest]
    kept = [trial for trial in final if trial.loss is not None]
    if not kept:
        return _all_lost(trials)
    best = min(kept, key=lambda trial: trial.rank)
    plain = next((trial for trial in final if math.isinf(trial.max_norm)), None)
    alike = [best.max_norm, *(trial.max_norm for trial in _longest_each(trials) if _alike(trial, best, trials))]
    matters = plain is not None and not _is_as_good(plain, best)
    return Tuning(
        trials=tuple(trials),
        best=best.max_norm,
        low=min(alike),
        high=max(alike),
        matters=matters,
        verdict=_verdict(best, plain, matters),
    )


def _all_lost(trials: Sequence[Trial]) -> Tuning:
    return Tuning(
        trials=tuple(trials),
        best=None,
        low=None,
        high=None,
        matters=False,
        verdict="every training diverged, with any threshold: `gradwatch explain diverged`",
    )


def _longest_each(trials: Sequence[Trial]) -> list[Trial]:
    """The longest trial of each threshold, ascending; of equally long ones the last."""
    longest: dict[float, Trial] = {}
    for trial in trials:
        if trial.max_norm not in longest or trial.steps >= longest[trial.max_norm].steps:
            longest[trial.max_norm] = trial
    return [longest[threshold] for threshold in sorted(longest)]


def _alike(trial: Trial, best: Trial, trials: Sequence[Trial]) -> bool:
    """Whether a threshold did as well as the best one in trials of the same length."""
    peer = next((t for t in trials if t.max_norm == best.max_norm and t.steps == trial.steps), None)
    return peer is not None and _is_as_good(trial, peer)


def _is_as_good(one: Trial, other: Trial) -> bool:
    """Whether a trial did not diverge and its loss is within the noise of the other's."""
    assert other.loss is not None
    if one.loss is None:
        return False
    noise = 2 * math.hypot(one.error or 0.0, other.error or 0.0)
    return one.loss - other.loss <= max(noise, LEAST_GAIN * abs(other.loss))


def _verdict(best: Trial, plain: Trial | None, matters: bool) -> str:
    if plain is None:
        return f"clip at {number(best.max_norm, 6)}"
    if plain.loss is None:
        return f"clip at {number(best.max_norm, 6)}: without clipping the training diverges"
    assert best.loss is not None
    if not matters:
        return (
            f"clipping does not matter here: the loss is {number(plain.loss, 4)} without it and {number(best.loss, 4)}"
            f" with the best threshold, a difference within the noise or {percentage(LEAST_GAIN)}"
        )
    losses = f"the loss is {number(best.loss, 4)}, without clipping {number(plain.loss, 4)}"
    return f"clip at {number(best.max_norm, 6)}: {losses}"


# ---------------------------------------------------------------------------------- with a script


@dataclass(frozen=True, slots=True)
class Script:
    """The script and the folder of its trials. A trial that has finished before is not run again."""

    arguments: tuple[str, ...]
    module: bool
    folder: Path
    say: Callable[[float, int], None] = lambda max_norm, steps: None
    judge_by: re.Pattern[str] | None = None  # finds numbers in what the script prints

    def __call__(self, max_norm: float, steps: int) -> Trial:
        """Run a trial, or read it if an earlier call has finished it.

        Raises:
            CannotTune: the script failed before its first step, or the trial has no loss.
        """
        self.say(max_norm, steps)
        run = self.folder / f"max_norm={max_norm:g} steps={steps}"
        mark = run / "finished"
        if not mark.exists():
            shutil.rmtree(run, ignore_errors=True)
            code = self._run(run, max_norm, steps)
            if not (run / "gradwatch.db").exists():
                raise CannotTune(
                    f"{self.arguments[0]!r} ended with exit code {code} before a step was recorded."
                    f" Its output is in {str(run / OUTPUT)!r}."
                )
            mark.write_text(f"{code}\n")
        return outcome(run, max_norm, steps, self.judge_by)

    def _run(self, run: Path, max_norm: float, steps: int) -> int:
        try:
            run.mkdir(parents=True)
        except OSError as error:
            raise CannotTune(f"{str(run)!r} can't be made: {error}. Give another --run.") from error
        options = ["--run", str(run), "--max-norm", repr(max_norm), "--steps", str(steps)]
        command = [
            sys.executable,
            "-m",
            "gradwatch",
            "run",
            *options,
            *(["-m"] if self.module else []),
            *self.arguments,
        ]
        with (run / OUTPUT).open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            try:
                return process.wait()
            except BaseException:
                # From a terminal Ctrl-C has reached it as well; from elsewhere it has not.
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                raise


def outcome(run: Path, max_norm: float, steps: int, judge_by: re.Pattern[str] | None = None) -> Trial:
    """Read the trial of a finished run.

    Raises:
        CannotTune: no loss was recorded, or the script printed none.
    """
    recorded = Run(run)
    frame = recorded.steps(recorded.optimizer())
    if judge_by is not None:
        losses = printed(run / OUTPUT, judge_by)
    else:
        losses = frame["loss"].to_numpy(float)[frame["loss_logged"].to_numpy(bool)]
    if not len(losses):
        raise CannotTune(
            "the script's loss is not known: it does not call backward or watch.log."
            if judge_by is None
            else f"--judge-by {judge_by.pattern!r} matches nothing in the output of a run of {len(frame)} steps"
            f" ({str(run / OUTPUT)!r}). Raise --steps, so that the script prints it within a quarter of them."
        )
    lost = not math.isfinite(losses[-1]) or not np.isfinite(frame["total_norm"].to_numpy(float)[-1])
    tail = losses[-max(1, int(JUDGED_SHARE * len(losses))) :]
    lost = lost or not np.isfinite(tail).all()
    middle, error = (None, None) if lost else judge(tail)
    return Trial(
        max_norm=max_norm,
        steps=steps,
        made=len(frame),
        loss=middle,
        error=error,
        clipped_fraction=float(frame["clipped"].mean()),
        run=str(run),
    )


def printed(output: Path, pattern: re.Pattern[str]) -> NDArray[np.float64]:
    """The numbers that a pattern finds in a file; its first group is the number if it has groups.

    Raises:
        BadArgument: a match is not a number.
    """
    found = []
    for match in pattern.finditer(output.read_text(errors="replace")):
        text = match.group(1 if pattern.groups else 0)
        try:
            found.append(float(text))
        except (TypeError, ValueError):
            raise BadArgument(
                f"--judge-by found {text!r}, which is not a number. Put the number into parentheses:"
                r" 'held out (\S+)' finds the 0.25 of 'held out 0.25'."
            ) from None
    return np.array(found, float)


def judge(losses: NDArray[np.float64]) -> tuple[float, float | None]:
    """The median of losses, and its standard error from the medians of ten blocks.

    The median keeps single bad batches from deciding.

    >>> judge(np.array([1.0, 1.0, 1.0, 50.0]))
    (1.0, 12.25)
    """
    blocks = np.array([np.median(block) for block in np.array_split(losses, 10) if len(block)])
    error = float(blocks.std(ddof=1) / math.sqrt(len(blocks))) if len(blocks) > 1 else None
    return float(np.median(losses)), error


def tune(
    arguments: Sequence[str],
    module: bool,
    folder: Path,
    steps: int,
    budget: float,
    say: Callable[[float, int], None] = lambda max_norm, steps: None,
    judge_by: str | None = None,
) -> Tuning:
    """Find the threshold of a script with at most ``budget`` runs of ``steps`` steps.

    The first run does not clip; the candidates lie around the threshold that `recommend` gives for it. A search that
    was stopped continues when it is called again with the same folder. ``judge_by`` is a regular expression for
    numbers in the script's output. They replace the training loss, and the smallest is best.

    Raises:
        BadArgument: the budget or the steps are too small, or ``judge_by`` can't be used.
        CannotTune: the folder holds something else, or the script gives no loss.
    """
    count = count_within(budget)
    if steps < 8:
        raise BadArgument(f"--steps is {steps}; expected at least 8.")
    pattern = None if judge_by is None else _pattern(judge_by)
    _claim(folder, {"arguments": list(arguments), "module": module})
    train = Script(tuple(arguments), module, folder, say, pattern)
    pilot = train(math.inf, rounds(count, steps)[0][1])
    found = search(candidates(_centre(Path(pilot.run)), count - 1), steps, train)
    return replace(found, clip_fault=_clip_fault(Run(pilot.run)))


def _clip_fault(pilot: Run) -> str | None:
    """Why the script's own clip call has no effect; the trials clip without it."""
    faults = (event for event in pilot.events() if event.kind == "ineffective-clipping" and event.severity != "info")
    return next((event.message for event in faults), None)


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise BadArgument(f"--judge-by is {text!r}, which is not a regular expression: {error}.") from error


def _claim(folder: Path, what: dict[str, object]) -> None:
    """Reserve the folder for this command.

    Raises:
        CannotTune: it holds something else, or can't be read or written.
    """
    file = folder / "tune.json"
    try:
        if not file.exists():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise CannotTune(f"{str(folder)!r} exists and does not hold a tuning. Give another --run.")
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(what) + "\n")
        elif json.loads(file.read_text()) != what:
            raise CannotTune(f"{str(folder)!r} holds the tuning of another command. Give another --run.")
    except (OSError, ValueError) as error:  # ValueError: the file is no JSON or no text
        raise CannotTune(f"{str(folder)!r} can't be used: {error}. Give another --run.") from error


def _centre(pilot: Path) -> float:
    """The threshold that is recommended for the pilot run, or the median of its norms if none is."""
    run = Run(pilot)
    try:
        advice = recommend(run)
    except GradwatchError:
        advice = None
    if advice is not None and advice.max_norm is not None:
        return advice.max_norm
    norms = run.steps(run.optimizer())["total_norm"].to_numpy(float)
    norms = norms[np.isfinite(norms) & (norms > 0)]
    if not len(norms):
        raise CannotTune(
            "the script's first steps have no finite gradient norm, so there is no norm to choose thresholds by."
        )
    return float(np.median(norms))
