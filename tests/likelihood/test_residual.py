"""Gaussian models with correlated residuals: against the dense likelihood, against each other, and what they refuse."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import chi2

import polars_glmm
from polars_glmm.errors import ColumnError, FitWarning, IdentifiabilityError, ModelError

TERMS = {
    "ar1": "ar1(t | id)",
    "car1": "car1(when | id)",
    "cs": "cs(1 | id)",
    "toep": "toep(t | id)",
    "us": "us(t | id)",
    "exp": "exp(a + b | id)",
    "gau": "gau(a + b | id)",
}
AT = {"rho(id)": 0.4, "range(id)": 1.7, "sd(id: Intercept)": 0.8, "phi": 1.2, "Intercept": 1.0, "x": -0.4}


def series(n_groups: int = 12, seed: int = 3, whole_ones: int = 3) -> pl.DataFrame:
    """Series of AR(1) errors with gaps, of different lengths, in no order."""
    rng = np.random.default_rng(seed)
    parts = []
    for g in range(n_groups):
        whole = np.zeros(6)
        whole[0] = rng.normal()
        for i in range(1, 6):
            whole[i] = 0.6 * whole[i - 1] + 0.8 * rng.normal()
        t = np.sort(rng.choice(6, 6 if g < whole_ones else int(rng.integers(3, 6)), replace=False))
        x = rng.normal(size=len(t))
        parts.append(
            pl.DataFrame({
                "id": [f"s{g:02d}"] * len(t), "t": t, "x": x,
                "y": 2.0 + 0.5 * x + 0.7 * rng.normal() + whole[t],
                "when": t + rng.uniform(0.0, 0.4, len(t)),
                "a": rng.uniform(0, 3, len(t)), "b": rng.uniform(0, 3, len(t)),
                "w": rng.uniform(0.5, 2.0, len(t)), "half": ["low" if i < 3 else "high" for i in t],
                "region": [f"r{g // 3}"] * len(t),
            })
        )  # fmt: skip
    return pl.concat(parts).sample(fraction=1.0, shuffle=True, seed=seed)


FRAME, LONG = series(), series(40, whole_ones=36)


def natural_point(names: tuple[str, ...]) -> dict[str, float]:
    """Some parameters for every name of an objective."""
    found = dict(AT)
    lags = [name for name in names if name.startswith("rho(id: ")]
    rng = np.random.default_rng(2)
    if lags and "," in lags[0]:
        root = np.eye(6) + 0.4 * np.tril(rng.normal(size=(6, 6)), -1)
        whole = root @ root.T
        sd = np.sqrt(np.diag(whole))
        found |= dict(zip(lags, (whole / np.outer(sd, sd))[np.tril_indices(6, -1)], strict=True))
    else:
        found |= {name: 0.5 ** (k + 1) + 0.05 for k, name in enumerate(lags)}
    found |= {name: 0.1 * k for k, name in enumerate(names) if name.startswith("phi: ")}
    return {name: found[name] for name in names}


def dense_loglik(frame: pl.DataFrame, term: str, at: dict[str, float], *, reml: bool, spread: str | None) -> float:
    """ℓ by V = ZGZ' + DCD, written out."""
    name = term.partition("(")[0]
    y, x = frame["y"].to_numpy(), np.column_stack([np.ones(frame.height), frame["x"].to_numpy()])
    same = frame["id"].to_numpy()[:, None] == frame["id"].to_numpy()
    lag = np.abs(frame["t"].to_numpy()[:, None] - frame["t"].to_numpy())
    if name == "ar1":
        c = at["rho(id)"] ** lag
    elif name == "car1":
        c = np.exp(-np.abs(np.subtract.outer(frame["when"].to_numpy(), frame["when"].to_numpy())) / at["range(id)"])
    elif name == "cs":
        c = np.where(np.eye(len(y)) > 0, 1.0, at["rho(id)"])
    elif name == "toep":
        c = np.array([1.0, *(at[f"rho(id: {k})"] for k in range(1, 6))])[lag]
    elif name == "us":
        whole = np.eye(6)
        for i in range(6):
            for j in range(i):
                whole[i, j] = whole[j, i] = at[f"rho(id: {j}, {i})"]
        c = whole[np.ix_(frame["t"].to_numpy(), frame["t"].to_numpy())]
    else:
        places = frame.select("a", "b").to_numpy()
        d = np.sqrt(((places[:, None] - places) ** 2).sum(-1)) / at["range(id)"]
        c = np.exp(-(d ** (2 if name == "gau" else 1)))
    scale = np.full(len(y), at.get("phi", np.nan))
    if spread is not None:
        scale = np.exp([at[f"phi: {spread.format(value)}"] for value in frame["t" if name == "us" else "half"]])
    if "w" in at:
        scale = scale / np.sqrt(frame["w"].to_numpy())
    v = np.where(same, c, 0.0) * np.outer(scale, scale)
    if "sd(id: Intercept)" in at:
        v = v + at["sd(id: Intercept)"] ** 2 * same
    r = y - x @ [at["Intercept"], at["x"]]
    inverse = np.linalg.inv(v)
    value = -0.5 * (np.linalg.slogdet(v)[1] + r @ inverse @ r + (len(y) - 2 * reml) * np.log(2 * np.pi))
    return float(value - 0.5 * reml * np.linalg.slogdet(x.T @ inverse @ x)[1])


