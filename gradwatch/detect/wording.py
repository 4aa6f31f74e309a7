"""Numbers in the messages of events.

They are formatted as in every view, by `gradwatch.text`. It is imported with the first event: most trainings have none.
"""

from __future__ import annotations


def number(value: float | None, digits: int = 3) -> str:
    """>>> number(1.25e20), number(0.01234, 2)
    ('1.25e20', '0.012')
    """
    from gradwatch import text

    return text.number(value, digits)


def percentage(fraction: float) -> str:
    """>>> percentage(0.843)
    '84.3%'
    """
    from gradwatch import text

    return text.share(fraction)


def factor_text(value: float) -> str:
    """>>> factor_text(3.21), factor_text(57.3), factor_text(48100.0), factor_text(1.234e9), factor_text(float("inf"))
    ('3.2x', '57x', '48100x', '1.2e9x', 'infx')
    """
    return f"{value:.1f}x" if value < 10 else f"{number(value, 2)}x"
