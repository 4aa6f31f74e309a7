"""`gradwatch tune`: the threshold by experiment, where a history can't tell it.

The script is run as it is with another threshold each time, short runs first and the promising ones
longer (successive halving: Jamieson, Talwalkar 2016), and judged by the loss that it trained on, or by
a number that it prints, the loss on held-out data say.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.recommend import recommend
from gradwatch.analysis.run import Run
from gradwatch.errors import BadArgument, CannotTune, GradwatchError

FACTOR = 4.0  # between two candidates
LEAST_GAIN = 0.01  # of the loss; what is less does not matter
TAIL = 0.2  # of the steps are judged
PILOT = 0.25  # of the steps are made in the first round
OUTPUT = "output.txt"  # what the script printed, beside its run


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run of the script with a threshold."""

    max_norm: float  # infinite: no clipping
    steps: int  # wanted
    made: int  # made
    loss: float | None  # median over the last fifth of those that were recorded, or printed; None: lost
    error: float | None  # its standard error, from the medians of ten blocks
    clipped_fraction: float | None
    run: str = ""

    @property
    def rank(self) -> float:
        """What it is judged by; lost is worst."""
        return math.inf if self.loss is None else self.loss


class Train(Protocol):
    """Runs the training with a threshold for so many steps."""

    def __call__(self, max_norm: float, steps: int) -> Trial: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What the experiment showed."""

    trials: tuple[Trial, ...]  # in the order in which they were made
    best: float | None  # the threshold of the least loss; None: every training was lost
    low: float | None  # thresholds from here
    high: float | None  # to here did as well, as far as the noise tells
    matters: bool  # whether clipping at `best` is better than not clipping
    verdict: str

    def final(self) -> list[Trial]:
        """The longest trial of each threshold, by threshold."""
        return _longest_each(self.trials)


# ------------------------------------------------------------------------------------- the search


def rounds(count: int, steps: int) -> list[tuple[int, int]]:
    """How many candidates train for how many steps, round after round.

    >>> rounds(8, 1000)
    [(8, 250), (4, 500), (2, 1000)]
    >>> rounds(3, 1000)
    [(3, 250), (2, 1000)]
    """
    first, half = max(1, int(PILOT * steps)), (count + 1) // 2
    between = [(half, max(1, steps // 2))] if half > 2 else []
    return [(count, first), *between, (min(2, count), steps)]


def cost(count: int) -> float:
    """In runs of full length, that without clipping in the last round included.

    >>> cost(8), cost(4)
    (7.0, 4.0)
    """
    return sum(n * steps for n, steps in rounds(count, 1000)) / 1000 + 1


def count_within(budget: float) -> int:
    """How many candidates a budget allows.

    Raises:
        BadArgument: not even three.

    >>> count_within(7)
    8
    """
    count = next((n for n in range(12, 2, -1) if cost(n) <= budget), None)
    if count is None:
        raise BadArgument(f"--budget is {budget:g}; expected at least {cost(3):g}, for three candidates.")
    return count


def cost_in_steps(budget: float, steps: int) -> int:
    """Of the whole search.

    >>> cost_in_steps(7, 1000)
    7000
    """
    return int(cost(count_within(budget)) * steps)


def candidates(centre: float, count: int) -> list[float]:
    """``count`` thresholds about a centre, a factor of 4 apart, one more below than above where they can't be even.

    >>> candidates(1.0, 4)
    [0.0625, 0.25, 1.0, 4.0]
    """
    return [float(f"{centre * FACTOR**k:.3g}") for k in range(-(count // 2), count - count // 2)]


def search(thresholds: Sequence[float], steps: int, train: Train) -> Tuning:
    """Successive halving over the thresholds and no clipping, which stays to the end to be compared with.

    ``train`` may be called again for a threshold with more steps; it begins anew.
    """
    trials: list[Trial] = []
    everyone = [*dict.fromkeys(thresholds), math.inf]
    going = everyone
    plan = rounds(len(everyone), steps)
    for number, (_, length) in enumerate(plan):
        made = [train(threshold, length) for threshold in going]
        trials += made
        if all(trial.loss is None for trial in made) and number + 1 < len(plan):
            break
        if number + 1 < len(plan):
            ranked = sorted(made, key=lambda trial: trial.rank)
            going = [trial.max_norm for trial in ranked[: plan[number + 1][0]]]
            if number + 2 == len(plan) and math.inf not in going:
                going.append(math.inf)
    return judged(trials)


def judged(trials: Sequence[Trial]) -> Tuning:
    """What trials show; of each length those are compared that reached it."""
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
        verdict="every training diverged, with any threshold: check the learning rate and the initialisation",
    )


def _longest_each(trials: Sequence[Trial]) -> list[Trial]:
    """By threshold; of equally long ones the last."""
    longest: dict[float, Trial] = {}
    for trial in trials:
        if trial.max_norm not in longest or trial.steps >= longest[trial.max_norm].steps:
            longest[trial.max_norm] = trial
    return [longest[threshold] for threshold in sorted(longest)]


def _alike(trial: Trial, best: Trial, trials: Sequence[Trial]) -> bool:
    """Whether a threshold did as well as the best when both had trained for as long."""
    peer = next((t for t in trials if t.max_norm == best.max_norm and t.steps == trial.steps), None)
    return peer is not None and _is_as_good(trial, peer)


def _is_as_good(one: Trial, other: Trial) -> bool:
    """Whether a trial was not lost and is within the noise of the other, which was not."""
    assert other.loss is not None
    if one.loss is None:
        return False
    noise = 2 * math.hypot(one.error or 0.0, other.error or 0.0)
    return one.loss - other.loss <= max(noise, LEAST_GAIN * abs(other.loss))


def _verdict(best: Trial, plain: Trial | None, matters: bool) -> str:
    if plain is None:
        return f"clip at {best.max_norm:g}"
    if plain.loss is None:
        return f"clip at {best.max_norm:g}: without clipping the training is lost"
    assert best.loss is not None
    if not matters:
        return (
            f"it does not matter here: without clipping the loss is {plain.loss:.4g}, with the best threshold"
            f" {best.loss:.4g}, which is within the noise or {LEAST_GAIN:.0%}"
        )
    return f"clip at {best.max_norm:g}: the loss is {best.loss:.4g}, without clipping {plain.loss:.4g}"


# ---------------------------------------------------------------------------------- with a script


@dataclass(frozen=True, slots=True)
class Script:
    """What is run, and where its runs are kept; trials that are there already are not made again."""

    arguments: tuple[str, ...]
    module: bool
    folder: Path
    say: Callable[[float, int], None] = lambda max_norm, steps: None
    judge_by: re.Pattern[str] | None = None  # finds numbers in what the script prints

    def __call__(self, max_norm: float, steps: int) -> Trial:
        """Run it, or read what an earlier call ran to its end.

        Raises:
            CannotTune: the script failed before it trained, or there is no loss to judge by.
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
        run.mkdir(parents=True)
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
    """What a finished run came to.

    Raises:
        CannotTune: it has no loss, or printed none.
    """
    recorded = Run(run)
    frame = recorded.steps(recorded.optimizer())
    if judge_by is not None:
        losses = printed(run / OUTPUT, judge_by)
    else:
        losses = frame["loss"].to_numpy(float)[frame["loss_logged"].to_numpy(bool)]
    if not len(losses):
        raise CannotTune(
            "the script's loss is not known: it calls no backward, and watch.log was not used."
            if judge_by is None
            else f"--judge-by {judge_by.pattern!r} is nowhere in what a run of {len(frame)} steps printed"
            f" ({str(run / OUTPUT)!r}). Give --steps of which a quarter is enough for the script to print it."
        )
    lost = not math.isfinite(losses[-1]) or not np.isfinite(frame["total_norm"].to_numpy(float)[-1])
    tail = losses[-max(1, int(TAIL * len(losses))) :]
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
    """The numbers that a pattern finds in a file, by its first group where it has one.

    Raises:
        BadArgument: what it finds is no number.
    """
    found = []
    for match in pattern.finditer(output.read_text(errors="replace")):
        text = match.group(1 if pattern.groups else 0)
        try:
            found.append(float(text))
        except (TypeError, ValueError):
            raise BadArgument(
                f"--judge-by found {text!r}, which is no number. Put the number into parentheses:"
                r" 'held out (\S+)' finds the 0.25 of 'held out 0.25'."
            ) from None
    return np.array(found, float)


