"""Handwritten digits with PyTorch Lightning, recorded by a callback.

    pip install lightning scikit-learn
    python examples/lightning_digits.py
    gradwatch report runs/lightning-digits

It accumulates two batches per step, clips at 0.5 and takes a few seconds.
"""

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradwatch.integrations.lightning import GradWatchCallback


class Digits(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch, index):
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main():
    pl.seed_everything(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    trainer = pl.Trainer(
        max_epochs=5,
        accumulate_grad_batches=2,
        gradient_clip_val=0.5,
        callbacks=[GradWatchCallback("runs/lightning-digits")],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Digits(), DataLoader(data, batch_size=32, shuffle=True))
    print("recorded; gradwatch report runs/lightning-digits")


if __name__ == "__main__":
    main()
