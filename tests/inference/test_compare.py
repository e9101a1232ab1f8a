"""Likelihood-ratio tests: refusals, and tails against closed forms."""

from __future__ import annotations

from collections.abc import Callable
from math import erfc, exp, sqrt
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from polars_glmm import Fit, ModelError, anova
from polars_glmm.inference.compare import null_test
from polars_glmm.inference.distributions import chi2_p, chi_bar_p, quantile, two_sided_p
from polars_glmm.likelihood.estimate import FactorEstimate


def chi2_1(x: float) -> float:
    """P(χ²₁ > x) = erfc(√(x/2))."""
    return erfc(sqrt(x / 2))


def chi2_2(x: float) -> float:
    """P(χ²₂ > x) = exp(−x/2)."""
    return exp(-x / 2)


def factor(
    terms: tuple[str, ...], structures: tuple[str, ...] = ("us",), name: str = "g", levels: int = 20
) -> FactorEstimate:
    """A factor whose terms stand in one block ("us") or in several."""
    sizes = [len(terms)] if len(structures) == 1 else [1] * len(terms)
    return FactorEstimate(
        name, terms, tuple(np.eye(r) for r in sizes), structures, np.zeros((len(terms), levels)),
        np.ones((len(terms), len(terms), levels)),
    )  # fmt: skip


def model(build: Callable[..., Fit], loglik: float, *factors: FactorEstimate, fixed: int = 1, **options: Any) -> Fit:
    names = ["Intercept", "x", "z"][:fixed]
    levels = [pl.DataFrame({f.name: range(f.modes.shape[1])}) for f in factors]
    options = {"family": "poisson", "formula": " + ".join(names)} | options
    return build(names, np.ones(fixed), np.eye(fixed), loglik=loglik, factors=factors, levels=levels, **options)


def test_tails_have_their_closed_forms() -> None:
    for x in (0.1, 2.7, 30.0):
        assert_allclose(chi2_p(x, 1), chi2_1(x))
        assert_allclose(chi2_p(x, 2), chi2_2(x))
        assert_allclose(chi_bar_p(x, (0, 1)), chi2_1(x) / 2)
        assert_allclose(chi_bar_p(x, (1, 2)), (chi2_1(x) + chi2_2(x)) / 2)
    assert chi2_p(0.0, 1) == chi_bar_p(0.0, (0, 1)) == 1.0
    # t with one degree of freedom is Cauchy: P(|T| > 1) = 1/2, upper quartile 1.
    assert_allclose(two_sided_p(np.array([1.0, 1.0]), np.array([1.0, np.inf])), [0.5, erfc(sqrt(0.5))])
    assert_allclose(quantile(0.5, np.array([1.0])), [1.0])


INTERCEPT = factor(("Intercept",))
CORRELATED = factor(("Intercept", "x"))
PARALLEL = factor(("Intercept", "x"), ("us", "us"))
SECOND = factor(("Intercept",), name="h")
FEW = factor(("Intercept",), name="h", levels=6)


@pytest.mark.parametrize(
    ("small", "large", "distribution", "p_value"),
    [
        ((), (INTERCEPT,), "chibar2(01)", chi2_1(6.0) / 2),
        ((INTERCEPT,), (INTERCEPT, SECOND), "chibar2(01)", chi2_1(6.0) / 2),
        ((INTERCEPT,), (PARALLEL,), "chibar2(01)", chi2_1(6.0) / 2),
        ((INTERCEPT,), (CORRELATED,), "chibar2(1,2)", (chi2_1(6.0) + chi2_2(6.0)) / 2),
        ((PARALLEL,), (CORRELATED,), "chi2(1)", chi2_1(6.0)),
        ((), (PARALLEL,), "chi2(2), conservative", chi2_2(6.0)),
        ((), (FEW,), "chibar2(01), approximate", chi2_1(6.0) / 2),
    ],
)
def test_the_boundary_decides_the_distribution(
    build: Callable[..., Fit], small: tuple[FactorEstimate, ...], large: tuple[FactorEstimate, ...],
    distribution: str, p_value: float,
) -> None:  # fmt: skip
    frame = anova(model(build, -97.0, *large), model(build, -100.0, *small))
    assert frame["df_model"].is_sorted()
    assert frame["chisq"].to_list() == [None, 6.0]
    assert frame["distribution"].to_list() == [None, distribution]
    assert_allclose(frame["p_value"][1], p_value)


