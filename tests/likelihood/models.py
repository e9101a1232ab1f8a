"""Small designs made from arrays, and their likelihoods computed the long way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from polars_glmm.control import Control, Rows
from polars_glmm.design.records import Design, Factor, Predictor, Term
from polars_glmm.families.registry import resolve_family

DRAW = {
    "gaussian": lambda rng, mu: mu + rng.normal(size=len(mu)),
    "binomial": lambda rng, mu: (rng.random(len(mu)) < mu).astype(float),
    "poisson": lambda rng, mu: rng.poisson(mu).astype(float),
    "gamma": lambda rng, mu: rng.gamma(3.0, mu / 3.0),
    "inverse_gaussian": lambda rng, mu: rng.wald(mu, 3.0),
    "negative_binomial": lambda rng, mu: rng.negative_binomial(2, 2 / (2 + mu)).astype(float),
}
LEVEL = {"identity": 3.0, "inverse": 0.6, "inverse_squared": 0.6, "sqrt": 1.8}
"""Where the linear predictor is centred, so that every draw stays inside the link's range."""


def factor(name, codes, columns, structures=None):
    """A grouping factor with one term on all columns, or one term per structure given as (structure, size)."""
    codes = np.unique(codes, return_inverse=True)[1].astype(np.int32)
    z = np.ascontiguousarray(columns, dtype=float)
    terms, start = [], 0
    for structure, size in structures or [("us", len(z))]:
        terms.append(Term(start, start + size, structure, tuple(f"z{i}" for i in range(start, start + size))))
        start += size
    return Factor(name, tuple(terms), z, codes, int(codes.max()) + 1)


def draw(family="poisson", link=None, *, n=160, groups=12, r=1, others=(), modelled_phi=False, seed=0, frequency=False):
    """A design with an intercept, one covariate and random effects; `others` are (levels, r, nested)."""
    rng = np.random.default_rng(seed)
    made = resolve_family(family, link)
    x = rng.uniform(-0.5, 0.5, size=n)
    columns = [np.ones(n), x, rng.normal(size=n) * 0.5]
    codes = rng.integers(0, groups, n)
    factors = [factor("g", codes, columns[:r])]
    for k, (levels, size, nested) in enumerate(others):
        factors.append(factor(f"h{k}", codes // 3 if nested else rng.integers(0, levels, n), columns[:size]))
    level = LEVEL.get(made.link.name, -0.4 if made.link.name in ("log", "identity") and family == "binomial" else 0.3)
    spread = 0.15 if made.link.name in LEVEL or (family, made.link.name) == ("binomial", "log") else 0.6
    eta = level + 0.2 * x + (rng.normal(size=groups) * spread)[codes]
    if family == "binomial" and made.link.name == "log":
        eta = np.minimum(eta - 0.8, -0.05)
    if family == "binomial" and made.link.name == "identity":
        eta = np.clip(0.5 + 0.2 * x + (rng.normal(size=groups) * 0.05)[codes], 0.1, 0.9)
    y = DRAW[family](rng, made.mean(eta))
    phi = (Predictor(np.array([np.ones(n), x]), ("Intercept", "x"), parameter="phi"),) if modelled_phi else ()
    weights = rng.integers(1, 4, n).astype(float) if frequency else None
    mu = Predictor(np.array([np.ones(n), x]), ("Intercept", "x"))
    return Design(y, None, weights, None, mu, phi, tuple(factors)), made


def with_effects_on_phi(design, *terms):
    """The design with random effects on log phi by its first factor: terms of (columns of mu, columns of phi) each."""
    first, *others = design.factors
    available = [np.ones(design.n_rows), design.mu.x[1], np.cos(np.arange(design.n_rows))]
    z, made, start = [], [], 0
    for of_mean, of_phi in terms:
        stop = start + of_mean + of_phi
        names = tuple(f"z{i}" for i in [*range(of_mean), *range(of_phi)])
        on = ("mu",) * of_mean + ("phi",) * of_phi
        made.append(Term(start, stop, "us", names, (0,) * of_mean + (1,) * of_phi, on))
        z += [*available[:of_mean], *available[:of_phi]]
        start = stop
    return replace(design, factors=(replace(first, terms=tuple(made), z=np.array(z)), *others))


def control(block=8192, threads=1):
    return Control(rows=Rows(block=block, threads=threads))


def dense_rows(design):
    """Z (n, q) of all factors side by side, each level's r columns adjacent, with (factor, level) of the columns."""
    parts = []
    for f in design.factors:
        z = np.zeros((design.n_rows, f.n_levels * len(f.z)))
        for j, column in enumerate(f.z):
            z[np.arange(design.n_rows), f.codes * len(f.z) + j] = column
        parts.append(z)
    return np.concatenate(parts, axis=1)


def dense_covariance(design, sigmas):
    """Var(b) (q, q) for one Σ per factor."""
    blocks = [np.kron(np.eye(f.n_levels), s) for f, s in zip(design.factors, sigmas, strict=True)]
    q = sum(len(b) for b in blocks)
    out, at = np.zeros((q, q)), 0
    for b in blocks:
        out[at : at + len(b), at : at + len(b)] = b
        at += len(b)
    return out
