"""Laplace and adaptive quadrature: values against integrals, gradients against differences, and invariances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate

from polars_glmm.families.base import Rows
from polars_glmm.likelihood.marginal.engine import RowEngine, row_engine
from polars_glmm.likelihood.marginal.lifted import lifted
from polars_glmm.likelihood.marginal.modes import Point, Warm
from polars_glmm.likelihood.model import prepare
from polars_glmm.likelihood.parameters.state import settle
from polars_glmm.spec.method import AGQ, Laplace
from tests.likelihood.models import control, draw, with_effects_on_phi


def engine_of(design, family, method, **options):
    model = prepare(design, family, method, control(**options), by_rows=True)
    return model, row_engine(model)


def value_and_gradient(model, engine: RowEngine, x, warm=None):
    """ℓ and its gradient over [β_c, θ] at x."""
    e = engine.objective(model.n_coefficients)(x, warm, curvature=False)
    assert len(e.gradient) == model.n_coefficients + model.effects.n_theta
    return -e.value, -e.gradient, e.state


def point(model, seed=1):
    rng = np.random.default_rng(seed)
    level = 3.0 if model.family.link.name == "identity" and model.family.name != "binomial" else 0.2
    level = {"inverse": 0.8, "inverse_squared": 0.8, "sqrt": 1.8}.get(model.family.link.name, level)
    if model.family.name == "binomial":
        level = {"log": -1.2, "identity": 0.5}.get(model.family.link.name, 0.2)
    size = 0.05 if (model.family.name, model.family.link.name) in _TIGHT else 0.4
    theta = model.effects.start(size) + rng.normal(size=model.effects.n_theta) * 0.2 * size
    return np.concatenate([[level, 0.02, 0.4, 0.1][: model.n_coefficients], theta])


_TIGHT = {
    ("binomial", "log"), ("binomial", "identity"), ("poisson", "sqrt"), ("poisson", "identity"), ("gamma", "inverse"),
    ("gamma", "identity"), ("inverse_gaussian", "inverse"), ("inverse_gaussian", "inverse_squared"),
    ("inverse_gaussian", "identity"),
}  # fmt: skip

PAIRS = [
    ("binomial", "logit"), ("binomial", "probit"), ("binomial", "cloglog"), ("binomial", "cauchit"),
    ("binomial", "log"), ("binomial", "identity"), ("poisson", "log"), ("poisson", "sqrt"), ("poisson", "identity"),
    ("gamma", "log"), ("gamma", "inverse"), ("gamma", "identity"), ("inverse_gaussian", "log"),
    ("inverse_gaussian", "inverse_squared"), ("inverse_gaussian", "inverse"), ("inverse_gaussian", "identity"),
    ("negative_binomial", "log"), ("gaussian", "identity"),
]  # fmt: skip
STRUCTURES = {
    "scalar": {"r": 1},
    "vector": {"r": 2},
    "crossed": {"r": 1, "others": ((7, 1, False),)},
    "crossed vectors": {"r": 2, "others": ((7, 2, False), (4, 1, False))},
    "nested": {"r": 1, "others": ((0, 1, True),)},
}


def assert_gradient(model, engine, x):
    _, gradient, _ = value_and_gradient(model, engine, x)
    h = 1e-5
    numeric = []
    for e in np.eye(len(x)):
        up, down = (value_and_gradient(model, engine, x + s * h * e)[0] for s in (1, -1))
        numeric.append((up - down) / (2 * h))
    assert_allclose(gradient, numeric, rtol=1e-5, atol=2e-7 * max(1.0, np.abs(numeric).max()))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("curvature", ["observed", "expected"])
@pytest.mark.parametrize(("family", "link"), PAIRS)
def test_laplace_gradient_for_every_family_and_link(family, link, curvature):
    design, made = draw(family, link, n=80, groups=8)
    model, engine = engine_of(design, made, Laplace(curvature=curvature))
    assert_gradient(model, engine, point(model))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("curvature", ["observed", "expected"])
@pytest.mark.parametrize("structure", list(STRUCTURES))
@pytest.mark.parametrize(
    ("family", "link"), [("binomial", "cloglog"), ("negative_binomial", "log"), ("poisson", "log")]
)
def test_laplace_gradient_for_every_structure(family, link, structure, curvature):
    design, made = draw(
        family, link, n=120, groups=10, modelled_phi=family == "negative_binomial", **STRUCTURES[structure]
    )
    model, engine = engine_of(design, made, Laplace(curvature=curvature))
    assert_gradient(model, engine, point(model))


@pytest.mark.parametrize("curvature", ["observed", "expected"])
@pytest.mark.parametrize("structure", list(STRUCTURES))
@pytest.mark.parametrize(("family", "link"), [("poisson", "log"), ("binomial", "probit"), ("negative_binomial", "log")])
def test_rough_modes_leave_the_value_and_change_the_gradient_by_their_distance(family, link, structure, curvature):
    """ℓ is mended to first order in the distance of the modes: what is left is of second order."""
    design, made = draw(family, link, n=80, groups=8, **STRUCTURES[structure])
    model, engine = engine_of(design, made, Laplace(curvature=curvature))
    x = point(model)
    rough = engine.objective(model.n_coefficients, rough=True)
    for moved in (0.3, 0.05, 1e-3):
        start = engine.objective(model.n_coefficients)(x + moved, None, curvature=False).state
        value, gradient, _ = value_and_gradient(model, engine, x)
        found = rough(x, start, curvature=False)
        assert_allclose(-found.value, value, rtol=0, atol=5e-12)
        assert_allclose(-found.gradient, gradient, rtol=1e-6, atol=2e-5)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("r", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_quadrature_gradient_moves_its_nodes(k, r):
    design, made = draw("binomial", "logit", n=60, groups=12, r=r)
    model, engine = engine_of(design, made, AGQ(k))
    assert_gradient(model, engine, point(model))


@pytest.mark.parametrize(("family", "link"), [("gamma", "log"), ("negative_binomial", "log"), ("poisson", "sqrt")])
def test_quadrature_gradient_with_dispersion_and_other_links(family, link):
    design, made = draw(family, link, n=60, groups=12)
    model, engine = engine_of(design, made, AGQ(5))
    assert_gradient(model, engine, point(model))


DISPERSED = [("gaussian", "identity"), ("gaussian", "log"), ("gamma", "log"), ("gamma", "inverse"),
             ("inverse_gaussian", "log"), ("negative_binomial", "log")]  # fmt: skip
ON_PHI = {
    "alone": [(0, 1)],
    "beside": [(1, 0), (0, 2)],
    "together": [(2, 1)],
    "both": [(1, 1), (0, 1)],
}
"""Terms of (effects on the mean, effects on log phi)."""


@pytest.mark.one_in(6)
@pytest.mark.parametrize("method", [Laplace(), AGQ(3)], ids=repr)
@pytest.mark.parametrize("terms", list(ON_PHI))
@pytest.mark.parametrize(("family", "link"), DISPERSED)
def test_gradient_with_random_effects_on_phi(family, link, terms, method):
    """Every predictor with random effects moves the modes, whatever it shares with the others."""
    if isinstance(method, AGQ) and terms == "both":
        method = AGQ(2)
    design, made = draw(family, link, n=90, groups=9, modelled_phi=True)
    design = with_effects_on_phi(design, *ON_PHI[terms])
    model, engine = engine_of(design, made, method)
    at = point(model)
    at[2:4] = (-1.0, 0.3) if family != "negative_binomial" else (0.8, 0.3)
    at[4:] *= 0.4
    assert_gradient(model, engine, at)


@pytest.mark.parametrize("family", ["gaussian", "negative_binomial"])
def test_gradient_with_crossed_random_effects_on_mean_and_phi(family):
    design, made = draw(family, n=120, groups=10, modelled_phi=True, others=((7, 1, False),))
    design = with_effects_on_phi(design, (1, 1))
    model, engine = engine_of(design, made, Laplace())
    at = point(model)
    at[4:] *= 0.5
    assert_gradient(model, engine, at)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("terms", list(ON_PHI))
def test_modes_move_along_their_slopes_with_effects_on_phi(terms):
    """dû along every coefficient and every entry of Λ, against modes found at both sides."""
    design, made = draw("gamma", n=120, groups=8, modelled_phi=True)
    model, engine = engine_of(with_effects_on_phi(design, *ON_PHI[terms]), made, Laplace())
    x, p = point(model), model.n_coefficients
    x[2:4] = -1.0, 0.2

    state, _ = settle(model.effects, x[:p], x[p:], [-1.0] * len(ON_PHI[terms]))
    vector = state.vector()

    def at(v):
        moved = state.moved(v)
        there = Point(moved.beta, model.effects.effective(list(moved.factors)))
        return engine.marginal.evaluate(there, None).warm.modes[0]

    slopes = engine.mode_slopes(state, Warm([at(vector)]), np.ones(len(vector), dtype=bool)).handle
    for slope, e in zip(slopes, np.eye(len(vector)), strict=True):
        difference = (at(vector + 1e-5 * e) - at(vector - 1e-5 * e)) / 2e-5
        assert_allclose(slope[0], difference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("curved", [(0,), (1,), (0, 1), (0, 2), (0, 1, 3)], ids=str)
def test_curvatures_are_lifted_to_the_nearest_that_is_not_negative(curved):
    """W⁺ has the positive eigenvalues of W and zeros for the others, of however many predictors."""
    rng = np.random.default_rng(2)
    pairs = [(a, b) for a in curved for b in curved if a <= b]
    w = {pair: np.append(rng.normal(size=50), 0.0) for pair in pairs}
    made = lifted(w, curved)

    def whole(of, k):
        return np.array([[of[min(a, b), max(a, b)][k] for a in curved] for b in curved])

    for k in range(51):
        values, vectors = np.linalg.eigh(whole(w, k))
        assert_allclose(whole(made, k), (vectors * np.maximum(values, 0.0)) @ vectors.T, atol=1e-14)


@pytest.mark.parametrize("terms", ["together", "beside"])
def test_rows_in_blocks_with_threads_and_effects_on_phi_change_nothing(terms):
    design, made = draw("gaussian", n=150, groups=15, modelled_phi=True)
    design = with_effects_on_phi(design, *ON_PHI[terms])
    model, engine = engine_of(design, made, Laplace())
    _, small = engine_of(design, made, Laplace(), block=7, threads=2)
    here, there = (value_and_gradient(model, one, point(model)) for one in (engine, small))
    assert_allclose(there[0], here[0], rtol=1e-12)
    assert_allclose(there[1], here[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("terms", "nodes"), [("alone", 41), ([(1, 1)], 31)])
@pytest.mark.slow
def test_many_nodes_are_the_integral_over_effects_on_phi(terms, nodes):
    """Gaussian rows whose scale has a random effect, alone or correlated with that of the mean."""
    design, made = draw("gaussian", n=12, groups=2, modelled_phi=True, seed=4)
    design = with_effects_on_phi(design, *ON_PHI.get(terms, terms) if isinstance(terms, str) else terms)
    model, engine = engine_of(design, made, AGQ(nodes))
    x = point(model)
    x[2:4] = -0.4, 0.1
    assert_allclose(value_and_gradient(model, engine, x)[0], brute_force(model, x), rtol=3e-7)


def test_one_node_is_laplace():
    design, made = draw("poisson", n=80, groups=8, r=2)
    values = []
    for method in (AGQ(1), Laplace()):
        model, engine = engine_of(design, made, method)
        values.append(value_and_gradient(model, engine, point(model))[0])
    assert values[0] == values[1]


def brute_force(model, x):
    """Σ_g log ∫ exp(log p(y_g | b)) N(b; 0, Σ) db by nested adaptive quadrature, on the design's own columns."""
    design, f = model.design, model.design.factors[0]
    lam = model.effects.factors[0].outward @ model.effects.lambdas(x[model.n_coefficients :])[0]
    predictors, part_of = [design.mu, *([] if design.phi is None else [design.phi])], np.array(f.part_of)
    coefficients = [part.outward @ x[part.own] for part in model.parts]
    total = 0.0
    for g in range(f.n_levels):
        rows = f.codes == g
        fixed, z = [b @ one.x[:, rows] for b, one in zip(coefficients, predictors, strict=True)], f.z[:, rows]
        data = Rows(design.y[rows])

        def joint(*u, fixed=fixed, z=z, data=data):
            b = (lam @ np.array(u))[:, None] * z
            at = tuple(xb + b[part_of == k].sum(0) for k, xb in enumerate(fixed))
            f = model.family.density(data, at, 0).f.sum()
            return np.exp(f - 0.5 * np.dot(u, u) - 0.5 * len(u) * np.log(2 * np.pi))

        if len(lam) == 1:
            value = integrate.quad(joint, -12, 12, epsabs=1e-14, epsrel=1e-11)[0]
        else:
            value = integrate.dblquad(lambda b, a: joint(a, b), -9, 9, -9, 9, epsabs=0.0, epsrel=1e-8)[0]
        total += np.log(value)
    return total


