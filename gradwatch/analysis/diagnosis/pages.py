"""A page for each code: what it means, an example, how to confirm it, how to fix it, and sources.

`gradwatch explain CODE` prints a page, and docs/findings.md is made of all of them. The order is that of
consequence: of two findings of one severity the one with the earlier page is told first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Cure: TypeAlias = Literal["script", "signal", "precision", "threshold", "rate", "architecture", "operation", "none"]
"""What is changed to cure it: the script, the training signal, the precision, the clipping threshold, the learning
rate, the architecture, an operation of the model, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The explanation of a code."""

    title: str
    cure: Cure
    meaning: str
    example: str
    confirm: str
    fix: str
    sources: tuple[str, ...] = ()


PAGES: dict[str, Page] = {
    "no-steps": Page(
        title="The optimizer never stepped",
        cure="script",
        meaning="An optimizer was created, and the loop never called its step. Its parameters keep their initial"
        " values. A wrapper around another optimizer that does step is not reported.",
        example="A GAN loop that calls `opt_d.step()` twice and never `opt_g.step()`.",
        confirm="Print something beside the call of `step`, or run `gradwatch doctor SCRIPT`.",
        fix="Call the optimizer's `step` after `backward`.",
    ),
    "all-steps-skipped": Page(
        title="Every update was skipped",
        cure="precision",
        meaning="Gradients were measured, and no update followed: GradScaler found NaN or infinity at every scale, or"
        " the loop dropped the gradients before the step.",
        example="A loss that overflows in float16 whatever its scale, so that `scaler.step` never steps.",
        confirm="The weights equal the initial ones; `gradwatch events --kind loss-scale`.",
        fix="Run some steps in float32. If they are finite, compute the overflowing operation in float32 or use"
        " bfloat16; if not, look for the operation that makes the NaN.",
        sources=("https://docs.pytorch.org/docs/stable/amp.html",),
    ),
    "learning-rate-zero": Page(
        title="The learning rate is 0",
        cure="script",
        meaning="All parameter groups have learning rate 0 at most steps or from some step to the end, or one group has"
        " it at every step, so that its weights do not move.",
        example="`LambdaLR(optimizer, lambda step: step // 1000)`: an integer division that gives 0 for 1,000 steps.",
        confirm="Print `scheduler.get_last_lr()` at the first and the last steps.",
        fix="Correct the schedule or its number of steps.",
    ),
    "clipped-to-nothing": Page(
        title="Clipping leaves nothing of the gradient",
        cure="threshold",
        meaning="The threshold is 0, or so far below the norm that an optimizer which follows the gradient no longer"
        " moves.",
        example="`clip_grad_norm_(model.parameters(), 0.0)`, meant as 'no clipping'.",
        confirm="Print the norm of the gradient after the clip call.",
        fix="Leave the call out, or take the threshold that `gradwatch recommend` gives.",
    ),
    "stale-optimizer": Page(
        title="The optimizer holds parameters that the model no longer has",
        cure="script",
        meaning="The optimizer's parameters belong to no module and never get a gradient, because layers were replaced"
        " after it was created. The model's present parameters are not trained.",
        example="`optimizer = Adam(net.parameters())`, then `net.head = nn.Linear(512, 10)`.",
        confirm="Compare `{id(p) for p in model.parameters()}` with the ids in `optimizer.param_groups`.",
        fix="Create the optimizer after the last change of the model, or call `optimizer.add_param_group`.",
        sources=("https://github.com/pytorch/pytorch/issues/14467",),
    ),
    "zero-gradients": Page(
        title="The gradient is exactly 0",
        cure="signal",
        meaning="The total norm is 0 at half of the steps or more: the loss does not depend on the parameters there.",
        example="GRPO where every completion of a group gets the same reward: the advantage is 0, and so is the"
        " gradient.",
        confirm="Print the advantage, the sum of the mask, or the inputs of the loss.",
        fix="Vary the rewards or raise the sampling temperature; check masks and labels.",
        sources=("https://github.com/huggingface/trl/issues/3857",),
    ),
    "constant-loss": Page(
        title="The loss never changes",
        cure="signal",
        meaning="Every logged loss is the same number, to the last bit.",
        example="A softmax over one class: the loss is 0 whatever the weights are.",
        confirm="Print the loss and the targets of two different batches.",
        fix="Check the targets and the number of outputs, or log the loss that `backward` is called on.",
    ),
    "updates-below-precision": Page(
        title="Updates are too small for the weights' precision",
        cure="precision",
        meaning="The weights are stored in bfloat16 or float16, and almost every update rounds to no change: an entry"
        " can only move by one unit in its last place, 2^-8 of its size in bfloat16.",
        example="`model.to(torch.bfloat16)` with AdamW at learning rate 1e-6.",
        confirm="Count the entries that differ before and after one step.",
        fix="Keep the weights in float32 and compute under `torch.autocast`, or use stochastic rounding or Kahan"
        " summation.",
        sources=("Zamirai et al. 2020, 'Revisiting BFloat16 Training', https://arxiv.org/abs/2010.06192",),
    ),
    "loss-hides-nan": Page(
        title="The logged loss hides a NaN",
        cure="operation",
        meaning="The gradients are NaN step after step while the logged loss stays finite. After such an update the"
        " loss cannot be finite, so the number that is logged is not the loss.",
        example="Trainer's `logging_nan_inf_filter=True`, which logs the last finite average, or 0.",
        confirm="Print the loss that `backward` is called on.",
        fix="Log the loss as it is and look for the operation that makes the NaN. Clipping and the learning rate do"
        " not help.",
        sources=("https://huggingface.co/docs/transformers/main_classes/trainer",),
    ),
    "nonfinite-loss": Page(
        title="The loss became NaN or infinite",
        cure="operation",
        meaning="The loss was not finite at a step before which nothing grew. The fault lies in the data or in the"
        " forward pass.",
        example="`log` of a probability that is 0, or one NaN in the inputs.",
        confirm="Check `torch.isfinite` of inputs, targets and loss at that step; use"
        " `torch.autograd.set_detect_anomaly(True)`.",
        fix="Guard the operation (clamp its argument, add an epsilon inside) or drop the sample. Clipping and the"
        " learning rate do not help.",
        sources=("https://docs.pytorch.org/docs/stable/autograd.html#anomaly-detection",),
    ),
    "nonfinite-gradient": Page(
        title="Backward made a NaN or an infinity",
        cure="operation",
        meaning="The loss was finite and the gradient was not: an operation has an infinite or undefined slope at its"
        " argument. Masking its result afterwards does not help, for 0 times NaN is NaN.",
        example="`sqrt(x)` at 0, the norm of a zero vector in a gradient penalty, attention over a row that is masked"
        " entirely.",
        confirm="`torch.autograd.set_detect_anomaly(True)` names the operation.",
        fix="Keep the argument away from that point, for example `sqrt(x + 1e-12)`, or mask the input instead of the"
        " output. Clipping and the learning rate do not help.",
        sources=(
            "https://github.com/pytorch/pytorch/issues/41508",
            "https://docs.pytorch.org/docs/stable/autograd.html#anomaly-detection",
        ),
    ),
    "nonfinite-weights": Page(
        title="Weights were NaN or infinite before the step",
        cure="operation",
        meaning="The gradient is not finite because the weights were not: the update before, or another writer of"
        " weights, left values that are not finite.",
        example="A checkpoint with NaN, an average of no models, a division by a norm of 0.",
        confirm="`torch.isfinite` of each parameter before and after `optimizer.step()`.",
        fix="Find the writer. If it is the update, look at the learning rate and the optimizer's eps.",
    ),
    "norm-overflow": Page(
        title="The norm overflowed over finite gradients",
        cure="precision",
        meaning="Every entry of the gradient is finite, and the sum of their squares is not in the gradient's"
        " precision. Clipping by that norm multiplies all gradients by 0.",
        example="`clip_grad_norm_` over float16 gradients with entries near 300.",
        confirm="Compare the largest entry with the square root of the largest number of the dtype.",
        fix="Clip with `gradwatch.clip.clip_grad_norm_`, or keep gradients in float32.",
    ),
    "gradients-accumulate": Page(
        title="Gradients are never zeroed",
        cure="script",
        meaning="At almost every step `backward` adds to the gradients of the step before, so that each update uses"
        " the sum of all gradients there ever were.",
        example="A loop without `optimizer.zero_grad()`.",
        confirm="Print a `p.grad` before `backward`: it should be None or 0.",
        fix="Call `optimizer.zero_grad()` once per update.",
        sources=("https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html",),
    ),
    "desync": Page(
        title="Ranks hold different gradients",
        cure="script",
        meaning="Of a gradient that all processes should have in common, one process has another value.",
        example="A parameter outside the module that DistributedDataParallel wraps.",
        confirm="`gradwatch events --kind desync`; compare the weights of two ranks.",
        fix="See docs/ranks.md.",
    ),
    "diverged": Page(
        title="The training diverged",
        cure="rate",
        meaning="Loss or norms grew and did not come back, from the first step on or after some event. Growth that"
        " ends in NaN counts as well: there the growth is the fault, not the NaN.",
        example="SGD with a learning rate that is too high; Q-learning with a discount above 1.",
        confirm="Train again with a tenth of the learning rate.",
        fix="Lower the learning rate or warm it up, and clip (`gradwatch recommend`). If growth begins as a warm-up"
        " reaches its peak, lower the peak or lengthen the warm-up. Keep the checkpoint from before the growth, as"
        " early stopping would have. Where the target comes from the model itself, use a target network.",
        sources=("Pascanu et al. 2013, 'On the difficulty of training RNNs', https://arxiv.org/abs/1211.5063",),
    ),
    "repeated-spikes": Page(
        title="Spikes come back and undo progress",
        cure="rate",
        meaning="Steps far above their neighbours come back again and again, and three or more of them throw the loss"
        " back: it stays above its level for some steps. It is a warning where 5 % of the steps are spent so, and"
        " information below that. A spike that leaves the loss where it was is `spike`.",
        example="A fine-tuning in which one batch in thirty has a picture in another unit: each such step throws the"
        " network back, and it ends at 69 % instead of 95 %.",
        confirm="Train again from the same seed with the threshold that `gradwatch recommend` gives, and compare the"
        " loss after these steps.",
        fix="Look at the batches of these steps. If they are as they should be, clip, or lower the learning rate; with"
        " Adam a smaller beta2 helps as well.",
        sources=("Chowdhery et al. 2022, 'PaLM', section 5.1, https://arxiv.org/abs/2204.02311",),
    ),
    "huge-loss": Page(
        title="The loss stands at a level out of every usual range",
        cure="rate",
        meaning="Every logged loss is above a million, norms are above a thousand, and the loss does not fall.",
        example="A log that begins at step 5,900, after the training was lost: the loss is near 4e8 in each row.",
        confirm="Print the loss of the untrained model, and the range of the targets.",
        fix="Go back to a checkpoint from before the loss grew and lower the learning rate. If the loss was that large"
        " from the first step on, normalise targets and inputs.",
    ),
    "optimizer-recreated": Page(
        title="The optimizer is made anew again and again",
        cure="script",
        meaning="Three or more optimizers of one class train the same weights one after another. Each begins without"
        " the momentum and the second moments of the one before; without such state it is information.",
        example="`optimizer = Adam(model.parameters())` inside the loop over epochs.",
        confirm="Print `id(optimizer)` at the start of each epoch.",
        fix="Create the optimizer once, before the loop. To lower its rate, use a scheduler.",
    ),
    "loss-scale": Page(
        title="The loss scale finds no level",
        cure="precision",
        meaning="GradScaler goes on leaving out steps after it should have found a scale that works.",
        example="A float16 activation near 65504 in every batch.",
        confirm="`gradwatch events --kind loss-scale`.",
        fix="Use bfloat16, or compute the operation with the large values in float32.",
        sources=("Micikevicius et al. 2018, 'Mixed Precision Training', https://arxiv.org/abs/1710.03740",),
    ),
    "no-gradient": Page(
        title="Trainable parameters never get a gradient",
        cure="script",
        meaning="The optimizer holds parameters whose `grad` is None at every step: the loss does not reach them. It"
        " is information where they are few, as an unused head.",
        example="A `detach` on the way; reentrant checkpointing of blocks whose inputs need no gradient, which leaves"
        " all LoRA adapters without one.",
        confirm="After one `backward`, list the names whose `grad` is None.",
        fix="Remove the detach, use `checkpoint(..., use_reentrant=False)`, or leave the parameters out of the"
        " optimizer.",
        sources=("https://github.com/huggingface/transformers/issues/26221",),
    ),
    "parameters-without-optimizer": Page(
        title="Parameters get gradients and no optimizer holds them",
        cure="script",
        meaning="`backward` computes gradients for parameters that are never updated.",
        example="`Adam(model.head.parameters())` while the body is not frozen.",
        confirm="Compare the ids of `model.parameters()` with those in `optimizer.param_groups`.",
        fix="Give the optimizer all parameters, or freeze the others with `requires_grad_(False)`.",
    ),
    "clip-starves": Page(
        title="One parameter owns the norm, and clipping starves the rest",
        cure="threshold",
        meaning="Nearly all of the norm is one parameter's. Clipping by the total norm multiplies all other gradients"
        " by the same small factor, until they fall below Adam's eps or lose their learning rate.",
        example="One layer whose gradient is 1e10 times that of the others, clipped at 1 under AdamW.",
        confirm="Train once without clipping, or with a threshold per parameter.",
        fix="Clip each parameter on its own (`gradwatch.clip.LayerNormClip`), or scale the large gradient down at its"
        " source.",
    ),
    "ineffective-clipping": Page(
        title="The clip call does not do what it is meant to do",
        cure="script",
        meaning="The call runs at the wrong place or on the wrong parameters, so that the optimizer gets gradients that"
        " were not clipped as intended.",
        example="`clip_grad_norm_` after `optimizer.step()`, or before `scaler.unscale_(optimizer)`.",
        confirm="`gradwatch doctor SCRIPT` lists the clip calls and what they reached.",
        fix="Clip between the last `backward` (and `unscale_`) and `optimizer.step()`.",
        sources=("https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-clipping",),
    ),
    "threshold-too-low": Page(
        title="The threshold lies far below the usual norm",
        cure="threshold",
        meaning="Nearly every step is clipped to a small part of its norm. For an optimizer that follows the gradient"
        " this multiplies the learning rate.",
        example="SGD clipped at 0.001 where the median norm is 2.",
        confirm="Train with ten times the threshold.",
        fix="Take the threshold that `gradwatch recommend` gives.",
    ),
    "clipped-by-script": Page(
        title="The script changes gradients itself",
        cure="script",
        meaning="Between `backward` and `step` something other than a clip call changed the gradients. The recorded"
        " norms are of what the optimizer got, and not of before that change.",
        example="`p.grad.mul_(min(1, 1 / norm))` in the loop; AGC of a model library.",
        confirm="Compare `p.grad._version` before and after the code between `backward` and `step`.",
        fix="Clip with `torch.nn.utils.clip_grad_norm_` or a policy of `gradwatch.clip`.",
    ),
    "dead-parameters": Page(
        title="Parameters whose gradient is exactly 0",
        cure="signal",
        meaning="The gradient exists and is 0 for good: the units are off for every input. Dropout is not the cause: it"
        " switches other units off at each step, so their gradients are 0 at some steps alone (unless p is 1).",
        example="ReLU units whose bias fell far below 0.",
        confirm="Look at the activations that these parameters feed.",
        fix="A smaller learning rate or initial bias, normalisation, or an activation with a slope below 0.",
        sources=("Lu et al. 2019, 'Dying ReLU and Initialization', https://arxiv.org/abs/1903.06733",),
    ),
    "vanishing": Page(
        title="Gradients vanish",
        cure="architecture",
        meaning="A layer's gradient is a tiny part of the strongest layer's, or gradients faded over the run while the"
        " loss did not improve.",
        example="Twelve layers of sigmoids.",
        confirm="Compare the norms per layer: `gradwatch report --layers 100`.",
        fix="Residual connections, normalisation, activations that do not saturate.",
        sources=("Glorot and Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html",),
    ),
    "died": Page(
        title="The training died",
        cure="script",
        meaning="An exception or a signal ended the training. The gradients up to there may have been healthy.",
        example="A data loader that raises at step 120.",
        confirm="Read the traceback that the script printed.",
        fix="Mend the script and resume from the last checkpoint. `gradwatch check --allow-unfinished` passes such a"
        " run.",
    ),
    "killed": Page(
        title="The recording has no end",
        cure="script",
        meaning="The process that wrote the run is gone and did not close it.",
        example="The kernel's out-of-memory killer, a job's time limit.",
        confirm="`dmesg`, or the scheduler's log.",
        fix="Depends on who killed it. `gradwatch check --allow-unfinished` passes such a run.",
    ),
    "learning-rate-too-high": Page(
        title="The learning rate is too high",
        cure="rate",
        meaning="The loss did not stay down, and the median update changes a parameter by more than 2 % of its norm.",
        example="Updates of 30 % of a layer's weights a step.",
        confirm="Train with a third of the learning rate.",
        fix="Lower the learning rate before changing the clipping, which would only mask it.",
    ),
    "loss-regressed": Page(
        title="The loss ends well above its best",
        cure="rate",
        meaning="The median of the last tenth of the losses lies above that of the best tenth, beyond doubt and by more"
        " than 15 % of the progress. It is a warning where half of the progress is undone and there is one optimizer."
        " If the norms have grown as well, it is `diverged`.",
        example="A constant learning rate that is too high for the end of the training.",
        confirm="Evaluate the checkpoints of the best level and of the end on the same held-out data.",
        fix="Keep the best checkpoint. Lower the learning rate towards the end, or look at the data from where the loss"
        " turns. With a curriculum or an adversary, such a rise can be meant.",
    ),
    "too-short": Page(
        title="Too short to judge",
        cure="none",
        meaning="There are fewer steps than the detectors need to know what is usual.",
        example="Two logged rows.",
        confirm="-",
        fix="Record at least 40 steps, better a few hundred.",
    ),
    "spike": Page(
        title="A step stood out, and the training came back",
        cure="rate",
        meaning="One or a few steps had a norm far above their neighbours; loss and norms are back where they were.",
        example="A batch with one outlier.",
        confirm="Run the same batch through an earlier checkpoint.",
        fix="Look at the batch. Clipping limits what such a step does.",
    ),
    "eps-starvation": Page(
        title="Gradients below the optimizer's eps",
        cure="precision",
        meaning="Adam divides by sqrt(v) + eps. Where the gradient is as small as eps, updates shrink.",
        example="A loss that is multiplied by 1e-6.",
        confirm="Train some steps with a hundredth of eps.",
        fix="A smaller eps, or a loss that is multiplied by a constant.",
        sources=("Wortsman et al. 2023, 'Small-scale proxies', section 3.4, https://arxiv.org/abs/2309.14322",),
    ),
    "norm-rises-as-rate-falls": Page(
        title="The norms rise as the learning rate falls",
        cure="none",
        meaning="Weight decay keeps gradient over weight norm near sqrt(2 decay / rate), so a schedule that lowers the"
        " rate lets the gradients grow.",
        example="AdamW with a cosine schedule: the norms double in the last tenth of the training.",
        confirm="Compare the norms with 1 / sqrt(learning_rate).",
        fix="Nothing is wrong. A decay that falls with the rate keeps the norms level.",
        sources=("Defazio 2025, https://arxiv.org/abs/2506.02285",),
    ),
    "update-spike": Page(
        title="Updates jumped",
        cure="rate",
        meaning="The update, the learning rate left out, was twice its recent level or more. Such updates often lead"
        " spikes of the loss, because the weights have to move before the loss can rise.",
        example="Adam with beta2 = 0.999 and a learning rate at the edge, late in a training on all data at each step.",
        confirm='Look at `Run.updates("update_ratio")` and `Run.updates("rms_ratio")` around these steps.',
        fix="A lower learning rate, a longer warm-up, or a smaller beta2.",
        sources=("Wortsman et al. 2023, section 3, https://arxiv.org/abs/2304.13013",),
    ),
    "updates-out-of-proportion": Page(
        title="Updates are out of proportion",
        cure="rate",
        meaning="In the second half of the run, the median update changed one or a few matrices by more than 2 % of"
        " their norm, at least ten times as much as the other matrices. These parameters are trained at a much higher"
        " rate than the rest, in effect. That can be meant, for example for a new head on a pretrained network.",
        example="A parameter group for the embedding with `lr=1e-1`, beside `lr=1e-4` for everything else.",
        confirm='Compare `Run.layers("update_ratio")` of these parameters with that of the others.',
        fix="A lower learning rate in a parameter group of their own, or larger initial weights.",
        sources=("You, Gitman and Ginsburg 2017 (LARS), section 4, https://arxiv.org/abs/1708.03888",),
    ),
    "held-spike": Page(
        title="The momentum held a spike",
        cure="threshold",
        meaning="After a spike of the gradient the gradient was back, and updates stayed at twice their level or more:"
        " the momentum still held the spike. Clipping takes it away before the momentum sees it.",
        example="SGD with a momentum of 0.98, and one batch whose loss is multiplied by 100.",
        confirm="Compare `total_norm` and `update_norm` in `Run.steps()` after the spike.",
        fix="A threshold of clipping below the spike.",
    ),
    "large-initial-norms": Page(
        title="The first gradients are very large",
        cure="architecture",
        meaning="The first norms are 20 times those of later or more.",
        example="An output layer whose initial weights are far too large.",
        confirm="Compare the first loss with that of a constant guess.",
        fix="Smaller initial weights, normalisation, or a warm-up.",
    ),
    "threshold-idle": Page(
        title="The threshold never acts",
        cure="threshold",
        meaning="The threshold in force is more than twice the largest norm of the run.",
        example="`max_norm=100` where the largest norm is 3.",
        confirm="`gradwatch recommend` shows what other thresholds would have done.",
        fix="Leave it as a guard, or lower it.",
    ),
    "one-parameter-dominates": Page(
        title="One parameter carries the norm",
        cure="threshold",
        meaning="One parameter has 90 % of the squared norm or more, so that a threshold on the total is one on it.",
        example="An embedding whose gradient is the sum over a batch.",
        confirm="`gradwatch report` lists the norms of each layer.",
        fix="`gradwatch.clip.LayerNormClip` clips each parameter on its own.",
    ),
    "norms-after-clipping": Page(
        title="Norms after clipping",
        cure="none",
        meaning="The history holds norms of clipped gradients: none exceeds the threshold.",
        example="A framework that logs the norm after `clip_grad_norm_`.",
        confirm="The norms end at one ceiling.",
        fix="Log the value that `clip_grad_norm_` returns.",
    ),
    "recording-stopped": Page(
        title="gradwatch stopped recording",
        cure="none",
        meaning="A fault of gradwatch or of the disk ended the recording; the training went on.",
        example="A full disk.",
        confirm="The training's own log has the message.",
        fix="See recording-stopped in docs/messages.md.",
    ),
}


def as_text(code: str) -> str:
    """The page of a code, as plain text.

    Raises:
        KeyError: there is no such code.

    >>> print(as_text("threshold-idle").splitlines()[0])
    threshold-idle: The threshold never acts
    """
    page = PAGES[code]
    parts = [
        f"{code}: {page.title}",
        page.meaning,
        f"Example: {page.example}",
        f"Confirm: {page.confirm}",
        f"Fix: {page.fix}",
    ]
    if page.sources:
        parts.append("Sources: " + "; ".join(page.sources))
    return "\n\n".join(parts) + "\n"


def as_markdown() -> str:
    """All pages, as docs/findings.md."""
    parts = [
        "# Findings\n",
        "The faults that gradwatch tells apart, the gravest kinds first. `gradwatch explain CODE` prints one of these"
        " pages. This file is made from `gradwatch/analysis/diagnosis/pages.py` by `docs/findings.py`.\n",
    ]
    for code, page in PAGES.items():
        parts.append(f"## {code}\n\n**{page.title}.** {page.meaning}\n")
        points = [f"**Example.** {page.example}", f"**Confirm.** {page.confirm}", f"**Fix.** {page.fix}"]
        points += [f"**Source.** {source}" for source in page.sources]
        parts.append("".join(f"- {point}\n" for point in points))
    return "\n".join(parts)
