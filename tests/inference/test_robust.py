"""Cluster-robust covariances: dense algebra of the papers, closed forms without random effects, scores, edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from polars_glmm import CR, Control, datasets, fit
from polars_glmm.design.known import read_known
from polars_glmm.errors import ColumnError, ModelError
from polars_glmm.inference.covariance import coefficient_covariance
from polars_glmm.likelihood.known.clusters import marginal_scores
from polars_glmm.likelihood.known.joint import HeldParameters, known_model
from polars_glmm.likelihood.known.levels import LevelLikelihood

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
TYPES = ("CR0", "CR1", "CR1p", "CR1S", "CR2", "CR3")


def nested(seed: int, n: int = 240, schools: int = 12) -> pl.DataFrame:
    """Pupils in classes in schools, classes of unequal sizes, a covariate of schools and one of pupils."""
    rng = np.random.default_rng(seed)
    room = np.sort(rng.integers(0, 3 * schools, n))
    school = room // 3
    x, w = rng.normal(size=n), (school % 2).astype(float)
    eta = 0.3 * x + 0.4 * w + rng.normal(size=schools)[school] * 0.6 + rng.normal(size=3 * schools)[room] * 0.4
    return pl.DataFrame(
        {
            "x": x, "w": w, "school": school, "room": room, "y": eta + rng.normal(size=n) * (1 + 0.5 * (school % 3)),
            "count": rng.poisson(np.exp(eta)), "f": rng.integers(1, 4, n),
        }
    )  # fmt: skip


class Dense:
    """The formulas of the papers with matrices of rows by rows: B_g in (I − S_gM)^power, moments under V."""

    def __init__(self, x: Any, v: Any, e: Any, cluster: Any) -> None:
        inverse = np.linalg.inv(v)
        self.m = np.linalg.inv(x.T @ inverse @ x)
        self.own = [np.flatnonzero(cluster == g) for g in np.unique(cluster)]
        self.x, self.v, self.inverse, self.e = x, v, inverse, e

    def parts(self, power: float) -> list[Any]:
        """Per cluster the map (p, n) from all residuals of working V to M B_g s_g."""
        out = []
        n, p = self.x.shape
        hat = np.eye(n) - self.x @ self.m @ self.x.T @ self.inverse
        for rows in self.own:
            xv = self.x[rows].T @ self.inverse[np.ix_(rows, rows)]
            share = np.eye(p) - xv @ self.x[rows] @ self.m
            values, vectors = np.linalg.eig(share)
            bent = (vectors * values**power) @ np.linalg.inv(vectors)
            out.append((self.m @ bent.real @ xv) @ hat[rows])
        return out

    def matrix(self, power: float) -> Any:
        y = [part @ self.e for part in self.parts(power)]
        return sum(np.outer(one, one) for one in y)

    def moments(self, power: float, rows: Any) -> tuple[Any, float]:
        """E of the estimator for L, and Σ Var of its entries once E is made I."""
        parts = [rows @ part for part in self.parts(power)]
        cross = np.array([[a @ self.v @ b.T for b in parts] for a in parts])  # (J, J, q, q)
        mean = np.einsum("ggst->st", cross)
        values, vectors = np.linalg.eigh(mean)
        turn = vectors / np.sqrt(values) @ vectors.T
        cross = turn @ cross @ turn
        ss = np.einsum("ghss->ghs", cross)
        total = np.einsum("ghs,ght->", ss, ss) + np.einsum("ghst,ghts->", cross, cross)
        return mean, float(total)


def dense_of(frame: pl.DataFrame, found: Any) -> Dense:
    x = np.column_stack([np.ones(frame.height), frame["x"], frame["w"]])
    v = found.estimate.phi**2 * np.eye(frame.height)
    for factor in found.estimate.factors:
        key = frame[factor.name].to_numpy() if factor.name in frame.columns else frame["room"].to_numpy()
        v += factor.covariances[0][0, 0] * (key[:, None] == key)
    return Dense(x, v, frame["y"].to_numpy() - x @ found.estimate.beta, frame["school"].to_numpy())


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize(("kind", "power"), [("CR0", 0.0), ("CR2", -0.5), ("CR3", -1.0)])
def test_covariances_and_degrees_of_freedom_are_those_of_dense_algebra(method: Any, kind: Any, power: float) -> None:
    frame = nested(1)
    found = fit(frame, "y ~ x + w + (1 | school) + (1 | room)", method=method)
    dense, covariance = dense_of(frame, found), coefficient_covariance(found, kind)
    assert_allclose(covariance.matrix, dense.matrix(power), rtol=1e-7, atol=1e-12)
    assert_allclose(covariance.of(np.eye(3)), covariance.matrix, rtol=1e-10)
    alone = [2.0 * dense.moments(power, row[None])[1] ** -1 for row in np.eye(3)]
    assert_allclose(covariance.df_each(None), alone, rtol=1e-7)
    for rows in (np.eye(3)[1:], np.array([[1.0, 0.5, 0.0], [0.0, 1.0, -1.0]])):
        eta = 6.0 / dense.moments(power, rows)[1]
        assert_allclose(covariance.df_of(rows), (eta - 1.0, (eta - 1.0) / eta), rtol=1e-7)


def test_cr2_is_unbiased_where_the_working_covariance_is_right() -> None:
    """Its expectation under V is (X'V⁻¹X)⁻¹ (Bell & McCaffrey 2002), which CR0 falls short of."""
    frame = nested(2)
    found = fit(frame, "y ~ x + w + (1 | school)", method="reml")
    dense = dense_of(frame, found)
    assert_allclose(dense.moments(-0.5, np.eye(3))[0], found.estimate.vcov_fixed, rtol=1e-6)
    assert np.linalg.eigvalsh(found.estimate.vcov_fixed - dense.moments(0.0, np.eye(3))[0])[0] > -1e-12


def test_without_random_effects_and_a_row_a_cluster_they_are_hc0_to_hc3() -> None:
    frame = nested(3, 60)
    found = fit(frame, "y ~ x + w")
    x = np.column_stack([np.ones(60), frame["x"], frame["w"]])
    m = np.linalg.inv(x.T @ x)
    e, h = frame["y"].to_numpy() - x @ found.estimate.beta, np.einsum("ni,ij,nj->n", x, m, x)
    for kind, scale in {"CR0": 1.0, "CR1S": 60 / 57, "CR2": 1 / (1 - h), "CR3": 1 / (1 - h) ** 2}.items():
        expected = m @ (x.T * (e**2 * scale)) @ x @ m
        assert_allclose(coefficient_covariance(found, kind).matrix, expected, rtol=1e-10)  # type: ignore[arg-type]


def test_cr1p_is_that_of_clubsandwich() -> None:
    """R 4.2.2, clubSandwich 0.5.8, lme4 1.1-31: coef_test(m, vcovCR(m, type = "CR1p"), test = "Satterthwaite")."""
    found = fit(datasets.load("chickweight"), "weight ~ Time * Diet + (1 | Chick)").fixef(vcov="CR1p")
    errors = [3.164545354, 0.7953185756, 5.595543525, 5.209348418, 5.19300089, 1.545204299, 1.403894433, 1.056140589]
    freedom = [18.9705047, 17.19035692, 18.66414429, 18.66414429, 18.64324537, 19.38574205, 19.38574205, 18.82744592]
    assert_allclose(found["std_error"], errors, rtol=1e-7)
    assert_allclose(found["df"], freedom, rtol=1e-7)


def test_cr1p_asks_for_more_clusters_than_coefficients() -> None:
    frame = nested(13, schools=3)
    with pytest.raises(ModelError, match="3 clusters for 3 coefficients"):
        fit(frame, "y ~ x + w + (1 | school)").fixef(vcov="CR1p")


def test_of_a_glm_cr0_is_the_sandwich_of_huber_and_white() -> None:
    frame = nested(4)
    found = fit(frame, "count ~ x + w", family="poisson")
    x = np.column_stack([np.ones(frame.height), frame["x"], frame["w"]])
    mu = np.exp(x @ found.estimate.beta)
    m, u = np.linalg.inv((x.T * mu) @ x), x * (frame["count"].to_numpy() - mu)[:, None]
    assert_allclose(coefficient_covariance(found, "CR0").matrix, m @ u.T @ u @ m, rtol=1e-4)
    by_school = np.array([u[frame["school"].to_numpy() == g].sum(0) for g in range(12)])
    expected = m @ by_school.T @ by_school @ m
    assert_allclose(coefficient_covariance(found, CR("school", "CR0")).matrix, expected, rtol=1e-4)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("count ~ x + w + (x | school)", {"family": "poisson"}),
        ("count ~ x + w + (1 | room)", {"family": "poisson", "method": "agq"}),
        ("count ~ x + w + (1 | school) + (1 | room)", {"family": "poisson"}),
        ("count ~ x + w + (x || school) + (1 | room)", {"family": "negative_binomial"}),
        ("count ~ x + (1 | room); phi ~ w", {"family": "negative_binomial"}),
    ],
)  # fmt: skip
def test_scores_of_clusters_are_slopes_of_their_likelihoods_and_sum_to_zero(formula: Any, options: Any) -> None:
    frame = nested(5)
    found = fit(frame, *formula.split("; "), **options)
    known = read_known(found.recipe, frame, own_levels=False)
    design, family = known.design, found.recipe.spec.family
    cluster = frame["school"].to_numpy()[known.places].astype(np.intp)
    held = HeldParameters.of(found.estimate, family)

    def model(at: HeldParameters) -> Any:
        return known_model(design, family, found.control, at, found.spec.method)

    scores = marginal_scores(model(held), design, cluster, 12)
    assert_allclose(scores.sum(0), 0.0, atol=2e-3)
    step = 1e-4
    for j in range(len(held.beta)):
        unit = step * np.eye(len(held.beta))[j]
        moved = [HeldParameters(held.beta + s * unit, held.roots, held.gamma) for s in (1, -1)]
        up, down = (model(one).loglik() for one in moved)
        assert_allclose((up - down) / (2 * step), scores[:, j].sum(), atol=2e-4)
    if len(design.factors) == 1 and design.phi is None:
        levels = LevelLikelihood.of(design, family)
        nodes = getattr(found.spec.method, "nodes", 1)
        value = [levels.at(levels.psi(one), nodes).value for one in moved]
        own = (value[0] - value[1]) / (2 * step)
        of_level = np.empty(len(own), dtype=int)
        of_level[design.factors[0].codes] = cluster
        assert_allclose(np.bincount(of_level, own), scores[:, len(held.beta) - 1], atol=1e-4)


