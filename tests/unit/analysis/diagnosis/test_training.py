"""Nothing is trained: each code where it is found, and a near case where it is not."""

import dataclasses
import json
import math

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.analysis.diagnosis.facts import read_facts
from gradwatch.analysis.diagnosis.training import frozen_throughout, parameters_without_optimizer
from gradwatch.analysis.history import RunReader
from gradwatch.errors import EmptyRun
from gradwatch.record import ParameterInfo, StepRecord
from gradwatch.testing import replaced, steady, stream

from .made import calm, changed, codes, falling, parameters, run_of, the, with_layers, with_weights


def test_a_healthy_training_has_no_finding(tmp_path):
    assert codes(run_of(tmp_path, calm())) == []


def test_every_step_skipped(tmp_path):
    found = the(run_of(tmp_path, changed(calm(), skipped=True, loss_scale=1024.0)), "all-steps-skipped")
    assert (found.severity, found.certainty, found.steps) == ("critical", "shown", (0, 299))
    assert "GradScaler" in found.cause
    by_hand = the(run_of(tmp_path / "hand", changed(calm(), skipped=True)), "all-steps-skipped")
    assert "zero_grad" in by_hand.cause


def test_a_scaler_that_finds_its_level_skips_a_few(tmp_path):
    records = changed(calm(), skipped=lambda i: i < 12, loss_scale=lambda i: 2.0 ** max(10, 24 - i))
    assert "all-steps-skipped" not in codes(run_of(tmp_path, records))


@pytest.mark.parametrize(
    ("rate", "severity"),
    [
        pytest.param(lambda i: 0.0, "critical", id="always"),
        pytest.param(lambda i: 0.1 if i < 100 else 0.0, "warning", id="two thirds"),
        pytest.param(lambda i: 0.1 * min(1.0, i / 50), None, id="a warm-up begins at 0"),
        pytest.param(lambda i: max(0.0, 0.1 * (1 - i / 290)), None, id="a schedule ends at 0"),
    ],
)
def test_a_learning_rate_of_zero(tmp_path, rate, severity):
    run = run_of(tmp_path, changed(calm(), learning_rates=lambda i: (rate(i),)))
    found = [finding.severity for finding in run.diagnosis() if finding.code == "learning-rate-zero"]
    assert found == ([severity] if severity else [])


@pytest.mark.parametrize(
    ("factor", "steps"),
    [
        pytest.param(0.5, (20, 299), id="halved every batch instead of every epoch"),
        pytest.param(0.9, (132, 299), id="a tenth less every batch"),
        pytest.param(0.98, None, id="falls to a four-hundredth"),
    ],
)
def test_a_rate_that_falls_to_next_to_nothing(tmp_path, factor, steps):
    """``factor ** i`` is below a millionth from i on: log(1e-6) / log(factor)."""
    run = run_of(tmp_path, changed(calm(300), learning_rates=lambda i: (0.1 * factor**i,)))
    assert ("learning-rate-zero" in codes(run)) == (steps is not None)
    if steps is not None:
        found = the(run, "learning-rate-zero")
        assert found.steps == steps
        assert "below a millionth of its highest, 0.1," in found.what
        assert "hardly move" in found.what


@pytest.mark.parametrize(("zeros", "told"), [(0, False), (1, False), (9, False), (60, True), (149, True)])
def test_a_schedule_that_ends_early(tmp_path, zeros, told):
    """One that ends at 0 with the last step is usual."""
    run = run_of(tmp_path, changed(calm(300), learning_rates=lambda i: (0.1 * (i < 300 - zeros),)))
    assert ("learning-rate-zero" in codes(run)) == told
    if told:
        found = the(run, "learning-rate-zero")
        assert (found.severity, found.steps) == ("warning", (300 - zeros, 299))
        assert "to the end" in found.what


@pytest.mark.parametrize(("update", "told"), [(0.0, True), (1e-9, False)])
def test_a_group_without_a_rate(tmp_path, update, told):
    """The record does not say which parameters a group has: their updates tell."""
    names = parameters("body.weight", "head.weight")
    records = with_weights(with_layers(calm(100), [1.0, 1.0], names), [1.0, 1.0], [update, 1e-3])
    run = run_of(tmp_path, changed(records, learning_rates=(0.0, 0.1)))
    if not told:
        assert "learning-rate-zero" not in codes(run)
        return
    found = the(run, "learning-rate-zero")
    assert (found.severity, found.parameters) == ("warning", ("body.weight",))


