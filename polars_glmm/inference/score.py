"""Effects of groups that a fit has not seen, from their rows, without a refit: empirical Bayes at the estimates.

With the parameters held, the effects of a group depend on its own rows alone: b̂ = (Z'WZ + Σ⁻¹)⁻¹Z'W(y − Xβ̂) for a
linear model (Robinson 1991), the conditional mode otherwise. One factor of a linear model needs sums by group only;
correlated residuals are whitened, among the rows that there are.
"""

from __future__ import annotations

from functools import reduce
from operator import mul
from typing import TYPE_CHECKING, cast

import numpy as np
import polars as pl

from polars_glmm.columns.named import column, columns
from polars_glmm.design.known import KnownRows, effects_elsewhere, read_known, used_columns
from polars_glmm.design.relation import related
from polars_glmm.errors import ColumnError, ModelError, enumerate_names
from polars_glmm.families.base import only_phi
from polars_glmm.frames.elsewhere import read
from polars_glmm.inference.ranef import find_factor, label_of
from polars_glmm.likelihood.known.joint import FactorModes, HeldParameters, block_root, known_model
from polars_glmm.likelihood.known.levels import LevelLikelihood, quadrature
from polars_glmm.prediction.columns import INTERNAL, FrameT, apply_plan, require_columns
from polars_glmm.prediction.linear_predictor import FIXED, MISSING, Purpose, add_linear_predictor
from polars_glmm.prediction.parameters import of_fit
from polars_glmm.prediction.rows import PHI, phi_inputs, response_inputs, with_phi
from polars_glmm.prediction.scored import effect_labels

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.design.recipe import FactorRecipe
    from polars_glmm.typing import Mat

_NODES = 61
_ADDED = {
    "group": pl.String(),
    "level": pl.String(),
    "term": pl.String(),
    "estimate": pl.Float64(),
    "std_error": pl.Float64(),
    "n_obs": pl.Int64(),
    "posterior_mean": pl.Float64(),
}
_VALUES = f"{INTERNAL}values"


def score(frame: FrameT, fit: Answer, group: str | None = None) -> FrameT:
    """Effects of the groups of `frame`: keys, then group, level, term, estimate, std_error, n_obs, posterior_mean.

    The groups may be new or known: what is known of one is what its rows in `frame` say, so that the rows of the fit
    give ranef(). std_error is √Var(b | y) given the parameters; posterior_mean is E(b | y), by quadrature where it is
    not the mode (one factor; null with several). Of several factors all effects are found together, from these rows;
    so are those of levels that known= relates, with or without rows. Of effects on another predictor than the mean's,
    `term` names that too, as in "yes Intercept".
    A LazyFrame gives a LazyFrame: one factor of a gaussian model by a query of sums, else its rows pass through memory.

    Raises ModelError for a model without random effects, ColumnError for a key named as a column of the result,
    UnknownLevelError for a label of a fixed effect that has no coefficient, or a level that known= does not relate.
    """
    names = [factor.name for factor in fit.recipe.factors]
    if group is None:
        if len(names) != 1:
            known = enumerate_names(names, "or") or "this model has none"
            msg = f"score() needs the name of a grouping factor: {known}."
            raise ModelError(msg)
        group = names[0]
    recipe, _ = find_factor(fit, group)
    taken = [key for key in recipe.keys if key in _ADDED]
    if taken:
        msg = f"key {taken[0]!r} is also the name of a column of score(): rename it first."
        raise ColumnError(msg)
    frame = cast("FrameT", read(frame, "score()"))
    linear = fit.recipe.spec.family.linear and not len(fit.estimate.gamma)
    simple = len(names) == 1 and linear and not _together(fit)
    if simple:
        return apply_plan(frame, "score", lambda lazy, schema: _by_sums(lazy, schema, fit, recipe))

    def plan(lazy: pl.LazyFrame, schema: pl.Schema) -> pl.LazyFrame:
        require_columns(schema, used_columns(fit.recipe), "score")
        slots = None if recipe.members is None else recipe.members.keys
        whole = {key: schema[key if slots is None else slots[0]] for key in recipe.keys} | _ADDED
        return lazy.select(columns(used_columns(fit.recipe))).map_batches(
            lambda rows: _by_modes(rows, fit, recipe, whole),
            schema=pl.Schema(whole), predicate_pushdown=False, projection_pushdown=False, slice_pushdown=False,
        )  # fmt: skip

    return apply_plan(frame, "score", plan)


def _together(fit: Answer) -> bool:
    """Whether rows of other levels tell of a level, or of one another."""
    members = any(factor.members is not None for factor in fit.recipe.factors)
    return members or bool(related(fit.recipe)) or fit.recipe.residual is not None