def test_the_general_scores_are_those_of_levels() -> None:
    """A factor of one variance zero next to another changes nothing: scores by level, and cluster by cluster."""
    frame = nested(6)
    one = fit(frame, "count ~ x + w + (1 | room)", family="poisson")
    both = "count ~ x + w + (1 | room) + (1 | school)"
    two = fit(frame, both, family="poisson", fixed={"sd(school: Intercept)": 0.0})
    for kind in TYPES:
        cluster = CR("school", kind)
        assert_allclose(
            coefficient_covariance(one, cluster).matrix, coefficient_covariance(two, cluster).matrix, rtol=1e-4
        )


def test_of_a_lognormal_model_by_scores_they_are_nearly_those_of_the_logarithms_by_least_squares() -> None:
    """The same likelihood by two routes, but for the slopes in the variances, whose covariance with beta is small."""
    frame = nested(7).with_columns(z=pl.col("y").exp())
    by_scores = fit(frame, "z ~ x + w + (1 | school)", family="lognormal").fixef(vcov="CR2")
    by_rows = fit(frame, "y ~ x + w + (1 | school)", method="ml").fixef(vcov="CR2")
    assert_allclose(by_scores["std_error"][1:], by_rows["std_error"][1:], rtol=0.02)
    assert_allclose(by_scores["df"][1:], by_rows["df"][1:], rtol=0.02)


