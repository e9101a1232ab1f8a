"""Verbs about how much a model explains, and whether a variance is needed: what they read and refit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.design.learn import learn
from polars_glmm.errors import ModelError, enumerate_names
from polars_glmm.families.latent import needs_null, residual_variances
from polars_glmm.fitting.again import data_for
from polars_glmm.fitting.flow import fit_call
from polars_glmm.inference.compare import NOISE
from polars_glmm.inference.distributions import chi_bar_p
from polars_glmm.inference.explained import (
    icc_table,
    mean_fitted,
    null_of,
    parts_of,
    r2_table,
    random_parts,
)
from polars_glmm.inference.resampling import checked_seed
from polars_glmm.inference.rlrt import eigenvalues, null_draws
from polars_glmm.inference.schemas import RLRT, table
from polars_glmm.prediction.categories import labels_of
from polars_glmm.prediction.category_quantities import CATEGORY
from polars_glmm.spec.reduced import null_formulas, without_term

if TYPE_CHECKING:
    from collections.abc import Callable

    from polars_glmm.answer.record import Answer
    from polars_glmm.design.records import Design
    from polars_glmm.families.latent import Null
    from polars_glmm.typing import Mat

MOST_LEVELS = 3000
"""Levels of which the eigenvalues are computed: a dense matrix of so many rows."""


def r2(fit: Answer) -> pl.DataFrame:
    """The table of R²."""
    design = _design(fit, "r2()")
    if fit.spec.family.unordered:
        return _by_category(fit, lambda k: r2_table(fit, parts_of(fit, design, k), None, np.nan))
    return r2_table(fit, parts_of(fit, design), _null(fit, "r2()"), mean_fitted(fit, design))


def icc(fit: Answer) -> pl.DataFrame:
    """The table of intraclass correlations."""
    if not fit.estimate.factors:
        msg = "icc() is of random effects, and this model has none."
        raise ModelError(msg)
    design = _design(fit, "icc()")
    if fit.spec.family.unordered:
        (residual,) = residual_variances(fit.spec.family, {}, None, np.nan)
        return _by_category(fit, lambda k: icc_table(design, random_parts(fit, design, k), residual))
    null, mean = _null(fit, "icc()"), mean_fitted(fit, design)
    first = next(residual_variances(fit.spec.family, fit.estimate.constants, null, mean))
    return icc_table(design, random_parts(fit, design), first)


def _by_category(fit: Answer, table_of: Callable[[int], pl.DataFrame]) -> pl.DataFrame:
    """Those of the log odds of each category against the baseline, whose latent variance is π²/3 (Hedeker 2003)."""
    categories = enumerate(labels_of(fit.recipe)[1:])
    return pl.concat([table_of(k).select(pl.lit(label).alias(CATEGORY), pl.all()) for k, label in categories])


def rlrt(fit: Answer, term: str | None, n: int, rng: np.random.Generator | int | None) -> pl.DataFrame:
    """The exact test of one variance."""
    seed = checked_seed(n, rng)
    spec = fit.spec
    if not spec.family.linear or fit.estimate.phi is None or spec.residual is not None:
        msg = (
            "rlrt() is for gaussian models with identity link and one residual variance, without residual=; "
            "anova(smaller, larger, method='bootstrap') is for all."
        )
        raise ModelError(msg)
    number = _term(fit, term)
    asked = spec.mu.random[number]
    data = data_for(fit, "rlrt()")
    full = fit if fit.method == "reml" else fit_call(data, fit.call.changed(method="reml"), fit.control, warn=False)
    less = fit.call.changed(formulas=without_term(spec, number), groups=None, method="reml")
    null = fit_call(data, less, fit.control, warn=False)
    design = learn(fit.call.spec(), data, missing=fit.call.missing).design
    weights = _weights(design)
    x, z = design.mu.x * np.sqrt(weights), _columns(design, fit, number) * np.sqrt(weights)
    statistic = max(2.0 * (full.loglik - null.loglik), 0.0)
    draws = null_draws(eigenvalues(x, z), design.n_obs - len(x), n, np.random.default_rng(seed))
    p = float((draws > (statistic if statistic > NOISE else 0.0)).mean())
    row = {
        "group": asked.group,
        "term": asked.text,
        "statistic": statistic,
        "p_value": p,
        "mc_error": float(np.sqrt(max(p * (1.0 - p), 1.0 / n) / n)),
        "chibar_p": 0.5 if statistic <= NOISE else chi_bar_p(statistic, (0, 1)),
        "n_draws": n,
        "method": "exact" if len(spec.mu.random) == 1 else "pseudo",
        "seed": seed,
    }
    return table(RLRT, {name: [value] for name, value in row.items()})


def _term(fit: Answer, term: str | None) -> int:
    """The number of the random term that is tested. Raises ModelError unless it has one variance."""
    random = fit.spec.mu.random
    texts = [one.text for one in random]
    found = [k for k, one in enumerate(random) if term is None or term in (one.text, one.text.strip("()"), one.group)]
    if len(found) != 1:
        names = enumerate_names(texts) if texts else "none"
        msg = f"term={term!r}: name one of the random terms by its text or group: {names}."
        raise ModelError(msg)
    number = found[0]
    factor, place = _place(fit, number)
    if len(next(f for f in fit.recipe.factors if f.name == factor).terms[place].columns) != 1:
        msg = (
            f"{texts[number]} has several variances: rlrt() tests one. Write the term with a single column, as in "
            "(1 | g) + (0 + x | g), or use anova(smaller, larger, method='bootstrap')."
        )
        raise ModelError(msg)
    return number


def _place(fit: Answer, number: int) -> tuple[str, int]:
    """The grouping factor of a random term, and its number among the terms of that factor."""
    keys = [frozenset(one.keys) for one in fit.spec.mu.random]
    names = {frozenset(f.keys): f.name for f in fit.recipe.factors}
    return names[keys[number]], [k for k, key in enumerate(keys) if key == keys[number]].index(number)


def _columns(design: Design, fit: Answer, number: int) -> Mat:
    """Z of a term, (G, n)."""
    name, place = _place(fit, number)
    factor = next(f for f in design.factors if f.name == name)
    if factor.n_levels > MOST_LEVELS:
        msg = f"{factor.name!r} has {factor.n_levels} levels: rlrt() takes at most {MOST_LEVELS}."
        raise ModelError(msg)
    z: Mat = factor.on_rows(np.eye(factor.n_levels)) * factor.z[factor.terms[place].start]
    return z if factor.prior is None else factor.prior.low.T @ z


def _weights(design: Design) -> Mat:
    """What a row weighs in the sums of squares (n,)."""
    f = np.ones(design.n_rows) if design.frequency is None else design.frequency
    return f if design.precision is None else f * design.precision


def _null(fit: Answer, verb: str) -> Null | None:
    """The null model's mean and variance, where a residual variance needs them."""
    if not needs_null(fit.spec.family, fit.estimate.constants):
        return None
    frame = data_for(fit, verb)
    gone = {column.name for column in fit.recipe.predictor("mu").columns} - {"Intercept"}
    held = {name: value for name, value in (fit.call.fixed or {}).items() if name not in gone}
    asked = fit.call.changed(formulas=null_formulas(fit.spec), groups=None, start=None, fixed=held or None)
    null = fit_call(frame, asked, fit.control, warn=False)
    return null_of(null, _design(null, verb))


def _design(fit: Answer, verb: str) -> Design:
    return learn(fit.call.spec(), data_for(fit, verb), missing=fit.call.missing).design
