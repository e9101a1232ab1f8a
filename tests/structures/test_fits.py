"""Models with structures: equal where two say the same, on every route, and by the dense likelihood."""

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from polars.testing import assert_frame_equal
from scipy.stats import multivariate_normal

import polars_glmm as pg
from polars_glmm import Control, Memory, ModelError, Rows

LEVELS = ("a", "b", "c", "d")
DISK = Control(memory=Memory(limit=1), rows=Rows(compress=False))


def frame(n_groups=40, levels=LEVELS, repeats=2, seed=0, rho=0.5):
    """Rows of groups × levels × repeats with a covariate, and effects of levels that are correlated by ρ^distance."""
    rng = np.random.default_rng(seed)
    r = len(levels)
    root = np.linalg.cholesky(rho ** np.abs(np.subtract.outer(range(r), range(r))))
    effects = rng.normal(size=(n_groups, r)) @ root.T
    g, k = np.repeat(np.arange(n_groups), r * repeats), np.tile(np.repeat(np.arange(r), repeats), n_groups)
    x = rng.normal(size=len(g))
    eta = 0.4 + 0.3 * x + 0.7 * effects[g, k]
    return pl.DataFrame(
        {"g": g, "f": pl.Series([levels[i] for i in k], dtype=pl.Enum(levels)), "time": k, "x": x,
         "y": eta + 0.8 * rng.normal(size=len(g)), "count": rng.poisson(np.exp(eta))}
    )  # fmt: skip


SAME = {
    "cs of two is us": ("us(0 + f | g)", "cs(0 + f | g)", 2),
    "hetar1 of two is us": ("us(0 + f | g)", "hetar1(0 + f | g)", 2),
    "toep of two is us": ("us(0 + f | g)", "toep(0 + f | g)", 2),
    "full rank is us": ("us(0 + f | g)", "rr(0 + f | g, d=3)", 3),
    "homcs is nested intercepts": ("(1 | g) + (1 | g:f)", "homcs(0 + f | g)", 4),
    "homtoep of two is homcs": ("homcs(0 + f | g)", "homtoep(0 + f | g)", 2),
    "equal times are an order": ("ar1(0 + time | g)", "ou(0 + time | g)", 4),
    "numbers are levels in order": ("ar1(0 + time | g)", "ar1(0 + f | g)", 4),
    "one variance is an interaction": ("(1 | g:f)", "id(0 + f | g)", 4),
    "intercepts are exchangeable": ("(1 + x | g)", "cs(1 + x | g)", 4),
}
MODELS = {
    "reml": ("y", {}),
    "ml": ("y", {"method": "ml"}),
    "laplace": ("count", {"family": "poisson"}),
}


@pytest.mark.one_in(6)
@pytest.mark.filterwarnings("ignore:group 'g'")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("case", SAME)
def test_structures_that_say_the_same_fit_the_same(case, model):
    one, other, r = SAME[case]
    df, (y, how) = frame(levels=LEVELS[:r]), MODELS[model]
    first, second = (df.glmm.fit(f"{y} ~ x + {term}", **how) for term in (one, other))
    assert first.converged
    assert second.converged
    assert_allclose(second.loglik, first.loglik, atol=1e-7)
    assert first.glance()["df_model"][0] == second.glance()["df_model"][0]
    for column in ("estimate", "std_error"):
        assert_allclose(second.fixef()[column], first.fixef()[column], rtol=1e-4)


