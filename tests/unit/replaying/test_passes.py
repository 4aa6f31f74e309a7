"""A replay gives the gradients of the training bit for bit, and leaves the model as it found it."""

import copy

import pytest
import torch
from planted_steps import capture_step
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradwatch.capture import Forward, Group
from gradwatch.errors import CannotReplay
from gradwatch.replaying.passes import check_same, in_dtype, prepared, total_norm

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    def __init__(self, checkpointed=False):
        super().__init__()
        self.first, self.norm, self.drop, self.last = (
            nn.Linear(6, 8),
            nn.BatchNorm1d(8),
            nn.Dropout(0.5),
            nn.Linear(8, 2),
        )
        self.checkpointed = checkpointed

    def forward(self, x, *, scale=1.0):
        inner = lambda x: self.drop(self.norm(self.first(x)).relu())  # noqa: E731
        x = checkpoint(inner, x, use_reentrant=False) if self.checkpointed else inner(x)
        return {"out": self.last(x) * scale, "unused": x.detach()}


def squared(model, x, **kwargs):
    return model(x, **kwargs)["out"].pow(2).mean()


def under_autocast(model, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return squared(model, x).float()


STEPS = {
    "one forward": lambda m, x: [lambda: squared(m, x, scale=2.0)],
    "accumulated": lambda m, x: [lambda: squared(m, x[:4]), lambda: squared(m, x[4:])],
    "two forwards, one backward": lambda m, x: [lambda: squared(m, x[:4]) + squared(m, x[4:])],
    "autocast": lambda m, x: [lambda: under_autocast(m, x)],
    "output not used": lambda m, x: [lambda: m(x)["out"].sum() * 0 + m.last.weight.sum() * 0 + squared(m, x)],
}


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_gradients_are_equal_bit_for_bit(name, checkpointed):
    torch.manual_seed(1)
    model, x = Net(checkpointed), torch.randn(8, 6)
    capture = capture_step(model, STEPS[name](model, x))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    torch.manual_seed(99)
    with prepared(model, capture) as player:
        played = player.play()
    assert played.gradients.keys() == capture.gradients.keys()
    assert all(torch.equal(played.gradients[name], one) for name, one in capture.gradients.items())


def test_a_loss_scale_is_taken_out():
    torch.manual_seed(1)
    model, x = Net(), torch.randn(8, 6)
    capture = capture_step(model, [lambda: squared(model, x)], loss_scale=1024.0)
    with prepared(model, capture) as player:
        played = player.play()
    assert all(torch.equal(played.gradients[name], one) for name, one in capture.gradients.items())


def test_the_model_is_as_before():
    torch.manual_seed(1)
    model, x = Net(), torch.randn(8, 6)
    capture = capture_step(model, [lambda: squared(model, x)])
    model.eval()
    model.norm.train()
    squared(model, x).backward()
    before = copy.deepcopy(model.state_dict())
    gradients = {name: one.grad for name, one in model.named_parameters()}
    drawn = torch.get_rng_state()
    with prepared(model, capture) as player:
        player.play()
        with in_dtype(player, torch.float64):
            assert player.play().gradients["last.weight"].dtype == torch.float64
        player.trace()
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())
    assert all(one.grad is gradients[name] for name, one in model.named_parameters())
    assert (model.training, model.norm.training, model.drop.training) == (False, True, False)
    assert torch.equal(torch.get_rng_state(), drawn)


def test_the_model_is_as_before_after_an_exception():
    model, x = Net(), torch.randn(8, 6)
    capture = capture_step(model, [lambda: squared(model, x)])
    weight = model.first.weight.detach().clone()
    with pytest.raises(RuntimeError), prepared(model, capture) as player:
        model.first.weight.data.zero_()
        player.play(
            [Group(forwards=(Forward(**{**vars(capture.groups[0].forwards[0]), "args": (torch.ones(2, 3),)}),))]
        )
    assert torch.equal(model.first.weight, weight)


def test_another_model_is_refused():
    model, x = Net(), torch.randn(8, 6)
    capture = capture_step(model, [lambda: squared(model, x)])
    other = Net()
    other.last = nn.Linear(8, 3)
    with pytest.raises(CannotReplay, match=r"2 differ in shape, for example last.bias.*\(cannot-replay\)"):
        check_same(other, capture)


def test_other_outputs_are_refused():
    model, x = Net(), torch.randn(8, 6)
    capture = capture_step(model, [lambda: squared(model, x)])
    model.forward = lambda x, scale=1.0: model.last(model.first(x))[:4]
    with prepared(model, capture) as player, pytest.raises(CannotReplay, match="Is it the same model"):
        player.play()


def test_the_norm_is_summed_in_float64():
    assert total_norm([torch.full((2,), 3e38)]) == pytest.approx(3e38 * 2**0.5)
    assert total_norm([]) == 0.0