CASES = [
    (name, effects, spread, method, weights)
    for name in TERMS
    for effects, spread, method, weights in (
        ("", False, "ml", None),
        ("", False, "reml", "w"),
        (" + (1 | id)", False, "reml", None),
        (" + (1 | id)", True, "ml", "w"),
    )
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("name", "effects", "spread", "method", "weights"), CASES)
def test_likelihood_is_the_dense_one_and_its_gradient_that_by_differences(
    name: str, effects: str, spread: bool, method: str, weights: str | None
) -> None:
    phi = ["phi ~ 0 + half"] if spread and name != "us" else []
    found = polars_glmm.objective(
        FRAME, f"y ~ x{effects}", *phi, residual=TERMS[name], method=method, precision=weights
    )
    at = natural_point(found.names)
    own = "C(t)[{}]" if name == "us" else "half[{}]" if phi else None
    extra = {"w": 1.0} if weights else {}
    dense = dense_loglik(FRAME, TERMS[name], at | extra, reml=method == "reml", spread=own)
    assert found.loglik(at) == pytest.approx(dense, abs=1e-9)
    x = np.array(list(at.values()))
    gradient, steps = found.gradient(x), np.full(len(x), 1e-5)
    by_differences = [
        (found.loglik(x + h * unit) - found.loglik(x - h * unit)) / (2 * h)
        for unit, h in zip(np.eye(len(x)), steps, strict=True)
    ]
    assert np.allclose(gradient, by_differences, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", ["ar1", "car1", "cs", "exp"])
@pytest.mark.parametrize("effects", ["", " + (1 | region)"])
def test_an_estimate_is_where_the_gradient_vanishes(name: str, effects: str) -> None:
    fit = quietly(f"y ~ x{effects}", residual=TERMS[name])
    objective = polars_glmm.objective(FRAME, f"y ~ x{effects}", residual=TERMS[name])
    at = values_of(fit, objective.names)
    assert objective.loglik(at) == pytest.approx(fit.loglik, abs=1e-9)
    assert np.abs(objective.gradient(at)[2:]).max() < 1e-4


def quietly(*formulas: str, frame: Any = None, **arguments: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polars_glmm.fit(FRAME if frame is None else frame, *formulas, **arguments)


def values_of(fit: Any, names: tuple[str, ...]) -> dict[str, float]:
    found = dict(fit.fixef().select("term", "estimate").iter_rows())
    found |= dict(fit.dispersion().select("parameter", "estimate").iter_rows())
    rows = fit.varcorr().filter(pl.col("group") != "Residual").iter_rows(named=True)
    found |= {f"sd({row['group']}: {row['term']})": row["std_dev"] for row in rows}
    return {name: found[name] for name in names}


def test_positive_compound_symmetry_is_a_random_intercept() -> None:
    marginal, mixed = quietly("y ~ x", residual="cs(1 | id)"), quietly("y ~ x + (1 | id)")
    sd, phi = mixed.varcorr()["std_dev"]
    rho = marginal.dispersion().filter(parameter="rho(id)")["estimate"].item()
    assert marginal.loglik == pytest.approx(mixed.loglik, abs=1e-8)
    assert rho == pytest.approx(sd**2 / (sd**2 + phi**2), rel=1e-5)
    assert marginal.fixef()["std_error"].to_list() == pytest.approx(mixed.fixef()["std_error"].to_list(), rel=1e-6)
    assert marginal.fixef()["df"].to_list() == pytest.approx(mixed.fixef()["df"].to_list(), rel=1e-4)


def test_compound_symmetry_finds_negative_correlations_that_a_random_intercept_cannot() -> None:
    rng = np.random.default_rng(9)
    e = rng.normal(size=(40, 3))
    e -= 0.8 * e.mean(1, keepdims=True)
    frame = pl.DataFrame({"id": np.repeat(np.arange(40), 3), "y": e.ravel()})
    fit = quietly("y ~ 1", frame=frame, residual="cs(1 | id)")
    rho = fit.dispersion().filter(parameter="rho(id)").row(0, named=True)
    assert -0.5 < rho["conf_low"] < rho["estimate"] < rho["conf_high"] < 0.0
    assert fit.loglik > quietly("y ~ 1 + (1 | id)", frame=frame).loglik + 1.0


@pytest.mark.parametrize("effects", ["", " + (1 | id)"])
@pytest.mark.parametrize("method", ["ml", "reml"])
def test_without_correlation_the_model_is_the_plain_one(effects: str, method: str) -> None:
    held = quietly(f"y ~ x{effects}", residual="ar1(t | id)", method=method, fixed={"rho(id)": 0.0})
    plain = quietly(f"y ~ x{effects}", method=method)
    assert held.loglik == pytest.approx(plain.loglik, abs=1e-8)
    assert held.estimate.df_model == plain.estimate.df_model
    assert held.fixef()["estimate"].to_list() == pytest.approx(plain.fixef()["estimate"].to_list(), rel=1e-6)
    assert held.varcorr()["std_dev"].to_list() == pytest.approx(plain.varcorr()["std_dev"].to_list(), rel=1e-4)
    assert held.confint()["status"].to_list().count("held") == 1


def test_ar1_is_car1_over_whole_times_and_toep_and_us_hold_it() -> None:
    ar1, car1 = quietly("y ~ x", residual="ar1(t | id)"), quietly("y ~ x", residual="car1(t | id)")
    rho, length = (fit.dispersion()["estimate"][1] for fit in (ar1, car1))
    assert ar1.loglik == pytest.approx(car1.loglik, abs=1e-8)
    assert rho == pytest.approx(np.exp(-1.0 / length), rel=1e-5)
    ar1, toep, us = (quietly("y ~ x", frame=LONG, residual=f"{name}(t | id)") for name in ("ar1", "toep", "us"))
    table = polars_glmm.anova(ar1, toep, us)
    assert table["df"].to_list() == [None, 4, 15]
    assert (table["loglik"].diff().drop_nulls() >= 0.0).all()


def test_the_order_of_rows_and_where_time_begins_do_not_matter() -> None:
    one = quietly("y ~ x + (1 | region)", residual="ar1(t | id)")
    moved = FRAME.sort("x").with_columns(pl.col("t") + 1990)
    other = quietly("y ~ x + (1 | region)", frame=moved, residual="ar1(t | id)")
    assert other.loglik == pytest.approx(one.loglik, abs=1e-9)
    assert other.dispersion()["estimate"].to_list() == pytest.approx(one.dispersion()["estimate"].to_list(), rel=1e-6)


def test_times_may_be_dates_or_an_enum_and_groups_several_columns() -> None:
    plain = quietly("y ~ x", residual="ar1(t | id)")
    labels = pl.Enum([f"wave {k}" for k in range(6)])
    frame = FRAME.with_columns(
        day=pl.date(2020, 1, 1) + pl.duration(days="t"),
        wave=pl.format("wave {}", "t").cast(labels),
        one=pl.col("id").str.slice(0, 2), two=pl.col("id").str.slice(2),
    )  # fmt: skip
    for term in ("ar1(day | id)", "ar1(wave | id)", "ar1(t | one:two)", "ar1(t | one/two)"):
        assert quietly("y ~ x", frame=frame, residual=term).loglik == pytest.approx(plain.loglik, abs=1e-9)


def test_one_series_needs_no_group() -> None:
    frame = FRAME.with_columns(t=pl.int_range(pl.len()))
    one = quietly("y ~ x", frame=frame, residual="ar1(t)")
    assert one.dispersion()["parameter"].to_list() == ["phi", "rho"]
    assert one.loglik == pytest.approx(
        quietly("y ~ x", frame=frame.with_columns(all=1), residual="ar1(t | all)").loglik, abs=1e-9
    )


@pytest.mark.parametrize("effects", ["", " + (1 | region)"])
def test_a_mean_without_coefficients_has_the_same_likelihood_by_both_methods(effects: str) -> None:
    ml, reml = (quietly(f"y ~ 0{effects}", residual="ar1(t | id)", method=method) for method in ("ml", "reml"))
    assert reml.loglik == pytest.approx(ml.loglik, abs=1e-9)
    assert reml.fixef().height == 0


def test_us_is_any_covariance_matrix_of_two_occasions() -> None:
    pairs = pl.DataFrame({"id": np.repeat(np.arange(30), 2), "t": [0, 1] * 30}).with_columns(
        y=pl.Series(np.random.default_rng(1).multivariate_normal([0, 0], [[1, 0.8], [0.8, 3]], 30).ravel())
    )
    fit = quietly("y ~ 0 + C(t)", frame=pairs, residual="us(t | id)", method="reml")
    values = pairs["y"].to_numpy().reshape(-1, 2)
    covariance = np.cov(values.T)
    phi = np.exp(fit.fixef().filter(parameter="phi")["estimate"].to_numpy())
    assert phi**2 == pytest.approx(np.diag(covariance), rel=1e-5)
    rho = covariance[0, 1] / np.sqrt(np.prod(np.diag(covariance)))
    assert fit.dispersion()["estimate"].item() == pytest.approx(rho, rel=1e-4)
    assert fit.fixef().filter(parameter="mu")["df"].to_list() == pytest.approx([29, 29], rel=1e-3)


def test_lazy_frames_rows_with_nulls_and_models_by_key_are_those_of_the_rows_alone() -> None:
    whole = quietly("y ~ x", residual="ar1(t | id)")
    assert quietly("y ~ x", frame=FRAME.lazy(), residual="ar1(t | id)").loglik == pytest.approx(whole.loglik, abs=1e-9)
    holes = pl.concat([FRAME, FRAME.head(3).with_columns(t=pl.lit(None, pl.Int64))], how="vertical_relaxed")
    assert quietly("y ~ x", frame=holes, residual="ar1(t | id)").loglik == pytest.approx(whole.loglik, abs=1e-9)
    both = pl.concat([series(seed=k).with_columns(key=pl.lit(k)) for k in range(5)])
    keyed = quietly("y ~ x", frame=both, residual="ar1(t | id)", by="key")
    alone = quietly("y ~ x", frame=both.filter(key=3), residual="ar1(t | id)")
    assert keyed[3].loglik == pytest.approx(alone.loglik, abs=1e-9)
    assert keyed.dispersion().height == 10


def test_profile_intervals_of_the_correlation_end_where_the_deviance_has_risen() -> None:
    fit = quietly("y ~ x", residual="ar1(t | id)", method="ml")
    ends = fit.confint(which=["rho(id)", "phi", "x"], method="profile").sort("quantity")
    for row in ends.iter_rows(named=True):
        name = row["term"] or "phi"
        for end in (row["conf_low"], row["conf_high"]):
            held = quietly("y ~ x", residual="ar1(t | id)", method="ml", fixed={name: end})
            assert 2.0 * (fit.loglik - held.loglik) == pytest.approx(chi2.ppf(0.95, 1), abs=1e-3)


def test_a_fit_begins_another_and_survives_a_file(tmp_path: Any) -> None:
    fit = quietly("y ~ x + (1 | region)", residual="ar1(t | id)")
    again = quietly("y ~ x + (1 | region)", residual="ar1(t | id)", start=fit)
    assert again.loglik == pytest.approx(fit.loglik, abs=1e-8)
    fit.write(tmp_path / "model.glmm")
    read = polars_glmm.read_fit(tmp_path / "model.glmm")
    assert read.dispersion().equals(fit.dispersion())
    assert read.augment(FRAME)["resid_normalized"].equals(fit.augment(FRAME)["resid_normalized"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        plain = fit.update(residual=None)
    assert plain.loglik == pytest.approx(quietly("y ~ x + (1 | region)").loglik, abs=1e-9)


@pytest.mark.parametrize("name", ["ar1", "cs", "us", "exp"])
def test_normalized_residuals_are_whitened_by_the_cholesky_factor_of_each_group(name: str) -> None:
    frame = LONG if name == "us" else FRAME
    fit = quietly("y ~ x", frame=frame, residual=TERMS[name])
    rows = fit.augment(frame).filter(id="s00").sort("t")
    at = dict(fit.dispersion().select("parameter", "estimate").iter_rows())
    y, n = rows["y"].to_numpy(), rows.height

    def loglik(values: np.ndarray) -> float:
        changed = rows.with_columns(y=pl.Series(values))
        return dense_loglik(
            changed, TERMS[name], at | {"phi": 1.0, "Intercept": 0.0, "x": 0.0}, reml=False, spread=None
        )

    precision = np.empty((n, n))
    zero = loglik(np.zeros(n))
    units = np.eye(n)
    for i in range(n):
        for j in range(n):
            both = loglik(units[i] + units[j]) - loglik(units[i]) - loglik(units[j]) + zero
            precision[i, j] = -both
    low = np.linalg.cholesky(np.linalg.inv(precision))
    expected = np.linalg.solve(low, rows["resid_pearson"].to_numpy())
    if name in ("cs", "exp"):  # any order of places makes them uncorrelated: the sum of squares is the same
        assert (rows["resid_normalized"] ** 2).sum() == pytest.approx(expected @ expected, rel=1e-8)
    else:
        assert rows["resid_normalized"].to_numpy() == pytest.approx(expected, rel=1e-7)
    assert len(y) == n


def test_simulated_responses_have_the_correlation_of_the_fit() -> None:
    fit = quietly("y ~ x", residual="ar1(t | id)")
    drawn = fit.simulate(FRAME, 400, rng=1).filter(id="s00").sort("t")
    errors = drawn.select(pl.col(f"sim_{k + 1}") for k in range(400)).to_numpy()
    fitted = fit.predict(FRAME, random="none").filter(id="s00").sort("t")["prediction"].to_numpy()
    found = np.cov(errors - fitted[:, None])
    phi, rho = fit.dispersion()["estimate"]
    lag = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    assert np.abs(found - phi**2 * rho**lag).max() < 0.3 * phi**2
    assert np.abs(np.mean([found[i, i + 1] for i in range(5)]) / phi**2 - rho) < 0.12


def test_bootstraps_draw_correlated_responses() -> None:
    fit = quietly("y ~ x", residual="ar1(t | id)", method="ml")
    draws = fit.bootstrap(n=60, rng=2).filter(term="rho(id)")["value"]
    rho = fit.dispersion().filter(parameter="rho(id)").row(0, named=True)
    assert draws.mean() == pytest.approx(rho["estimate"], abs=4 * rho["std_error"] / np.sqrt(60) + 0.05)
    assert draws.std() == pytest.approx(rho["std_error"], rel=0.4)


def test_summaries_show_the_correlation() -> None:
    fit = quietly("y ~ x + (1 | region)", residual="ar1(t | id)")
    for text in (str(fit), fit._repr_html_()):
        assert "residual=ar1(t | id)" in text
        assert "rho(id) = " in text
    plan = str(polars_glmm.explain(FRAME.lazy(), "y ~ x + (1 | region)", residual="ar1(t | id)"))
    assert "residuals correlated by ar1(t | id)" in plan


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"residual": "ar2(t | id)"}, "no structure 'ar2'"),
        ({"residual": "corAR1(t | id)"}, "ar1"),
        ({"residual": "ar1(t + x | id)"}, "one time"),
        ({"residual": "ar1(1 | id)"}, "one time"),
        ({"residual": "cs(t | id)"}, "no order"),
        ({"residual": "ar1 t id"}, "structure"),
        ({"residual": 3}, "text such as"),
        ({"residual": "ar1(t | id)", "frequency": "t"}, "every row by itself"),
        ({"residual": "ar1(t | id)", "groups": "region", "method": "laplace"}, "exact likelihood"),
        ({"residual": "ar1(t | id)", "family": "gaussian", "link": "log"}, "identity link"),
        ({"residual": "ar1(t | region)"}, "have the same region = r"),
        ({"residual": "ar1(t | x)"}, "no x has two rows"),
    ],
)
def test_bad_terms_are_refused_with_a_remedy(arguments: dict[str, Any], message: str) -> None:
    frame = FRAME.with_columns(y=pl.col("y") ** 2 + 1)
    with pytest.raises(ModelError, match=message):
        polars_glmm.fit(frame, "y ~ 1", **arguments)


