"""Fits side by side: a row for each term, variance and measure of fit, a column for each model, all as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from string import Formatter
from typing import Literal, NamedTuple, Protocol, TypeAlias

import polars as pl

from polars_glmm.errors import ModelError, enumerate_names, suggest
from polars_glmm.inference import numbers
from polars_glmm.inference.varcorr import RESIDUAL, is_range
from polars_glmm.likelihood.parameters.parts import label, range_name

Section: TypeAlias = Literal["fixed", "random", "fit"]
SECTIONS: dict[str, str] = {"fixed": "Fixed effects", "random": "Random effects", "fit": "Fit"}
"""The parts of a report and their headings."""
STARS: Mapping[str, float] = {"***": 0.001, "**": 0.01, "*": 0.05}
LEADING = ("section", "term", "quantity")
FIELDS = ("estimate", "std_error", "statistic", "df", "p_value", "conf_low", "conf_high")
"""What stat= may name: columns of fixef()."""


class Reported(Protocol):
    """What a report asks of a fit."""

    @property
    def method(self) -> str: ...  # noqa: D102
    def fixef(self, conf_level: float = ..., *, exponentiate: bool = ...) -> pl.DataFrame: ...  # noqa: D102
    def varcorr(self) -> pl.DataFrame: ...  # noqa: D102
    def dispersion(self) -> pl.DataFrame: ...  # noqa: D102
    def glance(self) -> pl.DataFrame: ...  # noqa: D102


class Style(NamedTuple):
    """How estimates are written: the line below each, stars by p-value, exp'd or not, and the level of intervals."""

    stat: str | None
    stars: Mapping[str, float]
    exponentiate: bool
    conf_level: float


class Report(NamedTuple):
    """A report before it is written: section, term, quantity and one column of text for each model; remarks below it.

    `quantity` says what a row holds: "estimate", "stat" (the line below it), "std_dev", "correlation", "dispersion",
    or the measure of fit. Text is null where a model has no such row.
    """

    frame: pl.DataFrame
    remarks: tuple[str, ...]


Cells: TypeAlias = dict[tuple[str, str, str], str]
"""Text of one model by section, term and quantity."""


def build(fits: Mapping[str, Reported], style: Style, rows: Sequence[str], labels: Mapping[str, str]) -> Report:
    """The table of fits by name, with the sections `rows` and the terms called as `labels` say.

    Raises ModelError for sections, fields of stat= and labels that there are not, and for names of models that the
    report needs itself.
    """
    _check(fits, style, rows, labels)
    columns = {name: _cells(fit, style, rows) for name, fit in fits.items()}
    keys = _merged([list(cells) for cells in columns.values()])
    keys.sort(key=lambda key: rows.index(key[0]))
    unknown = [name for name in labels if name not in {key[1] for key in keys}]
    if unknown:
        near = suggest(unknown[0], [key[1] for key in keys])
        msg = f"term_labels= has {enumerate_names(unknown)}, which the report does not show.{near}"
        raise ModelError(msg)
    leading = {
        "section": [section for section, _, _ in keys],
        "term": [labels.get(term, term) for _, term, _ in keys],
        "quantity": [quantity for _, _, quantity in keys],
    }
    texts = {name: [cells.get(key) for key in keys] for name, cells in columns.items()}
    frame = pl.DataFrame(leading | texts, schema=dict.fromkeys((*leading, *texts), pl.String))
    return Report(frame, _remarks(style, rows))


def _check(fits: Mapping[str, Reported], style: Style, rows: Sequence[str], labels: Mapping[str, str]) -> None:
    if not fits:
        raise ModelError("A report needs a fit at least.")
    taken = [name for name in fits if name in LEADING]
    if taken:
        raise ModelError(f"A model cannot be called {taken[0]!r}: the report has a column of that name. Give names=.")
    for row in rows:
        if row not in SECTIONS:
            there = enumerate_names([*SECTIONS])
            msg = f"rows= has {row!r}, which is no section.{suggest(str(row), SECTIONS)} There are {there}."
            raise ModelError(msg)
    if len({*rows}) < len(rows) or not rows:
        raise ModelError("rows= names each section once, and one at least.")
    for name in () if style.stat is None else _fields(style.stat):
        if name not in FIELDS:
            there = enumerate_names(FIELDS, limit=len(FIELDS))
            msg = f"stat= names {name!r}.{suggest(name, FIELDS)} It can have {there}."
            raise ModelError(msg)
    if not all(isinstance(own, str) for pair in labels.items() for own in pair):
        raise ModelError("term_labels= is a mapping from terms to what they are called, both text.")


def _fields(stat: str) -> list[str]:
    """The names in braces. Raises ModelError where braces are not closed or hold more than a name."""
    try:
        parts = [(name, spec, conversion) for _, name, spec, conversion in Formatter().parse(stat) if name is not None]
    except ValueError as error:
        msg = f"stat={stat!r} cannot be read: {error}."
        raise ModelError(msg) from error
    if any(spec or conversion for _, spec, conversion in parts):
        msg = f"stat={stat!r}: braces hold a name alone, as in '({{std_error}})'; the digits are those of the estimate."
        raise ModelError(msg)
    return [name for name, _, _ in parts]


