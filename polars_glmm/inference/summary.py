"""A fit as text: at most 80 columns wide, in the order an lme4 or Stata user expects."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from polars_glmm.inference.cells import ljust, rjust, shorten, shorten_all, visible, width, wrap
from polars_glmm.inference.sheet import INTERVAL, Sheet, SheetColumn, SheetTable, build_sheet

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

WIDTH = 80
GAP = "  "
NARROWEST = 12
"""Labels are never cut shorter than this."""


def summary(fit: Answer) -> str:
    """Formula, family, sizes, log-likelihood, residuals, random and fixed effects, tests, and notes in plain words."""
    return render(build_sheet(fit))


def render(sheet: Sheet) -> str:
    """The sheet as lines of at most WIDTH terminal cells, without trailing spaces."""
    lines = [*wrap(sheet.title, WIDTH), *(line for facts in sheet.facts for line in _facts(facts))]
    for table in sheet.tables:
        shown = fitting(table.columns, WIDTH - 1)
        lines += ["", *wrap(f"{table.title}:", WIDTH)]
        lines += [f" {line}" for line in table_lines(shown)] if shown else []
        for remark in (*_left_out(table, shown), *table.remarks):
            lines += wrap(remark, WIDTH, " ", "   ")
    if sheet.notes:
        lines += ["", "Notes:"]
        for text, advice in sheet.notes:
            lines += wrap(f"{text} {advice}".strip(), WIDTH, " - ", "   ")
    return "\n".join(visible(line.rstrip()) for line in lines)


def _facts(facts: tuple[tuple[str, str], ...]) -> list[str]:
    """`Name: value` side by side, or below each other where they are too wide; a long one goes on indented."""
    texts = [f"{name}: {value}" for name, value in facts]
    together = "   ".join(texts)
    lines = [together] if width(together) <= WIDTH else texts
    return [line for text in lines for line in wrap(text, WIDTH, rest="    ")]


def fitting(columns: tuple[SheetColumn, ...], room: int) -> list[SheetColumn]:
    """The columns for a width; optional ones go first where it is short, then labels are cut, then the last go."""
    chosen = list(columns)
    while _needed(chosen) > room and any(column.optional for column in chosen):
        last = max(k for k, column in enumerate(chosen) if column.optional)
        del chosen[last]
        if last and chosen[last - 1].heading == INTERVAL[0]:
            del chosen[last - 1]
    return _cut_labels(chosen, room)


def table_lines(columns: list[SheetColumn]) -> list[str]:
    """Heading and rows, in columns of equal width."""
    widths = [_width(column) for column in columns]
    rows = [[column.heading for column in columns], *zip(*(column.cells for column in columns), strict=True)]
    return [
        GAP.join(rjust(cell, w) if c.right else ljust(cell, w) for c, cell, w in zip(columns, row, widths, strict=True))
        for row in rows
    ]


def _left_out(table: SheetTable, shown: list[SheetColumn]) -> list[str]:
    """A sentence that says what the page is too narrow for, and which call has it."""
    kept = len(shown)
    headings = [column.heading for column in shown]
    missing = [column for column in table.columns if column.heading and column.heading not in headings]
    names = [column.gone or column.heading for column in missing if column.gone is not None]
    if not names and kept < len(table.columns):
        names = ["further columns"]
    whole = f" {table.whole} has them." if table.whole else ""
    return [f"Not shown for want of width: {', '.join(dict.fromkeys(names))}.{whole}"] if names else []


def _cut_labels(columns: list[SheetColumn], room: int) -> list[SheetColumn]:
    """Shorten the text columns, the widest first, until the table fits or nothing can give."""
    columns = list(columns)
    while _needed(columns) > room:
        k = max((k for k, c in enumerate(columns) if not c.right), key=lambda k: _width(columns[k]), default=None)
        if k is None or _width(columns[k]) <= NARROWEST:
            break
        own = max(_width(columns[k]) - (_needed(columns) - room), NARROWEST)
        c = columns[k]
        columns[k] = replace(c, heading=shorten(c.heading, own), cells=shorten_all(c.cells, own))
    while _needed(columns) > room and len(columns) > 1:
        columns.pop()
    return columns


def _needed(columns: list[SheetColumn]) -> int:
    return sum(map(_width, columns)) + len(GAP) * (len(columns) - 1)


def _width(column: SheetColumn) -> int:
    return max(map(width, (column.heading, *column.cells)))
