"""A small GPT-2 reads the source of Python's standard library, trained by Hugging Face's Trainer.

    pip install transformers accelerate
    python examples/transformers_stdlib.py
    gradwatch report runs/transformers-stdlib

It clips at 1.0, the Trainer's default, and takes a few seconds.
"""

import argparse
import json
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from gradwatch.integrations.transformers import GradWatchCallback


class Source(Dataset):
    """Windows of bytes. Every byte is a token."""

    def __init__(self, window=64):
        text = b"".join(Path(module.__file__).read_bytes() for module in (argparse, json))
        self.windows = torch.tensor(list(text)).split(window)[:-1]

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, index):
        return {"input_ids": self.windows[index], "labels": self.windows[index]}


def main():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=256, n_positions=64, n_embd=64, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    arguments = TrainingArguments(
        output_dir="runs/transformers-stdlib",
        max_steps=100,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    trainer = Trainer(
        model=GPT2LMHeadModel(config),
        args=arguments,
        train_dataset=Source(),
        callbacks=[GradWatchCallback("runs/transformers-stdlib")],
    )
    trainer.train()
    print("recorded; gradwatch report runs/transformers-stdlib")


if __name__ == "__main__":
    main()
