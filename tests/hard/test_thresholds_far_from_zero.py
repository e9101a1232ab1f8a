"""Ordinal models whose columns lie far from zero: thresholds take up the shift, and nothing else moves.

P(y ≤ k) = F(α_k − xβ) is the same for x + c and α_k + βc: log-likelihood, β and its standard error, probabilities and
theirs stay, on every route, and Var(α_k + cβ) is that of the sum.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import Control, Cumulative, Fit, Memory, Rows
from tests.hard.attempt import attempt, silent

LABELS = ("low", "mid", "high", "top")
MODELS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "two columns": (("y ~ x + f + (1 | g)",), {}),
    "crossed": (("y ~ x + (1 | g) + (1 | h)",), {}),
    "quadrature": (("y ~ x + (1 | g)",), {"method": polars_glmm.AGQ(nodes=5)}),
    "no effects": (("y ~ x + f",), {"link": "probit"}),
    "equidistant": (("y ~ x + (1 | g)",), {"family": Cumulative(thresholds="equidistant")}),
    "symmetric": (("y ~ x + (1 | g)",), {"family": Cumulative(link="cloglog", thresholds="symmetric")}),
    "nominal": (("y ~ x + (1 | g)", "thresholds ~ f"), {}),
    "shifted thresholds": (("y ~ f + (1 | g)", "thresholds ~ x"), {}),
    "scale": (("y ~ x + (1 | g)", "disc ~ f"), {}),
    "held": (("y ~ x + f + (1 | g)",), {"fixed": {"x": 0.7}}),
    "offset": (("y ~ f + offset(x) + (1 | g)",), {}),
}


@cache
def frame(shift: float = 0.0) -> pl.DataFrame:
    """x in eighths, so that shifts by powers of ten are exact."""
    rng = np.random.default_rng(8)
    n = 300
    g, x, f = rng.integers(0, 15, n), rng.integers(-16, 17, n) / 8.0, rng.integers(0, 2, n)
    h = rng.integers(0, 8, n)
    eta = 0.8 * x + 0.5 * f + 0.9 * rng.standard_normal(15)[g] + 0.7 * rng.standard_normal(8)[h]
    y = (eta[None] + rng.logistic(size=n) > np.array([-1.0, 0.4, 1.8])[:, None]).sum(0)
    made = pl.DataFrame({"y": [LABELS[k] for k in y], "x": x + shift, "f": [f"f{k}" for k in f], "g": g, "k": g % 2})
    made = made.with_columns(h=pl.Series(h))
    return made.with_columns(pl.col("y").cast(pl.Enum(LABELS)))


@cache
def fitted(model: str, shift: float) -> Fit:
    formulas, more = MODELS[model]
    return attempt(frame(shift), *formulas, **({"family": "cumulative"} | more))


def moved_as_said(far: Fit, near: Fit, shift: float, tolerance: float = 1e-7) -> None:
    """Every number of the near fit is in the far one, or is moved by βc."""
    silent(far)
    assert far.loglik == pytest.approx(near.loglik, abs=1e-7)
    tables = [fit.fixef().filter(pl.col("parameter") != "thresholds") for fit in (far, near)]
    for column in ("estimate", "std_error"):
        numbers = [table[column].cast(pl.Float64).to_numpy() for table in tables]
        assert_allclose(numbers[0], numbers[1], rtol=tolerance, atol=tolerance)
    assert_allclose(far.varcorr()["estimate"], near.varcorr()["estimate"], rtol=tolerance)
    for kind in ("response", "mean"):
        found = [fit.predict(frame(c), kind=kind, std_error=True) for fit, c in ((far, shift), (near, 0.0))]
        for one, other in zip(*(table[:, frame().width :] for table in found), strict=True):
            assert_allclose(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shift", [pytest.param(1e3, marks=pytest.mark.slow), 1e5])
@pytest.mark.parametrize("model", [pytest.param(one, marks=pytest.mark.one_in(3)) for one in MODELS])
def test_a_shift_of_a_column_shifts_the_thresholds(model: str, shift: float) -> None:
    moved_as_said(fitted(model, shift), fitted(model, 0.0), shift)


def test_thresholds_and_their_errors_are_those_of_the_sum():
    """α_k + cβ of the near fit, by its own covariance matrix; the profile of β is the same."""
    shift, (far, near) = 1e4, (fitted("two columns", 1e4), fitted("two columns", 0.0))
    table = near.fixef()
    at, terms = table["estimate"].to_numpy(), table["term"].to_list()
    matrix = near.vcov()["covariance"].to_numpy().reshape(len(at), -1)
    rows = np.eye(len(at))
    rows[np.flatnonzero(table["parameter"] == "thresholds"), terms.index("x")] = shift
    assert_allclose(far.fixef()["estimate"], rows @ at, rtol=1e-8)
    assert_allclose(far.fixef()["std_error"], np.sqrt(np.diag(rows @ matrix @ rows.T)), rtol=1e-6)
    both = [fit.confint(method="profile").filter(term="x").select(pl.selectors.float()) for fit in (far, near)]
    for one, other in zip(both[0].row(0), both[1].row(0), strict=True):
        assert one == (other if other is None else pytest.approx(other, rel=1e-5))


@pytest.mark.slow
def test_every_route_has_the_shift():
    shift, near = 1e5, fitted("two columns", 0.0)
    formula, far = MODELS["two columns"][0][0], frame(1e5)
    disk = Control(memory=Memory(limit=1), rows=Rows(compress=False))
    assert far.lazy().glmm.explain(formula, family="cumulative", control=disk).plan.route == "disk"
    for rows, control in ((far.lazy(), Control()), (far.lazy(), disk), (far, Control(rows=Rows(compress=False)))):
        moved_as_said(attempt(rows, formula, family="cumulative", control=control), near, shift, 1e-6)
    made = polars_glmm.fit(far, formula, family="cumulative", by="k")
    for key in (0, 1):
        alone = polars_glmm.fit(frame().filter(k=key), formula, family="cumulative")
        assert made[key].loglik == pytest.approx(alone.loglik, abs=1e-7)
        errors = [fit.fixef().filter(term="x")["std_error"].item() for fit in (made[key], alone)]
        assert errors[0] == pytest.approx(errors[1], rel=1e-6)


def test_the_objective_has_its_slopes_there():
    """Natural parameters are those of the columns as they stand: derivatives against differences, far from zero."""
    objective = polars_glmm.objective(frame(1e3), "y ~ x + (1 | g)", family="cumulative")
    at = dict.fromkeys(objective.names, 0.5) | {"x": 0.8}
    at |= {name: 800.0 + k for k, name in enumerate(n for n in objective.names if n.startswith("thresholds"))}
    for name, slope in zip(objective.names, objective.gradient(at), strict=True):
        h = 1e-6 if name == "x" else 1e-4
        up, down = (objective.loglik(at | {name: at[name] + s}) for s in (h, -h))
        assert slope == pytest.approx((up - down) / (2.0 * h), rel=1e-5, abs=1e-4)
    assert objective.loglik(at) == pytest.approx(
        polars_glmm.objective(frame(), "y ~ x + (1 | g)", family="cumulative").loglik(
            {name: value - 800.0 * name.startswith("thresholds") for name, value in at.items()}
        ),
        abs=1e-8,
    )


SCALES: dict[str, tuple[str, ...]] = {
    "scale of the column": ("y ~ x + f + (1 | g)", "disc ~ x"),
    "scale of two columns": ("y ~ f + (1 | g)", "disc ~ x * f"),
    "scale alone": ("y ~ f", "disc ~ x"),
}


@pytest.mark.parametrize("shift", [4.0, pytest.param(1e2, marks=pytest.mark.slow), 1e4, 1e6])
@pytest.mark.parametrize("model", [pytest.param(one, marks=pytest.mark.one_in(3)) for one in SCALES])
def test_a_shift_of_a_column_that_scales_changes_the_unit_of_the_latent_variable(model: str, shift: float) -> None:
    """exp(ζ(x + c)) is a factor of exp(ζx), which thresholds, coefficients and standard deviations take up."""
    near, far = (attempt(frame(c), *SCALES[model], family="cumulative") for c in (0.0, shift))
    assert [note.code for note in far.notes] == ([] if shift == 4.0 else ["disc_unit"])
    assert far.converged
    assert far.loglik == pytest.approx(near.loglik, abs=1e-8)
    tables = [fit.fixef().filter(pl.col("term").str.starts_with("x"), parameter="disc") for fit in (far, near)]
    assert_allclose(tables[0]["estimate"], tables[1]["estimate"], atol=1e-8)
    assert_allclose(tables[0]["std_error"], tables[1]["std_error"], rtol=1e-3)
    for kind in ("response", "mean"):
        found = [fit.predict(frame(c), kind=kind)[:, frame().width :] for fit, c in ((far, shift), (near, 0.0))]
        assert_allclose(found[0].to_numpy(), found[1].to_numpy(), rtol=1e-6)
    if not near.recipe.factors:  # given variances, errors depend on the unit that these are held in
        errors = [
            fit.predict(frame(c), std_error=True).select(pl.selectors.ends_with("std_error")).to_numpy()
            for fit, c in ((far, shift), (near, 0.0))
        ]
        assert_allclose(errors[0], errors[1], rtol=1e-3)


@pytest.mark.slow
def test_every_route_counts_a_scale_from_the_same_place():
    formulas, far = SCALES["scale of the column"], frame(1e5)
    eager = attempt(far, *formulas, family="cumulative")
    disk = Control(memory=Memory(limit=1), rows=Rows(compress=False))
    assert far.lazy().glmm.explain(*formulas, family="cumulative", control=disk).plan.route == "disk"
    for rows, control in ((far.lazy(), Control()), (far.lazy(), disk), (far, Control(rows=Rows(compress=False)))):
        other = attempt(rows, *formulas, family="cumulative", control=control)
        assert_allclose(other.fixef()["estimate"], eager.fixef()["estimate"], rtol=1e-6, atol=1e-7)
        assert_allclose(other.fixef()["std_error"], eager.fixef()["std_error"], rtol=1e-5)
        assert [note.code for note in other.notes if note.code.startswith("disc")] == ["disc_unit"]
