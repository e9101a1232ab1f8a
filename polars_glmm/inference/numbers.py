"""Numbers as text: as many decimals as a reader needs, the same in a whole column."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, isfinite, isnan, log10

SMALLEST_P = 1e-4
"""p-values below this are shown as "<0.0001": the digits beyond carry no information."""
FEWEST_DIGITS = 4
"""Significant digits of the smallest number of a column."""
WIDEST = 11
"""A column whose widest number needs more characters than this is written with %g instead."""


def real(value: float | None, digits: int = 5) -> str:
    """One number with `digits` significant digits, in plain notation where that is readable."""
    return real_column([value], digits)[0]


def real_column(
    values: Sequence[float | None], digits: int = 5, beside: Sequence[float | None] | None = None
) -> list[str]:
    """Numbers with common decimals, so many that the typical one shows `digits` significant digits; "" for none.

    With `beside`, such as standard errors, it is those whose digits count.
    """
    sizes = sorted(floor(log10(abs(v))) for v in beside or values if v is not None and isfinite(v) and v != 0.0)
    if not sizes:
        return [fixed(value, 1) if value == 0.0 else _special(value) for value in values]
    # All digits for the lower quartile, fewer for the smallest: one estimate near zero should not swell all others.
    decimals = max(digits - 1 - sizes[len(sizes) // 4], FEWEST_DIGITS - 1 - sizes[0], 0)
    texts = [fixed(value, decimals) for value in values]
    if max(map(len, texts)) > WIDEST:
        return [_special(value) if value is None or not isfinite(value) else f"{value:.{digits}g}" for value in values]
    return texts


def fixed(value: float | None, decimals: int) -> str:
    """One number with so many decimals; no "-0.00"."""
    if value is None or not isfinite(value):
        return _special(value)
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0.0 else text


def p_value(p: float | None) -> str:
    """A p-value as in a table: 0.0312, <0.0001."""
    if p is None or not isfinite(p):
        return ""
    return f"<{SMALLEST_P:.4f}" if p < SMALLEST_P else f"{p:.4f}"


def p_statement(p: float) -> str:
    """A p-value as in a sentence: p = 0.0312, p < 0.0001."""
    text = p_value(p)
    return f"p {text[0]} {text[1:]}" if text.startswith("<") else f"p = {text}"


def _special(value: float | None) -> str:
    return "" if value is None or isnan(value) else "inf" if value > 0 else "-inf"
