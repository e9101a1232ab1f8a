"""Means over the cells of a grid with their Jacobians: averaged on the scale of the link, or of the response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import polars as pl

from polars_glmm.columns import named
from polars_glmm.columns.nodes import Constant
from polars_glmm.errors import ModelError, enumerate_names, suggest
from polars_glmm.families.links import LINKS
from polars_glmm.fitting.row_facts import WEIGHT, cell_weights, statistics, used_rows
from polars_glmm.frames.aggregates import aggregated
from polars_glmm.inference.coefficients import coefficients
from polars_glmm.inference.estimable import estimable
from polars_glmm.inference.wald import combine
from polars_glmm.prediction.expected import through_link
from polars_glmm.prediction.linear_predictor import MISSING
from polars_glmm.prediction.parameters import Parameters, of_fit
from polars_glmm.prediction.quantities import Wanted, with_quantity
from polars_glmm.prediction.several import link_of_kind
from polars_glmm.typing import BoolVec, IntVec, Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.families.links import Link

AverageOn: TypeAlias = Literal["link", "response"]
Weights: TypeAlias = str
KINDS_OF_WEIGHTS = ("equal", "proportional", "outer", "cells")


class Cells(NamedTuple):
    """Means of m cells as functions of the natural parameters.

    value (m,), jacobian (m, R)   on the scale they were averaged on
    rows (m, P)                   over all columns, kept or not, where the means are linear in the coefficients
    determined (m,)               whether the data determine them
    n (m,)                        points of the grid that count in each
    """

    value: Vec
    jacobian: Mat
    determined: BoolVec
    n: IntVec
    rows: Mat | None = None


def means_of_cells(  # noqa: PLR0913  what a question of means is made of
    fit: Answer,
    grid: pl.DataFrame,
    cell: Mat,
    *,
    random: str,
    average: AverageOn,
    offset: float,
    category: str | None = None,
    kind: str = "response",
) -> Cells:
    """Weighted means over the cells of a grid.

    cell      weights (m, points of a cell) in the order of the grid; those of a cell sum to 1
    random    "none": of the unit whose random effects are zero; "integrate": over the population
    average   on the scale of the link, or of the response
    category  whose probability it is, or on the scale of the link whose log odds
    kind      as `predictions` has them, category by category, or of numbers
    """
    link = fit.spec.family.link
    x = _matrix(grid, fit)
    by_query = category is not None or not through_link(fit.spec.family, kind)
    if by_query:
        wanted = Wanted(random, average, "marginal_means", category=category, kind=kind)
        value, jacobian = _by_query(fit, grid, offset, wanted)
    elif random == "none":
        value, jacobian = _linear(fit, x, offset)
    else:
        value, jacobian = _by_query(fit, grid, offset, Wanted("integrate", "link", "marginal_means", kind=kind))
    counts = (cell > 0.0).sum(axis=1)
    points = estimable(fit, _wide(fit, x))
    if by_query:
        points = np.isfinite(value) if category is None else points & np.isfinite(value)
    elif average == "response":
        value, slope = link.value(value, 1)
        jacobian = slope[:, None] * jacobian
    elif random == "none":
        rows = _means(x, cell)
        determined = estimable(fit, _wide(fit, rows)) & (counts > 0)
        return Cells(_means(value, cell), _means(jacobian, cell), determined, counts, rows)
    determined = (points.reshape(cell.shape) | (cell == 0.0)).all(axis=1) & (counts > 0)
    return Cells(_means(value, cell), _means(jacobian, cell), determined, counts)


def _means(values: Mat, cell: Mat) -> Mat:
    """Weighted sums (m, …) of values of the points (G, …); points without weight do not count, whatever they are."""
    shaped = values.reshape(*cell.shape, *values.shape[1:])
    w = cell.reshape(*cell.shape, *([1] * (values.ndim - 1)))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(w > 0.0, w * shaped, 0.0).sum(axis=1))


def _matrix(grid: pl.DataFrame, fit: Answer) -> Mat:
    """All columns of the formula of mu at the points, (G, P)."""
    columns = fit.recipe.predictor("mu").columns
    if not columns:
        return np.zeros((grid.height, 0))
    one = pl.lit(0.0) if not grid.width else pl.repeat(0.0, grid.height)
    made = grid.select((column.node.to_expr() + one).alias(f"x_{j}") for j, column in enumerate(columns))
    return made.to_numpy()


def _wide(fit: Answer, rows: Mat) -> Mat:
    """Rows over the columns of mu as rows over those of all parameters."""
    others = sum(len(part.columns) for part in fit.recipe.predictors) - rows.shape[1]
    return np.hstack([rows, np.zeros((len(rows), others))])


def _linear(fit: Answer, x: Mat, offset: float) -> tuple[Vec, Mat]:
    """The linear predictor of the points and its Jacobian."""
    kept = np.array(fit.recipe.predictor("mu").kept, dtype=np.bool_)
    jacobian = np.zeros((len(x), len(fit.estimate.report)))
    jacobian[:, : int(kept.sum())] = x[:, kept]
    k = len(coefficients(fit))
    return combine(jacobian[:, :k], coefficients(fit)) + offset, jacobian


def _by_query(fit: Answer, grid: pl.DataFrame, offset: float, wanted: Wanted) -> tuple[Vec, Mat]:
    """A quantity of the points and its Jacobian; NaN where a point is not determined."""
    fitted = holding_offset(of_fit(fit), offset)
    points = grid if grid.width else pl.DataFrame({"__point": [0]})
    frame, quantity = with_quantity(points.lazy(), points.schema, fitted, wanted)
    parts = [pl.when(~pl.col(MISSING)).then(one) for one in (quantity.value, *quantity.gradient)]
    made = aggregated(frame.select(part.alias(f"part_{k}") for k, part in enumerate(parts))).to_numpy()
    return made[:, 0], quantity.jacobian(made[:, 1:], len(fit.estimate.report))


def holding_offset(fitted: Parameters, offset: float) -> Parameters:
    """The same fit with another offset in every row."""
    every = fitted.recipe.spec.family.unordered  # it is added to all predictors
    parts = tuple(
        replace(part, offset=Constant(offset))
        if (every or part.parameter == "mu") and (part.offset is not None or offset)
        else part
        for part in fitted.recipe.predictors
    )
    return replace(fitted, recipe=replace(fitted.recipe, predictors=parts))


def offset_of(fit: Answer, asked: Any) -> float:
    """offset= as a number: itself, or "mean", that of the rows of the fit; None is zero."""
    node = fit.recipe.predictor("mu").offset
    if asked is None:
        return 0.0
    if isinstance(asked, str):
        if asked != "mean":
            msg = f"offset={asked!r}: a number, on the scale of the link, or 'mean'."
            raise ModelError(msg)
        if node is None:
            return 0.0
        need = "the mean of the offset is not known: give a number, as in offset=0.0."
        return statistics(fit, {f"offset {node!r}": (node, ("mean",))}, need)[f"offset {node!r}"][0]
    try:
        number = float(asked)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        msg = f"offset={asked!r}: a number, on the scale of the link, or 'mean'."
        raise ModelError(msg)
    if node is None and number:
        msg = "offset= is for a model with an offset, and this has none."
        raise ModelError(msg)
    return number


def weights_of(fit: Answer, grid: pl.DataFrame, asked: Weights, *, cells: Sequence[str], over: Sequence[str]) -> Vec:
    """Weights (G,) of the points of a grid, which sum to 1 in each cell; all zero where a cell has no weight.

    asked   "equal"; "proportional" to how often the rows have the combination that is averaged over; "outer" product of
            its margins; "cells", how often they have the combination in the cell; or a column whose sum counts
    cells, over   the categorical columns that make cells, and those averaged over
    """
    if not isinstance(asked, str):
        msg = f"weights= takes one of {enumerate_names(KINDS_OF_WEIGHTS, 'or')}, or the name of a column of weights."
        raise ModelError(msg)
    need = f"weights={asked!r} counts them: use weights='equal', or fit again with the rows kept."
    if asked not in KINDS_OF_WEIGHTS:
        _require_column(fit, asked, need)
    if asked == "equal" or not over:
        found = np.ones(grid.height)
    elif asked == "outer":
        found = np.ones(grid.height)
        for name in over:
            found *= _counted(fit, grid, [name], None, need)
    elif asked in KINDS_OF_WEIGHTS:
        found = _counted(fit, grid, [*cells, *over] if asked == "cells" else list(over), None, need)
    else:
        found = _counted(fit, grid, list(over), asked, need)
    return found


def normalised(weights: Vec, n_cells: int) -> Mat:
    """Weights (m, points of a cell) that sum to 1 in each cell, or are zero there."""
    cell = weights.reshape(n_cells, -1)
    total = cell.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(cell, total, out=np.zeros_like(cell), where=total > 0.0))


def _require_column(fit: Answer, column: str, need: str) -> None:
    schema = used_rows(fit, need).collect_schema()
    if column not in schema or not schema[column].is_numeric():
        near = suggest(column, [*KINDS_OF_WEIGHTS, *schema])
        msg = (
            f"weights={column!r} is none of {enumerate_names(KINDS_OF_WEIGHTS)}, and no numeric column of the rows of "
            f"the fit.{near}"
        )
        raise ModelError(msg)


def _counted(fit: Answer, grid: pl.DataFrame, over: Sequence[str], weight: str | None, need: str) -> Vec:
    """How often the rows have each point's combination of some columns."""
    counts = cell_weights(fit, over, weight, need)
    keys = [named.column(name).cast(pl.String).alias(f"key_{k}") for k, name in enumerate(over)]
    labels = [f"key_{k}" for k in range(len(over))]
    left, right = grid.select(keys), counts.select(*keys, WEIGHT)
    return left.join(right, on=labels, how="left", maintain_order="left")[WEIGHT].fill_null(0.0).to_numpy()


def mean_range(fit: Answer, kind: str = "response") -> tuple[float, float]:
    """The open interval of the linear predictor that gives numbers of the family."""
    family = fit.spec.family
    return link_of(fit, kind).domain(family.mean_range if through_link(family, kind) else "real")


def link_of(fit: Answer, kind: str = "response") -> Link:
    """The link of a kind of number, on which its intervals are made; of probabilities of categories the logit."""
    family = fit.spec.family
    return LINKS["logit"] if family.response == "category" else link_of_kind(family, kind)
