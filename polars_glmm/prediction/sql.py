"""A fit as SQL text: the query that scores a table of a database, and the tables of modes that it joins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import polars as pl
import polars.selectors as cs

from polars_glmm.columns.sql import Sql, literal, text_literal
from polars_glmm.errors import ModelError, suggest
from polars_glmm.prediction.categories import refuse_unordered
from polars_glmm.prediction.effects import JoinedFactor, chosen
from polars_glmm.prediction.estimable import misses
from polars_glmm.prediction.linear_predictor import used_categoricals
from polars_glmm.prediction.members import refuse_slots
from polars_glmm.prediction.parameters import Parameters, of_fit

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.columns.nodes import Node
    from polars_glmm.design.recipe import Categorical

Dialect = Literal["duckdb", "postgres", "spark"]
_ROWS = "rows_"
_SMALL = 1e-3
_KINDS = ("response", "link")


class Scoring(NamedTuple):
    """The text of a query, and the tables by name that must exist where it runs."""

    sql: str
    tables: dict[str, pl.DataFrame]


def to_sql(  # noqa: PLR0913  the arguments of predict
    fit: Answer,
    name: str,
    *,
    dialect: Dialect = "duckdb",
    kind: str = "response",
    random: str | Sequence[str] = "all",
    new_levels: str = "zero",
    column: str = "prediction",
) -> Scoring:
    """The SELECT that predicts the rows of the table `name`, as `predict` does; see `Fit.to_sql`."""
    for argument, value, known in (
        ("dialect", dialect, get_args(Dialect)),
        ("kind", kind, _KINDS),
        ("new_levels", new_levels, ("zero", "null")),
    ):
        if value not in known:
            msg = f"{argument}={value!r} is not known: use {' or '.join(map(repr, known))}.{suggest(str(value), known)}"
            raise ModelError(msg)
    fitted, words = of_fit(fit), Sql(dialect, _ROWS)
    family = fitted.recipe.spec.family
    if kind == "response" and not family.mu_is_mean:
        msg = f"The mean of a {family.name} response has no expression in SQL: use kind='link'."
        raise ModelError(msg)
    if kind == "response" and family.response == "category" and not family.unordered:
        msg = f"The probabilities of a {family.name} response have no expression in SQL: use kind='link'."
        raise ModelError(msg)
    refuse_unordered(fitted.recipe, "to_sql()", "predict() has the probabilities where the rows are")
    factors = tuple(factor for factor in chosen(fitted.factors, random) if factor.on(0))
    refuse_slots(factors, "to_sql() joins the effects of one level", 'random="none" is the fixed part alone.')
    tables = {f"{name}_modes_{i}": _table(factor) for i, factor in enumerate(factors)}
    eta = _eta(fitted, factors, words)
    link = "identity" if kind == "link" else family.link.name
    value = _mean(link, "eta_")
    joins = "".join(
        f"\n  LEFT JOIN {words.name(table)} AS m{i}_ ON {_on(factor, i, words)}"
        for i, (table, factor) in enumerate(zip(tables, factors, strict=True))
    )
    usable = " AND ".join(_usable(fitted, factors, words, new_levels) or ["TRUE"])
    asked = f"SELECT {_ROWS}.*, CASE WHEN {usable} THEN {eta} END AS eta_"
    inner = f"{asked}\n  FROM {words.name(name)} AS {_ROWS}{joins}"
    without = "EXCEPT" if dialect == "spark" else "EXCLUDE"
    kept = "scored_.*" if dialect == "postgres" else f"scored_.* {without} (eta_)"
    value = f"CASE WHEN eta_ IS NOT NULL THEN {value} END"
    text = f"SELECT {kept}, {value} AS {words.name(column)}\nFROM (\n  {inner}\n) AS scored_"
    return Scoring(text, tables)


def _table(factor: JoinedFactor) -> pl.DataFrame:
    """Levels under the names of their keys, and the modes as mode_0, mode_1, …"""
    modes = [pl.Series(f"mode_{j}", factor.modes[j].copy()) for j in range(len(factor.modes))]
    keys = factor.recipe.levels.with_columns(cs.by_dtype(pl.Categorical, pl.Enum).cast(pl.String))
    return keys.with_columns(modes)


def _eta(fitted: Parameters, factors: tuple[JoinedFactor, ...], words: Sql) -> str:
    recipe = fitted.recipe.predictors[0]
    nodes = [one.node for one, kept in zip(recipe.columns, recipe.kept, strict=True) if kept]
    terms = [f"{literal(b)} * {_text(node, words)}" for node, b in zip(nodes, fitted.beta[0].tolist(), strict=True)]
    if recipe.offset is not None:
        terms.append(_text(recipe.offset, words))
    for i, factor in enumerate(factors):
        terms += [f"coalesce(m{i}_.mode_{j}, 0e0) * {_text(factor.nodes[j], words)}" for j in factor.on(0)]
    return " + ".join(terms) or "0e0"


def _usable(fitted: Parameters, factors: tuple[JoinedFactor, ...], words: Sql, new_levels: str) -> list[str]:
    """What must hold of a row for a prediction: nothing is missing, levels are known, the value is estimable."""
    fixed, recipe = fitted.fixed("mu"), fitted.recipe.predictors[0]
    designs = fixed.inputs.union(*(factor.slope_inputs(0) for factor in factors))
    used = designs.union(*(factor.recipe.keys for factor in factors))
    categoricals = used_categoricals(fitted.recipe, designs)
    tests = [f"{words.column(name)} IS NOT NULL" for name in sorted(used)]
    numbers = designs - {one.column for one in categoricals}
    tests += [words.finite(words.number(name)) for name in sorted(numbers)]
    tests += [_known(one, words) for one in categoricals]
    points = [nodes for factor in factors for nodes in factor.points(0)]
    tests += [f"({' + '.join(_text(node, words) for node in nodes)}) <> 0" for nodes in points]
    if new_levels == "null":
        tests += [f"m{i}_.mode_0 IS NOT NULL" for i in range(len(factors))]
    nodes = [one.node for one in recipe.columns]
    for one in recipe.lost:
        far = misses(one, nodes, lambda node: _Infix(_text(node, words)), lambda x: _Infix(words.finite(str(x))))
        tests.append(f"NOT ({far})")
    return tests


def _known(factor: Categorical, words: Sql) -> str:
    if factor.dtype.is_numeric():
        values = pl.Series(factor.levels).cast(factor.dtype).cast(pl.Float64).to_list()
        return f"{words.number(factor.column)} IN ({', '.join(map(literal, values))})"
    if factor.dtype == pl.Boolean:
        return f"{words.column(factor.column)} IN ({', '.join(level.upper() for level in factor.levels)})"
    levels = ", ".join(text_literal(level, words.dialect) for level in factor.levels)
    text = "STRING" if words.dialect == "spark" else "VARCHAR"
    return f"CAST({words.column(factor.column)} AS {text}) IN ({levels})"


def _on(factor: JoinedFactor, i: int, words: Sql) -> str:
    return " AND ".join(f"{words.column(key)} = m{i}_.{words.name(key)}" for key in factor.recipe.keys)


def _text(node: Node, words: Sql) -> str:
    return f"({node.compile(words)})"


def _mean(link: str, eta: str) -> str:
    """g⁻¹ of a named column, accurate in both tails."""
    e, t = f"exp(-abs({eta}))", f"exp(CASE WHEN {eta} < 4e0 THEN {eta} ELSE 4e0 END)"
    series = f"{t} * (1e0 - {t} / 2e0 * (1e0 - {t} / 3e0 * (1e0 - {t} / 4e0 * (1e0 - {t} / 5e0))))"
    means = {
        "identity": eta,
        "log": f"exp({eta})",
        "logit": f"CASE WHEN {eta} >= 0e0 THEN 1e0 / (1e0 + {e}) ELSE {e} / (1e0 + {e}) END",
        "cloglog": f"CASE WHEN {t} < {literal(_SMALL)} THEN {series} ELSE 1e0 - exp(-{t}) END",
        "inverse": f"1e0 / {eta}",
        "sqrt": f"{eta} * {eta}",
        "inverse_squared": f"1e0 / sqrt({eta})",
    }
    if link not in means:
        msg = f"The inverse of the {link} link has no expression in SQL: use kind='link'."
        raise ModelError(msg)
    return means[link]


class _Infix:
    """Text that is added, subtracted, multiplied and compared as numbers are."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    def _with(self, symbol: str, other: Any, *, first: bool = True) -> _Infix:
        own, text = self.text, str(other) if isinstance(other, _Infix) else literal(float(other))
        return _Infix(f"({own} {symbol} {text})" if first else f"({text} {symbol} {own})")

    def __add__(self, other: Any) -> _Infix:
        return self._with("+", other)

    def __sub__(self, other: Any) -> _Infix:
        return self._with("-", other)

    def __rmul__(self, other: Any) -> _Infix:
        return self._with("*", other, first=False)

    def __gt__(self, other: Any) -> _Infix:
        return self._with(">", other)

    def __and__(self, other: Any) -> _Infix:
        return self._with("AND", other)

    def abs(self) -> _Infix:
        """Its size."""
        return _Infix(f"abs({self.text})")
