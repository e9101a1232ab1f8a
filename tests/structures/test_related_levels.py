"""Levels that know each other, known=: by dense likelihoods, by models that say the same, and what is refused."""

import pickle

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from polars.testing import assert_frame_equal
from scipy.special import gammaln

import polars_glmm as pg
from polars_glmm import KnownLevels, ModelError
from polars_glmm.linalg.coupled import Prior, coloured

G, R, N = 12, 4, 60
UNMET = ("l10", "l11")
"""Levels of A without rows."""


def labels(n=G):
    return [f"l{k:02d}" for k in range(n)]


def relationship(n=G, seed=3):
    """A positive definite matrix with variances of its own."""
    root = np.random.default_rng(seed).normal(size=(n, n + 4)) / np.sqrt(n + 4)
    return root @ root.T + 0.2 * np.eye(n)


def pairs(a, names=None, lower=True):
    names = labels(len(a)) if names is None else names
    i, j = np.nonzero(np.tril(a) if lower else a)
    return pl.DataFrame({"level": [names[k] for k in i], "other_level": [names[k] for k in j], "value": a[i, j]})


def frame(seed=1, n=N):
    """Rows of the first ten levels, crossed with four of another factor."""
    rng = np.random.default_rng(seed)
    level, site, x = rng.integers(0, G - len(UNMET), n), rng.integers(0, R, n), rng.normal(size=n)
    b = 0.7 * np.linalg.cholesky(relationship()) @ rng.normal(size=G)
    eta = 0.5 + 0.4 * x + b[level] + 0.3 * rng.normal(size=R)[site]
    return pl.DataFrame(
        {"g": [labels()[k] for k in level], "s": [f"s{k}" for k in site], "x": x, "f": x > 0.3,
         "y": eta + 0.6 * rng.normal(size=n), "count": rng.poisson(np.exp(eta)),
         "hit": rng.random(n) < 1.0 / (1.0 + np.exp(-eta))}
    )  # fmt: skip


def indicator(df, column):
    names = labels() if column == "g" else sorted(df[column].unique())
    return (np.array(df[column].to_list())[:, None] == np.array(names)).astype(float)


def dense(y, x, v, beta, reml):
    """ℓ at β, restricted where asked for."""
    e = y - x @ beta
    vx = np.linalg.solve(v, x)
    terms = [np.linalg.slogdet(v)[1], e @ np.linalg.solve(v, e), len(y) * np.log(2.0 * np.pi)]
    if reml:
        best = np.linalg.solve(x.T @ vx, vx.T @ y)
        terms = [terms[0], terms[1], (len(y) - x.shape[1]) * np.log(2.0 * np.pi), np.linalg.slogdet(x.T @ vx)[1]]
        assert best.shape == beta.shape
    return -0.5 * sum(terms)


def covariance(df, z, sigma):
    """Z(A ⊗ Σ)Z' of a slope and an intercept on g."""
    zg = indicator(df, "g")
    total = np.zeros((len(df), len(df)))
    for i, a in enumerate(z):
        for j, b in enumerate(z):
            total += sigma[i, j] * (a[:, None] * zg) @ relationship() @ (b[:, None] * zg).T
    return total


def differences(objective, point):
    steps = 1e-5 * np.eye(len(point))
    return [(objective.loglik(point + h) - objective.loglik(point - h)) / 2e-5 for h in steps]


