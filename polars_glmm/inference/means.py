"""Marginal means and their contrasts: averages over a grid on the scale of the link, shown on that of the response.

Least-squares means (Searle, Speed & Milliken 1980): a linear function Lβ for each cell, L the mean of the rows of its
points. Whatever is asked, the numbers come from values and a Jacobian, by the delta method and one Wald test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
import polars as pl

from polars_glmm.columns.named import columns
from polars_glmm.errors import ModelError, enumerate_names
from polars_glmm.inference.adjust import Adjustment, Tests, adjust
from polars_glmm.inference.coefficients import exponentiated
from polars_glmm.inference.contrasts import ContrastLike, Contrasts, contrasts_of
from polars_glmm.inference.covariance import CovarianceChoice, DegreesOfFreedom, coefficient_covariance
from polars_glmm.inference.estimable import estimable
from polars_glmm.inference.mean_cells import (
    AverageOn,
    Cells,
    Weights,
    link_of,
    mean_range,
    means_of_cells,
    normalised,
    offset_of,
    weights_of,
)
from polars_glmm.inference.natural_covariance import suited_covariance
from polars_glmm.inference.schemas import FIXEF, Schema, table
from polars_glmm.inference.wald import Core, core
from polars_glmm.prediction.category_quantities import CATEGORY, categories_asked, refuse_integrated
from polars_glmm.prediction.expected import check_kind, has_predictor, through_link
from polars_glmm.prediction.grid import axes_of, crossed, model_inputs, require_known
from polars_glmm.prediction.quantities import Scale, check_scale
from polars_glmm.typing import BoolVec, Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.inference.covariance_record import CoefficientCovariance

CORE: Schema = {name: FIXEF[name] for name in Core._fields}
MEANS: Schema = {**CORE, "n_cells": pl.Int64(), "averaged_on": pl.String(), "note": pl.String()}
CONTRASTS: Schema = {**CORE, "adjust": pl.String(), "averaged_on": pl.String(), "note": pl.String()}
NOT_ESTIMABLE = "not_estimable: the data do not determine it (an empty cell, or a column that was dropped)."
NO_OFFSET = "offset_zero: the offset of the model is held at 0; say another with offset=."
BY_CORRELATION = ("scheffe", "dunnett", "mvt")
"""Adjustments that ask how estimates move together: a matrix that is large for many pairs."""
_ROUNDING = 1e-13
_CANCELS = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    """What is shown: conf_level, adjustment, scale of the response or the link, scale of the averages.

    covariance   of the coefficients
    families     the values of by=, one row for each family of means, n of them
    note         of everything that the offset moves
    kind         what the numbers are, as in `predict`
    """

    conf_level: float
    adjustment: Adjustment | None
    scale: Scale
    average: AverageOn
    covariance: CoefficientCovariance
    families: pl.DataFrame
    n: int
    note: str
    kind: str


def marginal_means(  # noqa: PLR0913  the arguments of the public verb
    fit: Answer,
    variables: str | Sequence[str],
    *,
    by: str | Sequence[str] | None = None,
    at: Mapping[str, Any] | None = None,
    weights: Weights = "equal",
    random: str = "none",
    scale: Scale = "response",
    contrast: ContrastLike = None,
    adjustment: Adjustment | None = None,
    offset: float | str | None = None,
    df: DegreesOfFreedom = None,
    vcov: CovarianceChoice = None,
    average: AverageOn = "link",
    kind: str = "response",
    conf_level: float = 0.95,
) -> pl.DataFrame:
    """One row for each combination of the levels of `variables` and `by`, or one for each contrast within `by`.

    Of categories the same for each of them, by their probabilities, or on the scale of the link by their log odds.
    Numbers that no one link makes of a predictor, as the mean of zero-inflated counts, are averaged as they are.
    """
    variables, by, at = _names(variables), _names(by), dict(at or {})
    _check(random, scale, average)
    family = fit.spec.family
    check_kind(family, kind, scale, "marginal_means")
    if scale == "link" and kind == "response":
        kind = "mu"
    refuse_integrated(fit.recipe, random, scale, "marginal_means()")
    categories = categories_asked(fit.recipe, scale)
    if family.response == "category":  # probabilities are averaged as they are
        average = scale
    elif not has_predictor(family, kind):
        average = "response"
    every = scale == "response" if family.response == "category" else not through_link(family, kind)
    inputs = _inputs(fit, random, every=every)
    _require(fit, variables, by, at, inputs)
    rest = [name for name in inputs if name not in (*by, *variables)]
    axes = axes_of(fit, [*by, *variables, *rest], at)
    grid = crossed(axes)
    n_cells = int(np.prod([len(axis) for axis in axes[: len(by) + len(variables)]], dtype=np.intp))
    factors = {one.column for one in fit.recipe.categoricals.values()}
    over = [name for name in rest if name in factors]
    shared = [name for name in (*by, *variables) if name in factors]
    weighed = normalised(weights_of(fit, grid, weights, cells=shared, over=over), n_cells)
    held = offset_of(fit, offset)
    sizes = [len(axis) for axis in axes]
    n_families = int(np.prod(sizes[: len(by)], dtype=np.intp))
    keys = grid.select(columns([*by, *variables]))[:: grid.height // n_cells]
    question = _Question(
        conf_level, adjustment, scale, average, coefficient_covariance(fit, vcov, df),
        keys.select(columns(by))[:: n_cells // n_families], n_families,
        NO_OFFSET if offset is None and fit.recipe.predictor("mu").offset is not None else "", kind,
    )  # fmt: skip
    labels = [_labels(axis.values) for axis in axes[len(by) : len(by) + len(variables)]]
    sign = " / " if _as_ratios(fit, question) else " - "
    asked = None if contrast is None else contrasts_of(contrast, labels, variables, sign)

    def answer(category: str | None) -> pl.DataFrame:
        cells = means_of_cells(
            fit, grid, weighed, random=random, average=average, offset=held, category=category, kind=kind
        )  # fmt: skip
        if asked is None:
            return _means(fit, cells, question, keys.select(columns([*variables, *by])))
        return _contrasts(fit, cells, question, asked)

    if not categories:
        return answer(None)
    return pl.concat([answer(one).select(pl.lit(one).alias(CATEGORY), pl.all()) for one in categories])


def _as_ratios(fit: Answer, question: _Question) -> bool:
    """Whether differences of links are shown as ratios of means, or of odds."""
    asked = question.scale == "response" and question.average == "link"
    return asked and link_of(fit, question.kind).differences_are_log_ratios


def _means(fit: Answer, cells: Cells, question: _Question, keys: pl.DataFrame) -> pl.DataFrame:
    """Means on the scale of the link, tested there, and brought to that of the response with their intervals."""
    value, jacobian = _on_link(fit, cells, question)
    found, said = _tested(fit, _Functions(value, jacobian, cells.determined), question, None)
    if question.scale == "response":
        found = on_response(fit, found, question.kind)
    body = table(
        MEANS,
        {
            **found.columns(),
            "n_cells": cells.n,
            "averaged_on": [question.average] * len(value),
            "note": _notes(cells.determined, question.note, said),
        },
    )
    return pl.DataFrame([*keys.iter_columns(), *body.iter_columns()])


def _contrasts(fit: Answer, cells: Cells, question: _Question, asked: Contrasts) -> pl.DataFrame:
    """Contrasts within each family: differences of links, shown as ratios where these have a name, or of means."""
    value, jacobian, linear = cells.value, cells.jacobian, True
    link = link_of(fit, question.kind)
    ratios = _as_ratios(fit, question)
    if question.scale == "link":
        value, jacobian = _on_link(fit, cells, question)
    elif question.average == "link" and not ratios:
        value, slope = link.value(value, 1)
        jacobian, linear = slope[:, None] * jacobian, bool((slope == 1.0).all())
    weights = np.asarray(np.kron(np.eye(question.n), asked.weights), dtype=np.float64)
    rows, estimates = _combined(weights, jacobian), _combined(weights, value[:, None])[:, 0]
    if cells.rows is not None and linear:
        whole = _combined(weights, cells.rows)
        others = sum(len(part.columns) for part in fit.recipe.predictors) - whole.shape[1]
        determined = estimable(fit, np.hstack([whole, np.zeros((len(whole), others))]))
    else:
        determined = ~((weights != 0.0) & ~cells.determined).any(axis=1)
    determined &= ~((weights != 0.0) & (cells.n == 0)).any(axis=1)
    of_pairs = asked.weights.shape[1] if asked.of_pairs else None
    found, said = _tested(fit, _Functions(estimates, rows, determined), question, of_pairs)
    total = weights.sum(axis=1)
    if ratios:
        found = _shown(fit, found, question.kind, means=np.abs(total - 1.0) < _CANCELS)
    cancels = (
        cells.rows is not None and linear and question.average == "link" and bool((np.abs(total) < _CANCELS).all())
    )
    note = "" if cancels else question.note
    c = len(asked.names)
    body = table(
        CONTRASTS,
        {
            **found.columns(),
            "adjust": [question.adjustment or "none"] * len(rows),
            "averaged_on": [question.average] * len(rows),
            "note": _notes(determined, note, said),
        },
    )
    names = pl.Series("contrast", asked.names * question.n, dtype=pl.String)
    repeated = [key[np.repeat(np.arange(question.n), c)] for key in question.families.iter_columns()]
    return pl.DataFrame([names, *repeated, *body.iter_columns()])


class _Functions(NamedTuple):
    """Functions of the parameters: values (m,), Jacobian (m, R), and whether the data determine them (m,)."""

    value: Vec
    jacobian: Mat
    determined: BoolVec


def _tested(fit: Answer, functions: _Functions, question: _Question, of_pairs: int | None) -> tuple[Core, list[str]]:
    """The core of all functions, those of a family adjusted together, and what is to be said of each."""
    rows, suited = suited_covariance(fit, question.covariance, functions.jacobian)
    variance = np.where(functions.determined, suited.variances(rows), np.nan)
    value = np.where(functions.determined, functions.value, np.nan)
    found = core(value, variance, suited.df_each(rows), conf_level=question.conf_level)
    found = Core(*(np.where(functions.determined, one, np.nan) for one in found))
    if question.adjustment in (None, "none"):
        return found, [""] * len(value)
    p_value, width, said = found.p_value.copy(), np.zeros(len(value)), []
    for own in np.split(np.arange(len(value)), question.n):
        correlation = np.broadcast_to(np.nan, (len(own), len(own)))
        if question.adjustment in BY_CORRELATION:
            of_rows = suited.of(rows[own])
            spread = np.sqrt(np.where(np.diag(of_rows) > 0.0, np.diag(of_rows), np.nan))
            correlation = of_rows / np.outer(spread, spread)
        tests = Tests(found.statistic[own], found.df[own], found.p_value[own], correlation)
        adjusted = adjust(question.adjustment, tests, conf_level=question.conf_level, means=of_pairs)
        p_value[own], width[own] = adjusted.p_value, adjusted.width
        said += [adjusted.note] * len(own)
    half = width * found.std_error
    low, high = found.estimate - half, found.estimate + half
    return found._replace(p_value=p_value, conf_low=low, conf_high=high), said


def _combined(weights: Mat, values: Mat) -> Mat:
    """weights · values, where a value that does not count may be anything, and what cancels is zero."""
    clean = np.nan_to_num(values)
    product = weights @ clean
    size = np.abs(weights) @ np.abs(clean)
    product = np.where(np.abs(product) <= _ROUNDING * size, 0.0, product)
    spoiled = (weights != 0.0).astype(np.float64) @ (~np.isfinite(values)).astype(np.float64) > 0.0
    return np.asarray(np.where(spoiled, np.nan, product))


def _on_link(fit: Answer, cells: Cells, question: _Question) -> tuple[Vec, Mat]:
    """Averages and their Jacobian on the scale of the link."""
    if question.average == "link":
        return cells.value, cells.jacobian
    link = link_of(fit, question.kind)
    with np.errstate(all="ignore"):
        value = link.forward(cells.value)
        return value, cells.jacobian / link.value(value, 1)[1][:, None]


def on_response(fit: Answer, found: Core, kind: str = "response") -> Core:
    """Estimates and interval ends through the inverse link, standard errors by the delta method; tests stay."""
    link, (low, high) = link_of(fit, kind), mean_range(fit, kind)
    with np.errstate(all="ignore"):
        estimate, slope = link.value(found.estimate, 1)
        ends = [link.inverse(np.clip(end, low, high)) for end in (found.conf_low, found.conf_high)]
    return found._replace(
        estimate=estimate, std_error=np.abs(slope) * found.std_error,
        conf_low=np.minimum(*ends), conf_high=np.maximum(*ends),
    )  # fmt: skip


def _shown(fit: Answer, found: Core, kind: str, *, means: BoolVec) -> Core:
    """Differences of links as ratios; where weights sum to 1, as the mean that they make."""
    both = zip(on_response(fit, found, kind), exponentiated(found), strict=True)
    return Core(*(np.where(means, mean, ratio) for mean, ratio in both))


def _notes(determined: BoolVec, common: str, said: Sequence[str]) -> list[str | None]:
    texts = {own: " ".join(part for part in (common, own) if part) or None for own in set(said)}
    return [texts[own] if known else NOT_ESTIMABLE for known, own in zip(determined.tolist(), said, strict=True)]


def _labels(values: pl.Series) -> list[str]:
    if values.dtype.is_float():
        return [f"{value:.6g}" for value in values]
    return [str(value) for value in values.to_list()]


def _names(given: str | Sequence[str] | None) -> list[str]:
    if given is None:
        return []
    return [given] if isinstance(given, str) else list(given)


def _inputs(fit: Answer, random: str, *, every: bool) -> list[str]:
    """The columns that a mean depends on: of the fixed part, and for the population of what random effects multiply.

    every   of all formulas, as a probability of categories depends on thresholds and scale too
    """
    recipe = fit.recipe
    parts = recipe.predictors if every else recipe.predictors[:1]
    nodes = [column.node for part in parts for column in part.columns]
    if random == "integrate":
        nodes += [column.node for factor in recipe.factors for term in factor.terms for column in term.columns]
    used = frozenset[str]().union(*(node.inputs() for node in nodes))
    return [name for name in model_inputs(recipe) if name in used]


def _require(fit: Answer, variables: list[str], by: list[str], at: Mapping[str, Any], inputs: list[str]) -> None:
    keys = {key for factor in fit.recipe.factors for key in factor.columns} - set(inputs)
    for name in (*variables, *by, *at):
        if name in keys:
            msg = (
                f"{name!r} is a grouping factor: its levels have no fixed effects. fit.predictions(by={name!r}, "
                "random='all') averages predictions in them."
            )
            raise ModelError(msg)
    require_known([*variables, *by, *at], inputs, "marginal_means")
    twice = sorted({name for name in (*variables, *by) if (*variables, *by).count(name) > 1})
    if twice:
        msg = f"{enumerate_names(twice)} is named twice in variables= and by=."
        raise ModelError(msg)
    own = [CATEGORY] if fit.recipe.spec.family.response == "category" else []
    refuse_core_names([*variables, *by], [*MEANS, *CONTRASTS, "contrast", *own])


def refuse_core_names(names: Sequence[str], taken: Sequence[str]) -> None:
    """Raise ModelError for columns of the user that are called as columns of the table."""
    clash = sorted(set(names) & set(taken))
    if clash:
        msg = f"The table has a column {enumerate_names(clash)} of its own: rename that of the model before fitting."
        raise ModelError(msg)


def _check(random: str, scale: str, average: str) -> None:
    check_scale(scale)
    if random not in ("none", "integrate"):
        msg = (
            f"random={random!r}: marginal means are those of a unit whose random effects are zero, random='none', or "
            "over the population, random='integrate'."
        )
        raise ModelError(msg)
    if average not in get_args(AverageOn):
        msg = f"average={average!r} is not known: use 'link' or 'response'."
        raise ModelError(msg)
