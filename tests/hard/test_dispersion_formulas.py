"""A formula of phi contains Poisson and a constant phi as limits: no fit ends below them, and a limit is said."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import polars_glmm
from tests.hard.attempt import attempt, codes, names, variance

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
FORMULAS = ("phi ~ x", "phi ~ f", "phi ~ f + w", "phi ~ 0 + f")


def counts(seed: int, kind: str, n: int = 120) -> pl.DataFrame:
    """Counts of four kinds of spread; the size of "partly" is finite in one level of f only."""
    rng = np.random.default_rng(seed)
    g, x, w, f = rng.integers(0, 12, n), rng.normal(size=n), rng.normal(size=n), rng.choice(list("abc"), n)
    mean = np.exp(1.2 + rng.normal(0, 0.4, 12)[g] + 0.2 * x)
    if kind == "under":
        y = rng.binomial(14, np.minimum(mean / 14, 0.9))
    elif kind == "poisson":
        y = rng.poisson(mean)
    else:
        size = np.where((f == "a") | (kind == "over"), 1.5, 1e6)
        y = rng.poisson(mean * rng.gamma(size, 1 / size))
    return pl.DataFrame({"y": y, "g": g, "x": x, "w": w, "f": f})


@pytest.mark.one_in(10)
@pytest.mark.parametrize("family", ["negative_binomial", "negative_binomial1"])
@pytest.mark.parametrize("kind", ["under", "poisson", "partly", "over"])
@pytest.mark.parametrize("formula", ["y ~ x", "y ~ x + (1 | g)"])
def test_a_formula_of_phi_never_ends_below_the_models_it_contains(kind: str, formula: str, family: str) -> None:
    frame = counts(811, kind)
    floor = max(attempt(frame, formula, family=f).loglik for f in ("poisson", family))
    for phi in FORMULAS:
        fit = frame.glmm.fit(formula, phi, family=family)
        assert fit.loglik >= floor - 1e-6, phi
        of_phi = fit.fixef().filter(pl.col("parameter") == "phi")
        if of_phi["std_error"].null_count():
            assert "no_overdispersion" in codes(fit), phi


@pytest.mark.one_in(2)
@pytest.mark.parametrize("family", ["negative_binomial", "negative_binomial1"])
def test_without_overdispersion_all_rows_are_poisson_rows(family: str) -> None:
    """Everything but phi is Poisson's, lazily too; phi has no errors."""
    formula = "y ~ x + (1 | g)"
    frame = counts(812, "under")
    plain = attempt(frame, formula, family="poisson")
    for source in (frame, frame.lazy()):
        fit = source.glmm.fit(formula, "phi ~ f", family=family)
        names(fit, "no_overdispersion", "all rows", "Poisson")
        assert fit.converged
        assert fit.loglik == pytest.approx(plain.loglik, abs=1e-6)
        of_mu = fit.fixef().filter(pl.col("parameter") == "mu")
        assert of_mu["estimate"].to_list() == pytest.approx(plain.fixef()["estimate"].to_list(), abs=1e-5)
        assert of_mu["std_error"].to_list() == pytest.approx(plain.fixef()["std_error"].to_list(), rel=1e-3)
        assert variance(fit, "g") == pytest.approx(variance(plain, "g"), rel=1e-3)
        of_phi = fit.fixef().filter(pl.col("parameter") == "phi")
        assert of_phi["std_error"].null_count() == of_phi.height
        assert fit.augment(frame)["resid_pearson"].to_list() == pytest.approx(
            plain.augment(frame)["resid_pearson"].to_list(), rel=1e-3, abs=1e-5
        )
        assert fit.simulate(frame, n=1, rng=1)["sim_1"].null_count() == 0


@pytest.mark.one_in(3)
@pytest.mark.parametrize("phi", FORMULAS)
def test_a_formula_of_phi_of_a_beta_binomial_ends_at_the_binomial_limit(phi: str) -> None:
    """Counts of 14 with less than binomial spread."""
    rng = np.random.default_rng(817)
    frame = counts(812, "under").with_columns(y=pl.Series(np.clip(7 + rng.integers(-1, 2, 120), 0, 14)))
    frame = frame.with_columns(left=14 - pl.col("y"))
    formula = "cbind(y, left) ~ x + (1 | g)"
    plain = attempt(frame, formula, family="binomial")
    fit = frame.glmm.fit(formula, phi, family="beta_binomial")
    names(fit, "no_overdispersion", "all rows", "binomial")
    assert fit.converged
    assert fit.loglik == pytest.approx(plain.loglik, abs=1e-6)
    of_mu = fit.fixef().filter(pl.col("parameter") == "mu")
    assert of_mu["estimate"].to_list() == pytest.approx(plain.fixef()["estimate"].to_list(), abs=1e-5)


def test_levels_without_overdispersion_leave_the_size_of_the_others_as_it_is() -> None:
    """The limit where only level a has a size: its coefficient keeps its error, and the note counts the other rows."""
    frame = counts(813, "partly").with_columns(y=pl.when(f="a").then("y").otherwise(pl.col("y").clip(2, 4)))
    fit = frame.glmm.fit("y ~ x", "phi ~ f", family="negative_binomial")
    names(fit, "no_overdispersion", f"{(frame['f'] != 'a').sum()} of 120 rows", "f[T.b]", "f[T.c]")
    of_phi = fit.fixef().filter(pl.col("parameter") == "phi")
    assert of_phi["std_error"].is_null().to_list() == [False, True, True]
    assert fit.converged
    cells = frame.glmm.fit("y ~ x", "phi ~ 0 + f", family="negative_binomial")
    assert cells.loglik == pytest.approx(fit.loglik, abs=1e-6)
    same = cells.fixef().filter(pl.col("parameter") == "phi")
    assert same["std_error"][0] == pytest.approx(of_phi["std_error"][0], rel=1e-3)
    assert same["estimate"][0] == pytest.approx(of_phi["estimate"][0], abs=1e-4)


def test_models_by_key_end_at_the_same_limits() -> None:
    parts = [counts(814, "under").with_columns(k=pl.lit("u")), counts(815, "partly").with_columns(k=pl.lit("p"))]
    fits = pl.concat(parts).glmm.fit("y ~ x", "phi ~ f", family="negative_binomial", by="k")
    for part in parts:
        one = part.glmm.fit("y ~ x", "phi ~ f", family="negative_binomial")
        own = fits[part["k"][0]]
        assert own.loglik == pytest.approx(one.loglik, abs=1e-6)
        assert codes(own) == codes(one)


@pytest.mark.slow
def test_a_mode_on_the_edge_of_a_log_link_is_said_with_the_rows_that_pull_it_there() -> None:
    """Half of the levels only succeed: their modes lie at probability 1."""
    rng = np.random.default_rng(816)
    g = np.repeat(np.arange(10), 4)
    won = np.where(g < 5, 10, rng.integers(2, 8, 40))
    frame = pl.DataFrame({"won": won, "lost": 10 - won, "g": g, "x": rng.normal(size=40)})
    said = r"log link .*'g'.*rows with successes only.*probability 1.*logit"
    with pytest.raises(polars_glmm.GlmmError, match=said):
        frame.glmm.fit("cbind(won, lost) ~ x + (1 | g)", family="binomial", link="log")