def test_one_group_with_a_rate_is_enough(tmp_path):
    assert "learning-rate-zero" not in codes(run_of(tmp_path, changed(calm(), learning_rates=(0.0, 0.1))))


@pytest.mark.parametrize(("share", "severity"), [(1.0, "critical"), (0.6, "warning"), (0.3, None)])
def test_gradients_that_are_zero(tmp_path, share, severity):
    norms = [0.0 if i % 10 < 10 * share else n for i, n in enumerate(steady(300))]
    run = run_of(tmp_path, stream(norms, losses=falling(300)))
    found = [finding.severity for finding in run.diagnosis() if finding.code == "zero-gradients"]
    assert found == ([severity] if severity else [])


@pytest.mark.parametrize(("source", "told"), [({"source": "trainer"}, True), ({}, False)])
def test_two_rows_without_a_gradient_tell_where_each_stands_for_several_steps(tmp_path, source, told):
    run = run_of(tmp_path, stream([0.0, 0.0], losses=[0.0, 0.0]), meta=source)
    found = [(f.severity, f.certainty) for f in run.diagnosis() if f.code == "zero-gradients"]
    assert found == ([("warning", "likely")] if told else [])


@pytest.mark.parametrize(("after", "told"), [(0.34, {"zero-gradients"}), (34.0, {"zero-gradients", "diverged"})])
def test_a_gradient_that_is_gone_from_a_step_on_is_no_divergence_unless_the_loss_stays_above_its_start(
    tmp_path, after, told
):
    """One batch kills every unit: the loss leaps once, and stands at what an output of 0 costs."""
    norms = [*steady(30), *[0.0] * 70]
    losses = [0.93, *falling(29, 0.12, 0.1, 0.02), 5e13, *falling(69, after, after, 0.02)]
    run = run_of(tmp_path, stream(norms, losses=losses), meta={"source": "trainer"})
    assert {"zero-gradients", "diverged"} & set(codes(run)) == told
    found = the(run, "zero-gradients")
    assert (found.severity, found.steps) == ("warning", (30, 99))
    assert "before step 30" in found.remedy


def test_no_threshold_is_advised_to_a_training_without_gradient(tmp_path):
    advice = run_of(tmp_path, stream([0.0] * 400, losses=[0.0] * 400)).recommend()
    assert advice.max_norm is None
    assert "No clipping threshold would have prevented that" in advice.refused


def test_a_loss_that_never_changes(tmp_path):
    found = the(run_of(tmp_path, stream(steady(300), losses=[0.7] * 300)), "constant-loss")
    assert found.severity == "warning"  # the weights move: what is logged is not what is trained on
    assert found.evidence["loss"].value == 0.7
    nearly = stream(steady(300), losses=replaced([0.7] * 300, {150: 0.7 + 1e-15}))
    assert "constant-loss" not in codes(run_of(tmp_path / "near", nearly))


@pytest.mark.parametrize("loss", [0.0, float(np.float32(0.0001)), 0.7])
def test_a_logged_loss_of_one_digit_beside_gradients_is_a_surrogate_or_rounded_and_a_recorded_one_is_exact(
    tmp_path, loss
):
    records = stream(steady(300), losses=[loss] * 300)
    assert "constant-loss" not in codes(run_of(tmp_path / "a", records, meta={"source": "trainer"}))
    assert "constant-loss" in codes(run_of(tmp_path / "b", records))


def stale(steps=100):
    """An optimizer whose parameters belong to no module and never have a gradient."""
    names = parameters("group0.0", "group0.1")
    return with_layers(stream([0.0] * steps), [0.0, 0.0], names, present=[False, False])


def test_an_optimizer_of_parameters_that_are_gone(tmp_path):
    meta = {"parameters_without_optimizer": json.dumps(["0.weight", "2.weight"])}
    found = the(run_of(tmp_path, stale(), meta=meta), "stale-optimizer")
    assert (found.severity, found.certainty) == ("critical", "shown")
    assert found.parameters[:2] == ("0.weight", "2.weight")
    assert codes(run_of(tmp_path / "alone", stale()))[0] == "stale-optimizer"


