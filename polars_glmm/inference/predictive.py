"""Draws of means or responses of rows in which all parameters and effects are uncertain too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import polars as pl

from polars_glmm.design.recipe import cuts_of
from polars_glmm.errors import ModelError
from polars_glmm.families.base import moved_beyond
from polars_glmm.frames.held import of_one_run
from polars_glmm.inference.posterior import JointDraws, joint_draws
from polars_glmm.inference.resampling import checked_seed
from polars_glmm.likelihood.known.draws import roots_of
from polars_glmm.likelihood.residual.rows import correlated
from polars_glmm.linalg.coupled import coloured
from polars_glmm.prediction.categories import category_draws
from polars_glmm.prediction.columns import INTERNAL, FrameT, apply_plan, refuse_clash
from polars_glmm.prediction.correlated import residual_of
from polars_glmm.prediction.drawn import as_response
from polars_glmm.prediction.effects import JoinedFactor
from polars_glmm.prediction.linear_predictor import FIXED, MISSING
from polars_glmm.prediction.members import slot_rows
from polars_glmm.prediction.parameters import Parameters, of_fit
from polars_glmm.prediction.rows import PHI, beyond, sizes_of
from polars_glmm.prediction.simulations import collected_rows, level_codes, possible_sizes, z_column
from polars_glmm.typing import IntVec, Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.linalg.membership import Membership

Drawn: TypeAlias = Literal["response", "mean"]
Effects: TypeAlias = Literal["all", "new", "none"]
_X = f"{INTERNAL}x_"


def predictive(
    frame: FrameT,
    fit: Answer,
    n: int = 100,
    rng: np.random.Generator | int | None = None,
    *,
    of: Drawn = "response",
    random: Effects = "all",
) -> FrameT:
    """The frame with n draws sim_1 …, each by parameters and effects of its own from `posterior`.

    of       "response": a response from the family; "mean": its expectation (of a zero-inflated count the zeros
             included), which categories do not have
    random   "all": known levels have the effects of the draw, others new ones from its covariance; "new": all are new;
             "none": effects are zero. New ones of levels that known= relates are drawn together
    Draw i depends on (rng, i) and the rows alone. A LazyFrame gives a LazyFrame, the columns used are collected at the
    call. Rows that are incomplete, or without a distribution, are null. Raises ModelError as `posterior`, ColumnError
    and UnknownLevelError as predict().
    """
    seed = checked_seed(n, rng)
    for name, value, known in (("of", of, ("response", "mean")), ("random", random, ("all", "new", "none"))):
        if value not in known:
            msg = f"{name}={value!r} is not known: use {', '.join(map(repr, known))}."
            raise ModelError(msg)
    if fit.recipe.spec.family.response == "category" and of == "mean":
        msg = "of='mean' is of responses that are numbers, and these are categories: use of='response'."
        raise ModelError(msg)
    draws, fitted = joint_draws(fit, seed, range(n), effects=random == "all"), of_fit(fit)

    def plan(lazy: pl.LazyFrame, schema: pl.Schema) -> pl.LazyFrame:
        names = [f"sim_{i + 1}" for i in range(n)]
        refuse_clash(schema, names, "rename or drop these columns first.")
        lazy = of_one_run(lazy)
        rows = collected_rows(lazy, schema, fitted, "predictive", _more(fitted))
        made = _DrawnRows(rows, fitted, fit)
        series = [
            pl.Series(name, made.draw(draws, i, np.random.default_rng([seed, i, 1]), of, random), nan_to_null=True)
            for i, name in enumerate(names)
        ]
        return lazy.with_columns(series if of == "mean" else [as_response(one, fitted.recipe) for one in series])

    return apply_plan(frame, "predictive", plan)


def _more(fitted: Parameters) -> list[pl.Expr]:
    """The columns of the linear predictors."""
    return [
        column.node.to_expr().cast(pl.Float64).alias(f"{_X}{k}_{j}")
        for k, predictor in enumerate(fitted.recipe.predictors)
        for j, (column, kept) in enumerate(zip(predictor.columns, predictor.kept, strict=True))
        if kept
    ]


class _DrawnRows:
    """The complete rows of a frame as arrays, for draw after draw."""

    def __init__(self, rows: pl.DataFrame, fitted: Parameters, fit: Answer) -> None:
        complete = ~rows[MISSING].to_numpy()
        complete[complete] = possible_sizes(sizes_of(fitted.recipe, rows.filter(complete)), fitted.recipe)
        used = rows.filter(complete)
        self.complete, self.recipe, self.fit = complete, fitted.recipe, fit
        self.fixed, self.sizes = used[FIXED].to_numpy(), sizes_of(fitted.recipe, used)
        self.x = {
            one.parameter: used.select(pl.col(f"^{_X}{k}_.*$")).to_numpy().T
            for k, one in enumerate(fitted.recipe.predictors)
        }
        self.beyond = beyond(used[PHI], fitted.recipe.spec.family)
        self.factors = [_DrawnLevels(factor, used) for factor in fitted.factors]
        self.residual = residual_of(fitted.recipe, used) if fitted.correlations is not None and used.height else None
        ordered = fitted.recipe.spec.family.response == "category"
        self.categories = category_draws(fitted, used) if ordered else None
        self.cuts = cuts_of(fitted.recipe.spec, fitted.recipe.response)

    def draw(self, draws: JointDraws, i: int, rng: np.random.Generator, of: Drawn, random: Effects) -> Vec:
        """One draw (n,), NaN in incomplete rows."""
        family = self.recipe.spec.family
        moved = self._moved(draws, i)
        for k, effect in self._effects(draws, i, rng, random).items():
            moved[k] = moved[k] + effect if k in moved else effect
        eta = self.fixed + moved.pop(0)
        out = np.full(len(self.complete), np.nan)
        if self.categories is not None:
            out[self.complete] = self.categories(rng, eta, moved)
            return out
        mu, own = family.mean(eta), moved_beyond(family, self.beyond, moved)
        if of == "mean":
            out[self.complete] = family.expectation(mu, own)[0]
            return out
        drawn = family.simulate(rng, mu, own, self.sizes)
        if self.residual is not None and own is not None:
            drawn = correlated(self.residual, draws.residual[i]).response(drawn, mu, own, self.sizes.precision)
        if self.recipe.response.proportion:
            assert self.sizes.trials is not None  # shares are of trials
            drawn = drawn / self.sizes.trials
        out[self.complete] = drawn
        return out

    def _moved(self, draws: JointDraws, i: int) -> dict[int, Any]:
        """How far coefficients and constants of a draw move each predictor, by place: (n,); thresholds (C − 1, n)."""
        e = self.fit.estimate
        steps = dict(zip(e.coefficients, draws.coefficient_steps(e, i), strict=True))
        found: dict[int, Any] = {}
        for k, one in enumerate(self.recipe.spec.family.parameters):
            if one.name in draws.steps:
                found[k] = draws.steps[one.name][i]
            elif one.name in self.cuts:
                jacobian = self.cuts[one.name].jacobian
                found[k] = jacobian @ steps[one.name].reshape(-1, jacobian.shape[1]).T @ self.x[one.name]
            elif one.name in steps:
                found[k] = steps[one.name] @ self.x[one.name]
        return found

    def _effects(self, draws: JointDraws, i: int, rng: np.random.Generator, random: Effects) -> dict[int, Vec]:
        """z'b (n,) by the predictor that it is added to."""
        found: dict[int, Vec] = {}
        for number, factor in enumerate(self.factors if random != "none" else []):
            known = draws.effects[number][i] if random == "all" else None
            root = roots_of([part[i : i + 1] for part in draws.covariances[number]])[0]
            for k, effect in factor.effects(rng, root, known).items():
                found[k] = found[k] + effect if k in found else effect
        return found


