"""Fields over points: by the dense normal distribution, the same wherever the points are seen from, and at limits."""

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from polars.testing import assert_frame_equal
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

import polars_glmm as pg
from polars_glmm import Control, Memory, ModelError, Rows
from polars_glmm.covariance.correlations import CORRELATIONS, distances
from polars_glmm.covariance.fields import Matern
from polars_glmm.covariance.structures import STRUCTURES, at_points

TERMS = {
    "exp": ("exp(0 + u + v | g)", lambda t: np.exp(-t)),
    "gau": ("gau(0 + u + v | g)", lambda t: np.exp(-(t**2))),
    "mat": ("mat(0 + u + v | g, nu=1.5)", lambda t: (1.0 + t) * np.exp(-t)),
    "smoother": ("mat(0 + u + v | g, nu=2.5)", lambda t: (1.0 + t + t**2 / 3.0) * np.exp(-t)),
}
"""Terms, and their correlations in closed form."""


def frame(n_points=12, n_groups=1, repeats=3, *, seed=0, length=1.2, noise=0.5, width=4.0):
    """Rows of groups × points in a plane × repeats, with a field of exponential correlation in each group."""
    rng = np.random.default_rng(seed)
    at = np.round(rng.uniform(0.0, 1.0, size=(n_points, 2)) * (4.0, width), 3)
    low = np.linalg.cholesky(np.exp(-distances(at) / length))
    effects = rng.normal(size=(n_groups, n_points)) @ low.T
    g, k = np.repeat(np.arange(n_groups), n_points * repeats), np.tile(np.arange(n_points), n_groups * repeats)
    x = rng.normal(size=len(g))
    eta = 0.3 + 0.4 * x + 0.9 * effects[g, k]
    return pl.DataFrame(
        {"g": g, "u": at[k, 0], "v": at[k, 1], "x": x, "y": eta + noise * rng.normal(size=len(g)),
         "count": rng.poisson(np.exp(0.5 * eta))}
    )  # fmt: skip


def dense(df, correlation, point):
    """The logarithm of the density of y: intercept, slope, sd and range of the field, sd of the residual."""
    intercept, slope, sd, length, phi = point
    at, g = df.select("u", "v").to_numpy(), df["g"].to_numpy()
    v = sd**2 * correlation(distances(at) / length) * (g[:, None] == g) + phi**2 * np.eye(len(g))
    return multivariate_normal(intercept + slope * df["x"].to_numpy(), v).logpdf(df["y"].to_numpy())


def differences(made, point):
    """Slopes of a likelihood by central differences."""
    return [(made.loglik(point + h) - made.loglik(point - h)) / 2e-5 for h in 1e-5 * np.eye(len(point))]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("n_groups", [1, 3])
@pytest.mark.parametrize("name", TERMS)
def test_a_likelihood_is_that_of_the_dense_normal_distribution(name, n_groups):
    df, (term, correlation) = frame(n_groups=n_groups), TERMS[name]
    made = pg.objective(df, f"y ~ x + {term}", method="ml")
    assert made.names[3] == "range(g: u, v)"
    for length in (0.05, 0.7, 6.0):
        point = np.array([0.2, 0.3, 0.8, length, 0.6])
        assert_allclose(made.loglik(point), dense(df, correlation, point), rtol=1e-10)
        assert_allclose(made.gradient(point), differences(made, point), rtol=1e-5, atol=1e-6)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", TERMS)
def test_a_fit_is_where_the_dense_likelihood_is_highest(name):
    df, (term, correlation) = frame(n_groups=2, seed=1), TERMS[name]
    fit = df.glmm.fit(f"y ~ x + {term}", method="ml")
    start = np.array([0.0, 0.0, 0.0, 0.0, -0.5])

    def loss(at):
        return -dense(df, correlation, np.concatenate([at[:2], np.exp(at[2:])]))

    best = minimize(loss, start, method="BFGS", options={"gtol": 1e-6})
    assert_allclose(fit.loglik, -best.fun, atol=1e-7)
    table = fit.varcorr()
    assert_allclose(table["estimate"][1], np.exp(best.x[3]), rtol=1e-3)
    assert table["term"][1] == "range(u, v)"
    assert fit.converged


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", TERMS)
def test_the_gradient_of_a_laplace_likelihood_is_its_slope(name):
    made = pg.objective(frame(8, 2, seed=2), f"count ~ x + {TERMS[name][0]}", family="poisson")
    point = np.array([0.3, 0.2, 0.7, 0.9])
    assert_allclose(made.gradient(point), differences(made, point), rtol=1e-5, atol=1e-5)


