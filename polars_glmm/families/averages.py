"""Means and distributions of a response averaged over a normal linear predictor: one dimension, whatever the model.

Given the fixed effects the linear predictor of a row is N(eta, v) with v = z'Σz, so that every average over the random
effects is E h(eta + √v Z), Z standard normal. Identity, log and probit links have it in closed form. Elsewhere the
trapezoidal rule is taken: for a function without a singularity within a distance d of the real line its error is
2M exp(−2πd/step) (Trefethen & Weideman 2014, SIAM Review 56, theorem 5.1), so that the step follows from v alone, and
a large variance costs more nodes instead of digits. Derivatives come from ∂E h/∂eta = E h' and ∂E h/∂v = ½ E h''.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from polars_glmm.errors import ModelError
from polars_glmm.families.base import Family, Predictors, Rows, beyond_parameters
from polars_glmm.families.links import Link
from polars_glmm.typing import IntVec, Mat, Vec

_REACH = 8.5
"""Standard deviations of a normal variable beyond which 2e-17 of it lies."""
_STEP = 0.75
"""Step for the normal density itself: exp(−2π²/step²) is 6e-16."""
_DIGITS = 32.0
"""−log of what a singularity may add."""
_STRIP = {"logit": np.pi, "cauchit": 1.0}
"""How far the singularities of an inverse link are from the real line; ½π where exp(−exp eta) begins to grow."""
_STEEP = {"inverse_gaussian": 0.25 * np.pi}
"""The same for the densities of a family, ½π where they hold exp(−exp eta)."""
_ENDLESS = frozenset({"inverse", "inverse_squared"})
_NARROW = 64.0
"""Standard deviations of eta over the width of a likelihood in eta, from which that width sets the nodes."""
_AT_ONCE = 1 << 19
"""Rows times nodes at a time."""
_LARGEST_SIZE = 1e12


class Averaged(NamedTuple):
    """E h(eta + √v Z) with its derivatives in eta and in v; each (n,)."""

    value: Vec
    d_eta: Vec
    d_variance: Vec


def averaged_mean(link: Link, eta: Vec, variance: Vec) -> Averaged:
    """The mean over the population, E g⁻¹(eta + √v Z), for eta and v ≥ 0 (n,).

    Raises ModelError for links whose inverse has a pole, under which there is no such mean.
    """
    eta, v = np.broadcast_arrays(np.asarray(eta, dtype=np.float64), np.asarray(variance, dtype=np.float64))
    if link.name in _ENDLESS:
        msg = f"Under link {link.name!r} the mean has a pole: its average over normal random effects does not exist."
        raise ModelError(msg)
    exact = _EXACT.get(link.name)
    if exact is not None:
        return exact(eta, v)
    value, slope, bend = np.empty((3, *eta.shape))
    for rows, z, weights in _nodes(_step(_STRIP.get(link.name, 0.5 * np.pi), np.sqrt(v))):
        at = eta[rows] + np.sqrt(v[rows]) * z
        views = link.value(at, 2)
        for out, view in zip((value, slope, bend), views, strict=True):
            out[rows] = weights @ view
    return Averaged(value, slope, 0.5 * bend)


def _identity(eta: Vec, v: Vec) -> Averaged:
    return Averaged(eta + 0.0, np.ones_like(eta), np.zeros_like(v))


def _log(eta: Vec, v: Vec) -> Averaged:
    with np.errstate(over="ignore"):
        mean = np.exp(eta + 0.5 * v)
    return Averaged(mean, mean, 0.5 * mean)


def _sqrt(eta: Vec, v: Vec) -> Averaged:
    return Averaged(eta * eta + v, 2.0 * eta, np.ones_like(v))


def _probit(eta: Vec, v: Vec) -> Averaged:
    """Φ(eta/√(1 + v)) (Zeger, Liang & Albert 1988)."""
    root = np.sqrt(1.0 + v)
    scaled = eta / root
    density = np.exp(-0.5 * scaled * scaled) / np.sqrt(2.0 * np.pi)
    return Averaged(np.asarray(special.ndtr(scaled)), density / root, -0.5 * scaled * density / (1.0 + v))


_EXACT: dict[str, Callable[[Vec, Vec], Averaged]] = {
    "identity": _identity, "log": _log, "sqrt": _sqrt, "probit": _probit,
}  # fmt: skip


def averaged_cdf(
    family: Family, rows: Rows, eta: Vec, variance: Vec, phi: Vec | float | None, *, upper: bool = False
) -> Vec:
    """P(Y ≤ y), or with `upper` P(Y > y), with the random effects integrated out, for rows, eta and v (n,).

    Where eta leaves the domain of the link the distribution is that of the rest, and less exact: a step of nodes.
    """
    if family.linear:
        with np.errstate(all="ignore"):
            return family.cdf(rows, np.asarray(eta, dtype=np.float64), _spread(rows, variance, phi), upper=upper)

    def of(rows: Rows, eta: Mat, phi: Vec | float | None) -> Mat:
        return family.cdf(rows, family.mean(eta), phi, upper=upper)

    return _averaged(family, rows, (eta, variance, phi), of, _through_tolerance)


def averaged_density(family: Family, rows: Rows, eta: Vec, variance: Vec, phi: Vec | float | None) -> Vec:
    """The density or probability of y with the random effects integrated out, (n,); as `averaged_cdf`."""
    if family.linear:
        log_phi = np.log(_spread(rows, variance, phi))
        return np.asarray(np.exp(family.density(rows, (eta, log_phi), 0).f + family.constant(rows)))

    def of(rows: Rows, eta: Mat, phi: Vec | float | None) -> Mat:
        if family.link.name == "sqrt":  # the mean is eta² on both sides of zero
            eta = np.abs(eta)
        return np.exp(family.density(rows, _predictors(family, eta, phi), 0).f + family.constant(rows))

    return _averaged(family, rows, (eta, variance, phi), of, _over_likelihood)


def _spread(rows: Rows, variance: Vec, phi: Vec | float | None) -> Vec:
    """phi of a gaussian response about eta, which stays gaussian when eta is: v + phi²/precision, as phi²/precision."""
    assert phi is not None
    precision = 1.0 if rows.precision is None else rows.precision
    return np.asarray(np.sqrt(np.square(phi) + np.asarray(variance) * precision))


_Given = tuple[Vec, Vec, "Vec | float | None"]
_Of = Callable[[Rows, Mat, "Vec | float | None"], Mat]


def _averaged(family: Family, rows: Rows, given: _Given, of: _Of, narrow: Callable[[Mat, Mat, Vec, Vec], Vec]) -> Vec:
    """E of a function of rows and eta; `narrow` where it changes within a small part of the spread of eta."""
    y = np.asarray(rows.y, dtype=np.float64)
    eta, v = np.broadcast_arrays(*(np.asarray(part, dtype=np.float64) for part in given[:2]))
    n = max(len(y), len(eta))
    y, eta, v = (np.broadcast_to(part, n) for part in (y, eta, v))
    rows, phi, sd = rows._replace(y=y), given[2], np.sqrt(v)
    peak, width = _likelihood(family, rows, phi)
    strip = min(_STRIP.get(family.link.name, np.inf), _STEEP.get(family.name, 0.5 * np.pi))
    with np.errstate(all="ignore"):
        step = np.minimum(_STEP / np.sqrt(1.0 + np.square(sd / width)), _step(strip, sd))
        thin = sd > _NARROW * width
    out = np.full(n, np.nan)
    with np.errstate(all="ignore"):
        for places, z, weights in _nodes(np.where(thin, np.nan, step)):
            at = eta[places] + sd[places] * z
            own = take_rows(rows, places)
            values = of(own, at, part_of(phi, places))
            inside = np.isfinite(values)
            share = weights @ inside
            out[places] = weights @ np.where(inside, values, 0.0) / np.where(share > 0.0, share, np.nan)
        places = np.flatnonzero(thin)
        for part in np.array_split(places, max(1, len(places) * _GRID.size // _AT_ONCE)):
            if len(part):
                at = peak[part] + width[part] * _GRID[:, None]
                values = of(take_rows(rows, part), at, part_of(phi, part))
                out[part] = narrow(values, at, eta[part], sd[part])
    return out


_GRID = 0.25 * np.arange(-64.0, 65.0)
"""Widths of a likelihood from its peak."""


def _through_tolerance(values: Mat, at: Mat, eta: Vec, sd: Vec) -> Vec:
    """E F(eta + sd Z) = Σ −ΔF(t) Φ((t − eta)/sd) + F(∞): F as a step whose place is spread over the grid (Abel)."""
    middle = 0.5 * (at[1:] + at[:-1])
    falls = values[:-1] - values[1:]
    return np.asarray((falls * special.ndtr((middle - eta) / sd)).sum(0) + values[-1])


def _over_likelihood(values: Mat, at: Mat, eta: Vec, sd: Vec) -> Vec:
    """∫ p(y | t) φ((t − eta)/sd) dt/sd over the grid."""
    density = np.exp(-0.5 * np.square((at - eta) / sd)) / (np.sqrt(2.0 * np.pi) * sd)
    return np.asarray((np.nan_to_num(values) * density).sum(0) * (at[1] - at[0]))


def _likelihood(family: Family, rows: Rows, phi: Vec | float | None) -> tuple[Vec, Vec]:
    """Where in eta the likelihood of a row is highest, and how wide it is there; each (n,)."""
    with np.errstate(all="ignore"):
        peak = family.start(rows._replace(y=np.maximum(rows.y, 0.0)) if family.discrete else rows)
        curvature = family.expected(rows, _predictors(family, peak, phi)).w[0, 0]
        width = 1.0 / np.sqrt(curvature)
    n = rows.y.shape
    return np.broadcast_to(peak, n), np.broadcast_to(np.where(width > 0.0, width, np.inf), n)


def _predictors(family: Family, eta: Vec, phi: Any) -> Predictors:
    """The linear predictors of a mean and of what is beyond it; a size beyond counting is a large one."""
    values = () if phi is None else phi if isinstance(phi, tuple) else (phi,)
    further = zip((one for _, one in beyond_parameters(family)), values, strict=True)
    return (eta, *(one.link.forward(np.minimum(value, _LARGEST_SIZE)) for one, value in further))


def _step(strip: float, sd: Vec) -> Vec:
    """Step of the rule in units of Z for a function that is analytic in a strip around the real eta, (n,)."""
    with np.errstate(divide="ignore"):
        return np.minimum(_STEP, 2.0 * np.pi * strip / (_DIGITS * sd))


def _nodes(step: Vec) -> Iterator[tuple[IntVec, Mat, Vec]]:
    """Rows that share a rule, its nodes (k, 1) and weights (k,); rows whose step is NaN are left out."""
    with np.errstate(invalid="ignore"):
        wanted = np.where(np.isfinite(step), 16.0 * np.ceil(_REACH / step / 16.0), 0.0)
    for half in np.unique(wanted[wanted > 0.0]):
        z = np.linspace(-_REACH, _REACH, 2 * int(half) + 1)
        weights = np.exp(-0.5 * z * z)
        weights /= weights.sum()
        places = np.flatnonzero(wanted == half)
        for part in np.array_split(places, max(1, len(places) * len(z) // _AT_ONCE)):
            yield part, z[:, None], weights


def take_rows(rows: Rows, places: IntVec) -> Rows:
    """Some of the rows."""
    return rows.each(lambda v: v[places] if v.ndim else v)


def part_of(values: Any, places: IntVec) -> Any:
    """The values of some rows; one for all stays one, and several by their places."""
    if isinstance(values, tuple):
        return tuple(part_of(one, places) for one in values)
    return values[places] if isinstance(values, np.ndarray) and values.ndim else values


def random_variance(z: Mat, covariance: Mat) -> Vec:
    """z'Σz (n,) for z (r, n), the columns of one random-effects term or of a factor."""
    return np.asarray(np.einsum("rn,rn->n", z, covariance @ z))


def natural_jacobian(
    average: Averaged, x: Mat, terms: Sequence[tuple[Mat, tuple[IntVec, IntVec]]], *, n_gamma: int, n_phi: int
) -> Mat:
    """∂E h/∂(beta, gamma, vech Σ₁, vech Σ₂, …, phi) (P, n), in the order of Estimate.report.

    x (p, n); terms: z_t (r_t, n) of every random-effects term, one after the other, and the rows and columns of Σ_t
    that are reported (`STRUCTURES[…].vech(r)`). Zero for gamma and phi, which a mean does not know.
    """
    n = x.shape[1]
    rows = [average.d_eta * x, np.zeros((n_gamma, n))]
    for z, (i, j) in terms:
        rows.append(average.d_variance * z[i] * z[j] * np.where(i == j, 1.0, 2.0)[:, None])
    return np.concatenate([*rows, np.zeros((n_phi, n))])
