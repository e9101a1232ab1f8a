"""What a table of estimates asks of a covariance of the fixed effects, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from polars_glmm.inference.ddf import Denominator
from polars_glmm.inference.delta import transform_covariance, transformed_variances
from polars_glmm.typing import Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer


@dataclass(frozen=True, slots=True, eq=False)
class CoefficientCovariance:
    """The covariance matrix of the kept coefficients (beta, gamma), and what functions of them are compared with.

    matrix (k, k)           NaN rows and columns where a coefficient has none
    df_of(rows)             rows (q, k), independent → denominator of the F of all of them together
    df_each(rows)           rows (m, k), or None for the coefficients themselves → df (m,); inf for the normal
    df_method               for tables: "satterthwaite", "kenward_roger", "residual" (n − p), "normal" or "given"
    outward, inner (k, k)   matrix = outward · inner · outward', which matters where columns are nearly alike; or None
    """

    matrix: Mat
    df_of: Callable[[Mat], Denominator]
    df_each: Callable[[Mat | None], Vec]
    df_method: str
    outward: Mat | None = None
    inner: Mat | None = None

    def of(self, rows: Mat) -> Mat:
        """Covariance matrix (m, m) of rows · coefficients; NaN for rows that use a coefficient without one."""
        if self.outward is None or self.inner is None:
            return transform_covariance(rows, self.matrix)
        return np.asarray((rows @ self.outward) @ self.inner @ (rows @ self.outward).T)

    def variances(self, rows: Mat | None) -> Vec:
        """Its diagonal (m,); that of the matrix itself for multiples of single coefficients, or for None."""
        diagonal = np.diag(self.matrix)
        if rows is None:
            return diagonal
        out = np.empty(len(rows))
        alone = (rows != 0.0).sum(axis=1) == 1
        place = np.abs(rows[alone]).argmax(axis=1)
        out[alone] = diagonal[place] * rows[alone, place] ** 2
        if not alone.all():
            rest = rows[~alone]
            if self.outward is None or self.inner is None:
                out[~alone] = transformed_variances(rest, self.matrix)
            else:
                working = rest @ self.outward
                out[~alone] = np.einsum("mi,mi->m", working @ self.inner, working)
        return out


@runtime_checkable
class CovarianceKind(Protocol):
    """A kind of covariance as an object: `vcov=CR("school")`."""

    def covariance_of(self, fit: Answer) -> CoefficientCovariance:
        """The covariance of the kept coefficients of a fit, with the reference distribution that goes with it."""


def constant_df(
    mu: float, phi: float, n_mu: int, n_phi: int
) -> tuple[Callable[[Mat], Denominator], Callable[[Mat | None], Vec]]:
    """df_of and df_each that are the same for all functions of beta (n_mu), and for those with any gamma (n_phi)."""
    alone = np.concatenate([np.full(n_mu, mu), np.full(n_phi, phi)])

    def df_each(rows: Mat | None) -> Vec:
        return alone if rows is None else np.where((rows[:, n_mu:] != 0.0).any(axis=1), phi, mu)

    def df_of(rows: Mat) -> Denominator:
        return Denominator(phi if (rows[:, n_mu:] != 0.0).any() else mu)

    return df_of, df_each
