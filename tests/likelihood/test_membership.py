"""Models of rows in several levels: dense likelihoods, what must not change anything, differences of derivatives.

The dense formulas know the matrix of shares M (n, G) alone: η = Xβ + Σ_j z_j ∘ (M b_j).
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import gammaln

import polars_glmm
from polars_glmm import datasets

G, N = 12, 140
TERM = "mm(a, b, weights=(u, v))"


def rows(seed: int = 3, family: str = "gaussian") -> pl.DataFrame:
    """Two slots of one factor; every fifth row uses one of them only, every seventh has a level twice."""
    rng = np.random.default_rng(seed)
    a, b, u = rng.integers(0, G, N), rng.integers(0, G, N), rng.uniform(0.2, 0.9, N)
    b[::7] = a[::7]
    v = 1.0 - u
    u[::5], v[::5] = 1.0, 0.0
    x, h = rng.normal(size=N), rng.integers(0, 5, N)
    m = shares(a, b, u, v)
    eta = 0.4 + 0.5 * x + m @ rng.normal(size=G) + x * (m @ rng.normal(size=G)) * 0.5 + rng.normal(size=5)[h] * 0.5
    y = rng.poisson(np.exp(eta)) if family == "poisson" else eta + 0.7 * rng.normal(size=N)
    w = rng.uniform(0.5, 2.0, N)
    columns = {"y": y, "x": x, "a": a, "b": b, "u": u, "v": v, "h": h, "w": w, "k": rng.integers(0, 40, N)}
    return pl.DataFrame(columns).with_columns(pl.col("a", "b").cast(pl.String).str.zfill(2))


def shares(a: np.ndarray, b: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    m = np.zeros((len(a), G))
    np.add.at(m, (np.arange(len(a)), a), u)
    np.add.at(m, (np.arange(len(a)), b), v)
    return m


def arrays(frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """y, X, M and x."""
    a, b = (frame[name].cast(pl.Int64).to_numpy() for name in "ab")
    x = frame["x"].to_numpy()
    m = shares(a, b, frame["u"].to_numpy(), frame["v"].to_numpy())
    return frame["y"].to_numpy().astype(float), np.column_stack([np.ones(N), x]), m, x


def dense_gaussian(v: np.ndarray, y: np.ndarray, x: np.ndarray, *, reml: bool) -> float:
    """ℓ at the best β, from the rows' covariance matrix (Searle, Casella & McCulloch 1992, §6)."""
    solved, p = np.linalg.solve(v, np.column_stack([x, y])), x.shape[1]
    m = x.T @ solved[:, :p]
    beta = np.linalg.solve(m, x.T @ solved[:, p])
    rest = float((y - x @ beta) @ (solved[:, p] - solved[:, :p] @ beta))
    n = len(y) - (p if reml else 0)
    extra = np.linalg.slogdet(m)[1] if reml else 0.0
    return -0.5 * (n * np.log(2 * np.pi) + np.linalg.slogdet(v)[1] + extra + rest)


def best(v: np.ndarray, y: np.ndarray, x: np.ndarray) -> dict[str, float]:
    """β̂ given V."""
    solved = np.linalg.solve(v, x)
    beta = np.linalg.solve(x.T @ solved, solved.T @ y)
    return {"Intercept": float(beta[0]), "x": float(beta[1])}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("slope", [True, False])
