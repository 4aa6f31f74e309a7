"""Every command with its arguments, options and help. `gradwatch.cli.commands` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradwatch.cli import commands
from gradwatch.cli.parsing import Command, Group
from gradwatch.version import __version__

app = typer.Typer(
    cls=Group,
    help="The flight recorder for gradients.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RECORD, READ, JUDGE, MANY, EXCHANGE = "Record", "Read a run", "Judge", "Many runs", "Exchange and set up"
"""The groups of commands in the help."""


# Options after SCRIPT are passed to the script.
SCRIPT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}

NotifyLink = Annotated[
    str | None,
    typer.Option(
        "--notify-link",
        metavar="URL",
        help="Address that stands at the end of each message of --notify, for example that of a dashboard.",
    ),
]
RunPath = Annotated[
    Path | None, typer.Argument(metavar="RUN", help="Folder of a run. Default: the newest under runs/.")
]
ScriptArguments = Annotated[
    list[str], typer.Argument(metavar="SCRIPT [ARGS]...", help="A training script and its arguments.")
]
AsModule = Annotated[bool, typer.Option("-m", help="SCRIPT is a module name, as in `python -m`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OptimizerName = Annotated[
    str | None,
    typer.Option(
        "--optimizer", help="Name of an optimizer. Default: the one with the most serious finding, else the first."
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gradwatch {__version__}")
        raise typer.Exit


@app.callback()
def gradwatch(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The flight recorder for gradients."""


@app.command(context_settings=SCRIPT_SETTINGS, cls=Command, rich_help_panel=RECORD)
def run(
    context: typer.Context,
    arguments: ScriptArguments,
    folder: Annotated[
        Path | None,
        typer.Option("--run", envvar="GRADWATCH_RUN", help="Folder to record into. Default: runs/<time>-<script>."),
    ] = None,
    module: AsModule = False,
    max_norm: Annotated[
        float | None,
        typer.Option(
            help="Clip by norm at this threshold instead of the script's own; inf turns clipping by norm off."
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="Clip by a policy instead of the script's own clip calls: a norm threshold, NAME or NAME:NUMBER."
            " Names: norm, value, layer-norm, auto, quantile, zclip, agc, adagc, skip-outliers.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop the script after this many optimizer steps.")] = None,
    first_step: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Number of the first step, if the script resumes from a checkpoint. Default: the step after the last"
            " one in the folder.",
        ),
    ] = None,
    stop_on: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="End the script with exit code 3 at this kind of event; may be repeated."),
    ] = None,
    skip_nonfinite: Annotated[
        bool, typer.Option("--skip-nonfinite", help="Skip an update whose gradients contain a NaN or an infinity.")
    ] = False,
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Record only every N-th step.")] = 1,
    ranks: Annotated[
        bool, typer.Option("--ranks", help="Under torchrun, record every rank before gradients are reduced.")
    ] = False,
    ranks_collective: Annotated[
        bool,
        typer.Option("--ranks-collective", help="Like --ranks, but the ranks add up their numbers by all-reduces."),
    ] = False,
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TRACKER",
            help="Also send series, events and the verdict to wandb, mlflow, trackio, tensorboard or openmetrics:FILE;"
            " a project or an address may follow a colon; may be repeated.",
        ),
    ] = None,
    notify: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Send a message for each fault, and when the training stalls, to an apprise address: slack://...,"
            " mailto://..., json://host; may be repeated. Prefer GRADWATCH_RUN_NOTIFY: other users can see"
            " the command line.",
        ),
    ] = None,
    notify_link: NotifyLink = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write scalars as event files.")] = False,
    recorder: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="Write the run from a thread of the script (thread) or from a separate process (process). With"
            " process, a killed script loses no step.",
        ),
    ] = "thread",
    capture: Annotated[
        bool,
        typer.Option(
            "--capture", help="Keep the first bad steps with their inputs and weights, for `gradwatch replay`."
        ),
    ] = False,
    capture_without_weights: Annotated[
        bool, typer.Option("--capture-without-weights", help="Like --capture, but without weights and gradients.")
    ] = False,
) -> None:
    """Run a training script and record it. The training does not change unless an option clips or skips."""
    options = commands.run.RunOptions(
        max_norm=max_norm,
        clip=clip,
        steps=steps,
        first_step=first_step,
        stop_on=tuple(stop_on or ()),
        skip_nonfinite=skip_nonfinite,
        every=every,
        ranks=ranks,
        ranks_collective=ranks_collective,
        to=tuple(to or ()),
        notify=tuple(notify or ()),
        notify_link=notify_link,
        tensorboard=tensorboard,
        recorder=recorder,
        capture=capture,
        capture_without_weights=capture_without_weights,
    )
    context.obj.append(commands.run.prepare_launch(arguments, folder, module, options))