def test_a_laplace_approximation_of_two_points_is_near_the_integral():
    df = frame(2, 1, repeats=30, seed=3)
    made = pg.objective(df, "count ~ x + exp(0 + u + v | g)", family="poisson")
    point = np.array([0.3, 0.2, 0.4, 1.5])
    at = df.select("u", "v").unique(maintain_order=True).to_numpy()
    rho = np.exp(-distances(at)[0, 1] / 1.5)
    low = 0.4 * np.linalg.cholesky(np.array([[1.0, rho], [rho, 1.0]]))
    k = (df["u"].to_numpy() == at[1, 0]).astype(int)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    u = np.array(np.meshgrid(nodes, nodes)).reshape(2, -1)
    eta = (0.3 + 0.2 * df["x"].to_numpy())[:, None] + (low @ u)[k]
    y = df["count"].to_numpy()[:, None]
    log_p = (y * eta - np.exp(eta)).sum(0) - np.array([sum(np.log(np.arange(1, n + 1)).sum() for n in y[:, 0])])
    whole = np.log(np.outer(weights, weights).ravel() / (2.0 * np.pi) @ np.exp(log_p - log_p.max())) + log_p.max()
    assert_allclose(made.loglik(point), whole, atol=1e-2)


def test_a_matern_correlation_is_the_integral_that_defines_its_bessel_function():
    for nu, t in ((0.3, 0.4), (0.8, 1.7), (1.5, 0.01), (3.2, 5.0)):
        bessel, _ = quad(lambda s: np.exp(-t * np.cosh(s)) * np.cosh(nu * s), 0.0, 20.0)  # noqa: B023
        gamma, _ = quad(lambda s: s ** (nu - 1.0) * np.exp(-s), 0.0, np.inf)  # noqa: B023
        value, slope = Matern(nu).lag(np.array([np.log(2.0)]), np.array([2.0 * t]))
        assert_allclose(value[0], 2.0 ** (1.0 - nu) / gamma * t**nu * bessel, rtol=1e-6)
        up, down = (Matern(nu).lag(np.array([np.log(2.0) + h]), np.array([2.0 * t]))[0][0] for h in (1e-5, -1e-5))
        assert_allclose(slope[0], (up - down) / 2e-5, rtol=1e-6)
    apart = np.array([0.0, 0.2, 1.0, 40.0, 2000.0])
    half, whole = Matern(0.5), CORRELATIONS["exp"]
    value, slope = half.lag(np.array([0.3]), apart)
    at = np.array([0.3]), np.array([[0.0], *([d] for d in apart[1:])])
    assert_allclose(value, whole.matrix(*at, 0)[0], rtol=1e-12)
    assert_allclose(slope, whole.slopes(*at, 0)[0, 0], rtol=1e-12, atol=1e-300)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("model", [("y", {"method": "ml"}), ("y", {}), ("count", {"family": "poisson"})])
def test_in_one_dimension_an_exponential_field_is_an_ornstein_uhlenbeck_process(model):
    y, how = model
    df = frame(9, 12, seed=4, width=0.0)
    df = df.with_columns(count=(2.0 * pl.col("y")).exp().floor())
    field, process = (df.glmm.fit(f"{y} ~ x + {name}(0 + u | g)", **how) for name in ("exp", "ou"))
    half = df.glmm.fit(f"{y} ~ x + mat(0 + u | g, nu=0.5)", **how)
    for other in (process, half):
        assert_allclose(other.loglik, field.loglik, atol=1e-7)
        assert_allclose(other.fixef()["std_error"], field.fixef()["std_error"], rtol=1e-4)
    nearest = np.diff(np.sort(df["u"].unique().to_numpy())).min()
    rho = process.varcorr()["correlation"].drop_nulls()[0]
    assert_allclose(field.varcorr()["estimate"][1], -nearest / np.log(rho), rtol=2e-3)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", ["exp", "mat"])