def _cells(fit: Reported, style: Style, rows: Sequence[str]) -> Cells:
    made = {"fixed": lambda: _fixed(fit, style), "random": lambda: _random(fit), "fit": lambda: _measures(fit)}
    return {(row, *key): text for row in rows for key, text in made[row]().items()}


def _fixed(fit: Reported, style: Style) -> dict[tuple[str, str], str]:
    table = fit.fixef(style.conf_level, exponentiate=style.exponentiate)
    by_size = sorted(style.stars.items(), key=lambda own: own[1])
    found: dict[tuple[str, str], str] = {}
    for row in table.iter_rows(named=True):
        name = row["term"] if row["parameter"] == "mu" else f"{row['parameter']}: {row['term']}"
        own, p = _texts(row), row["p_value"]
        mark = "" if p is None else next((mark for mark, most in by_size if p < most), "")
        found[name, "estimate"] = f"{own['estimate']}{mark}" if own["estimate"] else "(dropped)"
        if style.stat is not None and all(own[field] for field in _fields(style.stat)):
            found[name, "stat"] = style.stat.format_map(own)
    return found


def _texts(row: Mapping[str, float | None]) -> dict[str, str]:
    """The numbers of one coefficient, with the digits that its standard error calls for."""
    error = row["std_error"]
    ends = (row["estimate"], row["conf_low"], row["conf_high"])
    estimate, low, high = numbers.real_column(ends, 4, None if error is None else [error])
    return {
        "estimate": estimate,
        "std_error": numbers.real(error, 4),
        "statistic": numbers.fixed(row["statistic"], 2),
        "df": numbers.fixed(row["df"], 1),
        "p_value": numbers.p_value(row["p_value"]),
        "conf_low": low,
        "conf_high": high,
    }


def _random(fit: Reported) -> dict[tuple[str, str], str]:
    """Standard deviations and correlations, sigma, and the dispersion of other families."""
    table = fit.varcorr()
    rows = table.rows(named=True)
    single = [row["std_dev"] for row in rows if row["other_term"] is None and not is_range(row)]
    sizes = iter(numbers.real_column(single, 4))
    found: dict[tuple[str, str], str] = {}
    for row in rows:
        if row["group"] == RESIDUAL and not row["term"]:
            found["sigma", "std_dev"] = next(sizes)
        elif is_range(row):
            where = row["term"].removeprefix("range(").removesuffix(")")
            found[range_name(row["group"], where), "range"] = numbers.real(row["estimate"], 4)
        elif row["other_term"] is None:
            found[f"sd({row['group']}: {label(row['term'], row['parameter'])})", "std_dev"] = next(sizes)
        else:
            other = label(row["other_term"], row.get("other_parameter") or row["parameter"])
            name = f"cor({row['group']}: {label(row['term'], row['parameter'])}, {other})"
            found[name, "correlation"] = numbers.fixed(row["correlation"], 3)
    dispersion = fit.dispersion()
    if dispersion.height and ("sigma", "std_dev") not in found:
        found["phi", "dispersion"] = numbers.real(dispersion["estimate"][0], 4)
    return found


def _measures(fit: Reported) -> dict[tuple[str, str], str]:
    row = fit.glance().row(0, named=True)
    found = {("Observations", "n_obs"): str(row["n_obs"])}
    for group in row["groups"]:
        found[f"Levels of {group['group']}", "n_levels"] = str(group["n_levels"])
    name = "Log-likelihood (REML)" if row["reml"] else "Log-likelihood"
    found[name, "loglik"] = numbers.fixed(row["loglik"], 2)
    found["AIC", "aic"] = numbers.fixed(row["aic"], 2)
    found["BIC", "bic"] = numbers.fixed(row["bic"], 2)
    return found


def _merged(orders: Iterable[list[tuple[str, str, str]]]) -> list[tuple[str, str, str]]:
    """All keys once: those that a model adds stand behind the one they follow there."""
    merged: list[tuple[str, str, str]] = []
    for order in orders:
        place = 0
        for key in order:
            if key in merged:
                place = merged.index(key) + 1
                continue
            while place < len(merged) and merged[place][2] == "stat":
                place += 1  # a term stays with the line below it
            merged.insert(place, key)
            place += 1
    return merged


def _remarks(style: Style, rows: Sequence[str]) -> tuple[str, ...]:
    """What a reader has to know of the numbers."""
    if "fixed" not in rows:
        return ()
    remarks = []
    if style.exponentiate:
        remarks.append("Fixed effects are exponentiated.")
    if style.stat is not None and any(name.startswith("conf_") for name in _fields(style.stat)):
        remarks.append(f"{100 * style.conf_level:g}% intervals.")
    if style.stars:
        by_size = sorted(style.stars.items(), key=lambda own: -own[1])
        remarks.append(", ".join(f"{mark} p < {most:g}" for mark, most in by_size) + ".")
    return tuple(remarks)
