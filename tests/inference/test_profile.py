"""Profiles: every point is a conditional optimum of the public objective, roots agree with lme4, bounds are answers."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import AGQ, Control, datasets
from polars_glmm.errors import FitWarning, ModelError
from polars_glmm.fitting.profiles import profiles_of
from tests.references import uses

PROFILES = uses.entries("confint_profile")

MODELS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "correlated": ("sleepstudy", ("Reaction ~ Days + (Days | Subject)",), {}),
    "independent": ("sleepstudy", ("Reaction ~ Days + (Days || Subject)",), {"method": "ml"}),
    "no random effects": ("sleepstudy", ("Reaction ~ Days",), {"method": "ml"}),
    "nested": ("pastes", ("strength ~ 1 + (1 | batch/cask)",), {}),
    "singular": ("dyestuff2", ("Yield ~ 1 + (1 | Batch)",), {}),
    "binomial": ("cbpp", ("cbind(incidence, size - incidence) ~ period + (1 | herd)",), {"family": "binomial"}),
    "quadrature": (
        "cbpp", ("cbind(incidence, size - incidence) ~ period + (1 | herd)",), {"family": "binomial", "method": AGQ(7)}
    ),
    "glm": ("cbpp", ("cbind(incidence, size - incidence) ~ period",), {"family": "binomial"}),
    "poisson slope": ("epil2", ("y ~ Base + Visit + (Visit | subject)",), {"family": "poisson"}),
    "negative binomial": (
        "grouseticks", ("TICKS ~ YEAR + cHEIGHT + (1 | LOCATION)",), {"family": "negative_binomial"}
    ),
    "phi formula": ("sleepstudy", ("Reaction ~ Days + (1 | Subject)", "phi ~ Days"), {}),
    "gamma": ("sleepstudy", ("Reaction ~ Days + (1 | Subject)",), {"family": "gamma", "link": "log"}),
    "held sd": (
        "sleepstudy", ("Reaction ~ Days + (Days || Subject)",), {"method": "ml", "fixed": {"sd(Subject: Days)": 4.0}}
    ),
    "held coefficient": (
        "cbpp",
        ("cbind(incidence, size - incidence) ~ period + (1 | herd)",),
        {"family": "binomial", "fixed": {"period[T.2]": -1.0}},
    ),
}  # fmt: skip


@cache
def fitted(name: str) -> Any:
    dataset, formulas, arguments = MODELS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polars_glmm.fit(datasets.load(dataset), *formulas, **arguments)


@cache
def intervals(name: str) -> pl.DataFrame:
    return fitted(name).confint("profile")


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", MODELS)
def test_every_point_is_the_optimum_of_the_public_objective_given_the_value_held(name: str) -> None:
    dataset, formulas, arguments = MODELS[name]
    held = arguments.get("fixed", {})
    points = fitted(name).profile(points=5)
    assert points.height >= 4 * points.select("parameter", "group", "term", "other_term").n_unique()
    for (criterion,), rows in points.group_by("criterion"):
        method = {"agq": arguments.get("method")}.get(criterion, criterion)
        asked = {key: value for key, value in arguments.items() if key != "fixed"} | {"method": method}
        objective = polars_glmm.objective(datasets.load(dataset), *formulas, **asked)
        for row in rows.iter_rows(named=True):
            others = {one["name"]: one["value"] for one in row["conditional"]} | held
            (own,) = (name for name in objective.names if name not in others)
            at = others | {own: row["value"]}
            assert -2.0 * objective.loglik(at) == pytest.approx(row["deviance"], abs=1e-8)
            slopes = dict(zip(objective.names, objective.gradient(at), strict=True))
            # a step of a hundredth of each of the others would gain next to nothing, to first order
            for other in others.keys() - held.keys():
                assert abs(slopes[other] * 0.01 * others[other]) < 1e-4, (own, other)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", MODELS)
def test_the_deviance_exceeds_its_minimum_by_the_quantile_at_both_ends(name: str) -> None:
    ends = intervals(name)
    wide = fitted(name).profile(points=3, cutoff=1.959963984540054)
    keys = ["parameter", "group", "term", "other_term", "quantity"]
    found = wide.group_by(keys, maintain_order=True).agg(low=pl.col.value.min(), high=pl.col.value.max())
    both = ends.filter(pl.col.status != "held").join(found, on=keys, nulls_equal=True, maintain_order="left")
    assert both.height == found.height
    assert_allclose(both["conf_low"], both["low"], rtol=1e-6, atol=1e-9)
    assert_allclose(both["conf_high"], both["high"], rtol=1e-6, atol=1e-9)
    if name not in ("nested", "singular"):  # whose standard deviations begin at zero
        assert_allclose(wide.filter(pl.col.zeta != 0.0)["zeta"].abs(), 1.959963984540054, atol=1e-6)


@pytest.mark.parametrize("name", PROFILES)
def test_roots_agree_with_the_references(name: str) -> None:
    entry = PROFILES[name]
    fit = uses.fit(entry)
    found = {
        (row["parameter"], uses.same_group(row["group"] or ""), row["term"] or "", row["other_term"] or ""): row
        for row in fit.confint("profile").iter_rows(named=True)
    }
    for want in entry["results"]["profile"]:
        got = found[want["parameter"], uses.same_group(want["group"]), want["term"], want["other_term"]]
        for column in ("estimate", "conf_low", "conf_high"):
            assert got[column] == uses.close(entry, "profile", column, want[column]), (want, column)
        assert got["status"] in ("ok", "at_boundary")


@pytest.mark.parametrize("name", PROFILES)
def test_zeta_of_sigma_agrees_with_the_references(name: str) -> None:
    entry = PROFILES[name]
    with profiles_of(uses.fit(entry), "the test") as profiles:
        path = profiles.path(next(t for t in profiles.targets if t.name == "phi"), restricted=False)
        assert path is not None
        for row in entry["results"]["zeta_sigma"]:
            point = path.at(np.log(row["value"]))
            assert point is not None
            assert point.zeta == uses.close(entry, "zeta_sigma", "zeta", row["zeta"])


def test_without_random_effects_the_profile_of_a_coefficient_has_a_closed_form() -> None:
    fit = fitted("no random effects")
    slope = fit.fixef().filter(term="Days").row(0, named=True)
    n = fit.n_obs
    # dev(v) − dev = n log(rss_v/rss), rss_v − rss = (v − b)²/(X'X)⁻¹, s² = rss/n
    cutoff = 1.959963984540054
    half = slope["std_error"] * np.sqrt(n * np.expm1(cutoff**2 / n))
    got = intervals("no random effects").filter(term="Days").row(0, named=True)
    assert_allclose([got["conf_low"], got["conf_high"]], slope["estimate"] + np.array([-half, half]), rtol=1e-8)


def test_slopes_of_zeta_are_its_derivatives() -> None:
    for name in ("correlated", "binomial"):
        with profiles_of(fitted(name), "the test") as profiles:
            for target in profiles.targets:
                path = profiles.path(target, restricted=False)
                assert path is not None
                t, h = path.t0 + 1.2 * path.width, 1e-3 * path.width
                before, here, after = path.at(t - h), path.at(t), path.at(t + h)
                assert before is not None
                assert here is not None
                assert after is not None
                assert here.slope == pytest.approx((after.zeta - before.zeta) / (2.0 * h), rel=1e-4)
                near = path.at(path.t0 + 1e-2 * path.width)
                assert near is not None
                assert near.zeta == pytest.approx(1e-2, rel=2e-2)  # ζ starts with slope 1/SE


def test_bounds_of_the_range_are_answers() -> None:
    sd = intervals("singular").filter(quantity="sd").row(0, named=True)
    assert (sd["estimate"], sd["conf_low"], sd["status"]) == (0.0, 0.0, "at_boundary")
    assert 2.0 < sd["conf_high"] < 3.0
    batch = intervals("nested").filter(group="batch").row(0, named=True)
    assert batch["estimate"] > 0.0 == batch["conf_low"]
    assert batch["status"] == "at_boundary"
    rng = np.random.default_rng(4)
    frame = pl.DataFrame({"g": np.repeat(np.arange(4), 6), "x": np.tile(np.arange(6.0), 4)}).with_columns(
        y=pl.col("x") + pl.Series(np.repeat(rng.normal(size=4), 6) * 2 + rng.normal(size=24))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        few = polars_glmm.fit(frame, "y ~ x + (x | g)").confint("profile", "random")
    correlation = few.filter(quantity="correlation").row(0, named=True)
    assert correlation["status"] == "at_boundary"
    assert correlation["conf_low"] == -1.0 or correlation["conf_high"] == 1.0


def test_a_size_without_overdispersion_ends_at_infinity() -> None:
    rng = np.random.default_rng(7)
    g = np.repeat(np.arange(20), 10)
    frame = pl.DataFrame({"g": g, "y": rng.poisson(np.exp(1.0 + 0.4 * rng.normal(size=20)[g]))})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        fit = polars_glmm.fit(frame, "y ~ 1 + (1 | g)", family="negative_binomial")
    phi = fit.confint("profile", "phi").row(0, named=True)
    assert phi["conf_high"] == np.inf
    assert phi["status"] == "at_boundary"
    assert 1.0 < phi["conf_low"] < np.inf
    others = fit.confint("profile", ["fixed", "random"])
    assert others["status"].to_list() == ["ok", "ok"]


def test_the_scale_of_the_response_is_the_scale_of_the_intervals() -> None:
    frame = datasets.load("sleepstudy")
    small = polars_glmm.fit(frame.with_columns(pl.col("Reaction") * 1e-3), "Reaction ~ Days + (Days | Subject)")
    got, want = small.confint("profile"), intervals("correlated")
    scale = np.where(want["quantity"] == "correlation", 1.0, 1e-3)
    assert_allclose(got["conf_low"], want["conf_low"] * scale, rtol=1e-6)
    assert_allclose(got["conf_high"], want["conf_high"] * scale, rtol=1e-6)


def test_ml_profiles_of_a_reml_fit_are_those_of_the_ml_fit() -> None:
    reml, ml = fitted("correlated"), fitted("correlated").update(method="ml")
    mixed, all_ml, own = reml.confint("profile"), reml.confint("profile", criterion="ml"), ml.confint("profile")
    assert mixed["criterion"].to_list() == ["ml", "ml", "reml", "reml", "reml", "reml"]
    for column in ("conf_low", "conf_high"):
        assert_allclose(all_ml[column], own[column], rtol=1e-6)
        assert_allclose(mixed[column][:2], own[column][:2], rtol=1e-6)


@pytest.mark.filterwarnings(f"ignore::{FitWarning.__module__}.FitWarning")
@pytest.mark.parametrize("random", ["(1 | g)", "(x | g)", "(x || g)"])
def test_no_standard_deviation_has_an_interval_below_zero(random: str) -> None:
    """A search from the REML optimum ends beside a zero, on either side; the interval is that of the ML fit, from 0."""
    rng = np.random.default_rng(0)
    g, x, y = np.arange(48) % 8, rng.normal(size=48), rng.normal(size=48)
    y -= 0.9 * np.bincount(g, y)[g] / 6.0
    frame = pl.DataFrame({"y": y + 0.3 * x, "x": x, "g": g.astype(str)})
    fits = (polars_glmm.fit(frame, f"y ~ x + {random}", method=method) for method in ("reml", "ml"))
    ours, direct = (fit.confint("profile", "sd(g: Intercept)", criterion="ml").row(0, named=True) for fit in fits)
    assert (ours["conf_low"], ours["status"]) == (0.0, "at_boundary")
    assert ours["conf_high"] == pytest.approx(direct["conf_high"], rel=1e-4)
    path = polars_glmm.fit(frame, f"y ~ x + {random}").profile("sd(g: Intercept)", criterion="ml", points=6)
    assert path["value"].min() == 0.0
    assert (path["value"].diff().drop_nulls() > 1e-3).all()


def test_sums_of_a_lazy_frame_give_the_profile_of_its_rows() -> None:
    frame = datasets.load("sleepstudy")
    lazy = polars_glmm.fit(frame.lazy(), "Reaction ~ Days + (Days | Subject)")
    got, want = lazy.confint("profile"), intervals("correlated")
    for column in ("conf_low", "conf_high"):
        assert_allclose(got[column], want[column], rtol=1e-6)


def test_what_is_held_is_held_on_every_route() -> None:
    frame = datasets.load("sleepstudy")
    for fixed in ({"Days": 9.0}, {"phi": 30.0}, {"Days": 9.0, "sd(Subject: Intercept)": 30.0}):
        eager = polars_glmm.fit(frame, "Reaction ~ Days + (1 | Subject)", fixed=fixed).confint("profile")
        lazy = polars_glmm.fit(frame.lazy(), "Reaction ~ Days + (1 | Subject)", fixed=fixed).confint("profile")
        assert eager["status"].to_list() == lazy["status"].to_list()
        assert eager["status"].to_list().count("held") == len(fixed)
        for column in ("conf_low", "conf_high"):
            assert_allclose(lazy[column].drop_nulls(), eager[column].drop_nulls(), rtol=1e-6)


def test_with_many_groups_the_profile_comes_to_the_wald_interval() -> None:
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(2000), 4)
    x = rng.normal(size=len(g))
    frame = pl.DataFrame({"g": g, "x": x, "y": 1 + x + rng.normal(size=2000)[g] + rng.normal(size=len(g))})
    fit = polars_glmm.fit(frame, "y ~ x + (1 | g)", method="ml")
    wald, profile = fit.confint(), fit.confint("profile")
    for column in ("conf_low", "conf_high"):
        gap = (wald[column] - profile[column]) / wald["std_error"]
        assert float(gap.abs().max()) < 0.02


def test_wald_intervals_are_those_of_the_other_tables() -> None:
    fit = fitted("correlated")
    table = fit.confint(conf_level=0.9)
    fixed = fit.fixef(0.9)
    assert_allclose(table["conf_low"][:2], fixed["conf_low"])
    variances = fit.varcorr(0.9).filter(pl.col.other_term.is_null())
    sds = table.filter(pl.col.quantity.is_in(["sd", "dispersion"]))
    assert_allclose(sds["conf_high"][:2] ** 2, variances["conf_high"][:2])
    rho = table.filter(quantity="correlation").row(0, named=True)
    assert rho["conf_low"] == pytest.approx(fit.varcorr(0.9)["correlation_low"].drop_nulls()[0])
    assert table["conf_level"].unique().to_list() == [0.9]


def test_tables_of_a_collection_are_stacked_singles() -> None:
    frame = datasets.load("chickweight").filter(pl.col.Diet.cast(pl.String).is_in(["1", "2"]))
    fits = polars_glmm.fit(frame, "weight ~ Time + (1 | Chick)", by="Diet")
    for method in ("wald", "profile"):
        table = fits.confint(method, "fixed")
        assert table.columns[0] == "Diet"
        assert table.height == 4
        for key, fit in fits:
            own = table.filter(pl.col.Diet.cast(pl.String) == str(key)).drop("Diet")
            assert own.equals(fit.confint(method, "fixed"))
    assert fits.profile("Time", points=4)["Diet"].n_unique() == 2


def test_what_needs_rows_says_so_when_they_are_gone() -> None:
    fit = polars_glmm.fit(datasets.load("sleepstudy"), "Reaction ~ Days + (1 | Subject)", control=Control(keep="none"))
    assert fit.confint().height == 4
    with pytest.raises(ModelError, match=r"confint\(method='profile'\) needs the data of the fit"):
        fit.confint("profile")
    with pytest.raises(ModelError, match=r"profile\(\) needs the data"):
        fit.profile()


def test_questions_that_mean_nothing_are_refused_with_what_would() -> None:
    fit = fitted("correlated")
    with pytest.raises(ModelError, match="Did you mean 'profile'"):
        fit.confint("profil")
    with pytest.raises(ModelError, match=r"which='Dayz' names no parameter\. Did you mean 'Days'"):
        fit.confint(which="Dayz")
    with pytest.raises(ModelError, match="conf_level=95"):
        fit.confint(conf_level=95)
    with pytest.raises(ModelError, match="criterion='reml'"):
        fit.confint("profile", criterion="reml")
    with pytest.raises(ModelError, match="points=2"):
        fit.profile(points=2)
    with pytest.raises(ModelError, match="cutoff=-1"):
        fit.profile(cutoff=-1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_coefficients_of_zeros_beside_a_dispersion_have_ends_where_the_deviance_says() -> None:
    """The search holds log phi and the coefficients of zi side by side; held at an end, the rest is 3.84 worse."""
    frame = datasets.load("salamanders")
    found = polars_glmm.fit(frame, "count ~ mined + (1 | site)", "zi ~ mined", family="negative_binomial")
    ends = found.confint("profile", which=["zi: Intercept"]).select("conf_low", "conf_high").row(0)
    for end in ends:
        held = found.update(fixed={"zi: Intercept": end})
        assert 2.0 * (found.loglik - held.loglik) == pytest.approx(3.841459, abs=2e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_at_the_limit_of_a_family_others_are_profiled_as_in_the_limit() -> None:
    """Zero-inflated counts without overdispersion: those of the zero-inflated Poisson; phi = inf has no path."""
    rng = np.random.default_rng(2)
    g, x, u = np.repeat(np.arange(12), 10), rng.normal(size=120), 0.5 * rng.normal(size=12)
    y = rng.binomial(6, 1.0 / (1.0 + np.exp(-(0.2 * x + u[np.repeat(np.arange(12), 10)]))))
    frame = pl.DataFrame({"g": g, "x": x, "y": y * (rng.random(120) > 0.3)})
    families = ("negative_binomial", "poisson")
    both = [polars_glmm.fit(frame, "y ~ x + (1 | g)", "zi ~ 1", family=one) for one in families]
    assert np.isinf(both[0].estimate.phi)
    wide, narrow = (one.confint("profile").select("conf_low", "conf_high", "status") for one in both)
    assert wide.row(-1) == (None, None, "at_boundary")
    for got, want in zip(wide.rows(), narrow.rows(), strict=False):
        assert got[2] == want[2]
        assert got[:2] == pytest.approx(want[:2], abs=1e-4)