@pytest.mark.parametrize(("meta", "expected"), [(["0.weight"], "stale-optimizer"), ([], "zero-gradients")])
def test_a_model_that_is_replaced_later_leaves_its_optimizer_behind(tmp_path, meta, expected):
    names = parameters("0.weight", "0.bias")
    gone = with_layers(stream([0.0] * 200, first_step=100), [0.0, 0.0], names, present=[False, False])
    records = with_layers(calm(100), [1.0, 0.5], names) + gone
    run = run_of(tmp_path, records, meta={"parameters_without_optimizer": json.dumps(meta)})
    found = the(run, expected)
    assert found.steps == (100, 299)
    assert not ({"stale-optimizer", "zero-gradients"} - {expected}) & set(codes(run))


def test_an_optimizer_of_a_model_whose_copy_is_trained(tmp_path):
    """The recording of a script knows the model that the optimizer holds; one that attaches knows the copy."""
    records = with_layers(stream([0.0] * 100), [0.0, 0.0], parameters("0.weight", "0.bias"), present=[False, False])
    assert codes(run_of(tmp_path / "detached", records)) == ["no-gradient"]
    found = the(run_of(tmp_path / "copied", records, meta={"trained_instead.0": "Cnn"}), "stale-optimizer")
    assert "no-gradient" not in codes(Run(tmp_path / "copied"))
    assert (found.severity, found.parameters) == ("critical", ("0.weight", "0.bias"))
    assert "another Cnn" in found.what
    assert found.remedy == the(run_of(tmp_path / "gone", stale()), "stale-optimizer").remedy


def test_a_layer_that_is_replaced_is_not_said_to_be_cut_off(tmp_path):
    """The optimizer holds the old head; of the new one, which has its name, no optimizer knows."""
    names = parameters("body.weight", "neck.weight", "head.weight")
    records = with_layers(calm(), [1.0, 1.0, 0.0], names, present=[True, True, False])
    assert "no-gradient" in codes(run_of(tmp_path / "cut", records))
    replaced_head = run_of(
        tmp_path / "new", records, meta={"parameters_without_optimizer": json.dumps(["head.weight"])}
    )
    assert "no-gradient" not in codes(replaced_head)
    assert "head.weight" in the(replaced_head, "parameters-without-optimizer").parameters


@pytest.mark.parametrize(("steps", "severity"), [(5, "info"), (39, "info"), (40, "warning")])
def test_a_part_without_a_gradient_may_join_after_a_few_steps(tmp_path, steps, severity):
    records = with_layers(calm(steps), [0.0, 1.0], parameters("0.weight", "2.weight"))
    assert the(run_of(tmp_path, records), "dead-parameters").severity == severity


@pytest.mark.parametrize(
    ("steps", "zeros", "severity"), [(5, 3, "info"), (39, 30, "info"), (40, 30, "warning"), (5, 5, "critical")]
)
def test_a_few_steps_part_of_which_have_no_gradient_may_be_a_plateau_of_rewards(tmp_path, steps, zeros, severity):
    run = run_of(tmp_path, stream([0.0] * zeros + [1.0] * (steps - zeros)))
    assert the(run, "zero-gradients").severity == severity


def test_an_optimizer_without_steps_whose_parameters_other_code_moves(tmp_path):
    still = the(run_of(tmp_path / "still", stream([])), "no-steps")
    moved = the(run_of(tmp_path / "moved", stream([]), meta={"moved_without_steps.0": "true"}), "no-steps")
    assert still.what.endswith("so its parameters are not trained")
    assert moved.what.endswith("other code moves its parameters")
    assert "second step" in moved.remedy


def test_parameters_of_no_module_that_train_are_no_matter(tmp_path):
    names = parameters("group0.0", "group0.1")
    assert "stale-optimizer" not in codes(run_of(tmp_path, with_layers(calm(), [0.8, 0.6], names)))


def test_adapters_that_get_no_gradient(tmp_path):
    names = parameters("b0.lora_A", "b1.lora_A", "head.weight")
    found = the(run_of(tmp_path, with_layers(calm(), [1, 1, 1], names, present=[False, False, True])), "no-gradient")
    assert found.severity == "warning"
    assert found.parameters == ("b0.lora_A", "b1.lora_A")
    assert "every parameter called lora_A" in found.what


