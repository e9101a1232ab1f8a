"""Correlation matrices of few parameters, which residuals and random effects share.

Each is a function of an unbounded working vector x and of places: positions in an order (ar1, toep, us), times (car1),
coordinates (exp, gau), or nothing but being different (cs). Natural parameters are those that people report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from polars_glmm.typing import Cube, IntVec, Mat, Vec


class Correlation(Protocol):
    """A family of correlation matrices R(x) over m places, in working parameters x (k,).

    `size` is the number of places that a matrix can have at most: the largest group for cs, the number of positions
    for toep and us; the others do not ask.

    kind     what a place is: "order" (whole numbers 0, 1, …), "label" (of any), "time", "coordinates", "any" (none)
    of       what a parameter belongs to: "all", one "lag", or one "pair" of positions
    lengths  natural parameters are lengths in the unit of the places, positive; otherwise they are correlations
    cases    names of the correlations that are cases of this one
    """

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def of(self) -> str: ...
    @property
    def lengths(self) -> bool: ...
    @property
    def cases(self) -> tuple[str, ...]: ...

    def count(self, size: int) -> int:
        """Number of parameters k."""

    def matrix(self, x: Vec, places: Mat, size: int) -> Mat:
        """R (m, m) at places (m, q)."""

    def slopes(self, x: Vec, places: Mat, size: int) -> Cube:
        """∂R/∂x (k, m, m)."""

    def natural(self, x: Vec, size: int) -> Vec:
        """The reported parameters (k,)."""

    def natural_slopes(self, x: Vec, size: int) -> Mat:
        """∂natural/∂x (k, k): the natural parameter first."""

    def working(self, natural: Vec, size: int) -> Vec:
        """x of reported parameters; NaN where these make no correlation matrix."""


@runtime_checkable
class Markov(Correlation, Protocol):
    """Correlations of a process in time, of which `markov` ones remember nothing beyond the place before."""

    @property
    def markov(self) -> bool: ...

    def lag(self, x: Vec, apart: Vec) -> tuple[Vec, Vec]:
        """The correlation of two places that are `apart`, and its derivative in x, each of the shape of `apart`."""


def distances(places: Mat) -> Mat:
    """Euclidean distances between places (m, q), (m, m)."""
    apart = places[:, None, :] - places[None, :, :]
    return np.asarray(np.abs(apart[..., 0]) if apart.shape[-1] == 1 else np.sqrt((apart**2).sum(-1)))


def root(matrix: Mat) -> Mat:
    """The lower triangular L with LL' = R. Raises numpy.linalg.LinAlgError where R is not positive definite."""
    return np.asarray(np.linalg.cholesky(matrix), dtype=np.float64)


def root_slopes(low: Mat, slopes: Cube) -> Cube:
    """∂L/∂x (k, m, m) from ∂R/∂x: L Φ(L⁻¹ ∂R L⁻ᵀ), Φ the lower triangle with half its diagonal (Smith 1995)."""
    left = np.linalg.solve(low, slopes)
    inner = np.tril(np.linalg.solve(low, left.swapaxes(-1, -2)))
    inner[:, np.arange(len(low)), np.arange(len(low))] *= 0.5
    return np.asarray(low @ inner)


@dataclass(frozen=True, slots=True)
class Autoregressive:
    """ar1: ρ^|s − t| over whole numbers s, t; x = atanh ρ."""

    name = "ar1"
    kind = "order"
    of = "all"
    lengths = False
    markov = True
    cases = ("ar1", "car1")

    def count(self, size: int) -> int:  # noqa: ARG002  the same for all sizes
        return 1

    def lag(self, x: Vec, apart: Vec) -> tuple[Vec, Vec]:
        rho = np.tanh(x[0])
        return rho**apart, apart * rho ** np.maximum(apart - 1.0, 0.0) * (1.0 - rho**2)

    def matrix(self, x: Vec, places: Mat, size: int) -> Mat:  # noqa: ARG002
        return self.lag(x, distances(places))[0]

    def slopes(self, x: Vec, places: Mat, size: int) -> Cube:  # noqa: ARG002
        return self.lag(x, distances(places))[1][None]

    def natural(self, x: Vec, size: int) -> Vec:  # noqa: ARG002
        return np.tanh(x)

    def natural_slopes(self, x: Vec, size: int) -> Mat:  # noqa: ARG002
        return np.array([[1.0 - np.tanh(x[0]) ** 2]])

    def working(self, natural: Vec, size: int) -> Vec:  # noqa: ARG002
        return _atanh(natural)


