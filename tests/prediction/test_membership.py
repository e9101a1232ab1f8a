"""After a fit of rows in several levels: predictions are weighted sums of modes; what needs one level says so."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm.errors import ModelError, ResourceError, UnknownLevelError
from tests.likelihood.test_membership import TERM, N, arrays, rows

NAME = "mm(a, b)"


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return rows()


@pytest.fixture(scope="module")
def fit(frame: pl.DataFrame) -> Any:
    return polars_glmm.fit(frame, f"y ~ x + (1 + x | {TERM})")


def by_hand(fit: Any, frame: pl.DataFrame) -> np.ndarray:
    """x'β + Σ_s w_s z'b[c_s] from the tables of the fit; an unknown level has b = 0."""
    beta = dict(fit.fixef().select("term", "estimate").iter_rows())
    modes = {(level, term): b for level, term, b in fit.ranef().select("level", "term", "estimate").iter_rows()}
    out = []
    for row in frame.iter_rows(named=True):
        eta = beta["Intercept"] + beta["x"] * row["x"]
        for key, weight in (("a", "u"), ("b", "v")):
            of = [modes.get((row[key], term), 0.0) for term in ("Intercept", "x")]
            eta += (row[weight] or 0.0) * (of[0] + of[1] * row["x"])
        out.append(eta)
    return np.array(out)


def test_predictions_are_weighted_sums_of_modes(fit: Any, frame: pl.DataFrame) -> None:
    expected = by_hand(fit, frame)
    assert_allclose(fit.predict(frame)["prediction"], expected, atol=1e-10)
    assert_allclose(fit.predict(frame.lazy()).collect()["prediction"], expected, atol=1e-10)
    augmented = fit.augment(frame)
    assert_allclose(augmented["fitted"], expected, atol=1e-10)
    assert_allclose(augmented["resid"], frame["y"] - expected, atol=1e-10)
    beta = fit.fixef()["estimate"].to_numpy()
    assert_allclose(fit.predict(frame, random="none")["prediction"], beta[0] + beta[1] * frame["x"], atol=1e-10)


def mixed_model_variances(fit: Any, frame: pl.DataFrame) -> np.ndarray:
    """Var(x'β̂ + z'b̂ − x'β − z'b) from the inverse of the mixed model equations (Henderson 1975)."""
    _, x, m, z = arrays(frame)
    w = np.hstack([x, m, m * z[:, None]])
    prior = np.zeros((w.shape[1],) * 2)
    prior[2:, 2:] = np.kron(np.linalg.inv(fit.estimate.factors[0].covariances[0]), np.eye(m.shape[1]))
    inverse = np.linalg.inv(w.T @ w / fit.estimate.phi**2 + prior)
    return np.einsum("nd,de,ne->n", w, inverse, w)


def test_standard_errors_know_how_levels_go_together(fit: Any, frame: pl.DataFrame) -> None:
    expected = np.sqrt(mixed_model_variances(fit, frame))
    assert_allclose(fit.predict(frame, std_error=True)["prediction_std_error"], expected, rtol=1e-8)
    told = fit.predict(frame.lazy(), interval="prediction").collect()
    assert (told["prediction_high"] - told["prediction_low"] > 2.0 * fit.estimate.phi).all()


def test_standard_errors_of_unseen_levels_are_those_of_new_ones(fit: Any, frame: pl.DataFrame) -> None:
    """Two slots with the same unknown level have its variance by (w_1 + w_2)², with different ones by w_1² + w_2²."""
    sigma = fit.estimate.factors[0].covariances[0]
    x = np.column_stack([np.ones(N), frame["x"]])
    fixed = fit.predict(frame, random="none", std_error=True)["prediction_std_error"].to_numpy() ** 2
    u, v = frame["u"].to_numpy(), frame["v"].to_numpy()
    own = np.einsum("nr,rs,ns->n", x, sigma, x)
    for a, b, size in (("new", "new", (u + v) ** 2), ("new", "other", u**2 + v**2)):
        other = frame.with_columns(a=pl.lit(a), b=pl.lit(b))
        found = fit.predict(other, new_levels="zero", std_error=True)["prediction_std_error"].to_numpy()
        assert_allclose(found**2, fixed + own * size, rtol=1e-9)


def test_leverage_is_the_diagonal_of_the_dense_hat_matrix(fit: Any, frame: pl.DataFrame) -> None:
    """Var(η̂ − η)/φ² of a gaussian model (Hodges & Sargent 2001), also where slots that are not used are null."""
    expected = mixed_model_variances(fit, frame) / fit.estimate.phi**2
    assert_allclose(fit.augment(frame, leverage=True)["leverage"], expected, rtol=1e-8)
    unused = pl.col("v") == 0.0
    other = frame.with_columns(pl.when(~unused).then("b"), pl.when(~unused).then("v"))
    assert_allclose(fit.augment(other, leverage=True)["leverage"], expected, rtol=1e-8)
    assert_allclose(fit.influence(method="case")["leverage"], expected, rtol=1e-8)
    assert fit.check(n=20, rng=1)["test"].to_list()[0] == "dispersion"


def test_one_slot_has_the_standard_errors_of_an_ordinary_factor(frame: pl.DataFrame) -> None:
    told = [
        polars_glmm.fit(frame, f"y ~ x + (1 + x | {term})").predict(frame, std_error=True) for term in ("mm(a)", "a")
    ]
    for column in ("prediction", "prediction_std_error"):
        assert_allclose(told[0][column], told[1][column], rtol=1e-5)


def test_means_over_the_population_have_the_variance_of_shares() -> None:
    """exp(x'β + v/2) with v = z'Σz Σ_g M_g² (log-normal mean), from the frame's columns alone."""
    frame = rows(family="poisson")
    fit = polars_glmm.fit(frame, f"y ~ x + (1 + x | {TERM})", family="poisson")
    _, x, m, _ = arrays(frame)
    sigma, beta = fit.estimate.factors[0].covariances[0], fit.fixef()["estimate"].to_numpy()
    v = np.einsum("nr,rs,ns->n", x, sigma, x) * (m**2).sum(1)
    expected = np.exp(x @ beta + 0.5 * v)
    assert_allclose(fit.predict(frame, random="integrate")["prediction"], expected, rtol=1e-9)
    other = frame.with_columns(pl.col("a") + "new", pl.col("b") + "new")
    assert_allclose(fit.predict(other, random="integrate")["prediction"], expected, rtol=1e-9)
    assert fit.predictions(random="integrate")["estimate"].item() == pytest.approx(expected.mean(), rel=1e-9)


def test_explained_variances_are_those_of_shares(frame: pl.DataFrame) -> None:
    """The mean over rows of Var(Σ_s w_s b_s) = σ² Σ_g M_g²; nothing is around a row's several levels."""
    fit = polars_glmm.fit(frame, f"y ~ x + (1 | {TERM}) + (1 | h)")
    _, _, m, _ = arrays(frame)
    own, other = fit.varcorr()["estimate"][0] * (m**2).sum(1).mean(), fit.varcorr()["estimate"][1]
    assert fit.r2()["var_random"].item() == pytest.approx(own + other, rel=1e-9)
    total = own + other + fit.estimate.phi**2
    assert_allclose(fit.icc()["icc"], [own / total, other / total], rtol=1e-9)


def test_there_is_one_row_for_each_level(fit: Any) -> None:
    ranef, coef = fit.ranef(), fit.coef(NAME)
    assert ranef["group"].unique().to_list() == [NAME]
    assert ranef.height == 2 * 12
    assert coef.columns[0] == NAME
    assert_allclose(
        coef["x"], fit.fixef()["estimate"][1] + ranef.filter(term="x")["estimate"].to_numpy(), atol=1e-12
    )


def test_slots_that_are_not_used_may_hold_anything(fit: Any, frame: pl.DataFrame) -> None:
    unused = pl.col("v") == 0.0
    expected = by_hand(fit, frame)
    for other in (
        frame.with_columns(b=pl.when(unused).then(pl.lit("nobody")).otherwise("b")),
        frame.with_columns(pl.when(~unused).then("b"), pl.when(~unused).then("v")),
    ):
        assert_allclose(fit.predict(other)["prediction"], expected, atol=1e-10)
    gone = fit.predict(frame.with_columns(pl.when(unused).then("b")))["prediction"]
    assert gone.is_null().to_list() == (frame["v"] != 0.0).to_list()


def test_unseen_levels_are_refused_null_or_zero_slot_by_slot(fit: Any, frame: pl.DataFrame) -> None:
    first = pl.int_range(pl.len()) < 3
    other = frame.with_columns(a=pl.when(first).then(pl.lit("new")).otherwise("a"))
    with pytest.raises(UnknownLevelError, match="column 'a' has level 'new'"):
        fit.predict(other)
    assert_allclose(fit.predict(other, new_levels="zero")["prediction"], by_hand(fit, other), atol=1e-10)
    assert fit.predict(other, new_levels="null")["prediction"].is_null().sum() == 3
    assert fit.unseen(other).row(0) == (NAME, "random", "new", 3)


def test_dtypes_of_keys_match_by_label(fit: Any, frame: pl.DataFrame) -> None:
    other = frame.with_columns(pl.col("a").cast(pl.Categorical), pl.col("b").cast(pl.Enum(sorted(frame["b"].unique()))))
    assert_allclose(fit.predict(other)["prediction"], by_hand(fit, frame), atol=1e-10)


def test_draws_keep_the_modes_of_known_levels_where_asked(fit: Any, frame: pl.DataFrame) -> None:
    phi = fit.dispersion()["estimate"][0]
    drawn = fit.simulate(frame, n=200, rng=1, random="conditional").select("^sim_.*$").to_numpy()
    away = (drawn - by_hand(fit, frame)[:, None]) / phi
    assert abs(away.mean()) < 5.0 / np.sqrt(away.size)
    assert abs(away.var() - 1.0) < 5.0 * np.sqrt(2.0 / away.size)
    same = [fit.simulate(frame, n=2, rng=3)["sim_2"].to_list() for _ in range(2)]
    assert same[0] == same[1]
    assert fit.simulate(frame.with_columns(a=pl.lit("new")), n=1, rng=3)["sim_1"].is_not_null().all()


@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_files_and_pickles_keep_the_fit(family: str, tmp_path: Path) -> None:
    frame = rows(family=family)
    fit = polars_glmm.fit(frame, f"y ~ x + (1 | {TERM}) + (1 | h)", family=family)
    fit.write(tmp_path / "fit")
    for other in (polars_glmm.read_fit(tmp_path / "fit"), pickle.loads(pickle.dumps(fit))):  # noqa: S301  our own bytes
        assert other.predict(frame)["prediction"].to_list() == fit.predict(frame)["prediction"].to_list()
        assert repr(other.ranef()) == repr(fit.ranef())
        assert other.spec.formula == fit.spec.formula
        assert other.update(frame=frame).loglik == pytest.approx(fit.loglik, abs=1e-9)


def test_a_fit_is_printed_updated_and_explained(fit: Any, frame: pl.DataFrame) -> None:
    assert f"(1 + x | {TERM})" in repr(fit)
    assert NAME in fit._repr_html_()
    assert fit.update("~ . - x").spec.formula == f"y ~ 1 + (1 + x | {TERM})"
    counts = rows(family="poisson")
    for data, counted in ((frame, counts), (frame.lazy(), counts.lazy())):
        told = polars_glmm.explain(data, f"y ~ x + (1 | {TERM}) + (1 | h)")
        assert told.plan.route == "products"
        assert "which rows in several levels couple, as a dense matrix of order 17" in told.text
        first = polars_glmm.explain(data, f"y ~ x + (1 | {TERM}) + (1 | k)").elimination
        assert (first.kind, first.lead, first.order) == ("dense", ("k",), 12)
        poisson = polars_glmm.explain(counted, f"y ~ x + (1 | {TERM})", family="poisson")
        assert (poisson.plan.route, poisson.plan.cells) == ("rows", None)


def test_refits_are_of_the_same_model(fit: Any, frame: pl.DataFrame) -> None:
    drawn = fit.bootstrap(n=3, rng=1)
    assert drawn["draw"].n_unique() == 3
    assert drawn["value"].is_finite().all()
    folds = fit.cross_validate(4, rng=1)
    assert folds["n_obs"].sum() == N
    assert fit.confint(method="profile").height == fit.confint().height


def test_models_by_key_are_those_of_each_key() -> None:
    both = [rows(seed).with_columns(key=pl.lit(seed)) for seed in (3, 4)]
    found = polars_glmm.fit(pl.concat(both), f"y ~ x + (1 | {TERM})", by="key")
    for frame in both:
        alone = polars_glmm.fit(frame, f"y ~ x + (1 | {TERM})")
        own = found[frame["key"][0]]
        assert own.loglik == pytest.approx(alone.loglik, abs=1e-9)
        assert_allclose(found.predict(frame)["prediction"], alone.predict(frame)["prediction"], atol=1e-8)


@pytest.mark.parametrize(
    ("ask", "what"),
    [
        (lambda fit, frame: fit.with_ranef(frame), "joins the effects of one level"),
        (lambda fit, frame: fit.to_sql("t"), "joins the effects of one level"),
        (lambda fit, frame: fit.influence(NAME, "one_step"), "of rows in one level"),
        (lambda fit, frame: fit.fixef(vcov="CR2"), "are no clusters"),
        (lambda fit, frame: fit.fixef(df="kenward_roger"), "use df='satterthwaite'"),
        (lambda fit, frame: fit.bootstrap(n=2, kind="cluster"), "cannot be drawn again"),
        (lambda fit, frame: fit.cross_validate(f"group:{NAME}"), "none can be left out alone"),
        (lambda fit, frame: fit.marginal_means("x", random="integrate"), "depends on the levels of a row"),
        (lambda fit, frame: fit.plot.trajectories("x"), "rows in one level"),
        (lambda fit, frame: fit.plot.shrinkage(), "where rows are in one"),
    ],
)
def test_what_is_of_rows_in_one_level_says_so(fit: Any, frame: pl.DataFrame, ask: Any, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        ask(fit, frame)


def test_rows_that_no_memory_holds_are_refused_before_any_work() -> None:
    little = polars_glmm.Control(memory=polars_glmm.Memory(limit=1000))
    with pytest.raises(ResourceError, match="models with mm\\(\\) are fitted in memory only"):
        polars_glmm.fit(rows(family="poisson").lazy(), f"y ~ x + (1 | {TERM})", family="poisson", control=little)
    with pytest.raises(ResourceError, match="Rows in several levels couple all levels"):
        polars_glmm.fit(rows(), f"y ~ x + (1 | {TERM})", control=little)


@pytest.mark.parametrize("name", ["zi", "nonlinear", "categorical"])
def test_standard_errors_of_several_predictors_and_curves_are_those_of_one_slot(name: str) -> None:
    """mm(a) and a say the same where predictors share effects, or a curve has them."""
    frame, told = rows(family="poisson" if name == "zi" else "gaussian"), []
    zero = pl.int_range(pl.len()) % 4 == 0
    for term in ("mm(a)", "a"):
        if name == "zi":
            some = frame.with_columns(y=pl.when(zero).then(0).otherwise("y"))
            fit = polars_glmm.fit(some, f"y ~ x + (1 | {term})", "zi ~ x", family="poisson")
        elif name == "nonlinear":
            start = {"A": 1.0, "k": 0.2}
            fit = polars_glmm.fit(frame, "y ~ A * exp(-k * w)", f"A ~ 1 + (1 | {term})", "k ~ 1", start=start)
        else:
            cut = frame.with_columns(y=pl.when(pl.col("y") < 0.5).then(pl.lit("low")).otherwise(pl.lit("high")))
            fit = polars_glmm.fit(cut, f"y ~ x + (1 | {term})", family="categorical")
        told.append(fit.predict(frame, std_error=True).select("^prediction.*$"))
    for column in told[0].columns:
        assert_allclose(told[0][column], told[1][column], rtol=2e-4)


def test_products_have_no_rows_in_several_levels(frame: pl.DataFrame) -> None:
    with pytest.raises(ModelError, match="rows are in several levels of"):
        polars_glmm.products(frame, f"y ~ x + (1 | {TERM})")


def test_a_weight_that_is_no_number_is_none_to_unseen_too(frame: pl.DataFrame) -> None:
    weighed = frame.with_columns(v=pl.Series(np.tile([0.5, 1.0], frame.height)[: frame.height]), o=pl.lit(0.5))
    fit = polars_glmm.fit(weighed, "y ~ x + (1 | mm(a, b, weights=(v, o)))")
    k = pl.int_range(pl.len())
    other = weighed.with_columns(
        a=pl.when(k < 4).then(pl.lit("new")).otherwise("a"),
        v=pl.when(k == 0).then(float("nan")).when(k == 1).then(None).when(k == 2).then(0.0).otherwise("v"),
    )
    assert fit.unseen(other)["n_rows"].to_list() == [1]
