"""A fit whose rows went to disk is the fit with its rows in memory."""

from __future__ import annotations

import warnings
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from polars.testing import assert_frame_equal

import polars_glmm
from polars_glmm import AGQ, FitWarning
from polars_glmm.control import Control, Memory, Rows
from polars_glmm.design.disk.learn import Sizes, learn_stored
from polars_glmm.design.learn import learn
from polars_glmm.errors import GlmmError, ResourceError
from polars_glmm.fitting import rows as route
from polars_glmm.likelihood.marginal.engine import row_engine
from polars_glmm.likelihood.marginal.modes import Point
from polars_glmm.likelihood.marginal.value import ThetaMap
from polars_glmm.likelihood.model import prepare
from polars_glmm.spec.model import ModelSpec
from polars_glmm.spill import spilling
from tests.references import translate

SPILL = Control(memory=Memory(limit=1), rows=Rows(compress=False))
ONE_FACTOR = {
    name: entry
    for name, entry in translate.entries("glmm").items()
    if sum(formula.count("|") for formula in translate.formulas(entry)) - translate.formulas(entry)[0].count("||") == 1
}
N = 400


def both(frame: pl.DataFrame, *formulas: str, control: Control = SPILL, **arguments: Any) -> tuple[Any, Any]:
    """The fit in memory and the fit from disk, which must have been there."""
    found = []
    spilled = route.learn_stored
    calls = []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return spilled(*args, **options)

    route.learn_stored = counted  # type: ignore[assignment]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)
            found += [polars_glmm.fit(data, *formulas, control=control, **arguments) for data in (frame, frame.lazy())]
    finally:
        route.learn_stored = spilled
    assert calls == [1]
    return found[0], found[1]


def assert_same(memory: Any, disk: Any) -> None:
    """Every table of two fits, to rounding error."""
    assert disk.loglik == pytest.approx(memory.loglik, rel=1e-11)
    assert disk.formula == memory.formula
    assert disk.groups == memory.groups
    assert [note.text for note in disk.notes] == [note.text for note in memory.notes]
    assert_allclose(disk.fingerprint.moments, memory.fingerprint.moments, rtol=1e-12)
    for table in ("fixef", "varcorr", "dispersion", "ranef", "vcov"):
        here, there = getattr(memory, table)(), getattr(disk, table)()
        assert_frame_equal(there, here, check_exact=False, rel_tol=1e-6, abs_tol=1e-7)
    glance = disk.glance().drop("seconds"), memory.glance().drop("seconds")
    assert_frame_equal(*glance, check_exact=False, rel_tol=1e-9)
    for here, there in zip(memory.recipe.factors, disk.recipe.factors, strict=True):
        assert_frame_equal(there.levels, here.levels)
    for one, other in zip(memory.recipe.predictors, disk.recipe.predictors, strict=True):
        assert [column.name for column in other.columns] == [column.name for column in one.columns]
        assert other.kept == one.kept
    assert dict(disk.recipe.categoricals) == dict(memory.recipe.categoricals)


@pytest.mark.one_in(16)
@pytest.mark.reference
@pytest.mark.parametrize("name", ONE_FACTOR)
def test_reference_models_from_disk(name: str) -> None:
    entry = ONE_FACTOR[name]
    assert_same(*both(translate.data(entry), *translate.formulas(entry), **translate.arguments(entry)))


