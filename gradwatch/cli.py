"""The command line: parse, call, print."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradwatch.errors import BadArgument, CannotExport, GradwatchError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, RenderableType

    from gradwatch.analysis.run import Run
    from gradwatch.record import Event
    from gradwatch.views.console import ConsoleReport

app = typer.Typer(
    help="The flight recorder for gradients.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

NOT_HEALTHY = 3

# What follows SCRIPT is the script's own.
OF_A_SCRIPT = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}

_to_launch: list[Any] = []

RunPath = Annotated[
    Path | None, typer.Argument(metavar="[RUN]", help="A run's folder; the newest under runs/ if left out.")
]
ScriptArguments = Annotated[
    list[str], typer.Argument(metavar="SCRIPT [ARGS]...", help="A training script with its own arguments.")
]
AsModule = Annotated[bool, typer.Option("-m", help="SCRIPT is the name of a module, as in `python -m`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OptimizerName = Annotated[str | None, typer.Option("--optimizer", help="Which optimizer; the first if left out.")]


@app.command(context_settings=OF_A_SCRIPT)
def run(
    arguments: ScriptArguments,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--run", envvar="GRADWATCH_RUN", help="The folder to record into; runs/<time>-<script> if left out."
        ),
    ] = None,
    module: AsModule = False,
    max_norm: Annotated[
        float | None,
        typer.Option(help="Clip by norm at this threshold instead of the script's; inf: don't clip by norm."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="End the script after so many optimizer steps.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write a few scalars as event files too.")] = False,
) -> None:
    """Run a training script as it is and record it."""
    from gradwatch.script.launch import prepare

    if max_norm is not None and not max_norm > 0:
        raise BadArgument(f"--max-norm is {max_norm!r}; expected a number above 0, or inf.")
    _to_launch.extend((*prepare(arguments, folder, module), max_norm, steps, tensorboard))


@app.command()
def report(
    run: RunPath = None,
    json: AsJson = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write it as one file for a browser instead.")
    ] = None,
    layers: Annotated[int, typer.Option(min=0, help="How many layers to list.")] = 12,
    optimizer: OptimizerName = None,
) -> None:
    """Show how a run's gradients behaved."""
    if html is not None:
        if json:
            raise BadArgument("--json and --html were both given; expected one of them.")
        size = _write_html(_open(run), html, optimizer)
        typer.echo(f"wrote {html}, {size / 1e6:.1f} MB")
        return
    summary = _open(run).summary(optimizer)
    _show(json, lambda j: j.report(summary), lambda view: view.report(summary), layers=layers)


@app.command()
def watch(
    run: RunPath = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
) -> None:
    """Show the report of a run while it is written, until q or Ctrl-C."""
    from gradwatch.views.live import follow

    follow(run, _console(), every)


@app.command()
def events(
    run: RunPath = None,
    json: AsJson = False,
    kind: Annotated[list[str] | None, typer.Option(help="Only events of this kind; may be repeated.")] = None,
    severity: Annotated[str, typer.Option(help="Only events at least this severe: info, warning, critical.")] = "info",
) -> None:
    """List what was found."""
    found = _selected(_open(run), kind or [], severity)
    _show(json, lambda j: j.events(found), lambda view: view.events(found))


@app.command()
def recommend(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN]...", help="Folders of runs; the newest under runs/ if left out."),
    ] = None,
    json: AsJson = False,
    optimizer: OptimizerName = None,
) -> None:
    """Say which clipping threshold the run should have, why, and what others would have done.

    Of several runs of one training, other seeds say, the advice is for all of them.
    """
    if runs is not None and len(runs) > 1:
        from gradwatch.analysis.recommend import recommend_for_all

        agreement = recommend_for_all([_open(run) for run in runs], optimizer)
        _show(json, lambda j: j.agreement(agreement), lambda view: view.agreement(agreement))
        return
    advice = _open(runs[0] if runs else None).recommend(optimizer)
    _show(json, lambda j: j.recommendation(advice), lambda view: view.recommendation(advice))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of runs.")],
    json: AsJson = False,
) -> None:
    """Show runs side by side."""
    summaries = [_open(run).summary() for run in runs]
    _show(json, lambda j: [j.report(summary) for summary in summaries], lambda view: view.comparison(summaries))


@app.command()
def check(
    run: RunPath = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(help="Fail only on this kind of event, or on this severity (warning, critical); may be repeated."),
    ] = None,
    max_clipped_fraction: Annotated[
        float | None, typer.Option(min=0, max=1, help="Fail where more steps were clipped.")
    ] = None,
) -> None:
    """Exit with code 3 where the run is not healthy, for CI."""
    from gradwatch.views.draw import printable

    faults = _faults(_open(run), fail_on or [], max_clipped_fraction)
    for fault in faults:
        typer.echo(printable(fault))
    if faults:
        raise typer.Exit(NOT_HEALTHY)
    typer.echo("healthy")