@pytest.mark.parametrize("y", ["y", "count"])
def test_a_field_is_the_same_from_wherever_it_is_seen(name, y):
    df, term = frame(10, 3, seed=5), TERMS[name][0]
    how = {"method": "ml"} if y == "y" else {"family": "poisson"}
    fit = df.glmm.fit(f"{y} ~ x + {term}", **how)
    turned = df.with_columns(
        u=0.6 * pl.col("u") - 0.8 * pl.col("v") + 3.0, v=0.8 * pl.col("u") + 0.6 * pl.col("v") - 700.0
    )
    larger = df.with_columns(pl.col("u", "v") * 1000.0)
    shuffled = df.sample(fraction=1.0, shuffle=True, seed=1)
    swapped = df.rename({"u": "v", "v": "u"})
    for other, times in ((turned, 1.0), (larger, 1000.0), (shuffled, 1.0), (swapped, 1.0)):
        same = other.glmm.fit(f"{y} ~ x + {term}", **how)
        assert_allclose(same.loglik, fit.loglik, atol=1e-7)
        assert_allclose(same.varcorr()["estimate"][1], times * fit.varcorr()["estimate"][1], rtol=2e-3)


def at_a_limit(constant):
    """Groups of points on a line whose effects are the same, or change sign from one to the next."""
    df, rng = frame(8, 12, seed=6), np.random.default_rng(7)
    k = df.select(pl.struct("u", "v").rank("dense"))["u"].to_numpy().astype(int) - 1
    df = df.with_columns(u=1.0 * k, v=pl.lit(0.0), p=k, noise=0.5 * rng.normal(size=df.height))
    shape = np.ones(8) if constant else (-1.0) ** np.arange(8)
    effect = rng.normal(size=12)[:, None] * shape
    noise = (pl.col("noise") - pl.col("noise").mean().over("g", "p")) if constant else pl.col("noise")
    return df.with_columns(y=noise + pl.Series(effect[df["g"].to_numpy(), k]))


@pytest.mark.one_in(4)
@pytest.mark.filterwarnings("ignore:group 'g'")
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("name", TERMS)
def test_at_its_limits_a_field_is_a_simpler_model_and_says_so(name, constant):
    df = at_a_limit(constant)
    plain = df.glmm.fit(f"y ~ x + {'(1 | g)' if constant else '(1 | g:p)'}", method="ml")
    said = "without end: all points have one effect" if constant else "at 0: effects of points are independent"
    with pytest.warns(pg.FitWarning, match=said):
        fit = df.glmm.fit(f"y ~ x + {TERMS[name][0]}", method="ml")
    assert_allclose(fit.loglik, plain.loglik, atol=1e-7)
    found = fit.varcorr().row(1, named=True)
    assert found["estimate"] == (np.inf if constant else 0.0)
    assert found["std_error"] is None
    assert fit.singular == constant
    assert fit.converged
    again = df.glmm.fit(f"y ~ x + {TERMS[name][0]}", method="ml", fixed={"range(g: u, v)": 1e9 if constant else 1e-4})
    assert_allclose(again.loglik, plain.loglik, atol=1e-6)