DESIGNS = {
    "intercepts": ("y ~ x + (1 | g)", ()),
    "slopes": ("y ~ x + (1 + x | g)", ()),
    "crossed": ("y ~ x + (1 | s) + (1 + x | g)", ()),
    "variances": ("y ~ x + (1 | g)", ("phi ~ f",)),
    "a variance for each row": ("y ~ x + (1 | s) + (1 | g)", ("phi ~ x",)),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("method", ["ml", "reml"])
@pytest.mark.parametrize("design", DESIGNS)
def test_gaussian_objectives_are_the_dense_likelihood(design, method):
    df, (formula, further) = frame(), DESIGNS[design]
    found = pg.objective(df, formula, *further, known={"g": pairs(relationship())}, method=method)
    values = {"Intercept": 0.4, "x": 0.3, "sd(g: Intercept)": 0.8, "sd(g: x)": 0.5, "cor(g: Intercept, x)": -0.3,
              "sd(s: Intercept)": 0.4, "phi": 0.7, "phi: Intercept": -0.3, "phi: x": 0.2,
              "phi: f[T.True]": 0.4}  # fmt: skip
    point = np.array([values[name] for name in found.names])
    x = df["x"].to_numpy()
    fixed = np.column_stack([np.ones(N), x])
    phi = np.full(N, 0.7)
    if further:
        phi = np.exp(-0.3 + (0.2 * x if "x" in further[0] else 0.4 * df["f"].to_numpy()))
    sigma = np.array([[0.64, -0.12], [-0.12, 0.25]])
    z = [np.ones(N), x] if "1 + x" in formula else [np.ones(N)]
    v = covariance(df, z, sigma) + np.diag(phi**2)
    if "| s)" in formula:
        v += 0.16 * indicator(df, "s") @ indicator(df, "s").T
    beta = np.array([0.4, 0.3])
    if method == "reml" and further:  # of rows, β is profiled out
        vx = np.linalg.solve(v, fixed)
        beta = np.linalg.solve(fixed.T @ vx, vx.T @ df["y"].to_numpy())
        point[:2] = beta
    assert found.loglik(point) == pytest.approx(dense(df["y"].to_numpy(), fixed, v, beta, method == "reml"), abs=1e-9)
    assert_allclose(found.gradient(point), differences(found, point), rtol=1e-5, atol=1e-6)


def log_density(family, y, eta):
    if family == "poisson":
        return y * eta - np.exp(eta) - gammaln(y + 1.0), y - np.exp(eta), np.exp(eta)
    p = 1.0 / (1.0 + np.exp(-eta))
    return y * np.log(p) + (1 - y) * np.log(1 - p), y - p, p * (1 - p)


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("family", ["poisson", "binomial"])
def test_laplace_is_the_dense_approximation(family, crossed):
    df = frame()
    y = df["count" if family == "poisson" else "hit"].cast(pl.Float64).to_numpy()
    formula = f"{'count' if family == 'poisson' else 'hit'} ~ x + (1 | g)" + (" + (1 | s)" if crossed else "")
    found = pg.objective(df, formula, known={"g": pairs(relationship())}, family=family)
    values = {"Intercept": 0.3, "x": 0.2, "sd(g: Intercept)": 0.9, "sd(s: Intercept)": 0.5}
    point = np.array([values[name] for name in found.names])
    z, q = 0.9 * indicator(df, "g"), np.linalg.inv(relationship())
    if crossed:
        z = np.column_stack([z, 0.5 * indicator(df, "s")])
        q = np.block([[q, np.zeros((G, R))], [np.zeros((R, G)), np.eye(R)]])
    u, eta = np.zeros(len(q)), 0.3 + 0.2 * df["x"].to_numpy()
    for _ in range(50):
        _, g, w = log_density(family, y, eta + z @ u)
        u = u + np.linalg.solve(z.T @ (w[:, None] * z) + q, z.T @ g - q @ u)
    f, _, w = log_density(family, y, eta + z @ u)
    h = z.T @ (w[:, None] * z) + q
    value = f.sum() - 0.5 * u @ q @ u + 0.5 * np.linalg.slogdet(q)[1] - 0.5 * np.linalg.slogdet(h)[1]
    assert found.loglik(point) == pytest.approx(value, abs=1e-9)
    assert_allclose(found.gradient(point), differences(found, point), rtol=1e-5, atol=1e-6)


KERNELS = {
    "two relations": (("count ~ x + (1 | g) + (1 | s)",), {"family": "poisson"}),
    "two predictors": (("y ~ x + (1 |p| g)", "phi ~ 1 + (1 |p| g)"), {}),
    "zeros": (("count ~ x + (1 | g)", "zi ~ 1 + (1 | g)"), {"family": "poisson"}),
    "expected curvature": (
        ("hit ~ x + (1 | g)",),
        {"family": "binomial", "link": "probit", "method": pg.Laplace(curvature="expected")},
    ),
    "not log-concave": (("y ~ x + (1 | g)",), {"family": pg.StudentT(df=3)}),
    "weights": (("y ~ x + cs(1 + x | g)",), {"precision": "w"}),
    "counted rows": (("count ~ f + (1 | g)",), {"family": "poisson", "frequency": "n"}),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("case", KERNELS)
def test_gradients_are_differences(case):
    formulas, how = KERNELS[case]
    df = frame().with_columns(w=1.0 + pl.col("x").abs(), n=pl.col("count") % 3 + 1)
    known = {"g": pairs(relationship())}
    if case == "two relations":
        known["s"] = pairs(relationship(R, seed=2), [f"s{k}" for k in range(R)])
    found = pg.objective(df, *formulas, known=known, **how)
    point = np.array([0.2 if name.startswith("cor") else 0.4 for name in found.names])
    assert_allclose(found.gradient(point), differences(found, point), rtol=1e-5, atol=1e-5)


MODELS = {
    "reml": ("y ~ x + (1 | s) + (1 | g)", {}),
    "ml": ("y ~ x + (1 | g)", {"method": "ml"}),
    "laplace": ("count ~ x + (1 | g)", {"family": "poisson"}),
}


def same_fits(one, other, rtol=1e-6):
    assert one.loglik == pytest.approx(other.loglik, abs=1e-7)
    for name in ("fixef", "varcorr", "dispersion"):
        ours, theirs = getattr(one, name)(), getattr(other, name)()
        assert_frame_equal(ours, theirs, rel_tol=rtol, abs_tol=rtol)


@pytest.mark.parametrize("model", MODELS)
def test_independent_levels_are_the_ordinary_model(model):
    df, (formula, how) = frame(), MODELS[model]
    present = sorted(df["g"].unique())
    known = df.glmm.fit(formula, known={"g": pairs(np.eye(len(present)), present)}, **how)
    ordinary = df.glmm.fit(formula, **how)
    same_fits(known, ordinary, 2e-4)
    assert_frame_equal(known.ranef(), ordinary.ranef(), rel_tol=1e-4, abs_tol=1e-4)
    if model == "ml":
        one, other = (pg.rlrt(fit, n=200, rng=1) for fit in (known, ordinary))
        assert_frame_equal(one, other, abs_tol=1e-6)


@pytest.mark.parametrize("model", ["ml", "laplace"])
def test_levels_that_share_a_block_are_nested_in_it(model):
    """A = I + BB': an effect of each level and, of the same variance, one of its block."""
    df, (formula, how) = frame(), MODELS[model]
    block = np.arange(G) // 3
    shared = (block[:, None] == block).astype(float)
    df = df.with_columns(block=pl.col("g").replace_strict(dict(zip(labels(), block.tolist(), strict=True))))
    known = pg.objective(df, formula, known={"g": pairs(np.eye(G) + shared)}, **how)
    nested = pg.objective(df, formula + " + (1 | block)", **how)
    both = {"Intercept": 0.3, "x": 0.2, "sd(g: Intercept)": 0.6, "sd(block: Intercept)": 0.6, "phi": 0.7}
    value = known.loglik({name: both[name] for name in known.names})
    assert value == pytest.approx(nested.loglik({name: both[name] for name in nested.names}), abs=1e-9)
    with pytest.raises(ModelError, match="not positive definite, its smallest eigenvalue"):
        df.glmm.fit(formula, known={"g": pairs(shared)}, **how)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("model", MODELS)
def test_what_a_matrix_may_be_called(model):
    """The inverse, either triangle or both, in any order, lazily, of another library; k times it is σ²/k."""
    df, (formula, how), a = frame(), MODELS[model], relationship()
    fit = df.glmm.fit(formula, known={"g": pairs(a)}, **how)
    whole = pairs(a, lower=False).sample(fraction=1.0, shuffle=True, seed=1)
    turned = pairs(a).rename({"level": "other_level", "other_level": "level"})
    inverse = KnownLevels(pairs(np.linalg.inv(a)).lazy(), kind="precision")
    for other in (inverse, whole, turned.to_pandas() if model == "ml" else turned):
        same_fits(fit, df.glmm.fit(formula, known={"g": other}, **how))
    for times in (1e-9, 1e9):
        other = df.glmm.fit(formula, known={"g": pairs(times * a)}, **how)
        assert other.loglik == pytest.approx(fit.loglik, abs=1e-7)
        variances = [one.varcorr().filter(pl.col("group") == "g")["estimate"].item() for one in (fit, other)]
        assert variances[1] == pytest.approx(variances[0] / times, rel=1e-4)
        assert_frame_equal(other.ranef(), fit.ranef(), abs_tol=1e-5)
    lazy = df.lazy().glmm.fit(formula, known={"g": pairs(a)}, **how)
    assert lazy.loglik == pytest.approx(fit.loglik, abs=1e-10)
    enum = df.with_columns(pl.col("g").cast(pl.Enum(sorted(df["g"].unique()))))
    assert enum.glmm.fit(formula, known={"g": pairs(a)}, **how).loglik == pytest.approx(fit.loglik, abs=1e-10)


def test_effects_are_the_best_linear_predictions():
    """b̂ = σ²AZ'V⁻¹(y − Xβ̂), Var(b | y) = σ²A − σ⁴AZ'V⁻¹ZA: of levels without rows too."""
    df, a = frame(), relationship()
    fit = df.glmm.fit("y ~ x + (1 | g)", known={"g": pairs(a)})
    variance, phi = fit.varcorr()["estimate"][0], fit.dispersion()["estimate"].item()
    z, x = indicator(df, "g"), np.column_stack([np.ones(N), df["x"]])
    taken = variance * a @ z.T
    v = z @ taken + phi**2 * np.eye(N)
    beta = fit.fixef()["estimate"].to_numpy()
    effects = fit.ranef()
    assert effects["level"].to_list() == labels()
    assert_allclose(effects["estimate"], taken @ np.linalg.solve(v, df["y"].to_numpy() - x @ beta), atol=1e-9)
    spread = np.diag(variance * a - taken @ np.linalg.solve(v, taken.T))
    assert_allclose(effects["std_error"], np.sqrt(spread), rtol=1e-8)
    vx = np.linalg.solve(v, x)
    assert_allclose(fit.vcov()["covariance"].to_numpy().reshape(2, 2), np.linalg.inv(x.T @ vx), rtol=1e-8)
    unmet = pl.DataFrame({"g": UNMET, "x": [0.0, 0.0]})
    known = dict(zip(effects["level"], effects["estimate"], strict=True))
    expected = [beta[0] + known[level] for level in UNMET]
    assert_allclose(fit.predict(unmet)["prediction"], expected, atol=1e-12)


def test_one_record_a_level_is_enough():
    """V = σ²A + φ²I: the optimum is stationary in the dense likelihood."""
    rng, a = np.random.default_rng(5), relationship(40, seed=8)
    y = np.linalg.cholesky(a) @ rng.normal(size=40) + 0.5 * rng.normal(size=40)
    df = pl.DataFrame({"g": labels(40), "y": y})
    fit = df.glmm.fit("y ~ 1 + (1 | g)", known={"g": pairs(a)}, method="ml")
    sizes = np.array([fit.varcorr()["std_dev"][0], fit.dispersion()["estimate"].item()])
    assert (sizes > 0.05).all()

    def loglik(at):
        v = at[0] ** 2 * a + at[1] ** 2 * np.eye(40)
        return dense(y, np.ones((40, 1)), v, fit.fixef()["estimate"].to_numpy(), reml=False)

    assert fit.loglik == pytest.approx(loglik(sizes), abs=1e-8)
    slopes = [(loglik(sizes + h) - loglik(sizes - h)) / 2e-4 for h in 1e-4 * np.eye(2)]
    assert_allclose(slopes, 0.0, atol=1e-4)
    with pytest.raises(pg.IdentifiabilityError, match="cannot be told apart"):
        df.glmm.fit("y ~ 1 + (1 | g)", known={"g": pairs(np.eye(40))})


def test_numbers_are_coloured_as_the_levels_are():
    a = relationship()
    prior = Prior.of(a)
    assert prior is not None
    root = coloured(prior, np.eye(G))
    assert_allclose(root.T @ root, a, atol=1e-12)


@pytest.mark.parametrize("n", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_simulations_have_the_covariance_of_the_levels(n):
    """Cov(y) = σ²A + φ²I over levels, to five standard errors; a level that is not known has variance σ²."""
    away = np.abs(np.subtract.outer(range(G), range(G)))
    held = {"sd(g: Intercept)": 2.0, "phi": 0.2}
    fit = frame().glmm.fit("y ~ x + (1 | g)", known={"g": pairs(0.98**away)}, fixed=held)
    rows = pl.DataFrame({"g": [*labels(), "new"], "x": np.zeros(G + 1)})
    expected = np.zeros((G + 1, G + 1))
    expected[:G, :G] = 4.0 * 0.98**away
    expected[G, G] = 4.0
    expected += 0.04 * np.eye(G + 1)
    drawn = fit.simulate(rows, n, rng=1).select(pl.col("^sim_.*$")).to_numpy()
    assert_allclose(np.cov(drawn) / 4.04, expected / 4.04, atol=5.0 * np.sqrt(2.0 / n))


def test_bootstraps_profiles_and_files_keep_what_is_known(tmp_path):
    df = frame()
    fit = df.glmm.fit("y ~ x + (1 | g)", known={"g": pairs(relationship())}, method="ml")
    draws = fit.bootstrap(n=3, rng=1)
    assert set(draws["status"]) <= {"ok", "singular"}
    table = fit.confint(method="profile")
    low = table.filter(pl.col("quantity") == "sd")["conf_low"].item()
    held = fit.update(fixed={"sd(g: Intercept)": low})
    assert 2.0 * (fit.loglik - held.loglik) == pytest.approx(3.841458820694124, abs=1e-4)
    fit.write(tmp_path / "fit")
    again = pg.read_fit(tmp_path / "fit")
    rows = pl.DataFrame({"g": ["l11", "l00"], "x": [0.0, 0.1]})
    for one in (again, pickle.loads(pickle.dumps(fit))):  # noqa: S301  # its own
        assert_frame_equal(one.predict(rows, std_error=True), fit.predict(rows, std_error=True))
        assert_frame_equal(one.simulate(rows, 2, rng=1), fit.simulate(rows, 2, rng=1))
        assert one.update(frame=df).loglik == pytest.approx(fit.loglik, abs=1e-10)
    assert fit.update(". ~ . - (1 | g)").formula == "y ~ x"
    assert "known=g" in fit.formula
    assert "all levels together" in repr(df.glmm.explain("y ~ x + (1 | g)", known={"g": pairs(relationship())}))


def test_left_out_rows_are_foretold_by_relatives():
    """Of levels that are left out whole: ℓ(all) − ℓ(rest), both with the covariance of all levels."""
    df = frame()
    fit = df.glmm.fit("y ~ x + (1 | g)", known={"g": pairs(relationship())}, method="ml")
    folds = fit.cross_validate("group:g", rng=1)
    left = folds.filter(pl.col("fold") == "l03")
    rest = df.filter(pl.col("g") != "l03")
    less = rest.glmm.fit("y ~ x + (1 | g)", known={"g": pairs(relationship())}, method="ml")
    point = {**dict(less.fixef().select("term", "estimate").iter_rows()),
             "sd(g: Intercept)": less.varcorr()["std_dev"][0], "phi": less.dispersion()["estimate"].item()}  # fmt: skip
    both = [pg.objective(rows, "y ~ x + (1 | g)", known={"g": pairs(relationship())}, method="ml").loglik(point)
            for rows in (df, rest)]  # fmt: skip
    assert left["elpd"].item() == pytest.approx(both[0] - both[1], abs=1e-4)
    errors = df.filter(pl.col("g") == "l03")["y"] - less.predict(df.filter(pl.col("g") == "l03"))["prediction"]
    assert left["rmse"].item() == pytest.approx(float(np.sqrt((errors**2).mean())), rel=1e-4)


A = pairs(relationship())
BROKEN = {
    "twice": (pl.concat([A, A[:1]]), "'l00', 'l00' is given twice"),
    "not symmetric": (
        pl.concat([A, pl.DataFrame({"level": ["l00"], "other_level": ["l01"], "value": [9.0]})]),
        "not symmetric",
    ),
    "not definite": (pairs(relationship() - np.eye(G)), "not positive definite, its smallest eigenvalue"),
    "a level of the rows": (A.filter(pl.col("level") != "l03", pl.col("other_level") != "l03"), "'l03' is no level"),
    "no value": (A.rename({"value": "a"}), "it lacks 'value'"),
    "a null": (A.with_columns(pl.col("level").replace({"l04": None})), "missing level"),
    "no number": (A.with_columns(value=pl.lit(float("nan"))), "a value that is no number"),
    "text": (A.with_columns(value=pl.lit("one")), "not numeric"),
    "nothing": (A[:0], "no rows"),
    "no frame": (relationship().tolist(), "takes a frame"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_matrix_that_is_none_is_refused_with_its_place(case):
    known, message = BROKEN[case]
    with pytest.raises(ModelError, match=message):
        frame().glmm.fit("y ~ x + (1 | g)", known={"g": known})


ASKED = {
    "another factor": ({"known": {"s": A}}, "names no grouping factor"),
    "no mapping": ({"known": A}, "known= is a mapping"),
    "quadrature": ({"known": {"g": A}, "method": "agq"}, "quadrature"),
    "models by key": ({"known": {"g": A}, "by": "s"}, "by= makes models"),
}


@pytest.mark.parametrize("case", ASKED)
def test_what_cannot_go_with_known_levels_is_refused(case):
    arguments, message = ASKED[case]
    with pytest.raises(ModelError, match=message):
        frame().glmm.fit("y ~ x + (1 | g)", **arguments)
    with pytest.raises(ModelError, match="use 'covariance' or 'precision'"):
        KnownLevels(A, kind="inverse")


INDEPENDENT = {
    "one step": lambda fit, _: fit.influence(method="one_step"),
    "kenward roger": lambda fit, _: fit.fixef(df="kenward_roger"),
    "cluster bootstrap": lambda fit, _: fit.bootstrap(n=2, kind="cluster"),
    "robust": lambda fit, _: fit.fixef(vcov="CR2"),
}


def test_verbs_of_independent_levels_say_so():
    df = frame()
    fit = df.glmm.fit("y ~ x + (1 | g)", known={"g": A})
    for name, verb in INDEPENDENT.items():
        with pytest.raises(ModelError, match="known= relates"):
            pytest.fail(f"{name}: {verb(fit, df)}")
    counts = df.glmm.fit("count ~ x + (1 | g)", family="poisson", known={"g": A})
    with pytest.raises(ModelError, match=r"known= relates those of 'g'.*method='importance'"):
        counts.laplace_error()