def _data() -> pl.DataFrame:
    rng = np.random.default_rng(5)
    g = rng.integers(0, 40, N)
    x = rng.normal(size=N)
    eta = 0.4 + 0.5 * x + 0.7 * rng.normal(size=40)[g]
    f = rng.integers(0, 3, N)
    n = rng.integers(0, 6, N)
    made = {
        "count": rng.poisson(np.exp(eta)),
        "yes": rng.random(N) < 1 / (1 + np.exp(-eta)),
        "tries": n,
        "wins": rng.binomial(n, 1 / (1 + np.exp(-eta))),
        "size": rng.gamma(3.0, np.exp(eta) / 3.0),
        "x": x,
        "x1e8": x + 1e8,
        "twice": 2 * x,
        "t": rng.uniform(1, 3, N),
        "f": np.array(["low", "mid", "top"])[f],
        "times": rng.integers(0, 3, N),
        "weight": rng.integers(0, 4, N) / 2,
        "g": g,
        "h": g % 7,
        "k": g // 7,
    }
    return pl.DataFrame(made).with_columns(
        share=pl.when(pl.col("tries") > 0).then(pl.col("wins") / pl.col("tries")).otherwise(0.0),
        gappy=pl.when(pl.int_range(pl.len()) % 11 == 3).then(None).otherwise(pl.col("x")),
        holes=pl.when(pl.int_range(pl.len()) % 13 == 2).then(float("nan")).otherwise(pl.col("t")),
        key=pl.when(pl.int_range(pl.len()) % 17 == 2).then(None).otherwise(pl.col("g")),
        answer=pl.col("yes").replace_strict({False: "no", True: "yes"}, return_dtype=pl.Enum(["no", "yes"])),
    )


DATA = _data()
POISSON = {"family": "poisson"}
BINOMIAL = {"family": "binomial"}
MODELS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("count ~ x + f + (1 | g)",), POISSON),
    (("count ~ x * f + (x | g)",), POISSON),
    (("count ~ x + (x || g)",), POISSON),
    (("count ~ x1e8 + (x1e8 | g)",), POISSON),
    (("count ~ 0 + f + x + (0 + x | g)",), POISSON),
    (("count ~ x + twice + f + (1 | g)",), POISSON),
    (("count ~ scale(x) + poly(t, 2) + bs(t, df=4) + (1 | g)",), POISSON),
    (("count ~ log(t) + I(x > 0) + (1 | g)",), POISSON),
    (("count ~ gappy + holes + (1 | key)",), POISSON),
    (("count ~ x + offset(log(t)) + (1 | g)",), POISSON | {"offset": "x"}),
    (("count ~ x + (1 | g)",), POISSON | {"frequency": "times"}),
    (("count ~ f + (f | g)",), POISSON | {"frequency": "times"}),
    (("count ~ x + (1 | h:k)",), POISSON),
    (("count ~ x",), POISSON),
    (("count ~ 1 + (1 | g)",), POISSON | {"method": AGQ(7)}),
    (("count ~ x + (x | h)",), POISSON | {"method": AGQ(3)}),
    (("count ~ x + (1 | g)",), {"family": "negative_binomial"}),
    (("count ~ x + (1 | g)", "phi ~ f"), {"family": "negative_binomial"}),
    (("yes ~ x + (1 | g)",), BINOMIAL | {"link": "probit"}),
    (("answer ~ x + (1 | g)",), BINOMIAL),
    (("wins ~ x + (1 | g)",), BINOMIAL | {"trials": "tries"}),
    (("cbind(wins, tries - wins) ~ x + (1 | g)",), BINOMIAL),
    (("share ~ x + (1 | g)",), BINOMIAL | {"trials": "tries"}),
    (("size ~ x + (1 | g)",), {"family": "gamma", "precision": "weight"}),
    (("size ~ x + (1 | g)",), {"family": "gamma", "method": polars_glmm.Laplace(curvature="expected")}),
    (("size ~ x + f + (1 | g)", "phi ~ x + offset(t)"), {"family": "gamma"}),
    (("size ~ x + (1 | g)", "phi ~ f + x"), {"family": "gaussian"}),
    (("size ~ x + (1 |p| g)", "phi ~ x + (1 |p| g)"), {"family": "gamma"}),
    (("size ~ x + f", "phi ~ 1 + (1 | g)"), {"family": "gaussian", "method": AGQ(5)}),
    (("count ~ x + (1 | g)",), POISSON | {"fixed": {"x": 0.3}}),
    (("count ~ x + offset(t) + (1 | g)",), POISSON | {"fixed": {"x": 0.3, "sd(g: Intercept)": 0.5}}),
    (("count ~ x + (1 | g)",), POISSON | {"start": {"Intercept": 1.0, "x": 0.0, "sd(g: Intercept)": 0.2}}),
)  # fmt: skip


@pytest.mark.one_in(6)
@pytest.mark.parametrize(("formulas", "arguments"), MODELS, ids=lambda value: str(value))
def test_models_from_disk(formulas: tuple[str, ...], arguments: dict[str, Any]) -> None:
    assert_same(*both(DATA, *formulas, **arguments))


