"""A response far from zero is no response without dispersion: y + c has the fit of y, moved by c."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm.errors import IdentifiabilityError

MODELS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("y ~ x",), {"family": "student_t"}),
    (("y ~ x + (1 | g)",), {"family": "student_t"}),
    (("y ~ x", "phi ~ x"), {}),
    (("y ~ x + (1 | g)", "phi ~ x"), {}),
]


def rows() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    g = np.arange(200) % 20
    return pl.DataFrame({"y": rng.standard_t(4, 200) + rng.normal(size=20)[g], "x": rng.normal(size=200), "g": g})


@pytest.mark.parametrize("c", [1e6, 1e7])
@pytest.mark.parametrize(("formulas", "arguments"), MODELS)
def test_a_shift_of_the_response_moves_the_intercept_and_nothing_else(
    formulas: tuple[str, ...], arguments: dict[str, Any], c: float
) -> None:
    data = rows()
    fit = polars_glmm.fit(data, *formulas, **arguments)
    moved = polars_glmm.fit(data.with_columns(pl.col("y") + c), *formulas, **arguments)
    assert moved.loglik == pytest.approx(fit.loglik, rel=1e-9)
    assert moved.estimate.beta[1] == pytest.approx(fit.estimate.beta[1], abs=1e-6)
    assert moved.estimate.beta[0] - c == pytest.approx(fit.estimate.beta[0], abs=1e-6)
    errors = [one.fixef()["std_error"].to_list() for one in (moved, fit)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)


@pytest.mark.parametrize(("formulas", "arguments"), MODELS)
def test_far_from_zero_too_a_response_without_dispersion_is_refused(
    formulas: tuple[str, ...], arguments: dict[str, Any]
) -> None:
    data = rows().with_columns(y=1e6 + 2.0 * pl.col("x") + (pl.col("g") if "g" in formulas[0] else 0.0))
    with pytest.raises(IdentifiabilityError, match="reproduce"):
        polars_glmm.fit(data, *formulas, **arguments)
