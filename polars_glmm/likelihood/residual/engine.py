"""Exact ML and REML of gaussian models with correlated residuals, by passes over rows whitened within their groups.

Residuals have covariance R = DCD, D = diag(φ_i/√weight_i), C(x) block diagonal over groups of rows. With L⁻¹D⁻¹ before
[Z X y] the pieces are those of module likelihood.products.profile at absolute factors, σ = 1, and

    −2ℓ = log|R| + log|H| [+ log|M|] + ν log 2π + rss
    ∂(−2ℓ)/∂γ_j = ∂log|R|/∂γ_j + Σ_q ∂(q'R⁻¹q)/∂γ_j

over the columns q of [Z ΛH⁻¹Λ'^(½), (X − ZΛB_x)M^(−½) under REML, y − Xβ̂ − ZΛû]: B is the least-squares fit in the
metric of R⁻¹, so that it does not move. γ holds the coefficients of log φ and then x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from polars_glmm.design.records import Factor
from polars_glmm.errors import ModelError
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.parameters.effects import Effects, FactorMap
from polars_glmm.likelihood.products.absolute import AbsolutePoint
from polars_glmm.likelihood.products.cross import CrossProducts
from polars_glmm.likelihood.products.profile import Profile, profile, vcov_derivatives
from polars_glmm.likelihood.residual.arrangement import Arranged, Whitening, Whitenings, arrange
from polars_glmm.likelihood.residual.whitening import whitenings
from polars_glmm.likelihood.rows.models import ONE
from polars_glmm.linalg.elimination import Eliminator
from polars_glmm.linalg.pattern import Blocks, Pattern, find_pattern, gather_blocks
from polars_glmm.typing import Cube, IntVec, Mat, Vec


class CellRuns(NamedTuple):
    """Runs of arranged rows of one combination of levels: where each starts (C,), and which each row is in (n,)."""

    starts: IntVec
    of_row: IntVec


@dataclass(frozen=True, slots=True, eq=False)
class SeriesRows:
    """All rows in the order of their groups, ready for whitening.

    z (d, n), w (p+1, n)    distinct random columns; fixed columns in the computing basis and y
    x_phi (s, n), offset    log φ = γ_c'x_phi + offset − ½ log weight
    """

    whitenings: Whitenings
    z: Mat
    w: Mat
    x_phi: Mat
    offset: Vec
    pattern: Pattern | None
    eliminator: Eliminator | None
    cells: CellRuns | None
    y_shift: float
    log_weights: float

    @property
    def n(self) -> int:
        return int(self.w.shape[1])

    @property
    def one_to_one(self) -> bool:
        """Whether cells are the levels of the only factor."""
        pattern, cells = self.pattern, self.cells
        if pattern is None or cells is None:
            return False
        return pattern.n_factors == 1 and not pattern.sets and len(cells.starts) == pattern.n_levels[0]


def series_rows(model: Model) -> SeriesRows:
    """The rows of a model. Raises ModelError where a group of correlated rows lies in several levels of a factor."""
    design, effects = model.held_in_memory(), model.effects
    residual = design.residual
    assert residual is not None  # else there is nothing to whiten
    require_nested(residual.codes.astype(np.intp), effects.factors)
    levels = [f.codes for f in effects.factors]
    arranged = arrange(residual, levels)
    order = arranged.order
    y = design.y if design.mu.offset is None else design.y - design.mu.offset
    shift = float(y.mean()) if model.x.constant is not None else 0.0
    w = np.vstack([model.x.columns(order), y[order] - shift])
    weights = np.ones(design.n_rows) if design.precision is None else design.precision[order]
    z = np.ones((1, design.n_rows)) if effects.columns is None else effects.columns[:, order]
    if design.phi is None:
        x_phi, offset = np.ones((1, design.n_rows)), np.zeros(design.n_rows)
    else:
        x_phi = model.bases[1].columns(order)
        offset = np.zeros(design.n_rows) if design.phi.offset is None else design.phi.offset[order]
    log_weights = float(np.log(weights).sum())
    offset = offset - 0.5 * np.log(weights)
    pattern, cells = _cells(arranged, effects)
    found = None if pattern is None else effects.eliminator(pattern)
    return SeriesRows(
        whitenings(residual, arranged), z, w, x_phi, offset, pattern, found, cells, shift, log_weights
    )  # fmt: skip


def require_nested(codes: IntVec, factors: Sequence[FactorMap] | Sequence[Factor]) -> None:
    """Raise ModelError unless every factor has one level, or one set of levels, in each group of correlated rows."""
    for f in factors:
        lowest, highest = np.full(int(codes.max()) + 1, int(f.codes.max())), np.zeros(int(codes.max()) + 1, dtype=int)
        np.minimum.at(lowest, codes, f.codes)
        np.maximum.at(highest, codes, f.codes)
        if (lowest < highest).any():
            if f.sets is not None:
                msg = (
                    f"residual= correlates rows of different levels of {f.name!r}: the rows of each of its groups must "
                    "be in the same levels, by the same weights. Correlate within smaller groups, or leave out one."
                )
                raise ModelError(msg)
            msg = (
                f"residual= correlates rows of several levels of {f.name!r}: each of its groups must lie within one "
                "level of every grouping factor, which is never so with crossed factors. Correlate within smaller "
                f"groups, as in residual='ar1(time | {f.name})', or take the random effects of {f.name!r} out."
            )
            raise ModelError(msg)


def _cells(arranged: Arranged, effects: Effects) -> tuple[Pattern | None, CellRuns | None]:
    if not effects.factors:
        return None, None
    codes = [f.codes[arranged.order] for f in effects.factors]
    new = np.append(True, np.any([np.diff(c) != 0 for c in codes], axis=0))
    starts = np.flatnonzero(new)
    of_cell = tuple(np.asarray(c[starts], dtype=np.intp) for c in codes)
    sizes, counts = tuple(f.r for f in effects.factors), tuple(f.n_levels for f in effects.factors)
    pattern = find_pattern(of_cell, counts, sizes, effects.sets)
    return pattern, CellRuns(starts, np.cumsum(new) - 1)


class _At(NamedTuple):
    """What is known at one γ: the law, the rows' φ_i (n,), and the cross-products of whitened rows."""

    law: Whitening
    scale: Vec
    stats: CrossProducts