def test_parameters_are_held_and_begun_from_by_name():
    df = frame(12, 8, seed=9)
    formula = "count ~ x + exp(0 + u + v | g)"
    free = df.glmm.fit(formula, family="poisson")
    held = df.glmm.fit(formula, family="poisson", fixed={"range(g: u, v)": 2.0})
    assert_allclose(held.varcorr()["estimate"][1], 2.0, rtol=1e-9)
    assert held.glance()["df_model"][0] == free.glance()["df_model"][0] - 1
    assert held.loglik < free.loglik
    begun = df.glmm.fit(formula, family="poisson", start={"range(g: u, v)": 9.0})
    assert_allclose(begun.loglik, free.loglik, atol=1e-7)
    with pytest.raises(ModelError, match="a range is positive"):
        df.glmm.fit(formula, family="poisson", fixed={"range(g: u, v)": -1.0})
    ends = free.confint(method="profile", which=["range(g: u, v)"]).row(0, named=True)
    at = df.glmm.fit(formula, family="poisson", fixed={"range(g: u, v)": ends["conf_low"]})
    assert_allclose(2.0 * (free.loglik - at.loglik), 3.841458820694124, atol=1e-3)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("y", ["y", "count"])
def test_what_comes_after_a_fit_works_with_fields(y, tmp_path):
    df, term = frame(8, 4, seed=10), "mat(0 + u + v | g, nu=1.5)"
    family = "gaussian" if y == "y" else "poisson"
    formula = f"{y} ~ x + {term}"
    fit = df.glmm.fit(formula, family=family)
    assert "range(u, v) =" in str(fit)
    assert term in fit.formula
    fit.write(tmp_path / "fit.glmm")
    again = pg.read_fit(tmp_path / "fit.glmm")
    assert_frame_equal(again.varcorr(), fit.varcorr())
    assert_frame_equal(fit.predict(df), again.predict(df))
    assert fit.predict(df, std_error=True)["prediction_std_error"].is_finite().all()
    assert_allclose(df.lazy().glmm.fit(formula, family=family).loglik, fit.loglik, atol=1e-7)
    if y == "count":
        disk = Control(memory=Memory(limit=1), rows=Rows(compress=False))
        assert df.lazy().glmm.explain(formula, family=family, control=disk).plan.route == "disk"
        assert_allclose(df.lazy().glmm.fit(formula, family=family, control=disk).loglik, fit.loglik, atol=1e-7)
    twice = pl.concat([df.with_columns(k=pl.lit(1)), df.with_columns(k=pl.lit(2))])
    keyed = twice.glmm.fit(formula, family=family, by="k")
    assert_frame_equal(keyed[2].varcorr(), fit.varcorr(), check_exact=False, rel_tol=1e-4)
    assert "range" in fit.confint()["quantity"].to_list()
    assert "log_range" in fit.vcov(full=True)["parameter"].to_list()
    assert {"range"} <= set(fit.report().filter(pl.col("section") == "random")["quantity"])
    assert "range" in fit.bootstrap(2, rng=1)["quantity"].to_list()
    assert fit.influence("g")["status"].to_list() == ["ok"] * 4
    with pytest.raises(ModelError, match="no draws by the normal approximation for mat"):
        fit.posterior(2)


def test_new_points_are_said_and_foretold():
    df = frame(8, 4, seed=11)
    fit = df.glmm.fit("y ~ x + exp(0 + u + v | g)")
    new = df.head(3).with_columns(v=pl.Series([df["v"][0], df["v"][1], df["v"][0]]))
    new = new.with_columns(u=pl.Series([df["u"][0], df["u"][1], df["u"][1]]))  # known coordinates, not a known point
    assert fit.unseen(new)["level"].to_list() == [f"{new['u'][2]}:{new['v'][2]}"]
    for levels in ("error", "zero", "null"):
        assert fit.predict(new, new_levels=levels)["prediction"].is_not_null().all()
    for asked in (lambda: fit.simulate(new, 1, 1), lambda: fit.predict(new, std_error=True, uncertainty="joint")):
        with pytest.raises(pg.UnknownLevelError, match="'u' and 'v' have level"):
            asked()


BAD = {
    "exp(u + v | g)": "without an intercept",
    "exp(0 + u:v | g)": "columns of coordinates",
    "exp(0 + log(u) | g)": "columns of coordinates",
    "exp(0 + u + s | g)": "column 's' is String, and coordinates are numbers",
    "exp(0 + one | g)": "one point",
    "exp(0 + one + tiny | g)": "Shift and rescale",
    "mat(0 + u + v | g)": "needs its smoothness",
    "mat(0 + u + v | g, nu=0)": "number above 0",
    "exp(0 + u + v || g)": "for none",
    "exp(0 + u + v |p| g)": "leave one",
    "exp(0 + u + v | 1)": "one column of the same value",
}


