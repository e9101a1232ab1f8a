"""The distribution of the studentized range: against t, against SciPy's quadrature, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import stdtr
from scipy.stats import studentized_range

from polars_glmm.inference.studentized_range import studentized_range_quantile, studentized_range_tail


@pytest.mark.parametrize("df", [1.0, 2.5, 30.0, 5000.0])
def test_two_means_are_a_t_test(df: float) -> None:
    t = np.array([0.2, 1.0, 2.5, 6.0])
    found = studentized_range_tail(np.sqrt(2.0) * t, 2, np.full(4, df))
    assert found == pytest.approx(2.0 * stdtr(df, -t), abs=1e-12)


@pytest.mark.parametrize(("k", "df"), [(3, 4.0), (10, 12.5), (50, 800.0), (6, np.inf)])
def test_more_means_agree_with_quadrature(k: int, df: float) -> None:
    """scipy.stats.studentized_range.sf, adaptive in both dimensions."""
    for q in (2.0, 4.5):
        assert studentized_range_tail(np.array([q]), k, np.array([df]))[0] == pytest.approx(
            float(studentized_range.sf(q, k, df)), abs=1e-10
        )


def test_quantiles_are_where_the_tail_is_and_interpolated_where_there_are_many() -> None:
    df = np.array([1.0, 3.0, 20.0, 1e4, np.inf])
    q = studentized_range_quantile(0.95, 5, df)
    assert studentized_range_tail(q, 5, df) == pytest.approx(np.full(5, 0.05), abs=1e-10)
    for low, high in ((3.0, 60.0), (900.0, 1000.0)):
        many = np.linspace(low, high, 40)
        q = studentized_range_quantile(0.95, 12, many)
        assert studentized_range_tail(q, 12, many) == pytest.approx(np.full(40, 0.05), rel=1e-6)


def test_the_edges_are_certain() -> None:
    q = np.array([0.0, np.inf, np.nan, 200.0])
    found = studentized_range_tail(q, 4, np.full(4, 9.0))
    assert found[[0, 1, 3]] == pytest.approx([1.0, 0.0, 0.0], abs=1e-12)
    assert np.isnan(found[2])