@dataclass(slots=True, eq=False)
class ResidualEngine:
    """Exact gaussian ML or REML over absolute factors and γ = [coefficients of log φ, x]. Counts its work."""

    effects: Effects
    rows: SeriesRows
    reml: bool
    evaluations: int = 0

    @property
    def p(self) -> int:
        return len(self.rows.w) - 1

    @property
    def s(self) -> int:
        """Coefficients of log φ."""
        return len(self.rows.x_phi)

    @property
    def nu(self) -> int:
        return self.rows.n - (self.p if self.reml else 0)

    @property
    def y_shift(self) -> float:
        return self.rows.y_shift

    @property
    def log_weights(self) -> float:
        return 0.0  # they are in log|R|

    def point(self, factors: list[Mat], gamma: Vec) -> AbsolutePoint:
        """−ℓ with its gradient."""
        nothing = AbsolutePoint(
            np.inf, [np.zeros_like(f) for f in factors], np.zeros_like(gamma), None, np.empty(0), 1.0
        )
        self.evaluations += 1
        with np.errstate(all="ignore"):
            at = self._at(gamma)
            if at is None:
                return nothing
            pieces = profile(at.stats, self.effects.effective(factors))
            if pieces is None or not np.isfinite(pieces.rss):
                return nothing
            slopes = self._gamma_slopes(at, pieces, factors)
            total = [
                h + (m if self.reml else 0.0) + r
                for h, m, r in zip(pieces.d_log_h, pieces.d_log_m, pieces.d_rss, strict=True)
            ]
            inner = [0.5 * g for g in self.effects.inward(total)]
            value = 0.5 * self._minus_two(at, pieces)
        noise = float(np.exp(np.log(at.scale).mean()))
        return AbsolutePoint(value, inner, 0.5 * slopes, pieces, pieces.beta, noise)

    def value_at(self, factors: list[Mat], gamma: Vec, beta: Vec) -> AbsolutePoint:
        """The same at any β_c instead of the best one; the point's beta is then ∂ℓ/∂β_c."""
        nothing = AbsolutePoint(
            np.inf, [np.full_like(f, np.nan) for f in factors], np.full_like(gamma, np.nan), None, np.empty(0), 1.0
        )
        at = self._at(gamma)
        pieces = None if at is None else profile(at.stats, self.effects.effective(factors))
        if at is None or pieces is None:
            return nothing
        c = np.append(-beta, 1.0)
        rss = float(c @ pieces.core @ c)
        d_rss = [
            -2.0 * np.einsum("dwG,w->dG", e, c) @ np.einsum("rwG,w->rG", b, c).T
            for b, e in zip(pieces.b, pieces.e, strict=True)
        ]
        there = pieces._replace(beta=beta, rss=rss, d_rss=d_rss)
        slopes = self._gamma_slopes(at, there, factors)
        total = [h + (m if self.reml else 0.0) + r for h, m, r in zip(there.d_log_h, there.d_log_m, d_rss, strict=True)]
        inner = [0.5 * g for g in self.effects.inward(total)]
        value = 0.5 * self._minus_two(at, there)
        return AbsolutePoint(value, inner, 0.5 * slopes, there, pieces.core[: self.p] @ c, 1.0)

    def _at(self, gamma: Vec) -> _At | None:
        rows = self.rows
        law = rows.whitenings.at(gamma[self.s :])
        log_phi = gamma[: self.s] @ rows.x_phi + rows.offset
        scale = np.exp(log_phi)
        if law is None or not (np.isfinite(scale).all() and (scale > 0.0).all()):
            return None
        w = law.whiten(rows.w / scale)
        ww = w @ w.T
        if rows.cells is None or rows.pattern is None or not self.effects.factors:
            return _At(law, scale, CrossProducts(None, None, Blocks([], {}), [], ww, rows.n, 0.0, rows.y_shift))
        z, starts = law.whiten(rows.z / scale), rows.cells.starts
        d, m = len(z), len(w)
        zz, zw = np.empty((d, d, len(starts))), np.empty((d, m, len(starts)))
        for i in range(d):
            for j in range(i + 1):
                zz[i, j] = zz[j, i] = np.add.reduceat(z[i] * z[j], starts)
            zw[i] = np.add.reduceat(z[i] * w, starts, axis=1)
        zw_levels = [zw] if rows.one_to_one else [rows.pattern.to_levels(f, zw) for f in range(rows.pattern.n_factors)]
        blocks = gather_blocks(rows.pattern, zz)
        stats = CrossProducts(rows.pattern, rows.eliminator, blocks, zw_levels, ww, rows.n, 0.0, rows.y_shift)
        return _At(law, scale, stats)

    def _minus_two(self, at: _At, pieces: Profile) -> float:
        log_m = pieces.log_m if self.reml else 0.0
        log_r = 2.0 * float(np.log(at.scale).sum()) + float(at.law.log_variances.sum())
        return float(pieces.log_h + log_m + log_r + self.nu * np.log(2.0 * np.pi) + pieces.rss)

    def _gamma_slopes(self, at: _At, pieces: Profile, factors: list[Mat]) -> Vec:
        """∂(−2ℓ)/∂γ."""
        q = self._columns(at, pieces, factors)
        by_row = 1.0 - np.einsum("cn,cn->n", q, at.law.solve(q))
        by_phi = 2.0 * (self.rows.x_phi @ by_row)
        return np.append(by_phi, at.law.log_determinant_slopes + at.law.form_traces(q))

    def leverage(self, factors: list[Mat], gamma: Vec, beta: Vec) -> tuple[Vec, Vec, Vec]:
        """∂ŷ_i/∂y_i, its share of the fixed effects, and (β̂ − β̂₍i₎)'M(β̂ − β̂₍i₎) at β_c, in the order of the series.

        ŷ = QQ'R⁻¹y over the columns Q of ZΛH^(−½)' and X⊥M^(−½) (Hodges & Sargent 2001). Without row i, β̂ − β̂₍i₎ =
        M⁻¹X'V⁻¹e_i (Py)_i/P_ii, with P = R⁻¹ − R⁻¹QQ'R⁻¹ and Py = R⁻¹(y − ŷ) (Haslett & Hayes 1998).
        Raises numpy.linalg.LinAlgError where V is not positive definite.
        """
        at = self._at(gamma)
        pieces = None if at is None else profile(at.stats, self.effects.effective(factors), gradient=False)
        if at is None or pieces is None:
            raise np.linalg.LinAlgError
        left = self._left(at, pieces, factors)
        p, e = self.p, left[self.p] - beta @ left[: self.p]
        q = np.concatenate([self._fixed_columns(left, pieces), self._random_columns(at, pieces, factors), e[None]])
        solved = at.law.solve(q)
        along, squares = q[:-1] * solved[:-1], np.square(solved[:-1])
        pull = solved[-1] / (at.law.precisions - squares.sum(0))
        return along.sum(0), along[:p].sum(0), pull**2 * squares[:p].sum(0)

    def _columns(self, at: _At, pieces: Profile, factors: list[Mat]) -> Mat:
        """The columns q of the module's formula, divided by φ."""
        left = self._left(at, pieces, factors)
        parts = [(left[self.p] - pieces.beta @ left[: self.p])[None], self._random_columns(at, pieces, factors)]
        return np.concatenate([*parts, self._fixed_columns(left, pieces)] if self.reml else parts)

    def _fixed_columns(self, left: Mat, pieces: Profile) -> Mat:
        """(X − ZΛB_x)M^(−½), divided by φ."""
        return np.linalg.cholesky(pieces.m_inverse).T @ left[: self.p] if self.p else left[:0]

    def _random_columns(self, at: _At, pieces: Profile, factors: list[Mat]) -> Mat:
        """The row's part of ZΛH^(−½)', divided by φ."""
        if self.rows.cells is None or not self.effects.factors:
            return np.empty((0, self.rows.n))
        roots = self._cell_roots(pieces, factors)
        return np.asarray(np.einsum("dn,dcn->cn", self.rows.z / at.scale, roots[..., self.rows.cells.of_row]))

    def _left(self, at: _At, pieces: Profile, factors: list[Mat]) -> Mat:
        """W − ZΛB in every row, divided by φ: (p+1, n)."""
        rows = self.rows
        left = rows.w.copy()
        if rows.cells is not None and rows.pattern is not None and self.effects.factors:
            effective = self.effects.effective(factors)
            for f, (lam, b) in enumerate(zip(effective, pieces.b, strict=True)):
                through = np.einsum("dr,rwG->dwG", lam, b)
                through = through if rows.one_to_one else rows.pattern.to_cells(f, through)
                for i in range(len(through)):
                    left -= rows.z[i] * through[i][:, rows.cells.of_row]
        return np.asarray(left / at.scale)

    def _cell_roots(self, pieces: Profile, factors: list[Mat]) -> Cube:
        """A root K (d, d, C), KK' = ΛH⁻¹Λ' between the effects that meet in a cell."""
        pattern = self.rows.pattern
        assert pattern is not None  # there are random effects
        assert pieces.h is not None
        shown = None if self.rows.one_to_one else pattern
        total = ONE.leverage(shown, self.effects.effective(factors), pieces.h.inverse())
        values, vectors = np.linalg.eigh(np.moveaxis(total, -1, 0))
        return np.moveaxis(vectors * np.sqrt(np.maximum(values, 0.0))[:, None], 0, -1)

    def gamma_information(self, gamma: Vec) -> Mat:
        """As if the fixed effects were known, there were no random ones, and φ and x told nothing of each other."""
        s = self.s
        out = np.zeros((len(gamma),) * 2)
        out[:s, :s] = 2.0 * self.rows.x_phi @ self.rows.x_phi.T
        law = self.rows.whitenings.at(gamma[s:])
        assert law is not None  # asked where the likelihood is finite
        out[s:, s:] = law.information() + 1e-8 * self.rows.n * np.eye(len(gamma) - s)
        return out

    def vcov_slopes(self, pieces: Profile, factors: list[Mat], gamma: Vec) -> tuple[list[Mat], Cube]:
        """∂M⁻¹/∂Λ per factor (r_f, r_f, p, p), and ∂M⁻¹/∂γ = −M⁻¹(X⊥'∂R⁻¹X⊥)M⁻¹ (s + k, p, p)."""
        by_factor = [
            np.tensordot(f.basis.T, change, 1)
            for f, change in zip(self.effects.factors, vcov_derivatives(pieces), strict=True)
        ]
        at = self._at(gamma)
        assert at is not None  # the likelihood is finite here
        x = self._left(at, pieces, factors)[: self.p]
        solved = at.law.solve(x)
        by_phi = []
        for row in self.rows.x_phi:
            half = (x * row) @ solved.T
            by_phi.append(-(half + half.T))
        inner = np.concatenate([np.array(by_phi).reshape(self.s, self.p, self.p), at.law.forms(x)])
        return by_factor, -pieces.m_inverse @ inner @ pieces.m_inverse