@pytest.mark.parametrize("block", [7, 50, 10**6])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.slow
def test_block_sizes_and_threads(block: int, threads: int) -> None:
    control = Control(memory=Memory(limit=1), rows=Rows(block=block, threads=threads, compress=False))
    assert_same(*both(DATA, "count ~ x + f + (x | g)", family="poisson", control=control))


G = pl.col("g")
NAMES = [f"level {k * 7919 % 40:02d}" for k in range(40)]
KEYS: dict[str, pl.Expr] = {
    "small": G.cast(pl.UInt8),
    "wide": G.cast(pl.Int64) * 10**15 - 10**16,
    "beyond int64": G.cast(pl.UInt64) + 2**63,
    "text": G.replace_strict(dict(enumerate(NAMES)), return_dtype=pl.String),
    "categorical": G.replace_strict(dict(enumerate(NAMES)), return_dtype=pl.String).cast(pl.Categorical),
    "enum": G.replace_strict(dict(enumerate(NAMES)), return_dtype=pl.Enum([*NAMES[::-1], "unused"])),
    "boolean": G > 19,
    "float": G / 7 - 2,
    "date": pl.lit(date(1969, 12, 20)) + pl.duration(days=G),
    "datetime": pl.lit(datetime(2020, 1, 1)) + pl.duration(seconds=G),  # noqa: DTZ001
    "duration": pl.duration(hours=G - 20),
    "decimal": G.replace_strict({k: Decimal(k) / 4 for k in range(40)}, return_dtype=pl.Decimal(12, 2)),
    "null": pl.when(G % 5 == 0).then(None).otherwise(G),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("dtype", KEYS)
def test_dtypes_of_keys(dtype: str) -> None:
    frame = DATA.with_columns(KEYS[dtype].alias("group"))
    assert_same(*both(frame, "count ~ x + (1 | group)", family="poisson"))


@pytest.mark.parametrize("keys", [("text", "small"), ("enum", "boolean"), ("date", "float")])
def test_composite_keys(keys: tuple[str, str]) -> None:
    second = pl.col("h") if keys[1] == "small" else KEYS[keys[1]]
    frame = DATA.with_columns(KEYS[keys[0]].alias("a"), second.alias("b"))
    assert_same(*both(frame, "count ~ x", groups=[("a", "b")], family="poisson"))


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_objective_is_the_same_at_a_point(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polars_glmm.design.disk.parts._SMALLEST_PART", 1)
    spec = ModelSpec.parse(("count ~ x + f + (x | g)",), family="poisson")
    control = Control(rows=Rows(block=64))
    beta, theta = np.array([0.3, 0.1, -0.2, 0.4]), np.array([0.6, 0.2, 0.3])
    memory = learn(spec, DATA)
    with spilling(None) as spill:
        size = -(-N * 8 * 5 // parts)  # code, y, x and two indicators
        disk = learn_stored(spec, DATA.lazy(), spill, Sizes(N, size, 1 << 30))
        assert len(disk.design.parts.files) == parts
        values = []
        for design in (memory.design, disk.design):
            model = prepare(design, spec.family, spec.method, control)
            lambdas = model.effects.lambdas(theta)
            at = Point(model.x.inward(beta), model.effects.effective(lambdas))
            of_theta = ThetaMap(model.effects, theta)
            values.append(row_engine(model).marginal.evaluate(at, None, information=of_theta))
    here, there = values
    assert there.value == pytest.approx(here.value, rel=1e-13)
    assert_allclose(there.beta, here.beta, rtol=1e-10, atol=1e-10)
    assert_allclose(there.factors[0], here.factors[0], rtol=1e-10, atol=1e-10)
    assert_allclose(there.warm.modes[0], here.warm.modes[0], rtol=1e-9, atol=1e-12)
    for mine, other in zip(there.information, here.information, strict=True):
        assert_allclose(mine, other, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_threads_do_not_change_a_bit() -> None:
    fits = [
        both(DATA, "count ~ x + (x | g)", family="poisson", control=Control(
            memory=Memory(limit=1), rows=Rows(block=20, threads=threads, compress=False)))[1]
        for threads in (1, 2, 5)
    ]  # fmt: skip
    for fit in fits[1:]:
        assert fit.loglik == fits[0].loglik
        assert_array_equal(fit.estimate.report_vcov, fits[0].estimate.report_vcov)


def test_subsample_start_from_disk() -> None:
    rng = np.random.default_rng(2)
    n, groups = 60_000, 3000
    g, x = rng.integers(0, groups, n), rng.normal(size=n)
    y = rng.random(n) < 1 / (1 + np.exp(-0.3 - 0.5 * x - rng.normal(size=groups)[g]))
    assert_same(*both(pl.DataFrame({"y": y, "x": x, "g": g}), "y ~ x + (1 | g)", family="binomial"))


BAD: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("count", "count ~ log(x) + (1 | g)", POISSON),
    ("negative count", "bad ~ x + (1 | g)", POISSON),
    ("fractional frequency", "count ~ x + (1 | g)", POISSON | {"frequency": "x"}),
    ("negative precision", "size ~ x + (1 | g)", {"family": "gamma", "precision": "x"}),
    ("outside support", "count ~ x + (1 | g)", BINOMIAL),
    ("more successes than trials", "tries ~ x + (1 | g)", BINOMIAL | {"trials": "wins"}),
    ("no column", "count ~ nothing + (1 | g)", POISSON),
    ("infinite", "count ~ far + (1 | g)", POISSON),
    ("one level of a factor", "count ~ same + (1 | g)", POISSON),
    ("one group", "count ~ x + (1 | same)", POISSON),
    ("text response", "f ~ x + (1 | g)", POISSON),
    ("all missing", "count ~ gone + (1 | g)", POISSON),
    ("ambiguous share", "truth ~ x + (1 | g)", BINOMIAL | {"trials": "tries"}),
)


@pytest.mark.parametrize(("formula", "arguments"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_errors_are_the_same(formula: str, arguments: dict[str, Any]) -> None:
    frame = DATA.with_columns(
        bad=pl.col("count") - 1,
        far=pl.when(pl.int_range(pl.len()) == 8).then(float("inf")).otherwise(pl.col("x")),
        same=pl.lit("one"),
        gone=pl.lit(None, dtype=pl.Float64),
        truth=pl.col("yes").cast(pl.Float64),
    )
    errors = []
    for data in (frame, frame.lazy()):
        with pytest.raises(GlmmError) as caught:
            polars_glmm.fit(data, formula, control=SPILL, **arguments)
        errors.append(caught.value)
    assert type(errors[1]) is type(errors[0])
    words = set(str(errors[0]).split()) - set(str(errors[1]).split())
    assert len(words) <= len(str(errors[0]).split()) / 3, (str(errors[0]), str(errors[1]))


def test_missing_error_names_a_row() -> None:
    with pytest.raises(GlmmError, match=r"'gappy' \(the first is row 3"):
        polars_glmm.fit(DATA.lazy(), "count ~ gappy + (1 | g)", family="poisson", missing="error", control=SPILL)


def test_the_source_can_be_read_again() -> None:
    fit = both(DATA, "count ~ x + (1 | g)", family="poisson")[1]
    assert isinstance(fit.data(), pl.LazyFrame)
    assert fit.update(". ~ . + f").n_obs == N


def test_several_factors_that_do_not_fit_are_refused_with_numbers() -> None:
    with pytest.raises(ResourceError, match=r"400 rows with 2 grouping factors .* need about .* KiB"):
        polars_glmm.fit(DATA.lazy(), "count ~ x + (1 | g) + (1 | h)", family="poisson", control=SPILL)


def test_a_group_that_does_not_fit_is_refused_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "_LEAST", 1)
    with pytest.raises(ResourceError, match=r"group 'h' has \d+ rows at level \d; .* about .* KiB of memory"):
        polars_glmm.fit(DATA.lazy(), "count ~ x + (1 | h)", family="poisson", control=SPILL)


def test_rows_that_fit_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "learn_stored", None)
    assert polars_glmm.fit(DATA.lazy(), "count ~ x + (1 | g)", family="poisson").n_obs == N
