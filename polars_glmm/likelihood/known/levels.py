"""The levels of one grouping factor one by one, the parameters held: likelihoods, scores, integrals, posterior moments.

Every level is a model of its own to the kernel, which has a place where sums end for that (likelihood.rows.models).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from polars_glmm.covariance.structures import STRUCTURES, plain_name
from polars_glmm.design.records import Design
from polars_glmm.errors import ModelError
from polars_glmm.families.base import Family, only_phi
from polars_glmm.likelihood.known.joint import HeldParameters
from polars_glmm.likelihood.many.engine import BatchRowEngine, SearchLayout
from polars_glmm.likelihood.many.rows import BatchRows
from polars_glmm.likelihood.many.value import BatchMarginal, along, placed
from polars_glmm.likelihood.marginal.modes import RowDensity, UnitAt, Warm, added, curvature, find_modes
from polars_glmm.likelihood.rows.blocks import counted_order
from polars_glmm.linalg import cholesky
from polars_glmm.linalg.elimination import LevelByLevel
from polars_glmm.linalg.quadrature import gauss_hermite
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.typing import BoolVec, Cube, Mat, Vec

_BLOCK_ROWS = 1 << 14
_AT_ONCE = 2e6
"""Rows times nodes at a time."""
MOST_NODES = 1000
"""Nodes of a product rule; with more random effects each of them gets fewer."""

Nodes = Callable[[int, int], tuple[Cube, Vec]]
"""Nodes z (r, Q, 1) or (r, Q, G) of N(0, I) for r effects of G levels, with their log weights (Q,)."""


class LevelValues(NamedTuple):
    """Per level ℓ_g with its constants (G,), scores ∂ℓ_g/∂ψ (G, P), and X_g'V_g⁻¹X_g at the modes (p, p, G)."""

    value: Vec
    scores: Mat
    fixed_information: Cube


class LevelIntegrals(NamedTuple):
    """Per level (G,): ℓ_g by Laplace and by nodes, its Monte Carlo error, the effective number of nodes; E b and Var b.

    mean (r, G), covariance (r, r, G): of the posterior of b, in the columns the user named
    """

    laplace: Vec
    value: Vec
    mc_error: Vec
    effective: Vec
    mean: Mat
    covariance: Cube


@dataclass(frozen=True, slots=True, eq=False)
class LevelLikelihood:
    """The likelihoods of the levels of a design's only factor, in the order of their codes.

    Parameters are ψ = (beta, entries of the root of Σ by term, log phi); of every level its own where ψ is (G, P).
    n_obs (G,): observations, frequencies counted;  constant (G,): the parameter-free part of ℓ_g
    """

    family: Family
    rows: BatchRows
    layout: SearchLayout
    n_obs: Vec
    constant: Vec

    @classmethod
    def of(cls, design: Design, family: Family) -> LevelLikelihood:
        """Raises ModelError for a design that has not one factor, or a formula of phi."""
        if len(design.factors) != 1 or design.further or not only_phi(family):
            has = f"{len(design.factors)} grouping factors"
            if design.further or not only_phi(family):
                has = f"a formula of {design.further[0].parameter}" if design.further else "other parameters"
            msg = f"Level by level a model has one grouping factor and a constant dispersion; this one has {has}. "
            msg += "Ask for what is of all levels: method='exact', or per='factor'."
            raise ModelError(msg)
        factor = design.factors[0]
        bent = next((t.structure for t in factor.terms if STRUCTURES[t.structure].bends), None)
        if bent is not None:
            msg = f"Level by level a model has free variances and covariances, and {plain_name(bent)}() has none."
            raise ModelError(msg)
        order = counted_order(factor.codes.astype(np.intp), factor.n_levels)
        counts = np.bincount(factor.codes, minlength=factor.n_levels).astype(np.intp)
        data = design.rows.each(lambda v: v[order])
        frequency = None if design.frequency is None else design.frequency[order]
        offset = None if design.mu.offset is None else design.mu.offset[order]
        ones = np.ones(factor.n_levels, dtype=np.intp)
        x, z = design.mu.x[:, order], factor.z[:, order]
        rows = BatchRows(data, frequency, offset, x, z, counts, ones, counts, constant_phi=family.has_phi)
        layout = SearchLayout.of(len(x), factor.terms, has_gamma=family.has_phi)
        constant = rows.totals(family.constant(data))
        return cls(family, rows, layout, rows.observations().astype(np.float64), constant)

    def psi(self, held: HeldParameters) -> Vec:
        """ψ of held parameters."""
        root = held.roots[0][self.layout.rows, self.layout.columns]
        return np.concatenate([held.beta, root, np.empty(0) if held.gamma is None else held.gamma])

    def held(self, psi: Vec) -> HeldParameters:
        """The parameters behind ψ."""
        at = self.layout
        root = at.lam(psi[None, at.p : at.p + at.q])[..., 0]
        return HeldParameters(psi[: at.p], (root,), psi[at.p + at.q :] if at.s else None)

    def information(self, psi: Vec) -> Cube:
        """X_g'V_g⁻¹X_g at the modes, (p, p, G)."""
        return self.at(psi).fixed_information

    def densities(self, psi: Mat) -> Vec:
        """ℓ_g (G,) by quadrature, each level at parameters of its own (G, P)."""
        nodes = {1: 61, 2: 15}.get(self.layout.r, 5)
        return self.at(psi, 1 if self.family.linear else nodes).value

    def at(self, psi: Vec | Mat, nodes: int = 1) -> LevelValues:
        """Likelihoods and scores by Laplace, or by adaptive quadrature with that many nodes per effect."""
        engine = BatchRowEngine(self._marginal(nodes), self.layout, None)
        with one_blas_thread(), np.errstate(all="ignore"):
            found = engine.evaluate(self._each(psi), None, information=True)
        assert found.information is not None  # asked for
        p = self.layout.p
        return LevelValues(found.value + self.constant, self.layout.pull(found), found.information.beta[:p, :p])

    def integrals(self, psi: Vec, nodes: Nodes) -> LevelIntegrals:
        """Integrals over b with nodes around each mode, scaled by the curvature there (importance weights)."""
        marginal, x = self._marginal(1), self._each(psi)
        root = self.layout.lam(x[:1, self.layout.p : self.layout.p + self.layout.q])[..., 0]
        with one_blas_thread(), np.errstate(all="ignore"):
            at = self.layout.point(x)
            parts = [_integrate(placed(marginal.density, unit, at), nodes) for unit in marginal.units]
        laplace, value, error, effective, mean, covariance = (along([part[k] for part in parts]) for k in range(6))
        spread = np.tensordot(root, np.tensordot(root, covariance, (1, 1)), (1, 1))
        constant = self.constant
        return LevelIntegrals(laplace + constant, value + constant, error, effective, root @ mean, spread)

    def take(self, keep: BoolVec) -> LevelLikelihood:
        """Some of the levels."""
        return replace(self, rows=self.rows.take(keep), n_obs=self.n_obs[keep], constant=self.constant[keep])

    def _each(self, psi: Vec | Mat) -> Mat:
        return np.broadcast_to(psi, (self.rows.n_models, self.layout.size)) + 0.0

    def _marginal(self, nodes: int) -> BatchMarginal:
        return BatchMarginal.of(self.rows, RowDensity(self.family), nodes, None, _BLOCK_ROWS)


