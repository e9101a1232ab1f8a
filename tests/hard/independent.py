"""The same models by dense matrices and textbook formulas, without any of the package's numerics.

V = Σ_f Z_f Σ_f Z_f' + σ² I;  Laplace: ℓ = log p(y | η̂) − ½ b̂'D⁻¹b̂ − ½ log|I + D Z'WZ| (Breslow & Clayton 1993).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, gammaln, logsumexp

Array = Any


def indicators(codes: Sequence[Any] | Array) -> Array:
    """(n, G) indicator columns of a grouping factor."""
    levels, index = np.unique(np.asarray(codes), return_inverse=True)
    return np.eye(len(levels))[index]


def effects(z: Array, codes: Sequence[Any] | Array) -> list[Array]:
    """Per column of z (n, r), the matrix (n, G) that spreads it over the levels."""
    group = indicators(codes)
    return [column[:, None] * group for column in np.asarray(z, dtype=float).T]


def covariance(blocks: Sequence[Array], sigma: Array) -> Array:
    """Σ_jk Σ[j, k] Z_j Z_k'."""
    return sum(sigma[j, k] * blocks[j] @ blocks[k].T for j in range(len(blocks)) for k in range(len(blocks)))


def gaussian_loglik(y: Array, x: Array, v: Array, *, reml: bool) -> float:
    """(Restricted) log-likelihood of y ~ N(xβ, v) with β at its maximum."""
    n, p = x.shape
    c = np.linalg.cholesky(v)
    xs, ys = np.linalg.solve(c, x), np.linalg.solve(c, y)
    beta = np.linalg.lstsq(xs, ys, rcond=None)[0]
    rss = float(((ys - xs @ beta) ** 2).sum())
    twice = (n - p if reml else n) * np.log(2 * np.pi) + 2 * np.log(np.diag(c)).sum() + rss
    return -0.5 * (twice + (np.linalg.slogdet(xs.T @ xs)[1] if reml else 0.0))


def gls(y: Array, x: Array, v: Array) -> tuple[Array, Array]:
    """β̂ and its standard errors at a given v."""
    inverse = np.linalg.inv(x.T @ np.linalg.solve(v, x))
    return inverse @ x.T @ np.linalg.solve(v, y), np.sqrt(np.diag(inverse))


class Counts(NamedTuple):
    """A density of counts with canonical link: log p and its first two derivatives (negated second) in η."""

    logp: Callable[[Array, Array], Array]
    mean: Callable[[Array], Array]
    weight: Callable[[Array], Array]


POISSON = Counts(lambda y, eta: y * eta - np.exp(eta) - gammaln(y + 1), np.exp, np.exp)


def binomial(trials: Array | float) -> Counts:
    """y successes of `trials` at logit η."""
    log_choose = lambda y: gammaln(trials + 1) - gammaln(y + 1) - gammaln(trials - y + 1)
    return Counts(
        lambda y, eta: y * eta - trials * np.logaddexp(0, eta) + log_choose(y),
        lambda eta: trials * expit(eta),
        lambda eta: trials * expit(eta) * expit(-eta),
    )


def laplace_loglik(family: Counts, y: Array, fixed: Array, z: Array, root: Array) -> float:
    """ℓ at η = fixed + z root u, u ~ N(0, I): Newton's method with halving on dense matrices."""
    a = z @ root
    u = np.zeros(a.shape[1])
    joint = lambda u: float(family.logp(y, fixed + a @ u).sum() - 0.5 * u @ u)
    for _ in range(200):
        eta = fixed + a @ u
        gradient = a.T @ (y - family.mean(eta)) - u
        step = np.linalg.solve(a.T @ (family.weight(eta)[:, None] * a) + np.eye(len(u)), gradient)
        if gradient @ step < 1e-18 * max(1.0, abs(joint(u))):
            break
        size = 1.0
        while not joint(u + size * step) >= joint(u) - 1e-9 * abs(joint(u)) and size > 1e-10:
            size /= 2
        u = u + size * step
    h = a.T @ (family.weight(fixed + a @ u)[:, None] * a) + np.eye(len(u))
    return joint(u) - 0.5 * np.linalg.slogdet(h)[1]


def observation_level_loglik(family: Counts, y: Array, fixed: Array, sd: float) -> float:
    """Laplace where every row has its own effect: n scalar problems at once."""
    u = np.zeros_like(fixed)
    for _ in range(100):
        eta = fixed + sd * u
        step = (sd * (y - family.mean(eta)) - u) / (sd**2 * family.weight(eta) + 1)
        u = u + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-12:
            break
    eta = fixed + sd * u
    return float((family.logp(y, eta) - 0.5 * u**2 - 0.5 * np.log1p(sd**2 * family.weight(eta))).sum())


def integral_loglik(family: Counts, y: Array, fixed: Array, codes: Array, sd: float, nodes: int = 4001) -> float:
    """The marginal likelihood of one random intercept, by the trapezoid rule on ±12 sds."""
    grid = np.linspace(-12, 12, nodes)
    weight = -0.5 * grid**2 - 0.5 * np.log(2 * np.pi) + np.log(grid[1] - grid[0])
    total = 0.0
    for level in np.unique(codes):
        rows = codes == level
        eta = fixed[rows][:, None] + sd * grid
        total += float(logsumexp(family.logp(y[rows][:, None], eta).sum(0) + weight))
    return total


def glm(family: Counts, y: Array, x: Array) -> tuple[Array, float]:
    """β̂ and log-likelihood by Newton's method."""
    mean = np.clip(y, 0.1, None).mean()
    beta = (
        np.linalg.lstsq(x, np.full(len(y), np.log(mean)), rcond=None)[0] if family is POISSON else np.zeros(x.shape[1])
    )
    for _ in range(100):
        eta = x @ beta
        step = np.linalg.solve(x.T @ (family.weight(eta)[:, None] * x), x.T @ (y - family.mean(eta)))
        beta = beta + step
        if np.abs(step).max() < 1e-13 * (1 + np.abs(beta).max()):
            break
    return beta, float(family.logp(y, x @ beta).sum())


def best(loglik: Callable[[Array], float], *starts: Sequence[float]) -> float:
    """The highest value that a simplex search finds from any of the starts."""
    found = -np.inf
    for start in starts:
        with np.errstate(all="ignore"):
            result = minimize(
                lambda t: -loglik(t), start, method="Nelder-Mead",
                options={"xatol": 1e-7, "fatol": 1e-10, "maxiter": 20000, "maxfev": 20000},
            )  # fmt: skip
        found = max(found, -float(result.fun))
    return found


def lower(values: Array, r: int) -> Array:
    """The lower triangle (r, r) filled by rows."""
    root = np.zeros((r, r))
    root[np.tril_indices(r)] = values
    return root
