"""Likelihood-ratio tests of nested fits, with the distribution that the boundary calls for."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import polars as pl

from polars_glmm.errors import ModelError, brief, counted
from polars_glmm.families.cases import holds
from polars_glmm.inference.distributions import chi2_p, chi_bar_p
from polars_glmm.inference.nested import outside
from polars_glmm.inference.same_rows import rows_differ
from polars_glmm.inference.schemas import ANOVA, table
from polars_glmm.inference.varcorr import components

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.spec.residual import ResidualTerm

FEW_LEVELS = 10
"""Below this many levels the asymptotic mixture is a poor guide, and p-values are called approximate."""
UNLIKE = 1e-7
"""Difference in the logarithm of a column's size, or in its place, from which it is not the same column."""
NOISE = 1e-5
"""A statistic below this is zero: a search ends within 1e-6 of its optimum, on either side of the test."""
NOT_NESTED = 1e-4
"""A larger model whose log-likelihood is lower by more than this cannot contain the smaller one."""


class LikelihoodRatio(NamedTuple):
    """A likelihood-ratio statistic, its reference distribution by name, the upper tail, and what limits it.

    reservations   "conservative" and "approximate", where they apply
    """

    chisq: float
    df: int
    p_value: float
    reference: str
    reservations: tuple[str, ...] = ()

    @property
    def distribution(self) -> str:
        """The reference distribution with its reservations."""
        return ", ".join((self.reference, *self.reservations))


class CovarianceParameters(NamedTuple):
    """Variances (group, term) and covariances (group, term, other) of a model."""

    variances: frozenset[tuple[str, str]]
    covariances: frozenset[tuple[str, str, str]]


def anova(fits: tuple[Answer, ...]) -> pl.DataFrame:
    """Compare each fit with the next smaller one by likelihood ratio; rows from the smallest to the largest model.

    distribution   "chi2(k)"; "chibar2(01)" for exactly one more variance, or one more parameter of a family that holds
                   the smaller one's at its end (negative_binomial and poisson); "chibar2(q,q+1)", the equal mixture of
                   both, for one variance with its q covariances beside a nonsingular smaller model; "chi2(k),
                   conservative" for several variances at once; ", approximate" below ten levels
                   (Self & Liang 1987; Stram & Lee 1994)
    Raises ModelError for fits that cannot be compared: other data, family or method, REML with different fixed
    effects, models that are not nested.
    """
    check_comparable(fits)
    ordered = sorted(enumerate(fits, start=1), key=lambda pair: (pair[1].estimate.df_model, pair[0]))
    tests: list[LikelihoodRatio | None] = [None]
    tests += [compare(small, large) for (_, small), (_, large) in pairwise(ordered)]
    return table(
        ANOVA,
        {
            "model": [fit.formula for _, fit in ordered],
            "df_model": [fit.estimate.df_model for _, fit in ordered],
            "loglik": [fit.loglik for _, fit in ordered],
            "deviance": [fit.deviance for _, fit in ordered],
            "aic": [fit.aic for _, fit in ordered],
            "bic": [fit.bic for _, fit in ordered],
            "chisq": [test.chisq if test else None for test in tests],
            "df": [test.df if test else None for test in tests],
            "p_value": [test.p_value if test else None for test in tests],
            "distribution": [test.distribution if test else None for test in tests],
        },
    )


def compare(small: Answer, large: Answer) -> LikelihoodRatio | None:
    """The test of `small` against `large`; None where both have the same number of parameters.

    Raises ModelError where the models are visibly not nested.
    """
    df = large.estimate.df_model - small.estimate.df_model
    if df == 0:
        return None
    _check_nested(small, large)
    less, more = covariance_parameters(small), covariance_parameters(large)
    limit = not holds(small.spec.family, large.spec.family)
    variances, covariances = more.variances - less.variances, more.covariances - less.covariances
    # A mixture is known only where the new variance and its covariances are all that separates the models.
    contained = less.variances <= more.variances and less.covariances <= more.covariances
    alone = contained and len(variances) + len(covariances) == df
    mixture = _mixture(variances, covariances, nonsingular=not small.estimate.singular) if alone else None
    if limit and df == 1:
        mixture = (0, 1)  # the parameter of a family whose case lies at its end is like a variance
    levels = [size.n_levels for size in large.groups if any(group == size.group for group, _ in variances)]
    chisq = max(2.0 * (large.loglik - small.loglik), 0.0)
    boundary = bool(variances) or limit
    return likelihood_ratio(chisq, df, mixture, boundary=boundary, fewest_levels=min(levels, default=FEW_LEVELS))


