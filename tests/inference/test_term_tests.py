"""Tests of terms: what the types test, laws between them, empty cells, refits."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import datasets
from polars_glmm.errors import ColumnError, ModelError
from polars_glmm.inference.term_columns import terms_of

COLUMNS = ["num_df", "den_df", "statistic", "p_value"]


def numbers(table: pl.DataFrame, term: str | None = None) -> Any:
    rows = table if term is None else table.filter(pl.col("term") == term)
    return rows.select(COLUMNS).cast(pl.Float64).to_numpy()


def crossed(n: int = 120, *, balanced: bool = False, seed: int = 1) -> pl.DataFrame:
    """Two factors and a number in groups."""
    rng = np.random.default_rng(seed)
    if balanced:
        cells = np.tile(np.arange(6), n // 6)
        a, b, group = cells % 3, cells // 3, np.repeat(np.arange(n // 6), 6)
    else:
        a, b, group = rng.integers(0, 3, n), rng.integers(0, 2, n), rng.integers(0, 12, n)
    x = rng.normal(size=n)
    y = 0.5 * a + b * x + rng.normal(size=n // 6 if balanced else 12)[group] + rng.normal(size=n)
    return pl.DataFrame({"y": y, "x": x, "a": [f"a{i}" for i in a], "b": [f"b{i}" for i in b], "g": group.astype(str)})


CODINGS = [
    "a * b",
    "C(a, contr.sum) * C(b, contr.helmert)",
    "C(a, contr.poly) * C(b, contr.SAS)",
    "C(a, contr.diff) * b",
]


@pytest.mark.parametrize(("df", "rtol"), [("kenward_roger", 1e-6), ("normal", 1e-6), ("satterthwaite", 5e-3)])
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_tests_do_not_depend_on_the_coding_in_force(kind: Any, df: Any, rtol: float) -> None:
    """Satterthwaite's df of several rows depends a little on how a hypothesis is written: by its definition."""
    frame = crossed()
    first, *others = (frame.glmm.fit(f"y ~ x + {coding} + (1 | g)").test_terms(kind, df) for coding in CODINGS)
    for other in others:
        assert_allclose(numbers(other)[:, 1:3], numbers(first)[:, 1:3], rtol=rtol)


def test_the_three_types_agree_where_columns_are_orthogonal() -> None:
    fit = crossed(balanced=True).glmm.fit("y ~ a * b + (1 | g)")
    one, two, three = (numbers(fit.test_terms(kind)) for kind in (1, 2, 3))
    assert_allclose(two, one, rtol=1e-6)
    assert_allclose(three, one, rtol=1e-6)


def test_without_interactions_types_two_and_three_agree_and_a_term_of_one_column_is_its_t_squared() -> None:
    fit = crossed().glmm.fit("y ~ x + a + b + (1 | g)")
    by_kr = [numbers(fit.test_terms(kind, df="kenward_roger")) for kind in (2, 3)]
    assert_allclose(by_kr[1], by_kr[0], rtol=1e-7)
    three = fit.test_terms(3)
    for term, name in (("x", "x"), ("b", "b[T.b1]")):
        row = fit.fixef().filter(pl.col("term") == name).row(0, named=True)
        own = three.filter(pl.col("term") == term).row(0, named=True)
        assert own["statistic"] == pytest.approx(row["statistic"] ** 2, rel=1e-8)
        assert own["den_df"] == pytest.approx(row["df"], rel=1e-8)
        assert own["p_value"] == pytest.approx(row["p_value"], rel=1e-7)


def test_the_last_term_is_adjusted_for_all_in_every_type() -> None:
    fit = crossed().glmm.fit("y ~ x + a * b + (1 | g)")
    last = [numbers(fit.test_terms(kind, "kenward_roger"), "a:b") for kind in (1, 2, 3)]
    assert_allclose(last[1], last[0], rtol=1e-7)
    assert_allclose(last[2], last[0], rtol=1e-7)