class _DrawnLevels:
    """The levels of one factor in the rows of a frame."""

    def __init__(self, factor: JoinedFactor, rows: pl.DataFrame) -> None:
        self.z: Mat = np.stack([rows[z_column(factor, j)].to_numpy() for j in range(len(factor.nodes))])
        self.members: Membership | None = None
        if factor.recipe.members is None:
            self.codes: IntVec = level_codes(rows.select(factor.level_names))
            self.n_levels = int(self.codes.max(initial=-1)) + 1
            self.known = rows[factor.code].fill_null(-1).to_numpy().astype(np.intp)
        else:  # of levels, of which rows have shares
            slots = slot_rows(factor, rows)
            self.members, self.n_levels, self.known = slots.members, slots.members.n_levels, slots.known
            self.codes = np.arange(self.n_levels)
        self.prior = factor.recipe.prior
        self.on = {part: factor.on(part) for part in set(factor.part_of)}

    def effects(self, rng: np.random.Generator, root: Mat, known: Mat | None) -> dict[int, Vec]:
        """z'b (n,) by predictor, with the effects (r, G) of known levels, new ones elsewhere."""
        b = (root @ rng.standard_normal((len(root), self.n_levels)))[:, self.codes]
        if known is None and self.prior is not None:  # a level that it does not know is related to none
            known = coloured(self.prior, root @ rng.standard_normal((len(root), len(self.prior.low))))
        if known is not None:
            b = np.where(self.known >= 0, known[:, self.known], b)
        b = b if self.members is None else self.members.spread(b)
        return {part: np.einsum("rn,rn->n", self.z[own], b[own]) for part, own in self.on.items()}
