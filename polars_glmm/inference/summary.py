"""A fit as text: at most 80 columns wide, in the order an lme4 or Stata user expects."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from polars_glmm.inference.sheet import Column, Sheet, build_sheet, shorten

if TYPE_CHECKING:
    from polars_glmm.result import Fit

WIDTH = 80
GAP = "  "
NARROWEST = 12
"""Labels are never cut shorter than this."""


def summary(fit: Fit) -> str:
    """Formula, family, sizes, log-likelihood, residuals, random and fixed effects, tests, and notes in plain words."""
    return render(build_sheet(fit))


def render(sheet: Sheet) -> str:
    """The sheet as lines of at most WIDTH characters, without trailing spaces."""
    lines = [*wrap(sheet.title, WIDTH), *(line for facts in sheet.facts for line in _facts(facts))]
    for table in sheet.tables:
        lines += ["", f"{table.title}:", *(f" {line}" for line in table_lines(table.columns, WIDTH - 1))]
        for remark in table.remarks:
            lines += wrap(remark, WIDTH, initial_indent=" ", subsequent_indent="   ")
    if sheet.notes:
        lines += ["", "Notes:"]
        for text, advice in sheet.notes:
            lines += wrap(f"{text} {advice}".strip(), WIDTH, initial_indent=" - ", subsequent_indent="   ")
    return "\n".join(line.rstrip() for line in lines)


def _facts(facts: tuple[tuple[str, str], ...]) -> list[str]:
    """`Name: value` side by side, the second line of a long one indented below its value."""
    text = "   ".join(f"{name}: {value}" for name, value in facts)
    return wrap(text, WIDTH, subsequent_indent="    ", break_long_words=True)


def table_lines(columns: tuple[Column, ...], width: int) -> list[str]:
    """Heading and rows; optional columns go first where the width is short, then labels are cut."""
    chosen = list(columns)
    while _needed(chosen) > width and any(column.optional for column in chosen):
        last = max(k for k, column in enumerate(chosen) if column.optional)
        del chosen[last]
        if chosen and chosen[-1].heading == "[95% conf.":
            del chosen[-1]
    chosen = _cut_labels(chosen, width)
    widths = [_width(column) for column in chosen]
    rows = [[column.heading for column in chosen], *zip(*(column.cells for column in chosen), strict=True)]
    return [
        GAP.join(cell.rjust(w) if c.right else cell.ljust(w) for c, cell, w in zip(chosen, row, widths, strict=True))
        for row in rows
    ]


def _cut_labels(columns: list[Column], width: int) -> list[Column]:
    """Shorten the text columns, the widest first, until the table fits or nothing can give."""
    columns = list(columns)
    while _needed(columns) > width:
        k = max((k for k, c in enumerate(columns) if not c.right), key=lambda k: _width(columns[k]), default=None)
        if k is None or _width(columns[k]) <= NARROWEST:
            break
        room = max(_width(columns[k]) - (_needed(columns) - width), NARROWEST)
        c = columns[k]
        columns[k] = Column(shorten(c.heading, room), tuple(shorten(cell, room) for cell in c.cells), c.right)
    while _needed(columns) > width and len(columns) > 1:
        columns.pop()
    return columns


def _needed(columns: list[Column]) -> int:
    return sum(map(_width, columns)) + len(GAP) * (len(columns) - 1)


def _width(column: Column) -> int:
    return max(map(len, (column.heading, *column.cells)))
