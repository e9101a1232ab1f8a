"""What the rows of a fit tell of single columns: means and quantiles of covariates, counts of levels.

A fit does not keep these, so that fitting costs no more; they are read from its rows when asked for, and remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl

from polars_glmm.columns import named
from polars_glmm.design.known import used_columns
from polars_glmm.errors import ModelError
from polars_glmm.fitting.flow import data_of
from polars_glmm.frames.aggregates import aggregated
from polars_glmm.frames.source import missing_in

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.columns.nodes import Node
    from polars_glmm.typing import Vec

STATISTICS = ("mean", "median", "quartiles", "sd", "min", "max", "range", "levels")
"""What can be asked of a numeric column by name: sd is the mean and one standard deviation below and above it."""
_FOUND: WeakKeyDictionary[Answer, dict[tuple[str, str], tuple[float, ...]]] = WeakKeyDictionary()
_X, _N = "__glmm_value", "__glmm_count"
WEIGHT = "__glmm_weight"


def has_rows(fit: Answer) -> bool:
    """Whether the rows of a fit can still be read."""
    return fit.rows is not None or fit.source is not None


def used_rows(fit: Answer, need: str) -> pl.LazyFrame:
    """The rows that a fit was made from, those it left out excluded; `need` says what they are needed for.

    Raises ModelError where the fit keeps none, DataChangedError where the source has changed.
    """
    if not has_rows(fit):
        msg = f"This fit keeps no rows (keep='none', or it was pickled), and {need}"
        raise ModelError(msg)
    data = data_of(fit)
    if isinstance(data, pl.DataFrame):
        return data.lazy() if fit.kept is None else data.lazy().filter(pl.Series(fit.kept))
    return data.filter(~pl.any_horizontal(_left_out(fit, data.collect_schema())))


def _left_out(fit: Answer, schema: pl.Schema) -> list[pl.Expr]:
    """Why a row is none of the model's: a missing value, a precision of zero, no trial."""
    used = {name: schema[name] for name in used_columns(fit.recipe)}
    reasons = [*missing_in(used, fit.spec.gaps).values()]
    if fit.spec.precision is not None:
        reasons.append(named.column(fit.spec.precision) == 0)
    if fit.recipe.response.trials is not None:
        reasons.append(fit.recipe.response.trials.to_expr() == 0.0)
    return reasons


def statistics(
    fit: Answer, wanted: Mapping[str, tuple[Node, Iterable[str]]], need: str
) -> dict[str, tuple[float, ...]]:
    """Values of named statistics of some columns, those of each one after the other, rows counted by their frequency.

    wanted   by a name: what to compute from a row, and the STATISTICS of it
    """
    known = _FOUND.setdefault(fit, {})
    asked = {(name, one): node for name, (node, ones) in wanted.items() for one in ones}
    absent = {key: node for key, node in asked.items() if key not in known}
    if absent:
        rows = used_rows(fit, need)
        moments = {key: node for key, node in absent.items() if key[1] in ("mean", "sd")}
        if moments:
            known |= _moments(rows, moments, fit.spec.frequency)
        for (name, one), node in absent.items():
            if (name, one) not in moments:
                known[name, one] = _of_values(*_counted(rows, node, fit.spec.frequency), one)
    return {name: tuple(v for one in ones for v in known[name, one]) for name, (_, ones) in wanted.items()}


def _moments(
    rows: pl.LazyFrame, wanted: Mapping[tuple[str, str], Node], frequency: str | None
) -> dict[tuple[str, str], tuple[float, ...]]:
    count = pl.lit(1.0) if frequency is None else named.column(frequency).cast(pl.Float64)
    total = pl.len().cast(pl.Float64) if frequency is None else count.sum()
    places = list(wanted.items())
    query = []
    for k, (_, node) in enumerate(places):
        x = node.to_expr()
        mean = (x * count).sum() / total
        spread = ((x - mean) ** 2 * count).sum() / (total - 1.0)
        query += [mean.alias(f"mean_{k}"), spread.sqrt().alias(f"sd_{k}")]
    row = aggregated(rows.select(query)).row(0, named=True)
    found: dict[tuple[str, str], tuple[float, ...]] = {}
    for k, (key, _) in enumerate(places):
        mean, sd = row[f"mean_{k}"], row[f"sd_{k}"]
        found[key] = (mean,) if key[1] == "mean" else (mean - sd, mean, mean + sd)
    return found


def _counted(rows: pl.LazyFrame, node: Node, frequency: str | None) -> tuple[Vec, Vec]:
    """The different values of a column, rising, and how often each is there."""
    count = pl.lit(1.0) if frequency is None else named.column(frequency).cast(pl.Float64)
    made = rows.select(node.to_expr().alias(_X), count.alias(_N)).group_by(_X).agg(pl.col(_N).sum())
    table = aggregated(made.filter(pl.col(_N) > 0.0)).sort(_X)
    return table[_X].to_numpy(), table[_N].to_numpy()


def _of_values(values: Vec, counts: Vec, statistic: str) -> tuple[float, ...]:
    if statistic == "levels":
        return tuple(values.tolist())
    if statistic in ("min", "max", "range"):
        ends = float(values[0]), float(values[-1])
        return ends if statistic == "range" else ends[:1] if statistic == "min" else ends[1:]
    shares = (0.5,) if statistic == "median" else (0.25, 0.5, 0.75)
    return tuple(_quantile(values, counts, share) for share in shares)


def _quantile(values: Vec, counts: Vec, share: float) -> float:
    """By linear interpolation between order statistics (Hyndman & Fan 1996, type 7)."""
    ends = np.cumsum(counts)
    place = share * (ends[-1] - 1.0)
    low, high = (values[np.searchsorted(ends, at, side="right")] for at in (np.floor(place), np.ceil(place)))
    return float(low + (place - np.floor(place)) * (high - low))


def cell_weights(fit: Answer, columns: Sequence[str], weight: str | None, need: str) -> pl.DataFrame:
    """The columns' combinations that occur in the rows, with the column WEIGHT of their counts or their weight.

    weight   a numeric column whose sum counts; None: rows, by their frequency
    """
    rows = used_rows(fit, need)
    count = pl.lit(1.0)
    if weight is not None:
        count = named.column(weight).cast(pl.Float64)
    elif fit.spec.frequency is not None:
        count = named.column(fit.spec.frequency).cast(pl.Float64)
    taken = rows.select(*named.columns(columns), count.alias(WEIGHT))
    return aggregated(taken.group_by(list(columns)).agg(pl.col(WEIGHT).sum()))
