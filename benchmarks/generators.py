"""Seeded data of the generated workloads; equal arguments give equal frames, on every machine.

W3 … W8 have fixed seeds, and their draws must keep their order: published times refer to exactly these data.
`one_factor` and `crossed` are free in every size; scaling.py varies one size at a time with them.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.random import Generator, default_rng

CORRELATION = 0.3  # of random intercept and slope, in every workload that has both


def w3(rows: int) -> pl.DataFrame:
    """Bernoulli, two continuous and two binary covariates, one factor of rows / 50 levels.

    `y` has a random intercept, `ys` also a random slope of x1.
    """
    rng, levels = default_rng(303), rows // 50
    g = rng.integers(0, levels, rows)
    x1, x2 = rng.standard_normal(rows), rng.standard_normal(rows)
    b1, b2 = rng.integers(0, 2, rows), (rng.random(rows) < 0.3).astype(int)
    only = 0.8 * rng.standard_normal(levels)
    intercept, slope = _intercept_and_slope(rng, levels, 0.8, 0.4)
    eta = -0.5 + 0.6 * x1 - 0.4 * x2 + 0.5 * b1 - 0.7 * b2
    y = rng.random(rows) < _logistic(eta + only[g])
    ys = rng.random(rows) < _logistic(eta + intercept[g] + slope[g] * x1)
    return pl.DataFrame(
        {
            "y": y.astype(np.int8), "ys": ys.astype(np.int8), "x1": x1, "x2": x2, "b1": b1.astype(np.int8),
            "b2": b2.astype(np.int8), "g": g.astype(np.int32),
        }
    )  # fmt: skip


def w4(rows: int) -> pl.DataFrame:
    """Poisson counts, three categorical covariates with 24 cells together, one factor of 1000 levels."""
    rng, levels = default_rng(404), 1000
    g = rng.integers(0, levels, rows)
    a, b, c = (rng.integers(0, size, rows) for size in (2, 3, 4))
    u = 0.5 * rng.standard_normal(levels)
    effects = np.array([0, 0.4])[a] + np.array([0, -0.3, 0.2])[b] + np.array([0, 0.1, -0.2, 0.3])[c]
    y = rng.poisson(np.exp(0.3 + effects + u[g]))
    frame = pl.DataFrame({"y": y.astype(np.int32), "a": a, "b": b, "c": c, "g": g.astype(np.int32)})
    return frame.with_columns(pl.format(name + "{}", pl.col(name)).alias(name) for name in "abc")


def w5(rows: int, users: int, items: int) -> pl.DataFrame:
    """Two crossed factors; a Bernoulli (yb), a Poisson (yp) and a gaussian (yg) response of one predictor."""
    rng = default_rng(505)
    user, item = rng.integers(0, users, rows), rng.integers(0, items, rows)
    x1, x2 = rng.standard_normal(rows), rng.integers(0, 2, rows)
    u = 0.7 * rng.standard_normal(users)
    v = 0.5 * rng.standard_normal(items)
    b = u[user] + v[item]
    yb = rng.random(rows) < _logistic(-0.3 + 0.5 * x1 - 0.4 * x2 + b)
    yp = rng.poisson(np.exp(0.2 + 0.3 * x1 - 0.4 * x2 + b))
    yg = 1.0 + 0.5 * x1 - 0.4 * x2 + b + rng.standard_normal(rows)
    return pl.DataFrame(
        {
            "yb": yb.astype(np.int8), "yp": yp.astype(np.int32), "yg": yg, "x1": x1, "x2": x2.astype(np.int8),
            "user": user.astype(np.int32), "item": item.astype(np.int32),
        }
    )  # fmt: skip


def w6(rows: int) -> pl.DataFrame:
    """Gaussian, random intercept and slope of x, one factor of rows / 100 levels."""
    rng, levels = default_rng(606), rows // 100
    g, x = rng.integers(0, levels, rows), rng.standard_normal(rows)
    intercept, slope = _intercept_and_slope(rng, levels, 1.0, 0.5)
    y = 2 + 0.5 * x + intercept[g] + slope[g] * x + 1.5 * rng.standard_normal(rows)
    return pl.DataFrame({"y": y, "x": x, "g": g.astype(np.int32)})


def w7(models: int = 1000, rows: int = 200, levels: int = 10) -> pl.DataFrame:
    """Poisson counts of many separate models `m`, each with its own coefficients and its own levels of g."""
    rng = default_rng(707)
    m = np.repeat(np.arange(models), rows)
    g = np.tile(np.repeat(np.arange(levels), rows // levels), models)
    x = rng.standard_normal(models * rows)
    u = 0.6 * rng.standard_normal((models, levels))
    intercept, slope = rng.normal(0.5, 0.2, models), rng.normal(0.3, 0.1, models)
    y = rng.poisson(np.exp(intercept[m] + slope[m] * x + u[m, g]))
    return pl.DataFrame({"m": m.astype(np.int32), "y": y.astype(np.int32), "x": x, "g": g.astype(np.int32)})


def w8(rows: int = 100_000, schools: int = 200, classes: int = 4000) -> pl.DataFrame:
    """Bernoulli, classes nested in schools."""
    rng = default_rng(808)
    cls = rng.integers(0, classes, rows)
    school = cls // (classes // schools)
    x1, x2 = rng.standard_normal(rows), rng.integers(0, 2, rows)
    u = 0.5 * rng.standard_normal(schools)
    v = 0.6 * rng.standard_normal(classes)
    y = rng.random(rows) < _logistic(0.2 + 0.5 * x1 - 0.3 * x2 + u[school] + v[cls])
    return pl.DataFrame(
        {
            "y": y.astype(np.int8), "x1": x1, "x2": x2.astype(np.int8), "school": school.astype(np.int32),
            "cls": cls.astype(np.int32),
        }
    )  # fmt: skip


def zero_inflated(rows: int, levels: int) -> pl.DataFrame:
    """Negative binomial counts (phi 1.5) with further zeros, whose log odds hang on x1; one factor."""
    rng = default_rng(1111)
    g = rng.permutation(np.arange(rows) % levels)
    x1, x2 = rng.standard_normal(rows), rng.integers(0, 2, rows)
    mu = np.exp(0.8 + 0.4 * x1 - 0.3 * x2 + 0.6 * rng.standard_normal(levels)[g])
    y = rng.poisson(mu * rng.gamma(1.5, 1 / 1.5, rows)) * (rng.random(rows) >= _logistic(-1.0 + 0.5 * x1))
    return pl.DataFrame({"y": y.astype(np.int32), "x1": x1, "x2": x2.astype(np.int8), "g": g.astype(np.int32)})


def ordered(rows: int) -> pl.DataFrame:
    """Five ordered categories, logit link, one factor of rows / 50 levels."""
    rng, levels = default_rng(1112), rows // 50
    g = rng.permutation(np.arange(rows) % levels)
    x1, x2 = rng.standard_normal(rows), rng.integers(0, 2, rows)
    latent = 0.7 * x1 - 0.5 * x2 + 0.8 * rng.standard_normal(levels)[g] + rng.logistic(size=rows)
    y = np.digitize(latent, [-1.5, -0.3, 0.6, 1.8]) + 1
    return pl.DataFrame({"y": y.astype(np.int8), "x1": x1, "x2": x2.astype(np.int8), "g": g.astype(np.int32)})


def autoregressive(rows: int) -> pl.DataFrame:
    """Gaussian, a random intercept of rows / 50 levels and AR(1) residuals (0.6) at t = 0 … 49."""
    rng, levels = default_rng(1113), rows // 50
    e = rng.standard_normal((levels, 50))
    for t in range(1, 50):
        e[:, t] = 0.6 * e[:, t - 1] + 0.8 * e[:, t]
    x = rng.standard_normal((levels, 50))
    y = 1.0 + 0.5 * x + 0.7 * rng.standard_normal((levels, 1)) + e
    g, t = np.repeat(np.arange(levels), 50), np.tile(np.arange(50), levels)
    return pl.DataFrame({"y": y.ravel(), "x": x.ravel(), "t": t.astype(np.int32), "g": g.astype(np.int32)})


def one_factor(rows: int, levels: int, columns: int, seed: int = 1) -> pl.DataFrame:
    """Gaussian (yg), Bernoulli (yb) and Poisson (yp) responses of `columns` covariates x1 … and a random intercept.

    Every level occurs. The variance of the linear predictor does not depend on the number of columns.
    """
    rng = default_rng(seed)
    g = rng.permutation(np.arange(rows) % levels)
    x = rng.standard_normal((columns, rows))
    eta = 0.1 + np.full(columns, 0.5 / np.sqrt(columns)) @ x + 0.7 * rng.standard_normal(levels)[g]
    return _responses(rng, eta).with_columns(
        g=pl.Series(g.astype(np.int32)), **{f"x{j + 1}": pl.Series(x[j]) for j in range(columns)}
    )


def crossed(rows: int, users: int, items: int, seed: int = 2) -> pl.DataFrame:
    """Gaussian (yg), Bernoulli (yb) and Poisson (yp) responses of one covariate x1 and two crossed intercepts."""
    rng = default_rng(seed)
    user, item = rng.permutation(np.arange(rows) % users), rng.permutation(np.arange(rows) % items)
    x1 = rng.standard_normal(rows)
    eta = 0.1 + 0.5 * x1 + 0.7 * rng.standard_normal(users)[user] + 0.5 * rng.standard_normal(items)[item]
    return _responses(rng, eta).with_columns(
        x1=pl.Series(x1), user=pl.Series(user.astype(np.int32)), item=pl.Series(item.astype(np.int32))
    )


def _responses(rng: Generator, eta: np.ndarray) -> pl.DataFrame:
    """One response per family with the linear predictor eta (n,)."""
    yg = eta + rng.standard_normal(len(eta))
    yb = (rng.random(len(eta)) < _logistic(eta)).astype(np.int8)
    return pl.DataFrame({"yg": yg, "yb": yb, "yp": rng.poisson(np.exp(eta)).astype(np.int32)})


def _intercept_and_slope(rng: Generator, levels: int, sd: float, sd_slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Correlated random intercepts and slopes, each (levels,)."""
    z1, z2 = rng.standard_normal(levels), rng.standard_normal(levels)
    return sd * z1, sd_slope * (CORRELATION * z1 + np.sqrt(1 - CORRELATION**2) * z2)


def _logistic(eta: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-eta))


def ratings(rows: int, users: int, items: int) -> pl.DataFrame:
    """Users × items of very uneven activity and fame, as ratings of films are; a gaussian response."""
    rng = default_rng(32)
    user = np.minimum(users * rng.random(rows) ** 2, users - 1).astype(np.int32)
    item = np.minimum(items * rng.random(rows) ** 3, items - 1).astype(np.int32)
    u, v = 0.5 * rng.standard_normal(users), 0.5 * rng.standard_normal(items)
    y = 3.5 + u[user] + v[item] + 0.9 * rng.standard_normal(rows)
    return pl.DataFrame({"y": y, "user": user, "item": item})