@app.command(cls=Command, rich_help_panel=READ)
def report(
    run: RunPath = None,
    json: AsJson = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Write the report as one interactive HTML file; also of a folder of runs."
        ),
    ] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Write the report as an SVG picture.")
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option("--png", metavar="FILE", help="Write the report as a PNG picture; needs the extra png."),
    ] = None,
    layers: Annotated[int, typer.Option(min=0, help="Number of layers to list.")] = 12,
    optimizer: OptimizerName = None,
) -> None:
    """Show how a run's gradients behaved."""
    commands.report.report(run, json, html, layers, optimizer, svg, png)


@app.command(cls=Command, rich_help_panel=READ)
def watch(
    run: RunPath = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between updates.")] = 1.0,
    notify: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Send a message for each new fault, and if the training stalls or dies, to an apprise address such as"
            " slack://... or mailto://...; may be repeated. Without a terminal, watch then follows the run to its end.",
        ),
    ] = None,
    notify_link: NotifyLink = None,
    stalled_after: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Seconds without a step after which the training counts as stalled; 0: never.",
        ),
    ] = 600.0,
) -> None:
    """Show a run's report and update it live during training; q or Ctrl-C quits."""
    commands.watch.watch(run, every, notify or [], stalled_after, notify_link)


@app.command(cls=Command, rich_help_panel=READ)
def view(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="Folder of a run or of several runs. Default: all under runs/."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Show runs live in a browser, without TensorBoard; Ctrl-C ends it.

    Only this machine can open the page, at an address with a random part.
    """
    commands.view.view(run, port, open_browser)


@app.command(cls=Command, rich_help_panel=READ)
def events(
    run: RunPath = None,
    json: AsJson = False,
    kind: Annotated[list[str] | None, typer.Option(help="Show only this kind of event; may be repeated.")] = None,
    severity: Annotated[
        str, typer.Option(help="Show only events of at least this severity: info, warning or critical.")
    ] = "info",
) -> None:
    """List the events of a run."""
    commands.events.events(run, json, kind or [], severity)


@app.command(cls=Command, rich_help_panel=READ)
def captures(
    run: RunPath = None,
    json: AsJson = False,
    delete: Annotated[
        list[int] | None,
        typer.Option("--delete", metavar="STEP", help="Delete the captures of this step; may be repeated."),
    ] = None,
) -> None:
    """List the bad steps that `gradwatch run --capture` kept for a replay, or delete some."""
    commands.captures.captures(run, json, delete or [])


@app.command(cls=Command, rich_help_panel=JUDGE)
def recommend(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN", help="Folders of runs. Default: the newest under runs/."),
    ] = None,
    json: AsJson = False,
    optimizer: OptimizerName = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--if",
            metavar="KEY=VALUE",
            help="Recommend for a changed setting: lr=3e-4, batch=OLD:NEW, weight_decay=0.1, optimizer=AdamW,"
            " momentum=0.9, nesterov=true, beta1=0.8 or beta2=0.99; may be repeated.",
        ),
    ] = None,
) -> None:
    """Recommend a clipping threshold, with reasons and a what-if table.

    For several runs of one training, for example with different seeds, it gives one recommendation for all.
    """
    commands.recommend.recommend(runs or [], json, optimizer, given or [])


@app.command(cls=Command, rich_help_panel=MANY)
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs.")],
    json: AsJson = False,
) -> None:
    """Show runs side by side, and where each first differs from the first run."""
    commands.compare.compare(runs, json)


@app.command(cls=Command, rich_help_panel=JUDGE)
def check(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN...", help="Folders of runs, or folders that contain runs. Default: the newest under runs/."
        ),
    ] = None,
    json: AsJson = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Also write the result as JUnit XML.")
    ] = None,
    github: Annotated[bool, typer.Option("--github", help="Print faults as annotations of GitHub Actions.")] = False,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            help="Fail only on this finding, this kind of event, or this severity and above (warning, critical); may be"
            " repeated."
        ),
    ] = None,
    max_clipped_fraction: Annotated[
        float | None, typer.Option(min=0, max=1, help="Fail if more than this share of the steps was clipped.")
    ] = None,
    min_steps: Annotated[
        int | None, typer.Option(min=0, help="Fail if the run has fewer steps. Default: the fewest that can be judged.")
    ] = None,
    allow_unfinished: Annotated[
        bool,
        typer.Option("--allow-unfinished", help="Accept a run that an exception, a signal or a kill ended."),
    ] = False,
) -> None:
    """Exit with code 3 unless every run is healthy; for CI."""
    limits = commands.check.Limits(
        fail_on=tuple(fail_on or ()),
        max_clipped_fraction=max_clipped_fraction,
        min_steps=min_steps,
        allow_unfinished=allow_unfinished,
    )
    commands.check.check(runs or [], json, limits, junit, github)


@app.command(cls=Command, rich_help_panel=MANY)
def ls(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder that contains runs, at any depth.")] = Path(
        "runs"
    ),
    json: AsJson = False,
    sort: Annotated[
        str,
        typer.Option(metavar="NAME", help="Column to sort by; -NAME reverses the order. age: newest first."),
    ] = "age",
    chosen: Annotated[
        str | None,
        typer.Option(
            "--filter",
            metavar="EXPR",
            help="Show only these runs, for example 'verdict != \"healthy\" and lr > 1e-3 and config.depth == 4'.",
        ),
    ] = None,
    most: Annotated[int | None, typer.Option(min=1, help="Show at most this many runs.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Show only what the folder's index holds; compute nothing.")
    ] = False,
) -> None:
    """List the runs below a folder: verdict, steps, loss, first fault, settings."""
    commands.ls.ls(folder, json, sort, chosen, most, quick)


@app.command(cls=Command, rich_help_panel=MANY)
def rm(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete runs, except files that gradwatch did not write and runs that are being recorded."""
    commands.manage.rm(runs, yes)


@app.command(cls=Command, rich_help_panel=MANY)
def mv(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    target: Annotated[Path, typer.Argument(metavar="TO", help="New name, or a folder to move it into.")],
) -> None:
    """Rename or move a run that is not being recorded."""
    commands.manage.mv(run, target)


@app.command(cls=Command, rich_help_panel=MANY)
def compact(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
) -> None:
    """Make the stores of runs smaller without changing a row. Runs that are being recorded stay as they are."""
    commands.manage.compact(runs)


@app.command(cls=Command, rich_help_panel=MANY)
def note(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="The note; '' removes it. Default: print it.")
    ] = None,
) -> None:
    """Write a note about a run, or print it."""
    commands.manage.note(run, text)


