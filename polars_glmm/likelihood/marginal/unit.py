"""The marginal likelihood of one unit by Laplace or adaptive Gauss–Hermite, with its exact gradient.

With J(u) = Σ log p(y | η) − ½u'u, û its mode, H = Λ'Z'WZΛ + I and LL' = H:

    Laplace   ℓ = J(û) − ½ log|H|
    AGQ       ℓ = log Σ_k w_k exp{J(û + L⁻ᵀz_k) + ½|z_k|²} − log|L|        (Pinheiro & Bates 1995), Laplace being k = 1

A row has K linear predictors η_k = o_k + x_k'β + z_k'Λu, some without random effects (z_k = 0: they stand still), and
W_i = −∂²log p/∂η∂η' is (K, K). The gradient accounts for the movement of û and L (Kristensen et al. 2016 for Laplace):
with Ĥ the derivative of ℓ in −½H (Ĥ = H⁻¹ for Laplace), F_û = Σ_q π_q ∂J/∂u(v_q) and

    C_i = z_i'ΛĤΛ'z_i  (K, K),  t_k = Σ_ab C_ab ∂w_ab/∂η_k,  a = H⁻¹(Λ'Z't − 2F_û),
    ∂ℓ/∂β = Σ_k X_k'r_k,  r_k = ḡ_k − ½ t_k + ½ Σ_l w_kl (ZΛa)_l
    ∂ℓ/∂Λ = Σ_q π_q Z'g(v_q) v_q' + Z'(r − ḡ) û' − (Z'WZ) Λ Ĥ − ½ Z'g(û) a'

where bars are averages over the nodes with their posterior weights π_q.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from polars_glmm.errors import ConvergenceError
from polars_glmm.families.base import Density, Expected
from polars_glmm.likelihood.marginal.information import Information, plain_information, tangent_information
from polars_glmm.likelihood.marginal.modes import (
    RowsAt,
    UnitAt,
    Warm,
    cell_effects,
    concatenate,
    curvature,
    decrements,
    find_modes,
    gather,
    joint_slope,
    rows_state,
    to_levels,
)
from polars_glmm.likelihood.marginal.quadrature import NodeValue, integrate_nodes, passes_of
from polars_glmm.likelihood.rows.blocks import Block, Unit
from polars_glmm.likelihood.rows.models import Models
from polars_glmm.linalg.coupled import level_by_level, prior_times
from polars_glmm.linalg.elimination import Factorised
from polars_glmm.typing import Cube, Mat, Vec

_NEARBY = 1e-6
"""What a step to the modes may gain for the first order to hold."""


class UnitValue(NamedTuple):
    """Value and gradient of one unit: of one model ℓ a number, of many (m,), and the gradient with them last."""

    value: Any
    beta: Mat
    factors: list[Cube]
    modes: list[Mat]
    row_passes: int
    information: Information | None
    factor: Factorised | None


class _Expectation(NamedTuple):
    """Expected curvature per row of each block, and its sums over cells (d, d, C)."""

    rows: list[Expected]
    w_cells: Cube


class _Bend(NamedTuple):
    """Curvature at the modes: H factorised as observed and as the determinant takes it; its w over cells (d, d, C)."""

    observed: Factorised
    h: Factorised
    w: Cube
    expectation: _Expectation | None


class _Slopes(NamedTuple):
    """∂ℓ/∂β, ∂ℓ/∂(T_fΛ_f) per factor."""

    beta: Mat
    factors: list[Cube]


class Effort(NamedTuple):
    """What is asked of a unit beside its value.

    expected      expected instead of observed curvature in the determinant
    gradient      with the value
    information   a curvature for a search
    rough         modes need not be exact: Laplace's ℓ is mended to first order, its gradient is off by their distance
    """

    expected: bool = False
    gradient: bool = True
    information: bool = False
    rough: bool = False


def evaluate_unit(here: UnitAt, start: Warm, nodes: int, effort: Effort) -> UnitValue:
    """ℓ of a unit by Laplace (one node) or so many nodes per random effect; −∞ where there is none, or no curvature."""
    gradient, information = effort.gradient, effort.information
    if not start.modes:
        return _without_effects(here, gradient=gradient, information=information)
    rough = effort.rough and gradient and nodes == 1
    u, state, passes, _ = find_modes(here, start, 3 if gradient else 2, rough=rough)
    models, n_rows = here.unit.models, _n_rows(here.unit)
    joint = _joint(here.unit, state, u)
    bad = UnitValue(-np.inf, np.empty(0), [], u, passes * n_rows, None, None)
    bend = None if models.alone and not np.isfinite(joint) else _bend(here, state, expected=effort.expected)
    if bend is None:
        return bad
    integral = None
    if nodes == 1:
        value = joint - 0.5 * bend.h.log_determinant
    else:
        integral = integrate_nodes(nodes, here, u, bend.observed)
        value = integral.value
        passes += passes_of(nodes, u)
    if models.alone and not np.isfinite(value):
        return bad
    if not gradient:
        return bad._replace(value=value, row_passes=passes * n_rows)
    slopes, a = _slopes(here, u, state, bend, integral)
    if rough:
        value = value + _nearer(here, u, state, bend.observed, a)
    info = tangent_information(here, state, bend.observed) if information else None
    kept = bend.observed if here.unit.eliminator.costly else None
    return UnitValue(value, *slopes, u, passes * n_rows, info, kept)


def _nearer(here: UnitAt, u: list[Mat], state: RowsAt, observed: Factorised, a: list[Mat]) -> Any:
    """What ℓ gains on the way from u to its modes: ½s'H⁻¹s of J, s = ∂J/∂u, and −½a's of −½log|H|.

    Nothing in levels, or models, that are far from theirs.
    """
    unit = here.unit
    slope = joint_slope(here, state, u)
    gain = decrements(unit, slope, observed.solve(slope)) - decrements(unit, a, slope)
    gain = 0.5 * np.where(np.abs(gain) < _NEARBY, gain, 0.0)
    each = unit.models.alone or level_by_level(unit.eliminator, len(u))
    return unit.models.level_totals(gain) if each else gain


def _joint(unit: Unit, state: RowsAt, u: list[Mat]) -> Any:
    """J of each model."""
    return unit.models.joint(state.f, u, prior_times(unit.eliminator, u))


def factorised(here: UnitAt, w: Cube) -> Factorised:
    """H at conditional modes, whose curvature over cells is w. Raises ConvergenceError where it is not definite."""
    h = here.unit.models.factorise(here.unit.eliminator, curvature(here, w))
    if h is None:
        msg = "the curvature at the conditional modes is not positive definite."
        raise ConvergenceError(msg)
    return h


def _bend(here: UnitAt, state: RowsAt, *, expected: bool) -> _Bend | None:
    """The curvature at the modes, or None where it is not positive definite."""
    models, solver = here.unit.models, here.unit.eliminator
    observed = models.factorise(solver, curvature(here, state.w))
    if observed is None or not expected:
        return None if observed is None else _Bend(observed, observed, state.w, None)
    expectation = _expectation(here, state)
    h = models.factorise(solver, curvature(here, expectation.w_cells))
    return None if h is None else _Bend(observed, h, expectation.w_cells, expectation)


def _slopes(
    here: UnitAt, u: list[Mat], state: RowsAt, bend: _Bend, nodes: NodeValue | None
) -> tuple[_Slopes, list[Mat]]:
    """The gradient at the modes, and a."""
    unit, models, at = here.unit, here.unit.models, here.at
    hat = bend.h.inverse() if nodes is None else nodes.hat
    k_cells = models.leverage(unit.pattern, at.factors, hat)
    curved: Sequence[Density | Expected] = state.densities if bend.expectation is None else bend.expectation.rows
    s_cells, bent = [], []
    for block, row in zip(unit.blocks, curved, strict=True):
        bent.append(_bending(row, block.quadratic(k_cells[..., block.cells]), len(block.parts)))
        s_cells.append(block.z_sums(bent[-1]))
    s = concatenate(s_cells)
    pull = [models.transposed_times(lam, sf) for lam, sf in zip(at.factors, to_levels(unit, s), strict=True)]
    if nodes is not None:
        pull = [own - 2.0 * slope for own, slope in zip(pull, nodes.slope, strict=True)]
    a = bend.observed.solve(pull)
    a_cells = cell_effects(unit, at.factors, a)
    assert a_cells is not None  # there are random effects here
    beta: Mat | float = 0.0
    for i, (block, density) in enumerate(zip(unit.blocks, state.densities, strict=True)):
        za = block.combine(a_cells[:, block.cells])
        slopes = density.g if nodes is None else nodes.g[i]
        residuals = [_residual(density, za, k, bent[i][k], slopes[k]) for k in range(len(block.parts))]
        beta = beta + _x_sums(models, block, residuals)
    shift = to_levels(unit, 0.5 * (np.einsum("jkC,kC->jC", state.w, a_cells) - s))
    g_levels = to_levels(unit, state.g)
    if nodes is None:
        direct = [models.products(g, v, f) for f, (g, v) in enumerate(zip(g_levels, u, strict=True))]
    else:
        direct = nodes.direct
    trace = models.trace(gather(unit, bend.w), at.factors, hat)
    factors = [
        direct[f] + models.products(shift[f], u[f], f) - trace[f] - 0.5 * models.products(g_levels[f], a[f], f)
        for f in range(len(u))
    ]
    return _Slopes(np.asarray(beta), factors), a


def _bending(row: Density | Expected, c: Mapping[tuple[int, int], Vec], n: int) -> list[Vec]:
    """t_k = Σ_ab C_ab ∂w_ab/∂η_k of a block's rows, for n predictors."""
    out = []
    for k in range(n):
        total: Vec | None = None
        for (a, b), cab in c.items():
            low, mid, high = sorted((a, b, k))
            term = cab * row.third[low, mid, high]
            if a != b:
                term *= 2.0
            total = term if total is None else total + term
        assert total is not None  # some predictor moves
        out.append(total)
    return out


