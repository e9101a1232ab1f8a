"""What a summary says, before it is text or HTML: a title, facts, small tables and sentences."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.inference import numbers
from polars_glmm.inference.cells import shorten_all, width
from polars_glmm.inference.coefficients import fixef, wald_chi2
from polars_glmm.inference.compare import null_test
from polars_glmm.inference.dispersion import dispersion
from polars_glmm.inference.distributions import chi2_p
from polars_glmm.inference.glance import deviance_residual
from polars_glmm.inference.names import fixed_terms
from polars_glmm.inference.parameter_words import heading_of, sentence_of, together
from polars_glmm.inference.sheet_notes import sheet_notes
from polars_glmm.inference.sheet_words import method_in_words, title
from polars_glmm.inference.structure_words import structure_remarks
from polars_glmm.inference.varcorr import RESIDUAL, components, correlation, varcorr
from polars_glmm.prediction.residuals import augment

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

MOST_ROWS = 60
"""Longer tables are cut, with the call that shows all of them."""
MOST_CORRELATIONS = 6
"""The correlation matrix of more fixed effects than this is not shown: fit.vcov() has it."""
WIDEST_HEADING = 11
"""Names over a column of correlations are cut to this."""
SMALL_STATISTIC = 0.005
"""A statistic below this is not zero, and two decimals would say so."""
RESIDUALS = "Scaled residuals (Pearson)"
INTERVAL = ("[95% conf.", "interval]")
"""Headings of the two ends of an interval: one without the other says nothing."""
_OF_LEVEL = re.compile(r"[^\[\]:]+\[(?:[A-Z]+\.)?(?P<level>[^\[\]]+)\]")
"""The name of a column of contrasts, such as `factor[T.level]`."""
_MOST_SENTENCES = 4
"""Correlations of residuals up to which each is said."""
MANY_ROWS = 1_000_000
"""Residuals of more rows are not worth the wait when something is printed."""


@dataclass(frozen=True, slots=True)
class SheetColumn:
    """One column of a small table: its heading and its cells as text.

    right     numbers stand right, names left
    optional  left out where the page is too narrow
    prose     sentences, which may be broken into lines
    gone      what the reader is told is missing then; "": the heading, None: nothing
    """

    heading: str
    cells: tuple[str, ...]
    right: bool = True
    optional: bool = False
    gone: str | None = ""
    prose: bool = False


@dataclass(frozen=True, slots=True)
class SheetTable:
    """A small table with its title, sentences below it, and the call that has all of it, whatever is shown."""

    title: str
    columns: tuple[SheetColumn, ...]
    remarks: tuple[str, ...] = ()
    whole: str = ""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A summary: the title, named facts by line, tables, and the notes as (text, advice)."""

    title: str
    facts: tuple[tuple[tuple[str, str], ...], ...]
    tables: tuple[SheetTable, ...]
    notes: tuple[tuple[str, str], ...]


def build_sheet(fit: Answer) -> Sheet:
    """All that print(fit) shows. Nothing here is refitted; residuals only where the rows are kept."""
    tables = [
        _group_sizes(fit),
        _residual_quartiles(fit),
        _random_effects(fit),
        *(_fixed_effects(fit, parameters) for parameters in together(fit)),
        _correlations(fit),
    ]
    return Sheet(title(fit), _facts(fit), tuple(table for table in tables if table), sheet_notes(fit))










def _facts(fit: Answer) -> tuple[tuple[tuple[str, str], ...], ...]:
    estimate = fit.estimate
    dropped = f" ({fit.n_dropped} dropped)" if fit.n_dropped else ""
    scale = "Log-likelihood (REML)" if fit.method == "reml" else "Log-likelihood"
    lines = [
        (("Formula", fit.formula),),
        (("Family", f"{fit.family} ({fit.link} link)"),),
        (("Method", method_in_words(fit)),),
        (
            ("Observations", f"{estimate.n_obs}{dropped}"),
            ("Parameters", str(estimate.df_model)),
            (scale, f"{estimate.loglik:.4f}"),
        ),
        (
            ("AIC", f"{fit.aic:.2f}"),
            ("BIC", f"{fit.bic:.2f}"),
            ("Deviance (-2 log-likelihood)", f"{fit.deviance:.2f}"),
        ),
    ]
    return (*lines, *_residual_deviance(fit))


