"""All random effects of a design together, the parameters held at an estimate: modes, what moves them, leverage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from polars_glmm.control import Control
from polars_glmm.covariance.correlations import root_slopes
from polars_glmm.covariance.structures import STRUCTURES, natural_slopes, units
from polars_glmm.design.records import Design
from polars_glmm.errors import ConvergenceError
from polars_glmm.families.base import Density, Family
from polars_glmm.likelihood.estimate import Estimate
from polars_glmm.likelihood.marginal.engine import RowEngine, row_engine
from polars_glmm.likelihood.marginal.modes import (
    Point,
    UnitAt,
    cell_effects,
    concatenate,
    rows_state,
    to_levels,
    unit_at,
)
from polars_glmm.likelihood.marginal.slopes import mode_slopes
from polars_glmm.likelihood.marginal.unit import factorised
from polars_glmm.likelihood.marginal.value import Conditional
from polars_glmm.likelihood.model import Model, prepare
from polars_glmm.likelihood.parameters.effects import TermMap
from polars_glmm.likelihood.parameters.parts import inward
from polars_glmm.likelihood.rows.blocks import Block, at_hand, cut_rows
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.spec.method import Laplace, Method
from polars_glmm.typing import Cube, Mat, Vec

_LARGEST_LOG = 28.0
"""log of a negative binomial's size at which it is Poisson's to rounding, standing for inf."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldParameters:
    """Parameters as they are held: beta (p,), one root (r, r) of Σ per factor of the design, gamma (P − p,).

    gamma holds the coefficients of all other predictors in the order of the family's parameters, a constant as its
    predictor: log phi.

    b = root · u with u spherical, or as its levels know each other; roots are lower triangular, block diagonal over the
    terms of a factor.
    """

    beta: Vec
    roots: tuple[Mat, ...]
    gamma: Vec | None

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
        return cls(estimate.beta, roots, np.concatenate(own) if own else None)


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


class WorkingRows(NamedTuple):
    """Per row at the modes, in the computing basis, with K predictors: x (p, K, n) and a = x + Σ s'z (p, K, n), where
    s = ∂b̂/∂β, so that w a is the row of V⁻¹X; the weight w (K, K, n), the spread z'Var(b | y)z (K, K, n) and the
    gradient ∂log p/∂eta (K, n).

    K is 1, the mean, but for categories without an order, whose predictors are all alike.
    """

    x: Mat
    a: Mat
    weight: Vec
    spread: Vec
    gradient: Vec


@dataclass(frozen=True, slots=True, eq=False)
class KnownModel:
    """The likelihood of a design at held parameters."""

    model: Model
    engine: RowEngine
    held: HeldParameters

    @property
    def looked_at(self) -> tuple[int, ...]:
        """The predictors whose coefficients count as fixed effects: the mean's, or all of unordered categories."""
        return tuple(range(len(self.model.parts))) if self.model.family.unordered else (0,)

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
            return float(value.value + self.model.constant())

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
        """∂b̂/∂ψ (r, P, G) per factor in the order of the design, ψ = (beta, entries of the roots by term, gamma)."""
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
            total = self.model.constant()
            rows = at_hand(marginal.rows)
            for unit, levels in zip(rows.units, rows.levels, strict=True):
                u = [m[:, s] for m, s in zip(modes, levels, strict=True)]
                total += float(rows_state(unit_at(marginal.density, unit, self.point), u, order=2).f.sum())
        return float(total)

    def leverage(self) -> Leverage:
        """The leverage of every row, in the order of the design; its sum is the effective number of parameters.

        h = w (z'Var(b | y)z + a'S⁻¹a), a = x + Σ s'z with s = ∂b̂/∂β and S = Σ w x a' (Henderson's equations at the
        modes; for one gaussian model the hat matrix of Hodges & Sargent 2001).
        """
        with one_blas_thread(), np.errstate(all="ignore"):
            at = self.working_rows()
            weighted = np.einsum("pkn,kln->pln", at.x, at.weight)
            information = np.tensordot(weighted, at.a, ((1, 2), (1, 2)))
            inverse = np.linalg.pinv(information, hermitian=False)
            spread = np.einsum("pkn,pln->nkl", at.a, np.tensordot(inverse, at.a, 1))  # a'S⁻¹a
            weight = at.weight.transpose(2, 0, 1)
            fixed = np.einsum("nkl,nlk->n", weight, spread)
            hat = (at.spread.transpose(2, 0, 1) + spread) @ weight
            rest = np.eye(hat.shape[1]) - hat.swapaxes(1, 2)
            pull = np.einsum("nkl,ln->nk", _inverses(rest), at.gradient)  # (I − WM)⁻¹g
            distance = np.einsum("nk,nkl,nl->n", pull, spread, pull)
            return Leverage(np.einsum("nkk->n", hat), fixed, distance)

    def working_rows(self) -> WorkingRows:
        """What Henderson's equations at the modes say of every row, in the order of the design."""
        at, marginal = self.point, self.engine.marginal
        modes = self._conditional().modes if self.model.effects.factors else []
        rows = at_hand(marginal.rows)
        parts = []
        for unit, levels in zip(rows.units, rows.levels, strict=True):
            u = [m[:, s] for m, s in zip(modes, levels, strict=True)]
            parts.append(_unit_rows(unit_at(marginal.density, unit, at), u, self.looked_at))
        found = WorkingRows(*(np.concatenate([part[k] for part in parts], axis=-1) for k in range(5)))
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
        fine = np.isfinite(slopes).all() and bool(np.diag(low).all())
        blocks = root_slopes(low, slopes) if fine else np.zeros_like(slopes)
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
    with one_blas_thread():
        model = prepare(design, family, method or Laplace(), control, by_rows=True)
        engine = row_engine(model)
        if design.frequency is not None:  # equal rows are not merged: each of them is answered for
            rows = cut_rows(design, model.parts, model.effects, control.rows.block)
            engine = replace(engine, marginal=replace(engine.marginal, rows=rows))
        return KnownModel(model, engine, held)


