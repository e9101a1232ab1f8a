"""Levels that know each other: effects u ~ N(0, A ⊗ I), H = Λ'Z'WZΛ + A⁻¹ ⊗ I of all factors factorised densely.

Cells, sums and gradients of a likelihood are as for independent levels; only the identity in H, and the square of u in
the joint density, become A⁻¹ (Henderson 1976). log|A| goes with log|H|, so that nothing else needs to know of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack, solve_triangular

from polars_glmm.linalg.crossed_lead import CrossedFactorised, CrossedLead
from polars_glmm.linalg.pattern import Blocks, Pattern
from polars_glmm.linalg.remainder import COSTLY
from polars_glmm.typing import Cube, IntVec, Mat, Vec

BETWEEN_KEPT = 10_000_000
"""Entries of an inverse between all levels of a factor up to which it is given out."""
_ALIKE = 1e-12
"""Share of the variances below which covariances of levels are none."""


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """How G levels know each other: A (G, G), its lower Cholesky factor, A⁻¹, and log|A|."""

    covariance: Mat
    low: Mat
    precision: Mat
    log_determinant: float

    @classmethod
    def of(cls, covariance: Mat) -> Prior | None:
        """The prior of a covariance matrix; None where that is not positive definite."""
        low, failed = lapack.dpotrf(covariance, lower=1, clean=1)
        if failed or not np.isfinite(low).all():
            return None
        precision = _mirrored(lapack.dpotri(low, lower=1)[0])
        return cls(covariance, low, precision, 2.0 * float(np.log(np.diag(low)).sum()))

    @property
    def variances(self) -> Vec:
        """The diagonal of A, (G,)."""
        return np.diag(self.covariance)

    @property
    def size(self) -> float:
        """Root mean square of the levels' standard deviations."""
        return float(np.sqrt(self.variances.mean()))

    def among(self, levels: IntVec) -> Prior | None:
        """The prior of some of the levels, in that order, the others integrated out."""
        return Prior.of(self.covariance[np.ix_(levels, levels)])

    def in_units(self, size: float) -> Prior:
        """The same of effects divided by a number."""
        square = size**2
        log_determinant = self.log_determinant - len(self.low) * float(np.log(square))
        return Prior(self.covariance / square, self.low / size, self.precision * square, log_determinant)

    def inverse(self) -> Prior | None:
        """The prior whose covariance matrix is the precision of this one."""
        return Prior.of(self.precision)

    def independent(self, levels: IntVec) -> bool:
        """Whether some of the levels are independent with one variance, so that nothing is known of them."""
        own = self.covariance[np.ix_(levels, levels)]
        scale = float(np.diag(own).mean())
        return bool(np.abs(own - scale * np.eye(len(own))).max(initial=0.0) <= _ALIKE * scale)


@dataclass(frozen=True, eq=False)
class CoupledLevels:
    """The elimination of factors of which some have a prior of their own, None for independent levels."""

    pattern: Pattern
    priors: tuple[Prior | None, ...]

    @property
    def costly(self) -> bool:
        return self.order > COSTLY

    @property
    def starts(self) -> list[int]:
        """Where each factor begins in the dense matrix; effect by effect, level by level."""
        sizes = [r * g for r, g in zip(self.pattern.sizes, self.pattern.n_levels, strict=True)]
        return [0, *np.cumsum(sizes).tolist()]

    @property
    def order(self) -> int:
        return self.starts[-1]

    @property
    def dense_entries(self) -> int:
        return self.order**2

    def weighted(self, u: Sequence[Cube]) -> list[Cube]:
        """A⁻¹u per factor (r_f, …, G_f): what u itself is of independent levels."""
        return [v if prior is None else v @ prior.precision for v, prior in zip(u, self.priors, strict=True)]

    def factorise(self, h: Blocks) -> CoupledFactorised | None:
        """The factorised H, given as that of independent levels; None where it is not positive definite."""
        starts, levels, sizes = self.starts, self.pattern.n_levels, self.pattern.sizes
        whole = np.zeros((starts[-1],) * 2)
        log_prior = 0.0
        for f, (block, prior) in enumerate(zip(h.diagonal, self.priors, strict=True)):
            g = levels[f]
            every = np.arange(g)
            for i in range(sizes[f]):
                for j in range(sizes[f]):
                    whole[starts[f] + i * g + every, starts[f] + j * g + every] = block[i, j]
                if prior is not None:
                    own = slice(starts[f] + i * g, starts[f] + (i + 1) * g)
                    whole[own, own] += prior.precision
                    whole[own, own][every, every] -= 1.0
                    log_prior += prior.log_determinant
        for (f, k), block in h.cross.items():
            pair = self.pattern.pairs[f, k]
            for i in range(sizes[f]):
                for j in range(sizes[k]):
                    rows, columns = starts[f] + i * levels[f] + pair.left, starts[k] + j * levels[k] + pair.right
                    whole[rows, columns] = block[i, j]
                    whole[columns, rows] = block[i, j]
        low, failed = lapack.dpotrf(whole, lower=1, clean=1, overwrite_a=1)
        if failed or not np.isfinite(low[-1, -1]):
            return None
        return CoupledFactorised(self, low, log_prior + 2.0 * float(np.log(np.diag(low)).sum()))


