"""`gradwatch export`."""

from __future__ import annotations

from pathlib import Path

from gradwatch.cli.output import open_run
from gradwatch.cli.printing import print_lines
from gradwatch.errors import BadArgument
from gradwatch.export.dataset import write_dataset
from gradwatch.export.scalars import write_scalars
from gradwatch.export.table import write_table
from gradwatch.export.trackers import send_run
from gradwatch.sinks.targets import trackers
from gradwatch.text import count


def export(
    paths: list[str],
    what: str,
    tensorboard: Path | None,
    parquet: bool,
    to: list[str],
    keep_deleted: bool = False,
) -> None:
    """Write a run as a table or as event files, or several runs as a data set."""
    if parquet:
        _export_dataset(paths, keep_deleted)
        return
    if keep_deleted:
        raise BadArgument("--keep-deleted was given without --parquet; expected both.")
    path, *files = paths
    targets = trackers(to)
    if not files and tensorboard is None and not to:
        raise BadArgument("no target was given; expected a file, --to and a tracker, or --tensorboard and a folder.")
    if len(files) > 1:
        raise BadArgument(f"{len(paths)} paths were given; expected a run and a file, or --parquet for several runs.")
    for file in files:
        rows = write_table(open_run(Path(path)), Path(file), what)
        print_lines(f"wrote {count(rows, 'row')} to {file}")
    if tensorboard is not None:
        steps = write_scalars(open_run(Path(path)), tensorboard)
        print_lines(f"wrote the scalars of {count(steps, 'step')} to {tensorboard}")

    for tracker in targets:
        steps = send_run(open_run(Path(path)), tracker)
        print_lines(f"sent {count(steps, 'step')} to {tracker.label}")


def _export_dataset(paths: list[str], keep_deleted: bool) -> None:
    *folders, target = [*paths]
    if not folders:
        raise BadArgument("only one path was given; expected runs, then the folder or URL of the data set.")
    for folder in folders:
        if not Path(folder).exists():
            open_run(Path(folder))  # raises the error that names the fault
    done = write_dataset([Path(folder) for folder in folders], target, keep_deleted=keep_deleted)
    if done.from_version_1:
        print_lines(f"{target} had the layout of an older version, and was written again")
    unchanged = f"; {count(done.unchanged, 'run')} unchanged" if done.unchanged else ""
    removed = f"; removed {count(done.removed, 'run')} no longer there" if done.removed else ""
    print_lines(f"wrote {count(done.runs, 'run')} to {target}{unchanged}{removed}")