def _unit_rows(here: UnitAt, u: list[Mat], looked_at: Sequence[int]) -> WorkingRows:
    """Those of a unit, sorted."""
    unit, models, at = here.unit, here.unit.models, here.at
    state = rows_state(here, u, order=2)
    w, g, xs = [], [], []
    for block, density, place in zip(unit.blocks, state.densities, state.at, strict=True):
        bent = density
        if len(looked_at) > 1:  # those that stand still bend too
            bent = replace(here.density, moving=tuple(looked_at)).rows(block, place, 2)
        w.append(np.array([[bent.w[min(k, m), max(k, m)] for m in looked_at] for k in looked_at]))
        g.append(np.array([_slope(bent, k) for k in looked_at]))
        xs.append(_columns(block, looked_at))
    x, weight, gradient = (np.concatenate(parts, axis=-1) for parts in (xs, w, g))
    if not at.factors:
        return WorkingRows(x, x, weight, np.zeros_like(weight), gradient)
    h = factorised(here, state.w)
    cells = []
    for block, own_w, own_x in zip(unit.blocks, w, xs, strict=True):
        pulled = -np.einsum("kln,pkn->lpn", own_w, own_x)
        cells.append(block.z_sums({k: pulled[i] for i, k in enumerate(looked_at)}))
    sums = to_levels(unit, concatenate(cells))
    right = [models.transposed_times(lam, part) for lam, part in zip(at.factors, sums, strict=True)]
    slopes = h.solve(right)
    k_cells = models.leverage(unit.pattern, at.factors, h.inverse())
    a, c = [], []
    for block, own_x in zip(unit.blocks, xs, strict=True):
        own_a = own_x.copy()
        for j in range(len(own_x)):
            effects = cell_effects(unit, at.factors, [slope[:, j] for slope in slopes])
            assert effects is not None  # there are random effects here
            moved = block.combine(effects[:, block.cells])
            for i, k in enumerate(looked_at):
                own_a[j, i] += 0.0 if (by := moved[k]) is None else by
        a.append(own_a)
        found, still = block.quadratic(k_cells[..., block.cells]), np.zeros(own_x.shape[-1])
        c.append(np.array([[found.get((min(k, m), max(k, m)), still) for m in looked_at] for k in looked_at]))
    return WorkingRows(x, np.concatenate(a, axis=-1), weight, np.concatenate(c, axis=-1), gradient)


def _columns(block: Block, looked_at: Sequence[int]) -> Cube:
    """The columns of some predictors (p, K, m), each coefficient with those of its own predictor."""
    if len(looked_at) == 1:
        return block.x[:, None]
    parts = [block.parts[k] for k in looked_at]
    sizes = [part.own.stop - part.own.start for part in parts]
    out = np.zeros((sum(sizes), len(parts), block.rows.stop - block.rows.start))
    start = 0
    for i, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        out[start : start + size, i] = part.columns
        start += size
    return out


def _slope(density: Density, k: int) -> Vec:
    """∂log p/∂eta of a predictor in a block's rows."""
    slope = density.g[k]
    assert slope is not None  # asked for at an order that has it
    return slope
