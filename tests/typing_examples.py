"""What a type checker must accept, and infer, of the public face. Checked by mypy --strict, never run."""

from __future__ import annotations

from typing import assert_type

import polars as pl

import polars_glmm
from polars_glmm import AGQ, Binomial, Fit, FitCollection, Products, datasets

frame: pl.DataFrame = datasets.load("grouseticks")
lazy: pl.LazyFrame = frame.lazy()

fit = polars_glmm.fit(frame, "TICKS ~ YEAR", groups="LOCATION", family="poisson")
assert_type(fit, Fit)
assert_type(polars_glmm.fit(lazy, "TICKS ~ YEAR + (1 | LOCATION)", family="poisson", method=AGQ(nodes=5)), Fit)
polars_glmm.fit(frame, "y ~ x", groups=["a", "b"], family=Binomial(link="probit"), trials="n")
polars_glmm.fit(frame, "y ~ x", groups={"g": "1 + x"})
polars_glmm.fit(frame, "y ~ x", groups=("a", "b"))

assert_type(polars_glmm.predict(frame, fit), pl.DataFrame)
assert_type(polars_glmm.predict(lazy, fit, kind="link", random="none"), pl.LazyFrame)
assert_type(polars_glmm.with_ranef(lazy, fit), pl.LazyFrame)
assert_type(polars_glmm.augment(frame, fit), pl.DataFrame)
assert_type(fit.predict(lazy), pl.LazyFrame)

assert_type(polars_glmm.glmm(frame).fit("TICKS ~ YEAR"), Fit)
assert_type(polars_glmm.glmm(frame).predict(fit), pl.DataFrame)
assert_type(polars_glmm.glmm(lazy).predict(fit), pl.LazyFrame)

assert_type(fit.fixef(), pl.DataFrame)
assert_type(fit.ranef("LOCATION"), pl.DataFrame)
assert_type(fit.glance(), pl.DataFrame)
assert_type(fit.loglik, float)
assert_type(fit.converged, bool)
assert_type(polars_glmm.anova(fit, fit), pl.DataFrame)

assert_type(polars_glmm.simulate(lazy, fit, 2, 7), pl.LazyFrame)
assert_type(fit.update(". ~ . - (1 | LOCATION)", start=fit), Fit)
assert_type(polars_glmm.fit(frame, "TICKS ~ YEAR", by="LOCATION"), FitCollection)
assert_type(polars_glmm.glmm(frame).fit("TICKS ~ YEAR", by="LOCATION", family="nb", link="log"), FitCollection)
assert_type(polars_glmm.glmm(lazy).fit("TICKS ~ YEAR", start=fit, method="laplace"), Fit)
assert_type(polars_glmm.glmm(lazy).augment(fit), pl.LazyFrame)
assert_type(polars_glmm.glmm(frame).with_ranef(fit), pl.DataFrame)
assert_type(polars_glmm.glmm(frame).simulate(fit), pl.DataFrame)
assert_type(polars_glmm.glmm(lazy).products("y ~ x"), Products)
assert_type(polars_glmm.products(lazy, "y ~ x").fit(), Fit)
polars_glmm.fit(frame, "y ~ x", family="possion")  # type: ignore[call-overload]
polars_glmm.predict(frame, fit, kind="respond")  # type: ignore[arg-type]
fit.VarCorr()  # type: ignore[attr-defined]

objective = polars_glmm.objective(frame, "TICKS ~ YEAR + (1 | LOCATION)", family="poisson")
assert_type(objective.names, tuple[str, ...])
assert_type(objective.loglik({"Intercept": 0.0}), float)
