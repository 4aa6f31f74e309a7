"""What the device does, so that the tests on it can fail."""

import threading
import time

import pytest
import torch

from gradwatch.measure import begin_copy, devices, is_on_host, mark_copies


def marked(stream):
    event = torch.Event("late")
    event.record(stream)
    return event


def test_pytorch_takes_it_for_the_accelerator(late):
    assert torch.accelerator.current_accelerator() == torch.device("late")
    assert devices.copies_behind(torch.device("late", 0))
    assert not is_on_host(torch.ones(1, device="late"))


def test_a_copy_that_is_read_too_early_has_wrong_values(late):
    values = torch.arange(4.0).to("late")
    with late.held():
        host = torch.empty(4, pin_memory=True).copy_(values, non_blocking=True)
        event = marked(torch.accelerator.current_stream(values.device))
        assert host.isnan().all()
        assert not event.query()
    event.synchronize()
    assert host.tolist() == [0, 1, 2, 3]
    assert event.query()


def test_the_event_of_another_stream_does_not_speak_for_it(late):
    values = torch.arange(4.0).to("late")
    with late.held():
        host = torch.empty(4, pin_memory=True).copy_(values, non_blocking=True)
        assert marked(torch.Stream(device="late")).query()
        assert host.isnan().all()


def test_a_copy_has_the_values_of_its_turn(late):
    values = torch.zeros(4, device="late")
    with late.held():
        host = begin_copy(values)
        values += 1
    torch.accelerator.synchronize()
    assert host.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "read",
    [lambda x: x.item(), lambda x: x.cpu(), lambda x: bool(x > 0), lambda x: x.nonzero(), lambda x: x.to("cpu")],
    ids=["item", "cpu", "bool", "nonzero", "to"],
)
def test_what_waits_is_noted(late, read):
    value = torch.ones((), device="late")
    late.waits()
    read(value)
    assert len(late.waits()) == 1


def test_what_does_not_wait_is_not(late):
    value = torch.ones(3, device="late")
    late.waits()
    late.set_delay(1.0)  # a busy machine may take long to come to the event
    copy = begin_copy(value.square().sum())
    assert late.waits() == []
    ready = mark_copies([value.device])
    assert len(ready) == 1
    ready[0].synchronize()
    assert [name for _, name in late.waits()] == ["event"]
    ready[0].synchronize()
    assert late.waits() == []  # it is complete
    assert copy == 3


def test_a_wait_raises_in_the_thread_that_must_not_wait(late):
    value = torch.ones(3, device="late")
    with late.no_waits():
        with pytest.raises(RuntimeError, match="synchronizing"):
            value.sum().item()
        answers = []
        other = threading.Thread(target=lambda: answers.append(value.sum().item()))
        other.start()
        other.join()
    assert answers == [3.0]
    assert value.sum().item() == 3.0


def test_a_thread_that_asks_for_an_operator_is_known(late):
    value = torch.ones(3, device="late")
    own = threading.get_native_id()
    late.has_operated(own)
    assert not late.has_operated(own)
    value.square()
    assert late.has_operated(own)
    assert not late.has_operated(own)


def test_float64_raises_where_the_device_has_none(late):
    wide = torch.ones(3, dtype=torch.float64)
    device = torch.device("late", 0)
    assert devices.widest_float(device) == torch.float64
    with late.narrow():
        assert devices.widest_float(device) == torch.float32
        for make in (lambda: wide.to("late"), lambda: torch.ones(3, device="late").double()):
            with pytest.raises(TypeError, match="no float64"):
                make()
    assert wide.to("late").sum().item() == 3.0


def test_a_source_that_changes_before_its_copy_is_noted(late):
    source = torch.ones(3).pin_memory()
    with late.held():
        copy = source.to("late", non_blocking=True)
        source.fill_(2)
    torch.accelerator.synchronize()
    assert copy.tolist() == [1, 1, 1]
    assert late.forget_changed_early() == 1


def test_copies_take_their_time(late):
    late.set_delay(0.05)
    start = time.monotonic()
    begin_copy(torch.ones(3, device="late"))
    mark_copies([torch.device("late", 0)])[0].synchronize()
    assert time.monotonic() - start >= 0.05
