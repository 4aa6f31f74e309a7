"""PyTorch Lightning itself, against the same training written by hand."""

import functools
import importlib
import logging
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradwatch import Run
from gradwatch.analysis.statistics.validation import validation_losses
from gradwatch.clip import NormClip

pytestmark = pytest.mark.filterwarnings("ignore")
BATCHES = 12


@functools.cache
def lightning(name="lightning.pytorch"):
    """Imported by the first test that needs it: it takes seconds, and every worker collects this module."""
    warnings.filterwarnings("ignore", module="lightning")
    return importlib.import_module(name)


def recording(*given, **options):
    return importlib.import_module("gradwatch.integrations.lightning").GradWatchCallback(*given, **options)


def data():
    torch.manual_seed(1)
    return TensorDataset(torch.randn(8 * BATCHES, 4), torch.randn(8 * BATCHES, 1))


def make(base="lightning.pytorch"):
    class Model(lightning(base).LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

        def training_step(self, batch, index):
            return nn.functional.mse_loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    return Model()


def fit(model, folder, callbacks, base="lightning.pytorch", ckpt_path=None, **options):
    trainer = lightning(base).Trainer(
        default_root_dir=folder,
        max_epochs=options.pop("max_epochs", 1),
        callbacks=callbacks,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(model, DataLoader(data(), batch_size=8), ckpt_path=ckpt_path)
    return trainer


def by_hand(accumulate=1, max_norm=None, clip_value=None, epochs=1):
    """The norm before clipping and the loss of each step, and the weights after the last."""
    model = make()
    optimizer = model.configure_optimizers()
    norms, losses, loss_sum = [], [], 0.0
    for _ in range(epochs):
        for index, batch in enumerate(DataLoader(data(), batch_size=8)):
            loss = model.training_step(batch, index) / accumulate
            loss.backward()
            loss_sum += loss.item()
            if (index + 1) % accumulate:
                continue
            norms.append(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
            losses.append(loss_sum)
            loss_sum = 0.0
            if max_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            if clip_value is not None:
                torch.nn.utils.clip_grad_value_(model.parameters(), clip_value)
            optimizer.step()
            optimizer.zero_grad()
    return norms, losses, model.state_dict()


@pytest.mark.parametrize("base", ["lightning.pytorch", "pytorch_lightning"])
@pytest.mark.parametrize(
    ("trainer", "hand"),
    [
        pytest.param({}, {}, id="plain"),
        pytest.param({"gradient_clip_val": 0.3}, {"max_norm": 0.3}, id="clipped by norm"),
        pytest.param(
            {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"}, {"clip_value": 0.05}, id="clipped by value"
        ),
        pytest.param(
            {"accumulate_grad_batches": 3, "gradient_clip_val": 0.3},
            {"accumulate": 3, "max_norm": 0.3},
            id="accumulated",
        ),
    ],
)
def test_the_numbers_are_those_of_the_training_by_hand(tmp_path, base, trainer, hand):
    norms, losses, weights = by_hand(**hand)
    model = make(base)
    fit(model, tmp_path, [recording(tmp_path / "run")], base, **trainer)
    run = Run(tmp_path / "run")
    steps = run.steps()
    assert steps.index.tolist() == list(range(len(norms)))
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-5)
    np.testing.assert_allclose(steps["loss"], losses, rtol=1e-5)
    assert steps["max_norm"].dropna().unique().tolist() == [v for k, v in hand.items() if k == "max_norm"]
    assert steps["clip_value"].dropna().unique().tolist() == [v for k, v in hand.items() if k == "clip_value"]
    assert steps["clip_fault"].isna().all()
    assert run.layers("norm").columns[0] == "net.0.weight"
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_a_policy_clips_within_the_closure(tmp_path, caplog):
    norms, _, weights = by_hand(max_norm=0.3)
    model = make()
    fit(model, tmp_path, [recording(tmp_path / "run", clip=NormClip(0.3))])
    steps = Run(tmp_path / "run").steps()
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-5)
    assert steps["clipped"].any()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, weights[name])
    assert "clip-not-applied" not in caplog.text


def test_the_run_lies_beside_the_logs_and_each_fit_has_its_own(tmp_path):
    for _ in range(2):
        fit(make(), tmp_path, [recording()])
    assert len(Run(tmp_path / "gradwatch").steps()) == len(Run(tmp_path / "gradwatch-2").steps()) == BATCHES


def test_a_fit_from_a_checkpoint_goes_on_where_it_was(tmp_path):
    trainer = fit(make(), tmp_path, [recording()])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    fit(make(), tmp_path, [recording()], ckpt_path=tmp_path / "last.ckpt", max_epochs=2)
    steps = Run(tmp_path / "gradwatch").steps()
    norms, _, _ = by_hand(epochs=2)
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-4)
    assert steps["attempt"].tolist() == [0] * BATCHES + [1] * BATCHES
    assert Run(tmp_path / "gradwatch").summary().total_steps == 2 * BATCHES