@pytest.mark.parametrize("reml", [False, True])
@pytest.mark.parametrize("other", ["h", "k"])
def test_the_gaussian_likelihood_is_that_of_the_rows_covariance(reml: bool, slope: bool, other: str) -> None:
    """Beside a factor with fewer levels, and beside one with more, which is eliminated first."""
    frame = rows()
    design = "1 + x" if slope else "1"
    formula = f"y ~ x + ({design} | {TERM}) + (1 | {other})"
    objective = polars_glmm.objective(frame, formula, method="reml" if reml else "ml")
    y, x, m, z = arrays(frame)
    h = np.eye(40)[frame[other].to_numpy()]
    rng = np.random.default_rng(0)
    for _ in range(3):
        sd, rho, (of_h, phi) = rng.uniform(0.3, 1.5, 2), rng.uniform(-0.8, 0.8), rng.uniform(0.4, 1.0, 2)
        name = "mm(a, b)"
        at = {f"sd({name}: Intercept)": sd[0], f"sd({other}: Intercept)": of_h, "phi": phi}
        v = sd[0] ** 2 * m @ m.T + of_h**2 * h @ h.T + phi**2 * np.eye(N)
        if slope:
            at |= {f"sd({name}: x)": sd[1], f"cor({name}: Intercept, x)": rho}
            mx = m * z[:, None]
            v += sd[1] ** 2 * mx @ mx.T + rho * sd[0] * sd[1] * (m @ mx.T + mx @ m.T)
        at |= best(v, y, x)
        assert objective.loglik(at) == pytest.approx(dense_gaussian(v, y, x, reml=reml), abs=1e-8)


def test_precision_divides_variances_and_a_formula_of_phi_makes_them() -> None:
    frame, name = rows(), "mm(a, b)"
    y, x, m, _ = arrays(frame)
    w = frame["w"].to_numpy()
    v = 0.8**2 * m @ m.T + np.diag(0.6**2 / w)
    objective = polars_glmm.objective(frame, f"y ~ x + (1 | {TERM})", method="reml", precision="w")
    at = {f"sd({name}: Intercept)": 0.8, "phi": 0.6} | best(v, y, x)
    assert objective.loglik(at) == pytest.approx(dense_gaussian(v, y, x, reml=True), abs=1e-8)
    for method in ("ml", "reml"):
        fit = polars_glmm.fit(frame, f"y ~ x + (1 | {TERM})", "phi ~ x", method=method)
        sd = fit.varcorr()["std_dev"][0]
        gamma = fit.fixef().filter(parameter="phi")["estimate"].to_numpy()
        v = sd**2 * m @ m.T + np.diag(np.exp(2 * x @ gamma))
        assert fit.loglik == pytest.approx(dense_gaussian(v, y, x, reml=method == "reml"), abs=1e-7)


def test_the_laplace_approximation_is_the_dense_one() -> None:
    """The mode by an optimiser of its own, −½ log|H| by the dense H = Λ'Z'WZΛ + I."""
    frame = rows(family="poisson")
    y, x, m, z = arrays(frame)
    name, sd, sd_x, beta = "mm(a, b)", 0.7, 0.4, np.array([0.3, 0.5])
    wide = np.hstack([sd * m, sd_x * m * z[:, None]])

    def minus(u: np.ndarray) -> tuple[float, np.ndarray]:
        eta = x @ beta + wide @ u
        return float(np.exp(eta).sum() - y @ eta + 0.5 * u @ u), wide.T @ (np.exp(eta) - y) + u

    found = minimize(minus, np.zeros(2 * G), jac=True, method="BFGS", options={"gtol": 1e-9})
    weight = np.exp(x @ beta + wide @ found.x)
    h = wide.T @ (weight[:, None] * wide) + np.eye(2 * G)
    expected = -found.fun - 0.5 * np.linalg.slogdet(h)[1] - gammaln(y + 1).sum()
    objective = polars_glmm.objective(frame, f"y ~ x + (1 + x || {TERM})", family="poisson")
    at = {"Intercept": beta[0], "x": beta[1], f"sd({name}: Intercept)": sd, f"sd({name}: x)": sd_x}
    assert objective.loglik(at) == pytest.approx(expected, abs=1e-7)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("family", "further", "method"),
    [("gaussian", (), "reml"), ("gaussian", ("phi ~ x",), "ml"), ("poisson", (), None), ("gamma", (), None)],
)
def test_derivatives_are_differences(family: str, further: tuple[str, ...], method: str | None) -> None:
    frame = rows(family="gaussian" if family == "gaussian" else "poisson")
    frame = frame.with_columns(pl.col("y") + (0.5 if family == "gamma" else 0.0))
    objective = polars_glmm.objective(
        frame, f"y ~ x + (1 + x | {TERM}) + (1 | k)", *further, family=family, method=method
    )
    values = np.random.default_rng(1).uniform(0.3, 0.8, len(objective.names))
    gradient = objective.gradient(values)
    for k, step in enumerate(1e-5 * np.eye(len(values))):
        difference = (objective.loglik(values + step) - objective.loglik(values - step)) / 2e-5
        assert gradient[k] == pytest.approx(difference, rel=2e-5, abs=2e-5), objective.names[k]


