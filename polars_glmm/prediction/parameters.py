"""What prediction reads of one fit, or of many fits of one formula side by side, each for its own rows of a frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.design.recipe import cuts_of
from polars_glmm.errors import ModelError
from polars_glmm.families.base import beyond_parameters, only_phi
from polars_glmm.fitting.held import with_held_known
from polars_glmm.likelihood.estimate import exact_freedom
from polars_glmm.prediction.columns import INTERNAL
from polars_glmm.prediction.effects import MODEL, JoinedFactor, balanced_sum
from polars_glmm.prediction.estimable import undetermined

if TYPE_CHECKING:
    from polars_glmm.answer.many import Batch
    from polars_glmm.answer.record import Answer
    from polars_glmm.columns.nodes import Node
    from polars_glmm.design.recipe import PredictorRecipe, Recipe
    from polars_glmm.families.base import Family
    from polars_glmm.likelihood.estimate import AtInfinity, Estimate
    from polars_glmm.typing import Cube, IntVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class Freedom:
    """Degrees of freedom of the fixed effects of mu, by which a variance v of x'β̂ has 2v²/(g'Ag), or always `known`.

    derivative (M, K, p, p)   ∂vcov(β)/∂(covariance parameters), which gives g;  parameters (M, K, K): their vcov A
    known                     degrees of freedom that are exact: n − p without random effects
    """

    derivative: Mat
    parameters: Cube
    known: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class FixedPart:
    """Σ β_j column_j + offset of one family parameter: kept columns only.

    coefficients (p,) belong to `nodes`
    vcov (M, P, P)      of these coefficients, or of those of all predictors where modes move with all of them
    place               where those of `nodes` begin among them
    undetermined        Boolean: rows whose value is not estimable; None where there are none
    directions (p, k)   along which β runs off to infinity: vcov is of what is orthogonal to them
    freedom             reference distribution of the estimates, where it is t
    outward (P, P)      vcov and freedom are of w with β = outward · w, so x'β has outward'x; None: of β itself
    inputs              columns of the frame that decide on the value
    """

    nodes: tuple[Node, ...]
    coefficients: tuple[pl.Expr, ...]
    vcov: Cube
    offset: Node | None
    inputs: frozenset[str]
    undetermined: pl.Expr | None = None
    directions: Mat | None = None
    freedom: Freedom | None = None
    outward: Mat | None = None
    place: int = 0

    def value(self) -> pl.Expr:
        terms = [node.to_expr() * b for node, b in zip(self.nodes, self.coefficients, strict=True)]
        if self.offset is not None:
            terms.append(self.offset.to_expr())
        return balanced_sum(terms)


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """M fits of one recipe.

    recipe                  its factors hold the levels of all fits, one fit after the other
    beta (M, p), gamma (M, s), vcov (M, p + s, p + s)
    phi, phi_variance (M,)  a constant dispersion and the variance of its estimate, or None
    factors                 grouping factors with their estimates
    model (n,)              the fit of every row of the frame; None: one fit answers for all
    outward (p + s, p + s)  of one fit: vcov and freedom are of w, with (beta, gamma) = outward · w; None: the identity
    at_infinity             fixed effects of mu without a finite estimate (of one fit);  further_at_infinity: of gamma
    freedom                 of the fixed effects of mu, where tests and intervals use t
    report_vcov (M, R, R)   of all estimates in the order of Estimate.report
    others                  further constants by name, with their standard errors (of one fit)
    joint (P, P)            of all parameters that modes move against, beta first (of one fit); None: of beta alone
    spots                   where the coefficients of each formula stand among those
    correlations (k,)       of the residuals, natural (of one fit), or None
    """

    recipe: Recipe
    beta: Mat
    gamma: Mat
    vcov: Cube
    phi: Vec | None
    phi_variance: Vec | None
    factors: tuple[JoinedFactor, ...]
    model: IntVec | None = None
    at_infinity: AtInfinity | None = None
    freedom: Freedom | None = None
    outward: Mat | None = None
    report_vcov: Cube | None = None
    joint: Mat | None = None
    spots: Mapping[str, slice] = field(default_factory=dict)
    further_at_infinity: AtInfinity | None = None
    others: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    correlations: Vec | None = None

    def attach(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """The frame with each row's fit and its coefficients beside it, where there are many fits."""
        if self.model is None:
            return frame
        values = {_name("beta", j): b[self.model] for j, b in enumerate(self.beta.T)}
        values |= {_name("gamma", j): g[self.model] for j, g in enumerate(self.gamma.T)}
        if self.phi is not None:
            values[_name("phi", 0)] = self.phi[self.model]
        own = pl.Series(MODEL, self.model.astype(np.int32))
        return frame.with_columns(own, *(pl.Series(name, value) for name, value in values.items()))

    def fixed(self, parameter: str) -> FixedPart:
        """The fixed part of a family parameter with its estimates and their covariance matrices."""
        recipe: PredictorRecipe = self.recipe.predictor(parameter)
        nodes = tuple(column.node for column, kept in zip(recipe.columns, recipe.kept, strict=True) if kept)
        p, mean = self.beta.shape[1], parameter in ("mu", self.recipe.predictors[0].parameter)
        own = slice(0, p) if mean else self._of_gamma(parameter)
        name, values, before = ("beta", self.beta, 0) if mean else ("gamma", self.gamma, p)
        places = range(own.start - before, own.stop - before)
        picked = len(places) > len(nodes)  # thresholds: read as they stand
        coefficients = () if picked else tuple(self._value(_name(name, j), values[:, j]) for j in places)
        infinite = self.further_at_infinity or self.at_infinity
        vcov = self.vcov if infinite is None else infinite.vcov[None]
        endless = self.endless()
        used = nodes if not recipe.lost else tuple(column.node for column in recipe.columns)
        inputs = frozenset[str]().union(*(node.inputs() for node in used))
        place = 0
        joint = self.joint if mean or self.all_move else None
        if self.all_move:
            own, place = slice(None), own.start or 0
        directions = None if endless is None or not endless[own].any() else endless[own]
        if joint is not None:
            place = self.spot(parameter).start
            if endless is not None and directions is not None:
                directions = np.zeros((len(joint), endless.shape[1]))
                for part in self.recipe.predictors:
                    directions[self.spot(part.parameter)] = endless[self.of_all(part.parameter)]
        return FixedPart(
            nodes,
            coefficients,
            vcov[:, own, own] if joint is None else joint[None],
            recipe.offset,
            inputs if recipe.offset is None else inputs | recipe.offset.inputs(),
            undetermined(recipe),
            directions,
            self.freedom if mean else None,
            None if self.outward is None else self.outward[own, own],
            place,
        )

    def endless(self) -> Mat | None:
        """Directions (p + s, k) of all coefficients along which some run off to infinity, or None."""
        p, s = self.beta.shape[1], self.gamma.shape[1]
        found = [] if self.at_infinity is None else [np.pad(self.at_infinity.directions, ((0, s), (0, 0)))]
        if self.further_at_infinity is not None:
            found.append(np.pad(self.further_at_infinity.directions, ((p, 0), (0, 0))))
        return np.hstack(found) if found else None

    def further_directions(self, parameter: str) -> Mat | None:
        """Directions (s, k) along which coefficients of a parameter beyond the mean's run off to infinity, or None."""
        if self.further_at_infinity is None or not self.models(parameter):
            return None
        own, p = self._of_gamma(parameter), self.beta.shape[1]
        found = self.further_at_infinity.directions[own.start - p : own.stop - p]
        return found[:, found.any(0)] if found.any() else None

    def of_all(self, parameter: str) -> slice:
        """Where the coefficients of a parameter stand among those of all formulas."""
        first = parameter in ("mu", self.recipe.predictors[0].parameter)
        return slice(0, self.beta.shape[1]) if first else self._of_gamma(parameter)

    def spot(self, parameter: str) -> slice:
        """Where they stand among those that the variance of a fixed part is of."""
        own = self.of_all(parameter)
        return own if self.joint is None else self.spots.get(parameter, own)

    def _of_gamma(self, parameter: str) -> slice:
        """Where the coefficients of a predictor beyond the mean's stand among those of all formulas."""
        start = self.beta.shape[1]
        cuts = cuts_of(self.recipe.spec, self.recipe.response)
        for part in self.recipe.predictors[1:]:
            each = 1 if part.parameter not in cuts else len(cuts[part.parameter].names)
            stop = start + each * sum(part.kept)
            if part.parameter == parameter:
                return slice(start, stop)
            start = stop
        raise KeyError(parameter)

    def models(self, parameter: str) -> bool:
        """Whether a parameter has a formula."""
        return any(part.parameter == parameter for part in self.recipe.predictors)

    @property
    def models_phi(self) -> bool:
        """Whether phi has a formula."""
        return self.models("phi")

    @property
    def all_move(self) -> bool:
        """The modes move with the coefficients of all predictors, and not with those of the mean alone."""
        several = not only_phi(self.recipe.spec.family)
        return several or any(set(factor.part_of) - {0} for factor in self.factors)

    def constant(self, parameter: str) -> pl.Expr:
        """A constant parameter on its natural scale; null for a family without it."""
        if parameter != "phi":
            return pl.lit(self.others[parameter][0])
        return pl.lit(None, dtype=pl.Float64) if self.phi is None else self._value(_name("phi", 0), self.phi)

    def constant_error(self, parameter: str) -> pl.Expr:
        """The standard error of a constant parameter on its natural scale."""
        if parameter != "phi":
            return pl.lit(self.others[parameter][1])
        assert self.phi_variance is not None  # asked for only where there is one
        errors = np.sqrt(self.phi_variance)
        return pl.lit(float(errors[0])) if self.model is None else pl.lit(pl.Series(errors[self.model]))

    def _value(self, name: str, values: Vec) -> pl.Expr:
        return pl.lit(float(values[0])) if self.model is None else pl.col(name)