def test_an_unused_head_is_information(tmp_path):
    names = (*parameters("body.weight", shape=(100, 100)), *parameters("pooler.weight"))
    run = run_of(tmp_path, with_layers(calm(), [1, 1], names, present=[True, False]))
    assert the(run, "no-gradient").severity == "info"
    assert run.summary().verdict == "healthy"


def test_a_gradient_that_comes_late_is_a_gradient(tmp_path):
    records = with_layers(calm(), [1, 1])
    late = with_layers(calm(), [1, 1], present=[True, False])
    assert "no-gradient" not in codes(run_of(tmp_path, late[:150] + records[150:]))


def test_parameters_that_no_optimizer_holds(tmp_path):
    meta = {"parameters_without_optimizer": json.dumps(["0.weight"])}
    found = the(run_of(tmp_path, calm(), meta=meta), "parameters-without-optimizer")
    assert found.parameters == ("0.weight",)
    assert "0.weight gets a gradient, but no optimizer holds it" in found.what
    assert found.severity == "warning"


@pytest.mark.parametrize(
    ("trained", "lost", "severity", "since"),
    [
        pytest.param(0, 60, "critical", "; no parameter", id="from the first step on"),
        pytest.param(20, 40, "critical", "from step 20 on no parameter", id="from a later step on"),
        pytest.param(1000, 40, "warning", None, id="a few steps at the end"),
        pytest.param(0, 4, "warning", None, id="too few steps"),
    ],
)
def test_nothing_is_trained_where_all_gradients_go_past_the_optimizer(tmp_path, trained, lost, severity, since):
    meta = {"parameters_without_optimizer": json.dumps(["0.lora_A", "0.lora_B"])}
    run = run_of(tmp_path, stream([*steady(trained), *[0.0] * lost]), meta=meta)
    found = the(run, "parameters-without-optimizer")
    assert found.severity == severity
    assert ("nothing is trained" in found.what) == (severity == "critical")
    if since is not None:
        assert since in found.what
        assert codes(run)[0] == "parameters-without-optimizer"
        assert "zero-gradients" not in codes(run), "that names another cause"


def test_something_is_trained_where_another_optimizer_gets_gradients(tmp_path):
    meta = {"parameters_without_optimizer": json.dumps(["0.lora_A"])}
    run_of(tmp_path, stream([0.0] * 60), meta=meta)
    facts = read_facts(RunReader(tmp_path))
    for norms, severity in ((np.ones(60), "warning"), (np.zeros(60), "critical")):
        head = dataclasses.replace(facts.optimizers[0], frame=facts.optimizers[0].frame.assign(total_norm=norms))
        both = dataclasses.replace(facts, optimizers=(facts.optimizers[0], head))
        assert parameters_without_optimizer(both, both.optimizers[0]).severity == severity


BF16 = parameters("a.weight", "b.weight", shape=(32, 32), dtype="bfloat16")


@pytest.mark.parametrize(
    ("update", "dtype", "expected"),
    [
        pytest.param(0.0, "bfloat16", "critical", id="nothing moves"),
        pytest.param(1.5e-7, "bfloat16", "critical", id="one entry in a thousand"),
        pytest.param(4.9e-6, "bfloat16", "warning", id="one in a hundred"),
        pytest.param(6.1e-4, "bfloat16", None, id="a quarter"),
        pytest.param(1.5e-7, "float32", None, id="float32 has room"),
    ],
)
def test_updates_that_round_to_nothing(tmp_path, update, dtype, expected):
    names = parameters("a.weight", "b.weight", shape=(32, 32), dtype=dtype)
    records = with_weights(with_layers(calm(), [0.8, 0.6], names), [1.0, 1.0], [update, update])
    run = run_of(tmp_path, records, "AdamW")
    found = [finding.severity for finding in run.diagnosis() if finding.code == "updates-below-precision"]
    assert found == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("update", "losses", "told"),
    [
        pytest.param(1e-4, [2.3 + 0.02 * (i % 5) for i in range(300)], True, id="the loss stands"),
        pytest.param(1e-4, falling(300), False, id="the loss falls"),
        pytest.param(1e-3, [2.3 + 0.02 * (i % 5) for i in range(300)], False, id="a third of the entries moves"),
        pytest.param(1e-4, [0.2 * (-1) ** i for i in range(300)], False, id="a loss about 0 shows no progress"),
    ],
)
def test_where_the_loss_stands_a_few_more_entries_may_move(tmp_path, update, losses, told):
    names = parameters("a.weight", "b.weight", shape=(32, 32), dtype="bfloat16")
    records = with_weights(with_layers(calm(losses=losses), [0.8, 0.6], names), [1.0, 1.0], [update, update])
    found = [f.severity for f in run_of(tmp_path, records, "AdamW").diagnosis() if f.code == "updates-below-precision"]
    assert found == (["warning"] if told else [])


