"""Amounts that may be zero: Poisson many gamma amounts, with a variance phi·mu^power of a given power."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special

from polars_glmm.errors import ModelError
from polars_glmm.families import jet
from polars_glmm.families.base import Expected, Parameter, Predictors, Rows
from polars_glmm.families.jet import Jet
from polars_glmm.families.links import Derivatives, Link, Logit
from polars_glmm.families.mean_family import Further, Mean, MeanFamily
from polars_glmm.typing import BoolVec, Mat, Vec

LEAST, MOST = 1.01, 1.99
"""Powers: at 1 the amounts become counts of φ, at 2 gamma amounts without a zero."""
_NODES = (48, 96, 192)
_FEW = 20.0
"""Numbers of amounts on either side beyond the standard deviations, which tell little where there are few amounts."""
_WIDE = 9.0
"""Standard deviations of the number of amounts on either side of its likeliest value: 1e-18 of it lies beyond."""
_AT_ONCE = 1 << 15
FAR = 12.0
"""Predictor of the power from which on it is an end of its range: 2 to 6e-6, where a density is the gamma's to 1e-5."""
FIRST = 1.5
"""The power from which a search begins."""
_MOST_PREDICTOR = 14.0
"""Beyond it a density stays as it is: the sum over amounts would lose its digits."""
_NEAR_TWO, _DRAWN = 2.0 - 1e-4, 2.0 - 1e-6
"""Powers from which the distribution is the gamma's, and up to which numbers of amounts are drawn."""


@dataclass(frozen=True)
class PowerLink(Logit):
    """p = 1.01 + 0.99/(1 + exp −omega): from where the law is one of counts of φ to the gamma's."""

    name: str = "tweedie_power"

    def inverse(self, eta: Vec) -> Vec:
        return LEAST + _WIDTH * super().inverse(np.asarray(eta, dtype=np.float64))

    def forward(self, mu: Vec) -> Vec:
        with np.errstate(divide="ignore"):
            return super().forward(np.clip((np.asarray(mu, dtype=np.float64) - LEAST) / _WIDTH, 0.0, 1.0))

    def value(self, eta: Vec, order: int) -> Derivatives:
        share, *slopes = super().value(np.asarray(eta, dtype=np.float64), order)
        return LEAST + _WIDTH * share, *(_WIDTH * one for one in slopes)


_WIDTH = 2.0 - LEAST
_POWER_LINK = PowerLink()