@app.command(cls=Command, rich_help_panel=MANY)
def tag(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    tags: Annotated[list[str] | None, typer.Argument(metavar="TAG...", help="Tags. Default: print them.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove these tags instead.")] = False,
) -> None:
    """Add tags to a run, or print them."""
    commands.manage.tag(run, tags or [], remove)


@app.command(cls=Command, rich_help_panel=JUDGE)
def explain(
    code: Annotated[
        str | None, typer.Argument(metavar="CODE", help="Code of a finding. Default: list all codes.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Print what a finding means, how to confirm it and how to fix it."""
    commands.explain.explain(code, json)


@app.command(cls=Command, rich_help_panel=EXCHANGE)
def export(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... [TO]",
            help="A run's folder and a .csv or .parquet file. With --parquet: runs, or folders of runs, and the"
            " folder or URL of the data set.",
        ),
    ],
    what: Annotated[
        str,
        typer.Option(help="steps, events, or a statistic of each layer: norm, abs_max, nonfinite, zeros, ..."),
    ] = "steps",
    tensorboard: Annotated[
        Path | None, typer.Option("--tensorboard", metavar="DIR", help="Write scalars as event files to this folder.")
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TRACKER",
            help="Send series, events and the verdict to wandb, mlflow, trackio, tensorboard or openmetrics:FILE; may"
            " be repeated.",
        ),
    ] = None,
    parquet: Annotated[
        bool,
        typer.Option("--parquet", help="Write whole runs as a Parquet data set. The next time, only what has changed."),
    ] = False,
    keep_deleted: Annotated[
        bool,
        typer.Option("--keep-deleted", help="With --parquet: keep the rows of runs that are no longer in the folders."),
    ] = False,
) -> None:
    """Write steps, events or layer statistics as CSV or Parquet, or scalars for TensorBoard."""
    commands.export.export(paths, what, tensorboard, parquet, to or [], keep_deleted)


