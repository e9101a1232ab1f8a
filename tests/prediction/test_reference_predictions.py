"""Reference numbers for intervals of old and new groups, and for averages over the population."""

from __future__ import annotations

from functools import cache
from typing import Any

import polars as pl
import pytest

from tests.references import uses

PREDICT, INTEGRATION = uses.entries("predict"), uses.entries("integration")
pytestmark = pytest.mark.reference


@cache
def fitted(name: str) -> Any:
    return uses.fit((PREDICT | INTEGRATION)[name])


ASKED = {
    "mean": {"random": "none"},
    "group": {"new_levels": "zero"},
    "obs": {"new_levels": "zero", "interval": "prediction"},
}
"""What the reference calls the unit at zero, a new group, and a new response of a new group."""


@pytest.mark.parametrize("name", PREDICT)
@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_intervals_of_known_and_new_groups(name: str, kind: str, lazy: bool) -> None:
    entry, fit = PREDICT[name], fitted(name)
    new = pl.DataFrame(entry["data"]["new"])
    asked = {"interval": "confidence", "df": "normal", "std_error": True} | ASKED[kind]
    found = fit.predict(new.lazy() if lazy else new, **asked).lazy().collect()
    for got, want in zip(found.iter_rows(named=True), entry["results"]["predict"], strict=True):
        if kind == "mean" and want["known"]:
            continue  # the mean of a known group is that of "group"
        for end in ("low", "high"):
            expected = want[f"{kind}_{end}"]
            assert got[f"prediction_{end}"] == uses.close(entry, "predict", f"{kind}_{end}", expected)
        if kind != "obs":
            assert got["prediction"] == uses.close(entry, "predict", "prediction", want["prediction"])
            assert got["prediction_std_error"] == uses.close(entry, "predict", f"se_{kind}", want[f"se_{kind}"])


@pytest.mark.parametrize("name", INTEGRATION)
def test_averages_over_the_population(name: str) -> None:
    entry, fit = INTEGRATION[name], fitted(name)
    at = pl.DataFrame(entry["data"]["at"])
    zero = fit.predict(at, random="none", std_error=True)
    whole = fit.predict(at, random="integrate", std_error=True)
    for i, want in enumerate(entry["results"]["population"]):
        for frame, column in ((zero, "unit_zero"), (whole, "population")):
            assert frame["prediction"][i] == uses.close(entry, "population", column, want[column])
            error = frame["prediction_std_error"][i]
            assert error == uses.close(entry, "population", f"{column}_se", want[f"{column}_se"])
