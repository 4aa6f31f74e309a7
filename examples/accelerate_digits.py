"""Handwritten digits with Hugging Face Accelerate.

    pip install accelerate scikit-learn
    python examples/accelerate_digits.py
    gradwatch report runs/accelerate-digits

It accumulates four batches per step, clips at 0.5 and takes a few seconds.
"""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradwatch.integrations.accelerate import attach


def main():
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(data, batch_size=32, shuffle=True))
    with attach(accelerator, model, optimizer, "runs/accelerate-digits"):
        for _ in range(5):
            for x, y in loader:
                with accelerator.accumulate(model):
                    loss = nn.functional.cross_entropy(model(x), y)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 0.5)
                    optimizer.step()
                    optimizer.zero_grad()
    accelerator.print("recorded; gradwatch report runs/accelerate-digits")


if __name__ == "__main__":
    main()
