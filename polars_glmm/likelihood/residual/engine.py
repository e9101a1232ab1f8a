"""Exact ML and REML of gaussian models with correlated residuals, by whitened rows or by sums of them.

Residuals have covariance R = DCD, D = diag(φ_i/√weight_i), C(x) block diagonal over groups of rows. With L⁻¹D⁻¹ before
[Z X y] the pieces are those of module likelihood.products.profile at absolute factors, σ = 1, and

    −2ℓ = log|R| + log|H| [+ log|M|] + ν log 2π + rss
    ∂(−2ℓ)/∂γ_j = ∂log|R|/∂γ_j + Σ_q ∂(q'R⁻¹q)/∂γ_j

over the columns q of [Z ΛH⁻¹Λ'^(½), (X − ZΛB_x)M^(−½) under REML, y − Xβ̂ − ZΛû]: B is the least-squares fit in the
metric of R⁻¹, so that it does not move. γ holds the coefficients of log φ and then x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.products.absolute import AbsolutePoint
from polars_glmm.likelihood.products.profile import Profile, profile, vcov_derivatives
from polars_glmm.likelihood.residual.inner import Adjoint, Inner, Inners
from polars_glmm.likelihood.residual.series import SeriesRows
from polars_glmm.likelihood.rows.models import ONE
from polars_glmm.typing import Cube, Mat, Vec


@dataclass(slots=True, eq=False)
class ResidualEngine:
    """Exact gaussian ML or REML over absolute factors and γ = [coefficients of log φ, x]. Counts its work.

    inners   who gives the products at γ: the rows, or sums of them
    """

    effects: Effects
    rows: SeriesRows
    inners: Inners
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
            pieces = profile(at.products(), self.effects.effective(factors))
            if pieces is None or not np.isfinite(pieces.rss):
                return nothing
            slopes = at.slopes(self._adjoint(pieces, factors))
            total = [
                h + (m if self.reml else 0.0) + r
                for h, m, r in zip(pieces.d_log_h, pieces.d_log_m, pieces.d_rss, strict=True)
            ]
            inner = [0.5 * g for g in self.effects.inward(total)]
            value = 0.5 * self._minus_two(at, pieces)
        return AbsolutePoint(value, inner, 0.5 * slopes, pieces, pieces.beta, at.noise)

    def value_at(self, factors: list[Mat], gamma: Vec, beta: Vec) -> AbsolutePoint:
        """The same at any β_c instead of the best one; the point's beta is then ∂ℓ/∂β_c."""
        nothing = AbsolutePoint(
            np.inf, [np.full_like(f, np.nan) for f in factors], np.full_like(gamma, np.nan), None, np.empty(0), 1.0
        )
        at = self._at(gamma)
        pieces = None if at is None else profile(at.products(), self.effects.effective(factors))
        if at is None or pieces is None:
            return nothing
        c = np.append(-beta, 1.0)
        rss = float(c @ pieces.core @ c)
        d_rss = [
            -2.0 * np.einsum("dwG,w->dG", e, c) @ np.einsum("rwG,w->rG", b, c).T
            for b, e in zip(pieces.b, pieces.e, strict=True)
        ]
        there = pieces._replace(beta=beta, rss=rss, d_rss=d_rss)
        slopes = at.slopes(self._adjoint(there, factors))
        total = [h + (m if self.reml else 0.0) + r for h, m, r in zip(there.d_log_h, there.d_log_m, d_rss, strict=True)]
        inner = [0.5 * g for g in self.effects.inward(total)]
        value = 0.5 * self._minus_two(at, there)
        return AbsolutePoint(value, inner, 0.5 * slopes, there, pieces.core[: self.p] @ c, 1.0)

    @property
    def random(self) -> bool:
        """Whether there are random effects."""
        return bool(self.effects.factors)

    def _at(self, gamma: Vec) -> Inner | None:
        return self.inners.at(gamma, random=self.random)

    def _minus_two(self, at: Inner, pieces: Profile) -> float:
        log_m = pieces.log_m if self.reml else 0.0
        return float(pieces.log_h + log_m + at.log_r + self.nu * np.log(2.0 * np.pi) + pieces.rss)

    def leverage(self, factors: list[Mat], gamma: Vec, beta: Vec) -> tuple[Vec, Vec, Vec]:
        """∂ŷ_i/∂y_i, its share of the fixed effects, and (β̂ − β̂₍i₎)'M(β̂ − β̂₍i₎) at β_c, in the order of the series.

        ŷ = QQ'R⁻¹y over the columns Q of ZΛH^(−½)' and X⊥M^(−½) (Hodges & Sargent 2001). Without row i, β̂ − β̂₍i₎ =
        M⁻¹X'V⁻¹e_i (Py)_i/P_ii, with P = R⁻¹ − R⁻¹QQ'R⁻¹ and Py = R⁻¹(y − ŷ) (Haslett & Hayes 1998).
        Raises numpy.linalg.LinAlgError where V is not positive definite.
        """
        at = self.rows.at(gamma, random=self.random)
        pieces = None if at is None else profile(at.products(), self.effects.effective(factors), gradient=False)
        if at is None or pieces is None:
            raise np.linalg.LinAlgError
        p, left = self.p, at.left(self._through(pieces, factors))
        fixed = np.linalg.cholesky(pieces.m_inverse).T @ left[:p] if p else left[:0]
        e = left[p] - beta @ left[:p]
        q = np.concatenate([fixed, at.random_columns(self._between(pieces, factors)), e[None]])
        solved = at.law.solve(q)
        along, squares = q[:-1] * solved[:-1], np.square(solved[:-1])
        pull = solved[-1] / (at.law.precisions - squares.sum(0))
        return along.sum(0), along[:p].sum(0), pull**2 * squares[:p].sum(0)

    def _adjoint(self, pieces: Profile, factors: list[Mat]) -> Adjoint:
        """The columns q of the module's formula."""
        v = np.append(-pieces.beta, 1.0)[:, None]
        if self.reml and self.p:
            v = np.hstack([v, np.vstack([np.linalg.cholesky(pieces.m_inverse), np.zeros(self.p)])])
        return Adjoint(self._between(pieces, factors), self._through(pieces, factors), v)

    def _between(self, pieces: Profile, factors: list[Mat]) -> Cube | None:
        """ΛH⁻¹Λ' between the effects that meet in a cell, (d, d, C)."""
        if not self.random or pieces.h is None:
            return None
        shown = None if self.rows.one_to_one else self.rows.pattern
        return ONE.leverage(shown, self.effects.effective(factors), pieces.h.inverse())

    def _through(self, pieces: Profile, factors: list[Mat]) -> Cube | None:
        """ΛB within cells, (d, p + 1, C)."""
        if not self.random:
            return None
        effective = self.effects.effective(factors)
        each: list[Cube] = [np.einsum("dr,rwG->dwG", lam, b) for lam, b in zip(effective, pieces.b, strict=True)]
        if self.rows.one_to_one:
            return each[0]
        pattern = self.rows.pattern
        assert pattern is not None  # there are random effects
        return np.asarray(sum(pattern.to_cells(f, one) for f, one in enumerate(each)))

    def gamma_information(self, gamma: Vec) -> Mat:
        """As if the fixed effects were known and there were no random ones: ½ tr R⁻¹∂_iR R⁻¹∂_jR where φ is one.

        As R = φ²C, that of log φ is 2n, and between log φ and x it is ∂log|C|/∂x. Of several coefficients of log φ the
        correlation between rows is left out.
        """
        s, x_phi = self.s, self.rows.x_phi
        out = np.zeros((len(gamma),) * 2)
        found = self.rows.combination.at(gamma[s:])
        assert found is not None  # asked where the likelihood is finite
        out[:s, :s] = 2.0 * x_phi @ x_phi.T
        out[:s, s:] = np.outer(x_phi.mean(1), found.log_determinant_slopes)
        out[s:, :s] = out[:s, s:].T
        out[s:, s:] = found.information + 1e-8 * self.rows.n * np.eye(len(gamma) - s)
        return out

    def vcov_slopes(self, pieces: Profile, factors: list[Mat], gamma: Vec) -> tuple[list[Mat], Cube]:
        """∂M⁻¹/∂Λ per factor (r_f, r_f, p, p), and ∂M⁻¹/∂γ = −M⁻¹(X⊥'∂R⁻¹X⊥)M⁻¹ (s + k, p, p)."""
        by_factor = [
            np.tensordot(f.basis.T, change, 1)
            for f, change in zip(self.effects.factors, vcov_derivatives(pieces), strict=True)
        ]
        at = self._at(gamma)
        assert at is not None  # the likelihood is finite here
        inner = at.forms(self._through(pieces, factors))
        return by_factor, -pieces.m_inverse @ inner @ pieces.m_inverse
