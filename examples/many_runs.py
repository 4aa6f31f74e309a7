"""A thousand small trainings, and one question about all of them, answered by Dask.

    pip install 'gradwatch[parquet]' 'dask[dataframe,distributed]'
    python examples/many_runs.py             # a few minutes on 2 cores; --runs 50 for a short one

Which runs exploded, in which layer first, and at which threshold? Each run trains a small network with its own learning
rate and clipping threshold. The script exports the runs as a Parquet data set, and a local cluster reads it. A real
cluster differs only in its address.
"""

import argparse
import time
from pathlib import Path

import dask.dataframe as dd
import torch
from dask.distributed import Client, LocalCluster
from torch import nn

import gradwatch
from gradwatch.export.dataset import write_dataset

STEPS = 60


def train(folder, number):
    torch.manual_seed(number)
    layers = [part for _ in range(4) for part in (nn.Linear(16, 16), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(16, 1))
    learning_rate = 10 ** (-2.5 + 2 * torch.rand(1).item())
    threshold = [None, 10.0, 1.0, 0.1][number % 4]
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    with gradwatch.attach(model, optimizer, folder / f"run{number:04d}", weights_every=0) as watch:
        for _ in range(STEPS):
            x = torch.randn(32, 16)
            loss = (model(x) - x.square().sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if threshold is not None:
                nn.utils.clip_grad_norm_(model.parameters(), threshold)
            optimizer.step()
            watch.log(loss=loss)


def ask(target):
    """Print where each run's first critical event began, and at which threshold. The cluster filters, pandas counts."""
    events = dd.read_parquet(f"{target}/events.parquet", columns=["step", "severity", "parameter", "run"])
    runs = dd.read_parquet(f"{target}/runs.parquet", columns=["max_norm", "run"])
    layers = dd.read_parquet(f"{target}/layers.parquet", columns=["parameter", "norm"])
    critical, table, largest = dd.compute(
        events[events["severity"] == "critical"], runs, layers.groupby("parameter")["norm"].max(split_out=1)
    )
    first = critical.sort_values("step").drop_duplicates("run")
    table = table.merge(first, on="run", how="left")
    table["threshold"] = table["max_norm"].map("{:g}".format).replace("nan", "none")
    exploded = table[table["step"].notna()]
    share = exploded.groupby("threshold").size().div(table.groupby("threshold").size(), fill_value=0)
    print("share of runs that exploded, by threshold:")
    print(share.map("{:.0%}".format).to_string(header=False))
    print("\nwhere it began:")
    print(exploded["parameter"].fillna("all layers alike").value_counts().to_string(header=False))
    print("\nlargest norm of each layer in any run:")
    print(largest.map("{:.3g}".format).to_string(header=False))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    count = parser.parse_args().runs
    folder, target = Path("runs/many"), "runs/many-parquet"
    torch.set_num_threads(1)
    began = time.monotonic()
    for number in range(count):
        train(folder, number)
    trained = time.monotonic()
    written = write_dataset([folder], target).runs
    exported = time.monotonic()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        ready = time.monotonic()
        ask(target)
        answered = time.monotonic()
    print(
        f"\n{written} runs: trained in {trained - began:.0f} s, exported in {exported - trained:.0f} s,"
        f" answered in {answered - ready:.1f} s"
    )


if __name__ == "__main__":
    main()
