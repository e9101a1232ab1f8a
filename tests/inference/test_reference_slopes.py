"""Average comparisons and slopes against averages over the rows by own code in R (version and call in each entry)."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from tests.references import uses

ENTRIES = uses.entries("slopes")
ROWS = [(name, i) for name, entry in ENTRIES.items() for i in range(len(entry["results"]["slopes"]))]
pytestmark = pytest.mark.reference


@cache
def fitted(name: str) -> Any:
    return uses.fit(ENTRIES[name])


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("name", "i"), ROWS)
def test_averages_over_the_rows(name: str, i: int) -> None:
    entry, fit = ENTRIES[name], fitted(name)
    want = entry["results"]["slopes"][i]
    verb = fit.slopes if want["kind"] == "slope" else fit.comparisons
    found = verb(variables=[want["variable"]], random=want["random"])
    row = next(row for row in found.iter_rows(named=True) if row["contrast"] == want["contrast"])
    for column in ("estimate", "std_error"):
        assert row[column] == uses.close(entry, "slopes", column, want[column])
    assert row["n"] == fit.n_obs
