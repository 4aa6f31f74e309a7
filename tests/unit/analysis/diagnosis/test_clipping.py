"""Clipping that harms, that does nothing, and that is not seen."""

import pytest

from gradwatch.testing import steady, stream

from .made import calm, changed, codes, falling, parameters, run_of, the, with_layers


@pytest.mark.parametrize(
    ("threshold", "optimizer", "found"),
    [
        (0.0, "SGD", True),
        (0.0, "Adam", True),
        (1e-9, "SGD", True),
        (1e-9, "Adam", False),
        (0.5, "SGD", False),
    ],
)
def test_a_threshold_that_leaves_nothing(tmp_path, threshold, optimizer, found):
    run = run_of(tmp_path, stream(steady(300), max_norm=threshold), optimizer)
    assert ("clipped-to-nothing" in codes(run)) == found
    assert "threshold-too-low" not in codes(run)


OWNED = parameters("huge", "a.weight", "b.weight")


def standing(steps=300):
    return calm(steps, losses=falling(steps, start=2.3, end=2.29, noise=0.01))


@pytest.mark.parametrize(
    ("threshold", "losses", "found"),
    [(1e-10, standing, True), (1e-3, standing, False), pytest.param(1e-10, calm, False, id="the loss falls")],
)
def test_a_threshold_that_leaves_adam_less_than_its_eps(tmp_path, threshold, losses, found):
    records = with_layers(losses(), [0.8, 0.6, 0.5], OWNED)
    run = run_of(tmp_path, changed(records, max_norm=threshold, clip_coef=threshold), "Adam", {"lr": 0.1, "eps": 1e-8})
    assert ("clipped-to-nothing" in codes(run)) == found


@pytest.mark.parametrize(
    ("optimizer", "threshold", "losses", "found"),
    [
        pytest.param("Adam", 1e-10, standing, True, id="a hundredth of eps"),
        pytest.param("SGD", 1e-10, standing, True, id="next to nothing for SGD too"),
        pytest.param("Adam", 1e-8, standing, False, id="as large as eps: half of the update"),
        pytest.param("Adam", 1e-10, calm, False, id="the loss falls: a rate for SGD"),
        pytest.param("Lion", 1e-10, standing, False, id="no eps"),
    ],
)
def test_a_threshold_by_value_that_leaves_adam_less_than_its_eps(tmp_path, optimizer, threshold, losses, found):
    records = changed(with_layers(losses(), [0.8, 0.6, 0.5], OWNED), clip_value=threshold, cut_entries=27)
    run = run_of(tmp_path, records, optimizer, {"lr": 0.1, "eps": 1e-8})
    assert ("clipped-to-nothing" in codes(run)) == found
    if found:
        told = the(run, "clipped-to-nothing")
        assert told.what.startswith("clipping at 1e-10 leaves nothing")
        assert told.evidence["threshold"].value == threshold


@pytest.mark.parametrize(("norm", "found"), [(1.0, True), (1e-9, False)])
def test_gradients_that_are_below_eps_without_the_clipping(tmp_path, norm, found):
    records = changed(with_layers(standing(), [norm, norm, norm], OWNED), clip_value=1e-10, cut_entries=27)
    run = run_of(tmp_path, records, "Adam", {"lr": 0.1, "eps": 1e-8})
    assert ("clipped-to-nothing" in codes(run)) == found


@pytest.mark.filterwarnings("error")
def test_adam_without_a_loss_is_judged_without_a_warning_of_numpy(tmp_path):
    assert "clipped-to-nothing" not in codes(run_of(tmp_path, stream(steady(300)), "Adam", {"lr": 0.1, "eps": 1e-8}))


@pytest.mark.parametrize(
    ("threshold", "optimizer", "found"), [(1e-4, "SGD", True), (1e-4, "Adam", False), (0.3, "SGD", False)]
)
def test_a_threshold_by_value_far_below_the_entries(tmp_path, threshold, optimizer, found):
    records = changed(with_layers(calm(300), [0.8, 0.6, 0.5], OWNED), clip_value=threshold, cut_entries=9)
    assert ("threshold-too-low" in codes(run_of(tmp_path, records, optimizer))) == found


def owned(coef):
    records = with_layers(calm(300), [1e6, 1.0, 1.0], OWNED)
    return changed(records, max_norm=1.0, clip_coef=coef)


@pytest.mark.parametrize(
    ("optimizer", "eps", "coef", "found"),
    [
        pytest.param("Adam", 1e-5, 1e-6, True, id="under eps"),
        pytest.param("Adam", 1e-9, 1e-6, False, id="above eps: Adam does not mind"),
        pytest.param("Adam", 1e-5, 1.0, False, id="not clipped"),
        pytest.param("SGD", None, 1e-6, True, id="SGD loses its learning rate"),
        pytest.param("Muon", 1e-5, 1e-6, False, id="Muon's eps floors a norm"),
        pytest.param("SomethingNew", 1e-5, 1e-6, False, id="unknown is not SGD"),
    ],
)
def test_one_parameter_owns_the_norm_and_the_rest_starves(tmp_path, optimizer, eps, coef, found):
    settings = {"lr": 0.1} | ({} if eps is None else {"eps": eps})
    run = run_of(tmp_path, owned(coef), optimizer, settings)
    assert ("clip-starves" in codes(run)) == found
    if found:
        starving = the(run, "clip-starves")
        assert starving.parameters[0] == "huge"
        assert starving.severity == "warning"
        assert "LayerNormClip" in starving.remedy


