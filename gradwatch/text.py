"""Numbers, durations and names as short text. Every view and message formats them here.

Standard library only, so that any stage can use it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Context, Decimal

MOST_NAMES = 8
_LARGEST_PLAIN = 99_999.5
_SMALLEST_PLAIN = 1e-3
_ASCII = str.maketrans({"×": "x", "…": "...", "–": "-", "—": "-", "·": "|", "≥": ">=", "≤": "<=", "→": "->"})  # noqa: RUF001

NO_OPTIMIZER_CLASSES = ("NoOptimizer", "ByHand")
"""Class names that stores hold for a loop that updates its weights without an optimizer."""


def number(value: float | None, digits: int = 3) -> str:
    """Format with three significant digits, or as a whole number below 100,000; at most nine characters.

    More digits are for settings, which people compare with what they wrote.

    >>> [number(v) for v in (0.0123, 123.456, 12345.7, 1.17e28, 1.25e-4, 0.0, -2.5, float("nan"), None)]
    ['0.0123', '123', '12346', '1.17e28', '1.25e-4', '0', '-2.5', 'NaN', '-']
    >>> number(0.00125, 2), number(123.456, 6), number(262144.0, 6), number(1e-5, 6)
    ('0.0013', '123.456', '262144', '1e-5')
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
    is_plain = _SMALLEST_PLAIN <= size < max(_LARGEST_PLAIN, 10**digits - 0.5)
    if is_plain and size >= 10 ** (digits - 1):
        return _rounded(value, "1")
    # Halves away from zero, as JavaScript rounds: the page shows the same.
    rounded = Context(prec=digits, rounding=ROUND_HALF_UP).create_decimal_from_float(float(value))
    if is_plain:
        return f"{float(rounded):.{digits}g}"
    mantissa, exponent = f"{rounded:.{digits - 1}e}".split("e")
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


def factor_text(value: float) -> str:
    """How many times as large a value is, as the messages of events say it.

    >>> factor_text(3.21), factor_text(57.3), factor_text(48100.0), factor_text(1.234e9), factor_text(float("inf"))
    ('3.2x', '57x', '48100x', '1.2e9x', 'infx')
    """
    return f"{value:.1f}x" if value < 10 else f"{number(value, 2)}x"


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
    ['finished', 'interrupted (Ctrl-C)', 'its process is gone']
    >>> run_state(None, running=True)
    'still running'
    """
    if running:
        return "still running"
    if reason is None:
        return "its process is gone"
    plain = {"exit": "finished", "closed": "finished", "exception KeyboardInterrupt": "interrupted (Ctrl-C)"}
    return plain.get(reason, f"ended: {reason}")


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
    ('optimizer 1 (of 2: 0, 1)', '')
    >>> which_optimizer("3", [str(fold) for fold in range(50)])
    'optimizer 3 (of 50: 0, 1, 2, ... 49)'
    """
    if len(optimizers) < 2:
        return ""
    names = ", ".join(optimizers)
    if len(optimizers) > MOST_NAMES:
        names = f"{', '.join(optimizers[:3])}, ... {optimizers[-1]}"
    return f"optimizer {shown} (of {len(optimizers)}: {names})"


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
