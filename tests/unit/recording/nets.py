"""A small network, its training loop, and what is read of its run."""

import math

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "SGD momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
}

CLIPS = {
    "plain": lambda p: None,
    "clipped by norm": lambda p: clip_grad_norm_(p, 0.5),
    "clipped by value": lambda p: clip_grad_value_(p, 0.05),
    "a generator clipped by norm": lambda p: clip_grad_norm_((q for q in p), 0.5),
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(3, 5, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Linear(5, 1)

    def forward(self, x):
        return self.out(self.dropout(self.rnn(x)[0][:, -1]))


def make(optimizer="SGD"):
    torch.manual_seed(0)
    model = Net()
    return model, OPTIMIZERS[optimizer](model.parameters())


def backward(model, optimizer):
    optimizer.zero_grad()
    loss = model(torch.randn(8, 4, 3)).square().mean()
    loss.backward()
    return loss


def train(model, optimizer, steps, clip="plain", watch=None, each=None):
    for step in range(steps):
        loss = backward(model, optimizer)
        if each is not None:
            each(step)
        CLIPS[clip](list(model.parameters()))
        optimizer.step()
        if watch is not None:
            watch.log(loss=loss)


def train_scaled(model, optimizer, clip, unscale, watch=None):
    """Eight steps with a GradScaler, an infinity in the fourth; the true norm before clipping of each."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    norms, scales = [], []
    for step in range(8):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 4, 3)).square().mean()
        scaler.scale(loss).backward()
        if step == 3:
            model.out.weight.grad[0, 0] = math.inf
        scales.append(scaler.get_scale())
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item() / scales[-1])
        if clip == "before unscaling":
            clip_grad_norm_(model.parameters(), 0.25)
        if unscale:
            scaler.unscale_(optimizer)
        if clip == "after unscaling":
            clip_grad_norm_(model.parameters(), 0.25)
        scaler.step(optimizer)
        scaler.update()
        if watch is not None:
            watch.log(loss=float(step))
    return norms, scales
