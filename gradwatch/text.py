"""Numbers, durations and names as short text. Every view and message formats them here.

Standard library only, so that any stage can use it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal

MOST_NAMES = 8
_LARGEST_PLAIN = 99_999.5
_SMALLEST_PLAIN = 1e-3
_THREE_DIGITS = Context(prec=3, rounding=ROUND_HALF_UP)  # as JavaScript rounds: the page shows the same
_NUMBERS = re.compile(r"\d+")
_ESCAPES = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_ASCII = str.maketrans({"×": "x", "…": "...", "–": "-", "—": "-", "·": "|", "≥": ">=", "≤": "<=", "→": "->"})  # noqa: RUF001

NO_OPTIMIZER_CLASSES = ("NoOptimizer", "ByHand")
"""Class names that stores hold for a loop that updates its weights without an optimizer."""


def number(value: float | None) -> str:
    """Format with three significant digits, or as a whole number below 100,000; at most nine characters.

    >>> [number(v) for v in (0.0123, 123.456, 12345.7, 1.17e28, 1.25e-4, 0.0, -2.5, float("nan"), None)]
    ['0.0123', '123', '12346', '1.17e28', '1.25e-4', '0', '-2.5', 'NaN', '-']
    """
    if value is None:
        return "-"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 100 and size < _LARGEST_PLAIN:
        return _rounded(value, "1")
    digits = _THREE_DIGITS.create_decimal_from_float(float(value))
    if _SMALLEST_PLAIN <= size < 100:
        return f"{float(digits):.3g}"
    mantissa, exponent = f"{digits:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def threshold_text(threshold: float | None, how: str | None) -> str:
    """Format a clipping threshold, or say that there is none; "-" is not known.

    Args:
        threshold: the last one in force.
        how: the run was clipped: by norm, value, norm+value, policy or none; None is not known.

    >>> [threshold_text(None, how) for how in ("policy", "none", None)], threshold_text(1.0, "norm")
    (['policy', 'none', '-'], '1')
    """
    return how if threshold is None and how in ("none", "policy") else number(threshold)


def share(value: float | None) -> str:
    """Format a fraction as a percentage. Only nothing reads 0%, and only everything reads 100%.

    >>> [share(v) for v in (0.3333, 0.0004, 1e-6, 0.0, -1e-6, 0.99999, 1.0, None)]
    ['33.3%', '0.04%', '<0.01%', '0%', '>-0.01%', '>99.9%', '100%', '-']
    """
    if value is None:
        return "-"
    if not math.isfinite(value):
        return number(value)
    percent = 100 * value
    if 0 < abs(percent) < 0.01:
        return "<0.01%" if percent > 0 else ">-0.01%"
    if 0.01 <= abs(percent) < 0.095:
        return f"{_rounded(percent, '0.01')}%"
    if 99.95 <= percent < 100:
        return ">99.9%"
    return f"{_rounded(percent, '0.1')}%".replace(".0%", "%")


def _rounded(value: float, unit: str) -> str:
    """Round to a multiple of the unit, halves away from zero.

    >>> _rounded(84.25, "0.1"), _rounded(-100.5, "1")
    ('84.3', '-101')
    """
    return str(Decimal(float(value)).quantize(Decimal(unit), ROUND_HALF_UP))


def count(amount: int, thing: str, plural: str | None = None) -> str:
    """Format an amount with its noun.

    >>> count(1, "step"), count(0, "step"), count(2, "entry", "entries")
    ('1 step', '0 steps', '2 entries')
    """
    return f"{amount} {thing if amount == 1 else plural or thing + 's'}"


def step_range(first: int, last: int | None = None) -> str:
    """Name one step, or the steps from the first to the last.

    >>> step_range(3), step_range(3, 3), step_range(3, 7)
    ('step 3', 'step 3', 'steps 3 to 7')
    """
    return f"step {first}" if last in (None, first) else f"steps {first} to {last}"


def run_state(reason: str | None, *, running: bool) -> str:
    """Format how the last attempt of a run ended: `RunSummary.ended` and `RunSummary.running`.

    >>> [run_state(reason, running=False) for reason in ("exit", "exception KeyboardInterrupt", None)]
    ['ended: exit', 'interrupted (Ctrl-C)', 'its process is gone']
    >>> run_state(None, running=True)
    'still running'
    """
    if running:
        return "still running"
    if reason is None:
        return "its process is gone"
    return "interrupted (Ctrl-C)" if reason == "exception KeyboardInterrupt" else f"ended: {reason}"


def duration(seconds: float | None) -> str:
    """Format seconds.

    >>> [duration(s) for s in (0.0042, 4.26, 59.96, 75, 7325, 200_000, None)]
    ['4.2 ms', '4.3 s', '1 min 0 s', '1 min 15 s', '2 h 2 min', '2 d 8 h', '-']
    """
    if seconds is None or not math.isfinite(seconds):
        return number(seconds)
    if 0 < seconds < 0.0995:
        return f"{1000 * seconds:.2g} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h"


def fault_text(error: BaseException, width: int = 500) -> str:
    r"""Format an exception in one line: of an operator without a kernel, PyTorch's message has a hundred.

    >>> fault_text(ValueError("no kernel\nCPU: registered"))
    'ValueError: no kernel'
    >>> fault_text(KeyError())
    'KeyError'
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {shorten(lines[0], width)}" if lines else type(error).__name__