@dataclass(frozen=True, slots=True)
class Decaying:
    """car1 and exp: exp(−d/range), gau: exp(−(d/range)²), over times or coordinates; x = log range.

    power   of the distance: 1 is the Ornstein–Uhlenbeck process in one dimension
    """

    name: str
    kind: str
    power: int = 1
    of = "all"
    lengths = True

    @property
    def cases(self) -> tuple[str, ...]:
        return ("ar1", self.name) if self.markov else (self.name,)

    def count(self, size: int) -> int:  # noqa: ARG002
        return 1

    @property
    def markov(self) -> bool:
        return self.kind == "time" and self.power == 1

    def lag(self, x: Vec, apart: Vec) -> tuple[Vec, Vec]:
        with np.errstate(over="ignore"):
            depth = (apart * np.exp(-x[0])) ** self.power
        r = np.exp(-depth)
        return r, np.where(r > 0.0, self.power * depth * r, 0.0)

    def matrix(self, x: Vec, places: Mat, size: int) -> Mat:  # noqa: ARG002
        return self.lag(x, distances(places))[0]

    def slopes(self, x: Vec, places: Mat, size: int) -> Cube:  # noqa: ARG002
        return self.lag(x, distances(places))[1][None]

    def natural(self, x: Vec, size: int) -> Vec:  # noqa: ARG002
        return np.exp(x)

    def natural_slopes(self, x: Vec, size: int) -> Mat:  # noqa: ARG002
        return np.exp(x)[None]

    def working(self, natural: Vec, size: int) -> Vec:  # noqa: ARG002
        with np.errstate(all="ignore"):
            return np.asarray(np.log(natural))


@dataclass(frozen=True, slots=True)
class Exchangeable:
    """cs: ρ between any two of at most m places, −1/(m − 1) < ρ < 1; x is the logit of its share of that way."""

    name = "cs"
    kind = "any"
    of = "all"
    lengths = False
    cases = ("cs",)

    def count(self, size: int) -> int:  # noqa: ARG002
        return 1

    def matrix(self, x: Vec, places: Mat, size: int) -> Mat:
        m = len(places)
        return np.asarray(np.eye(m) + self.natural(x, size)[0] * (1.0 - np.eye(m)))

    def slopes(self, x: Vec, places: Mat, size: int) -> Cube:
        return np.asarray(self.natural_slopes(x, size)[0, 0] * (1.0 - np.eye(len(places))))[None]

    def natural(self, x: Vec, size: int) -> Vec:
        lowest = _lowest(size)
        return np.asarray(lowest + (1.0 - lowest) / (1.0 + np.exp(-x)))

    def natural_slopes(self, x: Vec, size: int) -> Mat:
        share = 1.0 / (1.0 + np.exp(-x))
        return np.asarray((1.0 - _lowest(size)) * share * (1.0 - share))[None]

    def working(self, natural: Vec, size: int) -> Vec:
        with np.errstate(all="ignore"):
            return np.asarray(np.log((natural - _lowest(size)) / (1.0 - natural)))


def _lowest(size: int) -> float:
    """The correlation of `size` places below which no matrix is positive definite."""
    return -1.0 / max(size - 1, 1)


@dataclass(frozen=True, slots=True)
class Toeplitz:
    """toep: one correlation ρ_d for each lag d = 1 … size − 1; x = atanh of the partial autocorrelations.

    These are free in (−1, 1), and the Durbin–Levinson recursion makes the autocorrelations of them: with a the
    coefficients that predict from lags 1 … d − 1 and v the share of variance they leave,

        ρ_d = Σ_j a_j ρ_(d−j) + π_d v,   a ← (a − π_d a reversed, π_d),   v ← v(1 − π_d²)
    """

    name = "toep"
    kind = "order"
    of = "lag"
    lengths = False
    cases = ("ar1", "car1", "cs", "toep")

    def count(self, size: int) -> int:
        return size - 1

    def matrix(self, x: Vec, places: Mat, size: int) -> Mat:  # noqa: ARG002
        lags = np.rint(distances(places)).astype(np.intp)
        return np.append(1.0, self._levinson(x)[0])[lags]

    def slopes(self, x: Vec, places: Mat, size: int) -> Cube:  # noqa: ARG002
        lags = np.rint(distances(places)).astype(np.intp)
        by = np.vstack([np.zeros(len(x)), self._levinson(x)[1]])
        return np.moveaxis(by[lags], -1, 0)

    def natural(self, x: Vec, size: int) -> Vec:  # noqa: ARG002
        return self._levinson(x)[0]

    def natural_slopes(self, x: Vec, size: int) -> Mat:  # noqa: ARG002
        return self._levinson(x)[1]

    def working(self, natural: Vec, size: int) -> Vec:
        with np.errstate(all="ignore"):
            partial, a, v = np.full(size - 1, np.nan), np.empty(0), 1.0
            for d in range(size - 1):
                partial[d] = pi = (natural[d] - a @ natural[:d][::-1]) / v
                a, v = np.append(a - pi * a[::-1], pi), v * (1.0 - pi**2)
        return _atanh(partial)

    @staticmethod
    def _levinson(x: Vec) -> tuple[Vec, Mat]:
        """Autocorrelations (k,) and their derivatives (k, k), carried along."""
        k = len(x)
        partial = np.tanh(x)
        d_partial = np.diag(1.0 - partial**2)
        rho, d_rho = np.empty(k), np.zeros((k, k))
        a, d_a, v, d_v = np.empty(0), np.empty((0, k)), 1.0, np.zeros(k)
        for d in range(k):
            pi, d_pi = partial[d], d_partial[d]
            back, d_back = rho[:d][::-1], d_rho[:d][::-1]
            rho[d] = a @ back + pi * v
            d_rho[d] = a @ d_back + back @ d_a + d_pi * v + pi * d_v
            a, d_a = (
                np.append(a - pi * a[::-1], pi),
                np.vstack([d_a - pi * d_a[::-1] - a[::-1, None] * d_pi, d_pi]),
            )
            v, d_v = v * (1.0 - pi**2), d_v * (1.0 - pi**2) - 2.0 * pi * v * d_pi
        return rho, d_rho


