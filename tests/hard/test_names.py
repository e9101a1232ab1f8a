"""Mistyped names: an error of this package that says where, and which name is near. A far-off name suggests nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

import polars_glmm
from polars_glmm import Fit, GlmmError, datasets
from tests.hard.attempt import attempt


@pytest.fixture(scope="module")
def ticks() -> pl.DataFrame:
    return datasets.load("grouseticks")


@pytest.fixture(scope="module")
def fit(ticks: pl.DataFrame) -> Fit:
    return attempt(ticks, "TICKS ~ YEAR + (1 | LOCATION)", family="poisson")


ASKED: list[tuple[str, str, tuple[str, ...], dict[str, Any]]] = [
    ("TICK", "TICKS", ("TICK ~ YEAR",), {}),
    ("YAER", "YEAR", ("TICKS ~ YAER",), {}),
    ("HIEGHT", "HEIGHT", ("TICKS ~ YEAR + log(HIEGHT)",), {}),
    ("HIEGHT", "HEIGHT", ("TICKS ~ YEAR:HIEGHT",), {}),
    ("HIEGHT", "HEIGHT", ("TICKS ~ YEAR + offset(HIEGHT)",), {}),
    ("HIEGHT", "HEIGHT", ("TICKS ~ YEAR + (HIEGHT | BROOD)",), {}),
    ("LOCATON", "LOCATION", ("TICKS ~ YEAR + (1 | LOCATON)",), {}),
    ("BROD", "BROOD", ("TICKS ~ YEAR + (1 | LOCATION / BROD)",), {}),
    ("LOCATON", "LOCATION", ("TICKS ~ YEAR",), {"groups": "LOCATON"}),
    ("LOCATON", "LOCATION", ("TICKS ~ YEAR",), {"groups": ["BROOD", "LOCATON"]}),
    ("LOCATON", "LOCATION", ("TICKS ~ YEAR",), {"groups": ("LOCATON", "BROOD")}),
    ("HIEGHT", "HEIGHT", ("TICKS ~ YEAR",), {"groups": {"LOCATION": "1 + HIEGHT"}}),
    ("HIEGHT", "HEIGHT", ("TICKS ~ YEAR",), {"offset": "HIEGHT"}),
    ("HIEGHT", "HEIGHT", ("TICKS ~ YEAR",), {"frequency": "HIEGHT"}),
    ("LOCATON", "LOCATION", ("TICKS ~ YEAR",), {"by": "LOCATON"}),
    ("possion", "poisson", ("TICKS ~ YEAR",), {"family": "possion"}),
    ("neg_binomial", "negative_binomial", ("TICKS ~ YEAR",), {"family": "neg_binomial"}),
    ("lgo", "log", ("TICKS ~ YEAR",), {"link": "lgo"}),
    ("lapalce", "laplace", ("TICKS ~ YEAR",), {"method": "lapalce"}),
    ("lgo", "log", ("TICKS ~ lgo(HEIGHT)",), {}),
    ("ploy", "poly", ("TICKS ~ ploy(HEIGHT, 2)",), {}),
    ("dag", "diag", ("TICKS ~ YEAR + dag(1 + cHEIGHT | LOCATION)",), {}),
    ("contr.smu", "contr.sum", ("TICKS ~ C(YEAR, contr.smu)",), {}),
    ("degre", "degree", ("TICKS ~ poly(HEIGHT, degre=2)",), {}),
    ("ph", "phi", ("TICKS ~ YEAR", "ph ~ YEAR"), {"family": "negative_binomial"}),
]


@pytest.mark.parametrize(
    ("wrong", "right", "formulas", "arguments"), ASKED, ids=[f"{a[0]}-{k}" for k, a in enumerate(ASKED)]
)
@pytest.mark.parametrize("lazy", [False, True])
def test_a_near_name_is_suggested(
    ticks: pl.DataFrame, wrong: str, right: str, formulas: tuple[str, ...], arguments: dict[str, Any], *, lazy: bool
) -> None:
    frame = ticks.lazy() if lazy else ticks
    with pytest.raises(GlmmError) as caught:
        polars_glmm.fit(frame, *formulas, **{"family": "poisson"} | arguments)
    message = str(caught.value)
    assert wrong in message
    assert re.search(rf"(?<![\w.]){re.escape(right)}(?![\w.])", message)
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, GlmmError)


OF_A_FIT: list[tuple[str, str, Callable[[Fit, pl.DataFrame], object]]] = [
    ("LOCATON", "LOCATION", lambda fit, ticks: fit.ranef("LOCATON")),
    ("LOCATON", "LOCATION", lambda fit, ticks: fit.coef("LOCATON")),
    ("LOCATON", "LOCATION", lambda fit, ticks: fit.predict(ticks, random=["LOCATON"])),
    ("respnse", "response", lambda fit, ticks: fit.predict(ticks, kind="respnse")),
    ("eror", "error", lambda fit, ticks: fit.predict(ticks, new_levels="eror")),
    ("confidnce", "confidence", lambda fit, ticks: fit.predict(ticks, interval="confidnce")),
    ("YEAR", "YEAR", lambda fit, ticks: fit.predict(ticks.drop("YEAR"))),
    ("YEAR", "YAER", lambda fit, ticks: fit.predict(ticks.rename({"YEAR": "YAER"}))),
    ("LOCATION", "LOCATON", lambda fit, ticks: fit.predict(ticks.rename({"LOCATION": "LOCATON"}))),
    ("TICKS", "TICK", lambda fit, ticks: fit.augment(ticks.rename({"TICKS": "TICK"}))),
    ("groustick", "grouseticks", lambda fit, ticks: datasets.load("groustick")),
    ("familly", "family", lambda fit, ticks: polars_glmm.fit(ticks, "TICKS ~ YEAR", familly="poisson")),  # type: ignore[call-overload]
    ("offsett", "offset", lambda fit, ticks: ticks.glmm.fit("TICKS ~ YEAR", offsett="HEIGHT")),  # type: ignore[attr-defined]
    (
        "YEAR[T.69]",
        "YEAR[T.96]",
        lambda fit, ticks: polars_glmm.objective(ticks, "TICKS ~ YEAR", family="poisson").loglik(
            {"Intercept": 0.0, "YEAR[T.69]": 0.0, "YEAR[T.97]": 0.0}
        ),
    ),
    (
        "YEAR[T.69]",
        "YEAR[T.96]",
        lambda fit, ticks: polars_glmm.fit(ticks, "TICKS ~ YEAR", family="poisson", fixed={"YEAR[T.69]": 0.0}),
    ),
    (
        "YEAR[T.69]",
        "YEAR[T.96]",
        lambda fit, ticks: polars_glmm.fit(ticks, "TICKS ~ YEAR", family="poisson", start={"YEAR[T.69]": 0.0}),
    ),
    ("YAER", "YEAR", lambda fit, ticks: fit.update(". ~ . - YEAR + YAER")),
]


@pytest.mark.parametrize(("wrong", "right", "ask"), OF_A_FIT, ids=[f"{a[0]}-{k}" for k, a in enumerate(OF_A_FIT)])
def test_a_near_name_is_suggested_later_too(
    fit: Fit, ticks: pl.DataFrame, wrong: str, right: str, ask: Callable[[Fit, pl.DataFrame], object]
) -> None:
    with pytest.raises((GlmmError, TypeError)) as caught:
        ask(fit, ticks)
    message = str(caught.value)
    assert wrong in message
    assert right in message


def test_a_far_name_suggests_nothing(ticks: pl.DataFrame) -> None:
    """Twin: nothing is near, and nothing is invented."""
    with pytest.raises(GlmmError) as caught:
        polars_glmm.fit(ticks, "TICKS ~ zebra", family="poisson")
    assert "zebra" in str(caught.value)
    assert "Did you mean" not in str(caught.value)


def test_a_wrong_name_is_found_before_any_data_are_read() -> None:
    """The schema of a LazyFrame suffices: its rows would take for ever."""

    def endless(_: pl.DataFrame) -> pl.DataFrame:
        pytest.fail("the data were read")

    lazy = pl.LazyFrame({"y": [1.0, 2.0], "g": ["a", "b"]}).map_batches(
        endless, schema={"y": pl.Float64, "g": pl.String}
    )
    for formula, arguments in [
        ("y ~ xx + (1 | g)", {}),
        ("y ~ 1 + (1 | gg)", {}),
        ("y ~ 1 + (1 | g)", {"family": "possion"}),
        ("y ~ 1 + (1 | g)", {"family": "poisson", "link": "lgo"}),
        ("y ~ 1 + (1 | g)", {"method": "lapalce"}),
        ("y ~ 1 + (1 | g", {}),
        ("y ~ 1 + (1 | g)", {"family": "poisson", "method": "reml"}),
    ]:
        with pytest.raises(GlmmError):
            polars_glmm.fit(lazy, formula, **arguments)
