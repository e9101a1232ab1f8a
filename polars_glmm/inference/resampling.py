"""Verbs that fit a model again and again: parametric and cluster bootstrap, the null distribution of a test."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np
import polars as pl

from polars_glmm import progress
from polars_glmm.design.learn import learn
from polars_glmm.design.records import Design
from polars_glmm.errors import ModelError, enumerate_names, suggest
from polars_glmm.fitting.again import data_for
from polars_glmm.inference.bootstrap import INTERVALS, BootstrapInterval, bootstrap_intervals, draws_table
from polars_glmm.inference.compare import NOISE, anova
from polars_glmm.likelihood.given import of_estimate
from polars_glmm.likelihood.refits.law import Law, every_row
from polars_glmm.likelihood.refits.refit import RefitQuestion, Refitted, refit_designs, refit_responses
from polars_glmm.likelihood.refits.resample import leave_out, require_nested, resampled
from polars_glmm.prediction.seeds import seed_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polars_glmm.answer.record import Answer
    from polars_glmm.typing import Mat, Vec

BootstrapKind: TypeAlias = Literal["parametric", "cluster"]


class Resampling(NamedTuple):
    """How a bootstrap is made: number of draws, seed or generator, kind, and the group whose levels are resampled."""

    n: int = 1000
    rng: np.random.Generator | int | None = None
    kind: BootstrapKind = "parametric"
    group: str | None = None


def bootstrap(fit: Answer, asked: Resampling) -> pl.DataFrame:
    """The frame of draws."""
    seed = checked_seed(asked.n, asked.rng)
    if asked.kind not in ("parametric", "cluster"):
        msg = f"kind={asked.kind!r} is not known: use 'parametric' or 'cluster'."
        raise ModelError(msg)
    design = _design(fit, "bootstrap()")
    with progress.listening(fit.control.progress):
        if asked.kind == "cluster":
            name = _cluster(design, asked.group)
            found = refit_designs(question_of(fit), resampled(design, name, seed, range(asked.n)), asked.n)
        else:
            law = Law.of(design, fit.spec.family, fit.estimate)
            found = refit_responses(question_of(fit), design, law, seed, range(asked.n))
    _require_some(found)
    return draws_table(fit, found, seed)


def bootstrap_confint(
    fit: Answer,
    which: str | Sequence[str],
    conf_level: float,
    interval: BootstrapInterval,
    asked: Resampling,
    draws: pl.DataFrame | None,
) -> pl.DataFrame:
    """Intervals from draws given, or made for the occasion."""
    if interval not in INTERVALS:
        msg = (
            f"interval={interval!r} is not known.{suggest(str(interval), INTERVALS)} Use 'percentile', 'basic', 'bca'."
        )
        raise ModelError(msg)
    made = bootstrap(fit, asked) if draws is None else draws
    return bootstrap_intervals(fit, made, which, conf_level, interval, _left_out(fit) if interval == "bca" else None)


class NullDistribution(NamedTuple):
    """Likelihood-ratio statistics of responses drawn from the smaller model (B,), NaN where a refit failed."""

    statistics: Vec
    seed: int


def null_distribution(
    small: Answer, large: Answer, n: int = 1000, rng: np.random.Generator | int | None = None
) -> NullDistribution:
    """Both models fitted to responses of the smaller one: how twice the gain of log-likelihood is distributed there."""
    seed = checked_seed(n, rng)
    less, more = _design(small, "a bootstrap test"), _design(large, "a bootstrap test")
    law = Law.of(less, small.spec.family, small.estimate)
    with progress.listening(small.control.progress):
        null, full = (
            refit_responses(question_of(fit), design, law, seed, range(n))
            for fit, design in ((small, less), (large, more))
        )
    return NullDistribution(np.maximum(2.0 * (full.loglik - null.loglik), 0.0), seed)


def anova_bootstrap(fits: tuple[Answer, ...], n: int, rng: np.random.Generator | int | None) -> pl.DataFrame:
    """The table of `anova` with p-values by simulation from each smaller model (Davison & Hinkley 1997, eq. 4.11).

    p_bootstrap = (1 + draws at least as large)/(1 + n_draws); mc_error its standard error. All tests share a seed.
    """
    seed = checked_seed(n, rng)
    answer = anova(fits)
    ordered = sorted(fits, key=lambda fit: fit.estimate.df_model)
    found: list[tuple[float | None, float | None, int | None]] = [(None, None, None)]
    for (small, large), chisq in zip(pairwise(ordered), answer["chisq"][1:], strict=True):
        if chisq is None:
            found.append((None, None, None))
            continue
        draws = null_distribution(small, large, n, seed).statistics
        draws = draws[np.isfinite(draws)]
        if not len(draws):
            msg = f"No draw of {small.formula!r} could be fitted by both models: there is no test by simulation."
            raise ModelError(msg)
        larger = int((np.where(draws < NOISE, 0.0, draws) >= (chisq if chisq >= NOISE else 0.0)).sum())
        p = (1 + larger) / (1 + len(draws))
        found.append((p, float(np.sqrt(p * (1.0 - p) / len(draws))), len(draws)))
    columns = zip(("p_bootstrap", "mc_error", "n_draws"), zip(*found, strict=True), strict=True)
    dtypes = {"n_draws": pl.Int64}
    added = [pl.Series(name, values, dtype=dtypes.get(name, pl.Float64)) for name, values in columns]
    return answer.with_columns(*added, pl.lit(seed, pl.Int64).alias("seed"))


def checked_seed(n: int, rng: np.random.Generator | int | None) -> int:
    """A seed to keep: the one given, or one drawn. Raises ModelError for what is no number of draws, or no seed."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        msg = f"n={n!r}: the number of draws is a whole number of at least 1."
        raise ModelError(msg)
    return seed_of(rng)


def question_of(fit: Answer) -> RefitQuestion:
    """The model of a fit, to be fitted again from its estimates."""
    names = fit.recipe.starting_names()
    return RefitQuestion(fit.recipe.spec, fit.control, fit.call.fixed or {}, of_estimate(names, fit.estimate))


def _design(fit: Answer, verb: str) -> Design:
    """The design of a fit with a row for each observation."""
    return every_row(learn(fit.call.spec(), data_for(fit, verb), missing=fit.call.missing).design)


def _cluster(design: Design, group: str | None) -> str:
    names = [factor.name for factor in design.factors]
    if group is None and len(names) == 1:
        return names[0]
    if not names:
        msg = "kind='cluster' resamples the levels of a grouping factor, and this model has none."
        raise ModelError(msg)
    if group is None or group not in names:
        near = "" if group is None else suggest(str(group), names)
        msg = f"group={group!r}: name the factor whose levels to resample, {enumerate_names(names)}.{near}"
        raise ModelError(msg)
    require_nested(design, group)
    return group


def _left_out(fit: Answer) -> Mat:
    """Estimates with one level of the coarsest group left out (or one part of the rows, where there are no groups)."""
    design = _design(fit, "interval='bca'")
    parts = list(leave_out(design))
    return refit_designs(question_of(fit), iter(parts), len(parts)).values


def _require_some(found: Refitted) -> None:
    if all(status == "failed" for status in found.status):
        msg = "No draw could be fitted: the model cannot be fitted to data of its own. Check fit.diagnose()."
        raise ModelError(msg)
