"""The links that a family states as concave are those in whose eta its log density bends down everywhere."""

from __future__ import annotations

import numpy as np

from polars_glmm.families import Rows
from tests.families.conftest import predictors

RESPONSES = {
    "gaussian": [-3.0, 0.0, 0.4, 5.0],
    "binomial": [0.0, 1.0, 3.0, 7.0],
    "poisson": [0.0, 1.0, 4.0, 60.0],
    "negative_binomial": [0.0, 1.0, 4.0, 60.0],
    "gamma": [1e-3, 0.2, 1.0, 40.0],
    "inverse_gaussian": [1e-3, 0.2, 1.0, 40.0],
    "negative_binomial1": [0.0, 1.0, 4.0, 60.0],
    "generalized_poisson": [0.0, 1.0, 4.0, 60.0],
    "beta": [1e-6, 0.2, 0.5, 0.99],
    "beta_binomial": [0.0, 1.0, 3.0, 7.0],
    "lognormal": [1e-3, 0.2, 1.0, 40.0],
    "truncated_poisson": [1.0, 2.0, 4.0, 60.0],
    "truncated_negative_binomial": [1.0, 2.0, 4.0, 60.0],
    "truncated_negative_binomial1": [1.0, 2.0, 4.0, 60.0],
    "student_t": [-3.0, 0.0, 0.4, 5.0],
    "tweedie": [0.0, 0.2, 1.0, 40.0],
    "exponential": [1e-3, 0.2, 1.0, 40.0],
    "weibull": [1e-3, 0.2, 1.0, 40.0],
    "loglogistic": [1e-3, 0.2, 1.0, 40.0],
}
TRIALS, ZETAS = 7.0, (-2.0, 0.0, 1.5)


def curvatures(family):
    """w at every response × eta × zeta, eta inside the link's domain."""
    eta = np.unique([s * e for e in (*np.geomspace(1e-3, 20.0, 60), *np.linspace(0.0, 1.0, 21)) for s in (-1.0, 1.0)])
    outside = family.link.outside(eta, family.mean_range)
    eta = eta if outside is None else eta[~outside]
    y = np.repeat(RESPONSES[family.name], eta.size)
    rows = Rows(y, np.full_like(y, TRIALS) if family.takes_trials else None)
    at = np.tile(eta, len(RESPONSES[family.name]))
    return np.array([family.density(rows, predictors(at, z if family.has_phi else None), 2).w[0, 0] for z in ZETAS])


def test_concave_links_are_links(family):
    assert family.concave_links <= set(family.links)


def test_a_log_density_is_concave_where_its_family_says_so_and_nowhere_else(family):
    assert bool((curvatures(family) >= 0.0).all()) == family.log_concave