def _residual_deviance(fit: Answer) -> list[tuple[tuple[str, str], ...]]:
    """Deviance against the saturated model, without random effects, and what a mean of χ²/df of 1 is compared with.

    The ratio is Pearson's χ² over its degrees of freedom where the rows are at hand (McCullagh & Nelder 1989, § 4.5),
    for a family without a dispersion of its own; ones and zeros say nothing about it.
    """
    value, estimate = deviance_residual(fit.estimate), fit.estimate
    if value is None or estimate.factors or fit.spec.family.residual:
        return []
    facts = [("Residual deviance", f"{value:.2f} on {estimate.df_resid} df")]
    if estimate.phi is None and (ratio := _pearson_ratio(fit)) is not None:
        facts.append(("Dispersion ratio (Pearson chi2 / df)", numbers.real(ratio, 4)))
    return [tuple(facts)]


def _pearson_ratio(fit: Answer) -> float | None:
    """Σ w r² / df_resid over the rows in use, w their frequencies; None where it says nothing or rows are not kept."""
    spec, df = fit.spec, fit.estimate.df_resid
    rows = _rows_in_use(fit)
    trials = spec.trials is not None or fit.recipe.response.trials is not None
    if rows is None or df <= 0 or spec.family.unordered or (spec.family.takes_trials and not trials):
        return None
    prefix = "__glmm_"
    squares = augment(rows, fit, prefix=prefix)[f"{prefix}resid_pearson"] ** 2
    if spec.frequency is not None:
        squares = squares * rows[spec.frequency]
    return float(squares.fill_nan(None).sum()) / df


def _rows_in_use(fit: Answer) -> pl.DataFrame | None:
    """The rows of the fit where they are kept and few enough."""
    if fit.rows is None or fit.rows.height > MANY_ROWS:
        return None
    return fit.rows if fit.kept is None else fit.rows.filter(fit.kept)


def _group_sizes(fit: Answer) -> SheetTable | None:
    if not fit.groups:
        return None
    return SheetTable(
        "Groups",
        (
            SheetColumn("Group", tuple(size.group for size in fit.groups), right=False),
            SheetColumn("Levels", tuple(str(size.n_levels) for size in fit.groups)),
            SheetColumn("Smallest", tuple(str(size.smallest) for size in fit.groups)),
            SheetColumn("Mean", tuple(f"{size.mean:.1f}" for size in fit.groups)),
            SheetColumn("Largest", tuple(str(size.largest) for size in fit.groups)),
        ),
    )


def _residual_quartiles(fit: Answer) -> SheetTable | None:
    """Five numbers of the Pearson residuals at the conditional modes, where the rows are at hand."""
    rows = _rows_in_use(fit)
    if fit.spec.family.unordered:
        return None  # they have none
    if rows is None:
        why = "the rows are not kept" if fit.rows is None else f"more than {MANY_ROWS:,} rows"
        return SheetTable(RESIDUALS, (), (f"Not shown ({why}): fit.augment(frame) has them.",))
    prefix = "__glmm_"
    residuals = augment(rows, fit, prefix=prefix)[f"{prefix}resid_pearson"].drop_nulls().drop_nans().to_numpy()
    if not len(residuals):
        return None
    values = np.quantile(residuals, [0.0, 0.25, 0.5, 0.75, 1.0])
    headings = ("Min", "1Q", "Median", "3Q", "Max")
    columns = (SheetColumn(name, (numbers.fixed(value, 4),)) for name, value in zip(headings, values, strict=True))
    return SheetTable(RESIDUALS, tuple(columns))


