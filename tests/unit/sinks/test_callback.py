"""A function of the user's gets whole records, in order, and nothing else."""

import math
import threading

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import Run
from gradwatch.record import Event
from gradwatch.sinks.callback import RecordCallback
from gradwatch.sinks.tracker import RunFacts
from gradwatch.testing import stream


def test_on_record_gets_whole_records_in_order(tmp_path):
    found = []
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, optimizer, tmp_path, on_record=found.append) as watch:
        for _ in range(20):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            optimizer.step()
    assert [record.step for record in found] == list(range(20))
    assert found[3].layers.norm.tolist() == Run(tmp_path).layers("norm").loc[3].tolist()
    assert threading.current_thread().name == "MainThread"
    assert watch.last.step == 19


def test_only_records_reach_the_function():
    found = []
    callback = RecordCallback(found.append)
    callback.open(RunFacts(path=None))
    records = list(stream([0.0, math.nan, math.inf]))
    for record in records:
        callback.show(record)
        callback.rest()
    callback.tell(Event(step=0, kind="nonfinite", severity="critical", message=""))
    callback.close({"verdict": "unhealthy"})
    assert len(found) == 3
    assert all(one is other for one, other in zip(found, records, strict=True))


def test_a_fault_of_the_function_is_not_hidden():
    def fails(record):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        RecordCallback(fails).show(next(iter(stream([1.0]))))
