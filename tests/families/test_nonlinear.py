"""Curves as means: functions of jets and densities through them against differences, and what an empty curve leaves."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from polars_glmm.errors import FormulaError, ModelError
from polars_glmm.families import jet
from polars_glmm.families.base import Family, Predictors, Rows
from polars_glmm.families.curve import SMOOTH, JetAlgebra, exponential, power
from polars_glmm.families.nonlinear import Nonlinear
from polars_glmm.spec.forms import FORMS
from polars_glmm.spec.model import ModelSpec

STEP = 1e-5


def family_of(curve: str, *parameters: str, family: str = "gaussian", link: str | None = None) -> Family:
    return ModelSpec.parse((f"y ~ {curve}", *(f"{name} ~ 1" for name in parameters)), family=family, link=link).family


def moved(at: Predictors, k: int, by: float) -> Predictors:
    return tuple(part + by if i == k else part for i, part in enumerate(at))


@pytest.mark.parametrize("name", sorted(SMOOTH))
def test_functions_of_jets_have_the_derivatives_of_differences(name: str) -> None:
    algebra, x = JetAlgebra(), np.array([0.3, 0.9, 1.4])
    up, here, down = (algebra.function(name, jet.variable(x + h, 0, 3, 3)) for h in (STEP, 0.0, -STEP))
    assert here.f == pytest.approx(algebra.function(name, x))
    for k in range(3):
        difference = (up.parts.get((0,) * k, 0.0) - down.parts.get((0,) * k, 0.0)) / (2 * STEP)
        assert here.parts.get((0,) * (k + 1), np.zeros(3)) == pytest.approx(difference, rel=1e-6, abs=1e-8)


def test_powers_at_zero_have_the_derivatives_that_they_have() -> None:
    """x² is 0, 0, 2, 0 at zero; 0ᵇ stays zero."""
    parts = power(jet.variable(np.zeros(1), 0, 3, 3), 2.0).parts
    assert [float(parts[(0,) * k][0]) for k in range(4)] == [0.0, 0.0, 2.0, 0.0]
    parts = exponential(np.zeros(1), jet.variable(np.full(1, 1.5), 0, 3, 3)).parts
    assert [float(parts[(0,) * k][0]) for k in range(4)] == [0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(("family", "link"), [("gaussian", None), ("gamma", "log"), ("student_t", None)])
@pytest.mark.parametrize("curve", ["SSfol(u, v, a, b, c) + k^2 * v^k", "a * exp(-b * u) / (1 + c^2) - log(k) * v"])
def test_the_density_through_a_curve_has_the_derivatives_of_differences(
    family: str, link: str | None, curve: str
) -> None:
    """First, second and third, in the parameters of the curve and in phi."""
    model = family_of(curve, "k", *(() if "SS" in curve else "abc"), family=family, link=link)
    rng = np.random.default_rng(1)
    rows = Rows(rng.gamma(3.0, 1.0, 6) + 0.1, inputs=(rng.uniform(1, 3, 6), rng.uniform(0.2, 4, 6)))
    level = {"a": -1.5, "b": 0.3, "c": -1.0, "k": 0.8, "phi": 0.1}
    at = tuple(level[one.name] + rng.normal(0, 0.1, 6) for one in model.parameters)
    most = (3,) * len(at)
    here = model.density(rows, at, 3, most)
    for k in range(len(at)):
        up, down = (model.density(rows, moved(at, k, h), 2, most) for h in (STEP, -STEP))
        assert here.g[k] == pytest.approx((up.f - down.f) / (2 * STEP), rel=1e-6, abs=1e-6)
        for a in range(len(at)):
            slope = (down.g[a] - up.g[a]) / (2 * STEP)
            assert here.w[min(a, k), max(a, k)] == pytest.approx(slope, rel=1e-6, abs=1e-5)
        for place, w in up.w.items():
            slope = (w - down.w[place]) / (2 * STEP)
            assert here.third[tuple(sorted((*place, k)))] == pytest.approx(slope, rel=1e-5, abs=1e-4)


def test_still_parameters_have_first_derivatives_and_how_they_bend_the_others() -> None:
    model = family_of("a * exp(-b * u)", "a", "b")
    rng = np.random.default_rng(2)
    rows, at = Rows(rng.normal(size=5), inputs=(rng.uniform(0, 2, 5),)), (np.full(5, 2.0), np.full(5, 0.4), np.zeros(5))
    whole, some = model.density(rows, at, 3, (3, 3, 3)), model.density(rows, at, 3, (3, 1, 1))
    assert set(some.w) == {(0, 0), (0, 1), (0, 2)}
    assert all(some.third[place] == pytest.approx(whole.third[place]) for place in some.third)
    assert set(some.third) == {(0, 0, 0), (0, 0, 1), (0, 0, 2)}


def test_a_curve_that_is_its_parameter_is_the_family_itself() -> None:
    rng = np.random.default_rng(3)
    rows = Rows(rng.normal(size=5), inputs=())
    at = (rng.normal(size=5), np.full(5, 0.2))
    model = family_of("mu1", "mu1")
    plain = ModelSpec.parse(("y ~ 1",)).family
    mine, theirs = model.density(rows, at, 3), plain.density(rows, at, 3)
    assert mine.f == pytest.approx(theirs.f)
    assert all(mine.w[place] == pytest.approx(theirs.w[place]) for place in theirs.w)
    assert model.expected(rows, at).w[0, 0] == pytest.approx(plain.expected(rows, at).w[0, 0])


def test_expected_curvatures_are_products_of_the_slopes_of_the_curve() -> None:
    """Of gaussian responses: f'f'ᵀ/σ², which is never negative."""
    model = family_of("SSlogis(u, a, b, c)")
    rows = Rows(np.zeros(3), inputs=(np.array([1.0, 2.0, 4.0]),))
    at = (np.full(3, 5.0), np.full(3, 2.0), np.full(3, 0.7), np.full(3, np.log(2.0)))
    w = model.expected(rows, at).w
    matrix = np.array([[w[min(a, b), max(a, b)] for a in range(3)] for b in range(3)])
    e = np.exp(-(np.array([1.0, 2.0, 4.0]) - 2.0) / 0.7)
    assert matrix[0, 0] == pytest.approx(1.0 / (1.0 + e) ** 2 / 4.0)
    assert np.linalg.matrix_rank(matrix[..., 0]) == 1


def test_a_nonlinear_family_is_a_value_and_can_be_sent() -> None:
    one, same = family_of("SSlogis(u, a, b, c)"), family_of("SSlogis(u, a, b, c)")
    assert one == same
    assert hash(one) == hash(same)
    assert isinstance(one, Nonlinear)
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301  # our own
    assert one != family_of("SSlogis(u, a, b, d)")
    assert [p.name for p in one.parameters] == ["a", "b", "c", "phi"]


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_self_starting_form_is_read_with_its_parameters_in_order(form: str) -> None:
    signature = FORMS[form]
    spec = ModelSpec.parse((f"y ~ {form}({', '.join((*signature.inputs, *signature.parameters))})",))
    assert isinstance(spec.family, Nonlinear)
    assert spec.family.curve.parameters == signature.parameters
    assert spec.formulas[1:] == tuple(f"{name} ~ 1" for name in signature.parameters)
    assert spec.family.curve.form == form


@pytest.mark.parametrize(
    ("formulas", "arguments", "said"),
    [
        (("y ~ floor(a * x)", "a ~ 1"), {}, "no derivative"),
        (("y ~ a * x", "a ~ 1", "b ~ 1"), {}, "'b' has a formula"),
        (("y ~ SSlogis(x, 3, b, c)",), {}, "is a parameter"),
        (("y ~ SSlogis(x, a, b)",), {}, "needs its argument 'scal'"),
        (("y ~ z + SSlogis(x, a, b, c) * pmin(a, 1)",), {}, "no derivative"),
        (("y ~ a * x", "a ~ 1"), {"groups": ["g"]}, "groups= means nothing beside a curve"),
        (("y ~ a * x", "a ~ 1"), {"offset": "o"}, "offset= means nothing"),
        (("y ~ a * x", "a ~ 1", "a ~ x"), {}, "two formulas"),
        (("y ~ a * x", "a ~ 1"), {"family": "binomial"}, "not binomial"),
        (("~ a * x", "a ~ 1"), {}, "no response"),
        (("y ~ SSlogis(x, a, b, c) + (1 | g)",), {}, "no meaning"),
        (("y ~ x + (1 | g)", "b ~ SSlogis(x, a, b, c)"), {}, "curve of a nonlinear model"),
    ],
)
def test_what_is_no_curve_is_refused_with_its_place(
    formulas: tuple[str, ...], arguments: dict[str, object], said: str
) -> None:
    with pytest.raises((FormulaError, ModelError), match=said):
        ModelSpec.parse(formulas, **arguments)  # type: ignore[arg-type]