@pytest.mark.parametrize("term", BAD)
def test_what_a_field_is_not_for_is_said_before_any_fit(term):
    df = frame(6, 3).with_columns(
        s=pl.col("u").cast(pl.Int64).cast(pl.String) + "a", one=pl.lit(1.0), tiny=1e-200 * pl.col("u")
    )
    with pytest.raises(pg.GlmmError, match=BAD[term]):
        df.glmm.fit(f"y ~ x + {term}")


def test_points_that_no_memory_holds_are_refused_in_words(monkeypatch):
    monkeypatch.setattr("polars_glmm.frames.limits.memory_limit", lambda _: 1000)
    with pytest.raises(pg.ResourceError, match=r"has 6 points of \(u, v\): .* Round the coordinates to fewer points"):
        frame(6, 3).glmm.fit("y ~ x + exp(0 + u + v | g)")


def test_missing_coordinates_drop_their_rows_and_infinite_ones_are_named():
    df = frame(6, 4, seed=12)
    gap = df.with_columns(u=pl.when(pl.int_range(pl.len()) == 5).then(None).otherwise("u"))
    assert gap.glmm.fit("y ~ x + exp(0 + u + v | g)").n_obs == df.height - 1
    with pytest.raises(pg.GlmmError, match="column 'u' is infinite"):
        df.with_columns(u=pl.when(pl.int_range(pl.len()) == 5).then(np.inf).otherwise("u")).glmm.fit(
            "y ~ x + exp(0 + u + v | g)"
        )


def test_one_row_at_each_point_is_a_field_with_a_nugget():
    df = frame(40, 1, repeats=1, seed=16, noise=0.6, length=2.0)
    fit = df.glmm.fit("y ~ x + exp(0 + u + v | g)", method="ml")
    point = np.array([*fit.fixef()["estimate"], fit.varcorr()["std_dev"][0], fit.varcorr()["estimate"][1],
                      fit.varcorr()["std_dev"][2]])  # fmt: skip
    assert_allclose(dense(df, TERMS["exp"][1], point), fit.loglik, atol=1e-8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
@pytest.mark.parametrize(("seed", "groups", "repeats", "y"), [(0, 4, 2, "count"), (1, 4, 2, "count"), (7, 1, 1, "y")])
def test_no_start_leads_higher(seed, groups, repeats, y):
    """Likelihoods of smooth fields have several hills."""
    df = frame(25, groups, repeats, seed=seed, length=2.5 if groups > 1 else 1.0)
    how = {"family": "poisson"} if y == "count" else {}
    fit = df.glmm.fit(f"{y} ~ x + {TERMS['gau'][0]}", **how)
    assert fit.converged
    for length in (0.1, 1.5, 6.0):
        begun = df.glmm.fit(f"{y} ~ x + {TERMS['gau'][0]}", start={"range(g: u, v)": length}, **how)
        assert fit.loglik >= begun.loglik - 1e-5


def test_points_that_nearly_coincide_are_no_obstacle():
    at = ((0.0, 0.0), (1e-5, 0.0), (2.0, 0.0), (0.0, 3.0), (5.0, 5.0))
    for text, (_, correlation) in zip(("exp", "gau", "mat(1.5)", "mat(2.5)"), TERMS.values(), strict=True):
        structure = STRUCTURES[at_points(text, at)]
        for length in (1e-6, 1e-4, 0.3, 10.0, 1e5):
            theta = structure.natural(np.ones(1), np.array([length]), 5)
            factor = structure.factor(theta, 5)
            expected = correlation(distances(np.array(at)) / length)
            assert_allclose(factor @ factor.T, expected, atol=1e-9)
            if 1e-5 < length < 1e5 or text == "exp":
                assert_allclose(structure.length(factor @ factor.T), length, rtol=1e-4)