def test_two_optimizers_of_manual_optimization(tmp_path):
    class Gan(lightning().LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.g, self.d = nn.Linear(4, 4), nn.Linear(4, 1)

        def training_step(self, batch, index):
            g, d = self.optimizers()
            d.zero_grad()
            self.manual_backward(self.d(batch[0]).mean())
            self.clip_gradients(d, gradient_clip_val=0.01)
            d.step()
            if index % 3 == 0:
                g.zero_grad()
                self.manual_backward(self.d(self.g(batch[0])).mean())
                g.step()

        def configure_optimizers(self):
            return torch.optim.Adam(self.g.parameters()), torch.optim.SGD(self.d.parameters(), 0.1)

    fit(Gan(), tmp_path, [recording(tmp_path / "run")])
    run = Run(tmp_path / "run")
    assert run.optimizers == {"0": "Adam", "1": "SGD"}
    assert (len(run.steps("0")), len(run.steps("1"))) == (BATCHES // 3, BATCHES)
    assert (run.steps("1")["max_norm"] == 0.01).all()


def test_an_exception_ends_the_recording_with_its_name(tmp_path):
    class Broken(type(make())):
        def training_step(self, batch, index):
            if index == 5:
                raise ZeroDivisionError
            return super().training_step(batch, index)

    with pytest.raises(ZeroDivisionError):
        fit(Broken(), tmp_path, [recording(tmp_path / "run")])
    run = Run(tmp_path / "run")
    assert len(run.steps()) == 5
    assert run.attempts()[0].reason == "exception ZeroDivisionError"


def test_a_fit_without_an_optimizer_goes_on_unrecorded(tmp_path, caplog):
    class Without(type(make())):
        def configure_optimizers(self):
            return None

    callback = recording(tmp_path / "run")
    with caplog.at_level(logging.WARNING, logger="gradwatch"):
        trainer = fit(Without(), tmp_path, [callback], max_epochs=2)
    assert trainer.current_epoch == 2
    assert callback.watch is None
    assert not (tmp_path / "run").exists()
    assert [r.getMessage() for r in caplog.records if "nothing-to-record" in r.getMessage()]
    fit(make(), tmp_path, [callback])
    assert len(Run(tmp_path / "run").steps()) == BATCHES, "the same callback records the next fit"


@pytest.mark.slow
def test_gradwatch_run_records_a_script_that_uses_lightning(run_recorded, tmp_path):
    run_recorded(
        """
        from test_lightning import fit, make
        fit(make(), ".", [], gradient_clip_val=0.3, accumulate_grad_batches=2)
        """,
    )
    norms, losses, _ = by_hand(accumulate=2, max_norm=0.3)
    steps = Run(tmp_path / "run").steps()
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-5)
    np.testing.assert_allclose(steps["loss"], losses, rtol=1e-5)
    assert (steps["max_norm"] == 0.3).all()


def test_val_loss_is_the_validation_loss_and_that_of_the_sanity_check_is_not(tmp_path):
    told = []

    class Validated(type(make())):
        def validation_step(self, batch, index):
            self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

        def on_validation_epoch_end(self):
            if not self.trainer.sanity_checking:
                with torch.no_grad():
                    inputs, targets = data().tensors
                    told.append(
                        (self.trainer.global_step - 1, nn.functional.mse_loss(self.net(inputs), targets).item())
                    )

    trainer = lightning().Trainer(
        default_root_dir=tmp_path,
        max_epochs=3,
        callbacks=[recording(tmp_path / "run")],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
    )
    trainer.fit(Validated(), DataLoader(data(), batch_size=8), DataLoader(data(), batch_size=8))
    found = validation_losses(Run(tmp_path / "run").meta())
    assert found.index.to_list() == [step for step, _ in told] == [11, 23, 35]
    assert found.to_list() == pytest.approx([loss for _, loss in told], rel=1e-5)
