"""Ibis, Dask and Spark: fits from sums and counts, products, each key, and plans of predictions, as rows in Polars."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
import pytest

import polars_glmm


def made() -> pl.DataFrame:
    rng, n = np.random.default_rng(3), 2000
    g, f, x = rng.integers(0, 25, n), rng.choice(["a", "it's", "c"], n), rng.normal(size=n) + 10
    frame = pl.DataFrame({"i": np.arange(n), "g": [f"g{k}" for k in g], "f": f, "x": x, "k": rng.integers(0, 3, n)})
    y = 1 + x + (f == "a") + rng.normal(size=25)[g] + rng.normal(size=n)
    return frame.with_columns(
        x=pl.when(pl.col("i") % 400 == 7).then(float("nan")).otherwise("x"),
        y=pl.when(pl.col("i") % 400 == 9).then(None).otherwise(pl.Series(y)),
        c=pl.Series(rng.poisson(2.0, n)),
        day=pl.date(2024, 2, 1) + pl.duration(days=pl.col("k")),
        cut=pl.Series([f"c{k}" for k in rng.integers(0, 9, n)], dtype=pl.Enum([f"c{k}" for k in range(9)])),
    )


def spark(path: str) -> Any:
    sql = importlib.import_module("pyspark.sql")
    build = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    build = build.config("spark.sql.shuffle.partitions", "4").config("spark.ui.showConsoleProgress", "false")
    return build.getOrCreate().read.parquet(path)


OPENED: dict[str, Callable[[str], Any]] = {
    "ibis": lambda path: importlib.import_module("ibis").duckdb.connect().read_parquet(path),
    "dask": lambda path: importlib.import_module("dask.dataframe").read_parquet(path).repartition(npartitions=3),
    "spark": spark,
}
ASKED = os.environ.get("POLARS_GLMM_ENGINES", "").split()


@pytest.fixture(scope="module", params=ASKED)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp(request.param) / "rows.parquet"
    made().write_parquet(path)
    return OPENED[request.param](str(path))


@pytest.mark.parametrize("formula", ["y ~ scale(x) + f + (x | g)", "y ~ x + (1 | g) + (1 | k)"])
def test_a_gaussian_model_is_fitted_from_sums(engine: Any, formula: str) -> None:
    want, got = polars_glmm.fit(made(), formula), polars_glmm.fit(engine, formula)
    assert got.loglik == pytest.approx(want.loglik, abs=1e-8)
    assert (got.n_obs, got.n_dropped, got.groups) == (want.n_obs, want.n_dropped, want.groups)
    assert polars_glmm.products(engine, formula).fit().loglik == pytest.approx(want.loglik, abs=1e-8)


def test_counts_and_rows_are_those_of_polars(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polars_glmm.frames.counted._FEWEST_ROWS", 100)
    for formula in ("c ~ f + (1 | k)", "c ~ x + (1 | g)"):
        want = polars_glmm.fit(made(), formula, family="poisson")
        assert polars_glmm.fit(engine, formula, family="poisson").loglik == pytest.approx(want.loglik, abs=1e-8)
    want = polars_glmm.fit(made(), "y ~ x + (1 | g)", by="k").glance()["loglik"]
    got = polars_glmm.fit(engine, "y ~ x + (1 | g)", by="k").glance()["loglik"]
    np.testing.assert_allclose(got, want, atol=1e-8)


@pytest.mark.parametrize("group", ["g", "day", "cut"])
def test_predictions_and_residuals_are_plans(engine: Any, group: str) -> None:
    fit, frame = polars_glmm.fit(made(), f"y ~ poly(x, 2) + f + (1 | {group})"), made()
    for verb, arguments in (("predict", {"new_levels": "zero"}), ("augment", {}), ("with_ranef", {})):
        answer = getattr(fit, verb)(engine, **arguments)
        assert type(answer) is type(engine)
        got = nw.from_native(answer).collect("polars").to_native().sort("i")
        want = getattr(fit, verb)(frame, **arguments)
        for name in want.columns[frame.width :]:
            one = got[name].fill_nan(None)
            assert one.is_null().to_list() == want[name].is_null().to_list()
            np.testing.assert_allclose(one.drop_nulls(), want[name].drop_nulls(), rtol=1e-7, atol=1e-9)
