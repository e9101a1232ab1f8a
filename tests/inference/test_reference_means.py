"""Marginal means, their pairs and adjusted tests against emmeans: engine, version and call stand in each entry."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest

from tests.references import uses

ENTRIES = uses.entries("marginal_means")
DF = {"satterthwaite": "satterthwaite", "kenward_roger": "kenward_roger", "asymptotic": "normal", "response": "normal"}
pytestmark = pytest.mark.reference


@cache
def fitted(name: str) -> Any:
    return uses.fit(ENTRIES[name])


def asked(entry: Any) -> tuple[str, str | None]:
    """The factor of the means and the one they are taken within, from emmeans's call."""
    found = re.search(r"c\('(\w+)'\)(?:, by='(\w+)')?", entry["call"])
    assert found is not None
    return found[1], found[2]


def offset(fit: Any) -> Any:
    """emmeans holds an offset at its mean."""
    return None if fit.recipe.predictor("mu").offset is None else "mean"


def same_row(entry: Any, table: str, got: Any, want: Any) -> None:
    for column in entry["tolerance"][table]:
        if column in want and not (column == "df" and want["df"] is None):
            assert got[column] == uses.close(entry, table, column, want[column]), (table, column)
        elif column == "df" and column in want:
            assert got["df"] is None


TABLES = [(name, table) for name, entry in ENTRIES.items() for table in entry["results"]]


@pytest.mark.parametrize(("name", "table"), [one for one in TABLES if one[1].startswith("means")])
def test_means(name: str, table: str) -> None:
    entry, fit = ENTRIES[name], fitted(name)
    variable, by = asked(entry)
    kind = table.removeprefix("means_")
    scale = "response" if kind == "response" else "link"
    found = fit.marginal_means(variable, by=by, df=DF[kind], scale=scale, offset=offset(fit))
    wanted = entry["results"][table]
    assert found.height == len(wanted)
    rows = {(str(row[variable]), str(row[by]) if by else None): row for row in found.iter_rows(named=True)}
    for want in wanted:
        same_row(entry, table, rows[str(want[variable]), str(want[by]) if by else None], want)


@pytest.mark.parametrize(("name", "table"), [one for one in TABLES if one[1].startswith("pairs")])
def test_pairs_with_every_adjustment(name: str, table: str) -> None:
    entry, fit = ENTRIES[name], fitted(name)
    variable, by = asked(entry)
    kind = table.removeprefix("pairs_")
    wanted = entry["results"][table]
    for adjust in sorted({want["adjust"] for want in wanted}):
        found = fit.marginal_means(
            variable, by=by, df=DF[kind], scale="link", contrast="pairwise", adjust=adjust, offset=offset(fit)
        )
        rows = {(row["contrast"], str(row[by]) if by else None): row for row in found.iter_rows(named=True)}
        for want in wanted:
            if want["adjust"] == adjust:
                contrast = want["contrast"].replace(variable, "")
                same_row(entry, table, rows[contrast, str(want[by]) if by else None], want)
