"""Degrees of freedom, tests of terms and robust covariances beside R, every row within its tolerance.

The entries, each with its call and the versions used, are described in `tests/references/README.md`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm.errors import FitWarning
from tests.references import translate

ENTRIES = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((translate.HERE / "inference").glob("*.json"))
    if path.stem.startswith(("ddf_", "terms_", "robust_"))
}

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings(f"ignore::{FitWarning.__module__}.FitWarning")]


def of_kind(capability: str) -> list[str]:
    return [name for name, entry in ENTRIES.items() if entry["capability"] == capability]


def with_table(table: str) -> list[str]:
    return [name for name, entry in ENTRIES.items() if entry["results"].get(table)]


@cache
def fitted(name: str) -> Any:
    entry = ENTRIES[name]
    frame, model = translate.whole_data(entry["dataset"]), entry["model"]
    if (subset := entry.get("subset")) is not None:
        frame = frame.filter(pl.col(subset["column"]).cast(pl.String).is_in(subset["in"]))
    return polars_glmm.fit(frame, model["formula"], family=model["family"], method=model["method"].lower())


def agree(name: str, table: str, ours: pl.DataFrame) -> None:
    """Every row of a reference table has one of ours, within the tolerance of each column."""
    entry = ENTRIES[name]
    expected = pl.DataFrame(entry["results"][table], infer_schema_length=None)
    both = expected.join(ours, on=entry["keys"][table], how="inner", suffix="_ours")
    assert both.height == expected.height
    for column, allowed in entry["tolerance"][table].items():
        if column not in expected.columns:  # the robust entries state one set of tolerances for all their tables
            continue
        known = both.filter(pl.col(column).is_not_null())
        assert known[f"{column}_ours"].null_count() == 0
        assert_allclose(
            known[f"{column}_ours"], known[column], rtol=allowed.get("rel", 0.0), atol=allowed.get("abs", 0.0),
            err_msg=f"{name}: {table}.{column}",
        )  # fmt: skip


@pytest.mark.parametrize("name", ENTRIES)
def test_the_fit_behind_the_tables_is_ours(name: str) -> None:
    entry, fit = ENTRIES[name]["fit"], fitted(name)
    assert fit.loglik == pytest.approx(entry["loglik"], abs=1e-4)
    std_error = fit.fixef()["std_error"].to_numpy()
    assert_allclose((np.sort(fit.estimate.beta) - np.sort(entry["fixed"])) / std_error.max(), 0, atol=2e-3)


@pytest.mark.parametrize("name", of_kind("ddf"))
@pytest.mark.parametrize("method", ["satterthwaite", "kenward_roger"])
def test_degrees_of_freedom_of_coefficients(name: str, method: Any) -> None:
    agree(name, method, fitted(name).fixef(df=method))


@pytest.mark.parametrize("name", of_kind("ddf"))
def test_the_covariance_of_kenward_and_roger(name: str) -> None:
    agree(name, "vcov_kenward_roger", fitted(name).vcov(vcov="kenward_roger"))


def joint_tests(name: str) -> Iterator[dict[str, Any]]:
    """The rows of L of each hypothesis as a frame, tested together."""
    rows: Mapping[str, Mapping[str, Sequence[Any]]] = ENTRIES[name]["results"]["joint_L"]
    for hypothesis, weights in rows.items():
        frame = pl.DataFrame(weights["rows"], schema=weights["terms"], orient="row").cast(pl.Float64)
        labelled = frame.with_columns(hypothesis=pl.lit(hypothesis))
        for method in ("satterthwaite", "kenward_roger"):
            found = fitted(name).test(labelled, joint=True, df=method)
            yield found.row(0, named=True) | {"hypothesis": hypothesis, "df_method": method}


@pytest.mark.parametrize("name", with_table("joint"))
def test_f_of_several_rows(name: str) -> None:
    agree(name, "joint", pl.DataFrame(list(joint_tests(name))))


def terms(name: str, types: Sequence[int]) -> pl.DataFrame:
    """Tests of terms by both kinds of degrees of freedom, or as χ² where there are none."""
    methods = ("satterthwaite", "kenward_roger") if fitted(name).family == "gaussian" else (None,)
    return pl.concat(fitted(name).test_terms(type=kind, df=df) for kind in types for df in methods)


@pytest.mark.parametrize("name", with_table("terms"))
def test_terms_of_types_one_and_three_and_of_type_two_where_no_numeric_variable_interacts(name: str) -> None:
    """terms_chickweight's type 2 is SAS's there; `type2_gls`, which is ours, is the next test."""
    ours = terms(name, (1, 2, 3))
    if name == "terms_chickweight":
        entry = ENTRIES[name]
        theirs = [row for row in entry["results"]["terms"] if row["type"] != 2]
        agreed = {**entry, "results": {**entry["results"], "terms": theirs}}
        ENTRIES[f"{name}: types 1 and 3"] = agreed
        agree(f"{name}: types 1 and 3", "terms", ours)
        return
    agree(name, "terms", ours)


@pytest.mark.parametrize("name", with_table("type2_gls"))
def test_type_two_by_marginality_in_the_metric_of_the_covariance(name: str) -> None:
    agree(name, "type2_gls", fitted(name).test_terms(type=2, df="kenward_roger"))


def test_where_a_factor_interacts_with_a_number_our_type_two_is_not_that_of_sas() -> None:
    """ChickWeight: SAS's containment rule with covariates tests Diet at Time 0; by name Diet is in Time:Diet."""
    entry = ENTRIES["terms_chickweight"]["results"]
    sas = next(row for row in entry["terms"] if (row["term"], row["type"]) == ("Diet", 2))
    ours = fitted("terms_chickweight").test_terms(type=2).filter(pl.col("term") == "Diet")["statistic"].item()
    at_zero = fitted("terms_chickweight").test_terms(type=3).filter(pl.col("term") == "Diet")["statistic"].item()
    assert sas["statistic"] == pytest.approx(at_zero, rel=1e-3)
    assert ours == pytest.approx(6.193, abs=2e-2)


