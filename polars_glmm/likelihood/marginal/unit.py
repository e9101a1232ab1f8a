"""The marginal likelihood of one unit by Laplace or adaptive Gauss–Hermite, with its exact gradient.

With J(u) = Σ log p(y | η) − ½u'u, û its mode, H = Λ'Z'WZΛ + I and LL' = H:

    Laplace   ℓ = J(û) − ½ log|H|
    AGQ       ℓ = log Σ_k w_k exp{J(û + L⁻ᵀz_k) + ½|z_k|²} − log|L|        (Pinheiro & Bates 1995), Laplace being k = 1

The gradient accounts for the movement of û and L (Kristensen et al. 2016 for Laplace): with Ĥ the derivative of ℓ in
−½H (Ĥ = H⁻¹ for Laplace), c_i = z_i'ΛĤΛ'z_i, F_û = Σ_k π_k ∂J/∂u(v_k) and a = H⁻¹(Λ'Z'(c∘w') − 2F_û),

    ∂ℓ/∂β = X'r,  r = ḡ − ½ c∘w' + ½ w∘(ZΛa)
    ∂ℓ/∂Λ = Σ_k π_k Z'g(v_k) v_k' + Z'(r − ḡ) û' − (Z'WZ) Λ Ĥ − ½ Z'g(û) a'
    ∂ℓ/∂ζ = f̄_ζ − ½ c∘w_ζ − ½ (ZΛa)∘g_ζ

where bars are averages over the nodes with their posterior weights π_k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from polars_glmm.families.base import Density, Expected
from polars_glmm.likelihood.marginal.information import Information, plain_information, tangent_information
from polars_glmm.likelihood.marginal.modes import (
    State,
    UnitAt,
    Warm,
    cell_effects,
    concatenate,
    curvature,
    find_modes,
    gather,
    rows_state,
    to_levels,
)
from polars_glmm.likelihood.marginal.quadrature import NodeValue, integrate_nodes
from polars_glmm.likelihood.rows.blocks import Block, Unit
from polars_glmm.linalg import cholesky
from polars_glmm.linalg.elimination import Factorised, OneFactorised
from polars_glmm.linalg.pattern import Blocks
from polars_glmm.linalg.quadrature import Rule
from polars_glmm.linalg.scaling import trace_blocks
from polars_glmm.typing import Cube, Mat, Vec


class UnitValue(NamedTuple):
    """Value and gradient of one unit."""

    value: float
    beta: Vec
    factors: list[Mat]
    gamma: Vec | None
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
    """∂ℓ/∂β, ∂ℓ/∂(T_fΛ_f) per factor, ∂ℓ/∂γ."""

    beta: Vec
    factors: list[Mat]
    gamma: Vec | None


def evaluate_unit(
    here: UnitAt, start: Warm, rule: Rule | None, *, expected: bool, gradient: bool, information: bool
) -> UnitValue:
    """ℓ of a unit; −∞ where it is not finite or a curvature is not positive definite."""
    if not start.modes:
        return _without_effects(here, gradient=gradient, information=information)
    u, state, passes, _ = find_modes(here, start, 3 if gradient else 2)
    joint = float(state.f.sum()) - 0.5 * sum(float(np.vdot(v, v)) for v in u)
    n_rows = _n_rows(here.unit)
    bad = UnitValue(-np.inf, np.empty(0), [], None, u, passes * n_rows, None, None)
    bend = _bend(here, state, expected=expected) if np.isfinite(joint) else None
    if bend is None:
        return bad
    nodes = None
    if rule is None:
        value = joint - 0.5 * bend.h.log_determinant
    else:
        assert isinstance(bend.observed, OneFactorised)  # nodes are for one factor
        nodes = integrate_nodes(rule, here, u, bend.observed)
        value = nodes.value
        passes += rule.nodes.shape[1]
    if not np.isfinite(value):
        return bad
    if not gradient:
        return bad._replace(value=value, row_passes=passes * n_rows)
    slopes = _slopes(here, u, state, bend, nodes)
    info = tangent_information(here, state, bend.observed) if information else None
    kept = bend.observed if here.unit.eliminator.costly else None
    return UnitValue(value, *slopes, u, passes * n_rows, info, kept)


def _bend(here: UnitAt, state: State, *, expected: bool) -> _Bend | None:
    """The curvature at the modes, or None where it is not positive definite."""
    factorise = here.unit.eliminator.factorise
    observed = factorise(curvature(here.unit, state.w, here.at.factors))
    if observed is None or not expected:
        return None if observed is None else _Bend(observed, observed, state.w, None)
    expectation = _expectation(here, state)
    h = factorise(curvature(here.unit, expectation.w_cells, here.at.factors))
    return None if h is None else _Bend(observed, h, expectation.w_cells, expectation)


def _slopes(here: UnitAt, u: list[Mat], state: State, bend: _Bend, nodes: NodeValue | None) -> _Slopes:
    """The gradient at the modes."""
    unit, at = here.unit, here.at
    hat = bend.h.inverse() if nodes is None else Blocks([nodes.hat], {})
    levels = gather(unit, bend.w)
    k_cells = _leverage(unit, at.factors, hat)
    curved: Sequence[Density | Expected] = state.densities if bend.expectation is None else bend.expectation.rows
    s_cells, c_rows = [], []
    for block, row in zip(unit.blocks, curved, strict=True):
        c = block.quadratic(k_cells[..., block.cells])
        c_rows.append(c)
        s_cells.append(block.z_sums(c * row.dw))
    s = concatenate(s_cells)
    pull = [lam.T @ sf for lam, sf in zip(at.factors, to_levels(unit, s), strict=True)]
    if nodes is not None:
        pull = [pull[0] - 2.0 * nodes.slope]
    a = bend.observed.solve(pull)
    a_cells = cell_effects(unit, at.factors, a)
    assert a_cells is not None  # there are random effects here
    beta = np.zeros(len(at.beta))
    gamma = None if at.gamma is None else np.zeros(len(at.gamma))
    for i, (block, density, row) in enumerate(zip(unit.blocks, state.densities, curved, strict=True)):
        za = block.combine(a_cells[:, block.cells])
        direct = density.g if nodes is None else nodes.g[i]
        beta += block.x @ (direct + 0.5 * (density.w * za - c_rows[i] * row.dw))
        if gamma is not None:
            f_zeta = density.f_zeta if nodes is None else nodes.f_zeta[i]
            gamma += _zeta_sums(block, f_zeta - 0.5 * (c_rows[i] * row.w_zeta + za * density.g_zeta))
    shift = to_levels(unit, 0.5 * (np.einsum("jkC,kC->jC", state.w, a_cells) - s))
    g_levels = to_levels(unit, state.g)
    direct_factors = [g @ v.T for g, v in zip(g_levels, u, strict=True)] if nodes is None else [nodes.direct]
    trace = trace_blocks(levels, at.factors, hat)
    factors = [direct_factors[f] + shift[f] @ u[f].T - trace[f] - 0.5 * (g_levels[f] @ a[f].T) for f in range(len(u))]
    return _Slopes(beta, factors, gamma)


def _without_effects(here: UnitAt, *, gradient: bool, information: bool) -> UnitValue:
    """ℓ of rows that nothing couples."""
    state = rows_state(here, [], 3 if gradient else 2)
    value = float(state.f.sum())
    bad = UnitValue(-np.inf, np.empty(0), [], None, [], _n_rows(here.unit), None, None)
    if not np.isfinite(value):
        return bad
    if not gradient:
        return bad._replace(value=value)
    beta = np.zeros(len(here.at.beta))
    gamma = None if here.at.gamma is None else np.zeros(len(here.at.gamma))
    for block, density in zip(here.unit.blocks, state.densities, strict=True):
        beta += block.x @ density.g
        if gamma is not None:
            gamma += _zeta_sums(block, density.f_zeta)
    info = None
    if information:
        curved: Sequence[Density | Expected] = (
            state.densities if here.density.family.canonical else _expectation(here, state).rows
        )
        info = plain_information(here, state, curved)
    return bad._replace(value=value, beta=beta, gamma=gamma, information=info)


def _expectation(here: UnitAt, state: State) -> _Expectation:
    rows, cells = [], []
    for block, (_, zeta), eta in zip(here.unit.blocks, here.fixed, state.eta, strict=True):
        e = here.density.expected(block, eta, zeta)
        rows.append(e)
        cells.append(block.zz_sums(e.w))
    return _Expectation(rows, concatenate(cells))


def _n_rows(unit: Unit) -> int:
    return sum(b.rows.stop - b.rows.start for b in unit.blocks)


def _zeta_sums(block: Block, v: Vec) -> Vec:
    return np.array([v.sum()]) if block.x_phi is None else block.x_phi @ v


def _leverage(unit: Unit, factors: list[Mat], hat: Blocks) -> Cube:
    """ΛĤΛ' summed over the factors that meet in each cell: (d, d, C)."""
    own = [cholesky.quadratic(lam.T, block, lam.T) for lam, block in zip(factors, hat.diagonal, strict=True)]
    if unit.pattern is None:
        return own[0]
    total: Cube = own[0][..., unit.pattern.codes[0]]
    for f in range(1, len(own)):
        total = total + own[f][..., unit.pattern.codes[f]]
    for (f, g), block in hat.cross.items():
        k = cholesky.quadratic(factors[f].T, block, factors[g].T)
        k = k + k.swapaxes(0, 1)
        of_cell = unit.pattern.pairs[f, g].of_cell
        total = total + (k if of_cell is None else k[..., of_cell])
    return total
