"""A family, a link, a covariance structure, a table and a source, each made in a few lines, carried by every route.

What an objective is asked by later rooms, and passes over rows: tests/likelihood/test_seams.py.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from polars.io.plugins import register_io_source
from scipy import stats

import polars_glmm
from polars_glmm import Control, Memory, Rows
from polars_glmm.covariance import structures
from polars_glmm.covariance.roots import Bent, Uncorrelated
from polars_glmm.covariance.scaled import Scaled
from polars_glmm.families import jet
from polars_glmm.families.base import Expected
from polars_glmm.families.links import Link
from polars_glmm.families.mean_family import MeanFamily
from polars_glmm.inference.schemas import per_model

MOST_LINES = 25
MANY = 12
PLAIN = Rows(compress=False)
ROUTES = {
    "eager": lambda frame, *what, **how: polars_glmm.fit(frame, *what, control=Control(rows=PLAIN), **how),
    "counted": lambda frame, *what, **how: polars_glmm.fit(frame, *what, **how),
    "lazy": lambda frame, *what, **how: polars_glmm.fit(frame.lazy(), *what, control=Control(rows=PLAIN), **how),
    "disk": lambda frame, *what, **how: polars_glmm.fit(
        frame.lazy(), *what, control=Control(memory=Memory(limit=1), rows=PLAIN), **how
    ),
    "by": lambda frame, *what, **how: polars_glmm.fit(frame.with_columns(m=pl.lit("a")), *what, by="m", **how)["a"],
}


def draw(seed: int = 3) -> pl.DataFrame:
    """Geometric counts of 40 levels, with a covariate of few values and a factor of two."""
    rng = np.random.default_rng(seed)
    g, x, f = np.repeat(np.arange(40), 20), rng.integers(0, 3, 800), rng.integers(0, 2, 800)
    mu = np.exp(0.8 + 0.3 * x + rng.normal(0.0, 0.6, 40)[g] + rng.normal(0.0, 0.4, (40, 2))[g, f])
    y = rng.geometric(1.0 / (1.0 + mu)) - 1
    return pl.DataFrame({"g": g, "x": x, "f": np.array(["a", "b"])[f], "y": y, "z": np.log1p(y)})


DATA = draw()


@dataclass(frozen=True, init=False, repr=False)
class Geometric(MeanFamily):
    """Failures before the first success: log p = y log(mu/(1 + mu)) − log(1 + mu)."""

    name = "geometric"
    discrete = True
    links = ("log",)
    canonical_link = None
    concave_links = frozenset({"log"})
    mean_range = "positive"

    def log_density(self, rows, mu, further):
        return rows.y * mu.log - (rows.y + 1.0) * jet.log1p(mu.value)

    def constant(self, rows):
        return np.zeros_like(rows.y)

    def information(self, rows, eta, zeta):
        share = 1.0 / (1.0 + np.exp(-eta))
        return Expected.of(share, share * (1.0 - share))

    def cdf(self, rows, mu, phi, *, upper=False):
        return (stats.geom.sf if upper else stats.geom.cdf)(np.floor(rows.y) + 1, 1.0 / (1.0 + mu))

    def variance(self, mu, phi):
        return mu + mu**2

    def draw(self, rng, mu, phi, rows):
        return rng.geometric(1.0 / (1.0 + mu)) - 1.0

    def outside_support(self, rows):
        return ~(rows.y >= 0.0) | (rows.y != np.floor(rows.y))

    def first_mean(self, rows):
        return rows.y + 0.5


class Half(Link):
    """eta = 2 log mu."""

    def __init__(self):
        super().__init__("half", 2.0)

    def inverse(self, eta):
        return np.exp(0.5 * eta)

    def forward(self, mu):
        return 2.0 * np.log(mu)

    def value(self, eta, order):
        return tuple(0.5**k * np.exp(0.5 * eta) for k in range(order + 1))

    def log(self, eta, order):
        zero = np.zeros_like(eta)
        return (0.5 * eta, zero + 0.5, zero, zero)[: order + 1]

    def log_complement(self, eta, order):
        raise NotImplementedError  # of probabilities


class Halves(Uncorrelated):
    """Correlations of a half, and nothing to estimate of them."""

    def at(self, angles, r):
        return Bent(np.linalg.cholesky(0.5 * np.eye(r) + 0.5), np.empty((0, r, r)))


def signal_to_noise(estimate, models=()):
    """z of every coefficient, of one model or of many."""
    error = np.sqrt(np.einsum("...pp->...p", estimate.vcov_fixed))
    z = np.moveaxis(estimate.beta / error, -1, 0)
    return per_model({"place": pl.Int64, "z": pl.Float64}, [{"place": k, "z": v} for k, v in enumerate(z)], models)


def from_python(frame):
    """A lazy frame whose rows a Python function hands over, part by part."""

    def parts(with_columns, predicate, n_rows, batch_size):
        for part in frame.iter_slices(97):
            kept = part if predicate is None else part.filter(predicate)
            yield kept if with_columns is None else kept.select(with_columns)

    return register_io_source(parts, schema=frame.schema)


@pytest.mark.parametrize("made", [Half, Halves, signal_to_noise, from_python], ids=lambda made: made.__name__)
def test_it_takes_few_lines(made):
    assert len([line for line in inspect.getsource(made).splitlines() if line.strip()]) < MOST_LINES


def test_a_family_takes_its_facts_and_a_line_or_two_for_each_function():
    for name, member in vars(Geometric).items():
        if inspect.isfunction(member) and not name.startswith("__"):
            assert len(inspect.getsource(member).splitlines()) <= 3


@pytest.mark.parametrize("route", ROUTES)
def test_a_family_is_carried_by_every_route(route):
    """A geometric distribution is the negative binomial of phi = 1."""
    formula = "y ~ x + (1 | g)"
    fit = ROUTES[route](DATA, formula, family=Geometric())
    known = polars_glmm.fit(DATA, formula, family="negative_binomial", fixed={"phi": 1.0})
    assert_allclose(fit.loglik, known.loglik, rtol=1e-9)
    assert_allclose(fit.fixef()["estimate"], known.fixef().filter(pl.col("parameter") == "mu")["estimate"], rtol=1e-6)


@pytest.mark.parametrize("route", ROUTES)
def test_a_link_is_carried_by_every_route(route):
    """With eta = 2 log mu everything on the scale of eta is twice as large, and the likelihood is the same."""
    formula = "y ~ x + (1 | g)"
    fit = ROUTES[route](DATA, formula, family=_linked(Half()))
    known = polars_glmm.fit(DATA, formula, family=Geometric())
    assert_allclose(fit.loglik, known.loglik, rtol=1e-9)
    for of in ("estimate", "std_error"):
        assert_allclose(fit.fixef()[of], 2.0 * known.fixef()[of], rtol=1e-5)
    assert_allclose(fit.varcorr()["std_dev"], 2.0 * known.varcorr()["std_dev"], rtol=1e-5)


def _linked(link):
    family = Geometric()
    object.__setattr__(family, "link", link)
    return family


@pytest.fixture
def halves(monkeypatch):
    """The structure under its name, as `structures` lists its own."""
    named = {**structures._NAMED, "halves": Scaled("halves", "correlations of a half", Halves(), equal=True)}
    monkeypatch.setattr(structures, "_NAMED", named)
    structures._read.cache_clear()
    yield
    structures._read.cache_clear()


@pytest.mark.usefixtures("halves")
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("family", ["poisson", "gaussian"])
def test_a_structure_is_carried_by_every_route(route, family):
    """Effects of one variance correlated by a half are two sums of one variance each: a level's and a cell's."""
    response = "y" if family == "poisson" else "z"
    how = {} if family == "poisson" else {"method": "ml"}
    fit = ROUTES[route](DATA, f"{response} ~ x + halves(0 + f | g)", family=family, **how)
    assert fit.glance()["df_model"].item() == 3 + (family == "gaussian")
    sd = fit.varcorr().filter(pl.col("group") == "g", pl.col("other_term").is_null())["std_dev"]
    assert_allclose(sd, sd[0])
    other = polars_glmm.fit(
        DATA, f"{response} ~ x + (1 | g) + (1 | g:f)", family=family, **how,
        start={"sd(g: Intercept)": sd[0] * 0.5**0.5, "sd(g:f: Intercept)": sd[0] * 0.5**0.5},
    )  # fmt: skip
    if family == "gaussian":
        kept = polars_glmm.products(DATA, f"{response} ~ x + halves(0 + f | g)").fit(**how)
        assert_allclose(kept.loglik, fit.loglik, rtol=1e-10)
    both = other.varcorr().filter(pl.col("group") != "Residual")["estimate"]
    assert fit.loglik <= other.loglik + 1e-8  # a special case of it
    at = DATA.glmm.objective(f"{response} ~ x + (1 | g) + (1 | g:f)", family=family, **how)
    values = np.array([_value(name, fit, sd[0]) for name in at.names])
    assert_allclose(at.loglik(values), fit.loglik, rtol=1e-9)
    assert_allclose(both.sum(), sd[0] ** 2, rtol=0.3)


def _value(name, fit, sd):
    """A parameter of the model of two sums, at the optimum of the other."""
    if name.startswith("sd("):
        return sd * 0.5**0.5
    if name == "phi":
        return fit.dispersion()["estimate"].item()
    return fit.fixef().filter(pl.col("term") == name)["estimate"].item()


def test_a_table_is_of_one_model_or_of_many():
    frame = pl.concat([draw(seed).with_columns(m=pl.lit(seed)) for seed in range(MANY)])
    fits = polars_glmm.fit(frame, "y ~ x + (1 | g)", family="poisson", by="m")
    (batch,) = fits.outcomes.batches
    found = signal_to_noise(batch.estimate, (len(batch),))
    assert found["place"].to_list() == [0, 1] * MANY
    assert_allclose(found["z"], fits.fixef()["statistic"], rtol=1e-12)
    assert_allclose(signal_to_noise(fits[1].estimate)["z"], found["z"][2:4], rtol=1e-12)


@pytest.mark.parametrize("family", ["poisson", "gaussian"])
@pytest.mark.parametrize("control", [Control(), Control(rows=PLAIN), Control(memory=Memory(limit=1), rows=PLAIN)])
def test_a_source_is_carried_to_sums_cells_rows_and_disk(family, control):
    formula = "y ~ x + (1 | g)"
    wanted = polars_glmm.fit(DATA, formula, family=family)
    fit = polars_glmm.fit(from_python(DATA), formula, family=family, control=control)
    assert_allclose(fit.loglik, wanted.loglik, rtol=1e-10)
    many = polars_glmm.fit(from_python(DATA.with_columns(m=pl.lit(1))), formula, family=family, by="m")
    assert_allclose(many[1].loglik, wanted.loglik, rtol=1e-10)
    if family == "gaussian":
        products = polars_glmm.products(from_python(DATA), formula)
        assert_allclose(products.fit().loglik, wanted.loglik, rtol=1e-10)
