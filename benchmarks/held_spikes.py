"""How often is a spike that stays in the momentum told, and how well is the number of steps that it stays?

    python benchmarks/held_spikes.py [--split tuning,unseen]

Small trainings in which the gradient of one batch is multiplied, each beside the same training without it. The momentum
holds the spike as long as the update of the one is at least twice that of the other, step by step: that is the truth,
from the two trainings and not from the detector. A threshold of clipping that takes the spike away is the near case.
Steps of the trainings without a spike count for false events.

The limits of `HeldSpike` were chosen on the tasks of `TUNING` and fixed before those of `UNSEEN` were run.
held_spikes.txt is the printed table.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lead_time import Rows, Sine, Words
from torch import nn

import gradwatch
from gradwatch.detect import HeldSpike

STEPS, AT = 400, 250
DOSES = (10.0, 100.0, 1000.0)
TWICE = 2.0

Optimizer = Callable[..., torch.optim.Optimizer]
OPTIMIZERS: dict[str, Optimizer] = {
    "SGD, momentum 0.9": functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "SGD, momentum 0.98": functools.partial(torch.optim.SGD, lr=0.002, momentum=0.98),
    "AdamW": functools.partial(torch.optim.AdamW, lr=1e-3),
    "Adam, beta1 0.95": functools.partial(torch.optim.Adam, lr=1e-3, betas=(0.95, 0.99)),
}
TUNING: dict[str, Callable[[], nn.Module]] = {"rows": Rows}
UNSEEN: dict[str, Callable[[], nn.Module]] = {
    "words": Words,
    "gru": lambda: Words(recurrent=True),
    "relu": lambda: Sine(3, nn.ReLU),
}


def train(make: Callable[[], nn.Module], optimizer: Optimizer, dose: float, folder: Path, clip: bool) -> gradwatch.Run:
    """One training; a dose of 1 is none."""
    torch.manual_seed(0)
    model = make()
    stepper = optimizer(model.parameters())
    norms: list[float] = []
    with gradwatch.attach(model, stepper, folder, updates_every=1):
        for step in range(STEPS):
            stepper.zero_grad()
            loss = model.loss()  # type: ignore[operator]
            (loss * (dose if step == AT else 1.0)).backward()
            limit = 2.0 * float(np.median(norms[-100:])) if clip and step >= AT else 1e9
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), limit)))
            stepper.step()
    return gradwatch.Run(folder)


def held_steps(spiked: gradwatch.Run, usual: gradwatch.Run) -> int:
    """Steps after the spike at which the update is at least twice that of the training without it, in a row."""
    ratio = (spiked.steps()["update_norm"] / usual.steps()["update_norm"]).to_numpy()[AT + 1 :]
    small = np.flatnonzero(~(ratio >= TWICE))
    return int(small[0]) if len(small) else len(ratio)


def told_steps(run: gradwatch.Run) -> int:
    """The same as the detector tells it; 0 where it raises nothing."""
    detector, until = HeldSpike(), {}
    for record in run.records():
        for event in detector.update(record):
            until[event.step] = event.until or event.step
    return max((last - AT for first, last in until.items() if AT < first <= AT + 100), default=0)


def false_events(run: gradwatch.Run) -> int:
    detector = HeldSpike()
    return sum(event.until is None for record in run.records() for event in detector.update(record))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--split", default="tuning,unseen")
    torch.set_num_threads(1)
    for split in parser.parse_args().split.split(","):
        tasks = TUNING if split == "tuning" else UNSEEN
        heads = f"{'told':>10}{'not held':>12}{'clipped':>10}{'error of the steps':>22}{'false':>16}"
        print(f"\n{split}: {', '.join(tasks)}\n{'':<22}{heads}")
        total = 0
        for name, optimizer in OPTIMIZERS.items():
            found, held, quiet, still, clipped, errors, false = 0, 0, 0, 0, 0, [], 0
            for make in tasks.values():
                with tempfile.TemporaryDirectory() as place:
                    usual = train(make, optimizer, 1.0, Path(place) / "usual", clip=False)
                    false += false_events(usual)
                    for dose in DOSES:
                        spiked = train(make, optimizer, dose, Path(place) / f"{dose}", clip=False)
                        truth, told = held_steps(spiked, usual), told_steps(spiked)
                        held, found = held + (truth > 0), found + (truth > 0 and told > 0)
                        quiet, still = quiet + (truth == 0), still + (truth == 0 and told > 0)
                        errors += [abs(told - truth)] if truth and told else []
                        clipped += told_steps(train(make, optimizer, dose, Path(place) / f"clip{dose}", clip=True)) > 0
            total += false
            error = f"median {np.median(errors):.0f}, most {max(errors)}" if errors else "-"
            print(
                f"{name:<22}{f'{found} of {held}':>10}{f'{still} of {quiet}':>12}"
                f"{f'{clipped} of {3 * len(tasks)}':>10}{error:>22}{f'{false} in {STEPS * len(tasks)}':>16}",
                flush=True,
            )
        steps = STEPS * len(tasks) * len(OPTIMIZERS)
        print(f"false events for 10,000 steps without a spike: {1e4 * total / steps:.1f}")


if __name__ == "__main__":
    main()
