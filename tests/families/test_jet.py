"""Jets obey the chain rule: one composite function, differentiated by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.families import jet

X, Z = np.array([0.3, 1.7]), np.array([-0.4, 0.9])


def variables(order: int) -> tuple[jet.Jet, jet.Jet]:
    return jet.function_of((X, np.ones(2), np.zeros(2), np.zeros(2))[: order + 1]), jet.variable(Z, 1, order, 1)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_a_product_of_powers_and_an_exponential(order):
    """x³e^z: every partial derivative of total degree up to the order, at most one of them in z, and no other."""
    x, z = variables(order)
    result = x * x * x * jet.exp(z)
    powers = [X**3, 3 * X**2, 6 * X, np.full(2, 6.0)]
    assert set(result.parts) == {(0,) * i + (1,) * j for i in range(4) for j in range(2) if i + j <= order}
    for degree, part in result.parts.items():
        i, j = degree.count(0), degree.count(1)
        assert_allclose(part, powers[i] * np.exp(Z), rtol=1e-14, err_msg=f"{i, j}")


FUNCTIONS = {
    "exp": (jet.exp, np.exp),
    "log": (jet.log, np.log),
    "square": (jet.square, np.square),
    "softplus": (jet.softplus, lambda a: np.log1p(np.exp(a))),
    "lgamma": (jet.lgamma, None),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_compose(name):
    """g(x²e^z + 1) against complex steps, or differences where g has no complex twin, one order at a time."""
    function, plain = FUNCTIONS[name]

    def at(dx: float, dz: float) -> jet.Jet:
        x = jet.function_of((X + dx, np.ones(2), np.zeros(2), np.zeros(2)))
        return function(x * x * jet.exp(jet.variable(Z + dz, 1, 3, 1)) + 1.0)

    result, h = at(0.0, 0.0).parts, 1e-3
    for degree in result:
        for further, (dx, dz) in {(0, *degree): (h, 0.0), (*degree, 1): (0.0, h)}.items():
            if further in result:
                near = [at(s * dx, s * dz).parts[degree] for s in (-2, -1, 1, 2)]
                assert_allclose(result[further], (8 * (near[2] - near[1]) - (near[3] - near[0])) / (12 * h), rtol=1e-8)
    if plain is not None:
        step = 1e-30
        inner = (X + 1j * step) ** 2 * np.exp(Z) + 1.0
        assert_allclose(result[0,], plain(inner).imag / step, rtol=1e-13)


def test_a_jet_in_which_both_move_holds_every_derivative():
    x, z = variables(3)[0], jet.variable(Z, 1, 3, 3)
    result = x * x * jet.exp(2.0 * z)
    powers = [X**2, 2 * X, np.full(2, 2.0)]
    for i in range(3):
        for j in range(4 - i):
            assert_allclose(result.parts[(0,) * i + (1,) * j], powers[i] * 2.0**j * np.exp(2 * Z), rtol=1e-14)


def test_arithmetic_with_plain_arrays():
    x, _ = variables(2)
    a = np.array([2.0, 5.0])
    for left, right in (
        ((a * x).parts, (x * a).parts),
        ((a - x).parts, (-(x - a)).parts),
        ((a + x).parts, (x + a).parts),
    ):
        assert left.keys() == right.keys()
        for degree in left:
            assert_allclose(left[degree], right[degree])


def test_of_predictors_that_stand_still_a_jet_holds_one_derivative_in_all():
    """x²·exp(z + 2v), z and v still: what bends in z, in v or in both is left out; x moves freely."""
    x, z, v = variables(3)[0], jet.variable(Z, 1, 3, 1), jet.variable(Z, 2, 3, 1)
    result = (x * x * jet.exp(z + 2.0 * v)).parts
    assert set(result) == {(0,) * i + further for i in range(4) for further in ((), (1,), (2,)) if i + len(further) < 4}
    assert_allclose(result[0, 0, 2], 4.0 * np.exp(3.0 * Z), rtol=1e-14)
    assert_allclose(result[0, 1], 2.0 * X * np.exp(3.0 * Z), rtol=1e-14)