@pytest.mark.slow
@pytest.mark.parametrize(("r", "nodes", "rtol"), [(1, 41, 1e-11), (2, 25, 1e-8)])
def test_many_nodes_are_the_integral(r, nodes, rtol):
    """Scalar effects, and a correlated random slope (numerics of Pinheiro & Bates 1995)."""
    design, made = draw("binomial", "logit", n=24, groups=4, r=r, seed=4)
    model, engine = engine_of(design, made, AGQ(nodes))
    x = point(model)
    assert_allclose(value_and_gradient(model, engine, x)[0], brute_force(model, x), rtol=rtol)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("structure", list(STRUCTURES))
def test_value_and_gradient_do_not_depend_on_blocks_threads_or_start(structure):
    """Blocks of 7 rows, two threads and a far warm start; thread count changes no bit."""
    design, made = draw("binomial", "logit", n=150, groups=15, **STRUCTURES[structure])
    model, engine = engine_of(design, made, Laplace())
    x = point(model)
    value, gradient, state = value_and_gradient(model, engine, x)
    warm_value, warm_gradient, _ = value_and_gradient(
        model, engine, x, state._replace(modes=[m + 0.7 for m in state.modes])
    )
    assert_allclose(warm_value, value, rtol=1e-11)
    assert_allclose(warm_gradient, gradient, rtol=1e-7, atol=1e-8)
    _, small = engine_of(design, made, Laplace(), block=7)
    one_value, one_gradient, _ = value_and_gradient(model, small, x)
    assert_allclose(one_value, value, rtol=1e-11)
    assert_allclose(one_gradient, gradient, rtol=1e-7, atol=1e-8)
    _, two = engine_of(design, made, Laplace(), block=7, threads=2)
    two_value, two_gradient, _ = value_and_gradient(model, two, x)
    assert two_value == one_value
    assert (two_gradient == one_gradient).all()


@pytest.mark.parametrize("method", [Laplace(), Laplace(curvature="expected"), AGQ(5)], ids=repr)
def test_frequency_k_is_k_copies(method):
    design, made = draw("gamma", n=60, groups=6, frequency=True)
    copies = design.frequency.astype(int)
    mu = replace(design.mu, x=np.repeat(design.mu.x, copies, axis=1))
    factors = tuple(
        replace(f, z=np.repeat(f.z, copies, axis=1), codes=np.repeat(f.codes, copies)) for f in design.factors
    )
    repeated = replace(design, y=np.repeat(design.y, copies), frequency=None, mu=mu, factors=factors)
    p, at = 2, {"beta": np.array([0.3, 0.1]), "sd": 0.5}
    values = []
    for d in (design, repeated):
        model, engine = engine_of(d, made, method)
        beta = model.x.inward(at["beta"])
        theta = np.array([at["sd"] / model.effects.factors[0].outward[0, 0]])
        v, g, _ = value_and_gradient(model, engine, np.concatenate([beta, [0.2], theta]))
        values.append((v + model.constant(), g[p:]))
    assert_allclose(values[0][0], values[1][0], rtol=1e-11)
    assert_allclose(values[0][1], values[1][1], rtol=1e-8)
