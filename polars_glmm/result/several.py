"""Functions of several fits, or of one that is refitted: rlrt, compare, average, pool, pool_test, power."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack

import polars as pl

from polars_glmm.control import Control
from polars_glmm.errors import GlmmError, ModelError
from polars_glmm.foreign import answered
from polars_glmm.frames.batches import whole
from polars_glmm.frames.elsewhere import read
from polars_glmm.inference.averaging import average_fits
from polars_glmm.inference.drift import drift as _drift
from polars_glmm.inference.drift import drift_by
from polars_glmm.inference.explaining import rlrt as _rlrt
from polars_glmm.inference.natural import naturals
from polars_glmm.inference.pool import pool_tables, pool_variances
from polars_glmm.inference.pool_tests import pooled_likelihood_ratio, pooled_wald
from polars_glmm.inference.power import PowerQuestion, power_table
from polars_glmm.inference.selection import compare_fits
from polars_glmm.result.collection import FitCollection
from polars_glmm.result.fitted import Fit
from polars_glmm.spec.call import Call, ModelArguments

if TYPE_CHECKING:
    import numpy as np

    from polars_glmm.inference.hypotheses import HypothesesLike


@answered
def drift(old: Fit | FitCollection, new: Fit | FitCollection) -> pl.DataFrame:
    """How far the natural parameters moved from one fit to the next, as a night's model from the one before.

    Columns: name (as in `start=`), parameter, group, quantity ("coefficient", "sd", "correlation", "dispersion"), old,
    new, change, std_error_old, std_error_new, in_std_errors (change / std_error_old). A parameter that one of the fits
    does not have is null there. Fits of overlapping rows are not independent: the last column is a scale, no test.
    Two collections (`by=`) have the columns of their key in front, and a key that only one has a model of has its rows.

    Raises ModelError for fits of different families or links, and for collections of different keys.
    """
    if isinstance(old, FitCollection) and isinstance(new, FitCollection):
        return drift_by(old, new)
    for name, one in (("old", old), ("new", new)):
        if not isinstance(one, Fit):
            msg = f"drift compares two fits, or two collections; {name} is a {type(one).__name__}."
            raise ModelError(msg)
    assert isinstance(old, Fit)
    assert isinstance(new, Fit)
    return _drift(old, new)


@answered
def rlrt(
    fit: Fit, term: str | None = None, n: int = 10_000, rng: np.random.Generator | int | None = None
) -> pl.DataFrame:
    """The exact restricted likelihood-ratio test of one variance of a gaussian model; needs the data of the fit.

    The null distribution is simulated from the eigenvalues of the term's columns (Crainiceanu & Ruppert 2004), exact
    where it is the only random term, "pseudo" beside others (Greven et al. 2008). Columns: group, term, statistic,
    p_value (share of larger draws: at a statistic of 0 that of any above 0, as RLRsim), mc_error, chibar_p (the
    asymptotic mixture), n_draws, method, seed.

    Parameters
    ----------
    fit
        Of a gaussian model; one fitted by maximum likelihood is fitted by REML first.
    term
        The random term to test, by its text or its group, where there are several.
    n, rng
        Number of draws, and a seed or numpy Generator (None: a fresh seed).

    Raises
    ------
    ModelError
        For a model of another kind, a term of several variances, or a fit whose data are gone.
    """
    return _rlrt(_one_fit(fit, "rlrt"), term, n, rng)


@answered
def compare(fits: Mapping[str, Fit] | Sequence[Fit], by: Literal["aicc", "aic", "bic"] = "aicc") -> pl.DataFrame:
    """Fits of one response from the best to the worst by an information criterion, with Akaike weights.

    Columns: name, formula, df_model, loglik, aic, aicc, bic, delta, weight, cumulative, n_obs, note. A sequence is
    named by its formulas. Families may differ: likelihoods hold all constants.

    Raises
    ------
    ModelError
        If the fits stand on different data, or are REML fits with different fixed effects.
    """
    named = dict(fits) if isinstance(fits, Mapping) else _named_by_formula(fits)
    for one in named.values():
        _one_fit(one, "compare")
    return compare_fits(named, by)


def _named_by_formula(fits: Sequence[Fit]) -> dict[str, Fit]:
    """Fits by formula, numbered where formulas agree."""
    found: dict[str, Fit] = {}
    for one in fits:
        formula = _one_fit(one, "compare").formula
        number = 2
        name = formula
        while name in found:
            name, number = f"{formula} ({number})", number + 1
        found[name] = one
    return found


@answered
def pool(
    fits: FitCollection | Sequence[Fit] | Sequence[pl.DataFrame],
    *,
    df: Literal["barnard_rubin", "rubin", "normal"] = "barnard_rubin",
    dfcom: float | None = None,
    conf_level: float = 0.95,
    which: Literal["fixed", "random"] = "fixed",
) -> pl.DataFrame:
    """The fits of several imputations as one, by Rubin's rules: the columns of `fixef`, and where variance comes from.

    Parameters
    ----------
    fits
        A collection with a model per imputation, as from `fit(frame, …, by="imputation")`; a sequence of fits; or of
        tables with estimate and std_error, such as marginal means.
    df
        Degrees of freedom: "barnard_rubin" (1999) limits them by those of complete data, "rubin" (1987) does not.
    dfcom
        Those of complete data; None for the mean of the fits' own (Satterthwaite), which mice does not know.
    conf_level
        Of the intervals.
    which
        "fixed": coefficients; "random": standard deviations, correlations and phi, pooled as logarithms and atanh
        (df="rubin" or "normal").

    Returns
    -------
    polars.DataFrame
        parameter, term, estimate, std_error, statistic, df, p_value, conf_low, conf_high, within, between, total, riv,
        fmi, n_imputations.

    Raises
    ------
    ModelError
        For fewer than two imputations, an imputation whose fit failed, or tables with other rows.
    """
    fits = _imputations(fits, "pool")
    if which == "random":
        kind: Literal["rubin", "normal"] = "rubin" if df == "barnard_rubin" else df
        return pool_variances([_one_fit(one, "pool") for one in fits], kind, conf_level)
    if which != "fixed":
        msg = f"which={which!r} is not known: use 'fixed' or 'random'."
        raise ModelError(msg)
    tables = [one if isinstance(one, pl.DataFrame) else _one_fit(one, "pool").fixef() for one in fits]
    return pool_tables(tables, df, dfcom, conf_level)


def _imputations(fits: object, verb: str) -> Sequence[Any]:
    """The fits of a collection, or the sequence itself. Raises ModelError that names an imputation that failed."""
    if not isinstance(fits, FitCollection):
        return list(fits)  # type: ignore[call-overload, no-any-return]
    found = []
    for key in fits.keys.rows():
        own = key if len(key) > 1 else key[0]
        try:
            found.append(fits[own])
        except GlmmError as error:
            msg = f"{verb}(): the fit of {', '.join(fits.keys.columns)} {own!r} failed: {error}"
            raise ModelError(msg) from error
    return found


@answered
def pool_test(
    fits: FitCollection | Sequence[Fit],
    test: HypothesesLike | FitCollection | Sequence[Fit],
    method: Literal["D1", "D2", "D3"] | None = None,
) -> pl.DataFrame:
    """A test of several parameters at once over imputations.

    Parameters
    ----------
    fits
        A collection with a model per imputation, or a sequence of fits.
    test
        Hypotheses as in `Fit.test`: names of terms (all their columns are zero), "a = b", …; or the fits of a smaller
        model to the same imputations.
    method
        "D1", the default for hypotheses: Wald, with their covariance between imputations (Li, Raghunathan & Rubin
        1991). "D3", the default for a smaller model: likelihood ratios at the estimates of each imputation and at their
        mean (Meng & Rubin 1992; natural parameters are averaged); REML fits are fitted again by maximum likelihood, and
        the rows are needed. "D2": from the χ² of each imputation alone, coarse, for either.

    Returns
    -------
    polars.DataFrame
        hypothesis, method, num_df, den_df (null: no variance between imputations), statistic (F), p_value, riv
        (relative increase of variance), n_imputations: one row.

    Raises
    ------
    ModelError
        For fewer than two imputations, one that failed, or a method that does not go with `test`.
    """
    larger = [_one_fit(one, "pool_test") for one in _imputations(fits, "pool_test")]
    if len(larger) < 2:
        msg = f"pool_test() takes the fits of at least two imputations, not {len(larger)}."
        raise ModelError(msg)
    models = isinstance(test, FitCollection) or (
        not isinstance(test, str | pl.DataFrame | Mapping) and all(isinstance(one, Fit) for one in test)
    )
    allowed = ("D3", "D2") if models else ("D1", "D2")
    if method is not None and method not in allowed:
        msg = f"method={method!r}: of {'a smaller model' if models else 'hypotheses'} there are {', '.join(allowed)}."
        raise ModelError(msg)
    if not models:
        return pooled_wald(larger, test, method or "D1")  # type: ignore[arg-type]
    smaller = [_by_ml(one) for one in _imputations(test, "pool_test")]
    return pooled_likelihood_ratio([_by_ml(one) for one in larger], smaller, method or "D3")


def _by_ml(fit: Fit) -> Fit:
    return fit.update(method="ml") if fit.method == "reml" else fit


@answered
def average(
    fits: Mapping[str, Fit] | Sequence[Fit],
    by: Literal["aicc", "aic", "bic"] = "aicc",
    kind: Literal["full", "conditional"] = "full",
    conf_level: float = 0.95,
) -> pl.DataFrame:
    """Coefficients averaged over models with Akaike weights, and standard errors that hold the choice among them.

    Parameters
    ----------
    fits
        Models of one response, family and link, by maximum likelihood where their fixed effects differ.
    by
        The criterion of the weights, as in `compare`.
    kind
        "full": a model without a coefficient has it at zero; "conditional": over the models that have it, which
        exaggerates coefficients of little weight.
    conf_level
        Of the intervals, which are normal.

    Returns
    -------
    polars.DataFrame
        parameter, term, the estimate core, weight (sum over the models that have the term), n_models, kind.

    Raises
    ------
    ModelError
        As `compare`, and for models of several families or links.
    """
    named = dict(fits) if isinstance(fits, Mapping) else _named_by_formula(fits)
    for one in named.values():
        _one_fit(one, "average")
    return average_fits(named, by, kind, conf_level)


@answered
def power(
    frame: pl.DataFrame,
    *formulas: str,
    parameters: Mapping[str, float] | Fit,
    test: str | Sequence[str],
    n: int = 1000,
    vary: Mapping[str, Sequence[int]] | None = None,
    alpha: float = 0.05,
    rng: np.random.Generator | int | None = None,
    control: Control | None = None,
    **arguments: Unpack[ModelArguments],
) -> pl.DataFrame:
    """The power of a likelihood-ratio test by simulation: responses of stated parameters, fitted with and without it.

    Parameters
    ----------
    frame
        The design: a row per observation; it need not have the response.
    formulas, arguments
        As in `fit`. Gaussian models are fitted by maximum likelihood.
    parameters
        All natural parameters by name, as `polars_glmm.objective` names them (correlations left out are 0); or a fit.
    test
        Names of the fixed effects that the test leaves out.
    n
        Number of simulated data sets.
    vary
        Numbers of levels of one grouping factor, as in {"Subject": [10, 20, 40]}; the levels of the frame are taken
        in turn.
    alpha, rng, control
        Level of the test; a seed or numpy Generator (None: a fresh seed); settings as in `fit`.

    Returns
    -------
    polars.DataFrame
        The varied factor, test, effect, n, rejected, power, conf_low, conf_high (Clopper–Pearson), failed, singular,
        type_s, type_m, seconds, seed. A failed refit does not reject.

    Raises
    ------
    ModelError
        For parameters or effects that the model does not have, or crossed factors whose levels cannot be varied.
    """
    call = Call(formulas, **arguments)
    if isinstance(parameters, Fit):
        parameters = {one.name: one.estimate for one in naturals(parameters) if one.estimate is not None}
    varied = None
    if vary is not None:
        if len(vary) != 1:
            msg = f"vary={vary!r}: vary the levels of one grouping factor at a time."
            raise ModelError(msg)
        ((group, sizes),) = vary.items()
        varied = (group, tuple(sizes))
    asked = PowerQuestion((test,) if isinstance(test, str) else tuple(test), n, alpha, varied, rng)
    return power_table(whole(read(frame, "power()").lazy()), call, control or Control(), parameters, asked)


def _one_fit(fit: object, verb: str) -> Fit:
    """The fit itself. Raises ModelError for anything else."""
    if isinstance(fit, Fit):
        return fit
    msg = f"{verb}() takes fits, not a {type(fit).__name__}. Of a collection choose one, collection[key]."
    raise ModelError(msg)
