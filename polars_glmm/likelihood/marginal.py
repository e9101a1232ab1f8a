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

from polars_glmm.errors import ConvergenceError
from polars_glmm.families.base import Density, Expected, Family
from polars_glmm.likelihood.rowblocks import Block, RowBlocks, Unit
from polars_glmm.linalg import cholesky
from polars_glmm.linalg.elimination import Factorised
from polars_glmm.linalg.pattern import Blocks, gather_blocks, sum_by
from polars_glmm.linalg.quadrature import Rule
from polars_glmm.linalg.scaling import reduction, scaled_plus_identity, trace_blocks
from polars_glmm.typing import Cube, Mat, Vec

_NEAR = 1e-10
"""Newton decrement, in log-likelihood, after which one more step ends at rounding error (convergence is quadratic)."""
_ROUNDING = 1e-11
"""A step may lower J by this share of |J| without being halved."""
_MAX_NEWTON = 200
_MAX_HALVINGS = 60


class Point(NamedTuple):
    """Parameters as kernels read them: beta (p,), effective factors T_fΛ_f (d, r_f), zeta coefficients (s,) or None."""

    beta: Vec
    factors: list[Mat]
    gamma: Vec | None


class Value(NamedTuple):
    """ℓ and its gradient at a point; modes u_f (r_f, G_f) for the next start.

    factors   ∂ℓ/∂(T_fΛ_f) per factor;  information  expected-type curvature of −ℓ, or None: (beta, G_f, gamma)
    """

    value: float
    beta: Vec
    factors: list[Mat]
    gamma: Vec | None
    modes: list[Mat]
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
    """At the modes: covariance of u per level (r_f, r_f, G_f), linear predictors per sorted row."""

    modes: list[Mat]
    covariance: list[Cube]
    eta: Vec
    eta_fixed: Vec


