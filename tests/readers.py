"""Which threads ask for the gradient of a parameter."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn


class Read(nn.Parameter):
    """A parameter that notes which threads ask for its gradient; autograd, which writes it, asks in another way."""

    readers: set[int]

    def __init__(self, data: Tensor) -> None:
        self.readers = set()

    @property
    def grad(self) -> Any:
        self.readers.add(threading.get_ident())
        return torch.Tensor.grad.__get__(self)

    @grad.setter
    def grad(self, value: Any) -> None:
        torch.Tensor.grad.__set__(self, value)
