"""Simulated responses: new data sets from the fitted model, beside the rows they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from polars_glmm.answer.many import Answers
from polars_glmm.columns.named import columns
from polars_glmm.errors import ModelError
from polars_glmm.families.base import all_parts, moved_beyond
from polars_glmm.foreign import answered
from polars_glmm.frames.held import of_one_run, taken
from polars_glmm.linalg.coupled import coloured
from polars_glmm.linalg.roots import singular_root
from polars_glmm.prediction.categories import category_draws, category_fields, category_inputs
from polars_glmm.prediction.columns import INTERNAL, FrameT, apply_plan, refuse_clash
from polars_glmm.prediction.correlated import correlation_of, residual_inputs
from polars_glmm.prediction.curve import ARGUMENTS, CurvePart
from polars_glmm.prediction.drawn import as_response
from polars_glmm.prediction.effects import JoinedFactor
from polars_glmm.prediction.linear_predictor import FIXED, MISSING, Purpose, add_linear_predictor
from polars_glmm.prediction.members import slot_fields, slot_rows
from polars_glmm.prediction.parameters import Parameters, of_fit
from polars_glmm.prediction.rows import PHI, beyond, phi_inputs, size_inputs, sizes_of, with_phi

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.design.recipe import Recipe
    from polars_glmm.families.base import Rows
    from polars_glmm.typing import BoolVec, IntVec, Mat, Vec

_ROW = f"{INTERNAL}row"


@answered
def simulate(
    frame: FrameT,
    fit: Answer,
    n: int = 1,
    rng: np.random.Generator | int | None = None,
    *,
    random: Literal["new", "conditional"] = "new",
) -> FrameT:
    """The frame with `n` simulated responses `sim_1 …` beside its own columns, each a possible response of the model.

    Each is one draw of the whole data set: random effects for every level, then responses given them; for binomial what
    the response was: the number of successes, or their share of the trials. The column has the dtype of the response
    of the fit (whole numbers, Boolean, Enum …), so that `fit.update(frame=…)` reads it as it read the response; numbers
    of successes that were Float64 beside trials= come as Int64, and so do whole numbers that the dtype cannot hold;
    responses of continuous families are Float64. Parameters are held at their estimates.

    Parameters
    ----------
    frame
        Needs the columns of a prediction, and trials and precision where the model has them. A LazyFrame gives a
        LazyFrame, but the columns used are collected at the call (all columns, of a query that must not run twice):
        draws depend on all rows of a level.
    n
        Number of simulated responses.
    rng
        A numpy Generator, a seed, or None for fresh entropy. One seed gives the same draws for the same frame.
    random
        "new": every level gets new effects from the fitted covariance: an unconditional parametric simulation,
        as a bootstrap needs. "conditional": levels that the fit knows keep their modes, others get new ones.

    Raises
    ------
    ColumnError, ModelError
        As in predict().
    UnknownLevelError
        For an unseen level of a fixed factor; unseen levels of grouping factors are simply new draws.

    Notes
    -----
    A null or NaN in any column used for a row gives null, and so does a row that has no distribution: of precision 0,
    of a mean that the family cannot have or the data do not determine. A row of frequency k gets one draw, not k.
    """
    if isinstance(fit, Answers):
        msg = "simulate() takes one fit: choose it by its key, as in collection[key], and the rows of that key."
        raise ModelError(msg)
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        msg = f"n={n!r}: the number of simulated responses is a whole number of at least 1."
        raise ModelError(msg)
    if random not in ("new", "conditional"):
        msg = f"random={random!r} is not known: use 'new' or 'conditional'."
        raise ModelError(msg)
    generator, fitted = np.random.default_rng(rng), of_fit(fit)

    def plan(lazy: pl.LazyFrame, schema: pl.Schema) -> pl.LazyFrame:
        names = [f"sim_{i + 1}" for i in range(n)]
        refuse_clash(schema, names, "rename or drop these columns first.")
        lazy = of_one_run(lazy)  # draws belong to the rows of one run
        draws = _draws(collected_rows(lazy, schema, fitted), fitted, n, generator, new=random == "new")
        drawn = [pl.Series(name, draw, nan_to_null=True) for name, draw in zip(names, draws, strict=True)]
        return lazy.with_columns(as_response(column, fitted.recipe) for column in drawn)

    return apply_plan(frame, "simulate", plan)


def collected_rows(
    frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, verb: str = "simulate", more: Sequence[pl.Expr] = ()
) -> pl.DataFrame:
    """What a simulation needs of every row: linear predictor, phi, sizes, levels, modes, columns of random effects."""
    factors, sizes = fitted.factors, size_inputs(fitted.recipe) | residual_inputs(fitted.recipe)
    purpose = Purpose(
        verb, factors, new_levels="zero", also_used=sizes | phi_inputs(fitted),
        parts=all_parts(fitted.recipe.spec.family), also_designed=category_inputs(fitted),
    )  # fmt: skip
    frame = with_phi(add_linear_predictor(frame, schema, fitted, purpose), schema, fitted, verb=verb)
    curve = CurvePart.of(fitted)
    if curve is not None:
        frame = frame.with_columns(curve.arguments().alias(ARGUMENTS))
    needed: list[pl.Expr] = columns([MISSING, FIXED, PHI, *([] if curve is None else [ARGUMENTS]), *sorted(sizes)])
    if fitted.recipe.spec.family.response == "category":
        needed += category_fields(fitted)
    for factor in factors:
        keys = factor.level_names if factor.recipe.members is None else slot_fields(factor)
        needed += [*columns(keys), pl.col(factor.code)]
        needed.append(pl.col([factor.mode(j) for j in range(len(factor.nodes))]))
        needed += [node.to_expr().alias(z_column(factor, j)) for j, node in enumerate(factor.nodes)]
    return taken(frame.select([*needed, *more]))


def _draws(rows: pl.DataFrame, fitted: Parameters, n: int, rng: np.random.Generator, *, new: bool) -> list[Vec]:
    """n simulated responses, NaN in incomplete rows and in those without a distribution."""
    family = fitted.recipe.spec.family
    complete = ~rows[MISSING].to_numpy()
    complete[complete] = possible_sizes(sizes_of(fitted.recipe, rows.filter(complete)), fitted.recipe)
    used = rows.filter(complete)
    factors = [_Drawn(factor, used, new=new) for factor in fitted.factors]
    fixed, sizes, curve = used[FIXED].to_numpy(), sizes_of(fitted.recipe, used), CurvePart.of(fitted)
    n_mean = 1 if curve is None else len(curve.parts)
    phi = beyond(used[PHI], family)
    drawn_categories = category_draws(fitted, used) if family.response == "category" else None
    together = None
    if fitted.correlations is not None and used.height:
        together = correlation_of(fitted.recipe, fitted.correlations, used)
    draws = []
    for _ in range(n):
        of_mean = np.zeros((n_mean, len(fixed)))
        moved: dict[int, Vec] = {}
        for factor in factors:
            for part, effect in factor.effects(rng).items():
                if part < n_mean:
                    of_mean[part] += effect
                else:
                    moved[part] = moved[part] + effect if part in moved else effect
        eta = fixed + of_mean[0] if curve is None else curve.moved(used[ARGUMENTS], of_mean)
        y = np.full(rows.height, np.nan)
        if drawn_categories is not None:
            y[complete] = drawn_categories(rng, eta, moved)
            draws.append(y)
            continue
        mu, own = family.mean(eta), moved_beyond(family, phi, moved)
        drawn = family.simulate(rng, mu, own, sizes)
        if together is not None and own is not None:
            drawn = together.response(drawn, mu, own, sizes.precision)
        y[complete] = drawn
        if fitted.recipe.response.proportion:
            y[complete] /= sizes.trials
        draws.append(y)
    return draws


def possible_sizes(sizes: Rows, recipe: Recipe) -> BoolVec:
    """Rows (n,) whose trials and precision belong to a distribution."""
    fine = np.ones(len(sizes.y), dtype=np.bool_)
    if sizes.precision is not None:
        fine &= (sizes.precision > 0) & np.isfinite(sizes.precision)
    if sizes.trials is not None:
        least = 1.0 if recipe.response.proportion else 0.0
        fine &= (sizes.trials >= least) & (sizes.trials == np.round(sizes.trials))
    return fine


class _Drawn:
    """Random effects of one factor over the rows of a frame: known modes, or draws from the fitted covariance."""

    def __init__(self, factor: JoinedFactor, rows: pl.DataFrame, *, new: bool) -> None:
        r = len(factor.nodes)
        self.z: Mat = np.stack([rows[z_column(factor, j)].to_numpy() for j in range(r)])
        self.roots = [singular_root(covariance[0]) for covariance in factor.covariances]
        self.new, self.slots = new, None if factor.recipe.members is None else slot_rows(factor, rows)
        if self.slots is None:
            self.codes: IntVec = level_codes(rows.select(factor.level_names))
            self.n_levels = int(self.codes.max(initial=-1)) + 1
        else:
            self.n_levels = self.slots.members.n_levels
        self.prior, self.known = factor.recipe.prior, rows[factor.code].fill_null(-1).to_numpy().astype(np.intp)
        # modes (r, n) of the rows; NaN marks a level that is drawn
        self.part_of = np.array(factor.part_of)
        self.modes: Mat | None = None
        if not new:
            self.modes = np.stack([rows[factor.mode(j)].fill_null(np.nan).to_numpy() for j in range(r)])

    def effects(self, rng: np.random.Generator) -> dict[int, Vec]:
        """z'b (n,) with b ~ N(0, Σ) per level and term, by the predictor that it is added to."""
        levels = [root @ rng.standard_normal((len(root), self.n_levels)) for root in self.roots]
        if self.slots is not None:
            return self._by_part(self.slots.draws(np.concatenate(levels), new=self.new))
        b = np.concatenate(levels)[:, self.codes]
        if self.prior is not None:  # a level that it does not know is related to none
            related = [root @ rng.standard_normal((len(root), len(self.prior.low))) for root in self.roots]
            b = np.where(self.known >= 0, coloured(self.prior, np.concatenate(related))[:, self.known], b)
        if self.modes is not None:
            b = np.where(np.isnan(self.modes), b, self.modes)
        return self._by_part(b)

    def _by_part(self, b: Mat) -> dict[int, Vec]:
        """z'b (n,) of effects of the rows (r, n), by predictor."""
        parts = set(self.part_of.tolist())
        return {k: np.einsum("rn,rn->n", self.z[self.part_of == k], b[self.part_of == k]) for k in parts}


def level_codes(levels: pl.DataFrame) -> IntVec:
    """Whole numbers 0 … of the distinct levels, sorted: the draw of a level does not hang on the order of rows."""
    table = levels.unique().sort(levels.columns).with_row_index(_ROW)
    joined = levels.join(table, on=levels.columns, how="left", maintain_order="left")
    codes: IntVec = joined[_ROW].to_numpy().astype(np.intp)
    return codes


def z_column(factor: JoinedFactor, j: int) -> str:
    """Internal column: what the random effect j of a factor multiplies."""
    return f"{factor.tag}z_{j}"