def test_linear_models_have_the_sums_of_squares_of_least_squares() -> None:
    """F = ((RSS₀ − RSS₁)/q)/(RSS₁/(n − p)) of the models each type compares."""
    frame = crossed()

    def rss(formula: str) -> tuple[float, int]:
        fit = frame.glmm.fit(f"y ~ {formula}")
        used = frame.height - fit.df_resid if hasattr(fit, "df_resid") else fit.fixef().drop_nulls("estimate").height
        return float(fit.estimate.phi**2) * (frame.height - used), used

    full, p = rss("x + a * b")
    table = frame.glmm.fit("y ~ x + a * b")
    for kind, pairs in (
        (1, {"x": ("1", "x"), "a": ("x", "x + a"), "b": ("x + a", "x + a + b"), "a:b": ("x + a + b", "x + a * b")}),
        (2, {"x": ("a * b", "x + a * b"), "a": ("x + b", "x + a + b"), "b": ("x + a", "x + a + b")}),
    ):
        found = table.test_terms(kind)  # type: ignore[arg-type]
        for term, (small, large) in pairs.items():
            (less, q0), (more, q1) = rss(small), rss(large)
            expected = ((less - more) / (q1 - q0)) / (full / (frame.height - p))
            row = found.filter(pl.col("term") == term).row(0, named=True)
            assert (row["num_df"], row["den_df"]) == (q1 - q0, frame.height - p)
            assert row["statistic"] == pytest.approx(expected, rel=1e-8)


def test_type_three_of_main_effects_is_about_means_of_cells() -> None:
    """The marginal means over equally weighted cells are equal: a contrast of cell means, written by hand."""
    fit = crossed().glmm.fit("y ~ a * b + (1 | g)")
    rows = [f"a[T.{a}] + a[T.{a}]:b[T.b1]/2" for a in ("a1", "a2")]
    by_hand = fit.test(rows, joint=True, df="kenward_roger")
    ours = fit.test_terms(3, "kenward_roger").filter(pl.col("term") == "a")
    for column in COLUMNS:
        assert ours[column].item() == pytest.approx(by_hand[column].item(), rel=1e-8)


def test_without_an_intercept_a_factor_is_tested_for_all_its_means() -> None:
    fit = crossed().glmm.fit("y ~ 0 + a + (1 | g)")
    names = [f"a[a{k}]" for k in range(3)]
    for kind in (1, 2, 3):
        found = fit.test_terms(kind)  # type: ignore[arg-type]
        by_hand = fit.test(names, joint=True)
        assert found["num_df"].item() == 3
        assert found["statistic"].item() == pytest.approx(by_hand["statistic"].item(), rel=1e-8)


def test_nested_terms_are_tested_within() -> None:
    fit = crossed().glmm.fit("y ~ a / b + (1 | g)")
    found = fit.test_terms(3)
    assert found.select("term", "num_df").rows() == [("a", 2), ("a:b", 3)]
    by_hand = fit.test([f"a[a{k}]:b[T.b1]" for k in range(3)], joint=True)
    assert found["statistic"][1] == pytest.approx(by_hand["statistic"].item(), rel=1e-8)


def test_transforms_and_comparisons_are_terms() -> None:
    fit = crossed().glmm.fit("y ~ poly(x, 2) * b + I(x > 0) + log(exp(x) + 1):a + (1 | g)")
    terms = {term.name: len(term.places) for term in terms_of(fit, "mu")}
    assert terms["poly(x, 2)"] == 2
    assert terms["poly(x, 2):b"] == 2
    assert terms["I(x > 0)"] == 1
    assert sum(terms.values()) == fit.fixef().height
    assert fit.test_terms(3)["term"].to_list() == [name for name in terms if name != "Intercept"]


def test_a_model_of_an_intercept_has_no_terms() -> None:
    table = crossed().glmm.fit("y ~ 1 + (1 | g)").test_terms()
    assert table.height == 0
    assert table.columns[:3] == ["parameter", "term", "type"]


def test_counts_have_wald_chi_squares_not_divided_by_their_df() -> None:
    fit = datasets.load("cbpp").glmm.fit("cbind(incidence, size - incidence) ~ period + (1 | herd)", family="binomial")
    found = fit.test_terms().row(0, named=True)
    by_hand = fit.test("period", joint=True).row(0, named=True)
    assert found["distribution"] == "chi2"
    assert found["den_df"] is None
    assert found["df_method"] == "normal"
    assert (found["statistic"], found["p_value"]) == pytest.approx((by_hand["statistic"], by_hand["p_value"]))
    f = fit.test_terms(df=10).row(0, named=True)
    assert f["statistic"] == pytest.approx(found["statistic"] / 3)