def exit_reason(code: object) -> str:
    """How an attempt ended that `sys.exit` or `os._exit` ended, by what it was given.

    >>> [exit_reason(code) for code in (None, 0, 7, "no data left")]
    ['exit', 'exit', 'exit 7', 'exit 1']
    """
    if code is None or code == 0:
        return "exit"
    return f"exit {code}" if isinstance(code, int) else "exit 1"


def file_size(size: float) -> str:
    """Bytes for people.

    >>> file_size(512), file_size(20_480), file_size(3.2e6), file_size(7e9)
    ('512 B', '20 kB', '3.2 MB', '7.0 GB')
    """
    if size < 1000:
        return f"{size:.0f} B"
    if size < 999_500:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e6:.1f} MB" if size < 999.5e6 else f"{size / 1e9:.1f} GB"


def optimizer_label(class_name: str, learning_rate: float | None = None, highest: float | None = None) -> str:
    """Name an optimizer with its learning rate, and with the highest where the last is lower.

    A loop without an optimizer has neither.

    >>> optimizer_label("SGD", 0.1), optimizer_label("NoOptimizer"), optimizer_label("", None)
    ('SGD lr 0.1', 'no optimizer', 'optimizer not known')
    >>> optimizer_label("SGD", 4e-8, 0.01)
    'SGD lr 4e-8 (highest 0.01)'
    """
    if class_name in NO_OPTIMIZER_CLASSES:
        return "no optimizer"
    rate = "" if learning_rate is None else f" lr {number(learning_rate)}"
    if learning_rate is not None and highest is not None and number(highest) != number(learning_rate):
        rate += f" (highest {number(highest)})"
    if not class_name:
        return f"optimizer{rate}" if rate else "optimizer not known"
    return class_name + rate


def which_optimizer(shown: str, optimizers: Sequence[str]) -> str:
    """Say which of several optimizers is shown; a search or a cross-validation has too many names to read.

    >>> which_optimizer("1", ["0", "1"]), which_optimizer("0", ["0"])
    ('optimizer 1 of 0, 1', '')
    >>> which_optimizer("3", [str(fold) for fold in range(50)])
    'optimizer 3 of 0, 1, 2, ... 49 (50 optimizers)'
    """
    if len(optimizers) < 2:
        return ""
    names = ", ".join(optimizers)
    if len(optimizers) > MOST_NAMES:
        names = f"{', '.join(optimizers[:3])}, ... {optimizers[-1]} ({len(optimizers)} optimizers)"
    return f"optimizer {shown} of {names}"


