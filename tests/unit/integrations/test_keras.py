"""Keras on PyTorch: each update is a step, with the gradients that Keras had, and the training stays as it is."""

import os

import numpy as np
import pytest
import torch

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
if keras.backend.backend() != "torch":
    pytest.skip("Keras runs on another backend", allow_module_level=True)

from gradwatch import Run  # noqa: E402
from gradwatch.analysis.statistics.validation import validation_losses  # noqa: E402
from gradwatch.errors import BadArgument  # noqa: E402
from gradwatch.integrations.keras import GradWatchCallback  # noqa: E402

RATE, LIMIT = 0.05, 0.1
X = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
Y = 3 * X.sum(1, keepdims=True)


def fit(callback=None, *, scaled=False, optimizer="SGD", **settings):
    """Two epochs of three batches; the weights, and the losses."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(3, activation="tanh"), keras.layers.Dense(1)]
    )
    one = getattr(keras.optimizers, optimizer)(RATE, **settings)
    one = keras.optimizers.LossScaleOptimizer(one) if scaled else one
    model.compile(optimizer=one, loss="mse")
    history = model.fit(
        X, Y, epochs=2, batch_size=8, shuffle=False, verbose=0, callbacks=[callback] if callback else []
    )
    return model, [weight.tobytes() for weight in model.get_weights()], history.history["loss"]


def expected(clip, accumulated=1):
    """The total norms before clipping, the factors and the losses of a training by plain PyTorch with SGD."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(3, activation="tanh"), keras.layers.Dense(1)]
    )
    weights = [variable.value for variable in model.trainable_variables]
    found, waiting = [], []
    for at in range(6):
        part = slice(8 * (at % 3), 8 * (at % 3) + 8)
        loss = (model(X[part]) - torch.tensor(Y[part])).square().mean()
        waiting.append((torch.autograd.grad(loss, weights), loss.item()))
        if len(waiting) < accumulated:
            continue
        gradients = [sum(each) / accumulated for each in zip(*(some for some, _ in waiting), strict=True)]
        losses, waiting = [loss for _, loss in waiting], []
        clipped = clip(gradients)
        before, after = (
            torch.linalg.vector_norm(torch.cat([g.flatten() for g in some])) for some in (gradients, clipped)
        )
        found.append((float(before), float(after / before), float(np.mean(losses))))
        with torch.no_grad():
            torch._foreach_sub_(weights, [RATE * gradient for gradient in clipped])
    return np.array(found).T


def by_global_norm(gradients):
    total = torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))
    return [g * (LIMIT / total).clamp(max=1) for g in gradients]


CLIPS = {
    "none": ({}, lambda gradients: gradients),
    "clipnorm": ({"clipnorm": LIMIT}, lambda gradients: [g * (LIMIT / g.norm()).clamp(max=1) for g in gradients]),
    "global_clipnorm": ({"global_clipnorm": LIMIT}, by_global_norm),
    "clipvalue": ({"clipvalue": LIMIT}, lambda gradients: [g.clamp(-LIMIT, LIMIT) for g in gradients]),
}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", CLIPS)
def test_a_step_has_what_keras_had(tmp_path, kind, scaled):
    settings, clip = CLIPS[kind]
    _, weights, losses = fit(scaled=scaled, **settings)
    model, recorded, recorded_losses = fit(GradWatchCallback(tmp_path / "run"), scaled=scaled, **settings)
    assert (recorded, recorded_losses) == (weights, losses)
    norms, factors, of_steps = expected(clip)
    run = Run(tmp_path / "run")
    steps = run.steps()
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-4)
    np.testing.assert_allclose(steps["loss"], of_steps, rtol=1e-4)
    np.testing.assert_allclose(steps["learning_rate"], RATE, rtol=1e-6)
    if kind != "clipvalue":
        np.testing.assert_allclose(steps["clip_coef"], factors, rtol=1e-4)
    assert steps["max_norm"].notna().all() == (kind == "global_clipnorm")
    assert steps["clip_value"].notna().all() == (kind == "clipvalue")
    assert steps["clip_fault"].isna().all()
    assert run.optimizers == {"0": "SGD"}
    assert [name.split("/")[-1] for name in run.layers("norm").columns] == ["kernel", "bias"] * 2
    left = model.optimizer.inner_optimizer if scaled else model.optimizer
    assert not {"_clip_gradients", "_backend_update_step", "scale_loss"} & (
        vars(left).keys() | vars(model.optimizer).keys()
    )


def test_accumulated_gradients_are_one_step(tmp_path):
    settings = {"gradient_accumulation_steps": 2, "global_clipnorm": LIMIT}
    _, weights, _ = fit(**settings)
    assert fit(GradWatchCallback(tmp_path / "run"), **settings)[1] == weights
    norms, factors, _ = expected(by_global_norm, accumulated=2)
    steps = Run(tmp_path / "run").steps()
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-4)
    np.testing.assert_allclose(steps["clip_coef"], factors, rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["Adam", "RMSprop", "AdamW", "Adagrad"])
def test_other_optimizers_train_as_without(tmp_path, optimizer):
    _, weights, _ = fit(optimizer=optimizer, clipnorm=LIMIT)
    assert fit(GradWatchCallback(tmp_path / "run"), optimizer=optimizer, clipnorm=LIMIT)[1] == weights
    assert Run(tmp_path / "run").optimizers == {"0": optimizer}


def test_a_second_fit_goes_on_with_the_run(tmp_path):
    callback = GradWatchCallback(tmp_path / "run")
    for _ in range(2):
        fit(callback)
    run = Run(tmp_path / "run")
    assert (len(run.steps()), run.summary().attempts) == (12, 2)


def test_a_fault_of_the_recording_leaves_the_training_alone(tmp_path, monkeypatch):
    _, weights, _ = fit(clipnorm=LIMIT)

    def fails(*_):
        raise RuntimeError("planted")

    monkeypatch.setattr("gradwatch.integrations.keras.KerasClip.clip", fails)
    assert fit(GradWatchCallback(tmp_path / "run"), clipnorm=LIMIT)[1] == weights


@pytest.mark.parametrize("option", ["capture", "skip_nonfinite", "ranks"])
def test_what_needs_an_optimizer_of_torch_is_refused(tmp_path, option):
    with pytest.raises(BadArgument, match=option):
        GradWatchCallback(tmp_path / "run", **{option: True})


def test_val_loss_is_the_validation_loss(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(RATE), loss="mse")
    callback = GradWatchCallback(tmp_path / "run")
    history = model.fit(X, Y, epochs=3, batch_size=8, verbose=0, callbacks=[callback], validation_data=(X[:8], Y[:8]))
    found = validation_losses(Run(tmp_path / "run").meta())
    assert found.index.to_list() == [2, 5, 8]
    assert found.to_list() == pytest.approx(history.history["val_loss"])
