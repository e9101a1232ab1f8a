"""Estimates of many models in arrays, and the Estimate of one of them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from polars_glmm.likelihood.estimate import Certificate, Estimate, FactorEstimate
from polars_glmm.likelihood.optimum.notes import ADVICE, CONVERGED, collapse
from polars_glmm.notes import Note
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class BatchEstimate:
    """M fitted models of one formula; fields as in likelihood.estimate.Estimate, the models on the first axis.

    covariances    one (M, r_t, r_t) per term of the factor
    modes          (r, G) for all levels of all models; mode_covariance (r, r, G), mode_slope (r, p, G)
    model_levels   (M,) how many levels each has
    rank           of all covariance matrices: less than the number of effects where they are singular
    notes          of every model, besides that of a singular covariance matrix
    df_satterthwaite (M, p), vcov_derivative (M, K, p, p), covariance_vcov (M, K, K): gaussian REML, else None
    """

    beta: Mat
    phi: Vec | None
    report: Mat
    report_vcov: Cube
    covariances: tuple[Cube, ...]
    factor: str | None
    term_names: tuple[str, ...]
    structures: tuple[str, ...]
    modes: Mat
    mode_covariance: Cube
    mode_slope: Cube | None
    model_levels: IntVec
    loglik: Vec
    loglik_saturated: Vec | None
    n_obs: IntVec
    df_model: int
    null_df: int
    null_loglik: Vec | None
    rank: int
    notes: tuple[Note, ...]
    decrement: Vec
    smallest: Vec | None
    evaluations: IntVec
    row_passes: Vec
    seconds: dict[str, float]
    df_satterthwaite: Mat | None = None
    vcov_derivative: Cube | None = None
    covariance_vcov: Cube | None = None

    @property
    def n_models(self) -> int:
        return len(self.beta)

    @property
    def gamma(self) -> Mat:
        """(M, 0): phi has no formula."""
        return np.empty((self.n_models, 0))

    @property
    def factors(self) -> tuple[FactorEstimate, ...]:
        """The factor of all models: covariances (M, r_t, r_t), and the levels of all."""
        if self.factor is None:
            return ()
        own = (self.modes, self.mode_covariance, self.mode_slope)
        return (FactorEstimate(self.factor, self.term_names, self.covariances, self.structures, *own),)

    @property
    def constants(self) -> dict[str, Vec]:
        """Constant parameters by name (M,)."""
        return {} if self.phi is None else {"phi": self.phi}

    @property
    def df_resid(self) -> IntVec:
        """Observations less parameters (M,)."""
        return self.n_obs - self.df_model

    @property
    def converged(self) -> BoolVec:
        """Whose search reached an optimum (M,)."""
        return self.decrement < CONVERGED

    @property
    def residual(self) -> None:
        """Residuals are not correlated."""
        return

    @property
    def vcov_fixed(self) -> Cube:
        """(M, p, p)."""
        p = self.beta.shape[1]
        return self.report_vcov[:, :p, :p]

    @property
    def of_level(self) -> IntVec:
        """The model of every level, (G,)."""
        return np.repeat(np.arange(self.n_models), self.model_levels)

    def take(self, keep: BoolVec) -> BatchEstimate:
        """Some of the models, in the same order."""
        levels = np.repeat(keep, self.model_levels)
        by_level = {"modes", "mode_covariance", "mode_slope"}
        changes: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray):
                changes[f.name] = value[..., levels] if f.name in by_level else value[keep]
        return replace(self, covariances=tuple(c[keep] for c in self.covariances), **changes)

    @property
    def singular(self) -> bool:
        """Every one of the models is on the boundary (or none is)."""
        return self.rank < len(self.term_names)

    def one(self, k: int) -> Estimate:
        """The Estimate of model k."""
        stop = int(self.model_levels[: k + 1].sum())
        levels = slice(stop - int(self.model_levels[k]), stop)
        slope = None if self.mode_slope is None else self.mode_slope[..., levels]
        factors = tuple(
            replace(
                factor, covariances=tuple(c[k] for c in factor.covariances), modes=factor.modes[:, levels],
                mode_covariance=factor.mode_covariance[..., levels], mode_slope=slope,
            )
            for factor in self.factors
        )  # fmt: skip
        return Estimate(
            beta=self.beta[k],
            gamma=np.empty(0),
            vcov_fixed=self.vcov_fixed[k],
            phi=_at(self.phi, k),
            factors=factors,
            report=self.report[k],
            report_vcov=self.report_vcov[k],
            loglik=float(self.loglik[k]),
            loglik_saturated=_at(self.loglik_saturated, k),
            n_obs=int(self.n_obs[k]),
            df_model=self.df_model,
            df_resid=int(self.df_resid[k]),
            singular=self.singular,
            converged=bool(self.converged[k]),
            df_satterthwaite=None if self.df_satterthwaite is None else self.df_satterthwaite[k],
            vcov_derivative=None if self.vcov_derivative is None else self.vcov_derivative[k],
            covariance_vcov=None if self.covariance_vcov is None else self.covariance_vcov[k],
            null_loglik=_at(self.null_loglik, k),
            null_df=self.null_df,
            certificate=Certificate(
                float(self.decrement[k]),
                _at(self.smallest, k),
                self.smallest is not None,
                int(self.evaluations[k]),
                float(self.row_passes[k]),
                self.seconds,
            ),
            notes=self.notes_of(k),
        )

    def without_dispersion(self, phi: float, note: Note) -> BatchEstimate:
        """The same with a dispersion that is no estimate but a limit, and a note that says so."""
        n, size = self.report.shape
        vcov = np.full((n, size + 1, size + 1), np.nan)
        vcov[:, :size, :size] = self.report_vcov
        return replace(
            self,
            phi=np.full(n, phi),
            report=np.column_stack([self.report, np.full(n, phi)]),
            report_vcov=vcov,
            loglik_saturated=None,
            df_model=self.df_model + 1,
            null_df=self.null_df + 1,
            notes=(*self.notes, note),
        )

    def notes_of(self, k: int) -> tuple[Note, ...]:
        """What the estimation of model k has to remark."""
        return (self.singular_note(k), *self.notes) if self.singular else self.notes

    def singular_note(self, k: int) -> Note:
        """The note of a covariance matrix on the boundary, in the words of likelihood.optimum.notes."""
        text = collapse(str(self.factor), self.term_names, self.covariances[0][k], self.rank)
        return Note("singular", text, ADVICE)


class BatchOptima(NamedTuple):
    """What optima of M models are: all that a refit is asked for.

    beta (M, p), phi (M,) or None, covariances (M, r_t, r_t) per term in the order of the formula, ℓ (M,), decrements
    (M,), and whether all of them are on the boundary
    """

    beta: Mat
    phi: Vec | None
    covariances: tuple[Cube, ...]
    structures: tuple[str, ...]
    loglik: Vec
    decrement: Vec
    singular: bool

    def take(self, keep: BoolVec) -> BatchOptima:
        """Some of the models, in the same order."""
        phi = None if self.phi is None else self.phi[keep]
        own = tuple(c[keep] for c in self.covariances)
        return self._replace(
            beta=self.beta[keep], phi=phi, covariances=own, loglik=self.loglik[keep], decrement=self.decrement[keep]
        )


class OptimaAnswer(NamedTuple):
    """Optima of the models marked in `answered` (M,)."""

    optima: BatchOptima
    answered: BoolVec


class BatchAnswer(NamedTuple):
    """Estimates of the models marked in `answered` (M,)."""

    estimate: BatchEstimate
    answered: BoolVec


def among(models: BoolVec, some: BoolVec) -> BoolVec:
    """Marks over all of those among `models` that `some` marks."""
    out = models.copy()
    out[models] = some
    return out


def _at(values: Vec | None, k: int) -> float | None:
    return None if values is None else float(values[k])
