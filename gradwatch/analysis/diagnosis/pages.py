"""A page for each code: what it means, an example, how to confirm it, how to fix it, and sources.

`gradwatch explain CODE` prints a page, and docs/findings.md contains all of them. The pages are in order of
consequence: of two findings with the same severity, reports show the one with the earlier page first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Cure: TypeAlias = Literal["script", "signal", "precision", "threshold", "rate", "architecture", "operation", "none"]
"""The thing to change: the script, the training signal, the precision, the clipping threshold, the learning rate, the
architecture, an operation of the model, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The explanation of a code.

    Attributes:
        title: the finding in a few words.
        cure: the kind of thing to change.
        meaning: the usual case, in a few sentences.
        also: further cases in which the finding is made, each a clause after "it is also reported when".
        unless: cases in which it is not made although they look alike, each a clause after "it is not reported when".
        example: a case from practice.
        confirm: how to make sure.
        fix: what to change.
        sources: papers, threads and manuals.
    """

    title: str
    cure: Cure
    meaning: str
    also: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    example: str
    confirm: str
    fix: str
    sources: tuple[str, ...] = ()


PAGES: dict[str, Page] = {
    "no-steps": Page(
        title="The optimizer never stepped",
        cure="script",
        meaning="The script created an optimizer but never called its `step`. Its parameters keep their initial values."
        " gradwatch does not report a wrapper whose inner optimizer steps.",
        example="A GAN loop that calls `opt_d.step()` twice and never `opt_g.step()`.",
        confirm="Add a print next to the call of `step`, or run `gradwatch doctor SCRIPT`.",
        fix="Call the optimizer's `step` after `backward`.",
    ),
    "all-steps-skipped": Page(
        title="Every update was skipped",
        cure="precision",
        meaning="gradwatch measured gradients, but no update followed. Either GradScaler found NaN or infinity at every"
        " scale, or the loop dropped the gradients before the step, as `zero_grad` between `backward` and `step` does.",
        example="A loss that overflows in float16 at any scale, so `scaler.step` never steps.",
        confirm="Compare the weights with the initial ones, or run `gradwatch events --kind loss-scale`.",
        fix="Run some steps in float32. If they are finite, compute the overflowing operation in float32 or use"
        " bfloat16; if not, look for the operation that makes the NaN.",
        sources=("https://docs.pytorch.org/docs/stable/amp.html",),
    ),
    "learning-rate-zero": Page(
        title="The learning rate is 0",
        cure="script",
        meaning="All parameter groups have learning rate 0, or one below a millionth of the highest, at most steps or"
        " from some step to the end; or one group has 0 at every step. The weights do not move then, or hardly. A"
        " rate also counts as 0 if it is so small that all updates together move no matrix by a thousandth of its"
        " norm, while the loss does not change.",
        example="`LambdaLR(optimizer, lambda step: step // 1000)`: the integer division gives 0 for 1,000 steps.",
        confirm="Print `scheduler.get_last_lr()` at the first and the last steps.",
        fix="Correct the schedule or the number of steps it is built for.",
    ),
    "clipped-to-nothing": Page(
        title="Clipping leaves nothing of the gradient",
        cure="threshold",
        meaning="The threshold is 0, or so far below the norm that the optimizer barely moves the weights. This"
        " concerns optimizers whose update is proportional to the gradient, such as SGD; and Adam and its like where"
        " the clipped entries are a tenth of eps or less.",
        example="`clip_grad_norm_(model.parameters(), 0.0)`, intended as 'no clipping'.",
        confirm="Print the norm of the gradient after the clip call.",
        fix="Remove the call, or use the threshold that `gradwatch recommend` gives.",
    ),
    "stale-optimizer": Page(
        title="The optimizer holds parameters that the model no longer has",
        cure="script",
        meaning="The script replaced parameters after it created the optimizer, or trains a copy of the model. The"
        " optimizer still holds the old parameters, which get no gradient, or none from some step on, and does not"
        " train the new ones.",
        example="`optimizer = Adam(net.parameters())`, then `net.head = nn.Linear(512, 10)`.",
        confirm="Compare `{id(p) for p in model.parameters()}` with the ids in `optimizer.param_groups`.",
        fix="Create the optimizer after the last change to the model, or call `optimizer.add_param_group`.",
        sources=("https://github.com/pytorch/pytorch/issues/14467",),
    ),
    "zero-gradients": Page(
        title="The gradient is exactly 0",
        cure="signal",
        meaning="The total norm is 0 at half of the steps or more. At these steps the loss does not depend on the"
        " parameters.",
        also=(
            "the last quarter of the norms of an imported history is below a hundred-thousandth of the first ones,"
            " while the loss stands",
            "a policy gets one and the same reward to the end, and the norms of its history fall below a thousandth of"
            " the first ones",
        ),
        unless=(
            "the loss falls all the same: then the log does not hold the norm, as GaLore's, which frees the gradients"
            " before",
            "a few rows have a loss that scatters, or the reward stands or rises: then it is information",
        ),
        example="GRPO where every completion of a group gets the same reward: the advantage is 0, and so is the"
        " gradient.",
        confirm="Print the advantage, the sum of the mask, or the inputs of the loss.",
        fix="Vary the rewards or raise the sampling temperature; check masks and labels. Where the gradient is gone"
        " from one step on, an update has thrown every unit off: go back to a checkpoint from before it.",
        sources=("https://github.com/huggingface/trl/issues/3857",),
    ),
    "constant-loss": Page(
        title="The loss never changes",
        cure="signal",
        meaning="Every logged loss is the same number, to the last bit. An imported loss of 0 beside gradients is not"
        " told: a surrogate (GRPO, PPO) is 0 on the samples of its own policy, and logs round small losses to 0.",
        example="A softmax over one class: the loss is 0 for any weights.",
        confirm="Print the loss and the targets of two different batches.",
        fix="Check the targets and the number of outputs. Log the loss that `backward` is called on.",
    ),
    "updates-below-precision": Page(
        title="Updates are too small for the weights' precision",
        cure="precision",
        meaning="The weights are stored in bfloat16 or float16, and almost every update rounds to no change. The"
        " smallest step an entry can take is one unit in its last place, which in bfloat16 is 2^-8 of its size.",
        example="`model.to(torch.bfloat16)` with AdamW at learning rate 1e-6.",
        confirm="Count the entries that differ before and after one step.",
        fix="Keep the weights in float32 and compute under `torch.autocast`, or use stochastic rounding or Kahan"
        " summation.",
        sources=("Zamirai et al. 2020, 'Revisiting BFloat16 Training', https://arxiv.org/abs/2010.06192",),
    ),
    "loss-hides-nan": Page(
        title="The logged loss hides a NaN",
        cure="operation",
        meaning="The gradients are NaN step after step while the logged loss stays finite. A NaN update makes the loss"
        " NaN, so the logged number is not the loss. Or the loss is exactly 0 to the end and the norm one number.",
        example="The Transformers Trainer with `logging_nan_inf_filter=True`, which logs the last finite average, or"
        " 0.",
        confirm="Print the loss that `backward` is called on.",
        fix="Log the unfiltered loss and look for the operation that makes the NaN. Clipping and the learning rate do"
        " not help.",
        sources=("https://huggingface.co/docs/transformers/main_classes/trainer",),
    ),
    "nonfinite-loss": Page(
        title="The loss became NaN or infinite",
        cure="operation",
        meaning="The loss was suddenly NaN or infinite: neither the norms nor the loss had grown before. The fault is"
        " in the data or in the forward pass.",
        example="`log` of a zero probability, or one NaN in the inputs.",
        confirm="Check `torch.isfinite` of inputs, targets and loss at that step; use"
        " `torch.autograd.set_detect_anomaly(True)`.",
        fix="Guard the operation (clamp its argument or add an epsilon to it), or drop the sample. Clipping and the"
        " learning rate do not help.",
        sources=("https://docs.pytorch.org/docs/stable/autograd.html#anomaly-detection",),
    ),
    "nonfinite-gradient": Page(
        title="Backward made a NaN or an infinity",
        cure="operation",
        meaning="The loss was finite, but the gradient was not: some operation has an infinite or undefined slope at"
        " its argument. Masking its result afterwards does not help, because 0 times NaN is NaN.",
        example="`sqrt(x)` at 0, the norm of a zero vector in a gradient penalty, attention over a fully masked row.",
        confirm="Record with `gradwatch run --capture SCRIPT`, and `gradwatch replay RUN SCRIPT` names the operation,"
        " the line and the rows. `torch.autograd.set_detect_anomaly(True)` names the operation too.",
        fix="Keep the argument away from that point, for example by `sqrt(x + 1e-12)`, or mask the input instead of the"
        " output. Clipping and the learning rate do not help.",
        sources=(
            "https://github.com/pytorch/pytorch/issues/41508",
            "https://docs.pytorch.org/docs/stable/autograd.html#anomaly-detection",
        ),
    ),
    "nonfinite-weights": Page(
        title="Weights were NaN or infinite before the step",
        cure="operation",
        meaning="The gradient is not finite because the weights were not. The previous update, or other code that"
        " writes weights, had left NaN or infinite values, as an update does whose learning rate is NaN or infinite.",
        example="A checkpoint that contains NaN, an average over zero models, a schedule that divides by 0 steps.",
        confirm="Check `torch.isfinite` of each parameter before and after `optimizer.step()`.",
        fix="Find the code that writes them. If it is the update, look at the learning rate and the optimizer's eps.",
    ),
    "norm-overflow": Page(
        title="The norm overflowed over finite gradients",
        cure="precision",
        meaning="Every entry of the gradient is finite, but the sum of their squares overflows in the gradient's"
        " precision. Clipping by that infinite norm multiplies all gradients by 0.",
        example="`clip_grad_norm_` over float16 gradients with entries near 300.",
        confirm="Compare the largest entry with the square root of the largest number of the dtype.",
        fix="Clip with `gradwatch.clip.clip_grad_norm_`, or keep gradients in float32.",
    ),
    "gradients-accumulate": Page(
        title="Gradients are not zeroed",
        cure="script",
        meaning="At many steps `backward` adds to the gradients of the step before, so that each update uses the sum of"
        " several, or of all so far; of a part of the model, if only the others are zeroed. Or it adds to what the"
        " backward of another network's loss left: a generator's backward also writes gradients into the"
        " discriminator. Three parameters of each optimizer are looked at.",
        example="A loop without `optimizer.zero_grad()`; a discriminator that is zeroed after its own step and not"
        " before its next backward.",
        confirm="Print a parameter's `grad` before `backward`. It should be None or 0.",
        fix="Call `optimizer.zero_grad()` once per update, just before this optimizer's own backward.",
        sources=("https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html",),
    ),
    "desync": Page(
        title="Ranks hold different gradients",
        cure="script",
        meaning="All processes should hold the same gradient, but one process has a different value: from"
        " there on its weights differ too. A warning instead: the norm of one rank's own gradient, before it is"
        " reduced, has left those of all others.",
        example="A parameter outside the module that DistributedDataParallel wraps.",
        confirm="`gradwatch events --kind desync`; compare the weights of two ranks.",
        fix="Look for what differs on that rank: the data and its sampler's seed, buffers, parameters outside the"
        " wrapped module, then the device.",
    ),
    "diverged": Page(
        title="The training diverged",
        cure="rate",
        meaning="The loss or the norms grew and did not come back, from the first step or after an event. If the"
        " growth ends in NaN, the growth is the fault to fix and the NaN follows from it. The usual case is a loss"
        " that ends at twice its start or more.",
        also=(
            "the loss ends above its best tenth, at twice that level or twelve times its noise above it, and a quarter"
            " of its fall is undone; and since then a norm leapt eightfold, or the norms doubled or fell to a tenth",
            "the loss climbs with the norm to the end, or the last of fewer than 15 losses leave all before them,"
            " together with the norms",
            "the norms grew fivefold while the loss fell no more, for half of its rows or longer: then it is a warning",
            "fewer than 100 losses never fell and end a tenth above the first ones, or more of them 15% above,"
            " under raised norms",
            "each of the last losses, three or a hundredth of all, is twice nearly all of the half before them, under"
            " norms that rose threefold",
            "no loss is known or none fell, and the last norms are a hundredfold the first ones; twentyfold in few"
            " rows",
            "the first updates lifted the norm tenfold and the loss as far, or two losses half above what is usual"
            " later, and no later level of the loss was a tenth below its start",
            "a twentieth of the losses is above a million, and a million times the first ones, whatever lies between"
            " them",
            "a loss below 0 grows tenfold in size with its norms: such a loss has no minimum",
            "a reward is recorded and has not risen, and the loss grew fivefold under norms that grew by three times"
            " the root of that, or twentyfold under norms that doubled",
        ),
        unless=(
            "the loss rose where the training was resumed, before its first update: the finding is then"
            " `loss-regressed`",
            "the task grew: the loss is below half of its start and still halves within its last tenth, so the model"
            " is learning again",
            "targets grow, as the values of Q-learning do with the return: a loss that rose at once and stands since,"
            " or that rises ever more slowly, while the norms rose by about the root of that (without a reward in the"
            " record, a loss that rose thirtyfold at most)",
            "the norms exploded, but the reward rose afterwards",
        ),
        example="SGD with a learning rate that is too high; Q-learning with a discount above 1.",
        confirm="Train again with a tenth of the learning rate.",
        fix="Lower the learning rate or warm it up, and clip (`gradwatch recommend` gives a threshold). If the growth"
        " begins as a warm-up reaches its peak, lower the peak or lengthen the warm-up. Go back to the checkpoint from"
        " before the growth. If the model computes its own targets, use a target network.",
        sources=("Pascanu et al. 2013, 'On the difficulty of training RNNs', https://arxiv.org/abs/1211.5063",),
    ),
    "repeated-spikes": Page(
        title="Spikes come back and undo progress",
        cure="rate",
        meaning="Steps far above their neighbours keep recurring, and at least three of them throw the loss back: it"
        " stays above its level for some steps. Consecutive ones count once. This is a warning if the loss is above its"
        " level for 5% of the steps, and information below that. If the first setback is among the first hundred steps,"
        " a missing warm-up is named as a cause.",
        also=(
            "at least three peaks of a cyclic learning rate undo half of the progress",
            "a tenth of the losses are ten times the first ones or more, and the loss is back between them",
            "the loss leaps back by half of its progress from one step to the next, three times or more: that is"
            " information, because tasks one after another begin so",
        ),
        unless=("the spikes do not change the loss: the finding is then `spike`",),
        example="A fine-tuning in which one batch in thirty has a picture in another unit: each such step throws the"
        " network back, and it ends at 69% instead of 95%.",
        confirm="Train again from the same seed with the threshold that `gradwatch recommend` gives, and compare the"
        " loss after these steps.",
        fix="Look at the batches of these steps. If they are all right, clip or lower the learning rate. With Adam a"
        " smaller beta2 helps too.",
        sources=("Chowdhery et al. 2022, 'PaLM', section 5.1, https://arxiv.org/abs/2204.02311",),
    ),
    "huge-loss": Page(
        title="The loss is far outside every usual range",
        cure="rate",
        meaning="Every logged loss is above a million, norms are above a thousand, and the loss does not fall. Beside"
        " a reward that rises it is not told: errors of values are as large as the square of the return.",
        example="A log that begins at step 5,900, after the training was lost: the loss is near 4e8 in each row.",
        confirm="Print the loss of the untrained model, and the range of the targets.",
        fix="Go back to a checkpoint from before the loss grew and lower the learning rate. If the loss was that large"
        " from the first step on, normalise targets and inputs.",
    ),
    "optimizer-recreated": Page(
        title="The script keeps creating new optimizers",
        cure="script",
        meaning="Three or more optimizers of one class train the same weights one after another. Each begins without"
        " the momentum and the second moments of the one before. If they have no such state, this is information.",
        example="`optimizer = Adam(model.parameters())` inside the loop over epochs, or over batches.",
        confirm="Print `id(optimizer)` at each pass of the loop.",
        fix="Create the optimizer once, before the loop. To lower its rate, use a scheduler. In meta-learning (Reptile,"
        " MAML) a new optimizer for each inner loop is intended: leave it, and keep that of the outer loop.",
    ),
    "loss-scale": Page(
        title="The loss scale finds no level",
        cure="precision",
        meaning="GradScaler keeps skipping steps, long after it should have found a scale that works.",
        example="A float16 activation near 65504 in every batch.",
        confirm="`gradwatch events --kind loss-scale`.",
        fix="Use bfloat16, or compute the operation with the large values in float32.",
        sources=("Micikevicius et al. 2018, 'Mixed Precision Training', https://arxiv.org/abs/1710.03740",),
    ),
    "no-gradient": Page(
        title="Trainable parameters never get a gradient",
        cure="script",
        meaning="The optimizer holds parameters whose `grad` is None at every step: the loss does not depend on them."
        " If only a few are affected, such as an unused head, this is information and not a warning. Parameters with"
        " `requires_grad=False` and those without entries do not count, unless an optimizer beside others steps and"
        " holds no other ones.",
        example="A `detach` between them and the loss, or reentrant checkpointing of blocks whose inputs need no"
        " gradient, which leaves all LoRA adapters without one.",
        confirm="After one `backward`, list the names whose `grad` is None.",
        fix="Remove the detach, use `checkpoint(..., use_reentrant=False)`, or leave the parameters out of the"
        " optimizer.",
        sources=("https://github.com/huggingface/transformers/issues/26221",),
    ),
    "parameters-without-optimizer": Page(
        title="Parameters get gradients, but no optimizer holds them",
        cure="script",
        meaning="`backward` computes gradients for parameters that no optimizer ever updates, from the start or after"
        " the script replaced them. A plain list or dict of layers hides them from `model.parameters()`.",
        example="`Adam(model.head.parameters())` while the body is not frozen, or `self.layers = [nn.Linear(8, 8)]`.",
        confirm="Compare the ids of `model.parameters()` with those in `optimizer.param_groups`.",
        fix="Give the optimizer all parameters, keep lists of layers in an `nn.ModuleList`, or freeze the others with"
        " `requires_grad_(False)`.",
    ),
    "clip-starves": Page(
        title="One parameter or module owns the norm, and clipping starves the rest",
        cure="threshold",
        meaning="One parameter, or one module, has nearly all of the norm. Clipping by the total norm multiplies all"
        " other gradients by the same small factor, until they fall below Adam's eps or hardly move their weights.",
        example="One layer whose gradient is 1e10 times that of the others, clipped at 1 under AdamW.",
        confirm="Train once without clipping, or with a threshold per parameter.",
        fix="Clip each parameter on its own (`gradwatch.clip.LayerNormClip`), or scale the large gradient down at its"
        " source.",
    ),
    "ineffective-clipping": Page(
        title="The clip call does not do what it is meant to do",
        cure="script",
        meaning="The call runs in the wrong place or on the wrong parameters. The optimizer gets gradients that were"
        " not clipped as intended, or only those are clipped that it never gets. If each micro-batch is clipped while"
        " gradients accumulate, the finding is information: the call clips, but shrinks the earlier micro-batches more"
        " often than the later ones. It is information as well if the call gets only a part of the parameters, such as"
        " one of several groups, and leaves the norm of all of them above the threshold.",
        example="`clip_grad_norm_` after `optimizer.step()`, before `scaler.unscale_(optimizer)`, or given `p.grad`"
        " instead of `p`.",
        confirm="Run `gradwatch doctor SCRIPT`, which lists the clip calls and whether each takes effect.",
        fix="Clip between the last `backward` (and `unscale_`) and `optimizer.step()`.",
        sources=("https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-clipping",),
    ),
    "threshold-too-low": Page(
        title="The threshold is far below the usual norm",
        cure="threshold",
        meaning="Clipping by norm or by value cuts nearly every step to a small part of its norm. With SGD and similar"
        " optimizers this amounts to a much lower learning rate.",
        example="SGD clipped at 0.001 where the median norm is 2.",
        confirm="Train with ten times the threshold.",
        fix="Use the threshold that `gradwatch recommend` gives.",
    ),
    "clipped-by-script": Page(
        title="The script changes gradients itself",
        cure="script",
        meaning="Something other than a clip call changed the gradients between `backward` and `step`, at a tenth of"
        " the steps or more, and at 5 or more. The recorded norms are those that the optimizer got, after that change.",
        example="`p.grad.mul_(min(1, 1 / norm))` in the loop, a model library's own AGC, the noisy gradients of"
        " Opacus, or `clip_grad_norm_` within a function that `torch.compile` compiles.",
        confirm="Compare `p.grad._version` before and after the code between `backward` and `step`.",
        fix="Nothing is wrong where the change is meant, as in differentially private training (Opacus). Else clip with"
        " `torch.nn.utils.clip_grad_norm_` or a policy of `gradwatch.clip`, outside compiled functions and as the last"
        " change before the step.",
    ),
    "dead-parameters": Page(
        title="Parameters whose gradient is exactly 0",
        cure="signal",
        meaning="The gradient exists but stays at 0: the units are off for every input. Dropout is not the cause. It"
        " switches off different units at each step, so it makes a gradient 0 at some steps only (unless p is 1). A"
        " branch that joins the loss later is not reported once it has had gradients for some steps.",
        example="ReLU units whose bias fell far below 0.",
        confirm="Look at the activations that these parameters feed.",
        fix="Use a smaller learning rate, an initial bias nearer 0, normalisation, or an activation with a slope"
        " below 0.",
        sources=("Lu et al. 2019, 'Dying ReLU and Initialization', https://arxiv.org/abs/1903.06733",),
    ),
    "vanishing": Page(
        title="Gradients vanish",
        cure="architecture",
        meaning="A layer's gradient is a tiny fraction of the strongest layer's, or the gradients faded over the run"
        " while the loss did not improve.",
        example="Twelve layers with sigmoid activations.",
        confirm="Compare the norms per layer: `gradwatch report --layers 100`.",
        fix="Use residual connections, normalisation, or activations that do not saturate.",
        sources=("Glorot and Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html",),
    ),
    "died": Page(
        title="The training died",
        cure="script",
        meaning="An exception, a signal or an exit code other than 0 ended the training. The gradients before that may"
        " have been healthy. Ctrl-C does not count.",
        example="A data loader that raises at step 120.",
        confirm="Read the traceback that the script printed.",
        fix="Fix the script and resume from the last checkpoint. `gradwatch check --allow-unfinished` accepts such a"
        " run.",
    ),
    "killed": Page(
        title="The recording has no end",
        cure="script",
        meaning="The process that recorded the run ended without closing it.",
        example="The kernel's out-of-memory killer, or a job's time limit.",
        confirm="Look at `dmesg` or the scheduler's log.",
        fix="Find out what killed it. `gradwatch check --allow-unfinished` accepts such a run.",
    ),
    "learning-rate-too-high": Page(
        title="The learning rate is too high",
        cure="rate",
        meaning="The loss did not stay down, and the median update changes a parameter by more than 2% of its norm. Of"
        " several optimizers it is information: the loss of one may rise because another learns.",
        example="Each step changes a layer by 30% of its weights' norm.",
        confirm="Train with a third of the learning rate.",
        fix="Lower the learning rate before you change the clipping. Clipping would only mask the problem.",
    ),
    "loss-regressed": Page(
        title="The loss ends well above its best",
        cure="rate",
        meaning="The median of the last tenth of the losses is significantly above that of the best tenth, by more"
        " than 15% of the progress. This is a warning if half of the progress is undone and there is only one"
        " optimizer. If weight decay has shrunk the weights to less than half, it is named as the cause, and the"
        " learning rate is not.",
        also=(
            "nearly all of the last of fewer than 100 losses lie above nearly all of the best ones, and their median"
            " is above 1.17 times the best level",
            "each of the last of 10 to 29 losses is above 1.5 times the best few in a row, or above 1.17 times where"
            " that is far above their noise",
            "the loss clearly stands above its best, by more than its noise and than its levels wander, and does not"
            " come down again: by 4% where the norms rose by half or more meanwhile, by 17% and a tenth of the"
            " fall, in logarithms, where the loss alone says so. With one optimizer it is a warning",
        ),
        unless=("the norms have grown too: the finding is then `diverged`",),
        example="A constant learning rate that is too high for the end of the training.",
        confirm="Evaluate the checkpoints of the best level and of the end on the same held-out data.",
        fix="Keep the best checkpoint. Lower the learning rate towards the end, or look at the data from where the"
        " loss turns. With an adversary or a curriculum (harder examples, longer sequences, noise that grows), such a"
        " rise can be intended: the loss alone can't tell, but that of held-out data of one difficulty can.",
    ),
    "reward-lost": Page(
        title="The reward fell and did not come back",
        cure="rate",
        meaning="The history of a policy has its reward, and the last fifth of the rewards lies below the best fifth in"
        " most pairs, by 55% of that level (28% if no reward is below 0), or by 15% that undo 40% of what the reward"
        " had gained. The loss of such a training is a surrogate and shows nothing of this.",
        also=(
            "the last of 8 to 19 rewards lie below all before, by more than four times their noise or 60% of the best"
            " level",
            "the fall begins within the first twentieth of the rewards, or happens in the last, and undoes three"
            " quarters of what the reward had gained",
        ),
        unless=(
            "only the loss grows beside a reward: no finding is made of it, except that it grows far while the reward"
            " does not rise, or falls again (`diverged`)",
        ),
        example="GRPO whose reward falls from 0.9 to 0 within five updates: each answer is as long as it may be.",
        confirm="Read samples from before and after the fall, and plot the entropy and the KL distance.",
        fix="Go back to a checkpoint from before it. Lower the learning rate, make fewer updates on the same samples,"
        " or raise the KL coefficient.",
        sources=(
            "Gao et al. 2023, 'Scaling Laws for Reward Model Overoptimization', https://arxiv.org/abs/2210.10760",
        ),
    ),
    "overfitting": Page(
        title="The validation loss rises while the training's falls",
        cure="signal",
        meaning="There are at least six validations, and at least three came after the best one. Their loss is"
        " higher by more than 5% and by more than its noise, while the training loss kept falling. The gradients"
        " are healthy, so"
        " it is information. The validation losses are those of `watch.log(validation_loss=...)`, or the"
        " `eval_loss` of Transformers and the `val_loss` of Lightning and Keras.",
        example="A small network on 60 noisy examples that trains on after it has learnt them all.",
        confirm="Compare what counts, such as the accuracy, of the best checkpoint and of the last one on the"
        " validation data. It may still rise where the loss does, if few answers are wrong with great confidence.",
        fix="Keep the checkpoint of the best validation (early stopping). More data, augmentation, dropout or weight"
        " decay let a training learn for longer. Clipping does not.",
        sources=("Prechelt 1998, 'Early Stopping - But When?', https://doi.org/10.1007/3-540-49430-8_3",),
    ),
    "dropout-noise": Page(
        title="Norms scatter because of dropout",
        cure="signal",
        meaning="The norms scatter by less than 10% from step to step, and the model drops half of the units of a"
        " layer or more. Dropout explains as much. It is information: nothing is wrong.",
        example="A small network with all data in each batch: its norms scatter by 0.7% without dropout, by 3.5% with"
        " 0.5 and by 5.6% with 0.9.",
        confirm="Train some steps with all data in a batch, with dropout and without.",
        fix="Nothing needs to change. No clipping threshold removes this scatter; a lower dropout does.",
        sources=("Srivastava et al. 2014, 'Dropout', https://jmlr.org/papers/v15/srivastava14a.html",),
    ),
    "no-progress": Page(
        title="The loss has not fallen since the first step",
        cure="signal",
        meaning="No tenth of the losses has a median that is 2% below the first losses, and the losses scatter so"
        " little that a fall of 5% would show. It is information, because a model that knew its task before the run"
        " began looks the same. In an imported history of 10 losses or more it is a warning if the loss stands within"
        " 5% and its rows differ by less than 1% from the first ones on, as if it did not depend on the inputs.",
        also=(
            "an imported loss stands at what a guess costs, the logarithm of the number of classes (2, 3, 4, 5, 10, 100"
            " or 1,000), also in noisy rows (a warning)",
            "it stands between 4 and 12.5, higher than a language model that has learnt, or while the norms fall to a"
            " fifteenth (a warning)",
            "it comes down to 6.3 or more, about what the frequency of words alone gives, and stands there (a warning)",
            "no tenth of an imported loss is a tenth below the first, and the last three are 8% above it, beyond"
            " chance, or one was twice as high and the loss is back where it began (a warning)",
            "the reward of a policy is its lowest in three rows of four and does not become more (a warning)",
            "each later one of 8 imported losses or more is 5% above the first, or each later one of 20 rewards or more"
            " is 3% below the first ones (a warning)",
            "the reward of a policy stays within 0.1 of 0, or below 0 in 60 rows or more, and does not become more (a"
            " warning)",
            "no fifth of 60 rewards or more, whose median is 5 or more in size, is better than the first, beyond chance"
            " (a warning)",
            "the reward is the same number below 0 in every row, or 0 in nearly every row of a learner of values or of"
            " a log without norms and losses (a warning)",
            "the reward of a policy does not rise while its loss grows in size all along, threefold or more (a"
            " warning)",
            "all losses of the second half are within 0.1% of the cost of a guess (a warning)",
        ),
        unless=(
            "there are several optimizers, whose losses can stand still while they train against one another",
            "the loss is about 0",
        ),
        example="Ten classes with shuffled labels: the loss stays near ln(10) = 2.3.",
        confirm="Train on a single batch for some hundred steps.",
        fix="If the loss of a single batch does not fall either, the model, the loss or the learning rate is wrong. If"
        " it does, look at the data and the labels.",
        sources=(
            "Karpathy 2019, 'A Recipe for Training Neural Networks', https://karpathy.github.io/2019/04/25/recipe/",
        ),
    ),
    "too-short": Page(
        title="Too short to judge",
        cure="none",
        meaning="The run has fewer steps than the detectors need to learn its usual level.",
        example="An imported history with two rows.",
        confirm="Compare the number of steps in `gradwatch report` with 40.",
        fix="Record at least 40 steps, or better a few hundred.",
    ),
    "spike": Page(
        title="A step stood out, and the training came back",
        cure="rate",
        meaning="One or a few steps had a norm far above their neighbours. Loss and norms have returned to their"
        " level. If the largest is one of the first hundred steps of Adam or its like, and the learning rate has no"
        " warm-up, that is named as a cause: the averages of the optimizer rest on few gradients then.",
        example="A batch with one outlier; or Adam at 0.03 in a small network, where step 5 has 19 times the norm of"
        " its neighbours.",
        confirm="Run the same batch through an earlier checkpoint, or train again from the same seed with a warm-up.",
        fix="Look at the batch. Clipping limits the damage of such a step. Warm the learning rate up if the spike is"
        " one of the first steps.",
        sources=(
            "Liu et al. 2019, 'On the Variance of the Adaptive Learning Rate and Beyond',"
            " https://arxiv.org/abs/1908.03265",
        ),
    ),
    "eps-starvation": Page(
        title="Gradients below the optimizer's eps",
        cure="precision",
        meaning="Adam divides by sqrt(v) + eps. If the gradient is as small as eps, updates shrink.",
        example="A loss that the script multiplies by 1e-6.",
        confirm="Train a few steps with a hundredth of eps.",
        fix="Use a smaller eps, or multiply the loss by a constant.",
        sources=("Wortsman et al. 2023, 'Small-scale proxies', section 3.4, https://arxiv.org/abs/2309.14322",),
    ),
    "norm-rises-as-rate-falls": Page(
        title="The norms rise as the learning rate falls",
        cure="none",
        meaning="Weight decay keeps the ratio of gradient norm to weight norm near sqrt(2 decay / rate). If a"
        " schedule lowers the rate, the gradients therefore grow, but only as fast as decay shrinks the weights: by"
        " decay * rate at each step. The event `drift` says how much of a rise this explains.",
        example="AdamW with a weight decay of 0.1 and a cosine schedule from 1e-3 over 100,000 steps.",
        confirm="Compare the norms of gradients and weights: the gradients' norm grows as the weights' norm shrinks.",
        fix="Nothing is wrong. A decay that falls with the rate keeps the norms level.",
        sources=("Defazio 2025, https://arxiv.org/abs/2506.02285",),
    ),
    "update-spike": Page(
        title="Updates jumped",
        cure="rate",
        meaning="The size of the update, divided by the learning rate, reached twice its recent level. Such updates"
        " often come before spikes of the loss, because the weights have to move before the loss can rise.",
        example="Adam with beta2 = 0.999 and a learning rate at the edge, late in full-batch training.",
        confirm='Look at `Run.updates("update_ratio")` and `Run.updates("rms_ratio")` around these steps.',
        fix="Use a lower learning rate, a longer warm-up, or a smaller beta2.",
        sources=("Wortsman et al. 2023, section 3, https://arxiv.org/abs/2304.13013",),
    ),
    "updates-out-of-proportion": Page(
        title="Updates are out of proportion",
        cure="rate",
        meaning="In the second half of the run, the median update of one or a few matrices was at least ten times that"
        " of the others, beside the weights that each began with, and 0.5% or more of its present norm. Their rate"
        " is much higher than that of the rest; their weights often grow until it looks ordinary. A matrix is compared"
        " with others of its type (attention, recurrent, adapters, convolutions) if there are three or more, and"
        " otherwise with all matrices except embeddings. A high rate can be intended, as for a new head on a"
        " pretrained network.",
        also=(
            "an update is a twentieth of the others beside its weights or less, and the entries of these weights are"
            " five times as large: they hardly train",
            "the update of an embedding is twice the others, and its entries move ten times as far",
        ),
        unless=("the parameter is a bias or a gain",),
        example="A parameter group for the embedding with `lr=1e-1`, beside `lr=1e-4` for everything else; or a layer"
        " whose initial weights are a hundred times too large.",
        confirm='Compare `Run.layers("update_ratio")` of these parameters with that of the others.',
        fix="Give them a parameter group with a lower learning rate, or begin with weights of the others' size.",
        sources=("You, Gitman and Ginsburg 2017 (LARS), section 4, https://arxiv.org/abs/1708.03888",),
    ),
    "held-spike": Page(
        title="The momentum held a spike",
        cure="threshold",
        meaning="The gradient spiked and came back, but updates stayed at twice their level or more, because the"
        " momentum still held the spike. Clipping removes a spike before it enters the momentum.",
        example="SGD with a momentum of 0.98, and one batch whose loss is multiplied by 100.",
        confirm="Compare `total_norm` and `update_norm` in `Run.steps()` after the spike.",
        fix="Set a clipping threshold below the spike.",
    ),
    "large-initial-norms": Page(
        title="The first gradients are very large",
        cure="architecture",
        meaning="The first norms are at least 20 times the later ones.",
        example="An output layer whose initial weights are far too large.",
        confirm="Compare the first loss with that of a constant guess.",
        fix="Use smaller initial weights, normalisation, or a warm-up.",
    ),
    "threshold-idle": Page(
        title="The threshold never acts",
        cure="threshold",
        meaning="The clipping threshold is more than twice the largest norm of the run.",
        example="`max_norm=100` where the largest norm is 3.",
        confirm="Run `gradwatch recommend`, which shows what other thresholds would have done.",
        fix="Keep it as a guard, or lower it.",
    ),
    "one-parameter-dominates": Page(
        title="One parameter carries the norm",
        cure="threshold",
        meaning="One parameter has 90% of the squared norm or more. A threshold on the total norm is then in effect a"
        " threshold on this parameter.",
        example="An embedding whose gradient is the sum over a batch.",
        confirm="Run `gradwatch report`, which lists the norms of each layer.",
        fix="Use `gradwatch.clip.LayerNormClip`, which clips each parameter on its own.",
    ),
    "norms-after-clipping": Page(
        title="The history holds norms after clipping",
        cure="none",
        meaning="The recorded norms are those of clipped gradients: none exceeds the threshold.",
        example="A framework that logs the norm after `clip_grad_norm_`.",
        confirm="Plot the norms: they all end at one ceiling.",
        fix="Log the value that `clip_grad_norm_` returns.",
    ),
    "recording-stopped": Page(
        title="gradwatch stopped recording",
        cure="none",
        meaning="A fault in gradwatch or on the disk ended the recording. The training went on.",
        example="A full disk.",
        confirm="Look for the message in the training's log.",
        fix="See recording-stopped in docs/messages.md.",
    ),
}


def _cases(page: Page) -> list[tuple[str, tuple[str, ...]]]:
    """The lists of cases that a page has, each with its heading."""
    lists = [("It is also reported when:", page.also), ("It is not reported when:", page.unless)]
    return [(heading, cases) for heading, cases in lists if cases]


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
        *("\n".join([heading, *(f"- {case}" for case in cases)]) for heading, cases in _cases(page)),
    ]
    if page.sources:
        parts.append("Sources: " + "; ".join(page.sources))
    return "\n\n".join(parts) + "\n"


def as_markdown() -> str:
    """All pages, as docs/findings.md."""
    parts = [
        "# Findings\n",
        "Every finding that gradwatch can report, the most serious first. `gradwatch explain CODE` prints one of"
        " these pages. `docs/findings.py` makes this file from `gradwatch/analysis/diagnosis/pages.py`.\n",
    ]
    for code, page in PAGES.items():
        parts.append(f"## {code}\n\n**{page.title}.** {page.meaning}\n")
        points = [f"**Example.** {page.example}", f"**Confirm.** {page.confirm}", f"**Fix.** {page.fix}"]
        points += [f"**Source.** {source}" for source in page.sources]
        parts.append("".join(f"- {point}\n" for point in points))
        for heading, cases in _cases(page):
            parts.append(f"{heading}\n\n" + "".join(f"- {case}\n" for case in cases))
    return "\n".join(parts)