def printable(text: str) -> str:
    r"""Escape control characters, so that a name can't write to the terminal.

    >>> print(printable("a\x1b[31m\u202e"))
    a\x1b[31m\u202e
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def ascii_only(text: str) -> str:
    r"""Replace or escape every character outside ASCII.

    >>> print(ascii_only("3 × é"))
    3 x \xe9
    """
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode()


def shorten(name: str, width: int, mark: str = "…") -> str:
    """Cut a name in its middle so that it has at most ``width`` characters.

    >>> shorten("encoder.layers.11.self_attn.weight", 20)
    'encoder.l…ttn.weight'
    """
    if len(name) <= width:
        return name
    kept = max(0, width - len(mark))
    left = kept // 2
    return (name[:left] + mark + name[len(name) - (kept - left) :])[: max(0, width)]


def with_whole_escapes(short: Sequence[str], names: Sequence[str], mark: str) -> list[str]:
    r"""Names that were cut, without what is left of an escape of `ascii_only` that a cut went through.

    Names that would then look the same stay as they are.

    >>> names = [ascii_only("encodeur.réseau.poids"), "encoder.weight"]
    >>> print(*with_whole_escapes(["encodeur.r\\x..eau.poids", "enc..ht"], names, ".."))
    encodeur.r..eau.poids enc..ht
    """
    whole = [_with_whole_escapes(cut, name, mark) for cut, name in zip(short, names, strict=True)]
    return whole if len(set(whole)) == len(set(short)) else list(short)


def _with_whole_escapes(short: str, name: str, mark: str) -> str:
    escapes = [found.span() for found in _ESCAPES.finditer(name)]
    pieces = _pieces(short, name, mark) if escapes and short != name else None
    if pieces is None:
        return short
    whole = []
    for begin, end in pieces:
        begins = next((after for before, after in escapes if before < begin < after), begin)
        ends = next((before for before, after in escapes if before < end < after), end)
        whole.append(name[begins : max(begins, ends)])
    return mark.join(whole)


def _pieces(short: str, name: str, mark: str, after: int = 0) -> list[tuple[int, int]] | None:
    """Where the pieces of a cut name stand in it, from ``after`` on; None: they don't, as in one that was abbreviated.

    A name may hold what looks like a mark.
    """
    begin = len(name) - len(short)
    if name.endswith(short) and begin >= after:
        return [(begin, len(name))]
    at = short.find(mark)
    while at >= 0:
        begin = name.find(short[:at], after)
        rest = None if begin < 0 else _pieces(short[at + len(mark) :], name, mark, begin + at)
        if rest is not None:
            return [(begin, begin + at), *rest]
        at = short.find(mark, at + 1)
    return None


def shorten_all(names: Sequence[str], width: int, mark: str = "…") -> list[str]:
    """Cut names to at most ``width`` characters such that different names stay different where possible.

    Names that would look the same keep the part in which they differ.

    >>> shorten_all(["encoder.layer.0.attention.query.weight", "encoder.layer.1.attention.query.weight"], 22)
    ['….layer.0.atten…weight', '….layer.1.atten…weight']
    """
    cut = {name: shorten(name, width, mark) for name in names}
    alike: dict[str, list[str]] = {}
    for name, short in cut.items():
        alike.setdefault(short, []).append(name)
    for group in alike.values():
        if len(group) > 1:
            cut.update(zip(group, _around_difference(group, width, mark), strict=True))
    return [cut[name] for name in names]


def shorten_layers(names: Sequence[str], width: int, mark: str = "…") -> tuple[str, list[str]]:
    """Cut the names of layers to at most ``width`` characters, and return the common beginning that they lost.

    They lose it only if one of them is too long. Numbers, which tell blocks apart, are cut last, and different
    names stay different where possible. Where words can't be cut in their middle for that, only the beginning of
    each is kept.

    >>> shorten_layers(["model.h.0.attn.c_attn.weight", "model.h.11.mlp.c_proj.weight"], 18)
    ('model.h.', ['0.attn.c_…n.weight', '11.mlp.c_p….weight'])
    >>> shorten_layers(["encoder.layers.11.self_attn.out_proj.weight", "head.weight"], 20)
    ('', ['….11.self_at….weight', 'head.weight'])
    >>> shorten_layers(["net.block1.layer11.conv2.weight", "net.block2.layer11.conv2.weight"], 15)
    ('net.', ['b1.l11.conv2.w', 'b2.l11.conv2.w'])
    """
    if all(len(name) <= width for name in names):
        return "", list(names)
    lost = _common_folder(names)
    rest = [name.removeprefix(lost) for name in names]
    cut = _keeping_numbers(rest, width, mark)
    if _are_true(cut, rest):
        return lost, cut
    abbreviated = _abbreviated(rest, width)
    if max(map(len, abbreviated)) <= width and _are_true(abbreviated, rest):
        return lost, abbreviated
    return lost, shorten_all(rest, width, mark) if len(set(cut)) < len(set(rest)) else cut


def _are_true(short: Sequence[str], names: Sequence[str]) -> bool:
    """Whether shortened names have all numbers, and different ones are different."""
    same_numbers = all(_NUMBERS.findall(one) == _NUMBERS.findall(name) for one, name in zip(short, names, strict=True))
    return same_numbers and len(set(short)) == len(set(names))


def _abbreviated(names: Sequence[str], width: int) -> list[str]:
    """Cut the words of names that are too long to what tells each from the others at its place.

    A word that has no others at its place is left out. From the last word on, each stays whole for which there is room.

    >>> _abbreviated(["h.11.attention.q_proj.weight", "h.11.attention.out_proj.weight", "h.11.mlp.weight"], 18)
    ['11.a.q_proj.weight', 'h.11.a.o.weight', 'h.11.mlp.weight']
    """
    begins = _shortest_beginnings(names)
    return [name if len(name) <= width else _with_whole_words(name, begins, width) for name in names]


def _shortest_beginnings(names: Sequence[str]) -> dict[tuple[str, ...], str]:
    """How the first word of each dotted part may begin so that it can be told from the others at its place.

    The key is the word after the parts before it. The beginning of the only word at a place is empty.
    """
    beside: dict[tuple[str, ...], set[str]] = {}
    for name in names:
        parts = tuple(name.split("."))
        for at, part in enumerate(parts):
            beside.setdefault(parts[:at], set()).add(_NUMBERS.split(part)[0])
    begins: dict[tuple[str, ...], str] = {}
    for folder, words in beside.items():
        uses = Counter(word[:length] for word in words for length in range(1, len(word) + 1))
        for word in words:
            alone = (word[:length] for length in range(1, len(word)) if uses[word[:length]] == 1)
            begins[*folder, word] = "" if len(words) == 1 else next(alone, word)
    return begins


def _with_whole_words(name: str, begins: Mapping[tuple[str, ...], str], width: int) -> str:
    parts = name.split(".")
    short = []
    for at, part in enumerate(parts):
        word = _NUMBERS.split(part)[0]
        numbers = re.sub(r"\D{3,}", lambda text: text[0][:2], part[len(word) :])
        begin = begins[*parts[:at], word]
        short.append((begin or word[:1]) + numbers if numbers or part is parts[-1] else begin)
    for at in reversed(range(len(parts))):
        longer = [*short[:at], parts[at], *short[at + 1 :]]
        if len(".".join(filter(None, longer))) <= width:
            short = longer
    return ".".join(filter(None, short))


def _common_folder(names: Sequence[str]) -> str:
    """The dotted beginning that all names share, up to the first number.

    >>> _common_folder(["a.b.0.w", "a.b.1.w"]), _common_folder(["a.0.x", "a.0.y"]), _common_folder(["w", "w"])
    ('a.b.', 'a.', '')
    """
    kept = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1 or parts[0].isdecimal():
            break
        kept.append(parts[0] + ".")
    return "".join(kept)


def _keeping_numbers(names: Sequence[str], width: int, mark: str) -> list[str]:
    """Shorten names around their numbers: what is before goes first, then the middle of what is after.

    >>> _keeping_numbers(["layers.11.attention.out.weight", "layers.11.attention.in.weight", "head"], 16, "…")
    ['….11.…n.out.w…ht', '….11.…n.in.w…ht', 'head']
    """
    parted = [("", name) if len(name) <= width else _at_last_number(name, mark) for name in names]
    tails: dict[str, list[str]] = {}
    for head, tail in parted:
        tails.setdefault(head, []).append(tail)
    short: dict[tuple[str, str], str] = {}
    for head, own in tails.items():
        room = width - len(head)
        # Of a name with many numbers, the numbers alone may be too long.
        cut = shorten_all(own, room, mark) if room > len(mark) + 1 else own
        short |= {(head, tail): shorten(head + one, width, mark) for tail, one in zip(own, cut, strict=True)}
    return [short[pair] for pair in parted]


def _at_last_number(name: str, mark: str) -> tuple[str, str]:
    """What a name has up to its last number, with a mark for each run of words, and the rest.

    >>> _at_last_number("model.layers.3.experts.7.up.weight", "…"), _at_last_number("0.weight", "…")
    (('….3.….7.', 'up.weight'), ('0.', 'weight'))
    """
    parts = name.split(".")
    numbers = [at for at, part in enumerate(parts[:-1]) if part.isdecimal()]
    if not numbers:
        return "", name
    kept = [part if part.isdecimal() else mark for part in parts[: numbers[-1] + 1]]
    joined = [part for before, part in itertools.pairwise(["", *kept]) if part != mark or before != mark]
    return ".".join(joined) + ".", ".".join(parts[numbers[-1] + 1 :])


def _around_difference(names: Sequence[str], width: int, mark: str) -> list[str]:
    """Shorten names that begin and end alike: what differs is kept, with a little of what surrounds it."""
    start = _common_prefix(names)
    end = min(_common_prefix([name[::-1] for name in names]), min(map(len, names)) - start)
    differences = [name[start : len(name) - end] for name in names]
    room = width - 2 * (len(mark) + 1)
    if max(map(len, differences)) > room:
        if room < len(mark) + 2:
            return [shorten(name, width, mark) for name in names]
        differences = shorten_all(differences, room, mark)
    longest = max(map(len, differences))
    left = min(start, (width - longest) // 3 + 1)
    before = names[0][start - left : start]
    if left < start:
        before = mark + before[len(mark) :]
    after = names[0][len(names[0]) - end :] if end else ""
    return [before + difference + shorten(after, width - left - longest, mark) for difference in differences]


def _common_prefix(names: Sequence[str]) -> int:
    """Length of the longest beginning that all names share."""
    first, last = min(names), max(names)
    for at, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return at
    return min(len(first), len(last))
