"""What a gradient scaler does is heard, and the class is left as it was."""

import pytest
import torch

from gradwatch.recording.hooks import before_scaling, listen_to_grad_scaler


def test_the_scaler_is_restored_when_the_last_listener_leaves():
    def methods():
        return [getattr(torch.amp.GradScaler, name) for name in ("scale", "step", "unscale_")]

    before = methods()
    first, second = listen_to_grad_scaler(object()), listen_to_grad_scaler(object())
    assert not any(now is then for now, then in zip(methods(), before, strict=True))
    first()
    second()
    assert methods() == before


@pytest.mark.parametrize("is_enabled", [True, False])
def test_the_loss_before_scaling_is_known_while_someone_listens(is_enabled):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, enabled=is_enabled)
    loss = torch.tensor(3.0, requires_grad=True)
    assert before_scaling(scaler.scale(loss)) is None
    stop = listen_to_grad_scaler(object())
    scaled = scaler.scale(loss)
    stop()
    known = before_scaling(scaled)
    assert (known is not None) == is_enabled
    if known is not None:
        assert known.item() == 3.0
        assert not known.requires_grad
    assert scaled.isinf() == is_enabled