def test_coefficients_of_phi_are_normal_where_scores_give_them_and_null_by_least_squares() -> None:
    counts = fit(nested(12), "count ~ x + (1 | room)", "phi ~ w", family="negative_binomial")
    of_phi = counts.fixef(vcov=CR("school")).filter(pl.col("parameter") == "phi")
    assert of_phi["std_error"].is_finite().all()
    assert of_phi["df"].null_count() == 2
    linear = fit(nested(12), "y ~ x + (1 | school)", "phi ~ w").fixef(vcov="CR2")
    assert linear["std_error"].is_null().to_list() == [False, False, True, True]


def test_rows_that_stand_for_several_are_several() -> None:
    frame = nested(8)
    repeated = frame[np.repeat(np.arange(240), frame["f"])]
    for formula, family in (("y ~ x + w", "gaussian"), ("y ~ x + w + (1 | school)", "gaussian"),
                            ("count ~ x + w + (1 | room)", "poisson")):  # fmt: skip
        counted = fit(frame, formula, family=family, frequency="f")
        whole = fit(repeated, formula, family=family)
        for kind in TYPES:
            ours, theirs = (coefficient_covariance(one, kind) for one in (counted, whole))  # type: ignore[arg-type]
            assert_allclose(ours.matrix, theirs.matrix, rtol=1e-5, atol=1e-10)
            assert_allclose(ours.df_each(None), theirs.df_each(None), rtol=1e-5)


