"""A small transformer, sharded over processes with FSDP2 and clipped by a gradwatch policy.

    torchrun --nproc-per-node 2 examples/fsdp2.py
    gradwatch report runs/fsdp2

It learns to write Python, character by character, from Python's standard library. Each process holds a shard of every
parameter. gradwatch records the norms of the whole parameters, and every process clips by the same coefficient. It
takes about ten seconds.
"""

import sysconfig
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import gradwatch
from gradwatch.clip import ZClip

BATCH, LENGTH, WIDTH, STEPS = 16, 64, 64, 120


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(128, WIDTH)
        self.position = nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.out = nn.Linear(WIDTH, 128)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        hidden = self.embedding(x) + self.position(torch.arange(x.shape[1]))
        for block in self.blocks:
            hidden = block(hidden, src_mask=mask, is_causal=True)
        return self.out(hidden)


def text():
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:60]
    return torch.tensor([min(ord(c), 127) for file in files for c in file.read_text(errors="ignore")])


def main():
    dist.init_process_group()
    torch.manual_seed(0)
    model = Transformer()
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    characters = text()
    generator = torch.Generator().manual_seed(dist.get_rank())
    with gradwatch.attach(model, optimizer, "runs/fsdp2", clip=ZClip(), total_steps=STEPS) as watch:
        for _ in range(STEPS):
            starts = torch.randint(len(characters) - LENGTH - 1, (BATCH,), generator=generator)
            batch = torch.stack([characters[s : s + LENGTH + 1] for s in starts])
            logits = model(batch[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)
    if dist.get_rank() == 0:
        print("recorded; gradwatch report runs/fsdp2")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