def same(one: polars_glmm.Fit, other: polars_glmm.Fit, near: float = 1e-6) -> None:
    """Two fits say the same."""
    assert one.loglik == pytest.approx(other.loglik, abs=1e-8)
    for table in ("fixef", "varcorr"):
        a, b = (getattr(fit, table)() for fit in (one, other))
        assert_allclose(a["estimate"], b["estimate"], rtol=near, atol=1e-8)
        assert_allclose(a["std_error"], b["std_error"], rtol=1e-4)
    a, b = (fit.ranef().sort("level", "term") for fit in (one, other))
    assert a["level"].to_list() == b["level"].to_list()
    assert_allclose(a["estimate"], b["estimate"], rtol=near, atol=1e-6)
    assert_allclose(a["std_error"], b["std_error"], rtol=1e-4)


FAMILIES = pytest.mark.parametrize("family", ["poisson", "gaussian"])
"""Of laws of both the first is ordinary."""


@pytest.mark.one_in(2)
@FAMILIES
def test_one_slot_of_weight_one_is_an_ordinary_factor(family: str) -> None:
    frame = rows(family=family).with_columns(one=pl.lit(1.0))
    fit = lambda term: polars_glmm.fit(frame, f"y ~ x + (1 + x | {term})", family=family)
    same(fit("mm(a)"), fit("a"), 1e-5)
    same(fit("mm(a, weights=one)"), fit("a"), 1e-5)


@pytest.mark.one_in(2)
@FAMILIES
def test_the_same_level_twice_by_halves_is_an_ordinary_factor(family: str) -> None:
    frame = rows(family=family).with_columns(c=pl.col("a"))
    same(
        polars_glmm.fit(frame, "y ~ x + (1 | mm(a, c))", family=family),
        polars_glmm.fit(frame, "y ~ x + (1 | a)", family=family), 1e-5,
    )  # fmt: skip


@pytest.mark.one_in(2)
@FAMILIES
def test_slots_may_change_places_with_their_weights(family: str) -> None:
    frame = rows(family=family)
    fit = lambda term: polars_glmm.fit(frame, f"y ~ x + (1 | {term})", family=family)
    same(fit(TERM), fit("mm(b, a, weights=(v, u))"))


@pytest.mark.one_in(2)
@FAMILIES
def test_a_slot_of_weight_zero_is_not_there_whatever_it_holds(family: str) -> None:
    frame = rows(family=family)
    unused = pl.col("v") == 0.0
    fit = lambda data: polars_glmm.fit(data, f"y ~ x + (1 | {TERM})", family=family)
    first = fit(frame)
    for other in (
        frame.with_columns(b=pl.when(unused).then(pl.lit("nobody")).otherwise("b")),
        frame.with_columns(b=pl.when(~unused).then("b")),
        frame.with_columns(pl.when(~unused).then("b"), pl.when(~unused).then("v")),
    ):
        same(fit(other), first)
    assert fit(frame.with_columns(b=pl.when(~unused).then("b"))).n_obs == N
    third = frame.with_columns(c=pl.lit("nobody"), t=pl.lit(0.0))
    same(polars_glmm.fit(third, "y ~ x + (1 | mm(a, b, c, weights=(u, v, t)))", family=family), first)