@dataclass(frozen=True, init=False, repr=False)
class Tweedie(MeanFamily):
    """log p = −[y mu^(1−p)/(p − 1) + mu^(2−p)/(2 − p)]/φ − log y + log W(y, φ, p), the last two for y > 0.

    W = Σ_j over the number of amounts (Dunn & Smyth 2005, Stat. Comput. 15, eq. 3 and 4). p = power is held at the
    number given, or with None a parameter of its own, estimated between 1.01 and 2, where the law is the gamma's.
    """

    power: float | None

    name = "tweedie"
    has_phi = True
    phi_definition = "dispersion: variance phi·mu^power"
    links = ("log",)
    canonical_link = None
    concave_links = frozenset({"log"})
    mean_range = "positive"

    def __init__(self, link: str | Link | None = None, *, power: float | None = None) -> None:
        super().__init__(link)
        if power is not None and not LEAST <= power <= MOST:
            msg = f"Tweedie(power={power!r}): the power is between {LEAST} and {MOST}; 1 is Poisson's, 2 the gamma's."
            raise ModelError(msg)
        object.__setattr__(self, "power", None if power is None else float(power))

    def __repr__(self) -> str:
        return f"Tweedie(power={self.power})" if self.power is None else f"Tweedie(power={self.power:g})"

    @property
    def held(self) -> Mapping[str, float]:
        return {} if self.power is None else {"power": self.power}

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Of mean and log phi, and of the power where it is estimated."""
        if self.power is not None:
            return super().parameters
        said = "power of the mean in the variance"
        return (*super().parameters, Parameter("power", _POWER_LINK, said, FAR, "gamma", ends=(LEAST, 2.0)))

    @property
    def n_parameters(self) -> int:
        return 2 if self.power is not None else 3

    @property
    def knows_information(self) -> bool:  # type: ignore[override]
        return self.power is not None

    def _split(self, phi: Any) -> tuple[Any, Any]:
        """phi and the power."""
        if self.power is not None:
            return phi, np.float64(self.power)
        own, power = phi
        return own, np.asarray(power, dtype=np.float64)

    @property
    def phi_words(self) -> tuple[str, str]:
        if self.power is None:
            return "Dispersion", "The variance is phi*mu^power."
        return "Dispersion", f"The variance is phi*mu^{self.power:g}, the power held."

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        if self.power is None:
            return _free_density(rows.y, mu, *further)
        (zeta,) = further
        p, y = self.power, rows.y
        ahead, whole = (1.0 - p) * mu.log - zeta, (2.0 - p) * mu.log - zeta
        amounts = zeta.through(*self._log_series(y, zeta))
        return amounts - jet.exp(ahead) * (y / (p - 1.0)) - jet.exp(whole) * (1.0 / (2.0 - p))

    def log_minus_log_p0(self, mu: Mean, further: Further) -> Jet:
        """log of −log P(Y = 0) = log of the mean number of amounts."""
        if self.power is None:
            zeta, omega = further
            _, to_two, log_to_two = _power(omega)
            return to_two * mu.log - zeta - log_to_two
        (zeta,) = further
        return (2.0 - self.power) * mu.log - zeta - float(np.log(2.0 - self.power))

    def _log_series(self, y: Vec, zeta: Jet) -> tuple[Vec, ...]:
        """log W and its derivatives in log φ: cumulants of the number of amounts, times powers of −1/(p − 1)."""
        assert self.power is not None  # held
        order = zeta.order if len(zeta.parts) > 1 else 0
        c = 1.0 / (self.power - 1.0)
        y, log_phi = np.broadcast_arrays(y, zeta.f)
        some = y > 0.0
        out = np.zeros((4, *y.shape))
        log_y, log_phi = np.log(y[some]), log_phi[some]
        found = np.empty((4, log_y.size))
        for start in range(0, log_y.size, _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            found[:, part] = self._cumulants(log_y[part], log_phi[part])
        out[:, some] = found
        factors = (1.0, -c, c * c, -(c**3))
        return tuple(out[k] * factors[k] for k in range(order + 1))

    def _cumulants(self, log_y: Vec, log_phi: Vec) -> tuple[Vec, ...]:
        """log Σ_j and the first three cumulants of j: all j that matter, or as many nodes of the smooth sum."""
        p = self.power
        assert p is not None  # held
        a = (2.0 - p) / (p - 1.0)
        log_z = a * log_y - a * np.log(p - 1.0) - np.log(2.0 - p) - log_phi / (p - 1.0)
        out = np.empty((4, len(log_y)))
        for rows, j, step in _amounts(log_y, log_phi, np.full_like(log_y, 2.0 - p)):
            terms = j * log_z[rows] - special.gammaln(j + 1.0) - special.gammaln(a * j)
            most = terms.max(axis=0)
            weights = np.exp(terms - most)
            total = weights.sum(axis=0)
            weights /= total
            mean = (weights * j).sum(axis=0)
            away = j - mean
            second = (weights * away**2).sum(axis=0)
            out[:, rows] = most + np.log(total * step), mean, second, (weights * away**3).sum(axis=0)
        return tuple(out)

    def constant(self, rows: Rows) -> Vec:
        return -np.log(np.where(rows.y > 0.0, rows.y, 1.0))

    def expected(self, rows: Rows, at: Predictors) -> Expected:
        if self.power is not None:
            return super().expected(rows, at)
        self._require(at)
        to_two = 2.0 - _POWER_LINK.inverse(np.asarray(at[2]))
        with np.errstate(all="ignore"):
            w = np.exp(np.minimum(to_two * np.asarray(at[0], dtype=np.float64) - np.asarray(at[1]), 700.0))
        return Expected.of(w, to_two * w, -w)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:  # noqa: ARG002
        """mu^(2−p)/φ."""
        to_two = 2.0 - (FIRST if self.power is None else self.power)
        w = np.exp(np.minimum(to_two * eta - np.asarray(zeta), 700.0))
        return Expected.of(w, to_two * w, -w)

    def cdf(self, rows: Rows, mu: Vec, phi: Any, *, upper: bool = False) -> Vec:
        """Sums over the number of amounts, Poisson weights of gamma distributions; one of them at a power of 2."""
        phi, power = self._split(phi)
        p = np.minimum(power, _NEAR_TWO)
        rate, a = _rate(mu, phi, p), (2.0 - p) / (p - 1.0)
        scale = np.asarray(phi) * (p - 1.0) * mu ** (p - 1.0)
        y = np.maximum(rows.y, 0.0)
        first = np.maximum(1.0, np.floor(rate - _WIDE * np.sqrt(rate)))
        count = int(np.nanmax(2.0 * _WIDE * np.sqrt(rate), initial=0.0)) + 40
        total = np.zeros(np.broadcast_shapes(y.shape, rate.shape))
        for k in range(count):
            j = first + k
            weight = np.exp(special.xlogy(j, rate) - rate - special.gammaln(j + 1.0))
            part = special.gammaincc(a * j, y / scale) if upper else special.gammainc(a * j, y / scale)
            total += weight * part
        negative, gamma = rows.y < 0.0, power > _NEAR_TWO
        of_gamma = (special.gammaincc if upper else special.gammainc)(1.0 / np.asarray(phi), y / (phi * mu))
        if upper:
            found = np.where(gamma, of_gamma, np.minimum(total, 1.0))
            return np.where(negative, 1.0, found) + 0.0 * mu
        found = np.where(gamma, of_gamma, np.minimum(total + np.exp(-rate), 1.0))
        return np.where(negative, 0.0, found) + 0.0 * mu

    def variance(self, mu: Vec, phi: Any) -> Vec:
        phi, p = self._split(phi)
        return np.asarray(phi * mu**p)

    def unit_deviance(self, rows: Rows, mu: Vec, phi: Any) -> Vec:
        """2[y^(2−p)/((1−p)(2−p)) − y mu^(1−p)/(1−p) + mu^(2−p)/(2−p)]."""
        p, y = np.minimum(self._split(phi)[1], _DRAWN), rows.y
        q, r = 1.0 - p, 2.0 - p
        return np.asarray(np.maximum(2.0 * (y**r / (q * r) - y * mu**q / q + mu**r / r), 0.0))

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Any, rows: Rows) -> Vec:  # noqa: ARG002
        phi, p = self._split(phi)
        p = np.minimum(p, _DRAWN)
        count = rng.poisson(_rate(mu, phi, p))
        scale = np.asarray(phi) * (p - 1.0) * mu ** (p - 1.0)
        return np.asarray(rng.gamma(count * (2.0 - p) / (p - 1.0)) * scale)

    def outside_support(self, rows: Rows) -> BoolVec:
        return ~(np.isfinite(rows.y) & (rows.y >= 0.0))

    def first_mean(self, rows: Rows) -> Vec:
        return rows.y + 0.1 * (float(np.mean(rows.y)) or 1.0)

    def start_further(self, rows: Rows, mu: Vec) -> tuple[float, ...]:
        own = float(np.log(self.start_phi(rows, mu)))
        return (own,) if self.power is not None else (own, float(_POWER_LINK.forward(np.array(FIRST))))

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        """Mean squared Pearson residual."""
        p = FIRST if self.power is None else self.power
        return max(float(np.mean((rows.y - mu) ** 2 / mu**p)), 1e-12)


def _rate(mu: Vec, phi: Vec | float, p: Vec | float) -> Vec:
    """Mean number of amounts."""
    return np.asarray(mu ** (2.0 - p) / (np.asarray(phi) * (2.0 - p)))


def _amounts(log_y: Vec, log_phi: Vec, to_two: Vec) -> Iterator[tuple[BoolVec, Mat, Vec]]:
    """Numbers of amounts j (J, m) that matter to rows, or as many nodes of the smooth sum, and their distance (m,).

    Rows that need few of them stand together: marks (n,) of theirs come first.
    """
    top = np.exp(np.minimum(to_two * log_y - log_phi - np.log(to_two), 100.0))
    spread = np.sqrt(np.maximum(top, 1.0) * (1.0 - to_two))
    count, least = 2.0 * (_WIDE * spread + _FEW) + 1.0, 0.0
    for nodes in _NODES:
        rows = (count > least) & ((count <= nodes) | (nodes == _NODES[-1]))
        least = nodes
        if not rows.any():
            continue
        step = np.maximum(1.0, 2.0 * _WIDE / (nodes - 1) * spread[rows])
        first = np.maximum(1.0, np.floor(top[rows] - 0.5 * (nodes - 1) * step))
        yield rows, first + step * np.arange(nodes)[:, None], step


def _power(omega: Jet) -> tuple[Jet, Jet, Jet]:
    """p − 1, 2 − p and log(2 − p) from the predictor of the power, each to its own precision."""
    at = omega.f
    inside = np.clip(at, -_MOST_PREDICTOR, _MOST_PREDICTOR)
    if np.any(inside != at):
        beyond = inside != at
        parts = {degree: np.where(beyond, 0.0, v) if degree else inside for degree, v in omega.parts.items()}
        omega = Jet(parts, omega.order, omega.still)
    log_to_two = float(np.log(_WIDTH)) - jet.softplus(omega)
    return jet.exp(-jet.softplus(-omega)) * _WIDTH + (LEAST - 1.0), jet.exp(log_to_two), log_to_two


def _free_density(y: Vec, mu: Mean, zeta: Jet, omega: Jet) -> Jet:
    """log p(y | mu, φ, p) with the power a predictor too."""
    above, to_two, log_to_two = _power(omega)
    c = jet.exp(-jet.log(above))
    ahead = jet.exp(-above * mu.log - zeta) * c * y
    whole = jet.exp(to_two * mu.log - zeta - log_to_two)
    moving = [one for one in (zeta, omega) if len(one.parts) > 1]
    order = max((1 if one.still else one.order for one in moving), default=0)
    places = [(i, k - i) for k in range(order + 1) for i in range(k + 1)]
    found = _sums(_frozen(y), _frozen(zeta.f), _frozen(omega.f), order)
    amounts = jet.through_both(dict(zip(places, found, strict=True)), *_sum_of(y, zeta, above, log_to_two, c))
    return amounts - ahead - whole


def _sum_of(y: Vec, zeta: Jet, above: Jet, log_to_two: Jet, c: Jet) -> tuple[Jet, Jet]:
    """What log W is a function of: s = log z and a."""
    a = c - 1.0
    return a * (np.log(np.where(y > 0.0, y, 1.0)) - jet.log(above)) - log_to_two - zeta * c, a


def _frozen(v: Vec) -> tuple[bytes, tuple[int, ...]]:
    return np.ascontiguousarray(v, dtype=np.float64).tobytes(), np.shape(v)


@lru_cache(maxsize=16)
def _sums(
    y: tuple[bytes, tuple[int, ...]],
    zeta: tuple[bytes, tuple[int, ...]],
    omega: tuple[bytes, tuple[int, ...]],
    order: int,
) -> Mat:
    """log W and its derivatives in s and a, zero where y is; none of it is of the mean, whose search asks again.

    W = Σ_j exp(js)/(Γ(j + 1)Γ(aj)): slopes are means of j and of h' = −jψ(aj), and so on.
    """
    response, log_phi, at = (np.frombuffer(raw).reshape(shape) for raw, shape in (y, zeta, omega))
    above, _, log_to_two = _power(Jet({(): at}, 0))
    s, a = _sum_of(response, Jet({(): log_phi}, 0), above, log_to_two, jet.exp(-jet.log(above)))
    shape = np.broadcast_shapes(response.shape, s.f.shape, a.f.shape)
    rows = [np.broadcast_to(v, shape) for v in (response, log_phi, np.exp(log_to_two.f), s.f, a.f)]
    some = rows[0] > 0.0
    inside = [v[some] for v in rows]
    places = [(i, k - i) for k in range(order + 1) for i in range(k + 1)]
    made = np.empty((len(places), inside[0].size))
    for start in range(0, inside[0].size, _AT_ONCE):
        y_of, phi_of, to_two_of, s_of, a_of = (v[start : start + _AT_ONCE] for v in inside)
        for own, j, step in _amounts(np.log(y_of), phi_of, to_two_of):
            surface = _surface(s_of[own], a_of[own], j, step, order)
            made[:, start + np.flatnonzero(own)] = [surface[place] for place in places]
    found = np.zeros((len(places), *shape))
    found[:, some] = made
    found.flags.writeable = False
    return found


def _surface(s: Vec, a: Vec, j: Mat, step: Vec, order: int) -> dict[tuple[int, int], Vec]:
    """log Σ_j exp(js)/(Γ(j + 1)Γ(aj)) and its derivatives up to an order, by how often in s and in a."""
    aj = a * j
    terms = j * s - special.gammaln(j + 1.0) - special.gammaln(aj)
    most = terms.max(axis=0)
    weights = np.exp(terms - most)
    total = weights.sum(axis=0)
    weights /= total
    found = {(0, 0): most + np.log(total * step)}
    if not order:
        return found

    def mean(v: Mat) -> Vec:
        return np.asarray((weights * v).sum(axis=0))

    h = -j * special.digamma(aj)
    of_j, of_h = mean(j), mean(h)
    found |= {(1, 0): of_j, (0, 1): of_h}
    if order < 2:
        return found
    u, v, bend = j - of_j, h - of_h, -(j**2) * special.polygamma(1, aj)
    of_bend = mean(bend)
    found |= {(2, 0): mean(u * u), (1, 1): mean(u * v), (0, 2): mean(v * v) + of_bend}
    if order < 3:
        return found
    third, w = -(j**3) * special.polygamma(2, aj), bend - of_bend
    found |= {
        (3, 0): mean(u**3),
        (2, 1): mean(u * u * v),
        (1, 2): mean(u * v * v) + mean(u * w),
        (0, 3): mean(v**3) + 3.0 * mean(v * w) + mean(third),
    }
    return found
