"""REML knows nothing of a variance whose levels are fixed effects as well: it says so, on every route, with one answer.

The restricted likelihood is that of the model without the term, whatever its variance. lme4 1.1-31, lmer(Reaction ~ f +
Days + (1 | f/Subject)) of the sleepstudy subjects in three arms, stops at a variance of f of 13.893 ("parameters are
not uniquely determined"), and its standard error of farm1, 23.1435, rests on that; (1 | Subject) has 22.5352, as here.
"""

from __future__ import annotations

import warnings

import polars as pl
import pytest

import polars_glmm
from polars_glmm import Fit, FitWarning, datasets


@pytest.fixture(scope="module")
def arms() -> pl.DataFrame:
    rows = datasets.load("sleepstudy").with_columns(pl.col("Subject").cast(pl.String).cast(pl.Int64).alias("number"))
    person, f = pl.concat_str(pl.lit("p"), "number"), pl.concat_str(pl.lit("arm"), pl.col("number") % 3)
    return rows.with_columns(f=f, person=person, copy=pl.lit("a"))


def fitted(frame: pl.DataFrame | pl.LazyFrame, formula: str, **more: object) -> Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        found = polars_glmm.fit(frame, formula, **more)  # type: ignore[call-overload]
    return found["a"] if "by" in more else found  # type: ignore[no-any-return]


ROUTES = pytest.mark.parametrize("route", ["eager", "lazy", "by"])


def routed(frame: pl.DataFrame, formula: str, route: str) -> Fit:
    if route == "by":
        return fitted(pl.concat([frame, frame.with_columns(copy=pl.lit("b"))]), formula, by="copy")
    return fitted(frame.lazy() if route == "lazy" else frame, formula)


@ROUTES
@pytest.mark.parametrize(
    ("formula", "group", "less"),
    [
        ("Reaction ~ f + Days + (1 | f/Subject)", "f", "Reaction ~ f + Days + (1 | Subject)"),
        ("Reaction ~ f + Days + (1 | f)", "f", "Reaction ~ f + Days"),
        ("Reaction ~ f * Days + (Days | f)", "f", "Reaction ~ f * Days"),
        ("Reaction ~ person + Days + (Days || person)", "person", "Reaction ~ person + Days + (0 + Days | person)"),
    ],
)  # fmt: skip
def test_what_fixed_effects_hold_in_every_level_has_no_variance(
    arms: pl.DataFrame, route: str, formula: str, group: str, less: str
) -> None:
    fit, without = routed(arms, formula, route), fitted(arms, less)
    assert fit.converged
    assert [note.code for note in fit.notes] == ["not_identified"]
    assert fit.loglik == pytest.approx(without.loglik, abs=1e-7)
    assert fit.fixef()["std_error"].to_list() == pytest.approx(without.fixef()["std_error"].to_list(), rel=1e-6)
    own = fit.varcorr().filter(pl.col("other_term").is_null(), group=group, term="Intercept")
    assert own["estimate"].to_list() == [0.0]
    assert own["std_error"].to_list() == own["conf_high"].to_list() == [None]


def test_the_standard_errors_are_those_of_the_other_engine_without_the_term(arms: pl.DataFrame) -> None:
    fit = fitted(arms, "Reaction ~ f + Days + (1 | f/Subject)")
    errors = [16.9276992, 22.5352050, 24.5273256, 0.8042214]
    assert fit.fixef()["std_error"].to_list() == pytest.approx(errors, rel=1e-6)


def test_the_restricted_likelihood_is_the_same_for_every_such_variance(arms: pl.DataFrame) -> None:
    formula = "Reaction ~ f + Days + (1 | f) + (1 | Subject)"
    fit = fitted(arms, formula)
    likelihood = polars_glmm.objective(arms, formula)
    at = dict(zip(fit.fixef()["term"], fit.fixef()["estimate"], strict=True))
    at |= {"phi": fit.varcorr()["std_dev"][-1], "sd(Subject: Intercept)": fit.varcorr().row(1, named=True)["std_dev"]}
    for sd in (0.0, 3.0, 300.0):
        assert likelihood.loglik(at | {"sd(f: Intercept)": sd}) == pytest.approx(fit.loglik, abs=1e-6)


@pytest.mark.parametrize("formula", ["Reaction ~ f + Days + (Days | f)", "Reaction ~ f + Days + (1 | f)"])
@pytest.mark.parametrize("more", [{}, {"residual": "ar1(Days | Subject)"}], ids=["products", "residual"])
def test_a_variance_that_means_nothing_has_no_standard_error(
    arms: pl.DataFrame, formula: str, more: dict[str, str]
) -> None:
    fit = fitted(arms, formula, **more)
    assert "not_identified" in [note.code for note in fit.notes]
    assert fit.varcorr().filter(group="f")["std_error"].null_count() == fit.varcorr().filter(group="f").height


@ROUTES
@pytest.mark.parametrize("formula", ["Reaction ~ f + (1 | Subject)", "Reaction ~ ave(Days, f) + (Days | Subject)"])
def test_fixed_effects_of_other_levels_leave_it_alone(arms: pl.DataFrame, route: str, formula: str) -> None:
    fit = routed(arms, formula, route)
    assert "not_identified" not in [note.code for note in fit.notes]
    own = fit.varcorr().filter(pl.col("other_term").is_null(), group="Subject", term="Intercept")
    assert own["std_error"].null_count() == 0


def test_maximum_likelihood_puts_it_at_zero_by_itself(arms: pl.DataFrame) -> None:
    fit = fitted(arms, "Reaction ~ f + Days + (1 | f)", method="ml")
    assert fit.varcorr()["estimate"][0] == 0.0
    assert [note.code for note in fit.notes] == ["singular"]
