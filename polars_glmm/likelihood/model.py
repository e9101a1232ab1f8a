"""A design made ready for computing: bases, random effects, row blocks or cross-products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

import numpy as np

from polars_glmm.control import Control
from polars_glmm.cores import workers
from polars_glmm.design.records import Design
from polars_glmm.design.stored import StoredDesign
from polars_glmm.families.base import Family
from polars_glmm.likelihood import rowsums
from polars_glmm.likelihood.basis import Basis, centred
from polars_glmm.likelihood.dense_limit import refuse_beyond_memory
from polars_glmm.likelihood.dispersion_limit import log_size_of_poisson
from polars_glmm.likelihood.effects import Effects, map_effects
from polars_glmm.likelihood.engine import ProductEngine, RowEngine
from polars_glmm.likelihood.marginal import Marginal
from polars_glmm.likelihood.merge import merge_rows
from polars_glmm.likelihood.modes import RowDensity
from polars_glmm.likelihood.products import CrossProducts, cross_products
from polars_glmm.likelihood.rowblocks import RowBlocks, cut_rows
from polars_glmm.likelihood.rowsums import Piece, Stretch
from polars_glmm.likelihood.store import Stored, store
from polars_glmm.linalg.columns import stretches
from polars_glmm.linalg.quadrature import gauss_hermite
from polars_glmm.spec.method import AGQ, REML, Laplace, Method

_FEWEST_UNITS = 8
"""Blocks from which a pool of threads saves more than it costs."""
NO_EFFECTS = Effects((), None, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A design, its family and method, and the columns in the bases used for computing.

    stored   the rows where they are on disk; x, x_phi and effects have no columns then
    """

    design: Design | StoredDesign
    family: Family
    method: Method
    control: Control
    x: Basis
    x_phi: Basis | None
    effects: Effects
    by_rows: bool = False
    stored: Stored | None = None

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

    def pieces(self) -> Iterator[Piece]:
        """The rows, a stretch at a time that fits in cache, or from disk."""
        if self.stored is not None:
            return self.stored.rows(effects=False).blocks()
        design = self.held_in_memory()
        stretch = stretches(design.n_rows, self.control.rows.block)
        return (Stretch(design, self.x, rows) for rows in stretch)

    def held_in_memory(self) -> Design:
        """The design, where its rows are not on disk."""
        assert isinstance(self.design, Design)  # what is stored has no need of it
        return self.design

    def constant(self) -> float:
        """The parameter-free part of the log-likelihood."""
        return rowsums.constant(self.pieces(), self.family)

    def saturated(self) -> float | None:
        """Log-likelihood of the saturated model, or None where there is none."""
        return rowsums.saturated(self.pieces(), self.family)

    def ceiling(self) -> float:
        """log phi beyond which a formula of it changes nothing: a negative binomial is a Poisson there."""
        return np.inf if self.x_phi is None else log_size_of_poisson(self.family, self.pieces())

    def products(self) -> ProductEngine:
        stats = cross_products(self.held_in_memory(), self.x, self.effects, self.control.rows.block)
        if stats.eliminator is not None:
            refuse_beyond_memory(stats.eliminator, self.effects, self.control)
        return ProductEngine(self.effects, stats, isinstance(self.method, REML), len(self.x.a))

    def rows(self) -> RowEngine:
        """The engine over rows."""
        effects, blocks = self.effects, self._blocks()
        rule = None
        if isinstance(self.method, AGQ) and effects.factors and self.method.nodes > 1:
            rule = gauss_hermite(self.method.nodes, effects.factors[0].r)
        expected = isinstance(self.method, Laplace) and self.method.curvature == "expected"
        threads = workers(self.control.rows.threads)
        if len(blocks.units) < _FEWEST_UNITS:  # a pool costs more than it saves on a few blocks
            threads = 1
        density = RowDensity(self.family, self.ceiling())
        marginal = Marginal(blocks, density, rule, expected and not self.family.canonical, threads)
        return RowEngine(effects, marginal)

    def bare(self, engine: RowEngine) -> RowEngine:
        """The engine without random effects, over the same rows: for the GLM that a search starts from."""
        whole = engine.marginal
        rows = whole.rows.uncoupled() if self.stored is None else self.stored.rows(effects=False)
        return RowEngine(NO_EFFECTS, replace(whole, rows=rows, rule=None))

    def _blocks(self) -> RowBlocks:
        effects = self.effects
        if self.stored is not None:
            return self.stored.rows(effects=bool(effects.factors))
        made = merge_rows(self.held_in_memory(), self.x, effects, self.family)
        blocks = cut_rows(made.design, made.x, self.x_phi, made.effects, self.control.rows.block)
        if len(effects.factors) > 1:
            refuse_beyond_memory(blocks.units[0].eliminator, effects, self.control)
        return blocks


@dataclass(frozen=True, slots=True, eq=False)
class ProductModel:
    """A gaussian identity-link model of which only cross-products are known: no rows behind it.

    x holds the basis of the fixed columns and no columns; effects know no codes
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
        if self.stats.eliminator is not None:
            refuse_beyond_memory(self.stats.eliminator, self.effects, self.control)
        return ProductEngine(self.effects, self.stats, isinstance(self.method, REML), len(self.x.a))


AnyModel: TypeAlias = Model | ProductModel


def prepare(
    design: Design | StoredDesign, family: Family, method: Method, control: Control, *, by_rows: bool = False
) -> Model:
    """The model of a design; `by_rows` keeps a gaussian one from its cross-products."""
    if isinstance(design, StoredDesign):
        on_disk = store(design, control.rows.block)
        x, x_phi, effects = on_disk.x, on_disk.x_phi, on_disk.effects
        return Model(design, family, method, control, x, x_phi, effects, by_rows=True, stored=on_disk)
    x_phi = None if design.phi is None else centred(design.phi.x)
    effects = map_effects(design.factors, design.n_rows)
    return Model(design, family, method, control, centred(design.mu.x), x_phi, effects, by_rows)
