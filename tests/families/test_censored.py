"""Laws of responses that are not all seen: tails and intervals of every family that takes them."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.families import Exponential, Gamma, Gaussian, Gompertz, LogLogistic, Lognormal, Rows, Weibull
from polars_glmm.families.base import BETWEEN, LEFT, RIGHT, SEEN, Censoring
from polars_glmm.families.censored import censored
from polars_glmm.families.location_scale import LocationScale
from polars_glmm.typing import Vec
from tests.families.conftest import named, predictors

BASES = [
    Gaussian(), Gaussian("log"), Lognormal(), Exponential(), Exponential(metric="ph"), Weibull(), Weibull(metric="ph"),
    LogLogistic(), Gompertz(), Gamma(),
]  # fmt: skip
every_base = pytest.mark.parametrize("base", BASES, ids=repr)
PLACES = [(0,), (1,), (0, 0), (0, 1), (1, 1), (0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1)]
ALL = (3, 3)


def rows_of(base: LocationScale, n: int = 1, *, entry: bool = False) -> Rows:
    """One row for each status, n times over."""
    low = np.tile([0.4, 0.7, 1.3, 2.0], n)
    status = np.tile([RIGHT, SEEN, LEFT, BETWEEN], n)
    late = np.tile([0.1, 0.3, 0.0, 0.2], n) if entry else None
    return Rows(low, censoring=Censoring(status, np.where(status == BETWEEN, low + 0.6, low), late))


def second_of(base: LocationScale, zeta: float) -> float | None:
    """The parameter beside the mean at its predictor."""
    return float(base.parameters[1].link.inverse(np.asarray(zeta))) if base.n_parameters > 1 else None


def at_of(base: LocationScale, eta: Vec, zeta: float) -> tuple[Vec | float, ...]:
    return predictors(eta, zeta if base.n_parameters > 1 else None)


def test_every_family_that_says_so_takes_censored_rows(family):
    assert family.censorable == any(type(base) is type(family) for base in BASES)


@every_base
def test_each_row_has_the_probability_of_what_is_known_of_it(base):
    rows, eta, zeta = rows_of(base), np.array([0.3, 0.5, 0.2, 0.6]), 0.4
    phi = second_of(base, zeta)
    f = censored(base).density(rows, at_of(base, eta, zeta), 0).f
    mu = base.mean(eta)
    above, below = base.cdf(rows, mu, phi, upper=True), base.cdf(rows, mu, phi)
    upper = base.cdf(rows._replace(y=rows.censoring.upper), mu, phi, upper=True)
    seen = base.density(Rows(rows.y), at_of(base, eta, zeta), 0).f
    assert_allclose(f, [np.log(above[0]), seen[1], np.log(below[2]), np.log(above[3] - upper[3])], rtol=1e-12)
    constant = censored(base).constant(rows)
    assert_allclose(constant, np.where(rows.censoring.status == SEEN, base.constant(Rows(rows.y)), 0.0))


@every_base
def test_above_and_below_a_value_are_all_there_is(base):
    y, eta = np.geomspace(0.05, 8.0, 40), np.full(40, 0.4)
    total = 0.0
    for status in (RIGHT, LEFT):
        rows = Rows(y, censoring=Censoring(np.full(40, status)))
        total = total + np.exp(censored(base).density(rows, at_of(base, eta, 0.3), 0).f)
    assert_allclose(total, 1.0, rtol=1e-12)


def difference(at: Callable[[Vec], Vec], x: Vec, h: float) -> Vec:
    return (8.0 * (at(x + h) - at(x - h)) - (at(x + 2.0 * h) - at(x - 2.0 * h))) / (12.0 * h)


@pytest.mark.one_in(3)
@every_base
@pytest.mark.parametrize("entry", [False, True])
def test_each_derivative_is_the_difference_of_the_one_below(base, entry):
    family, rows = censored(base, entry), rows_of(base, 5, entry=entry)
    eta = np.repeat([0.1, 0.4, 0.9, 1.6, 2.4], 4)

    def at(eta: Vec, zeta: Vec | float) -> dict[tuple[int, ...], Vec]:
        return named(family.density(rows, at_of(base, eta, zeta), 3, ALL))

    zeta, found = np.full_like(eta, 0.3), at(eta, 0.3)
    for place in PLACES if base.n_parameters > 1 else [(0,), (0, 0), (0, 0, 0)]:
        below, sign = place[:-1], -1.0 if len(place) == 2 else 1.0
        if place[-1]:
            expected = difference(lambda z, b=below: at(eta, z)[b], zeta, 1e-3)
        else:
            expected = difference(lambda e, b=below: at(e, 0.3)[b], eta, 1e-3)
        size = 1.0 + np.abs(found[below])
        assert np.all(np.abs(found[place] - sign * expected) <= 2e-8 * np.abs(expected) + 1e-9 * size), place


@every_base
@pytest.mark.parametrize("magnitude", [1.0, 20.0, 300.0])
def test_everything_is_finite_far_out(base, magnitude):
    signs = np.array([1.0] if base.link.name == "log" and base.name == "gaussian" else [-1.0, 1.0])
    rows, eta = rows_of(base, len(signs)), np.repeat(signs * magnitude, 4)
    for place, part in named(censored(base).density(rows, at_of(base, eta, 0.4), 3, ALL)).items():
        if base.name != "gaussian" or base.link.name == "identity":
            assert np.isfinite(part).all(), place


@every_base
def test_an_interval_that_closes_is_the_value_itself(base):
    """log P(y < Y ≤ y + d) − log d → log f(y)."""
    y, eta, d = np.array([0.5, 1.0, 2.5]), np.array([0.2, 0.4, 0.1]), 1e-7
    rows = Rows(y, censoring=Censoring(np.full(3, BETWEEN), y + d))
    at = at_of(base, eta, 0.3)
    f = censored(base).density(rows, at, 1)
    whole = base.density(Rows(y), at, 1)
    assert_allclose(f.f - np.log(d), whole.f + base.constant(Rows(y)), atol=1e-6)
    assert_allclose(f.g[0], whole.g[0], atol=1e-5)


@every_base
def test_of_a_late_entry_the_density_is_that_of_what_is_left(base):
    rows, eta, zeta = rows_of(base, entry=True), np.array([0.3, 0.5, 0.2, 0.6]), 0.4
    at, phi = at_of(base, eta, zeta), second_of(base, zeta)
    with_entry = censored(base, entry=True).density(rows, at, 0).f
    plain = rows._replace(censoring=rows.censoring._replace(entry=None))
    left = base.cdf(Rows(rows.censoring.entry), base.mean(eta), phi, upper=True)
    late = rows.censoring.entry > 0.0
    expected = censored(base).density(plain, at, 0).f - np.where(late, np.log(left), 0.0)
    assert_allclose(with_entry, expected, rtol=1e-12)


@every_base
def test_a_log_likelihood_said_to_be_concave_bends_down_everywhere(base):
    for entry in (False, True):
        family = censored(base, entry)
        if not family.log_concave:
            continue
        eta = np.repeat(np.linspace(-8.0, 8.0, 81), 4)
        rows = rows_of(base, 81, entry=entry)
        for zeta in (-1.5, 0.0, 1.0):
            w = family.density(rows, at_of(base, eta, zeta), 2).w[0, 0]
            assert (w >= -1e-12).all()


def test_proportional_hazards_and_accelerated_time_are_one_model():
    """eta_ph = −a·eta_aft."""
    y, eta, zeta = np.array([0.5, 1.0, 2.5, 4.0]), np.array([0.2, 0.4, 0.1, -0.3]), 0.37
    rows = rows_of(Weibull())
    for a, b in ((Weibull(), Weibull(metric="ph")), (Exponential(), Exponential(metric="ph"))):
        shape = np.exp(zeta) if a.has_phi else 1.0
        for one in (Rows(y), rows):
            aft = censored(a).density(one, at_of(a, eta, zeta), 1)
            ph = censored(b).density(one, at_of(b, -shape * eta, zeta), 1)
            assert_allclose(aft.f, ph.f, rtol=1e-13)
            assert_allclose(aft.g[0], -shape * ph.g[0], rtol=1e-12)


def test_a_weibull_of_shape_one_is_exponential():
    rows, eta = rows_of(Weibull()), np.array([0.3, 0.5, 0.2, 0.6])
    for metric in ("aft", "ph"):
        one = censored(Weibull(metric=metric)).density(rows, (eta, 0.0), 3)
        other = censored(Exponential(metric=metric)).density(rows, (eta,), 3)
        for place, part in named(other).items():
            assert_allclose(named(one)[place], part, rtol=1e-12)


def test_an_exponential_time_is_a_poisson_count_of_one_row():
    """log f = δ·log λ − λt: Poisson with mean λt, but for δ log t."""
    from polars_glmm.families import Poisson  # noqa: PLC0415

    y, eta = np.array([0.5, 1.0, 2.5, 4.0]), np.array([0.2, 0.4, 0.1, -0.3])
    events = np.array([1.0, 0.0, 1.0, 0.0])
    rows = Rows(y, censoring=Censoring(events))
    ours = censored(Exponential(metric="ph"))
    times = ours.density(rows, (eta,), 3)
    counts = Poisson().density(Rows(events), (eta + np.log(y),), 3)
    assert_allclose(times.f + ours.constant(rows), counts.f - events * np.log(y), rtol=1e-12)
    for place, part in named(counts).items():
        if place:
            assert_allclose(named(times)[place], part, rtol=1e-12, atol=1e-14)


@every_base
def test_draws_are_spread_as_the_distribution_says(base):
    phi = 1.4 if base.n_parameters > 1 else None
    mu = np.full(20_000, 1.7)
    y = base.simulate(np.random.default_rng(5), mu, phi, Rows(mu))
    share = base.cdf(Rows(np.sort(y)), mu, phi)
    expected = (np.arange(20_000) + 0.5) / 20_000
    assert np.abs(share - expected).max() < 1.63 / np.sqrt(20_000) * 1.2  # Kolmogorov's 1 % point


@every_base
def test_a_censored_family_is_a_plain_value(base):
    for entry in (False, True):
        family = censored(base, entry)
        again = pickle.loads(pickle.dumps(family))  # noqa: S301 our own bytes
        assert again == family != base
        assert hash(again) == hash(family)
        assert repr(again) == repr(base)
        assert again.plain == base
    assert censored(base) != censored(base, entry=True)
