"""What the diagnosis knows of a run, read once."""

import dataclasses

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.diagnosis.facts import MAX_SAMPLED_STEPS, Ending, computed_once, read_facts
from gradwatch.record import ParameterInfo, StepRecord
from gradwatch.store import StoreWriter
from gradwatch.testing import steady, stream, write_run

from .made import calm, parameters, run_of, with_layers


def test_the_facts_of_one_optimizer(tmp_path):
    records = calm(100)
    records[7] = dataclasses.replace(records[7], skipped=True, loss=None)
    facts = read_facts(run_of(tmp_path, records, "AdamW", {"lr": 0.5}))
    (own,) = facts.optimizers
    assert (own.name, own.class_name, own.settings) == ("0", "AdamW", {"lr": 0.5})
    assert own.steps.tolist() == list(range(100))
    assert own.total_norm.tolist() == [record.total_norm for record in records]
    assert own.span == (0, 99)
    assert np.flatnonzero(own.skipped).tolist() == np.flatnonzero(~own.loss_logged).tolist() == [7]
    assert own.names == ["rnn.weight", "out.weight"]
    assert own.entries.tolist() == [9, 3]
    assert own.weights.index.tolist() == [0, 50]
    assert not facts.is_imported
    assert not facts.several


def test_a_fact_of_several_rules_is_computed_once_for_each_optimizer(two):
    asked = []

    @computed_once
    def length(optimizer):
        asked.append(optimizer.name)
        return None if optimizer is two.optimizers[0] else len(optimizer.frame)

    first, second = two.optimizers
    assert [length(first), length(second), length(first), length(second)] == [None, len(second.frame)] * 2
    assert asked == [first.name, second.name]


def test_a_run_without_a_step(tmp_path):
    facts = read_facts(Run(write_run(tmp_path, [])))
    (own,) = facts.optimizers
    assert own.span is None
    assert own.total_norm.tolist() == []
    assert own.norms.empty
    assert facts.time_of("0", 0) == 0.0


def test_gradients_that_are_absent_are_not_present(tmp_path):
    run = run_of(tmp_path, with_layers(calm(50), [1.0, 2.0], present=[True, False]))
    (own,) = read_facts(run).optimizers
    assert own.present.to_numpy().tolist() == [[True, False]] * 50
    assert own.norms.iloc[:, 1].isna().all()


def test_of_many_steps_and_parameters_a_bounded_sample_is_read(tmp_path):
    infos = parameters(*(f"p{i}" for i in range(3)))
    run = run_of(tmp_path, stream(steady(900), parameters=infos, shares=[0.5] * 3))
    (own,) = read_facts(run).optimizers
    assert MAX_SAMPLED_STEPS / 2 < len(own.norms) <= MAX_SAMPLED_STEPS
    assert len(own.total_norm) == 900
    assert np.allclose(own.norms.to_numpy(float).T, 0.5 * run.steps()["total_norm"].loc[own.norms.index].to_numpy())


def test_counts_of_the_recording_may_be_unknown(tmp_path):
    meta = {"carried_steps.0": "12", "changed_steps.0": "many"}
    (own,) = read_facts(run_of(tmp_path, calm(20), meta=meta)).optimizers
    assert (own.carried_steps, own.changed_steps) == (12, None)


def test_parameters_that_no_optimizer_holds(tmp_path):
    run = run_of(tmp_path, calm(20), meta={"parameters_without_optimizer": '["head.bias"]'})
    assert read_facts(run).without_optimizer == ("head.bias",)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("closed", Ending(state="closed")),
        ("exit", Ending(state="exit")),
        ("exception ValueError", Ending(state="exception", detail="ValueError")),
        ("signal SIGTERM", Ending(state="signal", detail="SIGTERM")),
        ("fault OSError", Ending(state="fault", detail="OSError")),
        ("stopped on explosion", Ending(state="stopped", detail="explosion")),
        ("something new", Ending(state="closed", detail="new")),
    ],
)
def test_how_a_run_ended(tmp_path, reason, expected):
    assert read_facts(run_of(tmp_path, calm(10), reason=reason)).ending == expected


def test_a_run_that_is_being_written_is_running(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"0": ("SGD", {})})
    writer.append(stream([1.0]))
    assert read_facts(Run(tmp_path)).ending == Ending(state="running")
    writer.end_attempt("closed")


@pytest.fixture
def two(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"critic": ("Adam", {}), "actor": ("", {})})
    for name in ("critic", "actor"):
        writer.add_parameters(name, (ParameterInfo(name=f"{name}.w", shape=(2,)),))
    writer.append([StepRecord(step=3, optimizer="critic", wall_time=1.5e9, total_norm=1.0)])
    writer.append([StepRecord(step=0, optimizer="actor", wall_time=1.6e9, total_norm=2.0)])
    writer.end_attempt("closed")
    return read_facts(Run(tmp_path))


def test_a_sentence_names_an_optimizer_only_where_there_are_several(two, tmp_path):
    critic, actor = two.optimizers
    assert (two.of(critic), two.by(critic), two.by(actor)) == (
        " of optimizer critic",
        "optimizer critic (Adam)",
        "optimizer actor",
    )
    one = read_facts(run_of(tmp_path / "one", calm(10)))
    assert (one.of(one.optimizers[0]), one.by(one.optimizers[0])) == ("", "the optimizer (SGD)")


def test_the_clock_at_a_step(two):
    assert two.time_of("critic", 3) == 1.5e9
    for optimizer, step in ((None, 3), ("critic", None), ("critic", 0), ("nobody", 3)):
        assert two.time_of(optimizer, step) == 0.0
    assert two.frame_of("critic").index.tolist() == [3]
    assert two.frame_of("nobody") is None