def test_terms_of_phi_are_tested_too() -> None:
    fit = datasets.load("sleepstudy").glmm.fit("Reaction ~ Days + (1 | Subject)", "phi ~ Days")
    found = fit.test_terms()
    assert found.select("parameter", "term").rows() == [("mu", "Days"), ("phi", "Days")]
    phi = fit.fixef().filter(pl.col("parameter") == "phi", pl.col("term") == "Days")["statistic"].item()
    assert found["statistic"][1] == pytest.approx(phi**2)


# ------------------------------------------------------------------------------------------ empty cells, zero


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_an_empty_cell_leaves_type_three_open_and_type_two_answers() -> None:
    frame = crossed().filter(~((pl.col("a") == "a2") & (pl.col("b") == "b1")))
    fit = frame.glmm.fit("y ~ x + a * b + (1 | g)")
    three, two = fit.test_terms(3), fit.test_terms(2)
    assert dict(three.select("term", pl.col("p_value").is_null()).iter_rows()) == {
        "x": False, "a": True, "b": True, "a:b": True,
    }  # fmt: skip
    assert three["note"][1].startswith("not_estimable")
    assert two["p_value"].null_count() == 0
    assert two["num_df"].to_list() == [1, 2, 1, 1]
    additive = frame.glmm.fit("y ~ x + a + b + (1 | g)")
    assert additive.test_terms(3)["p_value"].null_count() == 0


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_terms_that_determine_one_another_are_not_told_apart() -> None:
    frame = crossed().with_columns(z=pl.col("x") * 2 + 1)
    fit = frame.glmm.fit("y ~ x + z + b + (1 | g)")
    for kind in (2, 3):
        found = fit.test_terms(kind)  # type: ignore[arg-type]
        assert found["p_value"].is_null().to_list() == [True, True, False]
        assert found["note"].is_null().to_list() == [False, False, True]
    sequential = fit.test_terms(1)
    assert sequential["p_value"].is_null().to_list() == [False, True, False]


def test_a_test_at_zero_far_from_the_data_says_so() -> None:
    fit = datasets.load("chickweight").glmm.fit("weight ~ Time * Diet + (1 | Chick)")
    notes = dict(fit.test_terms(3).select("term", "note").iter_rows())
    assert "type3_at_zero" in notes["Diet"]
    assert "Time = 0" in notes["Diet"]
    assert notes["Time"] is None
    assert fit.test_terms(2)["note"].null_count() == 3
    centred = datasets.load("chickweight").with_columns(pl.col("Time") - pl.col("Time").mean())
    assert centred.glmm.fit("weight ~ Time * Diet + (1 | Chick)").test_terms(3)["note"].null_count() == 3


# ------------------------------------------------------------------------------------------ metric of type I


def test_sequential_tests_do_not_depend_on_the_route() -> None:
    frame = crossed(240)
    formula = "y ~ x + a * b + (1 | g)"
    usual = numbers(frame.glmm.fit(formula).test_terms(1))
    assert_allclose(numbers(frame.lazy().glmm.fit(formula).test_terms(1)), usual, rtol=1e-4)
    keyed = pl.concat([frame.with_columns(key=pl.lit(k)) for k in range(5)]).glmm.fit(formula, by="key")
    assert_allclose(numbers(keyed.test_terms(1)), np.tile(usual, (5, 1)), rtol=1e-4)


# ------------------------------------------------------------------------------------------ by fitting again


def test_likelihood_ratios_are_those_of_the_formulas() -> None:
    frame = crossed()
    fit = frame.glmm.fit("y ~ x + a * b + (1 | g)")

    def ml(formula: str) -> float:
        return float(frame.glmm.fit(f"y ~ {formula} + (1 | g)", method="ml").loglik)

    one = dict(fit.test_terms(1, method="lrt").select("term", "statistic").iter_rows())
    two = dict(fit.test_terms(2, method="lrt").select("term", "statistic").iter_rows())
    assert one["a"] == pytest.approx(2 * (ml("x + a") - ml("x")), abs=1e-5)
    assert one["a:b"] == pytest.approx(2 * (ml("x + a * b") - ml("x + a + b")), abs=1e-5)
    assert two["a"] == pytest.approx(2 * (ml("x + a + b") - ml("x + b")), abs=1e-5)
    assert two["x"] == pytest.approx(2 * (ml("x + a * b") - ml("a * b")), abs=1e-5)