@pytest.mark.parametrize("name", ["cs", "homcs", "ar1", "hetar1", "toep", "homtoep", "ou"])
def test_a_gaussian_likelihood_is_that_of_the_dense_normal_distribution(name):
    df = frame(6, seed=3)
    f = "time" if name == "ou" else "f"
    made = pg.objective(df, f"y ~ x + {name}(0 + {f} | g)", method="ml")
    rng = np.random.default_rng(0)
    n_sd = 4 if name in ("cs", "hetar1", "toep") else 1
    sd, r = rng.uniform(0.5, 1.5, n_sd), 4
    lags = np.abs(np.subtract.outer(range(r), range(r)))
    if "toep" in name:
        rho = np.array([0.5, 0.3, 0.1])
        correlation = np.append(1.0, rho)[lags]
    else:
        rho = np.array([0.4])
        correlation = np.where(lags > 0, 0.4, 1.0) if "cs" in name else 0.4**lags
    point = np.concatenate([[0.3, -0.2], sd, rho, [0.7]])
    assert len(made.names) == len(point), made.names
    sigma = np.broadcast_to(sd, r)[:, None] * correlation * np.broadcast_to(sd, r)
    z = np.zeros((df.height, r * 6))
    z[np.arange(df.height), df["g"].to_numpy() * r + df["time"].to_numpy()] = 1.0
    v = z @ np.kron(np.eye(6), sigma) @ z.T + 0.49 * np.eye(df.height)
    dense = multivariate_normal(0.3 - 0.2 * df["x"].to_numpy(), v).logpdf(df["y"].to_numpy())
    assert_allclose(made.loglik(point), dense, rtol=1e-10)
    numeric = [(made.loglik(point + h) - made.loglik(point - h)) / 2e-5 for h in 1e-5 * np.eye(len(point))]
    assert_allclose(made.gradient(point), numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["cs", "homcs", "ar1", "hetar1", "toep", "homtoep", "ou"])
def test_the_gradient_of_a_laplace_likelihood_is_its_slope(name):
    df = frame(15, seed=4)
    f = "time" if name == "ou" else "f"
    made = pg.objective(df, f"count ~ x + {name}(0 + {f} | g)", family="poisson")
    point = np.array([0.3 if not one.startswith("sd") else 0.8 for one in made.names])
    numeric = [(made.loglik(point + h) - made.loglik(point - h)) / 2e-5 for h in 1e-5 * np.eye(len(point))]
    assert_allclose(made.gradient(point), numeric, rtol=1e-5, atol=1e-5)


TERMS = ("cs(0 + f | g)", "ar1(0 + f | g)", "homtoep(0 + f | g)", "rr(0 + f | g, d=2)", "ou(0 + time | g)")


def close(one, other, tolerance=1e-6):
    """Whether two fits are the same."""
    assert_allclose(other.loglik, one.loglik, atol=tolerance)
    assert_frame_equal(one.varcorr(), other.varcorr(), check_exact=False, rel_tol=2e-3, abs_tol=1e-5)
    assert_frame_equal(one.ranef(), other.ranef(), check_exact=False, rel_tol=1e-3, abs_tol=1e-3)


@pytest.mark.one_in(5)
@pytest.mark.parametrize("term", TERMS)
def test_every_route_finds_the_same_gaussian_fit(term):
    df = frame(seed=5)
    formula = f"y ~ x + {term}"
    eager = df.glmm.fit(formula)
    lazy = df.lazy().glmm.fit(formula)
    close(eager, lazy)
    close(eager, df.lazy().glmm.products(formula).fit())
    for part, fit in frame(seed=5).with_columns(by=pl.lit("k")).glmm.fit(formula, by="by"):
        assert part == "k"
        close(eager, fit)


@pytest.mark.one_in(5)
@pytest.mark.parametrize("term", TERMS)
def test_every_route_finds_the_same_count_fit(term):
    df = frame(seed=6)
    formula = f"count ~ x + {term}"
    eager = df.glmm.fit(formula, family="poisson")
    close(eager, df.lazy().glmm.fit(formula, family="poisson"))
    assert df.lazy().glmm.explain(formula, family="poisson", control=DISK).plan.route == "disk"
    close(eager, df.lazy().glmm.fit(formula, family="poisson", control=DISK))
    twice = pl.concat([df.with_columns(by=pl.lit(1)), frame(seed=7).with_columns(by=pl.lit(2))])
    both = twice.glmm.fit(formula, family="poisson", by="by")
    close(eager, both[1])
    assert both.varcorr().height == 2 * eager.varcorr().height
    assert "compressed" not in str(both.status()["code"].to_list())


