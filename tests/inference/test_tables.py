"""Every table: its values against published numbers, its columns and dtypes against the contract."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from polars_glmm import Fit, ModelError
from polars_glmm.inference import schemas

FIXTURES = ("pig", "sleepstudy", "ticks", "counts")
TABLES: dict[str, tuple[Callable[[Fit], pl.DataFrame], schemas.Schema]] = {
    "fixef": (lambda fit: fit.fixef(), schemas.FIXEF),
    "varcorr": (lambda fit: fit.varcorr(), schemas.VARCORR),
    "dispersion": (lambda fit: fit.dispersion(), schemas.DISPERSION),
    "ranef": (lambda fit: fit.ranef(), schemas.RANEF),
    "glance": (lambda fit: fit.glance(), schemas.GLANCE),
    "vcov": (lambda fit: fit.vcov(), schemas.VCOV),
    "vcov full": (lambda fit: fit.vcov(full=True), schemas.VCOV),
    "diagnose": (lambda fit: fit.diagnose(), schemas.DIAGNOSE),
}


@pytest.fixture
def all_fits(request: pytest.FixtureRequest) -> list[Fit]:
    return [request.getfixturevalue(name) for name in FIXTURES]


@pytest.mark.parametrize("name", TABLES)
def test_columns_and_dtypes_do_not_depend_on_the_model(name: str, all_fits: list[Fit]) -> None:
    make, schema = TABLES[name]
    tables = [make(fit) for fit in all_fits]
    assert all(dict(table.schema) == dict(schema) for table in tables)
    assert pl.concat(tables).height == sum(table.height for table in tables)
    reals = [column for column, dtype in schema.items() if dtype == pl.Float64]
    assert not pl.concat(tables).select(pl.col(reals).is_nan().any()).row(0).count(True)


@pytest.mark.parametrize("fixture", FIXTURES)
def test_a_fit_survives_pickling_without_its_rows(fixture: str, request: pytest.FixtureRequest) -> None:
    fit: Fit = request.getfixturevalue(fixture)
    object.__setattr__(fit, "source", pl.LazyFrame({"y": [1.0]}))
    again = pickle.loads(pickle.dumps(fit))  # noqa: S301
    assert again.source is None
    assert again.fixef().equals(fit.fixef())
    assert str(again) == str(fit)


def test_pig_agrees_with_stata(pig: Fit) -> None:
    """Stata 17 manual [ME] mixed, example 1: table of `mixed weight week || id:`."""
    fixef = pig.fixef()
    assert_allclose(fixef["std_error"], [0.5974059, 0.0390124], rtol=1e-5)
    assert_allclose(fixef["statistic"], [32.40, 159.18], rtol=1e-4)
    assert_allclose(fixef.select("conf_low", "conf_high").row(0), [18.18472, 20.52651], rtol=1e-6)
    assert_allclose(fixef.select("conf_low", "conf_high").row(1), [6.133433, 6.286359], rtol=1e-6)
    assert fixef["df"].null_count() == 2
    varcorr = pig.varcorr()
    assert varcorr["group"].to_list() == ["id", "Residual"]
    assert_allclose(varcorr.select("estimate", "std_error", "conf_low", "conf_high").row(0),
                    [14.81751, 3.124226, 9.801716, 22.40002], rtol=1e-6)  # fmt: skip
    assert_allclose(varcorr.select("estimate", "std_error", "conf_low", "conf_high").row(1),
                    [4.383264, 0.3163348, 3.805112, 5.04926], rtol=1e-6)  # fmt: skip
    assert_allclose(varcorr["std_dev"], np.sqrt([14.81751, 4.383264]))
    glance = pig.glance().row(0, named=True)
    assert_allclose([glance["aic"], glance["bic"]], [2037.85358715652, 2054.1272895095])
    assert glance["groups"] == [{"group": "id", "n_levels": 48, "smallest": 9, "largest": 9}]
    assert (glance["method"], glance["reml"], glance["n_obs"], glance["df_model"]) == ("ml", False, 432, 4)
    assert_allclose(glance["dispersion"], np.sqrt(4.383264))


def test_satterthwaite_is_the_default_of_gaussian_reml(sleepstudy: Fit) -> None:
    """lmerTest 3.1-3: t and p of Reaction ~ Days + (Days | Subject)."""
    fixef = sleepstudy.fixef()
    assert_allclose(fixef["df"], [17.0000051947099, 16.9999990263063])
    assert_allclose(fixef["p_value"], [1.17087483659593e-17, 3.26379001973881e-06], rtol=1e-5)
    normal = sleepstudy.fixef(df="normal")
    assert_allclose(normal["p_value"][1], 1.27467383710629e-11, rtol=1e-6)
    assert_allclose(normal.select("conf_low", "conf_high").row(0), [238.029219839893, 264.780989857076])
    assert sleepstudy.fixef(df=17.0)["df"].to_list() == [17.0, 17.0]
    assert sleepstudy.glance()["reml"].item()


def test_satterthwaite_follows_from_the_derivatives_when_it_was_not_stored(sleepstudy: Fit) -> None:
    """With Var(β̂) = θ c and Var(θ̂) = 2θ²/ν, 2v²/Var(v) = ν: the case in which the approximation is exact."""
    estimate = sleepstudy.estimate
    theta, nu = 4.0, 17.0
    derivative = (estimate.vcov_fixed / theta)[None]
    for name, value in {
        "df_satterthwaite": None,
        "vcov_derivative": derivative,
        "covariance_vcov": np.array([[2 * theta**2 / nu]]),
    }.items():
        object.__setattr__(estimate, name, value)
    assert sleepstudy.fixef()["df"].null_count() == 2
    assert_allclose(sleepstudy.fixef(df="satterthwaite")["df"], [nu, nu])


def test_without_random_effects_a_gaussian_model_has_n_minus_p(build: Callable[..., Fit]) -> None:
    fit = build(["Intercept", "x"], [1.0, 2.0], np.eye(2), phi=1.0, method="reml", n_obs=20)
    assert fit.fixef()["df"].to_list() == [18.0, 18.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"df": "satterthwaite"}, "gaussian models with identity link"),
        ({"df": "satterthwait"}, "Did you mean 'satterthwaite'"),
        ({"df": -1.0}, "positive number"),
        ({"conf_level": 95}, "conf_level=0.95"),
        ({"conf_level": 0.0}, "between 0 and 1"),
    ],
)
def test_wrong_options_are_refused_with_the_remedy(ticks: Fit, options: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        ticks.fixef(**options)  # type: ignore[arg-type]


def test_dropped_terms_stay_in_place_without_numbers(ticks: Fit) -> None:
    fixef = ticks.fixef()
    assert fixef["term"].to_list() == ["Intercept", "YEAR[T.96]", "YEAR[T.97]", "twice"]
    assert fixef.row(3)[2:] == (None,) * 7
    assert set(ticks.vcov()["term"]) == {"Intercept", "YEAR[T.96]", "YEAR[T.97]"}
    assert ticks.coef("LOCATION")["twice"].to_list() == [None, None, None]


def test_exponentiated_effects_keep_their_tests(ticks: Fit) -> None:
    plain, ratio = ticks.fixef().head(3), ticks.fixef(exponentiate=True).head(3)
    assert_allclose(ratio["estimate"], np.exp(plain["estimate"]))
    assert_allclose(ratio["conf_high"], np.exp(plain["conf_high"]))
    assert_allclose(ratio["std_error"], np.exp(plain["estimate"]) * plain["std_error"])
    assert ratio["p_value"].equals(plain["p_value"])


def test_correlation_has_fishers_interval(sleepstudy: Fit) -> None:
    """ρ = c/√(v₁v₂): se by hand from Σ⁻¹-free derivatives, interval on the atanh scale."""
    row = sleepstudy.varcorr().row(2, named=True)
    assert (row["group"], row["term"], row["other_term"]) == ("Subject", "Intercept", "Days")
    assert_allclose(row["correlation"], 0.0655513222962853)
    v1, c, v2 = 612.089938036242, 9.60433369221589, 35.0716604500447
    rho = c / np.sqrt(v1 * v2)
    se = np.hypot(np.hypot(rho / (2 * v1) * 288.0, 46.0 / np.sqrt(v1 * v2)), rho / (2 * v2) * 14.0)
    z = 1.959963984540054
    expected = np.tanh(np.arctanh(rho) + np.array([-1, 1]) * z * se / (1 - rho**2))
    assert_allclose([row["correlation_low"], row["correlation_high"]], expected)
    assert [row[name] for name in ("std_error", "conf_low", "conf_high", "std_dev")] == [None] * 4


def test_the_boundary_has_no_standard_errors(build: Callable[..., Fit], pig: Fit) -> None:
    factor = pig.estimate.factors[0]
    for name, value in {"covariances": (np.zeros((1, 1)),), "modes": factor.modes * 0.0}.items():
        object.__setattr__(factor, name, value)
    fit = build(["Intercept"], [1.0], [[1.0]], factors=[factor], levels=[pl.DataFrame({"id": range(48)})],
                singular=True, covariance_vcov=[[np.nan]])  # fmt: skip
    row = fit.varcorr().row(0, named=True)
    assert (row["estimate"], row["std_dev"]) == (0.0, 0.0)
    assert row["std_error"] is row["conf_low"] is row["conf_high"] is None
    full = fit.vcov(full=True)
    assert full.filter(parameter="log_sd")["covariance"].null_count() == 2
    assert full.filter(parameter="mu", other_parameter="mu")["covariance"].item() == 1.0


def test_dispersion_has_a_positive_interval(counts: Fit, pig: Fit, ticks: Fit) -> None:
    row = counts.dispersion().row(0, named=True)
    z = 1.959963984540054
    assert_allclose([row["conf_low"], row["conf_high"]], 0.9 * np.exp(np.array([-1, 1]) * z * 0.1 / 0.9))
    assert pig.dispersion()["estimate"].item() == pytest.approx(4.383264**0.5)
    assert ticks.dispersion().height == 0
    assert ticks.glance()["dispersion"].item() is None


def test_infinite_size_is_an_answer(build: Callable[..., Fit]) -> None:
    fit = build(["Intercept"], [1.0], [[1.0]], family="negative_binomial", method="ml", phi=np.inf)
    assert fit.dispersion().row(0) == ("phi", np.inf, None, None, None)
    assert "phi = inf" in str(fit)


def test_full_vcov_is_the_delta_method(sleepstudy: Fit, pig: Fit) -> None:
    """Var(½ log v) = Var(v)/(4v²), Var(log σ) = Var(σ)/σ², Var(atanh ρ) = Var(ρ)/(1 − ρ²)²."""
    full = pig.vcov(full=True)
    own = full.filter(pl.col("term") == pl.col("other_term"), pl.col("parameter") == pl.col("other_parameter"))
    assert own["parameter"].to_list() == ["mu", "mu", "log_sd", "log_dispersion"]
    assert own["term"].to_list() == ["Intercept", "week", "id: Intercept", "phi"]
    assert_allclose(own["covariance"][2], (3.124226 / (2 * 14.81751)) ** 2)
    assert_allclose(own["covariance"][3], (0.3163348 / (2 * 4.383264)) ** 2)
    assert full.height == 16
    full = sleepstudy.vcov(full=True)
    row = sleepstudy.varcorr().row(2, named=True)
    width = np.arctanh(row["correlation_high"]) - np.arctanh(row["correlation"])
    variance = full.filter(parameter="atanh_correlation", other_parameter="atanh_correlation")["covariance"].item()
    assert_allclose(variance, (width / 1.959963984540054) ** 2)
    assert set(full.filter(parameter="atanh_correlation")["term"]) == {"Subject: Intercept, Days"}


def test_ranef_is_long_or_ready_to_join(sleepstudy: Fit) -> None:
    long = sleepstudy.ranef()
    assert long["term"].to_list() == ["Intercept"] * 3 + ["Days"] * 3
    assert long["level"].to_list() == ["308", "309", "310"] * 2
    assert_allclose(long["std_error"], np.sqrt([145.7] * 3 + [5.3] * 3))
    wide = sleepstudy.ranef("Subject")
    assert wide.columns == ["Subject", "Subject_Intercept", "Subject_Intercept_se", "Subject_Days", "Subject_Days_se"]
    assert wide.schema["Subject"] == pl.Enum(["308", "309", "310"])
    coef = sleepstudy.coef("Subject")
    assert coef.columns == ["Subject", "Intercept", "Days"]
    assert_allclose(coef["Intercept"][0], 253.6637, rtol=1e-6)  # lme4: coef(fm1)$Subject["308", ]
    assert_allclose(coef["Days"][0], 19.6662617, rtol=1e-6)
    assert sleepstudy.coef().equals(coef)


def test_composite_keys_keep_their_columns(build: Callable[..., Fit]) -> None:
    from polars_glmm.likelihood.estimate import FactorEstimate  # noqa: PLC0415

    factor = FactorEstimate("a:b", ("x",), (np.eye(1),), ("us",), np.array([[1.0, 2.0]]), np.ones((1, 1, 2)))
    levels = pl.DataFrame({"a": [1, 2], "b": [True, False]})
    fit = build(["Intercept"], [1.0], [[1.0]], family="poisson", factors=[factor], levels=[levels])
    assert fit.ranef("a:b").columns == ["a", "b", "a:b_x", "a:b_x_se"]
    assert fit.ranef()["level"].to_list() == ["1:true", "2:false"]
    assert fit.coef("a:b").to_dict(as_series=False) == {"a": [1, 2], "b": [True, False], "Intercept": [1.0, 1.0]}


@pytest.mark.parametrize("verb", ["ranef", "coef"])
def test_unknown_groups_are_named_with_the_near_one(sleepstudy: Fit, verb: str) -> None:
    with pytest.raises(ModelError, match=r"no grouping factor 'subject'; it has 'Subject'.$"):
        getattr(sleepstudy, verb)("subject")


def test_diagnose_lists_notes_then_the_certificate(ticks: Fit) -> None:
    frame = ticks.diagnose()
    assert frame["kind"].to_list()[:2] == ["warning", "information"]
    assert frame["code"].to_list()[:2] == ["dropped_column", "info"]
    assert frame.filter(code="decrement")["value"].item() == 1e-12