@dataclass(frozen=True, slots=True, eq=False)
class Marginal:
    """The marginal log-likelihood of rows in blocks, without its constant.

    rule       nodes for one factor with r effects, or None for Laplace
    expected   use expected instead of observed curvature in the determinant
    concave    the log density is concave in eta: modes may start anywhere
    """

    rows: RowBlocks
    family: Family
    rule: Rule | None
    expected: bool
    concave: bool
    threads: int

    # ------------------------------------------------------------------------------------------ over units

    def evaluate(
        self, at: Point, warm: list[Mat] | None, *, gradient: bool = True, information: bool = False
    ) -> Value:
        """ℓ at a point; `warm` is where Newton starts and changes the work, not the value."""
        sizes = [lam.shape[1] for lam in at.factors]
        starts = warm if warm is not None and self.concave else None
        n_levels = [max(u.levels[f].stop for u in self.rows.units) for f in range(len(sizes))]
        modes = [np.zeros((r, g)) for r, g in zip(sizes, n_levels, strict=True)]

        def one(unit: Unit) -> UnitValue:
            u0 = [np.zeros((r, s.stop - s.start)) for r, s in zip(sizes, unit.levels, strict=True)]
            if starts is not None:
                u0 = [m[:, s] for m, s in zip(starts, unit.levels, strict=True)]
            return self._unit(unit, at, u0, gradient=gradient, information=information)

        with np.errstate(all="ignore"):
            parts = self._map(one)
        for unit, part in zip(self.rows.units, parts, strict=True):
            for f, s in enumerate(unit.levels):
                modes[f][:, s] = part.modes[f]
        value = float(sum(p.value for p in parts))
        passes = sum(p.row_passes for p in parts) / max(self.rows.n_rows, 1)
        if not gradient or not np.isfinite(value):
            none: list[Mat] = []
            return Value(value if np.isfinite(value) else -np.inf, np.empty(0), none, None, modes, passes, None)
        gamma = None if at.gamma is None else _total([p.gamma for p in parts])
        return Value(
            value,
            _total([p.beta for p in parts]),
            [_total([p.factors[f] for p in parts]) for f in range(len(sizes))],
            gamma,
            modes,
            passes,
            _join([p.information for p in parts]) if information else None,
        )

    def conditional(self, at: Point, warm: list[Mat]) -> Conditional:
        """Modes, Var(u | y) by the observed curvature, and linear predictors, for the tables of a fit."""
        value = self.evaluate(at, warm, gradient=False)
        covariance = [np.empty((lam.shape[1],) * 2 + (m.shape[1],)) for lam, m in zip(at.factors, value.modes, strict=True)]
        eta = np.empty(self.rows.n_rows)
        eta_fixed = np.empty(self.rows.n_rows)
        for unit in self.rows.units:
            u = [m[:, s] for m, s in zip(value.modes, unit.levels, strict=True)]
            state = self._state(unit, at, _fixed_parts(unit, at), u, order=2)
            if u and not self.concave:
                state = state._replace(w=self._exact_w(unit, state))
            for block, fixed, both in zip(unit.blocks, _fixed_parts(unit, at), state.eta, strict=True):
                eta[block.rows] = both
                eta_fixed[block.rows] = fixed[0]
            if u:
                h = unit.eliminator.factorise(_curvature(unit, state.w, at.factors))
                if h is None:
                    msg = "the curvature at the conditional modes is not positive definite."
                    raise ConvergenceError(msg)
                for f, block_inverse in enumerate(h.inverse().diagonal):
                    covariance[f][..., unit.levels[f]] = block_inverse
        return Conditional(value.modes, covariance, eta, eta_fixed)

    def expected_curvature(self, at: Point) -> Vec:
        """Expected curvature per sorted row without random effects, (n,)."""
        with np.errstate(all="ignore"):
            parts = [
                self.family.expected(block.data, xb, zeta).w
                for unit in self.rows.units
                for block, (xb, zeta) in zip(unit.blocks, _fixed_parts(unit, at), strict=True)
            ]
        return np.concatenate(parts)

    def _map(self, one):  # type: ignore[no-untyped-def]  # a closure over one evaluation
        units = self.rows.units
        if self.threads == 1 or len(units) == 1:
            return [one(unit) for unit in units]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(one, units))

    # ------------------------------------------------------------------------------------------ one unit

    def _state(self, unit: Unit, at: Point, fixed: list[tuple[Vec, Vec | float | None]], u: list[Mat], order: int) -> State:
        """Densities of all rows of a unit at given modes, with their sums over cells."""
        b = _cell_effects(unit, at.factors, u)
        densities, etas, f, g, w = [], [], [], [], []
        for block, (xb, zeta) in zip(unit.blocks, fixed, strict=True):
            eta = xb if b is None else xb + block.combine(b[:, block.cells])
            density = self.family.density(block.data, eta, zeta, order, zeta_parts=order > 2)  # noqa: PLR2004
            if block.frequency is not None:
                density = Density(*(None if part is None else part * block.frequency for part in density))
            densities.append(density)
            etas.append(eta)
            f.append(block.sums(density.f))
            if b is not None:
                g.append(block.z_sums(density.g))
                step_w = density.w
                if order == 2 and not self.concave:
                    step_w = np.maximum(step_w, 0.0)
                w.append(block.zz_sums(step_w))
        empty = np.empty((0, 0, 0))
        return State(
            densities,
            etas,
            _concatenate(f),
            _concatenate(g) if g else empty,
            _concatenate(w) if w else empty,
        )

    def _unit(self, unit: Unit, at: Point, u: list[Mat], *, gradient: bool, information: bool) -> UnitValue:
        fixed = _fixed_parts(unit, at)
        n_rows = sum(b.rows.stop - b.rows.start for b in unit.blocks)
        passes = 0
        if u:
            u, passes = self._mode(unit, at, fixed, u)
        state = self._state(unit, at, fixed, u, order=3 if gradient else 2)
        if not self.concave and not gradient and u:
            state = state._replace(w=self._exact_w(unit, state))
        passes += 1
        joint = float(state.f.sum()) - 0.5 * sum(float(np.vdot(v, v)) for v in u)
        bad = UnitValue(-np.inf, np.empty(0), [], None, u, passes * n_rows, None)
        if not np.isfinite(joint):
            return bad
        if not u:
            if not gradient:
                return bad._replace(value=joint)
            return self._without_effects(unit, at, fixed, state, joint, information=information)
        observed = unit.eliminator.factorise(_curvature(unit, state.w, at.factors))
        if observed is None:
            return bad
        expected = self._expected(unit, fixed, state) if self.expected else None
        w = state.w if expected is None else expected.w_cells
        h = observed
        if expected is not None:
            curved = unit.eliminator.factorise(_curvature(unit, w, at.factors))
            if curved is None:
                return bad
            h = curved
        if self.rule is None:
            value, nodes = joint - 0.5 * h.log_determinant, None
        else:
            nodes = self._nodes(unit, at, fixed, u, observed)
            value = nodes.value
            passes += self.rule.nodes.shape[1]
        if not np.isfinite(value):
            return bad
        if not gradient:
            return bad._replace(value=value, row_passes=passes * n_rows)
        hat = h.inverse() if nodes is None else Blocks([nodes.hat], {})
        levels = _gather(unit, w)
        k_cells = _leverage(unit, at.factors, hat)
        s_cells, c_rows = [], []
        for i, (block, density) in enumerate(zip(unit.blocks, state.densities, strict=True)):
            c = block.quadratic(k_cells[..., block.cells])
            dw = density.dw if expected is None else expected.rows[i].dw
            c_rows.append(c)
            s_cells.append(block.z_sums(c * dw))
        s = _concatenate(s_cells)
        pull = [lam.T @ sf for lam, sf in zip(at.factors, _to_levels(unit, s), strict=True)]
        if nodes is not None:
            pull = [pull[0] - 2.0 * nodes.slope]
        a = observed.solve(pull)
        a_cells = _cell_effects(unit, at.factors, a)
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
        shift = _to_levels(unit, 0.5 * (np.einsum("jkC,kC->jC", state.w, a_cells) - s))
        g_levels = _to_levels(unit, state.g)
        direct_factors = [g @ v.T for g, v in zip(g_levels, u, strict=True)] if nodes is None else [nodes.direct]
        trace = trace_blocks(levels, at.factors, hat)
        factors = [
            direct_factors[f] + shift[f] @ u[f].T - trace[f] - 0.5 * (g_levels[f] @ a[f].T) for f in range(len(u))
        ]
        info = self._information(unit, at, state, observed) if information else None
        return UnitValue(value, beta, factors, gamma, u, passes * n_rows, info)

    def _mode(
        self, unit: Unit, at: Point, fixed: list[tuple[Vec, Vec | float | None]], u: list[Mat]
    ) -> tuple[list[Mat], int]:
        """Newton for all groups of a unit, halving the steps of those groups that J rejects."""
        passes, previous, last, halvings = 0, None, None, 0
        for _ in range(_MAX_NEWTON):
            state = self._state(unit, at, fixed, u, order=2)
            passes += 1
            one_factor = len(u) == 1
            j = state.f - 0.5 * np.einsum("rG,rG->G", u[0], u[0]) if one_factor else np.array(
                [state.f.sum() - 0.5 * sum(float(np.vdot(v, v)) for v in u)]
            )
            if previous is None and not np.isfinite(j).all():
                restart = ~np.isfinite(j)
                if all((v[:, restart] if one_factor else v).any() for v in u):
                    u = [np.where(restart, 0.0, v) for v in u]
                    continue
                return u, passes
            if last is not None:
                rejected = ~(j >= last - _ROUNDING * (1.0 + np.abs(last)))
                if rejected.any():
                    halvings += 1
                    if halvings > _MAX_HALVINGS:
                        return previous, passes
                    u = [np.where(rejected, 0.5 * (v + p), v) for v, p in zip(u, previous, strict=True)]
                    continue
            h = unit.eliminator.factorise(_curvature(unit, state.w, at.factors))
            if h is None:
                return u, passes
            slope = [lam.T @ g - v for lam, g, v in zip(at.factors, _to_levels(unit, state.g), u, strict=True)]
            step = h.solve(slope)
            decrement = (
                float(np.einsum("rG,rG->G", slope[0], step[0]).max(initial=0.0))
                if one_factor
                else sum(float(np.vdot(d, e)) for d, e in zip(slope, step, strict=True))
            )
            previous, last, halvings = u, j, 0
            u = [v + d for v, d in zip(u, step, strict=True)]
            if not decrement > _NEAR:
                break
        return u, passes

    def _exact_w(self, unit: Unit, state: State) -> Cube:
        return _concatenate([b.zz_sums(d.w) for b, d in zip(unit.blocks, state.densities, strict=True)])

    def _expected(self, unit: Unit, fixed: list[tuple[Vec, Vec | float | None]], state: State) -> ExpectedCells:
        rows, cells = [], []
        for block, (_, zeta), eta in zip(unit.blocks, fixed, state.eta, strict=True):
            e = self.family.expected(block.data, eta, zeta)
            if block.frequency is not None:
                e = Expected(*(None if part is None else part * block.frequency for part in e))
            rows.append(e)
            cells.append(block.zz_sums(e.w))
        return ExpectedCells(rows, _concatenate(cells))

    def _nodes(
        self,
        unit: Unit,
        at: Point,
        fixed: list[tuple[Vec, Vec | float | None]],
        u: list[Mat],
        h: Factorised,
    ) -> NodeValue:
        """The quadrature of one factor, with the derivatives of ℓ in û and H."""
        assert self.rule is not None  # noqa: S101
        low, lam = h.low, at.factors[0]  # type: ignore[attr-defined]  # one factor: OneFactorised
        r, n_groups = u[0].shape
        z = self.rule.nodes
        spread = cholesky.backward(low, np.broadcast_to(z[:, :, None], (*z.shape, n_groups)))
        v = u[0][:, None, :] + spread
        b = np.einsum("dr,rqG->dqG", lam, v)
        densities = []
        f = np.empty((z.shape[1], n_groups))
        g = np.empty((lam.shape[0], z.shape[1], n_groups))
        for block, (xb, zeta) in zip(unit.blocks, fixed, strict=True):
            eta = xb + block.combine(b[..., block.cells])
            density = self.family.density(block.data, eta, zeta, 1)
            if block.frequency is not None:
                density = Density(*(None if part is None else part * block.frequency for part in density))
            densities.append(density)
            f[:, block.cells] = block.sums(density.f)
            g[..., block.cells] = block.z_sums(density.g)
        terms = f - 0.5 * np.einsum("rqG,rqG->qG", v, v) + self.rule.log_weights[:, None]
        terms = np.where(np.isnan(terms), -np.inf, terms)
        top = terms.max(0)
        posterior = np.exp(terms - top)
        total = posterior.sum(0)
        posterior /= total
        value = float((top + np.log(total) - 0.5 * cholesky.log_determinant(low)).sum())
        seen = posterior > 0.0
        slope_nodes = np.where(seen, np.einsum("dr,dqG->rqG", lam, g) - v, 0.0)
        slope = np.einsum("qG,rqG->rG", posterior, slope_nodes)
        half = cholesky.forward(low, slope_nodes)
        n = np.einsum("qG,iqG,jqG->ijG", posterior, half, spread)
        n = np.einsum("ijG,jkG->ikG", n, low)
        for i in range(r):
            n[i, i] += 1.0
        q = np.empty_like(n)
        for i in range(r):
            q[i, i] = n[i, i]
            for j in range(i):
                q[i, j] = q[j, i] = n[j, i]
        hat = cholesky.backward(low, cholesky.backward(low, q).swapaxes(0, 1))
        direct = np.einsum("qG,dqG,rqG->dr", posterior, np.where(seen, g, 0.0), v, optimize=True)
        g_rows, f_zeta = [], []
        for block, density in zip(unit.blocks, densities, strict=True):
            weight = block.spread(posterior[:, block.cells])
            use = weight > 0.0
            g_rows.append((weight * np.where(use, density.g, 0.0)).sum(0))
            if density.f_zeta is not None:
                f_zeta.append((weight * np.where(use, density.f_zeta, 0.0)).sum(0))
        return NodeValue(value, g_rows, f_zeta, direct, slope, hat)

    def _without_effects(
        self,
        unit: Unit,
        at: Point,
        fixed: list[tuple[Vec, Vec | float | None]],
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
            w_rows = [e.w for e in self._expected(unit, fixed, state).rows]
            xwx = sum(((b.x * w) @ b.x.T for b, w in zip(unit.blocks, w_rows, strict=True)), np.zeros((len(beta),) * 2))
            info = Information(xwx, [], self._gamma_information(unit, at, state))
        return UnitValue(value, beta, [], gamma, [], n_rows, info)

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
        zwx = _concatenate(cells)
        right = [
            np.einsum("dr,dpG->rpG", lam, part) for lam, part in zip(at.factors, _to_levels(unit, zwx), strict=True)
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


class State(NamedTuple):
    """Densities per block; eta per block; sums over cells f (C,), g (d, C), w (d, d, C)."""

    densities: list[Density]
    eta: list[Vec]
    f: Vec
    g: Mat
    w: Cube


class ExpectedCells(NamedTuple):
    """Expected curvature per row of each block, and its sums over cells (d, d, C)."""

    rows: list[Expected]
    w_cells: Cube


class NodeValue(NamedTuple):
    """Quadrature of a unit: ℓ; node averages per row; Σ π Z'g v' (d, r); F_û (r, G); Ĥ (r, r, G)."""

    value: float
    g: list[Vec]
    f_zeta: list[Vec]
    direct: Mat
    slope: Mat
    hat: Cube


def _fixed_parts(unit: Unit, at: Point) -> list[tuple[Vec, Vec | float | None]]:
    """Per block: Xβ + offset, and zeta (a number, a vector, or None)."""
    out = []
    for block in unit.blocks:
        xb = at.beta @ block.x
        if block.offset is not None:
            xb = xb + block.offset
        zeta: Vec | float | None = None
        if at.gamma is not None:
            zeta = float(at.gamma[0]) if block.x_phi is None else at.gamma @ block.x_phi
            if block.offset_phi is not None:
                zeta = zeta + block.offset_phi
        out.append((xb, zeta))
    return out


def _zeta_sums(block: Block, v: Vec) -> Vec:
    return np.array([v.sum()]) if block.x_phi is None else block.x_phi @ v


def _concatenate(parts: list[Cube]) -> Cube:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _total(parts: list[Mat]) -> Mat:
    return parts[0] if len(parts) == 1 else np.sum(parts, axis=0)


def _cell_effects(unit: Unit, factors: list[Mat], u: list[Mat]) -> Mat | None:
    """Coefficients of the distinct columns per cell, Σ_f T_fΛ_f u_f (d, C)."""
    if not u:
        return None
    b = [lam @ v for lam, v in zip(factors, u, strict=True)]
    if unit.pattern is None:
        return b[0]
    total = b[0][:, unit.pattern.codes[0]]
    for f in range(1, len(b)):
        total = total + b[f][:, unit.pattern.codes[f]]
    return total


def _to_levels(unit: Unit, cells: Cube) -> list[Cube]:
    """Sums over the cells of every level of every factor: (…, C) → (…, G_f)."""
    if unit.pattern is None:
        return [cells]
    return [sum_by(codes, cells, n) for codes, n in zip(unit.pattern.codes, unit.pattern.n_levels, strict=True)]


def _gather(unit: Unit, w: Cube) -> Blocks:
    return Blocks([w], {}) if unit.pattern is None else gather_blocks(unit.pattern, w)


def _curvature(unit: Unit, w: Cube, factors: list[Mat]) -> Blocks:
    """H = Λ'Z'WZΛ + I in blocks, from Σ z z' w over cells."""
    return scaled_plus_identity(_gather(unit, w), factors)


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
    levels = [
        np.concatenate([p.levels[f] for p in found], axis=-1) for f in range(len(found[0].levels))
    ]
    return Information(_total([p.beta for p in found]), levels, gamma)
