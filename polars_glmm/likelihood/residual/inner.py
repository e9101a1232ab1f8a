"""[Z W]'R⁻¹[Z W] at one γ, W = [X y]: the products, and what derivatives of ℓ ask of ∂R⁻¹.

Z holds the d distinct random columns, cut into cells: runs of rows of one combination of levels. γ holds s
coefficients of log φ and the k working parameters of the correlation.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from polars_glmm.likelihood.products.cross import CrossProducts
from polars_glmm.typing import Cube, Mat, Vec


class Adjoint(NamedTuple):
    """Columns q = [ZK, (W − ZΛB)v] whose Σ q'∂R⁻¹q is asked for.

    between (d, d, C) = KK' = ΛH⁻¹Λ' and through (d, m, C) = ΛB within cells, or None without random effects;  v (m, c)
    """

    between: Cube | None
    through: Cube | None
    v: Mat


class Inner(Protocol):
    """The products at one γ."""

    def products(self) -> CrossProducts:
        """All that the likelihood needs of them."""

    @property
    def log_r(self) -> float:
        """log|R|."""

    @property
    def noise(self) -> float:
        """The geometric mean of the standard deviations of residuals."""

    def slopes(self, adjoint: Adjoint) -> Vec:
        """∂log|R|/∂γ + Σ_q ∂(q'R⁻¹q)/∂γ, (s + k,)."""

    def forms(self, through: Cube | None) -> Cube:
        """∂(X⊥'R⁻¹X⊥)/∂γ for X⊥ = X − ZΛB_x, (s + k, p, p)."""


class Inners(Protocol):
    """γ → the products, for rows that stay."""

    def at(self, gamma: Vec, *, random: bool) -> Inner | None:
        """The products at γ, those of Z with them if `random`; None where R is not positive definite."""
