"""Reads the text that training scripts print, by the patterns of well-known ones or by a pattern of the user's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradwatch.errors import BadArgument, CannotImport
from gradwatch.sources import epoch_lines
from gradwatch.sources.columns import WORDS
from gradwatch.sources.lines import LONGEST_PRINTED, printed_lines
from gradwatch.sources.names import HELD_OUT, NAMES, RIVALS, is_called, rivals
from gradwatch.sources.values import NUMBER, TYPED

GROUPS = {"step": "step", "norm": "grad_norm", "loss": "loss", "lr": "lr", "reward": "reward"}
_SERIES = GROUPS | {"d": "D/loss", "g": "G/loss"}  # the series of each group, of the patterns here as well
_N = NUMBER

# Atomic groups, (?>...), keep a hostile line from taking more than quadratic time.
PATTERNS = {
    # A NaN is padded to the width of a number.
    "llm.c": rf"step\s+(?P<step>\d+)/\d+ \| (?:train )?loss\s++(?P<loss>{_N})(?>.*?\| norm\s++(?P<norm>{_N}))"
    rf"(?>.*?\| lr (?P<lr>{_N}))",
    "llm.c's main.log": rf"\bs:(?P<step>\d+) trl:(?P<loss>{_N}) lr:(?P<lr>{_N}) norm:(?P<norm>{_N})",
    # Some copies print no learning rate, and `||` between the columns.
    "build-nanogpt": rf"step\s+(?P<step>\d+) \|{{1,2}} loss: (?P<loss>{_N}) \|{{1,2}}"
    rf"(?: lr:? (?P<lr>{_N}) \|{{1,2}})?(?> norm:? (?P<norm>{_N}))?",
    "nanoGPT": rf"\biter (?P<step>\d+): loss (?P<loss>{_N}), time [\d.]+ms",
    "Megatron-LM": rf"iteration\s+(?P<step>\d+)/\s*\d+ \|(?>.*?learning rate:\s*(?P<lr>{_N}) \|)?"
    rf"(?>.*?lm loss:\s*(?P<loss>{_N}) \|)(?>.*?grad norm:\s*(?P<norm>{_N}))?",
    "torchtitan": rf"step:\s*(?P<step>\d+)\s+loss:\s*(?P<loss>{_N})\s+grad_norm:\s*(?P<norm>{_N})",
    # As JSON, or as `loss=3.1, num_updates=100`, which is its default where the output is a file.
    "fairseq": rf'\bloss(?:": "|=)(?P<loss>{_N})(?>.*?\bnum_updates(?:": "|=)(?P<step>\d+))'
    rf'(?>.*?\blr(?:": "|=)(?P<lr>{_N}))(?>.*?\bgnorm(?:": "|=)(?P<norm>{_N}))',
    # Its first versions counted no updates.
    "fairseq of 2018": rf"\bepoch (?P<epoch>\d+):?\s++(?P<step>\d+) / (?P<of>\d+) loss=(?P<loss>{_N})"
    rf"(?>.*?\blr=(?P<lr>{_N}))(?>.*?\bgnorm=(?P<norm>{_N}))",
    "fairseq's epochs of 2018": rf"\| epoch (?P<step>\d+) \| train loss (?P<loss>{_N})"
    rf"(?>.*?\| lr (?P<lr>{_N}))(?>.*?\| gnorm (?P<norm>{_N}))",
    # The means of an epoch, as JSON or as `| loss 6.3 | num_updates 100`.
    "fairseq's epochs": rf'(?:\btrain_loss": "|\| loss )(?P<loss>{_N})'
    rf'(?>.*?(?:train_|\| )num_updates(?:": "| )(?P<step>\d+))'
    rf'(?>.*?(?:train_|\| )lr(?:": "| )(?P<lr>{_N}))(?>.*?(?:train_|\| )gnorm(?:": "| )(?P<norm>{_N}))',
    "verl": rf"\bstep:(?P<step>\d+) - (?>.*?\bactor/grad_norm:(?:np\.float64\()?(?P<norm>{_N}))"
    rf"(?>.*?\bactor/lr:(?:np\.float64\()?(?P<lr>{_N}))?"
    rf"(?>.*?\bcritic/score/mean:(?:np\.float64\()?(?P<reward>{_N}))?",
    # mmcv and mmengine name the loss before the norm or after it.
    "OpenMMLab": rf"\b(?:Epoch|Iter)(?:\(train\))? *(?:\[ *(?P<epoch>\d+)\])?\[ *(?P<step>\d+)/ *(?P<of>\d+)\]"
    rf"(?=(?>.*?\blr: *(?P<lr>{_N})))(?:(?=(?>.*?\bgrad_norm: *(?P<norm>{_N})))|)"
    rf"(?:(?=(?>.*?(?<![\w./])loss: *(?P<loss>{_N})))|)",
    # How many batches an epoch has is not printed.
    "ESPnet": rf"\b(?P<epoch>\d+)epoch:train:\d+-(?P<step>\d+)batch:(?=(?>.*?\bgrad_norm=(?P<norm>{_N})))"
    rf"(?:(?=(?>.*?(?<![\w./])loss=(?P<loss>{_N})))|)(?:(?=(?>.*?\b(?:optim0_lr|lr_)0=(?P<lr>{_N})))|)",
    # It prints a multiple of the learning rate alone.
    "nanochat": rf"\bstep (?P<step>\d+)/\d+ \([\d.]+%\) \| loss: (?P<loss>{_N}) \| grad[_ ]norm: (?P<norm>{_N})",
    # A large number is abbreviated: 1.25K.
    "nanotron": rf"\biteration: (?P<step>\d+) / \d+ \|(?=(?>.*?\blm_loss: (?P<loss>{_N}[KMBT]?)))"
    rf"(?=(?>.*?\blr: (?P<lr>{_N})))(?>.*?\bgrad_norm: (?P<norm>{_N}[KMBT]?))",
    # Its steps are abbreviated beyond use: step:31K.
    "LeRobot": rf"\bstep:\S++ smpl:(?>.*?\bloss:(?P<loss>{_N}))\s+grdn:(?P<norm>{_N})\s+lr:(?P<lr>{_N})",
    # BEiT, MAE, VideoMAE and Swin: each number is followed by its mean in brackets.
    "the scripts like BEiT's": rf"\b(?:Epoch|Train): \[(?P<passed>\d+)(?:/\d+)?\]\s*+\[\s*+(?P<step>\d+)/(?P<of>\d+)\]"
    rf"(?=(?>.*?(?<![\w./])lr:? (?P<lr>{_N})))(?=(?>.*?(?<![\w./])loss:? (?P<loss>{_N})))"
    rf"(?>.*?\bgrad_norm:? (?P<norm>{_N}))?",
    "audiocraft": rf"\bTrain Summary \| Epoch (?P<step>\d+) \|(?=(?>.*?\blr=(?P<lr>{_N})))"
    rf"(?=(?>.*?(?<![\w./])(?:ce|loss)=(?P<loss>{_N})))(?>.*?\bgrad_norm=(?P<norm>{_N}))",
    "the first DPO script": rf"'loss/train': '(?P<loss>{_N})'(?>.*?'grad_norm': '(?P<norm>{_N})')"
    rf"(?>.*?'counters/updates': (?P<step>\d+))",
    # A line for each number, below the line of the step.
    "OLMo": rf"\[step=(?P<step>\d+)/(?=(?>.*?\btrain/CrossEntropyLoss=(?P<loss>{_N})))"
    rf"(?:(?=(?>.*?\boptim/learning_rate_group0=(?P<lr>{_N})))|)(?>.*?\boptim/total_grad_norm=(?P<norm>{_N}))",
    "detectron2": rf"\biter: (?P<step>\d+)(?:/\d+)?\s+total_loss: (?P<loss>{_N})(?>.*?\blr: (?P<lr>{_N}))?",
    "PyTorch's DCGAN example": rf"\[(?P<passed>\d+)/\d+\]\[(?P<step>\d+)/(?P<of>\d+)\]\s+Loss_D: (?P<d>{_N})"
    rf"\s+Loss_G: (?P<g>{_N})",
    "the Transformers Trainer": rf"'loss': '?(?P<loss>{_N})'?,(?>.*?'grad_norm': '?(?P<norm>{_N})'?)?"
    rf"(?>,.*?'learning_rate': '?(?P<lr>{_N}))?(?>.*?'reward': '?(?P<reward>{_N}))?",
}
"""By the tool that prints such lines. A step is counted as the tool counts it."""

_IS = r"[\"']?\s{0,4}[:=]?\s{0,8}[\"']?"  # between a name and its number
_NAMED = {
    "norm": re.compile(
        rf"(?<![\w./])(?:(?:total|global|mean|avg)[ _-])?(?:(?:grad|gradient|gradients)[ _-]?(?:l2[ _-]?)?norm"
        rf"|grad[ _-]l2|g_?norm|l2[ _-]norm|global[ _-]norm){_IS}(?P<value>{_N})(?![\w.])"
        rf"|(?:^|[|,;(\[])\s{{0,8}}(?:total[ _-])?norm{_IS}(?P<bare>{_N})(?![\w.])",
        re.IGNORECASE,
    ),
    "loss": re.compile(
        rf"(?<![\w./])(?<!val )(?<!valid )(?<!validation )(?<!eval )(?<!test )(?<!dev )(?:(?:train|training)[ _/-])?"
        rf"(?:loss|rl_loss|lm_loss){_IS}(?P<value>{_N})(?![\w.])",
        re.IGNORECASE,
    ),
    "step": re.compile(
        r"(?<![\w./])(?:(?:global|train|training)[ _-])?(?:step|steps|iter|iteration|update)[\"']?"
        r"\s{0,4}[:=#]?\s{0,8}[\[(]?\s{0,8}(?P<value>\d{1,18})(?![\w.])",
        re.IGNORECASE,
    ),
    "epoch": re.compile(r"(?<![\w./])epoch\s{0,4}[:=#]?\s{0,8}[\[(]?\s{0,8}(?P<value>\d{1,9})(?![\w.])", re.IGNORECASE),
    "lr": re.compile(rf"(?<![\w./])(?:lr|learning[ _-]rate){_IS}(?P<value>{_N})(?![\w.])", re.IGNORECASE),
    "reward": re.compile(
        rf"(?<![\w./])(?:(?:mean|avg|average|episode)[ _-])?(?:reward|return)(?:[ _-]mean)?{_IS}"
        rf"(?P<value>{_N})(?![\w.])",
        re.IGNORECASE,
    ),
}
"""Names that scripts print before a value, for lines of no known tool."""
BY_NAME = "names before values"
TQDM = "the progress bars of tqdm"
_BAR = re.compile(r"\d{1,3}%\|[^|\n]{0,400}\| *(?P<at>\d{1,15})/(?P<of>\d{1,15}) \[")
_NEEDED = ({"norm", "loss"}, {"norm", "step"}, {"loss", "step"}, {"loss", "epoch"})  # of a line, one of these
LEAST_NAMED = 2  # lines of names: a single one may be a setting

_PARTS = "|".join(part.replace("_", "[_ ]") for pair in RIVALS for role in pair for part in role)
_OF_RIVAL = re.compile(
    rf"(?<![\w./])(?:(?:train|training)[ _/-])?(?:(?P<before>{_PARTS})[ _/-]?loss|loss[ _/-]?(?P<after>{_PARTS}))"
    rf":?{_IS}(?P<value>{_N})(?![\w.])",
    re.IGNORECASE,
)
"""The loss of one of two rivals, such as ``D loss: 0.5`` and ``loss_G=2.1``."""

_ABBREVIATED = {"K": "e3", "M": "e6", "B": "e9", "T": "e12"}
_HEADER = re.compile(r"\[step=\d+/\d+")  # a line whose numbers stand below it, indented
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
_WITHOUT_LOSS = {"DeepSpeed": re.compile(r"\bstep=\d+, skipped=\d+, lr=\[")}
"""Lines of tools that print neither a gradient norm nor a loss."""
_WORDS = ("loss", "norm", "grad", "grdn", "skipped=")
"""Each line that one of the patterns here matches has one of these, in lower case."""
_HELD_OUT_BEFORE = re.compile(rf"\b{HELD_OUT}\b(?![ _-](?:loss|acc\w*)\b)", re.IGNORECASE)
"""A word before a loss that says that it is not of the training."""
_WORD_BEFORE = re.compile(r"([a-z]+)[ -]{1,2}$", re.IGNORECASE)
_OF_ALL = {"total", "overall", "average", "avg", "mean"}
"""Words before a loss that is the sum of its parts, or its mean."""
_OF_ANOTHER_STEP = {"best", "lowest", "min", "minimum", "previous"}


def rows(file: Path, pattern: str | None = None) -> tuple[list[dict[str, Any]], str, tuple[str, ...]]:
    """The rows of the lines that match, what pattern it was, and notes.

    Args:
        file: text.
        pattern: a regular expression with the group norm or loss, and step, lr and reward if there are some.

    Raises:
        BadArgument: the pattern can't be read, or lacks a group.
        CannotImport: the file can't be read, or no line of it matches.
    """
    if pattern is not None:
        found = _matches(file, {"--pattern": compiled(pattern)})["--pattern"]
        if not found:
            raise CannotImport(f"{str(file)!r} has no line that matches --pattern.")
        return found, "--pattern", ()
    known = {name: re.compile(text, re.IGNORECASE) for name, text in PATTERNS.items()}
    each = _matches(file, known | _WITHOUT_LOSS, plain, _may_name_values)
    without = [name for name in _WITHOUT_LOSS if each.pop(name)]
    best = max(each, key=lambda name: (_with_norm(each[name]), len(each[name])))
    if _with_norm(each[best]):
        return each[best], f"the pattern of {best}", ()
    named, what = _named(file)
    if _with_norm(named):
        return named, what, ()
    if each[best]:
        return each[best], f"the pattern of {best}", ()
    of_epochs = epoch_lines.rows(file)
    if of_epochs[0]:
        return of_epochs
    if named:
        return named, what, ()
    why = f" {without[0]}'s own lines contain neither a gradient norm nor a loss." if without else ""
    raise CannotImport(
        f"{str(file)!r} has no line like those of {', '.join(PATTERNS)}.{why} Give --pattern, for example"
        r" 'step (?P<step>\d+).*norm (?P<norm>\S+)'."
    )


def notes(found: Sequence[Mapping[str, Any]], of_rows: Sequence[str]) -> tuple[str, ...]:
    """The notes about rows of text, whose columns are groups of a pattern and can't be chosen by options.

    >>> notes([{"grad_norm": "1.0", "loss": "2"}], ["taken: ...", "not found: the learning rate"])
    ('taken: the gradient norm, the loss', 'not found: the learning rate')
    """
    names = dict.fromkeys(name for row in found for name in row)
    words = {name: word for kind, word in WORDS.items() for name in names if is_called(name, NAMES[kind])}
    words |= {name: f"{name.removesuffix('/loss')!r}'s loss" for name in names if name.endswith("/loss")}
    return (f"taken: {', '.join(words.values())}", *(note for note in of_rows if not note.startswith("taken: ")))


def compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern of the user's.

    Raises:
        BadArgument: it can't be read, or has neither the group norm nor the group loss.
    """
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise BadArgument(f"--pattern is {pattern!r}, which is not a regular expression: {error}.") from error
    if not {"norm", "loss"} & set(found.groupindex) or set(found.groupindex) - set(GROUPS):
        raise BadArgument(
            f"--pattern is {pattern!r}; expected the group (?P<norm>...) or (?P<loss>...), and of step, lr and reward."
        )
    return found


