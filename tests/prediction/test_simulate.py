"""simulate(): draws with the mean, variance and covariance of the model, the same for the same seed."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from polars.testing import assert_frame_equal

from polars_glmm.errors import ColumnError, ModelError, UnknownLevelError
from polars_glmm.prediction.simulations import simulate

DRAWS = 600


def draws(frame: pl.DataFrame, fit, **options) -> np.ndarray:
    """(n, rows)."""
    return simulate(frame, fit, DRAWS, 7, **options).select(pl.selectors.starts_with("sim_")).to_numpy().T


def standardised(found: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> float:
    """The mean over rows and draws, in its standard errors."""
    return float(np.sum(found - mean) / np.sqrt(np.sum(variance) * len(found)))


FAMILIES = {
    "gaussian": ("y ~ x + (x | g)", {}, lambda mu, frame: 0.7**2 + 0 * mu),
    "precision": ("y ~ x + (x | g)", {"precision": "w"}, lambda mu, frame: 0.49 / frame["w"].to_numpy()),
    "poisson": ("y ~ x + (1 | g)", {"family": "poisson"}, lambda mu, frame: mu),
    "gamma": ("z ~ x + (1 | g)", {"family": "gamma"}, lambda mu, frame: 0.7 * mu**2),
    "inverse_gaussian": ("z ~ x + (1 | g)", {"family": "inverse_gaussian"}, lambda mu, frame: 0.7 * mu**3),
    "negative_binomial": (
        "y ~ x + (1 | g)", {"family": "negative_binomial"}, lambda mu, frame: mu + mu**2 / 0.7,
    ),
}  # fmt: skip


@pytest.mark.one_in(3)
@pytest.mark.parametrize("model", FAMILIES)
def test_conditional_draws_have_the_moments_of_the_family(made, trial, model):
    formula, arguments, variance_of = FAMILIES[model]
    fit = made(trial, formula, **arguments)
    mu = fit.recipe.spec.family.mean(fit.eta)
    variance = variance_of(mu, trial)
    found = draws(trial, fit, random="conditional")
    assert abs(standardised(found, mu, variance)) < 4
    # 240 000 squared standardised residuals: their mean is 1 within a few parts in a hundred even for heavy tails
    assert_allclose(np.mean((found - mu) ** 2 / variance), 1.0, atol=0.05)


@pytest.mark.parametrize(
    ("formula", "arguments"), [("s ~ x + (1 | g)", {"trials": "m"}), ("cbind(s, m - s) ~ x + (1 | g)", {})]
)
def test_binomial_draws_are_counts_of_successes(made, trial, formula, arguments):
    fit = made(trial, formula, family="binomial", **arguments)
    mu, n = fit.recipe.spec.family.mean(fit.eta), trial["m"].to_numpy()
    found = draws(trial, fit, random="conditional")
    assert np.all((found == np.round(found)) & (found >= 0) & (found <= n))
    assert abs(standardised(found, n * mu, n * mu * (1 - mu))) < 4


def test_new_random_effects_have_the_fitted_covariance(made, trial):
    """Gaussian rows: Var(y) = Z (I ⊗ Σ) Z' + σ² I, so rows of one level covary by z_i' Σ z_j and others not at all."""
    fit = made(trial, "y ~ x + (x | g)", scale=1.0)
    (factor,), (estimate,) = fit.design.factors, fit.estimate.factors
    found = draws(trial, fit) - fit.eta_fixed
    same = factor.codes[:, None] == factor.codes[None, :]
    expected = np.where(same, factor.z.T @ estimate.covariances[0] @ factor.z, 0.0) + 0.49 * np.eye(trial.height)
    empirical = found.T @ found / DRAWS
    spread = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / DRAWS)
    scores = (empirical - expected) / spread
    assert np.abs(scores).max() < 6.5  # 80 000 distinct pairs
    for pairs in (same, ~same):
        assert abs(scores[pairs].mean()) < 0.3


def test_a_singular_covariance_can_be_drawn_from(made, trial):
    fit = made(trial, "y ~ x + (x | g)")
    fit.estimate.factors[0].covariances[0][:] = np.ones((2, 2))
    assert simulate(trial, fit, rng=1)["sim_1"].is_finite().all()
    fit.estimate.factors[0].covariances[0][:] = 0.0
    assert_allclose(draws(trial, fit).mean(), fit.eta_fixed.mean(), atol=4 * 0.7 / np.sqrt(DRAWS * trial.height))


def test_a_seed_decides_and_a_generator_moves_on(made, trial):
    fit = made(trial, "y ~ x + (x | g) + (1 | h)", family="poisson")
    first = simulate(trial, fit, 3, 5)
    assert_frame_equal(first, simulate(trial, fit, 3, np.random.default_rng(5)))
    assert_frame_equal(first, simulate(trial.lazy(), fit, 3, 5).collect())
    assert not first["sim_1"].equals(first["sim_2"])
    assert not first["sim_1"].equals(simulate(trial, fit, 3, 6)["sim_1"])
    rng = np.random.default_rng(5)
    assert not simulate(trial, fit, rng=rng)["sim_1"].equals(simulate(trial, fit, rng=rng)["sim_1"])
    assert first.columns == [*trial.columns, "sim_1", "sim_2", "sim_3"]
    assert_frame_equal(first.drop("sim_1", "sim_2", "sim_3"), trial)


def test_unseen_levels_are_new_draws(made, trial):
    fit = made(trial, "y ~ x + (1 | g)", scale=2.0)
    variance = float(fit.estimate.factors[0].covariances[0][0, 0])
    for random in ("new", "conditional"):
        found = draws(trial.with_columns(g=pl.lit("new")), fit, random=random) - fit.eta_fixed
        level = found.mean(axis=1)  # one level: its effect, and little noise
        assert_allclose(level.var(), variance + 0.49 / trial.height, rtol=5 * np.sqrt(2 / DRAWS))


def test_missing_rows_are_null_and_change_nothing_else(made, trial):
    fit = made(trial, "s ~ x + (1 | g)", family="binomial", trials="m")
    for column in ("x", "g", "m"):
        holes = trial.with_columns(pl.when(pl.int_range(pl.len()) % 3 != 0).then(pl.col(column)).name.keep())
        assert simulate(holes, fit, rng=1)["sim_1"].is_null().to_list() == holes[column].is_null().to_list()


def test_the_response_is_not_needed(made, trial):
    fit = made(trial, "y ~ x + (1 | g)")
    assert simulate(trial.drop("y"), fit, rng=1)["sim_1"].equals(simulate(trial, fit, rng=1)["sim_1"])
    with pytest.raises(ColumnError, match="simulate needs 'x'"):
        simulate(trial.drop("x"), fit)


def test_wrong_arguments(made, trial):
    fit = made(trial, "y ~ x + f + (1 | g)")
    for n in (0, 1.5, True):
        with pytest.raises(ModelError, match=f"n={n}"):
            simulate(trial, fit, n)
    with pytest.raises(ModelError, match=r"random='all'.*'conditional'"):
        simulate(trial, fit, random="all")
    with pytest.raises(ColumnError, match="already has 'sim_1'"):
        simulate(simulate(trial, fit), fit)
    with pytest.raises(UnknownLevelError, match="column 'f' has level 'top'"):
        simulate(trial.with_columns(f=pl.lit("top")), fit)


ROWS = 240


@pytest.fixture(scope="module")
def rare() -> pl.DataFrame:
    rng = np.random.default_rng(4)
    n = rng.integers(8, 20, ROWS)
    frame = pl.DataFrame({"g": np.repeat(np.arange(24), 10), "n": n, "y": rng.binomial(n, 0.02), "w": [1.0, 0.0] * 120})
    positive = pl.col("y") > 0
    return frame.with_columns(
        any=positive, share=pl.col("y") / pl.col("n"), small=pl.col("y").cast(pl.UInt8),
        count=pl.col("y").cast(pl.Float64),
        label=pl.when(positive).then(pl.lit("yes")).otherwise(pl.lit("no")).cast(pl.Enum(["no", "yes"])),
        three=pl.when(positive).then(pl.lit("yes")).otherwise(pl.lit("no")).cast(pl.Enum(["no", "maybe", "yes"])),
        size=pl.Series(rng.normal(size=ROWS)), whole=pl.Series(rng.integers(-9, 9, ROWS)),
    )  # fmt: skip


RESPONSES = {
    "successes": ("y", "y ~ 1 + (1 | g)", {"family": "binomial", "trials": "n"}, pl.Int64),
    "small whole numbers": ("small", "small ~ 1 + (1 | g)", {"family": "binomial", "trials": "n"}, pl.UInt8),
    "floating-point successes": ("count", "count ~ 1 + (1 | g)", {"family": "binomial", "trials": "n"}, pl.Int64),
    "shares": ("share", "share ~ 1 + (1 | g)", {"family": "binomial", "trials": "n"}, pl.Float64),
    "Boolean": ("any", "any ~ 1 + (1 | g)", {"family": "binomial"}, pl.Boolean),
    "Enum": ("label", "label ~ 1 + (1 | g)", {"family": "binomial"}, pl.Enum(["no", "yes"])),
    "Enum of three": ("three", "three ~ 1 + (1 | g)", {"family": "binomial"}, pl.Enum(["no", "maybe", "yes"])),
    "counts": ("y", "y ~ 1 + (1 | g)", {"family": "poisson"}, pl.Int64),
    "floating-point counts": ("count", "count ~ 1 + (1 | g)", {"family": "poisson"}, pl.Float64),
    "gaussian whole numbers": ("whole", "whole ~ 1 + (1 | g)", {}, pl.Float64),
    "measurements": ("size", "size ~ 1 + (1 | g)", {}, pl.Float64),
}


@pytest.mark.one_in(3)
@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
@pytest.mark.parametrize("case", RESPONSES)
def test_draws_are_of_the_dtype_of_the_response_and_can_be_fitted_in_its_place(rare, case):
    name, formula, arguments, dtype = RESPONSES[case]
    fit = rare.glmm.fit(formula, **arguments)
    lazy = rare.lazy().glmm.fit(formula, **arguments)
    drawn = fit.simulate(rare, 3, rng=2)
    assert_frame_equal(lazy.simulate(rare.lazy(), 3, rng=2).select("g").collect(), drawn.select("g"))
    for sim in ("sim_1", "sim_2", "sim_3"):
        assert drawn.schema[sim] == dtype
        assert lazy.simulate(rare, 1, rng=2).schema["sim_1"] == dtype
        again = fit.update(frame=drawn.with_columns(pl.col(sim).alias(name)))
        assert again.n_obs == ROWS


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_draws_of_shares_are_shares_of_the_trials(rare):
    fit = rare.glmm.fit("share ~ 1 + (1 | g)", family="binomial", trials="n")
    drawn = fit.simulate(rare, rng=3)
    successes = (drawn["sim_1"] * drawn["n"]).to_numpy()
    assert_allclose(successes, np.round(successes), atol=1e-12)
    assert 0.0 < drawn["sim_1"].max() <= 1.0


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_a_row_without_a_distribution_gets_no_number(rare):
    fit = rare.glmm.fit("size ~ 1 + (1 | g)", precision="w")
    drawn = fit.simulate(rare, rng=1)
    assert drawn["sim_1"].is_null().to_list() == (rare["w"] == 0.0).to_list()
    assert_frame_equal(drawn, fit.simulate(rare, rng=1))
    binomial = rare.glmm.fit("y ~ 1 + (1 | g)", family="binomial", trials="n")
    odd = rare.with_columns(n=pl.when(pl.col("g") == 0).then(-1).otherwise(pl.col("n")))
    assert binomial.simulate(odd, rng=1)["sim_1"].is_null().to_list() == (rare["g"] == 0).to_list()
