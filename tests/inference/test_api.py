"""The public verbs: what they refuse, what they keep, and the collection of many fits."""

from __future__ import annotations

import gc
import pickle
import weakref
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import (
    AGQ,
    ColumnError,
    Control,
    DataChangedError,
    Fit,
    FitCollection,
    FitWarning,
    Gamma,
    GlmmError,
    ModelError,
    anova,
    datasets,
    fit,
)
from polars_glmm.spec.call import Call

SLEEP = "Reaction ~ Days + (Days | Subject)"


@pytest.fixture(scope="module")
def sleep() -> pl.DataFrame:
    return datasets.load("sleepstudy")


@pytest.fixture(scope="module")
def fitted(sleep: pl.DataFrame) -> Fit:
    return fit(sleep, SLEEP)


@pytest.mark.parametrize(
    ("family", "argument"),
    [("gaussian", "precision="), (Gamma(), "precision="), ("binomial", "trials="), ("poisson", "frequency=")],
)
def test_weights_are_refused_with_the_argument_that_lme4_meant(sleep: pl.DataFrame, family: Any, argument: str) -> None:
    name = family if isinstance(family, str) else family.name
    with pytest.raises(ModelError, match=f"There is no weights=.* For {name}, .*that is {argument}"):
        sleep.glmm.fit(SLEEP, family=family, weights="Days")


def test_wrong_calls_are_refused_before_any_fitting(sleep: pl.DataFrame) -> None:
    with pytest.raises(TypeError, match=r"no argument 'famly'.*Did you mean 'family'"):
        fit(sleep, SLEEP, famly="poisson")  # type: ignore[call-overload]
    with pytest.raises(ModelError, match="pass a frame of Polars"):
        fit({"y": [1.0]}, "y ~ 1")  # type: ignore[call-overload]
    with pytest.raises(ColumnError, match="Did you mean 'Subject'"):
        fit(sleep, "Reaction ~ Days", by="subject")
    with pytest.raises(GlmmError, match=r"drop.*error"):
        fit(sleep, SLEEP, missing="omit")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("old", "new", "merged"),
    [
        ("y ~ a + (1 | g)", ". ~ . + x", "y ~ a + (1 | g) + x"),
        ("y ~ a", "log(y) ~ .", "log(y) ~ a"),
        ("y ~ a", "~ . - a", "y ~ . - a".replace(".", "a")),
        ("y.max ~ x.1", ". ~ . + x.2", "y.max ~ x.1 + x.2"),
        ("y ~ a", "z ~ b", "z ~ b"),
    ],
)
def test_a_lone_dot_stands_for_that_side(old: str, new: str, merged: str) -> None:
    assert Call((old,)).changed(new).formulas == (merged,)


def test_update_refuses_what_fit_does_not_have() -> None:
    with pytest.raises(ModelError, match=r"no argument 'methd'.*'method'"):
        Call(("y ~ x",)).changed(methd="ml")


def test_update_changes_one_thing(fitted: Fit, sleep: pl.DataFrame) -> None:
    ml = fitted.update(method="ml")
    assert (ml.method, fitted.method, ml.formula) == ("ml", "reml", fitted.formula)
    assert_allclose(ml.loglik, -875.969672231599)  # lme4 1.1-31
    smaller = ml.update("Reaction ~ Days + (1 | Subject)")
    assert_allclose(smaller.loglik, -897.039321502613)  # lme4 1.1-31
    frame = anova(smaller, ml)
    assert frame["distribution"][1] == "chibar2(1,2)"
    assert_allclose(frame["chisq"][1], 42.1393, rtol=1e-6)  # lme4: anova(fm2, fm1)
    assert ml.update(frame=sleep.head(90)).n_obs == 90
    with pytest.raises(ModelError, match="different fixed effects"):
        anova(fitted, fitted.update(". ~ . - Days"))


def test_what_a_fit_keeps_is_its_callers_choice(sleep: pl.DataFrame) -> None:
    path = "Reaction ~ Days + (1 | Subject)"
    eager, lazy = fit(sleep, path), fit(sleep.lazy(), path)
    assert eager.rows is not None
    assert eager.source is None
    assert lazy.rows is None
    assert lazy.source is not None
    assert_allclose(lazy.loglik, eager.loglik, rtol=1e-12)
    nothing = fit(sleep, path, control=Control(keep="none"))
    assert nothing.rows is nothing.source is None
    with pytest.raises(ModelError, match="keeps no data"):
        nothing.update(method="ml")
    again = pickle.loads(pickle.dumps(eager))  # noqa: S301
    assert again.rows is None
    assert again.fixef().equals(eager.fixef())
    assert again.predict(sleep)["prediction"].equals(eager.predict(sleep)["prediction"])


