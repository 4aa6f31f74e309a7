"""Hugging Face's Trainer itself, against the same training written by hand."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from gradwatch import Run
from gradwatch.analysis.statistics.validation import validation_losses
from gradwatch.clip import NormClip
from gradwatch.integrations.transformers import GradWatchCallback
from gradwatch.sources import read, write

STEPS = 6


class Tokens(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        tokens = torch.randint(32, (8,), generator=torch.Generator().manual_seed(index))
        # The first is predicted by none; a Trainer that counts it all the same divides by too many.
        return {"input_ids": tokens, "labels": torch.cat([torch.tensor([-100]), tokens[1:]])}


def make():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=32,
        n_positions=8,
        n_embd=16,
        n_layer=1,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def train(model, folder, callbacks, resume=None, **options):
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=options.pop("max_steps", STEPS),
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        save_strategy=options.pop("save_strategy", "no"),
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        train_sampling_strategy="sequential",
        **options,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Tokens(), callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def by_hand(accumulate=1, max_norm=1.0, steps=STEPS):
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    batches = iter(DataLoader(Tokens(), batch_size=4))
    norms, losses = [], []
    for _ in range(steps):
        total = 0.0
        for _ in range(accumulate):
            loss = model(**next(batches)).loss / accumulate
            loss.backward()
            total += loss.item()
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
        losses.append(total)
        if max_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        optimizer.zero_grad()
    return norms, losses


@pytest.mark.parametrize(
    ("options", "hand", "threshold"),
    [
        pytest.param({"max_grad_norm": 0.5}, {"max_norm": 0.5}, 0.5, id="clipped"),
        pytest.param({"max_grad_norm": 0}, {"max_norm": None}, None, id="not clipped"),
        pytest.param(
            {"max_grad_norm": 0.5, "gradient_accumulation_steps": 2},
            {"max_norm": 0.5, "accumulate": 2},
            0.5,
            id="accumulated",
        ),
    ],
)
def test_the_numbers_are_those_of_the_training_by_hand(tmp_path, options, hand, threshold):
    """Trap 8: a Trainer's callbacks run after clipping; the norms are those before it."""
    norms, losses = by_hand(**hand)
    train(make(), tmp_path, [GradWatchCallback(tmp_path / "run")], **options)
    run = Run(tmp_path / "run")
    steps = run.steps()
    assert steps.index.tolist() == list(range(STEPS))
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-4)
    np.testing.assert_allclose(steps["loss"], losses, rtol=1e-4)
    assert max(norms) > 0.5
    if threshold is None:
        assert not steps["clipped"].any()
    else:
        assert (steps["max_norm"] == threshold).all()
        np.testing.assert_allclose(steps["clip_coef"], np.minimum(1, threshold / np.array(norms)), rtol=1e-3)
    assert steps["clip_fault"].isna().all()
    assert run.layers("norm").columns[0] == "transformer.wte.weight"


def test_what_a_trainer_logged_by_itself_can_be_imported(tmp_path):
    norms, losses = by_hand(max_norm=0.5)
    trainer = train(make(), tmp_path, [], max_grad_norm=0.5, logging_steps=1)
    trainer.save_state()
    write(read([tmp_path / "trainer_state.json"]), tmp_path / "run", "AdamW")
    steps = Run(tmp_path / "run").steps()
    assert steps.index.tolist() == list(range(1, STEPS + 1))
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-4)
    np.testing.assert_allclose(steps["loss"], losses, atol=1e-3)
    assert Run(tmp_path / "run").meta()["moment"] == "before clipping"


def test_the_weights_are_those_without_us(tmp_path):
    first, second = make(), make()
    train(first, tmp_path / "a", [])
    train(second, tmp_path / "b", [GradWatchCallback()])
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    assert len(Run(tmp_path / "b" / "gradwatch").steps()) == STEPS


def test_a_policy_clips_instead_of_the_trainer(tmp_path):
    norms, _ = by_hand(max_norm=0.5)
    train(make(), tmp_path, [GradWatchCallback(tmp_path / "run", clip=NormClip(0.5))], max_grad_norm=0)
    steps = Run(tmp_path / "run").steps()
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-4)
    assert steps["clipped"].any()


def test_a_training_from_a_checkpoint_goes_on_where_it_was(tmp_path):
    train(make(), tmp_path, [GradWatchCallback()], max_steps=4, save_strategy="steps", save_steps=3)
    train(make(), tmp_path, [GradWatchCallback()], resume=str(tmp_path / "checkpoint-3"))
    steps = Run(tmp_path / "gradwatch").steps()
    norms, _ = by_hand()
    assert steps["attempt"].tolist() == [0] * 3 + [1] * 3
    assert Run(tmp_path / "gradwatch").summary().total_steps == len(steps)
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-3)


@pytest.mark.slow
def test_gradwatch_run_records_a_script_that_uses_the_trainer(run_recorded, tmp_path):
    run_recorded(
        """
        from test_transformers import make, train
        train(make(), "out", [], max_grad_norm=0.5, gradient_accumulation_steps=2)
        """,
    )
    norms, losses = by_hand(accumulate=2, max_norm=0.5)
    steps = Run(tmp_path / "run").steps()
    np.testing.assert_allclose(steps["total_norm"], norms, rtol=1e-4)
    np.testing.assert_allclose(steps["loss"], losses, rtol=1e-4)
    assert (steps["max_norm"] == 0.5).all()


def test_the_loss_of_an_evaluation_is_the_validation_loss(tmp_path):
    callback = GradWatchCallback(tmp_path / "run")
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=4,
        eval_steps=2,
        eval_strategy="steps",
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model=make(), args=arguments, train_dataset=Tokens(), eval_dataset=Tokens(), callbacks=[callback])
    trainer.train()
    told = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    # The callback hears of it before the last step is recorded as made, or after.
    assert validation_losses(Run(tmp_path / "run").meta()).to_list() == pytest.approx(list(told.values()))
