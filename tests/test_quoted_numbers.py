"""Numbers printed in the texts this package stands on, each to the digits printed there, or with the reason why not.

Sources: StataCorp, [ME] me, `mixed weight week || id:` on the pig data (Ruppert, Wand & Carroll 2003); Kubo (2012),
chapter 7, glmmML; Elston et al. (2001) and lme4's help page `grouseticks`, with a blog's output of lme4 (Kakujo 2022);
McCullagh & Nelder (1989), salamander mating. `references/*.json` hold the same models with all digits.
"""

from __future__ import annotations

import re
import warnings
from functools import cache
from typing import Any

import polars as pl
import pytest

import polars_glmm
from polars_glmm.errors import FitWarning
from polars_glmm.spec.method import AGQ
from tests.references.translate import whole_data

pytestmark = pytest.mark.reference

TICKS = {"family": "poisson"}
SEEDS = {"family": "binomial"}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "pig": ("pig", "weight ~ week + (1 | id)", {"method": "ml"}),
    "kubo": ("kubo_seeds", "cbind(y, N - y) ~ x + (1 | id)", SEEDS),
    "kubo agq": ("kubo_seeds", "cbind(y, N - y) ~ x + (1 | id)", {**SEEDS, "method": AGQ(20)}),
    "kubo glm": ("kubo_seeds", "cbind(y, N - y) ~ x", SEEDS),
    "ticks null": ("grouseticks", "TICKS ~ 1", TICKS),
    "ticks glm": ("grouseticks", "TICKS ~ YEAR", TICKS),
    "ticks": ("grouseticks", "TICKS ~ YEAR + (1 | LOCATION)", TICKS),
    "ticks index": ("grouseticks", "TICKS ~ YEAR + (1 | LOCATION) + (1 | INDEX)", TICKS),
    "ticks slopes": ("grouseticks", "TICKS ~ YEAR + (YEAR | LOCATION)", TICKS),
    "ticks cells": ("grouseticks", "TICKS ~ YEAR + (0 + YEAR | LOCATION)", TICKS),
    "ticks redundant": ("grouseticks", "TICKS ~ YEAR + (1 | LOCATION) + (0 + YEAR | LOCATION)", TICKS),
    "salamander": ("salamander_mating", "Mate ~ Cross + (1 | Female) + (1 | Male)", SEEDS),
}


@cache
def fitted(name: str) -> Any:
    data, formula, arguments = MODELS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polars_glmm.fit(whole_data(data), formula, **arguments)


def fixed(name: str, term: str) -> dict[str, float]:
    return fitted(name).fixef().filter(pl.col("term") == term).row(0, named=True)


def component(name: str, group: str) -> dict[str, float]:
    return fitted(name).varcorr().filter(pl.col("group") == group).row(0, named=True)