@pytest.mark.parametrize("name", of_kind("robust"))
@pytest.mark.parametrize("kind", ["CR0", "CR1", "CR1S", "CR3"])
def test_robust_covariances_of_clubsandwich(name: str, kind: Any) -> None:
    """clubSandwich 0.5.8: vcovCR(m, cluster, type), coef_test(test = "Satterthwaite")."""
    agree(name, f"vcov_{kind.lower()}", fitted(name).vcov(vcov=kind))
    own = [row for row in ENTRIES[name]["results"]["coef"] if row["type"] == kind]
    ENTRIES[f"{name}: {kind}"] = {**ENTRIES[name], "results": {"coef": own}}
    agree(f"{name}: {kind}", "coef", fitted(name).fixef(vcov=kind).with_columns(type=pl.lit(kind)))


@pytest.mark.parametrize("name", of_kind("robust"))
def test_cr2_by_the_root_of_group_sums(name: str) -> None:
    agree(name, "vcov_root", fitted(name).vcov(vcov="CR2"))
    ours = pl.concat(
        fitted(name).fixef(vcov=kind).with_columns(type=pl.lit(label))  # type: ignore[arg-type]
        for kind, label in (("CR0", "CR0"), ("CR2", "ROOT"), ("CR3", "CR3"))
    )
    agree(name, "df_group_sums", ours)


def test_cr2_of_clubsandwich_takes_another_root_and_differs_by_less_than_half_a_per_cent() -> None:
    entry = ENTRIES["robust_chickweight"]["results"]["coef"]
    theirs = pl.DataFrame([row for row in entry if row["type"] == "CR2"])
    ratio = fitted("robust_chickweight").fixef(vcov="CR2")["std_error"] / theirs["std_error"]
    assert 0.002 < float((ratio - 1).abs().max()) < 0.005