@app.command("import", cls=Command, rich_help_panel=EXCHANGE)
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE... RUN",
            help="The history, then the folder of the new run. Histories: event files or their folder,"
            " trainer_state.json, JSON lines or lists, CSV, Parquet, an offline .wandb file, MLflow's mlruns folder"
            " or database, trackio's database, or printed text (.log, .txt, .out, .ipynb).",
        ),
    ],
    norm: Annotated[str | None, typer.Option(help="Column or tag of the gradient norm.")] = None,
    step: Annotated[str | None, typer.Option(help="Column of the step.")] = None,
    loss: Annotated[str | None, typer.Option(help="Column or tag of the loss.")] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="PREFIX",
            help="Columns or tags that begin so are norms of layers, for example gradients/. Default: the usual names.",
        ),
    ] = None,
    optimizer_class: Annotated[
        str, typer.Option("--optimizer", help="Class of the optimizer, for example AdamW.")
    ] = "",
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help=r"Regular expression for lines of printed text, with the group norm or loss and optionally step, lr"
            r" and reward, for example 'step (?P<step>\d+).*norm (?P<norm>\S+)'.",
        ),
    ] = None,
    of: Annotated[
        str | None,
        typer.Option("--of", metavar="RUN", help="Name or id of the run, if MLflow's or trackio's files hold several."),
    ] = None,
    moment: Annotated[
        str | None, typer.Option(help="When the norms were measured: 'before clipping' or 'after clipping'.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with the training's settings (JSON, YAML, TOML, Python). Default: the usual one beside the log.",
        ),
    ] = None,
) -> None:
    """Make a run from a history that another tool recorded."""
    commands.import_history.import_history(
        files, norm, step, loss, optimizer_class, moment, pattern, of, config, layers
    )


@app.command(cls=Command, rich_help_panel=EXCHANGE)
def mcp(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder that contains runs. The server reads nothing outside it.")
    ] = Path("runs"),
) -> None:
    """Serve runs to a coding agent over the Model Context Protocol, read-only."""
    commands.mcp.mcp(folder)


@app.command(context_settings=SCRIPT_SETTINGS, cls=Command, rich_help_panel=RECORD)
def doctor(
    arguments: ScriptArguments,
    steps: Annotated[int, typer.Option(min=2, help="Stop the script after this many optimizer steps.")] = 5,
    module: AsModule = False,
    json: AsJson = False,
) -> None:
    """Run a training script for a few steps and report what gradwatch can observe."""
    commands.doctor.doctor(arguments, steps, module, json)


@app.command(context_settings=SCRIPT_SETTINGS, cls=Command, rich_help_panel=RECORD)
def tune(
    arguments: ScriptArguments,
    steps: Annotated[int, typer.Option(min=8, help="Optimizer steps of the longest runs.")] = 1000,
    budget: Annotated[float, typer.Option(help="Total cost, in runs of --steps steps.")] = 7,
    folder: Annotated[
        Path | None, typer.Option("--run", help="Folder for the runs. Default: runs/tune-<script>.")
    ] = None,
    judge_by: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help=r"Instead of the training loss, judge by the numbers that this pattern matches in the script's output,"
            r" for example 'held out (\S+)'. Lower is better.",
        ),
    ] = None,
    module: AsModule = False,
    json: AsJson = False,
) -> None:
    """Find a script's clipping threshold by experiment: short runs first, longer ones for the best thresholds."""
    commands.tune.tune(arguments, steps, budget, folder, judge_by, module, json)


@app.command(context_settings=SCRIPT_SETTINGS, cls=Command, rich_help_panel=JUDGE)
def replay(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN [SCRIPT [ARGS]...]",
            help="Folder of a run or of a capture, or a bundle; then the training script and its arguments. Without a"
            " script, print the last result. Default: the newest run with captures.",
        ),
    ] = None,
    step: Annotated[int | None, typer.Option(min=0, help="Step of the capture. Default: the first.")] = None,
    optimizer: Annotated[str | None, typer.Option("--optimizer", help="Optimizer of the capture.")] = None,
    module: AsModule = False,
    json: AsJson = False,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="FILE", help="Pack the capture and its replay into a ZIP file."),
    ] = None,
) -> None:
    """Replay a captured step: whether it happens again, where it begins, and which rows of the batch caused it.

    gradwatch runs the script until it calls its model, and ends it there. Options may come before or after RUN;
    those after SCRIPT are passed to the script.
    """
    options = commands.replay.Options(step=step, optimizer=optimizer, module=module, json=json, bundle=bundle)
    commands.replay.replay(arguments or (), options)


@app.command(cls=Command, rich_help_panel=RECORD)
def demo(
    folder: Annotated[Path, typer.Option("--runs", help="Folder for the two runs.")] = Path("runs"),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each training.")] = 8000,
    seed: Annotated[int, typer.Option(help="Seed of the weights and the data.")] = 0,
) -> None:
    """Train a small RNN until it explodes, get a threshold, and train again with it."""
    commands.demo.demo(folder, steps, seed)


@app.command(cls=Command, rich_help_panel=EXCHANGE)
def config(
    json: AsJson = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also list the options that have only a built-in default.")
    ] = False,
) -> None:
    """List the defaults set in pyproject.toml and GRADWATCH_* variables, and where each one is set."""
    commands.config.config(json, everything)