def test_weights_are_taken_as_they_are() -> None:
    """Twice the weights are half the standard deviation, and the same likelihood."""
    frame = rows()
    one = polars_glmm.fit(frame, f"y ~ x + (1 | {TERM})")
    two = polars_glmm.fit(frame.with_columns(pl.col("u", "v") * 2.0), f"y ~ x + (1 | {TERM})")
    assert two.loglik == pytest.approx(one.loglik, abs=1e-9)
    assert_allclose(two.varcorr()["std_dev"][0], 0.5 * one.varcorr()["std_dev"][0], rtol=1e-6)
    assert_allclose(two.ranef()["estimate"], 0.5 * one.ranef()["estimate"], rtol=1e-6)
    assert [note.code for note in one.notes] == []
    (note,) = two.notes
    assert note.code == "membership_weights"
    assert "sum to 2 in row 0" in note.text


def test_rows_in_another_order_and_frames_that_are_lazy_give_the_same_fit() -> None:
    frame = rows(family="poisson")
    fit = lambda data: polars_glmm.fit(data, f"y ~ x + (1 | {TERM})", family="poisson")
    same(fit(frame.sample(fraction=1.0, shuffle=True, seed=1)), fit(frame))
    same(fit(frame.lazy()), fit(frame))


def test_moments_of_draws_are_those_of_the_model() -> None:
    """Cov(η_i, η_j) = σ² (MM')_ij: rows that share levels by their shares, over many draws."""
    frame = rows()
    held = {"sd(mm(a, b): Intercept)": 1.5, "phi": 0.1}
    fit, n = polars_glmm.fit(frame, f"y ~ x + (1 | {TERM})", fixed=held, method="ml"), 500
    drawn = fit.simulate(frame, n=n, rng=1).select(pl.col("^sim_.*$")).to_numpy()
    _, _, m, _ = arrays(frame)
    expected = 1.5**2 * m @ m.T + 0.1**2 * np.eye(N)
    found = np.cov(drawn)
    size = np.sqrt(np.diag(expected))
    # a covariance of n draws has a standard error of at most √2 σ_i σ_j / √n
    assert np.abs((found - expected) / np.outer(size, size)).max() < 5.0 * np.sqrt(2.0 / n)


def test_a_fit_finds_what_it_was_simulated_from() -> None:
    """Known shares, 400 levels: estimates within four standard errors (Browne, Goldstein & Rasbash 2001, the model)."""
    rng, n, g = np.random.default_rng(8), 4000, 400
    slots, w = rng.integers(0, g, (3, n)), rng.dirichlet(np.ones(3), n).T
    b, x = 0.8 * rng.normal(size=g), rng.normal(size=n)
    eta = -0.5 + 0.3 * x + (w * b[slots]).sum(0)
    columns = {f"s{k}": slots[k] for k in range(3)} | {f"w{k}": w[k] for k in range(3)}
    frame = pl.DataFrame({"y": rng.poisson(np.exp(eta)), "x": x, **columns})
    fit = polars_glmm.fit(frame, "y ~ x + (1 | mm(s0, s1, s2, weights=(w0, w1, w2)))", family="poisson")
    found = fit.fixef()
    assert (np.abs(found["estimate"].to_numpy() - [-0.5, 0.3]) < 4 * found["std_error"].to_numpy()).all()
    variance = fit.varcorr().row(0, named=True)
    assert abs(variance["estimate"] - 0.64) < 4 * variance["std_error"]


def test_an_ordinary_model_of_a_real_data_set_is_a_case() -> None:
    frame = datasets.load("sleepstudy")
    same(
        polars_glmm.fit(frame, "Reaction ~ Days + (Days | mm(Subject))"),
        polars_glmm.fit(frame, "Reaction ~ Days + (Days | Subject)"), 1e-5,
    )  # fmt: skip
