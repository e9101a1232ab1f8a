"""Every verb of levels that know each other, known=: by dense matrices, and by A = I, which is independent levels."""

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from polars.testing import assert_frame_equal

import polars_glmm as pg
from polars_glmm import CR, ModelError, UnknownLevelError
from polars_glmm.fitting.again import design_of
from polars_glmm.likelihood.known.between import covariances_between
from polars_glmm.likelihood.known.draws import effect_deviations
from polars_glmm.likelihood.known.joint import HeldParameters, known_model
from polars_glmm.linalg.coupled import CoupledLevels, Prior, prior_noise

from .test_related_levels import G, frame, indicator, labels, pairs, relationship

FORMULAS = {"y": "y ~ x + (1 + x | g) + (1 | s)", "count": "count ~ x + (1 | g)", "hit": "hit ~ x + (1 | g)"}
FAMILIES = {"y": "gaussian", "count": "poisson", "hit": "binomial"}
HELD = {
    "y": {"sd(g: Intercept)": 0.8, "sd(g: x)": 0.5, "cor(g: Intercept, x)": -0.3, "sd(s: Intercept)": 0.4, "phi": 0.7},
    "count": {"sd(g: Intercept)": 0.6},
    "hit": {"sd(g: Intercept)": 0.9},
}


def related(response="y", formula=None, a=None, **more):
    known = {"g": pairs(relationship() if a is None else a)}
    return frame().glmm.fit(formula or FORMULAS[response], family=FAMILIES[response], known=known, **more)


def dense(response="y", sigma=None, phi=0.7):
    """X, Z and the precision of all effects, as FORMULAS and HELD have them; effects of g by level, then of s."""
    df, a = frame(), relationship()
    x = np.column_stack([np.ones(len(df)), df["x"].to_numpy()])
    zg = indicator(df, "g")
    if response != "y":
        return x, zg, np.linalg.inv(a) / HELD[response]["sd(g: Intercept)"] ** 2
    sigma = np.array([[0.64, -0.12], [-0.12, 0.25]])
    z = np.column_stack([zg, x[:, 1:] * zg, indicator(df, "s")])
    q = np.zeros((z.shape[1],) * 2)
    q[: 2 * G, : 2 * G] = np.kron(np.linalg.inv(sigma), np.linalg.inv(a))
    q[2 * G :, 2 * G :] = np.eye(z.shape[1] - 2 * G) / 0.16
    return x, z, q


def weights(response, fit):
    eta = frame().glmm.predict(fit, kind="link")["prediction"].to_numpy()
    if response == "y":
        return np.full(len(eta), 0.7**-2)
    return np.exp(eta) if response == "count" else np.exp(eta) / (1.0 + np.exp(eta)) ** 2


@pytest.mark.parametrize("response", FORMULAS)
def test_leverage_and_effective_parameters_are_those_of_the_dense_equations(response):
    """h = w (x, z)'H⁻¹(x, z) with H Henderson's matrix (Hodges & Sargent 2001)."""
    fit = related(response, fixed=HELD[response])
    x, z, q = dense(response)
    w, c = weights(response, fit), np.column_stack([x, z])
    h = c.T @ (w[:, None] * c)
    h[2:, 2:] += q
    expected = w * np.einsum("ni,ij,nj->n", c, np.linalg.inv(h), c)
    found = fit.augment(frame(), leverage=True)["leverage"].to_numpy()
    assert_allclose(found, expected, rtol=1e-7)
    assert fit.glance(conditional=True)["df_effective"].item() == pytest.approx(expected.sum(), rel=1e-8)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("response", FORMULAS)
def test_draws_of_effects_have_the_dense_covariance(response):
    fit = related(response, fixed=HELD[response])
    _, z, q = dense(response)
    whole = np.linalg.inv(z.T @ (weights(response, fit)[:, None] * z) + q)
    held = HeldParameters.of(fit.estimate, fit.spec.family)
    model = known_model(design_of(fit, "a test").design, fit.spec.family, fit.control, held)
    r = 2 if response == "y" else 1
    expected = whole[: r * G, : r * G]
    assert_allclose(covariances_between(model)[0].reshape(r * G, r * G), expected, rtol=1e-6, atol=1e-9)
    n = 4000
    drawn = effect_deviations(model, [np.random.default_rng([1, k]) for k in range(n)])[0].reshape(n, -1)
    size = np.sqrt(np.diag(expected))
    apart = (np.cov(drawn.T) - expected) / np.outer(size, size)
    assert np.abs(apart).max() < 5.0 * np.sqrt(2.0 / n)
    error = fit.ranef("g").select("^.*_se$").to_numpy()
    assert_allclose(error.T.reshape(-1), size, rtol=1e-6)


