"""Clip calls are seen however they were imported, and behave as without us."""

import inspect
import math
import sys
import types
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_ as early_norm
from torch.nn.utils import clip_grad_value_ as early_value

import gradwatch
from gradwatch.measure import ahead, begin_reading, fused, is_reading
from gradwatch.recording.hooks import listen_to_clip_calls, tap_libraries

from .gradients import parameter


class Ear:
    def __init__(self):
        self.heard = []

    def before_norm(self, call):
        """Nothing is read before it clips."""

    def before_clip(self, call):
        norms = [None if p.grad is None else p.grad.norm().item() for p in call.parameters]
        self.heard.append(("before", call.max_norm, call.norm_type, call.clip_value, norms))

    def after_clip(self, call, total_norm):
        self.heard.append(("after", None if total_norm is None else total_norm.item()))

    def clip_failed(self, call):
        self.heard.append(("failed",))


@pytest.fixture
def ear():
    ear = Ear()
    stop = listen_to_clip_calls(ear)
    yield ear
    stop()


def variants():
    return {
        "early-bound": early_norm,
        "from the package": torch.nn.utils.clip_grad_norm_,
        "from its module": torch.nn.utils.clip_grad.clip_grad_norm_,
        "held in a closure": (lambda f: lambda *a, **k: f(*a, **k))(early_norm),
    }


class Reader(Ear):
    """Reads the gradients while PyTorch computes their norm."""

    def before_norm(self, call):
        begin_reading([p.grad for p in call.parameters])
        self.heard.append(("reading", is_reading()))


@pytest.fixture
def reader(monkeypatch):
    monkeypatch.setattr(ahead, "LEAST", 1)
    monkeypatch.setattr(ahead, "_processors", lambda: 2)
    reader = Reader()
    stop = listen_to_clip_calls(reader)
    yield reader
    stop()


needs_helper = pytest.mark.skipif(not fused.is_available(), reason="the compiled part is not built")


@needs_helper
@pytest.mark.parametrize("foreach", [None, False])
def test_who_reads_along_is_told_before_the_gradients_change(reader, foreach):
    p = parameter(3.0, 4.0)
    assert early_norm([p], 1.0, foreach=foreach).item() == 5.0
    assert reader.heard == [("reading", True), ("before", 1.0, 2.0, None, [5.0]), ("after", 5.0)]
    assert not is_reading()


@needs_helper
def test_who_reads_along_is_told_of_a_call_that_raises(reader):
    p = parameter(math.inf, 4.0)
    with pytest.raises(RuntimeError, match="non-finite"):
        early_norm([p], 1.0, error_if_nonfinite=True)
    assert reader.heard == [("reading", True), ("before", 1.0, 2.0, None, [math.inf]), ("failed",)]
    assert not is_reading()
    early_value([p], 1.0)  # and the next call is told of as ever
    assert [heard[0] for heard in reader.heard[3:]] == ["before", "after"]


@needs_helper
def test_what_an_interrupt_left_being_read_is_let_go_of_before_the_next_call(reader, monkeypatch):
    p, seen = parameter(3.0, 4.0), []
    begin_reading([p.grad])
    monkeypatch.setattr(reader, "before_norm", lambda call: seen.append(is_reading()))
    early_norm([p], 1.0)
    assert seen == [False]


@pytest.mark.parametrize("name", variants())
def test_norm_clipping_is_seen_before_it_clips(ear, name):
    p = parameter(3.0, 4.0)
    returned = variants()[name]([p], 1.0)
    assert returned.item() == 5.0
    assert ear.heard == [("before", 1.0, 2.0, None, [5.0]), ("after", 5.0)]
    assert p.grad.norm().item() == pytest.approx(1.0, rel=1e-5)