def refuse_several(recipe: Recipe, what: str, instead: str) -> None:
    """Raise ModelError for what knows one linear predictor, of the mean, and a dispersion, where a model has others."""
    family = recipe.spec.family
    if not only_phi(family):
        this = "has more" if family.curve is None else "is nonlinear"
        raise ModelError(f"{what} is of one linear predictor and a dispersion, and this model {this}: {instead}.")


def refuse_random_phi(fitted: Parameters, what: str) -> None:
    """Raise ModelError for what integrates over random effects of a linear predictor of the mean alone."""
    if fitted.recipe.spec.family.curve is not None:
        msg = (
            f"{what} is of models whose random effects are added to one linear predictor, and this one is nonlinear in "
            "them. simulate() draws new responses."
        )
        raise ModelError(msg)
    for k, parameter in beyond_parameters(fitted.recipe.spec.family):
        if any(factor.on(k) for factor in fitted.factors):
            on = parameter.name
            msg = (
                f"{what} is of models whose random effects are on the mean alone, and this one has some on {on}. Draw "
                f"responses with simulate(random='new') and average those, or fit {on} without random effects."
            )
            raise ModelError(msg)


def of_fit(fit: Answer, keys: tuple[str, ...] = ()) -> Parameters:
    """One fit; of many keys, if `keys` names them."""
    e = fit.estimate
    estimates = {estimate.name: estimate for estimate in e.factors}
    factors = tuple(
        JoinedFactor(
            recipe,
            _tag(i),
            estimates[recipe.name].term_names,
            estimates[recipe.name].modes,
            estimates[recipe.name].mode_covariance,
            estimates[recipe.name].mode_slope,
            tuple(covariance[None] for covariance in estimates[recipe.name].covariances),
            by=keys,
            level_covariance=estimates[recipe.name].level_covariance,
            between=estimates[recipe.name].between,
        )
        for i, recipe in enumerate(fit.recipe.factors)
    )
    phi = None if e.phi is None else np.array([e.phi])
    # constants end the report, on their natural scales
    variance = None if e.phi is None else e.report_vcov[e.phi_place, e.phi_place : e.phi_place + 1]
    known = with_held_known(fit, e.vcov_fixed)
    if known is not e.vcov_fixed:
        e = replace(e, working=None)
    vcov, outward = (known, None) if e.working is None else (e.working.vcov, e.working.outward)
    return Parameters(
        fit.recipe, e.beta[None], e.gamma[None], vcov[None], phi, variance, factors, at_infinity=e.at_infinity,
        further_at_infinity=e.further_at_infinity, freedom=_freedom(e, fit.recipe.spec.family),
        outward=outward, report_vcov=e.report_vcov[None],
        correlations=None if e.residual is None else e.residual.values,
        others={
            name: (value, float(np.sqrt(e.report_vcov[place, place])))
            for place, (name, value) in enumerate(e.others.items(), start=len(e.report) - len(e.others))
        },
    )  # fmt: skip


