"""How many fits carry a note, and why: on the reference models and on 200 simulated data sets each note has its rule.

A note is allowed where one of these explains it, and required where the first column says so:
    rows_dropped      the frame has missing values in used columns
    columns_dropped   the rank of the design is below its number of columns
    singular          some covariance matrix is on the boundary, and no likelihood off it is higher
    redundant_terms   the model is listed as a ridge
    unbounded, approximation   never: these data are ordinary
    no_overdispersion the dispersion is reported as infinite
    double_bar_categorical, response_levels, response_proportion   the call has such a form (for information only)
"""

from __future__ import annotations

import warnings
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import Fit, FitWarning
from tests.references import translate

pytestmark = pytest.mark.slow

MODELS = translate.entries("lmm", "glmm")
RIDGE = {"grouseticks_overparameterised"}
"""Reference models with more covariance parameters than the design can tell apart."""

FAMILIES = ("gaussian", "poisson", "binomial", "bernoulli", "negative_binomial", "gamma")
BARS = ("(1 | g)", "(x | g)", "(x || g)", "(1 | g) + (1 | h)", "(1 | g / h)")
SIMULATED = [(FAMILIES[k % 6], BARS[k % 5], k) for k in range(200)]


def fit_of(frame: pl.DataFrame, *formulas: str, **arguments: Any) -> Fit:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = polars_glmm.fit(frame, *formulas, **arguments)
    assert {w.category for w in caught} <= {FitWarning}
    return fit


def simulated(family: str, bars: str, seed: int) -> tuple[pl.DataFrame, str, dict[str, Any]]:
    """An ordinary data set: 12 to 40 groups of 6 to 20 rows, variances from 0.1 to 1."""
    rng = np.random.default_rng(seed)
    n_groups, each = int(rng.integers(12, 41)), 2 * int(rng.integers(3, 11))
    n = n_groups * each
    g = np.repeat(np.arange(n_groups), each)
    nested = "/" in bars
    h = np.tile(np.arange(each) // 2, n_groups) if nested else rng.integers(0, 10, n)
    x = rng.normal(size=n)
    sd = rng.uniform(0.3, 1.0, 3)
    slope = sd[1] * rng.normal(size=n_groups)[g] * x if "x |" in bars else 0.0
    second = (
        sd[2] * (rng.normal(size=(n_groups, each))[g, h] if nested else rng.normal(size=10)[h]) if "h" in bars else 0.0
    )
    eta = 0.5 + 0.5 * x + sd[0] * rng.normal(size=n_groups)[g] + slope + second
    y = {
        "gaussian": lambda: eta + rng.normal(size=n),
        "poisson": lambda: rng.poisson(np.exp(eta)),
        "binomial": lambda: rng.binomial(10, 1 / (1 + np.exp(-eta))),
        "bernoulli": lambda: rng.binomial(1, 1 / (1 + np.exp(-eta))),
        "negative_binomial": lambda: rng.negative_binomial(2, 2 / (2 + np.exp(eta))),
        "gamma": lambda: rng.gamma(3, np.exp(eta) / 3),
    }[family]()
    frame = pl.DataFrame({"g": g, "h": h, "x": x, "y": y, "n": np.full(n, 10)})
    arguments: dict[str, Any] = {"family": "binomial" if family == "bernoulli" else family}
    if family == "binomial":
        arguments["trials"] = "n"
    return frame, f"y ~ x + {bars}", arguments


@cache
def references() -> dict[str, Fit]:
    return {
        name: fit_of(translate.data(entry), *translate.formulas(entry), **translate.arguments(entry))
        for name, entry in MODELS.items()
        if entry["dataset"] not in translate.NOT_REDISTRIBUTED
    }


@cache
def simulations() -> dict[tuple[str, str, int], tuple[Fit, pl.DataFrame]]:
    found = {}
    for family, bars, seed in SIMULATED:
        frame, formula, arguments = simulated(family, bars, seed)
        found[family, bars, seed] = (fit_of(frame, formula, **arguments), frame)
    return found


def unexplained(fit: Fit, frame: pl.DataFrame, *, ridge: bool) -> list[str]:
    """Notes without a reason, and reasons without a note."""
    table = fit.fixef()
    on_boundary = fit.varcorr().filter(pl.col("group") != "Residual", pl.col("other_term").is_null())
    collapsed = (
        bool((on_boundary["estimate"] == 0).any())
        or bool((fit.varcorr()["correlation"].abs() > 1 - 1e-6).any())
        or lost_rank(fit)
    )
    reasons = {
        "rows_dropped": fit.n_dropped > 0 and frame.null_count().sum_horizontal()[0] > 0,
        "columns_dropped": bool(table["estimate"].is_null().any()),
        "singular": collapsed,
        "redundant_terms": ridge,
        "no_overdispersion": bool(fit.dispersion()["estimate"].is_infinite().any()),
    }
    present = {note.code for note in fit.notes if not note.quiet or note.code == "rows_dropped"}
    return [code for code in reasons.keys() | present if (code in present) != reasons.get(code, False)]


def lost_rank(fit: Fit) -> bool:
    """Some covariance matrix has an eigenvalue of zero (correlations of all its columns)."""
    for factor in fit.estimate.factors:
        for sigma in factor.covariances:
            sd = np.sqrt(np.maximum(np.diag(sigma), 1e-300))
            if np.linalg.eigvalsh(sigma / np.outer(sd, sd))[0] < 1e-7:
                return True
    return False


def test_every_reference_model_converges() -> None:
    assert {name: fit.certificate.decrement for name, fit in references().items() if not fit.converged} == {}
    assert all("not_converged" not in {note.code for note in fit.notes} for fit in references().values())


def test_notes_of_the_reference_models_have_a_reason() -> None:
    odd = {
        name: found
        for name, fit in references().items()
        if (found := unexplained(fit, translate.data(MODELS[name]), ridge=name in RIDGE))
    }
    assert odd == {}


def test_singular_reference_models_are_those_that_the_other_engine_found_singular() -> None:
    """A reference sd below its own zero, or a correlation of ±1: there, and nowhere else."""
    for name, fit in references().items():
        if name in RIDGE:
            continue
        recorded = MODELS[name]["results"].get("singular")
        if recorded is not None:
            assert fit.singular == bool(recorded), name


def test_every_simulated_fit_converges() -> None:
    assert {key: fit.certificate.decrement for key, (fit, _) in simulations().items() if not fit.converged} == {}


def test_notes_of_the_simulated_fits_have_a_reason() -> None:
    odd = {key: found for key, (fit, frame) in simulations().items() if (found := unexplained(fit, frame, ridge=False))}
    assert odd == {}


def test_how_many_simulated_fits_carry_a_note() -> None:
    """Small designs put a variance at zero now and then; nothing else happens to ordinary data."""
    counted = Counter(note.code for fit, _ in simulations().values() for note in fit.notes)
    assert set(counted) <= {"singular", "no_overdispersion"}
    assert counted["singular"] <= 40
    assert counted["no_overdispersion"] <= 4