def quadrature(nodes: int) -> Nodes:
    """Gauss–Hermite nodes, `nodes` per effect or as many as make a product rule of MOST_NODES."""

    def make(r: int, n_levels: int) -> tuple[Cube, Vec]:  # noqa: ARG001  # the same for all
        rule = gauss_hermite(max(1, min(nodes, int(MOST_NODES ** (1.0 / r) + 1e-9))), r)
        return rule.nodes[:, :, None], rule.log_weights - 0.5 * np.square(rule.nodes).sum(0)

    return make


def importance(n: int, rng: np.random.Generator) -> Nodes:
    """n draws for every level."""

    def make(r: int, n_levels: int) -> tuple[Cube, Vec]:
        return rng.standard_normal((r, n, n_levels)), np.full(n, -np.log(n))

    return make


def _integrate(here: UnitAt, nodes: Nodes) -> tuple[Vec, Vec, Vec, Vec, Mat, Cube]:
    """As LevelIntegrals without constants, for the levels of a unit, in spherical u."""
    unit = here.unit
    r = here.at.factors[0].shape[1]
    n_levels = unit.n_cells
    found = find_modes(here, Warm([np.zeros((r, n_levels))]), 2)
    u, state = found.u[0], found.state
    h = unit.models.factorise(unit.eliminator, curvature(here, state.w))
    assert isinstance(h, LevelByLevel)  # levels are independent
    half_log_det = 0.5 * cholesky.log_determinant(h.low)
    laplace = state.f - 0.5 * np.einsum("rG,rG->G", u, u) - half_log_det
    z, log_weights = nodes(r, n_levels)
    z = np.broadcast_to(z, (r, z.shape[1], n_levels))
    v = u[:, None, :] + cholesky.backward(h.low, z)
    terms = _log_joint(here, v) + log_weights[:, None] + 0.5 * np.square(z).sum(0)
    terms = np.where(np.isnan(terms), -np.inf, terms)
    top = terms.max(0)
    weights = np.exp(terms - top)
    total = weights.sum(0)
    value = top + np.log(total) - half_log_det
    weights /= total
    effective = 1.0 / np.square(weights).sum(0)
    q = len(weights)
    error = np.sqrt(np.maximum(1.0 / effective - 1.0 / q, 0.0))
    mean = np.einsum("qG,rqG->rG", weights, v)
    away = v - mean[:, None, :]
    covariance = np.einsum("qG,rqG,sqG->rsG", weights, away, away)
    return laplace, value, error, effective, mean, covariance


def _log_joint(here: UnitAt, v: Cube) -> Mat:
    """J(v) = Σ log p(y | η) − ½v'v at v (r, Q, G): (Q, G)."""
    lam, models = here.at.factors[0], here.unit.models
    out = -0.5 * np.square(v).sum(0)
    n_rows = sum(block.rows.stop - block.rows.start for block in here.unit.blocks)
    step = max(1, int(_AT_ONCE / max(n_rows, 1)))
    for start in range(0, v.shape[1], step):
        some = slice(start, start + step)
        b = models.times(lam, v[:, some])
        for block, fixed in zip(here.unit.blocks, here.fixed, strict=True):
            density = here.density.rows(block, added(fixed, block.combine(b[..., block.cells])), 0).f
            out[some, block.cells] += block.sums(np.where(np.isnan(density), -np.inf, density))
    return np.asarray(out)
