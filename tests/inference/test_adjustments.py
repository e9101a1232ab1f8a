"""Several tests as one family: definitions on small cases, exact distributions, and orders that always hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import f as f_distribution
from scipy.stats import multivariate_t, norm, studentized_range, t

from polars_glmm.errors import ModelError
from polars_glmm.inference import adjust as adjusting
from polars_glmm.inference.all_pairs import means_of_pairs
from polars_glmm.inference.distributions import one_sided_p, two_sided_p


def family(statistics: Any, df: float, correlation: Any, *, one_sided: bool = False) -> adjusting.Tests:
    statistic, freedom = np.array(statistics, dtype=float), np.full(len(statistics), df)
    p = one_sided_p(statistic, freedom) if one_sided else two_sided_p(statistic, freedom)
    return adjusting.Tests(statistic, freedom, p, np.asarray(correlation, dtype=float), one_sided)


def from_p(p: Any) -> adjusting.Tests:
    """Independent normal tests with these p-values."""
    return family(norm.isf(np.array(p) / 2), np.inf, np.eye(len(p)))


def pairs(k: int) -> Any:
    return np.array([np.eye(k)[i] - np.eye(k)[j] for i in range(k) for j in range(i)])


def correlation_of(rows: Any, variance: Any) -> Any:
    matrix = rows @ variance @ rows.T
    sd = np.sqrt(np.diag(matrix))
    return matrix / np.outer(sd, sd)


P = [0.01, 0.04, 0.03, 0.005]


@pytest.mark.parametrize(
    ("method", "expected"),
    [  # by hand from the definitions: Holm (1979), Hochberg (1988), Benjamini & Hochberg (1995), & Yekutieli (2001)
        ("bonferroni", [0.04, 0.16, 0.12, 0.02]),
        ("holm", [0.03, 0.06, 0.06, 0.02]),
        ("hochberg", [0.03, 0.04, 0.04, 0.02]),
        ("bh", [0.02, 0.04, 0.04, 0.02]),
        ("by", [0.02 * 25 / 12, 0.04 * 25 / 12, 0.04 * 25 / 12, 0.02 * 25 / 12]),
        ("sidak", [1 - 0.99**4, 1 - 0.96**4, 1 - 0.97**4, 1 - 0.995**4]),
        ("none", P),
    ],
)
def test_p_values_by_their_definitions(method: Any, expected: list[float]) -> None:
    assert_allclose(adjusting.adjust(method, from_p(P)).p_value, expected, rtol=1e-10)


def test_the_largest_of_independent_tests_is_sidak() -> None:
    tests = from_p(P)
    assert_allclose(adjusting.adjust("mvt", tests).p_value, adjusting.adjust("sidak", tests).p_value, atol=2e-4)
    assert_allclose(adjusting.adjust("mvt", tests).width, adjusting.adjust("sidak", tests).width, atol=2e-3)


@pytest.mark.parametrize("df", [12.5, np.inf])
def test_all_pairs_of_equal_variances_are_the_studentized_range(df: float) -> None:
    tests = family([2.5, 1.2, -0.7, 2.0, 2.2, -3.0], df, correlation_of(pairs(4), np.eye(4)))
    tukey, mvt = adjusting.adjust("tukey", tests, means=4), adjusting.adjust("mvt", tests)
    assert_allclose(mvt.p_value, tukey.p_value, atol=2e-4)
    assert_allclose(mvt.width, tukey.width, atol=2e-3)
    assert_allclose(tukey.width, studentized_range.isf(0.05, 4, df) / np.sqrt(2))


@pytest.mark.parametrize("one_sided", [False, True])
def test_the_largest_of_correlated_tests_agrees_with_scipy(one_sided: bool) -> None:
    correlation = np.array([[1, 0.5, 0.3], [0.5, 1, -0.2], [0.3, -0.2, 1]])
    tests = family([2.1, 1.4, -0.6], 9, correlation, one_sided=one_sided)
    ours = adjusting.adjust("mvt", tests).p_value
    for place, bound in enumerate(tests.statistic if one_sided else np.abs(tests.statistic)):
        low = np.full(3, -np.inf if one_sided else -bound)
        inside = multivariate_t.cdf(np.full(3, bound), shape=correlation, df=9, lower_limit=low, random_state=1)
        assert ours[place] == pytest.approx(1 - inside, abs=5e-4)


def test_dunnett_is_the_distribution_of_comparisons_with_one_control() -> None:
    """Dunnett (1964), table II: two-sided, 5 %, 3 treatments beside the control, 10 df: 2.76; 20 df: 2.54."""
    rows = np.eye(4)[1:] - np.eye(4)[0]
    for df, table in ((10, 2.76), (20, 2.54)):
        found = adjusting.adjust("dunnett", family([table, 1.0, 0.2], df, correlation_of(rows, np.eye(4))))
        assert_allclose(found.width, table, atol=0.006)
        assert found.p_value[0] == pytest.approx(0.05, abs=1e-3)
    with pytest.raises(ModelError, match="mvt"):
        adjusting.adjust("dunnett", family([1, 2, 3, 1, 2, 3], 10, correlation_of(pairs(4), np.eye(4))))


def test_scheffe_is_the_f_of_all_that_the_tests_span() -> None:
    tests = family([2.5, 1.2, -0.7], 20, correlation_of(pairs(3), np.eye(3)))
    found = adjusting.adjust("scheffe", tests)
    assert_allclose(found.p_value, f_distribution.sf(tests.statistic**2 / 2, 2, 20), rtol=1e-10)
    assert_allclose(found.width, np.sqrt(2 * f_distribution.isf(0.05, 2, 20)), rtol=1e-10)


@pytest.mark.parametrize("method", [one for one in adjusting.METHODS if one != "dunnett"])
def test_an_adjusted_p_value_is_never_smaller_and_the_order_stays(method: Any) -> None:
    tests = family([0.3, 2.5, -1.2, 3.4, 1.9, -2.2], 15, correlation_of(pairs(4), np.diag([1.0, 2.0, 0.5, 1.3])))
    found = adjusting.adjust(method, tests, means=4)
    assert (found.p_value >= tests.p_value - 1e-12).all()
    assert (found.p_value <= 1).all()
    order = np.argsort(tests.p_value)
    assert (np.diff(found.p_value[order]) >= -1e-9).all()
    assert (found.width >= t.isf(0.025, 15) - 1e-9).all()


def test_the_method_with_the_exact_distribution_is_the_sharpest() -> None:
    tests = family([0.3, 2.5, -1.2], 15, correlation_of(pairs(3), np.diag([1.0, 2.0, 0.5])))
    mvt = adjusting.adjust("mvt", tests).width
    for other in ("sidak", "bonferroni", "scheffe"):
        assert (mvt <= adjusting.adjust(other, tests).width + 1e-3).all()  # type: ignore[arg-type]


def test_tests_that_are_none_do_not_count() -> None:
    tests = from_p([0.01, 0.04])
    with_none = adjusting.Tests(
        np.array([tests.statistic[0], np.nan, tests.statistic[1]]), np.full(3, np.inf),
        np.array([0.01, np.nan, 0.04]), np.array([[1, np.nan, 0], [np.nan] * 3, [0, np.nan, 1]]),
    )  # fmt: skip
    for method in ("bonferroni", "holm", "mvt", "scheffe"):
        found = adjusting.adjust(method, with_none).p_value  # type: ignore[arg-type]
        assert np.isnan(found[1])
        assert_allclose(found[[0, 2]], adjusting.adjust(method, tests).p_value)  # type: ignore[arg-type]


def test_intervals_that_a_method_does_not_have_are_said_to_be_others() -> None:
    assert "intervals_bonferroni" in adjusting.adjust("holm", from_p(P)).note
    assert "intervals_unadjusted" in adjusting.adjust("bh", from_p(P)).note
    assert not adjusting.adjust("sidak", from_p(P)).note


def test_one_test_is_no_family() -> None:
    alone = family([2.0], 10, np.eye(1))
    for method in adjusting.METHODS:
        assert adjusting.adjust(method, alone, means=2).p_value == alone.p_value


def test_what_is_not_known_or_does_not_suit_is_refused() -> None:
    with pytest.raises(ModelError, match="Did you mean 'bonferroni'"):
        adjusting.adjust("bonferoni", from_p(P))
    with pytest.raises(ModelError, match="sidak"):
        adjusting.adjust("tukey", from_p(P))
    with pytest.raises(ModelError, match="two-sided"):
        adjusting.adjust("scheffe", family([1, 2], 5, np.eye(2), one_sided=True))


def test_all_pairs_are_recognised_whatever_their_signs_order_and_coordinates() -> None:
    rng = np.random.default_rng(1)
    for k in (2, 3, 5, 8):
        points = rng.normal(size=(k, 9))
        rows = pairs(k) @ points * rng.choice([-1, 1], size=(k * (k - 1) // 2, 1))
        assert means_of_pairs(rng.permutation(rows)) == k
    treatment = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])
    assert means_of_pairs(treatment) == 3
    assert means_of_pairs(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])) == 3  # b − a, a − c, b − c
    assert means_of_pairs(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 2.0]])) is None
    assert means_of_pairs(np.eye(3)) is None
    assert means_of_pairs(np.eye(4)) is None