def _by_modes(rows: pl.DataFrame, fit: Answer, recipe: FactorRecipe, schema: dict[str, pl.DataType]) -> pl.DataFrame:
    """From all rows in memory: conditional modes, found together."""
    if not rows.height:
        return pl.DataFrame(schema=schema)
    known, family = read_known(fit.recipe, rows, own_levels=True), fit.recipe.spec.family
    held = HeldParameters.of(fit.estimate, family)
    place = [factor.name for factor in fit.recipe.factors].index(recipe.name)
    modes = known_model(known.design, family, fit.control, held).modes()[place]
    mean = np.full_like(modes.modes, np.nan)
    if _together(fit):
        mean = modes.modes if family.linear and not effects_elsewhere(fit.recipe) else mean
    elif len(fit.recipe.factors) == 1 and not known.design.further and only_phi(fit.spec.family):
        levels = LevelLikelihood.of(known.design, family)
        mean = levels.integrals(levels.psi(held), quadrature(_NODES)).mean
    return _long(known, place, modes, mean).select(pl.col(name).cast(dtype) for name, dtype in schema.items())


def _long(known: KnownRows, place: int, modes: FactorModes, mean: Mat) -> pl.DataFrame:
    recipe, factor = known.recipe.factors[place], known.design.factors[place]
    error = np.sqrt(np.maximum(np.einsum("kkg->kg", modes.covariance), 0.0))
    counts = factor.level_rows(known.design.frequency).astype(np.int64)
    levels = recipe.levels.with_columns(group=pl.lit(recipe.name), level=label_of(recipe.keys, recipe.levels.schema))
    names = effect_labels(recipe)
    made = [
        levels.with_columns(
            term=pl.lit(name), estimate=pl.Series(modes.modes[k]), std_error=pl.Series(error[k]),
            n_obs=pl.Series(counts), posterior_mean=pl.Series(mean[k], nan_to_null=True),
        )
        for k, name in enumerate(names)
    ]  # fmt: skip
    return pl.concat(made)


def _by_sums(frame: pl.LazyFrame, schema: pl.Schema, fit: Answer, recipe: FactorRecipe) -> pl.LazyFrame:
    """By one aggregation: Z'WZ and Z'W(y − Xβ̂) per group, then one small system each."""
    fitted = of_fit(fit)
    factor, spec = fitted.factors[0], fit.recipe.spec
    weights = [name for name in (spec.precision, spec.frequency) if name is not None]
    used = response_inputs(fit.recipe) | factor.slope_inputs(0) | frozenset([*recipe.keys, *weights])
    purpose = Purpose("score", also_used=used | phi_inputs(fitted))
    frame = with_phi(add_linear_predictor(frame, schema, fitted, purpose), schema, fitted, verb="score")
    weight = reduce(mul, [column(name).cast(pl.Float64) for name in weights], pl.col(PHI) ** -2)
    away = fit.recipe.response.success.to_expr() - pl.col(FIXED)
    z = [node.to_expr() for node in factor.nodes]
    r = len(z)
    pairs = [(i, j) for i in range(r) for j in range(i + 1)]
    count = pl.len() if spec.frequency is None else column(spec.frequency).sum()
    sums = [
        *((weight * z[i] * z[j]).sum().alias(f"{INTERNAL}zz_{i}_{j}") for i, j in pairs),
        *((weight * z[i] * away).sum().alias(f"{INTERNAL}zr_{i}") for i in range(r)),
        count.cast(pl.Int64).alias("n_obs"),
    ]
    root = block_root(tuple(covariance[0] for covariance in factor.covariances))

    def solved(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        h, right = np.empty((rows.height, r, r)), np.empty((rows.height, r))
        for i, j in pairs:
            h[:, i, j] = h[:, j, i] = rows[f"{INTERNAL}zz_{i}_{j}"].to_numpy()
        for i in range(r):
            right[:, i] = rows[f"{INTERNAL}zr_{i}"].to_numpy()
        inner = np.eye(r) + root.T @ h @ root  # Σ may be singular: b = root·u
        covariance = root @ np.linalg.inv(inner) @ root.T
        estimate = np.einsum("gij,gj->gi", covariance, right)
        error = np.sqrt(np.maximum(np.einsum("gii->gi", covariance), 0.0))
        found = {f"{kind}_{k}": v[:, k] for kind, v in (("b", estimate), ("e", error)) for k in range(r)}
        return pl.DataFrame(found).to_struct(batch.name)

    struct = pl.Struct({f"{kind}_{k}": pl.Float64() for kind in "be" for k in range(r)})
    keys = columns(recipe.keys)
    table = frame.filter(~pl.col(MISSING)).filter(weight > 0.0).group_by(keys).agg(sums).sort(keys)
    values = pl.struct(pl.col(f"^{INTERNAL}z[zr]_.*$")).map_batches(solved, return_dtype=struct, is_elementwise=True)
    table = table.with_columns(values.alias(_VALUES))
    label = label_of(recipe.keys, pl.Schema({key: schema[key] for key in recipe.keys}))
    parts = [
        table.select(
            *keys,
            group=pl.lit(recipe.name),
            level=label,
            term=pl.lit(name),
            estimate=pl.col(_VALUES).struct.field(f"b_{k}"),
            std_error=pl.col(_VALUES).struct.field(f"e_{k}"),
            n_obs=pl.col("n_obs"),
            posterior_mean=pl.col(_VALUES).struct.field(f"b_{k}"),
        )
        for k, name in enumerate(factor.term_names)
    ]
    return pl.concat(parts)