def test_a_singular_smaller_model_has_no_simple_mixture(build: Callable[..., Fit]) -> None:
    frame = anova(model(build, -100.0, INTERCEPT, singular=True), model(build, -97.0, CORRELATED))
    assert frame["distribution"][1] == "chi2(2), conservative"


def test_fixed_effects_are_plain_chi_square(build: Callable[..., Fit]) -> None:
    frame = anova(*(model(build, loglik, INTERCEPT, fixed=k) for k, loglik in ((1, -100.0), (2, -98.0), (3, -98.0))))
    assert frame["df"].to_list() == [None, 1, 1]
    assert frame["distribution"].to_list() == [None, "chi2(1)", "chi2(1)"]
    assert_allclose(frame["p_value"][1], chi2_1(4.0))
    assert frame["chisq"][2] == 0.0
    assert frame["p_value"][2] == 1.0
    both = anova(model(build, -100.0, fixed=1), model(build, -97.0, INTERCEPT, fixed=2))
    assert both["distribution"][1] == "chi2(2), conservative"


def test_unlike_fits_are_refused_with_the_remedy(build: Callable[..., Fit]) -> None:
    base = model(build, -100.0, INTERCEPT)
    reml = [model(build, -100.0 + k, INTERCEPT, fixed=k, family="gaussian", method="reml", phi=1.0) for k in (1, 2)]
    ml = model(build, -99.0, INTERCEPT, fixed=2, family="gaussian", method="ml", phi=1.0)
    other = build(["Intercept", "a", "b"], np.ones(3), np.eye(3), family="poisson")
    cases = [
        ((base,), "two or more"),
        ((base, model(build, -99.0, INTERCEPT, n_obs=99)), "different data: 100 and 99"),
        ((base, model(build, -99.0, INTERCEPT, moments=(100.0, 100.0, 6.0, 7.0, 0.0, 0.0))), "data: the values"),
        ((base, model(build, -99.0, INTERCEPT, family="gaussian", method="ml", phi=1.0)), "different families"),
        ((base, model(build, -99.0, INTERCEPT, fixed=2, method="agq")), "different methods"),
        (reml, r"different fixed effects.*method=\"ml\""),
        ((reml[0], ml), "different methods"),
        ((base, model(build, -101.0, CORRELATED)), "not nested"),
        ((model(build, -100.0, fixed=2), other), "not nested.*'x'"),
        ((model(build, -100.0, SECOND), model(build, -99.0, CORRELATED)), "not nested.*'h'"),
        ((base, "model"), "argument 2 is a str"),
    ]  # fmt: skip
    for fits, words in cases:
        with pytest.raises(ModelError, match=words):
            anova(*fits)  # type: ignore[arg-type]


def test_without_random_effects_any_likelihood_method_is_the_same(build: Callable[..., Fit]) -> None:
    frame = anova(model(build, -100.0, method="ml"), model(build, -97.0, INTERCEPT, method="agq"))
    assert frame["distribution"][1] == "chibar2(01)"


def test_pig_has_statas_boundary_test(pig: Fit, sleepstudy: Fit) -> None:
    """Stata 17 [ME] mixed: chibar2(01) = 472.65, Prob >= chibar2 = 0.0000."""
    test = null_test(pig)
    assert test is not None
    assert_allclose(test.chisq, 472.647564752484)
    assert test.distribution == "chibar2(01)"
    assert_allclose(test.p_value, chi2_1(472.647564752484) / 2)
    several = null_test(sleepstudy)
    assert several is not None
    assert several.distribution == "chi2(3), conservative, approximate"


@pytest.mark.parametrize("gain", [-1e-5, 0.0, 1e-7])
def test_no_gain_is_no_evidence(build: Callable[..., Fit], gain: float) -> None:
    """A variance estimated at zero: the statistic is 0 and p is 1, whatever the last digits of the two searches."""
    fit = model(build, -100.0 + gain, INTERCEPT, null_loglik=-100.0, null_df=1)
    test = null_test(fit)
    assert test is not None
    assert (test.chisq, test.p_value) == (0.0, 1.0)
    frame = anova(model(build, -100.0), fit)
    assert (frame["chisq"][1], frame["p_value"][1]) == (0.0, 1.0)
