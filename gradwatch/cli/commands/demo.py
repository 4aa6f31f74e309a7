"""`gradwatch demo`: a training that explodes, the advice, and the same training with it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from gradwatch.analysis.recommend import Recommendation
from gradwatch.analysis.run import Run
from gradwatch.cli.output import console as standard_output
from gradwatch.demo import SEEDS, train
from gradwatch.text import number
from gradwatch.views.console.compare import comparison
from gradwatch.views.console.recommend import recommendation
from gradwatch.views.console.report import report
from gradwatch.views.console.screen import Screen

_UPDATE_EVERY = 50  # steps, of the progress bar
_LINES = 10  # of progress, if the output is not a terminal


def demo(folder: Path, steps: int, seed: int) -> None:
    """Train until a seed explodes early enough to advise on, then train it again with the advice."""
    console = standard_output()
    console.print("A tanh RNN learns to add two of 50 numbers, by SGD, without clipping.", style="bold")
    for number_of_seed in range(seed, seed + SEEDS):
        plain, clipped = _unused(folder / "demo"), _unused(folder / "demo-clipped")
        advice = _train_and_advise(console, plain, steps, number_of_seed)
        if advice is not None:
            _train_clipped(console, plain, clipped, steps, number_of_seed, advice)
            return
        console.print(f"\nSeed {number_of_seed} did not explode, or too early to advise on.", style="bold")


def _train_and_advise(console: Console, folder: Path, steps: int, seed: int) -> Recommendation | None:
    """Train without clipping, print the report and the advice; return it if the training was lost."""
    lost = _train(console, folder, steps, seed, None)
    run, screen = Run(folder), Screen.of(console)
    _print_command(console, f"gradwatch report {folder}")
    console.print(report(run.summary(), screen))
    advice = run.recommend()
    _print_command(console, f"gradwatch recommend {folder}")
    console.print(recommendation(advice, screen))
    return advice if lost and advice.max_norm is not None else None


def _train_clipped(console: Console, plain: Path, clipped: Path, steps: int, seed: int, advice: Recommendation) -> None:
    """Train with the threshold and print both runs side by side."""
    assert advice.max_norm is not None
    console.print(f"\nThe same training, clipped at {number(advice.max_norm, 6)}.", style="bold")
    _train(console, clipped, steps, seed, advice.max_norm)
    _print_command(console, f"gradwatch compare {plain} {clipped}")
    console.print(comparison([Run(plain).summary(), Run(clipped).summary()], Screen.of(console)))


def _print_command(console: Console, command: str) -> None:
    console.print(f"\n$ {command}", style="bold", markup=False)


def _unused(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, ... that does not exist."""
    found, copy = folder, 2
    while found.exists():
        found = folder.with_name(f"{folder.name}-{copy}")
        copy += 1
    return found


def _train(console: Console, folder: Path, steps: int, seed: int, max_norm: float | None) -> bool:
    """Train and show the progress; return whether the loss became NaN or infinite."""
    with _progress(console, steps) as on_step:
        made = train(folder, max_norm=max_norm, steps=steps, seed=seed, on_step=on_step)
    if made < steps:
        console.print(f"The loss is no longer finite after step {made - 1}: the training is lost.", style="bold red")
    return made < steps


@contextlib.contextmanager
def _progress(console: Console, steps: int) -> Iterator[Callable[[int, float], None]]:
    """Give a function to call with each step and its loss: it moves a bar, or prints ten lines off a terminal."""
    if not console.is_terminal:

        def print_line(step: int, loss: float) -> None:
            if (step + 1) % max(1, steps // _LINES) == 0 or not math.isfinite(loss):
                console.print(f"step {step + 1:>5}/{steps}  loss {number(loss)}")
                console.file.flush()

        yield print_line
        return
    columns = (TextColumn("step {task.completed:>5}/{task.total}"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=steps)

        def move_bar(step: int, loss: float) -> None:
            if step % _UPDATE_EVERY == 0 or step + 1 == steps or not math.isfinite(loss):
                progress.update(task, completed=step + 1, description=f"loss {number(loss)}")

        yield move_bar
