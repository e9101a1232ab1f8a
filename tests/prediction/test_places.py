"""Predictions at places that the fit does not know: kriging, by the covariance of all places together."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm as pg

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
TIMES = np.array([0.0, 1.0, 2.5, 4.0, 7.0])
POINTS = np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 2.0), (3.0, 1.0), (2.0, 3.0)])


@cache
def rows() -> pl.DataFrame:
    """Five places in each of twenty groups, two rows of each; effects that fade in time."""
    rng = np.random.default_rng(5)
    g, s = np.repeat(np.arange(20), 10), np.tile(np.repeat(np.arange(5), 2), 20)
    root = np.linalg.cholesky(np.exp(-np.abs(TIMES[:, None] - TIMES) / 3.0))
    b, x = 0.8 * (rng.normal(size=(20, 5)) @ root.T)[g, s], rng.normal(size=200)
    return pl.DataFrame(
        {
            "g": [f"g{k:02d}" for k in g], "s": s, "t": TIMES[s], "u": POINTS[s, 0], "v": POINTS[s, 1], "x": x,
            "y": b + 0.5 * x + 0.6 * rng.normal(size=200), "count": rng.poisson(np.exp(0.5 + 0.3 * x + b)),
        }
    )  # fmt: skip


NEW = pl.DataFrame(
    {
        "g": ["g00", "g00", "g03", "g03", "new"], "s": [1, 5, 7, 2, 6], "t": [1.7, 9.0, 3.0, 2.5, 1.0],
        "u": [0.5, 2.0, -1.0, 1.0, 0.3], "v": [0.5, 2.0, 1.0, 0.0, 1.0], "x": [0.1, 0.2, 0.3, 0.4, 0.5],
    }
)  # fmt: skip
TERMS = {
    "exp(0 + u + v | g)": ("u", "v"), "gau(0 + u + v | g)": ("u", "v"), "mat(0 + u + v | g, nu=1.5)": ("u", "v"),
    "ou(0 + t | g)": ("t",), "ar1(0 + s | g)": ("s",),
}  # fmt: skip


def correlation(term: str, fit: pg.Fit, apart: np.ndarray) -> np.ndarray:
    """The correlation at distances, from what varcorr() reports."""
    shown = fit.varcorr().filter(pl.col("group") == "g")
    if term.startswith(("exp", "gau", "mat")):
        d = apart / shown["estimate"][1]
        return {"e": np.exp(-d), "g": np.exp(-(d**2)), "m": (1.0 + d) * np.exp(-d)}[term[0]]
    return np.asarray(shown["correlation"][1] ** apart)  # the shortest distance is 1


@pytest.mark.parametrize("term", TERMS)
def test_a_new_place_has_the_conditional_mean_and_variance_of_all_rows_together(term: str) -> None:
    """Written out in matrices: b_new and the rows are normal together, and β is estimated (gaussian, REML)."""
    names, df = TERMS[term], rows()
    fit = df.glmm.fit(f"y ~ x + {term}")
    told = fit.predict(NEW, std_error=True, new_levels="zero")
    both = pl.concat([df.select("g", "x", *names), NEW.select("g", "x", *names)], how="vertical_relaxed")
    at = both.select(names).to_numpy().astype(float)
    apart = np.sqrt(((at[:, None] - at) ** 2).sum(-1))
    same = both["g"].to_numpy()[:, None] == both["g"].to_numpy()
    sd = fit.varcorr().filter(pl.col("group") == "g")["std_dev"][0]
    phi, n = fit.dispersion()["estimate"].item(), df.height
    whole = same * sd**2 * correlation(term, fit, apart)
    x = np.column_stack([np.ones(len(both)), both["x"].to_numpy()])
    v_inverse = np.linalg.inv(whole[:n, :n] + phi**2 * np.eye(n))
    m_inverse = np.linalg.inv(x[:n].T @ v_inverse @ x[:n])
    beta = m_inverse @ x[:n].T @ v_inverse @ df["y"].to_numpy()
    across = whole[n:, :n] @ v_inverse
    mean = x[n:] @ beta + across @ (df["y"].to_numpy() - x[:n] @ beta)
    a = x[n:] - across @ x[:n]
    variance = np.diag(whole[n:, n:] - across @ whole[:n, n:] + a @ m_inverse @ a.T)
    assert_allclose(told["prediction"], mean, atol=2e-6)
    assert_allclose(told["prediction_std_error"], np.sqrt(variance), rtol=2e-6)


def test_counts_at_new_points_are_those_of_glmmtmb() -> None:
    """glmmTMB 1.1.5: count ~ x + exp(pos + 0 | g), family = poisson, pos = numFactor(u, v), predict(allow.new.levels =
    TRUE, se.fit = TRUE, type = "link"). Its standard errors hold the uncertainty of the parameters, by up to 2 %.
    """
    fit = rows().glmm.fit("count ~ x + exp(0 + u + v | g)", family="poisson")
    told = fit.predict(NEW, kind="link", std_error=True, new_levels="zero")
    assert_allclose(told["prediction"], GLMMTMB, atol=5e-5)
    assert (told["prediction_std_error"].to_numpy() <= np.array(ERRORS) * (1.0 + 1e-5)).all()
    assert_allclose(told["prediction_std_error"], ERRORS, rtol=0.04)


GLMMTMB = [-0.6446539838, 0.3242144072, -0.4181546887, -0.5825533053, 0.2027219602]
ERRORS = [0.6917182458, 0.6698013476, 0.7855610203, 0.5962259173, 0.8407667528]


@pytest.mark.parametrize("term", ["ou(0 + t | g)", "ar1(0 + s | g)"])
def test_times_of_a_chain_are_no_levels(term: str) -> None:
    """A straight line in time beside it, another factor, lazy frames and keys: unseen times have an answer."""
    name = TERMS[term][0]
    df = rows().with_columns(h=pl.Series([f"h{k % 7}" for k in range(200)]), k=pl.lit(1))
    formula = f"count ~ x + {name} + {term} + (1 | h)"
    fit = df.glmm.fit(formula, family="poisson")
    new = NEW.with_columns(h=pl.lit("h3"), k=pl.lit(1)).head(4)
    told = fit.predict(new, std_error=True)
    assert told["prediction"].is_finite().all()
    assert told["prediction_std_error"].is_finite().all()
    lazy = fit.predict(new.lazy(), std_error=True)
    assert lazy.collect().equals(told)
    by = df.glmm.fit(formula, family="poisson", by="k").predict(new, std_error=True)
    assert_allclose(by["prediction"], told["prediction"], rtol=1e-9)
    assert fit.unseen(new).filter(pl.col("variable") == name)["n_rows"].sum() == {"t": 3, "s": 2}[name]
    known = df.head(6)
    assert_allclose(fit.predict(known)["prediction"], fit.augment(known)["fitted"], rtol=1e-12)
    assert fit.augment(known.with_columns(**{name: pl.lit(5)}))["fitted"].is_finite().all()


def test_a_chain_of_whole_steps_knows_nothing_between_them() -> None:
    fit = rows().glmm.fit("y ~ x + ar1(0 + s | g)")
    with pytest.raises(pg.UnknownLevelError, match="whole steps"):
        fit.predict(NEW.with_columns(s=pl.lit(1.5)).head(2))


@pytest.mark.parametrize("term", ["(0 + f | g)", "ar1(0 + f | g)", "homcs(0 + f | g)"])
def test_an_average_over_effects_of_a_level_that_nobody_has_seen_is_refused(term: str) -> None:
    """It was the mean without random effects."""
    df = rows().with_columns(f="f" + pl.col("s").cast(pl.String))
    fit = df.glmm.fit(f"count ~ x + {term}", family="poisson")
    new = df.head(2).with_columns(f=pl.lit("other"))
    assert fit.predict(new, random="none")["prediction"].is_finite().all()
    with pytest.raises(pg.UnknownLevelError, match="'f' has level 'other'"):
        fit.predict(new, random="integrate")
    assert fit.unseen(new)["level"].to_list() == ["other"]


def test_a_chain_varies_as_much_at_a_new_time_as_at_any() -> None:
    fit = rows().glmm.fit("count ~ x + ou(0 + t | g)", family="poisson")
    one = rows().head(1)
    here, there = (fit.predict(df, random="integrate")["prediction"] for df in (one, one.with_columns(t=pl.lit(3.3))))
    assert here.equals(there)
    assert here.item() > 1.05 * fit.predict(one, random="none")["prediction"].item()