def test_times_that_are_not_whole_or_no_numbers_are_refused() -> None:
    with pytest.raises(ColumnError, match="car1"):
        polars_glmm.fit(FRAME, "y ~ x", residual="ar1(when | id)")
    with pytest.raises(ColumnError, match="Enum"):
        polars_glmm.fit(FRAME, "y ~ x", residual="toep(half | id)")
    with pytest.raises(ModelError, match="5 apart"):
        polars_glmm.fit(FRAME.filter(pl.col("t") != 5).with_columns(t=pl.when(id="s01").then(pl.col("t") + 6)
                        .otherwise(pl.col("t"))), "y ~ x", residual="toep(t | id)")  # fmt: skip


@pytest.mark.parametrize("term", ["toep(t | id)", "us(t | id)", "gau(t | all)", "exp(t + x | all)"])
def test_a_correlation_matrix_that_no_memory_holds_is_refused(term: str) -> None:
    """Seven hundred lags are as many derivatives of half a million entries; ar1 needs none of them."""
    rows = np.arange(1400 if "id" in term else 10_001)
    groups, t = (rows // 700, rows % 700) if "id" in term else (0 * rows, rows)
    frame = pl.DataFrame({"id": groups, "all": 0, "t": t, "x": np.cos(rows), "y": np.sin(rows)})
    with pytest.raises(ModelError, match=r"would take [\d,]+ GB.*ar1\(\)"):
        polars_glmm.fit(frame, "y ~ 1", residual=term)
    assert "rho(id)" in polars_glmm.objective(frame, "y ~ 1", residual="ar1(t | id)").names


def test_series_that_cross_a_grouping_factor_are_refused() -> None:
    with pytest.raises(ModelError, match="several levels of 'half'"):
        polars_glmm.fit(FRAME, "y ~ x + (1 | half)", residual="ar1(t | id)")


def test_what_takes_rows_to_be_independent_is_refused() -> None:
    fit = quietly("y ~ x + (1 | region)", residual="ar1(t | id)")
    for ask in (
        lambda: fit.fixef(df="kenward_roger"),
        lambda: fit.test_terms(1),
        lambda: polars_glmm.rlrt(fit),
        lambda: polars_glmm.products(FRAME, "y ~ x", residual="ar1(t | id)"),
    ):
        with pytest.raises(ModelError, match="residual="):
            ask()
    with pytest.raises(ModelError, match="not nested"):
        polars_glmm.anova(
            quietly("y ~ x", residual="cs(1 | id)"), quietly("y ~ x", "phi ~ half", residual="ar1(t | id)")
        )


def test_part_of_several_correlations_cannot_be_held() -> None:
    with pytest.raises(ModelError, match="together"):
        polars_glmm.fit(FRAME, "y ~ x", residual="toep(t | id)", fixed={"rho(id: 1)": 0.3})
    impossible = {f"rho(id: {k})": 0.9 * (-1.0) ** (k // 2) for k in range(1, 6)}
    with pytest.raises(ModelError, match="no correlation matrix"):
        polars_glmm.fit(FRAME, "y ~ x", residual="toep(t | id)", start=impossible)
    with pytest.raises(ModelError, match="between −1 and 1"):
        polars_glmm.fit(FRAME, "y ~ x", residual="ar1(t | id)", fixed={"rho(id)": 1.5})


@pytest.mark.slow
def test_parameters_of_simulated_series_are_recovered() -> None:
    """200 fits through by=: estimates about the truth within Monte Carlo error, intervals that cover nominally."""
    frame = pl.concat([series(30, seed=1000 + k, whole_ones=30).with_columns(key=pl.lit(k)) for k in range(200)])
    fits = quietly("y ~ x + (1 | id)", frame=frame, residual="ar1(t | id)", by="key", method="reml")
    slope = fits.fixef().filter(term="x")
    assert slope["estimate"].mean() == pytest.approx(0.5, abs=3.5 * slope["estimate"].std() / np.sqrt(200))
    covered = ((slope["conf_low"] < 0.5) & (slope["conf_high"] > 0.5)).mean()
    assert covered == pytest.approx(0.95, abs=3.5 * np.sqrt(0.95 * 0.05 / 200))


def _of_sums(groups: int, per: int, seed: int, share: float) -> pl.DataFrame:
    """Rows whose residuals leave a share of their mean over each group."""
    rng = np.random.default_rng(seed)
    x, e = rng.normal(size=(groups, per)), rng.normal(size=(groups, per))
    e -= (1.0 - share) * e.mean(1, keepdims=True)
    y = 1.0 + 0.5 * x + e
    return pl.DataFrame({"g": np.repeat(np.arange(groups), per), "x": x.ravel(), "y": y.ravel()})


def test_maximum_likelihood_beside_a_correlation_that_may_lose_a_rank_has_no_bound_and_reml_has() -> None:
    """V = (1 − ρ)(I − J/m) + (1 + (m − 1)ρ)J/m + vv' with v'Z'1 = 0 for one group, whose mean Xβ reproduces."""
    frame, m = _of_sums(8, 4, 1, 1.0), 4
    x, y = frame["x"].to_numpy().reshape(-1, m), frame["y"].to_numpy().reshape(-1, m)
    v = np.array([-x[0].mean(), 1.0])
    beta = np.array([y[0].mean() - 0.5 * x[0].mean(), 0.5])

    def logliks(left: float) -> tuple[float, float]:
        r = (1.0 - (left - 1.0) / (m - 1.0)) * (np.eye(m) - 1.0 / m) + left / m
        twice, information = 0.0, np.zeros((2, 2))
        for own, slopes in zip(y, x, strict=True):
            z = np.column_stack([np.ones(m), slopes])
            cov, e = r + np.outer(z @ v, z @ v), own - z @ beta
            twice += np.linalg.slogdet(cov)[1] + e @ np.linalg.solve(cov, e)
            information += z.T @ np.linalg.solve(cov, z)
        return -0.5 * twice, -0.5 * twice - 0.5 * np.linalg.slogdet(information)[1]

    (ml, reml), (ml_on, reml_on) = logliks(1e-7), logliks(1e-9)
    assert ml_on - ml == pytest.approx(0.5 * np.log(100.0), abs=1e-3)
    assert reml_on == pytest.approx(reml, abs=1e-3)


def test_where_maximum_likelihood_has_no_bound_a_search_says_so_or_that_what_it_shows_is_beside_it() -> None:
    with pytest.raises(IdentifiabilityError, match="no bound"):
        _of_sums(8, 4, 1, 0.1).glmm.fit("y ~ x + (x | g)", residual="cs(1 | g)", method="ml")
    with pytest.warns(FitWarning, match="no highest point"):
        fit = _of_sums(8, 4, 1, 2.0).glmm.fit("y ~ x + (x | g)", residual="cs(1 | g)", method="ml")
    alone = _of_sums(8, 4, 1, 2.0).glmm.fit("y ~ x", residual="cs(1 | g)", method="ml")
    assert fit.loglik >= alone.loglik - 1e-6