def null_test(fit: Answer) -> LikelihoodRatio | None:
    """Test against the model without random effects; None where it was not fitted or there are none."""
    estimate = fit.estimate
    if estimate.null_loglik is None or not estimate.factors:
        return None
    own = covariance_parameters(fit)
    df = estimate.df_model - estimate.null_df
    if df < 1:
        return None  # all variances are held
    mixture = (0, 1) if df == 1 and len(own.variances) == 1 else None
    chisq = max(2.0 * (estimate.loglik - estimate.null_loglik), 0.0)
    return likelihood_ratio(
        chisq, df, mixture, boundary=True, fewest_levels=min((size.n_levels for size in fit.groups), default=FEW_LEVELS)
    )


def likelihood_ratio(
    chisq: float, df: int, mixture: tuple[int, int] | None, *, boundary: bool, fewest_levels: int
) -> LikelihoodRatio:
    """The tail of a statistic under χ²_df or an equal mixture; a boundary without a known mixture is conservative."""
    if chisq < NOISE:
        chisq = 0.0
    reservations = ["approximate"] if boundary and fewest_levels < FEW_LEVELS else []
    if mixture is not None:
        reference = "chibar2(01)" if mixture == (0, 1) else f"chibar2({mixture[0]},{mixture[1]})"
        return LikelihoodRatio(chisq, df, chi_bar_p(chisq, mixture), reference, tuple(reservations))
    if boundary:
        reservations.insert(0, "conservative")
    return LikelihoodRatio(chisq, df, chi2_p(chisq, df), f"chi2({df})", tuple(reservations))


def covariance_parameters(fit: Answer) -> CovarianceParameters:
    """Names of all variances and covariances of the random effects, but for variances that are held at zero."""
    none = {name for name, value in (fit.call.fixed or {}).items() if value == 0.0}
    variances = {
        (part.group, part.labels[i])
        for part in components(fit.estimate)
        for i in part.variances
        if f"sd({part.group}: {part.labels[i]})" not in none
    }
    covariances = {
        (part.group, *sorted((part.labels[i], part.labels[j])))
        for part in components(fit.estimate)
        for i, j in (part.correlated if part.length is None else [part.length.pair])
    }
    return CovarianceParameters(frozenset(variances), frozenset((g, a, b) for g, a, b in covariances))


def check_comparable(fits: tuple[Answer, ...]) -> None:
    """Raise ModelError unless all fits are fits of one response by one method."""
    if len(fits) < 2:
        msg = "anova compares fits: pass two or more, as in anova(small, large). fit.test_terms() tests terms of one."
        raise ModelError(msg)
    first = fits[0]
    for fit in fits[1:]:
        _check_same_data(first, fit)
        one, other = first.spec.family, fit.spec.family
        if not holds(one, other) and not holds(other, one):
            _refuse_families(first, fit)
    _check_method(fits)
    if any(fit.method == "reml" for fit in fits):
        _check_reml(fits)


def _refuse_families(first: Answer, fit: Answer) -> NoReturn:
    msg = (
        f"The fits have different families or links ({first.family}/{first.link} and {fit.family}/{fit.link}): "
        f"they are not nested. Compare their aic."
    )
    raise ModelError(msg)


def check_comparable_criteria(fits: tuple[Answer, ...]) -> None:
    """Raise ModelError unless information criteria of the fits can be compared: one response, likelihoods alike.

    Families may differ, as all constants are in the likelihood.
    """
    for fit in fits[1:]:
        _check_same_data(fits[0], fit)
    if any(fit.method == "reml" for fit in fits):
        _check_method(fits)
        _check_reml(fits)


def _check_same_data(first: Answer, fit: Answer) -> None:
    if first.n_obs != fit.n_obs:
        msg = (
            f"The fits stand on different data: {first.n_obs} and {counted(fit.n_obs, 'observation')}. "
            f"Drop the rows with missing values in any used column first, and fit both models to the rest."
        )
        raise ModelError(msg)
    one, other = first.fingerprint, fit.fingerprint
    if not one.same_sums(other) or one.unpaired(other) or rows_differ(first, fit):
        msg = (
            "The fits stand on different data: the values of the response, or its trials, frequency or precision, "
            "differ. Fit both models to the same rows and the same response."
        )
        raise ModelError(msg)


def _check_method(fits: tuple[Answer, ...]) -> None:
    """One method for all; an exact likelihood without random effects goes with any approximation of it."""
    methods = {fit.spec.method for fit in fits if fit.estimate.factors or fit.method == "reml"}
    if len(methods) > 1 or ("reml" in {fit.method for fit in fits} and not all(fit.method == "reml" for fit in fits)):
        names = ", ".join(map(brief, sorted({repr(fit.spec.method) for fit in fits})[:5]))
        remedy = "ml" if any(fit.method == "reml" for fit in fits) else "laplace"
        msg = (
            f"The fits were made by different methods ({names}); their log-likelihoods are not comparable. "
            f'Refit with one method, as in fit.update(method="{remedy}").'
        )
        raise ModelError(msg)