def test_likelihood_ratios_of_type_three_take_out_sum_coded_columns() -> None:
    frame = crossed()
    level = {name: pl.col("a") == name for name in ("a0", "a1", "a2")}
    s1 = level["a0"].cast(pl.Float64) - level["a2"].cast(pl.Float64)
    s2 = level["a1"].cast(pl.Float64) - level["a2"].cast(pl.Float64)
    t = (pl.col("b") == "b0").cast(pl.Float64) * 2 - 1
    coded = frame.with_columns(s1=s1, s2=s2, t=t)
    large = coded.glmm.fit("y ~ s1 + s2 + t + s1:t + s2:t + (1 | g)", method="ml")
    small = coded.glmm.fit("y ~ t + s1:t + s2:t + (1 | g)", method="ml")
    ours = frame.glmm.fit("y ~ a * b + (1 | g)").test_terms(3, method="lrt")
    row = ours.filter(pl.col("term") == "a").row(0, named=True)
    assert row["num_df"] == 2
    assert row["statistic"] == pytest.approx(2 * (large.loglik - small.loglik), abs=1e-5)
    assert row["distribution"] == "chi2"
    assert row["df_method"] == "lrt"


def test_refits_take_the_rows_offsets_and_weights_of_the_fit() -> None:
    owls = datasets.load("owls")
    formula = "SiblingNegotiation ~ FoodTreatment + ArrivalTime + offset(logBroodSize) + (1 | Nest)"
    with_holes = owls.with_columns(
        pl.when(pl.int_range(pl.len()) % 7 == 0).then(None).otherwise(pl.col("ArrivalTime")).alias("ArrivalTime")
    )
    fit = with_holes.glmm.fit(formula, family="poisson")
    small = with_holes.drop_nulls("ArrivalTime").glmm.fit(
        "SiblingNegotiation ~ FoodTreatment + offset(logBroodSize) + (1 | Nest)", family="poisson"
    )
    found = fit.test_terms(method="lrt").filter(pl.col("term") == "ArrivalTime")
    assert found["statistic"].item() == pytest.approx(2 * (fit.loglik - small.loglik), abs=1e-4)
    counted = crossed(60).with_columns(n=pl.Series(np.random.default_rng(1).integers(1, 4, 60)))
    repeated = counted[np.repeat(np.arange(60), counted["n"].to_numpy())]
    by_count = counted.glmm.fit("y ~ x + (1 | g)", frequency="n").test_terms(method="lrt")["statistic"].item()
    assert by_count == pytest.approx(
        repeated.glmm.fit("y ~ x + (1 | g)").test_terms(method="lrt")["statistic"].item(), abs=1e-5
    )


def test_the_bootstrap_is_repeated_by_its_seed_and_begins_alike() -> None:
    fit = crossed().glmm.fit("y ~ x + b + (1 | g)")
    one = fit.test_terms(method="bootstrap", n=40, rng=3)
    assert one.equals(fit.test_terms(method="bootstrap", n=40, rng=3))
    assert one["seed"].to_list() == [3, 3]
    assert one["n_draws"].to_list() == [40, 40]
    assert one["n_failed"].to_list() == [0, 0]
    lrt = fit.test_terms(method="lrt")
    assert_allclose(one["statistic"], lrt["statistic"])
    fresh = fit.test_terms(method="bootstrap", n=20)
    again = fit.test_terms(method="bootstrap", n=20, rng=fresh["seed"][0])
    assert again.equals(fresh)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("formula", "arguments"),
    [
        ("cbind(incidence, size - incidence) ~ period + (1 | herd)", {"family": "binomial"}),
        ("incidence ~ period + (1 | herd)", {"family": "binomial", "trials": "size"}),
        ("log(size) ~ period + (1 | herd)", {}),
    ],
)
def test_bootstrap_tails_are_near_those_of_large_samples(formula: str, arguments: Any) -> None:
    fit = datasets.load("cbpp").glmm.fit(formula, **arguments)
    found = fit.test_terms(method="bootstrap", n=200, rng=1).row(0, named=True)
    usual = fit.test_terms(method="lrt")["p_value"].item()
    assert found["n_failed"] == 0
    assert found["p_value"] == pytest.approx(usual, abs=0.15)
    assert found["p_value"] >= 1 / 201


