"""Covariance structures made of standard deviations and a correlation matrix of few parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec

from .fields import Field
from .roots import CorrelationRoot, MarkovChain, Uncorrelated


@dataclass(frozen=True, slots=True)
class Scaled:
    """Standard deviations, one for all or one for each effect, times the factor of a correlation matrix.

    θ = (signed standard deviations or their square roots, angles of the correlations)

    To turn the sign of one of several correlated effects turns its correlations, and may make a matrix that is not of
    the family. Their standard deviations are therefore squares, s = t²: Σ is even in t, and zero no door to elsewhere.
    """

    name: str
    words: str
    root: CorrelationRoot
    equal: bool

    invariant = False
    bends = True
    plural = True

    @property
    def correlated(self) -> bool:
        return not isinstance(self.root, Uncorrelated)

    @property
    def free_scale(self) -> bool:
        return not self.equal

    @property
    def field(self) -> Field | None:
        """What it is over points; its parameter beside a standard deviation is then a range and no correlation."""
        return self.root if isinstance(self.root, Field) else None

    @property
    def alone(self) -> bool:
        """Whether a single level tells its parameters: variances are equal, correlations fade with distance."""
        return self.equal and isinstance(self.root, Field | MarkovChain)

    @property
    def squared(self) -> bool:
        """Whether the parameters of scale are square roots of standard deviations."""
        return self.correlated and not self.equal

    def scales(self, r: int) -> int:
        """Number of standard deviations; the angles stand behind them."""
        return 1 if self.equal else r

    def signed(self, scales: Vec) -> Vec:
        """What their parameters multiply the root of the correlations by."""
        return scales**2 if self.squared else scales

    def sds(self, scales: Vec) -> Vec:
        """Standard deviations of their parameters."""
        return np.abs(self.signed(scales))

    def roots(self, sds: Vec) -> Vec:
        """Parameters of standard deviations."""
        return np.sqrt(sds) if self.squared else np.asarray(sds)

    def times(self, theta: Vec, r: int, factor: float) -> Vec:
        """θ of factor · Λ."""
        k = self.scales(r)
        return np.append((np.sqrt(factor) if self.squared else factor) * theta[:k], theta[k:])

    def size(self, r: int) -> int:
        return self.scales(r) + self.root.count(r)

    def rank(self, r: int) -> int:
        return r

    def factor(self, theta: Vec, r: int) -> Mat:
        k = self.scales(r)
        return np.asarray(_column(self.signed(theta[:k]), r) * self.root.at(theta[k:], r).root)

    def tangent(self, theta: Vec, r: int) -> Cube:
        k = self.scales(r)
        root, slopes = self.root.at(theta[k:], r)
        out = np.empty((self.size(r), r, r))
        if self.equal:
            out[0] = root
        else:
            out[:r] = (np.diag(2.0 * theta[:k]) if self.squared else np.eye(r))[:, :, None] * root
        out[k:] = _column(self.signed(theta[:k]), r) * slopes
        return out

    def pull(self, theta: Vec, r: int, gradient: Mat) -> Vec:
        return np.asarray(np.tensordot(self.tangent(theta, r), gradient, 2))

    def entries(self, r: int) -> tuple[IntVec, IntVec]:  # noqa: ARG002  there are none
        msg = f"the parameters of {self.name} are no entries of a factor"
        raise TypeError(msg)

    def vech(self, r: int) -> tuple[IntVec, IntVec]:
        pairs = [*((k, k) for k in range(self.scales(r))), *self.root.pairs(r)]
        rows, columns = np.array(pairs, dtype=np.intp).T
        return rows, columns

    def scale_slopes(self, root: Mat) -> Cube:
        """∂(a root of Σ)/∂(the entries that determine Σ) (m, r, r), the correlations held: zero for covariances.

        What there is on the boundary, where correlations have no slope and variances have one.
        """
        variances = np.einsum("ij,ij->i", root, root)
        out = np.zeros((self.size(len(root)), *root.shape))
        for k, v in enumerate(variances[: self.scales(len(root))]):
            rows = slice(None) if self.equal else k
            out[k, rows] = root[rows] / (2.0 * v) if v > 0.0 else 0.0
        return out

    def start(self, r: int, sizes: Vec) -> Vec:
        own = np.array([np.sqrt(np.mean(np.square(sizes)))]) if self.equal else np.asarray(sizes, dtype=np.float64)
        return np.concatenate([self.roots(own), self.root.start(r)])

    def of(self, sigma: Mat) -> Vec:
        r = len(sigma)
        sd = np.sqrt(np.diag(sigma))
        own = np.array([np.sqrt(np.mean(np.diag(sigma)))]) if self.equal else sd
        if self.field is not None:
            length = self.length(sigma)
            return np.concatenate([own, self.root.start(r) if np.isnan(length) else self.field.of_range(length, r)])
        pairs, scales = self.root.pairs(r), self.roots(own)
        if not pairs:
            return scales
        i, j = np.array(pairs).T
        size = sd[i] * sd[j]
        rho = np.where(size > 0.0, sigma[i, j] / np.where(size > 0.0, size, 1.0), 0.0)
        angles = self.root.of(rho, r)
        return np.concatenate([scales, np.where(np.isnan(angles), self.root.start(r), angles)])

    def length(self, sigma: Mat) -> float:
        """The range of a covariance matrix of a field; NaN without variance."""
        sd = np.sqrt(np.diag(sigma))
        if self.field is None or not sd.all():
            return np.nan
        return self.field.range_of(sigma / np.outer(sd, sd))

    def elsewhere(self, sigma: Mat, at: Mat, places: Mat) -> tuple[Mat, Vec]:
        """How effects at further places hang on those of Σ (r, r): b = Kb_known + rest, K (m, r), Var(rest) (m,).

        K = CR⁻¹ with the correlations C across (kriging; Stein 1999, §1.2); at a place that is known b is that effect.
        at (r, d), places (m, d): coordinates. NaN where a chain of whole steps does not reach. Of equal variances and
        correlations that fade with distance (`alone`).
        """
        assert isinstance(self.root, Field | MarkovChain)
        r, variance = len(sigma), float(np.mean(np.diag(sigma)))
        gap = places[:, None, :] - at[None]
        apart = np.abs(gap[..., 0]) if gap.shape[-1] == 1 else np.sqrt((gap**2).sum(-1))
        if isinstance(self.root, MarkovChain):
            own = self.root.places or tuple(map(float, range(r)))
            apart = apart * ((own[1] - own[0]) / (at[1, 0] - at[0, 0]))
        angles = self.of(sigma)[self.scales(r) :]
        across, own_root = self.root.across(angles, apart), self.root.at(angles, r).root
        values, vectors = np.linalg.eigh(own_root @ own_root.T)
        there = values > r * np.finfo(np.float64).eps * values[-1]
        weights = (across @ vectors[:, there] / values[there]) @ vectors[:, there].T
        rest = variance * np.maximum(1.0 - (weights * across).sum(1), 0.0)
        rows, columns = np.nonzero(apart == 0.0)
        weights[rows], rest[rows] = 0.0, 0.0
        weights[rows, columns] = 1.0
        return weights, rest

    def reported(self, angles: Vec, r: int) -> float:
        """The first of the correlations that are parameters, at angles, or the range of a field."""
        if self.field is not None:
            return float(np.exp(self.field.log_range(float(angles[0]), r)[0]))
        root, (i, j) = self.root.at(angles, r).root, self.root.pairs(r)[0]
        return float(root[i] @ root[j])

    def natural(self, sd: Vec, correlations: Vec, r: int) -> Vec:
        """θ of the reported standard deviations and correlations, or range; NaN angles where these make no matrix."""
        if self.field is not None:
            return np.append(sd, self.field.of_range(float(correlations[0]), r))
        return np.concatenate([self.roots(sd), self.root.of(correlations, r)])

    def natural_gradient(self, theta: Vec, r: int, gradient: Mat) -> Vec:
        """∂ℓ/∂(standard deviations, correlations or range) at θ from ∂ℓ/∂Λ (r, r); NaN at a limit of the latter."""
        k = self.scales(r)
        out = self.pull(theta, r, gradient)
        if self.squared:
            with np.errstate(all="ignore"):
                out[:k] = out[:k] / (2.0 * theta[:k])
        if self.field is not None:
            x, slope = self.field.log_range(float(theta[k]), r)
            out[k] = out[k] / (slope * np.exp(x)) if np.isfinite(x) and slope > 0.0 else np.nan
            return out
        root, slopes = self.root.at(theta[k:], r)
        if not len(slopes):
            return out
        i, j = np.array(self.root.pairs(r)).T
        half = slopes @ root.T
        jacobian = (half + half.swapaxes(1, 2))[:, i, j].T  # of the correlations in the angles
        with np.errstate(all="ignore"):
            try:
                out[k:] = np.linalg.solve(jacobian.T, out[k:])
            except np.linalg.LinAlgError:
                out[k:] = np.nan
        return out

    def settled(self, theta: Vec, r: int, tolerance: float | Vec) -> tuple[Vec, BoolVec]:
        """θ with variances up to a tolerance at zero and near limits of correlations at them, and marks of what stays.

        Below zero a tolerance leaves all as it is. Correlations of no more than one effect that varies mean nothing.
        """
        k = self.scales(r)
        held = np.zeros(self.size(r), dtype=bool)
        if np.any(np.asarray(tolerance) < 0.0):
            return theta, held
        own = theta.copy()
        most = float(np.max(tolerance))
        own[:k] = np.abs(own[:k])
        held[:k] = self.sds(own[:k]) ** 2 <= most
        own[:k][held[:k]] = 0.0
        largest = float(np.max(self.sds(own[:k]) ** 2, initial=0.0))
        if int((own[:k] > 0.0).sum()) < (1 if self.equal else 2):
            held[k:] = True
            return own, held
        own[k:], held[k:] = self.root.settled(own[k:], r, min(most / largest, 0.1))
        return own, held

    def angles(self, r: int) -> BoolVec:
        """Marks the parameters that are angles."""
        return np.arange(self.size(r)) >= self.scales(r)


def _column(scales: Vec, r: int) -> Mat:
    return np.broadcast_to(scales, (r,))[:, None]