@pytest.mark.parametrize("update", [1e-5, 1e-4, 1e-3])
def test_the_share_that_moves_is_estimated_within_a_factor_of_two(tmp_path, update):
    """Against a count of the entries that differ after rounding."""
    torch = pytest.importorskip("torch")
    weights = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).bfloat16()
    after = (weights.float() + update).bfloat16()
    moved = float((after != weights).float().mean())
    norms = [float(w.float().norm()) for w in (weights, after.float() - weights.float())]
    names = parameters("a.weight", shape=(200_000,), dtype="bfloat16")
    records = with_weights(with_layers(calm(), [1.0], names), [norms[0]], [norms[1]])
    found = [f for f in run_of(tmp_path, records, "AdamW").diagnosis() if f.code == "updates-below-precision"]
    assert bool(found) == (moved < 0.02)
    for finding in found:
        assert moved / 2 < finding.evidence["moved_entries"].value < 2 * moved


def test_gradients_that_are_never_zeroed(tmp_path):
    found = the(run_of(tmp_path, calm(), meta={"carried_steps.0": "298"}), "gradients-accumulate")
    assert found.severity == "warning"
    assert "zero_grad" in found.remedy


def test_gradients_that_every_tenth_step_zeroes(tmp_path):
    found = the(run_of(tmp_path, calm(), meta={"carried_steps.0": "270"}), "gradients-accumulate")
    assert "not zeroed at each step" in found.what
    assert "more seldom" in found.cause


@pytest.mark.parametrize(("mixed", "told"), [("299", True), ("30", False)])
def test_gradients_that_another_loss_left(tmp_path, mixed, told):
    meta = {"carried_steps.0": "0", "mixed_steps.0": mixed}
    found = [f for f in run_of(tmp_path, calm(), meta=meta).diagnosis() if f.code == "gradients-accumulate"]
    assert [f.severity for f in found] == (["warning"] if told else [])
    assert all("another" in f.what and "before its own backward" in f.remedy for f in found)


@pytest.mark.parametrize(
    ("meta", "told"),
    [
        pytest.param({"dropped_steps.0": "300"}, True, id="set to None"),
        pytest.param({"changed_steps.0": "300", "dropped_steps.0": "0"}, True, id="set to 0"),
        pytest.param({"changed_steps.0": "0", "dropped_steps.0": "0"}, False, id="the loss gives none"),
    ],
)
def test_gradients_that_are_zeroed_before_the_step(tmp_path, meta, told):
    records = with_layers(calm(), [0.0, 0.0], parameters("a.weight", "b.weight"))
    found = codes(run_of(tmp_path, records, meta=meta))
    assert found[:1] == (["all-steps-skipped"] if told else ["zero-gradients"])
    assert not {"no-gradient", "zero-gradients"} & set(found[1:])


@pytest.mark.parametrize(("loss", "code"), [(math.nan, "nonfinite-loss"), (2.0, "zero-gradients")])
def test_zero_gradients_of_a_loss_that_is_nan_are_not_the_fault(tmp_path, loss, code):
    records = changed(calm(), total_norm=0.0, loss=loss)
    assert codes(run_of(tmp_path, records))[:1] == [code]