def test_a_source_that_changed_is_refused(sleep: pl.DataFrame) -> None:
    data = {"frame": sleep}
    source = sleep.lazy().map_batches(lambda _: data["frame"], schema=sleep.schema)
    lazy = fit(source, "Reaction ~ Days + (1 | Subject)")
    assert lazy.update(method="ml").method == "ml"
    for changed, words in (
        (sleep.head(170), "170 observations, the fit had 180"),
        (sleep.with_columns(pl.col("Reaction") + 1.0), "sum of the response"),
    ):
        data["frame"] = changed
        with pytest.raises(DataChangedError, match=words):
            lazy.update(method="ml")


@pytest.mark.parametrize("family", ["gaussian", "poisson"])
@pytest.mark.parametrize("spoil", ["longer", "other columns", "text", "gone"])
def test_a_file_that_was_written_over_is_a_source_that_changed(tmp_path: Path, family: str, spoil: str) -> None:
    """Polars takes a file to be as it was when it was scanned, and fails in many ways where it is not."""
    rows = pl.int_range(200, eager=True)
    frame = pl.DataFrame({"y": rows * rows % 7 + 2 * (rows // 10 % 5), "x": rows % 11, "g": rows // 10})
    file = tmp_path / "data.parquet"
    frame.write_parquet(file)
    made = fit(pl.scan_parquet(file), "y ~ x + (1 | g)", family=family)
    if spoil == "gone":
        file.unlink()
    else:
        text = frame.with_columns(x=pl.col("x").cast(pl.String) + " or so, and more than before" * 9)
        later = {"longer": pl.concat([frame] * 9), "other columns": frame.rename({"x": "z"}), "text": text}[spoil]
        later.write_parquet(file, compression="uncompressed")
    with pytest.raises(DataChangedError):
        made.update(". ~ . + I(x**2)")


KEYS = {
    "Duration": pl.Series([3, 1, 2], dtype=pl.Duration("ms")),
    "Datetime": pl.Series([3, 1, 2], dtype=pl.Datetime("us", "UTC")),
    "Time": pl.Series([3, 1, 2], dtype=pl.Time),
    "Binary": pl.Series([b"\xff", b"\x01", b"a"]),
    "Decimal": pl.Series(["0.30", "0.10", "0.20"]).str.to_decimal(scale=2),
    "Struct": pl.Series([{"a": 3}, {"a": 1}, {"a": 2}]),
    "UInt64": pl.Series([2**64 - 1, 1, 2], dtype=pl.UInt64),
    "Boolean": pl.Series([True, False, True]),
}


@pytest.mark.parametrize("dtype", KEYS)
def test_levels_of_any_dtype_have_labels(dtype: str) -> None:
    rows = pl.int_range(120, eager=True)
    frame = pl.DataFrame({"g": KEYS[dtype][rows % 3], "x": rows % 7, "y": rows * rows % 11 + 9 * (rows % 3 % 2)})
    made = fit(frame, "y ~ x + (1 | g)")
    modes = made.ranef()
    assert modes["level"].n_unique() == frame["g"].n_unique() == modes.height
    assert modes["level"].null_count() == 0
    assert made.predict(frame)["prediction"].null_count() == 0
    assert dtype in str(made.ranef("g").schema["g"])


def test_simulate_passes_on_what_becomes_of_the_random_effects(sleep: pl.DataFrame) -> None:
    made = fit(sleep, "Reaction ~ Days + (1 | Subject)")
    new, known = (polars_glmm.simulate(sleep, made, 2, 1, random=random) for random in ("new", "conditional"))
    assert not new.equals(known)
    for random, expected in (("new", new), ("conditional", known)):
        assert made.simulate(sleep, 2, 1, random=random).equals(expected)
        assert sleep.glmm.simulate(made, 2, 1, random=random).equals(expected)
        assert polars_glmm.glmm(sleep.lazy()).simulate(made, 2, 1, random=random).collect().equals(expected)


def test_the_accessor_keeps_no_frame_alive(sleep: pl.DataFrame) -> None:
    frame = sleep.clone()
    assert isinstance(frame.glmm.fit("Reaction ~ Days"), Fit)
    watch = weakref.ref(frame)
    gc.disable()
    try:
        del frame
        assert watch() is None
    finally:
        gc.enable()


def test_function_method_and_accessor_are_one_verb(fitted: Fit, sleep: pl.DataFrame) -> None:
    for verb in ("predict", "augment", "with_ranef"):
        by_function = getattr(polars_glmm, verb)(sleep, fitted)
        assert by_function.equals(getattr(fitted, verb)(sleep))
        assert by_function.equals(getattr(sleep.glmm, verb)(fitted))
        assert by_function.equals(getattr(polars_glmm.glmm(sleep.lazy()), verb)(fitted).collect())


def test_a_plan_can_be_seen_without_fitting(sleep: pl.DataFrame) -> None:
    plan = polars_glmm.explain(sleep, SLEEP)
    assert "18 levels" in str(plan)
    assert "REML from cross-products" in str(plan)
    assert plan.frame.filter(part="fixed")["columns"].item().to_list() == ["Intercept", "Days"]


def test_lmertest_agrees_on_degrees_of_freedom(fitted: Fit) -> None:
    """lmerTest 3.1-3: 17.0000051947099, 16.9999990263063, accurate to about 1e-4."""
    assert_allclose(fitted.fixef()["df"], [17.0, 17.0], rtol=1e-4)
    assert_allclose(fitted.fixef()["std_error"], [6.82455652966002, 1.54578889544897], rtol=1e-6)


@pytest.fixture(scope="module")
def split(sleep: pl.DataFrame) -> pl.DataFrame:
    """Three keys in an order of their own; the rows of the third have no Days, and so no model."""
    level = pl.col("Subject").to_physical()
    site = pl.when(level < 9).then(pl.lit("b")).when(level < 17).then(pl.lit("a")).otherwise(pl.lit("c"))
    return sleep.with_columns(
        site=site.cast(pl.Enum(["b", "a", "c"])), Days=pl.when(level < 17).then(pl.col("Days").cast(pl.Float64))
    )


@pytest.fixture(scope="module")
def collection(split: pl.DataFrame) -> FitCollection:
    with pytest.warns(FitWarning, match="'c'"):
        return split.glmm.fit("Reaction ~ Days + (1 | Subject)", by="site")


def test_a_collection_is_the_fits_of_the_filtered_frames(collection: FitCollection, split: pl.DataFrame) -> None:
    assert len(collection) == 3
    assert [key for key, _ in collection] == ["b", "a"]
    for key in ("b", "a"):
        own = fit(split.filter(pl.col("site") == key), "Reaction ~ Days + (1 | Subject)")
        assert_allclose(collection[key].loglik, own.loglik, rtol=1e-9)
        assert collection[key].ranef()["level"].equals(own.ranef()["level"])


def test_a_collection_answers_with_the_keys_in_front(collection: FitCollection, split: pl.DataFrame) -> None:
    for verb in ("fixef", "varcorr", "dispersion", "ranef", "glance", "status"):
        table = getattr(collection, verb)()
        assert table.columns[0] == "site"
        assert table.schema["site"] == split.schema["site"]
        assert table["site"].is_sorted()
    fixef = collection.fixef()
    assert fixef.filter(site="a").drop("site").equals(collection["a"].fixef())
    status = collection.status()
    assert status["status"].to_list() == ["ok", "ok", "failed"]
    assert status["text"][2] is not None
    assert "2 ok, 1 failed" in repr(collection)


def test_a_failed_key_raises_its_own_error(collection: FitCollection) -> None:
    with pytest.raises(GlmmError):
        collection["c"]
    with pytest.raises(KeyError, match="Did you mean"):
        collection["bb"]
    again = pickle.loads(pickle.dumps(collection))  # noqa: S301
    assert again.status().equals(collection.status())


def test_what_is_wrong_for_every_key_is_raised_at_once(split: pl.DataFrame) -> None:
    with pytest.raises(ColumnError, match="Day"):
        split.glmm.fit("Reaction ~ Day", by="site")


def test_several_key_columns_give_tuples(split: pl.DataFrame) -> None:
    frame = split.with_columns(odd=pl.col("Days") % 2 == 1).filter(pl.col("site") != "c")
    many = frame.glmm.fit("Reaction ~ Days", by=["odd", "site"])
    assert isinstance(many[(True, "a")], Fit)
    assert many.glance().columns[:2] == ["odd", "site"]
    assert many.glance().schema["odd"] == pl.Boolean


def test_null_keys_belong_to_no_model(split: pl.DataFrame) -> None:
    frame = split.with_columns(site=pl.when(pl.col("Days") > 0).then("site"))
    with pytest.warns(FitWarning, match="27 rows with a null key"):
        many = frame.glmm.fit("Reaction ~ Days", by="site")
    assert len(many) == 2


def test_agq_and_laplace_are_not_compared() -> None:
    df = datasets.load("cbpp")
    laplace = df.glmm.fit("incidence ~ period + (1 | herd)", family="binomial", trials="size")
    agq = laplace.update("incidence ~ (1 | herd)", method=AGQ(nodes=9))
    assert laplace.method == "laplace"
    with pytest.raises(ModelError, match="different methods"):
        anova(laplace, agq)


def test_rows_without_a_response_do_not_disturb_the_summary(sleep: pl.DataFrame) -> None:
    """A level that occurs only in dropped rows is unknown to the fit, and no residual is asked of it."""
    extra = pl.DataFrame(
        {"Reaction": [None], "Days": [3], "Subject": ["new"]}, schema_overrides={"Reaction": pl.Float64}
    )
    frame = pl.concat([sleep.with_columns(pl.col("Subject").cast(pl.String)), extra], how="vertical_relaxed")
    own = fit(frame, SLEEP)
    assert own.n_dropped == own.glance()["n_dropped"].item() == 1
    assert "Scaled residuals" in str(own)
    assert "(1 dropped)" in str(own)


def test_lazy_collections_read_what_they_use(split: pl.DataFrame) -> None:
    lazy = split.lazy().with_columns(unused=pl.lit("x")).filter(pl.col("site") != "c")
    many = lazy.glmm.fit("Reaction ~ Days", by="site")
    eager = split.filter(pl.col("site") != "c").glmm.fit("Reaction ~ Days", by="site")
    assert many.fixef().equals(eager.fixef())


def test_held_parameters_are_held(sleep: pl.DataFrame) -> None:
    """The log-likelihood with phi held is the objective's at that phi, and phi has no standard error."""
    held = fit(sleep, "Reaction ~ Days + (1 | Subject)", method="ml", fixed={"phi": 30.0})
    assert held.dispersion()["estimate"].item() == pytest.approx(30.0)
    assert held.dispersion().row(0)[2:] == (None, None, None)
    free = fit(sleep, "Reaction ~ Days + (1 | Subject)", method="ml", start={"phi": 60.0})
    assert_allclose(free.loglik, -897.039321502613)  # lme4 1.1-31
    assert held.loglik < free.loglik
    assert "LR test" in str(free)
    with pytest.raises(ModelError, match="'phi'"):
        fit(sleep, "Reaction ~ Days + (1 | Subject)", method="ml", fixed={"ph": 30.0})


@pytest.mark.parametrize(
    ("formulas", "options", "route", "words"),
    [
        (["Reaction ~ Days"], {}, "REML, least squares", "Linear model"),
        (["count ~ Days"], {"family": "poisson"}, "no random effects", "Generalized linear model"),
        (
            ["count ~ Days + (1 | Subject)"],
            {"family": "poisson", "method": AGQ(nodes=5)},
            "the levels are solved independently",
            "adaptive Gauss-Hermite quadrature (5 nodes)",
        ),
        (["Reaction ~ Days + (1 | Subject)", "phi ~ Days"], {}, "REML from cross-products", "Fixed effects of log phi"),
        (["Reaction ~ Days + (Days || Subject)"], {}, "cross-products", "Days"),
        (["Reaction ~ 0 + (1 | Subject)"], {"method": "ml"}, "cross-products", "Random effects"),
        (["count ~ 1 + (1 | Subject) + (1 | Days)"], {"family": "poisson"}, "2 factors", "Std. dev."),
    ],
)
def test_every_kind_of_model_explains_and_prints_itself(
    sleep: pl.DataFrame, formulas: list[str], options: dict[str, Any], route: str, words: str
) -> None:
    frame = sleep.with_columns(count=pl.col("Reaction").round())
    assert route in str(polars_glmm.explain(frame, *formulas, **{"family": "gaussian"} | options))
    text = str(fit(frame, *formulas, **options))
    assert words in text
    assert max(map(len, text.splitlines())) <= 80


def test_modelled_dispersion_has_its_own_rows(sleep: pl.DataFrame) -> None:
    """glmmTMB 1.1.5, dispformula = ~Days: logLik -891.911879300554."""
    own = fit(sleep, "Reaction ~ Days + (1 | Subject)", "phi ~ Days", method="ml")
    assert_allclose(own.loglik, -891.911879300554, rtol=1e-7)
    assert own.fixef()["parameter"].to_list() == ["mu", "mu", "phi", "phi"]
    assert own.dispersion().height == 0
    assert own.varcorr()["group"].to_list() == ["Subject"]
    assert own.vcov(full=True).height == 25


def test_uncorrelated_slopes_have_no_covariance_row(sleep: pl.DataFrame) -> None:
    own = fit(sleep, "Reaction ~ Days + (Days || Subject)")
    assert own.varcorr()["term"].to_list() == ["Intercept", "Days", None]
    assert own.varcorr()["other_term"].null_count() == 3


def test_an_objective_has_the_value_of_the_fit(sleep: pl.DataFrame) -> None:
    own = fit(sleep, "Reaction ~ Days + (1 | Subject)", method="ml")
    at = polars_glmm.glmm(sleep).objective("Reaction ~ Days + (1 | Subject)", method="ml")
    point = [*own.fixef()["estimate"], *own.varcorr()["std_dev"]]
    assert at.names == ("Intercept", "Days", "sd(Subject: Intercept)", "phi")
    assert_allclose(at.loglik(point), own.loglik)
    assert_allclose(at.gradient(point), 0.0, atol=1e-4)