def judge(losses: NDArray[np.float64]) -> tuple[float, float | None]:
    """The median, so that single bad batches don't decide, and its standard error from the medians of ten blocks.

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
    """Find the threshold of a script by at most ``budget`` runs of ``steps`` steps.

    The first run, without clipping, says what `recommend` makes of it, and so where to look. Called
    again with the same folder it goes on where it was stopped. ``judge_by`` is a regular expression
    for numbers in the script's output that take the place of the loss trained on; least is best.

    Raises:
        BadArgument: the budget or the steps are too small, or ``judge_by`` can't be used.
        CannotTune: the folder belongs to something else, or the script can't be judged.
    """
    count = count_within(budget)
    if steps < 8:
        raise BadArgument(f"--steps is {steps}; expected at least 8.")
    pattern = None if judge_by is None else _pattern(judge_by)
    _claim(folder, {"arguments": list(arguments), "module": module})
    train = Script(tuple(arguments), module, folder, say, pattern)
    pilot = train(math.inf, rounds(count, steps)[0][1])
    return search(candidates(_centre(Path(pilot.run)), count - 1), steps, train)


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise BadArgument(f"--judge-by is {text!r}, which is no regular expression: {error}.") from error


def _claim(folder: Path, what: dict[str, object]) -> None:
    """One folder, one command."""
    file = folder / "tune.json"
    if not file.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CannotTune(f"{str(folder)!r} is there and is no tuning. Give another --run.")
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(what) + "\n")
    elif json.loads(file.read_text()) != what:
        raise CannotTune(f"{str(folder)!r} holds the tuning of another command. Give another --run.")


def _centre(pilot: Path) -> float:
    """What the pilot recommends, or where it refuses the median of its norms."""
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
        raise CannotTune("the script's first steps have no finite gradient norm: nothing to choose thresholds from.")
    return float(np.median(norms))
