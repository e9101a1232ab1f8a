"""All random effects of a design together, the parameters held at an estimate: modes, what moves them, leverage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from polars_glmm.control import Control
from polars_glmm.covariance.correlations import root_slopes
from polars_glmm.covariance.scaled import Scaled
from polars_glmm.covariance.structures import STRUCTURES, natural_slopes, units
from polars_glmm.design.records import Design
from polars_glmm.errors import ConvergenceError
from polars_glmm.families.base import Family, n_mean
from polars_glmm.likelihood.estimate import Estimate
from polars_glmm.likelihood.known.working_rows import WorkingRows, unit_rows
from polars_glmm.likelihood.marginal.engine import RowEngine, row_engine
from polars_glmm.likelihood.marginal.modes import (
    Point,
    rows_state,
    unit_at,
)
from polars_glmm.likelihood.marginal.slopes import mode_slopes
from polars_glmm.likelihood.marginal.value import Conditional
from polars_glmm.likelihood.model import Model, prepare
from polars_glmm.likelihood.parameters.effects import TermMap
from polars_glmm.likelihood.parameters.parts import inward
from polars_glmm.likelihood.residual.held import Series
from polars_glmm.likelihood.rows.blocks import at_hand, cut_rows
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.spec.method import Laplace, Method
from polars_glmm.typing import Cube, Mat, Vec

_STEP = 1e-4
"""Step of differences in the parameters of R."""


_LARGEST_LOG = 28.0
"""log of a negative binomial's size at which it is Poisson's to rounding, standing for inf."""
_SINGULAR = 1e-10
"""Share of a variance that other effects leave, up to which it is none: a root of a rounded matrix has 1e-16."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldParameters:
    """Parameters as they are held: beta (p,), one root (r, r) of Σ per factor of the design, gamma (P − p,).

    gamma holds the coefficients of all other predictors in the order of the family's parameters, a constant as its
    predictor: log phi. residual (k,) has the natural parameters of the correlation of residuals.

    b = root · u with u spherical, or as its levels know each other; roots are lower triangular, block diagonal over the
    terms of a factor.
    """

    beta: Vec
    roots: tuple[Mat, ...]
    gamma: Vec | None
    residual: Vec | None = None

    @classmethod
    def of(cls, estimate: Estimate, family: Family) -> HeldParameters:
        """The parameters of an estimate."""
        roots = tuple(block_root(factor.covariances) for factor in estimate.factors)
        own: list[Vec] = []
        for one in family.parameters[1:]:
            if one.name in estimate.constants:
                with np.errstate(divide="ignore"):
                    at = one.link.forward(np.array([estimate.constants[one.name]]))
                own.append(np.minimum(at, _LARGEST_LOG))
            elif not one.optional or one.name in estimate.coefficients:
                own.append(estimate.coefficients[one.name])
        residual = None if estimate.residual is None else estimate.residual.values
        return cls(estimate.beta, roots, np.concatenate(own) if own else None, residual)


def block_root(covariances: tuple[Mat, ...]) -> Mat:
    """The lower triangular root of covariance matrices that stand along a diagonal; any of them may be singular."""
    r = sum(len(covariance) for covariance in covariances)
    whole, start = np.zeros((r, r)), 0
    for covariance in covariances:
        values, vectors = np.linalg.eigh(covariance)
        half = vectors * np.sqrt(np.maximum(values, 0.0))
        lower = np.asarray(np.linalg.qr(half.T, mode="r")).T
        lower = lower * np.where(np.diag(lower) < 0.0, -1.0, 1.0)
        stop = start + len(covariance)
        whole[start:stop, start:stop] = lower
        start = stop
    return whole


class FactorModes(NamedTuple):
    """Of one factor: modes b̂ (r, G) and Var(b | y) (r, r, G), as in FactorEstimate."""

    modes: Mat
    covariance: Cube


class Leverage(NamedTuple):
    """Per row of a design (n,): ∂ŷ/∂y at the modes, and a'Var(β̂)a with a = x + Σ s'z, times the weight of the row.

    value      h: fixed and random part together, over all predictors of a row;  fixed: the share of the fixed effects
    distance   (β̂ − β̂₍i₎)'S(β̂ − β̂₍i₎) without the row, the variances held (Christensen, Pearson & Johnson 1992)
    """

    value: Vec
    fixed: Vec
    distance: Vec