def test_far_columns_keep_their_digits() -> None:
    frame = nested(9)
    near = fit(frame, "y ~ x + w + (1 | school)").fixef(vcov="CR2")
    far = fit(frame.with_columns(x=pl.col("x") + 1e7), "y ~ x + w + (1 | school)").fixef(vcov="CR2")
    columns = ["std_error", "df"]
    assert_allclose(far[1:, columns].to_numpy(), near[1:, columns].to_numpy(), rtol=1e-6)


def test_every_table_takes_them() -> None:
    sleep = datasets.load("sleepstudy")
    found = fit(sleep, "Reaction ~ Days + (Days | Subject)")
    slope = found.fixef(vcov="CR2").row(1, named=True)
    assert found.vcov(vcov="CR2")["covariance"][3] == pytest.approx(slope["std_error"] ** 2)
    assert found.test("Days = 0", vcov="CR2")["df"].item() == pytest.approx(slope["df"])
    terms = found.test_terms(vcov="CR2").row(0, named=True)
    assert (terms["statistic"], terms["den_df"]) == pytest.approx((slope["statistic"] ** 2, slope["df"]))
    assert found.slopes(variables="Days", vcov="CR2")["std_error"].item() == pytest.approx(slope["std_error"], rel=1e-6)
    normal = found.fixef(vcov="CR2", df="normal").row(1, named=True)
    assert (normal["df"], normal["std_error"]) == (None, slope["std_error"])


def test_of_many_fits_they_are_those_of_each() -> None:
    frame = pl.concat([nested(s).with_columns(key=pl.lit(s)) for s in (1, 2)])
    many = fit(frame, "y ~ x + w + (1 | school)", by="key")
    one = fit(nested(2), "y ~ x + w + (1 | school)").fixef(vcov="CR2")
    both = many.fixef(vcov="CR2").filter(pl.col("key") == 2).drop("key")
    for name in ("std_error", "df", "p_value"):
        assert_allclose(both[name], one[name], rtol=1e-5)


def test_a_held_coefficient_has_none_and_the_others_are_those_of_its_offset() -> None:
    frame = nested(10)
    held = fit(frame, "y ~ x + w + (1 | school)", fixed={"x": 0.3}).fixef(vcov="CR2")
    moved = fit(frame.with_columns(y=pl.col("y") - 0.3 * pl.col("x")), "y ~ w + (1 | school)").fixef(vcov="CR2")
    assert held["std_error"].to_list()[1] is None
    assert_allclose(held["std_error"].drop_nulls(), moved["std_error"], rtol=1e-6)
    assert_allclose(held["df"].drop_nulls(), moved["df"], rtol=1e-6)


