"""A model whose forwards and backwards are heard as a recording hears them."""

import torch
from torch import nn

from gradwatch.recording.capture.forwards import ForwardTap
from gradwatch.recording.capture.ledger import Ledger
from gradwatch.recording.capture.passes import HeldBackward
from gradwatch.recording.options import RecordingOptions
from gradwatch.recording.sink import Beginning, NullSink
from gradwatch.recording.tracker import StepTracker


class Heard:
    def __init__(self, model=None, max_bytes=2**20, wrapped=None):
        self.model = nn.Linear(2, 1) if model is None else model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.tracker = StepTracker("0", self.model, self.optimizer, RecordingOptions(), NullSink(), Beginning())
        self.failed, self.arrivals, self._made = [], [], None
        self.tap = ForwardTap(self.model if wrapped is None else wrapped, self.arrived, self.failed.append)
        self.ledger = Ledger(self.tracker, self.tap, max_bytes)

    def arrived(self, forward, index, gradient):
        self.arrivals.append((forward, index, gradient.detach().clone()))
        if self._made is not None:
            self._made.note(forward, index, gradient)

    def backward(self, loss):
        self._made = HeldBackward()
        self.tracker.gradients.before_backward()
        self.ledger.before_backward()
        loss.backward()
        self.tracker.gradients.after_backward()
        made, self._made = self._made, None
        self.ledger.after_backward(made)
        return made