@app.command()
def export(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... [TO]",
            help="A run's folder, and a file that ends in .csv or .parquet; with --parquet runs, or folders full of"
            " them, and the folder or URL of the data set.",
        ),
    ],
    what: Annotated[
        str, typer.Option(help="steps, events, or a statistic of every layer: norm, abs_max, nonfinite, zeros, ...")
    ] = "steps",
    tensorboard: Annotated[
        Path | None, typer.Option("--tensorboard", metavar="DIR", help="Write a few scalars as event files there.")
    ] = None,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Write whole runs as a Parquet data set, partitioned by run and attempt.")
    ] = False,
) -> None:
    """Write the steps, the events or a statistic of the layers as CSV or Parquet, or scalars for TensorBoard."""
    run, *more = paths
    if parquet:
        _write_dataset(paths)
        return
    if not more and tensorboard is None:
        raise BadArgument("nothing to write to was given; expected a file, or --tensorboard and a folder.")
    if len(more) > 1:
        raise BadArgument(f"{len(paths)} paths were given; expected a run and a file, or --parquet for several runs.")
    if more:
        rows = _write(_open(Path(run)), Path(more[0]), what)
        typer.echo(f"wrote {rows} rows to {more[0]}")
    if tensorboard is not None:
        count = _mirror(_open(Path(run)), tensorboard)
        typer.echo(f"wrote the scalars of {count} steps to {tensorboard}")


@app.command(name="import")
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE... RUN",
            help="Event files or their folder, trainer_state.json, CSV or Parquet; then the folder of the new run.",
        ),
    ],
    norm: Annotated[str | None, typer.Option(help="The column or the tag of the gradient norm.")] = None,
    step: Annotated[str | None, typer.Option(help="The column of the step.")] = None,
    loss: Annotated[str | None, typer.Option(help="The column or the tag of the loss.")] = None,
    optimizer_class: Annotated[str, typer.Option("--optimizer", help="The optimizer's class, AdamW say.")] = "",
    moment: Annotated[
        str | None, typer.Option(help="When the norms were taken: 'before clipping' or 'after clipping'.")
    ] = None,
) -> None:
    """Make a run of a history that was recorded by something else."""
    _import(files, norm, step, loss, optimizer_class, moment)


@app.command(context_settings=OF_A_SCRIPT)
def doctor(
    arguments: ScriptArguments,
    steps: Annotated[int, typer.Option(min=2, help="Stop the script after so many optimizer steps.")] = 5,
    module: AsModule = False,
) -> None:
    """Run a training script for a few steps and say what can be seen of it."""
    from gradwatch.script.doctor import examine
    from gradwatch.script.launch import prepare
    from gradwatch.views.console import ConsoleReport

    program, _ = prepare(arguments, None, module)
    diagnosis = examine(program, steps)
    console = _console()
    console.print(ConsoleReport.on(console).diagnosis(diagnosis))
    if diagnosis.failed:
        raise typer.Exit(1)
    if diagnosis.has_problem:
        raise typer.Exit(NOT_HEALTHY)


@app.command(context_settings=OF_A_SCRIPT)
def tune(
    arguments: ScriptArguments,
    steps: Annotated[int, typer.Option(min=8, help="Optimizer steps of the longest runs.")] = 1000,
    budget: Annotated[float, typer.Option(help="As much as so many of the longest runs.")] = 7,
    folder: Annotated[
        Path | None, typer.Option("--run", help="Where the runs are kept; runs/tune-<script> if left out.")
    ] = None,
    judge_by: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help=r"Judge by the numbers that this finds in what the script prints, 'held out (\S+)' say, instead of"
            " the loss trained on. Least is best.",
        ),
    ] = None,
    module: AsModule = False,
    json: AsJson = False,
) -> None:
    """Find the clipping threshold of a script by experiment: short runs first, the promising ones longer."""
    _tune(arguments, steps, budget, folder, judge_by, module, json)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--runs", help="Where to record the two runs.")] = Path("runs"),
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = 8000,
    seed: Annotated[int, typer.Option(help="Of the weights and the data.")] = 0,
) -> None:
    """Train a small RNN that explodes, ask for a threshold, train again with it."""
    _demo(folder, steps, seed)


# --------------------------------------------------------------------------------------- the work


def _open(path: Path | None) -> Run:
    from gradwatch.analysis.history import newest
    from gradwatch.analysis.run import Run

    gc.freeze()  # what was imported stays; among many rows each garbage collection would look through all of it
    return Run(newest() if path is None else path)


