"""Coverage of intervals on five stated designs: nominal within Monte Carlo error, but where the docs say otherwise."""

from __future__ import annotations

import pytest

from tests.inference.coverage import LEVEL, STUDIES, Covered, as_markdown, coverage

pytestmark = pytest.mark.slow

SHORT = {
    ("few groups", "Wald, normal"),
    ("unbalanced", "Wald, normal"),
    ("crossed", "Wald, normal"),
}
"""Intervals that docs/explanation/coverage.md says are too short: normal ones with few groups."""


@pytest.mark.parametrize("name", STUDIES)
def test_intervals_cover_as_often_as_they_say(name: str) -> None:
    found = list(coverage(STUDIES[name], 300, 7, bootstraps=30))
    for one in found:
        assert one.n > 0, one
        if (one.design, one.method) in SHORT:
            assert one.share < LEVEL + 4 * one.std_error
            continue
        assert one.share > LEVEL - 4 * one.std_error - 0.03, one  # intervals of variances and means are asymptotic


def test_a_table_says_how_many_replicates_it_stands_on() -> None:
    line = as_markdown([Covered("few groups", "w", "CR2", 190, 200)]).splitlines()[-1]
    assert line == "| few groups | w | CR2 | 95.0 % | 200 | 1.5 |"
