"""A report as Markdown, HTML, LaTeX or a table of great_tables: what a cell says is never taken for markup."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from importlib import import_module
from typing import Any, Literal, NamedTuple, TypeAlias

import polars as pl

from polars_glmm.errors import ModelError
from polars_glmm.inference.cells import ljust, rjust, visible, width
from polars_glmm.inference.html import STYLE
from polars_glmm.reports.table import LEADING, SECTIONS, Report

ReportFormat: TypeAlias = Literal["frame", "text", "markdown", "html", "latex", "great_tables"]
"""What a report can be written as."""


class ReportLine(NamedTuple):
    """A row as it is read: the heading of its section where that begins, its label, and the text of each model."""

    heading: str | None
    label: str
    cells: tuple[str, ...]


def lines(report: Report) -> Iterator[ReportLine]:
    """The rows; the line below an estimate has no label."""
    before = None
    for section, term, quantity, *cells in report.frame.iter_rows():
        heading = SECTIONS[section] if section != before else None
        before = section
        yield ReportLine(heading, "" if quantity == "stat" else term, tuple(cell or "" for cell in cells))


def models(report: Report) -> list[str]:
    """The names of the models."""
    return [name for name in report.frame.columns if name not in LEADING]


def text(report: Report) -> str:
    """For a terminal or an e-mail: labels on the left, numbers on the right."""
    names = [_one_line(name) for name in models(report)]
    rows = list(lines(report))
    label = max((width(_one_line(row.label)) for row in rows), default=0) + 2
    room = [max([width(name), *(width(row.cells[k]) for row in rows)]) for k, name in enumerate(names)]
    rule = "-" * (label + sum(room) + 2 * len(room))

    def line(first: str, values: Sequence[str]) -> str:
        shown = [rjust(_one_line(value), own) for value, own in zip(values, room, strict=True)]
        return "  ".join([ljust(first, label), *shown]).rstrip()

    out = [line("", names), rule]
    for row in rows:
        if row.heading:
            out.append(row.heading)
        out.append(line(f"  {_one_line(row.label)}" if row.label else "", row.cells))
    return "\n".join([*out, rule, *map(_one_line, report.remarks)])


_MARKDOWN: dict[str, str | int | None] = {mark: f"\\{mark}" for mark in "\\`*_{}[]<>#|~"}


def markdown(report: Report) -> str:
    """A table of GitHub's Markdown, numbers on the right."""

    def text(value: str) -> str:
        return _one_line(value).translate(str.maketrans(_MARKDOWN))

    names = models(report)
    rows = [[" ", *map(text, names)], ["---", *("---:" for _ in names)]]
    for line in lines(report):
        if line.heading:
            rows.append([f"**{line.heading}**", *("" for _ in names)])
        rows.append([text(line.label), *map(text, line.cells)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n\n".join([table, *map(text, report.remarks)])


def html(report: Report) -> str:
    """A fragment of HTML with the style of a printed fit, confined to its own class."""
    names = models(report)
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = []
    for line in lines(report):
        if line.heading:
            body.append(f'<tr><th class="label" colspan="{1 + len(names)}">{escape(line.heading)}</th></tr>')
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in line.cells)
        body.append(f'<tr><td class="label">{escape(line.label)}</td>{cells}</tr>')
    remarks = "".join(f"<p>{escape(remark)}</p>" for remark in report.remarks)
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="polars-glmm"><style>{STYLE}</style><div class="wide">{table}</div>{remarks}</div>'


_LATEX: dict[str, str | int | None] = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}  # fmt: skip


_NEGATIVE = re.compile(r"(?<![\w.])-(?=\d)")


def latex(report: Report) -> str:
    r"""A tabular with the rules of the package booktabs; negative numbers have a minus sign."""

    def text(value: str) -> str:
        plain = _one_line(value).translate(str.maketrans(_LATEX))
        return f"{{{plain}}}" if plain.startswith(("[", "*")) else plain  # \\ would take them for its own argument

    def number(value: str) -> str:
        return _NEGATIVE.sub("$-$", text(value))

    names = models(report)
    rows = [rf"\begin{{tabular}}{{l{'r' * len(names)}}}", r"\toprule", " & ".join(["", *map(text, names)]) + r" \\"]
    for line in lines(report):
        if line.heading:
            rows += [r"\midrule", rf"\multicolumn{{{1 + len(names)}}}{{l}}{{\textit{{{text(line.heading)}}}}} \\"]
        rows.append(" & ".join([text(line.label), *map(number, line.cells)]) + r" \\")
    rows += [r"\bottomrule"]
    rows += [rf"\multicolumn{{{1 + len(names)}}}{{l}}{{\footnotesize {text(own)}}} \\" for own in report.remarks]
    return "\n".join([*rows, r"\end{tabular}"])


def great_tables(report: Report) -> Any:
    """A `GT` of the package great_tables, to be styled further. Raises ModelError where that is not installed."""
    try:
        made = import_module("great_tables")
    except ImportError as error:
        msg = "format='great_tables' needs the package great_tables: pip install 'polars-glmm[report]'."
        raise ModelError(msg) from error
    headings: list[str] = []
    rows = []
    for line in lines(report):
        headings.append(line.heading or headings[-1])
        rows.append([line.label, *line.cells])
    names = models(report)
    frame = pl.DataFrame(rows, schema=dict.fromkeys(["__label", *names], pl.String), orient="row")
    table = made.GT(
        frame.with_columns(pl.Series("__section", headings)), rowname_col="__label", groupname_col="__section"
    ).cols_align("right", columns=names)
    for remark in report.remarks:
        table = table.tab_source_note(remark)
    return table


def _one_line(value: str) -> str:
    return visible(" ".join(value.splitlines()))
