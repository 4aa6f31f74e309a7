"""How large are updates beside their weights, by type of layer, and where does the bound of the finding lie?

    python benchmarks/detection/proportions.py [--split tuning,unseen] [--seeds 2]

Healthy trainings of the corpus, 150 steps of AdamW and of SGD with momentum each. `update_ratio` is the median over the
second half of each training. "times the others" is what `updates-out-of-proportion` compares with its bound: the update
of a matrix beside its first norm, over the median of the others of its type, or of all but embeddings where a model has
few of a type. Gains and biases are compared with nothing. "head" is the last matrix of a model, which the rule takes as
its type says. A matrix is told as too fast beyond the bound, if the update is 0.5% of its present norm as well.

Then one matrix of each type learns at a hundred times the rate of the others: "told" counts those that are named, and
"others" the other matrices that are.

The bounds were chosen on the tasks of `TUNING`, with other faults and before this script, and on none of `UNSEEN`.
proportions.txt is the printed table.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import tasks
import torch
from tasks import Task, Variant

import gradwatch
from gradwatch.analysis.statistics import proportions
from gradwatch.analysis.statistics.proportions import OF_EMBEDDINGS, TIMES, layer_type, median_of_others

STEPS, EVERY, FASTER = 150, 5, 100.0
RATES = {"adamw": 2e-3, "momentum": 0.05}
TUNING: dict[str, Callable[[Variant], Task]] = {
    name: getattr(tasks, name) for name in ("char_lstm", "transformer_lm", "mlp_digits", "cnn_digits")
}
UNSEEN: dict[str, Callable[[Variant], Task]] = {
    name: getattr(tasks, name) for name in ("masked_lm", "conv_text", "sort_gru", "resnet_digits")
}


class Matrix(NamedTuple):
    """One parameter of one training."""

    kind: str
    ratio: float
    times: float


def train(
    make: Callable[[Variant], Task], optimizer: str, seed: int, faster: str | None, folder: Path
) -> gradwatch.Run:
    """One training; the parameter ``faster`` learns at a higher rate."""
    torch.manual_seed(seed)
    task = make(Variant())
    named = dict(task.model.named_parameters())
    groups = [{"params": [p for name, p in named.items() if name != faster], "lr": RATES[optimizer]}]
    if faster is not None:
        groups.append({"params": [named[faster]], "lr": FASTER * RATES[optimizer]})
    stepper = torch.optim.AdamW(groups) if optimizer == "adamw" else torch.optim.SGD(groups, momentum=0.9)
    with gradwatch.attach(task.model, stepper, folder, weights_every=EVERY):
        for step in range(STEPS):
            task.players[0].loss(task.batch(step / STEPS)).backward()
            torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
            stepper.step()
            stepper.zero_grad()
    return gradwatch.Run(folder)


def norms_of(run: gradwatch.Run) -> tuple[pd.Series[float], pd.Series[float], pd.Series[float]]:
    """First norm, later norm and later update of each parameter, as the finding reads them."""
    weights, updates = run.layers("weight_norm"), run.layers("update_norm")
    later = slice(len(weights) // 2, None)
    return weights.iloc[0], weights.iloc[later].median(), updates.iloc[later].median()


def parameters_of(run: gradwatch.Run) -> list[Matrix]:
    """The parameters of a training, by type, with what the rule compares."""
    infos = run.parameters()
    first, weights, updates = norms_of(run)
    kinds = {info.name: layer_type(info) for info in infos}
    matrices = [name for name, kind in kinds.items() if kind is not None]
    beside_first = updates[matrices] / first[matrices]
    found = []
    for name, kind in kinds.items():
        ratio = float(updates[name] / weights[name])
        if kind is None:
            found.append(Matrix("gains and biases", ratio, np.nan))
            continue
        alike = [other for other in matrices if kinds[other] == kind]
        if len(alike) <= proportions.ENOUGH:
            alike = [other for other in matrices if kinds[other] != "embedding" or other == name]
        usual = median_of_others(np.asarray(beside_first[alike], np.float64)[None])[0, alike.index(name)]
        shown = "head" if name == matrices[-1] else kind
        found.append(Matrix(shown, ratio, float(beside_first[name] / usual)))
    return found


def named_by_rule(run: gradwatch.Run) -> set[str]:
    return {one.name for one in proportions.out_of_proportion(run.parameters(), *norms_of(run)) if one.is_large}


def quantiles(values: Iterable[float]) -> str:
    known = [value for value in values if np.isfinite(value)]
    return "".join(f"{q:>9.2g}" for q in np.quantile(known, [0, 0.5, 0.95, 1])) if known else f"{'-':>9}" * 4


def report(split: str, chosen: dict[str, Callable[[Variant], Task]], seeds: int, place: Path) -> None:
    healthy: defaultdict[str, list[Matrix]] = defaultdict(list)
    false, runs = 0, 0
    faults: defaultdict[str, list[tuple[bool, int]]] = defaultdict(list)
    for make in chosen.values():
        for optimizer in RATES:
            for seed in range(seeds):
                run = train(make, optimizer, seed, None, place / f"{runs}")
                for one in parameters_of(run):
                    healthy[one.kind].append(one)
                false, runs = false + len(named_by_rule(run)), runs + 1
            of_kind = {layer_type(info): info.name for info in reversed(run.parameters())}
            for kind, name in of_kind.items():
                if kind is not None:
                    told = named_by_rule(train(make, optimizer, seeds, name, place / f"{runs}{kind}"))
                    faults[kind].append((name in told, len(told - {name})))
    print(f"\n{split}: {', '.join(chosen)}; {runs} healthy trainings, {false} matrices told in them")
    heads = f"{'update_ratio: least, median, 95%, most':>40}{'times the others: the same':>38}{'bound':>8}"
    print(f"{'':<22}{heads}")
    for label, found in sorted(healthy.items()):
        bound = "-" if label == "gains and biases" else f"{OF_EMBEDDINGS if label == 'embedding' else TIMES:g}"
        ratios, times = quantiles(one.ratio for one in found), quantiles(one.times for one in found)
        print(f"{label:<18}{len(found):>4}{ratios:>40}{times:>38}{bound:>8}")
    for label, each in sorted(faults.items()):
        named, others = sum(hit for hit, _ in each), sum(extra for _, extra in each)
        print(f"{label} at {FASTER:g} times the rate: {named} of {len(each)} told, {others} others")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--split", default="tuning,unseen")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for split in options.split.split(","):
        with tempfile.TemporaryDirectory() as place:
            report(split, TUNING if split == "tuning" else UNSEEN, options.seeds, Path(place))


if __name__ == "__main__":
    main()