def test_noise_has_the_precision_of_the_levels():
    prior = Prior.of(relationship())
    noise = prior_noise(CoupledLevels(None, (prior,)), [np.eye(G)[None]])[0][0]  # type: ignore[arg-type]
    assert_allclose(noise.T @ noise, prior.precision, atol=1e-10)
    some = np.array([4, 1, 7])
    assert_allclose(prior.among(some).covariance, relationship()[np.ix_(some, some)])


def test_modes_move_with_the_parameters_as_differences_say():
    fit = related("count", fixed=HELD["count"])
    held = HeldParameters.of(fit.estimate, fit.spec.family)
    known = known_model(design_of(fit, "a test").design, fit.spec.family, fit.control, held)
    slopes = known.mode_slopes()[0][0]  # (P, G)
    for k in range(3):
        ends = []
        for h in (1e-5, -1e-5):
            beta = held.beta + h * (np.arange(2) == k)
            moved = HeldParameters(beta, (held.roots[0] + h * (k == 2),), None)
            ends.append(known_model(design_of(fit, "a test").design, fit.spec.family, fit.control, moved).modes()[0])
        assert_allclose(slopes[k], (ends[0].modes[0] - ends[1].modes[0]) / 2e-5, rtol=1e-5, atol=1e-7)


def test_scores_are_modes_given_the_rows_there_are():
    fit = related("count")
    assert_frame_equal(
        fit.score(frame()).select("g", "estimate", "std_error"),
        fit.ranef().select(g="level", estimate="estimate", std_error="std_error"), rel_tol=1e-6,
    )  # fmt: skip
    some = frame()[:25]
    held = dict(fit.fixef().select("term", "estimate").iter_rows()) | {"sd(g: Intercept)": fit.varcorr()["std_dev"][0]}
    again = some.glmm.fit(FORMULAS["count"], family="poisson", known={"g": pairs(relationship())}, fixed=held)
    found = fit.score(some.lazy()).collect()
    assert_frame_equal(found.select("estimate"), again.ranef().select("estimate"), rel_tol=1e-5)
    assert found["n_obs"].sum() == 25
    assert found.filter(pl.col("n_obs") == 0).height >= 2  # foretold by relatives
    with pytest.raises(UnknownLevelError, match=r"'new' is none of them.*Fit again"):
        fit.score(some.with_columns(g=pl.lit("new")))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("response", ["y", "count"])
def test_influence_is_that_of_fits_without_a_level(response):
    formula = FORMULAS[response].replace(" + (1 | s)", "").replace("1 + x |", "1 |")
    more = {"method": "ml"} if response == "y" else {}
    fit = related(response, formula, **more)
    found = fit.influence().filter(pl.col("level") == "l03")
    rest = frame().filter(pl.col("g") != "l03")
    less = fit.update(frame=rest)
    delta = fit.fixef()["estimate"].to_numpy() - less.fixef()["estimate"].to_numpy()
    v = fit.vcov()["covariance"].to_numpy().reshape(2, 2)
    assert found["cooks_distance"].item() == pytest.approx(delta @ np.linalg.solve(v, delta) / 2.0, rel=1e-3)
    assert found["loglik"].item() == pytest.approx(less.loglik, abs=1e-6)
    point = {**dict(less.fixef().select("term", "estimate").iter_rows()),
             "sd(g: Intercept)": less.varcorr()["std_dev"][0]}  # fmt: skip
    if response == "y":
        point["phi"] = less.dispersion()["estimate"].item()
    both = [
        pg.objective(rows, formula, family=FAMILIES[response], known={"g": pairs(relationship())}, **more).loglik(point)
        for rows in (frame(), rest)
    ]
    assert found["elpd"].item() == pytest.approx(both[0] - both[1], abs=1e-4)  # relatives foretell it
    with pytest.raises(ModelError, match=r"known= relates.*method='exact'"):
        fit.influence(method="one_step")