def _residual(density: Density, za: list[Vec | None], k: int, bent: Vec, slope: Vec | None) -> Vec:
    """r_k = ḡ_k − ½ t_k + ½ Σ_l w_kl (ZΛa)_l of a block's rows."""
    total: Vec | None = None
    for other, moved in enumerate(za):
        if moved is not None:
            term = density.w[min(k, other), max(k, other)] * moved
            total = term if total is None else total + term
    assert total is not None  # some predictor moves
    assert slope is not None  # gradients have all of them
    total -= bent
    total *= 0.5
    total += slope
    return total


def _x_sums(models: Models, block: Block, by_predictor: Sequence[Vec | None]) -> Mat:
    """Σ_k X_k'v_k: the coefficients of all predictors one after the other."""
    sums = [models.x_sums(part.x, v) for part, v in zip(block.parts, by_predictor, strict=True) if v is not None]
    return sums[0] if len(sums) == 1 else np.concatenate(sums)


def _without_effects(here: UnitAt, *, gradient: bool, information: bool) -> UnitValue:
    """ℓ of rows that nothing couples."""
    models, canonical = here.unit.models, here.density.family.canonical
    order = 1 if not (information and canonical) else 2 if len(here.unit.blocks[0].parts) == 1 else 3
    state = rows_state(here, [], order)
    value = models.level_totals(state.f)
    bad = UnitValue(-np.inf, np.empty(0), [], [], _n_rows(here.unit), None, None)
    if models.alone and not np.isfinite(value):
        return bad
    if not gradient:
        return bad._replace(value=value)
    both = list(zip(here.unit.blocks, state.densities, strict=True))
    beta = sum(_x_sums(models, block, density.g) for block, density in both)
    info = None
    if information:
        curved: Sequence[Density | Expected] = state.densities if canonical else _expected_rows(here, state)
        info = plain_information(here, state, curved)
    return bad._replace(value=value, beta=np.asarray(beta), information=info)


def _expectation(here: UnitAt, state: RowsAt) -> _Expectation:
    rows = _expected_rows(here, state)
    return _Expectation(rows, concatenate([b.zz_sums(e.w) for b, e in zip(here.unit.blocks, rows, strict=True)]))


def _expected_rows(here: UnitAt, state: RowsAt) -> list[Expected]:
    return [here.density.expected(block, place) for block, place in zip(here.unit.blocks, state.at, strict=True)]


def _n_rows(unit: Unit) -> int:
    return sum(b.rows.stop - b.rows.start for b in unit.blocks)
