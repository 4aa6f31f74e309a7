"""What lies on a device, and copies that nothing waits for."""

import pytest
import torch

from gradwatch.measure import begin_copy, devices, is_on_host, mark_copies


@pytest.mark.parametrize(
    ("tensor", "on_host"),
    [
        (torch.ones(2), True),
        (torch.zeros(0), True),
        (torch.ones(2, device="meta"), False),
        (torch.nn.Parameter(torch.ones(())), True),
    ],
    ids=["plain", "empty", "meta", "parameter"],
)
def test_only_the_cpu_is_the_host(tensor, on_host):
    assert is_on_host(tensor) is on_host


@pytest.mark.parametrize("device", ["cpu", "meta", "mps"])
def test_these_have_no_copy_to_wait_for(device):
    assert not devices.copies_behind(torch.device(device))
    assert mark_copies([torch.device(device)]) == ()


def test_cuda_has(monkeypatch):
    assert devices.copies_behind(torch.device("cuda", 1))


def test_another_accelerator_has_where_pytorch_knows_it(monkeypatch):
    xpu = torch.device("xpu", 0)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    assert devices.copies_behind(xpu)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    assert not devices.copies_behind(xpu)


def test_what_can_not_be_copied_behind_stays_without_its_graph():
    values = torch.ones(3, requires_grad=True) * 2
    copy = begin_copy(values)
    assert copy.tolist() == [2, 2, 2]
    assert not copy.requires_grad


def test_each_device_has_one_event(monkeypatch):
    marked = []
    monkeypatch.setattr(devices, "_mark", lambda device: marked.append(device) or device)
    of = [torch.device("cuda", 1), torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cpu")]
    assert len(mark_copies(of)) == 2
    assert marked == [torch.device("cuda", 0), torch.device("cuda", 1)]


def test_what_has_to_be_on_the_host_is_waited_for(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, **how: asked.append((device.type, how)) or self)
    devices.move(torch.ones(1, device="meta"), torch.device("cpu"))
    devices.move(torch.ones(1), torch.device("meta"))
    devices.move(torch.ones(1), torch.device("cpu"))
    assert asked == [("cpu", {"non_blocking": False}), ("meta", {"non_blocking": True})]


def test_vectors_are_joined_on_the_device_in_its_widest_type(monkeypatch):
    host, meta = torch.ones(2), torch.ones(3, device="meta")
    assert devices.join([host, host.half() + 1]).tolist() == [1, 1, 2, 2]
    joined = devices.join([host, meta])
    assert (joined.device.type, joined.dtype, joined.shape) == ("meta", torch.float64, (5,))
    monkeypatch.setattr(devices, "widest_float", lambda device: torch.float32)
    assert devices.join([host.double(), meta]).dtype == torch.float32


def test_a_device_that_cannot_make_float64_is_said_to_have_none(monkeypatch):
    asked = []

    def refuse(*size, dtype, device):
        asked.append((dtype, device.type))
        raise TypeError("no float64")

    devices.widest_float.cache_clear()
    monkeypatch.setattr(torch, "zeros", refuse)
    assert devices.widest_float(torch.device("mps")) == torch.float32
    assert devices.widest_float(torch.device("cuda", 0)) == torch.float64  # known without asking
    assert asked == [(torch.float64, "mps")]
    devices.widest_float.cache_clear()


def test_the_first_accelerator_goes_before_the_host():
    host, meta = torch.ones(1), torch.ones(1, device="meta")
    assert devices.first_accelerator([host, meta]) == torch.device("meta")
    assert devices.first_accelerator([host]) == devices.first_accelerator([]) == torch.device("cpu")


def test_while_a_graph_is_recorded_the_stream_before_counts(monkeypatch):
    """What lies on a device for one stream is used in the graph, which can copy nothing there."""

    class Stream:
        cuda_stream = 7

    capturing = []
    monkeypatch.setattr(devices, "_streams", {})
    monkeypatch.setattr(devices, "is_capturing_graph", lambda: bool(capturing))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream)
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    assert devices.stream_of(first) == 7
    Stream.cuda_stream = 8
    capturing.append(True)
    assert (devices.stream_of(first), devices.stream_of(second)) == (7, 0)
    capturing.clear()
    assert (devices.stream_of(first), devices.stream_of(second)) == (8, 8)
