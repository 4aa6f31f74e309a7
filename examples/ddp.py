"""Handwritten digits in several processes, with every rank recorded.

    pip install scikit-learn
    torchrun --nproc-per-node 2 examples/ddp.py
    gradwatch report runs/ddp

Each process trains on its own part of a batch. `ranks=True` keeps the norm of each rank's own gradient, before
DistributedDataParallel averages them. They show whether the data of one rank or the model is at fault, and give
the gradient noise scale. The script takes a few seconds.
"""

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import gradwatch


def main():
    dist.init_process_group()
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    loader = DataLoader(data, batch_size=32, sampler=DistributedSampler(data, seed=0))
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with gradwatch.attach(model, optimizer, "runs/ddp", ranks=True) as watch:
        for epoch in range(8):
            loader.sampler.set_epoch(epoch)
            for x, y in loader:
                loss = nn.functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                watch.log(loss=loss)
    if dist.get_rank() == 0:
        print("recorded; gradwatch report runs/ddp")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