@pytest.mark.parametrize(
    ("update", "losses", "clip", "expected"),
    [
        pytest.param(1e-7, [2.3] * 300, None, "learning-rate-zero", id="a rate of next to nothing"),
        pytest.param(1e-7, [2.3] * 300, 1e-6, "clipped-to-nothing", id="a threshold of next to nothing"),
        pytest.param(1e-7, falling(300), None, None, id="the loss falls"),
        pytest.param(1e-4, [2.3] * 300, None, None, id="the weights move by three percent"),
    ],
)
def test_updates_that_move_nothing(tmp_path, update, losses, clip, expected):
    rng = np.random.default_rng(0)
    noisy = [loss + 0.01 * rng.standard_normal() for loss in losses]
    names = parameters("a.weight", "b.weight", shape=(32, 32))
    records = with_weights(with_layers(calm(losses=noisy), [0.8, 0.6], names), [1.0, 1.0], [update, update])
    if clip is not None:
        records = changed(records, max_norm=clip, clip_coef=clip)
    found = codes(run_of(tmp_path, records, "AdamW"))
    assert found[:1] == [expected] if expected else not {"learning-rate-zero", "clipped-to-nothing"} & set(found)


def test_a_first_update_that_threw_the_weights_off_is_no_rate_of_next_to_nothing(tmp_path):
    """SGD at a rate of 3: the first updates change the weights by many times their norm, and the units are dead."""
    rng = np.random.default_rng(0)
    noisy = [2.3 + 0.01 * rng.standard_normal() for _ in range(300)]
    names = parameters("a.weight", "b.weight", shape=(32, 32))
    first, *rest = with_layers(calm(losses=noisy), [0.8, 0.6], names)
    records = [*with_weights([first], [1.0, 1.0], [4.8, 0.5]), *with_weights(rest, [1.0, 1.0], [1e-7, 1e-7])]
    assert "learning-rate-zero" not in codes(run_of(tmp_path, records))
    later = with_weights([first, *rest], [1.0, 1.0], [1e-7, 1e-7])
    assert "learning-rate-zero" in codes(run_of(tmp_path / "from the start", later))


@pytest.mark.parametrize("carried", ["0", "60"])
def test_accumulation_that_is_meant(tmp_path, carried):
    assert "gradients-accumulate" not in codes(run_of(tmp_path, calm(), meta={"carried_steps.0": carried}))


def test_accumulation_explains_the_divergence_and_comes_first(tmp_path):
    losses = falling(150, 2.0, 0.5) + [0.5 * 1.05**i for i in range(150)]
    norms = steady(150) + [1.05**i for i in range(150)]
    found = codes(run_of(tmp_path, stream(norms, losses=losses), meta={"carried_steps.0": "299"}))
    assert found[:2] == ["gradients-accumulate", "diverged"]


@pytest.mark.parametrize("present", [True, False])
def test_a_parameter_without_entries_has_nothing_to_learn(tmp_path, present):
    names = (*parameters("a.weight"), *parameters("empty", shape=(0,)))
    run = run_of(tmp_path, with_layers(calm(), [1.0, 0.0], names, present=[True, present]))
    assert not {"dead-parameters", "no-gradient"} & set(codes(run))


@pytest.mark.parametrize(
    ("frozen", "severity", "share"),
    [
        pytest.param([], "critical", "99.4%", id="a backbone without a gradient"),
        pytest.param(["0.weight"], "warning", "50%", id="a frozen backbone, and a head of two without one"),
        pytest.param(["0.weight", "1.weight"], None, "", id="all of them are frozen"),
    ],
)
def test_parameters_that_the_script_froze_are_not_missing(tmp_path, frozen, severity, share):
    names = (*parameters("0.weight", shape=(40, 40)), *parameters("1.weight", "2.weight"))
    records = with_layers(calm(), [1.0, 1.0, 1.0], names, present=[False, False, True])
    meta = {"frozen_parameters": json.dumps(frozen)} if frozen else None
    found = [f for f in run_of(tmp_path, records, meta=meta).diagnosis() if f.code == "no-gradient"]
    assert [f.severity for f in found] == ([severity] if severity else [])
    assert all(f"{share} of the trainable weights" in f.what for f in found)


@pytest.mark.parametrize(
    ("rivals", "frozen", "present", "severity"),
    [
        pytest.param(True, ["rnn.weight", "out.weight"], False, "warning", id="a discriminator that nobody thaws"),
        pytest.param(False, ["rnn.weight", "out.weight"], False, None, id="the only optimizer"),
        pytest.param(True, ["rnn.weight"], True, None, id="one parameter is not frozen"),
        pytest.param(True, ["rnn.weight", "out.weight"], True, None, id="thawed later"),
    ],
)
def test_an_optimizer_whose_parameters_are_all_frozen(tmp_path, rivals, frozen, present, severity):
    records = with_layers(calm(), [1.0, 1.0], present=[present, present])
    run_of(tmp_path, records, meta={"frozen_parameters": json.dumps(frozen)})
    facts = read_facts(RunReader(tmp_path))
    found = frozen_throughout(facts, dataclasses.replace(facts.optimizers[0], has_rivals=rivals))
    assert (found and (found.code, found.severity)) == (severity and ("no-gradient", severity))