@dataclass(frozen=True, slots=True, eq=False)
class KnownModel:
    """The likelihood of a design at held parameters.

    series   of correlated residuals: the rows as they were; those of the engine are whitened, φ held at 1
    log_r    log|R| of them
    """

    model: Model
    engine: RowEngine
    held: HeldParameters
    series: Series | None = None
    log_r: float = 0.0

    def at(self, held: HeldParameters) -> KnownModel:
        """The same design at other parameters."""
        if self.series is None:
            return replace(self, held=held)
        return known_model(self.series.design, self.model.family, self.model.control, held)

    @property
    def looked_at(self) -> tuple[int, ...]:
        """The predictors whose coefficients count as fixed effects: the mean's, a curve's, or all, of categories."""
        family = self.model.family
        if family.unordered:
            return tuple(range(len(self.model.parts)))
        return tuple(range(n_mean(family)))

    @property
    def point(self) -> Point:
        effects = self.model.effects
        factors = []
        for f in effects.factors:
            working = np.linalg.solve(f.outward, self.held.roots[f.place])
            factors.append(f.basis @ working)
        return Point(self._inward(self.held.beta, self.held.gamma), factors)

    def _inward(self, beta: Vec, gamma: Vec | None) -> Vec:
        """Coefficients of all predictors in the bases for computing."""
        if gamma is None:
            return self.model.x.inward(beta)
        return inward(self.model.parts, np.concatenate([beta, gamma]))

    def loglik(self) -> float:
        """ℓ with all constants, by the method of the model."""
        with one_blas_thread():
            value = self.engine.marginal.evaluate(self.point, None, gradient=False)
            return float(value.value + self.model.constant() - 0.5 * self.log_r)

    def modes(self) -> tuple[FactorModes, ...]:
        """Conditional modes and their covariances per factor, in the order of the design."""
        with one_blas_thread():
            found = self._conditional()
        out = {}
        for f, u, covariance in zip(self.model.effects.factors, found.modes, found.covariance, strict=True):
            root = f.size * self.held.roots[f.place]
            spread = np.tensordot(root, np.tensordot(root, covariance, (1, 1)), (1, 1))
            out[f.place] = FactorModes(root @ u, spread)
        return tuple(out[place] for place in sorted(out))

    def conditional_modes(self) -> list[Mat]:
        """û (r, G) per factor of the effects, spherical."""
        return self._conditional().modes

    def _conditional(self) -> Conditional:
        marginal = self.engine.marginal
        value = marginal.evaluate(self.point, None, gradient=False)
        if not np.isfinite(value.value):
            msg = "the likelihood of these rows is zero at the estimates: some response cannot be under the model."
            raise ConvergenceError(msg)
        return marginal.conditional(self.point, value.warm)

    def mode_slopes(self) -> tuple[Cube, ...]:
        """∂b̂/∂ψ (r, P, G) per factor in the order of the design, ψ = (beta, entries of the roots by term, gamma).

        Of correlated residuals the working parameters of their correlation stand behind gamma.
        """
        own = self._mode_slopes()
        if self.series is None:
            return own
        size = len(self.series.gamma) + len(self.series.values)
        ends = [(self._moved(step), self._moved(-step)) for step in _STEP * np.eye(size)]
        out = []
        for k, slope in enumerate(own):
            changes = [(up[k].modes - down[k].modes) / (2.0 * _STEP) for up, down in ends]
            out.append(np.concatenate([slope[:, :-1], np.stack(changes, axis=1)], axis=1))
        return tuple(out)

    def _moved(self, step: Vec) -> tuple[FactorModes, ...]:
        """The modes where R is that of another (γ, x)."""
        assert self.series is not None  # else R is φ²I
        to = self.series.moved(step)
        return self.at(replace(self.held, gamma=to.gamma, residual=to.values)).modes()

    def _mode_slopes(self) -> tuple[Cube, ...]:
        effects = self.model.effects
        at, p = self.point, len(self.held.beta)
        gamma = self.held.gamma
        still = Point(np.zeros(len(at.beta)), [np.zeros_like(f) for f in at.factors])
        none = None if gamma is None else np.zeros_like(gamma)
        directions: list[Point] = []
        moved: list[tuple[int, Mat] | None] = []
        for e in np.eye(p):
            directions.append(still._replace(beta=self._inward(e, none)))
            moved.append(None)
        for place in range(len(effects.factors)):
            number = next(k for k, f in enumerate(effects.factors) if f.place == place)
            f = effects.factors[number]
            for t in f.terms:
                for unit in _root_directions(t, self.held.roots[f.place]):
                    factors = list(still.factors)
                    factors[number] = f.basis @ np.linalg.solve(f.outward, unit)
                    directions.append(still._replace(factors=factors))
                    moved.append((place, unit))
        if gamma is not None:
            for e in np.eye(len(gamma)):
                directions.append(still._replace(beta=self._inward(np.zeros(p), e)))
                moved.append(None)
        with one_blas_thread():
            u = self._conditional().modes
            slopes = mode_slopes(self.engine.marginal, at, u, directions)
        out = {}
        for number, f in enumerate(effects.factors):
            root = self.held.roots[f.place]
            own = np.stack([root @ slope[number] for slope in slopes], axis=1)
            for k, change in enumerate(moved):
                if change is not None and change[0] == f.place:
                    own[:, k] += change[1] @ u[number]
            out[f.place] = f.size * own
        return tuple(out[place] for place in sorted(out))

    def conditional_loglik(self) -> float:
        """log p(y | b̂) with all constants: the likelihood of the rows at the modes."""
        with one_blas_thread(), np.errstate(all="ignore"):
            marginal = self.engine.marginal
            modes = self._conditional().modes if self.model.effects.factors else []
            total = self.model.constant() - 0.5 * self.log_r
            rows = at_hand(marginal.rows)
            for unit, levels in zip(rows.units, rows.levels, strict=True):
                u = [m[:, s] for m, s in zip(modes, levels, strict=True)]
                total += float(rows_state(unit_at(marginal.density, unit, self.point), u, order=2).f.sum())
        return float(total)

    def leverage(self) -> Leverage:
        """The leverage of every row, in the order of the design; its sum is the effective number of parameters.

        h = tr w (z'Var(b | y)z + a'S⁻¹a), a = x + Σ s'z with s = ∂b̂/∂β and S = Σ w x a' (Henderson's equations at the
        modes; for one gaussian model the hat matrix of Hodges & Sargent 2001). Of correlated residuals R⁻¹ is for w;
        before the bracket a curve has what responses pull by: the generalised leverage (Wei, Hu & Fung 1998).
        """
        if self.series is not None:
            held, model = self.held, self.model
            return Leverage(*self.series.leverage(model.family, model.control, held.beta, held.roots))
        with one_blas_thread(), np.errstate(all="ignore"):
            at = self.working_rows()
            weighted = np.einsum("pkn,kln->pln", at.x, at.weight)
            information = np.tensordot(weighted, at.a, ((1, 2), (1, 2)))
            inverse = np.linalg.pinv(information, hermitian=False)
            spread = np.einsum("pkn,pln->nkl", at.a, np.tensordot(inverse, at.a, 1))  # a'S⁻¹a
            weight = at.weight.transpose(2, 0, 1)
            moved, response = at.spread.transpose(2, 0, 1) + spread, at.pull.transpose(2, 0, 1)
            fixed, value = (np.einsum("nkl,nlk->n", response, one) for one in (spread, moved))
            hat = moved @ weight
            rest = np.eye(hat.shape[1]) - hat.swapaxes(1, 2)
            pull = np.einsum("nkl,ln->nk", _inverses(rest), at.gradient)  # (I − WM)⁻¹g
            distance = np.einsum("nk,nkl,nl->n", pull, spread, pull)
            return Leverage(value, fixed, distance)

    def working_rows(self) -> WorkingRows:
        """What Henderson's equations at the modes say of every row, in the order of the design."""
        at, marginal = self.point, self.engine.marginal
        modes = self._conditional().modes if self.model.effects.factors else []
        rows = at_hand(marginal.rows)
        parts = []
        for unit, levels in zip(rows.units, rows.levels, strict=True):
            u = [m[:, s] for m, s in zip(modes, levels, strict=True)]
            parts.append(unit_rows(unit_at(marginal.density, unit, at), u, self.looked_at))
        found = WorkingRows(*(np.concatenate([part[k] for part in parts], axis=-1) for k in range(6)))
        if rows.order is None:
            return found
        back = np.empty_like(rows.order)
        back[rows.order] = np.arange(len(back))
        return WorkingRows(*(v[..., back] for v in found))