@dataclass(frozen=True, slots=True)
class Free:
    """us: any correlation matrix over `size` positions; x = atanh of the partial correlations z_ij (i > j) by rows.

    Row i of its root is z_ij ∏_(l<j) √(1 − z_il²), the last entry without z (Lewandowski, Kurowicka & Joe 2009).
    """

    name = "us"
    kind = "label"
    of = "pair"
    lengths = False
    cases = ("ar1", "car1", "cs", "toep", "us")

    def count(self, size: int) -> int:
        return size * (size - 1) // 2

    def matrix(self, x: Vec, places: Mat, size: int) -> Mat:
        at = _positions(places)
        low = self._root(x, size)[0]
        return np.asarray(low @ low.T)[np.ix_(at, at)]

    def slopes(self, x: Vec, places: Mat, size: int) -> Cube:
        at = _positions(places)
        return self._slopes(x, size)[:, at[:, None], at]

    def natural(self, x: Vec, size: int) -> Vec:
        low = self._root(x, size)[0]
        return np.asarray(low @ low.T)[np.tril_indices(size, -1)]

    def natural_slopes(self, x: Vec, size: int) -> Mat:
        rows, columns = np.tril_indices(size, -1)
        return self._slopes(x, size)[:, rows, columns].T

    def working(self, natural: Vec, size: int) -> Vec:
        matrix = np.eye(size)
        rows, columns = np.tril_indices(size, -1)
        matrix[rows, columns] = matrix[columns, rows] = natural
        try:
            low = root(matrix)
        except np.linalg.LinAlgError:
            return np.full(self.count(size), np.nan)
        left = 1.0 - np.cumsum(low**2, axis=1) + low**2  # of each row's length, before the entry
        return _atanh((low / np.sqrt(np.maximum(left, 1e-300)))[rows, columns])

    def _slopes(self, x: Vec, size: int) -> Cube:
        low, slopes = self._root(x, size)
        half = slopes @ low.T
        return np.asarray(half + half.swapaxes(1, 2))

    @staticmethod
    def _root(x: Vec, size: int) -> tuple[Mat, Cube]:
        """L (m, m) and ∂L/∂x (k, m, m)."""
        low, slopes = np.eye(size), np.zeros((len(x), size, size))
        at = 0
        for i in range(1, size):
            z = np.tanh(x[at : at + i])
            before = np.concatenate([[1.0], np.cumprod(np.sqrt(1.0 - z**2))])  # ∏ over l < j
            low[i, : i + 1] = np.append(z, 1.0) * before
            own = slopes[at : at + i, i]
            for k in range(i):
                own[k, k] = (1.0 - z[k] ** 2) * before[k]
                own[k, k + 1 : i + 1] = -z[k] * low[i, k + 1 : i + 1]
            at += i
        return low, slopes


def _positions(places: Mat) -> IntVec:
    return np.rint(places[:, 0]).astype(np.intp)


def _atanh(values: Vec) -> Vec:
    with np.errstate(all="ignore"):
        return np.asarray(np.arctanh(values))


CORRELATIONS: dict[str, Correlation] = {
    one.name: one
    for one in (
        Autoregressive(), Decaying("car1", "time"), Exchangeable(), Toeplitz(), Free(),
        Decaying("exp", "coordinates"), Decaying("gau", "coordinates", 2),
    )
}  # fmt: skip
"""By the names that formulas use."""
