"""What a gradient scaler does is heard, and the class is left as it was."""

import torch

from gradwatch.recording.hooks import listen_to_grad_scaler


def test_the_scaler_is_restored_when_the_last_listener_leaves():
    before = torch.amp.GradScaler.step, torch.amp.GradScaler.unscale_
    first, second = listen_to_grad_scaler(object()), listen_to_grad_scaler(object())
    assert torch.amp.GradScaler.step is not before[0]
    first()
    second()
    assert (torch.amp.GradScaler.step, torch.amp.GradScaler.unscale_) == before