def test_value_clipping_is_seen_before_it_clips(ear):
    p = parameter(3.0, 4.0)
    assert early_value([p], clip_value=2) is None
    assert ear.heard == [("before", None, 2.0, 2.0, [5.0]), ("after", None)]
    assert p.grad.tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    "give",
    [
        pytest.param(lambda ps: (p for p in ps), id="a generator"),
        pytest.param(lambda ps: iter(ps), id="an iterator"),
        pytest.param(lambda ps: {str(i): p for i, p in enumerate(ps)}.values(), id="a view of a dict"),
        pytest.param(lambda ps: tuple(ps), id="a tuple"),
    ],
)
def test_any_iterable_is_clipped_and_seen_whole(ear, give):
    ps = [parameter(3.0), parameter(4.0)]
    assert early_norm(give(ps), 1.0).item() == 5.0
    assert ear.heard[0][-1] == [3.0, 4.0]
    assert math.hypot(*(p.grad.item() for p in ps)) == pytest.approx(1.0, rel=1e-5)


def test_what_the_script_clips_is_listed_once(ear):
    p, asked = parameter(3.0, 4.0), []

    class Asked:
        def __iter__(self):
            asked.append(len(asked))
            return iter([p])

    assert early_norm(Asked(), 1.0).item() == 5.0
    assert asked == [0]


def test_a_single_tensor_is_clipped(ear):
    assert early_norm(parameter(3.0, 4.0), 1.0, norm_type=math.inf).item() == 4.0
    assert ear.heard[0][:3] == ("before", 1.0, math.inf)


def test_an_exhausted_generator_warns_as_torch_does(ear):
    with pytest.warns(UserWarning, match="empty generator"):
        early_norm((p for p in []), 1.0)


def test_what_torch_raises_is_raised_and_said(ear):
    p = parameter(math.nan)
    with pytest.raises(RuntimeError, match="non-finite"):
        early_norm([p], 1.0, error_if_nonfinite=True)
    assert [heard[0] for heard in ear.heard] == ["before", "failed"]


@pytest.mark.parametrize("args", [(), ([],), (3, 1.0), ([parameter(1.0)], "much")])
def test_wrong_arguments_raise_what_torch_raises(args):
    """The same exception type and text with and without us."""

    def outcome():
        try:
            early_norm(*args)
        except Exception as error:
            return type(error), str(error)
        return None

    without = outcome()
    stop = listen_to_clip_calls(Ear())
    with_us = outcome()
    stop()
    assert with_us is not None
    # Python names the innermost function in the text of a missing argument, which is the same for both.
    assert with_us[0] is without[0]


@pytest.mark.skipif(not hasattr(torch.nn.utils, "clip_grads_with_norm_"), reason="this PyTorch has no such pair")
class TestThePairOfNormAndClip:
    """`get_total_norm` and `clip_grads_with_norm_`, into which PyTorch takes `clip_grad_norm_` apart."""

    def test_it_is_seen_before_it_clips_with_the_norm_that_it_is_given(self, ear):
        p = parameter(3.0, 4.0)
        norm = torch.nn.utils.get_total_norm([p.grad], math.inf)
        assert torch.nn.utils.clip_grads_with_norm_([p], 1.0, 2 * norm) is None
        assert ear.heard == [("before", 1.0, math.inf, None, [5.0]), ("after", 8.0)]
        assert p.grad.tolist() == pytest.approx([3 / 8, 4 / 8], rel=1e-5)

    def test_a_call_of_clip_grad_norm_is_told_of_once(self, ear):
        early_norm([parameter(3.0, 4.0)], 1.0)
        assert [heard[0] for heard in ear.heard] == ["before", "after"]

    def test_what_torch_raises_is_raised(self, ear):
        p = parameter(3.0, 4.0)
        with pytest.raises(TypeError):
            torch.nn.utils.clip_grads_with_norm_([p])
        with pytest.raises((TypeError, ValueError)):
            torch.nn.utils.clip_grads_with_norm_([p], "much", torch.tensor(1.0))
        assert p.grad.tolist() == [3.0, 4.0]

    def test_a_generator_is_clipped_whole(self, ear):
        all_of_them = [parameter(3.0), parameter(4.0)]
        torch.nn.utils.clip_grads_with_norm_((p for p in all_of_them), 1.0, torch.tensor(5.0))
        assert [p.grad.item() for p in all_of_them] == pytest.approx([0.6, 0.8], rel=1e-5)
        assert ear.heard[0][-1] == [3.0, 4.0]

    def test_the_record_is_that_of_clip_grad_norm(self, tmp_path):
        def train(run, clip):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            with gradwatch.attach(model, optimizer, run):
                for _ in range(20):
                    optimizer.zero_grad()
                    model(torch.randn(8, 4)).square().mean().backward()
                    clip(model)
                    optimizer.step()
            steps = gradwatch.Run(run).steps()
            return steps[["total_norm", "max_norm", "clip_coef", "clipped", "loss"]], list(model.parameters())

        def by_pair(model):
            norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), 0.1, norm)

        steps, weights = train(tmp_path / "pair", by_pair)
        expected, same = train(tmp_path / "one", lambda model: early_norm(model.parameters(), 0.1))
        assert steps.equals(expected)
        assert steps["clipped"].any()
        assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))


