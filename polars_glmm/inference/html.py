"""A fit as HTML for notebooks: the summary's content as readable tables, every text escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from polars_glmm.inference.sheet import Sheet, SheetColumn, SheetTable, build_sheet

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

STYLE = """
.polars-glmm {font-size: 13px; line-height: 1.35; max-width: 60em}
.polars-glmm h4 {margin: 0 0 .4em; font-size: 15px}
.polars-glmm dl {display: grid; grid-template-columns: max-content 1fr; gap: .1em 1em; margin: 0 0 .6em}
.polars-glmm dt {opacity: .7; font-weight: normal; margin: 0}
.polars-glmm dd {margin: 0}
.polars-glmm table {border-collapse: collapse; margin: .6em 0 .2em; font-variant-numeric: tabular-nums}
.polars-glmm caption {text-align: left; font-weight: 600; padding: .2em 0; caption-side: top; white-space: nowrap}
.polars-glmm th {border-bottom: 1px solid currentColor; font-weight: normal; opacity: .8}
.polars-glmm th, .polars-glmm td {padding: .1em .7em; text-align: right; white-space: nowrap}
.polars-glmm th.label, .polars-glmm td.label {text-align: left}
.polars-glmm td.label {white-space: normal; overflow-wrap: anywhere; min-width: 8em; max-width: 26em}
.polars-glmm td.prose {white-space: normal; max-width: 40em}
.polars-glmm dd, .polars-glmm p, .polars-glmm li, .polars-glmm h4 {overflow-wrap: anywhere}
.polars-glmm .wide {overflow-x: auto; margin-bottom: .6em}
.polars-glmm p {margin: .1em 0 .3em}
.polars-glmm ul {margin: .2em 0; padding-left: 1.4em}
""".strip()


def html(fit: Answer) -> str:
    """The summary as one HTML fragment; its style is confined to its own class."""
    return render(build_sheet(fit))


def render(sheet: Sheet) -> str:
    """The sheet as a fragment."""
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for line in sheet.facts for name, value in line)
    notes = "".join(f"<li>{escape(f'{text} {advice}'.strip())}</li>" for text, advice in sheet.notes)
    parts = [
        f"<style>{STYLE}</style>",
        f"<h4>{escape(sheet.title)}</h4>",
        f"<dl>{facts}</dl>" if facts else "",
        *map(_table, sheet.tables),
        f"<p><b>Notes</b></p><ul>{notes}</ul>" if notes else "",
    ]
    return f'<div class="polars-glmm">{"".join(parts)}</div>'


def _table(table: SheetTable) -> str:
    kinds = [_kind(column) for column in table.columns]
    head = "".join(f"<th{kind}>{escape(c.heading)}</th>" for c, kind in zip(table.columns, kinds, strict=True))
    rows = zip(*(column.cells for column in table.columns), strict=True)
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{escape(cell)}</td>' for cell, kind in zip(row, kinds, strict=True))}</tr>"
        for row in rows
    )
    remarks = "".join(f"<p>{escape(remark)}</p>" for remark in table.remarks)
    if not table.columns:
        return f"<p><b>{escape(table.title)}</b></p>{remarks}"
    caption, rows_html = f"<caption>{escape(table.title)}</caption>", f"<tbody>{body}</tbody>"
    return f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead>{rows_html}</table></div>{remarks}'


def _kind(column: SheetColumn) -> str:
    """The class attribute of a column's cells."""
    names = [name for name, has in (("label", not column.right), ("prose", column.prose)) if has]
    return f' class="{" ".join(names)}"' if names else ""
