"""Refitted: the natural parameters and log-likelihood of many designs that a model is fitted to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from polars_glmm import progress
from polars_glmm.control import Control
from polars_glmm.covariance.structures import STRUCTURES, field_of, range_of
from polars_glmm.design.by_key.records import KeyedDesign
from polars_glmm.design.records import Design
from polars_glmm.errors import GlmmError
from polars_glmm.likelihood.estimate import Estimate
from polars_glmm.likelihood.given import Given, OfFit
from polars_glmm.likelihood.many.begin import BatchStart
from polars_glmm.likelihood.many.build import answers, optima_batch
from polars_glmm.likelihood.many.estimate import BatchOptima
from polars_glmm.likelihood.parameters.parts import label
from polars_glmm.likelihood.refits.law import Law
from polars_glmm.likelihood.refits.responses import NewResponses
from polars_glmm.likelihood.refits.together import (
    ROWS_AT_ONCE,
    fits_together,
    full_rank,
    models_at_once,
    of_designs,
    of_responses,
)
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.spec.model import ModelSpec
from polars_glmm.typing import Mat, Vec

FitStatus = Literal["ok", "singular", "not_converged", "failed"]
FEWEST = 4
"""Models from which they are fitted together."""


class Refitted(NamedTuple):
    """B refits: natural parameters (B, K), NaN where the fit failed; log-likelihoods (B,); what became of each."""

    values: Mat
    loglik: Vec
    status: list[FitStatus]


@dataclass(frozen=True, slots=True, eq=False)
class RefitQuestion:
    """A model to be fitted again: its question, settings, what the user holds, and where a single search starts."""

    spec: ModelSpec
    control: Control
    fixed: Mapping[str, float]
    start: OfFit

    @property
    def together(self) -> bool:
        """Whether models of this family and method can be fitted together."""
        return not self.fixed and answers(self.spec)


def refit_responses(question: RefitQuestion, design: Design, law: Law, seed: int, draws: Sequence[int]) -> Refitted:
    """The model fitted to responses drawn from a law over rows that the design has too."""
    found = _Collected(len(draws))
    new: NewResponses | None = None
    together = question.together and fits_together(design, question.spec)
    with progress.stage("refits", len(draws)):
        for part in _chunks(len(draws), models_at_once(design)):
            responses = law.responses(seed, [draws[i] for i in part])
            rest = [k for k, y in enumerate(responses) if np.isfinite(y).all()]
            if together and len(rest) >= FEWEST:
                done = _batched(question, design, of_responses(design, responses[rest]), found, [part[k] for k in rest])
                rest = [k for k in rest if part[k] not in done]
                progress.advance(len(done))
            if rest and new is None:
                new = NewResponses(question.spec, replace(design, y=responses[rest[0]]), question.control)
            for k in rest:
                assert new is not None
                found.attempt(part[k], question, new, responses[k])
                progress.advance()
    return found.refits()


def refit_designs(question: RefitQuestion, designs: Iterator[Design], n: int) -> Refitted:
    """The model fitted to n designs of the same columns."""
    found, spec = _Collected(n), question.spec
    with progress.stage("refits", n):
        waiting: list[tuple[int, Design]] = []
        most = n
        for number, design in enumerate(designs):
            if full_rank(design):
                most = min(most, models_at_once(design)) if not waiting else most
                waiting.append((number, design))
            if number == n - 1 or sum(d.n_rows for _, d in waiting) > ROWS_AT_ONCE or len(waiting) >= most:
                rest = waiting
                if question.together and len(waiting) >= FEWEST and all(fits_together(d, spec) for _, d in waiting):
                    numbers = [k for k, _ in waiting]
                    done = _batched(question, design, of_designs([d for _, d in waiting]), found, numbers)
                    rest = [(k, d) for k, d in waiting if k not in done]
                for k, one in rest:
                    found.attempt(k, question, NewResponses(spec, one, question.control), one.y)
                waiting = []
            progress.advance()
    return found.refits()


def _batched(
    question: RefitQuestion, design: Design, keyed: KeyedDesign, found: _Collected, numbers: Sequence[int]
) -> set[int]:
    """Fit together what can be; the numbers of those that were answered. `design` has the columns of all."""
    control = replace(question.control, search=replace(question.control.search, hessian=False))
    begin = _begin(question.start, design)
    done: set[int] = set()
    with one_blas_thread():
        for optima, models in optima_batch(keyed, question.spec.family, question.spec.method, control, begin):
            own = [numbers[k] for k in np.flatnonzero(models).tolist()]
            found.take(own, optima)
            done |= set(own)
    return done


def _begin(start: OfFit, design: Design) -> BatchStart:
    """A start in natural parameters as searches side by side take it; standard deviations that it lacks are zero."""
    covariances = []
    for factor in design.factors:
        for t in factor.terms:
            labels = [label(name, on) for name, on in zip(t.names, t.parameter_of, strict=True)]
            sd = np.array([start.get(f"sd({factor.name}: {name})", 0.0) for name in labels])
            covariances.append(np.diag(sd**2))
    beta = [start.get(name, np.nan) for name in design.mu.names]
    known = bool(np.isfinite(beta).all())
    return BatchStart(tuple(covariances), np.array(beta) if known else None, start.get("phi"))


class _Collected:
    """Refitted as they come in."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._values: Mat | None = None
        self._loglik = np.full(n, np.nan)
        self._status: list[FitStatus] = ["failed"] * n

    def take(self, places: Sequence[int], batch: BatchOptima) -> None:
        values = natural_values_of_many(batch)
        self._room(values.shape[1])[list(places)] = values
        self._loglik[list(places)] = batch.loglik
        for place in places:
            self._status[place] = "singular" if batch.singular else "ok"

    def attempt(self, place: int, question: RefitQuestion, new: NewResponses, y: Vec) -> None:
        """Fit one response singly; an error of this package leaves the refit failed."""
        try:
            one = new.estimate(y, Given(question.start, question.fixed))
        except GlmmError:
            return
        values = natural_values(one)
        self._room(len(values))[place] = values
        self._loglik[place] = one.loglik
        self._status[place] = "singular" if one.singular else "ok" if one.converged else "not_converged"

    def refits(self) -> Refitted:
        values = np.full((self._n, 0), np.nan) if self._values is None else self._values
        return Refitted(values, self._loglik, self._status)

    def _room(self, k: int) -> Mat:
        if self._values is None:
            self._values = np.full((self._n, k), np.nan)
        return self._values


