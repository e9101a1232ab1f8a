"""Laws of links: each view is the function it is named for, to the last digits of both tails."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.families.links import LINKS, Link

RANGES = {"logit": "unit", "probit": "unit", "cloglog": "unit", "loglog": "unit", "cauchit": "unit"}
DOMAINS = {
    "identity": [0.02, 0.5, 0.98], "log": [-20.0, -1.0, -0.01], "inverse": [1.01, 3.0, 50.0],
    "sqrt": [0.1, 0.5, 0.9], "inverse_squared": [1.01, 3.0, 50.0], "logit": [-20.0, -1.0, 0.0, 5.0, 20.0],
    "probit": [-20.0, -5.0, 0.0, 1.0, 7.0], "cloglog": [-20.0, -1.0, 0.0, 1.0, 3.0],
    "loglog": [-3.0, -1.0, 0.0, 1.0, 20.0],
    "cauchit": [-300.0, -20.0, 0.0, 1.0, 20.0],
}  # fmt: skip
"""Where each mean is between 0 and 1."""
NO_COMPLEMENT = {"inverse", "sqrt", "inverse_squared"}

link_and_eta = pytest.mark.parametrize(("link", "eta"), [(LINKS[n], np.array(e)) for n, e in DOMAINS.items()], ids=str)


@link_and_eta
def test_views_agree_with_the_mean(link: Link, eta):
    mu = link.inverse(eta)
    assert_allclose(link.value(eta, 0)[0], mu, rtol=1e-14)
    assert_allclose(link.log(eta, 0)[0], np.log(mu), rtol=1e-12, atol=3e-16)
    assert_allclose(link.reciprocal(eta, 0)[0] * mu, 1.0, rtol=1e-13)
    if link.name not in NO_COMPLEMENT:
        assert_allclose(np.exp(link.log_complement(eta, 0)[0]), 1.0 - mu, rtol=1e-9, atol=2e-16)


def views(name: str) -> list[str]:
    """What families ask of a link: the complement of a probability, the reciprocal of what is none."""
    complement = ["log_complement"] if name not in NO_COMPLEMENT else []
    return ["value", "log", *complement, *(["reciprocal"] if name not in RANGES else [])]


@pytest.mark.parametrize(
    ("link", "eta", "view"),
    [
        pytest.param(LINKS[name], np.array(eta), view, id=f"{name}-{view}")
        for name, eta in DOMAINS.items()
        for view in views(name)
    ],
)
def test_derivatives_of_views_are_differences(link: Link, eta, view):
    derivatives = getattr(link, view)(eta, 3)
    assert len(derivatives) == 4
    h = 2e-3 * np.minimum(1.0, np.minimum(np.abs(eta), 1.0 if link.name != "identity" else 1.0 - eta))
    h = np.where(eta == 0.0, 2e-3, h)
    for k in range(3):
        below = [getattr(link, view)(eta + m * h, 3)[k] for m in (-2, -1, 1, 2)]
        slope = (8.0 * (below[2] - below[1]) - (below[3] - below[0])) / (12.0 * h)
        noise = 2e-14 * np.abs(derivatives[k]) / h + 1e-12
        assert np.all(np.abs(slope - derivatives[k + 1]) <= 1e-8 * np.abs(slope) + noise)


@pytest.mark.parametrize("link", LINKS.values(), ids=lambda link: link.name)
def test_forward_undoes_inverse(link: Link):
    mu = np.array([1e-9, 0.1, 0.5, 0.9, 1.0 - 1e-9])
    assert_allclose(link.inverse(link.forward(mu)), mu, rtol=1e-12)
    if link.name not in RANGES:
        wide = np.array([3.0, 200.0])
        assert_allclose(link.inverse(link.forward(wide)), wide, rtol=1e-12)


@pytest.mark.parametrize("name", ["logit", "probit", "cauchit"])
def test_symmetric_links_mirror(name):
    link, eta = LINKS[name], np.array([0.3, 2.0, 12.0, 40.0])
    for k, (a, b) in enumerate(zip(link.log(eta, 3), link.log_complement(-eta, 3), strict=True)):
        assert_allclose(a, (-1) ** k * b, rtol=1e-14)


def test_tails_are_small_numbers_and_not_zero():
    assert_allclose(LINKS["logit"].log(np.array([40.0]), 0)[0], -np.exp(-40.0), rtol=1e-12)
    assert_allclose(LINKS["logit"].inverse(np.array([-700.0])), np.exp(-700.0), rtol=1e-12)
    assert_allclose(LINKS["cloglog"].log(np.array([-40.0]), 3)[2], -0.5 * np.exp(-40.0), rtol=1e-12)
    assert_allclose(LINKS["cauchit"].inverse(np.array([-1e8])), 1e-8 / np.pi, rtol=1e-12)
    assert_allclose(LINKS["log"].log_complement(np.array([-1e-12]), 1)[1], -1e12, rtol=1e-11)