def test_a_norm_that_is_shared_starves_nobody(tmp_path):
    records = changed(with_layers(calm(300), [1.0, 1.0, 1.0], OWNED), max_norm=1e-6, clip_coef=1e-6)
    assert "clip-starves" not in codes(run_of(tmp_path, records, "Adam", {"lr": 0.1, "eps": 1e-5}))


@pytest.mark.parametrize(
    ("optimizer", "max_norm", "found"),
    [
        ("SGD", 0.01, True),
        ("SGD", 0.5, False),
        ("AdamW", 0.01, False),
        ("Prodigy", 0.01, False),
    ],
)
def test_a_threshold_far_below_the_median(tmp_path, optimizer, max_norm, found):
    run = run_of(tmp_path, stream(steady(300), max_norm=max_norm), optimizer)
    assert ("threshold-too-low" in codes(run)) == found


def test_a_clip_call_that_comes_after_the_step(tmp_path):
    run = run_of(tmp_path, changed(calm(300), clip_fault="after-step"))
    found = the(run, "ineffective-clipping")
    assert found.severity == "warning"
    assert "between backward and the optimizer's step" in found.remedy
    assert "ineffective-clipping" not in codes(run_of(tmp_path / "near", calm(300)))


@pytest.mark.parametrize(("changed_steps", "found"), [("300", True), ("40", True), ("20", False), (None, False)])
def test_gradients_that_the_script_changes(tmp_path, changed_steps, found):
    meta = {} if changed_steps is None else {"changed_steps.0": changed_steps}
    run = run_of(tmp_path, calm(300), meta=meta)
    assert ("clipped-by-script" in codes(run)) == found
    if found:
        assert "after that change" in the(run, "clipped-by-script").what


@pytest.mark.parametrize(("max_norm", "found"), [(100.0, True), (1.3, False)])
def test_a_threshold_that_never_acts(tmp_path, max_norm, found):
    assert ("threshold-idle" in codes(run_of(tmp_path, stream(steady(300), max_norm=max_norm)))) == found


@pytest.mark.parametrize(("largest", "found"), [(0.99, True), (0.5, False)])
def test_one_parameter_carries_the_norm(tmp_path, largest, found):
    names = parameters("a", "b", "c", "d")
    run = run_of(tmp_path, with_layers(calm(300), [largest, 0.1, 0.3, 0.05], names))
    assert ("one-parameter-dominates" in codes(run)) == found


def test_clipping_each_micro_batch_is_information(tmp_path):
    found = the(run_of(tmp_path, changed(calm(300), clip_fault="micro-batch")), "ineffective-clipping")
    assert (found.severity, found.evidence["steps_with_fault"].value) == ("info", 300)
    assert "while they accumulate" in found.what
    assert "after the last micro-batch" in found.remedy


def in_turn(first, second):
    """Steps at even numbers, and at odd ones gradients that were dropped; each with its threshold, or None."""
    return changed(
        calm(300),
        skipped=lambda i: i % 2 == 1,
        max_norm=lambda i: second if i % 2 else first,
        clip_coef=lambda i: 0.5 if (second if i % 2 else first) else 1.0,
    )


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        pytest.param(None, 0.5, True, id="the clip call gets the parameters of the other network"),
        pytest.param(0.5, 0.5, False, id="a loop that clips before it leaves batches out"),
        pytest.param(0.5, None, False, id="what steps is clipped"),
        pytest.param(None, None, False, id="nothing is clipped"),
    ],
)
def test_clipped_gradients_that_no_step_uses(tmp_path, first, second, found):
    run = run_of(tmp_path, in_turn(first, second))
    assert ("ineffective-clipping" in codes(run)) == found
    if found:
        told = the(run, "ineffective-clipping")
        assert told.severity == "warning"
        assert "none of the 150 steps is clipped, and the clip call acts 150 times" in told.what


@pytest.mark.parametrize(
    ("names", "found"),
    [
        pytest.param(("value.weight", "value.bias", "policy.weight"), True, id="of one module"),
        pytest.param(("value.weight", "critic.bias", "policy.weight"), False, id="of two"),
        pytest.param(("net.weight", "net.bias", "net.scale"), False, id="there is no other module"),
    ],
)
@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_a_module_owns_the_norm_with_two_parameters(tmp_path, optimizer, names, found):
    records = with_layers(calm(300), [8e5, 6e5, 1.0], parameters(*names, shape=(300, 300)))
    run = run_of(tmp_path, changed(records, max_norm=1.0, clip_coef=1e-6), optimizer, {"lr": 0.1, "eps": 1e-5})
    assert ("clip-starves" in codes(run)) == found
    if found:
        starving = the(run, "clip-starves")
        assert starving.parameters == names
        assert starving.what.startswith("value has >99.9% of the squared norm")
        assert "clipped-to-nothing" not in codes(run)
