"""Conditional modes of the random effects: long for reading, wide for joining, and added to the fixed effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polars_glmm.columns.named import column as named
from polars_glmm.errors import ModelError, enumerate_names, suggest
from polars_glmm.inference.schemas import RANEF, table
from polars_glmm.likelihood.estimate import conditional_std_error
from polars_glmm.likelihood.parameters.parts import label
from polars_glmm.typing import IntVec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.design.recipe import FactorRecipe
    from polars_glmm.likelihood.estimate import FactorEstimate


def ranef(fit: Answer, group: str | None = None) -> pl.DataFrame:
    """Long table of all factors, or for one `group` the join-ready table: keys, then `group_term`, `group_term_se`.

    Raises ModelError for a group the model does not have.
    """
    if group is None:
        return _long(fit)
    recipe, factor = find_factor(fit, group)
    std_error = conditional_std_error(factor.mode_covariance)
    columns: dict[str, pl.Series] = {}
    for k, effect in enumerate(zip(factor.term_names, factor.parameter_of, strict=True)):
        term = label(*effect, between="_")
        columns[f"{group}_{term}"] = pl.Series(factor.modes[k])
        columns[f"{group}_{term}_se"] = pl.Series(std_error[k], nan_to_null=True)
    _refuse_clash(recipe, columns, f"fit.ranef({group!r})")
    return recipe.levels.with_columns(**columns)


def coef(fit: Answer, group: str | None = None, parameter: str = "mu") -> pl.DataFrame:
    """Keys of `group`, then a column per fixed effect of a parameter: the fixed effect plus the level's random effect.

    parameter   "mu", or another with a formula: "phi", of log phi, "zi", of logit zi; of a nonlinear model one
                parameter of its curve, where "mu" is all of them: columns "Asym", "xmid: x"; of unordered categories
                one of them, or all
    A random effect without a fixed effect of the same name, as in 0 + f | g beside 1 + f, has no column. Raises
    ModelError for a parameter without a formula.
    """
    if group is None:
        group = _only_factor(fit)
    recipe, factor = find_factor(fit, group)
    known, family = [predictor.parameter for predictor in fit.recipe.predictors], fit.spec.family
    together = tuple(known) if family.unordered else () if family.curve is None else family.curve.parameters
    whole = bool(together) and parameter == "mu"
    if parameter not in known and not whole:
        msg = f"parameter={parameter!r} has no formula in this model; {enumerate_names(known)} {_verb(known)}."
        raise ModelError(msg)
    columns: dict[str, pl.Series] = {}
    for name in together if whole else (parameter,):
        columns |= {
            _of_curve(name, column) if whole else column: values
            for column, values in _level_coefficients(fit, recipe, factor, name).items()
        }
    _refuse_clash(recipe, columns, f"fit.coef({group!r})")
    return recipe.levels.with_columns(**columns)


def _of_curve(parameter: str, column: str) -> str:
    return parameter if column == "Intercept" else f"{parameter}: {column}"


def _level_coefficients(
    fit: Answer, recipe: FactorRecipe, factor: FactorEstimate, parameter: str
) -> dict[str, pl.Series]:
    """The coefficients of one parameter in every level, by column; null where the rank left one out."""
    predictor = fit.recipe.predictor(parameter)
    beta = iter(fit.estimate.coefficients[parameter])
    found: dict[str, pl.Series] = {}
    for column, kept in zip(predictor.columns, predictor.kept, strict=True):
        if not kept:
            found[column.name] = pl.Series([None] * recipe.levels.height, dtype=pl.Float64)
            continue
        effects = enumerate(zip(factor.term_names, factor.parameter_of, strict=True))
        random = [k for k, effect in effects if effect == (column.name, parameter)]
        found[column.name] = pl.Series(next(beta) + factor.modes[random].sum(axis=0))
    return found


def _verb(names: list[str]) -> str:
    return "has one" if len(names) == 1 else "have one"


def find_factor(fit: Answer, group: str) -> tuple[FactorRecipe, FactorEstimate]:
    """The recipe and the estimate of one grouping factor.

    Raises ModelError, naming the factors there are.
    """
    for recipe, factor in zip(fit.recipe.factors, fit.estimate.factors, strict=True):
        if recipe.name == group:
            return recipe, factor
    names = [recipe.name for recipe in fit.recipe.factors]
    known = f"it has {enumerate_names(names)}" if names else "it has no random effects"
    near = suggest(group, names, listed=True)
    msg = f"The model has no grouping factor {group!r}; {known}.{near}"
    raise ModelError(msg)


def level_labels(recipe: FactorRecipe) -> pl.Series:
    """One text per level; the parts of a composite key joined by ':'."""
    return recipe.levels.select(label_of(recipe.keys, recipe.levels.schema).alias("level")).to_series()


def label_of(keys: tuple[str, ...], schema: pl.Schema) -> pl.Expr:
    """The label of a level from its keys."""
    return pl.concat_str([_label(key, schema[key]) for key in keys], separator=":")


def _label(key: str, dtype: pl.DataType) -> pl.Expr:
    """A key as text: as a cast spells it, where there is one (not for Duration, bytes) that keeps all digits (Time)."""
    return _text(named(key), dtype)


def _text(value: pl.Expr, dtype: Any) -> pl.Expr:
    if isinstance(dtype, pl.Duration):
        return value.dt.to_string("polars")
    if dtype == pl.Time:
        return value.dt.to_string("%H:%M:%S%.f")
    if dtype == pl.Binary:
        return value.bin.encode("hex")
    if isinstance(dtype, pl.Struct):
        inner = [value.struct.field(own.name) for own in dtype.fields]
        texts = [_text(part, own.dtype).fill_null("null") for part, own in zip(inner, dtype.fields, strict=True)]
        return pl.concat_str([pl.lit("{"), pl.concat_str(texts, separator=","), pl.lit("}")])
    return value.cast(pl.String)


def _long(fit: Answer) -> pl.DataFrame:
    none = table(RANEF, {name: [] for name in RANEF})
    factors = zip(fit.recipe.factors, fit.estimate.factors, strict=True)
    return pl.concat([none, *(effects_of(recipe, factor) for recipe, factor in factors)])


def effects_of(recipe: FactorRecipe, factor: FactorEstimate, of_level: IntVec | None = None) -> pl.DataFrame:
    """Modes term by term, level by level; with the model of every level (G,), of many, model after model."""
    labels, std_error = level_labels(recipe), conditional_std_error(factor.mode_covariance)
    r, n = len(factor.term_names), len(labels)

    def each(texts: tuple[str, ...]) -> pl.Series:
        return pl.concat([pl.repeat(text, n, dtype=pl.String, eager=True) for text in texts])

    found = table(
        RANEF,
        {
            "parameter": each(factor.parameter_of),
            "group": pl.repeat(recipe.name, r * n, eager=True),
            "level": pl.concat([labels] * r),
            "term": each(factor.term_names),
            "estimate": factor.modes.reshape(-1),
            "std_error": std_error.reshape(-1),
        },
    )
    return found if of_level is None or r == 1 else found[np.argsort(np.tile(of_level, r), kind="stable")]


def _only_factor(fit: Answer) -> str:
    names = [recipe.name for recipe in fit.recipe.factors]
    if len(names) == 1:
        return names[0]
    msg = f"fit.coef() needs the name of a grouping factor: {enumerate_names(names, 'or') or 'this model has none'}."
    raise ModelError(msg)


def _refuse_clash(recipe: FactorRecipe, columns: dict[str, pl.Series], call: str) -> None:
    clash = [name for name in columns if name in recipe.levels.columns]
    if clash:
        msg = f"{call} would have two columns named {clash[0]!r}, a key and an effect: rename the key column and refit."
        raise ModelError(msg)
