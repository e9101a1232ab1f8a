"""The families × links that every law is about, and rows to try it on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from polars_glmm.families import Density, Expected, Rows
from polars_glmm.families.mean_family import MeanFamily
from polars_glmm.families.registry import FAMILIES
from polars_glmm.typing import Vec

HELD = {"tweedie": {"power": 1.5}}
"""What else a family is made with, to have a mean and phi alone."""
MODELS = [
    family(link, **HELD.get(name, {}))
    for name, family in FAMILIES.items()
    if family.response == "number" and name != "gompertz"  # its second parameter is no phi: test_gompertz
    for link in family.links
]
ETAS = (0.0, 0.3, 0.95, 1.0, 5.0, 20.0)
"""Distances from 0 at which laws are tried, with both signs; values outside a link's domain are left out."""


class Case(NamedTuple):
    """One family × link on rows (n,): every response against every eta inside the domain."""

    family: MeanFamily
    rows: Rows
    eta: Vec
    zeta: float | None

    @property
    def at(self) -> tuple[Vec | float, ...]:
        return predictors(self.eta, self.zeta)


def predictors(eta: Vec, zeta: Vec | float | None) -> tuple[Vec | float, ...]:
    return (eta,) if zeta is None else (eta, zeta)


def named(density: Density | Expected) -> dict[tuple[int, ...], Vec]:
    """Everything a density holds by the predictors it is differentiated in: () is f, (0,) its slope in eta, …"""
    if isinstance(density, Expected):
        return {**density.w, **density.third}
    slopes = {(k,): g for k, g in enumerate(density.g) if g is not None}
    return {(): density.f, **slopes, **density.w, **density.third}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames and "family" not in _parametrised(metafunc):
        metafunc.parametrize("family", MODELS, ids=repr)


def _parametrised(metafunc: pytest.Metafunc) -> set[str]:
    names = (mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    return {name.strip() for group in names for name in (group.split(",") if isinstance(group, str) else group)}


def responses(family: MeanFamily) -> tuple[Vec, Vec | None, Vec | None]:
    """y, trials and precision across the family's support."""
    match family.name:
        case "gaussian":
            return np.array([-2.0, 0.0, 1.3, 4.0]), None, np.array([1.0, 0.5, 2.0, 1.0])
        case "student_t":
            return np.array([-2.0, 0.0, 1.3, 4.0]), None, None
        case "beta":
            return np.array([1e-3, 0.3, 0.6, 0.99]), None, None
        case "lognormal":
            return np.array([0.05, 0.7, 1.0, 6.0]), None, None
        case "tweedie":
            return np.array([0.0, 0.05, 1.0, 30.0]), None, None
        case "truncated_poisson" | "truncated_negative_binomial" | "truncated_negative_binomial1":
            return np.array([1.0, 2.0, 4.0, 30.0]), None, None
        case "binomial" | "beta_binomial":
            return np.array([0.0, 1.0, 3.0, 10.0, 0.0]), np.array([1.0, 1.0, 10.0, 10.0, 10.0]), None
        case "poisson" | "negative_binomial" | "negative_binomial1" | "generalized_poisson":
            return np.array([0.0, 1.0, 4.0, 30.0]), None, None
        case _:
            return np.array([0.05, 0.7, 1.0, 6.0]), None, np.array([1.0, 0.5, 2.0, 1.0])


@pytest.fixture
def case(family: MeanFamily) -> Callable[..., Case]:
    def make(*etas: float, zeta: float = 0.4) -> Case:
        eta = np.unique([sign * e for e in etas or ETAS for sign in (-1.0, 1.0)])
        outside = family.link.outside(eta, family.mean_range)
        eta = eta if outside is None else eta[~outside]
        y, trials, precision = responses(family)
        column = [None if part is None else np.repeat(part, eta.size) for part in (y, trials, precision)]
        return Case(family, Rows(*column), np.tile(eta, y.size), zeta if family.has_phi else None)

    return make
