"""What prediction reads of one fit, or of many fits of one formula side by side, each for its own rows of a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from polars_glmm.prediction.columns import INTERNAL
from polars_glmm.prediction.effects import MODEL, JoinedFactor, balanced_sum

if TYPE_CHECKING:
    from polars_glmm.design.nodes import Node
    from polars_glmm.design.recipe import PredictorRecipe, Recipe
    from polars_glmm.result import Fit
    from polars_glmm.result.outcomes import Batch
    from polars_glmm.typing import Cube, IntVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class FixedPart:
    """Σ β_j column_j + offset of one family parameter: kept columns only.

    coefficients (p,) and vcov (M, p, p) belong to `nodes`.
    """

    nodes: tuple[Node, ...]
    coefficients: tuple[pl.Expr, ...]
    vcov: Cube
    offset: Node | None

    @property
    def inputs(self) -> frozenset[str]:
        own = frozenset[str]().union(*(node.inputs() for node in self.nodes))
        return own if self.offset is None else own | self.offset.inputs()

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
    """

    recipe: Recipe
    beta: Mat
    gamma: Mat
    vcov: Cube
    phi: Vec | None
    phi_variance: Vec | None
    factors: tuple[JoinedFactor, ...]
    model: IntVec | None = None

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

    def fixed(self, parameter: Literal["mu", "phi"]) -> FixedPart:
        """The fixed part of a family parameter with its estimates and their covariance matrices."""
        recipe: PredictorRecipe = self.recipe.predictor(parameter)
        nodes = tuple(column.node for column, kept in zip(recipe.columns, recipe.kept, strict=True) if kept)
        p = self.beta.shape[1]
        own, name, values = slice(p), "beta", self.beta
        if parameter == "phi":
            own, name, values = slice(p, None), "gamma", self.gamma
        coefficients = tuple(self._value(_name(name, j), values[:, j]) for j in range(values.shape[1]))
        return FixedPart(nodes, coefficients, self.vcov[:, own, own], recipe.offset)

    @property
    def models_phi(self) -> bool:
        """Whether phi has a formula."""
        return bool(self.gamma.shape[1])

    def constant_phi(self) -> pl.Expr:
        """The constant dispersion; null for a family without one."""
        return pl.lit(None, dtype=pl.Float64) if self.phi is None else self._value(_name("phi", 0), self.phi)

    def constant_phi_error(self) -> pl.Expr:
        """The standard error of the constant dispersion on its natural scale."""
        assert self.phi_variance is not None  # asked for only where there is one
        errors = np.sqrt(self.phi_variance)
        return pl.lit(float(errors[0])) if self.model is None else pl.lit(pl.Series(errors[self.model]))

    def _value(self, name: str, values: Vec) -> pl.Expr:
        return pl.lit(float(values[0])) if self.model is None else pl.col(name)


def of_fit(fit: Fit, keys: tuple[str, ...] = ()) -> Parameters:
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
        )
        for i, recipe in enumerate(fit.recipe.factors)
    )
    phi = None if e.phi is None else np.array([e.phi])
    # a constant dispersion is the last of the report, on the natural scale
    variance = None if e.phi is None else e.report_vcov[-1:, -1]
    return Parameters(fit.recipe, e.beta[None], e.gamma[None], e.vcov_fixed[None], phi, variance, factors)


def of_batch(batch: Batch, model: IntVec, keys: tuple[str, ...]) -> Parameters:
    """Fits that were made together; model (n,) is the place in the batch of each row's fit, `keys` tell them apart."""
    e = batch.estimate
    factors = tuple(
        JoinedFactor(
            recipe, _tag(i), e.term_names, e.modes, e.mode_covariance, e.mode_slope, e.covariances, e.of_level, keys
        )
        for i, recipe in enumerate(batch.recipe.factors)
    )
    variance = None if e.phi is None else e.report_vcov[:, -1, -1]
    none = np.empty((len(batch), 0))
    return Parameters(batch.recipe, e.beta, none, e.vcov_fixed, e.phi, variance, factors, model)


def _tag(i: int) -> str:
    return f"{INTERNAL}{i}_"


def _name(kind: str, j: int) -> str:
    return f"{INTERNAL}{kind}_{j}"