@pytest.mark.slow
def test_bootstrap_p_values_are_uniform_under_the_hypothesis() -> None:
    frame = crossed(60, seed=5)
    null = frame.glmm.fit("y ~ a + (1 | g)")
    draws = null.simulate(frame, 60, rng=2)
    p = [
        draws.with_columns(y=f"sim_{k + 1}").glmm.fit("y ~ a + x + (1 | g)").test_terms(
            2, method="bootstrap", n=99, rng=k
        )["p_value"][1]
        for k in range(60)
    ]  # fmt: skip
    assert 0.02 < np.mean(np.array(p) <= 0.2) < 0.4
    assert 0.38 < np.mean(p) < 0.62


def test_what_is_asked_wrongly_is_answered() -> None:
    fit = crossed().glmm.fit("y ~ x + (1 | g)")
    assert fit.test_terms("II").equals(fit.test_terms(2))
    for wrong in (4, "two", True, None):
        with pytest.raises(ModelError, match="type="):
            fit.test_terms(wrong)
    with pytest.raises(ModelError, match="lrt"):
        fit.test_terms(method="lr")
    with pytest.raises(ModelError, match="Wald"):
        fit.test_terms(method="lrt", df="normal")
    with pytest.raises(ModelError, match="n="):
        fit.test_terms(method="bootstrap", n=0)
    with pytest.raises(ModelError, match="keeps no data"):
        pickle.loads(pickle.dumps(fit)).test_terms(method="lrt")  # noqa: S301  our own
    held = crossed().glmm.fit("y ~ x + b + (1 | g)", fixed={"x": 1.0})
    with pytest.raises(ModelError, match="wald"):
        held.test_terms(method="lrt")
    assert held.test_terms(3)["p_value"].is_null().to_list() == [True, False]
    assert held.test_terms(3)["note"][0].startswith("no_std_error")
    for kind in (1, 2):
        with pytest.raises(ModelError, match="type=3"):
            held.test_terms(kind)  # type: ignore[arg-type]
    for seed in (-1, True, "x"):
        with pytest.raises(ModelError, match="rng="):
            fit.test_terms(method="bootstrap", n=5, rng=seed)  # type: ignore[arg-type]
    by_type = crossed().with_columns(type=pl.col("b")).glmm.fit("y ~ x + (1 | g)", by="type")
    with pytest.raises(ColumnError, match="Rename the key"):
        by_type.test_terms()


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_singular_fits_are_tested_like_others() -> None:
    fit = datasets.load("dyestuff2").with_columns(x=pl.int_range(pl.len()) % 2).glmm.fit("Yield ~ x + (1 | Batch)")
    assert fit.singular
    for df in (None, "kenward_roger"):
        found = fit.test_terms(df=df).row(0, named=True)  # type: ignore[arg-type]
        assert found["p_value"] is not None
        assert found["den_df"] > 1


def test_the_front_door_has_the_words_of_others() -> None:
    fit = crossed().glmm.fit("y ~ x + (1 | g)")
    for word, verb in {
        "contest": "test", "linearHypothesis": "test", "testparm": "test", "lincom": "test", "KRmodcomp": "test_terms",
        "joint_tests": "test_terms", "Anova": "test_terms", "drop1": "test_terms", "PBmodcomp": "test_terms",
    }.items():  # fmt: skip
        with pytest.raises(AttributeError, match=rf"fit\.{verb}\("):
            getattr(fit, word)
    with pytest.raises(TypeError, match="test_terms"):
        polars_glmm.anova(fit, type=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="df='kenward_roger'"):
        fit.test_terms(ddf="Kenward-Roger")
    assert polars_glmm.Fit is type(fit)