def test_the_integral_over_relatives_is_that_of_a_grid():
    """Two relatives: log ∫∫ p(y | b) N(b; 0, σ²A) db by a fine sum, within four Monte Carlo errors."""
    a = np.array([[1.0, 0.6], [0.6, 1.5]])
    df = frame().with_columns(g=pl.col("g").replace_strict({x: labels()[k % 2] for k, x in enumerate(labels())}))[:12]
    held = {"Intercept": -0.3, "x": 0.2, "sd(g: Intercept)": 1.3}
    fit = df.glmm.fit("hit ~ x + (1 | g)", family="binomial", known={"g": pairs(a, labels(2))}, fixed=held)
    grid = np.linspace(-8.0, 8.0, 401)
    b = np.stack(np.meshgrid(grid, grid, indexing="ij")).reshape(2, -1)
    code = np.array([labels().index(g) for g in df["g"]])
    eta = -0.3 + 0.2 * df["x"].to_numpy()[:, None] + b[code]
    y = df["hit"].to_numpy()[:, None]
    inner = np.where(y, -np.logaddexp(0.0, -eta), -np.logaddexp(0.0, eta)).sum(0)
    sigma = 1.69 * a
    prior = -0.5 * np.einsum("in,ij,jn->n", b, np.linalg.inv(sigma), b)
    prior = prior - 0.5 * np.linalg.slogdet(2.0 * np.pi * sigma)[1]
    expected = np.log(np.exp(inner + prior).sum() * (grid[1] - grid[0]) ** 2)
    told = fit.laplace_error("importance", n=2000, rng=1)
    assert abs(told["loglik"].item() - expected) < 4.0 * told["mc_error"].item()
    assert told["loglik_laplace"].item() == pytest.approx(fit.loglik, abs=1e-8)
    assert abs(told["error"].item()) > 4.0 * told["mc_error"].item()  # there is something to find
    assert told["effective"].item() > 500.0


@pytest.mark.slow
def test_independent_levels_are_integrated_one_by_one_or_together():
    df = frame()
    levels = df["g"].unique().to_list()
    ones = pl.DataFrame({"level": levels, "other_level": levels, "value": 1.0})
    plain, known = (df.glmm.fit(FORMULAS["count"], family="poisson", **more) for more in ({}, {"known": {"g": ones}}))
    together = known.laplace_error("importance", n=2000, rng=1)
    assert abs(together["loglik"].item() - plain.laplace_error()["loglik"].item()) < 4.0 * together["mc_error"].item()


def families(n=4):
    """Levels of a family are related, others are not."""
    own = np.arange(G) // (G // n)
    return np.where(own[:, None] == own[None, :], relationship(), 0.0)


