"""A character LSTM that learns to write Python, recorded from the first step to the last.

    python examples/char_rnn.py                      # about a minute on 2 cores
    gradwatch report runs/char-rnn

The text is the source of Python's standard library. The script clips with PyTorch's `clip_grad_norm_`, and gradwatch
records each gradient before it clips.
"""

import argparse
import sysconfig
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

import gradwatch

BATCH, LENGTH, UNITS = 32, 64, 128


class CharLSTM(nn.Module):
    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, 32)
        self.lstm = nn.LSTM(32, UNITS, num_layers=2, batch_first=True)
        self.out = nn.Linear(UNITS, symbols)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(self.embedding(text))
        return self.out(states)


def standard_library(characters: int) -> str:
    """The first ASCII characters of the standard library's source, file by file in alphabetical order."""
    text = ""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += path.read_text(encoding="utf-8", errors="ignore")
        if len(text) >= characters:
            break
    return text.encode("ascii", "ignore").decode()[:characters]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", default="runs/char-rnn")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--max-norm", type=float, default=1.0)
    options = parser.parse_args()

    torch.manual_seed(0)
    text = standard_library(1_000_000)
    symbols = sorted(set(text))
    number = {symbol: i for i, symbol in enumerate(symbols)}
    data = torch.tensor([number[symbol] for symbol in text])

    model = CharLSTM(len(symbols))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    with gradwatch.attach(model, optimizer, options.run) as watch:
        for step in range(options.steps):
            starts = torch.randint(len(data) - LENGTH - 1, (BATCH, 1))
            batch = data[starts + torch.arange(LENGTH + 1)]
            logits = model(batch[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(model.parameters(), options.max_norm)
            optimizer.step()
            watch.log(loss=loss)
            if step % 100 == 0:
                print(f"step {step:>5}  loss {loss.item():.3f}")
    print(f"recorded {watch.steps} steps; gradwatch report {options.run}")


if __name__ == "__main__":
    main()
