"""Correlated residuals by sums: the likelihood and its derivatives are those of whitened rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm.likelihood.residual import fit as fitting
from tests.likelihood.test_residual import FRAME, TERMS, natural_point, quietly

EFFECTS = ["", " + (1 | id)", " + (x || region)", " + (x | region) + (1 | id)"]


def both_ways(monkeypatch: pytest.MonkeyPatch, ask: Any) -> list[Any]:
    """What is said by rows, and by sums."""
    said = []
    for way in (False, True):
        monkeypatch.setattr(fitting, "few", lambda rows, way=way: way)
        said.append(ask())
    return said


@pytest.mark.one_in(3)
@pytest.mark.parametrize("weights", [None, "w"])
@pytest.mark.parametrize("method", ["ml", "reml"])
@pytest.mark.parametrize("effects", EFFECTS)
@pytest.mark.parametrize("name", TERMS)
def test_likelihood_and_gradient_by_sums_are_those_by_rows(
    monkeypatch: pytest.MonkeyPatch, name: str, effects: str, method: str, weights: str | None
) -> None:
    rows, sums = both_ways(
        monkeypatch,
        lambda: polars_glmm.objective(
            FRAME, f"y ~ x{effects}", residual=TERMS[name], method=method, precision=weights
        ),
    )  # fmt: skip
    others = {name: 0.3 if name.startswith("cor") else 0.7 for name in rows.names if "region" in name}
    known = [name for name in rows.names if name not in others]
    at = natural_point(tuple(known)) | others
    at = {name: at[name] for name in rows.names}
    assert sums.loglik(at) == pytest.approx(rows.loglik(at), abs=1e-10)
    x = np.array(list(at.values()))
    assert np.allclose(sums.gradient(x), rows.gradient(x), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize(("name", "effects"), [("ar1", EFFECTS[1]), ("cs", EFFECTS[2]), ("ar1", EFFECTS[3])])
def test_fits_by_sums_are_those_by_rows(monkeypatch: pytest.MonkeyPatch, name: str, effects: str) -> None:
    rows, sums = both_ways(monkeypatch, lambda: quietly(f"y ~ x{effects}", residual=TERMS[name]))
    assert sums.loglik == pytest.approx(rows.loglik, abs=1e-9)
    numbers = ["estimate", "std_error", "df", "p_value"]
    one, other = (fit.fixef().select(numbers).to_numpy() for fit in (rows, sums))
    assert np.allclose(one, other, rtol=1e-5)


def test_sums_take_the_place_of_rows_where_they_are_fewer() -> None:
    long = pl.DataFrame({"id": np.repeat(np.arange(6), 40), "t": np.tile(np.arange(40), 6)})
    rng = np.random.default_rng(1)
    long = long.with_columns(y=pl.Series(rng.normal(size=240)), when=pl.col("t") + pl.Series(rng.uniform(0, 0.4, 240)))

    def kind(residual: str, *phi: str) -> str:
        made = polars_glmm.objective(long, "y ~ 1 + (1 | id)", *phi, residual=residual)
        return type(made._engine.inners).__name__

    assert [kind("ar1(t | id)"), kind("cs(1 | id)")] == ["SeriesSums"] * 2
    assert [kind("car1(when | id)"), kind("ar1(t | id)", "phi ~ t")] == ["SeriesRows"] * 2