def _inverses(matrices: Cube) -> Cube:
    """Inverses (n, K, K); infinite where a row determines its own prediction."""
    return np.asarray(1.0 / matrices if matrices.shape[1] == 1 else np.linalg.pinv(matrices))


def _root_directions(t: TermMap, root: Mat) -> Iterator[Mat]:
    """How a factor's root (r_f, r_f) moves with the parameters of one of its terms: entries of the root, or, where the
    structure bends, the entries of Σ that determine it.
    """
    structure, own = STRUCTURES[t.structure], slice(t.start, t.stop)
    if structure.bends:
        low = root[own, own]
        slopes = natural_slopes(structure, low @ low.T)
        apart = np.square(np.diag(low)) > _SINGULAR * np.einsum("ij,ij->i", low, low)
        fine = np.isfinite(slopes).all() and bool(apart.all())
        assert isinstance(structure, Scaled)  # it bends
        blocks = root_slopes(low, slopes) if fine else structure.scale_slopes(low)
    else:
        blocks = units(*structure.entries(t.r), t.r)
    for block in blocks:
        unit = np.zeros_like(root)
        unit[own, own] = block
        yield unit


def known_model(
    design: Design, family: Family, control: Control, held: HeldParameters, method: Method | None = None
) -> KnownModel:
    """The likelihood of a design at held parameters, by Laplace (exact for gaussian) or another method."""
    series, log_r = None, 0.0
    if design.residual is not None:
        assert held.gamma is not None  # gaussian models have φ
        assert held.residual is not None
        series = Series(design, held.gamma, held.residual)
        design, by_row = series.whitened()
        log_r = float(by_row.sum())
        held = replace(held, gamma=np.zeros(1), residual=None)
    with one_blas_thread():
        model = prepare(design, family, method or Laplace(), control, by_rows=True)
        engine = row_engine(model)
        if design.frequency is not None:  # equal rows are not merged: each of them is answered for
            rows = cut_rows(design, model.parts, model.effects, control.rows.block)
            engine = replace(engine, marginal=replace(engine.marginal, rows=rows))
        return KnownModel(model, engine, held, series, log_r)