def with_dead_units(records, dead):
    """The records of a layer with a bias of 48 units, of which so many get no gradient, and of a head."""
    infos = (
        ParameterInfo(name="body.weight", shape=(48, 64)),
        ParameterInfo(name="body.bias", shape=(48,)),
        ParameterInfo(name="head.weight", shape=(10, 48)),
    )
    zeros = np.array([64 * dead, dead, 0], np.float32)
    records = with_layers(records, [0.8, 0.3, 0.5], infos)
    return [dataclasses.replace(r, layers=dataclasses.replace(r.layers, zeros=zeros)) for r in records]


@pytest.mark.parametrize(
    ("dead", "last", "severity"),
    [
        pytest.param(45, 2.29, "warning", id="the loss stands"),
        pytest.param(45, 0.5, "info", id="the loss falls"),
        pytest.param(20, 2.29, None, id="fewer than half of the units"),
    ],
)
def test_a_layer_most_of_whose_units_are_dead(tmp_path, dead, last, severity):
    records = with_dead_units(calm(losses=falling(300, 2.3, last, noise=0.01)), dead)
    run = run_of(tmp_path, records)
    if severity is None:
        assert "dead-parameters" not in codes(run)
        return
    found = the(run, "dead-parameters")
    assert found.severity == severity
    assert found.what.startswith("at least 93.8% of the units of body get no gradient: ")
    share = (45 * 64 + 45) / (48 * 64 + 48 + 480)
    assert found.evidence["entries"].value == pytest.approx(share)


def test_parameters_that_are_dead(tmp_path):
    names = parameters("0.weight", "2.weight")
    found = the(run_of(tmp_path, with_layers(calm(), [0.0, 1.0], names)), "dead-parameters")
    assert (found.parameters, found.severity) == (("0.weight",), "warning")
    once = np.ones((300, 2))
    once[:, 0] = 0.0
    once[::2, 0] = 1e-9
    assert "dead-parameters" not in codes(run_of(tmp_path / "near", with_layers(calm(), once, names)))


def test_an_optimizer_that_never_stepped(tmp_path):
    from gradwatch.store import StoreWriter

    writer = StoreWriter(tmp_path)
    writer.begin_attempt({}, {"actor": ("Adam", {}), "critic": ("SGD", {})})
    writer.add_parameters("critic", parameters("critic.weight"))
    writer.append([StepRecord(step=i, optimizer="actor", total_norm=1.0) for i in range(100)])
    writer.end_attempt("closed")
    found = the(Run(tmp_path), "no-steps")
    assert (found.optimizer, found.severity) == ("critic", "warning")
    assert Run(tmp_path).summary().optimizer == "actor"
    with pytest.raises(EmptyRun, match="no step of optimizer critic, while others made some"):
        Run(tmp_path).summary("critic")
    assert "warm-up" not in " ".join(Run(tmp_path).recommend("critic").reasons)


def test_nothing_is_said_of_steps_that_were_too_few(tmp_path):
    assert codes(run_of(tmp_path, changed(calm(4), skipped=True))) == ["too-short"]


@pytest.mark.parametrize(
    ("zeros", "end", "source", "severity"),
    [
        (3, 1.7, {"source": "trainer"}, "info"),
        (4, 1.7, {"source": "trainer"}, "warning"),
        (4, 0.2, {"source": "trainer"}, "info"),
        (3, 0.2, {}, "warning"),
    ],
)
def test_zero_gradients_in_most_of_imported_rows_are_information_where_others_train_or_the_loss_is_halved(
    tmp_path, zeros, end, source, severity
):
    """A batch of one sample that is already learnt has a gradient of exactly 0."""
    norms = [norm * (i % 5 >= zeros) for i, norm in enumerate(steady(300))]
    run = run_of(tmp_path, stream(norms, losses=falling(300, 2.0, end)), meta=source)
    assert the(run, "zero-gradients").severity == severity