def _show(
    as_json: bool,
    to_json: Callable[[Any], object],
    to_view: Callable[[ConsoleReport], RenderableType],
    layers: int = 12,
) -> None:
    if as_json:
        from gradwatch.views import json

        typer.echo(json.dumps(to_json(json)))
        return
    from gradwatch.views.console import ConsoleReport

    console = _console()
    console.print(to_view(ConsoleReport.on(console, layers)))


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


def _selected(run: Run, kinds: list[str], severity: str) -> list[Event]:
    from gradwatch.record import SEVERITIES

    _check_kinds(kinds)
    if severity not in SEVERITIES:
        raise BadArgument(f"--severity is {severity!r}; expected one of {', '.join(SEVERITIES)}.")
    severe = SEVERITIES[SEVERITIES.index(severity) :]
    return [e for e in run.events() if e.severity in severe and (not kinds or e.kind in kinds)]


def _check_kinds(kinds: list[str]) -> None:
    from gradwatch.record import KINDS

    for kind in kinds:
        if kind not in KINDS:
            raise BadArgument(f"{kind!r} is no kind of event; expected one of {', '.join(KINDS)}.")


def _faults(run: Run, kinds: list[str], max_clipped_fraction: float | None) -> list[str]:
    """Why the run is not healthy, a line each."""
    _check_kinds([kind for kind in kinds if kind not in ("warning", "critical")])
    summary = run.summary()
    serious = [event for event in summary.events if event.severity != "info"]
    fatal = {"warning": {"warning", "critical"}, "critical": {"critical"}}
    severities = {severity for kind in kinds for severity in fatal.get(kind, ())}
    bad = [event for event in serious if not kinds or event.kind in kinds or event.severity in severities]
    faults = [f"{e.severity} {e.kind} at step {e.step}: {e.message}" for e in bad]
    fraction = summary.clipping.clipped_fraction or 0.0
    if max_clipped_fraction is not None and fraction > max_clipped_fraction:
        faults.append(f"{fraction:.1%} of the steps were clipped, more than {max_clipped_fraction:.1%}")
    return faults


def _write_html(run: Run, file: Path, optimizer: str | None) -> int:
    """Write the page of a run; its size in bytes."""
    from gradwatch.views.html import render
    from gradwatch.views.web.view import RunView

    page = render(RunView(run.path, optimizer)).encode()
    try:
        file.write_bytes(page)
    except OSError as error:
        raise CannotExport(f"{str(file)!r} can't be written: {error}.") from error
    return len(page)


def _write_dataset(paths: Sequence[str]) -> None:
    from gradwatch.export.dataset import write_dataset

    *folders, target = paths
    if not folders:
        raise BadArgument("only one path was given; expected runs, and then the folder or URL of the data set.")
    for folder in folders:
        if not Path(folder).exists():
            _open(Path(folder))  # says what is wrong
    count = write_dataset([Path(folder) for folder in folders], target)
    typer.echo(f"wrote {count} {'run' if count == 1 else 'runs'} to {target}")


def _write(run: Run, file: Path, what: str) -> int:
    import pandas as pd

    from gradwatch.record import EVENT_KEYS

    if what == "steps":
        frame = run.steps()
    elif what == "events":
        frame = pd.DataFrame([event.as_dict() for event in run.events()], columns=EVENT_KEYS)
    else:
        frame = run.layers(what)
    try:
        if file.suffix == ".csv":
            _as_text(frame).to_csv(file, index=what != "events")
        elif file.suffix == ".parquet":
            frame.to_parquet(file, index=what != "events")
        else:
            raise CannotExport(f"{str(file)!r} ends in {file.suffix!r}; expected .csv or .parquet.")
    except ImportError as error:
        raise CannotExport("Parquet needs the package pyarrow: `pip install gradwatch[parquet]`.") from error
    except OSError as error:
        raise CannotExport(f"{str(file)!r} can't be written: {error}.") from error
    return len(frame)


def _as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """With an apostrophe before what a spreadsheet would take for a formula; names come from strangers too."""

    def harmless(value: object) -> object:
        return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value

    texts = {name: frame[name].map(harmless) for name in frame.columns if frame[name].dtype.kind not in "biuf"}
    return frame.assign(**texts).rename(columns=harmless)


def _mirror(run: Run, folder: Path) -> int:
    from gradwatch.sinks.event_files import write

    names = list(run.optimizers)
    try:
        return sum(write(run.records(name), folder, len(names) > 1) for name in names)
    except OSError as error:
        raise CannotExport(f"{str(folder)!r} can't be written: {error}.") from error


