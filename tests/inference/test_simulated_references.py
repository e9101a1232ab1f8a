"""What comes after a fit beside R, on unbalanced simulated data: every row of every table.

`tests/references/simulated` holds the data, with an empty cell, dropped columns, prior weights, crossed and nested
factors, a variance of zero, trials, exposures; and the tables, each with R's call. `software` names the versions.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm.errors import FitWarning

HERE = Path(__file__).resolve().parents[1] / "references" / "simulated"
TABLES = json.loads((HERE / "after_a_fit.json").read_text(encoding="utf-8"))

pytestmark = [
    pytest.mark.reference, pytest.mark.one_in(2),
    pytest.mark.filterwarnings(f"ignore::{FitWarning.__module__}.FitWarning"),
]  # fmt: skip


@cache
def rows(model: str) -> pl.DataFrame:
    return pl.read_csv(HERE / f"{model}.csv")


@cache
def fitted(model: str, formula: str | None = None) -> Any:
    asked = TABLES["models"][model]
    options = {name: asked[name] for name in ("family", "precision") if name in asked}
    return polars_glmm.fit(rows(model), formula or asked["formula"], **options)


def table(name: str, **match: Any) -> pl.DataFrame:
    """The rows of one of R's tables where columns have some values; null counts as a value."""
    found = pl.DataFrame(TABLES[name]["rows"], schema=TABLES[name]["columns"], orient="row", infer_schema_length=None)
    return found.filter(*(pl.col(column).eq_missing(pl.lit(value)) for column, value in match.items()))


def agree(expected: pl.DataFrame, ours: pl.DataFrame, keys: list[str], allowed: dict[str, float]) -> None:
    """Every row of R's is one of ours; relative differences, of what is null in neither."""
    both = expected.join(ours, on=keys, how="inner", suffix="_ours")
    assert both.height == expected.height > 0
    for column, rtol in allowed.items():
        known = both.filter(pl.col(column).is_not_null())
        assert known[f"{column}_ours"].null_count() == 0
        assert_allclose(known[f"{column}_ours"], known[column], rtol=rtol, atol=1e-6, err_msg=column)


@pytest.mark.parametrize("model", TABLES["models"])
def test_the_fit_behind_the_tables_is_that_of_r(model: str) -> None:
    assert fitted(model).loglik == pytest.approx(TABLES["models"][model]["loglik"], abs=1e-6)


@pytest.mark.parametrize("model", table("terms")["model"].unique(maintain_order=True))
def test_terms(model: str) -> None:
    """Denominators of Satterthwaite's F of several rows depend on which rows span the hypothesis: up to 0.3 %."""
    for (kind, df), theirs in table("terms", model=model).group_by("type", "df"):
        ours = fitted(model).test_terms(type=kind, df=df)
        freedom = 3e-3 if df == "satterthwaite" else 1e-5
        sharp = 1e-4 if model == "nb" else 3e-5  # where glmmTMB's search ends
        agree(theirs, ours, ["term"], {"num_df": 0.0, "statistic": sharp, "den_df": freedom})


@pytest.mark.parametrize("model", table("lrt")["model"].unique(maintain_order=True))
def test_likelihood_ratios_of_terms(model: str) -> None:
    ours = fitted(model).test_terms(type=2, method="lrt")
    agree(table("lrt", model=model), ours, ["term"], {"num_df": 0.0, "statistic": 1e-5})


@pytest.mark.parametrize("case", TABLES["joint"]["rows"], ids=lambda case: f"{case[0]}-{case[2]}")
def test_hypotheses_together(case: list[Any]) -> None:
    model, hypotheses, df, den_df, statistic = case
    found = fitted(model).test(hypotheses, joint=True, df=df).row(0, named=True)
    assert found["den_df"] == pytest.approx(den_df, rel=1e-5)
    assert found["statistic"] == pytest.approx(statistic, rel=1e-5)


def test_kenward_and_roger_under_prior_weights() -> None:
    """By dense matrices (Kenward & Roger 1997), with V = σ²W⁻¹ + τ²ZZ': pbkrtest 0.5.2 takes W for I."""
    frame, fit = rows("weights"), fitted("weights")
    told = fit.fixef(df="kenward_roger")
    a1, a2, b = ((frame[c] == v).cast(pl.Float64).to_numpy() for c, v in (("a", "a1"), ("a", "a2"), ("b", "b1")))
    x = np.column_stack([np.ones(len(a1)), a1, a2, b, frame["x"].to_numpy(), a1 * b, a2 * b])
    z = frame["g"].to_dummies().to_numpy().astype(float)
    pieces = [z @ z.T, np.diag(1.0 / frame["w"].to_numpy())]
    tau, sigma = fit.confint(which=["random", "dispersion"])["estimate"].to_list()
    inverse = np.linalg.inv(tau**2 * pieces[0] + sigma**2 * pieces[1])
    phi = np.linalg.inv(x.T @ inverse @ x)
    r = inverse - inverse @ x @ phi @ x.T @ inverse
    w = np.linalg.inv([[0.5 * np.trace(r @ one @ r @ other) for other in pieces] for one in pieces])
    p = [-x.T @ inverse @ one @ inverse @ x for one in pieces]
    q = [[x.T @ inverse @ one @ inverse @ other @ inverse @ x for other in pieces] for one in pieces]
    pairs = [(i, j) for i in (0, 1) for j in (0, 1)]
    adjusted = phi + 2.0 * phi @ sum(w[i, j] * (q[i][j] - p[i] @ phi @ p[j]) for i, j in pairs) @ phi
    assert_allclose(told["std_error"], np.sqrt(np.diag(adjusted)), rtol=1e-7)
    slopes = np.array([np.diag(phi @ one @ phi) for one in p])
    assert_allclose(told["df"], 2.0 * np.diag(phi) ** 2 / np.einsum("ik,ij,jk->k", slopes, w, slopes), rtol=1e-7)


