"""Every command with its arguments, options and help. The work is done in `gradwatch.cli.commands`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from gradwatch import __version__
from gradwatch.cli import commands, defaults

app = typer.Typer(
    help="The flight recorder for gradients.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RECORD, READ, JUDGE, MANY, EXCHANGE = "Record", "Read a run", "Judge", "Many runs", "Exchange and set up"
"""The groups of commands in the help."""


class Command(TyperCommand):
    """A command that says on stderr which options have a default of the user's."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        used = defaults.used_defaults(ctx, os.environ)
        if used and os.environ.get("RANK", "0") == "0":  # of the processes that torchrun starts, one says it
            typer.echo(f"gradwatch: {', '.join(used)}", err=True)
        return super().invoke(ctx)


# Options after SCRIPT belong to the script.
SCRIPT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}

RunPath = Annotated[
    Path | None, typer.Argument(metavar="RUN", help="Folder of a run. Default: the newest under runs/.")
]
ScriptArguments = Annotated[
    list[str], typer.Argument(metavar="SCRIPT [ARGS]...", help="A training script with its own arguments.")
]
AsModule = Annotated[bool, typer.Option("-m", help="SCRIPT is the name of a module, as in `python -m`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OptimizerName = Annotated[
    str | None,
    typer.Option(
        "--optimizer", help="Name of an optimizer. Default: the one with the gravest finding, else the first."
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
        typer.Option(help="Clip by norm at this threshold instead of the script's own; inf disables clipping by norm."),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="Clip by a policy instead of the script's own clip calls: a threshold of the norm, or NAME or"
            " NAME:NUMBER with norm, value, layer-norm, auto, quantile, zclip, agc, adagc or skip-outliers.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop the script after this many optimizer steps.")] = None,
    stop_on: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="End the script, with exit code 3, at this kind of event; may be repeated."),
    ] = None,
    skip_nonfinite: Annotated[
        bool, typer.Option("--skip-nonfinite", help="Skip an update whose gradients hold a NaN or an infinity.")
    ] = False,
    every: Annotated[int, typer.Option(min=1, help="Record each step whose number this divides.")] = 1,
    ranks: Annotated[
        bool, typer.Option("--ranks", help="Under torchrun, record every rank before gradients are reduced.")
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
            help="Send a message for each fault, and when the training stands still, by apprise: slack://..., mailto://...,"
            " json://host; may be repeated. Better set GRADWATCH_RUN_NOTIFY: other users see a command line.",
        ),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write scalars as event files.")] = False,
    recorder: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="Write the run in a thread of the script, or in a process of its own: thread or process. With process,"
            " a script that is killed loses no step.",
        ),
    ] = "thread",
    capture: Annotated[
        bool, typer.Option("--capture", help="Keep the first bad steps with inputs and weights, to be replayed.")
    ] = False,
    capture_without_weights: Annotated[
        bool, typer.Option("--capture-without-weights", help="The same with inputs and without weights and gradients.")
    ] = False,
) -> None:
    """Run a training script and record it. Without an option that clips or skips, it trains as it would alone."""
    options = commands.run.RunOptions(
        max_norm=max_norm,
        clip=clip,
        steps=steps,
        stop_on=tuple(stop_on or ()),
        skip_nonfinite=skip_nonfinite,
        every=every,
        ranks=ranks,
        to=tuple(to or ()),
        notify=tuple(notify or ()),
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
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page for the browser, in one file.")
    ] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Write the report as an SVG picture.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="Write the report as a PNG picture (gradwatch[png]).")
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
            help="Send a message for each new fault, if the training stands still and if it dies, to an address of"
            " apprise, for example slack://... or mailto://...; may be repeated. Without a terminal it then follows"
            " the run to its end.",
        ),
    ] = None,
    stalled_after: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Seconds without a step that count as standing still; 0: never."),
    ] = 600.0,
) -> None:
    """Show a run's report and update it while training writes; q or Ctrl-C quits."""
    commands.watch.watch(run, every, notify or [], stalled_after)


@app.command(cls=Command, rich_help_panel=READ)
def view(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="Folder of a run, or of several. Default: all under runs/."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Show runs in a browser, live, without TensorBoard; Ctrl-C ends it.

    The page is served to this machine only, at an address with a random part.
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
        list[int] | None, typer.Option("--delete", metavar="STEP", help="Delete the captures of this step; repeatable.")
    ] = None,
) -> None:
    """List the bad steps that a run has kept to be replayed (`gradwatch run --capture`), or delete some."""
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
            help="The threshold after a change, with its reason: lr=3e-4, batch=OLD:NEW, weight_decay=0.1 or"
            " optimizer=AdamW; may be repeated.",
        ),
    ] = None,
) -> None:
    """Recommend a clipping threshold, with reasons and a what-if table.

    Several runs of one training, for example with other seeds, get one recommendation for all.
    """
    commands.recommend.recommend(runs or [], json, optimizer, given or [])


@app.command(cls=Command, rich_help_panel=MANY)
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs.")],
    json: AsJson = False,
) -> None:
    """Show runs side by side, and the step and the parameter in which each first differs from the first run."""
    commands.compare.compare(runs, json)