@pytest.mark.one_in(6)
@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_what_comes_after_a_fit_works_with_structures(term, family, tmp_path):
    df = frame(30, seed=8)
    y = "y" if family == "gaussian" else "count"
    fit = df.glmm.fit(f"{y} ~ x + {term}", family=family)
    text = str(fit)
    assert term.partition("(")[0] + "()" in text
    fit.write(tmp_path / "fit.glmm")
    again = pg.read_fit(tmp_path / "fit.glmm")
    assert_frame_equal(again.varcorr(), fit.varcorr())
    for kind in ("response", "link"):
        assert_frame_equal(fit.predict(df, kind=kind), again.predict(df, kind=kind))
    mean = fit.predict(df, kind="link", std_error=True)
    assert mean["prediction_std_error"].is_finite().all()
    joined = df.join(fit.ranef("g"), on="g", how="left")
    assert joined.height == df.height
    assert fit.simulate(df, n=2, rng=1).width == df.width + 2
    assert fit.augment(df).height == df.height
    smaller = df.glmm.fit(f"{y} ~ x", family=family, method="ml" if family == "gaussian" else None)
    larger = df.glmm.fit(f"{y} ~ x + {term}", family=family, method="ml" if family == "gaussian" else None)
    assert pg.anova(smaller, larger).height == 2
    assert fit.vcov(full=True).height > fit.vcov().height
    assert "converged" in fit.glance().columns
    assert term.partition("(")[0] in str(df.glmm.explain(f"{y} ~ x + {term}", family=family))


def test_parameters_are_held_and_begun_from_by_name():
    df = frame(seed=9)
    formula = "count ~ x + ar1(0 + f | g)"
    free = df.glmm.fit(formula, family="poisson")
    names = df.glmm.objective(formula, family="poisson").names
    assert names[2:] == ("sd(g: f[a])", "cor(g: f[a], f[b])")
    held = df.glmm.fit(formula, family="poisson", fixed={"cor(g: f[a], f[b])": 0.2})
    assert_allclose(held.varcorr()["correlation"].drop_nulls(), 0.2, atol=1e-10)
    assert held.loglik < free.loglik
    assert held.glance()["df_model"][0] == free.glance()["df_model"][0] - 1
    begun = df.glmm.fit(formula, family="poisson", start={"cor(g: f[a], f[b])": 0.8, "sd(g: f[a])": 0.3})
    close(free, begun)
    gaussian = df.glmm.fit("y ~ x + cs(0 + f | g)", method="ml")
    fixed = df.glmm.fit("y ~ x + cs(0 + f | g)", method="ml", fixed={"sd(g: f[b])": 1.1})
    assert_allclose(fixed.varcorr().filter(pl.col("term") == "f[b]", pl.col("other_term").is_null())["std_dev"], 1.1)
    assert fixed.loglik < gaussian.loglik
    with pytest.raises(ModelError, match="do not make a matrix"):
        df.glmm.fit("y ~ x + cs(0 + f | g)", start={"cor(g: f[a], f[b])": -0.9})
    with pytest.raises(ModelError, match="hold all or none"):
        df.glmm.fit("y ~ x + toep(0 + f | g)", fixed={"cor(g: f[a], f[b])": 0.2})


@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_a_profile_of_a_correlation_falls_by_its_quantile(family):
    df = frame(30, seed=10)
    y = "y" if family == "gaussian" else "count"
    formula = f"{y} ~ x + ar1(0 + f | g)"
    how = {"method": "ml"} if family == "gaussian" else {"family": family}
    fit = df.glmm.fit(formula, **how)
    name = "cor(g: f[a], f[b])"
    ends = fit.confint(method="profile", which=[name]).row(0, named=True)
    assert ends["conf_low"] < ends["estimate"] < ends["conf_high"]
    for end in (ends["conf_low"], ends["conf_high"]):
        held = df.glmm.fit(formula, fixed={name: end}, **how)
        assert_allclose(2.0 * (fit.loglik - held.loglik), 3.841458820694124, atol=1e-3)
    sd = fit.confint(method="profile", which=["sd(g: f[a])"]).row(0, named=True)
    held = df.glmm.fit(formula, fixed={"sd(g: f[a])": sd["conf_high"]}, **how)
    assert_allclose(2.0 * (fit.loglik - held.loglik), 3.841458820694124, atol=1e-3)


