"""The models into which faults are planted. Each line that can fail stands alone, so that its place can be checked."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

MARK = 0.5


class Wrong(torch.autograd.Function):
    """The identity, whose backward is wrong where the first feature is the mark."""

    @staticmethod
    def forward(ctx, x: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradient * torch.where(x[..., :1] == MARK, ctx.factor, 1.0), None


class Step(nn.Module):
    """A layer with one operation that fails for some rows. It shall fail where the first feature is the mark."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        marked = x[..., :1].detach() == MARK
        x = torch.where(marked, 0.0, x) * self.scale
        return getattr(self, self.kind)(x, marked)

    def none(self, x: Tensor, marked: Tensor) -> Tensor:
        return x

    def sqrt(self, x: Tensor, marked: Tensor) -> Tensor:
        return x * x.pow(2).sum(-1, keepdim=True).sqrt()

    def hidden_sqrt(self, x: Tensor, marked: Tensor) -> Tensor:
        size = x.pow(2).sum(-1, keepdim=True)
        root = torch.sqrt(size)
        return torch.where(marked, torch.zeros_like(root), root) + x

    def log(self, x: Tensor, marked: Tensor) -> Tensor:
        return x + torch.log(x.abs().mean(-1, keepdim=True))

    def divide(self, x: Tensor, marked: Tensor) -> Tensor:
        size = x.abs().amax(-1, keepdim=True)
        return x / size

    def hidden_divide(self, x: Tensor, marked: Tensor) -> Tensor:
        ratio = 1.0 / x.abs().mean(-1, keepdim=True)
        return torch.where(marked, torch.ones_like(ratio), ratio.clamp(max=3.0)) * x

    def power(self, x: Tensor, marked: Tensor) -> Tensor:
        return x + torch.pow(x.abs().sum(-1, keepdim=True), 0.5)

    def arccos(self, x: Tensor, marked: Tensor) -> Tensor:
        cosine = torch.where(marked, 1.0 + 0.0 * x, x.tanh() * 0.9)
        return torch.acos(cosine)

    def exp(self, x: Tensor, marked: Tensor) -> Tensor:
        logits = x + 120.0 * marked
        return torch.exp(logits) * 0.1

    def large(self, x: Tensor, marked: Tensor) -> Tensor:
        factor = 1.0 + 3e3 * marked
        return (x + marked) * factor

    def wrong(self, x: Tensor, marked: Tensor) -> Tensor:
        first = torch.where(marked, MARK, x[..., :1])
        return Wrong.apply(torch.cat([first, x[..., 1:]], -1), 1e4)

    def std(self, x: Tensor, marked: Tensor) -> Tensor:
        spread = x.var(-1, keepdim=True, unbiased=False).sqrt()
        return (x - x.mean(-1, keepdim=True)) / (spread + 1e-5)


class MLP(nn.Module):
    def __init__(self, kind: str = "none", width: int = 16) -> None:
        super().__init__()
        self.first = nn.Linear(12, width)
        self.step = Step(kind)
        self.second = nn.Linear(width + 12, width)
        self.out = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.cat([self.first(x).relu(), self.step(x)], -1)
        return self.out(functional.dropout(self.second(hidden).relu(), 0.1, self.training))


class ConvNet(nn.Module):
    def __init__(self, kind: str = "none", norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.GroupNorm(2, 8)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.step = Step(kind)
        self.out = nn.Linear(8 + 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.step(x[:, :2, :2, :2].flatten(1))
        y = self.again(self.norm(self.conv(x)).relu()).relu()
        return self.out(torch.cat([y.mean((2, 3)), mean], 1))


class LSTMModel(nn.Module):
    """Packs the sequences itself, or takes packed ones; the mean over the steps divides by the length."""

    def __init__(self, kind: str = "none") -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 12, batch_first=True)
        self.step = Step(kind)
        self.out = nn.Linear(12 + 6, 3)

    def forward(self, x: Tensor | PackedSequence, lengths: Tensor | None = None) -> Tensor:
        if not isinstance(x, PackedSequence):
            x = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        first, _ = pad_packed_sequence(x, batch_first=True)
        hidden, sizes = pad_packed_sequence(self.lstm(x)[0], batch_first=True)
        count = sizes if lengths is None else lengths
        mean = hidden.sum(1) * (count > 0)[:, None] / count[:, None]
        return self.out(torch.cat([mean, self.step(first[:, 0])], 1))


class TimeFirst(nn.Module):
    """A GRU over time x batch x features."""

    def __init__(self, kind: str = "none") -> None:
        super().__init__()
        self.gru = nn.GRU(5, 10)
        self.step = Step(kind)
        self.out = nn.Linear(10 + 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.gru(x)
        return self.out(torch.cat([hidden, self.step(x)], -1))


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        if padding is not None:
            scores = scores.masked_fill(padding[:, None, :], float("-inf"))
        weights = scores.softmax(-1)
        return weights @ v


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        x = x + self.attention(self.norm(x), padding)
        return x + self.mlp(self.norm(x))


class Transformer(nn.Module):
    def __init__(self, tokens: int = 50, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(2)])
        self.out = nn.Linear(width, tokens)

    def forward(self, ids: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, key_padding_mask)
        return self.out(x)


class Recommender(nn.Module):
    """Takes a dictionary of ids and numbers."""

    def __init__(self, kind: str = "none") -> None:
        super().__init__()
        self.users = nn.Embedding(40, 8)
        self.items = nn.Embedding(60, 8)
        self.step = Step(kind)
        self.dense = nn.Linear(6, 8)
        self.out = nn.Linear(24 + 6, 1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        users, items = self.users(batch["user"]), self.items(batch["item"]).mean(1)
        dense = self.dense(batch["numbers"]).relu()
        score = self.out(torch.cat([users, items, dense, self.step(batch["numbers"])], 1))
        return {"score": score.squeeze(1), "users": users}


class Autoencoder(nn.Module):
    """Computes its loss itself, from its outputs and a KL term."""

    def __init__(self, kind: str = "none") -> None:
        super().__init__()
        self.encoder = nn.Linear(12, 8)
        self.step = Step(kind)
        self.mean, self.spread = nn.Linear(8 + 12, 3), nn.Linear(8 + 12, 3)
        self.decoder = nn.Linear(3, 12)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.cat([self.encoder(x.clamp(max=10)).tanh(), self.step(x)], -1)
        mean, spread = self.mean(hidden), self.spread(hidden) * 0.1
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * spread)
        divergence = (mean.pow(2) + spread.exp() - spread - 1).sum(1)
        loss = functional.mse_loss(self.decoder(z), x.clamp(max=10)) + 0.01 * divergence.mean()
        return {"loss": loss, "decoded": self.decoder(z)}


class Encoder(nn.Module):
    """One side of a siamese pair."""

    def __init__(self, kind: str = "none") -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8))
        self.step = Step(kind)
        self.join = nn.Linear(20, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([self.body(x.clamp(max=10)), self.step(x)], -1))