@pytest.mark.parametrize("kind", table("contrasts")["kind"].unique(maintain_order=True))
def test_contrasts_and_their_adjustments(kind: str) -> None:
    for (adjust,), theirs in table("contrasts", kind=kind).group_by("adjust"):
        ours = fitted("unbal").marginal_means("a", by="b", contrast=kind, adjust=adjust, df="kenward_roger")
        core = {"estimate": 1e-5, "std_error": 1e-5, "df": 1e-5, "p_value": 1e-4, "conf_low": 1e-4}
        agree(theirs, ours, ["contrast", "b"], core)


def test_contrasts_of_contrasts() -> None:
    asked = {"a": "pairwise", "b": "sequential"}
    ours = fitted("unbal").marginal_means(["a", "b"], contrast=asked, df="kenward_roger")
    agree(table("interaction"), ours, ["contrast"], {"estimate": 1e-5, "std_error": 1e-5, "df": 1e-5})


@pytest.mark.parametrize("model", table("means")["model"].unique(maintain_order=True))
def test_weights_of_means(model: str) -> None:
    name = "a" if "a" in rows(model).columns else "f"
    for (weights,), theirs in table("means", model=model).group_by("weights"):
        offset = "mean" if model == "pois" else None
        ours = fitted(model).marginal_means(name, weights=weights, scale="link", offset=offset)
        agree(theirs.rename({"level": name}), ours, [name], {"estimate": 2e-5, "std_error": 2e-5, "df": 1e-5})


@pytest.mark.slow
@pytest.mark.parametrize("model", table("profile")["model"].unique(maintain_order=True))
def test_profiles(model: str) -> None:
    """lme4 interpolates by splines: within 3e-4 of the interval. Two ends are at 0, one at a correlation of 1."""
    theirs = table("profile", model=model)
    which = "all" if fitted(model).family != "gaussian" else ["random", "dispersion"]
    found = fitted(model).confint("profile", which=which, criterion="ml")
    of_sd = pl.format("sd({}: {})", "group", "term")
    words = {"coefficient": pl.col("term"), "sd": of_sd, "correlation": pl.lit("cor"), "dispersion": pl.lit("phi")}
    named = pl.coalesce(pl.when(pl.col("quantity") == kind).then(word) for kind, word in words.items())
    both = theirs.join(found.with_columns(name=named), on="name", how="inner", suffix="_ours")
    assert both.height == theirs.height == found.height
    for end in ("conf_low", "conf_high"):
        apart = (both[f"{end}_ours"] - both[end]) / (both["conf_high"] - both["conf_low"])
        assert_allclose(apart, 0.0, atol=3e-4, err_msg=str(both["name"].to_list()))


@pytest.mark.parametrize("case", TABLES["r2"]["rows"], ids=lambda case: case[0])
def test_explained_variance(case: list[Any]) -> None:
    model, method, marginal, conditional, icc = case
    found = fitted(model).r2().row(by_predicate=pl.col("method") == method, named=True)
    assert found["r2_marginal"] == pytest.approx(marginal, rel=1e-5)
    assert found["r2_conditional"] == pytest.approx(conditional, rel=1e-5)
    assert found["icc"] == pytest.approx(icc, rel=1e-5)


@pytest.mark.parametrize("model", table("rows")["model"].unique(maintain_order=True))
def test_leverage_and_residuals_of_rows(model: str) -> None:
    ours = fitted(model).augment(rows(model), leverage=True).with_row_index("row").cast({"row": pl.Int64})
    agree(table("rows", model=model), ours, ["row"], {"leverage": 1e-5, "resid_pearson": 1e-5})


@pytest.mark.slow
@pytest.mark.parametrize("model", table("left_out")["model"].unique(maintain_order=True))
def test_levels_left_out(model: str) -> None:
    """lme4's cooks.distance has (G − p)/G before the definition's, for G levels and p coefficients."""
    group = "batch" if model == "nested" else "g"
    distances, terms = fitted(model).influence(group), fitted(model).influence_terms(group).filter(parameter="mu")
    for _, level, levels, change, dfbetas, distance in table("left_out", model=model).iter_rows():
        own = terms.filter(level=level)
        size = float(own["std_error"].max())  # type: ignore[arg-type]
        assert_allclose(own["change"].to_numpy() / size, np.array(change) / size, atol=2e-5)
        assert_allclose(own["dfbetas"], dfbetas, atol=1e-4)
        cook = distances.filter(level=level)["cooks_distance"].item()
        assert cook * (levels - own.height) / levels == pytest.approx(distance, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("case", TABLES["rlrt"]["rows"], ids=lambda case: f"{case[0]}-{case[2]}")
def test_restricted_likelihood_ratios(case: list[Any]) -> None:
    model, formula, term, statistic, p = case
    found = polars_glmm.rlrt(fitted(model, formula), term, n=20_000, rng=1).row(0, named=True)
    assert found["statistic"] == pytest.approx(statistic, abs=1e-5)
    assert found["p_value"] == pytest.approx(p, abs=5.0 * found["mc_error"])