@pytest.mark.one_in(6)
@pytest.mark.filterwarnings("ignore:group 'g'")
@pytest.mark.parametrize("term", ["ar1(0 + f | g)", "cs(0 + f | g)", "homcs(0 + f | g)", "toep(0 + f | g)"])
@pytest.mark.parametrize("model", MODELS)
def test_a_correlation_of_one_is_an_answer(term, model):
    df, (y, how) = frame(seed=11, rho=1.0 - 1e-12), MODELS[model]
    fit = df.glmm.fit(f"{y} ~ x + {term}", **how)
    plain = df.glmm.fit(f"{y} ~ x + (1 | g)", **how)
    assert fit.converged
    assert fit.loglik > plain.loglik - 1e-6
    if fit.varcorr()["correlation"].drop_nulls().max() > 1.0 - 1e-9:
        assert fit.singular
        assert fit.varcorr()["correlation_low"].drop_nulls().is_empty()


@pytest.mark.filterwarnings("ignore:group 'g'")
@pytest.mark.parametrize("name", ["ar1", "homcs", "homtoep", "id", "cs"])
def test_no_variance_at_all_is_an_answer(name):
    df = frame(60, seed=12).with_columns(y=pl.Series(np.random.default_rng(2).normal(size=480)))
    df = df.with_columns(y=pl.col("y") - pl.col("y").mean().over("g", "f"))  # less alike than by chance
    fit = df.glmm.fit(f"y ~ 1 + {name}(0 + f | g)", method="ml")
    assert fit.singular
    assert fit.converged
    assert_allclose(fit.loglik, df.glmm.fit("y ~ 1", method="ml").loglik, atol=1e-6)


def test_levels_that_do_not_occur_are_gaps():
    df = frame(60, ("a", "b", "c", "d", "e"), seed=13)
    some = df.filter(pl.col("f") != "c")
    gap = some.glmm.fit("count ~ x + ar1(0 + f | g)", family="poisson")
    numbers = some.glmm.fit("count ~ x + ar1(0 + time | g)", family="poisson")
    assert_allclose(numbers.loglik, gap.loglik, atol=1e-8)
    none = some.with_columns(pl.col("f").cast(pl.String)).glmm.fit("count ~ x + ar1(0 + f | g)", family="poisson")
    assert abs(none.loglik - gap.loglik) > 1e-4


BAD = {
    "ar1(1 + f | g)": "without an intercept",
    "ar1(0 + x:f | g)": "levels of one column",
    "ar1(0 + half | g)": "not whole everywhere",
    "ou(0 + f | g)": "is no number",
    "cs(1 | g)": "one column",
    "rr(0 + f | g)": "needs its rank",
    "rr(0 + f | g, d=9)": "no rank of 9",
    "rr(0 + f | g, d=0)": "at least 1",
    "cs(0 + f || g)": "for none",
    "ar1(0 + f |p| g)": "leave one",
    "exp(0 + f | g)": "coordinates are numbers",
    "propto(0 + f | g)": "not yet available",
    "toep(0 + gappy | g)": "knows no gaps",
}


@pytest.mark.parametrize("term", BAD)
def test_what_a_structure_is_not_for_is_said_before_any_fit(term):
    df = frame(8).with_columns(gappy=pl.col("time") ** 2, half=0.5 * pl.col("time"))
    with pytest.raises(pg.GlmmError, match=BAD[term]):
        df.glmm.fit(f"y ~ x + {term}")


def test_kenward_and_roger_say_what_to_use_instead():
    fit = frame(20).glmm.fit("y ~ x + ar1(0 + f | g)")
    with pytest.raises(ModelError, match="satterthwaite"):
        fit.fixef(df="kenward-roger")
    assert (fit.fixef()["df"] > 1.0).all()
