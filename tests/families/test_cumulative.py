"""Laws of the cumulative family: derivatives, probabilities that sum to one, thresholds, draws, far from the middle."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.errors import ModelError
from polars_glmm.families import Binomial, Rows
from polars_glmm.families.cumulative import Cumulative
from polars_glmm.likelihood.marginal.starts import first_thresholds
from polars_glmm.likelihood.parameters.basis import plain
from polars_glmm.likelihood.parameters.thresholds import thresholds

LINKS = ("logit", "probit", "cloglog", "loglog", "cauchit")
each_link = pytest.mark.parametrize("link", LINKS)
ALPHA = np.array([-1.2, 0.1, 0.4, 2.0])
ETA = np.array([-3.0, -0.4, 0.0, 0.3, 1.7])
Y = np.array([0.0, 1.0, 2.0, 3.0, 4.0])


def thresholds_of(y, alpha=ALPHA):
    ends = np.concatenate([[-np.inf], alpha, [np.inf]])
    at = np.asarray(y).astype(int)
    return np.stack([ends[at + 1], ends[at]])


def grid():
    eta, y = np.meshgrid(ETA, Y)
    return eta.ravel(), y.ravel()


@each_link
@pytest.mark.parametrize("scaled", [False, True])
def test_derivatives_are_differences(link, scaled):
    family, (eta, y) = Cumulative(link), grid()
    delta = (np.linspace(-0.5, 0.8, len(eta)),) if scaled else ()
    at = (eta, thresholds_of(y), *delta)
    rows, h = Rows(y), 1e-5
    found = family.density(rows, at, 3)

    def moved(k, step, end=None):
        new = list(at)
        if k == 1:
            new[1] = at[1].copy()
            new[1][end] += step
        else:
            new[k] = at[k] + step
        return family.density(rows, tuple(new), 2)

    def slopes(k, end=None):
        up, down = moved(k, h, end), moved(k, -h, end)
        return (
            (up.f - down.f) / (2 * h),
            {key: (up.w[key] - down.w[key]) / (2 * h) for key in up.w},
            [(a - b) / (2 * h) for a, b in zip(up.g, down.g, strict=True)],
        )

    for k in range(len(at)):
        ends = (0, 1) if k == 1 else (None,)
        for end in ends:
            f, w, g = slopes(k, end)
            pick = lambda v, end=end: v if end is None else v[end]
            assert_allclose(pick(found.g[k]), f, rtol=1e-6, atol=1e-7)
            assert_allclose(pick(found.w[0, k]), -g[0], rtol=1e-6, atol=1e-7)
            assert_allclose(pick(found.third[0, 0, k]), w[0, 0], rtol=1e-5, atol=1e-6)


@each_link
def test_probabilities_of_categories_sum_to_one_and_are_the_density(link):
    family, eta = Cumulative(link), np.linspace(-4.0, 4.0, 9)
    p = family.probabilities(eta, ALPHA[:, None])
    assert p.shape == (5, 9)
    assert_allclose(p.sum(0), 1.0, rtol=1e-13)
    for k in range(5):
        own = family.density(Rows(np.full(9, float(k))), (eta, thresholds_of(np.full(9, k))), 0).f
        assert_allclose(np.exp(own), p[k], rtol=1e-12)
    assert_allclose(p[:3].sum(0), family.link.inverse(ALPHA[2] - eta), rtol=1e-12)


@pytest.mark.parametrize("link", ["logit", "probit", "cauchit"])
def test_two_categories_are_a_binomial(link):
    eta = np.linspace(-30.0, 30.0, 13)
    binomial = Binomial(link)
    for y in (0.0, 1.0):
        rows = Rows(np.full(13, y))
        ours = Cumulative(link).density(rows, (eta, thresholds_of(rows.y, np.array([0.7]))), 3)
        theirs = binomial.density(rows, (eta - 0.7,), 3)
        assert_allclose(ours.f, theirs.f, rtol=1e-12, atol=1e-15)
        for key in ((0, 0), (0, 0, 0)):
            a, b = (getattr(one, "w" if len(key) == 2 else "third")[key] for one in (ours, theirs))
            assert_allclose(a, b, rtol=1e-9, atol=3e-13)


@each_link
def test_all_is_finite_far_out(link):
    eta = np.repeat([-300.0, 300.0], 5)
    y = np.tile(Y, 2)
    for delta in ((), (np.zeros(10),)):
        found = Cumulative(link).density(Rows(y), (eta, thresholds_of(y), *delta), 3)
        assert np.isfinite(found.f).all()
        assert all(np.isfinite(part).all() for part in (*found.g, *found.w.values(), *found.third.values()))
        if link != "cauchit":
            assert (found.w[0, 0] >= -1e-9).all()


@each_link
def test_nodes_stand_before_the_rows(link):
    eta, y = grid()
    many = np.stack([eta, eta + 0.4, eta - 2.0])
    found = Cumulative(link).density(Rows(y), (many, thresholds_of(y)), 3)
    for q in range(3):
        one = Cumulative(link).density(Rows(y), (many[q], thresholds_of(y)), 3)
        assert_allclose(found.f[q], one.f)
        assert_allclose(found.g[1][:, q], one.g[1])
        assert_allclose(found.third[0, 0, 1][:, q], one.third[0, 0, 1], atol=1e-300)


@each_link
def test_thresholds_out_of_order_have_no_probability(link):
    found = Cumulative(link).density(Rows(np.ones(1)), (np.zeros(1), np.array([[0.2], [0.3]])), 3)
    assert found.f[0] == -np.inf
    assert all(np.isfinite(part).all() for part in (*found.g, *found.w.values(), *found.third.values()))


@each_link
def test_starting_thresholds_reproduce_the_shares(link):
    counts = np.array([5.0, 20.0, 30.0, 2.0])
    family = Cumulative(link)
    tau = first_thresholds(thresholds(plain(np.ones((1, 3))), np.eye(3)), family.link, counts)
    p = family.probabilities(np.zeros(1), tau[:, None])
    assert_allclose(p[:, 0], counts / counts.sum(), rtol=1e-12)


@pytest.mark.parametrize(
    ("spacing", "n", "expected", "names"),
    [
        ("flexible", 3, [[1, 0], [0, 1]], ("a|b", "b|c")),
        ("equidistant", 4, [[1, 0], [1, 1], [1, 2]], ("a|b", "spacing")),
        ("equidistant", 2, [[1]], ("a|b",)),
        ("symmetric", 4, [[1, -1], [1, 0], [1, 1]], ("central", "spacing.1")),
        ("symmetric", 5, [[1, 0, -1], [1, 0, 0], [0, 1, 0], [0, 1, 1]], ("central.1", "central.2", "spacing.1")),
        (
            "symmetric", 6, [[1, 0, -1], [1, -1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 1]],
            ("central", "spacing.1", "spacing.2"),
        ),
        ("symmetric", 3, [[1, 0], [0, 1]], ("a|b", "b|c")),
    ],
)  # fmt: skip
def test_thresholds_are_linear_in_what_is_estimated(spacing, n, expected, names):
    family = Cumulative(thresholds=spacing)
    assert family.jacobian(n).tolist() == expected
    assert family.threshold_names("abcdef"[:n]) == names


@each_link
def test_draws_have_the_probabilities(link):
    rng, family = np.random.default_rng(3), Cumulative(link)
    n = 40_000
    drawn = family.simulate_categories(rng, (np.full(n, 0.6), ALPHA[:, None], 0.4))
    shares = np.bincount(drawn.astype(int), minlength=5) / n
    assert_allclose(shares, family.probabilities(np.array([0.6]), ALPHA[:, None], 0.4)[:, 0], atol=0.012)
    assert np.isnan(family.simulate_categories(rng, (np.array([np.nan]), ALPHA[:, None]))).all()


def test_what_is_no_cumulative_family_is_refused():
    with pytest.raises(ModelError, match=r"thresholds='equal'.*'flexible', 'equidistant' and 'symmetric'"):
        Cumulative(thresholds="equal")
    with pytest.raises(ModelError, match="no link 'log'"):
        Cumulative("log")
    with pytest.raises(ModelError, match="no number"):
        Cumulative().variance(np.zeros(1), None)
    assert repr(Cumulative("probit", thresholds="symmetric")) == "Cumulative(link='probit', thresholds='symmetric')"
