"""The marginal likelihood of a mixed model by Laplace or adaptive Gauss–Hermite, with its exact gradient.

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

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from polars_glmm import progress
from polars_glmm.errors import ConvergenceError
from polars_glmm.families.base import Expected
from polars_glmm.likelihood.modes import (
    Fixed,
    Point,
    RowDensity,
    State,
    Warm,
    cell_effects,
    concatenate,
    curvature,
    exact_w,
    find_modes,
    fixed_parts,
    gather,
    rows_state,
    to_levels,
)
from polars_glmm.likelihood.quadrature import integrate_nodes
from polars_glmm.likelihood.rowblocks import Block, RowBlocks, Unit
from polars_glmm.linalg import cholesky
from polars_glmm.linalg.elimination import Factorised
from polars_glmm.linalg.pattern import Blocks
from polars_glmm.linalg.quadrature import Rule
from polars_glmm.linalg.scaling import reduction, trace_blocks
from polars_glmm.typing import Cube, Mat, Vec


class Value(NamedTuple):
    """ℓ and its gradient at a point; where the next evaluation may start.

    factors   ∂ℓ/∂(T_fΛ_f) per factor;  information  expected-type curvature of −ℓ, or None: (beta, G_f, gamma)
    """

    value: float
    beta: Vec
    factors: list[Mat]
    gamma: Vec | None
    warm: Warm
    passes: float
    information: Information | None


class Information(NamedTuple):
    """Approximate curvature: beta (p, p) of the profiled linear model at the mode, gamma (s, s) by outer products,

    levels[f] (r_f, r_f, G_f): I − (H⁻¹)_ff, from which the curvature in any covariance parameter follows.
    """

    beta: Mat
    levels: list[Cube]
    gamma: Mat | None


class Conditional(NamedTuple):
    """Modes u_f (r_f, G_f) and the covariance of u there, per level (r_f, r_f, G_f)."""

    modes: list[Mat]
    covariance: list[Cube]


@dataclass(frozen=True, slots=True, eq=False)
class Marginal:
    """The marginal log-likelihood of rows in blocks, without its constant.

    rule       nodes for one factor with r effects, or None for Laplace
    expected   use expected instead of observed curvature in the determinant
    """

    rows: RowBlocks
    density: RowDensity
    rule: Rule | None
    expected: bool
    threads: int

    # ------------------------------------------------------------------------------------------ over units

    def evaluate(self, at: Point, warm: Warm | None, *, gradient: bool = True, information: bool = False) -> Value:
        """ℓ at a point; `warm` is where Newton starts and changes the work, not the value."""
        sizes = [lam.shape[1] for lam in at.factors]
        starts = warm if warm is not None and self.density.concave else None
        stale = None if starts is None else starts.factor
        n_levels = [max(levels[f].stop for levels in self.rows.levels) for f in range(len(sizes))]
        modes = [np.zeros((r, g)) for r, g in zip(sizes, n_levels, strict=True)]

        def one(unit: Unit) -> UnitValue:
            u0 = [np.zeros((r, s.stop - s.start)) for r, s in zip(sizes, unit.levels, strict=True)]
            if starts is not None:
                u0 = [m[:, s] for m, s in zip(starts.modes, unit.levels, strict=True)]
            return self._unit(unit, at, Warm(u0, stale), gradient=gradient, information=information)

        with np.errstate(all="ignore"):
            parts = self._map(one)
        for levels, part in zip(self.rows.levels, parts, strict=True):
            for f, s in enumerate(levels):
                modes[f][:, s] = part.modes[f]
        value = float(sum(p.value for p in parts))
        passes = sum(p.row_passes for p in parts) / max(self.rows.n_rows, 1)
        after = Warm(modes, parts[0].factor if len(parts) == 1 else None)
        if not gradient or not np.isfinite(value):
            none: list[Mat] = []
            return Value(value if np.isfinite(value) else -np.inf, np.empty(0), none, None, after, passes, None)
        gamma = None if at.gamma is None else _total([p.gamma for p in parts])
        return Value(
            value,
            _total([p.beta for p in parts]),
            [_total([p.factors[f] for p in parts]) for f in range(len(sizes))],
            gamma,
            after,
            passes,
            _join([p.information for p in parts]) if information else None,
        )

    def conditional(self, at: Point, warm: Warm) -> Conditional:
        """Modes and Var(u | y) by the observed curvature, for the tables of a fit."""
        value = self.evaluate(at, warm, gradient=False)
        covariance = [
            np.empty((lam.shape[1],) * 2 + (m.shape[1],)) for lam, m in zip(at.factors, value.warm.modes, strict=True)
        ]
        for unit in self.rows.units if at.factors else ():
            u = [m[:, s] for m, s in zip(value.warm.modes, unit.levels, strict=True)]
            state = rows_state(self.density, unit, at, fixed_parts(unit, at), u, order=2)
            if not self.density.concave:
                state = state._replace(w=exact_w(unit, state))
            h = unit.eliminator.factorise(curvature(unit, state.w, at.factors))
            if h is None:
                msg = "the curvature at the conditional modes is not positive definite."
                raise ConvergenceError(msg)
            for f, block_inverse in enumerate(h.inverse().diagonal):
                covariance[f][..., unit.levels[f]] = block_inverse
        return Conditional(value.warm.modes, covariance)

    def expected_curvature(self, at: Point) -> float:
        """Mean expected curvature of a row without random effects, over the rows where it is finite."""
        total, count = 0.0, 0
        with np.errstate(all="ignore"):
            for unit in self.rows.units:
                for block, (xb, zeta) in zip(unit.blocks, fixed_parts(unit, at), strict=True):
                    w = self.density.family.expected(block.data, xb, zeta).w
                    finite = np.isfinite(w)
                    total += float(w[finite].sum())
                    count += int(finite.sum())
        return total / max(count, 1)

    def mode_slopes(self, at: Point, modes: list[Mat], directions: list[Point]) -> list[list[Mat]]:
        """dû/dt along directions (dβ, dΛ, dγ), from Λ'Z'g(û) = û: H dû = dΛ'Z'g + Λ'Z'(g_ζ dζ − w∘(x dβ + z dΛ û))."""
        out = [[np.zeros_like(m) for m in modes] for _ in directions]
        for unit in self.rows.units:
            u = [m[:, s] for m, s in zip(modes, unit.levels, strict=True)]
            with np.errstate(all="ignore"):
                state = rows_state(self.density, unit, at, fixed_parts(unit, at), u, order=3)
                h = unit.eliminator.factorise(curvature(unit, state.w, at.factors))
            if h is None:
                continue
            g_levels = to_levels(unit, state.g)
            for d, slopes in zip(directions, out, strict=True):
                moved = cell_effects(unit, d.factors, u)
                sums = []
                for block, density in zip(unit.blocks, state.densities, strict=True):
                    change = -density.w * (d.beta @ block.x + block.combine(moved[:, block.cells]))
                    if d.gamma is not None and density.g_zeta is not None:
                        zeta = d.gamma[0] if block.x_phi is None else d.gamma @ block.x_phi
                        change = change + density.g_zeta * zeta
                    sums.append(block.z_sums(change))
                right = [
                    lam.T @ c + dlam.T @ g
                    for lam, dlam, c, g in zip(
                        at.factors, d.factors, to_levels(unit, concatenate(sums)), g_levels, strict=True
                    )
                ]
                for slope, part, s in zip(slopes, h.solve(right), unit.levels, strict=True):
                    slope[:, s] = part
        return out

    def _map(self, one):  # type: ignore[no-untyped-def]  # a closure over one evaluation
        units, found = self.rows.units, []
        places = range(len(units))  # units may be loaded when asked for: by the worker that needs them
        with progress.stage("pass", len(units)):
            if self.threads == 1 or len(units) == 1:
                for i in places:
                    found.append(one(units[i]))
                    progress.advance()
                return found
            with ThreadPoolExecutor(self.threads) as pool:
                for part in pool.map(lambda i: one(units[i]), places):
                    found.append(part)
                    progress.advance()
        return found

    # ------------------------------------------------------------------------------------------ one unit

    def _unit(self, unit: Unit, at: Point, start: Warm, *, gradient: bool, information: bool) -> UnitValue:
        u = start.modes
        fixed = fixed_parts(unit, at)
        n_rows = sum(b.rows.stop - b.rows.start for b in unit.blocks)
        order = 3 if gradient else 2
        if u:
            u, state, passes, _ = find_modes(self.density, unit, at, fixed, u, order, start.factor)
        else:
            state, passes = rows_state(self.density, unit, at, fixed, u, order), 1
        if not self.density.concave and not gradient and u:
            state = state._replace(w=exact_w(unit, state))
        joint = float(state.f.sum()) - 0.5 * sum(float(np.vdot(v, v)) for v in u)
        bad = UnitValue(-np.inf, np.empty(0), [], None, u, passes * n_rows, None, None)
        if not np.isfinite(joint):
            return bad
        if not u:
            if not gradient:
                return bad._replace(value=joint)
            return self._without_effects(unit, at, fixed, state, joint, information=information)
        observed = unit.eliminator.factorise(curvature(unit, state.w, at.factors))
        if observed is None:
            return bad
        expected = self._expected(unit, fixed, state) if self.expected else None
        w = state.w if expected is None else expected.w_cells
        h = observed
        if expected is not None:
            curved = unit.eliminator.factorise(curvature(unit, w, at.factors))
            if curved is None:
                return bad
            h = curved
        if self.rule is None:
            value, nodes = joint - 0.5 * h.log_determinant, None
        else:
            nodes = integrate_nodes(self.density, self.rule, unit, at, fixed, u, observed)  # type: ignore[arg-type]  # one factor
            value = nodes.value
            passes += self.rule.nodes.shape[1]
        if not np.isfinite(value):
            return bad
        if not gradient:
            return bad._replace(value=value, row_passes=passes * n_rows)
        hat = h.inverse() if nodes is None else Blocks([nodes.hat], {})
        levels = gather(unit, w)
        k_cells = _leverage(unit, at.factors, hat)
        s_cells, c_rows = [], []
        for i, (block, density) in enumerate(zip(unit.blocks, state.densities, strict=True)):
            c = block.quadratic(k_cells[..., block.cells])
            dw = density.dw if expected is None else expected.rows[i].dw
            c_rows.append(c)
            s_cells.append(block.z_sums(c * dw))
        s = concatenate(s_cells)
        pull = [lam.T @ sf for lam, sf in zip(at.factors, to_levels(unit, s), strict=True)]
        if nodes is not None:
            pull = [pull[0] - 2.0 * nodes.slope]
        a = observed.solve(pull)
        a_cells = cell_effects(unit, at.factors, a)
        assert a_cells is not None  # noqa: S101  # there are random effects here
        beta = np.zeros(len(at.beta))
        gamma = None if at.gamma is None else np.zeros(len(at.gamma))
        for i, (block, density) in enumerate(zip(unit.blocks, state.densities, strict=True)):
            za = block.combine(a_cells[:, block.cells])
            direct = density.g if nodes is None else nodes.g[i]
            dw = density.dw if expected is None else expected.rows[i].dw
            beta += block.x @ (direct + 0.5 * (density.w * za - c_rows[i] * dw))
            if gamma is not None:
                w_zeta = density.w_zeta if expected is None else expected.rows[i].w_zeta
                f_zeta = density.f_zeta if nodes is None else nodes.f_zeta[i]
                gamma += _zeta_sums(block, f_zeta - 0.5 * (c_rows[i] * w_zeta + za * density.g_zeta))
        shift = to_levels(unit, 0.5 * (np.einsum("jkC,kC->jC", state.w, a_cells) - s))
        g_levels = to_levels(unit, state.g)
        direct_factors = [g @ v.T for g, v in zip(g_levels, u, strict=True)] if nodes is None else [nodes.direct]
        trace = trace_blocks(levels, at.factors, hat)
        factors = [
            direct_factors[f] + shift[f] @ u[f].T - trace[f] - 0.5 * (g_levels[f] @ a[f].T) for f in range(len(u))
        ]
        info = self._information(unit, at, state, observed) if information else None
        kept = observed if unit.eliminator.costly else None
        return UnitValue(value, beta, factors, gamma, u, passes * n_rows, info, kept)

    def _expected(self, unit: Unit, fixed: Fixed, state: State) -> ExpectedCells:
        rows, cells = [], []
        for block, (_, zeta), eta in zip(unit.blocks, fixed, state.eta, strict=True):
            e = self.density.family.expected(block.data, eta, zeta)
            if block.frequency is not None:
                e = Expected(*(None if part is None else part * block.frequency for part in e))
            rows.append(e)
            cells.append(block.zz_sums(e.w))
        return ExpectedCells(rows, concatenate(cells))

    def _without_effects(
        self,
        unit: Unit,
        at: Point,
        fixed: Fixed,
        state: State,
        value: float,
        *,
        information: bool,
    ) -> UnitValue:
        beta = np.zeros(len(at.beta))
        gamma = None if at.gamma is None else np.zeros(len(at.gamma))
        n_rows = 0
        for block, density in zip(unit.blocks, state.densities, strict=True):
            beta += block.x @ density.g
            n_rows += len(density.f)
            if gamma is not None:
                gamma += _zeta_sums(block, density.f_zeta)
        info = None
        if information:
            canonical = self.density.family.canonical
            rows = state.densities if canonical else self._expected(unit, fixed, state).rows
            w_rows = [d.w for d in rows]
            xwx = sum(((b.x * w) @ b.x.T for b, w in zip(unit.blocks, w_rows, strict=True)), np.zeros((len(beta),) * 2))
            info = Information(xwx, [], self._gamma_information(unit, at, state))
        return UnitValue(value, beta, [], gamma, [], n_rows, info, None)

    def _gamma_information(self, unit: Unit, at: Point, state: State) -> Mat | None:
        if at.gamma is None:
            return None
        total = np.zeros((len(at.gamma),) * 2)
        for block, density in zip(unit.blocks, state.densities, strict=True):
            square = density.f_zeta**2
            if block.frequency is not None:
                square = square / np.maximum(block.frequency, 1.0)
            if block.x_phi is None:
                total += square.sum()
            else:
                total += (block.x_phi * square) @ block.x_phi.T
        return total

    def _information(self, unit: Unit, at: Point, state: State, h: Factorised) -> Information:
        """Curvature of the linear mixed model with weights w that is tangent at the mode (w floored at zero)."""
        p = len(at.beta)
        xwx = np.zeros((p, p))
        cells = []
        for block, density in zip(unit.blocks, state.densities, strict=True):
            xw = block.x * np.maximum(density.w, 0.0)
            xwx += xw @ block.x.T
            cells.append(block.z_sums(xw))
        zwx = concatenate(cells)
        right = [
            np.einsum("dr,dpG->rpG", lam, part) for lam, part in zip(at.factors, to_levels(unit, zwx), strict=True)
        ]
        solved = h.solve(right)
        beta = xwx - sum(np.einsum("rpG,rqG->pq", b, s) for b, s in zip(right, solved, strict=True))
        inverse = h.inverse()
        return Information(beta, [reduction(i) for i in inverse.diagonal], self._gamma_information(unit, at, state))


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


class ExpectedCells(NamedTuple):
    """Expected curvature per row of each block, and its sums over cells (d, d, C)."""

    rows: list[Expected]
    w_cells: Cube


def _zeta_sums(block: Block, v: Vec) -> Vec:
    return np.array([v.sum()]) if block.x_phi is None else block.x_phi @ v


def _total(parts: list[Mat]) -> Mat:
    return parts[0] if len(parts) == 1 else np.sum(parts, axis=0)


def _leverage(unit: Unit, factors: list[Mat], hat: Blocks) -> Cube:
    """ΛĤΛ' summed over the factors that meet in each cell: (d, d, C)."""
    own = [cholesky.quadratic(lam.T, block, lam.T) for lam, block in zip(factors, hat.diagonal, strict=True)]
    if unit.pattern is None:
        return own[0]
    total = own[0][..., unit.pattern.codes[0]]
    for f in range(1, len(own)):
        total = total + own[f][..., unit.pattern.codes[f]]
    for (f, g), block in hat.cross.items():
        k = cholesky.quadratic(factors[f].T, block, factors[g].T)
        k = k + k.swapaxes(0, 1)
        of_cell = unit.pattern.pairs[f, g].of_cell
        total = total + (k if of_cell is None else k[..., of_cell])
    return total


def _join(parts: list[Information | None]) -> Information | None:
    """Information of all units together."""
    found = [p for p in parts if p is not None]
    gamma = None if found[0].gamma is None else _total([p.gamma for p in found if p.gamma is not None])
    levels = [np.concatenate([p.levels[f] for p in found], axis=-1) for f in range(len(found[0].levels))]
    return Information(_total([p.beta for p in found]), levels, gamma)
