"""A design made ready for computing: bases, random effects, row blocks or cross-products."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from polars_glmm.control import Control
from polars_glmm.design.records import Design
from polars_glmm.families.base import Family, Rows
from polars_glmm.likelihood.basis import Basis, centred
from polars_glmm.likelihood.effects import Effects, map_effects
from polars_glmm.likelihood.engine import ProductEngine, RowEngine
from polars_glmm.likelihood.marginal import Marginal
from polars_glmm.likelihood.modes import RowDensity
from polars_glmm.likelihood.products import CrossProducts, cross_products
from polars_glmm.likelihood.rowblocks import cut_rows
from polars_glmm.linalg.quadrature import gauss_hermite
from polars_glmm.spec.method import AGQ, REML, Laplace, Method

_CONCAVE = frozenset({
    ("gaussian", "identity"), ("binomial", "logit"), ("binomial", "probit"), ("binomial", "cloglog"),
    ("binomial", "log"), ("binomial", "identity"), ("poisson", "log"), ("poisson", "identity"), ("poisson", "sqrt"), ("gamma", "log"),
    ("gamma", "inverse"), ("negative_binomial", "log"), ("inverse_gaussian", "inverse_squared"),
})  # fmt: skip
"""Pairs whose log density is concave in eta: one mode, wherever Newton starts."""

NO_EFFECTS = Effects((), None, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A design, its family and method, and the columns in the bases used for computing."""

    design: Design
    family: Family
    method: Method
    control: Control
    x: Basis
    x_phi: Basis | None
    effects: Effects
    by_rows: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Fixed effects of mu."""
        return self.design.mu.names

    @property
    def phi_names(self) -> tuple[str, ...] | None:
        """Fixed effects of log phi, where phi has a formula."""
        return None if self.design.phi is None else self.design.phi.names

    @property
    def n_obs(self) -> int:
        return self.design.n_obs

    @property
    def exact(self) -> bool:
        """A gaussian identity-link model with one residual variance: cross-products hold all there is to know."""
        return (
            not self.by_rows
            and self.family.name == "gaussian"
            and self.family.link.name == "identity"
            and self.design.phi is None
        )

    @property
    def n_gamma(self) -> int:
        """Parameters of log phi."""
        if not self.family.has_phi or self.exact:
            return 0
        return 1 if self.x_phi is None else len(self.x_phi.a)

    @property
    def data(self) -> Rows:
        return Rows(self.design.y, self.design.trials, self.design.precision)

    def constant(self) -> float:
        """The parameter-free part of the log-likelihood."""
        return self._total(self.family.constant(self.data))

    def saturated(self) -> float | None:
        """Log-likelihood of the saturated model, or None where there is none."""
        each = self.family.saturated(self.data)
        return None if each is None else self._total(each)

    def _total(self, each: np.ndarray) -> float:  # type: ignore[type-arg]  # (n,) float64
        frequency = self.design.frequency
        return float(each.sum() if frequency is None else (each * frequency).sum())

    def products(self) -> ProductEngine:
        stats = cross_products(self.design, self.x, self.effects, self.control.rows.block)
        return ProductEngine(self.effects, stats, isinstance(self.method, REML), len(self.x.a))

    def rows(self, effects: Effects) -> RowEngine:
        """The engine over rows, with the given effects (all of the model's, or none for the GLM it starts from)."""
        x_phi = None if self.x_phi is None else self.x_phi.columns
        blocks = cut_rows(self.design, self.x.columns, x_phi, effects, self.control.rows.block)
        rule = None
        if isinstance(self.method, AGQ) and effects.factors and self.method.nodes > 1:
            rule = gauss_hermite(self.method.nodes, effects.factors[0].r)
        expected = isinstance(self.method, Laplace) and self.method.curvature == "expected"
        threads = self.control.rows.threads or min(os.cpu_count() or 1, 8)
        concave = (self.family.name, self.family.link.name) in _CONCAVE
        if len(blocks.units) < 4:  # noqa: PLR2004  # a pool costs more than it saves on a few blocks
            threads = 1
        density = RowDensity(self.family, concave)
        marginal = Marginal(blocks, density, rule, expected and not self.family.canonical, threads)
        return RowEngine(effects, marginal)


@dataclass(frozen=True, slots=True, eq=False)
class ProductModel:
    """A gaussian identity-link model of which only cross-products are known: no rows behind it.

    x holds the maps of the fixed columns and no columns; effects know no codes
    """

    names: tuple[str, ...]
    family: Family
    method: Method
    control: Control
    x: Basis
    effects: Effects
    stats: CrossProducts

    phi_names: ClassVar[None] = None
    n_gamma: ClassVar[int] = 0
    exact: ClassVar[bool] = True

    @property
    def n_obs(self) -> int:
        return self.stats.n

    def products(self) -> ProductEngine:
        """The engine over the products."""
        return ProductEngine(self.effects, self.stats, isinstance(self.method, REML), len(self.x.a))


AnyModel: TypeAlias = Model | ProductModel


def prepare(design: Design, family: Family, method: Method, control: Control, *, by_rows: bool = False) -> Model:
    """The model of a design; `by_rows` keeps a gaussian one from its cross-products."""
    x_phi = None if design.phi is None else centred(design.phi.x)
    effects = map_effects(design.factors, design.n_rows)
    return Model(design, family, method, control, centred(design.mu.x), x_phi, effects, by_rows)