def _check_reml(fits: tuple[Answer, ...]) -> None:
    means = [fit.recipe.predictor("mu") for fit in fits]  # columns of other parameters are not integrated out
    terms = [{column.name for column, kept in zip(p.columns, p.kept, strict=True) if kept} for p in means]
    if any(names != terms[0] for names in terms[1:]):
        msg = (
            "REML log-likelihoods of models with different fixed effects cannot be compared: the restricted "
            "likelihood depends on the fixed-effect columns. Refit by maximum likelihood, "
            'fit.update(method="ml"), and compare those.'
        )
        raise ModelError(msg)
    for fit in fits[1:]:
        _check_same_columns(fits[0], fit)


def _check_same_columns(one: Answer, other: Answer) -> None:
    """Raise ModelError where fixed-effect columns of one name differ: REML depends on their units too."""
    first, second = one.fingerprint.pairings, other.fingerprint.pairings
    for name in [name for name in first if name.startswith(("size ", "place ")) and name in second]:
        column = name.partition(" ")[2]
        if column in _fixed_names(one) and not abs(first[name] - second[name]) <= UNLIKE:
            msg = (
                f"The fits stand on different data: {column!r} has other values, or other units, in one of them, and "
                f"restricted log-likelihoods depend on them. Fit both models to the same frame, or by "
                f'maximum likelihood, fit.update(method="ml").'
            )
            raise ModelError(msg)


def _fixed_names(fit: Answer) -> set[str]:
    return {column.name for column in fit.recipe.predictor("mu").columns}


def _check_nested(small: Answer, large: Answer) -> None:
    """The larger model must have the family, the fixed columns and the grouping factors, and no lower likelihood."""
    if not holds(large.spec.family, small.spec.family):
        _refuse_families(small, large)
    extra = sorted(_inputs(small) - _inputs(large)) or sorted(_groups(small) - _groups(large))
    extra = extra or sorted(_varying(small) - _varying(large))
    if extra:
        msg = (
            f"The models are not nested: {small.formula!r} uses {extra[0]!r}, which the larger model {large.formula!r} "
            f"does not. Compare their aic or bic."
        )
        raise ModelError(msg)
    if (what := outside(small, large)) is not None:
        msg = (
            f"The models are not nested: {small.formula!r} has {what}, which is no combination of what the larger "
            f"model {large.formula!r} has. Compare their aic or bic."
        )
        raise ModelError(msg)
    inner, outer = small.spec.residual, large.spec.residual
    if inner is not None and not _holds(outer, inner):
        others = "independent residuals" if outer is None else f"residual={outer.text!r}"
        msg = (
            f"The models are not nested: residual={inner.text!r} of the smaller one is no case of the larger one's "
            f"{others}. Compare their aic or bic."
        )
        raise ModelError(msg)
    if large.loglik < small.loglik - NOT_NESTED * max(1.0, 1e-4 * abs(small.loglik)):
        msg = (
            f"The models are not nested, or one of the searches stopped early: the larger model {large.formula!r} has "
            f"the lower log-likelihood ({large.loglik:.4f} < {small.loglik:.4f}). Compare their aic, or check "
            f"fit.diagnose()."
        )
        raise ModelError(msg)


def _holds(outer: ResidualTerm | None, inner: ResidualTerm) -> bool:
    """Whether a correlation of residuals has another as a case."""
    return outer is not None and outer.keys == inner.keys and inner.correlation.name in outer.correlation.cases


def _groups(fit: Answer) -> frozenset[str]:
    """Names of the grouping factors."""
    return frozenset(factor.name for factor in fit.estimate.factors)


def _varying(fit: Answer) -> frozenset[str]:
    """Columns whose effects vary by level, with the group."""
    return frozenset(
        f"({name} | {factor.name})"
        for factor in fit.recipe.factors
        for term in factor.terms
        for column in term.columns
        for name in column.node.inputs()
    )


def _inputs(fit: Answer) -> frozenset[str]:
    """Columns that the fixed parts read."""
    columns = [column for predictor in fit.recipe.predictors for column in predictor.columns]
    return frozenset().union(*(column.node.inputs() for column in columns))


def _mixture(
    variances: frozenset[tuple[str, str]], covariances: frozenset[tuple[str, str, str]], *, nonsingular: bool
) -> tuple[int, int] | None:
    """Degrees of freedom of the equal mixture, where one is known."""
    if len(variances) != 1:
        return None
    if not covariances:
        return (0, 1)
    ((group, term),) = variances
    own = all(owner == group and term in pair for owner, *pair in covariances)
    q = len(covariances)
    return (q, q + 1) if own and nonsingular else None