def _import(
    files: list[Path], norm: str | None, step: str | None, loss: str | None, optimizer_class: str, moment: str | None
) -> None:
    from gradwatch.sources import read, write
    from gradwatch.views.draw import printable

    if len(files) < 2:
        raise BadArgument("one path was given; expected the files and then the folder of the new run.")
    if moment not in (None, "before clipping", "after clipping"):
        raise BadArgument(f"--moment is {moment!r}; expected 'before clipping' or 'after clipping'.")
    history = read(files[:-1], norm, step, loss)
    made = write(history, files[-1], optimizer_class, moment)
    typer.echo(printable(f"{made.steps} steps of {history.source} -> {made.run}, {made.events} events"))
    for note in made.notes:
        typer.echo(printable(f"note: {note}"))


def _tune(
    arguments: list[str],
    steps: int,
    budget: float,
    folder: Path | None,
    judge_by: str | None,
    module: bool,
    json: bool,
) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from gradwatch.script.launch import prepare
    from gradwatch.script.tune import cost_in_steps, tune

    program, _ = prepare(arguments, None, module)
    folder = folder or Path("runs") / f"tune-{arguments[0] if module else program.path.stem}"
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bar = progress.add_task("", total=cost_in_steps(budget, steps))
            before = 0

            def say(max_norm: float, length: int) -> None:
                nonlocal before
                progress.update(bar, advance=before, description=f"max_norm {max_norm:g}, {length} steps")
                before = length

            found = tune(arguments, module, folder, steps, budget, say, judge_by)
            progress.update(bar, completed=cost_in_steps(budget, steps), description="done")
    except KeyboardInterrupt:
        typer.echo(f"stopped; the same command goes on with what is in {folder}", err=True)
        raise
    _show(json, lambda j: j.tuning(found), lambda view: view.tuning(found))


def _demo(folder: Path, steps: int, seed: int) -> None:
    from gradwatch.analysis.run import Run
    from gradwatch.demo import SEEDS
    from gradwatch.views.console import ConsoleReport

    console = _console()
    view = ConsoleReport.on(console)
    console.print("A tanh RNN learns to add two of 50 numbers, by SGD, without clipping.", style="bold")
    for number in range(seed, seed + SEEDS):
        plain, clipped = _fresh(folder / "demo"), _fresh(folder / "demo-clipped")
        lost = _train(console, plain, steps, number, None)
        run = Run(plain)
        console.print(f"\n$ gradwatch report {plain}", style="bold", markup=False)
        console.print(view.report(run.summary()))
        console.print(f"\n$ gradwatch recommend {plain}", style="bold", markup=False)
        advice = run.recommend()
        console.print(view.recommendation(advice))
        if lost and advice.max_norm is not None:
            break
        console.print(f"\nSeed {number} did not explode, or too early to advise on.", style="bold")
    else:
        return
    console.print(f"\nThe same training, clipped at {advice.max_norm:g}.", style="bold")
    _train(console, clipped, steps, number, advice.max_norm)
    console.print(f"\n$ gradwatch compare {plain} {clipped}", style="bold", markup=False)
    console.print(view.comparison([run.summary(), Run(clipped).summary()]))


def _fresh(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, ... that does not exist."""
    number = 2
    found = folder
    while found.exists():
        found = folder.with_name(f"{folder.name}-{number}")
        number += 1
    return found


def _train(console: Console, run: Path, steps: int, seed: int, max_norm: float | None) -> bool:
    """Train behind a progress bar; return whether the training was lost."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from gradwatch.demo import train

    columns = (TextColumn("step {task.completed:>5}/{task.total}"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=steps)

        def on_step(step: int, loss: float) -> None:
            if step % 50 == 0 or step + 1 == steps or not math.isfinite(loss):
                progress.update(task, completed=step + 1, description=f"loss {loss:.3g}")

        made = train(run, max_norm=max_norm, steps=steps, seed=seed, on_step=on_step)
    if made < steps:
        console.print(f"The loss is no longer finite after step {made - 1}: the training is lost.", style="bold red")
    return made < steps


def main() -> None:
    """The entry point: errors of ours are one line and exit code 1."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except SystemExit as end:
        if end.code or not _to_launch:
            raise
    except GradwatchError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # The reader of a pipe went away, `head` say; nothing more can be printed, at exit either.
        sys.stdout = None
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    # A script runs outside of the handling above: its exceptions and its streams are its own.
    for stream, errors in zip(streams, before, strict=True):
        stream.reconfigure(errors=errors)
    from gradwatch.script.launch import launch

    launch(*_to_launch)


if __name__ == "__main__":
    main()