QUOTED = {
    # Stata 16 [ME] me: `mixed weight week || id:`
    "pig log likelihood": (lambda: fitted("pig").loglik, -1014.9268, 5e-5),
    "pig week": (lambda: fixed("pig", "week")["estimate"], 6.209896, 5e-7),
    "pig week, standard error": (lambda: fixed("pig", "week")["std_error"], 0.0390124, 5e-8),
    "pig constant": (lambda: fixed("pig", "Intercept")["estimate"], 19.35561, 5e-6),
    "pig constant, standard error": (lambda: fixed("pig", "Intercept")["std_error"], 0.5974059, 5e-7),
    "pig var(_cons)": (lambda: component("pig", "id")["estimate"], 14.817492, 5e-6),  # closed form; Stata: 14.81751
    "pig var(_cons), standard error": (lambda: component("pig", "id")["std_error"], 3.124226, 1e-5),
    "pig var(_cons), lower": (lambda: component("pig", "id")["conf_low"], 9.801716, 2e-5),
    "pig var(_cons), upper": (lambda: component("pig", "id")["conf_high"], 22.40002, 5e-5),
    "pig var(Residual)": (lambda: component("pig", "Residual")["estimate"], 4.383264, 5e-7),
    "pig var(Residual), standard error": (lambda: component("pig", "Residual")["std_error"], 0.3163348, 1e-6),
    "pig var(Residual), lower": (lambda: component("pig", "Residual")["conf_low"], 3.805112, 1e-5),
    "pig var(Residual), upper": (lambda: component("pig", "Residual")["conf_high"], 5.04926, 1e-5),
    "pig Wald chi2(1)": (lambda: fixed("pig", "week")["statistic"] ** 2, 25337.49, 5e-2),
    # Kubo (2012), glmmML. Its standard errors 0.8777, 0.2075, 0.2202 are not those of its own objective: the joint
    # Hessian gives 0.8987, 0.2127 (glmmTMB and lme4 agree; references/kubo_laplace.json).
    "kubo intercept": (lambda: fixed("kubo", "Intercept")["estimate"], -4.190, 5e-4),
    "kubo x": (lambda: fixed("kubo", "x")["estimate"], 1.005, 5e-4),
    "kubo sigma": (lambda: component("kubo", "id")["std_dev"], 2.408, 5e-4),
    "kubo residual deviance": (lambda: fitted("kubo").glance()["deviance_residual"].item(), 269.4, 5e-2),
    "kubo AIC over the saturated model": (
        lambda: fitted("kubo").glance()["deviance_residual"].item() + 2 * 3, 275.4, 5e-2,
    ),
    "kubo ordinary AIC": (lambda: fitted("kubo").aic, 407.18, 5e-3),
    "kubo intercept, standard error": (lambda: fixed("kubo", "Intercept")["std_error"], 0.89866, 5e-6),
    "kubo x, standard error": (lambda: fixed("kubo", "x")["std_error"], 0.21268, 5e-6),
    "kubo sigma by 20 nodes": (lambda: component("kubo agq", "id")["std_dev"], 2.498, 5e-4),
    "kubo glm intercept": (lambda: fixed("kubo glm", "Intercept")["estimate"], -2.15, 5e-3),
    "kubo glm x": (lambda: fixed("kubo glm", "x")["estimate"], 0.51, 5e-3),
    # Grouse ticks, R's glm and lme4
    "ticks glm AIC": (lambda: fitted("ticks glm").aic, 5486.4, 5e-2),
    "ticks null deviance": (lambda: fitted("ticks null").glance()["deviance_residual"].item(), 5847.5, 5e-2),
    "ticks residual deviance": (lambda: fitted("ticks glm").glance()["deviance_residual"].item(), 4549.4, 5e-2),
    "ticks optimum": (lambda: fitted("ticks").loglik, -1149.14448, 5e-6),
    "ticks AIC": (lambda: fitted("ticks").aic, 2306.3, 5e-2),
    "ticks index AIC": (lambda: fitted("ticks index").aic, 1863.9, 5e-2),
    "ticks index BIC": (lambda: fitted("ticks index").bic, 1883.9, 5e-2),
    "ticks slopes": (lambda: fitted("ticks slopes").loglik, -1124.33919, 5e-6),
    "ticks cell means: the same model": (lambda: fitted("ticks cells").loglik, -1124.33919, 5e-6),
    "ticks redundant: the same model": (lambda: fitted("ticks redundant").loglik, -1124.33919, 1e-4),
    # Salamander mating: Laplace, glmmTMB and lme4 (references/salamander_mating_laplace.json)
    "salamander": (lambda: fitted("salamander").loglik, -209.2766, 5e-5),
    "salamander female": (lambda: component("salamander", "Female")["std_dev"], 1.0837, 5e-5),
    "salamander male": (lambda: component("salamander", "Male")["std_dev"], 1.0203, 5e-5),
}  # fmt: skip


@pytest.mark.parametrize("name", QUOTED)
def test_quoted_number(name: str) -> None:
    ours, printed, half_a_digit = QUOTED[name]
    assert ours() == pytest.approx(printed, abs=half_a_digit)


@pytest.mark.parametrize(("test", "printed"), [("chi2(1)", 25337.49), ("chibar2(01)", 472.65)])
def test_summary_of_pig_prints_the_tests_of_stata(test: str, printed: float) -> None:
    found = re.search(rf"{re.escape(test)} = ([\d.]+)", str(fitted("pig")))
    assert found is not None
    assert float(found[1]) == pytest.approx(printed, abs=0.05)


LME4_PRINTS = {
    "Intercept": 0.64992,
    "YEAR[T.96]": 0.94371,
    "YEAR[T.97]": -1.43642,
    "sd(LOCATION: Intercept)": 1.644**0.5,
}
"""lme4 1.1-31 with its default tolPwrss = 1e-7, which leaves the inner iterations unconverged."""


def test_what_lme4_prints_for_grouseticks_is_near_the_optimum_but_not_there() -> None:
    """Its printed −1149.1457 is 0.0012 below the maximum; at its printed estimates ℓ itself is that much nearer."""
    objective = polars_glmm.objective(whole_data("grouseticks"), *MODELS["ticks"][1:2], **TICKS)
    best = fitted("ticks").loglik
    at_the_printed = objective.loglik(LME4_PRINTS)
    assert -1149.1457 < at_the_printed < best
    modes = fitted("ticks").ranef("LOCATION").sort("LOCATION")["LOCATION_Intercept"].head(3)
    assert modes.to_list() == pytest.approx([1.24539, 0.92294, -0.93191], abs=2e-3)  # lme4's print


def test_the_redundant_model_is_named_so() -> None:
    text = " ".join(note.text for note in fitted("ticks redundant").notes)
    assert "LOCATION" in text
    assert "same model" in text