@dataclass(frozen=True, slots=True, eq=False)
class CoupledFactorised:
    """H = LL' of all levels together; log_determinant is log|H| + log|A|."""

    symbolic: CoupledLevels
    low: Mat
    log_determinant: float

    def solve(self, b: list[Cube]) -> list[Cube]:
        """H⁻¹ b for one (r_f, …, G_f) array per factor."""
        if not all(map(np.size, b)):  # of no column there is no solution
            return list(b)
        lead = [one.shape[1:-1] for one in b]
        flat = [np.moveaxis(one.reshape(len(one), -1, one.shape[-1]), 1, 2).reshape(-1, _width(one)) for one in b]
        x = lapack.dpotrs(self.low, np.concatenate(flat), lower=1)[0]
        starts, levels = self.symbolic.starts, self.symbolic.pattern.n_levels
        parts = [x[a:z].reshape(-1, g, x.shape[1]) for a, z, g in zip(starts[:-1], starts[1:], levels, strict=True)]
        return [
            np.ascontiguousarray(np.moveaxis(part, 2, 1)).reshape(len(part), *shape, part.shape[1])
            for part, shape in zip(parts, lead, strict=True)
        ]

    def inverse(self) -> Blocks:
        """H⁻¹ on the pattern of rows: blocks of single levels, and of levels of two factors that meet."""
        whole = _mirrored(lapack.dpotri(self.low, lower=1)[0])
        starts, pattern = self.symbolic.starts, self.symbolic.pattern
        sizes = zip(starts[:-1], starts[1:], pattern.sizes, pattern.n_levels, strict=True)
        diagonal = [np.einsum("igjg->ijg", whole[a:z, a:z].reshape(r, g, r, g)).copy() for a, z, r, g in sizes]
        cross = {}
        for (f, k), pair in pattern.pairs.items():
            own = whole[starts[f] : starts[f + 1], starts[k] : starts[k + 1]]
            own = own.reshape(pattern.sizes[f], pattern.n_levels[f], pattern.sizes[k], pattern.n_levels[k])
            cross[f, k] = np.moveaxis(own[:, pair.left, :, pair.right], 0, 2)
        return Blocks(diagonal, cross)

    def inverse_diagonal(self) -> list[Cube]:
        """The blocks of H⁻¹ over single levels."""
        return self.inverse().diagonal

    def between(self, f: int) -> Cube:
        """H⁻¹ between all levels of a factor, (r, G, r, G)."""
        own, pattern = slice(*self.symbolic.starts[f : f + 2]), self.symbolic.pattern
        columns = np.zeros((self.symbolic.order, own.stop - own.start), order="F")
        columns[own] = np.eye(own.stop - own.start)
        found = lapack.dpotrs(self.low, columns, lower=1)[0][own]
        return np.asarray(found.reshape((pattern.sizes[f], pattern.n_levels[f]) * 2))


def _mirrored(low: Mat) -> Mat:
    """A symmetric matrix of its lower triangle."""
    return np.tril(low) + np.tril(low, -1).T


def _width(b: Cube) -> int:
    return int(np.prod(b.shape[1:-1], dtype=np.intp))


def prior_times(solver: object, u: Sequence[Cube]) -> list[Cube]:
    """Prior precision times u per factor, given the elimination: u itself where levels are independent."""
    return solver.weighted(u) if isinstance(solver, CoupledLevels) else list(u)


def between_levels(found: object) -> list[Cube]:
    """H⁻¹ between all levels of factors of which rows have several, (r_f, G_f, r_f, G_f); of others nothing.

    Nor of those that have so many that it is not to be kept.
    """
    if not isinstance(found, CoupledFactorised | CrossedFactorised):
        return []
    pattern = found.symbolic.pattern
    asked = [
        sets is not None and (r * g) ** 2 <= BETWEEN_KEPT
        for sets, r, g in zip(pattern.sets, pattern.sizes, pattern.n_levels, strict=False)
    ]
    if not any(asked):
        return []
    return [found.between(f) if wanted else np.empty((0,) * 4) for f, wanted in enumerate(asked)]


def coupled(pattern: Pattern, priors: tuple[Prior | None, ...]) -> CoupledLevels | CrossedLead:
    """The elimination of levels that know each other, or share rows: of a leading factor whose levels do neither first.

    That is where it has the most levels, and no other has a prior.
    """
    alone = len(priors) > 1 and not any(priors) and pattern.sets[0] is None
    return CrossedLead(pattern) if alone else CoupledLevels(pattern, priors)


def level_by_level(solver: object, n_factors: int) -> bool:
    """Whether nothing couples the levels, so that each has a joint density of its own."""
    return n_factors == 1 and not isinstance(solver, CoupledLevels)


def prior_noise(solver: object, z: Sequence[Cube]) -> list[Cube]:
    """Standard normal numbers (r_f, …, G_f) per factor with the prior precision for their covariance: A⁻¹ = L⁻ᵀL⁻¹."""
    if not isinstance(solver, CoupledLevels):
        return list(z)
    return [one if p is None else _by_precision(p, one) for one, p in zip(z, solver.priors, strict=True)]


def _by_precision(prior: Prior, z: Cube) -> Cube:
    flat = solve_triangular(prior.low, z.reshape(-1, z.shape[-1]).T, lower=True, trans="T")
    return np.asarray(flat.T.reshape(z.shape))


def coloured(prior: Prior | None, z: Cube) -> Cube:
    """Standard normal numbers (…, G) as levels of a prior have them: z L' with A = LL'."""
    return z if prior is None else np.asarray(z @ prior.low.T)