def _random_effects(fit: Answer) -> SheetTable | None:
    """Variances with standard errors, standard deviations, and the lower triangle of correlations."""
    words = structure_remarks(fit.recipe)
    remarks = [*words, *_constant_remarks(fit), *_correlation_remarks(fit), _null_test_remark(fit)]
    if not fit.estimate.factors and not (fit.spec.family.residual and fit.estimate.phi is not None):
        only = tuple(_correlation_remarks(fit))
        return SheetTable("Residual", (), only) if only else None
    parts = list(components(fit.estimate))
    table = varcorr(fit)
    ranges = {part.length.term for part in parts if part.length is not None}
    of_ranges = table["term"].is_in(list(ranges)).fill_null(value=False)
    variances = table.filter(table["other_term"].is_null() & ~of_ranges)
    found = table.filter(of_ranges).rows(named=True)
    said = [f"{row['group']}, {row['term']} = {numbers.real(row['estimate'])}{_spread(row)}" for row in found]
    remarks[len(words) : len(words)] = said
    rows = [(part, i) for part in parts for i in part.shown]
    names = [(part.group if i == 0 else "", part.labels[i]) for part, i in rows]
    if sum(len(part.variances) for part in parts) < variances.height:
        names.append((RESIDUAL, ""))
    place = iter(range(variances.height))
    places = [next(place) if i in part.variances else None for part, i in rows] + [*place]

    def column(name: str) -> list[float | None]:
        values = variances[name].to_list()
        return [None if k is None else values[k] for k in places]

    widest = max((i for part in parts for _, i in part.correlated), default=0)
    triangle = [
        [f"{correlation(part, i, j):.3f}" if (j, i) in part.correlated else "" for j in range(i)] for part, i in rows
    ]
    triangle += [[]] * (len(names) - len(triangle))
    columns = [
        SheetColumn("Group", tuple(group for group, _ in names), right=False),
        SheetColumn("Term", tuple(term for _, term in names), right=False),
        SheetColumn("Variance", tuple(numbers.real_column(column("estimate")))),
        SheetColumn("Std. error", tuple(numbers.real_column(column("std_error"), 4)), optional=True),
        SheetColumn("Std. dev.", tuple(numbers.real_column(column("std_dev")))),
    ]
    for j in range(widest):
        cells = tuple(row[j].replace("nan", "") if j < len(row) else "" for row in triangle)
        columns.append(SheetColumn("Corr." if j == 0 else "", cells, optional=j > 0, gone="correlations"))
    heading = "Random effects" if fit.estimate.factors else "Residual"
    shown = tuple(_cut(columns, "fit.varcorr()"))
    return SheetTable(heading, shown, tuple(remark for remark in remarks if remark), "fit.varcorr()")


def _dispersion_remark(fit: Answer) -> str:
    """phi in a sentence; the gaussian one stands in the table."""
    phi = fit.estimate.phi
    if phi is None or fit.spec.family.residual:
        return ""
    row = dispersion(fit).row(0, named=True)
    name, meaning = fit.spec.family.phi_words
    return f"{name} phi = {numbers.real(phi)}{_spread(row)}. {meaning}"


def _constant_remarks(fit: Answer) -> list[str]:
    """phi, and the other constants of the family, each in a sentence."""
    of = {one.name: one.definition for one in fit.spec.family.parameters}
    rows = [row for row in dispersion(fit).rows(named=True) if row["parameter"] in fit.estimate.others]
    others = [
        f"{row['parameter']} = {numbers.real(row['estimate'])}{_spread(row)}: {of[row['parameter']]}." for row in rows
    ]
    return [_dispersion_remark(fit), *others]


def _correlation_remarks(fit: Answer) -> list[str]:
    """The correlation of residuals: a sentence for each of few parameters, or where they stand."""
    if fit.estimate.residual is None:
        return []
    rows = dispersion(fit).filter(pl.col("parameter") != "phi").rows(named=True)
    if len(rows) > _MOST_SENTENCES:
        return [f"{len(rows)} correlations of the residuals: fit.dispersion() has them."]
    return [
        f"Residual {row['parameter']} = {numbers.real(row['estimate'])}{_spread(row)}" for row in rows
    ]


def _spread(row: dict[str, float | None]) -> str:
    """Standard error and interval of a row of dispersion(), in words."""
    error = f" (std. error {numbers.real(row['std_error'], 4)})" if row["std_error"] is not None else ""
    if row["conf_low"] is None:
        return error
    return f"{error}, 95% interval {numbers.real(row['conf_low'], 4)} to {numbers.real(row['conf_high'], 4)}"


def _null_test_remark(fit: Answer) -> str:
    test = null_test(fit)
    if test is None:
        return ""
    reservations = f" ({', '.join(test.reservations)})" if test.reservations else ""
    chisq = f"{test.chisq:.1g}" if 0.0 < test.chisq < SMALL_STATISTIC else f"{test.chisq:.2f}"
    result = f"{test.reference} = {chisq}, {numbers.p_statement(test.p_value)}{reservations}"
    return f"LR test against no random effects: {result}"


