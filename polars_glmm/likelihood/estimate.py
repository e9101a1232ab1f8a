"""What a fitted likelihood hands upward: numbers on the scales people report, nothing about frames or searches."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from polars_glmm.families.base import Family
from polars_glmm.likelihood.parameters.parts import label
from polars_glmm.notes import Note
from polars_glmm.typing import Cube, IntVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class Between:
    """Cov(b_f, b_g | y) given the parameters, of a factor f with another, g.

    other             name of g
    own, its          pairs of their levels, sorted by both: (P,) each
    covariance        (r_f, r_g, P)
    every             other pairs are independent; else these are the pairs that met in a row, and of the covariance of
                      others nothing is known
    """

    other: str
    own: IntVec
    its: IntVec
    covariance: Cube
    every: bool

    def among(self, own: IntVec, its: IntVec) -> Between:
        """The same of some of the levels, which have these numbers then, −1 for those that are left out."""
        left, right = own[self.own], its[self.its]
        kept = (left >= 0) & (right >= 0)
        return Between(self.other, left[kept], right[kept], self.covariance[..., kept], self.every)


@dataclass(frozen=True, slots=True, eq=False)
class FactorEstimate:
    """Random effects of one grouping factor, all its terms side by side.

    name, term_names            as in design.records.Factor: names of all r columns
    parameters                  of the family whose predictor each of them belongs to; empty: all are mu's
    covariances                 one Σ_t (r_t, r_t) per term, absolute scale (gaussian: σ² included), as reported
    modes                       b̂ (r, G): conditional modes on the scale of the linear predictor
    mode_covariance             (r, r, G): Var(b | y) given the parameters
    level_covariance            (r, G, r, G): Cov(b | y) between all levels of a factor of which rows have several,
                                where these are not too many; else None
    between                     covariances with the modes of factors that were eliminated later: one for each pair of
                                factors of a model
    mode_slope                  (r, p, G): ∂b̂/∂beta, or None where it would be large; with random effects on phi too
                                (r, p+s, G), ∂b̂/∂(beta, gamma); the variance of a conditional
                                linear predictor x'β + z'b is z'Var(b|y)z + (x + s'z)'Var(β̂)(x + s'z) with s its
                                slope (r, p)
    """

    name: str
    term_names: tuple[str, ...]
    covariances: tuple[Mat, ...]
    structures: tuple[str, ...]
    modes: Mat
    mode_covariance: Cube
    mode_slope: Cube | None = None
    parameters: tuple[str, ...] = ()
    level_covariance: Cube | None = None
    between: tuple[Between, ...] = ()

    @property
    def parameter_of(self) -> tuple[str, ...]:
        """The parameter of the family that each effect is on."""
        return self.parameters or ("mu",) * len(self.term_names)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names that tell effects on several parameters apart."""
        return tuple(label(name, on) for name, on in zip(self.term_names, self.parameter_of, strict=True))


def conditional_std_error(mode_covariance: Cube) -> Mat:
    """√diag Var(b | y) given the parameters, (r, G), from (r, r, G)."""
    variance = np.einsum("kkg->kg", mode_covariance)
    return np.sqrt(np.where(variance >= 0.0, variance, np.nan))


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """Evidence that a fit is an optimum.

    decrement           Newton decrement ½g'H⁻¹g at the end, in units of log-likelihood
    smallest_curvature  smallest eigenvalue of the Hessian of −ℓ scaled to unit diagonal (null if skipped)
    exact               False where the Hessian was skipped and the search's own curvature stands in
    evaluations         of objective and gradient;  row_passes  over the rows (0 for gaussian products)
    seconds             per stage
    """

    decrement: float
    smallest_curvature: float | None
    exact: bool
    evaluations: int
    row_passes: float
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class AtInfinity:
    """Where fixed effects run off to infinity: of mu (separation), or of gamma.

    directions (p, k)    along which they do, (s, k) of gamma: x'β is estimated where x'directions = 0
    vcov (p+s, p+s)      covariance of (beta, gamma) across the directions, which counts for such x only
    """

    directions: Mat
    vcov: Mat


