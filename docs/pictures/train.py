"""Train a classifier of handwritten digits. One of the 1,797 pictures is blank."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Linear(64, 32, bias=False)
        self.head = nn.Linear(32, 10)

    def forward(self, pictures):
        features = self.features(pictures)
        length = features.square().sum(dim=1, keepdim=True).sqrt()
        return self.head(10 * features / (length + 1e-6))


torch.manual_seed(0)
digits = load_digits()
pictures = torch.tensor(digits.data, dtype=torch.float32) / 16
labels = torch.tensor(digits.target)
pictures[1000] = 0
model = Classifier()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for rows in torch.randperm(len(pictures)).split(32):
    loss = functional.cross_entropy(model(pictures[rows]), labels[rows])
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