def plain(text: str) -> str:
    """A line with plain numbers, where a script printed values of NumPy or PyTorch.

    >>> plain("{'loss': np.float64(1.5)} norm tensor(2., device='cuda:0', grad_fn=<MulBackward0>)")
    "{'loss': 1.5} norm 2."
    """
    return TYPED.sub(r"\1", text)


def _may_name_values(text: str) -> bool:
    """Whether a line may match one of the patterns here. To look for a few words is much faster than to try them all.

    >>> [_may_name_values(text) for text in ("Loss: 1.0", "s:1 trl:2.0 norm:1", "fetched shard 7 from cache")]
    [True, True, False]
    """
    low = text.lower()
    return any(word in low for word in _WORDS)


def _matches(
    file: Path,
    patterns: Mapping[str, re.Pattern[str]],
    prepare: Callable[[str], str] = str,
    is_relevant: Callable[[str], bool] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """The groups of each line that matches, by the name of the pattern."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in patterns}
    for text in map(prepare, filter(is_relevant, _texts(file))):
        for name, pattern in patterns.items():
            match = pattern.search(text)
            if match is not None:
                found[name].append(_row(match))
    return found


def _named(file: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows of the lines that name a norm, and a loss or a step, and what lines these are; none of too few.

    Where no line names a norm, those that name a loss of the training, and a step or an epoch. The states of a progress
    bar count where no other lines do.
    """
    of_lines: list[dict[str, Any]] = []
    of_bars: dict[str, list[dict[str, Any]]] = {}  # by the length: that of an evaluation is another
    for text in map(plain, filter(_may_name_values, _texts(file))):
        bar = _BAR.search(text)
        row = _named_row(text, has_place=bar is not None)
        if row and bar is None:
            of_lines.append(row)
        elif row and bar is not None:
            of_bars.setdefault(bar["of"], []).append(row | {"step": int(bar["at"])})
    longest = max(of_bars.items(), key=lambda item: len(item[1]), default=("0", []))
    named, bars = _enough(of_lines), _enough(_counted_on(*longest))
    if not named or (_with_norm(bars) and not _with_norm(named)):
        return bars, TQDM
    return named, BY_NAME


def _enough(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those with a norm, if there are some; none of too few.

    A step that some lines do not print can't place the others, so rows are counted then.
    """
    if with_norm := [row for row in found if "grad_norm" in row]:
        found = with_norm
    if len(found) < LEAST_NAMED:
        return []
    if not all("step" in row for row in found):
        for row in found:
            row.pop("step", None)
    return found


def _counted_on(length: str, states: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The states of bars of one length, with steps counted on from bar to bar; the last of those of one step.

    >>> _counted_on("2", [{"step": at, "loss": n} for n, at in enumerate((0, 1, 2, 2, 0, 1))])[-2:]
    [{'step': 2, 'loss': 4}, {'step': 3, 'loss': 5}]
    """
    passed = last = 0
    counted: dict[int, dict[str, Any]] = {}
    for row in states:
        if row["step"] < last:
            passed += int(length)
        last = row["step"]
        step = passed + last
        counted[step] = {name: value for name, value in row.items() if name != "epoch"} | {"step": step}
    return list(counted.values())


def _with_norm(found: Sequence[Mapping[str, Any]]) -> int:
    """How many rows have a norm."""
    return sum("grad_norm" in row for row in found)


def _named_row(text: str, *, has_place: bool = False) -> dict[str, Any]:
    matches = {name: match for name, pattern in _NAMED.items() if (match := pattern.search(text)) is not None}
    loss = _loss(text)
    apart = _losses_of_rivals(text) if loss is None else {}
    known = {*matches, *(("loss",) if apart else ()), *(("step",) if has_place else ())}
    if not any(needed <= known for needed in _NEEDED):
        return {}
    first = loss or next(iter(apart.values()), None)
    if "norm" not in matches and (first is None or _HELD_OUT_BEFORE.search(text[: first.start()])):
        return {}
    matches = {name: match for name, match in matches.items() if name != "loss"} | ({"loss": loss} if loss else {})
    values = {
        name: match["value"] or match["bare"] if name == "norm" else match["value"] for name, match in matches.items()
    }
    values |= {f"{name}/loss": match["value"] for name, match in apart.items()}
    return {GROUPS.get(name, name): str(value).rstrip(".,;") for name, value in values.items()}


def _losses_of_rivals(text: str) -> dict[str, re.Match[str]]:
    """The losses of two rivals in a line, by the rivals' names; empty if there are none.

    >>> {name: match["value"] for name, match in _losses_of_rivals("[Batch 4/9] [D loss: 1.3] [G loss: 0.6]").items()}
    {'D': '1.3', 'G': '0.6'}
    >>> _losses_of_rivals("Loss_CE: 2.470 | Loss_D: 0.184")
    {}
    """
    found = {(match["before"] or match["after"]): match for match in _OF_RIVAL.finditer(text)}
    chosen = rivals([f"{name}/loss" for name in found])
    return {name: found[series.removesuffix("/loss")] for name, series in chosen.items()}


def _loss(text: str) -> re.Match[str] | None:
    """The loss that a line names without a word before it, else the total or mean one, else the only one.

    None of several that have a name each, such as those of a GAN, is the loss of the training.

    >>> _loss("step 1 KL loss: 3.0 loss: 2.0")["value"], _loss("step 1 KL loss: 3.0 total loss: 2.0")["value"]
    ('2.0', '2.0')
    >>> _loss("step 1 KL loss: 3.0")["value"], _loss("step 1 D loss: 3.0 G loss: 2.0"), _loss("step 1 best loss: 2.0")
    ('3.0', None, None)
    """
    found = []
    for match in _NAMED["loss"].finditer(text):
        word = _WORD_BEFORE.search(text, max(0, match.start() - 20), match.start())
        found.append((word[1].lower() if word else "", match))
    found = [(word, match) for word, match in found if word not in _OF_ANOTHER_STEP]
    plain_ones = [match for word, match in found if not word]
    whole_ones = [match for word, match in found if word in _OF_ALL]
    if plain_ones or whole_ones:
        return (plain_ones or whole_ones)[0]
    return found[0][1] if len(found) == 1 else None


def _texts(file: Path) -> Iterator[str]:
    """The lines; a step's header and the indented lines below it are one."""
    header = ""
    for text in printed_lines(file):
        if header and text.startswith("    "):
            header += _THOUSANDS.sub("", text)[: max(0, LONGEST_PRINTED - len(header))]
            continue
        if header:
            yield header
        header = text if _HEADER.search(text) else ""
        if not header:
            yield text
    if header:
        yield header


def _row(match: re.Match[str]) -> dict[str, Any]:
    found = {name: value.rstrip(".,;") for name, value in match.groupdict().items() if value is not None}
    epoch, passed, of = (found.pop(name, None) for name in ("epoch", "passed", "of"))
    of_epoch = {"epoch": epoch} if epoch is not None and of is None else {}  # `rows` counts on from epoch to epoch
    if epoch is not None:  # counted from 1
        passed = str(int(epoch) - 1)
    if passed is not None and of is not None:  # the tool counts the steps of each epoch anew
        found["step"] = str(int(passed) * int(of) + int(found["step"]))
    return of_epoch | {
        _SERIES[name]: value[:-1] + _ABBREVIATED[value[-1]] if value[-1:] in _ABBREVIATED else value
        for name, value in found.items()
    }