def natural_values(estimate: Estimate) -> Vec:
    """[beta, sds and correlations of each term (lower triangle by rows), those of the residuals, gamma, constants]."""
    parts: list[Vec] = [estimate.beta]
    for factor in estimate.factors:
        for sigma, structure in zip(factor.covariances, factor.structures, strict=True):
            parts.append(_spread(sigma[None], structure)[0])
    if estimate.residual is not None:
        parts.append(estimate.residual.values)
    parts.append(estimate.gamma)
    parts.append(np.array([*estimate.constants.values()]))
    return np.concatenate(parts)


def natural_values_of_many(batch: BatchOptima) -> Mat:
    """`natural_values` of many models, (M, K)."""
    parts = [batch.beta]
    for sigma, structure in zip(batch.covariances, batch.structures, strict=True):
        parts.append(_spread(sigma, structure))
    if batch.phi is not None:
        parts.append(batch.phi[:, None])
    return np.concatenate(parts, axis=1)


def _spread(sigma: Mat, structure: str) -> Mat:
    """Standard deviations and correlations that are parameters, of matrices (M, r, r)."""
    sd: Mat = np.sqrt(np.einsum("mii->mi", sigma))
    rows, columns = STRUCTURES[structure].vech(sd.shape[1])
    apart = rows != columns
    own = sd[:, rows[~apart]]
    if not apart.any():
        return own
    if field_of(structure) is not None:
        return np.column_stack([own, np.array([range_of(structure, one) for one in sigma], dtype=np.float64)])
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = sigma / (sd[:, :, None] * sd[:, None])
    return np.concatenate([own, np.clip(correlation[:, rows[apart], columns[apart]], -1.0, 1.0)], axis=1)


def _chunks(n: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, n)) for start in range(0, n, size))