def in_families():
    return frame().with_columns(family=pl.col("g").str.slice(1).cast(pl.Int64) // 3)


def test_robust_covariances_need_clusters_that_hold_all_relatives():
    """CR0 by dense matrices: M Σ X_g'V_g⁻¹e_g e_g'V_g⁻¹X_g M."""
    fit = in_families().glmm.fit("y ~ x + (1 | g)", known={"g": pairs(families())}, method="ml")
    with pytest.raises(ModelError, match="relates levels of 'g' that lie in different clusters of 'g'"):
        fit.fixef(vcov="CR2")
    df, beta = in_families(), fit.fixef()["estimate"].to_numpy()
    x, zg = np.column_stack([np.ones(len(df)), df["x"].to_numpy()]), indicator(df, "g")
    sd, phi = fit.varcorr()["std_dev"][0], fit.dispersion()["estimate"].item()
    v = sd**2 * zg @ families() @ zg.T + phi**2 * np.eye(len(df))
    pull, m = np.linalg.solve(v, x), np.linalg.inv(x.T @ np.linalg.solve(v, x))
    e = df["y"].to_numpy() - x @ beta
    scores = np.array([(pull[own] * e[own, None]).sum(0) for own in
                       (df["family"].to_numpy() == k for k in df["family"].unique())])  # fmt: skip
    found = fit.vcov(vcov=CR("family", "CR0"))["covariance"].to_numpy().reshape(2, 2)
    assert_allclose(found, m @ scores.T @ scores @ m, rtol=1e-6)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("response", ["count", "hit"])
def test_scores_of_families_are_those_of_their_own_likelihoods(response):
    """Slopes of a cluster's marginal likelihood, levels without rows integrated out: clusters alone are all of it."""
    df = in_families()
    fit = df.glmm.fit(FORMULAS[response], family=FAMILIES[response], known={"g": pairs(families())})
    inner = np.zeros((3, 3))
    point = np.array([*fit.fixef()["estimate"], fit.varcorr()["std_dev"][0]])
    for k in df["family"].unique():
        rows = df.filter(pl.col("family") == k)
        alone = pg.objective(rows.with_columns(x=pl.col("x")), FORMULAS[response], family=FAMILIES[response],
                             known={"g": pairs(families())})  # fmt: skip
        slope = alone.gradient(point)
        inner += np.outer(slope, slope)
    bread = np.linalg.inv(-_hessian(df, fit, point, response))
    found = fit.vcov(vcov=CR("family", "CR0"))["covariance"].to_numpy().reshape(2, 2)
    assert_allclose(found, (bread @ inner @ bread)[:2, :2], rtol=1e-3)


def _hessian(df, fit, point, response):
    whole = pg.objective(df, FORMULAS[response], family=FAMILIES[response], known={"g": pairs(families())})
    steps = 1e-4 * np.eye(3)
    return np.array([(whole.gradient(point + h) - whole.gradient(point - h)) / 2e-4 for h in steps])


ALIKE = {
    "leverage": lambda fit, df: fit.augment(df, leverage=True),
    "conditional": lambda fit, _: fit.glance(conditional=True).drop("formula", "seconds"),
    "influence": lambda fit, _: fit.influence().drop("elpd"),
    "cases": lambda fit, _: fit.influence(method="case"),
    "terms": lambda fit, _: fit.influence_terms(),
    "score": lambda fit, df: fit.score(df).drop("posterior_mean"),
    "joint": lambda fit, df: fit.predict(df, std_error=True, uncertainty="joint"),
    "CR0": lambda fit, _: fit.fixef(vcov="CR0"),
    "CR2": lambda fit, _: fit.fixef(vcov="CR2"),
    "CR3": lambda fit, _: fit.test_terms(vcov="CR3"),
    "check": lambda fit, _: fit.check(["dispersion", "ranef_normality", "uniformity"], n=20, rng=1).drop("note"),
    "r2": lambda fit, _: fit.r2(),
    "icc": lambda fit, _: fit.icc(),
    "cross": lambda fit, _: fit.cross_validate(3, rng=1).drop("elpd"),
    "profile": lambda fit, _: fit.confint("profile", which="x"),
    "means": lambda fit, _: fit.marginal_means("x", at={"x": [0.0, 1.0]}, random="integrate"),
    "parameters": lambda fit, _: fit.posterior(3, 1, include=("beta", "theta")),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("response", ["y", "count"])
def test_levels_that_are_independent_are_so_in_every_verb(response):
    """A = I; integrals (elpd, posterior means) are of Laplace's approximation, and the ordinary ones of quadrature."""
    df = frame().filter(~pl.col("g").is_in(["l11"]))
    formula = "y ~ x + (1 | g)" if response == "y" else FORMULAS[response]
    levels = df["g"].unique().to_list()
    ones = pl.DataFrame({"level": levels, "other_level": levels, "value": 1.0})
    plain = df.glmm.fit(formula, family=FAMILIES[response])
    known = df.glmm.fit(formula, family=FAMILIES[response], known={"g": ones})
    for name, verb in ALIKE.items():
        left, right = verb(plain, df), verb(known, df)
        try:
            assert_frame_equal(left, right, rel_tol=2e-4, abs_tol=1e-5)
        except AssertionError as error:
            pytest.fail(f"{name}: {error}")
    if response == "y":
        assert known.laplace_error()["error"].item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("response", ["y", "count", "hit"])
def test_units_of_the_matrix_are_units_of_the_variance_and_of_nothing_else(response):
    """9A and σ/3 are A and σ in every verb."""
    formula = "y ~ x + (1 | g) + (1 | s)" if response == "y" else None
    one, other = related(response, formula), related(response, formula, a=9.0 * relationship())
    df = frame()
    names = ["leverage", "conditional", "cases", "joint", "check", "r2", "icc"]
    for name in names if response == "y" else [*names, "influence", "score"]:
        left, right = ALIKE[name](one, df), ALIKE[name](other, df)
        if name == "influence":
            left, right = left.drop("status"), right.drop("status")
        assert_frame_equal(left, right, rel_tol=2e-3, abs_tol=1e-4)
    drawn = [fit.posterior(4, 1, include="u")["value"] for fit in (one, other)]
    assert_allclose(drawn[0].to_numpy(), drawn[1].to_numpy(), rtol=2e-2, atol=2e-2)


@pytest.mark.slow
def test_new_draws_of_rows_keep_the_relation():
    """log μ of new levels of A has the covariance σ²A across levels, of draws about one estimate."""
    fit = related("count", fixed={**HELD["count"], "Intercept": 0.4, "x": 0.0})
    rows, n = pl.DataFrame({"g": [*labels(), "new"], "x": np.zeros(G + 1)}), 1000
    drawn = np.log(fit.predictive(rows, n, rng=1, of="mean", random="new").select("^sim_.*$").to_numpy())
    expected = np.zeros((G + 1, G + 1))
    expected[:G, :G], expected[G, G] = 0.36 * relationship(), 0.36
    size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.abs((np.cov(drawn) - expected) / size).max() < 5.0 * np.sqrt(2.0 / n)


@pytest.mark.slow
def test_terms_are_tested_against_data_drawn_with_the_relation():
    tested = related("hit", "hit ~ x + (1 | g)").test_terms(method="bootstrap", n=2, rng=1)
    assert tested["n_failed"].to_list() == [0]