@dataclass(frozen=True, slots=True, eq=False)
class Working:
    """Covariances of the fixed effects in the basis they were computed in: (beta, gamma) = outward · working ones.

    Where columns are nearly alike, as powers of calendar years, x'Vx in the columns of the user cancels to nothing.

    outward (p+s, p+s);  vcov (p+s, p+s)
    derivative (K, p, p)   as Estimate.vcov_derivative, or None
    gram (p, p)            X'DX of the working columns of mu, D the precisions, or None
    """

    outward: Mat
    vcov: Mat
    derivative: Cube | None
    gram: Mat | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ResidualEstimate:
    """The correlation of residuals.

    structure   name of the correlation ("ar1")
    names       of its parameters: "rho(id)"
    values (k,) as reported: correlations, or lengths
    """

    structure: str
    names: tuple[str, ...]
    values: Vec


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A fitted model in numbers.

    beta (p,)                fixed effects of mu, in the columns of Design.mu.names
    gamma (s,)               those of other parameters that have a formula, on the scales of their links, in order
    vcov_fixed (p+s, p+s)    covariance of (beta, gamma) as reported
    phi                      the constant dispersion on its natural scale (gaussian: σ), None if modelled or absent,
                             inf for a negative binomial without overdispersion
    sizes                    coefficients of each parameter in gamma; empty: all are phi's
    first                    the parameter that beta is of: mu, or the first of a curve
    others                   further constant parameters by name, on their natural scale
    report                   vector [beta, gamma, vech Σ_1, vech Σ_2, …, correlations of residuals, constants: phi
                             first]; vech = lower triangle by rows (0,0),(1,0),(1,1),(2,0)…; a "diag" term has its
                             variances only
    report_vcov (R, R)       its covariance matrix; NaN rows and columns where no standard error exists (boundary, not
                             identified)
    loglik                   all constants included; restricted under REML
    loglik_saturated         of the saturated model, or None
    df_model                 parameters estimated: fixed, covariance (at the boundary or not) and dispersion; held ones
                             do not count
    df_satterthwaite (p,)    gaussian REML only, with ∂vcov(beta)/∂(covariance parameters) (K, p, p), their vcov (K, K)
    working                  what vcov_fixed was made from; None where some of it is not known
    at_infinity              fixed effects without a finite estimate, whose rows of vcov_fixed are NaN
    further_at_infinity      the same of gamma: phi at the limit of its family, zeros that are predicted without error
    residual                 the correlation of the residuals where that has parameters, or None
    null_loglik, null_df     the same fixed effects and method without random effects, for the likelihood-ratio test
    """

    beta: Vec
    gamma: Vec
    vcov_fixed: Mat
    phi: float | None
    factors: tuple[FactorEstimate, ...]
    report: Vec
    report_vcov: Mat
    loglik: float
    loglik_saturated: float | None
    n_obs: int
    df_model: int
    df_resid: int
    singular: bool
    converged: bool
    df_satterthwaite: Vec | None  # (p,) gaussian REML only
    vcov_derivative: Cube | None  # (K, p, p): ∂vcov(beta)/∂(covariance parameters), gaussian only
    covariance_vcov: Mat | None  # (K, K): covariance matrix of those parameters
    null_loglik: float | None  # same fixed effects and method without random effects (for the LR test)
    null_df: int
    certificate: Certificate
    notes: tuple[Note, ...]
    at_infinity: AtInfinity | None = None
    further_at_infinity: AtInfinity | None = None
    working: Working | None = None
    residual: ResidualEstimate | None = None
    others: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    first: str = "mu"

    @property
    def constants(self) -> dict[str, float]:
        """Constant parameters by name, in the order in which they end `report`."""
        return self.others if self.phi is None else {"phi": self.phi, **self.others}

    @property
    def coefficients(self) -> dict[str, Vec]:
        """Coefficients by the parameter that has them in a formula."""
        found, start = {self.first: self.beta}, 0
        for name, size in (self.sizes or {"phi": len(self.gamma)}).items():
            found[name] = self.gamma[start : start + size]
            start += size
        return found

    @property
    def phi_place(self) -> int:
        """Where a constant phi stands in `report`."""
        return len(self.report) - 1 - len(self.others)


def exact_freedom(estimate: Estimate, family: Family) -> float | None:
    """n − p, where t is exact: gaussian with identity link and one σ, without random effects; else None."""
    if estimate.factors or not family.linear or len(estimate.gamma) or estimate.residual is not None:
        return None
    return float(estimate.n_obs - len(estimate.beta))