def test_everything_is_restored_when_the_last_listener_leaves():
    before = [cell.cell_contents for cell in early_norm.__closure__]
    first, second = listen_to_clip_calls(Ear()), listen_to_clip_calls(Ear())
    assert [cell.cell_contents for cell in early_norm.__closure__] != before
    first()
    assert [cell.cell_contents for cell in early_norm.__closure__] != before
    second()
    second()
    assert [cell.cell_contents for cell in early_norm.__closure__] == before


def test_the_public_function_keeps_its_face(ear):
    assert "error_if_nonfinite" in inspect.signature(early_norm).parameters
    assert early_norm.__name__ == "clip_grad_norm_"
    assert not torch.tensor([1.0], requires_grad=True).grad_fn
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        early_norm([parameter(1.0)], 1.0)


def clips_like_an_engine(parameters, max_norm, norm_type=2, mpu=None):
    """As engines do that take torch's function over and write through ``.data``."""
    listed = list(parameters)
    norm = torch.linalg.vector_norm(torch.stack([p.grad.data.float().norm(norm_type) for p in listed]), norm_type)
    for p in listed:
        p.grad.data.mul_(torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm


def test_an_engine_that_is_imported_later_is_seen(ear, monkeypatch):
    """`gradwatch run` listens before the script imports anything."""
    engine = types.ModuleType("deepspeed.runtime.engine")
    monkeypatch.setitem(sys.modules, engine.__name__, engine)
    tap_libraries()  # while it is being imported
    engine.clip_grad_norm_ = clips_like_an_engine
    for _ in range(2):
        tap_libraries()
    p = parameter(3.0, 4.0)
    returned = engine.clip_grad_norm_(parameters=(one for one in [p]), max_norm=1.0, mpu=None)
    assert returned.item() == 5.0
    assert ear.heard == [("before", 1.0, 2.0, None, [5.0]), ("after", 5.0)]
    assert p.grad.norm().item() == pytest.approx(1.0, rel=1e-5)
    with pytest.raises(TypeError):
        engine.clip_grad_norm_([p])


def test_the_method_of_fsdp1_is_seen_though_it_is_imported_later_and_restored(monkeypatch):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    original = fsdp.FullyShardedDataParallel.clip_grad_norm_
    with monkeypatch.context() as before_the_import:
        before_the_import.delitem(sys.modules, fsdp.__name__)
        stop = listen_to_clip_calls(Ear())
    assert fsdp.FullyShardedDataParallel.clip_grad_norm_ is original
    tap_libraries()
    assert fsdp.FullyShardedDataParallel.clip_grad_norm_ is not original
    stop()
    assert fsdp.FullyShardedDataParallel.clip_grad_norm_ is original
    tap_libraries()
    assert fsdp.FullyShardedDataParallel.clip_grad_norm_ is original