@pytest.mark.parametrize(
    ("zeros", "alive", "source", "severity"),
    [
        pytest.param(6, 300, {"source": "trainer"}, "info", id="some groups"),
        pytest.param(8, 300, {"source": "trainer"}, "warning", id="most groups"),
        pytest.param(6, 260, {"source": "trainer"}, "warning", id="none any more"),
        pytest.param(6, 300, {}, "warning", id="recorded"),
    ],
)
def test_zero_gradients_of_a_surrogate_loss_are_information_while_others_train(
    tmp_path, zeros, alive, source, severity
):
    """Groups of equal rewards have an advantage of 0; the other groups teach."""
    norms = [norm * (i % 10 >= zeros and i < alive) for i, norm in enumerate(steady(300))]
    losses = [0.1 * (-1) ** i * (norm > 0) for i, norm in enumerate(norms)]
    run = run_of(tmp_path, stream(norms, losses=losses), meta=source)
    assert the(run, "zero-gradients").severity == severity


@pytest.mark.parametrize(("end", "severity"), [(1.2, "info"), (1.9, "critical")])
@pytest.mark.parametrize("source", [{"source": "trainer"}, {}])
def test_a_log_whose_norms_are_all_zero_while_the_loss_falls_is_not_of_the_gradient(tmp_path, end, severity, source):
    run = run_of(tmp_path, stream([0.0] * 40, losses=falling(40, 2.1, end)), meta=source)
    found = the(run, "zero-gradients")
    assert found.severity == (severity if source else "critical")
    assert ("does not hold the gradient's norm" in found.what) == (found.severity == "info")


def test_few_losses_that_scatter_tell_nothing_of_norms_that_are_all_zero(tmp_path):
    """A loss that stands does: nothing trains."""
    meta = {"source": "trainer_state.json"}
    for name, losses, severity in (
        ("scatters", [2.1, 1.9, 1.75, 1.96, 1.78, 1.33, 1.46, 1.91], "info"),
        ("stands", [2.1, 2.1, 2.11, 2.1, 2.09, 2.1, 2.1, 2.1], "critical"),
    ):
        run = run_of(tmp_path / name, stream([0.0] * 8, losses=losses), meta=meta)
        assert the(run, "zero-gradients").severity == severity


@pytest.mark.parametrize(("end", "told"), [(2.3, True), (0.01, False)])
def test_imported_norms_that_fall_to_nothing_over_a_loss_that_was_not_learnt(tmp_path, end, told):
    """The gradient of a training that is solved falls as well."""
    norms, losses = [*steady(12), *[1e-7] * 6], [*falling(12, 3.0, 2.3), *[end] * 6]
    run = run_of(tmp_path, stream(norms, losses=losses), meta={"source": "trainer_state.json"})
    assert ("zero-gradients" in codes(run)) == told


@pytest.mark.parametrize(("until", "told"), [(99, False), (280, True), (None, True)])
def test_a_branch_that_joins_later_is_not_dead(tmp_path, until, told):
    names = parameters("0.weight", "2.weight")
    norms = np.ones((300, 2))
    norms[: 300 if until is None else until + 1, 1] = 0.0
    norms[281:, 1] *= 0.0 if until == 280 else 1.0
    run = run_of(tmp_path, with_layers(calm(), norms, names))
    assert any(event.kind == "dead" for event in run.events())
    assert ("dead-parameters" in codes(run)) == told


def test_gradients_that_are_filled_with_zeros_do_not_add_up(tmp_path):
    meta = {"carried_steps.0": "298", "changed_steps.0": "299"}
    found = codes(run_of(tmp_path / "zeros", stream([0.0] * 300), meta=meta))
    assert found[0] == "all-steps-skipped"
    assert "gradients-accumulate" not in found
    assert "gradients-accumulate" in codes(run_of(tmp_path / "near", calm(), meta=meta))


def test_a_part_of_the_model_that_is_never_zeroed_is_named(tmp_path):
    meta = {"carried_steps.0": "298", "carried_in.0": '["head.weight"]'}
    found = the(run_of(tmp_path, calm(), meta=meta), "gradients-accumulate")
    assert found.parameters == ("head.weight",)
    assert found.what.startswith("gradients of head.weight are never zeroed")
    assert "without head.weight" in found.cause