def _freedom(e: Estimate, family: Family) -> Freedom | None:
    """As inference.coefficients chooses: n − p for a linear model, Satterthwaite by REML, else normal."""
    if (exact := exact_freedom(e, family)) is not None:
        return Freedom(np.empty((1, 0, 0, 0)), np.empty((1, 0, 0)), exact)
    if e.df_satterthwaite is None or e.vcov_derivative is None or e.covariance_vcov is None:
        return None
    derivative = e.vcov_derivative if e.working is None else e.working.derivative
    return None if derivative is None else Freedom(derivative[None], e.covariance_vcov[None])


def of_batch(batch: Batch, model: IntVec, keys: tuple[str, ...]) -> Parameters:
    """Fits that were made together; model (n,) is the place in the batch of each row's fit, `keys` tell them apart."""
    e = batch.estimate
    factors = tuple(
        JoinedFactor(
            recipe, _tag(i), f.term_names, f.modes, f.mode_covariance, f.mode_slope, f.covariances, at.model, keys,
            between=f.between,
        )
        for i, (recipe, f, at) in enumerate(zip(batch.recipe.factors, e.factors, e.levels, strict=True))
    )
    variance = None if e.phi is None else e.report_vcov[:, -1, -1]
    none, freedom = np.empty((len(batch), 0)), None
    if e.df_satterthwaite is not None and e.vcov_derivative is not None and e.covariance_vcov is not None:
        freedom = Freedom(e.vcov_derivative, e.covariance_vcov)
    return Parameters(
        batch.recipe, e.beta, none, e.vcov_fixed, e.phi, variance, factors, model, freedom=freedom,
        report_vcov=e.report_vcov,
    )  # fmt: skip


def _tag(i: int) -> str:
    return f"{INTERNAL}{i}_"


def _name(kind: str, j: int) -> str:
    return f"{INTERNAL}{kind}_{j}"