def test_what_cannot_be_is_refused_in_words() -> None:
    frame = nested(11).with_columns(other=pl.Series(np.arange(240) % 7), gap=pl.lit(None, pl.Int64))
    crossed = fit(frame, "y ~ x + (1 | school) + (1 | other)")
    with pytest.raises(ModelError, match="lie in several clusters"):
        crossed.fixef(vcov="CR2")
    found = fit(frame, "y ~ x + (1 | school)")
    with pytest.raises(ModelError, match="lie in several clusters of 'room'"):
        found.fixef(vcov=CR("room"))
    with pytest.raises(ColumnError, match="Did you mean 'school'"):
        found.fixef(vcov=CR("shcool"))
    with pytest.raises(ModelError, match="missing in some rows"):
        found.fixef(vcov=CR("gap"))
    with pytest.raises(ModelError, match="Did you mean 'CR2'"):
        found.fixef(vcov="CR22")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="type='HC3'"):
        CR("school", "HC3")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="needs the rows of the fit"):
        fit(frame, "y ~ x + (1 | school)", control=Control(keep="none")).fixef(vcov="CR2")


EFFECTS_BEYOND: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "phi": (("n ~ x + (1 | g)", "phi ~ 1 + (1 | g)"), {"family": "negative_binomial"}),
    "gaussian phi": (("y ~ x + (1 | g)", "phi ~ x + (1 | g)"), {}),
    "zi": (("z ~ x + (1 |p| g)", "zi ~ 1 + (1 |p| g)"), {"family": "poisson"}),
}


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
@pytest.mark.slow
@pytest.mark.parametrize("kind", EFFECTS_BEYOND)
def test_effects_beyond_the_mean_have_scores_of_their_clusters_too(kind: str) -> None:
    """H⁻¹ Σ s_g s_g' H⁻¹ of differences of log-likelihoods: of all rows, and of the rows of each cluster alone."""
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(24), 15)
    x, u, w = rng.normal(size=360), 0.6 * rng.normal(size=24)[g], 0.7 * rng.normal(size=24)[g]
    size, mean = np.exp(0.5 * w + 0.7), np.exp(1.0 + 0.4 * x + u)
    frame = pl.DataFrame(
        {
            "g": g, "h": g // 3, "x": x, "n": rng.negative_binomial(size, size / (size + mean)),
            "y": 1.0 + 0.5 * x + u + np.exp(0.6 * w - 0.3) * rng.normal(size=360),
            "z": rng.poisson(mean) * (rng.random(360) > 1.0 / (1.0 + np.exp(1.0 - w))),
        }
    )  # fmt: skip
    formulas, options = EFFECTS_BEYOND[kind]
    fit, whole = frame.glmm.fit(*formulas, **options), frame.glmm.objective(*formulas, **options)
    names, at, h = list(whole.names), fit.confint()["estimate"].to_numpy(), 1e-4
    steps = h * np.eye(len(names))

    def loglik(objective: Any, *moved: Any) -> float:
        return float(objective.loglik(dict(zip(names, at + sum(moved), strict=True))))

    curvature = np.array(
        [[sum(s * t * loglik(whole, s * a, t * b) for s in (-1, 1) for t in (-1, 1)) for b in steps] for a in steps]
    ) / (4.0 * h**2)  # fmt: skip
    parts = [part.glmm.objective(*formulas, **options) for _, part in frame.group_by("h")]
    scores = np.array([[(loglik(one, a) - loglik(one, -a)) / (2.0 * h) for a in steps] for one in parts])
    covariance = np.linalg.inv(curvature) @ (scores.T @ scores) @ np.linalg.inv(curvature)
    errors = dict(zip(names, np.sqrt(np.diag(covariance)), strict=True))
    found = fit.fixef(vcov=CR("h", "CR0"))
    named = [term if own == "mu" else f"{own}: {term}" for own, term in found.select("parameter", "term").rows()]
    assert_allclose(found["std_error"], [errors[name] for name in named], rtol=2e-5)
    assert found["df"].null_count() == len(named)
    more = fit.fixef(vcov=CR("h", "CR1"))["std_error"]
    assert_allclose(more, found["std_error"] * np.sqrt(8.0 / 7.0), rtol=1e-12)
    with pytest.raises(ModelError, match="use 'CR0' or 'CR1'"):
        fit.fixef(vcov="CR2")