@app.command(cls=Command, rich_help_panel=JUDGE)
def check(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN...", help="Folders of runs, or of folders that hold runs. Default: the newest under runs/."
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
            help="Fail only on this finding or kind of event, or from this severity (warning, critical); may be"
            " repeated."
        ),
    ] = None,
    max_clipped_fraction: Annotated[
        float | None, typer.Option(min=0, max=1, help="Fail if a larger share of the steps was clipped.")
    ] = None,
    min_steps: Annotated[
        int | None, typer.Option(min=0, help="Fail if fewer steps are recorded. Default: too few to judge.")
    ] = None,
    allow_unfinished: Annotated[
        bool,
        typer.Option("--allow-unfinished", help="Pass a run that was ended by an exception, a signal or a kill."),
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
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder that holds runs, at any depth.")] = Path(
        "runs"
    ),
    json: AsJson = False,
    sort: Annotated[
        str,
        typer.Option(metavar="NAME", help="Column to sort by; -NAME puts the largest first. age: the youngest first."),
    ] = "age",
    chosen: Annotated[
        str | None,
        typer.Option(
            "--filter",
            metavar="EXPR",
            help="Show only these runs, for example 'verdict != \"healthy\" and lr > 1e-3 and config.depth == 4'.",
        ),
    ] = None,
    most: Annotated[int | None, typer.Option(min=1, help="Show only the first of them.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Show what the index in the folder holds, and compute nothing.")
    ] = False,
) -> None:
    """List the runs below a folder: verdict, steps, loss, first fault, settings."""
    commands.ls.ls(folder, json, sort, chosen, most, quick)


@app.command(cls=Command, rich_help_panel=MANY)
def rm(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete runs. One that is being recorded stays, and so does every file that gradwatch did not write."""
    commands.manage.rm(runs, yes)


@app.command(cls=Command, rich_help_panel=MANY)
def mv(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    target: Annotated[Path, typer.Argument(metavar="TO", help="New name, or a folder to move it into.")],
) -> None:
    """Rename or move a run. One that is being recorded stays."""
    commands.manage.mv(run, target)


@app.command(cls=Command, rich_help_panel=MANY)
def compact(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
) -> None:
    """Make runs smaller without a change to any row. One that is being recorded stays as it is."""
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
    code: Annotated[str | None, typer.Argument(metavar="CODE", help="Code of a finding. Default: list them.")] = None,
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
        typer.Option(help="steps, events, or a statistic of every layer: norm, abs_max, nonfinite, zeros, ..."),
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
        bool, typer.Option("--parquet", help="Write whole runs as a Parquet data set, partitioned by run and attempt.")
    ] = False,
) -> None:
    """Write steps, events or layer statistics as CSV or Parquet, or scalars for TensorBoard."""
    commands.export.export(paths, what, tensorboard, parquet, to or [])


@app.command("import", cls=Command, rich_help_panel=EXCHANGE)
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE... RUN",
            help="Event files or their folder, trainer_state.json, JSON lines or lists, CSV, Parquet, an offline .wandb"
            " file, MLflow's mlruns folder or database, trackio's database, or printed text (.log, .txt, .out); then"
            " the folder of the new run.",
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
            help=r"Lines of printed text, with the groups norm and, if there, step, loss and lr, for example"
            r" 'step (?P<step>\d+).*norm (?P<norm>\S+)'.",
        ),
    ] = None,
    of: Annotated[
        str | None,
        typer.Option(
            "--of", metavar="RUN", help="Name or id of the run, where MLflow's or trackio's files have several."
        ),
    ] = None,
    moment: Annotated[
        str | None, typer.Option(help="When the norms were measured: 'before clipping' or 'after clipping'.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with the training's settings (JSON, YAML, TOML, Python), not the usual one beside the log.",
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
        Path, typer.Argument(metavar="FOLDER", help="Folder that holds runs; nothing outside of it is read.")
    ] = Path("runs"),
) -> None:
    """Answer the questions of a coding agent about runs, over the Model Context Protocol; read-only."""
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
            help=r"Judge by the numbers that this pattern matches in the script's output, for example"
            r" 'held out (\S+)', instead of the training loss. Lower is better.",
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
        list[str],
        typer.Argument(
            metavar="RUN [SCRIPT [ARGS]...]",
            help="Folder of a run, of a capture, or a bundle; then the training script with its own arguments."
            " Without a script, the last result is printed.",
        ),
    ],
    step: Annotated[int | None, typer.Option(min=0, help="Step of the capture. Default: the first.")] = None,
    optimizer: Annotated[str | None, typer.Option("--optimizer", help="Optimizer of the capture.")] = None,
    module: AsModule = False,
    json: AsJson = False,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="FILE", help="Pack the capture and its replay into a ZIP file."),
    ] = None,
) -> None:
    """Replay a captured step: does it happen again, where does it begin, which rows did it.

    The script runs as it is until it calls its model, and is ended there. Options may stand before or after RUN;
    those after SCRIPT belong to the script.
    """
    options = commands.replay.Options(step=step, optimizer=optimizer, module=module, json=json, bundle=bundle)
    commands.replay.replay(arguments, options)


@app.command(cls=Command, rich_help_panel=RECORD)
def demo(
    folder: Annotated[Path, typer.Option("--runs", help="Folder for the two runs.")] = Path("runs"),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each training.")] = 8000,
    seed: Annotated[int, typer.Option(help="Seed of the weights and the data.")] = 0,
) -> None:
    """Train a small RNN until it explodes, get a threshold, train again with it."""
    commands.demo.demo(folder, steps, seed)


@app.command(cls=Command, rich_help_panel=EXCHANGE)
def config(
    json: AsJson = False,
    everything: Annotated[bool, typer.Option("--all", help="List the options with built-in defaults too.")] = False,
) -> None:
    """List the defaults that pyproject.toml and GRADWATCH_* variables set, and where each one stands."""
    commands.config.config(json, everything)
