"""Ask one question of ten thousand runs: which exploded, in which layer first, by threshold, optimizer and rate?

    python benchmarks/ten_thousand_runs.py [RUNS] | tee benchmarks/ten_thousand_runs.txt

Forty small trainings of 300 steps are recorded: two optimizers, four thresholds, five learning rates. Each is copied
until there are as many runs as were asked for, which makes them as many to read, but no more different. All of them are
exported as one Parquet data set: once whole, then with nothing new, with one run changed, and with ten runs more. The
question is then answered by DuckDB and by Dask with two workers, whose start counts. "busy" is the time of the
processors in the process that exports or asks, for other programs may use the machine as well.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

import gradwatch
from gradwatch.export.dataset import write_dataset

STEPS = 300
OPTIMIZERS = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}
THRESHOLDS = (None, 10.0, 1.0, 0.1)
RATES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)


def record(folder: Path, optimizer_class: str, threshold: float | None, rate: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = OPTIMIZERS[optimizer_class](model.parameters(), lr=rate)
    with gradwatch.attach(model, optimizer, folder, weights_every=0, updates_every=0) as watch:
        for _ in range(STEPS):
            x = torch.randn(32, 16)
            loss = (model(x) - x.square().sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if threshold is not None:
                nn.utils.clip_grad_norm_(model.parameters(), threshold)
            optimizer.step()
            watch.log(loss=loss)


def make(folder: Path, count: int) -> None:
    """Record each kind once, and copy them in turn."""
    kinds = [*itertools.product(OPTIMIZERS, THRESHOLDS, RATES)]
    for number in range(count):
        target = folder / f"run{number:05d}"
        if number < len(kinds):
            record(target, *kinds[number])
        else:
            shutil.copytree(folder / f"run{number % len(kinds):05d}", target)


@contextmanager
def timed(what: str) -> Iterator[None]:
    wall, busy = time.perf_counter(), time.process_time()
    yield
    print(f"{what:<44}{time.perf_counter() - wall:>8.1f} s{time.process_time() - busy:>8.1f} s busy", flush=True)


def describe(target: Path) -> str:
    files = [path for path in target.rglob("*.parquet") if path.is_file()]
    return f"  {len(files):,} files, {sum(path.stat().st_size for path in files) / 1e6:,.0f} MB"


def ask_duckdb(target: Path) -> str:
    import duckdb

    runs, events = (f"read_parquet('{target}/{name}.parquet/*.parquet')" for name in ("runs", "events"))
    first = f"select run, min_by(parameter, step) as layer from {events} where severity = 'critical' group by run"
    groups = "optimizer_class, learning_rate, max_norm"
    return str(
        duckdb.sql(
            f"select {groups}, count(*) as runs, count(first.run) as exploded, mode(layer) as first_layer"
            f" from {runs} left join ({first}) as first using (run)"
            f" group by {groups} order by exploded desc, {groups} limit 10"
        )
    )


def ask_dask(target: Path) -> str:
    import dask.dataframe as dd
    from dask.distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        events = dd.read_parquet(f"{target}/events.parquet", columns=["step", "severity", "parameter", "run"])
        columns = ["optimizer_class", "learning_rate", "max_norm", "run"]
        runs = dd.read_parquet(f"{target}/runs.parquet", columns=columns)
        critical, table = client.compute([events[events["severity"] == "critical"], runs], sync=True)
    first = critical.sort_values("step").groupby("run", as_index=False).first()  # the first known layer
    table = table.merge(first, on="run", how="left")
    groups = table.groupby(["optimizer_class", "learning_rate", "max_norm"], dropna=False)
    found = groups.agg(runs=("run", "size"), exploded=("step", "count"), first_layer=("parameter", "first"))
    return str(found.sort_values("exploded", ascending=False).head(10))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder, target = Path(place) / "runs", Path(place) / "data"
        make(folder, count + 10)
        later = folder.parent / "later"
        later.mkdir()
        for number in range(count, count + 10):
            shutil.move(folder / f"run{number:05d}", later)
        print(f"{count:,} runs of {STEPS} steps")
        with timed("export"):
            write_dataset([folder], str(target))
        print(describe(target))
        with timed("export, nothing new"):
            assert write_dataset([folder], str(target)).runs == 0
        (folder / "run00000" / "gradwatch.db").touch()
        with timed("export, 1 run written again"):
            assert write_dataset([folder], str(target)).runs == 1
        for run in later.iterdir():
            shutil.move(run, folder)
        with timed("export, 10 runs more"):
            assert write_dataset([folder], str(target)).runs == 10
        print(describe(target))
        for name, ask in (("DuckDB", ask_duckdb), ("Dask, two workers", ask_dask)):
            with timed(f"the question, {name}"):
                answer = ask(target)
            print(answer)


if __name__ == "__main__":
    main()
