"""Every verb of unordered categories: of two of them the binomial model, of more dense matrices and differences."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from polars.testing import assert_frame_equal

import polars_glmm
from polars_glmm import CR, ModelError
from tests.test_categorical import JOINED, LABELS, arrays, fitted, frame

TERMS = "y ~ x * f + (1 |p| g)"


@cache
def binomial_and_categories(formula="two ~ x + f + (1 | g)"):
    """The same model twice; `two` of two categories, of which the second is true."""
    data = frame(n=120, groups=6).with_columns(two=pl.col("two").cast(pl.Int64))
    return data, data.glmm.fit(formula, family="binomial"), data.glmm.fit(formula, family="categorical")


def of_second(table, name=None):
    """Rows of the second category, called as those of a mean are."""
    if "category" in table.columns:
        return table.filter(category="1").drop("category")
    for column in ("parameter", "other_parameter"):
        if column in table.columns:
            table = table.with_columns(pl.col(column).replace({"1": "mu"}).fill_null("mu"))
    return table if name is None else table.drop(name)


ALIKE = {
    "leverage": lambda fit, df: fit.augment(df, leverage=True).select("leverage"),
    "conditional": lambda fit, _: fit.glance(conditional=True).select("loglik_conditional", "df_effective", "caic"),
    "influence": lambda fit, _: fit.influence().drop("elpd", "status"),
    "terms": lambda fit, _: of_second(fit.influence_terms().drop("term", "other_term")),
    "cases": lambda fit, _: fit.influence(method="case"),
    "CR0": lambda fit, _: of_second(fit.fixef(vcov="CR0")),
    "CR2": lambda fit, _: of_second(fit.fixef(vcov="CR2")),
    "CR3": lambda fit, _: of_second(fit.test_terms(vcov="CR3")),
    "type 1": lambda fit, _: of_second(fit.test_terms(1)),
    "type 2": lambda fit, _: of_second(fit.test_terms(2)),
    "lrt": lambda fit, _: of_second(fit.test_terms(method="lrt")),
    "joint": lambda fit, _: fit.test("f", joint=True).drop("hypothesis"),
    "score": lambda fit, df: fit.score(df).select("g", "estimate", "std_error", "n_obs"),
    "posterior": lambda fit, _: of_second(fit.posterior(3, 1)).select("draw", "value"),
    "means": lambda fit, _: of_second(fit.marginal_means("f", average="response")),
    "means on the link": lambda fit, _: of_second(fit.marginal_means("f", scale="link")),
    "contrasts": lambda fit, _: of_second(fit.marginal_means("f", contrast="pairwise", average="response")),
    "contrasts on the link": lambda fit, _: of_second(fit.marginal_means("f", contrast="pairwise", scale="link")),
    "predictions": lambda fit, _: of_second(fit.predictions(by="f", random="all")),
    "predictions by row": lambda fit, df: of_second(fit.predictions(df, average=False)),
    "comparisons": lambda fit, _: of_second(fit.comparisons(variables="f", comparison="lnor")),
    "ratios by row": lambda fit, df: of_second(
        fit.comparisons(df.lazy(), "x", comparison="ratio", average=False).collect()
    ),
    "slopes": lambda fit, _: of_second(fit.slopes(variables="x", by="f")),
    "slopes on the link": lambda fit, _: of_second(fit.slopes(variables="x", scale="link")),
    "pooled": lambda fit, _: of_second(polars_glmm.pool([fit, fit]).drop("df")),
    "repca": lambda fit, _: fit.repca().drop("loading"),
}  # fmt: skip


@pytest.mark.one_in(7)
@pytest.mark.parametrize("name", ALIKE)
def test_two_categories_are_the_binomial_model_in_every_verb(name):
    """But for integrals (elpd, posterior means), which the binomial model takes by quadrature."""
    data, plain, two = binomial_and_categories()
    assert_frame_equal(ALIKE[name](plain, data), ALIKE[name](two, data), rel_tol=1e-5, abs_tol=1e-7)


def shares(beta, x, u=0.0):
    eta = np.concatenate([np.zeros((1, len(x))), beta.reshape(2, -1) @ x.T + u])
    return np.exp(eta) / np.exp(eta).sum(0)


def columns_of(data):
    x, f = data["x"].to_numpy(), (data["f"] == "f1").to_numpy().astype(float)
    return np.column_stack([np.ones(len(x)), x, f, x * f])


def differences(value, beta):
    h = 1e-6
    return np.array([(value(beta + h * e) - value(beta - h * e)) / (2.0 * h) for e in np.eye(len(beta))])


QUANTITIES = {
    "means": (lambda fit, data: fit.predictions(data), lambda b, d: shares(b, columns_of(d)).mean(1)),
    "comparisons": (
        lambda fit, data: fit.comparisons(data, "x"),
        lambda b, d: (shares(b, columns_of(d.with_columns(pl.col("x") + 1.0))) - shares(b, columns_of(d))).mean(1),
    ),
    "marginal means": (
        lambda fit, _: fit.marginal_means("f", at={"x": 0.5}, contrast="pairwise"),
        lambda b, _: np.diff(shares(b, columns_of(pl.DataFrame({"x": [0.5, 0.5], "f": ["f0", "f1"]}))))[:, 0],
    ),
    "slopes": (
        lambda fit, data: fit.slopes(data, "x"),
        lambda b, d: (shares(b, columns_of(d.with_columns(pl.col("x") + 1e-5)))
                      - shares(b, columns_of(d.with_columns(pl.col("x") - 1e-5)))).mean(1) / 2e-5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", QUANTITIES)
def test_probabilities_move_with_all_coefficients(case):
    """Estimates of every category, and errors √(J V J') with J by differences; together they are 1, or cancel."""
    fit, data = fitted(TERMS), frame().head(40)
    ask, value = QUANTITIES[case]
    told, beta = ask(fit, data), fit.fixef()["estimate"].to_numpy()
    assert told["category"].to_list() == LABELS.tolist()
    assert_allclose(told["estimate"], value(beta, data), rtol=1e-6, atol=1e-9)
    j = differences(lambda b: value(b, data), beta)
    errors = np.sqrt(np.einsum("ak,ab,bk->k", j, fit.estimate.vcov_fixed, j))
    assert_allclose(told["std_error"], errors, rtol=2e-4 if case == "slopes" else 1e-5)
    assert told["estimate"].sum() == pytest.approx(1.0 if case == "means" else 0.0, abs=1e-9)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("further", [("thresholds ~ f",), ("disc ~ x",), ()])
def test_ordered_categories_move_with_thresholds_and_scale(further):
    """Average probabilities are those of predict(), whose own errors are tested; a row's error is the same."""
    fit = frame().glmm.fit("number ~ x + (1 | g)", *further, family="cumulative")
    told = fit.predictions(frame().head(30), average=False)
    plain = frame().head(30).glmm.predict(fit, random="none", std_error=True)
    for label in ("0", "1", "2"):
        own = told.filter(category=label)
        assert_allclose(own["estimate"], plain[f"prediction_{label}"], rtol=1e-9)
        assert_allclose(own["std_error"], plain[f"prediction_{label}_std_error"], rtol=1e-6)
    assert fit.comparisons(variables="x")["estimate"].sum() == pytest.approx(0.0, abs=1e-9)
    assert fit.marginal_means("x", at={"x": [0.0, 1.0]})["estimate"].sum() == pytest.approx(2.0)
    assert "category" not in fit.predictions(scale="link").columns


def dense(fit):
    """X and Z (2n, ·), predictor by predictor, the weights (2n, 2n) at the modes, and Σ⁻¹ of the effects."""
    data = frame()
    _, x, codes = arrays(data)
    modes = fit.ranef("g").select("^g_.*Intercept$").to_numpy().T[:, codes]
    p = shares(fit.fixef()["estimate"].to_numpy(), x, modes)[1:]
    n, groups = len(x), int(codes.max()) + 1
    zg = (codes[:, None] == np.arange(groups)).astype(float)
    w = np.block([[np.diag(p[a] * ((a == b) - p[b])) for b in range(2)] for a in range(2)])
    sigma = fit.estimate.factors[0].covariances[0]
    two = np.eye(2)
    return np.kron(two, x), np.kron(two, zg), w, np.kron(np.linalg.inv(sigma), np.eye(groups)), n


def test_leverage_is_of_all_predictors_of_a_row():
    fit = fitted(JOINED)
    x, z, w, q, n = dense(fit)
    c = np.hstack([x, z])
    h = c.T @ w @ c
    h[4:, 4:] += q
    hat = np.diag(c @ np.linalg.solve(h, c.T @ w))
    found = fit.augment(frame(), leverage=True)["leverage"].to_numpy()
    assert_allclose(found, hat[:n] + hat[n:], rtol=1e-5)
    told = fit.glance(conditional=True)
    assert told["df_effective"].item() == pytest.approx(hat.sum(), rel=1e-6)
    own = np.log(fit.augment(frame())["fitted"]).sum()
    assert told["caic"].item() == pytest.approx(-2.0 * own + 2.0 * hat.sum(), rel=1e-6)


def test_a_row_left_out_moves_the_coefficients_as_a_fit_without_it_does():
    """Without random effects the one-step distance is near the exact one for a row of small leverage."""
    fit = fitted("y ~ x")
    cases = fit.influence(method="case")
    most = int(cases["cooks_distance"].arg_max())
    v, full = fit.estimate.vcov_fixed, fit.fixef()["estimate"].to_numpy()
    rest = fit.update(frame=frame().filter(pl.int_range(pl.len()) != most)).fixef()["estimate"].to_numpy()
    exact = (full - rest) @ np.linalg.solve(v, full - rest) / 4.0
    assert cases["cooks_distance"][most] == pytest.approx(exact, rel=0.1)


def test_without_random_effects_robust_covariances_are_whites():
    """HC0 of the multinomial logit: M Σ s_i s_i' M with s_i = (1[y = k] − p_k) x (White 1982)."""
    fit = fitted("y ~ x")
    y, x, _ = arrays(frame())
    p = shares(fit.fixef()["estimate"].to_numpy(), x)
    away = (y == np.array([[1], [2]])) - p[1:]
    scores = (away[:, None, :] * x.T[None]).reshape(4, -1)
    w = [[np.einsum("n,ni,nj->ij", p[a] * ((a == b) - p[b]), x, x) for b in (1, 2)] for a in (1, 2)]
    m = np.linalg.inv(np.block(w))
    found = fit.vcov(vcov="CR0")["covariance"].to_numpy().reshape(4, 4)
    assert_allclose(found, m @ scores @ scores.T @ m, rtol=1e-4)
    clustered = fit.vcov(vcov=CR("g", "CR0"))["covariance"].to_numpy().reshape(4, 4)
    codes = frame()["g"].to_numpy()
    of_groups = np.array([scores[:, codes == g].sum(1) for g in np.unique(codes)])
    assert_allclose(clustered, m @ of_groups.T @ of_groups @ m, rtol=1e-4)


def test_a_term_is_tested_in_all_predictors_at_once():
    fit = fitted("y ~ x + f + (1 |p| g)")
    wald = fit.test_terms()
    assert wald["parameter"].to_list() == [None, None]
    assert wald["num_df"].to_list() == [2, 2]
    own, v = fit.fixef().filter(term="x")["estimate"].to_numpy(), fit.estimate.vcov_fixed[np.ix_([1, 4], [1, 4])]
    assert wald["statistic"][0] == pytest.approx(own @ np.linalg.solve(v, own))
    both = fit.test("x", joint=True)
    assert both["statistic"].item() == pytest.approx(wald["statistic"][0])
    assert fit.test("x")["hypothesis"].to_list() == ["dog: x", "emu: x"]
    assert_allclose(fit.test_terms(2)["statistic"], wald["statistic"], rtol=1e-8)  # nothing contains anything
    assert fit.test_terms(1)["statistic"][1] == pytest.approx(wald["statistic"][1])  # the last of the sequence
    ratios, smaller = fit.test_terms(method="lrt"), fitted("y ~ f + (1 |p| g)")
    tested = polars_glmm.anova(smaller, fit)
    assert ratios["statistic"][0] == pytest.approx(tested["chisq"][1], abs=1e-5)
    assert (ratios["num_df"][0], tested["df"][1]) == (2, 2)
    three = fitted(TERMS).test_terms(2)  # type 2 leaves the interaction out for x and f
    assert three["num_df"].to_list() == [2, 2, 2]


@pytest.mark.slow
def test_rows_left_out_are_foretold_by_the_density_of_the_rest():
    fit = fitted(JOINED)
    found = fit.cross_validate("group:g", rng=1).filter(fold="g03")
    rest = frame().filter(pl.col("g") != "g03")
    less = fit.update(frame=rest)
    names = less.confint()["parameter", "term", "other_term", "quantity", "estimate"]
    point = {}
    for parameter, term, other, quantity, estimate in names.iter_rows():
        if quantity == "coefficient":
            point[f"{parameter}: {term}"] = estimate
        elif quantity == "sd":
            point[f"sd(g: {parameter} {term})"] = estimate
        else:
            assert (term, other) == ("dog Intercept", "emu Intercept")
            point["cor(g: dog Intercept, emu Intercept)"] = estimate
    objectives = [polars_glmm.objective(rows, JOINED, family="categorical") for rows in (frame(), rest)]
    elpd = objectives[0].loglik(point) - objectives[1].loglik(point)
    assert found["elpd"].item() == pytest.approx(elpd, abs=1e-3)
    assert found["rmse"].item() is None
    left = fit.influence().filter(level="g03")
    assert left["elpd"].item() == pytest.approx(elpd, abs=1e-3)


def test_checks_are_of_probabilities():
    """Pearson's χ² over categories is Σ (1/p_y − 1); draws of the model itself are near what is expected."""
    fit = fitted(JOINED)
    told = fit.check(n=200, rng=1)
    assert told["test"].unique(maintain_order=True).to_list() == ["dispersion", "ranef_normality"]
    p = fit.augment(frame())["fitted"]
    left = 2.0 * len(p) - fit.glance(conditional=True)["df_effective"].item()
    assert told["statistic"][0] == pytest.approx((1.0 / p - 1.0).sum() / left)
    assert told["expected"][0] == pytest.approx(1.0, abs=0.05)
    with pytest.raises(ModelError, match=r"'uniformity'.*Use 'dispersion' or 'ranef_normality'"):
        fit.check("uniformity")


def test_a_covariate_may_be_called_as_a_probability_is():
    data = frame().with_columns(p_dog=pl.col("x"))
    ordered = pl.col("y").cast(pl.Enum(sorted(data["y"].unique())))
    fit = polars_glmm.fit(data.with_columns(y=ordered), "y ~ p_dog", family="cumulative")
    assert "dispersion" in fit.check(n=20, rng=1)["test"].to_list()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("given", ["modes", "zero"])
def test_quantile_residuals_of_two_ordered_categories_are_those_of_the_binomial_model(given):
    """The same draws, as these depend on the seed and the row alone; of more they are between the sums of p."""
    data = frame().with_columns(two=pl.col("two").cast(pl.Int64))
    fits = [data.glmm.fit("two ~ x + (1 | g)", family=family) for family in ("binomial", "cumulative")]
    told = [fit.augment(data, quantile=True, given=given, rng=7) for fit in fits]
    for name in ("quantile_low", "quantile_high", "resid_quantile"):
        assert_allclose(*(one[name] for one in told), rtol=1e-3, atol=1e-4)
    assert told[1]["quantile_seed"].unique().to_list() == [7]
    checks = [fit.check(["uniformity", "outliers"], rng=7, given=given).drop("note") for fit in fits]
    assert_frame_equal(*checks, rel_tol=1e-2)
    three = data.glmm.fit("number ~ x + (1 | g)", family="cumulative")
    found = three.augment(data, quantile=True, given=given, rng=1)
    p = data.glmm.predict(three, random="all" if given == "modes" else "none")
    own = [p[f"prediction_{k}"][i] for i, k in enumerate(data["number"])]
    assert_allclose(found["quantile_high"] - found["quantile_low"], own, atol=1e-12)
    with pytest.raises(ModelError, match="use given='modes'"):
        three.augment(data, quantile=True, given="integrate")


@pytest.mark.slow
def test_draws_of_responses_carry_the_uncertainty_of_the_coefficients():
    """Shares of categories of rows without effects are those averaged over draws of the coefficients."""
    fit, n = fitted("y ~ x"), 1000
    rows = pl.DataFrame({"x": [-1.0, 1.5]})
    drawn = fit.predictive(rows, n, rng=2).select("^sim_.*$").to_numpy()
    beta = fit.fixef()["estimate"].to_numpy()
    draws = np.random.default_rng(1).multivariate_normal(beta, fit.estimate.vcov_fixed, 4000)
    x = np.column_stack([np.ones(2), rows["x"].to_numpy()])
    expected = np.mean([shares(one, x) for one in draws], axis=0)
    for k, label in enumerate(LABELS):
        error = np.sqrt(expected[k] * (1.0 - expected[k]) / n)
        assert (np.abs((drawn == label).mean(1) - expected[k]) < 5.0 * error).all()


@pytest.mark.slow
def test_draws_of_effects_have_the_covariance_of_the_modes():
    fit = fitted(JOINED)
    _, z, w, q, _ = dense(fit)
    inner = np.linalg.inv(z.T @ w @ z + q)
    groups = inner.shape[0] // 2
    found = fit.estimate.factors[0].mode_covariance
    for a in range(2):
        for b in range(2):
            own = np.diag(inner[a * groups : (a + 1) * groups, b * groups : (b + 1) * groups])
            assert_allclose(found[a, b], own, rtol=1e-5, atol=1e-9)
    draws = fit.posterior(2000, 1, include="u").filter(level="g04").pivot(on="parameter", index="draw", values="value")
    cov = np.cov(draws.select("dog", "emu").to_numpy().T)
    assert (np.diag(cov) > np.diag(found[:, :, 4]) * (1.0 - 5.0 * np.sqrt(2.0 / 2000))).all()  # coefficients move them


def test_scored_groups_have_the_effects_of_every_predictor():
    fit, data = fitted(JOINED), frame()
    scored = fit.score(data)
    assert scored["term"].unique(maintain_order=True).to_list() == ["dog Intercept", "emu Intercept"]
    told = [fit.predict(data, kind="link"), fit.predict(data, kind="link", ranef=scored)]
    for label in ("dog", "emu"):
        assert_allclose(*(one[f"prediction_{label}"] for one in told), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_crossed_factors_are_drawn_together():
    """The noise of rows has their whole curvature in both predictors."""
    data = frame().with_columns(h=pl.col("x").round(0).cast(pl.String))
    fit = data.glmm.fit("y ~ f + (1 |p| g) + (1 | h)", family="categorical")
    drawn = fit.posterior(300, 1, include="u").filter(group="g", level="g04")
    by = drawn.group_by("parameter", maintain_order=True).agg(pl.col("value").mean(), sd=pl.col("value").std())
    table = fit.ranef().filter(group="g", level="g04")
    assert (np.abs(by["value"] - table["estimate"]) < 5.0 * by["sd"] / np.sqrt(300)).all()
    assert (by["sd"] > 0.8 * table["std_error"]).all()


def test_pictures_are_of_each_category_or_say_why_not():
    fit = fitted(JOINED)
    from polars_glmm.plot.effects import effect_frame  # noqa: PLC0415

    lines = effect_frame(fit, "x", frame())
    assert lines["by"].unique(maintain_order=True).to_list() == LABELS.tolist()
    assert_allclose(lines.group_by("x").agg(pl.col("y").sum())["y"], 1.0, atol=1e-12)
    for ask, said in (
        (lambda: fit.plot.residuals(), "residual='deviance'"),
        (lambda: fit.plot.residuals(residual="quantile"), "use 'pearson' or 'deviance'"),
        (lambda: fit.plot.shrinkage(), "ranef\\(\\) has the effects"),
        (lambda: fit.plot.trajectories("x"), "plot the columns of predict"),
        (lambda: effect_frame(fit, "x", frame(), "x"), "Lines are the categories"),
    ):
        with pytest.raises(ModelError, match=said):
            ask()
