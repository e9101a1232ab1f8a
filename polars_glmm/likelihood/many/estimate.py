"""Estimates of many models in arrays, and the Estimate of one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from polars_glmm.likelihood.estimate import Certificate, Estimate, FactorEstimate
from polars_glmm.likelihood.optimum.notes import ADVICE, CONVERGED, collapse
from polars_glmm.linalg.side_by_side import LevelsOf, of_model
from polars_glmm.notes import Note
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class BatchEstimate:
    """M fitted models of one formula; fields as in likelihood.estimate.Estimate, the models on the first axis.

    factors        in the order of the formula: covariances (M, r_t, r_t), modes (r, G) for all levels of all models,
                   mode_covariance (r, r, G), mode_slope (r, p, G)
    model_levels   per factor (M,) how many levels each has
    ranks          of the covariance matrix of every term: less than its effects where it is singular
    notes          of every model, besides those of singular covariance matrices
    df_satterthwaite (M, p), vcov_derivative (M, K, p, p), covariance_vcov (M, K, K): gaussian REML, else None
    """

    beta: Mat
    phi: Vec | None
    report: Mat
    report_vcov: Cube
    factors: tuple[FactorEstimate, ...]
    model_levels: tuple[IntVec, ...]
    loglik: Vec
    loglik_saturated: Vec | None
    n_obs: IntVec
    df_model: int
    null_df: int
    null_loglik: Vec | None
    ranks: tuple[int, ...]
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
    def levels(self) -> tuple[LevelsOf, ...]:
        """The levels of every factor."""
        return tuple(LevelsOf.of(counts) for counts in self.model_levels)

    def take(self, keep: BoolVec) -> BatchEstimate:
        """Some of the models, in the same order."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        changes: dict[str, Any] = {name: v[keep] for name, v in arrays.items() if isinstance(v, np.ndarray)}
        own = self._some_of(keep, [keep[at.model] for at in self.levels])
        return replace(
            self, factors=own, model_levels=tuple(n[keep] for n in self.model_levels), **changes
        )

    @property
    def singular(self) -> bool:
        """Every one of the models is on the boundary (or none is)."""
        return sum(self.ranks) < sum(len(factor.term_names) for factor in self.factors)

    def one(self, k: int) -> Estimate:
        """The Estimate of model k."""
        factors = self._some_of(k, [of_model(counts, k) for counts in self.model_levels])
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

    def _some_of(self, models: BoolVec | int, levels: Sequence[BoolVec | slice]) -> tuple[FactorEstimate, ...]:
        """The factors' numbers for some of the models, or for one, with their levels."""
        numbers = {
            factor.name: _renumbered(factor.modes.shape[1], own)
            for factor, own in zip(self.factors, levels, strict=True)
        }
        return tuple(
            _some_of(factor, models, own, numbers) for factor, own in zip(self.factors, levels, strict=True)
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
        return (*self._singular_notes(k), *self.notes) if self.singular else self.notes

    def _singular_notes(self, k: int) -> list[Note]:
        """Notes of covariance matrices on the boundary, as optimum.notes words and orders them: most levels first."""
        found: list[list[Note]] = []
        ranks = iter(self.ranks)
        for factor in self.factors:
            names, said = factor.term_names, []
            for covariance in factor.covariances:
                own, names, rank = names[: covariance.shape[-1]], names[covariance.shape[-1] :], next(ranks)
                if rank < len(own):
                    said.append(Note("singular", collapse(factor.name, own, covariance[k], rank), ADVICE))
            found.append(said)
        order = sorted(range(len(found)), key=lambda f: -int(self.model_levels[f][k]))
        return [note for f in order for note in found[f]]


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


def _renumbered(n: int, levels: BoolVec | slice) -> IntVec:
    """The number of each of n levels among some of them, −1 of the others."""
    out = np.full(n, -1, dtype=np.intp)
    chosen = np.arange(n)[levels]
    out[chosen] = np.arange(len(chosen))
    return out


def _some_of(
    factor: FactorEstimate, models: BoolVec | int, levels: BoolVec | slice, numbers: dict[str, IntVec]
) -> FactorEstimate:
    """A factor's numbers for some of the models, or for one, with their levels, which are numbered anew."""
    return replace(
        factor,
        covariances=tuple(c[models] for c in factor.covariances),
        modes=factor.modes[:, levels],
        mode_covariance=factor.mode_covariance[..., levels],
        mode_slope=None if factor.mode_slope is None else factor.mode_slope[..., levels],
        between=tuple(one.among(numbers[factor.name], numbers[one.other]) for one in factor.between),
    )


def among(models: BoolVec, some: BoolVec) -> BoolVec:
    """Marks over all of those among `models` that `some` marks."""
    out = models.copy()
    out[models] = some
    return out


def _at(values: Vec | None, k: int) -> float | None:
    return None if values is None else float(values[k])