def _fixed_effects(fit: Answer, parameters: tuple[str, ...]) -> SheetTable | None:
    table, parameter = fixef(fit), parameters[0]
    table = table.filter(table["parameter"].is_in(parameters))
    if not table.height:
        return None
    mean = parameter == fit.recipe.predictors[0].parameter
    terms = table["term"].to_list()
    if (fit.spec.family.curve is not None and mean) or len(parameters) > 1:
        terms = [
            of if term == "Intercept" else f"{of}: {term}" for of, term in zip(table["parameter"], terms, strict=True)
        ]
    t = table["df"].is_not_null().any()
    letter = "t" if t else "z"
    # Digits beyond the fourth of a standard error say nothing about the estimate.
    beside = table["std_error"].to_list() if table["std_error"].count() else None
    estimates = numbers.real_column(table["estimate"].to_list(), 4 if beside else 5, beside)
    columns = [
        SheetColumn("Term", tuple(terms), right=False),
        SheetColumn("Estimate", tuple(text or "(dropped)" for text in estimates)),
        SheetColumn("Std. error", tuple(numbers.real_column(table["std_error"].to_list(), 4))),
    ]
    if t:
        columns.append(SheetColumn("df", tuple(numbers.fixed(df, 1) for df in table["df"].to_list())))
    columns += [
        SheetColumn(letter, tuple(numbers.fixed(value, 2) for value in table["statistic"].to_list())),
        SheetColumn(f"P>|{letter}|", tuple(numbers.p_value(p) for p in table["p_value"].to_list())),
        SheetColumn(INTERVAL[0], _ends(table, "conf_low", beside), optional=True, gone="95% intervals"),
        SheetColumn(INTERVAL[1], _ends(table, "conf_high", beside), optional=True, gone="95% intervals"),
    ]
    heading, of = ("Fixed effects", "mu") if mean else (heading_of(fit, parameter), parameter)
    return SheetTable(heading, tuple(_cut(columns, "fit.fixef()")), _fixed_remarks(fit, of), "fit.fixef()")


def _ends(table: pl.DataFrame, name: str, beside: list[float | None] | None) -> tuple[str, ...]:
    """One end of the intervals, with the digits that their standard errors call for."""
    return tuple(numbers.real_column(table[name].to_list(), 4, beside))


def _fixed_remarks(fit: Answer, parameter: str) -> tuple[str, ...]:
    if parameter not in ("mu", "phi"):
        return (sentence_of(fit, parameter),)
    if parameter != "mu":
        name, meaning = fit.spec.family.phi_words
        return (f"{parameter} is the {name[0].lower()}{name[1:]}. {meaning}".strip(),)
    remarks = []
    if (joint := wald_chi2(fit)) is not None:
        chisq, df = joint
        p = numbers.p_statement(chi2_p(chisq, df))
        remarks.append(f"Joint Wald test of all slopes: chi2({df}) = {chisq:.2f}, {p}")
    if not fit.estimate.factors:
        remarks += _constant_remarks(fit)
    return tuple(remark for remark in remarks if remark)


def _correlations(fit: Answer) -> SheetTable | None:
    """Correlation of the fixed effects of mu, lower triangle, when they are few."""
    parameters, terms, kept = fixed_terms(fit)
    names = [term for parameter, term, keep in zip(parameters, terms, kept, strict=True) if keep and parameter == "mu"]
    p = len(names)
    vcov = fit.estimate.vcov_fixed[:p, :p]
    scale = np.sqrt(np.where(np.diag(vcov) > 0.0, np.diag(vcov), np.nan))
    if p < 2:
        return None
    if p > MOST_CORRELATIONS or not np.isfinite(scale).all():
        why = f"{p} terms" if p > MOST_CORRELATIONS else "some have no standard error"
        return SheetTable("Correlation of fixed effects", (), (f"Not shown ({why}): fit.vcov() has the covariances.",))
    matrix = vcov / np.outer(scale, scale)
    headings = shorten_all(_short_names(names[:-1]), WIDEST_HEADING)
    columns = [SheetColumn("", tuple(names[1:]), right=False)]
    for j in range(p - 1):
        cells = tuple(f"{matrix[i, j]:.3f}" if i > j else "" for i in range(1, p))
        columns.append(SheetColumn(headings[j], cells, gone="correlations"))
    return SheetTable("Correlation of fixed effects", tuple(columns), whole="fit.vcov()")


def _short_names(names: list[str]) -> list[str]:
    """Names too wide for a heading by their level alone, that of `factor[T.level]`, where those are distinct."""
    short = [
        found["level"] if width(name) > WIDEST_HEADING and (found := _OF_LEVEL.fullmatch(name)) else name
        for name in names
    ]
    return [own if short.count(own) == 1 else name for name, own in zip(names, short, strict=True)]


def _cut(columns: list[SheetColumn], whole: str) -> list[SheetColumn]:
    """Rows beyond MOST_ROWS leave one line that says how many there are, and which call has them."""
    n = len(columns[0].cells)
    if n <= MOST_ROWS:
        return columns
    more = f"… {n - MOST_ROWS + 1} more: {whole}"
    return [replace(c, cells=(*c.cells[: MOST_ROWS - 1], more if k == 0 else "")) for k, c in enumerate(columns)]
