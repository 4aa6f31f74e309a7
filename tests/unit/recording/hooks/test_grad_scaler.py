"""What a gradient scaler does is heard, and the class is left as it was."""

import pytest
import torch

from gradwatch.recording.hooks import listen_to_grad_scaler, listen_to_scaling


def test_the_scaler_is_restored_when_the_last_listener_leaves():
    def methods():
        return [getattr(torch.amp.GradScaler, name) for name in ("scale", "step", "unscale_")]

    before = methods()
    first, second = listen_to_grad_scaler(object()), listen_to_grad_scaler(object())
    third = listen_to_scaling(object())
    assert not any(now is then for now, then in zip(methods(), before, strict=True))
    first()
    second()
    third()
    assert methods() == before


class Heard:
    def __init__(self):
        self.calls = []

    def after_scaling(self, loss, scaled):
        self.calls.append((loss, scaled))


@pytest.mark.parametrize("is_enabled", [True, False])
def test_a_loss_is_told_with_what_an_enabled_scaler_made_of_it(is_enabled):
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=is_enabled)
    loss, heard = torch.tensor(3.0, requires_grad=True), Heard()
    stop = listen_to_scaling(heard)
    scaled = scaler.scale(loss)
    scaler.scale([loss, loss])  # several losses are no loss of a step
    stop()
    scaler.scale(loss)
    assert scaled.item() == (24.0 if is_enabled else 3.0)
    assert [(one is loss, other is scaled) for one, other in heard.calls] == [(True, True)] * is_enabled
